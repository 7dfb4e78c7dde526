"""The formulas of suite `metrics`, with knobs that make them wrong.

A knob is an argument by name with a default: without knobs a formula is right. For Fractions, or
mpmath's numbers, it gives the truth. All are written apart from minimono's own functions, as sums
over pairs and trees that ask every question there is.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations, pairwise
from typing import Any

import numpy as np

from minimono.backend import Array
from minimono.oracle.truth import mpmath

Formula = Callable[..., Any]


def unit(v: Array) -> Array:
    return v / np.sqrt((v * v).sum(axis=-1, keepdims=True))


def centred(v: Array) -> Array:
    return unit(v - v.mean(axis=0))


def of_0_to_1(z: Array) -> Array:
    """One neuron's activations, from its least at 0 to its most at 1; None if they are the same."""
    return (z - z.min()) / (z.max() - z.min()) if z.max() > z.min() else None


def mono_loss(
    z: Array, embeddings: Array, *, alike: Formula = unit, scaled: Formula = of_0_to_1,
    pairs: Formula = lambda B: list(combinations(range(B), 2)),
    result: Formula = lambda alike, weights, pairs: alike / weights,
    undefined: float | None = None, loss: Formula = lambda score: 1 - score,
) -> Array:
    """Return 1 - the mean over neurons of Σ a_i a_j cos_ij / Σ a_i a_j over pairs of inputs.

    undefined: the score of a neuron whose weights are all 0; None leaves it out.
    """
    e, some, scores = alike(embeddings), pairs(len(z)), []
    for column in z.reshape(len(z), -1).T:
        a = scaled(column)
        weights = sum(a[i] * a[j] for i, j in some) if a is not None else 0
        if weights != 0:
            total = sum(a[i] * a[j] * (e[i] @ e[j]) for i, j in some)
            scores.append(result(total, weights, len(some)))
        elif undefined is not None:
            scores.append(undefined)
    return np.array(loss(sum(scores) / len(scores)) if scores else 1.0)


def _entropy(p: list[Any], log: Formula) -> Any:
    return -sum(x * log(x) for x in p if x > 0)


def effective_features(
    z: Array, *, mass: Formula = lambda z: abs(z).sum(axis=0), log: Formula = np.log,
    exp: Formula = np.exp, added: float = 0.0, each: bool = False,
    features: Formula | None = None,
) -> Array:
    """Return exp of the entropy of the neurons' shares of all activity.

    added: to each share, before they are divided by their sum again.   each: the mean over inputs
    of what each gives.   features: from the shares, in place of all that.
    """
    if each:
        found = [effective_features(row[None]) for row in z if row.any()]
        return np.array(sum(found) / len(found) if found else np.nan)
    masses = mass(z.reshape(len(z), -1))
    if not masses.any():
        return np.array(np.nan)
    p = masses / masses.sum() + added
    p = p / p.sum()
    return np.array(features(p) if features else exp(_entropy(list(p), log)))


def redundancy(
    concepts: Array, *, alike: Formula = unit, change: Formula = lambda c: c,
    diagonal: float = -np.inf, of_row: Formula = max, over: Formula = lambda m: sum(m) / len(m),
) -> Array:
    """Return the mean over neurons of the highest cosine with another; nan for a single one."""
    u = alike(concepts)
    rows = [[change(a @ b) for b in u] for a in u]
    if len(u) < 2 and diagonal == -np.inf:
        return np.array(np.nan)
    found = [
        of_row([diagonal if i == j else c for j, c in enumerate(row)
                if i != j or diagonal != -np.inf])
        for i, row in enumerate(rows)
    ]
    return np.array(over(found))


