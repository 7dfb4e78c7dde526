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
from minimono.kernels.cpu.sums import ROWS, in_any_order
from minimono.kernels.parallel import in_parts, parts_for
from minimono.sums import Axes

BLOCK = 256  # numbers of a row that are added up side by side


@in_any_order
def _total(row: Array) -> Any:
    """Return the sum of at most BLOCK numbers, in their dtype, in 13 roundings (NumPy: 19)."""
    result = row.dtype.type(0.0)
    for j in range(len(row)):
        result += row[j]
    return result


@compiled
def totals_kernel(x: Array, n: int, C: int, over: float, out: Array) -> bool:
    """out (B) = sums of x (B n) over `over`; return whether a sum is not finite."""
    sums, beyond = np.empty(-(-n // BLOCK)), False
    for b in range(out.size):
        for i in range(sums.size):
            first, last = i * BLOCK, (i + 1) * BLOCK
            sums[i] = _total(x[b * n + first : b * n + (last if last < n else n)])
        step = 1
        while step < sums.size:  # in pairs
            for i in range(0, sums.size - step, 2 * step):
                sums[i] += sums[i + step]
            step *= 2
        beyond |= not abs(sums[0]) < math.inf
        out[b] = sums[0] / over
    return beyond


@compiled
def totals_of_columns_kernel(x: Array, n: int, C: int, over: float, out: Array) -> bool:
    """The same of x (B n C), along the middle axis; out is (B C)."""
    sums, beyond = np.empty((-(-n // ROWS), C)), False
    for b in range(out.size // C):
        for i in range(n):
            row, to = x[(b * n + i) * C : (b * n + i + 1) * C], sums[i // ROWS]
            if i % ROWS == 0:
                for j in range(C):
                    to[j] = row[j]
            else:
                for j in range(C):
                    to[j] += row[j]
        step = 1
        while step < len(sums):
            for i in range(0, len(sums) - step, 2 * step):
                for j in range(C):
                    sums[i, j] += sums[i + step, j]
            step *= 2
        for j in range(C):
            beyond |= not abs(sums[0, j]) < math.inf
            out[b * C + j] = sums[0, j] / over
    return beyond


@compiled
def largest_kernel(x: Array, n: int, C: int, sign: float, out: Array) -> bool:
    """out (B) = the largest of x (B n), or with a sign of -1 the smallest; a nan is both."""
    for b in range(out.size):
        out[b] = sign * _largest(x[b * n : (b + 1) * n], sign)
    return False


@compiled
def largest_of_columns_kernel(x: Array, n: int, C: int, sign: float, out: Array) -> bool:
    """The same of x (B n C), along the middle axis; out is (B C)."""
    nans = np.empty(C, np.float32)
    for b in range(out.size // C):
        best = out[b * C : (b + 1) * C]
        for j in range(C):
            best[j], nans[j] = sign * x[b * n * C + j], 0.0
        for i in range(n):
            _keep_larger(x[(b * n + i) * C : (b * n + i + 1) * C], sign, best, nans)
        for j in range(C):
            best[j] = math.nan if nans[j] else sign * best[j]
    return False


@inlined
def _largest(row: Array, sign: float) -> Any:
    """Return sign times the largest; nan if there is one."""
    best, nan = sign * row[0], _is_nan(row[0])
    for j in range(row.size):
        best = larger_but_for_nan(sign * row[j], best)
        nan = larger_but_for_nan(_is_nan(row[j]), nan)
    return row.dtype.type(math.nan) if nan else best


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
            left = [1 if a in axes else m for a, m in enumerate(shape) if keepdims or a in others]
            n = math.prod(x.shape[len(others) :])
            return x.ravel(), (size // n, n, 1), tuple(left)
    kept = (1,) * (last + 1 - first) if keepdims else ()
    n, C = math.prod(shape[first : last + 1]), math.prod(shape[last + 1 :])
    return x.ravel(), (size // (n * C), n, C), (*shape[:first], *kept, *shape[last + 1 :])


def _reduced(of_rows: Any, of_columns: Any, cut: Cut, number: float) -> tuple[Array, bool]:
    """Return the result, and whether the kernel returns true for any part."""
    x, (B, n, C), shape = cut
    kernel = of_rows if C == 1 else of_columns
    out = np.empty(B * C, x.dtype)
    if parts_for(B, x.size) == 1:
        return out.reshape(shape), kernel(x, n, C, number, out)

    def run(part: slice) -> Any:
        of_x, of_out = (slice(part.start * m, part.stop * m) for m in (n * C, C))
        return kernel(x[of_x], n, C, number, out[of_out])

    return out.reshape(shape), any(in_parts(run, B, x.size))


def sum(x: Array, axis: Axes = None, keepdims: bool = False) -> Array:
    return _reduced(totals_kernel, totals_of_columns_kernel, _cut(x, axis, keepdims), 1.0)[0]


def mean(x: Array, axis: Axes = None, keepdims: bool = False) -> Array:
    cut = _cut(x, axis, keepdims)
    out, beyond = _reduced(totals_kernel, totals_of_columns_kernel, cut, float(cut[1][1]))
    if beyond:
        with np.errstate(all="ignore"):
            return exact.mean(x, axis, keepdims)  # may be finite where the sum is not
    return out


def max(x: Array, axis: Axes = None, keepdims: bool = False) -> Array:
    one = x.dtype.type(1.0)
    return _reduced(largest_kernel, largest_of_columns_kernel, _cut(x, axis, keepdims), one)[0]


def min(x: Array, axis: Axes = None, keepdims: bool = False) -> Array:
    less = x.dtype.type(-1.0)
    return _reduced(largest_kernel, largest_of_columns_kernel, _cut(x, axis, keepdims), less)[0]
