"""The path that README.md names is short, and holds no question about devices or kernels."""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "minimono"
SECTION = (ROOT / "README.md").read_text(encoding="utf-8").split("## Read it in an afternoon")[1]
PATH = re.findall(r"`((?:engine|nn|mono)/[a-z/_]+\.py)`", SECTION.split("\n## ")[0])

# Who asks about a device, besides the seam, which chooses, and backend, which knows:
ASKING = {
    "cli.py": "to report what is there",
    "data_parallel.py": "GPUs are not given parts by threads",
    "four_ways.py": "to wait before time is taken",
    "fused.py": "the way back takes the kernels of the output's device",
    "gradcheck.py": "points are drawn on the host",
    "primitive.py": "an error tells where its arguments are",
    "sums.py": "only the host can be asked whether a sum overflowed",
    "tensor.py": "`device`, and `__repr__`, which shows it",
}
QUESTION = re.compile(
    r"\bdevice_of\(|\bkernels\.enabled\(|\.device [!=]=|\bis_available\(|[\"']cuda[\"'] in "
)


def code_of(source: str) -> list[str]:
    """The lines that hold code: no docstrings, no comments, no blank lines."""
    documentation: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        if documented and ast.get_docstring(node):
            first = node.body[0]
            documentation.update(range(first.lineno, (first.end_lineno or 0) + 1))
    nothing = {
        tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
        tokenize.ENDMARKER,
    }
    held: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in nothing:
            held.update(range(token.start[0], token.end[0] + 1))
    lines = source.splitlines()
    return [lines[number - 1] for number in sorted(held - documentation)]


def test_the_path_is_read_in_an_afternoon() -> None:
    assert len(PATH) == len(set(PATH)) == 15
    sizes = {name: len(code_of((PACKAGE / name).read_text(encoding="utf-8"))) for name in PATH}
    total = sum(sizes.values())
    assert total <= 1800, f"the path has {total} lines of code, the README says 1,800: {sizes}"


@pytest.mark.parametrize("name", [n for n in PATH if n != "engine/tensor.py"])
def test_no_file_of_the_path_asks_for_a_device_or_chooses_a_kernel(name: str) -> None:
    asked = [line for line in code_of((PACKAGE / name).read_text(encoding="utf-8"))
             if QUESTION.search(line)]
    assert not asked, f"{name}: a kernel chooses by @with_kernel, a check is in a room of its own"


def test_one_place_chooses_and_eight_others_ask() -> None:
    asking = set()
    for file in PACKAGE.rglob("*.py"):
        if file.name == "backend.py" or "kernels" in file.relative_to(PACKAGE).parts[:1]:
            continue
        if any(QUESTION.search(line) for line in code_of(file.read_text(encoding="utf-8"))):
            asking.add(file.name)
    assert asking == set(ASKING)
    assert len(ASKING) <= 8


def test_the_formula_of_the_scale_stands_in_the_first_forty_lines() -> None:
    lines = (PACKAGE / "mono/scale.py").read_text(encoding="utf-8").splitlines()
    formula = "(deviation / denominator * deviation)"
    assert any(formula in line for line in lines[:40])


def test_no_file_of_the_package_fills_more_than_450_lines() -> None:
    long = {
        str(file.relative_to(PACKAGE)): count for file in PACKAGE.rglob("*.py")
        if (count := len(file.read_text(encoding="utf-8").splitlines())) > 450
    }
    assert not long
