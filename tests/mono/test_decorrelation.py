"""Feature decorrelation, its penalties, and the superposition proxy.

Each docstring says what is checked and its status: published (the paper), authors' code, derived
(follows by algebra), or our choice.
"""

import math
import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minimono as mm
from minimono.gradcheck import check_grads
from minimono.mono.decorrelation import (
    decorrelation_penalty,
    feature_decorrelation,
    fold_into_linear,
    l1_penalty,
    superposition_proxy,
    superposition_scores,
)

functional = mm.functional


def seeded(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


# --------------------------------------------------------------------- feature_decorrelation


@given(st.integers(0, 2**32 - 1))
def test_decorrelation_by_brute_force(seed: int) -> None:
    """All ordered pairs, one cosine at a time. Published."""
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((rng.integers(2, 6), 2, 3)) * 10.0 ** rng.integers(-100, 100)
    rows = [[float(v) for v in row.ravel()] for row in z]
    N = len(rows)
    cosines = [
        sum((x / math.hypot(*a)) * (y / math.hypot(*b)) for x, y in zip(a, b, strict=True))
        for i, a in enumerate(rows)
        for j, b in enumerate(rows)
        if i != j
    ]
    assert feature_decorrelation(z) == pytest.approx(1 - sum(cosines) / (N * (N - 1)), abs=1e-13)


def test_decorrelation_in_closed_form() -> None:
    """Orthogonal 1, parallel 0, antipodal pair 2, the corners of a simplex N/(N - 1), one
    outlier among N parallel ones 2/N. Derived."""
    assert feature_decorrelation(np.diag([1.0, 2.0, 3.0])) == pytest.approx(1.0, abs=1e-15)
    parallel = np.outer([1.0, 2.0, 5.0], [1, 2, 3])
    assert feature_decorrelation(parallel) == pytest.approx(0.0, abs=1e-15)
    assert feature_decorrelation(np.array([[1.0, 1.0], [-2.0, -2.0]])) == pytest.approx(2.0)
    for N in (2, 3, 7):
        simplex = np.eye(N) - 1 / N
        assert feature_decorrelation(simplex) == pytest.approx(N / (N - 1), rel=1e-14)
        outlier = np.zeros((N, 2))
        outlier[:, 0] = 1.0
        outlier[-1] = [0.0, 3.0]
        assert feature_decorrelation(outlier) == pytest.approx(2 / N, rel=1e-14)


def test_decorrelation_ignores_lengths_and_order() -> None:
    """Each row times a positive number, rows and neurons permuted: the same. Derived."""
    rng = np.random.default_rng(0)
    z = rng.standard_normal((6, 5))
    moved = (z * rng.exponential(size=(6, 1)))[rng.permutation(6)][:, rng.permutation(5)]
    assert feature_decorrelation(moved) == pytest.approx(feature_decorrelation(z), rel=1e-13)
    single = z.astype(np.float32)
    assert feature_decorrelation(single) == feature_decorrelation(single.astype(np.float64))


@pytest.mark.parametrize(
    ("z", "error", "message"),
    [
        (np.ones((1, 3)), ValueError, "z has shape (1, 3), expected (..., n, D) with n of 2"),
        (np.array([[1.0, 2.0], [0.0, 0.0]]), ValueError, "z: length is 0.0 at [1], expected more"),
        (np.array([[1.0], [np.nan]]), ValueError, "z is nan at [1, 0], expected finite numbers"),
        (np.array([["a"]]), TypeError, "feature_decorrelation: z has dtype"),
        (np.ones((0, 3)), ValueError, "a sample and a neuron at least"),
    ],
)
def test_bad_input_of_decorrelation(z, error, message) -> None:
    with pytest.raises(error, match=re.escape(message)):
        feature_decorrelation(z)


# ----------------------------------------------------------------------------- the penalties


@given(st.integers(0, 2**32 - 1))
def test_penalties_against_integers(seed: int) -> None:
    """Every entry of Z Zᵀ - I by hand, in whole numbers. Published; authors' code."""
    rng = np.random.default_rng(seed)
    B, n = (int(v) for v in rng.integers(1, 6, 2))
    whole = rng.integers(-4, 5, (B, n))
    z = whole.astype(float)

    def excess(rows, i, j):
        return sum(int(a) * int(b) for a, b in zip(rows[i], rows[j], strict=True)) - (i == j)

    over = {"samples": whole, "features": whole.T}
    for name, rows in over.items():
        entries = [excess(rows, i, j) ** 2 for i in range(len(rows)) for j in range(len(rows))]
        assert float(decorrelation_penalty(z, over=name)) == sum(entries)
    entries = [excess(abs(whole), i, j) for i in range(B) for j in range(B)]
    authors = float(decorrelation_penalty(z, convention="authors"))
    assert authors == pytest.approx(float(Fraction(sum(entries), B * B)), rel=1e-15, abs=1e-15)
    assert float(l1_penalty(z)) == pytest.approx(float(Fraction(int(abs(whole).sum()), B)))


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 4), (4, 2, 3)])
def test_samples_or_features_differ_by_a_constant(shape) -> None:
    """||Z Zᵀ - I||² - ||Zᵀ Z - I||² = B - neurons for every Z, so the gradients are equal: the
    paper's silence on which of the two it means makes no difference to training. Derived."""
    z = seeded(1, *shape)
    gradients, values = [], []
    for over in ("samples", "features"):
        x = mm.tensor(z, requires_grad=True)
        penalty = decorrelation_penalty(x, over=over)
        penalty.backward()
        gradients.append(x.grad)
        values.append(float(penalty))
    B, n = shape[0], math.prod(shape[1:])
    assert values[0] - values[1] == pytest.approx(B - n, abs=1e-10)
    np.testing.assert_allclose(gradients[0], gradients[1], rtol=1e-10, atol=1e-12)
    rows = z.reshape(B, n)
    by_hand = 4 * (rows @ rows.T - np.eye(B)) @ rows
    np.testing.assert_allclose(gradients[0].reshape(B, n), by_hand, rtol=1e-10, atol=1e-12)


