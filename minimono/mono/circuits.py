"""Virtual neurons from circuits: one polysemantic neuron as several, each with one meaning.

PURE (Dreyer et al., CVPR workshop 2024, arXiv 2404.06453), in the order of its steps:

    reference_samples       the inputs that activate the neuron most
    circuit_attribution     rho: which channels of a lower layer the neuron's activation came from
    virtual_neurons         k-means on rho: each cluster is a circuit, a virtual neuron
    virtual_activations     the layer with the neuron's activation given to its virtual neurons
    split_weights           the other way to split: by weights (Hesse et al. 2025)

The clusters, and what they were good for, are in `clusters.py`. Attribution works on tensors, the
rest on plain arrays. `B` samples, `C` channels of the lower layer, `K` virtual neurons.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from minimono import checks, sums
from minimono.backend import Array, array_module
from minimono.engine import functional as F
from minimono.engine.tape import grad, no_grad, tape_of
from minimono.engine.tensor import Tensor, as_tensor
from minimono.mono.clusters import route
from minimono.nn import taps
from minimono.nn.module import Module, evaluating

TOGETHER = 1 << 19  # numbers that are multiplied together, in float64 (our choice)
Layer = Callable[[Tensor], Tensor]  # from the lower layer's activations to the upper layer's


def circuit_attribution(
    x: Tensor | Array, layer: Layer, channel: int, *, channel_axis: int = 1
) -> Array:
    """Return rho, the share that each channel of a lower layer has in a neuron's activation.

        R_c = Σ_p x_cp d/dx_cp [½ Σ_q relu(a_q)²]            rho_c = R_c / (Σ_c |R_c| + 1e-10)

    p, q are positions of the lower and the upper layer, a is the neuron's activation. This is
    gradient times activation, started with relu(a_q) at each position. For one dense ReLU unit
    rho_c = w_c x_c / Σ |w x|. Σ |rho_c| = 1 as long as Σ |R_c| is well above 1e-10; all rho are 0
    where the neuron is off. Published.

    x: activations (B, C, ...).   layer: takes x as a Tensor, returns (B, channels, ...); it must
    treat each sample by itself and draw no random numbers (call it in `eval()`).   channel: which
    neuron.   channel_axis: where both have their channels; -1 for sequences (B, T, C).
    Returns (B, C), float64. Raises ValueError for nan and infinity, on the way too, and if
    `layer(x)` does not depend on x.

    Time and memory grow with B. More samples than memory holds can come batch by batch, since each
    has its own rho.

    >>> import minimono as mm
    >>> w = mm.tensor([[1.0, -1.0, 0.0]])
    >>> x = np.array([[3.0, 1.0, 9.0], [1.0, 3.0, 9.0]])         # the second leaves the neuron off
    >>> circuit_attribution(x, lambda x: mm.functional.relu(x @ w.T), 0).round(6) + 0.0
    array([[ 0.75, -0.25,  0.  ],
           [ 0.  ,  0.  ,  0.  ]])
    """
    x, positions = _with_channels(x, channel_axis, "circuit_attribution", "x")

    def half_square(x: Tensor) -> Tensor:
        a = layer(x)
        on = F.relu(_channel(_checked(a, len(x)), channel, channel_axis, "circuit_attribution"))
        with np.errstate(over="ignore"):
            energy = 0.5 * (on * on).sum()
        _check_energy(energy, a, x, channel)
        return energy

    with no_grad():  # the gradient needs no tape of its own
        gradient = grad(half_square)(Tensor(x)).data
    checks.finite(gradient, "circuit_attribution: gradient")
    rows = max(1, TOGETHER * len(x) // x.size)
    relevance = array_module(x).concatenate([  # (B, C, ...) -> (B, C)
        sums.total(x[i : i + rows].astype(np.float64) * gradient[i : i + rows], positions)
        for i in range(0, len(x), rows)
    ])
    return relevance / (abs(relevance).sum(axis=1, keepdims=True) + 1e-10)


def circuit_attribution_between(
    model: Module, inputs: Tensor | Array, lower: str, upper: str, channel: int
) -> Array:
    """Return `circuit_attribution` from one tap of a model to a channel of another, rho (B, C).

    The layer in between is the model itself, in `eval()`, with the activation at `lower` held as
    the variable. A bypass around `lower` (a residual stream) is a constant and gets no share.
    Channels are on axis 1 of (B, C) and (B, C, Y, X), and on the last of (B, T, C).

    >>> import minimono as mm
    >>> rng = np.random.default_rng(0)
    >>> model = mm.models.MLP((4, 3, 5, 2), rng=rng)
    >>> x = mm.tensor(rng.standard_normal((7, 4)), dtype="float32")
    >>> circuit_attribution_between(model, x, "hidden.0.act", "hidden.1.act", 2).shape
    (7, 3)
    """
    inputs = as_tensor(inputs)
    with evaluating(model):
        x = _seen_once(model, lower, inputs)
        a = _seen_once(model, upper, inputs)

        def layer(x: Tensor) -> Tensor:
            with taps.replace(model, lower, lambda _: x):
                return _seen_once(model, upper, inputs)

        return circuit_attribution(x, layer, channel, channel_axis=_axis_of_taps(x, a))


def reference_samples(
    activations: Tensor | Array, channel: int, n: int = 100, *, channel_axis: int = 1
) -> Array:
    """Return the `n` inputs that activate a neuron most, by its maximum over positions, as indices.

    The highest comes first; of equal ones the first (our choice). Raises ValueError if fewer than n
    activate the neuron above 0: the others have no circuit. Published, with n = 100.

    activations: (N, C, ...), C the neuron's own layer.

    >>> reference_samples(np.array([[1.0], [3.0], [0.0], [2.0]]), 0, n=2)
    array([1, 3])
    """
    z, _ = _with_channels(activations, channel_axis, "reference_samples", "activations")
    n = checks.whole_number(n, "reference_samples: n", least=1)
    neuron = _channel(z, channel, channel_axis, "reference_samples")
    highest = neuron.reshape(len(z), -1).max(axis=1)  # (N, ...) -> (N, positions) -> (N,)
    active = int((highest > 0).sum())
    if active < n:
        raise ValueError(
            f"reference_samples: n is {n}, but only {active} of {len(z)} inputs activate channel "
            f"{channel} above 0; ask for fewer, or bring more inputs"
        )
    return array_module(z).argsort(-highest, kind="stable")[:n]


def mean_over_positions(activations: Tensor | Array, *, channel_axis: int = 1) -> Array:
    """Return (B, C) of (B, C, ...), in float64: PURE's baseline is k-means on this, not on rho."""
    z, positions = _with_channels(activations, channel_axis, "mean_over_positions", "activations")
    return sums.mean(z.astype(np.float64), axis=positions)


