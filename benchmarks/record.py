"""What was measured, piece by piece, in one JSON file: each with its date, machine and load."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from minimono import atomic

DIGITS = 5  # that are kept of a number


@dataclass
class Piece:
    """A piece of the benchmark, and what held while it ran."""

    date: str
    machine: dict[str, str]
    found: dict[str, Any]
    warnings: list[str] = field(default_factory=list)  # BLAS that is older than the processor
    left_out: list[str] = field(default_factory=list)
    others: float | None = None  # their share of the machine; None: unknown
    turns: int = 0
    rejected: int = 0  # of the turns, since others were busy


Record = dict[str, Piece]  # by the piece's name


def read(file: Path) -> Record:
    """The record in a file; empty if there is none. Raises ValueError for another file."""
    if not file.exists():
        return {}
    names = {f.name for f in fields(Piece)}
    try:
        pieces = json.loads(file.read_text(encoding="utf-8"))
        if any(names != set(piece) for piece in pieces.values()):
            raise KeyError
    except (ValueError, KeyError, AttributeError, TypeError):
        raise ValueError(f"{file} is no record of this benchmark") from None
    return {name: Piece(**piece) for name, piece in pieces.items()}


def write(file: Path, record: Mapping[str, Piece]) -> None:
    """As a whole or not at all; a line for each list of times."""
    pieces = {name: asdict(piece) for name, piece in record.items()}
    atomic.write_text(file, _json(pieces, "") + "\n")


def _json(value: Any, indent: str) -> str:
    if isinstance(value, dict) and value:
        inner = indent + " "
        lines = [f"{inner}{json.dumps(k)}: {_json(v, inner)}" for k, v in value.items()]
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
    return json.dumps(_rounded(value))


def _rounded(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_rounded(v) for v in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
