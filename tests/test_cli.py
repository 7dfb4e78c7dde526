"""The command: what it refuses and how, Ctrl-C and going on."""

import json
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from minimono import backend, cli
from minimono.experiments.four_ways import METHODS, Json, Settings
from minimono.nn import checkpoint

STEPS = ["--quick", "--steps", "60", "--evaluate-every", "8"]


def metrics(folder: Path) -> list[Json]:
    found = []
    for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        record.pop("seconds", None)
        found.append(record)
    return found


# ---- bad input: one line, exit code 2, nothing written -----------------------------------------


def refused(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    """What the command says on stderr; it must be one line."""
    assert cli.main([str(a) for a in argv]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err
    return captured.err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"", "is empty"),
        (b" \n ", "is empty"),
        (bytes(range(256)), "UTF-8"),
        (b"a" * 2000, "only one distinct character"),
        (b"a few words", "a context of 16 needs at least 17"),
    ],
)
def test_bad_texts(
    content: bytes | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    out = tmp_path / "out"
    error = refused(capsys, "demo", "--quick", "--text", path, "--out", out)
    assert message in error
    assert not out.exists()


def test_a_text_that_is_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert str(tmp_path) in refused(capsys, "demo", "--text", tmp_path, "--out", tmp_path / "out")


def test_bad_settings_name_the_flag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ("--out", tmp_path / "out")
    assert "k is 0" in refused(capsys, "demo", "--k", 0, *out)
    assert "64 channels do not divide into 7" in refused(capsys, "demo", "--heads", 7, *out)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "argv",
    [["demo", "--nonsense", "1"], ["demo", "--step", "3"], ["demo", "--steps", "x"],
     ["demo", "--device", "tpu"], ["nonsense"], []],
)
def test_unknown_flags_and_values_are_errors(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        cli.main(argv)
    assert exit_info.value.code == 2
    assert "error:" in capsys.readouterr().err


@pytest.mark.skipif(backend.is_available(), reason="there is a GPU here")
def test_no_gpu_is_an_error_and_not_a_slow_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = refused(capsys, "demo", "--quick", "--device", "cuda", "--out", tmp_path / "out")
    assert 'device "cuda"' in error
    assert not (tmp_path / "out").exists()


# ---- help and info -----------------------------------------------------------------------------


def test_help_names_every_setting_its_default_and_an_example() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "minimono", "demo", "--help"],
        capture_output=True, text=True, check=True, timeout=60,
    )
    squeezed = " ".join(run.stdout.split())
    for setting in fields(Settings):
        assert "--" + setting.name.replace("_", "-") in squeezed
        if setting.default is not None:
            assert f"(default: {setting.default})" in squeezed
    assert "minimono demo --text war-and-peace.txt" in squeezed


def test_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info"]) == 0
    shown = capsys.readouterr().out
    words = ("minimono", "Python", "numpy", np.__version__, "BLAS", "GPU", "kernels", "threads")
    for word in words:
        assert word in shown


# ---- a run: overrides, what is in the folder, Ctrl-C, going on ---------------------------------


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Also: a folder with somebody's notes in it."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    (folder / "notes.txt").write_text("mine")
    (folder / "report.html").write_text("old")
    assert cli.main(["demo", *STEPS, "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run stopped by a real Ctrl-C in the middle, and what it printed."""
    folder = tmp_path_factory.mktemp("interrupted")
    with subprocess.Popen(
        [sys.executable, "-m", "minimono", "demo", *STEPS, "--out", str(folder)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as run:
        assert run.stdout is not None
        printed = ""
        while "step 8:" not in printed:
            line = run.stdout.readline()
            assert line, f"ended early: {printed}"
            printed += line
        run.send_signal(signal.SIGINT)
        rest, error = run.communicate(timeout=60)
    assert (run.returncode, error) == (130, "")
    return folder, printed + rest


def test_known_files_are_replaced_and_others_left(uninterrupted: Path) -> None:
    assert (uninterrupted / "notes.txt").read_text() == "mine"
    assert (uninterrupted / "report.html").read_text() != "old"
    networks = checkpoint.load(uninterrupted / "run.npz")  # the trained ones are kept
    assert networks.step == 60
    assert {name.partition(".")[0] for name in networks.model} == {m.key for m in METHODS}


def test_ctrl_c_says_how_to_go_on(interrupted: tuple[Path, str]) -> None:
    folder, printed = interrupted
    assert f"minimono demo --resume {folder}" in printed
    assert "Stopped after step" in printed
    assert "steps = 60   (default: 180)" in printed  # overrides are shown
    last = max(r["step"] for r in metrics(folder))
    assert 8 <= last < 60
    assert f"Stopped after step {last} of 60. To go on:" in printed
    assert checkpoint.load(folder / "run.npz").step == last
    assert {path.name for path in folder.iterdir()} == {"config.json", "metrics.jsonl", "run.npz"}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--k", "2", "--seed", "5"], "k was 1 and is 2; seed was 0 and is 5"),
        (["--steps", "61"], "steps was 60 and is 61"),
        (["--out", "elsewhere"], "--out elsewhere cannot be given too"),
    ],
)
def test_resume_refuses_other_settings(
    interrupted: tuple[Path, str], changed: list[str], message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = (interrupted[0] / "metrics.jsonl").read_bytes()
    assert message in refused(capsys, "demo", "--resume", interrupted[0], *changed)
    assert (interrupted[0] / "metrics.jsonl").read_bytes() == before


def test_resume_refuses_another_text(
    interrupted: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.txt").write_text("Quite another text than before. " * 40)
    error = refused(capsys, "demo", "--resume", interrupted[0], "--text", tmp_path / "text.txt")
    assert "text's sha256 was" in error


def test_nothing_to_resume(
    uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in (tmp_path, uninterrupted, tmp_path / "nowhere"):
        assert "no interrupted run" in refused(capsys, "demo", "--resume", folder)


def copied(folder: Path, to: Path) -> Path:
    for path in folder.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    return to


def test_a_damaged_state_is_one_line_and_changes_nothing(
    interrupted: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copied(interrupted[0], tmp_path)
    whole = (tmp_path / "run.npz").read_bytes()
    before = (tmp_path / "metrics.jsonl").read_bytes()
    (tmp_path / "run.npz").write_bytes(whole[: len(whole) // 2])
    assert "run.npz" in refused(capsys, "demo", "--resume", tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_an_interrupted_run_ends_in_the_same_numbers(
    interrupted: tuple[Path, str], uninterrupted: Path, tmp_path: Path
) -> None:
    """On a copy, so that the tests above can run in any order."""
    copied(interrupted[0], tmp_path)
    (tmp_path / "config.json").write_text("{")  # for people: nothing is read from it
    assert cli.main(["demo", "--resume", str(tmp_path)]) == 0
    assert metrics(tmp_path) == metrics(uninterrupted)
    for name in ("loss.svg", "movement.svg", "phi.svg"):
        assert (tmp_path / name).read_bytes() == (uninterrupted / name).read_bytes()
    ours, theirs = (checkpoint.load(f / "run.npz") for f in (tmp_path, uninterrupted))
    assert {n: a.tobytes() for n, a in ours.model.items()} == {
        n: a.tobytes() for n, a in theirs.model.items()
    }
