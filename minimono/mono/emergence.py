"""Emergence: how many paths lead from a network's inactive nodes to its active ones.

A reconstruction, all of it. AlShinaifi et al. (2024, arXiv 2409.01568) define emergence by paths
between inactive and active nodes; their formula is rebuilt here from descriptions of it, not from
their text or code. Two forms fit, and every function offers both:

    "A"  paths from an inactive node to a later active node, through any nodes
    "B"  the same, but after its start a path meets active nodes only

A path has at least one edge and follows edges forwards. Layers count from the input, whose nodes
take part. All counts are Python integers: exact, and they cannot overflow.

`emergence` needs widths only, `emergence_of_masks` a network with pruned weights and convolutions,
`emergence_of_graph` any graph without cycles.
"""

from __future__ import annotations

import graphlib
import itertools
import math
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, TypeAlias

import numpy as np

from minimono import sums
from minimono.backend import Array, array_module, as_array, to_host
from minimono.checks import Rng, as_written, generator, real_number, whole_number
from minimono.checks import activations as as_activations
from minimono.mono.soundness import check_finite

Form: TypeAlias = Literal["A", "B"]


# ------------------------------------------------------------------------- which nodes are active


def active_nodes(
    z: Array, threshold: float = 0.05, *, per: Literal["batch", "sample"] = "batch"
) -> Array:
    """Which nodes of a layer are active: those whose activation is above `threshold`.

    z: activations, shape (B, *neurons). per="batch" (our choice, where the source is silent)
    compares each node's mean over the batch and returns booleans of shape neurons; per="sample"
    compares every activation and returns (B, *neurons). Compared in float64, with its sign.
    Reconstruction of arXiv 2409.01568. ValueError for nan and infinity.

    >>> z = np.array([[0.0, 0.2, 1.0], [0.0, 0.0, 1.0]])
    >>> active_nodes(z), active_nodes(z[:, 1], per="sample")
    (array([False,  True,  True]), array([ True, False]))
    """
    z = as_activations(z, "active_nodes: z")
    check_finite(z, "active_nodes: z")
    if per not in ("batch", "sample"):
        raise ValueError(f'active_nodes: per is {per!r}, expected "batch" or "sample"')
    threshold = real_number(threshold, "active_nodes: threshold")
    if math.isnan(threshold):
        raise ValueError("active_nodes: threshold is nan, expected a number")
    xp = array_module(z)
    if per == "batch":
        z = sums.total(z, axis=0, dtype=xp.float64) / len(z)
    # An array, because NumPy would round a Python number to float32 before it compares.
    return z > xp.asarray(threshold, dtype=xp.float64)


def active_counts(
    z: Array, threshold: float = 0.05, *, per: Literal["batch", "sample"] = "batch"
) -> Array:
    """How many nodes of a layer are active, as `active_nodes` tells: what `emergence` needs.

    A Python int, or with per="sample" an integer array of shape (B,).

    >>> z = np.array([[0.0, 0.2, 1.0], [0.0, 0.0, 1.0]])
    >>> active_counts(z), active_counts(z, per="sample")
    (2, array([2, 1]))
    """
    active = active_nodes(z, threshold, per=per)
    if per == "batch":
        return int(active.sum())
    return active.reshape(len(active), -1).sum(axis=1)  # (B, *neurons) -> (B, neurons)


# ------------------------------------------------------------------------------------- three counts


def emergence(widths: Sequence[int], active: Sequence[int], *, form: Form = "A") -> int:
    """The emergence of a fully connected network with n_i nodes, a_i of them active, in layer i.

        A:  E = Σ_{i<j} (n_i - a_i) a_j Π_{i<k<j} n_k
        B:  E = Σ_{i<j} (n_i - a_i) Π_{i<k<=j} a_k

    One pass over the layers. Reconstruction of arXiv 2409.01568.

    widths, active: a whole number for each layer, the input first. ValueError unless
    0 <= a_i <= n_i and n_i >= 1.

    >>> emergence([3, 2, 2], [1, 1, 2]), emergence([3, 2, 2], [1, 1, 2], form="B")
    (12, 8)
    """
    _check_form(form, "emergence")
    widths, active = list(widths), list(active)
    if len(widths) != len(active):
        raise ValueError(
            f"emergence: got {len(widths)} widths and {len(active)} active counts; "
            "both need one number for each layer"
        )
    if not widths:
        raise ValueError("emergence: got no layers, expected one at least")
    total = 0
    arriving = 0  # paths from inactive nodes to a node of the layer, the same for all its nodes
    for i, (n, a) in enumerate(zip(widths, active, strict=True)):
        n = whole_number(n, f"emergence: widths[{i}]", least=1)
        a = whole_number(a, f"emergence: active[{i}]", least=0)
        if a > n:
            raise ValueError(f"emergence: active[{i}] is {a}, but layer {i} has {n} nodes")
        total += a * arriving
        arriving = arriving * (n if form == "A" else a) + (n - a)
    return total


