"""Are a batch and the moments sound? What is refused, and how it is said.

Bad activations are not searched for: nan, infinity and numbers too large to square make the m2 of
their neuron not finite, so one look at m2 tells, and only then is the culprit looked for.

On a GPU even that look would wait for the device. So there nothing is refused at once: a bad batch
makes mean or m2 of its neuron nan or infinite, for good, and `Moments.check`, called whenever a
state is read or saved, says so.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np

from minimono import checks
from minimono.backend import Array, array_module

FEW = 10  # samples: of fewer, φ says little (our choice)


class Summary(Protocol):
    """What is asked of `Moments` here."""

    @property
    def count(self) -> int: ...
    @property
    def mean(self) -> Array: ...
    @property
    def m2(self) -> Array: ...


def is_known_bad(values: Array) -> bool:
    """Whether values that are not negative are nan or infinite somewhere; a GPU is not asked."""
    is_numpy = isinstance(values, np.ndarray | np.generic)
    return is_numpy and not values.max() < np.inf  # nor is nan


def check_batch(z: Array, m2: Array) -> None:
    """Raise if the batch `z` held nan, infinity, or numbers too large to square."""
    if not is_known_bad(m2):
        return
    check_finite(z, "activations")
    neuron = np.unravel_index(int(np.isfinite(m2).argmin()), m2.shape)
    raise ValueError(
        f"activations: neuron {_written(neuron)} is too large: the sum of its values or of "
        "their squared deviations overflows float64 (squares do above about 1e154); "
        "scale the activations down"
    )


def check_finite(z: Array, name: str = "activations") -> None:
    """Raise for the first nan or infinity in `z`, by sample and neuron. On a GPU this waits."""
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(z.sum(dtype=np.float64)):  # much faster than to look at each
            return
    finite = np.isfinite(z)
    if not finite.all():
        sample, *neuron = index = np.unravel_index(int(finite.argmin()), z.shape)
        raise ValueError(
            f"{name}: neuron {_written(neuron)} of sample {sample} is {float(z[index])}, expected "
            "finite numbers: find the layer that made it, or leave the sample out"
        )


def check_made(count: int, mean: Array, m2: Array) -> None:
    """Raise if moments that were worked out here overflowed, in count or in m2."""
    if count >= 2**1024:
        checked_count(count)
    if count > 0 and is_known_bad(m2):
        check_moments(count, mean, m2)


def check_moments(count: int, mean: Array, m2: Array) -> None:
    """Raise, naming a neuron, if a mean or m2 is not one: nan, infinite, negative."""
    if mean.shape != m2.shape:
        raise ValueError(
            f"Moments: mean has shape {mean.shape} and m2 has {m2.shape}, expected one entry per "
            "neuron in both"
        )
    if count == 0:
        if not (np.isnan(mean) & (m2 == 0)).all():
            raise ValueError("Moments: count is 0, expected a mean of nan and m2 of 0 everywhere")
        return
    check_entries(mean, np.isfinite(mean), "Moments: mean must be finite")
    check_entries(
        m2, (m2 >= 0) & (m2 < np.inf),
        "Moments: m2 must be finite and not negative (squares of deviations above about 1e154 "
        "overflow float64)",
    )


def checked_count(count: int) -> int:
    """The count, if it is a whole number that float64 reaches: shares are made from it."""
    count = checks.whole_number(count, "Moments: count", least=0)
    try:
        float(count)
    except OverflowError:
        digits = math.floor(math.log10(count)) + 1  # str() refuses thousands of them
        raise ValueError(
            f"Moments: count has {digits} digits, expected a number that float64 reaches, "
            "below 1.8e308"
        ) from None
    return count


def resized_count(count: int, old: int) -> int:
    """The count to weigh moments of `old` samples as, which must have a variance to keep."""
    count = checks.whole_number(count, "Moments.resized: count", least=1)
    if count != old and old < 2:
        raise ValueError(
            f"Moments.resized: {old} sample(s) have no variance to keep; two are needed at least"
        )
    return count


def statistics(
    z: Array, mean: Array, variance: Array, name: str
) -> tuple[Array, Array, Array]:
    """Activations (B, *neurons) and their neurons' mean and variance, as float64, if they fit."""
    z = checks.activations(z, f"{name}: z")
    mean = checks.per_neuron(mean, f"{name}: mean", z)
    variance = checks.per_neuron(variance, f"{name}: variance", z)
    array_module(z, mean, variance)  # names the devices if they differ
    check_entries(mean, ~np.isinf(mean), f"{name}: mean must not be infinite")
    sound = ~(variance < 0) & ~np.isinf(variance)
    check_entries(variance, sound, f"{name}: variance must be finite and not negative")
    return z, mean, variance


