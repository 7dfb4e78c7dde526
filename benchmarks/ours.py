"""minimono itself, as a user writes it; and its kernels by hand."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks import by_hand
from benchmarks.tasks import BETA1, BETA2, EPS, RATE, Task
from minimono.backend import Array
from minimono.engine.functional import cross_entropy
from minimono.engine.tensor import Tensor
from minimono.mono.inhibition import MEmeL
from minimono.nn import backward_in_parts, taps
from minimono.nn.module import Module
from minimono.nn.optim import Adam

MINIMONO, IN_PARTS = "minimono", "minimono, the batch in parts"
BY_HAND, WITH_MEMEL = "its kernels by hand", "with MEmeL"


def training_step(model: Module, task: Task, in_parts: bool = False) -> Callable[[], float]:
    """A function that does one step and returns the loss before it."""
    x, y = task.data()
    optimiser = Adam(model.parameters(), RATE, betas=(BETA1, BETA2), eps=EPS)

    def loss_of(model: Module, x: Array, y: Array) -> Tensor:
        return cross_entropy(model(x), y)

    def step() -> float:
        optimiser.zero_grad()
        if in_parts:
            value = backward_in_parts(loss_of, model, (x, y))
        else:
            loss = loss_of(model, x, y)
            loss.backward()
            value = loss.item()
        optimiser.step()
        return value

    return step


def steps(task: Task) -> dict[str, Callable[[], float]]:
    return {
        MINIMONO: training_step(task.model(), task),
        IN_PARTS: training_step(task.model(), task, in_parts=True),
        BY_HAND: by_hand.training_step(task),
    }


def memel_steps(task: Task) -> dict[str, Callable[[], float]]:
    """The same step, without and with MEmeL behind the second and third of four blocks."""
    model = task.model()
    for tap in ("block.1.out", "block.2.out"):
        taps.insert(model, tap, MEmeL(start_after=1))
    model.train()
    return {MINIMONO: training_step(task.model(), task), WITH_MEMEL: training_step(model, task)}
