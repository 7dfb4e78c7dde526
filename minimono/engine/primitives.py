"""The primitives: each a function on arrays, with its gradient rules directly below it.

A rule takes the cotangent `g` of the output, the output, and the arguments, all as tensors, and
returns the cotangent of one argument; one rule for each argument that has a gradient, in order.
Rules ignore broadcasting: the walk back undoes it (`tensor.like`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from inspect import signature
from types import MethodType
from typing import Any

import numpy as np

from minimono import backend, kernels, sums
from minimono.backend import Array, array_module
from minimono.engine import dtypes
from minimono.engine.dtypes import arithmetic, exact, real
from minimono.engine.tensor import (
    Axis,
    Operand,
    Origin,
    Tensor,
    as_tensor,
    copy_of_lent,
    is_recording,
)

Rule = Callable[..., Tensor]


class Primitive:
    """An operation on arrays that tensors can go through; made by the decorator `primitive`."""

    def __init__(self, forward: Callable[..., Array]):
        self.forward = forward
        self.name = forward.__name__
        self.__doc__, self.__name__ = forward.__doc__, forward.__name__
        self.__wrapped__ = forward  # so that `help` shows its signature
        self.rules: tuple[Rule | None, ...] = ()
        self.rule_of_all: Callable[..., Iterable[Tensor | None]] | None = None
        self.dtype_rule: dtypes.Rule | None = None
        self.numbers = dtypes.ALL

    def vjp(self, *rules: Rule | None) -> None:
        """Give the vector-Jacobian products, one per argument; None for one without gradient."""
        self.rules = rules

    def vjp_of_all(self, rule: Callable[..., Iterable[Tensor | None]]) -> None:
        """Give one rule that returns the cotangents of all arguments, in order."""
        self.rule_of_all = rule

    def __call__(self, *arguments: Any, **options: Any) -> Tensor:
        answer = None
        if options and any(isinstance(o, Tensor | np.generic) for o in options.values()):
            if any(isinstance(o, Tensor) for o in options.values()):
                raise TypeError(f"{self.name}: pass tensors by position, not by name")
            options = {name: dtypes.python_number(o) for name, o in options.items()}
        try:
            if self.dtype_rule is None:
                data = [a.array if isinstance(a, Tensor) else a for a in arguments]
            else:
                arguments, data, answer = self.dtype_rule.settled(arguments, self.numbers)
            output = self.forward(*data, **options)
        except (ValueError, TypeError, IndexError, OverflowError) as error:
            raise explained(error, self.name, arguments) from error
        made = made_by(self, arguments, data, options, output)
        return made if answer is None else dtypes.rounded(made, answer)

    def pull(
        self, cotangent: Tensor, output: Tensor, wanted: Set[int]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        assert output.origin is not None
        arguments, options = output.origin.arguments, output.origin.options
        if self.rule_of_all is not None:
            shares = self.rule_of_all(cotangent, output, *arguments, **options)
            for argument, share in zip(arguments, shares, strict=True):
                if share is not None and id(argument) in wanted:
                    yield argument, share
            return
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
                yield argument, rule(cotangent, output, *arguments, **options)

    def __repr__(self) -> str:
        return f"{self.name}{signature(self.forward)}"

    def __get__(self, instance: Any, owner: Any) -> Any:
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


def made_by(
    operation: Any, arguments: tuple[Any, ...], arrays: list[Any], options: dict[str, Any],
    output: Array, saved: Any = None,
) -> Tensor:
    """The output as a tensor, with its origin on the tape if any argument needs a gradient.

    Integers and booleans have no gradient: with them the tape ends. Raises TypeError for others.
    """
    kind = output.dtype.kind
    if kind in "fc" and is_recording():
        needed = outside = False
        for argument in arguments:
            if isinstance(argument, Tensor):
                needed = needed or argument.requires_grad
                outside = outside or argument.lent is not None
            else:
                outside = outside or hasattr(argument, "dtype")
        if needed:
            seen = arrays
            if outside:  # somebody may write into the array of an argument
                arguments = tuple([_own(a) for a in arguments])
                seen = [copy_of_lent(a, b) for a, b in zip(arguments, arrays, strict=True)]
            made = Tensor(output, True, Origin(operation, arguments, options, saved, seen))
            seen.append(made.array)
            return made
    elif kind not in "fciub":
        raise TypeError(f"{operation.name}: the result has dtype {output.dtype}, expected numbers")
    return Tensor(output)


def _own(argument: Any) -> Any:
    """A constant of the tape: an array that came beside tensors, copied. A tensor as it is."""
    is_array = hasattr(argument, "dtype") and not isinstance(argument, Tensor)
    return argument.copy() if is_array else argument


def explained(error: Exception, name: str, arguments: tuple[Any, ...]) -> Exception:
    """The error again, saying which function it is from and what that was given."""
    data = [a.array if isinstance(a, Tensor) else a for a in arguments]
    shapes = ", ".join(
        f"{a.dtype}{list(a.shape)} on {backend.device_of(a)}" if hasattr(a, "shape") else repr(a)
        for a in data
    )
    # Not type(error): some of NumPy's own kinds of TypeError cannot be made from a message.
    kinds = (ValueError, TypeError, IndexError, OverflowError)
    kind = next(k for k in kinds if isinstance(error, k))
    return kind(f"{name}({shapes}): {error}")


def constant(array: Array) -> Tensor:
    return Tensor(array)


# ---- arithmetic --------------------------------------------------------------------------------


@arithmetic()
@primitive
def add(x: Array, y: Array) -> Array:
    """x + y, element by element, broadcast as in NumPy."""
    return x + y


add.vjp(lambda g, out, x, y: g, lambda g, out, x, y: g)


@arithmetic()
@primitive
def subtract(x: Array, y: Array) -> Array:
    """x - y, element by element."""
    return x - y


subtract.vjp(lambda g, out, x, y: g, lambda g, out, x, y: -g)


@arithmetic()
@primitive
def multiply(x: Array, y: Array) -> Array:
    """x y, element by element."""
    return x * y


multiply.vjp(lambda g, out, x, y: g * y, lambda g, out, x, y: g * x)


@real()
@primitive
def divide(x: Array, y: Array) -> Array:
    """x / y, element by element."""
    return x / y


divide.vjp(lambda g, out, x, y: g / y, lambda g, out, x, y: -g * out / y)


@dtypes.negation()
@primitive
def negative(x: Array) -> Array:
    """-x, element by element."""
    return -x


negative.vjp(lambda g, out, x: -g)


@dtypes.real_power()
@primitive
def power(x: Array, y: Array) -> Array:
    """x to the power y, element by element."""
    return x**y


def _power_base_rule(g: Tensor, out: Tensor, x: Operand, y: Operand) -> Tensor:
    # At y = 0 the slope is 0, also where x = 0, though 0 * 0**-1 would be nan: there 1 is added.
    # Nowhere else, where the formula has a slope by y, 1 / x.
    flat = _data(y) == 0
    if flat is not False:  # which it is for most numbers y
        flat = (flat & ~(abs(_data(x)) >= np.finfo(out.dtype).tiny)).astype(out.dtype)  # nan too
    change: Any = x ** (y - 1.0 + flat)
    if not isinstance(y, int | float):  # the slope vanishes with the power, also for infinite y
        y = where(_data(change) == 0, 0.0, y)
    slope: Tensor = y * change
    return g * slope


def _power_exponent_rule(g: Tensor, out: Tensor, x: Operand, y: Operand) -> Tensor:
    # Of x = 0 (y >= 0) and of an infinite x (y < 0) the slope is 0, though 0 * log x would be nan.
    if not isinstance(x, Tensor):
        x = constant(array_module(out.array).asarray(x, dtype=out.dtype))
    flat = (x.array.real >= 0) & ((out.array == 0) | ((x.array == 0) & (_data(y) == 0)))
    slope: Tensor = out * log(where(flat, 1.0, x))
    return g * slope


power.vjp(_power_base_rule, _power_exponent_rule)


@real()
@primitive
def matmul(x: Array, y: Array) -> Array:
    """Products of matrices, or of stacks of them; a vector is a row on the left, a column right."""
    if getattr(x, "ndim", 0) < 1 or getattr(y, "ndim", 0) < 1:
        raise ValueError("matmul takes vectors and matrices, not a number: multiply with *")
    return sums.product(x, y)


def _matmul_left_rule(g: Tensor, out: Tensor, x: Operand, y: Operand) -> Tensor:
    row, column = as_tensor(x).ndim == 1, as_tensor(y).ndim == 1
    y = as_tensor(y).reshape(-1, 1) if column else as_tensor(y)  # (n,) -> (n, 1)
    # (..., 1, n) for a vector x: the walk back adds up to (n,)
    return _as_matrices(g, row, column) @ y.swapaxes(-1, -2)


def _matmul_right_rule(g: Tensor, out: Tensor, x: Operand, y: Operand) -> Tensor:
    row, column = as_tensor(x).ndim == 1, as_tensor(y).ndim == 1
    x = as_tensor(x).reshape(1, -1) if row else as_tensor(x)  # (n,) -> (1, n)
    share = x.swapaxes(-1, -2) @ _as_matrices(g, row, column)
    return share.reshape(share.shape[:-1]) if column else share  # (..., n, 1) -> (..., n)


def _as_matrices(g: Tensor, row: bool, column: bool) -> Tensor:
    """Put back, with length 1, the axis that the product with a vector has taken out."""
    if column:
        g = g.reshape(*g.shape, 1)
    return g.reshape(*g.shape[:-1], 1, g.shape[-1]) if row else g


matmul.vjp(_matmul_left_rule, _matmul_right_rule)

# ---- functions of one number -------------------------------------------------------------------


@real()
@primitive
def exp(x: Array) -> Array:
    """e to the power x, element by element."""
    return array_module(x).exp(x)


exp.vjp(lambda g, out, x: g * out)


@real()
@primitive
def log(x: Array) -> Array:
    """The natural logarithm, element by element."""
    return array_module(x).log(x)


log.vjp(lambda g, out, x: g / x)


@real()
@primitive
def expm1(x: Array) -> Array:
    """exp(x) - 1, to all digits for small x too."""
    return array_module(x).expm1(x)


expm1.vjp(lambda g, out, x: g * exp(x))  # out + 1 would lose its digits


@real()
@primitive
def log1p(x: Array) -> Array:
    """log(1 + x), to all digits for small x too."""
    return array_module(x).log1p(x)


log1p.vjp(lambda g, out, x: g / (1.0 + x))


@real()
@primitive
def sqrt(x: Array) -> Array:
    """The square root, element by element."""
    return array_module(x).sqrt(x)


sqrt.vjp(lambda g, out, x: 0.5 * g / out)


@real()
@primitive
def sin(x: Array) -> Array:
    """The sine of an angle in radians, element by element."""
    return array_module(x).sin(x)


@real()
@primitive
def cos(x: Array) -> Array:
    """The cosine of an angle in radians, element by element."""
    return array_module(x).cos(x)


sin.vjp(lambda g, out, x: g * cos(x))
cos.vjp(lambda g, out, x: -g * sin(x))


@real()
@primitive
def tanh(x: Array) -> Array:
    """The hyperbolic tangent, element by element."""
    return array_module(x).tanh(x)


@real()
@primitive
def sech_squared(x: Array) -> Array:
    """1 - tanh(x)^2, element by element, to all digits for large x too: the slope of tanh."""
    # (2 / (exp(x) + exp(-x)))^2, written so that no exponential overflows.
    xp = array_module(x)
    small = xp.exp(xp.where(x.real < 0, x, -x))
    sech = 2.0 * small / (1.0 + small * small)
    return sech * sech


tanh.vjp(lambda g, out, x: g * sech_squared(x))
sech_squared.vjp(lambda g, out, x: -2.0 * g * out * tanh(x))


@real()
@primitive
def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), element by element."""
    # 1 / (1 + exp(-x)), written so that no exponential overflows and small values keep all digits.
    xp = array_module(x)
    small = xp.exp(xp.where(x.real < 0, x, -x))
    return xp.where(x.real < 0, small, 1.0) / (1.0 + small)


