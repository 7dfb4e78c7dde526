"""Cut a kernel's rows into parts, one for each of `machine.threads()` Python threads.

Compiled kernels and BLAS let go of Python's lock, so Python's own threads run them side by side,
and wait asleep: a pool that spins while it waits would take the cores from BLAS's threads.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextvars import ContextVar, copy_context
from functools import cache
from typing import TypeVar

import numpy as np

from minimono import machine, sums
from minimono.backend import Array, device_of

# Elements of a part. For less, waking a thread does not pay: on two busy cores parts of 2^16 made a
# small GPT's step 10 % slower, parts of 2^18 no slower.
LEAST = 1 << 18
PRODUCTS_OF_ONE = 64  # multiplications in BLAS that count as much as one element (our choice)

Result = TypeVar("Result")

# A part of a part would wait for a thread that waits for it.
_is_inside: ContextVar[bool] = ContextVar("minimono_inside_a_part", default=False)


def parts_for(rows: int, elements: int) -> int:
    """Return how many parts pay: one for each thread, but none of less than `LEAST` elements.

    A part is not cut again (`side_by_side`).
    """
    if elements < 2 * LEAST or _is_inside.get():
        return 1
    return max(1, min(machine.threads(), rows, elements // LEAST))


def in_parts(work: Callable[[slice], Result], rows: int, elements: int) -> list[Result]:
    """Return the results of `work(part)` for the parts of 0..rows, in order."""
    return side_by_side(work, rows, parts_for(rows, elements))


def cuts(rows: int, parts: int) -> list[slice]:
    """Return 0..rows in so many parts, as equal as can be."""
    return [slice(rows * i // parts, rows * (i + 1) // parts) for i in range(parts)]


def side_by_side(work: Callable[[slice], Result], rows: int, parts: int) -> list[Result]:
    """Do the same in so many parts, each in a thread of its own, the first in the caller's."""
    if parts == 1:
        return [work(slice(0, rows))]

    def inside(part: slice) -> Result:
        _is_inside.set(True)  # in this context only
        return work(part)

    first, *others = cuts(rows, parts)
    workers = _workers(parts - 1)
    # What holds for the caller, say `no_grad()`, holds in all parts.
    promised = [workers.submit(copy_context().run, inside, part) for part in others]
    try:
        own = copy_context().run(inside, first)
    finally:
        wait(promised)  # else a part could go on after an error in the first
    return [own, *(promise.result() for promise in promised)]


def product(a: Array, b: Array, plus: Array | None = None) -> Array:
    """Return a @ b + plus for matrices of one dtype; a large product is cut into parts for threads.

    Parts are rows of the result, or columns if it has more of them, so that each thread reads the
    smaller matrix whole and its share of the larger. The last bits may depend on their number.
    `plus`: of shape (columns,).
    """
    n, m = a.shape[0], b.shape[1]
    parts = parts_for(max(n, m), a.size * m // PRODUCTS_OF_ONE)
    if parts == 1 or device_of(a) == "cuda":
        out = sums.product(a, b)
        if plus is not None:
            out += plus
        return out
    out = np.empty((n, m), a.dtype)

    def multiply(part: slice) -> None:
        i, j = (part, slice(None)) if n >= m else (slice(None), part)
        sums.product(a[i], b[:, j], out=out[i, j])
        if plus is not None:
            out[i, j] += plus[j]

    side_by_side(multiply, max(n, m), parts)
    return out


@cache
def _workers(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="minimono")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_workers.cache_clear)  # threads do not survive a fork
