"""Suite `scale`: the monosemantic scale, from given statistics and from a stream of batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from minimono import mono
from minimono.backend import Array
from minimono.oracle.case import BOUND, Case, Expected
from minimono.oracle.suite import Call, Suite
from minimono.oracle.truth import exact, float32, rounded

TINY = np.finfo(np.float64).tiny


# ---- the truth, in Fractions -------------------------------------------------------------------


def phi_given(z: Array, mean: Array, variance: Array, compensation: float) -> Array:
    """(z - mean)² / (variance + compensation · mean(variance)); None where that is 0."""
    extra = exact(np.float64(compensation))[()] * (variance.sum() / variance.size)
    denominator = np.asarray(variance + extra, dtype=object)  # NumPy unpacks arrays without axes
    phi = np.full(z.shape, None, dtype=object)
    for index in np.ndindex(z.shape):
        if denominator[index[1:]] != 0:
            phi[index] = (z[index] - mean[index[1:]]) ** 2 / denominator[index[1:]]
    return phi


class Moments:
    """Running mean and variance in Fractions, by either convention."""

    def __init__(self, convention: str, forget_after: int):
        self.convention, self.forget_after = convention, forget_after
        self.seen, self.count, self.mean, self.variance = 0, 0, np.zeros(()), np.zeros(())

    def update(self, batch: Array) -> None:
        b = len(batch)
        own_mean = batch.sum(axis=0) / b
        m2 = ((batch - own_mean) ** 2).sum(axis=0)
        self.seen += 1
        if self.seen == 1:
            self.count, self.mean, self.variance = b, own_mean, m2 / (b - 1)
            return
        if self.convention == "authors":
            past = min(self.seen, self.forget_after) * b
        else:
            past = self.count if self.seen <= self.forget_after else self.forget_after * b
        m2 = m2 + (past - 1) * self.variance + (self.mean - own_mean) ** 2 * past * b / (past + b)
        self.mean = (past * self.mean + b * own_mean) / (past + b)
        self.count = past + b
        self.variance = m2 / (self.count - 1)


def stream(
    batches: Sequence[Array], convention: str, forget_after: int, compensation: float
) -> list[Array | None]:
    """phi of each batch but the first, in Fractions: Algorithm 1, or the authors' code."""
    moments = Moments(convention, forget_after)
    scores: list[Array | None] = []
    for batch in map(exact, batches):
        before = moments.mean, moments.variance
        first = moments.seen == 0
        moments.update(batch)
        used = before if convention == "paper" else (moments.mean, moments.variance)
        scores.append(None if first else phi_given(batch, *used, compensation))
    return scores


# ---- cases -------------------------------------------------------------------------------------


def cases() -> Iterator[Case]:
    yield from _given()
    yield from _streams()


def _given() -> Iterator[Case]:
    rng = np.random.default_rng(20261124)
    layouts: list[tuple[str, tuple[int, ...], float, float]] = [
        ("two samples of three neurons", (2, 3), 0.0, 0.0),
        ("one neuron, no neuron axis: shape (B,)", (5,), 0.0, 0.0),
        ("a sequence (B, T, C): a neuron is a (position, channel) pair", (3, 4, 2), 0.0, 0.0),
        ("a feature map (B, C, Y, X)", (2, 2, 3, 2), 0.0, 0.0),
        ("mean far from zero: z - mean first, then the square", (4, 3), 0.0, 1000.0),
        ("compensation 0.01 of the mean variance of the layer", (3, 4), 0.01, 0.0),
        ("compensation in a sequence: by the mean over both axes", (2, 3, 2), 0.25, 0.0),
        ("compensation 1", (2, 5), 1.0, -7.0),
    ]
    number = 0

    def case(
        notes: str, z: Array, mean: Array, variance: Array, compensation: float, **more: Any
    ) -> Case:
        nonlocal number
        number += 1
        truth = rounded(phi_given(exact(z), exact(mean), exact(variance), compensation))
        roundings = 4 + (variance.size / 2 if compensation else 0)  # of the sum over neurons
        return Case(
            f"scale/given/{number}", "monosemantic_scale",
            {"z": z, "mean": mean, "variance": variance, "compensation": compensation},
            {"phi": Expected(truth, linear=roundings * np.nan_to_num(truth))},
            notes, **more,
        )  # fmt: skip

    for notes, shape, compensation, offset in layouts:
        mean = float32(offset + rng.normal(size=shape[1:]))
        variance = float32(rng.uniform(0.1, 4.0, shape[1:]))
        z = float32(offset + 3 * rng.normal(size=shape))
        yield case(notes, z, mean, variance, compensation)
    ones, z = np.ones(3), np.array([[0.0, 2.0, 5.0], [1.0, -1.0, 2.0]])
    yield case("small whole numbers, to try by hand", z, ones, np.array([1.0, 2.0, 4.0]), 0.0)
    yield case("z equal to its mean: phi is exactly 0", np.ones((2, 3)), ones, ones, 0.0)
    yield case(
        "the second neuron was constant: its variance is 0 and its phi nan, not 0 and not infinity",
        z, ones, np.array([1.0, 0.0, 4.0]), 0.0,
    )  # fmt: skip
    yield case(
        "with compensation a constant neuron has a phi: the others' variance is in its denominator",
        z, ones, np.array([1.0, 0.0, 4.0]), 0.01,
    )  # fmt: skip
    yield case("all variances 0: nan, with compensation too", z, ones, np.zeros(3), 0.01)
    yield case("one sample", z[:1], ones, ones, 0.0)
    yield case(
        "z around 1e-156: phi is near 1e-4, but the square is subnormal and has lost digits",
        np.array([[2e-156], [-3e-156]]), np.array([5e-157]), np.array([9e-308]), 0.0,
        extreme=True,
    )  # fmt: skip
    yield case(
        "z around 1e160: phi is finite, but the square overflows",
        np.array([[3e160, 2e160]]), np.array([0.0, 1e160]), np.array([9e306, 1e307]), 0.0,
        extreme=True,
    )  # fmt: skip


