"""The benchmark's record as tables, pictures and a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks import limits, load
from benchmarks.measures import READ, READ_ALL, slope
from benchmarks.ours import IN_PARTS, MINIMONO, WITH_MEMEL
from benchmarks.rounds import quartiles_of_ratios
from benchmarks.run import EAGER, Results, busy, nearness, tape_overhead
from minimono.lazy import required

BLUE, ORANGE = "#2b8cc4", "#e08a00"  # on white and on black


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def spread(quartiles: tuple[float, float, float]) -> str:
    low, median, high = quartiles
    return f"{median:.2f} ({low:.2f}-{high:.2f})"


def share(quartiles: tuple[float, float, float]) -> str:
    """A share of a limit. Nothing is faster than a limit: it was measured too low, then."""
    above = ": above 1, so the limit was measured too low" if quartiles[1] > 1.0 else ""
    return spread(quartiles) + above


def of_others(results: Results) -> str:
    """How busy the machine was with other things, and when."""
    known = {name: share for name, share in results.others.items() if share is not None}
    if not known:
        return "Whether the machine was busy with other things is not known here."
    said = "Share of the machine that other processes took: " + "; ".join(
        f"{name} {100.0 * part:.0f} %" for name, part in known.items()
    ) + "."
    if not busy(results):
        return said
    return (
        f"**The machine was busy with other things** ({', '.join(busy(results))}: more than "
        f"{100.0 * load.BUSY:.0f} %). Figures are those of a busy machine, ratios too: take none "
        f"of them for the library's. {said}"
    )


def ratios(times_of: Mapping[str, Mapping[str, Sequence[float]]], base: str) -> str:
    """Rows: contestants. Columns: tasks. Cells: time over the base's, median and quartiles."""
    tasks = [*times_of]
    names = list(dict.fromkeys(name for times in times_of.values() for name in times))

    def cell(task: str, name: str) -> str:
        times = times_of[task]
        return spread(quartiles_of_ratios(times[name], times[base])) if name in times else "-"

    rows = [[name, *(cell(task, name) for task in tasks)] for name in names]
    milliseconds = [f"{1e3 * float(np.median(times_of[t][base])):.3g} ms" for t in tasks]
    return table(["", *tasks], [*rows, [f"one step of {base}", *milliseconds]])


def page(results: Results, pictures: str | None) -> str:
    """The page. `pictures`: their folder as the page sees it, None for none."""
    base = results.base
    parts = [
        "# Performance",
        f"Written by `make bench{' QUICK=1' if results.quick else ''}` on {results.date}.",
        table(["", ""], [[key, value] for key, value in results.machine.items()]),
        of_others(results),
        "Every framework runs in a process of its own and takes its turn in every round. A number "
        "is the median over the rounds of a time divided by another one of the same round, with "
        "the lower and upper quartile. Before anything is timed, the losses of the first four "
        "steps are compared: all frameworks compute the same, to float32's rounding.",
        "## Training steps",
        "float32, Adam. *MLP small*: 64-128-128-10, batch 64. *MLP 784*: 784-1024-1024-10, batch "
        "256. *GPT small*: 2 layers, 128 channels, 4 heads, context 128, batch 16. *GPT middle*: "
        "4 layers, 256 channels, 8 heads, context 256, batch 8. Vocabulary 256. Time of a step / "
        f"time of {base}'s: lower is better.",
        ratios(results.training, base),
    ]
    if pictures:
        parts += [f"![Time of a training step, relative]({pictures}/performance-steps.svg)"]
    parts += [
        "How near to the machine's limit: the least time for a step's matrix products and for "
        "moving Adam's arrays, over the time of the step. The limits take turns in the same "
        f"rounds: a product of {limits.SIZE} x {limits.SIZE} with one thread or all, whichever is "
        "faster, and a copy.",
        _nearness(results),
        "The tape's overhead, our step / the same kernels called by hand in the right order: "
        + "; ".join(f"{task} {spread(q)}" for task, q in tape_overhead(results).items()) + ".",
    ]
    if results.arrangements:
        every = f"{EAGER}, all cores"
        first = next(iter(results.arrangements.values()))
        by = every if every in first else next(iter(first))
        parts += ["## Threads", THREADS, ratios(results.arrangements, by)]
    parts += [
        "## Inhibition",
        "A training step of GPT middle with MEmeL behind two of its four blocks / without: "
        f"{spread(quartiles_of_ratios(results.memel[WITH_MEMEL], results.memel[MINIMONO]))}.",
    ]
    if results.peak_memory:
        memory = ", ".join(f"{k} {v / 2**20:.0f} MiB" for k, v in results.peak_memory.items())
        parts += [
            "## Memory",
            f"At the peak of three training steps of GPT middle, weights and Adam's arrays "
            f"included: {memory}.",
        ]
    rows, neurons = results.metric_shape
    size = 4.0 * rows * neurons
    read = np.minimum(results.metric[READ], results.metric[READ_ALL]).tolist()
    parts += [
        "## The metric",
        f"{rows:,} samples of {neurons:,} neurons in float32 ({size / 2**20:.0f} MiB), all threads "
        "but where it says one. The limit is a loop that only reads, with one thread or all, "
        "whichever is faster in the same round.",
        table(
            ["", "GB of z in a second", "share of the limit"],
            [
                [
                    name, f"{size / float(np.median(times)) / 1e9:.1f}",
                    share(quartiles_of_ratios(read, times)),
                ]
                for name, times in results.metric.items()
            ],
        ),
    ]
    if results.many:
        parts += ["Scored batch after batch, in batches of 8,192 samples: " + "; ".join(
            f"{values} values in {seconds:.2g} s, {4.0 * float(values) / seconds / 1e9:.1f} GB a "
            f"second, {held / 2**20:.0f} MiB beside the batch" for values, (seconds, held) in
            results.many.items()
        ) + "."]
    parts += [
        "## Import",
        "Seconds of `python -c \"import ...\"`, Python's own start taken off: "
        + "; ".join(
            f"{name} {float(np.median(np.subtract(times, results.imports['']))):.2f}"
            for name, times in results.imports.items() if name
        ) + ".",
        "## Cost as work grows",
        "The slope of log time over log size: 1 is linear, 2 quadratic. Below 1 where fixed costs "
        "still count.",
        table(
            ["", "sizes", "slope"],
            [
                [name, f"{min(curve[0])}-{max(curve[0])}", f"{slope(curve):.2f}"]
                for name, curve in results.growth.items()
            ],
        ),
    ]
    if pictures:
        parts += [f"![Time over size, both logarithmic]({pictures}/performance-growth.svg)"]
    if results.left_out:
        parts += ["Left out of this run: " + "; ".join(results.left_out) + "."]
    return "\n\n".join(parts) + "\n"


