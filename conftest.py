"""What pytest knows beyond `tests/`: examples in pages and docstrings, and how properties run."""

import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import Phase, settings

os.environ.setdefault("MPLBACKEND", "agg")  # pictures are drawn without a screen

# Numba compiles on the first call, so a deadline would measure the compiler. In CI the same
# examples run every time: a red run there is reproduced by running it again.
settings.register_profile("minimono", deadline=None)
settings.register_profile("minimono-ci", deadline=None, derandomize=True, print_blob=True)
# For `make mutants`: a failure is enough, nobody reads the smallest example.
settings.register_profile(
    "minimono-mutants", deadline=None, derandomize=True, database=None,
    phases=[Phase.explicit, Phase.generate],
)
settings.load_profile("minimono-ci" if os.environ.get("CI") else "minimono")

ROOT = Path(__file__).parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *(p for p in sorted(ROOT.glob("docs/**/*.md")) if not {"_build", "gallery"} & set(p.parts)),
]


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> "FileWithExamples | None":
    is_module = file_path.suffix == ".py" and file_path.is_relative_to(ROOT / "minimono")
    if is_module or file_path in PAGES:
        return FileWithExamples.from_parent(parent, path=file_path)
    return None


class FileWithExamples(pytest.File):
    """A page or a module whose examples run in a process of their own: `tests/examples.py`."""

    def collect(self) -> Iterator["Examples"]:
        if re.search(r"^ *(>>> |```python)", self.path.read_text(encoding="utf-8"), re.MULTILINE):
            yield Examples.from_parent(self, name="examples")


class Examples(pytest.Item):
    def runtest(self) -> None:
        runner = examples_runner()
        assert runner.stdin is not None
        assert runner.stdout is not None
        print(self.path, file=runner.stdin, flush=True)
        failures = json.loads(runner.stdout.readline())
        if failures:
            pytest.fail(failures, pytrace=False)

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, 0, f"the examples of {self.path.relative_to(ROOT)}"


@cache
def examples_runner() -> "subprocess.Popen[str]":
    command = [sys.executable, "-P", "-W", "error", ROOT / "tests/examples.py"]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)


def pytest_sessionfinish() -> None:
    if examples_runner.cache_info().currsize:
        with examples_runner() as runner:  # closes its input, and waits for its end
            runner.stdin.close()


@pytest.fixture(scope="session")
def examples() -> SimpleNamespace:
    """The pages, and what finds examples: `tests/docs/test_fences.py` looks for those it misses."""
    return SimpleNamespace(PAGES=PAGES, **runpy.run_path(str(ROOT / "tests/examples.py")))


@pytest.fixture(autouse=True)
def switches_are_left_as_found() -> Iterator[None]:
    """Fail the test, and not some later one, that leaves kernels or the tape switched off."""
    from minimono import kernels
    from minimono.engine import tape

    yield
    left_off = []
    if not kernels.enabled():
        kernels._enabled.set(True)
        left_off.append("kernels (minimono.reference())")
    if not tape.is_recording():
        tape._recording.set(True)
        left_off.append("the tape (minimono.no_grad())")
    assert not left_off, f"left switched off: {', '.join(left_off)}"