def emergence_of_masks(
    masks: Sequence[Array | ConvMask], active: Sequence[Array], *, form: Form = "A"
) -> int:
    """The emergence of a pruned network: only paths along surviving weights count.

        arriving = M_j (arriving + inactive)    for each layer j; E sums it over active nodes

    (form B also sets it to 0 at inactive nodes). Masks of ones give `emergence`. Reconstruction of
    arXiv 2409.01568: its products of widths become products of the 0/1 masks.

    masks: one for each pair of neighbouring layers: shape (out, in), as the weights of a linear
    layer, or a `ConvMask`.   active: for each layer a boolean for each node, shape (n,) or
    (C, H, W); `active_nodes` makes them. A linear layer after a feature map takes it in C order.

    Counts of active nodes are a TypeError: which nodes are active decides which paths count.

    >>> masks = [np.array([[1, 1, 0], [0, 1, 1]]), np.array([[1, 0]])]    # 3 -> 2 -> 1 nodes
    >>> active = [np.array([False, True, True]), np.array([True, False]), np.array([True])]
    >>> emergence_of_masks(masks, active)             # from node 0 of layer 0 and node 1 of layer 1
    2
    """
    _check_form(form, "emergence_of_masks")
    masks, layers = list(masks), [_booleans(a, i) for i, a in enumerate(active)]
    if not layers:
        raise ValueError("emergence_of_masks: got no layers, expected one at least")
    if len(masks) != len(layers) - 1:
        raise ValueError(
            f"emergence_of_masks: got {len(masks)} masks for {len(layers)} layers of nodes, "
            f"expected {len(layers) - 1}, one for each pair of neighbours"
        )
    total = 0
    arriving = np.zeros(layers[0].shape, dtype=object)  # paths from inactive nodes to each node
    for i, (here, there) in enumerate(itertools.pairwise(layers)):
        pass_on, fan_in = _connection(masks[i], here.shape, there.shape, f"masks[{i}]")
        arriving = _exactly(pass_on, arriving + ~here, fan_in).reshape(there.shape)
        total += arriving[there].sum()
        if form == "B":
            arriving[~there] = 0
    return total


def emergence_of_graph(
    graph: Mapping[Hashable, Iterable[Hashable]],
    active: Collection[Hashable],
    *,
    form: Form = "A",
) -> int:
    """The emergence of any graph without cycles.

        E(G, H) = Σ over nodes x of G outside H, Σ over y in out(x): paths starting at y

    H is the set of active nodes, with G's edges between them (our reading). What counts as a path
    from y: form B, any path within H, y alone included, and y must be in H; form A, any path of G
    that ends in H, y alone included if y is in H. On a layered graph these are the sums of
    `emergence`. Reconstruction of arXiv 2409.01568; its general formula is form B.

    graph: for every node, the nodes its edges lead to.   active: nodes. ValueError for a cycle, for
    an edge given twice, for nodes that are not in the graph.

    >>> skip = {"x": ["h", "y"], "h": ["y"], "y": []}         # a skip connection past h
    >>> emergence_of_graph(skip, {"h", "y"}), emergence_of_graph(skip, {"y"}, form="B")
    (3, 2)
    """
    _check_form(form, "emergence_of_graph")
    following = {x: list(successors) for x, successors in graph.items()}
    for x, successors in following.items():
        if len(set(successors)) < len(successors):
            raise ValueError(f"emergence_of_graph: node {x!r} has an edge twice: {successors}")
        for y in successors:
            if y not in following:
                raise ValueError(
                    f"emergence_of_graph: an edge leads from {x!r} to {y!r}, which is not in the "
                    f"graph; add it ({y!r}: [] if no edge leaves it)"
                )
    inside = set(active)
    if strangers := inside - following.keys():
        raise ValueError(
            f"emergence_of_graph: active holds {strangers.pop()!r}, which is not in the graph"
        )
    try:
        # The sorter puts the nodes of the lists first: from the last nodes back to the first.
        order = list(graphlib.TopologicalSorter(following).static_order())
    except graphlib.CycleError as error:
        cycle = " - ".join(repr(x) for x in error.args[1])
        raise ValueError(
            f"emergence_of_graph: the graph has a cycle, with the nodes {cycle}; paths can be "
            "counted only without one: unroll it in time"
        ) from None
    total = 0
    paths: dict[Hashable, int] = {}  # starting at each node
    for x in order:
        onward = sum(paths[y] for y in following[x])
        if x in inside:
            paths[x] = 1 + onward
        else:
            paths[x] = onward if form == "A" else 0
            total += onward
    return total


