"""A stand-in for CuPy, for tests where there is no GPU.

Its arrays live in the computer's own memory, but are as strict as CuPy's about what they mix with.
They find the line that would put a host array into a GPU operation, without a GPU.
"""

import time
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin


class StandInArray(NDArrayOperatorsMixin):
    def __init__(self, host: Any):
        self.host = np.asarray(host)

    def get(self) -> Any:
        return self.host.copy()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        if "out" in options:
            (out,) = options["out"]
            out.host[...] = ufunc(*[to_host(i) for i in inputs])
            return out
        return from_host(getattr(ufunc, method)(*[to_host(i) for i in inputs], **options))

    def __array_function__(self, function: Any, types: Any, args: Any, options: Any) -> Any:
        return in_stand_in(function)(*args, **options)

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(object.__getattribute__(self, "host"), name)
        return in_stand_in(attribute) if callable(attribute) else from_host(attribute)

    def __getitem__(self, index: Any) -> Any:
        return from_host(self.host[index_on_host(index)])

    def __setitem__(self, index: Any, values: Any) -> None:
        self.host[index_on_host(index)] = to_host(values)

    def __len__(self) -> int:
        return len(self.host)

    def __bool__(self) -> bool:
        return bool(self.host)

    def __int__(self) -> int:
        return int(self.host)

    def __float__(self) -> float:
        return float(self.host)


StandInArray.__module__ = "cupy"  # by which `backend.device_of` knows it


def to_host(value: Any) -> Any:
    if isinstance(value, StandInArray):
        return value.host
    if isinstance(value, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    return type(value)(map(to_host, value)) if type(value) in (tuple, list) else value


def from_host(value: Any) -> Any:
    if type(value) in (tuple, list):  # several results, say of frexp
        return type(value)(map(from_host, value))
    return StandInArray(value) if isinstance(value, np.ndarray | np.generic) else value


def index_on_host(index: Any) -> Any:
    """CuPy does take host arrays as indices."""
    if isinstance(index, tuple):
        return tuple(index_on_host(part) for part in index)
    return index.host if isinstance(index, StandInArray) else index


def in_stand_in(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **options: Any) -> Any:
        return from_host(function(*map(to_host, args), **options))

    if isinstance(function, np.ufunc):
        call.at = lambda target, index, values: function.at(  # type: ignore[attr-defined]
            target.host, index_on_host(index), to_host(values)
        )
    return call


class Device:
    def synchronize(self) -> None:
        """Everything has been done already."""


class Event:
    at = 0.0
    done = True

    def record(self) -> None:
        self.at = time.perf_counter()

    def synchronize(self) -> None:
        """As of `Device`."""


class StandInCuPy(ModuleType):
    """The module: NumPy's functions, of arrays of the stand-in."""

    ndarray = StandInArray
    cuda = SimpleNamespace(
        is_available=lambda: True, Device=Device, Event=Event,
        get_elapsed_time=lambda start, end: 1e3 * (end.at - start.at),  # milliseconds
    )

    @staticmethod
    def get_default_memory_pool() -> Any:
        return SimpleNamespace(free_all_blocks=lambda: None, total_bytes=lambda: 0)

    @staticmethod
    def asarray(data: Any, dtype: Any = None) -> StandInArray:
        if isinstance(data, StandInArray):
            return data if dtype in (None, data.dtype) else StandInArray(data.host.astype(dtype))
        return StandInArray(np.array(data, dtype))

    def __getattr__(self, name: str) -> Any:
        of_numpy = getattr(np, name)
        plain = isinstance(of_numpy, type) or not callable(of_numpy)  # float64, inf
        return of_numpy if plain else in_stand_in(of_numpy)
