"""Suite `circuits`: attribution to lower channels (PURE), splitting by weights, routing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial

import numpy as np

from minimono import mono
from minimono.backend import Array
from minimono.engine import functional as F
from minimono.engine.tensor import Tensor
from minimono.oracle.case import Case, Expected
from minimono.oracle.suite import Call, Suite
from minimono.oracle.truth import conditioned, exact, float32

EPSILON = Fraction(1e-10)  # the stored number, in the denominator of rho
GAP = 1e-3  # how far a comparison is from the other outcome, unless it is a tie


# ---- the truth, in Fractions ---------------------------------------------------------------------


def neuron(x: Array, weight: Array, bias: Array, channel: int, padding: int) -> Array:
    """The channel's activation a: (B,) of a dense layer, (B, Y', X') of a convolution."""
    w = weight[channel]
    if w.ndim == 1:
        return np.array([(row * w).sum() + bias[channel] for row in x], dtype=x.dtype)
    padded, (ky, kx) = _padded(x, padding), w.shape[1:]
    shape = (len(x), padded.shape[2] - ky + 1, padded.shape[3] - kx + 1)
    a = np.empty(shape, dtype=x.dtype)
    for b, i, j in np.ndindex(shape):
        a[b, i, j] = (padded[b, :, i : i + ky, j : j + kx] * w).sum() + bias[channel]
    return a


def gradient(start: Array, x: Array, weight: Array, channel: int, padding: int) -> Array:
    """Σ_q start_q da_q/dx, of x's shape."""
    w = weight[channel]
    if w.ndim == 1:
        return start[:, None] * w
    slope, (ky, kx) = _padded(0 * x, padding), w.shape[1:]
    for b, i, j in np.ndindex(start.shape):
        slope[b, :, i : i + ky, j : j + kx] += start[b, i, j] * w
    inside = slice(padding, -padding or None)
    return slope[:, :, inside, inside]


def _padded(x: Array, padding: int) -> Array:
    B, C, Y, X = x.shape
    out = np.full((B, C, Y + 2 * padding, X + 2 * padding), x.reshape(-1)[0] * 0)
    out[:, :, padding : padding + Y, padding : padding + X] = x
    return out


def attribution(x: Array, weight: Array, bias: Array, channel: int, padding: int) -> Array:
    """rho (B, C): R = Σ_p x dx, started with relu(a), divided by Σ|R| + 1e-10."""
    a = neuron(x, weight, bias, channel, padding)
    product = x * gradient(np.where(a > 0, a, 0 * a), x, weight, channel, padding)
    relevance = product.reshape(*x.shape[:2], -1).sum(axis=2)  # (B, C, ...) -> (B, C)
    return relevance / (abs(relevance).sum(axis=1, keepdims=True) + EPSILON)


def split(
    weight: Array, relevance_1: Array, relevance_2: Array, ratio: float
) -> tuple[Array, Array, Array]:
    """w without the second concept's channels, without the first's, without either's."""
    r = Fraction(ratio)
    first, second, overlap = weight.copy(), weight.copy(), weight.copy()
    for c, (one, two) in enumerate(zip(exact(relevance_1), exact(relevance_2), strict=True)):
        for mine, other in ((one, two), (two, one)):
            if r * mine != other and abs(r * mine - other) < GAP * (abs(one) + abs(two)):
                raise ValueError("too close to call: take other numbers")
        if r * one > two:
            second[c] = overlap[c] = 0.0
        elif r * two > one:
            first[c] = overlap[c] = 0.0
    return first, second, overlap


def nearest(rho: Array, centroids: Array) -> Array:
    """The nearest centroid of each row, of equally near ones the first."""
    labels = []
    for row in exact(rho):
        squares = [((row - centre) ** 2).sum() for centre in exact(centroids)]
        closest = min(squares)
        if any(closest < s < (1 + GAP) * closest for s in squares):
            raise ValueError("too close to call: take other numbers")
        labels.append(squares.index(closest))
    return np.array(labels, dtype=np.int64)


# ---- cases ---------------------------------------------------------------------------------------