def virtual_activations(
    x: Tensor | Array, layer: Layer, channel: int, centroids: Array, *, channel_axis: int = 1
) -> Array:
    """Return the neuron's activation, given to the virtual neuron of the sample's circuit.

        virtual_k = a  where k is the nearest centroid to rho,  0  elsewhere:    Σ_k virtual_k = a

    Arguments are those of `circuit_attribution`, and centroids (K, C) from `virtual_neurons`.
    Returns (B, K, *positions). A sample is routed as a whole, also if both meanings are in it.

    >>> import minimono as mm
    >>> w = mm.tensor([[1.0, 1.0]])
    >>> x = np.array([[3.0, 1.0], [0.0, 2.0]])
    >>> virtual_activations(x, lambda x: mm.functional.relu(x @ w.T), 0, np.eye(2))
    array([[4., 0.],
           [0., 2.]])
    """
    rho = circuit_attribution(x, layer, channel, channel_axis=channel_axis)
    x, _ = _with_channels(x, channel_axis, "virtual_activations", "x")
    with no_grad():
        neuron = _channel(layer(Tensor(x)), channel, channel_axis, "virtual_activations").data
    xp = array_module(neuron)
    here = route(rho, centroids)[:, None] == xp.arange(len(centroids))  # (B, K)
    here = here.reshape(*here.shape, *[1] * (neuron.ndim - 1))  # (B, K) -> (B, K, 1, ...)
    return xp.where(here, neuron[:, None], xp.zeros((), neuron.dtype))


class SplitWeights(NamedTuple):
    """A neuron's weights as three, each of their shape (C, *kernel): w = first + second - overlap.

    Before the activation function the same holds for the outputs, if all three get the bias.
    """

    first: Array  # without the channels of the second concept
    second: Array  # without the channels of the first concept
    overlap: Array  # without either, and so part of both


