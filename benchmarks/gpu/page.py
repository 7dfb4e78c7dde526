"""What was seen on a device, as a part of docs/gpu.md: made from the record, and from it alone."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.lines import COPY, MINIMONO, PYTORCH

BEGIN, END = "<!-- what was seen: begin -->\n", "<!-- what was seen: end -->\n"

NOTHING = """\
**Nothing has run on a GPU yet**: no figure in these pages comes from one. Whether the kernels are
right on a device, and how fast, is not known.
"""

Record = dict[str, Any]


def write(file: Path, page: Path) -> int:
    """Put what a record says between the page's marks; returns an exit code."""
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        text = section(record)
        before, rest = page.read_text(encoding="utf-8").split(BEGIN)
        page.write_text(before + BEGIN + text + END + rest.split(END)[1], encoding="utf-8")
    except (OSError, ValueError, KeyError) as error:
        print(f"benchmarks.gpu: {file}: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    return 0


def section(record: Record | None) -> str:
    """The part of the page; without a record, that there is none. Raises ValueError for a trial."""
    if record is None:
        return NOTHING
    if record["stand_in"]:
        raise ValueError("a trial on the stand-in says nothing of a GPU")
    parts = [f"What was seen on {record['date']}, by `make gpu`:\n", _machine(record["machine"])]
    if record["suite"]:
        parts.append(_suite(record["suite"]))
    training = {n: line for n, line in record["lines"].items() if n.startswith("GPT")}
    for name, line in record["lines"].items():
        if name not in training:
            parts.append(f"### {name}\n\n" + _line(line))
        elif line is next(iter(training.values())):
            parts.append("### GPT, training\n\n" + _training(training))
    return "\n".join(parts)


def _machine(machine: dict[str, str]) -> str:
    return _table(("what", "which"), machine.items())


def _suite(suite: Record) -> str:
    tests = suite["tests"]
    count = Counter(test["outcome"] for test in tests.values())
    said = ", ".join(f"{count[o]} {o}" for o in ("passed", "failed", "skipped"))
    missing = max(0, suite.get("collected", 0) - len(tests))
    lines = [f"Tests marked `gpu`: {said}; {missing} not run. {_ended(suite)}\n"]
    for name, test in tests.items():
        if test["outcome"] == "failed":
            why = (test["why"].strip().splitlines() or [""])[-1]
            lines.append(f"* `{name}`: {why.strip()}")
    return "\n".join(lines) + "\n"


def _ended(part: Record) -> str:
    return f"It was cut short ({part['ended']})." if part["ended"] else ""


def _line(line: Record) -> str:
    rows = line["rows"]
    names = list(dict.fromkeys(name for row in rows for name in row.get("values", {})))
    copy = next((r["values"].get(MINIMONO) for r in rows if r["what"] == COPY), None)
    compared = {MINIMONO, PYTORCH} <= set(names)
    head = ["what", *names]
    head += ([f"/ {PYTORCH}"] if compared else []) + ([f"/ {COPY}"] if copy else [])
    body, failed = [], []
    for row in rows:
        values = row.get("values", {})
        cells = [row["what"], *(_number(values.get(name), row["unit"]) for name in names)]
        if compared:
            both = MINIMONO in values and PYTORCH in values
            cells.append(f"{values[MINIMONO] / values[PYTORCH]:.2f}" if both else "")
        if copy:
            cells.append("".join(f"{v / copy:.0%}" for v in list(values.values())[:1]))
        if values:
            body.append(cells)
        told = {"": row["error"]} if "error" in row else row.get("errors", {})
        failed += [f"* {row['what']}, {name}: {error}" for name, error in told.items()]
    text = _table(head, body) if body else "Nothing was measured.\n"
    return text + "\n".join(["", *failed, _ended(line)]).rstrip() + "\n"


def _training(lines: dict[str, Record]) -> str:
    """A row for each line, a column for each thing that was measured."""
    found = {name.removeprefix("GPT, "): {
        row["what"]: _number(next(iter(row["values"].values()), None), row["unit"])
        for row in line["rows"] if row.get("values")
    } for name, line in lines.items()}
    lines = {name.removeprefix("GPT, "): line for name, line in lines.items()}
    heads = list(dict.fromkeys(what for row in found.values() for what in row))
    body = [[name, *(row.get(what, "") for what in heads)] for name, row in found.items()]
    short = [f"* {name}: {_ended(line)}" for name, line in lines.items() if line["ended"]]
    errors = [f"* {name}: {row['error']}" for name, line in lines.items()
              for row in line["rows"] if "error" in row]
    return _table(["", *heads], body) + "\n".join(["", *short, *errors]).rstrip() + "\n"


def _number(value: float | None, unit: str) -> str:
    """1.5e12 bytes/s as 1.5 TB/s, 2e-3 s as 2 ms."""
    if value is None:
        return ""
    if unit == "s":
        size, name = (1e3, "ms") if value >= 1e-4 else (1e6, "µs")
        return f"{value * size:.3g} {name}"
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size and unit not in ("", "roundings"):
            return f"{value / size:.3g} {letter}{unit.replace('bytes', 'B')}".replace("1/s", "/s")
    return f"{value:.5g} {unit}".rstrip() if unit != "roundings" else f"{value:.1f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(c.replace("|", "/") for c in line) + " |\n" for line in lines)
