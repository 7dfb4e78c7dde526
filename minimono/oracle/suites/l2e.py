"""Suite `l2e`: the logarithmic penalty, the feature-conditional scale, the false killing rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from minimono import mono
from minimono.backend import Array
from minimono.engine.tensor import Tensor
from minimono.oracle.case import BOUND, Case, Expected
from minimono.oracle.suite import Call, Suite
from minimono.oracle.truth import conditioned_by, exact, float32, mpmath, precise, rounded

NAN = math.nan


# ---- the truth ---------------------------------------------------------------------------------


def penalty_of(z: Array, mask: Array, mean: Array, reduction: str) -> tuple[Any, Array]:
    """Σ log (z - mean)² over the selected, and 2/(z - mean), in mpmath numbers."""
    mp = mpmath()
    total, gradient = mp.mpf(0), np.full(z.shape, mp.mpf(0), dtype=object)
    terms = max(int(mask.sum()), 1) if reduction == "mean" else 1
    for index in map(tuple, np.argwhere(mask)):
        distance = z[index] - mean[index[1:]]
        total += mp.log(distance**2) / terms
        gradient[index] = 2 / distance / terms
    return total, gradient


def conditional_scale(z: Array, has: Array) -> tuple[Array, Array, Array]:
    """φ_l and φ_l⁻ in Fractions, None where undefined, and l*.   z: (B, n).   has: (B, L)."""
    B, neurons = z.shape
    mean = z.sum(axis=0) / B
    variance = ((z - mean) ** 2).sum(axis=0) / (B - 1)
    sides = np.full((2, has.shape[1], neurons), None, dtype=object)
    feature = np.full(neurons, -1)
    for j in range(neurons):
        if variance[j] == 0:
            continue
        phi = (z[:, j] - mean[j]) ** 2 / variance[j]
        for number, members in enumerate(has.T):
            for side, chosen in zip(sides, (members, ~members), strict=True):
                if chosen.any():
                    side[number, j] = phi[chosen].sum() / int(chosen.sum())
        inside = [-1 if v is None else v for v in sides[0, :, j]]
        feature[j] = inside.index(max(inside))
    return sides[0], sides[1], feature


def killing_rate(
    phi: Array, has: Array, feature: Array, k: int | None, fraction: str | None, scope: str
) -> float:
    """Counted one score at a time: selected are those that fewer than k others exceed."""
    groups: dict[int, list[float]] = {}
    for index in np.ndindex(phi.shape):
        groups.setdefault(index[0] if scope == "per_input" else 0, []).append(phi[index])
    false = total = 0
    for index in np.ndindex(phi.shape):
        scores = groups[index[0] if scope == "per_input" else 0]
        most = k if fraction is None else math.ceil(Fraction(fraction) * len(scores))
        assert most is not None
        if math.isnan(phi[index]) or sum(other > phi[index] for other in scores) >= most:
            continue
        total += 1
        own = feature[index[1:]]
        false += not (own < has.shape[1] and has[index[0], own])
    return float(Fraction(false, total)) if total else NAN


def memberships(features: Array) -> Array:
    """Booleans (B, L), from those or from one number per input."""
    if features.ndim == 2:
        return features
    return features[:, None] == np.arange(features.max() + 1)


# ---- cases -------------------------------------------------------------------------------------


def cases() -> Iterator[Case]:
    yield from _penalty()
    yield from _feature_scale()
    yield from _false_killing()


def _penalty() -> Iterator[Case]:
    rng = np.random.default_rng(57721566)
    entries: list[tuple[str, Array, Array, Array, str]] = []
    for notes, shape, offset, reduction in [
        ("the sum over the selected", (3, 4), 0.0, "sum"),
        ("the mean over the selected, not over all", (3, 4), 0.0, "mean"),
        ("a sequence (B, T, C): the mean has an entry per position and channel", (2, 3, 2), 0.0,
         "sum"),
        ("a feature map (B, C, Y, X)", (2, 2, 2, 3), 0.0, "mean"),
        ("one neuron, no neuron axis: shape (B,)", (6,), 0.0, "sum"),
        ("offset 1,000: it is the distance from the mean that counts", (3, 3), 1000.0, "sum"),
    ]:  # fmt: skip
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
    ]  # fmt: skip
    tiny = np.array([[1e-200, 3e-180], [2e200, -1e190]])
    for number, (notes, z, mask, mean, reduction) in enumerate(entries, start=1):
        yield _penalty_case(f"l2e/penalty/{number}", notes, z, mask, mean, reduction)
    yield _penalty_case(
        f"l2e/penalty/{len(entries) + 1}", "the square under- or overflows, the logarithm does not",
        tiny, np.ones((2, 2), bool), np.zeros(2), "sum", extreme=True,
    )  # fmt: skip


def _penalty_case(
    id: str, notes: str, z: Array, mask: Array, mean: Array, reduction: str, **more: Any
) -> Case:
    penalty, gradient = conditioned_by(
        precise, lambda z, mean: penalty_of(z, mask, mean, reduction), z, mean
    )
    distance = abs(z - mean)[mask]
    size = np.maximum(abs(z), abs(0 * z + mean))[mask]
    return Case(
        id, "log_distance_penalty",
        {"z": z, "mask": mask, "mean": mean, "reduction": reduction},
        {"penalty": penalty, "gradient": gradient},
        notes, condition=float(max(1.0, *(size / distance))) if mask.any() else 1.0, **more,
    )  # fmt: skip


def _feature_scale() -> Iterator[Case]:
    rng = np.random.default_rng(69314718)
    several = rng.random((12, 4)) < 0.4
    several[0], several[1] = True, False
    nobody_all = several.copy()
    nobody_all[:, 1], nobody_all[:, 3] = False, True
    one_each = np.array([0, 1, 2, 0, 1, 2, 0, 2])
    hand = np.array([[-1.0, 5.0, 0.0], [1.0, 5.0, 0.0], [-1.0, 5.0, 0.0], [1.0, 5.0, 0.0],
                     [0.0, 5.0, 5.0]])  # fmt: skip
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
    ]  # fmt: skip
    for number, (notes, z, features) in enumerate(entries, start=1):
        flat, has = z.reshape(len(z), -1), memberships(features)
        spread = flat.std(axis=0, ddof=1)
        kappa = abs(flat).max(axis=0) / np.where(spread > 0, spread, np.inf)
        inside, outside, feature = conditional_scale(exact(flat), has)
        scales = []
        for side in (inside, outside):
            value = rounded(side)  # (L, n)
            known, reach = np.nan_to_num(value), BOUND * kappa
            bounds = (reach * (2 * np.sqrt(known) + 2 * known) + BOUND * known,
                      np.broadcast_to(reach**2, value.shape))  # fmt: skip
            shape = (has.shape[1], *z.shape[1:])
            scales.append(Expected(value.reshape(shape), *(b.reshape(shape) for b in bounds)))
        yield Case(
            f"l2e/feature-scale/{number}", "feature_scale", {"z": z, "features": features},
            {"inside": scales[0], "outside": scales[1],
             "feature": Expected(feature.reshape(z.shape[1:]))},
            notes, condition=float(max(1.0, kappa.max())),
        )  # fmt: skip


def _false_killing() -> Iterator[Case]:
    rng = np.random.default_rng(91596559)
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
    entries: list[tuple[str, Array, Array, Array, int | None, str | None, str]] = [
        ("one threshold for all scores", phi, has, neurons, 7, None, "global"),
        ("a threshold for each input", phi, has, neurons, 2, None, "per_input"),
        ("one feature each, given as a number", phi, numbers, neurons, 4, None, "global"),
        ("one feature each, a threshold for each input", phi, numbers, neurons, 1, None,
         "per_input"),
        ("the top tenth of all", phi, has, neurons, None, "0.1", "global"),
        ("the top fifth of each input: 1 of 5", phi, has, neurons, None, "0.2", "per_input"),
        ("a quarter of 5 is rounded up: 2 of each input", phi, has, neurons, None, "0.25",
         "per_input"),
        ("ties with the threshold are all selected: 4 scores equal 3", tied, by, of, 2, None,
         "global"),
        ("ties in each input", tied, by, of, 1, None, "per_input"),
        ("nan is never selected and no threshold", holes, has, neurons, 5, None, "global"),
        ("nan, a threshold for each input", holes, has, neurons, 2, None, "per_input"),
        ("a constant neuron: nan scores, no feature (-1)", homeless, by, np.array([-1, 0, 1]), 3,
         None, "global"),
        ("every selected input has the neuron's feature: 0", np.where(own, 5.0, tied / 4), by, of,
         3, None, "global"),
        ("no selected input has it: 1", np.where(own, 0.125, 1 + tied), by, of, 3, None, "global"),
        ("nothing is selected: nan, not 0", np.full((2, 3), NAN), by[:2], of, 1, None, "global"),
        ("a sequence (B, T, C): a feature for each (position, channel)", wide, has[:4], places, 6,
         None, "global"),
        ("a feature that no input here has: always falsely killed", phi, numbers,
         np.array([0, 3, 2, 3, 1]), 9, None, "global"),
        ("k is all there is", phi, has, neurons, 30, None, "global"),
    ]  # fmt: skip
    for number, entry in enumerate(entries, start=1):
        notes, phi, features, feature, k, fraction, scope = entry
        rate = np.array(killing_rate(phi, memberships(features), feature, k, fraction, scope))
        yield Case(
            f"l2e/false-killing/{number}", "false_killing_rate",
            {"phi": phi, "features_of_input": features, "feature_of_neuron": feature, "k": k,
             "fraction": None if fraction is None else float(fraction), "scope": scope},
            {"rate": Expected(rate, linear=2 * np.nan_to_num(rate))}, notes,
        )  # fmt: skip


# ---- minimono's own ----------------------------------------------------------------------------


def log_distance_penalty(
    z: Array, mask: Array, mean: Array, *, reduction: Any
) -> tuple[Array, Array]:
    variable = Tensor(z, requires_grad=True)
    penalty = mono.log_distance_penalty(variable, mask, mean, reduction=reduction)
    penalty.backward()
    return penalty.data, variable.grad


# ---- known mistakes: the penalty ----------------------------------------------------------------


def _mistaken_penalty(
    term: Callable[[Array], Array] = lambda d: np.log(d * d),
    slope: Callable[[Array], Array] = lambda d: 2 / d,
    chosen: Callable[[Array], Array] = lambda mask: mask,
    centre: Callable[[Array, Array], Array] = lambda z, mean: mean,
    terms: Callable[[Array, str], Any] = lambda mask, reduction: (
        max(mask.sum(), 1) if reduction == "mean" else 1
    ),
    slope_terms: Callable[[Array, str], Any] | None = None,
    through_mean: bool = False,
) -> Callable[..., tuple[Array, Array]]:
    """Σ term(z - mean) and slope(z - mean) over the selected, divided by `terms`."""

    def penalty(z: Array, mask: Array, mean: Array, *, reduction: str) -> tuple[Array, Array]:
        mask = chosen(mask)
        distance = np.where(mask, z - centre(z, mean), 1.0)
        value = np.where(mask, term(distance), 0.0).sum() / terms(mask, reduction)
        gradient = np.where(mask, slope(distance), 0.0)
        if through_mean:
            gradient = gradient - gradient.mean(axis=0)
        return value, gradient / (slope_terms or terms)(mask, reduction)

    return penalty


def _mask_times_log(
    z: Array, mask: Array, mean: Array, *, reduction: str
) -> tuple[Array, Array]:
    distance = z - mean
    terms = max(mask.sum(), 1) if reduction == "mean" else 1
    return (mask * np.log(distance**2)).sum() / terms, mask * 2 / distance / terms


def _batch_mean(z: Array, mean: Array) -> Array:
    return z.mean(axis=0)


PENALTY: dict[str, Callable[..., tuple[Array, Array]]] = {
    "the square is missing: log |z - mean|, half the penalty": _mistaken_penalty(
        lambda d: np.log(abs(d)), lambda d: 1 / d
    ),
    "the gradient is halved: 1/(z - mean)": _mistaken_penalty(slope=lambda d: 1 / d),
    "the gradient has lost its sign: 2/|z - mean|": _mistaken_penalty(slope=lambda d: 2 / abs(d)),
    "the sign of the penalty is reversed": _mistaken_penalty(
        lambda d: -np.log(d * d), lambda d: -2 / d
    ),
    "the gradient is reversed, the penalty is not": _mistaken_penalty(slope=lambda d: -2 / d),
    "the gradient is 0": _mistaken_penalty(slope=lambda d: 0 * d),
    "the logarithm is missing: the squared distance": _mistaken_penalty(
        lambda d: d * d, lambda d: 2 * d
    ),
    "log (1 + (z - mean)^2)": _mistaken_penalty(
        lambda d: np.log1p(d * d), lambda d: 2 * d / (1 + d * d)
    ),
    "a small epsilon is added inside the logarithm (1e-8)": _mistaken_penalty(
        lambda d: np.log(d * d + 1e-8), lambda d: 2 * d / (d * d + 1e-8)
    ),
    "a small epsilon is added inside the logarithm (1e-6)": _mistaken_penalty(
        lambda d: np.log(d * d + 1e-6), lambda d: 2 * d / (d * d + 1e-6)
    ),
    "the logarithm to base 10": _mistaken_penalty(
        lambda d: np.log10(d * d), lambda d: 2 / d / np.log(10)
    ),
    "the logarithm to base 2": _mistaken_penalty(
        lambda d: np.log2(d * d), lambda d: 2 / d / np.log(2)
    ),
    "the mask multiplies the logarithm: 0 times the logarithm of 0 is nan": _mask_times_log,
    "taken about zero instead of the mean": _mistaken_penalty(centre=lambda z, mean: 0 * mean),
    "the batch's mean instead of the given one": _mistaken_penalty(centre=_batch_mean),
    "the batch's mean, with the gradient flowing through it": _mistaken_penalty(
        centre=_batch_mean, through_mean=True
    ),
    "the gradient flows through the mean": _mistaken_penalty(through_mean=True),
    "the mask is ignored: everything is penalised": _mistaken_penalty(chosen=np.ones_like),
    "the mask is inverted": _mistaken_penalty(chosen=lambda mask: ~mask),
    "the mean is over all activations, not over the selected": _mistaken_penalty(
        terms=lambda mask, reduction: mask.size if reduction == "mean" else 1
    ),
    "the mean is over inputs, not over the selected": _mistaken_penalty(
        terms=lambda mask, reduction: len(mask) if reduction == "mean" else 1
    ),
    "reduction is ignored: always the sum": _mistaken_penalty(terms=lambda mask, reduction: 1),
    "reduction is ignored: always the mean": _mistaken_penalty(
        terms=lambda mask, reduction: max(mask.sum(), 1)
    ),
    "the gradient is that of the sum where the mean is meant": _mistaken_penalty(
        slope_terms=lambda mask, reduction: 1
    ),
    "nan where nothing is selected: the mean over nothing": _mistaken_penalty(
        terms=lambda mask, reduction: mask.sum() if reduction == "mean" else 1
    ),
}


# ---- known mistakes: the scale by feature --------------------------------------------------------


def _mistaken_scale(
    phi_of: Callable[[Array], Array] | None = None,
    average: Callable[[Array, Array], Array] | None = None,
    order: Callable[[Array, Array], Array] = lambda inside, outside: inside,
    ddof: int = 1,
    about: str = "mean",
    power: float = 1.0,
    swapped: bool = False,
    outside_of: Callable[[Array], Array] = lambda has: ~has,
    nothing: float = NAN,
    constant: int = -1,
    last: bool = False,
) -> Callable[..., tuple[Array, Array, Array]]:
    """φ_l, φ_l⁻ and l* with something wrong. `average` gets the z of an input set and all of z."""

    def scale(z: Array, features: Array) -> tuple[Array, Array, Array]:
        rows, has = z.reshape(len(z), -1), memberships(features)
        centre = rows.mean(axis=0) if about == "mean" else 0.0
        below = ((rows - rows.mean(axis=0)) ** 2).sum(axis=0) / (len(rows) - ddof)
        below = np.where(below > 0, below, np.nan) ** power
        phi = (rows - centre) ** 2 / below if phi_of is None else phi_of(rows)

        def side(chosen: Array) -> Array:
            if not chosen.any():
                return np.where(np.isnan(below), np.nan, nothing)
            if average is not None:
                return average(rows[chosen], rows)
            return phi[chosen].mean(axis=0)

        inside = np.stack([side(c) for c in has.T])
        outside = np.stack([side(c) for c in outside_of(has).T])
        ranked = np.nan_to_num(order(inside, outside), nan=-np.inf)
        feature = ranked.argmax(axis=0)
        if last:
            feature = len(ranked) - 1 - ranked[::-1].argmax(axis=0)
        feature = np.where(np.isnan(below), constant, feature)
        if swapped:
            inside, outside = outside, inside
        shape = (has.shape[1], *z.shape[1:])
        return inside.reshape(shape), outside.reshape(shape), feature.reshape(z.shape[1:])

    return scale


def _known(variance: Array) -> Array:
    return np.where(variance > 0, variance, np.nan)


def _variance(rows: Array) -> Array:
    """nan where it is 0, or not defined."""
    return _known(((rows - rows.mean(axis=0)) ** 2).sum(axis=0) / max(len(rows) - 1, 1))


SCALE: dict[str, Callable[..., tuple[Array, Array, Array]]] = {
    "variance divided by n instead of n-1": _mistaken_scale(ddof=0),
    "standard deviation where the variance is meant": _mistaken_scale(power=0.5),
    "taken about zero instead of the mean": _mistaken_scale(about="zero"),
    "the mean of the feature's inputs instead of the mean of all": _mistaken_scale(
        average=lambda own, rows: ((own - own.mean(axis=0)) ** 2).mean(axis=0) / _variance(rows)
    ),
    "the variance of the feature's inputs instead of the variance of all": _mistaken_scale(
        average=lambda own, rows: ((own - rows.mean(axis=0)) ** 2).mean(axis=0) / _variance(own)
    ),
    "the squared distance of the means, not the mean of the squares": _mistaken_scale(
        average=lambda own, rows: (own.mean(axis=0) - rows.mean(axis=0)) ** 2 / _variance(rows)
    ),
    "the sum over a feature's inputs, not their mean": _mistaken_scale(
        average=lambda own, rows: ((own - rows.mean(axis=0)) ** 2).sum(axis=0) / _variance(rows)
    ),
    "divided by the number of all inputs, not of the feature's": _mistaken_scale(
        average=lambda own, rows: (
            ((own - rows.mean(axis=0)) ** 2).sum(axis=0) / _variance(rows) / len(rows)
        )
    ),
    "divided by the feature's inputs less one": _mistaken_scale(
        average=lambda own, rows: (
            ((own - rows.mean(axis=0)) ** 2).sum(axis=0) / _variance(rows) / (len(own) - 1)
        )
    ),
    "the largest scale of a feature's inputs, not their mean": _mistaken_scale(
        average=lambda own, rows: ((own - rows.mean(axis=0)) ** 2).max(axis=0) / _variance(rows)
    ),
    "the median scale of a feature's inputs, not their mean": _mistaken_scale(
        average=lambda own, rows: np.median(
            (own - rows.mean(axis=0)) ** 2 / _variance(rows), axis=0
        )
    ),
    "the square is missing: the mean |z - mean| / S": _mistaken_scale(
        average=lambda own, rows: abs(own - rows.mean(axis=0)).mean(axis=0)
        / np.sqrt(_variance(rows))
    ),
    "inside and outside change places": _mistaken_scale(swapped=True),
    "outside is over all inputs, not over those without the feature": _mistaken_scale(
        outside_of=np.ones_like
    ),
    "the feature with the lowest scale": _mistaken_scale(order=lambda i, o: -i),
    "the feature with the lowest scale outside": _mistaken_scale(order=lambda i, o: -o),
    "the feature with the largest ratio of inside to outside": _mistaken_scale(
        order=lambda i, o: i / o
    ),
    "the feature with the largest difference of inside and outside": _mistaken_scale(
        order=lambda i, o: i - o
    ),
    "the highest number wins a tie": _mistaken_scale(last=True),
    "0 instead of nan for a feature without inputs": _mistaken_scale(nothing=0.0),
    "a constant neuron is given feature 0": _mistaken_scale(constant=0),
}


# ---- known mistakes: the false killing rate ------------------------------------------------------


def _chosen(
    phi: Array,
    k: int | None,
    fraction: float | None,
    scope: str,
    *,
    more: int = 0,
    strict: bool = False,
    first: bool = False,
    lowest: bool = False,
    rounding: Callable[[float], int] = lambda size: math.ceil(size - 1e-9),
    of_nan: float = -math.inf,
) -> Array:
    """The mask of the k highest scores, in NumPy, with something wrong as the options say."""
    scores = np.where(np.isnan(phi), of_nan, -phi if lowest else phi)
    rows = scores.reshape(1 if scope == "global" else len(phi), -1)
    most = k if fraction is None else max(rounding(fraction * rows.shape[1]), 1)
    assert most is not None
    most = min(most + more, rows.shape[1])
    if first:
        order = np.argsort(-rows, axis=1, kind="stable").argsort(axis=1)
        return (order < most).reshape(phi.shape) & ~np.isnan(phi)
    tau = -np.sort(-rows, axis=1)[:, most - 1 : most]
    mask = (rows > tau if strict else rows >= tau).reshape(phi.shape)
    return mask & (of_nan > 0 or ~np.isnan(phi))


def _share(selected: Array, own: Array) -> Any:
    return (selected & ~own).sum() / selected.sum()


def _mistaken_rate(
    rate: Callable[[Array, Array], Any] = _share,
    own_of: Callable[[Array, Array], Array] | None = None,
    scope_of: Callable[[str], str] = lambda scope: scope,
    **options: Any,
) -> Callable[..., Array]:
    """`rate` of the selected and of which inputs have their neuron's feature."""

    def false_killing_rate(
        phi: Array,
        features_of_input: Array,
        feature_of_neuron: Array,
        *,
        k: int | None,
        fraction: float | None,
        scope: str,
    ) -> Array:
        has = memberships(features_of_input)
        more = np.zeros((len(has), int(feature_of_neuron.max()) + 2), dtype=bool)
        has = np.concatenate([has, more], axis=1)  # features that no input has; the last for -1
        own = has[:, feature_of_neuron] if own_of is None else own_of(has, feature_of_neuron)
        selected = _chosen(phi, k, fraction, scope_of(scope), **options)
        return np.float64(rate(selected, own))

    return false_killing_rate


