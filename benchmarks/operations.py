"""`python -m benchmarks.operations`: each public operation beside PyTorch's, with one thread.

Ours and PyTorch's take turns, in a process of their own; a sample is a turn of each, and what is
compared is their ratio, of the time in which the thread ran. A turn in which something else had the
core is thrown away with its partner, and taken again. What others did to the memory and the caches
meanwhile does not show so, and is watched over the whole run.

Forward is the call with arguments that require gradients; back is the walk from its result to all
of them, with a cotangent of its shape, again and again over the same tape. It ends as inside of a
network: neither puts what arrives into `.grad`, for which ours would make copies of views.

It takes a quarter of an hour. Where a machine is not quiet for so long, it can be done in parts:

    python -m benchmarks.operations --part 1/8 --keep runs/operations    (and 2/8, 3/8, ...)
    python -m benchmarks.operations --from runs/operations --out docs/operations.md
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import itertools
import json
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import load, measures, rounds
from benchmarks.run import OF_BLAS
from minimono import machine

ONE_THREAD = dict.fromkeys(
    ("MINIMONO_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), "1"
)
DTYPES = ("float32", "float64")
LEAST_SECONDS = 1e-3  # of a turn: as many calls as fit, at least one
WHOLE = 0.97  # of a turn: less of it in which our thread ran, and it is taken again
TRIES = 3  # for each sample that is wanted, before what there is has to do
HIGHEST = 1.5  # of PyTorch's time: the goal
THROWN_AWAY, OTHERS = "turns thrown away", "others' share of the machine"

FLOOR = (
    "What a small size costs is a call's way through Python: checks, the choice of a kernel, a new "
    "tensor. Of a view (reshape, transpose, swapaxes, `x[number]`, broadcast_to) there is nothing "
    "else, at any size, and NumPy's own `broadcast_to` takes longer than all of PyTorch's. "
    "Attention with q, k and v apart is its formula, operation by operation, each of them a pass "
    "over all scores; `self_attention` has a kernel. The rotary embedding is its formula too. "
    "Convolutions cut windows and multiply, for which the product alone takes most of the time of "
    "PyTorch's, which cuts none in float32."
)

Cell = tuple[float, float, float]  # lower quartile, median, upper quartile of ours / PyTorch's
Table = dict[str, dict[str, list[Cell | None]]]  # by dtype, by operation: forward, back, ...


def measured(
    count: int, only: str, dtypes: Sequence[str], part: tuple[int, int]
) -> tuple[Table, dict[str, str]]:
    """Time all operations whose name holds `only`, in this process; of `part[1]` parts one."""
    import torch

    from benchmarks import operations_table as table

    torch.set_num_threads(1)
    watch, rejected = load.Watch(), Rejected()
    found: Table = {dtype: {} for dtype in dtypes}
    turns = itertools.count(1 - part[0])
    for dtype in dtypes:
        for row in table.ROWS_OF_ALL:
            if only in row.name and next(turns) % part[1] == 0:
                cells = found[dtype][row.name] = []
                for size in row.sizes:
                    for calls in _both(row, size, dtype):
                        cells.append(calls and quartiles(calls, count, rejected))
                _say(dtype, row.name, cells)
        for name in (*table.STEPS, "clip_grad_norm"):
            if only in name and next(turns) % part[1] == 0:
                cells = found[dtype][name] = []
                for size in table.PARAMETERS:
                    calls = table.steps(name, *size, dtype)
                    cells += [quartiles(calls, count, rejected), None]
                _say(dtype, name, cells)
    others = watch.lap()
    return found, {
        "BLAS of minimono": machine.blas_described(),
        "torch": f"{torch.__version__}, {torch.backends.cpu.get_cpu_capability()}",
        THROWN_AWAY: f"{rejected.turns} of {rejected.all}",
        OTHERS: "unknown" if others is None else f"{others:.0%}",
    }


def _both(row: Any, size: Sequence[int], dtype: str) -> Any:
    """Yield forward calls, ours and PyTorch's, and backward calls, or None for no gradient."""
    import torch

    import minimono as mm
    from minimono.engine.tape import pull_back, tape_of
    from minimono.engine.tensor import Tensor

    arrays = row.make(np.random.default_rng(0), *size)
    last = len(arrays) - row.constants
    arrays = [a.astype(dtype) if a.dtype.kind == "f" else a for a in arrays]
    ours = [mm.tensor(a, requires_grad=i < last) for i, a in enumerate(arrays)]
    theirs = [torch.tensor(a, requires_grad=i < last) for i, a in enumerate(arrays)]
    out, other = row.ours(*ours), row.theirs(*theirs)
    _compare(row, [out.data], [other.detach()], dtype)
    yield (lambda: row.ours(*ours)), (lambda: row.theirs(*theirs))
    if not last:
        yield None
        return
    g = np.random.default_rng(1).standard_normal(out.shape).astype(out.dtype)
    ends, tape, start, cotangent = ours[:last], tape_of(out), Tensor(g), torch.tensor(g)
    wanted = {id(node) for node in tape}

    def back() -> list[Any]:
        with mm.no_grad():
            found = pull_back(tape, out, start, ends, wanted)
        return [found[id(x)].array for x in ends]

    def back_there() -> Any:
        return torch.autograd.grad(other, theirs[:last], cotangent, retain_graph=True)

    _compare(row, back(), back_there(), dtype)
    yield back, back_there


