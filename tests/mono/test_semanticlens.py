"""SemanticLens's polysemanticity and redundancy against closed forms and brute force."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from minimono.mono import (
    clarity,
    concept_similarity,
    feature_decorrelation,
    polysemanticity,
    redundancy,
    semanticlens,
    virtual_neurons,
)

few = settings(max_examples=30)
WHOLE = st.integers(-9, 9).map(float)


def vectors(*shape: int):
    return arrays(np.float64, shape, elements=WHOLE).filter(lambda v: v.any(axis=-1).all())


def cosine(a, b) -> float:
    return a @ b / np.sqrt((a @ a) * (b @ b))


RIGHT, UP = [1.0, 0.0], [0.0, 1.0]


@pytest.mark.parametrize(
    ("inputs", "want"),
    [
        ([RIGHT, RIGHT, UP, UP], 1),
        ([RIGHT, RIGHT, [-1, 0], [-1, 0]], 2),
        ([[1, 0], [2, 0], [3, 0], [4, 0]], 0),  # not at length 1: two clusters, one direction
        ([RIGHT, RIGHT, RIGHT, UP], 1 - (3 * 3 / np.sqrt(10) + 1 / np.sqrt(10)) / 4),  # .2094
        ([RIGHT] * 4, 0),  # nothing to cluster
    ],
)
@pytest.mark.parametrize("scale", [1.0, 1e-120, 1e120])
def test_polysemanticity_of_known_arrangements(inputs, want: float, scale: float) -> None:
    """Authors' code, run on the same."""
    np.testing.assert_allclose(polysemanticity(scale * np.array(inputs, float), rng=0), want,
                               atol=1e-15)


def test_three_clusters() -> None:
    """At the most 1 + 1/(k - 1), of centres that are as unlike as can be."""
    angles = 2 * np.pi * np.repeat(np.arange(3), 2) / 3
    corners = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    np.testing.assert_allclose(polysemanticity(corners, 3, rng=0), 1.5)
    np.testing.assert_allclose(polysemanticity(np.repeat(np.eye(3), 2, axis=0), 3, rng=0), 1)


def mean_unlikeness(v) -> float:
    """What stands in where a cluster is too small: the authors' loop."""
    mean = v.mean(axis=0)
    return float(np.mean([1 - cosine(mean, x) for x in v[:10]])) if mean.any() else np.nan


@few
@given(vectors(6, 3), arrays(np.int64, 6, elements=st.integers(0, 1)))
def test_polysemanticity_by_brute_force(v, labels) -> None:
    sizes = [(labels == c).sum() for c in (0, 1)]
    if min(sizes) < 2:
        want = mean_unlikeness(v)
    else:
        a, b = (v[labels == c].mean(axis=0) for c in (0, 1))
        want = 1 - cosine(a, b) if a.any() and b.any() else np.nan
    np.testing.assert_allclose(polysemanticity(v, labels=labels), want, atol=1e-12)
    np.testing.assert_allclose(polysemanticity(v, labels=9 - 5 * labels), want, atol=1e-12)


def test_the_first_ten_inputs_stand_for_all() -> None:
    """Authors' code: the mean is of all inputs, the average of ten."""
    v = np.random.default_rng(0).normal(size=(25, 4)) + 1
    want = mean_unlikeness(v)
    assert polysemanticity(v, labels=np.zeros(25, int)) == pytest.approx(want)
    assert want != pytest.approx(np.mean([1 - cosine(v.mean(axis=0), x) for x in v]))


def test_clusters_are_those_of_pure_neuron_by_neuron() -> None:
    v = np.random.default_rng(1).normal(size=(2, 3, 12, 4))
    got = polysemanticity(v, rng=5)
    assert got.shape == (2, 3)
    rng = np.random.default_rng(5)
    labels = np.stack([virtual_neurons(x, rng=rng).labels for x in v.reshape(6, 12, 4)])
    np.testing.assert_array_equal(got, polysemanticity(v, labels=labels.reshape(2, 3, 12)))
    centres = [v[0, 0][labels[0] == c].mean(axis=0) for c in (0, 1)]
    assert got[0, 0] == pytest.approx(1 - cosine(*centres))


def test_centres_without_a_direction_are_undefined() -> None:
    opposite = np.array([RIGHT, [-1, 0], UP, UP])
    assert np.isnan(polysemanticity(opposite, labels=np.array([0, 0, 1, 1])))
    assert np.isnan(polysemanticity(np.array([RIGHT, [-1, 0]]), labels=np.array([0, 0])))


