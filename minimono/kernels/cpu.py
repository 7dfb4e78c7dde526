"""Running versions on the CPU, in Numba: each the formula of `functional.py`, fused into loops.

Every kernel is a plain Python function over rows of a matrix, compiled by a call, so that it can
be read, and run without Numba (`NUMBA_DISABLE_JIT=1`). They run on one thread, and let go of
Python's lock, so that two Python threads can run two of them at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from minimono.backend import Array
from minimono.kernels.compiling import compiled, inlined
from minimono.kernels.cpu_math import (
    exp_nonpositive,
    largest,
    normal_below,
    total,
    total_of_products,
    total_of_squares_about,
)
from minimono.kernels.memory import keep_freed_memory
from minimono.kernels.parallel import in_parts
from minimono.kernels.shared import Kept, Needed, check_layer_norm, linear_gradients
from minimono.kernels.shared import linear_forward as linear_forward
from minimono.sums import total as sum_along

keep_freed_memory()


def rows_of(x: Array) -> Array:
    """(..., C) -> (N, C), in one block of memory."""
    return np.ascontiguousarray(x).reshape(-1, x.shape[-1])


def flat(x: Array) -> Array:
    """(...) -> (N,), in one block of memory."""
    return np.ascontiguousarray(x).reshape(-1)


def each(kernel: Callable[..., None], *arrays: Array) -> None:
    """Run a kernel over arrays (N,) of one size, large ones in parts."""
    size = arrays[0].size
    in_parts(lambda part: kernel(*(a[part] for a in arrays)), size, size)


# ---- sums over rows, and the linear layer's ----------------------------------------------------

ROWS = 128  # that are added one after the other, in float64; the sums of such blocks in pairs


def _sums_of_blocks(x: Array, sums: Array) -> None:
    for block in range(sums.shape[0]):
        row = sums[block]
        first, last = block * ROWS, min((block + 1) * ROWS, x.shape[0])
        whole = first + (last - first) // 4 * 4
        for i in range(first, whole, 4):  # four at a time, for fewer passes over the sums
            a, b, c, d = x[i], x[i + 1], x[i + 2], x[i + 3]
            for j in range(row.size):
                row[j] += (np.float64(a[j]) + np.float64(b[j])) + (
                    np.float64(c[j]) + np.float64(d[j])
                )
        for i in range(whole, last):
            for j in range(row.size):
                row[j] += x[i, j]


sums_of_blocks_kernel = compiled(_sums_of_blocks)


def sum_of_rows(x: Array) -> Array:
    """(N, C) -> (C,)."""
    x = np.ascontiguousarray(x)
    sums = np.zeros((max(1, -(-len(x) // ROWS)), x.shape[1]))
    if len(sums) == 1:
        sums_of_blocks_kernel(x, sums)
        return sums[0].astype(x.dtype)

    def run(part: slice) -> None:
        sums_of_blocks_kernel(x[part.start * ROWS : part.stop * ROWS], sums[part])

    in_parts(run, len(sums), x.size)
    return sum_along(sums, axis=0).astype(x.dtype)


def linear_backward(
    needed: Needed, g: Array, out: Array, kept: Kept, x: Array, weight: Array,
    bias: Array | None = None,
) -> tuple[Array | None, ...]:  # fmt: skip
    gbias = None if bias is None or not needed[2] else sum_of_rows(g.reshape(-1, len(weight)))
    return *linear_gradients(needed, g, x, weight), gbias


# ---- ReLU --------------------------------------------------------------------------------------


def _relu(x: Array, out: Array) -> None:
    zero = x.dtype.type(0.0)
    for i in range(x.size):
        out[i] = zero if x[i] <= zero else x[i]


def _relu_gradient(g: Array, x: Array, gx: Array) -> None:
    zero = x.dtype.type(0.0)
    for i in range(x.size):
        gx[i] = zero if x[i] <= zero else g[i]


relu_kernel, relu_gradient_kernel = compiled(_relu), compiled(_relu_gradient)


def relu_forward(x: Array) -> tuple[Array, Kept]:
    out = np.empty(x.shape, x.dtype)
    each(relu_kernel, flat(x), out.reshape(-1))
    return out, None


def relu_backward(needed: Needed, g: Array, out: Array, kept: Kept, x: Array) -> tuple[Array, ...]:
    gx = np.empty(x.shape, x.dtype)
    each(relu_gradient_kernel, flat(g), flat(out), gx.reshape(-1))  # out <= 0 where x <= 0
    return (gx,)


def _leaky_relu(x: Array, slope: float, out: Array) -> None:
    zero = x.dtype.type(0.0)
    for i in range(x.size):
        out[i] = x[i] if x[i] > zero else slope * x[i]


def _leaky_relu_gradient(g: Array, x: Array, slope: float, gx: Array) -> None:
    zero = x.dtype.type(0.0)
    for i in range(x.size):
        gx[i] = g[i] if x[i] > zero else slope * g[i]


leaky_relu_kernel = compiled(_leaky_relu)
leaky_relu_gradient_kernel = compiled(_leaky_relu_gradient)


def leaky_relu_forward(x: Array, negative_slope: float = 0.01) -> tuple[Array, Kept]:
    out, slope = np.empty(x.shape, x.dtype), x.dtype.type(negative_slope)
    each(lambda x, out: leaky_relu_kernel(x, slope, out), flat(x), out.reshape(-1))
    return out, None


def leaky_relu_backward(
    needed: Needed, g: Array, out: Array, kept: Kept, x: Array, negative_slope: float = 0.01
) -> tuple[Array, ...]:
    gx, slope = np.empty(x.shape, x.dtype), x.dtype.type(negative_slope)
    each(
        lambda g, x, gx: leaky_relu_gradient_kernel(g, x, slope, gx), flat(g), flat(x),
        gx.reshape(-1),
    )  # fmt: skip
    return (gx,)


# ---- GELU --------------------------------------------------------------------------------------

INV_SQRT_2PI = 1.0 / math.sqrt(2.0 * math.pi)
TANH_SCALE = 2.0 * math.sqrt(2.0 / math.pi)
TANH_CUBIC = 0.044715

# Constants take the dtype of x: a plain 0.5 is float64, and would take all around it along.


def _gelu(x: Array, out: Array) -> None:
    for i in range(x.size):
        out[i] = x[i] * normal_below(x[i])


def _gelu_gradient(g: Array, x: Array, gx: Array) -> None:
    real = x.dtype.type
    half, height = real(0.5), real(INV_SQRT_2PI)
    for i in range(x.size):
        density = height * exp_nonpositive(-half * x[i] * x[i])
        gx[i] = g[i] * (normal_below(x[i]) + x[i] * density)


def _gelu_tanh(x: Array, out: Array) -> None:
    real = x.dtype.type
    zero, one, scale, cubic = real(0.0), real(1.0), real(TANH_SCALE), real(TANH_CUBIC)
    for i in range(x.size):
        u = scale * (x[i] + cubic * x[i] * x[i] * x[i])
        e = exp_nonpositive(-abs(u))
        gate = (one if u >= zero else e) / (one + e)  # sigmoid(u)
        out[i] = x[i] * gate


def _gelu_tanh_gradient(g: Array, x: Array, gx: Array) -> None:
    real = x.dtype.type
    zero, one, scale, cubic = real(0.0), real(1.0), real(TANH_SCALE), real(TANH_CUBIC)
    three = real(3.0)
    for i in range(x.size):
        square = x[i] * x[i]
        u = scale * (x[i] + cubic * square * x[i])
        e = exp_nonpositive(-abs(u))  # at most 1: nothing overflows
        larger = one / (one + e)
        gate = larger if u >= zero else e * larger  # sigmoid(u)
        bend = e * larger * larger  # gate (1 - gate)
        slope = x[i] * scale * (one + three * cubic * square)  # x du/dx
        # Far out the bend is 0, and the slope may be infinite.
        gx[i] = g[i] * (gate + (zero if bend == zero else bend * slope))


gelu_kernel, gelu_gradient_kernel = compiled(_gelu), compiled(_gelu_gradient)
gelu_tanh_kernel, gelu_tanh_gradient_kernel = compiled(_gelu_tanh), compiled(_gelu_tanh_gradient)


def gelu_forward(x: Array, approximate: str = "none") -> tuple[Array, Kept]:
    if approximate not in ("none", "tanh"):
        raise ValueError(f'gelu: approximate is {approximate!r}, expected "none" or "tanh"')
    out = np.empty(x.shape, x.dtype)
    each(gelu_kernel if approximate == "none" else gelu_tanh_kernel, flat(x), out.reshape(-1))
    return out, None


def gelu_backward(
    needed: Needed, g: Array, out: Array, kept: Kept, x: Array, approximate: str = "none"
) -> tuple[Array, ...]:
    gx = np.empty(x.shape, x.dtype)
    kernel = gelu_gradient_kernel if approximate == "none" else gelu_tanh_gradient_kernel
    each(kernel, flat(g), flat(x), gx.reshape(-1))
    return (gx,)


# ---- softmax -----------------------------------------------------------------------------------


def _softmax(x: Array, out: Array) -> None:
    for i in range(x.shape[0]):
        top = largest(x[i])
        for j in range(x.shape[1]):
            out[i, j] = exp_nonpositive(x[i, j] - top)  # of a row with a nan, at least one is nan
        share = x.dtype.type(1.0 / total(out[i]))
        for j in range(x.shape[1]):
            out[i, j] *= share


def _softmax_gradient(g: Array, out: Array, gx: Array) -> None:
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            gx[i, j] = g[i, j] * out[i, j]
        mean = out.dtype.type(total(gx[i]))
        for j in range(out.shape[1]):
            gx[i, j] = out[i, j] * (g[i, j] - mean)


softmax_kernel, softmax_gradient_kernel = compiled(_softmax), compiled(_softmax_gradient)


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


# ---- cross-entropy -----------------------------------------------------------------------------


def _cross_entropy(logits: Array, targets: Array, probability: Array, losses: Array) -> None:
    for i in range(logits.shape[0]):
        top = largest(logits[i])
        for j in range(logits.shape[1]):
            probability[i, j] = exp_nonpositive(logits[i, j] - top)
        whole = total(probability[i])
        share = logits.dtype.type(1.0 / whole)
        for j in range(logits.shape[1]):
            probability[i, j] *= share
        losses[i] = math.log(whole) - (np.float64(logits[i, targets[i]]) - top)


def _cross_entropy_gradient(
    scale: float, probability: Array, targets: Array, gradient: Array
) -> None:
    for i in range(probability.shape[0]):
        for j in range(probability.shape[1]):
            gradient[i, j] = scale * probability[i, j]
        gradient[i, targets[i]] -= scale


cross_entropy_kernel = compiled(_cross_entropy)
cross_entropy_gradient_kernel = compiled(_cross_entropy_gradient)


def _mean_cross_entropy_forward(logits: Array, targets: Array) -> tuple[Array, Kept]:
    logits = np.ascontiguousarray(logits)
    probability, losses = np.empty_like(logits), np.empty(len(logits))
    targets = flat(targets)
    cross_entropy_kernel(logits, targets, probability, losses)
    return np.asarray(losses.mean(), dtype=logits.dtype), probability


def _mean_cross_entropy_backward(
    needed: Needed, g: Array, out: Array, probability: Kept, logits: Array, targets: Array
) -> tuple[Array, ...]:
    gradient = np.empty_like(probability)
    scale = probability.dtype.type(float(g) / len(logits))
    cross_entropy_gradient_kernel(scale, probability, flat(targets), gradient)
    return (gradient,)


# ---- layer norm --------------------------------------------------------------------------------


# Means and scales are float64: squares of float32 may lie outside of float32.


def _layer_norm(
    x: Array, weight: Array, bias: Array, eps: float, out: Array, mean: Array, scale: Array
) -> None:
    channels = x.shape[1]
    for i in range(x.shape[0]):
        mean[i] = total(x[i]) / channels
        variance = total_of_squares_about(mean[i], x[i]) / channels
        scale[i] = 1.0 / math.sqrt(variance + eps)
        if not variance < HIGHEST or (variance < LOWEST and eps < LOWEST):
            mean[i], scale[i] = _mean_and_scale_in_its_unit(x[i], eps)
        for j in range(channels):
            out[i, j] = (x[i, j] - mean[i]) * scale[i] * weight[j] + bias[j]


LOWEST, HIGHEST = 1e-280, 1e280  # squares beyond lose digits, or are 0 or infinite


@inlined
def _mean_and_scale_in_its_unit(row: Array, eps: float) -> tuple[float, float]:
    """The same with all divided by a power of two, near the row's largest or the root of eps."""
    top = math.sqrt(eps)
    for j in range(len(row)):
        top = max(top, abs(row[j]))
    if top == 0.0 or not math.isfinite(top):
        return math.nan, math.nan
    unit = 2.0 ** math.floor(math.log2(top))
    mean = squares = 0.0
    for j in range(len(row)):
        mean += row[j] / unit / len(row)
    for j in range(len(row)):
        squares += (row[j] / unit - mean) ** 2
    return mean * unit, 1.0 / math.sqrt(squares / len(row) + eps / unit / unit) / unit


