"""Which known mistakes each case catches: worked out, kept in a file beside the cases, shown.

A case catches a mistake if the mistaken function's float64 reply is outside the case's tolerance.
Cases near the ends of float64's range are left out: there sound code fails too.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from minimono.oracle import suite as suites
from minimono.oracle import vectors
from minimono.oracle.case import Case, Expected, Value
from minimono.oracle.diagnosis import agrees_with_truth, reply_of

Catches = dict[str, list[str]]  # case id: names of mistakes


def find(suite: suites.Suite, cases: Iterable[Case]) -> Catches:
    """Run every known mistake on every case of its function."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a mistake may divide by 0
        return {
            case.id: [
                name
                for name, mistaken in suite.mistakes[case.call].items()
                if not agrees_with_truth(case, reply_of(mistaken, suite, case))
            ]
            for case in cases
            if not case.extreme
        }


def document(suite: suites.Suite, cases: Iterable[Case]) -> str:
    """Return the file of a suite: its mistakes by function, and their numbers by case."""
    cases = list(cases)
    calls = {case.id: case.call for case in cases}
    mistakes = {call: list(named) for call, named in suite.mistakes.items()}
    head = {"version": vectors.VERSION, "suite": suite.name, "mistakes": mistakes}
    entries = [
        f"{json.dumps(case)}:{vectors.compact([mistakes[calls[case]].index(n) for n in caught])}"
        for case, caught in find(suite, cases).items()
    ]
    return vectors.compact(head)[:-1] + ',"catches":{\n' + ",\n".join(entries) + "\n}}\n"


def load(suite: str, folder: Path | str | None = None) -> Catches:
    """Return the names of the mistakes that each case catches, from the files of `make vectors`.

    Raises ValueError for a file that is not the one the folder's manifest names.

    >>> load("scale")["scale/given/13"][-1]
    'logarithm of the scale'
    """
    calls = {case.id: case.call for case in vectors.load(suite, folder)}
    found = json.loads(vectors.verified(folder, f"{suite}.catches.json"))
    return {
        case: [found["mistakes"][calls[case]][number] for number in numbers]
        for case, numbers in found["catches"].items()
    }


def describe(case_id: str) -> str:
    """Say what a case is called with, what must come out, and which mistakes it catches."""
    name = case_id.split("/")[0]
    suite = suites.get(name)
    case = next((c for c in vectors.load(name) if c.id == case_id), None)
    if case is None:
        raise ValueError(f"oracle: no case is named {case_id!r}; `dump` writes all that there are")
    outputs = {
        key: expected.value if isinstance(expected, Expected) else [e.value for e in expected]
        for key, expected in case.expected.items()
    }
    lines = [f"{case.id}: {case.notes}", "", str(suite.call(case.call))]
    lines += [f"    {key} = {_text(value)}" for key, value in case.arguments.items()]
    lines += [f"    -> {key} = {_text(value)}" for key, value in outputs.items()]
    caught, known = load(name).get(case.id), suite.mistakes[case.call]
    if caught is None:
        lines += ["", "near the ends of float64's range, where sound code may fail too"]
    else:
        lines += ["", f"catches {len(caught)} of {len(known)} known mistakes"]
        lines += [f"    {mistake}" for mistake in caught]
    return "\n".join(lines) + "\n"


def _text(value: Value) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_text, value)) + "]"
    return str(value.tolist()) if isinstance(value, np.ndarray) else repr(value)
