"""The training loop, as a generator: it yields a record of each step and prints nothing.

    for record in train(model, batches, loss, optimiser, steps=1000):
        ...                                                # print, plot, evaluate, save, stop
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from minimono import checks, lazy
from minimono.engine.tensor import Tensor
from minimono.nn.at_once import undo_of_step
from minimono.nn.data_parallel import backward_in_parts
from minimono.nn.module import Module
from minimono.nn.optim import Optimiser, clip_grad_norm, gradient_norm

__all__ = ["Record", "TrainingError", "train"]
__dir__ = lazy.only(__name__, __all__)


class TrainingError(RuntimeError):
    """Training cannot go on. Model and optimiser are as before the step that failed."""


@dataclass(frozen=True)
class Record:
    """What happened in one step."""

    step: int  # updates done so far: 1 after the first
    loss: float  # of this step's batch, before the update
    learning_rate: float
    gradient_norm: float  # over all the optimiser's parameters, before clipping
    seconds: float  # from asking for the batch to the end of the update


def train(
    model: Module,
    batches: Iterable[tuple[Any, ...]],
    loss: Callable[..., Tensor],
    optimiser: Optimiser,
    *,
    steps: int,
    start: int = 0,
    schedule: Callable[[int], float] | None = None,
    max_norm: float | None = None,
    in_parts: bool = False,
) -> Iterator[Record]:
    """Train until `steps` updates are done, from `start` of them; yields a Record after each.

    A step takes the next of `batches`, computes `loss(model, *batch)` in training mode, goes back
    for the gradients, and lets the optimiser update. A part that was put in `eval()` before
    training started, while the model itself was not, stays in it.
    `schedule(n)` gives the learning rate after n updates; without it the optimiser keeps its own.
    `max_norm` clips the gradients' norm. `in_parts` says that the loss is a mean over samples, so
    that `backward_in_parts` may cut a batch where that pays; the fastest for transformers.

    To resume, restore a checkpoint that was saved between two records, with `start` its step: the
    batches are not prefetched, so the state that their generator has then makes the next batch.

    Raises TrainingError for a loss or gradient that is nan or infinite, and if the batches end
    early. Whatever is raised, a Ctrl-C too, a step happens or it does not: after one that failed
    parameters, running moments, dropout's generators, each part's `training`, the optimiser and its
    learning rate are as before it (gradients are not, and its batch is gone).
    """
    checks.whole_number(start, "train: start", least=0, most=steps, of="the steps")
    source = iter(batches)
    stay_in_eval = {id(m) for _, m in model.named_modules() if model.training and not m.training}
    for step in range(start, steps):
        began = time.perf_counter()
        batch = next(source, None)
        if batch is None:
            raise TrainingError(f"train: the batches ended after {step} of {steps} steps")
        modules = [module for _, module in model.named_modules()]
        undo = undo_of_step(modules, optimiser)
        try:
            if schedule is not None:
                optimiser.lr = schedule(step)
            for module in modules:  # again at each step: the caller may have evaluated in between
                module.training = id(module) not in stay_in_eval
            optimiser.zero_grad()
            if in_parts:
                loss_value = backward_in_parts(loss, model, batch)
            else:
                loss_value = _backward(loss(model, *batch))
            if max_norm is None:
                norm = gradient_norm(optimiser.parameters)
            else:
                norm = clip_grad_norm(optimiser.parameters, max_norm)
            record_loss, record_norm = float(loss_value), float(norm)  # waits for a GPU
            _check_finite(step + 1, "loss", record_loss)
            _check_finite(step + 1, "gradient norm", record_norm)
            optimiser.step()
        except BaseException:  # a Ctrl-C, too
            undo()
            raise
        seconds = time.perf_counter() - began
        yield Record(step + 1, record_loss, optimiser.lr, record_norm, seconds)


def _backward(loss: Any) -> Any:
    """Fill the parameters' gradients; return the loss as an array, so that its tape is freed."""
    checks.instance(loss, "train: what loss returned", Tensor).backward()
    return loss.array


def _check_finite(step: int, what: str, value: float) -> None:
    if not math.isfinite(value):
        raise TrainingError(
            f"train: the {what} of step {step} is {value}; model and optimiser are as before it. "
            "Lower the learning rate, or clip the gradients (max_norm)"
        )
