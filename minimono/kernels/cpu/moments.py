"""Running versions of what belongs to a neuron: its moments and extremes, in float64, no fastmath.

The reading versions are in `minimono.mono.moments`. A tile of samples and neurons is read eight
rows at a time, so that a neuron's sums are loaded and stored once for eight samples: one row of
each eighth of the tile, so that the next eight lie behind these in memory, and the processor, which
sees eight streams go on, fetches ahead. The tiles' moments are merged exactly, as batches are
(Chan, Golub and LeVeque, 1979).

No digit is lost, because a tile's sums are taken about a centre near its mean:

* The first tile's is the mean of the eight rows read first. The mean of s of h samples is never
  further from the mean of all than sqrt(m2 / s), so the squares about it are at most
  (1 + h / s) m2: taking the difference out again loses three bits at worst, none as a rule.
* A later tile's is the mean of all a rows above it. Its h samples, whose mean is δ away, add
  m2 + δ² a h / (a + h) to the whole, where their squares about the centre are m2 + δ² h. With
  h <= 2 a that is three times as much, less than two bits.
"""

import numpy as np

from minimono.backend import Array
from minimono.kernels.cpu.compiling import compiled
from minimono.kernels.cpu.instructions import larger, multiply_add, smaller

FIRST, SAMPLES, NEURONS = 64, 128, 2048  # rows of the first tile, of others; eight are 64 kB
BLOCK = 1024  # rows whose tiles are merged in order; a thread has whole blocks
ROWS = 8  # read together; `add_deviations` and `extend` are written out for eight


# Rows are named by where they are: of rows cut out, Numba would not know that they are contiguous.


@compiled
def find_centre(z: Array, step: int, left: int, right: int, centre: Array) -> None:
    """Find about the mean of rows 0, step, ...: of eight, or of all if there are fewer."""
    rows = min(ROWS, z.shape[0])
    for j in range(right - left):
        centre[j] = 0.0
    for r in range(rows):
        row = z[r * max(step, 1), left:right]
        for j in range(right - left):
            centre[j] += row[j]
    for j in range(right - left):
        centre[j] /= rows


@compiled
def add_deviations(
    z: Array, i: int, step: int, rows: int, left: int, right: int,
    centre: Array, total: Array, squares: Array,
) -> None:
    """total += Σ (z - centre) and squares += Σ (z - centre)², over rows i, i + step, ..."""
    if rows == ROWS:
        z0, z1 = z[i, left:right], z[i + step, left:right]
        z2, z3 = z[i + 2 * step, left:right], z[i + 3 * step, left:right]
        z4, z5 = z[i + 4 * step, left:right], z[i + 5 * step, left:right]
        z6, z7 = z[i + 6 * step, left:right], z[i + 7 * step, left:right]
        for j in range(right - left):
            c = centre[j]
            d0, d1, d2, d3 = z0[j] - c, z1[j] - c, z2[j] - c, z3[j] - c
            d4, d5, d6, d7 = z4[j] - c, z5[j] - c, z6[j] - c, z7[j] - c
            total[j] += ((d0 + d1) + (d2 + d3)) + ((d4 + d5) + (d6 + d7))
            s0, s1 = multiply_add(d1, d1, d0 * d0), multiply_add(d3, d3, d2 * d2)
            s2, s3 = multiply_add(d5, d5, d4 * d4), multiply_add(d7, d7, d6 * d6)
            squares[j] += (s0 + s1) + (s2 + s3)
    else:
        for r in range(rows):
            row = z[i + r * step, left:right]
            for j in range(right - left):
                d = row[j] - centre[j]
                total[j] += d
                squares[j] += d * d


