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
from minimono import threads
from minimono.bench import measures, rounds
from minimono.bench.ours import BY_HAND, IN_PARTS, MINIMONO, WITH_MEMEL
from minimono.bench.tasks import TASKS, check

Times = dict[str, list[float]]  # seconds of each round, by contestant
Say = Callable[[str], None]

EAGER, NUMPY = "PyTorch eager", "plain NumPy"
HAS_PEAK = Path("/proc/self/clear_refs").exists()  # Linux
MANY = (10**8, 10**9)  # values that are scored
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
    training: dict[str, Times] = field(default_factory=dict)  # by task
    arrangements: dict[str, Times] = field(default_factory=dict)  # of threads, by task
    memel: Times = field(default_factory=dict)
    peak_memory: dict[str, float] = field(default_factory=dict)  # bytes
    product_rate: dict[str, float] = field(default_factory=dict)  # operations / s, by threads
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
    results = Results(quick, str(datetime.date.today()), _machine())
    if quick:
        results.metric_shape = (16_384, 1_536)
    say("Limits of the machine and the metric pass ...")
    rates = measures.alone(measures.matrix_products, min(count, 5))
    results.product_rate = {str(n): rate for n, rate in rates.items()}
    results.metric = measures.alone(measures.metric, *results.metric_shape, count)
    if HAS_PEAK:
        for values in (MANY[:1] if quick else MANY):
            results.many[f"{values:.0e}"] = measures.alone(
                measures.scoring_many, values, results.metric_shape[1]
            )
    say("Imports ...")
    frameworks = ["numpy", "minimono", "minimono.nn, minimono.mono"]
    if not quick:
        frameworks += [m for m in ("torch", "jax") if rounds.is_installed(m)]
    results.imports = measures.import_times(["", *frameworks], 3 if quick else 9)
    _train(results, count, say)
    if not quick:
        _arrange_threads(results, count, say)
    say("MEmeL on a GPT ...")
    results.memel = _memel("GPT middle", count)
    if not quick:
        say("Memory ...")
        results.peak_memory = _peak_memory("GPT middle")
    say("Cost as work grows ...")
    results.growth = measures.alone(measures.growth, 1 if quick else 5)
    return results


def _train(results: Results, count: int, say: Say) -> None:
    modules = []
    for file, function, framework in PEERS:
        if results.quick and function == "compiled_steps":
            results.left_out.append("torch.compile (slow to start)")
        elif not rounds.is_installed(framework):
            results.left_out.append(f"{framework} (not installed)")
        else:
            modules.append((file, function))
    with rounds.peers(modules) as peers:
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
            say(f"{task}: {count} rounds ...")
            results.training[task] = rounds.interleaved(contestants, count, random.Random(0))


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


def _memel(task: str, count: int) -> Times:
    with rounds.peers([("ours", "memel_steps")]) as [peer]:
        peer.first_losses(task)
        contestants = {v: partial(peer.seconds, v) for v in (MINIMONO, WITH_MEMEL)}
        return rounds.interleaved(contestants, count, random.Random(0))


def _peak_memory(task: str) -> dict[str, float]:
    if not HAS_PEAK:
        return {}
    found = {MINIMONO: measures.alone(measures.peak_memory, "ours", MINIMONO, task)}
    if rounds.is_installed("torch"):
        found[EAGER] = measures.alone(measures.peak_memory, "torch_peer", EAGER, task)
    return found


def _machine() -> dict[str, str]:
    """What the figures depend on."""
    found = {"processor": _processor(), "threads of minimono": threads.described()}
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


def nearness(results: Results, task: str, contestant: str) -> float:
    """The least time for a step's products and for Adam's bytes, over the time that it takes."""
    operations, moved = measures.necessary(TASKS[task])
    rows, neurons = results.metric_shape
    bandwidth = 2.0 * 4.0 * rows * neurons / min(results.metric[measures.COPY])
    floor = operations / max(results.product_rate.values()) + moved / bandwidth
    return floor / float(np.median(results.training[task][contestant]))