def cases() -> Iterator[Case]:
    yield from _dense()
    yield from _convolution()
    yield from _splits()
    yield from _routes()


def _attribution_case(
    id: str, notes: str, x: Array, weight: Array, bias: Array, channel: int, padding: int
) -> Case:
    truth = partial(attribution, channel=channel, padding=padding)
    (rho,) = conditioned(lambda *inputs: [truth(*inputs)], x, weight, bias)
    a = neuron(exact(x), exact(weight), exact(bias), channel, padding).astype(np.float64)
    size = neuron(abs(x), abs(weight), abs(bias), channel, padding)
    if (abs(a[a != 0]) < GAP * size[a != 0]).any():
        raise ValueError(f"{id}: too close to the bend of relu: take other numbers")
    arguments = {"x": x, "weight": weight, "bias": bias, "channel": channel, "padding": padding}
    return Case(id, "circuit_attribution", arguments, {"rho": rho}, notes)


def _dense() -> Iterator[Case]:
    rng = np.random.default_rng(27182818)
    none = np.zeros(1)
    hand = np.array([[3.0, 1.0, 9.0], [1.0, 3.0, 9.0]])
    plans: list[tuple[str, Array, Array, Array, int]] = [
        ("w x is 3, -1, 0, so rho is 0.75, -0.25, 0; the second sample leaves the neuron off",
         hand, np.array([[1.0, -1.0, 0.0]]), none, 0),
        ("the bias decides that the neuron is on, but gets no share",
         np.array([[1.0, 2.0], [2.0, 1.0]]), np.array([[1.0, -1.0]]), np.array([3.0]), 0),
        ("exactly at the bend of relu: off, all shares 0",
         np.array([[2.0, 2.0], [4.0, 2.0]]), np.array([[1.0, -1.0]]), none, 0),
        ("channel 2 of three", float32(rng.normal(size=(4, 5))), float32(rng.normal(size=(3, 5))),
         float32(rng.normal(size=3)), 2),
        ("positive activations, as after a relu", float32(abs(rng.normal(size=(3, 6)))),
         float32(rng.normal(size=(2, 6))), float32(np.full(2, 2.0)), 1),
        ("an input of zeros: nothing to share, 0 and not nan", np.zeros((1, 3)), np.ones((1, 3)),
         np.ones(1), 0),
        ("so weak that the 1e-10 in the denominator shows: the shares do not add up to 1",
         float32([[3e-6, 1e-6], [3e-5, -1e-5]]), np.array([[2.0, 4.0]]), none, 0),
        ("one channel: its share is 1, or -1 where it opposes the bias",
         np.array([[2.0], [-1.0]]), np.array([[1.0]]), np.array([3.0]), 0),
        ("large numbers: scaling changes nothing", float32(1e6 * rng.normal(size=(2, 4))),
         float32(1e3 * rng.normal(size=(2, 4))), np.array([1e9, 1e9]), 0),
    ]  # fmt: skip
    for number, (notes, x, weight, bias, channel) in enumerate(plans, start=1):
        yield _attribution_case(
            f"circuits/dense/{number}", notes, x, weight, bias, channel, padding=0
        )


