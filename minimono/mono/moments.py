"""Running mean and variance of every neuron of a layer, exact to rounding.

Three ideas, each a few lines below:

* **Two passes in a batch** (`batch_moments`). The short formula E[z²] - E[z]² subtracts two large
  numbers and gives negative variances on real data; deviations from the mean do not.
* **An exact merge** (`merge`). Two summaries give the summary of all their samples, so batches,
  shards and machines combine without seeing the data again.
* **Forgetting** (`Moments.resized`). The same mean and variance, as if fewer samples had been seen.

All sums are float64, whatever comes in. What is refused, and when a GPU is asked, which has to be
waited for, is told in `soundness.py`.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from minimono import checks, describe
from minimono.backend import Array, array_module, beside, to_device
from minimono.kernels.seam import with_kernel
from minimono.mono import soundness


@with_kernel("scale")
def batch_moments(z: Array) -> tuple[Array, Array]:
    """Return each neuron's mean and m2 = Σ (z - mean)² over a batch (B, *neurons).

    The first sum is rounded, so the rough mean is a little off. The mean of the deviations says by
    how much. Without that residual m2 is exactly zero for a constant neuron, whose φ would else be
    a large meaningless number.
    """
    rough_mean = z.mean(axis=0, dtype=np.float64)
    deviation = z - rough_mean
    residual = deviation.mean(axis=0)
    return rough_mean + residual, ((deviation - residual) ** 2).sum(axis=0)


@with_kernel("moments")
def merge(
    mean_a: Array, m2_a: Array, mean_b: Array, m2_b: Array, share: float, weight: float
) -> tuple[Array, Array]:
    """Return mean and m2 of a and b samples together; share is b / (a + b), weight a b / (a + b).

    δ = mean_b - mean_a        mean = mean_a + δ share        m2 = m2_a + m2_b + δ² weight
    """
    delta = mean_b - mean_a
    return mean_a + delta * share, m2_a + m2_b + delta * delta * weight


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

    def __post_init__(self) -> None:
        xp = array_module(self.mean, self.m2)
        # Copies: nobody else can change them.
        mean, m2 = (xp.array(a, dtype=np.float64) for a in (self.mean, self.m2))
        self._take(soundness.checked_count(self.count), mean, m2)
        self.check()

    @classmethod
    def made(cls, count: int, mean: Array, m2: Array) -> Self:
        """Return moments that were worked out here: their arrays are nobody else's, not copied."""
        soundness.check_made(count, mean, m2)
        return cls._new(count, mean, m2)

    @classmethod
    def _new(cls, count: int, mean: Array, m2: Array) -> Self:
        moments = object.__new__(cls)
        moments._take(count, mean, m2)
        return moments

    def _take(self, count: int, mean: Array, m2: Array) -> None:
        for array in (mean, m2):
            if hasattr(array, "setflags"):  # CuPy's have no lock
                array.setflags(write=False)
        for name, value in (("count", count), ("mean", mean), ("m2", m2)):
            object.__setattr__(self, name, value)

    def check(self) -> Self:
        """Raise ValueError, naming a neuron, if a mean or m2 is not one: nan, infinite, negative.

        Done wherever moments are read or stored. On a GPU this waits for the device.
        """
        soundness.check_moments(self.count, self.mean, self.m2)
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
        z = checks.batch(batch)
        return cls.of_batch(z, *batch_moments(z))

    @classmethod
    def of_batch(cls, z: Array, mean: Array, m2: Array) -> Self:
        """Return the moments of a batch, whose mean and m2 were found, if the batch was finite."""
        soundness.check_batch(z, m2)
        return cls._new(len(z), mean, m2)

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
        soundness.check_same_layer(self, other)
        if self.count == 0 or other.count == 0:
            return other if self.count == 0 else self
        a, b = self.count, other.count  # Python's integers do not overflow
        return self.made(
            a + b, *merge(self.mean, self.m2, other.mean, other.m2, b / (a + b), a * b / (a + b))
        )

    def variance(self, ddof: int = 1) -> Array:
        """m2 / (count - ddof) per neuron; nan where count - ddof is not positive.

        ddof=1 (the default, and the paper's) is the unbiased variance, ddof=0 the biased one. Below
        2.2e-308 float64 runs out of digits: there the last of them, 5e-324, is in doubt.

        >>> import numpy as np
        >>> Moments.of(np.array([[1.0], [3.0]])).variance(ddof=0)
        array([1.])
        """
        ddof = checks.whole_number(ddof, "Moments.variance: ddof", least=0)
        if self.count <= ddof:
            return np.full_like(self.m2, np.nan)
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
        count = soundness.resized_count(count, self.count)
        if count == self.count:
            return self
        with np.errstate(over="ignore", under="ignore"):
            m2 = self.m2 * ((count - 1) / (self.count - 1))
        return self.made(count, self.mean, m2)

    def to(self, device: str) -> Self:
        """The same moments on "cpu" or "cuda"; themselves, if they are there."""
        mean, m2 = to_device(self.mean, device), to_device(self.m2, device)
        return self if mean is self.mean else self.made(self.count, mean, m2)

    def beside(self, z: Array) -> Self:
        """The same moments on the device of z; themselves, if they are there."""
        there = type(z) is type(self.mean)
        return self if there else self.made(self.count, beside(self.mean, z), beside(self.m2, z))

    @property
    def note(self) -> str:
        """What to know where every neuron has fewer than ten samples; else "".

        >>> import numpy as np
        >>> Moments.of(np.array([1.0, 2.0])).note
        '2 samples of each neuron are few'
        """
        return soundness.few_samples(self.count, tuple(self.mean.shape))

    def __repr__(self) -> str:
        return describe.line(self, **({"note": self.note} if self.note else {}))
