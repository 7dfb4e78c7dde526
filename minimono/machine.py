"""What minimono uses of the machine: threads, NumPy's BLAS, and memory that was freed.

Importing sets nothing. The first kernel that runs calls `prepare`, once; `minimono info` calls it
too, and tells what holds and why.

**Threads.** BLAS's threads wait for work, and for each other, by running in circles. Beside a
second pool, or on a machine that does other things too, they wait longest for the one that is not
running. Kernels cut large arrays, and large matrix products, into parts for Python's own threads,
which wait asleep (`kernels/parallel.py`). So by default kernels have all cores, and BLAS runs in
the thread that calls it. docs/performance.md has the measurements.

    by default                        kernels: a thread for each core; BLAS: 1
    MINIMONO_NUM_THREADS=n            kernels: n;                      BLAS: 1
    set_num_threads(n)                the same, later
    OPENBLAS_NUM_THREADS or OMP_NUM_THREADS set, or BLAS already limited (threadpoolctl),
    or a BLAS that is not NumPy's OpenBLAS
                                      kernels: 1;                      BLAS: as it is

**Memory.** A training step makes and drops the same arrays again and again. By default the C
library (glibc) returns large ones to the system at once, and each page that it gets anew costs a
page fault, and is filled with zeros first: a good part of a small GPT's step. So glibc is told to
keep freed memory for the next arrays, unless the environment says how `malloc` is to behave
(`MALLOC_...`, `GLIBC_TUNABLES`).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from minimono import checks

OURS = "MINIMONO_NUM_THREADS"
OF_BLAS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")


def prepare() -> None:
    """Arrange the threads and keep freed memory, unless it has been done."""
    arranged()
    keep_freed_memory()


def described() -> dict[str, str]:
    """Prepare the machine, and return a line for each thing that minimono uses of it.

    >>> list(described())
    ['BLAS', 'threads', 'memory']
    """
    prepare()
    blas = blas_threads()
    of_blas = "an unknown number" if blas is None else blas
    kept = "kept for the next arrays" if keep_freed_memory() else "left to the C library"
    return {
        "BLAS": blas_described(),
        "threads": f"{threads()} for kernels, {of_blas} for BLAS ({arranged().why})",
        "memory": f"what is freed is {kept}",
    }


# ---- threads -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Arrangement:
    """Who has how many threads. `blas` None: left as it is."""

    kernels: int
    blas: int | None
    why: str


_now: Arrangement | None = None  # nothing was chosen yet


def threads() -> int:
    """Return how many threads a kernel may use on large arrays; 1: only the caller's own."""
    return arranged().kernels


def set_num_threads(count: int) -> None:
    """Give kernels `count` threads, and NumPy's BLAS one.

    The last bits of results may depend on it: sums over parts have another order.
    """
    count = checks.whole_number(count, "set_num_threads: count", least=1)
    _apply(Arrangement(count, 1, "set_num_threads was called"))


def arranged() -> Arrangement:
    """Return the arrangement that holds; the first call chooses it by environment and machine."""
    now = _now
    if now is None:
        now = chosen(os.environ, _cores(), blas_threads(), blas_threads_by_default())
        _apply(now)
    return now


def chosen(
    environment: Mapping[str, str], cores: int, blas: int | None, blas_by_default: int | None
) -> Arrangement:
    """Return the arrangement for an environment, a machine, and BLAS's threads now and by default.

    >>> chosen({}, cores=4, blas=4, blas_by_default=4)
    Arrangement(kernels=4, blas=1, why='default: one for each core')
    >>> chosen({"OMP_NUM_THREADS": "2"}, cores=4, blas=2, blas_by_default=4)
    Arrangement(kernels=1, blas=None, why='OMP_NUM_THREADS is set')
    """
    if OURS in environment:
        text = environment[OURS]
        if not (text.isdecimal() and int(text) >= 1):
            raise ValueError(f"{OURS} is {text!r}, expected a whole number, 1 or more")
        return Arrangement(int(text), 1, f"{OURS} is set")
    for name in OF_BLAS:
        if environment.get(name):
            return Arrangement(1, None, f"{name} is set")
    if blas is None:
        return Arrangement(1, None, "NumPy's BLAS is not its own OpenBLAS, and may have threads")
    if blas != blas_by_default:
        return Arrangement(1, None, "BLAS was given another number of threads before")
    return Arrangement(cores, 1, "default: one for each core")


def _apply(arrangement: Arrangement) -> None:
    global _now
    _now = arrangement
    if arrangement.blas is not None:
        set_blas_threads(arrangement.blas)


def _cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# ---- BLAS --------------------------------------------------------------------------------------


@cache
def _openblas() -> ctypes.CDLL | None:
    """Return NumPy's own OpenBLAS, if it has one: already loaded, found again by its file."""
    site = Path(np.__file__).parent
    for folder in (site.parent / "numpy.libs", site / ".dylibs"):  # Linux and Windows; macOS
        for file in folder.glob("libscipy_openblas64*"):
            return ctypes.CDLL(str(file))
    return None


def blas_threads() -> int | None:
    """Return how many threads NumPy's matrix products use; None for a BLAS that we do not know."""
    library = _openblas()
    return None if library is None else int(library.scipy_openblas_get_num_threads64_())


def blas_threads_by_default() -> int | None:
    """Return how many they are if nobody says otherwise: one for each core."""
    library = _openblas()
    return None if library is None else int(library.scipy_openblas_get_num_procs64_())


def set_blas_threads(count: int) -> None:
    """Have NumPy's matrix products use `count` threads; of an unknown BLAS, nothing changes."""
    library = _openblas()
    if library is not None:
        library.scipy_openblas_set_num_threads64_(count)


def blas_described() -> str:
    """Name NumPy's BLAS, and the processor that it chose its kernels for: speed hangs on it."""
    build = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    name, library = f"{build.get('name')} {build.get('version')}", _openblas()
    if library is None:
        return name
    core = library.scipy_openblas_get_corename64_
    core.restype = ctypes.c_char_p
    return f"{name}, kernels for {core().decode()}"


# ---- memory ------------------------------------------------------------------------------------

KEPT = 2**30  # bytes that may lie free at the end of the heap before some go back to the system
LARGEST = 32 * 2**20  # bytes of the largest block that is taken from the heap: glibc's limit

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # as glibc's malloc.h numbers them


@cache
def keep_freed_memory() -> bool:
    """Tell glibc to keep freed memory, at the first call; return whether it was told."""
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return False
    try:
        library = ctypes.CDLL(None)  # the functions of the running program
        library.gnu_get_libc_version  # noqa: B018  (raises AttributeError where there is none)
        mallopt = library.mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, LARGEST)) and bool(mallopt(_M_TRIM_THRESHOLD, KEPT))
