"""Files that are replaced as a whole: links, modes, what a kill left, what is no file."""

import os
import stat
import sys
from pathlib import Path

import pytest

from minimono import atomic


def listed(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_a_link_stays_one_and_what_it_points_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "file", tmp_path / "link"
    link.symlink_to(target)
    for text in ("through a link to nothing", "through a link to a file"):
        atomic.write_text(link, text)
        assert link.is_symlink()
        assert target.read_text() == text
    assert listed(tmp_path) == ["link", "there"]
    assert listed(tmp_path / "there") == ["file"]


@pytest.mark.skipif(sys.platform == "win32", reason="it has no such modes")
def test_the_mode_is_kept_and_a_new_file_has_that_of_any_new_file(tmp_path: Path) -> None:
    def mode(path: Path) -> int:
        return stat.S_IMODE(path.stat().st_mode)

    (tmp_path / "any").write_text("")
    path = tmp_path / "file"
    atomic.write_text(path, "1")
    assert mode(path) == mode(tmp_path / "any")
    for wanted in (0o640, 0o600, 0o666):
        path.chmod(wanted)
        atomic.write_text(path, "2")
        assert mode(path) == wanted


def test_what_a_kill_left_goes_if_nobody_writes_it_any_more(tmp_path: Path) -> None:
    path = tmp_path / "run[1].npz"
    old, new = (tmp_path / f"{path.name}.{n * 8}.tmp" for n in "ab")
    others = [tmp_path / name for name in ("run1.npz.aaaaaaaa.tmp", f"{path.name}.mine.tmp")]
    for file in (old, new, *others):
        file.write_text("half")
        os.utime(file, (0, 0) if file is not new else None)
    atomic.write_text(path, "whole")
    assert listed(tmp_path) == sorted([path.name, new.name, *(o.name for o in others)])


def test_if_the_block_raises_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def interrupted() -> None:
        with atomic.replacing(path) as file:
            file.write(b"new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert listed(tmp_path) == ["file"]


def test_only_files_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder is not a regular file"):
        atomic.write_text(tmp_path / "folder", "")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(OSError, match="pipe is not a regular file"):
            atomic.write_text(tmp_path / "pipe", "")
        assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
