"""What layer norm asks of its arguments, on either device."""

import math

from minimono.backend import Array


def check_layer_norm(x: Array, eps: float, **parameters: Array) -> None:
    if not 0.0 <= eps < math.inf:
        raise ValueError(f"layer_norm: eps is {eps}, expected a finite number, 0 or more")
    for name, parameter in parameters.items():
        if parameter.shape != x.shape[-1:]:
            raise ValueError(
                f"layer_norm: {name} has shape {parameter.shape}, "
                f"x has {x.shape[-1]} channels (axis -1)"
            )