sigmoid.vjp(lambda g, out, x: g * out * sigmoid(-x))  # 1 - out would lose its digits


@real()
@primitive
def erfc(x: Array) -> Array:
    """The complementary error function, 1 - erf(x), element by element."""
    return backend.erfc(x)


erfc.vjp(lambda g, out, x: g * (-2.0 / np.pi**0.5) * exp(-x * x))


@dtypes.size()
@primitive
def absolute(x: Array) -> Array:
    """|x|, element by element; slope 0 at 0."""
    return x * array_module(x).sign(x.real)  # of complex x too, for the complex step


absolute.vjp(lambda g, out, x: g * _signs(x))

# ---- choices -----------------------------------------------------------------------------------


@exact()
@primitive
def where(condition: Array, x: Array, y: Array) -> Array:
    """`x` where the condition holds, `y` elsewhere; the gradient goes where the value came from."""
    return array_module(condition, x, y).where(condition, x, y)


where.vjp(
    None,
    lambda g, out, condition, x, y: where(condition, g, 0.0),
    lambda g, out, condition, x, y: where(condition, 0.0, g),
)


@exact()
@primitive
def maximum(x: Array, y: Array) -> Array:
    """The larger; at a tie each argument gets half of the gradient."""
    return array_module(x, y).maximum(x, y)


