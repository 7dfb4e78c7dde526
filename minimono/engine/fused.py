"""The seam between a reading version and its running version.

`@has_kernel("cpu")` above a function in `functional.py` says: this is the formula, and there is a
kernel of the same name in `kernels/cpu.py`. Outside `minimono.reference()` a call goes to the
kernel, forward and backward, as one operation on the tape. A second derivative goes through the
formula.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from functools import cached_property, update_wrapper
from importlib import import_module
from inspect import signature
from types import ModuleType
from typing import Any, Generic, ParamSpec

import numpy as np

from minimono import kernels
from minimono.backend import Array
from minimono.engine.primitives import explained, made_by
from minimono.engine.tensor import Tensor, grad, is_recording

Parameters = ParamSpec("Parameters")

_WITH_KERNELS = (np.dtype(np.float32), np.dtype(np.float64))


class Fused(Generic[Parameters]):
    """A function with a kernel: `NAME_forward` and `NAME_backward` in `kernels/FILE.py`.

    NAME_forward(*arrays, **options)            -> output, what to keep for the way back
    NAME_backward(needed, g, output, kept, *arrays, **options)
                                                -> cotangents of the arrays, in order

    `needed` holds, for each array, whether its cotangent is: one that is not may be None.
    """

    def __init__(self, reading: Callable[Parameters, Tensor], file: str):
        self.reading, self.file = reading, file
        self.name = reading.__name__
        update_wrapper(self, reading)

    def __call__(self, *arguments: Parameters.args, **options: Parameters.kwargs) -> Tensor:
        if options and any(isinstance(o, Tensor) for o in options.values()):
            # The tape looks for tensors among those passed by position.
            bound = signature(self.reading).bind(*arguments, **options)
            return self(*bound.args, **bound.kwargs)
        arrays = [a.data if isinstance(a, Tensor) else a for a in arguments]
        try:
            if not kernels.enabled() or not _have_kernels(arrays):
                return self.reading(*arguments, **options)
            output, kept = self.forward(*arrays, **options)
        except (ValueError, TypeError, IndexError) as error:
            if str(error).startswith(self.name):
                raise
            raise explained(error, self.name, arrays) from error
        return made_by(self, arguments, options, output, kept)

    @cached_property
    def forward(self) -> Callable[..., tuple[Array, Any]]:
        return getattr(self._kernels(), self.name + "_forward")  # type: ignore[no-any-return]

    @cached_property
    def backward(self) -> Callable[..., tuple[Array | None, ...]]:
        return getattr(self._kernels(), self.name + "_backward")  # type: ignore[no-any-return]

    def _kernels(self) -> ModuleType:
        return import_module("minimono.kernels." + self.file)  # now: Numba takes half a second

    def pull(
        self, cotangent: Tensor, output: Tensor, wanted: Set[int]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        assert output.origin is not None
        _, arguments, options, kept = output.origin
        if is_recording():
            yield from self._pull_through_reading(cotangent, arguments, options, wanted)
            return
        arrays = [a.data if isinstance(a, Tensor) else a for a in arguments]
        needed = tuple([id(a) in wanted for a in arguments])
        shares = self.backward(needed, cotangent.data, output.data, kept, *arrays, **options)
        for i, is_needed in enumerate(needed):
            if is_needed:
                yield arguments[i], Tensor(shares[i])

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


def has_kernel(
    file: str,
) -> Callable[[Callable[Parameters, Tensor]], Fused[Parameters]]:
    """Mark a reading version whose running version stands in `kernels/FILE.py`."""
    return lambda reading: Fused(reading, file)


def _have_kernels(arguments: list[Any]) -> bool:
    """Kernels take NumPy arrays of one float dtype, float32 or float64."""
    found = None
    for a in arguments:
        if type(a) is np.ndarray:
            dtype = a.dtype
            if dtype.kind in "fc":
                if dtype not in _WITH_KERNELS or found not in (None, dtype):
                    return False
                found = dtype
        elif hasattr(a, "dtype"):
            return False  # of another library
    return found is not None
