"""What happens whole or not at all: several changes at once, and a step that is undone if it fails.

A Ctrl-C is such a failure: Python raises it between any two of its instructions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")


class Remembering(Protocol):
    """Something whose state can be put back."""

    def remember(self) -> Callable[[], None]:
        """Return a call that puts the state back as it is now."""
        ...


Owner = TypeVar("Owner", bound=Remembering)


def set_all(changes: Sequence[tuple[object, str, Any]]) -> None:
    """Set attributes, (object, name, value) each, and be interrupted before all or after all.

    One call in C, within which Python raises no Ctrl-C. What could fail has to be done before.
    """
    if changes:
        deque(map(setattr, *zip(*changes, strict=True)), maxlen=0)


def undo_of_step(modules: Iterable[Any], optimiser: Any) -> Callable[[], None]:
    """Return a call that undoes what a training step has changed, unless the step is complete.

    It is complete once `optimiser.step()` has set all parameters, and with them a new list of
    updates. Until then only modules' states, their modes and the learning rate can have changed.
    """
    lr, updates = optimiser.lr, optimiser.updates
    before = [(module, module.training, module.remember()) for module in modules]

    def undo() -> None:
        if optimiser.updates is updates:
            optimiser.lr = lr
            for module, training, put_back in before:
                module.training = training
                put_back()

    return undo


def all_or_nothing(
    method: Callable[Concatenate[Owner, Arguments], Result],
) -> Callable[Concatenate[Owner, Arguments], Result]:
    """A method that, if it raises, leaves what its owner remembers as it was before."""

    @wraps(method)
    def whole(self: Owner, /, *arguments: Arguments.args, **options: Arguments.kwargs) -> Result:
        undo = self.remember()
        try:
            return method(self, *arguments, **options)
        except BaseException:
            undo()
            raise

    return whole
