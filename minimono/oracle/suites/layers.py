"""Suite `layers`: the usual layers of networks, values and gradients, against mpmath."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np

from minimono.backend import Array
from minimono.engine import functional as F
from minimono.engine.tensor import Tensor
from minimono.oracle.case import BOUND, Case
from minimono.oracle.suite import Call, Suite
from minimono.oracle.truth import conditioned_by, float32, mpmath, precise

TANH_GELU = "0.044715"


# ---- the truth, in mpmath's numbers: each value, and its gradients for an upstream ---------------


def each(function: str, x: Array) -> Array:
    """An mpmath function, element by element."""
    return np.asarray(np.frompyfunc(getattr(mpmath(), function), 1, 1)(x), dtype=object)


def gelu(x: Array, upstream: Array, approximate: str) -> list[Array]:
    mp = mpmath()
    if approximate == "tanh":
        c, a = mp.sqrt(2 / mp.pi), mp.mpf(TANH_GELU)
        half = 1 / (1 + each("exp", -2 * c * (x + a * x**3)))  # (1 + tanh) / 2
        slope = 2 * half * (1 - half) * c * (1 + 3 * a * x**2)
    else:
        half = each("erfc", -x / mp.sqrt(2)) / 2
        slope = each("exp", -(x**2) / 2) / mp.sqrt(2 * mp.pi)
    return [x * half, upstream * (half + x * slope)]


def layer_norm(x: Array, weight: Array, bias: Array, upstream: Array, eps: float) -> list[Array]:
    C = x.shape[-1]
    d = x - x.sum(axis=-1, keepdims=True) / C
    sigma = each("sqrt", (d * d).sum(axis=-1, keepdims=True) / C + mpmath().mpf(eps))
    hat = d / sigma
    g = upstream * weight
    inner = g - g.sum(axis=-1, keepdims=True) / C - hat * (g * hat).sum(axis=-1, keepdims=True) / C
    rows = tuple(range(x.ndim - 1))
    by_weight, by_bias = (upstream * hat).sum(axis=rows), upstream.sum(axis=rows)
    return [hat * weight + bias, inner / sigma, by_weight, by_bias]


def softmax(x: Array, upstream: Array, axis: int) -> list[Array]:
    e = each("exp", x - x.max(axis=axis, keepdims=True))
    p = e / e.sum(axis=axis, keepdims=True)
    return [p, p * (upstream - (upstream * p).sum(axis=axis, keepdims=True))]


def attention(q: Array, k: Array, v: Array, upstream: Array, is_causal: bool) -> list[Array]:
    """q, k, v, upstream: (..., T, D)."""
    T, D = q.shape[-2:]
    root = mpmath().sqrt(D)
    out = [np.empty(a.shape, dtype=object) for a in (q, q, k, v)]
    value, dq, dk, dv = out
    for at in np.ndindex(q.shape[:-2]):
        scores = (q[at] @ k[at].T) / root  # (T, D) @ (D, T) -> (T, T)
        e = each("exp", scores - scores.max(axis=1, keepdims=True))
        if is_causal:
            e = e * np.tril(np.ones((T, T), dtype=int))
        p = e / e.sum(axis=1, keepdims=True)
        value[at] = p @ v[at]
        dv[at] = p.T @ upstream[at]
        dp = upstream[at] @ v[at].T
        ds = p * (dp - (dp * p).sum(axis=1, keepdims=True)) / root
        dq[at], dk[at] = ds @ k[at], ds.T @ q[at]
    return out


def cross_entropy(logits: Array, targets: Array) -> list[Array]:
    rows = logits.reshape(-1, logits.shape[-1])  # (..., C) -> (N, C)
    e = each("exp", rows - rows.max(axis=1, keepdims=True))
    p = e / e.sum(axis=1, keepdims=True)
    n = np.arange(len(rows))
    chosen = p[n, targets.reshape(-1)]
    p[n, targets.reshape(-1)] = chosen - 1
    loss = np.array(-each("log", chosen).sum() / len(rows), dtype=object)
    return [loss, p.reshape(logits.shape) / len(rows)]


def convolve(x: Array, weight: Array) -> Array:
    """(B, C, Y, X) with (D, C, K, K), the size kept."""
    B, C, Y, X = x.shape
    K = weight.shape[-1]
    padded = np.zeros((B, C, Y + K - 1, X + K - 1), dtype=x.dtype) * x.reshape(-1)[0]
    padded[:, :, K // 2 : K // 2 + Y, K // 2 : K // 2 + X] = x
    windows = np.lib.stride_tricks.sliding_window_view(padded, (K, K), axis=(2, 3))
    return np.tensordot(windows, weight, axes=[(1, 4, 5), (1, 2, 3)]).transpose(0, 3, 1, 2)


def convolve_back(x: Array, weight: Array, g: Array) -> tuple[Array, Array, Array]:
    """The gradients of `convolve` by x and weight, and by a bias, for g (B, D, Y, X)."""
    turned = weight[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)  # (D, C, K, K) -> (C, D, K, K)
    B, C, Y, X = x.shape
    K = weight.shape[-1]
    padded = np.zeros((B, C, Y + K - 1, X + K - 1), dtype=x.dtype) * x.reshape(-1)[0]
    padded[:, :, K // 2 : K // 2 + Y, K // 2 : K // 2 + X] = x
    windows = np.lib.stride_tricks.sliding_window_view(padded, (Y, X), axis=(2, 3))
    by_weight = np.tensordot(g, windows, axes=[(0, 2, 3), (0, 4, 5)])  # (D, C, K, K)
    return convolve(g, turned), by_weight, g.sum(axis=(0, 2, 3))


def conv_gru_cell(
    x: Array, state: Array, w_in: Array, b_in: Array, w_state: Array, b_state: Array,
    upstream: Array, sigmoid: Callable[[Array], Array] | None = None, twist: str = "",
) -> list[Array]:  # fmt: skip
    """ConvGRUCell and its seven gradients; `twist` makes one of the known mistakes."""
    sigmoid = sigmoid or (lambda a: 1 / (1 + each("exp", -a)))
    C = state.shape[1]
    tenths = x.reshape(-1)[0] * 0 + 1
    from_input = convolve(x, w_in) + b_in[:, None, None]
    from_state = convolve(state, w_state) + b_state[:, None, None]
    r, z, h = (slice(i * C, (i + 1) * C) for i in range(3))
    if twist == "the gates are in the order update, reset":
        r, z = z, r
    reset = sigmoid(from_input[:, r] + from_state[:, r])
    update = sigmoid(from_input[:, z] + from_state[:, z])
    before = from_input[:, h] + reset * from_state[:, h]
    slope = np.where(before > 0, tenths, tenths / 5)
    if twist == "tanh for the leaky ReLU of the candidate":
        candidate = np.tanh(before)
        slope = 1 - candidate**2
    else:
        if twist == "slope 0.01 for 0.2 in the leaky ReLU":
            slope = np.where(before > 0, 1.0, 0.01)
        candidate = before * slope
    old = 1 - update if twist == "the update gate keeps the candidate, not the state" else update
    value = (1 - old) * candidate + old * state
    by_candidate = upstream * (1 - old) * slope
    by_old = upstream * (state - candidate)
    by_update = -by_old if old is not update else by_old
    gates_in, gates_state = np.empty_like(from_input), np.empty_like(from_state)
    gates_in[:, r] = by_candidate * from_state[:, h] * reset * (1 - reset)
    gates_in[:, z] = by_update * update * (1 - update)
    gates_in[:, h] = by_candidate
    gates_state[:] = gates_in
    gates_state[:, h] = by_candidate * reset
    by_x, by_w_in, by_b_in = convolve_back(x, w_in, gates_in)
    by_state, by_w_state, by_b_state = convolve_back(state, w_state, gates_state)
    if twist != "the state's own way into the new state has no gradient":
        by_state = by_state + upstream * old
    return [value, by_x, by_state, by_w_in, by_b_in, by_w_state, by_b_state]


# ---- how large the terms are that cancel in a sound implementation -------------------------------
# Added to the condition on the inputs: 1 + erf, and u - sum(u p), lose digits where p is near 0 or 1.


def sizes_of_gelu(x: Array, upstream: Array, approximate: str) -> list[Array]:
    return [abs(x), abs(upstream) * (1 + abs(x))]


def sizes_of_softmax(x: Array, upstream: Array, axis: int) -> list[Array]:
    p = np.exp(x - x.max(axis=axis, keepdims=True))
    p /= p.sum(axis=axis, keepdims=True)
    return [p, p * (abs(upstream) + (abs(upstream) * p).sum(axis=axis, keepdims=True))]


def sizes_of_attention(
    q: Array, k: Array, v: Array, upstream: Array, is_causal: bool
) -> list[Array]:
    T, D = q.shape[-2:]
    scores = q @ np.swapaxes(k, -1, -2) / np.sqrt(D)
    scores = np.where(np.tril(np.ones((T, T))) > 0, scores, -np.inf) if is_causal else scores
    dp = abs(upstream) @ np.swapaxes(abs(v), -1, -2)
    p, ds = sizes_of_softmax(scores, dp, -1)
    turned = np.swapaxes(ds, -1, -2)
    root = np.sqrt(D)
    by_v = np.swapaxes(p, -1, -2) @ abs(upstream)
    return [p @ abs(v), ds @ abs(k) / root, turned @ abs(q) / root, by_v]


def sizes_of_cross_entropy(logits: Array, targets: Array) -> list[Array]:
    share = 2.0 / targets.size
    return [abs(logits).max() + np.zeros(()), np.full(logits.shape, share)]


SIZES: dict[str, Callable[..., list[Array]]] = {
    "gelu": sizes_of_gelu,
    "softmax": sizes_of_softmax,
    "scaled_dot_product_attention": sizes_of_attention,
    "cross_entropy": sizes_of_cross_entropy,
}


# ---- cases ---------------------------------------------------------------------------------------


def _case(
    call: str, group: str, number: int, notes: str, truth: Callable[..., list[Array]],
    floats: dict[str, Array], others: dict[str, Any], outputs: Sequence[str],
) -> Case:  # fmt: skip
    expected = conditioned_by(precise, lambda *a: truth(*a, **others), *floats.values())
    if call in SIZES:
        sizes = SIZES[call](*floats.values(), **others)
        expected = [
            replace(e, linear=e.linear + BOUND * size)
            for e, size in zip(expected, sizes, strict=True)
        ]
    return Case(
        f"layers/{group}/{number}", call, {**floats, **others},
        dict(zip(outputs, expected, strict=True)), notes,
    )  # fmt: skip


def cases() -> Iterator[Case]:
    rng = np.random.default_rng(1644934)

    def draw(*shape: int, size: float = 1.0) -> Array:
        return float32(size * rng.normal(size=shape))

    both = ("value", "gradient")
    wide = np.array([-40.0, -12.0, -6.0, -3.0, -1.0, -0.125, 0.0, 0.125, 1.0, 3.0, 6.0, 40.0])
    number = 0
    for form in ("none", "tanh"):
        for notes, x in [("around 0", draw(3, 4)), ("from -40 to 40", wide)]:
            number += 1
            floats = {"x": x, "upstream": draw(*x.shape)}
            yield _case("gelu", "gelu", number, f"{form}: {notes}", gelu, floats,
                        {"approximate": form}, both)  # fmt: skip
    for number, (notes, x, eps) in enumerate(
        [("two rows", draw(2, 5), 1e-5), ("sequences (B, T, C)", draw(2, 2, 3), 1e-5),
         ("mean 100 times the spread", draw(2, 6) + 100.0, 1e-5),
         ("a large eps: it is inside the root", draw(2, 4), 0.5),
         ("a constant row: eps alone is in the root", np.full((1, 4), 3.0), 1e-5)], start=1,
    ):  # fmt: skip
        C = x.shape[-1]
        floats = {
            "x": float32(x), "weight": draw(C), "bias": draw(C), "upstream": draw(*x.shape)
        }  # fmt: skip
        yield _case("layer_norm", "layer_norm", number, notes, layer_norm, floats, {"eps": eps},
                    ("value", "gradient", "gradient_weight", "gradient_bias"))  # fmt: skip
    for number, (notes, x, axis) in enumerate(
        [("the last axis", draw(3, 4), -1), ("the first axis", draw(3, 4), 0),
         ("of three axes the middle", draw(2, 3, 2), 1),
         ("1000 and -1000: exp overflows unless the maximum is subtracted",
          np.array([[1000.0, 999.0, -1000.0], [-1000.0, -1001.0, -999.5]]), -1),
         ("equal", np.zeros((2, 3)), -1), ("one element: 1, with gradient 0", draw(3, 1), -1)],
        start=1,
    ):  # fmt: skip
        floats = {"x": x, "upstream": draw(*x.shape)}
        yield _case("softmax", "softmax", number, notes, softmax, floats, {"axis": axis}, both)
    for number, (notes, shape, size, causal) in enumerate(
        [("one head", (3, 2), 1.0, False), ("causal", (3, 2), 1.0, True),
         ("batch and heads (B, H, T, D)", (2, 2, 3, 2), 1.0, True),
         ("large scores: nearly one position each", (3, 4), 6.0, False),
         ("one position", (1, 3), 1.0, True)], start=1,
    ):  # fmt: skip
        floats = {name: draw(*shape, size=size) for name in ("q", "k", "v")}
        floats["upstream"] = draw(*shape)
        yield _case("scaled_dot_product_attention", "attention", number, notes, attention, floats,
                    {"is_causal": causal},
                    ("value", "gradient_q", "gradient_k", "gradient_v"))  # fmt: skip
    for number, (notes, logits) in enumerate(
        [("four samples", draw(4, 3)), ("sequences (B, T, C)", draw(2, 3, 4)),
         ("one sample", draw(1, 5)),
         ("logits of 1000: exp overflows unless the maximum is subtracted",
          np.array([[1000.0, 0.0, 998.0], [-1000.0, 1000.0, 999.0]]))], start=1,
    ):  # fmt: skip
        targets = rng.integers(0, logits.shape[-1], logits.shape[:-1])
        yield _case("cross_entropy", "cross_entropy", number, notes, cross_entropy,
                    {"logits": logits}, {"targets": targets}, ("loss", "gradient"))  # fmt: skip
    for number, (notes, B, inputs, channels, size) in enumerate(
        [("one channel each", 1, 1, 1, 2), ("two samples, two channels", 2, 1, 2, 2)], start=1
    ):
        floats = {
            "x": draw(B, inputs, size, size), "state": draw(B, channels, size, size),
            "w_in": draw(3 * channels, inputs, 3, 3, size=0.5), "b_in": draw(3 * channels),
            "w_state": draw(3 * channels, channels, 3, 3, size=0.5), "b_state": draw(3 * channels),
            "upstream": draw(B, channels, size, size),
        }  # fmt: skip
        yield _case("conv_gru_cell", "conv_gru_cell", number, notes, conv_gru_cell, floats, {},
                    GRU_OUTPUTS)  # fmt: skip


GRU_OUTPUTS = (
    "value", "gradient_x", "gradient_state", "gradient_w_in", "gradient_b_in", "gradient_w_state",
    "gradient_b_state",
)  # fmt: skip


# ---- minimono's own ------------------------------------------------------------------------------


def differentiated(
    function: Callable[..., Tensor], *inputs: Array, upstream: Array | None = None
) -> tuple[Array, ...]:
    """A function's value, and its gradients by all inputs."""
    variables = [Tensor(x, requires_grad=True) for x in inputs]
    value = function(*variables)
    (value if upstream is None else (value * Tensor(upstream)).sum()).backward()
    return value.data, *(v.grad for v in variables)


