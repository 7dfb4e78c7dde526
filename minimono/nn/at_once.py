"""What happens whole or not at all: several changes at once, and a step that is undone if it fails.

A Ctrl-C is such a failure: Python raises it between any two of its instructions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
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


def or_undone(undo: Callable[[], None], step: Callable[..., Result], *arguments: Any) -> Result:
    """What `step(*arguments)` returns; if it raises, `undo()` is called first."""
    try:
        return step(*arguments)
    except BaseException:
        undo()
        raise


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
