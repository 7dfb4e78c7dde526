"""The benchmark's record as pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measures import Curve, slope
from benchmarks.ours import IN_PARTS, MINIMONO
from benchmarks.record import Record
from benchmarks.rounds import quartiles_of_ratios
from benchmarks.run import Times, base, slug
from benchmarks.tasks import TASKS
from minimono.lazy import required

BLUE, ORANGE = "#2b8cc4", "#e08a00"  # on white and on black


def draw(record: Record, folder: Path) -> None:
    """performance-steps.svg and performance-growth.svg, of what was measured."""
    matplotlib = required("matplotlib", by="python -m benchmarks --write", install="matplotlib")
    from matplotlib.figure import Figure

    from minimono.experiments.pictures import style

    folder.mkdir(parents=True, exist_ok=True)
    steps, growth = folder / "performance-steps.svg", folder / "performance-growth.svg"
    for picture in (steps, growth):
        picture.unlink(missing_ok=True)  # of an older record
    tasks = {task: record[slug(task)].found["times"] for task in TASKS if slug(task) in record}
    with matplotlib.rc_context(style(10, on_dark=True)):
        if tasks:
            _steps(Figure(figsize=(8.0, 4.6), layout="constrained"), tasks, base(record), steps)
        if "growth" in record:
            curves = record["growth"].found["curves"]
            _growth(Figure(figsize=(8.0, 4.6), layout="constrained"), curves, growth)


def _steps(figure: Any, tasks: dict[str, Times], by: str, file: Path) -> None:
    from minimono.experiments.pictures import GREY

    names = list(dict.fromkeys(name for times in tasks.values() for name in times))[::-1]
    axes = figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0]
    for ax, (task, times) in zip(axes, tasks.items(), strict=True):
        here = [(i, name) for i, name in enumerate(names) if name in times]
        places = [i for i, _ in here]
        found = [quartiles_of_ratios(times[name], times[by]) for _, name in here]
        low, median, high = np.array(found).T
        colours = [BLUE if name in (MINIMONO, IN_PARTS) else GREY for _, name in here]
        ax.barh(places, median, color=colours, height=0.6)
        ax.errorbar(
            median, places, xerr=[median - low, high - median], fmt="none", ecolor=ORANGE, lw=1
        )
        ax.axvline(1.0, color=GREY, lw=0.8)
        ax.set_xlim(0.0, 2.0)
        ax.set_xticks([0.0, 1.0])  # a 2 would stand at the next panel's 0
        ax.set_yticks(range(len(names)), names)
        ax.set_title(task)
    figure.supxlabel(f"time / {by} (bars that reach 2, the right edge, go on)", fontsize=9)
    figure.savefig(file, metadata={"Date": None})


def _growth(figure: Any, curves: dict[str, Curve], file: Path) -> None:
    for ax, (name, (sizes, times)) in zip(
        figure.subplots(2, 3).ravel(), curves.items(), strict=True
    ):
        milliseconds = np.multiply(times, 1e3)
        ax.loglog(sizes, milliseconds, "o-", color=BLUE)
        ax.set_xticks(sizes, [str(n) for n in sizes], fontsize=8)
        ends = [milliseconds.min(), milliseconds.max()]
        ax.set_yticks(ends, [f"{end:.2g}" if end < 10 else f"{end:.0f}" for end in ends],
                      fontsize=8)
        ax.minorticks_off()
        ax.set_title(f"{name}: slope {slope((sizes, times)):.2f}")
    figure.supylabel("ms", fontsize=9)
    figure.savefig(file, metadata={"Date": None})
