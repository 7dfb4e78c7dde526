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
    with np.errstate(divide="ignore", invalid="ignore"):  # constant neurons: all digits are lost
        condition = np.nan_to_num(largest / spread, nan=1.0, posinf=2.0**52)
    return expected, max(float(condition.max()), 1.0)


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
        ("the first batch has one sample, and so no variance of its own", [1, 5, 2], (2,), 0.0),
        ("a large batch, then single samples", [20, 1, 1], (2,), 0.0),
        ("a sequence, offset a million times the spread", [4, 4], (2, 3), 1e6),
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
    tight = 1 + 2.0**-22 * rng.integers(0, 8, size=(12, 2))
    beside = float32(rng.normal(size=(9, 3)) * [1e-6, 1.0, 1e6])
    still = np.stack([beside[:, 1], np.full(9, -3.0)], axis=1)
    accuracy = [np.array([[10000001.0], [10000003.0], [10000002.0]])]
    for base in (1.0, 1e6, 1e7):
        tenths = [base + 0.2, *([base + 0.1, base + 0.3] * 50)]
        accuracy.append(np.array(tenths)[:, None])
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
        ("NIST NumAcc1: mean 10000002, variance 1", [accuracy[0]]),
        ("as NIST NumAcc2, shorter: b.2, then b.1 and b.3 in turn, b = 1", [accuracy[1]]),
        ("as NIST NumAcc3, shorter: b = 1,000,000", [accuracy[2]]),
        ("as NIST NumAcc4, shorter: b = 10,000,000, in two batches", np.split(accuracy[3], [40])),
    ]  # fmt: skip
    ends = {
        "around 1e-160: the squares are subnormal": 1e-160 * np.arange(6.0)[:, None],
        "around 1e152: the squares' sum is near the end of the range": 1e152
        * np.array([[1.0], [-2.0], [4.0], [-3.0]]),
    }
    streams += [(notes, [values]) for notes, values in ends.items()]
    for number, (notes, batches) in enumerate(streams, start=1):
        seen = np.concatenate(batches)
        expected, condition = expected_statistics(*mean_and_variance(exact(seen)), seen)
        yield Case(
            f"moments/update/{number}", "moments", {"batches": batches}, expected, notes,
            condition, extreme=notes in ends,
        )  # fmt: skip
    yield from _merges()
    yield from _forgetting()


def _merges() -> Iterator[Case]:
    rng = np.random.default_rng(6931471)
    for number, (notes, a, b, offset) in enumerate(
        [("two equal halves", 5, 5, 0.0), ("different sizes", 3, 100, 0.0),
         ("one sample", 7, 1, 0.0),
         ("two samples of one each", 1, 1, 0.0), ("both far from zero", 20, 30, 1000.0),
         ("a billion samples and ten", 10**9, 10, 0.0),
         ("a million times farther from zero than apart", 8, 4, 1e6),
         ("equal means: nothing is added to m2", 6, 9, 0.0)], start=1,
    ):  # fmt: skip
        mean_a, mean_b = float32(offset + rng.normal(size=3)), float32(offset + rng.normal(size=3))
        if notes.startswith("equal means"):
            mean_b = mean_a.copy()
        m2_a, m2_b = (float32(rng.uniform(0.5, 2.0, 3) * (n - 1)) for n in (a, b))

        def merged(
            ma: Array, sa: Array, mb: Array, sb: Array, a: int = a, b: int = b
        ) -> list[Array]:
            return [(a * ma + b * mb) / (a + b), sa + sb + (ma - mb) ** 2 * a * b / (a + b)]

        if a == b == 1:
            m2_a, m2_b = np.zeros(3), np.zeros(3)
        mean, m2 = conditioned(merged, mean_a, m2_a, mean_b, m2_b)
        yield Case(
            f"moments/merge/{number}", "merge",
            {"count_a": a, "mean_a": mean_a, "m2_a": m2_a,
             "count_b": b, "mean_b": mean_b, "m2_b": m2_b},
            {"count": Expected(np.array(a + b)), "mean": mean, "m2": m2}, notes,
        )  # fmt: skip


def _forgetting() -> Iterator[Case]:
    rng = np.random.default_rng(8414709)
    plans: list[tuple[str, list[int], tuple[int, ...], int, float]] = [
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
    ]  # fmt: skip
    streams = [
        (
            notes,
            [
                float32(offset + (1 + i / 2) * rng.normal(size=(b, *neurons)))
                for i, b in enumerate(sizes)
            ],
            forget_after,
        )
        for notes, sizes, neurons, forget_after, offset in plans
    ]
    past, jump = np.array([[0.0, 1.0], [2.0, 1.0]]), np.array([[4.0, 1.0], [6.0, 1.0]])
    streams += [
        ("by hand: a mean of 1, then 5; the second neuron is constant", [past, jump, jump], 1),
        ("one batch only", [past], 1),
    ]
    for number, (notes, batches, forget_after) in enumerate(streams, start=1):
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


def _over(axes: Callable[[Array], tuple[int, ...]]) -> Callable[..., tuple[Array, Array]]:
    """Statistics over other axes than the first."""

    def change(z: Array) -> tuple[Array, Array]:
        over = axes(z)
        mean, variance = z.mean(over, keepdims=True), z.var(over, ddof=1, keepdims=True)
        if 0 not in over:
            return mean[..., 0], variance[..., 0]
        shape = z.shape[1:]
        return np.broadcast_to(mean[0], shape), np.broadcast_to(variance[0], shape)

    return _of_all(change)


