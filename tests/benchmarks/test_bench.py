"""The benchmark measures what it says: same networks everywhere, right ratios, right page."""

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import blas, limits, load, measures, page, pictures, record, rounds, run
from benchmarks.__main__ import main
from benchmarks.record import Piece, Record
from benchmarks.run import EAGER
from benchmarks.tasks import TASKS, Perceptron, Task, Transformer, check
from minimono import machine

TINY = [
    Perceptron("tiny MLP", (5, 7, 6, 3), batch=4),
    Transformer("tiny GPT", layers=2, channels=8, heads=2, context=6, batch=3, vocabulary=11),
]
PEERS = [
    "numpy_peer",
    *(pytest.param(f"{name}_peer", marks=pytest.mark.parity) for name in
      ("torch", "jax", "mygrad", "autograd")),
]


@pytest.mark.parametrize("task", TINY, ids=lambda t: t.name)
@pytest.mark.parametrize("peer", PEERS)
def test_every_framework_computes_the_same_losses(peer: str, task: Task) -> None:
    framework = peer.removesuffix("_peer")
    pytest.importorskip(framework)
    losses: dict[str, list[float]] = {}
    for file in ("ours", peer):
        for name, step in import_module(f"benchmarks.{file}").steps(task).items():
            losses[name] = [step() for _ in range(5)]
    assert len(losses) >= 3
    assert all(values[4] < values[0] for values in losses.values())  # they do learn
    check(task.name, losses)


def test_other_losses_are_noticed() -> None:
    check("task", {"a": [1.0, 0.9], "b": [1.00001, 0.9]})
    with pytest.raises(AssertionError, match="task: losses of b and of a"):
        check("task", {"a": [1.0, 0.9], "b": [1.0, 0.91]})


@pytest.mark.parametrize("task", [*TASKS.values(), *TINY], ids=lambda t: t.name)
def test_necessary_work_counts_the_parameters_of_the_model(task: Task) -> None:
    operations, moved = measures.necessary(task)
    assert moved == 28.0 * task.model().number_of_parameters()
    if isinstance(task, Perceptron):  # forward, both backward, without the gradient of the input
        (a, b), *rest = zip(task.widths, task.widths[1:], strict=False)
        assert operations == task.batch * (4 * a * b + 6 * sum(m * n for m, n in rest))


def test_necessary_work_of_attention_by_counting_pairs() -> None:
    task = TINY[1]
    assert isinstance(task, Transformer)
    C, T, B = task.channels, task.context, task.batch
    seen = sum(t + 1 for t in range(T))  # pairs of positions
    forward = task.layers * (B * T * 12 * C * C + B * seen * 2 * C) + B * T * task.vocabulary * C
    assert measures.necessary(task)[0] == 3 * 2 * forward


def test_slope_of_a_power() -> None:
    sizes = [2, 4, 8, 16]
    assert measures.slope((sizes, [3.0 * n**1.5 for n in sizes])) == pytest.approx(1.5)


def test_ratios_are_of_the_same_round() -> None:
    base = [1.0, 10.0, 2.0, 5.0, 4.0]
    times = [factor * b for factor, b in zip([0.1, 0.2, 0.3, 0.4, 0.5], base, strict=True)]
    assert rounds.quartiles_of_ratios(times, base) == pytest.approx((0.2, 0.3, 0.4))


# ---- rounds, and turns that are thrown away ------------------------------------------------------


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "PAUSES", (0.0,) * 3)


@pytest.mark.usefixtures("no_pauses")
def test_everybody_has_a_turn_in_every_round() -> None:
    calls: list[str] = []

    def turn(name: str) -> Callable[[], rounds.Turn]:
        return lambda: (calls.append(name) or float(len(calls)), None)

    tally = rounds.Tally()
    found = rounds.interleaved({n: turn(n) for n in "abcd"}, 10, random.Random(0), tally)
    for i in range(10):
        assert sorted(calls[4 * i : 4 * i + 4]) == [*"abcd"]
    assert len({tuple(calls[4 * i : 4 * i + 4]) for i in range(10)}) > 1  # in changing order
    for name, times in found.items():
        assert [calls[int(t) - 1] for t in times] == [name] * 10
    assert str(tally) == "0 of 40"


