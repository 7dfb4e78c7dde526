"""Numbers and gradients: tensors, primitives, the functions of networks, gradient checks."""
