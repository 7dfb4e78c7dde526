"""What differences allow one to say: a word for above 0, a word for below 0, or "not resolved".

Every sentence of a report that draws a conclusion from numbers gets its word here. It is
"not resolved"

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
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from minimono.backend import Array
from minimono.checks import whole_number

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
        """The interval in so many decimals, or in more where they would say nothing.

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
        """The median, and in brackets the ends of its interval.

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


def interval(values: Sequence[float] | Array, *, among: int = 1) -> Interval:
    """mean ± t s / sqrt(n), Student's t with n - 1 degrees of freedom.

    Both are nan for less than two values, and if one of them is not a finite number.

    >>> interval([1.0, 3.0])
    Interval(mean=2.0, half=12.706...)
    """
    array = samples(values, "interval: values")
    n, outside = len(array), _outside(among, "interval")
    if n < 2 or not np.isfinite(array).all():
        return Interval(math.nan, math.nan)
    exponent = np.frexp(abs(array).max())[1]  # in this unit no square overflows or vanishes
    array = np.ldexp(array, -exponent)
    half = student_t(n - 1, outside) * array.std(ddof=1) / math.sqrt(n)
    with np.errstate(over="ignore"):
        return Interval(*np.ldexp([array.mean(), half], exponent).tolist())


def samples(values: Sequence[float] | Array, name: str) -> Array:
    """Values in float64, if they are real numbers in a row."""
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} have dtype {array.dtype}, expected real numbers")
    if array.ndim != 1:
        raise ValueError(f"{name} have shape {array.shape}, expected (n,)")
    return array.astype(np.float64)


def _outside(among: int, name: str) -> float:
    """The probability with which one interval of so many may miss."""
    return 0.05 / whole_number(among, f"{name}: among", least=1)


def student_t(degrees: int, outside: float) -> float:
    """The t that |T| exceeds with the probability `outside`, for whole degrees of freedom.

    With theta = atan(t / sqrt(degrees)), P(|T| <= t) is a finite sum of powers of cos(theta)
    (Abramowitz and Stegun, 26.7.3 and 26.7.4):

        odd:   2/pi (theta + sin (cos + 2/3 cos^3 + 2 4/(3 5) cos^5 + ...))
        even:  sin (1 + 1/2 cos^2 + 1 3/(2 4) cos^4 + ...)
                                                        both up to cos^(degrees - 2)

    `outside` is at least 1e-9: below, its difference from 1 has too few digits in float64.

    >>> round(student_t(4, 0.05), 6)
    2.776445
    """
    whole_number(degrees, "student_t: degrees", least=1)
    if not 1e-9 <= outside < 1.0:
        raise ValueError(f"student_t: outside is {outside}, expected 1e-9 <= outside < 1")
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

    low, high = 0.0, math.pi / 2
    for _ in range(60):  # halves the angle's uncertainty each time
        middle = 0.5 * (low + high)
        low, high = (middle, high) if inside(middle) < 1.0 - outside else (low, middle)
    return math.sqrt(degrees) * math.tan(low)


def median(values: Sequence[float] | Array, *, among: int = 1) -> Median:
    """The median, between the two values that as many lie beyond as chance allows.

    The number of values below the true median is binomial with p = 1/2, however they are
    distributed: times on a busy machine are far from normal. Too few values: the ends are nan. One
    that is nan: all are.
    """
    ordered = np.sort(samples(values, "median: values"))
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


# ---- the words ---------------------------------------------------------------------------------


def judge(
    values: Sequence[float] | Array, base: float | Sequence[float] | Array = 0.0, *,
    above: str, below: str, among: int = 1,
) -> Verdict:  # fmt: skip
    """`above` if the mean of values - base is above 0 beyond chance, `below` if it is below.

    >>> judge([2.1, 2.0, 1.9], [1.0, 1.1, 0.9], above="better", below="worse").word
    'better'
    >>> judge([2.1, 0.0, 1.9], [1.0, 1.1, 0.9], above="better", below="worse").word
    'not resolved'
    """
    d = _differences(values, base)
    found = interval(d, among=among)
    if not (found.clear and _varies(values, base, d)):
        return Verdict(NOT_RESOLVED, found)
    return Verdict(above if found.mean > 0.0 else below, found)


def judge_median(
    values: Sequence[float] | Array, base: float = 0.0, *, above: str, below: str, among: int = 1
) -> str:
    """The same by the median of values - base, for times: fewer than six values never resolve."""
    d = _differences(values, base)
    found = median(d, among=among)
    if _varies(values, base, d):
        if found.low > 0.0:
            return above
        if found.high < 0.0:
            return below
    return NOT_RESOLVED


def _differences(values: Sequence[float] | Array, base: float | Sequence[float] | Array) -> Array:
    values = samples(values, "verdict: values")
    base = samples(np.ravel(base), "verdict: base").reshape(np.shape(base))
    if base.shape not in ((), values.shape):
        raise ValueError(
            f"verdict: values has shape {values.shape} against {base.shape}; expected as many "
            "of one as of the other, (n,) each, or a number to compare with"
        )
    with np.errstate(over="ignore", invalid="ignore"):  # infinity and nan resolve nothing
        return values - base


def _varies(
    values: Sequence[float] | Array, base: float | Sequence[float] | Array, d: Array
) -> bool:
    """Whether there are enough samples, all of them numbers, that differ by more than rounding."""
    if len(d) < LEAST or not np.isfinite(d).all():
        return False
    return bool(np.ptp(d) > ROUNDING * max(np.abs(values).max(), np.abs(base).max()))
