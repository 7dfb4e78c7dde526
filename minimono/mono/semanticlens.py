"""What SemanticLens asks of neurons in the eyes of another encoder: one meaning, or several?

    clarity               of one neuron's inputs: are they alike? (in `metrics.py`)
    polysemanticity       of one neuron's inputs: do they fall into groups that are not alike?
    concept_similarity    of two neurons: how alike are the means of their inputs?
    redundancy            of a layer: how alike is each neuron to the one most like it?

Dreyer et al. (2025, arXiv 2501.05398); what is said here of their code is of commit 7779074. A
neuron's inputs are those that activate it most, as embeddings of an encoder that is independent of
the network, say CLIP. `n` inputs, `D` dimensions of an embedding.
"""

from __future__ import annotations

from typing import Literal, overload

import numpy as np

from minimono import checks, sums
from minimono.backend import Array, array_module, to_host
from minimono.mono.clusters import virtual_neurons
from minimono.mono.metrics import lengths_above_0, mean_distance, reference_inputs

FIRST = 10  # inputs that stand for all where there are no clusters: the authors' code
ROWS = 1024  # concepts that are compared with all others at a time (our choice)


def polysemanticity(
    embeddings: Array, k: int = 2, *, rng: checks.Rng | None = None, labels: Array | None = None
) -> Array:
    """Return how unlike the centres of a neuron's k clusters of inputs are: 1 - their clarity.

        1 - mean cos(c_i, c_j) over all pairs of centres;     for two clusters 1 - cos(c_1, c_2)

    Authors' code: k-means, of the embeddings as they are, not at length 1. Where a cluster has less
    than two inputs, or fewer than k inputs differ, it is instead

        1 - mean_i cos(m, v_i),     m the mean of all inputs, i over the first ten

    It is 0 if all inputs point the same way, 1 for two orthogonal centres, 2 at the most, for
    opposite ones (1 + 1/(k-1) for k; their docstring says 1).

    embeddings: (..., n, D), for each neuron its n >= 2 inputs, none of them 0 (ValueError).
    Give either `rng`, for the k-means of `virtual_neurons` (our choice; theirs is scikit-learn's
    with seed 123), or, if you have clusters, their `labels`, whole numbers (..., n); then k is not
    asked for. Returns shape (...); nan where a centre, or m, is 0.

    >>> polysemanticity(np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]), rng=0)
    array(1.)
    """
    name = "polysemanticity"
    v = reference_inputs(embeddings, f"{name}: embeddings").astype(np.float64)
    k = checks.whole_number(k, f"{name}: k", least=2)
    if (rng is None) == (labels is None):
        raise ValueError(f"{name}: rng is {rng!r}, expected either it or labels, not both")
    groups = v.reshape(-1, *v.shape[-2:])  # (..., n, D) -> (neurons, n, D)
    if rng is None:
        labels = checks.labels(labels, f"{name}: labels", count=v.shape[:-1], kinds="iub")
        of_groups = labels.reshape(groups.shape[:-1])
    else:
        rng = checks.generator(rng, f"{name}: rng")
        of_groups = [_clusters(points, k, rng) for points in groups]
    scores = [_unlikeness(*pair) for pair in zip(groups, of_groups, strict=True)]
    return array_module(v).asarray(scores).reshape(v.shape[:-2])


def _clusters(points: Array, k: int, rng: np.random.Generator) -> Array:
    """The cluster of each point; one for all where fewer than k differ."""
    if len(np.unique(to_host(points), axis=0)) < k:
        return array_module(points).zeros(len(points), np.int64)
    return virtual_neurons(points, k, rng=rng).labels


def _unlikeness(points: Array, labels: Array) -> float:
    """Of the centres of clusters, or of inputs and their mean: 1 - the mean cosine."""
    xp = array_module(points, labels)
    clusters, sizes = xp.unique(labels, return_counts=True)
    points = sums.scaled(points.reshape(-1)).reshape(points.shape)
    if len(clusters) > 1 and int(sizes.min()) > 1:
        centres = xp.stack([sums.mean(points[labels == c], axis=0) for c in clusters.tolist()])
        return float(mean_distance(centres)) if centres.any(axis=1).all() else np.nan
    mean = sums.mean(points, axis=0)
    if not mean.any():
        return np.nan
    pairs = xp.stack([xp.broadcast_to(mean, points[:FIRST].shape), points[:FIRST]], axis=1)
    return float(sums.mean(mean_distance(pairs)))


def concept_similarity(x: Array, y: Array) -> Array:
    """Return the cosine of each concept of x and each of y: (X, D), (Y, D) -> (X, Y).

    A concept is a vector: the mean embedding of a neuron's inputs, or the embedding of a word.
    Published. Always all pairs (our choice): the authors' code compares row with row where both
    have one shape, and a square y with its axes exchanged, which gives "cosines" above 1.

    Raises ValueError for a concept of length 0.

    >>> concept_similarity(np.array([[3.0, 4.0]]), np.array([[5.0, 0.0], [-3.0, -4.0]]))
    array([[ 0.6, -1. ]])
    """
    x, y = (_concepts(v, f"concept_similarity: {key}") for key, v in (("x", x), ("y", y)))
    checks.shaped(y, "concept_similarity: y", (len(y), x.shape[1]), "as many dimensions as x")
    array_module(x, y)  # raises for two devices
    similarity: Array = sums.unit(x) @ sums.unit(y).T
    return similarity


@overload
def redundancy(concepts: Array, *, per_neuron: Literal[False] = False) -> float: ...
@overload
def redundancy(concepts: Array, *, per_neuron: Literal[True]) -> Array: ...
def redundancy(concepts: Array, *, per_neuron: bool = False) -> float | Array:
    """Return how alike each neuron is to the one most like it, averaged over the layer.

        mean_i max_{j≠i} cos(θ_i, θ_j)

    Published. 1 if each neuron has a double, 0 if all are orthogonal; from -1 to 1.

    concepts: (neurons, D), θ_i the mean embedding of neuron i's inputs, none of them 0
    (ValueError). One number, as in the authors' code (whose docstring promises one for each); with
    `per_neuron` the maxima, (neurons,). nan for a single neuron, for which their code gives -1.

    >>> concepts = np.array([[3.0, 4.0], [4.0, 3.0], [0.0, 5.0], [-1.0, 0.0]])
    >>> round(redundancy(concepts), 12), redundancy(concepts, per_neuron=True)
    (0.68, array([0.96, 0.96, 0.8 , 0.  ]))
    """
    unit = sums.unit(_concepts(concepts, "redundancy: concepts"))
    xp, neurons = array_module(unit), len(unit)
    nearest = xp.full(neurons, xp.nan)
    for first in range(0, neurons if neurons > 1 else 0, ROWS):
        cosines = unit[first : first + ROWS] @ unit.T
        rows = xp.arange(len(cosines))
        cosines[rows, rows + first] = -xp.inf  # itself
        nearest[first : first + ROWS] = cosines.max(axis=1)
    return nearest if per_neuron else float(sums.mean(nearest))


def _concepts(x: Array, name: str) -> Array:
    x = checks.matrix(x, name, "(neurons, D)")
    lengths_above_0(x, name)
    return x
