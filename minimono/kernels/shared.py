"""What the kernels of both devices share: the linear layer, which is BLAS's work, and checks."""

from __future__ import annotations

import math
from typing import Any

from minimono.backend import Array
from minimono.kernels.parallel import product

Kept = Any  # what a forward pass keeps for its backward pass
Needed = tuple[bool, ...]  # which arguments need a cotangent: a backward pass may skip the others


def linear_forward(x: Array, weight: Array, bias: Array | None = None) -> tuple[Array, Kept]:
    if x.ndim < 1 or weight.ndim != 2 or x.shape[-1] != weight.shape[1]:
        raise ValueError(f"linear: x has shape {x.shape}, weight {weight.shape}: last axes differ")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"linear: bias has shape {bias.shape}, weight {weight.shape}")
    out = product(x.reshape(-1, x.shape[-1]), weight.T, bias)  # (..., C) -> (N, C) @ (C, D)
    return out.reshape(*x.shape[:-1], len(weight)), None  # (N, D) -> (..., D)


def linear_gradients(
    needed: Needed, g: Array, x: Array, weight: Array
) -> tuple[Array | None, Array | None]:
    """By x and weight; that by bias is the sum of g over rows, a kernel of each device."""
    g = g.reshape(-1, len(weight))  # (..., D) -> (N, D)
    gx = product(g, weight).reshape(x.shape) if needed[0] else None  # (N, D) @ (D, C)
    gweight = product(g.T, x.reshape(-1, x.shape[-1])) if needed[1] else None  # (D, N) @ (N, C)
    return gx, gweight


def check_layer_norm(x: Array, eps: float, **parameters: Array) -> None:
    if not 0.0 <= eps < math.inf:
        raise ValueError(f"layer_norm: eps is {eps}, expected a finite number, 0 or more")
    for name, parameter in parameters.items():
        if parameter.shape != x.shape[-1:]:
            raise ValueError(
                f"layer_norm: {name} has shape {parameter.shape}, "
                f"x has {x.shape[-1]} channels (axis -1)"
            )
