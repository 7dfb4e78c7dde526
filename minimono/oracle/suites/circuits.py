"""Suite `circuits`: attribution to lower channels (PURE), splitting by weights, routing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np

from minimono import mono
from minimono.backend import Array
from minimono.engine import functional as F
from minimono.engine.tensor import Tensor
from minimono.oracle.case import Case, Expected
from minimono.oracle.suite import Call, Entries, Mistakes, Suite, grouped
from minimono.oracle.truth import conditioned, exact, float32, settled

Formula = Callable[..., Any]

EPSILON = Fraction(1e-10)  # the stored number, in the denominator of rho


# ---- the truth, in Fractions ---------------------------------------------------------------------


def pictures(x: Array, weight: Array) -> tuple[Array, Array]:
    """Return input and weights of a convolution: a dense layer is one on pictures of one point."""
    return (x, weight) if x.ndim == 4 else (x[..., None, None], weight[..., None, None])


def neuron(x: Array, weight: Array, bias: Array, channel: int, padding: int) -> Array:
    """Return the channel's activation (B, Y', X')."""
    w, padded, (ky, kx) = weight[channel], _padded(x, padding), weight.shape[2:]
    shape = (len(x), padded.shape[2] - ky + 1, padded.shape[3] - kx + 1)
    a = np.empty(shape, dtype=x.dtype)
    for b, i, j in np.ndindex(shape):
        a[b, i, j] = (padded[b, :, i : i + ky, j : j + kx] * w).sum() + bias[channel]
    return a


def gradient(start: Array, x: Array, weight: Array, channel: int, padding: int) -> Array:
    """Return Σ_q start_q da_q/dx, of x's shape."""
    w, slope, (ky, kx) = weight[channel], _padded(0 * x, padding), weight.shape[2:]
    for b, i, j in np.ndindex(start.shape):
        slope[b, :, i : i + ky, j : j + kx] += start[b, i, j] * w
    inside = slice(padding, -padding or None)
    return slope[:, :, inside, inside]


def _padded(x: Array, padding: int) -> Array:
    B, C, Y, X = x.shape
    out = np.full((B, C, Y + 2 * padding, X + 2 * padding), x.reshape(-1)[0] * 0)
    out[:, :, padding : padding + Y, padding : padding + X] = x
    return out


def relu(a: Array) -> Array:
    return np.where(a > 0, a, 0 * a)


def attribution(
    x: Array, weight: Array, bias: Array, channel: int, padding: int, *,
    epsilon: Fraction | float = EPSILON, start: Formula = relu,
    product: Formula = lambda x, slope: x * slope, pool: Formula = lambda x: x.sum(axis=2),
    relevance: Formula = lambda R: R, size: Formula = lambda R: abs(R).sum(axis=1, keepdims=True),
    share: Formula = lambda R, size, epsilon: R / (size + epsilon),
    on_by_bias: bool = True, back: Formula = lambda kernel: kernel,
    channels: Formula = lambda channel, all: [channel],
) -> Array:
    """Return rho (B, C): R = Σ_p x dx, started with relu(a), divided by Σ|R| + 1e-10.

    The rest are knobs, which make it wrong.   channels: whose relevances are added up.
    on_by_bias: whether a has its bias.   back: the weights on the way back.
    """
    R, (x, weight) = 0, pictures(x, weight)
    for c in channels(channel, range(len(weight))):
        a = neuron(x, weight, bias if on_by_bias else 0 * bias, c, padding)
        terms = product(x, gradient(start(a), x, back(weight), c, padding))
        R = R + pool(terms.reshape(*x.shape[:2], -1))  # (B, C, ...) -> (B, C)
    R = relevance(R)
    rho: Array = share(R, size(R), epsilon)
    return rho


def _without(weight: Array, channels: Array) -> Array:
    out = weight.copy()
    out[channels] = 0.0
    return out


def split_weights(
    weight: Array, relevance_1: Array, relevance_2: Array, *, ratio: Any,
    belongs: Formula = lambda mine, other, ratio: ratio * mine > other,
    both: Formula = lambda one, two: (one, two & ~one), without: Formula = _without,
    parts: Formula = lambda one, two: (two, one, one | two),
) -> tuple[Array, ...]:
    """Return the weights without the second's channels, without the first's, without either's.

    both: where a channel goes that meets both conditions.   parts: which channels are 0 in each.
    """
    one, two = belongs(relevance_1, relevance_2, ratio), belongs(relevance_2, relevance_1, ratio)
    return tuple(without(weight, channels) for channels in parts(*both(one, two)))


