"""L2E: the scale of a feature, false killing, the moving threshold, the penalty, the module.

Each docstring says what is checked and its status: published (the paper), derived (follows by
algebra), reconstruction, or our choice.
"""

import copy
import math
import pickle
import re
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

import minimono as mm
from minimono import backend
from minimono.gradcheck import check_grads
from minimono.mono import l2e
from minimono.mono import tracker as tracker_file
from minimono.mono.features import (
    false_killing_rate,
    feature_scale,
    kolmogorov_smirnov,
    own_feature,
)
from minimono.mono.l2e import L2E, MovingThreshold, l2e_penalty, log_distance_penalty
from minimono.mono.selection import select_top_fraction
from minimono.mono.tracker import ScaleTracker
from minimono.nn import Linear, Sequential, taps

# ---------------------------------------------------------------------------- feature_scale


def exact_feature_scale(z: np.ndarray, has: np.ndarray) -> list[list[list[Fraction | None]]]:
    """φ_l and φ_l⁻ of integers z (B, neurons), in fractions, one sum at a time."""
    B, neurons = z.shape
    result = []
    for wanted in (True, False):
        rows = []
        for feature in has.T:
            row = []
            for j in range(neurons):
                column = [Fraction(int(v)) for v in z[:, j]]
                mean = sum(column) / B
                s2 = sum((v - mean) ** 2 for v in column) / (B - 1)
                chosen = [v for v, on in zip(column, feature, strict=True) if on == wanted]
                defined = s2 and chosen
                total = sum((v - mean) ** 2 for v in chosen)
                row.append(total / (len(chosen) * s2) if defined else None)
            rows.append(row)
        result.append(rows)
    return result


@given(st.integers(0, 2**32 - 1))
def test_feature_scale_against_fractions(seed: int) -> None:
    """Global mean and S², overlapping features, empty and full ones. Published: eqs. 2-3."""
    rng = np.random.default_rng(seed)
    B, L, neurons = rng.integers(2, 8), rng.integers(1, 5), rng.integers(1, 4)
    z = rng.integers(-3, 4, (B, neurons))
    has = rng.random((B, L)) < rng.choice([0.0, 0.5, 1.0])
    found = feature_scale(z, has)
    for array, exact in zip(found[:2], exact_feature_scale(z, has), strict=True):
        want = [[math.nan if v is None else float(v) for v in row] for row in exact]
        np.testing.assert_allclose(array, want, rtol=1e-13, atol=1e-15)
    for j in range(neurons):
        known = [(v, -f) for f, row in enumerate(exact_feature_scale(z, has)[0])
                 if (v := row[j]) is not None]
        exact_ties = len([v for v, _ in known if v == max(known)[0]]) > 1 if known else False
        if not exact_ties:
            assert found.feature[j] == (-max(known)[1] if known else -1)


@given(st.integers(0, 2**32 - 1))
def test_inside_and_outside_add_up(seed: int) -> None:
    """|C_l| φ_l + (B - |C_l|) φ_l⁻ = B - 1 for every feature and neuron. Derived."""
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((9, 2, 3)) * 10.0 ** rng.integers(-5, 5)
    has = rng.random((9, 4)) < 0.5
    has[0], has[1] = True, False  # no feature empty or full
    found = feature_scale(z, has)
    n = has.sum(axis=0)[:, None, None]
    np.testing.assert_allclose(n * found.inside + (9 - n) * found.outside, 8.0, rtol=1e-12)
    assert found.inside.shape == (4, 2, 3)
    assert found.feature.shape == (2, 3)


def test_planted_features_are_found() -> None:
    """A neuron that fires 1 on feature f only: φ_f = (1 - p)(B - 1)/(p B) with p = |C_f|/B, and
    l* = f, one neuron for each feature, numbers or booleans. Derived."""
    label = np.repeat([0, 1, 2, 3], [5, 20, 35, 40])
    fires = label[:, None] == np.arange(4)
    found = feature_scale(fires, label)
    p = np.array([0.05, 0.2, 0.35, 0.4])
    np.testing.assert_allclose(np.diag(found.inside), (1 - p) / p * 99 / 100, rtol=1e-13)
    # Firing in p > 1/2 of the inputs, the rest is the far side: then another feature wins.
    assert found.feature.tolist() == [0, 1, 2, 3]
    for a, b in zip(found, feature_scale(fires, fires), strict=True):
        np.testing.assert_array_equal(a, b)
    # Shift and scale change nothing.
    moved = feature_scale(fires * -8.0 + 3.0, label)
    np.testing.assert_allclose(moved.inside, found.inside, rtol=1e-12)


def test_undefined_feature_scales_are_nan() -> None:
    """An empty feature, one that all have, a constant neuron; ties go to the lowest. Our choice."""
    z = np.array([[0.0, 7.0], [1.0, 7.0], [2.0, 7.0], [3.0, 7.0]])
    found = feature_scale(z, np.array([0, 3, 3, 0]))  # nobody has 1 and 2
    assert np.isnan(found.inside[1:3]).all()
    assert np.isnan(found.inside[:, 1]).all()
    assert np.isnan(found.outside[:, 1]).all()
    assert found.feature.tolist() == [0, -1]
    everybody = feature_scale(z, np.ones((4, 1), dtype=bool))
    np.testing.assert_allclose(everybody.inside[0, 0], 3 / 4)
    assert np.isnan(everybody.outside).all()
    twice = feature_scale(z, np.array([[0, 1, 1], [1, 0, 0], [1, 0, 0], [0, 1, 1]], dtype=bool))
    assert twice.feature[0] == 1


