"""Running mean and variance of every neuron of a layer, exact to rounding.

Three ideas, each a few lines below:

* **Two passes in a batch** (`Moments.of`). The short formula E[z²] - E[z]² subtracts two large
  numbers and gives negative variances on real data; deviations from the mean do not.
* **An exact merge** (`Moments.merge`). Two summaries give the summary of all their samples, so
  batches, shards and machines combine without seeing the data again.
* **Forgetting** (`Moments.resized`). The same mean and variance, as if fewer samples had been seen.

Accumulators are float64 whatever comes in.

On a GPU nothing here waits for the device, so bad activations are not refused at once: a batch with
nan or infinity makes mean or m2 of the neuron nan or infinite, for good, and `check` says so.
"""

import math
from dataclasses import dataclass
from types import ModuleType
from typing import Self

import numpy as np

from minimono import describe, kernels
from minimono.backend import Array, array_module, as_array, device_of, is_real, to_device
from minimono.checks import whole_number

FEW = 10  # samples: of fewer, φ says little (our choice)


@dataclass(frozen=True, eq=False)
class Moments:
    """How many samples each neuron has seen, their mean, and their squared deviations from it.

        mean = (1/m) Σ z_j        m2 = Σ (z_j - mean)²        variance = m2 / (m - ddof)

    A value, never changed: `update`, `merge` and `resized` return new ones, and NumPy arrays in it
    are locked. With no samples the mean is nan and m2 is 0. Made from arrays, they are checked.

    A neuron is an element of all axes but the first: in a sequence (B, T, C) a (position, channel),
    which has B samples. Where they are few φ says little: against their own moments two samples
    both have 0.5, whatever they are. `note` says so; z.reshape(-1, C) has B T samples a channel.

    count: the number of samples m, an integer of any size that float64 reaches (up to 1.8e308).
    mean, m2: float64 arrays with one entry per neuron.

    >>> import numpy as np
    >>> batch = np.array([[1.0, 10.0], [2.0, 10.0], [3.0, 40.0]])    # 3 samples of 2 neurons
    >>> moments = Moments.empty((2,)).update(batch)
    >>> moments.count, moments.mean, moments.variance()
    (3, array([ 2., 20.]), array([  1., 300.]))
    """

    count: int
    mean: Array
    m2: Array

    def __repr__(self) -> str:
        return describe.line(self, **({"note": self.note} if self.note else {}))

    @property
    def note(self) -> str:
        """What to know where every neuron has fewer than ten samples; else "".

        >>> import numpy as np
        >>> Moments.of(np.array([1.0, 2.0])).note
        '2 samples of each neuron are few'
        """
        if not 0 < self.count < FEW:
            return ""
        shape = tuple(self.mean.shape)
        few = f"{self.count} sample{'s' * (self.count > 1)} of each neuron are few"
        if len(shape) < 2:
            return few
        return (
            f"{few}: a neuron is all but axis 0, here {shape}; for channels alone "
            f"z.reshape(-1, {shape[-1]})"
        )

    def __post_init__(self) -> None:
        count = whole_number(self.count, "Moments: count", least=0)
        xp = array_module(self.mean, self.m2)
        mean = xp.array(self.mean, dtype=xp.float64)  # a copy: nobody else can change it
        m2 = xp.array(self.m2, dtype=xp.float64)
        if mean.shape != m2.shape:
            raise ValueError(
                f"Moments: mean has shape {mean.shape} and m2 has {m2.shape}; "
                "both need one entry per neuron"
            )
        self._take(count, mean, m2)
        self.check()

    def _take(self, count: int, mean: Array, m2: Array) -> None:
        """Keep these arrays, which are nobody else's."""
        try:
            float(count)  # shares and variances are made from it
        except OverflowError:
            digits = math.floor(math.log10(count)) + 1  # str() refuses thousands of them
            raise ValueError(
                f"Moments: count has {digits} digits, expected a number that float64 reaches, "
                "below 1.8e308"
            ) from None
        if device_of(mean) == "cpu":
            mean.setflags(write=False)
            m2.setflags(write=False)
        object.__setattr__(self, "count", count)
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "m2", m2)

    @classmethod
    def _made(cls, count: int, mean: Array, m2: Array) -> Self:
        """Moments that were worked out here; on the CPU an overflow raises, a GPU is not asked."""
        made = object.__new__(cls)
        made._take(count, mean, m2)
        if device_of(m2) == "cpu" and count > 0 and not m2.max() < np.inf:  # nor is nan
            made.check()
        return made

    def check(self) -> Self:
        """Raise ValueError, naming a neuron, if a mean or m2 is not one: nan, infinite, negative.

        Done wherever moments are read or stored. On a GPU this waits for the device.
        """
        mean, m2 = self.mean, self.m2
        xp = array_module(mean)
        if self.count == 0:
            if not (xp.isnan(mean) & (m2 == 0)).all():
                raise ValueError(
                    "Moments: count is 0, so mean must be nan and m2 must be 0 everywhere"
                )
            return self
        check_entries(mean, xp.isfinite(mean), "Moments: mean must be finite")
        check_entries(
            m2,
            (m2 >= 0) & (m2 < xp.inf),
            "Moments: m2 must be finite and not negative (squares of deviations above about "
            "1e154 overflow float64)",
        )
        return self

    @classmethod
    def empty(cls, shape: tuple[int, ...]) -> Self:
        """No samples yet, of neurons laid out as `shape`. The first batch decides the device."""
        return cls(0, np.full(shape, np.nan), np.zeros(shape))

    @classmethod
    def of(cls, batch: Array) -> Self:
        """The moments of one batch of activations, shape (B, *neurons), in two passes.

        Raises TypeError for anything but real numbers, and ValueError, naming neuron and sample,
        for nan, infinity and numbers too large to square.

        >>> import numpy as np
        >>> Moments.of(np.array([0.1, 0.1, 0.1])).m2        # a constant neuron: exactly zero
        array(0.)
        """
        z = for_kernels(batch)
        return cls._made(z.shape[0], *_batch_moments(z))

    def to(self, device: str) -> Self:
        """The same moments on "cpu" or "cuda"."""
        if device_of(self.mean) == device:
            return self
        mean, m2 = to_device(self.mean, device), to_device(self.m2, device)
        return self._made(self.count, mean, m2)

    def update(self, batch: Array) -> Self:
        """These moments and a batch of shape (B, *neurons), as if all had been one batch.

        The batch's own moments are taken in two passes and merged. Equal to Lemma 3.2 of Wang, Di,
        Chen and Ng (2024), which writes the merge with the batch's biased variance m2 / b.
        """
        return self.merge(type(self).of(batch))

    def merge(self, other: Self) -> Self:
        """The moments of both sets of samples together (Chan, Golub and LeVeque, 1979).

            δ = mean_b - mean_a                mean = mean_a + δ b / (a + b)
            m2 = m2_a + m2_b + δ² a b / (a + b)

        Order and grouping do not matter, up to rounding.

        >>> import numpy as np
        >>> z = np.array([[1.0], [2.0], [6.0]])
        >>> Moments.of(z[:1]).merge(Moments.of(z[1:])).variance(), z.var(axis=0, ddof=1)
        (array([7.]), array([7.]))
        """
        if self.mean.shape != other.mean.shape:
            raise ValueError(
                f"Moments: one has neurons of shape {self.mean.shape}, the other of shape "
                f"{other.mean.shape}; only moments of the same layer can be merged"
            )
        if self.count == 0:
            return other
        if other.count == 0:
            return self
        array_module(self.mean, other.mean)  # names both devices if they differ
        count = self.count + other.count
        # Python's integers do not overflow, and it rounds their quotients once.
        share, weight = other.count / count, self.count * other.count / count
        running = kernels_for(self.mean)
        if running is not None:
            mean, m2 = running.merge(self.mean, self.m2, other.mean, other.m2, share, weight)
        else:
            with np.errstate(over="ignore", invalid="ignore", under="ignore"):
                delta = other.mean - self.mean
                mean = self.mean + delta * share
                m2 = self.m2 + other.m2 + delta * delta * weight
        return self._made(count, mean, m2)

    def variance(self, ddof: int = 1) -> Array:
        """m2 / (count - ddof) per neuron; nan where count - ddof is not positive.

        ddof=1 (the default, and the paper's) is the unbiased variance, ddof=0 the biased one. Below
        2.2e-308 float64 runs out of digits: there the last of them, 5e-324, is in doubt.

        >>> import numpy as np
        >>> Moments.of(np.array([[1.0], [3.0]])).variance(ddof=0)
        array([1.])
        """
        ddof = whole_number(ddof, "Moments.variance: ddof", least=0)
        if self.count <= ddof:
            return array_module(self.m2).full(self.m2.shape, np.nan)
        return self.m2 / float(self.count - ddof)  # NumPy knows no integers above 2^64

    def resized(self, count: int) -> Self:
        """The same mean and variance (ddof=1), as if `count` samples had been seen.

        This is all that forgetting needs: weigh the past as `count` samples, then merge the new
        batch of b. With count = b n_f it is Algorithm 1 of Wang, Di, Chen and Ng (2024, App. C.1)
        once n_f batches were seen; with count = c b, c = min(n, U), it is the update in the
        authors' code.

        >>> import numpy as np
        >>> past = Moments.of(np.array([[1.0], [2.0], [3.0]])).resized(30)
        >>> past.count, past.mean, past.variance()
        (30, array([2.]), array([1.]))
        """
        count = whole_number(count, "Moments.resized: count", least=1)
        if count == self.count:
            return self
        if self.count < 2:
            raise ValueError(
                f"Moments.resized: {self.count} sample(s) have no variance to keep; "
                "two are needed at least"
            )
        with np.errstate(over="ignore", under="ignore"):
            m2 = self.m2 * ((count - 1) / (self.count - 1))
        return self._made(count, self.mean, m2)


