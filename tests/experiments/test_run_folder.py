"""A run's folder: its lock, what it refuses, damaged records, disks that are full or gone."""

import errno
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minimono import cli
from minimono.experiments import (
    four_ways,
    four_ways_pictures,
    four_ways_report,
    four_ways_run,
    records,
    run_folder,
)
from minimono.experiments.four_ways import Experiment, Json
from minimono.experiments.records import TakenError
from minimono.experiments.run_folder import RunFolder
from minimono.experiments.stopping import Signals, Stopped, stoppable
from minimono.nn import checkpoint

TINY = [
    "--steps", "16", "--batch", "2", "--context", "4", "--channels", "4", "--heads", "1",
    "--layers", "1", "--warmup", "2", "--k", "1", "--windows", "2", "--evaluate-every", "8",
    "--measure-every", "4",
]


@pytest.fixture(autouse=True, scope="module")
def quickly() -> Iterator[None]:
    """Measure little, draw nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(four_ways, "CASE_STUDY_BATCHES", 2)
        patch.setattr(four_ways, "COST_ROUNDS", 4)
        patch.setattr(four_ways_run, "_report", lambda folder, config: folder.finish("drawn"))
        patch.setattr(Experiment, "compile_kernels", lambda self: None)
        yield


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("A text to learn, and not a long one. " * 30)
    return path


def demo(*argv: object) -> int:
    return cli.main(["demo", *map(str, argv)])


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int, error: BaseException | int) -> None:
    """After so many steps, a signal comes or an error is raised."""
    advance = Experiment.advance

    def advance_or_stop(self: Experiment) -> list[Json]:
        if self.step == step and not isinstance(error, int):
            raise error
        found = advance(self)
        if self.step == step and isinstance(error, int):
            os.kill(os.getpid(), error)
        return found

    monkeypatch.setattr(Experiment, "advance", advance_or_stop)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Path:
    """A run of 16 steps that was stopped after 9."""
    folder = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 9, signal.SIGTERM)
        assert demo(*TINY, "--text", text, "--out", folder) == 128 + signal.SIGTERM
    assert checkpoint.load(folder / "run.npz").step == 9
    return folder


@pytest.fixture
def interrupted(stopped: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(stopped, tmp_path / "interrupted"))


def records_of(folder: Path) -> list[Json]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in record.items() if k != "seconds"} for record in found]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, text: Path) -> list[Json]:
    folder = tmp_path_factory.mktemp("straight")
    assert demo(*TINY, "--text", text, "--out", folder) == 0
    return records_of(folder)


# ---- stopped by a signal, by an error ----------------------------------------------------------


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_ends_the_step_saves_and_says_how_to_go_on(
    name: str, tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], straight: list[Json],
) -> None:
    if not hasattr(signal, name):
        pytest.skip("this system has no such signal")
    signum, folder = getattr(signal, name), tmp_path / "it's here"
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 3, signum)
        assert demo(*TINY, "--text", text, "--out", folder) == 128 + signum
    said = capsys.readouterr().out
    assert "Stopped after step 3 of 16. To go on:\n  minimono demo --resume" in said
    assert checkpoint.load(folder / "run.npz").step == 3
    command = said.splitlines()[-1]
    monkeypatch.chdir(tmp_path.root)  # from any folder, with what was printed
    assert cli.main(shlex.split(command)[1:]) == 0
    assert records_of(folder) == straight


def test_ctrl_c_while_measuring_says_how_to_go_on(
    tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str], straight: list[Json]
) -> None:
    folder, finish = tmp_path / "run", Experiment.finish

    def finish_or_stop(self: Experiment) -> Any:
        for i, record in enumerate(finish(self)):
            yield record
            if i == 5:
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Experiment, "finish", finish_or_stop)
        assert demo(*TINY, "--text", text, "--out", folder) == 130
    said = capsys.readouterr().out
    assert "Stopped after step 16 of 16, while measuring. To go on:" in said
    assert demo("--resume", folder) == 0
    assert "Going on after step 16 of 16." in capsys.readouterr().out
    assert records_of(folder) == straight


def test_the_time_is_that_of_the_whole_run(
    interrupted: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = checkpoint.load(interrupted / "run.npz").config["run"]["seconds"]
    assert 0.0 < before < 60.0
    now = run_folder.time.monotonic
    monkeypatch.setattr(run_folder.time, "monotonic", lambda: 1000.0 + now())
    found = checkpoint.load(interrupted / "run.npz")
    with RunFolder(interrupted, resume=True) as folder:
        folder.go_on(found, lambda record: True)
        assert before <= folder.seconds < before + 5.0  # nor does the time between count
        monkeypatch.setattr(run_folder.time, "monotonic", lambda: 1100.0 + now())
        assert before + 100.0 <= folder.seconds < before + 105.0


def test_an_error_between_steps_saves_one_within_leaves_the_last_save(
    tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str], straight: list[Json]
) -> None:
    for inside, name in ((True, "inside"), (False, "between")):
        folder = tmp_path / name
        with pytest.MonkeyPatch.context() as patch:
            if inside:
                stop_after(patch, 5, RuntimeError("it broke"))
            else:
                def breaks(step: int, found: list[Json], write: object) -> None:
                    if step == 5:
                        raise RuntimeError("it broke")

                patch.setattr(four_ways_run, "_print_losses", breaks)
            assert demo(*TINY, "--text", text, "--out", folder) == 2
        error = capsys.readouterr().err
        saved = checkpoint.load(folder / "run.npz").step
        assert saved == (0 if inside else 5)
        assert error == (
            f"minimono: it broke\nStep {saved} of 16 is saved. To go on:\n"
            f"  minimono demo --resume {folder}\n"
        )
        assert demo("--resume", folder) == 0
        assert records_of(folder) == straight


def test_a_signal_waits_for_the_end_of_a_step_and_a_second_ctrl_c_does_not() -> None:
    signals, done = Signals(), []

    def step(name: str, *arriving: int) -> int:
        try:
            with signals.held():
                for signum in arriving:
                    signals.arrived(signum)
                done.append(name)
        except Stopped as stop:
            return stop.status
        return 0

    assert step("the step", signal.SIGTERM) == 143
    assert step("the save", signal.SIGTERM, signal.SIGABRT) == 143  # and it tells the first
    assert step("never", signal.SIGTERM, signal.SIGINT) == 130
    assert done == ["the step", "the save"]


@pytest.mark.parametrize("what", ["another error", "nothing"])
def test_what_a_library_makes_of_an_interruption_is_still_one(
    what: str, interrupted: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Importing a compiled module made an ImportError of it; a callback may lose it."""
    described = Experiment._described

    def library(self: Experiment, neuron: Any) -> Json:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except BaseException as error:
            if what == "another error":
                raise ImportError("initialization failed") from error
        return described(self, neuron)

    monkeypatch.setattr(Experiment, "_described", library)
    assert demo("--resume", interrupted) == 128 + signal.SIGTERM
    captured = capsys.readouterr()
    assert "Stopped after step 16 of 16, while measuring. To go on:" in captured.out
    assert captured.err == ""


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no such signal")
def test_what_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stoppable():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


