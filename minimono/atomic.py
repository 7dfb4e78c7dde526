"""Files that are replaced as a whole: a kill at any moment leaves the old one or the new one."""

from __future__ import annotations

import glob
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

AN_HOUR = 3600.0  # nobody writes that long without a sign


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file to be written under another name; at the block's end it gets its own.

    If the block raises, the old file stays as it was, and nothing else is left. A link stays one:
    what it points to is replaced. The new file may be read and written by whoever might the old
    one. What a killed process left unfinished, an hour or longer ago, goes.

    Raises OSError if that is not possible, also for what is no regular file: a folder, a device.
    """
    final = Path(os.path.realpath(path))
    if final.exists() and not final.is_file():
        raise OSError(f"{final} is not a regular file")
    remove_unfinished(final, older_than=AN_HOUR)
    # In the same folder, since a rename is atomic only within a file system.
    unfinished = final.with_name(f"{final.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with open(unfinished, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileNotFoundError):  # there is no old one
            shutil.copymode(final, unfinished)
        os.replace(unfinished, final)
    finally:
        unfinished.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Replace a file by a text, in UTF-8."""
    with replacing(path) as file:
        file.write(text.encode())


def remove_unfinished(path: str | os.PathLike[str], *, older_than: float) -> None:
    """Remove what a kill left beside a file, if nothing was written to it for so many seconds."""
    final = Path(os.path.realpath(path))
    for left in final.parent.glob(f"{glob.escape(final.name)}.{'[0-9a-f]' * 8}.tmp"):
        with suppress(OSError):  # another process was faster, or it is not ours to remove
            if time.time() - left.stat().st_mtime >= older_than:
                left.unlink()
