"""A file of records, a line of JSON each, that one process at a time appends to.

The lock on it is the operating system's, which takes it away when the process ends, however it
ends: a crash leaves none behind.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, BinaryIO, Self

from minimono import files

try:
    import fcntl
except ImportError:  # not a Unix
    fcntl = None  # type: ignore[assignment]

Json = dict[str, Any]

END_OF_THE_LOCK = 2**31 - 2  # Windows locks bytes: this one, where no record comes


Once = Callable[[str, Callable[[], Json]], Json]  # a result by its name, made or known already


def anew(name: str, make: Callable[[], Json]) -> Json:
    """Make a result: the `Once` that knows none."""
    return make()


class TakenError(ValueError):
    """There is another run's work, or another process is at work."""


class Records:
    """The file at a path, opened and locked; it is made if it is not there.

    Raises TakenError if another process has it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = _opened(path)
        try:
            _lock(self._file)
        except BaseException as error:
            self._file.close()
            if not isinstance(error, BlockingIOError):
                raise
            raise TakenError(
                f"{path.parent}: another process is at work on the run in this folder"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        with suppress(OSError) if error is not None else nullcontext():  # the first one is told
            self._file.close()

    @property
    def size(self) -> int:
        """How many bytes there are."""
        return self._file.seek(0, os.SEEK_END)

    def append(self, record: Json, *, allow_nan: bool = False) -> None:
        """Write a record behind the others."""
        self._file.write(json.dumps(record, allow_nan=allow_nan).encode() + b"\n")

    def flush(self) -> None:
        """Give what was appended to the operating system, so that a kill does not lose it."""
        self._file.flush()

    def sync(self) -> int:
        """Have all on the disk; return how many bytes that is.

        Raises FileNotFoundError if others would not find there what is written here.
        """
        self._file.flush()
        if not self.path.exists() or not os.path.samestat(
            os.fstat(self._file.fileno()), self.path.stat()
        ):
            raise FileNotFoundError(
                errno.ENOENT, "removed while the run was at work", str(self.path)
            )
        os.fsync(self._file.fileno())
        return self.size

    def read(self, size: int, good: Callable[[Json], object]) -> list[tuple[Json, int]]:
        """Return the records of the first bytes, and where each ends, up to the first damaged one.

        good: whether a record is as it should be; it may raise what odd records raise.
        """
        size = min(size, self.size)  # a state may claim what it likes
        self._file.seek(0)
        kept, end = [], 0
        for line in self._file.read(size).splitlines(keepends=True):
            record = _parsed(line, good)
            if record is None:
                break
            end += len(line)
            kept.append((record, end))
        return kept

    def cut(self, size: int) -> None:
        """Keep the first bytes only."""
        self._file.truncate(size)


class Results(Records):
    """Results by name, each recorded when it is there: what a killed process made is not lost.

    of: what they depend on, which must be the same to go on with them. Without `resume` there must
    be none of an interrupted process, unless `force` gives them up.
    """

    def __init__(self, path: Path, *, of: Json, resume: bool, force: bool) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        super().__init__(path)
        try:
            found = self.read(self.size, self._is_result)
            kept = [record for record, _ in found]
            if not resume and kept[1:] and not force:
                raise TakenError(
                    f"{path.parent} holds {len(kept) - 1} results of an interrupted run; "
                    "--resume goes on with it, --force begins anew"
                )
            if resume and [record["result"] for record in kept[:1]] != [of]:
                raise ValueError(f"resume: {path.parent} holds no interrupted run with these flags")
            self.cut(found[-1][1] if resume else 0)  # without what is damaged
            if not resume:
                self._append("of", of, 0.0)
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        self.known: dict[str, Json] = {}
        if resume:
            self.known = {r["name"]: r["result"] for r in kept[1:]}
        self.seconds = sum(r["seconds"] for r in kept) if resume else 0.0  # for the known ones

    @staticmethod
    def _is_result(record: Json) -> bool:
        return isinstance(record["result"], dict) and record["seconds"] >= 0.0 and "name" in record

    def once(self, name: str, make: Callable[[], Json]) -> Json:
        """Return a result: the known one, or a new one, which is recorded."""
        if name not in self.known:
            began = time.monotonic()
            self.known[name] = make()
            self._append(name, self.known[name], time.monotonic() - began)
        return self.known[name]

    def _append(self, name: str, result: Json, seconds: float) -> None:
        self.append({"name": name, "result": result, "seconds": seconds}, allow_nan=True)
        self.flush()


def _opened(path: Path) -> BinaryIO:
    """Open a file of records, which is made if it is not there; FileError for a pipe, a device."""
    with suppress(FileNotFoundError):
        files.check_regular(path.stat(), str(path))
    file = open(path, "a+b")
    try:
        files.check_regular(os.fstat(file.fileno()), str(path))  # what it was may be gone
    except files.FileError:
        file.close()
        raise
    return file


def _parsed(line: bytes, good: Callable[[Json], object]) -> Json | None:
    """Return a line's record, or None if it is damaged."""
    try:
        record: Json = files.parse_json(line, "a record")
        return record if line.endswith(b"\n") and good(record) else None
    except (ValueError, TypeError, KeyError):
        return None


def _lock(file: BinaryIO) -> None:
    """Lock a file until it is closed, or the process ends; BlockingIOError if another has it.

    Some file systems of networks know no locks: then nobody is kept out.
    """
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            _lock_on_windows(file)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise


def _lock_on_windows(file: BinaryIO) -> None:
    import msvcrt

    file.seek(END_OF_THE_LOCK)
    try:
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    except PermissionError as error:
        raise BlockingIOError(errno.EACCES, "locked") from error
    finally:
        file.seek(0)
