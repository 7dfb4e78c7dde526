"""Suite `moments`: mean and variance over batches, their merge, and forgetting."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from minimono import mono
from minimono.backend import Array
from minimono.oracle.case import BOUND, Case, Expected
from minimono.oracle.suite import Call, Suite
from minimono.oracle.truth import conditioned, exact, float32, rounded

# ---- the truth, in Fractions ---------------------------------------------------------------------


def mean_and_variance(values: Array) -> tuple[Array, Array]:
    """Of all samples (axis 0), ddof 1."""
    mean = values.sum(axis=0) / len(values)
    return mean, ((values - mean) ** 2).sum(axis=0) / (len(values) - 1)


def forgetful(batches: Sequence[Array], forget_after: int) -> tuple[Array, Array]:
    """Algorithm 1: once forget_after batches were seen, the past weighs as that many."""
    mean, variance = mean_and_variance(batches[0])
    count = len(batches[0])
    for seen, batch in enumerate(batches[1:], start=1):
        b = len(batch)
        if seen >= forget_after:
            count = forget_after * b
        own_mean = batch.sum(axis=0) / b
        own_biased = ((batch - own_mean) ** 2).sum(axis=0) / b
        both = count + b
        shift = count * b * (mean - own_mean) ** 2 / ((both - 1) * both)
        variance = shift + (b * own_biased + (count - 1) * variance) / (both - 1)
        mean = (count * mean + b * own_mean) / both
        count = both
    return mean, variance


def expected_statistics(
    mean: Array, variance: Array, seen: Array
) -> tuple[dict[str, Expected], float]:
    """With errors as large as c roundings of the largest value make them."""
    largest, value = abs(seen).max(axis=0), rounded(variance)
    spread = np.sqrt(value)
    reach = BOUND * largest
    expected = {
        "mean": Expected(rounded(mean), linear=reach),
        "variance": Expected(value, linear=2 * reach * spread + 8 * value, quadratic=reach**2),
    }
    return expected, float((largest / np.where(spread > 0, spread, largest + 1)).max())


# ---- cases ---------------------------------------------------------------------------------------


def cases() -> Iterator[Case]:
    rng = np.random.default_rng(5772156)
    plans: list[tuple[str, list[int], tuple[int, ...], float]] = [
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
    ]  # fmt: skip
    streams = [
        (
            notes,
            [
                float32(offset + (1 + i) * rng.normal(size=(b, *neurons)))
                for i, b in enumerate(sizes)
            ],
        )
        for notes, sizes, neurons, offset in plans
    ]
    column = np.array([[1.0], [2.0], [2.0], [4.0], [6.0]])
    accuracy = [np.array([[10000001.0], [10000003.0], [10000002.0]])]
    for base in (1.0, 1e6, 1e7):
        tenths = [base + 0.2, *([base + 0.1, base + 0.3] * 50)]
        accuracy.append(np.array(tenths)[:, None])
    streams += [
        ("by hand: mean 3, variance 4", [column]),
        ("by hand, in two batches", [column[:2], column[2:]]),
        ("constant: the variance is 0", [np.full((3, 2), 0.5), np.full((4, 2), 0.5)]),
        ("constant in each batch, but not the same", [np.full((2, 1), 1.0), np.full((2, 1), 3.0)]),
        ("NIST NumAcc1: mean 10000002, variance 1", [accuracy[0]]),
        ("as NIST NumAcc2, shorter: b.2, then b.1 and b.3 in turn, b = 1", [accuracy[1]]),
        ("as NIST NumAcc3, shorter: b = 1,000,000", [accuracy[2]]),
        ("as NIST NumAcc4, shorter: b = 10,000,000, in two batches", np.split(accuracy[3], [40])),
    ]  # fmt: skip
    for number, (notes, batches) in enumerate(streams, start=1):
        seen = np.concatenate(batches)
        expected, condition = expected_statistics(*mean_and_variance(exact(seen)), seen)
        yield Case(
            f"moments/update/{number}", "moments", {"batches": batches}, expected, notes, condition
        )
    yield from _merges()
    yield from _forgetting()


def _merges() -> Iterator[Case]:
    rng = np.random.default_rng(6931471)
    for number, (notes, a, b, offset) in enumerate(
        [("two equal halves", 5, 5, 0.0), ("different sizes", 3, 100, 0.0),
         ("one sample", 7, 1, 0.0),
         ("two samples of one each", 1, 1, 0.0), ("both far from zero", 20, 30, 1000.0),
         ("a billion samples and ten", 10**9, 10, 0.0)], start=1,
    ):  # fmt: skip
        mean_a, mean_b = float32(offset + rng.normal(size=3)), float32(offset + rng.normal(size=3))
        m2_a, m2_b = (float32(rng.uniform(0.5, 2.0, 3) * (n - 1)) for n in (a, b))

        def merged(
            ma: Array, sa: Array, mb: Array, sb: Array, a: int = a, b: int = b
        ) -> list[Array]:
            return [(a * ma + b * mb) / (a + b), sa + sb + (ma - mb) ** 2 * a * b / (a + b)]

        mean, m2 = conditioned(merged, mean_a, m2_a, mean_b, m2_b)
        yield Case(
            f"moments/merge/{number}", "merge",
            {"count_a": a, "mean_a": mean_a, "m2_a": m2_a,
             "count_b": b, "mean_b": mean_b, "m2_b": m2_b},
            {"count": Expected(np.array(a + b)), "mean": mean, "m2": m2}, notes,
        )  # fmt: skip


def _forgetting() -> Iterator[Case]:
    rng = np.random.default_rng(8414709)
    for number, (notes, sizes, forget_after, offset) in enumerate(
        [("nothing forgotten yet", [4, 4, 4], 3, 0.0), ("from the third batch on", [4] * 6, 2, 0.0),
         ("forget_after=1", [3] * 4, 1, 0.0), ("different sizes", [5, 3, 2, 6, 1], 2, 0.0),
         ("offset 1,000 times the spread", [8] * 5, 2, 1e3)], start=1,
    ):  # fmt: skip
        batches = [
            float32(offset + (1 + i / 2) * rng.normal(size=(b, 2))) for i, b in enumerate(sizes)
        ]
        expected, condition = expected_statistics(
            *forgetful([exact(b) for b in batches], forget_after), np.concatenate(batches)
        )
        yield Case(
            f"moments/forget/{number}", "forget",
            {"batches": batches, "forget_after": forget_after}, expected, notes, condition,
        )  # fmt: skip


# ---- minimono's own ------------------------------------------------------------------------------


def moments(batches: list[Array]) -> tuple[Array, Array]:
    running = mono.Moments.empty(batches[0].shape[1:])
    for batch in batches:
        running = running.update(batch)
    return running.mean, running.variance()


def merge(
    count_a: int, mean_a: Array, m2_a: Array, count_b: int, mean_b: Array, m2_b: Array
) -> tuple[int, Array, Array]:
    both = mono.Moments(count_a, mean_a, m2_a).merge(mono.Moments(count_b, mean_b, m2_b))
    return both.count, both.mean, both.m2


def forget(batches: list[Array], *, forget_after: int) -> tuple[Array, Array]:
    tracker = mono.ScaleTracker(forget_after=forget_after)
    for batch in batches:
        tracker.score(batch)
    return tracker.mean, tracker.variance


# ---- known mistakes ------------------------------------------------------------------------------


def _of_all(change: Callable[[Array], tuple[Array, Array]]) -> Callable[..., tuple[Array, Array]]:
    return lambda batches: change(np.concatenate(batches))


def _padded(z: Array) -> tuple[Array, Array]:
    z = np.concatenate([z, np.zeros_like(z[:1])])
    return z.mean(axis=0), z.var(axis=0, ddof=1)


def _wrong_axis(z: Array) -> tuple[Array, Array]:
    rows = z.reshape(len(z), -1)
    shape = z.shape[1:]
    return np.resize(rows.mean(axis=1), shape), np.resize(rows.var(axis=1, ddof=1), shape)


def _means_of_batches(batches: list[Array]) -> tuple[Array, Array]:
    mean = np.mean([b.mean(axis=0) for b in batches], axis=0)
    return mean, np.concatenate(batches).var(axis=0, ddof=1)


def _averaged_variances(batches: list[Array], ddof: int) -> tuple[Array, Array]:
    n = sum(map(len, batches))
    m2 = sum(len(b) * b.var(axis=0) for b in batches)
    return np.concatenate(batches).mean(axis=0), np.asarray(m2) / (n - ddof)


def _biased_merge(batches: list[Array]) -> tuple[Array, Array]:
    """Lemma 3.2 with the batch's unbiased variance where it asks for the biased one."""
    mean, m2, n = batches[0].mean(axis=0), len(batches[0]) * batches[0].var(axis=0), len(batches[0])
    for batch in batches[1:]:
        b, own = len(batch), batch.mean(axis=0)
        unbiased = batch.var(axis=0, ddof=1) if b > 1 else np.zeros_like(own)
        m2 = m2 + b * unbiased + (mean - own) ** 2 * n * b / (n + b)
        mean, n = (n * mean + b * own) / (n + b), n + b
    return mean, m2 / (n - 1)