def _convolution() -> Iterator[Case]:
    rng = np.random.default_rng(57721566)

    def drawn(*shape: int) -> Array:
        return float32(rng.normal(size=shape))

    hand = np.array([[[[1.0, 2.0, 0.0]], [[0.0, 1.0, 3.0]]]])  # (1, 2, 1, 3)
    plans: list[tuple[str, Array, Array, Array, int, int]] = [
        ("whole numbers, to try by hand: kernel 1 x 2 on a picture of 1 x 3",
         hand, np.array([[[[1.0, 2.0]], [[-1.0, 1.0]]]]), np.array([-1.0]), 0, 0),
        ("kernel 1 x 1: each position weighs as much as it activates the neuron",
         drawn(2, 3, 2, 2), drawn(2, 3, 1, 1), drawn(2), 1, 0),
        ("kernel 3 x 3 with padding", drawn(1, 2, 3, 3), drawn(2, 2, 3, 3), drawn(2), 0, 1),
        ("kernel 3 x 3 without padding", drawn(2, 2, 4, 3), drawn(2, 2, 3, 3), drawn(2), 1, 0),
        ("a kernel that is not square, 3 x 1", drawn(1, 3, 4, 2), drawn(1, 3, 3, 1),
         np.array([0.5]), 0, 1),
        ("off everywhere: all shares 0", abs(drawn(1, 2, 2, 2)), -abs(drawn(1, 2, 2, 2)),
         np.zeros(1), 0, 0),
        ("weak: a mean over positions in place of the sum, or a factor 2, shows in the 1e-10",
         float32(1e-5 * abs(rng.normal(size=(1, 2, 2, 2)))), np.ones((1, 2, 1, 1)),
         np.zeros(1), 0, 0),
        ("on at some positions only; shares of both signs", drawn(2, 4, 2, 3),
         drawn(2, 4, 2, 2), np.array([0.0, -0.5]), 1, 0),
    ]  # fmt: skip
    for number, (notes, *arguments) in enumerate(plans, start=1):
        yield _attribution_case(f"circuits/conv/{number}", notes, *arguments)


def _splits() -> Iterator[Case]:
    rng = np.random.default_rng(14142135)

    def drawn(*shape: int) -> Array:
        return float32(rng.normal(size=shape))

    w = np.array([2.0, 3.0, 4.0, 5.0])
    mixed = np.array([[4.0, 1.0, 2.0, 0.0], [1.0, 4.0, 2.0, 0.0]])
    plans: list[tuple[str, Array, Array, Array, float]] = [
        ("ratio 1: channels go to the concept with more; ties are in both", w, *mixed, 1.0),
        ("ratio 0.5: half as relevant is enough to be in both",
         w, np.array([4.0, 1.0, 2.0, 3.0]), np.array([1.0, 4.0, 1.0, 2.0]), 0.5),
        ("exactly at the ratio: above is meant, so it is in both",
         w, np.array([4.0, 1.0, 8.0, 2.0]), np.array([2.0, 2.0, 1.0, 16.0]), 0.5),
        ("ratio 0.05", w, np.array([1.0, 0.5, 0.0, 0.01]), np.array([0.5, 0.001, 1.0, 0.5]), 0.05),
        ("both negative: both conditions hold, so the channel is the first concept's",
         w, np.array([-1.0, -2.0, -1.0, 3.0]), np.array([-1.0, -1.5, -4.0, -2.0]), 0.5),
        ("relevances of both signs", drawn(8), drawn(8), drawn(8), 0.5),
        ("a kernel (C, ky, kx): channels as a whole", drawn(5, 2, 3), drawn(5), drawn(5), 0.75),
        ("a small ratio of a kernel (C, ky, kx): most channels overlap",
         drawn(6, 3, 3), abs(drawn(6)), abs(drawn(6)), 0.125),
        ("square: as many channels as kernel positions", drawn(3, 3, 3), drawn(3), drawn(3), 1.0),
        ("no relevance at all: everything overlaps", w, np.zeros(4), np.zeros(4), 1.0),
    ]  # fmt: skip
    for number, (notes, weight, one, two, ratio) in enumerate(plans, start=1):
        parts = split(weight, one, two, ratio)
        yield Case(
            f"circuits/split/{number}", "split_weights",
            {"weight": weight, "relevance_1": one, "relevance_2": two, "ratio": ratio},
            dict(zip(("first", "second", "overlap"), map(Expected, parts), strict=True)), notes,
        )  # fmt: skip


