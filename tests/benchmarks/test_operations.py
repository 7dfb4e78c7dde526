"""The table of operations: all are there, both sides compute the same, what is timed is noted."""

import time

import numpy as np
import pytest

from benchmarks import operations
from minimono.engine import functional as F

pytestmark = pytest.mark.parity
pytest.importorskip("torch")

from benchmarks import operations_table as table  # noqa: E402  (it imports PyTorch)


@pytest.mark.parametrize("row", table.ROWS_OF_ALL, ids=lambda row: row.name)
def test_both_compute_the_same(row: table.Row) -> None:
    for calls in operations._both(row, row.sizes[0], "float32"):  # raises if they do not
        for call in calls or ():
            call()


def test_every_function_of_networks_has_a_row() -> None:
    names = [row.name for row in table.ROWS_OF_ALL]
    assert not {f for f in F.__all__ if not any(name.startswith(f) for name in names)}
    assert len(set(names)) == len(names)


def test_a_difference_is_found() -> None:
    wrong = table.Row("exp", F.tanh, lambda x: x.exp(), table.normal, table.FLAT)
    with pytest.raises(AssertionError, match="exp"):
        next(operations._both(wrong, (2, 3), "float64"))


@pytest.mark.parametrize("name", [*table.STEPS, "clip_grad_norm"])
def test_steps_run(name: str) -> None:
    for step in table.steps(name, 2, 3, "float32"):
        step()


def test_a_turn_in_which_others_ran_is_thrown_away() -> None:
    rejected = operations.Rejected()
    low, median, high = operations.quartiles(
        (lambda: time.sleep(2e-3), lambda: None), 2, rejected  # asleep, others have the core
    )
    assert low <= median <= high
    assert rejected.all == 2 * 2 * operations.TRIES
    assert rejected.turns == rejected.all


def test_the_page_names_what_is_above_the_goal() -> None:
    cells = [(0.4, 0.5, 0.6), None, (1.0, 2.0, 3.0), None, (0.8, 0.9, 1.0), None]
    text = operations.page({"float32": {"exp": cells}}, {"torch": "0"})
    assert "The median of all is 0.90; 67% are at most 1. Above 1.5: exp (2.0)." in text
    assert "| exp | 0.50 (0.40-0.60) |  | 2.00 (1.00-3.00) |" in text
    assert np.shape(text.splitlines()[-1].split("|")) == (9,)
