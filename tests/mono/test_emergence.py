"""Emergence against enumeration of all paths, published fixtures and exact identities."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimono.mono import (
    ConvMask,
    active_counts,
    active_nodes,
    emergence,
    emergence_of_graph,
    emergence_of_masks,
    initialise_by_distance,
    pool_mask,
    prune_by_magnitude,
    relative_emergence,
)

few = settings(max_examples=40)
FORMS = pytest.mark.parametrize("form", ["A", "B"])


def walk(graph, node):
    """All paths of one edge or more that start at `node`, as lists of the nodes after it."""
    for successor in graph[node]:
        yield [successor]
        for rest in walk(graph, successor):
            yield [successor, *rest]


def enumerate_paths(graph, active, form: str) -> int:
    paths = [path for x in graph if x not in active for path in walk(graph, x)]
    if form == "A":
        return sum(path[-1] in active for path in paths)
    return sum(all(node in active for node in path) for path in paths)


def as_graph(masks, active):
    """The layered graph of matrices (out, in), nodes (layer, index), and its active nodes."""
    graph = {(i, k): [] for i, layer in enumerate(active) for k in range(layer.size)}
    for i, mask in enumerate(masks):
        for to, start in zip(*np.nonzero(mask), strict=True):
            graph[i, int(start)].append((i + 1, int(to)))
    on = {(i, int(k)) for i, layer in enumerate(active) for k in np.flatnonzero(layer)}
    return graph, on


def booleans(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.random(shape) < 0.6


LAYERS = st.lists(
    st.integers(1, 4).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))),
    min_size=1,
    max_size=5,
)


# ----------------------------------------------------------------------------------- widths alone


@pytest.mark.parametrize(
    ("widths", "active", "a", "b"),
    [
        ([3, 2, 2], [1, 1, 2], 12, 8),
        ([4, 3, 2], [1, 2, 1], 16, 13),
        ([784, 128, 64, 10], [300, 60, 30, 5], 21736210, 5268650),
    ],
)
def test_fixtures(widths, active, a: int, b: int) -> None:
    assert emergence(widths, active) == emergence(widths, active, form="A") == a
    assert emergence(widths, active, form="B") == b
    assert emergence(np.array(widths, np.int32), np.array(active), form="B") == b


@FORMS
@few
@given(LAYERS)
def test_is_the_double_sum_and_the_enumeration(form: str, layers) -> None:
    n, a = zip(*layers, strict=True)
    between = n if form == "A" else a
    double_sum = sum(
        (n[i] - a[i]) * math.prod(between[i + 1 : j]) * a[j]
        for i, j in itertools.combinations(range(len(n)), 2)
    )
    on = [np.arange(width) < count for width, count in layers]
    full = [np.ones((b, a)) for a, b in itertools.pairwise(n)]
    assert emergence(n, a, form=form) == double_sum
    assert enumerate_paths(*as_graph(full, on), form) == double_sum


@FORMS
def test_no_overflow_at_any_width(form: str) -> None:
    width = 10**30
    value = emergence([width] * 200, [width // 2] * 200, form=form)
    between = width if form == "A" else width // 2
    gaps = ((200 - gap) * between ** (gap - 1) for gap in range(1, 200))
    assert value == (width // 2) ** 2 * sum(gaps)
    assert type(emergence(np.array([2**31 - 1] * 9), np.array([1] * 9), form=form)) is int


@FORMS
def test_nothing_emerges_of_all_or_none_active(form: str) -> None:
    assert emergence([5, 4, 3], [5, 4, 3], form=form) == 0
    assert emergence([5, 4, 3], [0, 0, 0], form=form) == 0
    assert emergence([5], [2], form=form) == 0


# ------------------------------------------------------------------------------------------ masks


@FORMS
@few
@given(widths=st.lists(st.integers(1, 4), min_size=1, max_size=5), seed=st.integers(0, 10**6))
def test_masks_against_enumeration_and_graph(form: str, widths, seed: int) -> None:
    rng = np.random.default_rng(seed)
    active = [booleans(rng, n) for n in widths]
    masks = [booleans(rng, b, a) for a, b in itertools.pairwise(widths)]
    graph, on = as_graph(masks, active)
    want = enumerate_paths(graph, on, form)
    assert emergence_of_masks(masks, active, form=form) == want
    assert emergence_of_graph(graph, on, form=form) == want


@FORMS
def test_masks_of_ones_are_the_widths(form: str) -> None:
    rng = np.random.default_rng(3)
    widths = [784, 128, 64, 10]
    active = [booleans(rng, n) for n in widths]
    masks = [np.ones((b, a), np.float32) for a, b in itertools.pairwise(widths)]
    value = emergence_of_masks(masks, active, form=form)
    assert value == emergence(widths, [int(a.sum()) for a in active], form=form)
    assert type(value) is int


@FORMS
def test_masks_are_exact_where_float64_is_not(form: str) -> None:
    """The running digits against plain sums of Python integers, up to 130 bits."""
    rng = np.random.default_rng(4)
    active = [booleans(rng, 50) for _ in range(26)]
    masks = [booleans(rng, 50, 50) for _ in range(25)]
    total, arriving = 0, [0] * 50
    for mask, here, there in zip(masks, active, active[1:], strict=False):
        leaving = [a + (not on) for a, on in zip(arriving, here.tolist(), strict=True)]
        arriving = [
            sum(itertools.compress(leaving, row)) * (form == "A" or on)
            for row, on in zip(mask.tolist(), there.tolist(), strict=True)
        ]
        total += sum(itertools.compress(arriving, there.tolist()))
    assert total.bit_length() > 100
    assert emergence_of_masks(masks, active, form=form) == total


@FORMS
def test_pruning_only_removes_paths(form: str) -> None:
    rng = np.random.default_rng(5)
    active = [booleans(rng, n) for n in (20, 15, 10)]
    weights = [rng.normal(size=(15, 20)), rng.normal(size=(10, 15))]
    values = [
        emergence_of_masks(prune_by_magnitude(weights, f), active, form=form)
        for f in (0, 0.3, 0.7, 1)
    ]
    assert values == sorted(values, reverse=True)
    assert values[0] == emergence([20, 15, 10], [int(a.sum()) for a in active], form=form)
    assert values[-1] == 0


# ----------------------------------------------------------------------------------- convolutions


def unrolled(kernel, shape, stride: int, padding: int):
    """The unrolled graph of a convolution as a matrix, edge by edge, and its output shape."""
    out_channels, channels, kernel_height, kernel_width = kernel.shape
    _, height, width = shape
    out_height = (height + 2 * padding - kernel_height) // stride + 1
    out_width = (width + 2 * padding - kernel_width) // stride + 1
    edges = np.zeros((out_channels, out_height, out_width, *shape), bool)
    for o, y, x, c, dy, dx in np.ndindex(
        out_channels, out_height, out_width, channels, kernel_height, kernel_width
    ):
        to_y, to_x = y * stride + dy - padding, x * stride + dx - padding
        if 0 <= to_y < height and 0 <= to_x < width:
            edges[o, y, x, c, to_y, to_x] |= bool(kernel[o, c, dy, dx])
    nodes = out_channels * out_height * out_width
    return edges.reshape(nodes, -1), (out_channels, out_height, out_width)


@FORMS
@few
@given(
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    kernel_size=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    seed=st.integers(0, 10**6),
)
def test_convolution_is_its_unrolled_graph(form, stride, padding, kernel_size, seed) -> None:
    rng = np.random.default_rng(seed)
    kernel = booleans(rng, 3, 2, *kernel_size)
    shape = (2, 5, 4)
    matrix, out_shape = unrolled(kernel, shape, stride, padding)
    conv = ConvMask(kernel, stride, padding)
    assert conv.output_shape(shape) == out_shape
    last = booleans(rng, 4, math.prod(out_shape))  # a linear layer after it
    active = [booleans(rng, *shape), booleans(rng, *out_shape), booleans(rng, 4)]
    got = emergence_of_masks([conv, last], active, form=form)
    assert got == emergence_of_masks([matrix, last], active, form=form)
    assert got == emergence_of_graph(*as_graph([matrix, last], active), form=form)


@FORMS
@pytest.mark.parametrize(("stride", "padding"), [(None, 0), (1, 0), (2, 1)])
def test_pooling_connects_each_window_of_a_channel(form, stride, padding) -> None:
    rng = np.random.default_rng(7)
    kernel = np.zeros((3, 3, 2, 2))
    kernel[range(3), range(3)] = 1
    matrix, out_shape = unrolled(kernel, (3, 6, 4), stride or 2, padding)
    active = [booleans(rng, 3, 6, 4), booleans(rng, *out_shape)]
    pool = pool_mask(3, 2, stride=stride, padding=padding)
    assert emergence_of_masks([pool], active, form=form) == emergence_of_masks(
        [matrix], active, form=form
    )


def test_a_convolution_counts_every_place_and_a_pruned_weight_none() -> None:
    inactive, active = np.zeros((1, 28, 28), bool), np.ones((8, 26, 26), bool)
    kernel = np.ones((8, 1, 3, 3))
    assert emergence_of_masks([ConvMask(kernel)], [inactive, active]) == 8 * 26 * 26 * 9
    kernel[3, 0, 1, 1] = 0
    assert emergence_of_masks([ConvMask(kernel)], [inactive, active]) == (8 * 9 - 1) * 26 * 26


# ------------------------------------------------------------------------------------------ graphs


@FORMS
@few
@given(st.integers(1, 6), st.integers(0, 10**6))
def test_graph_against_enumeration(form: str, size: int, seed: int) -> None:
    """Any graph without cycles, skip connections included, its nodes in any order."""
    rng = np.random.default_rng(seed)
    names = rng.permutation(size).tolist()
    graph = {
        names[i]: [names[j] for j in range(i + 1, size) if rng.random() < 0.6]
        for i in rng.permutation(size)
    }
    active = {name for name in names if rng.random() < 0.5}
    assert emergence_of_graph(graph, active, form=form) == enumerate_paths(graph, active, form)


def test_general_form_is_form_b_word_for_word() -> None:
    """Σ over removed x, over x's out-neighbours y in H, of the paths in H that start at y."""
    graph = {"a": "bc", "b": "d", "c": "d", "d": "e", "e": ""}
    kept = {"b", "d", "e"}
    H = {x: [y for y in graph[x] if y in kept] for x in kept}
    starting = {y: 1 + sum(1 for _ in walk(H, y)) for y in H}  # 1: y by itself
    want = sum(starting[y] for x in graph if x not in kept for y in graph[x] if y in kept)
    assert want == 3 + 2  # a -> b, bd, bde; c -> d, de
    assert emergence_of_graph(graph, kept, form="B") == want


