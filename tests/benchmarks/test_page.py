"""The record of pieces, and the page that is written from it; shares of a limit above 1."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import limits, measures, page, pictures, record, rounds, run
from benchmarks.__main__ import main
from benchmarks.record import Piece, Record
from benchmarks.run import EAGER
from benchmarks.tasks import TASKS

MACHINE = {"processor": "a processor, 2 cores"}


def piece(**found: Any) -> Piece:
    return Piece("2026-01-01", MACHINE, found, turns=70, rejected=3, others=0.04)


def made_up(with_torch: bool = True) -> Record:
    rng = np.random.default_rng(0)

    def times(seconds: float) -> list[float]:
        return [float(t) for t in seconds * rng.uniform(0.9, 1.1, 5)]

    names = {"minimono": 1.0, "its kernels by hand": 0.8, "plain NumPy": 3.0}
    names |= {EAGER: 2.0, "torch.compile": 1.25} if with_torch else {}
    record = {
        run.slug(task): piece(
            times={n: times(t) for n, t in names.items()},
            limits={"product, one thread": times(0.2), "product, all threads": times(0.1),
                    "copy, one thread": times(0.01), "read, one thread": times(0.01)},
        )
        for task in TASKS
    }
    return record | {
        "metric": piece(
            shape=(16_384, 1_536), many={"1e+08": (0.05, 2.0**20)},
            times={"read, one thread": times(0.1), "read, all threads": times(0.08),
                   "copy, one thread": times(0.2), "score": times(0.3), measures.PHI: times(0.3)},
        ),
        "imports": piece(times={"": times(0.1), "minimono": times(0.2)}),
        "memel": piece(times={"minimono": times(1.0), "with MEmeL": times(1.0)}),
        "memory": piece(bytes={"minimono": 100 * 2.0**20}),
        "growth": piece(curves={f"curve {i}": ([1, 2, 4], [1.0, 2.0, 4.0]) for i in range(6)}),
        "threads-mlp-small": piece(times={"default": times(1.0), "other": times(4.0)}),
    }


@pytest.mark.parametrize("with_torch", [True, False])
def test_the_page_says_it_all(with_torch: bool) -> None:
    record = made_up(with_torch)
    record["mlp-small"].left_out.append("jax (not installed)")
    text = page.page(record, "pictures")
    base = EAGER if with_torch else "plain NumPy"
    assert run.base(record) == base
    times = record["gpt-small"].found["times"]
    low, median, high = rounds.quartiles_of_ratios(times["minimono"], times[base])
    assert f"{median:.2f} ({low:.2f}-{high:.2f})" in text
    for expected in (
        "| machine 1 |  |", "a processor, 2 cores", f"time of {base}'s", " GFLOP/s |", " GB/s |",
        "minimono 100 MiB", "| curve 0 | 1-4 | 1.00 |", "pictures/performance-steps.svg",
        "| mlp-small | 2026-01-01 | 1 | 5 | 3 of 70 | 4% | jax (not installed) |",
        "**Not measured**: `threads-mlp-784`, `threads-gpt-small`, `threads-gpt-middle`.",
        "`OPENBLAS_CORETYPE`, `OPENBLAS_L2_SIZE`",
    ):
        assert expected in text
    best = "| the fastest | torch.compile | torch.compile | torch.compile | torch.compile |"
    assert (best in text) is with_torch
    for line in text.splitlines():
        assert "/tmp" not in line
        assert "nan" not in line
    for block in text.split("\n\n"):  # each table: as many cells in every row
        rows = [line for line in block.splitlines() if line.startswith("|")]
        assert len({row.count("|") for row in rows}) <= 1


@pytest.mark.parametrize("name", run.PIECES)
def test_any_piece_alone_makes_a_page_and_pictures(name: str, tmp_path: Path) -> None:
    record = {n: p for n, p in made_up().items() if n == name}
    text = page.page(record, None)
    assert (f"| {name} |" in text) is (name in record)
    pictures.draw(record, tmp_path)
    drawn = {path.name for path in tmp_path.iterdir()}
    expected = {"performance-steps.svg"} if name in map(run.slug, TASKS) else set()
    assert drawn == expected | ({"performance-growth.svg"} if name == "growth" else set())


def test_pieces_of_two_machines_name_theirs() -> None:
    record = made_up()
    record["metric"].machine = {"processor": "another, 8 cores"}
    record["metric"].warnings = ["NumPy: its BLAS is older"]
    text = page.page(record, None)
    assert "| metric | 2026-01-01 | 2 |" in text
    assert "**Warning**, machine 2: NumPy: its BLAS is older." in text


# ---- shares of a limit ---------------------------------------------------------------------------


def test_nearness_is_the_floor_over_the_time_of_the_same_round() -> None:
    found = made_up()["mlp-784"].found
    task, of_round, times = TASKS["MLP 784"], found["limits"], found["times"]
    operations, moved = measures.necessary(task)
    parameters = task.model().number_of_parameters()
    shares = []
    for i, seconds in enumerate(times["minimono"]):
        product = min(of_round["product, one thread"][i], of_round["product, all threads"][i])
        copy = of_round["copy, one thread"][i]
        floor = operations * product / (2 * 1536**3) + moved * copy / (16 * parameters)
        shares.append(floor / seconds)
    nearness = limits.nearness(task, times, "minimono", of_round)
    assert nearness[1] == pytest.approx(np.median(shares))
    # a machine that is three times slower in one round is so for the limit as well
    for row in (*of_round.values(), times["minimono"]):
        row[0] *= 3.0
    assert limits.nearness(task, times, "minimono", of_round) == pytest.approx(nearness)


def test_a_share_above_1_is_an_error() -> None:
    assert limits.share("it", [1.0, 1.0, 1.1], [2.0, 1.0, 1.0])[1] == 1.0  # one round may be
    with pytest.raises(ValueError, match=r"it: its share of the limit is 1\.100, expected at most"):
        limits.share("it", [1.0, 1.1, 1.2], [2.0, 1.0, 1.0])


def test_a_record_with_a_share_above_1_makes_no_page() -> None:
    record = made_up()
    times = record["metric"].found["times"]
    times["score"] = [t / 2 for t in times["read, all threads"]]
    with pytest.raises(ValueError, match=r"metric, score: its share of the limit is 2\.000"):
        page.page(record, None)
    record = made_up()
    of_round = record["gpt-small"].found["limits"]
    of_round["copy, one thread"] = [1e6] * 5
    with pytest.raises(ValueError, match="GPT small, minimono: its share of the limit is"):
        page.page(record, None)


def test_a_piece_with_a_share_above_1_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that was disturbed is not; those after it are measured all the same."""
    monkeypatch.setattr(run, "of_machine", lambda: (MACHINE, []))
    times = {"read": [1.0] * 5, "copy": [1.0] * 5, "score": [0.5] * 5}

    def metric(*arguments: Any) -> Any:
        return times, rounds.Tally(9, 2)

    def busy(run_: run.Run) -> Any:
        raise rounds.Busy("others were")

    monkeypatch.setattr(run.measures, "alone", lambda function, *arguments: metric())
    monkeypatch.setitem(run.PIECES, "memory", busy)
    monkeypatch.setitem(run.PIECES, "imports", lambda run_: {"times": {}})
    kept: dict[str, Piece] = {}
    failed = run.measured(
        ["metric", "memory", "imports"], False, 3, lambda line: None, kept.__setitem__
    )
    assert [*kept] == ["imports"]
    assert failed[0].startswith("metric: metric, score: its share of the limit is 2.000")
    assert failed[1] == "memory: others were"


