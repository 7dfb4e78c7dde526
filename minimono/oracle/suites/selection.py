"""Suite `selection`: which scores are flagged. Everything here is exact."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np

from minimono import mono
from minimono.backend import Array
from minimono.oracle.case import Case, Expected
from minimono.oracle.suite import Call, Entries, Mistakes, Suite, grouped
from minimono.oracle.truth import float32

NAN, INF = math.nan, math.inf


def top(phi: Array, k: int, per: str, ties: str) -> Array:
    """The k highest of each sample or of the batch, found by counting how many are higher."""
    rows = phi.reshape(1, -1) if per == "batch" else phi.reshape(len(phi), -1)  # (groups, n)
    score, other = rows[:, :, None], rows[:, None, :]  # (groups, n, 1), (groups, 1, n)
    ahead = other > score
    if ties == "first":
        place = np.arange(rows.shape[1])
        ahead |= (other == score) & (place < place[:, None])
    mask = ~np.isnan(rows) & (ahead.sum(axis=2) < k)
    return mask.reshape(phi.shape)


# The groups (rows) that the k highest are taken of.   phi: (B, *neurons) -> (groups, n)
ROWS: dict[str, Callable[[Array], Array]] = {
    "batch": lambda phi: phi.reshape(1, -1),
    "sample": lambda phi: phi.reshape(len(phi), -1),
    "neuron": lambda phi: phi.reshape(len(phi), -1).T,
    "position": lambda phi: phi.reshape(-1, phi[0, 0].size if phi.ndim > 2 else phi[0].size),
    "last axis": lambda phi: phi.reshape(-1, phi.shape[-1]),
}


def plain_top_k(
    phi: Array, *, k: int | Array, per: str, ties: str,
    of: str | None = None,  # a key of ROWS in place of `per`
    tied: str | None = None,  # in place of `ties`
    last: bool = False,  # of ties the last in place of the first
    more: int = 0,
    at_kth: str = "flagged",  # a score that is the k-th highest; or "not", "not if too many"
    score: Callable[[Array], Array] = lambda phi: phi,
    spreads: bool = False,  # a flag in one sample is a flag in all
) -> Array:
    """Return the mask of the k highest scores of each group."""
    scores, of, ties, step = score(phi), of or per, tied or ties, -1 if last else 1
    rows = ROWS[of](scores)
    mask = top(rows[:, ::step], k + more, "sample", ties)[:, ::step]
    if at_kth != "flagged":
        ordered = -np.sort(np.where(np.isnan(rows), INF, -rows), axis=1)
        many = (ties == "all") & (mask.sum(axis=1, keepdims=True) > k)
        mask = mask & ~((rows == ordered[:, k - 1 : k]) & (many | (at_kth == "not")))
    mask = (mask.T if of == "neuron" else mask).reshape(scores.shape)
    return np.broadcast_to(mask.any(axis=0) if spreads else mask, phi.shape)


def ceiling(fraction: float, size: int) -> int:
    return math.ceil(Fraction(repr(fraction)) * size)


def plain_top_fraction(
    phi: Array, *, fraction: float, per: str, ties: str,
    count: Callable[[float, int], int] = ceiling,
    size_of: str | None = None,  # in place of `per`
    counts_nan: bool = True,
    interpolates: bool = False,
    **knobs: Any,  # of `plain_top_k`
) -> Array:
    """Return the mask of the highest scores, ceil(fraction · size) in each group."""
    if interpolates:  # a quantile lies between two scores
        axes = None if per == "batch" else tuple(range(1, phi.ndim))
        return phi >= np.quantile(phi, 1 - fraction, axis=axes, keepdims=True)
    k: int | Array = count(fraction, ROWS[size_of or per](phi).shape[1])
    if not counts_nan:
        numbers = (~np.isnan(ROWS[per](phi))).sum(axis=1)
        k = np.array([[count(fraction, int(n))] for n in numbers])
    return plain_top_k(phi, k=k, per=per, ties=ties, **knobs)


def plain_above(
    phi: Array, *, threshold: float,
    score: Callable[[Array], Array] = lambda phi: phi,
    flags: Callable[[Array, float], Array] = np.greater_equal,
) -> Array:
    return flags(score(phi), threshold)


def cases() -> Iterator[Case]:
    return grouped(SUITE, [
        ("top-k", "select_top_k", 0, _top_k),
        ("top-fraction", "select_top_fraction", 141421356, _top_fraction),
        ("above", "select_above", 0, _above),
    ])


def _scores() -> dict[str, Array]:
    rng = np.random.default_rng(16180339)
    tied = np.array([[3.0, 1.0, 3.0, 2.0], [5.0, 5.0, 5.0, 5.0], [0.0, 4.0, 1.0, 4.0]])
    return {
        "distinct": float32(rng.chisquare(1, size=(4, 6))),
        "tied": tied,
        "with nan": np.array([[NAN, 2.0, 1.0, NAN], [NAN, NAN, NAN, NAN], [0.0, NAN, 7.0, 3.0]]),
        "with infinity": np.array([[INF, 2.0, INF, 1.0], [-INF, 0.0, -INF, -1.0]]),
        "a sequence (B, T, C)": float32(rng.chisquare(1, size=(3, 2, 4))),
        "a feature map (B, C, Y, X)": float32(rng.chisquare(1, size=(2, 2, 3, 2))),
        "one sample": float32(rng.chisquare(1, size=(1, 5))),
        "negative": np.array([[-1.0, -2.0, -3.0], [-3.0, -1.0, -2.0]]),
        "both zeros, which are equal": np.array([[0.0, -0.0, -1.0], [-2.0, -0.0, 0.0]]),
    }


def _top_k(_: np.random.Generator) -> Entries:
    settings = [
        (1, "sample", "all"), (2, "sample", "all"), (1, "batch", "all"), (3, "batch", "all"),
        (2, "sample", "first"), (3, "batch", "first"),
    ]
    entries = [
        (f"{what}: the {k} highest of each {per}; ties: {ties}", phi, k, per, ties)
        for what, phi in _scores().items()
        for k, per, ties in settings
    ]
    column = np.array([[2.0], [5.0], [3.0], [5.0]])
    flat = np.array([1.0, 4.0, 4.0, 2.0])
    lone = np.array([[[1.0, 2.0], [7.0, 0.0]], [[3.0, 3.0], [0.0, 1.0]]])
    entries += [
        ("k is all scores of the sample: nan is not flagged all the same",
         np.array([[1.0, NAN, 2.0], [INF, NAN, -INF]]), 3, "sample", "all"),
        ("k is all scores of the batch", np.array([[1.0, NAN], [0.0, 2.0]]), 4, "batch", "first"),
        ("a layer of one neuron: all are the highest of their sample", column, 1, "sample", "all"),
        ("a layer of one neuron, of the batch", column, 2, "batch", "all"),
        ("no neuron axis, shape (B,): each sample has one score", flat, 1, "sample", "first"),
        ("no neuron axis, shape (B,), of the batch, ties across samples", flat, 1, "batch",
         "first"),
        ("nan is not flagged beside negative scores",
         np.array([[-1.0, NAN, -2.0], [NAN, NAN, -3.0]]), 1, "sample", "all"),
        ("by hand, a sequence: a neuron is a (position, channel) pair", lone, 1, "sample", "all"),
        ("by hand, a sequence, of ties the first in C order", lone, 2, "batch", "first"),
        ("scores that differ in their last bit are no tie",
         np.array([[1.0, 1 + 2.0**-23, 1 - 2.0**-24, 1.0]]), 1, "sample", "all"),
        ("every score is nan", np.full((2, 2), NAN), 1, "batch", "first"),
    ]
    for notes, phi, k, per, ties in entries:
        arguments = {"phi": phi, "k": k, "per": per, "ties": ties}
        yield notes, arguments, [Expected(top(phi, k, per, ties))]


def _top_fraction(rng: np.random.Generator) -> Entries:
    plans = [
        ("a quarter of 8", (2, 8), "0.25", "sample", "all"),
        ("a fifth of 6 is rounded up: 2", (3, 6), "0.2", "sample", "all"),
        ("so few that 1 is flagged", (2, 6), "0.01", "sample", "all"),
        ("everything", (2, 3), "1.0", "sample", "all"),
        ("of the batch", (4, 6), "0.1", "batch", "all"),
        ("0.07 of 100 is 7, though 0.07 * 100 in floating point is above 7", (1, 100), "0.07",
         "sample", "all"),
        ("0.29 of 100 is 29, though 0.29 * 100 in floating point is below 29", (1, 100), "0.29",
         "batch", "first"),
        ("a sequence (B, T, C)", (2, 3, 4), "0.25", "sample", "first"),
        ("a feature map (B, C, Y, X): 0.3 of 12 is 3.6, so 4", (2, 3, 2, 2), "0.3", "sample",
         "all"),
        ("0.1 of 10 is 1 exactly", (2, 10), "0.1", "sample", "all"),
        ("2 % of 50 is 1 exactly, of the batch", (5, 10), "0.02", "batch", "all"),
        ("0.55 of 20 is 11, though 0.55 * 20 in floating point is above 11", (1, 20), "0.55",
         "sample", "first"),
    ]
    entries = [(n, float32(rng.chisquare(1, size=shape)), *rest) for n, shape, *rest in plans]
    for what in ("tied", "with nan", "with infinity", "negative"):
        phi = _scores()[what]
        entries += [
            (f"half of each sample, {what}", phi, "0.5", "sample", "all"),
            (f"half of the batch, {what}", phi, "0.5", "batch", "first"),
        ]
    entries += [
        ("a quarter of each sample, tied, ties first", _scores()["tied"], "0.25", "sample",
         "first"),
        ("a third of each sample, both zeros", _scores()["both zeros, which are equal"], "0.33",
         "sample", "all"),
    ]
    for notes, phi, fraction, per, ties in entries:
        size = phi.size if per == "batch" else phi[0].size
        k = math.ceil(Fraction(fraction) * size)
        arguments = {"phi": phi, "fraction": float(fraction), "per": per, "ties": ties}
        yield notes, arguments, [Expected(top(phi, k, per, ties))]


def _above(_: np.random.Generator) -> Entries:
    scores = _scores()
    entries = [
        ("distinct", 1.0), ("tied", 3.0), ("with nan", 2.0), ("with infinity", 0.0),
        ("a sequence (B, T, C)", 0.5), ("negative", -2.0), ("with infinity", INF),
        ("both zeros, which are equal", 0.0), ("a feature map (B, C, Y, X)", 1e6),
        ("with nan", -INF),
    ]
    for what, threshold in entries:
        phi = scores[what]
        flags = [not math.isnan(v) and v >= threshold for v in phi.reshape(-1)]
        notes = f"{what}: at least {threshold:g}; a score that equals the threshold is flagged"
        mask = Expected(np.array(flags).reshape(phi.shape))
        yield notes, {"phi": phi, "threshold": threshold}, [mask]


TOP: dict[str, dict[str, Any]] = {
    "of the whole batch where each sample's are wanted": {"of": "batch"},
    "of each sample where the batch's are wanted": {"of": "sample"},
    "of ties only the first are flagged": {"tied": "first"},
    "of ties all are flagged where the first are wanted": {"tied": "all"},
    "of ties the last are flagged where the first are wanted": {"last": True},
    "k of the last axis, not of all neurons": {"of": "last axis"},
    "one too many": {"more": 1},
    "one too few": {"more": -1},
    "strictly above the k-th highest": {"at_kth": "not"},
    "the smallest instead of the highest": {"score": np.negative},
    "the largest in size, negative ones too": {"score": abs},
    "nan counts as the highest":
        {"score": lambda phi: np.nan_to_num(phi, nan=INF, posinf=1e308, neginf=-1e308)},
    "nan is flagged as if it were 0":
        {"score": lambda phi: np.nan_to_num(phi, posinf=INF, neginf=-INF)},
    "nan is flagged where fewer than k are numbers":
        {"score": lambda phi: np.where(np.isnan(phi), -INF, phi)},
    "of ties with the k-th none is flagged, if they are too many": {"at_kth": "not if too many"},
    "the same neurons in all samples, those of the highest scores":
        {"score": lambda phi: phi.max(axis=0, keepdims=True)},
    "a flag in one sample flags the neuron in all": {"spreads": True},
    "k of each neuron's samples": {"of": "neuron"},
    "of equal zeros the negative one is lower":
        {"score": lambda phi: np.where((phi == 0) & np.signbit(phi), -5e-324, phi)},
    "infinity is not flagged": {"score": lambda phi: np.where(np.isinf(phi), NAN, phi)},
}

TOP_K = Mistakes(plain_top_k, TOP)
TOP_FRACTION = Mistakes(plain_top_fraction, {
    "k is rounded down": {"count": lambda f, n: max(math.floor(f * n), 1)},
    "k is one more than rounded down":
        {"count": lambda f, n: min(math.floor(Fraction(repr(f)) * n) + 1, n)},
    "nan is not counted in the size that the fraction is taken of": {"counts_nan": False},
    "the fraction is taken as the binary number nearest to it":
        {"count": lambda f, n: math.ceil(Fraction(f) * n)},
    "k is of the sample's size, of the batch too": {"size_of": "sample"},
    "at least the quantile, interpolated": {"interpolates": True},
    "k is rounded to nearest": {"count": lambda f, n: max(round(f * n), 1)},
    "k is the ceiling of the product in floating point": {"count": lambda f, n: math.ceil(f * n)},
    **TOP,
})

ABOVE = Mistakes(plain_above, {
    "strictly above the threshold": {"flags": np.greater},
    "below the threshold": {"flags": np.less_equal},
    "nan is flagged": {"flags": lambda phi, threshold: ~(phi < threshold)},
    "infinity is not flagged": {"score": lambda phi: np.where(phi < INF, phi, NAN)},
    "-infinity is flagged as if it were 0":
        {"score": lambda phi: np.nan_to_num(phi, nan=NAN, posinf=INF, neginf=0.0)},
    "threshold is taken as a square root (standard deviations)": {"score": np.sqrt},
    "compared by size, negative ones too": {"score": abs},
})


SUITE = Suite(
    name="selection",
    text="which scores are flagged: the k highest, the highest fraction, or all above a threshold",
    conventions={
        "neurons": "all axes but the first; axis 0 is the samples",
        "ties": '"all": every score that is at least the k-th highest; "first": exactly k, of the '
        "equal ones the first in C order",
        "nan": "never flagged, but counted in the size that a fraction is taken of",
        "infinity": "a number like any other",
    },
    calls=(
        Call("select_top_k", ("phi", "*", "k", "per", "ties"), ("mask",),
             'phi (B, *neurons). The k highest of each sample (per="sample") or of all\n'
             '(per="batch"). mask: booleans of its shape. Fewer than k where fewer are not nan.'),
        Call("select_top_fraction", ("phi", "*", "fraction", "per", "ties"), ("mask",),
             "The same with k = ceil(fraction * size), the fraction taken as the decimal it is\n"
             "written as, size the number of scores of a sample or of the batch."),
        Call("select_above", ("phi", "*", "threshold"), ("mask",),
             "The scores that are at least the threshold."),
    ),
    cases=cases,
    own={
        "select_top_k": mono.select_top_k,
        "select_top_fraction": mono.select_top_fraction,
        "select_above": mono.select_above,
    },
    mistakes={"select_top_k": TOP_K, "select_top_fraction": TOP_FRACTION, "select_above": ABOVE},
)
