"""The command `minimono`: `demo` runs the experiment and reports, `info` says what is here."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import os
import platform
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import minimono
from minimono import backend, kernels, machine
from minimono.experiments import four_ways_run
from minimono.experiments.four_ways import QUICK, Settings
from minimono.experiments.stopping import Stopped
from minimono.lazy import required
from minimono.nn.checkpoint import CheckpointError
from minimono.nn.training import TrainingError
from minimono.oracle import cli as oracle

BAD_INPUT, INTERRUPTED = 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code: 0, 2 for bad input, 128 + n after a signal n."""
    arguments = vars(_parser().parse_args(argv))
    command = arguments.pop("command")
    try:
        return int(command(**arguments))
    except (ValueError, OSError, RuntimeError, CheckpointError, TrainingError) as error:
        return _refused(error)
    except (MemoryError, OverflowError) as error:
        return _refused(error, "too large for this machine; take smaller numbers. ")
    except Stopped as stop:
        print("\nStopped.", file=sys.stderr)
        return stop.status
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return INTERRUPTED


def _refused(error: Exception, why: str = "") -> int:
    """Print what is wrong, and what was noted on how to go on; return the exit code."""
    lines = [f"minimono: {why}{error}".rstrip(), *getattr(error, "__notes__", [])]
    print("\n".join(lines), file=sys.stderr)
    return BAD_INPUT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="minimono", allow_abbrev=False,
        description="Measure and inhibit monosemantic neurons.",
        epilog="Begin with: minimono demo",
    )
    parser.add_argument("--version", action="version", version=minimono.__version__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    demo_parser = commands.add_parser(
        "demo", allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter,
        help="train a small GPT four ways on a text and write a report (about a minute)",
        description=(
            "Train a small character-level GPT four times, from one seed on the same batches:\n"
            "plain, with both naive ways of deactivating monosemantic neurons, and with MEmeL.\n"
            "Prints a table and writes report.html, table.md, config.json, metrics.jsonl and\n"
            "pictures, and the trained networks into run.npz. Every ten seconds, and when it is\n"
            "stopped (Ctrl-C, kill), it saves what is needed to go on."
        ),
        epilog=(
            "examples:\n"
            "  minimono demo\n"
            "  minimono demo --text war-and-peace.txt --out runs/tolstoy\n"
            "  minimono demo --k 1 --seed 7 --out runs/k1\n"
            "  minimono demo --resume runs/demo"
        ),
    )
    demo_parser.set_defaults(command=demo)
    demo_parser.add_argument(
        "--out", metavar="FOLDER",
        help="where the results go (default: runs/demo; if that is taken, runs/demo-2, ...)",
    )
    demo_parser.add_argument(
        "--force", action="store_true", help="replace the run that is in the folder"
    )
    demo_parser.add_argument("--resume", metavar="FOLDER", help="go on with an interrupted run")
    demo_parser.add_argument(
        "--quick", action="store_true", help="a tiny network and few steps, to see that it works"
    )
    types, placeholder = get_type_hints(Settings), {int: "N", float: "X", str | None: "FILE"}
    for setting in fields(Settings):
        text = setting.metadata["help"]
        demo_parser.add_argument(
            "--" + setting.name.replace("_", "-"), dest=setting.name, default=argparse.SUPPRESS,
            type=types[setting.name] if setting.default is not None else str,
            choices=setting.metadata["choices"],
            metavar=None if setting.metadata["choices"] else placeholder.get(types[setting.name]),
            help=text if setting.default is None else f"{text} (default: {setting.default})",
        )

    info_parser = commands.add_parser("info", help="versions, device, BLAS, kernels, threads")
    info_parser.set_defaults(command=info)
    oracle.add_commands(commands)
    return parser


# ---- minimono demo -----------------------------------------------------------------------------


def demo(out: str | None, resume: str | None, quick: bool, force: bool, **given: Any) -> int:
    """Train, measure, report: the main job."""
    for library in ("numba", "matplotlib", "tqdm"):  # now, and not after a minute of training
        required(library, by="minimono demo", install=library)
    given = (QUICK if quick else {}) | given
    if resume is None:
        return four_ways_run.begin(given, _versions(), out=out, force=force)
    if force:
        raise ValueError("resume: it goes on with a run, and --force would replace it")
    return four_ways_run.resume(given, _versions(), path=Path(resume), out=out)


# ---- minimono info, and what the machine is ----------------------------------------------------


def info() -> int:
    """Print versions, device, BLAS, kernels, threads: what to write into a bug report."""
    for name, value in _versions().items():
        print(f"{name:12} {value}")
    print(f"{'GPU':12} {'usable' if backend.is_available() else 'none that CuPy can use'}")
    print(f"{'kernels':12} {_kernels()}")
    for name, value in machine.described().items():
        print(f"{name:12} {value}")
    return 0


def _kernels() -> str:
    """Say whether there are kernels, and where their machine code is kept."""
    try:
        kernels.of("cpu", "softmax")
    except RuntimeError as error:
        return f"none: {error}"
    from minimono.kernels.cpu import compiling  # here, because it needs Numba

    if compiling.is_off():
        return "in plain Python (NUMBA_DISABLE_JIT is set)"
    return f"compiled at first use, kept in {compiling.folder() or 'this process only'}"


def _versions() -> dict[str, str]:
    found = {"minimono": minimono.__version__, "Python": platform.python_version()}
    for package in ("numpy", "numba", "matplotlib", "tqdm"):
        try:
            found[package] = str(importlib.import_module(package).__version__)
        except ImportError as error:
            missing = isinstance(error, ModuleNotFoundError) and error.name == package
            found[package] = "not installed" if missing else f"cannot be imported: {error}"
    for package in ("cupy-cuda12x", "cupy-cuda13x"):
        with suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    found["machine"] = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    return found
