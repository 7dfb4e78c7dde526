"""The functions that networks are built from, written as their formulas: the reading versions.

None needs a gradient rule, since each is made of primitives, which have theirs.

    @with_kernel("part")    the function has kernels, forward and back, in `kernels/cpu/part.py` and
                            `kernels/gpu/part.py`, which run instead, outside `minimono.reference()`
    @real()                 whole numbers become float64 first (`dtypes.py`); with `@arithmetic()`
                            they stay. `numbers=1`: only the first argument is numbers; the others
                            are masks, indices or settings
    x.detach()              the values of x as a constant: no gradient flows back through it

Shapes: `B` batch, `T` time (position), `C` channels, `O` channels of the output, `H` heads, `D`
channels of a head; `S` positions that are looked at, from each of `T`; `N` rows, however arranged;
`...` any axes, which stay.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from minimono import backend, checks, lazy
from minimono.backend import Array
from minimono.checks import Rng
from minimono.engine.arguments import attention_mask, class_targets, indices, packed_mask
from minimono.engine.convolution import avg_pool2d, conv2d, conv_transpose2d, max_pool2d
from minimono.engine.dtypes import arithmetic, real
from minimono.engine.fused import with_kernel
from minimono.engine.primitives import (
    erfc,
    exp,
    log,
    matmul,
    maximum,
    minimum,
    sqrt,
    tanh,
    where,
)
from minimono.engine.rotary import rotary_embedding
from minimono.engine.tensor import Tensor, as_tensor, tensor  # noqa: F401  (for the examples)

__all__ = [
    "avg_pool2d", "conv2d", "conv_transpose2d", "cross_entropy", "dropout", "embedding", "gelu",
    "layer_norm", "leaky_relu", "linear", "linear_relu", "log_softmax", "max_pool2d", "relu",
    "rms_norm", "rotary_embedding", "scaled_dot_product_attention", "self_attention", "sigmoid",
    "silu", "softmax", "swiglu", "tanh",
]
__dir__ = lazy.only(__name__, __all__)


@real()
@with_kernel("activations")
def relu(x: Tensor) -> Tensor:
    """max(x, 0), element by element; slope 0 at 0, as in PyTorch; nan stays nan.

    >>> relu(tensor([-1.0, 2.0]))
    tensor([0., 2.])
    """
    return where(x <= 0.0, 0.0, x)


@real()
@with_kernel("activations")
def leaky_relu(x: Tensor, negative_slope: float = 0.01) -> Tensor:
    """x where x > 0, negative_slope x elsewhere (Maas et al. 2013), as in PyTorch.

    >>> leaky_relu(tensor([-1.0, 2.0]), 0.2)
    tensor([-0.2,  2. ])
    """
    return where(x > 0.0, x, negative_slope * x)


@real()
@with_kernel("activations")
def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x)), element by element."""
    # exp(-|x|) never overflows. For x < 0: exp(x) / (1 + exp(x)), which keeps all digits.
    small = exp(where(x < 0.0, x, -x))
    return where(x < 0.0, small, 1.0) / (1.0 + small)


@real()
@with_kernel("activations")
def silu(x: Tensor) -> Tensor:
    """x sigmoid(x), element by element."""
    return x * sigmoid(x)


