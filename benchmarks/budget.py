"""What the tape itself costs, in nanoseconds a call: python -m benchmarks.budget

The arrays are so small that nearly all of the time is Python's. The least of many repetitions is
taken, since foreign load only adds. Beside each figure is its budget: what an AMD EPYC core
(family 25, 2.4 GHz) took on 2026-11-29, and a tenth more.
"""

from __future__ import annotations

import timeit
from collections.abc import Callable
from contextlib import nullcontext

import numpy as np

from minimono import no_grad
from minimono.engine.functional import cross_entropy, relu
from minimono.engine.primitives import add
from minimono.engine.tape import pull_back, tape_of
from minimono.engine.tensor import Tensor
from minimono.kernels.parallel import product
from minimono.kernels.seam import device_with_float_kernels
from minimono.nn.models import MLP
from minimono.nn.optim import Adam

MANY = 100  # parameters of the optimiser; operations on the tape that is walked

BUDGET = {  # nanoseconds
    "a decision of the seam, three arrays": 640,
    "a matrix product": 1800,
    "a primitive's call, on the tape": 2900,
    "a kernel's call, on the tape": 5100,
    "a pull of a kernel": 5000,
    "a step of the walk, its pull included": 7000,
    "a parameter of the optimiser": 6900,
    "a training step, three tiny layers": 250_000,
}


def calls() -> dict[str, tuple[Callable[[], object], int]]:
    """What is timed, by name, and how often it happens in one call."""
    x, y = (Tensor(np.ones((2, 2), np.float32), requires_grad=True) for _ in range(2))
    arrays = (x.array, y.array, x.array)
    made, g, wanted = relu(x), Tensor(np.ones((2, 2), np.float32)), {id(x)}
    assert made.origin is not None
    relu_pull = made.origin.operation.pull

    chain = x
    for _ in range(MANY):
        chain = relu(chain)
    tape = tape_of(chain)
    on_tape = {id(node) for node in tape}

    parameters = [Tensor(np.ones((2, 2), np.float32), requires_grad=True) for _ in range(MANY)]
    for p in parameters:
        p.grad = np.ones((2, 2), np.float32)

    model, batch, classes = MLP((2, 2, 2, 2), rng=0), x.array, np.array([0, 1])
    optimiser = Adam(model.parameters())

    def training_step() -> None:
        optimiser.zero_grad()
        cross_entropy(model(batch), classes).backward()
        optimiser.step()

    return {
        "a decision of the seam, three arrays": (lambda: device_with_float_kernels(arrays), 1),
        "a matrix product": (lambda: product(x.array, y.array), 1),
        "a primitive's call, on the tape": (lambda: add(x, y), 1),
        "a kernel's call, on the tape": (lambda: relu(x), 1),
        "a pull of a kernel": (lambda: list(relu_pull(g, made, wanted)), 1),
        "a step of the walk, its pull included": (
            lambda: pull_back(tape, chain, g, [x], on_tape), MANY,
        ),
        "a parameter of the optimiser": (Adam(parameters).step, MANY),
        "a training step, three tiny layers": (training_step, 1),
    }


def measured(call: Callable[[], object], times: int) -> float:
    """The nanoseconds of one: the least of many repetitions."""
    once = min(timeit.repeat(call, number=1, repeat=5))
    number = max(1, int(1e-3 / once))  # a repetition takes a millisecond: few are interrupted
    return min(timeit.repeat(call, number=number, repeat=200)) / (number * times) * 1e9


def main() -> None:
    """Print a line for each."""
    for name, (call, times) in calls().items():
        walked_back = "pull" in name  # which goes through kernels only if nothing is recorded
        with no_grad() if walked_back else nullcontext():
            found = measured(call, times)
        print(f"{name:40s} {found:6.0f} ns, budget {BUDGET[name]}")


if __name__ == "__main__":
    main()
