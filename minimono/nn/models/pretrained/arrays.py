"""The arrays of a folder or file of weights: which are there, do they fit, and reading one by one.

A network's description (`Plan`) says which of their arrays make which parameter of ours (`Part`).
All of it is compared with the headers of the files before memory is asked for, and whatever does
not fit is said at once. Then each parameter is read in turn: a file is mapped into memory for one
array only, so that memory holds the network, and the array that is being read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from minimono.backend import Array
from minimono.nn.models.pretrained import settings
from minimono.nn.module import Module

Generator = np.random.Generator
FLOATS = {"F64": np.float64, "F32": np.float32, "F16": np.float32, "BF16": np.float32}
SAID = 5  # how many names of each kind an error tells


class Weights(Protocol):
    """What is stored: settings, names, and what is known of each array before it is read."""

    config: dict[str, Any]

    def names(self) -> Iterable[str]: ...
    def where(self, name: str) -> str: ...
    def shape(self, name: str) -> tuple[int, ...]: ...
    def kind(self, name: str) -> str: ...
    def read(self, name: str) -> Array: ...
    def rope_factors(self) -> Array | None: ...


@dataclass(frozen=True)
class Part:
    """A parameter of ours, made of arrays of theirs, all of one shape, one above the other.

    Made of none, it is one that the file lacks. `convert` is applied to each.
    """

    ours: str
    theirs: list[str]
    shape: tuple[int, ...]
    convert: Callable[[Array], Array] = lambda x: x


def layer(
    ours: str, theirs: list[str], shape: tuple[int, ...], *, bias: bool = True,
    convert: Callable[[Array], Array] = lambda x: x,
) -> Iterator[Part]:
    """Yield the weight of a layer, and its bias: one number for each row."""
    yield Part(f"{ours}.weight", [f"{name}.weight" for name in theirs], shape, convert)
    if bias:
        yield Part(f"{ours}.bias", [f"{name}.bias" for name in theirs], shape[:1], convert)


@dataclass(frozen=True)
class Plan:
    """A network that a folder describes: `make(rng=..., dtype=...)` it, and fill it with `parts`.

    `harmless` is a pattern of arrays that hold no weights, or none of ours.
    """

    make: Callable[..., Module]
    arrays: Arrays
    parts: Iterator[Part]
    harmless: str


class Arrays:
    """The stored arrays by their bare names: each class of theirs has prefixes of its own, and
    old versions called a norm's weight and bias gamma and beta."""

    def __init__(self, weights: Weights, base: str, renamed: Callable[[str], str] = lambda x: x):
        self.weights = weights
        self.stored: dict[str, str] = {}
        for stored in weights.names():
            if len(stored) > 200:
                raise ValueError(
                    f"{weights.where(stored)} has an array named {settings.short(stored)}"
                )
            name = re.sub(rf"^(model\.)?({base}\.)?", "", stored)
            name = re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", name))
            name = renamed(name)
            other = self.stored.setdefault(name, stored)
            if other != stored and not self._same(other, stored):
                raise ValueError(
                    f"{weights.where(stored)} has both {other} and {stored}, which differ"
                )

    def __contains__(self, name: str) -> bool:
        return name in self.stored

    def check_tied(self, name: str, other: str) -> None:
        """Raise if both are stored, but are not the same."""
        if name in self and other in self and not self._same(self.stored[name], self.stored[other]):
            raise ValueError(
                f"{self.weights.where(self.stored[name])}: {name} differs from {other}; with "
                "tie_word_embeddings the network reads and writes tokens with one matrix"
            )

    def _same(self, stored: str, other: str) -> bool:
        return self.weights.shape(stored) == self.weights.shape(other) and np.array_equal(
            self._read(stored), self._read(other)
        )

    def _read(self, stored: str) -> Array:
        self._floats(stored)
        return self.weights.read(stored)

    def _floats(self, stored: str) -> str:
        kind = self.weights.kind(stored)
        if kind not in FLOATS:
            raise ValueError(
                f"{self.weights.where(stored)} has {stored} in {kind}, expected one of {[*FLOATS]}"
            )
        return kind

    def check(self, parts: Iterator[Part], harmless: str) -> tuple[list[Part], type]:
        """Return the parts, and the dtype that holds them all, once each array is known to fit.

        Raises ValueError that names all that does not: first what is missing.
        """
        checked, kinds, used = [], set(), set()
        missing: list[str] = []
        wrong: list[str] = []
        for part in parts:
            for name in part.theirs:
                used.add(name)
                if name not in self.stored:
                    missing.append(name)
                    continue
                stored = self.stored[name]
                if (shape := self.weights.shape(stored)) != part.shape:
                    wrong.append(f"{stored} of shape {shape}, config.json asks for {part.shape}")
                elif (kind := self.weights.kind(stored)) in FLOATS:
                    kinds.add(kind)
                else:
                    wrong.append(f"{stored} in {kind}, expected one of {[*FLOATS]}")
            if len(missing) > 100:  # the number of layers may be anything
                break
            checked.append(part)
        strangers = sorted(
            stored for name, stored in self.stored.items()
            if name not in used and not re.fullmatch(harmless, name)
        ) if len(missing) <= 100 else []
        said = []
        if missing:
            said.append(f"has no array {_some(missing)}, which config.json asks for")
        if wrong:
            said.append(f"has {_some(wrong)}")
        if strangers:
            said.append(
                f"has {len(strangers)} arrays without a place in the network that config.json "
                f"describes: {_some(strangers)}"
            )
        if said:
            raise ValueError(f"{self.weights.where('')} {'; it '.join(said)}")
        return checked, np.float64 if "F64" in kinds else np.float32

    def read(self, part: Part, dtype: Any) -> Array:
        """Return the parameter, an array of its own."""
        pieces = []
        for name in part.theirs:
            array = self._read(self.stored[name])
            if not np.isfinite(array).all():
                raise ValueError(
                    f"{self.weights.where(self.stored[name])} has nan or inf in "
                    f"{self.stored[name]}"
                )
            pieces.append(part.convert(array))
        array = np.concatenate(pieces) if len(pieces) > 1 else pieces[0]
        return array.astype(dtype, order="C", copy=False)


