"""The command `minimono`: `demo` runs the experiment and reports, `info` says what is here."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import os
import platform
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields, replace
from pathlib import Path
from types import FrameType
from typing import Any, get_type_hints

import minimono
from minimono import backend, kernels, machine
from minimono.experiments import four_ways_report as report
from minimono.experiments.four_ways import (
    METHODS,
    QUICK,
    Corpus,
    Experiment,
    Json,
    Settings,
    checkpoint_path,
)
from minimono.lazy import required
from minimono.nn.checkpoint import CheckpointError
from minimono.nn.training import TrainingError
from minimono.oracle import cli as oracle

BAD_INPUT, INTERRUPTED = 2, 130
TRAINING = ("step", "movement", "validation")  # kinds of record that have a step


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code: 0, 2 for bad input, 130 after Ctrl-C."""
    arguments = vars(_parser().parse_args(argv))
    command = arguments.pop("command")
    try:
        return int(command(**arguments))
    except (ValueError, OSError, RuntimeError, CheckpointError, TrainingError) as error:
        print(f"minimono: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return INTERRUPTED


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
            "pictures. Ctrl-C stops and keeps what is needed to go on."
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
        "--out", metavar="FOLDER", help="where the results go (default: runs/demo)"
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


def demo(out: str | None, resume: str | None, quick: bool, **given: Any) -> int:
    """Train, measure, report: the main job."""
    for library in ("numba", "matplotlib", "tqdm"):  # now, and not after a minute of training
        required(library, by="minimono demo", install=library)
    if resume is None:
        folder, settings = Path(out or "runs/demo"), Settings(**(QUICK if quick else {}) | given)
    else:
        folder, settings = Path(resume), _settings_to_resume(Path(resume), out, quick, given)
    for setting in fields(Settings):
        if getattr(settings, setting.name) != setting.default:
            value = getattr(settings, setting.name)
            print(f"{setting.name} = {value}   (default: {setting.default})")

    began = time.perf_counter()
    corpus = Corpus(settings)
    experiment = Experiment(settings, corpus)
    description = corpus.description()
    print(
        f"Text: {description['characters']:,} characters, {description['distinct_characters']} "
        f"distinct. Network: {settings.layers} blocks, {settings.channels} channels, "
        f"{experiment.runs[0].model.number_of_parameters():,} parameters."
    )
    folder.mkdir(parents=True, exist_ok=True)
    records = _begin(experiment, folder, resume is not None)
    _compile_kernels(settings, corpus)
    if not _train(experiment, folder, records):
        print(
            f"\nStopped after step {experiment.step} of {settings.steps}. To go on:\n"
            f"  minimono demo --resume {shlex.quote(str(folder))}"
        )
        return INTERRUPTED
    print("Measuring the trained networks ...", flush=True)
    with open(folder / "metrics.jsonl", "a", encoding="utf-8") as file:
        for record in experiment.finish():
            _write(record, file, records)
    print("Drawing ...", flush=True)
    _report(folder, records)
    for method in METHODS:
        checkpoint_path(folder, method).unlink(missing_ok=True)
    print(f"\nReport: {folder / 'report.html'}   ({time.perf_counter() - began:.0f} s in all)")
    return 0


def _settings_to_resume(
    folder: Path, out: str | None, quick: bool, given: dict[str, Any]
) -> Settings:
    """Read the settings of the interrupted run; flags given again are compared later."""
    if out is not None and Path(out) != folder:
        raise ValueError(f"resume: results go on in {folder}, so --out {out} cannot be given too")
    if not checkpoint_path(folder, METHODS[0]).exists():
        raise ValueError(f"resume: no interrupted run in {folder}")
    try:
        saved = json.loads((folder / "config.json").read_text(encoding="utf-8"))["settings"]
        settings = Settings(**saved)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"resume: {folder / 'config.json'} is damaged: {error}") from error
    return replace(settings, **(QUICK if quick else {}) | given)


