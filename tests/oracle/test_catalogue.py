"""Every wrong implementation of the catalogue is caught, and most are named rightly."""

import re

import pytest
from catalogue import WRONG, Wrong, memel, stream

from minimono import oracle


def report_of(wrong: Wrong) -> oracle.Report:
    return oracle.check({wrong.call: wrong.function}, on_fail="collect")


def is_named(wrong: Wrong, report: oracle.Report) -> bool:
    """Whether a diagnosis was made, and every one that was made says what is wrong."""
    made = [failure.diagnosis for failure in report.failures if failure.diagnosis]
    if wrong.said is None or not made:
        return False
    return all(re.search(wrong.said, diagnosis, re.IGNORECASE) for diagnosis in made)


@pytest.mark.parametrize("wrong", WRONG, ids=lambda w: f"{w.call}: {w.what}")
def test_every_wrong_implementation_is_caught(wrong: Wrong) -> None:
    report = report_of(wrong)
    assert report.failures
    assert wrong.said is None or is_named(wrong, report), str(report)


def test_the_catalogue_is_as_large_as_promised() -> None:
    assert len(WRONG) >= 40
    assert sum(wrong.said is not None for wrong in WRONG) >= 35


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_what_the_catalogue_is_made_from_is_sound(dtype: str) -> None:
    """The loops without any mistake pass: so it is the mistakes that are caught."""
    oracle.check({"score_batches": stream, "MEmeL": memel}, dtype=dtype)