maximum.vjp(
    lambda g, out, x, y: g * _share_of_larger(_data(x), _data(y)),
    lambda g, out, x, y: g * _share_of_larger(_data(y), _data(x)),
)


@exact()
@primitive
def minimum(x: Array, y: Array) -> Array:
    """The smaller; at a tie each argument gets half of the gradient."""
    return array_module(x, y).minimum(x, y)


minimum.vjp(
    lambda g, out, x, y: g * _share_of_larger(_data(y), _data(x)),
    lambda g, out, x, y: g * _share_of_larger(_data(x), _data(y)),
)


def _data(x: Operand) -> Array:
    return x.array if isinstance(x, Tensor) else x


def _signs(x: Tensor) -> Tensor:
    return constant(array_module(x.array).sign(x.array.real))


def _share_of_larger(x: Array, y: Array) -> Tensor:
    xp = array_module(x, y)
    dtype = xp.result_type(x, y)
    return constant(xp.asarray(xp.where(x == y, 0.5, xp.where(x > y, 1.0, 0.0))).astype(dtype))


# ---- sums and extremes along axes --------------------------------------------------------------


@arithmetic()
@primitive
def sum(x: Array, axis: Axis = None, keepdims: bool = False) -> Array:
    """The sum along the axes, of all elements without them."""
    return sums.total(x, axis, keepdims)


