"""The cases as tests of pytest: one test a case, with the oracle's message when it fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any, Literal

import pytest

from minimono import checks
from minimono.backend import Array
from minimono.oracle import runner, vectors
from minimono.oracle import suite as suites
from minimono.oracle.case import Case
from minimono.oracle.runner import Failure, Outcome, Report


def parametrize_with_checks(
    functions: Mapping[str, Callable[..., Any]],
    expected_failures: Mapping[str, str] | None = None,
    *,
    dtype: Literal["float64", "float32"] | None = None,
    convert: Callable[[Array], Any] | None = None,
    extreme: bool = False,
    timeout: float = 60.0,
) -> pytest.MarkDecorator:
    """Decorate a test that takes `check` and calls it: pytest runs it once for each case.

        @oracle.parametrize_with_checks({"monosemantic_scale": my_scale})
        def test_my_scale(check):
            check()

    functions: by the names that `describe` prints. The other options are those of `oracle.check`.

    * `expected_failures`: why a case fails, by its id. It then has to: passing is an error.
    * `dtype`: by default what `--minimono-dtype` says, which is float64 if it says nothing. Cases
      that float32 cannot hold are skipped then.

    Raises ValueError for names of functions and ids of cases that do not exist.
    """
    if dtype not in (None, "float64", "float32"):
        raise ValueError(
            f'parametrize_with_checks: dtype is {dtype!r}, expected "float64", "float32" or None'
        )
    checks.number(timeout, "parametrize_with_checks: timeout", above=0)
    if not isinstance(functions, Mapping):
        raise ValueError(
            f"parametrize_with_checks: functions is a {type(functions).__name__}, expected a "
            'mapping by name: {"monosemantic_scale": function}'
        )
    functions = runner.functions_under_test(functions, None)
    names = sorted({suites.suite_of(name) for name in functions})
    cases = {
        case.id: case
        for name in names
        for case in vectors.load(name)
        if case.call in functions and case.superseded is None and (extreme or not case.extreme)
    }
    expected_failures = expected_failures or {}
    for unknown in expected_failures.keys() - cases.keys():
        similar = get_close_matches(unknown, cases, n=1)
        raise ValueError(
            f"parametrize_with_checks: expected_failures names {unknown!r}, which is not among "
            f"the cases of {', '.join(functions)}"
            + (f"; did you mean {similar[0]!r}?" if similar else "")
        )
    answers = Answers(list(cases.values()), functions, convert, timeout)
    return pytest.mark.parametrize(
        "check",
        [
            pytest.param(
                Check(case, answers, dtype), id=case.id,
                marks=[pytest.mark.xfail(
                    reason=expected_failures[case.id], raises=pytest.fail.Exception, strict=True
                )] if case.id in expected_failures else [],
            )
            for case in cases.values()
        ],
    )


class Answers:
    """What became of the cases: each is run once in each dtype, when it is first asked for."""

    def __init__(
        self,
        cases: list[Case],
        functions: runner.Functions,
        convert: Callable[[Array], Any] | None,
        timeout: float,
    ) -> None:
        self.cases, self.functions = cases, functions
        self.convert, self.timeout = convert, timeout
        self.outcomes: dict[tuple[str, str], Outcome] = {}
        self.failures: dict[tuple[str, str], dict[str, Failure]] = {}

    def outcome(self, case: Case, dtype: str) -> Outcome:
        if (case.id, dtype) not in self.outcomes:
            self.outcomes[case.id, dtype] = runner.run(
                self.functions[case.call], case,
                dtype=dtype, convert=self.convert, timeout=self.timeout,
            )
        return self.outcomes[case.id, dtype]

    def failure(self, case: Case, dtype: str) -> Failure:
        """Return a failed case with its diagnosis, for which all cases of the call are needed."""
        if (case.call, dtype) not in self.failures:
            others = [c for c in self.cases if c.call == case.call and c.fits(dtype)]
            report = runner.finish(Report(), [self.outcome(c, dtype) for c in others], dtype=dtype)
            self.failures[case.call, dtype] = {f.case: f for f in report.failures}
        return self.failures[case.call, dtype][case.id]


class Check:
    """What a decorated test is given: call it to run one case."""

    def __init__(self, case: Case, answers: Answers, dtype: str | None) -> None:
        self.case, self.answers, self.dtype = case, answers, dtype
        self.diagnosis: str | None = None  # known after the call, like the notes
        self.notes: list[str] = []

    def __repr__(self) -> str:
        return f"<check of {self.case.id}>"

    def __call__(self) -> None:
        __tracebackhide__ = True  # of pytest's tracebacks
        dtype = self.dtype or "float64"
        reason = runner.reason_to_skip(self.case, dtype, extreme=True)
        if reason is not None:
            pytest.skip(reason)
        outcome = self.answers.outcome(self.case, dtype)
        if outcome.message is None:
            self.notes = runner.finish(Report(), [outcome], dtype=dtype).notes
            return
        failure = self.answers.failure(self.case, dtype)
        self.diagnosis = failure.diagnosis
        pytest.fail(str(failure), pytrace=False)
