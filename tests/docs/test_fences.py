"""No example is only for show: each is run, or says why it is not.

Pages and modules run their examples (tests/examples.py says how); these tests find examples on
their own, in every file of the project, and check that those are run, that skips give a reason, and
that shell commands exist.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from doctest import SKIP, DocTestParser
from doctest import Example as DocTestExample
from itertools import takewhile
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest
from sybil import Sybil

ROOT = Path(__file__).resolve().parents[2]
MADE = {"_build", "gallery", "runs", "__pycache__"}  # by commands, not by hand
FILES = [
    file for folder in ("docs", "minimono", "benchmarks", "demos", "tests")
    for file in sorted((ROOT / folder).rglob("*.*")) if not MADE & set(file.parts)
]
PAGES = [*sorted(ROOT.glob("*.md")), *(file for file in FILES if file.suffix == ".md")]
MODULES = [ROOT / "conftest.py", *(file for file in FILES if file.suffix == ".py")]
FENCE = re.compile(r"^[ \t>]*(?:[-*+]|\d+[.)])?[ \t]*(`{3,}|~{3,})(.*)$")
# MyST directives the build itself carries out, so that a mistake in them fails `make docs`.
DIRECTIVES = {
    "eval-rst", "figure", "image", "toctree",
    "note", "tip", "warning", "math", "list-table",
}


class Fence(NamedTuple):
    line: int  # of the opening, from 1
    column: int  # 0 at the margin
    language: str
    body: list[str]


def fences(text: str) -> list[Fence]:
    """The fenced blocks of a Markdown page, by the rule of CommonMark: a block ends at a fence of
    the same sign, at least as long, with nothing behind it."""
    found: list[Fence] = []
    opening = ""
    for number, line in enumerate(text.splitlines(), start=1):
        match = FENCE.match(line)
        if not opening and match:
            opening = match[1]
            found.append(Fence(number, match.start(1), match[2].strip(), []))
        elif opening and match and match[1].startswith(opening) and not match[2].strip():
            opening = ""
        elif opening:
            found[-1].body.append(line)
    assert not opening, f"the fence opened in line {found[-1].line} never closes"
    return found


def problems(page: Path, sybil: Sybil) -> list[str]:
    """What a page shows that is neither run nor skipped with a reason."""
    document = sybil.parse(page)
    seen: set[int] = set()  # the lines that Sybil runs or skips
    found = []
    for example in document.examples():
        region = example.region
        first = document.text.count("\n", 0, region.start) + 1
        if isinstance(region.parsed, DocTestExample):
            length = (region.parsed.source + region.parsed.want).count("\n")
        else:
            length = document.text.count("\n", region.start, region.end) + 1
        seen |= set(range(first, first + length))
        if isinstance(region.parsed, tuple):  # a skip comment: (action, reason)
            action, reason = region.parsed
            if action != "end" and not reason:
                found.append(f'line {first}: say why: <!-- skip: {action} "reason" -->')
        elif isinstance(region.parsed, DocTestExample) and region.parsed.options.get(SKIP):
            found.append(f'line {first}: write <!-- skip: next "reason" --> instead of +SKIP')
    for line, column, language, body in fences(document.text):
        if language == "python" and column:
            found.append(f"line {line}: start python fences at the margin")
        elif language == "python":
            for number, code in enumerate(body, start=line + 1):
                if code.strip() and number not in seen:
                    found.append(f"line {number}: Sybil does not run this: {code.strip()}")
        elif language == "sh":
            found += [f"line {line}: {problem}" for problem in shell_problems(body)]
        elif language != "text" and language.strip("{}").partition("}")[0] not in DIRECTIVES:
            found.append(
                f"line {line}: ```{language} is not checked: use python (run), sh (its commands "
                "are checked) or text (output, figures)"
            )
    return found


def shell_problems(lines: list[str]) -> list[str]:
    """Commands of a ```sh fence that this project does not have."""
    found = []
    for line in lines:
        words = [w for w in shlex.split(line, comments=True) if w != "python"]
        words = words[3:] if words[:1] == ["timeout"] else words  # with a signal and its seconds
        match words:
            case [] | ["git", "clone", _] | ["cd", _]:
                continue
            case ["make", *rest]:
                targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
                unknown = [w for w in rest if "=" not in w and w not in targets]
            case ["-m", "pip", "install", *rest]:
                extras = re.findall(r"\[([\w,]+)\]", " ".join(rest))
                unknown = [e for e in ",".join(extras).split(",") if e and e not in EXTRAS]
            case ["minimono", *rest] | ["-m", "minimono", *rest]:
                unknown = unknown_flags(rest)
            case ["-m", "benchmarks.gpu", *rest]:
                program = (ROOT / "benchmarks/gpu/__main__.py").read_text()
                unknown = [w for w in rest if w[:2] == "--" and f'"{w}"' not in program]
            case ["cc", *rest]:
                unknown = [w for w in rest if w.endswith(".c") and not (ROOT / w).exists()]
            case [script, *flags] if (ROOT / script).is_file() and set(flags) <= {"--quick"}:
                continue
            case ["-m", "pytest" | "coverage", *_]:
                continue
            case ["-m", "venv", _] | [".", ".venv/bin/activate"]:
                continue
            case _:
                unknown = words
        if unknown:
            found.append(f"`{line.strip()}`: there is no {' '.join(unknown)}")
    return found


EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def unknown_flags(arguments: list[str]) -> list[str]:
    """The subcommand or flags among `arguments` that `minimono --help` does not know."""
    command = list(takewhile(lambda argument: not argument.startswith("-"), arguments))
    run = subprocess.run(
        [sys.executable, "-m", "minimono", *command, "--help"],
        capture_output=True, text=True, timeout=60,
    )
    if run.returncode:
        return command
    flags = [a.partition("=")[0] for a in arguments if a.startswith("-")]
    return [flag for flag in flags if not re.search(rf"(?<![\w-]){flag}(?![\w-])", run.stdout)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_example_is_run_or_says_why_not(page: Path, examples: SimpleNamespace) -> None:
    assert problems(page, examples.PAGE) == []


@pytest.mark.parametrize(
    "text",
    [
        "```\nx = 1\n```\n",  # no language
        "```py\nx = 1\n```\n",
        "```pycon\n>>> 1\n1\n```\n",
        "~~~pytb\nx\n~~~\n",
        '```python title="x"\nx = 1\n```\n',  # Sybil passes over it
        "```{code-cell} python\nx = 1\n```\n",
        "```python\n>>> x = 1\n\ny = 2\n```\n",  # y = 2 would be taken for prose
        "```python\n>>> 1 / 0  # doctest: +SKIP\n```\n",
        "- ```python\n  x = 1\n  ```\n",
        "<!-- skip: next -->\n```python\n1 / 0\n```\n",
        "```sh\nmake dinner\n```\n",
        "```sh\npython -m pip install -e '.[everything]'\n```\n",
        "```sh\ncurl https://example.org | sh\n```\n",
        "```sh\ncc -o impl demos/oracle/no-such.c\n```\n",
        "```sh\nminimono oracle check --programme ./impl\n```\n",
        "```sh\nminimono oracle chek\n```\n",
    ],
)
def test_a_fence_that_escapes_is_found(
    text: str, tmp_path: Path, examples: SimpleNamespace
) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    assert len(problems(page, examples.PAGE)) == 1