def own_gelu(x: Array, upstream: Array, *, approximate: Literal["none", "tanh"]) -> Any:
    return differentiated(lambda x: F.gelu(x, approximate), x, upstream=upstream)


def own_layer_norm(x: Array, weight: Array, bias: Array, upstream: Array, *, eps: float) -> Any:
    return differentiated(
        lambda x, w, b: F.layer_norm(x, w, b, eps), x, weight, bias, upstream=upstream
    )


def own_softmax(x: Array, upstream: Array, *, axis: int) -> Any:
    return differentiated(lambda x: F.softmax(x, axis), x, upstream=upstream)


def own_attention(q: Array, k: Array, v: Array, upstream: Array, *, is_causal: bool) -> Any:
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=is_causal)

    return differentiated(attend, q, k, v, upstream=upstream)


def own_cross_entropy(logits: Array, targets: Array) -> Any:
    return differentiated(lambda x: F.cross_entropy(x, targets), logits)


def own_conv_gru_cell(
    x: Array, state: Array, w_in: Array, b_in: Array, w_state: Array, b_state: Array,
    upstream: Array,
) -> Any:  # fmt: skip
    from minimono.nn import ConvGRUCell

    def step(x: Tensor, state: Tensor, *parameters: Tensor) -> Tensor:
        cell = ConvGRUCell(x.shape[1], state.shape[1], rng=np.random.default_rng(0), dtype=x.dtype)
        cell.from_input.weight, cell.from_input.bias = parameters[:2]
        cell.from_state.weight, cell.from_state.bias = parameters[2:]
        return cell(x, state)

    return differentiated(step, x, state, w_in, b_in, w_state, b_state, upstream=upstream)


