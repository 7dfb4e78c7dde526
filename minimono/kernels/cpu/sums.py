"""Sums along a row, which Numba turns into vector instructions, and sums over rows, in float64."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from minimono import sums as exact
from minimono.backend import Array
from minimono.kernels.cpu.compiling import compiled, inlined
from minimono.kernels.cpu.instructions import larger_but_for_nan
from minimono.kernels.parallel import in_parts
from minimono.sums import FOLD

# ---- sums over rows ---------------------------------------------------------------------------

ROWS = 128  # that are added one after the other, in float64; the sums of such blocks in pairs


@compiled
def sums_of_blocks_kernel(x: Array, sums: Array) -> None:
    for block in range(sums.shape[0]):
        row = sums[block]
        first, last = block * ROWS, min((block + 1) * ROWS, x.shape[0])
        whole = first + (last - first) // 4 * 4
        for i in range(first, whole, 4):  # four at a time, for fewer passes over the sums
            a, b, c, d = x[i], x[i + 1], x[i + 2], x[i + 3]
            for j in range(row.size):
                row[j] += (np.float64(a[j]) + np.float64(b[j])) + (
                    np.float64(c[j]) + np.float64(d[j])
                )
        for i in range(whole, last):
            for j in range(row.size):
                row[j] += x[i, j]


def sum_of_rows(x: Array) -> Array:
    """Return the sum over rows, (N, C) -> (C,)."""
    return sum_of_blocks(sums_of_blocks_kernel, np.ascontiguousarray(x))


def sum_of_blocks(kernel: Callable[..., None], *arrays: Array) -> Array:
    """Return the sum over rows of the last of arrays (N, C), which a kernel adds up in blocks.

    kernel(*arrays, sums) reads or writes `ROWS` rows of each array for one row of `sums`.
    """
    x = arrays[-1]
    sums = np.zeros((max(1, -(-len(x) // ROWS)), x.shape[1]))
    if len(sums) == 1:
        kernel(*arrays, sums)
        return sums[0].astype(x.dtype)

    def run(part: slice) -> None:
        rows = slice(part.start * ROWS, part.stop * ROWS)
        kernel(*(a[rows] for a in arrays), sums[part])

    in_parts(run, len(sums), x.size)
    return exact.total(sums, axis=0).astype(x.dtype)


# ---- the sums of the first 1, 2, 3, ... --------------------------------------------------------
# What each addition rounds off is added up apart (Knuth 1969, 4.2.2): as exact as in blocks, also
# for float64.


@compiled
def running_sums_kernel(x: Array, out: Array) -> None:
    """x, out (N, n, C): along the middle axis."""
    channels = x.shape[2]
    sums, lost = np.empty(channels), np.empty(channels)
    for b in range(x.shape[0]):
        sums[:] = 0.0
        lost[:] = 0.0
        for i in range(x.shape[1]):
            for j in range(channels):
                old, new = sums[j], sums[j] + x[b, i, j]
                added = new - old
                lost[j] += (old - (new - added)) + (x[b, i, j] - added)
                sums[j] = new
                out[b, i, j] = new + lost[j] if math.isfinite(new) else new


@compiled
def running_sums_of_rows_kernel(x: Array, out: Array) -> None:
    """x, out (N, n): along rows, in blocks of which only the sums are added so."""
    length = x.shape[1]
    for i in range(x.shape[0]):
        whole = lost = 0.0
        for first in range(0, length, FOLD):
            within = 0.0
            for j in range(first, min(first + FOLD, length)):
                within += x[i, j]
                out[i, j] = whole + (lost + within)
            old, whole = whole, whole + within
            added = whole - old
            lost += (old - (whole - added)) + (within - added)
            if not math.isfinite(whole):  # of an infinite sum the rest is nan
                lost = 0.0


@compiled
def running_sums_of_float32_kernel(x: Array, out: Array) -> None:
    """The same for float32, of which float64 has room for all digits of a sum."""
    for i in range(x.shape[0]):
        whole = 0.0
        for j in range(x.shape[1]):
            whole += x[i, j]
            out[i, j] = whole


def cumsum(x: Array, axis: int = -1) -> Array:
    axes = exact.axes_of(x, axis)
    if not axes:
        return x.copy()
    (at,) = axes
    x = np.ascontiguousarray(x)
    out = np.empty_like(x)
    if at == x.ndim - 1:
        rows, single = (-1, x.shape[at]), x.dtype == np.float32
        kernel = running_sums_of_float32_kernel if single else running_sums_of_rows_kernel
        kernel(x.reshape(rows), out.reshape(rows))
    else:
        cut = (-1, x.shape[at], math.prod(x.shape[at + 1 :]))
        running_sums_kernel(x.reshape(cut), out.reshape(cut))
    return out


# ---- sums along a row --------------------------------------------------------------------------
# A sum in order is one chain of additions, each waiting for the last. Allowed to add in another
# order ("reassoc"), the compiler makes many sums side by side of it: seven times as fast, and
# always the same on one kind of processor. The largest is the same in any order, but for nan.


def in_any_order(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a sum whose terms may be added in any order."""
    return inlined(function, fastmath={"reassoc"})


@in_any_order
def total(row: Array) -> Any:
    """Return the sum of a row, in float64."""
    result = 0.0
    for j in range(len(row)):
        result += np.float64(row[j])
    return result


@in_any_order
def total_of_products(a: Array, b: Array) -> Any:
    """Return the sum of a[j] b[j] over a row, in float64."""
    result = 0.0
    for j in range(len(a)):
        result += np.float64(a[j] * b[j])
    return result


@in_any_order
def total_of_squares(row: Array) -> Any:
    """Return the sum of the squares of a row, each worked out in float64."""
    result = 0.0
    for j in range(len(row)):
        result += np.float64(row[j]) * np.float64(row[j])
    return result


@in_any_order
def total_of_squares_about(mean: float, row: Array) -> Any:
    """Return the sum of (row[j] - mean)^2, worked out in float64."""
    result = 0.0
    for j in range(len(row)):
        distance = np.float64(row[j]) - mean
        result += distance * distance
    return result


@inlined
def largest(row: Array) -> Any:
    """Return the largest of a row, not empty; of a row with a nan, any number or nan."""
    result = row[0]
    for j in range(len(row)):
        result = larger_but_for_nan(row[j], result)
    return result


@inlined
def largest_of_columns(x: Array, tops: Array) -> None:
    """Write the largest of each column, of one with a nan any number or nan."""
    tops[:] = x[0]
    for i in range(1, len(x)):
        _keep_larger(x[i], tops)


@inlined
def _keep_larger(row: Array, tops: Array) -> None:
    for j in range(row.size):
        tops[j] = larger_but_for_nan(row[j], tops[j])