def _compare(row: Any, ours: Sequence[Any], theirs: Sequence[Any], dtype: str) -> None:
    """Raise AssertionError unless both compute the same."""
    for a, b in zip(ours, theirs if row.same else [], strict=row.same):
        room = 2e-4 if dtype == "float32" else 1e-9
        size = np.abs(b.numpy()).max(initial=1.0)
        np.testing.assert_allclose(a, b.numpy(), rtol=room, atol=room * size, err_msg=row.name)


class Rejected:
    """How many turns were taken, and how many of them were not used."""

    all = turns = 0


def quartiles(
    both: tuple[Callable[[], Any], Callable[[], Any]], count: int, rejected: Rejected
) -> Cell:
    """The time of the first over that of the second, of `count` samples."""
    calls = [_calls_of_a_turn(f) for f in both]
    kept: list[list[float]] = []
    spoilt: list[list[float]] = []
    while len(kept) < count and len(kept) + len(spoilt) < TRIES * count:
        turns = [_turn(f, n) for f, n in zip(both, calls, strict=True)]
        rejected.all += 2
        whole = all(share >= WHOLE for _, share in turns)
        (kept if whole else spoilt).append([seconds for seconds, _ in turns])
    rejected.turns += 2 * len(spoilt)
    samples = kept if len(kept) >= count / 2 else kept + spoilt  # then the machine is too busy
    return rounds.quartiles_of_ratios(*zip(*samples, strict=True))


def _calls_of_a_turn(function: Callable[[], Any]) -> int:
    function()
    return max(1, round(LEAST_SECONDS / min(_turn(function, 1)[0] for _ in range(3))))


def _turn(function: Callable[[], Any], calls: int) -> tuple[float, float]:
    """Seconds of a call in which our thread ran, and their share of those that went by."""
    began, started = time.perf_counter(), time.thread_time()
    for _ in range(calls):
        function()
    ran = time.thread_time() - started
    return ran / calls, ran / (time.perf_counter() - began)


def _say(dtype: str, name: str, cells: Sequence[Cell | None]) -> None:
    print(f"{dtype} {name}: " + " ".join(f"{c[1]:.2f}" if c else "-" for c in cells), flush=True)


# ---- the page ----------------------------------------------------------------------------------


