"""Running versions on a GPU, in CUDA: the names and signatures of `cpu.py`.

Each kernel is its formula, the CUDA C, and below it the functions that launch it. Compiled by CuPy
at the first call. Sums are taken in float64 and in a fixed order; nothing waits for the device.
"""

from __future__ import annotations

from typing import Any

from minimono.backend import Array, array_module
from minimono.kernels.gpu_launch import Kernel, for_each, for_rows, one_block, rows_of
from minimono.kernels.shared import Kept, Needed, check_layer_norm, linear_gradients
from minimono.kernels.shared import linear_forward as linear_forward
from minimono.sums import total

# ---- the linear layer's gradients --------------------------------------------------------------


def linear_backward(
    needed: Needed, g: Array, out: Array, kept: Kept, x: Array, weight: Array,
    bias: Array | None = None,
) -> tuple[Array | None, ...]:  # fmt: skip
    wanted = bias is not None and needed[2]
    gbias = total(g.reshape(-1, len(weight)), axis=0) if wanted else None  # (..., D) -> (N, D)
    return *linear_gradients(needed, g, x, weight), gbias


# ---- ReLU: max(x, 0), nan stays nan ------------------------------------------------------------

relu_kernel = Kernel(r"""
extern "C" __global__ void relu(const real *x, real *out, long long size) {
    EACH_ELEMENT(i, size) out[i] = x[i] <= 0 ? (real)0 : x[i];
}
""")

relu_gradient_kernel = Kernel(r"""
extern "C" __global__ void relu_gradient(
    const real *g, const real *out, real *gx, long long size) {
    EACH_ELEMENT(i, size) gx[i] = out[i] <= 0 ? (real)0 : g[i];  // out <= 0 where x <= 0
}
""")


def relu_forward(x: Array) -> tuple[Array, Kept]:
    out = _empty(x)
    relu_kernel(x.dtype, *for_each(x.size), one_block(x), out, x.size)
    return out, None


def relu_backward(needed: Needed, g: Array, out: Array, kept: Kept, x: Array) -> tuple[Array, ...]:
    gx = _empty(x)
    relu_gradient_kernel(x.dtype, *for_each(x.size), one_block(g), one_block(out), gx, x.size)
    return (gx,)


leaky_relu_kernel = Kernel(r"""
extern "C" __global__ void leaky_relu(const real *x, double slope, real *out, long long size) {
    EACH_ELEMENT(i, size) out[i] = x[i] > 0 ? x[i] : (real)slope * x[i];
}
""")

leaky_relu_gradient_kernel = Kernel(r"""
extern "C" __global__ void leaky_relu_gradient(
    const real *g, const real *x, double slope, real *gx, long long size) {
    EACH_ELEMENT(i, size) gx[i] = x[i] > 0 ? g[i] : (real)slope * g[i];
}
""")


def leaky_relu_forward(x: Array, negative_slope: float = 0.01) -> tuple[Array, Kept]:
    out = _empty(x)
    leaky_relu_kernel(x.dtype, *for_each(x.size), one_block(x), negative_slope, out, x.size)
    return out, None


def leaky_relu_backward(
    needed: Needed, g: Array, out: Array, kept: Kept, x: Array, negative_slope: float = 0.01
) -> tuple[Array, ...]:
    gx = _empty(x)
    leaky_relu_gradient_kernel(
        x.dtype, *for_each(x.size), one_block(g), one_block(x), negative_slope, gx, x.size
    )
    return (gx,)


# ---- GELU: x P(N(0, 1) <= x) -------------------------------------------------------------------
# P = erfc(-x / sqrt 2) / 2, and dP/dx = exp(-x^2 / 2) / sqrt(2 pi).

gelu_kernel = Kernel(r"""
extern "C" __global__ void gelu(const real *x, real *out, long long size) {
    const real root_half = 0.70710678118654752440;
    EACH_ELEMENT(i, size) out[i] = (real)0.5 * x[i] * erfc(-root_half * x[i]);
}
""")

