"""The demo's table, verdicts and page, made from its records and from nothing else.

Differences have a 95 % interval over what was measured again and again (batches, updates, pieces of
text, rounds). It says nothing about another seed: there is one run of each. So what another seed
may turn round, which network learns better or is less monosemantic, is never resolved here.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from minimono.backend import Array
from minimono.experiment import METHODS, UNTRAINED, Method
from minimono.verdict import NOT_RESOLVED, Interval, Median, interval, judge, judge_median, median

Json = dict[str, Any]
INHIBITING = [method for method in METHODS if method.strength is not None]


class Row(NamedTuple):
    """A line of the table."""

    method: Method
    loss: float  # nats a character
    phi_mean: float
    phi_999: float
    movement: Interval  # per cent, by updates of the training; over those that were measured
    rule: Interval  # per cent, by the rule alone against naive (a); over batches
    cost: Median  # seconds of a step, over plain's of the same round; over rounds
    constant_neurons: int
    neurons: int


def of_kind(records: Sequence[Json], kind: str, method: str | None = None) -> list[Json]:
    return [r for r in records if r["kind"] == kind and method in (None, r["method"])]


def rows(records: Sequence[Json]) -> list[Row]:
    """The table's numbers."""
    final = {r["method"]: r for r in of_kind(records, "final")}
    return [
        Row(
            method=m,
            loss=final[m.key]["loss"],
            phi_mean=_number(final[m.key]["phi_mean"]),
            phi_999=_number(final[m.key]["phi_999"]),
            movement=interval(_per_cent(records, "movement", m)[0]),
            rule=interval(_by_the_rule(records, m)),
            cost=median(_cost(records, m)),
            constant_neurons=final[m.key]["constant_neurons"],
            neurons=final[m.key]["neurons"],
        )
        for m in METHODS
    ]


def _per_cent(records: Sequence[Json], kind: str, *methods: Method) -> Array:
    """Movements (methods, n), where all of the methods have one."""
    of_each = [[r["change"] for r in of_kind(records, kind, m.key)] for m in methods]
    known = [found for found in zip(*of_each, strict=True) if None not in found]
    return 100.0 * np.array(known, dtype=np.float64).reshape(-1, len(methods)).T


def _by_the_rule(records: Sequence[Json], method: Method) -> Array:
    """Movement of the case study, minus naive (a)'s on the same batches; plain has no rule."""
    if method.strength is None:
        return np.empty(0)
    own, none = _per_cent(records, "case study", method, INHIBITING[0])
    return own - none


def _cost(records: Sequence[Json], method: Method) -> Array:
    """Seconds of a step, over plain's of the same round."""
    own, plain = (
        np.array([r["seconds"] for r in of_kind(records, "cost", m.key)])
        for m in (method, METHODS[0])
    )
    return own / plain


def _number(value: float | None) -> float:
    return math.nan if value is None else value


HEADINGS = (
    "Method", "Loss", "phi mean", "phi 99.9 %", "Moved in training", "Moved by the rule",
    "Time", "Constant",
)  # fmt: skip
LEGEND = """\
Loss: validation, nats per character (divide by ln 2 for bits), on the same text as the progress
  bar's and the picture's.
phi: of validation activations behind the middle blocks, against the moments of training ones;
  its mean and its 99.9th percentile.
Moved: change of the flagged activations' distance to their mean by one update, in per cent; below
  0 is towards the mean. In training: by its own updates. By the rule: by one small gradient step
  from one and the same network; the difference to naive (a), which gives no gradient.
Time: of a step, over plain's of the same round; median (95 % interval over rounds).
Constant: neurons without variance, which have no phi.
±: half of the 95 % interval of the mean (Student's t), in training over the updates that were
  measured, by the rule over batches. One network of each, from one seed: none of it is over seeds.
What shows: all verdicts together hold with 95 %, so their intervals are wider than the table's."""


_RULE_CELLS = {"plain": "none", "naive-a": "0"}  # there is no rule; it is what is subtracted


def cells(row: Row) -> list[str]:
    return [
        row.method.name, f"{row.loss:.4f}", _written(row.phi_mean, 3), _written(row.phi_999, 2),
        row.movement.written(2), _RULE_CELLS.get(row.method.key) or row.rule.written(4),
        "1" if row.method is METHODS[0] else row.cost.written(2), str(row.constant_neurons),
    ]  # fmt: skip


def _written(value: float, digits: int) -> str:
    return "n/a" if math.isnan(value) else f"{value:.{digits}f}"