def test_paper_penalty_is_zero_at_orthonormal_rows_only() -> None:
    """Published: the target is Z Zᵀ = I. Scaling orthonormal rows by s gives B (s² - 1)²."""
    rows = np.linalg.qr(seeded(2, 6, 4))[0].T  # (4, 6), orthonormal
    assert float(decorrelation_penalty(rows)) == pytest.approx(0.0, abs=1e-28)
    assert float(decorrelation_penalty(1.5 * rows)) == pytest.approx(4 * (1.5**2 - 1) ** 2)


@given(st.integers(0, 2**32 - 1))
def test_authors_penalty_only_shrinks(seed: int) -> None:
    """It is (||Σ_i |z_i|||² - B)/B²: at least -1/B, its value at Z = 0; orthonormal rows are not
    optimal; any Z times s < 1 is lower. Derived."""
    z = seeded(seed, 4, 5)
    value = float(decorrelation_penalty(z, convention="authors"))
    assert value == pytest.approx(((abs(z).sum(axis=0) ** 2).sum() - 4) / 16, rel=1e-12)
    zero = float(decorrelation_penalty(0 * z, convention="authors"))
    assert zero == -1 / 4
    assert zero < float(decorrelation_penalty(0.5 * z, convention="authors")) < value
    assert float(decorrelation_penalty(np.eye(4), convention="authors")) == 0.0 > zero


@pytest.mark.parametrize(
    "f",
    [
        decorrelation_penalty,
        lambda z: decorrelation_penalty(z, over="features"),
        lambda z: decorrelation_penalty(z, convention="authors"),
        l1_penalty,
    ],
    ids=["samples", "features", "authors", "l1"],
)
def test_penalties_gradcheck_second_order(f) -> None:
    z = seeded(3, 4, 2, 3)
    z += 0.1 * np.sign(z)  # away from the kink of |z|
    check_grads(f, z, order=2)


def test_descent_on_the_paper_penalty_decorrelates() -> None:
    """From rows that point nearly the same way, gradient steps raise FD: published claim."""
    z = 1.0 + 0.1 * seeded(4, 5, 8)
    before = feature_decorrelation(z)
    for _ in range(200):
        x = mm.tensor(z, requires_grad=True)
        decorrelation_penalty(x).backward()
        z = z - 0.005 * x.grad
    assert before < 0.02
    assert feature_decorrelation(z) > 0.95


