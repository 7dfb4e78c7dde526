"""Dropout on the CPU, given which elements are kept."""

import numpy as np

from minimono.backend import Array
from minimono.kernels import Kept, Needed
from minimono.kernels.cpu.compiling import compiled
from minimono.kernels.cpu.launch import each


@compiled
def dropped_kernel(x: Array, keep: Array, out: Array, scale: float) -> None:
    zero = x.dtype.type(0.0)
    for i in range(x.size):
        out[i] = x[i] * (scale if keep[i] else zero)


def dropped_forward(x: Array, keep: Array, scale: float) -> tuple[Array, Kept]:
    out = np.empty(x.shape, x.dtype)
    each(dropped_kernel, x, keep, out, numbers=[x.dtype.type(scale)])
    return out, None


def dropped_backward(
    needed: Needed, g: Array, out: Array, kept: Kept, x: Array, keep: Array, scale: float
) -> tuple[Array, ...]:
    return (dropped_forward(g, keep, scale)[0],)
