"""Test a program in any language: one case a line on its standard input, one reply a line back.

    {"id": "scale/given/1", "call": "monosemantic_scale", "arguments": {"z": {...}, ...}}
    {"id": "scale/given/1", "result": [{"shape": [2, 3], "bits": ["3ff0000000000000", ...]}]}

A request has its keys in this order, the arguments in the order of the call, no spaces, and its
numbers as case.py's `encode` writes them. A reply has one entry for each output, a list of entries
where an output is a list. An entry is one of

    {"shape": [...], "bits": [...]}    16 hex digits of a float64 each, or 8 of a float32
    {"shape": [...], "text": [...]}    decimals, C's hexadecimal floats, "nan", "inf", "-inf"
    {"shape": [...], "values": [...]}  JSON's own true, false and numbers
    [[1.0, 2.5], [0.5, "nan"]]         the same, nested; or one number for an array without axes

Instead of a result: {"id": ..., "error": "message"}, or {"id": ..., "skip": "reason"} for what the
program does not do. It goes on until its input ends. A reply has at most 2^20 bytes, and no name in
an object twice.
"""

from __future__ import annotations

import json
import math
import os
import reprlib
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from minimono.backend import Array
from minimono.lazy import required
from minimono.oracle import runner, vectors
from minimono.oracle import suite as suites
from minimono.oracle.case import Case, Expected, encode
from minimono.oracle.process import LONGEST, NoReply, Process, words
from minimono.oracle.runner import Outcome, Report

SHOWN = 5  # lines of its standard error that a failure shows
QUOTED = 300  # characters of a reply's words that are shown
AXES = 64  # that NumPy can have, and more than any case has


def check_program(
    command: str | Sequence[str],
    suite: str | Iterable[str] | None = None,
    *,
    dtype: Literal["float64", "float32"] = "float64",
    extreme: bool = False,
    timeout: float = 10.0,
    folder: Path | str | None = None,
) -> Report:
    """Run a program on the cases of one suite, several or all, and compare it with the truth.

    command: the program with its arguments, as one string ("python impl.py") or as a list.

    * `dtype`: "float32" for a program that computes in float32. It is sent cases that float32 can
      hold, its numbers are read as float32, and float32's error is allowed.
    * `timeout`: seconds a reply may take. After that the program is ended, with its children.
    * `extreme`, `folder`: as for `oracle.check`.

    A program that hangs, ends, or replies with something else fails that case, and is started
    again for the next; the program's whole process group ends with it. A report of cases that were
    all skipped says that nothing was checked. Raises ValueError if it cannot be started at all.
    """
    if not hasattr(os, "set_blocking"):
        raise RuntimeError("check_program: Python on Windows is 3.11, expected 3.12 or newer")
    if dtype not in ("float64", "float32"):
        raise ValueError(f'check_program: dtype is {dtype!r}, expected "float64" or "float32"')
    if not (math.isfinite(timeout) and timeout > 0):
        raise ValueError(f"check_program: timeout is {timeout}, expected seconds above 0")
    names = [suite] if isinstance(suite, str) else suites.SUITES if suite is None else suite
    cases = [c for name in names for c in vectors.load(name, folder) if c.superseded is None]
    report, outcomes = Report(), []
    with Program(words(command) if isinstance(command, str) else list(command)) as program:
        for case in _watched(cases):
            reason = runner.reason_to_skip(case, dtype, extreme)
            if reason is None:
                outcome = program.run(case, dtype, timeout)
                if isinstance(outcome, Outcome):
                    outcomes.append(outcome)
                    continue
                reason = outcome
            report.skipped[case.id] = reason
    return runner.finish(report, outcomes, dtype=dtype)


