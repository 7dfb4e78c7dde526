"""Intervals, the paired test, and words that numbers allow: better, worse, or not resolved."""

import math
from typing import Any

import numpy as np
import pytest

from minimono.experiments.statistics import (
    NOT_RESOLVED,
    Interval,
    interval,
    judge,
    judge_median,
    median,
    paired,
    student_t,
)


def word(values: object, base: object = 0.0, among: int = 1) -> str:
    return judge(values, base, above="more", below="less", among=among).word  # type: ignore[arg-type]


# ---- intervals ---------------------------------------------------------------------------------


@pytest.mark.parametrize("degrees", [*range(1, 12), 23, 100, 999])
@pytest.mark.parametrize("outside", [0.3, 0.05, 0.05 / 46])
def test_student_t_leaves_out_what_it_says(degrees: int, outside: float) -> None:
    mpmath = pytest.importorskip("mpmath")
    t = student_t(degrees, outside)  # P(|T| > t) = I(d/(d + t^2); d/2, 1/2)
    found = mpmath.betainc(degrees / 2, 0.5, 0, degrees / (degrees + t * t), regularized=True)
    assert float(found) == pytest.approx(outside, rel=1e-9)


def test_interval_by_hand() -> None:
    found = interval([1.0, 2.0, 3.0, 4.0, 5.0])  # s^2 = 10/4, t(0.975; 4) = 2.776445
    assert found.mean == 3.0
    assert found.half == pytest.approx(2.7764451052 * math.sqrt(2.5 / 5.0), rel=1e-9)
    both = interval([1.0, 2.0, 3.0, 4.0, 5.0], among=2)  # t(0.9875; 4) = 3.495406
    assert both.half == pytest.approx(3.4954059325 * math.sqrt(2.5 / 5.0), rel=1e-9)


WITHOUT_INTERVAL = [[], [1.0], [1.0, math.nan, 2.0], [1.0, math.inf, 2.0]]


@pytest.mark.parametrize("values", WITHOUT_INTERVAL, ids=str)
def test_what_has_no_interval_is_not_a_number(values: list[float]) -> None:
    assert np.isnan(interval(values)).all()
    assert word(values) == NOT_RESOLVED


def test_median_by_counting() -> None:
    # of 6 values all lie on one side of the median in 2 of 64 cases: 3.1 %; of 5 in 2 of 32: 6.3 %
    assert median([3.0, 1.0, 2.0, 6.0, 5.0, 4.0]) == (3.5, 1.0, 6.0)
    assert np.isnan(median([1.0, 2.0, 3.0, 4.0, 5.0])[1:]).all()
    # 24: P(six or fewer below) = 190051/2^24 = 1.13 %, of seven or fewer 3.2 %
    assert median(range(24)) == (11.5, 6.0, 17.0)  # type: ignore[arg-type]
    assert np.isnan(median([])).all()


def test_the_median_is_inside_19_times_in_20() -> None:
    rng, inside = np.random.default_rng(0), 0
    for _ in range(2000):
        found = median(rng.lognormal(0.0, 1.0, 24))
        inside += found.low <= 1.0 <= found.high
    assert inside / 2000 > 0.95 - 3 * math.sqrt(0.95 * 0.05 / 2000)


@pytest.mark.parametrize("scale", [1e-318, 1e-200, 1e-160, 1e160, 1e200, 3e307])
def test_an_interval_of_any_size(scale: float) -> None:
    """No square overflows or vanishes: it is that of 1, 2, 4, of standard deviation 1.53."""
    found = interval(scale * np.array([1.0, 2.0, 4.0]))
    s, exact = math.sqrt(7 / 3), scale > 1e-300
    assert found.mean == pytest.approx(scale * (7 / 3), rel=1e-12 if exact else 1e-4)
    half = 4.302652729911275 * s / math.sqrt(3.0) * scale  # t(0.975; 2)
    assert found.half == pytest.approx(half, rel=1e-9 if exact else 1e-4)
    assert word([scale, scale * 1.01, scale * 0.99]) == "more"


def test_an_interval_wider_than_float64() -> None:
    assert interval([1.7e308, -1.7e308]) == (0.0, math.inf)
    assert word([1.7e308, -1.7e308, 1e308]) == NOT_RESOLVED
    assert word([1.7e308] * 3, [-1.7e308] * 3) == NOT_RESOLVED


