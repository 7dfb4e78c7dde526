"""Layer norm and RMS norm on the CPU, forward and back.

Means and scales are float64: squares of float32 may lie outside of float32.
"""

import math

import numpy as np

from minimono import checks
from minimono.backend import Array
from minimono.kernels import Kept, Needed
from minimono.kernels.cpu.compiling import compiled, inlined
from minimono.kernels.cpu.launch import flat, rows_of
from minimono.kernels.cpu.sums import (
    ROWS,
    total,
    total_of_products,
    total_of_squares,
    total_of_squares_about,
)
from minimono.kernels.parallel import in_parts
from minimono.sums import total as sum_along


@compiled
def layer_norm_kernel(
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
def _unit(row: Array, eps: float) -> float:
    """Return a power of two near the row's largest number, or the root of eps; else nan."""
    top = math.sqrt(eps)
    for j in range(len(row)):
        top = max(top, abs(row[j]))
    unit: float = 2.0 ** math.floor(math.log2(top)) if 0.0 < top < math.inf else math.nan
    return unit


@inlined
def _mean_and_scale_in_its_unit(row: Array, eps: float) -> tuple[float, float]:
    unit = _unit(row, eps)
    mean = squares = 0.0
    for j in range(len(row)):
        mean += row[j] / unit / len(row)
    for j in range(len(row)):
        squares += (row[j] / unit - mean) ** 2
    return mean * unit, 1.0 / math.sqrt(squares / len(row) + eps / unit / unit) / unit


@compiled
def layer_norm_gradient_kernel(
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


@compiled
def rms_norm_kernel(x: Array, weight: Array, eps: float, out: Array, scale: Array) -> None:
    channels = x.shape[1]
    for i in range(x.shape[0]):
        square = total_of_squares(x[i]) / channels
        scale[i] = 1.0 / math.sqrt(square + eps)
        if not square < HIGHEST or (square < LOWEST and eps < LOWEST):
            unit, squares = _unit(x[i], eps), 0.0
            if math.isfinite(unit):  # else the scale is right: 0 or nan
                for j in range(channels):
                    squares += (x[i, j] / unit) ** 2
                scale[i] = 1.0 / math.sqrt(squares / channels + eps / unit / unit) / unit
        for j in range(channels):
            out[i, j] = x[i, j] * scale[i] * weight[j]


@compiled
def rms_norm_gradient_kernel(
    g: Array, x: Array, weight: Array, scale: Array, gx: Array, sums: Array
) -> None:
    # With h = x scale and d = g weight:  gx = scale (d - h mean(d h)), and gweight is the sum over
    # rows of g h: `sums` (blocks, C), of ROWS each.
    d, h = np.empty(x.shape[1], x.dtype), np.empty(x.shape[1], x.dtype)
    channels = x.shape[1]
    for i in range(x.shape[0]):
        gweight = sums[i // ROWS]
        for j in range(channels):
            h[j] = x[i, j] * scale[i]
            d[j] = g[i, j] * weight[j]
        for j in range(channels):
            gweight[j] += g[i, j] * h[j]
        mean_dh = x.dtype.type(total_of_products(d, h) / channels)
        factor = x.dtype.type(scale[i])
        for j in range(channels):
            gx[i, j] = factor * (d[j] - h[j] * mean_dh)


def layer_norm_forward(
    x: Array, weight: Array, bias: Array, eps: float = 1e-5
) -> tuple[Array, Kept]:
    checks.norm(x, "layer_norm", eps, weight=weight, bias=bias)
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
) -> tuple[Array, ...]:
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


def rms_norm_forward(x: Array, weight: Array, eps: float = 1e-5) -> tuple[Array, Kept]:
    checks.norm(x, "rms_norm", eps, weight=weight)
    rows, weight = rows_of(x), flat(weight)
    out, scale = np.empty_like(rows), np.empty(len(rows))

    def run(part: slice) -> None:
        rms_norm_kernel(rows[part], weight, float(eps), out[part], scale[part])

    in_parts(run, len(rows), rows.size)
    return out.reshape(x.shape), scale


def rms_norm_backward(
    needed: Needed, g: Array, out: Array, scale: Kept, x: Array, weight: Array, eps: float = 1e-5
) -> tuple[Array, ...]:
    rows, g, weight = rows_of(x), rows_of(g), flat(weight)
    gx = np.empty_like(rows)

    def run(part: slice) -> Array:
        sums = np.zeros((-(-(part.stop - part.start) // ROWS), x.shape[-1]))
        rms_norm_gradient_kernel(g[part], rows[part], weight, scale[part], gx[part], sums)
        return sums

    sums = np.concatenate(in_parts(run, len(rows), rows.size))
    return gx.reshape(x.shape), sum_along(sums, axis=0).astype(x.dtype)
