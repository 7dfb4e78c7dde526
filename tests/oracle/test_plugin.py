"""The pytest plugin in somebody else's project."""

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import pytest

Pytest = Callable[..., subprocess.CompletedProcess[str]]

# How README and the documentation begin.
RIGHT = """
import numpy as np
from minimono import oracle

def my_scale(z, mean, variance, *, compensation=0.0):
    below = variance + compensation * variance.mean()
    return (z - mean) ** 2 / np.where(below > 0, below, np.nan)

@oracle.parametrize_with_checks({"monosemantic_scale": my_scale})
def test_my_scale(check):
    check()
"""
WRONG = RIGHT.replace("/ np.where(below > 0, below, np.nan)", "/ np.sqrt(variance)")


@pytest.mark.parametrize("options", [(), ("-p", "minimono")])
@pytest.mark.parametrize("autoload", [True, False])
def test_in_an_empty_project(
    run_pytest: Pytest, options: tuple[str, ...], autoload: bool
) -> None:
    run = run_pytest(RIGHT, "-v", *options, autoload=autoload)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "test_my_scale[scale/given/1] PASSED" in run.stdout
    assert ("minimono oracle" in run.stdout) == (autoload or bool(options))


def test_without_a_test_of_the_oracle_nothing_is_said(run_pytest: Pytest) -> None:
    run = run_pytest("def test_theirs():\n    pass\n")
    assert run.returncode == 0
    assert "minimono oracle" not in run.stdout


def test_a_failure_is_the_message_and_the_summary_names_the_mistake(run_pytest: Pytest) -> None:
    run = run_pytest(WRONG, "-W", "ignore")
    assert run.returncode == 1
    failures, summary = run.stdout.split("minimono oracle ===")
    assert "scale/given/1: 6 of 6 values outside tolerance" in failures
    assert 'matches: "standard deviation where the variance is meant" to 15 digits' in failures
    assert "Traceback" not in failures
    assert "parametrize.py" not in failures
    assert "monosemantic_scale: 2 passed, 12 failed" in summary
    assert 'match "standard deviation where the variance is meant" to 15 digits' in summary


def test_the_diagnosis_is_in_junits_xml(run_pytest: Pytest, tmp_path: Path) -> None:
    file = tmp_path / "junit.xml"
    run_pytest(WRONG, "-W", "ignore", "-o", "junit_family=xunit1", f"--junit-xml={file}")
    properties = {
        (p.get("name"), p.get("value")) for p in ElementTree.parse(file).iter("property")
    }
    assert ("minimono_call", "monosemantic_scale") in properties
    assert (
        "minimono_diagnosis", '"standard deviation where the variance is meant" to 15 digits'
    ) in properties


def test_dtype_option(run_pytest: Pytest) -> None:
    test = RIGHT.replace("    below", "    assert z.dtype == mean.dtype == 'float32'\n    below", 1)
    assert run_pytest(test).returncode == 1
    run = run_pytest(test, "--minimono-dtype", "float32")
    assert run.returncode == 0, run.stdout
    assert run_pytest(test, "--minimono-dtype", "float16").returncode == 4  # a usage error


def test_dtype_of_the_decorator_comes_first(run_pytest: Pytest) -> None:
    test = RIGHT.replace("my_scale})", 'my_scale}, dtype="float64")')
    test = test.replace("    below", "    assert z.dtype == 'float64'\n    below", 1)
    run = run_pytest(test, "--minimono-dtype", "float32")
    assert run.returncode == 0, run.stdout


def test_a_note_on_narrower_replies(run_pytest: Pytest) -> None:
    test = RIGHT.replace("np.nan)\n", "np.nan).astype('float32')\n")
    test = test.replace("    return (z - mean)", "    return np.float32(z - mean)")
    run = run_pytest(test)
    assert run.stdout.count("note: monosemantic_scale was given float64, returned float32") == 1


FIXTURE = RIGHT.partition("@oracle")[0].replace("from minimono import oracle\n", "") + """
def test_all_in_one(minimono_check):
    report = minimono_check({"monosemantic_scale": my_scale})
    assert len(report.passed) == 14
"""


def test_fixture(run_pytest: Pytest) -> None:
    run = run_pytest(FIXTURE)
    assert run.returncode == 0, run.stdout
    assert "monosemantic_scale: 1 passed" in run.stdout


def test_fixture_fails_with_the_report(run_pytest: Pytest) -> None:
    test = FIXTURE.replace("/ np.where(below > 0, below, np.nan)", "/ np.sqrt(variance)")
    run = run_pytest(test, "-W", "ignore")
    assert run.returncode == 1
    failures, summary = run.stdout.split("minimono oracle ===")
    assert "2 passed, 12 failed, 18 skipped" in failures
    assert "pytest_plugin.py" not in failures
    assert 'match "standard deviation where the variance is meant"' in summary


SKIPPED = RIGHT.replace("def test_my_scale(check):\n    check()", """def test_my_scale(check):
    import pytest
    pytest.skip("no device")

def test_all_in_one(minimono_check, monkeypatch):
    from minimono.oracle import runner
    monkeypatch.setattr(runner, "reason_to_skip", lambda *_: "no device")
    minimono_check({"monosemantic_scale": my_scale})
""")


def test_if_all_is_skipped_it_says_that_nothing_was_checked(run_pytest: Pytest) -> None:
    run = run_pytest(SKIPPED)
    assert run.returncode == 1
    assert "monosemantic_scale: nothing was checked, 14 skipped" in run_pytest(
        SKIPPED, "--deselect", "test_theirs.py::test_all_in_one"
    ).stdout
    assert "note: nothing was checked, so nothing is known" in run.stdout
    assert "1 failed, 14 skipped" in run.stdout


@pytest.mark.parity
def test_pytorch(run_pytest: Pytest) -> None:
    pytest.importorskip("torch")
    test = """
import torch
from minimono import oracle

def my_scale(z, mean, variance, *, compensation=0.0):
    below = variance + compensation * variance.mean()
    return (z - mean) ** 2 / torch.where(below > 0, below, torch.nan)

@oracle.parametrize_with_checks({"monosemantic_scale": my_scale}, convert=torch.from_numpy)
def test_my_scale(check):
    check()
"""
    run = run_pytest(test, "-p", "minimono")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "monosemantic_scale: 14 passed" in run.stdout


def test_importing_the_plugin_costs_little() -> None:
    """pytest imports it in every run where minimono is installed, whoever runs what."""
    script = (
        "import sys, time, pytest\n"
        "began = time.perf_counter()\n"
        "import minimono.oracle.pytest_plugin\n"
        "print(time.perf_counter() - began, *{name.partition('.')[0] for name in sys.modules})"
    )
    best = 1.0
    for _ in range(5):
        run = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
        )
        seconds, *loaded = run.stdout.split()
        assert not {"numpy", "numba", "matplotlib", "tqdm", "torch", "jax"} & set(loaded)
        best = min(best, float(seconds))
    assert best < 0.05, f"importing the plugin takes {best:.3f} s"
