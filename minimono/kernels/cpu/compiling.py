"""How Numba compiles kernels, and where their machine code is kept.

Compiling takes seconds, so the code is kept on disk, in the first of these that can be had:

    MINIMONO_CACHE_DIR, or else NUMBA_CACHE_DIR, where one is set; then no other is tried
    __pycache__ beside the kernels
    the user's folder for such things, on Linux ~/.cache/minimono

and else not at all, with a line on stderr. There it lies in a folder named after all that the code
depends on: the sources of all kernels, Python, NumPy, Numba, LLVM, and the user. So nothing stale
is ever loaded, and two versions side by side do not meet. Loading is unpickling, which runs
whatever a file says: the folder has to be ours, and nobody else may write to it.

Each compiled kernel is a file: its checksum, then the code. What is damaged is compiled again.
(Numba's own cache takes a kernel for unchanged if only the file below it has changed, breaks off
where it can write nowhere, and where its index is damaged.)
"""

from __future__ import annotations

import hashlib
import os
import pickle
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np
from numba import njit
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps
from numba.misc.appdirs import AppDirs

OURS = "MINIMONO_CACHE_DIR"
CHECKSUM = hashlib.sha256().digest_size


def compiled(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """Compile at the first call for each dtype, and keep the machine code on disk.

    The function as it was written is `kernel.py_func`.
    """
    running = inlined(kernel)
    if not is_off():
        running._cache = OnDisk(kernel)  # type: ignore[attr-defined]
    return running


def is_off() -> bool:
    """Return whether kernels stay plain Python (NUMBA_DISABLE_JIT=1)."""
    return bool(numba.config.DISABLE_JIT)


def inlined(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """Compile into each kernel that calls the function.

    Division by zero gives inf or nan, as in NumPy; other threads go on meanwhile (`nogil`). There
    is no entry for C, which nobody would use.
    """
    running: Callable[..., Any] = njit(
        error_model="numpy", nogil=True, no_cfunc_wrapper=True, **options
    )(function)
    return running


class OnDisk:
    """The machine code of one kernel, a file for each signature: what Numba asks of a cache."""

    def __init__(self, kernel: Callable[..., Any]):
        self.kernel = kernel

    @property
    def cache_path(self) -> Path | None:
        return folder()

    def load_overload(self, signature: Any, context: Any) -> Any:
        """Return the compiled function, or None."""
        file = self._file(signature, context.codegen())
        try:
            stored = b"" if file is None else file.read_bytes()
        except OSError:
            return None
        code = stored[CHECKSUM:]
        if hashlib.sha256(code).digest() != stored[:CHECKSUM]:
            return None
        context.refresh()
        return CompileResult._rebuild(context, *pickle.loads(code))

    def save_overload(self, signature: Any, result: Any) -> None:
        """Write the file whole or not at all, whoever else writes it at the same time."""
        file = self._file(signature, result.library.codegen)
        if file is None:
            return
        code = dumps(result._reduce())
        try:
            handle, temporary = tempfile.mkstemp(dir=file.parent)
            try:
                with open(handle, "wb") as open_file:
                    open_file.write(hashlib.sha256(code).digest() + code)
                os.replace(temporary, file)
            except BaseException:
                os.unlink(temporary)
                raise
        except OSError as error:
            _say_once(f"{file.parent}: {error.strerror}")

    def flush(self) -> None:
        """Do nothing: what a file holds does not go out of date."""

    def _file(self, signature: Any, codegen: Any) -> Path | None:
        home = folder()
        if home is None:
            return None
        kernel = self.kernel
        own = Path(kernel.__code__.co_filename).read_bytes()
        parts = [own, kernel.__qualname__, kernel.__code__.co_firstlineno]
        parts += [str(signature), codegen.magic_tuple()]  # the machine: its name and features
        return home / f"{kernel.__name__}-{_digest(*parts)}"


@cache
def folder() -> Path | None:
    """Return where machine code is kept, if anywhere."""
    chosen = os.environ.get(OURS) or numba.config.CACHE_DIR
    if chosen:
        parents = [Path(chosen).absolute()]
    else:
        users = AppDirs("minimono", appauthor=False).user_cache_dir
        parents = [Path(__file__).parent / "__pycache__", Path(users)]
    sources = [file.read_bytes() for file in sorted(Path(__file__).parent.glob("*.py"))]
    if not sources:  # in an archive, or without sources: nothing would tell that they changed
        return None
    user = os.getuid() if hasattr(os, "getuid") else None
    versions = sys.version, np.__version__, numba.__version__, llvmlite.__version__
    settings = numba.config.OPT, numba.config.BOUNDSCHECK
    name = f"kernels-{_digest(*sources, versions, settings, user)}"
    refused = []
    for parent in parents:
        try:
            return _our_own(parent / name)
        except OSError as error:
            refused.append(f"{parent}: {error.strerror}")
    _say_once("; ".join(refused))
    return None


def _our_own(home: Path) -> Path:
    """Return the folder, made if need be; OSError if others may write to it, or we may not."""
    if not home.is_absolute():
        raise FileNotFoundError(0, "not a full path")  # "~" of a user without a home, say
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = home.lstat()
    if hasattr(os, "getuid") and (found.st_uid != os.getuid() or found.st_mode & 0o022):
        raise PermissionError(0, "others may write there")
    tempfile.TemporaryFile(dir=home).close()
    return home


@cache
def _say_once(why: str) -> None:
    print(
        f"minimono: compiled kernels are not kept, and are compiled anew in the next process "
        f"({why}). To keep them, set {OURS} to a folder of your own.", file=sys.stderr,
    )


def _digest(*parts: Any) -> str:
    digest = hashlib.sha256()
    for part in parts:
        part = part if isinstance(part, bytes) else repr(part).encode()
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()[:20]