def _mean_known(shares: Sequence[Any] | Array) -> Any:
    shares = np.asarray(shares)
    return shares[~np.isnan(shares)].mean()


RATE: dict[str, Callable[..., Array]] = {
    "the scope is swapped": _mistaken_rate(
        scope_of=lambda scope: "global" if scope == "per_input" else "per_input"
    ),
    "the scope is ignored: one threshold for all": _mistaken_rate(scope_of=lambda _: "global"),
    "the scope is ignored: a threshold for each input": _mistaken_rate(
        scope_of=lambda _: "per_input"
    ),
    "divided by all scores, not by the selected": _mistaken_rate(
        lambda s, own: (s & ~own).sum() / s.size
    ),
    "divided by the inputs without the feature (a false positive rate)": _mistaken_rate(
        lambda s, own: (s & ~own).sum() / (~own).sum()
    ),
    "the complement: the share that is rightly selected": _mistaken_rate(
        lambda s, own: (s & own).sum() / s.sum()
    ),
    "the share of unselected among those with the feature (a miss rate)": _mistaken_rate(
        lambda s, own: (~s & own).sum() / own.sum()
    ),
    "a count, not a share": _mistaken_rate(lambda s, own: (s & ~own).sum()),
    "in percent": _mistaken_rate(lambda s, own: 100 * (s & ~own).sum() / s.sum()),
    "the threshold is strict: scores that equal it are left out": _mistaken_rate(strict=True),
    "one score too many: the threshold is the one after the k-th": _mistaken_rate(more=1),
    "of ties only the first are selected": _mistaken_rate(first=True),
    "the lowest scores are selected": _mistaken_rate(lowest=True),
    "nan is selected as if it were the highest": _mistaken_rate(of_nan=math.inf),
    "everything is selected": _mistaken_rate(lambda s, own: (~own).sum() / own.size),
    "each input's own rate, averaged over inputs": _mistaken_rate(
        lambda s, own: _mean_known([_share(a, b) for a, b in zip(s, own, strict=True)])
    ),
    "each neuron's own rate, averaged over neurons": _mistaken_rate(
        lambda s, own: _mean_known((s & ~own).sum(axis=0) / s.sum(axis=0))
    ),
    "the fraction is rounded down": _mistaken_rate(rounding=math.floor),
    "0 instead of nan where nothing is selected": _mistaken_rate(
        lambda s, own: np.nan_to_num(_share(s, own))
    ),
    "a feature that no input here has counts as present": _mistaken_rate(
        own_of=lambda has, feature: has[:, feature] | ~has[:, feature].any(axis=0)
    ),
    "only an input's first feature counts": _mistaken_rate(
        own_of=lambda has, feature: (
            (np.where(has.any(axis=1), has.argmax(axis=1), -2))[:, None]
            == feature.reshape(-1)
        ).reshape(len(has), *feature.shape)
    ),
}


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
        "log_distance_penalty": log_distance_penalty,
        "feature_scale": mono.feature_scale,
        "false_killing_rate": mono.false_killing_rate,
    },
    mistakes={
        "log_distance_penalty": PENALTY, "feature_scale": SCALE, "false_killing_rate": RATE,
    },
)  # fmt: skip
