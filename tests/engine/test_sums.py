"""Sums are as exact as pairwise summation: any axis, layout and dtype, in both versions.

Constants show it best: added one after the other, their roundings all go the same way.
"""

import math
from collections.abc import Callable
from contextlib import nullcontext
from itertools import chain, combinations
from typing import Any

import numpy as np
import pytest

import minimono as mm
from minimono import sums
from minimono.engine import functional as F
from minimono.engine import primitives as P
from minimono.engine.tape import grad
from minimono.engine.tensor import Tensor, tensor

DTYPES = ["float32", "float64"]
VERSIONS = {"running": nullcontext, "reading": mm.reference}
both_versions = pytest.mark.parametrize("version", VERSIONS.values(), ids=VERSIONS)


def bound(n: int, dtype: str) -> float:
    """How far off a sum of n numbers of one sign may be, relatively, if it is taken in pairs."""
    return (4 + math.log2(n)) * float(np.finfo(dtype).eps)


# ---- sum, mean and cumsum themselves -----------------------------------------------------------

SHAPES = [(5003,), (3001, 7), (7, 3001), (40, 1, 90, 3), (1, 6007), (6007, 1), (2, 1500, 2)]


def layouts(x: np.ndarray) -> dict[str, np.ndarray]:
    """The same numbers lying differently in memory."""
    spread = np.zeros([2 * n for n in x.shape], x.dtype)
    apart = spread[tuple(slice(None, None, 2) for _ in x.shape)]
    apart[...] = x
    order = np.roll(np.arange(x.ndim), 1)
    return {
        "rows": x, "columns": np.asfortranarray(x), "apart": apart,
        "turned": np.ascontiguousarray(x[::-1])[::-1],
        "other order": np.ascontiguousarray(x.transpose(order)).transpose(np.argsort(order)),
        "swapped bytes": x.astype(x.dtype.newbyteorder()),
    }


def exact_sum(x: np.ndarray, axes: tuple[int, ...], keepdims: bool) -> np.ndarray:
    rest = [i for i in range(x.ndim) if i not in axes]
    kept = math.prod(x.shape[i] for i in rest)
    rows = x.astype(np.float64).transpose(*rest, *axes).reshape(kept, -1)
    shape = [1 if i in axes else n for i, n in enumerate(x.shape) if keepdims or i not in axes]
    return np.array([math.fsum(row) for row in rows]).reshape(shape)


@both_versions
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_any_axes_in_any_layout(shape: tuple[int, ...], dtype: str, version: Any) -> None:
    x = np.random.default_rng(1).uniform(0.5, 1.5, shape).astype(dtype)
    places = range(len(shape))
    for axes in chain.from_iterable(combinations(places, k) for k in range(1, len(shape) + 1)):
        count = math.prod(shape[a] for a in axes)
        for keepdims in (False, True):
            expected = exact_sum(x, axes, keepdims)
            for layout, array in layouts(x).items():
                with version():
                    total = Tensor(array).sum(axis=axes, keepdims=keepdims).data
                    mean = Tensor(array).mean(axis=axes, keepdims=keepdims).data
                assert total.shape == mean.shape == expected.shape
                for found in (total, mean * count):
                    np.testing.assert_allclose(
                        found, expected, rtol=bound(count, dtype), err_msg=f"{axes} {layout}"
                    )


@pytest.mark.parametrize("n", [2**24 + 1, 20_000_000])
@pytest.mark.parametrize("columns", [1, 2, 3])
def test_millions_of_ones(n: int, columns: int) -> None:
    """Exact: every sum on the way is a whole number that float32 holds. In order: 2^24."""
    ones = Tensor(np.broadcast_to(np.float32(1.0), (n, columns)))
    assert ones.sum(axis=0).data.tolist() == [np.float32(n)] * columns
    assert ones.mean(axis=0).data.tolist() == [1.0] * columns
    assert ones.mean().item() == 1.0
    assert ones.T.sum(axis=1).data.tolist() == [np.float32(n)] * columns


