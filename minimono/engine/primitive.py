"""A primitive is an operation on arrays that tensors can go through.

It brings a forward function on arrays, gradient rules on tensors, and a rule for dtypes:

    y = exp(x)                 calls `forward` on the array of x; the origin of y is (exp, (x,), {})
    exp.pull(g, y, {id(x)})    returns [(x, rule(g, y, x))] on the way back (`tape.py`); g is the
                               cotangent of y, and rule(g, y, x) the share of x

`primitives.py` is the table of all, and says what a rule is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set
from inspect import signature
from types import MethodType
from typing import Any

import numpy as np

from minimono import backend
from minimono.backend import Array, array_module
from minimono.engine import dtypes
from minimono.engine.dtypes import PYTHON
from minimono.engine.ownership import copy_of_lent, own_constant
from minimono.engine.tape import is_recording
from minimono.engine.tensor import Origin, Tensor
from minimono.kernels.seam import with_kernel

Rule = Callable[..., Tensor]


class Primitive:
    """An operation on arrays that tensors can go through; made by the decorator `primitive`."""

    def __init__(self, forward: Callable[..., Array]):
        self.forward = forward  # arrays in, an array out
        self.name = forward.__name__
        self.__doc__, self.__name__ = forward.__doc__, forward.__name__
        self.__wrapped__ = forward  # so that `help` shows its signature
        self.rules: tuple[Rule | None, ...] = ()
        self.rule_of_all: Callable[..., Iterable[Tensor | None]] | None = None
        self.dtype_rule: dtypes.Rule | None = None
        self.numbers = dtypes.ALL

    def vjp(self, *rules: Rule | None) -> None:
        """Give the gradient rules, one per argument, in order; None for one without a gradient."""
        self.rules = rules

    def vjp_of_all(self, rule: Callable[..., Iterable[Tensor | None]]) -> None:
        """Give one rule that returns the shares of all arguments, in order."""
        self.rule_of_all = rule

    def __call__(self, *arguments: Any, **options: Any) -> Tensor:
        answer = None  # the dtype to round the result to, if it is another than it is computed in
        if options and any(isinstance(o, Tensor | np.generic) for o in options.values()):
            if any(isinstance(o, Tensor) for o in options.values()):
                raise TypeError(f"{self.name}: pass tensors by position, not by name")
            options = {name: dtypes.python_number(o) for name, o in options.items()}
        try:
            if self.dtype_rule is None:
                data = [
                    a if type(a) in PYTHON else a.array if isinstance(a, Tensor) else a
                    for a in arguments
                ]
            else:
                arguments, data, answer = self.dtype_rule.settled(arguments, self.numbers)
            output = self.forward(*data, **options)
        except (ValueError, TypeError, IndexError, OverflowError) as error:
            raise explained(error, self.name, arguments) from error
        made = made_by(self, arguments, data, options, output)
        return made if answer is None else dtypes.rounded(made, answer)

    def pull(
        self, cotangent: Tensor, output: Tensor, wanted: Set[int]
    ) -> list[tuple[Tensor, Tensor]]:
        """Return (argument, its share of the cotangent) for the arguments whose `id` is wanted."""
        assert output.origin is not None
        arguments, options = output.origin.arguments, output.origin.options
        if self.rule_of_all is not None:
            of_all = self.rule_of_all(cotangent, output, *arguments, **options)
            return [
                (argument, share) for argument, share in zip(arguments, of_all, strict=True)
                if share is not None and id(argument) in wanted
            ]
        shares = []
        for i, argument in enumerate(arguments):
            if id(argument) not in wanted:
                continue
            if i >= len(self.rules):
                raise ValueError(
                    f"{self.name}: no gradient rule for argument {i}; give one with "
                    f"{self.name}.vjp(...), or None if it has no gradient"
                )
            rule = self.rules[i]
            if rule is not None:
                shares.append((argument, rule(cotangent, output, *arguments, **options)))
        return shares

    def __repr__(self) -> str:
        return f"{self.name}{signature(self.forward)}"

    def __get__(self, instance: Any, owner: Any) -> Any:
        """Be a method of the class that this is put into: `x.exp()` is `exp(x)`."""
        return self if instance is None else MethodType(self, instance)


def primitive(forward: Callable[..., Array]) -> Primitive:
    """Make a function on arrays an operation on tensors; give its rules with `.vjp(...)`.

    The rules need not be the function's derivative. Deactivation (`mono.inhibition`) uses that.

    >>> @primitive
    ... def cube(x):
    ...     return x * x * x
    >>> cube.vjp(lambda g, out, x: g * 3.0 * x * x)
    """
    return Primitive(forward)


def elementwise(
    name: str, meaning: str, *rules: Rule | None, value: Callable[..., Array] | None = None,
    dtypes: dtypes.Rule = dtypes.REAL, kernel: bool = False,
) -> Primitive:
    """Return a primitive that returns `meaning`, element by element, with NumPy's broadcasting.

    `value` computes it from arrays; without one, the function of this name does that NumPy and
    CuPy both have. `rules`: one for each argument. `kernel`: there is one in `kernels/cpu`.
    """

    def of_one(x: Array) -> Array:
        return getattr(array_module(x), name)(x)

    def of_two(x: Array, y: Array) -> Array:
        return getattr(array_module(x, y), name)(x, y)

    forward = value or (of_one if len(rules) == 1 else of_two)
    forward.__name__, forward.__doc__ = name, f"Return {meaning}, element by element."
    if kernel:
        forward = with_kernel("elementary", on=("cpu",), floats=True)(forward)
    made = Primitive(forward)
    made.rules, made.dtype_rule = rules, dtypes
    return made


def reduction(forward: Callable[..., Array]) -> Primitive:
    """Make a function along axes of an array an operation on tensors; there is a kernel for it."""
    return Primitive(with_kernel("reductions", on=("cpu",), floats=True)(forward))


def made_by(
    operation: Any, arguments: tuple[Any, ...], arrays: list[Any], options: dict[str, Any],
    output: Array, saved: Any = None,
) -> Tensor:
    """Return the output as a tensor, with its origin if any argument needs a gradient.

    Integers and booleans have no gradient: with them the tape ends. Raises TypeError for others.
    """
    kind = output.dtype.kind
    if kind in "fc" and is_recording():
        needed = plain = lent = False
        for argument in arguments:
            if type(argument) in PYTHON:  # quickly past numbers and shapes
                continue
            if isinstance(argument, Tensor):
                needed = needed or argument.requires_grad
                lent = lent or argument.lent is not None
            else:
                plain = plain or hasattr(argument, "dtype")
        if needed:
            seen = arrays
            if plain:  # somebody may write into the array of an argument: `ownership.py`
                arguments = tuple([own_constant(a) for a in arguments])
            if lent:
                seen = [copy_of_lent(a, b) for a, b in zip(arguments, arrays, strict=True)]
            made = Tensor(output, True, Origin(operation, arguments, options, saved, seen))
            seen.append(made.array)
            return made
    elif kind not in "fciub":
        raise TypeError(f"{operation.name}: the result has dtype {output.dtype}, expected numbers")
    return Tensor(output)


def explained(error: Exception, name: str, arguments: tuple[Any, ...]) -> Exception:
    """Return the error again, saying which function it is from and what that was given."""
    data = [a.array if isinstance(a, Tensor) else a for a in arguments]
    shapes = ", ".join(
        f"{a.dtype}{list(a.shape)} on {backend.device_of(a)}" if hasattr(a, "shape") else repr(a)
        for a in data
    )
    # Not type(error): some of NumPy's own kinds of TypeError cannot be made from a message.
    kinds = (ValueError, TypeError, IndexError, OverflowError)
    kind = next(k for k in kinds if isinstance(error, k))
    return kind(f"{name}({shapes}): {error}")