def test_many_samples_take_no_time() -> None:
    """A million values, where the sum took 22 s, and 20,000 for a median, minutes."""
    mpmath = pytest.importorskip("mpmath")
    d = 999_999  # t = z + (z^3 + z) / 4d + ... (Abramowitz and Stegun, 26.7.5)
    z = math.sqrt(2.0) * float(mpmath.erfinv(1 - 0.05))
    assert student_t(d, 0.05) == pytest.approx(z + (z**3 + z) / (4 * d), rel=1e-10)
    middle, low, high = median(np.arange(20_001.0))
    assert middle == 10_000.0
    assert high - middle == middle - low == pytest.approx(z * math.sqrt(20_001) / 2, abs=1.5)


def test_a_median_with_what_is_not_a_number_is_none() -> None:
    assert np.isnan(median([*range(24), math.nan])).all()
    assert median([*range(6), math.inf])[:2] == (3.0, 0.0)


@pytest.mark.parametrize("of", [interval, median, word])
@pytest.mark.parametrize("values", ["123", ["1", "2", "3"], [1.0, None, 2.0], [1j, 2.0, 3.0]])
def test_what_are_no_numbers(of: Any, values: Any) -> None:
    with pytest.raises(TypeError, match=r"values has dtype .*, expected real numbers"):
        of(values)


@pytest.mark.parametrize("of", [interval, median, word])
@pytest.mark.parametrize("values", [3.0, [[1.0, 2.0], [3.0, 4.0]]])
def test_values_in_a_row(of: Any, values: Any) -> None:
    with pytest.raises(ValueError, match=r"values has shape .*, expected \(n,\)"):
        of(values)


@pytest.mark.parametrize("of", [interval, median, word])
@pytest.mark.parametrize("among", [0, -1, 1.5, math.nan, True, "3"])
def test_among_counts_conclusions(of: Any, among: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"among is .*expected"):
        of([1.0, 2.0, 4.0], among=among)


@pytest.mark.parametrize(
    ("degrees", "outside"), [(0, 0.05), (2, 0.0), (2, 1e-13), (2, 1.0), (2, math.nan)]
)
def test_student_t_says_what_it_cannot(degrees: int, outside: float) -> None:
    with pytest.raises(ValueError, match="student_t: "):
        student_t(degrees, outside)


@pytest.mark.parametrize(
    ("mean", "half", "said"),
    [
        (-0.0123, 0.0045, "-0.0123 ± 0.0045"), (-1.2e-05, 4.5e-06, "-1.2e-05 ± 4.5e-06"),
        (-0.00001, 0.0045, "0.0000 ± 0.0045"), (0.0, 0.0, "0.0000 ± 0.0000"),
        (0.5, 0.0, "+0.5 ± 0"), (math.nan, math.nan, "n/a"), (1.0, math.nan, "+1.0000 ± n/a"),
    ],
)
def test_no_interval_is_printed_as_nothing(mean: float, half: float, said: str) -> None:
    """± 0.0000 stands only beside a difference of exactly 0, which has no verdict."""
    assert Interval(mean, half).written(4) == said


# ---- a paired test ------------------------------------------------------------------------------


def test_the_quantile_is_that_of_the_t_distribution() -> None:
    mpmath = pytest.importorskip("mpmath")
    for n in (2, 3, 8):
        values = np.arange(n, dtype=np.float64)
        t = interval(values).half * math.sqrt(n) / np.std(values, ddof=1)
        d = n - 1  # P(|T| <= t) = 1 - I(d/(d + t^2); d/2, 1/2)
        outside = mpmath.betainc(d / 2, 0.5, 0, d / (d + t * t), regularized=True)
        assert float(outside) == pytest.approx(0.05, rel=1e-9)


def test_intervals_hold_the_mean_19_times_in_20() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(2000):
        mean, half = interval(rng.normal(1.0, 2.0, 5))
        inside += abs(mean - 1.0) <= half
    assert abs(inside / 2000 - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 2000)