def test_axis_of_all_of_an_array_with_gaps() -> None:
    x = np.full((1 << 20, 4), 0.1, np.float32)[:, ::2]
    value = float(np.float32(0.1))
    assert Tensor(x).sum().item() == pytest.approx(value * x.size, rel=1e-6)
    assert Tensor(x).mean().item() == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("axis", [0, -1])
@pytest.mark.parametrize("n", [1, 255, 256, 257, 300_007])
def test_cumsum_at_every_place(n: int, axis: int) -> None:
    values = np.random.default_rng(2).uniform(0.5, 1.5, n)
    shape = (n, 1) if axis == 0 else (1, n)
    for dtype in DTYPES:
        x = values.astype(dtype)
        exact = np.cumsum(x.astype(np.longdouble))
        found = P.cumsum(tensor(x.reshape(shape)), axis=axis).data
        assert found.shape == shape
        assert found.dtype == x.dtype
        # float32 is added in float64, as PyTorch does, and rounded once.
        tolerance = 6e-8 if dtype == "float32" else bound(n, dtype)
        np.testing.assert_allclose(found.ravel(), exact.astype(float), rtol=tolerance)
        of_sum = grad(lambda x, a=axis: P.cumsum(x, axis=a).sum())(tensor(x.reshape(shape)))
        np.testing.assert_array_equal(of_sum.data.ravel(), np.arange(n, 0.0, -1.0))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_mean_is_finite_where_the_sum_is_not(dtype: str) -> None:
    large = np.finfo(dtype).max
    for shape, axis in [((5,), None), ((100, 3), 0), ((3, 100), 1), ((4, 5, 6), (0, 2))]:
        x = Tensor(np.full(shape, large))
        found = x.mean(axis=axis).data
        np.testing.assert_allclose(found, np.full(found.shape, large), rtol=1e-6)
        by_x = slope(lambda x, a=axis: x.mean(axis=a), x)
        np.testing.assert_allclose(by_x, np.full(shape, 0.1 * found.size / x.size), rtol=1e-6)
    mixed = Tensor(np.array([large, large, -large, large], dtype))
    assert mixed.mean().item() == pytest.approx(float(large) / 2, rel=1e-6)
    assert Tensor(np.full(5, large)).sum().item() == math.inf
    assert Tensor(np.array([np.inf, 1.0], dtype)).mean().item() == math.inf
    small = np.full(7, np.finfo(dtype).smallest_subnormal)
    assert Tensor(small).mean().data == small[0]


def test_whole_numbers_and_halves() -> None:
    assert sums.total(np.full((300, 2), 200, np.uint8), axis=0).tolist() == [60000, 60000]
    assert sums.total(np.ones((300, 2), bool), axis=0).tolist() == [300, 300]
    halves = np.full((5000, 2), 0.1, np.float16)
    expected = np.float16(5000 * float(np.float16(0.1)))
    assert sums.total(halves, axis=0).tolist() == [expected] * 2
    assert sums.total(halves.T, axis=1).tolist() == [expected] * 2


def test_complex_numbers_for_the_complex_step() -> None:
    x = np.full((100_000, 2), 0.1 + 0.3e-20j)
    total = sums.total(x, axis=0)
    np.testing.assert_allclose(total.real, 1e4, rtol=bound(100_000, "float64"))
    np.testing.assert_allclose(total.imag, 3e-16, rtol=bound(100_000, "float64"))


# ---- functions of a number, which has no axes --------------------------------------------------