@FORMS
def test_a_deep_graph_does_not_recurse(form: str) -> None:
    chain = {i: [i + 1] for i in range(5_000)} | {5_000: []}
    assert emergence_of_graph(chain, set(range(1, 5_001)), form=form) == 5_000


def test_a_cycle_is_an_error_that_names_it() -> None:
    with pytest.raises(
        ValueError, match=r"the graph has a cycle, with the nodes .*'[bc]' - '[bc]'"
    ):
        emergence_of_graph({"a": ["b"], "b": ["c"], "c": ["b"]}, {"c"})
    with pytest.raises(ValueError, match="cycle, with the nodes 0 - 0"):
        emergence_of_graph({0: [0]}, set())


# -------------------------------------------------------------------------------------- activity


def test_active_is_above_the_threshold_of_the_mean() -> None:
    z = np.array([[0.05, 0.2, 0.0, -9.0], [0.05, 0.0, 0.06, 9.2]])
    np.testing.assert_array_equal(active_nodes(z), [False, True, False, True])
    np.testing.assert_array_equal(
        active_nodes(z, per="sample"), [[False, True, False, False], [False, False, True, True]]
    )
    assert active_counts(z) == 2
    assert type(active_counts(z)) is int
    np.testing.assert_array_equal(active_counts(z, per="sample"), [1, 2])
    assert active_counts(z, 0.0) == 4
    assert active_counts(z, np.inf) == 0