def _square(p: Array, c: Array) -> Array:
    return ((p - c) ** 2).sum(axis=2)


def route(
    rho: Array, centroids: Array, *, distance: Formula = _square, last: bool = False,
    first_label: int = 0, exchanged: bool = False,
) -> Array:
    """Return the centroid with the least `distance` from rho (B, 1, C) to them (1, K, C)."""
    rows, centres = (centroids, rho) if exchanged else (rho, centroids)
    d = distance(rows[:, None], centres[None])  # (B, K)
    return first_label + (d.shape[1] - 1 - d[:, ::-1].argmin(axis=1) if last else d.argmin(axis=1))


# ---- cases ---------------------------------------------------------------------------------------


def _drawn(rng: np.random.Generator, *shape: int) -> Array:
    return float32(rng.normal(size=shape))


def _attributions(plans: Iterable[tuple[Any, ...]]) -> Entries:
    for notes, x, weight, bias, channel, padding in plans:
        arguments = {"x": x, "weight": weight, "bias": bias, "channel": channel, "padding": padding}
        truth = partial(attribution, channel=channel, padding=padding)
        expected = conditioned(lambda *inputs, truth=truth: [truth(*inputs)], x, weight, bias)
        x, weight = pictures(x, weight)
        a = neuron(exact(x), exact(weight), exact(bias), channel, padding)
        settled(a, 0 * a, neuron(abs(x), abs(weight), abs(bias), channel, padding))
        yield notes, arguments, expected


def _dense(rng: np.random.Generator) -> Entries:
    drawn = partial(_drawn, rng)
    none = np.zeros(1)
    hand = np.array([[3.0, 1.0, 9.0], [1.0, 3.0, 9.0]])
    plans: list[tuple[str, Array, Array, Array, int]] = [
        ("w x is 3, -1, 0, so rho is 0.75, -0.25, 0; the second sample leaves the neuron off",
         hand, np.array([[1.0, -1.0, 0.0]]), none, 0),
        ("the bias decides that the neuron is on, but gets no share",
         np.array([[1.0, 2.0], [2.0, 1.0]]), np.array([[1.0, -1.0]]), np.array([3.0]), 0),
        ("exactly at the bend of relu: off, all shares 0",
         np.array([[2.0, 2.0], [4.0, 2.0]]), np.array([[1.0, -1.0]]), none, 0),
        ("channel 2 of three", drawn(4, 5), drawn(3, 5), drawn(3), 2),
        ("positive activations, as after a relu", abs(drawn(3, 6)), drawn(2, 6), np.full(2, 2.0),
         1),
        ("an input of zeros: nothing to share, 0 and not nan", np.zeros((1, 3)), np.ones((1, 3)),
         np.ones(1), 0),
        ("so weak that the 1e-10 in the denominator shows: the shares do not add up to 1",
         float32([[3e-6, 1e-6], [3e-5, -1e-5]]), np.array([[2.0, 4.0]]), none, 0),
        ("one channel: its share is 1, or -1 where it opposes the bias",
         np.array([[2.0], [-1.0]]), np.array([[1.0]]), np.array([3.0]), 0),
        ("large numbers: scaling changes nothing", float32(1e6 * rng.normal(size=(2, 4))),
         float32(1e3 * rng.normal(size=(2, 4))), np.array([1e9, 1e9]), 0),
    ]
    yield from _attributions((*plan, 0) for plan in plans)


def _convolution(rng: np.random.Generator) -> Entries:
    drawn = partial(_drawn, rng)
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
         float32(1e-5 * abs(rng.normal(size=(1, 2, 2, 2)))), np.ones((1, 2, 1, 1)), np.zeros(1), 0,
         0),
        ("on at some positions only; shares of both signs", drawn(2, 4, 2, 3),
         drawn(2, 4, 2, 2), np.array([0.0, -0.5]), 1, 0),
    ]
    yield from _attributions(plans)


def _splits(rng: np.random.Generator) -> Entries:
    drawn = partial(_drawn, rng)
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
    ]
    for notes, weight, one, two, ratio in plans:
        a, b, r = exact(one), exact(two), Fraction(ratio)
        settled(r * a, b, abs(a) + abs(b))
        settled(r * b, a, abs(a) + abs(b))
        arguments = {"weight": weight, "relevance_1": one, "relevance_2": two, "ratio": ratio}
        yield notes, arguments, map(Expected, split_weights(weight, a, b, ratio=r))


