"""2,000 files with something wrong in them, in each run the same; `make fuzz` takes new ones."""

from collections import Counter
from pathlib import Path

import pytest
from fuzzing import CORPUS, TARGETS, judge, prepare
from hypothesis import HealthCheck, Phase, given, settings

CASES = {"checkpoint": 220, "settings": 290, "weights": 290}
OF_EACH_OTHER = 200


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_wrong_is_refused_and_what_loads_is_whole(name: str, tmp_path: Path) -> None:
    good, outcomes = prepare(name, tmp_path), Counter[str]()

    @settings(
        max_examples=CASES.get(name, OF_EACH_OTHER), database=None, phases=[Phase.generate],
        suppress_health_check=[*HealthCheck],
    )
    @given(TARGETS[name].changed(good))
    def run(data: bytes) -> None:
        outcomes[judge(name, tmp_path, data)] += 1

    run()
    assert outcomes["refused"] > 20, outcomes
    assert outcomes["loaded"] > 0, outcomes  # or all were refused for one and the same thing


@pytest.mark.parametrize(
    "file", sorted(CORPUS.glob("*/*")), ids=lambda file: f"{file.parent.name} {file.name}"
)
def test_files_that_were_of_interest(file: Path, tmp_path: Path) -> None:
    """Their names begin with what becomes of them."""
    prepare(file.parent.name, tmp_path)
    assert judge(file.parent.name, tmp_path, file.read_bytes()) == file.name.partition("-")[0]


def test_there_are_two_thousand() -> None:
    assert sum(CASES.get(name, OF_EACH_OTHER) for name in TARGETS) >= 2000
