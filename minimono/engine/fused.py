"""The seam between a reading version and its running version.

`@has_kernel` above a function in `functional.py` says: this is the formula, and there is a kernel
of the same name. Outside `minimono.reference()` a call goes to the kernel, forward and backward,
as one operation on the tape. A second derivative goes through the formula.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from functools import update_wrapper
from importlib import import_module
from inspect import signature
from typing import Any, Generic, ParamSpec

import numpy as np

from minimono import kernels
from minimono.engine.primitives import explained, made_by
from minimono.engine.tensor import Tensor, grad, is_recording

Parameters = ParamSpec("Parameters")

_WITH_KERNELS = (np.dtype(np.float32), np.dtype(np.float64))


class Fused(Generic[Parameters]):
    """A function with a kernel: `NAME_forward` and `NAME_backward` in `kernels/cpu.py`.

    NAME_forward(*arrays, **options)                     -> output, what to keep for the way back
    NAME_backward(g, output, kept, *arrays, **options)   -> cotangents of the arrays, in order
    """

    def __init__(self, reading: Callable[Parameters, Tensor]):
        self.reading = reading
        self.name = reading.__name__
        update_wrapper(self, reading)

    def __call__(self, *arguments: Parameters.args, **options: Parameters.kwargs) -> Tensor:
        if any(isinstance(o, Tensor) for o in options.values()):
            # The tape looks for tensors among those passed by position.
            bound = signature(self.reading).bind(*arguments, **options)
            return self(*bound.args, **bound.kwargs)
        arrays = [a.data if isinstance(a, Tensor) else a for a in arguments]
        try:
            if not kernels.enabled() or not _have_kernels(arrays):
                return self.reading(*arguments, **options)
            forward = getattr(import_module("minimono.kernels.cpu"), self.name + "_forward")
            output, kept = forward(*arrays, **options)
        except (ValueError, TypeError, IndexError) as error:
            if str(error).startswith(self.name):
                raise
            raise explained(error, self.name, arrays) from error
        return made_by(self, arguments, options, output, kept)

    def pull(
        self, cotangent: Tensor, output: Tensor, wanted: Set[int]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        assert output.origin is not None
        _, arguments, options, kept = output.origin
        if is_recording():
            yield from self._pull_through_reading(cotangent, arguments, options, wanted)
            return
        backward = getattr(import_module("minimono.kernels.cpu"), self.name + "_backward")
        arrays = [a.data if isinstance(a, Tensor) else a for a in arguments]
        shares = backward(cotangent.data, output.data, kept, *arrays, **options)
        for argument, share in zip(arguments, shares, strict=False):
            if id(argument) in wanted:
                yield argument, Tensor(share)

    def _pull_through_reading(
        self,
        cotangent: Tensor,
        arguments: tuple[Any, ...],
        options: dict[str, Any],
        wanted: Set[int],
    ) -> Iterator[tuple[Tensor, Tensor]]:
        places = tuple(i for i, argument in enumerate(arguments) if id(argument) in wanted)
        with kernels.reference():
            shares = grad(lambda *a: (self.reading(*a, **options) * cotangent).sum(), places)(
                *arguments
            )
        yield from zip((arguments[i] for i in places), shares, strict=True)


def has_kernel(reading: Callable[Parameters, Tensor]) -> Fused[Parameters]:
    """Mark a reading version whose running version stands in `kernels/`."""
    return Fused(reading)


def _have_kernels(arguments: list[Any]) -> bool:
    """Kernels take NumPy arrays of one float dtype, float32 or float64."""
    arrays = [a for a in arguments if hasattr(a, "dtype")]
    floats = {a.dtype for a in arrays if a.dtype.kind in "fc"}
    on_cpu = all(type(a) is np.ndarray for a in arrays)
    return on_cpu and len(floats) == 1 and floats.pop() in _WITH_KERNELS