def _streams() -> Iterator[Case]:
    rng = np.random.default_rng(31415926)
    # notes, convention, forget_after, compensation, batch sizes, neurons, offset / spread
    plans: list[tuple[str, str, int, float, list[int], tuple[int, ...], float]] = [
        ("three batches, nothing forgotten yet", "paper", 10, 0.0, [4, 4, 4], (3,), 0.0),
        ("forgetting from the third batch on", "paper", 2, 0.0, [4, 4, 4, 4, 4], (3,), 0.0),
        ("forget_after=1", "paper", 1, 0.0, [3, 3, 3, 3], (2,), 0.0),
        ("batches of different sizes; the past weighs as forget_after of the current size",
         "paper", 2, 0.0, [5, 3, 2, 4, 1, 6], (2,), 0.0),
        ("batches of one sample after the first", "paper", 10, 0.0, [2, 1, 1, 1], (2,), 0.0),
        ("compensation", "paper", 3, 0.01, [4, 4, 4, 4, 4], (4,), 0.0),
        ("sequences (B, T, C)", "paper", 10, 0.0, [3, 3, 3], (2, 2), 0.0),
        ("offset 100 times the spread", "paper", 10, 0.0, [16, 16, 16], (2,), 100.0),
        ("offset 10,000 times the spread: E[x^2] - E[x]^2 loses its digits", "paper", 10, 0.0,
         [16, 16, 16], (2,), 1e4),
        ("offset a million times the spread", "paper", 10, 0.0, [16, 16, 16], (2,), 1e6),
        ("the authors' code: a batch is in the moments before it is scored", "authors", 10, 0.0,
         [4, 4, 4], (3,), 0.0),
        ("the authors' code: the first batch counts twice", "authors", 10, 0.0, [3, 3], (2,), 0.0),
        ("the authors' code past forget_after", "authors", 2, 0.0, [4, 4, 4, 4, 4], (3,), 0.0),
        ("the authors' code with compensation", "authors", 3, 0.01, [4, 4, 4, 4, 4], (4,), 0.0),
        ("the authors' code: the past weighs in batches of the current size", "authors", 3, 0.0,
         [6, 2, 4, 3], (2,), 0.0),
        ("the authors' code, offset 1,000 times the spread", "authors", 10, 0.0, [16, 16, 16],
         (2,), 1e3),
    ]  # fmt: skip
    for number, plan in enumerate(plans, start=1):
        notes, convention, forget_after, compensation, sizes, neurons, offset = plan
        batches = [
            float32(offset + rng.normal(size=(b, *neurons)) * (1 + i / 4))
            for i, b in enumerate(sizes)
        ]
        expected, condition = _expected_stream(batches, convention, forget_after, compensation)
        yield Case(
            f"scale/stream/{number}", "score_batches",
            {"batches": batches, "convention": convention, "forget_after": forget_after,
             "compensation": compensation},
            {"phi": expected}, notes, condition,
        )  # fmt: skip