@compiled
def extend(
    z: Array, i: int, step: int, rows: int, left: int, right: int, low: Array, high: Array
) -> None:
    """Extend each column's lowest and highest activation to rows i, i + step, ..."""
    if rows == ROWS:
        z0, z1 = z[i, left:right], z[i + step, left:right]
        z2, z3 = z[i + 2 * step, left:right], z[i + 3 * step, left:right]
        z4, z5 = z[i + 4 * step, left:right], z[i + 5 * step, left:right]
        z6, z7 = z[i + 6 * step, left:right], z[i + 7 * step, left:right]
        for j in range(right - left):
            a, b, c, d = z0[j], z1[j], z2[j], z3[j]
            e, f, g, h = z4[j], z5[j], z6[j], z7[j]
            up = larger(larger(larger(high[j], a), larger(b, c)), larger(d, e))
            high[j] = larger(up, larger(f, larger(g, h)))
            down = smaller(smaller(smaller(low[j], a), smaller(b, c)), smaller(d, e))
            low[j] = smaller(down, smaller(f, smaller(g, h)))
    else:
        for r in range(rows):
            row = z[i + r * step, left:right]
            for j in range(right - left):
                high[j] = larger(high[j], row[j])
                low[j] = smaller(low[j], row[j])


@compiled
def merge_tile(
    before: int, here: int, centre: Array, rest: Array, m2: Array, total: Array, squares: Array
) -> None:
    """Merge a tile of `here` samples into the moments of the `before` samples above it.

    total, squares: sums of deviations from `centre`, and of their squares; they start anew.
    The mean is centre + rest, so that the difference of two means keeps its digits however large
    both are; with the next tile's centre the mean itself, but for its last digits: rest.
    """
    old_share, new_share = before * here / (before + here), here / (before + here)
    for j in range(m2.shape[0]):
        shift = total[j] / here
        delta = shift - rest[j]
        # The clamp is for a last digit below zero.
        m2[j] += max(squares[j] - here * (shift * shift), 0.0) + delta * delta * old_share
        moved = rest[j] + delta * new_share
        mean = centre[j] + moved
        rest[j] = moved - (mean - centre[j])
        centre[j] = mean
        total[j] = squares[j] = 0.0


@compiled
def merge_blocks(samples: int, size: int, centre: Array, rest: Array, m2: Array) -> None:
    """Merge blocks of `size` samples (the last may be smaller) into the first, (blocks, n) each.

    Their means are centre + rest, as in `merge_tile`.
    """
    for b in range(1, centre.shape[0]):
        before, here = b * size, min(size, samples - b * size)
        old_share, new_share = before * here / (before + here), here / (before + here)
        for j in range(centre.shape[1]):
            delta = (centre[b, j] - centre[0, j]) + (rest[b, j] - rest[0, j])
            m2[0, j] += m2[b, j] + delta * delta * old_share
            moved = rest[0, j] + delta * new_share
            mean = centre[0, j] + moved
            rest[0, j] = moved - (mean - centre[0, j])
            centre[0, j] = mean


@compiled
def merge_rows(
    mean_a: Array, m2_a: Array, mean_b: Array, m2_b: Array, share: float, weight: float,
    mean: Array, m2: Array,
) -> None:
    """Merge the moments of two histories, without temporary arrays."""
    for j in range(mean.shape[0]):
        delta = mean_b[j] - mean_a[j]
        mean[j] = mean_a[j] + delta * share
        m2[j] = m2_a[j] + m2_b[j] + delta * delta * weight


def merge(
    mean_a: Array, m2_a: Array, mean_b: Array, m2_b: Array, share: float, weight: float
) -> tuple[Array, Array]:
    """Return mean and m2 of a and b samples: share is b / (a + b), weight a b / (a + b)."""
    mean, m2 = np.empty(mean_a.size), np.empty(mean_a.size)
    merge_rows(*map(column, (mean_a, m2_a, mean_b, m2_b)), share, weight, mean, m2)
    return mean.reshape(mean_a.shape), m2.reshape(mean_a.shape)


def column(values: Array) -> Array:
    """Return the values along one axis, not locked: for locked arrays Numba would compile anew."""
    flat = np.ascontiguousarray(values).reshape(-1)
    return flat if flat.flags.writeable else flat.copy()