def _routes() -> Iterator[Case]:
    rng = np.random.default_rng(16449340)

    def shares(*shape: int) -> Array:
        values = rng.normal(size=shape)
        return float32(values / abs(values).sum(axis=-1, keepdims=True))

    units = np.eye(2)
    plans: list[tuple[str, Array, Array]] = [
        ("two circuits", np.array([[0.75, 0.25], [0.25, 0.75], [1.0, 0.0]]), units),
        ("equally near: the first", np.array([[0.5, 0.5], [0.0, 0.0]]), units),
        ("three, two of them the same: the first of the two",
         np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])),
        ("one centroid", shares(3, 4), shares(1, 4)),
        ("shares of both signs", shares(6, 5), shares(3, 5)),
        ("many", shares(16, 8), shares(4, 8)),
        ("a long centroid has the largest scalar product, but is far away",
         np.array([[1.0, 1.0], [4.0, 5.0]]), np.array([[0.5, 1.0], [8.0, 8.0]])),
        ("the same direction, but far: the angle does not count",
         np.array([[0.25, 0.25]]), np.array([[4.0, 4.0], [0.25, 0.0]])),
        ("nearer in each single channel, but farther along the straight line, and the reverse",
         np.array([[0.0, 0.0]]), np.array([[5.0, 0.0], [3.0, 3.0]])),
        ("in the largest difference the other one is nearer",
         np.array([[0.0, 0.0, 0.0]]), np.array([[3.0, 3.0, 3.0], [4.0, 0.0, 0.0]])),
        ("far from 0: |p|^2 - 2pc + |c|^2 loses its digits in float32",
         2.0**22 + np.array([[0.0, 1.0], [5.0, 4.0], [2.0, 7.0]]),
         2.0**22 + np.array([[6.0, 6.0], [1.0, 2.0]])),
        ("very far from 0: |p|^2 - 2pc + |c|^2 loses its digits in float64 (for float64 only)",
         2.0**40 + np.array([[0.0, 1.0], [5.0, 4.0], [2.0, 7.0]]),
         2.0**40 + np.array([[6.0, 6.0], [1.0, 2.0]])),
    ]  # fmt: skip
    for number, (notes, rho, centroids) in enumerate(plans, start=1):
        yield Case(
            f"circuits/route/{number}", "route", {"rho": rho, "centroids": centroids},
            {"label": Expected(nearest(rho, centroids))}, notes,
        )  # fmt: skip


# ---- minimono's own ------------------------------------------------------------------------------


def circuit_attribution(
    x: Array, weight: Array, bias: Array, channel: int, *, padding: int
) -> Array:
    w, b = (Tensor(np.asarray(p)) for p in (weight, bias))

    def layer(x: Tensor) -> Tensor:
        return F.linear(x, w, b) if w.ndim == 2 else F.conv2d(x, w, b, padding=padding)

    return mono.circuit_attribution(x, layer, channel)


def split_weights(
    weight: Array, relevance_1: Array, relevance_2: Array, *, ratio: float
) -> tuple[Array, Array, Array]:
    return mono.split_weights(weight, relevance_1, relevance_2, ratio)


# ---- known mistakes ------------------------------------------------------------------------------


def _relu(a: Array) -> Array:
    return np.maximum(a, 0.0)


def _pooled(product: Array) -> Array:
    return product.reshape(*product.shape[:2], -1).sum(axis=2)  # (B, C, ...) -> (B, C)


def _shares(relevance: Array) -> Array:
    return relevance / (abs(relevance).sum(axis=1, keepdims=True) + 1e-10)


def mistaken(
    x: Array,
    weight: Array,
    bias: Array,
    channel: int,
    *,
    padding: int,
    start: Callable[[Array], Array] = _relu,
    product: Callable[[Array, Array], Array] = lambda x, slope: x * slope,
    pool: Callable[[Array], Array] = _pooled,
    normalise: Callable[[Array], Array] = _shares,
    with_bias: bool = True,
    turned: bool = False,
    backwards: Callable[[Array], Array] = lambda weight: weight,
) -> Array:
    """`circuit_attribution` with something wrong, as the options say."""
    a = neuron(x, weight, bias if with_bias else 0 * bias, channel, padding)
    walked = np.flip(weight, axis=(2, 3)) if turned and weight.ndim == 4 else backwards(weight)
    slope = gradient(start(a), x, walked, channel, padding)
    return normalise(pool(product(x, slope)))


def _first_channel(x: Array, weight: Array, bias: Array, channel: int, *, padding: int) -> Array:
    return mistaken(x, weight, bias, 0, padding=padding)


