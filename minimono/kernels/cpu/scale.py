"""Running versions of the metrics, for NumPy arrays: everything about a batch in one pass over it.

The reading versions are in `mono/moments.py`, `mono/scale.py` and `mono/batch_scores.py`. The
batch is walked tile by tile, and a tile eight rows at a time: the first look reads them from
memory, and all else that is asked of them finds them in the cache. Long rows, because the processor
fetches ahead only where it sees memory read in order.

* What belongs to a neuron, its moments and extremes: `cpu/moments.py`. The highest φ of a neuron is
  at its lowest or highest activation, for φ grows with |z - mean|, and so does its rounded value.
* Which activations are selected, without working out φ: `cpu/selection.py`.
* φ itself, if it is to be stored: below.

Several threads have a part of the blocks of rows each, or of the neurons where there is one block.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from minimono.backend import Array
from minimono.kernels.cpu.compiling import compiled
from minimono.kernels.cpu.moments import (
    BLOCK,
    FIRST,
    NEURONS,
    ROWS,
    SAMPLES,
    add_deviations,
    column,
    extend,
    find_centre,
    merge_blocks,
    merge_tile,
)
from minimono.kernels.cpu.moments import merge as merge
from minimono.kernels.cpu.selection import (
    LANES,
    NOTHING,
    Limits,
    count_far,
    flag_row,
    highest,
    limits_of,
    prepare_distances,
    prepare_roots,
    scale_of,
    screen_row,
    settle,
)
from minimono.kernels.parallel import in_parts


@compiled
def scale_row(row: Array, mean: Array, denominator: Array, phi: Array) -> None:
    """Work out φ of a row."""
    for j in range(row.shape[0]):
        phi[j] = scale_of(row[j], mean[j], denominator[j])


@compiled
def scale_rows(z: Array, mean: Array, denominator: Array, phi: Array) -> bool:
    """Work out φ of every row of z (B, n); return whether all of z is finite."""
    nothing = np.zeros(z.shape[1], z.dtype)
    for i in range(z.shape[0]):
        row = z[i]
        scale_row(row, mean, denominator, phi[i])
        for j in range(row.shape[0]):
            nothing[j] += row[j] - row[j]  # nan or infinity makes it nan, for good
    finite = True
    for j in range(nothing.shape[0]):
        finite &= nothing[j] == 0.0
    return finite


@compiled
def score_rows(
    z: Array, before: int, start: int, stop: int,
    centre: Array, rest: Array, m2: Array, low: Array, high: Array,
    old_mean: Array, denominator: Array, threshold: float, limits: Limits,
    phi: Array, counts: Array, flags: Array, top: Array, index: Array,
) -> None:
    """Find everything about rows z (b, n) of a block, of which `before` rows came before.

    Of neurons `start` to `stop`: all, if the highest of samples are asked for. An array without
    entries is not asked for. The mean is centre + rest.
    """
    samples, neurons, k, count = z.shape[0], z.shape[1], top.shape[1], counts.shape[0] > 0
    work, seen = np.zeros((2, NEURONS)), np.zeros((2, NEURONS if count else 0), np.int32)
    bounds = np.empty((3, neurons if count else 0), z.dtype)
    roots = np.empty((2, neurons if k else 0), z.dtype)
    lanes = np.empty((SAMPLES, min(LANES, neurons) if k else 0), z.dtype)
    values, columns = np.empty(neurons, z.dtype), np.empty(neurons, np.int64)
    fold = np.empty(2 * LANES, z.dtype)
    if count:
        prepare_distances(old_mean, denominator, threshold, limits, bounds)
    if k:
        prepare_roots(old_mean, denominator, limits, roots)
    last = 0
    while last < samples:
        first, last = last, min(last + (SAMPLES if before + last else FIRST), samples)
        step = (last - first) // ROWS  # rows i, i + step, ... are read together
        single = (last - first) % ROWS  # rows at the end of the tile are read alone
        lanes[:] = NOTHING
        for left in range(start, stop, NEURONS):
            right = min(left + NEURONS, stop)
            n = right - left
            mean, divisor = old_mean[left:right], denominator[left:right]
            total, squares, sure, maybe = work[0, :n], work[1, :n], seen[0, :n], seen[1, :n]
            if before + first == 0:
                find_centre(z, step, left, right, centre[left:right])
            for group in range(step + single):
                i, rows = first + group, ROWS
                if group >= step:
                    i, rows = last - (step + single - group), 1
                add_deviations(z, i, step, rows, left, right, centre[left:right], total, squares)
                if low.shape[0]:
                    extend(z, i, step, rows, left, right, low[left:right], high[left:right])
                if count:
                    count_far(z, i, step, rows, left, right, bounds, sure, maybe)
                for r in range(rows):
                    at = i + r * step
                    if phi.shape[0]:
                        scale_row(z[at, left:right], mean, divisor, phi[at, left:right])
                    if count and flags.shape[0]:
                        flag_row(z[at, left:right], bounds, left, flags[at, left:right])
                    if k:
                        screen_row(z[at, left:right], roots, left, lanes[at - first])
                    if k and right == neurons:  # all of the row was seen
                        found = highest(
                            z[at], old_mean, denominator, lanes[at - first], limits, top[at],
                            index[at], values, columns, fold,
                        )
                        if flags.shape[0] and not count:
                            for c in range(found):  # of fewer than k, whose k-th is nan, all
                                flags[at, columns[c]] = not values[c] < top[at, k - 1]
            merge_tile(
                before + first, last - first, centre[left:right], rest[left:right],
                m2[left:right], total, squares,
            )
            if count:
                settle(
                    z, first, last, left, mean, divisor, threshold, sure, maybe,
                    counts[left:right], flags,
                )


def batch_moments(z: Array) -> tuple[Array, Array]:
    """Return mean and m2 of a batch: (B, *neurons) to two of shape neurons."""
    nothing = np.empty(0)
    found = survey(z, nothing, nothing)
    return found["mean"], found["m2"]


def scale(z: Array, mean: Array, denominator: Array) -> Array:
    """Return φ of a batch (B, *neurons), given mean and denominator, float64 of shape neurons."""
    return scale_and_check(z, mean, denominator)[0]


def scale_and_check(z: Array, mean: Array, denominator: Array) -> tuple[Array, bool]:
    """Return φ of a batch, and whether all of the batch is finite."""
    phi, finite = np.empty(z.shape, _dtype(z)), True
    flat = phi.reshape(len(z), -1)  # (B, n)
    mean, denominator = column(mean), column(denominator)

    def of_block(rows: Array, out: Array) -> bool:
        return all(
            in_parts(
                lambda part: scale_rows(rows[part], mean, denominator, out[part]),
                len(rows), rows.size,
            )
        )

    for rows, first in _blocks(z):
        finite &= of_block(rows, flat[first : first + len(rows)])
    return phi, finite


def survey(
    z: Array,
    mean: Array,
    denominator: Array,
    *,
    k: int = 0,
    threshold: float | None = None,
    extremes: bool = False,
    keep_phi: bool = False,
    flag: bool = False,
) -> dict[str, Array]:
    """What one pass over a batch (B, *neurons) finds: see the formula in `mono.batch_scores`."""
    tau = np.nan if threshold is None else float(threshold)
    samples, neurons, dtype = len(z), z.size // len(z), _dtype(z)
    size = min(BLOCK, samples)
    of_blocks = -(-samples // size), neurons
    centre, rest, m2 = np.empty(of_blocks), np.zeros(of_blocks), np.zeros(of_blocks)
    low = np.full((of_blocks[0], neurons if extremes else 0), np.inf, dtype)
    high = -low
    counts = np.zeros((of_blocks[0], 0 if threshold is None else neurons), np.int64)
    phi = np.empty((samples if keep_phi else 0, neurons), dtype)
    flags = np.zeros((samples if flag else 0, neurons), bool)
    few = k if k <= LANES else 0  # for more, lanes tell nothing
    top, index = np.empty((samples, few), dtype), np.empty((samples, few), np.int64)
    limits = limits_of(dtype)
    old_mean, denominator = column(mean), column(denominator)

    def of_rows(b: int, rows: Array, first: int) -> None:
        here = slice(b * size + first, b * size + first + len(rows))

        def run(part: slice) -> None:
            score_rows(
                rows, first, part.start, part.stop, centre[b], rest[b], m2[b], low[b], high[b],
                old_mean, denominator, tau, limits,
                phi[here], counts[b], flags[here], top[here], index[here],
            )

        # No neuron's digits depend on others. The highest of a sample need all neurons at once.
        in_parts(run, neurons, 0 if few else rows.size)

    def of_blocks_in(part: slice) -> None:
        for b in range(part.start, part.stop):
            for rows, first in _blocks(z[b * size : (b + 1) * size]):
                of_rows(b, rows, first)

    in_parts(of_blocks_in, len(centre), z.size)
    if len(centre) > 1:
        merge_blocks(samples, size, centre, rest, m2)
    if k > few:
        top, index = _sorted_top(z, old_mean, denominator, k, flags)
    of_neuron = {"mean": centre[0], "m2": m2[0]}  # rest is less than the mean's last digit
    if extremes:
        of_neuron |= {"low": low.min(axis=0), "high": high.max(axis=0)}
    if threshold is not None:
        of_neuron["counts"] = counts.sum(axis=0)
    found: dict[str, Any] = {name: a.reshape(z.shape[1:]) for name, a in of_neuron.items()}
    if keep_phi:
        found["phi"] = phi.reshape(z.shape)
    if k:
        found |= {"top": top, "top_index": index}
    if flag:
        found["flags"] = flags.reshape(z.shape)
    return found


def _sorted_top(
    z: Array, mean: Array, denominator: Array, k: int, flags: Array
) -> tuple[Array, Array]:
    """Sort for the k highest φ of each sample and their places; fill flags if it has rows."""
    top, index = np.empty((len(z), k), _dtype(z)), np.empty((len(z), k), np.int64)
    for first in range(0, len(z), SAMPLES):
        here = slice(first, first + SAMPLES)
        phi = scale(z[here], mean, denominator).reshape(-1, len(mean))  # (b, n)
        falling = np.argsort(-phi, axis=1, kind="stable")[:, :k]  # nan last
        top[here] = np.take_along_axis(phi, falling, axis=1)
        index[here] = np.where(np.isnan(top[here]), -1, falling)
        if len(flags):
            least = np.fmin.reduce(top[here], axis=1, keepdims=True)  # nan only if all are
            flags[here] = phi >= least
    return top, index


def _dtype(z: Array) -> np.dtype[Any]:
    """Return what z is scored in: float32 or float64."""
    known = z.dtype.isnative and z.dtype.type in (np.float32, np.float64)
    return z.dtype if known else np.dtype(np.float64)


def _blocks(z: Array) -> Iterator[tuple[Array, int]]:
    """Yield (B, *neurons) as blocks of rows (b, n) with the number of their first sample.

    One block is the whole, if it can be.

    What is of another dtype, or scattered in memory, is copied block by block.
    """
    if z.flags.c_contiguous and z.dtype == _dtype(z):
        yield z.reshape(len(z), -1), 0  # (B, *neurons) -> (B, n)
        return
    first = 0
    while first < len(z):
        rows = z[first : first + (SAMPLES if first else FIRST)]  # tiles, for the same digits
        yield np.ascontiguousarray(rows, _dtype(z)).reshape(len(rows), -1), first  # (b, n)
        first += len(rows)
