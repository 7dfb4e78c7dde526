"""Every function of numbers, for every dtype: whole numbers, float16, NumPy's scalars, nothing.

What a function does with a dtype it does in both versions, forward and back, bit for bit:

    whole numbers     as the float64 of the same values (or whole, where the function keeps them)
    float16           as the float32 of the same values, rounded once
    NumPy's scalars   as the Python numbers that they hold
"""

import math
import operator
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import pytest

import minimono as mm
from minimono.backend import to_host
from minimono.engine import convolution, dtypes
from minimono.engine import functional as F
from minimono.engine import primitives as P
from minimono.engine.fused import Fused
from minimono.engine.primitive import Primitive
from minimono.engine.tape import grad, tape_of
from minimono.engine.tensor import Tensor, tensor
from minimono.mono import preference
from minimono.nn import convolution as cells

WHOLE = ["bool", "uint8", "int8", "uint16", "int16", "int32", "uint32", "int64", "uint64"]


class Case(NamedTuple):
    names: str  # what is covered: functions, primitives, methods
    kind: str  # real, kept, flags, signed, size, sums, numpy: what whole numbers become
    f: Callable[..., Any]
    shapes: list[tuple[int, ...]]


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


SQUARE, ROWS = (3, 3), (2, 3)
IMAGE, KERNELS = (2, 2, 4, 5), (2, 2, 3, 2)
TARGETS = np.array([2, 0])
MASK = np.array([[True, False, True], [True, True, False], [True, True, True]])
PICKED = np.array([1, 1, 0, 1])
CONDITION = np.array([[True, False, True], [False, False, True]])

TWO = {
    "add __add__": operator.add, "subtract __sub__": operator.sub, "multiply __mul__": operator.mul,
}
FLAGS = {
    "less __lt__": operator.lt, "less_equal __le__": operator.le, "greater __gt__": operator.gt,
    "greater_equal __ge__": operator.ge, "equal __eq__": operator.eq,
    "not_equal __ne__": operator.ne,
}


