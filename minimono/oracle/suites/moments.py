"""Suite `moments`: mean and variance over batches, their merge, and forgetting."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from minimono import mono
from minimono.backend import Array
from minimono.oracle.case import BOUND, Case, Expected
from minimono.oracle.suite import Call, Entries, Mistakes, Suite, grouped
from minimono.oracle.suites.running_moments import AXES, NEVER, Running, drawn
from minimono.oracle.truth import conditioned, exact, float32, rounded

# ---- formulas in plain NumPy: of Fractions the truth; with a knob turned, a mistake --------------


def plain_moments(
    batches: list[Array], *,
    used: Callable[[list[Array]], list[Array]] = lambda batches: batches,
    padding: bool = False,  # a row of zeros is counted
    over: str = "samples",  # a key of AXES
    about: str = "mean",  # what deviations are from; or "zero"
    divisor: Callable[[int], int] = lambda n: n - 1,
    power: float = 1,
    mean_of: str = "samples",  # or "batches"
    variance_of: str = "samples",  # "batches": averaged; "batches by size": weighed
    unbiased: bool = False,  # the batches are merged by their unbiased variances
) -> tuple[Array, Array]:
    """Return the mean and variance of all samples of all batches together."""
    batches = used(batches)
    if unbiased:
        return plain_forget(batches, forget_after=NEVER, unbiased=True)
    z = np.concatenate(batches)
    if padding:
        z = np.concatenate([z, np.zeros_like(z[:1])])
    axes = AXES[over](z.ndim)
    mean = z.mean(axes, keepdims=True)
    deviations = z - mean if about == "mean" else z
    variance = (deviations**2).sum(axes, keepdims=True) / divisor(z.size // mean.size)
    if mean_of == "batches":
        mean = np.mean([b.mean(axis=0, keepdims=True) for b in batches], axis=0)
    if variance_of == "batches":
        variance = np.mean([b.var(axis=0, ddof=1, keepdims=True) for b in batches], axis=0)
    elif variance_of == "batches by size":
        total = sum(len(b) * b.var(axis=0, keepdims=True) for b in batches)
        variance = np.asarray(total) / divisor(len(z))
    if 0 not in axes:
        return mean[..., 0], variance[..., 0]
    shape = z.shape[1:]
    return np.broadcast_to(mean[0], shape), np.broadcast_to(variance[0] ** power, shape)


def plain_merge(
    count_a: int, mean_a: Array, m2_a: Array, count_b: int, mean_b: Array, m2_b: Array,
    *, weights: Callable[[int, int], tuple[int, int]] = lambda a, b: (a, b),  # of the means
    within: Callable[[Array, int], Array] = lambda m2, n: m2,
    between: Callable[[Array, int, int], Array] = lambda d, a, b: d**2 * a * b / (a + b),
    distance: str = "of the means",  # or "from the new mean"
    divides: bool = False,
) -> tuple[int, Array, Array]:
    """Return count, mean and m2 of two sets of samples together."""
    a, b = weights(count_a, count_b)
    mean = (a * mean_a + b * mean_b) / (a + b)
    apart = mean_b - (mean_a if distance == "of the means" else mean)
    m2 = within(m2_a, count_a) + within(m2_b, count_b) + between(apart, count_a, count_b)
    count = count_a + count_b
    return count, mean, m2 / (count - 1) if divides else m2


def plain_forget(
    batches: list[Array], *, forget_after: int, algorithm: str = "merge", **knobs: Any
) -> tuple[Array, Array]:
    """Return mean and variance by Algorithm 1; the knobs are those of `Running`."""
    if algorithm == "window":
        return plain_moments(batches[-forget_after - 1 :])
    if algorithm == "running average":  # as batch normalisation does it
        mean, variance = plain_moments(batches[:1])
        for batch in batches[1:]:
            own = batch.var(axis=0, ddof=1) if len(batch) > 1 else 0 * mean
            mean = mean + (batch.mean(axis=0) - mean) / (forget_after + 1)
            variance = variance + (own - variance) / (forget_after + 1)
        return mean, variance
    running = Running("paper", forget_after, **knobs)
    for batch in batches:
        running.update(batch)
    return running.mean[0], running.variance[0]


# ---- cases ---------------------------------------------------------------------------------------

# notes, sizes of the batches, neurons, offset
UPDATES: list[tuple[str, list[int], tuple[int, ...], float]] = [
    ("one batch", [5], (3,), 0.0),
    ("three batches: as if all had been one", [4, 4, 4], (3,), 0.0),
    ("batches of different sizes", [5, 2, 7], (2,), 0.0),
    ("batches of one sample", [1, 1, 1, 1], (2,), 0.0),
    ("sequences (B, T, C)", [3, 2], (2, 2), 0.0),
    ("feature maps (B, C, Y, X)", [2, 2], (2, 2, 2), 0.0),
    ("one neuron, no neuron axis: shape (B,)", [4, 3], (), 0.0),
    ("offset 100 times the spread", [16, 16], (2,), 1e2),
    ("offset 10,000 times the spread", [16, 16], (2,), 1e4),
    ("offset a million times the spread: E[x^2] - E[x]^2 fails", [32, 32], (2,), 1e6),
    ("the first batch has one sample, and so no variance of its own", [1, 5, 2], (2,), 0.0),
    ("a large batch, then single samples", [20, 1, 1], (2,), 0.0),
    ("a sequence, offset a million times the spread", [4, 4], (2, 3), 1e6),
]

# notes, sizes of the two sets, offset
MERGES = [
    ("two equal halves", 5, 5, 0.0),
    ("different sizes", 3, 100, 0.0),
    ("one sample", 7, 1, 0.0),
    ("two samples of one each", 1, 1, 0.0),
    ("both far from zero", 20, 30, 1000.0),
    ("a billion samples and ten", 10**9, 10, 0.0),
    ("a million times farther from zero than apart", 8, 4, 1e6),
    ("equal means: nothing is added to m2", 6, 9, 0.0),
]

# notes, sizes of the batches, neurons, forget_after, offset
FORGETTING: list[tuple[str, list[int], tuple[int, ...], int, float]] = [
    ("nothing forgotten yet", [4, 4, 4], (2,), 3, 0.0),
    ("from the third batch on", [4] * 6, (2,), 2, 0.0),
    ("forget_after=1", [3] * 4, (2,), 1, 0.0),
    ("different sizes", [5, 3, 2, 6, 1], (2,), 2, 0.0),
    ("offset 1,000 times the spread", [8] * 5, (2,), 2, 1e3),
    ("the first batch that forgets", [3, 4, 5, 2], (3,), 3, 0.0),
    ("single samples after the first batch: the past weighs as forget_after samples",
     [5, 1, 1, 1, 1], (2,), 2, 0.0),
    ("a sequence (B, T, C)", [3] * 5, (2, 2), 2, 0.0),
    ("a feature map (B, C, Y, X)", [2] * 4, (2, 2, 2), 1, 0.0),
    ("offset a million times the spread", [16] * 4, (2,), 2, 1e6),
]


def cases() -> Iterator[Case]:
    return grouped(SUITE, [
        ("update", "moments", 5772156, _updates),
        ("merge", "merge", 6931471, _merges),
        ("forget", "forget", 8414709, _forgetting),
    ])


def expected_statistics(
    mean: Array, variance: Array, seen: Array
) -> tuple[list[Expected], dict[str, float]]:
    """The outputs, with errors as large as c roundings of the largest value make them, and how
    far rounding is amplified.
    """
    largest, value = abs(seen).max(axis=0), rounded(variance)
    spread = np.sqrt(value)
    reach = BOUND * largest
    expected = [
        Expected(rounded(mean), linear=reach),
        Expected(value, linear=2 * reach * spread + 8 * value, quadratic=reach**2),
    ]
    with np.errstate(divide="ignore", invalid="ignore"):  # constant neurons: all digits are lost
        condition = np.nan_to_num(largest / spread, nan=1.0, posinf=2.0**52)
    return expected, {"condition": max(float(condition.max()), 1.0)}


def _updates(rng: np.random.Generator) -> Entries:
    streams = [
        (notes, drawn(rng, sizes, neurons, offset, growth=1.0))
        for notes, sizes, neurons, offset in UPDATES
    ]
    column = np.array([[1.0], [2.0], [2.0], [4.0], [6.0]])
    tight = 1 + 2.0**-22 * rng.integers(0, 8, size=(12, 2))
    beside = float32(rng.normal(size=(9, 3)) * [1e-6, 1.0, 1e6])
    still = np.stack([beside[:, 1], np.full(9, -3.0)], axis=1)
    whole = np.array([[10000001.0], [10000003.0], [10000002.0]])
    ones, millions, ten_millions = (
        np.array([[base + 0.2], *([[base + 0.1], [base + 0.3]] * 50)]) for base in (1.0, 1e6, 1e7)
    )
    streams += [
        ("by hand: mean 3, variance 4", [column]),
        ("by hand, in two batches", [column[:2], column[2:]]),
        ("constant: the variance is 0", [np.full((3, 2), 0.5), np.full((4, 2), 0.5)]),
        ("constant 0.1, as float32 holds it: a sum that rounds leaves a variance near 1e-32",
         [float32(np.full((3, 2), 0.1)), float32(np.full((4, 2), 0.1))]),
        ("a constant neuron beside another", [still[:4], still[4:]]),
        ("all zero", [np.zeros((2, 3)), np.zeros((1, 3))]),
        ("tight: only the last bits of float32 differ", [tight[:5], tight[5:]]),
        ("neurons of very different size", [beside[:4], beside[4:]]),
        ("constant in each batch, but not the same", [np.full((2, 1), 1.0), np.full((2, 1), 3.0)]),
        ("NIST NumAcc1: mean 10000002, variance 1", [whole]),
        ("as NIST NumAcc2, shorter: b.2, then b.1 and b.3 in turn, b = 1", [ones]),
        ("as NIST NumAcc3, shorter: b = 1,000,000", [millions]),
        ("as NIST NumAcc4, shorter: b = 10,000,000, in two batches", np.split(ten_millions, [40])),
        ("around 1e-160: the squares are subnormal", [1e-160 * np.arange(6.0)[:, None]]),
        ("around 1e152: the squares' sum is near the end of the range",
         [1e152 * np.array([[1.0], [-2.0], [4.0], [-3.0]])]),
    ]
    for notes, batches in streams:
        seen = np.concatenate(batches)
        expected, more = expected_statistics(*plain_moments([exact(seen)]), seen)
        yield notes, {"batches": batches}, expected, {**more, "extreme": notes.startswith("around")}


def _merges(rng: np.random.Generator) -> Entries:
    for notes, a, b, offset in MERGES:
        mean_a, mean_b = float32(offset + rng.normal(size=3)), float32(offset + rng.normal(size=3))
        if notes.startswith("equal means"):
            mean_b = mean_a.copy()
        m2_a, m2_b = (float32(rng.uniform(0.5, 2.0, 3) * (n - 1)) for n in (a, b))
        if a == b == 1:
            m2_a, m2_b = np.zeros(3), np.zeros(3)
        arguments = {"count_a": a, "mean_a": mean_a, "m2_a": m2_a,
                     "count_b": b, "mean_b": mean_b, "m2_b": m2_b}

        def merged(ma: Array, sa: Array, mb: Array, sb: Array, a: int = a, b: int = b) -> Any:
            return plain_merge(a, ma, sa, b, mb, sb)[1:]

        both = conditioned(merged, mean_a, m2_a, mean_b, m2_b)
        yield notes, arguments, [Expected(np.array(a + b)), *both]


def _forgetting(rng: np.random.Generator) -> Entries:
    streams = [
        (notes, drawn(rng, sizes, neurons, offset, growth=0.5), forget_after)
        for notes, sizes, neurons, forget_after, offset in FORGETTING
    ]
    past, jump = np.array([[0.0, 1.0], [2.0, 1.0]]), np.array([[4.0, 1.0], [6.0, 1.0]])
    streams += [
        ("by hand: a mean of 1, then 5; the second neuron is constant", [past, jump, jump], 1),
        ("one batch only", [past], 1),
    ]
    for notes, batches, forget_after in streams:
        truth = plain_forget([exact(b) for b in batches], forget_after=forget_after)
        found = expected_statistics(*truth, np.concatenate(batches))
        yield notes, {"batches": batches, "forget_after": forget_after}, *found


MOMENTS = Mistakes(plain_moments, {
    "variance divided by n instead of n-1": {"divisor": lambda n: n},
    "standard deviation where the variance is meant": {"power": 0.5},
    "taken about zero instead of the mean": {"about": "zero"},
    "a row of zeros (padding) is counted": {"padding": True},
    "statistics over the wrong axis": {"over": "last axis"},
    "one mean and variance for the whole layer": {"over": "everything"},
    "one mean and variance for each channel, over all positions": {"over": "samples and positions"},
    "the sum of squares where the variance is meant": {"divisor": lambda n: 1},
    "the mean of the batches' means": {"mean_of": "batches"},
    "variances averaged, without the distance between the means":
        {"variance_of": "batches by size"},
    "biased variances averaged, without the distance between the means":
        {"variance_of": "batches by size", "divisor": lambda n: n},
    "the average of the batches' variances": {"variance_of": "batches"},
    "the first batch is left out": {"used": lambda batches: batches[1:] or batches},
    "the last batch is left out": {"used": lambda batches: batches[:-1] or batches},
    "the first batch counts twice": {"used": lambda batches: [batches[0], *batches]},
    "the batch's unbiased variance where the biased one belongs": {"unbiased": True},
    "only the last batch is remembered": {"used": lambda batches: batches[-1:]},
})

MERGE = Mistakes(plain_merge, {
    "the distance between the means is left out": {"between": lambda d, a, b: 0 * d},
    "the distance between the means is not squared":
        {"between": lambda d, a, b: abs(d) * a * b / (a + b)},
    "the distance between the means is weighed by a b, not a b / (a + b)":
        {"between": lambda d, a, b: d**2 * a * b},
    "the distance between the means is weighed by a b / (a + b)^2":
        {"between": lambda d, a, b: d**2 * a * b / (a + b) ** 2},
    "m2 is taken for a variance: times n - 1": {"within": lambda m2, n: (n - 1) * m2},
    "the variance is returned, not m2": {"divides": True},
    "the distance is from the new mean, not between the two": {"distance": "from the new mean"},
    "the means are averaged without their counts": {"weights": lambda a, b: (1, 1)},
    "the counts change places in the mean": {"weights": lambda a, b: (b, a)},
})

FORGET = Mistakes(plain_forget, {
    "variance divided by n instead of n-1": {"ddof": 0},
    "nothing is forgotten": {"longer": NEVER},
    "forgetting begins one batch late": {"late": 1},
    "forgetting begins one batch early": {"late": -1},
    "the past weighs in batches of the first size": {"weight": "in batches of the first size"},
    "the past weighs as one batch, always": {"weight": "one batch"},
    "the past weighs as one batch more": {"longer": 1, "late": -1},
    "forget_after counts samples, not batches": {"weight": "in samples"},
    "the past weighs as in the authors' code: min(n, forget_after) batches": {"weight": "authors"},
    "only the count is cut, m2 stays: the variance grows": {"keeps": "m2"},
    "a window: only the last forget_after batches and this one": {"algorithm": "window"},
    "a running average: of the means and of the variances": {"algorithm": "running average"},
    "the distance between the means is left out": {"shift": False},
})


def moments(batches: list[Array]) -> tuple[Array, Array]:
    running = mono.Moments.empty(batches[0].shape[1:])
    for batch in batches:
        running = running.update(batch)
    return running.mean, running.variance()


def merge(*a_and_b: Any) -> tuple[int, Array, Array]:
    both = mono.Moments(*a_and_b[:3]).merge(mono.Moments(*a_and_b[3:]))
    return both.count, both.mean, both.m2


def forget(batches: list[Array], *, forget_after: int) -> tuple[Array, Array]:
    tracker = mono.ScaleTracker(forget_after=forget_after)
    for batch in batches:
        tracker.score(batch)
    return tracker.mean, tracker.variance


SUITE = Suite(
    name="moments",
    text="the running mean and variance of each neuron",
    conventions={
        "neurons": "all axes but the first; axis 0 is the samples",
        "ddof": "1: the variance is divided by n - 1",
        "m2": "the sum of squared deviations from the mean",
    },
    calls=(
        Call("moments", ("batches",), ("mean", "variance"),
             "batches: a list of arrays (B, *neurons). Mean and variance (*neurons) of all "
             "samples\nof all batches together."),
        Call("merge", ("count_a", "mean_a", "m2_a", "count_b", "mean_b", "m2_b"),
             ("count", "mean", "m2"),
             "Of two sets of samples, given by count, mean (*neurons) and m2 (*neurons), those of\n"
             "both together."),
        Call("forget", ("batches", "*", "forget_after"), ("mean", "variance"),
             "As `moments`, but once forget_after batches were seen, the past weighs as\n"
             "forget_after batches of the current size."),
    ),
    cases=cases,
    own={"moments": moments, "merge": merge, "forget": forget},
    mistakes={"moments": MOMENTS, "merge": MERGE, "forget": FORGET},
)