def _merge(change: Callable[..., tuple[Array, Array]]) -> Callable[..., tuple[int, Array, Array]]:
    def merge(
        count_a: int, mean_a: Array, m2_a: Array, count_b: int, mean_b: Array, m2_b: Array
    ) -> tuple[int, Array, Array]:
        mean, m2 = change(count_a, mean_a, m2_a, count_b, mean_b, m2_b)
        return count_a + count_b, mean, m2

    return merge


def _mean(a: int, ma: Array, b: int, mb: Array) -> Array:
    return ma + (mb - ma) * (b / (a + b))


def mistaken_forget(
    batches: list[Array], *, forget_after: int, late: int = 0, never: bool = False,
    grows: bool = False, ddof: int = 1, shift: bool = True,
) -> tuple[Array, Array]:  # fmt: skip
    """`forget` with something wrong, as the options say."""
    count, mean = float(len(batches[0])), batches[0].mean(axis=0)
    m2 = ((batches[0] - mean) ** 2).sum(axis=0)
    for seen, batch in enumerate(batches[1:], start=1):
        b, own_mean = len(batch), batch.mean(axis=0)
        if seen >= forget_after + late and not never:
            past = float(forget_after * (len(batches[0]) if grows else b))
            m2, count = m2 * ((past - ddof) / (count - ddof)), past
        m2 = m2 + ((batch - own_mean) ** 2).sum(axis=0)
        if shift:
            m2 = m2 + (mean - own_mean) ** 2 * (count * b / (count + b))
        mean = (count * mean + b * own_mean) / (count + b)
        count += b
    return mean, m2 / (count - ddof)


