"""What can be done at a network's taps: read, record, replace, insert (PyTorch's hooks do it).

No model file knows what is done at its taps, so a plain run and a treated one share every line.

    with taps.read(model, "block.*.mlp.act") as seen:    after a call, what passed there in it:
        model(x)                                         seen["block.0.mlp.act"] is a tensor
    with taps.record(model, "*.out") as kept:            what passed in all calls of the block:
        model(x), model(y)                               kept["block.1.out"] is a list of two
    with taps.replace(model, "block.1.out", f):          within the block, f(activation) flows on
        model(x)                                         in place of the activation
    taps.insert(model, "block.1.out", MEmeL())           for good: MEmeL is now part of the model

At one tap the inserted module comes first, then each replacement, in the order in which their
`with` blocks were entered. What is read is what flows on after them all, into the next layer.

A `with` block counts in its thread alone, as that of `no_grad` does: other threads can run the same
model meanwhile, untouched and unseen, unless they run in a copy of the block's context. `insert`
and `remove` change the model itself, for all threads: no other should be running it then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

from minimono import checks, lazy
from minimono.engine.tensor import Tensor
from minimono.nn.module import Forward, Module, Tap, attachments
from minimono.nn.parts import located

__all__ = ["Seen", "insert", "names", "read", "record", "remove", "replace"]
__dir__ = lazy.only(__name__, __all__)


class Seen(Mapping[str, Tensor]):
    """The activations of the model's last call, by the name of the tap: `seen["block.0.out"]`.

    If a module is used several times in one call, its taps have several activations: `seen[name]`
    is an error then, and `seen.every[name]` the list of all, in order.
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

    A tap that is in several places, because its module is, goes by the name of the first place.
    """
    return [*_matching(model, pattern)]


@contextmanager
def read(model: Module, pattern: str = "*") -> Iterator[Seen]:
    """In this block, each call of the model fills `seen` with the activations at matching taps.

    A new call starts afresh: `seen` is of the last one (`record` keeps all). The activations are on
    the tape, so a loss may use them and have gradients through them. A model that calls itself
    counts as one call; a call of a part alone adds to what is there.

    >>> import numpy as np, minimono as mm
    >>> model = mm.models.MLP((3, 4, 2), rng=0)
    >>> with read(model, "hidden.0.act") as seen:
    ...     logits = model(mm.tensor(np.ones((5, 3), np.float32)))
    >>> seen["hidden.0.act"].shape
    (5, 4)
    """
    seen = Seen()
    depth = 0  # of the model's calls within each other

    def around(call: Forward) -> Forward:
        def call_afresh(*args: Any, **kwargs: Any) -> Tensor:
            nonlocal depth
            if depth == 0:
                seen.every.clear()
            depth += 1
            try:
                return call(*args, **kwargs)
            finally:
                depth -= 1

        return call_afresh

    def reader_of(name: str) -> Callable[[Tensor], None]:
        return lambda x: seen.every.setdefault(name, []).append(x)

    matching = _matching(model, pattern)
    readers = [(tap, "read", reader_of(name)) for name, tap in matching.items()]
    with attaching([(model, "call", around), *readers]):
        yield seen


@contextmanager
def record(model: Module, pattern: str = "*") -> Iterator[dict[str, list[Tensor]]]:
    """In this block, keep all activations at matching taps: by name, a list in order.

    They are those of all calls, also of a part of the model alone. Each keeps its tape, with all
    that was computed before it, in memory, unless the block is in `no_grad()` too.

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
    with attaching([(tap, "read", kept[name].append) for name, tap in matching.items()]):
        yield kept


@contextmanager
def replace(model: Module, pattern: str, function: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """In this block, let `function(activation)` flow on from matching taps, into the next layer.

    The function gets a tensor and returns one that the next layer can take.

    >>> import numpy as np, minimono as mm
    >>> model = mm.models.MLP((3, 4, 2), rng=0)
    >>> with replace(model, "hidden.0.act", lambda z: z * 0.0):        # all neurons are off
    ...     logits = model(mm.tensor(np.ones((1, 3), np.float32)))
    >>> bool((logits.data == model.out.bias.data).all())
    True
    """
    checks.function(function, "taps.replace: function", "one of a Tensor")

    def replacement_at(name: str) -> Callable[[Tensor], Tensor]:
        what = f"taps.replace: what function returned at {name!r}"
        return lambda x: checks.instance(function(x), what, Tensor)

    matching = _matching(model, pattern)
    with attaching([(tap, "replace", replacement_at(name)) for name, tap in matching.items()]):
        yield


def insert(model: Module, name: str, module: Module) -> None:
    """Make a module part of the model: what passes the tap goes through the module first.

    From now on the module is trained, saved, moved and switched to `eval()` with the model. A tap
    takes one module; `remove` takes it out again.

    >>> import minimono as mm
    >>> model = mm.models.MLP((3, 4, 2), rng=0)
    >>> insert(model, "hidden.0.act", mm.mono.MEmeL())
    >>> [name for name, _ in model.named_modules() if "inserted" in name]
    ['hidden.0.act.inserted']
    """
    [tap] = _matching(model, name, one=True).values()
    if tap.inserted is not None:
        raise ValueError(f"insert: {name!r} already has a {type(tap.inserted).__name__}")
    checks.instance(module, "insert: module", Module)
    if module.training != tap.training:  # if it is the same, each part keeps its own mode
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
def attaching(functions: list[tuple[Module, str, Callable[..., Any]]]) -> Iterator[None]:
    """In this block, each of these modules finds its function: `Tap.forward` asks `attached`."""
    block = {(id(module), what_for): function for module, what_for, function in functions}
    try:
        attachments.set((*attachments.get(), block))
        yield
    finally:
        block.clear()  # at once for all threads and tasks that run in a copy of this context
        attachments.set(tuple(filter(None, attachments.get())))


def _matching(model: Module, pattern: str, one: bool = False) -> dict[str, Tap]:
    """Return the taps that match a pattern, by name; if none does, or not `one`, raise."""
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