THREADS = (
    "BLAS's threads wait, for work and for each other, by running in circles. Beside another pool, "
    "or on a machine that does other things, they wait longest for the one that is not running. "
    "So kernels cut large arrays and large products into parts for Python's own threads, which "
    "wait asleep, and BLAS runs in the thread that calls it. The first kernel that runs "
    "arranges it so. It leaves BLAS alone, and uses one thread of its own, if "
    "`OPENBLAS_NUM_THREADS` or `OMP_NUM_THREADS` is set, or if BLAS was given another number "
    "before. `MINIMONO_NUM_THREADS=n`, or `minimono.set_num_threads(n)`, says how many threads "
    "kernels get; last bits may depend on it. `minimono info` prints what was chosen and why.\n\n"
    "`nn.backward_in_parts`, or `train(..., in_parts=True)`, gives each thread a part of the "
    "batch: threads meet once a step, which suits transformers. It is for models without dropout, "
    "MEmeL and the like, whose state depends on the order of samples."
)


def _nearness(results: Results) -> str:
    names = [name for name in (MINIMONO, EAGER) if name in next(iter(results.training.values()))]
    rows = [
        [name, *(share(nearness(results, task, name)) for task in results.training)]
        for name in names
    ]
    times_of: dict[str, list[float]] = {}
    for times in results.limits.values():
        for name, found in times.items():
            times_of.setdefault(name, []).extend(found)
    copied = limits.MOVED / float(np.median(times_of.pop(limits.COPY))) / 1e9
    rates = ", ".join(
        f"{name} {limits.OPERATIONS / float(np.median(found)) / 1e9:.0f} GFLOP/s"
        for name, found in times_of.items()
    )
    return table(["", *results.training], rows) + (
        f"\n\nThe limits, medians over all rounds: {rates}; copy {copied:.1f} GB/s."
    )


def draw(results: Results, folder: Path) -> None:
    """performance-steps.svg and performance-growth.svg."""
    matplotlib = required("matplotlib", by="python -m benchmarks --write", install="matplotlib")
    from matplotlib.figure import Figure

    from minimono.experiments.pictures import GREY, style

    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(style(10, on_dark=True)):
        figure = Figure(figsize=(8.0, 4.6), layout="constrained")
        axes = figure.subplots(1, len(results.training), sharey=True, squeeze=False)[0]
        for ax, (task, times) in zip(axes, results.training.items(), strict=True):
            names = [*times][::-1]
            found = [quartiles_of_ratios(times[n], times[results.base]) for n in names]
            low, median, high = np.array(found).T
            colours = [BLUE if name in (MINIMONO, IN_PARTS) else GREY for name in names]
            ax.barh(names, median, color=colours, height=0.6)
            ax.errorbar(
                median, names, xerr=[median - low, high - median], fmt="none", ecolor=ORANGE, lw=1
            )
            ax.axvline(1.0, color=GREY, lw=0.8)
            ax.set_xlim(0.0, 2.0)
            ax.set_xticks([0.0, 1.0])  # a 2 would stand at the next panel's 0
            ax.set_title(task)
        figure.supxlabel(f"time / {results.base} (bars that reach 2, the right edge, go on)",
                         fontsize=9)
        figure.savefig(folder / "performance-steps.svg", metadata={"Date": None})

        figure = Figure(figsize=(8.0, 4.6), layout="constrained")
        for ax, (name, (sizes, times_)) in zip(
            figure.subplots(2, 3).ravel(), results.growth.items(), strict=True
        ):
            milliseconds = np.multiply(times_, 1e3)
            ax.loglog(sizes, milliseconds, "o-", color=BLUE)
            ax.set_xticks(sizes, [str(n) for n in sizes], fontsize=8)
            ends = [milliseconds.min(), milliseconds.max()]
            ax.set_yticks(ends, [f"{end:.2g}" if end < 10 else f"{end:.0f}" for end in ends],
                          fontsize=8)
            ax.minorticks_off()
            ax.set_title(f"{name}: slope {slope((sizes, times_)):.2f}")
        figure.supylabel("ms", fontsize=9)
        figure.savefig(folder / "performance-growth.svg", metadata={"Date": None})
