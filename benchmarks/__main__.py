"""`python -m benchmarks`: measure, print, and on request write the page."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import page, run
from minimono.checks import whole_number


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit code: 0, 2 for bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", allow_abbrev=False,
        description=(
            "Time training steps of minimono and of PyTorch, JAX, MyGrad, HIPS autograd and plain "
            "NumPy, where installed, and print ratios; memory, metrics, imports and growth too."
        ),
    )
    parser.add_argument(
        "--quick", action="store_true", help="a minute or two: three networks, few rounds"
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="(default: 21; 3 if quick)")
    parser.add_argument(
        "--write", metavar="FILE", help="write the page there too, and pictures/ beside it"
    )
    flags = parser.parse_args(argv)
    rounds = flags.rounds if flags.rounds is not None else 3 if flags.quick else 21
    try:
        whole_number(rounds, "rounds", least=1)
        results = run.run(flags.quick, rounds, lambda line: print(line, flush=True))
        print("\n" + page.page(results, None))
        if flags.write is not None:
            page.draw(results, Path(flags.write).parent / "pictures")
            Path(flags.write).write_text(page.page(results, "pictures"), encoding="utf-8")
    except (ValueError, OSError, RuntimeError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
