"""The primitives: a table of operations on arrays, each with its gradient rules beside it.

What a primitive does (the code is in `primitive.py`), for a tensor x:

    forward     y = exp(x): NumPy's exp, or CuPy's, makes the array of y from the array of x. If x
                requires a gradient, so does y, and it keeps its origin: the operation exp, and x.
    back        exp's rule, `lambda g, out, x: g * out`, is called with the cotangent g of y, with y
                itself as `out`, and with what exp was called with. It returns the share of x,
                which is g times the slope of y by x; here the slope is exp(x), so y itself.

There is one rule for each argument, in order. Where an element of x is used for several elements
of y, its share is the sum of g dy/dx over them. (The field calls a rule a vector-Jacobian product,
`vjp`. The Jacobian itself, the slope of every element by every element, is never made.)

An entry of the table has one of two forms:

    f = elementwise("f", "what it returns", rule_of_x, rule_of_y, value=lambda x, y: ...)
    @primitive above a function on arrays, and below it f.vjp(rule_of_x, rule_of_y)

Without `value`, the library's function of that name computes. Rules are written in operations of
this table, so a gradient has a gradient. `Tensor(...)` in a rule makes a constant, such as a sign.
Rules ignore broadcasting and dtypes: the walk back brings each share into the form of its argument
(`unbroadcast` in `tape.py`).

A word at each entry says what becomes of whole numbers, for instance in exp, add and where:
REAL, `@real()`: float64; ARITHMETIC, EXACT: they stay whole (`dtypes.py`; `elementwise` is REAL
unless it names another). `numbers=1`: only the first argument is numbers, the others are indices.
`x.real`: `gradcheck` finds slopes with complex arrays, as the imaginary part of f(x + ih) / h for a
tiny h, and only real numbers can be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from minimono import backend, checks, sums
from minimono.backend import Array, array_module
from minimono.engine.dtypes import ARITHMETIC, EXACT, NEGATION, POWER, SIZE, arithmetic, exact, real
from minimono.engine.fused import with_kernel
from minimono.engine.ownership import own_constant
from minimono.engine.primitive import Primitive, elementwise, primitive, reduction
from minimono.engine.scatter import scattered
from minimono.engine.tensor import Axis, Operand, Tensor
from minimono.kernels.seam import with_kernel as with_array_kernel

# ---- numbers: element by element ---------------------------------------------------------------
# g: cotangent of the result; out: the result; x, y: the arguments. A rule returns g d(out)/dx.

add = elementwise("add", "x + y", lambda g, out, x, y: g, lambda g, out, x, y: g,
                  value=lambda x, y: x + y, dtypes=ARITHMETIC)
subtract = elementwise("subtract", "x - y", lambda g, out, x, y: g, lambda g, out, x, y: -g,
                       value=lambda x, y: x - y, dtypes=ARITHMETIC)
multiply = elementwise("multiply", "x y", lambda g, out, x, y: g * y, lambda g, out, x, y: g * x,
                       value=lambda x, y: x * y, dtypes=ARITHMETIC)
divide = elementwise("divide", "x / y", lambda g, out, x, y: g / y,  # -x / y^2 is -out / y
                     lambda g, out, x, y: -g * out / y, value=lambda x, y: x / y)
negative = elementwise("negative", "-x", lambda g, out, x: -g, value=lambda x: -x, dtypes=NEGATION)
power = elementwise("power", "x to the power y",
                    lambda g, out, x, y: g * _slope_by_base(out, x, y),
                    lambda g, out, x, y: g * _slope_by_exponent(out, x, y),
                    value=lambda x, y: x**y, dtypes=POWER)

exp = elementwise("exp", "e to the power x", lambda g, out, x: g * out, kernel=True)
log = elementwise("log", "the natural logarithm of x", lambda g, out, x: g / x, kernel=True)
log1p = elementwise("log1p", "log(1 + x), to all digits for small x too",
                    lambda g, out, x: g / (1.0 + x), kernel=True)
sqrt = elementwise("sqrt", "the square root of x", lambda g, out, x: 0.5 * g / out)
sin = elementwise("sin", "the sine of x in radians", lambda g, out, x: g * cos(x), kernel=True)
cos: Primitive = elementwise("cos", "the cosine of x in radians", lambda g, out, x: -g * sin(x),
                             kernel=True)
erfc = elementwise("erfc", "1 - erf(x), the complementary error function",
                   lambda g, out, x: g * (-2.0 / np.pi**0.5) * exp(-x * x),
                   value=backend.erfc, kernel=True)


@with_array_kernel("elementary", on=("cpu",), floats=True)
def _sign(x: Array) -> Array:
    """Return -1, 0 or 1; nan of nan."""
    return array_module(x).sign(x.real)


absolute = elementwise("absolute", "|x|, whose slope at 0 is 0",
                       lambda g, out, x: g * Tensor(_sign(x.array)),
                       value=lambda x: x * _sign(x) if x.dtype.kind == "c" else abs(x), dtypes=SIZE)
maximum = elementwise("maximum", "the larger (at a tie each gets half of the gradient)",
                      lambda g, out, x, y: g * _part_of_larger(x, y),
                      lambda g, out, x, y: g * _part_of_larger(y, x), dtypes=EXACT)
minimum = elementwise("minimum", "the smaller (at a tie each gets half of the gradient)",
                      lambda g, out, x, y: g * _part_of_larger(y, x),
                      lambda g, out, x, y: g * _part_of_larger(x, y), dtypes=EXACT)

# Booleans, which have no gradient.
less = elementwise("less", "x < y", value=lambda x, y: x < y, dtypes=EXACT)
less_equal = elementwise("less_equal", "x <= y", value=lambda x, y: x <= y, dtypes=EXACT)
greater = elementwise("greater", "x > y", value=lambda x, y: x > y, dtypes=EXACT)
greater_equal = elementwise("greater_equal", "x >= y", value=lambda x, y: x >= y, dtypes=EXACT)
equal = elementwise("equal", "x == y", dtypes=EXACT)
not_equal = elementwise("not_equal", "x != y", dtypes=EXACT)


@real()
@primitive
def sech_squared(x: Array) -> Array:
    """Return 1 - tanh(x)^2, element by element, to all digits for large x too: tanh's slope."""
    # (2 / (exp(x) + exp(-x)))^2, numerator and denominator times exp(-|x|): nothing overflows.
    xp = array_module(x)  # NumPy or CuPy, whichever x belongs to
    small = xp.exp(xp.where(x.real < 0, x, -x))
    sech = 2.0 * small / (1.0 + small * small)
    return sech * sech


