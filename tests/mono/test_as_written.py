"""A share is the decimal it is written as, whichever type of number holds it."""

import math
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import minimono as mm
from minimono import mono
from minimono.checks import share

TYPES: dict[str, Callable[[str], Any]] = {
    "float": float,
    "float16": lambda text: np.float16(text),
    "float32": lambda text: np.float32(text),
    "float64": lambda text: np.float64(text),
    "longdouble": lambda text: np.longdouble(text),
    "Fraction": Fraction,
    "Decimal": Decimal,
}
every_type = pytest.mark.parametrize("number", TYPES.values(), ids=TYPES)
PERCENTAGES = [f"{percent / 100:.2f}" for percent in range(1, 101)]
SIZE = 1000
SCORES = np.random.default_rng(0).permutation(SIZE).astype(float)[None]


@every_type
def test_every_percentage_is_exact(number: Any) -> None:
    for text in PERCENTAGES:
        assert share(number(text), "p") == Fraction(text)


@every_type
def test_the_top_fraction(number: Any) -> None:
    for text in PERCENTAGES:
        k = math.ceil(Fraction(text) * SIZE)
        assert mono.select_top_fraction(SCORES, number(text)).sum() == k, text
        neurons = np.zeros(SIZE, int)
        rate = mono.false_killing_rate(
            SCORES, np.array([[True]]), neurons, fraction=number(text)
        )
        assert rate == 0.0


@every_type
def test_pruning(number: Any) -> None:
    for text in PERCENTAGES[:-1]:
        for scope in ("layer", "global"):
            [mask] = mono.prune_by_magnitude([SCORES], number(text), scope=scope)
            assert (~mask).sum() == int(text.removeprefix("0.")) * 10, text


@every_type
def test_a_moving_threshold_starts_and_moves_by_it(number: Any) -> None:
    for text in PERCENTAGES[:-1]:
        threshold = mono.MovingThreshold(number(text), rate=number("0.10"))
        assert (type(threshold.fraction), threshold.fraction) == (float, float(text))
        assert (type(threshold.rate), threshold.rate) == (float, 0.1)
        assert threshold.select(SCORES).sum() == int(text.removeprefix("0.")) * 10, text
        assert mono.L2E(number(text)).threshold.fraction == float(text)


@every_type
def test_the_ratio_of_split_weights(number: Any) -> None:
    """At a tie the channel overlaps: 0.1 of 10 is not more than 1."""
    parts = mono.split_weights(np.ones(1), np.array([10.0]), np.array([1.0]), number("0.10"))
    assert parts.overlap == 1.0


def test_whole_numbers_are_shares_too() -> None:
    for one in (1, np.int8(1), np.uint64(1), Fraction(1), Decimal(1)):
        assert share(one, "p") == 1
        assert mono.select_top_fraction(SCORES, one).all()


@pytest.mark.parametrize("value", [math.nan, math.inf, np.float16(np.nan), Decimal("nan")])
def test_what_is_not_finite_is_out_of_range(value: Any) -> None:
    for call in (
        lambda: mono.select_top_fraction(SCORES, value),
        lambda: mono.prune_by_magnitude([SCORES], value),
        lambda: mono.MovingThreshold(value),
        lambda: mono.split_weights(np.ones(1), np.ones(1), np.ones(1), value),
    ):
        with pytest.raises(ValueError, match=r"(fraction|ratio) is .*(nan|inf|NaN)"):
            call()


@pytest.mark.parametrize("value", [True, np.True_, "0.5", None, 1j, np.array([0.5])])
def test_what_is_no_number_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match=r"^p is .*expected a number"):
        share(value, "p")


def test_thresholds_are_the_number_itself() -> None:
    """Scores are compared with it: the highest of float32 scores reaches itself."""
    phi = np.array([[0.1, 0.3]], np.float32)
    np.testing.assert_array_equal(mono.select_above(phi, phi.max()), [[False, True]])
    np.testing.assert_array_equal(mono.active_nodes(phi, phi[0, 0], per="sample"), [[False, True]])
    tracker = mono.ScaleTracker()
    tracker.score(np.array([[1.0], [3.0]]))
    assert tracker.flag(np.array([[6.0]]), mono.Above(np.float32(8.0))).sum() == 1
    assert mm.tensor(phi).dtype == np.float32
