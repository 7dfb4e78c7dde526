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

from benchmarks import limits, load, measures, page, rounds, run
from benchmarks.__main__ import main
from benchmarks.run import EAGER, Results, nearness
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


def test_everybody_has_a_turn_in_every_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "PAUSE", 0.0)
    calls: list[str] = []

    def turn(name: str) -> Callable[[], float]:
        return lambda: calls.append(name) or float(len(calls))

    found = rounds.interleaved({n: turn(n) for n in "abcd"}, 10, random.Random(0))
    for i in range(10):
        assert sorted(calls[4 * i : 4 * i + 4]) == [*"abcd"]
    assert len({tuple(calls[4 * i : 4 * i + 4]) for i in range(10)}) > 1  # in changing order
    for name, times in found.items():
        assert [calls[int(t) - 1] for t in times] == [name] * 10


def test_a_peer_trains_in_its_own_process_and_passes_errors_on() -> None:
    with rounds.peers([("numpy_peer", "steps")]) as [peer]:
        losses = peer.first_losses("MLP small")["plain NumPy"]
        assert losses[3] < losses[0]
        assert 0.0 < peer.seconds("plain NumPy") < 10.0
        with pytest.raises(RuntimeError, match=r"numpy_peer: KeyError\('no task'\)"):
            peer.first_losses("no task")
    assert not peer.process.is_alive()


def test_the_reading_loop_reads_every_word() -> None:
    from benchmarks.reading import read

    words = np.random.default_rng(0).integers(0, 2**62, (37, 19))
    assert read(words) == np.bitwise_xor.reduce(words.ravel())


# ---- the page, from figures that are made up -----------------------------------------------------


def made_up(with_torch: bool = True) -> Results:
    rng = np.random.default_rng(0)

    def times(seconds: float) -> list[float]:
        return [float(t) for t in seconds * rng.uniform(0.9, 1.1, 5)]

    names = {"minimono": 1.0, "its kernels by hand": 0.8, "plain NumPy": 3.0}
    names |= {EAGER: 2.0} if with_torch else {}
    return Results(
        quick=True, date="2026-01-01", machine={"processor": "a processor, 2 cores"},
        training={task: {n: times(t) for n, t in names.items()} for task in TASKS},
        arrangements={"MLP small": {"default": times(1.0), "other": times(4.0)}},
        memel={"minimono": times(1.0), "with MEmeL": times(1.0)},
        others={"before the first round": 0.02, "training steps": 0.04},
        limits={
            task: {limits.ONE: times(0.2), limits.ALL: times(0.1), limits.COPY: times(0.01)}
            for task in TASKS
        },
        peak_memory={"minimono": 100 * 2.0**20},
        metric={measures.READ: times(0.1), measures.READ_ALL: times(0.08),
                measures.COPY: times(0.2), "score": times(0.3)},
        imports={"": times(0.1), "minimono": times(0.2)},
        growth={f"curve {i}": ([1, 2, 4], [1.0, 2.0, 4.0]) for i in range(6)},
        left_out=["jax (not installed)"],
    )


@pytest.mark.parametrize("with_torch", [True, False])
def test_the_page_says_it_all(with_torch: bool) -> None:
    results = made_up(with_torch)
    text = page.page(results, "pictures")
    base = EAGER if with_torch else "plain NumPy"
    assert results.base == base
    low, median, high = rounds.quartiles_of_ratios(
        results.training["GPT small"]["minimono"], results.training["GPT small"][base]
    )
    assert f"{median:.2f} ({low:.2f}-{high:.2f})" in text
    for expected in (
        "2026-01-01", "a processor, 2 cores", f"time of {base}'s", "jax (not installed)",
        "minimono 100 MiB", "| curve 0 | 1-4 | 1.00 |", "pictures/performance-steps.svg",
        "GFLOP/s, product, all threads ", "that other processes took: before the first round 2 %",
    ):
        assert expected in text
    for line in text.splitlines():
        assert "/tmp" not in line
        assert "nan" not in line
    for block in text.split("\n\n"):  # each table: as many cells in every row
        rows = [line for line in block.splitlines() if line.startswith("|")]
        assert len({row.count("|") for row in rows}) <= 1


def test_nearness_is_the_floor_over_the_time_of_the_same_round() -> None:
    results = made_up()
    operations, moved = measures.necessary(TASKS["MLP 784"])
    shares = []
    of_round, times = results.limits["MLP 784"], results.training["MLP 784"]["minimono"]
    for i, seconds in enumerate(times):
        product = min(of_round[limits.ONE][i], of_round[limits.ALL][i])
        copy = of_round[limits.COPY][i]
        floor = operations * product / (2 * 1536**3) + moved * copy / (8 * 2**24)
        shares.append(floor / seconds)
    found = nearness(results, "MLP 784", "minimono")
    assert found[1] == pytest.approx(np.median(shares))
    # a machine that is three times slower in one round is so for the limit as well
    for row in (*of_round.values(), times):
        row[0] *= 3.0
    assert nearness(results, "MLP 784", "minimono") == pytest.approx(found)


def test_a_share_above_the_limit_is_called_that() -> None:
    assert page.share((0.7, 0.8, 1.1)) == "0.80 (0.70-1.10)"
    assert page.share((1.0, 1.05, 1.2)).startswith("1.05 (1.00-1.20): above 1, so the limit was")
    results = made_up()
    results.metric["score"] = [t / 2 for t in results.metric[measures.READ_ALL]]
    assert "| 2.00 (2.00-2.00): above 1, so the limit was measured too low |" in page.page(
        results, None
    )


def test_reading_is_no_share_above_1_of_reading() -> None:
    """The limit is the faster of the two ways to read, round by round."""
    rows = [line for line in page.page(made_up(), None).splitlines() if line.startswith("| read,")]
    assert len(rows) == 2
    assert all("above 1" not in row for row in rows)


# ---- who else is busy ----------------------------------------------------------------------------


def test_the_page_says_when_the_machine_was_busy() -> None:
    results = made_up()
    assert "busy with other things" not in page.page(results, None)
    results.others |= {"training steps": 0.4}
    text = page.page(results, None)
    assert "**The machine was busy with other things** (training steps: more than 10 %)" in text
    assert "training steps 40 %" in text
    results.others = {"training steps": None}
    assert "busy with other things is not known here" in page.page(results, None)


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


def test_processes_run_without_another_processor_s_blas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Prescott")
    monkeypatch.setenv("OPENBLAS_L2_SIZE", "1")
    with rounds.patched({}, without=run.OF_BLAS):
        assert not {*run.OF_BLAS} & {*os.environ}
    assert os.environ["OPENBLAS_CORETYPE"] == "Prescott"


def test_blas_says_for_which_processor_it_is() -> None:
    threadpoolctl = pytest.importorskip("threadpoolctl")
    described = machine.blas_described()
    for library in threadpoolctl.threadpool_info():
        if "numpy" in library["filepath"] and library["internal_api"] == "openblas":
            assert described.endswith(f"kernels for {library['architecture']}")
            assert library["version"].split(".dev")[0] in described


def test_pictures(tmp_path: Path) -> None:
    page.draw(made_up(), tmp_path / "pictures")
    for name in ("performance-steps.svg", "performance-growth.svg"):
        assert (tmp_path / "pictures" / name).read_text().startswith("<?xml")


def test_bad_rounds_are_refused(capsys: Any) -> None:
    assert main(["--rounds", "0"]) == 2
    assert capsys.readouterr().err == "benchmarks: rounds is 0, expected 1 or more\n"
