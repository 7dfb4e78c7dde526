"""Where a training step's time goes: python -m benchmarks.shares [TASK ...]

Steps run in place under Python's profiler, with one thread, so that times add up. For each network:
what its matrix products would take at the rate of one large product, measured beside it; what they
took beyond that; then each kind of kernel, Python with the tape, and PyTorch's step with one thread
where that is installed. Shares are of the step without the profiler.
"""

from __future__ import annotations

import argparse
import cProfile
import datetime
import pstats
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import numpy as np

from benchmarks import limits, load, ours, run
from benchmarks.rounds import is_installed, patched, seconds
from benchmarks.tasks import TASKS, Task, Transformer
from minimono import machine, sums
from minimono.backend import Array
from minimono.kernels.cpu import attention

ROUNDS, LEAST = 7, 0.25  # of each, and the seconds of a turn

# By the file that the time is spent in, the last two parts of its path; the first that fits.
KINDS = {
    "minimono/sums.py": "products",
    "cpu/attention.py": "attention",
    "cpu/activations.py": "activations",
    "cpu/linear.py": "bias and ReLU",
    "kernels/parallel.py": "bias and ReLU",
    "cpu/sums.py": "sums of bias gradients",
    "cpu/norms.py": "norms",
    "cpu/losses.py": "loss",
    "cpu/embedding.py": "embedding",
    "cpu/optim.py": "optimiser",
}
DOT = "<method 'dot' of 'numpy.ndarray' objects>"  # of no file; `sums.product` calls it
REST = "Python, tape and additions"
STEP, RATE, PEER = "a step", "a large product's rate", "PyTorch eager's step"
BESIDE = (RATE, PEER)  # what is no part of the step

ABOUT = (
    "Training steps of the networks of [Performance](performance.md), in place and with one "
    'thread, so that times add up. Products "at that rate" is the time of the step\'s matrix '
    "products if BLAS did them at the rate that it has for one large product, measured in the same "
    "rounds: the least that is possible with this BLAS. Attention's products are small, and take "
    "their time in bands; what they take without the softmax was measured by themselves. Shares "
    "are of our step."
)


