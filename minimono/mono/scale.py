"""How monosemantic a neuron's activation is: its squared distance from the mean, in variances.

`monosemantic_scale` is the formula. `ScaleTracker` keeps the running moments it needs while a
network trains.
"""

import math
from collections.abc import Mapping
from typing import Literal, TypeAlias

import numpy as np

from minimono.backend import Array, array_module, as_array, device_of, to_host
from minimono.checks import real_number, whole_number
from minimono.mono.moments import (
    Moments,
    as_activations,
    check_entries,
    check_finite,
    kernels_for,
)

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
    check_finite(z, "monosemantic_scale: z")
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
    return _scale(z, mean, _denominator(variance, compensation))


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
        self.batches_seen = 0
        self._moments: Moments | None = None

    @property
    def count(self) -> int:
        """How many samples the moments stand for; 0 before the first batch."""
        return 0 if self._moments is None else self._moments.count

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
        old = None if self._moments is None else self._moments.to(device_of(z))
        if old is None:
            if z.shape[0] < 2:
                raise ValueError(
                    "ScaleTracker: the first batch has 1 sample, which has no variance; start "
                    "with a batch of at least two"
                )
            moments = Moments.of(z)
            phi = array_module(z).full_like(z, np.nan)
        elif old.mean.shape != z.shape[1:]:
            raise ValueError(
                f"ScaleTracker: batch has neurons of shape {z.shape[1:]}, earlier batches had "
                f"{old.mean.shape}; use one tracker per layer"
            )
        elif self.convention == "paper":
            this = Moments.of(z)
            phi = self._scale(z, old)
            if self.forget_after is not None and self.batches_seen >= self.forget_after:
                old = old.resized(self.forget_after * this.count)
            moments = old.merge(this)
        else:
            assert self.forget_after is not None  # the constructor saw to it
            this = Moments.of(z)
            past = min(self.batches_seen + 1, self.forget_after)
            moments = old.resized(past * this.count).merge(this)
            phi = self._scale(z, moments)
        self._moments = moments
        self.batches_seen += 1
        return phi

    def state_dict(self) -> dict[str, Array]:
        """The state as NumPy arrays by name: enough to go on bit for bit, also before any batch.

        The settings are not in it; load it into a tracker made with the same ones.

        >>> ScaleTracker().state_dict()["count"]
        array(0)
        """
        nothing = np.empty(0)
        moments = self._moments
        return {
            "batches_seen": np.array(self.batches_seen),
            "count": np.array(self.count),
            "mean": nothing if moments is None else to_host(moments.mean).copy(),
            "m2": nothing if moments is None else to_host(moments.m2).copy(),
        }

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Take over a state from `state_dict`. If it raises, the tracker is as before."""
        expected = self.state_dict().keys()
        if state.keys() != expected:
            raise ValueError(
                f"ScaleTracker.load_state_dict: got entries {sorted(state)}, "
                f"expected {sorted(expected)}"
            )
        name = "ScaleTracker.load_state_dict"
        batches_seen, count, mean, m2 = (
            to_host(state[entry]) for entry in ("batches_seen", "count", "mean", "m2")
        )
        batches_seen = whole_number(batches_seen, f"{name}: batches_seen", least=0)
        count = whole_number(count, f"{name}: count", least=0)
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
        self.batches_seen, self._moments = batches_seen, moments

    def _scale(self, z: Array, moments: Moments) -> Array:
        return _scale(z, moments.mean, _denominator(moments.variance(), self.compensation))

    def _seen(self, name: str) -> Moments:
        if self._moments is None:
            raise RuntimeError(f"ScaleTracker.{name}: no batch has been scored yet")
        return self._moments


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
        check_entries(
            denominator,
            ~xp.isinf(denominator),
            "variance + compensation · mean(variance) overflows float64; scale z down",
        )
    return xp.where(denominator >= xp.finfo(xp.float64).tiny, denominator, xp.nan)


def _statistic(values: Array, name: str, z: Array) -> Array:
    """A mean or variance as float64, with the shape of z's neurons."""
    values = as_array(values)
    neurons = z.shape[1:]
    if values.dtype.kind not in "fiub" or values.dtype.itemsize > 8:
        raise TypeError(f"monosemantic_scale: {name} has dtype {values.dtype}, expected float64")
    if values.shape not in (neurons, (1, *neurons)):
        axes = "axis 1" if z.ndim == 2 else f"axes 1 to {z.ndim - 1}"
        have = f"{neurons[0]} neurons" if z.ndim == 2 else f"neurons of shape {neurons}"
        raise ValueError(
            f"monosemantic_scale: {name} has shape {values.shape}, activations have {have} ({axes})"
        )
    return values.reshape(neurons).astype(np.float64, copy=False)


def _compensation(value: float, name: str) -> float:
    number = real_number(value, f"{name}: compensation")
    if not (math.isfinite(number) and number >= 0):
        raise ValueError(f"{name}: compensation is {value}, expected 0 or a positive finite number")
    return number
