"""Somebody else's project: an empty folder in which minimono is installed, and pytest."""

import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minimono.oracle import diagnosis
from minimono.oracle.case import Case
from minimono.oracle.suite import Suite

ROOT = Path(__file__).resolve().parents[2]
Pytest = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def replies() -> dict[tuple[int, str], Any]:
    """Of known mistakes, which live as long as the process, to cases."""
    return {}


@pytest.fixture
def remembered(
    replies: dict[tuple[int, str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mistake's reply to a case is worked out once, not once for each that is diagnosed."""
    work_out = diagnosis.reply_of

    def reply_of(mistake: Any, suite: Suite, case: Case) -> Any:
        key = id(mistake), case.id
        if key not in replies:
            replies[key] = work_out(mistake, suite, case)
        return replies[key]

    monkeypatch.setattr(diagnosis, "reply_of", reply_of)


@pytest.fixture
def run_pytest(tmp_path: Path) -> Pytest:
    """Run pytest on a test file in an empty project, with the entry points of pyproject.toml.

    minimono may be there without having been installed, so the entry points are written down as an
    installer does it.
    """
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [
        f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in entries.items())
        for group, entries in declared["entry-points"].items()
    ]
    installed = tmp_path / "site/minimono_reference-0.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {declared['name']}\nVersion: 0\n"
    )
    (installed / "entry_points.txt").write_text("\n".join(lines))
    project = tmp_path / "project"
    project.mkdir()

    def run(
        test: str, *options: str, autoload: bool | None = None
    ) -> subprocess.CompletedProcess[str]:
        """autoload: all plugins that are installed; else ours alone, in a fifth of the time."""
        if autoload is None:
            options = ("-p", "minimono", *options)
        (project / "test_theirs.py").write_text(test, encoding="utf-8")
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
        environment["PYTHONPATH"] = os.pathsep.join([str(installed.parent), str(ROOT)])
        if not autoload:
            environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options],
            cwd=project, env=environment, capture_output=True, text=True, timeout=120,
        )

    return run
