"""Inhibiting monosemantic neurons: deactivation, and the MEmeL module that applies it in training.

A flagged activation z is replaced by its neuron's mean, a constant. What matters is the gradient
that the layers below get for it (Wang, Di, Chen, Ng, KDD 2024, eqs. 10-12, App. E.3):

    name                 value     dz'/dz    layers below
    naive (a)            mean        0       learn nothing from it
    naive (b)            mean       +1       learn to move z away from its mean
    reversed (RD)        mean       -1       learn to move z towards its mean
    reversed, strength d mean       -d

The gradient is on purpose not the derivative of the value: finite differences must disagree.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from minimono import describe, kernels
from minimono.backend import Array, array_module, as_array, device_of
from minimono.checks import real_number, whole_number
from minimono.engine.dtypes import arithmetic
from minimono.engine.primitive import primitive
from minimono.engine.tensor import Tensor, as_tensor
from minimono.mono.moments import Moments, as_activations
from minimono.mono.scale import ScaleTracker, monosemantic_scale
from minimono.nn.at_once import or_undone
from minimono.nn.module import Module


@primitive
def _deactivate(z: Array, mask: Array, mean: Array, strength: float) -> Array:
    xp = array_module(z, mask, mean)
    if device_of(z) != "cpu" or not kernels.enabled():
        return xp.where(mask, mean, z)
    out = z.copy()  # few are flagged: a copy and a few writes are three times faster than a choice
    np.copyto(out, mean, where=mask)
    return out


@arithmetic(numbers=1)
@primitive
def _reverse(g: Array, mask: Array, strength: float) -> Array:
    """-strength · g where flagged, g elsewhere."""
    factor = 0.0 - strength
    if device_of(g) != "cpu" or not kernels.enabled():
        return array_module(g, mask).where(mask, factor * g, g)
    return np.multiply(g, factor, out=g.copy(), where=mask)


_deactivate.name = "deactivate"
_deactivate.vjp(lambda g, out, z, mask, mean, strength: _reverse(g, mask, strength))
_reverse.vjp(lambda g, out, _, mask, strength: _reverse(g, mask, strength))


def deactivate(
    z: Tensor, mask: Tensor | Array, mean: Tensor | Array, *, strength: float = 1.0
) -> Tensor:
    """Flagged activations become their neuron's mean, with gradient -strength; others pass.

        z' = mean, dz'/dz = -strength  where mask;      z' = z, dz'/dz = 1  elsewhere

    strength 1 is reversed deactivation, 0 naive (a), -1 naive (b). `z` (B, *neurons), `mask`
    booleans of the same shape, `mean` (*neurons) or (1, *neurons), a constant.

    Published: eqs. 10-12. There the value is written -z + sg(mean + z), which rounding moves off
    the mean (by 4e-5 at |z| = 1000 in float32); writing the mean itself is our choice.

    >>> import numpy as np, minimono as mm
    >>> z = mm.tensor([[5.0, 2.0]], requires_grad=True)
    >>> out = deactivate(z, np.array([[True, False]]), np.array([1.0, 1.0]))
    >>> out.sum().backward()
    >>> out.data, z.grad
    (array([[1., 2.]]), array([[-1.,  1.]]))
    """
    z = as_tensor(z)
    if z.array.dtype.kind != "f":
        raise TypeError(f"deactivate: z has dtype {z.dtype}, expected floats, which have gradients")
    flags, centre = flags_and_mean(z, mask, mean, "deactivate")
    strength = _finite_strength(strength, "deactivate")
    if isinstance(mask, Tensor):  # whose array the tape keeps: another's would be copied
        flags = mask
    return _deactivate(z, flags, centre.astype(z.dtype), strength)


def flags_and_mean(
    z: Tensor, mask: Tensor | Array, mean: Tensor | Array, name: str
) -> tuple[Array, Array]:
    """`mask` and `mean` as arrays, if they fit activations (B, *neurons)."""
    flags = as_array(mask.data if isinstance(mask, Tensor) else mask)
    centre = as_array(mean.data if isinstance(mean, Tensor) else mean)
    if z.ndim == 0:
        raise ValueError(f"{name}: z is a single number, expected shape (B, *neurons)")
    if flags.dtype != bool:
        raise TypeError(f"{name}: mask has dtype {flags.dtype}, expected bool")
    if flags.shape != z.shape:
        raise ValueError(f"{name}: mask has shape {flags.shape}, activations have {z.shape}")
    if centre.dtype.kind not in "fiu":
        raise TypeError(f"{name}: mean has dtype {centre.dtype}, expected real numbers")
    if centre.shape not in (z.shape[1:], (1, *z.shape[1:])):
        raise ValueError(
            f"{name}: mean has shape {centre.shape}, activations have neurons "
            f"{z.shape[1:]} (all axes but the first)"
        )
    return flags, centre


def _finite_strength(strength: float, name: str) -> float:
    number = real_number(strength, f"{name}: strength")
    if not math.isfinite(number):
        raise ValueError(f"{name}: strength is {number}, expected a finite number")
    return number


@dataclass(frozen=True, eq=False)
class Inhibition:
    """What a MEmeL module did in its last training call (None while it does not inhibit yet)."""

    activations: Array  # what came in, (B, *neurons)
    flagged: Array  # which were deactivated, booleans (B, *neurons)
    moments: Moments  # what they were scored with
    compensation: float
    scores_constant: bool  # whether a neuron that was constant so far has a scale

    __repr__ = describe.line

    @property
    def mean(self) -> Array:
        """The means that scored the activations and took their place, (*neurons)."""
        return self.moments.mean

    @cached_property
    def scale(self) -> Array:
        """φ of each activation, (B, *neurons): worked out when asked for, training needs no φ."""
        variance = self.moments.variance()
        phi = monosemantic_scale(
            self.activations, self.mean, variance, compensation=self.compensation
        )
        return phi if self.scores_constant else array_module(phi).where(variance > 0, phi, math.nan)


class MEmeL(Module):
    """Inhibit, in training, the most monosemantic activations of the layer it stands behind.

    Each training call scores the activations (B, *neurons) against the neurons' running moments
    and deactivates, in each sample, the `k` with the highest scale: a neuron is everything that is
    not the batch axis, so (position, channel) in a sequence. It has no parameters, keeps the
    shape, and in `eval()` does nothing.

    * `strength`: 1 reversed, 0 naive (a), -1 naive (b), d reversed with gradient -d.
    * `forget_after`: batches after which older ones fade (n_f). `start_after`: calls before the
      first inhibition (l_s). `compensation`: the epsilon of the compensated scale. The paper
      leaves the three open; the defaults are those of the authors' code.
    * `convention`: "paper" scores a batch before it enters the moments, "authors" after, as the
      released code does; `ScaleTracker` tells all the differences. In "paper" a neuron that was
      constant so far has scale nan and is never flagged, also with compensation (our choice; in
      "authors" compensation gives it a scale).

    An activation is set to the mean that scored it. Ties with the k-th highest are all flagged, as
    in the authors' code.

    Published: Algorithms 1 and 2. The moments are saved with the model (the authors' are not).

    >>> import numpy as np, minimono as mm
    >>> module = MEmeL(k=1, start_after=1)
    >>> calm = mm.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    >>> _ = module(calm)
    >>> module(mm.tensor([[0.0, 9.0], [0.0, 1.0]])).data      # 9 is far out; so is 0 or 1, a little
    array([[0. , 0.5],
           [0.5, 0.5]])
    """

    def __init__(
        self,
        k: int = 1,
        strength: float = 1.0,
        *,
        convention: Literal["paper", "authors"] = "paper",
        forget_after: int = 10,
        start_after: int = 10,
        compensation: float = 0.01,
    ):
        self.k = whole_number(k, "MEmeL: k", least=1)
        self.strength = _finite_strength(strength, "MEmeL")
        self.start_after = whole_number(start_after, "MEmeL: start_after", least=0)
        self.tracker = ScaleTracker(
            convention=convention, forget_after=forget_after, compensation=compensation
        )
        self.last: Inhibition | None = None

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, tracker={self.tracker}"

    def forward(self, z: Tensor) -> Tensor:
        if not self.training:
            return z
        return or_undone(self.remember(), self._seen, z, self._checked(z))

    def _seen(self, z: Tensor, activations: Array) -> Tensor:
        """The activations after this batch, which the moments take in."""
        already_seen = self.tracker.batches_seen
        if already_seen < max(self.start_after, 1):
            self.tracker.score(activations)
            self.last = None
            return z
        before = self.tracker.moments.to(z.device)  # the model may have moved since
        scores_constant = self.tracker.convention == "authors"
        flagged = self.tracker.flag_top_k(activations, self.k, constant=scores_constant)
        scored_with = self.tracker.moments if self.tracker.convention == "authors" else before
        self.last = Inhibition(
            z.array, flagged, scored_with, self.tracker.compensation, scores_constant
        )
        return deactivate(z, Tensor(flagged), scored_with.mean, strength=self.strength)

    def _checked(self, z: Tensor) -> Array:
        """What z holds, if it can be inhibited: asked before the moments change, at every call."""
        activations = as_activations(z.array, "MEmeL: activations")
        if z.dtype.kind != "f":
            raise TypeError(f"MEmeL: activations have dtype {z.dtype}, expected floats")
        neurons = z.size // len(z)
        if self.k > neurons:
            raise ValueError(
                f"MEmeL: k is {self.k}, but the layer has only {neurons} neurons (activations "
                f"have shape {z.shape})"
            )
        self.tracker.check(activations, "MEmeL")
        return activations

    def extra_state(self) -> dict[str, Array]:
        return self.tracker.state_dict()

    def load_extra_state(self, state: Mapping[str, Array]) -> None:
        if state:
            self.tracker.load_state_dict(state)

    def remember(self) -> Callable[[], None]:
        moments, last = self.tracker.remember(), self.last

        def put_back() -> None:
            moments()
            self.last = last

        return put_back