def _all_channels(x: Array, weight: Array, bias: Array, channel: int, *, padding: int) -> Array:
    """The gradient of ½ Σ relu(a)² over all channels of the upper layer."""
    return _shares(sum(
        mistaken(x, weight, bias, c, padding=padding, normalise=lambda r: r)
        for c in range(len(weight))
    ))  # fmt: skip


def _only_highest(a: Array) -> Array:
    rows = _relu(a).reshape(len(a), -1)
    peak = np.zeros(rows.shape)
    best = rows.argmax(axis=1)
    peak[np.arange(len(a)), best] = rows[np.arange(len(a)), best]
    return peak.reshape(a.shape)


def _mean_pooled(product: Array) -> Array:
    return product.reshape(*product.shape[:2], -1).mean(axis=2)


def _largest_pooled(product: Array) -> Array:
    return product.reshape(*product.shape[:2], -1).max(axis=2)


def _mean_picture(x: Array, slope: Array) -> Array:
    """x and the gradient averaged over positions before they are multiplied."""
    axes = tuple(range(2, x.ndim))
    return x.mean(axis=axes) * slope.mean(axis=axes) if axes else x * slope


def _divided_by(size: Callable[[Array], Array]) -> Callable[[Array], Array]:
    return lambda r: r / (size(r) + 1e-10)


ATTRIBUTION: dict[str, Callable[..., Array]] = {
    "the gradient alone, not times the activation": partial(mistaken, product=lambda x, g: g),
    "no relu at the start: a neuron that is off is attributed too": partial(
        mistaken, start=lambda a: a
    ),
    "started with 1 where the neuron is on, not with its activation": partial(
        mistaken, start=lambda a: (a > 0) * 1.0
    ),
    "started with 1 everywhere: the gradient of the activation before relu": partial(
        mistaken, start=np.ones_like
    ),
    "started with the square of the activation": partial(mistaken, start=lambda a: _relu(a) ** 2),
    "started at the highest position only": partial(mistaken, start=_only_highest),
    "twice the relevance: the half before the square is missing": partial(
        mistaken, start=lambda a: 2 * _relu(a)
    ),
    "absolute values: the sign of the shares is lost": partial(
        mistaken, normalise=lambda r: _shares(abs(r))
    ),
    "absolute values before the sum over positions": partial(
        mistaken, pool=lambda p: _pooled(abs(p))
    ),
    "negative relevance is cut off": partial(mistaken, normalise=lambda r: _shares(_relu(r))),
    "not normalised": partial(mistaken, normalise=lambda r: r),
    "divided by the Euclidean length, not by the sum of absolute values": partial(
        mistaken, normalise=_divided_by(lambda r: np.sqrt((r**2).sum(axis=1, keepdims=True)))
    ),
    "divided by the sum with its signs, not by the sum of absolute values": partial(
        mistaken, normalise=_divided_by(lambda r: r.sum(axis=1, keepdims=True))
    ),
    "divided by the largest absolute value": partial(
        mistaken, normalise=_divided_by(lambda r: abs(r).max(axis=1, keepdims=True))
    ),
    "normalised over the batch, not for each sample": partial(
        mistaken, normalise=_divided_by(lambda r: abs(r).sum())
    ),
    "normalised over the samples of each channel (wrong axis)": partial(
        mistaken, normalise=_divided_by(lambda r: abs(r).sum(axis=0, keepdims=True))
    ),
    "no 1e-10 in the denominator: nan where the neuron is off": partial(
        mistaken, normalise=lambda r: r / abs(r).sum(axis=1, keepdims=True)
    ),
    "1e-12 in the denominator instead of 1e-10": partial(
        mistaken, normalise=lambda r: r / (abs(r).sum(axis=1, keepdims=True) + 1e-12)
    ),
    "1e-8 in the denominator instead of 1e-10": partial(
        mistaken, normalise=lambda r: r / (abs(r).sum(axis=1, keepdims=True) + 1e-8)
    ),
    "the larger of the sum and 1e-10 in the denominator": partial(
        mistaken, normalise=lambda r: r / np.maximum(abs(r).sum(axis=1, keepdims=True), 1e-10)
    ),
    "weights only: the same for all inputs": partial(
        mistaken, start=np.ones_like, product=lambda x, g: g
    ),
    "averaged over positions, not summed": partial(mistaken, pool=_mean_pooled),
    "the largest position, not the sum": partial(mistaken, pool=_largest_pooled),
    "activation and gradient are averaged over positions before they are multiplied": partial(
        mistaken, product=_mean_picture
    ),
    "the bias is left out": partial(mistaken, with_bias=False),
    "the kernel is turned around on the way back": partial(mistaken, turned=True),
    "positive weights only (z+ rule)": partial(mistaken, backwards=_relu),
    "channel 0, whichever was asked for": _first_channel,
    "all channels of the upper layer, not the one asked for": _all_channels,
}