def test_active_in_feature_maps_and_low_precision() -> None:
    z = np.random.default_rng(8).random((6, 3, 4, 5)).astype(np.float32) - 0.4
    assert active_nodes(z).shape == (3, 4, 5)
    assert active_counts(z) == (z.mean(axis=0, dtype=np.float64) > 0.05).sum()
    np.testing.assert_array_equal(active_counts(z, per="sample"), (z > 0.05).sum(axis=(1, 2, 3)))
    # float32's 0.05 is above the decimal 0.05, and the comparison is in float64
    assert active_counts(np.full((2, 1), 0.05, np.float32)) == 1
    assert active_counts(np.full((2, 1), 0.05, np.float64)) == 0


def test_activity_feeds_both_counts() -> None:
    rng = np.random.default_rng(9)
    layers = [rng.normal(0, 0.2, (8, n)) for n in (6, 5, 4)]
    full = [np.ones((5, 6)), np.ones((4, 5))]
    assert emergence_of_masks(full, [active_nodes(z) for z in layers]) == emergence(
        [6, 5, 4], [active_counts(z) for z in layers]
    )


def test_relative_emergence() -> None:
    assert relative_emergence(21736210, 109056) == 21736210 / 109056
    assert relative_emergence(10**400, 10**399) == 10
    assert relative_emergence(0, 1) == 0


