"""exp, log, sin, tanh and their like, of which Numba makes vector instructions.

The C library's functions take one number at a time. These have no branches, so several numbers go
at once, which is three to ten times as fast. They are polynomials, those with the smallest largest
error (our fits). Tests hold their errors, against 50 digits, to these bounds, in ulp (steps between
neighbouring numbers), wherever the result is a normal number:

                                 float64          float32
    exp                          1.1              1.1
    exp_nonpositive              1.1              2             (float32: 0 below -87.6)
    log, log1p, sin, cos         1.1              1.6
    tanh_and_small               1.5              1.6
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from minimono.kernels.cpu.compiling import inlined

# A product and a sum in one instruction, with one rounding: a third faster, and a little nearer.
# Always put into the loop that calls it: a loop with a call in it does not become vectors.
OPTIONS: Any = {"fastmath": {"contract"}, "forceinline": True}


def inside(function: Callable[..., Any]) -> Any:
    return inlined(function, **OPTIONS)


def by_dtype(of_float64: Callable[..., Any], of_float32: Callable[..., Any]) -> Callable[..., Any]:
    """Give the function below to kernels in two versions; in plain Python that of float64 runs."""

    def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
        overload(function, jit_options=OPTIONS)(
            lambda x: of_float32 if x == types.float32 else of_float64
        )
        return function

    return decorated


def in_float32(*numbers: float) -> list[Any]:
    return [np.float32(number) for number in numbers]


_ZERO, _ONE, _TWO, _HALF = in_float32(0.0, 1.0, 2.0, 0.5)
_INFINITE, _NAN = in_float32(math.inf, math.nan)

# Bits of a float64: a sign, 11 of the exponent plus 1023, 52 of the fraction; of a float32: a sign,
# 8 of the exponent plus 127, 23 of the fraction.
BITS = np.uint64
_1, _52, _63, _1023 = BITS(1), BITS(52), BITS(63), BITS(1023)
# A number of this size has no bits left for a fraction; n + ROUND has a whole n in its last bits.
_ROUND, _ROUND_32 = 1.5 * 2.0**52, np.float32(1.5 * 2**23)

# ---- exp ---------------------------------------------------------------------------------------
# With n = round(x / ln 2) and r = x - n ln 2, |r| <= ln 2 / 2:  exp(x) = 2^n exp(r). The first part
# of ln 2 ends in zeros, so that n times it has no rounding.

_LN2, _LN2_REST, _PER_LN2 = 0.693147180369123816490, 1.90821492927058770002e-10, 1 / math.log(2)
_LN2_32, _LN2_REST_32 = in_float32(0.693359375, math.log(2.0) - 0.693359375)
_PER_LN2_32, _LOW, _LOWEST, _HIGHEST = in_float32(1.0 / math.log(2.0), -87.6, -104.0, 89.0)


@inside
def _power_of_two(shifted: Any) -> Any:
    """Return 2^n for shifted = n + _ROUND."""
    bits = (np.float64(shifted).view(BITS) + _1023) << _52
    return BITS(bits).view(np.float64)


@inside
def _power_of_two_32(shifted: Any) -> Any:
    bits = np.int32((np.float32(shifted).view(np.int32) << 23) + (127 << 23))
    return bits.view(np.float32)


@inside
def exp_64(x: Any) -> Any:
    near = -746.0 if x < -746.0 else x
    near = 710.0 if near > 710.0 else near
    n = (near * _PER_LN2 + _ROUND) - _ROUND
    r = (near - n * _LN2) - n * _LN2_REST
    # Even and odd powers apart: two shorter chains of steps that wait for each other.
    q = r * r
    even = 0.5000000000000001 + q * (0.04166666666662412 + q * (
        0.0013888888917217457 + q * (2.4801521290973345e-05 + q * 2.7620090518499427e-07)))
    odd = 0.16666666666666674 + q * (0.008333333333322207 + q * (
        0.00019841269886591 + q * (2.7557242336680357e-06 + q * 2.5110049895858716e-08)))
    exp_r = 1.0 + (r + q * (even + r * odd))
    # In two steps, since 2^n may be beyond float64 where the result is not.
    half = n * 0.5 + _ROUND
    return exp_r * _power_of_two(half) * _power_of_two((n - (half - _ROUND)) + _ROUND)


_E0, _E1, _E2, _E3, _E4 = in_float32(
    0.5000000026940606, 0.16666576944796407, 0.04166637517350626, 0.008363184036627056,
    0.0013941121387902457,
)


@inside
def exp_32(x: Any) -> Any:
    near = _LOWEST if x < _LOWEST else x
    near = _HIGHEST if near > _HIGHEST else near
    n = (near * _PER_LN2_32 + _ROUND_32) - _ROUND_32
    r = (near - n * _LN2_32) - n * _LN2_REST_32
    exp_r = _ONE + (r + r * r * (_E0 + r * (_E1 + r * (_E2 + r * (_E3 + r * _E4)))))
    half = n * _HALF + _ROUND_32
    return exp_r * _power_of_two_32(half) * _power_of_two_32((n - (half - _ROUND_32)) + _ROUND_32)


@by_dtype(lambda x: exp_64(x), lambda x: exp_32(x))
def exp(x: Any) -> Any:
    """Return e to the power x; beyond all floats 0 or infinity; nan for nan."""
    return math.exp(x) if x < 709.782 or x != x else math.inf


# For float32 a shorter one: softmax and attention spend most of their time here. exp(r) to 2e-9.

_F0, _F1, _F2, _F3, _F4, _F5, _F6 = in_float32(
    1.0000000005546066, 1.0000000363447457, 0.49999992075081934, 0.16666420072018812,
    0.04166822619107992, 0.00837482405671304, 0.0013836835637616263,
)


@inside
def exp_nonpositive_32(x: Any) -> Any:
    near = _LOW if x < _LOW else x
    shifted = near * _PER_LN2_32 + _ROUND_32
    n = shifted - _ROUND_32
    r = (near - n * _LN2_32) - n * _LN2_REST_32
    exp_r = _F0 + r * (_F1 + r * (_F2 + r * (_F3 + r * (_F4 + r * (_F5 + r * _F6)))))
    return _ZERO if x < _LOW else exp_r * _power_of_two_32(shifted)


@by_dtype(lambda x: exp_64(x), lambda x: exp_nonpositive_32(x))
def exp_nonpositive(x: Any) -> Any:
    """Return exp(x) for x <= 0; nan for nan."""
    return math.exp(x)


# ---- log ---------------------------------------------------------------------------------------
# With x = 2^k m, sqrt(1/2) <= m < sqrt 2, f = m - 1 and s = f / (2 + f):
# log(x) = k ln 2 + log(1 + f),  log(1 + f) = 2 s + s^3 p(s^2) = f - f^2 / 2 + s (f^2 / 2 + s^2 p).

_TO_EXPONENT = BITS(0x3FF0000000000000 - 0x3FE6A09E667F3BCD)  # of 1 less of sqrt(1/2)
_AS_WHOLE = BITS(0x4330000000000000)  # of 2^52; or-ed with a whole number k, of 2^52 + k
_TO_EXPONENT_32 = np.int32(0x3F800000 - 0x3F3504F3)
_TINY_32, _UP_32, _DOWN_32 = in_float32(2.0**-126, 2.0**24, 24.0 * math.log(2.0))


@inside
def _log_of_sum(x: Any, missing: Any) -> Any:
    """Return log(x + missing) for a normal x > 0, and what x lost when it was rounded."""
    bits = np.float64(x).view(BITS)
    exponent = (bits + _TO_EXPONENT) >> _52
    k = BITS(exponent | _AS_WHOLE).view(np.float64) - (2.0**52 + 1023.0)
    f = BITS((bits + (_1023 << _52)) - (exponent << _52)).view(np.float64) - 1.0
    s = f / (2.0 + f)
    z, half = s * s, 0.5 * f * f
    p = 0.6666666666666734 + z * (0.3999999999941483 + z * (0.2857142874237981 + z * (
        0.22222198570565246 + z * (0.18183564659101478 + z * (
            0.15314036916410434 + z * 0.14796135630302595)))))
    rest = s * (half + z * p) + (k * _LN2_REST + missing / x)
    return k * _LN2 - ((half - rest) - f)


_L0, _L1, _L2, _L3 = in_float32(
    0.6666666564533749, 0.4000033531321856, 0.28537296872618645, 0.23582424010899797
)


@inside
def _log_of_sum_32(x: Any, missing: Any) -> Any:
    bits = np.float32(x).view(np.int32)
    exponent = np.int32(np.int32(bits + _TO_EXPONENT_32) >> 23)
    k = np.float32(np.int32(exponent - 127))
    f = np.int32((bits + (127 << 23)) - (exponent << 23)).view(np.float32) - _ONE
    s = f / (_TWO + f)
    z, half = s * s, _HALF * f * f
    rest = s * (half + z * (_L0 + z * (_L1 + z * (_L2 + z * _L3))))
    rest += k * _LN2_REST_32 + missing / x
    return k * _LN2_32 - ((half - rest) - f)


@inside
def _log_64(x: Any) -> Any:
    subnormal = x < 2.0**-1022
    found = _log_of_sum(x * 2.0**54 if subnormal else x, 0.0)
    found = found - 54.0 * math.log(2.0) if subnormal else found
    found = -math.inf if x == 0.0 else found
    found = found if x < math.inf else x  # of infinity, and of nan, itself
    return math.nan if x < 0.0 else found


@inside
def _log_32(x: Any) -> Any:
    subnormal = x < _TINY_32
    found = _log_of_sum_32(x * _UP_32 if subnormal else x, _ZERO)
    found = found - _DOWN_32 if subnormal else found
    found = -_INFINITE if x == _ZERO else found
    found = found if x < _INFINITE else x
    return _NAN if x < _ZERO else found


@by_dtype(lambda x: _log_64(x), lambda x: _log_32(x))
def log(x: Any) -> Any:
    """Return the natural logarithm; -infinity for 0, nan below."""
    return math.log(x) if x > 0.0 else -math.inf if x == 0.0 else math.nan


@inside
def _log1p_64(x: Any) -> Any:
    whole = 1.0 + x
    below, above = x - (whole - 1.0), 1.0 - (whole - x)
    found = _log_of_sum(whole, below if x < 1.0 else above)
    found = -math.inf if whole == 0.0 else found
    found = found if x < math.inf else x
    found = x if x == 0.0 else found  # -0.0 stays
    return math.nan if x < -1.0 else found


@inside
def _log1p_32(x: Any) -> Any:
    whole = _ONE + x
    below, above = x - (whole - _ONE), _ONE - (whole - x)
    found = _log_of_sum_32(whole, below if x < _ONE else above)
    found = -_INFINITE if whole == _ZERO else found
    found = found if x < _INFINITE else x
    found = x if x == _ZERO else found
    return _NAN if x < -_ONE else found


@by_dtype(lambda x: _log1p_64(x), lambda x: _log1p_32(x))
def log1p(x: Any) -> Any:
    """Return log(1 + x), to all digits for small x too."""
    return math.log1p(x) if x > -1.0 else -math.inf if x == -1.0 else math.nan


# ---- sin and cos -------------------------------------------------------------------------------
# With n = round(x / (pi / 2)) and r = x - n pi / 2, |r| <= pi / 4, of sin(r) and cos(r) one is the
# result, up to its sign, as n mod 4 says. pi / 2 is a sum of parts of 33 bits: n times one of them
# has no rounding. What the differences round off is kept: r has all its digits, also where x lies
# next to a multiple.

LARGEST_ANGLE = 1e6  # beyond, n has too many bits
_PER_HALF_PI = 2.0 / math.pi
_HALF_PI_1, _HALF_PI_2 = 1.57079632673412561417, 6.07710050630396597660e-11
_HALF_PI_3, _HALF_PI_4 = 2.02226624871116645580e-21, 8.47842766036889956997e-32


@inside
def _sin_64(x: Any, quarters: Any) -> Any:
    shifted = x * _PER_HALF_PI + _ROUND
    n = shifted - _ROUND
    first = x - n * _HALF_PI_1
    second = first - n * _HALF_PI_2
    lost = (first - second) - n * _HALF_PI_2
    third = second - n * _HALF_PI_3
    lost += ((second - third) - n * _HALF_PI_3) - n * _HALF_PI_4
    r = third + lost
    rest = (third - r) + lost
    z = r * r
    s = 0.00833333333332212 + z * (-0.0001984126982958837 + z * (2.7557313620130703e-06 + z * (
        -2.5050747455233185e-08 + z * 1.5896207048598697e-10)))
    v = z * r
    sine = r - ((z * (0.5 * rest - v * s) - rest) - v * -0.1666666666666663)
    c = z * (0.041666666666666595 + z * (-0.0013888888888873043 + z * (
        2.4801587288842397e-05 + z * (-2.755731417637484e-07 + z * (
            2.087570041969633e-09 + z * -1.1358513582586068e-11)))))
    near = 1.0 - 0.5 * z
    cosine = near + (((1.0 - near) - 0.5 * z) + (z * c - r * rest))
    turns = np.float64(shifted).view(BITS) + quarters
    size = cosine if turns & _1 else sine
    bits = (((turns >> _1) & _1) << _63) ^ np.float64(size).view(BITS)
    return BITS(bits).view(np.float64)


_S0, _S1, _S2 = in_float32(-0.1666665460577806, 0.00833216042714045, -0.00019515229893127652)
_C0, _C1, _C2 = in_float32(0.04166664571891433, -0.0013887317172913054, 2.4433203296332047e-05)


@inside
def _sin_32(x: Any, quarters: Any) -> Any:
    wide = np.float64(x)
    shifted = wide * _PER_HALF_PI + _ROUND
    n = shifted - _ROUND
    r = np.float32((wide - n * _HALF_PI_1) - n * _HALF_PI_2)
    z = r * r
    sine = r + r * z * (_S0 + z * (_S1 + z * _S2))
    cosine = _ONE - (_HALF * z - z * z * (_C0 + z * (_C1 + z * _C2)))
    turns = np.int32(np.float64(shifted).view(BITS) + quarters)
    size = cosine if turns & 1 else sine
    return -size if turns & 2 else size


@by_dtype(lambda x: _sin_64(x, BITS(0)), lambda x: _sin_32(x, BITS(0)))
def sin(x: Any) -> Any:
    """Return the sine of x for |x| <= LARGEST_ANGLE."""
    return math.sin(x)


@by_dtype(lambda x: _sin_64(x, BITS(1)), lambda x: _sin_32(x, BITS(1)))
def cos(x: Any) -> Any:
    """Return the cosine of x for |x| <= LARGEST_ANGLE."""
    return math.cos(x)


# ---- tanh --------------------------------------------------------------------------------------
# x + x^3 p(x^2) near 0, else (1 - e) / (1 + e) with e = exp(-2 |x|).


@inside
def _tanh_64(x: Any) -> Any:
    z, e = x * x, exp_64(-2.0 * abs(x))
    p = -0.333333333333333 + z * (0.1333333333332662 + z * (-0.05396825396376037 + z * (
        0.021869488385849935 + z * (-0.008863232601357924 + z * (0.0035920920297024283 + z * (
            -0.001455542841556799 + z * (0.0005884444705193657 + z * (
                -0.00023338152810934972 + z * (
                    8.331639662710609e-05 + z * -1.949465700708076e-05)))))))))
    near, far = x + x * (z * p), 1.0 - 2.0 * e / (1.0 + e)
    far = -far if x < 0.0 else far
    far = x if z == 0.0 else far  # -0.0 stays
    return near if 0.0 < z < 0.3 else far, e


_T0, _T1, _T2, _T3, _T4, _NEAR = in_float32(
    -0.33333317934888346, 0.1333260004024011, -0.05385387798952764, 0.021078564790966932,
    -0.006284564174131696, 0.3,
)


@inside
def _tanh_32(x: Any) -> Any:
    z, e = x * x, exp_32(-_TWO * abs(x))
    p = _T0 + z * (_T1 + z * (_T2 + z * (_T3 + z * _T4)))
    near, far = x + x * (z * p), _ONE - _TWO * e / (_ONE + e)
    far = -far if x < _ZERO else far
    far = x if z == _ZERO else far
    return near if _ZERO < z < _NEAR else far, e


@by_dtype(lambda x: _tanh_64(x), lambda x: _tanh_32(x))
def tanh_and_small(x: Any) -> Any:
    """Return tanh(x) and exp(-2 |x|)."""
    return math.tanh(x), math.exp(-2.0 * abs(x))