def cases() -> Iterator[Case]:
    for name in "exp log log1p sqrt sin cos tanh sech_squared erfc".split():
        yield Case(name, "real", getattr(P, name), [ROWS])
    yield Case("log_sigmoid", "real", preference.log_sigmoid, [ROWS])
    for name in "relu leaky_relu silu gelu softmax log_softmax tanh sigmoid".split():
        yield Case(name, "real", getattr(F, name), [ROWS])
    yield Case("gelu", "real", lambda x: F.gelu(x, approximate="tanh"), [ROWS])
    yield Case("softmax", "real", lambda x: F.softmax(x, axis=0), [ROWS])
    yield Case("cross_entropy", "real", lambda x: F.cross_entropy(x, TARGETS), [ROWS])
    yield Case("layer_norm", "real", F.layer_norm, [ROWS, (3,), (3,)])
    yield Case("layer_norm", "real", lambda x, w, b: F.layer_norm(x, bias=b, weight=w),
               [ROWS, (3,), (3,)])
    yield Case("rms_norm", "real", F.rms_norm, [ROWS, (3,)])
    yield Case("swiglu", "real", F.swiglu, [ROWS, ROWS])
    for pairs in (False, True):
        yield Case("rotary_embedding", "real",
                   lambda x, c, s, i=pairs: F.rotary_embedding(x, c, s, i),
                   [(2, 3, 2, 5), (3, 2), (3, 2)])
    yield Case("linear", "real", F.linear, [ROWS, (4, 3), (4,)])
    yield Case("linear", "real", F.linear, [ROWS, (4, 3)])
    yield Case("linear_relu", "real", F.linear_relu, [ROWS, (4, 3), (4,)])
    for causal in (True, False):
        yield Case("scaled_dot_product_attention", "real",
                   lambda q, k, v, c=causal: F.scaled_dot_product_attention(
                       q, k, v, mask=MASK, is_causal=c), [(2, 3, 2)] * 3)
        yield Case("self_attention", "real",
                   lambda x, c=causal: F.self_attention(x, mask=MASK[:2], is_causal=c),
                   [(2, 3, 3, 2, 2)])
    for train in (True, False):
        yield Case("dropout", "real",
                   lambda x, t=train: F.dropout(x, 0.4, rng=rng(), training=t), [ROWS])
    yield Case("conv2d", "real", lambda *a: F.conv2d(*a, padding=1), [IMAGE, KERNELS, (2,)])
    yield Case("conv2d", "real", lambda *a: F.conv2d(*a, stride=2), [IMAGE, KERNELS])
    yield Case("conv_transpose2d", "real", lambda *a: F.conv_transpose2d(*a, stride=2, padding=1),
               [IMAGE, KERNELS, (2,)])
    yield Case("avg_pool2d", "real", lambda x: F.avg_pool2d(x, 3, stride=1, padding=1), [IMAGE])
    for padding in (0, 1):
        yield Case("max_pool2d", "kept",
                   lambda x, p=padding: F.max_pool2d(x, 3, stride=1, padding=p), [IMAGE])
    yield Case("embedding", "kept", lambda w: F.embedding(PICKED, w), [ROWS])
    yield Case("gates of the GRU", "real",
               lambda x, h: cells._memory_and_update(x, h, 0.2), [(2, 3, 2, 2)] * 2)
    yield Case("state of the GRU", "real", cells._new_state, [(2, 1, 2, 2)] * 3)

    for names, f in TWO.items():
        yield Case(names, "numpy", f, [ROWS, (3,)])
        yield Case(names.replace("__", "__r", 1), "numpy", lambda x, f=f: f(3, x), [ROWS])
    yield Case("divide __truediv__", "real", operator.truediv, [ROWS, (3,)])
    yield Case("divide __rtruediv__", "real", lambda x: 3 / x, [ROWS])
    yield Case("divide", "real", lambda x: x / 300, [ROWS])
    yield Case("power __pow__", "numpy", lambda x: x**2, [ROWS])
    for exponent in (-1, -2, 0.5, 2.0):
        yield Case("power", "real", lambda x, y=exponent: x**y, [ROWS])
    yield Case("power __rpow__", "real", lambda x: 2.0**x, [ROWS])
    yield Case("matmul __matmul__", "real", operator.matmul, [ROWS, SQUARE])
    yield Case("matmul __rmatmul__", "real", lambda x: np.eye(2, dtype=np.int8) @ x, [ROWS])
    yield Case("negative __neg__", "signed", operator.neg, [ROWS])
    yield Case("absolute __abs__", "size", abs, [ROWS])
    for name in "exp log sqrt tanh".split():
        yield Case(f"{name} as method", "real", operator.methodcaller(name), [ROWS])
    for axis in (None, 0, -1, (0, 1)):
        for keep in (True, False):
            options = {"axis": axis, "keepdims": keep}
            yield Case("mean", "real", operator.methodcaller("mean", **options), [ROWS])
            yield Case("sum", "sums", operator.methodcaller("sum", **options), [ROWS])
            yield Case("max", "kept", operator.methodcaller("max", **options), [ROWS])
            yield Case("min", "kept", operator.methodcaller("min", **options), [ROWS])
    yield Case("cumsum", "sums", lambda x: P.cumsum(x, axis=0), [ROWS])
    for names, f in FLAGS.items():
        yield Case(names, "flags", f, [ROWS, ROWS])

    # Of these the result is one of the numbers that went in, or 0.
    yield Case("where", "kept", lambda x, y: P.where(CONDITION, x, y), [ROWS, ROWS])
    yield Case("maximum", "kept", P.maximum, [ROWS, (3,)])
    yield Case("minimum", "kept", P.minimum, [ROWS, (3,)])
    yield Case("flip", "kept", lambda x: P.flip(x, axis=0), [ROWS])
    yield Case("reshape", "kept", lambda x: x.reshape(3, 2), [ROWS])
    yield Case("broadcast_to", "kept", lambda x: P.broadcast_to(x, (4, 2, 3)), [ROWS])
    yield Case("transpose T", "kept", lambda x: x.transpose(1, 0).T, [ROWS])
    yield Case("swapaxes", "kept", lambda x: x.swapaxes(0, 1), [ROWS])
    yield Case("pad", "kept", lambda x: P.pad(x, ((1, 0), (0, 2))), [ROWS])
    yield Case("concatenate", "kept", lambda x, y: P.concatenate(x, y, axis=0), [ROWS, ROWS])
    yield Case("stack", "kept", lambda x, y: P.stack([x, y]), [ROWS, ROWS])
    yield Case("getitem __getitem__", "kept", lambda x: x[PICKED], [ROWS])
    yield Case("scatter_add", "kept", lambda x: P.scatter_add(x, [4, 0], (5, 3)), [ROWS])
    yield Case("windows", "kept", lambda x: convolution.windows(x, (2, 2), (1, 1)), [IMAGE])
    yield Case("add_windows", "kept",
               lambda x: convolution.add_windows(x, (2, 2), (2, 2), (2, 1, 4, 6)),
               [(2, 1, 4, 2, 3)])
    yield Case("to", "kept", lambda x: x.to("cpu"), [ROWS])
    yield Case("detach", "kept", lambda x: x.detach() if not x.requires_grad else x, [ROWS])


CASES = list(cases())


def each(wanted: Callable[[Case], bool]) -> pytest.MarkDecorator:
    chosen = {f"{c.names} {i}": c for i, c in enumerate(CASES) if wanted(c)}
    return pytest.mark.parametrize("case", chosen.values(), ids=chosen.keys())


every_case = each(lambda c: True)
VERSIONS = {"running": nullcontext, "reading": mm.reference}
both_versions = pytest.mark.parametrize("version", VERSIONS)


