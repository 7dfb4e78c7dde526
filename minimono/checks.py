"""One vocabulary for checking what comes in, and so one wording of errors.

    whole_number, number, share        a setting: its kind and its range
    one_of, several                    a choice by name, a list
    instance, function                 a thing of one class, one to call
    activations, per_neuron, mask,     an array: its dtype and its shape
    values, matrix, labels, floats,
    shaped, layout
    finite, everywhere, entries        what an array, or a saved state, holds

Each takes what came in and a `name`, "function: argument", and returns it ready for use. What is
wrong is said in one form: `name` is, or has dtype, or has shape, this; expected that.
"""

import math
import operator
from collections.abc import Callable, Collection, Iterable, Mapping
from decimal import Decimal
from fractions import Fraction
from numbers import Rational, Real
from typing import Any, TypeAlias, TypeVar

import numpy as np

from minimono.backend import Array, array_module, as_array, is_real

REAL = "real numbers (float16, float32, float64, integers or bools)"
AT_A_TIME = 1 << 24  # numbers that are looked at together (our choice)
Rng: TypeAlias = np.random.Generator | int  # a generator, or the seed of a new one
Choice = TypeVar("Choice", bound=str)
Item = TypeVar("Item")
Kind = TypeVar("Kind")
Function = TypeVar("Function", bound=Callable[..., Any])

# ---- numbers -----------------------------------------------------------------------------------


def whole_number(
    value: int, name: str, *, least: int, most: int | None = None, of: str = ""
) -> int:
    """`value` as an int, if it is a whole number (not a bool) from `least` to `most`.

    of: what `most` is the number of, for the error.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool | np.bool):
        raise TypeError(f"{name} is {value!r}, expected a whole number")
    if number < least:
        raise ValueError(f"{name} is {number}, expected {least} or more")
    if most is not None and number > most:
        raise ValueError(f"{name} is {number}, expected at most {most}" + (of and f", {of}"))
    return number


def whole_numbers(values: Iterable[int], name: str, *, least: int) -> tuple[int, ...]:
    """`values` as ints, if they are several whole numbers of at least `least`."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise TypeError(f"{name} is {values!r}, expected several whole numbers")
    return tuple(whole_number(n, f"{name}[{i}]", least=least) for i, n in enumerate(values))


def several(
    values: Iterable[Item], name: str, what: str, *, count: int | None = None
) -> list[Item]:
    """`values` as a list, if they are `count`, or one at least; `what` they are, for the error."""
    found = list(values)
    if count is None and not found:
        raise ValueError(f"{name} is empty, expected {what} at least")
    if count is not None and len(found) != count:
        raise ValueError(f"{name} has length {len(found)}, expected {count}, {what}")
    return found


def sizes(owner: str, *, least: int = 1, **values: int) -> None:
    """Raise unless each of an owner's arguments is a whole number of at least `least`."""
    for name, value in values.items():
        whole_number(value, f"{owner}: {name}", least=least)


def number(
    value: float, name: str, *, least: float | None = None, above: float | None = None,
    most: float | None = None, below: float | None = None, finite: bool = True,
) -> float:
    """`value` as a float, if it is a real number (not a bool, not nan) in the range asked for.

    finite=False takes infinity too, where the range has it.

    >>> number(1, "f: x", above=0.0, most=1.0)
    1.0
    """
    result = _real(value, name)
    _in_range(result, name, least, above, most, below, finite)
    return result


def numbers(
    values: Iterable[float], name: str, count: int, *, least: float | None = None,
    below: float | None = None,
) -> tuple[float, ...]:
    """`values` as floats, if they are `count` real numbers, each in the range asked for."""
    if not isinstance(values, tuple | list) or len(values) != count:
        raise ValueError(f"{name} is {values!r}, expected {count} numbers")
    return tuple(
        number(x, f"{name}[{i}]", least=least, below=below) for i, x in enumerate(values)
    )


