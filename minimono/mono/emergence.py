"""Emergence: how many paths lead from a network's inactive nodes to its active ones.

All of it is a reconstruction. AlShinaifi et al. (2024, arXiv 2409.01568) define emergence by paths
between inactive and active nodes; their formula is rebuilt here from descriptions of it, not from
their text or code. Two forms fit, and every function offers both:

    "A"  paths from an inactive node to a later active node, through any nodes
    "B"  the same, but after its start a path meets active nodes only

A path has at least one edge and follows edges forwards. Layers count from the input, whose nodes
take part. All counts are Python integers: exact, and they cannot overflow.

`emergence` needs widths only, `emergence_of_masks` a network with pruned weights (`pruning.py`) and
convolutions (`convolution_mask.py`), `emergence_of_graph` any graph without cycles.
"""

from __future__ import annotations

import graphlib
import itertools
import math
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from typing import Literal, TypeAlias

import numpy as np

from minimono import checks, sums
from minimono.backend import Array, as_array, to_host
from minimono.mono.convolution_mask import ConvMask, zero_or_one

Form: TypeAlias = Literal["A", "B"]
Graph: TypeAlias = Mapping[Hashable, Iterable[Hashable]]  # for every node those its edges lead to


def emergence(widths: Sequence[int], active: Sequence[int], *, form: Form = "A") -> int:
    """Return the emergence of a fully connected network with n_i nodes, a_i active, in layer i.

        A:  E = Σ_{i<j} (n_i - a_i) a_j Π_{i<k<j} n_k
        B:  E = Σ_{i<j} (n_i - a_i) Π_{i<k<=j} a_k

    It is counted in one pass over the layers. Reconstruction of arXiv 2409.01568.

    widths, active: a whole number for each layer, the input first. ValueError unless
    0 <= a_i <= n_i and n_i >= 1.

    >>> emergence([3, 2, 2], [1, 1, 2]), emergence([3, 2, 2], [1, 1, 2], form="B")
    (12, 8)
    """
    form = _form(form, "emergence")
    total = 0
    arriving = 0  # paths from inactive nodes to a node of the layer, the same for all its nodes
    for n, a in _layers(widths, active):
        total += a * arriving
        arriving = arriving * (n if form == "A" else a) + (n - a)
    return total


def emergence_of_masks(
    masks: Sequence[Array | ConvMask], active: Sequence[Array], *, form: Form = "A"
) -> int:
    """Return the emergence of a pruned network: only paths along surviving weights count.

        arriving = M_j (arriving + inactive)    for each layer j; E sums it over active nodes

    Form B also sets it to 0 at inactive nodes. Masks of ones give `emergence`: its products of
    widths have become products of the 0/1 masks. Reconstruction of arXiv 2409.01568.

    masks: one for each pair of neighbouring layers: shape (out, in), as the weights of a linear
    layer, or a `ConvMask`.   active: for each layer a boolean for each node, shape (n,) or
    (C, H, W); `active_nodes` makes them. A linear layer after a feature map takes it in C order.

    Counts of active nodes are a TypeError: which nodes are active decides which paths count.

    >>> masks = [np.array([[1, 1, 0], [0, 1, 1]]), np.array([[1, 0]])]    # 3 -> 2 -> 1 nodes
    >>> active = [np.array([False, True, True]), np.array([True, False]), np.array([True])]
    >>> emergence_of_masks(masks, active)             # from node 0 of layer 0 and node 1 of layer 1
    2
    """
    form = _form(form, "emergence_of_masks")
    name, pairs = "emergence_of_masks", "one for each pair of neighbouring layers"
    layers = checks.several(active, f"{name}: active", "a layer")
    layers = [_booleans(a, f"{name}: active[{i}]") for i, a in enumerate(layers)]
    masks = checks.several(masks, f"{name}: masks", pairs, count=len(layers) - 1)
    total = 0
    arriving = np.zeros(layers[0].shape, dtype=object)  # paths from inactive nodes to each node
    for i, (here, there) in enumerate(itertools.pairwise(layers)):
        pass_on, fan_in = _connection(masks[i], here.shape, there.shape, f"masks[{i}]")
        arriving = _exactly(pass_on, arriving + ~here, fan_in).reshape(there.shape)
        total += arriving[there].sum()
        if form == "B":
            arriving[~there] = 0
    return total


