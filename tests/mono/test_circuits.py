"""Circuits against closed forms, brute force by positions, explicit Jacobians, other libraries."""

import itertools
import math
import tracemalloc
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import minimono as mm
from minimono.engine import functional as F
from minimono.mono import (
    alignment,
    circuit_attribution,
    circuit_attribution_between,
    circuits,
    cluster_distances,
    cluster_purity,
    mean_over_positions,
    reference_samples,
    route,
    split_weights,
    virtual_activations,
    virtual_neurons,
)
from minimono.nn import FeedForward, LayerNorm, MultiHeadAttention, Sequential, Tap, taps
from minimono.nn.module import attachments

few = settings(max_examples=50)


def shares(relevance: np.ndarray) -> np.ndarray:
    return relevance / (abs(relevance).sum(axis=1, keepdims=True) + 1e-10)


def dense(weight: np.ndarray, bias: np.ndarray):
    w, b = mm.tensor(weight), mm.tensor(bias)
    return lambda x: F.relu(F.linear(x, w, b))


# ------------------------------------------------------------------------------------- attribution


@given(st.integers(0, 10_000))
@few
def test_one_dense_unit_has_the_closed_form(seed: int) -> None:
    """rho_c = w_c x_c / (sum |w x| + 1e-10 / relu(a)): in exact rational arithmetic."""
    rng = np.random.default_rng(seed)
    w, b, x = rng.standard_normal((3, 5)), rng.standard_normal(3), rng.standard_normal((4, 5))
    rho = circuit_attribution(x, dense(w, b), 1)
    for sample, row in zip(x, rho, strict=True):
        products = [Fraction(p) * Fraction(q) for p, q in zip(w[1], sample, strict=True)]
        a = sum(products) + Fraction(b[1])
        if a <= Fraction(1, 1000):
            assert a > 0 or (row == 0).all()
            continue
        total = sum(map(abs, products)) + Fraction(1, 10**10) / a
        expected = [float(p / total) for p in products]
        # The error of a, which a sum of larger numbers leaves, enters through the 1e-10 only.
        np.testing.assert_allclose(row, expected, rtol=1e-13, atol=1e-15)
        assert abs(row).sum() == pytest.approx(1.0, abs=1e-6)


def test_whole_numbers_give_rho_to_the_last_bit() -> None:
    w, x = np.array([[2.0, -1.0, 0.0, 3.0]]), np.array([[5.0, 4.0, 9.0, 1.0], [0.0, 7.0, 1.0, 0.0]])
    rho = circuit_attribution(x, dense(w, np.zeros(1)), 0)
    r = 9.0  # relu(10 - 4 + 3)
    np.testing.assert_array_equal(rho[0], np.array([10, -4, 0, 3]) * r / (17 * r + 1e-10))
    np.testing.assert_array_equal(rho[1], 0.0)  # the neuron is off


def by_positions(x: np.ndarray, w: np.ndarray, b: float, padding: int) -> np.ndarray:
    """R_c = sum_q relu(a_q) sum_p w x of a convolution's channel, one position at a time."""
    B, C, rows, columns = x.shape
    _, height, width = w.shape
    relevance = np.zeros((B, C))
    for n, qy, qx in itertools.product(
        range(B), range(rows + 2 * padding - height + 1), range(columns + 2 * padding - width + 1)
    ):
        parts = np.zeros(C)
        for c, i, j in itertools.product(range(C), range(height), range(width)):
            y, z = qy + i - padding, qx + j - padding
            if 0 <= y < rows and 0 <= z < columns:
                parts[c] += w[c, i, j] * x[n, c, y, z]
        relevance[n] += max(parts.sum() + b, 0.0) * parts
    return relevance


