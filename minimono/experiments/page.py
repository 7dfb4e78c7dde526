"""The demo's report as one HTML page, without scripts, that loads nothing.

`page.html` has the words and the style; here they get the run's numbers and pictures.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from string import Template

from minimono.experiments import four_ways_report as report
from minimono.experiments import tables
from minimono.experiments.four_ways import METHODS, UNTRAINED, Json

LABELS = {  # for those who cannot see the pictures
    "loss": "Training and validation loss of the four methods",
    "movement": "Movement of flagged activations by one update",
    "phi": "Histograms of log10 phi behind each block",
}
# What a picture's colours are called in the style sheet, so that it follows light and dark.
VARIABLES = {
    "#1b1b1b": "var(--ink)", "#6b6b6b": "var(--muted)", "#d9d9d9": "var(--line)",
    "#0072b2": "var(--blue)", "#009e73": "var(--green)", "#d55e00": "var(--red)",
}


def page(records: Sequence[Json], config: Json, pictures: Mapping[str, str]) -> str:
    """Write the report; `pictures` are SVGs by name."""
    settings = config["settings"]
    texts = {
        **settings,
        "source": settings["text"] or "Python's own help topics, English with code and markup",
        "characters": f"{config['text']['characters']:,}",
        "inhibited": " and ".join(config["inhibited"]),
        "k_": "" if settings["k"] == 1 else f"{settings['k']} ",
        "count": report.VERDICTS,
        "settings": "\n".join(f"{name} = {value}" for name, value in settings.items()),
        "versions": ", ".join(f"{name} {version}" for name, version in config["versions"].items()),
    }
    legend = html.escape(report.LEGEND).replace("\n  ", " ").replace("\n", "<br>")
    parts = {name: inline(pictures[name], label) for name, label in LABELS.items()} | {
        "table": tables.as_html(report.HEADINGS, map(report.cells, report.rows(records))),
        "legend": legend,
        "verdicts": "\n".join(f"<li>{html.escape(v)}</li>" for v in report.verdicts(records)),
        "neurons": "\n".join(_neurons(records, pictures)),
    }
    template = files("minimono.experiments").joinpath("page.html").read_text(encoding="utf-8")
    escaped = {name: html.escape(str(text)) for name, text in texts.items()}
    return Template(template).substitute(escaped | parts)


def inline(svg: str, label: str) -> str:
    """Make a Matplotlib SVG part of a page: no addresses of standards, colours by name."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, variable)
    return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(label)}"', 1)


def _neurons(records: Sequence[Json], pictures: Mapping[str, str]) -> Iterable[str]:
    for method in (*METHODS, UNTRAINED):
        found = report.of_kind(records, "neuron", method.key)
        if found:
            yield f"<h3>{method.name} network</h3>"
        for i, neuron in enumerate(found, start=1):
            name = f"{neuron['tap']}, channel {neuron['channel']}"
            yield f"""<div class="neuron">
<p>{html.escape(name)}: phi reaches {neuron['score']:.0f} (99.9th percentile).</p>
<ol class="snippets">
{chr(10).join(map(_snippet, neuron["snippets"]))}
</ol>
<figure>{inline(pictures[f'neuron-{method.key}-{i}'], name)}</figure>
</div>"""


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
