"""The seam between a formula and its kernel. Only this file chooses which of the two runs.

    @with_kernel("moments")
    def merge(mean, m2, other_mean, ...):
        ... the formula, on NumPy or CuPy arrays: the truth, and what a reader reads ...

Outside `reference()`, a call runs the function of the same name, signature and result in
`kernels/cpu/moments.py` or `kernels/gpu/moments.py`, if there can be one for these arrays: all on
one device, all of real numbers. Otherwise the formula runs, without NumPy's warnings, since a
kernel gives none. For functions of tensors, `engine.fused` has a decorator of the same name, which
asks here too and writes one entry on the tape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache, update_wrapper
from typing import Any, Generic, ParamSpec, TypeVar

import numpy as np

from minimono import kernels
from minimono.backend import Device, device_of, is_real

_SINGLE, _DOUBLE = np.dtype(np.float32), np.dtype(np.float64)

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class WithKernel(Generic[Parameters, Result]):
    """A function of arrays that has a formula, `.formula`, and a kernel on some devices."""

    def __init__(
        self, formula: Callable[Parameters, Result], part: str, on: tuple[Device, ...],
        floats: bool,
    ):
        self.formula, self.part, self.name = formula, part, formula.__name__
        self.devices = on
        self._device = device_with_float_kernels if floats else device_with_kernels
        self._quiet = np.errstate(all="ignore")(formula)
        update_wrapper(self, formula)

    def __call__(self, *arguments: Parameters.args, **options: Parameters.kwargs) -> Result:
        return self.on(*arguments)(*arguments, **options)

    def on(self, *arguments: Any) -> Callable[Parameters, Result]:
        """What runs for arguments like these. Who calls it often with the like asks once."""
        device = self._device(arguments) if kernels.enabled() else None
        return kernel(device, self.part, self.name) if device in self.devices else self._quiet


def with_kernel(
    part: str, *, on: tuple[Device, ...] = ("cpu", "cuda"), floats: bool = False
) -> Callable[[Callable[Parameters, Result]], WithKernel[Parameters, Result]]:
    """Mark a formula on arrays whose kernels are in `kernels/cpu/<part>.py` and `kernels/gpu/`.

    on: the devices that have one.   floats: whether it takes only floats, and of one dtype.
    """
    return lambda formula: WithKernel(formula, part, on, floats)


@cache
def kernel(device: Device, part: str, name: str, by: str = "") -> Callable[..., Any]:
    """The function `name` of a part's kernels; `by` is who asks, where that is not its name."""
    public = name.lstrip("_")  # of a formula that only its own file uses
    return getattr(kernels.of(device, part, by=by or name), public)  # type: ignore[no-any-return]


def device_with_kernels(arguments: Iterable[Any]) -> Device | None:
    """The device whose kernels can take these arguments: arrays of real numbers, all on it.

    None for arrays of several devices, which the formula refuses by name, for complex numbers, of
    which only the formula knows, and where no argument is an array.
    """
    device: Device | None = None
    before = None  # the dtype of the array before, on the CPU
    for a in arguments:
        if type(a) is np.ndarray:
            if a.dtype is before:  # nearly always: then there is no more to ask
                continue
            here: Device = "cpu"
        elif not hasattr(a, "dtype"):
            continue
        elif device_of(a) == "cuda":
            here = "cuda"
        else:
            return None  # of another library
        dtype = a.dtype
        known = dtype is _SINGLE or dtype is _DOUBLE or is_real(dtype)  # a call less for most
        if device not in (None, here) or not known:
            return None
        device, before = here, dtype if here == "cpu" else None
    return device


def device_with_float_kernels(arguments: Iterable[Any]) -> Device | None:
    """The same for a network's kernels, which take floats of one dtype, float32 or float64.

    None also for empty arrays: what they give, if anything, the formula says.
    """
    found, device, before = None, None, None
    for a in arguments:
        if type(a) is np.ndarray:
            if a.dtype is before and a.size:  # as above
                continue
            here: Device = "cpu"
        elif not hasattr(a, "dtype"):
            continue
        elif device_of(a) == "cuda":
            here = "cuda"
        else:
            return None  # of another library
        if device not in (None, here) or not a.size:
            return None
        device, dtype = here, a.dtype
        before = dtype if here == "cpu" else None
        if dtype is _SINGLE or dtype is _DOUBLE or dtype.kind in "fc":
            if dtype not in (_SINGLE, _DOUBLE) or found not in (None, dtype):
                return None
            found = dtype
    return None if found is None else device
