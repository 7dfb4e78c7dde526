"""The page of public names leaves no public module out."""

import importlib
import inspect
import pydoc
import re
from pathlib import Path
from types import ModuleType

import pytest

import minimono

API = Path(__file__).resolve().parents[2] / "docs/api.md"


def public_modules() -> set[str]:
    """minimono, the modules among its public names, and those among theirs."""
    found, waiting = set(), [minimono]
    while waiting:
        module = waiting.pop()
        if module.__name__ not in found:
            found.add(module.__name__)
            public = [getattr(module, name) for name in module.__all__]
            waiting += [value for value in public if isinstance(value, ModuleType)]
    return found


def test_every_public_module_is_on_the_page() -> None:
    shown = re.findall(r"^\.\. automodule:: ([\w.]+)$", API.read_text(), re.MULTILINE)
    assert "minimono.nn.training" in public_modules()
    assert public_modules() <= set(shown)


@pytest.mark.parametrize("name", sorted(public_modules()))
def test_completion_offers_public_names_and_no_others(name: str) -> None:
    module = importlib.import_module(name)
    offered = {name for name in dir(module) if not name.startswith("__")}
    rooms = {"backend", "engine", "kernels", "machine"}  # for who reads on
    extra = rooms if module is minimono else set()
    assert offered == {*module.__all__, *extra}
    assert all(hasattr(module, public) for public in offered)
    assert not offered & {"Any", "Array", "Mapping", "np", "annotations", "lazy", "TYPE_CHECKING"}


def tensor_methods() -> list[str]:
    """What Tensor itself defines for all to use, and what `tape` and `primitives` attach to it."""
    defined = {n for n, v in vars(minimono.Tensor).items() if callable(v) or type(v) is property}
    return sorted(defined - {
        "__init__", "__float__", "__bool__", "__len__", "__iter__", "__array__", "__repr__",
        "__reduce__", "__getstate__", "__setstate__", "__hash__",
    })


@pytest.mark.parametrize("name", tensor_methods())
def test_a_tensors_methods_say_what_they_do(name: str) -> None:
    method = inspect.getattr_static(minimono.Tensor, name)
    said = inspect.getdoc(method)
    assert said
    assert said.splitlines()[0] in pydoc.render_doc(method, renderer=pydoc.plaintext)
    if name.startswith("__") and not name.startswith("__r"):
        assert name in API.read_text()
    assert {"sum", "exp", "to", "T", "__add__", "__radd__", "backward"} <= {*tensor_methods()}


@pytest.mark.parametrize("name", sorted(public_modules()))
def test_every_public_name_says_what_it_is(name: str) -> None:
    module = importlib.import_module(name)
    for public in module.__all__:
        value = getattr(module, public)
        if callable(value) or isinstance(value, ModuleType):
            assert inspect.getdoc(value), f"{name}.{public}"
