"""Is this argument a number? Asked wherever a setting comes in, so that the answer is one."""

import math
import operator
from collections.abc import Iterable
from decimal import Decimal
from fractions import Fraction
from numbers import Rational, Real
from typing import TypeAlias

import numpy as np

Rng: TypeAlias = np.random.Generator | int  # a generator, or the seed of a new one


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


def sizes(owner: str, *, least: int = 1, **values: int) -> None:
    """Raise unless each of an owner's arguments is a whole number of at least `least`."""
    for name, value in values.items():
        whole_number(value, f"{owner}: {name}", least=least)


def whole_numbers(values: Iterable[int], name: str, *, least: int) -> tuple[int, ...]:
    """`values` as ints, if they are several whole numbers of at least `least`."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise TypeError(f"{name}: got {values!r}, expected several whole numbers")
    return tuple(whole_number(n, f"{name}[{i}]", least=least) for i, n in enumerate(values))


def at_least_zero(value: float, name: str) -> float:
    """`value` as a float, if it is a finite number that is not negative."""
    number = real_number(value, name)
    if not (math.isfinite(number) and number >= 0.0):
        raise ValueError(f"{name}: got {number}, expected a finite number, 0 or more")
    return number


def drop_probability(value: float, name: str) -> float:
    """`value` as a float, if that share of the elements can be dropped and something be left."""
    number = float(as_written(value, name))
    if not 0.0 <= number < 1.0:
        raise ValueError(f"{name}: got {number}, expected 0 <= p < 1")
    return number


def generator(rng: Rng, name: str) -> np.random.Generator:
    """`rng` itself if it is a generator; a new one if it is a whole number, its seed."""
    if isinstance(rng, np.random.Generator):
        return rng
    try:
        return np.random.default_rng(whole_number(rng, name, least=0))
    except TypeError:
        raise TypeError(
            f"{name}: got {rng!r}, expected a numpy.random.Generator, or a whole number to seed one"
        ) from None
