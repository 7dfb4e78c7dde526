"""Learning towards emergence (L2E): inhibition cheap enough for pretraining.

Wang, Di, Tang, Li, Ng, Zhou and Chen (2025, arXiv 2503.23298) keep MEmeL's scale φ and change the
rest:

    which activations, without sorting?       MovingThreshold: one comparison with a moving τ
    what is done to them?                     log_distance_penalty, added to the loss
    which feature does a neuron stand for?    feature_scale (features.py)

`L2E` puts the first two into a network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from minimono import checks, describe
from minimono.backend import Array, array_module, beside, to_host
from minimono.engine.fused import with_kernel
from minimono.engine.primitives import log, where
from minimono.engine.tensor import Tensor, as_tensor
from minimono.mono import soundness
from minimono.mono.moments import Moments
from minimono.mono.scale import monosemantic_scale
from minimono.mono.selection import Rule, as_rule, select_top_fraction
from minimono.mono.tracker import ScaleTracker
from minimono.mono.watching import Watching, flags_and_mean
from minimono.nn.at_once import all_or_nothing
from minimono.nn.module import Module

# ---- selection without sorting -----------------------------------------------------------------


class MovingThreshold(Rule):
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
        self.fraction = float(checks.share(fraction, "MovingThreshold: fraction", above=0, below=1))
        self.rate = float(checks.share(rate, "MovingThreshold: rate", above=0, below=1))
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
        phi = checks.activations(phi, "MovingThreshold: phi")
        if self._value is None:
            return self._start(phi)
        self._value = beside(self._value, phi)
        selected: Array = phi >= self._value  # in float64: NumPy does not round an array's τ
        self._move(selected.sum(), phi.size)
        return selected

    def __call__(self, phi: Array) -> Array:
        return self.select(phi)

    def _start(self, phi: Array) -> Array:
        """Flag the top p of the first scores, and take the lowest of them as τ."""
        top = select_top_fraction(phi, self.fraction, per="batch")
        if not top.any():  # all nan
            return top
        self._value = _normal(array_module(phi).asarray(phi[top].min(), dtype=np.float64))
        selected: Array = phi >= self._value
        return selected

    def request(self) -> Mapping[str, Any]:
        on_cpu = isinstance(self._value, np.ndarray)  # a τ on a GPU is not waited for
        return {"threshold": float(self.value), "flag": True} if on_cpu else {}

    def flagged(self, mask: Array) -> None:
        self._move(int(np.count_nonzero(mask)), mask.size)

    def move(self, selected: int, scores: int) -> None:
        """Move τ, given how many of so many scores are at least τ.

        For those who compare with τ themselves. Raises RuntimeError before the first `select`.
        """
        if self._value is None:
            raise RuntimeError("MovingThreshold.move: no τ yet; the first scores go to select")
        scores = checks.whole_number(scores, "MovingThreshold.move: scores", least=1)
        selected = checks.whole_number(
            selected, "MovingThreshold.move: selected", least=0, most=scores, of="the scores"
        )
        self._move(selected, scores)

    def _move(self, selected: Array | int, scores: int) -> None:
        """τ <- τ (1 + rate (share selected / p - 1))"""
        share = selected / scores
        with np.errstate(over="ignore"):
            self._value = _normal(self.value * (1.0 + self.rate * (share / self.fraction - 1.0)))

    def remember(self) -> Callable[[], None]:
        value = self._value
        return lambda: setattr(self, "_value", value)

    def state_dict(self) -> dict[str, Array]:
        """τ as a NumPy array, nan before the first scores. The settings are not in it."""
        return {"threshold": to_host(self.value).copy()}

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Take over a state from `state_dict`. If it raises, the threshold is as before."""
        name = "MovingThreshold.load_state_dict"
        checks.entries(state, f"{name}: state", ["threshold"])
        value = to_host(state["threshold"])
        if value.dtype != np.float64 or value.shape != ():
            raise TypeError(
                f"{name}: threshold has dtype {value.dtype} and shape {value.shape}, expected a "
                "float64 without axes"
            )
        if not (np.isnan(value) or (value > 0 and np.isfinite(value))):
            raise ValueError(
                f"{name}: threshold is {float(value)}, expected a positive number or nan"
            )
        self._value = None if np.isnan(value) else value.copy()


def _normal(tau: Array) -> Array:
    """τ within float64's normal numbers: from 0 or infinity no factor would bring it back."""
    xp = array_module(tau)
    limits = xp.finfo(xp.float64)
    return xp.asarray(xp.clip(tau, limits.tiny, limits.max))


# ---- the penalty, and the module that applies it in training -----------------------------------