@pytest.mark.parametrize(
    ("z", "features", "error", "message"),
    [
        (np.ones((1, 2)), np.array([0]), ValueError, "z has 1 input"),
        (np.ones((3, 2)), np.array([0, 1]), ValueError, "z has 3 inputs and features are of 2"),
        (np.ones((2, 2)), np.array([0, -1]), ValueError, "is -1, expected 0 or more"),
        (np.ones((2, 2)), np.array([0.0, 1.0]), TypeError, "has dtype float64"),
        (np.ones((2, 2)), np.array([True, False]), TypeError, "expected booleans (B, L) or"),
        (np.ones((2, 2)), np.array([[0, 1], [1, 0]]), TypeError, "expected booleans (B, L) or"),
        (np.ones((2, 2)), np.ones((2, 0), dtype=bool), ValueError, "an input and a feature"),
        (np.array([[1.0], [np.nan]]), np.array([0, 1]), ValueError, "neuron 0 of sample 1 is nan"),
        (np.array([["a"], ["b"]]), np.array([0, 1]), TypeError, "feature_scale: z has dtype"),
    ],
)
def test_bad_input_of_feature_scale(z, features, error, message) -> None:
    with pytest.raises(error, match=re.escape(message)):
        feature_scale(z, features)


# ----------------------------------------------------------------------- false_killing_rate


@given(st.integers(0, 2**32 - 1), st.sampled_from(["global", "per_input"]), st.booleans())
def test_false_killing_rate_by_brute_force(seed: int, scope: str, by_fraction: bool) -> None:
    """Sort, take τ, count pairs one at a time. Published: eq. 4; the scopes: our choice."""
    rng = np.random.default_rng(seed)
    B, L, neurons = (int(n) for n in rng.integers(1, 7, 3))
    phi = rng.integers(0, 5, (B, neurons)).astype(float)  # ties are common
    has = rng.random((B, L)) < 0.5
    star = rng.integers(0, L, neurons)
    size = B * neurons if scope == "global" else neurons
    k = int(rng.integers(1, size + 1))
    false_kills = kills = 0
    for i in range(B):
        pool = phi.ravel() if scope == "global" else phi[i]
        tau = sorted(pool, reverse=True)[k - 1]
        for j in range(neurons):
            if phi[i, j] >= tau:
                kills += 1
                false_kills += not has[i, star[j]]
    how = {"fraction": k / size} if by_fraction else {"k": k}
    if by_fraction and math.ceil(Fraction(repr(k / size)) * size) != k:
        return  # k / size, as a decimal, rounded up beyond k
    assert false_killing_rate(phi, has, star, scope=scope, **how) == false_kills / kills


def test_false_killing_rate_in_a_known_world() -> None:
    """One neuron per feature that fires on it alone: nothing is killed falsely until k exceeds the
    number of firings; then all further kills are false. Derived."""
    label = np.repeat(np.arange(5), 4)
    z = 10.0 * (label[:, None] == np.arange(5)) + np.linspace(0, 1, 20)[:, None]
    found = feature_scale(z, label)
    assert found.feature.tolist() == [0, 1, 2, 3, 4]
    variance = z.var(axis=0, ddof=1)
    phi = (z - z.mean(axis=0)) ** 2 / variance
    assert false_killing_rate(phi, label, found.feature, k=20) == 0.0
    assert false_killing_rate(phi, label, found.feature, k=1, scope="per_input") == 0.0
    assert false_killing_rate(phi, label, found.feature, k=80) == 60 / 80
    assert false_killing_rate(phi, label, found.feature, fraction=1.0) == 80 / 100


def test_false_killing_rate_without_a_selection() -> None:
    """All scores nan: nan. A constant neuron has no feature and no φ: it is not counted. A
    selected neuron without a feature is an error. Our choice."""
    label = np.array([0, 1])
    nothing = np.full((2, 2), np.nan)
    assert math.isnan(false_killing_rate(nothing, label, np.array([0, 1]), k=1))
    phi = np.array([[5.0, np.nan], [4.0, np.nan]])
    assert false_killing_rate(phi, label, np.array([0, -1]), k=2) == 0.5
    with pytest.raises(ValueError, match=re.escape("neuron [1] is selected but has no feature")):
        false_killing_rate(np.ones((2, 2)), label, np.array([0, -1]), k=4)


def test_own_feature() -> None:
    """Against a double loop; a number that no input here has is nobody's; booleans (B, L) tell
    how many features there are, so a number beyond them is an error."""
    has = np.array([[True, False], [False, True], [True, True]])
    star = np.array([[0, 1], [-1, 1]])
    own = own_feature(has, star)
    for i in range(3):
        for place, feature in np.ndenumerate(star):
            assert own[(i, *place)] == (feature >= 0 and has[i, feature])
    assert not own_feature(np.array([0, 1]), np.array([7, 2])).any()
    with pytest.raises(ValueError, match="is 2, expected less than 2"):
        own_feature(has, np.array([2]))
    with pytest.raises(ValueError, match="is -2, expected -1 or more"):
        own_feature(has, np.array([-2]))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ValueError, "give either k or fraction"),
        ({"k": 1, "fraction": 0.5}, ValueError, "give either k or fraction"),
        ({"k": 5}, ValueError, "at most 4, the scores per batch"),
        ({"k": 0}, ValueError, "expected 1 or more"),
        ({"fraction": 0.0}, ValueError, "0 < fraction <= 1"),
        ({"k": 1, "scope": "local"}, ValueError, "expected \"global\" or \"per_input\""),
    ],
)
def test_bad_options_of_false_killing_rate(options, error, message) -> None:
    with pytest.raises(error, match=re.escape(message)):
        false_killing_rate(np.ones((2, 2)), np.array([0, 1]), np.array([0, 1]), **options)
    with pytest.raises(ValueError, match="phi has shape"):
        false_killing_rate(np.ones((2, 3)), np.array([0, 1]), np.array([0, 1]), k=1)


