"""Softmax and its logarithm on the CPU, forward and back."""

import math

import numpy as np

from minimono.backend import Array
from minimono.kernels import Kept, Needed
from minimono.kernels.cpu.compiling import compiled
from minimono.kernels.cpu.launch import rows_of
from minimono.kernels.cpu.math import exp_nonpositive
from minimono.kernels.cpu.sums import largest, total, total_of_products


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


def softmax_forward(x: Array, axis: int = -1) -> tuple[Array, Kept]:
    rows = _rows_along(axis, x)
    out = np.empty_like(rows)
    softmax_kernel(rows, out)
    return _as_before(out, x, axis), None


def softmax_backward(
    needed: Needed, g: Array, out: Array, kept: Kept, x: Array, axis: int = -1
) -> tuple[Array, ...]:
    rows = _rows_along(axis, out)
    gx = np.empty_like(rows)
    softmax_gradient_kernel(_rows_along(axis, g), rows, gx)
    return (_as_before(gx, x, axis),)


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


def log_softmax_forward(x: Array, axis: int = -1) -> tuple[Array, Kept]:
    rows = _rows_along(axis, x)
    out, tops, shares = np.empty_like(rows), np.empty(len(rows), x.dtype), np.empty(len(rows))
    log_softmax_kernel(rows, out, tops, shares)
    return _as_before(out, x, axis), (tops, shares)


def log_softmax_backward(
    needed: Needed, g: Array, out: Array, kept: Kept, x: Array, axis: int = -1
) -> tuple[Array, ...]:
    rows = _rows_along(axis, x)
    gx = np.empty_like(rows)
    log_softmax_gradient_kernel(_rows_along(axis, g), rows, *kept, gx)
    return (_as_before(gx, x, axis),)


# ---- any axis ----------------------------------------------------------------------------------


def _rows_along(axis: int, x: Array) -> Array:
    """(..., C, ...) -> (N, C), in one block of memory; a number is a row of one."""
    if axis in (-1, x.ndim - 1) and x.ndim:
        return rows_of(x)
    return rows_of(np.moveaxis(np.atleast_1d(x), axis, -1))


def _as_before(rows: Array, x: Array, axis: int) -> Array:
    """(N, C) -> (..., C, ...), the shape of x."""
    if axis in (-1, x.ndim - 1) or not x.ndim:
        return rows.reshape(x.shape)
    last = np.moveaxis(x, axis, -1).shape
    return np.moveaxis(rows.reshape(last), -1, axis)
