"""Suite `deactivation`: its truth against a chain rule by hand, and PyTorch."""

import numpy as np
import pytest

from minimono.oracle import runner
from minimono.oracle.suites.deactivation import SUITE

CASES = list(SUITE.cases())


def report(function, dtype="float64", convert=None):
    chosen = [c for c in CASES if c.fits(dtype)]
    outcomes = [runner.run(function, c, dtype=dtype, convert=convert) for c in chosen]
    return runner.finish(runner.Report(), outcomes, dtype=dtype)


def by_definition(z, mask, mean, strength, upstream):
    """-d z + sg(mean + d z), one value at a time: the mean, and the derivative of -d z."""
    value, gradient = z.copy(), upstream.copy()
    for index in np.ndindex(z.shape):
        if mask[index]:
            value[index] = mean[index[1:]]
            gradient[index] = -strength * upstream[index]
    return value, gradient


def test_truth_by_definition():
    assert not report(by_definition).failures


def test_truth_by_hand():
    case = next(c for c in CASES if c.notes.startswith("small whole numbers"))
    assert case.expected["value"].value.tolist() == [[1.0, 2.0], [1.0, -1.0]]
    assert case.expected["gradient"].value.tolist() == [[-1.0, 10.0], [-2.0, -4.0]]


def test_the_value_is_exact_and_the_gradient_at_most_rounded():
    for case in CASES:
        assert not case.expected["value"].allowed(1.0).any()
        gradient = case.expected["gradient"]
        assert (gradient.linear <= abs(gradient.value)).all()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_formula_as_printed_rounds(dtype):
    def printed(z, mask, mean, strength, upstream):
        value = np.where(mask, -strength * z + (mean + strength * z), z).astype(z.dtype)
        return value, np.where(mask, -strength * upstream, upstream).astype(z.dtype)

    found = report(printed, dtype)
    assert found.failures
    for failure in found.failures:  # the value only; the gradient is right
        assert failure.message.startswith("value")
    if dtype == "float32":
        assert len(found.failures) >= 5
    else:
        assert "which rounds" in found.failures[0].diagnosis


@pytest.mark.parity
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_custom_autograd_function_of_pytorch_passes(dtype):
    torch = pytest.importorskip("torch")

    class Reverse(torch.autograd.Function):
        @staticmethod
        def forward(ctx, z, mask, mean, strength):
            ctx.save_for_backward(mask)
            ctx.strength = strength
            return torch.where(mask, mean, z)

        @staticmethod
        def backward(ctx, upstream):
            (mask,) = ctx.saved_tensors
            return torch.where(mask, -ctx.strength * upstream, upstream), None, None, None

    def deactivate(z, mask, mean, strength, upstream):
        z = z.requires_grad_()
        value = Reverse.apply(z, mask, mean, strength)
        value.backward(upstream)
        return value, z.grad

    found = report(deactivate, dtype, convert=torch.from_numpy)
    assert not found.failures, str(found)
