"""Known mistakes of suite `layers`: rows of knobs, for formulas that are right without any."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from minimono.backend import Array
from minimono.oracle.suite import Mistakes
from minimono.oracle.suites import layers_formulas as right
from minimono.oracle.suites.layers_formulas import Formula

_erf = np.vectorize(math.erf, otypes=[float])


def _quick(x: Array) -> tuple[Array, Array]:
    p = (1 + np.tanh(1.702 * x / 2)) / 2
    return p, 1.702 * p * (1 - p)


def _erf_of_x(x: Array) -> tuple[Array, Array]:
    return (1 + _erf(x)) / 2, np.exp(-(x**2)) / math.sqrt(math.pi)


def _both(share: Formula) -> dict[str, Formula]:
    return {"none": share, "tanh": share}


GELU = Mistakes(right.gelu, {
    "tanh's approximation, whichever was asked for": _both(right.logistic),
    "erf, whichever was asked for": _both(right.normal),
    "erf and tanh have changed places": {"none": right.logistic, "tanh": right.normal},
    "x sigmoid(1.702 x)": _both(_quick),
    "x sigmoid(x) (SiLU)": _both(partial(right.logistic, root=1 / 2, cubic=0.0)),
    "relu": _both(lambda x: ((x > 0) * 1.0, 0 * x)),
    "erf(x), not erf(x / sqrt 2)": {"none": _erf_of_x},
    "the half is missing": {
        "value": lambda x, p: 2 * x * p, "gradient": lambda x, p, slope, g: 2 * g * (p + x * slope),
    },
    "the distribution alone, not times x":
        {"value": lambda x, p: p, "gradient": lambda x, p, slope, g: g * slope},
    "0.44715 instead of 0.044715 in tanh's approximation":
        {"tanh": partial(right.logistic, cubic=0.44715)},
    "0.0447 instead of 0.044715 in tanh's approximation":
        {"tanh": partial(right.logistic, cubic=0.0447)},
    "the cubic term is missing in tanh's approximation":
        {"tanh": partial(right.logistic, cubic=0.0)},
    "2 / pi without the root in tanh's approximation":
        {"tanh": partial(right.logistic, root=2 / math.pi)},
    "the gradient is the distribution alone: the term x P'(x) is missing":
        {"gradient": lambda x, p, slope, g: g * p},
    "the gradient is x P'(x) alone: the term P(x) is missing":
        {"gradient": lambda x, p, slope, g: g * x * slope},
    "the gradient has the density alone: P'(x) is not times x":
        {"gradient": lambda x, p, slope, g: g * (p + slope)},
    "the gradient is always that of erf":
        {"gradient": lambda x, p, slope, g: g * (right.normal(x)[0] + x * right.normal(x)[1])},
    "the gradient does not have the upstream gradient in it":
        {"gradient": lambda x, p, slope, g: p + x * slope},
    "the gradient is doubled": {"gradient": lambda x, p, slope, g: 2 * g * (p + x * slope)},
})

LAYER_NORM = Mistakes(right.layer_norm, {
    "variance divided by C - 1 instead of C": {"ddof": 1},
    "eps outside the root": {"root": lambda v, eps: np.sqrt(v) + eps},
    "eps is ignored": {"own_eps": 0.0},
    "eps squared": {"root": lambda v, eps: np.sqrt(v + eps**2)},
    "the larger of variance and eps": {"root": lambda v, eps: np.sqrt(np.maximum(v, eps))},
    "eps is always 1e-5": {"own_eps": 1e-5},
    "eps is always 1e-6": {"own_eps": 1e-6},
    "eps is always 1e-12": {"own_eps": 1e-12},
    "divided by the variance, not by its root": {"root": lambda v, eps: v + eps},
    "E[x^2] - E[x]^2 for the variance":
        {"variance": lambda x, over: (x**2).mean(**over) - x.mean(**over) ** 2},
    "about zero: the mean is not subtracted (RMS norm)":
        {"variance": lambda x, over: (x**2).mean(**over), "centre": False, "through_mean": 0.0},
    "the mean is not subtracted above the root": {"centre": False},
    "over the samples, not the channels (batch norm)": {"axis": 0},
    "without weight and bias": {"affine": lambda n, w, b: n},
    "without the bias": {"affine": lambda n, w, b: n * w},
    "1 + weight instead of weight":
        {"affine": lambda n, w, b: n * (1 + w) + b, "inner": lambda w: 1 + w},
    "the bias is added before the weight is multiplied": {"affine": lambda n, w, b: (n + b) * w},
    "the gradient does not go through mean and variance":
        {"through_mean": 0.0, "through_variance": 0.0},
    "the gradient does not go through the mean": {"through_mean": 0.0},
    "the gradient does not go through the variance": {"through_variance": 0.0},
    "the weight is missing in the gradient": {"inner": np.ones_like},
    "the gradients of weight and bias are means over the samples, not sums":
        {"mean_over_samples": True},
    "the gradient of the weight has the input, not the normalised input": {"seen": lambda x, n: x},
})

def _other(axis: int, axes: int) -> int:
    return 0 if axis in (-1, axes - 1) else -1


SOFTMAX = Mistakes(right.softmax, {
    "the maximum is not subtracted: exp overflows": {"of": right.unshifted_softmax},
    "one maximum for all: small rows underflow":
        {"of": partial(right.softmax_of, subtracted=lambda x, axis: x.max())},
    "always the last axis": {"over": lambda axis, axes: -1},
    "always the first axis": {"over": lambda axis, axes: 0},
    "always axis 1": {"over": lambda axis, axes: min(1, axes - 1)},
    "the wrong one of two axes": {"over": _other},
    "over all axes": {"over": lambda axis, axes: tuple(range(axes))},
    "its logarithm":
        {"out": np.log, "gradient": lambda p, g, axis: g - p * g.sum(axis=axis, keepdims=True)},
    "1e-8 is added to the sum": {"of": partial(right.softmax_of, added=1e-8)},
    "to the base 2, not e": {"factor": math.log(2)},
    "the sign of the input is reversed (softmin)": {"factor": -1.0},
    "the gradient is p g: the sum over the others is missing":
        {"gradient": lambda p, g, axis: p * g},
    "the gradient is p (1 - p) g: of the Jacobian only the diagonal":
        {"gradient": lambda p, g, axis: p * (1 - p) * g},
    "the gradient has sum g where sum p g is meant":
        {"gradient": lambda p, g, axis: p * (g - g.sum(axis=axis, keepdims=True))},
    "the gradient is not multiplied by p":
        {"gradient": lambda p, g, axis: g - (p * g).sum(axis=axis, keepdims=True)},
    "the gradient is summed over the wrong axis":
        {"gradient": lambda p, g, axis: right.softmax_back(p, g, _other(axis, p.ndim))},
    "the gradient has the wrong sign":
        {"gradient": lambda p, g, axis: -right.softmax_back(p, g, axis)},
})

ATTENTION = Mistakes(right.attention, {
    "not divided by sqrt D": {"scale": lambda D, S: 1.0},
    "divided by D, not by its root": {"scale": lambda D, S: 1 / D},
    "divided by the root of the number of keys, not of D": {"scale": lambda D, S: 1 / math.sqrt(S)},
    "the causal mask is ignored": {"causal": False},
    "always causal": {"causal": True},
    "the causal mask is off by one: a position sees the next one": {"diagonal": lambda T, S: 1},
    "the causal mask is off by one: a position does not see itself": {"diagonal": lambda T, S: -1},
    "the causal mask counts from the last key, not from the first":
        {"diagonal": lambda T, S: S - T},
    "masked after the softmax: the weights do not add up to 1": {"masked": "after"},
    "masked with 0 instead of minus infinity": {"masked": "with 0"},
    "softmax over the queries, not the keys": {"axis": -2},
    "the maximum is not subtracted: exp overflows": {"share": right.unshifted_softmax},
    "no softmax":
        {"share": lambda s, axis: s, "masked": "after", "back": lambda p, slope, axis: slope},
    "the gradients of q and k have changed places": {"swapped": True},
    "sqrt D is missing in the gradients of q and k": {"scaled_back": False},
    "the gradient of the softmax lacks the sum over the others":
        {"back": lambda p, slope, axis: p * slope},
    "the gradient does not go through the weights: q and k get none":
        {"back": lambda p, slope, axis: 0 * p},
})

CROSS_ENTROPY = Mistakes(right.cross_entropy, {
    "the sum, not the mean": {"terms": lambda shape: 1},
    "the gradient is that of the sum, the loss the mean": {"terms_back": lambda shape: 1},
    "summed over positions, the mean over samples only": {"terms": lambda shape: shape[0]},
    "divided by the number of classes too": {"terms": math.prod},
    "the sign is missing": {"factor": -1.0},
    "to the base 2, not e": {"factor": 1 / math.log(2)},
    "the maximum is not subtracted: exp overflows":
        {"log_p": lambda x: x - np.log(np.exp(x).sum(axis=1, keepdims=True))},
    "the logarithm of a softmax that underflows: infinity":
        {"log_p": lambda x: np.log(right.softmax_of(x))},
    "1e-8 is added inside the logarithm": {"log_p": lambda x: np.log(right.softmax_of(x) + 1e-8)},
    "logits are taken for probabilities: no softmax": {"log_p": np.log},
    "softmax twice: the logits are taken for probabilities and normalised again":
        {"log_p": lambda x: right.log_softmax(right.softmax_of(x))},
    "the targets count from 1":
        {"hit": lambda targets, classes: (targets - 1) % len(classes) == classes},
    "all classes but the target": {"hit": lambda targets, classes: targets != classes},
    "the targets are smoothed by 0.1":
        {"hit": lambda targets, classes: 0.9 * (targets == classes) + 0.1 / len(classes)},
    "the gradient is the softmax: 1 at the target is not subtracted":
        {"gradient": lambda p, hit: p},
    "the gradient is that at the target only": {"gradient": lambda p, hit: (p - hit) * hit},
    "the gradient is by the probabilities, not by the logits":
        {"gradient": lambda p, hit: -hit / p},
})

CELL = Mistakes(right.conv_gru_cell, {
    "reset and update have changed places in the weights": {"order": (1, 0, 2)},
    "the candidate comes first in the weights": {"order": (1, 2, 0)},
    "update and candidate have changed places in the weights": {"order": (0, 2, 1)},
    "the update gate keeps the new state: 1 - z at the old one": {"keep": "1 - z"},
    "tanh for the candidate, not leaky relu": {"squash": "tanh"},
    "sigmoid for the candidate, not leaky relu": {"squash": "sigmoid"},
    "slope 0.01 of the leaky relu, not 0.2": {"slope": 0.01},
    "relu, not leaky relu": {"slope": 0.0},
    "no activation function at the candidate": {"slope": 1.0},
    "the reset gate before the convolution of the state": {"reset": "before"},
    "no reset gate": {"reset": "none"},
    "the reset gate at the input's part of the candidate too": {"reset": "both"},
    "no biases": {"biases": 0.0},
    "the kernels are turned around (a true convolution)": {"turned": True},
    "the gradient does not go through the reset gate": {"through_reset": 0.0},
    "the gradient does not go through the update gate": {"through_update": 0.0},
    "the gradient does not go through the gates": {"through_reset": 0.0, "through_update": 0.0},
    "the old state gets no gradient directly": {"direct": 0.0},
})

MISTAKES = {
    "gelu": GELU,
    "layer_norm": LAYER_NORM,
    "softmax": SOFTMAX,
    "scaled_dot_product_attention": ATTENTION,
    "cross_entropy": CROSS_ENTROPY,
    "conv_gru_cell": CELL,
}