@pytest.mark.parametrize("padding", [0, 1])
def test_convolution_by_positions(padding: int) -> None:
    """Small whole numbers, so both ways are exact."""
    rng = np.random.default_rng(padding)
    x = rng.integers(-3, 4, (3, 2, 4, 5)).astype(float)
    w, b = rng.integers(-2, 3, (4, 2, 3, 2)).astype(float), rng.integers(-2, 3, 4).astype(float)
    weight, bias = mm.tensor(w), mm.tensor(b)

    def layer(x):
        return F.relu(F.conv2d(x, weight, bias, padding=padding))

    for channel in range(4):
        expected = shares(by_positions(x, w[channel], b[channel], padding))
        np.testing.assert_array_equal(circuit_attribution(x, layer, channel), expected)


def jacobian(f, x: np.ndarray) -> np.ndarray:
    """d f_q / d x by central differences of two step sizes: (*f.shape, *x.shape), error ~ h^4."""
    columns = []
    for index in np.ndindex(x.shape):
        slopes = []
        for h in (1e-3, 2e-3):
            step = np.zeros_like(x)
            step[index] = h
            slopes.append((f(x + step) - f(x - step)) / (2 * h))
        columns.append((4 * slopes[0] - slopes[1]) / 3)
    return np.moveaxis(np.array(columns), 0, -1).reshape(*columns[0].shape, *x.shape)


def test_attention_then_mlp_is_the_definition_with_an_explicit_jacobian() -> None:
    """R_c = sum_p x_pc sum_q relu(a_q) d a_q / d x_pc, where attention mixes the positions."""
    rng = np.random.default_rng(3)
    C, kind = 4, {"rng": rng, "dtype": np.float64}
    attention, norm = MultiHeadAttention(C, 2, **kind), LayerNorm(C, dtype=np.float64)
    mlp = FeedForward(C, 6, activation="gelu", **kind).eval()

    def layer(x):
        return mlp.activation(mlp.up(norm(x + attention(x))))

    x = rng.standard_normal((2, 3, C))
    a = layer(mm.tensor(x)).data  # (B, T, 6)
    slopes = [jacobian(lambda x: layer(mm.tensor(x[None])).data[0], sample) for sample in x]
    assert slopes[0].shape == (3, 6, 3, C)  # upper position and neuron, lower position and channel
    on = 0
    for k in range(6):
        rho = circuit_attribution(x, layer, k, channel_axis=-1)
        for n in range(2):
            start = np.maximum(a[n, :, k], 0.0)
            relevance = np.einsum("q,qpc,pc->c", start, slopes[n][:, k], x[n])
            np.testing.assert_allclose(rho[n], shares(relevance[None])[0], rtol=0, atol=1e-9)
            on += start.any()
    assert on >= 4


def test_axes_are_only_a_layout() -> None:
    rng = np.random.default_rng(0)
    w, b, x = rng.standard_normal((6, 4)), rng.standard_normal(6), rng.standard_normal((3, 5, 4))
    last = circuit_attribution(x, dense(w, b), 2, channel_axis=-1)

    def second(x):
        return dense(w, b)(x.swapaxes(1, 2)).swapaxes(1, 2)

    np.testing.assert_array_equal(circuit_attribution(x.swapaxes(1, 2), second, 2), last)


def test_leaves_no_gradients_and_works_without_a_tape() -> None:
    layer = mm.nn.Linear(3, 2, rng=np.random.default_rng(0))
    x = mm.tensor(np.ones((1, 3), np.float32), requires_grad=True)
    rho = circuit_attribution(x, layer, 0)
    assert layer.weight.grad is None
    assert x.grad is None
    with mm.no_grad():
        np.testing.assert_array_equal(circuit_attribution(x, layer, 0), rho)


