"""Zipf's rates, correlations, hierarchies: closed forms, and samples whose truth is known."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from minimono.data import (
    Hierarchy,
    World,
    draw_neurons,
    low_rank_correlation,
    nearest_correlation,
    plant,
    zipf_rates,
)

few = settings(max_examples=30)
B = 60_000


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def near(got, want, inputs: int = B) -> None:
    """Of a sample: five standard deviations, at most."""
    want = np.asarray(want)
    assert (abs(np.asarray(got) - want) < 5 * np.sqrt(want * (1 - want) / inputs) + 1e-12).all()


# ------------------------------------------------------------------------------------------- rates


def test_zipf_rates() -> None:
    """Authors' code, run on the first. Wrong: highest · i^-s, or divided by the sum."""
    got = zipf_rates(4, highest=0.3, lowest=0.01)
    np.testing.assert_allclose(got, [0.3, 0.1066667, 0.0422222, 0.01], atol=1e-7)
    got = zipf_rates(16384, exponent=0.5)
    assert (got[0], got[-1]) == (0.4, 5e-4)
    assert (np.diff(got) < 0).all()
    np.testing.assert_allclose(zipf_rates(5, highest=0.2, lowest=0.2), 0.2)


# ------------------------------------------------------------------------------------ correlations


@pytest.mark.parametrize(("p", "both"), [(0.5, 1 / 3), (0.1, 0.0324015)])
def test_firing_correlates_less_than_the_gaussians(p: float, both: float) -> None:
    """Closed form at ½: 1/4 + asin(ρ)/2π. Marginals are exact. Wrong: ρ as the binary one."""
    R = np.array([[1.0, 0.5], [0.5, 1.0]])
    _, features = World(np.eye(2), p, correlation=R).sample(B, rng=generator())
    near(features.mean(axis=0), [p, p])
    near(features.all(axis=1).mean(), both)


def test_independent_gaussians_are_independent_features() -> None:
    _, features = World(np.eye(3), [0.1, 0.5, 0.8], correlation=np.eye(3)).sample(
        B, rng=generator()
    )
    for i, j in itertools.combinations(range(3), 2):
        p = [0.1, 0.5, 0.8]
        near((features[:, i] & features[:, j]).mean(), p[i] * p[j])


def test_low_rank_correlations() -> None:
    for scale in (0.1, 5.0):
        R = low_rank_correlation(30, 4, scale=scale, rng=generator())
        np.testing.assert_array_equal(R.diagonal(), 1)
        np.testing.assert_array_equal(R, R.T)
        assert np.linalg.eigvalsh(R).min() > 0.009
        A = scale * generator().standard_normal((30, 4))
        most = (A * A).sum(axis=1).max()
        A *= math.sqrt(0.99 / most) if most >= 1 else 1
        off = ~np.eye(30, dtype=bool)
        np.testing.assert_allclose(R[off], (A @ A.T)[off], atol=1e-14)
    np.testing.assert_array_equal(low_rank_correlation(3, 2, scale=0.0, rng=0), np.eye(3))


def test_wished_correlations_become_possible_ones() -> None:
    """Authors' code, run on the first: (.9, -.9, .9) becomes (.5, -.5, .5)."""
    R = np.array([[1, 0.9, -0.9], [0.9, 1, 0.9], [-0.9, 0.9, 1]])
    repaired = nearest_correlation(R)
    np.testing.assert_allclose(repaired[np.triu_indices(3, 1)], [0.5, -0.5, 0.5], atol=1e-5)
    assert np.linalg.eigvalsh(repaired).min() > 0
    np.testing.assert_allclose(nearest_correlation(repaired), repaired, atol=1e-6)
    sound = low_rank_correlation(4, 2, scale=0.5, rng=1)
    np.testing.assert_array_equal(nearest_correlation(sound), sound)
    World(np.eye(3), 0.5, correlation=repaired)
    with pytest.raises(ValueError, match="World: correlation has no positive eigenvalues only"):
        World(np.eye(3), 0.5, correlation=R)


# ----------------------------------------------------------------------------------------- amounts


def test_amounts_are_gaussian_cut_at_0() -> None:
    world = World(np.eye(2), 0.3, amount=[2.0, 0.5], spread=[0.5, 1.0])
    c = world.amounts(B, rng=generator())
    x, features = world.sample(B, rng=generator())
    np.testing.assert_array_equal(x, c)
    np.testing.assert_array_equal(features, c > 0)
    normal = [0.5 * math.erfc(-mean / math.sqrt(2)) for mean in (4.0, 0.5)]
    near(features.mean(axis=0), 0.3 * np.array(normal))  # it may fire, and not be there
    assert c[c[:, 0] > 0, 0].mean() == pytest.approx(2.0, abs=0.02)
    assert c[c[:, 0] > 0, 0].std() == pytest.approx(0.5, abs=0.02)


