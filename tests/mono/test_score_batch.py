"""`score_batch` and `ScaleTracker.flag_top_k`: one pass gives what the formula gives."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimono import kernels
from minimono.kernels import cpu_scale
from minimono.mono import Moments, ScaleTracker, monosemantic_scale, score_batch, select_top_k

SHAPES = [
    (1, 1),
    (2, 3),
    (cpu_scale.ROWS, cpu_scale.LANES + 1),
    (cpu_scale.SAMPLES + 9, 3 * cpu_scale.LANES + 5),
    (2 * cpu_scale.SAMPLES + 5, cpu_scale.NEURONS + 7),
    (3, 2 * cpu_scale.NEURONS + 1),
    (7, 3, 5, 2),
    (4, 60, 30),
]


def history(shape, rng) -> Moments:
    return Moments.of(rng.normal(1.0, 2.0, size=(9, *shape)))


def assert_is_the_truth(z, moments, **options) -> None:
    """Against φ as `monosemantic_scale` gives it, and against the reading version."""
    scores = score_batch(z, moments, **options)
    with kernels.reference():
        reading = score_batch(z, moments, **options)
    compensation = options.get("compensation", 0.0)
    phi = monosemantic_scale(z, moments.mean, moments.variance(), compensation=compensation)
    np.testing.assert_array_equal(scores.maximum, phi.max(axis=0))
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(scores.mean, phi.mean(axis=0, dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(scores.mean, reading.mean, rtol=1e-12)
    np.testing.assert_allclose(scores.batch.mean, reading.batch.mean, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(scores.batch.m2, reading.batch.m2, rtol=1e-12)
    for name in ("maximum", "top", "phi"):
        one, other = getattr(scores, name), getattr(reading, name)
        assert (one is None) == (other is None)
        if one is not None:
            assert one.dtype == other.dtype == phi.dtype
            np.testing.assert_allclose(one, other, rtol=4 * np.finfo(phi.dtype).eps)
    if options.get("keep_phi"):
        np.testing.assert_array_equal(scores.phi, phi)
    if "threshold" in options:
        above = phi >= np.asarray(options["threshold"], np.float64)
        np.testing.assert_array_equal(scores.count_above, above.sum(axis=0))
    if k := options.get("top_k", 0):
        flat = phi.reshape(len(z), -1)
        order = np.argsort(-flat, axis=1, kind="stable")[:, :k]  # nan last
        top = np.take_along_axis(flat, order, axis=1)
        np.testing.assert_array_equal(scores.top, top)
        np.testing.assert_array_equal(scores.top_index, np.where(np.isnan(top), -1, order))


@pytest.mark.parametrize("keep_phi", [False, True])
@pytest.mark.parametrize("k", [0, 1, 3, 40, 200])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_reduction(shape, dtype, k: int, keep_phi: bool) -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(1.0, 2.0, size=shape).astype(dtype)
    moments = history(shape[1:], rng)
    k = min(k, z[0].size)
    assert_is_the_truth(z, moments, top_k=k, keep_phi=keep_phi)
    assert_is_the_truth(z, moments, top_k=k, keep_phi=keep_phi, threshold=2.5, compensation=0.01)


@given(st.data())
def test_ties_and_constant_neurons(data) -> None:
    """Few different values: ties in every sample, scores equal to the threshold, undefined ones."""
    samples, neurons = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 300))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    z = rng.integers(0, 4, (samples, neurons)).astype(data.draw(st.sampled_from("fd")))
    moments = Moments.of(rng.integers(0, 3, (2, neurons)).astype(float))
    k = data.draw(st.integers(1, neurons))
    assert_is_the_truth(z, moments, top_k=k, threshold=data.draw(st.sampled_from([0.5, 2, 4.5])))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scores_too_large_or_too_small_for_their_dtype(dtype) -> None:
    """φ that overflows to infinity, or is rounded to zero, still ties and is ranked as φ is."""
    rng = np.random.default_rng(1)
    shape = (5, 3 * cpu_scale.NEURONS + 11)
    z = rng.normal(size=shape).astype(dtype)
    variance = 10.0 ** rng.uniform(-307, 307, shape[1:])
    variance[::7] = 0.0
    moments = Moments(3, rng.normal(size=shape[1:]), 2.0 * variance)
    for k in (1, 5, cpu_scale.LANES + 3, shape[1]):
        with np.errstate(over="ignore"):
            phi = monosemantic_scale(z, moments.mean, moments.variance())
        scores = score_batch(z, moments, top_k=k)
        order = np.argsort(-phi, axis=1, kind="stable")[:, :k]
        np.testing.assert_array_equal(scores.top, np.take_along_axis(phi, order, axis=1))
        np.testing.assert_array_equal(scores.maximum, phi.max(axis=0))


def test_squares_that_overflow_leave_out_nothing() -> None:
    """(z - mean)² is infinite where φ = 1e310 / 1e300 is not."""
    z = np.zeros((1, 300))
    z[0, 5], z[0, 7], z[0, 250] = 1e155, 3e10, 2e10
    variance = np.ones(300)
    variance[5] = 1e300
    scores = score_batch(z, Moments(2, np.zeros(300), variance), top_k=3)
    assert scores.top_index.tolist() == [[7, 250, 5]]
    np.testing.assert_allclose(scores.top, [[9e20, 4e20, 1e10]], rtol=1e-15)


def test_a_history_too_short_for_a_variance() -> None:
    z = np.ones((3, 4))
    for moments in (Moments.empty((4,)), Moments.of(z[:1])):
        scores = score_batch(z, moments, top_k=2, threshold=0)
        assert np.isnan(scores.maximum).all()
        assert np.isnan(scores.mean).all()
        assert not scores.count_above.any()
        assert np.isnan(scores.top).all()
        assert (scores.top_index == -1).all()


def test_layouts() -> None:
    rng = np.random.default_rng(2)
    wide = rng.normal(size=(20, 8, 30)).astype(np.float32)
    z = wide[::2, :, ::3]
    moments = history(z.shape[1:], rng)
    for same in (z, np.asfortranarray(z), z[::-1].copy()[::-1], z.astype(">f4")):
        scores = score_batch(same, moments, top_k=4)
        want = score_batch(np.ascontiguousarray(z), moments, top_k=4)
        np.testing.assert_array_equal(scores.top_index, want.top_index)
        np.testing.assert_array_equal(scores.batch.m2, want.batch.m2)


def test_a_stream_is_one_batch() -> None:
    """Exactly, in rational arithmetic: the history after many batches is that of all samples."""
    steps = np.random.default_rng(3).integers(-4096, 4096, (700, 3))
    z = 100.0 + steps / 1024.0  # held exactly
    moments = Moments.of(z[:2])
    for start in range(2, 700, 97):
        moments = moments.merge(score_batch(z[start : start + 97], moments, top_k=1).batch)
    assert moments.count == 700
    for j in range(3):
        column = [Fraction(int(s), 1024) for s in steps[:, j]]
        mean = sum(column) / 700
        m2 = float(sum((c - mean) ** 2 for c in column))
        assert abs(moments.m2[j] - m2) <= 1e-13 * m2


@pytest.mark.parametrize("samples", [9, cpu_scale.SAMPLES, 200])
def test_the_worst_centre_costs_three_bits(samples: int) -> None:
    """A tile's sums are about the mean of its first rows; here that is as far off as it can be."""
    z = np.full((samples, 2), 1.0)
    z[: cpu_scale.ROWS] = 1e6 / 3
    exact = []
    for j in range(2):
        column = [Fraction(float(v)) for v in z[:, j]]
        mean = sum(column) / samples
        exact.append(float(sum((c - mean) ** 2 for c in column)))
    _, m2 = cpu_scale.batch_moments(z)
    np.testing.assert_allclose(m2, exact, rtol=2e-15)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_bad_activations_are_named(bad: float) -> None:
    rng = np.random.default_rng(4)
    z = rng.normal(size=(4, 5))
    moments = history((5,), rng)
    z[2, 3] = bad
    with pytest.raises(ValueError, match=r"neuron 3 of sample 2 is -?(nan|inf)"):
        score_batch(z, moments, top_k=1)