def main(argv: Sequence[str] | None = None) -> None:
    """Print a table, and on request write its page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shares", allow_abbrev=False)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=", ".join(TASKS))
    parser.add_argument("--write", metavar="FILE", help="write the page there too")
    flags = parser.parse_args(argv)
    with patched({}, without=run.OF_BLAS):
        machine.set_num_threads(1)
        watch = load.Watch()
        found = {name: measured(TASKS[name]) for name in flags.tasks or list(TASKS)}
        text = page(found, watch.lap())
    print(text)
    if flags.write is not None:
        Path(flags.write).write_text(text, encoding="utf-8")


def page(found: dict[str, dict[str, float]], others: float | None) -> str:
    """Return a page with a table: a row for each kind, a column for each network."""
    names = dict.fromkeys(name for of_task in found.values() for name in of_task)
    rows = [["", *found], ["---"] * (1 + len(found))]
    for name in (*(n for n in names if n not in BESIDE), *(n for n in BESIDE if n in names)):
        cells = []
        for of_task in found.values():
            value = of_task.get(name)
            if value is None:
                cells.append("")
            elif name == RATE:
                cells.append(f"{value / 1e9:.0f} GFLOP/s")
            else:
                cells.append(f"{1e3 * value:.2f} ms, {value / of_task[STEP]:.0%}")
        rows.append([name, *cells])
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    busy = "unknown" if others is None else f"{others:.0%}"
    return (
        f"# Where a step's time goes\n\n{ABOUT}\n\nWritten by `python -m benchmarks.shares` on "
        f"{datetime.date.today()}: {run._processor()}, {machine.blas_described()}. "
        f"Others took {busy} of the machine meanwhile.\n\n{table}\n"
    )


def measured(task: Task, rounds: int = ROUNDS, least: float = LEAST) -> dict[str, float]:
    """Return seconds by what they are spent on, medians over rounds, and what is beside them."""
    step = ours.training_step(task.model(), task)
    contestants: dict[str, Callable[[], Any]] = {STEP: step}
    contestants["product"] = limits.steps(task)[limits.ONE]
    if isinstance(task, Transformer):
        contestants["attention's products"] = attention_without_softmax(task)
    if is_installed("torch"):
        import torch

        from benchmarks import torch_peer

        torch.set_num_threads(1)
        contestants[PEER] = torch_peer.training_step(task)
    turns: dict[str, list[float]] = defaultdict(list)
    with counted() as operations:
        step()
    for _ in range(rounds):
        for name, contestant in contestants.items():
            contestant()
            turns[name].append(seconds(contestant, least))
        for name, spent in profiled(step, least).items():
            turns[name].append(spent)
    times = {name: median(of_rounds) for name, of_rounds in turns.items()}
    rate = limits.OPERATIONS / times.pop("product")
    found = {STEP: times.pop(STEP)}
    beside = {RATE: rate} | ({PEER: times.pop(PEER)} if PEER in times else {})
    products = operations[0] / rate
    found["products, at that rate"] = products
    found["products, beyond that"] = times.pop("products") - products
    if isinstance(task, Transformer):
        at_best = attention_operations(task) / rate
        found["attention's products, at that rate"] = at_best
        found["attention's products, beyond that"] = times["attention's products"] - at_best
        found["attention's softmax"] = times.pop("attention") - times.pop("attention's products")
    del times[REST]  # the profiler slows down Python: what is left of the step is Python's
    found |= dict(sorted(times.items(), key=lambda item: -item[1]))
    found[REST] = found[STEP] - sum(t for name, t in found.items() if name != STEP)
    return found | beside


def profiled(step: Any, least: float) -> dict[str, float]:
    """Seconds of a step, by kind, as the profiler sees them."""
    profile, count = cProfile.Profile(), 0

    def one() -> None:
        nonlocal count
        profile.runcall(step)
        count += 1

    seconds(one, least)
    spent = dict.fromkeys((*dict.fromkeys(KINDS.values()), REST), 0.0)
    stats: Any = pstats.Stats(profile)  # whose table is not among its published types
    for (file, _, function), (_, _, own, _, _) in stats.stats.items():
        place = "minimono/sums.py" if function == DOT else "/".join(Path(file).parts[-2:])
        spent[KINDS.get(place, REST)] += own / count
    return {kind: time for kind, time in spent.items() if time > 0.0}


@contextmanager
def counted() -> Iterator[list[float]]:
    """Count the floating-point operations of all products outside attention, in this block."""
    operations, product = [0.0], sums.product

    def counting(a: Array, b: Array, out: Array | None = None) -> Array:
        operations[0] += 2.0 * a.shape[0] * a.shape[1] * b.shape[1]
        return product(a, b, out)

    sums.product = counting
    try:
        yield operations
    finally:
        sums.product = product


def attention_without_softmax(task: Transformer) -> Callable[[], None]:
    """Return what does the products of a step's attention, in their places, and no more."""
    shape = (task.batch, task.context, 3, task.heads, task.channels // task.heads)
    qkv = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    g = np.random.default_rng(1).standard_normal(qkv[:, :, 0].shape, dtype=np.float32)

    def products() -> None:
        with mock.patch.multiple(attention, weights_kernel=_nothing, weights_again_kernel=_nothing):
            for _ in range(task.layers):
                out, kept = attention.packed_attention_forward(qkv, None, True)
                attention.packed_attention_backward((True,), g, out, kept, qkv, None, True)

    return products


def _nothing(*arguments: object) -> None:
    pass


def attention_operations(task: Transformer) -> float:
    """Of the seven products of each head, two forward and five back, as they are cut in bands."""
    band, T = attention.BAND, task.context
    seen = sum(min(band, T - at) * min(at + band, T) for at in range(0, T, band))
    return 7 * 2.0 * seen * task.channels * task.batch * task.layers


if __name__ == "__main__":
    main()
