"""Every primitive: its gradients, its dtypes, its values, on both devices.

The primitives are listed by the module itself, so a new one without a case below fails.
"""

import math
from collections.abc import Callable, Iterator
from functools import reduce
from inspect import Parameter, signature
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays, mutually_broadcastable_shapes

import minimono as mm
from minimono.backend import Array, device_of, to_host
from minimono.engine import convolution
from minimono.engine import functional as F
from minimono.engine import primitives as P
from minimono.engine.primitive import Primitive
from minimono.engine.tape import grad, no_grad
from minimono.engine.tensor import Tensor, tensor
from minimono.gradcheck import check_grads

PRIMITIVES = {
    p.name: p
    for module in (P, convolution)
    for p in vars(module).values()
    if isinstance(p, Primitive)
}
WITHOUT_GRADIENT = {"less", "less_equal", "greater", "greater_equal", "equal", "not_equal"}

Shape = tuple[int, ...]
SHAPES: list[Shape] = [(), (1,), (3,), (2, 3), (1, 3, 1), (0, 2)]
PAIRS: list[tuple[Shape, Shape]] = [
    ((), ()), ((3,), ()), ((), (2, 3)), ((3,), (3,)), ((2, 3), (3,)), ((1,), (2, 3)),
    ((2, 1), (1, 3)), ((4, 1, 3), (2, 1)), ((1, 1), (1,)), ((0, 3), (3,)), ((2, 0), (1, 1)),
]
INDICES: dict[str, Any] = {
    "int": 1,
    "negative int": -1,
    "ints": (1, 2, 3),
    "NumPy int": np.int64(2),
    "slice": slice(1, 3),
    "step": (slice(None), slice(None, None, 2)),
    "negative step": slice(None, None, -1),
    "negative steps": (slice(3, 0, -2), ..., slice(None, None, -2)),
    "empty slice": slice(2, 2),
    "None": (None, slice(None), None),
    "Ellipsis": (..., 2),
    "Ellipsis alone": ...,
    "no index": (),
    "True": True,
    "list": [0, 2],
    "array": np.array([2, 0, 1]),
    "array with repeats": np.array([0, 0, 3, 0]),
    "negative repeats": np.array([-1, 3, 0]),
    "matrix of repeats": np.array([[0, 0], [3, 1]]),
    "two arrays": (np.array([0, 0, 3]), np.array([2, 2, 1])),
    "two arrays that broadcast": (np.array([[0], [3]]), np.array([2, 2, 1])),
    "arrays apart": (np.array([0, 0]), slice(None), np.array([4, 4])),
    "array and int and None": (None, np.array([1, 1]), 0),
    "array and slice": (slice(None, None, -1), np.array([1, 1, 0])),
    "empty array": np.array([], dtype=int),
    "mask": np.array([True, False, True, True]),
    "mask of two axes": np.arange(12).reshape(4, 3) % 2 == 0,
    "mask of all": np.arange(60).reshape(4, 3, 5) % 3 == 0,
    "mask of none": np.zeros(4, dtype=bool),
    "mask behind": (slice(None), np.array([True, False, True])),
    "tensor": tensor([1, 1, 0]),
    "tensor mask": tensor([True, False, True, True]),
    "tensors": (tensor([0, 0, 1]), slice(1, None), tensor([4, 4, 4])),
}
# What NumPy itself is asked for in the cases above.
INDICES_OF_NUMPY = {
    what: tuple(p.data if isinstance(p, Tensor) else p for p in i) if isinstance(i, tuple)
    else i.data if isinstance(i, Tensor) else i
    for what, i in INDICES.items()
}


class Case(NamedTuple):
    primitive: str
    what: str
    f: Callable[..., Tensor]
    arguments: list[Any]
    modes: tuple[Any, ...] = ("directional", "complex")
    brings_host_arrays: bool = False


