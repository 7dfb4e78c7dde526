"""Known mistakes of suite `layers`, in NumPy's float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from minimono.backend import Array
from minimono.oracle.suites.layers_truth import SLOPE, Outputs, convolution, convolution_back

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


def scores_of(q: Array, k: Array, is_causal: bool, diagonal: int = 0, scale: float = 0.5) -> Array:
    scores = (q @ k.swapaxes(-1, -2)) / q.shape[-1] ** scale
    if is_causal:
        allowed = np.tri(scores.shape[-2], scores.shape[-1], diagonal) > 0
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
    scores = scores_of(q, k, before, diagonal(T, S), power)
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
    value, by_q, by_k, by_v = mistaken_attention(q * factor, k, v, upstream, is_causal=is_causal)
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
        reduce=lambda losses, shape: losses.mean() / shape[-1],
        divisor=math.prod,
    ),
    "the sign is missing": partial(
        mistaken_cross_entropy,
        reduce=lambda losses, shape: -losses.mean(),
        gradient=lambda p, hit: hit - p,
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
    r_x, z_x, n_x = gates(convolution(x, kernel(w_in), on * b_in))
    r_h, z_h, n_h = gates(convolution(state, kernel(w_state), on * b_state))
    r, z = 1 / (1 + np.exp(-(r_x + r_h))), 1 / (1 + np.exp(-(z_x + z_h)))
    candidate_weights = gates_of(w_state, order[2])
    if reset == "before":
        n_h = convolution(r * state, kernel(candidate_weights), on * gates_of(b_state, order[2]))
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
        inner, by_w, by_b = convolution_back(r * state, kernel(candidate_weights), by_n)
        by_r = through[0] * inner * state * r * (1 - r)
        zeros = 0 * by_n
        back = convolution_back(state, kernel(w_state), ungated(by_r, by_z, zeros))
        by_state, by_w_state, by_b_state = back[0] + inner * r, back[1].copy(), back[2].copy()
        gates_of(by_w_state, order[2])[...] = by_w
        gates_of(by_b_state, order[2])[...] = by_b
        by_n_in = by_n
    else:
        inside = {"none": 0 * n_h, "both": n_x + n_h}.get(reset, n_h)
        by_r = through[0] * by_n * inside * r * (1 - r)
        by_n_h = by_n if reset == "none" else by_n * r
        by_n_in = by_n * r if reset == "both" else by_n
        by_state, by_w_state, by_b_state = convolution_back(
            state, kernel(w_state), ungated(by_r, by_z, by_n_h)
        )
    by_x, by_w_in, by_b_in = convolution_back(x, kernel(w_in), ungated(by_r, by_z, by_n_in))
    return (
        (1 - share) * n + share * state, by_x, by_state + direct * upstream * share,
        kernel(by_w_in), on * by_b_in, kernel(by_w_state), on * by_b_state,
    )  # fmt: skip


def gates_of(parameters: Array, place: int) -> Array:
    """One of the three parts of the weights or the biases, as a view."""
    size = len(parameters) // 3
    return parameters[place * size : (place + 1) * size]


CELL: dict[str, Callable[..., Outputs]] = {
    "reset and update have changed places in the weights": partial(mistaken_cell, order=(1, 0, 2)),
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
    "the reset gate at the input's part of the candidate too": partial(mistaken_cell, reset="both"),
    "no biases": partial(mistaken_cell, biases=False),
    "the kernels are turned around (a true convolution)": partial(mistaken_cell, turned=True),
    "the gradient does not go through the reset gate": partial(mistaken_cell, through=(0.0, 1.0)),
    "the gradient does not go through the update gate": partial(mistaken_cell, through=(1.0, 0.0)),
    "the gradient does not go through the gates": partial(mistaken_cell, through=(0.0, 0.0)),
    "the old state gets no gradient directly": partial(mistaken_cell, direct=0.0),
}
