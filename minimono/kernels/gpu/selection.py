"""The highest φ of each sample, in CUDA, and which activations are among them.

z (B, n) real; mean, denominator (n,) float64.
"""

import numpy as np

from minimono.backend import Array, array_module
from minimono.kernels.gpu.launch import Kernel, each_row

SCALE_OF = r"""
// (z - mean)^2 / denominator, rounded once; the square is not formed, so it cannot overflow.
__device__ real scale_of(real z, double mean, double denominator) {
    double deviation = z - mean;
    return deviation / denominator * deviation;
}
"""

# A block for each sample. Every thread knows the best of its neurons; k times the best of the block
# is taken, and its owner looks for its next one.

highest_kernel = Kernel(SCALE_OF + r"""
struct Best { real phi; long long j; };  // j < 0: none

__device__ bool is_before(Best a, Best b) {
    return a.j >= 0 && (b.j < 0 || a.phi > b.phi || (a.phi == b.phi && a.j < b.j));
}

// The best of this thread's neurons that comes after `last`.
__device__ Best best_after(Best last, const real *row, const double *mean,
                           const double *denominator, long long neurons) {
    Best best = {0, -1};
    for (long long j = threadIdx.x; j < neurons; j += blockDim.x) {
        double deviation = row[j] - mean[j], bound = (double)best.phi * denominator[j];
        // Without a division: certainly less than the best (its place is behind it anyway).
        if (bound > 1e-290 && deviation * deviation * 1.000001 < bound) continue;
        Best here = {scale_of(row[j], mean[j], denominator[j]), j};
        if (here.phi == here.phi && is_before(here, best) && (last.j < 0 || is_before(last, here)))
            best = here;
    }
    return best;
}

__device__ Best block_best(Best mine) {
    __shared__ Best of_warp[32];
    for (int step = 16; step > 0; step /= 2) {
        Best other;
        other.phi = __shfl_down_sync(0xffffffff, mine.phi, step);
        other.j = __shfl_down_sync(0xffffffff, mine.j, step);
        if (is_before(other, mine)) mine = other;
    }
    __syncthreads();
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = mine;
    __syncthreads();
    Best best = of_warp[0];
    for (int warp = 1; warp < blockDim.x / 32; warp++)
        if (is_before(of_warp[warp], best)) best = of_warp[warp];
    return best;
}

extern "C" __global__ void highest(
    const real *z, const double *mean, const double *denominator, real *top, long long *index,
    long long k, long long neurons) {
    const real *row = z + blockIdx.x * neurons;
    Best mine = best_after({0, -1}, row, mean, denominator, neurons);
    for (long long rank = 0; rank < k; rank++) {
        Best best = block_best(mine);
        if (threadIdx.x == 0) {
            top[blockIdx.x * k + rank] = best.j < 0 ? UNDEFINED : best.phi;
            index[blockIdx.x * k + rank] = best.j;
        }
        if (best.j >= 0 && best.j == mine.j)
            mine = best_after(best, row, mean, denominator, neurons);
    }
}
""")

# flags (B, n): φ is at least the k-th highest of its sample, or is a number where there are fewer.

flag_kernel = Kernel(SCALE_OF + r"""
extern "C" __global__ void flag(
    const real *z, const double *mean, const double *denominator, const real *top, bool *flags,
    long long samples, long long neurons, long long k) {
    long long j = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (j >= neurons) return;
    for (long long i = blockIdx.y; i < samples; i += gridDim.y) {
        real phi = scale_of(z[i * neurons + j], mean[j], denominator[j]);
        real kth = top[i * k + k - 1];
        flags[i * neurons + j] = kth == kth ? phi >= kth : phi == phi;
    }
}
""")


def highest(z: Array, mean: Array, denominator: Array, k: int) -> tuple[Array, Array]:
    """Return the k highest φ of each sample, falling, and their places; else nan and -1."""
    xp = array_module(z)
    top, index = xp.empty((len(z), k), z.dtype), xp.empty((len(z), k), np.int64)
    each_row(highest_kernel, z, mean, denominator, top, index, k)
    return top, index


def flags_of_highest(z: Array, mean: Array, denominator: Array, top: Array) -> Array:
    """Return `select_top_k`, ties included, from each sample's k highest: booleans (B, n)."""
    flags = array_module(z).empty(z.shape, bool)
    flag_kernel(
        z.dtype, *down_the_rows(*z.shape), z, mean, denominator, top, flags, *z.shape, top.shape[1]
    )
    return flags


def down_the_rows(samples: int, neurons: int) -> tuple[tuple[int, int], tuple[int]]:
    """Return blocks and threads for kernels whose threads go down the rows of one neuron each."""
    return (-(-neurons // 256), min(samples, 1024)), (256,)