def spaced(shape: Shape, shift: float = 0.0) -> Any:
    """Distinct numbers of both signs, none nearer than 0.15 to another, or to 0, in any order.

    With shifts of 0 and 0.2 those of two arrays are distinct too: no difference crosses a kink.
    """
    n = int(np.prod(shape))
    steps = np.random.default_rng(n).permutation(n).reshape(shape)
    return 0.4 * (steps - n // 2) + 0.15 + shift


def normal(*shape: int) -> Any:
    return np.random.default_rng(len(shape)).standard_normal(shape)


def positive(*shape: int) -> Any:
    return np.random.default_rng(len(shape) + 10).uniform(0.5, 2.0, shape)


def cases() -> Iterator[Case]:
    for shape in SHAPES:
        for name in "negative exp sin cos tanh sech_squared absolute".split():
            yield Case(name, f"{shape}", getattr(P, name), [spaced(shape)])
        for name in "log log1p sqrt".split():
            yield Case(name, f"{shape}", getattr(P, name), [positive(*shape)])
        yield Case("erfc", f"{shape}", P.erfc, [spaced(shape)], ("directional",))
        yield Case("astype", f"{shape}", lambda x: x.astype("f8") * x, [spaced(shape)],
                   ("directional",))
        yield Case("to", f"{shape}", lambda x: x.to(x.device) * x, [spaced(shape)])

    for one, two in PAIRS:
        x, y, shapes = spaced(one), spaced(two, 0.2), f"{one} {two}"
        for name in "add subtract multiply divide maximum minimum".split():
            yield Case(name, shapes, getattr(P, name), [x, y])
        yield Case("power", shapes, P.power, [np.abs(x), y])
        yield Case("where", shapes, lambda x, y: P.where(x > 0.0, x, y * y), [x, y])
    yield Case("where", "from where no element comes", lambda x, y: P.where(True, x, y),
               [normal(2), normal(2)])
    for y in (-2, -1.0, 0, 0.0, 1, 2, 3.0):
        yield Case("power", f"to {y!r}", lambda x, y=y: x**y, [normal(2, 3)])
    for y in (0.5, -1.5):
        yield Case("power", f"to {y!r}", lambda x, y=y: x**y, [positive(2, 3)])
    yield Case("power", "of a number", lambda y: 2.5**y, [normal(2, 3)])
    yield Case("power", "of an array", lambda y: np.array([0.5, 2.0, 3.0]) ** y, [normal(2, 3)],
               brings_host_arrays=True)
    yield Case("power", "0 squared", lambda x: x**2, [np.zeros(3)])

    for one, two in [((2, 3), (3, 4)), ((1, 1), (1, 1)), ((5, 2, 3), (3, 4)), ((2, 3), (5, 3, 4)),
                     ((5, 1, 2, 3), (6, 3, 1)), ((0, 3), (3, 2)), ((2, 0), (0, 3)),
                     ((3,), (3,)), ((3,), (3, 4)), ((2, 3), (3,)), ((3,), (5, 3, 4)),
                     ((5, 2, 3), (3,)), ((3,), (6, 1, 3, 2)), ((1,), (1,)), ((0,), (0,)),
                     ((0,), (0, 2)), ((2, 0), (0,))]:
        yield Case("matmul", f"{one} {two}", P.matmul, [normal(*one), normal(*two)])

    for shape, axis in [((), None), ((3,), 0), ((2, 3), None), ((2, 3), 0), ((2, 3), -1),
                        ((2, 1, 3), (0, 2)), ((2, 1, 3), (-1, 1)), ((1, 1), 1),
                        ((2, 3), ()), ((), 0), ((), -1), ((2, 3), np.int64(1))]:
        for name in "sum mean max min".split():
            for keep in (False, True):
                yield Case(name,
                           f"as {name} {shape} axis={axis} keepdims={keep}",
                           lambda x, n=name, a=axis, k=keep: getattr(x, n)(axis=a, keepdims=k) ** 2,
                           [spaced(shape)])
    yield Case("sum", "of nothing", lambda x: x.sum(axis=0) + 1.0, [np.zeros((0, 2))])
    for shape, axis in [((2, 3), 0), ((2, 3), 1), ((2, 3), -1), ((), 0), ((), -1), ((300, 2), 0)]:
        for name in ("flip", "cumsum"):
            yield Case(name, f"{shape} axis={axis}",
                       lambda x, n=name, a=axis: getattr(P, n)(x, axis=a) ** 2, [normal(*shape)])

    for shape, new in [((2, 3), (3, 2)), ((2, 3), (-1,)), ((6,), (1, 2, 3)), ((), (1, 1)),
                       ((1,), ()), ((0, 3), (3, 0))]:
        yield Case("reshape", f"{shape} {new}", lambda x, n=new: x.reshape(n) ** 2,
                   [normal(*shape)])
    for shape, new in [((), (2, 3)), ((3,), (2, 3)), ((2, 1), (2, 3)), ((1,), (1,)), ((1,), (4,))]:
        yield Case("broadcast_to", f"{shape} {new}",
                   lambda x, n=new: P.broadcast_to(x, n) ** 2, [normal(*shape)])
    for axes in [(), (0, 1, 2), (2, 0, 1), (1, 2, 0), (-1, 0, 1), (0, -1, -2)]:
        yield Case("transpose", f"{axes}",
                   lambda x, a=axes: (x.transpose(*a) + 1.0) ** 2 * x.transpose(*a),
                   [normal(2, 3, 4)])
    for axes in [(0, 1), (1, -1), (-3, -1), (0, 0)]:
        yield Case("swapaxes", f"{axes}", lambda x, a=axes: x.swapaxes(*a) ** 3,
                   [normal(2, 3, 4)])
    yield Case("transpose", "T", lambda x: x.T @ x, [normal(2, 3)])
    for widths in [((0, 0), (0, 0)), ((1, 2), (0, 3))]:
        yield Case("pad", f"{widths}", lambda x, w=widths: P.pad(x, w) ** 2, [normal(2, 3)])
    for axis in (0, 1, -1):
        both = [normal(2, 3), normal(2, 3) + 0.3]
        yield Case("concatenate", f"axis={axis}",
                   lambda x, y, a=axis: P.concatenate(x, y * y, x, axis=a) ** 2, both)
        yield Case("stack", f"axis={axis}",
                   lambda x, y, a=axis: P.stack([x, y, x], axis=a) ** 2, both)
    yield Case("concatenate", "with a constant and nothing",
               lambda x, e: P.concatenate(x, np.ones((1, 3)), e, axis=0) ** 2,
               [normal(2, 3), np.zeros((0, 3))], brings_host_arrays=True)
    yield Case("stack", "of scalars", lambda x, y: P.stack([x, y]) ** 2,
               [normal(), normal() + 1.0])
    for size, stride in [((1, 1), (1, 1)), ((2, 3), (1, 2)), ((3, 2), (2, 2)), ((4, 5), (3, 3))]:
        laid_out = convolution.windows(tensor(normal(2, 1, 4, 5)), size, stride).shape
        yield Case("windows", f"{size} {stride}",
                   lambda x, s=size, t=stride: convolution.windows(x, s, t) ** 2,
                   [normal(2, 1, 4, 5)])
        yield Case("add_windows", f"{size} {stride}",
                   lambda v, s=size, t=stride: convolution.add_windows(v, s, t, (2, 1, 4, 5)) ** 2,
                   [normal(*laid_out)])
    for what, index in INDICES.items():
        yield Case("getitem", what, lambda x, i=index: x[i] ** 2, [normal(4, 3, 5)])
        there = np.zeros((4, 3, 5))[INDICES_OF_NUMPY[what]].shape
        yield Case("scatter_add", what, lambda v, i=index: P.scatter_add(v, i, (4, 3, 5)) ** 2,
                   [normal(*there)])


CASES = list(cases())
every_case = pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.primitive}: {c.what}")


