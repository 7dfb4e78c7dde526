"""Who else holds an array, and has somebody written into it since it was used?

Tensors are values, but parameters get new ones, from optimisers and users. So an operation puts the
arrays that it has read on the tape (`Origin.seen`). Before its rule runs on the way back, each is
compared with the array that its tensor has now:

* A new array, from `p.data = new`, is another one than was seen. (Equal values are no fault.)
* Values written into the old array, by `p.data[0] = 1.0`, are compared with a copy. Only who has
  asked for `p.data` can write so, and no copy is made before that. If it was before the operation,
  `seen` holds a copy (`copy_of_lent`); if it was after, `Tensor.lent` is a copy of that moment.

Optimisers assign new arrays and ask for none, so in usual training nothing is copied or compared.
"""

from __future__ import annotations

from sys import getrefcount
from typing import Any

import numpy as np

from minimono.backend import Array
from minimono.engine.tensor import Tensor


def own_constant(argument: Any) -> Any:
    """Return a copy of an array that came beside tensors, for the tape. Tensors stay themselves."""
    is_array = hasattr(argument, "dtype") and not isinstance(argument, Tensor)
    return argument.copy() if is_array else argument


def copy_of_lent(argument: Any, array: Any) -> Any:
    """Return the array of an argument, as a copy if somebody outside may write into it."""
    lent = isinstance(argument, Tensor) and argument.lent is not None
    return array.copy() if lent else array


def check_unchanged(node: Tensor) -> None:
    """Raise RuntimeError if `node`, or an argument, has other values now than when it was made.

    The rule of its operation would take them for those of the forward pass.
    """
    assert node.origin is not None
    operation, arguments, _, _, arrays = node.origin
    stale = node.array is not arrays[-1] and not _same_values(node.array, arrays[-1])
    for argument, seen in zip(arguments, arrays, strict=False):  # the last array is the result
        if isinstance(argument, Tensor):
            if argument.array is not seen:  # a new array, or `seen` is a copy
                stale = stale or not _same_values(argument.array, seen)
            elif argument.lent is not None:  # handed out after the operation
                stale = stale or not _same_values(seen, argument.lent)
    if stale:
        raise RuntimeError(
            f"backward: a value that {operation.name} used was changed after it was used, by an "
            "optimiser's step or by writing to `data`, and the gradient would mix old and new "
            "values; run the forward pass again, or go back before the change"
        )


def _same_values(x: Array, y: Array) -> bool:
    """Return whether two arrays hold the same, nan included. On a GPU this waits."""
    if type(x) is not type(y) or x.shape != y.shape or x.dtype != y.dtype:
        return False
    return x is y or bool(((x == y) | ((x != x) & (y != y))).all())


def is_view(node: Tensor) -> bool:
    """Return whether the array of `node` is a view of an argument's, and changes with it."""
    assert node.origin is not None
    base = node.array.base
    return base is not None and any(
        isinstance(a, Tensor) and (a.array is base or a.array.base is base)
        for a in node.origin.arguments
    )


def own_array(gradient: Tensor) -> Array:
    """Return the array of a gradient: itself if nothing else holds it, else a copy, in one block.

    A rule may hand one tensor, or one array, to two leaves, or hand on one that the user holds.
    """
    array = gradient.array
    if (
        type(array) is np.ndarray
        and array.base is None
        and array.flags.c_contiguous
        and getrefcount(gradient) == _HOLDERS
        and getrefcount(array) == _HOLDERS_OF_ARRAY
    ):
        return array
    return array.copy()


def _holders_of_a_new_tensor() -> tuple[int, int]:
    """Return the counts where nobody else holds a thing: they differ between versions of Python."""

    def own_array(gradient: Tensor) -> tuple[int, int]:  # as the real one does it
        array = gradient.array
        return getrefcount(gradient), getrefcount(array)

    gradient = Tensor(np.zeros(1))
    return own_array(gradient)


_HOLDERS, _HOLDERS_OF_ARRAY = _holders_of_a_new_tensor()
