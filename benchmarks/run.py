"""The whole benchmark, as one record."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

import minimono
from benchmarks import limits, load, measures, rounds
from benchmarks.ours import BY_HAND, IN_PARTS, MINIMONO, WITH_MEMEL
from benchmarks.tasks import TASKS, check
from minimono import machine

Times = dict[str, list[float]]  # seconds of each round, by contestant
Say = Callable[[str], None]

EAGER, NUMPY = "PyTorch eager", "plain NumPy"
HAS_PEAK = Path("/proc/self/clear_refs").exists()  # Linux
MANY = (10**8, 10**9)  # values that are scored
LARGEST = "GPT middle"
# What makes another processor of BLAS: processes run without it, and the machine is what it is.
OF_BLAS = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
# The file, its function, and the framework that it needs.
PEERS = (
    ("ours", "steps", "minimono"),
    ("numpy_peer", "steps", "numpy"),
    ("torch_peer", "steps", "torch"),
    ("torch_peer", "compiled_steps", "torch"),
    ("jax_peer", "steps", "jax"),
    ("mygrad_peer", "steps", "mygrad"),
    ("autograd_peer", "steps", "autograd"),
)


@dataclass
class Results:
    """Everything that was measured."""

    quick: bool
    date: str
    machine: dict[str, str]
    others: dict[str, float | None] = field(default_factory=dict)  # their share, by what we did
    training: dict[str, Times] = field(default_factory=dict)  # by task
    limits: dict[str, Times] = field(default_factory=dict)  # of the same rounds, by task
    arrangements: dict[str, Times] = field(default_factory=dict)  # of threads, by task
    memel: Times = field(default_factory=dict)
    peak_memory: dict[str, float] = field(default_factory=dict)  # bytes
    metric_shape: tuple[int, int] = (65_536, 1_536)
    metric: Times = field(default_factory=dict)
    many: dict[str, tuple[float, float]] = field(default_factory=dict)  # values: seconds, bytes
    imports: Times = field(default_factory=dict)
    growth: dict[str, measures.Curve] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    @property
    def base(self) -> str:
        """What times are divided by."""
        return EAGER if EAGER in next(iter(self.training.values())) else NUMPY


def run(quick: bool, count: int, say: Say) -> Results:
    """Measure everything; `count` rounds. `say` hears what is being done."""
    with rounds.patched({}, without=OF_BLAS):
        results = Results(quick, str(datetime.date.today()), _machine())
        if quick:
            results.metric_shape = (16_384, 1_536)
        results.others["before the first round"] = load.now()
        if busy(results):
            say("The machine is busy with other things: figures will say so, and mean little.")
        parts = {
            "the metric": _metric, "imports": _imports, "training steps": _train,
            "threads": _arrange_threads, "MEmeL": _memel, "memory": _peak_memory,
            "growth": _growth,
        }
        watch = load.Watch()
        for name, part in parts.items():
            if not (quick and name in ("threads", "memory")):
                part(results, count, say)
                results.others[name] = watch.lap()
    return results


def busy(results: Results) -> dict[str, float]:
    """When others took so much of the machine that figures are of a busy one, and how much."""
    return {
        name: share for name, share in results.others.items()
        if share is not None and share > load.BUSY
    }


def _metric(results: Results, count: int, say: Say) -> None:
    say("The metric pass ...")
    results.metric = measures.alone(measures.metric, *results.metric_shape, count)
    if HAS_PEAK:
        for values in (MANY[:1] if results.quick else MANY):
            results.many[f"{values:.0e}"] = measures.alone(
                measures.scoring_many, values, results.metric_shape[1]
            )


def _imports(results: Results, count: int, say: Say) -> None:
    say("Imports ...")
    frameworks = ["numpy", "minimono", "minimono.nn, minimono.mono"]
    if not results.quick:
        frameworks += [m for m in ("torch", "jax") if rounds.is_installed(m)]
    results.imports = measures.import_times(["", *frameworks], 3 if results.quick else 9)


def _train(results: Results, count: int, say: Say) -> None:
    modules = []
    for file, function, framework in PEERS:
        if results.quick and function == "compiled_steps":
            results.left_out.append("torch.compile (slow to start)")
        elif not rounds.is_installed(framework):
            results.left_out.append(f"{framework} (not installed)")
        else:
            modules.append((file, function))
    with rounds.peers([*modules, ("limits", "steps")]) as [*peers, of_machine]:
        for task in [*TASKS][: 3 if results.quick else None]:
            say(f"{task}: first steps, compilers and checks ...")
            losses: dict[str, list[float]] = {}
            contestants: dict[str, Callable[[], float]] = {}
            for peer in peers:
                try:
                    found = peer.first_losses(task)
                except RuntimeError as error:
                    if peer.file == "ours":
                        raise
                    say(f"  without {peer.file}: {error}")
                    results.left_out.append(f"{peer.file} on {task} (it failed)")
                    continue
                losses |= found
                contestants |= {v: partial(peer.seconds, v) for v in found}
            check(task, losses)
            bounds = {v: partial(of_machine.seconds, v) for v in of_machine.first_losses(task)}
            say(f"{task}: {count} rounds ...")
            times = rounds.interleaved(contestants | bounds, count, random.Random(0))
            results.training[task] = {name: times[name] for name in contestants}
            results.limits[task] = {name: times[name] for name in bounds}


def _arrange_threads(results: Results, count: int, say: Say) -> None:
    """Our step with other arrangements of threads, beside PyTorch's with all cores and with one."""
    say("Threads ...")
    cores = str(os.cpu_count() or 1)
    wanted = {  # file, environment, variant
        "kernels: all cores, BLAS: 1 (default)": ("ours", {}, MINIMONO),
        "the same, the batch in parts": ("ours", {}, IN_PARTS),
        "kernels: 1, BLAS: 1": ("ours", {"MINIMONO_NUM_THREADS": "1"}, MINIMONO),
        "kernels: 1, BLAS: all cores": ("ours", {"OPENBLAS_NUM_THREADS": cores}, MINIMONO),
    }
    if rounds.is_installed("torch"):
        wanted[f"{EAGER}, all cores"] = ("torch_peer", {}, EAGER)
        wanted[f"{EAGER}, one thread"] = ("torch_peer", {"OMP_NUM_THREADS": "1"}, EAGER)
    files = [(file, "steps") for file, _, _ in wanted.values()]
    with rounds.peers(files, [changes for _, changes, _ in wanted.values()]) as peers:
        for task in TASKS:
            contestants: dict[str, Callable[[], float]] = {}
            for peer, (name, (_, _, variant)) in zip(peers, wanted.items(), strict=True):
                peer.first_losses(task)
                contestants[name] = partial(peer.seconds, variant)
            results.arrangements[task] = rounds.interleaved(contestants, count, random.Random(0))