def test_every_primitive_has_cases() -> None:
    assert {case.primitive for case in CASES} | WITHOUT_GRADIENT == set(PRIMITIVES)
    assert len(PRIMITIVES) >= 30


@pytest.mark.parametrize("name", PRIMITIVES)
def test_each_row_of_the_table_is_whole(name: str) -> None:
    """It says what it is, and has a rule of the same arguments for each argument of numbers."""
    made = PRIMITIVES[name]
    home = P if hasattr(P, name) else convolution
    assert getattr(home, name).__doc__.rstrip().endswith(".")
    if name in WITHOUT_GRADIENT:
        assert made.rules == ()
        return
    parameters = signature(made.forward).parameters
    numbers = [p for p in parameters.values() if p.annotation in ("Array", Array, Parameter.empty)]
    rules = [made.rule_of_all] if made.rule_of_all else made.rules
    assert len(rules) == len(numbers)
    for rule in rules:
        assert rule is None or [*signature(rule).parameters] == ["g", "out", *parameters]


@every_case
def test_gradients_to_second_order(case: Case) -> None:
    check_grads(case.f, *case.arguments, order=2, modes=case.modes)


@every_case
def test_float32_stays_float32(case: Case, only_float32: None) -> None:
    if case.primitive == "astype" or case.brings_host_arrays:
        return  # the case itself brings float64
    xs = [tensor(a, dtype=np.float32, requires_grad=True) for a in case.arguments]
    out = case.f(*xs)
    (out * out).sum().backward()
    assert out.dtype == np.float32
    assert [x.grad.dtype for x in xs if x.grad is not None] == [np.float32] * len(xs)
    # So do gradients of gradients.
    grad(lambda x: grad(lambda y: (case.f(y, *xs[1:]) ** 2).sum())(x).sum())(xs[0])


