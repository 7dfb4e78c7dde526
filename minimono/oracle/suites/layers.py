"""Suite `layers`: the functions that networks are built from, values and gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any

import numpy as np

from minimono.backend import Array
from minimono.engine import functional as F
from minimono.engine.tensor import Tensor
from minimono.nn.convolution import ConvGRUCell
from minimono.oracle.case import BOUND, Case, Expected
from minimono.oracle.suite import Call, Entries, Suite, grouped
from minimono.oracle.suites.layers_formulas import TRUTHS, Outputs, softmax_of
from minimono.oracle.suites.layers_mistakes import MISTAKES
from minimono.oracle.suites.own import value_and_gradients
from minimono.oracle.truth import conditioned_by, float32, precise

FLOOR = 1e-30  # times eps: an absolute error that is always allowed, where float32 underflows


# ---- cases ---------------------------------------------------------------------------------------
#
# To what `conditioned_by` allows, the roundings of terms that cancel in the result are added:
# no implementation avoids them, though the result itself is well conditioned.


def _true(call: str, arguments: Mapping[str, Any]) -> list[Expected]:
    """Return the outputs of a call; what is no array of floats is an option of its truth."""
    lifted = {n for n, a in arguments.items() if np.asarray(a).ndim and a.dtype == np.float64}
    truth = partial(TRUTHS[call], **{n: a for n, a in arguments.items() if n not in lifted})
    find = _elementwise if call == "gelu" else partial(conditioned_by, precise)
    return find(truth, *(a for n, a in arguments.items() if n in lifted))


def _allowing(expected: Sequence[Expected], *more: Array | float) -> list[Expected]:
    """Return `expected`, where BOUND roundings of `more` are allowed on top."""
    return [
        Expected(e.value, np.asarray(e.linear) + BOUND * np.asarray(m) + FLOOR)
        for e, m in zip(expected, more, strict=True)
    ]


def _drawn(rng: np.random.Generator, *shape: int, size: float = 1.0) -> Array:
    return float32(size * rng.normal(size=shape))


def _gelus(rng: np.random.Generator) -> Entries:
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
    ]
    for (notes, x, g), approximate in product(plans, ("none", "tanh")):
        arguments = {"x": x, "upstream": g, "approximate": approximate}
        # (1 + erf) / 2, as most write it, rounds to a multiple of eps for x << 0
        more = abs(x), (1 + x**2 * (abs(x) < 40)) * abs(g)
        notes = f"{notes}; approximate={approximate}"
        yield notes, arguments, _allowing(_true("gelu", arguments), *more)


def _gelu_tails(rng: np.random.Generator) -> Entries:
    left = np.array([-5.1, -7.3, -10.1, -20.3, -30.7, -36.9])
    notes = "far to the left, with all digits: needs erfc or exp, not 1 + erf"
    for x, approximate in ((left, "none"), (left[:4], "tanh")):
        arguments = {"x": x, "upstream": np.ones_like(x), "approximate": approximate}
        yield f"{notes}; {approximate}", arguments, _true("gelu", arguments), {"extreme": True}


def _elementwise(truth: Callable[..., Outputs], x: Array, g: Array) -> list[Expected]:
    """Do what `conditioned_by` does, an element at a time: this is many times faster."""
    parts = [
        conditioned_by(precise, truth, a, b)
        for a, b in zip(x.reshape(-1, 1), g.reshape(-1, 1), strict=True)
    ]
    return [
        Expected(
            np.concatenate([p[i].value for p in parts]).reshape(x.shape),
            np.concatenate([np.asarray(p[i].linear) for p in parts]).reshape(x.shape),
        )
        for i in range(2)
    ]


def _layer_norms(rng: np.random.Generator) -> Entries:
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
    ]
    entries = [
        (n, float32(offset + _drawn(rng, *shape, size=size)), _drawn(rng, shape[-1]),
         _drawn(rng, shape[-1]), _drawn(rng, *shape), eps)
        for n, shape, offset, size, eps in plans
    ]
    ones, by_hand = np.ones(2), np.array([[1.0, 3.0], [8.0, 4.0]])
    entries += [
        ("to try by hand: -1, 1 and 1, -1", by_hand, ones, 0 * ones, np.array([[1.0, 0.0]] * 2),
         0.0),
        ("all channels equal: the bias, and no nan", np.full((2, 4), 3.0), _drawn(rng, 4),
         _drawn(rng, 4), _drawn(rng, 2, 4), 1e-5),
        ("one channel: nothing is left of it", np.array([[3.0], [-2.0]]), np.array([2.0]),
         np.array([0.5]), np.ones((2, 1)), 1e-5),
    ]
    for notes, x, weight, bias, g, eps in entries:
        arguments = {"x": x, "weight": weight, "bias": bias, "upstream": g, "eps": eps}
        spread = np.sqrt(x.var(axis=-1, keepdims=True) + eps)
        n, h = (x - x.mean(axis=-1, keepdims=True)) / spread, abs(g * weight)
        inner = h.mean(axis=-1, keepdims=True) + abs(n) * abs(h * n).mean(axis=-1, keepdims=True)
        kappa = (abs(x).max(axis=-1) / spread[..., 0]).max()
        expected = _true("layer_norm", arguments)
        yield (
            notes, arguments, _allowing(expected, 0.0, (h + inner) / spread, 0.0, 0.0),
            {"condition": max(1.0, float(kappa))},
        )


def _softmaxes(rng: np.random.Generator) -> Entries:
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
    ]
    for notes, x, axis in plans:
        g = _drawn(rng, *x.shape)
        arguments = {"x": x, "upstream": g, "axis": axis}
        expected = _true("softmax", arguments)
        p = expected[0].value
        terms = p * abs(x).max()  # of exp(x - log sum exp x)
        inner = (p + terms) * (abs(g) + (p * abs(g)).sum(axis=axis, keepdims=True))
        yield notes, arguments, _allowing(expected, terms, inner)


def _attentions(rng: np.random.Generator) -> Entries:
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
    ]
    for notes, before, T, S, D, size, causal in plans:
        q, k = _drawn(rng, *before, T, D, size=size), _drawn(rng, *before, S, D)
        v, g = _drawn(rng, *before, S, D), _drawn(rng, *before, T, D)
        arguments = {"q": q, "k": k, "v": v, "upstream": g, "is_causal": causal}
        expected = _true("scaled_dot_product_attention", arguments)
        yield notes, arguments, _allowing(expected, *_attention_terms(q, k, v, g, causal))


def _attention_terms(q: Array, k: Array, v: Array, g: Array, is_causal: bool) -> Outputs:
    """Return the sizes of the terms that are summed up in value and gradients."""
    scores = (q @ k.swapaxes(-1, -2)) / q.shape[-1] ** 0.5
    if is_causal:
        scores = np.where(np.tri(*scores.shape[-2:]) > 0, scores, -np.inf)
    share = softmax_of(scores)
    p = share * (1 + abs(scores[np.isfinite(scores)]).max())  # of exp(s - log sum exp s)
    slope = abs(g) @ abs(v).swapaxes(-1, -2)
    terms = p * (slope + (share * slope).sum(axis=-1, keepdims=True)) / math.sqrt(q.shape[-1])
    back = terms.swapaxes(-1, -2)
    return p @ abs(v), terms @ abs(k), back @ abs(q), p.swapaxes(-1, -2) @ abs(g)


def _cross_entropies(rng: np.random.Generator) -> Entries:
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
    for notes, logits in plans:
        classes = logits.shape[-1]
        targets = (np.arange(logits.size // classes) * 2 % classes).reshape(logits.shape[:-1])
        at_target = np.arange(classes) == targets[..., None]
        largest = float(abs(logits).max())
        terms = at_target + softmax_of(logits) * largest  # of exp(x - log sum exp x)
        arguments = {"logits": logits, "targets": targets}
        expected = _true("cross_entropy", arguments)
        yield notes, arguments, _allowing(expected, largest + 1.0, terms / targets.size)


def _conv_grus(rng: np.random.Generator) -> Entries:
    # notes, B, channels of the input, channels, Y, X, kernel size, size of the weights
    plans: list[tuple[str, int, int, int, int, int, int, float]] = [
        ("one pixel, one channel: a plain GRU", 1, 1, 1, 1, 1, 1, 1.0),
        ("kernel 1, two samples", 2, 2, 2, 2, 1, 1, 1.0),
        ("as many input channels as channels", 1, 2, 2, 2, 2, 1, 1.0),
        ("kernel 3: the neighbours count, zeros around", 1, 1, 1, 3, 2, 3, 0.5),
        ("large weights: gates near 0 and 1", 1, 1, 2, 2, 1, 1, 8.0),
    ]
    for notes, B, inputs, C, Y, X, size, weight in plans:
        arguments = {
            "x": _drawn(rng, B, inputs, Y, X),
            "state": _drawn(rng, B, C, Y, X),
            "w_in": _drawn(rng, 3 * C, inputs, size, size, size=weight),
            "b_in": _drawn(rng, 3 * C, size=0.5),
            "w_state": _drawn(rng, 3 * C, C, size, size, size=weight),
            "b_state": _drawn(rng, 3 * C, size=0.5),
            "upstream": _drawn(rng, B, C, Y, X),
        }
        yield notes, arguments, _allowing(_true("conv_gru_cell", arguments), *[0.0] * 7)


def cases() -> Iterator[Case]:
    return grouped(SUITE, [
        ("gelu", "gelu", 160608415, _gelus),
        ("gelu-tail", "gelu", 0, _gelu_tails),
        ("layer-norm", "layer_norm", 160706450, _layer_norms),
        ("softmax", "softmax", 986960440, _softmaxes),
        ("attention", "scaled_dot_product_attention", 170603762, _attentions),
        ("cross-entropy", "cross_entropy", 693147180, _cross_entropies),
        ("conv-gru", "conv_gru_cell", 170603458, _conv_grus),
    ])


# ---- minimono's own ------------------------------------------------------------------------------


def conv_gru_cell(
    x: Tensor, state: Tensor, w_in: Tensor, b_in: Tensor, w_state: Tensor, b_state: Tensor
) -> Tensor:
    rng = np.random.default_rng(0)  # the weights drawn with it are replaced
    cell = ConvGRUCell(x.shape[1], state.shape[1], w_in.shape[-1], rng=rng, dtype=x.dtype)
    cell.from_input.weight, cell.from_input.bias = w_in, b_in
    cell.from_state.weight, cell.from_state.bias = w_state, b_state
    return cell(x, state)


SUITE = Suite(
    name="layers",
    text="the functions that networks are built from, values and gradients",
    conventions={
        "gradients": "by each array; upstream is that by the value (cross_entropy has none)",
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
        Call("gelu", ("x", "upstream", "*", "approximate"), ("value", "gradient"),
             'all of any one shape; approximate "none" or "tanh".'),
        Call("layer_norm", ("x", "weight", "bias", "upstream", "*", "eps"),
             ("value", "gradient", "gradient_weight", "gradient_bias"),
             "x, upstream (..., C); weight, bias (C,)."),
        Call("softmax", ("x", "upstream", "*", "axis"), ("value", "gradient"),
             "all of any one shape; axis: whose sum is 1, from the end if negative."),
        Call("scaled_dot_product_attention", ("q", "k", "v", "upstream", "*", "is_causal"),
             ("value", "gradient_q", "gradient_k", "gradient_v"),
             "q, upstream (..., T, D); k, v (..., S, D)."),
        Call("cross_entropy", ("logits", "targets"), ("loss", "gradient"),
             "logits (..., C); targets (...), whole numbers 0..C-1; loss without axes."),
        Call("conv_gru_cell", ("x", "state", "w_in", "b_in", "w_state", "b_state", "upstream"),
             ("value", "gradient_x", "gradient_state", "gradient_w_in", "gradient_b_in",
             "gradient_w_state", "gradient_b_state"),
             "x (B, I, Y, X); state, upstream (B, C, Y, X); w_in (3 C, I, k, k), b_in (3 C,);\n"
             "w_state (3 C, C, k, k), b_state (3 C,). Odd kernels; zeros around."),
    ),
    cases=cases,
    own={
        "gelu": value_and_gradients(F.gelu, upstream=True),
        "layer_norm": value_and_gradients(F.layer_norm, (0, 1, 2), upstream=True),
        "softmax": value_and_gradients(F.softmax, upstream=True),
        "scaled_dot_product_attention": value_and_gradients(
            F.scaled_dot_product_attention, (0, 1, 2), upstream=True
        ),
        "cross_entropy": value_and_gradients(F.cross_entropy),
        "conv_gru_cell": value_and_gradients(conv_gru_cell, range(6), upstream=True),
    },
    mistakes=MISTAKES,
)
