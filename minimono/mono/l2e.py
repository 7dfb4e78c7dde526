"""Learning towards emergence (L2E): inhibition cheap enough for pretraining.

Wang, Di, Tang, Li, Ng, Zhou and Chen (2025, arXiv 2503.23298) keep MEmeL's scale φ and change the
rest:

    which feature does a neuron stand for?    feature_scale: the one on whose inputs φ is highest
    what does inhibition hit by mistake?      false_killing_rate
    which activations, without sorting?       MovingThreshold: one comparison with a moving τ
    what is done to them?                     log_distance_penalty, added to the loss

`L2E` puts the last two into a network. Shapes: `B` inputs (axis 0), `L` features.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np

from minimono import describe
from minimono.backend import Array, array_module, as_array, device_of, to_device, to_host
from minimono.checks import as_written, whole_number
from minimono.engine.primitives import log, where
from minimono.engine.tensor import Tensor, as_tensor
from minimono.mono.inhibition import flags_and_mean
from minimono.mono.moments import Moments, as_activations
from minimono.mono.scale import ScaleTracker, monosemantic_scale
from minimono.mono.selection import select_top_fraction, select_top_k
from minimono.nn.at_once import or_undone
from minimono.nn.module import Module

# ---- what a neuron stands for, and what is hit by mistake --------------------------------------


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
    z = as_activations(z, "feature_scale: z")
    if len(z) < 2:
        raise ValueError("feature_scale: z has 1 input, which has no variance; two at least")
    has = _memberships(features, "feature_scale: features")  # (B, L)
    if len(has) != len(z):
        raise ValueError(f"feature_scale: features are of {len(has)} inputs, z has {len(z)}")
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
    numbers = _numbers(feature_of_neuron, "own_feature: feature_of_neuron", least=-1)
    has = _memberships(features_of_input, "own_feature: features_of_input")
    xp = array_module(has, numbers)
    if as_array(features_of_input).ndim == 2:
        _check_below(numbers, has.shape[1], "own_feature: feature_of_neuron")
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
    scores = as_activations(phi, "false_killing_rate: phi")
    if scores.shape != own.shape:
        raise ValueError(
            f"false_killing_rate: phi has shape {scores.shape}, the features are those of "
            f"{own.shape} (inputs, *neurons)"
        )
    if scope not in ("global", "per_input"):
        raise ValueError(
            f'false_killing_rate: scope is {scope!r}, expected "global" or "per_input"'
        )
    per: Literal["batch", "sample"] = "batch" if scope == "global" else "sample"
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
        flat = as_activations(values, f"kolmogorov_smirnov: {name}").reshape(-1)
        if array_module(flat).isnan(flat).any():
            raise ValueError(f"kolmogorov_smirnov: {name} contains nan; leave those neurons out")
        sorted_samples.append(array_module(flat).sort(flat))
    xp = array_module(*sorted_samples)
    points = xp.concatenate(sorted_samples)  # F - G changes only here
    F, G = (xp.searchsorted(s, points, side="right") / len(s) for s in sorted_samples)
    return float(abs(F - G).max())


# ---- selection without sorting -----------------------------------------------------------------


class MovingThreshold:
    """A threshold τ that moves until the scores above it are the top `fraction` p of all.

        select φ >= τ;      τ <- τ (1 + rate (share selected / p - 1))

    One comparison and a count per batch, then O(1). At the p-quantile of the scores' distribution
    the expected step is zero. Reconstruction: the published rule could not be read; the paper says
    that one comparison per batch and an O(1) update converge to the global top-p quantile.

    The step is our choice. It is a factor, so τ stays positive and scales with φ: scores times 4
    give τ times 4. A factor lies between 1 - rate (nothing selected) and 1 + rate (1/p - 1)
    (everything selected). If φ keeps its distribution, log τ settles around the quantile with a
    standard deviation of about sqrt(rate (1 - p) / (2 a p N)) for N independent scores a batch; if
    log φ drifts by a small δ a batch, log τ lags by about δ / (rate a). a = τ f(τ) / p is the
    slope of the tail; for a Gaussian neuron at p = 0.02 it is 3.1. `rate` may be lowered as
    training goes on: rate -> 0 like 1/t converges to the quantile itself.

    The first batch with a defined score sets τ to its own top p, so nothing depends on units. nan
    counts as a score that is not selected. τ stays within float64's normal range.

    >>> threshold = MovingThreshold(0.25, rate=0.1)
    >>> threshold.select(np.array([[1.0, 4.0, 2.0, 3.0]])), threshold.value
    (array([[False,  True, False, False]]), array(4.))
    >>> threshold.select(np.array([[1.0, 2.0, 2.0, 3.0]])), threshold.value     # none: τ falls
    (array([[False, False, False, False]]), array(3.6))
    """

    def __init__(self, fraction: float = 0.02, *, rate: float = 0.05) -> None:
        self.fraction = _between_0_and_1(fraction, "MovingThreshold: fraction")
        self.rate = _between_0_and_1(rate, "MovingThreshold: rate")
        self._value: Array | None = None

    def __repr__(self) -> str:
        return describe.line(self, value=self.value)

    @property
    def value(self) -> Array:
        """τ, a float64 array without axes; nan before the first scores."""
        return np.array(np.nan) if self._value is None else self._value

    @property
    def started(self) -> bool:
        """Whether there is a τ."""
        return self._value is not None

    def select(self, phi: Array) -> Array:
        """Flag the scores (B, *neurons) that are at least τ, then move τ."""
        phi = as_activations(phi, "MovingThreshold: phi")
        xp = array_module(phi)
        if self._value is None:
            top = select_top_fraction(phi, self.fraction, per="batch")
            if not top.any():  # all nan
                return top
            tau = _normal(xp.asarray(phi[top].min(), dtype=xp.float64))
            selected = phi >= tau
            self._value = tau
        else:
            tau = to_device(self._value, device_of(phi))
            # In float64: τ is an array, which NumPy does not round to float32.
            selected = phi >= tau
            self._value = self._moved(tau, selected.sum(), phi.size)
        return selected

    def move(self, selected: int, scores: int) -> None:
        """Move τ, given how many of so many scores are at least τ.

        For those who have their scores compared where they are made, as `ScaleTracker.flag_above`
        does. Raises RuntimeError before the first `select`.
        """
        if self._value is None:
            raise RuntimeError("MovingThreshold.move: no τ yet; the first scores go to select")
        selected = whole_number(selected, "MovingThreshold.move: selected", least=0)
        scores = whole_number(scores, "MovingThreshold.move: scores", least=1)
        if selected > scores:
            raise ValueError(
                f"MovingThreshold.move: selected is {selected}, of only {scores} scores"
            )
        self._value = self._moved(self._value, selected, scores)

    def _moved(self, tau: Array, selected: Array | int, scores: int) -> Array:
        share = selected / scores
        with np.errstate(over="ignore"):
            return _normal(tau * (1.0 + self.rate * (share / self.fraction - 1.0)))

    def remember(self) -> Callable[[], None]:
        """A call that puts τ back as it is now."""
        value = self._value
        return lambda: setattr(self, "_value", value)

    def state_dict(self) -> dict[str, Array]:
        """τ as a NumPy array, nan before the first scores. The settings are not in it."""
        return {"value": to_host(self.value).copy()}

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Take over a state from `state_dict`. If it raises, the threshold is as before."""
        name = "MovingThreshold.load_state_dict"
        if state.keys() != {"value"}:
            raise ValueError(f"{name}: state has entries {sorted(state)}, expected ['value']")
        value = to_host(state["value"])
        if value.dtype != np.float64 or value.shape != ():
            raise TypeError(
                f"{name}: value is {value.dtype} of shape {value.shape}, expected a float64 "
                "without axes"
            )
        if not (np.isnan(value) or (value > 0 and np.isfinite(value))):
            raise ValueError(f"{name}: value is {float(value)}, expected a positive number or nan")
        self._value = None if np.isnan(value) else value.copy()


