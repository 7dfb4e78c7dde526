"""FMS against trees by hand, exhaustive search, scikit-learn's trees and the authors' formulas."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from minimono.mono import feature_monosemanticity_score as fms
from minimono.mono.fms import _accuracies, _best_split

few = settings(max_examples=40)
FOUR = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
TWINS = np.array([[0, 0], [0, 0], [1, 1], [1, 1]])


@pytest.mark.parametrize(
    ("z", "y", "depths", "local", "overall", "score"),
    [  # overall and score: ours, demo, notebook. The demo was run, and the notebook's trees
        (FOUR, "0001", (0.75, 0.75, 1), 0, (0.75, 0.875, 0.875), (0.28125, 0.328125, 0.328125)),
        (FOUR, "0011", (0.5, 1), 1, (1, 1, 1.5), (1, 1, 1.25)),
        (TWINS, "0011", (0.5, 1), 0, (1, 1, 1.5), (0.5, 0.5, 0.75)),
        (FOUR, "0110", (0.5, 0.5, 1), 0, (0.5, 0.75, 0.75), (0.125, 0.1875, 0.1875)),
    ],
    ids=["and", "one latent", "twins", "xor"],
)
def test_the_score_by_hand(z, y: str, depths, local: float, overall, score) -> None:
    concept = np.array([int(digit) for digit in y])
    assert [*_accuracies((z, concept), (z, concept))] == [*depths]
    for i, convention in enumerate(("ours", "demo", "notebook")):
        found = fms(z, concept == 1, convention=convention)
        assert found.accuracy == depths[1]
        assert found.local == local
        assert found.overall == overall[i]
        assert found.score == score[i]


def brute_force_split(z, y) -> tuple[int, float] | None:
    """Try every latent and every threshold between two values, in fractions."""
    splits = []
    for latent in range(z.shape[1]):
        values = sorted(set(z[:, latent].tolist()))
        for low, high in itertools.pairwise(values):
            left = z[:, latent] <= low
            impurity = Fraction(0)
            for side in (y[left].tolist(), y[~left].tolist()):
                p = Fraction(sum(side), len(side))
                impurity += len(side) * (1 - p**2 - (1 - p) ** 2)
            splits.append((impurity, latent, (low + high) / 2))
    return min(splits)[1:] if splits and len(set(y.tolist())) > 1 else None


@few
@given(
    arrays(np.float64, (9, 3), elements=st.integers(0, 3).map(float)),
    arrays(np.int64, 9, elements=st.integers(0, 1)),
)
def test_splits_by_exhaustive_search(z, y) -> None:
    """Of equally good ones the lowest latent, then the lowest threshold. Our choice."""
    assert _best_split(z, y) == brute_force_split(z, y)


def grown(z, y, x, depth: int) -> np.ndarray:
    """What a tree of this depth says of x, by recursion."""
    split = brute_force_split(z, y) if depth else None
    if split is None:
        return np.full(len(x), int(2 * y.sum() > len(y)))
    left, x_left = z[:, split[0]] <= split[1], x[:, split[0]] <= split[1]
    says = np.empty(len(x), int)
    says[x_left] = grown(z[left], y[left], x[x_left], depth - 1)
    says[~x_left] = grown(z[~left], y[~left], x[~x_left], depth - 1)
    return says


@few
@given(
    arrays(np.float64, (8, 3), elements=st.integers(0, 2).map(float)),
    arrays(np.int64, 8, elements=st.integers(0, 1)),
    arrays(np.float64, (5, 3), elements=st.integers(0, 2).map(float)),
)
def test_accuracies_at_every_depth(z, y, x) -> None:
    """On the inputs that the tree was grown on, and on others."""
    truth = np.arange(5) % 2
    for tested in ((z, y), (x, truth)):
        found = [*_accuracies((z, y), tested)]
        want = [(grown(z, y, tested[0], d) == tested[1]).mean() for d in range(len(found) + 1)]
        np.testing.assert_allclose(found, want[:-1])
        assert want[-1] == want[-2]  # the whole tree


def test_single_splits_are_scikit_learn_s() -> None:
    """Where no two are equally good: their trees draw one of those."""
    from sklearn.tree import DecisionTreeClassifier

    for seed in range(10):
        rng = np.random.default_rng(seed)
        z = rng.normal(size=(60, 5)).astype(np.float32).astype(float)  # their trees' dtype
        y = (z[:, 0] + z[:, 1] + 0.5 * rng.normal(size=60) > 0).astype(int)
        tree = DecisionTreeClassifier(max_depth=1, random_state=0).fit(z, y)
        latent, threshold = _best_split(z, y)
        assert latent == tree.tree_.feature[0]
        assert threshold == pytest.approx(tree.tree_.threshold[0], rel=1e-12)
        assert [*_accuracies((z, y), (z, y), depth=1)][1] == tree.score(z, y)


def test_local_removes_the_best_latent_p_times() -> None:
    """Twins hide each other: only p = 2 shows that nothing else holds the concept."""
    z = np.column_stack([TWINS, [0, 1, 0, 1]])
    y = np.array([0, 0, 1, 1])
    assert fms(z, y, p=1).local == 0  # wrong without the 2: also for p = 2
    assert fms(z, y, p=2).local == 1
    assert fms(z, y, p=9).local == 1  # nothing left to remove


def test_several_concepts_and_held_out_inputs() -> None:
    z = np.concatenate([FOUR, 3 * FOUR])
    y = np.stack([z[:, 0] > 0, (z > 0).all(axis=1)], axis=1)
    both = fms(z, y)
    each = [fms(z, y[:, c]) for c in (0, 1)]
    assert both.score == pytest.approx((each[0].score + each[1].score) / 2)
    for part in ("accuracy", "local", "overall"):
        np.testing.assert_array_equal(getattr(both, part), [getattr(e, part)[0] for e in each])
    wrong = fms(z, y, evaluate=(z, ~y))
    np.testing.assert_array_equal(wrong.accuracy, 1 - both.accuracy)
    assert wrong.score != both.score
    assert fms(z, y, evaluate=(z, y)).score == both.score


def test_the_score_does_not_change_with_latents_order_or_scale() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(40, 4))
    y = z[:, 2] + 0.3 * rng.normal(size=40) > 0
    for convention in ("ours", "demo", "notebook"):
        want = fms(z, y, convention=convention)
        for other in (z[:, ::-1], np.sinh(z), np.sign(z) * 1e300 * abs(z) / 9, -z):
            found = fms(other, y, convention=convention)
            for part, wanted in zip(found, want, strict=True):
                np.testing.assert_allclose(part, wanted, atol=1e-12)


def test_nothing_to_split() -> None:
    """A concept that all inputs have; latents that never change."""
    for z, y, accuracy in ((FOUR, np.ones(4, bool), 1), (0 * FOUR, np.arange(4) == 0, 0.75)):
        for convention, overall in (("ours", 1), ("demo", 1), ("notebook", 1)):
            found = fms(z, y, convention=convention)
            assert (found.accuracy, found.local, found.overall) == (accuracy, 0, overall)
    assert fms(0 * FOUR, np.array([1, 1, 0, 0])).accuracy == 0.5


def test_the_demo_stops_early_and_cuts_off() -> None:
    """999 of 1000 right at depth 1: "demo" asks no further. Negative parts become 0."""
    z = np.column_stack([np.arange(2000) // 1000, np.arange(2000) == 1999])
    y = (z[:, 0] == 1) & (z[:, 1] == 0)
    assert fms(z, y, convention="demo").overall == 1
    assert fms(z, y, convention="ours").overall == pytest.approx(1 - 1 / 2000)
    found = fms(FOUR, FOUR[:, 0], evaluate=(FOUR, 1 - FOUR[:, 0]))
    assert found.local < 0
    assert fms(FOUR, FOUR[:, 0], evaluate=(FOUR, 1 - FOUR[:, 0]), convention="demo").local == 0


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: fms(FOUR[0], FOUR[:, 0]), ValueError, r"z has shape \(2,\), expected \(B, n\)"),
        (lambda: fms(FOUR, FOUR[:3, 0]), ValueError,
         r"concepts has shape \(3,\), expected \(4,\) or \(4, K\), a row for each of z"),
        (lambda: fms(FOUR, FOUR[:, 0] * 0.5), TypeError, "concepts has dtype float64"),
        (lambda: fms(FOUR, FOUR[:, 0] * 2), ValueError, "concepts is 2, expected at most 1"),
        (lambda: fms(FOUR, FOUR[:, 0], p=0), ValueError, "p is 0, expected 1 or more"),
        (lambda: fms(FOUR, FOUR[:, 0], convention="svm"), ValueError, "convention is 'svm'"),
        (lambda: fms(FOUR, FOUR[:, 0], evaluate=(FOUR[:, :1], FOUR[:, 0])), ValueError,
         r"evaluate\[0\] has shape \(4, 1\), expected \(4, 2\), the latents of z"),
        (lambda: fms(FOUR, FOUR[:, 0], evaluate=(FOUR, FOUR)), ValueError,
         r"evaluate\[1\] has shape \(4, 2\), expected \(4, 1\), the concepts"),
    ],
)
def test_errors(call, error, message: str) -> None:
    with pytest.raises(error, match="^feature_monosemanticity_score: " + message):
        call()
