"""Softmax and its logarithm on the CPU, forward and back."""

import math

import numpy as np

from minimono.backend import Array
from minimono.kernels import Kept, Needed
from minimono.kernels.cpu.compiling import compiled, inlined
from minimono.kernels.cpu.launch import rows_of
from minimono.kernels.cpu.math import exp_nonpositive
from minimono.kernels.cpu.sums import ROWS, largest, largest_of_columns, total, total_of_products
from minimono.sums import axes_of


@compiled
def softmax_kernel(x: Array, out: Array) -> None:
    for i in range(x.shape[0]):
        top = largest(x[i])
        for j in range(x.shape[1]):
            out[i, j] = exp_nonpositive(x[i, j] - top)  # of a row with a nan, at least one is nan
        share = x.dtype.type(1.0 / total(out[i]))
        for j in range(x.shape[1]):
            out[i, j] *= share


@compiled
def softmax_gradient_kernel(g: Array, out: Array, gx: Array) -> None:
    for i in range(out.shape[0]):
        mean = out.dtype.type(total_of_products(g[i], out[i]))
        for j in range(out.shape[1]):
            gx[i, j] = out[i, j] * (g[i, j] - mean)


@compiled
def softmax_of_columns_kernel(x: Array, out: Array) -> None:
    tops, sums, part = np.empty(x.shape[2], x.dtype), np.empty(x.shape[2]), np.empty(x.shape[2])
    for b in range(x.shape[0]):
        largest_of_columns(x[b], tops)
        sums[:] = 0.0
        for first in range(0, x.shape[1], ROWS):
            part[:] = 0.0
            for i in range(first, min(first + ROWS, x.shape[1])):
                _write_exp(x[b, i], tops, out[b, i])
                _add(out[b, i], part)
            sums += part
        for j in range(tops.size):
            tops[j] = 1.0 / sums[j]
        for i in range(x.shape[1]):
            for j in range(tops.size):
                out[b, i, j] *= tops[j]


@compiled
def softmax_gradient_of_columns_kernel(g: Array, out: Array, gx: Array) -> None:
    means, sums, part = np.empty(g.shape[2], g.dtype), np.empty(g.shape[2]), np.empty(g.shape[2])
    for b in range(g.shape[0]):
        sums[:] = 0.0
        for first in range(0, g.shape[1], ROWS):
            part[:] = 0.0
            for i in range(first, min(first + ROWS, g.shape[1])):
                for j in range(part.size):
                    part[j] += np.float64(g[b, i, j] * out[b, i, j])
            sums += part
        means[:] = sums
        for i in range(g.shape[1]):
            for j in range(means.size):
                gx[b, i, j] = out[b, i, j] * (g[b, i, j] - means[j])


def softmax_forward(x: Array, axis: int = -1) -> tuple[Array, Kept]:
    cut = _cut(axis, x)
    out = np.empty_like(cut)
    (softmax_kernel if cut.ndim == 2 else softmax_of_columns_kernel)(cut, out)
    return out.reshape(x.shape), None


def softmax_backward(
    needed: Needed, g: Array, out: Array, kept: Kept, x: Array, axis: int = -1
) -> tuple[Array, ...]:
    cut = _cut(axis, out)
    gx = np.empty_like(cut)
    kernel = softmax_gradient_kernel if cut.ndim == 2 else softmax_gradient_of_columns_kernel
    kernel(_cut(axis, g), cut, gx)
    return (gx.reshape(x.shape),)


# ---- log softmax: x - top - log sum exp(x - top) -----------------------------------------------
# Kept of each row: top, and the share that makes exp(x - top) a softmax. Made from the result, it
# would have the rounding of a logarithm in its exponent.


@compiled
def log_softmax_kernel(x: Array, out: Array, tops: Array, shares: Array) -> None:
    for i in range(x.shape[0]):
        top = largest(x[i])
        for j in range(x.shape[1]):
            out[i, j] = exp_nonpositive(x[i, j] - top)
        whole = total(out[i])
        log_whole = x.dtype.type(math.log(whole))
        for j in range(x.shape[1]):
            out[i, j] = (x[i, j] - top) - log_whole
        tops[i], shares[i] = top, 1.0 / whole


