"""Sum, mean, largest and smallest along axes, on the CPU.

An array is cut into (B, n, C): n along the axes that go, C behind them, B before. Sums are made in
blocks, and those of blocks are added in float64, in pairs.
"""

import math
from typing import Any

import numpy as np

from minimono import sums as exact
from minimono.backend import Array
from minimono.kernels.cpu.compiling import compiled, inlined
from minimono.kernels.cpu.instructions import larger_but_for_nan
from minimono.kernels.cpu.sums import ROWS, in_any_order, sums_of_blocks_kernel
from minimono.kernels.parallel import in_parts, parts_for
from minimono.sums import Axes

BLOCK = 256  # numbers of a row that are added up side by side


@inlined
def _add_in_pairs(sums: Array, count: int) -> None:
    """Put the sum of the first `count` rows into the first."""
    step = 1
    while step < count:
        for i in range(0, count - step, 2 * step):
            for j in range(sums.shape[1]):
                sums[i, j] += sums[i + step, j]
        step *= 2


@in_any_order
def _total(row: Array) -> Any:
    """Return the sum of at most BLOCK numbers, in their dtype, in 13 roundings (NumPy: 19)."""
    result = row.dtype.type(0.0)
    for j in range(len(row)):
        result += row[j]
    return result


@compiled
def totals_kernel(x: Array, B: int, n: int, C: int, over: float, out: Array) -> bool:
    """out (B C) = sums of x (B n C) over `over`; return whether a sum is not finite."""
    blocks = -(-n // (BLOCK if C == 1 else ROWS))
    sums, beyond = np.empty((blocks, C)), False
    for b in range(B):
        part = x[b * n * C : (b + 1) * n * C]
        if C == 1:
            for i in range(blocks):
                sums[i, 0] = _total(part[i * BLOCK : (i + 1) * BLOCK])
        else:
            sums[:] = 0.0
            sums_of_blocks_kernel(part.reshape(n, C), sums)
        _add_in_pairs(sums, blocks)
        for j in range(C):
            beyond |= not abs(sums[0, j]) < math.inf
            out[b * C + j] = sums[0, j] / over
    return beyond


@compiled
def largest_kernel(x: Array, B: int, n: int, C: int, sign: float, out: Array) -> None:
    """out (B C) = the largest of x (B n C), or with a sign of -1 the smallest; a nan is both."""
    nans = np.empty(C, np.float32)
    for b in range(B):
        part = x[b * n * C : (b + 1) * n * C]
        if C == 1:
            out[b], nans[0] = _largest(part, sign)
        else:
            _largest_of_rows(part.reshape(n, C), sign, out[b * C : (b + 1) * C], nans)
        for j in range(C):
            out[b * C + j] = math.nan if nans[j] else sign * out[b * C + j]


@inlined
def _largest(row: Array, sign: float) -> tuple[Any, Any]:
    """Return sign times the largest, and 1 if there is a nan, else 0."""
    best, nan = sign * row[0], _is_nan(row[0])
    for j in range(row.size):
        best = larger_but_for_nan(sign * row[j], best)
        nan = larger_but_for_nan(_is_nan(row[j]), nan)
    return best, nan


@inlined
def _largest_of_rows(x: Array, sign: float, best: Array, nans: Array) -> None:
    for j in range(best.size):
        best[j], nans[j] = sign * x[0, j], _is_nan(x[0, j])
    for i in range(1, len(x)):
        _keep_larger(x[i], sign, best, nans)


@inlined
def _keep_larger(row: Array, sign: float, best: Array, nans: Array) -> None:
    for j in range(best.size):
        best[j] = larger_but_for_nan(sign * row[j], best[j])
        nans[j] = larger_but_for_nan(_is_nan(row[j]), nans[j])


@inlined
def _is_nan(number: float) -> Any:
    return np.float32(1.0) if number != number else np.float32(0.0)  # no wider than x


Cut = tuple[Array, tuple[int, int, int], tuple[int, ...]]


def _cut(x: Array, axis: Axes, keepdims: bool) -> Cut:
    """Return x in one block of memory, (B n C), these three, and the shape of the result."""
    shape, size = x.shape, x.size
    if axis is None:
        return x.ravel(), (1, size, 1), (1,) * len(shape) if keepdims else ()
    if type(axis) is int and -len(shape) <= axis < len(shape):
        first = last = axis % len(shape)
    else:
        axes = sorted(exact.axes_of(x, axis))
        if not axes:
            return x.ravel(), (size, 1, 1), shape
        first, last = axes[0], axes[-1]
        if last - first >= len(axes):  # others lie between: they come to the front
            others = [a for a in range(len(shape)) if a not in axes]
            x = x.transpose(*others, *axes)
            kept = [1 if a in axes else m for a, m in enumerate(shape) if keepdims or a in others]
            n = math.prod(x.shape[len(others) :])
            return x.ravel(), (size // n, n, 1), tuple(kept)
    kept = (1,) * (last + 1 - first) if keepdims else ()
    n, C = math.prod(shape[first : last + 1]), math.prod(shape[last + 1 :])
    return x.ravel(), (size // (n * C), n, C), (*shape[:first], *kept, *shape[last + 1 :])


def _reduced(kernel: Any, cut: Cut, number: float) -> tuple[Array, bool]:
    """Return the result, and whether the kernel returns true for any part."""
    x, (B, n, C), shape = cut
    out = np.empty(B * C, x.dtype)
    if parts_for(B, x.size) == 1:
        return out.reshape(shape), kernel(x, B, n, C, number, out)

    def run(part: slice) -> Any:
        of_x, of_out = (slice(part.start * m, part.stop * m) for m in (n * C, C))
        return kernel(x[of_x], part.stop - part.start, n, C, number, out[of_out])

    return out.reshape(shape), any(in_parts(run, B, x.size))


def sum(x: Array, axis: Axes = None, keepdims: bool = False) -> Array:
    return _reduced(totals_kernel, _cut(x, axis, keepdims), 1.0)[0]


def mean(x: Array, axis: Axes = None, keepdims: bool = False) -> Array:
    cut = _cut(x, axis, keepdims)
    out, beyond = _reduced(totals_kernel, cut, float(cut[1][1]))
    if beyond:
        with np.errstate(all="ignore"):
            return exact.mean(x, axis, keepdims)  # may be finite where the sum is not
    return out


def max(x: Array, axis: Axes = None, keepdims: bool = False) -> Array:
    return _reduced(largest_kernel, _cut(x, axis, keepdims), x.dtype.type(1.0))[0]


def min(x: Array, axis: Axes = None, keepdims: bool = False) -> Array:
    return _reduced(largest_kernel, _cut(x, axis, keepdims), x.dtype.type(-1.0))[0]