@few
@given(vectors(4, 3), vectors(3, 3))
def test_similarity_is_of_all_pairs(x, y) -> None:
    """Also for a square y, and for x and y of one shape: not so in the authors' code."""
    for a, b in ((x, y), (y, y), (y, x)):
        want = [[cosine(p, q) for q in b] for p in a]
        np.testing.assert_allclose(concept_similarity(1e200 * a, 1e-200 * b), want, atol=1e-14)
    square = concept_similarity(np.array([[1, 0], [0, 1], [1, 1]]), np.array([[1, 2], [3, 4]]))
    assert square[2, 1] == pytest.approx(7 / np.sqrt(50))


@few
@given(vectors(5, 3), st.permutations(range(5)))
def test_redundancy_by_brute_force(concepts, order) -> None:
    want = [
        max(cosine(a, b) for j, b in enumerate(concepts) if j != i)
        for i, a in enumerate(concepts)
    ]
    got = redundancy(concepts * 2.0**100, per_neuron=True)
    np.testing.assert_allclose(got, want, atol=1e-14)
    np.testing.assert_array_equal(redundancy(concepts[order], per_neuron=True), got[order])
    assert redundancy(concepts) == pytest.approx(np.mean(want), abs=1e-14)


def test_redundancy_of_known_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """One number: .68 by the authors' code too. Twins: 1, orthogonal: 0, opposite: -1."""
    concepts = np.array([[3, 4], [4, 3], [0, 5], [-1, 0]])
    assert redundancy(concepts) == pytest.approx(0.68, rel=1e-15)
    assert redundancy(np.repeat(np.eye(3), 2, axis=0)) == 1
    assert redundancy(np.eye(4)) == 0
    assert redundancy(np.array([[1, 0], [-2, 0]])) == -1
    assert np.isnan(redundancy(np.ones((1, 3))))
    assert np.isnan(redundancy(np.ones((1, 3)), per_neuron=True)).all()
    many = np.random.default_rng(2).normal(size=(23, 3))
    whole = redundancy(many, per_neuron=True)
    monkeypatch.setattr(semanticlens, "ROWS", 4)
    np.testing.assert_allclose(redundancy(many, per_neuron=True), whole, atol=1e-15)


@few
@given(vectors(5, 3))
def test_prism_s_description_cosine_is_clarity(v) -> None:
    """PRISM (arXiv 2506.15538): the mean cosine of a neuron's descriptions, in pairs."""
    want = np.mean([cosine(a, b) for a, b in itertools.combinations(v, 2)])
    np.testing.assert_allclose([clarity(v), 1 - feature_decorrelation(v)], want, atol=1e-14)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: polysemanticity(np.ones((1, 3)), rng=0), ValueError,
         r"polysemanticity: embeddings has shape \(1, 3\), expected \(..., n, D\)"),
        (lambda: polysemanticity(np.array([RIGHT, [0, 0]]), rng=0), ValueError,
         r"polysemanticity: embeddings: length is 0.0 at \[1\]"),
        (lambda: polysemanticity(np.eye(3), 1, rng=0), ValueError, "polysemanticity: k is 1"),
        (lambda: polysemanticity(np.eye(3)), ValueError, "polysemanticity: rng is None, exp"),
        (lambda: polysemanticity(np.eye(3), rng=0, labels=np.zeros(3, int)), ValueError,
         "polysemanticity: rng is 0, expected either it or labels, not both"),
        (lambda: polysemanticity(np.eye(3), rng="x"), TypeError, "polysemanticity: rng is 'x'"),
        (lambda: polysemanticity(np.eye(3), labels=np.zeros(2, int)), ValueError,
         r"polysemanticity: labels has shape \(2,\), expected \(3,\)"),
        (lambda: concept_similarity(np.eye(3), np.eye(2)), ValueError,
         r"concept_similarity: y has shape \(2, 2\), expected \(2, 3\), as many dimensions as x"),
        (lambda: concept_similarity(np.eye(3), np.zeros((2, 3))), ValueError,
         r"concept_similarity: y: length is 0.0 at \[0\]"),
        (lambda: redundancy(np.ones(3)), ValueError, r"redundancy: concepts has shape \(3,\)"),
        (lambda: redundancy(np.zeros((2, 3))), ValueError, r"redundancy: concepts: length is 0"),
    ],
)
def test_errors(call, error, message: str) -> None:
    with pytest.raises(error, match="^" + message):
        call()