gelu_gradient_kernel = Kernel(r"""
extern "C" __global__ void gelu_gradient(const real *g, const real *x, real *gx, long long size) {
    const real root_half = 0.70710678118654752440, height = 0.39894228040143267794, half = 0.5;
    EACH_ELEMENT(i, size) {
        real below = half * erfc(-root_half * x[i]);
        gx[i] = g[i] * (below + x[i] * (height * exp(-half * x[i] * x[i])));
    }
}
""")

# The approximation with tanh: x sigmoid(u), u = 2 sqrt(2/pi) (x + 0.044715 x^3).

gelu_tanh_kernel = Kernel(r"""
extern "C" __global__ void gelu_tanh(const real *x, real *out, long long size) {
    const real scale = 1.59576912160573071176, cubic = 0.044715;
    EACH_ELEMENT(i, size) {
        real u = scale * (x[i] + cubic * x[i] * x[i] * x[i]);
        real e = exp(-fabs(u));  // at most 1: nothing overflows
        out[i] = x[i] * ((u >= 0 ? (real)1 : e) / (1 + e));
    }
}
""")

gelu_tanh_gradient_kernel = Kernel(r"""
extern "C" __global__ void gelu_tanh_gradient(
    const real *g, const real *x, real *gx, long long size) {
    const real scale = 1.59576912160573071176, cubic = 0.044715;
    EACH_ELEMENT(i, size) {
        real square = x[i] * x[i];
        real u = scale * (x[i] + cubic * square * x[i]);
        real e = exp(-fabs(u)), larger = 1 / (1 + e);
        real gate = u >= 0 ? larger : e * larger;  // sigmoid(u)
        real bend = e * larger * larger;           // gate (1 - gate)
        real slope = x[i] * scale * (1 + 3 * cubic * square);  // x du/dx
        // Far out the bend is 0, and the slope may be infinite.
        gx[i] = g[i] * (gate + (bend == 0 ? (real)0 : bend * slope));
    }
}
""")


def gelu_forward(x: Array, approximate: str = "none") -> tuple[Array, Kept]:
    if approximate not in ("none", "tanh"):
        raise ValueError(f'gelu: approximate is {approximate!r}, expected "none" or "tanh"')
    out = _empty(x)
    kernel = gelu_kernel if approximate == "none" else gelu_tanh_kernel
    kernel(x.dtype, *for_each(x.size), one_block(x), out, x.size)
    return out, None


def gelu_backward(
    needed: Needed, g: Array, out: Array, kept: Kept, x: Array, approximate: str = "none"
) -> tuple[Array, ...]:
    gx = _empty(x)
    kernel = gelu_gradient_kernel if approximate == "none" else gelu_tanh_gradient_kernel
    kernel(x.dtype, *for_each(x.size), one_block(g), one_block(x), gx, x.size)
    return (gx,)


# ---- softmax: exp(x - top) / sum ---------------------------------------------------------------
# Backward: gx = out (g - sum of g out). x, out, g, gx (N, C); a block for each row.

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
    out = _empty(rows)
    softmax_kernel(x.dtype, *for_rows(*rows.shape), rows, out, rows.shape[1])
    return xp.moveaxis(out.reshape(last.shape), -1, axis).reshape(x.shape), None


def softmax_backward(
    needed: Needed, g: Array, out: Array, kept: Kept, x: Array, axis: int = -1
) -> tuple[Array, ...]:
    xp = array_module(x)
    last = xp.moveaxis(xp.atleast_1d(out), axis, -1)
    rows = rows_of(last)
    gx = _empty(rows)
    g = rows_of(xp.moveaxis(xp.atleast_1d(g), axis, -1))
    softmax_gradient_kernel(x.dtype, *for_rows(*rows.shape), g, rows, gx, rows.shape[1])
    return (xp.moveaxis(gx.reshape(last.shape), -1, axis).reshape(x.shape),)


# ---- cross-entropy: L - logit of the target, L = log sum exp of the logits ---------------------
# Only L is kept, one number for each row; probabilities are made again from it: exp(logit - L).
# Backward: (exp(logit - L) - [j is the target]) g / N. logits (N, C), targets, L, losses (N,).

