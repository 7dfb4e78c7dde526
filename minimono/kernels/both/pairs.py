"""Means over all pairs of inputs, in one walk over the inputs.

What a sum of vectors squared has in it is each vector by itself and every pair twice. So for unit
vectors v̂, weights a, and a mean m of the v̂:

    Σ_{i<j} a_i a_j v̂_i · v̂_j = (||Σ a_i v̂_i||² - Σ a_i²) / 2
    Σ_{i<j} (1 - v̂_i · v̂_j)   = n Σ ||v̂_i - m||² / 2

The second adds what is not negative, and keeps its digits also where all vectors are nearly
parallel. The first subtracts, and loses all of them where one input outweighs the rest. Counted
apart, the heaviest input, whose weight is 1 here, takes no part in the difference:

    v̂_1 · V + (||V||² - Σ' a_i²) / 2,     V = Σ' a_i v̂_i,     Σ' without input 1

With all cosines 1 that is W = s + (s² - Σ' a_i²) / 2, s = Σ' a_i, the sum of all weights of pairs.
As no weight is above 1, Σ' a_i² <= s <= W and s² <= 2 W: what is added and subtracted is
2.5 times as large as W at most. So a weighted mean of cosines is off by some roundings of its
sums, which are taken in pairs (`sums.py`), whatever the weights and however many inputs there are.

Inputs are walked block by block, so that little memory is needed beside them.
"""

import math
from collections.abc import Iterator

import numpy as np

from minimono import sums
from minimono.backend import Array, array_module
from minimono.kernels.parallel import product

BLOCK = 1 << 19  # numbers of a block, which stay in the cache (our choice)


def weighted_cosine(z: Array, embeddings: Array) -> Array:
    xp = array_module(z, embeddings)
    flat = z.reshape(len(z), -1)  # (B, *neurons) -> (B, neurons)
    neurons, D = flat.shape[1], embeddings.shape[1]
    blocks = list(_blocks(len(z), neurons + D))
    least, most = flat[0], flat[0]
    block_of_most = xp.zeros(neurons, np.int64)
    for number, rows in enumerate(blocks):
        highest = flat[rows].max(axis=0)
        block_of_most = xp.where(highest > most, number, block_of_most)
        least, most = xp.minimum(least, flat[rows].min(axis=0)), xp.maximum(most, highest)
    least, most = least.astype(np.float64), most.astype(np.float64)
    heaviest = xp.zeros((D, neurons))
    vectors, weights, squares = sums.Sum(), sums.Sum(), sums.Sum()
    with np.errstate(all="ignore"):
        half = xp.where(xp.isfinite(most - least), 1.0, 0.5)  # whose difference is finite
        least, most = least * half, most * half
        for number, rows in enumerate(blocks):
            a = (flat[rows] * half - least) / (most - least)  # (b, neurons)
            unit = sums.unit(embeddings[rows])  # (b, D)
            (here,) = xp.nonzero(block_of_most == number)
            if here.size:
                row = a[:, here].argmax(axis=0)
                heaviest[:, here] = unit[row].T
                a[row, here] = 0.0
            vectors.add(product(unit.T, a))
            weights.add(sums.total(a, axis=0))
            squares.add(sums.total(a * a, axis=0))
        nothing = xp.zeros(neurons)
        V = vectors.total(xp.zeros((D, neurons)))
        s, s2 = weights.total(nothing), squares.total(nothing)
        alike = sums.total(heaviest * V, axis=0) + (sums.total(V * V, axis=0) - s2) / 2
        return (alike / (s + (s * s - s2) / 2)).reshape(z.shape[1:])


def mean_distance(v: Array) -> Array:
    n, D = v.shape[-2:]
    groups = v.reshape(-1, n, D)  # (..., n, D) -> (groups, n, D)
    found = [_spread(groups[part]) / (n - 1) for part in _blocks(len(groups), n * D)]
    return array_module(v).concatenate(found).reshape(v.shape[:-2])


def _spread(v: Array) -> Array:
    """Return Σ ||v̂ - mean v̂||² of each group (g, n, D): within blocks of rows, and between them."""
    xp, n = array_module(v), v.shape[1]
    within, means, roots = [], [], []
    for rows in _blocks(n, v.shape[2]):
        unit = sums.unit(v[:, rows])
        means.append(_centre(unit))
        within.append(_squares(unit))
        roots.append(math.sqrt(unit.shape[1]))
    if len(means) == 1:
        return within[0]
    root = xp.asarray(roots)[:, None]  # (blocks, 1)
    between = xp.stack(means, axis=1)  # (g, blocks, D)
    between -= sums.total(between * (root * root / n), axis=1, keepdims=True)
    return sums.total(xp.stack(within), axis=0) + _squares(between * root)


def _centre(x: Array) -> Array:
    """Subtract the mean over rows from x (g, n, D), in place, and return it (g, D).

    Twice, since the first mean is rounded: alike rows become 0. What is left of it is so small that
    adding in order, which is faster for few rows, loses nothing.
    """
    rough = x.sum(axis=1, keepdims=True) / x.shape[1]
    x -= rough
    rest = x.sum(axis=1, keepdims=True) / x.shape[1]
    x -= rest
    return (rough + rest)[:, 0]


def _squares(x: Array) -> Array:
    with np.errstate(under="ignore"):
        return sums.total(x * x, axis=(1, 2))


def _blocks(rows: int, width: int) -> Iterator[slice]:
    """Yield parts of 0..rows, of as many rows of so many numbers as a block has, but one at least.

    No part has more rows than BLAS adds up by itself.
    """
    step = min(max(1, BLOCK // width), sums.INNER)
    for first in range(0, rows, step):
        yield slice(first, first + step)
