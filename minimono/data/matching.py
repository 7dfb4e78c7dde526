"""Where the true features are known: which of them does each unit stand for, and how well?

    mean_correlation_coefficient    directions: how well can units be matched to features, in pairs?
    match_features                  directions and activations: each unit as a detector of a feature

As SynthSAEBench measures autoencoders (arXiv 2602.14687; authors' code, in SAELens 6.54.12). A unit
is a latent with its decoder's row, or a neuron with its input weights. `B` inputs, `n` units, `F`
features, `D` dimensions. Arrays are NumPy's.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from minimono import checks
from minimono.backend import Array


def mean_correlation_coefficient(directions: Array, features: Array) -> float:
    """Return how near units' directions are to the features', in the best matching (MCC).

        max over matchings of the mean |cos(w_i, v_f)| over its min(n, F) pairs

    Authors' code. Each unit and each feature is matched once at most. It is not the coefficient of
    Matthews, which has the same letters.

    directions: (n, D).   features: (F, D). A row of length 0 has cosine 0 with all.

    >>> learned, true = [[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]
    >>> round(mean_correlation_coefficient(learned, true), 12)
    0.9
    """
    cosines = _cosines(directions, features, "mean_correlation_coefficient")
    cosines = cosines if cosines.shape[0] <= cosines.shape[1] else cosines.T
    matched = assignment(-cosines)
    return float(cosines[np.arange(len(matched)), matched].mean())


class FeatureMatches(NamedTuple):
    """What `match_features` finds."""

    feature: Array  # (n,), the feature nearest to each unit's direction
    precision: Array  # (n,), of the unit as its detector; 0 for one that never fires
    recall: Array  # (n,); 0 for a feature that is never there
    f1: Array  # (n,)
    accuracy: Array  # (n,)
    uniqueness: float  # the share of units if of each feature's only one is counted


def match_features(
    directions: Array, features: Array, z: Array, present: Array
) -> FeatureMatches:
    """Match each unit to the feature nearest to its direction, and rate it as a detector of that.

    Authors' code; they average each over units, those that never fire included. A unit fires above
    0; nearest is the highest |cos|, the lowest number of equals.

    directions: (n, D).   features: (F, D).   z: activations, (B, n).   present: booleans (B, F).

    >>> learned, true = [[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]
    >>> z = np.array([[1, 0, 0], [2, 1, 0], [0, 1, 0], [0, 0, 0]])
    >>> present = np.array([[1, 0], [1, 1], [0, 1], [1, 0]], bool)
    >>> found = match_features(learned, true, z, present)
    >>> found.feature, found.precision, found.uniqueness
    (array([0, 1, 0]), array([1., 1., 0.]), 0.666...)
    """
    name = "match_features"
    cosines = _cosines(directions, features, name)
    z = checks.matrix(z, f"{name}: z", "(B, n)")
    checks.shaped(z, f"{name}: z", (len(z), len(cosines)), "a column for each of directions")
    present = checks.mask(present, f"{name}: present", (len(z), cosines.shape[1]))
    feature = cosines.argmax(axis=1)
    fires, there = z > 0, present[:, feature]  # (B, n)
    both = (fires & there).sum(axis=0)
    fired, was = fires.sum(axis=0), there.sum(axis=0)
    return FeatureMatches(
        feature,
        both / fired.clip(1),
        both / was.clip(1),
        2 * both / (fired + was).clip(1),
        (fires == there).mean(axis=0),
        len(np.unique(feature)) / len(feature),
    )


def assignment(cost: Array) -> Array:
    """Return for each row another column, so that the costs add up to the least: (n, m), n <= m.

    The Hungarian method, with potentials (Jonker and Volgenant 1987): row by row, the cheapest way
    to give one more row a column, if rows before may change theirs. Time grows with n² m.

    >>> assignment(np.array([[1.0, 2.0], [1.0, 3.0]]))
    array([1, 0])
    """
    n, m = cost.shape
    of_row, of_column = np.zeros(n), np.zeros(m)  # potentials: no reduced cost is below 0
    row_of = np.full(m, -1)
    for start in range(n):
        distance, before = np.full(m, np.inf), np.full(m, -1)
        done = np.zeros(m, dtype=bool)
        row, column, so_far = start, -1, 0.0
        while row >= 0:  # until a free column is reached
            through = so_far + cost[row] - of_row[row] - of_column
            nearer = ~done & (through < distance)
            distance[nearer], before[nearer] = through[nearer], column
            column = int(np.where(done, np.inf, distance).argmin())
            so_far, row = distance[column], row_of[column]
            done[column] = True
        done[column] = False  # the free one
        of_row[start] += so_far
        of_row[row_of[done]] += so_far - distance[done]
        of_column[done] -= so_far - distance[done]
        while column >= 0:  # hand the columns on, backwards
            row_of[column] = start if before[column] < 0 else row_of[before[column]]
            column = before[column]
    matched = np.empty(n, np.int64)
    matched[row_of[row_of >= 0]] = np.nonzero(row_of >= 0)[0]
    return matched


def _cosines(directions: Array, features: Array, name: str) -> Array:
    """|cos| of each unit and each feature: (n, F)."""
    w = checks.matrix(directions, f"{name}: directions", "(n, D)")
    v = checks.matrix(features, f"{name}: features", "(F, D)")
    checks.shaped(v, f"{name}: features", (len(v), w.shape[1]), "the dimensions of directions")
    unit = []
    for x in (w, v):
        x = x / np.where(x.any(axis=1), abs(x).max(axis=1), 1.0)[:, None]
        length = np.sqrt((x * x).sum(axis=1, keepdims=True))
        unit.append(x / np.where(length == 0, 1.0, length))
    cosines: Array = abs(unit[0] @ unit[1].T)
    return cosines