def share(
    value: float | Decimal, name: str, *, least: float | None = None, above: float | None = None,
    most: float | None = None, below: float | None = None,
) -> Fraction:
    """A share as the decimal that it is written as, if it is in the range asked for.

    So np.float32(0.1) is 1/10, and so is 0.1. Whole numbers, fractions and decimals are what they
    are.

    >>> share(np.float16(0.1), "f: p"), share(Decimal("0.07"), "f: p", most=1)
    (Fraction(1, 10), Fraction(7, 100))
    """
    rough = _real(value, name, Decimal)
    _in_range(rough, name, least, above, most, below, True)
    if isinstance(value, Decimal):
        exact = Fraction(value)
    elif isinstance(value, Rational):
        exact = Fraction(int(value.numerator), int(value.denominator))
    elif isinstance(value, np.floating):  # the fewest digits that tell it from its neighbours
        exact = Fraction(np.format_float_scientific(value, unique=True))
    else:
        exact = Fraction(repr(rough))
    _in_range(exact, name, least, above, most, below, True)
    return exact


def drop_probability(value: float, name: str) -> float:
    """`value` as a float, if that share of the elements can be dropped and something be left."""
    return float(share(value, name, least=0, below=1))


def _real(value: float | Decimal, name: str, *also: type) -> float:
    if isinstance(value, bool | np.bool) or not isinstance(value, (Real, *also)):
        raise TypeError(f"{name} is {value!r}, expected a number")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(
            f"{name} is a number that float64 does not reach, expected one below 1.8e308"
        ) from None
    except ValueError:  # Decimal("sNaN")
        raise ValueError(f"{name} is {value!r}, expected a number") from None


def _in_range(
    value: float | Fraction, name: str, least: float | None, above: float | None,
    most: float | None, below: float | None, finite: bool,
) -> None:
    good = (
        value == value
        and (not finite or math.isfinite(value))
        and (least is None or value >= least)
        and (above is None or value > above)
        and (most is None or value <= most)
        and (below is None or value < below)
    )
    if not good:
        low = "" if above is None else f"{above:g} < "
        low = low if least is None else f"{least:g} <= "
        high = "" if below is None else f" < {below:g}"
        high = high if most is None else f" <= {most:g}"
        kind = "a finite number" if finite else "a number"
        if high:
            expected = f"{low}{name.split()[-1].rpartition('.')[2]}{high}"
        elif least is not None:
            expected = f"{kind}, {least:g} or more"
        else:
            expected = f"{kind} above {above:g}" if above is not None else kind
        raise ValueError(f"{name} is {float(value)}, expected {expected}")


def one_of(value: Choice, name: str, choices: Collection[str]) -> Choice:
    """`value`, if it is one of the names to choose from."""
    if not isinstance(value, str) or value not in choices:
        *others, last = (f'"{choice}"' for choice in choices)
        expected = f"{', '.join(others)} or {last}" if others else last
        raise ValueError(f"{name} is {value!r}, expected {expected}")
    return value


def multiple(value: int, name: str, of: int, what: str) -> None:
    """Raise unless `value` is a multiple of `of`; `what` that is, for the error."""
    if value % of:
        raise ValueError(f"{name} is {value}, expected a multiple of {of}, {what}")


def instance(value: Kind, name: str, kind: type[Kind]) -> Kind:
    """`value`, if it is a thing of this class: a Module, a Tensor, text."""
    if not isinstance(value, kind):
        said = repr(value)
        if len(said) > 80 or "\n" in said:  # an array, a whole network
            said = f"a {type(value).__name__}"
        raise TypeError(f"{name} is {said}, expected a {kind.__name__}")
    return value


def function(value: Function, name: str, expected: str) -> Function:
    """`value`, if it can be called."""
    if not callable(value):
        raise TypeError(f"{name} is {value!r}, expected {expected}")
    return value


def generator(rng: Rng, name: str) -> np.random.Generator:
    """`rng` itself if it is a generator; a new one if it is a whole number, its seed."""
    if isinstance(rng, np.random.Generator):
        return rng
    try:
        return np.random.default_rng(whole_number(rng, name, least=0))
    except TypeError:
        raise TypeError(
            f"{name} is {rng!r}, expected a numpy.random.Generator, or a whole number to seed one"
        ) from None


# ---- arrays ------------------------------------------------------------------------------------


