"""The tables of docs/architecture.md against the files and their imports."""

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "minimono"
PAGE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")


def module_name(file: Path) -> str:
    """"nn.models.gpt" for minimono/nn/models/gpt.py, "nn" for minimono/nn/__init__.py."""
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {
    module_name(f): f.read_text(encoding="utf-8") for f in sorted(PACKAGE.rglob("*.py"))
}
PACKAGES = {module_name(f) for f in PACKAGE.rglob("__init__.py")}


def imported(source: str) -> Iterator[str]:
    """Every absolute name that a file imports, at its top or later, by statement or by string."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not used here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and "import" in ast.unparse(node.func):
            yield from (a.value for a in node.args if isinstance(a, ast.Constant))


def own_imports(source: str) -> set[str]:
    """The modules of minimono that a file imports."""
    found = set()
    for name in imported(source):
        if name.partition(".")[0] != "minimono":
            continue
        parts = name.split(".")[1:]
        while parts and ".".join(parts) not in SOURCES:  # a name in a module: drop it
            parts.pop()
        found.add(".".join(parts))
    return found


def rows(heading: str) -> list[list[str]]:
    """The cells of the table below a heading of the page."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


MAY_IMPORT = {
    part: set(code(allowed))
    for parts, allowed, _ in rows("What may import what")
    for part in code(parts)
}
TOGETHER = {
    part: set(code(parts)) for parts, _, _ in rows("What may import what") for part in code(parts)
}


def part_of(module: str) -> str:
    """The row that holds for a module: the longest that names it or a folder above it."""
    fitting = [p for p in MAY_IMPORT if module == p or module.startswith(p + ".")]
    assert fitting, f"{module}: no row of the table says what it may import"
    return max(fitting, key=len)


def forbidden(module: str, source: str) -> list[str]:
    """What a module imports though its row does not allow it."""
    part = part_of(module)
    allowed = TOGETHER[part] | MAY_IMPORT[part]
    if part in TOGETHER["cli"]:
        allowed |= {""}  # the package itself: only its outermost part may
    return sorted(
        other for other in own_imports(source)
        if not any(other == a or (a and other.startswith(a + ".")) for a in allowed)
    )


@pytest.mark.parametrize("module", [m for m in SOURCES if m])
def test_imports_are_those_the_page_allows(module: str) -> None:
    assert forbidden(module, SOURCES[module]) == []


def test_no_circles() -> None:
    # A package's own file only collects names; the kernels' holds the switch and imports nothing.
    graph = {m: own_imports(s) - PACKAGES for m, s in SOURCES.items() if m not in PACKAGES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"imports go round in a circle: {' -> '.join(error.args[1])}")


def test_only_the_backend_imports_cupy() -> None:
    users = [
        m for m, s in SOURCES.items()
        if any(n.partition(".")[0] in ("cupy", "cupyx") for n in imported(s))
    ]
    assert users == ["backend"]


def test_the_page_names_every_file() -> None:
    named = [name for file, _ in rows("Every file and its idea") for name in code(file)]
    files = {str(f.relative_to(PACKAGE)) for f in PACKAGE.rglob("*.py")}
    initials = {f for f in files if f.endswith("__init__.py") and f != "kernels/__init__.py"}
    assert len(named) == len(set(named))
    missing, gone = files - initials - set(named), set(named) - files
    assert not missing, f"docs/architecture.md, table of files: add {sorted(missing)}"
    assert not gone, f"docs/architecture.md, table of files: {sorted(gone)} is no more"


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("engine.tensor", "from minimono.nn import taps"),
        ("engine.tensor", "from minimono import mono"),
        ("engine.tensor", "def f():\n    import minimono.nn.module"),
        ("engine.tensor", "import_module('minimono.nn.module')"),
        ("engine.tensor", "import minimono"),
        ("nn.layers", "from minimono.mono import MEmeL"),
        ("mono.scale", "from minimono.engine.tensor import Tensor"),
        ("mono.moments", "from minimono.mono.inhibition import deactivate"),
        ("mono.inhibition", "from minimono.data.text import read_text"),
        ("backend", "from minimono import kernels"),
        ("kernels.cpu.softmax", "from minimono.engine import functional"),
        ("gradcheck", "from minimono import nn"),
        ("mono.moments", "from minimono import mono"),
    ],
)
def test_a_wrong_import_is_found(module: str, source: str) -> None:
    assert forbidden(module, source)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("mono.scale", "from minimono.mono.moments import Moments\nfrom minimono import kernels"),
        ("mono.inhibition", "from minimono.nn.module import Module\nfrom math import pi"),
        ("cli", "import minimono\nfrom minimono.mono import MEmeL"),
        ("nn.models.gpt", "from minimono.nn.layers import Linear\nimport numpy as np"),
    ],
)
def test_a_right_import_passes(module: str, source: str) -> None:
    assert forbidden(module, source) == []
