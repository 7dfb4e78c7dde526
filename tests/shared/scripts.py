"""Scripts as modules: of `demos/` and `docs/`, which belong to no package."""

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def imported(script: str) -> Iterator[ModuleType]:
    """The module that `ROOT/script` is; in this block others can import it by its name."""
    path = ROOT / script
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look themselves up there, too
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        del sys.modules[path.stem]


def names_of(script: str) -> ModuleType:
    """The names that a script defines, without what it does when it is run."""
    with imported(script) as module:
        return module