def _memel(results: Results, count: int, say: Say) -> None:
    say("MEmeL on a GPT ...")
    with rounds.peers([("ours", "memel_steps")]) as [peer]:
        peer.first_losses(LARGEST)
        contestants = {v: partial(peer.seconds, v) for v in (MINIMONO, WITH_MEMEL)}
        results.memel = rounds.interleaved(contestants, count, random.Random(0))


def _peak_memory(results: Results, count: int, say: Say) -> None:
    if not HAS_PEAK:
        return
    say("Memory ...")
    for file, variant, framework in (("ours", MINIMONO, "numpy"), ("torch_peer", EAGER, "torch")):
        if rounds.is_installed(framework):
            found = measures.alone(measures.peak_memory, file, variant, LARGEST)
            results.peak_memory[variant] = found


def _growth(results: Results, count: int, say: Say) -> None:
    say("Cost as work grows ...")
    results.growth = measures.alone(measures.growth, 1 if results.quick else 5)


def _machine() -> dict[str, str]:
    """What the figures depend on."""
    found = {"processor": _processor(), "threads of minimono": machine.described()["threads"]}
    found["BLAS"] = measures.alone(machine.blas_described)
    found["Python"] = platform.python_version()
    found["minimono"] = minimono.__version__
    for package in ("numpy", "numba", "torch", "jax", "mygrad", "autograd"):
        with suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def _processor() -> str:
    name = platform.processor() or platform.machine()
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    return f"{name}, {os.cpu_count()} cores"


def tape_overhead(results: Results) -> dict[str, tuple[float, float, float]]:
    """Our step over the same kernels by hand: quartiles, by task."""
    return {
        task: rounds.quartiles_of_ratios(times[MINIMONO], times[BY_HAND])
        for task, times in results.training.items()
    }


def nearness(results: Results, task: str, contestant: str) -> tuple[float, float, float]:
    """The least time for a step's products and for Adam's bytes, over the time that it takes.

    Quartiles over the rounds; the limits are those of the same round, of products the higher one.
    """
    operations, moved = measures.necessary(TASKS[task])
    of_round = results.limits[task]
    product = np.min([times for name, times in of_round.items() if name != limits.COPY], axis=0)
    floor = operations / limits.OPERATIONS * product + moved / limits.MOVED * np.array(
        of_round[limits.COPY]
    )
    return rounds.quartiles_of_ratios(floor.tolist(), results.training[task][contestant])