def _normal(tau: Array) -> Array:
    """τ within float64's normal numbers: from 0 or infinity no factor would bring it back."""
    xp = array_module(tau)
    limits = xp.finfo(xp.float64)
    return xp.asarray(xp.clip(tau, limits.tiny, limits.max))


# ---- the penalty, and the module that applies it in training -----------------------------------


def log_distance_penalty(
    z: Tensor,
    mask: Tensor | Array,
    mean: Tensor | Array,
    *,
    reduction: Literal["sum", "mean"] = "sum",
) -> Tensor:
    """log (z - mean)² of the selected activations, to be added to the loss (L2E, eq. 5).

        L = Σ_selected log (z - mean)²           dL/dz = 2 / (z - mean) where selected, else 0

    Published, for each selected activation; `mean` is a constant. A descent step moves z towards
    its mean, the faster the nearer it is: since φ >= τ where selected, |dL/dz| is at most
    2 / (S sqrt τ) (derived). How the terms are put together is our choice: reduction="sum" as
    they stand, "mean" over the selected ones (0 if none is).

    z: (B, *neurons).   mask: booleans of the same shape.   mean: (*neurons) or (1, *neurons).
    Returns a Tensor without axes, on the tape, of z's dtype; computed in float64. Raises
    ValueError for a selected activation that equals its mean (the logarithm is -infinity), or
    that, or whose mean, is not finite; on a GPU, which is not waited for, the penalty is then not
    finite.

    >>> from minimono import tensor
    >>> z = tensor([[3.0, 9.0]], requires_grad=True)
    >>> penalty = log_distance_penalty(z, np.array([[True, False]]), np.array([1.0, 1.0]))
    >>> penalty.backward()
    >>> float(penalty), z.grad
    (1.386..., array([[1., 0.]]))
    """
    z = as_tensor(z)
    if z.dtype.kind not in "fc":  # complex: so that the complex-step check can pass through
        raise TypeError(f"log_distance_penalty: z has dtype {z.dtype}, expected floats")
    flags, centre = flags_and_mean(z, mask, mean, "log_distance_penalty")
    if reduction not in ("sum", "mean"):
        raise ValueError(
            f'log_distance_penalty: reduction is {reduction!r}, expected "sum" or "mean"'
        )
    xp = array_module(z.array, flags, centre)
    if z.device != "cpu":  # no search for the selected, and no check: both would wait for the GPU
        apart = where(flags, z - Tensor(centre.astype(xp.float64)), 1.0)
        penalty = 2.0 * log(abs(apart)).sum()
        if reduction == "mean":
            penalty = penalty / Tensor(xp.maximum(flags.sum(), 1).astype(xp.float64))
        return penalty.astype(z.dtype)
    # Flat places: finding and gathering them is several times faster than by sample and neuron.
    (places,) = flags.reshape(-1).nonzero()  # (B, *neurons) -> (selected,)
    of_each = centre.reshape(-1).astype(xp.float64)[places % centre.size]
    distance = z.reshape(-1)[places] - Tensor(of_each)  # (selected,)
    good = xp.isfinite(distance.data) & (distance.data != 0)
    if not good.all():
        first = int(good.argmin())
        at = [int(i) for i in np.unravel_index(int(places[first]), z.shape)]
        raise ValueError(
            f"log_distance_penalty: z - mean is {distance.data[first]} at the selected place {at}; "
            "expected a finite number that is not 0"
        )
    penalty = 2.0 * log(abs(distance)).sum()  # log |d| and not log d²: the square can overflow
    if reduction == "mean":
        penalty = penalty / max(distance.size, 1)
    return penalty.astype(z.dtype)


