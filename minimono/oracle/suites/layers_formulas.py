"""The formulas of suite `layers`: value and gradients, with knobs that make them wrong.

A knob is an argument by name with a default: without knobs a formula is right. For arrays of
mpmath's numbers it gives the truth, with 50 digits; for floats, what NumPy makes of it. All are
written apart from minimono's engine. `upstream` is the loss's gradient by the value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from minimono.backend import Array
from minimono.oracle.truth import mpmath

Formula = Callable[..., Any]
Outputs = tuple[Array, ...]

SLOPE = 0.2  # of the ConvGRU cell's leaky relu


def _each(name: str, x: Array) -> Array:
    """Apply a function of mpmath, element by element."""
    out: Array = np.vectorize(getattr(mpmath(), name), otypes=[object])(x)
    return out


def exp(x: Array) -> Array:
    return _each("exp", x) if x.dtype == object else np.exp(x)


def log(x: Array) -> Array:
    return _each("log", x) if x.dtype == object else np.log(x)


def sigmoid(x: Array) -> Array:
    p: Array = 1 / (1 + exp(-x))
    return p


# ---- GELU ----------------------------------------------------------------------------------------

_erfc = np.vectorize(math.erfc, otypes=[float])


def normal(x: Array) -> tuple[Array, Array]:
    """Return the normal distribution at x, and its density."""
    return _erfc(-x / math.sqrt(2)) / 2, np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)


def logistic(
    x: Array, root: float = math.sqrt(2 / math.pi), cubic: float = 0.044715
) -> tuple[Array, Array]:
    """Return its approximation by tanh, and the slope of that."""
    u = root * (x + cubic * x**3)
    return (1 + np.tanh(u)) / 2, (1 - np.tanh(u) ** 2) / 2 * root * (1 + 3 * cubic * x**2)


def true_normal(x: Array) -> tuple[Array, Array]:
    mp = mpmath()
    return _each("erfc", -x / mp.sqrt(2)) / 2, exp(-x * x / 2) / mp.sqrt(2 * mp.pi)


def true_logistic(x: Array) -> tuple[Array, Array]:
    root, cubic = mpmath().sqrt(2 / mpmath().pi), mpmath().mpf("0.044715")
    p = sigmoid(2 * root * (x + cubic * x**3))
    return p, p * (1 - p) * (2 * root * (1 + 3 * cubic * x**2))


def gelu(
    x: Array, upstream: Array, *, approximate: str,
    none: Formula = normal, tanh: Formula = logistic,
    value: Formula = lambda x, p: x * p,
    gradient: Formula = lambda x, p, slope, g: g * (p + x * slope),
) -> Outputs:
    """Return x P(x) and its gradient. none, tanh: give P and its slope, in each version."""
    p, slope = none(x) if approximate == "none" else tanh(x)
    return value(x, p), gradient(x, p, slope, upstream)


# ---- layer norm ----------------------------------------------------------------------------------


def layer_norm(
    x: Array, weight: Array, bias: Array, upstream: Array, *, eps: float,
    axis: int = -1, own_eps: float | None = None, centre: bool = True, ddof: int = 0,
    variance: Formula | None = None, root: Formula = lambda v, eps: np.sqrt(v + eps),
    affine: Formula = lambda n, w, b: n * w + b, inner: Formula = lambda w: w,
    through_mean: float = 1.0, through_variance: float = 1.0,
    seen: Formula = lambda x, n: n, mean_over_samples: bool = False,
) -> Outputs:
    """Return n w + b with n = (x - mean) / root, and the gradients by x, w and b.

    own_eps: is taken for any eps.   inner: the slope of `affine`.   through_mean, through_variance:
    how much of the gradient goes through them.   seen: what the weight's gradient has in it.
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


# ---- softmax -------------------------------------------------------------------------------------


def highest(x: Array, axis: Any) -> Array:
    most: Array = x.max(axis=axis, keepdims=True)
    return most


def softmax_of(
    x: Array, axis: Any = -1, subtracted: Formula = highest, added: float = 0.0
) -> Array:
    e = exp(x - subtracted(x, axis))
    p: Array = e / (e.sum(axis=axis, keepdims=True) + added)
    return p


unshifted_softmax = partial(softmax_of, subtracted=lambda x, axis: 0)


def softmax_back(p: Array, g: Array, axis: Any) -> Array:
    """Return the gradient by x where p = softmax(x) and g is that by p."""
    return p * (g - (p * g).sum(axis=axis, keepdims=True))


def softmax(
    x: Array, upstream: Array, *, axis: int,
    over: Formula = lambda axis, axes: axis, factor: float = 1.0, of: Formula = softmax_of,
    out: Formula = lambda p: p, gradient: Formula = softmax_back,
) -> Outputs:
    """Return p and its gradient. over: gives the axis.   factor: of x.   out: is applied to p."""
    axis = over(axis, x.ndim)
    p = of(factor * x, axis)
    return out(p), gradient(p, upstream, axis)


# ---- attention -----------------------------------------------------------------------------------


