"""The demo's pictures, drawn from its records; the SVGs come out the same every time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from minimono.backend import Array
from minimono.experiments.four_ways import METHODS, Json
from minimono.experiments.four_ways_report import INHIBITING, of_kind, rows
from minimono.experiments.measurement import null_density
from minimono.experiments.pictures import BLUE, GREEN, INK, MUTED, ORANGE, RED, save, style

COLOURS = {
    "plain": INK, "naive-a": GREEN, "naive-b": RED, "memel": BLUE, "untrained": MUTED,
}
CHANCE = ORANGE
STYLE = style(10.5)


def draw_all(records: Sequence[Json], config: Json, folder: Path) -> dict[str, str]:
    """Draw and save every picture; return each one's SVG by name."""
    pictures: dict[str, Callable[[], Figure]] = {
        "loss": lambda: loss(records, config["text"]["unigram_entropy"]),
        "movement": lambda: movement(records),
        "phi": lambda: phi(records, config["inhibited"]),
    }
    for method in ("plain", "memel", "untrained"):
        for i, record in enumerate(of_kind(records, "neuron", method), start=1):
            pictures[f"neuron-{method}-{i}"] = lambda record=record: neuron(record)  # type: ignore[misc]
    with matplotlib.rc_context(STYLE):
        return {name: save(draw(), folder, name) for name, draw in pictures.items()}


