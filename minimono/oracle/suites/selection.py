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
from minimono.oracle.suite import Call, Suite
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


def cases() -> Iterator[Case]:
    yield from _top_k()
    yield from _top_fraction()
    yield from _above()


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


def _top_k() -> Iterator[Case]:
    number = 0
    for what, phi in _scores().items():
        for k, per, ties in [
            (1, "sample", "all"), (2, "sample", "all"), (1, "batch", "all"), (3, "batch", "all"),
            (2, "sample", "first"), (3, "batch", "first"),
        ]:  # fmt: skip
            number += 1
            yield Case(
                f"selection/top-k/{number}", "select_top_k",
                {"phi": phi, "k": k, "per": per, "ties": ties},
                {"mask": Expected(top(phi, k, per, ties))},
                f"{what}: the {k} highest of each {per}; ties: {ties}",
            )  # fmt: skip
    column = np.array([[2.0], [5.0], [3.0], [5.0]])
    flat = np.array([1.0, 4.0, 4.0, 2.0])
    lone = np.array([[[1.0, 2.0], [7.0, 0.0]], [[3.0, 3.0], [0.0, 1.0]]])
    for notes, phi, k, per, ties in [
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
    ]:  # fmt: skip
        number += 1
        yield Case(
            f"selection/top-k/{number}", "select_top_k",
            {"phi": phi, "k": k, "per": per, "ties": ties},
            {"mask": Expected(top(phi, k, per, ties))}, notes,
        )  # fmt: skip


def _top_fraction() -> Iterator[Case]:
    rng = np.random.default_rng(141421356)
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
    ]  # fmt: skip
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
    ]  # fmt: skip
    for number, (notes, phi, fraction, per, ties) in enumerate(entries, start=1):
        size = phi.size if per == "batch" else phi[0].size
        k = math.ceil(Fraction(fraction) * size)
        yield Case(
            f"selection/top-fraction/{number}", "select_top_fraction",
            {"phi": phi, "fraction": float(fraction), "per": per, "ties": ties},
            {"mask": Expected(top(phi, k, per, ties))}, notes,
        )  # fmt: skip


def _above() -> Iterator[Case]:
    scores = _scores()
    for number, (what, threshold) in enumerate(
        [("distinct", 1.0), ("tied", 3.0), ("with nan", 2.0), ("with infinity", 0.0),
         ("a sequence (B, T, C)", 0.5), ("negative", -2.0), ("with infinity", INF),
         ("both zeros, which are equal", 0.0), ("a feature map (B, C, Y, X)", 1e6),
         ("with nan", -INF)], start=1,
    ):  # fmt: skip
        phi = scores[what]
        flags = [not math.isnan(v) and v >= threshold for v in phi.reshape(-1)]
        yield Case(
            f"selection/above/{number}", "select_above", {"phi": phi, "threshold": threshold},
            {"mask": Expected(np.array(flags).reshape(phi.shape))},
            f"{what}: at least {threshold:g}; a score that equals the threshold is flagged",
        )  # fmt: skip


# ---- minimono's own, and known mistakes ----------------------------------------------------------


def _above_own(phi: Array, *, threshold: float) -> Array:
    return mono.select_above(phi, threshold)


def _top_k_own(phi: Array, *, k: int, per: Any, ties: Any) -> Array:
    return mono.select_top_k(phi, k, per=per, ties=ties)


def _top_fraction_own(phi: Array, *, fraction: float, per: Any, ties: Any) -> Array:
    return mono.select_top_fraction(phi, fraction, per=per, ties=ties)


def _last_first(phi: Array, k: int, per: str, ties: str) -> Array:
    """Of the equal, the last ones where the first are wanted."""
    turned = np.flip(phi) if per == "batch" else np.flip(phi, axis=tuple(range(1, phi.ndim)))
    mask = top(turned, k, per, ties)
    return np.flip(mask) if per == "batch" else np.flip(mask, axis=tuple(range(1, phi.ndim)))


