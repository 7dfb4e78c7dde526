"""`minimono oracle ...`."""

import json
import shlex
import sys
from pathlib import Path

import pytest

from minimono import oracle
from minimono.cli import main

SKIPS = """
import json, sys
for line in sys.stdin:
    case = json.loads(line)
    print(json.dumps({"id": case["id"], "skip": "not yet"}), flush=True)
"""
# Knows the result of one case by heart.
ONE = """
import json, sys
for line in sys.stdin:
    case = json.loads(line)
    if case["id"] == "scale/given/9":
        reply = {"result": [[[1.0, 0.5, 4.0], [0.0, 2.0, 0.25]]]}
    else:
        reply = {"skip": "not yet"}
    print(json.dumps({"id": case["id"], **reply}), flush=True)
"""
NOTHING = "nothing was checked, so nothing is known of the implementation"


def python(file: Path, program: str) -> str:
    file.write_text(program)
    return shlex.join([sys.executable, "-I", "-S", str(file)])


def test_check_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = python(tmp_path / "one.py", ONE)
    assert main(["oracle", "check", "--program", program, "--suite", "scale"]) == 0
    out = capsys.readouterr().out
    assert "skipped by the program: not yet" in out
    assert out.endswith("\n1 passed, 0 failed, 31 skipped\n")
    assert NOTHING not in out


def test_a_program_that_skips_everything_has_not_passed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program, file = python(tmp_path / "skips.py", SKIPS), tmp_path / "report.json"
    arguments = ["--suite", "scale", "--json", str(file)]
    assert main(["oracle", "check", "--program", program, *arguments]) == 1
    out = capsys.readouterr().out
    assert out.endswith(f"\nnote: {NOTHING}\n0 passed, 0 failed, 32 skipped\n")
    content = json.loads(file.read_text(encoding="utf-8"))
    assert list(content) == ["passed", "failures", "skipped", "notes"]
    assert len(content["skipped"]) == 32
    assert content["notes"] == [NOTHING]


def test_check_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = shlex.join([sys.executable, "-I", "-S", "-c", "raise SystemExit('no licence')"])
    file = tmp_path / "report.json"
    arguments = ["--suite", "scale", "--suite", "selection", "--json", str(file)]
    assert main(["oracle", "check", "--program", program, *arguments]) == 1
    out = capsys.readouterr().out
    assert "scale/given/1: ended without a reply (exit code 1)\n    stderr: no licence" in out
    failures = json.loads(file.read_text(encoding="utf-8"))["failures"]
    assert failures[0]["case"] == "scale/given/1"
    assert {f["case"].split("/")[0] for f in failures} == {"scale", "selection"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "--program", "./nothing", "--suite", "scale"], "cannot start ./nothing"),
        (["check", "--program", "true", "--suite", "scal"], "no suite is named 'scal'; there are"),
        (["check", "--program", "true", "--suite", "scale", "--timeout", "-1"], "timeout is -1.0"),
        (["check", "--program", "true", "--suite", "scale", "--folder", "/no"], "not a folder of"),
        (["describe", "scal"], "no suite is named 'scal'; there are moments, scale"),
    ],
)
def test_bad_input(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["oracle", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [[], ["check"], ["chek"], ["check", "--program", "true", "--dtype", "float16"], ["dump"]],
    ids=str,
)
def test_bad_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["oracle", *arguments])
    assert stopped.value.code == 2
    assert "usage: minimono oracle" in capsys.readouterr().err


def test_describe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["oracle", "describe", "scale"]) == 0
    assert capsys.readouterr().out == oracle.describe("scale")


def test_describe_lists_the_suites(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["oracle", "describe"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[: len(oracle.SUITES)]] == list(oracle.SUITES)


def test_dump(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["oracle", "dump", str(tmp_path / "vectors")]) == 0
    count = len(list((tmp_path / "vectors").iterdir()))
    assert capsys.readouterr().out == f"{count} files in {tmp_path / 'vectors'}\n"
    (tmp_path / "vectors/scale.json").write_text("mine")
    assert main(["oracle", "dump", str(tmp_path / "vectors")]) == 2
    assert "is there and differs" in capsys.readouterr().err
