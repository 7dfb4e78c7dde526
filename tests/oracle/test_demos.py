"""The implementations in demos/oracle, which users copy, pass: in C, PyTorch and JAX."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from minimono import oracle

DEMOS = Path(__file__).resolve().parents[2] / "demos/oracle"


def test_the_c_program(tmp_path: Path) -> None:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    program = tmp_path / "memel"
    flags = ["-O2", "-Wall", "-Wextra", "-Werror", "-lm"]
    subprocess.run([compiler, DEMOS / "memel.c", "-o", program, *flags], check=True)
    report = oracle.check_program([str(program)], ["scale", "deactivation"])
    assert not report.failures, str(report)
    assert len(report.passed) >= 48
    report = oracle.check_program([str(program)], "l2e")
    assert "skipped by the program: not in this program" in report.skipped.values()


@pytest.mark.parity
@pytest.mark.parametrize("library", ["torch", "jax"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_module_of_a_framework(library: str, dtype: str, run_pytest: Any) -> None:
    """In somebody else's project, with the plugin."""
    pytest.importorskip(library)
    test = (DEMOS / f"{library}_memel.py").read_text(encoding="utf-8")
    run = run_pytest(test, "-q", f"--minimono-dtype={dtype}")
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-1000:]
    assert "MEmeL: " in run.stdout
    assert "failed" not in run.stdout