class Program:
    """A program that is asked case after case; `with` starts it, and ends all that it started."""

    def __init__(self, command: Sequence[str]) -> None:
        if not command:
            raise ValueError("check_program: the command is empty")
        self.command = command
        self.process: Process | None = None

    def __enter__(self) -> Program:
        try:
            self.process = Process(self.command)
        except OSError as error:
            raise ValueError(f"check_program: cannot start {self.command[0]}: {error}") from error
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if self.process is not None:
            self.process.end(1.0 if error is None else 0.0)

    def run(self, case: Case, dtype: str, timeout: float) -> Outcome | str:
        """Return what became of a case: an outcome, or the reason why the program skips it."""
        if self.process is None:
            try:
                self.process = Process(self.command)
            except OSError as error:
                return Outcome(case, f"cannot be started again: {error}")
        try:
            reply = parse(self.process.ask(request(case), timeout), case.id)
        except NoReply as error:
            complaints = self.process.end()
            self.process = None
            lines = [str(error), *(f"  stderr: {line}" for line in complaints[-SHOWN:])]
            return Outcome(case, "\n  ".join(lines))
        if "skip" in reply:
            return f"skipped by the program: {_shown(reply['skip'])}"
        if "error" in reply:
            return Outcome(case, f"replied with an error: {_shown(reply['error'])}")
        try:
            result = read_result(reply["result"], case, dtype)
        except ValueError as error:
            return Outcome(case, f"replied with a result that cannot be read: {error}")
        return runner.judge(case, suites.get(case.suite).call(case.call), result)


def _watched(cases: list[Case]) -> Iterable[Case]:
    """The cases, with progress where somebody watches."""
    if not sys.stderr.isatty():
        return cases
    tqdm = required("tqdm", by="check_program", install="tqdm")  # here: it is slow to import

    watched: Iterable[Case] = tqdm.tqdm(cases, desc="Cases", unit="case", leave=False)
    return watched


# ---- lines -------------------------------------------------------------------------------------


def request(case: Case) -> bytes:
    """Return the line that asks for a case."""
    call = suites.get(case.suite).call(case.call)
    arguments = {n: encode(case.arguments[n]) for n in call.arguments if n != "*"}
    content = {"id": case.id, "call": case.call, "arguments": arguments}
    return json.dumps(content, separators=(",", ":")).encode() + b"\n"


def parse(line: bytes, case: str) -> dict[str, Any]:
    """Return a reply's line, if it is one, and to this case."""
    try:
        reply = json.loads(line, object_pairs_hook=_object)
    except RecursionError:
        raise NoReply("replied with JSON that is nested too deeply") from None
    except ValueError as error:
        shown = line[:60].decode("utf-8", "replace").rstrip()
        raise NoReply(f"replied with what is not JSON ({error}): {shown!r}") from error
    if not isinstance(reply, dict) or "id" not in reply:
        raise NoReply(f'replied with {_shown(reply, 60)!r}, expected an object with "id"')
    if reply["id"] != case:
        raise NoReply(f"replied to {_shown(reply['id'], 60)!r} instead")
    if len({"result", "error", "skip"} & reply.keys()) != 1:
        raise NoReply('replied without one of "result", "error" and "skip"')
    return reply


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON as a dict, if each of its names stands there once."""
    content = dict(pairs)
    if len(content) < len(pairs):
        (name, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"{_shown(name, 60)!r} stands in an object twice")
    return content


def _shown(value: Any, most: int = QUOTED) -> str:
    """What a program said, as text that is short and can be printed, whatever it is."""
    text = value if isinstance(value, str) else reprlib.repr(value)
    return text[:most].encode("utf-8", "replace").decode()


def read_result(result: Any, case: Case, dtype: str) -> Any:
    """Return a reply's result as a Python function would have returned it."""
    if not isinstance(result, list) or len(result) != len(case.expected):
        size = f" of {len(result)}" if isinstance(result, list) else ""
        raise ValueError(
            f"result is a {_json_type(result)}{size}, expected an array of {len(case.expected)}: "
            f"{', '.join(case.expected)}"
        )
    outputs: list[Any] = []
    for entry, (name, expected) in zip(result, case.expected.items(), strict=True):
        try:
            if isinstance(expected, Expected):
                outputs.append(read_output(entry, expected, dtype))
            elif isinstance(entry, list) and len(entry) == len(expected):
                pairs = zip(entry, expected, strict=True)
                outputs.append([read_output(e, wanted, dtype) for e, wanted in pairs])
            else:
                raise ValueError(f"expected an array of {len(expected)} entries, one for each call")
        except (ValueError, OverflowError, RecursionError) as error:
            raise ValueError(f"{name}: {error}") from error
    return outputs[0] if len(outputs) == 1 else tuple(outputs)


