"""What came of a comparison: tables, words, a picture; and the command that the three demos are."""

from __future__ import annotations

import argparse
import datetime
import math
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from minimono import atomic, console
from minimono.backend import Array
from minimono.experiments import tables as write
from minimono.experiments.records import Results
from minimono.experiments.six_ways import (
    GRID,
    MEMEL,
    NAMES,
    ORIGINAL,
    PHI,
    TUNING_SEEDS,
    Comparison,
    Measure,
    Task,
    compare,
    insert,
    number_of_trainings,
    score,
)
from minimono.experiments.statistics import LEAST, NOT_RESOLVED, Verdict, interval, judge, paired
from minimono.experiments.stopping import Stopped, stoppable
from minimono.lazy import required

# ---- tables and words --------------------------------------------------------------------------

LEGEND = """\
±: half of the 95 % interval, mean ± t s/sqrt(n) over {n} seeds. A seed is of the first weights and
  of the order of batches; the data are the same, so it says nothing about other test data.
minus original: the mean of the differences, seed by seed. p (t): of the paired t-test. Sign test:
  in how many seeds it is higher than the original, of those that differ, and p of that, which
  cannot be below {least:.3f} with {n} seeds. No table is corrected for asking five times: if no
  method did anything, one table in four or five would still have an interval without zero.
Words: all {conclusions} conclusions hold together with 95 %, so each has a wider interval than in
  its table (of {each:.2f} %). Fewer than {fewest} seeds resolve nothing.
phi: of test activations at MEmeL's places, nothing inhibited, against moments of training ones:
  the 99.9th percentile of all, and the highest of each sample, its median over samples.
MEmeL, on at test: the same networks as MEmeL, so the same phi. published: by the paper."""


def tables(found: Comparison) -> str:
    """Write a table for each measure and for phi, in Markdown that can be read as it is."""
    measures = (*found.task.measures, *PHI)
    return "\n\n".join(f"{_titled(m)}\n\n{_table(found, m)}" for m in measures)


def _titled(m: Measure) -> str:
    return f"{m.name} ({m.better} is better)" if m.better else m.name


def _table(found: Comparison, m: Measure) -> str:
    original = found.values(ORIGINAL.name, m)
    head, lines = ["Method", m.name, "minus original", "p (t)", "sign test"], []
    for name in NAMES:
        score = interval(found.values(name, m))
        line = [name, f"{score.mean:.{m.digits}f} ± {score.half:.{m.digits}f}"]
        if name == ORIGINAL.name:
            line += ["", "", ""]
        else:
            test = paired(found.values(name, m), original)
            line += [
                test.difference.written(m.digits),
                "" if math.isnan(test.p_t) else f"{test.p_t:.3f}",
                f"{test.higher} of {test.higher + test.lower}, p {test.p_sign:.3f}",
            ]
        lines.append(line)
    name, scores = found.task.baseline()
    if m.name in scores:
        lines.append([name, f"{scores[m.name]:.{m.digits}f}", "", "", ""])
    if m.published:
        head.append("published")
        lines = [[*line, m.published.get(line[0], "")] for line in lines]
    table = write.markdown(head, lines)
    return f"{table}\n\npublished: {m.published_as}." if m.published else table


def tuning_table(found: Comparison) -> str:
    """Write the grid that was tried, its scores on the validation part, and the choice."""
    first = found.task.measures[0]
    ks = sorted({k for k, _ in found.tuning})
    strengths = sorted({strength for _, strength in found.tuning})
    lines = [
        [str(k), *(_tuned(found.tuning.get((k, s)), first.digits) for s in strengths)] for k in ks
    ]
    table = write.markdown(["k", *(f"strength {s:g}" for s in strengths)], lines)
    k, strength = found.chosen
    many = len(found.tuning_seeds)
    return (
        f"Tuning: {first.name} on the validation part, mean of {many} seed{'s' * (many != 1)} of "
        f"its own (the paper's grid: 1, 5, 10, 50, 100 for both). Chosen: k = {k}, strength = "
        f"{strength:g}.\n\n{table}"
    )


def _tuned(value: float | None, digits: int) -> str:
    return "" if value is None else "diverged" if math.isnan(value) else f"{value:.{digits}f}"


def verdicts(found: Comparison) -> list[str]:
    """Say plainly what the numbers allow: also that the paper's claim is not resolved."""
    return [_verdict(found, m) for m in found.task.measures] + [_phi_verdict(found)]


def conclusions(found: Comparison) -> int:
    """Count the differences that `verdicts` judges: phi's, all methods' and the baseline's."""
    _, baseline = found.task.baseline()
    return 1 + sum(len(NAMES) - 1 + (m.name in baseline) for m in found.task.measures)


