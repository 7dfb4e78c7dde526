"""The benchmark's record as tables and a page; what was not measured is not there, and named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks import limits, load
from benchmarks.measures import slope
from benchmarks.ours import IN_PARTS, MINIMONO, WITH_MEMEL
from benchmarks.record import Piece, Record
from benchmarks.rounds import FEWER_THREADS, OLDER, TRIES, quartiles_of_ratios
from benchmarks.run import EAGER, PIECES, base, shares_of_metric, slug, tape_overhead
from benchmarks.tasks import TASKS

OF_TORCH = ("PyTorch", "torch.compile")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def spread(quartiles: tuple[float, float, float] | None) -> str:
    if quartiles is None:
        return "-"
    low, median, high = quartiles
    return f"{median:.2f} ({low:.2f}-{high:.2f})"


def ratios(times_of: Mapping[str, Mapping[str, Sequence[float]]], base: str) -> str:
    """Rows: contestants. Columns: tasks. Cells: time over the base's, median and quartiles."""
    tasks = [*times_of]
    names = list(dict.fromkeys(name for times in times_of.values() for name in times))

    def cell(task: str, name: str) -> str:
        times = times_of[task]
        return spread(quartiles_of_ratios(times[name], times[base]) if name in times else None)

    rows = [[name, *(cell(task, name) for task in tasks)] for name in names]
    milliseconds = [f"{1e3 * float(np.median(times_of[t][base])):.3g} ms" for t in tasks]
    return table(["", *tasks], [*rows, [f"one step of {base}", *milliseconds]])


def page(record: Record, pictures: str | None) -> str:
    """The page. `pictures`: their folder as the page sees it, None for none."""
    parts = ["# Performance", *_how(record)]
    for names, section in SECTIONS:
        pieces = {name: record[name].found for name in names if name in record}
        if pieces:
            parts += section(pieces, record, pictures)
    return "\n\n".join(parts) + "\n"


def _how(record: Record) -> list[str]:
    machines: list[tuple[dict[str, str], list[str]]] = []
    rows = []
    for name, piece in record.items():
        of_piece = (piece.machine, piece.warnings)
        if of_piece not in machines:
            machines.append(of_piece)
        rows.append([
            name, piece.date, str(machines.index(of_piece) + 1), _rounds(piece),
            f"{piece.rejected} of {piece.turns}" if piece.turns else "-",
            "not known" if piece.others is None else f"{piece.others:.0%}", _left_out(piece),
        ])
    parts = [
        "Written by `python -m benchmarks --write docs/performance.md` (`make bench`), which "
        "measures in pieces, all or those that are named after it, and writes this page from the "
        "record of all that were ever kept, `performance.json` beside it. "
        "[Where a step's time goes](shares.md) and [each operation](operations.md) have pages of "
        "their own.",
        "Every framework runs in a process of its own and takes its turn in every round. A number "
        "is the median over the rounds of a time divided by another one of the same round, with "
        "the lower and upper quartile. Before anything is timed, the losses of the first four "
        "steps are compared: all frameworks compute the same, to float32's rounding. A turn in "
        f"which other processes took more than {load.REJECT:.0%} of the machine is thrown away and "
        f"taken again; if {TRIES} are, the round is. Processes run without what holds a "
        f"library to an older processor's kernels ({_code(OLDER)}) or to fewer threads "
        f"({_code(FEWER_THREADS)}). minimono, plain NumPy, MyGrad and HIPS autograd multiply with "
        "NumPy's BLAS, the others with their own.",
        "A share of a limit is the least time over the time of the same round; a median above 1 "
        "would say that the limit is wrong, and such a piece is refused.",
    ]
    missing = [name for name in PIECES if name not in record]
    if missing:
        parts += [f"**Not measured**: {_code(missing)}."]
    if rows:
        parts += [table(
            ["piece", "date", "machine", "rounds", "turns thrown away",
             "others' share, with what was thrown away", "left out"], rows,
        )]
    for number, (machine, warnings) in enumerate(machines, start=1):
        parts += [
            table([f"machine {number}", ""], [[key, value] for key, value in machine.items()]),
            *(f"**Warning**, machine {number}: {warning}." for warning in warnings),
        ]
    return parts