# --------------------------------------------------------------------------------------- hierarchy

forests = st.integers(1, 7).flatmap(
    lambda n: st.tuples(*(st.integers(-1, i - 1) for i in range(n)))
)


@few
@given(forests, st.data())
def test_what_is_left_obeys_the_hierarchy(parents, data) -> None:
    F, parents = len(parents), np.array(parents)
    exclusive = data.draw(arrays(np.bool, F))
    drawn = data.draw(arrays(np.float64, (6, F), elements=st.sampled_from([0.0, 1.0, 2.5])))
    left = Hierarchy(parents, exclusive).gated(drawn, 1.0, rng=0)
    assert ((left == drawn) | (left == 0)).all()
    for row, before in zip(left > 0, drawn > 0, strict=True):
        for f in range(F):
            if parents[f] < 0:
                assert row[f] == before[f]  # never called up, never put out
                continue
            assert not row[f] or row[parents[f]]
            siblings = [g for g in range(F) if parents[g] == parents[f]]
            if exclusive[parents[f]]:
                there = sum(before[siblings]) if row[parents[f]] else 0
                assert row[siblings].sum() == min(there, 1)
            else:
                assert row[f] == (before[f] and row[parents[f]])


def test_the_one_that_stays_is_drawn_evenly() -> None:
    """Wrong: the largest wins; the choice before the gating."""
    forest = Hierarchy(np.array([-1, 0, 0, 0]), exclusive=np.array([True, False, False, False]))
    drawn = np.tile([1.0, 9.0, 1.0, 2.0], (B, 1))
    left = forest.gated(drawn, 1.0, rng=generator()) > 0
    near(left[:, 1:].mean(axis=0), [1 / 3] * 3)
    assert (left[:, 1:].sum(axis=1) == 1).all()


def test_children_as_strong_as_their_parent() -> None:
    forest = Hierarchy(np.array([-1, 0, 1]), scaled=True)
    left = forest.gated(np.array([[3.0, 5.0, 1.0], [0.0, 5.0, 1.0]]), np.array([2, 4, 1]), rng=0)
    np.testing.assert_allclose(left, [[3, 7.5, 7.5 / 4], [0, 0, 0]])


def test_trees() -> None:
    forest = Hierarchy.of_trees(2, 3, 2)
    assert len(forest.parents) == 2 * (1 + 3 + 9)
    np.testing.assert_array_equal(forest.parents[:2], [-1, -1])
    np.testing.assert_array_equal(np.bincount(forest.parents[2:]), [3] * 8)
    assert not forest.exclusive.any()
    assert Hierarchy.of_trees(1, 2, 0).parents == [-1]


def test_rates_with_and_without_compensation() -> None:
    """Exact rates: 0.4 q1 (1 - q2/2). Without: .036, .076. Authors' code, run on the same."""
    forest = Hierarchy(np.array([-1, 0, 0]), exclusive=True)
    wanted = np.array([0.4, 0.1, 0.2])
    q = forest.compensated(wanted)
    np.testing.assert_allclose(q, [0.4, 0.375, 0.625])
    for p, exact in ((q, [0.4, 0.103125, 0.203125]), (wanted, [0.4, 0.036, 0.076])):
        _, features = World(np.eye(3), p, hierarchy=forest).sample(B, rng=generator())
        near(features.mean(axis=0), exact)
    free = Hierarchy(np.array([-1, 0, 1]))
    q = free.compensated([0.4, 0.2, 0.05])
    np.testing.assert_allclose(q, [0.4, 0.5, 0.25])
    _, features = World(np.eye(3), q, hierarchy=free).sample(B, rng=generator())
    near(features.mean(axis=0), [0.4, 0.2, 0.05])  # exact without exclusion


def test_a_plain_world_draws_what_it_drew() -> None:
    """Correlations and the rest take no random numbers where they are not asked for."""
    world = World(np.eye(3), 0.3, noise=0.1)
    x, features = world.sample(50, rng=generator())
    rng = generator()
    want = rng.random((50, 3)) < 0.3
    np.testing.assert_array_equal(features, want)
    np.testing.assert_array_equal(x, want + 0.1 * rng.standard_normal((50, 3)))


