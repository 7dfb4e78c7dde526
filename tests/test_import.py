"""`import minimono` stays quick: what is slow to import waits until it is used."""

import ast
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Literal, get_origin, get_type_hints

import pytest

import minimono
from minimono import lazy, oracle

LATE = {"numba", "matplotlib", "cupy", "torch", "tqdm"}


@pytest.mark.parametrize(
    ("statement", "late"),
    [
        ("import minimono", LATE | {"numpy"}),
        ("import minimono.oracle", LATE | {"numpy"}),
        ("import minimono; minimono.nn; minimono.mono; minimono.data; minimono.gradcheck", LATE),
        ("from minimono import *", LATE),
    ],
)
def test_import_is_light(statement: str, late: set[str]) -> None:
    script = f"import sys; {statement}; print(*{{n.partition('.')[0] for n in sys.modules}})"
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = set(run.stdout.split())
    assert "minimono" in loaded
    assert ("numpy" in loaded) == ("numpy" not in late)
    assert not late & loaded


@pytest.mark.parametrize("package", [minimono, oracle], ids=["minimono", "oracle"])
def test_public_names_are_there(package: ModuleType) -> None:
    assert set(package.__all__) <= set(dir(package))
    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'nN'"):
        _ = package.nN


@pytest.mark.parametrize("package", [minimono, oracle], ids=["minimono", "oracle"])
def test_types_are_checked_for_the_names_that_are_given(package: ModuleType) -> None:
    """The imports that only type checkers see say the same as the table beside them."""
    source = Path(str(package.__file__)).read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module not in (None, "typing"):
            for alias in node.names:
                if alias.name == "lazy":
                    continue
                module = __import__(str(node.module), fromlist=[alias.name])
                assert getattr(package, alias.name) is getattr(module, alias.name)


@pytest.mark.parametrize("name", ["nn", "mono", "optim", "tensor", "gradcheck", "oracle", "data"])
def test_each_name_can_be_the_first(name: str) -> None:
    script = f"import minimono; minimono.{name}; assert '{name}' in vars(minimono)"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_a_home_that_is_broken_says_so() -> None:
    getattr_, _ = lazy.names("minimono", {"gone": "minimono.gone"})
    with pytest.raises(ModuleNotFoundError, match=r"minimono\.gone"):
        getattr_("gone")


def test_import_prints_nothing() -> None:
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", "import minimono"],
        capture_output=True, text=True, timeout=60,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_what_a_tensors_properties_return_is_no_literal() -> None:
    """jedi, which completes `x.` in IPython, fails on a property that is annotated as a Literal."""
    found = {
        name: get_type_hints(p.fget).get("return") for name, p in vars(minimono.Tensor).items()
        if isinstance(p, property) and hasattr(p.fget, "__annotations__")
    }
    assert found["device"] is str
    assert not [name for name, kind in found.items() if get_origin(kind) is Literal]
