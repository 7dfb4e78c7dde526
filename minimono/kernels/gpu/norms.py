"""Layer norm in CUDA: h weight + bias, h = (x - mean) scale, scale = 1 / sqrt(variance + eps).

x, out (N, C); mean, scale (N,), float64, since squares of float32 may lie outside of float32; a
block for each row. Where squares of float64 would, all is divided by a power of two, near the
row's largest or the root of eps. RMS norm: x scale weight, scale = 1 / sqrt(mean of x^2 + eps).
"""

from minimono import checks
from minimono.backend import Array, array_module
from minimono.kernels import Kept, Needed
from minimono.kernels.gpu.launch import Kernel, each_row, empty_like, rows_of
from minimono.sums import total

layer_norm_kernel = Kernel(r"""
extern "C" __global__ void layer_norm(
    const real *x, const real *weight, const real *bias, double eps, real *out, double *means,
    double *scales, long long channels) {
    x += blockIdx.x * channels, out += blockIdx.x * channels;
    double unit = 1.0, mean, variance;
    for (int again = 0; again < 2; again++) {
        double sum = 0.0, squares = 0.0;
        for (long long j = threadIdx.x; j < channels; j += blockDim.x) sum += x[j] / unit;
        mean = block_sum(sum) / channels;
        for (long long j = threadIdx.x; j < channels; j += blockDim.x)
            squares += (x[j] / unit - mean) * (x[j] / unit - mean);
        variance = block_sum(squares) / channels;
        if (again || (variance < 1e280 && (variance > 1e-280 || eps > 1e-280))) break;
        real largest = 0;
        for (long long j = threadIdx.x; j < channels; j += blockDim.x)
            largest = fmax(largest, fabs(x[j]));
        unit = exp2(floor(log2(fmax((double)block_max(largest), sqrt(eps)))));
    }
    double scale = 1.0 / sqrt(variance + eps / unit / unit) / unit;
    mean *= unit;
    for (long long j = threadIdx.x; j < channels; j += blockDim.x)
        out[j] = (x[j] - mean) * scale * weight[j] + bias[j];
    if (threadIdx.x == 0) means[blockIdx.x] = mean, scales[blockIdx.x] = scale;
}
""")

# With d = g weight:  gx = scale (d - mean(d) - h mean(d h)).

layer_norm_gradient_kernel = Kernel(r"""
extern "C" __global__ void layer_norm_gradient(
    const real *g, const real *x, const real *weight, const double *means, const double *scales,
    real *gx, long long channels) {
    g += blockIdx.x * channels, x += blockIdx.x * channels, gx += blockIdx.x * channels;
    double mean = means[blockIdx.x], sum = 0.0, products = 0.0;
    double scale = scales[blockIdx.x];
    for (long long j = threadIdx.x; j < channels; j += blockDim.x) {
        real h = (x[j] - mean) * scale, d = g[j] * weight[j];
        sum += d;
        products += (double)d * h;
    }
    real mean_d = block_sum(sum) / channels, mean_dh = block_sum(products) / channels;
    for (long long j = threadIdx.x; j < channels; j += blockDim.x) {
        real h = (x[j] - mean) * scale, d = g[j] * weight[j];
        gx[j] = (real)scale * (d - mean_d - h * mean_dh);
    }
}
""")

# gweight = sum over rows of g h, gbias = sum of g. A block has 32 columns and 8 threads for each,
# and takes the rows of one part; `sums` (parts, 2, C) are added up afterwards.

layer_norm_parameters_kernel = Kernel(r"""
extern "C" __global__ void layer_norm_parameters(
    const real *g, const real *x, const double *means, const double *scales, double *sums,
    long long rows, long long channels, long long rows_of_part) {
    __shared__ double of_weight[8][32], of_bias[8][32];
    long long j = (long long)blockIdx.x * 32 + threadIdx.x;
    long long first = blockIdx.y * rows_of_part;
    long long last = first + rows_of_part < rows ? first + rows_of_part : rows;
    double weight = 0.0, bias = 0.0;
    for (long long i = first + threadIdx.y; j < channels && i < last; i += 8) {
        real h = (x[i * channels + j] - means[i]) * scales[i];
        weight += (double)g[i * channels + j] * h;
        bias += g[i * channels + j];
    }
    of_weight[threadIdx.y][threadIdx.x] = weight, of_bias[threadIdx.y][threadIdx.x] = bias;
    __syncthreads();
    if (threadIdx.y == 0 && j < channels) {
        for (int y = 1; y < 8; y++)
            weight += of_weight[y][threadIdx.x], bias += of_bias[y][threadIdx.x];
        sums[(2 * (long long)blockIdx.y) * channels + j] = weight;
        sums[(2 * (long long)blockIdx.y + 1) * channels + j] = bias;
    }
}
""")