# ---- known mistakes, in floating point -----------------------------------------------------------


def wrong_gelu(
    x: Array, upstream: Array, *, approximate: str, form: str | None = None, factor: float = 0.0,
    slope: bool = True,
) -> Any:  # fmt: skip
    """`gelu` with the wrong form, with x sigmoid(factor x) instead, or without x in the slope."""
    from minimono.backend import erfc

    form = form or approximate
    if factor:
        half = 1 / (1 + np.exp(-factor * x))
        steep = factor * half * (1 - half)
    elif form == "tanh":
        c, a = np.sqrt(2 / np.pi), float(TANH_GELU)
        half = (1 + np.tanh(c * (x + a * x**3))) / 2
        steep = 2 * half * (1 - half) * c * (1 + 3 * a * x * x)
    else:
        half = erfc(-x / np.sqrt(2)) / 2
        steep = np.exp(-x * x / 2) / np.sqrt(2 * np.pi)
    return x * half, upstream * (half + x * steep if slope else half)


def wrong_layer_norm(
    x: Array, weight: Array, bias: Array, upstream: Array, *, eps: float, ddof: int = 0,
    outside: bool = False, axis: int = -1, centred: bool = True, moving: bool = True,
    no_eps: bool = False,
) -> Any:  # fmt: skip
    """`layer_norm` with something wrong, as the options from `ddof` on say."""
    C = x.shape[axis] - ddof
    d = x - x.mean(axis=axis, keepdims=True) * centred
    variance = (d * d).sum(axis=axis, keepdims=True) / C
    eps = 0.0 if no_eps else eps
    root = np.sqrt(variance) if outside else np.sqrt(variance + eps)
    sigma = root + eps if outside else root
    hat = d / sigma
    g = upstream * weight
    inner = g - g.mean(axis=axis, keepdims=True) * centred
    if not moving:
        inner = g
    else:
        inner = inner - d * (g * d).sum(axis=axis, keepdims=True) / (C * root * sigma)
    rows = tuple(range(x.ndim - 1))
    by_weight, by_bias = (upstream * hat).sum(axis=rows), upstream.sum(axis=rows)
    return hat * weight + bias, inner / sigma, by_weight, by_bias