def mistaken_split(
    weight: Array,
    relevance_1: Array,
    relevance_2: Array,
    *,
    ratio: float,
    belongs: Callable[[Array, Array, float], Array] = lambda mine, other, r: r * mine > other,
    both_to: str = "the first",
    parts: Callable[..., tuple[Array, Array, Array]] | None = None,
) -> tuple[Array, Array, Array]:
    """`split_weights` with something wrong, as the options say."""
    in_1 = belongs(relevance_1, relevance_2, ratio)
    in_2 = belongs(relevance_2, relevance_1, ratio)
    if both_to == "the first":
        in_2 = in_2 & ~in_1
    elif both_to == "the second":
        in_1 = in_1 & ~in_2
    elif both_to == "neither":
        in_1, in_2 = in_1 & ~in_2, in_2 & ~in_1
    if parts is not None:
        return parts(weight, in_1, in_2)
    return _without(weight, in_2), _without(weight, in_1), _without(weight, in_1 | in_2)


def _without(weight: Array, channels: Array) -> Array:
    out = weight.copy()
    out[channels] = 0.0
    return out


def _without_columns(weight: Array, channels: Array) -> Array:
    out = weight.copy()
    out[..., np.flatnonzero(channels[: weight.shape[-1]])] = 0.0
    return out


SPLIT: dict[str, Callable[..., tuple[Array, Array, Array]]] = {
    "first and second have changed places": partial(
        mistaken_split,
        parts=lambda w, a, b: (_without(w, a), _without(w, b), _without(w, a | b)),
    ),
    "at least, where above is meant: ties are not in both": partial(
        mistaken_split, belongs=lambda mine, other, r: r * mine >= other
    ),
    "the ratio is at the other concept's relevance": partial(
        mistaken_split, belongs=lambda mine, other, r: mine > r * other
    ),
    "the ratio is ignored": partial(mistaken_split, belongs=lambda mine, other, r: mine > other),
    "absolute relevances": partial(
        mistaken_split, belongs=lambda mine, other, r: r * abs(mine) > abs(other)
    ),
    "a channel that meets both conditions is left out of both parts": partial(
        mistaken_split, both_to="both"
    ),
    "a channel that meets both conditions goes to the second concept": partial(
        mistaken_split, both_to="the second"
    ),
    "a channel that meets both conditions is in both parts": partial(
        mistaken_split, both_to="neither"
    ),
    "each part has its own channels only, without those that overlap": partial(
        mistaken_split,
        parts=lambda w, a, b: (_without(w, ~a), _without(w, ~b), _without(w, a | b)),
    ),
    "the overlap is what was shared out, not what is in both": partial(
        mistaken_split,
        parts=lambda w, a, b: (_without(w, b), _without(w, a), _without(w, ~(a | b))),
    ),
    "the overlap is all zeros": partial(
        mistaken_split, parts=lambda w, a, b: (_without(w, b), _without(w, a), 0 * w)
    ),
    "the last axis is taken for the channels": partial(
        mistaken_split,
        parts=lambda w, a, b: (
            _without_columns(w, b), _without_columns(w, a), _without_columns(w, a | b)
        ),
    ),
}  # fmt: skip


