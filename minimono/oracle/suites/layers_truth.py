"""The truth of suite `layers`: value and gradients as formulas, for arrays of mpmath's numbers.

They are written apart from minimono's engine. g is the upstream gradient, that by the value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from minimono.backend import Array
from minimono.oracle.truth import mpmath

SLOPE = 0.2  # of the ConvGRU cell's leaky relu

Outputs = tuple[Array, ...]


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
        e = e * np.tri(e.shape[-2], e.shape[-1])
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


def convolution(x: Array, w: Array, b: Array) -> Array:
    """Cross-correlation that keeps the size: (B, C, Y, X), (D, C, k, k) -> (B, D, Y, X)."""
    out = b[None, :, None, None]
    for (i, j), seen in _shifted(x, w.shape[-1]):
        out = out + _channels(w[:, :, i, j], seen)
    return out


def convolution_back(x: Array, w: Array, g: Array) -> Outputs:
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
    # (D, C), (B, C, Y, X) -> (B, D, Y, X)
    return (w[None, :, :, None, None] * x[:, None]).sum(axis=2)


def true_conv_gru_cell(
    x: Array, state: Array, w_in: Array, b_in: Array, w_state: Array, b_state: Array, g: Array
) -> Outputs:
    """(1 - z) n + z h with gates r, z and candidate n, and the gradients by all six."""
    r_x, z_x, n_x = _thirds(convolution(x, w_in, b_in))
    r_h, z_h, n_h = _thirds(convolution(state, w_state, b_state))
    r, z = _sigmoid(r_x + r_h), _sigmoid(z_x + z_h)
    before = n_x + r * n_h
    leak = np.where(before > 0, mpmath().mpf(1), mpmath().mpf(SLOPE))
    n = before * leak
    by_n = g * (1 - z) * leak
    by_r, by_z = by_n * n_h * r * (1 - r), g * (state - n) * z * (1 - z)
    in_back = convolution_back(x, w_in, np.concatenate([by_r, by_z, by_n], axis=1))
    state_back = convolution_back(state, w_state, np.concatenate([by_r, by_z, by_n * r], axis=1))
    direct = g * z
    return ((1 - z) * n + z * state, in_back[0], state_back[0] + direct, *in_back[1:],
            *state_back[1:])


def _thirds(gates: Array) -> list[Array]:
    return np.split(gates, 3, axis=1)  # (B, 3 C, Y, X) -> three times (B, C, Y, X)


TRUTHS: dict[str, Callable[..., Outputs]] = {
    "gelu": true_gelu,
    "layer_norm": true_layer_norm,
    "softmax": true_softmax,
    "scaled_dot_product_attention": true_attention,
    "cross_entropy": true_cross_entropy,
    "conv_gru_cell": true_conv_gru_cell,
}