def _layer_norm_gradient(
    g: Array, x: Array, weight: Array, mean: Array, scale: Array, gx: Array, sums: Array
) -> None:
    # With h = (x - mean) scale and d = g weight:  gx = scale (d - mean(d) - h mean(d h)).
    # gweight and gbias are sums over rows of g h and of g: `sums` (blocks, 2, C), of ROWS each.
    d, h = np.empty(x.shape[1], x.dtype), np.empty(x.shape[1], x.dtype)
    channels = x.shape[1]
    for i in range(x.shape[0]):
        gweight, gbias = sums[i // ROWS, 0], sums[i // ROWS, 1]
        for j in range(channels):
            h[j] = (x[i, j] - mean[i]) * scale[i]
            d[j] = g[i, j] * weight[j]
        for j in range(channels):
            gweight[j] += g[i, j] * h[j]
            gbias[j] += g[i, j]
        mean_d = x.dtype.type(total(d) / channels)
        mean_dh = x.dtype.type(total_of_products(d, h) / channels)
        factor = x.dtype.type(scale[i])
        for j in range(channels):
            gx[i, j] = factor * (d[j] - mean_d - h[j] * mean_dh)


layer_norm_kernel = compiled(_layer_norm)
layer_norm_gradient_kernel = compiled(_layer_norm_gradient)


def layer_norm_forward(
    x: Array, weight: Array, bias: Array, eps: float = 1e-5
) -> tuple[Array, Kept]:
    check_layer_norm(x, eps, weight=weight, bias=bias)
    rows = rows_of(x)
    out, mean, scale = np.empty_like(rows), np.empty(len(rows)), np.empty(len(rows))
    weight, bias = flat(weight), flat(bias)

    def run(part: slice) -> None:
        layer_norm_kernel(rows[part], weight, bias, float(eps), out[part], mean[part], scale[part])

    in_parts(run, len(rows), rows.size)
    return out.reshape(x.shape), (mean, scale)


def layer_norm_backward(
    needed: Needed, g: Array, out: Array, kept: Kept, x: Array, weight: Array, bias: Array,
    eps: float = 1e-5,
) -> tuple[Array, ...]:  # fmt: skip
    rows, g, weight = rows_of(x), rows_of(g), flat(weight)
    mean, scale = kept
    gx = np.empty_like(rows)

    def run(part: slice) -> Array:
        blocks = -(-(part.stop - part.start) // ROWS)
        sums = np.zeros((blocks, 2, x.shape[-1]))  # of gweight and gbias
        layer_norm_gradient_kernel(
            g[part], rows[part], weight, mean[part], scale[part], gx[part], sums
        )
        return sums

    sums = np.concatenate(in_parts(run, len(rows), rows.size))
    gweight, gbias = sum_along(sums, axis=0).astype(x.dtype)
    return gx.reshape(x.shape), gweight, gbias


# ---- embedding ---------------------------------------------------------------------------------


def _embedding_gradient(g: Array, ids: Array, gweight: Array, rest: Array) -> None:
    # What each addition rounds off is added up apart (Knuth 1969, 4.2.2): as exact as in pairs.
    for i in range(len(ids)):
        row, lost = gweight[ids[i]], rest[ids[i]]
        for j in range(g.shape[1]):
            old, new = row[j], row[j] + g[i, j]
            added = new - old
            lost[j] += (old - (new - added)) + (g[i, j] - added)
            row[j] = new
    for i in range(len(ids)):
        row, lost = gweight[ids[i]], rest[ids[i]]
        for j in range(g.shape[1]):
            if math.isfinite(row[j]):  # of an infinite sum the rest is nan
                row[j] += lost[j]
            lost[j] = 0.0


embedding_gradient_kernel = compiled(_embedding_gradient)


def _rows_by_number_forward(weight: Array, ids: Array) -> tuple[Array, Kept]:
    return weight[ids], None


def _rows_by_number_backward(
    needed: Needed, g: Array, out: Array, kept: Kept, weight: Array, ids: Array
) -> tuple[Array, ...]:
    gweight, rest = np.zeros(weight.shape, weight.dtype), np.zeros(weight.shape, weight.dtype)
    embedding_gradient_kernel(rows_of(g), flat(ids), gweight, rest)
    return (gweight,)


# ---- dropout -----------------------------------------------------------------------------------


def _dropped(x: Array, keep: Array, scale: float, out: Array) -> None:
    zero = x.dtype.type(0.0)
    for i in range(x.size):
        out[i] = x[i] * (scale if keep[i] else zero)


dropped_kernel = compiled(_dropped)


def _dropped_forward(x: Array, keep: Array, scale: float) -> tuple[Array, Kept]:
    out = np.empty(x.shape, x.dtype)
    dropped_kernel(flat(x), flat(keep), x.dtype.type(scale), out.reshape(-1))
    return out, None


def _dropped_backward(
    needed: Needed, g: Array, out: Array, kept: Kept, x: Array, keep: Array, scale: float
) -> tuple[Array, ...]:
    return (_dropped_forward(g, keep, scale)[0],)
