"""Moments against exact rational arithmetic: the truth is the exact value of the stored floats."""

import math
import re
from collections.abc import Iterator
from contextlib import nullcontext
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimono import kernels
from minimono.mono.moments import Moments
from minimono.mono.soundness import check_finite

EPS = 2.0**-52


@pytest.fixture(params=["reading", "running"])
def version(request: pytest.FixtureRequest) -> Iterator[str]:
    with kernels.reference() if request.param == "reading" else nullcontext():
        yield request.param


def exact(values) -> tuple[Fraction, Fraction]:
    """The mean and the unbiased variance of floats, exactly."""
    numbers = [Fraction(float(v)) for v in values]
    mean = sum(numbers) / len(numbers)
    return mean, sum((v - mean) ** 2 for v in numbers) / (len(numbers) - 1)


def assert_close_to_exact(moments: Moments, columns, c: float = 16) -> None:
    """Mean and variance within what the condition of the data allows: kappa = max|z| / s."""
    for j, column in enumerate(columns):
        mean, variance = exact(column)
        largest = max(abs(float(v)) for v in column)
        # 5e-324 is float64's grid near zero
        assert abs(Fraction(moments.mean[j]) - mean) <= Fraction(c * EPS * largest + 5e-324)
        got = float(moments.variance()[j])
        if variance == 0:
            assert got == 0
        elif float(variance) < 1e-300:  # squares have lost digits: only the size is promised
            assert got < 1e-299
        else:
            eta = c * EPS * largest / math.sqrt(variance)
            allowed = eta * (2 + eta) + 8 * EPS
            assert abs(Fraction(got) - variance) <= Fraction(allowed) * variance


# ---------------------------------------------------------------------------------- one batch


def numacc(series: int) -> tuple[list[float], float, float]:
    """NIST's series, by their published formulas, with certified mean and standard deviation."""
    if series == 1:
        return [10000001.0, 10000003.0, 10000002.0], 10000002.0, 1.0
    base = {2: "1", 3: "1000000", 4: "10000000"}[series]
    values = [float(base + ".2")] + [float(base + ".1"), float(base + ".3")] * 500
    return values, float(base + ".2"), 0.1


@pytest.mark.parametrize("size", [1001, 7, 1])
@pytest.mark.parametrize(("series", "digits"), [(1, 15), (2, 14), (3, 9), (4, 8)])
def test_nist_numacc(series: int, digits: int, size: int, version: str) -> None:
    values, mean, deviation = numacc(series)
    moments = Moments.empty((1,))
    for start in range(0, len(values), size):
        moments = moments.update(np.array(values[start : start + size])[:, None])
    assert_close_to_exact(moments, [values])
    assert moments.count == len(values)
    assert abs(moments.mean[0] - mean) <= 1e-15 * mean
    # Against the certified value the decimals' own rounding costs digits: 8.25 are left of NumAcc4.
    assert abs(math.sqrt(moments.variance()[0]) - deviation) <= 10.0**-digits * deviation


@given(
    st.lists(
        st.tuples(st.floats(-1e6, 1e6), st.floats(-1e-3, 1e-3), st.floats(1e7, 1e7 + 1, width=32)),
        min_size=2,
        max_size=40,
    )
)
def test_one_batch_is_exact_to_its_condition(rows) -> None:
    z = np.array(rows)
    for switch in (kernels.reference(), nullcontext()):
        with switch:
            assert_close_to_exact(Moments.of(z), z.T, c=4)


@given(st.floats(-1e150, 1e150), st.integers(1, 300))
def test_a_constant_neuron_has_variance_exactly_zero(value: float, samples: int) -> None:
    z = np.full((samples, 1), value)
    for switch in (kernels.reference(), nullcontext()):
        with switch:
            moments = Moments.of(z).update(z)
        assert moments.m2[0] == 0
        assert moments.mean[0] == value


def test_values_one_digit_apart(version: str) -> None:
    """The mean of 1e16 and its neighbour is no float; the deviations from it still are right."""
    z = np.array([[1e16], [1e16 + 2]])
    assert Moments.of(z).m2[0] == 2


