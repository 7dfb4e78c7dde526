"""What is written in a picture can be read: it is not cut off, nor on another text or a line."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache, lru_cache
from types import ModuleType
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from scripts import imported

from minimono.experiments import four_ways_pictures as plots
from minimono.experiments.four_ways import LOG10_PHI_EDGES, METHODS, Json


@lru_cache(maxsize=1)  # drawing takes long, and both looks are at one picture
def texts(figure: Figure) -> list[tuple[str, Any]]:
    """What is written and where, in pixels: all texts that are drawn, of ticks too."""
    found: dict[int, Text] = {}
    draw = Text.draw

    def noted(text: Text, renderer: Any, *args: Any, **kwargs: Any) -> None:
        if text.get_visible() and text.get_text().strip():
            found[id(text)] = text
        draw(text, renderer, *args, **kwargs)

    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)  # the layout finds its places
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", noted)
        figure.draw(renderer)
    # Text's own way: an annotation's would include its arrow
    return [(t.get_text(), Text.get_window_extent(t, renderer)) for t in found.values()]


def collisions(figure: Figure, *, lines: bool = True) -> list[str]:
    """Texts that overlap one another or a line's points, or reach beyond the picture."""
    found = texts(figure)
    problems = []
    for (one, a), (two, b) in itertools.combinations(found, 2):
        wide = min(a.x1, b.x1) - max(a.x0, b.x0)
        high = min(a.y1, b.y1) - max(a.y0, b.y0)
        if wide > 1.0 and high > 2.0:  # a box is higher than its letters
            problems.append(f"{one!r} on {two!r}")
    if lines:
        for axes in figure.axes:
            for line in axes.lines:
                if line.get_linestyle() == "None":  # markers, on which names may stand
                    continue
                path = line.get_transform().transform_path(line.get_path()).interpolated(20)
                for text, box in found:
                    x, y = path.vertices.T
                    inside = (box.x0 < x) & (x < box.x1) & (box.y0 + 2 < y) & (y < box.y1 - 2)
                    clip = axes.get_window_extent() if line.get_clip_on() else None
                    if clip is not None:
                        inside &= (clip.x0 <= x) & (x <= clip.x1)
                        inside &= (clip.y0 <= y) & (y <= clip.y1)
                    if inside.any():
                        problems.append(f"a line through {text!r}")
    return problems


def beyond(figure: Figure) -> list[str]:
    width, height = figure.canvas.get_width_height(physical=True)
    return [
        text for text, box in texts(figure)
        if box.x0 < -1 or box.y0 < -1 or box.x1 > width + 1 or box.y1 > height + 1
    ]


def test_a_collision_is_seen() -> None:
    figure = Figure()
    axes = figure.add_subplot()
    axes.text(0.5, 0.5, "one")
    axes.text(0.51, 0.5, "two")
    axes.text(0.95, 0.8, "a text that is too long for its picture")
    axes.plot([0.0, 1.0], [0.2, 0.2])
    axes.text(0.3, 0.2, "crossed", va="center")
    assert "'one' on 'two'" in collisions(figure)
    assert "a line through 'crossed'" in collisions(figure)
    assert "a text that is too long for its picture" in beyond(figure)


# ---- the demo's --------------------------------------------------------------------------------