def numbers(shape: tuple[int, ...], dtype: str, seed: int) -> Any:
    """Some of both ends of the dtype: what wraps round is seen."""
    random = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return random.normal(0.0, 2.0, shape).astype(dtype)
    if dtype == "bool":
        return random.integers(0, 2, shape).astype(bool)
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    found = random.integers(max(low, -300), min(high, 300), shape, endpoint=True)
    return found.astype(dtype)


def small(shape: tuple[int, ...], dtype: str, seed: int) -> Any:
    """Whole numbers that every dtype has."""
    return np.random.default_rng(seed).integers(0, 2 if dtype == "bool" else 5, shape).astype(dtype)


def of(case: Case, dtype: str) -> list[Any]:
    return [numbers(shape, dtype, seed) for seed, shape in enumerate(case.shapes)]


# ---- whole numbers -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", WHOLE)
@every_case
def test_whole_numbers(case: Case, dtype: str) -> None:
    if dtype == "bool" and case.names == "subtract __sub__":
        pytest.skip("NumPy does not subtract booleans")
    for version in VERSIONS.values():
        with version(), np.errstate(all="ignore"):
            check_whole_numbers(case, dtype)


def check_whole_numbers(case: Case, dtype: str) -> None:
    arrays = of(case, dtype)
    if case.kind == "numpy":  # True + True is True there, and 0 - 1 is 255 in a byte
        np.testing.assert_array_equal(
            case.f(*map(Tensor, arrays)).data, case.f(*arrays), strict=True
        )
        return
    exact = case.f(*[Tensor(a.astype(np.float64)) for a in arrays]).data
    out = case.f(*map(Tensor, arrays))
    assert not out.requires_grad
    np.testing.assert_array_equal(out.data, exact, strict=False)
    if case.kind == "real":
        assert out.dtype == np.float64
    elif case.kind == "kept":
        assert out.dtype == dtype
    elif case.kind == "flags":
        assert out.dtype == bool
    elif case.kind == "signed":
        assert out.dtype == (np.float64 if dtype == "uint64" else np.int64)
    elif case.kind == "size":
        assert out.dtype == (dtype if dtype.startswith("u") else np.int64)
    else:
        assert case.kind == "sums"
        assert out.dtype == arrays[0].sum().dtype


@pytest.mark.parametrize("as_array", [False, True], ids=["tensor", "array"])
@pytest.mark.parametrize("float_dtype", ["float32", "float64", "float16"])
@each(lambda c: len(c.shapes) > 1)
def test_whole_numbers_beside_floats_meet_as_in_numpy(
    case: Case, float_dtype: str, as_array: bool
) -> None:
    """Both versions go to the dtype that NumPy promotes the two to, all arguments alike."""
    for dtype in WHOLE:
        for version in VERSIONS.values():
            with version(), np.errstate(all="ignore"):
                check_whole_numbers_beside_floats(case, float_dtype, dtype, as_array)


def check_whole_numbers_beside_floats(
    case: Case, float_dtype: str, dtype: str, as_array: bool
) -> None:
    shapes = case.shapes
    x = Tensor(numbers(shapes[0], float_dtype, 0), requires_grad=True)
    others = [small(shape, dtype, seed + 1) for seed, shape in enumerate(shapes[1:])]
    meeting = np.result_type(float_dtype, dtype)
    out = case.f(x, *(others if as_array else map(Tensor, others)))
    alike = Tensor(x.data.astype(meeting), requires_grad=True)
    expected = case.f(alike, *(Tensor(o.astype(meeting)) for o in others))
    np.testing.assert_array_equal(out.data, expected.data, strict=True)
    if case.kind != "flags":
        out.backward(np.ones(out.shape))
        expected.backward(np.ones(out.shape))
        assert x.grad is not None
        assert alike.grad is not None
        np.testing.assert_array_equal(x.grad, alike.grad.astype(float_dtype), strict=True)


def test_the_faults_that_were_seen() -> None:
    def bytes_(*values: int, dtype: Any = np.uint8) -> Tensor:
        return tensor(np.array(values, dtype))

    for version in VERSIONS.values():
        with version():
            assert bytes_(0, 5).min().item() == 0
            assert bytes_(-128, 3, dtype=np.int8).min().item() == -128
            assert abs(bytes_(-128, dtype=np.int8)).item() == 128
            assert (-bytes_(-128, dtype=np.int8)).item() == 128
            assert (-bytes_(7)).item() == -7
            np.testing.assert_allclose(
                F.softmax(bytes_(1, 3)).data, [1 / (1 + math.e**2), 1 / (1 + math.e**-2)]
            )
            assert P.erfc(bytes_(1)).item() == math.erfc(1.0)
            np.testing.assert_allclose(
                F.silu(bytes_(3, 0)).data, [3 / (1 + math.exp(-3)), 0.0], rtol=1e-15
            )
            x = tensor([[1.0, 3.0]], requires_grad=True)
            normed = F.layer_norm(x, tensor([1, 1]), tensor([0, 0]), eps=0.0)
            assert normed.data.tolist() == [[-1.0, 1.0]]
            assert normed.requires_grad
            image = tensor(np.full((1, 1, 2, 2), -7, np.int8))
            assert F.max_pool2d(image, 2, padding=1).data.tolist() == [[[[-7, -7], [-7, -7]]]]
            dark = tensor(np.zeros((1, 1, 2, 2), bool))
            assert not F.max_pool2d(dark, 2, padding=1).data.any()


