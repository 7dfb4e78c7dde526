"""`python -m benchmarks`: measure, print, and on request write the page."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import page, pictures, record, run
from minimono import atomic
from minimono.checks import whole_number


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit code: 0, 1 if a piece was not kept, 2 for bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=(
            "Time training steps of minimono and of PyTorch, JAX, MyGrad, HIPS autograd and plain\n"
            "NumPy, where installed, and print ratios; memory, metrics, imports and growth too.\n"
            "Each piece takes at most three minutes, and may be measured by itself; all of them\n"
            "take half an hour."
        ),
        epilog="pieces: " + " ".join(run.PIECES),
    )
    parser.add_argument(
        "piece", nargs="*", metavar="PIECE", help="what to measure (default: all of them)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="only print: three networks, few rounds, minutes"
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="(default: 21; 3 if quick)")
    parser.add_argument(
        "--write", metavar="FILE.md",
        help="merge what is measured into FILE.json, and write the page and pictures/ from that",
    )
    parser.add_argument(
        "--measured", action="store_true", help="measure nothing: write from what FILE.json has"
    )
    flags = parser.parse_args(argv)
    rounds = flags.rounds if flags.rounds is not None else 3 if flags.quick else 21
    try:
        whole_number(rounds, "rounds", least=1)
        names = _pieces(flags)
        file = flags.write and Path(flags.write).with_suffix(".json")
        kept = record.read(file) if file else {}

        def keep(name: str, piece: record.Piece) -> None:
            kept[name] = piece
            if file:
                record.write(file, in_order(kept))

        failed = run.measured(names, flags.quick, rounds, _say, keep) if names else []
        if flags.write is None and kept:
            print("\n" + page.page(in_order(kept), None))
        elif flags.write is not None:
            pictures.draw(in_order(kept), Path(flags.write).parent / "pictures")
            atomic.write_text(flags.write, page.page(in_order(kept), "pictures"))
    except (ValueError, OSError, RuntimeError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    for line in failed:
        print(f"benchmarks: {line}", file=sys.stderr)
    return 1 if failed else 0


def _pieces(flags: argparse.Namespace) -> list[str]:
    """The pieces to be measured. ValueError for flags that do not go together."""
    unknown = [name for name in flags.piece if name not in run.PIECES]
    if unknown:
        raise ValueError(f"piece is {unknown[0]!r}, expected one of: {', '.join(run.PIECES)}")
    if flags.quick and flags.write is not None:
        raise ValueError("--quick with --write: quick figures are not for the page; leave one out")
    if flags.measured and (flags.write is None or flags.piece):
        raise ValueError("--measured needs --write FILE.md, and no piece")
    if flags.write is not None and not flags.write.endswith(".md"):
        raise ValueError(f"--write is {flags.write!r}, expected a file that ends with .md")
    if flags.measured:
        return []
    return flags.piece or list(run.QUICK if flags.quick else run.PIECES)


def in_order(kept: record.Record) -> record.Record:
    """Pieces in the page's order."""
    return {name: kept[name] for name in run.PIECES if name in kept}


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
