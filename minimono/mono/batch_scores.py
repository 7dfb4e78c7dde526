"""All about the scores of a batch, in one pass over it, without storing them."""

from typing import Any, NamedTuple

import numpy as np

from minimono import checks
from minimono.backend import Array
from minimono.kernels.seam import with_kernel
from minimono.mono import soundness
from minimono.mono.moments import Moments, batch_moments
from minimono.mono.scale import compensated, scale
from minimono.mono.selection import at_least, highest, top


@with_kernel("scale")
def survey(
    z: Array, mean: Array, denominator: Array, *, k: int = 0, threshold: float | None = None,
    extremes: bool = False, keep_phi: bool = False, flag: bool = False,
) -> dict[str, Any]:
    """Return, by name, what is asked about a batch (B, *neurons) with φ = scale(...).

    mean, m2: the batch's own moments, (*neurons).   phi: φ, if `keep_phi`.
    low, high: each neuron's least and greatest activation, if `extremes`.
    counts: how many φ of each neuron are at least `threshold`, if there is one.
    top, top_index: each sample's k highest φ, highest first, and their places, (B, k), if k > 0.
    flags: if `flag`, the activations whose φ is at least `threshold`, or among the k highest of
    their sample, with all that equal the k-th; booleans (B, *neurons).
    """
    z = checks.activations(z)
    phi = scale(z, mean, denominator)
    found: dict[str, Any] = dict(zip(("mean", "m2"), batch_moments(z), strict=True))
    if extremes:
        found |= {"low": z.min(axis=0), "high": z.max(axis=0)}
    if k:
        found |= dict(zip(("top", "top_index"), highest(phi, k), strict=True))
    if flag and k:
        found["flags"] = top(phi, phi[0].size, k)
    if threshold is not None:
        above = at_least(phi, threshold)
        found |= {"counts": above.sum(axis=0)} | ({"flags": above} if flag else {})
    return found | ({"phi": phi} if keep_phi else {})


class BatchScores(NamedTuple):
    """What `score_batch` finds in a batch (B, *neurons) with scores φ."""

    maximum: Array  # each neuron's highest φ, (*neurons), in φ's dtype
    mean: Array  # each neuron's mean φ, (*neurons), float64
    count_above: Array | None  # how many φ >= threshold each neuron has, (*neurons)
    top: Array | None  # each sample's k highest φ, highest first, (B, k), in φ's dtype
    top_index: Array | None  # their places among the sample's neurons in C order, (B, k)
    phi: Array | None  # φ itself, (B, *neurons)
    batch: Moments  # of this batch alone: `moments.merge(scores.batch)` brings the history up to it


def score_batch(
    z: Array, moments: Moments, *, compensation: float = 0.0, top_k: int = 0,
    threshold: float | None = None, keep_phi: bool = False,
) -> BatchScores:
    """Score a batch against the history, reduce the scores and take the batch's moments.

    The scores are those of `monosemantic_scale(z, moments.mean, moments.variance())`. On the CPU
    all is found in one pass over z, on a GPU in one, or two for `top_k`, and φ is stored only if
    `keep_phi`: batch after batch, any number of values is scored in the memory of one.

        scores = score_batch(z, history, top_k=10)
        history = history.merge(scores.batch)

    z: (B, *neurons).   top_k: 0 for none.   threshold: None for no count.

    A neuron whose φ is undefined has maximum and mean nan, and is in no count and no top. Of equal
    scores the first comes first; where a sample has fewer than `top_k` scores, the rest of its top
    is nan and of its index -1. `mean` is of φ before it is rounded to its dtype.

    A GPU is not waited for: there bad activations come out as nan or infinity (see `soundness`).

    >>> import numpy as np
    >>> history = Moments.of(np.array([[0.0, 4.0], [2.0, 8.0]]))       # means 1, 6; variances 2, 8
    >>> scores = score_batch(np.array([[3.0, 2.0], [1.0, 18.0]]), history, top_k=1, threshold=2)
    >>> scores.maximum, scores.mean, scores.count_above
    (array([ 2., 18.]), array([ 1., 10.]), array([1, 2]))
    >>> scores.top.ravel(), scores.top_index.ravel()
    (array([ 2., 18.]), array([0, 1]))
    """
    z = checks.batch(z, "score_batch: z")
    soundness.check_history(z, moments, "score_batch")
    most = int(z.size) // len(z)
    checks.whole_number(
        top_k, "score_batch: top_k", least=0, most=most, of="the scores of a sample"
    )
    if threshold is not None:
        threshold = checks.number(threshold, "score_batch: threshold", finite=False)
    compensation = checks.number(compensation, "score_batch: compensation", least=0.0)
    history = moments.beside(z)
    mean, denominator = history.mean, compensated(history.variance(), compensation)
    found = survey(
        z, mean, denominator, k=top_k, threshold=threshold, extremes=True, keep_phi=keep_phi
    )
    # φ grows with the distance from the mean, so a neuron's highest is at one of its extremes.
    ends = np.stack([found["low"], found["high"]])  # (2, *neurons)
    batch = Moments.of_batch(z, found["mean"], found["m2"])
    return BatchScores(
        maximum=scale(ends, mean, denominator).max(axis=0),
        mean=_mean_scale(batch, mean, denominator),
        count_above=found.get("counts"),
        top=found.get("top"),
        top_index=found.get("top_index"),
        phi=found.get("phi"),
        batch=batch,
    )


@np.errstate(over="ignore", under="ignore", invalid="ignore")
def _mean_scale(batch: Moments, mean: Array, denominator: Array) -> Array:
    """The mean φ of each neuron: Σ (z - mean)² is m2 + B (mean of the batch - mean)²."""
    shift = batch.mean - mean
    return batch.variance(ddof=0) / denominator + shift / denominator * shift
