"""How exact the operations of minimono, PyTorch and JAX are: a table in units in the last place.

    minimono oracle accuracy [FILE]

An error is the distance of a result from the true one (mpmath with 50 digits, or Fractions), in
ulp: the step between neighbouring numbers of the dtype at the true value. A correctly rounded
result is off by at most 0.5. The inputs are fixed, and float32 holds them, so all are given the
same numbers.
"""

from __future__ import annotations

import datetime
import importlib
import importlib.metadata
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minimono import kernels, mono
from minimono.backend import Array
from minimono.oracle import frameworks
from minimono.oracle import suite as suites
from minimono.oracle.adapters import to_numpy
from minimono.oracle.suites.layers_formulas import TRUTHS
from minimono.oracle.truth import exact, float32, precise, rounded

Function = Callable[..., Any]
Arguments = Mapping[str, Any]
DTYPES = ("float64", "float32")


@dataclass(frozen=True)
class Exact:
    """Return a true value as the sum of two float64 numbers: to about 32 digits."""

    high: Array
    low: Array

    @classmethod
    def of(cls, value: Array) -> Exact:
        high = rounded(value)
        lift = precise if type(np.asarray(value).reshape(-1)[0]).__name__ == "mpf" else exact
        return cls(high, rounded(np.asarray(value, dtype=object) - lift(high)))


@dataclass(frozen=True)
class Operation:
    """A function of the suite `layers`, with inputs and their truth.

    own: whether an error is in ulp of its own true value, for each output. If not, in ulp of the
    array's largest, because single elements come out near 0 by cancellation.
    """

    name: str
    call: str
    arguments: Arguments
    truth: tuple[Exact, ...]
    own: tuple[bool, ...]


def table() -> str:
    """Return the page: what was measured, by which versions on which machine, and the figures."""
    libraries = _libraries()
    operations = list(_operations())
    with _wide_jax():
        lines = [*_head(libraries), ""]
        for dtype in DTYPES:
            lines += [f"## {dtype}", "", *_layer_rows(libraries, operations, dtype), ""]
        lines += [SCALE_TEXT, "", *_scale_rows(_scale_functions(libraries))]
    return "\n".join(lines)


# ---- what is measured ----------------------------------------------------------------------------


def _operations() -> Iterator[Operation]:
    rng = np.random.default_rng(20261124)

    def drawn(*shape: int, size: float = 1.0) -> Array:
        return float32(size * rng.normal(size=shape))

    def operation(
        name: str, call: str, own: tuple[bool, ...], arguments: Arguments, **options: Any
    ) -> Operation:
        values = TRUTHS[call](*map(precise, arguments.values()), **options)
        return Operation(name, call, {**arguments, **options}, tuple(map(Exact.of, values)), own)

    near, tail = float32(np.linspace(-3.0, 3.0, 4001)), float32(np.linspace(-12.0, -3.0, 2000))
    for approximate in ("none", "tanh"):
        for what, x, own in (("-3 to 3", near, False), ("-12 to -3", tail, True)):
            yield operation(
                f"gelu, {approximate}, {what}", "gelu", (True, own),
                {"x": x, "upstream": np.ones_like(x)}, approximate=approximate,
            )
    for size in (1.0, 10.0):
        yield operation(
            f"softmax of 16, logits of size {size:g}", "softmax", (True, False),
            {"x": drawn(200, 16, size=size), "upstream": drawn(200, 16)}, axis=-1,
        )
    for offset in (0.0, 100.0, 10000.0):
        x = float32(offset + drawn(128, 32))
        yield operation(
            f"layer norm of 32, mean {offset:g}, deviation 1", "layer_norm", (False,) * 4,
            {"x": x, "weight": drawn(32), "bias": drawn(32), "upstream": drawn(128, 32)}, eps=1e-5,
        )
    for causal in (False, True):
        yield operation(
            f"attention, 16 positions of 8{', causal' if causal else ''}",
            "scaled_dot_product_attention", (False,) * 4,
            {name: drawn(4, 2, 16, 8) for name in ("q", "k", "v", "upstream")}, is_causal=causal,
        )
    for size in (1.0, 10.0):
        logits, targets = drawn(256, 16, size=size), rng.integers(16, size=256)
        yield operation(
            f"cross-entropy of 16, logits of size {size:g}", "cross_entropy", (True, False),
            {"logits": logits}, targets=targets,
        )
    shapes = {
        "x": (2, 3, 6, 6), "state": (2, 4, 6, 6), "w_in": (12, 3, 3, 3), "b_in": (12,),
        "w_state": (12, 4, 3, 3), "b_state": (12,), "upstream": (2, 4, 6, 6),
    }
    arguments = {name: drawn(*s, size=0.3 if "_" in name else 1.0) for name, s in shapes.items()}
    yield operation("ConvGRU cell, kernel 3", "conv_gru_cell", (False,) * 7, arguments)


