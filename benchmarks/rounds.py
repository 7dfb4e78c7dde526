"""Rounds: everybody takes a turn in each, so that a slow minute of the machine is everybody's.

Each framework runs in a process of its own, with its own threads, and sleeps while others run.
What is compared are times of the same round: ratios, and of those the median and the quartiles.
A turn in which something else took more than a little of the machine is thrown away and taken
again; if that does not help, its whole round is. Both are counted.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from benchmarks import load
from benchmarks.tasks import TASKS
from minimono import machine

LEAST_SECONDS = 0.05  # of one turn: as many steps as fit, at least one
PAUSE = 0.03  # before a turn, in which the threads of the last one go to sleep
TRIES = 4  # for a turn, before its round is thrown away
PATIENCE = 20.0  # seconds that others get to end, before each further try
FEWEST = 5  # rounds, of which quartiles say something

# What holds a library to an older processor's kernels, or to fewer threads than it takes by itself.
# No process that is measured has any of them: all frameworks get this machine, as it is.
OLDER = (
    "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "NPY_DISABLE_CPU_FEATURES", "NUMBA_CPU_NAME",
    "NUMBA_CPU_FEATURES", "MKL_ENABLE_INSTRUCTIONS", "MKL_DEBUG_CPU_TYPE", "MKL_CBWR",
    "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "XLA_FLAGS",
)
FEWER_THREADS = (
    "MINIMONO_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS",
)

Turn = tuple[float, float | None]  # seconds of a step; what others took of the machine meanwhile


class Busy(RuntimeError):
    """The machine was too busy with other things: nothing was measured."""


@dataclass
class Tally:
    """Turns that were taken, and those of them that were thrown away since others were busy."""

    turns: int = 0
    rejected: int = 0

    def keeps(self, turn: Turn) -> bool:
        """Count a turn; may its time be used? Where others' share is unknown, it may."""
        self.turns += 1
        disturbed = turn[1] is not None and turn[1] > load.REJECT
        self.rejected += disturbed
        return not disturbed

    def __str__(self) -> str:
        return f"{self.rejected} of {self.turns}"


class Peer:
    """A process that has built training steps, and runs them when told.

    `file` is one of this folder, `function` one in it that makes steps.
    """

    def __init__(self, file: str, function: str, environment: Mapping[str, str]):
        here, there = get_context("spawn").Pipe()
        self.file, self.connection = file, here
        self.process = get_context("spawn").Process(
            target=_serve, args=(there, file, function), daemon=True
        )
        with patched(environment):  # the process inherits it
            self.process.start()

    def ask(self, *request: Any) -> Any:
        self.connection.send(request)
        answer = self.connection.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def first_losses(self, task: str) -> dict[str, list[float]]:
        """By variant, the losses of the first steps, which also warm up."""
        losses: dict[str, list[float]] = self.ask("build", task)
        return losses

    def turn(self, variant: str) -> Turn:
        """Seconds of a step, on average over one turn; others' share meanwhile."""
        turn: Turn = self.ask("run", variant)
        return turn

    def stop(self) -> None:
        self.connection.send(("stop",))
        self.process.join(10.0)
        if self.process.is_alive():
            self.process.kill()


def _serve(connection: Connection, file: str, function: str) -> None:
    make = getattr(import_module(f"benchmarks.{file}"), function)
    by_default = machine.blas_threads_by_default()
    if file != "ours" and by_default and not any(os.environ.get(n) for n in machine.OF_BLAS):
        machine.set_blas_threads(by_default)  # as without us
    steps: dict[str, Callable[[], float]] = {}
    long: set[str] = set()  # steps that fill a turn by themselves
    while True:
        try:
            request = connection.recv()
        except EOFError:  # nobody asks any more
            return
        try:
            if request[0] == "stop":
                return
            if request[0] == "build":
                steps = {}  # those of the last task give their memory back first
                losses: dict[str, list[float]] = {}
                steps = make(TASKS[request[1]])
                for name, step in steps.items():
                    losses[name] = [step() for _ in range(3)]
                    began = time.perf_counter()
                    losses[name].append(step())
                    if time.perf_counter() - began > LEAST_SECONDS:
                        long.add(name)
                connection.send(losses)
            else:
                name = request[1]
                connection.send(watched(steps[name], LEAST_SECONDS, warm=name not in long))
        except Exception as error:  # to the one who asked
            connection.send(RuntimeError(f"{file}: {error!r}"))