@both_versions
@pytest.mark.parametrize("axis", [0, -1])
def test_axes_of_a_number(axis: int, version: Any) -> None:
    """NumPy lets a number be summed along axis 0 or -1; so do ours, as PyTorch's do."""
    for f, value, slope in [
        (P.cumsum, 0.7, 1.0), (P.flip, 0.7, 1.0), (P.sum, 0.7, 1.0), (P.mean, 0.7, 1.0),
        (P.max, 0.7, 1.0), (P.min, 0.7, 1.0), (F.softmax, 1.0, 0.0), (F.log_softmax, 0.0, 0.0),
    ]:
        with version():
            x = tensor(0.7, requires_grad=True)
            out = f(x, axis=axis)
            assert (out.shape, out.item()) == ((), value), f
            out.backward()
            assert (x.grad.shape, float(x.grad)) == ((), slope), f
            again = grad(grad(lambda x, f=f: f(x * x, axis=axis)))(tensor(0.7))
            assert (again.shape, again.item()) == ((), pytest.approx(2.0 * slope)), f


@pytest.mark.parametrize("axis", [1, -2])
@pytest.mark.parametrize("f", [P.cumsum, P.flip, P.sum, P.mean, P.max])
def test_axes_that_are_not_there(f: Any, axis: int) -> None:
    with pytest.raises(ValueError, match="axis"):
        f(tensor(0.7), axis=axis)
    with pytest.raises(ValueError, match="axis"):
        f(tensor([0.7]), axis=axis)


# ---- every function that adds up over rows -----------------------------------------------------
# Each sums 0.1 or products with 0.1 over N rows, forward or on the way back.

N = 2**18 + 3
Sweep = Callable[[str], tuple[Any, float]]
SWEEP: dict[str, Sweep] = {}


def sweep(f: Sweep) -> Sweep:
    SWEEP[f.__name__] = f
    return f


def tenths(*shape: int, dtype: str) -> Tensor:
    return Tensor(np.full(shape, 0.1, dtype))


def tenth(dtype: str) -> float:
    return float(np.dtype(dtype).type(0.1))


def slope(f: Callable[[Tensor], Tensor], at: Tensor) -> Any:
    """By `backward`, which takes kernels; the cotangent is 0.1 everywhere."""
    at = tensor(at, requires_grad=True)
    out = f(at)
    out.backward(np.full(out.shape, 0.1, at.dtype))
    return at.grad


def ones(*shape: int, dtype: str) -> Tensor:
    return Tensor(np.ones(shape, dtype))


for name, operation in {
    "add": lambda x, b: x + b, "subtract": lambda x, b: x - b, "multiply": lambda x, b: x * b,
    "divide": lambda x, b: b / x, "power": lambda x, b: b**x,
    "maximum": lambda x, b: P.maximum(x - 2.0, b), "minimum": lambda x, b: P.minimum(x + 2.0, b),
    "where": lambda x, b: P.where(x.data > 2.0, x, b),
    "broadcast_to": lambda x, b: P.broadcast_to(b, x.shape),
}.items():

    def undone(dtype: str, f: Any = operation, name: str = name) -> tuple[Any, float]:
        found = slope(lambda b: f(ones(N, 2, dtype=dtype), b), ones(2, dtype=dtype))
        return (-found if name == "subtract" else found), N * tenth(dtype)

    SWEEP[f"broadcast undone by {name}"] = undone


