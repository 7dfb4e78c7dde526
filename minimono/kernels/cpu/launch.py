"""How a kernel gets its arrays: as rows, or as one row that is cut into parts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minimono.backend import Array
from minimono.kernels.parallel import in_parts


def rows_of(x: Array) -> Array:
    """(..., C) -> (N, C), in one block of memory."""
    return np.ascontiguousarray(x).reshape(-1, x.shape[-1])


def flat(x: Array) -> Array:
    """(...) -> (N,), in one block of memory."""
    return np.ascontiguousarray(x).reshape(-1)


def each(kernel: Callable[..., None], *arrays: Array) -> None:
    """Run a kernel over arrays (N,) of one size, large ones in parts."""
    size = arrays[0].size
    in_parts(lambda part: kernel(*(a[part] for a in arrays)), size, size)