def calls_of_both() -> dict[str, Any]:
    good = np.array([1.0, 2.0, 4.0])
    return {
        "interval: values": lambda values: interval(values),
        "paired: values": lambda values: paired(values, good),
        "paired: original": lambda values: paired(good, values),
    }


@pytest.mark.parametrize("name", calls_of_both())
@pytest.mark.parametrize(
    "values",
    [
        [1.0, math.nan, 2.0], [1.0, math.inf, 2.0], [], [1.0], 1.0, [[1.0, 2.0, 3.0]],
        ["a", "b", "c"], [None, 1.0, 2.0], [1j, 1.0, 2.0],
    ],
    ids=str,
)
def test_values_that_have_no_statistics(name: str, values: Any) -> None:
    if name == "interval: values" and values in WITHOUT_INTERVAL:
        assert np.isnan(interval(values)).all()
        return
    with pytest.raises((TypeError, ValueError), match=f"^{name}"):
        calls_of_both()[name](values)


@pytest.mark.parametrize("seeds", [2, 4])
def test_paired_does_not_broadcast(seeds: int) -> None:
    with pytest.raises(ValueError, match=r"^paired: values has shape \(3,\), original"):
        paired(np.array([1.0, 2.0, 4.0]), np.arange(float(seeds)))


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize("offset", [0.0, 0.1, -3.7, 1e3])
def test_differences_that_are_equal_up_to_rounding_are_not_resolved(
    offset: float, dtype: Any
) -> None:
    """p was 3.5e-32 for a difference of 0.1 that five sums rounded differently."""
    rng = np.random.default_rng(0)
    for n in (2, 5, 50):
        for _ in range(20):
            original = rng.uniform(0.5, 9.0, n).astype(dtype)
            values = (original.astype(np.float64) + offset).astype(dtype)
            found = paired(values, original)
            assert math.isnan(found.p_t)
            assert found.difference.half == 0.0
            assert not found.difference.clear
            if offset == 0.0:
                assert found == (found.difference, pytest.approx(math.nan, nan_ok=True), 0, 0, 1.0)
            nearly = np.nextafter(original, np.array(np.inf, dtype))  # a last digit each
            found = paired(nearly, original)
            assert (found.higher, found.lower, found.p_sign) == (0, 0, 1.0)
            assert found.difference == (0.0, 0.0)


def test_small_differences_that_are_real_are_resolved() -> None:
    """As scipy finds them, from 1e-12 of the values on."""
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for size in (1e-12, 1e-6, 1.0):
        original = rng.uniform(1.0, 2.0, 6)
        values = original + size * rng.uniform(0.5, 2.0, 6)
        found = paired(values, original)
        assert found.p_t == pytest.approx(stats.ttest_rel(values, original).pvalue, rel=1e-9)
        assert (found.higher, found.lower) == (6, 0)


def test_an_interval_of_equal_values_has_no_width() -> None:
    for values in ([0.1] * 3, [0.1 + 0.2, 0.3, 0.3], [7] * 5):
        mean, half = found = interval(np.array(values))
        assert (mean, half) == (pytest.approx(values[0]), 0.0)
        assert not found.clear


def test_paired_by_hand() -> None:
    # d = 1, 2, 3: mean 2, error 1/sqrt(3), t = 2 sqrt(3); with 2 degrees of freedom
    # p = 1 - t/sqrt(2 + t^2) = 1 - sqrt(12/14)
    original = np.array([5.0, 9.0, 1.0])
    found = paired(np.array([6.0, 11.0, 4.0]), original)
    assert found.difference.mean == pytest.approx(2.0)
    assert found.difference.half == pytest.approx(4.30265273 / math.sqrt(3.0), rel=1e-8)
    assert found.p_t == pytest.approx(1.0 - math.sqrt(12.0 / 14.0), rel=1e-12)
    assert (found.higher, found.lower, found.p_sign) == (3, 0, 0.25)  # 2 / 2^3
    assert not found.difference.clear


def test_the_interval_is_clear_of_zero_just_when_p_is_below_5_per_cent() -> None:
    rng = np.random.default_rng(1)
    both = set()
    for _ in range(300):
        original = rng.normal(0.0, 1.0, 5)
        found = paired(original + rng.normal(0.8, 1.0, 5), original)
        assert found.difference.clear == (found.p_t < 0.05)
        both.add(found.difference.clear)
    assert both == {True, False}


