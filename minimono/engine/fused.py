"""A function of tensors that has a kernel: one entry on the tape.

`@with_kernel("losses")` above a function, say in `functional.py`, says: this is the formula, and
`NAME_forward` and `NAME_backward` are in `kernels/cpu/losses.py` and `kernels/gpu/losses.py`.
Outside `minimono.reference()` they run, if `kernels.seam` finds that they can. A second derivative
goes through the formula.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from functools import update_wrapper
from inspect import signature
from types import MethodType
from typing import Any, Generic, ParamSpec

from minimono import kernels
from minimono.backend import Device, device_of
from minimono.engine import dtypes
from minimono.engine.primitive import explained, made_by
from minimono.engine.tape import grad, is_recording
from minimono.engine.tensor import Tensor
from minimono.kernels.seam import device_with_float_kernels, device_with_kernels, kernel

Parameters = ParamSpec("Parameters")


class Fused(Generic[Parameters]):
    """A function with a kernel: `NAME_forward` and `NAME_backward`, see `kernels.of`.

    NAME_forward(*arrays, **options)            -> output, what to keep for the way back
    NAME_backward(needed, g, output, kept, *arrays, **options)
                                                -> cotangents of the arrays, in order

    `needed` holds, for each array, whether its cotangent is: one that is not may be None.
    """

    def __init__(
        self, reading: Callable[Parameters, Tensor], part: str, on: tuple[Device, ...], mixed: bool
    ):
        self.reading, self.part, self.devices = reading, part, on
        self.device_of = device_with_kernels if mixed else device_with_float_kernels
        self.name = reading.__name__
        self.forward_kernel, self.backward_kernel = self.name + "_forward", self.name + "_backward"
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
            device = self.device_of(arrays) if kernels.enabled() else None
            if device not in self.devices:
                output = self.reading(*positional, **named)
            else:
                forward = kernel(device, self.part, self.forward_kernel, self.name)
                output = made_by(self, positional, arrays, named, *forward(*arrays, **named))
        except (ValueError, TypeError, IndexError) as error:
            if str(error).startswith(self.name):
                raise
            raise explained(error, self.name, positional) from error
        return output if answer is None else dtypes.rounded(output, answer)

    def __get__(self, instance: Any, owner: Any) -> Any:
        """Be a method of the class that this is put into, as a primitive is."""
        return self if instance is None else MethodType(self, instance)

    def __repr__(self) -> str:
        return f"{self.name}{self.names}"

    def pull(
        self, cotangent: Tensor, output: Tensor, wanted: Set[int]
    ) -> list[tuple[Tensor, Tensor]]:
        assert output.origin is not None
        _, arguments, options, kept, _ = output.origin
        if is_recording():
            return self._pull_through_reading(cotangent, arguments, options, wanted)
        arrays = [a.array if isinstance(a, Tensor) else a for a in arguments]
        needed = tuple([id(a) in wanted for a in arguments])
        # The kernel of the output's device, also in `reference()`: forward may have run outside.
        device = device_of(output.array)
        backward = kernel(device, self.part, self.backward_kernel, self.name)
        shares = backward(needed, cotangent.array, output.array, kept, *arrays, **options)
        return [
            (argument, Tensor(share))
            for argument, share, is_needed in zip(arguments, shares, needed, strict=False)
            if is_needed
        ]

    def _pull_through_reading(
        self,
        cotangent: Tensor,
        arguments: tuple[Any, ...],
        options: dict[str, Any],
        wanted: Set[int],
    ) -> list[tuple[Tensor, Tensor]]:
        places = tuple(i for i, argument in enumerate(arguments) if id(argument) in wanted)
        with kernels.reference():
            shares = grad(lambda *a: (self.reading(*a, **options) * cotangent).sum(), places)(
                *arguments
            )
        return [(arguments[i], share) for i, share in zip(places, shares, strict=True)]


def with_kernel(
    part: str, *, on: tuple[Device, ...] = ("cpu", "cuda"), mixed: bool = False
) -> Callable[[Callable[Parameters, Tensor]], Fused[Parameters]]:
    """Mark a formula on tensors whose kernels are in `kernels.of(device, part)`.

    on: the devices that have one.   mixed: whether they take arrays of several dtypes.
    """
    return lambda reading: Fused(reading, part, on, mixed)
