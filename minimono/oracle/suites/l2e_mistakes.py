"""What people get wrong in suite `l2e`: right functions in plain NumPy, whose knobs are turned."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from minimono.backend import Array
from minimono.oracle.suite import NONE, Mistakes
from minimono.oracle.suites.selection import TOP, ceiling, plain_top_k

Change = Callable[[Array], Array]


def memberships(features: Array) -> Array:
    """Return booleans (B, L), from those or from one number per input."""
    if features.ndim == 2:
        return features
    return features[:, None] == np.arange(features.max() + 1)


def plain_penalty(
    z: Array, mask: Array, mean: Array,
    *,
    reduction: str,
    term: Change = lambda d: np.log(d * d),
    slope: Change = lambda d: 2 / d,
    flags: Change = lambda mask: mask,
    centre: Callable[[Array, Array], Array] = lambda z, mean: mean,
    through_mean: bool = False,  # the gradient flows through the mean
    multiplies: bool = False,  # by the mask, where it should choose
    over: str = "selected",  # what a mean is over
    reduce: str | None = None,  # in place of `reduction`
    reduce_slope: str | None = None,
) -> tuple[Array, Array]:
    """Return the sum or mean of log (z - mean)² over the selected, and its gradient."""
    mask, distance = flags(mask), z - centre(z, mean)
    if multiplies:
        values, slopes = mask * term(distance), mask * slope(distance)
    else:
        distance = np.where(mask, distance, 1.0)
        values, slopes = np.where(mask, term(distance), 0.0), np.where(mask, slope(distance), 0.0)
    if through_mean:
        slopes = slopes - slopes.mean(axis=0)
    terms = {
        "selected": max(mask.sum(), 1), "selected, if none": mask.sum(), "inputs": len(mask),
        "activations": mask.size,
    }[over]
    reduce = reduce or reduction
    return (
        values.sum() / (terms if reduce == "mean" else 1),
        slopes / (terms if (reduce_slope or reduce) == "mean" else 1),
    )


def plain_feature_scale(
    z: Array, features: Array,
    *,
    ddof: int = 1,
    power: float = 1,  # of the variance
    square: Callable[[Array, Array], Array] = lambda own, centre: (own - centre) ** 2,
    about: str = "mean",  # or "zero", or "own mean": of the feature's inputs
    spread: str = "of all",  # or "own"
    average: Callable[..., Array] = np.mean,
    terms: Callable[[int, int], int] = lambda own, B: 1,  # that the average is divided by
    outside_of: Change = np.invert,
    rank: Callable[[Array, Array], Array] = lambda inside, outside: inside,
    last: bool = False,  # of ties
    swapped: bool = False,
    nothing: float = math.nan,  # the scale of no inputs
    constant: int = -1,  # the feature of a constant neuron
) -> tuple[Array, Array, Array]:
    """Return φ_l, φ_l⁻ and l*; in Fractions too."""
    rows, has = z.reshape(len(z), -1), memberships(features)

    def variance(of: Array, ddof: int = 1) -> Array:
        below = ((of - of.mean(axis=0)) ** 2).sum(axis=0) / max(len(of) - ddof, 1)
        return np.where(below > 0, below, math.nan)

    below = variance(rows, ddof)
    known = below == below  # not nan

    def side(chosen: Array) -> Array:
        own = rows[chosen]
        if not len(own):
            return np.where(known, nothing, math.nan)
        centre = {"mean": rows, "zero": 0 * rows, "own mean": own}[about].mean(axis=0)
        phi = square(own, centre) / (below if spread == "of all" else variance(own)) ** power
        return average(phi, axis=0) / terms(len(own), len(rows))

    inside, outside = (np.stack([side(c) for c in sets.T]) for sets in (has, outside_of(has)))
    scores = rank(inside, outside)
    ranked = np.where(scores == scores, scores, -math.inf)
    best = len(ranked) - 1 - ranked[::-1].argmax(axis=0) if last else ranked.argmax(axis=0)
    feature = np.where(known, best, constant).reshape(z.shape[1:])
    sides = [part.reshape(-1, *z.shape[1:]) for part in (inside, outside)]
    return sides[swapped], sides[not swapped], feature


def plain_rate(
    phi: Array, features_of_input: Array, feature_of_neuron: Array,
    *,
    k: int | None, fraction: float | None, scope: str,
    share: Callable[[Array, Array], Any] = lambda s, own: (s & ~own).sum() / s.sum(),
    owned: Callable[[Array, Array], Array] = lambda has, feature: has[:, feature],
    scopes: tuple[str, str] = ("batch", "sample"),  # for "global" and "per_input"
    count: Callable[[float, int], int] = ceiling,
    select: Mapping[str, Any] = NONE,  # knobs of `plain_top_k`
) -> Array:
    """Return the `share` of the selected (s), given where an input has its neuron's feature."""
    has = memberships(features_of_input)
    absent = np.zeros((len(has), int(feature_of_neuron.max()) + 2), dtype=bool)
    own = owned(np.concatenate([has, absent], axis=1), feature_of_neuron)  # the last is for -1
    per = scopes[scope == "per_input"]
    if fraction is not None:
        k = count(fraction, phi.size if per == "batch" else phi[0].size)
    selected = plain_top_k(phi, **{"k": k, "per": per, "ties": "all", **select})
    return np.float64(share(selected, own))