def test_neurons_are_planted_in_a_rich_world_too() -> None:
    forest = Hierarchy.of_trees(3, 2, 1, exclusive=True)
    R = low_rank_correlation(9, 2, scale=0.5, rng=0)
    world = World(np.eye(10)[:9], 0.4, 0.05, correlation=R, spread=0.1, hierarchy=forest)
    layer = plant(world, draw_neurons(world, 9, rng=generator()), rng=generator())
    x, features = world.sample(2000, rng=generator(1))
    fires = layer.activations(x) > 0
    for neuron in np.flatnonzero(layer.kinds == "monosemantic"):
        (f,) = layer.features[neuron]
        assert (fires[:, neuron] == features[:, f]).mean() > 0.99
    for moment in (world.mean, world.covariance):
        with pytest.raises(ValueError, match="the world has a correlation, a hierarchy or amounts"):
            moment()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: zipf_rates(1), ValueError, "zipf_rates: features is 1"),
        (lambda: zipf_rates(5, exponent=0), ValueError, "zipf_rates: exponent is 0"),
        (lambda: zipf_rates(5, highest=1), ValueError, "zipf_rates: highest is 1"),
        (lambda: zipf_rates(5, highest=0.1, lowest=0.2), ValueError, "zipf_rates: lowest is 0.2"),
        (lambda: low_rank_correlation(2, 0, rng=0), ValueError, "low_rank_correlation: rank is 0"),
        (lambda: low_rank_correlation(2, 1, scale=-1, rng=0), ValueError, "low_rank.*: scale is"),
        (lambda: nearest_correlation(np.ones((2, 3))), ValueError,
         r"nearest_correlation: correlation has shape \(2, 3\), expected \(F, F\)"),
        (lambda: nearest_correlation([[1, 0.5], [0.4, 1]]), ValueError,
         r"nearest_correlation: correlation is 0.5 at \[0, 1\], expected as much as across"),
        (lambda: nearest_correlation(2 * np.eye(2)), ValueError, "nearest.*: diagonal is 2.0"),
        (lambda: nearest_correlation([[1, 2], [2, 1]]), ValueError, "nearest.* is 2.0 at"),
        (lambda: Hierarchy([0]), ValueError, "Hierarchy: parents leads from feature 0 round in a"),
        (lambda: Hierarchy([1, 2, 0]), ValueError, "Hierarchy: parents leads from feature 0"),
        (lambda: Hierarchy([-1, 2]), ValueError, "Hierarchy: parents is 2, expected at most 1"),
        (lambda: Hierarchy([-1, -2]), ValueError, "Hierarchy: parents is -2"),
        (lambda: Hierarchy([-1.0]), TypeError, "Hierarchy: parents has dtype float64"),
        (lambda: Hierarchy([-1, 0], [True]), ValueError, r"Hierarchy: exclusive has shape \(1,\)"),
        (lambda: Hierarchy([-1, 0], 1), TypeError, "Hierarchy: exclusive has dtype"),
        (lambda: Hierarchy.of_trees(0, 1, 1), ValueError, "Hierarchy.of_trees: roots is 0"),
        (lambda: Hierarchy([-1]).gated(np.eye(2), 1.0, rng=0), ValueError,
         r"Hierarchy.gated: amounts has shape \(2, 2\), expected \(2, 1\)"),
        (lambda: Hierarchy([-1]).compensated([0.0]), ValueError, "Hierarchy.compensated: rates is"),
        (lambda: Hierarchy([-1]).compensated([0.1, 0.2]), ValueError, "Hierarchy.compensated: rat"),
        (lambda: World(np.eye(2), 0.1, correlation=np.eye(3)), ValueError,
         r"World: correlation has shape \(3, 3\), expected \(2, 2\)"),
        (lambda: World(np.eye(2), 0.1, amount=0), ValueError, r"World: amount is 0.0 at \[\]"),
        (lambda: World(np.eye(2), 0.1, spread=[0, -1]), ValueError, "World: spread is -1.0"),
        (lambda: World(np.eye(2), 0.1, amount=[1, 2, 3]), ValueError, "World: amount has shape"),
        (lambda: World(np.eye(2), 0.1, hierarchy=Hierarchy([-1])), ValueError,
         "World: hierarchy has 1 features, expected 2"),
        (lambda: World(np.eye(2), 0.1, hierarchy=[-1, 0]), TypeError, "World: hierarchy is"),
        (lambda: World(np.eye(2), 0.1).amounts(0, rng=0), ValueError, "World.amounts: inputs is 0"),
    ],
)
def test_errors(call, error, message: str) -> None:
    with pytest.raises(error, match="^" + message):
        call()
