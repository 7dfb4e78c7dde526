"""The rows of an embedding on the CPU, and the scatter-add of their gradients."""

import math

import numpy as np

from minimono.backend import Array
from minimono.kernels import Kept, Needed
from minimono.kernels.cpu.compiling import compiled
from minimono.kernels.cpu.launch import flat, rows_of


@compiled
def embedding_gradient_kernel(g: Array, ids: Array, gweight: Array, rest: Array) -> None:
    # What each addition rounds off is added up apart (Knuth 1969, 4.2.2): as exact as in pairs.
    for i in range(len(ids)):
        row, lost = gweight[ids[i]], rest[ids[i]]
        for j in range(g.shape[1]):
            old, new = row[j], row[j] + g[i, j]
            added = new - old
            lost[j] += (old - (new - added)) + (g[i, j] - added)
            row[j] = new
    for i in range(len(ids)):
        row, lost = gweight[ids[i]], rest[ids[i]]
        for j in range(g.shape[1]):
            if math.isfinite(row[j]):  # of an infinite sum the rest is nan
                row[j] += lost[j]
            lost[j] = 0.0


def rows_by_number_forward(weight: Array, ids: Array) -> tuple[Array, Kept]:
    return weight[ids], None


def rows_by_number_backward(
    needed: Needed, g: Array, out: Array, kept: Kept, weight: Array, ids: Array
) -> tuple[Array, ...]:
    gweight, rest = np.zeros(weight.shape, weight.dtype), np.zeros(weight.shape, weight.dtype)
    embedding_gradient_kernel(rows_of(g), flat(ids), gweight, rest)
    return (gweight,)