# ----------------------------------------------------------------------- kolmogorov_smirnov

SAMPLES = arrays(
    np.float64, array_shapes(min_dims=1, max_dims=2, max_side=6),
    elements=st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 2.0, 3.0, np.inf]),
)


@given(SAMPLES, SAMPLES)
def test_kolmogorov_smirnov_by_brute_force(a, b) -> None:
    """The gap at every point of either sample, counted. Published: the statistic."""
    gaps = [
        abs(Fraction(int((a <= x).sum()), a.size) - Fraction(int((b <= x).sum()), b.size))
        for x in [*a.ravel(), *b.ravel()]
    ]
    assert kolmogorov_smirnov(a, b) == pytest.approx(float(max(gaps)), abs=1e-15)
    assert kolmogorov_smirnov(a, b) == kolmogorov_smirnov(b, a)
    assert kolmogorov_smirnov(a, a) == 0.0


def test_kolmogorov_smirnov_of_disjoint_samples_is_one() -> None:
    assert kolmogorov_smirnov(np.arange(3), np.arange(3, 9)) == 1.0
    with pytest.raises(ValueError, match="other contains nan"):
        kolmogorov_smirnov(np.ones(2), np.array([np.nan]))
    with pytest.raises(ValueError, match="kolmogorov_smirnov: sample has shape"):
        kolmogorov_smirnov(np.empty(0), np.ones(2))


# --------------------------------------------------------------------------- MovingThreshold


def top_of_gaussian_scale(p: float, m: int) -> tuple[float, float]:
    """The top-p quantile τ of φ = (m + 1)/m F(1, m - 1), and the slope a = τ f(τ)/p of its tail.

    P(F(1, d) > f) = I_{d/(d+f)}(d/2, 1/2), the regularised incomplete beta function.
    """
    d = m - 1
    scale = mpmath.mpf(m + 1) / m

    def above(tau):
        return mpmath.betainc(mpmath.mpf(d) / 2, 0.5, 0, d / (d + tau / scale), regularized=True)

    tau = mpmath.findroot(lambda x: above(x) - p, (0.01, 100.0), solver="bisect", tol=1e-20)
    return float(tau), float(-tau * mpmath.diff(above, tau) / p)


def scores_of_gaussian_neurons(rng, m: int, shape) -> np.ndarray:
    return (m + 1) / m * rng.f(1, m - 1, shape)


@pytest.mark.parametrize(("p", "m"), [(0.02, 1000), (0.02, 10), (0.1, 50), (0.2, 5)])
def test_threshold_converges_to_the_exact_quantile(p, m) -> None:
    """From 20 times too high and too low (set by a first batch in other units), log τ settles
    around the exact quantile of F(1, m - 1) with the spread that the docstring tells, and the
    share selected is p. Reconstruction; the spread: derived."""
    tau, slope = top_of_gaussian_scale(p, m)
    rng = np.random.default_rng(0)
    for start in (20.0, 1 / 20.0):
        threshold = MovingThreshold(p)
        threshold.select(start * scores_of_gaussian_neurons(rng, m, (64, 40)))
        log_tau, shares = [], []
        for step in range(900):
            selected = threshold.select(scores_of_gaussian_neurons(rng, m, (32, 40)))
            if step >= 200:
                log_tau.append(math.log(threshold.value))
                shares.append(selected.mean())
        spread = math.sqrt(0.05 * (1 - p) / (2 * slope * p * 32 * 40))
        memory = 1 / (0.05 * slope)  # batches that log τ remembers
        error_of_mean = spread * math.sqrt(2 * memory / len(log_tau))
        assert abs(np.mean(log_tau) - math.log(tau)) < 4 * error_of_mean + spread**2
        assert np.std(log_tau) == pytest.approx(spread, rel=0.35)
        assert np.mean(shares) == pytest.approx(p, rel=0.01)


def test_threshold_with_a_falling_rate_converges() -> None:
    """rate = 1/(a t): log τ ends at the quantile to its sampling error, about that of the
    quantile of all the scores together. Derived (Robbins and Monro, 1951)."""
    tau, slope = top_of_gaussian_scale(0.02, 100)
    rng = np.random.default_rng(1)
    threshold = MovingThreshold(0.02)
    for t in range(1, 2001):
        threshold.rate = min(0.05, 1 / (slope * t))
        threshold.select(scores_of_gaussian_neurons(rng, 100, (16, 50)))
    error = math.sqrt(0.98 / 0.02 / (2000 * 800)) / slope
    assert abs(math.log(threshold.value) - math.log(tau)) < 4 * error


