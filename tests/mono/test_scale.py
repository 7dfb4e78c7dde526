"""The monosemantic scale against exact rational arithmetic, closed forms and transcriptions."""

import math
import re
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from minimono import kernels
from minimono.mono.moments import Moments
from minimono.mono.scale import monosemantic_scale
from minimono.mono.tracker import ScaleTracker

EPS = 2.0**-52
TINY = 2.0**-1022


@pytest.fixture(params=["reading", "running"])
def version(request: pytest.FixtureRequest) -> Iterator[str]:
    with kernels.reference() if request.param == "reading" else nullcontext():
        yield request.param


def exact_phi(z: float, mean: float, variance: Fraction | float) -> Fraction:
    return (Fraction(z) - Fraction(mean)) ** 2 / Fraction(variance)


def assert_within_ulp(got: float, want: Fraction, ulp: float) -> None:
    if want > Fraction(np.finfo(np.float64).max):
        assert got == np.inf
    else:
        assert abs(Fraction(got) - want) <= Fraction(ulp) * Fraction(np.spacing(float(want)))


# ------------------------------------------------------------------- phi of given mean and variance


NUMBERS = st.floats(-1e300, 1e300)


@given(NUMBERS, NUMBERS, st.floats(TINY, 1.7e308))
def test_phi_is_exact_to_four_ulp(z: float, mean: float, variance: float) -> None:
    want = exact_phi(z, mean, variance)
    for switch in (kernels.reference(), nullcontext()):
        with switch:
            phi = monosemantic_scale(np.array([[z]]), np.array([mean]), np.array([variance]))
        assert_within_ulp(float(phi[0, 0]), want, 4)


@given(st.floats(-1e3, 1e3, width=32), st.floats(-1e3, 1e3), st.floats(1e-3, 1e3))
def test_float32_is_computed_in_float64_and_rounded_once(z, mean, variance) -> None:
    want = exact_phi(z, mean, variance)
    for switch in (kernels.reference(), nullcontext()):
        with switch:
            phi = monosemantic_scale(
                np.array([[z]], dtype=np.float32), np.array([mean]), np.array([variance])
            )
        assert phi.dtype == np.float32
        half = Fraction(0.5 + 1e-7) * Fraction(float(np.spacing(np.float32(float(want)))))
        assert abs(Fraction(float(phi[0, 0])) - want) <= half


@pytest.mark.parametrize(
    ("dtype", "result"),
    [
        (np.float32, np.float32),
        (np.float64, np.float64),
        (np.float16, np.float64),
        (np.int32, np.float64),
        (np.bool, np.float64),
    ],
)
def test_dtypes(dtype, result, version: str) -> None:
    z = np.array([[0, 1], [1, 1]]).astype(dtype)
    phi = monosemantic_scale(z, np.array([0.5, 0.0], np.float32), np.array([0.25, 4.0], np.float32))
    assert phi.dtype == result
    np.testing.assert_array_equal(phi, [[1, 0.25], [1, 0.25]])


