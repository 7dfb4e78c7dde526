"""Each formula with a kernel has it, on every device that it names, with the same parameters."""

import inspect
import pkgutil
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import pytest

import minimono
from minimono.engine.fused import Fused
from minimono.kernels.seam import WithKernel

SEEN_BY_BACKWARD = ("needed", "g", "out", "kept")  # before the arguments of the formula


def formulas() -> Iterator[tuple[Callable[..., Any], Any]]:
    """Each formula below a `with_kernel`, and what the decorator made of it."""
    for info in pkgutil.walk_packages(minimono.__path__, "minimono."):
        if info.name == "minimono.__main__" or info.name.startswith("minimono.oracle."):
            continue
        for found in vars(import_module(info.name)).values():
            inside = getattr(found, "forward", found)  # of a primitive
            for made in (found, inside):
                if isinstance(made, Fused):
                    yield made.reading, made
                elif isinstance(made, WithKernel):
                    yield made.formula, made


FORMULAS = {f"{made.part}: {made.name}": (formula, made) for formula, made in formulas()}
ON_DEVICES = [(name, device) for name, (_, made) in FORMULAS.items() for device in made.devices]


def parameters(function: Callable[..., Any]) -> list[tuple[str, Any, Any]]:
    found = inspect.signature(function).parameters.values()
    return [(p.name, p.kind, p.default) for p in found]


def test_all_kinds_are_found() -> None:
    assert {"activations: relu", "scale: survey", "optim: adam", "deactivation: deactivation",
            "gru: _new_state"} <= set(FORMULAS)


@pytest.mark.parametrize(("name", "device"), ON_DEVICES)
def test_the_kernel_is_there_and_takes_what_the_formula_takes(name: str, device: str) -> None:
    formula, made = FORMULAS[name]
    folder = {"cpu": "cpu", "cuda": "gpu"}[device]
    kernels = import_module(f"minimono.kernels.{folder}.{made.part}")
    file = f"kernels/{folder}/{made.part}.py"
    public = made.name.lstrip("_")
    parts = {public: ()}
    if isinstance(made, Fused):
        parts = {f"{public}_forward": (), f"{public}_backward": SEEN_BY_BACKWARD}
    for part, more in parts.items():
        wanted = f"{part}({', '.join([*more, *inspect.signature(formula).parameters])})"
        kernel = getattr(kernels, part, None)
        assert kernel is not None, f"{file}: write {wanted}"
        assert parameters(kernel)[len(more) :] == parameters(formula), (
            f"{file}: {part}{inspect.signature(kernel)}, expected {wanted}, with names, kinds and "
            f"defaults as in the formula, {made.name}{inspect.signature(formula)}"
        )
