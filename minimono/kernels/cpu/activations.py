"""ReLU, leaky ReLU, sigmoid, SiLU and GELU on the CPU, forward and back."""

import math

import numpy as np

from minimono.backend import Array
from minimono.kernels import Kept, Needed
from minimono.kernels.cpu.compiling import compiled
from minimono.kernels.cpu.launch import each
from minimono.kernels.cpu.math import exp_nonpositive
from minimono.kernels.cpu.normal import normal_below

# ---- ReLU --------------------------------------------------------------------------------------


@compiled
def relu_kernel(x: Array, out: Array) -> None:
    zero = x.dtype.type(0.0)
    for i in range(x.size):
        out[i] = zero if x[i] <= zero else x[i]


@compiled
def relu_gradient_kernel(g: Array, x: Array, gx: Array) -> None:
    zero = x.dtype.type(0.0)
    for i in range(x.size):
        gx[i] = zero if x[i] <= zero else g[i]


def relu_forward(x: Array) -> tuple[Array, Kept]:
    out = np.empty(x.shape, x.dtype)
    each(relu_kernel, x, out)
    return out, None


def relu_backward(needed: Needed, g: Array, out: Array, kept: Kept, x: Array) -> tuple[Array, ...]:
    gx = np.empty(x.shape, x.dtype)
    each(relu_gradient_kernel, g, out, gx)  # out <= 0 where x <= 0
    return (gx,)


@compiled
def leaky_relu_kernel(x: Array, out: Array, slope: float) -> None:
    zero = x.dtype.type(0.0)
    for i in range(x.size):
        out[i] = x[i] if x[i] > zero else slope * x[i]


@compiled
def leaky_relu_gradient_kernel(g: Array, x: Array, gx: Array, slope: float) -> None:
    zero = x.dtype.type(0.0)
    for i in range(x.size):
        gx[i] = g[i] if x[i] > zero else slope * g[i]


def leaky_relu_forward(x: Array, negative_slope: float = 0.01) -> tuple[Array, Kept]:
    out = np.empty(x.shape, x.dtype)
    each(leaky_relu_kernel, x, out, numbers=[x.dtype.type(negative_slope)])
    return out, None


def leaky_relu_backward(
    needed: Needed, g: Array, out: Array, kept: Kept, x: Array, negative_slope: float = 0.01
) -> tuple[Array, ...]:
    gx = np.empty(x.shape, x.dtype)
    each(leaky_relu_gradient_kernel, g, x, gx, numbers=[x.dtype.type(negative_slope)])
    return (gx,)


# ---- sigmoid and SiLU --------------------------------------------------------------------------
# With e = exp(-|x|), at most 1, nothing overflows:  sigmoid(x) = 1 / (1 + e), or e / (1 + e) for
# x < 0, and its slope is e / (1 + e)^2. The sigmoid keeps e, to spare the way back an exponential.


@compiled
def sigmoid_kernel(x: Array, out: Array, kept: Array) -> None:
    zero, one = x.dtype.type(0.0), x.dtype.type(1.0)
    for i in range(x.size):
        e = exp_nonpositive(-abs(x[i]))
        out[i] = (e if x[i] < zero else one) / (one + e)
        kept[i] = e


@compiled
def sigmoid_gradient_kernel(g: Array, kept: Array, gx: Array) -> None:
    one = kept.dtype.type(1.0)
    for i in range(g.size):
        whole = one + kept[i]
        gx[i] = g[i] * (kept[i] / (whole * whole))


def sigmoid_forward(x: Array) -> tuple[Array, Kept]:
    out, kept = np.empty(x.shape, x.dtype), np.empty(x.size, x.dtype)
    each(sigmoid_kernel, x, out, kept)
    return out, kept


def sigmoid_backward(
    needed: Needed, g: Array, out: Array, kept: Kept, x: Array
) -> tuple[Array, ...]:
    gx = np.empty(x.shape, x.dtype)
    each(sigmoid_gradient_kernel, g, kept, gx)
    return (gx,)


@compiled
def silu_kernel(x: Array, out: Array) -> None:
    zero, one = x.dtype.type(0.0), x.dtype.type(1.0)
    for i in range(x.size):
        e = exp_nonpositive(-abs(x[i]))
        out[i] = x[i] * ((e if x[i] < zero else one) / (one + e))


@compiled
def silu_gradient_kernel(g: Array, x: Array, gx: Array) -> None:
    zero, one = x.dtype.type(0.0), x.dtype.type(1.0)
    for i in range(x.size):
        e = exp_nonpositive(-abs(x[i]))
        larger = one / (one + e)
        gate = e * larger if x[i] < zero else larger
        gx[i] = g[i] * (gate + x[i] * (e * larger * larger))


def silu_forward(x: Array) -> tuple[Array, Kept]:
    out = np.empty(x.shape, x.dtype)
    each(silu_kernel, x, out)
    return out, None


def silu_backward(needed: Needed, g: Array, out: Array, kept: Kept, x: Array) -> tuple[Array, ...]:
    gx = np.empty(x.shape, x.dtype)
    each(silu_gradient_kernel, g, x, gx)
    return (gx,)


# ---- GELU --------------------------------------------------------------------------------------

INV_SQRT_2PI = 1.0 / math.sqrt(2.0 * math.pi)
TANH_SCALE = 2.0 * math.sqrt(2.0 / math.pi)
TANH_CUBIC = 0.044715

# Constants take the dtype of x: a plain 0.5 is float64, and would take all around it along.


@compiled
def gelu_kernel(x: Array, out: Array) -> None:
    for i in range(x.size):
        out[i] = x[i] * normal_below(x[i])


@compiled
def gelu_gradient_kernel(g: Array, x: Array, gx: Array) -> None:
    real = x.dtype.type
    half, height = real(0.5), real(INV_SQRT_2PI)
    for i in range(x.size):
        density = height * exp_nonpositive(-half * x[i] * x[i])
        gx[i] = g[i] * (normal_below(x[i]) + x[i] * density)


@compiled
def gelu_tanh_kernel(x: Array, out: Array) -> None:
    real = x.dtype.type
    zero, one, scale, cubic = real(0.0), real(1.0), real(TANH_SCALE), real(TANH_CUBIC)
    for i in range(x.size):
        u = scale * (x[i] + cubic * x[i] * x[i] * x[i])
        e = exp_nonpositive(-abs(u))
        gate = (one if u >= zero else e) / (one + e)  # sigmoid(u)
        out[i] = x[i] * gate


@compiled
def gelu_tanh_gradient_kernel(g: Array, x: Array, gx: Array) -> None:
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


def gelu_forward(x: Array, approximate: str = "none") -> tuple[Array, Kept]:
    if approximate not in ("none", "tanh"):
        raise ValueError(f'gelu: approximate is {approximate!r}, expected "none" or "tanh"')
    out = np.empty(x.shape, x.dtype)
    each(gelu_kernel if approximate == "none" else gelu_tanh_kernel, x, out)
    return out, None


def gelu_backward(
    needed: Needed, g: Array, out: Array, kept: Kept, x: Array, approximate: str = "none"
) -> tuple[Array, ...]:
    gx = np.empty(x.shape, x.dtype)
    each(gelu_gradient_kernel if approximate == "none" else gelu_tanh_gradient_kernel, g, x, gx)
    return (gx,)
