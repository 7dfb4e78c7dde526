"""minimono: a small, transparent, exact reference implementation for monosemantic neurons."""

from minimono import data, gradcheck, mono, nn
from minimono.engine import functional
from minimono.engine.primitives import primitive
from minimono.engine.tensor import Tensor, grad, no_grad, tensor
from minimono.kernels import reference
from minimono.nn import checkpoint, models, optim

__version__ = "0.1.0.dev0"

__all__ = [
    "Tensor", "checkpoint", "data", "functional", "grad", "gradcheck", "models", "mono", "nn",
    "no_grad", "optim", "primitive", "reference", "tensor",
]  # fmt: skip
