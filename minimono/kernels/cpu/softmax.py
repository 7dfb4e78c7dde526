"""Softmax on the CPU, forward and back."""

import numpy as np

from minimono.backend import Array
from minimono.kernels import Kept, Needed
from minimono.kernels.cpu.compiling import compiled
from minimono.kernels.cpu.launch import rows_of
from minimono.kernels.cpu.math import exp_nonpositive
from minimono.kernels.cpu.sums import largest, total


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
        for j in range(out.shape[1]):
            gx[i, j] = g[i, j] * out[i, j]
        mean = out.dtype.type(total(gx[i]))
        for j in range(out.shape[1]):
            gx[i, j] = out[i, j] * (g[i, j] - mean)


def softmax_forward(x: Array, axis: int = -1) -> tuple[Array, Kept]:
    last = np.moveaxis(np.atleast_1d(x), axis, -1)
    rows = rows_of(last)
    out = np.empty_like(rows)
    softmax_kernel(rows, out)
    return np.moveaxis(out.reshape(last.shape), -1, axis).reshape(x.shape), None


def softmax_backward(
    needed: Needed, g: Array, out: Array, kept: Kept, x: Array, axis: int = -1
) -> tuple[Array, ...]:
    last = np.moveaxis(np.atleast_1d(out), axis, -1)
    rows = rows_of(last)
    gx = np.empty_like(rows)
    softmax_gradient_kernel(rows_of(np.moveaxis(np.atleast_1d(g), axis, -1)), rows, gx)
    return (np.moveaxis(gx.reshape(last.shape), -1, axis).reshape(x.shape),)