def _of_last_axis(phi: Array, k: int, ties: str) -> Array:
    rows = phi.reshape(-1, phi.shape[-1])
    return top(rows, k, "sample", ties).reshape(phi.shape)


Top = Callable[[Array, int, str, str], Array]

TOP: dict[str, Top] = {
    "of the whole batch where each sample's are wanted": lambda p, k, per, t: top(p, k, "batch", t),
    "of each sample where the batch's are wanted": lambda p, k, per, t: top(p, k, "sample", t),
    "of ties only the first are flagged": lambda p, k, per, t: top(p, k, per, "first"),
    "of ties all are flagged where the first are wanted": lambda p, k, per, t: top(
        p, k, per, "all"
    ),
    "of ties the last are flagged where the first are wanted": _last_first,
    "k of the last axis, not of all neurons": lambda p, k, per, t: _of_last_axis(p, k, t),
    "one too many": lambda p, k, per, t: top(p, k + 1, per, t),
    "one too few": lambda p, k, per, t: top(p, k - 1, per, t),
    "strictly above the k-th highest": lambda p, k, per, t: top(p, k, per, t) & ~_kth(p, k, per),
    "the smallest instead of the highest": lambda p, k, per, t: top(-p, k, per, t),
    "the largest in size, negative ones too": lambda p, k, per, t: top(abs(p), k, per, t),
    "nan counts as the highest": lambda p, k, per, t: top(
        np.nan_to_num(p, nan=INF, posinf=1e308, neginf=-1e308), k, per, t
    ),
    "nan is flagged as if it were 0": lambda p, k, per, t: top(
        np.nan_to_num(p, posinf=INF, neginf=-INF), k, per, t
    ),
    "nan is flagged where fewer than k are numbers": lambda p, k, per, t: top(
        np.where(np.isnan(p), -INF, p), k, per, t
    ),
    "of ties with the k-th none is flagged, if they are too many": lambda p, k, per, t: (
        _unless_too_many(p, k, per, t)
    ),
    "the same neurons in all samples, those of the highest scores": lambda p, k, per, t: (
        np.broadcast_to(top(p.max(axis=0)[None], k, per, t), p.shape)
    ),
    "a flag in one sample flags the neuron in all": lambda p, k, per, t: np.broadcast_to(
        top(p, k, per, t).any(axis=0), p.shape
    ),
    "k of each neuron's samples": lambda p, k, per, t: np.moveaxis(
        top(np.moveaxis(p, 0, -1).reshape(-1, len(p)), k, "sample", t).reshape(
            *p.shape[1:], len(p)
        ),
        -1,
        0,
    ),
    "of equal zeros the negative one is lower": lambda p, k, per, t: top(
        np.where((p == 0) & np.signbit(p), -5e-324, p), k, per, t
    ),
    "infinity is not flagged": lambda p, k, per, t: top(np.where(np.isinf(p), NAN, p), k, per, t),
}


def _unless_too_many(phi: Array, k: int, per: str, ties: str) -> Array:
    """Fewer than k rather than more."""
    if ties == "first":
        return top(phi, k, per, ties)
    mask = top(phi, k, per, "all")
    counts = mask.reshape(1, -1) if per == "batch" else mask.reshape(len(phi), -1)
    many = np.broadcast_to(counts.sum(axis=1, keepdims=True) > k, counts.shape).reshape(phi.shape)
    return mask & ~(many & _kth(phi, k, per))


def _kth(phi: Array, k: int, per: str) -> Array:
    """Where a score equals the k-th highest."""
    rows = phi.reshape(1, -1) if per == "batch" else phi.reshape(len(phi), -1)
    ordered = -np.sort(np.where(np.isnan(rows), INF, -rows), axis=1)
    return (rows == ordered[:, k - 1 : k]).reshape(phi.shape)


def _as_top_k(wrong: Top) -> Callable[..., Array]:
    return lambda phi, *, k, per, ties: wrong(phi, k, per, ties)


def _as_top_fraction(wrong: Top) -> Callable[..., Array]:
    def select(phi: Array, *, fraction: float, per: str, ties: str) -> Array:
        size = phi.size if per == "batch" else phi[0].size
        return wrong(phi, math.ceil(Fraction(repr(fraction)) * size), per, ties)

    return select


