"""Change several things at once: all of them, or none."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any


def set_all(changes: Sequence[tuple[object, str, Any]]) -> None:
    """Set attributes, (object, name, value) each, whatever happens meanwhile.

    One call in C for all of them: Python raises a Ctrl-C between its own instructions only, so it
    comes before the first or after the last. What could fail has to be done before.
    """
    if changes:
        deque(map(setattr, *zip(*changes, strict=True)), maxlen=0)