def polysemanticity(
    embeddings: Array, labels: Array, *, prepared: Formula = lambda v: v, first: int = 10,
    replaced: bool = True, enough: int = 2, cosine: Formula | None = None,
    result: Formula = lambda cosine: 1 - cosine, of: str = "mean",
) -> Array:
    """Return 1 - the cosine of the two clusters' means; where one has one input, of all and each.

    first: how many inputs stand for all then.   replaced: whether that is so.
    """
    cosine = cosine or (lambda a, b: unit(a) @ unit(b))
    v = prepared(embeddings)
    parts = [v[labels == c] for c in sorted(set(labels.tolist()))]
    if len(parts) < 2 or (replaced and min(map(len, parts)) < enough):
        some, mean = v[:first], v.sum(axis=0) / len(v)
        return np.array(result(sum(cosine(mean, x) for x in some) / len(some)))
    a, b = (p.sum(axis=0) / len(p) if of == "mean" else p[0] for p in parts)
    return np.array(result(cosine(a, b)))


def absorption(
    z: Array, write: Array, x: Array, direction: Array, main: Array, present: Array,
    *, aligned: float = 0.1, most: int | None = 3, share: float = 0.4, alone: float = 0.025,
    capped: bool = True, silent: Formula = all, lengths: bool = True, rates_over_all: bool = False,
) -> tuple[Array, ...]:
    """Return each input's fraction, whether it is full, and their means over the inputs `present`.

    Of floats or mpmath's numbers. Thresholds are compared with floats in either.
    """
    d = unit(direction)
    length = [float(w @ w) ** 0.5 for w in write]
    cosines = [float(w @ d) / n if n else 0.0 for w, n in zip(write, length, strict=True)]
    fractions, fulls = [], []
    for a, row in zip(z, x, strict=True):
        written = [v * (w @ d) if lengths else v * c
                   for v, w, c in zip(a, write, cosines, strict=True)]
        t, m = row @ d, sum(written[i] for i in main)
        others = sorted((p for i, p in enumerate(written)
                         if i not in main and cosines[i] >= aligned and p > 0), reverse=True)
        A = sum(others[:most])
        if t <= 0 or m >= t or A < share * t:
            fraction = 0.0
        elif m <= 0:
            fraction = 1.0
        else:
            u = min(A, t - m) if capped else A
            fraction = u / (u + m)
        top = written.index(max(written))
        full = silent(a[i] < 1e-8 for i in main) and cosines[top] >= alone and t > 0
        fractions.append(fraction)
        fulls.append(bool(full and written[top] >= share * t))
    some = [i for i in range(len(z)) if present[i] or rates_over_all]
    return (
        np.array(fractions), np.array(fulls),
        np.array(sum(fractions[i] * bool(present[i]) for i in some) / len(some)),
        np.array(sum(fulls[i] and bool(present[i]) for i in some) / len(some)),
    )


# ---- FMS ---------------------------------------------------------------------------------------


def _split(z: Array, y: Array) -> tuple[int, float] | None:
    """The latent and threshold of the least Gini impurity; the first of equals."""
    best: tuple[Any, int, float] | None = None
    for latent in range(z.shape[1]):
        for low, high in pairwise(sorted(set(z[:, latent].tolist()))):
            left = z[:, latent] <= low
            sides = [y[left], y[~left]]
            impurity = sum(len(s) * 2 * s.mean() * (1 - s.mean()) for s in sides)
            if best is None or impurity < best[0] - 1e-9:
                best = impurity, latent, (low + high) / 2
    return best[1:] if best and 0 < y.sum() < len(y) else None


def says(z: Array, y: Array, depth: int) -> Array:
    """What a tree of this depth says of the inputs that it is grown on."""
    split = _split(z, y) if depth else None
    if split is None:
        return np.full(len(y), 2 * y.sum() > len(y))
    left, found = z[:, split[0]] <= split[1], np.empty(len(y), bool)
    found[left] = says(z[left], y[left], depth - 1)
    found[~left] = says(z[~left], y[~left], depth - 1)
    return found


def accuracy(said: Array, y: Array) -> float:
    return float((said == y).mean())


def f1(said: Array, y: Array) -> float:
    return 2 * float((said & y).sum()) / max(int(said.sum() + y.sum()), 1)


