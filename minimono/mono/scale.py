"""How monosemantic a neuron's activation is: its squared distance from the mean, in variances.

`monosemantic_scale` is the formula. `score_batch` reduces it, and takes the batch's moments, in one
pass over memory. `ScaleTracker` keeps the running moments while a network trains.

On a GPU, `score_batch` and `ScaleTracker.score` do not wait for the device: bad activations are not
refused there but come out as nan or infinity, and for good stay in the moments, whose `check`
(called whenever a state is saved) raises.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from minimono import describe
from minimono.backend import Array, array_module, as_array, device_of, is_real, to_host
from minimono.checks import real_number, whole_number
from minimono.mono.moments import (
    Moments,
    as_activations,
    check_batch,
    check_entries,
    check_finite,
    for_kernels,
    kernels_for,
)
from minimono.mono.selection import select_above, select_top_k

Convention: TypeAlias = Literal["paper", "authors"]


def monosemantic_scale(
    z: Array, mean: Array, variance: Array, *, compensation: float = 0.0
) -> Array:
    """The monosemantic scale of every activation (Wang, Di, Chen and Ng, 2024, Definition 3.1).

        φ = (z - mean)² / (variance + compensation · mean over neurons of variance)

    z: activations, shape (B, *neurons).   mean, variance: of the neurons' history, shape neurons or
    (1, *neurons); as published, the variance is unbiased (ddof=1) and z itself is in neither.
    compensation: ε of the paper's Algorithm 2; the authors' code has 0.01. It needs the variance of
    every neuron: one nan makes the whole layer nan.

    Returns φ, shape (B, *neurons): one score per sample and neuron. float32 in, float32 out; all
    else float64. Computed in float64 and rounded once. nan where it is undefined: no history
    (mean or variance nan), or a denominator of 0 or below 2.2e-308, where float64 runs out of
    digits. inf only where φ is too large for the dtype.

    Raises ValueError for activations that are nan or infinite, a mean or variance that is infinite,
    a negative variance, shapes that do not fit.

    >>> import numpy as np
    >>> z = np.array([[5.0, 1.0], [1.0, 4.0]])
    >>> monosemantic_scale(z, mean=np.array([1.0, 2.0]), variance=np.array([4.0, 0.0]))
    array([[ 4., nan],
           [ 0., nan]])
    """
    z = as_activations(z, "monosemantic_scale: z")
    mean = _statistic(mean, "mean", z)
    variance = _statistic(variance, "variance", z)
    xp = array_module(z, mean, variance)  # names the devices if they differ
    check_entries(mean, ~xp.isinf(mean), "monosemantic_scale: mean must not be infinite")
    check_entries(
        variance,
        ~(variance < 0) & ~xp.isinf(variance),
        "monosemantic_scale: variance must be finite and not negative",
    )
    compensation = _compensation(compensation, "monosemantic_scale")
    denominator = _denominator(variance, compensation)
    running = kernels_for(z)
    if running is None or device_of(z) != "cpu":
        check_finite(z, "monosemantic_scale: z")
        return _scale(z, mean, denominator)
    phi, finite = running.scale_and_check(z, mean, denominator)  # z is read once
    if not finite:
        check_finite(z, "monosemantic_scale: z")
    return phi


class BatchScores(NamedTuple):
    """What `score_batch` finds in a batch (B, *neurons) with scores φ."""

    maximum: Array  # each neuron's highest φ, (*neurons), in φ's dtype
    mean: Array  # each neuron's mean φ, (*neurons), float64
    count_above: Array | None  # how many φ >= threshold each neuron has, (*neurons)
    top: Array | None  # each sample's k highest φ, falling, (B, k), in φ's dtype
    top_index: Array | None  # their places among the sample's neurons in C order, (B, k)
    phi: Array | None  # φ itself, (B, *neurons)
    batch: Moments  # of this batch alone: `moments.merge(scores.batch)` brings the history up to it


def score_batch(
    z: Array,
    moments: Moments,
    *,
    compensation: float = 0.0,
    top_k: int = 0,
    threshold: float | None = None,
    keep_phi: bool = False,
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

    >>> import numpy as np
    >>> history = Moments.of(np.array([[0.0, 4.0], [2.0, 8.0]]))       # means 1, 6; variances 2, 8
    >>> scores = score_batch(np.array([[3.0, 2.0], [1.0, 18.0]]), history, top_k=1, threshold=2)
    >>> scores.maximum, scores.mean, scores.count_above
    (array([ 2., 18.]), array([ 1., 10.]), array([1, 2]))
    >>> scores.top.ravel(), scores.top_index.ravel()
    (array([ 2., 18.]), array([0, 1]))
    """
    z = for_kernels(z, "score_batch: z")
    if moments.mean.shape != z.shape[1:]:
        raise ValueError(
            f"score_batch: moments are of neurons of shape {moments.mean.shape}, z has "
            f"{z.shape[1:]}"
        )
    neurons = int(z.size) // len(z)
    k = whole_number(top_k, "score_batch: top_k", least=0)
    if k > neurons:
        raise ValueError(f"score_batch: top_k is {k}, but a sample has only {neurons} scores")
    tau = None if threshold is None else _threshold(threshold, "score_batch")
    history = moments.to(device_of(z))
    compensation = _compensation(compensation, "score_batch")
    denominator = _denominator(history.variance(), compensation)
    running = kernels_for(z)
    if running is None:
        return _score_batch(z, history.mean, denominator, k, tau, keep_phi)
    found = running.score(
        z, history.mean, denominator, k=k, threshold=math.nan if tau is None else tau,
        extremes=True, keep_phi=keep_phi,
    )  # fmt: skip
    check_batch(z, found["m2"])
    batch = Moments._made(len(z), found["mean"], found["m2"])
    # φ grows with the distance from the mean, so a neuron's highest is at one of its extremes.
    ends = array_module(z).stack([found["low"], found["high"]])
    return BatchScores(
        maximum=_scale(ends, history.mean, denominator).max(axis=0),
        mean=_mean_scale(batch, history.mean, denominator),
        count_above=None if tau is None else found["counts"],
        top=found.get("top"),
        top_index=found.get("top_index"),
        phi=found["phi"],
        batch=batch,
    )