def test_penalties_keep_the_dtype() -> None:
    z = mm.tensor(seeded(5, 3, 4), dtype=np.float32, requires_grad=True)
    for penalty in (
        decorrelation_penalty(z),
        decorrelation_penalty(z, over="features"),
        decorrelation_penalty(z, convention="authors"),
        l1_penalty(z),
    ):
        assert penalty.dtype == np.float32
        assert penalty.shape == ()
        penalty.backward()
    assert z.grad.dtype == np.float32


@pytest.mark.parametrize(
    ("z", "options", "error", "message"),
    [
        (np.ones((2, 2), int), {}, TypeError, "z has dtype int64"),
        (np.ones(3), {}, ValueError, "z has shape (3,)"),
        (np.ones((0, 3)), {}, ValueError, "z has shape (0, 3)"),
        (np.ones((2, 2)), {"over": "neurons"}, ValueError, "over is 'neurons'"),
        (np.ones((2, 2)), {"convention": "code"}, ValueError, "convention is 'code'"),
        (np.ones((2, 2)), {"over": "features", "convention": "authors"}, ValueError,
         """convention "authors" over is 'features', expected "samples\""""),
    ],
)
def test_bad_input_of_the_penalty(z, options, error, message) -> None:
    with pytest.raises(error, match=re.escape(message)):
        decorrelation_penalty(z, **options)


# --------------------------------------------------------------------- the superposition proxy