def check_denominator(denominator: Array) -> None:
    """Raise if variance + compensation · mean(variance) overflowed."""
    if is_known_bad(denominator):
        check_entries(
            denominator, ~np.isinf(denominator),
            "variance + compensation · mean(variance) overflows float64; scale z down",
        )


def check_history(z: Array, moments: Summary, name: str) -> None:
    """Raise unless the moments are of the neurons of z."""
    if moments.mean.shape != z.shape[1:]:
        raise ValueError(
            f"{name}: moments are of neurons of shape {moments.mean.shape}, z has {z.shape[1:]}"
        )


def check_first(z: Array, name: str) -> None:
    """Raise if z cannot be the first batch of a stream."""
    if len(z) < 2:
        raise ValueError(
            f"{name}: the first batch has 1 sample, which has no variance; start with a batch of "
            "at least two"
        )


def check_next(z: Array, moments: Summary, name: str) -> None:
    """Raise if z, in a stream, does not have the neurons of the batches before it."""
    neurons = tuple(moments.mean.shape)
    if neurons == z.shape[1:]:
        return
    advice = f"use one {name} for each layer"
    if z.ndim > 2 and len(neurons) == z.ndim - 1:
        advice += (
            ". In a sequence a neuron is a (position, channel), in an image a (channel, y, x): "
            "pad or cut all batches to one size, or let every position be a sample of its "
            "channel, z.reshape(-1, channels)"
        )
    raise ValueError(
        f"{name}: batch has neurons of shape {tuple(z.shape[1:])}, earlier batches had {neurons}; "
        + advice
    )


def check_distances(penalty: Array, z: Array, mask: Array, mean: Array) -> None:
    """Raise if a penalty is not finite because a selected z is at its mean, or either is not."""
    if not isinstance(penalty, np.ndarray) or np.isfinite(penalty):
        return
    with np.errstate(over="ignore", invalid="ignore"):
        distance = z - mean
        bad = mask & ~(np.isfinite(distance) & (distance != 0))
    if bad.any():
        at = np.unravel_index(int(bad.argmax()), z.shape)
        raise ValueError(
            f"log_distance_penalty: z - mean is {distance[at]} at the selected place "
            f"{[int(i) for i in at]}, expected a finite number that is not 0"
        )


def check_same_layer(moments: Summary, other: Summary) -> None:
    """Raise unless both are of neurons of one shape, and on one device if both have samples."""
    if moments.mean.shape != other.mean.shape:
        raise ValueError(
            f"Moments: one has neurons of shape {moments.mean.shape}, the other of shape "
            f"{other.mean.shape}; only moments of the same layer can be merged"
        )
    if moments.count and other.count:
        array_module(moments.mean, other.mean)  # names both devices if they differ


def check_entries(values: Array, good: Array, message: str) -> None:
    """Raise `message` with the first neuron whose entry is not good."""
    if not good.all():
        index = np.unravel_index(int(good.argmin()), values.shape)
        raise ValueError(f"{message}: neuron {_written(index)} has {float(values[index])}")


def few_samples(count: int, shape: tuple[int, ...]) -> str:
    """What to know where every neuron has few samples; else ""."""
    if not 0 < count < FEW:
        return ""
    few = f"{count} sample{'s' * (count > 1)} of each neuron are few"
    if len(shape) < 2:
        return few
    return (
        f"{few}: a neuron is all but axis 0, here {shape}; for channels alone "
        f"z.reshape(-1, {shape[-1]})"
    )


def _written(index: tuple[np.intp, ...] | list[np.intp]) -> str:
    """A neuron's index as people write it: 3 for a flat layer, (3, 2) for a feature map."""
    numbers = tuple(int(i) for i in index)
    return str(numbers[0]) if len(numbers) == 1 else str(numbers)
