"""What networks are made of: modules that hold parameters, other modules, and taps.

A module's parts are the parameters (tensors) and modules that it was given as attributes, also in
lists, tuples and dicts: `parts.py` finds them. They come in the order in which they were assigned,
so `parameters()`, and sums over them, are the same in every run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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


class Module(HasParts):
    """A function with parameters. Subclasses assign their parts in `__init__`, define `forward`.

    Parts train and are saved under their dotted names: "block.0.mlp.up.weight" is the attribute
    `weight` of the attribute `up` of ... of the first in the list `block`. A part in several
    places, or one that refers to its parent, counts once, under its first name. What has no clear
    name (in a set, under a key with a dot) is an error as soon as parts are asked for; objects of
    other kinds are not looked into.
    """

    training = True  # `train()` and `eval()` change it

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} defines no forward")

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        call: Forward = self.forward
        if attachments.get():  # in a `with` block of `taps`; `read` is told when a call begins
            for around in attached(self, "call"):
                call = around(call)
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
            if moved is not p.array:  # `lent` is about the old array: who may write into it
                changes += [(p, "array", moved), (p, "lent", None)]
            if p.grad is not None:
                changes.append((p, "grad", backend.to_device(p.grad, device)))
        extra: states.States = []
        for _, module in self.named_modules():
            state = module.extra_state()
            extra.append((module, {k: backend.to_device(v, device) for k, v in state.items()}))
        states.change(changes, extra)  # all attributes and states at once
        return self

    def extra_state(self) -> dict[str, Array]:
        """Return state that is no parameter, by name: running moments, generators.

        A module that has such a state defines this and `load_extra_state`.
        """
        return {}

    def load_extra_state(self, state: Mapping[str, Array]) -> None:
        """Take back what `extra_state` gave."""

    def remember(self) -> Callable[[], None]:
        """Return a function that sets the extra state to what it is now, to undo a failed step.

        `nn.train` asks for one before each step. A subclass whose arrays never change in place can
        keep the arrays themselves instead of these copies.
        """
        state = {name: value.copy() for name, value in self.extra_state().items()}
        return lambda: self.load_extra_state(state)

    def divide(self, parts: Sequence[slice]) -> Sequence[Module] | None:
        """Return stand-ins for the parts of a batch (`backward_in_parts`), or None: itself will do.

        Raises ValueError, with what is in the way. A module that has stand-ins takes over what they
        have learnt in `reunite(stand_ins)`.
        """
        if self.extra_state():
            raise ValueError("has a state that a forward pass changes, and cannot divide it")
        return None

    def reunite(self, stand_ins: Sequence[Any]) -> None:
        """Take over what the stand-ins have learnt, in the order of the parts."""

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


Module.reserved = frozenset(dir(Module))  # a part named "train" would hide the method


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


# ---- taps --------------------------------------------------------------------------------------

# The functions that each `with` block of `taps` has attached to modules, the outermost block first.
# A ContextVar, as `no_grad` has one: other threads, which may run the same model, see none of them.
attachments: ContextVar[tuple[Attached, ...]] = ContextVar("minimono_taps", default=())


def attached(module: Module, what_for: str) -> Iterator[Callable[..., Any]]:
    """Yield the functions that are attached to a module here: to "read" it, or to "replace"."""
    for block in attachments.get():
        if function := block.get((id(module), what_for)):
            yield function


class Tap(Module):
    """A place in a network where the activation that passes can be read or replaced (see `taps`).

    On its own it returns what it is given. A model has one wherever a user may want to look, where
    PyTorch would register a forward hook; its dotted name, "block.3.mlp.act", says where.
    """

    inserted: Module | None = None  # a part of the model: all threads have it

    def forward(self, x: Tensor) -> Tensor:
        if self.inserted is not None:
            x = self.inserted(x)
        if attachments.get():
            for function in attached(self, "replace"):
                x = function(x)
            for function in attached(self, "read"):
                function(x)
        return x


@contextmanager
def evaluating(model: Module) -> Iterator[None]:
    """In this block: no tape, and the model in `eval()`; afterwards each part has its mode again.

    The tape is off in this thread alone, the modes are the model's: no other should train it then.
    """
    modes = [(module, module.training) for _, module in model.named_modules()]
    try:
        model.eval()
        with no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode
