"""The other measures against closed forms, exact arithmetic and their symmetries."""

import itertools
import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from minimono.backend import array_module
from minimono.mono import (
    absorption,
    concept_separability,
    concept_similarity,
    feature_monosemanticity_score,
    jensen_shannon_distance,
    main_units,
    polysemanticity,
    redundancy,
)
from minimono.mono.metrics import (
    clarity,
    class_selectivity,
    effective_features,
    feature_dimensionality,
    hoyer_sparsity,
    monosemanticity_score,
    single_feature_purity,
    variance_sparsity,
)

EPS = 2.0**-52
few = settings(max_examples=30)  # of whole small matrices, each with many cases in it
WHOLE = st.integers(-9, 9).map(float)


def matrices(elements=WHOLE, least: int = 1):
    return arrays(
        np.float64, array_shapes(min_dims=2, max_dims=2, min_side=least), elements=elements
    )


def close(got, want, ulp: float = 16) -> None:
    np.testing.assert_allclose(got, want, rtol=ulp * EPS, atol=ulp * EPS)


def polygon(n: int) -> np.ndarray:
    angles = 2 * np.pi * np.arange(n) / n
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


# --------------------------------------------------------------------------- feature dimensionality


def test_orthogonal_features_have_a_dimension_each() -> None:
    close(feature_dimensionality(np.eye(3) * [[1e-70], [3.0], [1e70]]), 1)
    close(feature_dimensionality(np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]), 1)


@pytest.mark.parametrize(
    ("features", "want"),
    [
        (polygon(2), 1 / 2),  # an antipodal pair
        (polygon(3), 2 / 3),
        (polygon(5), 2 / 5),  # the pentagon
        (polygon(8), 2 / 8),
        (np.concatenate([polygon(4)] * 3), 2 / 12),
        (np.ones((6, 4)), 1 / 6),  # duplicates share a dimension
        (np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]), 3 / 4),  # tetrahedron
    ],
)
def test_regular_arrangements_share_evenly(features, want: float) -> None:
    close(feature_dimensionality(features), want)
    close(feature_dimensionality(features * 1e180), want)
    close(feature_dimensionality(features * 1e-180), want)


@few
@given(matrices())
def test_dimensionality_is_elhage_s_and_the_capacity_of_scherlis(W: np.ndarray) -> None:
    got = feature_dimensionality(W)
    exact = [[Fraction(x) for x in row] for row in W.tolist()]
    for i, row in enumerate(exact):
        overlap = [sum(a * b for a, b in zip(row, other, strict=True)) for other in exact]
        if overlap[i] == 0:
            assert np.isnan(got[i])
            continue
        capacity = overlap[i] ** 2 / sum(o**2 for o in overlap)
        unit = W[i] / np.linalg.norm(W[i])
        elhage = np.linalg.norm(W[i]) ** 2 / ((W @ unit) ** 2).sum()
        close(got[i], float(capacity))
        close(got[i], elhage, 64)


@few
@given(matrices(), st.randoms(), st.floats(0.1, 10))
def test_dimensionality_of_rotated_scaled_and_shuffled_features(W, random, scale: float) -> None:
    assume(W.any(axis=1).all())
    want = feature_dimensionality(W)
    assert (want <= 1 + 8 * EPS).all()
    assert want.sum() <= np.linalg.matrix_rank(W) + 1e-9
    seed = random.randrange(10**6)
    rotation = np.linalg.qr(np.random.default_rng(seed).normal(size=(W.shape[1],) * 2))[0]
    np.testing.assert_allclose(feature_dimensionality(W @ rotation * scale), want, atol=1e-9)
    order = random.sample(range(len(W)), len(W))
    close(feature_dimensionality(W[order]), want[order])
    close(feature_dimensionality(-W), want)


def test_a_feature_of_no_length_is_nan_and_leaves_the_others() -> None:
    got = feature_dimensionality(np.array([[1.0, 0.0], [0.0, 0.0], [1.0, 0.0]]))
    np.testing.assert_array_equal(got, [0.5, np.nan, 0.5])
    got = feature_dimensionality(np.array([[1.0, 0.0], [1e-200, 0.0], [1e-150, 1e-160]]))
    np.testing.assert_allclose(got, [1, np.nan, 1e-300], rtol=1e-12)


# -------------------------------------------------------------------------------- class selectivity

LABELS = np.array([0, 0, 1, 1, 2])


