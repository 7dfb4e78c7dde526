"""MonoLoss against the score, exact sums over pairs, closed forms and finite differences."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import minimono as mm
from minimono.gradcheck import check_grads
from minimono.mono import mono_loss, monosemanticity_score

E = np.array([[3.0, 4.0], [4.0, 3.0], [0.0, 5.0], [1.0, 0.0]])
Z = np.array([[0.0, 2.0], [1.0, 4.0], [2.0, 0.0], [4.0, 1.0]])
few = settings(max_examples=40)
WHOLE = st.integers(-5, 5).map(float)


def with_gradient(z, e=E, **options) -> tuple[float, np.ndarray]:
    x = mm.tensor(z, requires_grad=True)
    loss = mono_loss(x, e, **options)
    loss.backward()
    return loss.item(), x.grad


def test_the_loss_and_its_gradient_by_hand() -> None:
    """Published; the gradient is derived."""
    loss, gradient = with_gradient(Z)
    assert loss == pytest.approx(72 / 175, rel=1e-15)
    want = [[0.05, -0.0897959184, 0.0346938776, 0.0051020408],
            [-0.0044897959, -0.0046938776, -0.0185714286, 0.0277551020]]
    np.testing.assert_allclose(gradient.T, want, atol=1e-10)


def test_the_gradient_is_the_closed_form() -> None:
    """dS/da_k = (ê_k · V - a_k - S (s - a_k)) / Z, and through the minimum and the maximum."""
    rng = np.random.default_rng(0)
    z, e = rng.normal(size=(7, 3)), rng.normal(size=(7, 4))
    _, got = with_gradient(z, e)
    unit = e / np.linalg.norm(e, axis=1, keepdims=True)
    for k, (column, slope) in enumerate(zip(z.T, got.T, strict=True)):
        r, low, high = np.ptp(column), column.argmin(), column.argmax()
        a = (column - column[low]) / r
        V, s, v = unit.T @ a, a.sum(), a @ a
        S = (V @ V - v) / (s * s - v)
        g = (unit @ V - a - S * (s - a)) / ((s * s - v) / 2)
        assert abs(a @ g) < 1e-12  # the score is homogeneous
        want = g / r
        want[low] += (g * (a - 1)).sum() / r
        want[high] -= (g * a).sum() / r
        np.testing.assert_allclose(slope, -want / 3, atol=1e-12, err_msg=str(k))
        np.testing.assert_allclose([slope.sum(), slope @ column], 0, atol=1e-12)  # shift and scale


def exact_loss(z: np.ndarray, e: np.ndarray) -> float:
    """One minus the mean over neurons with a score, of sums over pairs; e of whole lengths."""
    unit = [[Fraction(int(x), round(math.hypot(*row))) for x in row] for row in e]
    scores = []
    for column in z.T.astype(int).tolist():
        a = [Fraction(x - min(column)) for x in column]
        pairs = [*itertools.combinations(range(len(a)), 2)]
        weights = sum(a[i] * a[j] for i, j in pairs)
        if weights:
            cosine = {(i, j): sum(x * y for x, y in zip(unit[i], unit[j], strict=True))
                      for i, j in pairs}
            scores.append(sum(a[i] * a[j] * cosine[i, j] for i, j in pairs) / weights)
    return float(1 - sum(scores) / len(scores)) if scores else 1.0


@few
@given(arrays(np.float64, (4, 3), elements=WHOLE), st.permutations(range(4)))
def test_the_loss_in_fractions_shuffled_scaled_and_shifted(z: np.ndarray, order) -> None:
    want = exact_loss(z, E)
    for changed in (z, 3 * z - 7, z * 2.0**-400):
        assert mono_loss(changed[order], E[order]).item() == pytest.approx(want, abs=1e-14)
    assert mono_loss(z.reshape(4, 3, 1), 1e100 * E).item() == pytest.approx(want, abs=1e-14)
    for convention in ("paper", "authors"):
        loss, gradient = with_gradient(z, convention=convention)
        assert loss == pytest.approx(want, abs=1e-6)
        assert np.isfinite(gradient).all()


def test_it_is_the_mean_of_the_scores_that_there_are() -> None:
    """Our choice: a neuron that is constant, or up for one input, does not count."""
    rng = np.random.default_rng(1)
    z, e = np.maximum(rng.normal(size=(50, 6)), 0), rng.normal(size=(50, 8))
    z[:, 1], z[:, 3] = 2.0, np.eye(50)[7]
    scores = monosemanticity_score(z, e)
    np.testing.assert_array_equal(np.isnan(scores), [0, 1, 0, 1, 0, 0])
    loss, gradient = with_gradient(z, e)
    assert loss == pytest.approx(1 - np.nanmean(scores), rel=1e-14)
    assert not gradient[:, [1, 3]].any()
    assert gradient[:, [0, 2, 4, 5]].any(axis=0).all()


def test_no_neuron_with_a_score() -> None:
    """Authors' code: the loss is 1 and has no gradient."""
    for z in (np.ones((4, 2)), np.eye(4)[:, :2], np.zeros((1, 3)), Z[:2]):
        for convention in ("paper", "authors"):
            loss, gradient = with_gradient(z, E[: len(z)], convention=convention)
            assert loss == 1.0
            assert not gradient.any()


