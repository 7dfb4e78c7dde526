"""Run an implementation on the cases and compare what it returns with the truth."""

from __future__ import annotations

import contextvars
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from minimono import checks
from minimono.backend import Array
from minimono.oracle import suite as suites
from minimono.oracle import vectors
from minimono.oracle.adapters import Reply, to_numpy
from minimono.oracle.case import Case, Expected, Value
from minimono.oracle.deadline import OutOfTime, call_within, can_end
from minimono.oracle.diagnosis import diagnose
from minimono.oracle.frameworks import functions_of
from minimono.oracle.suite import Call

SHOWN = 10  # failures that a printed report tells in full
Functions = Mapping[str, Callable[..., Any]]


class OracleError(AssertionError):
    """An implementation disagrees with the truth, or nothing was checked. It says the report."""


@dataclass(frozen=True)
class Failure:
    """A case that failed, how, and, if it could be told, what is wrong with the implementation."""

    case: str
    message: str
    diagnosis: str | None = None

    def __str__(self) -> str:
        lines = [f"{self.case}: {self.message}"]
        if self.diagnosis is not None:
            lines.append(f"  matches: {self.diagnosis}")
        return "\n".join(lines)


@dataclass
class Report:
    """What `check` found. `str(report)` is for people."""

    passed: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)  # case id: reason
    notes: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether all that was checked passed, and something was."""
        return bool(self.passed) and not self.failures

    def __str__(self) -> str:
        counts = (
            f"{len(self.passed)} passed, {len(self.failures)} failed, {len(self.skipped)} skipped"
        )
        lines = [str(failure) for failure in self.failures[:SHOWN]]
        if len(self.failures) > SHOWN:
            lines.append(f"... and {len(self.failures) - SHOWN} more failures, in `.failures`")
        reasons: dict[str, list[str]] = {}
        for case, reason in self.skipped.items():
            reasons.setdefault(reason, []).append(case)
        for reason, cases in reasons.items():
            more = f" and {len(cases) - 1} more" if len(cases) > 1 else ""
            lines.append(f"skipped {cases[0]}{more}: {reason}")
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join([*lines, counts])


@dataclass(frozen=True)
class Outcome:
    """What became of one case: a message if it failed, and the replies if there were any."""

    case: Case
    message: str | None
    replies: list[Reply] | None = None


def check(
    implementation: Any,
    suite: str | None = None,
    *,
    on_fail: Literal["raise", "collect"] = "raise",
    dtype: Literal["float64", "float32"] = "float64",
    convert: Callable[[Array], Any] | None = None,
    extreme: bool = False,
    timeout: float = 60.0,
    folder: Path | str | None = None,
) -> Report:
    """Call an implementation on every case of a suite and compare it with the truth.

    implementation: the function, if the suite is named (its first one is meant), or several by
    their names, as a mapping or as anything that has them as attributes. `describe(suite)` prints
    the names and how each is called. Functions that are not there are skipped.

    * `dtype`: of the float arrays it is given; cases that float32 cannot hold are skipped then.
    * `convert`: applied to each array before the call, for instance `torch.from_numpy`.
    * `extreme`: also cases near the ends of float64's range, where sound code may fail.
    * `timeout`: seconds a call may take. One that takes longer is ended, and fails. That is not
      possible on Windows, in another thread than the main one, while C code does not return to
      Python, or if it catches every exception: `check_program` ends whatever hangs.
    * `folder`: vectors written by `dump`, instead of those that come with minimono.

    What it returns may be arrays of NumPy, PyTorch, JAX or CuPy. The precision is taken from them:
    float32 arrays are allowed float32's error. Raises OracleError with the report if a case fails
    or all are skipped, or returns it with on_fail="collect".

    >>> from minimono import mono
    >>> print(check(mono.monosemantic_scale, "scale"))      # doctest: +ELLIPSIS
    skipped ...
    """
    if on_fail not in ("raise", "collect"):
        raise ValueError(f'check: on_fail is {on_fail!r}, expected "raise" or "collect"')
    if dtype not in ("float64", "float32"):
        raise ValueError(f'check: dtype is {dtype!r}, expected "float64" or "float32"')
    checks.number(timeout, "check: timeout", above=0)
    functions = functions_under_test(implementation, suite)
    names = [suite] if suite is not None else sorted({suites.suite_of(f) for f in functions})
    cases = [c for name in names for c in vectors.load(name, folder) if c.superseded is None]
    report = Report()
    library = functions_of(implementation)
    missing = {} if library is None else library.missing

    def answer(case: Case) -> Outcome:
        return run(functions[case.call], case, dtype=dtype, convert=convert, timeout=timeout)

    chosen = []
    for case in cases:
        if case.call in functions:
            reason = reason_to_skip(case, dtype, extreme)
        else:
            reason = missing.get(case.call, f"no function {case.call} was given")
        if reason is None:
            chosen.append(case)
        else:
            report.skipped[case.id] = reason
    if not can_end():
        report.notes.append("calls had no time limit, which needs the main thread, not on Windows")
    return finish(report, [answer(case) for case in chosen], on_fail, dtype)


def finish(
    report: Report,
    outcomes: Iterable[Outcome],
    on_fail: Literal["raise", "collect"] = "collect",
    dtype: str = "float64",
) -> Report:
    """Add the outcomes to a report, with the diagnosis of the failures of each call."""
    by_call: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_call.setdefault(outcome.case.call, []).append(outcome)
    for call, group in by_call.items():
        suite = suites.get(group[0].case.suite)
        named = diagnose(suite, call, [(o.case, o.replies) for o in group])
        for outcome in group:
            if outcome.message is None:
                report.passed.append(outcome.case.id)
            else:
                found = named.get(outcome.case.id)
                report.failures.append(Failure(outcome.case.id, outcome.message, found))
        given = np.finfo(dtype).eps
        narrower = {r.dtype for o in group for r in o.replies or () if r.eps > given}
        if narrower:
            report.notes.append(
                f"{call} was given {dtype}, returned {', '.join(sorted(narrower))} and was allowed "
                "the errors of that (JAX returns float32 unless jax_enable_x64 is set)"
            )
    if not (report.passed or report.failures):
        report.notes.append("nothing was checked, so nothing is known of the implementation")
    if on_fail == "raise" and not report.good:
        raise OracleError("\n" + str(report))
    return report


def run(
    function: Callable[..., Any],
    case: Case,
    *,
    dtype: str = "float64",
    convert: Callable[[Array], Any] | None = None,
    timeout: float = 60.0,
) -> Outcome:
    """Call a function on one case. Whatever it does, an outcome comes back, or a Ctrl-C."""
    call = suites.get(case.suite).call(case.call)
    given = {name: handed_over(value, dtype, convert) for name, value in case.arguments.items()}
    positional, named = call.bind(given)
    # In the caller's context, so that `minimono.reference()` and the like hold there too, and in a
    # copy of it, so that what a call changes in it ends with the call.
    context = contextvars.copy_context()
    try:
        result = call_within(timeout, lambda: context.run(function, *positional, **named))
    except OutOfTime:
        return Outcome(case, f"no reply within {timeout:g} s")
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return Outcome(case, f"raised {type(error).__name__}: {error}")
    for name, value in case.arguments.items():
        if not _unchanged(given[name], handed_over(value, dtype, None)):
            return Outcome(case, f"changed its argument {name}, which belongs to the caller")
    return judge(case, call, result, least_eps=float(np.finfo(dtype).eps))


def judge(case: Case, call: Call, result: Any, *, least_eps: float = 0.0) -> Outcome:
    """Compare what came back with what was expected.

    least_eps: of the dtype that was given, whose errors are allowed though more digits come back.
    """
    parts = [result] if len(call.outputs) == 1 else result
    if len(call.outputs) > 1 and not isinstance(parts, tuple | list):
        return Outcome(
            case, f"returned a {type(result).__name__}, expected {len(call.outputs)} values: "
            f"{', '.join(call.outputs)}",
        )
    if len(parts) != len(call.outputs):
        return Outcome(
            case, f"returned {len(parts)} values, expected {len(call.outputs)}: "
            f"{', '.join(call.outputs)}",
        )
    replies, messages = [], []
    for name, part in zip(call.outputs, parts, strict=True):
        expected = case.expected[name]
        if isinstance(expected, Expected):
            items, truths, labels = [part], [expected], [name if len(parts) > 1 else ""]
        elif isinstance(part, tuple | list) and len(part) == len(expected):
            items, truths = list(part), expected
            labels = [f"{name}[{i}]" for i in range(len(part))]
        else:
            size = f" of {len(part)}" if isinstance(part, tuple | list) else ""
            return Outcome(
                case,
                f"{name}: returned a {type(part).__name__}{size}, expected a list of "
                f"{len(expected)}, one for each call",
            )
        for item, truth, label in zip(items, truths, labels, strict=True):
            try:
                reply = to_numpy(item)
            except Exception as error:  # a foreign library's arrays can raise anything
                return Outcome(case, f"{label}: {error}" if label else str(error))
            reply = reply._replace(eps=max(reply.eps, least_eps) if reply.eps else 0.0)
            replies.append(reply)
            message = difference(reply, truth, case.condition)
            if message is not None:
                messages.append(f"{label}: {message}" if label else message)
    if not messages:
        return Outcome(case, None, replies)
    more = f"\n  (and {len(messages) - 1} more of its outputs)" if len(messages) > 1 else ""
    return Outcome(case, messages[0] + more, replies)


def difference(reply: Reply, expected: Expected, condition: float) -> str | None:
    """Return what is wrong with a reply; None if nothing is."""
    want, got = np.asarray(expected.value), reply.value
    if got.shape != want.shape:
        return f"has shape {got.shape}, expected {want.shape}"
    if (kind := _kind(want)) != _kind(got):
        return f"has dtype {reply.dtype}, expected {kind}"
    error = expected.errors(got)
    allowed = expected.allowed(reply.eps)
    bad = ~(error <= allowed)
    if not bad.any():
        return None
    with np.errstate(over="ignore"):
        ratio = np.where(bad, error / np.where(allowed > 0, allowed, np.finfo(float).tiny), -1.0)
    worst = np.unravel_index(int(np.argmax(np.where(np.isnan(ratio), np.inf, ratio))), want.shape)
    at = f" at {[int(i) for i in worst]}" if worst else ""
    count = f"{int(bad.sum())} of {want.size} values " if want.size > 1 else "the value is "
    if kind != "floats":
        return f"{count}wrong\n  first{at}: got {got[worst]}, want {want[worst]}"
    got_there, want_there = float(got[worst]), float(want[worst])
    lines = [
        f"{count}outside tolerance",
        f"  worst{at}: got {got_there!r}, want {want_there!r} ({want_there.hex()})",
    ]
    if math.isfinite(error[worst]):
        excess = f" = {ratio[worst]:.3g} x the allowed {allowed[worst]:.2e}"
        lines.append(
            f"  error {error[worst]:.2e}{excess if allowed[worst] > 0 else ', none is allowed'}; "
            f"{_digits(got_there, want_there):.1f} digits agree (condition {condition:.1e}, "
            f"{reply.dtype})"
        )
    return "\n".join(lines)


def handed_over(value: Value, dtype: str, convert: Callable[[Array], Any] | None) -> Value:
    """Return a copy of an argument, converted: nothing the implementation does reaches us."""
    if isinstance(value, list):
        return [handed_over(v, dtype, convert) for v in value]
    if not isinstance(value, np.ndarray):
        return value
    array = value.astype(dtype) if value.dtype == np.float64 else value.copy()
    return array if convert is None else convert(array)


def _unchanged(value: Any, before: Value) -> bool:
    if isinstance(before, list):
        same_length = isinstance(value, list) and len(value) == len(before)
        return same_length and all(map(_unchanged, value, before))
    if not isinstance(before, np.ndarray):
        return True
    try:
        return np.array_equal(to_numpy(value).value, before, equal_nan=before.dtype.kind == "f")
    except Exception:  # arrays that JAX was told to give up cannot be read any more
        return True


def functions_under_test(implementation: Any, suite: str | None) -> Functions:
    """Return the functions by name, whichever way they were given."""
    if isinstance(implementation, Mapping):
        functions = dict(implementation)
        for name in functions:
            home = suites.suite_of(name)  # names those that exist if this one does not
            if suite is not None and home != suite:
                raise ValueError(f"check: {name} belongs to suite {home!r}, not {suite!r}")
        if not functions:
            raise ValueError("check: no functions were given")
        return {name: _as_called(name, function) for name, function in functions.items()}
    if suite is None:
        raise ValueError(
            f"check: name the suite of {implementation!r} (one of {', '.join(suites.SUITES)}), or "
            "give functions by name: {'monosemantic_scale': function}"
        )
    if suite == "layers" and (library := functions_of(implementation)) is not None:
        return library.functions
    calls = suites.get(suite).calls
    found = {c.name: f for c in calls if callable(f := getattr(implementation, c.name, None))}
    if found:
        return {name: _as_called(name, function) for name, function in found.items()}
    if not callable(implementation):
        raise ValueError(
            f"check: {implementation!r} has none of the functions of suite {suite!r}: "
            f"{', '.join(c.name for c in calls)}"
        )
    return {calls[0].name: _as_called(calls[0].name, implementation)}


def _as_called(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function that the suite calls; what makes modules becomes one of trajectories."""
    if name != "MEmeL":
        return function
    from minimono.oracle.modules import as_trajectory

    return as_trajectory(function)


def reason_to_skip(case: Case, dtype: str, extreme: bool) -> str | None:
    """Return why a case is not run, if it is not."""
    if case.extreme and not extreme:
        return "near the ends of the range of float64 (extreme=True runs it)"
    if not case.fits(dtype):
        return f"{dtype} cannot hold its numbers"
    return None


def _kind(array: Array) -> str:
    return {"f": "floats", "b": "bool"}.get(array.dtype.kind, "whole numbers")


def _digits(got: float, want: float) -> float:
    """Return how many decimal digits two numbers share."""
    if got == want:
        return 16.0
    if want == 0 or not math.isfinite(want):
        return 0.0
    return max(0.0, -math.log10(abs(got - want) / abs(want)))
