"""minimono itself, as a user writes it."""

from __future__ import annotations

from collections.abc import Callable

from minimono.bench import by_hand
from minimono.bench.tasks import BETA1, BETA2, EPS, RATE, Task
from minimono.engine.functional import cross_entropy
from minimono.nn.module import Module
from minimono.nn.optim import Adam


def training_step(model: Module, task: Task) -> Callable[[], float]:
    """A function that does one step and returns the loss before it."""
    x, y = task.data()
    optimiser = Adam(model.parameters(), RATE, betas=(BETA1, BETA2), eps=EPS)

    def step() -> float:
        optimiser.zero_grad()
        loss = cross_entropy(model(x), y)
        loss.backward()
        optimiser.step()
        return loss.item()

    return step


def steps(task: Task) -> dict[str, Callable[[], float]]:
    return {
        "minimono": training_step(task.model(), task),
        "minimono's kernels by hand": by_hand.training_step(task),
    }
