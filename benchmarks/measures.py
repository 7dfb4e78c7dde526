"""What is measured beside training steps: the metrics, memory, imports, growth."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from benchmarks import load, ours
from benchmarks.rounds import Tally, Turn, interleaved, watched
from benchmarks.tasks import TASKS, Perceptron, Task, Transformer
from minimono import machine
from minimono.kernels.parallel import in_parts
from minimono.mono.batch_scores import score_batch
from minimono.mono.moments import Moments
from minimono.mono.scale import monosemantic_scale

SHORT = 0.02  # seconds of a turn
READ, COPY = "read", "copy"  # what the names of the metric's limits begin with
PHI, PHI_TOO = "`monosemantic_scale`: phi", "... and phi itself"
IN_NUMPY = "NumPy's expressions for phi, maximum, mean, variance"
WRITING = (PHI, PHI_TOO)  # these write as much as they read, as a copy does

Result = TypeVar("Result")


def alone(function: Callable[..., Result], *arguments: Any) -> Result:
    """Run a function in a process of its own, which has loaded nothing and computed nothing yet."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


# ---- the metric pass beside the speed of memory -------------------------------------------------


def metric(
    rows: int, neurons: int, rounds: int, longest: float
) -> tuple[dict[str, list[float]], Tally]:
    """Seconds of a read, a copy, and a scoring pass over the same float32 array."""
    from benchmarks.reading import read

    rng = np.random.default_rng(0)
    z = rng.standard_normal((rows, neurons), dtype=np.float32)
    copy = np.empty_like(z)
    history = Moments.of(rng.standard_normal((256, neurons)))
    mean, variance = history.mean, history.variance()

    def in_numpy() -> Any:
        phi = (z - mean) ** 2 / variance
        return phi.max(axis=0), z.mean(axis=0, dtype=np.float64), z.var(axis=0, dtype=np.float64)

    def with_one_thread(function: Callable[[], Any]) -> Callable[[], Any]:

        def run() -> Any:
            machine.set_num_threads(1)
            try:
                return function()
            finally:
                machine.set_num_threads(threads)

        return run

    def moments() -> Any:
        return history.update(z)

    def score() -> Any:
        return score_batch(z, history)

    threads, words = machine.threads(), z.view(np.int64)
    contestants: dict[str, Callable[[], Any]] = {
        READ + ", one thread": lambda: read(words),
        READ + ", all threads": lambda: in_parts(lambda part: read(words[part]), rows, z.size),
        COPY + ", one thread": lambda: np.copyto(copy, z),
        COPY + ", all threads": lambda: in_parts(
            lambda part: np.copyto(copy[part], z[part]), rows, z.size
        ),
        "`Moments.update`, one thread": with_one_thread(moments),
        "`Moments.update`": moments,
        "`score_batch`: maximum, mean, moments; one thread": with_one_thread(score),
        "`score_batch`: maximum, mean, moments": score,
        "... and a count above a threshold": lambda: score_batch(z, history, threshold=9.0),
        "... and the top 1 of each sample": lambda: score_batch(z, history, top_k=1),
        PHI_TOO: lambda: score_batch(z, history, keep_phi=True),
        PHI: lambda: monosemantic_scale(z, mean, variance),
        IN_NUMPY: in_numpy,
    }
    for function in contestants.values():
        function()
    timed = {
        name: partial(watched, function, SHORT, warm=name != IN_NUMPY)  # which takes seconds
        for name, function in contestants.items()
    }
    tally = Tally()
    return interleaved(timed, rounds, random.Random(0), tally, longest), tally


