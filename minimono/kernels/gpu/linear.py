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
    wanted = bias is not None and needed[2]
    gbias = total(g.reshape(-1, len(weight)), axis=0) if wanted else None  # (..., D) -> (N, D)
    return *linear_gradients(needed, g, x, weight), gbias
