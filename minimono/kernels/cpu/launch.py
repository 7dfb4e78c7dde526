"""How a kernel gets its arrays: as rows, or as one row, which several threads may share."""

from collections.abc import Callable, Sequence

import numpy as np

from minimono.backend import Array
from minimono.kernels.parallel import in_parts, parts_for


def rows_of(x: Array) -> Array:
    """(..., C) -> (N, C), in one block of memory."""
    return np.ascontiguousarray(x).reshape(-1, x.shape[-1])


def flat(x: Array) -> Array:
    """(...) -> (N,), in one block of memory."""
    return x.ravel()


def each(kernel: Callable[..., None], *arrays: Array, numbers: Sequence[float] = ()) -> None:
    """Run a kernel over the elements of arrays of one size, large ones in parts.

    What it writes to has to be in one block of memory.
    """
    rows = [a.ravel() for a in arrays]
    size = rows[0].size
    if parts_for(size, size) == 1:
        kernel(*rows, *numbers)
    else:
        in_parts(lambda part: kernel(*(row[part] for row in rows), *numbers), size, size)