# ---------------------------------------------------------------------------------------- pruning


@few
@given(
    st.lists(st.lists(st.integers(-3, 3), min_size=1, max_size=9), min_size=1, max_size=4),
    st.sampled_from([0, 0.07, 0.3, 0.5, 0.7, 1]),
    st.sampled_from(["layer", "global"]),
)
def test_pruning_keeps_exactly_the_largest(layers, fraction, scope: str) -> None:
    weights = [np.array(layer, np.float32) for layer in layers]
    masks = prune_by_magnitude(weights, fraction, scope=scope)
    groups = [[i] for i in range(len(layers))] if scope == "layer" else [range(len(layers))]
    for group in groups:
        entries = [(abs(v), i, k) for i in group for k, v in enumerate(layers[i])]
        pruned = sorted(entries)[: round(Fraction(str(fraction)) * len(entries))]
        gone = {(i, k) for _, i, k in pruned}
        for i in group:
            assert masks[i].tolist() == [(i, k) not in gone for k in range(len(layers[i]))]


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_a_higher_fraction_prunes_all_that_a_lower_one_does(scope: str) -> None:
    rng = np.random.default_rng(10)
    weights = [rng.integers(-5, 5, (8, 1, 3, 3)), rng.integers(-5, 5, (4, 8))]
    levels = [prune_by_magnitude(weights, f / 20, scope=scope) for f in range(21)]
    for low, high in itertools.pairwise(levels):
        for a, b in zip(low, high, strict=True):
            assert (b <= a).all()
    assert [m.shape for m in levels[0]] == [(8, 1, 3, 3), (4, 8)]
    assert all(m.all() for m in levels[0])
    assert not any(m.any() for m in levels[-1])


def test_pruning_again_with_zeros_in_place_gives_the_same() -> None:
    w = np.random.default_rng(11).normal(size=(10, 10))
    (once,) = prune_by_magnitude([w], 0.4)
    (again,) = prune_by_magnitude([w * once], 0.4)
    np.testing.assert_array_equal(once, again)


@pytest.mark.parity
def test_pruning_is_torch_s() -> None:
    torch = pytest.importorskip("torch")
    from torch.nn.utils import prune

    rng = np.random.default_rng(12)
    shapes = [(16, 3, 3, 3), (10, 64)]
    modules = [torch.nn.Conv2d(3, 16, 3), torch.nn.Linear(64, 10)]
    weights = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    for module, w in zip(modules, weights, strict=True):
        module.weight.data = torch.tensor(w)
    pairs = [(module, "weight") for module in modules]
    prune.global_unstructured(pairs, pruning_method=prune.L1Unstructured, amount=0.7)
    masks = prune_by_magnitude(weights, 0.7, scope="global")
    for mask, module in zip(masks, modules, strict=True):
        np.testing.assert_array_equal(mask, module.weight_mask.numpy())
    for mask, module, w in zip(prune_by_magnitude(weights, 0.3), modules, weights, strict=True):
        prune.remove(module, "weight")
        module.weight.data = torch.tensor(w)
        prune.l1_unstructured(module, "weight", amount=0.3)
        np.testing.assert_array_equal(mask, module.weight_mask.numpy())


# --------------------------------------------------------------------------------- initialisation