def test_undefined_is_nan_and_silent(version: str) -> None:
    z = np.array([[1.0, 1.0, 1.0, 1.0, 2.0]])
    mean = np.array([1.0, 0.0, 0.0, np.nan, 0.0])
    variance = np.array([0.0, 0.0, np.nan, 1.0, 4.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        phi = monosemantic_scale(z, mean, variance)
    np.testing.assert_array_equal(phi, [[np.nan, np.nan, np.nan, np.nan, 1.0]])


@pytest.mark.parametrize(
    ("z", "variance", "want"),
    [
        (1e-160, 1e-300, 1e-20),  # the square has lost its digits, phi has not
        (1e200, 1e300, 1e100),  # the square overflows, phi does not
        (1e-5, 1e308, 1e-318),
        (1e-170, 5e-324, np.nan),  # such a variance has no digits left
        (1e-160, TINY / 2, np.nan),
        (1e200, 1e-300, np.inf),  # too large for float64
    ],
)
def test_extremes(z: float, variance: float, want: float, version: str) -> None:
    phi = monosemantic_scale(np.array([[z]]), np.zeros(1), np.array([variance]))
    np.testing.assert_allclose(phi, [[want]], rtol=4 * EPS, atol=5e-324)


def test_too_large_for_float32_is_infinite(version: str) -> None:
    z = np.ones((1, 1), np.float32)
    assert monosemantic_scale(z, np.zeros(1), np.array([1e-60]))[0, 0] == np.inf


@given(
    st.lists(st.floats(0, 1e6), min_size=2, max_size=6).filter(lambda v: sum(v) > 1e-6),
    st.sampled_from([0.01, 0.5, 3.0]),
)
def test_compensation_is_algorithm_2(variance, compensation: float) -> None:
    z, mean = np.arange(1.0, len(variance) + 1), np.full(len(variance), 0.5)
    phi = monosemantic_scale(z[None], mean, np.array(variance), compensation=compensation)[0]
    share = Fraction(compensation) * sum(map(Fraction, variance)) / len(variance)
    for j, v in enumerate(variance):
        want = exact_phi(z[j], mean[j], Fraction(v) + share)
        assert abs(Fraction(phi[j]) - want) <= want * Fraction(16 * EPS)


def test_compensation_averages_over_all_axes_and_gives_constant_neurons_a_score() -> None:
    variance = np.array([[0.0, 2.0], [4.0, 2.0]])
    phi = monosemantic_scale(np.ones((1, 2, 2)), np.zeros((2, 2)), variance, compensation=0.5)
    np.testing.assert_array_equal(phi, 1 / (variance + 1.0)[None])


def test_compensation_needs_every_variance_and_none_leaves_each_its_own() -> None:
    z, mean, variance = np.ones((1, 2)), np.zeros(2), np.array([np.nan, 1.0])
    assert np.isnan(monosemantic_scale(z, mean, variance, compensation=0.01)).all()
    np.testing.assert_array_equal(monosemantic_scale(z, mean, variance), [[np.nan, 1.0]])


def test_statistics_may_keep_the_batch_axis(version: str) -> None:
    z = np.random.default_rng(0).normal(size=(5, 2, 3))
    mean, variance = z.mean(axis=0), z.var(axis=0)
    want = monosemantic_scale(z, mean, variance)
    np.testing.assert_array_equal(monosemantic_scale(z, mean[None], variance[None]), want)
    np.testing.assert_allclose(want, (z - mean) ** 2 / variance, rtol=4 * EPS)


# --------------------------------------------------------------------------------------- invariants


@given(
    st.integers(2, 12),
    st.integers(1, 4),
    st.integers(0, 2**32 - 1),
    st.floats(-1e3, 1e3),
    st.floats(0.01, 100),
    st.sampled_from([-1, 1]),
)
def test_shift_and_scale_do_not_matter(m, n, seed, shift, scale, sign) -> None:
    rng = np.random.default_rng(seed)
    past, z = rng.integers(-50, 51, size=(m, n)) / 8, rng.integers(-50, 51, size=(3, n)) / 8

    def phi(past, z):
        moments = Moments.of(past)
        return monosemantic_scale(z, moments.mean, moments.variance())

    one, other = phi(past, z), phi(sign * scale * past + shift, sign * scale * z + shift)
    defined = past.std(axis=0) > 0
    assume(defined.any())
    spread = (scale * past.std(axis=0, ddof=1))[defined]
    kappa = (scale * 7 + abs(shift)) / spread
    root = np.sqrt(one[:, defined])
    eta = 16 * EPS * kappa
    allowed = eta * (2 * root + 2 * root**2 + eta) + 8 * EPS * root**2
    assert (abs(one - other)[:, defined] <= allowed).all()


@given(st.integers(0, 2**32 - 1), st.integers(-200, 200))
def test_scaling_by_a_power_of_two_is_bit_exact(seed: int, power: int) -> None:
    rng = np.random.default_rng(seed)
    past, z = rng.normal(size=(7, 4)), rng.normal(size=(3, 4))
    for convention in ("paper", "authors"):
        one = ScaleTracker(convention=convention, compensation=0.01)
        other = ScaleTracker(convention=convention, compensation=0.01)
        one.score(past)
        other.score(np.ldexp(past, power))
        np.testing.assert_array_equal(one.score(z), other.score(np.ldexp(z, power)))


@given(st.permutations(range(6)), st.sampled_from(["paper", "authors"]))
def test_permuting_neurons_permutes_phi(order, convention) -> None:
    rng = np.random.default_rng(2)
    one, other = ScaleTracker(convention=convention), ScaleTracker(convention=convention)
    for _ in range(3):
        z = rng.normal(size=(4, 6))
        np.testing.assert_array_equal(one.score(z)[:, order], other.score(z[:, order]))


@given(st.integers(2, 30), st.integers(0, 2**32 - 1))
def test_samuelson(n: int, seed: int) -> None:
    """With the batch's own statistics (ddof=0): the scores sum to n, and none exceeds n - 1."""
    z = np.random.default_rng(seed).standard_cauchy(size=(n, 3))
    moments = Moments.of(z)
    phi = monosemantic_scale(z, moments.mean, moments.variance(ddof=0))
    np.testing.assert_allclose(phi.sum(axis=0), n, rtol=1e-11)
    assert (phi <= (n - 1) * (1 + 1e-11)).all()


def test_samuelson_bound_is_reached_by_a_single_outlier(version: str) -> None:
    z = np.zeros((9, 1))
    z[4] = 1.0
    moments = Moments.of(z)
    phi = monosemantic_scale(z, moments.mean, moments.variance(ddof=0))
    np.testing.assert_allclose(phi[:, 0], [1 / 8] * 4 + [8] + [1 / 8] * 4, rtol=8 * EPS)


@pytest.mark.parametrize(("fires", "m"), [(1, 2), (1, 8), (3, 1000), (25, 100_000)])
def test_a_neuron_that_fires_with_probability_p(fires: int, m: int, version: str) -> None:
    """phi at a firing is (1 - p) / p, at rest p / (1 - p), both times (m - 1) / m."""
    past = np.zeros((m, 1))
    past[:fires] = 1.0
    moments = Moments.of(past)
    phi = monosemantic_scale(np.array([[1.0], [0.0]]), moments.mean, moments.variance())[:, 0]
    p = Fraction(fires, m)
    assert phi[0] == pytest.approx(float((1 - p) / p * (m - 1) / m), rel=1e-13)
    assert phi[1] == pytest.approx(float(p / (1 - p) * (m - 1) / m), rel=1e-13)


def test_a_gaussian_neuron_follows_f() -> None:
    """phi is (m + 1) / m times an F(1, m - 1) variable."""
    m, neurons = 10, 100_000
    rng = np.random.default_rng(11)
    tracker = ScaleTracker()
    tracker.score(rng.normal(3.0, 2.0, size=(m, neurons)))
    f = tracker.score(rng.normal(3.0, 2.0, size=(1, neurons)))[0] * m / (m + 1)
    d = m - 1  # F(1, d)
    mean = d / (d - 2)
    variance = 2 * d**2 * (d - 1) / ((d - 2) ** 2 * (d - 4))
    error = math.sqrt(variance / neurons)
    assert error < 0.01  # a variance with ddof=0, or z in its own mean, is off by 10 % or more
    assert abs(f.mean() - mean) < 4 * error
    assert abs((f > 5.117355).mean() - 0.05) < 4 * math.sqrt(0.05 * 0.95 / neurons)  # F table


# ------------------------------------------------------------------------- the paper's trajectory


def columns(z) -> list[list[Fraction]]:
    return [[Fraction(float(v)) for v in column] for column in z.T]


def paper_in_fractions(batches, forget_after, compensation):
    """Algorithms 1 and 2, exactly, neuron by neuron: phi of each call and the final moments."""
    states, scores = None, []
    for seen, z in enumerate(batches):
        b = len(z)
        if states is None:
            states = []
            for column in columns(z):
                mean = sum(column) / b
                states.append((b, mean, sum((v - mean) ** 2 for v in column) / (b - 1)))
            continue
        share = compensation * sum(s2 for _, _, s2 in states) / len(states)
        phi, new = [], []
        for (m, mean, s2), column in zip(states, columns(z), strict=True):
            phi.append([(v - mean) ** 2 / (s2 + share) for v in column])
            if forget_after is not None and seen >= forget_after:
                m = b * forget_after
            mu = sum(column) / b
            biased = sum((v - mu) ** 2 for v in column) / b
            s2 = Fraction(m * b, (m + b - 1) * (m + b)) * (mean - mu) ** 2 + (
                b * biased + (m - 1) * s2
            ) / (m + b - 1)
            new.append((m + b, (m * mean + b * mu) / (m + b), s2))
        states = new
        scores.append(phi)
    return scores, states


def some_batches(sizes, n: int, seed: int, dtype=np.float64) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [(rng.normal(size=(b, n)) * [1.0, 10.0, 0.1][:n] + 5).astype(dtype) for b in sizes]


@pytest.mark.parametrize("forget_after", [None, 1, 2, 4])
@pytest.mark.parametrize("compensation", [0.0, 0.01])
@pytest.mark.parametrize("sizes", [(4,) * 7, (3, 1, 5, 2, 1, 4, 6)])
def test_paper_trajectory(forget_after, compensation, sizes, version: str) -> None:
    batches = some_batches(sizes, 3, seed=6)
    scores, states = paper_in_fractions(batches, forget_after, Fraction(compensation))
    tracker = ScaleTracker(forget_after=forget_after, compensation=compensation)
    assert np.isnan(tracker.score(batches[0])).all()
    for z, want in zip(batches[1:], scores, strict=True):
        want = np.array(want, dtype=np.float64).T
        np.testing.assert_allclose(tracker.score(z), want, rtol=1e-11, atol=1e-12)
    assert tracker.batches_seen == len(sizes)
    assert tracker.count == states[0][0]
    np.testing.assert_allclose(tracker.mean, [float(mean) for _, mean, _ in states], rtol=1e-14)
    np.testing.assert_allclose(tracker.variance, [float(s2) for _, _, s2 in states], rtol=1e-13)


def test_never_forgetting_is_the_whole_history(version: str) -> None:
    batches = some_batches([5, 1, 7, 2], 3, seed=7)
    tracker = ScaleTracker(forget_after=None)
    for z in batches:
        tracker.score(z)
    everything = np.concatenate(batches)
    assert tracker.count == len(everything)
    np.testing.assert_allclose(tracker.mean, everything.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(tracker.variance, everything.var(axis=0, ddof=1), rtol=1e-13)


def test_forgetting_starts_only_after_forget_after_batches() -> None:
    """With batches of one size the fifth batch is the first to be merged into a lighter past."""
    forgetful, whole = ScaleTracker(forget_after=3), ScaleTracker(forget_after=None)
    for call, z in enumerate(some_batches([4] * 7, 3, seed=8), start=1):
        forgetful.score(z)
        whole.score(z)
        assert np.array_equal(forgetful.mean, whole.mean) == (call <= 4)
        assert forgetful.count == 4 * min(call, 4)


# ----------------------------------------------------------------------- the authors' trajectory


class AuthorsLiteral:
    """The module's steps as published in code, written down one by one, in a dtype of choice."""

    def __init__(self, upper: int, compensation: float, dtype) -> None:
        self.upper, self.compensation, self.dtype = upper, compensation, dtype
        self.calls = 0

    def score(self, h):
        h = h.astype(self.dtype)
        b = h.shape[0]
        self.calls += 1
        batch_mean = h.mean(axis=0, keepdims=True)
        batch_var = ((h - batch_mean) ** 2).mean(axis=0, keepdims=True)
        if self.calls == 1:
            self.var = batch_var * self.dtype(b / (b - 1))
            self.mean = batch_mean
            return None
        c = self.calls if self.calls < self.upper else self.upper
        self.var = (
            self.var * self.dtype(c - 1 / b)
            + batch_var
            + (batch_mean - self.mean) ** 2 / self.dtype(1 + 1 / c)
        ) / self.dtype(c + 1 - 1 / b)
        self.mean = (self.dtype(c) * self.mean + batch_mean) / self.dtype(c + 1)
        return (h - self.mean) ** 2 / (self.var + self.dtype(self.compensation) * self.var.mean())


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float64, 1e-11), (np.float32, 2e-4)])
@pytest.mark.parametrize("upper", [1, 3, 10])
@pytest.mark.parametrize("compensation", [0.0, 0.01])
@pytest.mark.parametrize("sizes", [(4,) * 14, (3, 1, 5, 2, 1, 4, 6, 1, 2, 2, 7, 1, 3)])
def test_authors_trajectory(dtype, rtol, upper, compensation, sizes, version: str) -> None:
    """Call by call against a literal transcription. In float32, as theirs, it agrees to float32."""
    tracker = ScaleTracker(convention="authors", forget_after=upper, compensation=compensation)
    literal = AuthorsLiteral(upper, compensation, dtype)
    for call, z in enumerate(some_batches(sizes, 3, seed=9, dtype=np.float32)):
        phi, want = tracker.score(z.astype(np.float64)), literal.score(z)
        if call == 0:
            assert np.isnan(phi).all()
            continue
        np.testing.assert_allclose(phi, want, rtol=rtol, atol=rtol)
        np.testing.assert_allclose(tracker.mean, literal.mean[0], rtol=rtol)
        np.testing.assert_allclose(tracker.variance, literal.var[0], rtol=rtol)


