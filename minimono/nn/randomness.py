"""A random generator's state as an array, so that a checkpoint can hold it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from minimono import files
from minimono.backend import Array
from minimono.describe import short

# Where a generator is in its numbers, and how many it has: NumPy reads there unchecked.
PLACES = {"pos": 624, "buffer_pos": 4}


def pack_rng(rng: np.random.Generator) -> Array:
    """The state of a generator, as the bytes of its JSON text."""
    _check(rng, "pack_rng")
    text = json.dumps(rng.bit_generator.state, default=np.ndarray.tolist)  # some hold arrays
    return np.frombuffer(text.encode(), dtype=np.uint8)


def unpack_rng(packed: Array, *, into: np.random.Generator) -> None:
    """Set a generator to a packed state; it then goes on as the packed one would have.

    >>> rng, other = np.random.default_rng(0), np.random.default_rng(1)
    >>> unpack_rng(pack_rng(rng), into=other)
    >>> float(rng.random()) == float(other.random())
    True
    """
    _check(into, "unpack_rng")
    before = into.bit_generator.state
    try:
        state = files.parse_json(bytes(packed), "it")
        _check_places(state)
        into.bit_generator.state = state
    except Exception as error:  # NumPy raises almost anything
        into.bit_generator.state = before  # it is set part by part
        raise ValueError(f"generator state cannot be read: {error}") from error


def _check_places(state: dict[str, Any]) -> None:
    inner = state.get("state")
    for found in (state, inner if isinstance(inner, dict) else {}):
        for name, most in PLACES.items():
            if name in found and not 0 <= found[name] <= most:
                raise ValueError(f"{name} is {short(found[name])}, expected 0 to {most}")


def _check(rng: np.random.Generator, name: str) -> None:
    if not isinstance(rng, np.random.Generator):  # a seed has no state to keep
        raise TypeError(f"{name}: rng is {rng!r}, expected a numpy.random.Generator")
