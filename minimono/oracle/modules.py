"""A class of modules, as the function of whole trajectories that suite `module` calls.

Modules of minimono and of PyTorch are called as they are; so are others that have train(), eval()
and tensors that differentiate as PyTorch's do.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from minimono.engine.tensor import Tensor
from minimono.nn.module import Module

Trajectory = tuple[list[Any], list[Any]]  # values and gradients

SETTINGS = ("k", "strength", "convention", "forget_after", "start_after", "compensation")


def as_trajectory(implementation: Callable[..., Any]) -> Callable[..., Trajectory]:
    """Return what was given for MEmeL as a function of whole trajectories.

    A class, and any callable that cannot be called with three lists and the settings, is taken to
    make modules. A module itself is refused: each case needs a new one, with its own settings.
    """
    if not isinstance(implementation, type) and all(
        callable(getattr(implementation, name, None)) for name in ("train", "eval")
    ):
        raise TypeError(
            f"MEmeL is a module, a {type(implementation).__name__}; give its class, or a "
            "function that makes one: each case makes a module with its own settings"
        )
    function = implementation
    while isinstance(function, partial):
        function = function.func
    if isinstance(function, type):
        return trajectory(implementation)
    try:
        signature = inspect.signature(implementation)
    except (TypeError, ValueError):  # not written in Python: taken as it is
        return implementation
    if "batches" in signature.parameters:
        return implementation
    try:
        signature.bind([], [], [], **dict.fromkeys(SETTINGS))
    except TypeError:
        return trajectory(implementation)
    return implementation


def trajectory(factory: Callable[..., Any]) -> Callable[..., Trajectory]:
    """Return the function that the suite calls, made from a class or a function that makes modules.

    factory: called with the arguments of `minimono.mono.MEmeL`. Modules of unknown libraries need
    `convert` to make their tensors (requires_grad, backward() and grad, like PyTorch's).
    """

    def MEmeL(batches: Any, upstream: Any, training: list[bool], **settings: Any) -> Trajectory:
        module = factory(**settings)
        differentiate = _differentiate(module)
        values, gradients = [], []
        for z, g, train in zip(batches, upstream, training, strict=True):
            module.train() if train else module.eval()
            value, gradient = differentiate(module, z, g)
            values.append(value)
            gradients.append(gradient)
        return values, gradients

    return MEmeL


def _differentiate(module: Any) -> Callable[[Any, Any, Any], tuple[Any, Any]]:
    """Return the function that calls a module and takes the gradient, by its library."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(module, torch.nn.Module):
        return _by_torch
    if isinstance(module, Module):
        return _by_minimono
    if all(callable(getattr(module, name, None)) for name in ("train", "eval", "__call__")):
        return _by_backward
    raise TypeError(
        f"MEmeL: the factory made a {type(module).__name__}, expected a module with train(), "
        "eval() and a call, like minimono's or PyTorch's; for others give a function of whole "
        "trajectories (see describe('module'))"
    )


def _by_torch(module: Any, z: Any, g: Any) -> tuple[Any, Any]:
    torch = sys.modules["torch"]
    variable = torch.as_tensor(z).clone().requires_grad_()
    value = module(variable)
    (gradient,) = torch.autograd.grad(value, variable, torch.as_tensor(g))
    return value, gradient


def _by_minimono(module: Any, z: Any, g: Any) -> tuple[Any, Any]:
    variable = Tensor(z, requires_grad=True)
    value = module(variable)
    (value * Tensor(g)).sum().backward()
    return value.data, variable.grad


def _by_backward(module: Any, z: Any, g: Any) -> tuple[Any, Any]:
    if not callable(getattr(z, "backward", None)):
        raise TypeError(
            f"MEmeL: a {type(module).__name__} would be called on a {type(z).__name__}, which has "
            "no backward(); say how to make its tensors: check(..., convert=Tensor)"
        )
    z.requires_grad = True
    value = module(z)
    (value * g).sum().backward()
    return value, z.grad