def relative_emergence(value: int, parameters: int) -> float:
    """Emergence for each parameter: E / number of surviving weights, correctly rounded.

    Count a weight that a convolution uses at many places once, and no biases (our choice): they
    are no edges. Reconstruction of arXiv 2409.01568.

    >>> masks = [np.ones((2, 3)), np.ones((2, 2))]
    >>> relative_emergence(12, sum(int(mask.sum()) for mask in masks))
    1.2
    """
    value = whole_number(value, "relative_emergence: value", least=0)
    parameters = whole_number(parameters, "relative_emergence: parameters", least=1)
    try:
        return value / parameters
    except OverflowError:
        raise OverflowError(
            "relative_emergence: the quotient is above float64's largest number, 1.8e308; "
            "fractions.Fraction(value, parameters) holds it"
        ) from None


# ------------------------------------------------------------------ convolutions as unrolled graph


@dataclass(frozen=True, eq=False)
class ConvMask:
    """The connections of a convolution, for `emergence_of_masks`.

    Its nodes are (channel, y, x), its edges those of the unrolled graph: each surviving kernel
    weight is an edge at every place it is used, and padding is no node (our choice, where the
    source is silent). Paths are counted without building that graph.

    kernel: 0/1, shape (out, in, y, x), as the weights of a convolution. Groups are a kernel with
    zeros.   stride, padding: as in the convolution, the same for y and x.

    >>> conv = ConvMask(np.ones((1, 1, 2, 2)))                 # 2 x 2 kernel on a 2 x 3 picture
    >>> inactive, active = np.zeros((1, 2, 3), bool), np.ones((1, 1, 2), bool)
    >>> emergence_of_masks([conv], [inactive, active])         # 2 places of 4 edges
    8
    """

    kernel: Array
    stride: int = 1
    padding: int = 0

    def __post_init__(self) -> None:
        kernel = _zero_or_one(self.kernel, "ConvMask: kernel")
        if kernel.ndim != 4 or kernel.size == 0:
            raise ValueError(
                f"ConvMask: kernel has shape {kernel.shape}, expected (out, in, y, x), none of it 0"
            )
        object.__setattr__(self, "kernel", kernel)
        object.__setattr__(self, "stride", whole_number(self.stride, "ConvMask: stride", least=1))
        object.__setattr__(
            self, "padding", whole_number(self.padding, "ConvMask: padding", least=0)
        )

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """(out, H', W') for a feature map of `shape` (in, H, W)."""
        out_channels, channels, *kernel_size = self.kernel.shape
        if len(shape) != 3 or shape[0] != channels:
            raise ValueError(
                f"ConvMask: nodes have shape {shape}, expected ({channels}, H, W), as the kernel "
                f"{self.kernel.shape} has {channels} input channels"
            )
        padded = [size + 2 * self.padding for size in shape[1:]]
        if any(p < k for p, k in zip(padded, kernel_size, strict=True)):
            raise ValueError(
                f"ConvMask: the kernel {self.kernel.shape} does not fit into nodes of shape "
                f"{shape} with padding {self.padding}"
            )
        height, width = (
            (p - k) // self.stride + 1 for p, k in zip(padded, kernel_size, strict=True)
        )
        return out_channels, height, width

    def apply(self, counts: Array) -> Array:
        """Sum `counts` (in, H, W) along the edges into each output node (out, H', W')."""
        _, height, width = self.output_shape(counts.shape)
        p, s = self.padding, self.stride
        padded = np.pad(counts, ((0, 0), (p, p), (p, p)))
        kernel = self.kernel.astype(counts.dtype)
        out: Array = 0
        for y, x in np.ndindex(kernel.shape[2:]):
            seen = padded[:, y : y + s * height : s, x : x + s * width : s]  # (in, H', W')
            out = out + np.tensordot(kernel[:, :, y, x], seen, axes=1)  # -> (out, H', W')
        return out