@pytest.mark.parametrize(
    ("layers", "powers"), [(1, [0]), (2, [-1, 1]), (3, [-1, 0, 1]), (6, [-3, -2, -1, 1, 2, 3])]
)
def test_initialisation_scales_xavier_by_distance(layers: int, powers) -> None:
    shapes = [(8, 6), (4, 8, 3, 3), (5, 4), (5, 5), (5, 5), (5, 5)][:layers]
    plain = initialise_by_distance(shapes, 1, rng=np.random.default_rng(13))
    scaled = initialise_by_distance(shapes, 3.0, rng=np.random.default_rng(13))
    for shape, x, w, power in zip(shapes, plain, scaled, powers, strict=True):
        assert w.shape == shape
        np.testing.assert_allclose(w, x * 3.0**power, rtol=1e-15)


def test_xavier_bounds_and_spread() -> None:
    (linear,) = initialise_by_distance([(300, 500)], 1, rng=np.random.default_rng(14))
    (conv,) = initialise_by_distance([(64, 32, 3, 5)], 1, rng=np.random.default_rng(15))
    for w, fans in ((linear, 800), (conv, 96 * 15)):
        bound = math.sqrt(6 / fans)
        assert 0.999 * bound < abs(w).max() <= bound
        assert w.std() == pytest.approx(math.sqrt(2 / fans), rel=0.01)


@pytest.mark.parametrize("layers", [4, 5])
def test_initialisation_leaves_a_relu_network_s_output(layers: int) -> None:
    x = np.random.default_rng(16).normal(size=(10, 7))
    outputs = []
    for alpha in (1, 2.5):
        h = x
        for w in initialise_by_distance([(7, 7)] * layers, alpha, rng=np.random.default_rng(17)):
            h = np.maximum(h @ w.T, 0)
        outputs.append(h)
    assert outputs[0].any()
    np.testing.assert_allclose(outputs[1], outputs[0], rtol=1e-12)


@pytest.mark.parity
def test_xavier_bound_is_torch_s() -> None:
    torch = pytest.importorskip("torch")
    shape = (64, 32, 3, 3)
    w = torch.nn.init.xavier_uniform_(torch.empty(shape))
    (ours,) = initialise_by_distance([shape], 1, rng=np.random.default_rng(18))
    assert float(abs(w).max()) == pytest.approx(abs(ours).max(), rel=1e-3)


# --------------------------------------------------------------------------------------- bad input

ON3, ON2 = np.ones(3, bool), np.ones(2, bool)


@pytest.mark.parametrize(
    ("widths", "active", "error", "message"),
    [
        ([3, 2], [1], ValueError, "emergence: active has length 1, expected 2, as widths"),
        ([], [], ValueError, "emergence: widths is empty, expected a layer at least"),
        ([3, 2], [1, 3], ValueError, r"active\[1\] is 3, expected at most 2, the nodes of layer 1"),
        ([3, 2], [-1, 2], ValueError, r"active\[0\] is -1, expected 0 or more"),
        ([0, 2], [0, 2], ValueError, r"widths\[0\] is 0, expected 1 or more"),
        ([3.0, 2], [1, 2], TypeError, r"widths\[0\] is 3.0, expected a whole number"),
        ([3, 2], [1, True], TypeError, r"active\[1\] is True, expected a whole number"),
    ],
)
def test_bad_widths(widths, active, error, message: str) -> None:
    with pytest.raises(error, match=message):
        emergence(widths, active)


@pytest.mark.parametrize(
    ("masks", "active", "error", "message"),
    [
        (
            [np.ones((2, 3))],
            [3, 2],
            TypeError,
            r"active\[0\] has dtype int64, expected bool.*a count does",
        ),
        (
            [np.ones((2, 3))],
            [ON3, [1, 0]],
            TypeError,
            r"active\[1\] has dtype int64, expected bool",
        ),
        ([np.ones((3, 2))], [ON3, ON2], ValueError, r"masks\[0\] has shape \(3, 2\), expected \(2"),
        ([np.ones(6)], [ON3, ON2], ValueError, r"masks\[0\] has shape \(6,\), expected \(2, 3\)"),
        ([np.full((2, 3), 0.5)], [ON3, ON2], ValueError, r"masks\[0\] is 0.5 .* expected only 0"),
        ([np.full((2, 3), np.nan)], [ON3, ON2], ValueError, r"masks\[0\] is nan"),
        ([np.full((2, 3), "1")], [ON3, ON2], TypeError, r"masks\[0\] has dtype <U1"),
        ([], [ON3, ON2], ValueError, "masks has length 0, expected 1, one for each pair"),
        ([], [], ValueError, "emergence_of_masks: active is empty"),
        ([], [np.ones(0, bool)], ValueError, r"active\[0\] has shape \(0,\), expected one node"),
        ([], [np.bool(True)], ValueError, r"active\[0\] has shape \(\), expected one node"),
        (
            [ConvMask(np.ones((1, 1, 2, 2)))],
            [np.ones((1, 3, 3), bool), np.ones((1, 3, 3), bool)],
            ValueError,
            r"masks\[0\] leads from nodes of shape \(1, 3, 3\) to \(1, 2, 2\), expected \(1, 3",
        ),
        (
            [ConvMask(np.ones((1, 2, 2, 2)))],
            [np.ones((1, 3, 3), bool), np.ones((1, 2, 2), bool)],
            ValueError,
            r"ConvMask: nodes have shape \(1, 3, 3\), expected \(2, H, W\)",
        ),
        (
            [ConvMask(np.ones((1, 1, 4, 4)))],
            [np.ones((1, 3, 3), bool), np.ones((1, 1, 1), bool)],
            ValueError,
            "does not fit into nodes of shape",
        ),
    ],
)
def test_bad_masks(masks, active, error, message: str) -> None:
    with pytest.raises(error, match=message):
        emergence_of_masks(masks, active)


