"""Matching units with features: SciPy's assignment, brute force, and a layer by hand."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from minimono.data import match_features, mean_correlation_coefficient
from minimono.data.matching import assignment

few = settings(max_examples=40)
LEARNED = np.array([[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0]])
TRUE = np.eye(2)
Z = np.array([[1, 0, 0], [2, 1, 0], [0, 1, 0], [0, 0, 0]])
PRESENT = np.array([[1, 0], [1, 1], [0, 1], [1, 0]], bool)


@few
@given(arrays(np.float64, array_shapes(min_dims=2, max_dims=2, max_side=5),
              elements=st.integers(-5, 5).map(float)))
def test_assignment_by_brute_force(cost) -> None:
    cost = cost if cost.shape[0] <= cost.shape[1] else cost.T
    n, m = cost.shape
    found = assignment(cost)
    assert len(set(found.tolist())) == n
    least = min(cost[np.arange(n), list(p)].sum() for p in itertools.permutations(range(m), n))
    assert cost[np.arange(n), found].sum() == least


def test_a_layer_by_hand() -> None:
    """Authors' code, run on the same. Wrong: F1 of the means, .606; the nearest for each, .933."""
    assert mean_correlation_coefficient(LEARNED, TRUE) == pytest.approx(0.9, rel=1e-15)
    found = match_features(LEARNED, TRUE, Z, PRESENT)
    np.testing.assert_array_equal(found.feature, [0, 1, 0])
    means = [x.mean() for x in (found.precision, found.recall, found.f1, found.accuracy)]
    np.testing.assert_allclose(means, [2 / 3, 5 / 9, 0.6, 2 / 3], rtol=1e-15)
    assert found.uniqueness == 2 / 3


@few
@given(
    arrays(np.float64, (3, 4), elements=st.integers(-3, 3).map(float)),
    arrays(np.float64, (5, 4), elements=st.integers(-3, 3).map(float)),
)
def test_the_best_matching_by_brute_force(w, v) -> None:
    def cosine(a, b) -> float:
        return abs(a @ b) / np.sqrt((a @ a) * (b @ b)) if a.any() and b.any() else 0.0

    cosines = np.array([[cosine(a, b) for b in v] for a in w])
    best = max(cosines[range(3), list(p)].mean() for p in itertools.permutations(range(5), 3))
    for got in (
        mean_correlation_coefficient(w, v), mean_correlation_coefficient(v, w),
        mean_correlation_coefficient(-1e200 * w[::-1], 1e-200 * v),
    ):
        assert got == pytest.approx(best, abs=1e-13)


def test_undefined_rates_are_0() -> None:
    """Authors' code: a unit that never fires, a feature that is never there."""
    found = match_features(TRUE, TRUE, np.array([[0, 1], [0, 1]]), np.zeros((2, 2), bool))
    for rates, want in zip(found[1:5], ([0, 0], [0, 0], [0, 0], [1, 0]), strict=True):
        np.testing.assert_array_equal(rates, want)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_correlation_coefficient(LEARNED, np.eye(3)),
         r"mean_correlation_coefficient: features has shape \(3, 3\), expected \(3, 2\)"),
        (lambda: mean_correlation_coefficient(LEARNED[0], TRUE),
         r"mean_correlation_coefficient: directions has shape \(2,\)"),
        (lambda: match_features(LEARNED, TRUE, Z[:, :2], PRESENT), "match_features: z has shape"),
        (lambda: match_features(LEARNED, TRUE, Z, PRESENT[:3]), "match_features: present has sh"),
    ],
)
def test_errors(call, message: str) -> None:
    with pytest.raises(ValueError, match="^" + message):
        call()