def test_many_samples_are_multiplied_part_by_part(monkeypatch) -> None:
    """At the peak: x and its gradient, the layer's tape; nothing of all samples in float64."""
    x = np.random.default_rng(6).standard_normal((20_000, 5, 4)).astype(np.float32)
    w = mm.tensor(np.ones((1, 5), np.float32))
    want = circuit_attribution(x, lambda x: w @ x, 0)
    monkeypatch.setattr(circuits, "TOGETHER", 7000)  # of 350 samples; the last part is shorter
    tracemalloc.start()
    got = circuit_attribution(x, lambda x: w @ x, 0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_array_equal(got, want)
    assert peak < 3 * x.nbytes
    batches = [circuit_attribution(part, lambda x: w @ x, 0) for part in np.split(x, 5)]
    np.testing.assert_allclose(np.concatenate(batches), want, rtol=0, atol=1e-6)


def test_between_taps_is_the_layer_in_between() -> None:
    rng = np.random.default_rng(1)
    model = mm.models.ConvNet(
        image=(1, 8, 8), channels=(3, 4), classes=2, rng=rng, dtype=np.float64
    )
    images = rng.standard_normal((5, 1, 8, 8))
    with taps.read(model, "stage.0.out") as seen:
        model(mm.tensor(images))
    upper = model.stage[1]
    for channel in range(4):
        np.testing.assert_array_equal(
            circuit_attribution_between(model, images, "stage.0.out", "stage.1.act", channel),
            circuit_attribution(seen["stage.0.out"], lambda x: F.relu(upper.conv(x)), channel),
        )


def test_between_taps_of_a_transformer() -> None:
    rng = np.random.default_rng(2)
    model = mm.models.ViT(
        image=(1, 4, 4), patch=2, window=2, channels=4, heads=2, layers=1, classes=3, rng=rng,
        dtype=np.float64,
    )
    images = rng.standard_normal((2, 1, 4, 4))
    with taps.read(model, "embedded") as seen:
        model(mm.tensor(images))
    block = model.block[0]

    def layer(x):
        x = x + block.attention(block.norm1(x))
        return block.mlp.activation(block.mlp.up(block.norm2(x)))

    np.testing.assert_array_equal(
        circuit_attribution_between(model, images, "embedded", "block.0.mlp.act", 7),
        circuit_attribution(seen["embedded"], layer, 7, channel_axis=-1),
    )


def test_between_taps_leaves_the_model_as_it_was() -> None:
    rng = np.random.default_rng(0)
    model = mm.models.MLP((4, 5, 6, 2), rng=rng)
    inhibition = mm.mono.MEmeL(k=1)
    taps.insert(model, "hidden.0.act", inhibition)
    model.hidden[1].eval()
    circuit_attribution_between(model, np.ones((3, 4), np.float32), "hidden.0.act", "*.1.act", 0)
    assert inhibition.tracker.batches_seen == 0
    assert model.training
    assert inhibition.training
    assert not model.hidden[1].training
    assert all(p.grad is None for p in model.parameters())
    assert attachments.get() == ()


def test_between_taps_refuses_what_it_cannot_attribute() -> None:
    rng = np.random.default_rng(0)
    model = mm.models.MLP((4, 5, 6, 2), rng=rng)
    x = np.ones((3, 4), np.float32)
    with pytest.raises(ValueError, match=r"does not depend on x.*lower of the two layers"):
        circuit_attribution_between(model, x, "hidden.1.act", "hidden.0.act", 0)
    with pytest.raises(ValueError, match=r"2 activations passed 'hidden\.\*'"):
        circuit_attribution_between(model, x, "hidden.*", "hidden.1.act", 0)
    with pytest.raises(ValueError, match=r"0 taps match 'nowhere'"):
        circuit_attribution_between(model, x, "nowhere", "hidden.1.act", 0)

    class Twice(mm.nn.Module):
        def __init__(self):
            self.tap = Tap()

        def forward(self, x):
            return self.tap(self.tap(x) * 2.0)

    with pytest.raises(ValueError, match="2 activations passed 'tap'"):
        circuit_attribution_between(Twice(), x, "tap", "tap", 0)

    class Mixed(mm.nn.Module):
        def __init__(self):
            self.image, self.sequence = Tap(), Tap()

        def forward(self, x):
            return self.sequence(self.image(x).reshape(len(x), 2, 4))  # (B, 2, 2, 2) -> (B, 2, 4)

    with pytest.raises(ValueError, match="one a sequence"):
        circuit_attribution_between(Mixed(), np.ones((1, 2, 2, 2)), "image", "sequence", 0)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"channel": 3}, ValueError, r"channel is 3, expected at most 2, the last on axis 1"),
        ({"channel": -1}, ValueError, "channel is -1"),
        ({"channel": 1.0}, TypeError, "channel is 1.0"),
        ({"channel_axis": 0}, ValueError, "channel_axis is 0, expected an axis"),
        ({"channel_axis": 2}, ValueError, r"channel_axis is 2, expected .* shape \(2, 4\)"),
        ({"x": np.array([[1.0, 1, 1, 1], [1, np.nan, 1, 1]])}, ValueError, r"x is nan at \[1, 1\]"),
        ({"x": np.ones(4)}, ValueError, r"expected \(B, C, \.\.\.\)"),
        ({"x": np.ones((2, 4), complex)}, TypeError, "complex"),
        ({"layer": lambda x: x.data}, TypeError, "ndarray, expected a Tensor"),
        ({"layer": lambda x: x.sum(axis=0)}, ValueError, r"layer\(x\) has shape \(4,\)"),
        ({"layer": lambda x: x[:1]}, ValueError, r"expected \(2, channels"),
        ({"layer": lambda x: mm.tensor(x.data)}, ValueError, "does not depend on x"),
        ({"layer": lambda x: x * 1e200}, ValueError, "too large in .* squares float64 can hold"),
        ({"layer": lambda x: x.astype("float32") * 1e20}, ValueError, "squares float32 can hold"),
        ({"layer": lambda x: x * math.inf}, ValueError, r"layer\(x\) is inf at \[0, 0\]"),
    ],
)
def test_attribution_refuses(change: dict, error: type, message: str) -> None:
    arguments = {"x": np.ones((2, 4)), "layer": dense(np.ones((3, 4)), np.zeros(3)), "channel": 0}
    with pytest.raises(error, match=message):
        circuit_attribution(**(arguments | change))


