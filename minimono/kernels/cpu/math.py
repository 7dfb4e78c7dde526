"""The exponential and the normal distribution, which Numba turns into vector instructions.

float64 calls the C library, exact but for the last digit. float32 uses polynomials, because the C
library's functions take one number at a time: eight at once are ten times as fast. Tests hold their
relative errors to these bounds, against 50 digits and wherever the result is a normal float32:

    exp_nonpositive    1.2e-7                   (x <= 0; below -87.6, where exp(x) < 9e-39: 0)
    normal_below       4e-7 (1 + x^2 / 2)

The bound of `normal_below` grows because it has a factor exp(-x^2 / 2): the rounding of this
exponent is a relative error of the result. float32's rounding alone is 0.6e-7.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from minimono.kernels.cpu.compiling import inlined

SQRT_HALF = math.sqrt(0.5)


# A product and a sum in one instruction, with one rounding: a third faster, and a little nearer.
ONE_ROUNDING: Any = {"fastmath": {"contract"}}


def _in_float32(*numbers: float) -> list[Any]:
    return [np.float32(number) for number in numbers]


# ---- exp(x), x <= 0 ----------------------------------------------------------------------------
# With n = round(x / ln 2) and r = x - n ln 2, |r| <= ln 2 / 2:  exp(x) = 2^n exp(r).

_LOWEST, _PER_LN2, _ZERO, _ONE = _in_float32(-87.6, 1.0 / math.log(2.0), 0.0, 1.0)
_LN2, _LN2_REST = _in_float32(0.693359375, math.log(2.0) - 0.693359375)  # n _LN2 has no rounding
_ROUND = np.float32(1.5 * 2**23)  # a float32 of this size has no bits left for a fraction
# exp(r) to 2e-9 relative: the polynomial of degree 6 with the smallest largest error (our fit).
_E0, _E1, _E2, _E3, _E4, _E5, _E6 = _in_float32(
    1.0000000005546066, 1.0000000363447457, 0.49999992075081934, 0.16666420072018812,
    0.04166822619107992, 0.00837482405671304, 0.0013836835637616263,
)


def _exp_nonpositive_32(x: Any) -> Any:
    inside = _LOWEST if x < _LOWEST else x
    shifted = inside * _PER_LN2 + _ROUND
    n = shifted - _ROUND
    r = (inside - n * _LN2) - n * _LN2_REST
    exp_r = _E0 + r * (_E1 + r * (_E2 + r * (_E3 + r * (_E4 + r * (_E5 + r * _E6)))))
    # `shifted` holds n in its last bits; in bits 23 to 30 a float32 holds its exponent plus 127.
    bits = np.int32((np.float32(shifted).view(np.int32) << 23) + (127 << 23))
    return _ZERO if x < _LOWEST else exp_r * np.int32(bits).view(np.float32)


def exp_nonpositive(x: Any) -> Any:
    """Return exp(x) for x <= 0; nan for nan."""
    return math.exp(x)


@overload(exp_nonpositive, jit_options=ONE_ROUNDING)  # type: ignore[untyped-decorator, unused-ignore]
def _exp_nonpositive_of(x: Any) -> Callable[[Any], Any]:
    return _exp_nonpositive_32 if x == types.float32 else exp_nonpositive


# ---- P(N(0, 1) <= x) ---------------------------------------------------------------------------
# With z = |x| / sqrt 2 and t = 1 / (1 + 0.38 z):  erfc(z) = exp(-z^2) t p(t), to 2e-8 relative with
# p of degree 8 (our fit, for z <= 9.6).

_HALF, _T = _in_float32(0.5, 0.38 * SQRT_HALF)
_P0, _P1, _P2, _P3, _P4, _P5, _P6, _P7, _P8 = _in_float32(
    0.2144101475794969, 0.21393215942765892, 0.20382192336248453, 0.13895770879180827,
    0.22935031522587926, -0.16054186844960142, 0.3631043918033058, -0.2619334771424216,
    0.05889871906937169,
)

_exp_inlined = inlined(_exp_nonpositive_32, **ONE_ROUNDING)


def _normal_below_32(x: Any) -> Any:
    t = _ONE / (_ONE + _T * abs(x))
    p = _P4 + t * (_P5 + t * (_P6 + t * (_P7 + t * _P8)))
    p = _P0 + t * (_P1 + t * (_P2 + t * (_P3 + t * p)))
    tail = _HALF * t * p * _exp_inlined(-_HALF * x * x)
    return tail if x < _ZERO else _ONE - tail


def normal_below(x: Any) -> Any:
    """Return erfc(-x / sqrt 2) / 2: the chance that a standard normal number is at most x."""
    return 0.5 * math.erfc(-x * SQRT_HALF)


@overload(normal_below, jit_options=ONE_ROUNDING)  # type: ignore[untyped-decorator, unused-ignore]
def _normal_below_of(x: Any) -> Callable[[Any], Any]:
    return _normal_below_32 if x == types.float32 else normal_below