def emergence_of_graph(graph: Graph, active: Collection[Hashable], *, form: Form = "A") -> int:
    """Return the emergence of any graph without cycles.

        E(G, H) = Σ over nodes x of G outside H, Σ over y in out(x): paths starting at y

    H is the set of active nodes, with G's edges between them (our reading). In form B y must be in
    H, and any path within H counts, y alone included; in form A any path of G that ends in H does,
    y alone included if y is in H. On a layered graph these are the sums of `emergence`.
    Reconstruction of arXiv 2409.01568; its general formula is form B.

    graph: for every node, the nodes its edges lead to.   active: nodes. ValueError for a cycle, for
    an edge given twice, for nodes that are not in the graph.

    >>> skip = {"x": ["h", "y"], "h": ["y"], "y": []}         # a skip connection past h
    >>> emergence_of_graph(skip, {"h", "y"}), emergence_of_graph(skip, {"y"}, form="B")
    (3, 2)
    """
    form = _form(form, "emergence_of_graph")
    following, inside = _edges(graph), set(active)
    if strangers := inside - following.keys():
        raise ValueError(
            f"emergence_of_graph: active holds {strangers.pop()!r}, expected nodes of the graph"
        )
    total = 0
    paths: dict[Hashable, int] = {}  # starting at each node
    for x in _last_first(following):
        onward = sum(paths[y] for y in following[x])
        if x in inside:
            paths[x] = 1 + onward
        else:
            paths[x] = onward if form == "A" else 0
            total += onward
    return total


def relative_emergence(value: int, parameters: int) -> float:
    """Return emergence for each parameter: E / number of surviving weights, correctly rounded.

    Count a weight that a convolution uses at many places once, and no biases, which are no edges
    (our choice). Reconstruction of arXiv 2409.01568.

    >>> masks = [np.ones((2, 3)), np.ones((2, 2))]
    >>> relative_emergence(12, sum(int(mask.sum()) for mask in masks))
    1.2
    """
    value = checks.whole_number(value, "relative_emergence: value", least=0)
    parameters = checks.whole_number(parameters, "relative_emergence: parameters", least=1)
    try:
        return value / parameters
    except OverflowError:
        raise OverflowError(
            "relative_emergence: the quotient is above float64's largest number, 1.8e308; "
            "fractions.Fraction(value, parameters) holds it"
        ) from None


# ---- which nodes are active --------------------------------------------------------------------


def active_nodes(
    z: Array, threshold: float = 0.05, *, per: Literal["batch", "sample"] = "batch"
) -> Array:
    """Return which nodes of a layer are active: those whose activation is above `threshold`.

    z: activations, shape (B, *neurons). per="batch" (our choice, where the source is silent)
    compares each node's mean over the batch and returns booleans of shape neurons; per="sample"
    compares every activation and returns (B, *neurons). Compared in float64, with its sign.
    Reconstruction of arXiv 2409.01568. ValueError for nan and infinity.

    >>> z = np.array([[0.0, 0.2, 1.0], [0.0, 0.0, 1.0]])
    >>> active_nodes(z), active_nodes(z[:, 1], per="sample")
    (array([False,  True,  True]), array([ True, False]))
    """
    return _active(z, threshold, per, "active_nodes")


def active_counts(
    z: Array, threshold: float = 0.05, *, per: Literal["batch", "sample"] = "batch"
) -> Array:
    """Return how many nodes of a layer are active, as `active_nodes` tells: for `emergence`.

    It is a Python int, or with per="sample" an integer array of shape (B,).

    >>> z = np.array([[0.0, 0.2, 1.0], [0.0, 0.0, 1.0]])
    >>> active_counts(z), active_counts(z, per="sample")
    (2, array([2, 1]))
    """
    active = _active(z, threshold, per, "active_counts")
    if per == "batch":
        return int(active.sum())
    return active.reshape(len(active), -1).sum(axis=1)  # (B, *neurons) -> (B, neurons)