def test_selectivity_of_one_class_of_all_and_of_none() -> None:
    z = np.array([[2, 1, 0, 4], [4, 1, 0, 4], [0, 1, 0, 1], [0, 1, 0, 1], [0, 1, 0, 2]])
    np.testing.assert_array_equal(
        class_selectivity(z, LABELS), [1, 0, np.nan, (4 - 1.5) / (4 + 1.5)]
    )


def test_classes_weigh_the_same_whatever_their_size() -> None:
    z, labels = np.array([[6.0], [0.0], [0.0], [0.0], [3.0]]), np.array([5, -1, -1, -1, 7])
    np.testing.assert_array_equal(class_selectivity(z, labels), [(6 - 1.5) / (6 + 1.5)])


@few
@given(arrays(np.float64, (5, 3), elements=st.integers(0, 9).map(float)))
def test_selectivity_in_fractions(z: np.ndarray) -> None:
    got = class_selectivity(z, LABELS)
    for k in range(3):
        means = sorted(
            sum(map(Fraction, z[c == LABELS, k])) / int((c == LABELS).sum()) for c in range(3)
        )
        highest, rest = means[-1], sum(means[:-1]) / 2
        if highest == 0:
            assert np.isnan(got[k])
        else:
            close(got[k], float((highest - rest) / (highest + rest)))


@few
@given(arrays(np.float64, (5, 4), elements=st.integers(0, 9).map(float)), st.permutations(range(5)))
def test_selectivity_of_scaled_shuffled_and_renamed(z, order) -> None:
    want = class_selectivity(z, LABELS)
    for scale in (2.0**-1000, 0.3, 2.0**1000):
        close(class_selectivity(z * scale, LABELS), want)
    close(class_selectivity(z[order], LABELS[order]), want)
    close(class_selectivity(z, np.array([30, -4, 7])[LABELS]), want)
    close(class_selectivity(z.reshape(5, 2, 2), LABELS), want.reshape(2, 2))


# ---------------------------------------------------------------------------- single-feature purity


def test_purity_of_one_of_all_and_of_none() -> None:
    a = np.array([[3.0, 2.0, 0.0, 1.0], [0.0, 2.0, 0.0, 3.0], [0.0, 2.0, 0.0, 0.0]])
    close(single_feature_purity(a), [1, 1 / 3, np.nan, 3 / 4])
    assert single_feature_purity(a[:, 0]) == 1  # one neuron


@few
@given(
    arrays(np.float64, (4, 3), elements=st.integers(0, 99).map(float)), st.permutations(range(4))
)
def test_purity_in_fractions_scaled_and_shuffled(a: np.ndarray, order) -> None:
    want = [
        float(Fraction(max(column)) / Fraction(sum(column))) if any(column) else np.nan
        for column in a.T.tolist()
    ]
    for scale in (1.0, 2.0**-1000, 2.0**1000, 0.7):
        close(single_feature_purity(a[order] * scale), want)
    close(single_feature_purity(a.reshape(4, 3, 1)), np.reshape(want, (3, 1)))


# ---------------------------------------------------------------------------- monosemanticity score


def exact_score(a, e):
    """Pach et al.'s sum over pairs, in 50 digits."""
    with mpmath.workdps(50):
        a = [mpmath.mpf(x) for x in a]
        if max(a) == min(a):
            return np.nan
        a = [(x - min(a)) / (max(a) - min(a)) for x in a]
        e = [mpmath.matrix(v) for v in e.tolist()]
        unit = [v / mpmath.norm(v) for v in e]
        pairs = list(itertools.combinations(range(len(a)), 2))
        weights = mpmath.fsum(a[n] * a[m] for n, m in pairs)
        if weights == 0:
            return np.nan
        alike = mpmath.fsum(a[n] * a[m] * (unit[n].T * unit[m])[0] for n, m in pairs)
        return float(alike / weights)


def test_score_of_alike_orthogonal_and_opposite_inputs() -> None:
    e = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0], [-4.0, 0.0]])
    z = np.array([[1, 1, 1, 5, 1], [1, 0, 0, 5, 0], [0, 1, 0, 5, 0], [0, 0, 1, 5, 0]])
    # pairs: alike, orthogonal, opposite; a constant neuron; one input alone
    np.testing.assert_array_equal(monosemanticity_score(z, e), [1, 0, -1, np.nan, np.nan])
    close(monosemanticity_score(np.array([0.0, 1.0, 2.0]), np.ones((3, 4))), 1)
    np.testing.assert_array_equal(monosemanticity_score(np.array([1.0, 2.0]), np.eye(2)), np.nan)