def _libraries() -> dict[str, Mapping[str, Function]]:
    """Return the functions of each library that is there, by the names of the suite."""
    own = suites.get("layers").own
    found: dict[str, Mapping[str, Function]] = {
        "minimono": own,
        "its formulas": {name: _reading(function) for name, function in own.items()},
    }
    for title, module in (("PyTorch", "torch.nn.functional"), ("JAX", "jax.nn")):
        try:
            adapted = frameworks.functions_of(importlib.import_module(module))
        except ImportError:
            continue
        if adapted is not None:
            found[title] = adapted.functions
    return found


def _reading(function: Function) -> Function:
    """Return a function of minimono without its kernels."""

    def call(*arguments: Any, **options: Any) -> Any:
        with kernels.reference():
            return function(*arguments, **options)

    return call


@contextmanager
def _wide_jax() -> Iterator[None]:
    """Return JAX, if it is there, with float64."""
    try:
        jax = importlib.import_module("jax")
    except ImportError:
        yield
        return
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", before)


# ---- measuring -----------------------------------------------------------------------------------


def errors_in_ulp(got: Any, truth: Exact, dtype: str, unit: Array) -> Array:
    """The distance of each element from the truth, in steps of `dtype` at `unit`.

    >>> one = Exact(np.ones(1), np.zeros(1))
    >>> errors_in_ulp(np.ones(1) + 2**-51, one, "float64", one.high)
    array([2.])
    """
    reply = to_numpy(got)
    if reply.dtype != dtype:
        raise TypeError(f"accuracy: a result is {reply.dtype}, expected {dtype}")
    smallest = np.finfo(dtype).tiny
    step = np.spacing(np.maximum(abs(unit), smallest).astype(dtype)).astype(np.float64)
    error: Array = abs((reply.value - truth.high) - truth.low) / step
    return error


def _measured(function: Function, operation: Operation, dtype: str) -> tuple[Array, Array]:
    """Return all errors of the value, and all of the gradients."""
    given = {
        name: a.astype(dtype) if isinstance(a, np.ndarray) and a.dtype.kind == "f" else a
        for name, a in operation.arguments.items()
    }
    positional, named = suites.get("layers").call(operation.call).bind(given)
    outputs = function(*positional, **named)
    errors = []
    for got, truth, own in zip(outputs, operation.truth, operation.own, strict=True):
        size = abs(truth.high)
        unit = size if own else np.full(size.shape, size.max())
        errors.append(errors_in_ulp(got, truth, dtype, unit).reshape(-1))
    return errors[0], np.concatenate(errors[1:])


def _layer_rows(
    libraries: Mapping[str, Mapping[str, Function]], operations: Sequence[Operation], dtype: str
) -> list[str]:
    rows = [["operation", "", *libraries]]
    for operation in operations:
        columns = []
        for functions in libraries.values():
            function = functions.get(operation.call)
            if function is None:
                columns.append(("–", "–"))
            else:
                value, gradient = _measured(function, operation, dtype)
                columns.append((_written(value), _written(gradient)))
        rows.append([operation.name, "value", *(value for value, _ in columns)])
        rows.append(["", "gradient", *(gradient for _, gradient in columns)])
    return _markdown(rows)


def _written(errors: Array) -> str:
    """Return the largest error and the median."""
    return " / ".join(_short(float(e)) for e in (errors.max(), np.median(errors)))


def _short(error: float) -> str:
    """Two digits: 0.31, 4.5, 120, 3.4e+06.

    >>> _short(0.314), _short(4.46), _short(118.0), _short(3412345.0)
    ('0.31', '4.5', '120', '3.4e+06')
    """
    if error < 10:
        return f"{error:.2g}" if error >= 0.1 else f"{error:.2f}"
    return f"{float(f'{error:.2g}'):.0f}" if error < 1e4 else f"{error:.1e}"