@pytest.mark.parity
def test_attribution_against_pytorch() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(5)
    model = mm.models.ConvNet(
        image=(2, 8, 8), channels=(3, 5), classes=2, rng=rng, dtype=np.float64
    )
    images = rng.standard_normal((4, 2, 8, 8))
    conv = [
        (torch.tensor(stage.conv.weight.data), torch.tensor(stage.conv.bias.data))
        for stage in model.stage
    ]
    functional = torch.nn.functional
    lower = functional.relu(functional.conv2d(torch.tensor(images), *conv[0], padding=1))
    lower.requires_grad_()
    upper = functional.relu(
        functional.conv2d(functional.max_pool2d(lower, 2), *conv[1], padding=1)
    )
    for channel in range(5):
        # Seeded by hand, as the authors do: cotangent relu(a) on the neuron's own channel.
        cotangent = torch.zeros_like(upper)
        cotangent[:, channel] = upper[:, channel].detach()
        [slope] = torch.autograd.grad(upper, lower, cotangent, retain_graph=True)
        expected = shares((lower * slope).sum(dim=(2, 3)).detach().numpy())
        rho = circuit_attribution_between(model, images, "stage.0.act", "stage.1.act", channel)
        np.testing.assert_allclose(rho, expected, rtol=0, atol=1e-14)


# ------------------------------------------------------------------------------- reference samples