def test_bad_conv_masks() -> None:
    with pytest.raises(
        ValueError, match=r"ConvMask: kernel has shape \(2, 2\), expected \(out, in"
    ):
        ConvMask(np.ones((2, 2)))
    with pytest.raises(ValueError, match=r"ConvMask: kernel is 0.3 at .*, expected only 0 and 1"):
        ConvMask(np.full((1, 1, 1, 1), 0.3))
    with pytest.raises(ValueError, match="ConvMask: stride is 0, expected 1 or more"):
        ConvMask(np.ones((1, 1, 1, 1)), stride=0)
    with pytest.raises(TypeError, match=r"ConvMask: padding is 0.5, expected a whole number"):
        ConvMask(np.ones((1, 1, 1, 1)), padding=0.5)
    with pytest.raises(ValueError, match="pool_mask: size is 0"):
        pool_mask(1, 0)


def test_bad_graphs() -> None:
    with pytest.raises(
        ValueError, match="leads from 'a' to 'b', expected a node of the graph; add it"
    ):
        emergence_of_graph({"a": ["b"]}, set())
    with pytest.raises(ValueError, match="node 'a' has an edge twice"):
        emergence_of_graph({"a": ["b", "b"], "b": []}, set())
    with pytest.raises(ValueError, match="active holds 'z', expected nodes of the graph"):
        emergence_of_graph({"a": []}, {"z"})


@pytest.mark.parametrize(
    "count",
    [
        lambda form: emergence([1], [1], form=form),
        lambda form: emergence_of_masks([], [ON2], form=form),
        lambda form: emergence_of_graph({}, [], form=form),
    ],
    ids=["widths", "masks", "graph"],
)
def test_bad_form(count) -> None:
    with pytest.raises(ValueError, match=r"""form is 'a', expected "A" or "B"$"""):
        count("a")


def test_bad_activations() -> None:
    with pytest.raises(ValueError, match=r"active_nodes: z is nan at \[0, 1\]"):
        active_nodes(np.array([[0.0, np.nan]]))
    with pytest.raises(ValueError, match="threshold is nan"):
        active_counts(np.ones((1, 1)), np.nan)
    with pytest.raises(TypeError, match=r"active_nodes: threshold is '0.05', expected a number"):
        active_nodes(np.ones((1, 1)), "0.05")
    with pytest.raises(ValueError, match=r"""per is 'neuron', expected "batch" or "sample"$"""):
        active_counts(np.ones((1, 1)), per="neuron")


def test_bad_relative_emergence() -> None:
    with pytest.raises(
        ValueError, match="relative_emergence: parameters is 0, expected 1 or more"
    ):
        relative_emergence(5, 0)
    with pytest.raises(TypeError, match=r"relative_emergence: value is 5.0, expected a whole"):
        relative_emergence(5.0, 1)
    with pytest.raises(OverflowError, match=r"above float64's largest number.*Fraction"):
        relative_emergence(10**400, 3)