def _markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    line = ["---", "---", *["---:"] * (len(rows[0]) - 2)]
    return [f"| {' | '.join(row)} |" for row in (rows[0], line, *rows[1:])]


# ---- the monosemantic scale ----------------------------------------------------------------------

SCALE_TEXT = """## The monosemantic scale of a batch

phi = (z - mean)² / variance of 256 samples of 16 neurons, mean and variance of the batch itself
(n - 1), in ulp of the neuron's highest phi. "Mean" is in standard deviations. `var` is the
library's own function for the variance, the last column what is often written in its place."""


def _scale_functions(libraries: Mapping[str, Any]) -> dict[str, Function]:
    def own(z: Array) -> Array:
        moments = mono.Moments.of(z)
        return mono.monosemantic_scale(z, moments.mean, moments.variance())

    def naive(z: Array) -> Array:
        n, mean = z.dtype.type(len(z)), z.mean(axis=0)
        phi: Array = (z - mean) ** 2 / (((z**2).mean(axis=0) - mean**2) * (n / (n - 1)))
        return phi

    functions: dict[str, Function] = {"minimono": own, "its formulas": _reading(own)}
    if "PyTorch" in libraries:
        torch = importlib.import_module("torch")

        def by_torch(z: Array) -> Any:
            x = torch.from_numpy(z)
            return (x - x.mean(0)) ** 2 / x.var(0)

        functions["PyTorch, `var`"] = by_torch
    if "JAX" in libraries:
        jnp = importlib.import_module("jax.numpy")

        def by_jax(z: Array) -> Any:
            x = jnp.asarray(z)
            return (x - x.mean(axis=0)) ** 2 / x.var(axis=0, ddof=1)

        functions["JAX, `var`"] = by_jax
    functions["NumPy, E[z²] - E[z]²"] = naive
    return functions


def _scale_rows(functions: Mapping[str, Function]) -> list[str]:
    rng = np.random.default_rng(27182818)
    rows = [["mean", "dtype", *functions]]
    for offset in (0.0, 100.0, 10000.0):
        z = float32(offset + rng.normal(size=(256, 16)))
        x = exact(z)
        centred = x - x.sum(axis=0) / len(x)
        truth = Exact.of(centred**2 / ((centred**2).sum(axis=0) / (len(x) - 1)))
        unit = np.broadcast_to(truth.high.max(axis=0), z.shape)
        for dtype in DTYPES:
            with np.errstate(all="ignore"):
                errors = [
                    errors_in_ulp(function(z.astype(dtype)), truth, dtype, unit)
                    for function in functions.values()
                ]
            rows.append([f"{offset:g}", dtype, *map(_written, errors)])
    return _markdown(rows)


# ---- the page ------------------------------------------------------------------------------------


def _head(libraries: Mapping[str, Any]) -> list[str]:
    packages = {"PyTorch": "torch", "JAX": "jax"}
    versions = [
        f"{title} {importlib.metadata.version(package)}" if title in libraries else f"no {title}"
        for title, package in packages.items()
    ]
    versions += [f"NumPy {np.__version__}", f"Python {platform.python_version()}"]
    return [
        "# Accuracy by operation and dtype",
        "",
        "Written by `minimono oracle accuracy FILE` on "
        f"{datetime.date.today():%Y-%m-%d}, on {_processor()}, with {', '.join(versions)}.",
        "",
        "Each cell: the largest error / the median error, in ulp: steps between neighbouring",
        "numbers of the dtype. A correctly rounded result is off by at most 0.5. Half the digits",
        "of float64 are lost at about 7e+07, all at 4.5e+15; of float32 at 2900 and 8.4e+06.",
        "",
        "Values of gelu, softmax and cross-entropy, and gradients of gelu below -3, are measured",
        "in ulp of themselves; all else in ulp of the array's largest, since single elements come",
        "out near 0 by cancellation. All gradients of an operation are taken together. The value\n"
        "of cross-entropy is one number.",
        "",
        "`minimono` is the running version, `its formulas` the reading version. JAX has float64",
        "switched on; its layer norm is `jax.nn.standardize`, by default from E[x²] - E[x]²; its",
        "attention computes the softmax in float32 in every dtype (read in the source of 0.10). A",
        "dash: the library has no such function.",
    ]


def _processor() -> str:
    """Return what the processor calls itself."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    print(table())
