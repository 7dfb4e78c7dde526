"""How a table is written: in Markdown that can be read as it is, in HTML, or on the console."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

Cells = Sequence[str]


def markdown(head: Cells, lines: Iterable[Cells]) -> str:
    """Write a table whose columns are aligned: the first to the left, the others to the right.

    >>> print(markdown(["way", "loss"], [["plain", "2.5"], ["MEmeL", "2.25"]]))
    | way   | loss |
    |-------|-----:|
    | plain |  2.5 |
    | MEmeL | 2.25 |
    """
    rows = [head, *lines]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def written(row: Cells) -> str:
        cells = [row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]
        return "| " + " | ".join(cells) + " |"

    rule = "|".join("-" * (w + 1) + (":" if i else "-") for i, w in enumerate(widths))
    return "\n".join([written(head), f"|{rule}|", *map(written, rows[1:])])


def as_html(head: Cells, lines: Iterable[Cells]) -> str:
    """Write the same cells as HTML, in a box that scrolls if the table is wider than its page."""

    def row(tag: str, cells: Cells) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"

    body = row("th", head) + "".join(row("td", line) for line in lines)
    return f'<div class="scroll"><table>{body}</table></div>'


def console(name: str, cells: Iterable[object], *, name_width: int, width: int) -> str:
    """Write one line of a table: a name on the left, then cells in columns of one width.

    >>> console("plain", ["2.5", 3], name_width=8, width=5)
    'plain     2.5    3'
    """
    return f"{name:{name_width}}" + "".join(f"{cell!s:>{width}}" for cell in cells)