@pytest.mark.parametrize("dtype", WHOLE[1:])
def test_powers_are_whole_where_no_exponent_can_be_negative(dtype: str) -> None:
    whole = np.array([1, 2, 3], dtype)
    for x, y in [(tensor(whole), 2), (tensor(whole), tensor(np.array([0, 1, 2], np.uint8))),
                 (tensor(whole), True), (tensor(whole), np.int64(2))]:
        out = x**y
        assert out.dtype.kind in "iu"
        assert out.data.tolist() == [1, 2, 9] if isinstance(y, Tensor) else out.data[2] in (3, 9)
    for out in (tensor(whole) ** -1, tensor(whole) ** np.int8(-1), 1 / tensor(whole)):
        assert out.dtype == np.float64
        assert out.data.tolist() == [1.0, 0.5, 1 / 3]
    signed = tensor(np.array([-1, 0, 1], np.int8))
    assert (2**signed).data.tolist() == (tensor(np.array([2] * 3, dtype)) ** signed).data.tolist()
    assert (2**signed).data.tolist() == [0.5, 1.0, 2.0]


def test_what_a_whole_dtype_cannot_hold_is_an_error() -> None:
    for wrong in (lambda x: x + 300, lambda x: np.int64(300) * x, lambda x: P.maximum(x, -1)):
        with pytest.raises(OverflowError, match=r"(add|multiply|maximum)\(.*uint8\[2\]"):
            wrong(tensor(np.array([1, 2], np.uint8)))


# ---- float16, float32 --------------------------------------------------------------------------


@both_versions
@every_case
def test_float16_is_computed_in_float32_and_rounded_once(case: Case, version: str) -> None:
    arrays = of(case, "float16")
    found = []
    for dtype in ("float16", "float32"):
        xs = [Tensor(a.astype(dtype), requires_grad=True) for a in arrays]
        with VERSIONS[version](), np.errstate(all="ignore"):
            out = case.f(*xs)
            if case.kind != "flags":
                assert out.dtype == dtype
                cotangent = np.linspace(-1.0, 2.0, out.size).reshape(out.shape)
                out.backward(cotangent.astype(np.float16))
        found.append([out.data, *(x.grad for x in xs)])
    for half, single in zip(*found, strict=True):
        if case.kind == "flags":
            assert half is single is None or half.tolist() == single.tolist()
        else:
            with np.errstate(over="ignore"):
                np.testing.assert_array_equal(half, single.astype(np.float16), strict=True)


def half(*shape: int, value: float) -> Tensor:
    return tensor(np.full(shape, value), dtype="float16", requires_grad=True)


@both_versions
def test_float16_where_its_range_ends(version: str) -> None:
    """Values and gradients that float16 holds, of sums that it does not."""
    with VERSIONS[version]():
        x = half(4096, value=20.0)
        assert x.mean().item() == 20.0
        x.mean().backward()
        assert x.grad is not None
        assert (x.grad == np.float16(1 / 4096)).all()
        row = tensor([[300.0, -300.0, 10.0, 0.0]], dtype="float16")
        one, zero = half(4, value=1.0), half(4, value=0.0)
        exact = np.array([300.0, -300.0, 10.0, 0.0])
        centred = exact - exact.mean()
        expected = centred / np.sqrt((centred**2).mean() + 1e-5)
        assert F.layer_norm(row, one, zero).data.tolist() == [expected.astype(np.float16).tolist()]
        expected = exact / np.sqrt((exact**2).mean() + 1e-5)
        assert F.rms_norm(row, one).data.tolist() == [expected.astype(np.float16).tolist()]
        logits = half(20_000, 8, value=0.0)
        loss = F.cross_entropy(logits, np.zeros(20_000, int))
        assert loss.item() == np.float16(math.log(8))
        a, b = half(1, 4096, value=8.0), half(4096, 1, value=0.5)
        assert (a @ b).item() == 16384.0
        assert F.softmax(half(100_000, value=1.0)).data[0] == np.float16(1e-5)
        q = half(1, 2, 3, 1, 64, value=40.0)  # scores of 102,400 before they are scaled
        assert F.self_attention(q).data.tolist() == np.full((1, 2, 1, 64), 40.0).tolist()


