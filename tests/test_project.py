"""What the project says of itself: its name, what it needs, its commands."""

import re
import runpy
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
constraints = runpy.run_path(str(ROOT / "tests/lowest.py"))["constraints"]
TEXTS = [
    *ROOT.glob("*.md"), *ROOT.glob(".ci/*"), ROOT / "Makefile", ROOT / "pyproject.toml",
    *(
        file for folder in ("minimono", "benchmarks", "docs", "demos", "tests")
        for suffix in ("py", "md", "rst") for file in (ROOT / folder).rglob(f"*.{suffix}")
        if "_build" not in file.parts and file != Path(__file__)
    ),
]


def tells_to_install_another(text: str) -> list[str]:
    """What would fetch the `minimono` of the public index, which is somebody else's."""
    return re.findall(r"pip install[^\n]*[ \"']minimono(?![\w/-])|minimono\[[a-z]\w*\]", text)


@pytest.mark.parametrize("file", TEXTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_nobody_is_sent_to_a_package_that_is_not_ours(file: Path) -> None:
    assert tells_to_install_another(file.read_text(encoding="utf-8")) == []


def test_what_would_send_them_there_is_found() -> None:
    for wrong in ('pip install "minimono[demos]"', "pip install minimono", "minimono[cuda12]",
                  "python -m pip install -q 'minimono'"):
        assert tells_to_install_another(wrong)
    for right in ("pip install -e '.[demos]'", "pip install minimono-reference", "minimono demo"):
        assert not tells_to_install_another(right)


def test_the_distribution_has_a_name_of_its_own() -> None:
    assert PROJECT["name"] == "minimono-reference"
    assert PROJECT["scripts"] == {"minimono": "minimono.__main__:main"}
    assert PROJECT["entry-points"]["pytest11"] == {"minimono": "minimono.oracle.pytest_plugin"}


def test_lowest_versions_are_read_from_the_project() -> None:
    found = constraints((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert {"numpy==2.0", "numba==0.61", "matplotlib==3.9", "tqdm==4.66"} <= set(found)
    assert not any(line.startswith(("ruff", "mypy")) for line in found)
    with pytest.raises(AssertionError, match="expected NAME>=LOWEST"):
        constraints('[project]\ndependencies = ["numpy"]\noptional-dependencies.test = []')