def pool_mask(channels: int, size: int, *, stride: int | None = None, padding: int = 0) -> ConvMask:
    """A pooling layer, maximum or average, as connections: each channel by itself, all weights 1.

    Its outputs are a layer of nodes of their own, which need their own `active`. The stride is the
    size if not given, as in PyTorch.

    >>> pool_mask(3, 2).output_shape((3, 8, 8))
    (3, 4, 4)
    """
    channels = whole_number(channels, "pool_mask: channels", least=1)
    size = whole_number(size, "pool_mask: size", least=1)
    kernel = np.broadcast_to(np.eye(channels)[:, :, None, None], (channels, channels, size, size))
    return ConvMask(kernel, size if stride is None else stride, padding)


# --------------------------------------------------------------------- pruning and initialisation


def prune_by_magnitude(
    weights: Sequence[Array], fraction: float, *, scope: Literal["layer", "global"] = "layer"
) -> list[Array]:
    """Masks that keep the largest weights: False for the `fraction` smallest in magnitude.

    weights: arrays of any shape, one for each layer; biases stay out of it.   scope: the fraction
    is of each layer, or "global" of all weights together.   Exactly round(fraction · size) go, a
    half to the even number, the fraction taken as the decimal it is written as. Of equal
    magnitudes those go first that come first, by layer and then in C order. So a higher fraction
    prunes all that a lower one does. 0 keeps all, 1 none.

    The source says magnitude pruning, no more: ties, rounding and default scope are our choice.

    >>> prune_by_magnitude([np.array([[0.1, -3.0], [2.0, -0.2]])], 0.5)
    [array([[False,  True],
           [ True, False]])]
    """
    name = "prune_by_magnitude"
    if not isinstance(weights, list | tuple):  # the rows of one array would pass for layers
        raise TypeError(f"{name}: weights is a {type(weights).__name__}, expected a list of arrays")
    if not weights:
        raise ValueError(f"{name}: weights is empty, expected an array for each layer")
    if scope not in ("layer", "global"):
        raise ValueError(f'{name}: scope is {scope!r}, expected "layer" or "global"')
    share = as_written(fraction, f"{name}: fraction")
    if not 0 <= share <= 1:
        raise ValueError(f"{name}: fraction is {fraction}, expected 0 to 1")
    sizes = [abs(as_activations(w, f"{name}: weights[{i}]")) for i, w in enumerate(weights)]
    xp = array_module(*sizes)
    for i, w in enumerate(sizes):
        if not xp.isfinite(w).all():
            raise ValueError(f"{name}: weights[{i}] holds nan or infinity, which have no rank")
    flat = [w.reshape(-1) for w in sizes]
    if scope == "global":
        ends = np.cumsum([len(w) for w in flat])[:-1].tolist()
        kept = xp.split(_largest(xp.concatenate(flat), share), ends)
    else:
        kept = [_largest(w, share) for w in flat]
    return [mask.reshape(w.shape) for mask, w in zip(kept, sizes, strict=True)]


def initialise_by_distance(
    shapes: Sequence[tuple[int, ...]], alpha: float, *, rng: Rng
) -> list[Array]:
    """Xavier weights, smaller before the middle layer and larger behind it.

        W_n = α^n · Xavier,     n = ..., -2, -1, 0, 1, 2, ... with 0 the middle layer

    that is 1/α^|n| in the first half, α^|n| in the second (Li, George and Silva, arXiv 2407.19044,
    to raise emergence). With an even number of layers there is no middle one and n is
    ..., -2, -1, 1, 2, ... (our reading). Xavier is uniform in ±√(6 / (fan_in + fan_out)), as
    PyTorch's `xavier_uniform_` (our choice). The factors multiply to 1, so a ReLU network without
    biases computes what it did.

    shapes: of each layer's weights, input side first, (out, in) or (out, in, y, x). α > 0; 1 is
    plain Xavier. Returns float64 arrays.

    >>> first, last = initialise_by_distance([(4, 3), (2, 4)], 2.0, rng=np.random.default_rng(0))
    >>> bool(abs(first).max() < (6 / 7) ** 0.5 / 2), last.shape
    (True, (2, 4))
    """
    name = "initialise_by_distance"
    alpha = real_number(alpha, f"{name}: alpha")
    rng = generator(rng, f"{name}: rng")
    shapes = [tuple(shape) for shape in shapes]
    half = len(shapes) // 2
    distances = [*range(-half, 0), *([0] if len(shapes) % 2 else []), *range(1, half + 1)]
    try:
        factors = [alpha**n for n in distances]
    except (ZeroDivisionError, OverflowError):
        factors = [0.0]
    if not (alpha > 0 and all(0 < factor < math.inf for factor in factors)):
        raise ValueError(
            f"{name}: alpha is {alpha}, expected a positive number whose power {half} (half of "
            f"{len(shapes)} layers) float64 can hold"
        )
    return [
        factor * _xavier(shape, rng, f"{name}: shapes[{i}]")
        for i, (factor, shape) in enumerate(zip(factors, shapes, strict=True))
    ]