def _some(names: list[str]) -> str:
    more = len(names) - SAID
    return ", ".join(names[:SAID]) + (f" and {more} more" if more > 0 else "")


class _Nothing(np.ndarray):
    """Zeros without memory, however they are scaled."""

    def __rmul__(self, other: Any) -> Any:
        return self

    def astype(self, dtype: Any, *_: Any, **__: Any) -> Any:
        return np.broadcast_to(np.zeros((), dtype), self.shape)


class Zeros(Generator):
    """Draws zeros, in no time, for a network of which every weight is about to be replaced."""

    def __init__(self) -> None:
        super().__init__(np.random.PCG64(0))

    def standard_normal(self, size: Any) -> Array:  # type: ignore[override]
        return np.broadcast_to(np.zeros(()), size).view(_Nothing)

    def uniform(self, low: float, high: float, size: Any) -> Array:  # type: ignore[override]
        return self.standard_normal(size)


def filled(
    plan: Plan, parts: list[Part], dtype: type, rng: Generator | None, spread: float
) -> Module:
    """Return the network with each parameter as it is stored; what no array has is drawn.

    First all are emptied, so that there are never two sets.
    """
    model = plan.make(rng=Zeros(), dtype=dtype)
    parameters = dict(model.named_parameters())
    for p in parameters.values():
        p.data = np.broadcast_to(np.zeros((), p.dtype), p.shape)
    for part in parts:
        p = parameters.pop(part.ours)
        if part.theirs:
            p.data = plan.arrays.read(part, p.dtype)
        else:
            assert rng is not None
            value = np.zeros(p.shape) if p.ndim == 1 else rng.normal(0.0, spread, p.shape)
            p.data = value.astype(p.dtype)
    assert not parameters, f"no arrays for {[*parameters]}"
    return model


def fresh(plan: Plan, dtype: type, rng: Generator, spread: float) -> Module:
    """Return the network as before its training: weights normal with this standard deviation."""
    model = plan.make(rng=rng, dtype=dtype)
    for _, p in model.named_parameters():
        if p.ndim >= 2:  # ours are drawn with a spread of 0.02
            p.data = p.array * p.dtype.type(spread / 0.02)
    return model
