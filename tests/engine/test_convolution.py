"""Convolution and pooling: against loops that follow the definition, adjoints, PyTorch."""

import math
from contextlib import nullcontext
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minimono as mm
from minimono import functional as F
from minimono import machine
from minimono.backend import to_host
from minimono.engine.convolution import add_windows, windows
from minimono.engine.fused import Fused
from minimono.engine.tape import tape_of
from minimono.engine.tensor import Tensor, tensor
from minimono.gradcheck import check_grads
from minimono.kernels import parallel
from minimono.nn import ConvGRUCell

Pair = tuple[int, int]


def whole(rng: np.random.Generator, *shape: int) -> Any:
    """Small whole numbers as float64: their sums and products are exact, in any order."""
    return rng.integers(-9, 10, shape).astype(np.float64)


def padded(x: Any, padding: Pair, value: float = 0.0) -> Any:
    around = ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2)
    return np.pad(x, around, constant_values=value)


def conv2d_by_loops(x: Any, weight: Any, bias: Any, stride: Pair, padding: Pair) -> Any:
    x = padded(x, padding)
    O, C, ky, kx = weight.shape  # noqa: E741
    rows, columns = (x.shape[2] - ky) // stride[0] + 1, (x.shape[3] - kx) // stride[1] + 1
    out = np.zeros((len(x), O, rows, columns))
    for b, o, i, j in product(*map(range, out.shape)):
        total = bias[o]
        for c, u, v in product(range(C), range(ky), range(kx)):
            total += weight[o, c, u, v] * x[b, c, stride[0] * i + u, stride[1] * j + v]
        out[b, o, i, j] = total
    return out


def conv_transpose2d_by_loops(x: Any, weight: Any, bias: Any, stride: Pair, padding: Pair) -> Any:
    B, C, rows, columns = x.shape
    _, O, ky, kx = weight.shape  # noqa: E741
    out = np.zeros((B, O, (rows - 1) * stride[0] + ky, (columns - 1) * stride[1] + kx))
    for b, c, o, i, j, u, v in product(*map(range, (B, C, O, rows, columns, ky, kx))):
        out[b, o, stride[0] * i + u, stride[1] * j + v] += x[b, c, i, j] * weight[c, o, u, v]
    rows, columns = (slice(p, n - p) for n, p in zip(out.shape[2:], padding, strict=True))
    return out[:, :, rows, columns] + bias[:, None, None]


def pool_by_loops(x: Any, size: Pair, stride: Pair, choose: Any) -> Any:
    rows, columns = (x.shape[2] - size[0]) // stride[0] + 1, (x.shape[3] - size[1]) // stride[1] + 1
    out = np.zeros((*x.shape[:2], rows, columns))
    for b, c, i, j in product(*map(range, out.shape)):
        at_y, at_x = stride[0] * i, stride[1] * j
        out[b, c, i, j] = choose(x[b, c, at_y : at_y + size[0], at_x : at_x + size[1]])
    return out


sizes = st.tuples(st.integers(1, 3), st.integers(1, 3))
paddings = st.tuples(st.integers(0, 2), st.integers(0, 2))
seeds = st.integers(0, 2**32 - 1)


@given(sizes, sizes, paddings, st.tuples(*[st.integers(1, 3)] * 3), sizes, seeds)
def test_conv2d_is_its_definition(
    size: Pair, stride: Pair, padding: Pair, counts: tuple[int, int, int], extra: Pair, seed: int
) -> None:
    rng, (B, C, O) = np.random.default_rng(seed), counts  # noqa: E741
    x = whole(rng, B, C, size[0] + extra[0] - 1, size[1] + extra[1] - 1)
    weight, bias = whole(rng, O, C, *size), whole(rng, O)
    expected = conv2d_by_loops(x, weight, bias, stride, padding)
    for which in (nullcontext(), mm.reference()):
        with which:
            out = F.conv2d(tensor(x), tensor(weight), tensor(bias), stride=stride, padding=padding)
        np.testing.assert_array_equal(out.data, expected)


