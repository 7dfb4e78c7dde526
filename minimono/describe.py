"""How things say in a line what they are: `__repr__` of modules, optimisers and running state.

    ScaleTracker(convention='paper', compensation=0.01, forget_after=10, batches_seen=3)

Arrays are shown by dtype and shape: what holds a million numbers still fits on the screen.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

_LONGEST = 200  # characters of one value


def line(thing: Any, **more: Any) -> str:
    """Return a `__repr__`: the class, its plain attributes, and what else is to be shown."""
    return f"{type(thing).__name__}({named(plain(vars(thing)) | more)})"


def named(values: Mapping[str, Any]) -> str:
    """Return name=value, name=value."""
    return ", ".join(f"{name}={short(value)}" for name, value in values.items())


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of public names that are numbers, text, arrays, or tuples of the first two."""
    return {
        name: value for name, value in values.items()
        if not name.startswith("_") and (_is_plain(value) or _is_array(value))
    }


def short(value: Any) -> str:
    """Return an array or tensor as "float32 (3, 4)", a single number as itself, long text cut."""
    if _is_array(value):
        return f"{value.dtype} {tuple(value.shape)}" if value.shape else repr(value.item())
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def amount(arrays: Collection[Any]) -> str:
    """Return how much is in arrays or tensors: "12 arrays, 3,456 numbers"."""
    return f"{len(arrays)} arrays, {sum(array.size for array in arrays):,} numbers"


def _is_plain(value: Any) -> bool:
    parts = value if isinstance(value, tuple) and value else (value,)
    return all(isinstance(part, bool | int | float | str) for part in parts)


def _is_array(value: Any) -> bool:
    return not isinstance(value, type) and hasattr(value, "dtype") and hasattr(value, "shape")
