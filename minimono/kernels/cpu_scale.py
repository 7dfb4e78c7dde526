"""Running versions of the metrics, for NumPy arrays: serial, float64 accumulators, no fastmath.

The reading versions are in `minimono.mono.moments`, `minimono.mono.scale` and
`minimono.mono.scale`. The activations are walked tile by tile, a tile being a block of samples
and neurons that stays in the cache: memory is read once, whatever is asked of a tile. The tiles'
moments are merged exactly, as batches are.

What makes it fast, and costs no digit:

* **Eight rows at a time.** A neuron's sums are loaded and stored once for eight samples.
* **A tile's sums are taken about its centre**, the mean of its first eight rows. That mean of s of
  h samples is never further from the tile's mean than sqrt(m2 / s), so the squares about it are at
  most (1 + h / s) m2: taking the difference out again loses three bits at worst, none as a rule.
* **The highest φ of a neuron is at its lowest or highest activation**: φ grows with |z - mean|, and
  so does its rounded value.
* **The highest φ of a sample: look where it can be.** A cheap product, off by a few roundings,
  gives the highest φ of each lane of a sample (every 128th neuron). φ as it is defined is worked
  out in those lanes only that can hold one of the k highest.

Each `*_py` function is plain Python; wrapped by a call below it, so that it can be stepped through.
"""

from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic, overload

from minimono.backend import Array

SAMPLES, NEURONS = 64, 512  # one tile: 128 kB of float32
LANES = 128  # a divisor of NEURONS
ROWS = 8  # `add_deviations` and `extend` are written out for eight


def larger(a: float, b: float) -> float:
    """a if a > b else b; b for nan."""
    return a if a > b else b


def smaller(a: float, b: float) -> float:
    """a if a < b else b; b for nan."""
    return a if a < b else b


# Compiled, the two are one instruction each: of the branch LLVM makes slow masked stores. It does
# so too where b was loaded from the place the result goes to; below, such a b is one level further
# in.