def real(x: Array, name: str) -> Array:
    """`x` as an array of real numbers, its dtype as it is."""
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, expected a plain one: select the unmasked")
    try:
        x = as_array(x)
    except (TypeError, ValueError) as error:
        kind = ValueError if isinstance(error, ValueError) else TypeError
        raise kind(f"{name} is not an array of numbers: {error}") from error
    if not is_real(x.dtype):
        raise TypeError(f"{name} has dtype {x.dtype}, expected {REAL}")
    return x


def activations(z: Array, name: str = "activations") -> Array:
    """`z` as activations (B, *neurons): float32 and float64 as they are, all else as float64.

    Does not look at the values.
    """
    z = batch(z, name)
    xp = array_module(z)
    return z if z.dtype in (xp.float32, xp.float64) else z.astype(xp.float64)


def batch(z: Array, name: str = "activations") -> Array:
    """`z` as an array of real numbers (B, *neurons) of any dtype, none of its axes empty."""
    z = samples(real(z, name), name)
    if z.size == 0:
        raise ValueError(f"{name} has shape {z.shape}, expected a sample and a neuron at least")
    return z


def finite_activations(z: Array, name: str) -> Array:
    """`z` as `activations`, all of them finite. On a GPU this waits."""
    z = activations(z, name)
    finite(z, name)
    return z


def samples(z: Any, name: str) -> Any:
    """`z`, a tensor or an array, if it has an axis of samples."""
    if z.ndim == 0:
        raise ValueError(f"{name} is a single number, expected shape (B, *neurons)")
    return z


def per_neuron(values: Array, name: str, z: Array) -> Array:
    """`values` as float64 of shape neurons, one for each neuron of activations z (B, *neurons)."""
    values, neurons = real(values, name), tuple(z.shape[1:])
    if values.shape not in (neurons, (1, *neurons)):
        axes = "axis 1" if z.ndim == 2 else f"axes 1 to {z.ndim - 1}"
        have = f"{neurons[0]} neurons" if z.ndim == 2 else f"neurons of shape {neurons}"
        raise ValueError(
            f"{name} has shape {values.shape}, expected {neurons}: activations have {have} ({axes})"
        )
    return values.reshape(neurons).astype(np.float64, copy=False)  # (1, *neurons) -> neurons


def mask(flags: Array, name: str, shape: tuple[int, ...]) -> Array:
    """`flags` as an array of booleans of this shape."""
    flags = as_array(flags)
    if flags.dtype != bool:
        raise TypeError(f"{name} has dtype {flags.dtype}, expected bool")
    return shaped(flags, name, shape)


def shaped(x: Any, name: str, shape: tuple[int, ...], why: str = "") -> Any:
    """`x`, a tensor or an array, if it has this shape; `why` it must have it, for the error."""
    if x.shape != shape:
        raise ValueError(
            f"{name} has shape {tuple(x.shape)}, expected {tuple(shape)}" + (why and f", {why}")
        )
    return x


def new_shape(shape: tuple[Any, ...], name: str) -> tuple[Any, ...]:
    """`shape`, if it is one: to NumPy None says that the shape stays."""
    if None in shape:
        raise TypeError(f"{name} is {shape}, expected whole numbers")
    return shape


def layout(x: Any, name: str, expected: str, good: bool) -> None:
    """Raise unless the shape of `x`, a tensor or an array, is `good`: it is as `expected`."""
    if not good:
        raise ValueError(f"{name} has shape {tuple(x.shape)}, expected {expected}")


