"""`parametrize_with_checks`: which tests it makes, and what it refuses."""

import subprocess
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from minimono import mono, oracle

Pytest = Callable[..., subprocess.CompletedProcess[str]]


def cases(mark: pytest.MarkDecorator) -> list[Any]:
    name, parameters = mark.args
    assert name == "check"
    return list(parameters)


def test_one_test_for_each_case_that_is_not_extreme() -> None:
    mark = oracle.parametrize_with_checks({"monosemantic_scale": mono.monosemantic_scale})
    wanted = [
        case.id for case in oracle.load("scale")
        if case.call == "monosemantic_scale" and not case.extreme
    ]
    assert [case.id for case in cases(mark)] == wanted
    assert len(wanted) >= 14
    with_extreme = oracle.parametrize_with_checks({"monosemantic_scale": len}, extreme=True)
    assert len(cases(with_extreme)) == len(wanted) + 2


@oracle.parametrize_with_checks({"monosemantic_scale": mono.monosemantic_scale})
def test_as_it_is_used(check: Callable[[], None]) -> None:
    check()


@oracle.parametrize_with_checks(
    {"monosemantic_scale": mono.monosemantic_scale}, dtype="float32"
)
def test_as_it_is_used_in_float32(check: Callable[[], None]) -> None:
    check()


@oracle.parametrize_with_checks(
    {"monosemantic_scale": lambda z, m, v, *, compensation: np.full(z.shape, np.nan)},
    expected_failures={
        case.id: "nothing is computed"
        for case in oracle.load("scale")
        if case.call == "monosemantic_scale" and case.id not in ("scale/given/13",)
        and not case.extreme
    },
)
def test_expected_failures_are_expected(check: Callable[[], None]) -> None:
    check()


@pytest.mark.parametrize(
    ("functions", "options", "message"),
    [
        ({"my_scale": len}, {}, r"no function is named 'my_scale'; there are moments, merge"),
        ({}, {}, "no functions were given"),
        (len, {}, "expected a mapping by name"),
        ({"monosemantic_scale": len}, {"dtype": "float16"}, "dtype is 'float16'"),
        ({"monosemantic_scale": len}, {"timeout": -1}, "checks: timeout is -1.0, expected a"),
        (
            {"monosemantic_scale": len}, {"expected_failures": {"scale/given/l": "because"}},
            "names 'scale/given/l', which is not among the cases of monosemantic_scale; did you "
            "mean 'scale/given/",
        ),
        (
            {"monosemantic_scale": len}, {"expected_failures": {"scale/stream/1": "because"}},
            "names 'scale/stream/1'",
        ),
    ],
)
def test_bad_input(functions: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        oracle.parametrize_with_checks(functions, **options)


PROJECT = """
import numpy as np
from minimono import oracle

calls = []

def my_scale(z, mean, variance, *, compensation):
    calls.append(1)
    below = variance + compensation * variance.mean()
    return (z - mean) ** 2 / {below}

@oracle.parametrize_with_checks({{"monosemantic_scale": my_scale}}, {expected})
def test_scale(check):
    check()

def test_calls():
    assert len(calls) == {calls}
"""


def test_an_expected_failure_that_passes_is_an_error(run_pytest: Pytest) -> None:
    test = PROJECT.format(
        below="np.where(below > 0, below, np.nan)",
        expected={"scale/given/2": "rounding"}, calls=14,
    )
    run = run_pytest(test)
    assert run.returncode == 1
    assert "[XPASS(strict)] rounding" in run.stdout
    assert "monosemantic_scale: 13 passed, 1 failed" in run.stdout


def test_expected_failures_give_their_reason(run_pytest: Pytest) -> None:
    expected = {f"scale/given/{n}": "0 for constant neurons" for n in (11, 13)}
    test = PROJECT.format(
        below="below if below.all() else (z - mean) ** 2 / np.inf", expected=expected, calls=14
    )
    run = run_pytest(test, "-rx", "-W", "ignore")
    assert run.returncode == 0, run.stdout
    assert "monosemantic_scale: 12 passed, 2 failed as expected" in run.stdout
    assert "XFAIL test_theirs.py::test_scale[scale/given/11] - 0 for constant" in run.stdout


def test_each_case_runs_once_for_all_failures(run_pytest: Pytest) -> None:
    test = PROJECT.format(below="1", expected="None", calls=14)
    run = run_pytest(test, "-x", "--deselect", "test_theirs.py::test_calls")
    assert "1 failed" in run.stdout
    run = run_pytest(test)
    assert "test_calls" not in run.stdout.partition("short test summary")[2]


def test_a_case_that_float32_cannot_hold_is_skipped(run_pytest: Pytest) -> None:
    test = PROJECT.format(below="np.where(below > 0, below, np.nan)", expected="", calls=14)
    test = test.replace("}, )", '}, dtype="float32", extreme=True)')
    run = run_pytest(test)
    assert "monosemantic_scale: 14 passed, 2 skipped" in run.stdout
