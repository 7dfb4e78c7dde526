"""Inhibiting monosemantic neurons: deactivation, and the MEmeL module that applies it in training.

A flagged activation z is replaced by z', its neuron's mean, a constant. What matters is the
gradient that the layers below get for it (Wang, Di, Chen, Ng, KDD 2024, eqs. 10-12, App. E.3):

    name                  value z'   dz'/dz   layers below
    naive (a)             mean         0      learn nothing from it
    naive (b)             mean        +1      learn to move z away from its mean
    reversed (RD)         mean        -1      learn to move z towards its mean
    reversed, strength d  mean        -d

Why: the network liked z where it was, far from the mean, and got the mean. So the loss pulls z'
back towards z. Passed on as it is (+1), that pull moves z farther out; with its sign reversed (-1),
it moves z towards the mean. The gradient is on purpose not the derivative of the value: finite
differences must disagree.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from minimono import checks, describe
from minimono.backend import Array
from minimono.engine.dtypes import arithmetic
from minimono.engine.primitive import primitive
from minimono.engine.tensor import Tensor, as_tensor
from minimono.kernels.seam import with_kernel
from minimono.mono.moments import Moments
from minimono.mono.scale import monosemantic_scale
from minimono.mono.selection import Rule, TopK, as_rule
from minimono.mono.tracker import Convention, ScaleTracker
from minimono.mono.watching import Watching, flags_and_mean
from minimono.nn.at_once import all_or_nothing


@primitive
@with_kernel("deactivation", on=("cpu",))
def deactivation(z: Array, mask: Array, mean: Array, strength: float) -> Array:
    """mean where the mask says so, z elsewhere; the strength counts on the way back alone."""
    return np.where(mask, mean, z)


@arithmetic(numbers=1)
@primitive
@with_kernel("deactivation", on=("cpu",))
def reversal(g: Array, mask: Array, strength: float) -> Array:
    """-strength · g where the mask says so, g elsewhere."""
    return np.where(mask, (0.0 - strength) * g, g)  # strength 0: 0 times g, without a minus sign


deactivation.vjp(lambda g, out, z, mask, mean, strength: reversal(g, mask, strength))
reversal.vjp(lambda g, out, _, mask, strength: reversal(g, mask, strength))


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
    z = checks.floats(as_tensor(z), "deactivate: z")
    flags, centre = flags_and_mean(z, mask, mean, "deactivate")
    strength = checks.number(strength, "deactivate: strength")
    return deactivation(z, flags, centre.astype(z.dtype), strength)


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
        return phi if self.scores_constant else np.where(variance > 0, phi, np.nan)


class MEmeL(Watching):
    """Inhibit, in training, the most monosemantic activations of the layer before it.

    Each training call scores the activations (B, *neurons) against the neurons' running moments
    and deactivates, in each sample, the `k` with the highest scale: a neuron is everything that is
    not the batch axis, so (position, channel) in a sequence. It has no parameters, keeps the
    shape, and in `eval()` does nothing.

    * `k`: activations per sample, 1 if not given; short for `select=TopK(k)`.

    * `strength`: 1 reversed, 0 naive (a), -1 naive (b), d reversed with gradient -d.
    * `select`: another rule in place of `k`: `TopFraction(p)`, `Above(tau)`, `MovingThreshold(p)`,
      or a function from φ (B, *neurons) to a mask.
    * `forget_after`: batches after which older ones fade (n_f). `start_after`: calls before the
      first inhibition (l_s); 0 acts as 1, since the first has nothing to score against.
      `compensation`: the epsilon of the compensated scale. The paper leaves the three open; the
      defaults are those of the authors' code.
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
    >>> module(mm.tensor([[0.0, 9.0], [0.0, 1.0]])).data  # each sample's highest, ties included
    array([[0. , 0.5],
           [0.5, 0.5]])
    """

    last: Inhibition | None

    def __init__(
        self, k: int | None = None, strength: float = 1.0, *,
        select: Rule | Callable[[Array], Array] | None = None, convention: Convention = "paper",
        forget_after: int = 10, start_after: int = 10, compensation: float = 0.01,
    ):
        if k is not None and select is not None:
            raise ValueError(f"MEmeL: k is {k!r} and select is {select!r}, expected one of the two")
        if select is None:
            select = TopK(checks.whole_number(1 if k is None else k, "MEmeL: k", least=1))
        self.select = as_rule(select, "MEmeL: select")
        self.strength = checks.number(strength, "MEmeL: strength")
        self.start_after = checks.whole_number(start_after, "MEmeL: start_after", least=0)
        self.tracker = ScaleTracker(
            convention=convention, forget_after=forget_after, compensation=compensation
        )
        self.last = None

    @all_or_nothing
    def forward(self, z: Tensor) -> Tensor:
        if not self.training:
            return z
        activations, tracker = self.activations(z), self.tracker
        if self.only_watches:
            tracker.follow(activations)
            self.last = None
            return z
        # Score the activations against their neurons' moments, and flag the most monosemantic.
        flagged = tracker.follow(activations, self.select, constant=self.scores_constant)
        scored_with = tracker.scored_with
        assert scored_with is not None  # something was scored
        self.last = Inhibition(
            activations, flagged, scored_with, tracker.compensation, self.scores_constant
        )
        # Deactivate them.
        mean = scored_with.mean.astype(z.dtype)
        return deactivation(z, Tensor(flagged), mean, self.strength)

    @property
    def k(self) -> int | None:
        """The k of its rule, where that is `TopK`; setting it makes it so."""
        return self.select.k if isinstance(self.select, TopK) else None

    @k.setter
    def k(self, k: int) -> None:
        self.select = TopK(checks.whole_number(k, "MEmeL: k", least=1))

    def extra_repr(self) -> str:
        known = super().extra_repr()
        usual = self.select == TopK(self.k or 1)
        return f"k={self.k}, {known}" if usual else f"{known}, select={self.select}"

    @property
    def scores_constant(self) -> bool:
        """Whether a neuron that was constant so far has a scale: only as in the authors' code."""
        return self.tracker.convention == "authors"