def test_bad_arguments() -> None:
    z, moments = np.ones((2, 3)), Moments.of(np.eye(3))
    for message, options in {
        "top_k is 4, but a sample has only 3 scores": {"top_k": 4},
        "top_k: got -1, expected 0 or more": {"top_k": -1},
        "threshold is nan": {"threshold": np.nan},
        "compensation is -1": {"compensation": -1.0},
    }.items():
        with pytest.raises(ValueError, match=message):
            score_batch(z, moments, **options)
    with pytest.raises(ValueError, match=r"neurons of shape \(2,\), z has \(3,\)"):
        score_batch(z, Moments.of(np.ones((3, 2))))


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("convention", ["paper", "authors"])
def test_flags_are_those_of_the_stored_scores(convention, constant: bool) -> None:
    fast, slow = (
        ScaleTracker(convention=convention, forget_after=2, compensation=0.01) for _ in range(2)
    )
    rng = np.random.default_rng(5)
    for size in (70, 3, 5, 130, 2):
        z = np.round(rng.normal(size=(size, 6, 50)), 1).astype(np.float32)
        z[:, 2] = 0.5  # constant in every batch
        if size == 2:
            z[1, 2, :9] = 7.0  # no more
        flagged = fast.flag_top_k(z, 3, constant=constant)
        old = slow.moments if slow.batches_seen else None
        phi = slow.score(z)
        with_them = slow.moments if convention == "authors" else old
        if not constant and with_them is not None:
            phi = np.where(with_them.m2 > 0, phi, np.nan)
        np.testing.assert_array_equal(flagged, select_top_k(phi, 3))
        np.testing.assert_array_equal(fast.mean, slow.mean)
        np.testing.assert_array_equal(fast.variance, slow.variance)
    before = fast.state_dict()
    with pytest.raises(ValueError, match="all values must be finite"):
        fast.flag_top_k(np.full((2, 6, 50), np.nan), 3)
    for name, value in fast.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


def test_compiled_choices_are_the_python_beside_them() -> None:
    """Written plainly for a reader, one instruction for Numba: the same numbers, nan included."""
    rng = np.random.default_rng(6)
    z = rng.normal(size=(cpu_scale.ROWS + 1, 4 * cpu_scale.LANES + 3)).astype(np.float32)
    mean, inverse = rng.normal(size=z.shape[1]), rng.uniform(size=z.shape[1])
    inverse[::5] = np.nan
    results = []
    for kernel in ("extend", "extend_py"):
        low, high = np.full(9, np.inf, z.dtype), np.full(9, -np.inf, z.dtype)
        getattr(cpu_scale, kernel)(z, 0, len(z), 3, 12, low, high)
        results.append((low, high))
    for kernel in ("screen_row", "screen_row_py"):
        lanes = np.full(cpu_scale.LANES, -1.0)
        getattr(cpu_scale, kernel)(z[0], mean, inverse, lanes)
        results.append(lanes)
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[2], results[3])
    for k in (1, 3, 40):
        assert cpu_scale.kth_highest(z[0], k) == cpu_scale.kth_highest_py(z[0], k)
        assert cpu_scale.kth_highest(z[0], k) == np.sort(z[0])[-k]
