"""Softmax in CUDA: exp(x - top) / sum. Backward: gx = out (g - sum of g out).

Its logarithm: x - top - log sum. Backward: gx = g - exp(x - top) / sum times the sum of g.
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


log_softmax_kernel = Kernel(r"""
extern "C" __global__ void log_softmax(
    const real *x, real *out, real *tops, double *shares, long long channels) {
    x += blockIdx.x * channels, out += blockIdx.x * channels;
    real highest = -INFINITE;
    for (long long j = threadIdx.x; j < channels; j += blockDim.x) highest = fmax(highest, x[j]);
    real top = block_max(highest);
    double sum = 0.0;
    for (long long j = threadIdx.x; j < channels; j += blockDim.x) sum += exp(x[j] - top);
    double whole = block_sum(sum);
    real log_whole = log(whole);
    for (long long j = threadIdx.x; j < channels; j += blockDim.x)
        out[j] = (x[j] - top) - log_whole;
    if (threadIdx.x == 0) tops[blockIdx.x] = top, shares[blockIdx.x] = 1.0 / whole;
}
""")

log_softmax_gradient_kernel = Kernel(r"""
extern "C" __global__ void log_softmax_gradient(
    const real *g, const real *x, const real *tops, const double *shares, real *gx,
    long long channels) {
    g += blockIdx.x * channels, x += blockIdx.x * channels, gx += blockIdx.x * channels;
    double sum = 0.0;
    for (long long j = threadIdx.x; j < channels; j += blockDim.x) sum += g[j];
    real top = tops[blockIdx.x], scale = block_sum(sum) * shares[blockIdx.x];
    for (long long j = threadIdx.x; j < channels; j += blockDim.x)
        gx[j] = g[j] - scale * exp(x[j] - top);
}
""")


def softmax_forward(x: Array, axis: int = -1) -> tuple[Array, Kept]:
    rows = _rows_along(axis, x)
    out = empty_like(rows)
    each_row(softmax_kernel, rows, out)
    return _as_before(out, x, axis), None


def softmax_backward(
    needed: Needed, g: Array, out: Array, kept: Kept, x: Array, axis: int = -1
) -> tuple[Array, ...]:
    rows = _rows_along(axis, out)
    gx = empty_like(rows)
    each_row(softmax_gradient_kernel, _rows_along(axis, g), rows, gx)
    return (_as_before(gx, x, axis),)


def log_softmax_forward(x: Array, axis: int = -1) -> tuple[Array, Kept]:
    xp, rows = array_module(x), _rows_along(axis, x)
    out, tops, shares = empty_like(rows), xp.empty(len(rows), x.dtype), xp.empty(len(rows))
    each_row(log_softmax_kernel, rows, out, tops, shares)
    return _as_before(out, x, axis), (tops, shares)


def log_softmax_backward(
    needed: Needed, g: Array, out: Array, kept: Kept, x: Array, axis: int = -1
) -> tuple[Array, ...]:
    rows = _rows_along(axis, x)
    gx = empty_like(rows)
    each_row(log_softmax_gradient_kernel, _rows_along(axis, g), rows, *kept, gx)
    return (_as_before(gx, x, axis),)


def _rows_along(axis: int, x: Array) -> Array:
    """(..., C, ...) -> (N, C), in one block of memory; a number is a row of one."""
    xp = array_module(x)
    return rows_of(xp.moveaxis(xp.atleast_1d(x), axis, -1))


def _as_before(rows: Array, x: Array, axis: int) -> Array:
    """(N, C) -> (..., C, ...), the shape of x."""
    xp = array_module(x)
    last = xp.moveaxis(xp.atleast_1d(x), axis, -1).shape
    return xp.moveaxis(rows.reshape(last), -1, axis).reshape(x.shape)