@with_kernel("penalty", on=("cpu",), mixed=True)
def log_distance(z: Tensor, mask: Tensor, mean: Tensor) -> Tensor:
    """Return Σ log (z - mean)² over the selected, in float64.

    log |d| and not log d²: the square can overflow.
    """
    return 2.0 * log(abs(where(mask, z - mean, 1.0))).sum()


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
    z = checks.floats(as_tensor(z), "log_distance_penalty: z", "fc")
    selected, centre = flags_and_mean(z, mask, mean, "log_distance_penalty")
    checks.one_of(reduction, "log_distance_penalty: reduction", ("sum", "mean"))
    return _penalty(z, selected, centre, averaged=reduction == "mean")


def _penalty(z: Tensor, selected: Tensor, mean: Array, averaged: bool) -> Tensor:
    penalty = log_distance(z, selected, Tensor(mean))
    soundness.check_distances(penalty.array, z.array, selected.array, mean)
    if averaged:
        penalty = penalty / np.maximum(np.count_nonzero(selected.array), 1)
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
            return np.full_like(self.activations, np.nan)
        return monosemantic_scale(
            self.activations, self.moments.mean, self.moments.variance(),
            compensation=self.compensation,
        )


class L2E(Watching):
    """Penalise, in training, the most monosemantic activations of the layer before it.

    Each training call scores the activations (B, *neurons) against the neurons' running moments
    (`ScaleTracker`, published convention), flags those above a `MovingThreshold`, and keeps the
    mean of log (z - mean)² over them as `penalty`. Values and gradients pass through unchanged:
    the loss has to add the penalty. In `eval()` it does nothing, and `penalty` is 0.

        taps.insert(model, "block.1.mlp.act", L2E(0.02))

        def loss(model, x, y):
            return cross_entropy(model(x), y) + 0.001 * l2e_penalty(model)

    `penalty` belongs to the module's last call: where a module is called several times in a step,
    take it after each call.

    * `fraction`: the share p of activations to penalise, 0.02 if not given. Published: best near
      1 to 3 %. `rate`: of the moving threshold, 0.05 if not given. `select`: another rule in its
      place, as in `MEmeL`.
    * `forget_after`, `start_after`, `compensation`: as in `MEmeL`, and with its defaults (our
      choice).
    * The coefficient, 0.001 above, is open in the paper. With the mean over the flagged
      activations (our choice) it does not depend on the width, the batch or p. Whether 0.01 helps
      or hurts depended on the length of training in `demos/l2e.py`.

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

    last: Penalised | None

    def __init__(
        self, fraction: float | None = None, *, rate: float | None = None,
        select: Rule | Callable[[Array], Array] | None = None,
        forget_after: int = 10, start_after: int = 10, compensation: float = 0.01,
    ):
        given = {"fraction": fraction, "rate": rate}
        settings = {name: value for name, value in given.items() if value is not None}
        if select is None:
            select = MovingThreshold(**settings)
        elif settings:
            raise ValueError(
                f"L2E: fraction is {fraction!r}, rate is {rate!r} and select is {select!r}, "
                "expected select alone, or the other two"
            )
        self.select = as_rule(select, "L2E: select")
        self.start_after = checks.whole_number(start_after, "L2E: start_after", least=0)
        self.tracker = ScaleTracker(forget_after=forget_after, compensation=compensation)
        self.last = None

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, threshold={self.threshold}"

    @property
    def threshold(self) -> Rule:
        """The rule that flags: the `MovingThreshold`, if no other was chosen."""
        return self.select

    @property
    def penalty(self) -> Tensor:
        """The penalty of the last call, without axes."""
        if self.last is None:
            raise RuntimeError("L2E.penalty: the module has not been called yet")
        return self.last.penalty

    @all_or_nothing
    def forward(self, z: Tensor) -> Tensor:
        nothing = Tensor(array_module(z.array).zeros((), dtype=z.dtype))
        if not self.training:
            self.last = Penalised(nothing)
            return z
        activations, tracker = self.activations(z), self.tracker
        if self.only_watches:
            tracker.follow(activations)
            self.last = Penalised(
                nothing, None, activations, tracker.scored_with, tracker.compensation
            )
            return z
        # Score the activations against their neurons' moments, and flag those above τ.
        flagged = tracker.follow(activations, self.select)
        scored_with = tracker.scored_with
        assert scored_with is not None  # something was scored
        # Penalise them.
        penalty = _penalty(z, Tensor(flagged), scored_with.mean, averaged=True)
        self.last = Penalised(penalty, flagged, activations, scored_with, tracker.compensation)
        return z

    def divide(self, parts: Sequence[slice]) -> None:
        raise ValueError("averages its penalty over all that is flagged in the whole batch")

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