def test_threshold_lags_behind_a_drift_as_derived() -> None:
    """If log φ rises or falls by δ a batch, log τ follows at a distance of δ/(rate a), to first
    order: where 1 + rate (exp(a lag) - 1) = exp(δ), the share of a tail that falls like τ^-a.
    Derived."""
    tau, slope = top_of_gaussian_scale(0.02, 1000)
    rng = np.random.default_rng(2)
    for drift in (0.005, -0.005):
        threshold = MovingThreshold(0.02, rate=0.05)
        lags = []
        for step in range(600):
            scale = math.exp(drift * step)
            if step >= 200:
                lags.append(math.log(scale * tau) - math.log(threshold.value))
            threshold.select(scale * scores_of_gaussian_neurons(rng, 1000, (32, 60)))
        want = math.log1p(math.expm1(drift) / 0.05) / slope
        assert want == pytest.approx(drift / (0.05 * slope), rel=0.1)
        assert np.mean(lags) == pytest.approx(want, rel=0.15)


def test_threshold_on_scores_of_a_real_tracker() -> None:
    """Scored by ScaleTracker, with compensation and constant neurons among them: the share
    selected stays at p, nan never selected. Reconstruction."""
    rng = np.random.default_rng(3)
    tracker, threshold = ScaleTracker(), MovingThreshold(0.02)
    spread = np.linspace(0.0, 3.0, 50)  # the first neuron is constant: its φ is nan
    shares = []
    for step in range(400):
        phi = tracker.score(spread * rng.standard_normal((32, 50)) + 1.0)
        selected = threshold.select(phi)
        assert not selected[np.isnan(phi)].any()
        if step >= 100:
            shares.append(selected.mean())
    assert np.mean(shares) == pytest.approx(0.02, rel=0.02)


def test_threshold_is_free_of_scale() -> None:
    """φ times a power of two: the same selections, τ times it, to the last bit. Derived."""
    rng = np.random.default_rng(4)
    plain, scaled = MovingThreshold(0.1), MovingThreshold(0.1)
    for _ in range(50):
        phi = rng.exponential(size=(8, 10))
        np.testing.assert_array_equal(plain.select(phi), scaled.select(1024.0 * phi))
        assert scaled.value == 1024.0 * plain.value


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_first_batch_sets_the_threshold(dtype, monkeypatch) -> None:
    """τ is the first batch's own top p; afterwards nothing is ranked again, and the rule is
    τ (1 + rate (share/p - 1)) to the last bit. Our choice."""
    rng = np.random.default_rng(5)
    phi = rng.exponential(size=(6, 7)).astype(dtype)
    phi[0, 0] = np.nan
    threshold = MovingThreshold(0.1, rate=0.25)
    assert np.isnan(threshold.value)
    first = select_top_fraction(phi, 0.1, per="batch")
    np.testing.assert_array_equal(threshold.select(phi), first)
    assert threshold.value == phi[first].min()
    assert threshold.value.dtype == np.float64
    monkeypatch.setattr(l2e, "select_top_fraction", None)  # a call would raise
    before = threshold.value
    selected = threshold.select(2 * phi)
    np.testing.assert_array_equal(selected, 2 * phi >= before)
    assert threshold.value == before * (1 + 0.25 * (selected.sum() / 42 / 0.1 - 1))


def test_threshold_survives_extremes() -> None:
    """All nan: it does not start. All zero, or infinite beyond p: τ stays a normal number and
    comes back. Our choice."""
    threshold = MovingThreshold(0.1)
    assert not threshold.select(np.full((4, 4), np.nan)).any()
    assert np.isnan(threshold.value)
    assert not threshold.select(np.zeros((4, 4))).any()
    tiny = np.finfo(np.float64).tiny
    assert threshold.value == tiny
    assert not threshold.select(np.zeros((4, 4))).any()
    assert threshold.value == tiny
    assert threshold.select(np.ones((4, 4))).all()
    assert threshold.value > tiny

    threshold = MovingThreshold(0.1)
    for _ in range(3):
        assert threshold.select(np.full((4, 4), np.inf)).all()
    assert threshold.value == np.finfo(np.float64).max
    assert not threshold.select(np.ones((4, 4))).any()
    assert threshold.value < np.finfo(np.float64).max


def test_threshold_resumes_bit_for_bit() -> None:
    rng = np.random.default_rng(6)
    batches = [rng.exponential(size=(8, 10)) for _ in range(20)]
    whole = MovingThreshold(0.1)
    for batch in batches[:10]:
        whole.select(batch)
    resumed = MovingThreshold(0.1)
    resumed.load_state_dict(whole.state_dict())
    for batch in batches[10:]:
        np.testing.assert_array_equal(whole.select(batch), resumed.select(batch))
    assert whole.value == resumed.value
    fresh = MovingThreshold(0.1)
    resumed.load_state_dict(fresh.state_dict())
    assert np.isnan(resumed.value)
    assert resumed.select(batches[0]).sum() == 8  # ranks again: the top 10 % of 80


@pytest.mark.parametrize(
    ("state", "error", "message"),
    [
        ({}, ValueError, "expected ['threshold']"),
        ({"threshold": np.array(1.0), "more": np.array(1.0)}, ValueError, "expected ['threshold']"),
        ({"threshold": np.float32(1.0)}, TypeError, "threshold has dtype float32"),
        ({"threshold": np.ones(1)}, TypeError, "shape (1,)"),
        ({"threshold": np.array(0.0)}, ValueError, "expected a positive number"),
        ({"threshold": np.array(np.inf)}, ValueError, "expected a positive number"),
    ],
)
def test_bad_states_of_the_threshold(state, error, message) -> None:
    threshold = MovingThreshold(0.5)
    threshold.select(np.array([[1.0, 2.0]]))
    with pytest.raises(error, match=re.escape(message)):
        threshold.load_state_dict(state)
    assert threshold.value == 2.0


