"""Which activations to act on: the ones with the highest monosemantic scale.

Every function takes scores φ of shape (B, *neurons), axis 0 the samples, and returns a mask of the
same shape. A neuron is an element of the other axes: (position, channel) in a sequence,
(channel, y, x) in a feature map. nan is never flagged; infinity is a number like any other, above
(or below) all finite ones: float32 scores do overflow.
"""

import math
from typing import Literal

from minimono.backend import Array, array_module
from minimono.checks import as_written, real_number, whole_number
from minimono.mono.moments import as_activations


def select_top_k(
    phi: Array,
    k: int,
    *,
    per: Literal["sample", "batch"] = "sample",
    ties: Literal["all", "first"] = "all",
) -> Array:
    """Flag the k highest scores of each sample, or of the whole batch.

    ties="all" flags every element that is at least the k-th highest, so more than k if several
    equal it (the authors' code, with k = 1 per sample). ties="first" flags exactly k: among the
    equal, the first in C order. Where fewer than k scores are not nan, all of those are flagged.

    >>> import numpy as np
    >>> phi = np.array([[1.0, 5.0, 5.0], [np.nan, 2.0, 1.0]])
    >>> select_top_k(phi, 1)
    array([[False,  True,  True],
           [False,  True, False]])
    >>> select_top_k(phi, 1, per="batch", ties="first")
    array([[False,  True, False],
           [False, False, False]])
    """
    phi = as_activations(phi, "select_top_k: phi")
    size = _group_size(phi, per, "select_top_k")
    k = whole_number(k, f"select_top_k: k, with {size} scores per {per}", least=1)
    if k > size:
        raise ValueError(f"select_top_k: k is {k}, but there are only {size} scores per {per}")
    return _top(phi, size, k, ties, "select_top_k")


def select_top_fraction(
    phi: Array,
    fraction: float,
    *,
    per: Literal["sample", "batch"] = "sample",
    ties: Literal["all", "first"] = "all",
) -> Array:
    """Flag the highest `fraction` of the scores: `select_top_k` with k = ⌈fraction · size⌉.

    size: neurons of a sample, or scores in the batch, nan included. 0 < fraction <= 1, so k is at
    least 1. The fraction is taken as the decimal it is written as, also if it is one of NumPy's
    numbers: 0.07 of 100 is 7, where ⌈0.07 * 100⌉ in floating point is 8.

    >>> import numpy as np
    >>> select_top_fraction(np.array([[1.0, 4.0, 2.0, 3.0]]), 0.5)
    array([[False,  True, False,  True]])
    """
    phi = as_activations(phi, "select_top_fraction: phi")
    size = _group_size(phi, per, "select_top_fraction")
    share = as_written(fraction, "select_top_fraction: fraction")
    if not 0 < share <= 1:
        raise ValueError(
            f"select_top_fraction: fraction is {fraction}, expected more than 0 and at most 1"
        )
    k = math.ceil(share * size)
    return _top(phi, size, k, ties, "select_top_fraction")


def select_above(phi: Array, threshold: float) -> Array:
    """Flag the scores that are at least `threshold`, compared in float64.

    >>> import numpy as np
    >>> select_above(np.array([[1.0, 9.0, np.nan]]), 9)
    array([[False,  True, False]])
    """
    scores = as_activations(phi, "select_above: phi")
    threshold = real_number(threshold, "select_above: threshold")
    if math.isnan(threshold):
        raise ValueError("select_above: threshold is nan, expected a number")
    xp = array_module(scores)
    # An array, because NumPy would round a Python number to float32 before it compares.
    return scores >= xp.asarray(threshold, dtype=xp.float64)


def _group_size(phi: Array, per: str, name: str) -> int:
    """How many scores are ranked together."""
    if per not in ("sample", "batch"):
        raise ValueError(f'{name}: per is {per!r}, expected "sample" or "batch"')
    return int(phi.size) // (len(phi) if per == "sample" else 1)


def _top(phi: Array, size: int, k: int, ties: str, name: str) -> Array:
    """The k highest of every `size` scores."""
    if ties not in ("all", "first"):
        raise ValueError(f'{name}: ties is {ties!r}, expected "all" or "first"')
    xp = array_module(phi)
    groups = phi.reshape(-1, size)  # (groups, size)
    number = ~xp.isnan(groups)
    ranked = xp.where(number, groups, -xp.inf)
    if k == 1:  # the usual case, and a maximum is several times faster than a partition
        kth = ranked.max(axis=1, keepdims=True)  # (groups, 1)
    else:
        kth = xp.partition(ranked, size - k, axis=1)[:, size - k : size - k + 1]  # (groups, 1)
    if ties == "all":
        mask = (ranked >= kth) & number
    else:
        above = ranked > kth
        tied = (ranked == kth) & number
        wanted = k - above.sum(axis=1, keepdims=True)  # (groups, 1): how many of the tied
        mask = above | (tied & (tied.cumsum(axis=1) <= wanted))
    return mask.reshape(phi.shape)
