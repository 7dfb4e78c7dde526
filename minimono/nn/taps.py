"""Reading, replacing and inserting at the named places of a network (hooks, as PyTorch says).

No model file knows what is done at its taps, so a plain run and a treated one share every line.

    with taps.read(model, "block.*.mlp.act") as seen:      seen["block.0.mlp.act"] after a call
    with taps.record(model, "*.out") as kept:              kept["block.1.out"], a list, of all calls
    with taps.replace(model, "block.1.out", f):            f(activation) goes on instead
    taps.insert(model, "block.1.out", MEmeL())             from now on part of the model

At one tap, what is inserted comes first, then each replacement, in the order in which their `with`
blocks were entered. Readers get what flows on from there, in whatever order they were entered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

from minimono import checks, lazy
from minimono.engine.tensor import Tensor
from minimono.nn.module import Forward, Module, Tap, blocks
from minimono.nn.parts import located

__all__ = ["Seen", "insert", "names", "read", "record", "remove", "replace"]
__dir__ = lazy.only(__name__, __all__)


class Seen(Mapping[str, Tensor]):
    """What flowed on from the taps in the model's last call: `seen["block.0.out"]`.

    A tap of a module that is used several times in a call has several activations and no single
    one: `seen[name]` is an error there, `seen.every[name]` a list of all, in order.
    """

    def __init__(self) -> None:
        self.every: dict[str, list[Tensor]] = {}

    def __getitem__(self, name: str) -> Tensor:
        activations = self.every[name]
        if len(activations) > 1:
            raise ValueError(
                f"taps.read: {name!r} was passed {len(activations)} times in the model's last "
                f"call, so it has no single activation; seen.every[{name!r}] has all, in order"
            )
        return activations[0]

    def __iter__(self) -> Iterator[str]:
        return iter(self.every)

    def __len__(self) -> int:
        return len(self.every)

    def __repr__(self) -> str:
        return f"Seen({', '.join(f'{name}: {len(z)}' for name, z in self.every.items())})"


def names(model: Module, pattern: str = "*") -> list[str]:
    """Return the names of the model's taps that match a pattern (`*` stands for anything).

    A tap in several places, since a module there is shared, has one name, that of the first.
    """
    return [*_matching(model, pattern)]


@contextmanager
def read(model: Module, pattern: str = "*") -> Iterator[Seen]:
    """Give, by name, the activations at the matching taps in the model's last call.

    It is what a forward hook of PyTorch is used for most. The activations are what flows on, after
    what is inserted and replaced. They stay on the tape, so losses may use them. A new call of the
    model, from outside itself, forgets the last one's; `record` forgets nothing.

    >>> import numpy as np, minimono as mm
    >>> model = mm.models.MLP((3, 4, 2), rng=0)
    >>> with read(model, "hidden.0.act") as seen:
    ...     logits = model(mm.tensor(np.ones((5, 3), np.float32)))
    >>> seen["hidden.0.act"].shape
    (5, 4)
    """
    seen = Seen()
    depth = 0

    def around(call: Forward) -> Forward:
        def from_the_start(*args: Any, **kwargs: Any) -> Tensor:
            nonlocal depth
            if depth == 0:
                seen.every.clear()
            depth += 1
            try:
                return call(*args, **kwargs)
            finally:
                depth -= 1

        return from_the_start

    def reader_of(name: str) -> Callable[[Tensor], None]:
        return lambda x: seen.every.setdefault(name, []).append(x)

    matching = _matching(model, pattern)
    readers = [(tap, "read", reader_of(name)) for name, tap in matching.items()]
    with _attaching([(model, "call", around), *readers]):
        yield seen


@contextmanager
def record(model: Module, pattern: str = "*") -> Iterator[dict[str, list[Tensor]]]:
    """Keep, by name, every activation that flows on from the matching taps in this block, in order.

    Of all calls of the model, and of its parts alone. With `no_grad()` their tapes are not kept.

    >>> import numpy as np, minimono as mm
    >>> model = mm.models.MLP((3, 4, 2), rng=0)
    >>> with record(model, "hidden.*.act") as kept, mm.no_grad():
    ...     for batch in np.ones((2, 5, 3), np.float32):
    ...         logits = model(mm.tensor(batch))
    >>> [z.shape for z in kept["hidden.0.act"]]
    [(5, 4), (5, 4)]
    """
    matching = _matching(model, pattern)
    kept: dict[str, list[Tensor]] = {name: [] for name in matching}
    with _attaching([(tap, "read", kept[name].append) for name, tap in matching.items()]):
        yield kept


@contextmanager
def replace(model: Module, pattern: str, function: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Let `function(activation)` flow on from the matching taps, in this block."""
    checks.function(function, "taps.replace: function", "one of a Tensor")

    def replacement_at(name: str) -> Callable[[Tensor], Tensor]:
        what = f"taps.replace: what function returned at {name!r}"
        return lambda x: checks.instance(function(x), what, Tensor)

    matching = _matching(model, pattern)
    with _attaching([(tap, "replace", replacement_at(name)) for name, tap in matching.items()]):
        yield


def insert(model: Module, name: str, module: Module) -> None:
    """Make a module part of the model, right after the named activation.

    From now on it is trained, saved, moved and switched to `eval()` with the model.
    """
    [tap] = _matching(model, name, one=True).values()
    if tap.inserted is not None:
        raise ValueError(f"insert: {name!r} already has a {type(tap.inserted).__name__}")
    checks.instance(module, "insert: module", Module)
    if module.training != tap.training:  # else its parts keep their modes, each its own
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
def _attaching(functions: list[tuple[Module, str, Callable[..., Any]]]) -> Iterator[None]:
    """In this block and thread, let `attached(module, what_for)` yield these functions, too."""
    block = {(id(module), what_for): function for module, what_for, function in functions}
    try:
        blocks.set((*blocks.get(), block))
        yield
    finally:
        block.clear()  # at once for all threads and tasks that run in a copy of this context
        blocks.set(tuple(block for block in blocks.get() if block))


def _matching(model: Module, pattern: str, one: bool = False) -> dict[str, Tap]:
    checks.instance(model, "taps: model", Module)
    checks.instance(pattern, "taps: name or pattern", str)
    taps = {name: m for name, m in model.named_modules() if isinstance(m, Tap)}
    found = {name: tap for name, tap in taps.items() if fnmatchcase(name, pattern)}
    if not found or (one and len(found) > 1):
        place, rest = located(model, pattern)
        again = [name for name, tap in taps.items() if tap is place and not rest]
        if again:
            raise ValueError(f"taps: {pattern!r} is the same tap as {again[0]!r}; use that name")
        raise ValueError(
            f"taps: {len(found)} taps match {pattern!r}, expected "
            f"{'one' if one else 'at least one'}; the model has {', '.join(taps) or 'none'}"
        )
    return found