def scoring_many(values: int, neurons: int) -> tuple[Turn, float]:
    """Seconds to score so many values, batch after batch, and the most bytes held meanwhile."""
    batch = np.random.default_rng(0).standard_normal((8192, neurons), dtype=np.float32)
    history = Moments.of(batch)
    score_batch(batch, history)
    before, elapsed, glance = _peak_from_now(), 0.0, load.glance()
    for first in range(0, values, batch.size):
        batch *= np.float32(-1.0)  # other values, as cheaply as can be
        began = time.perf_counter()
        rows = min(len(batch), (values - first) // neurons)
        history = history.merge(score_batch(batch[:rows], history).batch)
        elapsed += time.perf_counter() - began
    others = load.share_of_others(glance, load.glance())
    return (elapsed, others), _memory("VmHWM") - before


# ---- memory, imports ---------------------------------------------------------------------------


def peak_memory(file: str, variant: str, task: str) -> float:
    """Bytes that training takes at its peak: weights, Adam's means and three steps. Linux only.

    What the libraries themselves need is not counted: they have trained a small network before.
    """
    steps = import_module(f"benchmarks.{file}").steps
    large = TASKS[task]
    assert isinstance(large, Transformer)
    steps(replace(large, layers=1, channels=64, context=32, batch=2))[variant]()
    before = _peak_from_now()
    step = steps(TASKS[task])[variant]
    for _ in range(3):
        step()
    return _memory("VmHWM") - before


def _peak_from_now() -> float:
    """Forget the peak until now; returns what is in use."""
    Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


def _memory(name: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return float(line.split()[1]) * 1024.0
    raise RuntimeError(f"/proc/self/status has no {name}")


def import_times(
    modules: Sequence[str], rounds: int, tally: Tally, longest: float
) -> dict[str, list[float]]:
    """Seconds of `python -c "import ..."`, of nothing at all for "" too."""

    def run(module: str) -> None:
        script = f"import {module}" if module else ""
        subprocess.run([sys.executable, "-c", script], check=True)

    for module in modules:
        run(module)  # the files come into the disk's cache
    contestants = {module: partial(watched, partial(run, module), 0.0) for module in modules}
    return interleaved(contestants, rounds, random.Random(0), tally, longest)


# ---- cost as work grows ------------------------------------------------------------------------

MLP = Perceptron("", (64, 256, 256, 10), batch=256)
GPT = Transformer("", layers=2, channels=64, heads=4, context=64, batch=8)
PRODUCTS = Perceptron("", (512, 512, 512, 10), batch=256)

Curve = tuple[list[int], list[float]]  # sizes, seconds


def growth(rounds: int, longest: float) -> tuple[dict[str, Curve], Tally]:
    """Seconds of a training step, or of scoring, at growing sizes; the quickest of a few turns."""
    tally, until = Tally(), time.monotonic() + longest

    def steps(tasks: Mapping[int, Task]) -> dict[int, Callable[[], Any]]:
        return {n: ours.training_step(task.model(), task) for n, task in tasks.items()}

    def scoring(rows: int, neurons: int) -> Callable[[], Any]:
        z = np.random.default_rng(0).standard_normal((rows, neurons), dtype=np.float32)
        history = Moments.of(np.random.default_rng(1).standard_normal((64, neurons)))
        return lambda: score_batch(z, history)

    def deep(layers: int) -> Task:
        return Perceptron("", (256,) * (layers + 1) + (10,), batch=256)

    curves: dict[str, Callable[[], dict[int, Callable[[], Any]]]] = {
        "batch (MLP)": lambda: steps({n: replace(MLP, batch=n) for n in (128, 256, 512, 1024)}),
        "width (MLP)": lambda: steps(
            {n: replace(PRODUCTS, widths=(n, n, n, 10)) for n in (256, 512, 1024, 2048)}
        ),
        "depth (MLP)": lambda: steps({n: deep(n) for n in (2, 4, 8, 16)}),
        "context (GPT)": lambda: steps({n: replace(GPT, context=n) for n in (64, 128, 256, 512)}),
        "samples (scoring)": lambda: {
            n: scoring(n, 512) for n in (2048, 4096, 8192, 16384, 32768)
        },
        "neurons (scoring)": lambda: {n: scoring(4096, n) for n in (256, 512, 1024, 2048, 4096)},
    }
    found: dict[str, Curve] = {}
    for name, make in curves.items():
        functions = make()
        for function in functions.values():
            function()
        timed = {str(n): partial(watched, f, SHORT, warm=True) for n, f in functions.items()}
        left = until - time.monotonic()
        times = interleaved(timed, rounds, random.Random(0), tally, left)
        found[name] = list(functions), [min(t) for t in times.values()]
    return found, tally


def slope(curve: Curve) -> float:
    """The exponent of growth: the slope of a line through log size and log time."""
    sizes, times = curve
    return float(np.polyfit(np.log(sizes), np.log(times), 1)[0])


# ---- how much a step must compute --------------------------------------------------------------


def necessary(task: Task) -> tuple[float, float]:
    """Operations in the matrix products of a training step, and bytes that Adam moves.

    Products: one forward and two backward (but one where the input needs no gradient), causal
    attention counted once for each pair of positions that see each other. Adam reads four arrays
    and writes three.
    """
    if isinstance(task, Perceptron):
        pairs = [m * n for m, n in zip(task.widths, task.widths[1:], strict=False)]
        parameters = sum(pairs) + sum(task.widths[1:])
        operations = 2.0 * task.batch * (3 * sum(pairs) - pairs[0])
    else:
        C, tokens = task.channels, task.batch * task.context
        block = 12 * C * C
        parameters = task.layers * (block + 13 * C) + (task.vocabulary + task.context + 2) * C
        attention = 2 * tokens * (task.context + 1) / 2 * C  # multiply-adds: q k^T and P v
        operations = 6.0 * (
            tokens * (task.layers * block + task.vocabulary * C) + task.layers * attention
        )
    return operations, 28.0 * parameters

