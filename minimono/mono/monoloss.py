"""MonoLoss: train neurons to be driven by inputs that look alike.

The monosemanticity score (`metrics.monosemanticity_score`) asks how alike the inputs are that drive
a neuron. It is a smooth function of the activations, but at their extremes, so a network can be
trained to raise it: this is the score on the tape, one minus its mean over neurons.

Shapes: `B` inputs, `D` dimensions of an embedding.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from minimono import checks, sums
from minimono.backend import Array, array_module
from minimono.engine.dtypes import arithmetic
from minimono.engine.primitives import where
from minimono.engine.tensor import Tensor
from minimono.mono.decorrelation import float_tensor
from minimono.mono.metrics import embeddings_of

Convention: TypeAlias = Literal["paper", "authors"]


@arithmetic(numbers=1)
def mono_loss(
    z: Tensor | Array, embeddings: Array, *, convention: Convention = "paper"
) -> Tensor:
    """Return how unlike the inputs are that drive a neuron, on average: 1 - its score S.

        S = Σ_{i<j} a_i a_j cos(e_i, e_j) / Σ_{i<j} a_i a_j,   a = (z - min z) / (max z - min z)

    Published (arXiv 2602.12403); the score is that of Pach et al. (2025, arXiv 2504.02821). The
    loss is from 0 to 2, as cosines can be negative; add it to a task's loss with a weight.

    z: activations, (B, *neurons), in whose dtype it is computed.   embeddings: (B, D), of an
    encoder that is independent of the network, none of them 0 (ValueError); constants. Returns a
    Tensor without axes, on the tape. nan and infinity in z are not looked for: the loss is nan.

    The sums take one pass over the inputs, as the paper's do. They leave the heaviest input out of
    the difference, as `kernels/both/pairs.py` tells, and so keep digits where the paper's lose all.

    A neuron without a score (constant, or above its minimum for one input) does not count, our
    choice; if none has one, the loss is 1 and has no gradient, as in the authors' code. Extremes
    are differentiated too. Inputs that share one share its gradient, our choice.

    convention "authors": as their loss for a batch (commit 7108eb9): 1e-8 is added to max - min and
    to the sum of weights, a neuron counts if that sum is above 1e-8, and of inputs that share an
    extreme the first gets all its gradient.

    >>> import numpy as np
    >>> e = np.array([[3.0, 4.0], [4.0, 3.0], [0.0, 5.0], [1.0, 0.0]])
    >>> z = np.array([[0.0, 2.0], [1.0, 4.0], [2.0, 0.0], [4.0, 1.0]])
    >>> mono_loss(z, e)                                     # 1 - (11/35 + 151/175) / 2 = 72/175
    tensor(0.41142857)
    """
    z, unit, eps = _checked(z, embeddings, convention)
    z = z.reshape(len(z), -1)  # (B, *neurons) -> (B, neurons)
    least, most = (_extremes if convention == "paper" else _first_extremes)(z)
    spread = most - least
    a = (z - least) / (where(spread.data == 0, 1.0, spread) + eps)  # (B, neurons)

    xp = array_module(z.data)
    rows, neurons = z.data.real.argmax(axis=0), xp.arange(z.shape[1])
    heaviest = a[rows, neurons]  # 1, or nearly so
    rest = where(xp.arange(len(z))[:, None] == rows, 0.0, a)
    V, s = Tensor(unit.T.copy()) @ rest, rest.sum(axis=0)  # (D, neurons), (neurons,)
    s2 = (rest * rest).sum(axis=0)
    its_cosines = (Tensor(unit[rows].T.copy()) * V).sum(axis=0)
    alike = heaviest * its_cosines + ((V * V).sum(axis=0) - s2) / 2
    weights = heaviest * s + (s * s - s2) / 2

    without = weights.data.real <= eps  # nan is not
    score = where(without, 0.0, alike / (where(without, 1.0, weights) + eps))
    loss: Tensor = 1.0 - score.sum() / (~without).sum().clip(1).astype(z.data.real.dtype)
    return loss


def _extremes(z: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the most of each neuron; inputs that share one share its gradient."""
    return z.min(axis=0), z.max(axis=0)


def _first_extremes(z: Tensor) -> tuple[Tensor, Tensor]:
    """The same; the first of those inputs gets it all."""
    x = z.data.real
    neurons = array_module(x).arange(x.shape[1])
    return z[x.argmin(axis=0), neurons], z[x.argmax(axis=0), neurons]


def _checked(
    z: Tensor | Array, embeddings: Array, convention: Convention
) -> tuple[Tensor, Array, float]:
    """Activations, embeddings of length 1 in their dtype, and the ε of the convention."""
    name = "mono_loss"
    z = float_tensor(z, f"{name}: z")
    checks.layout(z, f"{name}: z", "(B, *neurons), not empty", z.ndim >= 1 and z.size > 0)
    e = embeddings.data if isinstance(embeddings, Tensor) else embeddings
    unit = sums.unit(embeddings_of(e, f"{name}: embeddings", len(z)))
    checks.one_of(convention, f"{name}: convention", ("paper", "authors"))
    array_module(z.data, unit)  # raises for two devices
    return z, unit.astype(z.data.real.dtype), 1e-8 if convention == "authors" else 0.0
