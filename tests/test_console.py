"""The command at the far end of a pipe, on odd terminals, with streams that are closed."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minimono import cli, console

ROOT = Path(__file__).resolve().parents[1]
QUICK = ("--quick --steps 12 --batch 2 --context 4 --channels 4 --heads 1 --layers 1 --windows 2 "
         "--evaluate-every 4").split()
# The command, but for the pictures and libraries, which take long and print nothing.
DEMO = """
import sys, types
from minimono import console
console.prepare()
import minimono
from minimono import cli, experiments
from minimono.experiments import four_ways, page
page.page = lambda records, config, pictures: "page"
experiments.four_ways_pictures = types.SimpleNamespace(draw_all=lambda *what: {})
cli.required = lambda *what, **more: None
cli._versions = lambda: {}
four_ways.CASE_STUDY_BATCHES, four_ways.COST_ROUNDS = 2, 6
four_ways.Experiment.compile_kernels = lambda self: None
with minimono.reference():
    sys.exit(cli.main(["demo", *sys.argv[1:]]))
"""
needs_unix = pytest.mark.skipif(sys.platform == "win32", reason="pipes and terminals of Unix")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("A text to learn, and not a long one. " * 30)
    return path


def command(text: Path, out: Path) -> list[str]:
    return [sys.executable, "-c", DEMO, *QUICK, "--text", str(text), "--out", str(out)]


def test_a_stdout_that_cannot_encode_the_table(text: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    run = subprocess.run(
        command(text, tmp_path / "run"), env=environment, capture_output=True, timeout=60
    )
    assert (run.returncode, run.stderr) == (0, b"")
    assert b" +- " in run.stdout
    assert "±" in (tmp_path / "run" / "table.md").read_text(encoding="utf-8")


def test_what_has_no_plainer_form_is_escaped() -> None:
    console.prepare()
    assert "2 ± 1 größer".encode("ascii", console.PLAINER) == b"2 +- 1 gr\\xf6\\xdfer"


@needs_unix
@pytest.mark.parametrize("closed", ["2>&-", "<&- >&- 2>&-"])
def test_streams_that_were_closed_before_it_began(
    closed: str, text: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shell = ["sh", "-c", f'"$@" {closed}', "sh", *command(text, folder)]
    run = subprocess.run(shell, capture_output=True, timeout=60)
    assert (run.returncode, run.stderr) == (0, b"")
    assert (folder / "report.html").exists()
    lines = (folder / "metrics.jsonl").read_text().splitlines()  # and nothing else came into it
    assert all(line.startswith("{") for line in lines)


@needs_unix
def test_an_error_with_a_closed_stderr_does_not_go_elsewhere(tmp_path: Path) -> None:
    shell = ["sh", "-c", '"$@" 2>&-', "sh", sys.executable, "-m", "minimono", "demo", "--k", "0"]
    run = subprocess.run(shell, capture_output=True, timeout=60, cwd=tmp_path)
    assert (run.returncode, run.stdout) == (2, b"")


@needs_unix
def test_a_reader_that_goes_away_ends_nothing(text: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shell = ["sh", "-c", '{ "$@"; echo $? > status; } | head -1', "sh", *command(text, folder)]
    run = subprocess.run(shell, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert run.stdout.count("\n") == 1
    assert run.stderr == ""
    assert (tmp_path / "status").read_text() == "0\n"
    assert (folder / "report.html").exists()


@needs_unix
@pytest.mark.parametrize("argv", [["--help"], ["info"]])
def test_short_commands_into_head_end_quietly(argv: list[str], tmp_path: Path) -> None:
    minimono = ["sh", "-c", '{ "$@"; echo $? > status; } | true', "sh", sys.executable, "-m",
                "minimono"]
    run = subprocess.run([*minimono, *argv], capture_output=True, text=True, timeout=60,
                         cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert run.stderr == ""
    assert (tmp_path / "status").read_text() == "0\n"


@needs_unix
def test_other_errors_of_a_stream_are_told(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    shell = ["sh", "-c", '"$@" > /dev/full', "sh", sys.executable, "-m", "minimono", "info"]
    run = subprocess.run(shell, capture_output=True, text=True, timeout=60)
    assert run.returncode != 0
    assert "No space left on device" in run.stderr


# ---- terminals ---------------------------------------------------------------------------------


def on_a_terminal(columns: int, argv: list[str]) -> tuple[int, str]:
    """Run on a terminal of this width; return status and what it showed."""
    import fcntl
    import pty
    import struct
    import termios

    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "CI")}
    with subprocess.Popen(argv, stdin=child, stdout=child, stderr=child, env=environment) as run:
        os.close(child)
        shown = b""
        while True:
            try:
                part = os.read(parent, 65536)
            except OSError:  # Linux says so at the end
                break
            if not part:
                break
            shown += part
    os.close(parent)
    return run.returncode, shown.decode()


@needs_unix
@pytest.mark.parametrize("columns", [0, 80])
def test_progress_fits_the_terminal(columns: int, text: Path, tmp_path: Path) -> None:
    status, shown = on_a_terminal(columns, command(text, tmp_path / "run"))
    assert status == 0
    parts = shown.replace("\n", "\r").split("\r")
    bars = [part for part in parts if "Training four" in part]
    assert bars, "no progress at all"
    assert max(map(len, bars)) <= (columns or 80)
    assert "12/12" in bars[-1]
    drawn = bars[-1].split("|")
    assert len(drawn) == 3
    assert len(drawn[1]) >= 10, "the bar itself is too short to be seen"
    losses = [part for part in parts if "validation loss" in part]  # below each other
    assert [line.partition(":")[0] for line in losses] == ["step 4", "step 8", "step 12"]
    assert max(map(len, losses)) < 80


@needs_unix
def test_a_terminal_that_is_closed_saves_the_run(text: Path, tmp_path: Path) -> None:
    """The terminal's end sends SIGHUP, and whatever is printed then fails."""
    import pty

    folder = tmp_path / "run"
    argv = [*command(text, folder), "--steps", "5000"]
    child, parent = pty.fork()
    if child == 0:
        os.execv(argv[0], argv)
    shown = b""
    while b"step 8:" not in shown:
        shown += os.read(parent, 65536)
    os.close(parent)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        time.sleep(0.05)
    assert ended, "it went on"
    assert os.waitstatus_to_exitcode(status) == 129
    from minimono.nn import checkpoint

    assert checkpoint.load(folder / "run.npz").step >= 8


