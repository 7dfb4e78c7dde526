"""Running versions of the optimisers' updates and of the gradient's norm: one pass over memory.

The arrays of a call are flat and do not overlap. The numbers of a formula are worked out in float64
and rounded to the parameters' dtype once, before the loop, so that a float32 loop works on eight
values at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from minimono.backend import Array
from minimono.kernels.compiling import compiled
from minimono.kernels.cpu import flat
from minimono.kernels.cpu_math import total_of_squares
from minimono.kernels.parallel import in_parts


def _adam(
    p: Array, g: Array, m: Array, v: Array,
    rate: float, beta1: float, beta2: float, eps: float, decay: float, l2: float,
    correction1: float, correction2: float,
) -> None:  # fmt: skip
    # What is the same for all i is worked out once:  p -= size m / (sqrt(v) shrink + e) + fade p.
    real = p.dtype.type
    b1, b2, rest1, rest2 = real(beta1), real(beta2), real(1.0 - beta1), real(1.0 - beta2)
    pull, e, fade = real(l2), real(eps), real(rate * decay)
    size, shrink = real(rate / correction1), real(1.0 / math.sqrt(correction2))
    for i in range(p.size):
        gi = g[i] + pull * p[i]
        m[i] = b1 * m[i] + rest1 * gi
        v[i] = b2 * v[i] + rest2 * gi * gi
        p[i] -= size * m[i] / (math.sqrt(v[i]) * shrink + e) + fade * p[i]


def _sgd(p: Array, g: Array, rate: float, l2: float) -> None:
    size, pull = p.dtype.type(rate), p.dtype.type(l2)
    for i in range(p.size):
        p[i] -= size * (g[i] + pull * p[i])


def _sgd_momentum(p: Array, g: Array, b: Array, rate: float, l2: float, momentum: float) -> None:
    size, pull, keep = p.dtype.type(rate), p.dtype.type(l2), p.dtype.type(momentum)
    for i in range(p.size):
        b[i] = keep * b[i] + (g[i] + pull * p[i])
        p[i] -= size * b[i]


def _sum_of_squares(x: Array, out: Array) -> None:
    out[0] = total_of_squares(x)


adam_kernel = compiled(_adam)
sgd_kernel, sgd_momentum_kernel = compiled(_sgd), compiled(_sgd_momentum)
sum_of_squares_kernel = compiled(_sum_of_squares)


def sum_of_squares(x: Array) -> Array:
    """In float64."""
    out = np.empty(1)
    sum_of_squares_kernel(flat(x), out)
    return out[0]


def update(
    kernel: Callable[..., None], arrays: Sequence[Array], numbers: Sequence[float]
) -> None:
    """Run a kernel on a parameter, its gradient and its running arrays; a large one in parts.

    All are written to and must be in one block, but for the gradient.
    """
    p, g, *slots = arrays
    rows = [p.reshape(-1), flat(g), *(a.reshape(-1) for a in slots)]
    in_parts(lambda part: kernel(*(row[part] for row in rows), *numbers), p.size, p.size)
