"""The seam between a reading version and its running version.

`@has_kernel()` above a function, say in `functional.py`, says: this is the formula, and there are
kernels of the same name in `kernels/cpu.py` and `gpu.py`. Outside `minimono.reference()` a call
goes to the kernel of the arrays' device, forward and backward, as one operation on the tape. A
second derivative goes through the formula.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from functools import cache, update_wrapper
from inspect import signature
from typing import Any, Generic, ParamSpec

import numpy as np

from minimono import kernels
from minimono.backend import Device, device_of
from minimono.engine import dtypes
from minimono.engine.primitives import explained, made_by
from minimono.engine.tensor import Tensor, grad, is_recording

Parameters = ParamSpec("Parameters")

_WITH_KERNELS = (np.dtype(np.float32), np.dtype(np.float64))


class Fused(Generic[Parameters]):
    """A function with a kernel: `NAME_forward` and `NAME_backward`, see `kernels.of`.

    NAME_forward(*arrays, **options)            -> output, what to keep for the way back
    NAME_backward(needed, g, output, kept, *arrays, **options)
                                                -> cotangents of the arrays, in order

    `needed` holds, for each array, whether its cotangent is: one that is not may be None.
    """

    def __init__(self, reading: Callable[Parameters, Tensor], part: str):
        self.reading, self.part = reading, part
        self.name = reading.__name__
        self.names = signature(reading)
        self.dtype_rule = dtypes.EXACT
        self.numbers = dtypes.ALL
        update_wrapper(self, reading)

    def __call__(self, *arguments: Parameters.args, **options: Parameters.kwargs) -> Tensor:
        positional: tuple[Any, ...] = arguments
        named: dict[str, Any] = options
        if options:
            positional, named = dtypes.by_position(self.names, arguments, options)
        try:
            positional, arrays, answer = self.dtype_rule.settled(positional, self.numbers)
            device = _device_with_kernels(arrays) if kernels.enabled() else None
            if device is None:
                output = self.reading(*positional, **named)
            else:
                forward = _kernel(device, self.part, self.name + "_forward")
                output = made_by(self, positional, arrays, named, *forward(*arrays, **named))
        except (ValueError, TypeError, IndexError) as error:
            if str(error).startswith(self.name):
                raise
            raise explained(error, self.name, positional) from error
        return output if answer is None else dtypes.rounded(output, answer)

    def __repr__(self) -> str:
        return f"{self.name}{self.names}"

    def pull(
        self, cotangent: Tensor, output: Tensor, wanted: Set[int]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        assert output.origin is not None
        _, arguments, options, kept, _ = output.origin
        if is_recording():
            yield from self._pull_through_reading(cotangent, arguments, options, wanted)
            return
        arrays = [a.array if isinstance(a, Tensor) else a for a in arguments]
        needed = tuple([id(a) in wanted for a in arguments])
        backward = _kernel(device_of(output.array), self.part, self.name + "_backward")
        shares = backward(needed, cotangent.array, output.array, kept, *arrays, **options)
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
    part: str = "",
) -> Callable[[Callable[Parameters, Tensor]], Fused[Parameters]]:
    """Mark a reading version with running versions in `kernels.of(device, part)`."""
    return lambda reading: Fused(reading, part)


@cache
def _kernel(device: Device, part: str, name: str) -> Callable[..., Any]:
    function = name.removesuffix("_forward").removesuffix("_backward")
    return getattr(kernels.of(device, part, by=function), name)  # type: ignore[no-any-return]


def _device_with_kernels(arguments: list[Any]) -> Device | None:
    """Kernels take arrays of one device and one float dtype, float32 or float64.

    What an empty array gives, if anything, the formula says.
    """
    found, device = None, None
    for a in arguments:
        if type(a) is np.ndarray:
            here: Device = "cpu"
        elif not hasattr(a, "dtype"):
            continue
        elif device_of(a) == "cuda":
            here = "cuda"
        else:
            return None  # of another library
        if device not in (None, here):
            return None
        device = here
        if not a.size:
            return None
        dtype = a.dtype
        if dtype.kind in "fc":
            if dtype not in _WITH_KERNELS or found not in (None, dtype):
                return None
            found = dtype
    return None if found is None else device