def test_short_formula_would_fail_where_two_passes_do_not(version: str) -> None:
    z = (1e9 + np.arange(20.0))[:, None]
    naive = (z**2).mean() - z.mean() ** 2
    assert abs(naive - 33.25) > 1  # the test's own check: this data does separate the two
    assert Moments.of(z).variance(ddof=0)[0] == 33.25


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int8, np.int64, np.uint8, np.bool])
def test_accumulates_in_float64(dtype, version: str) -> None:
    z = np.array([[1, 0], [1, 1], [0, 1], [1, 1]]).astype(dtype)
    moments = Moments.of(z)
    assert moments.mean.dtype == moments.m2.dtype == moments.variance().dtype == np.float64
    assert_close_to_exact(moments, z.T)


def test_float32_far_from_zero(version: str) -> None:
    z = 1e6 + np.random.default_rng(0).integers(-8, 9, size=(999, 3)) / 16
    z = z.astype(np.float32)
    assert_close_to_exact(Moments.of(z), z.T, c=2)


@pytest.mark.parametrize("shape", [(), (1,), (5,), (2, 3), (2, 1, 3)])
def test_shapes(shape: tuple[int, ...], version: str) -> None:
    z = np.random.default_rng(1).normal(size=(6, *shape))
    moments = Moments.empty(shape).update(z[:2]).update(z[2:])
    assert moments.mean.shape == moments.m2.shape == moments.variance().shape == shape
    np.testing.assert_allclose(moments.mean, z.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(moments.variance(), z.var(axis=0, ddof=1), rtol=1e-13)


# -------------------------------------------------------------------------- update and merge


def lemma_3_2(state, batch):
    """The paper's update, in its own terms: (m, mean, S²) and a batch, all exact."""
    m, mean, s2 = state
    b = len(batch)
    batch_mean = sum(batch) / b
    biased = sum((v - batch_mean) ** 2 for v in batch) / b
    return (
        m + b,
        (m * mean + b * batch_mean) / (m + b),
        m * b * (mean - batch_mean) ** 2 / ((m + b - 1) * (m + b))
        + (b * biased + (m - 1) * s2) / (m + b - 1),
    )


def algorithm_1(state, batch, forget):
    """The paper's update once `forget` batches were seen."""
    _, old, s2 = state
    b = len(batch)
    batch_mean = sum(batch) / b
    biased = sum((v - batch_mean) ** 2 for v in batch) / b
    tail = Fraction(1, b)
    return (
        b * forget + b,
        (forget * old + batch_mean) / (forget + 1),
        forget * (old - batch_mean) ** 2 / ((forget + 1 - tail) * (forget + 1))
        + (biased + (forget - tail) * s2) / (forget + 1 - tail),
    )


BATCHES = st.lists(
    st.lists(st.integers(-999, 999), min_size=1, max_size=6), min_size=2, max_size=8
).filter(lambda batches: len(batches[0]) > 1)


@given(BATCHES)
def test_update_is_lemma_3_2_is_the_concatenation(batches) -> None:
    everything = [Fraction(v) for batch in batches for v in batch]
    state = (len(batches[0]), *exact(batches[0]))
    moments = Moments.of(np.array(batches[0]))
    for batch in batches[1:]:
        state = lemma_3_2(state, [Fraction(v) for v in batch])
        moments = moments.update(np.array(batch))
    assert state == (len(everything), *exact(everything))  # the lemma itself, exactly
    assert moments.count == state[0]
    assert abs(Fraction(float(moments.mean)) - state[1]) <= Fraction(1, 10**11)
    assert abs(Fraction(float(moments.variance())) - state[2]) <= (state[2] + 1) / 10**12


@given(BATCHES, st.integers(1, 12))
def test_resized_is_algorithm_1(batches, forget: int) -> None:
    state = (len(batches[0]), *exact(batches[0]))
    moments = Moments.of(np.array(batches[0]))
    for batch in batches[1:]:
        state = algorithm_1(state, [Fraction(v) for v in batch], forget)
        moments = moments.resized(forget * len(batch)).update(np.array(batch))
        assert moments.count == state[0]
        assert abs(Fraction(float(moments.mean)) - state[1]) <= Fraction(1, 10**11)
        assert abs(Fraction(float(moments.variance())) - state[2]) <= (state[2] + 1) / 10**12


@given(
    st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=30),
    st.integers(0, 30),
    st.integers(0, 30),
)
def test_order_and_split_do_not_matter(values, one: int, two: int) -> None:
    z = np.array(values)[:, None]
    first, second = sorted((min(one, len(z)), min(two, len(z))))
    a, b, c = (
        Moments.of(part) if len(part) else Moments.empty((1,))
        for part in (z[:first], z[first:second], z[second:])
    )
    for whole in (a.merge(b).merge(c), a.merge(b.merge(c)), c.merge(a).merge(b), Moments.of(z)):
        assert whole.count == len(z)
        assert_close_to_exact(whole, z.T)


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=4, max_size=20), st.integers(-300, 300))
def test_scaling_by_a_power_of_two_is_bit_exact(values, power: int) -> None:
    z = np.array([v for v in values if abs(v) > 1e-20 or v == 0] or [1.0])
    if np.ptp(z) and np.ptp(z) < 1e-20:
        return
    one = Moments.of(z[:2]).update(z)
    other = Moments.of(np.ldexp(z[:2], power)).update(np.ldexp(z, power))
    assert np.ldexp(one.mean, power) == other.mean
    if 2 * power > -600:  # squares stay clear of underflow
        assert np.ldexp(one.variance(), 2 * power) == other.variance()