def _one_instruction(comparison: str) -> Any:
    @intrinsic  # type: ignore[untyped-decorator, unused-ignore]
    def choose(typing_context: Any, a: Any, b: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            x, y = arguments
            return builder.select(builder.fcmp_ordered(comparison, x, y), x, y)

        return (a(a, a), code) if a == b and isinstance(a, types.Float) else None

    return lambda a, b: lambda a, b: choose(a, b)  # type: ignore[call-arg, unused-ignore]


overload(larger)(_one_instruction(">"))
overload(smaller)(_one_instruction("<"))

# A tile is named by its edges: of a tile cut out, Numba would not know that rows are contiguous.


def find_centre_py(z: Array, top: int, bottom: int, left: int, right: int, centre: Array) -> None:
    """The mean of the first rows of a tile, but for rounding."""
    rows = min(ROWS, bottom - top)
    centre[:] = 0.0
    for i in range(top, top + rows):
        row = z[i, left:right]
        for j in range(row.shape[0]):
            centre[j] += row[j]
    for j in range(centre.shape[0]):
        centre[j] /= rows


def add_deviations_py(
    z: Array, top: int, bottom: int, left: int, right: int,
    centre: Array, total: Array, squares: Array,
) -> None:  # fmt: skip
    """total += Σ (z - centre) and squares += Σ (z - centre)², over the rows of a tile."""
    whole = bottom - (bottom - top) % ROWS
    for i in range(top, whole, ROWS):
        z0, z1 = z[i, left:right], z[i + 1, left:right]
        z2, z3 = z[i + 2, left:right], z[i + 3, left:right]
        z4, z5 = z[i + 4, left:right], z[i + 5, left:right]
        z6, z7 = z[i + 6, left:right], z[i + 7, left:right]
        for j in range(right - left):
            c = centre[j]
            d0, d1, d2, d3 = z0[j] - c, z1[j] - c, z2[j] - c, z3[j] - c
            d4, d5, d6, d7 = z4[j] - c, z5[j] - c, z6[j] - c, z7[j] - c
            total[j] += ((d0 + d1) + (d2 + d3)) + ((d4 + d5) + (d6 + d7))
            squares[j] += ((d0 * d0 + d1 * d1) + (d2 * d2 + d3 * d3)) + (
                (d4 * d4 + d5 * d5) + (d6 * d6 + d7 * d7)
            )
    for i in range(whole, bottom):
        row = z[i, left:right]
        for j in range(right - left):
            d = row[j] - centre[j]
            total[j] += d
            squares[j] += d * d


def merge_tile_py(
    before: int, here: int, origin: Array, centre: Array, total: Array, squares: Array,
    mean: Array, m2: Array,
) -> None:  # fmt: skip
    """Merge a tile of `here` samples into the moments of the `before` samples above it.

    total, squares: sums of deviations from `centre`, and of their squares.   mean is counted from
    `origin`, so that the difference of two tiles' means keeps its digits however large both are.
    """
    old_share, new_share = before * here / (before + here), here / (before + here)
    for j in range(mean.shape[0]):
        shift = total[j] / here
        tile_mean = (centre[j] - origin[j]) + shift
        # The clamp is for a last digit below zero.
        tile_m2 = max(squares[j] - here * (shift * shift), 0.0)
        if before == 0:
            mean[j] = tile_mean
            m2[j] = tile_m2
        else:
            delta = tile_mean - mean[j]
            mean[j] += delta * new_share
            m2[j] += tile_m2 + delta * delta * old_share


def add_tile_py(
    z: Array, top: int, bottom: int, left: int, right: int, work: Array, origins: Array,
    means: Array, m2s: Array,
) -> None:  # fmt: skip
    """Merge the moments of a tile into those of the rows above it; after the last, add the origin.

    origins: as many as neurons, or none where one tile holds all rows.
    """
    width = right - left
    centre, total, squares, origin = (
        work[0, :width], work[1, :width], work[2, :width], work[3, :width]
    )  # fmt: skip
    if origins.shape[0]:
        origin = origins[left:right]
    mean, m2 = means[left:right], m2s[left:right]
    find_centre(z, top, bottom, left, right, centre)
    total[:] = 0.0
    squares[:] = 0.0
    if top == 0:
        origin[:] = centre
    add_deviations(z, top, bottom, left, right, centre, total, squares)
    merge_tile(top, bottom - top, origin, centre, total, squares, mean, m2)
    if bottom == z.shape[0]:
        for j in range(width):
            mean[j] += origin[j]


def moments_py(z: Array, mean: Array, m2: Array) -> None:
    """Mean and sum of squared deviations of each column of z, shape (B, n)."""
    work = np.empty((4, NEURONS))
    origins = np.empty(z.shape[1] if z.shape[0] > SAMPLES else 0)
    for top in range(0, z.shape[0], SAMPLES):
        bottom = min(top + SAMPLES, z.shape[0])
        for left in range(0, z.shape[1], NEURONS):
            right = min(left + NEURONS, z.shape[1])
            add_tile(z, top, bottom, left, right, work, origins, mean, m2)


def scale_row_py(row: Array, mean: Array, denominator: Array, phi: Array) -> None:
    """phi = (row - mean)² / denominator; the square is not formed, so it cannot overflow."""
    for j in range(row.shape[0]):
        deviation = row[j] - mean[j]
        phi[j] = deviation / denominator[j] * deviation


def scale_py(z: Array, mean: Array, denominator: Array, phi: Array) -> None:
    """phi of every row of z, shape (B, n)."""
    for i in range(z.shape[0]):
        scale_row(z[i], mean, denominator, phi[i])


# ---- one pass: moments, extremes, the highest of each sample, counts ---------------------------


def extend_py(
    z: Array, top: int, bottom: int, left: int, right: int, low: Array, high: Array
) -> None:
    """Lowest and highest activation of each column so far, and of a tile."""
    whole = bottom - (bottom - top) % ROWS
    for i in range(top, whole, ROWS):
        z0, z1 = z[i, left:right], z[i + 1, left:right]
        z2, z3 = z[i + 2, left:right], z[i + 3, left:right]
        z4, z5 = z[i + 4, left:right], z[i + 5, left:right]
        z6, z7 = z[i + 6, left:right], z[i + 7, left:right]
        for j in range(right - left):
            a, b, c, d = z0[j], z1[j], z2[j], z3[j]
            e, f, g, h = z4[j], z5[j], z6[j], z7[j]
            up = larger(larger(larger(high[j], a), larger(b, c)), larger(d, e))
            high[j] = larger(up, larger(f, larger(g, h)))
            down = smaller(smaller(smaller(low[j], a), smaller(b, c)), smaller(d, e))
            low[j] = smaller(down, smaller(f, smaller(g, h)))
    for i in range(whole, bottom):
        row = z[i, left:right]
        for j in range(right - left):
            high[j] = larger(high[j], row[j])
            low[j] = smaller(low[j], row[j])


def invert_py(denominator: Array, inverse: Array) -> None:
    """1 / denominator; infinite where that would have lost digits: `highest` then looks at φ."""
    for j in range(inverse.shape[0]):
        inverse[j] = np.inf if denominator[j] > 1e300 else 1.0 / denominator[j]


def screen_row_py(row: Array, mean: Array, inverse: Array, lanes: Array) -> None:
    """The highest φ in each lane so far, and of a row: as a product, so not to the last digit.

    `larger` with the product first passes over nan.
    """
    whole = row.shape[0] - row.shape[0] % (4 * LANES)
    for start in range(0, whole, 4 * LANES):
        z = row[start : start + 4 * LANES]
        m, v = mean[start : start + 4 * LANES], inverse[start : start + 4 * LANES]
        for j in range(LANES):
            d0, d1 = z[j] - m[j], z[j + LANES] - m[j + LANES]
            d2, d3 = z[j + 2 * LANES] - m[j + 2 * LANES], z[j + 3 * LANES] - m[j + 3 * LANES]
            p0, p1 = d0 * d0 * v[j], d1 * d1 * v[j + LANES]
            p2, p3 = d2 * d2 * v[j + 2 * LANES], d3 * d3 * v[j + 3 * LANES]
            lanes[j] = larger(p3, larger(p2, larger(p1, larger(p0, lanes[j]))))
    for j in range(whole, row.shape[0]):
        d = row[j] - mean[j]
        lanes[j % LANES] = larger(d * d * inverse[j], lanes[j % LANES])


def screen_scores_py(phi: Array, lanes: Array) -> None:
    """The highest φ in each lane so far, and of a row of scores."""
    whole = phi.shape[0] - phi.shape[0] % (4 * LANES)
    for start in range(0, whole, 4 * LANES):
        p = phi[start : start + 4 * LANES]
        for j in range(LANES):
            most = larger(np.float64(p[j + LANES]), larger(np.float64(p[j]), lanes[j]))
            most = larger(np.float64(p[j + 2 * LANES]), most)
            lanes[j] = larger(np.float64(p[j + 3 * LANES]), most)
    for j in range(whole, phi.shape[0]):
        lanes[j % LANES] = larger(np.float64(phi[j]), lanes[j % LANES])


def kth_highest_py(values: Array, k: int) -> Any:
    """The k-th highest of some numbers, none of them nan."""
    if k == 1:
        a = b = c = d = values[0]  # four chains of comparisons, which do not wait for each other
        whole = values.shape[0] - values.shape[0] % 4
        for i in range(0, whole, 4):
            a, b = larger(values[i], a), larger(values[i + 1], b)
            c, d = larger(values[i + 2], c), larger(values[i + 3], d)
        for i in range(whole, values.shape[0]):
            a = larger(values[i], a)
        return larger(larger(a, b), larger(c, d))
    if k > 32:
        return np.partition(values, values.shape[0] - k)[values.shape[0] - k]
    best = np.full(k, -np.inf, values.dtype)  # rising; most values are turned away by the first
    for value in values:
        if value > best[0]:
            i = 0
            while i + 1 < k and best[i + 1] < value:
                best[i] = best[i + 1]
                i += 1
            best[i] = value
    return best[0]


def highest_py(
    row: Array, mean: Array, denominator: Array, lanes: Array, k: int,
    values: Array, columns: Array, margin: float, tiny: float, huge: float,
) -> int:  # fmt: skip
    """Columns of a row whose φ is at least its k-th highest, in front of `columns`; how many.

    The k-th highest of the lanes is not above the k-th highest of all, so what is below it is not
    wanted; `margin` covers the roundings of lanes and φ, outside `tiny` and `huge` nothing does.
    An infinite lane is not known well enough to leave out others.
    """
    bound = 0.0
    if k <= lanes.shape[0] and kth_highest(lanes, 1) < np.inf:
        kth = kth_highest(lanes, k)
        if kth > tiny:
            bound = min(kth, huge) * (1.0 - margin)
    found = 0
    for lane in range(lanes.shape[0]):
        if lanes[lane] >= bound:
            for j in range(lane, row.shape[0], LANES):
                deviation = row[j] - mean[j]
                values[found] = deviation / denominator[j] * deviation
                columns[found] = j
                if values[found] >= bound:  # not nan
                    found += 1
    if found <= k:
        return found
    least = kth_highest(values[:found], k)
    kept = 0
    for i in range(found):
        if values[i] >= least:
            values[kept], columns[kept] = values[i], columns[i]
            kept += 1
    return kept


def score_py(
    z: Array, old_mean: Array, denominator: Array, k: int, threshold: float, extremes: bool,
    margin: float, tiny: float, huge: float,
    mean: Array, m2: Array, low: Array, high: Array, counts: Array, phi: Array,
) -> tuple[Array, Array]:  # fmt: skip
    """All of `mono.scale.score_batch` in one pass over z, shape (B, n).

    phi is written if it has rows; `threshold` nan counts nothing.
    Returns the flat places of the k highest of each sample, ties included, and their φ.
    """
    samples, neurons = z.shape
    work, inverses = np.empty((4, NEURONS)), np.empty(NEURONS)
    origins = np.empty(neurons if samples > SAMPLES else 0)
    lanes = np.empty((SAMPLES, min(LANES, neurons)))
    scratch = np.empty(NEURONS, z.dtype)
    values, columns = np.empty(neurons + 1, z.dtype), np.empty(neurons + 1, np.int64)
    places, scores = np.empty(samples * k, np.int64), np.empty(samples * k, z.dtype)
    filled = 0
    every = phi.shape[0] > 0 or not np.isnan(threshold)  # φ itself, of every activation
    for top in range(0, samples, SAMPLES):
        bottom = min(top + SAMPLES, samples)
        lanes[:] = -1.0
        for left in range(0, neurons, NEURONS):
            right = min(left + NEURONS, neurons)
            add_tile(z, top, bottom, left, right, work, origins, mean, m2)
            if extremes:
                extend(z, top, bottom, left, right, low[left:right], high[left:right])
            if every:
                for i in range(top, bottom):
                    row = phi[i, left:right] if phi.shape[0] else scratch[: right - left]
                    scale_row(z[i, left:right], old_mean[left:right], denominator[left:right], row)
                    if k:
                        screen_scores(row, lanes[i - top])
                    if not np.isnan(threshold):
                        for j in range(right - left):
                            counts[left + j] += row[j] >= threshold
            elif k:
                inverse = inverses[: right - left]
                invert(denominator[left:right], inverse)
                for i in range(top, bottom):
                    screen_row(z[i, left:right], old_mean[left:right], inverse, lanes[i - top])
        if k:
            for i in range(top, bottom):
                found = highest(
                    z[i], old_mean, denominator, lanes[i - top], k, values, columns,
                    margin, tiny, huge,
                )  # fmt: skip
                if filled + found > places.shape[0]:
                    places = np.append(places, np.empty(places.shape[0] + found, np.int64))
                    scores = np.append(scores, np.empty(scores.shape[0] + found, z.dtype))
                for c in range(found):
                    places[filled + c] = i * neurons + columns[c]
                    scores[filled + c] = values[c]
                filled += found
    return places[:filled], scores[:filled]


def merge_py(
    a: int, mean_a: Array, m2_a: Array, b: int, mean_b: Array, m2_b: Array, mean: Array, m2: Array
) -> None:
    """`Moments.merge`, without its temporary arrays."""
    share, weight = b / (a + b), a * b / (a + b)
    for j in range(mean.shape[0]):
        delta = mean_b[j] - mean_a[j]
        mean[j] = mean_a[j] + delta * share
        m2[j] = m2_a[j] + m2_b[j] + delta * delta * weight


# error_model="numpy": dividing by zero gives inf or nan, as in NumPy, without a test per element.
find_centre = njit(cache=True, error_model="numpy")(find_centre_py)
add_deviations = njit(cache=True, error_model="numpy")(add_deviations_py)
merge_tile = njit(cache=True, error_model="numpy")(merge_tile_py)
add_tile = njit(cache=True, error_model="numpy")(add_tile_py)
moments = njit(cache=True, error_model="numpy")(moments_py)
scale_row = njit(cache=True, error_model="numpy")(scale_row_py)
scale_rows = njit(cache=True, error_model="numpy")(scale_py)
extend = njit(cache=True, error_model="numpy")(extend_py)
invert = njit(cache=True, error_model="numpy")(invert_py)
screen_row = njit(cache=True, error_model="numpy")(screen_row_py)
screen_scores = njit(cache=True, error_model="numpy")(screen_scores_py)
kth_highest = njit(cache=True, error_model="numpy")(kth_highest_py)
highest = njit(cache=True, error_model="numpy")(highest_py)
score_rows = njit(cache=True, error_model="numpy")(score_py)
merge_rows = njit(cache=True, error_model="numpy")(merge_py)


def batch_moments(z: Array) -> tuple[Array, Array]:
    """Mean and m2 of a batch, shape (B, *neurons) to two of shape neurons."""
    flat = _rows(z)  # (B, n)
    mean, m2 = np.empty(flat.shape[1]), np.empty(flat.shape[1])
    moments(flat, mean, m2)
    return mean.reshape(z.shape[1:]), m2.reshape(z.shape[1:])


def scale(z: Array, mean: Array, denominator: Array) -> Array:
    """phi of a batch, shape (B, *neurons), given mean and denominator, shape neurons, float64."""
    flat = _rows(z)  # (B, n)
    phi = np.empty_like(flat)
    scale_rows(flat, _column(mean), _column(denominator), phi)
    return phi.reshape(z.shape)


def score(
    z: Array,
    mean: Array,
    denominator: Array,
    *,
    k: int = 0,
    threshold: float = np.nan,
    extremes: bool = False,
    keep_phi: bool = False,
) -> dict[str, Array]:
    """What one pass over a batch (B, *neurons) finds, by name.

    "mean", "m2"; "low", "high" if `extremes`; "counts" if `threshold`: of shape neurons.
    "phi" or None. "places", "scores": of the k highest of each sample, ties included.
    """
    flat = _rows(z)  # (B, n)
    neurons = flat.shape[1]
    batch_mean, m2 = np.empty(neurons), np.empty(neurons)
    low = np.full(neurons if extremes else 0, np.inf, flat.dtype)
    counts = np.zeros(0 if np.isnan(threshold) else neurons, np.int64)
    phi = np.empty((len(flat) if keep_phi else 0, neurons), flat.dtype)
    limits = np.finfo(flat.dtype)
    high = -low
    places, scores = score_rows(
        flat, _column(mean), _column(denominator), k, threshold, extremes,
        4.0 * float(limits.eps), 1e3 * float(limits.tiny), float(limits.max),
        batch_mean, m2, low, high, counts, phi,
    )  # fmt: skip
    found = {"mean": batch_mean, "m2": m2}
    if extremes:
        found |= {"low": low, "high": high}
    if not np.isnan(threshold):
        found["counts"] = counts
    found = {name: a.reshape(z.shape[1:]) for name, a in found.items()}
    kept = phi.reshape(z.shape) if keep_phi else None
    return found | {"phi": kept, "places": places, "scores": scores}


def sorted_top(
    found: dict[str, Array], samples: int, neurons: int, k: int
) -> tuple[Array | None, Array | None]:
    """(B, k) scores and indices of the k highest of each sample, from what `score` found."""
    if k == 0:
        return None, None
    scores = found["scores"]
    sample, index = np.divmod(found["places"], neurons)
    order = np.lexsort((index, -scores, sample))
    sample, index, scores = sample[order], index[order], scores[order]
    rank = np.arange(len(sample)) - np.searchsorted(sample, sample)  # within its sample
    kept = rank < k
    top = np.full((samples, k), np.nan, scores.dtype)
    top_index = np.full((samples, k), -1)
    top[sample[kept], rank[kept]] = scores[kept]
    top_index[sample[kept], rank[kept]] = index[kept]
    return top, top_index


def flags(found: dict[str, Array], z: Array, mean: Array, denominator: Array) -> Array:
    """`select_top_k`, ties included, from what `score` found: booleans of z's shape."""
    flagged = np.zeros(z.shape, bool)
    flagged.reshape(-1)[found["places"]] = True
    return flagged


def merge(
    a: int, mean_a: Array, m2_a: Array, b: int, mean_b: Array, m2_b: Array
) -> tuple[Array, Array]:
    """Mean and m2 of a and b samples together."""
    mean, m2 = np.empty(mean_a.size), np.empty(mean_a.size)
    merge_rows(a, _column(mean_a), _column(m2_a), b, _column(mean_b), _column(m2_b), mean, m2)
    return mean.reshape(mean_a.shape), m2.reshape(mean_a.shape)


def _rows(z: Array) -> Array:
    return np.ascontiguousarray(z).reshape(z.shape[0], -1)


def _column(values: Array) -> Array:
    """One axis, not locked: for the locked arrays of `Moments` Numba would compile anew."""
    flat = np.ascontiguousarray(values).reshape(-1)
    return flat if flat.flags.writeable else flat.copy()
