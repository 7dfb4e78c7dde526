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


class Stream:
    """The float32 numbers that a module draws for some samples of a batch, call by call.

    In each call the batch has numbers of its own, made from `seed` and the number of the call, and
    a sample the same ones of them in whatever part it is.

    >>> whole, half = Stream([7], slice(0, 4)), Stream([7], slice(2, 4))
    >>> numbers = whole.generator(12).random((4, 3), dtype=np.float32)
    >>> (half.generator(6).random((2, 3), dtype=np.float32) == numbers[2:]).all()
    np.True_
    """

    def __init__(self, seed: list[int], samples: slice):
        self.seed, self.samples, self.calls = seed, samples, 0

    def generator(self, size: int) -> np.random.Generator:
        """Return a generator for the next call, which draws `size` numbers for these samples."""
        bits = np.random.PCG64([*self.seed, self.calls])
        self.calls += 1
        before = size * self.samples.start // (self.samples.stop - self.samples.start)
        generator = np.random.Generator(bits.advance(before // 2))  # two numbers of 64 bits
        if before % 2:
            generator.random(dtype=np.float32)
        return generator


def _check_places(state: dict[str, Any]) -> None:
    inner = state.get("state")
    for found in (state, inner if isinstance(inner, dict) else {}):
        for name, most in PLACES.items():
            if name in found and not 0 <= found[name] <= most:
                raise ValueError(f"{name} is {short(found[name])}, expected 0 to {most}")


def _check(rng: np.random.Generator, name: str) -> None:
    if not isinstance(rng, np.random.Generator):  # a seed has no state to keep
        raise TypeError(f"{name}: rng is {rng!r}, expected a numpy.random.Generator")