def disturbed(*of_others: float) -> Callable[[], rounds.Turn]:
    """Turns of 1, 2, 3, ... seconds, in which others take these shares, and nothing afterwards."""
    count = iter(range(1, 1000))

    def take() -> rounds.Turn:
        n = next(count)
        return float(n), of_others[n - 1] if n <= len(of_others) else 0.0

    return take


MUCH = 2.0 * load.REJECT


@pytest.mark.usefixtures("no_pauses")
def test_a_disturbed_turn_is_taken_again_and_counted() -> None:
    tally = rounds.Tally()
    contestants = {"a": disturbed(0.0, MUCH, MUCH), "b": disturbed(load.REJECT)}
    found = rounds.interleaved(contestants, 3, random.Random(0), tally)
    assert found == {"a": [1.0, 4.0, 5.0], "b": [1.0, 2.0, 3.0]}
    assert (tally.rejected, tally.turns) == (2, 8)


@pytest.mark.usefixtures("no_pauses")
def test_a_round_with_a_turn_that_stays_disturbed_is_nobody_s() -> None:
    tally = rounds.Tally()
    contestants = {"a": disturbed(), "b": disturbed(0.0, MUCH, MUCH, MUCH)}
    found = rounds.interleaved(contestants, 4, random.Random(0), tally)
    assert found["b"] == [1.0, 5.0, 6.0, 7.0]
    assert len(found["a"]) == 4  # pairs of the same rounds, whether a was before b or after
    assert tally.rejected == 3


@pytest.mark.usefixtures("no_pauses")
def test_a_busy_machine_gives_no_figures() -> None:
    tally = rounds.Tally()
    with pytest.raises(rounds.Busy, match=r"0 rounds were undisturbed and 5 were not: others took "
                                          r"more than 3% of the machine in 15 of 15 turns; meas"):
        rounds.interleaved({"a": disturbed(*[MUCH] * 99)}, 5, random.Random(0), tally)
    half = disturbed(0.0, *[MUCH] * 3, 0.0, *[MUCH] * 3, 0.0, *[MUCH] * 99)
    with pytest.raises(rounds.Busy, match="3 rounds were undisturbed and 9 were not"):
        rounds.interleaved({"a": half}, 9, random.Random(0), tally)


@pytest.mark.usefixtures("no_pauses")
def test_no_round_begins_after_the_time_of_a_piece() -> None:
    def slow() -> rounds.Turn:
        time.sleep(0.02)
        return 1.0, 0.0

    found = rounds.interleaved({"a": slow}, 1000, random.Random(0), rounds.Tally(), longest=0.1)
    assert 3 <= len(found["a"]) <= 6
    with pytest.raises(rounds.Busy, match="1 rounds were undisturbed and 0"):  # too few to say
        rounds.interleaved({"a": slow}, 1000, random.Random(0), rounds.Tally(), longest=0.01)


@pytest.mark.parametrize("seconds", [1e-4, 0.03])
def test_a_turn_says_how_long_a_call_takes(seconds: float) -> None:
    found, others = rounds.watched(lambda: time.sleep(seconds), 0.01)
    assert found >= seconds
    assert others is None or others >= 0.0


def test_a_peer_trains_in_its_own_process_and_passes_errors_on() -> None:
    with rounds.peers([("numpy_peer", "steps")]) as [peer]:
        losses = peer.first_losses("MLP small")["plain NumPy"]
        assert losses[3] < losses[0]
        seconds, others = peer.turn("plain NumPy")
        assert 0.0 < seconds < 10.0
        assert (others is None) is not load.STAT.exists()
        with pytest.raises(RuntimeError, match=r"numpy_peer: KeyError\('no task'\)"):
            peer.first_losses("no task")
    assert not peer.process.is_alive()


