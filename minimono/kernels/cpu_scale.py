"""Running versions of the metrics, for NumPy arrays: serial, float64 accumulators, no fastmath.

The reading versions are in `minimono.mono.moments` and `minimono.mono.scale`. The activations are
walked tile by tile, a tile being a block of samples and neurons that stays in the cache. So the two
passes of the moments read memory once; the tiles' moments are merged exactly, as batches are.

Each `*_py` function is plain Python; wrapped by a call below it, so that it can be stepped through.
"""

import numpy as np
from numba import njit

from minimono.backend import Array

SAMPLES, NEURONS = 64, 1024  # one tile: 256 kB of float32. Fastest of those tried.


def add_py(row: Array, total: Array) -> None:
    """total += row"""
    for j in range(row.shape[0]):
        total[j] += row[j]


def add_deviations_py(row: Array, mean: Array, total: Array, squares: Array) -> None:
    """total += row - mean and squares += (row - mean)², in one go."""
    for j in range(row.shape[0]):
        deviation = row[j] - mean[j]
        total[j] += deviation
        squares[j] += deviation * deviation


def merge_tile_py(
    before: int, here: int, origin: Array, rough: Array, rest: Array, squares: Array,
    mean: Array, m2: Array,
) -> None:  # fmt: skip
    """Merge a tile of `here` samples into the moments of the `before` samples above it.

    rough: the tile's mean but for rounding.   rest, squares: sums of deviations from it, and of
    their squares.   mean is counted from `origin`, so that the difference of two tiles' means keeps
    its digits however large both are.
    """
    for j in range(mean.shape[0]):
        shift = rest[j] / here
        tile_mean = (rough[j] - origin[j]) + shift
        # The clamp is for a last digit below zero.
        tile_m2 = max(squares[j] - here * (shift * shift), 0.0)
        if before == 0:
            mean[j] = tile_mean
            m2[j] = tile_m2
        else:
            delta = tile_mean - mean[j]
            mean[j] += delta * (here / (before + here))
            m2[j] += tile_m2 + delta * delta * (before * here / (before + here))


def moments_py(z: Array, mean: Array, m2: Array) -> None:
    """Mean and sum of squared deviations of each column of z, shape (B, n)."""
    sums = np.empty((3, min(NEURONS, z.shape[1])))
    origins = np.empty(min(NEURONS, z.shape[1]))
    for left in range(0, z.shape[1], NEURONS):
        right = min(left + NEURONS, z.shape[1])
        rough = sums[0, : right - left]
        rest = sums[1, : right - left]
        squares = sums[2, : right - left]
        origin = origins[: right - left]
        for top in range(0, z.shape[0], SAMPLES):
            bottom = min(top + SAMPLES, z.shape[0])
            sums[:] = 0.0
            for i in range(top, bottom):
                add(z[i, left:right], rough)
            for j in range(right - left):
                rough[j] /= bottom - top
                if top == 0:
                    origin[j] = rough[j]
            for i in range(top, bottom):
                add_deviations(z[i, left:right], rough, rest, squares)
            merge_tile(
                top, bottom - top, origin, rough, rest, squares, mean[left:right], m2[left:right]
            )
        for j in range(right - left):
            mean[left + j] += origin[j]


def scale_row_py(row: Array, mean: Array, denominator: Array, phi: Array) -> None:
    """phi = (row - mean)² / denominator; the square is not formed, so it cannot overflow."""
    for j in range(row.shape[0]):
        deviation = row[j] - mean[j]
        phi[j] = deviation / denominator[j] * deviation


def scale_py(z: Array, mean: Array, denominator: Array, phi: Array) -> None:
    """phi of every row of z, shape (B, n)."""
    for i in range(z.shape[0]):
        scale_row(z[i], mean, denominator, phi[i])


# error_model="numpy": dividing by zero gives inf or nan, as in NumPy, without a test per element.
add = njit(cache=True, error_model="numpy")(add_py)
add_deviations = njit(cache=True, error_model="numpy")(add_deviations_py)
merge_tile = njit(cache=True, error_model="numpy")(merge_tile_py)
moments = njit(cache=True, error_model="numpy")(moments_py)
scale_row = njit(cache=True, error_model="numpy")(scale_row_py)
scale_rows = njit(cache=True, error_model="numpy")(scale_py)


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
    # A copy of the mean, because Numba would compile anew for the locked arrays of `Moments`.
    scale_rows(flat, mean.reshape(-1).copy(), denominator.reshape(-1), phi)
    return phi.reshape(z.shape)


def _rows(z: Array) -> Array:
    return np.ascontiguousarray(z).reshape(z.shape[0], -1)
