"""What is printed reaches whoever reads it, in any encoding, and never ends the work.

A run writes its results to files. That nobody reads what it says meanwhile (`| head -1`, a closed
terminal, stderr that was closed before it began) is no reason to end it.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
from typing import Any, TextIO

NOBODY_READS = (errno.EPIPE, errno.EIO)  # a pipe without a reader, a terminal that is gone
PLAINER = "minimono.plainer"  # what stdout does with what its encoding lacks


def prepare() -> None:
    """Make the process's own stdout and stderr such that printing cannot fail for want of a reader.

    Call it at the start of a command. Streams that somebody put in their place stay.
    """
    _occupy_closed_descriptors()
    codecs.register_error(PLAINER, _plainer)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # it was closed when the process began
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
        elif stream is getattr(sys, f"__{name}__") and isinstance(stream, io.TextIOWrapper):
            setattr(sys, name, _patient(stream))


def columns() -> int:
    """Return how wide the terminal is to which stderr goes, 80 where that is not known."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def progress(total: int, what: str, unit: str) -> Any:
    """Return a progress bar on stderr, which is drawn only on a terminal."""
    from tqdm import tqdm  # here, because `--help` should not wait for it

    return tqdm(
        total=total, desc=what, unit=unit, file=sys.stderr, disable=not sys.stderr.isatty(),
        ncols=columns(),  # tqdm draws nothing where a terminal says that it has none
    )


def _occupy_closed_descriptors() -> None:
    """Else the next file that is opened would be the one that C libraries print errors to."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)


def _patient(stream: io.TextIOWrapper) -> TextIO:
    """Return a stream to the same place that goes on when nobody reads."""
    errors = PLAINER if stream.errors in ("strict", "surrogateescape") else stream.errors
    if type(getattr(stream.buffer, "raw", stream.buffer)) is not io.FileIO:  # Windows' console
        stream.reconfigure(errors=errors)
        return stream
    raw = _Patient(stream.fileno(), "w", closefd=False)
    return io.TextIOWrapper(
        raw if stream.write_through else io.BufferedWriter(raw),
        encoding=stream.encoding, errors=errors, line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


class _Patient(io.FileIO):
    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in NOBODY_READS:
                raise
            return memoryview(data).nbytes


def _plainer(error: UnicodeError) -> tuple[str | bytes, int]:
    """Write ± as +-, and what else cannot be encoded as Python would write it in a text."""
    if isinstance(error, UnicodeEncodeError) and error.object[error.start] == "±":
        return "+-", error.start + 1
    return codecs.backslashreplace_errors(error)
