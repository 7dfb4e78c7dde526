"""Where a training step's time goes: python -m benchmarks.shares [TASK ...]

Steps run in place under Python's profiler, with one thread, so that times add up. For each network:
what its matrix products would take at the rate of one large product, measured beside it; what they
took beyond that; then each kind of kernel, Python with the tape, and PyTorch's step with one thread
where that is installed. Shares are of the step without the profiler.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import numpy as np

from benchmarks import limits, ours
from benchmarks.rounds import is_installed, patched, seconds
from benchmarks.run import OF_BLAS
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
REST = "Python, tape and additions"


def main(argv: Sequence[str] | None = None) -> None:
    """Print a table for each network."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shares", allow_abbrev=False)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=", ".join(TASKS))
    names = parser.parse_args(argv).tasks or list(TASKS)
    with patched({}, without=OF_BLAS):
        machine.set_num_threads(1)
        print(machine.blas_described())
        for name in names:
            print_shares(TASKS[name])


def print_shares(task: Task) -> None:
    found = measured(task)
    step = found.pop("a step")
    print(f"\n{task.name}: {1e3 * step:.1f} ms a step, one thread")
    for what, time in found.items():
        print(f"{what:44s} {1e3 * time:8.2f} ms {time / step:7.1%}")


def measured(task: Task, rounds: int = ROUNDS, least: float = LEAST) -> dict[str, float]:
    """Seconds, by what they are spent on, medians over rounds; "a step" is the whole."""
    step = ours.training_step(task.model(), task)
    contestants = {"a step": step, "product": limits.steps(task)[limits.ONE]}
    if isinstance(task, Transformer):
        contestants["attention's products"] = attention_without_softmax(task)
    if is_installed("torch"):
        import torch

        from benchmarks import torch_peer

        torch.set_num_threads(1)
        contestants["PyTorch eager's step"] = torch_peer.training_step(task)
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
    found = {"a step": times.pop("a step")}
    peer = times.pop("PyTorch eager's step", None)
    products = operations[0] / rate
    found[f"products, at {rate / 1e9:.0f} GFLOP/s"] = products
    found["products, beyond that"] = times.pop("products") - products
    if isinstance(task, Transformer):
        at_best = attention_operations(task) / rate
        found["attention's products, at that rate"] = at_best
        found["attention's products, beyond that"] = times["attention's products"] - at_best
        found["attention's softmax"] = times.pop("attention") - times.pop("attention's products")
    del times[REST]  # the profiler slows down Python: what is left of the step is Python's
    found |= dict(sorted(times.items(), key=lambda item: -item[1]))
    found[REST] = found["a step"] - sum(t for name, t in found.items() if name != "a step")
    return found | ({} if peer is None else {"(PyTorch eager's step, one thread)": peer})


def profiled(step: Any, least: float) -> dict[str, float]:
    """Seconds of a step, by kind, as the profiler sees them."""
    profile, count = cProfile.Profile(), 0

    def one() -> None:
        nonlocal count
        profile.runcall(step)
        count += 1

    seconds(one, least)
    spent = dict.fromkeys((*dict.fromkeys(KINDS.values()), REST), 0.0)
    for (file, _, _), (_, _, own, _, _) in pstats.Stats(profile).stats.items():
        spent[KINDS.get("/".join(Path(file).parts[-2:]), REST)] += own / count
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
    os.environ.setdefault("MINIMONO_NUM_THREADS", "1")
    main()
