"""A suite, or one of its cases, for people to read: `minimono oracle describe`."""

from __future__ import annotations

import numpy as np

from minimono.oracle import suite as suites
from minimono.oracle import vectors
from minimono.oracle.case import Expected, Value


def describe(name: str) -> str:
    """Say what a suite calls, with which shapes and conventions.

    Of a case, as scale/given/1: what it is called with, what must come out, and which of the known
    mistakes it catches.
    """
    return _case(name) if "/" in name else _suite(name)


def _suite(name: str) -> str:
    suite = suites.get(name)
    lines = [f"{suite.name}: {suite.text}", ""]
    for call in suite.calls:
        lines += [str(call), *(f"    {line}" for line in call.text.splitlines()), ""]
    lines += [f"{key}: {value}" for key, value in suite.conventions.items()]
    return "\n".join(lines).rstrip() + "\n"


def _case(case_id: str) -> str:
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
    caught, known = vectors.load_catches(name).get(case.id), suite.mistakes[case.call]
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