def test_merging_a_large_and_a_small_state() -> None:
    rng = np.random.default_rng(3)
    z = rng.normal(1000.0, 1.0, size=(5000, 2))
    moments = Moments.of(z[:-1]).merge(Moments.of(z[-1:]))
    assert_close_to_exact(moments, z.T)
    assert_close_to_exact(Moments.of(z[-1:]).merge(Moments.of(z[:-1])), z.T)


# ---------------------------------------------------------------------------- empty, resized


def test_empty() -> None:
    empty = Moments.empty((2, 3))
    assert empty.count == 0
    assert np.isnan(empty.mean).all()
    assert np.isnan(empty.variance()).all()
    z = np.arange(12.0).reshape(2, 2, 3)
    for moments in (empty.update(z), empty.merge(Moments.of(z)), Moments.of(z).merge(empty)):
        np.testing.assert_array_equal(moments.mean, z.mean(axis=0))
        np.testing.assert_array_equal(moments.variance(), z.var(axis=0, ddof=1))
    assert empty.merge(empty).count == 0


def test_variance_needs_more_samples_than_ddof() -> None:
    one = Moments.of(np.array([[1.0, 2.0]]))
    assert np.isnan(one.variance()).all()
    np.testing.assert_array_equal(one.variance(ddof=0), [0, 0])
    assert np.isnan(Moments.of(np.ones((2, 1))).variance(ddof=2)).all()
    with pytest.raises(ValueError, match=r"Moments\.variance: ddof is -1, expected 0 or more"):
        one.variance(ddof=-1)


def test_resized_keeps_mean_and_variance() -> None:
    past = Moments.of(np.random.default_rng(4).normal(size=(7, 3)))
    for count in (1, 2, 6, 8, 700):
        other = past.resized(count)
        assert other.count == count
        np.testing.assert_array_equal(other.mean, past.mean)
        if count > 1:
            np.testing.assert_allclose(other.variance(), past.variance(), rtol=4 * EPS)
    assert past.resized(7) is past
    with pytest.raises(ValueError, match=r"^Moments\.resized: count is 0, expected 1 or more"):
        past.resized(0)
    with pytest.raises(ValueError, match=r"resized: 1 sample\(s\) have no variance to keep"):
        Moments.of(np.ones((1, 3))).resized(10)
    with pytest.raises(TypeError, match=r"resized: count is 2\.5, expected a whole number"):
        past.resized(2.5)


def test_a_value_cannot_be_changed() -> None:
    mean, m2 = np.array([1.0]), np.array([2.0])
    moments = Moments(3, mean, m2)
    mean[0] = m2[0] = 99.0
    assert (moments.mean[0], moments.m2[0]) == (1.0, 2.0)
    with pytest.raises(ValueError, match="read-only"):
        moments.mean[0] = 5.0
    with pytest.raises(ValueError, match="read-only"):
        moments.m2[0] = 5.0
    with pytest.raises(AttributeError):
        moments.count = 4  # type: ignore[misc]
    before = moments.mean.copy()
    moments.update(np.array([[7.0]]))
    np.testing.assert_array_equal(moments.mean, before)


# ------------------------------------------------------------------------- very small, very large