def as_activations(z: Array, name: str = "activations") -> Array:
    """Check that `z` can be activations of shape (B, *neurons); float32 and float64 stay as they
    are, float16, integers and bools become float64. Does not look at the values.
    """
    z = check_activations(z, name)
    xp = array_module(z)
    return z if z.dtype in (xp.float32, xp.float64) else z.astype(xp.float64)


def for_kernels(z: Array, name: str = "activations") -> Array:
    """`as_activations`, but for a kernel on the CPU, which converts block by block, as it is."""
    z = check_activations(z, name)
    return z if kernels.enabled() and device_of(z) == "cpu" else as_activations(z, name)


def check_activations(z: Array, name: str) -> Array:
    """Raise if `z` cannot be activations of shape (B, *neurons)."""
    if isinstance(z, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array; select the unmasked samples first")
    z = as_array(z)
    if not is_real(z.dtype):
        raise TypeError(
            f"{name} has dtype {z.dtype}, expected real numbers (float16, float32, float64, "
            "integers or bools)"
        )
    if z.ndim == 0:
        raise ValueError(f"{name} is a single number, expected shape (B, *neurons)")
    if z.size == 0:
        raise ValueError(f"{name} has shape {z.shape}, expected a sample and a neuron at least")
    return z


def check_finite(z: Array, name: str = "activations") -> None:
    """Raise for nan and infinity. The sum tells; only if it is not finite are values searched."""
    xp = array_module(z)
    with np.errstate(over="ignore", invalid="ignore"):
        total = z.sum(dtype=xp.float64)
    if not xp.isfinite(total):
        _find_not_finite(z, name)


def kernels_for(z: Array) -> ModuleType | None:
    """The metric kernels, if they may be used and can take `z`."""
    return kernels.of(device_of(z), "scale", by="mono") if kernels.enabled() else None


def _batch_moments(z: Array) -> tuple[Array, Array]:
    """Mean and m2 of a batch. Nothing is scanned for nan or infinity: either makes m2 not finite.

    The rounding of the first sum leaves a rest, which the second pass sees. Taking it out too makes
    m2 exactly zero for a constant neuron, whose phi would else be a large meaningless number.
    """
    running = kernels_for(z)
    if running is not None:
        mean, m2 = running.batch_moments(z)
    else:
        xp = array_module(z)
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            rough_mean = z.mean(axis=0, dtype=xp.float64)
            deviation = z - rough_mean
            rest = deviation.mean(axis=0)
            mean = rough_mean + rest
            m2 = ((deviation - rest) ** 2).sum(axis=0)
    check_batch(z, m2)
    return mean, m2


def check_batch(z: Array, m2: Array) -> None:
    """Raise if the batch `z` held nan, infinity, or numbers too large to square; not on a GPU."""
    if device_of(m2) != "cpu" or m2.max() < np.inf:  # neither is nan
        return
    finite = array_module(m2).isfinite(m2)
    _find_not_finite(z, "activations")
    raise ValueError(
        f"activations: neuron {_first_false(finite)} is too large: the sum of its values or of "
        "their squared deviations overflows float64 (squares do above about 1e154); "
        "scale the activations down"
    )


def _find_not_finite(z: Array, name: str) -> None:
    """Raise for the first nan or infinity in `z`, by sample and neuron."""
    finite = array_module(z).isfinite(z)
    if finite.all():
        return
    sample, *_ = index = np.unravel_index(int(finite.argmin()), z.shape)
    raise ValueError(
        f"{name}: neuron {_written(index[1:])} of sample {sample} is {float(z[index])}; "
        "all values must be finite: find the layer that made it, or leave the sample out"
    )


def check_entries(values: Array, good: Array, message: str) -> None:
    """Raise `message` with the first neuron whose entry is not good."""
    if not good.all():
        index = np.unravel_index(int(good.argmin()), values.shape)
        raise ValueError(f"{message}: neuron {_written(index)} has {float(values[index])}")


def _first_false(good: Array) -> str:
    return _written(np.unravel_index(int(good.argmin()), good.shape))


def _written(index: tuple[np.intp, ...]) -> str:
    """A neuron's index as people write it: 3 for a flat layer, (3, 2) for a feature map."""
    numbers = tuple(int(i) for i in index)
    return str(numbers[0]) if len(numbers) == 1 else str(numbers)
