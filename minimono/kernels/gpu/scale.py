"""Running versions of the metrics on a GPU, in CUDA: float64 accumulators. Mirrors `cpu/scale.py`.

The reading versions are in `mono/moments.py`, `mono/scale.py` and `mono/batch_scores.py`. Memory is
read once for all that belongs to a neuron (moments, extremes, counts, φ itself), and once more for
the highest φ of each sample, if they are wanted.

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
from minimono.kernels.gpu.launch import Kernel, one_block
from minimono.kernels.gpu.moments import COLUMN
from minimono.kernels.gpu.moments import merge as merge
from minimono.kernels.gpu.selection import SCALE_OF, down_the_rows, flags_of_highest, highest

# 32 columns and one part of the rows for a block; thread (x, y) has rows y, y + 8, ... of column x.
# Results of a part: means, m2s, lows, highs, counts (parts, n). lows and highs, counts, phi may be
# null; without counts and phi, old_mean and denominator may be too.

columns_kernel = Kernel(COLUMN + SCALE_OF + r"""
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

scale_kernel = Kernel(SCALE_OF + r"""
extern "C" __global__ void scale(
    const real *z, const double *mean, const double *denominator, real *phi, long long samples,
    long long neurons) {
    long long j = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (j >= neurons) return;
    for (long long i = blockIdx.y; i < samples; i += gridDim.y)
        phi[i * neurons + j] = scale_of(z[i * neurons + j], mean[j], denominator[j]);
}
""")

ROWS_OF_PART, MOST_PARTS = 64, 64  # rows of a part at least, parts at most (our choice)


def batch_moments(z: Array) -> tuple[Array, Array]:
    """Return mean and m2 of a batch: (B, *neurons) to two of shape neurons."""
    found = survey(z, None, None)
    return found["mean"], found["m2"]


def survey(
    z: Array,
    mean: Array | None,
    denominator: Array | None,
    *,
    k: int = 0,
    threshold: float | None = None,
    extremes: bool = False,
    keep_phi: bool = False,
    flag: bool = False,
) -> dict[str, Array]:
    """Return what a batch (B, *neurons) holds: see the formula, `mono.batch_scores.survey`."""
    xp = array_module(z)
    flat = one_block(_floats(z)).reshape(len(z), -1)  # (B, *neurons) -> (B, n)
    samples, neurons = flat.shape
    columns = None if mean is None or denominator is None else (_column(mean), _column(denominator))
    count = threshold is not None
    tau = float(threshold) if threshold is not None else np.nan
    rows = max(ROWS_OF_PART, -(-samples // MOST_PARTS))
    parts = -(-samples // rows)
    of_part = _results(xp, (parts, neurons), flat.dtype, extremes, count)
    whole = _results(xp, (neurons,), flat.dtype, extremes, count)
    phi = xp.empty(flat.shape, flat.dtype) if keep_phi else None
    tiles = -(-neurons // 32)
    columns_kernel(
        flat.dtype, (tiles, parts), (32, 8), flat, *(columns or (None, None)), tau,
        *of_part.values(), phi, samples, neurons, rows,
    )
    finish_columns_kernel(
        flat.dtype, (tiles,), (32, 8), flat, *of_part.values(), *whole.values(), samples, neurons,
        rows, parts,
    )
    found = {name: a.reshape(z.shape[1:]) for name, a in whole.items() if a is not None}
    if phi is not None:
        found["phi"] = phi.reshape(z.shape)
    if k and columns is not None:
        found["top"], found["top_index"] = highest(flat, *columns, k)
        if flag:
            found["flags"] = flags_of_highest(flat, *columns, found["top"]).reshape(z.shape)
    if count and flag and columns is not None:
        above = scale(flat, *columns) >= xp.asarray(tau, dtype=np.float64)
        found["flags"] = above.reshape(z.shape)
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


def scale(z: Array, mean: Array, denominator: Array) -> Array:
    """Return φ of a batch (B, *neurons), given mean and denominator, float64 of shape neurons."""
    flat = one_block(_floats(z)).reshape(len(z), -1)  # (B, *neurons) -> (B, n)
    phi = array_module(z).empty(flat.shape, flat.dtype)
    columns = _column(mean), _column(denominator)
    scale_kernel(z.dtype, *down_the_rows(*flat.shape), flat, *columns, phi, *flat.shape)
    return phi.reshape(z.shape)


def scale_and_check(z: Array, mean: Array, denominator: Array) -> tuple[Array, Array]:
    """Return φ of a batch, and whether all of it is finite, not waited for."""
    return scale(z, mean, denominator), array_module(z).isfinite(z).all()


def _floats(z: Array) -> Array:
    """Return z in what it is scored in: float32 or float64."""
    return z if z.dtype in (np.float32, np.float64) else z.astype(np.float64)


def _column(values: Array) -> Array:
    """Return the values along one axis, in one block of memory."""
    return one_block(values).reshape(-1)