def _score_batch(
    z: Array, mean: Array, denominator: Array, k: int, threshold: float | None, keep_phi: bool
) -> BatchScores:
    """The reading version of `score_batch`."""
    xp = array_module(z)
    phi = _scale(z, mean, denominator)
    batch = Moments.of(z)
    top = index = None
    if k:
        flat = phi.reshape(len(z), -1)  # (B, n)
        falling = xp.argsort(-flat, axis=1, kind="stable")[:, :k]  # nan last
        top = xp.take_along_axis(flat, falling, axis=1)
        index = xp.where(xp.isnan(top), -1, falling)
    above = None
    if threshold is not None:
        above = (phi >= xp.asarray(threshold, dtype=xp.float64)).sum(axis=0)
    return BatchScores(
        maximum=phi.max(axis=0),
        mean=_mean_scale(batch, mean, denominator),
        count_above=above,
        top=top,
        top_index=index,
        phi=phi if keep_phi else None,
        batch=batch,
    )


def _mean_scale(batch: Moments, mean: Array, denominator: Array) -> Array:
    """The mean φ of each neuron: Σ (z - mean)² is m2 + B (mean of the batch - mean)²."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        shift = batch.mean - mean
        return batch.variance(ddof=0) / denominator + shift / denominator * shift


class ScaleTracker:
    """Scores batch after batch against the neurons' running mean and variance.

    convention="paper" (published, Algorithm 1): score the batch with the moments of the batches
    before it, then merge it in. Once `forget_after` batches were seen, the past weighs as
    `forget_after` batches of the current size; None never forgets.

    convention="authors" (the authors' released code): merge the batch in first, then score it with
    the moments that contain it. The past always weighs as min(n, forget_after) batches of the
    current size, where n counts the current batch too; so the first batch counts twice, and
    without compensation φ cannot exceed (M - 1)² / M, M = b (forget_after + 1). Their state is
    float32; ours is float64 in both conventions.

    The first call has nothing to score against and returns nan everywhere. `mean` and `variance`
    (ddof=1) are the current moments, shape neurons.

    >>> import numpy as np
    >>> tracker = ScaleTracker()
    >>> tracker.score(np.array([[1.0], [3.0]]))             # mean 2, variance 2 from now on
    array([[nan],
           [nan]])
    >>> tracker.score(np.array([[6.0]]))                    # (6 - 2)² / 2
    array([[8.]])
    >>> tracker.batches_seen, tracker.count
    (2, 3)
    """

    def __init__(
        self,
        *,
        convention: Convention = "paper",
        forget_after: int | None = 10,
        compensation: float = 0.0,
    ) -> None:
        if convention not in ("paper", "authors"):
            raise ValueError(
                f'ScaleTracker: convention is {convention!r}, expected "paper" or "authors"'
            )
        if forget_after is None and convention == "authors":
            raise ValueError(
                "ScaleTracker: forget_after=None (never forget) is only for convention "
                '"paper"; the authors\' code always forgets'
            )
        if forget_after is not None:
            forget_after = whole_number(forget_after, "ScaleTracker: forget_after", least=1)
        self.convention: Convention = convention
        self.forget_after = forget_after
        self.compensation = _compensation(compensation, "ScaleTracker")
        # Batches seen and their moments: one value, so that no failure can come between the two.
        self._state: tuple[int, Moments | None] = (0, None)

    def __repr__(self) -> str:
        return describe.line(
            self, forget_after=self.forget_after, batches_seen=self.batches_seen
        )

    @property
    def batches_seen(self) -> int:
        """How many batches have been scored."""
        return self._state[0]

    @property
    def count(self) -> int:
        """How many samples the moments stand for; 0 before the first batch."""
        moments = self._state[1]
        return 0 if moments is None else moments.count

    @property
    def moments(self) -> Moments:
        """The running moments."""
        return self._seen("moments")

    @property
    def mean(self) -> Array:
        """The running mean of each neuron, float64."""
        return self._seen("mean").mean

    @property
    def variance(self) -> Array:
        """The running variance of each neuron (ddof=1), float64."""
        return self._seen("variance").variance()

    def score(self, batch: Array) -> Array:
        """φ of a batch of activations, shape (B, *neurons), and the moments updated with it.

        The moments follow the batches' device. If it raises, they are as before.
        """
        z = as_activations(batch)
        phi, moments = self._scored(z, self._past(z))
        self._take(moments)
        return phi

    def _scored(self, z: Array, old: Moments | None) -> tuple[Array, Moments]:
        """φ of a batch, and the moments after it."""
        if old is None:
            return array_module(z).full_like(z, np.nan), Moments.of(z)
        if self.convention == "paper" and kernels_for(z) is not None:
            found, moments = self._pass(z, old, self._denominator(old), keep_phi=True)
            return found["phi"], moments
        this = Moments.of(z)
        moments = self._weighed(old, this.count).merge(this)
        by = old if self.convention == "paper" else moments
        return _scale(z, by.mean, self._denominator(by)), moments

    def _take(self, moments: Moments) -> None:
        """These are the moments now, a batch later: the last line of every call that has one."""
        self._state = (self.batches_seen + 1, moments)

    def flag_top_k(self, batch: Array, k: int, *, constant: bool = True) -> Array:
        """`select_top_k` of the batch's φ, ties included, and the moments updated with the batch.

        As `score`, but φ itself is not stored, so on the CPU the published convention takes one
        pass. constant=False passes over neurons whose moments have variance 0.
        """
        z = as_activations(batch)
        k = whole_number(k, "ScaleTracker.flag_top_k: k", least=1)
        if k > z[0].size:
            raise ValueError(
                f"ScaleTracker.flag_top_k: k is {k}, but a sample has only {z[0].size} neurons "
                f"(activations have shape {z.shape})"
            )
        old = self._past(z)
        flags: Array
        if old is None or self.convention == "authors" or kernels_for(z) is None:
            phi, moments = self._scored(z, old)
            scored_by = moments if self.convention == "authors" else old
            if not constant and scored_by is not None:
                phi = array_module(phi).where(scored_by.m2 > 0.0, phi, np.nan)
            flags = select_top_k(phi, k)
        else:
            denominator = self._denominator(old)
            if not constant and (device_of(z) != "cpu" or old.m2.min() == 0.0):
                denominator = array_module(z).where(old.m2 > 0.0, denominator, np.nan)
            found, moments = self._pass(z, old, denominator, k=k, flag=True)
            flags = found["flags"]
        self._take(moments)
        return flags

    def flag_above(self, batch: Array, threshold: float) -> tuple[Array, int]:
        """`select_above` of the batch's φ, how many are flagged, and the moments updated with it.

        As `flag_top_k`: on the CPU the published convention takes one pass and stores no φ.

        >>> import numpy as np
        >>> tracker = ScaleTracker()
        >>> _ = tracker.score(np.array([[1.0], [3.0]]))         # mean 2, variance 2
        >>> tracker.flag_above(np.array([[6.0], [2.0]]), 8.0)
        (array([[ True],
               [False]]), 1)
        """
        z = as_activations(batch)
        tau = _threshold(threshold, "ScaleTracker.flag_above")
        old = self._past(z)
        one_pass = device_of(z) == "cpu" and kernels_for(z) is not None
        if old is None or self.convention == "authors" or not one_pass:
            phi, moments = self._scored(z, old)
            flags = select_above(phi, tau)
            count = int(flags.sum())
        else:
            found, moments = self._pass(
                z, old, self._denominator(old), threshold=tau, flag=True
            )
            flags, count = found["flags"], int(found["counts"].sum())
        self._take(moments)
        return flags, count

    def _pass(
        self, z: Array, old: Moments, denominator: Array, **asked: Any
    ) -> tuple[dict[str, Array], Moments]:
        """What a kernel finds in a batch that it scores by `old`, and `old` with the batch."""
        running = kernels_for(z)
        assert running is not None  # the callers saw to it
        found: dict[str, Array] = running.score(z, old.mean, denominator, **asked)
        check_batch(z, found["m2"])
        this = Moments._made(len(z), found["mean"], found["m2"])
        return found, self._weighed(old, this.count).merge(this)

    def check(self, z: Array, name: str = "ScaleTracker") -> None:
        """Raise, in the name of who asks, if a batch of activations does not follow the others."""
        moments = self._state[1]
        if moments is None:
            if z.shape[0] < 2:
                raise ValueError(
                    f"{name}: the first batch has 1 sample, which has no variance; start with a "
                    "batch of at least two"
                )
            return
        if moments.mean.shape == z.shape[1:]:
            return
        advice = f"use one {name} for each layer"
        if z.ndim > 2 and moments.mean.ndim == z.ndim - 1:
            advice += (
                ". In a sequence a neuron is a (position, channel), in an image a (channel, y, x): "
                "pad or cut all batches to one size, or let every position be a sample of its "
                "channel, z.reshape(-1, channels)"
            )
        raise ValueError(
            f"{name}: batch has neurons of shape {tuple(z.shape[1:])}, earlier batches had "
            f"{tuple(moments.mean.shape)}; {advice}"
        )

    def _past(self, z: Array) -> Moments | None:
        """The moments before this batch, on its device, if the two fit."""
        self.check(z)
        moments = self._state[1]
        return None if moments is None else moments.to(device_of(z))

    def _weighed(self, old: Moments, samples: int) -> Moments:
        """The past with the weight it has beside a batch of so many samples."""
        if self.convention == "authors":
            assert self.forget_after is not None  # the constructor saw to it
            return old.resized(min(self.batches_seen + 1, self.forget_after) * samples)
        if self.forget_after is not None and self.batches_seen >= self.forget_after:
            return old.resized(self.forget_after * samples)
        return old

    def state_dict(self) -> dict[str, Array]:
        """The state as NumPy arrays by name: enough to go on bit for bit, also before any batch.

        The settings are not in it; load it into a tracker made with the same ones.

        >>> ScaleTracker().state_dict()["count"]
        array(0)
        """
        nothing = np.empty(0)
        moments = None if self._state[1] is None else self._state[1].check()
        return {
            "batches_seen": _packed(self.batches_seen),
            "count": _packed(self.count),
            "mean": nothing if moments is None else to_host(moments.mean).copy(),
            "m2": nothing if moments is None else to_host(moments.m2).copy(),
        }

    def remember(self) -> Callable[[], None]:
        """A call that puts the state back as it is now; nothing is copied."""
        state = self._state
        return lambda: setattr(self, "_state", state)

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Take over a state from `state_dict`. If it raises, the tracker is as before."""
        expected = self.state_dict().keys()
        if state.keys() != expected:
            raise ValueError(
                f"ScaleTracker.load_state_dict: state has entries {sorted(state)}, "
                f"expected {sorted(expected)}"
            )
        name = "ScaleTracker.load_state_dict"
        batches_seen = _unpacked(state["batches_seen"], f"{name}: batches_seen")
        count = _unpacked(state["count"], f"{name}: count")
        mean, m2 = to_host(state["mean"]), to_host(state["m2"])
        if mean.dtype != np.float64 or m2.dtype != np.float64:
            raise TypeError(
                f"{name}: mean is {mean.dtype} and m2 is {m2.dtype}, expected float64; a state "
                "stored with fewer digits does not go on where it stopped"
            )
        if batches_seen == 0:
            if count or mean.size or m2.size:
                raise ValueError(f"{name}: batches_seen is 0, but the state is not empty")
            moments = None
        else:
            if count < 2:
                raise ValueError(f"{name}: count is {count} after a batch, expected 2 or more")
            moments = Moments(count, mean, m2)
        self._state = (batches_seen, moments)

    def _denominator(self, moments: Moments) -> Array:
        return _denominator(moments.variance(), self.compensation)

    def _seen(self, name: str) -> Moments:
        moments = self._state[1]
        if moments is None:
            raise RuntimeError(f"ScaleTracker.{name}: no batch has been scored yet")
        return moments


def _scale(z: Array, mean: Array, denominator: Array) -> Array:
    """(z - mean)² / denominator, in z's dtype.

    The square itself is not formed: it could overflow or lose its digits where φ does not.
    """
    running = kernels_for(z)
    if running is not None:
        return running.scale(z, mean, denominator)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        deviation = z - mean
        return (deviation / denominator * deviation).astype(z.dtype, copy=False)


def _denominator(variance: Array, compensation: float) -> Array:
    """variance + compensation · its mean over neurons; nan where φ is undefined."""
    xp = array_module(variance)
    denominator = variance
    if compensation > 0:  # without, one neuron's nan must stay its own
        with np.errstate(over="ignore", under="ignore"):
            denominator = variance + compensation * variance.mean()
        if device_of(variance) == "cpu" and denominator.max() == np.inf:
            check_entries(
                denominator,
                ~xp.isinf(denominator),
                "variance + compensation · mean(variance) overflows float64; scale z down",
            )
    tiny = xp.finfo(xp.float64).tiny
    if device_of(variance) == "cpu" and denominator.min() >= tiny:
        return denominator
    return xp.where(denominator >= tiny, denominator, xp.nan)


def _statistic(values: Array, name: str, z: Array) -> Array:
    """A mean or variance as float64, with the shape of z's neurons."""
    values = as_array(values)
    neurons = z.shape[1:]
    if not is_real(values.dtype):
        raise TypeError(f"monosemantic_scale: {name} has dtype {values.dtype}, expected float64")
    if values.shape not in (neurons, (1, *neurons)):
        axes = "axis 1" if z.ndim == 2 else f"axes 1 to {z.ndim - 1}"
        have = f"{neurons[0]} neurons" if z.ndim == 2 else f"neurons of shape {neurons}"
        raise ValueError(
            f"monosemantic_scale: {name} has shape {values.shape}, activations have {have} ({axes})"
        )
    return values.reshape(neurons).astype(np.float64, copy=False)


def _packed(count: int) -> Array:
    """A count as an array of numbers: an int64, or from 2^63 on its bytes, the lowest first."""
    if count < 2**63:
        return np.array(count, dtype=np.int64)
    return np.frombuffer(count.to_bytes(count.bit_length() // 8 + 1, "little"), np.uint8)


def _unpacked(packed: Array, name: str) -> int:
    """The count that was packed."""
    packed = to_host(packed)
    if packed.dtype == np.uint8 and packed.ndim == 1 and packed.size:
        return int.from_bytes(packed.tobytes(), "little")
    return whole_number(packed, name, least=0)


def _threshold(value: float, name: str) -> float:
    number = real_number(value, f"{name}: threshold")
    if math.isnan(number):
        raise ValueError(f"{name}: threshold is nan, expected a number")
    return number


def _compensation(value: float, name: str) -> float:
    number = real_number(value, f"{name}: compensation")
    if not (math.isfinite(number) and number >= 0):
        raise ValueError(f"{name}: compensation is {value}, expected 0 or a positive finite number")
    return number