@few
@given(
    arrays(np.float64, (5, 2), elements=WHOLE),
    arrays(np.float64, (5, 3), elements=WHOLE).filter(lambda e: e.any(axis=1).all()),
)
def test_score_is_the_sum_over_pairs(z, e) -> None:
    close(monosemanticity_score(z, e), [exact_score(z[:, k], e) for k in range(2)], 64)


def test_score_of_more_inputs_than_a_block() -> None:
    rng = np.random.default_rng(3)
    z, e = rng.normal(size=(1100, 3)), rng.normal(size=(1100, 4))
    a = (z - z.min(axis=0)) / (z.max(axis=0) - z.min(axis=0))
    unit = e / np.linalg.norm(e, axis=1, keepdims=True)
    n, m = np.triu_indices(1100, 1)
    weights = a[n] * a[m]
    want = (weights * (unit[n] * unit[m]).sum(axis=1, keepdims=True)).sum(axis=0)
    np.testing.assert_allclose(monosemanticity_score(z, e), want / weights.sum(axis=0), rtol=1e-9)


def test_score_keeps_its_digits_where_one_input_outweighs_the_rest() -> None:
    """(Σa)² - Σa², the usual short cut, loses all digits of these weights."""
    z = np.array([0.0, 1.0, 1e-12, 3e-12])
    e = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    close(monosemanticity_score(z, e), exact_score(z, e), 64)


@few
@given(
    arrays(np.float64, (6, 4), elements=WHOLE),
    arrays(np.float64, (6, 3), elements=WHOLE).filter(lambda e: e.any(axis=1).all()),
    st.permutations(range(6)),
)
def test_score_of_shifted_scaled_and_shuffled(z, e, order) -> None:
    want = monosemanticity_score(z, e)
    assert (np.isnan(want) | (abs(want) <= 1 + 1e-12)).all()
    np.testing.assert_allclose(monosemanticity_score(3 * z - 7, e), want, atol=1e-12)
    np.testing.assert_allclose(monosemanticity_score(z[order], e[order]), want, atol=1e-12)
    lengths = 10.0 ** np.array([[-200], [0], [200], [-5], [3], [1]])
    np.testing.assert_allclose(monosemanticity_score(z * 2.0**1000, e * lengths), want, atol=1e-12)
    maps = monosemanticity_score(z.reshape(6, 2, 2), e)
    np.testing.assert_array_equal(maps, want.reshape(2, 2))


# ------------------------------------------------------------------------------------------ clarity


@pytest.mark.parametrize(
    ("embeddings", "want"),
    [
        (np.ones((5, 3)), 1),
        (np.eye(4), 0),
        (np.array([[1.0, 0.0], [-3.0, 0.0]]), -1),  # an antipodal pair
        (polygon(3), -1 / 2),  # -1/(n-1), the least there is
        (polygon(5), -1 / 4),
        (np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0], [0.0, 7.0]]), 1 / 3),
    ],
)
def test_clarity_of_known_arrangements(embeddings, want: float) -> None:
    close(clarity(embeddings), want)
    close(clarity(embeddings * 1e200), want)
    close(clarity(embeddings * 1e-200), want)


@few
@given(matrices(least=2).filter(lambda v: v.any(axis=1).all()), st.randoms())
def test_clarity_is_the_mean_cosine_of_pairs(v: np.ndarray, random) -> None:
    unit = v / np.linalg.norm(v, axis=1, keepdims=True)
    pairs = itertools.combinations(unit, 2)
    want = np.mean([a @ b for a, b in pairs])
    close(clarity(v), want, 64)
    lengths = np.array([[random.uniform(0.1, 10)] for _ in v])
    close(clarity(v[::-1] * lengths), want, 64)


def test_clarity_of_many_neurons() -> None:
    v = np.random.default_rng(1).normal(size=(2, 3, 6, 4))
    got = clarity(v)
    assert got.shape == (2, 3)
    close(got[1, 2], clarity(v[1, 2]))


# ----------------------------------------------------------------------------------- Hoyer sparsity


@pytest.mark.parametrize(
    ("x", "want"),
    [
        ([0.0, 0.0, -3.0], 1),
        ([2.0, -2.0, 2.0, -2.0, 2.0], 0),
        ([0.0, 0.0], np.nan),
        ([1.0, 1.0, 0.0, 0.0], 2 - math.sqrt(2)),
        ([3.0, 4.0], (math.sqrt(2) - 7 / 5) / (math.sqrt(2) - 1)),
    ],
)
@pytest.mark.parametrize("scale", [1.0, 1e-200, -1e200])
def test_hoyer_of_known_vectors(x, want: float, scale: float) -> None:
    close(hoyer_sparsity(np.array(x) * scale), want)


