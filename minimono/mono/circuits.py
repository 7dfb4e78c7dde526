"""Virtual neurons from circuits: one polysemantic neuron as several, each with one meaning.

PURE (Dreyer et al., CVPR workshop 2024, arXiv 2404.06453), in the order of its steps:

    reference_samples       the inputs that activate the neuron most
    circuit_attribution     rho: which channels of a lower layer the neuron's activation came from
    virtual_neurons         k-means on rho: each cluster is a circuit, a virtual neuron
    route                   the virtual neuron of a new input: the nearest centroid
    virtual_activations     the layer with the neuron's activation given to its virtual neurons
    split_weights           the other way to split: by weights (Hesse et al. 2025)
    cluster_distances, alignment, cluster_purity           what it was good for

Attribution works on tensors, the rest on plain arrays. `B` samples, `C` channels of the lower
layer, `K` virtual neurons.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from minimono import sums
from minimono.backend import Array, array_module, as_array, to_host
from minimono.checks import Rng, as_written, generator, whole_number
from minimono.engine import functional as F
from minimono.engine.tensor import Tensor, as_tensor, grad, no_grad, tape_of
from minimono.mono.moments import as_activations, check_finite
from minimono.nn import taps
from minimono.nn.module import Module, evaluating

Layer = Callable[[Tensor], Tensor]  # from the lower layer's activations to the upper layer's

# ------------------------------------------------------------------------------------- attribution


def circuit_attribution(
    x: Tensor | Array, layer: Layer, channel: int, *, channel_axis: int = 1
) -> Array:
    """Where a neuron's activation came from: the share rho of each lower-layer channel.

        R_c = Σ_p x_cp d/dx_cp [½ Σ_q relu(a_q)²]            rho_c = R_c / (Σ_c |R_c| + 1e-10)

    p, q: positions of the lower and the upper layer; a: the neuron's activation. It is gradient
    times activation, started with relu(a_q) at each position, as differentiating ½ relu² gives it.
    For one dense ReLU unit rho_c = w_c x_c / Σ |w x|. rho has its sign, and Σ |rho_c| = 1 as long
    as Σ |R_c| is well above 1e-10; it is all 0 where the neuron is off. Published.

    x: activations (B, C, ...).   layer: takes x as a Tensor, returns (B, channels, ...); it must
    treat each sample by itself and draw no random numbers (call it in `eval()`).   channel: which
    neuron.   channel_axis: where both have their channels; -1 for sequences (B, T, C).
    Returns (B, C), float64. Raises ValueError for nan and infinity, on the way too, and if
    `layer(x)` does not depend on x.

    >>> import minimono as mm
    >>> w = mm.tensor([[1.0, -1.0, 0.0]])
    >>> x = np.array([[3.0, 1.0, 9.0], [1.0, 3.0, 9.0]])         # the second leaves the neuron off
    >>> circuit_attribution(x, lambda x: mm.functional.relu(x @ w.T), 0).round(6) + 0.0
    array([[ 0.75, -0.25,  0.  ],
           [ 0.  ,  0.  ,  0.  ]])
    """
    name = "circuit_attribution"
    x = _activations(x, f"{name}: x")
    axis = _axis(channel_axis, x.ndim, f"{name}: x has shape {x.shape}")

    def half_square(x: Tensor) -> Tensor:
        a = layer(x)
        _check_layer(a, len(x))
        _axis(channel_axis, a.ndim, f"{name}: layer(x) has shape {a.shape}")
        start = F.relu(_channel(a, channel, channel_axis, f"{name}: layer(x)"))
        with np.errstate(over="ignore"):
            energy = 0.5 * (start * start).sum()
        if not array_module(energy.data).isfinite(energy.data):
            check_finite(a.data, f"{name}: layer(x)")
            raise ValueError(
                f"{name}: channel {channel} of layer(x) is too large, its squares overflow "
                f"{a.dtype}; scale the activations down"
            )
        if not any(node is x for node in tape_of(energy)):
            raise ValueError(
                f"{name}: layer(x) does not depend on x, so nothing can be attributed to it; is "
                "x the lower of the two layers?"
            )
        return energy

    with no_grad():  # the gradient needs no tape of its own
        gradient = grad(half_square)(Tensor(x)).data
    check_finite(gradient, f"{name}: gradient")
    positions = tuple(i for i in range(x.ndim) if i not in (0, axis))
    relevance = sums.total(x.astype(np.float64) * gradient, positions)  # (B, C, ...) -> (B, C)
    return relevance / (abs(relevance).sum(axis=1, keepdims=True) + 1e-10)


def circuit_attribution_between(
    model: Module, inputs: Tensor | Array, lower: str, upper: str, channel: int
) -> Array:
    """`circuit_attribution` from one tap of a model to a channel of another, rho (B, C).

    The layer in between is the model itself, with the activation at `lower` held as the variable,
    in `eval()`. A bypass around `lower` (a residual stream) is a constant and gets no share.
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
    """The `n` inputs that activate a neuron most, by its maximum over positions, highest first.

    activations: (N, C, ...), C the neuron's own layer.   Of equal ones the first come first (our
    choice). Raises ValueError if fewer than n activate it above 0: the others have no circuit.
    Published, with n = 100.

    >>> reference_samples(np.array([[1.0], [3.0], [0.0], [2.0]]), 0, n=2)
    array([1, 3])
    """
    name = "reference_samples"
    z = _activations(activations, f"{name}: activations")
    _axis(channel_axis, z.ndim, f"{name}: activations have shape {z.shape}")
    n = whole_number(n, f"{name}: n", least=1)
    neuron = _channel(z, channel, channel_axis, f"{name}: activations")
    highest = neuron.reshape(len(z), -1).max(axis=1)  # (N, ...) -> (N, positions) -> (N,)
    active = int((highest > 0).sum())
    if active < n:
        raise ValueError(
            f"{name}: n is {n}, but only {active} of {len(z)} inputs activate channel {channel} "
            "above 0; ask for fewer, or bring more inputs"
        )
    return array_module(z).argsort(-highest, kind="stable")[:n]


