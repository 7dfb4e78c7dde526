"""The tests marked `gpu`, in a process that is started again behind one that hangs or breaks it.

The machine need not have what our tests use beside pytest: a test of Hypothesis is skipped, and
settings that pytest would read from pyproject.toml are given here, whatever its version.
"""

from __future__ import annotations

import importlib.machinery
import json
import os
import re
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import IO, Any

import pytest

from benchmarks.gpu.children import Event, voice, watched

ROOT = Path(__file__).resolve().parents[2]
SILENCE = 40.0  # seconds: of one test, or of collecting them
MOST_STARTS = 8
BROKEN = 3  # exit code of a process to which the device answers no more
ON_DEVICE = re.compile(r"mark\.gpu|\bcuda\b|def test_\w+\(device\b")  # of a file's text
# No plugins but ours: the machine may have some that change what tests do.
ENVIRONMENT = {"CI": "true", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""}
EXTRAS = ("hypothesis", "mpmath", "sklearn")  # that tests import at their top


def files(stand_in: bool = False) -> list[str]:
    """The files that may have tests marked `gpu`: to collect all would take a minute."""
    tests = sorted((ROOT / "tests").rglob("test_*.py"))
    found = [f for f in tests if ON_DEVICE.search(f.read_text("utf-8"))]
    if stand_in:  # which never lets anybody wait
        found = [f for f in found if f.name != "test_gpu_waits.py"]
    # What counts most comes first: the kernels, one by one.
    return [str(f) for f in sorted(found, key=lambda f: f.parent.name != "gpu")]


def run(
    paths: Sequence[str], record: dict[str, Any], written: Callable[[], None], log: IO[str],
    seconds: Callable[[], float], *, command: Sequence[str], silence: float = SILENCE,
    workers: int = 1,
) -> None:
    """Run the tests of these files; `record` has an entry for each that ended, and how.

    Each of the workers runs its share: most of the time goes into compiling, which needs no device.
    """
    record |= {"tests": {}, "ended": "", "warnings": {}, "collected": 0}
    lock = threading.Lock()

    def share(number: int) -> str:
        todo = Path(log.name).with_suffix(f".todo{number}")
        running, told_of, ended = "", 0, ""

        def hear(event: Event) -> None:
            nonlocal running, told_of
            with lock:
                if "begin" in event:
                    running = event["begin"]
                elif "warning" in event:
                    count = record["warnings"].get(event["warning"], 0)
                    record["warnings"][event["warning"]] = count + 1
                elif "collected" in event:  # the first time it is all of the share
                    record["collected"] += 0 if told_of else event["collected"]
                    told_of = 1
                else:
                    record["tests"][event.pop("test")] = event
                    running = ""
                written()

        for _ in range(MOST_STARTS):
            if seconds() <= 0:
                return "no time was left"
            with lock:
                done = list(record["tests"])
            asked = {"paths": list(paths), "done": done, "number": number, "workers": workers}
            todo.write_text(json.dumps(asked), encoding="utf-8")
            ended = watched(
                [*command, str(todo)], hear, seconds=seconds(), silence=silence, log=log,
                environment=ENVIRONMENT,
            )
            todo.unlink()
            if running and seconds() > 0:  # what it was doing when it hung or broke
                hear({"test": running, "outcome": "failed", "why": ended, "seconds": 0.0})
            elif not ended.endswith(f"code {BROKEN}"):
                break  # done; or it came to nothing, and would again
        return ended

    with ThreadPoolExecutor(workers) as pool:
        record["ended"] = "; ".join(sorted({e for e in pool.map(share, range(workers)) if e}))
    written()


# ---- in the process of the tests ----------------------------------------------------------------


def main(todo: str) -> int:
    """Run pytest over what is to be done, and send an event for each test's begin and end."""
    send = voice()
    work = json.loads(Path(todo).read_text(encoding="utf-8"))
    sys.meta_path.append(_Finder())  # asked last
    sys.path[:0] = [str(ROOT), str(ROOT / "tests/shared")]
    options = [
        "-m", "gpu", "--import-mode=importlib", "--continue-on-collection-errors", "-rN", "-q",
        "-W", "default", "-p", "no:cacheprovider", "--tb=short", "-o", "strict_markers=false",
        "--rootdir", str(ROOT),
    ]
    code = int(pytest.main([*options, *work["paths"]], plugins=[_Plugin(send, work)]))
    return 0 if code in (0, 1, 5) else 10 + code  # failed tests have been told one by one


class _Plugin:
    def __init__(self, send: Callable[[Event], None], work: dict[str, Any]):
        self.send, self.work = send, work
        self.worst: dict[str, Event] = {}

    def pytest_configure(self, config: Any) -> None:
        config.addinivalue_line("markers", "gpu: needs a CUDA device and CuPy")

    @pytest.hookimpl(trylast=True)  # when those that are not marked have gone
    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        mine, done = items[self.work["number"] :: self.work["workers"]], set(self.work["done"])
        items[:] = [item for item in mine if item.nodeid not in done]

    def pytest_collection_finish(self, session: Any) -> None:
        self.send({"collected": len(session.items)})

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.send({"test": report.nodeid, "outcome": "failed", "why": _last(report),
                       "seconds": 0})

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.send({"begin": nodeid})
        self.worst[nodeid] = {"test": nodeid, "outcome": "passed", "seconds": 0.0}

    def pytest_runtest_logreport(self, report: Any) -> None:
        found = self.worst[report.nodeid]
        found["seconds"] += report.duration
        if report.failed or (report.skipped and found["outcome"] == "passed"):
            found |= {"outcome": report.outcome, "why": _last(report)}

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        found = self.worst.pop(nodeid)
        self.send(found)
        if found["outcome"] == "failed" and _broken():
            os._exit(BROKEN)  # every later test would fail with it

    def pytest_warning_recorded(self, warning_message: Any) -> None:
        kind = warning_message.category.__name__
        self.send({"warning": f"{kind}: {str(warning_message.message)[:300]}"})


def _last(report: Any) -> str:
    """The end of what pytest says of a failure."""
    if report.skipped and isinstance(report.longrepr, tuple):
        return str(report.longrepr[2])
    return str(report.longrepr)[-3000:]


def _broken() -> bool:
    """Whether the device answers no more, as after a write to a wrong address."""
    cupy = sys.modules.get("cupy")
    if cupy is None:
        return False
    try:
        cupy.cuda.Device().synchronize()
    except Exception:
        return True
    return False


class _Finder:
    """Finds the extras that nobody else has found."""

    def find_spec(self, name: str, *where: Any) -> importlib.machinery.ModuleSpec | None:
        missing = name.partition(".")[0] in EXTRAS
        return importlib.machinery.ModuleSpec(name, self) if missing else None  # type: ignore[arg-type]

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _Missing(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing in it."""


class _Missing(ModuleType):
    """Stands for a library that is not there: tests that it decorates are skipped."""

    def __init__(self, name: str):
        super().__init__(name)
        self.__path__: list[str] = []  # as of a package: what is in it is missing too

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Missing(self.__name__)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        (function,) = arguments if len(arguments) == 1 else (None,)
        if getattr(function, "__name__", "").startswith("test_"):
            return pytest.mark.skip(reason=f"{self.__name__} is not installed")(function)
        return _Missing(self.__name__)

    def __or__(self, other: Any) -> Any:
        return self
