"""Running versions of the optimisers' updates and of the gradient's norm, in CUDA: one pass.

The names and signatures of `cpu/optim.py`. The numbers of a formula are worked out in float64 and
rounded to the parameters' dtype, so that float32 parameters are updated in float32.
"""

from collections.abc import Sequence

import numpy as np

from minimono.backend import Array, array_module
from minimono.kernels.gpu.launch import Kernel, each, empty_like, for_each, one_block

# g' = g + l2 p    m = beta1 m + (1 - beta1) g'    v = beta2 v + (1 - beta2) g'^2
# p -= rate (m / correction1 / (sqrt(v / correction2) + eps) + decay p)

adam_kernel = Kernel(r"""
extern "C" __global__ void adam(
    const real *p, const real *g, const real *m, const real *v, real *new_p, real *new_m,
    real *new_v, double rate, double beta1, double beta2, double eps, double decay, double l2,
    double correction1, double correction2, long long size) {
    const real b1 = beta1, b2 = beta2, rest1 = 1.0 - beta1, rest2 = 1.0 - beta2, e = eps;
    const real pull = l2, fade = rate * decay, step = rate / correction1;
    const real shrink = 1.0 / sqrt(correction2);
    EACH_ELEMENT(i, size) {
        real gi = g[i] + pull * p[i];
        real mi = b1 * m[i] + rest1 * gi, vi = b2 * v[i] + rest2 * gi * gi;
        new_p[i] = p[i] - (step * mi / (sqrt(vi) * shrink + e) + fade * p[i]);
        new_m[i] = mi, new_v[i] = vi;
    }
}
""")

# p -= rate (g + l2 p)

sgd_kernel = Kernel(r"""
extern "C" __global__ void sgd(
    const real *p, const real *g, real *new_p, double rate, double l2, long long size) {
    const real step = rate, pull = l2;
    EACH_ELEMENT(i, size) new_p[i] = p[i] - step * (g[i] + pull * p[i]);
}
""")

# b = momentum b + (g + l2 p)    p -= rate b

sgd_momentum_kernel = Kernel(r"""
extern "C" __global__ void sgd_momentum(
    const real *p, const real *g, const real *b, real *new_p, real *new_b, double rate, double l2,
    double momentum, long long size) {
    const real step = rate, pull = l2, keep = momentum;
    EACH_ELEMENT(i, size) {
        real bi = keep * b[i] + (g[i] + pull * p[i]);
        new_p[i] = p[i] - step * bi;
        new_b[i] = bi;
    }
}
""")

# One sum for each block; they are added up afterwards.

sum_of_squares_kernel = Kernel(r"""
extern "C" __global__ void sum_of_squares(const real *x, double *sums, long long size) {
    double sum = 0.0;
    EACH_ELEMENT(i, size) sum += (double)x[i] * x[i];
    double whole = block_sum(sum);
    if (threadIdx.x == 0) sums[blockIdx.x] = whole;
}
""")

MOST_SUMS = 1024  # blocks (our choice)


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


def update(kernel: Kernel, arrays: Sequence[Array], numbers: Sequence[float]) -> list[Array]:
    """Return the parameter and its running arrays after a step, in new arrays.

    arrays: the parameter, its gradient, its running arrays.
    """
    p, _, *running = arrays
    new = [empty_like(p) for _ in (p, *running)]
    each(kernel, *arrays, *new, numbers=numbers)
    return new


def joint_norm(*gradients: Array) -> Array:
    """Without a look at the sum, which would be to wait."""
    first, *others = map(sum_of_squares, gradients)
    return array_module(first).sqrt(sum(others, first))


def sum_of_squares(x: Array) -> Array:
    """In float64, an array without axes."""
    x = x if x.dtype.char in "fd" else x.astype(np.float64)
    (blocks,), threads = for_each(x.size)
    sums = array_module(x).empty(min(blocks, MOST_SUMS))
    sum_of_squares_kernel(x.dtype, sums.shape, threads, one_block(x), sums, x.size)
    return sums.sum()


def scaled(*gradients: Array, factor: Array) -> list[Array]:
    """In float64, also by a factor of 1: to look at it would be to wait."""
    return [np.multiply(g, factor, dtype=np.float64).astype(g.dtype) for g in gradients]
