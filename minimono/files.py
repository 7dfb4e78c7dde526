"""Files that anybody may have made: regular ones only, read within bounds, one kind of error.

    RegularFile    a file, opened to be read: no pipe that nobody fills, no device without an end
    check_regular  the same question of what is open already
    read           all of a file, if it is no larger than what it is read as can be
    parse_json     a JSON text, if it says each thing once and is not nested beyond reason

Whatever minimono loads comes through here. Each takes a `name`, "function: what", for its errors,
as the functions of `checks.py` do.
"""

from __future__ import annotations

import io
import json
import os
import stat
from collections import Counter
from typing import Any

PIECE = 2**24  # bytes that are read at once
DEEPEST = 64  # levels of a JSON text

_KINDS = {
    stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFDIR: "a folder",
    stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
}


class FileError(ValueError):
    """A file is not what it is read as: the message names it and says why."""


class RegularFile(io.FileIO):
    """A regular file, opened to be read; `size` is its length in bytes when it was opened.

    Nothing waits and nothing else is opened, whatever the path leads to, and whatever takes its
    place meanwhile. `read` returns at most `PIECE` bytes, however many a header makes a library ask
    for: `zipfile` reads the list of members in one piece, as long as the file says that it is.

    Raises FileNotFoundError, PermissionError, and FileError for whatever else is wrong.
    """

    def __init__(self, path: str | os.PathLike[str], name: str) -> None:
        path = os.fspath(path)
        try:
            check_regular(os.stat(path), name)  # first: to open a device may do something already
            super().__init__(path, "r", opener=_without_waiting)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise FileNotFoundError(f"{name} does not exist") from error
        except PermissionError as error:
            raise PermissionError(f"{name} may not be read: {error.strerror}") from error
        except OSError as error:
            raise FileError(f"{name} cannot be read: {error.strerror}") from error
        except ValueError as error:
            if isinstance(error, FileError):
                raise
            raise FileError(f"{name} cannot be read: {error}") from error  # a zero in its path
        status = os.fstat(self.fileno())
        try:
            check_regular(status, name)
        except FileError:
            self.close()
            raise
        self.size = status.st_size

    def read(self, size: int | None = -1) -> bytes:
        """Return the next bytes, at most `size`: none at the end that the file had when opened."""
        left = max(0, self.size - self.tell())
        wanted = left if size is None or size < 0 else size
        return super().read(min(wanted, left, PIECE)) or b""


def check_regular(status: os.stat_result, name: str) -> None:
    """Raise FileError for what is no regular file, by its `os.stat` or `os.fstat`."""
    kind = stat.S_IFMT(status.st_mode)
    if kind != stat.S_IFREG:
        raise FileError(f"{name} is {_KINDS.get(kind, 'something else')}, expected a regular file")


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # Windows has no pipes with a path


def read(path: str | os.PathLike[str], name: str, *, most: int) -> bytes:
    """Return the bytes of a regular file, if there are at most `most`.

    >>> read(".", "load: the vectors", most=100)
    Traceback (most recent call last):
    minimono.files.FileError: load: the vectors is a folder, expected a regular file
    """
    with RegularFile(path, name) as file:
        if file.size > most:
            raise FileError(f"{name} has {file.size} bytes, expected at most {most}")
        try:
            return b"".join(iter(file.read, b""))
        except OSError as error:
            raise FileError(f"{name} cannot be read: {error.strerror}") from error


def parse_json(text: bytes, name: str) -> Any:
    """Return what a JSON text in UTF-8 holds; NaN and infinity may be in it, as Python writes them.

    Raises FileError for what is not JSON, for an object with the same key twice (of which a reader
    would see one), and for one nested more than 64 deep.

    >>> parse_json(b'{"lr": 0.1, "lr": 1}', "load: config")
    Traceback (most recent call last):
    minimono.files.FileError: load: config is not JSON: the key 'lr' is there twice
    """
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=_with_each_key_once)
    except (ValueError, RecursionError) as error:
        raise FileError(f"{name} is not JSON: {error}") from error
    level: list[Any] = [[value]]
    depth = 0
    while level:
        if depth > DEEPEST:  # the outermost is the list around it
            raise FileError(f"{name} is JSON nested more than {DEEPEST} deep")
        lists = (x.values() if isinstance(x, dict) else x for x in level)
        level = [x for inner in lists for x in inner if isinstance(x, dict | list)]
        depth += 1
    return value


def _with_each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        often = Counter(key for key, _ in pairs)
        twice = next(key for key in often if often[key] > 1)
        raise ValueError(f"the key {twice[:60]!r} is there twice")
    return found