PENALTY = Mistakes(plain_penalty, {
    "the square is missing: log |z - mean|, half the penalty":
        {"term": lambda d: np.log(abs(d)), "slope": lambda d: 1 / d},
    "the gradient is halved: 1/(z - mean)": {"slope": lambda d: 1 / d},
    "the gradient has lost its sign: 2/|z - mean|": {"slope": lambda d: 2 / abs(d)},
    "the sign of the penalty is reversed":
        {"term": lambda d: -np.log(d * d), "slope": lambda d: -2 / d},
    "the gradient is reversed, the penalty is not": {"slope": lambda d: -2 / d},
    "the gradient is 0": {"slope": lambda d: 0 * d},
    "the logarithm is missing: the squared distance":
        {"term": lambda d: d * d, "slope": lambda d: 2 * d},
    "log (1 + (z - mean)^2)":
        {"term": lambda d: np.log1p(d * d), "slope": lambda d: 2 * d / (1 + d * d)},
    "a small epsilon is added inside the logarithm (1e-8)":
        {"term": lambda d: np.log(d * d + 1e-8), "slope": lambda d: 2 * d / (d * d + 1e-8)},
    "a small epsilon is added inside the logarithm (1e-6)":
        {"term": lambda d: np.log(d * d + 1e-6), "slope": lambda d: 2 * d / (d * d + 1e-6)},
    "the logarithm to base 10":
        {"term": lambda d: np.log10(d * d), "slope": lambda d: 2 / d / np.log(10)},
    "the logarithm to base 2":
        {"term": lambda d: np.log2(d * d), "slope": lambda d: 2 / d / np.log(2)},
    "the mask multiplies the logarithm: 0 times the logarithm of 0 is nan": {"multiplies": True},
    "taken about zero instead of the mean": {"centre": lambda z, mean: 0 * mean},
    "the batch's mean instead of the given one": {"centre": lambda z, mean: z.mean(axis=0)},
    "the batch's mean, with the gradient flowing through it":
        {"centre": lambda z, mean: z.mean(axis=0), "through_mean": True},
    "the gradient flows through the mean": {"through_mean": True},
    "the mask is ignored: everything is penalised": {"flags": np.ones_like},
    "the mask is inverted": {"flags": np.invert},
    "the mean is over all activations, not over the selected": {"over": "activations"},
    "the mean is over inputs, not over the selected": {"over": "inputs"},
    "reduction is ignored: always the sum": {"reduce": "sum"},
    "reduction is ignored: always the mean": {"reduce": "mean"},
    "the gradient is that of the sum where the mean is meant": {"reduce_slope": "sum"},
    "nan where nothing is selected: the mean over nothing": {"over": "selected, if none"},
})