def test_reference_samples_are_by_the_highest_position_and_stable() -> None:
    z = np.zeros((5, 2, 2, 2))
    z[0, 1, 0, 0], z[1, 1, 1, 1], z[3, 1, 0, 1], z[4, 1] = 2.0, 5.0, 5.0, 1.0
    np.testing.assert_array_equal(reference_samples(z, 1, n=4), [1, 3, 0, 4])
    sequence = np.moveaxis(z.reshape(5, 2, 4), 1, 2)  # (5, 2, 2, 2) -> (5, 4, 2)
    chosen = reference_samples(mm.tensor(sequence), 1, n=3, channel_axis=-1)
    np.testing.assert_array_equal(chosen, [1, 3, 0])
    tied = 1.0 + np.arange(200)[:, None] % 2
    in_order = [*range(1, 200, 2), *range(0, 100, 2)]
    np.testing.assert_array_equal(reference_samples(tied, 0, n=150), in_order)
    with pytest.raises(ValueError, match="only 4 of 5 inputs activate channel 1 above 0"):
        reference_samples(z, 1, n=5)
    with pytest.raises(ValueError, match="only 0 of 5"):
        reference_samples(z, 0, n=1)


def test_mean_over_positions() -> None:
    z = np.arange(24.0).reshape(2, 3, 2, 2)
    np.testing.assert_array_equal(mean_over_positions(z), [[1.5, 5.5, 9.5], [13.5, 17.5, 21.5]])
    sequence = mean_over_positions(np.moveaxis(z, 1, -1), channel_axis=-1)
    np.testing.assert_array_equal(sequence, mean_over_positions(z))
    np.testing.assert_array_equal(mean_over_positions(z[:, :, 0, 0]), z[:, :, 0, 0])


# --------------------------------------------------------------------------------- virtual neurons


def lowest_inertia(points: np.ndarray, k: int) -> float:
    """By all ways to share points out to k clusters."""
    best = math.inf
    for labels in itertools.product(range(k), repeat=len(points) - 1):
        labels = np.array([0, *labels])
        clusters = [points[labels == c] for c in range(k)]
        best = min(best, sum(((c - c.mean(axis=0)) ** 2).sum() for c in clusters if len(c)))
    return best


@pytest.mark.parametrize(("n", "k"), [(8, 2), (6, 3)])
def test_the_best_of_many_starts_is_the_best_of_all_partitions(n: int, k: int) -> None:
    for seed in range(6):
        rng = np.random.default_rng(seed)
        points = rng.standard_normal((n, 2))
        best = lowest_inertia(points, k)
        assert virtual_neurons(points, k, rng=rng).inertia >= best - 1e-12
        many = virtual_neurons(points, k, rng=rng, starts=60).inertia
        assert many == pytest.approx(best, rel=1e-12)


POINTS = hnp.arrays(
    np.float64, st.tuples(st.integers(3, 14), st.integers(1, 3)), elements=st.integers(0, 3)
)


@given(POINTS, st.integers(1, 4), st.integers(0, 100))
@few
def test_labels_centroids_and_inertia_belong_together(
    points: np.ndarray, k: int, seed: int
) -> None:
    """On a grid, where many points coincide and clusters run empty."""
    rng = np.random.default_rng(seed)
    different = len(np.unique(points, axis=0))
    if different < k:
        with pytest.raises(ValueError, match="rows that differ"):
            virtual_neurons(points, k, rng=rng)
        return
    labels, centroids, inertia = virtual_neurons(points, k, rng=rng, starts=1)
    assert set(labels.tolist()) == set(range(k))  # none is empty
    for c in range(k):
        np.testing.assert_allclose(centroids[c], points[labels == c].mean(axis=0), rtol=1e-14)
    assert inertia == pytest.approx(((points - centroids[labels]) ** 2).sum(), rel=1e-12)
    np.testing.assert_array_equal(route(points, centroids), labels)


def test_an_empty_cluster_starts_anew() -> None:
    from minimono.mono.clusters import _lloyd

    points = np.array([[0.0], [1.0], [2.0], [10.0]])
    labels, centroids, inertia = _lloyd(points, np.array([[1.0], [99.0], [77.0]]))
    assert set(labels.tolist()) == {0, 1, 2}
    assert inertia == 0.5
    np.testing.assert_array_equal(np.sort(centroids[:, 0]), [0.0, 1.5, 10.0])


