"""The page of public names leaves no public module out."""

import re
from pathlib import Path
from types import ModuleType

import minimono

API = Path(__file__).resolve().parents[2] / "docs/api.md"


def test_every_public_module_is_on_the_page() -> None:
    shown = re.findall(r"^\.\. automodule:: ([\w.]+)$", API.read_text(), re.MULTILINE)
    public = [getattr(minimono, name) for name in minimono.__all__]
    modules = {value.__name__ for value in public if isinstance(value, ModuleType)}
    assert modules <= set(shown)