cross_entropy_kernel = Kernel(r"""
extern "C" __global__ void cross_entropy(
    const real *logits, const long long *targets, double *log_sum, double *losses,
    long long channels) {
    logits += blockIdx.x * channels;
    real highest = -INFINITE;
    for (long long j = threadIdx.x; j < channels; j += blockDim.x)
        highest = fmax(highest, logits[j]);
    real top = block_max(highest);
    double sum = 0.0;
    for (long long j = threadIdx.x; j < channels; j += blockDim.x) sum += exp(logits[j] - top);
    double log_of_sum = log(block_sum(sum));
    if (threadIdx.x == 0) {
        log_sum[blockIdx.x] = top + log_of_sum;
        losses[blockIdx.x] = log_of_sum - ((double)logits[targets[blockIdx.x]] - top);
    }
}
""")

cross_entropy_gradient_kernel = Kernel(r"""
extern "C" __global__ void cross_entropy_gradient(
    const real *g, const real *logits, const long long *targets, const double *log_sum,
    real *gradient, long long channels) {
    logits += blockIdx.x * channels, gradient += blockIdx.x * channels;
    real scale = g[0] / gridDim.x;
    double level = log_sum[blockIdx.x];
    long long target = targets[blockIdx.x];
    for (long long j = threadIdx.x; j < channels; j += blockDim.x) {
        real probability = exp((real)(logits[j] - level));
        gradient[j] = j == target ? scale * probability - scale : scale * probability;
    }
}
""")


def _mean_cross_entropy_forward(logits: Array, targets: Array) -> tuple[Array, Kept]:
    xp = array_module(logits)
    rows, channels = logits.shape
    log_sum, losses = xp.empty(rows), xp.empty(rows)
    cross_entropy_kernel(
        logits.dtype, *for_rows(rows, channels), one_block(logits), one_block(targets), log_sum,
        losses, channels,
    )  # fmt: skip
    return xp.asarray(losses.mean(), dtype=logits.dtype), log_sum


def _mean_cross_entropy_backward(
    needed: Needed, g: Array, out: Array, log_sum: Kept, logits: Array, targets: Array
) -> tuple[Array, ...]:
    gradient = _empty(logits)
    rows, channels = logits.shape
    cross_entropy_gradient_kernel(
        logits.dtype, *for_rows(rows, channels), g, one_block(logits), one_block(targets), log_sum,
        gradient, channels,
    )  # fmt: skip
    return (gradient,)


# ---- layer norm: h weight + bias, h = (x - mean) scale, scale = 1 / sqrt(variance + eps) -------
# x, out (N, C); mean, scale (N,), float64, since squares of float32 may lie outside of float32; a
# block for each row. Where squares of float64 would, all is divided by a power of two, near the
# row's largest or the root of eps.

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

ROWS_OF_PART = 256  # rows that one block of `layer_norm_parameters` adds up (our choice)


def layer_norm_forward(
    x: Array, weight: Array, bias: Array, eps: float = 1e-5
) -> tuple[Array, Kept]:
    check_layer_norm(x, eps, weight=weight, bias=bias)
    xp, rows = array_module(x, weight, bias), rows_of(x)
    out, mean, scale = _empty(rows), xp.empty(len(rows)), xp.empty(len(rows))
    layer_norm_kernel(
        x.dtype, *for_rows(*rows.shape), rows, one_block(weight), one_block(bias), eps, out, mean,
        scale, rows.shape[1],
    )  # fmt: skip
    return out.reshape(x.shape), (mean, scale)


