"""Mean cross-entropy on the CPU, forward and back."""

import math

import numpy as np

from minimono.backend import Array
from minimono.kernels import Kept, Needed
from minimono.kernels.cpu.compiling import compiled
from minimono.kernels.cpu.launch import flat
from minimono.kernels.cpu.math import exp_nonpositive
from minimono.kernels.cpu.sums import largest, total


@compiled
def cross_entropy_kernel(logits: Array, targets: Array, probability: Array, losses: Array) -> None:
    for i in range(logits.shape[0]):
        top = largest(logits[i])
        for j in range(logits.shape[1]):
            probability[i, j] = exp_nonpositive(logits[i, j] - top)
        whole = total(probability[i])
        share = logits.dtype.type(1.0 / whole)
        for j in range(logits.shape[1]):
            probability[i, j] *= share
        losses[i] = math.log(whole) - (np.float64(logits[i, targets[i]]) - top)


@compiled
def cross_entropy_gradient_kernel(
    scale: float, probability: Array, targets: Array, gradient: Array
) -> None:
    for i in range(probability.shape[0]):
        for j in range(probability.shape[1]):
            gradient[i, j] = scale * probability[i, j]
        gradient[i, targets[i]] -= scale


def mean_cross_entropy_forward(logits: Array, targets: Array) -> tuple[Array, Kept]:
    logits = np.ascontiguousarray(logits)
    probability, losses = np.empty(logits.shape, logits.dtype), np.empty(len(logits))
    cross_entropy_kernel(logits, flat(targets), probability, losses)
    mean = np.add.reduce(losses) / len(losses)  # which `mean` and `sum` call
    return np.asarray(mean, dtype=logits.dtype), probability


def mean_cross_entropy_backward(
    needed: Needed, g: Array, out: Array, probability: Kept, logits: Array, targets: Array
) -> tuple[Array, ...]:
    gradient = np.empty(probability.shape, probability.dtype)
    scale = probability.dtype.type(float(g) / len(logits))
    cross_entropy_gradient_kernel(scale, probability, flat(targets), gradient)
    return (gradient,)
