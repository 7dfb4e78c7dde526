"""The rows of an embedding on the CPU, and the scatter-add of their gradients."""

import math
from typing import Any

import numpy as np

from minimono.backend import Array
from minimono.kernels import Kept, Needed
from minimono.kernels.cpu.compiling import compiled
from minimono.kernels.cpu.launch import flat, rows_of


@compiled
def scatter_add_kernel(values: Array, ids: Array, order: Array, target: Array) -> None:
    """target[ids[i]] += values[i], with the i of one row after the other, as `order` has them."""
    channels = values.shape[1]
    sums, lost = np.empty(channels), np.empty(channels)
    i = 0
    while i < len(order):
        place = ids[order[i]]
        row = target[place]
        if i + 1 == len(order) or ids[order[i + 1]] != place:  # alone: nothing else to keep
            value = values[order[i]]
            for j in range(channels):
                row[j] += value[j]
            i += 1
            continue
        for j in range(channels):
            sums[j], lost[j] = row[j], 0.0
        while i < len(order) and ids[order[i]] == place:
            value = values[order[i]]
            for j in range(channels):
                # What each addition rounds off is added up apart (Knuth 1969, 4.2.2): as exact as
                # in pairs, also for float64.
                old, new = sums[j], sums[j] + value[j]
                added = new - old
                lost[j] += (old - (new - added)) + (value[j] - added)
                sums[j] = new
            i += 1
        for j in range(channels):  # of an infinite sum the rest is nan
            row[j] = sums[j] + lost[j] if math.isfinite(sums[j]) else sums[j]


@compiled
def order_kernel(ids: Array, ends: Array, order: Array) -> None:
    """Put into `order` the places of the ids 0, then those of the ids 1, ...; `ends` are zeros."""
    for i in range(len(ids)):
        ends[ids[i] + 1] += 1
    for row in range(1, len(ends)):
        ends[row] += ends[row - 1]
    for i in range(len(ids)):
        order[ends[ids[i]]] = i
        ends[ids[i]] += 1


def scatter_add_rows(target: Array, ids: Array, values: Array) -> None:
    """Add values (N, C) to target[ids], in place; ids (N,) may repeat, target is (R, C)."""
    if len(target) > 32 * len(ids):  # to count them all would take longer
        order = ids.argsort(kind="stable")
    else:
        order = np.empty(len(ids), np.intp)
        order_kernel(ids, np.zeros(len(target) + 1, np.intp), order)
    scatter_add_kernel(values, ids, order, target)


@compiled
def places_kernel(numbers: Array, n: int, places: Array) -> bool:
    """places = places n + numbers, counted from the end below 0; False if one is not in 0..n-1."""
    for i in range(len(numbers)):
        number = numbers[i] + n if numbers[i] < 0 else numbers[i]
        if not 0 <= number < n:
            return False
        places[i] = places[i] * n + number
    return True


def _places(parts: tuple[Array, ...], shape: tuple[int, ...]) -> Array:
    """Return where in the first axes of `shape`, as one, is what integer arrays name."""
    same = all(part.shape == parts[0].shape for part in parts)
    parts = parts if same else np.broadcast_arrays(*parts)
    places = np.zeros(parts[0].shape, np.intp)
    for n, part in zip(shape, parts, strict=False):
        if not places_kernel(flat(part.astype(np.intp, copy=False)), n, places.reshape(-1)):
            np.arange(n)[part]  # says which one is outside
    return places


def scatter_add(target: Array, index: Any, values: Array) -> None:
    """Add values to target[index], in place, for any index; places may repeat."""
    parts = index if isinstance(index, tuple) else (index,)
    if all(isinstance(p, np.ndarray) and p.dtype.kind in "iu" for p in parts) and (
        len(parts) <= target.ndim
    ):
        # They name places along the first axes, which become one, of rows that hold all others.
        left, places = target.shape[len(parts) :], _places(parts, target.shape)
    else:
        left, places = (), np.arange(target.size).reshape(target.shape)[index]
    if values.shape != places.shape + left:
        values = np.broadcast_to(values, places.shape + left)
    rows = np.ascontiguousarray(target).reshape(-1, math.prod(left))
    scatter_add_rows(rows, flat(places), np.ascontiguousarray(values).reshape(-1, rows.shape[1]))
    if not target.flags.c_contiguous:  # `rows` is a copy
        target[...] = rows.reshape(target.shape)


def rows_by_number_forward(weight: Array, ids: Array) -> tuple[Array, Kept]:
    return weight.take(ids, axis=0, mode="clip"), None  # all are in range; to ask takes longer


def rows_by_number_backward(
    needed: Needed, g: Array, out: Array, kept: Kept, weight: Array, ids: Array
) -> tuple[Array, ...]:
    gweight = np.zeros(weight.shape, weight.dtype)
    scatter_add_rows(gweight, flat(ids), rows_of(g))
    return (gweight,)
