"""Suite `decorrelation`: how unlike inputs are represented, as a measure and in losses of pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import product
from typing import Any

import numpy as np

from minimono import mono
from minimono.backend import Array
from minimono.oracle.case import BOUND, Case, Expected
from minimono.oracle.suite import Call, Entries, Suite, grouped
from minimono.oracle.suites import decorrelation_formulas as right
from minimono.oracle.suites.decorrelation_mistakes import MISTAKES
from minimono.oracle.suites.own import value_and_gradients
from minimono.oracle.truth import conditioned, conditioned_by, exact, float32, precise, rounded

# ---- cases -------------------------------------------------------------------------------------


HAND = np.array([[1.0, 0.0, 2.0], [0.0, -1.0, 1.0]])


def _feature_decorrelation(rng: np.random.Generator) -> Entries:
    lengths = np.array([1e-3, 1.0, 50.0, 1e3])[:, None]
    entries: list[tuple[str, Array, bool]] = [
        ("four inputs, five neurons", rng.normal(size=(4, 5)), False),
        ("a common offset: cosines are of the activations as they are, not centred",
         5 + rng.normal(size=(5, 4)), False),
        ("activations after a ReLU", np.maximum(rng.normal(size=(6, 8)), 0), False),
        ("inputs of very different length count alike", lengths * rng.normal(size=(4, 3)), False),
        ("a sequence (B, T, C): positions and channels are one vector", rng.normal(size=(3, 2, 3)),
         False),
        ("more inputs than neurons", rng.normal(size=(12, 3)), False),
        ("two inputs: 1 minus their cosine", rng.normal(size=(2, 6)), False),
        ("as many inputs as neurons", rng.normal(size=(4, 4)), False),
        ("orthogonal: 1", np.diag([1.0, 2.0, 3.0]), False),
        ("opposite: N/(N - 1) = 2, the highest there is", np.array([[1.0, 2.0], [-2.0, -4.0]]),
         False),
        ("all the same way: 0", np.outer([1.0, 2.0, 0.5], [1.0, 2.0, 2.0]), False),
        ("whole numbers, to try by hand: lengths 5, 5, 10; cosines 0.96, 1, 0.96",
         np.array([[3.0, 4.0], [4.0, 3.0], [6.0, 8.0]]), False),
        ("the squares overflow or underflow, the cosine does not",
         np.array([[1e200, 2e200], [1e-200, -3e-200]]), True),
    ]
    for notes, z, extreme in entries:
        z = z if extreme else float32(z)
        fd = rounded(right.feature_decorrelation(precise(z), cosines=right.precise_cosines))
        # each cosine, at most 1, is rounded a few times, whatever their mean is
        yield notes, {"z": z}, [Expected(fd, np.array(float(BOUND)))], {"extreme": extreme}


def _penalty(rng: np.random.Generator) -> Entries:
    turned = np.array([[0.6, 0.8], [-0.8, 0.6]])
    entries: list[tuple[str, Array]] = [
        ("three inputs, five neurons", rng.normal(size=(3, 5))),
        ("more inputs than neurons", rng.normal(size=(5, 2))),
        ("a sequence (B, T, C): positions and channels are one vector", rng.normal(size=(2, 2, 2))),
        ("as many inputs as neurons: over makes no difference at all", rng.normal(size=(3, 3))),
        ("small whole numbers, to try by hand", HAND),
        ("one input", rng.normal(size=(1, 4))),
        ("orthonormal rows: the optimum of the paper's, not of the authors'", turned),
        ("all 0: the authors' is -1/B, its gradient 0", np.zeros((2, 3))),
        ("offset 100", 100 + rng.normal(size=(3, 4))),
    ]
    forms = [("samples", "paper"), ("features", "paper"), ("samples", "authors")]
    for (notes, z), (over, convention) in product(entries, forms):
        arguments = {"z": float32(z), "over": over, "convention": convention}
        notes = f"{notes}; over {over}, convention {convention}"
        yield notes, arguments, _expected_penalty(**arguments)


def _expected_penalty(z: Array, over: str, convention: str) -> list[Expected]:
    """Return value and gradient, allowing what rounded entries of the Gram matrix make."""
    value, slope = map(
        rounded, right.decorrelation_penalty(exact(z), over=over, convention=convention)
    )
    flat = z.reshape(len(z), -1)
    size = abs(flat)
    if convention == "authors":
        reach = (size @ size.T).mean() + 1 / len(z)
        return [Expected(value, BOUND * reach), Expected(slope, BOUND * abs(slope))]
    rows, reach = (flat, size) if over == "samples" else (flat.T, size.T)
    excess = abs(rows @ rows.T - np.eye(len(rows)))
    gram = reach @ reach.T + np.eye(len(rows))  # each entry is off by at most BOUND eps times this
    return [
        Expected(
            value, linear=np.array(BOUND * (2 * (excess * gram).sum() + (excess**2).sum())),
            quadratic=np.array(BOUND**2 * (gram**2).sum()),
        ),
        Expected(slope, 4 * BOUND * (size @ size.T @ size + size).reshape(z.shape)),
    ]


def _l1(rng: np.random.Generator) -> Entries:
    for notes, z in [
        ("summed over neurons, averaged over inputs", rng.normal(size=(3, 4))),
        ("a sequence (B, T, C): summed over positions and channels", rng.normal(size=(2, 3, 2))),
        ("a feature map (B, C, Y, X)", rng.normal(size=(2, 2, 2, 3))),
        ("small whole numbers, to try by hand: (3 + 2) / 2; the gradient at 0 is 0", HAND),
        ("one input", rng.normal(size=(1, 5))),
        ("all 0", np.zeros((3, 2))),
    ]:
        z = float32(z)
        value, gradient = map(rounded, right.l1_penalty(exact(z)))
        outputs = [Expected(value, BOUND * value), Expected(gradient, 2 * abs(gradient))]
        yield notes, {"z": z}, outputs


CIRCLE = {3: 1 / 3, 4: 0.0, 5: -0.4472135954999579, 6: -1.0, 8: -2.414213562373095}


def circle(n: int) -> tuple[Array, Array]:
    """Spread n features evenly on a circle: weights (2, n) of length 1, and their biases."""
    angles = 2 * np.pi * np.arange(n) / n
    cosine = 0.0 if n == 4 else np.cos(2 * np.pi / n)
    return np.stack([np.cos(angles), np.sin(angles)]), np.full(n, cosine / (cosine - 1))


def _proxy(rng: np.random.Generator) -> Entries:
    entries: list[tuple[str, Array, Array]] = [
        (f"published: {n} binary features on a circle, cos(2 pi/n) / (cos(2 pi/n) - 1) = "
         f"{CIRCLE[n]:.4g}", *circle(n))
        for n in CIRCLE
    ]
    for notes, shape in [
        ("4 inputs, 6 neurons", (4, 6)), ("8 inputs, 3 neurons", (8, 3)),
        ("as many inputs as neurons: rows for columns would not show in the shape", (5, 5)),
        ("one input", (1, 4)), ("one neuron", (6, 1)),
    ]:
        entries.append(
            (notes, float32(rng.normal(size=shape)), float32(rng.normal(size=shape[1])))
        )
    entries += [
        ("whole numbers, to try by hand: lengths 5 and 13", np.array([[3.0, 5.0], [4.0, -12.0]]),
         np.array([-1.0, 0.5])),
        ("a bias of 0, and a neuron without weights: 0", np.array([[1.0, 0.0], [2.0, 0.0]]),
         np.array([0.0, -3.0])),
    ]
    for notes, w_in, b_in in entries:
        proxy = rounded(right.superposition_proxy(precise(w_in), precise(b_in)))
        yield notes, {"w_in": w_in, "b_in": b_in}, [Expected(proxy, 8 * abs(proxy))]


def _fold(rng: np.random.Generator) -> Entries:
    gain, shift = np.array([2.0, 2.0]), np.array([1.0, 0.0])
    by_hand = (np.array([[1.0], [3.0]]), np.array([0.5]), gain, shift)
    entries: list[tuple[str, tuple[Array, ...]]] = [
        ("whole numbers, to try by hand: weights -2 and 2, bias 1.5", by_hand),
        ("gain 1 and shift 0: only centred", (*by_hand[:2], np.ones(2), np.zeros(2))),
    ]
    for notes, (D, neurons) in [
        ("4 inputs, 3 neurons", (4, 3)), ("as many inputs as neurons", (4, 4)), ("6, 2", (6, 2)),
    ]:
        sizes = ((D, neurons), (neurons,), (D,), (D,))
        entries.append((notes, tuple(float32(rng.normal(size=size)) for size in sizes)))
    for notes, arrays in entries:
        arguments = dict(zip(("w_in", "b_in", "gain", "shift"), arrays, strict=True))
        yield notes, arguments, conditioned(right.fold_into_linear, *arrays)


LOG_PROBABILITIES = (
    "policy_chosen", "policy_rejected", "reference_chosen", "reference_rejected"
)
PAIR_OUTPUTS = ("loss", "gradient_chosen", "gradient_rejected")


def _pair_loss(
    truth: Callable[..., Any], arrays: Mapping[str, Array], numbers: Mapping[str, float],
    **options: Any,
) -> tuple[dict[str, Any], list[Expected]]:
    """Return arguments and outputs of a loss, whose truth has its numbers with 50 digits too."""

    def outputs(*given: Array) -> Any:
        places = dict(zip(numbers, given[len(arrays) :], strict=True))
        return truth(*given[: len(arrays)], **places, **options)

    expected = conditioned_by(precise, outputs, *arrays.values(), *map(np.array, numbers.values()))
    return {**arrays, **numbers, **options}, expected


def _log_probabilities(rng: np.random.Generator, pairs: int) -> tuple[Array, Array, Array, Array]:
    """Draw those of a policy and of a reference not far from it, chosen and rejected."""
    rc, rr = -rng.uniform(5, 40, pairs), -rng.uniform(5, 40, pairs)
    pc, pr = rc + rng.normal(size=pairs) * 3, rr + rng.normal(size=pairs) * 3
    return float32(pc), float32(pr), float32(rc), float32(rr)


def _dpo(rng: np.random.Generator) -> Entries:
    same = np.array([-4.0, -9.0, -6.0])
    zero = np.zeros(2)
    plans: list[tuple[str, tuple[Array, Array, Array, Array], float]] = [
        ("four pairs", _log_probabilities(rng, 4), 0.1),
        ("one pair", _log_probabilities(rng, 1), 0.1),
        ("beta 0.5", _log_probabilities(rng, 5), 0.5),
        ("beta 2", _log_probabilities(rng, 3), 2.0),
        ("before training: the policy is the reference, the loss log 2, the gradients -/+ beta/2B",
         (same, same - 2, same, same - 2), 0.1),
        ("whole numbers, to try by hand: margins 1 and -1",
         (np.array([-4.0, -8.0]), np.array([-9.0, -5.0]), np.array([-5.0, -7.0]),
          np.array([-9.0, -5.0])), 1.0),
        ("margins 1000 and -1000: exp(1000) overflows, the loss is 1000 / 2",
         (np.array([-1.0, -1001.0]), np.array([-1001.0, -1.0]), zero, zero), 1.0),
        ("margin 40: the loss is exp(-40), not 0; a sigmoid rounded to 1 has lost it",
         (np.array([-1.0, -2.0]), np.array([-41.0, -42.0]), zero, zero), 1.0),
    ]
    truth = partial(right.dpo_loss, loss=right.PRECISE)
    for notes, inputs, beta in plans:
        arrays = dict(zip(LOG_PROBABILITIES, inputs, strict=True))
        yield notes, *_pair_loss(truth, arrays, {"beta": beta})


def _simpo(rng: np.random.Generator) -> Entries:
    drawn: list[tuple[str, int, float, float]] = [
        ("four pairs", 4, 2.0, 1.0), ("one pair", 1, 2.5, 0.5), ("no margin", 3, 2.0, 0.0),
        ("beta 10, margin 3", 5, 10.0, 3.0), ("a negative margin", 2, 1.0, -0.5),
    ]
    entries = [
        (notes, -float32(rng.uniform(0.2, 3, pairs)), -float32(rng.uniform(0.2, 3, pairs)), b, g)
        for notes, pairs, b, g in drawn
    ]
    entries += [
        ("exactly at the margin: log 2", np.array([-1.0, -2.0]), np.array([-1.5, -2.5]), 2.0, 1.0),
        ("differences of 1000 and -1000: exp overflows", np.array([-1.0, -501.0]),
         np.array([-501.0, -1.0]), 2.0, 1.0),
        ("40 beyond the margin: the loss is exp(-40), not 0", np.array([-1.0]), np.array([-22.0]),
         2.0, 2.0),
    ]
    truth = partial(right.simpo_loss, loss=right.PRECISE)
    for notes, chosen, rejected, beta, gamma in entries:
        arrays = {"chosen": chosen, "rejected": rejected}
        yield notes, *_pair_loss(truth, arrays, {"beta": beta, "gamma": gamma})


def _decpo(rng: np.random.Generator) -> Entries:
    plans: list[tuple[str, tuple[int, ...], float, float, str, str]] = [
        ("two pairs", (4, 3), 0.1, 1e-4, "samples", "paper"),
        ("neurons compared: another value, the same gradients", (4, 3), 0.1, 1e-4, "features",
         "paper"),
        ("the authors' code: rows 0, 2, ... of chosen and rejected", (4, 3), 0.1, 1e-3, "samples",
         "authors"),
        ("three pairs, a large weight", (6, 2), 0.5, 0.25, "samples", "paper"),
        ("three pairs, the authors' code, a large weight", (6, 2), 0.5, 0.25, "samples", "authors"),
        ("weight 0: DPO alone", (4, 2), 0.1, 0.0, "samples", "paper"),
        ("a sequence (2B, T, C)", (2, 2, 2), 0.1, 0.5, "samples", "paper"),
        ("a sequence, the authors' code: of one pair, the chosen", (2, 2, 2), 0.1, 0.5, "samples",
         "authors"),
    ]
    truth = partial(right.decpo_loss, dpo={"loss": right.PRECISE})
    for notes, shape, beta, weight, over, convention in plans:
        arrays = dict(zip(LOG_PROBABILITIES, _log_probabilities(rng, shape[0] // 2), strict=True))
        arrays["z"] = float32(rng.normal(size=shape))
        numbers = {"beta": beta, "weight": weight}
        yield notes, *_pair_loss(truth, arrays, numbers, over=over, convention=convention)


def cases() -> Iterator[Case]:
    return grouped(SUITE, [
        ("fd", "feature_decorrelation", 66274341, _feature_decorrelation),
        ("penalty", "decorrelation_penalty", 83462684, _penalty),
        ("l1", "l1_penalty", 23025850, _l1),
        ("proxy", "superposition_proxy", 17320508, _proxy),
        ("fold", "fold_into_linear", 22360679, _fold),
        ("dpo", "dpo_loss", 26457513, _dpo),
        ("simpo", "simpo_loss", 26457513, _simpo),
        ("decpo", "decpo_loss", 33166247, _decpo),
    ])


_FLOATS = "(B,) log-probabilities, natural logarithm"

SUITE = Suite(
    name="decorrelation",
    text="decorrelation of inputs, the superposition proxy, and losses of preference pairs",
    conventions={
        "rows": "axis 0 is the inputs; all other axes together are one vector",
        "centring": "none: cosines and products are of the activations as they are",
        "gradient at 0": "of a magnitude: 0",
        "reference": "a constant: it gets no gradient",
        "pairs": "losses are means over pairs",
    },
    calls=(
        Call("feature_decorrelation", ("z",), ("fd",),
             "z (N, *neurons). 1 - the mean cosine over all pairs of different inputs."),
        Call("decorrelation_penalty", ("z", "*", "over", "convention"), ("penalty", "gradient"),
             "z (B, *neurons), as rows Z (B, n). \"paper\": the sum of the squared entries of\n"
             'Z Z^T - I (over "samples") or Z^T Z - I ("features"). "authors": the mean of all\n'
             'entries of |Z| |Z|^T - I, over "samples" only. gradient: by z.'),
        Call("l1_penalty", ("z",), ("penalty", "gradient"),
             "z (B, *neurons). The sum of |z| of each input, averaged over inputs; gradient by z."),
        Call("superposition_proxy", ("w_in", "b_in"), ("proxy",),
             "w_in (D, neurons), a column for each neuron; b_in (neurons,). Bias times the\n"
             "Euclidean length of the column."),
        Call("fold_into_linear", ("w_in", "b_in", "gain", "shift"), ("weight", "bias"),
             "w_in (D, neurons), b_in (neurons,) of the linear layer behind a layer norm with "
             "gain\nand shift (D,). weight: gain * w_in, each column less its mean over the D "
             "inputs;\nbias: b_in + shift w_in."),
        Call("dpo_loss", (*LOG_PROBABILITIES, "*", "beta"), PAIR_OUTPUTS,
             f"All {_FLOATS}. Mean of\n-log sigmoid(beta ((policy_chosen - reference_chosen) -\n"
             "(policy_rejected - reference_rejected))); gradients by the policy's two."),
        Call("simpo_loss", ("chosen", "rejected", "*", "beta", "gamma"), PAIR_OUTPUTS,
             f"{_FLOATS},\naveraged over the response. Mean of\n"
             "-log sigmoid(beta (chosen - rejected) - gamma); gradients by both."),
        Call("decpo_loss", (*LOG_PROBABILITIES, "z", "*", "beta", "weight", "over", "convention"),
             (*PAIR_OUTPUTS, "gradient_z"),
             "dpo_loss + weight decorrelation_penalty(rows, over, convention). z (2B, *neurons):\n"
             'the chosen, then the rejected. rows: all of z in "paper"; 0, 2, 4, ... in "authors",'
             "\nand the others' gradient is 0."),
    ),
    cases=cases,
    own={
        "feature_decorrelation": mono.feature_decorrelation,
        "decorrelation_penalty": value_and_gradients(mono.decorrelation_penalty),
        "l1_penalty": value_and_gradients(mono.l1_penalty),
        "superposition_proxy": mono.superposition_proxy,
        "fold_into_linear": mono.fold_into_linear,
        "dpo_loss": value_and_gradients(mono.dpo_loss, (0, 1)),
        "simpo_loss": value_and_gradients(mono.simpo_loss, (0, 1)),
        "decpo_loss": value_and_gradients(mono.decpo_loss, (0, 1, 4)),
    },
    mistakes=MISTAKES,
)
