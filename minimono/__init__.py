"""minimono: a small, transparent, exact reference implementation for monosemantic neurons."""

from minimono import gradcheck, mono, nn
from minimono.engine import functional
from minimono.engine.primitives import primitive
from minimono.engine.tensor import Tensor, grad, no_grad, tensor
from minimono.kernels import reference
from minimono.nn import models

__version__ = "0.1.0.dev0"

__all__ = [
    "Tensor", "functional", "grad", "gradcheck", "models", "mono", "nn", "no_grad", "primitive",
    "reference", "tensor",
]  # fmt: skip