def test_the_generator_decides_and_more_clusters_fit_better() -> None:
    points = np.random.default_rng(0).standard_normal((60, 3))
    first, again = (virtual_neurons(points, 3, rng=np.random.default_rng(7)) for _ in range(2))
    np.testing.assert_array_equal(first.labels, again.labels)
    assert first.inertia == again.inertia
    inertias = [virtual_neurons(points, k, rng=np.random.default_rng(1)).inertia for k in (1, 2, 4)]
    assert inertias == sorted(inertias, reverse=True)
    assert inertias[0] == pytest.approx(((points - points.mean(axis=0)) ** 2).sum())


def test_inertia_against_scikit_learn() -> None:
    cluster = pytest.importorskip("sklearn.cluster")
    ratios = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        middles = 3.0 * rng.standard_normal((3, 5))
        apart = middles[rng.integers(3, size=80)] + 0.3 * rng.standard_normal((80, 5))
        for points, k, sure in ((apart, 3, True), (rng.standard_normal((80, 5)), 4, False)):
            ours = virtual_neurons(points, k, rng=rng).inertia
            theirs = cluster.KMeans(k, n_init=10, random_state=seed).fit(points).inertia_
            if sure:
                assert ours == pytest.approx(theirs, rel=1e-9)
            ratios.append(ours / theirs)
    # Without clusters both stop in one of many valleys: neither should be worse on average.
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.005)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"k": 0}, ValueError, "k is 0"),
        ({"k": 2.0}, TypeError, "k is 2.0"),
        ({"k": 4}, ValueError, r"k is 4, but rho \(3, 2\) has only 3 rows that differ"),
        ({"starts": 0}, ValueError, "starts is 0"),
        ({"rho": np.ones((3, 2))}, ValueError, "only 1 rows that differ"),
        ({"rho": np.ones(3)}, ValueError, r"expected \(B, C"),
        ({"rho": np.ones((2, 2, 2))}, ValueError, r"expected \(B, C\)"),
        ({"rho": np.array([[1.0, np.inf]])}, ValueError, "is inf"),
        ({"rho": np.array([[1.0, 1e160]]), "k": 1}, ValueError, "too large"),
    ],
)
def test_virtual_neurons_refuse(change: dict, error: type, message: str) -> None:
    arguments = {"rho": np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]), "k": 2}
    with pytest.raises(error, match=message):
        virtual_neurons(**(arguments | change), rng=np.random.default_rng(0))


def test_route_gives_ties_to_the_first_and_checks_channels() -> None:
    np.testing.assert_array_equal(route([[0.5, 0.5]], [[1.0, 0.0], [0.0, 1.0]]), [0])
    with pytest.raises(ValueError, match=r"centroids has shape \(2, 2\), expected \(2, 3\), with"):
        route(np.ones((1, 3)), np.eye(2))


def test_a_planted_neuron_comes_apart_and_its_parts_add_up() -> None:
    """Two kinds of input reach one neuron through different channels."""
    rng = np.random.default_rng(0)
    truth = rng.integers(2, size=50)
    x = 0.1 * rng.random((50, 4, 3, 3))
    x[np.arange(50), 2 * truth, 1, 1] += 1.0  # kind 0 in channel 0, kind 1 in channel 2
    weight = mm.tensor(rng.random((3, 4, 3, 3)))

    def layer(x):
        return F.relu(F.conv2d(x, weight, padding=1))

    rho = circuit_attribution(x, layer, 1)
    found = virtual_neurons(rho, rng=rng)
    assert cluster_purity(found.labels, truth) == 1.0
    parts = virtual_activations(x, layer, 1, found.centroids)
    neuron = layer(mm.tensor(x)).data[:, 1]
    assert parts.shape == (50, 2, 3, 3)
    np.testing.assert_array_equal(parts.sum(axis=1), neuron)
    for virtual in range(2):
        kept, here = parts[:, virtual], found.labels == virtual
        np.testing.assert_array_equal(kept[here], neuron[here])
        np.testing.assert_array_equal(kept[~here], 0.0)


