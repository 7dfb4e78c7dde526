"""`python -m benchmarks.gpu` where there is no GPU: every line, and what becomes of failures."""

import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import lines, operations, page, run, suite
from benchmarks.gpu.__main__ import main
from benchmarks.gpu.children import watched
from benchmarks.gpu.sizes import TINY
from benchmarks.gpu.timing import beside

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("with_torch", [False, pytest.param(True, marks=pytest.mark.parity)])
@pytest.mark.parametrize(
    "function", sorted({(line.file, line.function) for line in run.LINES}), ids="-".join
)
def test_every_line_gives_numbers(
    function: tuple[str, str], with_torch: bool, cuda: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, name = function
    work = getattr({"lines": lines, "operations": operations}[file], name)
    if with_torch:
        torch = pytest.importorskip("torch")
        monkeypatch.setattr(torch, "compile", lambda f: f)  # it takes a minute
    else:
        for module in (lines, operations):
            monkeypatch.setattr(module, "torch_there", lambda: (None, ""))
        if name in ("gpt_in_torch", "gpt_compiled"):
            with pytest.raises(ModuleNotFoundError, match="PyTorch is not installed"):
                list(work(TINY))
            return
    rows = list(work(TINY))
    assert len(rows) >= 3
    for row in rows:
        assert row["values"], row
        assert not row["errors"], row
        assert all(isinstance(value, float) and value >= 0.0 for value in row["values"].values())
    assert len({(row["what"], *row["values"]) for row in rows}) == len(rows)
    json.dumps(rows, allow_nan=False)


@pytest.mark.parity
def test_all_train_the_same_network(cuda: str) -> None:
    ours, theirs = (
        [next(iter(row["values"].values())) for row in work(TINY) if row["what"].startswith("loss")]
        for work in (lines.gpt, lines.gpt_in_torch)
    )
    assert ours == pytest.approx(theirs, rel=1e-5)


def test_who_fails_leaves_the_others_their_numbers() -> None:
    def fail() -> float:
        raise RuntimeError("out of memory\nwith a long story")

    (row,) = beside("what", "s", {"one": fail, "other": lambda: 2.0})
    assert row["values"] == {"other": 2.0}
    assert row["errors"] == {"one": "RuntimeError: out of memory"}


# ---- processes -----------------------------------------------------------------------------------

SPEAKS = "import json, sys, time, os\nsay = lambda n: print(json.dumps({'n': n}), flush=True)\n"


@pytest.mark.parametrize(
    ("script", "heard", "ended"),
    [
        ("say(1); say(2)", [1, 2], ""),
        ("say(1); sys.exit(3)", [1], "ended with code 3"),
        ("say(1); time.sleep(60)", [1], "stopped: silent for 0.8 s"),
        ("while True: say(1); time.sleep(0.1)", None, "stopped: over 1 s"),
        ("say(1); os.kill(os.getpid(), 9)", [1], "ended with code -9"),
    ],
)
def test_processes_are_watched(script: str, heard: list[int] | None, ended: str) -> None:
    events: list[Any] = []
    with open(os.devnull, "w") as log:
        found = watched(
            [sys.executable, "-c", SPEAKS + script], events.append, seconds=1.3, silence=0.8,
            log=log,
        )
    assert found == ended
    assert heard is None or [event["n"] for event in events] == heard


def test_what_a_process_started_is_ended_with_it(tmp_path: Path) -> None:
    late = tmp_path / "late"
    script = (
        "import subprocess; subprocess.Popen([sys.executable, '-c', "
        f"'import time; time.sleep(1); open({str(late)!r}, \"w\")']); say(1); time.sleep(60)"
    )
    with open(os.devnull, "w") as log:
        watched(
            [sys.executable, "-c", SPEAKS + script], lambda _: None, seconds=60, silence=0.5,
            log=log,
        )
    time.sleep(1.2)
    assert not late.exists()


TESTS = """
import os, time
import pytest
from hypothesis_that_is_not_there import given, settings, strategies as st
from hypothesis_that_is_not_there.extra.numpy import arrays

pytestmark = pytest.mark.gpu

@st.composite
def numbers(draw): return draw(st.integers() | st.floats())

@settings(max_examples=3)
@given(numbers())
def test_a_property(x): assert 0

def test_passes(): print("{", flush=True)
def test_fails(): assert 1 == 2
def test_hangs(): time.sleep(60)
def test_breaks(): os._exit(9)
def test_warns():
    import warnings
    warnings.warn("old", DeprecationWarning)
def test_comes_last(): pass
"""
CHILD = """
import sys
from benchmarks.gpu import suite
suite.EXTRAS = ("hypothesis_that_is_not_there",)
sys.exit(suite.main(sys.argv[1]))
"""


def test_a_test_that_hangs_or_breaks_leaves_the_others(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(TESTS)
    record: dict[str, Any] = {}
    until = time.monotonic() + 60.0
    with (tmp_path / "log").open("w") as log:
        suite.run(
            [str(tmp_path / "test_some.py")], record, lambda: None, log,
            lambda: until - time.monotonic(), command=[sys.executable, "-c", CHILD],
            silence=4.0, workers=2,
        )
    found = {name.partition("::")[2]: test for name, test in record["tests"].items()}
    assert {name: test["outcome"] for name, test in found.items()} == {
        "test_a_property": "skipped", "test_passes": "passed", "test_fails": "failed",
        "test_hangs": "failed", "test_breaks": "failed", "test_warns": "passed",
        "test_comes_last": "passed",
    }
    assert "1 == 2" in found["test_fails"]["why"]
    assert found["test_hangs"]["why"] == "stopped: silent for 4 s"
    assert found["test_breaks"]["why"] == "ended with code 9"
    assert "is not installed" in found["test_a_property"]["why"]
    assert record["collected"] == 7
    assert record["ended"] == ""
    assert record["warnings"] == {"DeprecationWarning: old": 1}


def test_files_with_tests_for_a_gpu_are_found() -> None:
    names = [Path(file).name for file in suite.files()]
    assert names[0].startswith("test_gpu_")
    assert {"test_gpu_waits.py", "test_golden.py", "test_devices.py"} <= set(names)


# ---- the record and the page ---------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("g++") is None, reason="the emulator needs g++")
def test_a_run_is_on_disk_line_by_line(tmp_path: Path) -> None:
    file = run.run(tmp_path, stand_in=True, minutes=5.0, only=["limits"])
    record = json.loads(file.read_text())
    (line,) = record["lines"].values()
    assert line["ended"] == ""
    assert [row["unit"] for row in line["rows"]] == ["bytes/s", "FLOP/s", "s"]
    assert "== limits" in (tmp_path / run.LOG).read_text()


def test_without_time_nothing_is_begun(tmp_path: Path) -> None:
    record = json.loads(run.run(tmp_path, stand_in=True, minutes=0.0).read_text())
    assert record["suite"]["ended"] == "no time was left"
    assert {name: line["ended"] for name, line in record["lines"].items()} == {
        line.name: "no time was left" for line in run.LINES
    }


def test_what_is_most_wanted_always_finds_time() -> None:
    """Tests, limits, metrics, training. The others find it because none takes all of its own."""
    assert len({line.name for line in run.LINES}) == len(run.LINES)
    first = run.SECONDS_OF_TESTS + sum(line.seconds for line in run.LINES[:6])
    assert first <= 60.0 * run.MINUTES <= 8 * 60.0


RECORD: dict[str, Any] = {
    "date": "2030-01-02", "stand_in": False, "machine": {"GPU": "a | b"},
    "suite": {
        "tests": {
            "a.py::test_one": {"outcome": "passed", "seconds": 1.0},
            "a.py::test_two": {"outcome": "failed", "why": "long\nE  assert 1 == 2", "seconds": 1},
        },
        "ended": "", "collected": 3,
    },
    "lines": {
        "scoring": {"ended": "", "rows": [
            {"what": "a copy", "unit": "bytes/s", "values": {"minimono": 4e12}, "errors": {}},
            {"what": "phi", "unit": "bytes/s", "values": {"minimono": 3e12}, "errors": {}},
        ]},
        "GPT, minimono": {"ended": "", "rows": [
            {"what": "a step", "unit": "s", "values": {"minimono": 0.25}, "errors": {}},
            {"what": "tokens", "unit": "1/s", "values": {"minimono": 32_768.0}, "errors": {}},
        ]},
        "GPT, torch.compile": {"ended": "stopped: over 100 s", "rows": []},
        "operations": {"ended": "ended with code 1", "rows": [
            {"what": "relu", "unit": "s", "values": {"minimono": 3e-3, "PyTorch eager": 2e-3},
             "errors": {}},
            {"what": "conv2d", "unit": "s", "values": {"PyTorch eager": 2e-5},
             "errors": {"minimono": "CUDA: no"}},
        ]},
    },
}


@pytest.mark.parametrize("part", [
    "on 2030-01-02", "| GPU | a / b |", "1 passed, 1 failed, 0 skipped; 1 not run",
    "* `a.py::test_two`: E  assert 1 == 2", "| phi | 3 TB/s | 75% |",
    "| minimono | 250 ms | 32.8 k/s |", "* torch.compile: It was cut short (stopped: over 100 s).",
    "| relu | 3 ms | 2 ms | 1.50 |", "| conv2d |  | 20 µs |  |", "* conv2d, minimono: CUDA: no",
])
def test_the_page_says_what_the_record_says(part: str) -> None:
    assert part in page.section(RECORD)


def test_the_page_is_written_between_its_marks(tmp_path: Path) -> None:
    file, target = tmp_path / "gpu.json", tmp_path / "gpu.md"
    file.write_text(json.dumps(RECORD))
    target.write_text(f"before\n{page.BEGIN}old\n{page.END}after\n")
    assert page.write(file, target) == 0
    text = target.read_text()
    assert text.startswith(f"before\n{page.BEGIN}What was seen on 2030")
    assert text.endswith(f"{page.END}after\n")
    assert "old\n" not in text


def test_a_trial_does_not_come_onto_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, target = tmp_path / "gpu.json", tmp_path / "gpu.md"
    file.write_text(json.dumps(RECORD | {"stand_in": True}))
    target.write_text("left alone")
    assert page.write(file, target) == 2
    assert "stand-in says nothing of a GPU" in capsys.readouterr().err
    assert target.read_text() == "left alone"


def test_the_page_says_that_nothing_was_seen() -> None:
    assert page.BEGIN + page.section(None) + page.END in (ROOT / "docs/gpu.md").read_text("utf-8")


def test_without_a_gpu_it_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("minimono.backend.is_available", lambda: False)
    assert main([]) == 2
    assert "CuPy finds no GPU" in capsys.readouterr().err
    assert main(["--only", "tests", "nonsense"]) == 2
    assert "no line is called ['nonsense']" in capsys.readouterr().err
