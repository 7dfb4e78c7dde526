"""What comes out of other people's code, as NumPy arrays; what goes in, as their arrays.

By duck typing: neither PyTorch nor JAX nor CuPy is ever imported here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from minimono.backend import Array

FLOAT64 = float(np.finfo(np.float64).eps)
BFLOAT16 = 2.0**-7  # its eps; NumPy has no such dtype


class Reply(NamedTuple):
    """One returned array."""

    value: Array  # float64, bool, int64, or object for whole numbers beyond int64
    eps: float  # of the floats that were returned; 0 for whole numbers and bools
    dtype: str  # as it was returned


def to_numpy(x: Any) -> Reply:
    """An array of any library, or a number, on the host, with the precision it came in.

    PyTorch: detached, conjugates resolved, sparse ones filled. bfloat16 counts as bfloat16. Raises
    TypeError for what is not an array of real numbers, and says what it is.

    >>> to_numpy(np.float32([1.5]))
    Reply(value=array([1.5]), eps=1.1920928955078125e-07, dtype='float32')
    """
    if x is None:
        raise TypeError("returned None, expected an array")
    if isinstance(x, bool | int | float):
        beyond_int64 = isinstance(x, int) and not -(2**63) <= x < 2**63
        return _reply(np.asarray(x, dtype=object if beyond_int64 else None))
    if isinstance(x, str | bytes | dict | list | tuple | set):
        raise TypeError(f"returned a {type(x).__name__}, expected an array")
    if type(x).__name__.endswith("Tracer"):
        raise TypeError(
            "returned a JAX tracer, which has no values: call the function outside jit, grad and "
            "vmap, or return from them first"
        )
    if type(x).__module__.startswith("minimono."):
        x = getattr(x, "data", x)
    if hasattr(x, "detach"):
        x = x.detach()
        for resolve in ("resolve_conj", "resolve_neg"):
            x = getattr(x, resolve, lambda x=x: x)()
        if str(getattr(x, "layout", "torch.strided")) != "torch.strided":
            x = x.to_dense()
        x = x.cpu()
    elif callable(getattr(x, "get", None)) and hasattr(x, "__cuda_array_interface__"):
        x = x.get()  # CuPy
    name = str(getattr(x, "dtype", "")).rpartition(".")[2]
    if name == "bfloat16":
        wide = x.float() if hasattr(x, "float") else np.asarray(x).astype(np.float32)
        return Reply(np.asarray(wide).astype(np.float64), BFLOAT16, name)
    if not hasattr(x, "__array__") and hasattr(x, "__dlpack__"):
        return _reply(np.from_dlpack(x))
    if not hasattr(x, "__array__"):
        raise TypeError(f"returned a {type(x).__name__}, expected an array")
    return _reply(np.asarray(x))


def _reply(array: Array) -> Reply:
    if array.dtype.kind == "f":
        eps = max(float(np.finfo(array.dtype).eps), FLOAT64)  # long doubles are rounded to float64
        return Reply(array.astype(np.float64), eps, str(array.dtype))
    if array.dtype == np.uint64 and array.size and array.max() >= 2**63:
        return Reply(array.astype(object), 0.0, str(array.dtype))
    if array.dtype.kind in "iu":
        return Reply(array.astype(np.int64), 0.0, str(array.dtype))
    if array.dtype == bool or _holds_whole_numbers(array):
        return Reply(array, 0.0, str(array.dtype))
    raise TypeError(f"returned an array of dtype {array.dtype}, expected real numbers")


def _holds_whole_numbers(array: Array) -> bool:
    return array.dtype == object and all(isinstance(v, int) for v in array.reshape(-1))
