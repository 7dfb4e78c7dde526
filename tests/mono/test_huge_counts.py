"""Counts are Python integers of any size: every path against exact fractions, up to 10^30."""

from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minimono as mm
from minimono.mono import MEmeL, Moments, ScaleTracker, score_batch

COUNTS = (1, 2, 3, 10**4, 4 * 10**9, 2**32, 2**53 + 1, 2**62, 2**63 - 1, 2**63, 2**64 + 1, 10**30)
PAIRS = [(a, b) for a in COUNTS for b in COUNTS]


@pytest.fixture(params=["kernel", "reading version"], autouse=True)
def version(request: Any) -> Any:
    with nullcontext() if request.param == "kernel" else mm.reference():
        yield


def exact_merge(a: Moments, b: Moments) -> list[tuple[Fraction, Fraction]]:
    """Mean and m2 of each neuron, in fractions."""
    merged = []
    for mean_a, m2_a, mean_b, m2_b in zip(a.mean, a.m2, b.mean, b.m2, strict=True):
        mean_a, m2_a, mean_b, m2_b = map(Fraction, (mean_a, m2_a, mean_b, m2_b))
        whole, delta = a.count + b.count, mean_b - mean_a
        mean = (a.count * mean_a + b.count * mean_b) / whole
        merged.append((mean, m2_a + m2_b + delta**2 * Fraction(a.count * b.count, whole)))
    return merged


def moments(count: int, seed: int) -> Moments:
    rng = np.random.default_rng(seed)
    spread = rng.random(4) * float(count) if count > 1 else np.zeros(4)
    return Moments(count, rng.standard_normal(4), spread)


def test_two_shards_of_four_billion() -> None:
    shard, other = (Moments(4 * 10**9, np.array([m]), np.array([4e9])) for m in (1.0, 2.0))
    np.testing.assert_allclose(shard.merge(other).variance(ddof=0), [1.25], rtol=1e-15)


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_a_merge_against_fractions(a: int, b: int) -> None:
    one, other = moments(a, 1), moments(b, 2)
    both = one.merge(other)
    assert type(both.count) is int
    assert both.count == a + b
    for j, (mean, m2) in enumerate(exact_merge(one, other)):
        size = max(abs(one.mean[j]), abs(other.mean[j]))
        assert abs(Fraction(both.mean[j]) - mean) <= Fraction(size) * Fraction(1, 2**51)
        assert float(abs(Fraction(both.m2[j]) - m2) / m2) <= 1e-15
        for ddof in (0, 1, 2, 10**18, a + b - 1):
            if a + b <= ddof:
                assert np.isnan(both.variance(ddof)[j])
                continue
            wanted = Fraction(both.m2[j]) / (a + b - ddof)
            assert both.variance(ddof)[j] == pytest.approx(float(wanted), rel=1e-15)


@pytest.mark.parametrize("count", COUNTS[1:])
@pytest.mark.parametrize("new", COUNTS)
def test_resized_against_fractions(count: int, new: int) -> None:
    old = moments(count, 3)
    resized = old.resized(new)
    assert (type(resized.count), resized.count) == (int, new)
    for j in range(4):
        wanted = Fraction(old.m2[j]) * Fraction(new - 1, count - 1)
        assert resized.m2[j] == pytest.approx(float(wanted), rel=1e-15, abs=0.0)


@pytest.mark.parametrize("count", COUNTS[1:])
def test_an_update_and_a_score_against_fractions(count: int) -> None:
    z = np.random.default_rng(4).standard_normal((5, 4))
    past = moments(count, 5)
    for after in (past.update(z), past.merge(score_batch(z, past).batch)):
        for j, (mean, m2) in enumerate(exact_merge(past, Moments.of(z))):
            assert after.mean[j] == pytest.approx(float(mean), rel=1e-14)
            assert after.m2[j] == pytest.approx(float(m2), rel=1e-14)
    phi = score_batch(z, past, keep_phi=True).phi
    for i, j in np.ndindex(z.shape):
        variance = Fraction(past.m2[j]) / (count - 1)
        wanted = (Fraction(z[i, j]) - Fraction(past.mean[j])) ** 2 / variance
        assert phi[i, j] == pytest.approx(float(wanted), rel=1e-13)


