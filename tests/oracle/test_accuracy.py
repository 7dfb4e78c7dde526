"""The table of accuracy: how it measures, and that the page in docs/ is that table."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from minimono.oracle import accuracy
from minimono.oracle.accuracy import Exact

PAGE = Path(__file__).resolve().parents[2] / "docs/accuracy.md"


def test_truth_has_twice_the_digits():
    third = Exact.of(np.array([Fraction(1, 3)], dtype=object))
    held = Fraction(third.high[0]) + Fraction(third.low[0])
    assert 0 < abs(Fraction(third.high[0]) - Fraction(1, 3))
    assert abs(held - Fraction(1, 3)) < Fraction(1, 10**32)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_rounded_number_is_off_by_half_an_ulp_at_most(dtype):
    values = [Fraction(n, 7919) for n in range(1, 500)]
    truth = Exact.of(np.array(values, dtype=object))
    errors = accuracy.errors_in_ulp(truth.high.astype(dtype), truth, dtype, truth.high)
    assert 0.45 < errors.max() <= 0.5
    step = np.spacing(truth.high.astype(dtype))
    moved = accuracy.errors_in_ulp(truth.high.astype(dtype) + 2 * step, truth, dtype, truth.high)
    assert 1.5 <= moved.min() <= moved.max() <= 2.5


def test_another_dtype_is_refused():
    truth = Exact.of(np.array([Fraction(1)], dtype=object))
    with pytest.raises(TypeError, match="float64, expected float32"):
        accuracy.errors_in_ulp(np.ones(1), truth, "float32", truth.high)


@pytest.mark.slow
def test_minimono_is_as_exact_as_the_page_says():
    """With room for another processor: the page's own largest errors are below half of these."""
    most = {"gelu, none, -3": 50, "gelu, tanh, -3": 50, "softmax of 16, logits of size 1": 20,
            "layer norm": 20, "attention": 50, "cross-entropy": 20, "ConvGRU": 50}
    own = accuracy.suites.get("layers").own
    seen = set()
    for operation in accuracy._operations():
        for start, bound in most.items():
            if operation.name.startswith(start):
                value, gradient = accuracy._measured(own[operation.call], operation, "float64")
                assert max(value.max(), gradient.max()) <= bound, operation.name
                seen.add(start)
    assert seen == set(most)


def test_the_page_was_written_by_the_command():
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    assert "`minimono oracle accuracy FILE`" in lines[2]
    assert sum(line.startswith("| ") for line in lines) > 60