@real()
def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, element by element: a gated linear unit (Shazeer 2020, arXiv 2002.05202).

    In a network both are linear in x: `silu(x G^T) * (x U^T)` are the neurons of a block of Llama.
    The gate is the factor that bends.

    >>> swiglu(tensor([1.0, -20.0]), tensor([2.0, 3.0]))          # open; all but shut
    tensor([ 1.46211716e+00, -1.23669217e-07])
    """
    checks.shaped(up, "swiglu: up", gate.shape, "as gate")
    return silu(gate) * up


@real()
@with_kernel("activations")
def gelu(x: Tensor, approximate: Literal["none", "tanh"] = "none") -> Tensor:
    """x P(N(0,1) <= x), element by element (Hendrycks & Gimpel 2016, arXiv 1606.08415).

    That is x, times the probability that a standard normal number is not larger; "tanh" is near it.

        none:  x erfc(-x / sqrt 2) / 2          tanh:  x sigmoid(2 sqrt(2/pi) (x + 0.044715 x^3))

    The usual (1 + erf)/2 and (1 + tanh)/2 are the same numbers, but lose all digits for x << 0.

    >>> gelu(tensor([0.0, 1.0]))
    tensor([0.        , 0.84134475])
    """
    checks.one_of(approximate, "gelu: approximate", ("none", "tanh"))
    if approximate == "none":
        return 0.5 * x * erfc(x * -(0.5**0.5))
    near = minimum(maximum(x, -30.0), 30.0)  # beyond, the sigmoid is 0 or 1, and x^3 overflows
    cubic = near + 0.044715 * (near * near * near)
    return x * sigmoid((2.0 * (2.0 / math.pi) ** 0.5) * cubic)


@real()
@with_kernel("softmax")
def softmax(x: Tensor, axis: int = -1) -> Tensor:
    """exp(x) / sum exp(x) along an axis.

    >>> softmax(tensor([0.0, 0.0]))
    tensor([0.5, 0.5])
    """
    if not x.size:
        return x + x.sum(axis=axis, keepdims=True)  # as empty; an axis must exist all the same
    # exp(x - c) / sum exp(x - c) is the same for every c. If c is the maximum, nothing overflows.
    # It may be a constant, since the result does not depend on c: no gradient goes through it.
    e = exp(x - x.detach().max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


@real()
@with_kernel("softmax")
def log_softmax(x: Tensor, axis: int = -1) -> Tensor:
    """x - log sum exp(x) along an axis."""
    if not x.size:
        return x + x.sum(axis=axis, keepdims=True)
    shifted = x - x.detach().max(axis=axis, keepdims=True)  # as in softmax
    return shifted - log(exp(shifted).sum(axis=axis, keepdims=True))


def cross_entropy(logits: Tensor, targets: Tensor | Array) -> Tensor:
    """The mean of -log softmax(logits)[target], in nats. `logits` (..., C), `targets` ints (...).

    Raises ValueError if the shapes do not match or a target is not one of the C classes.

    >>> cross_entropy(tensor([[0.0, 0.0]]), np.array([1]))
    tensor(0.69314718)
    """
    logits = as_tensor(logits)
    index = class_targets(targets, logits)
    if logits.ndim != 2:
        logits = logits.reshape(-1, logits.shape[-1])  # (..., C) -> (N, C)
    return _mean_cross_entropy(logits, index.reshape(-1))


@real(numbers=1)
@with_kernel("losses")
def _mean_cross_entropy(logits: Tensor, targets: Array) -> Tensor:
    rows = backend.array_module(logits.array).arange(logits.shape[0])
    return -log_softmax(logits)[rows, targets].mean()  # (N, C) -> (N,): that of each row's target


@real()
@with_kernel("norms")
def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """(x - mean) / sqrt(variance + eps) * weight + bias, over the last axis.

    The variance is the biased one (divided by C, not C - 1) and eps is inside the root
    (Ba et al. 2016, arXiv 1607.06450; as in PyTorch).

    >>> layer_norm(tensor([[1.0, 3.0]]), tensor([1.0, 1.0]), tensor([0.0, 0.0]), eps=0.0)
    tensor([[-1.,  1.]])
    """
    checks.norm(x, "layer_norm", eps, weight=weight, bias=bias)
    if not x.shape[-1]:
        return x * weight + bias  # empty, though it has no mean
    unit = _unit(x, eps)
    x = x / unit  # and eps / unit^2 below: the unit cancels
    centred = x - x.mean(axis=-1, keepdims=True)
    # In a row far from 0, say 1000.01 and 1000.02, the mean's rounding is large beside the spread.
    # Centred, the row is near 0; what is left of its mean is exact enough, and is taken away too.
    centred = centred - centred.mean(axis=-1, keepdims=True)
    variance = (centred * centred).mean(axis=-1, keepdims=True)
    return centred / sqrt(variance + eps / unit / unit) * weight + bias


@real()
@with_kernel("norms")
def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-5) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight, over the last axis (Zhang & Sennrich 2019)."""
    checks.norm(x, "rms_norm", eps, weight=weight)
    if not x.shape[-1]:
        return x * weight  # empty, though it has no mean
    unit = _unit(x, eps)
    x = x / unit  # as in layer_norm
    return x / sqrt((x * x).mean(axis=-1, keepdims=True) + eps / unit / unit) * weight


def _unit(x: Tensor, eps: float) -> Tensor:
    """For each row a power of two near its largest |x|, or near sqrt(eps) if that is larger.

    In this unit no square overflows, and the sum of squares, or eps, does not vanish. To divide by
    a power of two rounds nothing. The norm's result does not depend on it: it is a constant.
    """
    xp = backend.array_module(x.array)
    largest = abs(x.array.real).max(axis=-1, keepdims=True)
    exponent = xp.frexp(xp.maximum(largest, math.sqrt(eps)))[1]  # 2^(exponent - 1) <= it
    return Tensor(xp.ldexp(xp.ones_like(largest), exponent - 1))