def _routes(rng: np.random.Generator) -> Entries:

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
    ]
    for notes, rho, centroids in plans:
        squares = _square(exact(rho)[:, None], exact(centroids)[None])
        least = squares.min(axis=1, keepdims=True)
        settled(squares, least, least)
        arguments = {"rho": rho, "centroids": centroids}
        yield notes, arguments, [Expected(route(exact(rho), exact(centroids)))]


def cases() -> Iterator[Case]:
    return grouped(SUITE, [
        ("dense", "circuit_attribution", 27182818, _dense),
        ("conv", "circuit_attribution", 57721566, _convolution),
        ("split", "split_weights", 14142135, _splits),
        ("route", "route", 16449340, _routes),
    ])


# ---- minimono's own ------------------------------------------------------------------------------


def circuit_attribution(
    x: Array, weight: Array, bias: Array, channel: int, *, padding: int
) -> Array:
    w, b = (Tensor(np.asarray(p)) for p in (weight, bias))

    def layer(x: Tensor) -> Tensor:
        return F.linear(x, w, b) if w.ndim == 2 else F.conv2d(x, w, b, padding=padding)

    return mono.circuit_attribution(x, layer, channel)


# ---- known mistakes ------------------------------------------------------------------------------


def _highest_only(a: Array) -> Array:
    rows = relu(a).reshape(len(a), -1)
    first = np.arange(rows.shape[1]) == rows.argmax(axis=1)[:, None]
    return np.where(first, rows, 0.0).reshape(a.shape)


ATTRIBUTION = Mistakes(partial(attribution, epsilon=1e-10), {
    "the gradient alone, not times the activation": {"product": lambda x, slope: slope},
    "no relu at the start: a neuron that is off is attributed too": {"start": lambda a: a},
    "started with 1 where the neuron is on, not with its activation":
        {"start": lambda a: (a > 0) * 1.0},
    "started with 1 everywhere: the gradient of the activation before relu":
        {"start": np.ones_like},
    "started with the square of the activation": {"start": lambda a: relu(a) ** 2},
    "started at the highest position only": {"start": _highest_only},
    "twice the relevance: the half before the square is missing": {"start": lambda a: 2 * relu(a)},
    "absolute values: the sign of the shares is lost": {"relevance": abs},
    "absolute values before the sum over positions": {"pool": lambda x: abs(x).sum(axis=2)},
    "negative relevance is cut off": {"relevance": relu},
    "not normalised": {"share": lambda R, size, epsilon: R},
    "divided by the Euclidean length, not by the sum of absolute values":
        {"size": lambda R: np.sqrt((R**2).sum(axis=1, keepdims=True))},
    "divided by the sum with its signs, not by the sum of absolute values":
        {"size": lambda R: R.sum(axis=1, keepdims=True)},
    "divided by the largest absolute value": {"size": lambda R: abs(R).max(axis=1, keepdims=True)},
    "normalised over the batch, not for each sample": {"size": lambda R: abs(R).sum()},
    "normalised over the samples of each channel (wrong axis)":
        {"size": lambda R: abs(R).sum(axis=0, keepdims=True)},
    "no 1e-10 in the denominator: nan where the neuron is off": {"epsilon": 0.0},
    "1e-12 in the denominator instead of 1e-10": {"epsilon": 1e-12},
    "1e-8 in the denominator instead of 1e-10": {"epsilon": 1e-8},
    "the larger of the sum and 1e-10 in the denominator":
        {"share": lambda R, size, epsilon: R / np.maximum(size, epsilon)},
    "weights only: the same for all inputs":
        {"start": np.ones_like, "product": lambda x, slope: slope},
    "averaged over positions, not summed": {"pool": lambda x: x.mean(axis=2)},
    "the largest position, not the sum": {"pool": lambda x: x.max(axis=2)},
    "activation and gradient are averaged over positions before they are multiplied":
        {"product": lambda x, slope: x.mean(axis=(2, 3)) * slope.mean(axis=(2, 3))},
    "the bias is left out": {"on_by_bias": False},
    "the kernel is turned around on the way back": {"back": lambda kernel: kernel[..., ::-1, ::-1]},
    "positive weights only (z+ rule)": {"back": relu},
    "channel 0, whichever was asked for": {"channels": lambda channel, all: [0]},
    "all channels of the upper layer, not the one asked for":
        {"channels": lambda channel, all: all},
})


