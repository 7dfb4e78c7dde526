"""The linear layer on a GPU: its products are cuBLAS's, its bias gradient a sum of rows."""

from minimono.backend import Array
from minimono.kernels import Kept, Needed
from minimono.kernels.both.linear import linear_forward as linear_forward
from minimono.kernels.both.linear import linear_gradients
from minimono.sums import total


def linear_backward(
    needed: Needed, g: Array, out: Array, kept: Kept, x: Array, weight: Array,
    bias: Array | None = None,
) -> tuple[Array | None, ...]:
    g = g.reshape(-1, len(weight))  # (..., D) -> (N, D)
    gbias = None if bias is None or not needed[2] else total(g, axis=0)
    return *linear_gradients(needed, g, x, weight), gbias