@real()
@with_kernel("linear")
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b over the last axis: `x` (..., C), `weight` (O, C), `bias` (O,) -> (..., O)."""
    checks.linear(x, weight, bias)
    rows = math.prod(x.shape[:-1])
    out = matmul(x.reshape(rows, x.shape[-1]), weight.T)  # (N, C) @ (C, O) -> (N, O)
    if bias is not None:
        out = out + bias
    return out.reshape(*x.shape[:-1], weight.shape[0])  # (N, O) -> (..., O)


@real()
@with_kernel("linear", on=("cpu",))  # on a GPU: the kernels of the two
def linear_relu(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """relu(linear(x, weight, bias)), which saves small networks a third of their operations."""
    return relu(linear(x, weight, bias))


def embedding(ids: Tensor | Array, weight: Tensor) -> Tensor:
    """Rows of `weight` (N, C) by their numbers `ids` (...): (..., C).

    Raises ValueError for a number outside 0..N-1.
    """
    weight = as_tensor(weight)
    return _rows_by_number(weight, indices(ids, weight.shape[0], "embedding: id", weight.device))


@arithmetic(numbers=1)
@with_kernel("embedding")
def _rows_by_number(weight: Tensor, ids: Array) -> Tensor:
    return weight[ids]


@real()
def scaled_dot_product_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Tensor | Array | None = None,
    is_causal: bool = False,
) -> Tensor:
    """softmax(q k^T / sqrt D) v (Vaswani et al. 2017, eq. 1).

    `q` (..., T, D), `k` and `v` (..., S, D); `mask` booleans that broadcast to (..., T, S), True
    where a query may look; `is_causal` lets position t look at 0..t only. A query that may look
    nowhere raises ValueError where the mask is on the host, and is nan on a GPU.
    Raises TypeError for a mask of numbers, which other libraries add to the scores.
    """
    checks.several_channels(q, "scaled_dot_product_attention: q", "(..., T, D)")
    scores = (q @ k.swapaxes(-1, -2)) * (q.shape[-1] ** -0.5)  # (..., T, D) -> (..., T, S)
    mask = attention_mask(mask, is_causal, q, scores.shape)
    if mask is not None:
        scores = where(mask, scores, -math.inf)  # of which softmax makes the weight 0
    return softmax(scores) @ v  # (..., T, S) @ (..., S, D) -> (..., T, D)


def self_attention(
    qkv: Tensor, *, mask: Tensor | Array | None = None, is_causal: bool = False
) -> Tensor:
    """Attention among the positions of a sequence, for q, k and v in one tensor, "packed".

    `qkv` (B, T, 3, H, D); `mask` (B, T) booleans, True for positions that may be looked at. Returns
    (B, T, H, D): for each head what `scaled_dot_product_attention` gives, with its errors.
    """
    qkv = as_tensor(qkv)
    return _packed_attention(qkv, packed_mask(mask, is_causal, qkv), is_causal)


@real(numbers=1)
@with_kernel("attention")
def _packed_attention(qkv: Tensor, mask: Array | None, is_causal: bool) -> Tensor:
    q, k, v = qkv.transpose(2, 0, 3, 1, 4)  # (B, T, 3, H, D) -> three times (B, H, T, D)
    mask = None if mask is None else mask[:, None, None, :]  # (B, T) -> (B, 1, 1, T)
    out = scaled_dot_product_attention(q, k, v, mask=mask, is_causal=is_causal)
    return out.transpose(0, 2, 1, 3)  # (B, H, T, D) -> (B, T, H, D)


@real(numbers=1)
def dropout(x: Tensor, p: float, *, rng: Rng, training: bool = True) -> Tensor:
    """In training, zero each element with probability `p` and divide the rest by 1 - p.

    So each element keeps its expected value. Random numbers are drawn on the host, so that both
    devices drop the same elements. A whole number as `rng` seeds a new generator, so each call
    drops the same elements: training needs a generator that lives on from call to call.
    """
    p = checks.drop_probability(p, "dropout: p")
    rng = checks.generator(rng, "dropout: rng")
    if not training or p == 0.0:
        return x
    keep = rng.random(x.shape, dtype=np.float32) >= p
    return _dropped(x, Tensor(backend.to_device(keep, x.device)), 1.0 / (1.0 - p))


@with_kernel("dropout")
def _dropped(x: Tensor, keep: Tensor, scale: float) -> Tensor:
    return x * (keep.astype(x.dtype) * scale)