def values(x: Array, name: str, *, dtype: Any = np.float64) -> Array:
    """`x` as finite numbers of any shape but empty: float64, or for dtype None as they are.

    The latter takes little memory beside x, however large that is.
    """
    x = batch(x, name)
    if dtype is not None or not x.dtype.isnative:
        x = x.astype(dtype or x.dtype.newbyteorder("="), copy=False)
    part = max(1, AT_A_TIME * len(x) // x.size)
    for first in range(0, len(x), part):
        if not array_module(x).isfinite(x[first : first + part]).all():
            finite(x, name)
    return x


def matrix(x: Array, name: str, axes: str, *, dtype: Any = np.float64) -> Array:
    """`x` as `values`, with as many axes as `axes` has, say "(B, D)", none empty."""
    x = real(x, name)
    layout(x, name, f"{axes}, not empty", x.ndim == len(axes.split(",")) and x.size > 0)
    return values(x, name, dtype=dtype)


def labels(
    values: Array, name: str, *, count: int | tuple[int, ...] | None = None,
    least: int | None = None, most: int | None = None, of: str = "", kinds: str = "iu",
) -> Array:
    """`values` as int64, whole numbers from `least` to `most`, one for each of `count` samples.

    count may be a whole shape.   of: what `most` is, for the error.   kinds "iub" lets booleans
    through.
    """
    values = as_array(values)
    if values.dtype.kind not in kinds:
        raise TypeError(f"{name} has dtype {values.dtype}, expected whole numbers")
    if count is None and values.size == 0:
        raise ValueError(f"{name} has shape {values.shape}, expected one number at least")
    if count is not None:
        shape, why = ((count,), "one for each sample") if isinstance(count, int) else (count, "")
        shaped(values, name, shape, why)
    if least is not None and values.size:
        whole_number(int(values.min()), name, least=least)
        whole_number(int(values.max()), name, least=least, most=most, of=of)
    return values.astype(np.int64, copy=False)


def token_ids(ids: Any, name: str, context: int) -> Any:
    """`ids`, a tensor or an array, or a list as one: (B, T), of up to `context` positions."""
    ids = ids if hasattr(ids, "shape") else as_array(ids)
    if ids.ndim != 2:
        expected = "expected (B, T); one text alone: ids[None]"
        raise ValueError(f"{name} has shape {tuple(ids.shape)}, {expected}")
    if not 1 <= ids.shape[1] <= context:
        raise ValueError(f"{name} has {ids.shape[1]} positions, expected 1 to {context}")
    return ids


def floats(x: Any, name: str, kinds: str = "f") -> Any:
    """`x`, a tensor or an array, if its numbers are floats, which have gradients.

    kinds "fc" lets complex numbers through, for the complex-step check of a gradient.
    """
    if x.dtype.kind not in kinds:
        raise TypeError(f"{name} has dtype {x.dtype}, expected floats")
    return x


def finite(x: Array, name: str, expected: str = "finite numbers") -> None:
    """Raise, naming the first place, unless all of `x` are finite. On a GPU this waits."""
    everywhere(x, array_module(x).isfinite(x), name, expected)


def everywhere(x: Array, good: Array, name: str, expected: str) -> None:
    """Raise, naming the first place, unless `good`, a flag for each of `x`, is true everywhere."""
    if not good.all():
        at = np.unravel_index(int(good.argmin()), x.shape)
        raise ValueError(f"{name} is {float(x[at])} at {[int(i) for i in at]}, expected {expected}")


def entries(state: Mapping[str, Any], name: str, expected: Iterable[str]) -> None:
    """Raise unless a saved state has just the entries expected."""
    if not isinstance(state, Mapping):
        raise TypeError(f"{name} is a {type(state).__name__}, expected arrays by name")
    if state.keys() != set(expected):
        raise ValueError(f"{name} has entries {sorted(state)}, expected {sorted(expected)}")


# ---- layers ------------------------------------------------------------------------------------


def linear(x: Any, weight: Any, bias: Any) -> None:
    """Raise unless the shapes of a linear layer fit: x (..., C), weight (D, C), bias (D,)."""
    if x.ndim < 1 or weight.ndim != 2 or x.shape[-1] != weight.shape[1]:
        raise ValueError(f"linear: x has shape {x.shape}, weight {weight.shape}: last axes differ")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"linear: bias has shape {bias.shape}, weight {weight.shape}")


def norm(x: Any, name: str, eps: float, **parameters: Any) -> None:
    """Raise unless eps is 0 or more, and there is a parameter for each of x's channels."""
    if type(eps) is not float or not 0.0 <= eps < math.inf:
        number(eps, f"{name}: eps", least=0.0)
    for key, parameter in parameters.items():
        if parameter.shape != x.shape[-1:]:
            raise ValueError(
                f"{name}: {key} has shape {parameter.shape}, x has {x.shape[-1]} channels (axis -1)"
            )


def several_channels(x: Any, name: str, axes: str) -> None:
    """Raise if the last axis of x is empty."""
    if x.shape[-1] == 0:
        raise ValueError(f"{name} has shape {x.shape}, expected {axes}, D above 0")
