"""The report says what the records say, loads nothing, and comes out the same every time."""

import json
import math
import re
import statistics
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from minimono import cli
from minimono.experiments import four_ways_pictures as plots
from minimono.experiments import four_ways_report as report
from minimono.experiments.four_ways import METHODS, Json
from minimono.experiments.page import _snippet, inline

SVG = ("loss", "movement", "phi", *(
    f"neuron-{network}-{i}" for network in ("plain", "memel", "untrained") for i in (1, 2, 3)
))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs with the same settings."""
    folders = (tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two"))
    for folder in folders:
        assert cli.main(["demo", "--quick", "--out", str(folder)]) == 0
    return folders


@pytest.fixture(scope="module")
def records(runs: tuple[Path, Path]) -> list[Json]:
    lines = (runs[0] / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_the_table_is_what_the_metrics_say(runs: tuple[Path, Path], records: list[Json]) -> None:
    lines = (runs[0] / "table.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2 + len(METHODS)

    def changes(kind: str, method: str) -> list[float]:
        found = [r["change"] for r in records if (r["kind"], r["method"]) == (kind, method)]
        return [100.0 * change for change in found if change is not None]

    def written(values: list[float], digits: int) -> str:
        t = {3: 4.302653, 16: 2.131450}[len(values)]  # 97.5 % of Student's t, from any table
        half = t * statistics.stdev(values) / math.sqrt(len(values))
        return f"{statistics.fmean(values):+.{digits}f} ± {half:.{digits}f}"

    def seconds(method: str) -> list[float]:
        return [r["seconds"] for r in records if (r["kind"], r["method"]) == ("cost", method)]

    for m, line in zip(METHODS, lines[2:], strict=True):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        [final] = [r for r in records if (r["kind"], r["method"]) == ("final", m.key)]
        assert cells[0] == m.name
        assert cells[1] == f"{statistics.fmean(final['piece_losses']):.4f}"
        assert cells[2] == f"{final['phi_mean']:.3f}"
        assert cells[3] == f"{final['phi_999']:.2f}"
        assert cells[4] == written(changes("movement", m.key), 2)
        if m.key == "plain":
            assert cells[5] == "none"
        elif m.key == "naive-a":
            assert cells[5] == "0"
        else:
            both = zip(changes("case study", m.key), changes("case study", "naive-a"), strict=True)
            assert cells[5] == written([ours - a for ours, a in both], 4)
        ratios = [ours / p for ours, p in zip(seconds(m.key), seconds("plain"), strict=True)]
        assert len(ratios) == 24
        low, high = sorted(ratios)[6], sorted(ratios)[-7]  # P(six or fewer below the median): 1.1 %
        interval = f"{statistics.median(ratios):.2f} ({low:.2f}-{high:.2f})"
        assert cells[6] == ("1" if m.key == "plain" else interval)
        assert cells[7] == str(final["constant_neurons"])
        assert len(cells) == 8


def test_a_run_writes_what_it_says(runs: tuple[Path, Path]) -> None:
    expected = {"config.json", "metrics.jsonl", "run.npz", "table.md", "report.html"}
    expected |= {f"{name}.{suffix}" for name in SVG for suffix in ("svg", "png")}
    assert {path.name for path in runs[0].iterdir()} == expected
    config = json.loads((runs[0] / "config.json").read_text(encoding="utf-8"))
    assert config["settings"]["steps"] == 16
    assert config["methods"] == {"plain": None, "naive-a": 0.0, "naive-b": -1.0, "memel": 1.0}


def test_two_runs_are_the_same_but_for_the_clock(runs: tuple[Path, Path]) -> None:
    def timeless(folder: Path) -> list[Json]:
        found = []
        for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            record.pop("seconds", None)
            found.append(record)
        return found

    assert timeless(runs[0]) == timeless(runs[1])
    for name in SVG:
        one, two = ((folder / f"{name}.svg").read_bytes() for folder in runs)
        assert one == two, name


class Page(HTMLParser):
    """What tags a page has, and what their attributes refer to."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        names = ("src", "href", "xlink:href", "data", "srcset", "action")
        self.addresses += [value or "" for name, value in attrs if name in names]
        assert not [name for name, _ in attrs if name.startswith("on")]


