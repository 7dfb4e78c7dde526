"""Concept separability: how differently a neuron responds to different concepts.

    jensen_shannon_distance    of two distributions: 0 if they are one, 1 if they share nothing
    concept_separability       of a neuron: the distances between its activations on each concept

After arXiv 2508.15094. A reconstruction: only its abstract and summaries could be read, and no code
is released. They say "a score based on the Jensen-Shannon distance" of the distributions of a
neuron's activations, estimated by histograms. All else is our choice.
"""

from __future__ import annotations

import math
from itertools import combinations
from typing import Literal, TypeAlias

import numpy as np

from minimono import checks, sums
from minimono.backend import Array, array_module
from minimono.mono.features import memberships

Aggregate: TypeAlias = Literal["pairs", "one_vs_rest", "generalised"]


def jensen_shannon_distance(p: Array, q: Array) -> Array:
    """Return the square root of the Jensen-Shannon divergence in bits: from 0 to 1.

        √(H(m) - (H(p) + H(q)) / 2),     m = (p + q) / 2,     H(p) = -Σ p log2 p

    Published (Endres and Schindelin 2003): it is a metric, as the divergence itself is not. Worked
    out as Σ m (ln(1 - x²) + 2 x artanh x) / (2 ln 2), x = (p - q) / (p + q), which adds nothing
    negative, so also the distance of nearly equal distributions keeps its digits.

    p, q: (..., bins), masses that are not negative; each is divided by its sum. Returns (...); nan
    where all masses of one are 0.

    >>> float(jensen_shannon_distance(np.array([1.0, 1.0, 0.0]), np.array([0.0, 1.0, 1.0])))
    0.707...
    """
    p, q = (_masses(x, f"jensen_shannon_distance: {key}") for key, x in (("p", p), ("q", q)))
    checks.shaped(q, "jensen_shannon_distance: q", p.shape, "as p")
    return _distance(p, q)


def _distance(p: Array, q: Array) -> Array:
    """Of distributions (..., bins) whose masses add up to 1."""
    xp = array_module(p, q)
    both = p + q
    x = (p - q) / xp.where(both == 0, 1.0, both)
    apart = abs(x) == 1
    x = xp.where(apart, 0.0, x)
    bits = (xp.log1p(-x * x) + 2 * x * xp.arctanh(x)) / math.log(2)
    divergence = sums.total(both / 4 * xp.where(apart, 2.0, bits), axis=-1)
    root: Array = xp.sqrt(divergence.clip(0, 1))
    return root


def concept_separability(
    z: Array, concepts: Array, *, bins: int = 50, aggregate: Aggregate = "pairs"
) -> Array:
    """Return how differently each neuron's activations are distributed on different concepts.

        pairs          mean over pairs of concepts of d(P_c, P_c')
        one_vs_rest    mean over concepts of d(P_c, mean of the other P)
        generalised    √((H(mean of all P) - mean of their H) / log2 C)

    A reconstruction, with what the source leaves open our choice (see the top of the file). d is
    `jensen_shannon_distance`, and P_c the histogram of the neuron's activations on the inputs with
    concept c, over equal bins from the neuron's least to its highest activation, the last of which
    holds both its ends. It is 0 if the concepts do not matter to the neuron, 1 if each bin belongs
    to one of them. Few inputs in many bins seldom share one, and look separate: compare neurons
    with as many inputs and bins only.

    z: activations, (B, *neurons).   concepts: booleans (B, C), or, if each input has one concept,
    its number (B,): 0 to C - 1; C of 2 at least. Returns shape neurons: 0 for a constant neuron,
    nan everywhere if a concept has no inputs.

    >>> z = np.array([0.0, 0.0, 1.0, 2.0, 1.0, 2.0, 2.0, 4.0])
    >>> concept_separability(z, np.repeat([0, 1], 4), bins=4)
    array(0.636898)
    """
    name = "concept_separability"
    z = checks.values(z, f"{name}: z")
    has = memberships(concepts, f"{name}: concepts")  # (B, C)
    checks.shaped(has, f"{name}: concepts", (len(z), has.shape[1]), "a row for each input of z")
    checks.layout(has, f"{name}: concepts", "two concepts at least", has.shape[1] >= 2)
    bins = checks.whole_number(bins, f"{name}: bins", least=1)
    checks.one_of(aggregate, f"{name}: aggregate", ("pairs", "one_vs_rest", "generalised"))
    P = _histograms(sums.scaled(z.reshape(len(z), -1), axis=0), has, bins)  # (C, neurons, bins)
    return _AGGREGATES[aggregate](P).reshape(z.shape[1:])


def _histograms(z: Array, has: Array, bins: int) -> Array:
    """Return the share of each concept's inputs in each bin: (C, neurons, bins)."""
    xp, neurons = array_module(z, has), z.shape[1]
    least, most = z.min(axis=0), z.max(axis=0)
    width = xp.where(most > least, most - least, 1.0)
    place = ((z - least) / width * bins).astype(np.int64).clip(0, bins - 1)
    # Rounding may have put an activation beside its bin: the edges themselves decide.
    place -= z < least + width * (place / bins)
    place += (z >= least + width * ((place + 1) / bins)) & (place < bins - 1)
    place += bins * xp.arange(neurons)
    counts = [
        xp.bincount(place[has[:, c]].reshape(-1), minlength=neurons * bins).reshape(neurons, bins)
        for c in range(has.shape[1])
    ]
    with np.errstate(invalid="ignore"):  # 0 / 0, of a concept without inputs
        return xp.stack(counts) / has.sum(axis=0)[:, None, None]


def _over_pairs(P: Array) -> Array:
    distances = [_distance(p, q) for p, q in combinations(P, 2)]
    return sums.mean(array_module(P).stack(distances), axis=0)


def _against_the_rest(P: Array) -> Array:
    xp, C = array_module(P), len(P)
    rest = [sums.mean(xp.concatenate([P[:c], P[c + 1 :]]), axis=0) for c in range(C)]
    return sums.mean(xp.stack([_distance(p, q) for p, q in zip(P, rest, strict=True)]), axis=0)


def _of_all(P: Array) -> Array:
    """The mean divergence of each from their mean, which is H(mean) - mean of H."""
    xp, mean = array_module(P), sums.mean(P, axis=0)
    ratio = P / xp.where(mean == 0, 1.0, mean)
    bits = P * xp.log2(xp.where(ratio == 0, 1.0, ratio))
    divergence = sums.mean(sums.total(bits, axis=-1), axis=0) / math.log2(len(P))
    return xp.sqrt(divergence.clip(0, 1))


_AGGREGATES = {"pairs": _over_pairs, "one_vs_rest": _against_the_rest, "generalised": _of_all}


def _masses(x: Array, name: str) -> Array:
    x = checks.values(x, name)
    checks.everywhere(x, x >= 0, name, "no negative numbers")
    x = sums.scaled(x, axis=-1)
    with np.errstate(invalid="ignore"):
        return x / sums.total(x, axis=-1, keepdims=True)