# ---- bad input in one line ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "absurd",
    [["--channels", str(10**12)], ["--batch", str(10**30)], ["--channels", str(4 * 10**18)],
     ["--k", str(10**30)], ["--windows", str(10**30)], ["--seed", str(10**30)],
     ["--layers", "1", "--heads", str(10**30)], ["--context", str(10**30)],
     ["--batch", str(10**13)], ["--learning-rate", "1e400"], ["--steps", "9" * 5000]],
    ids=lambda flags: " ".join(flags)[:24],
)
def test_absurd_sizes_are_a_line(
    absurd: list[str], text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from minimono.experiments import four_ways_run

    monkeypatch.setattr(four_ways_run, "_report", lambda folder, config: folder.finish(""))
    try:
        status = cli.main(
            ["demo", *QUICK, "--text", str(text), "--out", str(tmp_path / "run"), *absurd]
        )
    except SystemExit as stop:  # argparse refuses what is no number
        status = stop.code
    error = capsys.readouterr().err
    assert "Traceback" not in error
    if "--seed" not in absurd and "--windows" not in absurd:  # these have no bound
        assert status == 2
        assert error.splitlines()[-1].startswith(("minimono", "  minimono demo --resume"))


def test_out_of_memory_is_a_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def info() -> int:
        raise MemoryError

    monkeypatch.setattr(cli, "info", info)
    assert cli.main(["info"]) == 2
    assert capsys.readouterr().err == (
        "minimono: too large for this machine; take smaller numbers.\n"
    )


def test_a_folder_is_no_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["demo", "--text", str(tmp_path), "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert str(tmp_path) in error
    assert "folder" in error or "directory" in error
    assert error.count("\n") == 1


# ---- make demo TEXT= ---------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("given", ["argument", "environment"])
@pytest.mark.parametrize(
    "name",
    ["a file.txt", 'a"; touch harm; ".txt', "a`touch harm`.txt", "a'$(touch harm)'.txt",
     "$(shell touch harm)", "${shell touch harm}", "$HOME", "a\\b.txt", "$$", "a#b", ""],
)
def test_what_make_is_given_as_text_is_a_name_and_no_command(
    name: str, given: str, tmp_path: Path
) -> None:
    (tmp_path / "Makefile").write_bytes((ROOT / "Makefile").read_bytes())
    (tmp_path / "pyproject.toml").touch()
    stub = tmp_path / ".venv" / "bin" / "minimono"
    stub.parent.mkdir(parents=True)
    stub.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > "$0.got"\n')
    stub.chmod(0o700)
    stub.with_name("python").touch()
    time.sleep(0.01)
    (tmp_path / ".venv" / ".with-core").touch()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    argv = ["make", "demo"]
    if given == "argument":
        argv.append(f"TEXT={name}")
    else:
        environment["TEXT"] = name
    run = subprocess.run(
        argv, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=30
    )
    assert run.returncode == 0, run
    got = Path(f"{stub}.got").read_text().splitlines()
    assert got == (["demo", "--text", name] if name else ["demo"])
    assert not (tmp_path / "harm").exists()