def read_output(entry: Any, expected: Expected, dtype: str = "float64") -> Array:
    """An entry of a result as an array. Numbers without a point are read as what is expected.

    >>> read_output([[1, "nan"], [0.5, 2]], Expected(np.zeros((2, 2))))
    array([[1. , nan],
           [0.5, 2. ]])
    >>> read_output({"shape": [1], "bits": ["3fe0000000000000"]}, Expected(np.zeros(1)))
    array([0.5])
    """
    wanted = np.asarray(expected.value).dtype
    if isinstance(entry, dict):
        key = next((k for k in ("bits", "text", "values") if k in entry), None)
        if key is None:
            raise ValueError('an object without "bits", "text" and "values"')
        alone = not isinstance(entry[key], list)
        leaves = [entry[key]] if alone else entry[key]
        shape = entry.get("shape", [] if alone else None)
        if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
            shown = reprlib.repr(shape)
            raise ValueError(f'"shape" is {shown}, expected an array of whole numbers')
        if len(shape) > AXES or any(n > LONGEST for n in shape):
            raise ValueError(f'"shape" is {reprlib.repr(shape)}, which no reply can hold')
        if (size := math.prod(shape)) != len(leaves):
            raise ValueError(f'shape {shape} holds {size} numbers, "{key}" {len(leaves)}')
    else:
        key, (shape, leaves) = "values", _flattened(entry)
    if key == "bits":
        array = _from_bits(leaves)
    else:
        values = [_number(leaf, whole=wanted.kind != "f") for leaf in leaves]
        kinds = {type(v) for v in values}
        if kinds > {bool}:
            raise ValueError("true and false are mixed with numbers")
        beyond = kinds == {int} and any(not -(2**63) <= v < 2**63 for v in values)
        kind = wanted if not values else np.dtype(object) if beyond else None
        array = np.array(values, dtype=kind)
    if array.dtype == np.float64 and dtype == "float32":
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
    return array.reshape(shape)


def _flattened(entry: Any, most: int = AXES) -> tuple[list[int], list[Any]]:
    """Return the shape of arrays in up to `most` arrays, and what they hold."""
    if not isinstance(entry, list):
        return [], [entry]
    if most == 0:
        raise ValueError(f"more than {AXES} arrays in each other")
    parts = [_flattened(e, most - 1) for e in entry]
    shapes = [shape for shape, _ in parts] or [[]]
    if any(shape != shapes[0] for shape in shapes):
        raise ValueError("arrays of different lengths beside each other")
    return [len(entry), *shapes[0]], [leaf for _, leaves in parts for leaf in leaves]


def _number(leaf: Any, whole: bool) -> bool | int | float:
    if isinstance(leaf, bool | float):
        return leaf
    if isinstance(leaf, int):
        return leaf if whole else float(leaf)
    if not isinstance(leaf, str):
        raise ValueError(f"a number was expected, not {_json_type(leaf)}")
    text = leaf.strip().lower()
    if text in ("true", "false"):
        return text == "true"
    if whole and text.lstrip("+-").isdecimal():
        return int(text)
    try:
        return float.fromhex(text) if "0x" in text else float(text)
    except ValueError:
        raise ValueError(f"{leaf[:60]!r} is no number") from None


def _from_bits(leaves: list[Any]) -> Array:
    lengths = {len(leaf) if isinstance(leaf, str) else 0 for leaf in leaves}
    if not lengths <= {8, 16} or len(lengths) > 1:
        raise ValueError('"bits" are strings of 16 hex digits each (float64), or of 8 (float32)')
    unsigned, floating = (np.uint32, np.float32) if lengths == {8} else (np.uint64, np.float64)
    return np.array([int(leaf, 16) for leaf in leaves], dtype=unsigned).view(floating)


def _json_type(value: Any) -> str:
    names = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")
