"""Who else is busy? Processor time that is not ours, from Linux's /proc."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

STAT = Path("/proc/stat")
BUSY = 0.1  # of the machine: what others may take before figures are called those of a busy machine
TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100  # in a second


class Watch:
    """Reads the clocks at once, and at each `lap`."""

    def __init__(self) -> None:
        self.before = _clocks()

    def lap(self) -> float | None:
        """The share of the machine that others took since the last lap; None if it is unknown."""
        before, now = self.before, _clocks()
        self.before = now
        if before is None or now is None or now[0] == before[0]:
            return None
        elapsed, busy, own = (after - earlier for after, earlier in zip(now, before, strict=True))
        return min(max((busy - own) / (elapsed * cores()), 0.0), 1.0)


def now(seconds: float = 0.5) -> float | None:
    """What others take at present, watched for some time in which we do nothing."""
    watch = Watch()
    time.sleep(seconds)
    return watch.lap()


def cores() -> int:
    return os.cpu_count() or 1


def _clocks() -> tuple[float, float, float] | None:
    """Seconds: of the wall, of all cores at work (or taken by the host), of our own processes."""
    try:
        words = STAT.read_text().splitlines()[0].split()
    except (OSError, IndexError):
        return None
    user, nice, system, _, _, interrupts, softly, stolen = (int(w) for w in words[1:9])
    busy = user + nice + system + interrupts + softly + stolen
    return time.perf_counter(), busy / TICKS, _own() / TICKS


def _own() -> int:
    """Ticks of the processes of our group, and of their children that have ended."""
    total, group = 0, os.getpgrp()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError, ValueError):  # it may end while we look
            # after the name, which may hold anything: state, parent, group, ...
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[2]) == group:
                total += sum(int(ticks) for ticks in fields[11:15])
    return total
