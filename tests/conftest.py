"""Tests marked `gpu` run where there is one; `emulator` runs the CUDA kernels where there is none:
see `shared/emulated.py`.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
from emulated import MODULES, Emulated, Emulator, WithGarbage, stand_ins

from minimono import backend, kernels
from minimono.backend import array_module, is_available
from minimono.kernels.gpu import launch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if on_gpu and not is_available():
        for item in on_gpu:
            item.add_marker(pytest.mark.skip(reason="no CUDA device, or CuPy is not installed"))


def pytest_configure() -> None:
    """What was started with a Ctrl-C that does nothing, as in the background, would pass it on."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def with_and_without_numba() -> Callable[[str, str], tuple[Any, Any]]:
    """What a script leaves in `found`: here, and in a process in which Numba compiles nothing.

    (script, kernel): the second process makes sure that `kernel`, "file.name", is plain Python.
    """

    def run(script: str, kernel: str) -> tuple[Any, Any]:
        here: dict[str, Any] = {}
        exec(script, here)
        file, _, name = kernel.partition(".")
        there = subprocess.run(
            [
                sys.executable, "-W", "error", "-c",
                f"{script}\nfrom minimono.kernels.cpu import {file}\n"
                f"assert not hasattr({file}.{name}, 'py_func')\nprint(repr(found))",
            ],
            env={**os.environ, "NUMBA_DISABLE_JIT": "1"}, capture_output=True, text=True,
            timeout=60, check=True,
        )
        return here["found"], eval(there.stdout)

    return run


# ---- an emulator -------------------------------------------------------------------------------

@pytest.fixture(scope="session")
def compiled_here(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Emulated]:
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    folder = tmp_path_factory.mktemp("kernels")
    return cache(lambda code, name: Emulated(code, name, folder))


@pytest.fixture
def emulator(
    monkeypatch: pytest.MonkeyPatch, compiled_here: Callable[[str, str], Emulated]
) -> Emulator:
    """Kernels run here, on NumPy arrays; what `empty` gives must be written before it is read."""
    chosen = Emulator(compiled_here)
    monkeypatch.setattr(launch, "compiled", chosen.compiled)
    for module in MODULES:
        # Not `np.empty` itself: Numba would remember the other function.
        if hasattr(module, "array_module"):
            monkeypatch.setattr(module, "array_module", lambda *a: WithGarbage(array_module(*a)))
    return chosen


@pytest.fixture
def emulator_or_formulas(request: pytest.FixtureRequest) -> Iterator[None]:
    """Where there is no compiler, the stand-in for CuPy runs the reading versions only."""
    if shutil.which("g++"):
        request.getfixturevalue("emulator")
        yield
    else:
        with kernels.reference():
            yield


@pytest.fixture(params=["stand-in", pytest.param("real", marks=pytest.mark.gpu)])
def cuda(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The device "cuda": once a stand-in, which needs no GPU, and once the real one."""
    if request.param == "stand-in":
        request.getfixturevalue("emulator_or_formulas")
        for name, module in stand_ins().items():
            monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setattr(backend, "_cupy", None)
    return "cuda"
