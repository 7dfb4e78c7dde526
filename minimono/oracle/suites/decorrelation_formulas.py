"""The formulas of suite `decorrelation`: value and gradients, with knobs that make them wrong.

A knob is an argument by name with a default: without knobs a formula is right. For Fractions, or
mpmath's numbers (with `PRECISE` where there is a logarithm), it gives the truth; for floats, what
NumPy makes of it. All are written apart from minimono's own functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from minimono.backend import Array
from minimono.oracle.truth import mpmath

Formula = Callable[..., Any]
Sloped = tuple[Formula, Formula]  # a formula and its derivative


def length(z: Array) -> Array:
    length: Array = np.sqrt((z**2).sum(axis=tuple(range(1, z.ndim)), keepdims=True))
    return length


def cosines_of(rows: Array, length: Formula) -> Array:
    unit = rows / length(rows)
    return unit @ unit.T


def precise_cosines(rows: Array, length: Formula) -> Array:
    """Return the cosines of mpmath's numbers: exactly 1 or 0 where they are."""
    squares = (rows**2).sum(axis=1)
    return rows @ rows.T / np.sqrt(np.multiply.outer(squares, squares))


def feature_decorrelation(
    z: Array, *, of: Formula = lambda rows: rows, length: Formula = length,
    cosines: Formula = cosines_of, change: Formula = lambda c: c,
    total: Formula = lambda c: c.sum() - np.trace(c), terms: Formula = lambda N: N * (N - 1),
    result: Formula = lambda mean: 1 - mean,
) -> Any:
    """Return `result` of a mean: `total` of the cosines of rows, divided by `terms`."""
    c = change(cosines(of(z.reshape(len(z), -1)), length))
    return result(total(c) / terms(len(c)))


def superposition_proxy(
    w_in: Array, b_in: Array, *, length: Formula = lambda w: np.sqrt((w**2).sum(axis=0)),
    bias: Formula = lambda b: b, proxy: Formula = lambda length, b: b * length,
) -> Array:
    """Return the bias times the `length` of the weights' columns."""
    result: Array = proxy(length(w_in), bias(b_in))
    return result


def fold_into_linear(
    w_in: Array, b_in: Array, gain: Array, shift: Array, *, centred: str = "over inputs",
    through: str = "w_in", with_gain: bool = True, with_shift: bool = True,
) -> list[Array]:
    """Take a layer norm's gain and shift into the linear layer.

    through: the weights that the shift passes through: "w_in", "gained" or "centred".
    """
    gained = gain[:, None] * w_in if with_gain else w_in
    axis = 1 if centred == "over neurons" else 0
    centre = gained.sum(axis=axis, keepdims=True) / gained.shape[axis]
    weight = gained if centred == "not" else gained - centre
    carrier = {"w_in": w_in, "gained": gained, "centred": weight}[through]
    moved = shift if with_shift else 0 * shift
    return [weight, b_in + (moved[:, None] * carrier).sum(axis=0)]


def l1_penalty(
    z: Array, *, value: Formula = lambda z: abs(z).sum() / len(z),
    gradient: Formula = lambda z: np.sign(z) / len(z),
) -> tuple[Any, Array]:
    """Return the sum of magnitudes of each input, averaged over inputs, and its gradient."""
    return value(z), gradient(z)


def mean_slope(E: Array) -> Array:
    return (0 * E + 1) / E.size


def decorrelation_penalty(
    z: Array, *, over: str, convention: str, over_as: Formula = str, convention_as: Formula = str,
    first: Formula = lambda rows: (rows, lambda g: g), size: Formula = abs, sign: Formula = np.sign,
    paper: Sloped = (lambda E: (E**2).sum(), lambda E: 2 * E),
    authors: Sloped = (np.mean, mean_slope), factor: float = 1, factor_back: float = 1,
) -> tuple[Any, Array]:
    """Return `paper` or `authors` of E = Z Zᵀ - I, of |Z| in the authors', and the gradient by Z.

    paper, authors: a formula of E, and its slope.   size, sign: |Z|, and its slope.   over_as,
    convention_as: what is taken for what.   first: changes the rows, and tells how a gradient goes
    back through that.
    """
    rows, back = first(z.reshape(len(z), -1))
    turn: Formula
    if convention_as(convention) == "authors":
        (value, slope), x, turn = authors, size(rows), lambda g: g * sign(rows)
    elif over_as(over) == "features":
        (value, slope), x, turn = paper, rows.T, np.transpose
    else:
        (value, slope), x, turn = paper, rows, lambda g: g
    E = x @ x.T - np.eye(len(x), dtype=int)
    gradient = back(turn(2 * slope(E) @ x)).reshape(z.shape)
    return factor * value(E), factor_back * gradient