@every_case
def test_results_are_arrays(case: Case) -> None:
    """Also those without axes, for which NumPy returns scalars; forward, backward, and added up."""
    xs = [tensor(a, requires_grad=True) for a in case.arguments]
    for _ in range(2):
        out = case.f(*xs)
        assert type(out.data) is np.ndarray
        out.backward(np.ones(out.shape))
        for x in xs:
            assert type(x.grad) is np.ndarray
            assert x.grad.shape == x.shape


@pytest.mark.parametrize("primitive", sorted(PRIMITIVES.keys() - WITHOUT_GRADIENT))
def test_same_on_cuda(primitive: str, cuda: str) -> None:
    """Values and gradients; no host array slips into an operation on the device."""
    for case in CASES:
        if case.primitive == primitive and not case.brings_host_arrays:
            for on_cpu, on_cuda in zip(run(case, "cpu"), run(case, cuda), strict=True):
                np.testing.assert_allclose(on_cuda, on_cpu, rtol=1e-13, atol=1e-14)


def run(case: Case, device: str) -> list[Any]:
    xs = [tensor(a, device=device, requires_grad=True) for a in case.arguments]
    out = case.f(*xs)
    (out * out * out).sum().backward()
    results = [out.data, *(x.grad for x in xs)]
    assert {device_of(a) for a in results} == {device}, case.what
    return [to_host(a) for a in results]


# ---- values ------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", INDICES)
def test_picks_what_numpy_picks(what: str) -> None:
    x, index = normal(4, 3, 5), INDICES_OF_NUMPY[what]
    np.testing.assert_array_equal(tensor(x)[INDICES[what]].data, x[index])


@pytest.mark.parametrize("what", INDICES)
def test_places_each_value_as_often_as_it_is_picked(what: str) -> None:
    """scatter_add is the transpose of picking: sums over each place, by brute force."""
    shape, index = (4, 3, 5), INDICES_OF_NUMPY[what]
    places = np.arange(60).reshape(shape)[index]
    values = normal(*places.shape)
    expected = [math.fsum(np.ravel(values)[np.ravel(places) == place]) for place in range(60)]
    placed = P.scatter_add(tensor(values), INDICES[what], shape)
    np.testing.assert_allclose(placed.data, np.reshape(expected, shape), rtol=0, atol=1e-15)


def test_values_are_numpys() -> None:
    x, y, p = spaced((2, 3)), spaced((3,), 0.2), positive(2, 3)
    one = tensor(x)
    for name in "exp sin cos tanh".split():  # kernels, whose last digit may be another
        np.testing.assert_allclose(getattr(P, name)(one).data, getattr(np, name)(x), rtol=4e-16)
    for name in "log log1p".split():
        np.testing.assert_allclose(getattr(P, name)(tensor(p)).data, getattr(np, name)(p), 4e-16)
    for name in "absolute negative".split():
        np.testing.assert_array_equal(getattr(P, name)(one).data, getattr(np, name)(x))
    np.testing.assert_array_equal(P.sqrt(tensor(p)).data, np.sqrt(p))
    for name in "add subtract multiply divide maximum minimum less less_equal greater".split():
        np.testing.assert_array_equal(getattr(P, name)(one, y).data, getattr(np, name)(x, y))
    np.testing.assert_array_equal(P.greater_equal(one, one).data, np.ones((2, 3), dtype=bool))
    some = np.where(np.arange(3) == 1, x, 0.0)
    np.testing.assert_array_equal((one == some).data, x == some)
    np.testing.assert_array_equal((one != some).data, x != some)
    assert len({one, tensor(x)}) == 2  # sets go by identity, as in PyTorch
    np.testing.assert_array_equal(one.max(axis=1).data, x.max(axis=1))
    np.testing.assert_array_equal(one.min(axis=0, keepdims=True).data, x.min(axis=0, keepdims=True))
    np.testing.assert_allclose(one.mean(axis=0).data, x.mean(axis=0), rtol=1e-15)
    np.testing.assert_array_equal(P.cumsum(one, axis=0).data, x.cumsum(axis=0))
    np.testing.assert_array_equal(P.flip(one, axis=1).data, x[:, ::-1])
    np.testing.assert_array_equal(P.pad(one, ((1, 0), (0, 2))).data, np.pad(x, ((1, 0), (0, 2))))
    np.testing.assert_array_equal(P.stack([one, one], axis=-1).data, np.stack([x, x], axis=-1))


