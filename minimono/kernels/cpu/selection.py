"""Running versions of selection: which φ are the highest of a sample, which reach a threshold.

Both are asked of sqrt φ = |z - mean| / sqrt(denominator), in the activations' own dtype and without
a division, so fast but only almost right. How wrong it can be is known; φ as `scale_of` defines it
is worked out only where that leaves a doubt. What is found is therefore what φ itself would give.

How wrong: a mean rounded to float32 is off by δ, so |z - mean| by δ and by its own rounding. In
units of sqrt(denominator) δ may be `slack` at most; a neuron whose δ is more (its spread is tiny
beside its mean), or whose numbers leave the dtype's range, is looked at anyway. All that is only
rounded is covered by `MARGIN` roundings.
"""

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from minimono.backend import Array
from minimono.kernels.cpu.compiling import compiled
from minimono.kernels.cpu.instructions import larger, smaller
from minimono.kernels.cpu.moments import ROWS
from minimono.kernels.cpu.sums import largest

LANES = 128  # neuron j of a sample is in lane j % LANES
MARGIN = 16.0  # roundings; at most eight happen
NOTHING = -1.0  # below every sqrt φ


class Limits(NamedTuple):
    """What can be told apart in the activations' dtype."""

    margin: float  # relative: MARGIN roundings
    slack: float  # of sqrt φ, absolute
    tiny: float  # between these two roundings are relative
    huge: float


@cache
def limits_of(dtype: Any) -> Limits:
    info = np.finfo(dtype)
    slack = 0.0 if info.dtype == np.float64 else 2.0**-12  # our choice: lets pass mean = 4096 sd
    return Limits(MARGIN * float(info.eps), slack, 1e3 * float(info.tiny), 1e-3 * float(info.max))


@compiled
def scale_of(z: float, mean: float, denominator: float) -> Any:
    """Return (z - mean)² / denominator; the square is not formed, so it cannot overflow."""
    deviation = z - mean
    return deviation / denominator * deviation


# ---- the highest of each sample ----------------------------------------------------------------


@compiled
def prepare_roots(mean: Array, denominator: Array, limits: Limits, roots: Array) -> None:
    """Prepare sqrt φ as |z - near| · inverse, about; infinite where that is not known.

    roots: near and inverse, (2, n).
    """
    near, inverse = roots[0], roots[1]
    for j in range(mean.shape[0]):
        at, scale = roots.dtype.type(mean[j]), 1.0 / np.sqrt(denominator[j])
        off = abs(mean[j] - at) * scale
        unknown = (off > limits.slack) | (scale < limits.tiny) | (scale > limits.huge)  # not nan
        near[j] = -np.inf if unknown else at
        inverse[j] = 1.0 if unknown else scale


@compiled
def screen_row(row: Array, roots: Array, left: int, lanes: Array) -> None:
    """Raise each lane to the highest sqrt φ of (a part of) a row; nan is passed over.

    left: the first neuron of the part, a multiple of LANES.
    """
    near, inverse = roots[0, left : left + row.shape[0]], roots[1, left : left + row.shape[0]]
    whole = row.shape[0] - row.shape[0] % (4 * LANES)
    for start in range(0, whole, 4 * LANES):
        end = start + 4 * LANES
        z, m, v = row[start:end], near[start:end], inverse[start:end]
        for j in range(LANES):
            x0 = abs(z[j] - m[j]) * v[j]
            x1 = abs(z[j + LANES] - m[j + LANES]) * v[j + LANES]
            x2 = abs(z[j + 2 * LANES] - m[j + 2 * LANES]) * v[j + 2 * LANES]
            x3 = abs(z[j + 3 * LANES] - m[j + 3 * LANES]) * v[j + 3 * LANES]
            lanes[j] = larger(x3, larger(x2, larger(x1, larger(x0, lanes[j]))))
    nothing = lanes.dtype.type(NOTHING)
    for start in range(whole, row.shape[0], LANES):
        end = start + LANES
        z, m, v = row[start:end], near[start:end], inverse[start:end]
        for j in range(z.shape[0]):
            lanes[j] = larger(abs(z[j] - m[j]) * v[j], larger(nothing, lanes[j]))