def _verdict(found: Comparison, m: Measure) -> str:
    original = found.values(ORIGINAL.name, m)
    judged = {
        name: _judge(found, found.values(name, m), original, m) for name in NAMES[1:]
    }
    said = []
    for word, label in (
        ("better", "Better than the original"), ("worse", "Worse than the original"),
        (NOT_RESOLVED, NOT_RESOLVED.capitalize()),
    ):
        names = [
            f"{name} ({verdict.interval.written(m.digits)})"
            for name, verdict in judged.items() if verdict.word == word
        ]
        said += [f"{label}: {', '.join(names)}."] if names else []
    claim = {"better": "shows", "worse": "the opposite shows", NOT_RESOLVED: NOT_RESOLVED}
    said.append(f"The paper's claim, that MEmeL gains: {claim[judged[MEMEL.name].word]}.")
    name, baseline = found.task.baseline()
    if m.name in baseline:
        word = _judge(found, original, baseline[m.name], m).word
        if word == "worse":
            said.append(f"But no network is worth much here: the original is worse than {name}.")
        elif word == NOT_RESOLVED:
            said.append(f"But whether the original is better than {name} is {NOT_RESOLVED}.")
    return f"{m.name}: {' '.join(said)}"


def _judge(found: Comparison, values: Array, base: float | Array, m: Measure) -> Verdict:
    above, below = ("better", "worse") if m.better == "higher" else ("worse", "better")
    return judge(values, base, above=above, below=below, among=conclusions(found))


def _phi_verdict(found: Comparison) -> str:
    word, difference = judge(
        found.values(MEMEL.name, PHI[0]), found.values(ORIGINAL.name, PHI[0]),
        above="more monosemantic", below="less monosemantic", among=conclusions(found),
    )
    return (
        "phi: are MEmeL's networks at its places less monosemantic than the original's, or more? "
        f"{word.capitalize()} (99.9 %: {difference.written(PHI[0].digits)})."
    )


# ---- the picture -------------------------------------------------------------------------------


def picture(found: Comparison) -> Any:
    """Draw each measure's values, a dot a seed, with mean and interval; beside, minus original."""
    from matplotlib.figure import Figure  # here, because Matplotlib takes a second

    from minimono.experiments.four_ways_pictures import COLOURS
    from minimono.experiments.pictures import INK, MUTED

    colours = [INK, COLOURS["naive-a"], COLOURS["naive-b"], *[COLOURS["memel"]] * 3]
    measures = (*found.task.measures, PHI[0])
    figure = Figure(figsize=(8.6, 2.4 * len(measures)), layout="constrained")
    rows = figure.subplots(len(measures), 2, sharey=True, squeeze=False)
    for m, (left, right) in zip(measures, rows, strict=True):
        original = found.values(ORIGINAL.name, m)
        right.axvline(0.0, color=MUTED, linewidth=0.8)
        for y, (name, colour) in enumerate(zip(NAMES, colours, strict=True)):
            values = found.values(name, m)
            pairs = [(left, values)]
            if name != ORIGINAL.name:
                pairs.append((right, values - original))
            for axes, shown in pairs:
                mean, half = interval(shown)
                axes.plot(shown, np.full(len(shown), y + 0.22), ".", color=colour, alpha=0.4,
                          markersize=5, markeredgewidth=0)
                axes.errorbar(mean, y, xerr=half, fmt="o", color=colour, markersize=5)
        left.set_yticks(range(len(NAMES)), NAMES)
        left.set_ylim(len(NAMES) - 0.4, -0.5)
        left.set_xlabel(_titled(m))
        right.set_xlabel("minus original, seed by seed")
        for axes in (left, right):
            axes.tick_params(axis="y", left=False)
    return figure


# ---- the command that the three demos are ------------------------------------------------------

SEEDS = 5
QUICK_GRID: Sequence[tuple[int, float]] = ((1, 1.0), (10, 1.0))
QUICK_TUNING: Sequence[int] = (1000,)
GLIMPSE = 14  # updates that an estimate measures; MEmeL inhibits from the eleventh on