# ----------------------------------------------------------------------------------------- helpers


def _exactly(pass_on: Callable[[Array], Array], counts: Array, fan_in: int) -> Array:
    """`pass_on(counts)`, a sum of at most `fan_in` counts for each entry, for integers of any size.

    Float64 is exact for whole numbers up to 2^53 and has fast matrix products. So the counts are
    cut into digits so short that sums of them stay below, passed on digit by digit.
    """
    bits = 53 - fan_in.bit_length()
    longest = max(1, counts.max().bit_length())
    total: Array = 0
    for shift in range(0, longest, bits):
        digit = (counts >> shift) & ((1 << bits) - 1)
        sums = pass_on(digit.astype(np.float64)).astype(np.int64)
        total = total + (sums.astype(object) << shift)
    return total


def _connection(
    mask: Array | ConvMask, here: tuple[int, ...], there: tuple[int, ...], name: str
) -> tuple[Callable[[Array], Array], int]:
    """How counts pass from nodes of shape `here` to `there`, and how many edges meet at most."""
    if isinstance(mask, ConvMask):
        if mask.output_shape(here) != there:
            raise ValueError(
                f"emergence_of_masks: {name} leads from nodes of shape {here} to "
                f"{mask.output_shape(here)}, but the next layer's active has shape {there}"
            )
        return mask.apply, mask.kernel[0].size
    matrix = _zero_or_one(mask, f"emergence_of_masks: {name}").astype(np.float64)
    expected = math.prod(there), math.prod(here)
    if matrix.shape != expected:
        raise ValueError(
            f"emergence_of_masks: {name} has shape {matrix.shape}, expected {expected}: (out, in), "
            f"between nodes of shape {here} and {there}"
        )
    return lambda counts: matrix @ counts.reshape(-1), expected[1]


def _booleans(active: Array, i: int) -> Array:
    active = to_host(as_array(active))
    if active.dtype != np.bool:
        got = f"is {active}" if active.ndim == 0 else f"has dtype {active.dtype}"
        raise TypeError(
            f"emergence_of_masks: active[{i}] {got}, expected booleans, one for each node "
            "(active_nodes makes them); a count does not say which paths survive"
        )
    if active.size == 0 or active.ndim == 0:
        raise ValueError(
            f"emergence_of_masks: active[{i}] has shape {active.shape}, expected one node at least"
        )
    return active


def _zero_or_one(mask: Array, name: str) -> Array:
    """A mask as booleans in the computer's own memory."""
    mask = to_host(as_array(mask))
    if mask.dtype.kind not in "fiub":
        raise TypeError(f"{name} has dtype {mask.dtype}, expected 0 and 1 or booleans")
    other = mask[(mask != 0) & (mask != 1)]
    if other.size:
        raise ValueError(
            f"{name} is {other[0]}, expected only 0 and 1; for weights write weights != 0"
        )
    return mask.astype(np.bool)


def _largest(sizes: Array, share: Fraction | float) -> Array:
    """A flat mask without the `share` smallest."""
    xp = array_module(sizes)
    pruned = round(share * len(sizes))
    mask = xp.ones(len(sizes), dtype=bool)
    mask[xp.argsort(sizes, kind="stable")[:pruned]] = False
    return mask


def _xavier(shape: tuple[int, ...], rng: np.random.Generator, name: str) -> Array:
    if len(shape) < 2:
        raise ValueError(f"{name} is {shape}, expected (out, in) or (out, in, y, x); no biases")
    shape = tuple(whole_number(size, name, least=1) for size in shape)
    fan_in, fan_out = math.prod(shape[1:]), shape[0] * math.prod(shape[2:])
    bound = math.sqrt(6 / (fan_in + fan_out))
    return rng.uniform(-bound, bound, shape)


def _check_form(form: str, name: str) -> None:
    if form not in ("A", "B"):
        raise ValueError(f'{name}: form is {form!r}, expected "A" or "B"')
