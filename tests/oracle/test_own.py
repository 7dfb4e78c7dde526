"""minimono's own functions pass every suite, with kernels and as reading versions."""

from collections.abc import Callable
from functools import wraps
from typing import Any, Literal

import numpy as np
import pytest

import minimono
from minimono import oracle
from minimono.oracle import suite as suites

# exp of very negative numbers is 0, and may say so
UNDERFLOWING = ("layers", "decorrelation", "log_probability")
MANY = {"module": 41, "deactivation": 18}  # cases that pass at least, in float32 too


def read(function: Callable[..., Any], under: Literal["ignore", "raise"]) -> Callable[..., Any]:
    """The function inside `minimono.reference()`, where no warning of NumPy's may leave it.

    In each call and not around `check`, whose own arithmetic may underflow.
    """

    @wraps(function)
    def reading(*arguments: Any, **named: Any) -> Any:
        with minimono.reference(), np.errstate(all="raise", under=under):
            return function(*arguments, **named)

    return reading


@pytest.mark.parametrize("versions", ["kernels", "reference"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", suites.SUITES)
def test_own_functions_pass(name: str, dtype: Literal["float64", "float32"], versions: str) -> None:
    own = suites.get(name).own
    if versions == "reference":
        under: Literal["ignore", "raise"] = "ignore" if name in UNDERFLOWING else "raise"
        own = {call: read(function, under) for call, function in own.items()}
    report = oracle.check(own, name, dtype=dtype, extreme=True)
    fitting = [case for case in oracle.load(name) if case.fits(dtype)]
    assert sorted(report.passed) == sorted(case.id for case in fitting)
    assert {case.call for case in fitting} == set(suites.SUITES[name])
    assert len(fitting) >= MANY.get(name, 1)