def split_weights(
    weight: Array, relevance_1: Array, relevance_2: Array, ratio: float = 1.0
) -> SplitWeights:
    """Split a neuron by its weights into one for each of two concepts.

        S1 = {c: ratio · relevance_1[c] > relevance_2[c]},    S2 likewise, of the channels not in S1
        first = w, but 0 on S2      second = w, but 0 on S1      overlap = w, but 0 on S1 and S2

    So w = first + second - overlap exactly, without rounding. Of negative relevances a channel can
    meet both conditions, and is then in S1 (authors' code). The smaller the ratio, the more
    channels overlap; 1 shares out all but ties. The authors try 0.05 to 1 and keep the ratio that
    separates the two best. Published: Hesse et al. 2025 (arXiv 2504.12939).

    weight: (C, *kernel), of one neuron: `conv.weight.data[channel]`.   relevance_1, relevance_2:
    (C,), the mean relevance for each concept's samples; the centroids of `virtual_neurons` are
    such.   ratio: above 0, up to 1; the default is our choice.

    >>> parts = split_weights(np.array([2.0, 3.0, 4.0]), np.array([1.0, 0, 0.5]), np.eye(3)[1])
    >>> parts.first, parts.second, parts.overlap
    (array([2., 0., 4.]), array([0., 3., 0.]), array([0., 0., 0.]))
    """
    w, first, second = (
        checks.finite_activations(values, f"split_weights: {name}") for name, values in
        [("weight", weight), ("relevance_1", relevance_1), ("relevance_2", relevance_2)]
    )
    for i, relevance in enumerate((first, second), start=1):
        name = f"split_weights: relevance_{i}"
        checks.shaped(relevance, name, (len(w),), "one for each channel of weight (axis 0)")
    ratio = float(checks.share(ratio, "split_weights: ratio", above=0, most=1))

    in_1 = ratio * first > second
    in_2 = (ratio * second > first) & ~in_1

    def without(channels: Array) -> Array:
        kept = w.copy()
        kept[channels] = 0.0
        return kept

    return SplitWeights(without(in_2), without(in_1), without(in_1 | in_2))


# ---- channels, layers and taps -----------------------------------------------------------------


def _with_channels(
    x: Tensor | Array, channel_axis: int, function: str, name: str
) -> tuple[Array, tuple[int, ...]]:
    """Activations as an array (B, C, ...), and the axes of their positions."""
    name = f"{function}: {name}"
    x = checks.finite_activations(x.data if isinstance(x, Tensor) else x, name)
    checks.layout(x, name, "(B, C, ...)", x.ndim >= 2)
    channels = _axis(channel_axis, x, function)
    return x, tuple(i for i in range(1, x.ndim) if i != channels)


def _axis(channel_axis: int, x: Array | Tensor, function: str) -> int:
    """The channel axis, counted from the front."""
    if not -x.ndim < channel_axis < x.ndim or channel_axis == 0:
        raise ValueError(
            f"{function}: channel_axis is {channel_axis}, expected an axis of shape {x.shape} "
            "other than 0, the samples'"
        )
    return channel_axis % x.ndim


def _channel(z: Array, channel: int, channel_axis: int, function: str) -> Array:
    """One channel of an array or Tensor: (B, C, ...) -> (B, ...)."""
    axis = _axis(channel_axis, z, function)
    channel = checks.whole_number(
        channel, f"{function}: channel", least=0, most=z.shape[axis] - 1,
        of=f"the last on axis {axis} of shape {z.shape}",
    )
    return z[(*[slice(None)] * axis, channel)]


def _checked(a: Tensor, samples: int) -> Tensor:
    """What a layer returned, if it is one activation or more for each sample."""
    name = "circuit_attribution: layer(x)"
    if not isinstance(a, Tensor):
        raise TypeError(f"{name} is a {type(a).__name__}, expected a Tensor made from x")
    checks.layout(a, name, f"({samples}, channels, ...)", a.ndim >= 2 and len(a) == samples)
    return a


def _check_energy(energy: Tensor, a: Tensor, x: Tensor, channel: int) -> None:
    name = "circuit_attribution: layer(x)"
    if not array_module(energy.data).isfinite(energy.data):
        checks.finite(a.data, name)
        raise ValueError(
            f"{name} is too large in channel {channel}, expected numbers whose squares {a.dtype} "
            "can hold; scale the activations down"
        )
    if not any(node is x for node in tape_of(energy)):
        raise ValueError(
            f"{name} does not depend on x, so nothing can be attributed to it; is x the lower of "
            "the two layers?"
        )


def _axis_of_taps(x: Tensor, a: Tensor) -> int:
    axes = {x.ndim, a.ndim}
    if 3 in axes and max(axes) > 3:
        raise ValueError(
            f"circuit_attribution_between: upper has shape {a.shape}, lower {x.shape}, one a "
            "sequence (B, T, C), one an image (B, C, Y, X), expected one order of axes; call "
            "circuit_attribution with a layer that brings them to one"
        )
    return -1 if 3 in axes else 1


def _seen_once(model: Module, tap: str, inputs: Tensor) -> Tensor:
    """The activation at a tap when the model is called."""
    seen = []

    def note(x: Tensor) -> Tensor:
        seen.append(x)
        return x

    with taps.replace(model, tap, note):
        model(inputs)
    if len(seen) != 1:
        raise ValueError(
            f"circuit_attribution_between: {len(seen)} activations passed {tap!r} in one call of "
            "the model, expected one: name a single tap that is used once"
        )
    return seen[0]
