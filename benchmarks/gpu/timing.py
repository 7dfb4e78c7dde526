"""Time on the device: between two events, which the device itself records."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from minimono import backend

Row = dict[str, Any]  # what, unit, values and errors by contestant; or what and error

REPEATS = 5


def seconds(work: Callable[[], object], turn: float) -> float:
    """The median time of a call, of a few turns of about `turn` seconds: as many calls as fit.

    Calls of a turn follow each other without a wait, as in training: what the host needs to start
    them counts only where it is more than the device's own time.
    """
    for _ in range(2):  # compiles, chooses algorithms, fills the memory pool
        work()
    one = _between(work, 1)
    calls = max(1, min(1000, int(turn / max(one, 1e-6))))
    return statistics.median(_between(work, calls) for _ in range(REPEATS))


def _between(work: Callable[[], object], calls: int) -> float:
    """Seconds of a call. PyTorch works in the same stream as CuPy, the default one."""
    cuda = backend.cupy().cuda
    cuda.Device().synchronize()
    start, end = cuda.Event(), cuda.Event()
    start.record()
    for _ in range(calls):
        work()
    end.record()
    end.synchronize()
    return float(cuda.get_elapsed_time(start, end)) / 1e3 / calls


def beside(
    what: str, unit: str, contestants: Mapping[str, Callable[[], float]]
) -> Iterator[Row]:
    """A row with a number of each contestant; one that fails leaves the others theirs."""
    row: Row = {"what": what, "unit": unit, "values": {}, "errors": {}}
    for name, measure in contestants.items():
        try:
            row["values"][name] = measure()
        except Exception as error:
            row["errors"][name] = told(error)
    yield row


def told(error: BaseException) -> str:
    """An error in one line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:500]


def free() -> None:
    """Give the device's memory back, so that one library does not hold what the other needs."""
    backend.cupy().get_default_memory_pool().free_all_blocks()
