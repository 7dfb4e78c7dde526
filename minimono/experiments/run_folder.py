"""A run in a folder, kept so that a kill at any moment costs seconds, and never the run.

    run.npz          the state: networks, optimisers, generator, position, time; one file, which is
                     replaced as a whole (`nn/checkpoint.py`)
    metrics.jsonl    the records, a line each, appended; the state says how many bytes are its own
    report.html      there when the run is finished

What is recorded after the state was saved is cut off at resume, and made again. While a run is at
work it has a lock on metrics.jsonl (`records.py`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from minimono import atomic, checks
from minimono.experiments.records import Json, Records, TakenError
from minimono.nn import checkpoint

Save = Callable[[Path, Json], None]  # writes a checkpoint to a path, with this in its config

STATE, RECORDS, REPORT = "run.npz", "metrics.jsonl", "report.html"
SAVE_EVERY = 10.0  # seconds
SHARE = 0.05  # of the time, at most, for saving: large states are saved less often


class RunFolder:
    """A run's folder, opened and locked; as a context manager it is closed at the end.

    Raises TakenError if another process has it. Without `resume` it is made if it is not there.
    """

    def __init__(self, path: Path, *, resume: bool = False) -> None:
        self.path = path
        self.records: list[Json] = []
        self.saved_step: int | None = None
        if resume:
            self._check_resumable()
        else:
            path.mkdir(parents=True, exist_ok=True)
        self._file = Records(path / RECORDS)
        atomic.remove_unfinished(path / STATE, older_than=0.0)  # nobody else writes it now
        self._seconds, self._since = 0.0, time.monotonic()  # of earlier processes; of this one
        self._next_save = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self._file.__exit__(kind, error, traceback)

    def _check_resumable(self) -> None:
        if not (self.path / STATE).exists():
            raise ValueError(f"resume: no interrupted run in {self.path}")
        if self.report.exists():
            raise ValueError(
                f"resume: no interrupted run in {self.path}: it is finished, see {self.report}"
            )

    @property
    def report(self) -> Path:
        """The page that a finished run has."""
        return self.path / REPORT

    @property
    def seconds(self) -> float:
        """The time at work, in this process and in those before it."""
        return self._seconds + time.monotonic() - self._since

    # ---- a new run -----------------------------------------------------------------------------

    def begin(self, *, force: bool) -> None:
        """Make sure that nothing is lost if a new run begins here; force: then lose it."""
        state = self.path / STATE
        if not force and (state.exists() or self._file.size):
            finished = self.report.exists() or not state.exists()
            raise TakenError(
                f"{self.path} holds {'a finished' if finished else 'an interrupted'} run; "
                + ("" if finished else f"--resume {self.path} goes on with it, ")
                + "--out takes another folder, --force replaces it"
            )
        for old in (self.report, state):
            Path(os.path.realpath(old)).unlink(missing_ok=True)  # a link stays, and is written to
        self._file.cut(0)

    # ---- an interrupted one --------------------------------------------------------------------

    def load(self) -> checkpoint.Checkpoint:
        """Read the state; nothing changes yet."""
        return checkpoint.load(self.path / STATE)

    def go_on(self, found: checkpoint.Checkpoint, good: Callable[[Json], object]) -> str:
        """Take the records that belong to a state, and cut off the rest.

        good: whether a record is one of this run; it may raise. Where the first damaged one is,
        all that follows is lost, and what else there is of its step. Returns what to say of it.
        """
        try:
            run = found.config["run"]
            size = checks.whole_number(run["bytes"], "bytes", least=0)
            self._seconds = checks.number(run["seconds"], "seconds", least=0.0)
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"resume: {self.path / STATE} is damaged: {error!r}") from error
        self._since = time.monotonic()
        kept = self._file.read(size, good)
        end, lost = kept[-1][1] if kept else 0, ""
        if end < size:
            last = kept[-1][0]["step"] if kept else 0
            while kept and kept[-1][0]["step"] == last:
                kept.pop()
            lost = (
                f"{self.path / RECORDS} is damaged after {end} of {size} bytes: the records of "
                f"steps {max(last, 1)} to {found.step} are lost, and missing in the report"
            )
            end = kept[-1][1] if kept else 0
        self._file.cut(end)
        self.records = [record for record, _ in kept]
        self.saved_step = found.step
        return lost

    # ---- both ----------------------------------------------------------------------------------

    def append(self, record: Json) -> None:
        """Write a record behind the others."""
        self._file.append(record)
        self.records.append(record)

    def save(self, step: int, save: Save, *, now: bool = True) -> None:
        """Save the state as it is after a step, or if not `now`, then when it is time."""
        self._file.flush()
        began = time.monotonic()
        if not now and began < self._next_save:
            return
        size = self._file.sync()  # the records first: a state counts on its own
        save(self.path / STATE, {"run": {"bytes": size, "seconds": self.seconds}})
        self.saved_step = step
        ended = time.monotonic()
        self._next_save = ended + max(SAVE_EVERY, (ended - began) / SHARE)

    def finish(self, page: str) -> None:
        """Write the report, which makes this a finished run. Its networks stay in the state."""
        self._file.sync()
        atomic.write_text(self.report, page)