@given(st.lists(st.integers(-99, 99), min_size=2, max_size=11))
def test_authors_first_batch_counts_twice(means) -> None:
    """While n <= U = 10: mean_n = (2 u_1 + u_2 + ... + u_n) / (n + 1)."""
    tracker = ScaleTracker(convention="authors", forget_after=10)
    for n, u in enumerate(means[:10], start=1):
        tracker.score(np.array([[u - 1.0], [u + 1.0]]))
        if n > 1:
            want = Fraction(means[0] + sum(means[:n]), n + 1)
            assert abs(Fraction(tracker.mean[0]) - want) <= Fraction(1, 10**12)


@given(st.integers(1, 5), st.integers(1, 10), st.floats(1.0, 1e12), st.integers(0, 2**32 - 1))
def test_authors_phi_is_bounded(b: int, upper: int, outlier: float, seed: int) -> None:
    """The batch is in the moments that score it: phi <= (M - 1)² / M, M = b (U + 1)."""
    rng = np.random.default_rng(seed)
    tracker = ScaleTracker(convention="authors", forget_after=upper)
    tracker.score(rng.normal(size=(max(b, 2), 2)))
    total = b * (upper + 1)
    for _ in range(upper + 2):
        z = rng.normal(size=(b, 2))
        z[0, 0] += outlier
        assert tracker.score(z).max() <= (total - 1) ** 2 / total * (1 + 1e-9)


