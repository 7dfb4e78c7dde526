"""Suite `moments`: its truth against Python's exact statistics, its own, its mistakes."""

import statistics
from fractions import Fraction

import numpy as np
import pytest

from minimono import kernels
from minimono.oracle import runner
from minimono.oracle.suites.moments import SUITE, forgetful, mean_and_variance

CASES = list(SUITE.cases())


def report(call, function, dtype="float64"):
    chosen = [c for c in CASES if c.call == call and c.fits(dtype) and not c.extreme]
    outcomes = [runner.run(function, c, dtype=dtype) for c in chosen]
    return runner.finish(runner.Report(), outcomes, dtype=dtype)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("call", SUITE.own)
def test_own(call, dtype):
    found = report(call, SUITE.own[call], dtype)
    assert found.passed
    assert not found.failures, str(found)


@pytest.mark.parametrize("call", SUITE.own)
def test_own_reading_versions(call):
    def reading(*arguments, **options):
        with kernels.reference():
            return SUITE.own[call](*arguments, **options)

    assert not report(call, reading).failures


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(
    ("call", "name"), [(call, name) for call, names in SUITE.mistakes.items() for name in names]
)
def test_each_mistake_is_named(call, name):
    failures = report(call, SUITE.mistakes[call][name]).failures
    assert failures
    made = {f.diagnosis for f in failures if f.diagnosis is not None}
    assert made
    assert all(f'"{name}"' in diagnosis and "to 15 digits" in diagnosis for diagnosis in made)


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
              len(b), b.mean(axis=0), len(b) * b.var(axis=0)]  # fmt: skip
    both = np.concatenate([a, b])
    count, mean, m2 = SUITE.own["merge"](*halves)
    assert count == 13
    np.testing.assert_allclose(mean, both.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(m2, 13 * both.var(axis=0), rtol=1e-14)


def test_truth_of_forgetting_as_it_is_printed():
    """Algorithm 1 with n_f instead of m, for batches of one size."""
    rng = np.random.default_rng(1)
    batches = [[Fraction(int(v)) for v in rng.integers(-9, 9, 4)] for _ in range(6)]
    mean, variance = forgetful([np.array(b, dtype=object) for b in batches], 2)
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
    ]  # fmt: skip
    for base, spread, size, digits in certified:
        tenth = round(base - 0.1 if size > 3 else base - 1, 1)
        above = round(base + 0.1 if size > 3 else base + 1, 1)
        z = np.array([base] + [tenth, above] * (size // 2))[:, None]
        mean, variance = SUITE.own["moments"]([z])
        assert abs(mean[0] - base) <= abs(base) * 1e-15
        assert abs(np.sqrt(variance[0]) - spread) <= spread * 10.0**-digits


def test_mean_and_variance_by_hand():
    mean, variance = mean_and_variance(np.array([1, 2, 2, 4, 6], dtype=object) * Fraction(1))
    assert (mean, variance) == (3, 4)