def test_the_page_is_self_contained(runs: tuple[Path, Path]) -> None:
    text = (runs[0] / "report.html").read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    assert not page.tags & {"script", "link", "iframe", "object", "img", "base"}
    assert page.addresses  # the pictures' own glyphs
    assert all(address.startswith("#") for address in page.addresses)
    assert not re.search(r"https?://(?!docs\.python|www\.|peps)", _without_snippets(text))
    assert "url(" not in text.replace("url(#", "")
    assert "@import" not in text
    assert 'name="viewport"' in text
    assert "prefers-color-scheme: dark" in text
    assert text.count("<svg") == len(SVG)


def _without_snippets(text: str) -> str:
    """Snippets quote the reader's text, in which anything may stand."""
    return re.sub(r"<code>.*?</code>", "", text, flags=re.DOTALL)


def test_the_page_shows_the_table_and_every_verdict(
    runs: tuple[Path, Path], records: list[Json]
) -> None:
    import html

    text = (runs[0] / "report.html").read_text(encoding="utf-8")
    for row in report.rows(records):
        for cell in report.cells(row):
            assert f"<td>{html.escape(cell)}</td>" in text
    for verdict in report.verdicts(records):
        assert html.escape(verdict) in text


def test_snippets_are_escaped() -> None:
    hostile = {
        "before": "<script>a", "character": "<", "after": "&\n", "scale": 3.0, "activation": 1.0,
    }
    line = _snippet(hostile)
    assert "<script>" not in line
    assert "&lt;script&gt;a<mark>&lt;</mark>" in line
    assert "&amp;⏎" in line


# ---- verdicts ----------------------------------------------------------------------------------


def invented(*, rule: float, loss: float, phi: float) -> list[Json]:
    """Records in which MEmeL does what the arguments say, with a little noise, and (b) opposite."""
    noise = [-0.01, 0.0, 0.01, 0.0]
    found: list[Json] = []
    for m in METHODS:
        sign = {"memel": 1.0, "naive-b": -1.0}.get(m.key, 0.0)
        treated = 1.0 if m.key == "memel" else 0.0
        for i, n in enumerate(noise):
            found.append({"kind": "movement", "method": m.key, "step": i, "change": n})
            if m.strength is not None:
                change = sign * (rule + n)
                found.append({"kind": "case study", "method": m.key, "change": change})
            found.append({"kind": "cost", "method": m.key, "seconds": 1.0 + treated})
        losses = [2.0 + treated * (loss + n) for n in noise]
        found.append({
            "kind": "final", "method": m.key, "loss": float(np.mean(losses)),
            "piece_losses": losses, "phi_mean": 1.0, "phi_999": 10.0 + treated * phi,
            "constant_neurons": 0, "neurons": 8,
        })
    return found


def test_verdicts_follow_the_numbers() -> None:
    as_claimed = report.verdicts(invented(rule=-0.5, loss=-0.1, phi=-2.0))
    assert "away from their mean. Shows: +50.0000" in as_claimed[0]
    assert "towards it. Shows: -50.0000" in as_claimed[1]

    opposite = report.verdicts(invented(rule=0.5, loss=0.1, phi=2.0))
    assert "The opposite shows: -50.0000" in opposite[0]
    assert "The opposite shows: +50.0000" in opposite[1]

    nothing = report.verdicts(invented(rule=0.001, loss=0.001, phi=0.0))
    for verdict in nothing[:3]:
        assert "Not resolved: " in verdict
    assert "MEmeL 2.00 (n/a), not resolved" in nothing[5]  # four rounds are too few


@pytest.mark.parametrize("effect", [-1.0, 0.0, 1.0])
def test_one_seed_resolves_neither_learning_nor_monosemanticity(effect: float) -> None:
    """However far the numbers are apart: another seed might turn them round."""
    verdicts = report.verdicts(invented(rule=0.5, loss=0.5 * effect, phi=5.0 * effect))
    assert "less monosemantic. Not resolved: one network of each" in verdicts[3]
    assert "learns better. Not resolved: one network of each" in verdicts[4]