@compiled
def log_softmax_gradient_kernel(
    g: Array, x: Array, tops: Array, shares: Array, gx: Array
) -> None:
    for i in range(x.shape[0]):
        top, scale = tops[i], x.dtype.type(total(g[i]) * shares[i])
        for j in range(x.shape[1]):
            gx[i, j] = g[i, j] - scale * exp_nonpositive(x[i, j] - top)


@compiled
def log_softmax_of_columns_kernel(x: Array, out: Array, tops: Array, shares: Array) -> None:
    sums, part, logs = np.empty(x.shape[2]), np.empty(x.shape[2]), np.empty(x.shape[2], x.dtype)
    for b in range(x.shape[0]):
        largest_of_columns(x[b], tops[b])
        sums[:] = 0.0
        for first in range(0, x.shape[1], ROWS):
            part[:] = 0.0
            for i in range(first, min(first + ROWS, x.shape[1])):
                _write_exp(x[b, i], tops[b], out[b, i])
                _add(out[b, i], part)
            sums += part
        for j in range(logs.size):
            logs[j], shares[b, j] = math.log(sums[j]), 1.0 / sums[j]
        for i in range(x.shape[1]):
            for j in range(logs.size):
                out[b, i, j] = (x[b, i, j] - tops[b, j]) - logs[j]


@compiled
def log_softmax_gradient_of_columns_kernel(
    g: Array, x: Array, tops: Array, shares: Array, gx: Array
) -> None:
    sums, part, scale = np.empty(x.shape[2]), np.empty(x.shape[2]), np.empty(x.shape[2], x.dtype)
    for b in range(x.shape[0]):
        sums[:] = 0.0
        for first in range(0, x.shape[1], ROWS):
            part[:] = 0.0
            for i in range(first, min(first + ROWS, x.shape[1])):
                _add(g[b, i], part)
            sums += part
        for j in range(scale.size):
            scale[j] = sums[j] * shares[b, j]
        for i in range(x.shape[1]):
            for j in range(scale.size):
                e = exp_nonpositive(x[b, i, j] - tops[b, j])
                gx[b, i, j] = g[b, i, j] - scale[j] * e


def log_softmax_forward(x: Array, axis: int = -1) -> tuple[Array, Kept]:
    cut = _cut(axis, x)
    kernel = log_softmax_kernel if cut.ndim == 2 else log_softmax_of_columns_kernel
    of_sums = cut.shape[:1] + cut.shape[2:]
    out, tops, shares = np.empty_like(cut), np.empty(of_sums, x.dtype), np.empty(of_sums)
    kernel(cut, out, tops, shares)
    return out.reshape(x.shape), (tops, shares)


def log_softmax_backward(
    needed: Needed, g: Array, out: Array, kept: Kept, x: Array, axis: int = -1
) -> tuple[Array, ...]:
    cut, on_columns = _cut(axis, x), log_softmax_gradient_of_columns_kernel
    gx = np.empty_like(cut)
    (log_softmax_gradient_kernel if cut.ndim == 2 else on_columns)(_cut(axis, g), cut, *kept, gx)
    return (gx.reshape(x.shape),)


# ---- any axis ----------------------------------------------------------------------------------


def _cut(axis: int, x: Array) -> Array:
    """(..., C) along its last axis -> (N, C), along another (B, C, N); a number is a row of one."""
    at = next(iter(axes_of(x, axis)), 0)  # raises for an axis that x has not
    if at >= x.ndim - 1:
        return rows_of(np.atleast_1d(x))
    behind = math.prod(x.shape[at + 1 :])
    return np.ascontiguousarray(x).reshape(-1, x.shape[at], behind)


@inlined
def _write_exp(row: Array, tops: Array, out: Array) -> None:
    for j in range(row.size):
        out[j] = exp_nonpositive(row[j] - tops[j])


@inlined
def _add(row: Array, sums: Array) -> None:
    for j in range(row.size):
        sums[j] += row[j]
