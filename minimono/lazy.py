"""Names that are imported at their first use, so that importing a package costs little.

A package or a module shows these names and no others. Other people's libraries, which may not be
there, are imported here too, or missed with an error that says what to install.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any


def names(
    package: str, homes: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` of a package (PEP 562).

    homes: where each name comes from, "module" for a module and "module:name" for what is in one.
    """

    def getattr_(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, _, attribute = homes[name].partition(":")
        value = import_module(module)
        if attribute:
            value = getattr(value, attribute)
        setattr(sys.modules[package], name, value)  # the next use does not come here
        return value

    return getattr_, only(package, homes)


def only(module: str, public: Iterable[str]) -> Callable[[], list[str]]:
    """Return `__dir__` of a module: its public names, so that completion offers no others."""

    def dir_() -> list[str]:
        return sorted({*public, *(name for name in vars(sys.modules[module]) if name[:2] == "__")})

    return dir_


def required(module: str, by: str, install: str, instead: str = "") -> ModuleType:
    """Return somebody else's module, or raise: who needs it, what to install, what to do instead.

    >>> required("no_such_module", by="nobody", install="nothing")
    Traceback (most recent call last):
    RuntimeError: nobody needs no_such_module, which is not installed: pip install nothing
    """
    try:
        return import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        missing = isinstance(error, ModuleNotFoundError) and (error.name or name) in (name, module)
        why = f"which is not installed: pip install {install}" if missing else f"and has: {error}"
        raise RuntimeError(f"{by} needs {name}, {why}{instead}") from error
