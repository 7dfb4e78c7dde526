"""Is this argument a number? Asked wherever a setting comes in, so that the answer is one."""

import math
import operator
from decimal import Decimal
from fractions import Fraction
from numbers import Rational, Real

import numpy as np


def whole_number(value: int, name: str, *, least: int) -> int:
    """`value` as an int, if it is a whole number (not a bool) of at least `least`."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool | np.bool):
        raise TypeError(f"{name}: got {value!r}, expected a whole number")
    if number < least:
        raise ValueError(f"{name}: got {number}, expected {least} or more")
    return number


def real_number(value: float, name: str) -> float:
    """`value` as a float, if it is a real number and not a bool."""
    if isinstance(value, bool | np.bool) or not isinstance(value, Real):
        raise TypeError(f"{name}: got {value!r}, expected a number")
    return float(value)


def as_written(value: float | Decimal, name: str) -> Fraction | float:
    """A share as the decimal that it is written as: np.float32(0.1) is 1/10, and so is 0.1.

    Whole numbers, fractions and decimals are what they are; nan and infinity come back as floats,
    for the caller's range to refuse.

    >>> as_written(np.float16(0.1), "p"), as_written(Decimal("0.07"), "p")
    (Fraction(1, 10), Fraction(7, 100))
    """
    number = float(value) if isinstance(value, Decimal) else real_number(value, name)
    if not math.isfinite(number):
        return number
    if isinstance(value, Decimal):
        return Fraction(value)
    if isinstance(value, Rational):
        return Fraction(int(value.numerator), int(value.denominator))
    if isinstance(value, np.floating):  # the fewest digits that tell it from its neighbours
        return Fraction(np.format_float_scientific(value, unique=True))
    return Fraction(repr(number))