def mean_over_positions(activations: Tensor | Array, *, channel_axis: int = 1) -> Array:
    """(B, C, ...) -> (B, C), float64. PURE's baseline is k-means on this instead of rho."""
    z = _activations(activations, "mean_over_positions: activations")
    axis = _axis(channel_axis, z.ndim, f"mean_over_positions: activations have shape {z.shape}")
    positions = tuple(i for i in range(z.ndim) if i not in (0, axis))
    return sums.mean(z.astype(np.float64), axis=positions)


# ---------------------------------------------------------------------------------- virtual neurons


class VirtualNeurons(NamedTuple):
    """The circuits of a neuron: clusters of its reference samples."""

    labels: Array  # (B,), which virtual neuron each sample belongs to, 0..K-1
    centroids: Array  # (K, C), each cluster's mean rho
    inertia: float  # Σ over samples of the squared distance to their centroid


def virtual_neurons(
    rho: Array, k: int = 2, *, rng: Rng, starts: int = 10
) -> VirtualNeurons:
    """Cluster attributions (B, C) into k circuits: k-means, the best of ten starts.

    Each start draws its first centroids by k-means++ and moves them as Lloyd says, to the end.
    Published: k = 2, ten starts. It finds k clusters whether there are k meanings or not: the
    distances in an independent embedding (`cluster_distances`) have to tell.

    Any vectors will do, not only rho. Raises ValueError if fewer than k of them differ.

    >>> rho = np.array([[1.0, 0.0], [0.0, 1.0], [0.9, 0.1], [0.1, 0.9]])
    >>> labels, centroids, inertia = virtual_neurons(rho, rng=np.random.default_rng(0))
    >>> bool(labels[0] == labels[2] != labels[1] == labels[3]), round(inertia, 12)
    (True, 0.02)
    """
    points = _matrix(rho, "virtual_neurons: rho", "(B, C)")
    k = whole_number(k, "virtual_neurons: k", least=1)
    starts = whole_number(starts, "virtual_neurons: starts", least=1)
    rng = generator(rng, "virtual_neurons: rng")
    found = [_lloyd(points, _first_centroids(points, k, rng)) for _ in range(starts)]
    return min(found, key=lambda virtual: virtual.inertia)


