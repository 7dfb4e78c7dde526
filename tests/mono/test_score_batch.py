"""`score_batch` and `ScaleTracker.flag_top_k`: one pass gives what the formula gives."""

import tracemalloc
from contextlib import nullcontext
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimono import kernels, machine
from minimono.kernels import parallel
from minimono.kernels.cpu import instructions
from minimono.kernels.cpu import moments as cpu_moments
from minimono.kernels.cpu import scale as cpu_scale
from minimono.kernels.cpu import selection as cpu_selection
from minimono.mono import (
    Above,
    Moments,
    ScaleTracker,
    monosemantic_scale,
    score_batch,
    select_above,
    select_top_k,
)

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


def assert_is_the_truth(z, moments, mean: float = 1e-12, **options) -> None:
    """Against φ as `monosemantic_scale` gives it, and against the reading version."""
    scores = score_batch(z, moments, **options)
    with kernels.reference():
        reading = score_batch(z, moments, **options)
    compensation = options.get("compensation", 0.0)
    phi = monosemantic_scale(z, moments.mean, moments.variance(), compensation=compensation)
    np.testing.assert_array_equal(scores.maximum, phi.max(axis=0))
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(scores.mean, phi.mean(axis=0, dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(scores.mean, reading.mean, rtol=mean)
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


@pytest.mark.parametrize("reading", [False, True])
def test_defaults_ties_and_undefined_scores_by_hand(reading: bool) -> None:
    """Exact numbers: 4 and 16 many times over, one neuron without a variance."""
    z = np.tile([2.0, 4.0, 4.0, 7.0], (2, 10))
    z[1] = z[0][::-1]
    variance = np.ones(40)
    variance[[3, 36]] = 0.0
    moments = Moments(2, np.zeros(40), variance)
    with kernels.reference() if reading else nullcontext():
        plain = score_batch(z, moments)
        scores = score_batch(z, moments, top_k=40, threshold=16.0)
    assert (plain.count_above, plain.top, plain.top_index, plain.phi) == (None,) * 4
    phi = z * z
    phi[:, [3, 36]] = np.nan
    order = []
    for row in phi:
        known = [i for i in range(40) if not np.isnan(row[i])]
        order.append([i for _, i in sorted((-row[i], i) for i in known)])
    np.testing.assert_array_equal(scores.top_index, [[*o, -1, -1] for o in order])
    np.testing.assert_array_equal(scores.count_above, (phi >= 16).sum(axis=0))
    np.testing.assert_array_equal(scores.maximum, phi.max(axis=0))


@pytest.mark.parametrize("reading", [False, True])
def test_no_warning_leaves_it(reading: bool) -> None:
    """Where φ overflows or vanishes, also where NumPy is told to raise."""
    moments = Moments(2, np.zeros(3), np.array([1e-300, 1.0, 1e300]))
    z = np.array([[1e150, 1e-200, 1e-100], [1e150, 1e-200, 1e-100]])
    with kernels.reference() if reading else nullcontext(), np.errstate(all="raise"):
        scores = score_batch(z, moments, top_k=1)
        narrow = Moments(2, np.zeros(2), np.full(2, 1e-200))
        tiny = score_batch(z[:, :2], narrow, compensation=1e-300)
    np.testing.assert_allclose(tiny.maximum, [np.inf, 1e-200])
    np.testing.assert_array_equal(scores.mean, [np.inf, 0, 0])
    np.testing.assert_array_equal(scores.maximum, [np.inf, 0, 0])


def test_a_constant_neuron_is_flagged_unless_told_otherwise() -> None:
    for convention in ("paper", "authors"):
        first, second = np.array([[1.0, 0.0], [1.0, 2.0]]), np.array([[9.0, 1.0], [9.0, 1.0]])
        for constant, flagged in ((None, True), (True, True), (False, convention == "authors")):
            tracker = ScaleTracker(convention=convention, compensation=0.1)
            assert not tracker.flag_top_k(first, 1).any()
            options = {} if constant is None else {"constant": constant}
            np.testing.assert_array_equal(
                tracker.flag_top_k(second, 1, **options), [[flagged, not flagged]] * 2
            )


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


def assert_m2_is_exact(z: np.ndarray) -> None:
    """Within the roundings that a centre three bits off allows."""
    exact = []
    for j in range(z.shape[1]):
        column = [Fraction(float(v)) for v in z[:, j]]
        mean = sum(column) / len(z)
        exact.append(float(sum((c - mean) ** 2 for c in column)))
    _, m2 = cpu_scale.batch_moments(z)
    np.testing.assert_allclose(m2, exact, rtol=2e-15)


@pytest.mark.parametrize("samples", [9, cpu_scale.FIRST, cpu_scale.SAMPLES, 300])
def test_the_worst_centre_costs_three_bits(samples: int) -> None:
    """A tile's sums are about the mean of the rows read first: as far off as it can be."""
    step = min(samples, cpu_scale.FIRST) // cpu_scale.ROWS
    for rows in (slice(0, cpu_scale.ROWS * step, step), slice(0, cpu_scale.ROWS)):
        z = np.full((samples, 2), 1.0)
        z[rows] = 1e6 / 3
        assert_m2_is_exact(z)


@pytest.mark.parametrize("offset", [1.0, 1e6 / 3, 1e12 / 3])
def test_a_mean_that_moves_between_tiles_costs_no_digit(offset: float) -> None:
    """Later tiles' sums are about the mean of all rows above."""
    steps = np.random.default_rng(7).integers(-4096, 4096, (3 * cpu_scale.SAMPLES, 3)) / 1024.0
    rows = np.arange(len(steps))[:, None]
    for start in (cpu_scale.FIRST, cpu_scale.FIRST + cpu_scale.SAMPLES):
        assert_m2_is_exact(np.where(rows < start, steps, steps + round(offset)))


@pytest.mark.parametrize("threads", [2, 3, 5])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(3, 2), (140, 37), (20, 7, 9)])
def test_digits_do_not_depend_on_threads(
    shape, dtype, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    z, moments = rng.normal(1.0, 2.0, size=shape).astype(dtype), history(shape[1:], rng)

    def everything() -> list[np.ndarray]:
        found = [monosemantic_scale(z, moments.mean, moments.variance())]
        for options in ({"threshold": 1.0, "keep_phi": True}, {"top_k": 2}):
            scores = score_batch(z, moments, **options)
            found += [a for a in scores[:-1] if a is not None]
            found += [scores.batch.mean, scores.batch.m2]
        return found

    alone = everything()
    monkeypatch.setattr(machine, "threads", lambda: threads)
    monkeypatch.setattr(parallel, "LEAST", 1)
    for one, other in zip(alone, everything(), strict=True):
        assert one.tobytes() == other.tobytes()


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
        "top_k is 4, expected at most 3, the scores of a sample": {"top_k": 4},
        "top_k is -1, expected 0 or more": {"top_k": -1},
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
    with pytest.raises(ValueError, match="expected finite numbers"):
        fast.flag_top_k(np.full((2, 6, 50), np.nan), 3)
    for name, value in fast.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


def test_compiled_choices_are_the_python_beside_them() -> None:
    """Written plainly for a reader, one instruction for Numba: the same numbers, nan included."""
    rng = np.random.default_rng(6)
    z = rng.normal(size=(cpu_moments.ROWS + 1, 5 * cpu_selection.LANES + 3)).astype(np.float32)
    z[0, ::7] = np.nan
    roots = np.stack([rng.normal(size=z.shape[1]), rng.uniform(size=z.shape[1])]).astype(z.dtype)
    roots[1, ::5] = np.nan
    results = []
    for version in (lambda kernel: kernel, lambda kernel: kernel.py_func):
        low, high = np.full(9, np.inf, z.dtype), np.full(9, -np.inf, z.dtype)
        version(cpu_moments.extend)(z, 1, 1, cpu_moments.ROWS, 3, 12, low, high)
        version(cpu_moments.extend)(z, 0, 1, 1, 3, 12, low, high)
        lanes = np.full(cpu_selection.LANES, -1, z.dtype)
        version(cpu_selection.screen_row)(z[0], roots, 0, lanes)
        results.append((low, high, lanes))
    for compiled, written in zip(*results, strict=True):
        np.testing.assert_array_equal(compiled, written)
    assert instructions.multiply_add(0.1, 3.0, 0.7) == 0.1 * 3.0 + 0.7


def test_the_bound_of_the_highest_lanes_is_below_k_of_them() -> None:
    rng = np.random.default_rng(8)
    for width in (1, 5, 64, cpu_selection.LANES):
        lanes = rng.uniform(size=width).astype(np.float32)
        lanes[rng.random(width) < 0.1] = np.inf
        lanes[0] = -1.0
        finite = np.sort(lanes[lanes < np.inf])[::-1]
        for k in (1, 2, 10, width):
            best, fold = np.empty(k, np.float32), np.empty(2 * width, np.float32)
            bound = cpu_selection.kth_highest(lanes, best, fold)
            assert bound == cpu_selection.kth_highest.py_func(lanes, best, fold)
            assert (finite >= bound).sum() >= k or bound == -1.0
            assert k > 1 or bound == finite[0]


def far_means(rng: np.random.Generator, neurons: int, dtype) -> tuple[np.ndarray, Moments]:
    """Activations whose means are up to 1e9 standard deviations from 0, and a history."""
    spread = 10.0 ** rng.uniform(-9, 0, neurons)
    mean = rng.normal(size=neurons)
    z = (mean + spread * rng.normal(size=(70, neurons))).astype(dtype)
    return z, Moments(9, mean, 8.0 * spread**2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_means_far_beyond_the_spread_leave_nothing_out(dtype) -> None:
    """There float32 says little about |z - mean|: the screens have to leave more to φ itself."""
    rng = np.random.default_rng(9)
    z, moments = far_means(rng, 3 * cpu_selection.LANES + 5, dtype)
    for k in (1, 4, 30):  # mean φ suffers from the last digit of the means
        assert_is_the_truth(z, moments, mean=1e-6, top_k=k, threshold=4.0)
    near_only, history_of_near = z[:, :200], Moments(9, moments.mean[:200], np.full(200, 8e-3))
    assert_is_the_truth(near_only, history_of_near, mean=1e-6, top_k=3, threshold=0.3)


@given(st.data())
def test_thresholds_that_scores_equal_or_miss_by_a_rounding(data) -> None:
    """φ >= threshold is found without φ: it matters most where the two are next to each other."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    z, moments = far_means(rng, 40, dtype)
    phi = monosemantic_scale(z, moments.mean, moments.variance())
    some = float(phi.reshape(-1)[data.draw(st.integers(0, phi.size - 1))])
    threshold = data.draw(
        st.sampled_from([some, np.nextafter(some, np.inf), np.nextafter(some, 0.0), some * 2])
        | st.sampled_from([-1.0, 0.0, 5e-324, 1e-300, 1e-40, 1e37, 1e300, np.inf, -np.inf])
    )
    scores = score_batch(z, moments, threshold=threshold)
    np.testing.assert_array_equal(scores.count_above, (phi >= np.float64(threshold)).sum(axis=0))
    found = cpu_scale.survey(
        z, moments.mean, moments.variance(), threshold=threshold, flag=True, keep_phi=True
    )
    np.testing.assert_array_equal(found["flags"], phi >= np.float64(threshold))
    np.testing.assert_array_equal(found["phi"], phi)


@pytest.mark.parametrize("convention", ["paper", "authors"])
@pytest.mark.parametrize("reading", [False, True])
def test_flags_above_are_those_of_the_stored_scores(convention, reading: bool) -> None:
    fast, slow = (
        ScaleTracker(convention=convention, forget_after=2, compensation=0.01) for _ in range(2)
    )
    rng = np.random.default_rng(10)
    with kernels.reference() if reading else nullcontext():
        for size in (150, 3, 9, 2):
            z = np.round(rng.normal(size=(size, 6, 400)), 1).astype(np.float32)
            flags = fast.flag(z, Above(2.25))
            phi = slow.score(z)
            np.testing.assert_array_equal(flags, select_above(phi, 2.25))
            for name, value in fast.state_dict().items():
                np.testing.assert_array_equal(value, slow.state_dict()[name])
    before = fast.state_dict()
    for bad, message in ((np.full((2, 6, 400), np.inf), "expected finite"), (z[:, :5], "use one")):
        with pytest.raises(ValueError, match=message):
            fast.flag(bad, Above(2.25))
    with pytest.raises(ValueError, match="Above: threshold is nan"):
        fast.flag(z, Above(np.nan))
    for name, value in fast.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


def test_what_is_scattered_in_memory_is_not_copied_whole() -> None:
    wide = np.random.default_rng(11).normal(size=(4096, 256)).astype(np.float32)
    for z in (
        wide[:, ::2],
        wide.reshape(4096, 128, 2).transpose(0, 2, 1),
        wide.astype(">f4"),
        wide.astype(np.float16),
    ):
        history, converted = Moments.of(z[:5]), 8 * z.size
        score_batch(z[:300], history)
        tracemalloc.start()
        scores = score_batch(z, history, threshold=1.0, top_k=1)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < converted / 4
        dtype = np.float32 if z.dtype == np.float32 else np.float64
        whole = score_batch(np.ascontiguousarray(z, dtype), history, threshold=1.0, top_k=1)
        for one, other in zip(scores[:5], whole[:5], strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(scores.batch.m2, whole.batch.m2)
        assert Moments.of(z).m2.tobytes() == whole.batch.m2.tobytes()
