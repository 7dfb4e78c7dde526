"""What the engine's tests share: random numbers, and a guard on dtypes."""

from typing import Any

import numpy as np
import pytest

from minimono.engine.tensor import Tensor


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20230)


@pytest.fixture
def only_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """A float64 array in any tensor, also one halfway through a rule, is an error."""
    make = Tensor.__init__

    def checked(self: Tensor, data: Any, *rest: Any, **named: Any) -> None:
        assert data.dtype != np.float64, f"a float64 tensor of shape {data.shape} was made"
        make(self, data, *rest, **named)

    monkeypatch.setattr(Tensor, "__init__", checked)
