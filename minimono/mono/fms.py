"""FMS, the feature monosemanticity score: does one latent hold a concept, all of it, and alone?

Small decision trees answer. How well does the best single latent tell the inputs with a concept
from those without (accuracy)? How much worse are the others without it (local)? How little do more
latents add (global)?

Härle et al. (2025, arXiv 2506.19382); what is said of their code is of commit 5d73415. `B` inputs,
`n` latents, `K` concepts. Trees are grown on the host.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from minimono import checks, sums
from minimono.backend import Array, array_module, as_array, to_host

Convention: TypeAlias = Literal["ours", "demo", "notebook"]
Data: TypeAlias = tuple[Array, Array]  # latents (B, n) and whether the concept is there (B,)
STOP = 1 - 1e-3  # accuracy at which the demo's trees grow no deeper


class FMS(NamedTuple):
    """What `feature_monosemanticity_score` finds: the score, and its parts for each concept."""

    score: float  # mean over concepts of accuracy (local + global) / 2
    accuracy: Array  # (K,), of the best single latent
    local: Array  # (K,), how much of it is lost without that latent
    overall: Array  # (K,), called global in the paper: 1 - what more latents add


def feature_monosemanticity_score(
    z: Array, concepts: Array, *, p: int = 1, convention: Convention = "ours",
    evaluate: Data | None = None,
) -> FMS:
    """Return how monosemantic latents are for known concepts.

        local = 2 (acc_0 - acc_p)      global = 1 - mean_d (acc_d - acc_0)
        FMS@p = mean over concepts of acc_0 (local + global) / 2

    Published, but for what convention says. acc_0 is the accuracy of the best split of a single
    latent, acc_p the same after p times the best latent has been set to 0; acc_d that of a tree
    that asks d questions one after the other. Without the best latent, chance is ½ only if inputs
    with and without the concept are as many: balance them.

    Trees are CART's (authors' code): the split, halfway between two values, with the least Gini
    impurity; a leaf says what the majority of its inputs is, no if they are as many. Of equally
    good splits the lowest latent's, then the lowest, is taken, our choice: their trees draw one.

        convention      d in the mean                              local, global
        "ours"          2, 3, ... to the whole tree; none: 1       as they are
        "demo"          1, 2, ... n, until acc_d is 0.999          cut off at 0 and 1
        "notebook"      0, 2, 3, ... to the whole tree             as they are: up to 1.25 in all

    The last two are in the authors' code; the paper's sum counts latents, which a tree cannot.

    z: latents, (B, n); of a text the mean over its tokens.   concepts: booleans, or 0 and 1,
    (B,) or (B, K).
    evaluate: other inputs, as (z, concepts), on which the accuracies are taken; by default they are
    of the inputs that the trees were grown on, as in the notebook.

    >>> z = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    >>> found = feature_monosemanticity_score(z, np.array([False, False, True, True]))
    >>> found.score, float(found.accuracy[0]), float(found.local[0]), float(found.overall[0])
    (1.0, 1.0, 1.0, 1.0)
    """
    name = "feature_monosemanticity_score"
    xp = array_module(*(as_array(x) for x in (z, concepts, *(evaluate or ()))))
    z, y = _data(z, concepts, name, "z", "concepts")
    tested = (z, y) if evaluate is None else _data(*evaluate, name, "evaluate[0]", "evaluate[1]")
    shape = (len(tested[0]), z.shape[1]), (len(tested[1]), y.shape[1])
    checks.shaped(tested[0], f"{name}: evaluate[0]", shape[0], "the latents of z")
    checks.shaped(tested[1], f"{name}: evaluate[1]", shape[1], "the concepts of concepts")
    p = checks.whole_number(p, f"{name}: p", least=1)
    checks.one_of(convention, f"{name}: convention", ("ours", "demo", "notebook"))
    parts = np.array([
        _of_one_concept((z, y[:, c]), (tested[0], tested[1][:, c]), p, convention)
        for c in range(y.shape[1])
    ])  # (K, 3)
    accuracy, local, overall = parts.T
    score = float(sums.mean(accuracy * (local + overall) / 2))
    return FMS(score, *(xp.asarray(part.copy()) for part in (accuracy, local, overall)))


def _of_one_concept(
    grown_on: Data, tested: Data, p: int, convention: Convention
) -> tuple[float, float, float]:
    """Return acc_0, local and global."""
    accuracies = [*_accuracies(grown_on, tested)]  # at depths 0, 1, ... D
    best = accuracies[min(1, len(accuracies) - 1)]
    z, y = grown_on[0].copy(), grown_on[1]
    for _ in range(p):
        split = _best_split(z, y)
        if split is not None:
            z[:, split[0]] = 0.0
    *_, without = _accuracies((z, y), tested, depth=1)
    deeper = _deeper(accuracies, z.shape[1], convention)
    local = 2 * (best - without)
    overall = 1 - (float(np.mean(deeper)) - best if deeper else 0.0)
    if convention == "demo":
        return best, min(max(local, 0.0), 1.0), min(max(overall, 0.0), 1.0)
    return best, local, overall


def _deeper(accuracies: list[float], n: int, convention: Convention) -> list[float]:
    """The accuracies that are averaged, of those at depths 0, 1, ... D."""
    if convention == "ours":
        return accuracies[2:]
    if convention == "notebook":
        return accuracies[:1] + accuracies[2:]
    found = []
    for d in range(1, n + 1):
        found.append(accuracies[min(d, len(accuracies) - 1)])
        if found[-1] >= STOP:
            break
    return found


# ---- trees -------------------------------------------------------------------------------------


def _accuracies(grown_on: Data, tested: Data, depth: int | None = None) -> Iterator[float]:
    """Grow a tree to `depth`, or to its end; yield its accuracy at depth 0, 1, 2, ..."""
    (z, y), (x, truth) = grown_on, tested
    nodes = [(np.arange(len(y)), np.arange(len(truth)))]  # rows of each that came so far
    right_in_leaves = 0
    for level in range(len(y)):
        children, right_in_nodes = [], 0
        for rows, its in nodes:
            majority = 2 * int(y[rows].sum()) > len(rows)
            right = int((truth[its] == majority).sum())
            split = _best_split(z[rows], y[rows])
            if split is None:
                right_in_leaves += right
                continue
            right_in_nodes += right
            latent, threshold = split
            low, its_low = z[rows, latent] <= threshold, x[its, latent] <= threshold
            children += [(rows[low], its[its_low]), (rows[~low], its[~its_low])]
        yield (right_in_leaves + right_in_nodes) / len(truth)
        if not children or level == depth:
            return
        nodes = children


def _best_split(z: Array, y: Array) -> tuple[int, float] | None:
    """Return the latent and the threshold that leave the least Gini impurity, if any can split."""
    B, with_it = len(y), int(y.sum())
    if with_it in (0, B):
        return None
    order = z.argsort(axis=0, kind="stable")  # (B, n)
    values = np.take_along_axis(z, order, axis=0)
    below = np.arange(1, B)[:, None]
    yes = y[order].cumsum(axis=0)[:-1]  # (B - 1, n): with the concept, among those below
    mixed = (yes * (below - yes)) / below
    mixed += (with_it - yes) * (B - below - with_it + yes) / (B - below)
    mixed[values[:-1] == values[1:]] = np.inf  # no threshold lies between equal values
    least = mixed.min()
    if least == np.inf:
        return None
    near = np.argwhere(mixed.T <= least * (1 + 1e-12))  # by latent, then by threshold
    sides = [(int(i) + 1, int(yes[i, latent])) for latent, i in near]
    exact = {side: _impurity(*side, B, with_it) for side in set(sides)}
    latent, i = near[sides.index(min(sides, key=exact.__getitem__))]
    low, high = values[i, latent], values[i + 1, latent]
    threshold = low / 2 + high / 2
    return int(latent), float(low if threshold >= high else threshold)


def _impurity(below: int, yes: int, B: int, with_it: int) -> Fraction:
    """Gini impurity of both sides, times B / 2."""
    above, yes_above = B - below, with_it - yes
    return (
        Fraction(yes * (below - yes), below) + Fraction(yes_above * (above - yes_above), above)
    )


def _data(z: Array, concepts: Array, name: str, first: str, second: str) -> Data:
    """Latents (B, n) and 0 or 1 (B, K), on the host."""
    z = to_host(checks.matrix(z, f"{name}: {first}", "(B, n)"))
    y = to_host(as_array(concepts))
    good = y.ndim in (1, 2) and len(y) == len(z) and y.size > 0
    expected = f"({len(z)},) or ({len(z)}, K), a row for each of {first}"
    checks.layout(y, f"{name}: {second}", expected, good)
    y = checks.labels(y, f"{name}: {second}", count=y.shape, least=0, most=1, kinds="iub")
    return z, y.reshape(len(z), -1)
