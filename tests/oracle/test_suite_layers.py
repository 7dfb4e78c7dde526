"""Suite `layers`: its truth against differences and plain NumPy."""

import math

import numpy as np
import pytest

from minimono.oracle import runner
from minimono.oracle.suites.layers import SUITE
from minimono.oracle.suites.layers_formulas import TRUTHS
from minimono.oracle.truth import mpmath, precise, rounded


@pytest.fixture(scope="module")
def cases():
    return list(SUITE.cases())


def report(cases, call, function, dtype="float64", extreme=False):
    chosen = [
        c for c in cases if c.call == call and c.fits(dtype) and (extreme or not c.extreme)
    ]
    outcomes = [runner.run(function, c, dtype=dtype) for c in chosen]
    return runner.finish(runner.Report(), outcomes, dtype=dtype)


# ---- the truth -----------------------------------------------------------------------------------


@pytest.mark.parametrize("call", [call for call in TRUTHS if call != "cross_entropy"])
def test_gradients_are_derivatives(cases, call):
    """Of the sum of upstream · value, by central differences with 50 digits."""
    mp = mpmath()
    step = mp.mpf(2) ** -60
    checked = 0
    for case in cases:
        if case.call != call or case.extreme:
            continue
        arrays = {n: precise(a) for n, a in case.arguments.items() if isinstance(a, np.ndarray)}
        options = {n: a for n, a in case.arguments.items() if not isinstance(a, np.ndarray)}
        upstream = arrays["upstream"]
        gradients = TRUTHS[call](*arrays.values(), **options)[1:]
        names = [n for n in arrays if n != "upstream"]
        assert len(gradients) == len(names)
        for name, gradient in zip(names, gradients, strict=True):
            index = max(np.ndindex(gradient.shape), key=lambda i: abs(gradient[i]))
            sums = []
            for sign in (1, -1):
                moved = arrays[name].copy()
                moved[index] += sign * step
                value = TRUTHS[call](*(arrays | {name: moved}).values(), **options)[0]
                sums.append((upstream * value).sum())
            difference = (sums[0] - sums[1]) / (2 * step)
            assert abs(difference - gradient[index]) <= 1e-12 * (1 + abs(gradient[index])), case.id
            checked += 1
    assert checked >= 5


def test_cross_entropys_gradient_is_its_derivative(cases):
    mp = mpmath()
    step = mp.mpf(2) ** -60
    for case in cases:
        if case.call != "cross_entropy":
            continue
        logits, targets = precise(case.arguments["logits"]), case.arguments["targets"]
        _, gradient = TRUTHS["cross_entropy"](logits, targets)
        for index in np.ndindex(logits.shape):
            losses = []
            for sign in (1, -1):
                moved = logits.copy()
                moved[index] += sign * step
                losses.append(TRUTHS["cross_entropy"](moved, targets)[0][()])
            assert abs((losses[0] - losses[1]) / (2 * step) - gradient[index]) < 1e-12


def test_values_by_hand(cases):
    by_note = {c.notes: c for c in cases}
    norm = by_note["to try by hand: -1, 1 and 1, -1"].expected["value"].value
    assert norm.tolist() == [[-1.0, 1.0], [1.0, -1.0]]
    assert float(by_note["all equal: log C"].expected["loss"].value) == math.log(4)
    assert (by_note["all equal"].expected["value"].value == 0.25).all()
    gelu = by_note["small numbers; approximate=none"].expected["value"].value
    known = 0.8413447460685429  # P(N(0,1) <= 1), in every table of the normal distribution
    assert gelu.tolist()[5] == known
    assert gelu.tolist()[1] == pytest.approx(known - 1, rel=1e-15)


def test_one_pixel_is_a_plain_gru(cases):
    case = next(c for c in cases if "one pixel" in c.notes)
    x, h, w, b, u, c, _ = (a.reshape(-1).tolist() for a in case.arguments.values())
    (x,), (h,) = x, h
    r = 1 / (1 + math.exp(-(w[0] * x + b[0] + u[0] * h + c[0])))
    z = 1 / (1 + math.exp(-(w[1] * x + b[1] + u[1] * h + c[1])))
    n = w[2] * x + b[2] + r * (u[2] * h + c[2])
    n = n if n > 0 else 0.2 * n
    value = float(case.expected["value"].value.item())
    assert value == pytest.approx((1 - z) * n + z * h, rel=1e-14)


def test_tails_keep_their_digits():
    """gelu(-10) = -10 erfc(10 / sqrt 2) / 2, by the asymptotic series of erfc."""
    x = 10.0
    series = 1 - 1 / x**2 + 3 / x**4 - 15 / x**6 + 105 / x**8 - 945 / x**10 + 10395 / x**12
    value = -math.exp(-(x**2) / 2) / math.sqrt(2 * math.pi) * series
    (true, _) = TRUTHS["gelu"](
        precise(np.array([-x])), precise(np.ones(1)), approximate="none"
    )
    assert float(rounded(true)[0]) == pytest.approx(value, rel=1e-7)


# ---- sound implementations pass ------------------------------------------------------------------

_erf = np.vectorize(math.erf, otypes=[float])


def textbook_gelu(x, upstream, *, approximate):
    """(1 + erf) / 2 and (1 + tanh) / 2, as in the papers: no digits are left for x << 0."""
    kind = x.dtype.type
    if approximate == "none":
        p = kind(0.5) * (1 + _erf(x / math.sqrt(2)).astype(x.dtype))
        slope = np.exp(-x * x / 2) * kind(1 / math.sqrt(2 * math.pi))
    else:
        t = np.tanh(kind(math.sqrt(2 / math.pi)) * (x + kind(0.044715) * x**3))
        p = kind(0.5) * (1 + t)
        inner = kind(math.sqrt(2 / math.pi)) * (1 + kind(3 * 0.044715) * x**2)
        slope = kind(0.5) * (1 - t * t) * inner
    return x * p, upstream * (p + x * slope)


def textbook_layer_norm(x, weight, bias, upstream, *, eps):
    mean = x.mean(axis=-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(axis=-1, keepdims=True)
    n = (x - mean) / np.sqrt(variance + x.dtype.type(eps))
    h = upstream * weight
    by_x = h - h.mean(axis=-1, keepdims=True) - n * (h * n).mean(axis=-1, keepdims=True)
    before = tuple(range(x.ndim - 1))
    by_x = by_x / np.sqrt(variance + x.dtype.type(eps))
    return n * weight + bias, by_x, (upstream * n).sum(axis=before), upstream.sum(axis=before)


def textbook_cross_entropy(logits, targets):
    """Maximum + log sum exp, minus the target's logit."""
    rows, t = logits.reshape(-1, logits.shape[-1]), targets.reshape(-1)
    top = rows.max(axis=1)
    total = top + np.log(np.exp(rows - top[:, None]).sum(axis=1))
    at = np.arange(len(t)), t
    gradient = np.exp(rows - total[:, None])
    gradient[at] -= 1
    loss = (total - rows[at]).mean(dtype=logits.dtype)
    return loss, (gradient / logits.dtype.type(len(t))).reshape(logits.shape)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    "function", [textbook_gelu, textbook_layer_norm, textbook_cross_entropy]
)
def test_textbook_formulas_pass(cases, function, dtype):
    found = report(cases, function.__name__.removeprefix("textbook_"), function, dtype)
    assert found.passed
    assert not found.failures, str(found)


def test_textbook_gelu_fails_in_the_tail(cases):
    found = report(cases, "gelu", textbook_gelu, extreme=True)
    assert {f.case for f in found.failures} == {"layers/gelu-tail/1", "layers/gelu-tail/2"}