def attention(
    q: Array, k: Array, v: Array, upstream: Array, *, is_causal: bool,
    scale: Formula = lambda D, S: 1 / math.sqrt(D), causal: bool | None = None,
    diagonal: Formula = lambda T, S: 0, masked: str = "before", share: Formula = softmax_of,
    axis: int = -1, back: Formula = softmax_back, scaled_back: bool = True, swapped: bool = False,
) -> Outputs:
    """Return p v with p = softmax(scale q k'), and the gradients by q, k and v.

    causal: is taken for is_causal.   masked: "before" or "after" the softmax, or "with 0".
    back: leads from weights to scores.   swapped: whether q and k get each other's gradient.
    """
    T, S = q.shape[-2], k.shape[-2]
    masked = masked if (is_causal if causal is None else causal) else "never"
    allowed, factor = np.tri(T, S, diagonal(T, S)), scale(q.shape[-1], S)
    scores = q @ k.swapaxes(-1, -2) * factor
    if masked == "before":
        scores = np.where(allowed > 0, scores, -np.inf)
    p = share(scores * allowed if masked == "with 0" else scores, axis)
    slope = upstream @ v.swapaxes(-1, -2)
    if masked == "after":
        p, slope = p * allowed, slope * allowed
    by_scores = back(p, slope, axis) * (factor if scaled_back else 1.0)
    by_q, by_k = by_scores @ k, by_scores.swapaxes(-1, -2) @ q
    by_q, by_k = (by_k, by_q) if swapped else (by_q, by_k)
    return p @ v, by_q, by_k, p.swapaxes(-1, -2) @ upstream


# ---- cross-entropy -------------------------------------------------------------------------------


def log_softmax(rows: Array) -> Array:
    shifted = rows - highest(rows, 1)
    logs: Array = shifted - log(exp(shifted).sum(axis=1, keepdims=True))
    return logs


def cross_entropy(
    logits: Array, targets: Array, *,
    log_p: Formula = log_softmax, hit: Formula = lambda targets, classes: targets == classes,
    terms: Formula = lambda shape: math.prod(shape[:-1]), terms_back: Formula | None = None,
    factor: float = 1.0, gradient: Formula = lambda p, hit: p - hit,
) -> Outputs:
    """Return a sum divided by `terms`, and its gradient, divided by `terms_back`."""
    rows = logits.reshape(-1, logits.shape[-1])  # (..., C) -> (N, C)
    at = hit(targets.reshape(-1, 1), np.arange(rows.shape[1])) * 1.0
    loss = -np.where(at > 0, log_p(rows) * at, 0.0).sum() / terms(logits.shape)
    by_rows = gradient(softmax_of(rows), at) / (terms_back or terms)(logits.shape)
    return np.asarray(factor * loss), factor * by_rows.reshape(logits.shape)


# ---- the ConvGRU cell ----------------------------------------------------------------------------


# The candidate's activation function, and its slope.
SQUASH: dict[str, Formula] = {
    "leaky relu": lambda x, slope: (x * np.where(x > 0, 1.0, slope), np.where(x > 0, 1.0, slope)),
    "tanh": lambda x, slope: (np.tanh(x), 1 - np.tanh(x) ** 2),
    "sigmoid": lambda x, slope: (sigmoid(x), sigmoid(x) * (1 - sigmoid(x))),
}


def convolution(x: Array, w: Array, b: Array) -> Array:
    """Cross-correlate, keeping the size: (B, C, Y, X), (D, C, k, k) -> (B, D, Y, X)."""
    out = b[None, :, None, None]
    for (i, j), seen in _shifted(x, w.shape[-1]):
        out = out + _channels(w[:, :, i, j], seen)
    return out


def convolution_back(x: Array, w: Array, g: Array) -> Outputs:
    """Return the gradients by x, w and b."""
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
    # (D, C), (B, C, Y, X) -> (B, D, Y, X)
    return (w[None, :, :, None, None] * x[:, None]).sum(axis=2)


def conv_gru_cell(
    x: Array, state: Array, w_in: Array, b_in: Array, w_state: Array, b_state: Array,
    upstream: Array, *,
    order: tuple[int, int, int] = (0, 1, 2), keep: str = "z", squash: str = "leaky relu",
    slope: float = SLOPE, reset: str = "after", biases: float = 1.0, turned: bool = False,
    through_reset: float = 1.0, through_update: float = 1.0, direct: float = 1.0,
) -> Outputs:
    """Return (1 - z) n + z h with gates r, z and candidate n, and the gradients by all six.

    order: where r, z and n stand in the weights.   keep: what h is multiplied by.   reset: r comes
    "after" or "before" the convolution of h, at the part of x too ("both") or nowhere ("none").
    through_reset, through_update: how much of the gradient goes through r and z.
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
    r, z = sigmoid(r_x + r_h), sigmoid(z_x + z_h)
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


TRUTHS: dict[str, Callable[..., Outputs]] = {
    "gelu": partial(gelu, none=true_normal, tanh=true_logistic),
    "layer_norm": layer_norm,
    "softmax": softmax,
    "scaled_dot_product_attention": partial(
        attention, scale=lambda D, S: 1 / mpmath().sqrt(D), share=unshifted_softmax
    ),
    "cross_entropy": cross_entropy,
    "conv_gru_cell": conv_gru_cell,
}
