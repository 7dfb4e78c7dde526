"""Each known mistake of the scale, the moments and the selection fails and is named."""

import pytest

from minimono.oracle import runner
from minimono.oracle import suite as suites

SUITES = [suites.get(name) for name in ("moments", "scale", "selection")]
CASES = {suite.name: [c for c in suite.cases() if not c.extreme] for suite in SUITES}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(
    ("suite", "call", "name"),
    [(s, call, name) for s in SUITES for call, names in s.mistakes.items() for name in names],
    ids=lambda value: getattr(value, "name", value),
)
def test_each_mistake_is_named(suite: suites.Suite, call: str, name: str) -> None:
    mistake = suite.mistakes[call][name]
    outcomes = [runner.run(mistake, c) for c in CASES[suite.name] if c.call == call]
    failures = runner.finish(runner.Report(), outcomes).failures
    assert failures
    made = {f.diagnosis for f in failures if f.diagnosis is not None}
    assert made
    assert all(f'"{name}"' in diagnosis and "to 15 digits" in diagnosis for diagnosis in made)