def _channel_by_channel(z: Array) -> tuple[int, ...]:
    """All axes but the channels': the last of (B, C) and (B, T, C), the second of (B, C, Y, X)."""
    return {1: (0,), 2: (0,), 3: (0, 1)}.get(z.ndim, (0, *range(2, z.ndim)))


def _means_of_batches(batches: list[Array]) -> tuple[Array, Array]:
    mean = np.mean([b.mean(axis=0) for b in batches], axis=0)
    return mean, np.concatenate(batches).var(axis=0, ddof=1)


def _averaged_variances(batches: list[Array], ddof: int) -> tuple[Array, Array]:
    n = sum(map(len, batches))
    m2 = sum(len(b) * b.var(axis=0) for b in batches)
    return np.concatenate(batches).mean(axis=0), np.asarray(m2) / (n - ddof)


def _average_of_variances(batches: list[Array]) -> tuple[Array, Array]:
    variances = [b.var(axis=0, ddof=1) for b in batches]
    return np.concatenate(batches).mean(axis=0), np.mean(variances, axis=0)


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


def _all_together(batches: list[Array]) -> tuple[Array, Array]:
    z = np.concatenate(batches)
    return z.mean(axis=0), z.var(axis=0, ddof=1)


def _running_average(batches: list[Array], *, forget_after: int) -> tuple[Array, Array]:
    """As batch normalisation does it, with momentum 1 / (forget_after + 1)."""
    mean, variance = _all_together(batches[:1])
    for batch in batches[1:]:
        b = len(batch)
        own = batch.var(axis=0, ddof=1) if b > 1 else np.zeros_like(mean)
        mean = mean + (batch.mean(axis=0) - mean) / (forget_after + 1)
        variance = variance + (own - variance) / (forget_after + 1)
    return mean, variance


def mistaken_forget(
    batches: list[Array], *, forget_after: int, late: int = 0, weight: str = "right",
    ddof: int = 1, shift: bool = True, keeps: str = "variance",
) -> tuple[Array, Array]:  # fmt: skip
    """`forget` with something wrong, as the options say."""
    count, mean = float(len(batches[0])), batches[0].mean(axis=0)
    m2 = ((batches[0] - mean) ** 2).sum(axis=0)
    for seen, batch in enumerate(batches[1:], start=1):
        b, own_mean = len(batch), batch.mean(axis=0)
        faded = float(forget_after * b)
        past = {
            "right": faded if seen >= forget_after + late else count,
            "none": count,
            "first size": float(forget_after * len(batches[0])),
            "samples": min(count, float(max(forget_after, 2))),
            "one batch": float(b),
            "one batch more": faded + b if seen >= forget_after else count,
            "as the authors": float(min(seen + 1, forget_after) * b),
        }[weight]
        if weight == "first size" and seen < forget_after:
            past = count
        if past != count:
            if keeps == "variance":
                m2 = m2 * ((past - ddof) / (count - ddof))
            count = past
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
            "statistics over the wrong axis": _over(lambda z: (z.ndim - 1,)),
            "one mean and variance for the whole layer": _over(lambda z: tuple(range(z.ndim))),
            "one mean and variance for each channel, over all positions": _over(
                _channel_by_channel
            ),
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
            "the average of the batches' variances": _average_of_variances,
            "the first batch is left out": lambda batches: _all_together(batches[1:] or batches),
            "the last batch is left out": lambda batches: _all_together(batches[:-1] or batches),
            "the first batch counts twice": lambda batches: _all_together([batches[0], *batches]),
            "the batch's unbiased variance where the biased one belongs": _biased_merge,
            "only the last batch is remembered": lambda batches: _all_together(batches[-1:]),
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
            "m2 is taken for a variance: times n - 1": _merge(
                lambda a, ma, sa, b, mb, sb: (
                    _mean(a, ma, b, mb),
                    (a - 1) * sa + (b - 1) * sb + (ma - mb) ** 2 * a * b / (a + b),
                )
            ),
            "the variance is returned, not m2": _merge(
                lambda a, ma, sa, b, mb, sb: (
                    _mean(a, ma, b, mb),
                    (sa + sb + (ma - mb) ** 2 * a * b / (a + b)) / (a + b - 1),
                )
            ),
            "the distance is from the new mean, not between the two": _merge(
                lambda a, ma, sa, b, mb, sb: (
                    _mean(a, ma, b, mb),
                    sa + sb + (mb - _mean(a, ma, b, mb)) ** 2 * a * b / (a + b),
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
            "nothing is forgotten": partial(mistaken_forget, weight="none"),
            "forgetting begins one batch late": partial(mistaken_forget, late=1),
            "forgetting begins one batch early": partial(mistaken_forget, late=-1),
            "the past weighs in batches of the first size": partial(
                mistaken_forget, weight="first size"
            ),
            "the past weighs as one batch, always": partial(mistaken_forget, weight="one batch"),
            "the past weighs as one batch more": partial(
                mistaken_forget, weight="one batch more"
            ),
            "forget_after counts samples, not batches": partial(mistaken_forget, weight="samples"),
            "the past weighs as in the authors' code: min(n, forget_after) batches": partial(
                mistaken_forget, weight="as the authors"
            ),
            "only the count is cut, m2 stays: the variance grows": partial(
                mistaken_forget, keeps="m2"
            ),
            "a window: only the last forget_after batches and this one": lambda batches,
            *, forget_after: _all_together(batches[-forget_after - 1 :]),
            "a running average: of the means and of the variances": _running_average,
            "the distance between the means is left out": partial(mistaken_forget, shift=False),
        },
    },
)  # fmt: skip