def test_movement_in_training_is_compared_update_by_update() -> None:
    """What all methods share, here a swing of 30 %, is no noise between them."""
    records = [r for r in invented(rule=0.5, loss=0.0, phi=0.0) if r["kind"] != "movement"]
    shift = {"memel": -0.02, "naive-b": 0.01}
    for m in METHODS:
        for i, swing in enumerate([0.3, -0.1, 0.2, -0.3, 0.0, 0.1]):
            change = swing + shift.get(m.key, 0.0) + (0.001 * i if m.key == "memel" else 0.0)
            records.append({"kind": "movement", "method": m.key, "step": i, "change": change})
    assert "or further? Nearer to their means: -2.75 ± " in report.verdicts(records)[2]


def test_steps_that_differ_in_nothing_but_noise_have_no_verdict() -> None:
    rng, without = np.random.default_rng(0), 0
    for _run in range(100):
        records = []
        for m in METHODS:
            records += invented(rule=0.0, loss=0.0, phi=0.0)[-1:]
            records[-1] = records[-1] | {"method": m.key}
            for _ in range(24):
                moved = {"kind": "movement", "method": m.key, "change": rng.normal(0.0, 0.05)}
                cost = {"kind": "cost", "method": m.key, "seconds": rng.lognormal(0.0, 0.5)}
                study = {"kind": "case study", "method": m.key, "change": rng.normal(0.0, 0.01)}
                records += [moved, cost, study]
        said = " ".join(report.verdicts(records))
        without += not re.search(r"[Ss]hows: |slower|faster|further\? (Nearer|Further)", said)
    assert without >= 90


def test_sixteen_steps_give_no_verdict_on_what_they_cannot_tell(records: list[Json]) -> None:
    """Movement in training has three measurements, learning and phi one network of each."""
    verdicts = report.verdicts(records)
    for verdict in verdicts[2:5]:
        assert "Not resolved: " in verdict
        assert "points" not in verdict
    assert "0.0000 ± 0.0000" not in " ".join(verdicts)
    for m in ("Naive (a)", "Naive (b)", "MEmeL"):
        assert re.search(rf"{re.escape(m)} \d+\.\d\d \(\d+\.\d\d-\d+\.\d\d\), \w+", verdicts[5])


def test_the_last_validation_loss_is_the_table_s(records: list[Json]) -> None:
    """One number, one name: progress bar, picture and table measure the same text."""
    for m in METHODS:
        *_, last = [r for r in records if (r["kind"], r["method"]) == ("validation", m.key)]
        [final] = [r for r in records if (r["kind"], r["method"]) == ("final", m.key)]
        assert last["loss"] == final["loss"]


def test_a_run_too_short_to_inhibit_says_so() -> None:
    records = [
        r for r in invented(rule=0.5, loss=0.0, phi=0.0)
        if r["kind"] not in ("movement", "case study")
    ]
    verdicts = report.verdicts(records)
    assert "Not resolved: inhibition had not begun" in verdicts[0]
    assert "Not resolved: n/a %, over the 0 updates" in verdicts[2]
    assert "n/a" in report.table(records)


# ---- pictures ----------------------------------------------------------------------------------


def test_every_picture_can_be_told_apart_by_the_colour_blind() -> None:
    okabe_ito = {"#009e73", "#d55e00", "#0072b2", "#e69f00"}
    assert {plots.COLOURS[k] for k in ("naive-a", "naive-b", "memel")} < okabe_ito
    assert len(set(plots.COLOURS.values()) | {plots.CHANCE}) == 6


def test_names_at_line_ends_do_not_overlap() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        values = list(rng.normal(size=rng.integers(1, 7)))
        placed = plots._spread(values, 0.5)
        assert list(np.argsort(placed)) == list(np.argsort(values))
        assert (np.diff(sorted(placed)) >= 0.5 - 1e-12).all()
        if (np.diff(sorted(values)) >= 0.5).all():
            assert placed == pytest.approx(values)


def test_pictures_of_the_page_have_no_colours_of_their_own(runs: tuple[Path, Path]) -> None:
    """All that is drawn in ink follows light and dark; names of standards are gone."""
    svg = (runs[0] / "loss.svg").read_text(encoding="utf-8")
    page = inline(svg, "a < b")
    assert 'aria-label="a &lt; b"' in page
    assert "#1b1b1b" in svg
    assert "#1b1b1b" not in page
    assert "var(--ink)" in page
    assert "http" not in page
    assert "http" in svg  # a file of its own needs them