def fms(
    z: Array, concepts: Array, *, rate: Formula = accuracy, twice: float = 2.0,
    depths: Formula = lambda D: range(2, D + 1), over: Formula = len,
    joined: Formula = lambda local, overall: (local + overall) / 2, weighted: bool = True,
    removes: bool = True,
) -> Array:
    """Return acc_0 (local + global) / 2, by its definition."""
    y = concepts.astype(bool)
    found = [rate(says(z, y, 0), y)]
    while len(found) < len(y):
        said = says(z, y, len(found))
        if len(found) > 1 and (said == says(z, y, len(found) - 1)).all() and (
            said == says(z, y, len(y))).all():
            break
        found.append(rate(said, y))
    best = found[min(1, len(found) - 1)]
    other, split = z.copy(), _split(z, y)
    if split and removes:
        other[:, split[0]] = 0
    local = twice * (best - rate(says(other, y, 1), y))
    deeper = [found[d] for d in depths(len(found) - 1) if d < len(found)]
    overall = 1 - sum(acc - best for acc in deeper) / over(deeper) if deeper else 1.0
    return np.array((best if weighted else 1.0) * joined(local, overall))


def precise_log(x: Any) -> Any:
    return mpmath().log(x)


def precise_exp(x: Any) -> Any:
    return mpmath().exp(x)


# ---- concept separability ----------------------------------------------------------------------


def edges_of_all(z: Array, here: Array, bins: int) -> Array:
    return np.linspace(z.min(), z.max() if z.max() > z.min() else z.min() + 1, bins + 1)


def edges_of_concept(z: Array, here: Array, bins: int) -> Array:
    return edges_of_all(here, here, bins)


def divergence(p: Array, q: Array, log: Formula) -> Any:
    """H of the mean less the mean of H; rounding may leave it a little below 0."""
    mean = (p + q) / 2
    return max(_entropy(list(mean), log) - (_entropy(list(p), log) + _entropy(list(q), log)) / 2, 0)


def separability(
    z: Array, concepts: Array, *, bins: int, aggregate: str,
    log: Formula = np.log2, edges: Formula = edges_of_all,
    share: Formula = lambda counts, width: counts / counts.sum(), root: Formula = lambda x: x**0.5,
    between: Formula = divergence, taken: Formula = lambda name: name,
    over: Formula = lambda found: sum(found) / len(found),
    rest: Formula = lambda others, counts: sum(others) / len(others),
    some: Formula = lambda C: combinations(range(C), 2),
) -> Array:
    """Return each neuron's separability. `counts` are whole numbers, or mpmath's (see `share`)."""
    scores = []
    for column in z.reshape(len(z), -1).T:
        counts, widths = [], []
        for c in range(int(concepts.max()) + 1):
            ends = edges(column, column[concepts == c], bins)
            counts.append(np.histogram(column[concepts == c], ends)[0])
            widths.append(ends[1] - ends[0])
        P = [share(k, w) for k, w in zip(counts, widths, strict=True)]
        kind = taken(aggregate)
        if kind == "generalised":
            mean = sum(P) / len(P)
            total = _entropy(list(mean), log) - sum(_entropy(list(p), log) for p in P) / len(P)
            scores.append(root(max(total, 0) / log(len(P))))
        elif kind == "pairs":
            scores.append(over([root(between(P[i], P[j], log)) for i, j in some(len(P))]))
        else:
            scores.append(over([
                root(between(p, rest(P[:i] + P[i + 1:], counts[:i] + counts[i + 1:]), log))
                for i, p in enumerate(P)
            ]))
    return np.array(scores).reshape(z.shape[1:])


def precise_share(counts: Array, width: Any) -> Array:
    mp = mpmath()
    return np.array([mp.mpf(int(k)) / int(counts.sum()) for k in counts], dtype=object)


def precise_log2(x: Any) -> Any:
    return mpmath().log(x, 2)
