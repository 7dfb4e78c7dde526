"""What optimisers share: which parameters, what they remember of each, a step, a state to save.

A step gives every parameter a new array, all at its end: it happens or it does not, also if a
Ctrl-C comes or memory runs out. Until then old and new arrays are both there. float16 parameters
have running arrays in float32 and are updated in float32, rounded once. No step waits for a GPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from minimono import backend, checks, describe
from minimono.backend import Array
from minimono.engine.tensor import Tensor
from minimono.kernels.seam import WithKernel
from minimono.nn.at_once import set_all


class Optimiser:
    """Parameters, a learning rate, and running arrays for each parameter.

    `formula` gives a parameter's new array and its new running arrays, from the old ones and the
    gradient; what else it takes, a subclass says in `_arguments`. `running` are the names of the
    running arrays. A parameter without a gradient is skipped. Raises for an empty list, a parameter
    that comes twice, a tensor that was computed.
    """

    def __init__(
        self, parameters: Iterable[Tensor], lr: float, formula: WithKernel[..., Any],
        *, running: tuple[str, ...],
    ):
        self.parameters = _checked(parameters, type(self).__name__)
        self.lr = lr
        self.updates = [0] * len(self.parameters)  # of each parameter, skipped ones not counted
        self._formula, self._names = formula, running
        self.running: list[Sequence[Array]] = [
            [backend.array_module(p.array).zeros(p.shape, _computed_in(p.dtype)) for _ in running]
            for p in self.parameters
        ]

    @property
    def lr(self) -> float:
        """The learning rate; a schedule sets it before each step."""
        return self._lr

    @lr.setter
    def lr(self, value: float) -> None:
        self._lr = self._not_negative("lr", value)

    def _not_negative(self, name: str, value: float) -> float:
        return checks.number(value, f"{type(self).__name__}: {name}", least=0.0)

    def __repr__(self) -> str:
        settings = {"lr": self.lr} | describe.plain(vars(self)) | {"updates": max(self.updates)}
        moves = describe.amount(self.parameters)
        return f"{type(self).__name__}({describe.named(settings)}; {moves})"

    def _arguments(self, t: int) -> dict[str, Any]:
        """Return what the formula takes by name at a parameter's t-th update."""
        raise NotImplementedError

    def step(self) -> None:
        """Change every parameter that has a gradient, or if anything is wrong, raise, and none."""
        update = self._formula.on(*[p.array for p in self.parameters])
        arguments: dict[int, dict[str, Any]] = {}  # by t, the same for most parameters
        updates, running = self.updates.copy(), self.running.copy()
        changes: list[tuple[object, str, Any]]
        changes = [(self, "updates", updates), (self, "running", running)]
        for i, (p, before) in enumerate(zip(self.parameters, self.running, strict=True)):
            old, g = p.array, p.grad
            if g is None:
                continue
            if type(g) is not type(old) or g.shape != old.shape or g.dtype != old.dtype:
                raise _misfit(type(self).__name__, i, p)
            updates[i] = t = updates[i] + 1
            if t not in arguments:
                arguments[t] = self._arguments(t)
            if before and type(before[0]) is not type(old):  # the model has moved
                before = [backend.to_device(array, p.device) for array in before]
            half = old.dtype.char == "e"
            if half:
                old, g = old.astype(np.float32), g.astype(np.float32)
            new, *running[i] = update(old, g, *before, **arguments[t])
            if isinstance(new, np.generic):  # NumPy's result without axes
                new, *running[i] = map(np.asarray, (new, *running[i]))
            # What `p.data = new` does, but for an array that nobody else holds.
            changes.append((p, "array", new.astype(np.float16) if half else new))
            if p.lent is not None:
                changes.append((p, "lent", None))
        set_all(changes)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for p in self.parameters:
            p.grad = None

    def state_dict(self) -> dict[str, Array]:
        """Return all that changes from step to step, by name, copied. No other setting is in it."""
        return {name: array.copy() for name, array in self._state().items()}

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Take over a state, the learning rate included; on a misfit raise, and change nothing."""
        name = f"{type(self).__name__}.load_state_dict"
        expected = self._state()
        missing, unexpected = expected.keys() - state.keys(), state.keys() - expected.keys()
        if missing or unexpected:
            raise ValueError(
                f"{name}: missing {describe.short(sorted(missing))}, "
                f"unexpected {describe.short(sorted(unexpected))}; "
                "was it saved from the same kind of optimiser of the same model?"
            )
        found = {key: backend.as_array(value) for key, value in state.items()}
        for key, old in expected.items():
            new = found[key]
            # Running arrays of float16 parameters were float16 once.
            fits = new.dtype == old.dtype or (new.dtype, old.dtype) == (np.float16, np.float32)
            if not fits:
                raise ValueError(f"{name}: {key} has dtype {new.dtype}, expected {old.dtype}")
            if new.shape != old.shape:
                raise ValueError(f"{name}: {key} has shape {new.shape}, expected {old.shape}")
        counts = checks.labels(backend.to_host(found["updates"]), f"{name}: updates", least=0)
        updates = counts.tolist()
        lr = checks.number(backend.to_host(found["lr"]).item(), f"{name}: lr", least=0.0)
        running = [
            [
                backend.to_device(found[f"{name}.{i}"], p.device).astype(
                    _computed_in(p.dtype), order="C", copy=True
                )
                for name in self._names
            ]
            for i, p in enumerate(self.parameters)
        ]
        set_all([(self, "_lr", lr), (self, "updates", updates), (self, "running", running)])

    def _state(self) -> dict[str, Array]:
        state = {"lr": np.array(self.lr), "updates": np.array(self.updates, dtype=np.int64)}
        for n, name in enumerate(self._names):
            state |= {f"{name}.{i}": arrays[n] for i, arrays in enumerate(self.running)}
        return state


def with_gradients(parameters: Iterable[Tensor], name: str) -> list[Tensor]:
    """Return those of several tensors that have a gradient."""
    return [p for p in _several(parameters, name) if p.grad is not None]


def _computed_in(dtype: np.dtype[Any]) -> Any:
    """The dtype of the running arrays: float16 has neither the range nor the digits for them."""
    return np.float32 if dtype == np.float16 else dtype


def _several(parameters: Iterable[Tensor], name: str) -> list[Tensor]:
    """Return several tensors as a list. One alone would be taken apart into its rows."""
    if isinstance(parameters, Tensor) or not isinstance(parameters, Iterable):
        raise TypeError(
            f"{name} is a {type(parameters).__name__}, expected several tensors: "
            "model.parameters(), or [p]"
        )
    tensors = list(parameters)
    for i, p in enumerate(tensors):
        if not isinstance(p, Tensor):
            raise TypeError(f"{name}[{i}] is a {type(p).__name__}, expected a Tensor")
        if p.grad is not None and type(p.grad) is not type(p.array):
            raise _misfit(name.partition(":")[0], i, p)
    return tensors


def _misfit(function: str, i: int, p: Tensor) -> Exception:
    """The error for a gradient that is not like its parameter."""
    name, g = f"{function}: the gradient of parameter {i}", p.grad
    if g is None or type(g) is not type(p.array):
        kind = type(p.array).__name__
        return TypeError(f"{name} is a {type(g).__name__}, expected a {kind}, as its data")
    if g.dtype != p.dtype:
        return ValueError(f"{name} has dtype {g.dtype}, expected {p.dtype}")
    return ValueError(f"{name} has shape {g.shape}, expected {p.shape}")


def _checked(parameters: Iterable[Tensor], owner: str) -> list[Tensor]:
    """Return the parameters, if an optimiser can change each of them."""
    name = f"{owner}: parameters"
    tensors = _several(parameters, name)
    if not tensors:
        raise ValueError(f"{name} is an empty list, expected at least one tensor")
    for i, p in enumerate(tensors):
        if p.origin is not None:
            raise ValueError(f"{name}[{i}] was computed from other tensors; pass those instead")
        checks.floats(p, f"{name}[{i}]")
    if len({id(p) for p in tensors}) < len(tensors):
        raise ValueError(f"{name}: a parameter comes twice, and would be updated twice a step")
    return tensors
