"""Suite `moments`: its truth against Python's exact statistics."""

import statistics
from fractions import Fraction

import numpy as np
import pytest

from minimono import mono
from minimono.oracle import runner
from minimono.oracle.suites.moments import SUITE, plain_forget, plain_moments

CASES = list(SUITE.cases())


def report(call, function, dtype="float64"):
    chosen = [c for c in CASES if c.call == call and c.fits(dtype) and not c.extreme]
    outcomes = [runner.run(function, c, dtype=dtype) for c in chosen]
    return runner.finish(runner.Report(), outcomes, dtype=dtype)


def test_truth_by_pythons_statistics():
    """`statistics` computes with exact fractions too."""
    for case in CASES:
        if case.call != "moments":
            continue
        z = np.concatenate(case.arguments["batches"])
        for neuron in np.ndindex(z.shape[1:]):
            column = [Fraction(float(v)) for v in z[(slice(None), *neuron)]]
            assert case.expected["mean"].value[neuron] == float(statistics.mean(column))
            assert case.expected["variance"].value[neuron] == float(statistics.variance(column))


def test_truth_of_the_merge_is_that_of_the_union():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(5, 2)), rng.normal(size=(8, 2))
    halves = [len(a), a.mean(axis=0), len(a) * a.var(axis=0),
              len(b), b.mean(axis=0), len(b) * b.var(axis=0)]
    both = np.concatenate([a, b])
    count, mean, m2 = SUITE.own["merge"](*halves)
    assert count == 13
    np.testing.assert_allclose(mean, both.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(m2, 13 * both.var(axis=0), rtol=1e-14)


def test_truth_of_forgetting_as_it_is_printed():
    """Algorithm 1 with n_f instead of m, for batches of one size."""
    rng = np.random.default_rng(1)
    batches = [[Fraction(int(v)) for v in rng.integers(-9, 9, 4)] for _ in range(6)]
    mean, variance = plain_forget([np.array(b, dtype=object) for b in batches], forget_after=2)
    n, b = 2, Fraction(4)
    first, second = batches[:2]
    m = statistics.mean(first + second)
    s2 = statistics.variance(first + second)
    for batch in batches[2:]:
        u, w = statistics.mean(batch), statistics.pvariance(batch)
        below = n + 1 - 1 / b
        s2 = n * (m - u) ** 2 / (below * (n + 1)) + (w + (n - 1 / b) * s2) / below
        m = (n * m + u) / (n + 1)
    assert (mean, variance) == (m, s2)


def test_nist_numacc_in_full():
    """NumAcc1 to 4: the certified values, to the digits that float64 can hold."""
    certified = [
        (10000002, 1, 3, 15), (1.2, 0.1, 1001, 14), (1000000.2, 0.1, 1001, 9),
        (10000000.2, 0.1, 1001, 8),
    ]
    for base, spread, size, digits in certified:
        tenth = round(base - 0.1 if size > 3 else base - 1, 1)
        above = round(base + 0.1 if size > 3 else base + 1, 1)
        z = np.array([base] + [tenth, above] * (size // 2))[:, None]
        mean, variance = SUITE.own["moments"]([z])
        assert abs(mean[0] - base) <= abs(base) * 1e-15
        assert abs(np.sqrt(variance[0]) - spread) <= spread * 10.0**-digits


def test_mean_and_variance_by_hand():
    mean, variance = plain_moments([np.array([1, 2, 2, 4, 6], dtype=object) * Fraction(1)])
    assert (mean, variance) == (3, 4)


def test_forgetting_by_hand():
    """Means 1 and 5 with variance 2 each; then the past, worth two samples, meets 5 again."""
    case = next(c for c in CASES if c.notes.startswith("by hand: a mean of 1, then 5"))
    assert case.expected["mean"].value.tolist() == [4, 1]
    assert case.expected["variance"].value.tolist() == [38 / 9, 0]


def test_own_at_the_ends_of_the_range():
    ends = [c for c in CASES if c.extreme]
    assert len(ends) == 2
    for case in ends:
        assert runner.run(SUITE.own[case.call], case).message is None


def test_own_variance_of_constant_neurons_is_exactly_0():
    constant = [c for c in CASES if c.notes.startswith("constant") and "the same" not in c.notes]
    assert len(constant) == 2
    for case in constant:
        _, variance = SUITE.own["moments"](case.arguments["batches"])
        assert not variance.any()


# ---- what people write ---------------------------------------------------------------------------


def two_pass(batches):
    z = np.concatenate(batches)
    return z.mean(axis=0), z.var(axis=0, ddof=1)


def merged(batches, forget_after=None):
    """Chan's merge, in the dtype of the data."""
    dtype = batches[0].dtype.type
    n, mean = len(batches[0]), batches[0].mean(axis=0)
    m2 = ((batches[0] - mean) ** 2).sum(axis=0)
    for seen, batch in enumerate(batches[1:], start=1):
        b, own = len(batch), batch.mean(axis=0)
        if forget_after is not None and seen >= forget_after:
            past = forget_after * b
            m2, n = m2 * dtype((past - 1) / (n - 1)), past
        m2 = m2 + ((batch - own) ** 2).sum(axis=0) + (own - mean) ** 2 * dtype(n * b / (n + b))
        mean, n = mean + (own - mean) * dtype(b / (n + b)), n + b
    return mean, m2 / dtype(n - 1)


def welford(batches):
    n, mean, m2 = 0, 0 * batches[0][0], 0 * batches[0][0]
    for row in np.concatenate(batches):
        n += 1
        delta = row - mean
        mean = mean + delta / n
        m2 = m2 + delta * (row - mean)
    return mean, m2 / (n - 1)


def chan(count_a, mean_a, m2_a, count_b, mean_b, m2_b):
    dtype, n = mean_a.dtype.type, count_a + count_b
    delta = mean_b - mean_a
    m2 = m2_a + m2_b + delta * delta * dtype(count_a * count_b / n)
    return n, mean_a + delta * dtype(count_b / n), m2


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    ("call", "function"),
    [("moments", two_pass), ("moments", merged), ("moments", welford), ("merge", chan),
     ("forget", lambda batches, *, forget_after: merged(batches, forget_after))],
    ids=["two passes", "merged", "Welford", "merge", "forgetting"],
)
def test_sound_algorithms_pass(call, function, dtype):
    found = report(call, function, dtype)
    assert found.passed
    assert not found.failures, str(found)


def short_formula(batches, dtype=None):
    z = np.concatenate(batches)
    z = z if dtype is None else z.astype(dtype)
    n, mean = len(z), z.mean(axis=0)
    return mean, ((z * z).mean(axis=0) - mean * mean) * z.dtype.type(n / (n - 1))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_short_formula_is_refused_for_its_lost_digits(dtype):
    found = report("moments", short_formula, dtype)
    assert any("offset" in c.notes for c in CASES if c.id in {f.case for f in found.failures})
    assert len(found.failures) >= 4
    assert all("cancellation" in f.diagnosis for f in found.failures), str(found)


def test_float32_accumulators_are_named():
    def narrow(batches):
        mean, variance = two_pass([b.astype(np.float32) for b in batches])
        return mean.astype(float), variance.astype(float)

    found = report("moments", narrow)
    assert found.failures
    assert all("float32 inside" in f.diagnosis for f in found.failures), str(found)


def test_the_merge_by_squares_is_refused_far_from_zero():
    def squares(count_a, mean_a, m2_a, count_b, mean_b, m2_b):
        n = count_a + count_b
        mean = (count_a * mean_a + count_b * mean_b) / n
        total = m2_a + count_a * mean_a**2 + m2_b + count_b * mean_b**2
        return n, mean, total - n * mean**2

    failed = {f.case for f in report("merge", squares).failures}
    far = {c.id for c in CASES if c.call == "merge" and "a million times" in c.notes}
    assert far <= failed


def test_constant_neurons_by_minimono_and_numpy():
    """NumPy's variance of 0.1, 0.1, 0.1 is not 0; that is rounding, and allowed."""
    z = np.full((3, 1), 0.1)
    assert z.var(axis=0, ddof=1)[0] > 0
    assert mono.Moments.of(z).m2[0] == 0
    assert not report("moments", two_pass).failures