def _begin(experiment: Experiment, folder: Path, resumed: bool) -> list[Json]:
    """Begin the files of a new run, or read what an interrupted one has recorded."""
    metrics = folder / "metrics.jsonl"
    records: list[Json] = []
    if resumed:
        experiment.restore(folder)
        print(f"Going on after step {experiment.step} of {experiment.settings.steps}.")
        with open(metrics, encoding="utf-8") as file:
            records = [json.loads(line) for line in file]
        records = [r for r in records if r["kind"] in TRAINING and r["step"] <= experiment.step]
    else:
        if checkpoint_path(folder, METHODS[0]).exists():
            print(f"(Overwriting an interrupted run in {folder}; --resume would have gone on.)")
        for method in METHODS:
            checkpoint_path(folder, method).unlink(missing_ok=True)
        config = {
            "settings": asdict(experiment.settings),
            "text": experiment.corpus.description(),
            "methods": {method.key: method.strength for method in METHODS},
            "inhibited": experiment.settings.middle,
            "versions": _versions(),
        }
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    lines = (json.dumps(record) + "\n" for record in records)
    metrics.write_text("".join(lines), encoding="utf-8")
    return records


def _write(record: Json, file: Any, records: list[Json]) -> None:
    file.write(json.dumps(record, allow_nan=False) + "\n")
    records.append(record)


def _compile_kernels(settings: Settings, corpus: Corpus) -> None:
    """Run two steps of a tiny experiment, so that no real step waits for the compiler."""
    if settings.device != "cpu":
        return
    print("Preparing kernels: compiled at first use, then kept on disk ...", end=" ", flush=True)
    began = time.perf_counter()
    tiny = replace(settings, batch=2, context=2, channels=2, heads=1, layers=1, k=1)
    experiment = Experiment(tiny, corpus)
    for _ in range(2):
        experiment.advance()
    print(f"{time.perf_counter() - began:.1f} s")


def _train(experiment: Experiment, folder: Path, records: list[Json]) -> bool:
    """Train to the end, or to Ctrl-C; leave checkpoints, and say whether it is the end."""
    from tqdm import tqdm  # here, because `minimono --help` should not wait for it

    settings = experiment.settings
    watched = sys.stderr.isatty()
    with (
        _ctrl_c() as stop,
        open(folder / "metrics.jsonl", "a", encoding="utf-8") as file,
        tqdm(
            total=settings.steps, initial=experiment.step, desc="Training four networks",
            unit="step", disable=not watched, file=sys.stderr,
        ) as bar,
    ):
        while experiment.step < settings.steps and not stop:
            validation = {}
            for record in experiment.advance():
                _write(record, file, records)
                if record["kind"] == "validation":
                    validation[record["method"]] = record["loss"]
            bar.update()
            if validation:
                losses = ", ".join(f"{key} {loss:.3f}" for key, loss in validation.items())
                bar.set_postfix_str(losses)
                if not watched:
                    print(f"step {experiment.step}: validation loss {losses}", flush=True)
        file.flush()
        experiment.save(folder)
    return experiment.step == settings.steps


@contextmanager
def _ctrl_c() -> Iterator[list[int]]:
    """In this block Ctrl-C fills the list, once, and lets the step end; a second one stops it."""
    pressed: list[int] = []

    def note(signum: int, frame: FrameType | None) -> None:
        pressed.append(signum)
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


def _report(folder: Path, records: list[Json]) -> None:
    """Write table, pictures and page, and print what shows."""
    from minimono.experiments import four_ways_pictures, page  # here: Matplotlib takes a second

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    table = report.table(records)
    (folder / "table.md").write_text(table + "\n", encoding="utf-8")
    pictures = four_ways_pictures.draw_all(records, config, folder)
    (folder / "report.html").write_text(page.page(records, config, pictures), encoding="utf-8")
    print(f"\n{table}\n\n{report.LEGEND}\n")
    for verdict in report.verdicts(records):
        print(f"* {verdict}")


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
