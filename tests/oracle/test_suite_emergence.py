"""Suite `emergence`: its truth against paths walked one by one."""

import itertools
import math

import numpy as np
import pytest

from minimono.oracle import runner
from minimono.oracle.suites.emergence import SUITE, paths, paths_of_masks

CASES = list(SUITE.cases())


def cases_of(call):
    return [c for c in CASES if c.call == call]


def report(call, function, dtype="float64", convert=None):
    chosen = [c for c in cases_of(call) if c.fits(dtype)]
    outcomes = [runner.run(function, c, dtype=dtype, convert=convert) for c in chosen]
    return runner.finish(runner.Report(), outcomes, dtype=dtype)


# ---- paths ---------------------------------------------------------------------------------------


def walked(masks, active, form):
    """Every path, walked from its start, one after the other."""
    count = 0
    waiting = [(i, n) for i, on in enumerate(active) for n in range(len(on)) if not on[n]]
    while waiting:
        layer, node = waiting.pop()
        if layer == len(masks):
            continue
        for after in np.flatnonzero(masks[layer][:, node]):
            count += bool(active[layer + 1][after])
            if form == "A" or active[layer + 1][after]:
                waiting.append((layer + 1, after))
    return count


@pytest.mark.parametrize("form", ["A", "B"])
def test_paths_walked_one_by_one(form):
    walks = 0
    for case in cases_of("emergence_of_masks"):
        want = int(case.expected["paths"].value)
        if case.arguments["form"] == form and want < 10**5 and "2^" not in case.notes:
            assert walked(case.arguments["masks"], case.arguments["active"], form) == want, case.id
            walks += 1
    assert walks >= 10


@pytest.mark.parametrize(
    ("widths", "active", "a", "b"),
    [
        ([3, 2, 2], [1, 1, 2], 12, 8),
        ([4, 3, 2], [1, 2, 1], 16, 13),
        ([784, 128, 64, 10], [300, 60, 30, 5], 21736210, 5268650),
    ],
)
def test_the_fixtures(widths, active, a, b):
    assert (paths(widths, active, "A"), paths(widths, active, "B")) == (a, b)
    given = [c for c in cases_of("emergence") if c.arguments["widths"] == widths]
    assert [int(c.expected["paths"].value) for c in given] == [a, b]


@pytest.mark.parametrize("form", ["A", "B"])
def test_masks_of_ones_are_widths(form):
    rng = np.random.default_rng(5)
    for _ in range(20):
        widths = rng.integers(1, 6, size=rng.integers(1, 6)).tolist()
        active = [rng.random(n) < 0.5 for n in widths]
        masks = [np.ones((m, n), dtype=bool) for n, m in itertools.pairwise(widths)]
        counts = [int(on.sum()) for on in active]
        assert paths_of_masks(masks, active, form) == paths(widths, counts, form)


def test_some_counts_are_beyond_every_machine_number():
    sizes = [int(c.expected["paths"].value) for c in cases_of("emergence")]
    assert sum(s > 2**53 for s in sizes) >= 5
    assert sum(s > 2**64 for s in sizes) >= 5
    most = int(np.finfo(np.float64).max)
    assert max(sizes) > most
    large = [s for s in sizes if 2**53 < s < most]
    assert all(int(float(s)) != s for s in large)  # so that float64 cannot be right by chance
    assert max(int(c.expected["paths"].value) for c in cases_of("emergence_of_masks")) > 2**64


# ---- active nodes --------------------------------------------------------------------------------


def plain_counts(z, *, threshold, per):
    """math.fsum for the mean, one node at a time."""
    rows = z.reshape(len(z), -1).tolist()
    if per == "batch":
        rows = [[math.fsum(column) / len(z) for column in zip(*rows, strict=True)]]
    counts = [sum(v > threshold for v in row) for row in rows]
    return counts[0] if per == "batch" else np.array(counts)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_counts_in_plain_python(dtype):
    found = report("active_counts", plain_counts, dtype)
    assert not found.failures, str(found)


def test_counts_in_float32():
    """All in float32, threshold too: no case is so close that this would matter."""

    def counts(z, *, threshold, per):
        limit = np.float32(threshold)
        active = (z.mean(axis=0) if per == "batch" else z.reshape(len(z), -1)) > limit
        return active.sum(axis=None if per == "batch" else 1)

    found = report("active_counts", counts, "float32")
    assert not found.failures, str(found)


@pytest.mark.parity
def test_masks_in_pytorch():
    """In int64, which is enough for all but the cases that say so."""
    torch = pytest.importorskip("torch")

    def of_masks(masks, active, *, form):
        total, arriving = torch.tensor(0), torch.zeros(len(active[0]), dtype=torch.int64)
        for mask, (here, there) in zip(masks, itertools.pairwise(active), strict=True):
            arriving = mask.long() @ (arriving + (~here).long())
            total = total + arriving[there].sum()
            if form == "B":
                arriving = arriving * there
        return total

    found = report("emergence_of_masks", of_masks, convert=torch.from_numpy)
    assert {f.diagnosis for f in found.failures} == {
        '"counted in int64, which wraps round above 2^63" to 15 digits'
    }
