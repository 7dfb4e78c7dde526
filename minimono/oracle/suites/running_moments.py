"""The running mean and variance of suites `moments`, `scale` and `module`: truth and mistakes.

Of Fractions it makes the truth, since no operation on them rounds; of floats, with a knob turned,
what an implementation with that mistake returns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from minimono.backend import Array
from minimono.oracle.truth import float32

NEVER = 10**9  # batches

# The axes that statistics are taken over, by the number of axes of a batch.
AXES: dict[str, Callable[[int], tuple[int, ...]]] = {
    "samples": lambda ndim: (0,),
    "last axis": lambda ndim: (ndim - 1,),
    "everything": lambda ndim: tuple(range(ndim)),
    # all but the channels: the last axis of (B, C) and (B, T, C), the second of (B, C, Y, X)
    "samples and positions": lambda ndim: (0, 1) if ndim == 3 else (0, *range(2, ndim)),
}


@dataclass
class Running:
    """The mean and variance of a stream of batches, right unless a knob is turned.

    "paper": once forget_after batches were seen, the past weighs as that many batches of the size
    of the current one. "authors": it weighs as min(n, forget_after) batches, n that of this one.
    Mean and m2, the sum of squared deviations, keep an axis of size 1 where they sum.
    """

    convention: str
    forget_after: int
    ddof: int = 1
    about: str = "mean"  # what deviations are from; or "zero"
    over: str = "samples"  # a key of AXES
    padding: bool = False  # a row of zeros is counted
    first_counts: int = 1  # how often the first batch counts
    counted_from: int = 1  # n of the first batch, in "authors"
    longer: int = 0  # forget_after is longer by so many batches
    late: int = 0  # forgetting begins so many batches late
    weight: str | None = None  # of the past, where it is not that of the convention
    keeps: str = "variance"  # what forgetting leaves as it is; or "m2"
    shift: bool = True  # the distance between the means is in the merge
    unbiased: bool = False  # a batch's unbiased variance is taken for the biased one
    remembers: bool = True
    seen: int = field(default=0, init=False)  # batches
    count: int = field(default=0, init=False)  # samples
    mean: Array = field(default_factory=lambda: np.zeros(()), init=False)
    m2: Array = field(default_factory=lambda: np.zeros(()), init=False)

    @property
    def variance(self) -> Array:
        return self.m2 / (self.count - self.ddof)

    def update(self, batch: Array) -> None:
        rows = np.concatenate([batch, 0 * batch[:1]]) if self.padding else batch
        axes = AXES[self.over](batch.ndim)
        own_mean = rows.mean(axes, keepdims=True) if self.about == "mean" else 0 * rows[:1]
        own_m2 = ((rows - own_mean) ** 2).sum(axes, keepdims=True)
        b, size = rows.size // own_m2.size, batch.size // own_m2.size
        if self.seen == 0 or not self.remembers:
            self.first, self.count, self.mean = size, b * self.first_counts, own_mean
            self.m2 = own_m2 * self.first_counts
        else:
            if self.unbiased and b > 1:
                own_m2 = own_m2 * b / (b - 1)
            past, count = self._past(size), self.count
            if past != count and self.keeps == "variance":
                self.m2 = self.m2 * (past - self.ddof) / (count - self.ddof)
            shift = (self.mean - own_mean) ** 2 * past * b / (past + b)
            self.m2 = self.m2 + own_m2 + (shift if self.shift else 0)
            self.mean = (past * self.mean + b * own_mean) / (past + b)
            self.count = past + b
        self.seen += 1

    def _past(self, b: int) -> int:
        """The number of samples as which the past weighs, before a batch of b samples."""
        limit = self.forget_after + self.longer
        forgets = self.seen >= limit + self.late
        return {
            "paper": limit * b if forgets else self.count,
            "authors": min(self.seen + self.counted_from, limit) * b,
            "in batches of the first size": limit * self.first if forgets else self.count,
            "in samples": min(self.count, max(limit, 2)),
            "one batch": b,
        }[self.weight or self.convention]


def drawn(
    rng: np.random.Generator, sizes: Sequence[int], neurons: tuple[int, ...], offset: float,
    growth: float,
) -> list[Array]:
    """Batches of normal numbers around `offset`, each spread more widely than the one before."""
    return [
        float32(offset + (1 + i * growth) * rng.normal(size=(b, *neurons)))
        for i, b in enumerate(sizes)
    ]
