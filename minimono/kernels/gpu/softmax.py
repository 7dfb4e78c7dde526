"""Softmax in CUDA: exp(x - top) / sum. Backward: gx = out (g - sum of g out).

x, out, g, gx (N, C); a block for each row.
"""

from minimono.backend import Array, array_module
from minimono.kernels import Kept, Needed
from minimono.kernels.gpu.launch import Kernel, each_row, empty_like, rows_of

softmax_kernel = Kernel(r"""
extern "C" __global__ void softmax(const real *x, real *out, long long channels) {
    x += blockIdx.x * channels, out += blockIdx.x * channels;
    real highest = -INFINITE;
    for (long long j = threadIdx.x; j < channels; j += blockDim.x) highest = fmax(highest, x[j]);
    real top = block_max(highest);
    double sum = 0.0;
    for (long long j = threadIdx.x; j < channels; j += blockDim.x) sum += out[j] = exp(x[j] - top);
    real share = 1.0 / block_sum(sum);
    for (long long j = threadIdx.x; j < channels; j += blockDim.x) out[j] *= share;
}
""")

softmax_gradient_kernel = Kernel(r"""
extern "C" __global__ void softmax_gradient(
    const real *g, const real *out, real *gx, long long channels) {
    g += blockIdx.x * channels, out += blockIdx.x * channels, gx += blockIdx.x * channels;
    double sum = 0.0;
    for (long long j = threadIdx.x; j < channels; j += blockDim.x) sum += (double)g[j] * out[j];
    real mean = block_sum(sum);
    for (long long j = threadIdx.x; j < channels; j += blockDim.x) gx[j] = out[j] * (g[j] - mean);
}
""")


def softmax_forward(x: Array, axis: int = -1) -> tuple[Array, Kept]:
    xp = array_module(x)
    last = xp.moveaxis(xp.atleast_1d(x), axis, -1)
    rows = rows_of(last)
    out = empty_like(rows)
    each_row(softmax_kernel, rows, out)
    return xp.moveaxis(out.reshape(last.shape), -1, axis).reshape(x.shape), None


def softmax_backward(
    needed: Needed, g: Array, out: Array, kept: Kept, x: Array, axis: int = -1
) -> tuple[Array, ...]:
    xp = array_module(x)
    last = xp.moveaxis(xp.atleast_1d(out), axis, -1)
    rows = rows_of(last)
    gx = empty_like(rows)
    each_row(softmax_gradient_kernel, rows_of(xp.moveaxis(xp.atleast_1d(g), axis, -1)), rows, gx)
    return (xp.moveaxis(gx.reshape(last.shape), -1, axis).reshape(x.shape),)
