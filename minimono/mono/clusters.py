"""Samples in clusters: k-means on what a neuron's activation came from, and what it was good for.

    virtual_neurons         k-means on attributions: each cluster is a circuit, a virtual neuron
    route                   the virtual neuron of a new sample: the nearest centroid
    cluster_distances       are samples of one cluster more alike than of two, to another encoder?
    alignment               do inputs with like circuits look alike?
    cluster_purity          are the clusters the classes that we know?

These are the second half of PURE, whose first half is `circuits.py`. `B` samples, `C` channels,
`K` clusters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from minimono import checks, sums
from minimono.backend import Array, array_module, to_host

PAIRS = 1 << 12  # distances that are looked at together, or those of a row (our choice)


class VirtualNeurons(NamedTuple):
    """The circuits of a neuron: clusters of its reference samples."""

    labels: Array  # (B,), which virtual neuron each sample belongs to, 0..K-1
    centroids: Array  # (K, C), each cluster's mean rho
    inertia: float  # Σ over samples of the squared distance to their centroid


def virtual_neurons(
    rho: Array, k: int = 2, *, rng: checks.Rng, starts: int = 10
) -> VirtualNeurons:
    """Cluster attributions (B, C) into k circuits: k-means, the best of ten starts.

    Each start draws its first centroids by k-means++ and moves them as Lloyd says, to the end.
    Published: k = 2, ten starts. It finds k clusters whether there are k meanings or not: the
    distances in an independent embedding (`cluster_distances`) have to tell.

    Any vectors will do, not only rho. Raises ValueError if fewer than k of them differ.

    >>> rho = np.array([[1.0, 0.0], [0.0, 1.0], [0.9, 0.1], [0.1, 0.9]])
    >>> labels, centroids, inertia = virtual_neurons(rho, rng=np.random.default_rng(0))
    >>> bool(labels[0] == labels[2] != labels[1] == labels[3]), round(inertia, 12)
    (True, 0.02)
    """
    points = _points(rho, "virtual_neurons: rho", "(B, C)")
    k = checks.whole_number(k, "virtual_neurons: k", least=1)
    starts = checks.whole_number(starts, "virtual_neurons: starts", least=1)
    rng = checks.generator(rng, "virtual_neurons: rng")
    found = [_lloyd(points, _first_centroids(points, k, rng)) for _ in range(starts)]
    return min(found, key=lambda virtual: virtual.inertia)


def _first_centroids(points: Array, k: int, rng: np.random.Generator) -> Array:
    """k-means++ (Arthur & Vassilvitskii, 2007): k of the points, far from each other.

    Each next one is drawn with probability in proportion to its squared distance to the nearest of
    those before, so a point that is there already is never drawn again.
    """
    chosen = [int(rng.integers(len(points)))]
    while len(chosen) < k:
        nearest = _squared_distances(points, points[chosen]).min(axis=1)  # (B, chosen) -> (B,)
        total = float(nearest.sum())
        if total < np.finfo(np.float64).tiny:
            raise ValueError(
                f"virtual_neurons: k is {k}, but rho {points.shape} has only {len(chosen)} rows "
                "that differ (by more than 1e-154)"
            )
        chosen.append(int(rng.choice(len(points), p=to_host(nearest / total))))
    return points[chosen]


def _lloyd(points: Array, centroids: Array) -> VirtualNeurons:
    """Give each point to its nearest centroid, move each centroid to the mean of its points, again.

    The inertia falls until nothing changes any more. An empty cluster starts anew at the point that
    is farthest from its centroid (our choice; scikit-learn does the same).
    """
    before = np.inf
    while True:
        distances = _squared_distances(points, centroids)  # (B, K)
        labels, nearest = distances.argmin(axis=1), distances.min(axis=1)
        inertia = float(nearest.sum())
        if not inertia < before:
            return VirtualNeurons(labels, centroids, inertia)
        before = inertia
        moved = labels.copy()
        for cluster in range(len(centroids)):
            if not (moved == cluster).any():
                farthest = int(nearest.argmax())
                moved[farthest], nearest[farthest] = cluster, 0.0
        centroids = array_module(points).stack(
            [points[moved == cluster].mean(axis=0) for cluster in range(len(centroids))]
        )


def route(rho: Array, centroids: Array) -> Array:
    """Return the virtual neuron of each new sample: the nearest centroid, (B, C), (K, C) -> (B,).

    The source clusters reference samples only; the rule for new ones is our choice. Of equally
    near centroids the first is taken. Samples that were clustered get their labels.

    >>> route(np.array([[0.8, 0.2], [0.4, 0.6]]), np.array([[1.0, 0.0], [0.0, 1.0]]))
    array([0, 1])
    """
    points = _points(rho, "route: rho", "(B, C)")
    centroids = _points(centroids, "route: centroids", "(K, C)")
    channels = (len(centroids), points.shape[1])
    checks.shaped(centroids, "route: centroids", channels, "with the channels of rho (axis 1)")
    return _squared_distances(points, centroids).argmin(axis=1)


# ---- what the clusters were good for -----------------------------------------------------------


class Distances(NamedTuple):
    """Mean distances between samples; nan where there is no such pair."""

    intra: float  # over all pairs within a cluster
    inter: float  # over all pairs of different clusters


def cluster_distances(embeddings: Array, labels: Array) -> Distances:
    """Return how far apart samples of one cluster, and of different ones, are for another encoder.

    Distances are Euclidean, and each pair of samples counts the same. Virtual neurons with a
    meaning each have intra below inter; for labels at random both are the mean over all pairs.
    Published. Time grows with B², since no sum over samples holds their distances; memory with B.

    embeddings: (B, D), of an encoder that is independent of the network.   labels: (B,).

    >>> cluster_distances(np.array([[0.0], [1.0], [4.0]]), np.array([0, 0, 1]))
    Distances(intra=1.0, inter=3.5)
    """
    points = _points(embeddings, "cluster_distances: embeddings", "(B, D)")
    labels = checks.labels(labels, "cluster_distances: labels", count=len(points), kinds="iub")
    xp = array_module(points, labels)
    within, across = sums.Sum(), sums.Sum()
    for i, distances in _to_later(points, "cluster_distances: embeddings"):
        same = labels[i + 1 :] == labels[i]
        within.add((distances * same).sum())
        across.add((distances * ~same).sum())
    sizes = xp.unique(labels, return_counts=True)[1].tolist()
    pairs = sum(n * (n - 1) // 2 for n in sizes)
    others = len(labels) * (len(labels) - 1) // 2 - pairs
    return Distances(*(
        float(part.total(xp.zeros(()))) / n if n else np.nan
        for part, n in [(within, pairs), (across, others)]
    ))


def alignment(rho: Array, embeddings: Array) -> float:
    """Return how far inputs with like circuits look alike: Pearson's r of pairwise distances.

    Over all pairs of samples the Euclidean distance of their rho (B, C) is set against that of
    their embeddings (B, D), for three samples or more. nan if all distances of either are equal.
    Published. Time grows with B², memory with B: means and products are merged part by part.

    >>> alignment(np.array([[0.0], [1.0], [4.0]]), np.array([[0.0, 0.0], [0.0, 2.0], [0.0, 8.0]]))
    1.0
    """
    a = _points(rho, "alignment: rho", "(B, C)")
    b = _points(embeddings, "alignment: embeddings", "(B, D)")
    checks.shaped(b, "alignment: embeddings", (len(a), b.shape[1]), "a row for each row of rho")
    xp = array_module(a, b)
    size_a, size_b = _rough_size(a), _rough_size(b)
    extremes, means, counts, within = [], [], [], sums.Sum()
    of_a, of_b = _to_later(a, "alignment: rho", least=3), _to_later(b, "alignment: embeddings")
    for p, q in zip(_several(of_a), _several(of_b), strict=True):
        d = xp.stack([p * size_a, q * size_b])  # (2, pairs)
        extremes.append(xp.stack([d.min(axis=1), d.max(axis=1)]))
        means.append(d.mean(axis=1))
        counts.append(d.shape[1])
        d -= means[-1][:, None]
        within.add(sums.product(d, d.T))
    least, most = xp.stack(extremes)[:, 0].min(axis=0), xp.stack(extremes)[:, 1].max(axis=0)
    if (least == most).any():
        return np.nan
    count, mean = xp.asarray(counts, np.float64)[:, None], xp.stack(means)  # (parts, 1), (parts, 2)
    between = mean - (count * mean).sum(axis=0) / sum(counts)
    products = within.total(between.T @ (count * between))  # (2, 2): of a and a, a and b, b and b
    return float(products[0, 1] / xp.sqrt(products[0, 0] * products[1, 1]))


def cluster_purity(labels: Array, truth: Array) -> float:
    """Return the share of samples whose true class is the most frequent of their cluster, 0..1.

    Where clusters and classes are two each, equally frequent and unrelated, it is a little above ½.

    >>> cluster_purity(np.array([0, 0, 0, 1]), np.array([7, 7, 8, 8]))
    0.75
    """
    labels = checks.labels(labels, "cluster_purity: labels", kinds="iub")
    checks.shaped(labels, "cluster_purity: labels", (labels.size,), "one for each sample")
    truth = checks.labels(truth, "cluster_purity: truth", count=len(labels), kinds="iub")
    xp = array_module(labels, truth)
    most = [
        int(xp.unique(truth[labels == label], return_counts=True)[1].max())
        for label in xp.unique(labels).tolist()
    ]
    return sum(most) / len(labels)


# ---- distances ---------------------------------------------------------------------------------


def _points(x: Array, name: str, axes: str) -> Array:
    """A matrix whose squared distances float64 can hold."""
    x = checks.matrix(x, name, axes)
    checks.everywhere(x, abs(x) <= 1e145, name, "numbers that are not too large to be squared")
    return x


def _squared_distances(points: Array, centroids: Array) -> Array:
    """(B, C) and (K, C) -> (B, K). By differences: |p|² - 2 pc + |c|² would lose digits."""
    columns = [((points - centroid) ** 2).sum(axis=1) for centroid in centroids]
    return array_module(points).stack(columns, axis=1)


def _to_later(points: Array, name: str, least: int = 2) -> Iterator[tuple[int, Array]]:
    """Yield each row's number and its distances to all later rows: memory for B of them will do."""
    checks.layout(points, name, f"{least} samples at least", len(points) >= least)
    for i in range(len(points) - 1):
        squares = ((points[i + 1 :] - points[i]) ** 2).sum(axis=1)
        yield i, array_module(points).sqrt(squares)


def _several(distances: Iterator[tuple[int, Array]]) -> Iterator[Array]:
    """Yield the distances of as many rows at once as are worth a look: `PAIRS`, or a row's."""
    rows, count = [], 0
    for _, row in distances:
        rows.append(row)
        count += len(row)
        if count >= PAIRS:
            yield array_module(row).concatenate(rows)
            rows, count = [], 0
    if rows:
        yield array_module(*rows).concatenate(rows)


def _rough_size(points: Array) -> float:
    """Return the power of two that brings all distances below 2, if it is multiplied with them."""
    farthest = float(_squared_distances(points, points[:1]).max())  # a half at least of the largest
    return 2.0 ** -math.frexp(math.sqrt(farthest))[1]