@dataclass(frozen=True, eq=False)
class Penalised:
    """What an L2E module did in its last call."""

    penalty: Tensor  # on the tape; the constant 0 in eval() and while it does not penalise yet
    flagged: Array | None = None  # which were penalised, (B, *neurons); None while none can be
    activations: Array | None = None  # what came in, (B, *neurons); None in eval()
    moments: Moments | None = None  # what they were scored with; None in the first call
    compensation: float = 0.0

    __repr__ = describe.line

    @property
    def mean(self) -> Array | None:
        """The means the penalised were measured from, (*neurons); None while none can be."""
        return None if self.flagged is None or self.moments is None else self.moments.mean

    @cached_property
    def scale(self) -> Array | None:
        """φ of each activation, (B, *neurons): worked out when asked for, training needs no φ."""
        if self.activations is None:
            return None
        if self.moments is None:
            return array_module(self.activations).full_like(self.activations, np.nan)
        return monosemantic_scale(
            self.activations, self.moments.mean, self.moments.variance(),
            compensation=self.compensation,
        )  # fmt: skip


class L2E(Module):
    """Penalise, in training, the most monosemantic activations of the layer it stands behind.

    Each training call scores the activations (B, *neurons) against the neurons' running moments
    (`ScaleTracker`, published convention), flags those above a `MovingThreshold`, and keeps the
    mean of log (z - mean)² over them as `penalty`. Values and gradients pass through unchanged:
    the loss has to add the penalty. In `eval()` it does nothing, and `penalty` is 0.

        taps.insert(model, "block.1.mlp.act", L2E(0.02))

        def loss(model, x, y):
            return cross_entropy(model(x), y) + 0.001 * l2e_penalty(model)

    `penalty` belongs to the module's last call: where a module is called several times in a step,
    take it after each call.

    * `fraction`: the share p of activations to penalise. Published: best near 1 to 3 %.
    * `rate`: of the moving threshold. `forget_after`, `start_after`, `compensation`: as in
      `MEmeL`, and with its defaults (our choice).
    * The coefficient, 0.001 above, is open in the paper. With the mean over the flagged
      activations (our choice) it does not depend on the width, the batch or p. Whether
      0.01 helps or hurts depended on the length of training in `demos/l2e.py`.

    State: the moments and τ are saved with the model.

    >>> from minimono import tensor
    >>> module = L2E(0.25, start_after=1)
    >>> _ = module(tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]))
    >>> z = tensor([[0.0, 9.0], [0.0, 1.0]], requires_grad=True)
    >>> out = module(z)
    >>> module.last.flagged, float(module.penalty)         # 9 is flagged: log (9 - 0.5)²
    (array([[False,  True],
           [False, False]]), 4.28...)
    """

    def __init__(
        self,
        fraction: float = 0.02,
        *,
        rate: float = 0.05,
        forget_after: int = 10,
        start_after: int = 10,
        compensation: float = 0.01,
    ):
        self.start_after = whole_number(start_after, "L2E: start_after", least=0)
        self.tracker = ScaleTracker(forget_after=forget_after, compensation=compensation)
        self.threshold = MovingThreshold(fraction, rate=rate)
        self.last: Penalised | None = None

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, tracker={self.tracker}, threshold={self.threshold}"

    @property
    def penalty(self) -> Tensor:
        """The penalty of the last call, without axes."""
        if self.last is None:
            raise RuntimeError("L2E.penalty: the module has not been called yet")
        return self.last.penalty

    def forward(self, z: Tensor) -> Tensor:
        nothing = Tensor(array_module(z.array).zeros((), dtype=z.dtype))
        if not self.training:
            self.last = Penalised(nothing)
            return z
        if z.dtype.kind != "f":
            raise TypeError(f"L2E: activations have dtype {z.dtype}, expected floats")
        self.tracker.check(as_activations(z.array, "L2E: activations"), "L2E")
        return or_undone(self.remember(), self._seen, z, nothing)

    def _seen(self, z: Tensor, nothing: Tensor) -> Tensor:
        """The activations as they are, after this batch has been scored and penalised."""
        seen = self.tracker.batches_seen
        before = self.tracker.moments.to(z.device) if seen else None  # the model may have moved
        scored = (z.array, before, self.tracker.compensation)
        if before is None or seen < self.start_after:
            self.tracker.score(z.array)
            self.last = Penalised(nothing, None, *scored)
            return z
        flagged = self._flag(z.array)
        penalty = log_distance_penalty(z, flagged, before.mean, reduction="mean")
        self.last = Penalised(penalty, flagged, *scored)
        return z

    def _flag(self, z: Array) -> Array:
        """The activations whose φ is at least τ. On the CPU φ is compared where it is made."""
        if device_of(z) != "cpu" or not self.threshold.started:
            return self.threshold.select(self.tracker.score(z))
        flagged, count = self.tracker.flag_above(z, float(to_host(self.threshold.value)))
        self.threshold.move(count, flagged.size)
        return flagged

    def extra_state(self) -> dict[str, Array]:
        return self.tracker.state_dict() | {"threshold": self.threshold.state_dict()["value"]}

    def load_extra_state(self, state: Mapping[str, Array]) -> None:
        if state:
            or_undone(self.remember(), self._load, dict(state))

    def _load(self, state: dict[str, Array]) -> None:
        self.threshold.load_state_dict({"value": state.pop("threshold")})
        self.tracker.load_state_dict(state)

    def remember(self) -> Callable[[], None]:
        moments, value, last = self.tracker.remember(), self.threshold.remember(), self.last

        def put_back() -> None:
            moments()
            value()
            self.last = last

        return put_back

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"last": None}  # a copy of the module does not copy the tape


