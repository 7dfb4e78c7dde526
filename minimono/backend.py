"""NumPy or CuPy: the one file that knows there are two.

Every other file asks `array_module(x)` for the library that owns `x` and calls functions that
both libraries have, so the same line runs on either device.
"""

import importlib
import math
from collections.abc import Callable
from types import ModuleType
from typing import Any, Literal, TypeAlias

import numpy as np

from minimono.lazy import required

# A NumPy or a CuPy array. CuPy has no types of its own to check against, hence `Any`.
Array: TypeAlias = Any
Device: TypeAlias = Literal["cpu", "cuda"]

_cupy: ModuleType | None = None  # imported on first need: `import cupy` takes a second


def is_available() -> bool:
    """Return whether a GPU can be used. CuPy can be imported without one, so it is asked."""
    try:
        cupy = importlib.import_module("cupy")
    except ImportError:
        return False
    return bool(cupy.cuda.is_available())


def cupy() -> ModuleType:
    """Return the CuPy module, or raise an error that says what is missing."""
    global _cupy
    if _cupy is None:
        module = required(
            "cupy", by='device "cuda"', install='"cupy-cuda12x[ctk]" or "cupy-cuda13x[ctk]"',
            instead=', or use device "cpu"',
        )
        if not module.cuda.is_available():
            raise RuntimeError(
                'device "cuda": CuPy is installed but finds no usable GPU (driver missing or '
                'too old); use device "cpu"'
            )
        _cupy = module
    return _cupy


def device_of(array: Array) -> Device:
    """Return where an array lives: "cpu" or "cuda".

    >>> device_of(np.zeros(3))
    'cpu'
    """
    if type(array) is np.ndarray:
        return "cpu"
    # By the type's name: asking CuPy itself would import it.
    return "cuda" if type(array).__module__.partition(".")[0] == "cupy" else "cpu"


def array_module(*arrays: Array) -> ModuleType:
    """Return the library, `numpy` or `cupy`, that owns these arrays; Python numbers go with either.

    >>> array_module(np.zeros(3), 2.0).__name__
    'numpy'
    """
    for a in arrays:
        if type(a) is not np.ndarray:
            break
    else:  # nearly always: then this loop is all
        return np
    devices = {device_of(a) for a in arrays if hasattr(a, "shape")}
    if len(devices) > 1:
        raise ValueError(
            "arrays live on different devices, "
            + " and ".join(f"{device_of(a)} {a.shape}" for a in arrays if hasattr(a, "shape"))
            + ': move them to one with .to("cpu") or .to("cuda")'
        )
    return cupy() if "cuda" in devices else np


def to_device(array: Array, device: str | None) -> Array:
    """Return the array on `device`, copied only if it has to move; `None` leaves it where it is."""
    if device is None:
        return array
    if device == "cuda":
        return cupy().asarray(array)
    if device == "cpu":
        return to_host(array)
    raise ValueError(f'device is {device!r}, expected "cpu" or "cuda"')


def to_host(array: Array) -> Array:
    """Return the array in the computer's own memory, as NumPy's."""
    if device_of(array) == "cuda":
        return array.get()
    return np.asarray(array)


def beside(array: Array, other: Array) -> Array:
    """The array on the device of another; itself, if it is there."""
    return to_device(array, device_of(other))


def as_array(data: Any) -> Array:
    """Return lists, numbers and arrays as an array; an array stays itself, on its device.

    Raises TypeError for a masked array: its mask would be lost.
    """
    if type(data) is np.ndarray or device_of(data) == "cuda":
        return data
    if hasattr(data, "mask") and isinstance(data, np.ma.MaskedArray):  # imported only if needed
        raise TypeError("a masked array, expected a plain one: give it values with .filled(..)")
    return np.asarray(data)


def is_real(dtype: np.dtype[Any]) -> bool:
    """Return whether a dtype is of real numbers that both devices and all kernels know."""
    return dtype.kind in "fiub" and dtype.itemsize <= 8


_erfc_of_one: Callable[..., Any] = np.frompyfunc(math.erfc, 1, 1)


def erfc(x: Array) -> Array:
    """Return the complementary error function of each element, exact but for the last digit.

    NumPy has none, so this calls the C library's through Python, which is slow; the kernels of
    `erfc` and of GELU are the fast way.
    """
    if device_of(x) == "cuda":
        return importlib.import_module("cupyx.scipy.special").erfc(x)
    return np.asarray(_erfc_of_one(x)).astype(np.result_type(x, 0.0))
