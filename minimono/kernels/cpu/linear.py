"""The linear layer on the CPU: its products are BLAS's, its bias gradient a sum of rows."""

import numpy as np

from minimono import checks
from minimono.backend import Array
from minimono.kernels import Kept, Needed
from minimono.kernels.both.linear import linear_forward as linear_forward
from minimono.kernels.both.linear import linear_gradients
from minimono.kernels.cpu.compiling import compiled
from minimono.kernels.cpu.launch import flat, rows_of
from minimono.kernels.cpu.sums import sum_of_blocks, sum_of_rows, sums_of_blocks_kernel
from minimono.kernels.parallel import in_parts, product


def linear_backward(
    needed: Needed, g: Array, out: Array, kept: Kept, x: Array, weight: Array,
    bias: Array | None = None,
) -> tuple[Array | None, ...]:
    g = g.reshape(-1, len(weight))  # (..., D) -> (N, D)
    gbias = None if bias is None or not needed[2] else sum_of_rows(g)
    return *linear_gradients(needed, g, x, weight), gbias


# ---- with ReLU ---------------------------------------------------------------------------------


@compiled
def add_and_relu_kernel(x: Array, bias: Array) -> None:
    zero = x.dtype.type(0.0)
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            added = x[i, j] + bias[j]
            x[i, j] = zero if added <= zero else added


def linear_relu_forward(x: Array, weight: Array, bias: Array | None = None) -> tuple[Array, Kept]:
    checks.linear(x, weight, bias)
    out = product(x if x.ndim == 2 else x.reshape(-1, x.shape[-1]), weight.T)  # (N, C) @ (C, D)
    added = np.zeros(len(weight), out.dtype) if bias is None else flat(bias)
    in_parts(lambda part: add_and_relu_kernel(out[part], added), len(out), out.size)
    return out if x.ndim == 2 else out.reshape(*x.shape[:-1], len(weight)), None  # (..., D)


@compiled
def relu_gradient_and_sums_kernel(g: Array, out: Array, through: Array, sums: Array) -> None:
    zero = out.dtype.type(0.0)
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):  # out <= 0 where what ReLU was given was
            through[i, j] = zero if out[i, j] <= zero else g[i, j]
    sums_of_blocks_kernel(through, sums)


def linear_relu_backward(
    needed: Needed, g: Array, out: Array, kept: Kept, x: Array, weight: Array,
    bias: Array | None = None,
) -> tuple[Array | None, ...]:
    g, out = rows_of(g), rows_of(out)  # (..., D) -> (N, D)
    through = np.empty(out.shape, out.dtype)
    gbias = sum_of_blocks(relu_gradient_and_sums_kernel, g, out, through)
    return *linear_gradients(needed, through, x, weight), None if bias is None else gbias
