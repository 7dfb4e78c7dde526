"""Dropout in CUDA: x scale where kept, 0 elsewhere."""

from __future__ import annotations

from minimono.backend import Array
from minimono.kernels import Kept, Needed
from minimono.kernels.gpu.launch import Kernel, empty_like, for_each, one_block

dropped_kernel = Kernel(r"""
extern "C" __global__ void dropped(
    const real *x, const bool *keep, double scale, real *out, long long size) {
    EACH_ELEMENT(i, size) out[i] = x[i] * (keep[i] ? (real)scale : (real)0);
}
""")


def dropped_forward(x: Array, keep: Array, scale: float) -> tuple[Array, Kept]:
    out = empty_like(x)
    dropped_kernel(x.dtype, *for_each(x.size), one_block(x), one_block(keep), scale, out, x.size)
    return out, None


def dropped_backward(
    needed: Needed, g: Array, out: Array, kept: Kept, x: Array, keep: Array, scale: float
) -> tuple[Array, ...]:
    return (dropped_forward(g, keep, scale)[0],)