def _sum_rule(
    g: Tensor, out: Tensor, x: Tensor, axis: Axis = None, keepdims: bool = False
) -> Tensor:
    return broadcast_to(_with_axes(g, x, axis, keepdims), x.shape)


sum.vjp(_sum_rule)


@real()
@primitive
def mean(x: Array, axis: Axis = None, keepdims: bool = False) -> Array:
    """The mean along the axes, of all elements without them."""
    return sums.mean(x, axis, keepdims)


def _mean_rule(
    g: Tensor, out: Tensor, x: Tensor, axis: Axis = None, keepdims: bool = False
) -> Tensor:
    count = math.prod(x.shape[a] for a in sums.axes_of(x.array, axis))
    return broadcast_to(_with_axes(g / count, x, axis, keepdims), x.shape)


mean.vjp(_mean_rule)


@arithmetic()
@primitive
def max(x: Array, axis: Axis = None, keepdims: bool = False) -> Array:
    """The largest along the axes; tied elements share the gradient equally."""
    return x.max(axis=axis, keepdims=keepdims)


def _extreme_rule(
    g: Tensor, out: Tensor, x: Tensor, axis: Axis = None, keepdims: bool = False
) -> Tensor:
    extreme = x.array == _with_axes(out.detach(), x, axis, keepdims).array
    share = extreme / extreme.sum(axis=axis, keepdims=True)
    return _with_axes(g, x, axis, keepdims) * constant(share.astype(x.array.dtype))


max.vjp(_extreme_rule)


@arithmetic()
@primitive
def min(x: Array, axis: Axis = None, keepdims: bool = False) -> Array:
    """The smallest along the axes; tied elements share the gradient equally."""
    return x.min(axis=axis, keepdims=keepdims)


min.vjp(_extreme_rule)


@primitive
def flip(x: Array, axis: int = -1) -> Array:
    """In reverse along an axis; a number, whose axes 0 and -1 hold only itself, stays."""
    axes = tuple(sums.axes_of(x, axis))
    return array_module(x).flip(x, axis=axes) if axes else x.copy()


flip.vjp(lambda g, out, x, axis=-1: flip(g, axis=axis))