def _rounds(piece: Piece) -> str:
    counts = {len(times) for times in piece.found.get("times", {}).values()}
    return str(counts.pop()) if counts else "-"


def _left_out(piece: Piece) -> str:
    return "; ".join(piece.left_out) or "-"


def _code(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


# ---- sections: what was found in their pieces -> paragraphs --------------------------------------

Pieces = dict[str, dict[str, Any]]


def _training(pieces: Pieces, record: Record, pictures: str | None) -> list[str]:
    by = base(record)
    found = {task: pieces[slug(task)] for task in TASKS if slug(task) in pieces}
    times_of = {task: piece["times"] for task, piece in found.items()}
    parts = [
        "## Training steps",
        "float32, Adam. *MLP small*: 64-128-128-10, batch 64. *MLP 784*: 784-1024-1024-10, batch "
        "256. *GPT small*: 2 layers, 128 channels, 4 heads, context 128, batch 16. *GPT middle*: "
        "4 layers, 256 channels, 8 heads, context 256, batch 8. Vocabulary 256. Time of a step / "
        f"time of {by}'s: lower is better. PyTorch's best settings are its fused Adam, no "
        "denormal numbers, oneDNN as by default, and for a small network one thread, beside all.",
        ratios(times_of, by),
    ]
    if by == EAGER:
        parts += ["Beside the fastest of PyTorch's rows, by its median:", _beside_best(times_of)]
    if pictures:
        parts += [f"![Time of a training step, relative]({pictures}/performance-steps.svg)"]
    names = [name for name in (MINIMONO, IN_PARTS, EAGER) if name in next(iter(times_of.values()))]
    return [
        *parts,
        "How near to the machine's limit: the least time for a step's matrix products and then for "
        "moving Adam's arrays, over the time of the step. The limits take turns in the same "
        f"rounds: a product of {limits.SIZE} x {limits.SIZE} by NumPy's BLAS, with one thread or "
        "all, or by PyTorch's, whichever is fastest, and a copy as large as Adam's arrays.",
        table(["", *found], [
            [name, *(spread(limits.nearness(TASKS[t], p["times"], name, p["limits"]))
                     for t, p in found.items())]
            for name in names
        ]),
        "The limits, medians:",
        _rates({task: piece["limits"] for task, piece in found.items()}),
        "The tape's overhead, our step / the same kernels called by hand in the right order: "
        + "; ".join(f"{t} {spread(tape_overhead(times))}" for t, times in times_of.items()) + ".",
    ]


def _beside_best(times_of: Mapping[str, Mapping[str, list[float]]]) -> str:
    """Our two ways over PyTorch's fastest."""
    best = {
        task: min((n for n in times if n.startswith(OF_TORCH)), key=lambda n: np.median(times[n]))
        for task, times in times_of.items()
    }
    ours = [
        [f"{name} / that", *(
            spread(quartiles_of_ratios(times[name], times[best[task]]))
            for task, times in times_of.items()
        )]
        for name in (MINIMONO, IN_PARTS) if all(name in times for times in times_of.values())
    ]
    return table(["", *best], [["the fastest", *best.values()], *ours])


def _rates(limits_of: Mapping[str, Mapping[str, list[float]]]) -> str:
    """Products in GFLOP/s; copies (read and written bytes) and reads in GB/s."""
    names = list(dict.fromkeys(name for times in limits_of.values() for name in times))

    def cell(task: str, name: str) -> str:
        if name not in limits_of[task]:
            return "-"
        seconds = float(np.median(limits_of[task][name]))
        if name.startswith(limits.PRODUCT):
            return f"{limits.OPERATIONS / seconds / 1e9:.0f} GFLOP/s"
        moved = limits.bytes_moved(name, TASKS[task])
        return f"{moved / seconds / 1e9:.1f} GB/s"

    return table(["", *limits_of], [[n, *(cell(t, n) for t in limits_of)] for n in names])


def _threads(pieces: Pieces, record: Record, pictures: str | None) -> list[str]:
    times_of = {
        task: pieces[f"threads-{slug(task)}"]["times"] for task in TASKS
        if f"threads-{slug(task)}" in pieces
    }
    every = f"{EAGER}, all cores"
    first = next(iter(times_of.values()))
    return ["## Threads", THREADS, ratios(times_of, every if every in first else next(iter(first)))]


def _memel(pieces: Pieces, record: Record, pictures: str | None) -> list[str]:
    times = pieces["memel"]["times"]
    return [
        "## Inhibition",
        "A training step of GPT middle with MEmeL behind two of its four blocks / without: "
        f"{spread(quartiles_of_ratios(times[WITH_MEMEL], times[MINIMONO]))}.",
    ]


def _memory(pieces: Pieces, record: Record, pictures: str | None) -> list[str]:
    memory = ", ".join(f"{k} {v / 2**20:.0f} MiB" for k, v in pieces["memory"]["bytes"].items())
    return [
        "## Memory",
        f"At the peak of three training steps of GPT middle, weights and Adam's arrays "
        f"included: {memory}.",
    ]


def _metric(pieces: Pieces, record: Record, pictures: str | None) -> list[str]:
    found = pieces["metric"]
    rows, neurons = found["shape"]
    size = 4.0 * rows * neurons
    shares = shares_of_metric(found)
    parts = [
        "## The metric",
        f"{rows:,} samples of {neurons:,} neurons in float32 ({size / 2**20:.0f} MiB), all threads "
        "but where it says one. The limits are a loop that only reads and, for what writes as much "
        "as it reads, a copy; with one thread or all, whichever is faster in the same round.",
        table(
            ["", "GB of z in a second", "share of reading", "share of a copy"],
            [
                [name, f"{size / float(np.median(times)) / 1e9:.1f}", *map(spread, shares[name])]
                for name, times in found["times"].items()
            ],
        ),
    ]
    if "many" in found:
        parts += ["Scored batch after batch, in batches of 8,192 samples: " + "; ".join(
            f"{values} values in {seconds:.2g} s, {4.0 * float(values) / seconds / 1e9:.1f} GB a "
            f"second, {held / 2**20:.0f} MiB beside the batch" for values, (seconds, held) in
            found["many"].items()
        ) + "."]
    return parts


def _imports(pieces: Pieces, record: Record, pictures: str | None) -> list[str]:
    times = pieces["imports"]["times"]
    return [
        "## Import",
        "Seconds of `python -c \"import ...\"`, Python's own start taken off: "
        + "; ".join(
            f"{name} {float(np.median(np.subtract(of, times['']))):.2f}"
            for name, of in times.items() if name
        ) + ".",
    ]


def _growth(pieces: Pieces, record: Record, pictures: str | None) -> list[str]:
    parts = [
        "## Cost as work grows",
        "The slope of log time over log size: 1 is linear, 2 quadratic. Below 1 where fixed costs "
        "still count.",
        table(
            ["", "sizes", "slope"],
            [
                [name, f"{min(curve[0])}-{max(curve[0])}", f"{slope(curve):.2f}"]
                for name, curve in pieces["growth"]["curves"].items()
            ],
        ),
    ]
    if pictures:
        parts += [f"![Time over size, both logarithmic]({pictures}/performance-growth.svg)"]
    return parts


THREADS = (
    "BLAS's threads wait, for work and for each other, by running in circles. Beside another pool, "
    "or on a machine that does other things, they wait longest for the one that is not running. "
    "So kernels cut large arrays and large products into parts for Python's own threads, which "
    "wait asleep, and BLAS runs in the thread that calls it. The first kernel that runs "
    "arranges it so. It leaves BLAS alone, and uses one thread of its own, if "
    "`OPENBLAS_NUM_THREADS` or `OMP_NUM_THREADS` is set, or if BLAS was given another number "
    "before. `MINIMONO_NUM_THREADS=n`, or `minimono.set_num_threads(n)`, says how many threads "
    "kernels get; last bits may depend on it. `minimono info` prints what was chosen and why.\n\n"
    "`nn.backward_in_parts`, or `train(..., in_parts=True)`, gives each thread a part of the "
    "batch: threads meet once a step, which suits transformers. It is for a loss that is a mean "
    "over samples, and cuts only where that pays: at least 512 rows of every matrix for a part, "
    "and 2^27 rows times parameters."
)

STEPS = [slug(task) for task in TASKS]
SECTIONS = (
    (STEPS, _training), ([f"threads-{name}" for name in STEPS], _threads), (["memel"], _memel),
    (["memory"], _memory), (["metric"], _metric), (["imports"], _imports), (["growth"], _growth),
)
