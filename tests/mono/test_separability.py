"""Jensen-Shannon distances and concept separability against 50 digits, SciPy's rule and counts."""

import itertools
import math

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from minimono.mono import concept_separability, jensen_shannon_distance

few = settings(max_examples=30)
P = np.array([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5], [1.0, 0.0, 0.0]])
AGGREGATES = ("pairs", "one_vs_rest", "generalised")
masses = arrays(np.float64, 4, elements=st.integers(0, 9).map(float)).filter(lambda p: p.any())


def entropy(p) -> mpmath.mpf:
    return -mpmath.fsum(x * mpmath.log(x, 2) for x in p if x)


def exact_divergence(*distributions) -> mpmath.mpf:
    """H of the mean less the mean of H, in 50 digits, of masses that are divided by their sum."""
    with mpmath.workdps(50):
        rows = [[mpmath.mpf(float(x)) for x in p] for p in distributions]
        rows = [[x / mpmath.fsum(p) for x in p] for p in rows]
        mean = [mpmath.fsum(column) / len(rows) for column in zip(*rows, strict=True)]
        return entropy(mean) - mpmath.fsum(map(entropy, rows)) / len(rows)


def test_distances_by_hand() -> None:
    p, q, r = P
    got = [jensen_shannon_distance(*pair) for pair in ((p, q), (p, r), (q, r))]
    np.testing.assert_allclose(got, [math.sqrt(0.5), 0.5579230452841438, 1], rtol=1e-15)
    np.testing.assert_array_equal(jensen_shannon_distance(P, P), 0)
    np.testing.assert_allclose(jensen_shannon_distance(1e300 * P, 1e-300 * P[::-1]),
                               [got[1], 0, got[1]], rtol=1e-15)
    np.testing.assert_array_equal(jensen_shannon_distance(P * [[1], [0], [1]], P), [0, np.nan, 0])


@few
@given(masses, masses)
def test_distance_in_fifty_digits(p, q) -> None:
    want = float(mpmath.sqrt(abs(exact_divergence(p, q))))
    np.testing.assert_allclose(jensen_shannon_distance(p, q), want, rtol=1e-14, atol=1e-25)
    assert jensen_shannon_distance(p, q) == jensen_shannon_distance(q, p)


def test_distance_of_nearly_equal_distributions_keeps_its_digits() -> None:
    """H(m) - (H(p) + H(q)) / 2 loses them all here."""
    for tiny in (1e-4, 1e-8, 1e-12):
        p, q = np.array([0.5, 0.25, 0.25]), np.array([0.5, 0.25 + tiny, 0.25 - tiny])
        want = float(mpmath.sqrt(exact_divergence(p, q)))
        assert jensen_shannon_distance(p, q) == pytest.approx(want, rel=2e-16 / tiny + 1e-14)


@few
@given(masses, masses, masses)
def test_the_distance_is_a_metric(p, q, r) -> None:
    a, b, c = (float(jensen_shannon_distance(*pair)) for pair in ((p, q), (q, r), (p, r)))
    assert 0 <= c <= min(a + b + 1e-12, 1)


# ------------------------------------------------------------------------------------ separability

Z = np.array([0.0, 0.0, 1.0, 2.0, 1.0, 2.0, 2.0, 4.0])
TWO = np.repeat([0, 1], 4)


def test_separability_by_hand() -> None:
    """Edges 0, 1, .. 4: shares (2, 1, 1, 0)/4, (0, 1, 2, 1)/4; edges 0, 2, 4: (3, 1), (1, 3)."""
    for aggregate in AGGREGATES:  # of two concepts all are the same
        got = [concept_separability(Z, TWO, bins=n, aggregate=aggregate) for n in (1, 2, 4)]
        np.testing.assert_allclose(got, [0, 0.4344213111, 0.6368979999], atol=1e-10)


