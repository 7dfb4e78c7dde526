"""Rounds: everybody takes a turn in each, so that a slow minute of the machine is everybody's.

Each framework runs in a process of its own, with its own threads, and sleeps while others run.
What is compared are times of the same round: ratios, and of those the median and the quartiles.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from benchmarks.tasks import TASKS
from minimono import machine

LEAST_SECONDS = 0.05  # of one turn: as many steps as fit, at least one
PAUSE = 0.03  # before a turn, in which the threads of the last one go to sleep


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

    def seconds(self, variant: str) -> float:
        """Of a step, on average over one turn."""
        return float(self.ask("run", variant))

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
    while True:
        request = connection.recv()
        try:
            if request[0] == "stop":
                return
            if request[0] == "build":
                steps = {}  # those of the last task give their memory back first
                steps = make(TASKS[request[1]])
                connection.send({name: [step() for _ in range(4)] for name, step in steps.items()})
            else:
                connection.send(_turn(steps[request[1]]))
        except Exception as error:  # to the one who asked
            connection.send(RuntimeError(f"{file}: {error!r}"))


def _turn(step: Callable[[], float]) -> float:
    step()  # not counted: it brings the caches back
    return seconds(step, LEAST_SECONDS)


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
    contestants: Mapping[str, Callable[[], float]], rounds: int, rng: random.Random
) -> dict[str, list[float]]:
    """What each returns in each round (seconds); in every round another order."""
    found: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name in rng.sample(list(contestants), len(contestants)):
            time.sleep(PAUSE)
            found[name].append(contestants[name]())
    return found


def quartiles_of_ratios(
    times: Sequence[float], base: Sequence[float]
) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile of times over those of the same rounds."""
    low, median, high = np.percentile(np.divide(times, base), [25.0, 50.0, 75.0])
    return float(low), float(median), float(high)
