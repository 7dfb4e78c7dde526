"""The benchmark's pieces: each is measured by itself, in a few minutes, and recorded by itself."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import random
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import minimono
from benchmarks import blas, limits, load, measures, rounds
from benchmarks.ours import BY_HAND, IN_PARTS, MINIMONO, WITH_MEMEL
from benchmarks.record import Piece, Record
from benchmarks.tasks import TASKS, check
from minimono import machine

Times = dict[str, list[float]]  # seconds of each round, by contestant
Say = Callable[[str], None]

EAGER, NUMPY = "PyTorch eager", "plain NumPy"
HAS_PEAK = Path("/proc/self/clear_refs").exists()  # Linux
MANY = (10**8, 10**9)  # values that are scored
LARGEST = "GPT middle"
LONGEST = 150.0  # seconds after which a piece begins no further round: it ends within three minutes
OF_BLAS = rounds.OLDER
# The file, its function, and the framework that it needs.
PEERS = (
    ("ours", "steps", "minimono"),
    ("numpy_peer", "steps", "numpy"),
    ("torch_peer", "steps", "torch"),
    ("torch_peer", "best_steps", "torch"),
    ("torch_peer", "compiled_steps", "torch"),
    ("jax_peer", "steps", "jax"),
    ("mygrad_peer", "steps", "mygrad"),
    ("autograd_peer", "steps", "autograd"),
)
LIMITS = (("limits", "steps", "numpy"), ("torch_peer", "limits", "torch"))


@dataclass
class Run:
    """How a piece is measured, and what is counted meanwhile."""

    quick: bool
    count: int  # rounds
    say: Say
    tally: rounds.Tally = field(default_factory=rounds.Tally)
    left_out: list[str] = field(default_factory=list)
    until: float = field(default_factory=lambda: time.monotonic() + LONGEST)

    @property
    def left(self) -> float:
        """Seconds in which rounds may begin."""
        return self.until - time.monotonic()

    def interleaved(self, contestants: dict[str, Callable[[], rounds.Turn]]) -> Times:
        return rounds.interleaved(
            contestants, self.count, random.Random(0), self.tally, self.left
        )

    def alone(self, function: Callable[..., tuple[Any, rounds.Tally]], *arguments: Any) -> Any:
        """What a function finds in a process of its own; its turns are counted with ours."""
        found, tally = measures.alone(function, *arguments)
        self.tally.turns += tally.turns
        self.tally.rejected += tally.rejected
        return found


def slug(task: str) -> str:
    return task.lower().replace(" ", "-")


def measured(
    names: Sequence[str], quick: bool, count: int, say: Say, keep: Callable[[str, Piece], None]
) -> list[str]:
    """Measure these pieces; `keep` gets each at once. Returns why others were not kept.

    `count` rounds; `say` hears what is being done.
    """
    failed = []
    with rounds.patched({}, without=(*rounds.OLDER, *rounds.FEWER_THREADS)):
        facts, warnings = of_machine()
        for key, value in facts.items():
            say(f"{key}: {value}")
        for warning in warnings:
            say(f"Warning: {warning}.")
        for name in names:
            others = load.now()
            say(f"== {name}" + ("" if others is None else f" (others take {others:.0%} now)"))
            piece = Piece(str(datetime.date.today()), facts, {}, warnings)
            run, watch = Run(quick, count, say), load.Watch()
            try:
                piece.found = PIECES[name](run)
            except (ValueError, rounds.Busy) as error:
                failed.append(f"{name}: {error}")
                say(f"  nothing is kept: {error}")
                continue
            piece.others, piece.left_out = watch.lap(), run.left_out
            piece.turns, piece.rejected = run.tally.turns, run.tally.rejected
            say(f"  thrown away: {run.tally} turns, in which others took more than "
                f"{load.REJECT:.0%} of the machine")
            keep(name, piece)
    return failed


# ---- the pieces --------------------------------------------------------------------------------


def _steps(task: str, run: Run) -> dict[str, Any]:
    """Everybody's training step, and the limits of the same rounds."""
    with (
        rounds.peers(_installed(PEERS, run)) as peers,
        rounds.peers(_installed(LIMITS, Run(run.quick, 0, run.say))) as of_machine,
    ):
        run.say("  first steps, compilers and checks ...")
        losses: dict[str, list[float]] = {}
        contestants: dict[str, Callable[[], rounds.Turn]] = {}
        for peer in peers:
            try:
                found = peer.first_losses(task)
            except RuntimeError as error:
                if peer.file == "ours":
                    raise
                run.say(f"  without {peer.file}: {error}")
                run.left_out.append(f"{peer.file} (it failed)")
                continue
            losses |= found
            contestants |= {v: partial(peer.turn, v) for v in found}
        check(task, losses)
        bounds = {v: partial(p.turn, v) for p in of_machine for v in p.first_losses(task)}
        run.say(f"  up to {run.count} rounds of {len(contestants)} steps ...")
        times = run.interleaved(contestants | bounds)
    result = {
        "times": {name: times[name] for name in contestants},
        "limits": {name: times[name] for name in bounds},
    }
    for name in contestants:
        limits.nearness(TASKS[task], result["times"], name, result["limits"])  # raises above 1
    return result