sech_squared.vjp(lambda g, out, x: -2.0 * g * out * tanh(x))
_tanh = elementwise("tanh", "the hyperbolic tangent of x", lambda g, out, x: g * sech_squared(x))
tanh: Any = real()(with_kernel("elementary", on=("cpu",))(_tanh))  # 1 - out^2 loses its digits


@exact()
@primitive
def where(condition: Array, x: Array, y: Array) -> Array:
    """Return `x` where the condition holds, else `y`; the gradient goes to the one returned."""
    return array_module(condition, x, y).where(condition, x, y)


where.vjp(None, lambda g, out, condition, x, y: where(condition, g, 0.0),  # a condition has none
          lambda g, out, condition, x, y: where(condition, 0.0, g))


def _slope_by_base(out: Tensor, x: Operand, y: Operand) -> Tensor:
    """Return y x^(y - 1), the slope of x^y by x, and 0 where that would be 0 times infinity."""
    # First such place: y = 0, and x = 0 or so near that 1 / x overflows. `flat` is 1 there, so that
    # the power is x^0 = 1; the product is 0. At other x with y = 0 the formula must stay as it is:
    # it is differentiated by y in a second derivative, and its slope by y is 1 / x, not 0.
    flat = _array(y) == 0
    if flat is not False:  # which it is for a number other than 0, as in x**2
        flat = (flat & ~(abs(_array(x)) >= np.finfo(out.dtype).tiny)).astype(out.dtype)  # nan too
    change: Any = x ** (y - 1.0 + flat)
    if not isinstance(y, int | float):  # second place: y infinite, and the power 0
        y = where(_array(change) == 0, 0.0, y)
    return y * change  # type: ignore[no-any-return]