def test_virtual_activations_of_sequences() -> None:
    rng = np.random.default_rng(1)
    layer, x = dense(rng.random((3, 4)), np.zeros(3)), rng.random((6, 5, 4))
    parts = virtual_activations(x, layer, 2, rng.random((3, 4)), channel_axis=-1)
    assert parts.shape == (6, 3, 5)
    np.testing.assert_array_equal(parts.sum(axis=1), layer(mm.tensor(x)).data[..., 2])


# ----------------------------------------------------------------------------------- split weights


@given(st.integers(0, 10_000), st.sampled_from([0.05, 0.3, 0.7, 1.0]))
@few
def test_the_parts_are_the_neuron_bit_for_bit(seed: int, ratio: float) -> None:
    """Also for weights near the largest number, negative relevances and ties."""
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((5, 2, 3)) * 10.0 ** rng.choice([-300, 0, 307], (5, 2, 3))
    relevance_1, relevance_2 = rng.integers(-3, 4, (2, 5)) / 4
    first, second, overlap = split_weights(w, relevance_1, relevance_2, ratio)
    np.testing.assert_array_equal(first + (second - overlap), w)
    for c in range(5):  # the rule, one channel at a time, as the authors' if and elif
        owner = "both"
        if relevance_1[c] * ratio > relevance_2[c]:
            owner = "first"
        elif relevance_2[c] * ratio > relevance_1[c]:
            owner = "second"
        np.testing.assert_array_equal(first[c], 0 if owner == "second" else w[c])
        np.testing.assert_array_equal(second[c], 0 if owner == "first" else w[c])
        np.testing.assert_array_equal(overlap[c], w[c] if owner == "both" else 0)


def test_the_outputs_of_the_parts_add_up() -> None:
    """For whole numbers without rounding, the bias in all three."""
    rng = np.random.default_rng(0)
    w, x = rng.integers(-3, 4, (4, 3, 3)).astype(float), rng.integers(0, 5, (2, 4, 6, 6))
    parts = split_weights(w, rng.random(4), rng.random(4), 0.6)
    x, bias = mm.tensor(x.astype(float)), mm.tensor([2.0])
    a, b, both, whole = (
        F.conv2d(x, mm.tensor(part[None]), bias).data for part in (*parts, w)
    )
    np.testing.assert_array_equal(a + b - both, whole)


def test_a_smaller_ratio_shares_more() -> None:
    rng = np.random.default_rng(0)
    w, one, two = np.ones(200), rng.random(200), rng.random(200)
    shared = [int(split_weights(w, one, two, r).overlap.sum()) for r in (1.0, 0.5, 0.1)]
    assert shared[0] == 0 < shared[1] < shared[2] < 200


def test_split_weights_leaves_its_input_and_refuses() -> None:
    w, one, two = np.ones((2, 3)), np.array([1.0, 0.0]), np.array([0.0, 1.0])
    split_weights(w, one, two)
    assert (w == 1).all()
    with pytest.raises(ValueError, match=r"relevance_1 has shape \(3,\)"):
        split_weights(w, np.ones(3), two)
    with pytest.raises(ValueError, match=r"relevance_2 is nan at \[1\]"):
        split_weights(w, one, np.array([0.0, np.nan]))
    for ratio in (0.0, 1.5, -1.0, math.nan):
        with pytest.raises(ValueError, match="expected 0 < ratio <= 1"):
            split_weights(w, one, two, ratio)
    with pytest.raises(TypeError, match="ratio is True"):
        split_weights(w, one, two, True)


# -------------------------------------------------------------------------------------- evaluation