def test_operators_with_numbers_and_arrays_on_either_side() -> None:
    x, y = positive(3), positive(3) + 1.0
    t = tensor(x)
    for left, right, expected in [
        (t, y, lambda a: (a + y, a - y, a * y, a / y, a**y)),
        (t, 2.0, lambda a: (a + 2.0, a - 2.0, a * 2.0, a / 2.0, a**2.0)),
        (y, t, lambda a: (y + a, y - a, y * a, y / a, y**a)),
        (2.0, t, lambda a: (2.0 + a, 2.0 - a, 2.0 * a, 2.0 / a, 2.0**a)),
    ]:  # type: ignore[var-annotated]
        results = (left + right, left - right, left * right, left / right, left**right)
        for result, value in zip(results, expected(x), strict=True):
            assert isinstance(result, Tensor)
            np.testing.assert_array_equal(result.data, value)
    assert (t < 1.0).data.tolist() == (x < 1.0).tolist()
    assert (1.0 <= t).data.tolist() == (x >= 1.0).tolist()
    matrix = np.ones((3, 3))
    np.testing.assert_array_equal((matrix @ tensor(matrix)).data, 3.0 * matrix)
    np.testing.assert_array_equal(abs(-t).data, x)


def test_sigmoid_keeps_small_values_and_never_overflows() -> None:
    x = np.array([-np.inf, -1e4, -700.0, -50.0, 0.0, 50.0, 1e4, np.inf, np.nan])
    value = F.sigmoid(tensor(x)).data
    np.testing.assert_allclose(
        value, [0.0, 0.0, np.exp(-700.0), np.exp(-50.0), 0.5, 1.0, 1.0, 1.0, np.nan], rtol=1e-15
    )


def test_nan_goes_through_choices() -> None:
    x = np.array([np.nan, 1.0, -1.0])
    assert np.isnan(tensor(x).max().data)
    assert np.isnan(tensor(x).min().data)
    for choose in (P.maximum, P.minimum):
        assert np.isnan(choose(tensor(x), 0.0).data).tolist() == [True, False, False]
        assert np.isnan(choose(0.0, tensor(x)).data).tolist() == [True, False, False]
        by_x, by_y = grad(lambda x, y, c=choose: c(x, y).sum(), (0, 1))(x, x[::-1])
        assert by_x.data[[0, 2]].tolist() == by_y.data[[0, 2]].tolist() == [1.0, 1.0]  # no 0
    assert np.isnan(abs(tensor(x)).data).tolist() == [True, False, False]


def test_ties_share_the_gradient() -> None:
    tied = tensor([[3.0, 3.0, 1.0], [2.0, 2.0, 2.0]])
    of_max = grad(lambda x: x.max(axis=1).sum())(tied)
    np.testing.assert_allclose(of_max.data, [[1 / 2, 1 / 2, 0], [1 / 3, 1 / 3, 1 / 3]], rtol=1e-15)
    of_min = grad(lambda x: x.min())(tied)
    np.testing.assert_array_equal(of_min.data, [[0, 0, 1], [0, 0, 0]])
    for choose in (P.maximum, P.minimum):
        by_x, by_y = grad(lambda x, y, c=choose: c(x, y).sum(), (0, 1))(tied, tied)
        assert (by_x.data == 0.5).all()
        assert (by_y.data == 0.5).all()
    assert (grad(lambda x: abs(x))(0.0).data, grad(lambda x: P.maximum(x, x))(1.0).data) == (0, 1)


@pytest.mark.parametrize("x", [0.25, 1.0, 3.0])
def test_mixed_derivative_of_a_power_at_exponent_zero(x: float) -> None:
    """d/dy d/dx x^y = x^(y - 1) (1 + y log x), at y = 0: 1 / x."""

    def slope(x: Tensor, y: Tensor) -> Tensor:
        return grad(lambda x, y: x**y)(x, y)

    by_base_first = grad(slope, 1)(tensor(x), tensor(0.0)).item()
    by_exponent_first = grad(lambda x, y: grad(lambda x, y: x**y, 1)(x, y))(tensor(x), tensor(0.0))
    assert by_base_first == pytest.approx(1.0 / x, rel=1e-15)
    assert by_exponent_first.item() == pytest.approx(1.0 / x, rel=1e-15)


def test_slope_of_a_power_of_zero_at_tiny_numbers() -> None:
    """1 / x is infinite there, and 0 times that would be nan."""
    x = tensor([0.0, 5e-324, -1e-310, 2.3e-308], requires_grad=True)
    (x ** tensor(np.zeros(4))).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0] * 4