def _slope_by_exponent(out: Tensor, x: Operand, y: Operand) -> Tensor:
    """Return x^y log x, the slope of x^y by y, and 0 where that would be 0 times infinity."""
    # So it is where x^y is 0 and log x infinite: at x = 0 for y > 0, at infinite x for y < 0. At
    # x = y = 0 the slope is set to 0 too. `flat` is true there, and log 1, which is 0, is taken.
    if not isinstance(x, Tensor):
        x = Tensor(array_module(out.array).asarray(x, dtype=out.dtype))
    flat = (x.array.real >= 0) & ((out.array == 0) | ((x.array == 0) & (_array(y) == 0)))
    return out * log(where(flat, 1.0, x))


def _part_of_larger(x: Operand, y: Operand) -> Tensor:
    """Return which part of the gradient of the larger is due to x: 1, 0, or 1/2 at a tie.

    Beside nan the result is nan, and both get all of its gradient, as in PyTorch.
    """
    x, y = _array(x), _array(y)
    xp = array_module(x, y)
    part = xp.asarray(xp.where(x == y, 0.5, xp.where(x < y, 0.0, 1.0)))
    return Tensor(part.astype(xp.result_type(x, y)))


def _array(x: Operand) -> Array:
    """Return the array of a tensor; anything else, say a number, as it is."""
    return x.array if isinstance(x, Tensor) else x


# ---- matrices ----------------------------------------------------------------------------------
# Of Z = X Y the shares are g Y^T and X^T g, since dZ = dX Y + X dY. The rest is about shapes: of
# stacks of matrices, (..., n, m), the last two axes are transposed; vectors have only one axis.


@real()
@primitive
def matmul(x: Array, y: Array) -> Array:
    """Multiply matrices, or stacks of them; a vector is a row on the left, a column right."""
    if getattr(x, "ndim", 0) < 1 or getattr(y, "ndim", 0) < 1:
        raise ValueError("expected vectors and matrices, not a number; multiply with *")
    return sums.product(x, y)