@given(st.integers(0, 1000))
@few
def test_distances_and_alignment_pair_by_pair(seed: int) -> None:
    rng = np.random.default_rng(seed)
    e, rho, labels = rng.random((7, 3)), rng.random((7, 2)), np.array([0, 0, 1, 1, 1, 2, 2])
    within, between, e_all, rho_all = [], [], [], []
    for i, j in itertools.combinations(range(7), 2):
        d = math.dist(e[i], e[j])
        (within if labels[i] == labels[j] else between).append(d)
        e_all.append(d)
        rho_all.append(math.dist(rho[i], rho[j]))
    intra, inter = cluster_distances(e, labels)
    assert intra == pytest.approx(np.mean(within))
    assert inter == pytest.approx(np.mean(between))
    assert alignment(rho, e) == pytest.approx(np.corrcoef(rho_all, e_all)[0, 1], abs=1e-12)


@pytest.mark.parametrize("scale", [2.0**-470, 1.0, 2.0**470])
def test_alignment_to_the_last_digits_at_any_scale(scale: float) -> None:
    rng = np.random.default_rng(8)
    rho, e = rng.integers(-9, 9, (12, 2)).astype(float), rng.integers(-9, 9, (12, 3)).astype(float)
    with mpmath.workdps(50):
        a, b = (
            [mpmath.norm(mpmath.matrix((x - y).tolist())) for x, y in itertools.combinations(p, 2)]
            for p in (rho, e)
        )
        a, b = ([x - mpmath.fsum(d) / len(d) for x in d] for d in (a, b))
        want = mpmath.fdot(a, b) / mpmath.sqrt(mpmath.fdot(a, a) * mpmath.fdot(b, b))
    assert alignment(rho * scale, e) == pytest.approx(float(want), abs=1e-15)
    assert alignment(rho, e / scale) == alignment(rho, e)
    assert alignment(rho, rho * scale) == pytest.approx(1, abs=1e-15)


def test_memory_of_distances_is_not_that_of_all_pairs() -> None:
    """The distances of all pairs would be 5.8 MB."""
    e, labels = np.random.default_rng(9).random((1200, 1)), np.arange(1200) % 2
    for function in (lambda: cluster_distances(e, labels), lambda: alignment(e[:, ::-1] ** 2, e)):
        tracemalloc.start()
        function()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 1 << 20


def test_evaluation_where_it_is_undefined() -> None:
    e = np.arange(3.0)[:, None]
    intra, inter = cluster_distances(e, np.zeros(3, int))
    assert intra == pytest.approx(4 / 3)
    assert math.isnan(inter)
    assert math.isnan(cluster_distances(e, np.arange(3)).intra)
    assert math.isnan(alignment(e, np.ones((3, 2))))
    with pytest.raises(ValueError, match=r"rho has shape \(2, 1\), expected 3 samples at least"):
        alignment(e[:2], e[:2])
    with pytest.raises(ValueError, match=r"embeddings has shape \(2, 1\), expected \(3, 1\), a"):
        alignment(e, e[:2])
    with pytest.raises(ValueError, match=r"labels has shape \(2,\), expected \(3,\)"):
        cluster_distances(e, [0, 1])
    with pytest.raises(TypeError, match="expected whole numbers"):
        cluster_distances(e, [0.0, 1.0, 1.0])
    with pytest.raises(ValueError, match="expected 2 samples at least"):
        cluster_distances(e[:1], [0])


def test_purity() -> None:
    assert cluster_purity([1, 1, 0, 0], [0, 0, 1, 1]) == 1.0
    assert cluster_purity([0, 0, 0, 0], [0, 0, 1, 1]) == 0.5
    with pytest.raises(ValueError, match=r"truth has shape \(1,\)"):
        cluster_purity([0, 1], [0])
    with pytest.raises(ValueError, match="labels has shape"):
        cluster_purity(np.zeros(0, int), np.zeros(0, int))


def test_a_sequential_is_a_layer() -> None:
    rng = np.random.default_rng(0)
    layer = Sequential(mm.nn.Linear(4, 3, rng=rng), mm.nn.Activation("relu"))
    assert circuit_attribution(np.ones((2, 4), np.float32), layer, 0).dtype == np.float64