@pytest.mark.parametrize(
    ("weights", "fraction", "error", "message"),
    [
        (np.ones((2, 2)), 0.5, TypeError, "weights is a ndarray, expected a list of arrays"),
        ([], 0.5, ValueError, "weights is empty, expected an array at least"),
        ([np.ones(2)], 1.5, ValueError, "fraction is 1.5, expected 0 <= fraction <= 1"),
        ([np.ones(2)], np.nan, ValueError, "fraction is nan, expected 0 <= fraction <= 1"),
        ([np.ones(2)], True, TypeError, "fraction is True, expected a number"),
        ([np.ones(2), np.array([np.inf])], 0.5, ValueError, r"weights\[1\] is inf at .*, exp"),
        ([np.ones(2), np.array(["a"])], 0.5, TypeError, r"weights\[1\] has dtype <U1"),
    ],
)
def test_bad_weights(weights, fraction, error, message: str) -> None:
    with pytest.raises(error, match=f"prune_by_magnitude: {message}"):
        prune_by_magnitude(weights, fraction)


def test_bad_scope() -> None:
    with pytest.raises(ValueError, match=r"""scope is 'all', expected "layer" or "global"$"""):
        prune_by_magnitude([np.ones(2)], 0.5, scope="all")


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [*((bad, "a finite number above 0") for bad in (0, -2.0, np.nan, np.inf)),
     *((bad, "a positive number whose power 2") for bad in (1e-200, 1e200))],
)
def test_bad_alpha(alpha: float, expected: str) -> None:
    with pytest.raises(ValueError, match=f"alpha is .*, expected {expected}"):
        initialise_by_distance([(2, 2)] * 4, alpha, rng=np.random.default_rng(0))


def test_bad_shapes() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(
        ValueError, match=r"shapes\[1\] is \(2,\), expected \(out, in\).*no biases"
    ):
        initialise_by_distance([(2, 2), (2,)], 2, rng=rng)
    with pytest.raises(ValueError, match=r"shapes\[0\]\[1\] is 0, expected 1 or more"):
        initialise_by_distance([(2, 0)], 2, rng=rng)
    with pytest.raises(TypeError, match="alpha is '2', expected a number"):
        initialise_by_distance([(2, 2)], "2", rng=rng)


@pytest.mark.gpu
def test_on_the_gpu() -> None:
    from minimono.backend import to_device, to_host

    rng = np.random.default_rng(19)
    z = [rng.normal(0, 0.2, (8, n)).astype(np.float32) for n in (9, 7)]
    weights = [rng.integers(-4, 4, (7, 9)), rng.integers(-4, 4, (5, 7))]
    there = [to_device(w, "cuda") for w in weights]
    for scope in ("layer", "global"):
        for a, b in zip(
            prune_by_magnitude(weights, 0.4, scope=scope),
            prune_by_magnitude(there, 0.4, scope=scope),
            strict=True,
        ):
            np.testing.assert_array_equal(a, to_host(b))
    masks = prune_by_magnitude(there[:1], 0.4)
    active = [active_nodes(to_device(layer, "cuda")) for layer in z]
    assert emergence_of_masks(masks, active) == emergence_of_masks(
        prune_by_magnitude(weights[:1], 0.4), [active_nodes(layer) for layer in z]
    )


def test_the_mean_over_the_batch_is_taken_in_float64() -> None:
    z = np.array([[1e8], [1.0], [-1e8]], dtype=np.float32)  # in float32 the 1 is lost
    assert active_nodes(z).tolist() == [True]


def test_a_kernel_as_large_as_the_picture_fits() -> None:
    conv = ConvMask(np.ones((1, 1, 2, 3)), padding=np.int64(0))
    assert type(conv.padding) is int
    assert conv.output_shape((1, 2, 3)) == (1, 1, 1)
    inactive, active = np.zeros((1, 2, 3), bool), np.ones((1, 1, 1), bool)
    assert emergence_of_masks([conv], [inactive, active]) == 6


def test_pruning_gives_booleans() -> None:
    for scope in ("layer", "global"):
        (mask,) = prune_by_magnitude([np.array([0.1, 0.2])], 0.5, scope=scope)
        assert mask.dtype == bool


def test_alpha_of_0_is_refused_for_one_layer_too() -> None:
    with pytest.raises(ValueError, match=r"alpha is 0\.0, expected a finite number above 0"):
        initialise_by_distance([(2, 2)], 0.0, rng=np.random.default_rng(0))