@pytest.mark.parametrize(
    "integer", [np.uint8, np.int8, np.int16, np.int32, np.uint32, np.int64, np.uint64]
)
def test_counts_as_numpy_integers_do_not_wrap(integer: Any) -> None:
    most = int(np.iinfo(integer).max)
    made = Moments(integer(most), np.zeros(1), np.array([1e3]))
    same = Moments(most, np.zeros(1), np.array([1e3]))
    assert type(made.count) is int
    for found, wanted in (
        (made.merge(made), same.merge(same)),
        (made.resized(integer(most - 1)), same.resized(most - 1)),
    ):
        assert (type(found.count), found.count) == (int, wanted.count)
        assert found.m2.tobytes() == wanted.m2.tobytes()
    assert made.variance(integer(3)) == same.variance(3)
    tracker = ScaleTracker(forget_after=integer(most))
    z = np.random.default_rng(6).standard_normal((200, 3))
    for _ in range(3):
        tracker.score(z)
    assert (type(tracker.count), tracker.count) == (int, 600)


def test_a_count_that_float64_cannot_hold_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"^Moments: count has 401 digits"):
        Moments(10**400, np.zeros(1), np.zeros(1))
    past = Moments(10**308, np.zeros(1), np.zeros(1))
    with pytest.raises(ValueError, match=r"^Moments: count has 309 digits"):
        past.merge(past)
    with pytest.raises(ValueError, match=r"^Moments: count has 309 digits"):
        past.resized(2 * 10**308)


@pytest.mark.parametrize("convention", ["paper", "authors"])
@pytest.mark.parametrize("samples", [2, 10**4])
def test_a_tracker_that_hardly_forgets(convention: Any, samples: int) -> None:
    """With forget_after of 10^30 the past weighs as all batches that were seen."""
    rng = np.random.default_rng(7)
    tracker = ScaleTracker(convention=convention, forget_after=10**30)
    batches = [rng.standard_normal((samples, 3)) for _ in range(4)]
    for batch in batches:
        tracker.score(batch)
    if convention == "paper":
        np.testing.assert_allclose(tracker.mean, np.concatenate(batches).mean(axis=0), rtol=1e-10)


def huge_tracker(count: int, batches_seen: int = 3) -> ScaleTracker:
    tracker = ScaleTracker(forget_after=None)
    tracker._state = (batches_seen, Moments(count, np.ones(3), np.ones(3) * float(count)))
    return tracker


@pytest.mark.parametrize("count", COUNTS[1:])
@pytest.mark.parametrize("batches_seen", [3, 2**63, 10**30])
def test_a_state_holds_every_count(count: int, batches_seen: int) -> None:
    tracker = huge_tracker(count, batches_seen)
    state = tracker.state_dict()
    assert all(array.dtype.kind in "fiu" for array in state.values())
    other = ScaleTracker(forget_after=None)
    other.load_state_dict(state)
    assert (other.count, other.batches_seen) == (count, batches_seen)
    z = np.random.default_rng(8).standard_normal((5, 3))
    assert other.score(z).tobytes() == tracker.score(z).tobytes()
    assert other.count == count + 5
    assert {k: v.tobytes() for k, v in other.state_dict().items()} == {
        k: v.tobytes() for k, v in tracker.state_dict().items()
    }


def test_a_small_count_is_stored_as_it_always_was() -> None:
    state = huge_tracker(2**63 - 1).state_dict()
    assert (state["count"].dtype, state["count"].shape) == (np.int64, ())
    assert state["batches_seen"].dtype == np.int64


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint64, np.uint8])
def test_counts_of_older_states_load(dtype: Any) -> None:
    tracker = huge_tracker(7)
    tracker.load_state_dict({**tracker.state_dict(), "count": np.array(7, dtype)})
    assert tracker.count == 7


@pytest.mark.parametrize(
    "count", [np.array([7]), np.array([1.0, 2.0]), np.array(7.0), np.ones((2, 2), np.uint8)]
)
def test_other_counts_are_refused(count: Any) -> None:
    tracker = huge_tracker(7)
    with pytest.raises(TypeError, match=r"^ScaleTracker.load_state_dict: count"):
        tracker.load_state_dict({**tracker.state_dict(), "count": count})
    assert tracker.count == 7


def test_a_checkpoint_holds_every_count(tmp_path: Path) -> None:
    for count in (5, 2**63 - 1, 2**63, 10**30):
        model = mm.nn.Sequential(MEmeL())
        model.load_state_dict({f"0.{k}": v for k, v in huge_tracker(count).state_dict().items()})
        mm.checkpoint.save(tmp_path / "run.npz", model)
        other = mm.nn.Sequential(MEmeL())
        mm.checkpoint.load(tmp_path / "run.npz").restore(other)
        [memel] = [m for _, m in other.named_modules() if isinstance(m, MEmeL)]
        assert memel.tracker.count == count
