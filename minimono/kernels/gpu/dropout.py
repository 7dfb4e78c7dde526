"""Dropout in CUDA: x scale where kept, 0 elsewhere."""

from minimono.backend import Array
from minimono.kernels import Kept, Needed
from minimono.kernels.gpu.launch import Kernel, each, empty_like

dropped_kernel = Kernel(r"""
extern "C" __global__ void dropped(
    const real *x, const bool *keep, real *out, double scale, long long size) {
    EACH_ELEMENT(i, size) out[i] = x[i] * (keep[i] ? (real)scale : (real)0);
}
""")


def dropped_forward(x: Array, keep: Array, scale: float) -> tuple[Array, Kept]:
    out = empty_like(x)
    each(dropped_kernel, x, keep, out, numbers=[scale])
    return out, None


def dropped_backward(
    needed: Needed, g: Array, out: Array, kept: Kept, x: Array, keep: Array, scale: float
) -> tuple[Array, ...]:
    return (dropped_forward(g, keep, scale)[0],)