def _without_columns(weight: Array, channels: Array) -> Array:
    columns = np.flatnonzero(channels[: weight.shape[-1]])
    return _without(weight.swapaxes(0, -1), columns).swapaxes(0, -1)


SPLIT = Mistakes(split_weights, {
    "first and second have changed places": {"parts": lambda one, two: (one, two, one | two)},
    "at least, where above is meant: ties are not in both":
        {"belongs": lambda mine, other, ratio: ratio * mine >= other},
    "the ratio is at the other concept's relevance":
        {"belongs": lambda mine, other, ratio: mine > ratio * other},
    "the ratio is ignored": {"belongs": lambda mine, other, ratio: mine > other},
    "absolute relevances": {"belongs": lambda mine, other, ratio: ratio * abs(mine) > abs(other)},
    "a channel that meets both conditions is left out of both parts":
        {"both": lambda one, two: (one, two)},
    "a channel that meets both conditions goes to the second concept":
        {"both": lambda one, two: (one & ~two, two)},
    "a channel that meets both conditions is in both parts":
        {"both": lambda one, two: (one & ~two, two & ~one)},
    "each part has its own channels only, without those that overlap":
        {"parts": lambda one, two: (~one, ~two, one | two)},
    "the overlap is what was shared out, not what is in both":
        {"parts": lambda one, two: (two, one, ~(one | two))},
    "the overlap is all zeros": {"parts": lambda one, two: (two, one, one | True)},
    "the last axis is taken for the channels": {"without": _without_columns},
})


def _length(p: Array) -> Array:
    return np.sqrt((p**2).sum(axis=2))


ROUTE = Mistakes(route, {
    "of equally near centroids the last": {"last": True},
    "the farthest centroid": {"distance": lambda p, c: -_square(p, c)},
    "the largest scalar product, not the nearest": {"distance": lambda p, c: -(p * c).sum(axis=2)},
    "the smallest angle (cosine), not the nearest":
        {"distance": lambda p, c: -(p * c).sum(axis=2) / (_length(p) * _length(c))},
    "the sum of absolute differences, not of squares":
        {"distance": lambda p, c: abs(p - c).sum(axis=2)},
    "the largest difference, not the sum of squares":
        {"distance": lambda p, c: abs(p - c).max(axis=2)},
    "differences summed with their signs": {"distance": lambda p, c: abs((p - c).sum(axis=2))},
    "the first channel only": {"distance": lambda p, c: abs(p - c)[:, :, 0]},
    "|p|^2 - 2pc + |c|^2, which loses its digits far from 0": {
        "distance": lambda p, c: (p**2).sum(axis=2) - 2 * (p * c).sum(axis=2) + (c**2).sum(axis=2)
    },
    "absolute values of rho": {"distance": lambda p, c: _square(abs(p), abs(c))},
    "counted from 1": {"first_label": 1},
    "one for each centroid (its nearest sample), not for each sample": {"exchanged": True},
})


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
        Call("circuit_attribution", ("x", "weight", "bias", "channel", "*", "padding"), ("rho",),
             "x (B, C) and weight (D, C), or x (B, C, Y, X) and weight (D, C, ky, kx); bias (D,);\n"
             "channel: which of the D; padding: on all four sides (0 for a dense layer).\n"
             "rho (B, C)."),
        Call("split_weights", ("weight", "relevance_1", "relevance_2", "*", "ratio"),
             ("first", "second", "overlap"),
             "weight (C, *kernel) of one neuron; relevances (C,); ratio above 0, up to 1.\n"
             "S1: ratio relevance_1 > relevance_2; S2: ratio relevance_2 > relevance_1, not in "
             "S1.\n"
             "first: weight, but 0 on S2; second: 0 on S1; overlap: 0 on both."),
        Call("route", ("rho", "centroids"), ("label",),
             "rho (B, C), centroids (K, C). label (B,): the nearest centroid, from 0."),
    ),
    cases=cases,
    own={
        "circuit_attribution": circuit_attribution,
        "split_weights": mono.split_weights,
        "route": mono.route,
    },
    mistakes={"circuit_attribution": ATTRIBUTION, "split_weights": SPLIT, "route": ROUTE},
)