@pytest.mark.parametrize("power", [-500, -530, -537, -540, -600, -1000])
def test_tiny_values(power: int, version: str) -> None:
    """The variance is right to float64's grid there, 5e-324; so it is 0 once below it."""
    values = np.ldexp(np.array([1.0, 2.0, 4.0, 7.0]), power)
    moments = Moments.of(values[:2, None]).update(values[2:, None])
    mean, variance = exact(values)
    assert abs(Fraction(moments.mean[0]) - mean) <= mean * Fraction(4 * EPS)
    off = abs(Fraction(float(moments.variance()[0])) - variance)
    assert off <= variance * Fraction(8 * EPS) + Fraction(5e-324)


def test_a_tiny_neuron_recovers(version: str) -> None:
    tiny, normal = np.full((2, 1), 1e-200) * [[1], [3]], np.array([[1.0], [3.0]])
    moments = Moments.of(tiny).update(normal)
    assert_close_to_exact(moments, [[1e-200, 3e-200, 1.0, 3.0]])


@pytest.mark.parametrize(
    "column", [[1.7e308, 1.7e308], [1.7e308, -1.7e308], [1e160, -1e160], [1e155] * 3 + [-1e155]]
)
def test_too_large_to_square(column, version: str) -> None:
    z = np.zeros((len(column), 2, 2))
    z[:, 1, 0] = column
    with pytest.raises(
        ValueError, match=r"activations: neuron \(1, 0\) is too large: .*scale the activations down"
    ):
        Moments.of(z)


def test_states_too_far_apart_to_merge(version: str) -> None:
    low, high = Moments.of(np.full((2, 3), -1e160)), Moments.of(np.full((2, 3), 1e160))
    with pytest.raises(ValueError, match=r"^Moments: m2 must be finite .* neuron 0 has inf"):
        low.merge(high)
    # The sum of squares fits, the difference of the means does not: nan, not infinity, in between.
    low, high = (Moments(1, np.array([v]), np.zeros(1)) for v in (-1.7e308, 1.7e308))
    with pytest.raises(ValueError, match=r"^Moments: mean must be finite: neuron 0 has inf"):
        low.merge(high)


def test_nothing_warns(version: str) -> None:
    """Also where NumPy is told to raise: overflow is an error of ours, underflow is none."""
    tiny = np.array([[1e-200], [3e-200]])
    with np.errstate(all="raise"):
        moments = Moments.of(tiny).update(tiny)
        assert moments.variance()[0] == 0
        assert Moments.of(tiny[:1]).update(tiny[1:]).m2[0] == 0
        assert Moments(2, np.zeros(1), np.array([5e-324])).resized(3).m2[0] > 0
        assert Moments(9, np.zeros(1), np.array([5e-324])).resized(2).m2[0] == 0
        with pytest.raises(ValueError, match=r"^Moments: m2 must be finite"):
            Moments(2, np.zeros(1), np.array([1e308])).resized(9)
        low, high = Moments.of(np.full((2, 1), -1e160)), Moments.of(np.full((2, 1), 1e160))
        with pytest.raises(ValueError, match=r"^Moments: m2 must be finite"):
            low.merge(high)
        with pytest.raises(ValueError, match=r"too large"):
            Moments.of(np.array([[1e308], [-1e308]] * 3))
        with pytest.raises(ValueError, match=r"neuron 0 of sample 0 is inf"):
            Moments.of(np.array([[np.inf], [-np.inf]]))
        check_finite(np.array([1e308, 1e308]))  # the sum is not finite, every number is
        with pytest.raises(ValueError, match=r"^activations: neuron \(\) of sample 0 is inf"):
            check_finite(np.array([np.inf, -np.inf]))


def test_moments_of_integers_are_float64() -> None:
    moments = Moments(2, np.array([1, 2]), np.array([0.5, 1], dtype=np.float32))
    assert moments.mean.dtype == moments.m2.dtype == np.float64
    moments = Moments(2, np.array([1, 2], dtype=np.float32), np.array([0, 1]))
    assert moments.mean.dtype == moments.m2.dtype == np.float64
    assert Moments.empty((2,)).mean.dtype == np.float64


def test_check_finite_takes_large_float16() -> None:
    check_finite(np.full(100, 6e4, dtype=np.float16))  # their sum is above float16's 65504
    check_finite(np.full(100, 3e38, dtype=np.float32))
    with pytest.raises(ValueError, match=r"^here: neuron 1 of sample 0 is nan"):
        check_finite(np.array([[1.0, np.nan]]), "here")
    with pytest.raises(ValueError, match=r"^activations: neuron 1 of sample 0 is nan"):
        check_finite(np.array([[1.0, np.nan]]))


