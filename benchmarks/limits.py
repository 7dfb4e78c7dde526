"""The machine's limits, which take their turns in every round as the frameworks do.

A machine that is busy is slower for everybody: a limit that was measured in a quieter minute would
be too high, one of a busier minute too low. So a share is of the limit of the same round, and what
is published is the median of these shares. That cannot be above 1, since nothing is faster than a
limit: where it is, the limit was measured too low or is none, and that is an error. A single round
may be, by as much as two turns of the same thing differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from benchmarks.measures import necessary
from benchmarks.rounds import quartiles_of_ratios
from benchmarks.tasks import Task
from minimono import machine
from minimono.kernels.parallel import in_parts

PRODUCT, COPY, READ = "product", "copy", "read"  # what a limit's name begins with
BY_ONE, BY_ALL = ", one thread", ", all threads"
ONE = PRODUCT + BY_ONE
SIZE = 1536
OPERATIONS = 2.0 * SIZE**3  # of a product
VALUES = 2**24  # of the array that is read
OF_ADAM = 16.0  # bytes a parameter, in a copy whose two arrays are as large as Adam's four


def steps(task: Task) -> dict[str, Callable[[], float]]:
    """Products of float32 matrices, a copy, and a read, by one thread and by all; 0 for a loss.

    Arrays that are copied are together as large as a parameter, its gradient and its two means: for
    a small network they stay in the caches, as Adam's do.
    """
    from benchmarks.reading import read

    a, b = (np.random.default_rng(i).random((SIZE, SIZE), dtype=np.float32) for i in range(2))
    out, parameters = np.empty_like(a), task.model().number_of_parameters()
    source = np.ones(2 * parameters, np.float32)
    target = np.empty_like(source)
    words = np.ones((VALUES // 2048, 1024), np.int64)

    def product(threads: int) -> float:
        machine.set_blas_threads(threads)
        np.matmul(a, b, out=out)
        return 0.0

    def copy(part: Any = slice(None)) -> float:
        np.copyto(target[part], source[part])
        return 0.0

    def all_of(function: Callable[[Any], Any], rows: int, values: int) -> float:
        in_parts(function, rows, values)
        return 0.0

    found: dict[str, Callable[[], float]] = {
        ONE: partial(product, 1),
        COPY + BY_ONE: copy,
        READ + BY_ONE: lambda: float(read(words) * 0),
    }
    by_default = machine.blas_threads_by_default() or 1
    if by_default > 1:
        found[PRODUCT + BY_ALL] = partial(product, by_default)
    if machine.threads() > 1:
        found[COPY + BY_ALL] = lambda: all_of(copy, source.size, source.size)
        found[READ + BY_ALL] = lambda: all_of(
            lambda part: read(words[part]), len(words), words.size
        )
    return found


def bytes_moved(name: str, task: Task) -> float:
    """Of a copy, read and written; or of a read."""
    if name.startswith(COPY):
        return OF_ADAM * task.model().number_of_parameters()
    return 8.0 * VALUES / 2


def best(times_of: Mapping[str, Sequence[float]], kind: str) -> list[float]:
    """Seconds in each round of the fastest way to do what the limit's name begins with."""
    ways = [times for name, times in times_of.items() if name.startswith(kind)]
    return [float(t) for t in np.min(ways, axis=0)]


def share(
    what: str, limit: Sequence[float], times: Sequence[float]
) -> tuple[float, float, float]:
    """The least time over the time that something took, both of the same rounds: quartiles.

    Raises ValueError if the median is above 1.
    """
    found = quartiles_of_ratios(limit, times)
    if found[1] > 1.0:
        raise ValueError(
            f"{what}: its share of the limit is {found[1]:.3f}, expected at most 1; nothing is "
            "faster than a limit, so the limit was measured too low (was the machine busy?) or is "
            "no limit: measure again, and if that does not help, mend the limit"
        )
    return found


def nearness(
    task: Task, times_of: Mapping[str, Sequence[float]], contestant: str,
    limits: Mapping[str, Sequence[float]],
) -> tuple[float, float, float]:
    """The least time for a step's products and then for Adam's bytes, over the time that it takes.

    Of products and of copies the faster way counts, round by round.
    """
    operations, moved = necessary(task)
    copied = OF_ADAM * moved / 28.0
    floor = operations / OPERATIONS * np.array(best(limits, PRODUCT)) + moved / copied * np.array(
        best(limits, COPY)
    )
    return share(f"{task.name}, {contestant}", floor.tolist(), times_of[contestant])
