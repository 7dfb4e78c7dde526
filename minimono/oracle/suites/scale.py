"""Suite `scale`: the monosemantic scale, from given statistics and from a stream of batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import Any

import numpy as np

from minimono import mono
from minimono.backend import Array
from minimono.oracle.case import BOUND, Case, Expected
from minimono.oracle.suite import NONE, Call, Entries, Mistakes, Suite, grouped
from minimono.oracle.suites.running_moments import NEVER, Running, drawn
from minimono.oracle.truth import exact, float32, rounded

# ---- formulas in plain NumPy: of Fractions the truth; with a knob turned, a mistake --------------

Change = Callable[[Array], Array]


def plain_scale(
    z: Array, mean: Array, variance: Array,
    *, compensation: Any,  # a float, or a Fraction
    about: int = 1,  # times the mean
    numerator: Change = lambda distance: distance**2,
    below: Callable[[Array, Any], Array] = lambda v, c: v + c * v.mean(),
    denominator: Change = lambda below: below,
    guarded: bool = True,  # nan where the denominator is 0
    result: Change = lambda phi: phi,
) -> Array:
    """Return (z - mean)² / (variance + compensation · mean(variance)), nan where that is 0."""
    divisor = below(variance, compensation)
    if guarded:
        divisor = np.where(divisor > 0, divisor, np.nan)
    return result(numerator(z - about * mean) / denominator(divisor))


def plain_stream(
    batches: list[Array], *, convention: str, forget_after: int, compensation: Any,
    after: bool | None = None,  # a batch is in the moments before it is scored, or not
    scale: Mapping[str, Any] = NONE,  # knobs of `plain_scale`
    **moments: Any,  # knobs of `Running`
) -> list[Array]:
    """Return phi of each batch: by Algorithm 1, or by the authors' code; nan in the first."""
    after = convention == "authors" if after is None else after
    running = Running(convention, forget_after, **moments)
    scores: list[Array] = []
    for batch in batches:
        first, before = running.seen == 0, (running.mean, running.variance)
        running.update(batch)
        used = (running.mean, running.variance) if after else before
        scores.append(
            np.full(batch.shape, np.nan) if first
            else plain_scale(batch, *used, compensation=compensation, **scale)
        )
    return scores


# ---- cases -------------------------------------------------------------------------------------


def cases() -> Iterator[Case]:
    return grouped(SUITE, [
        ("given", "monosemantic_scale", 20261124, _given),
        ("stream", "score_batches", 31415926, _streams),
    ])


def _given(rng: np.random.Generator) -> Entries:
    # notes, shape, compensation, offset
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
    entries: list[tuple[str, Array, Array, Array, float]] = []
    for notes, shape, compensation, offset in layouts:
        mean = float32(offset + rng.normal(size=shape[1:]))
        variance = float32(rng.uniform(0.1, 4.0, shape[1:]))
        z = float32(offset + 3 * rng.normal(size=shape))
        entries.append((notes, z, mean, variance, compensation))
    ones, z = np.ones(3), np.array([[0.0, 2.0, 5.0], [1.0, -1.0, 2.0]])
    still = np.array([1.0, 0.0, 4.0])
    entries += [
        ("small whole numbers, to try by hand", z, ones, np.array([1.0, 2.0, 4.0]), 0.0),
        ("z equal to its mean: phi is exactly 0", np.ones((2, 3)), ones, ones, 0.0),
        ("the second neuron was constant: its variance is 0 and its phi nan, not 0 and not "
         "infinity", z, ones, still, 0.0),
        ("with compensation a constant neuron has a phi: the others' variance is in its "
         "denominator", z, ones, still, 0.01),
        ("all variances 0: nan, with compensation too", z, ones, np.zeros(3), 0.01),
        ("one sample", z[:1], ones, ones, 0.0),
        ("z around 1e-156: phi is near 1e-4, but the square is subnormal and has lost digits",
         np.array([[2e-156], [-3e-156]]), np.array([5e-157]), np.array([9e-308]), 0.0),
        ("z around 1e160: phi is finite, but the square overflows",
         np.array([[3e160, 2e160]]), np.array([0.0, 1e160]), np.array([9e306, 1e307]), 0.0),
    ]
    for notes, z, mean, variance, compensation in entries:
        truth = rounded(plain_scale(
            *map(exact, (z, mean, variance)), compensation=Fraction(compensation)
        ))
        roundings = 4 + (variance.size / 2 if compensation else 0)  # of the sum over neurons
        yield (
            notes, {"z": z, "mean": mean, "variance": variance, "compensation": compensation},
            [Expected(truth, linear=roundings * np.nan_to_num(truth))],
            {"extreme": notes.startswith("z around")},
        )