@pytest.mark.parametrize("x", [20.0, 40.0, 700.0])
def test_slope_of_the_sigmoid_far_out(x: float) -> None:
    """e^-x / (1 + e^-x)^2, though 1 - sigmoid(x) is 0 there."""
    for at in (x, -x):
        right = math.exp(-x) / (1.0 + math.exp(-x)) ** 2
        assert grad(F.sigmoid)(tensor(at)).item() == pytest.approx(right, rel=1e-14)


def test_power_at_zero() -> None:
    """Slopes at the borders are the limits, not 0 * inf."""
    zero = tensor(0.0)
    assert [grad(lambda x, n=n: x**n)(zero).item() for n in (0, 1, 2, 3.0)] == [0, 1, 0, 0]
    by_x, by_y = grad(lambda x, y: x**y, (0, 1))(zero, tensor(2.0))
    assert (by_x.item(), by_y.item()) == (0.0, 0.0)
    by_x, by_y = grad(lambda x, y: x**y, (0, 1))(zero, tensor(0.0))
    assert (by_x.item(), by_y.item()) == (0.0, 0.0)
    second = grad(grad(lambda x: x**2))(zero)
    assert second.item() == 2.0


# ---- dtypes that have no gradient --------------------------------------------------------------


def test_comparisons_and_integers_are_not_on_the_tape() -> None:
    x = tensor([1.5, -2.0], requires_grad=True)
    assert not (x < 0.0).requires_grad
    assert not x.astype(np.int64).requires_grad
    with pytest.raises(ValueError, match="requires_grad"):
        (x > 0.0).backward(np.ones(2))
    # A choice by x alone does not depend on x: no gradient, rather than one of zeros.
    y = tensor([1.0, 1.0], requires_grad=True)
    P.where(x > 0.0, y, -y).sum().backward()
    assert x.grad is None
    assert y.grad is not None
    assert y.grad.tolist() == [1.0, -1.0]


# ---- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: tensor(np.ones(3)) + tensor(np.ones(4)), ["add", "[3]", "[4]"]),
        (lambda: tensor(np.ones((2, 3))) * np.ones((3, 2)), ["multiply", "[2, 3]", "[3, 2]"]),
        (lambda: tensor(np.ones((2, 3))) @ tensor(np.ones((2, 3))), ["matmul", "[2, 3]"]),
        (lambda: tensor(np.ones(2)) @ tensor(np.ones((3, 2))), ["matmul", "[2]", "[3, 2]"]),
        (lambda: tensor(np.ones(2)) @ tensor(np.ones(3)), ["matmul", "[2]", "[3]"]),
        (lambda: tensor(np.ones((2, 3))) @ 2.0, ["matmul", "2.0", "*"]),
        (lambda: tensor(1.0) @ tensor(np.ones(3)), ["matmul", "[]", "*"]),
        (lambda: tensor(np.ones(6)).reshape(4, 2), ["reshape", "[6]", "4, 2"]),
        (lambda: P.concatenate(tensor([1.0]), tensor([[1.0]]), axis=0),
         ["concatenate", "[1]", "[1, 1]"]),
        (lambda: P.stack([tensor([1.0]), tensor([1.0, 2.0])]), ["stack", "[1]", "[2]"]),
        (lambda: tensor(np.ones((2, 3))).sum(axis=2), ["sum", "[2, 3]", "axis 2"]),
        (lambda: tensor(np.ones((2, 0))).max(axis=1), ["max", "[2, 0]"]),
        (lambda: tensor(np.ones((2, 0))).mean(axis=1), ["mean", "[2, 0]", "axis 1"]),
        (lambda: tensor(np.ones((2, 3))).swapaxes(0, 2), ["swapaxes", "[2, 3]", "axis"]),
        (lambda: tensor(np.ones((2, 3))).transpose(0, 0), ["transpose", "[2, 3]", "0, 0"]),
        (lambda: P.pad(tensor(np.ones((2, 3))), ((1, 1),)), ["pad", "[2, 3]", "((1, 1),)"]),
        (lambda: P.broadcast_to(tensor(np.ones(3)), (2, 4)), ["broadcast_to", "[3]", "(2, 4)"]),
        (lambda: P.where(np.ones(3, dtype=bool), tensor(np.ones(2)), 0.0),
         ["where", "bool[3]", "[2]"]),
    ],
)
def test_wrong_shapes_name_the_function_and_what_came(
    wrong: Callable[[], Tensor], words: list[str]
) -> None:
    with pytest.raises(ValueError, match=words[0]) as caught:
        wrong()
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("index", [5, -5, (0, 3), [0, 4], np.array([0, 9]), tensor([4])])
def test_index_out_of_range(index: Any) -> None:
    with pytest.raises(IndexError, match=r"getitem\(float64\[4, 3\]"):
        tensor(np.ones((4, 3)))[index]
    with pytest.raises(IndexError, match=r"scatter_add"):
        P.scatter_add(tensor(1.0), index, (4, 3))


