"""Suite `l2e`: the logarithmic penalty, the feature-conditional scale, the false killing rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from minimono import mono
from minimono.backend import Array
from minimono.oracle.case import BOUND, Case, Expected
from minimono.oracle.suite import NONE, Call, Entries, Mistakes, Suite, grouped
from minimono.oracle.suites.own import value_and_gradients
from minimono.oracle.suites.selection import TOP, ceiling, plain_top_k
from minimono.oracle.truth import conditioned_by, exact, float32, mpmath, precise, rounded

NAN = math.nan
ALL, EACH = "global", "per_input"  # the scopes of a threshold


Change = Callable[[Array], Array]


def memberships(features: Array) -> Array:
    """Return booleans (B, L), from those or from one number per input."""
    if features.ndim == 2:
        return features
    return features[:, None] == np.arange(features.max() + 1)


def precise_log(d: Array) -> Array:
    """Return log d² of mpmath numbers."""
    return np.array([mpmath().log(v * v) for v in d.flat], dtype=object).reshape(d.shape)


def plain_penalty(
    z: Array, mask: Array, mean: Array,
    *, reduction: str,
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
        "selected": max(int(mask.sum()), 1), "selected, if none": mask.sum(), "inputs": len(mask),
        "activations": mask.size,
    }[over]
    reduce = reduce or reduction
    return (
        values.sum() / (terms if reduce == "mean" else 1),
        slopes / (terms if (reduce_slope or reduce) == "mean" else 1),
    )


def plain_feature_scale(
    z: Array, features: Array,
    *, ddof: int = 1,
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
    nothing: float = NAN,  # the scale of no inputs
    constant: int = -1,  # the feature of a constant neuron
) -> tuple[Array, Array, Array]:
    """Return φ_l, φ_l⁻ and l*; in Fractions too."""
    rows, has = z.reshape(len(z), -1), memberships(features)

    def variance(of: Array, ddof: int = 1) -> Array:
        below = ((of - of.mean(axis=0)) ** 2).sum(axis=0) / max(len(of) - ddof, 1)
        return np.where(below > 0, below, NAN)

    below = variance(rows, ddof)
    known = below == below  # not nan

    def side(chosen: Array) -> Array:
        own = rows[chosen]
        if not len(own):
            return np.where(known, nothing, NAN)
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
    *, k: int | None, fraction: float | None, scope: str,
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


def cases() -> Iterator[Case]:
    return grouped(SUITE, [
        ("penalty", "log_distance_penalty", 57721566, _penalty),
        ("feature-scale", "feature_scale", 69314718, _feature_scale),
        ("false-killing", "false_killing_rate", 91596559, _false_killing),
    ])


def _penalty(rng: np.random.Generator) -> Entries:
    entries: list[tuple[str, Array, Array, Array, str]] = []
    for notes, shape, offset, reduction in [
        ("the sum over the selected", (3, 4), 0.0, "sum"),
        ("the mean over the selected, not over all", (3, 4), 0.0, "mean"),
        ("a sequence (B, T, C): the mean has an entry per position and channel", (2, 3, 2), 0.0,
         "sum"),
        ("a feature map (B, C, Y, X)", (2, 2, 2, 3), 0.0, "mean"),
        ("one neuron, no neuron axis: shape (B,)", (6,), 0.0, "sum"),
        ("offset 1,000: it is the distance from the mean that counts", (3, 3), 1000.0, "sum"),
    ]:
        z, mean = float32(offset + 3 * rng.normal(size=shape)), rng.normal(size=shape[1:])
        mask = rng.random(shape) < 0.4
        mask.reshape(-1)[0], mask.reshape(-1)[-1] = True, False
        entries.append((notes, z, mask, float32(offset + mean), reduction))
    z, mean = np.array([[5.0, 0.0, 1.0], [2.0, 3.0, -3.0]]), np.array([1.0, 1.0, -1.0])
    some = np.array([[True, True, False], [False, True, True]])
    everything, nothing = np.ones((2, 3), bool), np.zeros((2, 3), bool)
    level = np.array([[1.0, 4.0, 1.0], [3.0, 1.0, -1.0]])  # holds its own mean, unselected
    far = np.array([[True, True, True], [True, False, False]])
    unknown = np.array([1.0, NAN, -1.0])
    near = np.array([[1 + 2.0**-10, 1 - 2.0**-12, 0.0], [7.0, 1 + 2.0**-20, -1.0]])
    close = np.array([[True, True, False], [False, True, False]])
    ends = np.array([[1e-200, 3e-180], [2e200, -1e190]])
    entries += [
        ("small whole numbers, to try by hand: log 16 + log 1 + log 4 + log 4", z, some, mean,
         "sum"),
        ("the same, by the mean", z, some, mean, "mean"),
        ("everything is selected", z, everything, mean, "mean"),
        ("nothing is selected: 0", z, nothing, mean, "sum"),
        ("nothing is selected: the mean over nothing is 0 here, not nan", z, nothing, mean, "mean"),
        ("unselected activations that equal their mean, where the logarithm is -infinity: times a "
         "mask of 0 it is nan", level, far & (level != mean), mean, "sum"),
        ("an unselected neuron whose mean is nan, as before the first statistics", z,
         some & np.array([True, False, True]), unknown, "sum"),
        ("close to the mean: negative penalty, large gradient; 1e-8 inside the logarithm shows",
         near, close, mean, "sum"),
        ("the square under- or overflows, the logarithm does not", ends, np.ones((2, 2), bool),
         np.zeros(2), "sum"),
    ]
    for notes, z, mask, mean, reduction in entries:
        def truth(z: Array, mean: Array, mask: Array = mask, by: str = reduction) -> Any:
            return plain_penalty(z, mask, mean, reduction=by, term=precise_log)

        distance, size = abs(z - mean)[mask], np.maximum(abs(z), abs(0 * z + mean))[mask]
        yield (
            notes, {"z": z, "mask": mask, "mean": mean, "reduction": reduction},
            conditioned_by(precise, truth, z, mean),
            {"condition": float(max([1.0, *(size / distance)])), "extreme": z is ends},
        )


def _feature_scale(rng: np.random.Generator) -> Entries:
    several = rng.random((12, 4)) < 0.4
    several[0], several[1] = True, False
    nobody_all = several.copy()
    nobody_all[:, 1], nobody_all[:, 3] = False, True
    one_each = np.array([0, 1, 2, 0, 1, 2, 0, 2])
    hand = np.array([[-1, 5, 0], [1, 5, 0], [-1, 5, 0], [1, 5, 0], [0, 5, 5]]) * 1.0
    pairs = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1]], dtype=bool)

    def driven(has: Array, neurons: tuple[int, ...], offset: float = 0.0) -> Array:
        """Neurons that react to the features, positively or negatively."""
        strength = rng.normal(size=(has.shape[1], math.prod(neurons))) * 3
        z = has.astype(float) @ strength + rng.normal(size=(len(has), math.prod(neurons)))
        return float32(offset + z.reshape(len(has), *neurons))

    entries: list[tuple[str, Array, Array]] = [
        ("inputs with several features or none", driven(several, (5,)), several),
        ("one feature each, given as a number", driven(memberships(one_each), (4,)), one_each),
        ("a feature that no input has (inside nan), and one that all have (outside nan)",
         driven(nobody_all, (3,)), nobody_all),
        ("a number that no input has: inside is nan", driven(memberships(one_each), (3,)),
         np.where(one_each == 1, 3, one_each)),
        ("a sequence (B, T, C): a neuron is a (position, channel) pair",
         driven(several, (2, 3)), several),
        ("a feature map (B, C, Y, X)", driven(several[2:8], (2, 2, 1)), several[2:8]),
        ("one neuron, no neuron axis: shape (B,)", driven(several, ()), several),
        ("offset 100 times the spread", driven(several, (3,), 300.0), several),
        ("two inputs: phi is 1/2 for both, so feature 0 wins the tie",
         np.array([[0.0, 2.0, -4.0], [2.0, 6.0, 4.0]]), np.array([[True, False], [False, True]])),
        ("to try by hand: neuron 0 has variance 1 and ties between features 0 and 1, of which the "
         "lower number is taken; neuron 1 is constant: nan and feature -1", hand, pairs),
    ]
    for notes, z, features in entries:
        spread = z.std(axis=0, ddof=1)
        kappa = abs(z).max(axis=0) / np.where(spread > 0, spread, np.inf)
        inside, outside, feature = plain_feature_scale(exact(z), features)
        outputs, reach = [], BOUND * kappa
        for value in map(rounded, (inside, outside)):
            known = np.nan_to_num(value)
            linear = reach * (2 * np.sqrt(known) + 2 * known) + BOUND * known
            outputs.append(Expected(value, linear, np.broadcast_to(reach**2, value.shape)))
        yield (
            notes, {"z": z, "features": features}, [*outputs, Expected(feature)],
            {"condition": float(max(1.0, kappa.max()))},
        )


def _false_killing(rng: np.random.Generator) -> Entries:
    phi = float32(rng.chisquare(1, size=(6, 5)) * np.array([1, 5, 2, 9, 4, 3])[:, None])
    has = rng.random((6, 3)) < 0.5
    numbers, neurons = np.array([0, 1, 2, 2, 1, 0]), np.array([0, 1, 2, 0, 1])
    tied = np.array([[3.0, 1.0, 3.0], [2.0, 3.0, 0.0], [3.0, 2.0, 2.0]])
    by, of = np.array([0, 1, 1]), np.array([0, 1, 1])
    holes = np.where(rng.random(phi.shape) < 0.3, NAN, phi)
    homeless = np.array([[NAN, 4.0, 1.0], [NAN, 1.0, 3.0], [NAN, 2.0, 5.0]])
    wide = float32(rng.chisquare(1, size=(4, 2, 3)))
    places = np.array([[0, 1, 2], [2, 1, 0]])
    own = memberships(by)[:, of]
    entries: list[tuple[str, Array, Array, Array, int | None, float | None, str]] = [
        ("one threshold for all scores", phi, has, neurons, 7, None, ALL),
        ("a threshold for each input", phi, has, neurons, 2, None, EACH),
        ("one feature each, given as a number", phi, numbers, neurons, 4, None, ALL),
        ("one feature each, a threshold for each input", phi, numbers, neurons, 1, None, EACH),
        ("the top tenth of all", phi, has, neurons, None, 0.1, ALL),
        ("the top fifth of each input: 1 of 5", phi, has, neurons, None, 0.2, EACH),
        ("a quarter of 5 is rounded up: 2 of each input", phi, has, neurons, None, 0.25, EACH),
        ("ties with the threshold are all selected: 4 scores equal 3", tied, by, of, 2, None, ALL),
        ("ties in each input", tied, by, of, 1, None, EACH),
        ("nan is never selected and no threshold", holes, has, neurons, 5, None, ALL),
        ("nan, a threshold for each input", holes, has, neurons, 2, None, EACH),
        ("a constant neuron: nan scores, no feature (-1)", homeless, by, np.array([-1, 0, 1]), 3,
         None, ALL),
        ("every selected input has the neuron's feature: 0", np.where(own, 5.0, tied / 4), by, of,
         3, None, ALL),
        ("no selected input has it: 1", np.where(own, 0.125, 1 + tied), by, of, 3, None, ALL),
        ("nothing is selected: nan, not 0", np.full((2, 3), NAN), by[:2], of, 1, None, ALL),
        ("a sequence (B, T, C): a feature for each (position, channel)", wide, has[:4], places, 6,
         None, ALL),
        ("a feature that no input here has: always falsely killed", phi, numbers,
         np.array([0, 3, 2, 3, 1]), 9, None, ALL),
        ("k is all there is", phi, has, neurons, 30, None, ALL),
    ]
    for notes, phi, features, feature, k, fraction, scope in entries:
        given = {"phi": phi, "features_of_input": features, "feature_of_neuron": feature}
        rule: dict[str, Any] = {"k": k, "fraction": fraction, "scope": scope}
        with np.errstate(invalid="ignore"):  # nothing is selected: 0 / 0
            rate = plain_rate(**given, **rule)
        rate = np.where(np.isnan(rate), NAN, rate)
        yield notes, given | rule, [Expected(rate, linear=2 * np.nan_to_num(rate))]


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


SUITE = Suite(
    name="l2e",
    text="learning towards emergence: penalty, feature-conditional scale, false killing rate",
    conventions={
        "neurons": "all axes but the first; axis 0 is the inputs",
        "mean": "a constant: no gradient flows through it",
        "ddof": "1: the variance is divided by n - 1; mean and variance are those of all inputs",
        "features": "booleans (B, L), or one whole number per input (B,)",
        "ties": "scores that equal the threshold are all selected; the lowest feature number wins",
        "undefined": "nan; -1 is the feature of a constant neuron, which has none",
    },
    calls=(
        Call("log_distance_penalty", ("z", "mask", "mean", "*", "reduction"),
             ("penalty", "gradient"),
             "z (B, *neurons); mask booleans of that shape; mean (*neurons). penalty, without\n"
             "axes: the natural logarithms of (z - mean)^2 of the selected, their sum or\n"
             'mean as reduction says, "sum" or "mean" (0 if none is selected). gradient: by z.'),
        Call("feature_scale", ("z", "features"), ("inside", "outside", "feature"),
             "z (B, *neurons); features booleans (B, L) or numbers (B,). inside (L, *neurons):\n"
             "mean of (z - mean)^2 / variance over the inputs with the feature, nan if none;\n"
             "outside: over those without it. feature (*neurons): where inside is\n"
             "largest, -1 if constant."),
        Call("false_killing_rate",
             ("phi", "features_of_input", "feature_of_neuron", "*", "k", "fraction", "scope"),
             ("rate",),
             "phi (B, *neurons); features_of_input booleans (B, L) or numbers (B,);\n"
             "feature_of_neuron numbers (*neurons). k or fraction is None. The threshold is the\n"
             'k-th highest of all scores (scope "global") or of each input\'s ("per_input"); a\n'
             "fraction of n scores is k = ceil(fraction n). rate: of the selected, the share whose"
             "\ninput lacks the neuron's feature; nan if nothing is selected."),
    ),
    cases=cases,
    own={
        "log_distance_penalty": value_and_gradients(mono.log_distance_penalty),
        "feature_scale": mono.feature_scale,
        "false_killing_rate": mono.false_killing_rate,
    },
    mistakes={
        "log_distance_penalty": PENALTY, "feature_scale": FEATURE_SCALE, "false_killing_rate": RATE,
    },
)
