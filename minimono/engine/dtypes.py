"""One rule for dtypes, for every function of numbers in the engine.

* **Whole numbers and booleans become float64** in a function of real numbers, `@real()`: exp,
  division, mean, softmax, a linear layer. They stay whole, as NumPy's, where the answer is whole
  (`@arithmetic()`: sums and products) or is one of the numbers that came in (`@exact()`).
* **float16 is computed in float32 and rounded once**, at the end of the function, forward and back.
* **NumPy's scalars are the Python numbers that they hold**: `x * np.sqrt(2)` has the dtype of x.
* Arrays of several dtypes, those without axes too, meet where NumPy promotes them to.
* **Arrays and lists beside tensors are constants**, copied, as `tensor` makes them.
* **Anything else is an error**: dates, objects, fractions, longer floats; complex numbers but in a
  complex step, where a tensor is complex already.

    decorator         whole numbers become       float16     for instance
    @real()           float64                    float32     exp, divide, mean, softmax, linear
    @arithmetic()     what NumPy makes of them   float32     add, multiply, sum, max
    @exact()          what NumPy makes of them   itself      where, maximum, less

Whole numbers become int64 (those of uint64 float64) in a negation, since -1 is no uint8, and in an
absolute value, since |-128| is no int8. Their powers are whole if no exponent can be negative.

The decorators stand above `@primitive`, `@with_kernel()`, or a plain function of tensors. A change
of dtype is `astype`, an operation on the tape, so gradients follow. What has no rule, say a change
of shape, hands on what it gets.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from inspect import Signature, signature
from typing import Any, TypeVar

import numpy as np

from minimono.backend import as_array, is_real
from minimono.engine.tensor import Tensor

Function = TypeVar("Function", bound=Callable[..., Any])

ALL = sys.maxsize  # a number of arguments
_HALF, _SINGLE = np.dtype(np.float16), np.dtype(np.float32)
_DOUBLE, _WHOLE = np.dtype(np.float64), np.dtype(np.int64)
_DTYPES = [np.dtype(code) for code in "?bhilqBHILQefd"]
PYTHON = frozenset((float, int, bool, str, tuple, type(None)))  # are no arrays


class Rule:
    """A rule says what becomes of the arguments of a function, by dtype.

    `whole`: for some of the kinds "b", "i", "u" what they are promoted to. `half`: whether float16
    is computed in float32.
    """

    def __init__(self, whole: dict[str, np.dtype[Any]], *, half: bool):
        self.whole, self.half = whole, half
        self.usual = frozenset(
            d for d in _DTYPES if d.kind not in whole and not (half and d == _HALF)
        )

    def settled(
        self, arguments: tuple[Any, ...], numbers: int = ALL
    ) -> tuple[tuple[Any, ...], list[Any], np.dtype[Any] | None]:
        """Return the arguments to compute with, their arrays, and the dtype to round the result to.

        The rule is for the first `numbers` arguments; behind them are masks and indices. None for
        the dtype leaves the result as it is.
        """
        arrays: list[Any] = []  # nearly always nothing has to change: then this loop is all
        beside = False  # whether plain arrays, say a batch, are beside tensors
        for a in arguments:
            kind = type(a)
            if kind is Tensor:
                a = a.array
                if a.dtype not in self.usual:
                    break
            elif kind is np.ndarray and numbers >= len(arguments) and a.dtype in self.usual:
                a, beside = a.copy(), True
            elif kind not in PYTHON and (len(arrays) < numbers or isinstance(a, np.generic)):
                break
            arrays.append(a)
        else:
            if not beside:
                return arguments, arrays, None
            if len({a.dtype for a in arrays if type(a) is np.ndarray}) == 1:
                tensors = zip(arguments, arrays, strict=True)
                settled = [Tensor(a) if type(b) is np.ndarray else b for b, a in tensors]
                return tuple(settled), arrays, None
        arguments, answer = self._changed(arguments, numbers)
        return arguments, [a.array if isinstance(a, Tensor) else a for a in arguments], answer

    def _changed(
        self, arguments: tuple[Any, ...], numbers: int
    ) -> tuple[tuple[Any, ...], np.dtype[Any] | None]:
        a_step = any(isinstance(a, Tensor) and a.dtype.kind == "c" for a in arguments)
        arguments = tuple(
            python_number(a) if i >= numbers else _operand(i, a, a_step)
            for i, a in enumerate(arguments)
        )
        dtypes = [a.dtype for a in arguments[:numbers] if hasattr(a, "dtype")]
        if not dtypes or not (self.whole or self.half):
            return arguments, None
        meeting = np.result_type(*dtypes)
        working = self.working(meeting, arguments)
        if working.kind == "c":  # a complex step: only formulas, which need no meeting
            return arguments, None
        changed = (
            a.astype(working) if hasattr(a, "dtype") and a.dtype != working else a
            for a in arguments[:numbers]
        )
        rounded_to = _HALF if meeting == _HALF and working == _SINGLE else None
        return (*changed, *arguments[numbers:]), rounded_to

    def working(self, meeting: np.dtype[Any], arguments: tuple[Any, ...]) -> np.dtype[Any]:
        """Return the dtype to compute in, for arrays that meet in `meeting`."""
        if meeting.kind in self.whole:
            return np.promote_types(meeting, self.whole[meeting.kind])
        return _SINGLE if self.half and meeting == _HALF else meeting

    def decorator(self, numbers: int = ALL) -> Callable[[Function], Function]:
        """Return a decorator that applies the rule to the first `numbers` arguments.

        Behind them are masks and indices.
        """

        def decorated(function: Any) -> Any:
            if hasattr(function, "dtype_rule"):  # a primitive, or one with a kernel: it will ask
                function.dtype_rule, function.numbers = self, numbers
                return function
            names = signature(function)

            @wraps(function)
            def settling(*arguments: Any, **options: Any) -> Tensor:
                if options:
                    arguments, options = by_position(names, arguments, options)
                try:
                    arguments, _, answer = self.settled(arguments, numbers)
                except NotReal as error:
                    name = [*names.parameters][error.place]
                    raise TypeError(f"{function.__name__}: {name} {error.what}") from error
                except TypeError as error:
                    raise TypeError(f"{function.__name__}: {error}") from error
                return rounded(function(*arguments, **options), answer)

            return settling

        return decorated


class _PowerRule(Rule):
    """Real numbers, but a whole number to a whole power that cannot be negative is whole."""

    def working(self, meeting: np.dtype[Any], arguments: tuple[Any, ...]) -> np.dtype[Any]:
        exponent = arguments[1]
        if hasattr(exponent, "dtype"):
            from_zero = exponent.dtype.kind in "bu"
        else:
            from_zero = isinstance(exponent, int) and exponent >= 0
        if meeting.kind in "biu" and from_zero:
            return meeting
        return super().working(meeting, arguments)


REAL = Rule(dict.fromkeys("biu", _DOUBLE), half=True)
ARITHMETIC = Rule({}, half=True)
EXACT = Rule({}, half=False)
NEGATION = Rule(dict.fromkeys("biu", _WHOLE), half=False)  # below 0 none is unsigned
SIZE = Rule(dict.fromkeys("bi", _WHOLE), half=False)  # |-128| is not an int8
POWER = _PowerRule(dict.fromkeys("biu", _DOUBLE), half=True)

real, arithmetic, exact = REAL.decorator, ARITHMETIC.decorator, EXACT.decorator


class NotReal(TypeError):
    """An argument, known by its place, is no array of real numbers."""

    def __init__(self, place: int, dtype: np.dtype[Any]):
        self.place = place
        self.what = f"has dtype {dtype}, expected real numbers of at most 64 bits"
        super().__init__(f"argument {place} {self.what}")


def _operand(place: int, value: Any, complex_step: bool) -> Any:
    """Return a tensor, or what may stand beside one: a number; an array or a list, copied."""
    value = python_number(value)
    if type(value) in PYTHON or (complex_step and type(value) is complex):
        return value
    operand = value if isinstance(value, Tensor) else Tensor(as_array(value).copy())
    dtype = operand.dtype
    if is_real(dtype) or (complex_step and dtype.kind == "c"):
        return operand
    raise NotReal(place, dtype)


def python_number(value: Any) -> Any:
    """Return a NumPy scalar as the Python number that it holds, which adapts to what it meets.

    >>> python_number(np.float64(0.5)), python_number("none")
    (0.5, 'none')
    """
    if not isinstance(value, np.generic) or value.dtype.kind not in "biufc":
        return value
    held = value.item()
    if isinstance(held, np.generic):  # longer than Python's: `item` leaves it as it is
        return complex(held) if held.dtype.kind == "c" else float(held)
    return held


def by_position(
    names: Signature, arguments: tuple[Any, ...], options: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the same call with tensors and arrays by position, where the tape looks for them."""
    if not any(hasattr(o, "dtype") or type(o) is list for o in options.values()):
        return arguments, options
    bound = names.bind(*arguments, **options)
    return bound.args, {name: python_number(value) for name, value in bound.kwargs.items()}


def rounded(output: Tensor, dtype: np.dtype[Any] | None) -> Tensor:
    """Return the output in the dtype to round it to, once, if there is one."""
    return output if dtype is None or output.dtype.kind != "f" else output.astype(dtype)
