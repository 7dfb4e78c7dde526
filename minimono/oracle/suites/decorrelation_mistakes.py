"""Known mistakes of suite `decorrelation`, in NumPy's float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from minimono.backend import Array

# ---- known mistakes: the measure, the proxy, L1 --------------------------------------------------


def _off_diagonal(gram: Array) -> Any:
    return gram.sum() - np.trace(gram)


def _unit(rows: Array) -> Array:
    return rows / np.sqrt((rows**2).sum(axis=1, keepdims=True))


def _mistaken_fd(
    of: Callable[[Array], Any] = lambda g: 1 - _off_diagonal(g) / (len(g) * (len(g) - 1)),
    rows_of: Callable[[Array], Array] = lambda rows: rows,
    unit: Callable[[Array], Array] = _unit,
) -> Callable[[Array], Any]:
    """`of` the cosines (N, N) of the rows."""

    def feature_decorrelation(z: Array) -> Any:
        rows = unit(rows_of(z.reshape(len(z), -1)))
        return np.float64(of(rows @ rows.T))

    return feature_decorrelation


FD: dict[str, Callable[[Array], Any]] = {
    "centred: each neuron's mean over inputs is subtracted": _mistaken_fd(
        rows_of=lambda r: r - r.mean(axis=0)
    ),
    "centred: each input's mean over neurons is subtracted (a correlation)": _mistaken_fd(
        rows_of=lambda r: r - r.mean(axis=1, keepdims=True)
    ),
    "with the diagonal: the mean over all N^2 entries": _mistaken_fd(lambda g: 1 - g.mean()),
    "divided by N^2 instead of N (N - 1)": _mistaken_fd(
        lambda g: 1 - _off_diagonal(g) / len(g) ** 2
    ),
    "with the diagonal, divided by N (N - 1)": _mistaken_fd(
        lambda g: 1 - g.sum() / (len(g) * (len(g) - 1))
    ),
    "each pair once, divided by N (N - 1)": _mistaken_fd(
        lambda g: 1 - np.triu(g, 1).sum() / (len(g) * (len(g) - 1))
    ),
    "not normalised: products instead of cosines": _mistaken_fd(unit=lambda r: r),
    "normalised by the sum of magnitudes, not by the length": _mistaken_fd(
        unit=lambda r: r / abs(r).sum(axis=1, keepdims=True)
    ),
    "normalised by neuron, not by input": _mistaken_fd(
        unit=lambda r: r / np.sqrt((r**2).sum(axis=0))
    ),
    "a small epsilon is added to each length (1e-8)": _mistaken_fd(
        unit=lambda r: r / (np.sqrt((r**2).sum(axis=1, keepdims=True)) + 1e-8)
    ),
    "the mean cosine itself, not 1 minus it": _mistaken_fd(
        lambda g: _off_diagonal(g) / (len(g) * (len(g) - 1))
    ),
    "1 plus the mean cosine": _mistaken_fd(
        lambda g: 1 + _off_diagonal(g) / (len(g) * (len(g) - 1))
    ),
    "magnitudes of the cosines": _mistaken_fd(
        lambda g: 1 - _off_diagonal(abs(g)) / (len(g) * (len(g) - 1))
    ),
    "squares of the cosines": _mistaken_fd(
        lambda g: 1 - _off_diagonal(g**2) / (len(g) * (len(g) - 1))
    ),
    "magnitudes of the activations": _mistaken_fd(rows_of=abs),
    "neurons are compared, not inputs (d x d for B x B)": _mistaken_fd(rows_of=lambda r: r.T),
    "the mean angle, divided by pi": _mistaken_fd(
        lambda g: _off_diagonal(np.arccos(np.clip(g, -1, 1)) / np.pi) / (len(g) * (len(g) - 1))
    ),
}

PROXY: dict[str, Callable[[Array, Array], Array]] = {
    "rows and columns are swapped: the lengths of the rows": lambda w, b: b
    * np.sqrt((w**2).sum(axis=1)),
    "the squared length": lambda w, b: b * (w**2).sum(axis=0),
    "the sum of magnitudes, not the length": lambda w, b: b * abs(w).sum(axis=0),
    "the largest magnitude, not the length": lambda w, b: b * abs(w).max(axis=0),
    "the root of the mean square, not the length": lambda w, b: b * np.sqrt((w**2).mean(axis=0)),
    "the length of the whole matrix": lambda w, b: b * np.sqrt((w**2).sum()),
    "the weights are centred first": lambda w, b: b
    * np.sqrt(((w - w.mean(axis=0)) ** 2).sum(axis=0)),
    "the bias is left out": lambda w, b: np.sqrt((w**2).sum(axis=0)) + 0 * b,
    "the length is left out": lambda w, b: b.copy(),
    "the magnitude of the bias": lambda w, b: abs(b) * np.sqrt((w**2).sum(axis=0)),
    "the sign is reversed": lambda w, b: -b * np.sqrt((w**2).sum(axis=0)),
    "divided by the length": lambda w, b: b / np.sqrt((w**2).sum(axis=0)),
    "the sum of the weights, not the length": lambda w, b: b * w.sum(axis=0),
    "the square root is taken of the bias too": lambda w, b: np.sign(b)
    * np.sqrt(abs(b) * (w**2).sum(axis=0)),
    "scaled by the largest in the layer": lambda w, b: (
        b * np.sqrt((w**2).sum(axis=0)) / abs(b * np.sqrt((w**2).sum(axis=0))).max()
    ),
    "the median over neurons": lambda w, b: np.full(
        b.shape, np.median(b * np.sqrt((w**2).sum(axis=0)))
    ),
}

L1: dict[str, Callable[[Array], tuple[Any, Array]]] = {
    "summed over inputs, not averaged": lambda z: (abs(z).sum(), np.sign(z)),
    "averaged over neurons too": lambda z: (abs(z).mean(), np.sign(z) / z.size),
    "the magnitude is missing: a sum of signed activations": lambda z: (
        z.sum() / len(z), np.ones_like(z) / len(z)
    ),
    "squares instead of magnitudes": lambda z: ((z**2).sum() / len(z), 2 * z / len(z)),
    "the gradient is not divided by the number of inputs": lambda z: (
        abs(z).sum() / len(z), np.sign(z)
    ),
    "the gradient has lost its sign": lambda z: (
        abs(z).sum() / len(z), abs(np.sign(z)) / len(z)
    ),
    "the gradient at 0 is 1, not 0": lambda z: (
        abs(z).sum() / len(z), np.where(z >= 0, 1.0, -1.0) / len(z)
    ),
    "the gradient at 0 is -1, not 0": lambda z: (
        abs(z).sum() / len(z), np.where(z > 0, 1.0, -1.0) / len(z)
    ),
    "the gradient is reversed": lambda z: (abs(z).sum() / len(z), -np.sign(z) / len(z)),
    "the gradient is 0": lambda z: (abs(z).sum() / len(z), 0 * z),
    "the length of each input, not its sum of magnitudes": lambda z: (
        np.sqrt((z.reshape(len(z), -1) ** 2).sum(axis=1)).mean(),
        (_unit(z.reshape(len(z), -1)) / len(z)).reshape(z.shape),
    ),
    "averaged over all axes but the last": lambda z: (
        abs(z).sum(axis=-1).mean(), np.sign(z) * z.shape[-1] / z.size
    ),
}  # fmt: skip


# ---- known mistakes: the penalty -----------------------------------------------------------------

Penalty = Callable[[Array, str, str], tuple[Any, Array]]  # of rows (B, n), over, convention


def _penalty_right(rows: Array, over: str, convention: str) -> tuple[Any, Array]:
    B = len(rows)
    if convention == "authors":
        total = abs(rows).sum(axis=0)
        return ((total**2).sum() - B) / B**2, 2 * np.sign(rows) * total / B**2
    if over == "features":
        value, gradient = _penalty_right(rows.T, "samples", convention)
        return value, gradient.T
    excess = rows @ rows.T - np.eye(B)
    return (excess**2).sum(), 4 * excess @ rows


def _only(convention: str, wrong: Penalty) -> Penalty:
    """Wrong in one convention, right in the other."""
    return lambda rows, over, given: (
        wrong if given == convention else _penalty_right
    )(rows, over, given)  # fmt: skip


def _of_excess(value: Callable[[Array], Any], slope: Callable[[Array], Array]) -> Penalty:
    """`value` of the matrix E = Z Zᵀ - I, and `slope`, its derivative by E."""

    def penalty(rows: Array, over: str, convention: str) -> tuple[Any, Array]:
        x = rows if over == "samples" else rows.T
        excess = x @ x.T - np.eye(len(x))
        gradient = 2 * slope(excess) @ x
        return value(excess), gradient if over == "samples" else gradient.T

    return _only("paper", penalty)


def _scaled(value: float, gradient: float) -> Penalty:
    """Both conventions, times a constant."""

    def penalty(rows: Array, over: str, convention: str) -> tuple[Any, Array]:
        right, slope = _penalty_right(rows, over, convention)
        return value * right, gradient * slope

    return penalty


def _authors_as(value: Callable[[Array], Any], gradient: Callable[[Array], Array]) -> Penalty:
    return _only("authors", lambda rows, over, convention: (value(rows), gradient(rows)))


def _normalised(rows: Array, over: str, convention: str) -> tuple[Any, Array]:
    length = np.sqrt((rows**2).sum(axis=1, keepdims=True))
    unit = rows / length
    value, slope = _penalty_right(unit, over, convention)
    return value, (slope - unit * (unit * slope).sum(axis=1, keepdims=True)) / length


def _centred(rows: Array, over: str, convention: str) -> tuple[Any, Array]:
    value, slope = _penalty_right(rows - rows.mean(axis=0), over, convention)
    return value, slope - slope.mean(axis=0)


def _magnitudes(rows: Array, over: str, convention: str) -> tuple[Any, Array]:
    value, slope = _penalty_right(abs(rows), over, convention)
    return value, slope * np.sign(rows)


def _by_over(change: Callable[[str], str]) -> Penalty:
    return lambda rows, over, convention: _penalty_right(rows, change(over), convention)


def _conventions_swapped(rows: Array, over: str, convention: str) -> tuple[Any, Array]:
    return _penalty_right(rows, over, "paper" if convention == "authors" else "authors")


def _mean_of_gram(rows: Array) -> Any:
    return (abs(rows).sum(axis=0) ** 2).sum() / len(rows) ** 2


def _authors_gradient(rows: Array) -> Array:
    return _penalty_right(rows, "samples", "authors")[1]


PENALTY: dict[str, Penalty] = {
    "not squared: the sum of Z Z^T - I": _of_excess(np.sum, np.ones_like),
    "magnitudes instead of squares: the sum of |Z Z^T - I|": _of_excess(
        lambda e: abs(e).sum(), np.sign
    ),
    "the Frobenius norm itself, not squared": _of_excess(
        lambda e: np.sqrt((e**2).sum()), lambda e: e / np.sqrt((e**2).sum())
    ),
    "the mean of the squares, not their sum": _of_excess(
        lambda e: (e**2).mean(), lambda e: 2 * e / e.size
    ),
    "divided by the number of rows": _of_excess(
        lambda e: (e**2).sum() / len(e), lambda e: 2 * e / len(e)
    ),
    "the identity is not subtracted": _of_excess(
        lambda e: ((e + np.eye(len(e))) ** 2).sum(), lambda e: 2 * (e + np.eye(len(e)))
    ),
    "the diagonal is left out": _of_excess(
        lambda e: (e**2).sum() - (np.diag(e) ** 2).sum(), lambda e: 2 * (e - np.diag(np.diag(e)))
    ),
    "each pair once: the upper triangle": _of_excess(
        lambda e: (np.triu(e) ** 2).sum(), lambda e: e + np.diag(np.diag(e))
    ),
    "1 is subtracted from every entry, not the identity": _of_excess(
        lambda e: ((e + np.eye(len(e)) - 1) ** 2).sum(), lambda e: 2 * (e + np.eye(len(e)) - 1)
    ),
    "magnitudes of the activations in the paper's form": _only("paper", _magnitudes),
    "neurons are compared where inputs are meant (d x d for B x B)": _by_over(lambda _: "features"),
    "inputs are compared where neurons are meant (B x B for d x d)": _by_over(lambda _: "samples"),
    "over is swapped": _by_over(lambda over: "features" if over == "samples" else "samples"),
    "the conventions are swapped": _conventions_swapped,
    "rows are scaled to length 1 first": _normalised,
    "each neuron's mean over inputs is subtracted first": _centred,
    "the gradient is halved: one of the two Z is taken for a constant": _scaled(1.0, 0.5),
    "the gradient is reversed": _scaled(1.0, -1.0),
    "the gradient is 0": _scaled(1.0, 0.0),
    "value and gradient are halved": _scaled(0.5, 0.5),
    "magnitudes are missing in the authors' form": _authors_as(
        lambda r: ((r.sum(axis=0) ** 2).sum() - len(r)) / len(r) ** 2,
        lambda r: 2 * r.sum(axis=0) / len(r) ** 2 + 0 * r,
    ),
    "the gradient of the authors' form has lost its sign": _authors_as(
        lambda r: _mean_of_gram(r) - 1 / len(r), lambda r: abs(_authors_gradient(r))
    ),
    "the sum in the authors' form, not the mean": _authors_as(
        lambda r: _mean_of_gram(r) * len(r) ** 2 - len(r),
        lambda r: _authors_gradient(r) * len(r) ** 2,
    ),
    "summed over rows in the authors' form, not averaged": _authors_as(
        lambda r: _mean_of_gram(r) * len(r) - 1, lambda r: _authors_gradient(r) * len(r)
    ),
    "the identity is not subtracted in the authors' form": _authors_as(
        _mean_of_gram, _authors_gradient
    ),
    "1 is subtracted from the mean in the authors' form, not the identity": _authors_as(
        lambda r: _mean_of_gram(r) - 1, _authors_gradient
    ),
    "the authors' form is squared": _only(
        "authors",
        lambda rows, over, convention: (
            _penalty_right(abs(rows), "samples", "paper")[0] / len(rows) ** 2,
            _penalty_right(abs(rows), "samples", "paper")[1] * np.sign(rows) / len(rows) ** 2,
        ),
    ),
}


def _mistaken_penalty(wrong: Penalty) -> Callable[..., tuple[Any, Array]]:
    def decorrelation_penalty(z: Array, *, over: str, convention: str) -> tuple[Any, Array]:
        value, gradient = wrong(z.reshape(len(z), -1), over, convention)
        return np.float64(value), gradient.reshape(z.shape)

    return decorrelation_penalty


# ---- known mistakes: losses of pairs -------------------------------------------------------------


def _stable(margin: Array) -> tuple[Array, Array]:
    """-log sigmoid(margin) and its derivative."""
    small = np.exp(-abs(margin))
    return np.maximum(-margin, 0) + np.log1p(small), -np.where(
        margin > 0, small, 1.0
    ) / (1 + small)  # fmt: skip


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


Pairs = Mapping[str, Any]


def _mistaken_pairs(
    margin: Callable[[Pairs], Array],
    slope: Callable[[Pairs], Any] = lambda p: p["beta"],
    loss: Callable[[Array], tuple[Array, Array]] = _stable,
    reduce: Callable[[Array], Any] = np.mean,
    terms: Callable[[Array], float] = len,
    chosen: float = 1.0,
    rejected: float = -1.0,
) -> Callable[[Pairs], tuple[Any, Array, Array]]:
    """A loss of margins, and its gradients times `chosen` and `rejected`."""

    def result(given: Pairs) -> tuple[Any, Array, Array]:
        m = margin(given)
        values, derivative = loss(m)
        gradient = derivative * slope(given) / terms(m)
        return reduce(values), chosen * gradient, rejected * gradient

    return result


def _pair_mistakes(
    margin: Callable[[Pairs], Array], swap: str = "chosen and rejected are swapped"
) -> dict[str, Callable[[Pairs], tuple[Any, Array, Array]]]:
    """What can be wrong with any of the losses."""

    def swapped(p: Pairs) -> Pairs:
        return {**p, "pc": p["pr"], "pr": p["pc"], "rc": p["rr"], "rr": p["rc"]}

    return {
        "the sum over pairs, not the mean": _mistaken_pairs(
            margin, reduce=np.sum, terms=lambda m: 1.0
        ),
        "the gradient is not divided by the number of pairs": _mistaken_pairs(
            margin, terms=lambda m: 1.0
        ),
        swap: _mistaken_pairs(
            lambda p: margin(swapped(p)), chosen=-1.0, rejected=1.0
        ),
        "beta is left out of the gradient": _mistaken_pairs(margin, slope=lambda p: 1.0),
        "beta is left out": _mistaken_pairs(
            lambda p: margin({**p, "beta": 1.0}), slope=lambda p: 1.0
        ),
        "beta counts twice in the gradient": _mistaken_pairs(
            margin, slope=lambda p: p["beta"] ** 2
        ),
        "divided by beta": _mistaken_pairs(
            lambda p: margin({**p, "beta": 1 / p["beta"]}), slope=lambda p: 1 / p["beta"]
        ),
        "the gradients are reversed": _mistaken_pairs(margin, chosen=-1.0, rejected=1.0),
        "the loss is reversed: log sigmoid": _mistaken_pairs(
            margin, loss=lambda m: (-_stable(m)[0], -_stable(m)[1])
        ),
        "the rejected get no gradient": _mistaken_pairs(margin, rejected=0.0),
        "the rejected get the gradient of the chosen": _mistaken_pairs(margin, rejected=1.0),
        "the gradient of the loss by the margin is sigmoid(margin), not sigmoid(-margin)":
        _mistaken_pairs(margin, loss=lambda m: (_stable(m)[0], _stable(-m)[1])),
        "the logarithm is missing: minus the sigmoid": _mistaken_pairs(
            margin, loss=lambda m: (_stable(-m)[1], _stable(m)[1] * -_stable(-m)[1])
        ),
        "a hinge instead of the logistic loss": _mistaken_pairs(
            margin, loss=lambda m: (np.maximum(0, 1 - m), -(m < 1).astype(float))
        ),
        "the sigmoid of the mean margin, not the mean over pairs": _mistaken_pairs(
            lambda p: margin(p).mean() + 0 * margin(p)
        ),
        "exp overflows: log(1 + exp(-margin))": _mistaken_pairs(
            margin,
            loss=lambda m: (np.log(1 + np.exp(-m)), -np.exp(-m) / (1 + np.exp(-m))),
        ),
        "the logarithm of a sigmoid that was rounded to 0 or 1": _mistaken_pairs(
            margin, loss=lambda m: (-np.log(_sigmoid(m)), _sigmoid(m) - 1)
        ),
        "a small epsilon is added inside the logarithm (1e-8)": _mistaken_pairs(
            margin,
            loss=lambda m: (-np.log(_sigmoid(m) + 1e-8), _stable(m)[1] * _sigmoid(m)
                            / (_sigmoid(m) + 1e-8)),
        ),
    }  # fmt: skip


def _dpo_margin(p: Pairs) -> Array:
    margin: Array = p["beta"] * ((p["pc"] - p["rc"]) - (p["pr"] - p["rr"]))
    return margin


def _simpo_margin(p: Pairs) -> Array:
    margin: Array = p["beta"] * (p["pc"] - p["pr"]) - p["gamma"]
    return margin


# Two swaps that give the same numbers share a name.
DPO_SWAP = "chosen and rejected are swapped, or policy and reference"
DPO = _pair_mistakes(_dpo_margin, DPO_SWAP) | {
    "the reference is ignored": _mistaken_pairs(lambda p: p["beta"] * (p["pc"] - p["pr"])),
    "the reference is added, or its chosen and rejected are swapped": _mistaken_pairs(
        lambda p: p["beta"] * ((p["pc"] + p["rc"]) - (p["pr"] + p["rr"]))
    ),
    "beta multiplies the policy's part only": _mistaken_pairs(
        lambda p: p["beta"] * (p["pc"] - p["pr"]) - (p["rc"] - p["rr"])
    ),
    "the squared loss of IPO, (margin - 1/2)^2": _mistaken_pairs(
        _dpo_margin, loss=lambda m: ((m - 0.5) ** 2, 2 * m - 1)
    ),
    "the chosen only: the rejected are not in the margin": _mistaken_pairs(
        lambda p: p["beta"] * (p["pc"] - p["rc"]), rejected=0.0
    ),
}  # fmt: skip

_without_gamma = _mistaken_pairs(lambda p: p["beta"] * (p["pc"] - p["pr"]))
SIMPO = _pair_mistakes(_simpo_margin) | {
    "gamma is ignored": _without_gamma,
    "gamma is added, not subtracted": _mistaken_pairs(
        lambda p: p["beta"] * (p["pc"] - p["pr"]) + p["gamma"]
    ),
    "gamma is multiplied by beta": _mistaken_pairs(
        lambda p: p["beta"] * (p["pc"] - p["pr"] - p["gamma"])
    ),
    "gamma is divided by beta": _mistaken_pairs(
        lambda p: p["beta"] * (p["pc"] - p["pr"]) - p["gamma"] / p["beta"]
    ),
    "gamma is subtracted from the loss, not inside it": lambda p: (
        _without_gamma(p)[0] - p["gamma"], *_without_gamma(p)[1:]
    ),
}  # fmt: skip


def _dpo(wrong: Callable[[Pairs], tuple[Any, Array, Array]]) -> Callable[..., tuple[Any, ...]]:
    def dpo_loss(pc: Array, pr: Array, rc: Array, rr: Array, *, beta: float) -> tuple[Any, ...]:
        return wrong({"pc": pc, "pr": pr, "rc": rc, "rr": rr, "beta": beta})

    return dpo_loss


def _simpo(wrong: Callable[[Pairs], tuple[Any, Array, Array]]) -> Callable[..., tuple[Any, ...]]:
    def simpo_loss(
        chosen: Array, rejected: Array, *, beta: float, gamma: float
    ) -> tuple[Any, ...]:
        zero = 0 * chosen
        return wrong({"pc": chosen, "pr": rejected, "rc": zero, "rr": zero, "beta": beta,
                      "gamma": gamma})  # fmt: skip

    return simpo_loss


# ---- known mistakes: DecPO -----------------------------------------------------------------------


def _rows_right(z: Array, convention: str) -> Array:
    """Which rows are penalised, as a mask."""
    return (np.arange(len(z)) % 2 == 0) | (convention == "paper")


_dpo_right = _mistaken_pairs(_dpo_margin)


def _mistaken_decpo(
    pairs: Callable[[Pairs], tuple[Any, Array, Array]] = _dpo_right,
    penalty: Penalty = _penalty_right,
    rows: Callable[[Array, str], Array] = _rows_right,
    weight: Callable[[float], float] = lambda w: w,
    slope_weight: Callable[[float], float] = lambda w: w,
    dpo_weight: Callable[[float], float] = lambda w: 1.0,
    place: Callable[[Array], Array] = lambda chosen: chosen,
) -> Callable[..., tuple[Any, ...]]:
    """DPO + weight · penalty of the rows that `rows` marks; their gradient goes to `place`."""

    def decpo_loss(
        pc: Array, pr: Array, rc: Array, rr: Array, z: Array,
        *, beta: float, weight: float, over: str, convention: str,
    ) -> tuple[Any, ...]:  # fmt: skip
        dpo, chosen, rejected = pairs({"pc": pc, "pr": pr, "rc": rc, "rr": rr, "beta": beta})
        marked = rows(z, convention)
        extra, slope = penalty(z[marked].reshape(int(marked.sum()), -1), over, convention)
        gradient = np.zeros_like(z)
        gradient[place(marked)] = slope_of(weight) * slope.reshape(z[marked].shape)
        share = dpo_weight(weight)
        return share * dpo + weight_of(weight) * extra, share * chosen, share * rejected, gradient

    weight_of, slope_of = weight, slope_weight
    return decpo_loss


def _first(marked: Array) -> Array:
    return np.arange(len(marked)) < marked.sum()


DECPO: dict[str, Callable[..., tuple[Any, ...]]] = {
    f"in DPO: {name}": _mistaken_decpo(pairs=DPO[name])
    for name in (
        "the sum over pairs, not the mean", DPO_SWAP,
        "beta is left out of the gradient", "beta is left out", "the reference is ignored",
        "the gradients are reversed", "the rejected get no gradient",
    )
} | {
    f"in the penalty: {name}": _mistaken_decpo(penalty=PENALTY[name])
    for name in (
        "not squared: the sum of Z Z^T - I", "the Frobenius norm itself, not squared",
        "the mean of the squares, not their sum", "the identity is not subtracted",
        "neurons are compared where inputs are meant (d x d for B x B)",
        "inputs are compared where neurons are meant (B x B for d x d)", "over is swapped",
        "the conventions are swapped", "the diagonal is left out",
        "magnitudes are missing in the authors' form",
        "the sum in the authors' form, not the mean",
        "the identity is not subtracted in the authors' form",
        "rows are scaled to length 1 first", "the gradient is halved: one of the two Z is taken "
        "for a constant",
    )
} | {
    "the penalty is left out": _mistaken_decpo(
        weight=lambda w: 0.0, slope_weight=lambda w: 0.0
    ),
    "the weight is not applied": _mistaken_decpo(
        weight=lambda w: 1.0, slope_weight=lambda w: 1.0
    ),
    "the weight is not in the gradient": _mistaken_decpo(slope_weight=lambda w: 1.0),
    "the activations get no gradient": _mistaken_decpo(slope_weight=lambda w: 0.0),
    "the penalty is subtracted": _mistaken_decpo(
        weight=lambda w: -w, slope_weight=lambda w: -w
    ),
    "the weight also scales DPO": _mistaken_decpo(dpo_weight=lambda w: w),
    "1 - weight scales DPO": _mistaken_decpo(dpo_weight=lambda w: 1 - w),
    "the square of the weight": _mistaken_decpo(
        weight=lambda w: w * w, slope_weight=lambda w: w * w
    ),
    "all rows are penalised where the authors' code takes every second": _mistaken_decpo(
        rows=lambda z, convention: np.ones(len(z), bool)
    ),
    "every second row is penalised where the paper's form takes all": _mistaken_decpo(
        rows=lambda z, convention: np.arange(len(z)) % 2 == 0
    ),
    "rows 1, 3, 5, ... instead of 0, 2, 4, ...": _mistaken_decpo(
        rows=lambda z, convention: (np.arange(len(z)) % 2 == 1) | (convention == "paper")
    ),
    "the chosen rows instead of every second": _mistaken_decpo(
        rows=lambda z, convention: (np.arange(len(z)) < len(z) // 2) | (convention == "paper")
    ),
    "the rejected rows instead of every second": _mistaken_decpo(
        rows=lambda z, convention: (np.arange(len(z)) >= len(z) // 2) | (convention == "paper")
    ),
    "only the chosen rows in the paper's form": _mistaken_decpo(
        rows=lambda z, convention: (
            np.arange(len(z)) < len(z) // 2 if convention == "paper" else _rows_right(z, convention)
        )
    ),
    "the gradient of every second row goes to the first rows": _mistaken_decpo(place=_first),
}  # fmt: skip


MISTAKES: dict[str, dict[str, Callable[..., Any]]] = {
    "feature_decorrelation": FD,
    "decorrelation_penalty": {n: _mistaken_penalty(wrong) for n, wrong in PENALTY.items()},
    "l1_penalty": L1,
    "superposition_proxy": PROXY,
    "dpo_loss": {name: _dpo(wrong) for name, wrong in DPO.items()},
    "simpo_loss": {name: _simpo(wrong) for name, wrong in SIMPO.items()},
    "decpo_loss": DECPO,
}