def loss(records: Sequence[Json], unigram_entropy: float) -> Figure:
    """Draw the loss against the step, and each method's difference to plain."""
    figure = Figure(figsize=(5.4, 5.0), layout="constrained")
    above, below = figure.subplots(2, height_ratios=[3, 2], sharex=True)
    training = {
        m.key: np.array([r["loss"] for r in of_kind(records, "step", m.key)]) for m in METHODS
    }
    steps = np.array([r["step"] for r in of_kind(records, "step", METHODS[0].key)])
    width = max(1, len(steps) // 16)
    ends = []
    for m in METHODS:
        above.plot(*_smoothed(steps, training[m.key], width), color=COLOURS[m.key])
        points = of_kind(records, "validation", m.key)
        above.plot(
            [r["step"] for r in points], [r["loss"] for r in points],
            "o", markersize=3.5, color=COLOURS[m.key],
        )
        at, difference = _smoothed(steps, training[m.key] - training["plain"], width)
        below.plot(at, difference, color=COLOURS[m.key])
        ends += [float(end) for end in difference[-1:]]
    above.axhline(unigram_entropy, color=MUTED, linewidth=1, linestyle=":")
    above.annotate(  # beside the axes, where no line can run through it
        "guessing by\nfrequency", (1.02, unigram_entropy), xycoords=("axes fraction", "data"),
        va="center", color=MUTED, annotation_clip=False,
    )
    above.set(ylabel="loss (nats per character)")
    above.set_title("Lines: training, smoothed. Dots: validation")
    below.set(xlabel="update", ylabel="minus plain")
    below.set_title("Difference to plain on the same batches, smoothed")
    if ends:  # none if all records of training were lost
        _name_lines(below, float(steps[-1]), ends)
    return figure


def movement(records: Sequence[Json]) -> Figure:
    """Draw how far one update moves flagged activations, for each method."""
    figure = Figure(figsize=(5.4, 3.7), layout="constrained")
    table = rows(records)
    panels = (
        ("In training: by one of its own updates", METHODS, [r.movement for r in table]),
        ("By the rule alone, compared with naive (a)", INHIBITING, [r.rule for r in table[1:]]),
    )
    both = figure.subplots(2, height_ratios=[4, 3])
    for axes, (title, methods, found) in zip(both, panels, strict=True):
        axes.axvline(0.0, color=MUTED, linewidth=0.8)
        for y, (m, (mean, half)) in enumerate(zip(methods, found, strict=True)):
            axes.errorbar(mean, y, xerr=half, fmt="o", color=COLOURS[m.key], markersize=5)
        axes.set_yticks(range(len(methods)), [m.name for m in methods])
        for label, m in zip(axes.get_yticklabels(), methods, strict=True):
            label.set_color(COLOURS[m.key])
        axes.set(title=title, ylim=(len(methods) - 0.5, -0.5))
        axes.tick_params(left=False)
    axes.set_xlabel("← towards the mean      change (%)      away from it →")
    return figure


def phi(records: Sequence[Json], inhibited: Sequence[str]) -> Figure:
    """Draw log10 phi behind each block: untrained, plain, MEmeL, and what a Gaussian gives."""
    layers = of_kind(records, "phi", "plain")
    across = min(2, len(layers))
    down = math.ceil(len(layers) / across)
    width = 2.8 * across if across > 1 else 4.0  # the names need room
    figure = Figure(figsize=(width, 0.5 + 2.2 * down), layout="constrained")
    grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, record in zip(grid, layers, strict=False):
        edges = np.array(record["edges"])
        centres = (edges[:-1] + edges[1:]) / 2
        null = null_density(centres, record["history"])
        axes.plot(centres, null, color=CHANCE, linestyle="--")
        for key in ("untrained", "plain", "memel"):
            [same] = [r for r in of_kind(records, "phi", key) if r["tap"] == record["tap"]]
            density = np.array(same["density"])
            axes.plot(centres, np.where(density > 0, density, np.nan), color=COLOURS[key])
        title = record["tap"] + (" (inhibited)" if record["tap"] in inhibited else "")
        axes.set(title=title, yscale="log", ylim=(1e-5, 2), xlim=(-2, 2.5))
        axes.set_xticks([-1, 0, 1, 2], ["0.1", "1", "10", "100"])
        axes.set_yticks([1e-4, 1e-2, 1], ["0.0001", "0.01", "1"])
        axes.minorticks_off()
    names = {"untrained": "Untrained", "plain": "Plain", "memel": "MEmeL"}
    # The lines lie too close for names at their ends: the names stand in the free corner.
    for i, (key, name) in enumerate(names.items()):
        grid[0].text(0.06, 0.38 - 0.11 * i, name, color=COLOURS[key], transform=grid[0].transAxes)
    grid[0].text(0.06, 0.05, "Gaussian (dashed)", color=CHANCE, transform=grid[0].transAxes)
    for unused in grid[len(layers) :]:
        unused.set_visible(False)
    figure.supxlabel("phi (logarithmic)", fontsize=10.5)
    figure.supylabel("density of log10 phi (logarithmic)", fontsize=10.5)
    return figure


def neuron(record: Json) -> Figure:
    """Draw how a neuron's activation is spread over characters, and where the snippets are."""
    figure = Figure(figsize=(4.6, 2.0))
    axes = figure.add_axes((0.2, 0.31, 0.73, 0.65))  # a known place: nine of these are drawn
    axes.stairs(record["counts"], record["edges"], fill=True, color=COLOURS[record["method"]])
    axes.plot(
        [snippet["activation"] for snippet in record["snippets"]],
        np.full(len(record["snippets"]), -0.04),
        "|", color=COLOURS["naive-b"], markersize=9, clip_on=False,
        transform=axes.get_xaxis_transform(),
    )
    axes.set(yscale="log", ylim=(0.7, None), xlabel="activation", ylabel="characters")
    top = math.floor(math.log10(max(record["counts"])))
    axes.set_yticks([10.0**n for n in range(top + 1)], [f"{10**n:,}" for n in range(top + 1)])
    axes.minorticks_off()
    axes.locator_params(axis="x", nbins=4)
    axes.tick_params(axis="x", pad=8)  # below the marks of the snippets
    return figure


def _smoothed(steps: Array, values: Array, width: int) -> tuple[Array, Array]:
    """Return running means over `width` steps, each at the middle of its steps."""
    if not len(values):
        return steps, values
    window = np.full(width, 1.0 / width)
    at = np.convolve(steps, window, mode="valid")
    return at, np.convolve(values, window, mode="valid")


def _name_lines(axes: Axes, x: float, ends: Sequence[float]) -> None:
    """Write the methods' names at the ends of their lines, in order, none on another."""
    low, high = axes.get_ylim()
    gap = 0.16 * (high - low)
    heights = _spread(ends, gap)
    for m, end, height in zip(METHODS, ends, heights, strict=True):
        axes.annotate(
            m.name, (x, end), xytext=(1.02, height), textcoords=("axes fraction", "data"),
            color=COLOURS[m.key], va="center", annotation_clip=False,
        )


def _spread(values: Sequence[float], gap: float) -> list[float]:
    """Return the values, in the same order, moved as little as needed to be `gap` apart.

    >>> _spread([0.0, 0.0, 5.0], 1.0)
    [-0.5, 0.5, 5.0]
    """
    order = np.argsort(values, kind="stable")
    steps = gap * np.arange(len(values))
    means: list[float] = []  # of neighbours that had to be moved together
    sizes: list[int] = []
    for mean in np.asarray(values, dtype=np.float64)[order] - steps:
        size = 1
        while means and means[-1] > mean:
            total = size * mean + sizes[-1] * means.pop()
            size += sizes.pop()
            mean = total / size
        means.append(mean)
        sizes.append(size)
    placed = np.empty(len(values))
    placed[order] = np.repeat(means, sizes) + steps
    return [float(height) for height in placed]