SUITE = Suite(
    name="moments",
    text="the running mean and variance of each neuron",
    conventions={
        "neurons": "all axes but the first; axis 0 is the samples",
        "ddof": "1: the variance is divided by n - 1",
        "m2": "the sum of squared deviations from the mean",
    },
    calls=(
        Call(
            "moments", ("batches",), ("mean", "variance"),
            "batches: a list of arrays (B, *neurons). Mean and variance (*neurons) of all samples\n"
            "of all batches together.",
        ),
        Call(
            "merge", ("count_a", "mean_a", "m2_a", "count_b", "mean_b", "m2_b"),
            ("count", "mean", "m2"),
            "Of two sets of samples, given by count, mean (*neurons) and m2 (*neurons), those of\n"
            "both together.",
        ),
        Call(
            "forget", ("batches", "*", "forget_after"), ("mean", "variance"),
            "As `moments`, but once forget_after batches were seen, the past weighs as\n"
            "forget_after batches of the current size.",
        ),
    ),
    cases=cases,
    own={"moments": moments, "merge": merge, "forget": forget},
    mistakes={
        "moments": {
            "variance divided by n instead of n-1": _of_all(
                lambda z: (z.mean(axis=0), z.var(axis=0))
            ),
            "standard deviation where the variance is meant": _of_all(
                lambda z: (z.mean(axis=0), z.std(axis=0, ddof=1))
            ),
            "taken about zero instead of the mean": _of_all(
                lambda z: (z.mean(axis=0), (z * z).sum(axis=0) / (len(z) - 1))
            ),
            "a row of zeros (padding) is counted": _of_all(_padded),
            "statistics over the wrong axis": _of_all(_wrong_axis),
            "the sum of squares where the variance is meant": _of_all(
                lambda z: (z.mean(axis=0), z.var(axis=0) * len(z))
            ),
            "the mean of the batches' means": _means_of_batches,
            "variances averaged, without the distance between the means": partial(
                _averaged_variances, ddof=1
            ),
            "biased variances averaged, without the distance between the means": partial(
                _averaged_variances, ddof=0
            ),
            "the batch's unbiased variance where the biased one belongs": _biased_merge,
            "only the last batch is remembered": lambda batches: (
                batches[-1].mean(axis=0), batches[-1].var(axis=0, ddof=1),
            ),
        },
        "merge": {
            "the distance between the means is left out": _merge(
                lambda a, ma, sa, b, mb, sb: (_mean(a, ma, b, mb), sa + sb)
            ),
            "the distance between the means is not squared": _merge(
                lambda a, ma, sa, b, mb, sb: (
                    _mean(a, ma, b, mb), sa + sb + abs(ma - mb) * a * b / (a + b),
                )
            ),
            "the distance between the means is weighed by a b, not a b / (a + b)": _merge(
                lambda a, ma, sa, b, mb, sb: (_mean(a, ma, b, mb), sa + sb + (ma - mb) ** 2 * a * b)
            ),
            "the distance between the means is weighed by a b / (a + b)^2": _merge(
                lambda a, ma, sa, b, mb, sb: (
                    _mean(a, ma, b, mb), sa + sb + (ma - mb) ** 2 * a * b / (a + b) ** 2,
                )
            ),
            "the means are averaged without their counts": _merge(
                lambda a, ma, sa, b, mb, sb: (
                    (ma + mb) / 2, sa + sb + (ma - mb) ** 2 * a * b / (a + b),
                )
            ),
            "the counts change places in the mean": _merge(
                lambda a, ma, sa, b, mb, sb: (
                    _mean(b, ma, a, mb), sa + sb + (ma - mb) ** 2 * a * b / (a + b),
                )
            ),
        },
        "forget": {
            "variance divided by n instead of n-1": partial(mistaken_forget, ddof=0),
            "nothing is forgotten": partial(mistaken_forget, never=True),
            "forgetting begins one batch late": partial(mistaken_forget, late=1),
            "forgetting begins one batch early": partial(mistaken_forget, late=-1),
            "the past weighs in batches of the first size": partial(mistaken_forget, grows=True),
            "the distance between the means is left out": partial(mistaken_forget, shift=False),
        },
    },
)  # fmt: skip
