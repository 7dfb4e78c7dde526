"""Where the machine code of kernels is kept, when it is loaded, and when compiled again."""

import errno
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np
import pytest

import minimono
from minimono.kernels.cpu import compiling

SETTINGS = ("MINIMONO_CACHE_DIR", "NUMBA_CACHE_DIR", "XDG_CACHE_HOME")


@pytest.fixture
def nothing_chosen(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No folder is known yet."""
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    compiling.folder.cache_clear()
    compiling._say_once.cache_clear()
    yield
    compiling.folder.cache_clear()


@pytest.fixture
def chosen(nothing_chosen: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINIMONO_CACHE_DIR", str(tmp_path / "chosen/deep"))
    return tmp_path / "chosen/deep"


def _twice(x: Any, out: Any) -> None:
    for i in range(x.size):
        out[i] = 2 * x[i]


def _thrice(x: Any, out: Any) -> None:
    for i in range(x.size):
        out[i] = 3 * x[i]


def compiled_and_loaded(kernel: Any = _twice, dtype: str = "float64") -> tuple[int, int]:
    """Of a kernel's first call in what could be another process; its result is right."""
    fresh: Any = compiling.compiled(kernel)
    x = np.arange(3, dtype=dtype)
    out = np.empty_like(x)
    fresh(x, out)
    expected = np.empty_like(x)
    kernel(x, expected)
    assert (out == expected).all()
    return sum(fresh.stats.cache_misses.values()), sum(fresh.stats.cache_hits.values())


def files() -> list[Path]:
    folder = compiling.folder()
    assert folder is not None
    return sorted(folder.iterdir())


def test_code_is_kept_and_found_again(chosen: Path) -> None:
    assert compiled_and_loaded() == (1, 0)
    assert compiled_and_loaded() == (0, 1)
    assert compiled_and_loaded(dtype="float32") == (1, 0)
    assert compiled_and_loaded(_thrice) == (1, 0)
    assert len(files()) == 3
    assert all(file.parent.parent == chosen for file in files())
    assert compiled_and_loaded() == compiled_and_loaded(dtype="float32") == (0, 1)
    assert compiled_and_loaded(_thrice) == (0, 1)


@pytest.mark.parametrize(
    "damage",
    [
        lambda code: b"", lambda code: code[:10], lambda code: code[:-1], lambda code: code + b"x",
        lambda code: b"garbage " * 100, lambda code: b"\0" * len(code),
        lambda code: code[:500] + bytes([code[500] ^ 1]) + code[501:],
    ],
    ids=["empty", "head", "truncated", "longer", "garbage", "zeros", "one bit"],
)
def test_damaged_code_is_compiled_again(
    chosen: Path, damage: Callable[[bytes], bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    compiled_and_loaded()
    (file,) = files()
    file.write_bytes(damage(file.read_bytes()))
    assert compiled_and_loaded() == (1, 0)
    assert compiled_and_loaded() == (0, 1)
    assert capfd.readouterr() == ("", "")


def test_a_folder_that_went_away_is_told(
    chosen: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    compiled_and_loaded()
    shutil.rmtree(chosen)
    assert compiled_and_loaded() == compiled_and_loaded(_thrice) == (1, 0)
    assert capfd.readouterr().err.count("\n") == 1


def test_a_full_disk_is_told_once_and_leaves_nothing(
    chosen: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(*files: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    assert compiled_and_loaded() == compiled_and_loaded(_thrice) == (1, 0)
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert "No space left" in said
    assert files() == []
    monkeypatch.undo()
    assert compiled_and_loaded() == (1, 0)


# ---- which folder ------------------------------------------------------------------------------


def test_what_was_chosen_comes_first(
    nothing_chosen: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = Path(str(compiling.__file__)).parent / "__pycache__"
    assert compiling.folder().parent == beside
    compiling.folder.cache_clear()
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "numba"))
    assert compiling.folder().parent == tmp_path / "numba"
    compiling.folder.cache_clear()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINIMONO_CACHE_DIR", "relative")
    assert compiling.folder().parent == tmp_path / "relative"


def test_a_chosen_folder_that_is_none_is_told(
    chosen: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """And no other is taken."""
    chosen.parent.write_text("a file")
    assert compiled_and_loaded() == compiled_and_loaded() == (1, 0)
    assert compiling.folder() is None
    said = capfd.readouterr().err
    assert said.startswith("minimono: compiled kernels are not kept")
    assert str(chosen) in said
    assert said.count("\n") == 1


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="where files have an owner and a mode")
@pytest.mark.parametrize("how", ["others may write", "a group may write", "another's", "a link"])
def test_a_folder_that_is_not_ours_alone_is_not_trusted(
    chosen: Path, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loading machine code is running it."""
    compiled_and_loaded()
    home = files()[0].parent
    if how == "another's":
        if os.getuid() != 0:
            pytest.skip("needs root, to give a folder away")
        os.chown(home, 65534, 65534)
    elif how == "a link":
        home.rename(tmp_path / "elsewhere")
        home.symlink_to(tmp_path / "elsewhere")
    else:
        home.chmod(0o777 if how == "others may write" else 0o770)
    compiling.folder.cache_clear()
    assert compiling.folder() is None
    assert compiled_and_loaded() == (1, 0)


@pytest.mark.parametrize(
    ("owner", "version"),
    [(np, "__version__"), (numba, "__version__"), (llvmlite, "__version__"), (sys, "version")],
)
def test_another_version_of_what_compiles_has_another_folder(
    chosen: Path, owner: Any, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = compiling.folder()
    compiling.folder.cache_clear()
    assert compiling.folder() == before
    compiling.folder.cache_clear()
    monkeypatch.setattr(owner, version, getattr(owner, version) + " another")
    assert compiling.folder() != before


def test_every_file_of_kernels_counts(
    chosen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its text, whatever time and size it has."""
    shutil.copytree(Path(str(compiling.__file__)).parent, tmp_path / "cpu")
    monkeypatch.setattr(compiling, "__file__", str(tmp_path / "cpu/compiling.py"))

    def folder() -> Path | None:
        compiling.folder.cache_clear()
        return compiling.folder()

    first = folder()
    sources = sorted((tmp_path / "cpu").glob("*.py"))
    assert len(sources) > 15
    for file in sources:
        text, times = file.read_bytes(), file.stat()
        file.write_bytes(text.swapcase())
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert folder() != first, file
        file.write_bytes(text)
        assert folder() == first
    for file in sources:  # as in an archive: nothing would tell that they changed
        file.unlink()
    assert folder() is None


# ---- whole processes ---------------------------------------------------------------------------

SGD = """
import minimono as mm
p = mm.tensor([1.0, 2.0], dtype="{dtype}", requires_grad=True)
(p * p).sum().backward()
mm.optim.SGD([p], lr=0.25).step()
assert (p.data == [0.5, 1.0]).all()
from minimono.kernels.cpu import compiling, optim
stats = optim.sgd_kernel.stats
print(sum(stats.cache_misses.values()), sum(stats.cache_hits.values()), compiling.folder())
"""


class Installed:
    """A copy of the package, with nothing compiled, for others to read only."""

    def __init__(self, folder: Path):
        self.folder = folder
        away = shutil.ignore_patterns("__pycache__", "vectors")
        shutil.copytree(Path(str(minimono.__file__)).parent, folder / "site/minimono", ignore=away)
        (folder / "home").mkdir()

    def start(self, *before: str, dtype: str = "float64", **environment: str) -> Any:
        inherited = {k: v for k, v in os.environ.items() if k not in SETTINGS}
        own = {"HOME": str(self.folder / "home"), "PYTHONPATH": str(self.folder / "site")}
        return subprocess.Popen(
            [*before, sys.executable, "-W", "error", "-c", SGD.format(dtype=dtype)],
            cwd=self.folder, env={**inherited, **own, **environment},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )

    def run(self, *before: str, **environment: str) -> tuple[int, int, str, str]:
        """A step of SGD: how often its kernel was compiled, and loaded; where; what it said."""
        process = self.start(*before, **environment)
        said, wrong = process.communicate(timeout=120)
        assert process.returncode == 0, wrong
        compiled, loaded, folder = said.split()
        return int(compiled), int(loaded), folder, wrong


@pytest.fixture
def installed() -> Iterator[Installed]:
    """Not in `tmp_path`: pytest closes the folder above it to other users."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Installed(Path(folder))


@pytest.fixture
def nobody(installed: Installed) -> list[str]:
    """What makes a command that of another user, who has a home."""
    if os.name != "posix" or os.getuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("needs root and setpriv, to become another user")
    os.chown(installed.folder / "home", 65534, 65534)
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    reach = [*command, sys.executable, "-c", "import numba"]
    if subprocess.run(reach, cwd="/", capture_output=True).returncode:
        pytest.skip("another user cannot run this Python")
    return command


def test_beside_the_kernels_and_a_changed_math_is_noticed(installed: Installed) -> None:
    compiled, loaded, folder, said = installed.run()
    assert (compiled, loaded, said) == (1, 0, "")
    assert Path(folder).parent == installed.folder / "site/minimono/kernels/cpu/__pycache__"
    assert installed.run() == (0, 1, folder, "")
    with open(installed.folder / "site/minimono/kernels/cpu/math.py", "a") as file:
        file.write("# changed\n")
    assert installed.run()[:2] == (1, 0)


def test_a_read_only_installation_uses_the_users_folder(
    installed: Installed, nobody: list[str]
) -> None:
    compiled, loaded, folder, said = installed.run(*nobody)
    assert (compiled, loaded, said) == (1, 0, "")
    assert Path(folder).parent == installed.folder / "home/.cache/minimono"
    assert stat.S_IMODE(Path(folder).stat().st_mode) == 0o700
    assert installed.run(*nobody) == (0, 1, folder, "")


@pytest.mark.parametrize("home", ["/nonexistent", ""])
def test_without_any_folder_kernels_run_and_one_line_says_so(
    installed: Installed, nobody: list[str], home: str
) -> None:
    compiled, loaded, folder, said = installed.run(*nobody, HOME=home)
    assert (compiled, loaded, folder) == (1, 0, "None")
    assert said.count("\n") == 1
    assert "MINIMONO_CACHE_DIR" in said


def test_two_users_have_a_folder_each(installed: Installed, nobody: list[str]) -> None:
    shared = installed.folder / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    mine = installed.run(MINIMONO_CACHE_DIR=str(shared))
    theirs = installed.run(*nobody, MINIMONO_CACHE_DIR=str(shared))
    assert (mine[:2], theirs[:2], mine[3], theirs[3]) == ((1, 0), (1, 0), "", "")
    assert mine[2] != theirs[2]
    assert Path(mine[2]).parent == Path(theirs[2]).parent == shared


def test_processes_that_compile_at_the_same_time(installed: Installed) -> None:
    """None sees another's half; afterwards there is one whole file a signature."""
    dtypes = ["float32", "float64"]
    started = [installed.start(dtype=dtype) for dtype in dtypes * 2]
    for process in started:
        said, wrong = process.communicate(timeout=120)
        assert (process.returncode, wrong) == (0, "")
    assert len(list(Path(said.split()[2]).glob("sgd_kernel-*"))) == 2
    assert installed.run()[:2] == (0, 1)