def _first_centroids(points: Array, k: int, rng: np.random.Generator) -> Array:
    """k-means++ (Arthur & Vassilvitskii, 2007): k of the points, far from each other.

    Each next one is drawn with probability in proportion to its squared distance to the nearest of
    those before, so a point that is there already is never drawn again.
    """
    chosen = [int(rng.integers(len(points)))]
    while len(chosen) < k:
        nearest = _squared_distances(points, points[chosen]).min(axis=1)  # (B, chosen) -> (B,)
        total = float(nearest.sum())
        if total < np.finfo(np.float64).tiny:
            raise ValueError(
                f"virtual_neurons: k is {k}, but rho {points.shape} has only {len(chosen)} rows "
                "that differ (by more than 1e-154)"
            )
        chosen.append(int(rng.choice(len(points), p=to_host(nearest / total))))
    return points[chosen]


def _lloyd(points: Array, centroids: Array) -> VirtualNeurons:
    """Give each point to its nearest centroid, move each centroid to the mean of its points, again.

    The inertia falls until nothing changes any more. An empty cluster starts anew at the point that
    is farthest from its centroid (our choice; scikit-learn does the same).
    """
    before = np.inf
    while True:
        distances = _squared_distances(points, centroids)  # (B, K)
        labels, nearest = distances.argmin(axis=1), distances.min(axis=1)
        inertia = float(nearest.sum())
        if not inertia < before:
            return VirtualNeurons(labels, centroids, inertia)
        before = inertia
        moved = labels.copy()
        for cluster in range(len(centroids)):
            if not (moved == cluster).any():
                farthest = int(nearest.argmax())
                moved[farthest], nearest[farthest] = cluster, 0.0
        centroids = array_module(points).stack(
            [points[moved == cluster].mean(axis=0) for cluster in range(len(centroids))]
        )


def route(rho: Array, centroids: Array) -> Array:
    """The virtual neuron of each new sample: the nearest centroid, (B, C) and (K, C) -> (B,).

    The source clusters reference samples only; the rule for new ones is our choice. Of equally
    near centroids the first. For the samples that were clustered it gives their labels.

    >>> route(np.array([[0.8, 0.2], [0.4, 0.6]]), np.array([[1.0, 0.0], [0.0, 1.0]]))
    array([0, 1])
    """
    points = _matrix(rho, "route: rho", "(B, C)")
    centroids = _matrix(centroids, "route: centroids", "(K, C)")
    if points.shape[1] != centroids.shape[1]:
        raise ValueError(
            f"route: rho has shape {points.shape}, centroids {centroids.shape}; both need the "
            "lower layer's channels (axis 1)"
        )
    return _squared_distances(points, centroids).argmin(axis=1)


def virtual_activations(
    x: Tensor | Array, layer: Layer, channel: int, centroids: Array, *, channel_axis: int = 1
) -> Array:
    """The neuron's activation, given to the virtual neuron that the sample's circuit leads to.

        virtual_k = a  where k is the nearest centroid to rho,  0  elsewhere:    Σ_k virtual_k = a

    Arguments as in `circuit_attribution`, centroids (K, C) from `virtual_neurons`. Returns
    (B, K, *positions). A sample is routed as a whole, also if both meanings are in it.

    >>> import minimono as mm
    >>> w = mm.tensor([[1.0, 1.0]])
    >>> x = np.array([[3.0, 1.0], [0.0, 2.0]])
    >>> virtual_activations(x, lambda x: mm.functional.relu(x @ w.T), 0, np.eye(2))
    array([[4., 0.],
           [0., 2.]])
    """
    name = "virtual_activations"
    rho = circuit_attribution(x, layer, channel, channel_axis=channel_axis)
    with no_grad():
        a = layer(Tensor(_activations(x, f"{name}: x"))).data
    neuron = _channel(a, channel, channel_axis, f"{name}: layer(x)")
    xp = array_module(neuron)
    here = route(rho, centroids)[:, None] == xp.arange(len(centroids))  # (B, K)
    here = here.reshape(*here.shape, *[1] * (neuron.ndim - 1))  # (B, K) -> (B, K, 1, ...)
    return xp.where(here, neuron[:, None], xp.zeros((), neuron.dtype))


