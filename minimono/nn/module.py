"""What networks are made of: modules that hold parameters, other modules, and taps.

A module's parameters and parts are its attributes, in the order in which they were assigned, and
what lists, tuples and dicts there hold (`parts.py` finds them). That order is the order of
`parameters()`, so sums over all parameters come out the same in every run. A part in several
places counts once, under its first name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Self, TypeAlias

import numpy as np

from minimono import backend, checks
from minimono.backend import Array
from minimono.engine.tape import no_grad
from minimono.engine.tensor import Tensor
from minimono.nn import state as states
from minimono.nn.parts import HasParts, dotted, walk

Forward: TypeAlias = Callable[..., Tensor]
Attached: TypeAlias = dict[tuple[int, str], Callable[..., Any]]  # by a module's id, and what for

# What each `with` block of `taps` has attached to modules, the outermost block first. A ContextVar,
# as in `no_grad`: other threads, which may run the same model, see nothing of it.
blocks: ContextVar[tuple[Attached, ...]] = ContextVar("minimono_taps", default=())


def attached(module: Module, what_for: str) -> Iterator[Callable[..., Any]]:
    """Yield what `taps` has attached to a module in this thread, in the order of the blocks."""
    for block in blocks.get():
        if function := block.get((id(module), what_for)):
            yield function


class Module(HasParts):
    """A function with parameters. Subclasses assign their parts and define `forward`.

    Parts are modules and tensors in attributes, and in lists, tuples and dicts there: they train
    and are saved under their dotted names, "block.0.mlp.up.weight". A part in several places, or
    one that refers to its parent, counts once, under its first name. What has no clear name (in a
    set, under a key with a dot) is an error as soon as parts are asked for; objects of other kinds
    are not looked into.
    """

    training = True

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} defines no forward")

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        call: Forward = self.forward
        if blocks.get():
            for wrapper in attached(self, "call"):
                call = wrapper(call)
        return call(*args, **kwargs)

    def parameters(self) -> list[Tensor]:
        """Return the parameters that training changes (those with `requires_grad`)."""
        return [p for _, p in self.named_parameters() if p.requires_grad]

    def number_of_parameters(self) -> int:
        return sum(p.size for p in self.parameters())

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every parameter once, under its first name, in order."""
        seen = set()
        for prefix, _, parts in walk(self):
            for name, part in parts:
                if isinstance(part, Tensor) and id(part) not in seen:
                    seen.add(id(part))
                    yield dotted(prefix, name), part

    def named_modules(self) -> Iterator[tuple[str, Module]]:
        """Yield this module (named "") and all parts of its parts, once each, by dotted name.

        Raises TypeError or ValueError for a part that has no place in the order or no clear name:
        in a set, under a key with a dot, under the name of a method of `Module`.
        """
        return ((name, module) for name, module, _ in walk(self))

    def train(self, mode: bool = True) -> Self:
        """Switch to training: dropout drops, inhibition inhibits."""
        for _, module in self.named_modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Switch to testing: nothing random, nothing updated."""
        return self.train(False)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for _, p in self.named_parameters():
            p.grad = None

    def to(self, device: str) -> Self:
        """Move parameters and state to "cpu" or "cuda", in place: all of them, or none."""
        backend.to_device(np.empty(0), device)  # raises if there is no such device
        changes: states.Changes = []
        for _, p in self.named_parameters():
            moved = backend.to_device(p.array, device)
            if moved is not p.array:
                changes += [(p, "array", moved), (p, "lent", None)]
            if p.grad is not None:
                changes.append((p, "grad", backend.to_device(p.grad, device)))
        extra: states.States = []
        for _, module in self.named_modules():
            state = module.extra_state()
            extra.append((module, {k: backend.to_device(v, device) for k, v in state.items()}))
        states.change(changes, extra)
        return self

    def extra_state(self) -> dict[str, Array]:
        """Return state that is no parameter: running moments, generators."""
        return {}

    def load_extra_state(self, state: Mapping[str, Array]) -> None:
        """Take back what `extra_state` gave."""

    def remember(self) -> Callable[[], None]:
        """Return a call that puts the extra state back as it is now: it undoes a failed step.

        `nn.train` asks at each step. Where the state is values that never change in place, a
        subclass can keep references instead of these copies.
        """
        state = {name: value.copy() for name, value in self.extra_state().items()}
        return lambda: self.load_extra_state(state)

    def state_dict(self) -> dict[str, Array]:
        """Return copies of all parameters and extra state, by dotted name."""
        state = {name: p.array.copy() for name, p in self.named_parameters()}
        for prefix, module in self.named_modules():
            extra = {dotted(prefix, k): v.copy() for k, v in module.extra_state().items()}
            states.check_apart(state, extra, module)
            state |= extra
        return state

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Set all parameters and extra state, converted to the model's dtypes.

        Raises ValueError or TypeError on a misfit, and then the model is as it was.
        """
        states.change(*states.fitting(self, state))


Module.taken = frozenset(dir(Module))


class Sequential(Module):
    """Modules one after another, named "0", "1", ...

    >>> import numpy as np
    >>> Sequential(Tap(), Tap())(Tensor(np.ones(2)))
    tensor([1., 1.])
    """

    def __init__(self, *layers: Module):
        for i, layer in enumerate(layers):
            setattr(self, str(i), checks.instance(layer, f"Sequential: layer {i}", Module))

    def forward(self, x: Tensor) -> Tensor:
        for layer in list(vars(self).values()):
            if isinstance(layer, Module):
                x = layer(x)
        return x


class Tap(Module):
    """A named place in a network where an activation can be read or replaced (see `taps`).

    It is where PyTorch would register a forward hook. On its own it returns what it is given. Its
    name is its path in the model: "block.3.mlp.act". What is inserted comes first, then what
    replaces, in the order in which it was attached; then the readers see what flows on.
    """

    inserted: Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.inserted is not None:
            x = self.inserted(x)
        if blocks.get():
            for function in attached(self, "replace"):
                x = function(x)
            for function in attached(self, "read"):
                function(x)
        return x


@contextmanager
def evaluating(model: Module) -> Iterator[None]:
    """In this block: no tape, and the model in `eval()`; afterwards each part has its mode."""
    modes = [(module, module.training) for _, module in model.named_modules()]
    try:
        model.eval()
        with no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode
