"""Whatever way an array lies in memory, and whatever numbers it holds, the answer is the same.

Each function takes the same numbers as a view with steps, backwards, in Fortran's order, repeated
without being copied, read-only, unaligned, in the other byte order. Kernel and reading version
must give what they give for a plain copy, and go on to the same gradients.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import minimono as mm
from minimono.engine import functional as F
from minimono.engine import primitives as P
from minimono.engine.tensor import Tensor
from minimono.mono.monoloss import mono_loss
from minimono.mono.preference import log_sigmoid

TARGETS = np.array([3, 0, 5])
IDS = np.array([[1, 0], [3, 3]])
MASK = np.array([[True, False, True, True], [True, True, True, False]])

# Name: the function of tensors, and the shapes of the arrays it takes.
FUNCTIONS: dict[str, tuple[Callable[..., Tensor], tuple[tuple[int, ...], ...]]] = {
    **{f.name: (f, ((3, 4, 6), (4, 6))) for f in (
        P.add, P.subtract, P.multiply, P.divide, P.maximum, P.minimum)},
    "power": (lambda x, y: abs(x) ** y, ((3, 4, 6), (4, 6))),
    **{f.name: (f, ((3, 4, 6),)) for f in (
        P.negative, P.absolute, P.exp, P.sin, P.cos, P.tanh, F.sigmoid, P.erfc)},
    "log": (lambda x: P.log(abs(x)), ((3, 4, 6),)),
    "log1p": (lambda x: P.log1p(abs(x)), ((3, 4, 6),)),
    "sqrt": (lambda x: P.sqrt(abs(x)), ((3, 4, 6),)),
    "where": (lambda x, y: P.where(x > y, x, y), ((3, 4, 6), (4, 6))),
    "matmul": (P.matmul, ((3, 4, 6), (6, 4))),
    "sum": (lambda x: x.sum(axis=(0, 2)), ((3, 4, 6),)),
    "mean": (lambda x: x.mean(axis=1), ((3, 4, 6),)),
    "max": (lambda x: x.max(axis=0), ((3, 4, 6),)),
    "min": (lambda x: x.min(axis=-1), ((3, 4, 6),)),
    "cumsum": (lambda x: P.cumsum(x, axis=1), ((3, 4, 6),)),
    "flip": (lambda x: P.flip(x, axis=1), ((3, 4, 6),)),
    "reshape": (lambda x: x.reshape(4, 18), ((3, 4, 6),)),
    "transpose": (lambda x: x.transpose(2, 0, 1), ((3, 4, 6),)),
    "swapaxes": (lambda x: x.swapaxes(0, 2), ((3, 4, 6),)),
    "broadcast_to": (lambda x: P.broadcast_to(x, (2, 3, 4, 6)), ((3, 4, 6),)),
    "pad": (lambda x: P.pad(x, ((1, 0), (0, 2), (0, 0))), ((3, 4, 6),)),
    "concatenate": (lambda x, y: P.concatenate(x, y, axis=1), ((3, 4, 6), (3, 2, 6))),
    "stack": (lambda x, y: P.stack([x, y], axis=1), ((4, 6), (4, 6))),
    "getitem, slices": (lambda x: x[1:, ::-2, None, 3], ((3, 4, 6),)),
    "getitem, indices": (lambda x: x[[0, 2, 2], :, [1, 5, 1]], ((3, 4, 6),)),
    "scatter_add": (lambda x: P.scatter_add(x, (np.array([0, 2, 0]),), (4, 4, 6)), ((3, 4, 6),)),
    "relu": (F.relu, ((3, 4, 6),)),
    "leaky_relu": (lambda x: F.leaky_relu(x, 0.2), ((3, 4, 6),)),
    "silu": (F.silu, ((3, 4, 6),)),
    "gelu": (F.gelu, ((3, 4, 6),)),
    "gelu, tanh": (lambda x: F.gelu(x, "tanh"), ((3, 4, 6),)),
    "log_sigmoid": (log_sigmoid, ((3, 4, 6),)),
    "mono_loss": (
        lambda z: mono_loss(z, np.vander([1.0, 2.0, 3.0, 5.0], 3)), ((4, 6),)
    ),
    "softmax": (F.softmax, ((3, 4, 6),)),
    "softmax, axis 1": (lambda x: F.softmax(x, axis=1), ((3, 4, 6),)),
    "log_softmax": (F.log_softmax, ((3, 4, 6),)),
    "cross_entropy": (lambda x: F.cross_entropy(x, TARGETS), ((3, 6),)),
    "layer_norm": (F.layer_norm, ((3, 4, 6), (6,), (6,))),
    "rms_norm": (F.rms_norm, ((3, 4, 6), (6,))),
    "linear": (F.linear, ((3, 4, 6), (5, 6), (5,))),
    "embedding": (lambda w: F.embedding(IDS, w), ((4, 6),)),
    "attention": (F.scaled_dot_product_attention, ((2, 3, 4, 6), (2, 3, 5, 6), (2, 3, 5, 2))),
    "self_attention": (lambda x: F.self_attention(x, mask=MASK, is_causal=True),
                       ((2, 4, 3, 2, 3),)),
    "dropout": (lambda x: F.dropout(x, 0.4, rng=np.random.default_rng(1)), ((3, 4, 6),)),
    "conv2d": (lambda x, w, b: F.conv2d(x, w, b, stride=(1, 2), padding=1),
               ((2, 3, 5, 6), (4, 3, 3, 2), (4,))),
    "conv_transpose2d": (lambda x, w, b: F.conv_transpose2d(x, w, b, stride=2, padding=1),
                         ((2, 3, 4, 3), (3, 2, 3, 3), (2,))),
    "max_pool2d": (lambda x: F.max_pool2d(x, 2, padding=1), ((2, 3, 5, 6),)),
    "avg_pool2d": (lambda x: F.avg_pool2d(x, (2, 3), stride=2), ((2, 3, 5, 6),)),
}


# ---- ways to lie in memory -----------------------------------------------------------------------


def with_steps(a: Any) -> Any:
    wide = np.full([2 * n for n in a.shape], np.nan, a.dtype)
    view = wide[(slice(1, None, 2),) * a.ndim]
    view[...] = a
    return view


def backwards(a: Any) -> Any:
    every = (slice(None, None, -1),) * a.ndim
    return np.ascontiguousarray(a[every])[every]


def repeated(a: Any) -> Any:
    """One row, seen again and again: a step of 0 bytes."""
    return np.broadcast_to(a[:1], a.shape)


def read_only(a: Any) -> Any:
    a = a.copy()
    a.flags.writeable = False
    return a


def unaligned(a: Any) -> Any:
    room = np.empty(a.nbytes + 1, np.uint8)
    view = room[1:].view(a.dtype).reshape(a.shape)
    view[...] = a
    return view


def byte_swapped(a: Any) -> Any:
    return a.astype(a.dtype.newbyteorder())


def inner_axes_first(a: Any) -> Any:
    """Neither C's nor Fortran's order."""
    order = [*range(1, a.ndim), 0]
    return np.ascontiguousarray(a.transpose(order)).transpose(np.argsort(order))


LAYOUTS = [
    with_steps, backwards, np.asfortranarray, inner_axes_first, repeated, read_only, unaligned,
    byte_swapped,
]


# ---- the tests -----------------------------------------------------------------------------------


def ordinary(shape: tuple[int, ...], seed: int) -> Any:
    return np.random.default_rng(seed).standard_normal(shape)


def outcome(
    f: Callable[..., Tensor], arrays: list[Any], cotangent: Any = None, make: Any = Tensor
) -> list[Any]:
    """The value and the gradients, by `backward`."""
    tensors = [make(a, requires_grad=True) for a in arrays]
    output = f(*tensors)
    if cotangent is None:
        cotangent = slanted(output.shape)
    output.backward(cotangent)
    return [output.data, *(t.grad for t in tensors)]


def slanted(shape: tuple[int, ...]) -> Any:
    """A cotangent without symmetry."""
    return np.cos(1.0 + np.arange(np.prod(shape, dtype=int))).reshape(shape)


def assert_close(found: list[Any], right: list[Any], dtype: Any) -> None:
    several = 64.0 * np.finfo(dtype).eps  # sums of other orders
    for got, expected in zip(found, right, strict=True):
        assert got.shape == expected.shape
        size = np.abs(expected[np.isfinite(expected)]).max(initial=0.0)
        np.testing.assert_allclose(got, expected, rtol=several, atol=several * size)


@pytest.fixture(params=["kernel", "reading version"])
def version(request: pytest.FixtureRequest) -> Iterator[str]:
    with mm.reference() if request.param == "reading version" else nullcontext():
        yield request.param


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_same_numbers_however_they_lie(version: str, name: str, dtype: Any) -> None:
    f, shapes = FUNCTIONS[name]
    plain = [ordinary(shape, i).astype(dtype) for i, shape in enumerate(shapes)]
    right = outcome(f, plain)
    for layout in LAYOUTS:
        views = [layout(a) for a in plain]
        before = [v.tobytes() for v in views]
        make = mm.tensor if layout is byte_swapped else Tensor
        found = outcome(f, views, make=make)
        of_same = outcome(f, [v.astype(dtype, order="C") for v in views])
        assert_close(found, right if layout is not repeated else of_same, dtype)
        assert [a.dtype for a in found] == [dtype] * len(found)
        assert before == [v.tobytes() for v in views]  # nothing was written to

        if right[0].ndim:
            cotangent = slanted(right[0].shape)
            of_copy = outcome(f, plain, layout(cotangent).copy())
            assert_close(outcome(f, plain, layout(cotangent)), of_copy, dtype)


EXTREME = np.array(
    [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 5e-324, -1e-310, 2e-308, 1e300, -1e300, 700.0,
     -750.0, 40.0, -40.0]
)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_kernel_and_reading_version_agree_on_the_ends_of_the_line(name: str) -> None:
    """Subnormal, infinite, not a number: the same value, the same places of nan."""
    f, shapes = FUNCTIONS[name]
    rng = np.random.default_rng(0)
    for trial in range(20):
        dtype = [np.float64, np.float32][trial % 2]
        with np.errstate(all="ignore"):
            line = EXTREME.astype(dtype)
            if name in ("sum", "mean"):  # what is lost beside 1e300 depends on the order
                line = line[abs(line) != dtype(1e300)]
            arrays = [
                np.where(rng.random(shape) < 0.1, rng.choice(line, shape), ordinary(shape, i + 1))
                .astype(dtype) for i, shape in enumerate(shapes)
            ]
            if name == "attention":  # a subnormal share is 0 in the kernel, and 0 times inf is nan
                arrays[2] = ordinary(shapes[2], 0).astype(dtype)
            kernel = [f(*map(Tensor, arrays)).data]
            with mm.reference():
                reading = [f(*map(Tensor, arrays)).data]
            assert_close(kernel, reading, dtype)


OF_ONE_NUMBER = (
    "negative absolute exp sin cos tanh sigmoid erfc log log1p sqrt relu leaky_relu silu "
    "gelu log_sigmoid dropout"
).split()


@pytest.mark.parametrize("name", [*OF_ONE_NUMBER, "gelu, tanh"])
def test_without_axes_and_without_elements(version: str, name: str) -> None:
    """The answer for a number is that for a row of it; where there is nothing, nothing comes."""
    f, _ = FUNCTIONS[name]
    number = outcome(f, [np.array(0.3)])
    row = outcome(f, [np.array([0.3])])
    assert [a.shape for a in number] == [(), ()]
    np.testing.assert_allclose(number, [a[0] for a in row], rtol=1e-15)
    for shape in (0,), (3, 0), (0, 4):
        assert [a.shape for a in outcome(f, [np.empty(shape)])] == [shape, shape]


# ---- what is no array of numbers -----------------------------------------------------------------

STRANGERS = {
    "complex number": 1j,
    "complex array": np.array([1j, 2.0]),
    "long float": np.ones(2, np.longdouble),
    "objects": np.array([1.0, 2.5], object),
    "fraction": Fraction(1, 2),
    "decimal": Decimal("0.5"),
    "list of fractions": [Fraction(1, 2), Fraction(1, 3)],
    "dates": np.array(["2020-01-01", "2020-01-02"], "M8[D]"),
    "durations": np.array([1, 2], "m8[D]"),
    "structure": np.zeros(2, [("a", "f4")]),
    "text": "a",
    "nothing": None,
    "masked": np.ma.array([1.0, 2.0], mask=[True, False]),
}
OPERATORS = {
    "add": lambda x, y: x + y, "subtract": lambda x, y: x - y, "multiply": lambda x, y: x * y,
    "divide": lambda x, y: x / y, "power": lambda x, y: x**y,
    "add, swapped": lambda x, y: y + x, "divide, swapped": lambda x, y: y / x,
    "power, swapped": lambda x, y: y**x, "less": lambda x, y: x < y,
    "maximum": P.maximum, "where": lambda x, y: P.where(np.array([True, False]), x, y),
}


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("stranger", STRANGERS)
def test_what_is_no_array_of_numbers_is_refused_beside_a_tensor(
    stranger: str, operator: str
) -> None:
    if np.dtype(np.longdouble).itemsize == 8 and stranger == "long float":
        pytest.skip("here it is no longer than float64")
    x = mm.tensor([1.0, 2.0], requires_grad=True)
    if (stranger, operator) == ("fraction", "power, swapped"):
        pytest.skip("a fraction makes itself a float there")
    with pytest.raises(TypeError, match=rf"^{operator.split(',')[0]}[(:]"):
        OPERATORS[operator](x, STRANGERS[stranger])


@pytest.mark.parametrize("stranger", [s for s in STRANGERS if s != "list of fractions"])
def test_what_is_no_array_of_numbers_makes_no_tensor(stranger: str) -> None:
    if np.dtype(np.longdouble).itemsize == 8 and stranger == "long float":
        pytest.skip("here it is no longer than float64")
    with pytest.raises(TypeError, match=r"^tensor: data"):
        mm.tensor(STRANGERS[stranger])
    if stranger == "long float":
        with pytest.raises(TypeError, match=r"^tensor: dtype is"):
            mm.tensor([1.0], dtype=np.longdouble)


def test_a_matrix_is_an_array_like_any_other() -> None:
    """Beside an array of NumPy's, `*` would be its matrix product."""
    with warnings.catch_warnings(action="ignore"):
        matrix = np.matrix([[1.0, 2.0], [3.0, 4.0]])
    product = mm.tensor([10.0, 20.0]) * matrix
    assert product.data.tolist() == [[10.0, 40.0], [30.0, 80.0]]
    assert type(product.data) is np.ndarray


def test_the_other_byte_order_ends_at_the_door() -> None:
    swapped = np.array([1.0, 2.0], np.dtype(np.float32).newbyteorder())
    x = mm.tensor(swapped, requires_grad=True)
    assert x.dtype == np.float32
    assert (mm.tensor([1.0, 2.0], dtype=np.float32) + swapped).dtype == np.float32
    (x * x).sum().backward()
    mm.optim.Adam([x], lr=0.1).step()
    np.testing.assert_allclose(x.data, [0.9, 1.9], rtol=1e-6)