@pytest.mark.parametrize("bad", [0.0, 1.0, -0.1, math.nan, math.inf])
def test_bad_settings_of_the_threshold(bad) -> None:
    with pytest.raises(ValueError, match="MovingThreshold: fraction is"):
        MovingThreshold(bad)
    with pytest.raises(ValueError, match="MovingThreshold: rate is"):
        MovingThreshold(0.1, rate=bad)


def test_bad_settings_of_other_types() -> None:
    with pytest.raises(TypeError, match="expected a number"):
        MovingThreshold("0.1")
    with pytest.raises(TypeError, match="MovingThreshold: phi has dtype"):
        MovingThreshold().select(np.array([["a"]]))


# ----------------------------------------------------------------------- log_distance_penalty


def example(rng, shape=(4, 5), dtype=np.float64):
    z = rng.standard_normal(shape).astype(dtype)
    mask = rng.random(shape) < 0.4
    mask.flat[0], mask.flat[1] = True, False
    return z, mask, rng.standard_normal(shape[1:])


@pytest.mark.parametrize("shape", [(4, 5), (7,), (2, 3, 4)])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_penalty_value_and_gradient(shape, reduction) -> None:
    """The value against mpmath with 50 digits, the gradient 2/(z - mean) where selected and 0
    elsewhere. Published: eq. 5. Our choice: the reductions."""
    z, mask, mean = example(np.random.default_rng(7), shape)
    x = mm.tensor(z, requires_grad=True)
    penalty = log_distance_penalty(x, mask, mean, reduction=reduction)
    penalty.backward()
    distance = (z - mean)[mask]
    divisor = mask.sum() if reduction == "mean" else 1
    with mpmath.workdps(50):
        exact = sum(mpmath.log(mpmath.mpf(float(d)) ** 2) for d in distance) / int(divisor)
    assert float(penalty) == pytest.approx(float(exact), rel=1e-14)
    np.testing.assert_allclose(x.grad[mask], 2 / distance / divisor, rtol=1e-15)
    assert (x.grad[~mask] == 0).all()
    same = log_distance_penalty(z, mm.tensor(mask), mean[None], reduction=reduction)
    assert float(same) == float(penalty)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_penalty_gradcheck_second_order(reduction) -> None:
    z, mask, mean = example(np.random.default_rng(8))
    check_grads(lambda x: log_distance_penalty(x, mask, mean, reduction=reduction), z, order=2)


@pytest.mark.parametrize("m", [5, 50])
def test_penalty_gradient_is_bounded(m) -> None:
    """|gradient| <= 2/(S sqrt τ) on what φ >= τ selects, with equality at φ = τ. Derived."""
    rng = np.random.default_rng(9)
    history = rng.standard_normal((m, 8)) * 10.0 ** np.arange(-4, 4)
    mean, S = history.mean(axis=0), history.std(axis=0, ddof=1)
    tau = 2.5
    z = rng.standard_normal((500, 8)) * 10.0 ** np.arange(-4, 4)
    z[0] = mean + S * math.sqrt(tau) * (1 + 1e-12)  # just above the threshold
    mask = (z - mean) ** 2 / S**2 >= tau
    x = mm.tensor(z, requires_grad=True)
    log_distance_penalty(x, mask, mean).backward()
    relative = abs(x.grad) * S * math.sqrt(tau) / 2
    assert relative.max() <= 1.0
    np.testing.assert_allclose(relative[0], 1.0, rtol=1e-10)


def test_penalty_draws_towards_the_mean() -> None:
    """A small descent step brings every selected activation nearer to its mean. Derived."""
    z, mask, mean = example(np.random.default_rng(10))
    x = mm.tensor(z, requires_grad=True)
    log_distance_penalty(x, mask, mean).backward()
    step = 0.1 * ((z - mean)[mask] ** 2).min()
    moved = z - step * x.grad
    assert (abs(moved - mean)[mask] < abs(z - mean)[mask]).all()
    assert (moved == z)[~mask].all()


def test_penalty_of_extreme_distances() -> None:
    """Squares that over- or underflow do no harm, nor does a mean that float32 cannot hold."""
    z = np.array([[1e-200, -1e200, 5e-324]])
    x = mm.tensor(z[:, :2], requires_grad=True)
    penalty = log_distance_penalty(x, np.ones((1, 2), bool), np.zeros(2))
    penalty.backward()
    assert float(penalty) == pytest.approx(0.0, abs=1e-12)
    np.testing.assert_allclose(x.grad, [[2e200, -2e-200]], rtol=1e-15)
    single = np.array([[1000.0]], dtype=np.float32)
    out = log_distance_penalty(mm.tensor(single), np.array([[True]]), np.array([1000.00001]))
    assert out.dtype == np.float32
    assert float(out) == pytest.approx(2 * math.log(1e-5), rel=1e-5)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_penalty_of_nothing_is_zero(reduction) -> None:
    """No activation selected: 0, with gradient 0. Our choice."""
    x = mm.tensor(np.ones((2, 2)), requires_grad=True)
    penalty = log_distance_penalty(x, np.zeros((2, 2), bool), np.ones(2), reduction=reduction)
    assert float(penalty) == 0.0
    (penalty + 0.0 * x.sum()).backward()
    assert (x.grad == 0).all()