@few
@given(matrices(least=2), st.randoms())
def test_hoyer_in_fifty_digits_and_shuffled(x: np.ndarray, random) -> None:
    got = hoyer_sparsity(x)
    with mpmath.workdps(50):
        n = mpmath.sqrt(x.shape[1])
        for row, value in zip(x, got, strict=True):
            if not row.any():
                assert np.isnan(value)
                continue
            ratio = mpmath.norm(mpmath.matrix(row), 1) / mpmath.norm(mpmath.matrix(row), 2)
            close(value, float((n - ratio) / (n - 1)))
    order = random.sample(range(x.shape[1]), x.shape[1])
    close(hoyer_sparsity(-x[:, order]), got)
    assert (np.isnan(got) | ((got >= -8 * EPS) & (got <= 1 + 8 * EPS))).all()


def test_hoyer_of_inputs_and_of_neurons() -> None:
    z = np.array([[1.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    close(hoyer_sparsity(z), [0, 1, 1])
    close(hoyer_sparsity(z.T), [1, 0])


# -------------------------------------------------------------------------- variance as sparsity


def test_variance_of_one_hot_uniform_and_signed() -> None:
    z = np.array([[0.0, 0.0, 0.0, 1.0], [0.1, 0.1, 0.1, 0.1], [1.0, -1.0, 1.0, -1.0]])
    assert variance_sparsity(np.full((1, 3), 0.1)) == 0  # whose mean rounds to another number
    np.testing.assert_array_equal(variance_sparsity(z), [3 / 16, 0, 1])


@few
@given(arrays(np.float64, (3, 2, 3), elements=WHOLE), st.permutations(range(6)))
def test_variance_in_fractions_shifted_scaled_and_shuffled(z: np.ndarray, order) -> None:
    rows = z.reshape(3, 6)
    want = []
    for row in rows.tolist():
        mean = sum(map(Fraction, row)) / 6
        want.append(float(sum((Fraction(x) - mean) ** 2 for x in row) / 6))
    close(variance_sparsity(z), want, 64)
    close(variance_sparsity(rows[:, order] + 2.0**10), want, 2.0**14)
    close(variance_sparsity(3 * z), 9 * np.array(want), 512)


def test_variance_keeps_its_digits_far_from_zero() -> None:
    close(variance_sparsity(np.array([[1e9, 1e9 + 1, 1e9 + 2]])), 2 / 3)


# ------------------------------------------------------------------------------ effective features

CODES = np.array([[2.0, 0.0, 0.0, -2.0], [0.0, 2.0, 0.0, 2.0], [4.0, -2.0, 0.0, 0.0]])


@pytest.mark.parametrize("scale", [1.0, 0.3, 1e-200, -1e200])
def test_effective_features_of_known_codes(scale: float) -> None:
    """p = (3, 2, 0, 2)/7; all alike; one alone, among however many: 1, with no ε."""
    close(effective_features(CODES * scale), 7 / (3 ** (3 / 7) * 2 ** (4 / 7)))
    close(effective_features(np.ones((3, 5)) * scale), 5)
    close(effective_features(np.eye(4) * scale), 4)
    one = np.zeros((2, 131072))
    one[:, 7] = scale
    assert effective_features(one) == 1
    assert math.isnan(effective_features(np.zeros((2, 3))))


@few
@given(matrices(), st.randoms())
def test_effective_features_in_fifty_digits_shuffled_and_merged(z: np.ndarray, random) -> None:
    got = effective_features(z)
    if not z.any():
        assert math.isnan(got)
        return
    with mpmath.workdps(50):
        mass = [mpmath.fsum(map(abs, column)) for column in z.T.tolist()]
        p = [m / mpmath.fsum(mass) for m in mass if m]
        close(got, float(mpmath.exp(-mpmath.fsum(x * mpmath.log(x) for x in p))), 64)
    assert 1 - 64 * EPS <= got <= z.shape[1] * (1 + 64 * EPS)
    order = random.sample(range(z.shape[1]), z.shape[1])
    silent = np.zeros((len(z), 3))
    close(effective_features(np.concatenate([z[::-1, order], silent], axis=1)), got, 64)
    shards = np.stack([abs(part).sum(axis=0) for part in (z[:1], z[1:])])
    close(effective_features(shards), got, 64)
    close(effective_features(z.reshape(len(z), -1, 1)), got)


# ----------------------------------------------------------------------------- dtypes and bad input


def ones(x, *shape: int):
    return array_module(x).ones(tuple(n or 1 for n in shape))  # beside an x that is empty


def two_kinds(x):
    return array_module(x).arange(len(x)) % 2


def fms_parts(x):
    found = feature_monosemanticity_score(x, two_kinds(x))
    xp = array_module(x)
    return xp.concatenate([xp.asarray([found.score]), *found[1:]])


def absorbed(x):
    found = absorption(x, ones(x, x.shape[1], 2), 2 * ones(x, len(x), 2), ones(x, 2), [0])
    return found.fraction

CALLS = {
    "feature_dimensionality: features": feature_dimensionality,
    "class_selectivity: z": lambda x: class_selectivity(x, np.arange(len(x))),
    "single_feature_purity: responses": single_feature_purity,
    "monosemanticity_score: z": lambda x: monosemanticity_score(x, np.ones((len(x), 2))),
    "monosemanticity_score: embeddings": lambda x: monosemanticity_score(np.ones(len(x)), x),
    "clarity: embeddings": clarity,
    "hoyer_sparsity: x": hoyer_sparsity,
    "variance_sparsity: z": variance_sparsity,
    "effective_features: z": lambda x: np.float64(effective_features(x)),
    "polysemanticity: embeddings": lambda x: polysemanticity(x, rng=0),
    "concept_similarity: x": lambda x: concept_similarity(x, ones(x, 2, x.shape[1])),
    "concept_similarity: y": lambda x: concept_similarity(ones(x, 2, x.shape[1]), x),
    "redundancy: concepts": lambda x: redundancy(x, per_neuron=True),
    "jensen_shannon_distance: p": lambda x: jensen_shannon_distance(x, ones(x, *x.shape)),
    "jensen_shannon_distance: q": lambda x: jensen_shannon_distance(ones(x, *x.shape), x),
    "concept_separability: z": lambda x: concept_separability(x, two_kinds(x)),
    "feature_monosemanticity_score: z": fms_parts,
    "absorption: z": absorbed,
    "absorption: write": lambda x: absorption(
        ones(x, 4, len(x)), x, ones(x, 4, x.shape[1]), ones(x, x.shape[1]), [0]
    ).fraction,
    "absorption: x": lambda x: absorption(
        ones(x, len(x), 1), ones(x, 1, x.shape[1]), x, ones(x, x.shape[1]), [0]
    ).fraction,
    "main_units: z": lambda x: main_units(x, two_kinds(x) == 0).astype(np.float64),
}
every_input = pytest.mark.parametrize(("name", "call"), CALLS.items(), ids=CALLS)


@every_input
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int32, np.bool])
def test_everything_is_computed_in_float64(name, call, dtype) -> None:
    x = np.array([[1, 0], [1, 1], [0, 1]]).astype(dtype)
    got = call(x)
    assert got.dtype == np.float64
    np.testing.assert_array_equal(got, call(x.astype(np.float64)))
    # thirds have no float32: what comes in must be widened before anything is computed
    if np.dtype(dtype).kind == "f":
        x = (np.array([[1, 2], [2, 3], [5, 1]]) / 3).astype(dtype)
        np.testing.assert_array_equal(call(x), call(x.astype(np.float64)))


@every_input
def test_the_same_however_an_array_lies_in_memory(name, call) -> None:
    """Fortran's order, with steps, backwards, read-only, in the other byte order."""
    x = np.random.default_rng(5).integers(1, 9, (6, 4)) / 4
    want = call(x)
    wide, frozen = np.zeros((12, 8)), x.copy()
    wide[::2, ::2] = x
    frozen.setflags(write=False)
    for other in (
        np.asfortranarray(x), wide[::2, ::2], x[::-1, ::-1].copy()[::-1, ::-1], frozen,
        x.astype(x.dtype.newbyteorder()),
    ):
        np.testing.assert_allclose(call(other), want, rtol=1e-12, atol=1e-15)


@every_input
def test_bad_values(name, call) -> None:
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match=rf"^{name} is {bad} at \[2, 0\], expected finite"):
            call(np.array([[1.0, 1.0], [2.0, 2.0], [bad, 1.0]]))
    with pytest.raises(TypeError, match=f"^{name} has dtype complex128"):
        call(np.ones((2, 2), complex))
    with pytest.raises(ValueError, match=rf"^{name} has shape \(3, 0\)"):
        call(np.ones((3, 0)))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: feature_dimensionality(np.ones(3)),
            ValueError,
            r"feature_dimensionality: features has shape \(3,\), expected \(F, D\)",
        ),
        (
            lambda: class_selectivity(np.array([[1.0, 2.0], [0.5, -0.5]]), [0, 1]),
            ValueError,
            r"class_selectivity: z is -0.5 at \[1, 1\], expected no negative numbers: take act",
        ),
        (
            lambda: class_selectivity(np.ones((2, 1)), [0.0, 1.0]),
            TypeError,
            "class_selectivity: labels has dtype float64, expected whole numbers",
        ),
        (
            lambda: class_selectivity(np.ones((2, 1)), [0, 1, 1]),
            ValueError,
            r"labels has shape \(3,\), expected \(2,\), one for each sample",
        ),
        (
            lambda: class_selectivity(np.ones((2, 1)), [4, 4]),
            ValueError,
            "labels is 4 everywhere, expected two classes at least",
        ),
        (
            lambda: single_feature_purity(np.array([1.0, -2.0])),
            ValueError,
            r"single_feature_purity: responses is -2.0 at \[1\], expected no negative numbers",
        ),
        (
            lambda: monosemanticity_score(np.ones((3, 1)), np.ones(3)),
            ValueError,
            r"monosemanticity_score: embeddings has shape \(3,\), expected \(B, D\)",
        ),
        (
            lambda: monosemanticity_score(np.ones((3, 1)), np.ones((4, 2))),
            ValueError,
            r"embeddings has shape \(4, 2\), expected \(3, 2\), a row for each input",
        ),
        (
            lambda: monosemanticity_score(np.ones((2, 1)), np.array([[1.0, 0.0], [0.0, 0.0]])),
            ValueError,
            r"monosemanticity_score: embeddings: length is 0.0 at \[1\], expected more than 0",
        ),
        (
            lambda: clarity(np.zeros((2, 3, 4))),
            ValueError,
            r"clarity: embeddings: length is 0.0 at \[0, 0\], expected more than 0",
        ),
        (
            lambda: clarity(np.ones((1, 4))),
            ValueError,
            r"clarity: embeddings has shape \(1, 4\), expected \(..., n, D\) with n of 2 or more",
        ),
        (lambda: clarity(np.ones(4)), ValueError, r"clarity: embeddings has shape \(4,\)"),
        (
            lambda: hoyer_sparsity(np.ones((3, 1))),
            ValueError,
            r"hoyer_sparsity: x has shape \(3, 1\), expected vectors of two entries at least",
        ),
        (
            lambda: variance_sparsity(np.ones((3, 1))),
            ValueError,
            r"variance_sparsity: z has shape \(3, 1\), expected two neurons",
        ),
        (
            lambda: variance_sparsity(np.array([[1e200, -1e200]])),
            ValueError,
            "variance_sparsity: z is too large, expected squares that float64 can hold",
        ),
    ],
)
def test_errors_say_what_to_do(call, error, message: str) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.gpu
@every_input
def test_on_the_gpu(name, call) -> None:
    from minimono.backend import to_device, to_host

    x = np.random.default_rng(2).random((6, 5)).astype(np.float32)
    if name.startswith(("class", "monosemanticity")):
        other = np.array([0, 0, 1, 1, 2, 2]) if name.startswith("class") else x + 1
        function = class_selectivity if name.startswith("class") else monosemanticity_score
        got = function(to_device(x, "cuda"), to_device(other, "cuda"))
        want = function(x, other)
    else:
        got, want = call(to_device(x, "cuda")), call(x)
    np.testing.assert_allclose(to_host(got), want, rtol=1e-12)


def test_neurons_of_very_different_scale_do_not_mix() -> None:
    responses = np.array([[1e300, 3e-300], [0.0, 1e-300]])
    np.testing.assert_array_equal(single_feature_purity(responses), [1.0, 0.75])


def test_underflow_is_silent() -> None:
    """Also where NumPy is told to raise: what vanishes is far below the rounding of the rest."""
    with np.errstate(under="raise"):
        np.testing.assert_array_equal(variance_sparsity(1e-200 * np.eye(3)), [0, 0, 0])
        np.testing.assert_allclose(hoyer_sparsity(np.array([[1.0, 1e-200]])), [1])