def test_the_reading_loop_reads_every_word() -> None:
    from benchmarks.reading import read

    words = np.random.default_rng(0).integers(0, 2**62, (37, 19))
    assert read(words) == np.bitwise_xor.reduce(words.ravel())


# ---- the page, from figures that are made up -----------------------------------------------------


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
        "| mlp-small | 2026-01-01 | 1 | 3 of 70 | 4% | jax (not installed) |",
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


def test_limits_are_those_of_products_copies_and_reads() -> None:
    steps = limits.steps(TINY[0])
    assert {name.partition(",")[0] for name in steps} == {"product", "copy", "read"}
    assert all(step() == 0.0 for name, step in steps.items() if not name.startswith("product"))


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


# ---- who else is busy ----------------------------------------------------------------------------


GLANCE = load.Glance(wall=10.0, own=5.0, busy=100.0, tasks={"7": 10**9, "8": 10**9})


def test_threads_of_others_say_how_long_they_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "cores", lambda: 2)
    # 7 ran for 0.1 s of one second on two cores; 8 ended, its number went to one that ran less; 9
    # is new, and ran for 0.3 s. The cores' own clocks show no more than that.
    after = load.Glance(11.0, 6.0, 101.4, {"7": 11 * 10**8, "8": 10**6, "9": 3 * 10**8})
    assert load.share_of_others(GLANCE, after) == pytest.approx(0.2)


@pytest.mark.skipif(not load.STAT.exists(), reason="needs Linux's /proc")
def test_processes_that_came_and_went_show_in_the_clocks_of_cores(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "cores", lambda: 2)
    after = load.Glance(11.0, 6.0, 101.5, GLANCE.tasks)  # 0.5 s of nobody's, 0.04 s is their error
    assert load.share_of_others(GLANCE, after) == pytest.approx((0.5 - 4 / load.TICKS) / 2)
    within = load.Glance(11.0, 6.0, 101.03, GLANCE.tasks)
    assert load.share_of_others(GLANCE, within) == 0.0


def test_without_proc_others_are_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "PROC", tmp_path)
    monkeypatch.setattr(load, "STAT", tmp_path / "stat")
    assert load.glance() is None
    assert load.share_of_others(None, GLANCE) is None
    assert rounds.Tally().keeps((1.0, None))


