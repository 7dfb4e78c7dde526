"""The table of operations: all are there, both sides compute the same, what is timed is noted."""

import json
import time
from pathlib import Path

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


def test_parts_are_put_together(tmp_path: Path) -> None:
    cells = [(1.0, 2.0, 3.0), None]
    for i, name in enumerate(["exp", "x + y"], 1):
        facts = {"torch": "0", operations.THROWN_AWAY: f"{i} of 9"}
        part = {"table": {"float32": {name: cells}}, "facts": facts}
        (tmp_path / f"{i}-of-2.json").write_text(json.dumps(part))
    found, facts = operations.put_together(tmp_path)
    assert [*found] == ["float32"]
    assert [*found["float32"]] == ["x + y", "exp"]  # as in the table of operations
    assert facts == {"torch": "0", operations.THROWN_AWAY: "1 of 9, 2 of 9"}
    out = tmp_path / "page.md"
    assert operations.main(["--from", str(tmp_path), "--out", str(out)]) == 0
    assert "| exp | 2.00 (1.00-3.00) |  |" in out.read_text()


def test_each_operation_is_in_one_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "quartiles", lambda *_: (1.0, 1.0, 1.0))
    names = list[str]()
    for part in ((1, 2), (2, 2)):
        found, _ = operations.measured(1, "max", ["float32"], part)
        names += found["float32"]
    assert sorted(names) == sorted(row.name for row in table.ROWS_OF_ALL if "max" in row.name)
    for wrong in ("0/2", "3/2", "1", "a/b"):
        with pytest.raises(SystemExit):
            operations.main(["--part", wrong])
