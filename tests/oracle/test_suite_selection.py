"""Suite `selection`: its truth against sorting, its own, its mistakes."""

import numpy as np
import pytest

from minimono import kernels
from minimono.oracle import runner
from minimono.oracle.suites.selection import SUITE, top

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


def test_truth_by_sorting():
    """With distinct numbers: the k last of the sorted ones."""
    rng = np.random.default_rng(0)
    phi = rng.permutation(24).reshape(4, 6).astype(float)
    for k in range(1, 7):
        chosen = np.sort(phi, axis=1)[:, -k:]
        expected = (phi[:, :, None] == chosen[:, None, :]).any(axis=2)
        assert (top(phi, k, "sample", "all") == expected).all()
        assert (top(phi, k, "sample", "first") == expected).all()
    assert (top(phi, 5, "batch", "all") == (phi >= 19)).all()


def test_truth_of_ties():
    phi = np.array([[2.0, 1.0, 2.0, 2.0]])
    assert top(phi, 2, "sample", "all").tolist() == [[True, False, True, True]]
    assert top(phi, 2, "sample", "first").tolist() == [[True, False, True, False]]


def test_flags_are_exact():
    for case in CASES:
        assert case.expected["mask"].value.dtype == bool
        assert case.expected["mask"].either is None