def test_three_concepts() -> None:
    """The distributions p, q, r of above, of four inputs each."""
    z = np.array([0, 0, 1, 1, 1, 1, 2, 2, 0, 0, 0, 0.0])
    concepts = np.repeat(np.arange(3), 4)
    got = {a: concept_separability(z, concepts, bins=3, aggregate=a) for a in AGGREGATES}
    assert got["pairs"] == pytest.approx(0.7550099421, abs=1e-10)
    assert got["generalised"] ** 2 == pytest.approx(0.5, rel=1e-14)  # 0.7924812504 bits / log2 3
    rest = [(P[1] + P[2]) / 2, (P[0] + P[2]) / 2, (P[0] + P[1]) / 2]
    want = np.mean([jensen_shannon_distance(p, q) for p, q in zip(P, rest, strict=True)])
    assert got["one_vs_rest"] == pytest.approx(want, rel=1e-14)


@few
@given(
    arrays(np.float64, (9, 2), elements=st.integers(-4, 4).map(float)),
    arrays(np.bool, (9, 3)).filter(lambda has: has.any(axis=0).all()),
    st.integers(1, 6),
    st.permutations(range(9)),
)
def test_separability_by_numpy_s_histograms(z, has, bins: int, order) -> None:
    got = {a: concept_separability(z, has, bins=bins, aggregate=a) for a in AGGREGATES}
    for k in range(2):
        edges = np.histogram_bin_edges(z[:, k], bins)
        shares = [np.histogram(z[has[:, c], k], edges)[0] / has[:, c].sum() for c in range(3)]
        pairs = itertools.combinations(shares, 2)
        want = np.mean([float(mpmath.sqrt(abs(exact_divergence(*pair)))) for pair in pairs])
        assert got["pairs"][k] == pytest.approx(want, abs=1e-12)
        want = float(mpmath.sqrt(abs(exact_divergence(*shares)) / mpmath.log(3, 2)))
        assert got["generalised"][k] == pytest.approx(want, abs=1e-7)
    for aggregate, found in got.items():
        assert ((found >= 0) & (found <= 1 + 1e-12)).all()
        again = concept_separability(
            2 * z[order] + 8, has[order][:, ::-1], bins=bins, aggregate=aggregate
        )
        np.testing.assert_allclose(again, found, atol=1e-7)


def test_separate_alike_constant_and_missing() -> None:
    z = np.array([[0.0, 1.0, 5.0], [0.0, 2.0, 5.0], [9.0, 1.0, 5.0], [8.0, 2.0, 5.0]])
    for aggregate in AGGREGATES:
        got = concept_separability(z, np.array([0, 0, 1, 1]), aggregate=aggregate)
        np.testing.assert_array_equal(got, [1, 0, 0])
        nobody = concept_separability(z, np.array([0, 0, 2, 2]), aggregate=aggregate)
        np.testing.assert_array_equal(nobody, [np.nan] * 3)
    maps = concept_separability(z.reshape(4, 3, 1), np.array([0, 0, 1, 1]))
    np.testing.assert_array_equal(maps, [[1], [0], [0]])
    np.testing.assert_array_equal(
        concept_separability(1.7e308 * np.array([-1.0, -1.0, 1.0, 1.0]), np.array([0, 0, 1, 1])), 1
    )


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: jensen_shannon_distance(P, P[:2]), ValueError,
         r"jensen_shannon_distance: q has shape \(2, 3\), expected \(3, 3\), as p"),
        (lambda: jensen_shannon_distance(P, -P), ValueError,
         r"jensen_shannon_distance: q is -0.5 at \[0, 0\], expected no negative"),
        (lambda: concept_separability(Z, np.zeros(8, int)), ValueError,
         r"concept_separability: concepts has shape \(8, 1\), expected two concepts at least"),
        (lambda: concept_separability(Z, TWO[:4]), ValueError,
         r"concept_separability: concepts has shape \(4, 1\), expected \(8, 1\), a row for each"),
        (lambda: concept_separability(Z, TWO * 0.5), TypeError, "concept_separability: concepts"),
        (lambda: concept_separability(Z, TWO - 1), ValueError, "concept_separability: concepts is"),
        (lambda: concept_separability(Z, TWO, bins=0), ValueError, "concept_separability: bins is"),
        (lambda: concept_separability(Z, TWO, aggregate="max"), ValueError,
         "concept_separability: aggregate is 'max', expected \"pairs\""),
    ],
)
def test_errors(call, error, message: str) -> None:
    with pytest.raises(error, match="^" + message):
        call()
