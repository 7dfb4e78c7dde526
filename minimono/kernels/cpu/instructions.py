"""The larger or smaller of two numbers, and a product plus a number, as one instruction each.

Of a branch LLVM makes slow masked stores. It does so here too where b was loaded from the place
that the result goes to: kernels have such a b one call further in.
"""

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped, unused-ignore]
from numba import types
from numba.extending import intrinsic, overload


def larger(a: float, b: float) -> float:
    """Return a if a > b else b; b for nan."""
    return a if a > b else b


def smaller(a: float, b: float) -> float:
    """Return a if a < b else b; b for nan."""
    return a if a < b else b


def larger_but_for_nan(a: float, b: float) -> float:
    """Return the larger of two; of a nan and a number, either: so loops over it become vectors."""
    return a if a > b else b


def multiply_add(a: float, b: float, c: float) -> float:
    """Return a b + c, rounded once where the processor can, else twice."""
    return a * b + c


def _chosen_by(comparison: str, *flags: str) -> Any:
    @intrinsic  # type: ignore[untyped-decorator, unused-ignore]
    def choose(typing_context: Any, a: Any, b: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            x, y = arguments
            is_first = builder.fcmp_ordered(comparison, x, y, flags=flags)
            return builder.select(is_first, x, y, flags=flags)

        return (a(a, a), code) if a == b and isinstance(a, types.Float) else None

    return lambda a, b: lambda a, b: choose(a, b)  # type: ignore[call-arg, unused-ignore]


overload(larger)(_chosen_by(">"))
overload(smaller)(_chosen_by("<"))
overload(larger_but_for_nan)(_chosen_by(">", "nnan", "nsz"))  # leave to take no notice of nan


# `fmuladd` is one instruction where there is one, and no call of a function where there is none.


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def _multiply_add(typing_context: Any, a: Any, b: Any, c: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        double = arguments[0].type
        kind = ir.FunctionType(double, [double] * 3)
        function = builder.module.declare_intrinsic("llvm.fmuladd", [double], kind)
        return builder.call(function, arguments)

    return types.float64(types.float64, types.float64, types.float64), code


overload(multiply_add)(
    lambda a, b, c: lambda a, b, c: _multiply_add(a, b, c)  # type: ignore[call-arg, unused-ignore]
)
