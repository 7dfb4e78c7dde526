"""The linear layer on the CPU: its products are BLAS's, its bias gradient a sum of rows."""

from minimono.backend import Array
from minimono.kernels import Kept, Needed
from minimono.kernels.both.linear import linear_forward as linear_forward
from minimono.kernels.both.linear import linear_gradients
from minimono.kernels.cpu.sums import sum_of_rows


def linear_backward(
    needed: Needed, g: Array, out: Array, kept: Kept, x: Array, weight: Array,
    bias: Array | None = None,
) -> tuple[Array | None, ...]:
    gbias = None if bias is None or not needed[2] else sum_of_rows(g.reshape(-1, len(weight)))
    return *linear_gradients(needed, g, x, weight), gbias