def _expected_stream(
    batches: list[Array], convention: str, forget_after: int, compensation: float
) -> tuple[list[Expected], float]:
    """phi of each batch, allowed eta (2 sqrt phi + 2 phi + eta) + 8 eps phi, eta = c eps kappa."""
    scores = stream(batches, convention, forget_after, compensation)
    expected, worst = [], 1.0
    for number, (batch, phi) in enumerate(zip(batches, scores, strict=True)):
        if phi is None:
            expected.append(Expected(np.full(batch.shape, np.nan)))
            continue
        seen = np.concatenate(batches[: number + 1])
        kappa = (abs(seen).max(axis=0) / seen.std(axis=0, ddof=1)).max()
        worst = max(worst, float(kappa))
        value, reach = rounded(phi), BOUND * kappa
        linear = reach * (2 * np.sqrt(value) + 2 * value) + 8 * value
        expected.append(Expected(value, linear, quadratic=np.full(value.shape, reach**2)))
    return expected, worst


# ---- minimono's own ----------------------------------------------------------------------------


def score_batches(
    batches: list[Array], *, convention: Any, forget_after: int, compensation: float
) -> list[Array]:
    tracker = mono.ScaleTracker(
        convention=convention, forget_after=forget_after, compensation=compensation
    )
    return [tracker.score(batch) for batch in batches]


# ---- known mistakes ----------------------------------------------------------------------------


def _mistaken(
    change: Callable[[Array, Array, Array, float], Array],
) -> Callable[..., Array]:
    def scale(z: Array, mean: Array, variance: Array, *, compensation: float) -> Array:
        return change(z, mean, variance, compensation)

    return scale


def _phi(z: Array, mean: Array, variance: Array, compensation: float) -> Array:
    denominator = variance + compensation * variance.mean()
    return (z - mean) ** 2 / np.where(denominator > 0, denominator, np.nan)


def _last_axis(variance: Array) -> Array:
    """The mean variance over the last axis only."""
    return variance.mean(axis=-1, keepdims=True) if variance.ndim else variance


GIVEN: dict[str, Callable[[Array, Array, Array, float], Array]] = {
    "standard deviation where the variance is meant": lambda z, m, v, c: (z - m) ** 2
    / np.sqrt(v + c * v.mean()),
    "the square is missing (a z-score)": lambda z, m, v, c: abs(z - m) / np.sqrt(v + c * v.mean()),
    "the sign is kept (a z-score)": lambda z, m, v, c: (z - m) / np.sqrt(v + c * v.mean()),
    "only the numerator's square is missing": lambda z, m, v, c: abs(z - m) / (v + c * v.mean()),
    "taken about zero instead of the mean": lambda z, m, v, c: _phi(z, 0 * m, v, c),
    "compensation is ignored": lambda z, m, v, c: _phi(z, m, v, 0.0),
    "compensation is added as it is, not times the mean variance": lambda z, m, v, c: (z - m) ** 2
    / (v + c),
    "compensation times the sum of the variances, not their mean": lambda z, m, v, c: (z - m) ** 2
    / (v + c * v.sum()),
    "compensation times the neuron's own variance": lambda z, m, v, c: (z - m) ** 2 / (v + c * v),
    "compensation outside: variance and mean variance change places": lambda z, m, v, c: (z - m)
    ** 2 / (c * v + v.mean()),
    "compensation by the mean over the last axis only": lambda z, m, v, c: (z - m) ** 2
    / (v + c * _last_axis(v)),
    "0 instead of nan for a constant neuron": lambda z, m, v, c: np.nan_to_num(_phi(z, m, v, c)),
    "infinity instead of nan for a constant neuron": lambda z, m, v, c: (z - m) ** 2
    / (v + c * v.mean()),
    "a small epsilon is added to the variance (1e-8)": lambda z, m, v, c: (z - m) ** 2
    / (v + c * v.mean() + 1e-8),
    "a small epsilon is added to the variance (1e-5)": lambda z, m, v, c: (z - m) ** 2
    / (v + c * v.mean() + 1e-5),
    "logarithm of the scale": lambda z, m, v, c: np.log(_phi(z, m, v, c)),
    "averaged over samples": lambda z, m, v, c: np.broadcast_to(
        _phi(z, m, v, c).mean(axis=0), z.shape
    ),
}