def test_authors_bound_is_nearly_reached_and_the_paper_has_none() -> None:
    rest, spike = np.tile([[1e-6], [-1e-6], [1e-6], [-1e-6]], (1, 1)), np.zeros((4, 1))
    spike[0] = 1.0
    scores = {}
    for convention in ("paper", "authors"):
        tracker = ScaleTracker(convention=convention, forget_after=10)
        for _ in range(12):
            tracker.score(rest)
        scores[convention] = tracker.score(spike)[0, 0]
    assert 42.0 < scores["authors"] <= 43**2 / 44  # b = 4, U = 10: 42.02
    assert scores["paper"] > 1e11


# ------------------------------------------------------------------------------- the tracker itself


@pytest.mark.parametrize("convention", ["paper", "authors"])
def test_constant_neurons_stay_undefined_until_they_move(convention, version: str) -> None:
    tracker = ScaleTracker(convention=convention)
    still, moved = np.full((3, 2), 0.1), np.array([[0.1, 0.1], [0.1, 0.3]])
    for _ in range(12):
        assert np.isnan(tracker.score(still)).all()
    tracker.score(moved)
    phi = tracker.score(moved)
    assert np.isnan(phi[:, 0]).all()
    assert np.isfinite(phi[:, 1]).all()


@pytest.mark.parametrize("convention", ["paper", "authors"])
def test_float32_batches(convention, version: str) -> None:
    one, other = ScaleTracker(convention=convention), ScaleTracker(convention=convention)
    for z in some_batches([3, 4, 2], 3, seed=10, dtype=np.float32):
        phi = one.score(z)
        assert phi.dtype == np.float32
        np.testing.assert_array_equal(phi, other.score(z.astype(np.float64)).astype(np.float32))
    assert one.mean.dtype == one.variance.dtype == np.float64
    np.testing.assert_array_equal(one.mean, other.mean)


