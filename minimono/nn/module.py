"""What networks are made of: modules that hold parameters, other modules, and taps.

A module's parameters and parts are its attributes, in the order in which they were assigned; a
list of modules counts as its members. That order is the order of `parameters()`, so sums over all
parameters come out the same in every run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

import numpy as np

from minimono import backend
from minimono.backend import Array
from minimono.engine.tensor import Tensor
from minimono.nn.at_once import set_all


class Module:
    """A function with parameters. Subclasses assign their parts and define `forward`."""

    training = True

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} defines no forward")

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.forward(*args, **kwargs)

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """This module (named "") and all parts of its parts, with dotted names, in order."""
        yield prefix, self
        for name, value in vars(self).items():
            dotted = f"{prefix}.{name}" if prefix else name
            if isinstance(value, Module):
                yield from value.named_modules(dotted)
            elif isinstance(value, list):
                for i, part in enumerate(value):
                    if isinstance(part, Module):
                        yield from part.named_modules(f"{dotted}.{i}")

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter once, under its first name, in order."""
        seen = set()
        for prefix, module in self.named_modules():
            for name, value in vars(module).items():
                if isinstance(value, Tensor) and id(value) not in seen:
                    seen.add(id(value))
                    yield f"{prefix}.{name}" if prefix else name, value

    def parameters(self) -> list[Tensor]:
        """The parameters that training changes (those with `requires_grad`)."""
        return [p for _, p in self.named_parameters() if p.requires_grad]

    def number_of_parameters(self) -> int:
        return sum(p.size for p in self.parameters())

    def train(self, mode: bool = True) -> Self:
        """Training behaviour: dropout drops, inhibition inhibits."""
        for _, module in self.named_modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Test behaviour: nothing random, nothing updated."""
        return self.train(False)

    def zero_grad(self) -> None:
        for _, p in self.named_parameters():
            p.grad = None

    def to(self, device: str) -> Self:
        """Move parameters and state to "cpu" or "cuda", in place: all of them, or none."""
        backend.to_device(np.empty(0), device)  # raises if there is no such device
        changes: list[tuple[object, str, Any]] = []
        for _, p in self.named_parameters():
            changes.append((p, "data", backend.to_device(p.data, device)))
            if p.grad is not None:
                changes.append((p, "grad", backend.to_device(p.grad, device)))
        states = []
        for _, module in self.named_modules():
            state = module.extra_state()
            states.append((module, {k: backend.to_device(v, device) for k, v in state.items()}))
        _change(changes, states)
        return self

    def extra_state(self) -> dict[str, Array]:
        """State that is no parameter but belongs to the model: running moments, generators."""
        return {}

    def load_extra_state(self, state: Mapping[str, Array]) -> None:
        """Take back what `extra_state` gave."""

    def remember(self) -> Callable[[], None]:
        """A call that puts the extra state back as it is now: what undoes a step that failed.

        `nn.train` asks at each step. Where the state is values that never change in place, a
        subclass can keep references instead of these copies.
        """
        state = {name: value.copy() for name, value in self.extra_state().items()}
        return lambda: self.load_extra_state(state)

    def state_dict(self) -> dict[str, Array]:
        """All parameters and extra state by dotted name; the arrays are copies."""
        state = {name: p.data.copy() for name, p in self.named_parameters()}
        for prefix, module in self.named_modules():
            for name, value in module.extra_state().items():
                state[f"{prefix}.{name}" if prefix else name] = value.copy()
        return state

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Set all parameters and extra state, converted to the model's dtypes.

        Raises ValueError or TypeError on a misfit, and then the model is as it was.
        """
        parameters = dict(self.named_parameters())
        extra: dict[str, dict[str, Array]] = {prefix: {} for prefix, _ in self.named_modules()}
        for name in state.keys() - parameters.keys():
            owner = max((p for p in extra if not p or name.startswith(p + ".")), key=len)
            extra[owner][name[len(owner) + 1 :] if owner else name] = state[name]

        missing = sorted(parameters.keys() - state.keys())
        unexpected = []
        for prefix, module in self.named_modules():
            known = module.extra_state()
            dot = prefix + "." if prefix else ""
            missing += [dot + k for k in known if k not in extra[prefix]]
            unexpected += [dot + k for k in extra[prefix] if k not in known]
        if missing or unexpected:
            raise ValueError(
                f"load_state_dict: missing {missing}, unexpected {unexpected}; "
                "was the state saved from a model built in the same way?"
            )
        values = {}
        for name, p in parameters.items():
            value = backend.as_array(state[name])
            if value.shape != p.shape:
                raise ValueError(
                    f"load_state_dict: {name} has shape {value.shape}, the model expects {p.shape}"
                )
            if value.dtype.kind not in "fiub":
                raise TypeError(f"load_state_dict: {name} has dtype {value.dtype}, expected floats")
            values[name] = backend.to_device(value, p.device).astype(p.dtype, order="C", copy=True)

        _change(
            [(p, "data", values[name]) for name, p in parameters.items()],
            [(module, extra[prefix]) for prefix, module in self.named_modules() if extra[prefix]],
        )


def _change(
    changes: list[tuple[object, str, Any]], states: list[tuple[Module, dict[str, Array]]]
) -> None:
    """Set attributes and extra states, or if one does not fit, raise with all as it was."""
    put_back = [module.remember() for module, _ in states]
    try:
        for module, state in states:
            module.load_extra_state(state)
        set_all(changes)
    except BaseException:
        for back in put_back:
            back()
        raise


class Sequential(Module):
    """Modules one after another, named "0", "1", ...

    >>> import numpy as np
    >>> Sequential(Tap(), Tap())(Tensor(np.ones(2)))
    tensor([1., 1.])
    """

    def __init__(self, *layers: Module):
        for i, layer in enumerate(layers):
            setattr(self, str(i), layer)

    def forward(self, x: Tensor) -> Tensor:
        for layer in list(vars(self).values()):
            if isinstance(layer, Module):
                x = layer(x)
        return x


class Tap(Module):
    """A named place in a network where an activation can be read or replaced (see `taps`).

    On its own it returns what it gets. Its name is its path in the model: "block.3.mlp.act".
    """

    def __init__(self) -> None:
        self.inserted: Module | None = None
        self.readers: list[Callable[[Tensor], Tensor | None]] = []

    def forward(self, x: Tensor) -> Tensor:
        if self.inserted is not None:
            x = self.inserted(x)
        for reader in self.readers:
            replacement = reader(x)
            x = x if replacement is None else replacement
        return x
