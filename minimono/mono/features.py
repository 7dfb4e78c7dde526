"""Which feature a neuron stands for, and which activations are inhibited by mistake (L2E).

`feature_scale` finds the feature on whose inputs a neuron's φ is highest; `own_feature` says which
inputs have it; `false_killing_rate` how many of the selected activations belong to an input that
does not; `kolmogorov_smirnov` how far φ on a neuron's own inputs lies from φ on all.
"""

import math
from typing import Literal, NamedTuple

import numpy as np

from minimono import checks
from minimono.backend import Array, array_module, as_array
from minimono.mono.moments import Moments
from minimono.mono.scale import monosemantic_scale
from minimono.mono.selection import Per, select_top_fraction, select_top_k


class FeatureScale(NamedTuple):
    """What `feature_scale` finds."""

    inside: Array  # φ_l: mean scale over the inputs with feature l, (L, *neurons)
    outside: Array  # φ_l⁻: mean scale over the inputs without it, (L, *neurons)
    feature: Array  # l*: the feature of each neuron, (*neurons), -1 for a constant neuron


def feature_scale(z: Array, features: Array) -> FeatureScale:
    """How far each feature drives each neuron from its mean, in variances (L2E, eqs. 2-3).

        φ_l = Σ_{i has l} (z_i - mean)² / (|C_l| S²)       l* = argmax_l φ_l

    Published. mean and S² (ddof=1) are those of all B inputs, the same for every feature; φ_l⁻ is
    the same mean over the inputs without l. So |C_l| φ_l + (B - |C_l|) φ_l⁻ = B - 1.

    z: activations, shape (B, *neurons), B >= 2.   features: booleans (B, L), or, if each input has
    one feature, its number (B,): 0 to L - 1. All in float64.

    nan: φ_l of a feature that no input has, φ_l⁻ of one that all have, and everything of a constant
    neuron, whose feature is -1. Our choice: a feature that all inputs have takes part in the
    argmax as in the formula (its φ_l is (B - 1)/B for every neuron), and the lowest number wins a
    tie.

    >>> z = np.array([[0.0, 5.0], [0.0, 5.0], [0.0, 5.0], [8.0, 5.0]])
    >>> scale = feature_scale(z, np.array([0, 0, 1, 1]))
    >>> scale.inside[:, 0], scale.feature
    (array([0.25, 1.25]), array([ 1, -1]))
    """
    z = checks.activations(z, "feature_scale: z")
    has = memberships(features, "feature_scale: features")  # (B, L)
    if len(z) < 2 or len(has) != len(z):
        raise ValueError(
            f"feature_scale: z has {len(z)} inputs and features are of {len(has)}, expected as "
            "many, and two at least: one has no variance"
        )
    xp = array_module(z, has)
    moments = Moments.of(z)
    phi = monosemantic_scale(z.astype(xp.float64), moments.mean, moments.variance())
    phi = phi.reshape(len(z), -1)  # (B, *neurons) -> (B, neurons)
    with np.errstate(invalid="ignore"):
        inside, outside = (
            (c.T.astype(xp.float64) @ phi / c.sum(axis=0)[:, None]).reshape(-1, *z.shape[1:])
            for c in (has, ~has)
        )  # (L, B) @ (B, neurons) -> (L, *neurons)
    known = ~xp.isnan(inside)
    highest = xp.where(known, inside, -xp.inf).argmax(axis=0)
    return FeatureScale(inside, outside, xp.where(known.any(axis=0), highest, -1))


def own_feature(features_of_input: Array, feature_of_neuron: Array) -> Array:
    """Whether each input has each neuron's feature: booleans (B, *neurons).

    features_of_input: booleans (B, L) or numbers (B,).   feature_of_neuron: numbers (*neurons), as
    `feature_scale(...).feature`; a neuron with -1 has none, so False for every input.

    >>> own_feature(np.array([0, 1, 1]), np.array([1, 0, -1])).astype(int)
    array([[0, 1, 0],
           [1, 0, 0],
           [1, 0, 0]])
    """
    numbers = checks.labels(feature_of_neuron, "own_feature: feature_of_neuron", least=-1)
    has = memberships(features_of_input, "own_feature: features_of_input")
    xp = array_module(has, numbers)
    if as_array(features_of_input).ndim == 2 and (numbers >= has.shape[1]).any():
        raise ValueError(
            f"own_feature: feature_of_neuron is {int(numbers.max())}, expected less than "
            f"{has.shape[1]}, the features of the inputs"
        )
    nobody = xp.zeros((len(has), 1), dtype=bool)
    beyond = has.shape[1]  # a column for features that no input here has, and for no feature
    column = xp.where((numbers < 0) | (numbers > beyond), beyond, numbers)
    own: Array = xp.concatenate([has, nobody], axis=1)[:, column]  # (B, *neurons)
    return own


def false_killing_rate(
    phi: Array,
    features_of_input: Array,
    feature_of_neuron: Array,
    *,
    k: int | None = None,
    fraction: float | None = None,
    scope: Literal["global", "per_input"] = "global",
) -> float:
    """The share of the selected activations whose input lacks the neuron's feature (L2E, eq. 4).

        FKR = Σ_ij 1(x_i ∉ l*_j) 1(φ_ij >= τ) / Σ_ij 1(φ_ij >= τ)

    Published. τ is the k-th highest φ, or the one at the top `fraction`: give one of the two. Of
    all B x neurons scores (scope="global") or of each input's own (scope="per_input"): the paper
    does not say which; the default is our choice. All scores that equal τ are selected.

    phi: (B, *neurons); nan is never selected.   features_of_input: booleans (B, L) or numbers
    (B,).   feature_of_neuron: numbers (*neurons). nan if nothing is selected. Raises ValueError if
    a neuron without a feature (-1) is selected.

    >>> phi = np.array([[9.0, 4.0], [1.0, 3.0]])
    >>> false_killing_rate(phi, np.array([0, 1]), np.array([0, 1]), k=2)    # 9 rightly, 4 not
    0.5
    """
    own = own_feature(features_of_input, feature_of_neuron)
    scores = checks.activations(phi, "false_killing_rate: phi")
    if scores.shape != own.shape:
        raise ValueError(
            f"false_killing_rate: phi has shape {scores.shape}, expected {own.shape}, (inputs, "
            "*neurons) as the features have"
        )
    checks.one_of(scope, "false_killing_rate: scope", ("global", "per_input"))
    per: Per = "batch" if scope == "global" else "sample"
    if (k is None) == (fraction is None):
        raise ValueError("false_killing_rate: give either k or fraction, and not both")
    if k is not None:
        selected = select_top_k(scores, k, per=per)
    else:
        assert fraction is not None  # one of the two is given
        selected = select_top_fraction(scores, fraction, per=per)
    homeless = selected & (as_array(feature_of_neuron) < 0)
    if homeless.any():
        _, *neuron = np.unravel_index(int(homeless.argmax()), homeless.shape)
        raise ValueError(
            f"false_killing_rate: neuron {[int(i) for i in neuron]} is selected but has no "
            "feature (-1); give it one, or make its phi nan"
        )
    total = int(selected.sum())
    return int((selected & ~own).sum()) / total if total else math.nan


def kolmogorov_smirnov(sample: Array, other: Array) -> float:
    """The largest gap between two empirical distributions: sup_x |F(x) - G(x)|, 0 to 1.

    L2E compares φ on inputs with the neuron's feature with φ on all inputs:
    `kolmogorov_smirnov(phi[own], phi)` with `own` from `own_feature`. Arrays of any shape, taken as
    flat samples; infinity is a number like any other. Raises ValueError for nan: leave constant
    neurons out. Pooling all neurons in one sample is our choice.

    >>> kolmogorov_smirnov(np.array([1.0, 2.0]), np.array([2.0, 3.0, 4.0]))
    0.666...
    """
    sorted_samples = []
    for name, values in (("sample", sample), ("other", other)):
        flat = checks.activations(values, f"kolmogorov_smirnov: {name}").reshape(-1)
        if array_module(flat).isnan(flat).any():
            raise ValueError(f"kolmogorov_smirnov: {name} contains nan; leave those neurons out")
        sorted_samples.append(array_module(flat).sort(flat))
    xp = array_module(*sorted_samples)
    points = xp.concatenate(sorted_samples)  # F - G changes only here
    F, G = (xp.searchsorted(s, points, side="right") / len(s) for s in sorted_samples)
    return float(abs(F - G).max())


def memberships(features: Array, name: str) -> Array:
    """Which input has which feature, booleans (B, L), from those or from numbers (B,)."""
    features = as_array(features)
    if features.ndim == 2 and features.dtype == bool:
        if features.size == 0:
            raise ValueError(f"{name} has shape {features.shape}, expected an input and a feature")
        return features
    if features.ndim != 1 or features.dtype == bool:
        raise TypeError(
            f"{name} has dtype {features.dtype} and shape {features.shape}, expected booleans "
            "(B, L) or whole numbers (B,)"
        )
    numbers = checks.labels(features, name, least=0)
    has: Array = numbers[:, None] == array_module(numbers).arange(int(numbers.max()) + 1)
    return has