def test_feature_maps(version: str) -> None:
    z = np.random.default_rng(12).normal(size=(4, 3, 2, 2))
    maps, flat = ScaleTracker(compensation=0.01), ScaleTracker(compensation=0.01)
    for _ in range(3):
        phi = maps.score(z)  # (B, C, H, W)
        np.testing.assert_array_equal(phi.reshape(4, 12), flat.score(z.reshape(4, 12)))
    assert maps.mean.shape == maps.variance.shape == (3, 2, 2)


@pytest.mark.parametrize("convention", ["paper", "authors"])
def test_first_batch_of_one(convention) -> None:
    tracker = ScaleTracker(convention=convention)
    with pytest.raises(
        ValueError, match=r"first batch has 1 sample.*start with a batch of at least"
    ):
        tracker.score(np.ones((1, 3)))
    assert tracker.batches_seen == tracker.count == 0
    tracker.score(np.ones((2, 3)))
    tracker.score(np.ones((1, 3)))
    assert tracker.batches_seen == 2


@pytest.mark.parametrize("convention", ["paper", "authors"])
@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        (np.array([[1.0, np.nan]]), ValueError, "neuron 1 of sample 0 is nan"),
        (np.array([[1.0, -np.inf]]), ValueError, "neuron 1 of sample 0 is -inf"),
        (np.array([[1e300, 1.0]] * 2), ValueError, "m2 must be finite"),
        (np.ones((2, 2), complex), TypeError, "has dtype complex128"),
        (np.zeros((0, 2)), ValueError, "expected a sample and a neuron"),
        (
            np.ones((2, 3)),
            ValueError,
            r"batch has neurons of shape \(3,\), earlier batches had \(2,\)",
        ),
    ],
)
def test_a_bad_batch_leaves_the_state_as_it_was(convention, batch, error, message, version) -> None:
    tracker = ScaleTracker(convention=convention)
    with pytest.raises(RuntimeError, match=r"ScaleTracker\.mean: no batch has been scored yet"):
        tracker.mean  # noqa: B018
    with pytest.raises(RuntimeError, match=r"ScaleTracker\.variance: no batch"):
        tracker.variance  # noqa: B018
    for z in some_batches([2, 3], 2, seed=13):
        tracker.score(z)
    before = tracker.state_dict()
    with pytest.raises(error, match=message):
        tracker.score(batch)
    for name, value in tracker.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize("convention", ["paper", "authors"])