def watched(function: Callable[[], Any], least: float, warm: bool = False) -> Turn:
    """Seconds of a call, over as many as fit into `least`; what others took meanwhile.

    `warm`: after a call that is not counted, which brings the caches back.
    """
    before = load.glance()
    if warm:
        function()
    found = seconds(function, least)
    return found, load.share_of_others(before, load.glance())


def seconds(function: Callable[[], Any], least: float) -> float:
    """Of a call, on average over as many as fit into `least` seconds, at least one."""
    count, began = 0, time.perf_counter()
    while True:
        function()
        count += 1
        elapsed = time.perf_counter() - began
        if elapsed >= least:
            return elapsed / count


@contextmanager
def patched(environment: Mapping[str, str], without: Sequence[str] = ()) -> Iterator[None]:
    """The process's environment with these changes, in this block."""
    before = dict(os.environ)
    os.environ.update(environment)
    for name in without:
        os.environ.pop(name, None)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def peers(
    wanted: Sequence[tuple[str, str]], environments: Sequence[Mapping[str, str]] | None = None
) -> Iterator[list[Peer]]:
    """A process for each file and function, stopped after the block."""
    started: list[Peer] = []
    try:
        for (file, function), changes in zip(
            wanted, environments or [{}] * len(wanted), strict=True
        ):
            started.append(Peer(file, function, changes))
        yield started
    finally:
        for peer in started:
            peer.stop()


def is_installed(framework: str) -> bool:
    return find_spec(framework) is not None


def interleaved(
    contestants: Mapping[str, Callable[[], Turn]], rounds: int, rng: random.Random, tally: Tally,
    longest: float = float("inf"),
) -> dict[str, list[float]]:
    """Seconds of each in each round; in every round another order. After `longest` none begins.

    Raises Busy if others left too few rounds.
    """
    found: dict[str, list[float]] = {name: [] for name in contestants}
    kept, dropped, until = 0, 0, time.monotonic() + longest
    while kept < rounds and dropped < max(rounds, FEWEST) and time.monotonic() < until:
        times = _round(contestants, rng, tally, until)
        if times is None:
            dropped += 1
        else:
            kept += 1
            for name, seconds in times.items():
                found[name].append(seconds)
    if kept < max(min(rounds, FEWEST), dropped):
        raise Busy(
            f"{kept} rounds were undisturbed and {dropped} were not: others took more than "
            f"{load.REJECT:.0%} of the machine in {tally} turns; measure again when it is quiet"
        )
    return found


def _round(
    contestants: Mapping[str, Callable[[], Turn]], rng: random.Random, tally: Tally, until: float
) -> dict[str, float] | None:
    """Seconds of each; None if one could not have an undisturbed turn."""
    times = {}
    for name in rng.sample(list(contestants), len(contestants)):
        seconds = undisturbed(contestants[name], tally, until)
        if seconds is None:
            return None
        times[name] = seconds
    return times


def undisturbed(
    take: Callable[[], Turn], tally: Tally, until: float = float("inf")
) -> float | None:
    """The seconds of the first turn without others; None if there was none in a few tries.

    Before each further one it waits for others to end, for some time and not longer than `until`.
    """
    for _ in range(TRIES):
        time.sleep(PAUSE)
        turn = take()
        if tally.keeps(turn):
            return turn[0]
        load.wait_for_quiet(min(PATIENCE, until - time.monotonic()))
    return None


def quartiles_of_ratios(
    times: Sequence[float], base: Sequence[float]
) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile of times over those of the same rounds."""
    low, median, high = np.percentile(np.divide(times, base), [25.0, 50.0, 75.0])
    return float(low), float(median), float(high)