def seconds_of_a_training(task: Task) -> tuple[float, float]:
    """Measure on a few updates what happens once before all, and a training with its tests."""
    began = time.perf_counter()
    model = task.network(0)
    once = time.perf_counter() - began
    insert(task, model, MEMEL)
    steps = []
    for record in task.training(model, 0):
        steps.append(record.seconds)
        if len(steps) == GLIMPSE:
            break
    began = time.perf_counter()
    score(task, model, "validation")
    testing = time.perf_counter() - began
    return once, task.steps * float(np.median(steps[GLIMPSE // 3 :])) + 3.0 * testing


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def main(*, full: Task, quick: Task, argv: Sequence[str] | None = None) -> Comparison:
    """Run a demo from the command line: compare, print, draw."""
    script = Path(sys.argv[0]).name
    parser = _Parser(prog=script, allow_abbrev=False, description=f"The task: {full.name}.")
    parser.add_argument("--quick", action="store_true", help="few seeds, few steps, small networks")
    parser.add_argument("--seeds", type=int, metavar="N", help="seeds of each method (5; quick: 2)")
    parser.add_argument("--write", action="store_true", help="put the results into docs/results/")
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted run")
    parser.add_argument("--force", action="store_true", help="give up an interrupted run")
    flags = parser.parse_args(argv)
    grid, tuning_seeds = (QUICK_GRID, QUICK_TUNING) if flags.quick else (GRID, TUNING_SEEDS)
    seeds = flags.seeds if flags.seeds is not None else 2 if flags.quick else SEEDS
    if not 2 <= seeds <= 1000:
        parser.error(f"--seeds is {seeds}, expected 2 to 1000")
    pages = Path("docs/results")
    if flags.write and flags.quick:
        parser.error("--write is for full results, not for those of --quick")
    if flags.write and not pages.parent.is_dir():
        parser.error("--write: there is no folder docs here; run it from the project's folder")
    try:
        for library in ("numba", "matplotlib", "tqdm"):
            required(library, by=script, install=library)
    except RuntimeError as error:
        parser.error(str(error))

    task = quick if flags.quick else full
    trainings = number_of_trainings(seeds, len(tuning_seeds), len(grid))
    print(
        f"{task.name}: at most {trainings} trainings of {task.steps} updates: {seeds} seeds; "
        f"grid of {len(grid)}, {len(tuning_seeds)} seed{'s' * (len(tuning_seeds) > 1)} of its own.",
        flush=True,
    )
    name = Path(script).stem
    folder = Path("runs") / name
    depends = {
        "task": repr(task), "seeds": seeds, "tuning seeds": list(tuning_seeds),
        "grid": [list(at) for at in grid],
    }
    try:
        results = Results(
            folder / "trainings.jsonl", of=depends, resume=flags.resume, force=flags.force
        )
    except (ValueError, OSError) as error:
        parser.error(str(error))
    try:
        with stoppable(), results, console.progress(trainings, "Training", "network") as bar:
            if flags.resume:
                print(f"Going on after {len(results.known)} trainings.", flush=True)
            before, began = results.seconds, time.perf_counter()
            found = compare(
                task, seeds=range(seeds), tuning_seeds=tuning_seeds, grid=grid, done=bar.update,
                once=results.once,
            )
            minutes = (before + time.perf_counter() - began) / 60.0
            estimate = _estimate(full) if flags.quick else ""
            written = pages if flags.write else None
            _tell(found, name, folder, minutes, flags.seeds, written)
            results.cut(0)  # nothing is left to go on with
    except Stopped as stop:
        given = [flag for flag in argv or sys.argv[1:] if flag not in ("--resume", "--force")]
        again = shlex.join(["python", sys.argv[0], *given, "--resume"])
        print(f"\nStopped. To go on:\n  {again}", flush=True)
        sys.exit(stop.status)
    if estimate:
        print(estimate)
    return found


def _tell(
    found: Comparison, name: str, folder: Path, minutes: float, seeds: int | None,
    pages: Path | None,
) -> None:
    """Print and draw what came of it, and write its page where there is a folder for pages."""
    said = "\n".join(f"* {sentence}" for sentence in verdicts(found))
    n = len(found.seeds)
    legend = LEGEND.format(
        n=n, least=min(1.0, 2.0 ** (1 - n)), conclusions=conclusions(found),
        each=100.0 - 5.0 / conclusions(found), fewest=LEAST,
    )
    body = f"{found.task.description()}\n\n{tables(found)}\n\n{tuning_table(found)}\n\n{said}"
    print(f"\n{body}\n\n{legend}\n")

    import matplotlib

    from minimono.experiments import pictures

    with matplotlib.rc_context(pictures.style(10.5)):
        svg = pictures.save(picture(found), folder, name)
    print(f"Picture: {folder / name}.png   ({60.0 * minutes:.0f} s)")
    if pages is not None:
        pages.mkdir(exist_ok=True)
        page = _page(found.task, name, body, legend, minutes, seeds)
        atomic.write_text(pages / f"{name}.md", page)
        atomic.write_text(pages / f"{name}.svg", svg)
        print(f"Results: {pages / name}.md")


def _estimate(full: Task) -> str:
    glimpse = replace(full, pretraining=GLIMPSE) if full.pretraining else full
    once, each = seconds_of_a_training(glimpse)
    once *= full.pretraining / GLIMPSE
    trainings = number_of_trainings(SEEDS, len(TUNING_SEEDS), len(GRID))
    minutes = (once + trainings * each) / 60.0
    return (
        "Quick is to see that it works: so few seeds and updates decide nothing.\n"
        f"Without --quick: {SEEDS} seeds, {trainings} trainings of {full.steps} updates, about "
        f"{minutes:.1f} minutes on this machine now (from {GLIMPSE} updates, measured)."
    )


def _page(
    task: Task, name: str, body: str, legend: str, minutes: float, seeds: int | None
) -> str:
    command = f"python demos/{name}.py --write" + (f" --seeds {seeds}" if seeds else "")
    today = datetime.date.today().isoformat()
    definitions = "\n".join(f"    {line}" for line in legend.splitlines())
    return (
        f"---\norphan: true\n---\n\n# {task.name}\n\nWritten by `{command}` on {today} (Python "
        f"{platform.python_version()}, NumPy {np.__version__}, {minutes:.1f} minutes on a shared "
        f"machine).\n\n![Means and intervals]({name}.svg)\n\n{body}\n\n{definitions}\n"
    )
