"""Where a library is not installed: who says so, when, and what works all the same."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from minimono import lazy

# As a folder before all others: importing the library fails as if it were not there.
ABSENT = "raise ModuleNotFoundError('No module named ' + repr(__name__), name=__name__)\n"


def run(
    tmp_path: Path, absent: str, *command: str, because: str = ABSENT
) -> subprocess.CompletedProcess[str]:
    stub = tmp_path / "stubs"
    stub.mkdir(exist_ok=True)
    (stub / f"{absent}.py").write_text(because)
    path = os.pathsep.join([str(stub), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, "-W", "error", *command], cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=120,
    )


@pytest.mark.parametrize(
    ("use", "who"),
    [
        ("mm.functional.gelu(x)", "gelu: its kernel needs numba"),
        ("mm.functional.layer_norm(x, x[0], x[0])", "layer_norm: its kernel needs numba"),
        ("mm.mono.Moments.of(x.data)", "batch_moments: its kernel needs numba"),
        ("mm.optim.SGD([p], lr=0.1).step()", "sgd: its kernel needs numba"),
    ],
)
def test_without_numba_the_first_kernel_says_so_and_formulas_run(
    tmp_path: Path, use: str, who: str
) -> None:
    made = """
import numpy as np
import minimono as mm
x = mm.tensor(np.random.default_rng(0).standard_normal((4, 3)))
p = mm.tensor([1.0, 2.0], requires_grad=True)
with mm.reference():
    (p * p).sum().backward()
"""
    failed = run(tmp_path, "numba", "-c", made + use)
    assert failed.returncode == 1
    last = failed.stderr.strip().splitlines()[-1]
    assert last == (
        f"RuntimeError: {who}, which is not installed: pip install numba, or use the formula: "
        "with minimono.reference():"
    )
    done = run(tmp_path, "numba", "-c", f"{made}with mm.reference():\n    {use}")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_numba_that_cannot_be_imported_says_why(tmp_path: Path) -> None:
    because = "raise ImportError('Numba needs NumPy 2.3 or less')\n"
    use = "import minimono as mm; mm.functional.relu(mm.tensor([1.0]))"
    failed = run(tmp_path, "numba", "-c", use, because=because)
    assert "relu: its kernel needs numba, and has: Numba needs NumPy 2.3 or less" in failed.stderr
    assert "not installed" not in failed.stderr
    told = run(tmp_path, "numba", "-m", "minimono", "info", because=because)
    assert "cannot be imported: Numba needs NumPy 2.3 or less" in told.stdout


@pytest.mark.parametrize("library", ["numba", "matplotlib", "tqdm"])
def test_info_tells_and_the_demo_says_so_before_it_begins(tmp_path: Path, library: str) -> None:
    told = run(tmp_path, library, "-m", "minimono", "info")
    assert told.returncode == 0, told.stderr
    lines = {line.partition(" ")[0]: line[13:] for line in told.stdout.splitlines()}
    assert lines[library] == "not installed"
    assert [name for name, value in lines.items() if value == "not installed"] == [library]
    assert lines["kernels"].startswith("none: " if library == "numba" else "compiled at first use")
    demo = run(tmp_path, library, "-m", "minimono", "demo", "--quick")
    assert (demo.returncode, demo.stdout) == (2, "")
    assert demo.stderr == (
        f"minimono: minimono demo needs {library}, which is not installed: pip install {library}\n"
    )
    assert not (tmp_path / "runs").exists()


def test_info_says_where_machine_code_is_kept(tmp_path: Path) -> None:
    environment = {**os.environ, "MINIMONO_CACHE_DIR": str(tmp_path / "kept")}
    command = [sys.executable, "-m", "minimono", "info"]
    here = {"env": environment, "capture_output": True, "text": True, "timeout": 60}
    assert f"kept in {tmp_path / 'kept'}" in subprocess.run(command, **here).stdout
    (tmp_path / "file").write_text("")
    environment["MINIMONO_CACHE_DIR"] = str(tmp_path / "file")
    assert "kept in this process only" in subprocess.run(command, **here).stdout
    environment["NUMBA_DISABLE_JIT"] = "1"
    assert "in plain Python (NUMBA_DISABLE_JIT is set)" in subprocess.run(command, **here).stdout


@pytest.mark.parametrize(
    ("module", "missing", "why"),
    [
        ("there_is_none", "there_is_none", "which is not installed: pip install it"),
        ("os.there_is_none", "os.there_is_none", "which is not installed: pip install it"),
    ],
)
def test_what_is_required_is_named(module: str, missing: str, why: str) -> None:
    with pytest.raises(RuntimeError, match=f"^somebody needs {module.split('.')[0]}, {why}$"):
        lazy.required(module, by="somebody", install="it")


def test_what_is_installed_and_lacks_something_is_not_called_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "half_there.py").write_text("import what_it_needs")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(RuntimeError, match="half_there, and has: No module named 'what_it_needs'"):
        lazy.required("half_there", by="somebody", install="it")