rms_norm_kernel = Kernel(r"""
extern "C" __global__ void rms_norm(
    const real *x, const real *weight, double eps, real *out, double *scales, long long channels) {
    x += blockIdx.x * channels, out += blockIdx.x * channels;
    double unit = 1.0, square;
    for (int again = 0; again < 2; again++) {
        double squares = 0.0;
        for (long long j = threadIdx.x; j < channels; j += blockDim.x)
            squares += (x[j] / unit) * (x[j] / unit);
        square = block_sum(squares) / channels;
        if (again || (square < 1e280 && (square > 1e-280 || eps > 1e-280))) break;
        real largest = 0;
        for (long long j = threadIdx.x; j < channels; j += blockDim.x)
            largest = fmax(largest, fabs(x[j]));
        real top = block_max(largest);
        if (top == INFINITE) break;  // the scale is 0 or nan
        unit = exp2(floor(log2(fmax((double)top, sqrt(eps)))));
    }
    double scale = 1.0 / sqrt(square + eps / unit / unit) / unit;
    for (long long j = threadIdx.x; j < channels; j += blockDim.x)
        out[j] = x[j] * scale * weight[j];
    if (threadIdx.x == 0) scales[blockIdx.x] = scale;
}
""")

# With d = g weight:  gx = scale (d - h mean(d h)).

rms_norm_gradient_kernel = Kernel(r"""
extern "C" __global__ void rms_norm_gradient(
    const real *g, const real *x, const real *weight, const double *scales, real *gx,
    long long channels) {
    g += blockIdx.x * channels, x += blockIdx.x * channels, gx += blockIdx.x * channels;
    double scale = scales[blockIdx.x], products = 0.0;
    for (long long j = threadIdx.x; j < channels; j += blockDim.x) {
        real h = x[j] * scale, d = g[j] * weight[j];
        products += (double)d * h;
    }
    real mean_dh = block_sum(products) / channels;
    for (long long j = threadIdx.x; j < channels; j += blockDim.x) {
        real h = x[j] * scale, d = g[j] * weight[j];
        gx[j] = (real)scale * (d - h * mean_dh);
    }
}
""")

ROWS_OF_PART, MOST_PARTS = 256, 1024  # rows that one block adds up at least, parts (our choice)


def layer_norm_forward(
    x: Array, weight: Array, bias: Array, eps: float = 1e-5
) -> tuple[Array, Kept]:
    checks.norm(x, "layer_norm", eps, weight=weight, bias=bias)
    xp, rows = array_module(x, weight, bias), rows_of(x)
    out, mean, scale = empty_like(rows), xp.empty(len(rows)), xp.empty(len(rows))
    each_row(layer_norm_kernel, rows, weight, bias, eps, out, mean, scale)
    return out.reshape(x.shape), (mean, scale)


def layer_norm_backward(
    needed: Needed, g: Array, out: Array, kept: Kept, x: Array, weight: Array, bias: Array,
    eps: float = 1e-5,
) -> tuple[Array | None, ...]:
    mean, scale = kept
    rows, g = rows_of(x), rows_of(g)
    gx = gweight = gbias = None
    if needed[0]:
        gx = empty_like(rows)
        each_row(layer_norm_gradient_kernel, g, rows, weight, mean, scale, gx)
        gx = gx.reshape(x.shape)
    if needed[1] or needed[2]:
        gweight, gbias = _of_parameters(g, rows, mean, scale)
    return gx, gweight, gbias


def _of_parameters(g: Array, rows: Array, mean: Array, scale: Array) -> Array:
    """Return the sums over rows of g h and of g, (2, C)."""
    n, channels = rows.shape
    rows_of_part = max(ROWS_OF_PART, -(-n // MOST_PARTS))
    parts = -(-n // rows_of_part)
    sums = array_module(rows).empty((parts, 2, channels))
    layer_norm_parameters_kernel(
        rows.dtype, (-(-channels // 32), parts), (32, 8), g, rows, mean, scale, sums, n, channels,
        rows_of_part,
    )
    return total(sums, axis=0).astype(rows.dtype)  # (parts, 2, C) -> (2, C)


def rms_norm_forward(x: Array, weight: Array, eps: float = 1e-5) -> tuple[Array, Kept]:
    checks.norm(x, "rms_norm", eps, weight=weight)
    xp, rows = array_module(x, weight), rows_of(x)
    out, scale = empty_like(rows), xp.empty(len(rows))
    each_row(rms_norm_kernel, rows, weight, eps, out, scale)
    return out.reshape(x.shape), scale


def rms_norm_backward(
    needed: Needed, g: Array, out: Array, scale: Kept, x: Array, weight: Array, eps: float = 1e-5
) -> tuple[Array | None, ...]:
    rows, g = rows_of(x), rows_of(g)
    gx = gweight = None
    if needed[0]:
        gx = empty_like(rows)
        each_row(rms_norm_gradient_kernel, g, rows, weight, scale, gx)
        gx = gx.reshape(x.shape)
    if needed[1]:
        gweight = _of_parameters(g, rows, array_module(x).zeros(len(rows)), scale)[0]
    return gx, gweight
