"""When features fire: how often, together with which others, below which others.

    zipf_rates                 a few features are frequent, most are rare
    low_rank_correlation       features that share causes fire together
    nearest_correlation        makes a matrix of wished correlations one that there can be
    Hierarchy                  a feature needs its parent; siblings may exclude each other

`World` takes what they make. All are as SynthSAEBench has them (arXiv 2602.14687; authors' code, in
SAELens 6.54.12). Shapes: `B` inputs, `F` features. Arrays are NumPy's, in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from minimono import checks
from minimono.backend import Array

LEAST_EIGENVALUE = 1e-6  # authors' code
MOST_SHARED = 0.99  # of a feature's variance: the rest is its own


def zipf_rates(
    features: int, *, exponent: float = 1.0, highest: float = 0.4, lowest: float = 5e-4
) -> Array:
    """Return how often each feature fires, by Zipf's law between two ends: (F,), falling.

        p_i = lowest + (highest - lowest) (r_i - r_F) / (r_1 - r_F),     r_i = i^-exponent

    Authors' code, with its defaults for the ends. Note that it is not highest · i^-exponent.

    >>> zipf_rates(4, highest=0.3, lowest=0.01).round(7)
    array([0.3      , 0.1066667, 0.0422222, 0.01     ])
    """
    F = checks.whole_number(features, "zipf_rates: features", least=2)
    exponent = checks.number(exponent, "zipf_rates: exponent", above=0.0)
    highest = checks.number(highest, "zipf_rates: highest", above=0.0, below=1.0)
    lowest = checks.number(lowest, "zipf_rates: lowest", above=0.0, most=highest)
    r = np.arange(1.0, F + 1) ** -exponent
    rates: Array = lowest + (highest - lowest) * ((r - r[-1]) / (r[0] - r[-1]))
    return rates


def low_rank_correlation(
    features: int, rank: int, *, scale: float = 0.1, rng: checks.Rng
) -> Array:
    """Draw correlations of features that have `rank` causes in common: (F, F).

        R = A Aᵀ + diag(1 - Σ_r A²),     A (F, rank) Gaussian, of standard deviation `scale`

    Authors' code. If the causes would make up all of a feature, A is made smaller, so that they
    make up 0.99 of it.

    >>> R = low_rank_correlation(3, 2, scale=0.5, rng=0)
    >>> R.diagonal(), bool((R == R.T).all())
    (array([1., 1., 1.]), True)
    """
    F = checks.whole_number(features, "low_rank_correlation: features", least=1)
    rank = checks.whole_number(rank, "low_rank_correlation: rank", least=1)
    scale = checks.number(scale, "low_rank_correlation: scale", least=0.0)
    rng = checks.generator(rng, "low_rank_correlation: rng")
    A = scale * rng.standard_normal((F, rank))
    most = (A * A).sum(axis=1).max()
    if most >= 1:
        A *= np.sqrt(MOST_SHARED / most)
    R = A @ A.T
    np.fill_diagonal(R, 1.0)
    return (R + R.T) / 2


def nearest_correlation(correlation: Array) -> Array:
    """Return a correlation matrix near to a symmetric one of wished correlations: (F, F).

    Authors' code: eigenvalues below 1e-6 are raised to it, and the diagonal is brought back to 1.

    >>> nearest_correlation(np.array([[1, 0.9, -0.9], [0.9, 1, 0.9], [-0.9, 0.9, 1]])).round(5)
    array([[ 1. ,  0.5, -0.5],
           [ 0.5,  1. ,  0.5],
           [-0.5,  0.5,  1. ]])
    """
    R = _correlations(correlation, "nearest_correlation: correlation")
    values, vectors = np.linalg.eigh(R)
    if values[0] >= LEAST_EIGENVALUE:
        return R
    R = (vectors * values.clip(LEAST_EIGENVALUE)) @ vectors.T
    length = np.sqrt(R.diagonal())
    R /= length[:, None] * length
    np.fill_diagonal(R, 1.0)
    return (R + R.T) / 2


def cholesky(correlation: Array, name: str, features: int) -> Array:
    """The factor L of a correlation matrix of so many features, R = L Lᵀ."""
    R = _correlations(correlation, name)
    checks.shaped(R, name, (features, features), "a row and a column for each of the directions")
    try:
        return np.linalg.cholesky(R)
    except np.linalg.LinAlgError:
        raise ValueError(
            f"{name} has no positive eigenvalues only, expected correlations that there can be; "
            "`nearest_correlation` makes them"
        ) from None


def _correlations(R: Array, name: str) -> Array:
    R = checks.matrix(R, name, "(F, F)")
    checks.layout(R, name, "(F, F)", R.shape[0] == R.shape[1])
    checks.everywhere(R, R == R.T, name, "as much as across the diagonal")
    checks.everywhere(R.diagonal(), R.diagonal() == 1, f"{name}: diagonal", "1")
    checks.everywhere(R, abs(R) <= 1, name, "-1 to 1")
    return R


@dataclass(frozen=True, eq=False)
class Hierarchy:
    """Which feature needs which: a forest, level by level from its roots.

    parents: whole numbers (F,), the parent of each feature, -1 for a root.
    exclusive: booleans (F,), or one for all: whether the children of this feature exclude each
    other. scaled: whether a child is also as strong as its parent is, over that one's mean.

    Authors' code. At each level first a child is 0 unless its parent is there. Then, of the
    children that are there and exclude each other, one stays, each with the same chance. Their own
    children go at the next level. No child calls its parent up.

    >>> forest = Hierarchy(np.array([-1, 0, 0]), exclusive=True)
    >>> forest.gated(np.array([[0.0, 1.0, 1.0], [1.0, 1.0, 0.0]]), 1.0, rng=0)
    array([[0., 0., 0.],
           [1., 1., 0.]])
    """

    parents: Array
    exclusive: Array | bool = False
    scaled: bool = False

    def __post_init__(self) -> None:
        F, name = np.size(self.parents), "Hierarchy: parents"
        parents = checks.labels(
            self.parents, name, count=(F,), least=-1, most=F - 1, of="the last feature"
        )
        if F == 0:
            raise ValueError(f"{name} is empty, expected one feature at least")
        one = isinstance(self.exclusive, bool)
        exclusive = np.full(F, self.exclusive) if one else self.exclusive
        exclusive = checks.mask(exclusive, "Hierarchy: exclusive", (F,))
        object.__setattr__(self, "parents", _locked(parents))
        object.__setattr__(self, "exclusive", _locked(exclusive))
        endless = self.depth >= F
        if endless.any():
            raise ValueError(
                f"{name} leads from feature {int(endless.argmax())} round in a circle, expected a "
                "way to a root (-1)"
            )

    @cached_property
    def depth(self) -> Array:
        """How many features are above each: (F,), 0 for a root."""
        depth, above = np.zeros_like(self.parents), self.parents
        for _ in self.parents:
            depth += above >= 0
            above = np.where(above >= 0, self.parents[above], -1)
        return _locked(depth)

    @classmethod
    def of_trees(
        cls, roots: int, branching: int, depth: int, *, exclusive: bool = False,
        scaled: bool = False,
    ) -> Hierarchy:
        """Make equal trees: each feature above `depth` has so many children. Roots come first.

        >>> Hierarchy.of_trees(2, 2, 1).parents
        array([-1, -1,  0,  0,  1,  1])
        """
        checks.sizes("Hierarchy.of_trees", roots=roots, branching=branching)
        depth = checks.whole_number(depth, "Hierarchy.of_trees: depth", least=0)
        level, parents = np.arange(roots), [np.full(roots, -1)]
        for _ in range(depth):
            parents.append(level.repeat(branching))
            level = level[-1] + 1 + np.arange(len(parents[-1]))
        return cls(np.concatenate(parents), exclusive, scaled)

    def gated(self, amounts: Array, mean: Array | float, *, rng: checks.Rng) -> Array:
        """Return how much of each feature is left of what was drawn: (B, F).

        amounts: (B, F), not negative.   mean: (F,), or one for all: what `scaled` divides by.
        """
        c = checks.matrix(amounts, "Hierarchy.gated: amounts", "(B, F)").copy()
        expected = (len(c), len(self.parents))
        checks.shaped(c, "Hierarchy.gated: amounts", expected, "a column for each feature")
        rng = checks.generator(rng, "Hierarchy.gated: rng")
        mean = np.broadcast_to(mean, len(self.parents))
        for level in range(1, int(self.depth.max()) + 1):
            (children,) = np.nonzero(self.depth == level)
            above = self.parents[children]
            c[:, children] *= c[:, above] / mean[above] if self.scaled else c[:, above] > 0
            for parent in np.unique(above[np.asarray(self.exclusive)[above]]):
                siblings = children[above == parent]
                # The highest of as many random numbers is each one's with the same chance.
                lot = np.where(c[:, siblings] > 0, rng.random((len(c), len(siblings))), -1.0)
                c[:, siblings] *= lot == lot.max(axis=1, keepdims=True)
        return c

    def compensated(self, rates: Array) -> Array:
        """Return the probabilities to draw with, so that features fire about as often as `rates`.

            q_i = min(1, p_i/p_parent · (1 + Σ p_j/p_parent over siblings that i excludes))

        Authors' code, and approximate; exact without exclusion. (F,) -> (F,), roots as they are.

        >>> Hierarchy(np.array([-1, 0, 0]), exclusive=True).compensated([0.4, 0.1, 0.2])
        array([0.4  , 0.375, 0.625])
        """
        p = checks.values(rates, "Hierarchy.compensated: rates")
        checks.shaped(p, "Hierarchy.compensated: rates", self.parents.shape, "one for each feature")
        checks.everywhere(p, (p > 0) & (p <= 1), "Hierarchy.compensated: rates", "0 to 1, above 0")
        child = self.parents >= 0
        given = np.where(child, p / p[self.parents], p)  # the rate where the parent is there
        beside = np.zeros_like(p)
        np.add.at(beside, self.parents[child], given[child])
        excluded: Array = np.asarray(self.exclusive)[self.parents]
        others = np.where(child & excluded, beside[self.parents] - given, 0.0)
        q: Array = np.minimum(1.0, given * (1 + others))
        return q


def _locked(array: Array) -> Array:
    """Return a copy that nobody can write into."""
    copy = array.copy()
    copy.setflags(write=False)
    return copy
