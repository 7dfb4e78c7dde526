"""One operation after the other: its time beside PyTorch's, and its numbers beside the CPU's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

import minimono as mm
from benchmarks.gpu.lines import MINIMONO, PYTORCH, torch_there
from benchmarks.gpu.sizes import Sizes
from benchmarks.gpu.timing import Row, beside, free, seconds, told
from minimono import backend
from minimono.engine import convolution
from minimono.engine import functional as F
from minimono.engine.tensor import Tensor

Shapes = list[tuple[int, ...]]


@dataclass(frozen=True)
class Operation:
    """`ours` takes tensors of these shapes, and ids below `classes` if there are any."""

    name: str
    shapes: Callable[[Sizes], Shapes]
    ours: Callable[..., Tensor]
    theirs: Callable[..., Any]  # torch.nn.functional, arguments
    classes: Callable[[Sizes], int] | None = None

    def arrays(self, sizes: Sizes, dtype: Any) -> tuple[list[Any], list[Any]]:
        """Floats, and ids, on the host. Large ones repeat: to draw them would take minutes."""
        rng, shapes = np.random.default_rng(0), self.shapes(sizes)
        drawn = [rng.standard_normal(min(2**20, math.prod(s))).astype(dtype) for s in shapes]
        floats = [np.resize(a, s) for a, s in zip(drawn, shapes, strict=True)]
        classes = self.classes(sizes) if self.classes else 0
        return floats, [rng.integers(0, classes, sizes.tokens)] if classes else []


def _rows(s: Sizes) -> Shapes:
    return [(s.tokens, s.channels)]


def _attended(lengths: Callable[[Sizes], int]) -> Callable[[Sizes], Shapes]:
    """One array (B, T, 3, H, D), B T as near to `tokens` as T allows."""

    def shapes(s: Sizes) -> Shapes:
        T = lengths(s)
        return [(max(1, s.tokens // T), T, 3, s.heads, s.channels // s.heads)]

    return shapes


def _attention_of(f: Any, qkv: Any) -> Any:
    q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, H, T, D)
    return f.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)


def _vocabulary(s: Sizes) -> int:
    return s.gpt.vocabulary


OPERATIONS = (
    Operation("relu", _rows, F.relu, lambda f, x: f.relu(x)),
    Operation("silu", _rows, F.silu, lambda f, x: f.silu(x)),
    Operation("gelu", _rows, F.gelu, lambda f, x: f.gelu(x)),
    Operation(
        "gelu, tanh", _rows, lambda x: F.gelu(x, "tanh"), lambda f, x: f.gelu(x, approximate="tanh")
    ),
    Operation("softmax", _rows, F.softmax, lambda f, x: f.softmax(x, -1)),
    Operation("log_softmax", _rows, F.log_softmax, lambda f, x: f.log_softmax(x, -1)),
    Operation(
        "layer_norm", lambda s: [*_rows(s), (s.channels,), (s.channels,)], F.layer_norm,
        lambda f, x, w, b: f.layer_norm(x, x.shape[-1:], w, b),
    ),
    Operation(
        "linear", lambda s: [*_rows(s), (4 * s.channels, s.channels), (4 * s.channels,)], F.linear,
        lambda f, x, w, b: f.linear(x, w, b),
    ),
    Operation(
        "cross_entropy", lambda s: [(s.tokens, _vocabulary(s))], F.cross_entropy,
        lambda f, x, ids: f.cross_entropy(x, ids), _vocabulary,
    ),
    Operation(
        "embedding", lambda s: [(_vocabulary(s), s.channels)], lambda w, ids: F.embedding(ids, w),
        lambda f, w, ids: f.embedding(ids, w), _vocabulary,
    ),
    Operation(
        "conv2d", lambda s: [s.image, (s.image[1], s.image[1], 3, 3), (s.image[1],)],
        lambda x, w, b: convolution.conv2d(x, w, b, padding=1),
        lambda f, x, w, b: f.conv2d(x, w, b, padding=1),
    ),
    Operation(
        "attention", _attended(lambda s: min(1024, s.tokens)),
        lambda qkv: F.self_attention(qkv, is_causal=True), _attention_of,
    ),
)


# ---- time ---------------------------------------------------------------------------------------


def operations(sizes: Sizes) -> Iterator[Row]:
    """Each at one size, in float32: forward, and forward and backward."""
    fewer = replace(sizes, tokens=max(1, sizes.tokens // 8))  # a row is as long as a vocabulary
    for operation in OPERATIONS:
        at = fewer if operation.name == "cross_entropy" else sizes
        yield from _timed(operation, operation.name, at)
    yield from _adam(sizes)


def attention(sizes: Sizes) -> Iterator[Row]:
    """Causal, over the same number of tokens in sequences of several lengths."""
    (base,) = (operation for operation in OPERATIONS if operation.name == "attention")
    for T in sizes.lengths:
        at = replace(base, shapes=_attended(partial(_constant, T)))
        yield from _timed(at, f"attention, T = {T}", sizes)


def _constant(value: int, sizes: Sizes) -> int:
    return value


def _timed(operation: Operation, what: str, sizes: Sizes) -> Iterator[Row]:
    for direction in ("forward", "forward and backward"):
        back = direction != "forward"
        contestants = {MINIMONO: partial(_ours, operation, sizes, back)}
        if torch_there()[0]:
            contestants[PYTORCH] = partial(_theirs, operation, sizes, back)
        yield from beside(f"{what}, {direction}", "s", contestants)
        free()


def _ours(operation: Operation, sizes: Sizes, back: bool) -> float:
    floats, ids = operation.arrays(sizes, np.float32)
    xs = [mm.tensor(a, device="cuda", requires_grad=back) for a in floats]

    def work() -> None:
        out = operation.ours(*xs, *ids)
        if back:
            for x in xs:
                x.grad = None
            out.backward(g)

    like = operation.ours(*xs, *ids)
    g = backend.cupy().ones(like.shape, like.dtype)
    return seconds(work, sizes.turn)


def _theirs(operation: Operation, sizes: Sizes, back: bool) -> float:
    torch, device = torch_there()
    floats, ids = operation.arrays(sizes, np.float32)
    xs = [torch.from_numpy(a).to(device).requires_grad_(back) for a in floats]
    ids = [torch.from_numpy(a).to(device) for a in ids]
    f = torch.nn.functional

    def work() -> None:
        out = operation.theirs(f, *xs, *ids)
        if back:
            torch.autograd.grad(out, xs, g)

    g = torch.ones_like(operation.theirs(f, *xs, *ids))
    try:
        return seconds(work, sizes.turn)
    finally:
        if device == "cuda":
            torch.cuda.empty_cache()


def _adam(sizes: Sizes) -> Iterator[Row]:
    """One update of as many parameters as a few of its layers have."""
    shapes = [(4 * sizes.channels, sizes.channels)] * 24
    torch, device = torch_there()

    def ours() -> float:
        parameters = [mm.tensor(np.ones(s, np.float32), device="cuda", requires_grad=True)
                      for s in shapes]
        for p in parameters:
            p.grad = backend.cupy().ones(p.shape, p.dtype)
        return seconds(mm.optim.Adam(parameters).step, sizes.turn)

    def theirs() -> float:
        parameters = [torch.ones(s, device=device, requires_grad=True) for s in shapes]
        for p in parameters:
            p.grad = torch.ones_like(p)
        return seconds(torch.optim.Adam(parameters, fused=True).step, sizes.turn)

    contestants = {MINIMONO: ours} | ({"PyTorch, fused": theirs} if torch else {})
    yield from beside(f"Adam, {len(shapes)} matrices", "s", contestants)


# ---- numbers ------------------------------------------------------------------------------------


def tolerance(sizes: Sizes) -> Iterator[Row]:
    """How far the GPU's numbers are from the CPU's, in roundings of the largest of an array.

    Kernels beside kernels, and reading versions beside reading versions.
    """
    few = replace(
        sizes, tokens=sizes.compared, image=(2, *sizes.image[1:]),
        gpt=replace(sizes.gpt, vocabulary=min(1000, sizes.gpt.vocabulary)),
    )
    for operation in OPERATIONS:
        for dtype in (np.float32, np.float64):
            row: Row = {
                "what": f"{operation.name}, {np.dtype(dtype).name}", "unit": "roundings",
                "values": {}, "errors": {},
            }
            for name, reading in (("kernel", False), ("reading version", True)):
                try:
                    here, there = (_numbers(operation, few, dtype, device, reading)
                                   for device in ("cpu", "cuda"))
                    apart = [_apart(a, b) for a, b in zip(here, there, strict=True)]
                    row["values"] |= {name: apart[0], f"{name}, gradients": max(apart[1:])}
                except Exception as error:
                    row["errors"][name] = told(error)
            yield row


def _numbers(
    operation: Operation, sizes: Sizes, dtype: Any, device: str, reading: bool
) -> list[Any]:
    floats, ids = operation.arrays(sizes, dtype)
    xs = [mm.tensor(a, device=device, requires_grad=True) for a in floats]

    def run() -> Any:
        out = operation.ours(*xs, *ids)
        g = np.random.default_rng(1).standard_normal(out.shape).astype(dtype)
        out.backward(backend.to_device(g, device))
        return out.data

    if reading:
        with mm.reference():
            out = run()
    else:
        out = run()
    return [backend.to_host(a) for a in (out, *(x.grad for x in xs))]


def _apart(one: Any, other: Any) -> float:
    largest = float(np.abs(one).max())
    return float(np.abs(one - other).max() / (np.finfo(one.dtype).eps * (largest or 1.0)))