def circle(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """n features as directions on a circle, and one ReLU neuron of weight length 1 for each.

    The bias must make the neuron's own feature 1 and its neighbours 0:
    r + b = 1 and r cos(2π/n) + b = 0, with r the length of a feature.
    """
    angle = 2 * np.pi * np.arange(n) / n
    directions = np.stack([np.cos(angle), np.sin(angle)])  # (2, n)
    neighbour = math.cos(2 * math.pi / n)
    r, b = np.linalg.solve([[1.0, 1.0], [neighbour, 1.0]], [1.0, 0.0])
    return r * directions.T, directions, np.full(n, b)


@pytest.mark.parametrize(
    ("n", "published"),
    [(3, 1 / 3), (4, 0.0), (5, -1 / math.sqrt(5)), (6, -1.0), (8, -1.0 - math.sqrt(2))],
)
def test_proxy_of_features_on_a_circle(n, published) -> None:
    """The network tells the features apart exactly, and its proxy is the published number,
    cos(2π/n)/(cos(2π/n) - 1). Published: the numbers. Derived: the construction."""
    features, w_in, b_in = circle(n)
    seen = functional.relu(mm.tensor(features @ w_in + b_in)).data
    np.testing.assert_allclose(seen, np.eye(n), atol=1e-14)
    np.testing.assert_allclose(superposition_proxy(w_in, b_in), published, rtol=1e-13, atol=1e-14)
    cosine = math.cos(2 * math.pi / n)
    assert cosine / (cosine - 1) == pytest.approx(published, abs=1e-14)


def test_proxy_is_bias_times_column_length() -> None:
    w, b = seeded(6, 4, 3), seeded(7, 3)
    want = [b[j] * math.hypot(*w[:, j]) for j in range(3)]
    np.testing.assert_allclose(superposition_proxy(w, b), want, rtol=1e-15)
    assert superposition_proxy(w.astype(np.float32), b).dtype == np.float64


def test_folding_leaves_the_function_as_it_was() -> None:
    """LayerNorm with gain and shift, then W and b, against a bare LayerNorm and the folded W and
    b: the same numbers; and W is centred. Authors' code; derived."""
    d, n = 6, 5
    w, b, gain, shift = seeded(8, d, n), seeded(9, n), seeded(10, d), seeded(11, d)
    folded_w, folded_b = fold_into_linear(w, b, gain, shift)
    np.testing.assert_allclose(folded_w.mean(axis=0), 0.0, atol=1e-15)
    x = mm.tensor(3 + 2 * seeded(12, 7, d))

    def outputs(w, b, gain, shift):
        normed = functional.layer_norm(x, *(mm.tensor(v) for v in (gain, shift)))
        return functional.linear(normed, mm.tensor(w.T), mm.tensor(b)).data

    before = outputs(w, b, gain, shift)
    after = outputs(folded_w, folded_b, np.ones(d), np.zeros(d))
    np.testing.assert_allclose(after, before, rtol=1e-12, atol=1e-12)
    # The length of the folded columns is the least that computes the function.
    constant = np.outer(np.ones(d), seeded(13, n))
    assert (np.linalg.norm(folded_w, axis=0) <= np.linalg.norm(folded_w + constant, axis=0)).all()


def gpt(seed: int = 0) -> mm.models.GPT:
    rng = np.random.default_rng(seed)
    model = mm.models.GPT(vocabulary=11, context=6, channels=8, heads=2, layers=3, rng=rng,
                          dtype=np.float64)
    for p in model.parameters():  # biases and norms too, which start at 0 and 1
        p.data = p.data + 0.3 * rng.standard_normal(p.shape)
    return model


def mlp_inputs(model: mm.models.GPT):
    return [
        (b.mlp.up.weight.data.T, b.mlp.up.bias.data, b.norm2.weight.data, b.norm2.bias.data)
        for b in model.block
    ]


def test_folding_a_whole_gpt_leaves_its_logits() -> None:
    """Every block's MLP folded: the same logits. Derived."""
    model, ids = gpt(), np.arange(12).reshape(2, 6) % 11
    before = model(ids).data
    for block, layer in zip(model.block, mlp_inputs(model), strict=True):
        w, b = fold_into_linear(*layer)
        block.mlp.up.weight.data, block.mlp.up.bias.data = w.T, b
        block.norm2.weight.data, block.norm2.bias.data = np.ones(8), np.zeros(8)
    np.testing.assert_allclose(model(ids).data, before, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("fold", [True, False])
def test_layer_scores_by_hand(fold) -> None:
    """Medians of sorted lists; the largest median of |p| divides. Authors' code."""
    layers = mlp_inputs(gpt(1))
    proxies = []
    for w, b, gain, shift in layers:
        if fold:
            b = b + shift @ w
            w = gain[:, None] * w
            w = w - w.mean(axis=0, keepdims=True)
        proxies.append([float(b[j]) * math.hypot(*w[:, j]) for j in range(len(b))])

    def median(values):
        values = sorted(values)
        middle = len(values) // 2
        return (values[middle] + values[middle - 1]) / 2 if len(values) % 2 == 0 else values[middle]

    largest = max(median([abs(v) for v in p]) for p in proxies)
    want = [median(p) / largest for p in proxies]
    scores = superposition_scores(layers, fold_layer_norm=fold)
    np.testing.assert_allclose(scores, want, rtol=1e-12)
    assert (abs(scores) <= 1).all()


def test_folding_changes_the_scores() -> None:
    """So which of the two a table shows has to be said."""
    layers = mlp_inputs(gpt(2))
    folded, raw = superposition_scores(layers), superposition_scores(layers, fold_layer_norm=False)
    assert abs(folded - raw).max() > 0.1


def test_scores_without_biases_are_nan() -> None:
    """A GPT as initialised has biases 0 and shifts 0. Our choice: nan, and no warning."""
    fresh = mm.models.GPT(vocabulary=5, context=4, channels=4, heads=1, layers=2,
                          rng=np.random.default_rng(0))
    assert np.isnan(superposition_scores(mlp_inputs(fresh))).all()


@pytest.mark.parametrize(
    ("w", "b", "message"),
    [
        (np.ones((2, 3)), np.ones(2), "b_in has shape (2,), expected (3,), one for each neuron"),
        (np.ones(3), np.ones(3), "w_in has shape (3,)"),
        (np.full((2, 2), np.nan), np.ones(2), "superposition_proxy: w_in"),
        (np.ones((2, 2)), np.array([1.0, np.inf]), "superposition_proxy: b_in"),
    ],
)
def test_bad_weights(w, b, message) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        superposition_proxy(w, b)


def test_bad_norms_and_no_layers() -> None:
    w, b = np.ones((2, 3)), np.ones(3)
    with pytest.raises(ValueError, match=r"gain has shape \(3,\), expected \(2,\), one for each"):
        fold_into_linear(w, b, np.ones(3), np.ones(2))
    with pytest.raises(ValueError, match="fold_into_linear: shift"):
        fold_into_linear(w, b, np.ones(2), np.array([1.0, np.nan]))
    with pytest.raises(ValueError, match="layers is empty"):
        superposition_scores([])