@given(sizes, sizes, paddings, st.tuples(*[st.integers(1, 3)] * 3), sizes, seeds)
def test_conv_transpose2d_is_its_definition(
    size: Pair, stride: Pair, padding: Pair, counts: tuple[int, int, int], image: Pair, seed: int
) -> None:
    padding = (min(padding[0], (size[0] - 1) // 2), min(padding[1], (size[1] - 1) // 2))
    rng, (B, C, O) = np.random.default_rng(seed), counts  # noqa: E741
    x, weight, bias = whole(rng, B, C, *image), whole(rng, C, O, *size), whole(rng, O)
    expected = conv_transpose2d_by_loops(x, weight, bias, stride, padding)
    for which in (nullcontext(), mm.reference()):
        with which:
            arguments = map(tensor, (x, weight, bias))
            out = F.conv_transpose2d(*arguments, stride=stride, padding=padding)
        np.testing.assert_array_equal(out.data, expected)


@given(sizes, sizes, paddings, sizes, seeds)
def test_conv_transpose2d_is_the_adjoint_of_conv2d(
    size: Pair, stride: Pair, padding: Pair, small: Pair, seed: int
) -> None:
    padding = (min(padding[0], (size[0] - 1) // 2), min(padding[1], (size[1] - 1) // 2))
    rng = np.random.default_rng(seed)
    sides = zip(small, stride, size, padding, strict=True)
    large = [(n - 1) * s + k - 2 * p for n, s, k, p in sides]
    x, y, weight = whole(rng, 2, 3, *large), whole(rng, 2, 4, *small), whole(rng, 4, 3, *size)
    there = F.conv2d(tensor(x), tensor(weight), stride=stride, padding=padding)
    back = F.conv_transpose2d(tensor(y), tensor(weight), stride=stride, padding=padding)
    assert there.shape == y.shape
    assert back.shape == x.shape
    assert (there.data * y).sum() == (x * back.data).sum()


@given(sizes, sizes, st.booleans(), sizes, seeds)
def test_pools_are_their_definitions(
    size: Pair, stride: Pair, pad: bool, extra: Pair, seed: int
) -> None:
    padding = (size[0] // 2, size[1] // 2) if pad else (0, 0)
    x = whole(np.random.default_rng(seed), 2, 2, size[0] + extra[0] - 1, size[1] + extra[1] - 1)
    largest = F.max_pool2d(tensor(x), size, stride=stride, padding=padding)
    expected = pool_by_loops(padded(x, padding, -math.inf), size, stride, np.max)
    np.testing.assert_array_equal(largest.data, expected)
    mean = F.avg_pool2d(tensor(x), size, stride=stride, padding=padding)
    expected = pool_by_loops(padded(x, padding), size, stride, np.mean)
    np.testing.assert_allclose(mean.data, expected, rtol=1e-14, atol=1e-14)


def test_numbers_and_pairs_mean_the_same(rng: np.random.Generator) -> None:
    x, weight = tensor(whole(rng, 1, 2, 7, 7)), tensor(whole(rng, 2, 2, 3, 3))
    numbers: Any = {"stride": 2, "padding": 1}
    pairs: Any = {"stride": (2, 2), "padding": (1, 1)}
    for one, two in (
        (F.conv2d(x, weight, **numbers), F.conv2d(x, weight, **pairs)),
        (F.max_pool2d(x, 2), F.max_pool2d(x, (2, 2), stride=2)),
        (F.avg_pool2d(x, 3, **numbers), F.avg_pool2d(x, (3, 3), **pairs)),
    ):
        np.testing.assert_array_equal(one.data, two.data)


# ---- the running version -----------------------------------------------------------------------


def kernels_on_tape(out: Tensor) -> int:
    operations = [node.origin.operation for node in tape_of(out) if node.origin]
    assert len(operations) > 0
    return sum(isinstance(operation, Fused) for operation in operations)


def held_to_reading(f: Any, arrays: list[Any], dtype: str, needed: tuple[bool, ...]) -> None:
    """Values and gradients of the two versions; the terms of the sums are a few units large."""
    found = []
    for which in (mm.reference(), nullcontext()):
        with which:
            # `Tensor`, not `tensor`, which would copy into one block of memory.
            values = [a.astype(dtype, order="K") for a in arrays]
            given = [Tensor(v, requires_grad=n) for v, n in zip(values, needed, strict=True)]
            out = f(*given)
            out.backward(np.linspace(-1.0, 2.0, out.size).reshape(out.shape))
            found.append([out.data, *(a.grad for a in given)])
    assert kernels_on_tape(out) == all(a.size for a in arrays)  # of nothing there are no kernels
    for truth, ours, needs in zip(*found, (True, *needed), strict=True):
        assert (ours is not None) == needs
        if needs:
            assert ours.dtype == truth.dtype == np.dtype(dtype)
            tolerance = 40 * np.finfo(dtype).eps
            atol = tolerance * np.abs(truth).max(initial=1.0)
            np.testing.assert_allclose(ours, truth, rtol=tolerance, atol=atol)


RUNNING: list[tuple[Any, ...]] = [  # x, weight of conv2d, stride, padding
    ((1, 1, 1, 1), (1, 1, 1, 1), 1, 0),
    ((4, 16, 8, 8), (48, 16, 3, 3), 1, 1),  # as wide as the image
    ((2, 3, 7, 5), (4, 3, 3, 1), 1, (1, 0)),
    ((2, 3, 5, 7), (4, 3, 5, 5), 1, 2),
    ((2, 3, 4, 1), (4, 3, 3, 7), 1, (1, 3)),  # narrower than the window
    ((2, 3, 6, 7), (4, 3, 3, 3), 1, 0),  # narrower than the image
    ((2, 3, 6, 7), (4, 3, 2, 2), 1, (0, 2)),  # wider
    ((3, 2, 8, 8), (5, 2, 4, 4), 2, 1),
    ((3, 2, 9, 7), (5, 2, 3, 3), 2, 1),
    ((3, 2, 9, 8), (5, 2, 2, 3), (3, 2), (2, 0)),
    ((1, 2, 5, 9), (2, 2, 1, 2), (2, 4), (0, 1)),  # pixels that no window holds
    ((0, 2, 5, 5), (3, 2, 3, 3), 1, 1),
    ((2, 0, 5, 5), (3, 0, 3, 3), 2, 1),
    ((2, 2, 5, 5), (0, 2, 3, 3), 1, 0),
    ((3, 16, 30, 30), (2, 16, 3, 3), 1, 1),  # in groups of one sample
    ((3, 16, 20, 20), (2, 16, 3, 3), 1, 1),  # of two, and a rest
]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("shape", "size", "stride", "padding"), RUNNING)
def test_kernels_agree_with_the_reading_version(
    shape: Any, size: Any, stride: Any, padding: Any, dtype: str, rng: np.random.Generator
) -> None:
    def down(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.conv2d(x, weight, bias, stride=stride, padding=padding)

    def up(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.conv_transpose2d(x, weight, bias, stride=stride, padding=padding)

    everything = (True, True, True)
    x, weight, bias = (rng.standard_normal(s) for s in (shape, size, size[:1]))
    held_to_reading(down, [x, weight, bias], dtype, everything)
    small = down(tensor(x), tensor(weight), tensor(bias)).data
    held_to_reading(up, [small, weight, rng.standard_normal(size[1])], dtype, everything)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("shape", "size", "stride", "padding"), [
    ((1, 1, 1, 1), 1, 1, 0), ((2, 3, 6, 7), 2, None, 0), ((2, 3, 7, 6), 3, 2, 1),
    ((2, 2, 5, 8), (4, 3), (1, 2), (2, 1)), ((1, 2, 9, 5), 2, 4, 0), ((0, 2, 4, 4), 2, 2, 0),
])
def test_the_kernel_of_max_pooling_agrees_with_the_reading_version(
    shape: Any, size: Any, stride: Any, padding: Any, dtype: str, rng: np.random.Generator
) -> None:
    def pool(x: Tensor) -> Tensor:
        return F.max_pool2d(x, size, stride=stride, padding=padding)

    x = rng.integers(-2, 3, size=shape).astype(float)  # with ties
    held_to_reading(pool, [x], dtype, (True,))
    held_to_reading(pool, [x.swapaxes(2, 3)[..., ::-1].swapaxes(2, 3)], dtype, (True,))
    special = Tensor(np.select([x == 1, x < 1], [math.nan, -math.inf], x), requires_grad=True)
    found = []
    for which in (mm.reference(), nullcontext()):
        with which:
            out, special.grad = pool(special), None
            out.backward(np.arange(1.0, out.size + 1.0).reshape(out.shape))
            found.append((out.data, special.grad))
    for truth, ours in zip(*found, strict=True):
        np.testing.assert_array_equal(ours, truth)


@pytest.mark.parametrize("needed", [(True, False), (False, True)])
def test_kernels_of_any_layout_and_of_what_is_needed(
    needed: tuple[bool, bool], rng: np.random.Generator
) -> None:
    x = rng.standard_normal((7, 6, 3, 2)).T[:, :, ::-1]  # (2, 3, 6, 7)
    weight = rng.standard_normal((3, 3, 4, 3)).T[::-1]  # (3, 4, 3, 3)
    for stride in (1, 2):
        held_to_reading(
            lambda x, w, s=stride: F.conv2d(x, w, stride=s, padding=1),
            [x, weight.swapaxes(0, 1)], "float64", needed,
        )
        held_to_reading(
            lambda x, w, s=stride: F.conv_transpose2d(x, w, stride=s, padding=1),
            [x, weight], "float64", needed,
        )


@pytest.mark.parametrize("dtypes", ["Bfd", "Bff", "lff", "dld", "?ff", "lll", "fdf", "ddl"])
def test_whole_numbers_and_mixtures_give_the_same(dtypes: str, rng: np.random.Generator) -> None:
    x, weight, bias = (
        tensor(np.abs(whole(rng, *shape)).astype(dtype))
        for shape, dtype in zip(((2, 2, 4, 4), (2, 2, 3, 3), (2,)), dtypes, strict=True)
    )
    for f in (F.conv2d, F.conv_transpose2d):
        ours = f(x, weight, bias, padding=1)
        with mm.reference():
            truth = f(x, weight, bias, padding=1)
        floats = np.result_type(*dtypes) if dtypes != "lll" else np.float64
        assert ours.dtype == truth.dtype == floats
        np.testing.assert_array_equal(ours.data, truth.data)


def test_kernels_in_threads_give_the_same(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    monkeypatch.setattr(machine, "threads", lambda: 3)
    monkeypatch.setattr(parallel, "LEAST", 4)
    x, weight, bias = (rng.standard_normal(s) for s in ((2, 5, 6, 7), (4, 5, 3, 3), (4,)))
    held_to_reading(lambda *a: F.conv2d(*a, padding=1), [x, weight, bias], "float64", (True,) * 3)


def test_kernels_run_without_numba(with_and_without_numba: Any) -> None:
    """Each is plain Python: NUMBA_DISABLE_JIT=1 lets a debugger step through it."""
    script = (
        "import numpy as np, minimono as mm\n"
        "x, w = np.arange(30.0).reshape(1, 1, 5, 6), np.arange(9.0).reshape(1, 1, 3, 3)\n"
        "found = []\n"
        "for stride, padding in ((1, 1), (1, 0), (1, 7), (2, 1), (3, 2)):\n"
        "    t = mm.tensor(x, requires_grad=True)\n"
        "    out = mm.functional.conv2d(t, mm.tensor(w), stride=stride, padding=padding)\n"
        "    out.sum().backward()\n"
        "    found.append(t.grad.tolist())\n"
    )
    here, there = with_and_without_numba(script, "convolution.windows_kernel")
    assert there == here


# ---- gradients ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "stride"), [((1, 1), (1, 1)), ((2, 3), (1, 2)), ((3, 3), (2, 2)), ((2, 2), (3, 3))]
)
def test_the_windows_are_differentiable_twice(
    size: Pair, stride: Pair, rng: np.random.Generator
) -> None:
    x = rng.standard_normal((2, 2, 5, 6))
    cut = windows(tensor(x), size, stride)
    check_grads(lambda x: (windows(x, size, stride) * 0.5).tanh(), x, order=2)
    check_grads(lambda w: add_windows(w, size, stride, x.shape).tanh(), cut.data, order=2)


@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (2, 1), ((1, 3), (2, 0))])
def test_convolutions_are_differentiable_twice(
    stride: Any, padding: Any, rng: np.random.Generator
) -> None:
    x, bias = rng.standard_normal((2, 2, 5, 6)), rng.standard_normal(3)
    weight = rng.standard_normal((3, 2, 3, 2))
    check_grads(
        lambda x, w, b: F.conv2d(x, w, b, stride=stride, padding=padding).tanh(),
        x, weight, bias, order=2,
    )
    upward = rng.standard_normal((2, 3, 5, 6))
    check_grads(
        lambda x, w, b: F.conv_transpose2d(x, w, b, stride=stride, padding=padding).tanh(),
        x, upward, bias, order=2,
    )


@pytest.mark.parametrize(("size", "stride", "padding"), [(2, None, 0), (3, 1, 1), ((1, 2), 2, 0)])
def test_pools_are_differentiable_twice(
    size: Any, stride: Any, padding: Any, rng: np.random.Generator
) -> None:
    x = rng.permutation(2 * 2 * 6 * 6).reshape(2, 2, 6, 6) / 36.0  # no ties, and far apart
    for pool in (F.max_pool2d, F.avg_pool2d):
        check_grads(lambda x, f=pool: f(x, size, stride=stride, padding=padding).tanh(), x, order=2)
    check_grads(lambda x: F.leaky_relu(x - 1.99, 0.2).tanh(), x, order=2)


def test_at_a_tie_the_first_of_the_window_gets_the_gradient() -> None:
    x = tensor(np.zeros((1, 1, 2, 4)), requires_grad=True)
    F.max_pool2d(x, 2).sum().backward()
    np.testing.assert_array_equal(x.grad, [[[[1, 0, 1, 0], [0, 0, 0, 0]]]])
    x = tensor([[[[1.0, 2.0], [2.0, 2.0]]]], requires_grad=True)
    (F.max_pool2d(x, 2) * 3.0).sum().backward()
    np.testing.assert_array_equal(x.grad, [[[[0, 3], [0, 0]]]])


def test_nan_and_infinity_reach_the_windows_that_hold_them_and_no_other() -> None:
    x = np.arange(16.0).reshape(1, 1, 4, 4)
    x[0, 0, 0, 0], x[0, 0, 0, 2], x[0, 0, 3, 3] = math.nan, -math.inf, math.inf
    out = F.max_pool2d(tensor(x), 2).data[0, 0]
    np.testing.assert_array_equal(out, [[math.nan, 7], [13, math.inf]])
    out = F.conv2d(tensor(x), tensor(np.ones((1, 1, 2, 2))), stride=2).data[0, 0]
    np.testing.assert_array_equal(out, [[math.nan, -math.inf], [8 + 9 + 12 + 13, math.inf]])


def test_padding_is_never_the_largest() -> None:
    x = tensor(np.full((1, 1, 2, 2), -5.0), requires_grad=True)
    out = F.max_pool2d(x, 3, stride=1, padding=1)
    np.testing.assert_array_equal(out.data, np.full((1, 1, 2, 2), -5.0))
    out.sum().backward()
    np.testing.assert_array_equal(x.grad, [[[[4, 0], [0, 0]]]])


def test_the_slope_of_leaky_relu_at_zero_is_the_negative_one() -> None:
    x = tensor([-1.0, 0.0, 1.0, math.nan], requires_grad=True)
    out = F.leaky_relu(x, 0.2)
    out.backward(np.ones(4))
    np.testing.assert_array_equal(out.data, [-0.2, 0.0, 1.0, math.nan])
    np.testing.assert_array_equal(x.grad[:3], [0.2, 0.2, 1.0])


@pytest.mark.usefixtures("only_float32")
def test_float32_stays_float32(rng: np.random.Generator) -> None:
    def random(*shape: int) -> Tensor:
        return Tensor(rng.standard_normal(shape, dtype=np.float32), requires_grad=True)

    x, weight, up, bias = random(2, 2, 4, 4), random(3, 2, 3, 3), random(3, 1, 4, 4), random(3)
    h = F.conv2d(x, weight, bias, stride=1, padding=1)
    h = F.leaky_relu(F.max_pool2d(h, 3, stride=2, padding=1) + F.avg_pool2d(h, 2), 0.2)
    out = F.conv_transpose2d(h, up, stride=2, padding=1)
    assert out.shape == (2, 1, 4, 4)
    out.backward(np.ones(out.shape, np.float32))
    assert {p.grad.dtype for p in (x, weight, up, bias) if p.grad is not None} == {np.dtype("f4")}


def test_nothing_on_a_gpu_touches_the_host(cuda: str, rng: np.random.Generator) -> None:
    def run(device: str) -> list[Any]:
        x = tensor(values[0], device=device, requires_grad=True)
        weight = tensor(values[1], device=device, requires_grad=True)
        h = F.leaky_relu(F.conv2d(x, weight, stride=2, padding=1), 0.2)
        h = F.max_pool2d(h, 3, stride=1, padding=1) + F.avg_pool2d(h, 3, stride=1, padding=1)
        h = F.conv_transpose2d(h, weight, stride=2, padding=1)
        (h * h).sum().backward()
        return [to_host(a) for a in (h.data, x.grad, weight.grad)]

    values = whole(rng, 2, 2, 5, 5), whole(rng, 3, 2, 3, 3)
    for here, there in zip(run("cpu"), run(cuda), strict=True):
        np.testing.assert_allclose(there, here, rtol=1e-12)


def test_a_recurrent_cell_on_a_gpu(cuda: str) -> None:
    def run(device: str) -> list[Any]:
        found = []
        for channels in (2, 0):
            rng = np.random.default_rng(3)
            cell = ConvGRUCell(channels, 3, rng=rng, dtype=np.float64).to(device)
            state = tensor(rng.standard_normal((2, 3, 4, 5)), device=device, requires_grad=True)
            x = tensor(rng.standard_normal((2, 2, 4, 5)), device=device) if channels else None
            out = cell(x, state)
            (out * out).sum().backward()
            found += [to_host(a) for a in (out.data, state.grad, cell.from_state.weight.grad)]
        return found

    for here, there in zip(run("cpu"), run(cuda), strict=True):
        np.testing.assert_allclose(there, here, rtol=1e-11, atol=1e-14)


# ---- bad input ---------------------------------------------------------------------------------

X, W = np.zeros((1, 2, 5, 5)), np.zeros((3, 2, 3, 3))
UP = np.zeros((2, 3, 3, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: F.conv2d(tensor(X[0]), tensor(W)), r"conv2d: x has shape \(2, 5, 5\), expected"),
        (lambda: F.conv2d(tensor(X), tensor(W[0])), r"weight has shape \(2, 3, 3\), expected"),
        (lambda: F.conv2d(tensor(X), tensor(W[:, :1])), r"for 1 channels .* x has .* 2 channels"),
        (lambda: F.conv2d(tensor(X), tensor(W), tensor(np.zeros(2))), r"bias .*expected \(3,\)"),
        (lambda: F.conv2d(tensor(X[:, :, :2]), tensor(W)), r"window \(3, 3\) is larger .*\(2, 5\)"),
        (lambda: F.conv2d(tensor(X), tensor(W), stride=0), "conv2d: stride is 0, expected a whole"),
        (lambda: F.conv2d(tensor(X), tensor(W), stride=1.5), "stride is 1.5, expected a whole"),
        (lambda: F.conv2d(tensor(X), tensor(W), padding=-1), "padding is -1, expected .* >= 0"),
        (lambda: F.conv2d(tensor(X), tensor(W), padding=(1, 1, 1)), r"padding is \(1, 1, 1\)"),
        (lambda: F.conv2d(tensor(X), tensor(W), stride=True), "stride is True"),
        (lambda: F.conv_transpose2d(tensor(X), tensor(W)), r"for 3 channels \(axis 0\); x has"),
        (lambda: F.conv_transpose2d(tensor(X), tensor(UP), tensor(X[0, 0, 0])), r"expected \(3,\)"),
        (lambda: F.conv_transpose2d(tensor(X), tensor(UP), padding=4), "padding .*leaves nothing"),
        (lambda: F.max_pool2d(tensor(X[0]), 2), r"max_pool2d: x has shape \(2, 5, 5\)"),
        (lambda: F.max_pool2d(tensor(X), 6), r"max_pool2d: the window \(6, 6\) is larger"),
        (lambda: F.max_pool2d(tensor(X), 0), "kernel_size is 0, expected a whole number >= 1"),
        (lambda: F.avg_pool2d(tensor(X), 2, stride=0), "avg_pool2d: stride is 0"),
        (lambda: F.avg_pool2d(tensor(X), 3, padding=2), "padding is .*at most half of the window"),
    ],
)
def test_bad_input_is_named(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# ---- PyTorch -----------------------------------------------------------------------------------


def agrees(ours: Any, theirs: Any, *arrays: Any) -> None:
    """Values and gradients of two functions, by all their arguments, in float64."""
    torch = pytest.importorskip("torch")
    mine = [tensor(a, requires_grad=True) for a in arrays]
    other = [torch.tensor(a, requires_grad=True) for a in arrays]
    out, expected = ours(*mine), theirs(torch.nn.functional, *other)
    close = {"rtol": 1e-12, "atol": 1e-12}
    np.testing.assert_allclose(out.data, expected.detach().numpy(), **close)
    weights = np.random.default_rng(1).standard_normal(out.shape)
    out.backward(weights)
    expected.backward(torch.tensor(weights))
    for a, b in zip(mine, other, strict=True):
        np.testing.assert_allclose(a.grad, b.grad.numpy(), **close)


@pytest.mark.parity
@pytest.mark.parametrize(
    ("size", "stride", "padding"),
    [((3, 3), 1, 1), ((1, 1), 1, 0), ((5, 3), (2, 1), (2, 0)), ((4, 4), 2, 1), ((2, 3), 3, (0, 2))],
)
def test_convolutions_agree_with_pytorch(
    size: Pair, stride: Any, padding: Any, rng: np.random.Generator
) -> None:
    options = {"stride": stride, "padding": padding}
    x, bias = rng.standard_normal((3, 4, 9, 8)), rng.standard_normal(5)
    down, up = rng.standard_normal((5, 4, *size)), rng.standard_normal((4, 5, *size))
    agrees(
        lambda *a: F.conv2d(*a, **options), lambda f, *a: f.conv2d(*a, **options), x, down, bias
    )
    agrees(
        lambda *a: F.conv_transpose2d(*a, **options),
        lambda f, *a: f.conv_transpose2d(*a, **options),
        x, up, bias,
    )


@pytest.mark.parity
@pytest.mark.parametrize(
    ("size", "stride", "padding"), [(2, None, 0), (3, 2, 1), ((2, 3), (1, 2), (1, 0)), (4, 3, 2)]
)
@pytest.mark.parametrize("ties", [False, True])
def test_pools_agree_with_pytorch_also_at_ties(
    size: Any, stride: Any, padding: Any, ties: bool, rng: np.random.Generator
) -> None:
    options = {"stride": stride, "padding": padding}
    x = whole(rng, 3, 4, 9, 8) // 4 if ties else rng.standard_normal((3, 4, 9, 8))
    agrees(
        lambda x: F.max_pool2d(x, size, **options), lambda f, x: f.max_pool2d(x, size, **options), x
    )
    agrees(
        lambda x: F.avg_pool2d(x, size, **options), lambda f, x: f.avg_pool2d(x, size, **options), x
    )
    agrees(lambda x: F.leaky_relu(x, 0.2), lambda f, x: f.leaky_relu(x, 0.2), x)


def test_they_are_public() -> None:
    for name in ("conv2d", "conv_transpose2d", "max_pool2d", "avg_pool2d", "leaky_relu"):
        assert name in mm.functional.__all__
