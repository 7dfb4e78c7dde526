"""A network's state, arrays by name: whether it fits, and set as a whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from minimono import backend
from minimono.backend import Array
from minimono.describe import short
from minimono.engine.tensor import Tensor
from minimono.nn.at_once import set_all
from minimono.nn.parts import dotted, located

Changes = list[tuple[object, str, Any]]  # of attributes: (object, name, value)
States = list[tuple[Any, dict[str, Array]]]  # of modules: the extra state that each is to load


def change(changes: Changes, states: States) -> None:
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


def check_apart(one: Mapping[str, Array], other: Mapping[str, Array], module: Any) -> None:
    """Raise if a module's extra state has the name of something else."""
    for name in one.keys() & other.keys():
        raise ValueError(
            f"state_dict: {name} is both a parameter and extra state of a "
            f"{type(module).__name__}; rename one"
        )


def fitting(model: Any, state: Mapping[str, Array]) -> tuple[Changes, States]:
    """Return the changes that give a `Module` this state, or raise if it does not fit."""
    if not isinstance(state, Mapping):
        raise TypeError(
            f"load_state_dict: state is a {type(state).__name__}, expected arrays by name"
        )
    parameters: dict[str, Tensor] = dict(model.named_parameters())
    modules = dict(model.named_modules())
    extra: dict[int, dict[str, Array]] = {id(module): {} for module in modules.values()}
    unexpected = []
    for name in state.keys() - parameters.keys():
        owner, key = located(model, name)
        given = extra[id(owner)]
        if key not in owner.extra_state():
            unexpected.append(name)
        elif key in given and not _same(given[key], state[name]):
            raise ValueError(
                f"load_state_dict: {name} differs from what the state has under another name "
                f"of the same {type(owner).__name__}"
            )
        given[key] = state[name]
    missing = sorted(parameters.keys() - state.keys())
    for prefix, module in modules.items():
        known = module.extra_state().keys()
        missing += [dotted(prefix, key) for key in known if key not in extra[id(module)]]
    if missing or unexpected:
        raise ValueError(
            f"load_state_dict: missing {short(missing)}, unexpected {short(sorted(unexpected))}; "
            "was the state saved from a model built in the same way?"
        )
    changes: Changes = []
    for name, p in parameters.items():
        changes += [(p, "array", _fitted(p, state[name], name)), (p, "lent", None)]
    return changes, [(m, extra[id(m)]) for m in modules.values() if extra[id(m)]]


def _fitted(p: Tensor, value: Array, name: str) -> Array:
    """Return a parameter's new array: a copy, in its dtype, on its device."""
    value = backend.as_array(value)
    if value.shape != p.shape:
        raise ValueError(f"load_state_dict: {name} has shape {value.shape}, expected {p.shape}")
    if value.dtype.kind not in "fiub":
        raise TypeError(f"load_state_dict: {name} has dtype {value.dtype}, expected floats")
    try:
        with np.errstate(over="raise"):
            return backend.to_device(value, p.device).astype(p.dtype, order="C", copy=True)
    except FloatingPointError:
        raise ValueError(
            f"load_state_dict: {name} has numbers beyond what the model's {p.dtype} holds"
        ) from None


def _same(value: Array, other: Array) -> bool:
    return np.array_equal(backend.to_host(value), backend.to_host(other))
