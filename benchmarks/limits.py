"""The machine's limits, which take their turns in every round as the frameworks do.

A machine that is busy is slower for everybody: a limit that was measured in a quieter minute would
be too high, one of a busier minute too low.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from benchmarks.tasks import Task
from minimono import machine

ONE, ALL, COPY = "product, one thread", "product, all threads", "copy"
SIZE, VALUES = 1536, 2**24
OPERATIONS, MOVED = 2.0 * SIZE**3, 2.0 * 4.0 * VALUES  # of a product; bytes of a copy


def steps(task: Task) -> dict[str, Callable[[], float]]:
    """A product of float32 matrices with one thread and with all, and a copy; 0 for a loss."""
    a, b = (np.random.default_rng(i).random((SIZE, SIZE), dtype=np.float32) for i in range(2))
    out, source = np.empty_like(a), np.ones(VALUES, np.float32)
    target = np.empty_like(source)

    def product(threads: int) -> float:
        machine.set_blas_threads(threads)
        np.matmul(a, b, out=out)
        return 0.0

    def copy() -> float:
        np.copyto(target, source)
        return 0.0

    by_default = machine.blas_threads_by_default() or 1
    found: dict[str, Callable[[], float]] = {ONE: partial(product, 1)}
    if by_default > 1:
        found[ALL] = partial(product, by_default)
    return found | {COPY: copy}