def page(found: Table, facts: dict[str, str]) -> str:
    """The table in Markdown."""
    lines = [
        "# Operations beside PyTorch's", "",
        f"Written by `python -m benchmarks.operations` on {datetime.date.today()}. Time of a call "
        "/ time of PyTorch's: lower is better. One thread each. A number is the median over turns "
        "that both took one after the other, with the lower and upper quartile. Back: from a "
        "result with its cotangent to all arguments. Three sizes: for most, of a core's innermost "
        "cache, of the next, and of none of its own.", "", "|  |  |", "| --- | --- |",
        *(f"| {name} | {value} |" for name, value in facts.items()), "", FLOOR, "",
    ]
    for dtype, rows in found.items():
        medians = [c[1] for cells in rows.values() for c in cells if c]
        high = [
            f"{name} ({', '.join(f'{c[1]:.1f}' for c in cells if c and c[1] > HIGHEST)})"
            for name, cells in rows.items() if any(c and c[1] > HIGHEST for c in cells)
        ]
        heads = [f"{size}, {way}" for size in ("small", "middle", "large")
                 for way in ("forward", "back")]
        lines += [
            f"## {dtype}", "",
            f"The median of all is {np.median(medians):.2f}; "
            f"{np.mean(np.array(medians) <= 1.0):.0%} are at most 1. Above {HIGHEST}: "
            f"{'; '.join(high) or 'none'}.", "",
            f"| | {' | '.join(heads)} |", "| --- " * (len(heads) + 1) + "|",
            *(f"| {name} | {' | '.join(map(_shown, cells))} |" for name, cells in rows.items()), "",
        ]
    return "\n".join(lines)


def put_together(folder: Path) -> tuple[Table, dict[str, str]]:
    """Return what the parts in a folder have found, in the order of the whole."""
    from benchmarks import operations_table as table

    order = [row.name for row in table.ROWS_OF_ALL] + [*table.STEPS, "clip_grad_norm"]
    parts = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))]
    found: Table = {
        dtype: {
            name: part["table"][dtype][name] for name in order for part in parts
            if name in part["table"].get(dtype, {})
        }
        for dtype in DTYPES
    }
    facts: dict[str, str] = {}
    for name in parts[0]["facts"] if parts else ():
        facts[name] = ", ".join(dict.fromkeys(part["facts"][name] for part in parts))
    return {dtype: rows for dtype, rows in found.items() if rows}, facts


def _part(text: str) -> tuple[int, int]:
    number, of = (int(word) for word in text.split("/"))
    if not 1 <= number <= of:
        raise ValueError
    return number, of


def _shown(cell: Cell | None) -> str:
    return "" if cell is None else f"{cell[1]:.2f} ({cell[0]:.2f}-{cell[2]:.2f})"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and on request write the page; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.operations", allow_abbrev=False, description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=15, metavar="N", help="(default: 15)")
    parser.add_argument("--only", default="", metavar="TEXT", help="operations with it in the name")
    parser.add_argument("--dtype", choices=DTYPES, help="(default: both)")
    parser.add_argument("--out", metavar="FILE", help="write the page there too")
    parser.add_argument("--part", type=_part, default=(1, 1), metavar="I/N", help="of N, the I-th")
    parser.add_argument("--keep", metavar="FOLDER", help="keep what was found there, for --from")
    parser.add_argument("--from", dest="kept", metavar="FOLDER", help="measure nothing: take those")
    flags = parser.parse_args(argv)
    if not rounds.is_installed("torch"):
        print("benchmarks.operations: PyTorch is not installed", file=sys.stderr)
        return 2
    if flags.kept is not None:
        found, facts = put_together(Path(flags.kept))
    else:
        dtypes = (flags.dtype,) if flags.dtype else DTYPES
        count = max(1, flags.rounds)
        with rounds.patched(ONE_THREAD, without=OF_BLAS):
            found, facts = measures.alone(measured, count, flags.only, dtypes, flags.part)
        facts = {"processor": _processor(), "Python": platform.python_version()} | {
            package: importlib.metadata.version(package) for package in ("numpy", "numba")
        } | facts
    if flags.keep is not None:
        file = Path(flags.keep) / f"{'-of-'.join(map(str, flags.part))}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"table": found, "facts": facts}), encoding="utf-8")
    text = page(found, facts)
    print("\n" + text)
    if flags.out is not None:
        Path(flags.out).write_text(text, encoding="utf-8")
    return 0


def _processor() -> str:
    from benchmarks.run import _processor

    return _processor()


if __name__ == "__main__":
    sys.exit(main())