def test_log_of_zero_is_an_error() -> None:
    """A selected activation that equals its mean, or is not finite, is named; one that is not
    selected does not matter. Our choice."""
    z = np.array([[1.0, 2.0], [3.0, np.nan]])
    mean = np.array([3.0, np.nan])
    only = np.array([[True, False], [False, False]])
    assert float(log_distance_penalty(z, only, mean)) == 2 * math.log(2.0)
    with pytest.raises(ValueError, match=re.escape("z - mean is 0.0 at the selected place [1, 0]")):
        log_distance_penalty(z, np.array([[True, False], [True, False]]), mean)
    with pytest.raises(ValueError, match=re.escape("z - mean is nan at the selected place [0, 1]")):
        log_distance_penalty(z, np.array([[True, True], [False, False]]), mean)


@pytest.mark.parametrize(
    ("z", "mask", "mean", "options", "error", "message"),
    [
        (np.ones((2, 2), int), np.ones((2, 2), bool), np.zeros(2), {}, TypeError, "z has dtype"),
        (np.ones(()), np.ones((), bool), np.zeros(()), {}, ValueError, "a single number"),
        (np.ones((2, 2)), np.ones((2, 2)), np.zeros(2), {}, TypeError, "expected bool"),
        (np.ones((2, 2)), np.ones(2, bool), np.zeros(2), {}, ValueError, "mask has shape (2,)"),
        (np.ones((2, 2)), np.ones((2, 2), bool), np.zeros(3), {}, ValueError, "mean has shape"),
        (np.ones((2, 2)), np.ones((2, 2), bool), np.ones(2, bool), {}, TypeError, "mean has dtype"),
        (np.ones((2, 2)), np.ones((2, 2), bool), np.zeros(2), {"reduction": "max"}, ValueError,
         "reduction is 'max'"),
    ],
)
def test_bad_input_of_the_penalty(z, mask, mean, options, error, message) -> None:
    with pytest.raises(error, match=re.escape(message)):
        log_distance_penalty(z, mask, mean, **options)


# --------------------------------------------------------------------------------- the module


def model_with(module: L2E | None = None, seed: int = 0) -> mm.nn.Module:
    model = mm.models.MLP((6, 12, 3), rng=np.random.default_rng(seed), dtype=np.float64)
    if module is not None:
        taps.insert(model, "hidden.0.act", module)
    return model


def inputs(seed: int, batches: int, batch: int = 16):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((batch, 6)) for _ in range(batches)]


def test_module_does_what_its_parts_do() -> None:
    """Call by call against a tracker, a threshold and the penalty used by hand; values and
    gradients pass through. Published: the method. Our choice: the mean over the flagged."""
    rng = np.random.default_rng(11)
    module = L2E(0.1, start_after=3, forget_after=4, compensation=0.02, rate=0.1)
    tracker = ScaleTracker(forget_after=4, compensation=0.02)
    threshold = MovingThreshold(0.1, rate=0.1)
    for call in range(10):
        z = rng.standard_normal((8, 5))
        x = mm.tensor(z, requires_grad=True)
        out = module(x)
        mean = tracker.mean if call else None
        scale = tracker.score(z)
        np.testing.assert_array_equal(module.last.scale, scale)
        assert out.data is x.data
        if call < 3:
            assert module.last.flagged is None
            assert float(module.penalty) == 0.0
            continue
        flagged = threshold.select(scale)
        np.testing.assert_array_equal(module.last.flagged, flagged)
        np.testing.assert_array_equal(module.last.mean, mean)
        want = log_distance_penalty(z, flagged, mean, reduction="mean")
        assert float(module.penalty) == float(want)
        (out.sum() + 0.5 * module.penalty).backward()
        push = np.where(flagged, 2 / (z - mean) / max(flagged.sum(), 1), 0.0)
        np.testing.assert_allclose(x.grad, 1.0 + 0.5 * push, rtol=1e-13)


def test_module_gradient_stays_within_the_bound() -> None:
    """In a run, |d penalty/dz| times the number flagged is at most 2/(S sqrt τ) of that moment,
    also with compensation, which only selects less. Derived."""
    rng = np.random.default_rng(12)
    module = L2E(0.05, start_after=2)
    checked = 0
    for _ in range(60):
        x = mm.tensor(rng.standard_normal((16, 10)) * np.geomspace(0.01, 10, 10),
                      requires_grad=True)
        tau = module.threshold.value
        S = np.sqrt(module.tracker.variance) if module.tracker.batches_seen else None
        module(x)
        if module.last.flagged is None or np.isnan(tau) or not module.last.flagged.any():
            continue
        module.penalty.backward()
        bound = 2 / (S * np.sqrt(tau)) / module.last.flagged.sum()
        assert (abs(x.grad) <= bound * (1 + 1e-12)).all()
        checked += 1
    assert checked > 30


