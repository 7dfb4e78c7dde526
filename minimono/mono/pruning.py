"""Which weights of a network survive, and how large they start: what emergence is studied with.

    prune_by_magnitude          masks without the smallest weights
    initialise_by_distance      smaller weights before the middle layer, larger ones behind it
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

import numpy as np

from minimono import checks
from minimono.backend import Array, array_module


def prune_by_magnitude(
    weights: Sequence[Array], fraction: float, *, scope: Literal["layer", "global"] = "layer"
) -> list[Array]:
    """Return masks that keep the largest weights: False for the `fraction` smallest in magnitude.

    weights: arrays of any shape, one for each layer; biases stay out of it.   scope: the fraction
    is of each layer, or "global" of all weights together.   Exactly round(fraction · size) go, a
    half to the even number, the fraction taken as the decimal it is written as. Of equal
    magnitudes those go first that come first, by layer and then in C order. So a higher fraction
    prunes all that a lower one does. 0 keeps all, 1 none.

    The source says magnitude pruning, no more: ties, rounding and default scope are our choice.

    >>> prune_by_magnitude([np.array([[0.1, -3.0], [2.0, -0.2]])], 0.5)
    [array([[False,  True],
           [ True, False]])]
    """
    sizes = [abs(w) for w in _arrays(weights)]
    share = checks.share(fraction, "prune_by_magnitude: fraction", least=0, most=1)
    checks.one_of(scope, "prune_by_magnitude: scope", ("layer", "global"))
    xp = array_module(*sizes)  # an error if they are on different devices
    flat = [w.reshape(-1) for w in sizes]
    if scope == "global":
        ends = np.cumsum([len(w) for w in flat])[:-1].tolist()
        kept = xp.split(_largest(xp.concatenate(flat), share), ends)
    else:
        kept = [_largest(w, share) for w in flat]
    return [mask.reshape(w.shape) for mask, w in zip(kept, sizes, strict=True)]


def _largest(sizes: Array, share: Fraction) -> Array:
    """A flat mask without the `share` smallest."""
    xp = array_module(sizes)
    pruned = round(share * len(sizes))
    mask = xp.ones(len(sizes), dtype=bool)
    mask[xp.argsort(sizes, kind="stable")[:pruned]] = False
    return mask


def _arrays(weights: Sequence[Array]) -> list[Array]:
    name = "prune_by_magnitude: weights"
    if not isinstance(weights, list | tuple):  # the rows of one array would pass for layers
        raise TypeError(f"{name} is a {type(weights).__name__}, expected a list of arrays")
    checks.several(weights, name, "an array")
    return [checks.finite_activations(w, f"{name}[{i}]") for i, w in enumerate(weights)]


def initialise_by_distance(
    shapes: Sequence[tuple[int, ...]], alpha: float, *, rng: checks.Rng
) -> list[Array]:
    """Return Xavier weights, smaller before the middle layer and larger behind it.

        W_n = α^n · Xavier,     n = ..., -2, -1, 0, 1, 2, ... with 0 the middle layer

    that is 1/α^|n| in the first half, α^|n| in the second (Li, George and Silva, arXiv 2407.19044,
    to raise emergence). With an even number of layers there is no middle one and n is
    ..., -2, -1, 1, 2, ... (our reading). Xavier is uniform in ±√(6 / (fan_in + fan_out)), as
    PyTorch's `xavier_uniform_` (our choice). The factors multiply to 1, so a ReLU network without
    biases computes what it did.

    shapes: of each layer's weights, input side first, (out, in) or (out, in, y, x). α > 0; 1 is
    plain Xavier. Returns float64 arrays.

    >>> first, last = initialise_by_distance([(4, 3), (2, 4)], 2.0, rng=np.random.default_rng(0))
    >>> bool(abs(first).max() < (6 / 7) ** 0.5 / 2), last.shape
    (True, (2, 4))
    """
    rng = checks.generator(rng, "initialise_by_distance: rng")
    shapes = [tuple(shape) for shape in shapes]
    half = len(shapes) // 2
    distances = [*range(-half, 0), *([0] if len(shapes) % 2 else []), *range(1, half + 1)]
    return [
        factor * _xavier(shape, rng, f"initialise_by_distance: shapes[{i}]")
        for i, (factor, shape) in enumerate(zip(_powers(alpha, distances), shapes, strict=True))
    ]


def _powers(alpha: float, exponents: list[int]) -> list[float]:
    alpha = checks.number(alpha, "initialise_by_distance: alpha", above=0.0)
    try:
        powers = [alpha**n for n in exponents]
    except OverflowError:
        powers = [0.0]
    if not all(powers):
        raise ValueError(
            f"initialise_by_distance: alpha is {alpha}, expected a positive number whose power "
            f"{exponents[-1]} (half of {len(exponents)} layers) float64 can hold"
        )
    return powers


def _xavier(shape: tuple[int, ...], rng: np.random.Generator, name: str) -> Array:
    if len(shape) < 2:
        raise ValueError(f"{name} is {shape}, expected (out, in) or (out, in, y, x); no biases")
    shape = checks.whole_numbers(shape, name, least=1)
    fan_in, fan_out = math.prod(shape[1:]), shape[0] * math.prod(shape[2:])
    bound = math.sqrt(6 / (fan_in + fan_out))
    return rng.uniform(-bound, bound, shape)