def test_operands_that_are_no_numbers() -> None:
    x = tensor([1.0])
    for other in ("text", None, {}, object()):
        with pytest.raises(TypeError, match="add"):
            x + other  # type: ignore[operator]


def test_tensors_passed_by_name_are_refused_not_lost() -> None:
    x, y = tensor([1.0], requires_grad=True), tensor([2.0], requires_grad=True)
    with pytest.raises(TypeError, match="multiply: pass tensors by position"):
        P.multiply(x, y=y)


# ---- custom rules ------------------------------------------------------------------------------


def test_a_primitive_without_a_rule_raises() -> None:
    double = mm.primitive(lambda x: 2.0 * x)
    x = tensor(1.0, requires_grad=True)
    assert double(x).item() == 2.0
    with pytest.raises(ValueError, match="no gradient rule for argument 0"):
        double(x).backward()


def test_a_rule_need_not_be_the_derivative() -> None:
    @mm.primitive
    def reversed_gradient(x: Any) -> Any:
        """Its gradient goes the other way."""
        return x.copy()

    reversed_gradient.vjp(lambda g, out, x: -g)
    assert reversed_gradient.__doc__ == "Its gradient goes the other way."
    x = tensor([1.0, 2.0])
    assert grad(lambda x: (reversed_gradient(x) ** 2).sum())(x).data.tolist() == [-2.0, -4.0]
    # Twice: each of the two reversals turns the sign, in g and in what g depends on.
    third = grad(lambda x: grad(lambda y: (reversed_gradient(y) ** 3).sum())(x).sum())(x)
    assert third.data.tolist() == [6.0, 12.0]


def test_a_rule_of_the_wrong_shape_is_refused() -> None:
    """Even if it has the right number of elements, as with a transpose that was forgotten."""

    @mm.primitive
    def turn(x: Any) -> Any:
        return x.T

    turn.vjp(lambda g, out, x: g)
    with pytest.raises(ValueError, match=r"turn.*\(3, 2\).*\(2, 3\)"):
        grad(lambda x: turn(x).sum())(np.ones((2, 3)))
    turn.vjp(lambda g, out, x: g.sum())
    with pytest.raises(ValueError, match=r"turn.*\(\).*\(2, 3\)"):
        grad(lambda x: turn(x).sum())(np.ones((2, 3)))
    turn.vjp(lambda g, out, x: g.data.T)
    with pytest.raises(TypeError, match=r"turn.*ndarray.*expected a Tensor"):
        grad(lambda x: turn(x).sum())(np.ones((2, 3)))


def test_a_rule_for_all_arguments_may_leave_some_out() -> None:
    choose = mm.primitive(lambda x, y: x + 0.0 * y)
    choose.vjp_of_all(lambda g, out, x, y: (g, None))
    by_x, by_y = grad(lambda x, y: choose(x, y).sum(), (0, 1))(np.ones(2), np.ones(2))
    assert (by_x.data.tolist(), by_y.data.tolist()) == ([1, 1], [0, 0])


# ---- properties --------------------------------------------------------------------------------

numbers = st.floats(-3.0, 3.0, width=32)


