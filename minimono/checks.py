"""Is this argument a number? Asked wherever a setting comes in, so that the answer is one."""

import operator
from numbers import Real

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