def test_the_limit_is_the_faster_way_round_by_round() -> None:
    times = {"read, one thread": [1.0, 3.0], "read, all threads": [2.0, 2.0], "copy": [0.1, 0.1]}
    assert limits.best(times, "read") == [1.0, 2.0]


# ---- the record ----------------------------------------------------------------------------------


def test_a_record_comes_back_rounded(tmp_path: Path) -> None:
    file = tmp_path / "performance.json"
    assert record.read(file) == {}
    made = made_up()
    record.write(file, made)
    back = record.read(file)
    assert [*back] == [*made]
    assert back["growth"].found["curves"]["curve 1"] == [[1, 2, 4], [1.0, 2.0, 4.0]]
    times, before = (r["gpt-small"].found["times"]["minimono"] for r in (back, made))
    assert times == pytest.approx(before, rel=1e-4)
    assert times != before
    record.write(file, back)
    assert record.read(file) == back
    assert page.page(back, None).count("##") == page.page(made, None).count("##")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1}', '{"a": {"date": "today"}}'])
def test_another_file_is_no_record_and_stays(text: str, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "page.json").write_text(text)
    assert main(["--measured", "--write", str(tmp_path / "page.md")]) == 2
    assert "page.json is no record of this benchmark" in capsys.readouterr().err
    assert (tmp_path / "page.json").read_text() == text
    assert not (tmp_path / "page.md").exists()


def test_pieces_are_merged_and_the_page_is_of_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = made_up()
    record.write(tmp_path / "page.json", {n: made[n] for n in ("growth", "imports")})

    def measured(names: list[str], quick: bool, count: int, say: Any, keep: Any) -> list[str]:
        for name in names:
            keep(name, made[name])
        return ["metric: too busy"]

    monkeypatch.setattr(run, "measured", measured)
    made["imports"].date = "2026-02-02"
    assert main(["imports", "memory", "--write", str(tmp_path / "page.md")]) == 1
    merged = record.read(tmp_path / "page.json")
    assert [*merged] == ["imports", "memory", "growth"]
    assert (merged["imports"].date, merged["growth"].date) == ("2026-02-02", "2026-01-01")
    text = (tmp_path / "page.md").read_text()
    assert text == page.page(merged, "pictures")
    assert "| imports | 2026-02-02 |" in text
    (tmp_path / "page.md").unlink()
    assert main(["--measured", "--write", str(tmp_path / "page.md")]) == 0
    assert (tmp_path / "page.md").read_text() == text


def test_the_page_in_the_documentation_is_of_its_record() -> None:
    docs = Path(__file__).parents[2] / "docs"
    found = record.read(docs / "performance.json")
    assert found
    assert (docs / "performance.md").read_text() == page.page(found, "pictures")
