"""Numbers and gradients: tensors, primitives, the functions of networks, gradient checks."""

from minimono.engine import functional, primitives, tensor

# All of it at once: a Tensor has its operators from `primitives`, and whoever gets the one, from
# whatever module, is to have the other.
__all__ = ["functional", "primitives", "tensor"]
