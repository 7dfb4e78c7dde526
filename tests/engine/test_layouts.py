"""Whatever way an array lies in memory, and whatever numbers it holds, the answer is the same.

Each function takes the same numbers as a view with steps, backwards, in Fortran's order, repeated
without being copied, read-only, unaligned, in the other byte order. Kernel and reading version
must give what they give for a plain copy, and go on to the same gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest

import minimono as mm
from minimono.engine import functional as F
from minimono.engine import primitives as P
from minimono.engine.tensor import Tensor
from minimono.mono.preference import log_sigmoid

TARGETS = np.array([3, 0, 5])
IDS = np.array([[1, 0], [3, 3]])
MASK = np.arange(12).reshape(3, 4) % 3 != 1

# Name: the function of tensors, and the shapes of the arrays it takes.
FUNCTIONS: dict[str, tuple[Callable[..., Tensor], tuple[tuple[int, ...], ...]]] = {
    **{f.name: (f, ((3, 4, 6), (4, 6))) for f in (
        P.add, P.subtract, P.multiply, P.divide, P.maximum, P.minimum)},
    "power": (lambda x, y: abs(x) ** y, ((3, 4, 6), (4, 6))),
    **{f.name: (f, ((3, 4, 6),)) for f in (
        P.negative, P.absolute, P.exp, P.expm1, P.sin, P.cos, P.tanh, P.sigmoid, P.erfc)},
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
    "softmax": (F.softmax, ((3, 4, 6),)),
    "softmax, axis 1": (lambda x: F.softmax(x, axis=1), ((3, 4, 6),)),
    "log_softmax": (F.log_softmax, ((3, 4, 6),)),
    "cross_entropy": (lambda x: F.cross_entropy(x, TARGETS), ((3, 6),)),
    "layer_norm": (F.layer_norm, ((3, 4, 6), (6,), (6,))),
    "rms_norm": (F.rms_norm, ((3, 4, 6), (6,))),
    "linear": (F.linear, ((3, 4, 6), (5, 6), (5,))),
    "embedding": (lambda w: F.embedding(IDS, w), ((4, 6),)),
    "attention": (F.scaled_dot_product_attention, ((2, 3, 4, 6), (2, 3, 5, 6), (2, 3, 5, 2))),
    "self_attention": (lambda x: F.self_attention(x, mask=MASK[:2], is_causal=True),
                       ((2, 4, 3, 2, 3),)),
    "dropout": (lambda x: F.dropout(x, 0.4, rng=np.random.default_rng(1)), ((3, 4, 6),)),
    "conv2d": (lambda x, w, b: F.conv2d(x, w, b, stride=(1, 2), padding=1),
               ((2, 3, 5, 6), (4, 3, 3, 2), (4,))),
    "conv_transpose2d": (lambda x, w, b: F.conv_transpose2d(x, w, b, stride=2, padding=1),
                         ((2, 3, 4, 3), (3, 2, 3, 3), (2,))),
    "max_pool2d": (lambda x: F.max_pool2d(x, 2, padding=1), ((2, 3, 5, 6),)),
    "avg_pool2d": (lambda x: F.avg_pool2d(x, (2, 3), stride=2), ((2, 3, 5, 6),)),
}  # fmt: skip


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
]  # fmt: skip


# ---- the tests -----------------------------------------------------------------------------------


def ordinary(shape: tuple[int, ...], seed: int) -> Any:
    return np.random.default_rng(seed).standard_normal(shape)


def outcome(f: Callable[..., Tensor], arrays: list[Any], cotangent: Any = None) -> list[Any]:
    """The value and the gradients, by `backward`."""
    tensors = [Tensor(a, requires_grad=True) for a in arrays]
    output = f(*tensors)
    if cotangent is None:
        cotangent = np.cos(1.0 + np.arange(output.size)).reshape(output.shape)
    output.backward(cotangent)
    return [output.data, *(t.grad for t in tensors)]


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


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_same_numbers_however_they_lie(
    version: str, name: str, layout: Callable[[Any], Any]
) -> None:
    f, shapes = FUNCTIONS[name]
    for dtype in np.float64, np.float32:
        views = [layout(ordinary(shape, i).astype(dtype)) for i, shape in enumerate(shapes)]
        plain = [np.array(v, dtype, order="C") for v in views]
        before = [v.tobytes() for v in views]
        found, right = outcome(f, views), outcome(f, plain)
        assert_close(found, right, dtype)
        assert found[0].dtype == dtype
        assert before == [v.tobytes() for v in views]  # and nothing was written to

        cotangent = np.cos(1.0 + np.arange(right[0].size)).reshape(right[0].shape)
        assert_close(outcome(f, plain, layout(np.atleast_1d(cotangent)).reshape(cotangent.shape)),
                     outcome(f, plain, cotangent) if layout is not repeated else
                     outcome(f, plain, repeated(np.atleast_1d(cotangent)).copy().reshape(
                         cotangent.shape)), dtype)  # fmt: skip