def _active(z: Array, threshold: float, per: str, name: str) -> Array:
    z = checks.values(z, f"{name}: z")
    threshold = checks.number(threshold, f"{name}: threshold", finite=False)
    if checks.one_of(per, f"{name}: per", ("batch", "sample")) == "batch":
        z = sums.total(z, axis=0) / len(z)
    return z > threshold


# ---- layers, masks and graphs ------------------------------------------------------------------


def _form(form: Form, function: str) -> Form:
    return checks.one_of(form, f"{function}: form", ("A", "B"))


def _layers(widths: Sequence[int], active: Sequence[int]) -> list[tuple[int, int]]:
    """The nodes and the active nodes of each layer."""
    sizes = checks.whole_numbers(widths, "emergence: widths", least=1)
    checks.several(sizes, "emergence: widths", "a layer")
    active = checks.several(active, "emergence: active", "as widths", count=len(sizes))
    for i, n in enumerate(sizes):
        name, of = f"emergence: active[{i}]", f"the nodes of layer {i}"
        active[i] = checks.whole_number(active[i], name, least=0, most=n, of=of)
    return [*zip(sizes, active, strict=True)]


def _booleans(active: Array, name: str) -> Array:
    active = to_host(as_array(active))
    if active.dtype != np.bool:
        raise TypeError(
            f"{name} has dtype {active.dtype}, expected bool, one for each node (active_nodes "
            "makes them); a count does not say which paths survive"
        )
    checks.layout(active, name, "one node at least", active.size > 0 and active.ndim > 0)
    return active


def _connection(
    mask: Array | ConvMask, here: tuple[int, ...], there: tuple[int, ...], name: str
) -> tuple[Callable[[Array], Array], int]:
    """How counts pass from nodes of shape `here` to `there`, and how many edges meet at most."""
    name = f"emergence_of_masks: {name}"
    if isinstance(mask, ConvMask):
        if mask.output_shape(here) != there:
            raise ValueError(
                f"{name} leads from nodes of shape {here} to {mask.output_shape(here)}, expected "
                f"{there}, the shape of the next layer's active"
            )
        return mask.apply, mask.kernel[0].size
    matrix = zero_or_one(mask, name).astype(np.float64)
    expected = math.prod(there), math.prod(here)
    checks.shaped(matrix, name, expected, f"(out, in) between nodes of shape {here} and {there}")
    return lambda counts: matrix @ counts.reshape(-1), expected[1]


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
        passed = pass_on(digit.astype(np.float64)).astype(np.int64)
        total = total + (passed.astype(object) << shift)
    return total


def _edges(graph: Graph) -> dict[Hashable, list[Hashable]]:
    following = {x: list(successors) for x, successors in graph.items()}
    for x, successors in following.items():
        if len(set(successors)) < len(successors):
            raise ValueError(f"emergence_of_graph: node {x!r} has an edge twice: {successors}")
        for y in successors:
            if y not in following:
                raise ValueError(
                    f"emergence_of_graph: an edge leads from {x!r} to {y!r}, expected a node of "
                    f"the graph; add it ({y!r}: [] if no edge leaves it)"
                )
    return following


def _last_first(following: dict[Hashable, list[Hashable]]) -> Iterable[Hashable]:
    """The nodes in an order in which each comes after those that its edges lead to."""
    try:
        return [*graphlib.TopologicalSorter(following).static_order()]
    except graphlib.CycleError as error:
        cycle = " - ".join(repr(x) for x in error.args[1])
        raise ValueError(
            f"emergence_of_graph: the graph has a cycle, with the nodes {cycle}; paths can be "
            "counted only without one: unroll it in time"
        ) from None
