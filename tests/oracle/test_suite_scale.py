"""Suite `scale`: its truth against Python's statistics and closed forms."""

import statistics
from fractions import Fraction

import numpy as np
import pytest

from minimono.oracle import runner
from minimono.oracle.suites.scale import SUITE, plain_scale, plain_stream
from minimono.oracle.truth import exact

CASES = list(SUITE.cases())


def report(call, function, dtype="float64"):
    chosen = [c for c in CASES if c.call == call and c.fits(dtype) and not c.extreme]
    outcomes = [runner.run(function, c, dtype=dtype) for c in chosen]
    return runner.finish(runner.Report(), outcomes, dtype=dtype)


def test_truth_with_statistics_given_by_hand():
    case = next(c for c in CASES if c.notes.startswith("small whole numbers"))
    assert case.expected["phi"].value.tolist() == [[1.0, 0.5, 4.0], [0.0, 2.0, 0.25]]


def test_truth_of_a_stream_by_pythons_statistics():
    """Until something is forgotten, phi is by the mean and variance of all that came before."""
    for case in CASES:
        options = case.arguments
        if case.call != "score_batches" or options["convention"] != "paper":
            continue
        batches = options["batches"][: options["forget_after"] + 1]
        if options["compensation"]:
            continue
        for number in range(1, len(batches)):
            past = np.concatenate(batches[:number])
            for index in np.ndindex(batches[number].shape):
                column = [Fraction(float(v)) for v in past[(slice(None), *index[1:])]]
                z = Fraction(float(batches[number][index]))
                phi = (z - statistics.mean(column)) ** 2 / statistics.variance(column)
                assert case.expected["phi"][number].value[index] == float(phi)


def authors(batches):
    exactly = [exact(b) for b in batches]
    return plain_stream(exactly, convention="authors", forget_after=10, compensation=0)


def test_the_authors_mean_counts_the_first_batch_twice():
    """mean_n = (2 u_1 + u_2 + ... + u_n) / (n + 1), so a value there has phi 0."""
    batches = [np.array([[1.0], [3.0]]), np.array([[4.0], [6.0]]), np.array([[4.25], [9.0]])]
    u = [2, 5, Fraction(53, 8)]
    mean = (2 * u[0] + u[1] + u[2]) / 4
    phi = authors(batches)[2]
    spread = [abs(Fraction(z) - mean) for z in (Fraction(17, 4), Fraction(9))]
    assert phi[0, 0] / phi[1, 0] == (spread[0] / spread[1]) ** 2


def test_authors_bound_without_compensation():
    """phi <= (M - 1)^2 / M with M = b (U + 1): a lone far value in the batch comes near it."""
    quiet = [np.array([[1.0], [-1.0], [1.0], [-1.0]]) * 1e-3] * 12
    loud = np.array([[1e6], [0.0], [0.0], [0.0]])
    phi = authors([*quiet, loud])[-1]
    bound = Fraction(43**2, 44)
    assert bound * Fraction(999, 1000) < phi[0, 0] <= bound


@pytest.mark.parametrize("size", [2, 3, 10])
def test_samuelson(size):
    """By the biased variance of its own batch, phi sums to n and is n - 1 at most."""
    z = np.random.default_rng(size).normal(size=(size, 1))
    q = exact(z)
    mean = q.sum(axis=0) / size
    phi = plain_scale(q, mean, ((q - mean) ** 2).sum(axis=0) / size, compensation=0)
    assert phi.sum() == size
    assert phi.max() <= size - 1


# ---- what people write ---------------------------------------------------------------------------


def test_own_at_the_ends_of_the_range():
    ends = [c for c in CASES if c.extreme]
    assert ends
    for case in ends:
        assert runner.run(SUITE.own[case.call], case).message is None


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_formula_in_plain_numpy_passes(dtype):
    def scale(z, mean, variance, *, compensation):
        below = np.asarray(variance + z.dtype.type(compensation) * variance.mean())
        phi = (z - mean) ** 2 / np.where(below > 0, below, below.dtype.type(np.nan))
        assert phi.dtype == dtype
        return phi

    found = report("monosemantic_scale", scale, dtype)
    assert not found.failures, str(found)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_stream_by_merging_passes(dtype):
    """Chan's merge in the dtype of the data, without options: what mistakes are made from."""
    found = report("score_batches", plain_stream, dtype)
    assert not found.failures, str(found)


def test_float32_inside_is_named():
    def narrow(batches, **options):
        scores = plain_stream([b.astype(np.float32) for b in batches], **options)
        return [phi.astype(float) for phi in scores]

    found = report("score_batches", narrow)
    assert found.failures
    assert all("float32 inside" in f.diagnosis for f in found.failures), str(found)
