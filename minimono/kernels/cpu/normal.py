"""erfc and the normal distribution, of which Numba makes vector instructions, as in `cpu/math.py`.

Tests hold their errors to these bounds, in ulp, wherever the result is a normal number:

                                 float64          float32
    erfc                         3                3
    normal_below                 4 (1 + x^2)      7 (1 + x^2 / 2)

The bound of `normal_below` grows because it has a factor exp(-x^2 / 2): the rounding of this
exponent is a relative error of the result.
"""

import math
from typing import Any

import numpy as np

from minimono.kernels.cpu.math import (
    BITS,
    by_dtype,
    exp_32,
    exp_64,
    exp_nonpositive_32,
    in_float32,
    inside,
)

SQRT_HALF = math.sqrt(0.5)

_ZERO, _ONE, _TWO, _HALF = in_float32(0.0, 1.0, 2.0, 0.5)

# With z = |x| and t = 1 / (1 + a z):  erfc(z) = exp(-z^2) t p(t). float64: a is 0.3, to 4e-17 for
# z <= 27.3; float32: 0.38, to 2e-8 for z <= 9.6. Two roundings would grow, and are put right. That
# of z^2 is a relative error of the result: z is cut, z = h + l, where h^2 has none. And a relative
# error e of t becomes one of (1 + 2 t^2) e, about.

_HIGH = BITS(0xFFFFFFFFF8000000)  # the first 26 bits of a fraction
_FARTHEST = 27.5
_FARTHEST_32, _A_32, _NOTHING = in_float32(10.5, 0.38, 2.0**-26)


@inside
def _erfc_of_size_64(z: Any) -> Any:
    """Return erfc(z) for z >= 0."""
    z = _FARTHEST if z > _FARTHEST else z
    whole = 1.0 + 0.3 * z
    t = 1.0 / whole
    of_t = (1.0 - whole * t) - (0.3 * z - (whole - 1.0)) * t
    u = t - 0.5
    p = 0.004654063551508079 + u * (-0.0012384017444454676 + u * -0.0009273281063360698)
    p = -0.000683318548956818 + u * (-0.009080602920971981 + u * (0.0013259232776500032 + u * p))
    p = -0.007167319838790717 + u * (-0.023411112798824775 + u * (
        0.0011760624076162611 + u * (0.01445149814220881 + u * p)))
    p = -0.12322512582585138 + u * (-0.054784395765392714 + u * (
        0.03351782019866147 + u * (0.03911686733588103 + u * p)))
    p = 0.9113862086895255 + u * (0.652846301798044 + u * (0.2787904051896068 + u * (
        -0.023262407494982415 + u * p)))
    p = 0.32497992185979685 + u * (0.5530471135121313 + u * (0.7951243121773195 + u * (
        0.9497493976711905 + u * p)))
    h = BITS(np.float64(z).view(BITS) & _HIGH).view(np.float64)
    y = (h - z) * (z + h)
    found = exp_64(-h * h) * (t * p)
    return found + found * (y + y * y * (0.5 + y * (1.0 / 6.0)) + (1.0 + 2.76 * t * t) * of_t)


_P0, _P1, _P2, _P3, _P4, _P5, _P6, _P7, _P8 = in_float32(
    0.2144101475794969, 0.21393215942765892, 0.20382192336248453, 0.13895770879180827,
    0.22935031522587926, -0.16054186844960142, 0.3631043918033058, -0.2619334771424216,
    0.05889871906937169,
)


@inside
def _times_tp_32(t: Any) -> Any:
    """Return t p(t)."""
    p = _P4 + t * (_P5 + t * (_P6 + t * (_P7 + t * _P8)))
    return t * (_P0 + t * (_P1 + t * (_P2 + t * (_P3 + t * p))))


@inside
def _erfc_64(x: Any) -> Any:
    tail = _erfc_of_size_64(abs(x))
    return 2.0 - tail if x < 0.0 else tail


@inside
def _erfc_32(x: Any) -> Any:
    z = abs(x)
    z = _FARTHEST_32 if z > _FARTHEST_32 else z
    square = np.float64(z) * np.float64(z)
    rounded = np.float32(square)
    whole = _ONE + _A_32 * z
    t = _ONE / whole
    of_t = (_ONE - whole * t) - (_A_32 * z - (whole - _ONE)) * t
    tail = exp_32(-rounded) * _times_tp_32(t)
    tail += tail * ((_ONE + _TWO * t * t) * of_t - np.float32(square - rounded))
    tail = _ONE if z < _NOTHING else tail
    return _TWO - tail if x < _ZERO else tail


@by_dtype(lambda x: _erfc_64(x), lambda x: _erfc_32(x))
def erfc(x: Any) -> Any:
    """Return 1 - erf(x), to all digits for large x too."""
    return math.erfc(x)


_T = np.float32(0.38 * SQRT_HALF)


@inside
def _normal_below_64(x: Any) -> Any:
    tail = 0.5 * _erfc_of_size_64(abs(x) * SQRT_HALF)
    return tail if x < 0.0 else 1.0 - tail


@inside
def _normal_below_32(x: Any) -> Any:
    tail = _HALF * _times_tp_32(_ONE / (_ONE + _T * abs(x))) * exp_nonpositive_32(-_HALF * x * x)
    return tail if x < _ZERO else _ONE - tail


@by_dtype(lambda x: _normal_below_64(x), lambda x: _normal_below_32(x))
def normal_below(x: Any) -> Any:
    """Return erfc(-x / sqrt 2) / 2: the chance that a standard normal number is at most x."""
    return 0.5 * math.erfc(-x * SQRT_HALF)