def run(steps: int, level: float, rng: np.random.Generator) -> list[Json]:
    """Records of a run whose losses end near `level`."""
    records: list[Json] = []
    for m in METHODS:
        loss = level + 2.0 * np.exp(-np.arange(steps) / (0.2 * steps)) + rng.normal(0, 0.1, steps)
        for i in range(steps):
            step = {"kind": "step", "method": m.key, "step": i + 1, "loss": loss[i]}
            records.append(step)
            if (i + 1) % max(1, steps // 8) == 0:
                records.append({"kind": "validation", "method": m.key, "step": i + 1,
                                "loss": loss[i] - 0.1})
        for i in range(12):
            for kind in ("movement", "case study"):
                if kind == "movement" or m.strength is not None:
                    change = rng.normal(0.01, 0.02) * 10 ** rng.uniform(-2, 1)
                    records.append({"kind": kind, "method": m.key, "step": i, "change": change})
            records.append({"kind": "cost", "method": m.key, "seconds": rng.lognormal()})
        records.append({
            "kind": "final", "method": m.key, "loss": level, "piece_losses": [level] * 4,
            "phi_mean": 1.0, "phi_999": 10.0, "constant_neurons": 0, "neurons": 8,
        })
    return records


@pytest.fixture(params=[0, 1])
def rng(request: pytest.FixtureRequest) -> Iterator[np.random.Generator]:
    with matplotlib.rc_context(plots.STYLE):
        yield np.random.default_rng(request.param)


@pytest.mark.parametrize("steps", [16, 180])
@pytest.mark.parametrize("level", [2.3, 3.2, 3.25, 4.5])  # below, at and above guessing
def test_loss(steps: int, level: float, rng: np.random.Generator) -> None:
    figure = plots.loss(run(steps, level, rng), 3.25)
    assert not collisions(figure)
    assert not beyond(figure)


def test_movement(rng: np.random.Generator) -> None:
    figure = plots.movement(run(16, 2.0, rng))
    assert not collisions(figure)
    assert not beyond(figure)


@pytest.mark.parametrize("layers", [1, 2, 12])
def test_phi(layers: int, rng: np.random.Generator) -> None:
    records = []
    for key in ("untrained", "plain", "memel"):
        for i in range(layers):
            density = np.exp(-(np.linspace(-4, 4, 100) ** 2) * rng.uniform(0.5, 2.0))
            records.append({
                "kind": "phi", "method": key, "tap": f"block.{i}.out", "history": 100,
                "density": density.tolist(), "edges": LOG10_PHI_EDGES.tolist(),
            })
    figure = plots.phi(records, [f"block.{i}.out" for i in range(layers)])
    assert not collisions(figure)
    assert not beyond(figure)


@pytest.mark.parametrize("scale", [1e-6, 0.03, 1.0, 5e4])
@pytest.mark.parametrize("most", [1, 50_000])
def test_neuron(scale: float, most: int, rng: np.random.Generator) -> None:
    values = scale * rng.normal(rng.uniform(-3.0, 3.0), 1.0, 2000)
    counts, edges = np.histogram(values, bins=50)
    counts[0] = max(1, most)
    record = {
        "kind": "neuron", "method": "plain", "counts": counts.tolist(), "edges": edges.tolist(),
        "snippets": [{"activation": float(v)} for v in np.sort(values)[-6:]],
    }
    figure = plots.neuron(record)
    assert not collisions(figure)
    assert not beyond(figure)


# ---- the documentation's, and the benchmark's --------------------------------------------------


@pytest.fixture(scope="module")
def scripts() -> Iterator[Callable[[str], ModuleType]]:
    """Modules of docs/ by name, as `python docs/NAME.py` finds them."""
    with ExitStack() as stack:
        load = cache(lambda name: stack.enter_context(imported(f"docs/{name}.py")))
        load("pictures")
        yield load


@pytest.mark.parametrize(
    ("script", "function"),
    [
        ("pictures", "tape"), ("pictures", "arrows"), ("pictures", "phi_against_null"),
        ("pictures_first", "broadcasting"), ("pictures_first", "signal_by_depth"),
        ("pictures_first", "what_a_position_sees"),
        ("pictures_second", "l2e_threshold"), ("pictures_second", "l2e_pull"),
        ("pictures_second", "superposition_pentagon"), ("pictures_second", "decorrelation_descent"),
        ("pictures_second", "circuits_rho"), ("pictures_second", "emergence_paths"),
        ("pictures_second", "world_roc"),
    ],
)
def test_a_page_s_picture(
    scripts: Callable[[str], ModuleType], script: str, function: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from matplotlib import pyplot

    module = scripts(script)
    drawn: list[Figure] = []
    monkeypatch.setattr(module, "save", lambda name: drawn.append(pyplot.gcf()))
    with pyplot.rc_context(scripts("pictures").STYLE):
        getattr(module, function)()
        try:
            for figure in drawn:
                assert not collisions(figure)
        finally:
            pyplot.close("all")
    assert drawn
