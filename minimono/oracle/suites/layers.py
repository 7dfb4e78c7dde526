"""Suite `layers`: the functions that networks are built from, values and gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from minimono.backend import Array
from minimono.engine import functional as F
from minimono.engine.tensor import Tensor
from minimono.nn.convolution import ConvGRUCell
from minimono.oracle.case import BOUND, Case, Expected
from minimono.oracle.suite import Call, Suite
from minimono.oracle.truth import conditioned_by, float32, mpmath, precise

SLOPE = 0.2  # of the ConvGRU cell's leaky relu
FLOOR = 1e-30  # times eps: an absolute error that is always allowed, where float32 underflows

Outputs = tuple[Array, ...]


# ---- the truth, in mpmath's numbers --------------------------------------------------------------
#
# Written for arrays of objects, value and gradients as formulas; g is the gradient by the value.


def _each(function: Callable[[Any], Any], x: Array) -> Array:
    out = np.empty(x.shape, dtype=object)
    for index in np.ndindex(x.shape):
        out[index] = function(x[index])
    return out


def _sigmoid(x: Array) -> Array:
    mp = mpmath()
    return _each(lambda v: 1 / (1 + mp.exp(-v)), x)


def true_gelu(x: Array, g: Array, approximate: str) -> Outputs:
    """x P(x) and g (P(x) + x P'(x)); P is the normal distribution, or 1 / (1 + exp(-2u))."""
    mp = mpmath()
    if approximate == "none":
        share = _each(lambda v: mp.erfc(-v / mp.sqrt(2)) / 2, x)
        slope = _each(lambda v: mp.exp(-v * v / 2) / mp.sqrt(2 * mp.pi), x)
    else:
        root, cubic = mp.sqrt(2 / mp.pi), mp.mpf("0.044715")
        share = _sigmoid(2 * root * (x + cubic * x**3))
        slope = share * (1 - share) * (2 * root * (1 + 3 * cubic * x**2))
    return x * share, g * (share + x * slope)


def true_layer_norm(x: Array, weight: Array, bias: Array, g: Array, eps: float) -> Outputs:
    """n w + b with n = (x - mean) / sqrt(variance + eps), and the gradients by x, w and b."""
    mp, C = mpmath(), x.shape[-1]
    centred = x - x.sum(axis=-1, keepdims=True) / C
    variance = (centred**2).sum(axis=-1, keepdims=True) / C
    root = _each(mp.sqrt, variance + mp.mpf(eps))
    n = centred / root
    h = g * weight
    common = h.sum(axis=-1, keepdims=True) + n * (h * n).sum(axis=-1, keepdims=True)
    before = tuple(range(x.ndim - 1))
    gradients = (h - common / C) / root, (g * n).sum(axis=before), g.sum(axis=before)
    return (n * weight + bias, *gradients)


def _softmax(x: Array, axis: int) -> Array:
    e = _each(mpmath().exp, x)
    return e / e.sum(axis=axis, keepdims=True)


def true_softmax(x: Array, g: Array, axis: int) -> Outputs:
    """p = exp(x) / sum exp(x), and p (g - sum p g)."""
    p = _softmax(x, axis)
    return p, p * (g - (p * g).sum(axis=axis, keepdims=True))


def true_attention(q: Array, k: Array, v: Array, g: Array, is_causal: bool) -> Outputs:
    """p v with p = softmax(q k' / sqrt D), and the gradients by q, k and v."""
    mp = mpmath()
    scale = 1 / mp.sqrt(q.shape[-1])
    e = _each(mp.exp, _product(q, k.swapaxes(-1, -2)) * scale)
    if is_causal:
        e = e * np.tri(*e.shape[-2:], dtype=int)
    p = e / e.sum(axis=-1, keepdims=True)
    slope = _product(g, v.swapaxes(-1, -2))
    scores = p * (slope - (p * slope).sum(axis=-1, keepdims=True)) * scale
    back = scores.swapaxes(-1, -2)
    return _product(p, v), _product(scores, k), _product(back, q), _product(p.swapaxes(-1, -2), g)


def _product(a: Array, b: Array) -> Array:
    """Matrix products over the last two axes: NumPy's own has none for objects in batches."""
    return (a[..., :, :, None] * b[..., None, :, :]).sum(axis=-2)


def true_cross_entropy(logits: Array, targets: Array) -> Outputs:
    """The mean of log sum exp(x) - x[target], and (softmax - one at the target) / N."""
    mp, N = mpmath(), targets.size
    rows = logits.reshape(N, -1)  # (..., C) -> (N, C)
    hit = np.arange(rows.shape[1]) == targets.reshape(N, 1)
    e = _each(mp.exp, rows)
    total = e.sum(axis=1)
    loss = (_each(mp.log, total) - np.where(hit, rows, 0).sum(axis=1)).sum() / N
    gradient = (e / total[:, None] - np.where(hit, mp.mpf(1), mp.mpf(0))) / N
    return np.array(loss, dtype=object), gradient.reshape(logits.shape)


def _convolution(x: Array, w: Array, b: Array) -> Array:
    """Cross-correlation that keeps the size: (B, C, Y, X), (D, C, k, k) -> (B, D, Y, X)."""
    out = b[None, :, None, None]
    for (i, j), seen in _shifted(x, w.shape[-1]):
        out = out + _channels(w[:, :, i, j], seen)
    return out


def _convolution_back(x: Array, w: Array, g: Array) -> Outputs:
    """The gradients by x, w and b."""
    by_x, by_w = 0 * x, 0 * w
    turned = w[:, :, ::-1, ::-1].swapaxes(0, 1)
    for (i, j), seen in _shifted(g, w.shape[-1]):
        by_x = by_x + _channels(turned[:, :, i, j], seen)
    for (i, j), seen in _shifted(x, w.shape[-1]):
        by_w[:, :, i, j] = (g[:, :, None] * seen[:, None]).sum(axis=(0, 3, 4))
    return by_x, by_w, g.sum(axis=(0, 2, 3))


def _shifted(x: Array, size: int) -> Iterator[tuple[tuple[int, int], Array]]:
    (Y, X), p = x.shape[2:], size // 2
    padded = np.zeros((*x.shape[:2], Y + 2 * p, X + 2 * p), dtype=x.dtype)
    padded[:, :, p : p + Y, p : p + X] = x
    for i, j in np.ndindex(size, size):
        yield (i, j), padded[:, :, i : i + Y, j : j + X]


def _channels(w: Array, x: Array) -> Array:
    return (w[None, :, :, None, None] * x[:, None]).sum(axis=2)  # (D, C), (B, C, ...) -> (B, D, ...)


def true_conv_gru_cell(
    x: Array, state: Array, w_in: Array, b_in: Array, w_state: Array, b_state: Array, g: Array
) -> Outputs:
    """(1 - z) n + z h with gates r, z and candidate n, and the gradients by all six."""
    r_x, z_x, n_x = _thirds(_convolution(x, w_in, b_in))
    r_h, z_h, n_h = _thirds(_convolution(state, w_state, b_state))
    r, z = _sigmoid(r_x + r_h), _sigmoid(z_x + z_h)
    before = n_x + r * n_h
    leak = np.where(before > 0, mpmath().mpf(1), mpmath().mpf(SLOPE))
    n = before * leak
    by_n = g * (1 - z) * leak
    by_r, by_z = by_n * n_h * r * (1 - r), g * (state - n) * z * (1 - z)
    in_back = _convolution_back(x, w_in, np.concatenate([by_r, by_z, by_n], axis=1))
    state_back = _convolution_back(state, w_state, np.concatenate([by_r, by_z, by_n * r], axis=1))
    direct = g * z
    return ((1 - z) * n + z * state, in_back[0], state_back[0] + direct, *in_back[1:],
            *state_back[1:])  # fmt: skip


def _thirds(gates: Array) -> list[Array]:
    return np.split(gates, 3, axis=1)  # (B, 3 C, Y, X) -> three times (B, C, Y, X)


# ---- cases ---------------------------------------------------------------------------------------
#
# To what `conditioned_by` allows, the roundings of terms that cancel in the result are added:
# no implementation avoids them, though the result itself is well conditioned.


def cases() -> Iterator[Case]:
    for group in (_gelus, _layer_norms, _softmaxes, _attentions, _cross_entropies, _conv_grus):
        yield from group()


def _allowing(expected: Sequence[Expected], *more: Array | float) -> list[Expected]:
    """`expected` with BOUND roundings of `more` on top."""
    return [
        Expected(e.value, (0.0 if e.linear is None else e.linear) + BOUND * np.asarray(m) + FLOOR)
        for e, m in zip(expected, more, strict=True)
    ]


def _named(names: str, expected: Sequence[Expected]) -> dict[str, Expected]:
    return dict(zip(names.split(), expected, strict=True))


def _drawn(rng: np.random.Generator, *shape: int, size: float = 1.0) -> Array:
    return float32(size * rng.normal(size=shape))


def _gelus() -> Iterator[Case]:
    rng = np.random.default_rng(160608415)
    near = np.array([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0])
    far = np.array([-1000.0, -40.0, -13.0, -7.0, 7.0, 13.0, 40.0, 1000.0])
    plans: list[tuple[str, Array, Array]] = [
        ("small numbers", near, np.ones(7)),
        ("normal ones", _drawn(rng, 4, 6), _drawn(rng, 4, 6)),
        ("wide ones, where the two versions differ most", _drawn(rng, 3, 5, size=3.0),
         _drawn(rng, 3, 5)),
        ("a feature map (B, C, Y, X)", _drawn(rng, 2, 2, 2, 3), _drawn(rng, 2, 2, 2, 3)),
        ("far from 0: 0 to the left, x to the right, gradient 0 and 1, no nan", far, np.ones(8)),
        ("tiny: x / 2", float32([1e-20, -1e-20, 1e-6, -1e-6]), np.full(4, 2.0)),
    ]  # fmt: skip
    number = 0
    for notes, x, g in plans:
        for approximate in ("none", "tanh"):
            number += 1
            expected = _elementwise(partial(true_gelu, approximate=approximate), x, g)
            # (1 + erf) / 2, as most write it, rounds to a multiple of eps for x << 0
            expected = _allowing(expected, abs(x), (1 + x**2 * (abs(x) < 40)) * abs(g))
            yield Case(
                f"layers/gelu/{number}", "gelu",
                {"x": x, "upstream": g, "approximate": approximate},
                _named("value gradient", expected), f"{notes}; approximate={approximate}",
            )  # fmt: skip
    left = np.array([-5.1, -7.3, -10.1, -20.3, -30.7, -36.9])
    for number, approximate in enumerate(("none", "tanh"), start=1):
        x = left if approximate == "none" else left[:4]
        expected = _elementwise(partial(true_gelu, approximate=approximate), x, np.ones_like(x))
        yield Case(
            f"layers/gelu-tail/{number}", "gelu",
            {"x": x, "upstream": np.ones_like(x), "approximate": approximate},
            _named("value gradient", expected),
            f"far to the left, with all digits: needs erfc or exp, not 1 + erf; {approximate}",
            extreme=True,
        )  # fmt: skip


def _elementwise(function: Callable[..., Outputs], x: Array, g: Array) -> list[Expected]:
    """`conditioned_by`, an element at a time: many times faster."""
    parts = [
        conditioned_by(precise, function, a, b)
        for a, b in zip(x.reshape(-1, 1), g.reshape(-1, 1), strict=True)
    ]
    return [
        Expected(
            np.concatenate([p[i].value for p in parts]).reshape(x.shape),
            np.concatenate([np.asarray(p[i].linear) for p in parts]).reshape(x.shape),
        )
        for i in range(2)
    ]


def _layer_norms() -> Iterator[Case]:
    rng = np.random.default_rng(160706450)
    # notes, shape, offset, size, eps
    plans: list[tuple[str, tuple[int, ...], float, float, float]] = [
        ("(B, C)", (3, 4), 0.0, 1.0, 1e-5),
        ("a sequence (B, T, C): each position by itself", (2, 3, 4), 0.0, 1.0, 1e-5),
        ("square: samples and channels cannot be told apart by shape", (4, 4), 0.0, 1.0, 1e-5),
        ("a large eps: inside the root, not outside", (2, 5), 0.0, 1.0, 0.5),
        ("eps 0", (2, 4), 0.0, 1.0, 0.0),
        ("numbers as small as the root of eps", (2, 4), 0.0, 2.0**-8, 1e-5),
        ("two channels", (4, 2), 0.0, 1.0, 1e-5),
        ("large numbers", (2, 4), 0.0, 1e4, 1e-5),
        ("offset 100 times the spread", (2, 6), 100.0, 1.0, 1e-5),
        ("offset 10,000 times the spread: E[x^2] - E[x]^2 loses its digits", (2, 6), 1e4, 1.0,
         1e-5),
    ]  # fmt: skip
    names = "value gradient gradient_weight gradient_bias"
    entries = [
        (n, float32(offset + _drawn(rng, *shape, size=size)), _drawn(rng, shape[-1]),
         _drawn(rng, shape[-1]), _drawn(rng, *shape), eps)
        for n, shape, offset, size, eps in plans
    ]  # fmt: skip
    ones, by_hand = np.ones(2), np.array([[1.0, 3.0], [8.0, 4.0]])
    entries += [
        ("to try by hand: -1, 1 and 1, -1", by_hand, ones, 0 * ones, np.array([[1.0, 0.0]] * 2),
         0.0),
        ("all channels equal: the bias, and no nan", np.full((2, 4), 3.0), _drawn(rng, 4),
         _drawn(rng, 4), _drawn(rng, 2, 4), 1e-5),
        ("one channel: nothing is left of it", np.array([[3.0], [-2.0]]), np.array([2.0]),
         np.array([0.5]), np.ones((2, 1)), 1e-5),
    ]
    for number, (notes, x, weight, bias, g, eps) in enumerate(entries, start=1):
        expected = conditioned_by(precise, partial(true_layer_norm, eps=eps), x, weight, bias, g)
        spread = np.sqrt(x.var(axis=-1, keepdims=True) + eps)
        n, h = (x - x.mean(axis=-1, keepdims=True)) / spread, abs(g * weight)
        inner = h.mean(axis=-1, keepdims=True) + abs(n) * abs(h * n).mean(axis=-1, keepdims=True)
        kappa = (abs(x).max(axis=-1) / spread[..., 0]).max()
        yield Case(
            f"layers/layer-norm/{number}", "layer_norm",
            {"x": x, "weight": weight, "bias": bias, "upstream": g, "eps": eps},
            _named(names, _allowing(expected, 0.0, (h + inner) / spread, 0.0, 0.0)), notes,
            condition=max(1.0, float(kappa)),
        )  # fmt: skip


def _softmaxes() -> Iterator[Case]:
    rng = np.random.default_rng(986960440)
    plans: list[tuple[str, Array, int]] = [
        ("(B, C), last axis", _drawn(rng, 3, 4), -1),
        ("(B, C), first axis", _drawn(rng, 3, 4), 0),
        ("square: the wrong axis fits", _drawn(rng, 4, 4), -1),
        ("square, first axis", _drawn(rng, 4, 4), 0),
        ("a feature map, over channels (axis 1)", _drawn(rng, 2, 3, 2, 2), 1),
        ("a sequence (B, T, C)", _drawn(rng, 2, 3, 4), -1),
        ("one channel: 1, and no gradient", _drawn(rng, 3, 1), -1),
        ("all equal", np.zeros((2, 4)), -1),
        ("large: exp overflows unless the maximum is subtracted",
         np.array([[1000.0, 1000.0, 999.0], [0.0, 800.0, 1000.0]]), -1),
        ("very negative: exp underflows, and 0 / 0 is nan, unless the maximum is subtracted",
         np.array([[-1000.0, -1001.0, -1000.0], [-1000.0, -990.0, -995.0]]), -1),
        ("from -1000 to 1000", np.array([[-1000.0, 0.0, 1000.0], [1000.0, -1000.0, 1000.0]]), -1),
        ("only one of the columns is large: each has its own maximum",
         np.array([[1000.0, -1000.0, 0.0], [1001.0, -1001.0, 1.0]]), 0),
    ]  # fmt: skip
    for number, (notes, x, axis) in enumerate(plans, start=1):
        g = _drawn(rng, *x.shape)
        expected = conditioned_by(precise, partial(true_softmax, axis=axis), x, g)
        p = expected[0].value
        inner = p * (abs(g) + (p * abs(g)).sum(axis=axis, keepdims=True))
        yield Case(
            f"layers/softmax/{number}", "softmax", {"x": x, "upstream": g, "axis": axis},
            _named("value gradient", _allowing(expected, 0.0, inner)), notes,
        )  # fmt: skip


def _attentions() -> Iterator[Case]:
    rng = np.random.default_rng(170603762)
    # notes, axes before, T, S, D, size of the queries, whether causal
    plans: list[tuple[str, tuple[int, ...], int, int, int, float, bool]] = [
        ("(B, T, D)", (2,), 3, 3, 2, 1.0, False),
        ("(B, T, D), causal", (2,), 3, 3, 2, 1.0, True),
        ("(B, H, T, D)", (1, 2), 3, 3, 2, 1.0, False),
        ("(B, H, T, D), causal", (1, 2), 4, 4, 3, 1.0, True),
        ("queries and keys of different number", (2,), 2, 4, 3, 1.0, False),
        ("fewer queries than keys, causal: query t looks at keys 0..t", (1,), 2, 4, 2, 1.0, True),
        ("as many positions as channels: a transposed matrix fits", (1,), 3, 3, 3, 1.0, False),
        ("D = 1: nothing to scale by", (1,), 4, 4, 1, 1.0, True),
        ("one position", (2,), 1, 1, 3, 1.0, True),
        ("scores near 1000: exp overflows unless the maximum is subtracted", (1,), 3, 3, 2, 700.0,
         False),
        ("scores near 1000, causal", (1,), 3, 3, 2, 700.0, True),
    ]  # fmt: skip
    for number, (notes, before, T, S, D, size, causal) in enumerate(plans, start=1):
        q, k = _drawn(rng, *before, T, D, size=size), _drawn(rng, *before, S, D)
        v, g = _drawn(rng, *before, S, D), _drawn(rng, *before, T, D)
        truth = partial(true_attention, is_causal=causal)
        yield Case(
            f"layers/attention/{number}", "scaled_dot_product_attention",
            {"q": q, "k": k, "v": v, "upstream": g, "is_causal": causal},
            _named(
                "value gradient_q gradient_k gradient_v",
                _allowing(conditioned_by(precise, truth, q, k, v, g),
                          *_attention_terms(q, k, v, g, causal)),
            ), notes,
        )  # fmt: skip


def _attention_terms(q: Array, k: Array, v: Array, g: Array, is_causal: bool) -> Outputs:
    """The sizes of the terms that are summed up in value and gradients."""
    p = softmax_of(_scores(q, k, is_causal))
    slope = abs(g) @ abs(v).swapaxes(-1, -2)
    terms = p * (slope + (p * slope).sum(axis=-1, keepdims=True)) / math.sqrt(q.shape[-1])
    back = terms.swapaxes(-1, -2)
    return p @ abs(v), terms @ abs(k), back @ abs(q), p.swapaxes(-1, -2) @ abs(g)


def _cross_entropies() -> Iterator[Case]:
    rng = np.random.default_rng(693147180)
    plans: list[tuple[str, Array]] = [
        ("(B, C)", _drawn(rng, 5, 4)),
        ("(B, T, C): the mean over all positions", _drawn(rng, 2, 3, 4)),
        ("one sample", _drawn(rng, 1, 6)),
        ("two classes", _drawn(rng, 4, 2)),
        ("one class: the loss is 0", _drawn(rng, 3, 1)),
        ("all equal: log C", np.zeros((2, 4))),
        ("sure of it: losses near 0 and near 40", 20.0 * np.array([[1.0, -1.0, 0.0]] * 3)),
        ("1000 and -1000: exp overflows unless the maximum is subtracted",
         np.array([[1000.0, -1000.0, 0.0], [-1000.0, 1000.0, 999.0], [0.0, -1000.0, 1000.0]])),
        ("all very negative", np.array([[-1000.0, -1001.0], [-2000.0, -1990.0]])),
    ]
    for number, (notes, logits) in enumerate(plans, start=1):
        classes = logits.shape[-1]
        targets = (np.arange(logits.size // classes) * 2 % classes).reshape(logits.shape[:-1])
        truth = partial(true_cross_entropy, targets=targets)
        at_target = np.arange(classes) == targets[..., None]
        largest = float(abs(logits).max())
        yield Case(
            f"layers/cross-entropy/{number}", "cross_entropy",
            {"logits": logits, "targets": targets},
            _named("loss gradient", _allowing(
                conditioned_by(precise, truth, logits), largest + 1.0, at_target / targets.size
            )), notes,
        )  # fmt: skip


def _conv_grus() -> Iterator[Case]:
    rng = np.random.default_rng(170603458)
    # notes, B, channels of the input, channels, Y, X, kernel size, size of the weights
    plans: list[tuple[str, int, int, int, int, int, int, float]] = [
        ("one pixel, one channel: a plain GRU", 1, 1, 1, 1, 1, 1, 1.0),
        ("kernel 1, two samples", 2, 2, 2, 2, 1, 1, 1.0),
        ("as many input channels as channels", 1, 2, 2, 2, 2, 1, 1.0),
        ("kernel 3: the neighbours count, zeros around", 1, 1, 1, 3, 2, 3, 0.5),
        ("large weights: gates near 0 and 1", 1, 1, 2, 2, 1, 1, 8.0),
    ]
    names = ("value gradient_x gradient_state gradient_w_in gradient_b_in gradient_w_state "
             "gradient_b_state")  # fmt: skip
    for number, (notes, B, inputs, C, Y, X, size, weight) in enumerate(plans, start=1):
        arguments = {
            "x": _drawn(rng, B, inputs, Y, X),
            "state": _drawn(rng, B, C, Y, X),
            "w_in": _drawn(rng, 3 * C, inputs, size, size, size=weight),
            "b_in": _drawn(rng, 3 * C, size=0.5),
            "w_state": _drawn(rng, 3 * C, C, size, size, size=weight),
            "b_state": _drawn(rng, 3 * C, size=0.5),
            "upstream": _drawn(rng, B, C, Y, X),
        }
        expected = conditioned_by(precise, true_conv_gru_cell, *arguments.values())
        yield Case(
            f"layers/conv-gru/{number}", "conv_gru_cell", arguments,
            _named(names, _allowing(expected, *[0.0] * 7)), notes,
        )  # fmt: skip


# ---- minimono's own ------------------------------------------------------------------------------


def value_and_gradients(
    function: Callable[..., Tensor], inputs: Sequence[Array], upstream: Array | None
) -> tuple[Array, ...]:
    """function(*inputs), and the gradients by each of them, by minimono's tape."""
    leaves = [Tensor(np.asarray(x), requires_grad=True) for x in inputs]
    value = function(*leaves)
    value.backward(upstream)
    return (value.data, *(leaf.grad for leaf in leaves))


def gelu(x: Array, upstream: Array, *, approximate: Any) -> Outputs:
    return value_and_gradients(lambda x: F.gelu(x, approximate), [x], upstream)


def layer_norm(x: Array, weight: Array, bias: Array, upstream: Array, *, eps: float) -> Outputs:
    return value_and_gradients(
        lambda x, w, b: F.layer_norm(x, w, b, eps), [x, weight, bias], upstream
    )


def softmax(x: Array, upstream: Array, *, axis: int) -> Outputs:
    return value_and_gradients(lambda x: F.softmax(x, axis), [x], upstream)


def scaled_dot_product_attention(
    q: Array, k: Array, v: Array, upstream: Array, *, is_causal: bool
) -> Outputs:
    return value_and_gradients(
        partial(F.scaled_dot_product_attention, is_causal=is_causal), [q, k, v], upstream
    )


def cross_entropy(logits: Array, targets: Array) -> Outputs:
    return value_and_gradients(lambda x: F.cross_entropy(x, targets), [logits], None)


def conv_gru_cell(
    x: Array, state: Array, w_in: Array, b_in: Array, w_state: Array, b_state: Array,
    upstream: Array,
) -> Outputs:  # fmt: skip
    rng = np.random.default_rng(0)  # the weights drawn with it are replaced
    cell = ConvGRUCell(x.shape[1], state.shape[1], w_in.shape[-1], rng=rng, dtype=x.dtype)

    parameters = [cell.from_input.weight, cell.from_input.bias,
                  cell.from_state.weight, cell.from_state.bias]  # fmt: skip
    for parameter, given in zip(parameters, (w_in, b_in, w_state, b_state), strict=True):
        parameter.data = given
    leaves = [Tensor(x, requires_grad=True), Tensor(state, requires_grad=True)]
    value = cell(*leaves)
    value.backward(upstream)
    return (value.data, *(leaf.grad for leaf in [*leaves, *parameters]))


# ---- known mistakes ------------------------------------------------------------------------------

_erf = np.vectorize(math.erf, otypes=[float])
_erfc = np.vectorize(math.erfc, otypes=[float])
ROOT, CUBIC = math.sqrt(2 / math.pi), 0.044715


def _normal(x: Array) -> tuple[Array, Array]:
    """The normal distribution and its density."""
    return _erfc(-x / math.sqrt(2)) / 2, np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)


def _logistic(x: Array, root: float = ROOT, cubic: float = CUBIC) -> tuple[Array, Array]:
    """Its approximation by tanh, and the slope of that."""
    u = root * (x + cubic * x**3)
    return (1 + np.tanh(u)) / 2, (1 - np.tanh(u) ** 2) / 2 * root * (1 + 3 * cubic * x**2)


def _gelu_by(share: Callable[[Array, str], tuple[Array, Array]]) -> Callable[..., Outputs]:
    """x share(x), and its gradient."""

    def gelu(x: Array, upstream: Array, *, approximate: str) -> Outputs:
        p, slope = share(x, approximate)
        return x * p, upstream * (p + x * slope)

    return gelu


def _share(x: Array, approximate: str) -> tuple[Array, Array]:
    return _normal(x) if approximate == "none" else _logistic(x)


def _gelu_gradient(change: Callable[..., Array]) -> Callable[..., Outputs]:
    """The right value, with `change(x, share, slope, upstream)` for its gradient."""

    def gelu(x: Array, upstream: Array, *, approximate: str) -> Outputs:
        p, slope = _share(x, approximate)
        return x * p, change(x, p, slope, upstream)

    return gelu


def _quick(x: Array, approximate: str) -> tuple[Array, Array]:
    p = (1 + np.tanh(1.702 * x / 2)) / 2
    return p, 1.702 * p * (1 - p)


def _without_root_2(x: Array, approximate: str) -> tuple[Array, Array]:
    if approximate == "tanh":
        return _logistic(x)
    return (1 + _erf(x)) / 2, np.exp(-(x**2)) / math.sqrt(math.pi)


GELU: dict[str, Callable[..., Outputs]] = {
    "tanh's approximation, whichever was asked for": _gelu_by(lambda x, a: _logistic(x)),
    "erf, whichever was asked for": _gelu_by(lambda x, a: _normal(x)),
    "erf and tanh have changed places": _gelu_by(
        lambda x, a: _logistic(x) if a == "none" else _normal(x)
    ),
    "x sigmoid(1.702 x)": _gelu_by(_quick),
    "x sigmoid(x) (SiLU)": _gelu_by(
        lambda x, a: ((1 + np.tanh(x / 2)) / 2, (1 - np.tanh(x / 2) ** 2) / 4)
    ),
    "relu": _gelu_by(lambda x, a: ((x > 0) * 1.0, 0 * x)),
    "erf(x), not erf(x / sqrt 2)": _gelu_by(_without_root_2),
    "the half is missing": lambda x, upstream, *, approximate: tuple(
        2 * part for part in _gelu_by(_share)(x, upstream, approximate=approximate)
    ),
    "the distribution alone, not times x": lambda x, upstream, *, approximate: (
        _share(x, approximate)[0], upstream * _share(x, approximate)[1]
    ),
    "0.44715 instead of 0.044715 in tanh's approximation": _gelu_by(
        lambda x, a: _normal(x) if a == "none" else _logistic(x, cubic=0.44715)
    ),
    "0.0447 instead of 0.044715 in tanh's approximation": _gelu_by(
        lambda x, a: _normal(x) if a == "none" else _logistic(x, cubic=0.0447)
    ),
    "the cubic term is missing in tanh's approximation": _gelu_by(
        lambda x, a: _normal(x) if a == "none" else _logistic(x, cubic=0.0)
    ),
    "2 / pi without the root in tanh's approximation": _gelu_by(
        lambda x, a: _normal(x) if a == "none" else _logistic(x, root=2 / math.pi)
    ),
    "the gradient is the distribution alone: the term x P'(x) is missing": _gelu_gradient(
        lambda x, p, slope, g: g * p
    ),
    "the gradient is x P'(x) alone: the term P(x) is missing": _gelu_gradient(
        lambda x, p, slope, g: g * x * slope
    ),
    "the gradient has the density alone: P'(x) is not times x": _gelu_gradient(
        lambda x, p, slope, g: g * (p + slope)
    ),
    "the gradient is always that of erf": _gelu_gradient(
        lambda x, p, slope, g: g * (_normal(x)[0] + x * _normal(x)[1])
    ),
    "the gradient does not have the upstream gradient in it": _gelu_gradient(
        lambda x, p, slope, g: p + x * slope
    ),
    "the gradient is doubled": _gelu_gradient(lambda x, p, slope, g: 2 * g * (p + x * slope)),
}  # fmt: skip


def mistaken_layer_norm(
    x: Array,
    weight: Array,
    bias: Array,
    upstream: Array,
    *,
    eps: float,
    axis: int = -1,
    variance: Callable[[Array, int], Array] = lambda x, axis: x.var(axis=axis, keepdims=True),
    root: Callable[[Array, float], Array] = lambda v, eps: np.sqrt(v + eps),
    own_eps: float | None = None,
    centre: bool = True,
    affine: Callable[[Array, Array, Array], Array] = lambda n, w, b: n * w + b,
    inner: Callable[[Array], Array] = lambda w: w,
    terms: tuple[float, float] = (1.0, 1.0),
    over: str = "all",
) -> Outputs:
    """`layer_norm` with something wrong, as the options say.

    terms: how much of the gradient through the mean, and through the variance, there is.
    """
    below = root(variance(x, axis), eps if own_eps is None else own_eps)
    n = (x - x.mean(axis=axis, keepdims=True) if centre else x) / below
    h = upstream * inner(weight)
    by_mean = h.mean(axis=axis, keepdims=True)
    by_variance = n * (h * n).mean(axis=axis, keepdims=True)
    gradient = (h - terms[0] * by_mean - terms[1] * by_variance) / below
    before = tuple(range(x.ndim - 1)) if over == "all" else 0
    by_weight, by_bias = (upstream * n).sum(axis=before), upstream.sum(axis=before)
    if over == "mean":
        rows = x.size // x.shape[-1]
        by_weight, by_bias = by_weight / rows, by_bias / rows
    return affine(n, weight, bias), gradient, by_weight, by_bias


def _naive_variance(x: Array, axis: int) -> Array:
    return (x**2).mean(axis=axis, keepdims=True) - x.mean(axis=axis, keepdims=True) ** 2


def _mean_of_gradients(*arguments: Any, **options: Any) -> Outputs:
    value, gradient, by_weight, by_bias = mistaken_layer_norm(*arguments, **options)
    rows = value.size // value.shape[-1]
    return value, gradient, by_weight / rows, by_bias / rows


def _undone_affine(x: Array, weight: Array, bias: Array, upstream: Array, *, eps: float) -> Outputs:
    """The weight's gradient times the upstream one and the input, not the normalised input."""
    value, gradient, _, by_bias = mistaken_layer_norm(x, weight, bias, upstream, eps=eps)
    return value, gradient, (upstream * x).sum(axis=tuple(range(x.ndim - 1))), by_bias


LAYER_NORM: dict[str, Callable[..., Outputs]] = {
    "variance divided by C - 1 instead of C": partial(
        mistaken_layer_norm, variance=lambda x, axis: x.var(axis=axis, keepdims=True, ddof=1)
    ),
    "eps outside the root": partial(mistaken_layer_norm, root=lambda v, eps: np.sqrt(v) + eps),
    "eps is ignored": partial(mistaken_layer_norm, root=lambda v, eps: np.sqrt(v)),
    "eps squared": partial(mistaken_layer_norm, root=lambda v, eps: np.sqrt(v + eps**2)),
    "the larger of variance and eps": partial(
        mistaken_layer_norm, root=lambda v, eps: np.sqrt(np.maximum(v, eps))
    ),
    "eps is always 1e-5": partial(mistaken_layer_norm, own_eps=1e-5),
    "eps is always 1e-6": partial(mistaken_layer_norm, own_eps=1e-6),
    "eps is always 1e-12": partial(mistaken_layer_norm, own_eps=1e-12),
    "divided by the variance, not by its root": partial(
        mistaken_layer_norm, root=lambda v, eps: v + eps
    ),
    "E[x^2] - E[x]^2 for the variance": partial(mistaken_layer_norm, variance=_naive_variance),
    "about zero: the mean is not subtracted (RMS norm)": partial(
        mistaken_layer_norm, centre=False, terms=(0.0, 1.0),
        variance=lambda x, axis: (x**2).mean(axis=axis, keepdims=True),
    ),
    "the mean is not subtracted above the root": partial(mistaken_layer_norm, centre=False),
    "over the samples, not the channels (batch norm)": partial(mistaken_layer_norm, axis=0),
    "without weight and bias": partial(mistaken_layer_norm, affine=lambda n, w, b: n),
    "without the bias": partial(mistaken_layer_norm, affine=lambda n, w, b: n * w),
    "1 + weight instead of weight": partial(
        mistaken_layer_norm, affine=lambda n, w, b: n * (1 + w) + b, inner=lambda w: 1 + w
    ),
    "the bias is added before the weight is multiplied": partial(
        mistaken_layer_norm, affine=lambda n, w, b: (n + b) * w
    ),
    "the gradient does not go through mean and variance": partial(
        mistaken_layer_norm, terms=(0.0, 0.0)
    ),
    "the gradient does not go through the mean": partial(mistaken_layer_norm, terms=(0.0, 1.0)),
    "the gradient does not go through the variance": partial(
        mistaken_layer_norm, terms=(1.0, 0.0)
    ),
    "the weight is missing in the gradient": partial(
        mistaken_layer_norm, inner=lambda w: np.ones_like(w)
    ),
    "the gradients of weight and bias are means over the samples, not sums": _mean_of_gradients,
    "the gradient of the weight has the input, not the normalised input": _undone_affine,
}  # fmt: skip


def softmax_of(x: Array, axis: int = -1) -> Array:
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    p: Array = e / e.sum(axis=axis, keepdims=True)
    return p


def mistaken_softmax(
    x: Array,
    upstream: Array,
    *,
    axis: int,
    value: Callable[[Array, int], Array] = softmax_of,
    gradient: Callable[[Array, Array, int], Array] | None = None,
) -> Outputs:
    """`softmax` with something wrong, as the options say."""
    p = value(x, axis)
    back = _softmax_gradient if gradient is None else gradient
    return p, back(p, upstream, axis)


def _softmax_gradient(p: Array, g: Array, axis: int) -> Array:
    return p * (g - (p * g).sum(axis=axis, keepdims=True))


def _over(axis_of: Callable[[Array, int], int]) -> Callable[..., Outputs]:
    def softmax(x: Array, upstream: Array, *, axis: int) -> Outputs:
        return mistaken_softmax(x, upstream, axis=axis_of(x, axis))

    return softmax


def _flat_softmax(x: Array, upstream: Array, *, axis: int) -> Outputs:
    """Over everything."""
    flat = mistaken_softmax(x.reshape(-1), upstream.reshape(-1), axis=0)
    return tuple(part.reshape(x.shape) for part in flat)


def _common_maximum(x: Array, axis: int) -> Array:
    e = np.exp(x - x.max())
    return e / e.sum(axis=axis, keepdims=True)


def _log_softmax_pair(x: Array, upstream: Array, *, axis: int) -> Outputs:
    p = softmax_of(x, axis)
    return np.log(p), upstream - p * upstream.sum(axis=axis, keepdims=True)


SOFTMAX: dict[str, Callable[..., Outputs]] = {
    "the maximum is not subtracted: exp overflows": partial(
        mistaken_softmax,
        value=lambda x, axis: np.exp(x) / np.exp(x).sum(axis=axis, keepdims=True),
    ),
    "one maximum for all: small rows underflow": partial(mistaken_softmax, value=_common_maximum),
    "always the last axis": _over(lambda x, axis: -1),
    "always the first axis": _over(lambda x, axis: 0),
    "always axis 1": _over(lambda x, axis: min(1, x.ndim - 1)),
    "the wrong one of two axes": _over(lambda x, axis: 0 if axis in (-1, x.ndim - 1) else -1),
    "over all axes": _flat_softmax,
    "its logarithm": _log_softmax_pair,
    "1e-8 is added to the sum": partial(
        mistaken_softmax,
        value=lambda x, axis: np.exp(x - x.max(axis=axis, keepdims=True))
        / (np.exp(x - x.max(axis=axis, keepdims=True)).sum(axis=axis, keepdims=True) + 1e-8),
    ),
    "to the base 2, not e": partial(
        mistaken_softmax, value=lambda x, axis: softmax_of(x * math.log(2), axis)
    ),
    "the sign of the input is reversed (softmin)": partial(
        mistaken_softmax, value=lambda x, axis: softmax_of(-x, axis)
    ),
    "the gradient is p g: the sum over the others is missing": partial(
        mistaken_softmax, gradient=lambda p, g, axis: p * g
    ),
    "the gradient is p (1 - p) g: of the Jacobian only the diagonal": partial(
        mistaken_softmax, gradient=lambda p, g, axis: p * (1 - p) * g
    ),
    "the gradient has sum g where sum p g is meant": partial(
        mistaken_softmax, gradient=lambda p, g, axis: p * (g - g.sum(axis=axis, keepdims=True))
    ),
    "the gradient is not multiplied by p": partial(
        mistaken_softmax,
        gradient=lambda p, g, axis: g - (p * g).sum(axis=axis, keepdims=True),
    ),
    "the gradient is summed over the wrong axis": partial(
        mistaken_softmax,
        gradient=lambda p, g, axis: _softmax_gradient(
            p, g, 0 if axis in (-1, p.ndim - 1) else -1
        ),
    ),
    "the gradient has the wrong sign": partial(
        mistaken_softmax, gradient=lambda p, g, axis: -_softmax_gradient(p, g, axis)
    ),
}  # fmt: skip


def _scores(q: Array, k: Array, is_causal: bool, diagonal: int = 0, scale: float = 0.5) -> Array:
    scores = (q @ k.swapaxes(-1, -2)) / q.shape[-1] ** scale
    if is_causal:
        allowed = np.tri(*scores.shape[-2:], k=diagonal, dtype=bool)
        scores = np.where(allowed, scores, -np.inf)
    return scores


def mistaken_attention(
    q: Array,
    k: Array,
    v: Array,
    upstream: Array,
    *,
    is_causal: bool,
    power: float = 0.5,
    diagonal: Callable[[int, int], int] = lambda T, S: 0,
    causal: Callable[[bool], bool] = lambda asked: asked,
    masked: str = "before",
    share: Callable[[Array], Array] = softmax_of,
    axis: int = -1,
    backwards: Callable[[Array, Array], Array] | None = None,
    back_scale: bool = True,
) -> Outputs:
    """`scaled_dot_product_attention` with something wrong, as the options say."""
    T, S = q.shape[-2], k.shape[-2]
    before = causal(is_causal) and masked == "before"
    scores = _scores(q, k, before, diagonal(T, S), power)
    if causal(is_causal) and masked == "with 0":
        scores = scores * np.tri(T, S)
    p = softmax_of(scores, axis) if axis != -1 else share(scores)
    if causal(is_causal) and masked == "after":
        p = p * np.tri(T, S)
    slope = upstream @ v.swapaxes(-1, -2)
    by_scores = _softmax_gradient(p, slope, axis) if backwards is None else backwards(p, slope)
    if back_scale:
        by_scores = by_scores / q.shape[-1] ** power
    back = by_scores.swapaxes(-1, -2)
    return p @ v, by_scores @ k, back @ q, p.swapaxes(-1, -2) @ upstream


def _channels_scaled_by_positions(
    q: Array, k: Array, v: Array, upstream: Array, *, is_causal: bool
) -> Outputs:
    """Divided by the root of the number of keys."""
    factor = math.sqrt(q.shape[-1] / k.shape[-2])
    value, by_q, by_k, by_v = mistaken_attention(
        q * factor, k, v, upstream, is_causal=is_causal
    )
    return value, by_q * factor, by_k, by_v


def _swapped_gradients(
    q: Array, k: Array, v: Array, upstream: Array, *, is_causal: bool
) -> Outputs:
    value, by_q, by_k, by_v = mistaken_attention(q, k, v, upstream, is_causal=is_causal)
    return value, by_k, by_q, by_v


def _shared(q: Array, k: Array, v: Array, upstream: Array, *, is_causal: bool) -> Outputs:
    """Without a softmax: the scores themselves weigh."""
    scale = 1 / math.sqrt(q.shape[-1])
    allowed = np.tri(q.shape[-2], k.shape[-2]) if is_causal else 1.0
    p = (q @ k.swapaxes(-1, -2)) * scale * allowed
    by_scores = (upstream @ v.swapaxes(-1, -2)) * scale * allowed
    back = by_scores.swapaxes(-1, -2)
    return p @ v, by_scores @ k, back @ q, p.swapaxes(-1, -2) @ upstream


ATTENTION: dict[str, Callable[..., Outputs]] = {
    "not divided by sqrt D": partial(mistaken_attention, power=0.0),
    "divided by D, not by its root": partial(mistaken_attention, power=1.0),
    "divided by the root of the number of keys, not of D": _channels_scaled_by_positions,
    "the causal mask is ignored": partial(mistaken_attention, causal=lambda asked: False),
    "always causal": partial(mistaken_attention, causal=lambda asked: True),
    "the causal mask is off by one: a position sees the next one": partial(
        mistaken_attention, diagonal=lambda T, S: 1
    ),
    "the causal mask is off by one: a position does not see itself": partial(
        mistaken_attention, diagonal=lambda T, S: -1
    ),
    "the causal mask counts from the last key, not from the first": partial(
        mistaken_attention, diagonal=lambda T, S: S - T
    ),
    "masked after the softmax: the weights do not add up to 1": partial(
        mistaken_attention, masked="after"
    ),
    "masked with 0 instead of minus infinity": partial(mistaken_attention, masked="with 0"),
    "softmax over the queries, not the keys": partial(mistaken_attention, axis=-2),
    "the maximum is not subtracted: exp overflows": partial(
        mistaken_attention, share=lambda s: np.exp(s) / np.exp(s).sum(axis=-1, keepdims=True)
    ),
    "no softmax": _shared,
    "the gradients of q and k have changed places": _swapped_gradients,
    "sqrt D is missing in the gradients of q and k": partial(mistaken_attention, back_scale=False),
    "the gradient of the softmax lacks the sum over the others": partial(
        mistaken_attention, backwards=lambda p, slope: p * slope
    ),
    "the gradient does not go through the weights: q and k get none": partial(
        mistaken_attention, backwards=lambda p, slope: 0 * p
    ),
}


def mistaken_cross_entropy(
    logits: Array,
    targets: Array,
    *,
    log_p: Callable[[Array], Array] | None = None,
    hit: Callable[[Array, Array], Array] = lambda targets, classes: targets[:, None] == classes,
    reduce: Callable[[Array, tuple[int, ...]], Any] = lambda losses, shape: losses.mean(),
    divisor: Callable[[tuple[int, ...]], float] = lambda shape: math.prod(shape[:-1]),
    gradient: Callable[[Array, Array], Array] = lambda p, hit: p - hit,
) -> Outputs:
    """`cross_entropy` with something wrong, as the options say."""
    rows = logits.reshape(-1, logits.shape[-1])  # (..., C) -> (N, C)
    logs = _log_softmax(rows) if log_p is None else log_p(rows)
    at = hit(targets.reshape(-1), np.arange(rows.shape[1])) * 1.0
    losses = -np.where(at > 0, logs * at, 0.0).sum(axis=1)
    by_rows = gradient(softmax_of(rows), at) / divisor(logits.shape)
    return np.asarray(reduce(losses, logits.shape)), by_rows.reshape(logits.shape)


def _log_softmax(rows: Array) -> Array:
    shifted = rows - rows.max(axis=1, keepdims=True)
    logs: Array = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return logs


def _mean_over_batch(losses: Array, shape: tuple[int, ...]) -> Any:
    return losses.sum() / shape[0]


CROSS_ENTROPY: dict[str, Callable[..., Outputs]] = {
    "the sum, not the mean": partial(
        mistaken_cross_entropy, reduce=lambda losses, shape: losses.sum(), divisor=lambda s: 1.0
    ),
    "the gradient is that of the sum, the loss the mean": partial(
        mistaken_cross_entropy, divisor=lambda shape: 1.0
    ),
    "summed over positions, the mean over samples only": partial(
        mistaken_cross_entropy, reduce=_mean_over_batch, divisor=lambda shape: shape[0]
    ),
    "divided by the number of classes too": partial(
        mistaken_cross_entropy,
        reduce=lambda losses, shape: losses.mean() / shape[-1], divisor=math.prod,
    ),
    "the sign is missing": partial(
        mistaken_cross_entropy,
        reduce=lambda losses, shape: -losses.mean(), gradient=lambda p, hit: hit - p,
    ),
    "to the base 2, not e": partial(
        mistaken_cross_entropy,
        reduce=lambda losses, shape: losses.mean() / math.log(2),
        divisor=lambda shape: math.prod(shape[:-1]) * math.log(2),
    ),
    "the maximum is not subtracted: exp overflows": partial(
        mistaken_cross_entropy,
        log_p=lambda x: x - np.log(np.exp(x).sum(axis=1, keepdims=True)),
    ),
    "the logarithm of a softmax that underflows: infinity": partial(
        mistaken_cross_entropy, log_p=lambda x: np.log(softmax_of(x))
    ),
    "1e-8 is added inside the logarithm": partial(
        mistaken_cross_entropy, log_p=lambda x: np.log(softmax_of(x) + 1e-8)
    ),
    "logits are taken for probabilities: no softmax": partial(
        mistaken_cross_entropy, log_p=lambda x: np.log(x)
    ),
    "softmax twice: the logits are taken for probabilities and normalised again": partial(
        mistaken_cross_entropy, log_p=lambda x: _log_softmax(softmax_of(x))
    ),
    "the targets count from 1": partial(
        mistaken_cross_entropy,
        hit=lambda targets, classes: (targets[:, None] - 1) % len(classes) == classes,
    ),
    "all classes but the target": partial(
        mistaken_cross_entropy, hit=lambda targets, classes: targets[:, None] != classes
    ),
    "the targets are smoothed by 0.1": partial(
        mistaken_cross_entropy,
        hit=lambda targets, classes: 0.9 * (targets[:, None] == classes) + 0.1 / len(classes),
    ),
    "the gradient is the softmax: 1 at the target is not subtracted": partial(
        mistaken_cross_entropy, gradient=lambda p, hit: p
    ),
    "the gradient is that at the target only": partial(
        mistaken_cross_entropy, gradient=lambda p, hit: (p - hit) * hit
    ),
    "the gradient is by the probabilities, not by the logits": partial(
        mistaken_cross_entropy, gradient=lambda p, hit: -hit / p
    ),
}


def mistaken_cell(
    x: Array, state: Array, w_in: Array, b_in: Array, w_state: Array, b_state: Array,
    upstream: Array, *,
    order: tuple[int, int, int] = (0, 1, 2), keep: str = "z", slope: float = SLOPE,
    squash: str = "leaky", reset: str = "after", biases: bool = True, turned: bool = False,
    through: tuple[float, float] = (1.0, 1.0), direct: float = 1.0,
) -> Outputs:  # fmt: skip
    """`conv_gru_cell` with something wrong, as the options say.

    order: where reset, update and candidate stand in the weights.   keep: what the old state is
    multiplied by.   through: how much of the gradient goes through reset and update gate.
    """

    def gates(gates: Array) -> list[Array]:
        parts = np.split(gates, 3, axis=1)
        return [parts[i] for i in order]

    def ungated(*parts: Array) -> Array:
        back: list[Array] = [parts[0]] * 3
        for part, place in zip(parts, order, strict=True):
            back[place] = part
        return np.concatenate(back, axis=1)

    def kernel(w: Array) -> Array:
        return w[:, :, ::-1, ::-1] if turned else w

    on = 1.0 if biases else 0.0
    r_x, z_x, n_x = gates(_convolution(x, kernel(w_in), on * b_in))
    r_h, z_h, n_h = gates(_convolution(state, kernel(w_state), on * b_state))
    r, z = 1 / (1 + np.exp(-(r_x + r_h))), 1 / (1 + np.exp(-(z_x + z_h)))
    candidate_weights = gates_of(w_state, order[2])
    if reset == "before":
        n_h = _convolution(r * state, kernel(candidate_weights), on * gates_of(b_state, order[2]))
        before = n_x + n_h
    elif reset == "none":
        before = n_x + n_h
    elif reset == "both":
        before = r * (n_x + n_h)
    else:
        before = n_x + r * n_h
    if squash == "tanh":
        n, leak = np.tanh(before), 1 - np.tanh(before) ** 2
    elif squash == "sigmoid":
        n = 1 / (1 + np.exp(-before))
        leak = n * (1 - n)
    else:
        leak = np.where(before > 0, 1.0, slope)
        n = before * leak
    share = z if keep == "z" else 1 - z
    sign = 1.0 if keep == "z" else -1.0
    by_n = upstream * (1 - share) * leak
    by_z = through[1] * sign * upstream * (state - n) * z * (1 - z)
    if reset == "before":
        inner, by_w, by_b = _convolution_back(r * state, kernel(candidate_weights), by_n)
        by_r = through[0] * inner * state * r * (1 - r)
        zeros = 0 * by_n
        back = _convolution_back(state, kernel(w_state), ungated(by_r, by_z, zeros))
        by_state, by_w_state, by_b_state = back[0] + inner * r, back[1].copy(), back[2].copy()
        gates_of(by_w_state, order[2])[...] = by_w
        gates_of(by_b_state, order[2])[...] = by_b
        by_n_in = by_n
    else:
        inside = {"none": 0 * n_h, "both": n_x + n_h}.get(reset, n_h)
        by_r = through[0] * by_n * inside * r * (1 - r)
        by_n_h = by_n if reset == "none" else by_n * r
        by_n_in = by_n * r if reset == "both" else by_n
        by_state, by_w_state, by_b_state = _convolution_back(
            state, kernel(w_state), ungated(by_r, by_z, by_n_h)
        )
    by_x, by_w_in, by_b_in = _convolution_back(x, kernel(w_in), ungated(by_r, by_z, by_n_in))
    return (
        (1 - share) * n + share * state, by_x, by_state + direct * upstream * share,
        kernel(by_w_in), on * by_b_in, kernel(by_w_state), on * by_b_state,
    )  # fmt: skip


def gates_of(parameters: Array, place: int) -> Array:
    """One of the three parts of the weights or the biases, as a view."""
    size = len(parameters) // 3
    return parameters[place * size : (place + 1) * size]


CELL: dict[str, Callable[..., Outputs]] = {
    "reset and update have changed places in the weights": partial(
        mistaken_cell, order=(1, 0, 2)
    ),
    "the candidate comes first in the weights": partial(mistaken_cell, order=(1, 2, 0)),
    "update and candidate have changed places in the weights": partial(
        mistaken_cell, order=(0, 2, 1)
    ),
    "the update gate keeps the new state: 1 - z at the old one": partial(
        mistaken_cell, keep="1 - z"
    ),
    "tanh for the candidate, not leaky relu": partial(mistaken_cell, squash="tanh"),
    "sigmoid for the candidate, not leaky relu": partial(mistaken_cell, squash="sigmoid"),
    "slope 0.01 of the leaky relu, not 0.2": partial(mistaken_cell, slope=0.01),
    "relu, not leaky relu": partial(mistaken_cell, slope=0.0),
    "no activation function at the candidate": partial(mistaken_cell, slope=1.0),
    "the reset gate before the convolution of the state": partial(mistaken_cell, reset="before"),
    "no reset gate": partial(mistaken_cell, reset="none"),
    "the reset gate at the input's part of the candidate too": partial(
        mistaken_cell, reset="both"
    ),
    "no biases": partial(mistaken_cell, biases=False),
    "the kernels are turned around (a true convolution)": partial(mistaken_cell, turned=True),
    "the gradient does not go through the reset gate": partial(mistaken_cell, through=(0.0, 1.0)),
    "the gradient does not go through the update gate": partial(
        mistaken_cell, through=(1.0, 0.0)
    ),
    "the gradient does not go through the gates": partial(mistaken_cell, through=(0.0, 0.0)),
    "the old state gets no gradient directly": partial(mistaken_cell, direct=0.0),
}


SUITE = Suite(
    name="layers",
    text="the functions that networks are built from, values and gradients",
    conventions={
        "gradients": "by each array, for the upstream gradient by the value; cross_entropy has none",
        "gelu": 'approximate "none": x (1 + erf(x / sqrt 2)) / 2; "tanh": '
        "x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2",
        "layer norm": "over the last axis; variance divided by C, eps inside the root",
        "attention": "scores divided by sqrt D; is_causal: query t looks at keys 0..t",
        "cross-entropy": "the mean over all targets, in nats",
        "ConvGRU": "weights in the order reset, update, candidate; (1 - z) n + z h with "
        "n = leaky_relu(W_n * x + r (U_n * h), 0.2), U_n * h with its bias; * cross-correlates and "
        "keeps the size",
    },
    calls=(
        Call(
            "gelu", ("x", "upstream", "*", "approximate"), ("value", "gradient"),
            'all of any one shape; approximate "none" or "tanh".',
        ),
        Call(
            "layer_norm", ("x", "weight", "bias", "upstream", "*", "eps"),
            ("value", "gradient", "gradient_weight", "gradient_bias"),
            "x, upstream (..., C); weight, bias (C,).",
        ),
        Call(
            "softmax", ("x", "upstream", "*", "axis"), ("value", "gradient"),
            "all of any one shape; axis: whose sum is 1, from the end if negative.",
        ),
        Call(
            "scaled_dot_product_attention", ("q", "k", "v", "upstream", "*", "is_causal"),
            ("value", "gradient_q", "gradient_k", "gradient_v"),
            "q, upstream (..., T, D); k, v (..., S, D).",
        ),
        Call(
            "cross_entropy", ("logits", "targets"), ("loss", "gradient"),
            "logits (..., C); targets (...), whole numbers 0..C-1; loss without axes.",
        ),
        Call(
            "conv_gru_cell",
            ("x", "state", "w_in", "b_in", "w_state", "b_state", "upstream"),
            ("value", "gradient_x", "gradient_state", "gradient_w_in", "gradient_b_in",
             "gradient_w_state", "gradient_b_state"),
            "x (B, I, Y, X); state, upstream (B, C, Y, X); w_in (3 C, I, k, k), b_in (3 C,);\n"
            "w_state (3 C, C, k, k), b_state (3 C,). Odd kernels; zeros around.",
        ),
    ),
    cases=cases,
    own={
        "gelu": gelu,
        "layer_norm": layer_norm,
        "softmax": softmax,
        "scaled_dot_product_attention": scaled_dot_product_attention,
        "cross_entropy": cross_entropy,
        "conv_gru_cell": conv_gru_cell,
    },
    mistakes={
        "gelu": GELU,
        "layer_norm": LAYER_NORM,
        "softmax": SOFTMAX,
        "scaled_dot_product_attention": ATTENTION,
        "cross_entropy": CROSS_ENTROPY,
        "conv_gru_cell": CELL,
    },
)  # fmt: skip
