"""All of it, one after the other, as one record that is on disk after every answer."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import minimono
from benchmarks.gpu import suite
from benchmarks.gpu.children import Event, watched
from benchmarks.gpu.lines import TF32
from minimono import atomic

JSON, LOG = "gpu.json", "gpu.log"
MINUTES = 7.7  # after which nothing more is begun, and what runs is stopped


@dataclass(frozen=True)
class Line:
    """What one process measures, `function` of `benchmarks.gpu.file`, and its most seconds."""

    name: str
    file: str
    function: str
    seconds: float
    tf32: bool = False


# Most important first: what comes last may find no time left.
LINES = (
    Line("limits", "lines", "limits", 60),
    Line("scoring", "lines", "scoring", 60),
    Line("GPT, minimono", "lines", "gpt", 60),
    Line("GPT, PyTorch eager", "lines", "gpt_in_torch", 40),
    Line("GPT, minimono, TF32", "lines", "gpt", 60, tf32=True),
    Line("GPT, PyTorch eager, TF32", "lines", "gpt_in_torch", 40, tf32=True),
    Line("attention", "operations", "attention", 60),
    Line("operations", "operations", "operations", 75),
    Line("tolerance", "operations", "tolerance", 60),
    Line("limits, TF32", "lines", "limits", 30, tf32=True),
    Line("GPT, torch.compile, TF32", "lines", "gpt_compiled", 100, tf32=True),
    Line("GPT, torch.compile", "lines", "gpt_compiled", 100),
)
TESTS = "tests"
SECONDS_OF_TESTS = 140.0


def run(folder: Path, *, stand_in: bool, minutes: float, only: Sequence[str] = ()) -> Path:
    """Run the tests and the lines; returns the record's file, which is complete at any moment."""
    folder.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + 60.0 * minutes
    record: dict[str, Any] = {
        "date": str(datetime.date.today()), "stand_in": stand_in, "machine": _machine(),
        "suite": {}, "lines": {},
    }
    file = folder / JSON
    written = partial(_write, record, file)
    me = [sys.executable, "-m", "benchmarks.gpu", "--out", str(folder)]
    me += ["--stand-in"] if stand_in else []
    with (folder / LOG).open("a", encoding="utf-8", buffering=1) as log:
        if not only or TESTS in only:
            began = _say(log, TESTS)
            tests_until = min(until, began + SECONDS_OF_TESTS)
            suite.run(
                suite.files(stand_in), record["suite"], written, log,
                lambda: tests_until - time.monotonic(), command=[*me, "--suite"],
                workers=max(1, min(6, (os.cpu_count() or 1) // 2)),
            )
            record["suite"]["seconds"] = time.monotonic() - began
        for line in LINES:
            if not only or line.name in only:
                began = _say(log, line.name)
                rows: list[Event] = []
                found: dict[str, Any] = {"rows": rows, "ended": "no time was left"}
                record["lines"][line.name] = found
                left = min(line.seconds, until - began)
                if left > 0:
                    found["ended"] = watched(
                        [*me, "--line", line.name], partial(_hear, rows, written),
                        seconds=left, log=log, environment={TF32: str(int(line.tf32))},
                    )
                found["seconds"] = time.monotonic() - began
                written()
    written()
    return file


def _hear(rows: list[Event], written: partial[None], event: Event) -> None:
    rows.append(event)
    written()


def _say(log: IO[str], what: str) -> float:
    for stream in (log, sys.stderr):
        print(f"== {what}, {datetime.datetime.now():%H:%M:%S}", file=stream, flush=True)
    return time.monotonic()


def _write(record: dict[str, Any], file: Path) -> None:
    """At once or not at all: a run that is killed leaves the last record whole."""
    atomic.write_text(file, json.dumps(record, indent=1))


def _machine() -> dict[str, str]:
    found = {
        "Python": platform.python_version(), "system": platform.platform(),
        "minimono": minimono.__version__, "cores": str(os.cpu_count()),
    }
    for name in ("numpy", "numba", "cupy-cuda13x", "cupy-cuda12x", "torch", "triton", "pytest"):
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    with suppress(OSError, subprocess.SubprocessError):
        asked = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,clocks.max.sm",
                 "--format=csv,noheader"]
        said = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=True)
        found["GPU"] = said.stdout.strip()
    return found
