"""exp, log, log1p, sin, cos, tanh and erfc of arrays, element by element (`cpu/math.py`)."""

from collections.abc import Callable
from typing import Any

import numpy as np

from minimono.backend import Array
from minimono.kernels import Kept, Needed
from minimono.kernels.cpu import math, normal
from minimono.kernels.cpu.compiling import compiled, inlined
from minimono.kernels.cpu.instructions import larger_but_for_nan
from minimono.kernels.cpu.launch import each


@compiled
def exp_kernel(x: Array, out: Array) -> None:
    for i in range(x.size):
        out[i] = math.exp(x[i])


@compiled
def log_kernel(x: Array, out: Array) -> None:
    for i in range(x.size):
        out[i] = math.log(x[i])


@compiled
def log1p_kernel(x: Array, out: Array) -> None:
    for i in range(x.size):
        out[i] = math.log1p(x[i])


@compiled
def erfc_kernel(x: Array, out: Array) -> None:
    for i in range(x.size):
        out[i] = normal.erfc(x[i])


@compiled
def sign_kernel(x: Array, out: Array) -> None:
    zero, one = x.dtype.type(0.0), x.dtype.type(1.0)
    for i in range(x.size):
        side = one if x[i] > zero else -one
        out[i] = side if abs(x[i]) > zero else x[i] * zero  # 0 of 0, nan of nan


BLOCK = 512  # angles that go together: none of them too large, or all to the C library


@inlined
def _largest_size(x: Array) -> Any:
    largest = x.dtype.type(0.0)
    for i in range(x.size):
        largest = larger_but_for_nan(abs(x[i]), largest)
    return largest


@compiled
def sin_kernel(x: Array, out: Array) -> None:
    for first in range(0, x.size, BLOCK):
        part, found = x[first : first + BLOCK], out[first : first + BLOCK]
        if _largest_size(part) <= math.LARGEST_ANGLE:
            for i in range(part.size):
                found[i] = math.sin(part[i])
        else:
            for i in range(part.size):
                found[i] = np.sin(np.float64(part[i]))


@compiled
def cos_kernel(x: Array, out: Array) -> None:
    for first in range(0, x.size, BLOCK):
        part, found = x[first : first + BLOCK], out[first : first + BLOCK]
        if _largest_size(part) <= math.LARGEST_ANGLE:
            for i in range(part.size):
                found[i] = math.cos(part[i])
        else:
            for i in range(part.size):
                found[i] = np.cos(np.float64(part[i]))


def _of_each(kernel: Callable[..., None]) -> Callable[[Array], Array]:
    def of_each(x: Array) -> Array:
        out = np.empty(x.shape, x.dtype)
        each(kernel, x, out)
        return out

    return of_each


exp, log, log1p = (_of_each(kernel) for kernel in (exp_kernel, log_kernel, log1p_kernel))
sin, cos, erfc = (_of_each(kernel) for kernel in (sin_kernel, cos_kernel, erfc_kernel))
sign = _of_each(sign_kernel)


# ---- tanh --------------------------------------------------------------------------------------
# Kept of each number: e = exp(-2 |x|), of which the slope is 4 e / (1 + e)^2, to all digits; 1 less
# the square of the result would lose them far out.


@compiled
def tanh_kernel(x: Array, out: Array, kept: Array) -> None:
    for i in range(x.size):
        out[i], kept[i] = math.tanh_and_small(x[i])


@compiled
def tanh_gradient_kernel(g: Array, kept: Array, gx: Array) -> None:
    one, four = kept.dtype.type(1.0), kept.dtype.type(4.0)
    for i in range(g.size):
        whole = one + kept[i]
        gx[i] = g[i] * (four * kept[i] / (whole * whole))


def tanh_forward(x: Array) -> tuple[Array, Kept]:
    out, kept = np.empty(x.shape, x.dtype), np.empty(x.size, x.dtype)
    each(tanh_kernel, x, out, kept)
    return out, kept


def tanh_backward(needed: Needed, g: Array, out: Array, kept: Kept, x: Array) -> tuple[Array, ...]:
    gx = np.empty(x.shape, x.dtype)
    each(tanh_gradient_kernel, g, kept, gx)
    return (gx,)
