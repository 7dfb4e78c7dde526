"""The linear layer on either device: its matrix products are BLAS's work."""

from minimono import checks
from minimono.backend import Array
from minimono.kernels import Kept, Needed
from minimono.kernels.parallel import product


def linear_forward(x: Array, weight: Array, bias: Array | None = None) -> tuple[Array, Kept]:
    checks.linear(x, weight, bias)
    if x.ndim == 2:  # as in small networks, where each call counts
        return product(x, weight.T, bias), None
    out = product(x.reshape(-1, x.shape[-1]), weight.T, bias)  # (..., C) -> (N, C) @ (C, D)
    return out.reshape(*x.shape[:-1], len(weight)), None  # (N, D) -> (..., D)


def linear_gradients(
    needed: Needed, g: Array, x: Array, weight: Array
) -> tuple[Array | None, Array | None]:
    """Return the gradients by x (..., C) and weight (D, C), for g (N, D).

    That by bias is a sum, a kernel of each device.
    """
    gx = product(g, weight).reshape(x.shape) if needed[0] else None  # (N, D) @ (D, C)
    rows = x if x.ndim == 2 else x.reshape(-1, x.shape[-1])  # (..., C) -> (N, C)
    gweight = product(g.T, rows) if needed[1] else None  # (D, N) @ (N, C)
    return gx, gweight