def wrong_softmax(
    x: Array, upstream: Array, *, axis: int, safe: bool = True, along: int | None = None,
    whole: bool = True,
) -> Any:  # fmt: skip
    axis = axis if along is None else along
    e = np.exp(x - x.max(axis=axis, keepdims=True)) if safe else np.exp(x)
    p = e / e.sum(axis=axis, keepdims=True)
    inner = (upstream * p).sum(axis=axis, keepdims=True) if whole else upstream * p
    return p, p * (upstream - inner)


def wrong_attention(
    q: Array, k: Array, v: Array, upstream: Array, *, is_causal: bool, power: float = 0.5,
    offset: int = 0, turned: bool = False, masks: bool = True, late: bool = False,
    sound: bool = True,
) -> Any:  # fmt: skip
    """Attention with something wrong, as the options from `power` on say."""
    T, D = q.shape[-2:]
    scale = D**-power
    scores = q @ np.swapaxes(k, -1, -2) * scale
    allowed = np.tril(np.ones((T, T)), offset) if is_causal and masks else np.ones((T, T))
    if turned and is_causal:
        allowed = allowed.T
    if not late:
        scores = np.where(allowed > 0, scores, -np.inf)
    e = np.exp(scores - scores.max(axis=-1, keepdims=True))
    p = e / e.sum(axis=-1, keepdims=True)
    if late:  # after the softmax, so that the rest does not sum to one
        p = p * allowed
    dp = upstream @ np.swapaxes(v, -1, -2)
    inner = (dp * p).sum(axis=-1, keepdims=True) if sound else 0.0
    ds = p * (dp - inner) * scale
    return p @ v, ds @ k, np.swapaxes(ds, -1, -2) @ q, np.swapaxes(p, -1, -2) @ upstream


