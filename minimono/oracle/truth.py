"""The truth: exact rational numbers of the stored floats, rounded once; mpmath where it must be.

Also how far from it a sound implementation can be, from the condition of each case.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from minimono.backend import Array
from minimono.oracle.case import BOUND, Expected

DIGITS = 50  # of mpmath


def exact(array: Array) -> Array:
    """Return an array of the same shape that holds Fractions: no operation on them rounds.

    >>> exact(np.array([0.5]))
    array([Fraction(1, 2)], dtype=object)
    """
    array = np.asarray(array, dtype=np.float64)
    return _objects([Fraction(float(v)) for v in array.reshape(-1)], array.shape)


def precise(array: Array) -> Array:
    """Return an array of mpmath numbers with 50 digits."""
    array = np.asarray(array, dtype=np.float64)
    mp = mpmath()
    return _objects([mp.mpf(float(v)) for v in array.reshape(-1)], array.shape)


def float32(values: Array) -> Array:
    """Return values rounded to float32, in float64, so that one case serves both."""
    return np.asarray(values, dtype=np.float32).astype(np.float64)


def mpmath() -> Any:
    """Return mpmath's context with 50 digits. Needed only to make vectors, not to run checks."""
    import mpmath

    context = mpmath.mp
    context.dps = DIGITS
    return context


def rounded(values: Any) -> Array:
    """Return exact or precise values as float64, rounded once, to nearest; None is nan."""
    array = np.asarray(values, dtype=object)
    flat = [np.nan if v is None else float(v) for v in array.reshape(-1)]
    return np.array(flat, dtype=np.float64).reshape(array.shape)


def settled(value: Array, limit: Any, size: Any, gap: float = 1e-3) -> None:
    """Raise ValueError if rounding could decide how value and limit compare; they may be equal."""
    if ((value != limit) & (abs(value - limit) < gap * size)).any():
        raise ValueError("too close to call: take other numbers")


def conditioned(
    function: Callable[..., Sequence[Array]], *inputs: Array, bound: float = BOUND
) -> list[Expected]:
    """The outputs of `function`, and as their error what rounding each input would make of them.

        linear = bound · (|out| + Σ_i |∂out/∂x_i| |x_i|)

    A sound algorithm gives the exact result of slightly wrong inputs, slightly rounded; `bound` is
    how many roundings that may be. The derivatives are difference quotients of the exact function
    (Fractions or mpmath numbers), so their own error does not matter.

    inputs: float64 arrays, which `function` gets as arrays of the kind `lift` makes.
    """
    return conditioned_by(exact, function, *inputs, bound=bound)


def conditioned_by(
    lift: Callable[[Array], Array],
    function: Callable[..., Sequence[Array]],
    *inputs: Array,
    bound: float = BOUND,
) -> list[Expected]:
    """`conditioned` with the numbers that `lift` makes: `exact` or `precise`."""
    lifted = [lift(x) for x in inputs]
    outputs = [np.asarray(out, dtype=object) for out in function(*lifted)]
    sums = [abs(out) for out in outputs]
    step = Fraction(1, 2**70) if lift is exact else mpmath().mpf(2) ** -70
    for place, x in enumerate(lifted):
        for index in np.ndindex(x.shape):
            if x[index] == 0:
                continue
            moved = x.copy()
            moved[index] = x[index] * (1 + step)
            others = [moved if i == place else y for i, y in enumerate(lifted)]
            for i, out in enumerate(function(*others)):
                sums[i] = sums[i] + abs(np.asarray(out, dtype=object) - outputs[i]) / step
    return [
        Expected(rounded(out), linear=bound * rounded(total))
        for out, total in zip(outputs, sums, strict=True)
    ]


def _objects(values: list[Any], shape: tuple[int, ...]) -> Array:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array.reshape(shape)