def _installed(
    wanted: Sequence[tuple[str, str, str]], run: Run
) -> list[tuple[str, str]]:
    """The files and functions of those that can run here; the others are noted."""
    found = []
    for file, function, framework in wanted:
        if function == "compiled_steps" and run.quick:
            run.left_out.append("torch.compile (slow to start)")
        elif function == "compiled_steps" and not has_compiler():
            run.left_out.append("torch.compile (no C++ compiler)")
        elif rounds.is_installed(framework):
            found.append((file, function))
        elif f"{framework} (not installed)" not in run.left_out:
            run.left_out.append(f"{framework} (not installed)")
    return found


def has_compiler() -> bool:
    """Is there one that torch.compile would use?"""
    return any(shutil.which(name) for name in (os.environ.get("CXX") or "g++", "g++", "clang++"))


def _arranged(task: str, run: Run) -> dict[str, Any]:
    """Our step with other arrangements of threads, beside PyTorch's with all cores and with one."""
    cores = str(os.cpu_count() or 1)
    wanted = {  # file, environment, variant
        "kernels: all cores, BLAS: 1 (default)": ("ours", {}, MINIMONO),
        "the same, the batch in parts": ("ours", {}, IN_PARTS),
        "kernels: 1, BLAS: 1": ("ours", {"MINIMONO_NUM_THREADS": "1"}, MINIMONO),
        "kernels: 1, BLAS: all cores": ("ours", {"OPENBLAS_NUM_THREADS": cores}, MINIMONO),
    }
    if rounds.is_installed("torch"):
        wanted[f"{EAGER}, all cores"] = ("torch_peer", {}, EAGER)
        wanted[f"{EAGER}, one thread"] = ("torch_peer", {"OMP_NUM_THREADS": "1"}, EAGER)
    files = [(file, "steps") for file, _, _ in wanted.values()]
    with rounds.peers(files, [changes for _, changes, _ in wanted.values()]) as peers:
        contestants: dict[str, Callable[[], rounds.Turn]] = {}
        for peer, (name, (_, _, variant)) in zip(peers, wanted.items(), strict=True):
            peer.first_losses(task)
            contestants[name] = partial(peer.turn, variant)
        return {"times": run.interleaved(contestants)}


def _memel(run: Run) -> dict[str, Any]:
    """MEmeL on a GPT."""
    with rounds.peers([("ours", "memel_steps")]) as [peer]:
        peer.first_losses(LARGEST)
        return {"times": run.interleaved(
            {v: partial(peer.turn, v) for v in (MINIMONO, WITH_MEMEL)}
        )}


def _metric(run: Run) -> dict[str, Any]:
    """Scoring passes beside reading and copying, and very many values."""
    shape = (16_384 if run.quick else 65_536, 1_536)
    found = {"shape": shape, "times": run.alone(measures.metric, *shape, run.count, run.left)}
    shares_of_metric(found)  # raises above 1
    for values in (MANY[:1] if run.quick else MANY) if HAS_PEAK else ():
        held: list[float] = []

        def scored(values: int = values, held: list[float] = held) -> rounds.Turn:
            turn, most = measures.alone(measures.scoring_many, values, shape[1])
            held.append(most)
            return turn

        seconds = rounds.undisturbed(scored, run.tally, run.until)
        if seconds is None:
            raise rounds.Busy("others were busy while many values were scored")
        found.setdefault("many", {})[f"{values:.0e}"] = (seconds, max(held))
    return found