@given(shapes=mutually_broadcastable_shapes(num_shapes=3, max_dims=4, max_side=4), data=st.data())
def test_unbroadcast_gradient_is_that_of_explicit_copies(shapes: Any, data: st.DataObject) -> None:
    """d/dx of f(x, ...) is, for each element of x, the sum over all its copies."""
    values = [data.draw(arrays(np.float64, s, elements=numbers)) for s in shapes.input_shapes]
    weights = np.random.default_rng(0).standard_normal(shapes.result_shape)

    def f(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        return (P.where(weights > 0.0, x * y - z, P.maximum(x, z)) * y * weights).sum()

    gradients = grad(f, (0, 1, 2))(*values)
    copies = [np.broadcast_to(v, shapes.result_shape).copy() for v in values]
    by_copies = grad(f, (0, 1, 2))(*copies)
    for value, gradient, by_copy in zip(values, gradients, by_copies, strict=True):
        places = np.broadcast_to(np.arange(value.size).reshape(value.shape), shapes.result_shape)
        summed = np.bincount(places.ravel(), by_copy.data.ravel(), minlength=value.size)
        assert gradient.shape == value.shape
        np.testing.assert_allclose(gradient.data.ravel(), summed, rtol=1e-12, atol=1e-12)


@given(arrays(np.float64, (2, 3), elements=numbers), numbers, numbers)
def test_gradients_are_linear(x: Any, a: float, b: float) -> None:
    """grad (a f + b g) = a grad f + b grad g."""

    def f(x: Tensor) -> Tensor:
        return (P.sin(x) * x).sum()

    def g(x: Tensor) -> Tensor:
        return P.sqrt((x * x).sum(axis=0) + 1.0).sum()

    together = grad(lambda x: a * f(x) + b * g(x))(x)
    apart = a * grad(f)(x).data + b * grad(g)(x).data
    np.testing.assert_allclose(together.data, apart, rtol=1e-12, atol=1e-12)


# Random expressions: ("sin", e), ("*", e, e), a variable "x", "y", "z", or a number. They are
# evaluated twice, by NumPy on complex numbers and by the engine.
UNARY: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "sin": (np.sin, P.sin), "cos": (np.cos, P.cos), "tanh": (np.tanh, P.tanh),
    "exp tanh": (lambda a: np.exp(np.tanh(a)), lambda a: P.exp(P.tanh(a))),
    "log": (lambda a: np.log(2.0 + np.sin(a)), lambda a: P.log(2.0 + P.sin(a))),
    "sqrt": (lambda a: np.sqrt(2.0 + np.cos(a)), lambda a: P.sqrt(2.0 + P.cos(a))),
    "sigmoid": (lambda a: 1.0 / (1.0 + np.exp(-np.sin(a))), lambda a: F.sigmoid(P.sin(a))),
    "mean": (lambda a: a.mean(keepdims=True), lambda a: a.mean(keepdims=True)),
    "flip": (lambda a: a[::-1], lambda a: P.flip(a, axis=0)),
}
BINARY: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "+": (np.add, P.add), "-": (np.subtract, P.subtract), "*": (np.multiply, P.multiply),
    "/": (lambda a, b: a / (3.0 + np.sin(b)), lambda a, b: a / (3.0 + P.sin(b))),
    "**": (lambda a, b: (2.0 + np.sin(a)) ** np.sin(b), lambda a, b: (2.0 + P.sin(a)) ** P.sin(b)),
}
expressions = st.recursive(
    st.sampled_from(["x", "y", "z"]) | st.floats(-2.0, 2.0),
    lambda e: st.tuples(st.sampled_from([*UNARY]), e) | st.tuples(st.sampled_from([*BINARY]), e, e),
    max_leaves=12,
)


def evaluate(expression: Any, variables: dict[str, Any], which: int) -> Any:
    if isinstance(expression, str):
        return variables[expression]
    if isinstance(expression, float):
        return variables["x"] * 0.0 + expression
    name, *parts = expression
    function = (UNARY if len(parts) == 1 else BINARY)[name][which]
    return function(*(evaluate(part, variables, which) for part in parts))


@given(expressions, st.integers(0, 2**32))
def test_gradients_of_random_expressions(expression: Any, seed: int) -> None:
    """Against the complex step through NumPy alone: Im f(x + ih) / h, exact to rounding."""
    rng = np.random.default_rng(seed)
    values = {name: rng.standard_normal(3) for name in "xyz"}

    def f(*xs: Tensor) -> Tensor:
        return evaluate(expression, dict(zip("xyz", xs, strict=True)), 1).sum()

    gradients = grad(f, (0, 1, 2))(*values.values())
    for name, gradient in zip("xyz", gradients, strict=True):
        for i in range(3):
            moved = {n: v.astype(complex) for n, v in values.items()}
            moved[name][i] += 1e-30j
            exact = evaluate(expression, moved, 0).sum().imag / 1e-30
            np.testing.assert_allclose(gradient.data[i], exact, rtol=1e-9, atol=1e-11)


@given(st.integers(1, 6), st.integers(0, 2**32))
def test_stack_of_rows_is_the_matrix(n: int, seed: int) -> None:
    x = tensor(np.random.default_rng(seed).standard_normal((n, 2)))
    assert (P.stack([*x]).data == x.data).all()
    back = reduce(lambda a, b: P.concatenate(a, b, axis=0), [x[i : i + 1] for i in range(n)])
    assert (back.data == x.data).all()
    with no_grad():
        assert not P.stack([*x]).requires_grad


@pytest.mark.parametrize("shape", [(None,), (None, 2), ((2, None),)])
def test_none_is_no_length_of_a_shape(shape: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError, match=r"reshape\(float64\[6\] on cpu, "):
        tensor(np.ones(6)).reshape(*shape)
