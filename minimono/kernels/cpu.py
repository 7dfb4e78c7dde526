"""Running versions on the CPU, in Numba: each the formula of `functional.py`, fused into loops.

Every kernel is a plain Python function over rows of a matrix, compiled by a call, so that it can
be read, and run without Numba (`NUMBA_DISABLE_JIT=1`). They run on one thread: Numba's threads
and those of NumPy's BLAS would wait for each other's cores.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

from minimono.backend import Array

Kept = Any  # what a forward pass keeps for its backward pass


def compiled(kernel: Callable[..., None]) -> Callable[..., None]:
    """Compile at the first call for each dtype, and keep the machine code on disk."""
    return njit(cache=True, error_model="numpy")(kernel)


def rows_of(x: Array) -> Array:
    """(..., C) -> (N, C), in one block of memory."""
    return np.ascontiguousarray(x).reshape(-1, x.shape[-1])


# ---- GELU --------------------------------------------------------------------------------------

SQRT_HALF = math.sqrt(0.5)
INV_SQRT_2PI = 1.0 / math.sqrt(2.0 * math.pi)
TANH_SCALE = math.sqrt(2.0 / math.pi)
TANH_CUBIC = 0.044715


def _gelu(x: Array, out: Array) -> None:
    for i in range(x.size):
        out[i] = 0.5 * x[i] * math.erfc(-x[i] * SQRT_HALF)


def _gelu_gradient(g: Array, x: Array, gx: Array) -> None:
    for i in range(x.size):
        below = 0.5 * math.erfc(-x[i] * SQRT_HALF)
        density = INV_SQRT_2PI * math.exp(-0.5 * x[i] * x[i])
        gx[i] = g[i] * (below + x[i] * density)


def _gelu_tanh(x: Array, out: Array) -> None:
    for i in range(x.size):
        u = TANH_SCALE * (x[i] + TANH_CUBIC * x[i] * x[i] * x[i])
        out[i] = x[i] / (1.0 + math.exp(-2.0 * u))  # x sigmoid(2 u)


def _gelu_tanh_gradient(g: Array, x: Array, gx: Array) -> None:
    for i in range(x.size):
        u = TANH_SCALE * (x[i] + TANH_CUBIC * x[i] * x[i] * x[i])
        e = math.exp(-2.0 * abs(u))  # at most 1: nothing overflows
        larger = 1.0 / (1.0 + e)
        gate = larger if u >= 0.0 else e * larger  # sigmoid(2 u)
        bend = e * larger * larger  # gate (1 - gate)
        gx[i] = g[i] * gate
        if bend != 0.0:  # far out it is 0, and the cubic's slope infinite
            gx[i] += g[i] * bend * x[i] * 2.0 * TANH_SCALE * (1.0 + 3.0 * TANH_CUBIC * x[i] * x[i])


gelu_kernel, gelu_gradient_kernel = compiled(_gelu), compiled(_gelu_gradient)
gelu_tanh_kernel, gelu_tanh_gradient_kernel = compiled(_gelu_tanh), compiled(_gelu_tanh_gradient)


def gelu_forward(x: Array, approximate: str = "none") -> tuple[Array, Kept]:
    if approximate not in ("none", "tanh"):
        raise ValueError(f'gelu: approximate is {approximate!r}, expected "none" or "tanh"')
    flat = np.ascontiguousarray(x).reshape(-1)
    out = np.empty_like(flat)
    (gelu_kernel if approximate == "none" else gelu_tanh_kernel)(flat, out)
    return out.reshape(x.shape), None


def gelu_backward(
    g: Array, out: Array, kept: Kept, x: Array, approximate: str = "none"
) -> tuple[Array, ...]:
    flat = np.ascontiguousarray(x).reshape(-1)
    gx = np.empty_like(flat)
    kernel = gelu_gradient_kernel if approximate == "none" else gelu_tanh_gradient_kernel
    kernel(np.ascontiguousarray(g).reshape(-1), flat, gx)
    return (gx.reshape(x.shape),)


# ---- softmax -----------------------------------------------------------------------------------


def _softmax(x: Array, out: Array) -> None:
    for i in range(x.shape[0]):
        largest = x[i, 0]
        for j in range(x.shape[1]):
            if not x[i, j] <= largest:  # so that a nan wins, and the row is nan as it should be
                largest = x[i, j]
        total = 0.0
        for j in range(x.shape[1]):
            out[i, j] = math.exp(x[i, j] - largest)
            total += out[i, j]
        for j in range(x.shape[1]):
            out[i, j] /= total


def _softmax_gradient(g: Array, out: Array, gx: Array) -> None:
    for i in range(out.shape[0]):
        total = 0.0
        for j in range(out.shape[1]):
            total += g[i, j] * out[i, j]
        for j in range(out.shape[1]):
            gx[i, j] = out[i, j] * (g[i, j] - total)


softmax_kernel, softmax_gradient_kernel = compiled(_softmax), compiled(_softmax_gradient)


def softmax_forward(x: Array, axis: int = -1) -> tuple[Array, Kept]:
    last = np.moveaxis(np.atleast_1d(x), axis, -1)
    rows = rows_of(last)
    out = np.empty_like(rows)
    softmax_kernel(rows, out)
    return np.moveaxis(out.reshape(last.shape), -1, axis).reshape(x.shape), None


def softmax_backward(
    g: Array, out: Array, kept: Kept, x: Array, axis: int = -1
) -> tuple[Array, ...]:
    last = np.moveaxis(np.atleast_1d(out), axis, -1)
    rows = rows_of(last)
    gx = np.empty_like(rows)
    softmax_gradient_kernel(rows_of(np.moveaxis(np.atleast_1d(g), axis, -1)), rows, gx)
    return (np.moveaxis(gx.reshape(last.shape), -1, axis).reshape(x.shape),)


# ---- cross-entropy -----------------------------------------------------------------------------


def _cross_entropy(logits: Array, targets: Array, probability: Array, losses: Array) -> None:
    for i in range(logits.shape[0]):
        largest = logits[i, 0]
        for j in range(logits.shape[1]):
            if not logits[i, j] <= largest:
                largest = logits[i, j]
        total = 0.0
        for j in range(logits.shape[1]):
            probability[i, j] = math.exp(logits[i, j] - largest)
            total += probability[i, j]
        for j in range(logits.shape[1]):
            probability[i, j] /= total
        losses[i] = math.log(total) - (logits[i, targets[i]] - largest)


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
    cross_entropy_kernel(logits, targets, probability, losses)
    return np.asarray(losses.mean(), dtype=logits.dtype), probability


def _mean_cross_entropy_backward(
    g: Array, out: Array, probability: Kept, logits: Array, targets: Array
) -> tuple[Array, ...]:
    gradient = np.empty_like(probability)
    scale = probability.dtype.type(float(g) / len(logits))
    cross_entropy_gradient_kernel(scale, probability, targets, gradient)
    return (gradient,)


# ---- layer norm --------------------------------------------------------------------------------


def _layer_norm(
    x: Array, weight: Array, bias: Array, eps: float, out: Array, mean: Array, scale: Array
) -> None:
    channels = x.shape[1]
    for i in range(x.shape[0]):
        total = 0.0
        for j in range(channels):
            total += x[i, j]
        centre = total / channels
        squares = 0.0
        for j in range(channels):
            squares += (x[i, j] - centre) ** 2
        mean[i] = centre
        scale[i] = 1.0 / math.sqrt(squares / channels + eps)
        for j in range(channels):
            out[i, j] = (x[i, j] - centre) * scale[i] * weight[j] + bias[j]


def _layer_norm_gradient(
    g: Array, x: Array, weight: Array, mean: Array, scale: Array,
    gx: Array, gweight: Array, gbias: Array,
) -> None:  # fmt: skip
    # With h = (x - mean) scale and d = g weight:  gx = scale (d - mean(d) - h mean(d h)).
    channels = x.shape[1]
    for i in range(x.shape[0]):
        sum_d, sum_dh = 0.0, 0.0
        for j in range(channels):
            h = (x[i, j] - mean[i]) * scale[i]
            d = g[i, j] * weight[j]
            sum_d += d
            sum_dh += d * h
            gweight[j] += g[i, j] * h
            gbias[j] += g[i, j]
        for j in range(channels):
            h = (x[i, j] - mean[i]) * scale[i]
            gx[i, j] = scale[i] * (g[i, j] * weight[j] - sum_d / channels - h * sum_dh / channels)


layer_norm_kernel = compiled(_layer_norm)
layer_norm_gradient_kernel = compiled(_layer_norm_gradient)


def layer_norm_forward(
    x: Array, weight: Array, bias: Array, eps: float = 1e-5
) -> tuple[Array, Kept]:
    for name, parameter in (("weight", weight), ("bias", bias)):
        if parameter.shape != x.shape[-1:]:
            raise ValueError(
                f"layer_norm: {name} has shape {parameter.shape}, "
                f"x has {x.shape[-1]} channels (axis -1)"
            )
    rows = rows_of(x)
    out, mean, scale = np.empty_like(rows), np.empty(len(rows)), np.empty(len(rows))
    layer_norm_kernel(rows, weight, bias, float(eps), out, mean, scale)
    return out.reshape(x.shape), (mean, scale)


def layer_norm_backward(
    g: Array, out: Array, kept: Kept, x: Array, weight: Array, bias: Array, eps: float = 1e-5
) -> tuple[Array, ...]:
    rows = rows_of(x)
    gx = np.empty_like(rows)
    gweight, gbias = np.zeros(x.shape[-1]), np.zeros(x.shape[-1])
    layer_norm_gradient_kernel(rows_of(g), rows, weight, *kept, gx, gweight, gbias)
    return gx.reshape(x.shape), gweight.astype(x.dtype), gbias.astype(x.dtype)


# ---- Adam --------------------------------------------------------------------------------------


def _adam(
    p: Array, g: Array, m: Array, v: Array,
    rate: float, beta1: float, beta2: float, eps: float, decay: float, l2: float,
    correction1: float, correction2: float,
) -> None:  # fmt: skip
    for i in range(p.size):
        gi = g[i] + l2 * p[i]
        m[i] = beta1 * m[i] + (1.0 - beta1) * gi
        v[i] = beta2 * v[i] + (1.0 - beta2) * gi * gi
        step = (m[i] / correction1) / (math.sqrt(v[i] / correction2) + eps)
        p[i] -= rate * (step + decay * p[i])


adam_kernel = compiled(_adam)