@arithmetic()
@primitive
def cumsum(x: Array, axis: int = -1) -> Array:
    """The sums of all elements up to each, along an axis."""
    return sums.running(x, axis)


def _cumsum_rule(g: Tensor, out: Tensor, x: Tensor, axis: int = -1) -> Tensor:
    return flip(cumsum(flip(g, axis=axis), axis=axis), axis=axis)


cumsum.vjp(_cumsum_rule)




def _with_axes(g: Tensor, x: Tensor, axis: Axis, keepdims: bool) -> Tensor:
    """Put back, with length 1, the axes that a reduction of `x` over `axis` has taken out."""
    if keepdims:
        return g
    reduced = sums.axes_of(x.array, axis)
    return g.reshape(tuple(1 if i in reduced else n for i, n in enumerate(x.shape)))


# ---- shapes ------------------------------------------------------------------------------------


@primitive
def _reshape(x: Array, shape: tuple[int, ...]) -> Array:
    return x.reshape(shape)


_reshape.name = "reshape"
_reshape.vjp(lambda g, out, x, shape: _reshape(g, x.shape))


def reshape(x: Tensor, *shape: int | tuple[int, ...]) -> Tensor:
    """The same elements in another shape; one length may be -1, whatever is left."""
    return _reshape(x, shape[0] if len(shape) == 1 and isinstance(shape[0], tuple) else shape)


@primitive
def broadcast_to(x: Array, shape: tuple[int, ...]) -> Array:
    """Repeated along axes of length 1, and new ones in front, to this shape."""
    return array_module(x).broadcast_to(x, shape)


broadcast_to.vjp(lambda g, out, x, shape: g)  # the walk back adds up what was repeated


@primitive
def _transpose(x: Array, axes: tuple[int, ...]) -> Array:
    return x.transpose(axes)


_transpose.name = "transpose"
_transpose.vjp(
    lambda g, out, x, axes: _transpose(g, tuple(np.argsort([a % x.ndim for a in axes]).tolist()))
)


def transpose(x: Tensor, *axes: int) -> Tensor:
    """The axes in the given order; without any, reversed."""
    return _transpose(x, axes or tuple(reversed(range(x.ndim))))


@primitive
def swapaxes(x: Array, axis: int, other: int) -> Array:
    """Two axes change places."""
    return x.swapaxes(axis, other)


swapaxes.vjp(lambda g, out, x, axis, other: swapaxes(g, axis, other))


@primitive
def pad(x: Array, widths: tuple[tuple[int, int], ...]) -> Array:
    """Zeros around `x`: `widths[i] = (before, after)` along axis i."""
    if len(widths) != x.ndim:
        raise ValueError(f"expected a pair (before, after) for each of {x.ndim} axes")
    return array_module(x).pad(x, widths)


pad.vjp(
    lambda g, out, x, widths: g[
        tuple(slice(before, before + n) for (before, _), n in zip(widths, x.shape, strict=True))
    ]
)


@primitive
def concatenate(*xs: Array, axis: int) -> Array:
    """Tensors one after another along an axis."""
    return array_module(*xs).concatenate(xs, axis=axis)


def _concatenate_rule(g: Tensor, out: Tensor, *xs: Operand, axis: int) -> Iterator[Tensor]:
    stop = 0
    for x in xs:
        start, stop = stop, stop + _data(x).shape[axis]
        yield g[(slice(None),) * (axis % g.ndim) + (slice(start, stop),)]


concatenate.vjp_of_all(_concatenate_rule)