def test_training_with_the_penalty_inhibits() -> None:
    """Same start, same data: with the penalty in the loss the flagged activations end nearer to
    their means, in variances, than without; the model's parameters are the same ones. Published:
    the purpose of the method."""
    target = mm.tensor(np.random.default_rng(13).standard_normal((6, 3)))

    def run(coefficient: float) -> float:
        module = L2E(0.05, start_after=5)
        model = model_with(module)
        optimiser = mm.optim.SGD(model.parameters(), 0.05)
        distances = []

        def loss(model, x):
            error = model(x) - mm.tensor(x) @ target
            return (error * error).mean() + coefficient * l2e_penalty(model)

        batches = [(x,) for x in inputs(14, 150)]
        for record in mm.nn.training.train(model, batches, loss, optimiser, steps=150):
            if record.step > 100:
                distances.append(float(module.penalty))
        return float(np.mean(distances))

    assert run(0.3) < run(0.0) - 0.1


def test_module_is_absent_in_eval() -> None:
    """Identity, nothing updated, penalty 0: also right after training, so nothing stale."""
    module = L2E(0.1, start_after=1)
    model = model_with(module)
    for x in inputs(15, 5):
        model(x)
    assert float(module.penalty) != 0.0
    state = model.state_dict()
    model.eval()
    x = inputs(16, 1)[0]
    np.testing.assert_array_equal(model(x).data, model_with()(x).data)
    assert float(l2e_penalty(model)) == 0.0
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, state[name])


def test_penalty_is_no_parameter() -> None:
    """The tensor that a call leaves behind is not taken for one of the model's parameters."""
    model = model_with(L2E(0.1, start_after=1))
    for x in inputs(17, 4):
        model(x)
    names = [name for name, _ in model.named_parameters()]
    assert names == [name for name, _ in model_with().named_parameters()]


def test_module_resumes_bit_for_bit() -> None:
    """Moments and threshold are saved with the model; a bad state leaves it as it was."""
    whole = model_with(L2E(0.1, start_after=2))
    data = inputs(18, 12)
    for x in data[:6]:
        whole(x)
    resumed = model_with(L2E(0.1, start_after=2), seed=1)
    resumed.load_state_dict(whole.state_dict())
    for x in data[6:]:
        whole(x)
        resumed(x)
        assert float(l2e_penalty(whole)) == float(l2e_penalty(resumed))
    state = resumed.state_dict()
    bad = state | {"hidden.0.act.inserted.m2": -np.ones(12)}
    with pytest.raises(ValueError, match="m2 must be finite and not negative"):
        resumed.load_state_dict(bad)
    module = next(m for _, m in resumed.named_modules() if isinstance(m, L2E))
    before = module.threshold.value
    with pytest.raises(ValueError, match="m2 must be finite and not negative"):
        module.load_extra_state(module.extra_state() | {
            "m2": -np.ones(12), "threshold": np.array(7.0)
        })
    assert module.threshold.value == before
    for name, value in resumed.state_dict().items():
        np.testing.assert_array_equal(value, state[name])


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_does_not_take_the_tape(copied) -> None:
    """A model behind a long tape can be copied; the copy goes on alike and has no penalty yet."""
    module = L2E(0.1, start_after=1)
    rng = np.random.default_rng(19)
    for _ in range(3):
        x = mm.tensor(rng.standard_normal((8, 5)), requires_grad=True)
        for _ in range(3000):
            x = x + 0.0
        module(x)
    other = copied(module)
    with pytest.raises(RuntimeError, match="has not been called yet"):
        _ = other.penalty
    x = mm.tensor(rng.standard_normal((8, 5)))
    module(x), other(x)
    assert float(module.penalty) == float(other.penalty)


def test_l2e_penalty_adds_up_the_modules() -> None:
    model = mm.models.MLP((6, 12, 12, 3), rng=np.random.default_rng(20))
    with pytest.raises(ValueError, match="has no L2E module"):
        l2e_penalty(model)
    first, second = L2E(0.1, start_after=1), L2E(0.2, start_after=1)
    taps.insert(model, "hidden.0.act", first)
    taps.insert(model, "hidden.1.act", second)
    with pytest.raises(RuntimeError, match="has not been called yet"):
        l2e_penalty(model)
    for x in inputs(21, 4):
        model(x.astype(np.float32))
    total = l2e_penalty(model)
    assert total.dtype == np.float32
    assert float(total) == pytest.approx(float(first.penalty) + float(second.penalty), rel=1e-6)


def test_module_works_in_a_sequence_and_without_the_tape() -> None:
    """(position, channel) is a neuron; under no_grad the penalty is a constant."""
    layer = Sequential(Linear(4, 6, rng=np.random.default_rng(22)), L2E(0.1, start_after=1))
    rng = np.random.default_rng(23)
    with mm.no_grad():
        for _ in range(3):
            layer(mm.tensor(rng.standard_normal((8, 3, 4)), dtype=np.float32))
    module = next(m for _, m in layer.named_modules() if isinstance(m, L2E))
    assert module.last.mean.shape == (3, 6)
    assert not module.penalty.requires_grad


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"fraction": 0.0}, ValueError, "fraction is 0.0"),
        ({"fraction": 2}, ValueError, "fraction is 2"),
        ({"rate": 1.0}, ValueError, "rate is 1.0"),
        ({"start_after": -1}, ValueError, "L2E: start_after"),
        ({"forget_after": 0}, ValueError, "forget_after"),
        ({"compensation": -1.0}, ValueError, "compensation"),
    ],
)
def test_bad_settings_of_the_module(options, error, message) -> None:
    with pytest.raises(error, match=re.escape(message)):
        L2E(**options)


