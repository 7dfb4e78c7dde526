"""Which activations to act on: the ones with the highest monosemantic scale.

Every function takes scores φ of shape (B, *neurons), axis 0 the samples, and returns a mask of the
same shape. A neuron is an element of the other axes: (position, channel) in a sequence,
(channel, y, x) in a feature map. nan is never flagged; infinity is a number like any other, above
(or below) all finite ones: float32 scores do overflow.

A *rule* is such a function with its settings fixed, as a value to hand to `MEmeL`, `L2E` or
`ScaleTracker.flag`: `TopK(2)`, `TopFraction(0.02)`, `Above(9.0)`, or a function of yours from φ to
a mask.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from minimono import checks
from minimono.backend import Array, array_module

Per: TypeAlias = Literal["sample", "batch"]
Ties: TypeAlias = Literal["all", "first"]


def top(phi: Array, size: int, k: int, ties: Ties = "all") -> Array:
    """Flag the k highest of every `size` scores, in C order."""
    groups = phi.reshape(-1, size)  # (B, *neurons) -> (groups, size)
    is_number = ~np.isnan(groups)
    ranked = np.where(is_number, groups, -np.inf)
    if k == 1:  # the usual case, and a maximum is several times faster than a partition
        kth = ranked.max(axis=1, keepdims=True)  # (groups, 1)
    else:
        kth = np.partition(ranked, size - k, axis=1)[:, size - k : size - k + 1]  # (groups, 1)
    if ties == "all":
        mask = (ranked >= kth) & is_number
    else:
        above = ranked > kth
        tied = (ranked == kth) & is_number
        wanted = k - above.sum(axis=1, keepdims=True)  # (groups, 1): how many of the tied
        mask = above | (tied & (tied.cumsum(axis=1) <= wanted))
    return mask.reshape(phi.shape)  # (groups, size) -> (B, *neurons)


def at_least(phi: Array, threshold: Any) -> Array:
    """Flag the scores that are at least `threshold`, a number or an array without axes."""
    # An array, because NumPy would round a Python number to float32 before it compares.
    xp = array_module(phi)
    return phi >= xp.asarray(threshold, dtype=xp.float64)


def highest(phi: Array, k: int) -> tuple[Array, Array]:
    """Return each sample's k highest scores, highest first, and their places, both (B, k).

    Of equal scores the first comes first; where there are fewer than k, nan and -1.
    """
    flat = phi.reshape(len(phi), -1)  # (B, *neurons) -> (B, n)
    places = np.argsort(-flat, axis=1, kind="stable")[:, :k]  # highest first, nan last
    scores = np.take_along_axis(flat, places, axis=1)
    return scores, np.where(np.isnan(scores), -1, places)


def select_top_k(phi: Array, k: int, *, per: Per = "sample", ties: Ties = "all") -> Array:
    """Flag the k highest scores of each sample, or of the whole batch.

    ties="all" flags every element that is at least the k-th highest, so more than k if several
    equal it (the authors' code, with k = 1 per sample). ties="first" flags exactly k: among the
    equal, the first in C order. Where fewer than k scores are not nan, all of those are flagged.

    >>> import numpy as np
    >>> phi = np.array([[1.0, 5.0, 5.0], [np.nan, 2.0, 1.0]])
    >>> select_top_k(phi, 1)
    array([[False,  True,  True],
           [False,  True, False]])
    >>> select_top_k(phi, 1, per="batch", ties="first")
    array([[False,  True, False],
           [False, False, False]])
    """
    phi, size = _groups(phi, per, ties, "select_top_k")
    checks.whole_number(k, "select_top_k: k", least=1, most=size, of=f"the scores per {per}")
    return top(phi, size, k, ties)


def select_top_fraction(
    phi: Array, fraction: float, *, per: Per = "sample", ties: Ties = "all"
) -> Array:
    """Flag the highest `fraction` of the scores: `select_top_k` with k = ⌈fraction · size⌉.

    size: neurons of a sample, or scores in the batch, nan included. 0 < fraction <= 1, so k is at
    least 1. The fraction is taken as the decimal it is written as, also if it is one of NumPy's
    numbers: 0.07 of 100 is 7, where ⌈0.07 * 100⌉ in floating point is 8.

    >>> import numpy as np
    >>> select_top_fraction(np.array([[1.0, 4.0, 2.0, 3.0]]), 0.5)
    array([[False,  True, False,  True]])
    """
    phi, size = _groups(phi, per, ties, "select_top_fraction")
    share = checks.share(fraction, "select_top_fraction: fraction", above=0, most=1)
    return top(phi, size, math.ceil(share * size), ties)


def select_above(phi: Array, threshold: float) -> Array:
    """Flag the scores that are at least `threshold`, compared in float64.

    >>> import numpy as np
    >>> select_above(np.array([[1.0, 9.0, np.nan]]), 9)
    array([[False,  True, False]])
    """
    phi = checks.activations(phi, "select_above: phi")
    return at_least(phi, checks.number(threshold, "select_above: threshold", finite=False))


def _groups(phi: Array, per: Per, ties: Ties, name: str) -> tuple[Array, int]:
    """The scores, and how many of them are ranked together."""
    phi = checks.activations(phi, f"{name}: phi")
    checks.one_of(per, f"{name}: per", ("sample", "batch"))
    checks.one_of(ties, f"{name}: ties", ("all", "first"))
    return phi, int(phi.size) // (len(phi) if per == "sample" else 1)


# ---- rules: which to flag, as a value ----------------------------------------------------------


class Rule:
    """Which activations to act on, decided from φ (B, *neurons): a call returns their mask.

    Your own rule need only be a function of φ; as a subclass, it may replace more of what is here,
    to keep a state or to be as fast as ours.
    """

    # Whether what it flags in a sample, and what it learns, is the same whatever samples are beside
    # it: then threads may take parts of a batch (`nn.backward_in_parts`).
    by_sample = False

    def __init_subclass__(cls) -> None:
        if "__call__" in vars(cls) and "request" not in vars(cls):
            # An inherited one would flag as the base does.
            cls.request = Rule.request  # type: ignore[method-assign]

    def __call__(self, phi: Array) -> Array:
        """Flag activations by their φ."""
        raise NotImplementedError

    def check(self, z: Array, name: str) -> None:
        """Raise if there is nothing to flag in activations like z (B, *neurons)."""

    def request(self) -> Mapping[str, Any]:
        """What `survey` has to be asked to flag by this rule as it makes φ; empty if it cannot."""
        return {}

    def flagged(self, mask: Array) -> None:
        """Hear what `survey` flagged by this rule, for rules that learn from it."""

    def state_dict(self) -> dict[str, Array]:
        """What the rule has learnt, as NumPy arrays by name."""
        return {}

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Take over a state from `state_dict`."""
        checks.entries(state, f"{type(self).__name__}.load_state_dict: state", self.state_dict())

    def remember(self) -> Callable[[], None]:
        """Return a call that puts the state back as it is now."""
        return lambda: None


@dataclass(frozen=True)
class TopK(Rule):
    """The k highest φ of each sample, or of the batch: `select_top_k`."""

    k: int
    per: Per = "sample"
    ties: Ties = "all"

    def __post_init__(self) -> None:
        checks.whole_number(self.k, "TopK: k", least=1)
        checks.one_of(self.per, "TopK: per", ("sample", "batch"))
        checks.one_of(self.ties, "TopK: ties", ("all", "first"))

    def __call__(self, phi: Array) -> Array:
        return select_top_k(phi, self.k, per=self.per, ties=self.ties)

    def check(self, z: Array, name: str) -> None:
        most = z.size // (len(z) if self.per == "sample" else 1)
        of = f"the neurons of activations {tuple(z.shape)}"
        checks.whole_number(self.k, f"{name}: k", least=1, most=most, of=of)

    @property
    def by_sample(self) -> bool:  # type: ignore[override]
        return self.per == "sample"

    def request(self) -> Mapping[str, Any]:
        usual = self.per == "sample" and self.ties == "all"
        return {"k": self.k, "flag": True} if usual else {}


@dataclass(frozen=True)
class TopFraction(Rule):
    """The highest `fraction` of φ of each sample, or of the batch: `select_top_fraction`."""

    fraction: float
    per: Per = "sample"
    ties: Ties = "all"

    def __post_init__(self) -> None:
        checks.share(self.fraction, "TopFraction: fraction", above=0, most=1)
        checks.one_of(self.per, "TopFraction: per", ("sample", "batch"))
        checks.one_of(self.ties, "TopFraction: ties", ("all", "first"))

    @property
    def by_sample(self) -> bool:  # type: ignore[override]
        return self.per == "sample"

    def __call__(self, phi: Array) -> Array:
        return select_top_fraction(phi, self.fraction, per=self.per, ties=self.ties)


@dataclass(frozen=True)
class Above(Rule):
    """Every φ that is at least `threshold`: `select_above`."""

    threshold: float

    def __post_init__(self) -> None:
        checks.number(self.threshold, "Above: threshold", finite=False)

    by_sample = True

    def __call__(self, phi: Array) -> Array:
        return select_above(phi, self.threshold)

    def request(self) -> Mapping[str, Any]:
        return {"threshold": float(self.threshold), "flag": True}


@dataclass(frozen=True, repr=False)
class _Yours(Rule):
    """A function from φ to a mask as a rule."""

    select: Callable[[Array], Array]

    def __call__(self, phi: Array) -> Array:
        return self.select(phi)

    def __repr__(self) -> str:
        return getattr(self.select, "__qualname__", repr(self.select))


def as_rule(select: Rule | Callable[[Array], Array], name: str) -> Rule:
    """Return a rule as it is, and a function from φ to a mask as one."""
    if isinstance(select, Rule) and type(select).__call__ is not Rule.__call__:
        return select
    if not callable(select) or isinstance(select, type | Rule):
        raise TypeError(
            f"{name} is {select!r}, expected TopK(k), TopFraction(p), Above(tau), or a function "
            "from φ to a mask"
        )
    return _Yours(select)