@sweep
def broadcast_in_the_middle(dtype: str) -> tuple[Any, float]:
    x = ones(3, N // 3, 2, dtype=dtype)
    return slope(lambda b: x * b, ones(3, 1, 2, dtype=dtype)), N // 3 * tenth(dtype)


@sweep
def linear_bias(dtype: str) -> tuple[Any, float]:
    x, weight = ones(N, 1, dtype=dtype), ones(2, 1, dtype=dtype)
    return slope(lambda b: F.linear(x, weight, b), ones(2, dtype=dtype)), N * tenth(dtype)


@sweep
def linear_bias_of_sequences(dtype: str) -> tuple[Any, float]:
    x, weight = ones(N // 7, 7, 1, dtype=dtype), ones(2, 1, dtype=dtype)
    return slope(lambda b: F.linear(x, weight, b), ones(2, dtype=dtype)), N // 7 * 7 * tenth(dtype)


@sweep
def linear_weight(dtype: str) -> tuple[Any, float]:
    x = ones(N, 1, dtype=dtype)
    return slope(lambda w: F.linear(x, w), ones(2, 1, dtype=dtype)), N * tenth(dtype)


@sweep
def matmul(dtype: str) -> tuple[Any, float]:
    return (tenths(2, N, dtype=dtype) @ ones(N, 2, dtype=dtype)).data, N * tenth(dtype)


@sweep
def matmul_of_vectors(dtype: str) -> tuple[Any, float]:
    return (tenths(N, dtype=dtype) @ ones(N, dtype=dtype)).data, N * tenth(dtype)


@sweep
def matmul_of_a_stack_by_a_matrix(dtype: str) -> tuple[Any, float]:
    x = ones(N, 1, 2, dtype=dtype)
    return slope(lambda w: x @ w, ones(2, 2, dtype=dtype)), N * tenth(dtype)


@sweep
def layer_norm_weight(dtype: str) -> tuple[Any, float]:
    x, b = Tensor(np.tile(np.array([-1.0, 1.0], dtype), (N, 1))), ones(2, dtype=dtype)
    found = slope(lambda w: F.layer_norm(x, w, b, eps=0.0), ones(2, dtype=dtype))
    return abs(found), N * tenth(dtype)


@sweep
def layer_norm_bias(dtype: str) -> tuple[Any, float]:
    x, w = Tensor(np.tile(np.array([-1.0, 1.0], dtype), (N, 1))), ones(2, dtype=dtype)
    return slope(lambda b: F.layer_norm(x, w, b), ones(2, dtype=dtype)), N * tenth(dtype)


@sweep
def rms_norm_weight(dtype: str) -> tuple[Any, float]:
    x = ones(N, 2, dtype=dtype)
    return slope(lambda w: F.rms_norm(x, w, eps=0.0), ones(2, dtype=dtype)), N * tenth(dtype)


@sweep
def embedding_weight(dtype: str) -> tuple[Any, float]:
    ids = np.arange(N) % 2
    found = slope(lambda w: F.embedding(ids, w), ones(2, 3, dtype=dtype))
    return found[1], N // 2 * tenth(dtype)


@sweep
def picked_rows(dtype: str) -> tuple[Any, float]:
    ids = np.zeros(N, int)
    return slope(lambda w: w[ids], ones(1, 2, dtype=dtype)), N * tenth(dtype)


@sweep
def scatter_add(dtype: str) -> tuple[Any, float]:
    index = (np.arange(N) % 2, np.zeros(N, int))
    return P.scatter_add(tenths(N, dtype=dtype), index, (2, 1)).data[1], N // 2 * tenth(dtype)


@sweep
def conv2d_bias(dtype: str) -> tuple[Any, float]:
    x, w = ones(N // 12, 1, 3, 4, dtype=dtype), ones(2, 1, 1, 1, dtype=dtype)
    return slope(lambda b: F.conv2d(x, w, b), ones(2, dtype=dtype)), N // 12 * 12 * tenth(dtype)


@sweep
def conv2d_weight(dtype: str) -> tuple[Any, float]:
    x = ones(N // 12, 1, 3, 4, dtype=dtype)
    found = slope(lambda w: F.conv2d(x, w), ones(2, 1, 1, 1, dtype=dtype))
    return found, N // 12 * 12 * tenth(dtype)


@sweep
def conv_transpose2d_weight(dtype: str) -> tuple[Any, float]:
    x = ones(N // 12, 1, 3, 4, dtype=dtype)
    found = slope(lambda w: F.conv_transpose2d(x, w), ones(1, 2, 1, 1, dtype=dtype))
    return found, N // 12 * 12 * tenth(dtype)


@sweep
def conv_transpose2d_bias(dtype: str) -> tuple[Any, float]:
    x, w = ones(N // 12, 1, 3, 4, dtype=dtype), ones(1, 2, 1, 1, dtype=dtype)
    found = slope(lambda b: F.conv_transpose2d(x, w, b), ones(2, dtype=dtype))
    return found, N // 12 * 12 * tenth(dtype)


@sweep
def avg_pool2d_of_everything(dtype: str) -> tuple[Any, float]:
    return F.avg_pool2d(tenths(1, 2, 500, 500, dtype=dtype), 500).data, tenth(dtype)


@sweep
def mean_cross_entropy(dtype: str) -> tuple[Any, float]:
    logits = tenths(N, 2, dtype=dtype)
    return F.cross_entropy(logits, np.arange(N) % 2).data, math.log(2.0)


@sweep
def softmax_of_a_long_axis(dtype: str) -> tuple[Any, float]:
    return F.softmax(tenths(N, 2, dtype=dtype), axis=0).data * N, 1.0


@sweep
def softmax_slope_of_a_long_axis(dtype: str) -> tuple[Any, float]:
    # d/dx_0 of softmax . g with g = (1, 0, ...): p (1 - p), and of the others -p^2
    g = np.zeros((N, 2), dtype)
    g[::2] = 1.0
    x = tensor(tenths(N, 2, dtype=dtype), requires_grad=True)
    F.softmax(x, axis=0).backward(g)
    share = (N + 1) // 2 / N
    return x.grad[::2] * N / (1.0 - share), 1.0


@sweep
def log_softmax_of_a_long_axis(dtype: str) -> tuple[Any, float]:
    return F.log_softmax(tenths(N, 2, dtype=dtype), axis=0).data, -math.log(N)


@sweep
def shares_of_a_tie(dtype: str) -> tuple[Any, float]:
    return slope(lambda x: x.max(axis=0), ones(N, 2, dtype=dtype)) * N, tenth(dtype)


@both_versions
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("what", SWEEP)
def test_every_function_that_adds_up_rows(what: str, dtype: str, version: Any) -> None:
    with version():
        found, expected = SWEEP[what](dtype)
    assert found.dtype == dtype
    tolerance = bound(N, dtype)
    if "matmul" in what or "weight" in what:  # BLAS adds the first thousands by itself
        tolerance += 80 * float(np.finfo(dtype).eps)
    np.testing.assert_allclose(found, np.full(found.shape, expected), rtol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sum_of_arrays_that_come_one_by_one(dtype: str) -> None:
    part, together = np.full(2, 0.1, dtype), sums.Sum()
    for _ in range(50_000):
        together.add(part)
    assert len(together.waiting) <= 16
    found = together.total(np.zeros(2, dtype))
    np.testing.assert_allclose(found, 50_000 * tenth(dtype), rtol=bound(50_000, dtype))
    assert sums.Sum().total(np.zeros(2)).tolist() == [0.0, 0.0]


def test_infinite_gradients_of_an_embedding_stay_infinite() -> None:
    weight = tensor(np.ones((2, 2)), requires_grad=True)
    F.embedding(np.array([0, 0, 1]), weight).backward(np.array([[1.0, np.inf], [2, 1], [3, 4]]))
    assert weight.grad.tolist() == [[3.0, np.inf], [3.0, 4.0]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("axis", [None, 0, 1, -1, (0, 2), (1, 2), (0, 1, 2), ()])
def test_extremes_along_any_axes(axis: Any, dtype: Any) -> None:
    """The largest and the smallest are NumPy's; beside a nan, nan."""
    x = np.random.default_rng(0).standard_normal((3, 40, 7)).astype(dtype)
    x[1, 20, 3] = np.nan
    x[0, 3, 2], x[0, 4, 2] = np.inf, -np.inf
    for view in (x, x[::-1, ::2], x.transpose(1, 2, 0), x[:1], x[:, 5:6]):
        t = mm.tensor(view)
        for keepdims in (False, True):
            largest, smallest = t.max(axis, keepdims), t.min(axis, keepdims)
            np.testing.assert_array_equal(largest.data, view.max(axis=axis, keepdims=keepdims))
            np.testing.assert_array_equal(smallest.data, view.min(axis=axis, keepdims=keepdims))
            assert largest.dtype == smallest.dtype == dtype