@pytest.mark.parametrize("calls", [0, 1, 2, 5])
def test_state_goes_on_bit_for_bit(convention, calls: int, tmp_path) -> None:
    batches = some_batches([3] * 8, 3, seed=14)
    one = ScaleTracker(convention=convention, forget_after=3, compensation=0.01)
    for z in batches[:calls]:
        one.score(z)
    np.savez(tmp_path / "state.npz", **one.state_dict())
    other = ScaleTracker(convention=convention, forget_after=3, compensation=0.01)
    other.score(np.zeros((2, 99)))  # what is loaded replaces what was there
    with np.load(tmp_path / "state.npz", allow_pickle=False) as state:
        other.load_state_dict(dict(state))
    assert (other.batches_seen, other.count) == (one.batches_seen, one.count)
    for z in batches[calls:]:
        np.testing.assert_array_equal(one.score(z), other.score(z))
    np.testing.assert_array_equal(one.variance, other.variance)


def test_state_is_a_copy() -> None:
    tracker = ScaleTracker()
    tracker.score(np.array([[1.0], [3.0]]))
    state = tracker.state_dict()
    tracker.load_state_dict(state)
    state["mean"][0] = state["m2"][0] = 99.0
    assert (tracker.mean[0], tracker.variance[0]) == (2.0, 2.0)


