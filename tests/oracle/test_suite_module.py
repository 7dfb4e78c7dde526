"""Suite `module`: its truth against an independent module, its own, its mistakes."""

import pytest

import minimono as mm
from minimono import kernels
from minimono.oracle import runner
from minimono.oracle.suites.module import SUITE, trajectory

CASES = list(SUITE.cases())


def report(call, function, dtype="float64"):
    chosen = [c for c in CASES if c.call == call and c.fits(dtype) and not c.extreme]
    outcomes = [runner.run(function, c, dtype=dtype) for c in chosen]
    return runner.finish(runner.Report(), outcomes, dtype=dtype)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("call", SUITE.own)
def test_own(call, dtype):
    found = report(call, SUITE.own[call], dtype)
    assert found.passed
    assert not found.failures, str(found)


@pytest.mark.parametrize("call", SUITE.own)
def test_own_reading_versions(call):
    def reading(*arguments, **options):
        with kernels.reference():
            return SUITE.own[call](*arguments, **options)

    assert not report(call, reading).failures


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(
    ("call", "name"), [(call, name) for call, names in SUITE.mistakes.items() for name in names]
)
def test_each_mistake_is_named(call, name):
    failures = report(call, SUITE.mistakes[call][name]).failures
    assert failures
    made = {f.diagnosis for f in failures if f.diagnosis is not None}
    assert made
    assert all(f'"{name}"' in diagnosis and "to 15 digits" in diagnosis for diagnosis in made)


def test_a_class_is_taken_as_it_is():
    assert not runner.check(mm.mono.MEmeL, "module").failures


def test_an_object_that_is_no_module_is_refused_by_name():
    found = runner.check({"MEmeL": trajectory(lambda **settings: object())}, on_fail="collect")
    assert "made a object" in found.failures[0].message


def test_calls_in_eval_are_exact_copies():
    for case in CASES:
        modes = case.arguments["training"]
        for z, train, value in zip(
            case.arguments["batches"], modes, case.expected["values"], strict=True
        ):
            if not train:
                assert (value.value == z).all()
                assert value.linear is None


def test_every_sample_of_an_inhibiting_call_has_its_k_flagged():
    """Unless more tie, or a constant neuron cannot be flagged."""
    for case in CASES:
        k, start = case.arguments["k"], max(case.arguments["start_after"], 1)
        for number, value in enumerate(case.expected["values"]):
            seen = sum(case.arguments["training"][:number])
            if not case.arguments["training"][number] or seen < start:
                assert value.linear is None
                continue
            flagged = (value.linear > 0).reshape(len(value.value), -1).sum(axis=1)
            assert (flagged >= min(k, 1)).all()
            if "alike" not in case.notes and "constant" not in case.notes:
                assert (flagged == k).all()


@pytest.mark.parity
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_pytorch_module_of_the_demos(dtype):
    torch = pytest.importorskip("torch")
    import runpy
    from pathlib import Path

    demo = Path(__file__).parents[2] / "demos/oracle/torch_memel.py"
    MEmeL = runpy.run_path(str(demo))["MEmeL"]
    found = runner.check(
        MEmeL, "module", dtype=dtype, convert=torch.from_numpy, on_fail="collect"
    )
    assert not found.failures, str(found)
