"""Numbers so large or so small that a square, a sum or a rounded logarithm would lose them."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import pytest

import minimono as mm
from minimono.engine import functional as F
from minimono.engine import primitives as P
from minimono.engine.tape import grad
from minimono.engine.tensor import Tensor, tensor

VERSIONS = {"running": nullcontext, "reading": mm.reference}
ROW = np.array([-2.0, -1.0, 1.0, 2.0])  # times a size
NORMAL = ROW / math.sqrt(2.5)


@pytest.fixture(params=VERSIONS.values(), ids=VERSIONS)
def version(request: pytest.FixtureRequest) -> Any:
    with request.param():
        yield


SIZES = {
    "float32": [1e20, 5e-20, 1e-30, 1.6e38, 2e-38, 1.0],
    "float64": [1e200, 1e154, 1e-170, 1e-300, 8e307, 1.0],
}
every_size = pytest.mark.parametrize(
    ("dtype", "size"), [(dtype, size) for dtype, sizes in SIZES.items() for size in sizes]
)


def tolerance(dtype: str, size: float) -> float:
    """A few roundings; of numbers below the normal ones, what is left of their digits."""
    smallest = float(np.finfo(dtype).smallest_subnormal)
    return max(8 * float(np.finfo(dtype).eps), 4 * smallest / size)


def norm_gradient(x: Any, g: Any, centre: bool) -> Any:
    """d/dx of sum g h, with h = x / root mean square of x (less its mean)."""
    size = math.sqrt((x * x).mean())
    h = x / size
    share = g - h * (g * h).mean()
    return (share - g.mean() if centre else share) / size


@every_size
def test_norms_of_rows_of_any_size(dtype: str, size: float, version: Any) -> None:
    x = (ROW * size).astype(dtype)
    rtol = tolerance(dtype, size)
    g = np.array([0.3, -1.0, 0.5, 0.7], dtype)
    one, zero = Tensor(np.ones(4, dtype)), Tensor(np.zeros(4, dtype))
    for centre, norm in [
        (True, lambda x: F.layer_norm(x, one, zero, eps=0.0)),
        (False, lambda x: F.rms_norm(x, one, eps=0.0)),
    ]:
        out = norm(Tensor(x[None]))
        assert out.dtype == dtype
        np.testing.assert_allclose(out.data[0], NORMAL, rtol=rtol)
        leaf = tensor(x[None], requires_grad=True)
        # A cotangent of the rows' size, so that the gradient can be written down.
        near = np.float64(min(size, 1e30 if dtype == "float32" else 1e290))
        norm(leaf).backward((g * near).astype(dtype)[None])
        expected = norm_gradient(ROW, g.astype(float), centre) * (near / size)
        np.testing.assert_allclose(
            leaf.grad[0], expected, rtol=10 * rtol, atol=10 * rtol * abs(expected).max()
        )


@every_size
def test_an_eps_that_is_much_larger_or_smaller(dtype: str, size: float, version: Any) -> None:
    """Where eps is all that counts, x / sqrt(eps); where it counts nothing, as without it."""
    if size in (1.6e38, 8e307):
        return
    x = (ROW * size).astype(dtype)
    one, zero = Tensor(np.ones(4, dtype)), Tensor(np.zeros(4, dtype))
    expected = ROW * size / math.hypot(math.sqrt(2.5) * size, math.sqrt(1e-5))
    for out in (F.layer_norm(Tensor(x), one, zero), F.rms_norm(Tensor(x), one)):
        np.testing.assert_allclose(out.data, expected, rtol=tolerance(dtype, size))


def test_rows_of_zeros_and_of_one_value(version: Any) -> None:
    for dtype in SIZES:
        one, zero = Tensor(np.ones(3, dtype)), Tensor(np.zeros(3, dtype))
        rows = Tensor(np.array([[0.0] * 3, [7.0] * 3, [np.nan, 1, 2], [np.inf, 1, 2]], dtype))
        with np.errstate(invalid="ignore"):
            out = F.layer_norm(rows, one, zero).data
        assert (out[:2] == 0.0).all()
        assert np.isnan(out[2:]).any(axis=1).all()


def test_the_second_derivative_of_a_large_row() -> None:
    """h(s x) = h(x), so the second derivative at s x is that at x, over s^2."""
    one, zero = Tensor(np.ones(4)), Tensor(np.zeros(4))
    weights = Tensor(np.array([0.3, -1.0, 0.5, 0.7]))

    def second(x: Any, size: float) -> Any:
        def slope(x: Tensor) -> Tensor:
            f = lambda x: (F.layer_norm(x, one, zero, eps=0.0) * weights).sum()  # noqa: E731
            return (grad(f)(x) * size * Tensor(np.array([1.0, 2.0, 3.0, 5.0]))).sum()

        return grad(slope)(Tensor(x)).data * size

    np.testing.assert_allclose(second(ROW * 2.0**400, 2.0**400), second(ROW, 1.0), rtol=1e-12)


@pytest.mark.parametrize("dtype", SIZES)
def test_softmaxes_of_huge_scores(dtype: str, version: Any) -> None:
    large = float(np.finfo(dtype).max)
    scores = np.array([[large, large, -large], [1e4, 1e4 - 1, -large], [-large] * 3], dtype)
    e = math.exp(-1.0)
    expected = [[0.5, 0.5, 0.0], [1 / (1 + e), e / (1 + e), 0.0], [1 / 3] * 3]
    with np.errstate(over="ignore"):
        value = F.softmax(Tensor(scores)).data
        logs = F.log_softmax(Tensor(scores[:, :2])).data
        loss = F.cross_entropy(Tensor(scores), np.array([0, 1, 2])).item()
        slope = grad(lambda x: F.cross_entropy(x, np.array([0, 1, 2])))(Tensor(scores)).data
    rtol = 8 * float(np.finfo(dtype).eps)
    np.testing.assert_allclose(value, expected, rtol=rtol)
    assert logs[0].tolist() == pytest.approx([-math.log(2.0)] * 2, rel=1e-6)
    right = [math.log(2.0), math.log1p(e) + 1.0, math.log(3.0)]
    assert loss == pytest.approx(sum(right) / 3, rel=1e-6)
    by_hand = (np.array(expected) - np.eye(3)) / 3
    np.testing.assert_allclose(slope, by_hand, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", SIZES)
@pytest.mark.parametrize("size", [1e4, 1e13, 1e30, 3e38])
def test_activations_far_out(dtype: str, size: float, version: Any) -> None:
    x = np.array([-size, size], dtype)
    for f, left, right in [
        (F.gelu, 0.0, 1.0), (lambda x: F.gelu(x, "tanh"), 0.0, 1.0), (F.silu, 0.0, 1.0),
        (F.relu, 0.0, 1.0), (lambda x: F.leaky_relu(x, 0.5), 0.5, 1.0),
    ]:
        leaf = tensor(x, requires_grad=True)
        with np.errstate(over="ignore"):
            out = f(leaf)
            out.sum().backward()
        np.testing.assert_allclose(out.data, [left * x[0], right * x[1]], rtol=1e-6)
        np.testing.assert_array_equal(leaf.grad, [left, right])
    for f, values in [(F.sigmoid, [0.0, 1.0]), (F.tanh, [-1.0, 1.0])]:
        leaf = tensor(x, requires_grad=True)
        out = f(leaf)
        out.sum().backward()
        assert out.data.tolist() == values
        assert leaf.grad.tolist() == [0.0, 0.0]


def attention_gradient(qkv: Any, cotangent: Any, is_causal: bool, dtype: str) -> Any:
    leaf = tensor(qkv, dtype=dtype, requires_grad=True)
    F.self_attention(leaf, is_causal=is_causal).backward(cotangent)
    return leaf.grad


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("level", [20_000.0, -20_000.0, 200_000.0])
def test_attention_keeps_what_large_scores_leave(level: float, is_causal: bool) -> None:
    """Scores near `level` that float32 holds exactly; the truth is the formula in float64."""
    rng = np.random.default_rng(3)
    T, D = 70, 4
    qkv = rng.integers(-2, 3, (1, T, 3, 1, D)).astype(np.float64) / 2.0
    # The score is q k / 2: the first channel adds `level` to all of a row.
    qkv[0, :, 0, 0, 0], qkv[0, :, 1, 0, 0] = 2.0, level
    gradient = partial(attention_gradient, qkv, rng.standard_normal((1, T, 1, D)), is_causal)

    with mm.reference():
        truth, reading = gradient("float64"), gradient("float32")
    np.testing.assert_allclose(gradient("float64"), truth, rtol=1e-9, atol=1e-9 * abs(level))
    # Each channel apart: by the first of q the gradient is `level` times a sum that is nearly 0.
    for part in [(slice(None), slice(None), i, slice(None), d) for i in range(3) for d in range(D)]:
        size = abs(truth[part]).max()
        wrong = abs(reading[part] - truth[part]).max()
        ours = abs(gradient("float32")[part] - truth[part]).max()
        assert ours <= 4.0 * wrong + 2e-6 * max(size, 1.0), part


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("spread", [10.0, 30.0, 70.0, 300.0])
def test_attention_to_one_position_leaves_no_rounding(spread: float, is_causal: bool) -> None:
    """Scores so far apart that one position has all weight: its slopes are 0, not a rest."""
    rng = np.random.default_rng(0)
    qkv = (rng.standard_normal((1, 90, 3, 2, 8)) * spread).astype(np.float32)
    cotangent = rng.standard_normal((1, 90, 2, 8)).astype(np.float32)
    gradient = partial(attention_gradient, qkv, cotangent, is_causal)

    with mm.reference():
        truth, reading = gradient("float64"), gradient("float32")
    ours = gradient("float32")
    for i in range(3):
        wrong = abs(reading[:, :, i] - truth[:, :, i]).max()
        size = abs(truth[:, :, i]).max()
        assert abs(ours[:, :, i] - truth[:, :, i]).max() <= 4.0 * wrong + 2e-6 * size


# ---- powers ------------------------------------------------------------------------------------

INF, NAN = math.inf, math.nan
# x, y, slope by x, slope by y: limits from where x**y is real; at x = y = 0 as in PyTorch.
POWERS = [
    (0.0, -1.0, -INF, -INF), (0.0, -0.5, -INF, -INF), (0.0, -2.0, -INF, -INF),
    (0.0, 0.0, 0.0, 0.0), (0.0, 0.5, INF, 0.0), (0.0, 1.0, 1.0, 0.0), (0.0, 2.0, 0.0, 0.0),
    (0.0, INF, 0.0, 0.0), (0.0, -INF, -INF, -INF),
    (INF, -1.0, -0.0, 0.0), (INF, -0.5, -0.0, 0.0), (INF, 0.0, 0.0, INF), (INF, 1.0, 1.0, INF),
    (INF, 2.0, INF, INF), (INF, 0.5, 0.0, INF),
    (0.5, INF, 0.0, 0.0), (0.5, -INF, -INF, -INF), (2.0, INF, INF, INF), (2.0, -INF, 0.0, 0.0),
    (1.0, 3.0, 3.0, 0.0), (2.0, 0.0, 0.0, math.log(2.0)), (4.0, -0.5, -1 / 16, math.log(4.0) / 2),
    (-2.0, 2.0, -4.0, NAN), (-2.0, 3.0, 12.0, NAN), (-2.0, -1.0, -0.25, NAN), (-2.0, 0.0, 0.0, NAN),
    (-2.0, 0.5, NAN, NAN), (NAN, 0.0, 0.0, NAN), (NAN, 2.0, NAN, NAN), (2.0, NAN, NAN, NAN),
]


@pytest.mark.parametrize("dtype", SIZES)
@pytest.mark.parametrize(("x", "y", "by_x", "by_y"), POWERS)
def test_both_slopes_of_a_power(x: float, y: float, by_x: float, by_y: float, dtype: str) -> None:
    one, other = (tensor([v], dtype=dtype, requires_grad=True) for v in (x, y))
    with np.errstate(all="ignore"):
        (one**other).sum().backward()
        fixed_exponent = grad(lambda v: (v**y).sum())(one.detach()).data
        fixed_base = grad(lambda v: (x**v).sum())(other.detach()).data
    for found in (one.grad, fixed_exponent):
        if not (math.isinf(y) and found is fixed_exponent and np.isnan(found[0])):
            np.testing.assert_allclose(found, [by_x], rtol=1e-6)
    for found in (other.grad, fixed_base):
        np.testing.assert_allclose(found, [by_y], rtol=1e-6)


@pytest.mark.parity
@pytest.mark.parametrize(("x", "y"), [case[:2] for case in POWERS])
def test_slopes_of_a_power_are_pytorchs_where_those_are_numbers(x: float, y: float) -> None:
    torch = pytest.importorskip("torch")
    theirs = [torch.tensor([v], dtype=torch.float64, requires_grad=True) for v in (x, y)]
    (theirs[0] ** theirs[1]).sum().backward()
    ours = [tensor([v], requires_grad=True) for v in (x, y)]
    with np.errstate(all="ignore"):
        (ours[0] ** ours[1]).sum().backward()
    for a, b in zip(ours, theirs, strict=True):
        if not torch.isnan(b.grad).any():
            np.testing.assert_allclose(a.grad, b.grad.numpy(), rtol=1e-12)


def test_second_slopes_of_a_power_at_zero() -> None:
    for y, expected in [(2.0, 2.0), (3.0, 0.0), (1.0, 0.0), (4, 0.0)]:
        assert grad(grad(lambda x, y=y: x**y))(tensor(0.0)).item() == expected
    mixed = grad(lambda y: grad(lambda x: x**y)(tensor(0.0)))(tensor(3.0))
    assert mixed.item() == 0.0


# ---- products with vectors ---------------------------------------------------------------------

VECTORS: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
    ((3,), (3,)), ((3,), (3, 4)), ((2, 3), (3,)), ((3,), (5, 3, 4)), ((5, 2, 3), (3,)),
    ((3,), (1, 6, 3, 2)), ((2, 1, 4, 3), (3,)),
]


@pytest.mark.parametrize(("one", "two"), VECTORS)
def test_products_with_vectors_are_numpys(one: Any, two: Any, version: Any) -> None:
    rng = np.random.default_rng(4)
    x, y = rng.standard_normal(one), rng.standard_normal(two)
    for left, right in [(tensor(x), tensor(y)), (tensor(x), y), (x, tensor(y))]:
        out: Tensor = left @ right
        assert out.shape == (x @ y).shape
        np.testing.assert_allclose(out.data, x @ y, rtol=1e-14, atol=1e-14)
    g = rng.standard_normal((x @ y).shape)
    by_x, by_y = grad(lambda x, y: (x @ y * Tensor(g)).sum(), (0, 1))(tensor(x), tensor(y))
    for i, (found, value) in enumerate([(by_x, x), (by_y, y)]):
        assert found.shape == value.shape
        for place in np.ndindex(value.shape):  # the product is linear in each element
            unit = np.zeros(value.shape)
            unit[place] = 1.0
            slope = ((unit @ y if i == 0 else x @ unit) * g).sum()
            assert found.data[place] == pytest.approx(slope, rel=1e-12, abs=1e-12)


def test_vectors_that_do_not_fit() -> None:
    wrong: list[Callable[[], Tensor]] = [
        lambda: tensor(np.ones(2)) @ tensor(np.ones(3)),
        lambda: tensor(np.ones(2)) @ tensor(np.ones((3, 2))),
        lambda: tensor(np.ones((2, 3))) @ tensor(np.ones(2)),
        lambda: P.matmul(tensor(np.ones((2, 3))), tensor(2.0)),
        lambda: tensor(2.0) @ np.ones(3),
    ]
    for product in wrong:
        with pytest.raises(ValueError, match="matmul"):
            product()
