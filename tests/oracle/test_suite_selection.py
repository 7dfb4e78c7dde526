"""Suite `selection`: its truth against sorting."""

from decimal import ROUND_CEILING, Decimal

import numpy as np
import pytest

from minimono.oracle import runner
from minimono.oracle.suites.selection import SUITE, top

CASES = list(SUITE.cases())


def report(call, function, dtype="float64"):
    chosen = [c for c in CASES if c.call == call and c.fits(dtype) and not c.extreme]
    outcomes = [runner.run(function, c, dtype=dtype) for c in chosen]
    return runner.finish(runner.Report(), outcomes, dtype=dtype)


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


def counted_one_by_one(phi, k, per, ties):
    """`top` without broadcasting: how many are higher, for one score after the other."""
    rows = phi.reshape(1, -1) if per == "batch" else phi.reshape(len(phi), -1)
    mask = np.zeros(rows.shape, dtype=bool)
    for row, flags in zip(rows.tolist(), mask, strict=True):
        for i, score in enumerate(row):
            higher = sum(other > score for other in row)
            before = sum(other == score for other in row[:i]) if ties == "first" else 0
            flags[i] = score == score and higher + before < k
    return mask.reshape(phi.shape)


def test_truth_one_by_one():
    for case in CASES:
        if case.call == "select_top_k":
            phi, *rest = case.arguments.values()
            assert (counted_one_by_one(phi, *rest) == case.expected["mask"].value).all(), case.id


def test_truth_by_hand():
    masks = {c.notes: c.expected["mask"].value.tolist() for c in CASES}
    by_hand = {
        "k is all scores of the sample: nan is not flagged all the same":
            [[True, False, True], [True, False, True]],
        "a layer of one neuron, of the batch": [[False], [True], [False], [True]],
        "no neuron axis, shape (B,): each sample has one score": [True] * 4,
        "no neuron axis, shape (B,), of the batch, ties across samples":
            [False, True, False, False],
        "by hand, a sequence: a neuron is a (position, channel) pair":
            [[[False, False], [True, False]], [[True, True], [False, False]]],
        "by hand, a sequence, of ties the first in C order":
            [[[False, False], [True, False]], [[True, False], [False, False]]],
        "nan is not flagged beside negative scores": [[True, False, False], [False, False, True]],
        "scores that differ in their last bit are no tie": [[False, True, False, False]],
        "every score is nan": [[False, False], [False, False]],
    }
    for notes, mask in by_hand.items():
        assert masks[notes] == mask, notes


def test_fractions_are_decimals():
    """k from the decimal as it is written, by Python's decimal numbers."""
    for case in CASES:
        if case.call != "select_top_fraction" or not np.isfinite(case.arguments["phi"]).all():
            continue
        phi, per = case.arguments["phi"], case.arguments["per"]
        size = phi.size if per == "batch" else phi[0].size
        exact = Decimal(repr(case.arguments["fraction"])) * size
        k = int(exact.to_integral_value(ROUND_CEILING))
        counts = case.expected["mask"].value.reshape(1 if per == "batch" else len(phi), -1)
        if "tied" not in case.notes and "zeros" not in case.notes:
            assert (counts.sum(axis=1) == k).all(), case.id


# ---- what people write ---------------------------------------------------------------------------


def by_sorting(phi, *, k, per, ties):
    """A stable sort, falling, nan last."""
    rows = phi.reshape(1, -1) if per == "batch" else phi.reshape(len(phi), -1)
    order = np.argsort(-rows, axis=1, kind="stable")
    kth = np.take_along_axis(rows, order, axis=1)[:, :k][:, -1:]
    numbers = np.sum(~np.isnan(rows), axis=1, keepdims=True)
    if ties == "first":
        rank = np.argsort(order, axis=1)
        return ((rank < k) & (rank < numbers)).reshape(phi.shape)
    with np.errstate(invalid="ignore"):
        mask = np.where(numbers < k, ~np.isnan(rows), rows >= kth)
    return mask.reshape(phi.shape)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_stable_sort_passes(dtype):
    found = report("select_top_k", by_sorting, dtype)
    assert not found.failures, str(found)


def test_numpy_comparison_passes_for_a_threshold():
    assert not report("select_above", lambda phi, *, threshold: phi >= threshold).failures