EMPTY = ScaleTracker().state_dict()
GOOD = {
    "batches_seen": np.array(2),
    "count": np.array(6),
    "mean": np.zeros(3),
    "m2": np.ones(3),
}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"extra": np.array(1)}, ValueError, r"has entries .*'extra'.*expected \['batches_seen', "),
        ({"mean": None}, ValueError, r"has entries \['batches_seen', 'count', 'm2'\], expected"),
        ({"mean": np.zeros(3, np.float32)}, TypeError, "mean has dtype float32 and m2 float64"),
        ({"mean": np.zeros(2)}, ValueError, r"mean has shape \(2,\) and m2 has \(3,\)"),
        ({"m2": np.array([0.0, -1.0, 0.0])}, ValueError, "not negative.*neuron 1"),
        ({"mean": np.array([0.0, 0.0, np.nan])}, ValueError, "mean must be finite: neuron 2"),
        ({"count": np.array(1)}, ValueError, "count is 1 after a batch, expected 2 or more"),
        ({"count": np.array(2.5)}, TypeError, "count is .*expected a whole number"),
        ({"batches_seen": np.array(-1)}, ValueError, "batches_seen is -1, expected 0 or more"),
        ({"batches_seen": np.array(0)}, ValueError, "batches_seen is 0, expected an empty"),
        ({**EMPTY, "count": np.array(2)}, ValueError, "batches_seen is 0, expected an empty"),
        ({**EMPTY, "mean": np.zeros(2)}, ValueError, "batches_seen is 0, expected an empty"),
        ({**EMPTY, "m2": np.zeros(2)}, ValueError, "batches_seen is 0, expected an empty"),
    ],
)
def test_a_bad_state_leaves_the_tracker_as_it_was(change, error, message: str) -> None:
    tracker = ScaleTracker()
    tracker.score(np.array([[1.0], [3.0]]))
    state = {name: value for name, value in (GOOD | change).items() if value is not None}
    with pytest.raises(error, match=message):
        tracker.load_state_dict(state)
    assert (tracker.batches_seen, tracker.count, tracker.mean[0]) == (1, 2, 2.0)
    tracker.load_state_dict(GOOD)
    assert tracker.count == 6


# ---------------------------------------------------------------------------------------- bad input


Z = np.ones((2, 8))
M, V = np.zeros(8), np.ones(8)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((Z, M[:4], V), ValueError, "mean has shape (4,), expected (8,): activations have 8"),
        ((Z, M, V[:4]), ValueError, "variance has shape (4,), expected (8,): activations have 8"),
        ((Z, np.array(0.0), V), ValueError, "mean has shape (), expected (8,): activations have 8"),
        ((Z, np.zeros((2, 8)), V), ValueError, "mean has shape (2, 8), expected (8,): activations"),
        (
            (Z.reshape(2, 4, 2), M, V),
            ValueError,
            "mean has shape (8,), expected (4, 2): activations have neurons",
        ),
        ((Z, M, -V), ValueError, "variance must be finite and not negative: neuron 0 has -1.0"),
        ((Z, M, V * np.inf), ValueError, "variance must be finite and not negative: neuron 0"),
        ((Z, M + np.inf, V), ValueError, "mean must not be infinite: neuron 0 has inf"),
        ((Z * np.nan, M, V), ValueError, "z: neuron 0 of sample 0 is nan, expected finite numbers"),
        ((Z * np.inf, M, V), ValueError, "z: neuron 0 of sample 0 is inf"),
        ((Z.astype(complex), M, V), TypeError, "z has dtype complex128"),
        ((Z, M.astype(complex), V), TypeError, "mean has dtype complex128, expected real numbers"),
        ((Z, M, V.astype(object)), TypeError, "variance has dtype object, expected real numbers"),
        ((Z[:0], M, V), ValueError, "z has shape (0, 8)"),
    ],
)
def test_bad_arguments(arguments, error, message: str) -> None:
    with pytest.raises(error, match=re.escape(f"monosemantic_scale: {message}")):
        monosemantic_scale(*arguments)


