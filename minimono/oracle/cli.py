"""The commands `minimono oracle ...`."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

PASSED, FAILED = 0, 1


def add_commands(commands: Any) -> None:
    """Add `oracle` and what belongs to it to the commands of `minimono`."""
    parser = commands.add_parser(
        "oracle", allow_abbrev=False, help="test other implementations against exact cases"
    )
    oracle = parser.add_subparsers(metavar="COMMAND", required=True)

    check_parser = oracle.add_parser(
        "check", allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter,
        help="run a program in any language on the cases",
        description=(
            "Run a program on the cases: one a line on its standard input, one reply a line on\n"
            "its standard output, in JSON. `minimono oracle describe SUITE` says what is asked."
        ),
        epilog=(
            "exit code: 0 all that was checked passed; 1 some failed, or all were skipped;\n"
            "2 bad input; 130 after Ctrl-C\n\n"
            "examples:\n"
            "  minimono oracle check --program ./memel\n"
            '  minimono oracle check --program "julia impl.jl" --suite scale --timeout 60'
        ),
    )
    check_parser.set_defaults(command=check)
    check_parser.add_argument(
        "--program", required=True, metavar="COMMAND", help="the program, with its arguments"
    )
    check_parser.add_argument(
        "--suite", action="append", metavar="NAME", help="only this one; may be repeated"
    )
    check_parser.add_argument(
        "--dtype", choices=("float64", "float32"), default="float64",
        help="what the program computes in (default: float64)",
    )
    check_parser.add_argument(
        "--timeout", type=float, default=10.0, metavar="SECONDS",
        help="how long a reply may take (default: 10); then the program and its children are ended",
    )
    check_parser.add_argument(
        "--extreme", action="store_true", help="also cases near the ends of float64's range"
    )
    check_parser.add_argument(
        "--folder", metavar="FOLDER", help="vectors that `dump` wrote, not those of minimono"
    )
    check_parser.add_argument("--json", metavar="FILE", help="also write the report to a file")

    describe_parser = oracle.add_parser(
        "describe", help="what a suite calls, and its conventions; which mistakes a case catches"
    )
    describe_parser.set_defaults(command=describe)
    describe_parser.add_argument(
        "suite", nargs="?", metavar="SUITE", help="or a case, as scale/given/1; without it: a list"
    )

    dump_parser = oracle.add_parser("dump", help="write the cases as JSON files")
    dump_parser.set_defaults(command=dump)
    dump_parser.add_argument("folder", metavar="FOLDER")

    accuracy_parser = oracle.add_parser(
        "accuracy", help="the error of minimono's, PyTorch's and JAX's operations, as a table"
    )
    accuracy_parser.set_defaults(command=accuracy)
    accuracy_parser.add_argument("file", nargs="?", metavar="FILE", help="without it: printed")


def check(
    program: str, suite: list[str] | None, dtype: Any, timeout: float, extreme: bool,
    folder: str | None, json: str | None,
) -> int:
    from minimono.oracle.program import check_program

    report = check_program(
        program, suite, dtype=dtype, timeout=timeout, extreme=extreme, folder=folder
    )
    print(report)
    if json is not None:
        _write_json(Path(json), asdict(report))
    return PASSED if report.good else FAILED


def _write_json(file: Path, content: Any) -> None:
    text = json.dumps(content, indent=2, ensure_ascii=False)
    file.write_text(text + "\n", encoding="utf-8", newline="\n")


def describe(suite: str | None) -> int:
    from minimono.oracle import description
    from minimono.oracle import suite as suites

    if suite is not None:
        print(description.describe(suite), end="")
    else:
        for name in suites.SUITES:
            print(f"{name:14} {suites.get(name).text}")
        print("\nminimono oracle describe SUITE   says how each of its functions is called")
        print("minimono oracle describe CASE    shows one, as scale/given/1, and what it catches")
    return PASSED


def dump(folder: str) -> int:
    from minimono.oracle import vectors

    files = vectors.dump(folder)
    print(f"{len(files)} files in {folder}")
    return PASSED


def accuracy(file: str | None) -> int:
    from minimono.oracle.accuracy import table

    page = table()
    if file is None:
        print(page)
    else:
        Path(file).write_text(page + "\n", encoding="utf-8", newline="\n")
    return PASSED
