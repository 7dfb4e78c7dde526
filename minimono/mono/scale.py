"""How monosemantic a neuron's activation is: its squared distance from the mean, in variances."""

from typing import Any

import numpy as np

from minimono import checks
from minimono.backend import Array
from minimono.kernels.seam import with_kernel
from minimono.mono import soundness


@with_kernel("scale")
def scale(z: Array, mean: Array, denominator: Array) -> Array:
    """Return φ = (z - mean)² / denominator, in z's dtype, computed in float64 and rounded once.

    The square itself is not formed: it could overflow or lose its digits where φ does not.
    """
    deviation = z - mean
    return (deviation / denominator * deviation).astype(z.dtype, copy=False)


def compensated(variance: Array, compensation: float) -> Array:
    """Return what φ is divided by, variance + ε · (mean over neurons of variance).

    nan, and so is φ, where it is 0 or so small that float64 runs out of digits.
    """
    if compensation > 0:  # without, one neuron's nan must stay its own
        with np.errstate(over="ignore", under="ignore"):
            variance = variance + compensation * variance.mean()
        soundness.check_denominator(variance)
    return np.where(variance >= np.finfo(np.float64).tiny, variance, np.nan)


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
    z, mean, variance = soundness.statistics(z, mean, variance, "monosemantic_scale")
    compensation = checks.number(compensation, "monosemantic_scale: compensation", least=0.0)
    phi, finite = scale_and_check(z, mean, compensated(variance, compensation))
    if not finite:
        soundness.check_finite(z, "monosemantic_scale: z")
    return phi


@with_kernel("scale")
def scale_and_check(z: Array, mean: Array, denominator: Array) -> tuple[Array, Any]:
    """Return φ, and whether all of z is finite, which a kernel sees as it goes."""
    return scale(z, mean, denominator), np.isfinite(z).all()