def _at_least_quantile(phi: Array, *, fraction: float, per: str, ties: str) -> Array:
    """phi >= np.quantile(phi, 1 - fraction), which lies between two scores."""
    axes = None if per == "batch" else tuple(range(1, phi.ndim))
    return phi >= np.quantile(phi, 1 - fraction, axis=axes, keepdims=True)


def _of_numbers(phi: Array, *, fraction: float, per: str, ties: str) -> Array:
    """The fraction taken of the scores that are not nan."""
    groups = [phi] if per == "batch" else list(phi)
    masks = []
    for group in groups:
        k = math.ceil(Fraction(repr(fraction)) * int((~np.isnan(group)).sum()))
        masks.append(top(group[None], k, "batch", ties)[0])
    return masks[0] if per == "batch" else np.stack(masks)


def _with_count(count: Callable[[float, int], int]) -> Callable[..., Array]:
    def select(phi: Array, *, fraction: float, per: str, ties: str) -> Array:
        size = phi.size if per == "batch" else phi[0].size
        return top(phi, count(fraction, size), per, ties)

    return select


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
        Call(
            "select_top_k", ("phi", "*", "k", "per", "ties"), ("mask",),
            'phi (B, *neurons). The k highest of each sample (per="sample") or of all\n'
            '(per="batch"). mask: booleans of its shape. Fewer than k where fewer are not nan.',
        ),
        Call(
            "select_top_fraction", ("phi", "*", "fraction", "per", "ties"), ("mask",),
            "The same with k = ceil(fraction * size), the fraction taken as the decimal it is\n"
            "written as, size the number of scores of a sample or of the batch.",
        ),
        Call(
            "select_above", ("phi", "*", "threshold"), ("mask",),
            "The scores that are at least the threshold.",
        ),
    ),
    cases=cases,
    own={
        "select_top_k": _top_k_own,
        "select_top_fraction": _top_fraction_own,
        "select_above": _above_own,
    },
    mistakes={
        "select_top_k": {name: _as_top_k(wrong) for name, wrong in TOP.items()},
        "select_top_fraction": {
            "k is rounded down": _with_count(lambda f, n: max(math.floor(f * n), 1)),
            "k is one more than rounded down": _with_count(
                lambda f, n: min(math.floor(Fraction(repr(f)) * n) + 1, n)
            ),
            "nan is not counted in the size that the fraction is taken of": _of_numbers,
            "the fraction is taken as the binary number nearest to it": _with_count(
                lambda f, n: math.ceil(Fraction(f) * n)
            ),
            "k is of the sample's size, of the batch too": lambda phi, *, fraction, per, ties: top(
                phi, math.ceil(Fraction(repr(fraction)) * phi[0].size), per, ties
            ),
            "at least the quantile, interpolated": _at_least_quantile,
            "k is rounded to nearest": _with_count(lambda f, n: max(round(f * n), 1)),
            "k is the ceiling of the product in floating point": _with_count(
                lambda f, n: math.ceil(f * n)
            ),
        }
        | {name: _as_top_fraction(wrong) for name, wrong in TOP.items()},
        "select_above": {
            "strictly above the threshold": lambda phi, *, threshold: phi > threshold,
            "below the threshold": lambda phi, *, threshold: phi <= threshold,
            "nan is flagged": lambda phi, *, threshold: ~(phi < threshold),
            "infinity is not flagged": lambda phi, *, threshold: (phi >= threshold) & (phi < INF),
            "-infinity is flagged as if it were 0": lambda phi, *, threshold: (
                np.nan_to_num(phi, nan=NAN, posinf=INF, neginf=0.0) >= threshold
            ),
            "threshold is taken as a square root (standard deviations)": lambda phi, *, threshold: (
                np.sqrt(phi) >= threshold
            ),
            "compared by size, negative ones too": lambda phi, *, threshold: abs(phi) >= threshold,
        },
    },
)  # fmt: skip