def table(records: Sequence[Json]) -> str:
    """The table in Markdown, its columns aligned to be read as it is."""
    lines = [list(HEADINGS), *(cells(row) for row in rows(records))]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADINGS))]

    def written(line: list[str]) -> str:
        padded = [
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        return "| " + " | ".join(padded) + " |"

    rule = "|" + "|".join("-" * (w + 1) + (":" if i else "-") for i, w in enumerate(widths)) + "|"
    return "\n".join([written(lines[0]), rule, *(written(line) for line in lines[1:])])


# ---- what shows and what does not --------------------------------------------------------------


VERDICTS = 6  # `verdicts` draws two on the rule, one on movement in training, three on time


def verdicts(records: Sequence[Json]) -> list[str]:
    """What this run says about each claim of the paper, in plain words."""
    table = {row.method.key: row for row in rows(records)}
    plain, a, b, memel = METHODS
    pieces = [
        np.array(of_kind(records, "final", m.key)[0]["piece_losses"]) for m in (memel, plain)
    ]
    loss = interval(pieces[0] - pieces[1])
    return [
        "Claim: naive (b) moves flagged activations away from their mean. "
        + _of_the_rule(records, b, above="shows", below="the opposite shows"),
        "Claim: reversing the gradient moves them towards it. "
        + _of_the_rule(records, memel, above="the opposite shows", below="shows"),
        "In training itself, the network's other reasons to move are part of it: "
        + "; ".join(f"{row.method.name} {row.movement.written(2)} %" for row in table.values())
        + ". " + _apart(records, memel, b),
        f"Claim: inhibited networks are less monosemantic. {NOT_RESOLVED.capitalize()}: one "
        "network of each has no interval. The 99.9th percentile of phi is "
        + ", ".join(f"{_written(row.phi_999, 2)} ({row.method.name})" for row in table.values())
        + ".",
        f"Claim: MEmeL learns better. {NOT_RESOLVED.capitalize()}: one network of each, and "
        "another seed may turn it round. On this run's validation text MEmeL's loss minus plain's "
        f"is {loss.written(4)} nats (95 % interval over pieces of text, not over seeds).",
        "Time of a step over plain's, median and its interval: "
        + "; ".join(f"{m.name} {_of_the_cost(records, m)}" for m in (a, b, memel))
        + ". On this machine, as busy as it was.",
    ]  # fmt: skip


def _of_the_rule(records: Sequence[Json], method: Method, *, above: str, below: str) -> str:
    changes = _by_the_rule(records, method)
    if not len(changes):
        return f"{NOT_RESOLVED.capitalize()}: inhibition had not begun."
    word, found = judge(changes, above=above, below=below, among=VERDICTS)
    return (
        f"{word.capitalize()}: {found.written(4)} % compared with naive (a), by one step of the "
        f"same network, over {len(changes)} batches."
    )


def _apart(records: Sequence[Json], memel: Method, b: Method) -> str:
    ours, theirs = _per_cent(records, "movement", memel, b)
    word, found = judge(
        ours, theirs, above="further from their means", below="nearer to their means",
        among=VERDICTS,
    )  # fmt: skip
    return (
        f"MEmeL's end up nearer than naive (b)'s, or further? {word.capitalize()}: "
        f"{found.written(2)} %, over the {len(ours)} updates that were measured."
    )


def _of_the_cost(records: Sequence[Json], method: Method) -> str:
    ratios = _cost(records, method)
    word = judge_median(ratios, 1.0, above="slower", below="faster", among=VERDICTS)
    return f"{median(ratios, among=VERDICTS).written(2)}, {word}"


# ---- the page ----------------------------------------------------------------------------------

STYLE = """
:root { --ink: #1b1b1b; --muted: #6b6b6b; --paper: #ffffff; --line: #d9d9d9; --mark: #f0e442;
        --blue: #0072b2; --green: #009e73; --red: #d55e00; color-scheme: light dark; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e6e3; --muted: #a3a19d; --paper: #16181b; --line: #3a3d42; --mark: #f0e442;
          --blue: #56b4e9; --green: #2fbf95; --red: #ef7d31; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.2rem 1rem 4rem; max-width: 50rem; background: var(--paper);
       color: var(--ink); font: 1rem/1.55 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { font-size: 1.2rem; margin-top: 2.6rem; }
h3 { font-size: 1rem; margin: 1.6rem 0 .3rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .45rem; border-bottom: 1px solid var(--line); text-align: right; }
th { vertical-align: bottom; font-weight: 600; } td { white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
figure { margin: 1rem 0; } figure svg { display: block; width: 100%; height: auto; }
figcaption, .muted { color: var(--muted); font-size: .88rem; }
.neuron { border-top: 1px solid var(--line); padding-top: .4rem; }
.neuron svg { max-width: 26rem; }
ol.snippets { list-style: none; margin: .4rem 0; padding: 0; font: .82rem/1.5 ui-monospace, monospace; }
ol.snippets li { display: flex; gap: .8rem; border-bottom: 1px solid var(--line); }
ol.snippets .phi { flex: 0 0 4.2rem; text-align: right; color: var(--muted); }
ol.snippets code { white-space: pre-wrap; overflow-wrap: anywhere; font: inherit; }
mark { background: var(--mark); color: #000; border-radius: 2px; padding: 0 1px; }
.later { color: var(--muted); }
dt { font-weight: 600; margin-top: .6rem; } dd { margin: 0; }
pre { overflow-x: auto; font-size: .82rem; }
"""  # noqa: E501

# What a picture's colours are called in the style sheet above, so that it follows light and dark.
VARIABLES = {
    "#1b1b1b": "var(--ink)", "#6b6b6b": "var(--muted)", "#d9d9d9": "var(--line)",
    "#0072b2": "var(--blue)", "#009e73": "var(--green)", "#d55e00": "var(--red)",
}  # fmt: skip


def page(records: Sequence[Json], config: Json, pictures: Mapping[str, str]) -> str:
    """The report: one HTML page without scripts that loads nothing. pictures: name to SVG."""
    text, settings = config["text"], config["settings"]
    source = settings["text"] or "Python's own help topics, English with code and markup"
    lines = [
        "<!DOCTYPE html>", '<html lang="en">', "<head>", '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        "<title>Inhibiting monosemantic neurons: four runs</title>",
        f"<style>{STYLE}</style>", "</head>", "<body>",
        "<h1>Inhibiting monosemantic neurons: the same network trained four ways</h1>",
        f"<p>A character-level GPT ({settings['layers']} blocks, {settings['channels']} "
        f"channels) on {html.escape(source)} ({text['characters']:,} characters): "
        f"{settings['steps']} updates each, same seed ({settings['seed']}), same batches. After "
        f"{html.escape(' and '.join(config['inhibited']))}, the activations with the "
        f"{_ordinal(settings['k'])}phi in each piece of text are set to their mean. The methods "
        "differ in the gradient that the layers below get for it: none in naive (a), as if "
        "nothing had happened in naive (b), reversed in MEmeL. Plain leaves all as it is.</p>",
        _html_table(records),
        _paragraphs(LEGEND),
        "<h2>What shows, and what does not</h2>",
        "<ul>", *(f"<li>{html.escape(verdict)}</li>" for verdict in verdicts(records)), "</ul>",
        "<h2>Learning</h2>",
        _figure(pictures["loss"], "Training and validation loss of the four methods",
                "How to read it: above, the loss against the step; lines are training (smoothed), "
                "dots are validation (the last ones are the table's), the dotted line is what "
                "guessing each character by its "
                "frequency would cost. Below, each method minus plain on the same batches: under "
                "zero its loss is lower."),
        "<h2>Where flagged activations move</h2>",
        _figure(pictures["movement"], "Movement of flagged activations by one update",
                "How to read it: left of zero an update brought the flagged activations nearer to "
                "their mean, right of zero further away; bars are 95 % intervals. Above, the "
                "updates of the training, with all that the network wants besides. Below, what the "
                "rule alone does: one small gradient step from the trained plain network by each "
                "of the three rules, compared with naive (a). Plain's flagged activations are "
                "those that MEmeL would have flagged."),
        "<h2>How monosemantic the blocks are</h2>",
        _figure(pictures["phi"], "Histograms of log10 phi behind each block",
                "How to read it: phi is an activation's squared distance from its neuron's mean, "
                "in variances. The dashed line is how phi would be spread if every neuron were "
                "Gaussian: a curve above it on the right has more extreme activations than chance "
                "gives. The vertical axis is logarithmic, since these are rare."),
        "<h2>The most monosemantic neurons</h2>",
        "<p>Neurons of the feed-forward layers, ranked by the 99.9th percentile of phi over "
        "validation characters. For each: where it answers most strongly, and how its activation "
        "is spread (vertical axis logarithmic; ticks under the axis mark the snippets). How to "
        "read it: a neuron that stands for one thing marks the same kind of character again and "
        "again, and is near one value on all others. The network saw the text up to the marked "
        "character; what follows it, it had to guess. The untrained network's are there to "
        "compare: chance and the characters themselves make such neurons too.</p>",
        *_neurons(records, pictures),
        "<h2>How it was measured</h2>",
        _definitions(config),
        "<h2>Settings</h2>",
        "<pre>" + html.escape("\n".join(f"{k} = {v}" for k, v in settings.items())) + "</pre>",
        "<p class=muted>" + html.escape(
            ", ".join(f"{name} {version}" for name, version in config["versions"].items())
        ) + ". All numbers are in metrics.jsonl beside this page.</p>",
        "</body>", "</html>",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def inline(svg: str, label: str) -> str:
    """A Matplotlib SVG to stand in a page: no addresses of standards, colours by name."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, variable)
    return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(label)}"', 1)


def _figure(svg: str, label: str, caption: str) -> str:
    return (
        f"<figure>{inline(svg, label)}<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def _html_table(records: Sequence[Json]) -> str:
    head = "".join(f"<th>{html.escape(heading)}</th>" for heading in HEADINGS)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells(row)) + "</tr>"
        for row in rows(records)
    )
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def _paragraphs(text: str) -> str:
    lines = html.escape(text).replace("\n  ", " ").replace("\n", "<br>")
    return f'<p class="muted">{lines}</p>'


def _neurons(records: Sequence[Json], pictures: Mapping[str, str]) -> list[str]:
    lines = []
    for method in (*METHODS, UNTRAINED):
        found = of_kind(records, "neuron", method.key)
        if found:
            lines.append(f"<h3>{method.name} network</h3>")
        for i, neuron in enumerate(found, start=1):
            name = f"{neuron['tap']}, channel {neuron['channel']}"
            lines += [
                '<div class="neuron">',
                f"<p>{html.escape(name)}: phi reaches {neuron['score']:.0f} "
                "(99.9th percentile).</p>",
                '<ol class="snippets">',
                *(_snippet(snippet) for snippet in neuron["snippets"]),
                "</ol>",
                f"<figure>{inline(pictures[f'neuron-{method.key}-{i}'], name)}</figure>",
                "</div>",
            ]
    return lines


def _snippet(snippet: Json) -> str:
    before, character, after = (
        html.escape(snippet[part].replace("\n", "⏎").replace("\t", "⇥"))
        for part in ("before", "character", "after")
    )
    character = "␣" if character == " " else character
    return (
        f'<li><span class="phi">{snippet["scale"]:.0f}</span>'
        f'<code>{before}<mark>{character}</mark><span class="later">{after}</span></code></li>'
    )


def _ordinal(k: int) -> str:
    return "highest " if k == 1 else f"{k} highest "


def _definitions(config: Json) -> str:
    settings = config["settings"]
    entries = {
        "Loss": "mean of -ln p(next character) over pieces of the last tenth of the "
        "text, which is not trained on, without inhibition.",
        "phi in the table": f"with the finished network, nothing inhibited: the mean and variance "
        f"(ddof 1) of every neuron over {settings['windows']} pieces of training text at most, "
        "then phi = (z - mean)² / variance of every activation on as many pieces of validation "
        "text. A neuron is a (position, channel) pair behind a middle block, as in MEmeL. The mean "
        "and percentile are over all of them; a constant neuron has no phi and is counted.",
        "Moved in training": f"every {settings['measure_every']} updates, once inhibition has "
        "begun: the sum of |z after - mean| over the flagged activations by the sum of "
        "|z before - mean|, minus 1; z is the network's own activation of the same batch before "
        "and after the update, nothing inhibited; mean is what the flagged activation was set "
        "to. Mean and 95 % interval over these updates.",
        "Moved by the rule": "the same quantity after one step of plain gradient descent "
        "from the trained plain network, the same batches for each rule, minus naive (a)'s; mean "
        "and 95 % interval over batches.",
        "Time": "further updates of the four networks in turn, on the same batches: the "
        "median of the ratios to plain, and its 95 % interval over rounds (from the sorted "
        "ratios: they are far from normal).",
        "Verdicts": f"a difference is resolved if its interval does not hold 0. The {VERDICTS} "
        "verdicts hold together with 95 %, so each by a wider interval. Which network learns "
        "better, or is less monosemantic, one seed cannot resolve.",
    }
    listed = "".join(
        f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>"
        for name, text in entries.items()
    )
    return f"<dl>{listed}</dl>"