@both_versions
def test_shares_of_a_float16_gradient_are_added_before_they_are_rounded(version: str) -> None:
    with VERSIONS[version]():
        x = half(3, value=1.0)
        shares = [2048.0, 1.0, 1.0, 1.0, 1.0]  # float16 has 2048 and 2050
        sum((x * share for share in shares[1:]), x * shares[0]).sum().backward()
        assert x.grad is not None
        assert (x.grad == 2052.0).all()
        row = half(3, value=1.0)  # 4096 times 1/4096 + 2^-14: 1.25
        (row * half(4096, 3, value=1 / 4096 + 2**-14)).sum(axis=0).backward(np.ones(3))
        assert row.grad is not None
        assert (row.grad == 1.25).all()
        weight = half(1, 2, value=0.0)
        cotangent = np.array([2048.0, 1.0, 1.0, 1.0, 1.0]).reshape(-1, 1)
        F.embedding(np.zeros(5, int), weight).backward(np.repeat(cotangent, 2, axis=1))
        assert weight.grad is not None
        assert (weight.grad == 2052.0).all()


LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "sequence_log_probability": lambda z: mm.mono.sequence_log_probability(
        z.reshape(2, 4, 5), np.zeros((2, 4), int), np.ones((2, 4), bool), average=True
    ),
    "implicit_reward": lambda z: mm.mono.implicit_reward(z[0], z[1], beta=0.3),
    "dpo_loss": lambda z: mm.mono.dpo_loss(z[0], z[1], z[2], z[3], beta=0.3),
    "dpo_loss, smoothed": lambda z: mm.mono.dpo_loss(
        z[0], z[1], z[2], z[3], beta=0.3, label_smoothing=0.1
    ),
    "ipo_loss": lambda z: mm.mono.ipo_loss(z[0], z[1], z[2], z[3], beta=0.3),
    "simpo_loss": lambda z: mm.mono.simpo_loss(z[0], z[1], beta=0.3),
    "mono_loss": lambda z: mm.mono.mono_loss(z, np.vander(np.arange(1.0, 1 + len(z)), 3)),
    "response_log_probability": lambda z: mm.mono.response_log_probability(
        z.reshape(2, 4, 5), np.zeros((2, 4), int), np.ones((2, 4), bool), average=True
    ),
    "decpo_loss": lambda z: mm.mono.decpo_loss(*z.detach()[:4, :4], z),
    "l1_penalty": mm.mono.l1_penalty,
    "decorrelation_penalty": mm.mono.decorrelation_penalty,
    "decorrelation_penalty, authors": lambda z: mm.mono.decorrelation_penalty(
        z, convention="authors"
    ),
    "deactivate": lambda z: mm.mono.deactivate(z, z.data > 1.0, np.full(5, 0.1), strength=0.3),
}


@pytest.mark.parametrize("what", LOSSES)
def test_losses_of_float16_are_rounded_once(what: str) -> None:
    """And whole numbers, which they refuse, they refuse as before."""
    z = numbers((8, 5), "float16", 0)
    found = []
    for dtype in ("float16", "float32"):
        x = tensor(z, dtype=dtype, requires_grad=True)
        out = LOSSES[what](x)
        assert out.dtype == dtype
        out.backward(np.full(out.shape, 0.3, np.float16))
        assert x.grad is not None
        found.append((out.data, x.grad))
    for half_, single in zip(*found, strict=True):
        np.testing.assert_array_equal(half_, single.astype(np.float16), strict=True)
    with pytest.raises((TypeError, ValueError), match="expected floats"):
        LOSSES[what](tensor(z.astype(np.int64)))


def test_float16_has_second_derivatives() -> None:
    x = tensor([0.5, -1.0], dtype="float16")
    slope = grad(lambda x: F.gelu(x).sum())
    bend = grad(lambda x: slope(x).sum())(x)
    in_single = grad(lambda x: grad(lambda x: F.gelu(x).sum())(x).sum())(x.astype("float32"))
    assert bend.dtype == np.float16
    np.testing.assert_allclose(bend.data, in_single.data, rtol=2e-3)


@every_case
def test_float32_stays(case: Case, only_float32: None) -> None:
    for version in VERSIONS.values():
        with version():
            xs = [Tensor(abs(a) + np.float32(1), requires_grad=True) for a in of(case, "float32")]
            out = case.f(*xs)
            if case.kind != "flags":
                assert out.dtype == np.float32
                out.backward(np.ones(out.shape))


# ---- NumPy's scalars ---------------------------------------------------------------------------

SCALARS = [
    np.float64(0.1), np.float32(0.1), np.float16(0.1), np.int64(3), np.uint8(3), np.int8(-3),
    np.bool_(True), np.longdouble(0.5),
]
OPERATORS = [
    operator.add, operator.sub, operator.mul, operator.truediv, operator.pow, operator.lt,
    operator.le, operator.gt, operator.ge, operator.eq, operator.ne, P.maximum, P.minimum,
    lambda x, y: P.where(CONDITION, x, y),
]