def test_activations_whose_sum_overflows_are_fine() -> None:
    z = np.full((2, 1), 1.7e308)
    np.testing.assert_allclose(
        monosemantic_scale(z, np.zeros(1), np.array([1.7e308])), [[1.7e308]] * 2, rtol=4 * EPS
    )


@pytest.mark.parametrize(
    ("compensation", "error", "message"),
    [
        (-0.1, ValueError, "compensation is -0.1, expected a finite number, 0 or more"),
        (np.nan, ValueError, "compensation is nan, expected"),
        (np.inf, ValueError, "compensation is inf, expected"),
        (True, TypeError, "compensation is True, expected a number"),
        ("1", TypeError, "compensation is '1', expected a number"),
    ],
)
def test_bad_compensation(compensation, error, message: str) -> None:
    with pytest.raises(error, match=message):
        monosemantic_scale(Z, M, V, compensation=compensation)
    with pytest.raises(error, match=message):
        ScaleTracker(compensation=compensation)


def test_compensation_that_overflows() -> None:
    with pytest.raises(
        ValueError, match=r"mean\(variance\) overflows float64; .*: neuron 0 has inf"
    ):
        monosemantic_scale(Z, M, V * 1e308, compensation=0.01)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"convention": "code"}, ValueError, "convention is 'code', expected \"paper\" or"),
        ({"convention": "authors", "forget_after": None}, ValueError, 'for convention "authors"'),
        ({"forget_after": 0}, ValueError, "forget_after is 0, expected 1 or more"),
        ({"forget_after": 2.0}, TypeError, "forget_after is 2.0, expected a whole number"),
        ({"forget_after": True}, TypeError, "forget_after is True, expected a whole number"),
    ],
)
def test_bad_settings(arguments, error, message: str) -> None:
    with pytest.raises(error, match=message):
        ScaleTracker(**arguments)


@pytest.mark.gpu
@pytest.mark.parametrize("convention", ["paper", "authors"])
def test_on_the_gpu(convention) -> None:
    from minimono.backend import device_of, to_device, to_host

    here = ScaleTracker(convention=convention, forget_after=2, compensation=0.01)
    there = ScaleTracker(convention=convention, forget_after=2, compensation=0.01)
    for call, z in enumerate(some_batches([4] * 6, 3, seed=15, dtype=np.float32)):
        phi = there.score(to_device(z, "cuda"))
        assert device_of(phi) == "cuda"
        np.testing.assert_allclose(to_host(phi), here.score(z), rtol=1e-6, atol=1e-9)
        if call == 2:  # a loaded state is on the host, and follows the next batch
            there.load_state_dict(there.state_dict())


def test_the_smallest_denominator_that_counts(version: str) -> None:
    """2.2e-308, the smallest normal number; below it φ is undefined."""
    tiny = np.finfo(np.float64).tiny
    variance = np.array([tiny, np.nextafter(tiny, 0)])
    phi = monosemantic_scale(np.array([[1e-150, 1e-150]]), np.zeros(2), variance)
    assert phi[0, 0] == pytest.approx(1e-300 / tiny)
    assert np.isnan(phi[0, 1])
    assert ScaleTracker().forget_after == 10
