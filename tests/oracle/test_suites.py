"""In every suite: each known mistake is caught and named, and the files say by which cases."""

from functools import cache

import pytest

from minimono import oracle
from minimono.oracle import catches, runner, vectors
from minimono.oracle import suite as suites
from minimono.oracle.case import Case
from minimono.oracle.suite import Mistakes

CALLS = [(name, call) for name, calls in suites.SUITES.items() for call in calls]
NAMED = [(name, call, m) for name, call in CALLS for m in suites.get(name).mistakes[call]]

RAISING = ("decorrelation", "scale")  # a mistake that cannot take a shape raises there


# ---- known mistakes ------------------------------------------------------------------------------


@cache
def cases_of(name: str, call: str) -> list[Case]:
    return [c for c in vectors.load(name) if c.call == call and not c.extreme]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of nothing the rate is 0 / 0
@pytest.mark.parametrize(("name", "call"), CALLS)
def test_without_knobs_what_the_mistakes_are_made_of_is_right(name: str, call: str) -> None:
    mistakes = suites.get(name).mistakes[call]
    assert isinstance(mistakes, Mistakes)
    for case in cases_of(name, call):
        assert runner.run(mistakes.right, case).message is None


@pytest.mark.usefixtures("remembered")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # a mistake may divide by 0, or overflow
@pytest.mark.parametrize(("name", "call", "mistake"), NAMED)
def test_each_mistake_is_named(name: str, call: str, mistake: str) -> None:
    mistaken = suites.get(name).mistakes[call][mistake]
    outcomes = [runner.run(mistaken, case) for case in cases_of(name, call)]
    failures = runner.finish(runner.Report(), outcomes).failures
    assert failures, "no case catches it: add one to the suite, then make vectors"
    raised = [f for f in failures if "raised" in f.message]
    assert not raised or name in RAISING
    named = [f.diagnosis for f in failures if f not in raised]
    assert named
    assert set(named) == {f'"{mistake}" to 15 digits'}, (
        "another mistake gives the same replies: add a case that tells them apart, or keep one"
    )


# ---- which mistakes each case catches ------------------------------------------------------------


@pytest.mark.parametrize("name", suites.SUITES)
def test_each_case_catches_what_its_file_says(name: str) -> None:
    """If this fails: `make vectors`, look at what `git diff` shows, and only then commit it."""
    suite, cases = suites.get(name), oracle.load(name)
    listed = vectors.load_catches(name)
    assert listed == catches.find(suite, cases)
    assert list(listed) == [case.id for case in cases if not case.extreme]
    caught = {(c.call, mistake) for c in cases for mistake in listed.get(c.id, ())}
    assert caught == {(call, mistake) for n, call, mistake in NAMED if n == name}


def test_a_case_is_shown_with_what_it_catches() -> None:
    text = oracle.describe("scale/given/9")
    assert text.startswith(
        "scale/given/9: small whole numbers, to try by hand\n\n"
        "monosemantic_scale(z, mean, variance, *, compensation) -> phi\n"
        "    z = [[0.0, 2.0, 5.0], [1.0, -1.0, 2.0]]\n"
    )
    assert "\n    -> phi = [[1.0, 0.5, 4.0], [0.0, 2.0, 0.25]]\n\ncatches 10 of 17 known" in text
    shown = text.split("known mistakes\n")[1].splitlines()
    assert [line.strip() for line in shown] == vectors.load_catches("scale")["scale/given/9"]
    assert "-> values = [[[" in oracle.describe("module/paper/1")
    assert "float64's range, where sound code may fail" in oracle.describe("scale/given/16")


def test_unknown_cases() -> None:
    with pytest.raises(ValueError, match="no case is named 'scale/given/99'"):
        oracle.describe("scale/given/99")
    with pytest.raises(ValueError, match="no suite is named 'scales'"):
        oracle.describe("scales/given/1")