def l2e_penalty(model: Module) -> Tensor:
    """The sum of the penalties of all `L2E` modules in a model, each from its last call.

    Add it, times a coefficient, to the loss, after the model was called.
    """
    penalties = [m.penalty for _, m in model.named_modules() if isinstance(m, L2E)]
    if not penalties:
        raise ValueError("l2e_penalty: the model has no L2E module; taps.insert puts one in")
    total = penalties[0]
    for penalty in penalties[1:]:
        total = total + penalty
    return total


# ---- checks ------------------------------------------------------------------------------------


def _numbers(values: Array, name: str, *, least: int) -> Array:
    """Feature numbers as integers."""
    values = as_array(values)
    if values.dtype.kind not in "iu":
        raise TypeError(f"{name} has dtype {values.dtype}, expected whole numbers")
    if values.size == 0:
        raise ValueError(f"{name} has shape {values.shape}, which is empty")
    if (values < least).any():
        raise ValueError(f"{name} is {int(values.min())}, expected {least} or more")
    return values.astype(np.int64)


def _memberships(features: Array, name: str) -> Array:
    """Which input has which feature, booleans (B, L), from those or from numbers (B,)."""
    features = as_array(features)
    if features.ndim == 2 and features.dtype == bool:
        if features.size == 0:
            raise ValueError(f"{name} has shape {features.shape}, expected an input and a feature")
        return features
    if features.ndim != 1 or features.dtype == bool:
        raise TypeError(
            f"{name} is {features.dtype} of shape {features.shape}, expected booleans (B, L) or "
            "whole numbers (B,)"
        )
    numbers = _numbers(features, name, least=0)
    has: Array = numbers[:, None] == array_module(numbers).arange(int(numbers.max()) + 1)
    return has


def _check_below(numbers: Array, size: int, name: str) -> None:
    if (numbers >= size).any():
        raise ValueError(f"{name} has feature {int(numbers.max())}, the inputs have {size}")


def _between_0_and_1(value: float, name: str) -> float:
    number = float(as_written(value, name))
    if not 0 < number < 1:
        raise ValueError(f"{name} is {value}, expected more than 0 and less than 1")
    return number