def _matmul_left_rule(g: Tensor, out: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return g Y^T. For a vector x of shape (n,) it is (..., 1, n), which the walk back adds up."""
    column = y.reshape(-1, 1) if y.ndim == 1 else y  # (n,) -> (n, 1)
    return _as_matrices(g, x, y) @ column.swapaxes(-1, -2)


def _matmul_right_rule(g: Tensor, out: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return X^T g."""
    row = x.reshape(1, -1) if x.ndim == 1 else x  # (n,) -> (1, n)
    share = row.swapaxes(-1, -2) @ _as_matrices(g, x, y)
    return share.reshape(share.shape[:-1]) if y.ndim == 1 else share  # (..., n, 1) -> (..., n)


def _as_matrices(g: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Put back, with length 1, the axes that a product with vectors has taken out."""
    if y.ndim == 1:
        g = g.reshape(*g.shape, 1)
    return g.reshape(*g.shape[:-1], 1, g.shape[-1]) if x.ndim == 1 else g


matmul.vjp(_matmul_left_rule, _matmul_right_rule)

# ---- shapes ------------------------------------------------------------------------------------


@primitive
def reshape(x: Array, *shape: int | tuple[int, ...]) -> Array:
    """Return the same elements in another shape; one length may be -1: whatever is left."""
    return x.reshape(*checks.new_shape(shape, "shape"))


@primitive
def transpose(x: Array, *axes: int) -> Array:
    """Put the axes in the given order; without one, in reverse."""
    return x.transpose(axes or None)


@primitive
def swapaxes(x: Array, axis: int, other: int) -> Array:
    """Exchange two axes."""
    return x.swapaxes(axis, other)


@primitive
def broadcast_to(x: Array, shape: tuple[int, ...]) -> Array:
    """Repeat `x` along axes of length 1, and along new ones in front, to this shape."""
    return array_module(x).broadcast_to(x, shape)


@primitive
def pad(x: Array, widths: tuple[tuple[int, int], ...]) -> Array:
    """Put zeros around `x`: `widths[i] = (before, after)` along axis i."""
    if len(widths) != x.ndim:
        raise ValueError(f"expected a pair (before, after) for each of {x.ndim} axes")
    shape = [before + n + after for (before, after), n in zip(widths, x.shape, strict=True)]
    out = array_module(x).zeros(shape, x.dtype)
    out[_inside(widths, x.shape)] = x
    return out


def _inside(widths: tuple[tuple[int, int], ...], shape: tuple[int, ...]) -> tuple[slice, ...]:
    """Return the index of all but the zeros around."""
    return tuple(slice(before, before + n) for (before, _), n in zip(widths, shape, strict=True))


@primitive
def concatenate(*xs: Array, axis: int) -> Array:
    """Join tensors one after another along an axis."""
    return array_module(*xs).concatenate(xs, axis=axis)


@primitive
def _stack(*xs: Array, axis: int) -> Array:
    return array_module(*xs).stack(xs, axis=axis)


def stack(tensors: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Put tensors of one shape side by side along a new axis."""
    return _stack(*tensors, axis=axis)


def _concatenate_rule(g: Tensor, out: Tensor, *xs: Operand, axis: int) -> Iterator[Tensor]:
    """Yield for each of `xs` the piece of g that lies where it lay."""
    stop = 0
    for x in xs:
        start, stop = stop, stop + _array(x).shape[axis]
        yield g[(slice(None),) * (axis % g.ndim) + (slice(start, stop),)]


# Elements only change their places. On the way back g goes to the places where they came from.
reshape.vjp(lambda g, out, x, *shape: g.reshape(x.shape))
# Axis i of the result was axis axes[i] of x; the order that puts all back is what argsort returns.
transpose.vjp(lambda g, out, x, *axes:
              transpose(g, *np.argsort([a % x.ndim for a in axes]).tolist()))
swapaxes.vjp(lambda g, out, x, axis, other: swapaxes(g, axis, other))
broadcast_to.vjp(lambda g, out, x, shape: g)  # the walk back adds up over what was repeated
pad.vjp(lambda g, out, x, widths: g[_inside(widths, x.shape)])
concatenate.vjp_of_all(_concatenate_rule)
_stack.vjp_of_all(lambda g, out, *xs, axis:
                  [g[(slice(None),) * (axis % g.ndim) + (i,)] for i in range(len(xs))])

# ---- along axes --------------------------------------------------------------------------------
# `sums.py` adds up in pairs, so that a sum of many float32 numbers keeps its digits.


@arithmetic()
@reduction
def sum(x: Array, axis: Axis = None, keepdims: bool = False) -> Array:
    """Return the sum along the axes; without axes, of all elements."""
    return sums.total(x, axis, keepdims)


@real()
@reduction
def mean(x: Array, axis: Axis = None, keepdims: bool = False) -> Array:
    """Return the mean along the axes; without axes, of all elements."""
    return sums.mean(x, axis, keepdims)


@arithmetic()
@reduction
def max(x: Array, axis: Axis = None, keepdims: bool = False) -> Array:
    """Return the largest along the axes; tied elements share the gradient equally."""
    return x.max(axis=axis, keepdims=keepdims)


@arithmetic()
@reduction
def min(x: Array, axis: Axis = None, keepdims: bool = False) -> Array:
    """Return the smallest along the axes; tied elements share the gradient equally."""
    return x.min(axis=axis, keepdims=keepdims)


def _extreme_rule(
    g: Tensor, out: Tensor, x: Tensor, axis: Axis = None, keepdims: bool = False
) -> Tensor:
    """Return g for the extreme element, divided among those that are equal to it.

    Beside nan, which is equal to nothing, all get nan, as with PyTorch's `amax`.
    """
    extreme = x.array == _with_axes(out.detach(), x, axis, keepdims).array
    part = extreme / extreme.sum(axis=axis, keepdims=True)
    return _with_axes(g, x, axis, keepdims) * Tensor(part.astype(x.dtype))


def _with_axes(g: Tensor, x: Tensor, axis: Axis, keepdims: bool) -> Tensor:
    """Put back, with length 1, the axes of `x` that a sum or a maximum has taken out."""
    if keepdims:
        return g
    reduced = sums.axes_of(x.array, axis)
    return g.reshape(tuple(1 if i in reduced else n for i, n in enumerate(x.shape)))


# An element of x is in one sum, with slope 1: its share is that sum's g.
sum.vjp(lambda g, out, x, axis=None, keepdims=False:
        broadcast_to(_with_axes(g, x, axis, keepdims), x.shape))
# A mean of n elements is their sum / n, where n is x.size / out.size. (`or 1`: out may be empty.)
mean.vjp(lambda g, out, x, axis=None, keepdims=False:
         broadcast_to(_with_axes(g / (x.size // (out.size or 1)), x, axis, keepdims), x.shape))
max.vjp(_extreme_rule)
min.vjp(_extreme_rule)


@arithmetic()
@primitive
@with_array_kernel("sums", on=("cpu",), floats=True)
def cumsum(x: Array, axis: int = -1) -> Array:
    """Return for each element the sum of all up to it, along an axis."""
    return sums.running(x, axis)


@primitive
def flip(x: Array, axis: int = -1) -> Array:
    """Reverse an axis; a number, whose axes 0 and -1 hold only itself, stays."""
    axes = sums.axes_of(x, axis)
    return x[tuple(slice(None, None, -1 if a in axes else 1) for a in range(x.ndim))]


# Element i of x is in sum i and all later ones: its share is the sum of g from i to the end.
cumsum.vjp(lambda g, out, x, axis=-1: flip(cumsum(flip(g, axis=axis), axis=axis), axis=axis))
flip.vjp(lambda g, out, x, axis=-1: flip(g, axis=axis))

# ---- picking and placing elements (gather and scatter) -----------------------------------------
# x[index] picks elements. Going back, their g is put into zeros, in the same places, and added up
# where a place was picked twice: that is scatter_add. And going back through it is picking again.


@primitive
def _pick(x: Array, index: Any) -> Array:
    return x[index]


@arithmetic(numbers=1)
@primitive
def _place(values: Array, index: Any, shape: tuple[int, ...]) -> Array:
    return scattered(values, index, shape)


_pick.name, _place.name, _stack.name = "getitem", "scatter_add", "stack"
_pick.vjp(lambda g, out, x, index: _place(g, index, x.shape))
_place.vjp(lambda g, out, values, index, shape: _pick(g, index))


def getitem(x: Tensor, index: Any) -> Tensor:
    """Return `x[index]`: by integers, slices, `None`, `...`, integer or boolean arrays."""
    return _pick(x, _index_arrays(index))


def scatter_add(values: Tensor, index: Any, shape: tuple[int, ...]) -> Tensor:
    """Return zeros of `shape` with `values` added at `index`; a place named twice gets both."""
    return _place(values, _index_arrays(index), shape)


def _index_arrays(index: Any) -> Any:
    """Return an index without tensors; lists and arrays in it are copied, for the tape to keep."""
    if isinstance(index, tuple):
        return tuple(own_constant(_index_arrays(part)) for part in index)
    return np.array(index) if isinstance(index, list) else _array(index)


# ---- dtype and device --------------------------------------------------------------------------


@primitive
def astype(x: Array, dtype: Any) -> Array:
    """Return the same numbers as another dtype, rounded where that needs it."""
    return x.astype(dtype)


@primitive
def to(x: Array, device: str) -> Array:
    """Return the same numbers on "cpu" or "cuda"."""
    return backend.to_device(x, device)


astype.vjp(lambda g, out, x, dtype: g)  # the walk back rounds it to the dtype of x
to.vjp(lambda g, out, x, device: to(g, x.device))

# ---- the operators and methods of Tensor -------------------------------------------------------


def _swapped(operation: Primitive) -> Callable[[Tensor, Operand], Tensor]:
    """Return what `1.0 - y` calls, which is `y.__rsub__(1.0)`: the same with x on the left."""

    def swapped(y: Tensor, x: Operand) -> Tensor:
        return operation(x, y)

    swapped.__doc__ = operation.__doc__
    return swapped


for _word, _operation in {
    "add": add, "sub": subtract, "mul": multiply, "truediv": divide, "pow": power, "matmul": matmul,
}.items():
    setattr(Tensor, f"__{_word}__", _operation)
    setattr(Tensor, f"__r{_word}__", _swapped(_operation))
for _word, _function in {
    "neg": negative, "abs": absolute, "getitem": getitem, "lt": less, "le": less_equal,
    "gt": greater, "ge": greater_equal, "eq": equal, "ne": not_equal,
}.items():
    setattr(Tensor, f"__{_word}__", _function)
for _f in (exp, log, sqrt, tanh, sum, mean, max, min, reshape, transpose, swapaxes, astype, to):
    setattr(Tensor, _f.name, _f)
setattr(Tensor, "T", property(transpose))  # noqa: B010  (mypy knows the stub)
