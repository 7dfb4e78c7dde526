"""Known mistakes of suite `decorrelation`: rows of knobs, for formulas right without any."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from minimono.backend import Array
from minimono.oracle.suite import Mistakes
from minimono.oracle.suites import decorrelation_formulas as right
from minimono.oracle.suites.decorrelation_formulas import Formula, length, logistic, slope

Rows = dict[str, Mapping[str, Any]]

# ---- the measure, the proxy, folding, L1 ---------------------------------------------------------


FD = Mistakes(right.feature_decorrelation, {
    "centred: each neuron's mean over inputs is subtracted": {"of": lambda r: r - r.mean(axis=0)},
    "centred: each input's mean over neurons is subtracted (a correlation)":
        {"of": lambda r: r - r.mean(axis=1, keepdims=True)},
    "with the diagonal: the mean over all N^2 entries": {"total": np.sum, "terms": lambda N: N**2},
    "divided by N^2 instead of N (N - 1)": {"terms": lambda N: N**2},
    "with the diagonal, divided by N (N - 1)": {"total": np.sum},
    "each pair once, divided by N (N - 1)": {"total": lambda c: np.triu(c, 1).sum()},
    "not normalised: products instead of cosines": {"length": lambda r: 1.0},
    "normalised by the sum of magnitudes, not by the length":
        {"length": lambda r: abs(r).sum(axis=1, keepdims=True)},
    "normalised by neuron, not by input": {"length": lambda r: np.sqrt((r**2).sum(axis=0))},
    "a small epsilon is added to each length (1e-8)": {"length": lambda r: length(r) + 1e-8},
    "the mean cosine itself, not 1 minus it": {"result": lambda mean: mean},
    "1 plus the mean cosine": {"result": lambda mean: 1 + mean},
    "magnitudes of the cosines": {"change": abs},
    "squares of the cosines": {"change": np.square},
    "magnitudes of the activations": {"of": abs},
    "neurons are compared, not inputs (d x d for B x B)": {"of": np.transpose},
    "the mean angle, divided by pi":
        {"change": lambda c: np.arccos(np.clip(c, -1, 1)) / np.pi, "result": lambda mean: mean},
})


PROXY = Mistakes(right.superposition_proxy, {
    "rows and columns are swapped: the lengths of the rows":
        {"length": lambda w: np.sqrt((w**2).sum(axis=1))},
    "the squared length": {"length": lambda w: (w**2).sum(axis=0)},
    "the sum of magnitudes, not the length": {"length": lambda w: abs(w).sum(axis=0)},
    "the largest magnitude, not the length": {"length": lambda w: abs(w).max(axis=0)},
    "the root of the mean square, not the length":
        {"length": lambda w: np.sqrt((w**2).mean(axis=0))},
    "the length of the whole matrix": {"length": lambda w: np.sqrt((w**2).sum())},
    "the weights are centred first":
        {"length": lambda w: np.sqrt(((w - w.mean(axis=0)) ** 2).sum(axis=0))},
    "the bias is left out": {"bias": np.ones_like},
    "the length is left out": {"length": lambda w: 1.0},
    "the magnitude of the bias": {"bias": abs},
    "the sign is reversed": {"bias": np.negative},
    "divided by the length": {"proxy": lambda length, b: b / length},
    "the sum of the weights, not the length": {"length": lambda w: w.sum(axis=0)},
    "the square root is taken of the bias too": {"bias": lambda b: np.sign(b) * np.sqrt(abs(b))},
    "scaled by the largest in the layer":
        {"proxy": lambda length, b: b * length / abs(b * length).max()},
    "the median over neurons": {"proxy": lambda length, b: np.full(b.shape, np.median(b * length))},
})


FOLD = Mistakes(right.fold_into_linear, {
    "the weights are not centred": {"centred": "not"},
    "centred over neurons, not over inputs": {"centred": "over neurons"},
    "the shift is left out of the bias": {"with_shift": False},
    "the shift passes through the weights with the gain": {"through": "gained"},
    "the shift passes through the centred weights": {"through": "centred"},
    "the gain is left out": {"with_gain": False},
})


L1 = Mistakes(right.l1_penalty, {
    "summed over inputs, not averaged": {"value": lambda z: abs(z).sum(), "gradient": np.sign},
    "averaged over neurons too":
        {"value": lambda z: abs(z).mean(), "gradient": lambda z: np.sign(z) / z.size},
    "the magnitude is missing: a sum of signed activations":
        {"value": lambda z: z.sum() / len(z), "gradient": lambda z: np.ones_like(z) / len(z)},
    "squares instead of magnitudes":
        {"value": lambda z: (z**2).sum() / len(z), "gradient": lambda z: 2 * z / len(z)},
    "the gradient is not divided by the number of inputs": {"gradient": np.sign},
    "the gradient has lost its sign": {"gradient": lambda z: abs(np.sign(z)) / len(z)},
    "the gradient at 0 is 1, not 0": {"gradient": lambda z: np.where(z >= 0, 1.0, -1.0) / len(z)},
    "the gradient at 0 is -1, not 0": {"gradient": lambda z: np.where(z > 0, 1.0, -1.0) / len(z)},
    "the gradient is reversed": {"gradient": lambda z: -np.sign(z) / len(z)},
    "the gradient is 0": {"gradient": np.zeros_like},
    "the length of each input, not its sum of magnitudes":
        {"value": lambda z: length(z).mean(), "gradient": lambda z: z / length(z) / len(z)},
    "averaged over all axes but the last": {
        "value": lambda z: abs(z).sum(axis=-1).mean(),
        "gradient": lambda z: np.sign(z) * z.shape[-1] / z.size,
    },
})

# ---- the penalty ---------------------------------------------------------------------------------


def _unit(rows: Array) -> tuple[Array, Formula]:
    unit = rows / length(rows)
    return unit, lambda g: (g - unit * (unit * g).sum(axis=1, keepdims=True)) / length(rows)


def _centred(rows: Array) -> tuple[Array, Formula]:
    return rows - rows.mean(axis=0), lambda g: g - g.mean(axis=0)


def _gram(E: Array) -> Array:
    return E + np.eye(len(E))


def _diagonal(E: Array) -> Array:
    return np.diag(np.diag(E))


PENALTY = Mistakes(right.decorrelation_penalty, {
    "not squared: the sum of Z Z^T - I": {"paper": (np.sum, np.ones_like)},
    "magnitudes instead of squares: the sum of |Z Z^T - I|":
        {"paper": (lambda E: abs(E).sum(), np.sign)},
    "the Frobenius norm itself, not squared":
        {"paper": (np.linalg.norm, lambda E: E / np.linalg.norm(E))},
    "the mean of the squares, not their sum":
        {"paper": (lambda E: (E**2).mean(), lambda E: 2 * E / E.size)},
    "divided by the number of rows":
        {"paper": (lambda E: (E**2).sum() / len(E), lambda E: 2 * E / len(E))},
    "the identity is not subtracted":
        {"paper": (lambda E: (_gram(E) ** 2).sum(), lambda E: 2 * _gram(E))},
    "the diagonal is left out":
        {"paper": (lambda E: ((E - _diagonal(E)) ** 2).sum(), lambda E: 2 * (E - _diagonal(E)))},
    "each pair once: the upper triangle":
        {"paper": (lambda E: (np.triu(E) ** 2).sum(), lambda E: E + _diagonal(E))},
    "1 is subtracted from every entry, not the identity":
        {"paper": (lambda E: ((_gram(E) - 1) ** 2).sum(), lambda E: 2 * (_gram(E) - 1))},
    "magnitudes of the activations in the paper's form":
        {"first": lambda rows: (abs(rows), lambda g: g * np.sign(rows))},
    "neurons are compared where inputs are meant (d x d for B x B)":
        {"over_as": lambda over: "features"},
    "inputs are compared where neurons are meant (B x B for d x d)":
        {"over_as": lambda over: "samples"},
    "over is swapped": {"over_as": {"samples": "features", "features": "samples"}.get},
    "the conventions are swapped": {"convention_as": {"paper": "authors", "authors": "paper"}.get},
    "rows are scaled to length 1 first": {"first": _unit},
    "each neuron's mean over inputs is subtracted first": {"first": _centred},
    "the gradient is halved: one of the two Z is taken for a constant": {"factor_back": 0.5},
    "the gradient is reversed": {"factor_back": -1.0},
    "the gradient is 0": {"factor_back": 0.0},
    "value and gradient are halved": {"factor": 0.5, "factor_back": 0.5},
    "magnitudes are missing in the authors' form": {"size": lambda r: r, "sign": np.ones_like},
    "the gradient of the authors' form has lost its sign": {"sign": lambda r: abs(np.sign(r))},
    "the sum in the authors' form, not the mean": {"authors": (np.sum, np.ones_like)},
    "summed over rows in the authors' form, not averaged":
        {"authors": (lambda E: E.sum() / len(E), lambda E: np.ones_like(E) / len(E))},
    "the identity is not subtracted in the authors' form":
        {"authors": (lambda E: _gram(E).mean(), right.mean_slope)},
    "1 is subtracted from the mean in the authors' form, not the identity":
        {"authors": (lambda E: _gram(E).mean() - 1, right.mean_slope)},
    "the authors' form is squared":
        {"authors": (lambda E: (E**2).mean(), lambda E: 2 * E / E.size)},
})

# ---- losses of pairs -----------------------------------------------------------------------------


def _sigmoid(x: Array) -> Array:
    p: Array = 1 / (1 + np.exp(-x))
    return p


REVERSED = {"by_chosen": -1.0, "by_rejected": 1.0}


def _pairs(swap: str) -> Rows:
    """Return what can be wrong with either of the losses."""
    return {
        "the sum over pairs, not the mean": {"mean": False, "mean_back": False},
        "the gradient is not divided by the number of pairs": {"mean_back": False},
        swap: {"swapped": True, **REVERSED},
        "beta is left out of the gradient": {"beta_back": lambda beta: 1.0},
        "beta is left out": {"beta_as": lambda beta: 1.0},
        "beta counts twice in the gradient": {"beta_back": lambda beta: beta**2},
        "divided by beta": {"beta_as": lambda beta: 1 / beta},
        "the gradients are reversed": REVERSED,
        "the loss is reversed: log sigmoid":
            {"loss": (lambda m: -logistic(m), lambda m: -slope(m))},
        "the rejected get no gradient": {"by_rejected": 0.0},
        "the rejected get the gradient of the chosen": {"by_rejected": 1.0},
        "the gradient of the loss by the margin is sigmoid(margin), not sigmoid(-margin)":
            {"loss": (logistic, lambda m: slope(-m))},
        "the logarithm is missing: minus the sigmoid":
            {"loss": (lambda m: slope(-m), lambda m: slope(m) * -slope(-m))},
        "a hinge instead of the logistic loss":
            {"loss": (lambda m: np.maximum(0, 1 - m), lambda m: -(m < 1).astype(float))},
        "the sigmoid of the mean margin, not the mean over pairs": {"pooled": True},
        "exp overflows: log(1 + exp(-margin))": {"loss": (
            lambda m: np.log(1 + np.exp(-m)), lambda m: -np.exp(-m) / (1 + np.exp(-m)),
        )},
        "the logarithm of a sigmoid that was rounded to 0 or 1":
            {"loss": (lambda m: -np.log(_sigmoid(m)), lambda m: _sigmoid(m) - 1)},
        "a small epsilon is added inside the logarithm (1e-8)": {"loss": (
            lambda m: -np.log(_sigmoid(m) + 1e-8),
            lambda m: slope(m) * _sigmoid(m) / (_sigmoid(m) + 1e-8),
        )},
    }


# Two swaps that give the same numbers share a name.
DPO_SWAP = "chosen and rejected are swapped, or policy and reference"
DPO = Mistakes(right.dpo_loss, _pairs(DPO_SWAP) | {
    "the reference is ignored": {"margin": lambda pc, pr, rc, rr, beta: beta * (pc - pr)},
    "the reference is added, or its chosen and rejected are swapped":
        {"margin": lambda pc, pr, rc, rr, beta: beta * ((pc + rc) - (pr + rr))},
    "beta multiplies the policy's part only":
        {"margin": lambda pc, pr, rc, rr, beta: beta * (pc - pr) - (rc - rr)},
    "the squared loss of IPO, (margin - 1/2)^2":
        {"loss": (lambda m: (m - 0.5) ** 2, lambda m: 2 * m - 1)},
    "the chosen only: the rejected are not in the margin":
        {"margin": lambda pc, pr, rc, rr, beta: beta * (pc - rc), "by_rejected": 0.0},
})
SIMPO = Mistakes(right.simpo_loss, _pairs("chosen and rejected are swapped") | {
    "gamma is ignored": {"margin": lambda c, r, beta, gamma: beta * (c - r)},
    "gamma is added, not subtracted": {"margin": lambda c, r, beta, gamma: beta * (c - r) + gamma},
    "gamma is multiplied by beta": {"margin": lambda c, r, beta, gamma: beta * (c - r - gamma)},
    "gamma is divided by beta": {"margin": lambda c, r, beta, gamma: beta * (c - r) - gamma / beta},
    "gamma is subtracted from the loss, not inside it":
        {"margin": lambda c, r, beta, gamma: beta * (c - r), "off_the_loss": 1.0},
})

# ---- DecPO ---------------------------------------------------------------------------------------


DECPO = Mistakes(right.decpo_loss, {
    f"in DPO: {name}": {"dpo": DPO.rows[name]}
    for name in (
        "the sum over pairs, not the mean", DPO_SWAP,
        "beta is left out of the gradient", "beta is left out", "the reference is ignored",
        "the gradients are reversed", "the rejected get no gradient",
    )
} | {
    f"in the penalty: {name}": {"penalty": PENALTY.rows[name]}
    for name in (
        "not squared: the sum of Z Z^T - I", "the Frobenius norm itself, not squared",
        "the mean of the squares, not their sum", "the identity is not subtracted",
        "neurons are compared where inputs are meant (d x d for B x B)",
        "inputs are compared where neurons are meant (B x B for d x d)", "over is swapped",
        "the conventions are swapped", "the diagonal is left out",
        "magnitudes are missing in the authors' form",
        "the sum in the authors' form, not the mean",
        "the identity is not subtracted in the authors' form",
        "rows are scaled to length 1 first",
        "the gradient is halved: one of the two Z is taken for a constant",
    )
} | {
    "the penalty is left out": {"weight_as": lambda w: 0.0},
    "the weight is not applied": {"weight_as": lambda w: 1.0},
    "the weight is not in the gradient": {"weight_back": lambda w: 1.0},
    "the activations get no gradient": {"weight_back": lambda w: 0.0},
    "the penalty is subtracted": {"weight_as": lambda w: -w},
    "the weight also scales DPO": {"dpo_weight": lambda w: w},
    "1 - weight scales DPO": {"dpo_weight": lambda w: 1 - w},
    "the square of the weight": {"weight_as": lambda w: w * w},
    "all rows are penalised where the authors' code takes every second":
        {"authors": lambda i, pairs: i >= 0},
    "every second row is penalised where the paper's form takes all":
        {"paper": lambda i, pairs: i % 2 == 0},
    "rows 1, 3, 5, ... instead of 0, 2, 4, ...": {"authors": lambda i, pairs: i % 2 == 1},
    "the chosen rows instead of every second": {"authors": lambda i, pairs: i < pairs},
    "the rejected rows instead of every second": {"authors": lambda i, pairs: i >= pairs},
    "only the chosen rows in the paper's form": {"paper": lambda i, pairs: i < pairs},
    "the gradient of every second row goes to the first rows": {"to_the_first": True},
})

MISTAKES: dict[str, Mistakes] = {
    "feature_decorrelation": FD,
    "decorrelation_penalty": PENALTY,
    "l1_penalty": L1,
    "superposition_proxy": PROXY,
    "dpo_loss": DPO,
    "simpo_loss": SIMPO,
    "decpo_loss": DECPO,
    "fold_into_linear": FOLD,
}
