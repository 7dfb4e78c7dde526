"""Known mistakes of suite `layers`: right functions in NumPy's float64, and knobs that spoil them.

`Mistakes` has a row for each mistake. A knob that changes a formula holds the wrong formula.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from minimono.backend import Array
from minimono.oracle.suite import Mistakes
from minimono.oracle.suites.layers_truth import SLOPE, Outputs, convolution, convolution_back

Formula = Callable[..., Any]

# ---- GELU ----------------------------------------------------------------------------------------

_erf = np.vectorize(math.erf, otypes=[float])
_erfc = np.vectorize(math.erfc, otypes=[float])


def _normal(x: Array) -> tuple[Array, Array]:
    """The normal distribution and its density."""
    return _erfc(-x / math.sqrt(2)) / 2, np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)


def _logistic(
    x: Array, root: float = math.sqrt(2 / math.pi), cubic: float = 0.044715
) -> tuple[Array, Array]:
    """Its approximation by tanh, and the slope of that."""
    u = root * (x + cubic * x**3)
    return (1 + np.tanh(u)) / 2, (1 - np.tanh(u) ** 2) / 2 * root * (1 + 3 * cubic * x**2)


def _quick(x: Array) -> tuple[Array, Array]:
    p = (1 + np.tanh(1.702 * x / 2)) / 2
    return p, 1.702 * p * (1 - p)


def _erf_of_x(x: Array) -> tuple[Array, Array]:
    return (1 + _erf(x)) / 2, np.exp(-(x**2)) / math.sqrt(math.pi)


def gelu(
    x: Array, upstream: Array, *, approximate: str,
    none: Formula = _normal, tanh: Formula = _logistic,
    value: Formula = lambda x, p: x * p,
    gradient: Formula = lambda x, p, slope, g: g * (p + x * slope),
) -> Outputs:
    """`gelu`. none, tanh: the distribution P and its slope in each version."""
    p, slope = none(x) if approximate == "none" else tanh(x)
    return value(x, p), gradient(x, p, slope, upstream)


def _both(share: Formula) -> dict[str, Formula]:
    return {"none": share, "tanh": share}


GELU = Mistakes(gelu, {
    "tanh's approximation, whichever was asked for": _both(_logistic),
    "erf, whichever was asked for": _both(_normal),
    "erf and tanh have changed places": {"none": _logistic, "tanh": _normal},
    "x sigmoid(1.702 x)": _both(_quick),
    "x sigmoid(x) (SiLU)": _both(partial(_logistic, root=1 / 2, cubic=0.0)),
    "relu": _both(lambda x: ((x > 0) * 1.0, 0 * x)),
    "erf(x), not erf(x / sqrt 2)": {"none": _erf_of_x},
    "the half is missing": {
        "value": lambda x, p: 2 * x * p, "gradient": lambda x, p, slope, g: 2 * g * (p + x * slope),
    },
    "the distribution alone, not times x":
        {"value": lambda x, p: p, "gradient": lambda x, p, slope, g: g * slope},
    "0.44715 instead of 0.044715 in tanh's approximation":
        {"tanh": partial(_logistic, cubic=0.44715)},
    "0.0447 instead of 0.044715 in tanh's approximation":
        {"tanh": partial(_logistic, cubic=0.0447)},
    "the cubic term is missing in tanh's approximation": {"tanh": partial(_logistic, cubic=0.0)},
    "2 / pi without the root in tanh's approximation":
        {"tanh": partial(_logistic, root=2 / math.pi)},
    "the gradient is the distribution alone: the term x P'(x) is missing":
        {"gradient": lambda x, p, slope, g: g * p},
    "the gradient is x P'(x) alone: the term P(x) is missing":
        {"gradient": lambda x, p, slope, g: g * x * slope},
    "the gradient has the density alone: P'(x) is not times x":
        {"gradient": lambda x, p, slope, g: g * (p + slope)},
    "the gradient is always that of erf":
        {"gradient": lambda x, p, slope, g: g * (_normal(x)[0] + x * _normal(x)[1])},
    "the gradient does not have the upstream gradient in it":
        {"gradient": lambda x, p, slope, g: p + x * slope},
    "the gradient is doubled": {"gradient": lambda x, p, slope, g: 2 * g * (p + x * slope)},
})

# ---- layer norm ----------------------------------------------------------------------------------


def layer_norm(
    x: Array, weight: Array, bias: Array, upstream: Array, *, eps: float,
    axis: int = -1, own_eps: float | None = None, centre: bool = True, ddof: int = 0,
    variance: Formula | None = None, root: Formula = lambda v, eps: np.sqrt(v + eps),
    affine: Formula = lambda n, w, b: n * w + b, inner: Formula = lambda w: w,
    through_mean: float = 1.0, through_variance: float = 1.0,
    seen: Formula = lambda x, n: n, mean_over_samples: bool = False,
) -> Outputs:
    """`layer_norm`. own_eps: is taken for any eps.   inner: the slope of `affine`.

    through_mean, through_variance: how much of the gradient goes through them.   seen: what the
    weight's gradient is multiplied by.
    """
    over: dict[str, Any] = {"axis": axis, "keepdims": True}
    spread = x.var(**over, ddof=ddof) if variance is None else variance(x, over)
    below = root(spread, eps if own_eps is None else own_eps)
    n = (x - x.mean(**over) if centre else x) / below
    h = upstream * inner(weight)
    by_variance = n * (h * n).mean(**over)
    gradient = (h - through_mean * h.mean(**over) - through_variance * by_variance) / below
    before = tuple(range(x.ndim - 1))
    rows = x.size // x.shape[-1] if mean_over_samples else 1
    by_weight = (upstream * seen(x, n)).sum(axis=before) / rows
    return affine(n, weight, bias), gradient, by_weight, upstream.sum(axis=before) / rows


LAYER_NORM = Mistakes(layer_norm, {
    "variance divided by C - 1 instead of C": {"ddof": 1},
    "eps outside the root": {"root": lambda v, eps: np.sqrt(v) + eps},
    "eps is ignored": {"own_eps": 0.0},
    "eps squared": {"root": lambda v, eps: np.sqrt(v + eps**2)},
    "the larger of variance and eps": {"root": lambda v, eps: np.sqrt(np.maximum(v, eps))},
    "eps is always 1e-5": {"own_eps": 1e-5},
    "eps is always 1e-6": {"own_eps": 1e-6},
    "eps is always 1e-12": {"own_eps": 1e-12},
    "divided by the variance, not by its root": {"root": lambda v, eps: v + eps},
    "E[x^2] - E[x]^2 for the variance":
        {"variance": lambda x, over: (x**2).mean(**over) - x.mean(**over) ** 2},
    "about zero: the mean is not subtracted (RMS norm)":
        {"variance": lambda x, over: (x**2).mean(**over), "centre": False, "through_mean": 0.0},
    "the mean is not subtracted above the root": {"centre": False},
    "over the samples, not the channels (batch norm)": {"axis": 0},
    "without weight and bias": {"affine": lambda n, w, b: n},
    "without the bias": {"affine": lambda n, w, b: n * w},
    "1 + weight instead of weight":
        {"affine": lambda n, w, b: n * (1 + w) + b, "inner": lambda w: 1 + w},
    "the bias is added before the weight is multiplied": {"affine": lambda n, w, b: (n + b) * w},
    "the gradient does not go through mean and variance":
        {"through_mean": 0.0, "through_variance": 0.0},
    "the gradient does not go through the mean": {"through_mean": 0.0},
    "the gradient does not go through the variance": {"through_variance": 0.0},
    "the weight is missing in the gradient": {"inner": np.ones_like},
    "the gradients of weight and bias are means over the samples, not sums":
        {"mean_over_samples": True},
    "the gradient of the weight has the input, not the normalised input":
        {"seen": lambda x, n: x},
})

# ---- softmax -------------------------------------------------------------------------------------


def _highest(x: Array, axis: Any) -> Array:
    highest: Array = x.max(axis=axis, keepdims=True)
    return highest


def softmax_of(
    x: Array, axis: Any = -1, subtracted: Formula = _highest, added: float = 0.0
) -> Array:
    e = np.exp(x - subtracted(x, axis))
    p: Array = e / (e.sum(axis=axis, keepdims=True) + added)
    return p


_overflowing = partial(softmax_of, subtracted=lambda x, axis: 0.0)


def _back(p: Array, g: Array, axis: Any) -> Array:
    """The gradient by what the softmax p is of."""
    return p * (g - (p * g).sum(axis=axis, keepdims=True))


def _other(axis: int, axes: int) -> int:
    return 0 if axis in (-1, axes - 1) else -1


def softmax(
    x: Array, upstream: Array, *, axis: int,
    over: Formula = lambda axis, axes: axis, factor: float = 1.0, of: Formula = softmax_of,
    out: Formula = lambda p: p, gradient: Formula = _back,
) -> Outputs:
    """`softmax`. over: which axis is taken.   factor: of the input.   out: what is returned."""
    axis = over(axis, x.ndim)
    p = of(factor * x, axis)
    return out(p), gradient(p, upstream, axis)


SOFTMAX = Mistakes(softmax, {
    "the maximum is not subtracted: exp overflows": {"of": _overflowing},
    "one maximum for all: small rows underflow":
        {"of": partial(softmax_of, subtracted=lambda x, axis: x.max())},
    "always the last axis": {"over": lambda axis, axes: -1},
    "always the first axis": {"over": lambda axis, axes: 0},
    "always axis 1": {"over": lambda axis, axes: min(1, axes - 1)},
    "the wrong one of two axes": {"over": _other},
    "over all axes": {"over": lambda axis, axes: tuple(range(axes))},
    "its logarithm":
        {"out": np.log, "gradient": lambda p, g, axis: g - p * g.sum(axis=axis, keepdims=True)},
    "1e-8 is added to the sum": {"of": partial(softmax_of, added=1e-8)},
    "to the base 2, not e": {"factor": math.log(2)},
    "the sign of the input is reversed (softmin)": {"factor": -1.0},
    "the gradient is p g: the sum over the others is missing":
        {"gradient": lambda p, g, axis: p * g},
    "the gradient is p (1 - p) g: of the Jacobian only the diagonal":
        {"gradient": lambda p, g, axis: p * (1 - p) * g},
    "the gradient has sum g where sum p g is meant":
        {"gradient": lambda p, g, axis: p * (g - g.sum(axis=axis, keepdims=True))},
    "the gradient is not multiplied by p":
        {"gradient": lambda p, g, axis: g - (p * g).sum(axis=axis, keepdims=True)},
    "the gradient is summed over the wrong axis":
        {"gradient": lambda p, g, axis: _back(p, g, _other(axis, p.ndim))},
    "the gradient has the wrong sign": {"gradient": lambda p, g, axis: -_back(p, g, axis)},
})

# ---- attention -----------------------------------------------------------------------------------


def attention(
    q: Array, k: Array, v: Array, upstream: Array, *, is_causal: bool,
    divisor: Formula = lambda D, S: math.sqrt(D), causal: bool | None = None,
    diagonal: Formula = lambda T, S: 0, masked: str = "before", share: Formula = softmax_of,
    axis: int = -1, back: Formula = _back, divided_back: bool = True, swapped: bool = False,
) -> Outputs:
    """`scaled_dot_product_attention`. causal: whatever was asked for.   masked: "before" or "after"
    the softmax, or "with 0".   back: from weights to scores.   swapped: the gradients of q and k.
    """
    T, S = q.shape[-2], k.shape[-2]
    masked = masked if (is_causal if causal is None else causal) else "never"
    allowed, below = np.tri(T, S, diagonal(T, S)), divisor(q.shape[-1], S)
    scores = q @ k.swapaxes(-1, -2) / below
    if masked == "before":
        scores = np.where(allowed > 0, scores, -np.inf)
    p = share(scores * allowed if masked == "with 0" else scores, axis)
    slope = upstream @ v.swapaxes(-1, -2)
    if masked == "after":
        p, slope = p * allowed, slope * allowed
    by_scores = back(p, slope, axis) / (below if divided_back else 1.0)
    by_q, by_k = by_scores @ k, by_scores.swapaxes(-1, -2) @ q
    by_q, by_k = (by_k, by_q) if swapped else (by_q, by_k)
    return p @ v, by_q, by_k, p.swapaxes(-1, -2) @ upstream


ATTENTION = Mistakes(attention, {
    "not divided by sqrt D": {"divisor": lambda D, S: 1.0},
    "divided by D, not by its root": {"divisor": lambda D, S: D},
    "divided by the root of the number of keys, not of D": {"divisor": lambda D, S: math.sqrt(S)},
    "the causal mask is ignored": {"causal": False},
    "always causal": {"causal": True},
    "the causal mask is off by one: a position sees the next one": {"diagonal": lambda T, S: 1},
    "the causal mask is off by one: a position does not see itself": {"diagonal": lambda T, S: -1},
    "the causal mask counts from the last key, not from the first":
        {"diagonal": lambda T, S: S - T},
    "masked after the softmax: the weights do not add up to 1": {"masked": "after"},
    "masked with 0 instead of minus infinity": {"masked": "with 0"},
    "softmax over the queries, not the keys": {"axis": -2},
    "the maximum is not subtracted: exp overflows": {"share": _overflowing},
    "no softmax":
        {"share": lambda s, axis: s, "masked": "after", "back": lambda p, slope, axis: slope},
    "the gradients of q and k have changed places": {"swapped": True},
    "sqrt D is missing in the gradients of q and k": {"divided_back": False},
    "the gradient of the softmax lacks the sum over the others":
        {"back": lambda p, slope, axis: p * slope},
    "the gradient does not go through the weights: q and k get none":
        {"back": lambda p, slope, axis: 0 * p},
})

# ---- cross-entropy -------------------------------------------------------------------------------


def _log_softmax(rows: Array) -> Array:
    shifted = rows - _highest(rows, 1)
    logs: Array = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return logs


def cross_entropy(
    logits: Array, targets: Array, *,
    log_p: Formula = _log_softmax, hit: Formula = lambda targets, classes: targets == classes,
    terms: Formula = lambda shape: math.prod(shape[:-1]), terms_back: Formula | None = None,
    factor: float = 1.0, gradient: Formula = lambda p, hit: p - hit,
) -> Outputs:
    """`cross_entropy`. terms: by which number the sum is divided; its gradient, by `terms_back`."""
    rows = logits.reshape(-1, logits.shape[-1])  # (..., C) -> (N, C)
    at = hit(targets.reshape(-1, 1), np.arange(rows.shape[1])) * 1.0
    loss = -np.where(at > 0, log_p(rows) * at, 0.0).sum() / terms(logits.shape)
    by_rows = gradient(softmax_of(rows), at) / (terms_back or terms)(logits.shape)
    return np.asarray(factor * loss), factor * by_rows.reshape(logits.shape)


CROSS_ENTROPY = Mistakes(cross_entropy, {
    "the sum, not the mean": {"terms": lambda shape: 1},
    "the gradient is that of the sum, the loss the mean": {"terms_back": lambda shape: 1},
    "summed over positions, the mean over samples only": {"terms": lambda shape: shape[0]},
    "divided by the number of classes too": {"terms": math.prod},
    "the sign is missing": {"factor": -1.0},
    "to the base 2, not e": {"factor": 1 / math.log(2)},
    "the maximum is not subtracted: exp overflows":
        {"log_p": lambda x: x - np.log(np.exp(x).sum(axis=1, keepdims=True))},
    "the logarithm of a softmax that underflows: infinity":
        {"log_p": lambda x: np.log(softmax_of(x))},
    "1e-8 is added inside the logarithm": {"log_p": lambda x: np.log(softmax_of(x) + 1e-8)},
    "logits are taken for probabilities: no softmax": {"log_p": np.log},
    "softmax twice: the logits are taken for probabilities and normalised again":
        {"log_p": lambda x: _log_softmax(softmax_of(x))},
    "the targets count from 1":
        {"hit": lambda targets, classes: (targets - 1) % len(classes) == classes},
    "all classes but the target": {"hit": lambda targets, classes: targets != classes},
    "the targets are smoothed by 0.1":
        {"hit": lambda targets, classes: 0.9 * (targets == classes) + 0.1 / len(classes)},
    "the gradient is the softmax: 1 at the target is not subtracted":
        {"gradient": lambda p, hit: p},
    "the gradient is that at the target only": {"gradient": lambda p, hit: (p - hit) * hit},
    "the gradient is by the probabilities, not by the logits":
        {"gradient": lambda p, hit: -hit / p},
})

# ---- the ConvGRU cell ----------------------------------------------------------------------------


def _sigmoid(x: Array) -> Array:
    p: Array = 1 / (1 + np.exp(-x))
    return p


# The candidate's activation function, and its slope.
SQUASH: dict[str, Formula] = {
    "leaky relu": lambda x, slope: (x * np.where(x > 0, 1.0, slope), np.where(x > 0, 1.0, slope)),
    "tanh": lambda x, slope: (np.tanh(x), 1 - np.tanh(x) ** 2),
    "sigmoid": lambda x, slope: (_sigmoid(x), _sigmoid(x) * (1 - _sigmoid(x))),
}


def conv_gru_cell(
    x: Array, state: Array, w_in: Array, b_in: Array, w_state: Array, b_state: Array,
    upstream: Array, *,
    order: tuple[int, int, int] = (0, 1, 2), keep: str = "z", squash: str = "leaky relu",
    slope: float = SLOPE, reset: str = "after", biases: float = 1.0, turned: bool = False,
    through_reset: float = 1.0, through_update: float = 1.0, direct: float = 1.0,
) -> Outputs:
    """`conv_gru_cell`. order: where reset, update and candidate stand in the weights.

    keep: what the old state is multiplied by.   reset: the reset gate "after" or "before" the
    convolution of the state, at the input's part too ("both") or nowhere ("none").   through_reset,
    through_update: how much of the gradient goes through them.
    """

    def turn(parameter: Array) -> Array:
        return parameter[..., ::-1, ::-1] if turned and parameter.ndim == 4 else parameter

    def parts(parameter: Array) -> list[Array]:
        thirds = np.split(turn(parameter), 3)
        return [thirds[i] for i in order]

    def whole(thirds: Sequence[Array]) -> Array:
        return turn(np.concatenate([thirds[i] for i in np.argsort(order)]))

    W, b, U, c = parts(w_in), parts(biases * b_in), parts(w_state), parts(biases * b_state)
    r_x, z_x, n_x = map(convolution, [x] * 3, W, b)
    r_h, z_h = map(convolution, [state] * 2, U, c)
    r, z = _sigmoid(r_x + r_h), _sigmoid(z_x + z_h)
    seen = r * state if reset == "before" else state
    n_h = convolution(seen, U[2], c[2])
    at_x, at_h = r if reset == "both" else 1.0, r if reset in ("after", "both") else 1.0
    n, leak = SQUASH[squash](at_x * n_x + at_h * n_h, slope)
    share, sign = (z, 1.0) if keep == "z" else (1 - z, -1.0)

    by_n = upstream * (1 - share) * leak
    by_seen, by_U_n, by_c_n = convolution_back(seen, U[2], at_h * by_n)
    by_gate = {"after": by_n * n_h, "both": by_n * (n_x + n_h), "none": 0 * by_n,
               "before": by_seen * state}[reset]
    by_r = through_reset * by_gate * r * (1 - r)
    by_z = through_update * sign * upstream * (state - n) * z * (1 - z)
    slopes = by_r, by_z, at_x * by_n
    by_x, by_W, by_b = zip(*map(convolution_back, [x] * 3, W, slopes), strict=True)
    by_h, by_U, by_c = zip(*map(convolution_back, [state] * 2, U, (by_r, by_z)), strict=True)
    by_state = sum(by_h) + by_seen * (r if reset == "before" else 1.0)
    return (
        (1 - share) * n + share * state, sum(by_x), by_state + direct * upstream * share,
        whole(by_W), biases * whole(by_b), whole([*by_U, by_U_n]), biases * whole([*by_c, by_c_n]),
    )


CELL = Mistakes(conv_gru_cell, {
    "reset and update have changed places in the weights": {"order": (1, 0, 2)},
    "the candidate comes first in the weights": {"order": (1, 2, 0)},
    "update and candidate have changed places in the weights": {"order": (0, 2, 1)},
    "the update gate keeps the new state: 1 - z at the old one": {"keep": "1 - z"},
    "tanh for the candidate, not leaky relu": {"squash": "tanh"},
    "sigmoid for the candidate, not leaky relu": {"squash": "sigmoid"},
    "slope 0.01 of the leaky relu, not 0.2": {"slope": 0.01},
    "relu, not leaky relu": {"slope": 0.0},
    "no activation function at the candidate": {"slope": 1.0},
    "the reset gate before the convolution of the state": {"reset": "before"},
    "no reset gate": {"reset": "none"},
    "the reset gate at the input's part of the candidate too": {"reset": "both"},
    "no biases": {"biases": 0.0},
    "the kernels are turned around (a true convolution)": {"turned": True},
    "the gradient does not go through the reset gate": {"through_reset": 0.0},
    "the gradient does not go through the update gate": {"through_update": 0.0},
    "the gradient does not go through the gates": {"through_reset": 0.0, "through_update": 0.0},
    "the old state gets no gradient directly": {"direct": 0.0},
})

MISTAKES = {
    "gelu": GELU,
    "layer_norm": LAYER_NORM,
    "softmax": SOFTMAX,
    "scaled_dot_product_attention": ATTENTION,
    "cross_entropy": CROSS_ENTROPY,
    "conv_gru_cell": CELL,
}