@pytest.mark.skipif(not load.STAT.exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("other", [True, False])
def test_another_process_shows_and_we_do_not(other: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    spin = "import time\nprint(1, flush=True)\nwhile True: time.perf_counter()"
    with subprocess.Popen([sys.executable, "-c", spin], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.read(1)
            # Whoever else is at work here while tests run is not looked at.
            watched = process.pid if other else os.getpid()
            monkeypatch.setattr(load, "_numbers", lambda folder: [str(watched)])
            before = load._run_times()
            started, at_most = time.process_time(), time.perf_counter() + 20.0
            while time.process_time() - started < 0.2 and time.perf_counter() < at_most:
                pass
            time.sleep(0.2)  # in which it has a core, whatever else runs
            ran = sum(load._run_times().values()) - sum(before.values())
        finally:
            process.kill()
    assert (ran > 10**7) is other


@pytest.mark.skipif(not load.STAT.exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("ours", [True, False])
def test_processes_of_our_group_are_ours(ours: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    spin = "import time\nend = time.time() + 20\nwhile time.time() < end: pass"
    with subprocess.Popen([sys.executable, "-c", spin], start_new_session=True) as one:
        # In the real group other tests may be at work.
        monkeypatch.setattr(os, "getpgrp", lambda: one.pid if ours else -1)
        try:
            before, own = _ticks(one.pid), load._own()
            while (used := _ticks(one.pid) - before) < 30:
                time.sleep(0.05)
            counted = load._own() - own
        finally:
            one.kill()
    assert (counted >= used) is ours


def _ticks(process: int) -> int:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_own_processes_are_not_others(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = iter([(0.0, 100.0, 40.0), (10.0, 115.0, 49.0), (20.0, 116.0, 52.0)])
    monkeypatch.setattr(load, "_clocks", lambda: next(clocks))
    monkeypatch.setattr(load, "cores", lambda: 2)
    watch = load.Watch()
    assert watch.lap() == pytest.approx((15.0 - 9.0) / 20.0)
    assert watch.lap() == 0.0  # ticks are coarse: never below 0


def test_where_there_is_no_proc_it_is_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "STAT", tmp_path / "none")
    assert load.Watch().lap() is None


# ---- which BLAS ----------------------------------------------------------------------------------


def _held() -> dict[str, str]:
    """In a child: what it finds of the variables that hold a library back."""
    names = (*rounds.OLDER, *rounds.FEWER_THREADS)
    return {name: os.environ[name] for name in names if name in os.environ}


def test_children_run_without_what_holds_a_library_back(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "OMP_NUM_THREADS", "ATEN_CPU_CAPABILITY"):
        assert name in (*rounds.OLDER, *rounds.FEWER_THREADS)
        monkeypatch.setenv(name, "1")
    seen: list[dict[str, str]] = []
    monkeypatch.setattr(run, "of_machine", lambda: (MACHINE, []))

    def look(run_: run.Run) -> dict[str, Any]:
        seen.append(measures.alone(_held))
        script = "import os; print(*os.environ)"  # as imports are timed, and as peers begin
        told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert not {*rounds.OLDER, *rounds.FEWER_THREADS} & {*told.stdout.split()}
        return {}

    monkeypatch.setitem(run.PIECES, "memory", look)
    run.measured(["memory"], False, 3, lambda line: None, lambda name, piece: None)
    assert seen == [{}]
    assert os.environ["OPENBLAS_CORETYPE"] == os.environ["OMP_NUM_THREADS"] == "1"  # ours stays


# Recorded lines of /proc/cpuinfo, without the flags that say nothing here.
CPUINFO = {
    "AMD EPYC, family 25, in a virtual machine": (
        "flags\t\t: fpu sse2 ht pni ssse3 fma cx16 sse4_1 sse4_2 avx f16c avx2 bmi2 vaes", "AVX2"),
    "AMD EPYC 9654": (
        "flags\t\t: fpu sse2 avx fma avx2 avx512f avx512dq avx512cd avx512bw avx512vl avx512_bf16",
        "AVX-512"),
    "Intel Xeon Phi 7250": (  # half of AVX-512, which OpenBLAS's kernels do not run on
        "flags\t\t: fpu sse2 avx fma avx2 avx512f avx512pf avx512er avx512cd", "AVX2"),
    "Intel Xeon E5-2670": ("flags\t\t: fpu sse2 ssse3 sse4_1 sse4_2 avx", "AVX"),
    "Intel Xeon X5570": ("flags\t\t: fpu sse sse2 ht pni ssse3 sse4_1 sse4_2", "SSE"),
    "Neoverse-N1": ("Features\t: fp asimd evtstrm aes crc32 atomics", "NEON"),
    "Neoverse-V1": ("Features\t: fp asimd evtstrm aes sve asimdfhm", "SVE"),
}


@pytest.mark.parametrize("name", CPUINFO)
def test_the_widest_instructions_of_a_processor(name: str) -> None:
    line, expected = CPUINFO[name]
    assert blas.widest(f"processor\t: 0\nmodel name\t: {name}\n{line}\nbugs\t\t: x") == expected
    assert blas.widest("") is None
    assert blas.widest("flags\t: fpu") is None


@pytest.mark.parametrize(
    ("kernels", "processor", "older"),
    [
        ("Haswell", "AVX-512", True), ("Zen", "AVX-512", True), ("Haswell", "AVX2", False),
        ("SkylakeX", "AVX-512", False), ("SapphireRapids", "AVX-512", False),
        ("Prescott", "AVX2", True), ("Sandybridge", "AVX2", True), ("SkylakeX", "AVX2", False),
        ("neoversen1", "SVE", True), ("neoversev1", "SVE", False), ("armv8", "NEON", False),
        ("a kernel of next year", "AVX-512", False), ("Haswell", None, False),
    ],
)
def test_a_warning_where_blas_is_older(kernels: str, processor: str | None, older: bool) -> None:
    found = blas.Kernels("NumPy", "openblas 0.3.31", kernels, blas.of_openblas(kernels))
    warned = blas.warnings([found], processor)
    assert len(warned) == older
    assert not older or warned[0].startswith(f"NumPy: openblas 0.3.31 runs kernels for {kernels}, ")


def test_what_pytorch_says_about_its_libraries() -> None:
    output = """ATen AVX2
MKL_VERBOSE oneMKL 2024.0 Update 2 Product build 20240605 for Intel(R) 64 architecture Intel(R) \
Architecture processors, Lnx 2.45GHz lp64 gnu_thread
MKL_VERBOSE SGEMM(N,N,64,64,64,0x7ffc27ed4f60) 20.09ms CNR:OFF Dyn:1 FastMM:1 TID:0  NThr:2
onednn_verbose,v1,info,oneDNN v3.12.0 (commit 80afa71049cd69a3df32adcccb623b12cd7baa22)
onednn_verbose,v1,info,cpu,runtime:OpenMP,nthr:2
onednn_verbose,v1,info,cpu,isa:Intel AVX2
"""
    assert [(k.library, k.instructions) for k in blas.in_output_of_torch(output)] == [
        ("its own", "AVX2"), ("MKL 2024.0 Update 2", None), ("oneDNN", "AVX2")
    ]
    wide = output.replace("Intel(R) Architecture processors", (
        "Intel(R) Advanced Vector Extensions 512 (Intel(R) AVX-512) enabled processors"
    )).replace("isa:Intel AVX2", "isa:Intel AVX-512 with Intel DL Boost")
    found = blas.in_output_of_torch(wide)
    assert [k.instructions for k in found] == ["AVX2", "AVX-512", "AVX-512"]
    assert len(blas.warnings(found, "AVX-512")) == 1  # ATen's
    assert blas.in_output_of_torch("") == []


def test_numpys_blas_says_for_which_processor_it_is() -> None:
    pytest.importorskip("threadpoolctl")
    (found,) = measures.alone(blas.of_numpy)
    if found.library.startswith("openblas"):
        assert machine.blas_described().endswith(f"kernels for {found.of}")
        assert found.instructions == blas.of_openblas(found.of) is not None


def test_blas_says_for_which_processor_it_is() -> None:
    threadpoolctl = pytest.importorskip("threadpoolctl")
    described = machine.blas_described()
    for library in threadpoolctl.threadpool_info():
        if "numpy" in library["filepath"] and library["internal_api"] == "openblas":
            assert described.endswith(f"kernels for {library['architecture']}")
            assert library["version"].split(".dev")[0] in described


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds", "0"], "rounds is 0, expected 1 or more"),
        (["metrik"], "piece is 'metrik', expected one of: mlp-small, mlp-784,"),
        (["--quick", "--write", "page.md"], "--quick with --write: quick figures are not for the"),
        (["--measured"], "--measured needs --write FILE.md, and no piece"),
        (["metric", "--measured", "--write", "page.md"], "--measured needs --write FILE.md, and "),
        (["--write", "page.json"], "--write is 'page.json', expected a file that ends with .md"),
    ],
)
def test_bad_arguments_are_refused(arguments: list[str], message: str, capsys: Any) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith(f"benchmarks: {message}")
