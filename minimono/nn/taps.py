"""Reading, replacing and inserting at the named places of a network.

No model file knows what is done at its taps, so a plain run and a treated one share every line.

    with taps.read(model, "block.*.mlp.act") as seen:      seen["block.0.mlp.act"] after a call
    with taps.replace(model, "block.1.out", f):            f(activation) goes on instead
    taps.insert(model, "block.1.out", MEmeL())             from now on part of the model
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase

from minimono.engine.tensor import Tensor
from minimono.nn.module import Module, Tap


def names(model: Module, pattern: str = "*") -> list[str]:
    """The names of the model's taps that match a pattern (`*` stands for anything)."""
    return [*_matching(model, pattern)]


@contextmanager
def read(model: Module, pattern: str = "*") -> Iterator[dict[str, Tensor]]:
    """A dict that holds, after each call of the model, the activations at the matching taps.

    They are what flows on: after an inserted module. They stay on the tape, so losses may use them.
    """
    seen: dict[str, Tensor] = {}

    def reader_for(name: str) -> Callable[[Tensor], None]:
        return lambda x: seen.__setitem__(name, x)

    with _attached({tap: reader_for(name) for name, tap in _matching(model, pattern).items()}):
        yield seen


@contextmanager
def replace(model: Module, pattern: str, function: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """In this `with` block, `function(activation)` flows on from the matching taps."""
    with _attached(dict.fromkeys(_matching(model, pattern).values(), function)):
        yield


def insert(model: Module, name: str, module: Module) -> None:
    """Make a module part of the model, right after the named activation.

    From now on it is trained, saved, moved and switched to `eval()` with the model.
    """
    [tap] = _matching(model, name, one=True).values()
    if tap.inserted is not None:
        raise ValueError(f"insert: {name!r} already has a {type(tap.inserted).__name__}")
    module.train(tap.training)
    tap.inserted = module


def remove(model: Module, name: str) -> Module:
    """Take out the module that was inserted at a tap, and return it."""
    [tap] = _matching(model, name, one=True).values()
    if tap.inserted is None:
        raise ValueError(f"remove: nothing was inserted at {name!r}")
    module, tap.inserted = tap.inserted, None
    return module


@contextmanager
def _attached(readers: dict[Tap, Callable[[Tensor], Tensor | None]]) -> Iterator[None]:
    for tap, reader in readers.items():
        tap.readers.append(reader)
    try:
        yield
    finally:
        for tap, reader in readers.items():
            tap.readers.remove(reader)


def _matching(model: Module, pattern: str, one: bool = False) -> dict[str, Tap]:
    taps = {name: m for name, m in model.named_modules() if isinstance(m, Tap)}
    found = {name: tap for name, tap in taps.items() if fnmatchcase(name, pattern)}
    if not found or (one and len(found) > 1):
        raise ValueError(
            f"taps: {len(found)} taps match {pattern!r}, expected "
            f"{'one' if one else 'at least one'}; the model has {', '.join(taps) or 'none'}"
        )
    return found
