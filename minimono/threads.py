"""One pool of threads: the kernels' or BLAS's, never both.

BLAS's threads wait for work, and for each other, by running in circles. Beside a second pool, or on
a machine that does other things too, they wait longest for the one that is not running. Kernels
cut large arrays, and large matrix products, into parts for Python's own threads, which wait asleep
(`kernels/parallel.py`). So by default kernels have all cores, and BLAS runs in the thread that
calls it. docs/performance.md has the measurements.

    by default                        kernels: a thread for each core; BLAS: 1
    MINIMONO_NUM_THREADS=n            kernels: n;                      BLAS: 1
    set_num_threads(n)                the same, later
    OPENBLAS_NUM_THREADS or OMP_NUM_THREADS set, or BLAS already limited (threadpoolctl),
    or a BLAS that is not NumPy's OpenBLAS
                                      kernels: 1;                      BLAS: as it is
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from minimono import backend, kernels

OURS = "MINIMONO_NUM_THREADS"
OF_BLAS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")


@dataclass(frozen=True)
class Arrangement:
    """Who has how many threads. `blas` None: left as it is."""

    kernels: int
    blas: int | None
    why: str


def chosen(
    environment: Mapping[str, str], cores: int, blas: int | None, blas_by_default: int | None
) -> Arrangement:
    """The arrangement for a machine, its environment, and what BLAS has now and has by default.

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


def arrange() -> None:
    """Choose by environment and machine, unless it has been done; importing the engine does it."""
    if _now is None:
        now, by_default = backend.blas_threads(), backend.blas_threads_by_default()
        _apply(chosen(os.environ, _cores(), now, by_default))


def set_num_threads(count: int) -> None:
    """Give kernels `count` threads, and NumPy's BLAS one.

    The last bits of results may depend on it: sums over parts have another order.
    """
    if count != int(count) or count < 1:
        raise ValueError(f"set_num_threads: count is {count}, expected a whole number, 1 or more")
    _apply(Arrangement(int(count), 1, "set_num_threads was called"))


def described() -> str:
    """What was chosen and why, in a line: "2 for kernels, 1 for BLAS (default: ...)"."""
    arrange()
    assert _now is not None
    blas = backend.blas_threads()
    return (
        f"{kernels.threads()} for kernels, {'an unknown number' if blas is None else blas} "
        f"for BLAS ({_now.why})"
    )


def _apply(arrangement: Arrangement) -> None:
    global _now
    _now = arrangement
    kernels.set_threads(arrangement.kernels)
    if arrangement.blas is not None:
        backend.set_blas_threads(arrangement.blas)


def _cores() -> int:
    """That this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_now: Arrangement | None = None  # nothing was chosen yet