@pytest.mark.parametrize("scalar", SCALARS, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64"])
@pytest.mark.parametrize("f", OPERATORS)
def test_a_scalar_of_numpy_is_the_python_number_it_holds(
    f: Callable[..., Tensor], dtype: str, scalar: Any
) -> None:
    x = tensor(np.arange(1, 7).reshape(ROWS).astype(dtype))
    number = scalar.item() if not isinstance(scalar, np.longdouble) else float(scalar)
    for a, b, c, d in ((x, scalar, x, number), (scalar, x, number, x)):
        out, expected = f(a, b), f(c, d)
        np.testing.assert_array_equal(out.data, expected.data, strict=True)
        if dtype != "int64":
            assert out.dtype in (bool, dtype)


def test_complex_scalars_are_python_complex_numbers() -> None:
    """They stand only beside tensors that are complex already, in a complex step."""
    x = Tensor(np.array([1.0, 2.0], np.complex64))
    for scalar in (np.complex128(1j), np.complex64(1j), np.clongdouble(1j)):
        assert (x * scalar).dtype == (x * 1j).dtype == np.complex64
        assert (scalar * x).data.tolist() == [1j, 2j]


OPTIONS: dict[str, Callable[..., Tensor]] = {
    "leaky_relu": lambda x, n: F.leaky_relu(x, n(0.1)),
    "leaky_relu by name": lambda x, n: F.leaky_relu(x, negative_slope=n(0.1)),
    "layer_norm": lambda x, n: F.layer_norm(x, x[0], x[1], n(0.1)),
    "layer_norm by name": lambda x, n: F.layer_norm(x, x[0], bias=x[1], eps=n(0.1)),
    "rms_norm": lambda x, n: F.rms_norm(x, x[0], n(0.1)),
    "rms_norm by name": lambda x, n: F.rms_norm(x, x[0], eps=n(0.1)),
    "dropout": lambda x, n: F.dropout(x, n(0.1), rng=rng()),
    "dropout by name": lambda x, n: F.dropout(x, p=n(0.1), rng=rng()),
    "Dropout": lambda x, n: mm.nn.Dropout(n(0.1), rng=rng())(x),
    "LayerNorm": lambda x, n: mm.nn.LayerNorm(3, eps=n(0.1))(x),
    "RMSNorm": lambda x, n: mm.nn.RMSNorm(3, eps=n(0.1))(x),
    "GRU": lambda x, n: cells._memory_and_update(
        x.reshape(1, 6, 1, 1), x.reshape(1, 6, 1, 1), n(0.1)
    ),
    "softmax": lambda x, n: F.softmax(x * n(0.1), axis=np.int64(1)),
    "log_softmax": lambda x, n: F.log_softmax(x + n(0.1), np.int8(0)),
    "mean": lambda x, n: x.mean(axis=np.int64(0)) - n(0.1),
    "sum": lambda x, n: x.sum(np.int64(0), keepdims=np.bool_(True)) / n(0.1),
    "clip": lambda x, n: P.minimum(P.maximum(x, n(-0.1)), n(0.1)),
    "where": lambda x, n: P.where(x > n(0.1), n(0.2), x),
    "self_attention": lambda x, n: F.self_attention(
        (x * n(0.1)).reshape(1, 2, 3, 1, 1), is_causal=np.bool_(True)
    ),
}


def with_kernel(out: Tensor) -> list[str]:
    made = [n.origin.operation for n in tape_of(out) if n.origin]
    return [operation.name for operation in made if isinstance(operation, Fused)]


@both_versions
@pytest.mark.parametrize("scalar", [np.float64, np.float32, np.longdouble])
@pytest.mark.parametrize("what", OPTIONS)
def test_options_may_be_scalars_of_numpy(what: str, scalar: Any, version: str) -> None:
    x = tensor(np.linspace(-1.0, 2.0, 6).reshape(ROWS), dtype="float32", requires_grad=True)
    with VERSIONS[version]():
        out = OPTIONS[what](x, scalar)
        expected = OPTIONS[what](x, lambda n: float(scalar(n)))
    assert out.dtype == np.float32
    assert out.data.tobytes() == expected.data.tobytes()
    assert with_kernel(out) == with_kernel(expected)  # the kernel ran, if there is one
    has_none = version == "reading" or what.split()[0] in (
        "mean", "sum", "clip", "where"
    )
    assert (with_kernel(out) == []) == has_none


def test_numbers_without_axes_promote_as_in_numpy() -> None:
    x = tensor([1.0], dtype="float32")
    for number in (np.array(2.0), tensor(2.0), tensor(np.float64(2.0))):
        assert (x * number).dtype == (number * x).dtype == np.float64
    assert (x * tensor(np.float32(2.0))).dtype == np.float32


# ---- kernels -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "uint8", "int64", ">f8", ">f4"])
@pytest.mark.parametrize("name", ["relu", "gelu", "softmax", "layer_norm", "linear", "conv2d"])
def test_kernels_run_for_every_dtype(name: str, dtype: str) -> None:
    """What is not of a kernel's dtype goes to one, not to the formula."""
    shapes = next(c.shapes for c in CASES if c.names == name)
    called: list[str] = []
    operation = convolution._convolved if name == "conv2d" else getattr(F, name)
    reading, operation.reading = operation.reading, lambda *a, **k: called.append(name)
    try:
        getattr(F, name)(*(tensor(small(s, dtype, 0)) for s in shapes))
    finally:
        operation.reading = reading
    assert called == []


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float16"])
@each(lambda c: c.kind == "real" or c.names in ("max_pool2d", "embedding", "min"))
def test_on_a_gpu_too(case: Case, dtype: str, cuda: str) -> None:
    if case.names in ("scaled_dot_product_attention", "matmul __rmatmul__"):
        pytest.skip("brings arrays of the host")
    arrays = of(case, dtype)
    with np.errstate(all="ignore"):
        out = case.f(*(tensor(a).to(cuda) for a in arrays))
        expected = case.f(*map(tensor, arrays))
    assert out.dtype == expected.dtype
    rounding = 2e-3 if dtype == "float16" else 1e-12
    np.testing.assert_allclose(to_host(out.data), expected.data, rtol=rounding, atol=rounding)


# ---- nothing -----------------------------------------------------------------------------------

EMPTY: dict[str, tuple[Callable[..., Tensor], list[tuple[int, ...]], tuple[int, ...]]] = {
    "softmax": (F.softmax, [(5, 0, 0)], (5, 0, 0)),
    "softmax of rows": (F.softmax, [(0, 3)], (0, 3)),
    "softmax of columns": (lambda x: F.softmax(x, axis=0), [(0, 3)], (0, 3)),
    "softmax of nothing": (F.softmax, [(0,)], (0,)),
    "log_softmax": (F.log_softmax, [(5, 0, 0)], (5, 0, 0)),
    "log_softmax of columns": (lambda x: F.log_softmax(x, axis=0), [(0, 3)], (0, 3)),
    "layer_norm": (F.layer_norm, [(0, 3), (3,), (3,)], (0, 3)),
    "layer_norm, no channels": (F.layer_norm, [(5, 0), (0,), (0,)], (5, 0)),
    "rms_norm": (F.rms_norm, [(2, 0, 3), (3,)], (2, 0, 3)),
    "rms_norm, no channels": (F.rms_norm, [(5, 0), (0,)], (5, 0)),
    "linear": (F.linear, [(0, 3), (4, 3), (4,)], (0, 4)),
    "linear from no channels": (F.linear, [(5, 0), (4, 0), (4,)], (5, 4)),
    "linear to none": (F.linear, [(5, 3), (0, 3), (0,)], (5, 0)),
    "linear of no batch": (F.linear, [(2, 0, 3), (4, 3)], (2, 0, 4)),
    "self_attention, no batch": (F.self_attention, [(0, 4, 3, 2, 2)], (0, 4, 2, 2)),
    "self_attention, no time": (F.self_attention, [(2, 0, 3, 2, 2)], (2, 0, 2, 2)),
    "causal": (lambda x: F.self_attention(x, is_causal=True), [(0, 4, 3, 2, 2)], (0, 4, 2, 2)),
    "attention, no keys": (F.scaled_dot_product_attention, [(1, 2, 3), (1, 0, 3), (1, 0, 3)],
                           (1, 2, 3)),
    "attention, no queries": (F.scaled_dot_product_attention, [(1, 0, 3), (1, 2, 3), (1, 2, 3)],
                              (1, 0, 3)),
    "attention, empty values": (F.scaled_dot_product_attention, [(1, 2, 3), (1, 2, 3), (1, 2, 0)],
                                (1, 2, 0)),
    "dropout": (lambda x: F.dropout(x, 0.5, rng=rng()), [(0, 3)], (0, 3)),
    "embedding of no ids": (lambda w: F.embedding(np.zeros((0, 2), int), w), [(4, 3)], (0, 2, 3)),
    "embedding of no channels": (lambda w: F.embedding(PICKED, w), [(4, 0)], (4, 0)),
    "conv2d": (F.conv2d, [(0, 2, 4, 4), (3, 2, 2, 2), (3,)], (0, 3, 3, 3)),
    "conv2d, no channels": (F.conv2d, [(1, 0, 4, 4), (3, 0, 2, 2), (3,)], (1, 3, 3, 3)),
    "conv2d, none out": (F.conv2d, [(1, 2, 4, 4), (0, 2, 2, 2)], (1, 0, 3, 3)),
    "conv_transpose2d": (F.conv_transpose2d, [(0, 2, 4, 4), (2, 3, 2, 2)], (0, 3, 5, 5)),
    "max_pool2d": (lambda x: F.max_pool2d(x, 2, padding=1), [(0, 2, 4, 4)], (0, 2, 3, 3)),
    "max_pool2d, no channels": (lambda x: F.max_pool2d(x, 2), [(2, 0, 4, 4)], (2, 0, 2, 2)),
    "avg_pool2d": (lambda x: F.avg_pool2d(x, 2), [(0, 2, 4, 4)], (0, 2, 2, 2)),
    "GRU": (lambda x: cells._memory_and_update(None, x, 0.1), [(0, 6, 2, 2)], (2, 0, 2, 2, 2)),
    "sum": (lambda x: x.sum(axis=0), [(0, 3)], (3,)),
    "max along another axis": (lambda x: x.max(axis=1), [(0, 3)], (0,)),
    "min along another axis": (lambda x: x.min(axis=1), [(0, 3)], (0,)),
    "mean along another axis": (lambda x: x.mean(axis=1), [(0, 3)], (0,)),
    "cumsum": (lambda x: P.cumsum(x, axis=0), [(0, 3)], (0, 3)),
    "matmul": (operator.matmul, [(2, 0), (0, 3)], (2, 3)),
    **{
        name: (getattr(F, name), [(0, 3)], (0, 3))
        for name in "relu leaky_relu silu gelu tanh sigmoid".split()
    },
    **{
        name: (getattr(P, name), [(2, 0)], (2, 0))
        for name in "exp log erfc sqrt absolute negative".split()
    },
}


@both_versions
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "uint8", "bool"])
@pytest.mark.parametrize("what", EMPTY)
def test_of_nothing(what: str, dtype: str, version: str) -> None:
    """An empty result, or sums of nothing, which are 0; and gradients of 0 for what was there."""
    f, shapes, shape = EMPTY[what]
    trained = dtype.startswith("float")
    xs = [Tensor(np.ones(s, dtype), requires_grad=trained) for s in shapes]
    with VERSIONS[version]():
        out = f(*xs)
        assert out.shape == shape
        if trained:
            assert out.dtype == dtype
            out.backward(np.ones(shape))
    has_bias = "channels" in what and len(xs) == 3
    assert not out.size or (out.data == has_bias).all()
    for x in xs:
        assert (x.grad is not None) == trained
        if x.grad is not None:
            assert x.grad.shape == x.shape