def test_its_range_is_0_to_2() -> None:
    """Derived: the authors' docstring says 1, but cosines may be negative."""
    e = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    assert mono_loss(np.array([1.0, 1.0, 0.0]), e).item() == 2.0
    assert mono_loss(np.array([1.0, 1.0, 0.0]), abs(e[[0, 0, 2]])).item() == 0.0


def test_inputs_that_share_an_extreme() -> None:
    """They share its gradient, our choice; in the authors' batch code the first has it all."""
    z = np.array([0.0, 0.0, 1.0, 1.0])
    np.testing.assert_allclose(with_gradient(z)[1], 0, atol=1e-15)
    theirs = with_gradient(z, convention="authors")[1]
    np.testing.assert_allclose(theirs, [1.4, -1.4, 0, 0], atol=1e-7)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_digits_are_kept_where_one_input_outweighs_the_rest(dtype) -> None:
    """(Σa)² - Σa² in float32 gives 0.24975 at 1e-5, and 0 at 1e-7. Our choice: none is lost."""
    e = np.array([[1.0, 0.0], [0.2432939, math.sqrt(1 - 0.2432939**2)], [0.0, 1.0]])
    for small in (1e-3, 1e-5, 1e-7, 1e-30):
        x = mm.tensor([1.0, small, 0.0], dtype=dtype, requires_grad=True)
        loss = mono_loss(x, e)
        assert loss.dtype == dtype
        assert 1 - loss.item() == pytest.approx(0.2432939, rel=1e-6)
    theirs = mono_loss(np.array([1.0, 1e-7, 0.0]), e, convention="authors")
    assert 1 - theirs.item() == pytest.approx(0.2211763, rel=1e-6)


@pytest.mark.parametrize("convention", ["paper", "authors"])
def test_gradients_of_both_orders(convention) -> None:
    z = np.random.default_rng(2).normal(size=(4, 3))
    check_grads(lambda z: mono_loss(z, E, convention=convention), z, order=2)


def test_descent_makes_neurons_answer_to_inputs_that_are_alike() -> None:
    """Two groups of inputs, neurons driven by both: after training each by one."""
    rng = np.random.default_rng(3)
    group = np.arange(40) % 2
    x = np.eye(2)[group] + 0.1 * rng.normal(size=(40, 2))
    layer = mm.nn.Linear(2, 6, rng=rng, dtype=np.float64)
    layer.load_state_dict({"weight": np.ones((6, 2)) + 0.2 * rng.normal(size=(6, 2)),
                           "bias": np.zeros(6)})
    optimiser = mm.optim.Adam(layer.parameters(), lr=0.05)
    losses = []
    for _ in range(60):
        loss = mono_loss(mm.functional.relu(layer(mm.tensor(x))), x)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] > 0.3
    assert losses[-1] < 0.05


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_activations_do_not_vanish(bad: float) -> None:
    """A nan neuron must not count as one without a score."""
    z = Z.copy()
    z[1, 0] = bad
    with np.errstate(invalid="ignore"):
        for convention in ("paper", "authors"):
            assert math.isnan(mono_loss(z, E, convention=convention).item())


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: mono_loss(np.ones((4, 2), int), E), TypeError, "z has dtype int64, expected floa"),
        (lambda: mono_loss(1.0, E), ValueError, r"z has shape \(\), expected \(B, \*neurons\)"),
        (lambda: mono_loss(np.ones((0, 2)), E), ValueError, r"z has shape \(0, 2\)"),
        (lambda: mono_loss(Z, E[:3]), ValueError, r"embeddings has shape \(3, 2\), expected \(4, "),
        (lambda: mono_loss(Z, E[0]), ValueError, r"embeddings has shape \(2,\), expected \(B, D\)"),
        (lambda: mono_loss(Z, 0 * E), ValueError, r"embeddings: length is 0.0 at \[0\]"),
        (lambda: mono_loss(Z, E * np.nan), ValueError, r"embeddings is nan at \[0, 0\]"),
        (lambda: mono_loss(Z, E, convention="code"), ValueError, "convention is 'code'"),
    ],
)
def test_errors(call, error, message: str) -> None:
    with pytest.raises(error, match="^mono_loss: " + message):
        call()


@pytest.mark.parity
def test_parity_with_torch() -> None:
    """The authors' batch loss as they write it, in float64."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(4)
    z, e = rng.normal(size=(9, 5)), rng.normal(size=(9, 3))
    z[:, 2] = 1.0
    x, p = torch.tensor(z, requires_grad=True), torch.nn.functional.normalize(torch.tensor(e))
    least, most = x.min(dim=0)[0], x.max(dim=0)[0]
    a = (x - least) / (most - least + 1e-8)
    V, s, v = p.T @ a, a.sum(dim=0), (a * a).sum(dim=0)
    W, weights = 0.5 * ((V * V).sum(dim=0) - v), 0.5 * (s * s - v)
    active = weights > 1e-8
    loss = 1 - (W[active] / (weights[active] + 1e-8)).mean()
    loss.backward()
    got, gradient = with_gradient(z, e, convention="authors")
    assert got == pytest.approx(loss.item(), rel=1e-12)
    np.testing.assert_allclose(gradient, x.grad.numpy(), atol=1e-12)
