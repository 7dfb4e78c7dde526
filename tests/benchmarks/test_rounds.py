"""Turns and rounds, and what others did meanwhile: what is disturbed is thrown away and counted."""

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import load, rounds


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "PAUSE", 0.0)
    monkeypatch.setattr(rounds, "TRIES", 3)
    monkeypatch.setattr(rounds, "PATIENCE", 0.0)


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
    match = "0 rounds were undisturbed and 5 were not: others took more than 3% of the machine in "
    with pytest.raises(rounds.Busy, match=match):
        rounds.interleaved({"a": disturbed(*[MUCH] * 99)}, 5, random.Random(0), tally)
    half = disturbed(0.0, *[MUCH] * 3, 0.0, *[MUCH] * 3, 0.0, *[MUCH] * 99)
    with pytest.raises(rounds.Busy, match="3 rounds were undisturbed and 9 were not"):
        rounds.interleaved({"a": half}, 9, random.Random(0), tally)


@pytest.mark.usefixtures("no_pauses")
def test_no_round_begins_after_the_time_of_a_piece() -> None:
    def slow() -> rounds.Turn:
        time.sleep(0.02)
        return 1.0, 0.0

    found = rounds.interleaved({"a": slow}, 1000, random.Random(0), rounds.Tally(), longest=0.5)
    assert rounds.FEWEST <= len(found["a"]) <= 26
    with pytest.raises(rounds.Busy, match="1 rounds were undisturbed and 0"):  # too few to say
        rounds.interleaved({"a": slow}, 1000, random.Random(0), rounds.Tally(), longest=0.02)


def test_before_another_try_others_may_end(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(load, "wait_for_quiet", waited.append)
    seconds = rounds.undisturbed(disturbed(MUCH, MUCH), rounds.Tally(), time.monotonic() + 5.0)
    assert seconds == 3.0
    assert len(waited) == 2
    assert max(waited) <= 5.0 < rounds.PATIENCE  # not longer than the piece may take


def test_waiting_ends_when_others_do(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = iter([MUCH, MUCH, load.REJECT, MUCH])
    monkeypatch.setattr(load, "share_of_others", lambda before, after: next(shares))
    load.wait_for_quiet(60.0, look=0.0)
    assert next(shares) == MUCH
    monkeypatch.setattr(load, "share_of_others", lambda before, after: MUCH)
    began = time.monotonic()
    load.wait_for_quiet(0.05, look=0.0)  # they do not
    assert 0.05 <= time.monotonic() - began < 20.0
    load.wait_for_quiet(-1.0)


@pytest.mark.parametrize("seconds", [1e-4, 0.03])
def test_a_turn_says_how_long_a_call_takes(seconds: float) -> None:
    found, others = rounds.watched(lambda: time.sleep(seconds), 0.01)
    assert found >= seconds
    assert others is None or others >= 0.0


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
            own, before = load._own(), _ticks(one.pid)  # in this order: a tick may come between
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