def mistaken_stream(
    batches: list[Array],
    *,
    convention: str,
    forget_after: int,
    compensation: float,
    ddof: int = 1,
    update: str = "as the convention",
    first_counts: int = 1,
    forget: str = "right",
    about: str = "mean",
    merge: str = "exact",
    history: bool = True,
    axis: int = 0,
    denominator: str = "variance",
    padding: bool = False,
) -> list[Array]:
    """`score_batches` with something wrong, as the options say."""
    after = (convention == "authors") if update == "as the convention" else update == "after"
    count, mean, m2 = 0.0, np.zeros(()), np.zeros(())
    scores: list[Array] = []
    for number, batch in enumerate(batches, start=1):
        counted = np.concatenate([batch, 0 * batch[:1]]) if padding else batch
        b, size = float(counted.shape[axis]), float(batch.shape[axis])
        own_mean = counted.mean(axis=axis, keepdims=True) if about == "mean" else 0 * batch[:1]
        own_m2 = ((counted - own_mean) ** 2).sum(axis=axis, keepdims=True)
        before: tuple[float, Array, Array] = (count, mean, m2)
        if number == 1:
            count, mean, m2 = b * first_counts, own_mean, own_m2 * first_counts
            scores.append(np.full(batch.shape, np.nan))
            continue
        if not history:
            count, mean, m2 = b, own_mean, own_m2
            used = (count, mean, m2) if after else before
            scores.append(_ratio(batch, *used, ddof, compensation, denominator))
            continue
        limit = {"right": forget_after, "one later": forget_after + 1, "never": 10**9}[forget]
        if convention == "authors":
            seen = {"count as in the paper": number - 1}.get(update, number)
            past = min(seen, limit) * size
        else:
            past = count if number <= limit else limit * size
        if past != count:
            m2, count = m2 * ((past - ddof) / (count - ddof)), past
        shift = (mean - own_mean) ** 2 * count * b / (count + b) if merge == "exact" else 0.0
        m2 = m2 + own_m2 + shift
        mean = (count * mean + b * own_mean) / (count + b)
        count = count + b
        used = (count, mean, m2) if after else before
        scores.append(_ratio(batch, *used, ddof, compensation, denominator))
    return scores


def _ratio(
    batch: Array, count: float, mean: Array, m2: Array, ddof: int, compensation: float,
    denominator: str,
) -> Array:  # fmt: skip
    variance = m2 / (count - ddof)
    below = variance + compensation * variance.mean()
    if denominator == "standard deviation":
        below = np.sqrt(below)
    return (batch - mean) ** 2 / np.where(below > 0, below, np.nan)


def _uncompensated(batches: list[Array], *, compensation: float, **options: Any) -> list[Array]:
    return mistaken_stream(batches, compensation=0.0, **options)


STREAM: dict[str, Callable[..., list[Array]]] = {
    "variance divided by n instead of n-1": partial(mistaken_stream, ddof=0),
    "the batch is in the moments before it is scored": partial(mistaken_stream, update="after"),
    "the batch is scored before it is in the moments": partial(mistaken_stream, update="before"),
    "nothing is forgotten": partial(mistaken_stream, forget="never"),
    "forgetting begins one batch late": partial(mistaken_stream, forget="one later"),
    "the first batch counts twice": partial(mistaken_stream, first_counts=2),
    "the first batch counts once, where the authors' code counts it twice": partial(
        mistaken_stream, update="count as in the paper"
    ),
    "taken about zero instead of the mean": partial(mistaken_stream, about="zero"),
    "the distance between the means is left out of the merge": partial(
        mistaken_stream, merge="variances only"
    ),
    "only the last batch is remembered": partial(mistaken_stream, history=False),
    "statistics over the wrong axis": partial(mistaken_stream, axis=-1),
    "a row of zeros (padding) is counted": partial(mistaken_stream, padding=True),
    "standard deviation where the variance is meant": partial(
        mistaken_stream, denominator="standard deviation"
    ),
    "compensation is ignored": _uncompensated,
}


SUITE = Suite(
    name="scale",
    text="the monosemantic scale phi = (z - mean)^2 / variance",
    conventions={
        "neurons": "all axes but the first; axis 0 is the samples",
        "ddof": "1: the variance is divided by n - 1",
        "eps": "none is added; with compensation c the denominator is variance + c mean(variance), "
        "the mean over all neurons of the layer",
        "undefined": "nan where the denominator is 0, and in the first batch of a stream",
    },
    calls=(
        Call(
            "monosemantic_scale", ("z", "mean", "variance", "*", "compensation"), ("phi",),
            "z (B, *neurons); mean, variance (*neurons); compensation a number. phi (B, *neurons).",
        ),
        Call(
            "score_batches", ("batches", "*", "convention", "forget_after", "compensation"),
            ("phi",),
            "batches: a list of arrays (B, *neurons). Returns a list: phi of each batch.\n"
            'convention "paper": score a batch by the moments of those before it, then update\n'
            "them; once forget_after batches were seen, the past weighs as forget_after batches\n"
            'of the current size. "authors": update first, the past weighing as\n'
            "min(n, forget_after) batches of the current size, n the number of this batch, from 1.",
        ),
    ),
    cases=cases,
    own={"monosemantic_scale": mono.monosemantic_scale, "score_batches": score_batches},
    mistakes={
        "monosemantic_scale": {name: _mistaken(change) for name, change in GIVEN.items()},
        "score_batches": STREAM,
    },
)
