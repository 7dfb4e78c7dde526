"""Running versions of the metrics on a GPU, in CUDA: float64 accumulators. Mirrors `cpu/scale.py`.

The reading versions are in `minimono.mono.moments` and `minimono.mono.scale`. Memory is read once
for all that belongs to a neuron (moments, extremes, counts, φ itself), and once more for the
highest φ of each sample, if they are wanted.

Who adds what, and in which order, depends on the shape alone: a thread merges tiles of eight
samples of its neuron, eight threads of a block merge theirs, and at last the parts of the batch
are merged. A tile's squares are taken about its own mean. All means are counted from the neuron's
first sample, so that a difference of two keeps its digits however large both are.

z (B, n) real; mean, denominator (n,) float64. Nothing waits for the device, so nothing is refused
here: nan and infinity go into the moments, where `Moments.check` finds them.
"""

from types import ModuleType
from typing import Any

import numpy as np

from minimono.backend import Array, array_module
from minimono.kernels.gpu.launch import Kernel, for_each, for_rows, one_block

# ---- what belongs to a neuron ------------------------------------------------------------------

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

// (z - mean)^2 / denominator, rounded once; the square is not formed, so it cannot overflow.
__device__ real scale_of(real z, double mean, double denominator) {
    double deviation = z - mean;
    return deviation / denominator * deviation;
}
"""

# 32 columns and one part of the rows for a block; thread (x, y) has rows y, y + 8, ... of column x.
# Results of a part: means, m2s, lows, highs, counts (parts, n). lows and highs, counts, phi may be
# null; without counts and phi, old_mean and denominator may be too.

columns_kernel = Kernel(COLUMN + r"""
extern "C" __global__ void columns(
    const real *z, const double *old_mean, const double *denominator, double threshold,
    double *means, double *m2s, real *lows, real *highs, long long *counts, real *phi,
    long long samples, long long neurons, long long rows_of_part) {
    const int ROWS = 8;  // of a tile
    long long j = (long long)blockIdx.x * 32 + threadIdx.x;
    long long first = blockIdx.y * rows_of_part + threadIdx.y;
    long long last = (blockIdx.y + 1) * rows_of_part;
    if (last > samples) last = samples;
    if (j >= neurons) last = first = 0;  // no rows, but the barrier is for all
    bool score = counts || phi;
    double origin = j < neurons ? z[j] : (real)0;
    double old = j < neurons && score ? old_mean[j] : 0.0;
    double divisor = j < neurons && score ? denominator[j] : 1.0;
    Column column = no_samples();
    for (long long top = first; top < last; top += 8 * ROWS) {
        Column tile = no_samples();
        double d[ROWS], total = 0.0;
        for (int r = 0; r < ROWS; r++) {
            long long i = top + 8 * r;
            if (i >= last) continue;
            real value = z[i * neurons + j];
            d[r] = value - origin, total += d[r], tile.count += 1.0;
            tile.low = smaller(tile.low, value), tile.high = larger(tile.high, value);
            if (!score) continue;
            real p = scale_of(value, old, divisor);
            tile.above += p >= threshold;
            if (phi) phi[i * neurons + j] = p;
        }
        tile.mean = total / tile.count;
        for (int r = 0; r < ROWS; r++)
            if (top + 8 * r < last) tile.m2 += (d[r] - tile.mean) * (d[r] - tile.mean);
        merge(column, tile);
    }
    merge_threads(column);
    if (threadIdx.y > 0 || j >= neurons) return;
    long long place = blockIdx.y * neurons + j;
    means[place] = column.mean, m2s[place] = column.m2;
    if (lows) lows[place] = column.low, highs[place] = column.high;
    if (counts) counts[place] = column.above;
}
""")

# The parts merged, and the origin added: mean, m2, low, high, count (n,).

finish_columns_kernel = Kernel(COLUMN + r"""
extern "C" __global__ void finish_columns(
    const real *z, const double *means, const double *m2s, const real *lows, const real *highs,
    const long long *counts, double *mean, double *m2, real *low, real *high, long long *count,
    long long samples, long long neurons, long long rows_of_part, long long parts) {
    long long j = (long long)blockIdx.x * 32 + threadIdx.x;
    Column column = no_samples();
    for (long long part = threadIdx.y; j < neurons && part < parts; part += 8) {
        long long place = part * neurons + j, rows = samples - part * rows_of_part;
        Column its = no_samples();
        its.count = rows < rows_of_part ? rows : rows_of_part;
        its.mean = means[place], its.m2 = m2s[place];
        if (lows) its.low = lows[place], its.high = highs[place];
        if (counts) its.above = counts[place];
        merge(column, its);
    }
    merge_threads(column);
    if (threadIdx.y > 0 || j >= neurons) return;
    mean[j] = (double)z[j] + column.mean, m2[j] = column.m2;
    if (lows) low[j] = column.low, high[j] = column.high;
    if (counts) count[j] = column.above;
}
""")

ROWS_OF_PART, MOST_PARTS = 64, 64  # rows of a part at least, parts at most (our choice)


def batch_moments(z: Array) -> tuple[Array, Array]:
    """Mean and m2 of a batch, shape (B, *neurons) to two of shape neurons."""
    found = score(z, None, None)
    return found["mean"], found["m2"]


def score(
    z: Array,
    mean: Array | None,
    denominator: Array | None,
    *,
    k: int = 0,
    threshold: float = np.nan,
    extremes: bool = False,
    keep_phi: bool = False,
    flag: bool = False,
) -> dict[str, Array]:
    """What a batch (B, *neurons) holds, by name.

    "mean", "m2"; "low", "high" if `extremes`; "counts" if `threshold`: of shape neurons.
    "phi" or None. "top", "top_index" (B, k) if k: the k highest of each sample, falling, of equal
    ones the first first; where there are fewer, nan and -1. "flags" if `flag`, booleans
    (B, *neurons): the k highest with all that equal the k-th. (`cpu/scale.py` also flags those
    that reach a threshold. Here the threshold is on the device, and is not waited for.)
    """
    xp = array_module(z)
    flat = one_block(z).reshape(len(z), -1)  # (B, n)
    samples, neurons = flat.shape
    columns = None if mean is None or denominator is None else (_column(mean), _column(denominator))
    count = not np.isnan(threshold)
    rows = max(ROWS_OF_PART, -(-samples // MOST_PARTS))
    parts = -(-samples // rows)
    of_part = _results(xp, (parts, neurons), flat.dtype, extremes, count)
    whole = _results(xp, (neurons,), flat.dtype, extremes, count)
    phi = xp.empty(flat.shape, flat.dtype) if keep_phi else None
    tiles = -(-neurons // 32)
    columns_kernel(
        flat.dtype, (tiles, parts), (32, 8), flat, *(columns or (None, None)), threshold,
        *of_part.values(), phi, samples, neurons, rows,
    )  # fmt: skip
    finish_columns_kernel(
        flat.dtype, (tiles,), (32, 8), flat, *of_part.values(), *whole.values(), samples, neurons,
        rows, parts,
    )  # fmt: skip
    found = {name: a.reshape(z.shape[1:]) for name, a in whole.items() if a is not None}
    found["phi"] = None if phi is None else phi.reshape(z.shape)
    if k and columns is not None:
        found["top"] = xp.empty((samples, k), flat.dtype)
        found["top_index"] = xp.empty((samples, k), np.int64)
        highest_kernel(
            flat.dtype, *for_rows(samples, neurons), flat, *columns, found["top"],
            found["top_index"], neurons, k,
        )  # fmt: skip
        if flag:
            found["flags"] = _flags(flat, *columns, found["top"]).reshape(z.shape)
    return found


def _results(
    xp: ModuleType, shape: tuple[int, ...], dtype: Any, extremes: bool, count: bool
) -> dict[str, Array | None]:
    return {
        "mean": xp.empty(shape, np.float64),
        "m2": xp.empty(shape, np.float64),
        "low": xp.empty(shape, dtype) if extremes else None,
        "high": xp.empty(shape, dtype) if extremes else None,
        "counts": xp.empty(shape, np.int64) if count else None,
    }


# ---- the highest φ of each sample --------------------------------------------------------------
# A block for each sample. Every thread knows the best of its neurons; k times the best of the block
# is taken, and its owner looks for its next one.

highest_kernel = Kernel(COLUMN + r"""
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
    long long neurons, long long k) {
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

flag_kernel = Kernel(COLUMN + r"""
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


def _flags(z: Array, mean: Array, denominator: Array, top: Array) -> Array:
    """`select_top_k`, ties included, from each sample's k highest: booleans (B, n)."""
    flagged = array_module(z).empty(z.shape, bool)
    flag_kernel(
        z.dtype, *_over(*z.shape), z, mean, denominator, top, flagged, *z.shape, top.shape[1]
    )
    return flagged


# ---- φ -----------------------------------------------------------------------------------------

scale_kernel = Kernel(COLUMN + r"""
extern "C" __global__ void scale(
    const real *z, const double *mean, const double *denominator, real *phi, long long samples,
    long long neurons) {
    long long j = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (j >= neurons) return;
    for (long long i = blockIdx.y; i < samples; i += gridDim.y)
        phi[i * neurons + j] = scale_of(z[i * neurons + j], mean[j], denominator[j]);
}
""")


def scale(z: Array, mean: Array, denominator: Array) -> Array:
    """phi of a batch, shape (B, *neurons), given mean and denominator, shape neurons, float64."""
    flat = one_block(z).reshape(len(z), -1)  # (B, n)
    phi = array_module(z).empty(flat.shape, flat.dtype)
    scale_kernel(
        z.dtype, *_over(*flat.shape), flat, _column(mean), _column(denominator), phi, *flat.shape
    )
    return phi.reshape(z.shape)


# ---- merging two histories ---------------------------------------------------------------------
# mean = mean_a + delta b / (a + b), m2 = m2_a + m2_b + delta^2 a b / (a + b), delta of the means.

merge_kernel = Kernel(r"""
extern "C" __global__ void merge(
    const double *mean_a, const double *m2_a, const double *mean_b, const double *m2_b,
    double share, double weight, double *mean, double *m2, long long size) {
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
    """Mean and m2 of a and b samples together; share is b / (a + b), weight a b / (a + b)."""
    xp = array_module(mean_a, mean_b)
    mean, m2 = xp.empty(mean_a.shape), xp.empty(mean_a.shape)
    merge_kernel(
        np.float64, *for_each(mean.size), one_block(mean_a), one_block(m2_a), one_block(mean_b),
        one_block(m2_b), share, weight, mean, m2, mean.size,
    )  # fmt: skip
    return mean, m2


def _over(samples: int, neurons: int) -> tuple[tuple[int, int], tuple[int]]:
    """Blocks and threads for kernels with a thread for each neuron, that go down the rows."""
    return (-(-neurons // 256), min(samples, 1024)), (256,)


def _column(values: Array) -> Array:
    """One axis, in one block of memory."""
    return one_block(values).reshape(-1)
