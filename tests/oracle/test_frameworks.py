"""Whole libraries in the suite `layers`."""

import subprocess
import sys
import types

import pytest

import minimono as mm
from minimono.oracle import frameworks, runner
from minimono.oracle.suite import SUITES
from minimono.oracle.suites.layers import SUITE


@pytest.fixture(scope="module")
def cases():
    return [c for c in SUITE.cases() if not c.extreme]


def report(cases, namespace, dtype="float64"):
    functions = frameworks.functions_of(namespace).functions
    outcomes = [
        runner.run(functions[c.call], c, dtype=dtype)
        for c in cases
        if c.call in functions and c.fits(dtype)
    ]
    return runner.finish(runner.Report(), outcomes, dtype=dtype)


def test_minimono(cases):
    adapted = frameworks.functions_of(mm.functional)
    assert set(adapted.functions) == set(SUITES["layers"])
    assert not adapted.missing
    found = report(cases, mm.functional)
    assert not found.failures, str(found)


def test_minimono_without_kernels(cases):
    for case in cases:
        with mm.reference():  # a thread of its own would not know of it
            positional, named = SUITE.call(case.call).bind(
                {n: runner.handed_over(v, "float64", None) for n, v in case.arguments.items()}
            )
            result = SUITE.own[case.call](*positional, **named)
        outcome = runner.judge(case, SUITE.call(case.call), result)
        assert outcome.message is None, outcome.message


def test_anything_else_is_not_a_library():
    stranger = types.ModuleType("torch.nn.functional")  # not the one that was imported
    for other in (print, {}, None, mm, math_like(), stranger):
        assert frameworks.functions_of(other) is None


def math_like():
    return types.SimpleNamespace(__name__="torch.nn.functional")


def test_no_library_is_imported():
    script = (
        "import sys; from minimono.oracle import frameworks; import minimono as mm\n"
        "frameworks.functions_of(mm.functional)\n"
        "assert not {'torch', 'jax'} & set(sys.modules), 'imported'\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


@pytest.mark.parity
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_pytorch_passes_as_it_is(cases, dtype):
    torch = pytest.importorskip("torch")
    found = report(cases, torch.nn.functional, dtype)
    assert len(found.passed) > 50
    assert not found.failures, str(found)
    missing = frameworks.functions_of(torch.nn.functional).missing
    assert missing == {"conv_gru_cell": "torch.nn.functional has no function to call for it"}


@pytest.fixture
def jax():
    """JAX with float64, which is off by default."""
    module = pytest.importorskip("jax")
    import jax.nn

    before = module.config.jax_enable_x64
    module.config.update("jax_enable_x64", True)
    yield jax
    module.config.update("jax_enable_x64", before)


@pytest.mark.parity
@pytest.mark.slow  # JAX compiles for every shape
def test_jax(cases, jax):
    """Right but for two that say so in their source: the variance of jax.nn.standardize is
    E[x^2] - E[x]^2, and the softmax of its attention is in float32. Both are told.
    """
    found = report(cases, jax.nn)
    assert len(found.passed) > 40
    for failure in found.failures:
        if failure.case.startswith("layers/layer-norm"):
            assert "digits lost by cancellation" in failure.diagnosis
        else:
            assert failure.case.startswith("layers/attention"), str(failure)
            assert failure.diagnosis is None or "float32 inside" in failure.diagnosis
