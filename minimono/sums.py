"""Sums as exact as adding in pairs, over any axes, on either device.

Added one after the other, n numbers gather up to n roundings: a float32 sum of 20 million ones is
16,777,216. Folded again and again, the sum of 16 rows and then of 16 such sums, none gathers more
than about 15 log16(n). NumPy folds along the axis that lies together in memory, and adds all others
one after the other; CuPy folds none. Who adds up many numbers therefore asks here.

    total     x.sum          mean     x.mean         running     x.cumsum
    product   a @ b          Sum      of arrays that come one by one

A sum over an axis short enough, or of whole numbers, is the library's own. Lengths are sums of
squares, which can be too large or too small for float64 where the numbers are not:

    scaled    x, its largest below 1                  unit      vectors at length 1
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np

from minimono.backend import Array, array_module, device_of

FOLD = 16  # rows that are added one after the other (our choice: as exact as NumPy's, and faster)
INNER = 2048  # numbers that BLAS adds up by itself: no worse than 80 roundings, measured

Axes: TypeAlias = int | tuple[int, ...] | None


def total(x: Array, axis: Axes = None, keepdims: bool = False, *, dtype: Any = None) -> Array:
    """Return the sum over `axis`, added in `dtype` or in that of `x`; float16 in float32.

    >>> total(np.ones((20_000_000, 1), np.float32), axis=0).tolist()
    [20000000.0]
    """
    char = x.dtype.char
    if char == "e" and dtype is None:
        return total(x, axis, keepdims, dtype=np.float32).astype(np.float16)
    in_pairs = type(x) is np.ndarray and x.flags.c_contiguous and dtype is None  # over last axes
    if char not in "fdgFDGe" or (in_pairs and (axis is None or axis == -1)):
        return x.sum(axis=axis, keepdims=keepdims, dtype=dtype)
    if type(axis) is int and -x.ndim <= axis < x.ndim and x.shape[axis] <= 2 * FOLD:
        return x.sum(axis=axis, keepdims=keepdims, dtype=dtype)
    axes = axes_of(x, axis)
    last = {a for a in axes if in_pairs and axes.issuperset(range(a, x.ndim))}
    if last:
        x = x.sum(axis=tuple(last), keepdims=True)
    for a in sorted(axes - last, reverse=True):
        x = _folded(x, a, dtype)
    return x if keepdims else x.reshape([n for i, n in enumerate(x.shape) if i not in axes])


def mean(x: Array, axis: Axes = None, keepdims: bool = False) -> Array:
    """Return the mean over `axis`, which may be finite where the sum is not."""
    count = x.size if axis is None else math.prod(x.shape[a] for a in axes_of(x, axis))
    if count == 0:
        raise ValueError(f"mean of nothing: x has shape {x.shape}, expected some along axis {axis}")
    if device_of(x) == "cuda":  # CuPy raises nothing, but float64 has room for float32
        wide = np.float64 if x.dtype.kind == "f" else None
        found = total(x, axis, keepdims, dtype=wide) / count
        return found.astype(x.dtype) if wide else found
    try:
        with np.errstate(over="raise"):
            return total(x, axis, keepdims) / count
    except FloatingPointError:
        part = 2.0 ** -count.bit_length()
        return total(x * part, axis, keepdims) / (count * part)


def running(x: Array, axis: int = -1) -> Array:
    """Return the sums of the first 1, 2, 3, ... along `axis`: in blocks, then of blocks before.

    float32 is added in float64 and rounded once.

    >>> running(np.array([1.0, 2.0, 4.0]))
    array([1., 3., 7.])
    """
    axes_of(x, axis)  # raises for one that x has not
    if x.ndim == 0:
        return x.copy()
    if x.dtype.kind not in "fc":
        return x.cumsum(axis=axis)
    wide = np.result_type(x.dtype, np.float64)
    return array_module(x).moveaxis(_running(x, axis, wide), -1, axis).astype(x.dtype, copy=False)


def product(a: Array, b: Array, out: Array | None = None) -> Array:
    """Return a @ b, in `out` if given; a long inner axis in halves, whose products are added."""
    inner = a.shape[-1]
    if inner <= INNER or inner != b.shape[-2 if b.ndim > 1 else 0]:  # the latter is an error of @
        if out is not None:
            return np.matmul(a, b, out=out)
        # Of matrices `dot` is the same call of BLAS, at half the cost of calling.
        return a.dot(b) if a.ndim == b.ndim == 2 else a @ b
    half = inner // 2
    b1, b2 = (b[:half], b[half:]) if b.ndim == 1 else (b[..., :half, :], b[..., half:, :])
    return np.add(product(a[..., :half], b1), product(a[..., half:], b2), out=out)


class Sum:
    """The sum of arrays that come one by one: two sums of as many parts each become one.

    >>> sum_of_all = Sum()
    >>> for part in (1.0, 2.0, 4.0):
    ...     sum_of_all.add(np.array(part))
    >>> sum_of_all.total(0.0)
    np.float64(7.0)
    """

    def __init__(self) -> None:
        self.count = 0
        self.waiting: list[Array] = []  # as many as `count` has binary ones

    def add(self, part: Array) -> None:
        """Take in a part."""
        self.count += 1
        parts = self.count
        while parts % 2 == 0:
            part, parts = self.waiting.pop() + part, parts // 2
        self.waiting.append(part)

    def total(self, start: Array) -> Array:
        """Return `start` plus all parts."""
        for part in reversed(self.waiting):
            start = start + part
        return start


def scaled(x: Array, axis: int | None = None) -> Array:
    """Return float64 `x` over the power of two that brings its largest magnitude below 1.

    It loses no digits, and squares neither overflow nor vanish. With `axis`, the largest along it.

    >>> scaled(np.array([3.0, -1.0]))
    array([ 0.75, -0.25])
    """
    xp = array_module(x)
    _, exponent = xp.frexp(xp.maximum(x.max(axis, keepdims=True), -x.min(axis, keepdims=True)))
    half = exponent // 2  # no float64 is as large as the inverse of the smallest
    one = xp.ones(exponent.shape)
    with np.errstate(under="ignore"):
        return x * xp.ldexp(one, -half) * xp.ldexp(one, half - exponent)


def unit(v: Array) -> Array:
    """Return vectors along the last axis at length 1, in float64; nan for one that is 0.

    >>> unit(np.array([[3e200, 4e200], [0.0, 1e-200]]))
    array([[0.6, 0.8],
           [0. , 1. ]])
    """
    # float64 has room for the squares of all else.
    v = scaled(v, axis=-1) if v.dtype == np.float64 else v.astype(np.float64)
    with np.errstate(under="ignore", invalid="ignore"):
        return v / array_module(v).sqrt((v * v).sum(axis=-1, keepdims=True))


def axes_of(x: Array, axis: Axes) -> set[int]:
    """Return the axes that `axis` names, counted from 0. Of a number, 0 and -1 name none."""
    if axis is None:
        return set(range(x.ndim))
    named = axis if isinstance(axis, tuple) else (axis,)
    size = max(x.ndim, 1)
    for a in named:
        if not -size <= a < size:
            raise np.exceptions.AxisError(a, x.ndim)
    axes = {a % size for a in named}
    if len(axes) < len(named):
        raise ValueError(f"axis {axis} names an axis twice")
    return axes if x.ndim else set()


def _folded(x: Array, axis: int, dtype: Any) -> Array:
    """Return the sum along one axis, which stays, with length 1."""
    shape, n = x.shape, x.shape[axis]
    before, after = shape[:axis], shape[axis + 1 :]
    here = (slice(None),) * axis
    while n > 2 * FOLD:
        step, rest = divmod(n, FOLD)
        whole = x if rest == 0 else x[(*here, slice(n - rest))]
        # (..., n, ...) -> (..., FOLD, n / FOLD, ...) -> (..., n / FOLD, ...)
        sums = whole.reshape(*before, FOLD, step, *after).sum(axis=axis, dtype=dtype)
        if rest:
            last = x[(*here, slice(n - rest, n))]
            sums[(*here, slice(1))] += last.sum(axis=axis, keepdims=True, dtype=dtype)
        x, n = sums, step
    return x.sum(axis=axis, keepdims=True, dtype=dtype)


def _running(x: Array, axis: int, dtype: Any) -> Array:
    """Return what `running` does, with the axis moved to the end."""
    xp = array_module(x)
    x = xp.moveaxis(x, axis, -1)
    n = x.shape[-1]
    if n <= FOLD * FOLD:
        return x.cumsum(axis=-1, dtype=dtype)
    blocks = -(-n // FOLD)
    within = xp.zeros((*x.shape[:-1], blocks * FOLD), dtype)
    within[..., :n] = x
    within = within.reshape(*x.shape[:-1], blocks, FOLD).cumsum(axis=-1)  # (..., n / FOLD, FOLD)
    within[..., 1:, :] += _running(within[..., :-1, -1], -1, dtype)[..., None]
    return within.reshape(*x.shape[:-1], -1)[..., :n]