def wrong_cross_entropy(
    logits: Array, targets: Array, *, safe: bool = True, share: str = "mean", base: float = np.e,
    onehot: bool = True, squared: bool = False,
) -> Any:  # fmt: skip
    rows, picks = logits.reshape(-1, logits.shape[-1]), targets.reshape(-1)
    e = np.exp(rows - rows.max(axis=1, keepdims=True)) if safe else np.exp(rows)
    p = e / e.sum(axis=1, keepdims=True)
    n = np.arange(len(rows))
    count = {"mean": len(rows), "sum": 1, "first axis": len(logits)}[share]
    shift = rows.max(axis=1) if safe else 0.0
    losses = np.log(e.sum(axis=1)) + shift - rows[n, picks]
    if not safe:
        losses = -np.log(p[n, picks])
    gradient = p.copy()
    if onehot:
        gradient[n, picks] -= 1
    scale = 1 / np.log(base) / count
    return np.asarray(losses.sum() * scale), gradient.reshape(logits.shape) * scale


def _mistaken_gru(twist: str) -> Callable[..., Any]:
    def sigmoid(a: Array) -> Array:
        return np.asarray(1 / (1 + np.exp(-a)))

    return lambda *arrays: tuple(conv_gru_cell(*arrays, sigmoid=sigmoid, twist=twist))


