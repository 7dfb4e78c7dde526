"""The operations that `operations.py` times: ours, PyTorch's, and what both are given.

A row has a name, a function of our tensors, one of PyTorch's, and a maker of inputs for each of
three sizes: for most, the first fits into the innermost cache of a core, the second into the next,
and the third into none of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as T

import minimono as mm
from minimono.engine import functional as F
from minimono.engine import primitives as P

Make = Callable[..., Sequence[Any]]  # (rng, *size) -> arrays

FLAT = (32, 32), (256, 512), (1024, 2048)
ROWS = (32, 64), (512, 256), (2048, 1024)
PRODUCTS = (32, 32, 32), (256, 256, 256), (1024, 1024, 1024)  # rows, inner, columns
STACKS = (4, 32, 32, 32), (16, 64, 64, 64), (64, 128, 128, 128)
LINEAR = (64, 64, 128), (256, 256, 512), (2048, 512, 1024)  # rows, channels in and out
CLASSES = (64, 10), (512, 256), (2048, 2048)
PICKED = (64, 16), (1024, 64), (32768, 256)  # rows of a table, and their length
IMAGES = (2, 3, 8, 12), (8, 8, 16, 24), (16, 32, 32, 32)  # samples, channels, out, side
ATTENTION = (2, 2, 16, 16), (4, 4, 64, 32), (8, 8, 256, 32)  # samples, heads, positions, channels
PARAMETERS = ((4, 32), (12, 128), (12, 1024))  # how many square matrices, their side


@dataclass(frozen=True)
class Row:
    """An operation; `constants`: how many inputs, the last ones, have no gradient."""

    name: str
    ours: Callable[..., Any]
    theirs: Callable[..., Any]
    make: Make
    sizes: Sequence[Sequence[int]]
    constants: int = 0
    same: bool = True  # whether both return the same numbers, but for rounding


def normal(rng: Any, *shape: int) -> list[Any]:
    return [rng.standard_normal(shape)]


def pair(rng: Any, *shape: int) -> list[Any]:
    return normal(rng, *shape) + normal(rng, *shape)


def positive(rng: Any, *shape: int) -> list[Any]:
    return [0.5 + rng.random(shape)]


def positive_pair(rng: Any, *shape: int) -> list[Any]:
    return positive(rng, *shape) + positive(rng, *shape)


def with_row(rng: Any, rows: int, columns: int) -> list[Any]:
    return normal(rng, rows, columns) + normal(rng, columns)


def with_rows(rng: Any, rows: int, columns: int) -> list[Any]:
    return with_row(rng, rows, columns) + normal(rng, columns)


def with_condition(rng: Any, *shape: int) -> list[Any]:
    return [*pair(rng, *shape), rng.random(shape) < 0.5]


def product(rng: Any, *size: int) -> list[Any]:
    *stack, n, inner, m = size
    return normal(rng, *stack, n, inner) + normal(rng, *stack, inner, m)


def linear(rng: Any, rows: int, inside: int, outside: int) -> list[Any]:
    return [*normal(rng, rows, inside), *normal(rng, outside, inside), *normal(rng, outside)]


def with_targets(rng: Any, rows: int, classes: int) -> list[Any]:
    return [*normal(rng, rows, classes), rng.integers(0, classes, rows)]


def with_ids(rng: Any, rows: int, channels: int) -> list[Any]:
    return [*normal(rng, rows, channels), rng.integers(0, rows, rows)]


def with_places(rng: Any, rows: int, columns: int) -> list[Any]:
    places = [rng.integers(0, n, 4 * rows) for n in (rows, columns)]
    return [*normal(rng, rows, columns), *places]


def with_mask(rng: Any, *shape: int) -> list[Any]:
    return [*normal(rng, *shape), rng.random(shape) < 0.3]


def images(rng: Any, samples: int, channels: int, outside: int, side: int) -> list[Any]:
    return normal(rng, samples, channels, side, side)


def convolution(rng: Any, samples: int, channels: int, outside: int, side: int) -> list[Any]:
    return [
        *normal(rng, samples, channels, side, side), *normal(rng, outside, channels, 3, 3),
        *normal(rng, outside),
    ]


def laid_down(rng: Any, samples: int, channels: int, outside: int, side: int) -> list[Any]:
    x, weight, bias = convolution(rng, samples, channels, outside, side)
    return [x, weight.swapaxes(0, 1).copy(), bias]


def heads(rng: Any, B: int, H: int, T: int, D: int) -> list[Any]:
    return [rng.standard_normal((B, H, T, D)) for _ in range(3)]


def packed(rng: Any, B: int, H: int, T: int, D: int) -> list[Any]:
    return normal(rng, B, T, 3, H, D)


def with_angles(rng: Any, B: int, H: int, T: int, D: int) -> list[Any]:
    angles = rng.standard_normal((T, D // 2))
    return [rng.standard_normal((B, T, H, D)), np.cos(angles), np.sin(angles)]


def _torch_rotary(x: Any, cos: Any, sin: Any) -> Any:
    """As in transformers: `rotate_half`, and each angle twice."""
    cos, sin = (torch.cat((part, part), -1)[:, None] for part in (cos, sin))
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


def _torch_packed(qkv: Any, is_causal: bool) -> Any:
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    return T.scaled_dot_product_attention(q, k, v, is_causal=is_causal).transpose(1, 2)


def _torch_placed(values: Any, i: Any, j: Any, shape: tuple[int, ...]) -> Any:
    return torch.zeros(shape, dtype=values.dtype).index_put((i, j), values, accumulate=True)


def _placed(rng: Any, rows: int, columns: int) -> list[Any]:
    _, i, j = with_places(rng, rows, columns)
    return [*normal(rng, len(i)), i, j]


_rng = np.random.default_rng(0)

BY_ELEMENT = [
    Row("x + y", lambda x, y: x + y, lambda x, y: x + y, pair, FLAT),
    Row("x + row", lambda x, y: x + y, lambda x, y: x + y, with_row, ROWS),
    Row("x - y", lambda x, y: x - y, lambda x, y: x - y, pair, FLAT),
    Row("x y", lambda x, y: x * y, lambda x, y: x * y, pair, FLAT),
    Row("x / y", lambda x, y: x / y, lambda x, y: x / y, positive_pair, FLAT),
    Row("2 x", lambda x: 2.0 * x, lambda x: 2.0 * x, normal, FLAT),
    Row("-x", lambda x: -x, lambda x: -x, normal, FLAT),
    Row("x²", lambda x: x**2, lambda x: x**2, normal, FLAT),
    Row("x to the y", lambda x, y: x**y, lambda x, y: x**y, positive_pair, FLAT),
    Row("abs", abs, abs, normal, FLAT),
    Row("exp", P.exp, torch.exp, normal, FLAT),
    Row("log", P.log, torch.log, positive, FLAT),
    Row("log1p", P.log1p, torch.log1p, positive, FLAT),
    Row("sqrt", P.sqrt, torch.sqrt, positive, FLAT),
    Row("sin", P.sin, torch.sin, normal, FLAT),
    Row("cos", P.cos, torch.cos, normal, FLAT),
    Row("erfc", P.erfc, torch.erfc, normal, FLAT),
    Row("maximum", P.maximum, torch.maximum, pair, FLAT),
    Row("minimum", P.minimum, torch.minimum, pair, FLAT),
    Row("where", lambda x, y, c: P.where(c, x, y), lambda x, y, c: torch.where(c, x, y),
        with_condition, FLAT, 1),
    Row("x < y", lambda x, y: x < y, lambda x, y: x < y, pair, FLAT, 2),
    Row("x == y", lambda x, y: x == y, lambda x, y: x == y, pair, FLAT, 2),
    Row("sigmoid", F.sigmoid, torch.sigmoid, normal, FLAT),
    Row("tanh", F.tanh, torch.tanh, normal, FLAT),
    Row("relu", F.relu, T.relu, normal, FLAT),
    Row("leaky_relu", lambda x: F.leaky_relu(x, 0.2), lambda x: T.leaky_relu(x, 0.2), normal, FLAT),
    Row("silu", F.silu, T.silu, normal, FLAT),
    Row("swiglu", F.swiglu, lambda gate, up: T.silu(gate) * up, pair, FLAT),
    Row("gelu", F.gelu, T.gelu, normal, FLAT),
    Row("gelu, tanh", lambda x: F.gelu(x, "tanh"), lambda x: T.gelu(x, approximate="tanh"),
        normal, FLAT),
    Row("dropout", lambda x: F.dropout(x, 0.1, rng=_rng), lambda x: T.dropout(x, 0.1), normal, FLAT,
        same=False),
]

SHAPES = [
    Row("reshape", lambda x: x.reshape(-1), lambda x: x.reshape(-1), normal, ROWS),
    Row("transpose", lambda x: x.T, lambda x: x.T, normal, ROWS),
    Row("swapaxes", lambda x: x.swapaxes(0, 1), lambda x: x.swapaxes(0, 1), normal, ROWS),
    Row("broadcast_to", lambda x: P.broadcast_to(x, (4, *x.shape)),
        lambda x: torch.broadcast_to(x, (4, *x.shape)), normal, ROWS),
    Row("pad", lambda x: P.pad(x, ((1, 1), (1, 1))), lambda x: T.pad(x, (1, 1, 1, 1)), normal,
        ROWS),
    Row("concatenate", lambda x, y: P.concatenate(x, y, axis=0), lambda x, y: torch.cat([x, y]),
        pair, ROWS),
    Row("stack", lambda x, y: P.stack([x, y]), lambda x, y: torch.stack([x, y]), pair, ROWS),
    Row("flip", lambda x: P.flip(x, axis=1), lambda x: torch.flip(x, (1,)), normal, ROWS),
    Row("astype", lambda x: x.astype(_other(x.dtype)),
        lambda x: x.to(torch.float64 if x.dtype == torch.float32 else torch.float32), normal, ROWS),
    Row("x[slice]", lambda x: x[:, 1:-1], lambda x: x[:, 1:-1], normal, ROWS),
    Row("x[number]", lambda x: x[3], lambda x: x[3], normal, ROWS),
    Row("x[numbers]", lambda x, i: x[i], lambda x, i: x[i], with_ids, PICKED, 1),
    Row("x[numbers, numbers]", lambda x, i, j: x[i, j], lambda x, i, j: x[i, j], with_places,
        PICKED, 2),
    Row("x[mask]", lambda x, m: x[m], lambda x, m: x[m], with_mask, ROWS, 1),
    Row("scatter_add", lambda v, i, j: P.scatter_add(v, (i, j), (len(i.data) // 4, 64)),
        lambda v, i, j: _torch_placed(v, i, j, (len(i) // 4, 64)), _placed,
        ((64, 64), (1024, 64), (32768, 64)), 2),
    Row("embedding", lambda w, i: F.embedding(i, w), lambda w, i: T.embedding(i, w), with_ids,
        PICKED, 1),
]

ALONG_AXES = [
    Row("sum", lambda x: x.sum(), lambda x: x.sum(), normal, ROWS),
    Row("sum, axis 0", lambda x: x.sum(axis=0), lambda x: x.sum(0), normal, ROWS),
    Row("sum, axis -1", lambda x: x.sum(axis=-1), lambda x: x.sum(-1), normal, ROWS),
    Row("mean, axis 0", lambda x: x.mean(axis=0), lambda x: x.mean(0), normal, ROWS),
    Row("mean, axis -1", lambda x: x.mean(axis=-1), lambda x: x.mean(-1), normal, ROWS),
    Row("max", lambda x: x.max(), lambda x: x.amax(), normal, ROWS),
    Row("max, axis 0", lambda x: x.max(axis=0), lambda x: x.amax(0), normal, ROWS),
    Row("max, axis -1", lambda x: x.max(axis=-1), lambda x: x.amax(-1), normal, ROWS),
    Row("min, axis -1", lambda x: x.min(axis=-1), lambda x: x.amin(-1), normal, ROWS),
    Row("cumsum, axis 0", lambda x: P.cumsum(x, axis=0), lambda x: x.cumsum(0), normal, ROWS),
    Row("cumsum, axis -1", lambda x: P.cumsum(x), lambda x: x.cumsum(-1), normal, ROWS),
    Row("softmax", F.softmax, lambda x: x.softmax(-1), normal, ROWS),
    Row("softmax, axis 0", lambda x: F.softmax(x, axis=0), lambda x: x.softmax(0), normal, ROWS),
    Row("log_softmax", F.log_softmax, lambda x: x.log_softmax(-1), normal, ROWS),
    Row("log_softmax, axis 0", lambda x: F.log_softmax(x, axis=0), lambda x: x.log_softmax(0),
        normal, ROWS),
    Row("cross_entropy", F.cross_entropy, T.cross_entropy, with_targets, CLASSES, 1),
    Row("layer_norm", F.layer_norm, lambda x, w, b: T.layer_norm(x, x.shape[-1:], w, b), with_rows,
        ROWS),
    Row("rms_norm", F.rms_norm, lambda x, w: T.rms_norm(x, x.shape[-1:], w, 1e-5), with_row, ROWS),
]

PRODUCTS_OF_MATRICES = [
    Row("x @ y", lambda x, y: x @ y, lambda x, y: x @ y, product, PRODUCTS),
    Row("x @ y, stacks", lambda x, y: x @ y, lambda x, y: x @ y, product, STACKS),
    Row("linear", F.linear, T.linear, linear, LINEAR),
    Row("rotary_embedding", F.rotary_embedding, _torch_rotary, with_angles, ATTENTION, 2),
    Row("linear_relu", F.linear_relu, lambda x, w, b: T.relu(T.linear(x, w, b)), linear, LINEAR),
    Row("scaled_dot_product_attention", F.scaled_dot_product_attention,
        T.scaled_dot_product_attention, heads, ATTENTION),
    Row("scaled_dot_product_attention, causal",
        partial(F.scaled_dot_product_attention, is_causal=True),
        partial(T.scaled_dot_product_attention, is_causal=True), heads, ATTENTION),
    Row("self_attention", F.self_attention, partial(_torch_packed, is_causal=False), packed,
        ATTENTION),
    Row("self_attention, causal", partial(F.self_attention, is_causal=True),
        partial(_torch_packed, is_causal=True), packed, ATTENTION),
    Row("conv2d", lambda *a: F.conv2d(*a, padding=1), lambda *a: T.conv2d(*a, padding=1),
        convolution, IMAGES),
    Row("conv2d, stride 2", lambda *a: F.conv2d(*a, stride=2), lambda *a: T.conv2d(*a, stride=2),
        convolution, IMAGES),
    Row("conv_transpose2d", lambda *a: F.conv_transpose2d(*a, stride=2),
        lambda *a: T.conv_transpose2d(*a, stride=2), laid_down, IMAGES),
    Row("max_pool2d", lambda x: F.max_pool2d(x, 2), lambda x: T.max_pool2d(x, 2), images, IMAGES),
    Row("max_pool2d 3, stride 2, padding 1",
        lambda x: F.max_pool2d(x, 3, stride=2, padding=1),
        lambda x: T.max_pool2d(x, 3, stride=2, padding=1), images, IMAGES),
    Row("avg_pool2d", lambda x: F.avg_pool2d(x, 2), lambda x: T.avg_pool2d(x, 2), images, IMAGES),
]

ROWS_OF_ALL = BY_ELEMENT + SHAPES + ALONG_AXES + PRODUCTS_OF_MATRICES

# Of optimisers, and of the norm of all gradients, a step over several parameters is timed.
STEPS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "SGD": (partial(mm.optim.SGD, lr=1e-3), partial(torch.optim.SGD, lr=1e-3)),
    "SGD, momentum": (partial(mm.optim.SGD, lr=1e-3, momentum=0.9),
                      partial(torch.optim.SGD, lr=1e-3, momentum=0.9)),
    "Adam": (partial(mm.optim.Adam, lr=1e-3), partial(torch.optim.Adam, lr=1e-3)),
    "AdamW": (partial(mm.optim.AdamW, lr=1e-3), partial(torch.optim.AdamW, lr=1e-3)),
}


def steps(
    name: str, count: int, side: int, dtype: str
) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Our step and PyTorch's over `count` square matrices, which have gradients."""
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((side, side)).astype(dtype) for _ in range(count)]
    ours = [mm.tensor(a, requires_grad=True) for a in arrays]
    theirs = [torch.tensor(a, requires_grad=True) for a in arrays]
    for p, q, a in zip(ours, theirs, arrays, strict=True):
        p.grad, q.grad = a.copy(), torch.tensor(a)
    if name == "clip_grad_norm":
        return (lambda: mm.optim.clip_grad_norm(ours, math.inf),
                lambda: torch.nn.utils.clip_grad_norm_(theirs, math.inf))
    make_ours, make_theirs = STEPS[name]
    return make_ours(ours).step, make_theirs(theirs).step


def _other(dtype: Any) -> str:
    return "float64" if dtype == np.float32 else "float32"
