"""Kill a tiny demo again and again at random moments, go on, and compare with one left in peace.

    python tests/experiments/kills.py 200 [--seed N] [--draw]

Each process is a fork of this one, so that none has to import anything. Some save at every step,
and so are often killed while they write; some save seldom, and so lose steps. With `--draw` the
report is drawn too, and processes are killed while they do (slow). It prints what was done, and
raises AssertionError at the first run that does not end in the same bits.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import minimono
from minimono.experiments import four_ways, four_ways_run, run_folder
from minimono.experiments.stopping import Stopped
from minimono.nn import checkpoint

TINY: dict[str, Any] = {
    "steps": 24, "batch": 2, "context": 4, "channels": 4, "heads": 1, "layers": 1, "warmup": 2,
    "k": 1, "windows": 2, "evaluate_every": 8, "measure_every": 4,
}
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def started(folder: Path, text: Path, save_every: float, *, draw: bool) -> int:
    """Begin a run, or go on with it, in a fork; return the fork's number."""
    sys.stdout.flush()
    folder.with_suffix(".log").touch()
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # the child is to get them, and as a child
    if child := os.fork():
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        return child
    status = 99
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        log = os.open(folder.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        run_folder.SAVE_EVERY, run_folder.SHARE = save_every, 1e9
        four_ways.CASE_STUDY_BATCHES, four_ways.COST_ROUNDS = 2, 4  # training is what takes long
        four_ways.Experiment.compile_kernels = lambda self: None  # there are none, see below
        if not draw:
            four_ways_run._report = lambda folder, config: folder.finish("not drawn")
        with minimono.reference():  # the formulas: nothing is compiled, and there are no threads
            if (folder / run_folder.STATE).exists():
                status = four_ways_run.resume({}, {}, path=folder, out=None)
            else:
                given = TINY | {"text": str(text)}
                status = four_ways_run.begin(given, {}, out=str(folder), force=False)
    except Stopped as stop:
        status = stop.status
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def ended(child: int) -> int:
    """Wait for a process; return its exit status, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def result(folder: Path) -> tuple[list[Any], dict[str, bytes]]:
    """Return all that a run is: its records without their times, and its last state."""
    lines = (folder / run_folder.RECORDS).read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    for record in records:
        record.pop("seconds", None)
    state = checkpoint.load(folder / run_folder.STATE)
    arrays = {**state.model, **(state.optimiser or {}), "rng": state.rng}
    return records, {name: array.tobytes() for name, array in arrays.items()}


class Left(NamedTuple):
    """What a process left in the folder."""

    step: int  # that is saved
    beyond: int  # bytes of records of which the state knows nothing
    unfinished: frozenset[Path]


def left_in(folder: Path) -> Left:
    """Look at what is there; it must be whole, whatever happened."""
    unfinished = frozenset(folder.glob("*.tmp"))
    if not (folder / run_folder.STATE).exists():
        return Left(0, 0, unfinished)
    state = checkpoint.load(folder / run_folder.STATE)
    beyond = os.path.getsize(folder / run_folder.RECORDS) - state.config["run"]["bytes"]
    assert beyond >= 0, "the state counts on records that are not there"
    return Left(state.step, beyond, unfinished)


def judged(before: Left, left: Left, status: int, told: Counter[str]) -> None:
    """Hold what a process left to what was promised, and count what happened to it."""
    assert left.step >= before.step, "an older state than before"
    if status < 0:
        told["killed while saving"] += bool(left.unfinished - before.unfinished)
        told["with records to cut off"] += left.beyond > 0
    else:  # it was asked to end
        assert not left.unfinished - before.unfinished
        if (left.step, left.beyond) != (before.step, before.beyond):  # and had begun to work
            assert not left.beyond or left.step == TINY["steps"], "something is lost"
    where = "while measuring" if left.step == TINY["steps"] else "while training"
    told[f"{'stopped' if status > 0 else 'killed'} {where}"] += 1


def killed_and_resumed(
    folder: Path, text: Path, kills: int, duration: float, rng: random.Random, *, draw: bool,
    told: Counter[str],
) -> int:
    """Run to the end, killed at most so many times on the way; return how often it was."""
    done, before = 0, left_in(folder)
    while True:
        resumed = (folder / run_folder.STATE).exists()
        child = started(folder, text, rng.choice([0.0, 0.1]), draw=draw)
        if done < kills:
            time.sleep(rng.uniform(0.0, duration * (1.0 - 0.8 * before.step / TINY["steps"])))
            signum = rng.choice(SIGNALS)
            os.kill(child, signum)
        status = ended(child)
        if status == 0:
            assert (folder / run_folder.REPORT).exists()
            return done
        log = folder.with_suffix(".log").read_text(encoding="utf-8")[-2000:]
        assert done < kills, f"ended by itself with {status}: {log}"
        assert status in (-signum, 128 + signum), f"{signum} ended it with {status}: {log}"
        done += 1
        told[f"by {signum.name}"] += 1
        told["of resumed runs" if resumed else "of first runs"] += 1
        left = left_in(folder)
        judged(before, left, status, told)
        before = left


def main(kills: int, *, seed: int = 0, draw: bool = False) -> str:
    """Kill so many times; return what was done, in a few lines."""
    rng, told, runs, done = random.Random(seed), Counter[str](), 0, 0
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="minimono-kills-") as name:
        text = Path(name) / "text.txt"
        text.write_text("".join(rng.choices("abcdef \n", k=600)), encoding="utf-8")
        before = time.monotonic()
        assert ended(started(Path(name) / "in-peace", text, 10.0, draw=draw)) == 0
        duration = time.monotonic() - before
        expected = result(Path(name) / "in-peace")
        while done < kills:
            runs += 1
            folder = Path(name) / f"run-{runs}"
            most = min(kills - done, rng.randint(1, 8))
            done += killed_and_resumed(folder, text, most, duration, rng, draw=draw, told=told)
            assert result(folder) == expected, f"run {runs} ended in other bits (seed {seed})"
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    counts = "\n".join(f"  {count:4} {what}" for what, count in sorted(told.items()))
    return (
        f"{done} kills, {runs} runs that were gone on with to their end, all in the same bits as "
        f"one left in peace (seed {seed}):\n{counts}\n"
        f"{time.monotonic() - began:.0f} s, {used.ru_utime + used.ru_stime:.0f} s of CPU; "
        f"at most {used.ru_maxrss / 1024:.0f} MB in a process"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Kill a tiny demo at random moments.")
    parser.add_argument("kills", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--draw", action="store_true", help="draw the reports too")
    flags = parser.parse_args()
    print(main(flags.kills, seed=flags.seed, draw=flags.draw))