# -------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_first_value_that_is_not_finite_is_named(bad: float, dtype, version: str) -> None:
    z = np.zeros((8, 4, 3), dtype=dtype)
    z[5, 3, 2] = bad
    z[6, 0, 0] = np.nan
    with pytest.raises(
        ValueError, match=rf"activations: neuron \(3, 2\) of sample 5 is {bad}, expected finite"
    ):
        Moments.empty((4, 3)).update(z)


def test_flat_and_single_neurons_are_named_too(version: str) -> None:
    z = np.zeros((4, 3))
    z[2, 1] = np.nan
    with pytest.raises(ValueError, match=r"activations: neuron 1 of sample 2 is nan"):
        Moments.of(z)
    with pytest.raises(ValueError, match=r"activations: neuron \(\) of sample 2 is nan"):
        Moments.of(z[:, 1])


def test_infinities_that_cancel_are_seen(version: str) -> None:
    with pytest.raises(ValueError, match=r"neuron 0 of sample 0 is inf"):
        Moments.of(np.array([[np.inf], [-np.inf]]))


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        (np.ones((2, 3), dtype=complex), TypeError, "has dtype complex128, expected real numbers"),
        (np.array([[None, 1]]), TypeError, "has dtype object"),
        (np.array([["1"]]), TypeError, "has dtype <U1"),
        (np.ones((2, 3), dtype=np.longdouble), TypeError, "has dtype (float128|longdouble)"),
        (np.ma.masked_array([[1.0]], mask=[[True]]), TypeError, "is a masked array"),
        (np.array(3.0), ValueError, r"is a single number, expected shape \(B, \*neurons\)"),
        (np.zeros((0, 3)), ValueError, r"has shape \(0, 3\), expected a sample and a neuron"),
        (np.zeros((3, 0)), ValueError, r"has shape \(3, 0\), expected a sample and a neuron"),
    ],
)
def test_bad_batches(batch, error, message: str) -> None:
    with pytest.raises(error, match=f"activations {message}"):
        Moments.of(batch)


def test_wrong_layer() -> None:
    message = re.escape("one has neurons of shape (4,), the other of shape (3,)")
    with pytest.raises(ValueError, match=message):
        Moments.empty((4,)).update(np.zeros((2, 3)))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((3, np.zeros(2), np.zeros(3)), ValueError, r"mean has shape \(2,\) and m2 has \(3,\)"),
        ((3, np.zeros(2), np.array([1, -1])), ValueError, r"not negative .*: neuron 1 has -1\.0"),
        ((3, np.array([0, np.nan]), np.zeros(2)), ValueError, "mean must be finite: neuron 1"),
        ((3, np.zeros(1), np.array([np.nan])), ValueError, "m2 must be finite"),
        ((0, np.zeros(1), np.zeros(1)), ValueError, "count is 0, expected a mean of nan"),
        ((-1, np.zeros(1), np.zeros(1)), ValueError, "count is -1, expected 0 or more"),
        ((True, np.zeros(1), np.zeros(1)), TypeError, "count is True, expected a whole number"),
        ((2.0, np.zeros(1), np.zeros(1)), TypeError, r"count is 2\.0, expected a whole number"),
    ],
)
def test_bad_values(arguments, error, message: str) -> None:
    with pytest.raises(error, match=f"Moments: .*{message}|Moments: {message}"):
        Moments(*arguments)


@pytest.mark.gpu
def test_on_the_gpu() -> None:
    from minimono.backend import to_device, to_host

    z = np.random.default_rng(5).normal(100.0, 1.0, size=(40, 3, 2)).astype(np.float32)
    here = Moments.of(z[:9]).update(z[9:])
    there = Moments.empty((3, 2)).update(to_device(z[:9], "cuda")).update(to_device(z[9:], "cuda"))
    assert there.count == here.count
    np.testing.assert_allclose(to_host(there.mean), here.mean, rtol=1e-15)
    np.testing.assert_allclose(to_host(there.variance()), here.variance(), rtol=1e-12)
    np.testing.assert_array_equal(there.to("cpu").m2, to_host(there.m2))
    with pytest.raises(ValueError, match="different devices"):
        here.merge(there)
    z[3, 1, 1] = np.nan
    with pytest.raises(ValueError, match=r"neuron \(1, 1\)"):  # not at once: that would be to wait
        Moments.of(to_device(z, "cuda")).check()
