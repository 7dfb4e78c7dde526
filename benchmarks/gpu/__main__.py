"""`python -m benchmarks.gpu`: run all of it, or make the page of a record."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from benchmarks.gpu import page, run, suite
from benchmarks.gpu.children import voice
from benchmarks.gpu.sizes import DEVICE, TINY
from benchmarks.gpu.timing import told

ROOT = Path(__file__).resolve().parents[2]


def main(argv: Sequence[str] | None = None) -> int:
    """Run; return the exit code: 0, 2 for bad input or where there is no GPU."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", allow_abbrev=False,
        description="Run the tests marked `gpu`, and measure what there is to measure on a GPU.",
    )
    parser.add_argument(
        "--out", default="runs/gpu", metavar="FOLDER", help="for gpu.json, gpu.log (%(default)s)"
    )
    parser.add_argument(
        "--minutes", type=float, default=run.MINUTES, help="for all of it (%(default)s)"
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="of these lines")
    parser.add_argument(
        "--stand-in", action="store_true", help="without a GPU, at tiny sizes: a trial"
    )
    parser.add_argument("--page", metavar="FILE.json", help="write what was seen into docs/gpu.md")
    parser.add_argument("--line", help=argparse.SUPPRESS)  # what the children are asked
    parser.add_argument("--suite", help=argparse.SUPPRESS)
    flags = parser.parse_args(argv)
    if flags.page is not None:
        return page.write(Path(flags.page), ROOT / "docs/gpu.md")
    if unknown := set(flags.only) - {run.TESTS, *(line.name for line in run.LINES)}:
        print(f"benchmarks.gpu: no line is called {sorted(unknown)}", file=sys.stderr)
        return 2
    if flags.stand_in:
        _stand_in(Path(flags.out) / "emulator")
    elif not _device():
        print("benchmarks.gpu: CuPy finds no GPU; --stand-in tries it without", file=sys.stderr)
        return 2
    if flags.suite is not None:
        return suite.main(flags.suite)
    if flags.line is not None:
        (line,) = (line for line in run.LINES if line.name == flags.line)
        send = voice()
        try:
            function = getattr(import_module(f"benchmarks.gpu.{line.file}"), line.function)
            for row in function(TINY if flags.stand_in else DEVICE):
                send(row)
        except Exception as error:
            send({"what": line.name, "error": told(error)})
            raise
        return 0
    print(run.run(
        Path(flags.out), stand_in=flags.stand_in, minutes=flags.minutes, only=flags.only
    ))
    return 0


def _device() -> bool:
    from minimono import backend

    return backend.is_available()


def _stand_in(folder: Path) -> None:
    """Put the tests' stand-in for CuPy, and their emulator of kernels, where CuPy would be."""
    sys.path.append(str(ROOT / "tests/shared"))
    folder.mkdir(parents=True, exist_ok=True)
    import_module("emulated").install(folder)
    os.environ["TORCHDYNAMO_DISABLE"] = "1"  # what compiles for a minute elsewhere


if __name__ == "__main__":
    sys.exit(main())