def layer_norm_backward(
    needed: Needed, g: Array, out: Array, kept: Kept, x: Array, weight: Array, bias: Array,
    eps: float = 1e-5,
) -> tuple[Array | None, ...]:  # fmt: skip
    mean, scale = kept
    rows, g = rows_of(x), rows_of(g)
    n, channels = rows.shape
    gx = gweight = gbias = None
    if needed[0]:
        gx = _empty(rows)
        layer_norm_gradient_kernel(
            x.dtype, *for_rows(n, channels), g, rows, one_block(weight), mean, scale, gx, channels
        )
        gx = gx.reshape(x.shape)
    if needed[1] or needed[2]:
        parts = -(-n // ROWS_OF_PART)
        sums = array_module(x).empty((parts, 2, channels))
        layer_norm_parameters_kernel(
            x.dtype, (-(-channels // 32), parts), (32, 8), g, rows, mean, scale, sums, n, channels,
            ROWS_OF_PART,
        )  # fmt: skip
        gweight, gbias = total(sums, axis=0).astype(x.dtype)  # (parts, 2, C) -> (2, C)
    return gx, gweight, gbias


# ---- embedding: scatter-add without atomics ----------------------------------------------------
# target[row] += sum of values[i] over i with ids[i] = row, in the order of i. The ids are sorted,
# `order` says where each stood. ids, order (N,), values (N, C), target (R, C); a block for each
# row, which finds its ids by halving.

scatter_add_kernel = Kernel(r"""
extern "C" __global__ void scatter_add(
    const long long *ids, const long long *order, const real *values, real *target,
    long long count, long long channels) {
    long long row = blockIdx.x, low = 0, high = count;
    while (low < high) {
        long long middle = (low + high) / 2;
        if (ids[middle] < row) low = middle + 1; else high = middle;
    }
    if (low == count || ids[low] != row) return;
    for (long long j = threadIdx.x; j < channels; j += blockDim.x) {
        // What each addition rounds off is added up apart: as exact as in pairs, also for double.
        double sum = target[row * channels + j], rest = 0.0;
        for (long long i = low; i < count && ids[i] == row; i++) {
            double value = values[order[i] * channels + j], next = sum + value;
            double added = next - sum;
            rest += (sum - (next - added)) + (value - added);
            sum = next;
        }
        target[row * channels + j] = isfinite(sum) ? sum + rest : sum;
    }
}
""")


def scatter_add_rows(target: Array, ids: Array, values: Array) -> None:
    """target[ids] += values, in place, repeated ids counted. (R, C), (N,), (N, C)."""
    order = ids.argsort(kind="stable")
    scatter_add_kernel(
        target.dtype, *for_rows(len(target), values.shape[1]), ids[order], order, values, target,
        len(ids), values.shape[1],
    )  # fmt: skip


def scatter_add(target: Array, index: Any, values: Array) -> None:
    """target[index] += values, in place, for any index, repeated places counted."""
    places = array_module(target).arange(target.size).reshape(target.shape)[index]
    values = array_module(values).broadcast_to(values, places.shape)
    flat = one_block(target).reshape(-1, 1)
    scatter_add_rows(flat, places.reshape(-1), one_block(values).reshape(-1, 1))
    if not target.flags.c_contiguous:  # `flat` is a copy
        target[...] = flat.reshape(target.shape)


def _rows_by_number_forward(weight: Array, ids: Array) -> tuple[Array, Kept]:
    return weight[ids], None


def _rows_by_number_backward(
    needed: Needed, g: Array, out: Array, kept: Kept, weight: Array, ids: Array
) -> tuple[Array, ...]:
    gweight = array_module(weight).zeros(weight.shape, weight.dtype)
    scatter_add_rows(gweight, ids.reshape(-1), rows_of(g))
    return (gweight,)


# ---- dropout: x scale where kept, 0 elsewhere --------------------------------------------------

dropped_kernel = Kernel(r"""
extern "C" __global__ void dropped(
    const real *x, const bool *keep, double scale, real *out, long long size) {
    EACH_ELEMENT(i, size) out[i] = x[i] * (keep[i] ? (real)scale : (real)0);
}
""")


def _dropped_forward(x: Array, keep: Array, scale: float) -> tuple[Array, Kept]:
    out = _empty(x)
    dropped_kernel(x.dtype, *for_each(x.size), one_block(x), one_block(keep), scale, out, x.size)
    return out, None


def _dropped_backward(
    needed: Needed, g: Array, out: Array, kept: Kept, x: Array, keep: Array, scale: float
) -> tuple[Array, ...]:
    return (_dropped_forward(g, keep, scale)[0],)


def _empty(like: Array) -> Array:
    """Of the same shape and dtype, in one block of memory."""
    return array_module(like).empty(like.shape, like.dtype)
