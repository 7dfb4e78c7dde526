"""Running versions of the optimisers' updates and of the gradient's norm: one pass over memory.

The arrays of a call are flat and do not overlap: what is new has arrays of its own. The numbers of
a formula are worked out in float64 and rounded to the parameters' dtype once, before the loop, so
that a float32 loop works on eight values at a time.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from minimono.backend import Array
from minimono.kernels.cpu.compiling import compiled
from minimono.kernels.cpu.launch import each, flat
from minimono.kernels.cpu.sums import total_of_squares

# Loops of few arrays, over elements that the cache keeps from one to the next: for many LLVM would
# not check that they do not overlap, and would take one value at a time.
TILE = 1024


@compiled
def adam_kernel(
    p: Array, g: Array, m: Array, v: Array, new_p: Array, new_m: Array, new_v: Array,
    rate: float, beta1: float, beta2: float, eps: float, decay: float, l2: float,
    correction1: float, correction2: float,
) -> None:
    # What is the same for all i is worked out once:  p -= size m / (sqrt(v) shrink + e) + fade p.
    real = p.dtype.type
    b1, b2, rest1, rest2 = real(beta1), real(beta2), real(1.0 - beta1), real(1.0 - beta2)
    pull, e, fade = real(l2), real(eps), real(rate * decay)
    size, shrink = real(rate / correction1), real(1.0 / math.sqrt(correction2))
    for first in range(0, p.size, TILE):
        last = min(first + TILE, p.size)
        for i in range(first, last):
            new_m[i] = b1 * m[i] + rest1 * (g[i] + pull * p[i])
        for i in range(first, last):
            gi = g[i] + pull * p[i]
            new_v[i] = b2 * v[i] + rest2 * gi * gi
        for i in range(first, last):
            change = size * new_m[i] / (math.sqrt(new_v[i]) * shrink + e) + fade * p[i]
            new_p[i] = p[i] - change


@compiled
def sgd_kernel(p: Array, g: Array, new_p: Array, rate: float, l2: float) -> None:
    size, pull = p.dtype.type(rate), p.dtype.type(l2)
    for i in range(p.size):
        new_p[i] = p[i] - size * (g[i] + pull * p[i])


@compiled
def sgd_momentum_kernel(
    p: Array, g: Array, b: Array, new_p: Array, new_b: Array,
    rate: float, l2: float, momentum: float,
) -> None:
    size, pull, keep = p.dtype.type(rate), p.dtype.type(l2), p.dtype.type(momentum)
    for i in range(p.size):
        bi = keep * b[i] + (g[i] + pull * p[i])
        new_b[i] = bi
        new_p[i] = p[i] - size * bi


@compiled
def sum_of_squares_kernel(x: Array, out: Array) -> None:
    out[0] = total_of_squares(x)


def sgd(p: Array, g: Array, *, lr: float, weight_decay: float) -> list[Array]:
    return update(sgd_kernel, (p, g), (lr, weight_decay))


def sgd_momentum(
    p: Array, g: Array, b: Array, *, lr: float, momentum: float, weight_decay: float
) -> list[Array]:
    return update(sgd_momentum_kernel, (p, g, b), (lr, weight_decay, momentum))


def adam(
    p: Array, g: Array, m: Array, v: Array, *, t: int, lr: float, beta1: float, beta2: float,
    eps: float, l2: float, decay: float,
) -> list[Array]:
    numbers = (lr, beta1, beta2, eps, decay, l2, 1.0 - beta1**t, 1.0 - beta2**t)
    return update(adam_kernel, (p, g, m, v), numbers)


def update(
    kernel: Callable[..., None], arrays: Sequence[Array], numbers: Sequence[float]
) -> list[Array]:
    """Return the parameter and its running arrays after a step, in new arrays.

    arrays: the parameter, its gradient, its running arrays.
    """
    shape, dtype = arrays[0].shape, arrays[0].dtype
    new = [np.empty(shape, dtype) for _ in arrays[1:]]  # as many, since one is the gradient
    each(kernel, *arrays, *new, numbers=numbers)
    return new


def joint_norm(*gradients: Array) -> Array:
    # Dividing by the largest is for squares that overflow or vanish, and only for them.
    total = sum(map(sum_of_squares, gradients))
    if 1e-290 < total < math.inf:
        return np.array(math.sqrt(total))
    largest = max(float(abs(g).max()) if g.size else 0.0 for g in gradients)
    if not 0.0 < largest < math.inf:
        return np.array(math.sqrt(total))
    total = sum(sum_of_squares(g / np.float64(largest)) for g in gradients)
    return np.array(largest * math.sqrt(total))


def sum_of_squares(x: Array) -> float:
    """In float64."""
    out = np.empty(1)
    plain = x.dtype.char in "fd" and x.dtype.isnative
    sum_of_squares_kernel(flat(x if plain else x.astype(np.float64)), out)
    return out.item()


def scaled(*gradients: Array, factor: Array) -> Sequence[Array]:
    """In the gradients' own dtype where the factor has digits there; a factor of 1 changes none."""
    if factor == 1.0:
        return gradients
    with np.errstate(invalid="ignore"):  # infinity times 0
        return [
            g * g.dtype.type(factor)
            if g.dtype.char == "d" or (g.dtype.char == "f" and factor > 1e-30)
            else np.multiply(g, factor, dtype=np.float64).astype(g.dtype)
            for g in gradients
        ]
