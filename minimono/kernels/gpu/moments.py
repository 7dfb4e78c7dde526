"""What belongs to a neuron, in CUDA: moments and extremes, and how two of them are merged."""

from minimono.backend import Array, array_module
from minimono.kernels.gpu.launch import Kernel, each

# Chan, Golub and LeVeque (1979). A count of 0 stands for no samples.
COLUMN = r"""
struct Column { double count, mean, m2; real low, high; long long above; };

__device__ Column no_samples() { return {0.0, 0.0, 0.0, INFINITE, -INFINITE, 0}; }

__device__ real smaller(real a, real b) { return b < a || b != b ? b : a; }  // nan stays
__device__ real larger(real a, real b) { return b > a || b != b ? b : a; }

__device__ void merge(Column &a, const Column &b) {
    if (b.count == 0.0) return;
    double delta = b.mean - a.mean, share = b.count / (a.count + b.count);
    a.mean += delta * share;
    a.m2 += b.m2 + delta * delta * (a.count * share);
    a.count += b.count;
    a.low = smaller(a.low, b.low), a.high = larger(a.high, b.high), a.above += b.above;
}

// Merge what the eight threads of a column have, in their order; the first has the result.
__device__ void merge_threads(Column &mine) {
    __shared__ Column all[8][32];
    all[threadIdx.y][threadIdx.x] = mine;
    __syncthreads();
    if (threadIdx.y == 0)
        for (int y = 1; y < 8; y++) merge(mine, all[y][threadIdx.x]);
}
"""

# mean = mean_a + delta b / (a + b), m2 = m2_a + m2_b + delta^2 a b / (a + b), delta of the means.

merge_kernel = Kernel(r"""
extern "C" __global__ void merge(
    const double *mean_a, const double *m2_a, const double *mean_b, const double *m2_b,
    double *mean, double *m2, double share, double weight, long long size) {
    EACH_ELEMENT(i, size) {
        double delta = mean_b[i] - mean_a[i];
        mean[i] = mean_a[i] + delta * share;
        m2[i] = m2_a[i] + m2_b[i] + delta * delta * weight;
    }
}
""")


def merge(
    mean_a: Array, m2_a: Array, mean_b: Array, m2_b: Array, share: float, weight: float
) -> tuple[Array, Array]:
    """Return mean and m2 of a and b samples: share is b / (a + b), weight a b / (a + b)."""
    xp = array_module(mean_a, mean_b)
    mean, m2 = xp.empty(mean_a.shape), xp.empty(mean_a.shape)
    each(merge_kernel, mean_a, m2_a, mean_b, m2_b, mean, m2, numbers=[share, weight])
    return mean, m2
