"""Scatter: put values in the places that an index names, and add up those that meet.

It is the transpose of gather, `x[index]`: the gradient of an embedding's rows, of an image's
windows, of a choice by labels. As in `sums.py`, what meets in one place is added in pairs.
"""

from __future__ import annotations

from typing import Any

from minimono.backend import Array, array_module
from minimono.kernels.seam import with_kernel


def scattered(values: Array, index: Any, shape: tuple[int, ...]) -> Array:
    """Return zeros of `shape` with `values` added at `index`: a place named twice gets both.

    >>> import numpy as np
    >>> scattered(np.array([1.0, 2.0, 4.0]), np.array([2, 0, 2]), (3,))
    array([2., 0., 5.])
    """
    target = array_module(values).zeros(shape, dtype=values.dtype)
    parts = index if isinstance(index, tuple) else (index,)
    if all(isinstance(p, int | slice | type(None) | type(...)) for p in parts):
        target[index] = values  # slices name no place twice
    else:
        scatter_add.on(target, values)(target, index, values)
    return target


@with_kernel("embedding", floats=True)
def scatter_add(target: Array, index: Any, values: Array) -> None:
    """`target[index] += values`, in place; what goes to one place is added in pairs, in order."""
    xp = array_module(target, values)
    places = xp.arange(target.size).reshape(target.shape)[index]
    values = xp.broadcast_to(values, places.shape).reshape(-1)
    places = places.reshape(-1)
    order = xp.argsort(places, kind="stable")
    places, values = places[order], values[order]
    while True:
        # The first of a place has rank 0; each of even rank takes the one behind it.
        new = xp.ones(len(places), dtype=bool)
        new[1:] = places[1:] != places[:-1]
        if bool(new.all()):
            break
        first_of = xp.flatnonzero(new)[new.cumsum() - 1]
        rank = xp.arange(len(places)) - first_of
        first = rank % 2 == 0
        pair = xp.flatnonzero(first[:-1] & ~new[1:])
        values[pair] = values[pair] + values[pair + 1]
        places, values = places[first], values[first]
    target_flat = target.reshape(-1)
    target_flat[places] += values
