"""Whole numbers, booleans and float16 give what the same numbers give in float64: none wraps."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest

import minimono as mm
from minimono import mono

KINDS = np.array([0, 0, 1, 1, 2, 2])


def extremes(dtype: Any) -> Any:
    """(6, 4), from the least to the greatest number of the dtype."""
    if dtype is np.bool:
        return np.random.default_rng(0).integers(0, 2, (6, 4)).astype(bool)
    if np.dtype(dtype).kind == "f":
        low, high = -60000.0, 60000.0
    else:
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    rng = np.random.default_rng(0)
    z = rng.choice(np.linspace(float(low), float(high), 7), (6, 4)).clip(low / 2, high / 2)
    z = z.astype(dtype)
    z[0, 0], z[1, 1] = low, high
    return z


def tracked(**settings: Any) -> Callable[[Any], Any]:
    def run(z: Any) -> Any:
        tracker = mono.ScaleTracker(**settings)
        phis = [tracker.score(z[:3]), tracker.score(z[3:]), tracker.flag_top_k(z, 2)]
        return *phis, tracker.flag(z, mono.Above(1.0)), tracker.mean, tracker.variance

    return run


def moved(z: Any) -> Any:
    threshold = mono.MovingThreshold(0.25)
    return threshold.select(z), threshold.select(z[::-1]), threshold.value


def scores(z: Any) -> Any:
    found = mono.score_batch(z[3:], mono.Moments.of(z), top_k=2, threshold=0.5, keep_phi=True)
    batch = found.batch
    return *found[:-1], batch.mean, batch.m2


FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "Moments.of": lambda z: (mono.Moments.of(z).mean, mono.Moments.of(z).m2),
    "Moments.update": lambda z: mono.Moments.of(z[:2]).update(z[2:]).variance(),
    "Moments()": lambda z: mono.Moments(5, z[0], z[0] != 0).merge(mono.Moments.of(z)).m2,
    "monosemantic_scale": lambda z: mono.monosemantic_scale(z, z[0], abs_of(z[1])),
    "score_batch": scores,
    "tracker, paper": tracked(compensation=0.5),
    "tracker, authors": tracked(convention="authors", compensation=0.5),
    "select_top_k": lambda z: mono.select_top_k(z, 2),
    "select_top_fraction": lambda z: mono.select_top_fraction(z, 0.3, per="batch"),
    "select_above": lambda z: mono.select_above(z, 0.5),
    "MovingThreshold": moved,
    "feature_scale": lambda z: mono.feature_scale(z, KINDS),
    "false_killing_rate": lambda z: mono.false_killing_rate(z, KINDS, np.arange(4) % 3, k=3),
    "kolmogorov_smirnov": lambda z: mono.kolmogorov_smirnov(z[:3], z[3:]),
    "feature_dimensionality": lambda z: mono.feature_dimensionality(z),
    "class_selectivity": lambda z: mono.class_selectivity(positive(z), KINDS),
    "single_feature_purity": lambda z: mono.single_feature_purity(positive(z)),
    "monosemanticity_score": lambda z: mono.monosemanticity_score(z, np.vander(KINDS + 1.0)),
    "clarity": lambda z: mono.clarity(z + (z == 0)),
    "hoyer_sparsity": mono.hoyer_sparsity,
    "variance_sparsity": mono.variance_sparsity,
    "effective_features": mono.effective_features,
    "feature_monosemanticity_score": lambda z: mono.feature_monosemanticity_score(z, KINDS == 1),
    "polysemanticity": lambda z: mono.polysemanticity(z + (z == 0), rng=0),
    "concept_similarity": lambda z: mono.concept_similarity(z + (z == 0), np.vander([1, 2, 3, 4])),
    "redundancy": lambda z: mono.redundancy(z + (z == 0), per_neuron=True),
    "jensen_shannon_distance": lambda z: mono.jensen_shannon_distance(
        positive(z), positive(z[::-1])
    ),
    "concept_separability": lambda z: mono.concept_separability(z, KINDS),
    "absorption": lambda z: mono.absorption(positive(z), z[:4], z, z[0] + 1.0, [1], bias=z[2]),
    "main_units": lambda z: mono.main_units(z, KINDS == 1),
    "active_nodes": mono.active_nodes,
    "active_counts": lambda z: mono.active_counts(z, per="sample"),
    "prune_by_magnitude": lambda z: mono.prune_by_magnitude([z], 0.5),
    "feature_decorrelation": lambda z: mono.feature_decorrelation(z + (z == 0)),
    "superposition_proxy": lambda z: mono.superposition_proxy(z, z[0]),
    "fold_into_linear": lambda z: mono.fold_into_linear(z, z[0], z[:, 0], z[:, 1]),
    "superposition_scores": lambda z: mono.superposition_scores([(z, z[0], z[:, 0], z[:, 1])]),
    "reference_samples": lambda z: mono.reference_samples(z, 1, n=1),
    "mean_over_positions": lambda z: mono.mean_over_positions(z[:, :, None]),
    "virtual_neurons": lambda z: mono.virtual_neurons(z, rng=0),
    "route": lambda z: mono.route(z, z[:2]),
    "split_weights": lambda z: mono.split_weights(z[0], z[1], z[2]),
    "cluster_distances": lambda z: mono.cluster_distances(z, KINDS),
    "alignment": lambda z: mono.alignment(z, z[::-1]),
    "cluster_purity": lambda z: mono.cluster_purity(KINDS, KINDS[::-1]),
    "circuit_attribution": lambda z: mono.circuit_attribution(
        z, lambda x: x @ mm.tensor(np.vander([1.0, 2.0, 3.0, 4.0])), 1
    ),
}


def abs_of(z: Any) -> Any:
    """Whose absolute value fits into the dtype."""
    return z * (z > 0)


def positive(z: Any) -> Any:
    return z * (z > 0)


def flat(result: Any) -> list[Any]:
    if isinstance(result, tuple | list):
        return [part for each in result for part in flat(each)]
    return [] if result is None else [np.asarray(result)]


@pytest.mark.parametrize("version", ["kernel", "reading version"])
@pytest.mark.parametrize(
    "dtype",
    [np.bool, np.uint8, np.int8, np.uint16, np.int16, np.int32, np.uint32, np.float16],
)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_dtype_gives_what_float64_gives(name: str, dtype: Any, version: str) -> None:
    z = extremes(dtype)
    with nullcontext() if version == "kernel" else mm.reference():
        found = flat(FUNCTIONS[name](z))
        wanted = flat(FUNCTIONS[name](z.astype(np.float64)))
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        if one.dtype != bool and one.dtype != dtype:  # `split_weights` keeps the weights' own
            assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-300)


@pytest.mark.parametrize("number", [np.float16, np.float32, np.float64, np.longdouble, np.int8])
def test_settings_as_numpys_numbers_do_not_change_the_dtype(number: Any) -> None:
    """Nor do they round: what is in them is taken as it is."""
    z = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    x = mm.tensor(z, requires_grad=True)
    mean, mask = z.mean(axis=0), z > 0.5
    one, plain = number(1), 1.0
    for call in (
        lambda s: mono.deactivate(x, mask, mean, strength=s).data,
        lambda s: mono.monosemantic_scale(z, mean, z.var(axis=0), compensation=s),
        lambda s: mono.select_above(z, s),
        lambda s: mono.ScaleTracker(compensation=s).score(z),
        lambda s: mono.MEmeL(strength=s, compensation=s)(x).data,
        lambda s: mono.dpo_loss(z[0], z[1], z[2], z[3], beta=s).data,
        lambda s: mono.simpo_loss(z[0], z[1], beta=s, gamma=s).data,
        lambda s: mono.decpo_loss(z[:3, 0], z[:3, 1], z[:3, 2], z[:3, 3], z, weight=s).data,
        lambda s: mono.implicit_reward(z[0], z[1], beta=s).data,
    ):
        found, wanted = call(one), call(plain)
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found, wanted)


def test_counts_as_numpys_small_integers_do_not_wrap() -> None:
    assert mono.emergence([np.uint8(200)] * 3, [np.uint8(3)] * 3) == mono.emergence(
        [200] * 3, [3] * 3
    )
    assert mono.emergence([10**30, 2], [1, 2]) == (10**30 - 1) * 2
    assert mono.relative_emergence(np.uint8(200), np.uint8(100)) == 2.0
    assert mono.relative_emergence(10**400, 10**399) == 10.0
    z = np.ones((2, 300), np.uint8)
    assert mono.active_counts(z) == 300
    np.testing.assert_array_equal(mono.active_counts(z, per="sample"), [300, 300])


@pytest.mark.parametrize("version", ["kernel", "reading version"])
def test_negative_zero_is_zero(version: str) -> None:
    """As a distance, a score, a threshold."""
    with nullcontext() if version == "kernel" else mm.reference():
        z = np.array([[-0.0, 0.0], [0.0, -0.0]])
        moments = mono.Moments.of(z)
        assert not moments.m2.any()
        np.testing.assert_array_equal(
            mono.select_top_k(np.array([[-0.0, 0.0, -1.0]]), 1), [[True, True, False]]
        )
        assert mono.select_above(z, 0.0).all()
        assert mono.select_above(z, -0.0).all()


@pytest.mark.parametrize("version", ["kernel", "reading version"])
def test_moments_say_where_samples_are_few(version: str) -> None:
    z = np.random.default_rng(0).standard_normal((2, 6, 4))
    with nullcontext() if version == "kernel" else mm.reference():
        few = mono.Moments.of(z)
        phi = mono.monosemantic_scale(z, few.mean, few.variance())
        np.testing.assert_allclose(phi, 0.5)
        for said in (few.note, repr(few)):
            assert "2 samples of each neuron are few" in said
            assert "z.reshape(-1, 4)" in said
        assert "reshape" not in mono.Moments.of(z[:, 0]).note
        many = mono.Moments.of(z.reshape(-1, 4))
        assert many.note == mono.Moments.empty((6, 4)).note == ""
        assert "note" not in repr(many)


@pytest.mark.parametrize("make", [mono.ScaleTracker, mono.MEmeL, mono.L2E])
def test_another_length_of_sequence_says_what_to_do(make: Any) -> None:
    thing = make()
    call = thing.score if make is mono.ScaleTracker else lambda z: thing(mm.tensor(z))
    call(np.random.default_rng(0).standard_normal((3, 6, 4)))
    with pytest.raises(
        ValueError,
        match=rf"^{make.__name__}: batch has neurons of shape \(5, 4\), earlier batches had "
        r"\(6, 4\);.*a neuron is a \(position, channel\).*pad or cut",
    ):
        call(np.ones((3, 5, 4)))
