"""Who else is busy? Processor time that is not ours, from Linux's /proc."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
STAT = PROC / "stat"
BUSY = 0.1  # of the machine: what others may take before figures are called those of a busy machine
REJECT = 0.03  # of the machine, during one turn: more, and the turn is thrown away
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


# ---- during a turn: milliseconds, for which /proc/stat is too coarse ----------------------------


@dataclass(frozen=True)
class Glance:
    """The clocks at one moment, seconds but where it says other."""

    wall: float
    own: float  # processor time of this process, and of its children that have ended
    busy: float  # of all cores at work, or taken by the host
    tasks: dict[str, int]  # nanoseconds that each thread of every other process has run


def glance() -> Glance | None:
    """Look at all clocks; None where there is no /proc that tells."""
    busy = _stat()
    if busy is None:
        return None
    import resource  # which Windows does not have

    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    own = time.process_time() + children.ru_utime + children.ru_stime
    return Glance(time.perf_counter(), own, busy, _run_times())


def share_of_others(before: Glance | None, after: Glance | None) -> float | None:
    """The share of the machine that others took between two glances; None if it is unknown.

    Threads of other processes say to the nanosecond how long they have run: also those of our own
    that should be asleep. Processes that came and went between, and the host of a virtual machine,
    show in the clocks of the cores only. These are coarse, so from what they say, as much is taken
    off as they may be wrong by.
    """
    if before is None or after is None or after.wall <= before.wall:
        return None
    # A number may have been given to another thread meanwhile, which then has run for less.
    ran = sum(max(t - before.tasks.get(name, 0), 0) for name, t in after.tasks.items()) / 1e9
    coarse = (2 + cores()) / TICKS
    unseen = after.busy - before.busy - (after.own - before.own) - coarse
    return max(ran, unseen) / ((after.wall - before.wall) * cores())


def wait_for_quiet(seconds: float, look: float = 0.1) -> None:
    """Sleep until others take little of the machine, for so many seconds at most."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        before = glance()
        time.sleep(look)
        others = share_of_others(before, glance())
        if others is None or others <= REJECT:
            return


def _run_times() -> dict[str, int]:
    """Nanoseconds by thread, of every process but this one."""
    found, me = {}, str(os.getpid())
    for process in _numbers(PROC):
        if process != me:
            for thread in _numbers(PROC / process / "task"):
                with suppress(OSError, IndexError, ValueError):  # it may end while we look
                    said = (PROC / process / "task" / thread / "schedstat").read_text()
                    found[thread] = int(said.split()[0])
    return found


def _numbers(folder: Path) -> list[str]:
    with suppress(OSError):
        return [name for name in os.listdir(folder) if name.isdecimal()]
    return []


# ---- over seconds and minutes ------------------------------------------------------------------


def _stat() -> float | None:
    """Seconds of all cores at work, or taken by the host."""
    try:
        words = STAT.read_text().splitlines()[0].split()
        user, nice, system, _, _, interrupts, softly, stolen = (int(w) for w in words[1:9])
    except (OSError, IndexError, ValueError):
        return None
    return (user + nice + system + interrupts + softly + stolen) / TICKS


def _clocks() -> tuple[float, float, float] | None:
    """Seconds: of the wall, of all cores at work (or taken by the host), of our own processes."""
    busy = _stat()
    return None if busy is None else (time.perf_counter(), busy, _own() / TICKS)


def _own() -> int:
    """Ticks of the processes of our group, and of their children that have ended."""
    total, group = 0, os.getpgrp()
    for process in _numbers(PROC):
        with suppress(OSError, IndexError, ValueError):  # it may end while we look
            # after the name, which may hold anything: state, parent, group, ...
            fields = (PROC / process / "stat").read_text().rpartition(")")[2].split()
            if int(fields[2]) == group:
                total += sum(int(ticks) for ticks in fields[11:15])
    return total
