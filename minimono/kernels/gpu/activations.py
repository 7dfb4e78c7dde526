"""ReLU, leaky ReLU, sigmoid, SiLU and GELU in CUDA, forward and back."""

from minimono.backend import Array
from minimono.kernels import Kept, Needed
from minimono.kernels.gpu.launch import Kernel, each, empty_like

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
    out = empty_like(x)
    each(relu_kernel, x, out)
    return out, None


def relu_backward(needed: Needed, g: Array, out: Array, kept: Kept, x: Array) -> tuple[Array, ...]:
    gx = empty_like(x)
    each(relu_gradient_kernel, g, out, gx)
    return (gx,)


leaky_relu_kernel = Kernel(r"""
extern "C" __global__ void leaky_relu(const real *x, real *out, double slope, long long size) {
    EACH_ELEMENT(i, size) out[i] = x[i] > 0 ? x[i] : (real)slope * x[i];
}
""")

leaky_relu_gradient_kernel = Kernel(r"""
extern "C" __global__ void leaky_relu_gradient(
    const real *g, const real *x, real *gx, double slope, long long size) {
    EACH_ELEMENT(i, size) gx[i] = x[i] > 0 ? g[i] : (real)slope * g[i];
}
""")


def leaky_relu_forward(x: Array, negative_slope: float = 0.01) -> tuple[Array, Kept]:
    out = empty_like(x)
    each(leaky_relu_kernel, x, out, numbers=[negative_slope])
    return out, None


def leaky_relu_backward(
    needed: Needed, g: Array, out: Array, kept: Kept, x: Array, negative_slope: float = 0.01
) -> tuple[Array, ...]:
    gx = empty_like(x)
    each(leaky_relu_gradient_kernel, g, x, gx, numbers=[negative_slope])
    return (gx,)


# ---- sigmoid and SiLU: x sigmoid(x) ------------------------------------------------------------

sigmoid_kernel = Kernel(r"""
extern "C" __global__ void sigmoid(const real *x, real *out, long long size) {
    EACH_ELEMENT(i, size) {
        real e = exp(-fabs(x[i]));  // at most 1: nothing overflows
        out[i] = (x[i] < 0 ? e : (real)1) / (1 + e);
    }
}
""")

sigmoid_gradient_kernel = Kernel(r"""
extern "C" __global__ void sigmoid_gradient(
    const real *g, const real *x, real *gx, long long size) {
    EACH_ELEMENT(i, size) {
        real e = exp(-fabs(x[i])), larger = 1 / (1 + e);
        gx[i] = g[i] * (e * larger * larger);
    }
}
""")

silu_kernel = Kernel(r"""
extern "C" __global__ void silu(const real *x, real *out, long long size) {
    EACH_ELEMENT(i, size) {
        real e = exp(-fabs(x[i]));
        out[i] = x[i] * ((x[i] < 0 ? e : (real)1) / (1 + e));
    }
}
""")

silu_gradient_kernel = Kernel(r"""
extern "C" __global__ void silu_gradient(const real *g, const real *x, real *gx, long long size) {
    EACH_ELEMENT(i, size) {
        real e = exp(-fabs(x[i])), larger = 1 / (1 + e);
        real gate = x[i] < 0 ? e * larger : larger;
        gx[i] = g[i] * (gate + x[i] * (e * larger * larger));
    }
}
""")


def sigmoid_forward(x: Array) -> tuple[Array, Kept]:
    out = empty_like(x)
    each(sigmoid_kernel, x, out)
    return out, None


def sigmoid_backward(
    needed: Needed, g: Array, out: Array, kept: Kept, x: Array
) -> tuple[Array, ...]:
    gx = empty_like(x)
    each(sigmoid_gradient_kernel, g, x, gx)
    return (gx,)


def silu_forward(x: Array) -> tuple[Array, Kept]:
    out = empty_like(x)
    each(silu_kernel, x, out)
    return out, None


def silu_backward(needed: Needed, g: Array, out: Array, kept: Kept, x: Array) -> tuple[Array, ...]:
    gx = empty_like(x)
    each(silu_gradient_kernel, g, x, gx)
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
    out = empty_like(x)
    each(gelu_kernel if approximate == "none" else gelu_tanh_kernel, x, out)
    return out, None


def gelu_backward(
    needed: Needed, g: Array, out: Array, kept: Kept, x: Array, approximate: str = "none"
) -> tuple[Array, ...]:
    gx = empty_like(x)
    each(gelu_gradient_kernel if approximate == "none" else gelu_tanh_gradient_kernel, g, x, gx)
    return (gx,)