def stack(tensors: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Tensors of one shape side by side along a new axis."""

    def with_axis(x: Tensor) -> Tensor:
        at = axis % (x.ndim + 1)
        return x.reshape(*x.shape[:at], 1, *x.shape[at:])

    return concatenate(*(with_axis(x) for x in tensors), axis=axis)


# ---- picking and placing elements --------------------------------------------------------------


@primitive
def _pick(x: Array, index: Any) -> Array:
    return x[index]


@arithmetic(numbers=1)
@primitive
def _place(values: Array, index: Any, shape: tuple[int, ...]) -> Array:
    """Zeros of a shape with the values added where `index` says; repeated indices add up."""
    target = array_module(values).zeros(shape, dtype=values.dtype)
    if _is_basic(index):
        target[index] = values
    elif _is_for_kernel(target):
        kernels.of("cuda", "embedding").scatter_add(target, index, values)  # in a fixed order
    else:
        sums.scatter_add(target, index, values)
    return target


_pick.name = "getitem"
_pick.vjp(lambda g, out, x, index: _place(g, index, x.shape))
_place.name = "scatter_add"
_place.vjp(lambda g, out, values, index, shape: _pick(g, index))


def _is_for_kernel(target: Array) -> bool:
    on_gpu = backend.device_of(target) == "cuda"
    return on_gpu and kernels.enabled() and target.dtype in (np.float32, np.float64)


def _is_basic(index: Any) -> bool:
    """Whether an index only slices, so that no element is picked twice."""
    parts = index if isinstance(index, tuple) else (index,)
    return all(isinstance(p, int | slice | type(None) | type(...)) for p in parts)


def getitem(x: Tensor, index: Any) -> Tensor:
    """`x[index]` with integers, slices, `None`, `...`, integer or boolean arrays."""
    return _pick(x, _index_arrays(index))


def scatter_add(values: Tensor, index: Any, shape: tuple[int, ...]) -> Tensor:
    """Zeros of `shape` with `values` added at `index`; a place named twice gets both."""
    return _place(values, _index_arrays(index), shape)


def _index_arrays(index: Any) -> Any:
    """Arrays for tensors; lists and arrays inside a tuple are copied, for the tape to keep."""
    if isinstance(index, tuple):
        return tuple(_own(_index_arrays(part)) for part in index)
    return np.array(index) if isinstance(index, list) else _data(index)


# ---- dtype, device -----------------------------------------------------------------------------


@primitive
def astype(x: Array, dtype: Any) -> Array:
    """The same numbers as another dtype, rounded where that needs it."""
    return x.astype(dtype)


astype.vjp(lambda g, out, x, dtype: g)  # the walk back returns to the dtype of x


@primitive
def to(x: Array, device: str) -> Array:
    """The same numbers on "cpu" or "cuda"."""
    return backend.to_device(x, device)


to.vjp(lambda g, out, x, device: to(g, x.device))

# ---- comparisons: booleans, which have no gradient ---------------------------------------------


@exact()
@primitive
def less(x: Array, y: Array) -> Array:
    """x < y, element by element: booleans."""
    return x < y


@exact()
@primitive
def less_equal(x: Array, y: Array) -> Array:
    """x <= y, element by element: booleans."""
    return x <= y


@exact()
@primitive
def greater(x: Array, y: Array) -> Array:
    """x > y, element by element: booleans."""
    return x > y


@exact()
@primitive
def greater_equal(x: Array, y: Array) -> Array:
    """x >= y, element by element: booleans."""
    return x >= y


@exact()
@primitive
def equal(x: Array, y: Array) -> Array:
    """x == y, element by element: booleans."""
    return array_module(x, y).equal(x, y)


@exact()
@primitive
def not_equal(x: Array, y: Array) -> Array:
    """x != y, element by element: booleans."""
    return array_module(x, y).not_equal(x, y)


# ---- the operators and methods of Tensor -------------------------------------------------------


def _swapped(operation: Primitive) -> Callable[[Tensor, Operand], Tensor]:
    def swapped(y: Tensor, x: Operand) -> Tensor:
        return operation(x, y)

    swapped.__doc__ = operation.__doc__
    return swapped


for _name, _operation in {
    "__add__": add, "__radd__": _swapped(add),
    "__sub__": subtract, "__rsub__": _swapped(subtract),
    "__mul__": multiply, "__rmul__": _swapped(multiply),
    "__truediv__": divide, "__rtruediv__": _swapped(divide),
    "__pow__": power, "__rpow__": _swapped(power),
    "__matmul__": matmul, "__rmatmul__": _swapped(matmul),
    "__neg__": negative, "__abs__": absolute, "__getitem__": getitem,
    "__lt__": less, "__le__": less_equal, "__gt__": greater, "__ge__": greater_equal,
    "__eq__": equal, "__ne__": not_equal,
    "exp": exp, "log": log, "sqrt": sqrt, "tanh": tanh,
    "sum": sum, "mean": mean, "max": max, "min": min,
    "reshape": reshape, "transpose": transpose, "swapaxes": swapaxes,
    "T": property(transpose), "astype": astype, "to": to,
}.items():  # fmt: skip
    setattr(Tensor, _name, _operation)
