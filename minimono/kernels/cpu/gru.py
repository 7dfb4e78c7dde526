"""The pointwise part of the recurrent cell that convolves, on the CPU: gates and new state.

Of the terms x and h, thirds r, z, n of the channels:

    R = sigmoid(x_r + h_r)    Z = sigmoid(x_z + h_z)    M = leaky_relu(x_n + R h_n)
    H' = (1 - Z) M + Z H

R is kept for the way back; M tells by its sign which slope it had. In float32 the relative error of
a gate is at most 2.5e-7 (tested): that of exp, a sum, a quotient; below -87.6 a gate is 0. No
argument of exp is positive, so nothing overflows.

Each loop reads and writes few arrays: of one with many Numba makes no vector instructions, because
it would have to test each pair for overlap. A row is one sample, which the loops after the first
find in the cache.
"""

import math

import numpy as np

from minimono.backend import Array
from minimono.kernels import Kept, Needed
from minimono.kernels.cpu.compiling import compiled, inlined
from minimono.kernels.cpu.launch import each
from minimono.kernels.cpu.math import exp_nonpositive
from minimono.kernels.parallel import in_parts

# ---- gates -------------------------------------------------------------------------------------


@inlined
def _sigmoid_of_sum(a: Array, b: Array, out: Array) -> None:
    zero, one = out.dtype.type(0.0), out.dtype.type(1.0)
    for i in range(out.size):
        u = a[i] + b[i]
        e = exp_nonpositive(-abs(u))
        out[i] = (one if u >= zero else e) / (one + e)


@compiled
def gates_kernel(
    x: Array, h: Array, slope: float, memory: Array, reset: Array, update: Array
) -> None:
    """x, h (B, 3, N); memory, reset, update (B, N)."""
    zero = h.dtype.type(0.0)
    for b in range(len(h)):
        _sigmoid_of_sum(x[b, 0], h[b, 0], reset[b])
        _sigmoid_of_sum(x[b, 1], h[b, 1], update[b])
        x_n, h_n, r, out = x[b, 2], h[b, 2], reset[b], memory[b]
        for i in range(out.size):
            n = x_n[i] + r[i] * h_n[i]
            out[i] = n if n > zero else slope * n


@compiled
def gates_gradient_kernel(
    gmemory: Array, gupdate: Array, slope: float, memory: Array, reset: Array, update: Array,
    h: Array, gn: Array, gh: Array,
) -> None:
    """gn (B, N) is the gradient by x_n; those by x_r and x_z equal those by h_r and h_z."""
    zero, one = h.dtype.type(0.0), h.dtype.type(1.0)
    for b in range(len(h)):
        g, out, m = gn[b], memory[b], gmemory[b]
        for i in range(g.size):
            g[i] = m[i] if out[i] > zero else slope * m[i]
        r, h_n, gh_r, gh_n = reset[b], h[b, 2], gh[b, 0], gh[b, 2]
        for i in range(g.size):
            gh_n[i] = g[i] * r[i]
        for i in range(g.size):
            gh_r[i] = g[i] * h_n[i] * r[i] * (one - r[i])
        z, gz, gh_z = update[b], gupdate[b], gh[b, 1]
        for i in range(g.size):
            gh_z[i] = gz[i] * z[i] * (one - z[i])


def memory_and_update_forward(
    from_input: Array | None, from_state: Array, slope: float
) -> tuple[Array, Kept]:
    """Terms (B, 3 C, Y, X) -> (2, B, C, Y, X)."""
    h = _thirds(from_state)
    x = np.zeros_like(h) if from_input is None else _thirds(from_input)
    B, _, N = h.shape
    out, reset, slope = np.empty((2, B, N), h.dtype), np.empty((B, N), h.dtype), h.dtype.type(slope)

    def run(part: slice) -> None:
        gates_kernel(x[part], h[part], slope, out[0, part], reset[part], out[1, part])

    in_parts(run, B, out.size)
    channels, *image = from_state.shape[1:]
    return out.reshape(2, B, channels // 3, *image), reset


def memory_and_update_backward(
    needed: Needed, g: Array, out: Array, reset: Kept, from_input: Array | None,
    from_state: Array, slope: float,
) -> tuple[Array | None, ...]:
    h = _thirds(from_state)
    B, _, N = h.shape
    g, out = np.ascontiguousarray(g).reshape(2, B, N), out.reshape(2, B, N)
    gh, gn, slope = np.empty_like(h), np.empty((B, N), h.dtype), h.dtype.type(slope)

    def run(part: slice) -> None:
        gates_gradient_kernel(
            g[0, part], g[1, part], slope, out[0, part], reset[part], out[1, part], h[part],
            gn[part], gh[part],
        )

    in_parts(run, B, g.size)
    gx = None
    if from_input is not None and needed[0]:
        gx = gh.copy()
        gx[:, 2] = gn
        gx = gx.reshape(from_input.shape)
    return gx, gh.reshape(from_state.shape)


def _thirds(terms: Array) -> Array:
    """(B, 3 C, Y, X) -> (B, 3, C Y X), in one block of memory."""
    return np.ascontiguousarray(terms).reshape(len(terms), 3, math.prod(terms.shape[1:]) // 3)


# ---- the new state -----------------------------------------------------------------------------


@compiled
def mixed_kernel(update: Array, memory: Array, state: Array, out: Array) -> None:
    one = out.dtype.type(1.0)
    for i in range(out.size):
        out[i] = (one - update[i]) * memory[i] + update[i] * state[i]


@compiled
def mixed_gradient_kernel(
    g: Array, update: Array, memory: Array, state: Array, gupdate: Array, gmemory: Array,
    gstate: Array,
) -> None:
    one = g.dtype.type(1.0)
    for i in range(g.size):
        gupdate[i] = g[i] * (state[i] - memory[i])
    for i in range(g.size):
        gmemory[i] = g[i] * (one - update[i])
        gstate[i] = g[i] * update[i]


def new_state_forward(update: Array, memory: Array, state: Array) -> tuple[Array, Kept]:
    out = np.empty(state.shape, update.dtype)
    memory = np.broadcast_to(memory, state.shape)  # it may come from elsewhere: from a tap
    each(mixed_kernel, update, memory, state, out)
    return out, None


def new_state_backward(
    needed: Needed, g: Array, out: Array, kept: Kept, update: Array, memory: Array, state: Array
) -> tuple[Array, ...]:
    gradients = [np.empty(state.shape, update.dtype) for _ in range(3)]
    memory = np.broadcast_to(memory, state.shape)
    each(mixed_gradient_kernel, g, update, memory, state, *gradients)
    return tuple(gradients)
