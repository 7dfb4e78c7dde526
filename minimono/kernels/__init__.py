"""Running versions: fast kernels with the names of the reading versions they stand in for.

A hot function exists twice. Its *reading version* is written in plain array operations, looks like
the formula, and is the truth. Its *running version* is a kernel in this folder, held to the
reading version by tests. `with reference():` switches every kernel off, so that a reader can step
through the mathematics in a debugger.

Folders: `cpu/` in Numba, `gpu/` the same in CUDA, `both/` what they share. A file is named after
what it computes, and has the same name and the same functions in `cpu/` and `gpu/`. Files are
imported on first use, because Numba takes half a second.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

from minimono import machine
from minimono.lazy import required

Kept = Any  # what a forward pass keeps for its backward pass
Needed = tuple[bool, ...]  # which arguments need a cotangent: a backward pass may skip the others

_enabled: ContextVar[bool] = ContextVar("minimono_kernels_enabled", default=True)


def enabled() -> bool:
    """Return whether running versions may be used (True unless inside `reference()`)."""
    return _enabled.get()


@cache
def of(device: str, part: str, *, by: str = "minimono") -> ModuleType:
    """Return the running versions of a part for "cpu" or "cuda": `cpu/scale.py`, `gpu/scale.py`.

    by: who asks, for the error where Numba is not installed.

    >>> of("cuda", "scale").__name__
    'minimono.kernels.gpu.scale'
    """
    machine.prepare()  # at the first use of any kernel
    folder = {"cpu": "cpu", "cuda": "gpu"}[device]
    if folder == "cpu":
        formula = ", or use the formula: with minimono.reference():"
        required("numba", by=f"{by}: its kernel", install="numba", instead=formula)
    return import_module(f"minimono.kernels.{folder}.{part}")


@contextmanager
def reference() -> Iterator[None]:
    """Use reading versions only, in this `with` block.

    >>> with reference():
    ...     enabled()
    False
    >>> enabled()
    True
    """
    before = _enabled.get()
    try:
        _enabled.set(False)  # in here: a Ctrl-C may come as soon as it is done
        yield
    finally:
        _enabled.set(before)
