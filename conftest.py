"""What pytest knows beyond `tests/`: examples in pages and docstrings, and how properties run."""

import os
from collections.abc import Iterator
from doctest import ELLIPSIS, NORMALIZE_WHITESPACE

import pytest
from hypothesis import Phase, settings
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser
from sybil.parsers.rest import DocTestParser
from sybil.sybil import SybilCollection

os.environ.setdefault("MPLBACKEND", "agg")  # pictures are drawn without a screen

# Numba compiles on the first call, so a deadline would measure the compiler. In CI the same
# examples run every time: a red run there is reproduced by running it again.
settings.register_profile("minimono", deadline=None)
settings.register_profile("minimono-ci", deadline=None, derandomize=True, print_blob=True)
# For `make mutants`: a failure is enough, nobody reads the smallest example.
settings.register_profile(
    "minimono-mutants", deadline=None, derandomize=True, database=None,
    phases=[Phase.explicit, Phase.generate],
)  # fmt: skip
settings.load_profile("minimono-ci" if os.environ.get("CI") else "minimono")

OPTIONS = ELLIPSIS | NORMALIZE_WHITESPACE
FIXTURES = ["switches_are_left_as_found"]


def pages(**where: object) -> Sybil:
    """Every ```python fence of a page: scripts and `>>>` sessions, one namespace a page."""
    parsers = [PythonCodeBlockParser(doctest_optionflags=OPTIONS), SkipParser()]
    return Sybil(parsers, fixtures=FIXTURES, **where)


README_AND_OTHERS = pages(filenames=["README.md", "CONTRIBUTING.md"])
DOCUMENTATION = pages(path="docs", pattern="*.md")
DOCSTRINGS = Sybil([DocTestParser(OPTIONS)], path="minimono", pattern="*.py", fixtures=FIXTURES)

pytest_collect_file = SybilCollection([README_AND_OTHERS, DOCUMENTATION, DOCSTRINGS]).pytest()


@pytest.fixture(scope="session")
def page_parser() -> Sybil:
    """For `tests/docs/test_fences.py`, which checks that no fence escapes the parsers above."""
    return DOCUMENTATION


@pytest.fixture(autouse=True)
def switches_are_left_as_found() -> Iterator[None]:
    """Fail the test, and not some later one, that leaves kernels or the tape switched off."""
    from minimono import kernels
    from minimono.engine import tensor

    yield
    left_off = []
    if not kernels.enabled():
        kernels._enabled.set(True)
        left_off.append("kernels (minimono.reference())")
    if not tensor.is_recording():
        tensor._recording.set(True)
        left_off.append("the tape (minimono.no_grad())")
    assert not left_off, f"left switched off: {', '.join(left_off)}"