def test_sign_test_leaves_out_seeds_that_are_equal() -> None:
    original = np.zeros(6)
    found = paired(np.array([1.0, 2.0, 1.0, 3.0, -1.0, 0.0]), original)
    assert (found.higher, found.lower) == (4, 1)
    assert found.p_sign == pytest.approx(2 * (5 + 1) / 32)  # 4 or 5 of 5, or 0 or 1


@pytest.mark.parametrize("d", [0.0, 0.5])
def test_paired_where_all_differences_are_equal(d: float) -> None:
    original = np.array([1.0, 2.0, 4.0])
    found = paired(original + d, original)
    assert found.difference == (d, 0.0)
    assert not found.difference.clear
    assert math.isnan(found.p_t)
    assert found.p_sign == (1.0 if d == 0.0 else 0.25)


# ---- words -------------------------------------------------------------------------------------


def test_the_word_is_on_the_side_of_the_interval() -> None:
    assert word([2.0, 2.1, 1.9]) == "more"
    assert word([-2.0, -2.1, -1.9]) == "less"
    assert word([2.0, 2.1, 1.9], [1.0, 1.2, 0.8]) == "more"
    assert word([2.0, 2.1, 1.9], 2.05) == NOT_RESOLVED
    assert word([2.0, 2.1, -1.9]) == NOT_RESOLVED


def test_too_few_samples_resolve_nothing() -> None:
    assert word([1.0, 1.0 + 1e-6]) == NOT_RESOLVED  # its interval is clear of 0 all the same
    assert interval([1.0, 1.0 + 1e-6]).clear


@pytest.mark.parametrize("d", [0.0, 0.5, 1e-17, -1e-3])
@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e12])
def test_differences_that_are_equal_up_to_rounding_resolve_nothing(d: float, scale: float) -> None:
    base = scale * np.array([0.1, 0.7, 1.3, 2.9])
    assert word(base + scale * d, base) == NOT_RESOLVED
    rounded = base * (1.0 + np.array([1, 2, 1, 3]) * 2.0**-52)  # each differs in its last bits
    assert word(rounded, base) == NOT_RESOLVED


def test_small_differences_of_small_numbers_are_seen() -> None:
    assert word(1e-20 * np.array([2.0, 2.1, 1.9])) == "more"
    assert word(1.0 + 1e-9 * np.array([2.0, 2.1, 1.9]), 1.0) == "more"


def test_among_many_it_takes_more() -> None:
    values = [0.6, 1.0, 1.4, 0.3, 1.7]
    assert word(values) == "more"
    assert word(values, among=20) == NOT_RESOLVED


@pytest.mark.parametrize("samples", [3, 5, 16])
@pytest.mark.parametrize("among", [1, 6])
def test_noise_gives_no_verdict_in_nine_runs_of_ten(samples: int, among: int) -> None:
    rng = np.random.default_rng(samples + among)
    without = 0
    for _ in range(1000):
        words = {word(rng.normal(0.0, 1.0, samples), among=among) for _ in range(among)}
        without += words == {NOT_RESOLVED}
    assert without >= 930  # 950 expected, less three standard errors


def test_median_words() -> None:
    def of(values: object, base: float = 1.0) -> str:
        return judge_median(values, base, above="slower", below="faster")  # type: ignore[arg-type]

    slow = [1.2, 1.3, 1.1, 1.25, 1.15, 9.0]  # one far out does no harm
    assert of(slow) == "slower"
    assert of([2.0 - r for r in slow[:5]] + [0.1]) == "faster"
    assert of(slow[:5]) == NOT_RESOLVED  # five are too few
    assert of([*slow[:5], 0.9]) == NOT_RESOLVED
    assert of([1.1] * 24) == NOT_RESOLVED
    assert of([1.0] * 24) == NOT_RESOLVED


@pytest.mark.parametrize("base", [[1.0], [1.0, 2.0], [[1.0, 2.0, 3.0]]])
def test_as_many_of_one_as_of_the_other(base: list[float]) -> None:
    with pytest.raises(ValueError, match="verdict: values has shape"):
        word([1.0, 2.0, 3.0], base)