def test_bad_activations_leave_the_module_as_it_was() -> None:
    module = L2E(0.1, start_after=1)
    rng = np.random.default_rng(24)
    for _ in range(3):
        module(mm.tensor(rng.standard_normal((8, 5))))
    before = module.extra_state()
    z = rng.standard_normal((8, 5))
    z[1, 2] = np.nan
    with pytest.raises(ValueError, match="neuron 2 of sample 1 is nan"):
        module(mm.tensor(z))
    with pytest.raises(ValueError, match="earlier batches had"):
        module(mm.tensor(rng.standard_normal((8, 6))))
    with pytest.raises(TypeError, match="L2E: activations has dtype int64"):
        module(mm.tensor(np.ones((8, 5), dtype=np.int64)))
    for name, value in module.extra_state().items():
        np.testing.assert_array_equal(value, before[name])


# ---------------------------------------------------------------------------------------- GPU


@pytest.mark.gpu
def test_the_gpu_gives_the_same() -> None:
    """Selections, τ and penalties of a run agree with the CPU's; a state moves between them."""
    rng = np.random.default_rng(25)
    here, there = L2E(0.1, start_after=2), L2E(0.1, start_after=2)
    for step in range(8):
        z = rng.standard_normal((8, 5))
        x = mm.tensor(z, device="cuda", requires_grad=True)
        here(mm.tensor(z))
        there(x)
        if step == 5:
            there.to("cuda")
        assert float(here.penalty) == pytest.approx(float(there.penalty), rel=1e-12)
    assert there.penalty.device == "cuda"
    there.penalty.backward()
    assert backend.device_of(x.grad) == "cuda"
    label = rng.integers(0, 3, 8)
    for a, b in zip(
        feature_scale(z, label),
        feature_scale(x.data, backend.to_device(label, "cuda")),
        strict=True,
    ):
        np.testing.assert_allclose(a, backend.to_host(b), rtol=1e-12)


def test_defaults_are_those_of_the_documentation() -> None:
    module = L2E()
    assert (module.threshold.fraction, module.threshold.rate) == (0.02, 0.05)
    tracker = module.tracker
    assert (module.start_after, tracker.forget_after, tracker.compensation) == (10, 10, 0.01)
    threshold = MovingThreshold()
    assert (threshold.fraction, threshold.rate) == (0.02, 0.05)


def test_threshold_of_float32_scores_is_float64_and_may_be_below_1() -> None:
    threshold = MovingThreshold(0.5)
    threshold.select(np.array([[0.5, 0.25]], dtype=np.float32))
    assert threshold.value.dtype == np.float64
    other = MovingThreshold(0.5)
    other.load_state_dict(threshold.state_dict())
    assert other.value == threshold.value == 0.5


def test_the_mean_over_one_selected_activation_is_its_own() -> None:
    z, flags = mm.tensor(np.array([[4.0, 9.0]])), np.array([[True, False]])
    penalty = log_distance_penalty(z, flags, np.ones(2), reduction="mean")
    assert float(penalty) == pytest.approx(np.log(9.0))


def test_the_penalty_has_the_dtype_of_the_activations_before_there_is_one() -> None:
    module = L2E()
    z = mm.tensor(np.array([[1.0, 2.0], [2.0, 1.0]], dtype=np.float32))
    module(z)
    assert module.penalty.dtype == np.float32
    module.eval()(z)
    assert module.penalty.dtype == np.float32


def test_a_threshold_moved_by_a_count_is_one_that_compared_itself() -> None:
    counted, compared = MovingThreshold(0.1), MovingThreshold(0.1)
    with pytest.raises(RuntimeError, match=r"move: no τ yet; the first scores go to select"):
        counted.move(1, 10)
    assert not counted.started
    rng = np.random.default_rng(40)
    for number in range(20):
        phi = rng.exponential(size=(7, 30)).astype(np.float32)
        if number:
            counted.move(int((phi >= counted.value).sum()), phi.size)
            compared.select(phi)
        else:
            for threshold in (counted, compared):
                threshold.select(phi)
        assert counted.value.tobytes() == compared.value.tobytes()
    assert counted.started


def test_training_stores_no_scores_and_flags_what_they_would_have_flagged(monkeypatch) -> None:
    """On the CPU φ is compared with τ where it is made: bit for bit as if it had been stored."""
    asked = []
    survey = tracker_file.survey

    def watched(*arguments, **options):
        asked.append(options)
        return survey(*arguments, **options)

    monkeypatch.setattr(tracker_file, "survey", watched)
    module, tracker, threshold = L2E(0.1, start_after=1), ScaleTracker(compensation=0.01), None
    rng = np.random.default_rng(41)
    for number in range(6):
        z = np.round(rng.standard_t(3, size=(150, 6, 50)), 2).astype(np.float32)
        asked.clear()
        module(mm.tensor(z))
        if number >= 2:  # before that there is no τ
            assert [list(options) for options in asked] == [["threshold", "flag"]]
        phi = tracker.score(z)
        if number:
            threshold = threshold or MovingThreshold(0.1)
            np.testing.assert_array_equal(module.last.flagged, threshold.select(phi))
            assert module.threshold.value.tobytes() == threshold.value.tobytes()
        np.testing.assert_array_equal(module.last.scale, phi)
        for name, value in tracker.state_dict().items():
            assert module.tracker.state_dict()[name].tobytes() == value.tobytes()