def logistic(m: Array) -> Array:
    """Return -log sigmoid(m), without overflow; its derivative is -sigmoid(-m)."""
    return np.maximum(-m, 0) + np.log1p(np.exp(-abs(m)))


def slope(m: Array) -> Array:
    small = np.exp(-abs(m))
    return -np.where(m > 0, small, 1.0) / (1 + small)


# The two with 50 digits.
PRECISE: Sloped = (
    np.vectorize(lambda m: mpmath().log1p(mpmath().exp(-m)), otypes=[object]),
    np.vectorize(lambda m: -1 / (1 + mpmath().exp(m)), otypes=[object]),
)


def pair_loss(
    margin: Formula, couples: Sequence[tuple[Array, Array]], beta: float, *,
    loss: Sloped = (logistic, slope), swapped: bool = False, pooled: bool = False,
    beta_as: Formula = lambda beta: beta, beta_back: Formula = lambda beta: beta,
    mean: bool = True, mean_back: bool = True, by_chosen: float = 1.0, by_rejected: float = -1.0,
) -> tuple[Any, Array, Array]:
    """Return the mean of `loss` of margins, and gradients times `by_chosen` and `by_rejected`.

    couples: chosen and rejected of the policy, and of the reference.   pooled: one margin, the
    mean, for all pairs.   beta_as: what is taken for beta, beta_back: and for the margin's slope.
    """
    beta, (value, back) = beta_as(beta), loss
    m = margin(*(x for couple in couples for x in (couple[::-1] if swapped else couple)), beta)
    m = m.mean() + 0 * m if pooled else m
    gradient = back(m) * beta_back(beta) / (len(m) if mean_back else 1.0)
    return value(m).sum() / (len(m) if mean else 1.0), by_chosen * gradient, by_rejected * gradient


def dpo_loss(
    pc: Array, pr: Array, rc: Array, rr: Array, *, beta: float,
    margin: Formula = lambda pc, pr, rc, rr, beta: beta * ((pc - rc) - (pr - rr)), **knobs: Any,
) -> tuple[Any, ...]:
    """Return `pair_loss` of the policy's log-probabilities less the reference's."""
    return pair_loss(margin, [(pc, pr), (rc, rr)], beta, **knobs)


def simpo_loss(
    chosen: Array, rejected: Array, *, beta: float, gamma: float,
    margin: Formula = lambda c, r, beta, gamma: beta * (c - r) - gamma,
    off_the_loss: float = 0.0, **knobs: Any,
) -> tuple[Any, ...]:
    """Return `pair_loss` with gamma in the margin, or times `off_the_loss` off the loss."""
    given = partial(margin, gamma=gamma)
    loss, *gradients = pair_loss(given, [(chosen, rejected)], beta, **knobs)
    return (loss - off_the_loss * gamma, *gradients)


def same(weight: float) -> float:
    return weight


def decpo_loss(
    pc: Array, pr: Array, rc: Array, rr: Array, z: Array, *,
    beta: float, weight: float, over: str, convention: str,
    dpo: Mapping[str, Any] | None = None, penalty: Mapping[str, Any] | None = None,
    paper: Formula = lambda i, pairs: i >= 0, authors: Formula = lambda i, pairs: i % 2 == 0,
    weight_as: Formula = same, weight_back: Formula | None = None,
    dpo_weight: Formula = lambda weight: 1.0, to_the_first: bool = False,
) -> tuple[Any, ...]:
    """Return `dpo_loss` + weight `decorrelation_penalty`, with the knobs `dpo` and `penalty`.

    paper, authors: which rows i are penalised.   weight_as: what is taken for the weight,
    weight_back: and in the gradient.   to_the_first: to which rows the gradient goes.
    """
    loss, chosen, rejected = dpo_loss(pc, pr, rc, rr, beta=beta, **(dpo or {}))
    rows = np.arange(len(z))
    marked = {"paper": paper, "authors": authors}[convention](rows, len(z) // 2)
    extra, slope = decorrelation_penalty(
        z[marked], over=over, convention=convention, **(penalty or {})
    )
    gradient = np.zeros_like(z)
    place = rows < marked.sum() if to_the_first else marked
    gradient[place] = (weight_back or weight_as)(weight) * slope
    share = dpo_weight(weight)
    return share * loss + weight_as(weight) * extra, share * chosen, share * rejected, gradient