@compiled
def kth_highest(lanes: Array, best: Array, fold: Array) -> Any:
    """Return a lower bound, nearly the k-th highest lane; below 0 if there is none. best: k places.

    Lanes are folded, the higher of two staying, while there are many more than k. Each that stays
    is the sqrt φ, but for rounding, of another neuron, so k neurons are at least as high as the
    k-th highest of them. Infinite lanes, of which nothing is known, are left out.
    """
    k, width, start = best.shape[0], lanes.shape[0], 0
    nothing = lanes.dtype.type(NOTHING)
    for j in range(width):
        fold[j] = lanes[j] if lanes[j] < np.inf else nothing
    if k == 1:
        best[0] = largest(fold[:width])
        return best[0]
    while width >= 4 * k and width % 2 == 0:
        above, below = fold[start : start + width // 2], fold[start + width // 2 : start + width]
        start += width
        width //= 2
        into = fold[start : start + width]
        for j in range(width):
            into[j] = larger(above[j], below[j])
    for i in range(k):
        best[i] = NOTHING
    for x in fold[start : start + width]:  # best falls
        if x > best[k - 1]:
            for i in range(k):  # no branch that the processor could guess wrong
                best[i], x = larger(x, best[i]), smaller(x, best[i])
    return best[k - 1]


@compiled
def highest(
    row: Array, mean: Array, denominator: Array, lanes: Array, limits: Limits,
    top: Array, index: Array, values: Array, columns: Array, fold: Array,
) -> int:
    """Find the k highest φ of a row, falling, of equal ones the first first; else nan and -1.

    top, index: (k,).   values, columns: for all that may be among them; returns how many.
    fold: room for twice the lanes.
    """
    k = top.shape[0]
    least_root = kth_highest(lanes, top, fold) * (1.0 - limits.margin) - limits.slack
    least_lane = least = 0.0
    if least_root > 0.0 and limits.tiny < least_root * least_root < limits.huge:
        least = least_root * least_root * (1.0 - limits.margin)  # k scores are no less
        least_lane = max((least_root - limits.slack) * (1.0 - limits.margin), 0.0)
    found = kept = 0
    for lane in range(lanes.shape[0]):
        if lanes[lane] >= least_lane:
            for j in range(lane, row.shape[0], LANES):
                values[found] = scale_of(row[j], mean[j], denominator[j])
                value = values[found]  # rounded to its dtype
                if value >= least:  # not nan
                    columns[found] = j
                    found += 1
                    if kept < k or value > top[k - 1] or (value == top[k - 1] and j < index[k - 1]):
                        kept = min(kept + 1, k)
                        i = kept - 1
                        while i > 0 and (
                            value > top[i - 1] or (value == top[i - 1] and j < index[i - 1])
                        ):
                            top[i], index[i] = top[i - 1], index[i - 1]
                            i -= 1
                        top[i], index[i] = value, j
    for i in range(kept, k):
        top[i], index[i] = np.nan, -1
    return found


# ---- all that reach a threshold ----------------------------------------------------------------


@compiled
def prepare_distances(
    mean: Array, denominator: Array, threshold: float, limits: Limits, bounds: Array
) -> None:
    """Prepare: φ >= threshold where |z - near| >= sure, and only where |z - near| >= maybe.

    bounds: near, sure and maybe, (3, n). Where nothing is known, sure is infinite, maybe -infinite.
    """
    near, sure, maybe = bounds[0], bounds[1], bounds[2]
    known = limits.tiny < threshold < limits.huge
    root, more = np.sqrt(max(threshold, 0.0)), 1.0 + limits.margin
    for j in range(mean.shape[0]):
        at, exact = bounds.dtype.type(mean[j]), root * np.sqrt(denominator[j])
        off = abs(mean[j] - at)
        unknown = (off > limits.huge) | (exact < limits.tiny) | (exact > limits.huge)  # not nan
        width = np.inf if unknown or not known else (off + limits.margin * exact) * more
        nothing = denominator[j] != denominator[j] or mean[j] != mean[j]  # φ is nan
        near[j] = at
        sure[j] = np.nan if nothing else exact + width
        maybe[j] = np.nan if nothing else (-np.inf if width == np.inf else exact - width)


@compiled
def count_far(
    z: Array, i: int, step: int, rows: int, left: int, right: int, bounds: Array,
    sure: Array, maybe: Array,
) -> None:
    """Count which of rows i, i + step, ... are surely, and which maybe, far from each mean."""
    near, least, less = bounds[0, left:right], bounds[1, left:right], bounds[2, left:right]
    if rows == ROWS:
        z0, z1 = z[i, left:right], z[i + step, left:right]
        z2, z3 = z[i + 2 * step, left:right], z[i + 3 * step, left:right]
        z4, z5 = z[i + 4 * step, left:right], z[i + 5 * step, left:right]
        z6, z7 = z[i + 6 * step, left:right], z[i + 7 * step, left:right]
        for j in range(right - left):
            m, s, t = near[j], least[j], less[j]
            a, b, c, d = abs(z0[j] - m), abs(z1[j] - m), abs(z2[j] - m), abs(z3[j] - m)
            e, f, g, h = abs(z4[j] - m), abs(z5[j] - m), abs(z6[j] - m), abs(z7[j] - m)
            sure[j] += (
                np.int32(a >= s) + np.int32(b >= s) + np.int32(c >= s) + np.int32(d >= s)
                + np.int32(e >= s) + np.int32(f >= s) + np.int32(g >= s) + np.int32(h >= s)
            )
            maybe[j] += (
                np.int32(a >= t) + np.int32(b >= t) + np.int32(c >= t) + np.int32(d >= t)
                + np.int32(e >= t) + np.int32(f >= t) + np.int32(g >= t) + np.int32(h >= t)
            )
    else:
        for r in range(rows):
            row = z[i + r * step, left:right]
            for j in range(right - left):
                x = abs(row[j] - near[j])
                sure[j] += np.int32(x >= least[j])
                maybe[j] += np.int32(x >= less[j])


@compiled
def flag_row(row: Array, bounds: Array, left: int, flags: Array) -> None:
    """Flag what is surely far from its mean, of a part of a row from neuron `left` on."""
    near, sure = bounds[0, left : left + row.shape[0]], bounds[1, left : left + row.shape[0]]
    for j in range(row.shape[0]):
        flags[j] = abs(row[j] - near[j]) >= sure[j]


@compiled
def settle(
    z: Array, first: int, last: int, left: int, mean: Array, denominator: Array, threshold: float,
    sure: Array, maybe: Array, counts: Array, flags: Array,
) -> None:
    """Add up how many φ of rows first to last reach the threshold, of neurons from `left` on.

    Where some may and may not, φ is worked out, and flagged if there are flags. The counts of the
    rows start anew.
    """
    for j in range(mean.shape[0]):
        if sure[j] == maybe[j]:
            counts[j] += sure[j]
        else:
            for i in range(first, last):
                phi = z.dtype.type(scale_of(z[i, left + j], mean[j], denominator[j]))
                reached = np.float64(phi) >= threshold
                counts[j] += reached
                if flags.shape[0]:
                    flags[i, left + j] = reached
        sure[j] = maybe[j] = 0
