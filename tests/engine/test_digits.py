"""Functions of one number keep their digits far out, where 1 - tanh(x)^2, say, has none left.

Values, slopes and slopes of slopes against 50 digits of mpmath, relative to what is right, however
small that is: both versions, float64 and float32.
"""

from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from typing import Any

import mpmath as mp
import numpy as np
import pytest

import minimono as mm
from minimono.engine import functional as F
from minimono.engine import primitives as P
from minimono.mono import log_sigmoid

VERSIONS = {"running": nullcontext, "reading": mm.reference}

# Name -> ours, f, f'. (f'' is mpmath's derivative of f'.)
FUNCTIONS: dict[str, tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]] = {
    "sigmoid": (F.sigmoid, lambda x: 1 / (1 + mp.exp(-x)),
                lambda x: 1 / (2 + mp.exp(x) + mp.exp(-x))),
    "tanh": (F.tanh, mp.tanh, lambda x: mp.sech(x) ** 2),
    "silu": (F.silu, lambda x: x / (1 + mp.exp(-x)),
             lambda x: 1 / (1 + mp.exp(-x)) + x / (2 + mp.exp(x) + mp.exp(-x))),
    "gelu": (F.gelu, lambda x: x * mp.ncdf(x), lambda x: mp.ncdf(x) + x * mp.npdf(x)),
    "exp": (P.exp, mp.exp, mp.exp),
    "log1p": (P.log1p, mp.log1p, lambda x: 1 / (1 + x)),
    "erfc": (P.erfc, mp.erfc, lambda x: -2 / mp.sqrt(mp.pi) * mp.exp(-x * x)),
    "log_sigmoid": (log_sigmoid, lambda x: -mp.log1p(mp.exp(-x)), lambda x: 1 / (1 + mp.exp(x))),
}
SIZES = [1.0, 3.0, 5.0, 8.0, 10.0, 15.0, 20.0, 30.0, 40.0, 60.0, 85.0, 120.0, 300.0, 700.0]


@cache
def exact_of(name: str, derivative: int, value: float) -> Any:
    """The same for both versions and dtypes."""
    _, f, slope = FUNCTIONS[name]
    with mp.workdps(400):  # exp(-700) beside 1
        return (f, slope, lambda v: mp.diff(slope, v))[derivative](mp.mpf(value))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_digit_is_lost_far_out(name: str, dtype: str, version: str) -> None:
    ours = FUNCTIONS[name][0]
    xs = [s * size for size in SIZES for s in (1.0, -1.0) if name != "log1p" or s > 0]
    x = mm.tensor(xs, dtype=dtype)
    info = np.finfo(dtype)
    with VERSIONS[version](), np.errstate(over="ignore", under="ignore"):
        results = [
            ours(x).data,
            mm.grad(lambda x: ours(x).sum())(x).data,
            mm.grad(lambda x: mm.grad(lambda x: ours(x).sum())(x).sum())(x).data,
        ]
    with mp.workdps(400):
        for derivative, result in enumerate(results):
            for value, got in zip(xs, result, strict=True):
                exact = exact_of(name, derivative, value)
                # Where exp(-x^2) is a factor, the rounding of x^2 is a relative error.
                condition = value * value if name in ("gelu", "erfc") else abs(value)
                # Below the smallest normal number digits end; factors on the way may be smaller.
                if 1e3 * info.tiny * condition < abs(exact) < info.max:
                    off = abs(mp.mpf(float(got)) - exact) / abs(exact)
                    assert off < 16 * info.eps * condition, (derivative, value, got, mp.nstr(exact))
