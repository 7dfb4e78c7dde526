"""The demo from its first line to its report: in a folder, and so that it can be stopped anywhere.

`four_ways` trains and measures, `run_folder` keeps, `stopping` says when to end; here they meet.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, fields, replace
from itertools import count
from pathlib import Path
from typing import Any

from minimono import atomic, console
from minimono.checks import instance
from minimono.experiments import four_ways_report as report
from minimono.experiments.four_ways import METHODS, Corpus, Experiment, Json, Settings
from minimono.experiments.records import TakenError
from minimono.experiments.run_folder import RunFolder
from minimono.experiments.stopping import Signals, Stopped, stoppable
from minimono.nn.checkpoint import Checkpoint, CheckpointError

TRAINING = ("step", "movement", "validation")  # kinds of record that have a step
DEFAULT = Path("runs/demo")


def begin(given: Mapping[str, Any], versions: Json, *, out: str | None, force: bool) -> int:
    """Train with these settings, measure, report; return the exit status.

    Without `out` results go to runs/demo, or where that is taken, to runs/demo-2 and so on.
    """
    settings = _with_whole_path(Settings(**given))
    with stoppable() as signals:
        experiment = _prepared(settings)
        with _new_folder(out, force=force) as folder:
            config = _config(experiment, versions)
            atomic.write_text(folder.path / "config.json", json.dumps(config, indent=2) + "\n")
            with signals.held():
                folder.save(0, experiment.save)
            return _work(experiment, folder, config, signals)


def resume(given: Mapping[str, Any], versions: Json, *, path: Path, out: str | None) -> int:
    """Go on with an interrupted run. What is `given` must be as it was."""
    if out is not None and Path(out) != path:
        raise ValueError(f"resume: results go on in {path}, so --out {out} cannot be given too")
    with stoppable() as signals, RunFolder(path, resume=True) as folder:
        found = folder.load()
        experiment = _prepared(_with_whole_path(replace(_settings(found, path), **given)))
        experiment.restore(found)
        lost = folder.go_on(found, lambda record: _belongs(record, found.step))
        print(f"Going on after step {experiment.step} of {experiment.settings.steps}.")
        if lost:
            print(f"minimono: {lost}", file=sys.stderr)
        with signals.held():
            folder.save(experiment.step, experiment.save)
        return _work(experiment, folder, _config(experiment, versions), signals)


def _settings(found: Checkpoint, path: Path) -> Settings:
    """Read the settings of an interrupted run."""
    try:
        saved = found.config["settings"]
        settings = Settings(**{setting.name: saved[setting.name] for setting in fields(Settings)})
        if settings.text is not None:
            instance(settings.text, "text", str)
        return settings
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"resume: the settings in {path} are damaged: {error!r}") from error


def _with_whole_path(settings: Settings) -> Settings:
    """Return settings by which the text is found from any folder."""
    return settings if settings.text is None else replace(
        settings, text=os.path.abspath(settings.text)
    )


def _belongs(record: Json, step: int) -> bool:
    """Whether a record is of training, up to a step. It raises for what is no record at all."""
    known = record["kind"] in TRAINING and record["method"] in {m.key for m in METHODS}
    return known and 1 <= record["step"] <= step


def _prepared(settings: Settings) -> Experiment:
    for setting in fields(Settings):
        if getattr(settings, setting.name) != setting.default:
            value = getattr(settings, setting.name)
            print(f"{setting.name} = {value}   (default: {setting.default})")
    experiment = Experiment(settings, Corpus(settings))
    description = experiment.corpus.description()
    print(
        f"Text: {description['characters']:,} characters, {description['distinct_characters']} "
        f"distinct. Network: {settings.layers} block{'s' * (settings.layers > 1)}, "
        f"{settings.channels} channel{'s' * (settings.channels > 1)}, "
        f"{experiment.runs[0].model.number_of_parameters():,} parameters."
    )
    return experiment


def _new_folder(out: str | None, *, force: bool) -> RunFolder:
    """Open the folder for a new run, of which nothing is there yet, or not any more."""
    if out is not None or force:
        return _emptied(Path(DEFAULT if out is None else out), force=force)
    taken: TakenError | None = None
    for number in count(1):
        path = DEFAULT if number == 1 else DEFAULT.with_name(f"{DEFAULT.name}-{number}")
        try:
            folder = _emptied(path, force=False)
        except TakenError as error:
            taken = taken or error
            continue
        if taken is not None:
            print(f"({taken}. This run goes to {path}.)")
        return folder
    raise AssertionError  # `count` has no end


def _emptied(path: Path, *, force: bool) -> RunFolder:
    folder = RunFolder(path)
    try:
        folder.begin(force=force)
    except BaseException as error:
        folder.__exit__(type(error), error, None)
        raise
    return folder


def _config(experiment: Experiment, versions: Json) -> Json:
    """Return what the report says of a run besides its numbers."""
    return {
        "settings": asdict(experiment.settings),
        "text": experiment.corpus.description(),
        "methods": {method.key: method.strength for method in METHODS},
        "inhibited": experiment.settings.middle,
        "versions": versions,
    }


def _work(experiment: Experiment, folder: RunFolder, config: Json, signals: Signals) -> int:
    """Train, measure, report, or be stopped; then say how to go on."""
    steps = experiment.settings.steps
    how = f"minimono demo --resume {shlex.quote(str(folder.path))}"
    try:
        if experiment.step < steps:
            _compile_kernels(experiment)
            _train(experiment, folder, signals)
        print("Measuring the trained networks ...", flush=True)
        for record in experiment.finish():
            folder.append(record)
            signals.check()
        print("Drawing ...", flush=True)
        _report(folder, config)
        print(f"\nReport: {folder.report}   ({folder.seconds:.0f} s in all)")
        return 0
    except (Stopped, KeyboardInterrupt) as stop:
        status = stop.status if isinstance(stop, Stopped) else 130
    except Exception as error:
        if signals.came is None:
            error.add_note(f"Step {folder.saved_step} of {steps} is saved. To go on:\n  {how}")
            raise
        if isinstance(error, OSError | CheckpointError):  # else a library's word for the signal
            print(f"minimono: {error}", file=sys.stderr)
        status = Stopped(signals.came).status
    where = ", while measuring" if experiment.step == steps else ""
    if folder.saved_step != experiment.step:
        where = f"; step {folder.saved_step} is saved"
    print(f"\nStopped after step {experiment.step} of {steps}{where}. To go on:", flush=True)
    print(f"  {how}", flush=True)
    return status


def _compile_kernels(experiment: Experiment) -> None:
    print("Preparing kernels: compiled at first use, then kept on disk ...", end=" ", flush=True)
    began = time.perf_counter()
    experiment.compile_kernels()
    print(f"{time.perf_counter() - began:.1f} s", flush=True)


def _train(experiment: Experiment, folder: RunFolder, signals: Signals) -> None:
    """Train to the end, and save now and then, at the end, and when it is stopped between steps."""
    steps, whole = experiment.settings.steps, True
    bar = console.progress(steps, "Training four networks", "step")
    bar.n, bar.start_t = experiment.step, time.time() - folder.seconds  # of the whole run
    try:
        with bar:
            while experiment.step < steps:
                with signals.held():
                    whole = False
                    records = experiment.advance()
                    for record in records:
                        folder.append(record)
                    whole = True
                    folder.save(experiment.step, experiment.save, now=False)
                bar.update()
                _print_losses(experiment.step, records, bar.write)
        with signals.held():
            folder.save(experiment.step, experiment.save)
    except (Stopped, KeyboardInterrupt):
        if whole:  # else what was saved last stands
            try:
                with signals.held():
                    folder.save(experiment.step, experiment.save)
            except (OSError, CheckpointError) as error:
                print(f"minimono: {error}", file=sys.stderr)
        raise
    except Exception:
        if whole:
            with suppress(OSError, CheckpointError):  # the first error is the one to tell
                folder.save(experiment.step, experiment.save)
        raise


def _print_losses(step: int, records: list[Json], write: Callable[..., None]) -> None:
    """Print the four validation losses, if there are new ones, above the bar."""
    losses = [f"{r['method']} {r['loss']:.3f}" for r in records if r["kind"] == "validation"]
    if losses:
        write(f"step {step}: validation loss {', '.join(losses)}", file=sys.stdout)
        sys.stdout.flush()


def _report(folder: RunFolder, config: Json) -> None:
    """Write table, pictures and page, and print what shows."""
    from minimono.experiments import four_ways_pictures, page  # here: Matplotlib takes a second

    records = folder.records
    table = report.table(records)
    atomic.write_text(folder.path / "table.md", table + "\n")
    pictures = four_ways_pictures.draw_all(records, config, folder.path)
    folder.finish(page.page(records, config, pictures))
    print(f"\n{table}\n\n{report.LEGEND}\n")
    for verdict in report.verdicts(records):
        print(f"* {verdict}")