def _imports(run: Run) -> dict[str, Any]:
    frameworks = ["numpy", "minimono", "minimono.nn, minimono.mono"]
    if not run.quick:
        frameworks += [m for m in ("torch", "jax") if rounds.is_installed(m)]
    count = min(run.count, 9)
    return {"times": measures.import_times(["", *frameworks], count, run.tally, run.left)}


def _peak_memory(run: Run) -> dict[str, Any]:
    if not HAS_PEAK:
        raise ValueError("the peak of a process is known on Linux only")
    return {"bytes": {
        variant: measures.alone(measures.peak_memory, file, variant, LARGEST)
        for file, variant, framework in (
            ("ours", MINIMONO, "numpy"), ("torch_peer", EAGER, "torch"),
        )
        if rounds.is_installed(framework)
    }}


def _growth(run: Run) -> dict[str, Any]:
    return {"curves": run.alone(
        measures.growth, 1 if run.quick else min(run.count, 5), run.left
    )}


PIECES: dict[str, Callable[[Run], dict[str, Any]]] = {
    **{slug(task): partial(_steps, task) for task in TASKS},
    "metric": _metric, "imports": _imports, "memel": _memel, "memory": _peak_memory,
    "growth": _growth,
    **{f"threads-{slug(task)}": partial(_arranged, task) for task in TASKS},
}
QUICK = (*map(slug, [*TASKS][:3]), "metric", "imports", "memel", "growth")


# ---- the machine -------------------------------------------------------------------------------


def of_machine() -> tuple[dict[str, str], list[str]]:
    """What the figures depend on, and a warning for each BLAS that is older than the processor."""
    cpuinfo = _cpuinfo()
    wide = blas.widest(cpuinfo)
    found = {
        "processor": _processor(),
        "its widest instructions": wide or blas.NOT_KNOWN,
        "threads of minimono": measures.alone(machine.described)["threads"],
    }
    kernels = measures.alone(blas.of_numpy)
    if rounds.is_installed("torch"):
        kernels += blas.of_torch()
    for k in kernels:
        wide_of = k.instructions or "which instructions they use, it does not say"
        found[f"{k.framework}, {k.library}"] = f"kernels for {k.of} ({wide_of})"
    if rounds.is_installed("jax"):
        found["JAX, XLA"] = "compiles for the processor that it finds, and does not say more"
    found["Python"] = platform.python_version()
    found["minimono"] = minimono.__version__
    for package in ("numpy", "numba", "torch", "jax", "mygrad", "autograd"):
        with suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found, blas.warnings(kernels, wide)


def _cpuinfo() -> str:
    with suppress(OSError):
        return Path("/proc/cpuinfo").read_text()
    return ""


def _processor() -> str:
    name = platform.processor() or platform.machine()
    for line in _cpuinfo().splitlines():
        if line.startswith("model name"):
            name = line.partition(":")[2].strip()
            break
    return f"{name}, {os.cpu_count()} cores"


# ---- what follows from times -------------------------------------------------------------------


def base(record: Record) -> str:
    """What times of training steps are divided by."""
    tasks = [piece for name, piece in record.items() if name in map(slug, TASKS)]
    return EAGER if all(EAGER in piece.found["times"] for piece in tasks) else NUMPY


def tape_overhead(times: Times) -> tuple[float, float, float]:
    """Our step over the same kernels by hand: quartiles."""
    return rounds.quartiles_of_ratios(times[MINIMONO], times[BY_HAND])


def shares_of_metric(
    found: dict[str, Any]
) -> dict[str, tuple[tuple[float, float, float], tuple[float, float, float] | None]]:
    """By pass, the share of reading, and for those that write, of a copy. ValueError above 1."""
    times = found["times"]
    reading, copying = (limits.best(times, kind) for kind in (measures.READ, measures.COPY))
    return {
        name: (
            limits.share(f"metric, {name}", reading, of),
            limits.share(f"metric, {name}", copying, of)
            if name in measures.WRITING or name.startswith(measures.COPY) else None,
        )
        for name, of in times.items()
    }