FEATURE_SCALE = Mistakes(plain_feature_scale, {
    "variance divided by n instead of n-1": {"ddof": 0},
    "standard deviation where the variance is meant": {"power": 0.5},
    "taken about zero instead of the mean": {"about": "zero"},
    "the mean of the feature's inputs instead of the mean of all": {"about": "own mean"},
    "the variance of the feature's inputs instead of the variance of all": {"spread": "own"},
    "the squared distance of the means, not the mean of the squares":
        {"square": lambda own, centre: (own.mean(axis=0, keepdims=True) - centre) ** 2},
    "the sum over a feature's inputs, not their mean": {"average": np.sum},
    "divided by the number of all inputs, not of the feature's":
        {"average": np.sum, "terms": lambda own, B: B},
    "divided by the feature's inputs less one":
        {"average": np.sum, "terms": lambda own, B: own - 1},
    "the largest scale of a feature's inputs, not their mean": {"average": np.max},
    "the median scale of a feature's inputs, not their mean": {"average": np.median},
    "the square is missing: the mean |z - mean| / S":
        {"square": lambda own, centre: abs(own - centre), "power": 0.5},
    "inside and outside change places": {"swapped": True},
    "outside is over all inputs, not over those without the feature": {"outside_of": np.ones_like},
    "the feature with the lowest scale": {"rank": lambda i, o: -i},
    "the feature with the lowest scale outside": {"rank": lambda i, o: -o},
    "the feature with the largest ratio of inside to outside": {"rank": np.divide},
    "the feature with the largest difference of inside and outside": {"rank": np.subtract},
    "the highest number wins a tie": {"last": True},
    "0 instead of nan for a feature without inputs": {"nothing": 0.0},
    "a constant neuron is given feature 0": {"constant": 0},
})

RATE = Mistakes(plain_rate, {
    "the scope is swapped": {"scopes": ("sample", "batch")},
    "the scope is ignored: one threshold for all": {"scopes": ("batch", "batch")},
    "the scope is ignored: a threshold for each input": {"scopes": ("sample", "sample")},
    "divided by all scores, not by the selected":
        {"share": lambda s, own: (s & ~own).sum() / s.size},
    "divided by the inputs without the feature (a false positive rate)":
        {"share": lambda s, own: (s & ~own).sum() / (~own).sum()},
    "the complement: the share that is rightly selected":
        {"share": lambda s, own: (s & own).sum() / s.sum()},
    "the share of unselected among those with the feature (a miss rate)":
        {"share": lambda s, own: (~s & own).sum() / own.sum()},
    "a count, not a share": {"share": lambda s, own: (s & ~own).sum()},
    "in percent": {"share": lambda s, own: 100 * (s & ~own).sum() / s.sum()},
    "the threshold is strict: scores that equal it are left out": {"select": {"at_kth": "not"}},
    "one score too many: the threshold is the one after the k-th": {"select": {"more": 1}},
    "of ties only the first are selected": {"select": {"tied": "first"}},
    "the lowest scores are selected": {"select": {"score": np.negative}},
    "nan is selected as if it were the highest": {"select": TOP["nan counts as the highest"]},
    "everything is selected": {"share": lambda s, own: (~own).sum() / own.size},
    "each input's own rate, averaged over inputs": {"share": lambda s, own: np.nanmean(
        [(a & ~b).sum() / a.sum() for a, b in zip(s, own, strict=True)])},
    "each neuron's own rate, averaged over neurons":
        {"share": lambda s, own: np.nanmean((s & ~own).sum(axis=0) / s.sum(axis=0))},
    "the fraction is rounded down": {"count": lambda f, n: max(math.floor(f * n), 1)},
    "0 instead of nan where nothing is selected":
        {"share": lambda s, own: np.nan_to_num((s & ~own).sum() / s.sum())},
    "a feature that no input here has counts as present":
        {"owned": lambda has, feature: has[:, feature] | ~has[:, feature].any(axis=0)},
    "only an input's first feature counts": {"owned": lambda has, feature: (
        np.cumsum(has, axis=1) * has == 1)[:, feature]},
})
