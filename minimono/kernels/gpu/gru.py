"""The pointwise part of the recurrent cell that convolves, in CUDA, as in `cpu/gru.py`.

An element n of N in sample b has its terms r, z, n at b 3N + n, + N, + 2N.
"""

import math

from minimono.backend import Array, array_module
from minimono.kernels import Kept, Needed
from minimono.kernels.gpu.launch import Kernel, each, empty_like, for_each, one_block

# ---- gates: R, Z = sigmoid(x + h), M = leaky_relu(x_n + R h_n) ---------------------------------
# x (B, 3, N) or a null pointer; h (B, 3, N); out (2, B, N) is M and Z; reset (B, N).

gates_kernel = Kernel(r"""
__device__ real sigmoid(real u) {
    real e = exp(-fabs(u));  // at most 1: nothing overflows
    return (u >= 0 ? (real)1 : e) / (1 + e);
}

extern "C" __global__ void gates(
    const real *x, const real *h, double slope, real *out, real *reset, long long samples,
    long long length) {
    EACH_ELEMENT(n, samples * length) {
        long long at = n / length * 3 * length + n % length;
        real x_r = x ? x[at] : (real)0, x_z = x ? x[at + length] : (real)0;
        real x_n = x ? x[at + 2 * length] : (real)0;
        real r = sigmoid(x_r + h[at]), memory = x_n + r * h[at + 2 * length];
        reset[n] = r;
        out[n] = memory > 0 ? memory : (real)slope * memory;
        out[samples * length + n] = sigmoid(x_z + h[at + length]);
    }
}
""")

gates_gradient_kernel = Kernel(r"""
extern "C" __global__ void gates_gradient(
    const real *g, const real *out, const real *reset, const real *h, double slope, real *gx,
    real *gh, long long samples, long long length) {
    EACH_ELEMENT(n, samples * length) {
        long long at = n / length * 3 * length + n % length, half = samples * length;
        real r = reset[n], z = out[half + n];
        real g_n = out[n] > 0 ? g[n] : (real)slope * g[n];
        real g_r = g_n * h[at + 2 * length] * r * (1 - r), g_z = g[half + n] * z * (1 - z);
        gh[at] = g_r, gh[at + length] = g_z, gh[at + 2 * length] = g_n * r;
        if (gx) gx[at] = g_r, gx[at + length] = g_z, gx[at + 2 * length] = g_n;
    }
}
""")


def memory_and_update_forward(
    from_input: Array | None, from_state: Array, slope: float
) -> tuple[Array, Kept]:
    """Terms (B, 3 C, Y, X) -> (2, B, C, Y, X)."""
    xp = array_module(from_state)
    B, channels, *image = from_state.shape
    length = math.prod(from_state.shape[1:]) // 3
    out = xp.empty((2, B, channels // 3, *image), from_state.dtype)
    reset = xp.empty(out.shape[1:], from_state.dtype)
    x = None if from_input is None else one_block(from_input)
    gates_kernel(
        from_state.dtype, *for_each(reset.size), x, one_block(from_state), slope, out, reset, B,
        length,
    )
    return out, reset


def memory_and_update_backward(
    needed: Needed, g: Array, out: Array, reset: Kept, from_input: Array | None,
    from_state: Array, slope: float,
) -> tuple[Array | None, ...]:
    B = len(from_state)
    gh, gx = empty_like(from_state), empty_like(from_state) if needed[0] else None
    gates_gradient_kernel(
        from_state.dtype, *for_each(reset.size), one_block(g), one_block(out), reset,
        one_block(from_state), slope, gx, gh, B, math.prod(from_state.shape[1:]) // 3,
    )
    return gx, gh


# ---- the new state: (1 - Z) M + Z H ------------------------------------------------------------

mixed_kernel = Kernel(r"""
extern "C" __global__ void mixed(
    const real *update, const real *memory, const real *state, real *out, long long size) {
    EACH_ELEMENT(i, size) out[i] = (1 - update[i]) * memory[i] + update[i] * state[i];
}
""")

mixed_gradient_kernel = Kernel(r"""
extern "C" __global__ void mixed_gradient(
    const real *g, const real *update, const real *memory, const real *state, real *gupdate,
    real *gmemory, real *gstate, long long size) {
    EACH_ELEMENT(i, size) {
        gupdate[i] = g[i] * (state[i] - memory[i]);
        gmemory[i] = g[i] * (1 - update[i]);
        gstate[i] = g[i] * update[i];
    }
}
""")


def new_state_forward(update: Array, memory: Array, state: Array) -> tuple[Array, Kept]:
    out = empty_like(state)
    memory = array_module(memory).broadcast_to(memory, state.shape)  # it may come from a tap
    each(mixed_kernel, update, memory, state, out)
    return out, None


def new_state_backward(
    needed: Needed, g: Array, out: Array, kept: Kept, update: Array, memory: Array, state: Array
) -> tuple[Array, ...]:
    gradients = [empty_like(state) for _ in range(3)]
    memory = array_module(memory).broadcast_to(memory, state.shape)
    each(mixed_gradient_kernel, g, update, memory, state, *gradients)
    return tuple(gradients)