# ---- one run in a folder -----------------------------------------------------------------------


def test_a_second_process_is_told_and_a_crash_leaves_no_lock(
    interrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    holds = (
        "import sys, time\nfrom pathlib import Path\n"
        "from minimono.experiments.run_folder import RunFolder\n"
        "folder = RunFolder(Path(sys.argv[1]), resume=True)\nprint('held', flush=True)\n"
        "time.sleep(60)"
    )
    command = [sys.executable, "-c", holds, str(interrupted)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        before = (interrupted / "metrics.jsonl").read_bytes()
        for argv in (["--resume", interrupted], [*TINY, "--out", interrupted, "--force"]):
            assert demo(*argv) == 2
            error = capsys.readouterr().err
            assert error == (
                f"minimono: {interrupted}: another process is at work on the run in this folder\n"
            )
        assert (interrupted / "metrics.jsonl").read_bytes() == before
        other.kill()
    assert demo("--resume", interrupted) == 0


def test_where_there_is_no_fcntl_windows_lock_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: set[int] = set()

    def locking(descriptor: int, mode: int, size: int) -> None:
        place = os.lseek(descriptor, 0, os.SEEK_CUR)
        assert (mode, size, place) == (2, 1, 2**31 - 2)
        inode = os.fstat(descriptor).st_ino
        if inode in held:
            raise PermissionError(errno.EACCES, "Permission denied")
        held.add(inode)

    monkeypatch.setattr(records, "fcntl", None)
    windows = types.SimpleNamespace(LK_NBLCK=2, locking=locking)
    monkeypatch.setitem(sys.modules, "msvcrt", windows)
    with RunFolder(tmp_path) as folder:
        folder.append({"step": 1})
        with pytest.raises(TakenError, match="another process is at work"):
            RunFolder(tmp_path)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n'


def test_a_file_system_without_locks_keeps_nobody_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(file: object, how: int) -> None:
        raise OSError(error, "no")

    fcntl = types.SimpleNamespace(LOCK_EX=2, LOCK_NB=4, flock=flock)
    monkeypatch.setattr(records, "fcntl", fcntl)
    error = errno.ENOLCK
    with RunFolder(tmp_path), RunFolder(tmp_path):
        pass
    error = errno.EIO
    with pytest.raises(OSError, match="no"):
        RunFolder(tmp_path)


def test_no_run_is_overwritten_silently(
    interrupted: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def contents() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in interrupted.iterdir()}

    another, before = [*TINY, "--text", text, "--seed", "5", "--out", interrupted], contents()
    assert demo(*another) == 2
    assert f"holds an interrupted run; --resume {interrupted} goes" in capsys.readouterr().err
    assert contents() == before
    assert demo("--resume", interrupted) == 0
    capsys.readouterr()
    before = contents()
    assert demo(*another) == 2
    assert "holds a finished run; --out takes another folder, --force" in capsys.readouterr().err
    assert demo("--resume", interrupted) == 2
    assert f"it is finished, see {interrupted / 'report.html'}" in capsys.readouterr().err
    assert demo("--resume", interrupted, "--force") == 2
    assert contents() == before
    assert demo(*another, "--force") == 0
    assert checkpoint.load(interrupted / "run.npz").config["settings"]["seed"] == 5
    assert len(records_of(interrupted)) == len(before["metrics.jsonl"].splitlines())


def test_without_a_folder_the_next_free_one_is_taken(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    (tmp_path / "runs" / "demo" / "metrics.jsonl").touch()  # killed before its first save
    for where in ("runs/demo", "runs/demo-2", "runs/demo-3"):
        assert demo(*TINY, "--text", text.name if text.parent == tmp_path else text) == 0
        said = capsys.readouterr().out
        assert f"Report: {Path(where) / 'report.html'}" in said
        assert ("runs/demo holds a finished run;" in said) == (where != "runs/demo")
    assert demo(*TINY, "--text", text, "--force") == 0
    assert "Report: runs/demo/report.html" in capsys.readouterr().out


# ---- records that are damaged, files that are gone ---------------------------------------------


def test_what_was_recorded_after_the_state_is_cut_off(
    interrupted: Path, straight: list[Json], capsys: pytest.CaptureFixture[str]
) -> None:
    with open(interrupted / "metrics.jsonl", "ab") as file:
        file.write(b'{"kind": "step", "method": "plain", "step": 10}\n{"kind": "st')
    assert demo("--resume", interrupted) == 0
    assert capsys.readouterr().err == ""
    assert records_of(interrupted) == straight


@pytest.mark.parametrize("harm", ["zeros", "half a line", "no json", "another's record", "gone"])
def test_a_damaged_tail_costs_the_tail_and_says_so(
    harm: str, interrupted: Path, straight: list[Json], capsys: pytest.CaptureFixture[str]
) -> None:
    path = interrupted / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    steps = [json.loads(line)["step"] for line in lines]
    at = steps.index(7) + 2  # in the middle of a step
    rest = b"".join(lines[at:])
    path.write_bytes(b"".join(lines[:at]) + {
        "zeros": bytes(len(rest)), "half a line": rest[:9], "no json": b"[" * 9 + rest[9:],
        "another's record": b'{"kind": "final"}\n' + rest, "gone": b"",
    }[harm])
    assert demo("--resume", interrupted) == 0
    told = capsys.readouterr().err
    assert told.startswith(f"minimono: {path} is damaged after ")
    assert told.endswith("the records of steps 7 to 9 are lost, and missing in the report\n")
    assert records_of(interrupted) == [
        r for r in straight if "step" not in r or not 7 <= r["step"] <= 9
    ]
    assert demo("--resume", interrupted) == 2  # it is finished


@pytest.mark.parametrize("known", [0, 7])
def test_a_report_is_made_though_records_are_missing(known: int, straight: list[Json]) -> None:
    left = [
        {**r, "seconds": 1.0} for r in straight if r.get("step", 99) <= known or "step" not in r
    ]
    assert len(four_ways_report.rows(left)) == 4
    assert four_ways_report.verdicts(left)
    for figure in (four_ways_pictures.loss(left, 2.0), four_ways_pictures.movement(left)):
        figure.draw_without_rendering()


@pytest.mark.parametrize("name", ["folder", "metrics.jsonl"])
def test_what_is_removed_meanwhile_is_told(
    name: str, tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(run_folder, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(run_folder, "SHARE", 1e9)
    folder, advance = tmp_path / "run", Experiment.advance

    def advance_and_remove(self: Experiment) -> list[Json]:
        if self.step == 4:
            shutil.rmtree(folder) if name == "folder" else (folder / name).unlink()
        return advance(self)

    monkeypatch.setattr(Experiment, "advance", advance_and_remove)
    assert demo(*TINY, "--text", text, "--out", folder) == 2
    error = capsys.readouterr().err
    assert f"removed while the run was at work: '{folder / 'metrics.jsonl'}'" in error


def test_a_folder_that_cannot_be_written_is_a_line(
    tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it is root, who may write everywhere: a folder below a file cannot be made."""
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    folders = [tmp_path / "file" / "run", tmp_path / "file"]
    if getattr(os, "geteuid", int)():
        (tmp_path / "closed").mkdir(mode=0o500)
        folders.append(tmp_path / "closed")
    for folder in folders:
        assert demo(*TINY, "--text", text, "--out", folder) == 2
        error = capsys.readouterr().err
        assert str(folder) in error
        assert error.count("\n") == 1


def test_links_are_written_through(tmp_path: Path, text: Path) -> None:
    folder, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    names = ("run.npz", "metrics.jsonl", "report.html")
    for name in names:
        (folder / name).symlink_to(elsewhere / name)
    for flags in ([], ["--force"]):
        assert demo(*TINY, "--text", text, "--out", folder, *flags) == 0
        assert all((folder / name).is_symlink() for name in names)
        assert sorted(os.listdir(elsewhere)) == sorted(names)


# ---- a full disk -------------------------------------------------------------------------------


def full_disk_leaves_what_was_saved(
    folder: Path, text: Path, capsys: pytest.CaptureFixture[str], make_room: Any
) -> None:
    assert demo(*TINY, "--text", text, "--out", folder) == 2
    error = capsys.readouterr().err
    assert "No space left on device" in error
    saved = checkpoint.load(folder / "run.npz")
    assert f"Step {saved.step} of 16 is saved. To go on:\n  minimono demo --resume" in error
    assert not list(folder.glob("*.tmp"))
    make_room()
    assert demo("--resume", folder) == 0


@pytest.mark.parametrize("failing", [4, 5, 9])
def test_a_full_disk_costs_what_came_after_the_last_save(
    failing: int, tmp_path: Path, text: Path, straight: list[Json],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """From an `fsync` on there is no space: of records (4th), of the state (5th), later."""
    calls, fsync = [0], os.fsync

    def full(descriptor: int) -> None:
        calls[0] += 1
        if calls[0] >= failing:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_folder, "SAVE_EVERY", 0.0)
        patch.setattr(run_folder, "SHARE", 1e9)
        patch.setattr(os, "fsync", full)
        full_disk_leaves_what_was_saved(tmp_path / "run", text, capsys, patch.undo)
    assert records_of(tmp_path / "run") == straight


def test_stopped_on_a_full_disk_it_says_what_is_saved(
    tmp_path: Path, text: Path, straight: list[Json], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, save = tmp_path / "run", Experiment.save

    def full(self: Experiment, path: Path, more: Json) -> None:
        if self.step:
            raise checkpoint.CheckpointError("save: No space left on device")
        save(self, path, more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Experiment, "save", full)
        stop_after(patch, 3, signal.SIGTERM)
        assert demo(*TINY, "--text", text, "--out", folder) == 143
    captured = capsys.readouterr()
    assert "Stopped after step 3 of 16; step 0 is saved. To go on:\n" in captured.out
    assert captured.err == "minimono: save: No space left on device\n"
    assert demo("--resume", folder) == 0
    assert records_of(folder) == straight


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of four megabytes."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root mounts")
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_really_full_disk(
    disk: Path, text: Path, straight: list[Json], capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run_folder, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(run_folder, "SHARE", 1e9)
    filler, advance = disk / "filler", Experiment.advance

    def advance_and_fill(self: Experiment) -> list[Json]:
        if self.step == 6 and not filler.exists():
            status = os.statvfs(disk)
            filler.write_bytes(bytes(status.f_bavail * status.f_frsize))
        return advance(self)

    monkeypatch.setattr(Experiment, "advance", advance_and_fill)
    full_disk_leaves_what_was_saved(
        disk / "run", text, capsys, lambda: filler.write_bytes(b"")
    )
    assert records_of(disk / "run") == straight


def test_a_disk_that_cannot_be_written_is_a_line(
    disk: Path, stopped: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(stopped, disk / "run")
    remount = ["mount", "-o", "remount,ro", str(disk)]
    if subprocess.run(remount, capture_output=True).returncode:
        pytest.skip("mounting anew is not allowed here")
    for flags in (["--resume", disk / "run"], [*TINY, "--text", text, "--out", disk / "new"]):
        assert demo(*flags) == 2
        error = capsys.readouterr().err
        assert "Read-only file system" in error
        assert error.count("\n") == 1


def test_large_states_are_saved_less_often(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(run_folder.time, "monotonic", lambda: clock[0])
    saved = []

    def save(path: Path, config: Json) -> None:
        clock[0] += 5.0  # it takes long
        saved.append(config["run"])

    with RunFolder(tmp_path) as folder:
        for step in range(400):
            clock[0] += 1.0
            folder.save(step, save, now=False)
    spent = 5.0 * len(saved)
    assert 0.04 * clock[0] < spent < 0.06 * clock[0]
    assert np.diff([run["seconds"] for run in saved]).min() >= 100.0


@pytest.mark.parametrize(
    ("forged", "message"),
    [({"run": None}, "TypeError"), ({"run": {"bytes": -1, "seconds": 0}}, "bytes is -1"),
     ({"run": {"bytes": 0, "seconds": "x"}}, "seconds is 'x'"), ({"run": {}}, "KeyError"),
     ({"settings": 3}, "settings"), ({"settings": {}}, "'text'"), ({"text": 3}, "text is 3"),
     ({"steps": "16"}, "steps is '16'"), ({"device": "tpu"}, "tpu")],
    ids=str,
)
def test_a_forged_state_is_a_line(
    forged: Json, message: str, interrupted: Path, capsys: pytest.CaptureFixture[str], text: Path
) -> None:
    found = checkpoint.load(interrupted / "run.npz")
    config = found.config | forged
    if not forged.keys() & {"run", "settings"}:
        config = found.config | {"settings": found.config["settings"] | forged}
    members = dict(np.load(interrupted / "run.npz"))
    np.savez(interrupted / "run.npz", **members | {"config": np.array(json.dumps(config))})
    before = (interrupted / "metrics.jsonl").read_bytes()
    assert demo("--resume", interrupted) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert (interrupted / "metrics.jsonl").read_bytes() == before
