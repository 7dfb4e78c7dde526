"""Cut a kernel's rows into parts, one for each of `kernels.threads()` Python threads.

Compiled kernels and BLAS let go of Python's lock, so Python's own threads run them side by side,
and wait asleep: a pool that spins while it waits would take the cores from BLAS's threads.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

from minimono import kernels

LEAST = 1 << 16  # elements of a part (our choice): for less, waking a thread does not pay

Result = TypeVar("Result")


def in_parts(work: Callable[[slice], Result], rows: int, elements: int) -> list[Result]:
    """The results of `work(part)` for the parts of 0..rows, in order.

    There are as many parts as threads, but fewer if a part would have less than `LEAST` elements.
    """
    parts = max(1, min(kernels.threads(), rows, elements // LEAST))
    if parts == 1:
        return [work(slice(0, rows))]
    cuts = [rows * i // parts for i in range(parts + 1)]
    first, *others = (slice(cuts[i], cuts[i + 1]) for i in range(parts))
    promised = [_workers(parts - 1).submit(work, part) for part in others]
    return [work(first), *(promise.result() for promise in promised)]


@cache
def _workers(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="minimono")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_workers.cache_clear)  # threads do not survive a fork
