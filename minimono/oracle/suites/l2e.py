"""Suite `l2e`: the logarithmic penalty, the feature-conditional scale, the false killing rate."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from minimono import mono
from minimono.backend import Array
from minimono.oracle.case import BOUND, Case, Expected
from minimono.oracle.suite import Call, Entries, Suite, grouped
from minimono.oracle.suites.l2e_mistakes import (
    FEATURE_SCALE,
    PENALTY,
    RATE,
    memberships,
    plain_feature_scale,
    plain_rate,
)
from minimono.oracle.suites.own import value_and_gradients
from minimono.oracle.truth import conditioned_by, exact, float32, mpmath, precise, rounded

NAN = math.nan
ALL, EACH = "global", "per_input"  # the scopes of a threshold


# ---- the truth ---------------------------------------------------------------------------------


def penalty_of(z: Array, mean: Array, *, mask: Array, reduction: str) -> tuple[Any, Array]:
    """Σ log (z - mean)² over the selected, and 2/(z - mean), in mpmath numbers."""
    mp = mpmath()
    total, gradient = mp.mpf(0), np.full(z.shape, mp.mpf(0), dtype=object)
    terms = max(int(mask.sum()), 1) if reduction == "mean" else 1
    for index in map(tuple, np.argwhere(mask)):
        distance = z[index] - mean[index[1:]]
        total += mp.log(distance**2) / terms
        gradient[index] = 2 / distance / terms
    return total, gradient


# ---- cases -------------------------------------------------------------------------------------


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
        truth = partial(penalty_of, mask=mask, reduction=reduction)
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
    hand = np.array([[-1.0, 5.0, 0.0], [1.0, 5.0, 0.0], [-1.0, 5.0, 0.0], [1.0, 5.0, 0.0],
                     [0.0, 5.0, 5.0]])
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
        flat, has = z.reshape(len(z), -1), memberships(features)
        spread = flat.std(axis=0, ddof=1)
        kappa = abs(flat).max(axis=0) / np.where(spread > 0, spread, np.inf)
        inside, outside, feature = plain_feature_scale(exact(flat), has)
        scales = []
        for side in (inside, outside):
            value = rounded(side)  # (L, n)
            known, reach = np.nan_to_num(value), BOUND * kappa
            bounds = (reach * (2 * np.sqrt(known) + 2 * known) + BOUND * known,
                      np.broadcast_to(reach**2, value.shape))
            shape = (has.shape[1], *z.shape[1:])
            scales.append(Expected(value.reshape(shape), *(b.reshape(shape) for b in bounds)))
        outputs = [*scales, Expected(feature.reshape(z.shape[1:]))]
        condition = float(max(1.0, kappa.max()))
        yield notes, {"z": z, "features": features}, outputs, {"condition": condition}


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
        Call(
            "log_distance_penalty", ("z", "mask", "mean", "*", "reduction"),
            ("penalty", "gradient"),
            "z (B, *neurons); mask booleans of that shape; mean (*neurons). penalty, without\n"
            "axes: the natural logarithms of (z - mean)^2 of the selected, their sum or\n"
            'mean as reduction says, "sum" or "mean" (0 if none is selected). gradient: by z.',
        ),
        Call(
            "feature_scale", ("z", "features"), ("inside", "outside", "feature"),
            "z (B, *neurons); features booleans (B, L) or numbers (B,). inside (L, *neurons):\n"
            "mean of (z - mean)^2 / variance over the inputs with the feature, nan if none;\n"
            "outside: over those without it. feature (*neurons): where inside is\n"
            "largest, -1 if constant.",
        ),
        Call(
            "false_killing_rate",
            ("phi", "features_of_input", "feature_of_neuron", "*", "k", "fraction", "scope"),
            ("rate",),
            "phi (B, *neurons); features_of_input booleans (B, L) or numbers (B,);\n"
            "feature_of_neuron numbers (*neurons). k or fraction is None. The threshold is the\n"
            'k-th highest of all scores (scope "global") or of each input\'s ("per_input"); a\n'
            "fraction of n scores is k = ceil(fraction n). rate: of the selected, the share whose\n"
            "input lacks the neuron's feature; nan if nothing is selected.",
        ),
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
