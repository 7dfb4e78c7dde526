"""The pytest plugin: `--minimono-dtype`, the fixture `minimono_check`, and a summary.

pytest loads it in every run where minimono is installed, so nothing else is imported here before
it is needed. What a test found travels in its `user_properties`, which also reach the summary
from the processes of pytest-xdist, and JUnit's XML.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from minimono.oracle.parametrize import Check
    from minimono.oracle.runner import Report

CALL, DIAGNOSIS, NOTE = "minimono_call", "minimono_diagnosis", "minimono_note"
WORDS = {
    "passed": "passed",
    "failed": "failed",
    "error": "failed",
    "xfailed": "failed as expected",
    "skipped": "skipped",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("minimono").addoption(
        "--minimono-dtype", choices=("float64", "float32"), default="float64",
        help="dtype of the arrays that the oracle's checks hand to your code (default: float64)",
    )


@pytest.fixture
def minimono_check(request: pytest.FixtureRequest) -> Callable[..., Report]:
    """`oracle.check` as one test: fails with the report, and counts in the summary."""

    def check(implementation: Any, suite: str | None = None, **options: Any) -> Report:
        __tracebackhide__ = True
        from minimono import oracle

        options.setdefault("dtype", request.config.getoption("--minimono-dtype"))
        report = oracle.check(implementation, suite, on_fail="collect", **options)
        name = suite or ", ".join(implementation)
        request.node.user_properties += [
            (CALL, name),
            *((DIAGNOSIS, f.diagnosis) for f in report.failures if f.diagnosis is not None),
            *((NOTE, note) for note in report.notes),
        ]
        if not report.good:
            pytest.fail(str(report), pytrace=False)
        return report

    return check


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Any:
    check = _check_of(item)
    if check is None:
        return (yield)
    if check.dtype is None:
        check.dtype = item.config.getoption("--minimono-dtype")
    item.user_properties.append((CALL, check.case.call))
    try:
        return (yield)
    finally:
        if check.diagnosis is not None:
            item.user_properties.append((DIAGNOSIS, check.diagnosis))
        item.user_properties += [(NOTE, note) for note in check.notes]


def _check_of(item: pytest.Item) -> Check | None:
    """Return the check that a decorated test is given; None for any other test."""
    module = sys.modules.get("minimono.oracle.parametrize")
    parameters = getattr(item, "callspec", None)
    check = parameters.params.get("check") if parameters is not None else None
    return check if module is not None and isinstance(check, module.Check) else None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    counts: dict[str, Counter[str]] = {}
    diagnoses: dict[str, Counter[str]] = {}
    notes: dict[str, None] = {}  # in order, each once
    for category, word in WORDS.items():
        for report in terminalreporter.stats.get(category, []):
            properties = getattr(report, "user_properties", [])
            call = next((value for key, value in properties if key == CALL), None)
            if call is None or (report.when != "call" and report.outcome == "passed"):
                continue
            counts.setdefault(call, Counter())[word] += 1
            found = diagnoses.setdefault(call, Counter())
            found.update(value for key, value in properties if key == DIAGNOSIS)
            notes |= dict.fromkeys(value for key, value in properties if key == NOTE)
    if not counts:
        return
    terminalreporter.section("minimono oracle")
    for call, count in counts.items():
        nothing = "nothing was checked, " if count.keys() == {"skipped"} else ""
        counted = ", ".join(f"{n} {word}" for word, n in count.items())
        terminalreporter.line(f"{call}: {nothing}{counted}")
        for diagnosis, cases in diagnoses[call].most_common():
            terminalreporter.line(f"  {cases} {'match' if cases > 1 else 'matches'} {diagnosis}")
    for note in notes:
        terminalreporter.line(f"note: {note}")
