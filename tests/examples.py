"""Run the examples of pages and modules, each file in a process in which nothing of ours is loaded:

    python -P tests/examples.py FILES

A page's fences share one namespace. A docstring runs by itself, with its module's names, and finds
nothing loaded that the module does not load. So no example owes anything to another file's.
Other people's libraries are loaded before, once: that takes most of the time. Without arguments it
reads the files' names from its input and answers each with a line, for conftest.py.
"""

import ast
import doctest
import json
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from unittest import SkipTest

import matplotlib.pyplot  # noqa: F401
import numba
import numpy as np  # noqa: F401
from sybil import Sybil
from sybil.example import SybilFailure
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

numba.njit(lambda x: x)(1.0)  # at its first function Numba loads as much again

ROOT = Path(__file__).resolve().parents[1]
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
PAGE = Sybil([PythonCodeBlockParser(doctest_optionflags=OPTIONS), SkipParser()])


def failures_of(file: Path) -> str:
    """What goes wrong in the examples of a page or a module; nothing, if nothing does."""
    return alone(lambda: of_page(file) if file.suffix == ".md" else of_module(file))


def of_page(page: Path) -> str:
    """The first example that fails, since the rest may build on it."""
    for example in PAGE.parse(page).examples():
        try:
            example.evaluate()
        except SkipTest:  # the page says why
            continue
        except SybilFailure as failure:
            return str(failure)
    return ""


def of_module(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    module = import_module(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    failures = []
    for test in docstrings(file):
        test.globs = dict(vars(module))
        failures.append(alone(lambda test=test: of_docstring(test)))
    return "".join(failures)


def of_docstring(test: doctest.DocTest) -> str:
    said: list[str] = []
    doctest.DocTestRunner(optionflags=OPTIONS).run(test, out=said.append)
    return "".join(said)


def docstrings(file: Path) -> Iterator[doctest.DocTest]:
    """Those that hold examples, of whatever is defined in a file, decorated or not."""
    parser = doctest.DocTestParser()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node, clean=False)
            if text and ">>>" in text:
                name = getattr(node, "name", file.stem)
                yield parser.get_doctest(text, {}, name, str(file), node.body[0].lineno - 1)


def alone(work: Callable[[], str]) -> str:
    """What `work` says, in a copy of this process, which does not see what it loads or changes."""
    inlet, outlet = os.pipe()
    with warnings.catch_warnings():  # JAX, if a test has loaded it, warns of forks
        warnings.simplefilter("ignore")
        child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno())
        signal.alarm(300)  # the end of what hangs
        with open(outlet, "w", encoding="utf-8") as pipe:
            try:
                pipe.write(work())
            except BaseException:
                pipe.write(traceback.format_exc())
        os._exit(0)
    os.close(outlet)
    with open(inlet, encoding="utf-8") as pipe:
        said = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return said + (f"the process ended with status {status}\n" if status else "")


if __name__ == "__main__":
    if sys.argv[1:]:
        failures = [failures_of(Path(name).resolve()) for name in sys.argv[1:]]
        sys.exit("\n".join(filter(None, failures)) or 0)
    for line in sys.stdin:
        print(json.dumps(failures_of(Path(line.strip()))), flush=True)