@both_versions
@pytest.mark.parametrize("dtype", ["float64", "float16", "uint8"])
def test_nothing_that_has_no_answer_is_an_error(dtype: str, version: str) -> None:
    x = tensor(np.ones((0, 3)), dtype=dtype)
    with VERSIONS[version]():
        for wrong, words in [
            (lambda: x.mean(), "mean of nothing"),
            (lambda: x.mean(axis=0), "mean of nothing"),
            (lambda: x.max(), r"max\("),
            (lambda: x.min(axis=0), r"min\("),
            (lambda: F.cross_entropy(x, np.zeros(0, int)), "cross_entropy: no targets"),
            (lambda: F.softmax(x, 2), "axis 2"),
            (lambda: F.log_softmax(x, 2), "axis 2"),
        ]:
            with pytest.raises(ValueError, match=words):
                wrong()


# ---- nothing is left out -----------------------------------------------------------------------


def test_every_function_and_every_method_is_in_the_sweep() -> None:
    covered = {name for case in CASES for name in case.names.split()}
    missing = set(F.__all__) - covered
    assert not missing, f"cases() in tests/engine/test_dtypes.py: add {sorted(missing)}"
    modules = (P, convolution, preference)
    primitives = {p.name for m in modules for p in vars(m).values() if isinstance(p, Primitive)}
    assert primitives - {"astype"} <= covered
    functions = {
        name for name, f in vars(P).items()
        if getattr(f, "__module__", "") == P.__name__ and name[0].islower()
    }
    assert functions <= covered | {"astype"}
    not_of_numbers = {
        "__array__", "__array_ufunc__", "__bool__", "__doc__", "__float__", "__hash__", "__init__",
        "__iter__", "__len__", "__module__", "__reduce__", "__repr__", "__slots__", "__weakref__",
        "array", "astype", "lent",
        "backward", "birth", "data", "device", "dtype", "grad", "item", "ndim",
        "origin", "requires_grad", "shape", "size", "__annotations__", "__firstlineno__",
        "__static_attributes__",
    }
    assert set(vars(Tensor)) - not_of_numbers <= covered


def test_every_kernel_has_a_rule() -> None:
    """But those of dropout and pooling, whose callers have applied it."""
    fused = [
        f for m in (F, convolution, cells) for f in vars(m).values() if isinstance(f, Fused)
    ]
    without = {f.name for f in fused if f.dtype_rule is dtypes.EXACT}
    assert without == {"_dropped", "_largest_in_windows", "_means_of_windows"}


# ---- arrays and lists where tensors are expected -----------------------------------------------


@both_versions
@each(lambda c: c.names in F.__all__)
def test_arrays_and_lists_are_constants(case: Case, version: str) -> None:
    for dtype in ("float64", "float32", "int64"):
        arrays = of(case, dtype)
        with VERSIONS[version]():
            expected = case.f(*map(tensor, arrays))
            found = case.f(*arrays)
            from_lists = case.f(*(a.tolist() for a in arrays))
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found.data, expected.data)
        np.testing.assert_allclose(from_lists.data, expected.data, rtol=1e-4, atol=1e-4)
        assert isinstance(from_lists, Tensor)
