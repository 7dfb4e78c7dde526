"""The functions of networks: values by their definitions, gradients, extremes, and errors."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minimono as mm
from minimono.backend import device_of, to_host
from minimono.engine import functional as F
from minimono.engine.tape import grad
from minimono.engine.tensor import Tensor, tensor
from minimono.gradcheck import check_grads

VERSIONS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "running": nullcontext,
    "reading": mm.reference,
}


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> Iterator[str]:
    """Once with kernels and once without."""
    with VERSIONS[request.param]():
        yield request.param


def normal(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed + len(shape)).standard_normal(shape)


TARGETS = np.array([[1, 0, 3], [3, 3, 2]])
MASK = np.tri(5, 4, dtype=bool)[::-1].copy() | (np.arange(4) == 0)


def dropped(x: Tensor) -> Tensor:
    return F.dropout(x, 0.4, rng=np.random.default_rng(3))


# Name of the function (and what of it), the function, its arguments, modes of the check.
ALL = ("directional", "complex")
CASES: dict[str, tuple[Callable[..., Tensor], list[Any], tuple[Any, ...]]] = {
    "relu": (F.relu, [normal(2, 3)], ALL),
    "leaky_relu": (lambda x: F.leaky_relu(x, 0.3), [normal(2, 3)], ALL),
    "silu": (F.silu, [normal(2, 3)], ALL),
    "sigmoid": (F.sigmoid, [normal(2, 3)], ALL),
    "tanh": (F.tanh, [normal(2, 3)], ALL),
    "gelu": (F.gelu, [normal(2, 3)], ("directional",)),
    "gelu, tanh": (lambda x: F.gelu(x, approximate="tanh"), [normal(2, 3)], ALL),
    "gelu, tanh by position": (lambda x: F.gelu(x, "tanh"), [normal()], ALL),
    "gelu of a scalar": (F.gelu, [normal()], ("directional",)),
    "softmax": (F.softmax, [normal(2, 3)], ALL),
    "softmax, axis 0": (lambda x: F.softmax(x, axis=0), [normal(4, 3)], ALL),
    "softmax, axis 1 of 3": (lambda x: F.softmax(x, 1), [normal(2, 3, 4)], ALL),
    "softmax, axis -2 of 3": (lambda x: F.softmax(x, axis=-2), [normal(2, 3, 1)], ALL),
    "softmax of a scalar": (F.softmax, [normal()], ALL),
    "softmax of one": (F.softmax, [normal(3, 1)], ALL),
    "log_softmax": (F.log_softmax, [normal(2, 3)], ALL),
    "log_softmax, axis 0": (lambda x: F.log_softmax(x, axis=0), [normal(4, 3)], ALL),
    "cross_entropy": (lambda x: F.cross_entropy(x, TARGETS), [normal(2, 3, 4)], ALL),
    "cross_entropy, one row": (lambda x: F.cross_entropy(x, np.array(2)), [normal(4)], ALL),
    "layer_norm": (F.layer_norm, [normal(2, 3, 4), normal(4), normal(4) + 1], ALL),
    "layer_norm, one row": (F.layer_norm, [normal(4, seed=3), normal(4), normal(4) + 1], ALL),
    "layer_norm, by name": (
        lambda x, w, b: F.layer_norm(x, bias=b, weight=w, eps=0.1),
        [normal(2, 4), normal(4), normal(4) + 1], ALL),
    "rms_norm": (F.rms_norm, [normal(2, 3, 4), normal(4)], ALL),
    "swiglu": (F.swiglu, [normal(2, 3), normal(2, 3, seed=1)], ALL),
    "rotary_embedding": (F.rotary_embedding,
                         [normal(2, 3, 2, 5), normal(3, 2), normal(3, 2, seed=1)], ALL),
    "rotary_embedding, interleaved": (
        lambda x, cos, sin: F.rotary_embedding(x, cos, sin, interleaved=True),
        [normal(2, 3, 2, 4), normal(2, 3, 2), normal(2, 3, 2, seed=1)], ALL),
    "linear": (F.linear, [normal(2, 3, 4), normal(5, 4), normal(5)], ALL),
    "linear, no bias": (F.linear, [normal(4), normal(5, 4)], ALL),
    "linear_relu": (F.linear_relu, [normal(2, 3, 4), normal(5, 4), normal(5)], ALL),
    "linear_relu, no bias": (F.linear_relu, [normal(4), normal(5, 4)], ALL),
    "embedding": (lambda w: F.embedding(TARGETS, w), [normal(4, 2)], ALL),
    "self_attention": (F.self_attention, [normal(2, 4, 3, 2, 3)], ALL),
    "attention": (F.scaled_dot_product_attention,
                  [normal(2, 5, 3), normal(2, 4, 3) + 0.1, normal(2, 4, 2)], ALL),
    "attention, causal": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        [normal(2, 3, 5, 2), normal(2, 3, 5, 2) + 0.1, normal(2, 3, 5, 2)], ALL),
    "attention, mask": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, mask=tensor(MASK)),
        [normal(2, 5, 3), normal(2, 4, 3) + 0.1, normal(2, 4, 2)], ALL),
    "conv2d": (lambda x, w, b: F.conv2d(x, w, b, stride=(2, 1), padding=(1, 2)),
               [normal(2, 3, 4, 5), normal(2, 3, 3, 2), normal(2)], ALL),
    "conv_transpose2d": (lambda x, w, b: F.conv_transpose2d(x, w, b, stride=(2, 1), padding=(0, 1)),
                         [normal(2, 3, 2, 3), normal(3, 2, 2, 3), normal(2)], ALL),
    "avg_pool2d": (lambda x: F.avg_pool2d(x, (2, 3), stride=1, padding=1), [normal(2, 2, 4, 5)],
                   ALL),
    "max_pool2d": (lambda x: F.max_pool2d(x, 2), [normal(2, 2, 4, 5)], ALL),
    "max_pool2d, padding": (lambda x: F.max_pool2d(x, 3, stride=2, padding=1),
                            [normal(2, 2, 4, 5)], ("directional",)),
    "dropout": (dropped, [normal(4, 3)], ALL),
}


def test_every_function_has_cases() -> None:
    names = {"attention": "scaled_dot_product_attention"}
    tested = {what.partition(",")[0].partition(" ")[0] for what in CASES}
    missing = set(F.__all__) - {names.get(name, name) for name in tested}
    assert not missing, f"CASES in tests/engine/test_functional.py: add {sorted(missing)}"
    assert {names.get(name, name) for name in tested} == set(F.__all__)


@pytest.mark.parametrize("what", CASES)
def test_gradients_to_second_order(what: str, version: str) -> None:
    f, arguments, modes = CASES[what]
    check_grads(f, *arguments, order=2, modes=modes)


@pytest.mark.parametrize("what", CASES)
def test_float32_stays_float32(what: str, version: str, only_float32: None) -> None:
    f, arguments, _ = CASES[what]
    xs = [tensor(a, dtype=np.float32, requires_grad=True) for a in arguments]
    out = f(*xs)
    (out * out).sum().backward()
    assert out.dtype == np.float32
    for x in xs:
        assert x.grad is not None
        assert x.grad.dtype == np.float32
    grad(lambda x: (grad(lambda y: (f(y, *xs[1:]) ** 2).sum())(x) * x).sum())(xs[0])


@pytest.mark.parametrize("what", CASES)
def test_same_on_cuda(what: str, cuda: str) -> None:
    f, arguments, _ = CASES[what]
    results = []
    for device in ("cpu", cuda):
        xs = [tensor(a, device=device, requires_grad=True) for a in arguments]
        out = f(*xs)
        (out * out * out).sum().backward()
        assert {device_of(a) for a in [out.data, *(x.grad for x in xs)]} == {device}
        results.append([to_host(a) for a in [out.data, *(x.grad for x in xs)]])
    for on_cpu, on_cuda in zip(*results, strict=True):
        np.testing.assert_allclose(on_cuda, on_cpu, rtol=1e-12, atol=1e-13)


# ---- values by definition ----------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -3])
def test_softmax_by_mpmath(axis: int, version: str) -> None:
    x = 5.0 * normal(2, 3, 4)
    rows = np.moveaxis(x, axis, -1).reshape(-1, x.shape[axis])
    with mpmath.workdps(50):
        exact = []
        for row in rows:
            total = mpmath.fsum(mpmath.exp(mpmath.mpf(v)) for v in row)
            exact.append([float(mpmath.exp(mpmath.mpf(v)) / total) for v in row])
            logs = [float(mpmath.mpf(v) - mpmath.log(total)) for v in row]
            # Each is a difference of numbers of the size of the spread, rounded at that size.
            np.testing.assert_allclose(F.log_softmax(tensor(row)).data, logs, atol=20 * 2.3e-16)
    back = np.moveaxis(F.softmax(tensor(x), axis=axis).data, axis, -1).reshape(rows.shape)
    # The condition number of exp is its argument: 20 ulp for a spread of about 20.
    np.testing.assert_allclose(back, exact, rtol=20 * 2.3e-16)
    np.testing.assert_allclose(back.sum(axis=1), 1.0, rtol=1e-15)


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=6), st.integers(0, 5))
def test_cross_entropy_by_mpmath(logits: list[float], target: int) -> None:
    target %= len(logits)
    with mpmath.workdps(50):
        total = mpmath.fsum(mpmath.exp(mpmath.mpf(v)) for v in logits)
        exact = float(mpmath.log(total) - mpmath.mpf(logits[target]))
    for using in VERSIONS.values():
        with using():
            loss = F.cross_entropy(tensor([logits]), np.array([target])).item()
        # log sum exp is found as largest + log(1 + ...): both terms are rounded at their size.
        assert abs(loss - exact) <= 4e-16 * (abs(exact) + max(map(abs, logits)) + 1.0)


def test_cross_entropy_is_the_mean_over_all_positions(version: str) -> None:
    logits = normal(2, 3, 4)
    p = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    losses = [-math.log(p[i, j, TARGETS[i, j]]) for i in range(2) for j in range(3)]
    loss = F.cross_entropy(tensor(logits), TARGETS).item()
    np.testing.assert_allclose(loss, math.fsum(losses) / 6, rtol=1e-14)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32", "int64", "uint64"])
def test_targets_of_any_integer_dtype(dtype: str, version: str) -> None:
    logits = tensor(normal(2, 3, 4))
    expected = F.cross_entropy(logits, TARGETS).item()
    assert F.cross_entropy(logits, TARGETS.astype(dtype)).item() == expected
    assert F.cross_entropy(logits, tensor(TARGETS.astype(dtype))).item() == expected
    doubled = np.repeat(TARGETS, 2, axis=1).astype(dtype)[:, ::2]  # not contiguous
    assert F.cross_entropy(logits, doubled).item() == expected


def test_layer_norm_by_definition(version: str) -> None:
    x, w, b = normal(3, 5), normal(5), normal(5) + 1.0
    expected = np.empty((3, 5))
    for i, row in enumerate(x):
        mean = math.fsum(row) / 5
        variance = math.fsum((v - mean) ** 2 for v in row) / 5
        expected[i] = (row - mean) / math.sqrt(variance + 1e-5) * w + b
    np.testing.assert_allclose(
        F.layer_norm(tensor(x), tensor(w), tensor(b)).data, expected, rtol=1e-14, atol=1e-15
    )
    rms = [[v / math.sqrt(math.fsum(u * u for u in row) / 5 + 1e-5) for v in row] for row in x]
    np.testing.assert_allclose(F.rms_norm(tensor(x), tensor(w)).data, rms * w, rtol=1e-14)


def test_attention_by_loops(version: str) -> None:
    q, k, v = normal(2, 5, 3), normal(2, 4, 3, seed=1), normal(2, 4, 2, seed=2)
    for is_causal in (False, True):
        for mask in (None, MASK):
            expected = np.empty((2, 5, 2))
            for b in range(2):
                for t in range(5):
                    seen = [
                        s for s in range(4)
                        if (mask is None or mask[t, s]) and (not is_causal or s <= t)
                    ]
                    weights = [math.exp(q[b, t] @ k[b, s] / math.sqrt(3)) for s in seen]
                    expected[b, t] = sum(
                        w * v[b, s] for w, s in zip(weights, seen, strict=True)
                    ) / sum(weights)
            out = F.scaled_dot_product_attention(
                tensor(q), tensor(k), tensor(v), mask=mask, is_causal=is_causal
            )
            np.testing.assert_allclose(out.data, expected, rtol=1e-13)


def test_causal_attention_does_not_see_the_future(rng: np.random.Generator, version: str) -> None:
    q, k, v = (tensor(rng.standard_normal((6, 4))) for _ in range(3))
    before = F.scaled_dot_product_attention(q, k, v, is_causal=True).data
    k.data[4:], v.data[4:] = 99.0, -99.0
    after = F.scaled_dot_product_attention(q, k, v, is_causal=True).data
    np.testing.assert_array_equal(before[:4], after[:4])
    assert (before[4:] != after[4:]).all()


def test_linear_and_embedding_by_definition() -> None:
    x, w, b = normal(2, 3, 4), normal(5, 4), normal(5)
    out = F.linear(tensor(x), tensor(w), tensor(b)).data
    np.testing.assert_allclose(out, np.einsum("btc,dc->btd", x, w) + b, rtol=1e-14)
    np.testing.assert_array_equal(F.embedding(TARGETS, tensor(w)).data, w[TARGETS])
    repeated = grad(lambda w: F.embedding(np.array([1, 1, 1]), w).sum())(w)
    assert repeated.data[:, 0].tolist() == [0.0, 3.0, 0.0, 0.0, 0.0]


def test_empty_batches_stay_empty(version: str) -> None:
    x, w = tensor(np.zeros((0, 4)), requires_grad=True), tensor(np.ones(4), requires_grad=True)
    for out in (F.softmax(x), F.gelu(x), F.layer_norm(x, w, w), F.linear(x, w.reshape(1, 4))):
        assert out.shape[0] == 0
        out.sum().backward()
    assert w.grad is not None
    assert w.grad.tolist() == [0.0] * 4


# ---- extremes ----------------------------------------------------------------------------------


def test_relu_and_silu_at_the_borders() -> None:
    x = np.array([-np.inf, -1e4, -0.0, 0.0, 1e4, np.inf, np.nan])
    np.testing.assert_array_equal(F.relu(tensor(x)).data, [0, 0, 0, 0, 1e4, np.inf, np.nan])
    slopes = grad(lambda x: F.relu(x).sum())(x).data
    np.testing.assert_array_equal(slopes, [0, 0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(F.silu(tensor([-1e4, 0.0, 1e4])).data, [0.0, 0.0, 1e4])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_far_out(approximate: Any, dtype: str, version: str) -> None:
    x = tensor([-1e4, -1e2, 0.0, 1e2, 1e4, np.inf, np.nan], dtype=dtype, requires_grad=True)
    with np.errstate(all="ignore"):
        out = F.gelu(x, approximate)
        out.backward(np.ones(7))
    np.testing.assert_array_equal(out.data, [0.0, 0.0, 0.0, 1e2, 1e4, np.inf, np.nan])
    assert x.grad is not None
    rounding = 1.2e-7 if dtype == "float32" else 0.0  # of the polynomial
    np.testing.assert_allclose(x.grad[:5], [0.0, 0.0, 0.5, 1.0, 1.0], rtol=rounding)
    assert np.isnan(x.grad[6])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_softmax_of_large_logits(dtype: str, version: str) -> None:
    x = tensor([[1e4, -1e4, 1e4], [-1e4, -1e4, -1e4]], dtype=dtype)
    np.testing.assert_allclose(F.softmax(x).data, [[0.5, 0, 0.5], [1 / 3] * 3], rtol=1e-7)
    logs = F.log_softmax(x).data
    np.testing.assert_allclose(logs[0], [-math.log(2), -2e4 - math.log(2), -math.log(2)], rtol=1e-6)
    loss = F.cross_entropy(x, np.array([1, 0]))
    np.testing.assert_allclose(loss.item(), (2e4 + math.log(2) + math.log(3)) / 2, rtol=1e-6)
    assert loss.dtype == np.dtype(dtype)
    gradient = grad(lambda x: F.cross_entropy(x, np.array([0, 0])))(x).data
    np.testing.assert_allclose(gradient[0], [-0.25, 0.0, 0.25], rtol=1e-6)


def test_minus_infinity_is_a_choice_that_is_ruled_out(version: str) -> None:
    x = tensor([0.0, -np.inf, 0.0], requires_grad=True)
    out = F.softmax(x)
    np.testing.assert_array_equal(out.data, [0.5, 0.0, 0.5])
    out.backward(np.array([1.0, 5.0, 0.0]))
    np.testing.assert_array_equal(x.grad, [0.25, 0.0, -0.25])
    loss = F.cross_entropy(tensor([[0.0, -np.inf]]), np.array([0]))
    assert loss.item() == 0.0


ROWS_WITHOUT_ANSWER = [
    [np.nan, 1.0, 2.0], [1.0, np.nan, 2.0], [2.0, 1.0, np.nan], [np.nan] * 3,
    [np.nan, -np.inf, 0.0], [np.inf, 1.0, np.nan], [1000.0, np.nan, 2.0],
]


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("row", [*ROWS_WITHOUT_ANSWER, [np.inf, 0.0, 0.0], [-np.inf] * 3])
def test_no_plausible_number_from_nan(row: list[float], version: str) -> None:
    """The row with the nan is nan throughout; the row beside it is not touched."""
    x = tensor([row, [0.0, 0.0, 0.0]])
    out = F.softmax(x).data
    assert np.isnan(out[0]).any()
    if np.isnan(row).any():
        assert np.isnan(out[0]).all()
        assert np.isnan(F.log_softmax(x).data[0]).all()
        assert np.isnan(F.layer_norm(x, tensor(np.ones(3)), tensor(np.zeros(3))).data[0]).all()
    np.testing.assert_allclose(out[1], 1 / 3, rtol=1e-15)
    for target in range(3):
        assert np.isnan(F.cross_entropy(x, np.array([target, 0])).item())
    gradient = grad(lambda x: F.cross_entropy(x, np.array([0, 0])))(x).data
    assert np.isnan(gradient[0]).any()
    assert np.isfinite(gradient[1]).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_layer_norm_of_constant_rows(dtype: str, version: str) -> None:
    """Nothing to see in a constant row: the bias, not amplified rounding."""
    for value in (0.0, 0.1, -3.7, 1e-30):
        x = tensor(np.full((2, 7), value), dtype=dtype)
        w, b = (tensor(normal(7, seed=s), dtype=dtype) for s in (0, 1))
        out = F.layer_norm(x, w, b)
        rounding = 1e-4 if dtype == "float32" else 1e-12
        np.testing.assert_allclose(out.data, np.tile(b.data, (2, 1)), atol=rounding)
        assert np.isfinite(grad(lambda x, w=w, b=b: F.layer_norm(x, w, b).sum())(x).data).all()


def test_layer_norm_with_a_large_offset(version: str) -> None:
    """Two passes: an offset of 1e6 costs the digits that x itself has lost, and no more."""
    x = normal(4, 64)
    w, b = tensor(np.ones(64)), tensor(np.zeros(64))
    near = F.layer_norm(tensor(x), w, b).data
    far = F.layer_norm(tensor(x + 1e6), w, b).data
    np.testing.assert_allclose(far, near, atol=2e-9)  # x + 1e6 is rounded to 1e-10
    narrow = np.round(x * 64) / 64  # exact in float32, with the offset too
    w32, b32 = tensor(w, dtype="float32"), tensor(b, dtype="float32")
    far32 = F.layer_norm(tensor(narrow + 1e4, dtype="float32"), w32, b32).data
    near = F.layer_norm(tensor(narrow), w, b).data
    # A mean of float32 is rounded to 1e4 * 6e-8, but the row itself is exact.
    np.testing.assert_allclose(far32, near, atol=1e-6)
    slopes = [
        grad(lambda x, w=w, b=b: (F.layer_norm(x, w, b) ** 3).sum())(x).data
        for x, w, b in (
            (tensor(narrow + 1e4, dtype="float32"), w32, b32), (tensor(narrow), w, b),
        )
    ]
    np.testing.assert_allclose(*slopes, atol=2e-5)


# ---- dropout -----------------------------------------------------------------------------------


def test_dropout_is_the_same_for_the_same_seed() -> None:
    x = tensor(np.ones((50, 40)))
    one, two, other = (
        F.dropout(x, 0.3, rng=np.random.default_rng(seed)).data for seed in (5, 5, 6)
    )
    np.testing.assert_array_equal(one, two)
    assert (one != other).any()


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_mean(p: float) -> None:
    """Of n ones, a binomial number remains, each as 1/(1-p): within five standard deviations."""
    n = 100_000
    out = F.dropout(tensor(np.ones(n)), p, rng=np.random.default_rng(0)).data
    assert set(np.unique(out)) == {0.0, 1.0 / (1.0 - p)}
    deviation = math.sqrt(p * (1.0 - p) / n) / (1.0 - p)
    assert abs(out.mean() - 1.0) < 5.0 * deviation


def test_dropout_gradient_goes_where_values_went() -> None:
    x = tensor(normal(20), requires_grad=True)
    out = F.dropout(x, 0.5, rng=np.random.default_rng(1))
    out.sum().backward()
    np.testing.assert_array_equal(x.grad, np.where(out.data == 0.0, 0.0, 2.0))


def test_dropout_is_off_in_evaluation_and_draws_nothing() -> None:
    rng = np.random.default_rng(0)
    x = tensor(normal(20))
    assert F.dropout(x, 0.5, rng=rng, training=False) is x
    assert F.dropout(x, 0.0, rng=rng) is x
    assert rng.random() == np.random.default_rng(0).random()


@pytest.mark.parametrize("p", [-0.1, 1.0, 1.5, math.nan])
def test_dropout_probability(p: float) -> None:
    for training in (True, False):
        with pytest.raises(ValueError, match=r"dropout: p is .*, expected 0 <= p < 1"):
            F.dropout(tensor([1.0]), p, rng=np.random.default_rng(0), training=training)


# ---- errors ------------------------------------------------------------------------------------

X = tensor(np.ones((2, 3)))
Q, K = tensor(np.ones((2, 5, 3))), tensor(np.ones((2, 4, 3)))


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        (lambda: F.cross_entropy(X, np.array([0, 3])), ValueError,
         r"cross_entropy: target 3 is outside 0\.\.2"),
        (lambda: F.cross_entropy(X, np.array([-1, 0])), ValueError, r"target -1 is outside 0\.\.2"),
        (lambda: F.cross_entropy(X, np.array([0, 1, 2])), ValueError,
         r"cross_entropy: targets have shape \(3,\).*\(2, 3\)"),
        (lambda: F.cross_entropy(X, np.array([[0, 1]])), ValueError, r"shape \(1, 2\).*\(2, 3\)"),
        (lambda: F.cross_entropy(X, np.array([0.0, 1.0])), TypeError,
         "cross_entropy: targets have dtype float64, expected integers"),
        (lambda: F.cross_entropy(X, np.array([True, False])), TypeError, "dtype bool"),
        (lambda: F.cross_entropy(X, tensor([0.0, 1.0])), TypeError, "dtype float64"),
        (lambda: F.cross_entropy(X[:0], np.array([], dtype=int)), ValueError,
         r"cross_entropy: no targets .*\(0, 3\)"),
        (lambda: F.cross_entropy(tensor(1.0), np.array(0)), ValueError, r"cross_entropy: .*\(\)"),
        (lambda: F.embedding(np.array([0, 2]), X), ValueError,
         r"embedding: id 2 is outside 0\.\.1"),
        (lambda: F.embedding(np.array([1, 2**63], np.uint64), X), ValueError,
         r"embedding: id 9223372036854775808 is outside 0\.\.1"),
        (lambda: F.embedding(np.array([1, -128], np.int8), X), ValueError, r"id -128 is outside"),
        (lambda: F.embedding(np.array([-1]), X), ValueError, r"embedding: id -1 is outside"),
        (lambda: F.embedding(np.array([0.5]), X), TypeError, "embedding: ids have dtype float64"),
        (lambda: F.embedding("text", X), TypeError, "embedding: ids have dtype"),  # type: ignore[arg-type]
        (lambda: F.gelu(X, "exact"), ValueError, "gelu: approximate is 'exact', expected"),  # type: ignore[arg-type]
        (lambda: F.layer_norm(X, X[0, :2], X[0]), ValueError,
         r"layer_norm: weight has shape \(2,\), x has 3 channels"),
        (lambda: F.layer_norm(X, X[0], X), ValueError, r"layer_norm: bias has shape \(2, 3\)"),
        (lambda: F.rms_norm(X, X), ValueError, r"rms_norm: weight has shape \(2, 3\)"),
        (lambda: F.swiglu(X, X[0]), ValueError,
         r"swiglu: up has shape \(3,\), expected \(2, 3\), as gate"),
        (lambda: F.rotary_embedding(X, X, X), ValueError,
         r"rotary_embedding: x has shape \(2, 3\), expected \(\.\.\., T, H, D\)"),
        (lambda: F.rotary_embedding(X[None], X[:1], X[:1]), ValueError,
         r"rotary_embedding: cos has shape \(1, 3\), expected \(1, R/2\) .* R up to 3"),
        (lambda: F.rotary_embedding(X[None], X, X), ValueError,
         r"rotary_embedding: cos has shape \(2, 3\), expected \(1, R/2\)"),
        (lambda: F.rotary_embedding(X[None], X[:1, :1], X[:1, :0]), ValueError,
         r"rotary_embedding: sin has shape \(1, 0\), expected \(1, 1\), as cos"),
        (lambda: F.linear(X, tensor(np.ones((4, 2)))), ValueError,
         r"linear: x has shape \(2, 3\), weight \(4, 2\)"),
        (lambda: F.linear(X, X, tensor(np.ones((2, 2)))), ValueError,
         r"linear: bias has shape \(2, 2\), weight \(2, 3\)"),
        (lambda: F.softmax(X, axis=2), ValueError, r"softmax.*axis 2"),
        (lambda: F.softmax(tensor(1.0), axis=1), ValueError, r"softmax\(float64\[\].*axis 1"),
        (lambda: F.softmax(tensor(np.ones((2, 0))), 2), ValueError, r"sum\(float64\[2, 0\]"),
        (lambda: F.log_softmax(X, axis=-3), ValueError, r"max\(float64\[2, 3\].*axis -3"),
        (lambda: F.scaled_dot_product_attention(Q, K[..., :2], K), ValueError, r"5, 3.*2, 4"),
        (lambda: F.scaled_dot_product_attention(Q, K, K, mask=np.zeros((5, 4), dtype=bool)),
         ValueError, "mask leaves a query nothing to look at"),
        (lambda: F.scaled_dot_product_attention(
            Q, K, K, mask=np.array([False, True, True, True]), is_causal=True),
         ValueError, "nothing to look at"),
        (lambda: F.scaled_dot_product_attention(Q, K, K, mask=np.zeros((5, 4))), TypeError,
         "mask has dtype float64, expected booleans"),
        (lambda: F.scaled_dot_product_attention(Q, K, K, mask=np.ones((4, 5), dtype=bool)),
         ValueError, r"mask has shape \(4, 5\).*\(2, 5, 4\)"),
        (lambda: F.scaled_dot_product_attention(Q, K, K, mask=np.ones((3, 2, 5, 4), dtype=bool)),
         ValueError, r"mask has shape \(3, 2, 5, 4\).*\(2, 5, 4\)"),
    ],
)
def test_errors_say_what_came_and_what_was_expected(
    wrong: Callable[[], Tensor], error: type[Exception], words: str, version: str
) -> None:
    with pytest.raises(error, match=words):
        wrong()


@pytest.mark.parametrize("eps", [-0.5, math.nan, math.inf])
def test_a_negative_eps_is_an_error(eps: float) -> None:
    x, ones = tensor(np.ones((2, 3))), tensor(np.ones(3))
    for calls in nullcontext(), mm.reference():
        with calls:
            with pytest.raises(ValueError, match="layer_norm: eps is"):
                F.layer_norm(x, ones, ones, eps)
            with pytest.raises(ValueError, match="rms_norm: eps is"):
                F.rms_norm(x, ones, eps)