def _routed(
    distance: Callable[[Array, Array], Array], *, last: bool = False
) -> Callable[..., Array]:
    """The centroid with the smallest `distance(rows (B, 1, C), centroids (1, K, C))`."""

    def route(rho: Array, centroids: Array) -> Array:
        d = distance(rho[:, None], centroids[None])  # (B, K)
        return d.shape[1] - 1 - d[:, ::-1].argmin(axis=1) if last else d.argmin(axis=1)

    return route


def _square(p: Array, c: Array) -> Array:
    return ((p - c) ** 2).sum(axis=2)


def _length(p: Array) -> Array:
    return np.sqrt((p**2).sum(axis=2))


ROUTE: dict[str, Callable[..., Array]] = {
    "of equally near centroids the last": _routed(_square, last=True),
    "the farthest centroid": _routed(lambda p, c: -_square(p, c)),
    "the largest scalar product, not the nearest": _routed(lambda p, c: -(p * c).sum(axis=2)),
    "the smallest angle (cosine), not the nearest": _routed(
        lambda p, c: -(p * c).sum(axis=2) / (_length(p) * _length(c))
    ),
    "the sum of absolute differences, not of squares": _routed(lambda p, c: abs(p - c).sum(axis=2)),
    "the largest difference, not the sum of squares": _routed(lambda p, c: abs(p - c).max(axis=2)),
    "differences summed with their signs": _routed(lambda p, c: abs((p - c).sum(axis=2))),
    "the first channel only": _routed(lambda p, c: abs(p - c)[:, :, 0]),
    "|p|^2 - 2pc + |c|^2, which loses its digits far from 0": _routed(
        lambda p, c: (p**2).sum(axis=2) - 2 * (p * c).sum(axis=2) + (c**2).sum(axis=2)
    ),
    "absolute values of rho": _routed(lambda p, c: _square(abs(p), abs(c))),
    "counted from 1": lambda rho, centroids: _routed(_square)(rho, centroids) + 1,
    "one for each centroid (its nearest sample), not for each sample": lambda rho, centroids: (
        _routed(_square)(centroids, rho)
    ),
}


SUITE = Suite(
    name="circuits",
    text="which lower channels a neuron's activation came from, and splitting it by that",
    conventions={
        "start": "relu(a) at each position of the neuron: the gradient of (1/2) sum relu(a)^2",
        "rho": "R_c / (sum |R_c| + 1e-10), for each sample; R is summed over positions",
        "layer": "a dense layer or a cross-correlation with stride 1 and zero padding, no "
        "activation function after it",
        "bias": "decides whether the neuron is on; it gets no share",
        "both": "a channel that meets both conditions of split_weights is the first concept's",
        "ties": "of equally near centroids the first",
    },
    calls=(
        Call(
            "circuit_attribution", ("x", "weight", "bias", "channel", "*", "padding"), ("rho",),
            "x (B, C) and weight (D, C), or x (B, C, Y, X) and weight (D, C, ky, kx); bias (D,);\n"
            "channel: which of the D; padding: on all four sides (0 for a dense layer).\n"
            "rho (B, C).",
        ),
        Call(
            "split_weights", ("weight", "relevance_1", "relevance_2", "*", "ratio"),
            ("first", "second", "overlap"),
            "weight (C, *kernel) of one neuron; relevances (C,); ratio above 0, up to 1.\n"
            "S1: ratio relevance_1 > relevance_2; S2: ratio relevance_2 > relevance_1, not in S1.\n"
            "first: weight, but 0 on S2; second: 0 on S1; overlap: 0 on both.",
        ),
        Call(
            "route", ("rho", "centroids"), ("label",),
            "rho (B, C), centroids (K, C). label (B,): the nearest centroid, from 0.",
        ),
    ),
    cases=cases,
    own={
        "circuit_attribution": circuit_attribution,
        "split_weights": split_weights,
        "route": mono.route,
    },
    mistakes={"circuit_attribution": ATTRIBUTION, "split_weights": SPLIT, "route": ROUTE},
)  # fmt: skip
