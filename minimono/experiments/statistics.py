"""Intervals, one paired test, and the words that differences allow one to say.

A word stands for above 0, another for below 0, else there is "not resolved".

Every sentence of a report that draws a conclusion from numbers gets its word here. It is "not
resolved"

* if the interval of the difference holds 0,
* if there are fewer than `LEAST` samples, or one of them is not a number,
* if all differences are equal up to rounding: nothing then tells how much they would vary.

A run draws many conclusions, and one in twenty 95 % intervals misses. So `among` says how many
there are, and all of them together hold with 95 % (Bonferroni: each with 1 - 0.05 / among). Where
nothing differs, 19 runs of 20 have no verdict at all. An interval says nothing about what was not
varied: over pieces of text, nothing about another seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache
from typing import NamedTuple, TypeAlias

import numpy as np

from minimono.backend import Array
from minimono.checks import finite, number, real, whole_number

Values: TypeAlias = Sequence[float] | Array

NOT_RESOLVED = "not resolved"
LEAST = 3  # samples: two have an interval, but nothing shows whether it can be trusted
ROUNDING = 1e-12  # of the values compared: what differs by less is equal


class Interval(NamedTuple):
    """A mean, and half the width of its interval (of 95 %, unless it says otherwise)."""

    mean: float
    half: float

    @property
    def clear(self) -> bool:
        """Whether zero is outside; never where there is no spread to tell by (half is 0)."""
        return abs(self.mean) > self.half > 0.0

    def written(self, digits: int) -> str:
        """Write the interval in so many decimals, or in more where they would say nothing.

        >>> Interval(-0.0123, 0.0045).written(4), Interval(-0.0000123, 0.0000045).written(4)
        ('-0.0123 ± 0.0045', '-1.2e-05 ± 4.5e-06')
        >>> Interval(math.nan, math.nan).written(4), Interval(-0.00001, 0.0045).written(4)
        ('n/a', '0.0000 ± 0.0045')
        """
        if not math.isfinite(self.mean):
            return "n/a"
        if not math.isfinite(self.half):
            return f"{self.mean:+.{digits}f} ± n/a"
        if self.half < 0.5 * 10.0**-digits and (self.mean or self.half):
            return f"{self.mean:+.2g} ± {self.half:.2g}"
        mean = f"{self.mean:+.{digits}f}"
        return f"{mean if float(mean) else mean[1:]} ± {self.half:.{digits}f}"


class Median(NamedTuple):
    """A median, and the ends of its interval."""

    middle: float
    low: float
    high: float

    def written(self, digits: int) -> str:
        """Write the median, and in brackets the ends of its interval.

        >>> Median(1.04, 0.98, 1.12).written(2), Median(1.04, math.nan, math.nan).written(2)
        ('1.04 (0.98-1.12)', '1.04 (n/a)')
        """
        if math.isnan(self.low):
            return f"{self.middle:.{digits}f} (n/a)"
        return f"{self.middle:.{digits}f} ({self.low:.{digits}f}-{self.high:.{digits}f})"


class Verdict(NamedTuple):
    """A word, and the interval that it stands on."""

    word: str
    interval: Interval


# ---- intervals ---------------------------------------------------------------------------------


def interval(values: Values, *, among: int = 1) -> Interval:
    """Return mean ± t s / sqrt(n), with Student's t of n - 1 degrees of freedom.

    It holds for values that are independent and near to normal. Both parts are nan for fewer than
    two values, and if one of them is not a finite number. Values that are equal up to rounding have
    a half of 0, which is never clear of zero.

    >>> interval([1.0, 3.0])
    Interval(mean=2.0, half=12.706...)
    """
    array, rounding = samples(values, "interval: values")
    return _interval(array, rounding, _outside(among, "interval"))


def _interval(values: Array, rounding: Array, outside: float) -> Interval:
    """Return the interval of values of which each is known to within its rounding."""
    if len(values) < 2 or not np.isfinite(values).all():
        return Interval(math.nan, math.nan)
    exponent = np.frexp(abs(values).max())[1]  # in this unit no square overflows or vanishes
    values, rounding = np.ldexp(values, -exponent), np.ldexp(rounding, -exponent)
    half = 0.0
    if np.ptp(values) > rounding.max():
        half = student_t(len(values) - 1, outside) * standard_error(values)
    with np.errstate(over="ignore"):
        return Interval(*np.ldexp([values.mean(), half], exponent).tolist())


def standard_error(values: Array) -> float:
    """Return the standard error of the mean, s / sqrt(n)."""
    return float(np.std(values, ddof=1)) / math.sqrt(len(values))


def samples(values: Values, name: str) -> tuple[Array, Array]:
    """Return a row of real numbers in float64, and what the rounding of each hides."""
    array = real(values, name)
    if array.ndim != 1:
        raise ValueError(f"{name} has shape {array.shape}, expected (n,)")
    eps = float(np.finfo(array.dtype).eps) if array.dtype.kind == "f" else 0.0
    exact = array.astype(np.float64)
    return exact, 2.0 * eps * abs(exact)


def _outside(among: int, name: str) -> float:
    """Return the probability with which one interval of so many may miss."""
    return 0.05 / whole_number(among, f"{name}: among", least=1)


def student_t(degrees: int, outside: float) -> float:
    """Return the t that |T| exceeds with the probability `outside`, for whole degrees of freedom.

    `outside` is at least 1e-9: below, its difference from 1 has too few digits in float64.

    >>> round(student_t(4, 0.05), 6)
    2.776445
    """
    whole_number(degrees, "student_t: degrees", least=1)
    number(outside, "student_t: outside", least=1e-9, below=1.0)
    return _student_t(degrees, outside)


@cache
def _student_t(degrees: int, outside: float) -> float:
    low, high = 0.0, math.pi / 2
    inside = _inside(degrees)
    for _ in range(60):  # halves the angle's uncertainty each time
        middle = 0.5 * (low + high)
        low, high = (middle, high) if inside(middle) < 1.0 - outside else (low, middle)
    return math.sqrt(degrees) * math.tan(low)


def _inside(degrees: int) -> Callable[[float], float]:
    """Return P(|T| <= t) of Student's T as a function of theta = atan(t / sqrt(degrees)).

    It is a finite sum of powers of cos(theta) (Abramowitz and Stegun, 26.7.3 and 26.7.4):

        odd:   2/pi (theta + sin (cos + 2/3 cos^3 + 2 4/(3 5) cos^5 + ...))
        even:  sin (1 + 1/2 cos^2 + 1 3/(2 4) cos^4 + ...)
                                                        both up to cos^(degrees - 2)
    """
    odd = degrees % 2
    powers = np.arange(2 + odd, degrees - 1, 2)
    factors = np.cumprod((powers - 1) / powers)

    def inside(theta: float) -> float:
        sine, cosine = math.sin(theta), math.cos(theta)
        with np.errstate(under="ignore"):
            total = 1.0 + float((factors * cosine ** (powers - odd)).sum())
        if odd:
            return 2.0 / math.pi * (theta + (sine * cosine * total if degrees > 1 else 0.0))
        return sine * total

    return inside


def median(values: Values, *, among: int = 1) -> Median:
    """Return the median, between the two values that as many lie beyond as chance allows.

    The number of values below the true median is binomial with p = 1/2, however they are
    distributed: times on a busy machine are far from normal. With too few values the ends are nan;
    with one value that is nan, all three are.
    """
    ordered = np.sort(samples(values, "median: values")[0])
    n, outside = len(ordered), _outside(among, "median")
    if n == 0 or math.isnan(ordered[-1]):  # nan comes last
        return Median(math.nan, math.nan, math.nan)
    # Of the 2^n ways to lie, those with `beyond` values below, and those with as many or fewer.
    beyond, ways, tail, allowed = 0, 1, 1, int(Fraction(outside) * 2**n) // 2
    while tail <= allowed:
        ways = ways * (n - beyond) // (beyond + 1)
        beyond, tail = beyond + 1, tail + ways
    ends = (ordered[beyond - 1], ordered[n - beyond]) if beyond else (math.nan, math.nan)
    return Median(float(np.median(ordered)), float(ends[0]), float(ends[1]))


# ---- a paired test -----------------------------------------------------------------------------


class Paired(NamedTuple):
    """One way against another, seed by seed."""

    difference: Interval
    p_t: float  # paired t-test, two-sided; nan if all differences are equal, up to rounding
    higher: int  # seeds in which the first is higher
    lower: int
    p_sign: float  # sign test, two-sided, without the seeds that are equal


def paired(values: Values, original: Values) -> Paired:
    """Test values against the original's of the same seeds.

    t = mean(d) / (s(d) / sqrt(n)) for the differences d. Sign test: the number of d > 0 among
    those that are not 0 is binomial with p = 1/2, if neither is better. Differences that the
    rounding of their operands could make are 0; where it could make all of their spread, there is
    no t: p_t is nan, and the difference is not clear.
    """
    (a, rounding_a), (b, rounding_b) = (
        _finite(values, "paired: values"), _finite(original, "paired: original")
    )
    if a.shape != b.shape:
        raise ValueError(
            f"paired: values has shape {a.shape}, original {b.shape}; expected one of each for "
            "each seed"
        )
    d, rounding = a - b, rounding_a + rounding_b
    d[abs(d) <= rounding] = 0.0
    found, p_t = _interval(d, rounding, 0.05), math.nan
    if found.half:
        t = abs(found.mean) / standard_error(d)
        p_t = max(0.0, 1.0 - _inside(len(d) - 1)(math.atan(t / math.sqrt(len(d) - 1))))
    higher, lower = int((d > 0).sum()), int((d < 0).sum())
    ways = sum(math.comb(higher + lower, n) for n in range(min(higher, lower) + 1))
    return Paired(found, p_t, higher, lower, min(1.0, 2.0 * ways / 2 ** (higher + lower)))


def _finite(values: Values, name: str) -> tuple[Array, Array]:
    """Return samples, if there are two or more of them, all finite, and their rounding."""
    exact, rounding = samples(values, name)
    if len(exact) < 2:
        raise ValueError(f"{name} has shape {exact.shape}, expected (n,), two or more")
    finite(exact, name)
    return exact, rounding


# ---- the words ---------------------------------------------------------------------------------


def judge(
    values: Values, base: float | Values = 0.0, *, above: str, below: str, among: int = 1
) -> Verdict:
    """Say `above` if the mean of values - base is above 0 beyond chance, `below` if below.

    >>> judge([2.1, 2.0, 1.9], [1.0, 1.1, 0.9], above="better", below="worse").word
    'better'
    >>> judge([2.1, 0.0, 1.9], [1.0, 1.1, 0.9], above="better", below="worse").word
    'not resolved'
    """
    d, varies = _differences(values, base)
    found = interval(d, among=among)
    if not (varies and found.clear):
        return Verdict(NOT_RESOLVED, found)
    return Verdict(above if found.mean > 0.0 else below, found)


def judge_median(
    values: Values, base: float = 0.0, *, above: str, below: str, among: int = 1
) -> str:
    """Judge by the median of values - base, for times: fewer than six values never resolve."""
    d, varies = _differences(values, base)
    found = median(d, among=among)
    if varies and found.low > 0.0:
        return above
    return below if varies and found.high < 0.0 else NOT_RESOLVED


def _differences(values: Values, base: float | Values) -> tuple[Array, bool]:
    """Return values - base, and whether they are enough, finite, and more than rounding apart."""
    a, _ = samples(values, "verdict: values")
    b = samples(np.ravel(base), "verdict: base")[0].reshape(np.shape(base))
    if b.shape not in ((), a.shape):
        raise ValueError(
            f"verdict: values has shape {a.shape}, base {b.shape}; expected as many of one as of "
            "the other, (n,) each, or a number to compare with"
        )
    with np.errstate(over="ignore", invalid="ignore"):  # infinity and nan resolve nothing
        d = a - b
        if len(d) < LEAST or not np.isfinite(d).all():
            return d, False
        return d, bool(np.ptp(d) > ROUNDING * max(abs(a).max(), abs(b).max()))
