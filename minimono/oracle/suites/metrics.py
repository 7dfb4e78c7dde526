"""Suite `metrics`: other people's measures of monosemanticity, from their definitions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from minimono import mono
from minimono.backend import Array
from minimono.oracle.case import BOUND, Case, Expected
from minimono.oracle.suite import Call, Entries, Mistakes, Suite, grouped
from minimono.oracle.suites import metrics_formulas as right
from minimono.oracle.truth import conditioned_by, float32, precise, rounded

# ---- cases -------------------------------------------------------------------------------------

HAND_E = np.array([[3.0, 4.0], [4.0, 3.0], [0.0, 5.0], [1.0, 0.0]])
HAND_Z = np.array([[0.0, 2.0], [1.0, 4.0], [2.0, 0.0], [4.0, 1.0]])


def _about(truth: Callable[..., Any], *arrays: Array, size: float = 1.0) -> list[Expected]:
    """What rounding of the inputs makes, and a few roundings of a number of this size."""
    (found,) = conditioned_by(precise, lambda *given: [truth(*given)], *arrays)
    assert found.linear is not None
    return [Expected(found.value, found.linear + BOUND * size)]


def _mono_loss(rng: np.random.Generator) -> Entries:
    opposite = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    constant = np.concatenate([HAND_Z, np.ones((4, 1)), np.eye(4)[:, :1]], axis=1)
    for notes, z, e in [
        ("whole numbers, to try by hand: scores 11/35 and 151/175, loss 72/175", HAND_Z, HAND_E),
        ("six inputs, four neurons", rng.normal(size=(6, 4)), rng.normal(size=(6, 3))),
        ("after a ReLU: many are 0", np.maximum(rng.normal(size=(8, 5)), 0),
         rng.normal(size=(8, 4))),
        ("embeddings with a common direction: they are not centred",
         rng.normal(size=(5, 3)), 3 + rng.normal(size=(5, 3))),
        ("a constant neuron, and one that a single input drives, do not count", constant, HAND_E),
        ("opposite inputs: the loss is 2, the highest", np.array([[1.0], [1.0], [0.0]]), opposite),
        ("a feature map (B, C, X): each is a neuron", rng.normal(size=(5, 2, 2)),
         rng.normal(size=(5, 3))),
        ("activations below 0: they start at their minimum", rng.normal(size=(6, 3)) - 9,
         rng.normal(size=(6, 2))),
    ]:
        z, e = float32(z), float32(e)
        yield notes, {"z": z, "embeddings": e}, _about(right.mono_loss, z, e)


def _effective(rng: np.random.Generator) -> Entries:
    wide = np.zeros((2, 500))
    wide[:, 3] = 2.0
    for notes, z in [
        ("whole numbers, to try by hand: 7 / (3^(3/7) 2^(4/7)) = 2.9417",
         np.array([[2.0, 0, 0, -2], [0, 2, 0, 2], [4, -2, 0, 0]])),
        ("five inputs, six neurons", rng.normal(size=(5, 6))),
        ("after a ReLU", np.maximum(rng.normal(size=(7, 4)), 0)),
        ("all alike: all are counted", np.ones((2, 5))),
        ("one alone among 500: exactly 1, with no epsilon", wide),
        ("nothing is active: undefined", np.zeros((2, 3))),
    ]:
        z = float32(z)

        def truth(z: Array) -> Any:
            return right.effective_features(z, log=right.precise_log, exp=right.precise_exp)

        if not z.any():
            yield notes, {"z": z}, [Expected(np.array(np.nan), np.array(1.0))]
        elif z.size > 100:
            yield notes, {"z": z}, [Expected(np.array(1.0), np.array(float(BOUND)))]
        else:
            yield notes, {"z": z}, _about(truth, z, size=z.shape[1])


def _redundancy(rng: np.random.Generator) -> Entries:
    for notes, concepts in [
        ("whole numbers, to try by hand: (.96 + .96 + .8 + 0) / 4 = .68",
         np.array([[3.0, 4], [4, 3], [0, 5], [-1, 0]])),
        ("five neurons", rng.normal(size=(5, 4))),
        ("concepts with a common direction: not centred", 2 + rng.normal(size=(6, 3))),
        ("opposite concepts: -1, the lowest", np.array([[1.0, 2.0], [-2.0, -4.0]])),
        ("one neuron: undefined", np.array([[1.0, 2.0]])),
    ]:
        concepts = float32(concepts)
        value = rounded(right.redundancy(precise(concepts)))
        yield notes, {"concepts": concepts}, [Expected(value, np.array(float(BOUND)))]


def _polysemanticity(rng: np.random.Generator) -> Entries:
    for notes, v, labels in [
        ("two orthogonal groups: 1", np.array([[1.0, 0], [1, 0], [0, 1], [0, 1]]), [0, 0, 1, 1]),
        ("two opposite groups: 2, the highest", np.array([[1.0, 0], [1, 0], [-1, 0], [-3, 0]]),
         [0, 0, 1, 1]),
        ("one group of one input: by the mean of all, .2094",
         np.array([[1.0, 0], [1, 0], [1, 0], [0, 1]]), [0, 0, 0, 1]),
        ("lengths count: centres are of the embeddings as they are",
         np.array([[5.0, 1], [1, 4], [-1, 3], [0, 9]]), [0, 0, 1, 1]),
        ("eight inputs", rng.normal(size=(8, 5)) + 1, [0, 1, 1, 0, 1, 0, 0, 1]),
        ("one cluster of twelve inputs: the first ten stand for all",
         rng.normal(size=(12, 3)) + 1, [0] * 12),
    ]:
        v, numbers = float32(v), np.array(labels)

        def truth(v: Array, numbers: Array = numbers) -> Any:
            return right.polysemanticity(v, numbers)

        yield notes, {"embeddings": v, "labels": numbers}, _about(truth, v)


def _absorption(rng: np.random.Generator) -> Entries:
    write = np.array([[1.0, 0, 0], [0.8, 0.6, 0], [0, 1, 0], [0.5, 0, 0.75**0.5]])
    z = np.array([[0.0, 2, 0, 0], [1, 1, 0, 0], [2, 0.5, 0, 0], [1, 0, 0, 1], [0, 0, 1, 1],
                  [0, 0.4, 0, 0.3]])
    d, everywhere = np.array([1.0, 0, 0]), np.ones(6, bool)
    five = np.array([[1.0, 0], *[[1.0, 0]] * 5, [0.0625, 1.0]])
    loud = np.array([[0.0, 1, 1, 1, 1, 1, 0], [0, 1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 0, 0],
                     [0, 0, 0, 0, 0, 0, 50], [0.5, 0, 0, 0, 0, 0, 50]])
    own = 2 * write * np.array([[1.0], [3], [1], [0.5]])
    plans: list[tuple[str, Array, Array, Array, Array, list[int], Array]] = [
        ("SAEBench's rules, to try by hand: 1, 4/9, 0, 0, 1, 1", z, write, z @ write, d, [0],
         everywhere),
        ("rates are over the inputs that have the feature", z, write, z @ write, d, [0],
         np.arange(6) < 3),
        ("a direction of length 3 is taken at length 1", z, write, z @ write, 3 * d, [0],
         everywhere),
        ("more of the feature than any unit writes", z, write, z @ write + 0.25 * d, d, [0],
         everywhere),
        ("three absorbers count at most, and of a cosine of 0.1 at least", loud, five, loud @ five,
         d[:2], [0], np.ones(5, bool)),
        ("two main units", z, write, z @ write, d, [0, 3], everywhere),
        ("rows of other lengths: neurons write a_i w_i", z, own, z @ own, d, [0], everywhere),
    ]
    for notes, z, w, x, direction, main, present in plans:
        arguments = {"z": float32(z), "write": float32(w), "x": float32(x),
                     "direction": float32(direction), "main": np.array(main), "present": present}
        fraction, full, mean, rate = right.absorption(**arguments)
        near = np.array(64.0)
        yield notes, arguments, [
            Expected(fraction.astype(float), np.full(len(z), 64.0)), Expected(full),
            Expected(mean.astype(float), near), Expected(rate.astype(float), near),
        ]


def _fms(rng: np.random.Generator) -> Entries:
    four = np.array([[0.0, 0], [0, 1], [1, 0], [1, 1]])
    twins = np.array([[0.0, 0], [0, 0], [1, 1], [1, 1]])
    several, many = float32(rng.normal(size=(14, 3))), float32(rng.normal(size=(30, 3)))
    noisy = several[:, 0] + 0.7 * rng.normal(size=14) > 0.3
    noisier = many[:, 0] + 0.8 * rng.normal(size=30) > 0
    steps = np.arange(8.0)[:, None]
    for notes, z, concept in [
        ("AND of two latents: 9/32", four, four.all(axis=1)),
        ("one latent holds it: 1", four, four[:, 0] > 0),
        ("twins hold it: 1/2, since either does", twins, twins[:, 0] > 0),
        ("XOR: no latent alone: 1/8", four, four[:, 0] != four[:, 1]),
        ("three latents and noise", several, noisy),
        ("a concept that is rare", several, several[:, 1] > np.sort(several[:, 1])[-4]),
        ("thirty inputs: the tree is deep", many, noisier),
        ("one latent, many steps: nothing is left without it", steps,
         np.array([0, 1, 1, 0, 1, 0, 0, 1], bool)),
        ("two latents together", several, several[:, 0] + several[:, 2] > 0),
    ]:
        score = right.fms(z, concept)
        yield notes, {"z": z, "concept": concept}, [Expected(score, np.array(float(BOUND)))]


def _separability(rng: np.random.Generator) -> Entries:
    three = np.array([0, 0, 1, 1, 1, 1, 2, 2, 0, 0, 0, 0.0])
    uneven = np.array([0, 0, 0, 1, 1, 1, 1, 1, 1, 2, 2])
    for notes, z, concepts, bins in [
        ("two concepts: shares (2, 1, 1, 0)/4 and (0, 1, 2, 1)/4",
         np.array([0.0, 0, 1, 2, 1, 2, 2, 4]), np.repeat([0, 1], 4), 4),
        ("the same in two bins", np.array([0.0, 0, 1, 2, 1, 2, 2, 4]), np.repeat([0, 1], 4), 2),
        ("three concepts: (1, 1, 0)/2, (0, 1, 1)/2 and (1, 0, 0)", three, np.arange(12) // 4, 3),
        ("three concepts of 3, 6 and 2 inputs, two neurons", rng.normal(size=(11, 2)), uneven, 4),
        ("a constant neuron: 0, and one that tells all apart: 1",
         np.stack([np.ones(4), np.array([0.0, 0, 8, 8])], axis=1), np.array([0, 0, 1, 1]), 5),
    ]:
        for aggregate in ("pairs", "one_vs_rest", "generalised"):
            arguments = {"z": float32(z), "concepts": concepts, "bins": bins,
                         "aggregate": aggregate}
            value = rounded(right.separability(
                **arguments, log=right.precise_log2, share=right.precise_share
            ))
            # the root of a divergence that is off by some roundings of the entropies
            allowed = BOUND * (1 + 8 / np.where(value == 0, 8.0, value))
            yield f"{notes}; {aggregate}", arguments, [Expected(value, allowed)]


def cases() -> Iterator[Case]:
    return grouped(SUITE, [
        ("mono-loss", "mono_loss", 31415926, _mono_loss),
        ("effective-features", "effective_features", 31415927, _effective),
        ("redundancy", "redundancy", 31415928, _redundancy),
        ("polysemanticity", "polysemanticity", 31415929, _polysemanticity),
        ("absorption", "absorption", 31415930, _absorption),
        ("fms", "feature_monosemanticity_score", 31415931, _fms),
        ("separability", "concept_separability", 31415932, _separability),
    ])


# ---- mistakes ----------------------------------------------------------------------------------


def _ordered(B: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(B) for j in range(B)]


MISTAKES = {
    "mono_loss": Mistakes(right.mono_loss, {
        "each input is paired with itself too": {"pairs": _ordered},
        "only neighbouring inputs are pairs":
            {"pairs": lambda B: [(i, i + 1) for i in range(B - 1)]},
        "activations as they are, not from 0 to 1": {"scaled": lambda z: z},
        "activations after a ReLU, over their maximum":
            {"scaled": lambda z: np.maximum(z, 0) / z.max() if z.max() > 0 else None},
        "embeddings are centred": {"alike": right.centred},
        "embeddings are not brought to length 1": {"alike": lambda v: v},
        "divided by the number of pairs": {"result": lambda alike, weights, pairs: alike / pairs},
        "neurons without a score count as 0": {"undefined": 0.0},
        "neurons without a score count as 1": {"undefined": 1.0},
        "the score, not 1 minus it": {"loss": lambda score: score},
        "minus the score": {"loss": lambda score: -score},
        "half of it, from 0 to 1": {"loss": lambda score: (1 - score) / 2},
    }),
    "effective_features": Mistakes(right.effective_features, {
        "no magnitudes: what is below 0 is subtracted":
            {"mass": lambda z: np.maximum(z.sum(axis=0), 0)},
        "what is below 0 is cut off": {"mass": lambda z: np.maximum(z, 0).sum(axis=0)},
        "squares for magnitudes": {"mass": lambda z: (z * z).sum(axis=0)},
        "how often a neuron is active": {"mass": lambda z: (z != 0).sum(axis=0)},
        "each neuron's highest": {"mass": lambda z: abs(z).max(axis=0)},
        "shares of inputs, not of neurons": {"mass": lambda z: abs(z).sum(axis=1)},
        "exp of an entropy in bits": {"log": np.log2},
        "2 to the power of an entropy in nats": {"exp": np.exp2},
        "the entropy itself": {"exp": lambda H: H},
        "1 / sum of squared shares": {"features": lambda p: 1 / (p * p).sum()},
        "over the number of neurons": {"features": lambda p: np.exp(
            right._entropy(list(p), np.log)) / len(p)},
        "the number of neurons that are active": {"features": lambda p: (p > 0).sum()},
        "1e-10 added to each share": {"added": 1e-10},
        "the mean over inputs": {"each": True},
    }),
    "redundancy": Mistakes(right.redundancy, {
        "each neuron is compared with itself too": {"diagonal": 1.0},
        "its own cosine is taken as 0": {"diagonal": 0.0},
        "its own cosine is taken as -1": {"diagonal": -1.0},
        "the mean cosine for the highest":
            {"of_row": lambda row: sum(row) / len(row)},
        "magnitudes of cosines": {"change": abs},
        "the lowest cosine": {"of_row": min},
        "concepts are not brought to length 1": {"alike": lambda v: v},
        "concepts are centred": {"alike": right.centred},
        "summed over neurons": {"over": sum},
        "the highest of all": {"over": max},
    }),
    "polysemanticity": Mistakes(right.polysemanticity, {
        "clusters of one input are as good as others": {"replaced": False},
        "all inputs, not the first ten": {"first": 99},
        "embeddings are brought to length 1 first": {"prepared": right.unit},
        "embeddings are centred": {"prepared": lambda v: v - v.mean(axis=0)},
        "the cosine itself": {"result": lambda cosine: cosine},
        "half of it, from 0 to 1": {"result": lambda cosine: (1 - cosine) / 2},
        "magnitude of the cosine": {"result": lambda cosine: 1 - abs(cosine)},
        "cut off at 1": {"result": lambda cosine: np.minimum(1 - cosine, 1)},
        "the product for the cosine": {"cosine": lambda a, b: a @ b},
        "each cluster's first input for its mean": {"of": "first"},
        "clusters of two inputs are too small": {"enough": 3},
    }),
    "absorption": Mistakes(right.absorption, {
        "others of any cosine count": {"aligned": -2.0},
        "all others count, not three": {"most": None},
        "one other counts, not three": {"most": 1},
        "others count in full, beyond what is missing": {"capped": False},
        "a main unit that is silent is enough for full": {"silent": any},
        "no least share of the feature": {"share": 0.0},
        "rates are over all inputs": {"rates_over_all": True},
        "cosines for what is written: lengths do not count": {"lengths": False},
        "full asks for a cosine of 0.1 too": {"alone": 0.1},
    }),
    "feature_monosemanticity_score": Mistakes(right.fms, {
        "local without the 2": {"twice": 1.0},
        "global without the mean: summed": {"over": lambda deeper: 1},
        "local times global": {"joined": lambda local, overall: local * overall},
        "F1 for accuracy": {"rate": right.f1},
        "depth 0 is in the mean": {"depths": lambda D: [0, *range(2, D + 1)]},
        "depth 1 is in the mean": {"depths": lambda D: range(1, D + 1)},
        "only the whole tree": {"depths": lambda D: [D] if D > 1 else []},
        "not multiplied by the accuracy": {"weighted": False},
        "local alone": {"joined": lambda local, overall: local},
        "global alone": {"joined": lambda local, overall: overall},
        "local and global added": {"joined": lambda local, overall: local + overall},
        "the best latent is not removed": {"removes": False},
    }),
    "concept_separability": Mistakes(right.separability, {
        "the divergence, not its root": {"root": lambda x: x},
        "natural logarithms, not bits": {"log": np.log},
        "bins of each concept, not of all": {"edges": right.edges_of_concept},
        "densities, not shares":
            {"share": lambda counts, width: counts / counts.sum() / width},
        "numbers of inputs, not shares": {"share": lambda counts, width: counts / 1.0},
        "shares of the largest bin": {"share": lambda counts, width: counts / counts.max()},
        "1e-6 added to each share":
            {"share": lambda counts, width:
                (counts / counts.sum() + 1e-6) / (1 + 1e-6 * counts.size)},
        "one bin more": {"edges": lambda z, here, bins: right.edges_of_all(z, here, bins + 1)},
        "total variation": {"between": lambda p, q, log: (abs(p - q).sum() / 2) ** 2},
        "the highest of all": {"over": max},
        "the lowest of all": {"over": min},
        "summed": {"over": sum},
        "each concept is paired with itself too": {"some": lambda C: _ordered(C)},
        "only neighbouring concepts are paired":
            {"some": lambda C: [(i, i + 1) for i in range(C - 1)]},
        "pairs, whatever was asked for": {"taken": lambda name: "pairs"},
        "one against the rest, whatever was asked for": {"taken": lambda name: "one_vs_rest"},
        "all at once, whatever was asked for": {"taken": lambda name: "generalised"},
        "the rest is pooled, input by input":
            {"rest": lambda others, counts: sum(counts) / np.sum(counts)},
    }),
}


def _own_absorption(z: Array, write: Array, x: Array, direction: Array, main: Array,
                    present: Array) -> tuple[Any, ...]:
    found = mono.absorption(z, write, x, direction, main.tolist(), present=present)
    return found.fraction, found.full, np.array(found.mean_fraction), np.array(found.full_rate)


SUITE = Suite(
    name="metrics",
    text="measures of monosemanticity from other papers",
    conventions={
        "neurons": "all axes but the first; axis 0 is the samples",
        "undefined": "nan; a neuron without a score does not count in mono_loss",
        "ties": "of equally good splits the lowest latent's, then the lowest",
        "epsilon": "none anywhere",
        "concept separability": "a reconstruction: base 2, bins and aggregation are our choice",
    },
    calls=(
        Call("mono_loss", ("z", "embeddings"), ("loss",),
             "z (B, *neurons); embeddings (B, D). 1 - the mean over neurons of\n"
             "sum a_i a_j cos_ij / sum a_i a_j over pairs i < j, a = (z - min) / (max - min)."),
        Call("effective_features", ("z",), ("features",),
             "z (B, *neurons). exp(-sum p ln p), p each neuron's share of the sum of |z|."),
        Call("redundancy", ("concepts",), ("redundancy",),
             "concepts (neurons, D). The mean over neurons of the highest cosine with another."),
        Call("polysemanticity", ("embeddings", "labels"), ("polysemanticity",),
             "embeddings (n, D) of one neuron's inputs; labels (n,), two clusters. 1 - the cosine "
             "of\nthe clusters' means. If one has a single input: 1 - the mean cosine of the mean "
             "of all\nand each of the first ten."),
        Call("absorption", ("z", "write", "x", "direction", "main", "present"),
             ("fraction", "full", "mean_fraction", "full_rate"),
             "z (B, n), write (n, D), x (B, D), direction (D,), main: numbers of the main units,\n"
             "present booleans (B,). As SAEBench, with a_i w_i . d for what a unit writes; the\n"
             "last two are means over the inputs that are present."),
        Call("feature_monosemanticity_score", ("z", "concept"), ("score",),
             "z (B, n), concept booleans (B,). acc_0 (2 (acc_0 - acc_1) + 1 - mean over depths d\n"
             "from 2 of (acc_d - acc_0)) / 2, of CART trees with Gini impurity, on the inputs\n"
             "that they are grown on."),
        Call("concept_separability", ("z", "concepts", "*", "bins", "aggregate"),
             ("separability",),
             "z (B, *neurons); concepts (B,), numbers from 0. The Jensen-Shannon distance (base 2, "
             "the\nroot) of histograms over equal bins from the neuron's least to its highest: "
             '"pairs": the\nmean over pairs of concepts; "one_vs_rest": of each and the mean of '
             'the others\' shares;\n"generalised": the root of the divergence of all, over log2 '
             "C."),
    ),
    cases=cases,
    own={
        "mono_loss": lambda z, e: mono.mono_loss(z, e).data,
        "effective_features": lambda z: np.array(mono.effective_features(z)),
        "redundancy": lambda concepts: np.array(mono.redundancy(concepts)),
        "polysemanticity": lambda v, labels: mono.polysemanticity(v, labels=labels),
        "absorption": _own_absorption,
        "feature_monosemanticity_score": lambda z, concept: np.array(
            mono.feature_monosemanticity_score(z, concept).score
        ),
        "concept_separability": mono.concept_separability,
    },
    mistakes=MISTAKES,
)