# notes, convention, forget_after, compensation, batch sizes, neurons, offset / spread
STREAMS: list[tuple[str, str, int, float, list[int], tuple[int, ...], float]] = [
    ("three batches, nothing forgotten yet", "paper", 10, 0.0, [4] * 3, (3,), 0.0),
    ("forgetting from the third batch on", "paper", 2, 0.0, [4] * 5, (3,), 0.0),
    ("forget_after=1", "paper", 1, 0.0, [3] * 4, (2,), 0.0),
    ("batches of different sizes; the past weighs as forget_after of the current size",
     "paper", 2, 0.0, [5, 3, 2, 4, 1, 6], (2,), 0.0),
    ("batches of one sample after the first", "paper", 10, 0.0, [2, 1, 1, 1], (2,), 0.0),
    ("compensation", "paper", 3, 0.01, [4] * 5, (4,), 0.0),
    ("sequences (B, T, C)", "paper", 10, 0.0, [3] * 3, (2, 2), 0.0),
    ("offset 100 times the spread", "paper", 10, 0.0, [16] * 3, (2,), 100.0),
    ("offset 10,000 times the spread: E[x^2] - E[x]^2 loses its digits",
     "paper", 10, 0.0, [16] * 3, (2,), 1e4),
    ("offset a million times the spread", "paper", 10, 0.0, [16] * 3, (2,), 1e6),
    ("the authors' code: a batch is in the moments before it is scored",
     "authors", 10, 0.0, [4] * 3, (3,), 0.0),
    ("the authors' code: the first batch counts twice", "authors", 10, 0.0, [3, 3], (2,), 0.0),
    ("the authors' code past forget_after", "authors", 2, 0.0, [4] * 5, (3,), 0.0),
    ("the authors' code with compensation", "authors", 3, 0.01, [4] * 5, (4,), 0.0),
    ("the authors' code: the past weighs in batches of the current size",
     "authors", 3, 0.0, [6, 2, 4, 3], (2,), 0.0),
    ("the authors' code, offset 1,000 times the spread", "authors", 10, 0.0, [16] * 3, (2,), 1e3),
]


def _streams(rng: np.random.Generator) -> Entries:
    for notes, convention, forget_after, compensation, sizes, neurons, offset in STREAMS:
        batches = drawn(rng, sizes, neurons, offset, growth=0.25)
        settings: dict[str, Any] = {"convention": convention, "forget_after": forget_after}
        scores = plain_stream(
            [exact(b) for b in batches], **settings, compensation=Fraction(compensation)
        )
        phi, worst = [Expected(rounded(scores[0]))], 1.0  # the first is nan
        for seen, value in enumerate(map(rounded, scores[1:]), start=2):
            z = np.concatenate(batches[:seen])
            kappa = (abs(z).max(axis=0) / z.std(axis=0, ddof=1)).max()
            worst, reach = max(worst, float(kappa)), BOUND * kappa
            # eta (2 sqrt phi + 2 phi + eta) + 8 eps phi, where eta = c eps kappa
            linear = reach * (2 * np.sqrt(value) + 2 * value) + 8 * value
            phi.append(Expected(value, linear, quadratic=np.full(value.shape, reach**2)))
        arguments = {"batches": batches, **settings, "compensation": compensation}
        yield notes, arguments, [phi], {"condition": worst}