# ----------------------------------------------------------------------------------- split weights


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

    So w = first + second - overlap for each weight exactly, no rounding. Of negative relevances a
    channel can meet both conditions, and is then in S1 (authors' code). The smaller the ratio, the
    more channels overlap; 1 shares out all but ties. The authors try 0.05 to 1 and keep the ratio
    that separates the two best. Published: Hesse et al. 2025 (arXiv 2504.12939).

    weight: (C, *kernel), of one neuron: `conv.weight.data[channel]`.   relevance_1, relevance_2:
    (C,), the mean relevance for each concept's samples; the centroids of `virtual_neurons` are
    such.   ratio: above 0, up to 1; the default is our choice.

    >>> parts = split_weights(np.array([2.0, 3.0, 4.0]), np.array([1.0, 0, 0.5]), np.eye(3)[1])
    >>> parts.first, parts.second, parts.overlap
    (array([2., 0., 4.]), array([0., 3., 0.]), array([0., 0., 0.]))
    """
    name = "split_weights"
    w = as_activations(weight, f"{name}: weight")
    first, second = (
        as_activations(relevance, f"{name}: relevance_{i}")
        for i, relevance in enumerate((relevance_1, relevance_2), start=1)
    )
    for values, what in ((w, "weight"), (first, "relevance_1"), (second, "relevance_2")):
        check_finite(values, f"{name}: {what}")
    if first.shape != (len(w),) or second.shape != (len(w),):
        raise ValueError(
            f"{name}: relevance_1 has shape {first.shape}, relevance_2 {second.shape}, expected "
            f"({len(w)},) each, one for each channel of weight {w.shape} (axis 0)"
        )
    ratio = float(as_written(ratio, f"{name}: ratio"))
    if not 0 < ratio <= 1:
        raise ValueError(f"{name}: ratio is {ratio}, expected above 0 and up to 1")
    in_1 = ratio * first > second
    in_2 = (ratio * second > first) & ~in_1

    def without(channels: Array) -> Array:
        kept = w.copy()
        kept[channels] = 0.0
        return kept

    return SplitWeights(without(in_2), without(in_1), without(in_1 | in_2))


# -------------------------------------------------------------------------------------- evaluation


class Distances(NamedTuple):
    """Mean distances between samples; nan where there is no such pair."""

    intra: float  # over all pairs within a cluster
    inter: float  # over all pairs of different clusters


def cluster_distances(embeddings: Array, labels: Array) -> Distances:
    """How far apart samples of one cluster, and of different clusters, are for another encoder.

    Euclidean, each pair of samples counts the same. Virtual neurons with a meaning each have intra
    below inter; for labels at random both are the mean over all pairs. Published.

    embeddings: (B, D), of an encoder that is independent of the network.   labels: (B,).

    >>> cluster_distances(np.array([[0.0], [1.0], [4.0]]), np.array([0, 0, 1]))
    Distances(intra=1.0, inter=3.5)
    """
    points = _matrix(embeddings, "cluster_distances: embeddings", "(B, D)")
    labels = _labels(labels, len(points), "cluster_distances: labels")
    xp = array_module(points, labels)
    distances = _pair_distances(points, "cluster_distances: embeddings")
    i, j = xp.triu_indices(len(points), 1)
    same = labels[i] == labels[j]
    intra, inter = (float(part.mean()) if part.size else np.nan
                    for part in (distances[same], distances[~same]))  # fmt: skip
    return Distances(intra, inter)


def alignment(rho: Array, embeddings: Array) -> float:
    """Whether inputs with like circuits look alike: Pearson's r of the two pairwise distances.

    Over all pairs of samples: the Euclidean distance of their rho (B, C) against that of their
    embeddings (B, D). nan if all distances of either are equal. Published.

    >>> alignment(np.array([[0.0], [1.0], [4.0]]), np.array([[0.0, 0.0], [0.0, 2.0], [0.0, 8.0]]))
    1.0
    """
    a = _matrix(rho, "alignment: rho", "(B, C)")
    b = _matrix(embeddings, "alignment: embeddings", "(B, D)")
    if len(a) != len(b) or len(a) < 3:
        raise ValueError(
            f"alignment: rho has {len(a)} samples, embeddings {len(b)} (axis 0), expected the "
            "same three or more"
        )
    a = _pair_distances(a, "alignment: rho")
    b = _pair_distances(b, "alignment: embeddings")
    if a.max() == a.min() or b.max() == b.min():
        return np.nan
    a, b = a / a.max(), b / b.max()
    a, b = a - a.mean(), b - b.mean()
    xp = array_module(a, b)
    return float((a * b).sum() / xp.sqrt((a * a).sum() * (b * b).sum()))


def cluster_purity(labels: Array, truth: Array) -> float:
    """The share of samples whose true class is the most frequent one of their cluster, 0..1.

    Where clusters and classes are two each, equally frequent and unrelated, it is a little above ½.

    >>> cluster_purity(np.array([0, 0, 0, 1]), np.array([7, 7, 8, 8]))
    0.75
    """
    labels = _labels(labels, None, "cluster_purity: labels")
    truth = _labels(truth, len(labels), "cluster_purity: truth")
    xp = array_module(labels, truth)
    most = [
        int(xp.unique(truth[labels == label], return_counts=True)[1].max())
        for label in xp.unique(labels).tolist()
    ]
    return sum(most) / len(labels)


# ----------------------------------------------------------------------------------------- helpers


def _squared_distances(points: Array, centroids: Array) -> Array:
    """(B, C) and (K, C) -> (B, K). By differences: |p|² - 2 pc + |c|² would lose digits."""
    columns = [((points - centroid) ** 2).sum(axis=1) for centroid in centroids]
    return array_module(points).stack(columns, axis=1)


def _pair_distances(points: Array, name: str) -> Array:
    """The distance of each pair of rows, in the order of `triu_indices`: (B,D) -> (B(B-1)/2,)."""
    if len(points) < 2:
        raise ValueError(f"{name}: has shape {points.shape}, expected two samples at least")
    xp = array_module(points)
    rows = [((points[i + 1 :] - points[i]) ** 2).sum(axis=1) for i in range(len(points) - 1)]
    return xp.sqrt(xp.concatenate(rows))


def _activations(x: Tensor | Array, name: str) -> Array:
    x = as_activations(x.data if isinstance(x, Tensor) else x, name)
    if x.ndim < 2:
        raise ValueError(f"{name} has shape {x.shape}, expected (B, C, ...)")
    check_finite(x, name)
    return x


def _matrix(x: Array, name: str, axes: str) -> Array:
    x = _activations(x, name)
    if x.ndim != 2:
        raise ValueError(f"{name} has shape {x.shape}, expected {axes}")
    largest = float(abs(x).max())
    if largest > 1e145:
        raise ValueError(
            f"{name}: {largest:.2g} is too large, squared distances would overflow float64"
        )
    return x.astype(np.float64, copy=False)


def _labels(labels: Array, count: int | None, name: str) -> Array:
    labels = as_array(labels)
    if labels.dtype.kind not in "iub":
        raise TypeError(f"{name} has dtype {labels.dtype}, expected whole numbers")
    if labels.ndim != 1 or labels.size == 0 or (count is not None and len(labels) != count):
        wanted = "(B,)" if count is None else f"({count},), one for each sample"
        raise ValueError(f"{name} has shape {labels.shape}, expected {wanted}")
    return labels


def _axis(channel_axis: int, ndim: int, what: str) -> int:
    """The channel axis counted from the front."""
    if not -ndim < channel_axis < ndim or channel_axis == 0:
        raise ValueError(f"{what}, which has no channel_axis {channel_axis} beside the samples' 0")
    return channel_axis % ndim


def _channel(z: Array, channel: int, channel_axis: int, name: str) -> Array:
    """One channel of an array or Tensor that has `channel_axis`: (B, C, ...) -> (B, ...)."""
    axis = channel_axis % z.ndim
    channel = whole_number(channel, f"{name}: channel", least=0)
    if channel >= z.shape[axis]:
        raise ValueError(
            f"{name}: channel is {channel}, but shape {tuple(z.shape)} has {z.shape[axis]} "
            f"channels (axis {axis})"
        )
    return z[(*[slice(None)] * axis, channel)]


def _check_layer(a: Tensor, samples: int) -> None:
    name = "circuit_attribution: layer(x)"
    if not isinstance(a, Tensor):
        raise TypeError(f"{name} is a {type(a).__name__}, expected a Tensor made from x")
    if a.ndim < 2 or len(a) != samples:
        raise ValueError(f"{name} has shape {a.shape}, expected ({samples}, channels, ...)")


def _axis_of_taps(x: Tensor, a: Tensor) -> int:
    axes = {x.ndim, a.ndim}
    if 3 in axes and max(axes) > 3:
        raise ValueError(
            f"circuit_attribution_between: activations have shapes {x.shape} and {a.shape}, one a "
            "sequence (B, T, C) and one an image (B, C, Y, X); call circuit_attribution with a "
            "layer that brings them to one order"
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