GRU_TWISTS = (
    "the gates are in the order update, reset",
    "tanh for the leaky ReLU of the candidate",
    "slope 0.01 for 0.2 in the leaky ReLU",
    "the update gate keeps the candidate, not the state",
    "the state's own way into the new state has no gradient",
)

SUITE = Suite(
    name="layers",
    text="the usual layers of networks, values and gradients",
    conventions={
        "gradients": "of sum(value * upstream); of the loss itself for cross_entropy",
        "layer_norm": "over the last axis; the variance is divided by C; eps is inside the root",
        "gelu": '"none": x P(N(0,1) <= x); "tanh": the approximation with 0.044715',
        "attention": "softmax(q k^T / sqrt D) v; causal: position t sees 0..t",
        "cross_entropy": "the mean over all targets, in nats",
        "conv_gru_cell": "R = sigmoid(W_r x + U_r h), Z = sigmoid(W_z x + U_z h), "
        "H = leaky_relu(W_h x + R (U_h h), 0.2), new state (1 - Z) H + Z h; all with biases; the "
        "weights of r, z, h one above the other; the size is kept (padding with zeros)",
    },
    calls=(
        Call("gelu", ("x", "upstream", "*", "approximate"), ("value", "gradient"),
             "x and upstream of one shape."),
        Call("layer_norm", ("x", "weight", "bias", "upstream", "*", "eps"),
             ("value", "gradient", "gradient_weight", "gradient_bias"),
             "x, upstream (..., C); weight, bias (C,)."),
        Call("softmax", ("x", "upstream", "*", "axis"), ("value", "gradient"),
             "x and upstream of one shape."),
        Call("scaled_dot_product_attention", ("q", "k", "v", "upstream", "*", "is_causal"),
             ("value", "gradient_q", "gradient_k", "gradient_v"), "all (..., T, D)."),
        Call("cross_entropy", ("logits", "targets"), ("loss", "gradient"),
             "logits (..., C); targets whole numbers (...)."),
        Call("conv_gru_cell",
             ("x", "state", "w_in", "b_in", "w_state", "b_state", "upstream"), GRU_OUTPUTS,
             "x (B, I, Y, X); state, upstream (B, C, Y, X); w_in (3 C, I, 3, 3); w_state\n"
             "(3 C, C, 3, 3); biases (3 C,). The value, and the gradients by the first six."),
    ),
    cases=cases,
    own={
        "gelu": own_gelu,
        "layer_norm": own_layer_norm,
        "softmax": own_softmax,
        "scaled_dot_product_attention": own_attention,
        "cross_entropy": own_cross_entropy,
        "conv_gru_cell": own_conv_gru_cell,
    },
    mistakes={
        "gelu": {
            "the tanh approximation for the exact form": partial(wrong_gelu, form="tanh"),
            "the exact form for the tanh approximation": partial(wrong_gelu, form="none"),
            "x sigmoid(1.702 x)": partial(wrong_gelu, factor=1.702),
            "x sigmoid(x) (SiLU)": partial(wrong_gelu, factor=1.0),
            "the slope's second term is missing": partial(wrong_gelu, slope=False),
        },
        "layer_norm": {
            "unbiased variance (divided by C - 1)": partial(wrong_layer_norm, ddof=1),
            "eps outside the root": partial(wrong_layer_norm, outside=True),
            "eps is ignored": partial(wrong_layer_norm, no_eps=True),
            "the mean is not subtracted (RMSNorm)": partial(wrong_layer_norm, centred=False),
            "over the first axis": partial(wrong_layer_norm, axis=0),
            "mean and variance are constants for the gradient": partial(
                wrong_layer_norm, moving=False
            ),
        },
        "softmax": {
            "overflow: the maximum is not subtracted": partial(wrong_softmax, safe=False),
            "over the last axis, whatever axis is": partial(wrong_softmax, along=-1),
            "over the first axis, whatever axis is": partial(wrong_softmax, along=0),
            "the gradient is p (1 - p), as of a sigmoid": partial(wrong_softmax, whole=False),
        },
        "scaled_dot_product_attention": {
            "not divided by sqrt D": partial(wrong_attention, power=0.0),
            "divided by D, not by sqrt D": partial(wrong_attention, power=1.0),
            "a position sees the next one": partial(wrong_attention, offset=1),
            "a position does not see itself, where it can": partial(wrong_attention, offset=-1),
            "the mask is turned: a position sees what comes after": partial(
                wrong_attention, turned=True
            ),
            "the mask is ignored": partial(wrong_attention, masks=False),
            "masked after the softmax": partial(wrong_attention, late=True),
            "the softmax's gradient is its numerator's": partial(wrong_attention, sound=False),
        },
        "cross_entropy": {
            "overflow: the maximum is not subtracted": partial(wrong_cross_entropy, safe=False),
            "the sum over targets, not their mean": partial(wrong_cross_entropy, share="sum"),
            "divided by the first axis only": partial(wrong_cross_entropy, share="first axis"),
            "in bits, not in nats": partial(wrong_cross_entropy, base=2.0),
            "the gradient lacks the target": partial(wrong_cross_entropy, onehot=False),
        },
        "conv_gru_cell": {twist: _mistaken_gru(twist) for twist in GRU_TWISTS},
    },
)  # fmt: skip
