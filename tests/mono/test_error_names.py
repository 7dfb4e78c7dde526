"""Every error says, in its first words, which function and which argument it is about."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minimono as mm
from minimono import mono

TEXT = np.array([["1", "2"], ["3", "4"]])  # no numbers: refused as dtype
BAD = np.array([[1.0, np.nan], [1.0, 2.0]])
LESS = np.array([[1.0, -1.0], [1.0, 2.0]])
Z = np.array([[1.0, 2.0], [3.0, 5.0]])
NULL = np.array([[0.0, 0.0], [3.0, 5.0]])
V = np.array([1.0, 2.0])
FLAGS = np.array([[True, False], [False, False]])
KINDS = np.array([0, 1])
MOMENTS = mono.Moments.of(Z)
MASK = np.ones((2, 2))
NODES = [np.array([True, False])] * 2


def loaded(thing: Any, **changed: Any) -> Any:
    return thing.load_state_dict({**thing.state_dict(), **changed})


CALLS: list[tuple[str, Callable[[], Any]]] = [
    ("Moments: count", lambda: mono.Moments(0.5, V, V)),
    ("Moments.variance: ddof", lambda: MOMENTS.variance(0.5)),
    ("Moments.resized: count", lambda: MOMENTS.resized(0.5)),
    ("activations", lambda: mono.Moments.of(TEXT)),
    ("activations", lambda: mono.Moments.of(BAD)),
    ("monosemantic_scale: z", lambda: mono.monosemantic_scale(TEXT, V, V)),
    ("monosemantic_scale: z", lambda: mono.monosemantic_scale(BAD, V, V)),
    ("monosemantic_scale: mean", lambda: mono.monosemantic_scale(Z, TEXT[0], V)),
    ("monosemantic_scale: mean", lambda: mono.monosemantic_scale(Z, V / 0.5 * np.inf, V)),
    ("monosemantic_scale: variance", lambda: mono.monosemantic_scale(Z, V, TEXT[0])),
    ("monosemantic_scale: variance", lambda: mono.monosemantic_scale(Z, V, -V)),
    ("monosemantic_scale: mean has shape (3,), activations have 2 neurons (axis 1)",
     lambda: mono.monosemantic_scale(Z, np.ones(3), V)),
    ("monosemantic_scale: variance has shape (2,), activations have neurons of shape (2, 3) "
     "(axes 1 to 2)",
     lambda: mono.monosemantic_scale(np.ones((4, 2, 3)), np.ones((2, 3)), V)),
    ("monosemantic_scale: compensation",
     lambda: mono.monosemantic_scale(Z, V, V, compensation="1")),
    ("monosemantic_scale: compensation",
     lambda: mono.monosemantic_scale(Z, V, V, compensation=-1.0)),
    ("variance + compensation",
     lambda: mono.monosemantic_scale(Z, V, V * 5e307, compensation=9.0)),
    ("score_batch: z", lambda: mono.score_batch(TEXT, MOMENTS)),
    ("score_batch: moments", lambda: mono.score_batch(Z[:, :1], MOMENTS)),
    ("score_batch: top_k", lambda: mono.score_batch(Z, MOMENTS, top_k=0.5)),
    ("score_batch: top_k", lambda: mono.score_batch(Z, MOMENTS, top_k=3)),
    ("score_batch: threshold", lambda: mono.score_batch(Z, MOMENTS, threshold="1")),
    ("score_batch: threshold", lambda: mono.score_batch(Z, MOMENTS, threshold=np.nan)),
    ("score_batch: compensation", lambda: mono.score_batch(Z, MOMENTS, compensation="1")),
    ("score_batch: compensation", lambda: mono.score_batch(Z, MOMENTS, compensation=np.inf)),
    ("ScaleTracker: convention", lambda: mono.ScaleTracker(convention="other")),
    ("ScaleTracker: forget_after", lambda: mono.ScaleTracker(forget_after=0.5)),
    ("ScaleTracker: compensation", lambda: mono.ScaleTracker(compensation="1")),
    ("activations", lambda: mono.ScaleTracker().score(TEXT)),
    ("activations", lambda: mono.ScaleTracker().flag_top_k(TEXT, 1)),
    ("ScaleTracker.mean", lambda: mono.ScaleTracker().mean),
    ("ScaleTracker.variance", lambda: mono.ScaleTracker().variance),
    ("ScaleTracker.moments", lambda: mono.ScaleTracker().moments),
    ("ScaleTracker.load_state_dict", lambda: mono.ScaleTracker().load_state_dict({})),
    ("ScaleTracker.load_state_dict: batches_seen",
     lambda: loaded(mono.ScaleTracker(), batches_seen=np.array(0.5))),
    ("ScaleTracker.load_state_dict: count",
     lambda: loaded(mono.ScaleTracker(), count=np.array(0.5))),
    ("select_top_k: phi", lambda: mono.select_top_k(TEXT, 1)),
    ("select_top_k: k, with 2 scores per sample", lambda: mono.select_top_k(Z, 0.5)),
    ("select_top_k: per", lambda: mono.select_top_k(Z, 1, per="row")),
    ("select_top_k: ties", lambda: mono.select_top_k(Z, 1, ties="last")),
    ("select_top_fraction: phi", lambda: mono.select_top_fraction(TEXT, 0.5)),
    ("select_top_fraction: fraction", lambda: mono.select_top_fraction(Z, "1")),
    ("select_top_fraction: per", lambda: mono.select_top_fraction(Z, 0.5, per="row")),
    ("select_top_fraction: ties", lambda: mono.select_top_fraction(Z, 0.5, ties="last")),
    ("select_above: phi", lambda: mono.select_above(TEXT, 0.5)),
    ("select_above: threshold", lambda: mono.select_above(Z, "1")),
    ("feature_dimensionality: features: got dtype", lambda: mono.feature_dimensionality(TEXT)),
    ("feature_dimensionality: features: got shape (2,), expected (F, D)",
     lambda: mono.feature_dimensionality(V)),
    ("feature_dimensionality: features: got nan at [0, 1], expected finite numbers",
     lambda: mono.feature_dimensionality(BAD)),
    ("class_selectivity: z: got dtype", lambda: mono.class_selectivity(TEXT, KINDS)),
    ("class_selectivity: z: got -1.0 at [0, 1], expected no negative numbers: take activations "
     "after a ReLU", lambda: mono.class_selectivity(LESS, KINDS)),
    ("class_selectivity: labels", lambda: mono.class_selectivity(Z, KINDS * 0.5)),
    ("single_feature_purity: responses: got dtype", lambda: mono.single_feature_purity(TEXT)),
    ("single_feature_purity: responses: got -1.0", lambda: mono.single_feature_purity(LESS)),
    ("monosemanticity_score: z: got dtype", lambda: mono.monosemanticity_score(TEXT, Z)),
    ("monosemanticity_score: embeddings: got dtype", lambda: mono.monosemanticity_score(Z, TEXT)),
    ("monosemanticity_score: embeddings: got shape (2,), expected (B, D)",
     lambda: mono.monosemanticity_score(Z, V)),
    ("monosemanticity_score: embeddings: lengths: got 0.0 at [0], expected more than 0",
     lambda: mono.monosemanticity_score(Z, NULL)),
    ("clarity: embeddings: got dtype", lambda: mono.clarity(TEXT)),
    ("clarity: embeddings: lengths: got 0.0 at [0]", lambda: mono.clarity(NULL)),
    ("hoyer_sparsity: x: got dtype", lambda: mono.hoyer_sparsity(TEXT)),
    ("variance_sparsity: z: got dtype", lambda: mono.variance_sparsity(TEXT)),
    ("active_nodes: z: got dtype", lambda: mono.active_nodes(TEXT)),
    ("active_nodes: z: neuron 1", lambda: mono.active_nodes(BAD)),
    ("active_nodes: threshold", lambda: mono.active_nodes(Z, "1")),
    ("emergence: form", lambda: mono.emergence([1], [1], form="C")),
    ("emergence: widths[1]", lambda: mono.emergence([1, 0.5], [1, 1])),
    ("emergence: active[1]", lambda: mono.emergence([1, 1], [1, 0.5])),
    ("emergence_of_masks: form", lambda: mono.emergence_of_masks([MASK], NODES, form="C")),
    ("emergence_of_masks: masks[0]: got dtype", lambda: mono.emergence_of_masks([TEXT], NODES)),
    ("emergence_of_masks: masks[0]: got 2", lambda: mono.emergence_of_masks([2 * MASK], NODES)),
    ("emergence_of_masks: masks[0] has shape",
     lambda: mono.emergence_of_masks([MASK[:1]], NODES)),
    ("emergence_of_masks: active[1]",
     lambda: mono.emergence_of_masks([MASK], [NODES[0], V])),
    ("emergence_of_graph: form", lambda: mono.emergence_of_graph({}, [], form="C")),
    ("relative_emergence: value", lambda: mono.relative_emergence(0.5, 1)),
    ("relative_emergence: parameters", lambda: mono.relative_emergence(1, 0.5)),
    ("ConvMask: kernel", lambda: mono.ConvMask(TEXT)),
    ("ConvMask: stride", lambda: mono.ConvMask(MASK[None, None], 0.5)),
    ("ConvMask: padding", lambda: mono.ConvMask(MASK[None, None], 1, 0.5)),
    ("pool_mask: channels", lambda: mono.pool_mask(0.5, 1)),
    ("pool_mask: size", lambda: mono.pool_mask(1, 0.5)),
    ("prune_by_magnitude: weights is", lambda: mono.prune_by_magnitude(Z, 0.5)),
    ("prune_by_magnitude: fraction", lambda: mono.prune_by_magnitude([Z], "1")),
    ("prune_by_magnitude: weights[1]", lambda: mono.prune_by_magnitude([Z, TEXT], 0.5)),
    ("initialise_by_distance: alpha",
     lambda: mono.initialise_by_distance([(2, 2)], "1", rng=np.random.default_rng(0))),
    ("initialise_by_distance: shapes[1]",
     lambda: mono.initialise_by_distance([(2, 2), (2, 0.5)], 1.0, rng=np.random.default_rng(0))),
    ("deactivate: z", lambda: mono.deactivate(mm.tensor(KINDS), KINDS == 1, V)),
    ("deactivate: mask", lambda: mono.deactivate(mm.tensor(Z), Z, V)),
    ("deactivate: mean", lambda: mono.deactivate(mm.tensor(Z), FLAGS, TEXT[0])),
    ("deactivate: strength", lambda: mono.deactivate(mm.tensor(Z), FLAGS, V, strength="1")),
    ("deactivate: strength", lambda: mono.deactivate(mm.tensor(Z), FLAGS, V, strength=np.inf)),
    ("MEmeL: k", lambda: mono.MEmeL(k=0.5)),
    ("MEmeL: strength", lambda: mono.MEmeL(strength="1")),
    ("MEmeL: strength", lambda: mono.MEmeL(strength=np.nan)),
    ("MEmeL: start_after", lambda: mono.MEmeL(start_after=0.5)),
    ("MEmeL: activations", lambda: mono.MEmeL()(mm.tensor(1.0))),
    ("feature_scale: z", lambda: mono.feature_scale(TEXT, KINDS)),
    ("feature_scale: features: got dtype", lambda: mono.feature_scale(Z, V)),
    ("feature_scale: features: got -1, expected 0 or more",
     lambda: mono.feature_scale(Z, KINDS - 1)),
    ("own_feature: feature_of_neuron: got dtype", lambda: mono.own_feature(KINDS, V)),
    ("own_feature: feature_of_neuron: got -2, expected -1 or more",
     lambda: mono.own_feature(KINDS, KINDS - 2)),
    ("own_feature: feature_of_neuron: got feature 2", lambda: mono.own_feature(FLAGS, KINDS + 1)),
    ("own_feature: features_of_input: got dtype", lambda: mono.own_feature(V, KINDS)),
    ("false_killing_rate: phi", lambda: mono.false_killing_rate(TEXT, KINDS, KINDS, k=1)),
    ("kolmogorov_smirnov: sample: got dtype", lambda: mono.kolmogorov_smirnov(TEXT, Z)),
    ("kolmogorov_smirnov: other: got dtype", lambda: mono.kolmogorov_smirnov(Z, TEXT)),
    ("MovingThreshold: fraction", lambda: mono.MovingThreshold("1")),
    ("MovingThreshold: fraction", lambda: mono.MovingThreshold(1.0)),
    ("MovingThreshold: rate", lambda: mono.MovingThreshold(rate="1")),
    ("MovingThreshold: rate", lambda: mono.MovingThreshold(rate=0.0)),
    ("MovingThreshold: phi", lambda: mono.MovingThreshold().select(TEXT)),
    ("MovingThreshold.load_state_dict: got", lambda: mono.MovingThreshold().load_state_dict({})),
    ("MovingThreshold.load_state_dict: value",
     lambda: loaded(mono.MovingThreshold(), value=np.array(-1.0))),
    ("log_distance_penalty: mask", lambda: mono.log_distance_penalty(mm.tensor(Z), Z, V)),
    ("log_distance_penalty: reduction",
     lambda: mono.log_distance_penalty(mm.tensor(Z), FLAGS, V, reduction="max")),
    ("L2E: start_after", lambda: mono.L2E(start_after=0.5)),
    ("L2E: activations", lambda: mono.L2E()(mm.tensor(KINDS))),
    ("feature_decorrelation: z: got dtype", lambda: mono.feature_decorrelation(TEXT)),
    ("feature_decorrelation: z: neuron 1", lambda: mono.feature_decorrelation(BAD)),
    ("decorrelation_penalty: z", lambda: mono.decorrelation_penalty(mm.tensor(KINDS))),
    ("decorrelation_penalty: over", lambda: mono.decorrelation_penalty(Z, over="rows")),
    ("decorrelation_penalty: convention",
     lambda: mono.decorrelation_penalty(Z, convention="other")),
    ("l1_penalty: z", lambda: mono.l1_penalty(mm.tensor(KINDS))),
    ("superposition_proxy: w_in: got dtype", lambda: mono.superposition_proxy(TEXT, V)),
    ("superposition_proxy: w_in has shape", lambda: mono.superposition_proxy(V, V)),
    ("superposition_proxy: w_in: neuron 1", lambda: mono.superposition_proxy(BAD, V)),
    ("superposition_proxy: b_in: got dtype", lambda: mono.superposition_proxy(Z, TEXT[0])),
    ("superposition_proxy: b_in: neuron () of sample 1",
     lambda: mono.superposition_proxy(Z, BAD[0])),
    ("fold_into_linear: w_in has shape", lambda: mono.fold_into_linear(V, V, V, V)),
    ("fold_into_linear: gain: got dtype", lambda: mono.fold_into_linear(Z, V, TEXT[0], V)),
    ("fold_into_linear: gain: neuron", lambda: mono.fold_into_linear(Z, V, BAD[0], V)),
    ("fold_into_linear: shift: got dtype", lambda: mono.fold_into_linear(Z, V, V, TEXT[0])),
    ("fold_into_linear: shift: neuron", lambda: mono.fold_into_linear(Z, V, V, BAD[0])),
]  # fmt: skip


@pytest.mark.parametrize(
    ("start", "call"), CALLS, ids=[f"{i} {start[:40]}" for i, (start, _) in enumerate(CALLS)]
)
def test_the_error_names_function_and_argument(start: str, call: Callable[[], Any]) -> None:
    with pytest.raises((TypeError, ValueError, RuntimeError), match=f"^{re.escape(start)}"):
        call()