# Most who get it wrong do not look whether the denominator is 0 either.
UNGUARDED: dict[str, dict[str, Any]] = {
    "standard deviation where the variance is meant": {"denominator": np.sqrt},
    "the square is missing (a z-score)": {"numerator": abs, "denominator": np.sqrt},
    "the sign is kept (a z-score)": {"numerator": lambda d: d, "denominator": np.sqrt},
    "only the numerator's square is missing": {"numerator": abs},
    "compensation is added as it is, not times the mean variance": {"below": lambda v, c: v + c},
    "compensation times the sum of the variances, not their mean":
        {"below": lambda v, c: v + c * v.sum()},
    "compensation times the neuron's own variance": {"below": lambda v, c: v + c * v},
    "compensation outside: variance and mean variance change places":
        {"below": lambda v, c: c * v + v.mean()},
    "compensation by the mean over the last axis only":
        {"below": lambda v, c: v + c * np.atleast_1d(v).mean(axis=-1, keepdims=True)},
    "infinity instead of nan for a constant neuron": {},
    "a small epsilon is added to the variance (1e-8)":
        {"below": lambda v, c: v + c * v.mean() + 1e-8},
    "a small epsilon is added to the variance (1e-5)":
        {"below": lambda v, c: v + c * v.mean() + 1e-5},
}

SCALE = Mistakes(plain_scale, {
    **{name: {"guarded": False, **knobs} for name, knobs in UNGUARDED.items()},
    "taken about zero instead of the mean": {"about": 0},
    "compensation is ignored": {"below": lambda v, c: v},
    "0 instead of nan for a constant neuron": {"result": np.nan_to_num},
    "logarithm of the scale": {"result": np.log},
    "averaged over samples": {"result": lambda phi: np.broadcast_to(phi.mean(axis=0), phi.shape)},
})

STREAM = Mistakes(plain_stream, {
    "variance divided by n instead of n-1": {"ddof": 0},
    "the batch is in the moments before it is scored": {"after": True},
    "the batch is scored before it is in the moments": {"after": False},
    "nothing is forgotten": {"longer": NEVER},
    "forgetting begins one batch late": {"longer": 1},
    "the first batch counts twice": {"first_counts": 2},
    "the first batch counts once, where the authors' code counts it twice":
        {"counted_from": 0, "after": False},
    "taken about zero instead of the mean": {"about": "zero"},
    "the distance between the means is left out of the merge": {"shift": False},
    "only the last batch is remembered": {"remembers": False},
    "statistics over the wrong axis": {"over": "last axis"},
    "a row of zeros (padding) is counted": {"padding": True},
    "standard deviation where the variance is meant": {"scale": {"denominator": np.sqrt}},
    "compensation is ignored": {"scale": {"below": lambda v, c: v}},
})


def score_batches(batches: list[Array], **settings: Any) -> list[Array]:
    tracker = mono.ScaleTracker(**settings)
    return [tracker.score(batch) for batch in batches]


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
        Call("monosemantic_scale", ("z", "mean", "variance", "*", "compensation"), ("phi",),
             "z (B, *neurons); mean, variance (*neurons); compensation a number. "
             "phi (B, *neurons)."),
        Call("score_batches", ("batches", "*", "convention", "forget_after", "compensation"),
             ("phi",),
             "batches: a list of arrays (B, *neurons). Returns a list: phi of each batch.\n"
             'convention "paper": score a batch by the moments of those before it, then update\n'
             "them; once forget_after batches were seen, the past weighs as forget_after batches\n"
             'of the current size. "authors": update first, the past weighing as\n'
             "min(n, forget_after) batches of the current size, n the number of this batch, "
             "from 1."),
    ),
    cases=cases,
    own={"monosemantic_scale": mono.monosemantic_scale, "score_batches": score_batches},
    mistakes={"monosemantic_scale": SCALE, "score_batches": STREAM},
)
