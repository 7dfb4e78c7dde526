"""minimono: a small, transparent, exact reference implementation for monosemantic neurons."""

from typing import TYPE_CHECKING

from minimono import lazy

__version__ = "0.1.0.dev0"

__all__ = [
    "Tensor", "checkpoint", "data", "functional", "grad", "gradcheck", "models", "mono", "nn",
    "no_grad", "optim", "oracle", "primitive", "reference", "set_num_threads", "tensor",
]

if TYPE_CHECKING:
    from minimono import data, gradcheck, mono, nn, oracle
    from minimono.engine import functional
    from minimono.engine.primitive import primitive
    from minimono.engine.tape import grad, no_grad
    from minimono.engine.tensor import Tensor, tensor
    from minimono.kernels import reference
    from minimono.machine import set_num_threads
    from minimono.nn import checkpoint, models, optim
else:  # the same, but each at its first use: pytest imports this package for its plugin's sake
    __getattr__, __dir__ = lazy.names(
        __name__,
        {
            "Tensor": "minimono.engine.tensor:Tensor",
            "backend": "minimono.backend",
            "checkpoint": "minimono.nn.checkpoint",
            "data": "minimono.data",
            "engine": "minimono.engine",
            "functional": "minimono.engine.functional",
            "grad": "minimono.engine.tape:grad",
            "gradcheck": "minimono.gradcheck",
            "kernels": "minimono.kernels",
            "machine": "minimono.machine",
            "models": "minimono.nn.models",
            "mono": "minimono.mono",
            "nn": "minimono.nn",
            "no_grad": "minimono.engine.tape:no_grad",
            "optim": "minimono.nn.optim",
            "oracle": "minimono.oracle",
            "primitive": "minimono.engine.primitive:primitive",
            "reference": "minimono.kernels:reference",
            "set_num_threads": "minimono.machine:set_num_threads",
            "tensor": "minimono.engine.tensor:tensor",
        },
    )