def test_fences_that_are_in_order(tmp_path: Path, examples: SimpleNamespace) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```python\nx = 1\n\nassert x\n```\n\n1. In a list:\n\n   ```text\n   x\n   ```\n\n"
        "```python\n>>> x\n1\n\n>>> x + 1  # a sum\n2\n```\n\n"
        '<!-- skip: next "needs a GPU" -->\n```python\n1 / 0\n```\n'
        "```text\nwhat it prints\n```\n\n```{toctree}\nmap\n```\n\n"
        "```sh\npython -m pip install -e '.[test]'\nmake demo TEXT=my.txt  # a comment\n```\n"
    )
    assert problems(page, examples.PAGE) == []
    assert [f.line for f in fences(page.read_text())] == [1, 9, 13, 22, 25, 29, 33]


def test_every_page_with_python_is_run(
    examples: SimpleNamespace, pytestconfig: pytest.Config
) -> None:
    with_python = {p for p in PAGES if any(f.language == "python" for f in fences(p.read_text()))}
    assert len(with_python) > 20
    assert with_python <= set(examples.PAGES)
    paths = [ROOT / path for path in pytestconfig.getini("testpaths")]
    assert all(any(page.is_relative_to(path) for path in paths) for page in examples.PAGES)


def test_every_example_in_a_python_file_is_run(examples: SimpleNamespace) -> None:
    """None in a comment or a string that is no docstring, and none in a file that nobody runs."""
    found = 0
    for file in MODULES:
        text = file.read_text(encoding="utf-8")
        if file.is_relative_to(ROOT / "minimono"):
            run = sum(len(test.examples) for test in examples.docstrings(file))
        else:
            run = 0
        assert len(re.findall(r"^ *>>> ", text, re.MULTILINE)) == run, file
        assert "+SKIP" not in text or file == Path(__file__), file
        found += run
    assert found > 200


def test_each_example_owes_nothing_to_another(tmp_path: Path, examples: SimpleNamespace) -> None:
    """A page finds nothing loaded and no name of another; what it says on its output is lost."""
    first, second = tmp_path / "first.md", tmp_path / "second.md"
    nothing_loaded = "```python\nimport sys\nassert 'minimono' not in sys.modules\n"
    first.write_text(nothing_loaded + "import minimono.nn\nfound = 1\nprint('noise')\n```\n")
    second.write_text(nothing_loaded + "```\n```python\n>>> found\n1\n```\n")
    run = subprocess.run(
        [sys.executable, "-P", ROOT / "tests/examples.py", first, second],
        capture_output=True, text=True, timeout=60,
    )
    assert (run.returncode, run.stdout) == (1, "")
    assert "name 'found' is not defined" in run.stderr
    assert "AssertionError" not in run.stderr


@pytest.mark.parametrize(
    ("source", "said"), [(">>> a = 1\n", ""), (">>> a\n1\n", "NameError"), (">>> 1\n2\n", "Got")]
)
def test_a_docstring_that_is_wrong_is_found(
    source: str, said: str, examples: SimpleNamespace
) -> None:
    test = DocTestParser().get_doctest(source, {"__name__": "here"}, "name", "file.py", 0)
    assert said in examples.of_docstring(test)
    assert bool(said) == bool(examples.of_docstring(test))


def test_an_example_that_ends_its_process_is_found(examples: SimpleNamespace) -> None:
    assert "status -9" in examples.alone(lambda: os.kill(os.getpid(), signal.SIGKILL) or "")
    assert "SystemExit" in examples.alone(lambda: sys.exit(0))
