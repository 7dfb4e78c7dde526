"""The devices that the CUDA kernels are tested on."""

from typing import Any

import numpy as np
import pytest

from minimono import backend


class GPU:
    """As `Emulator` in tests/shared/emulated.py."""

    def array(self, host: np.ndarray) -> Any:
        return backend.to_device(host, "cuda")

    def host(self, array: Any) -> np.ndarray:
        return backend.to_host(array)

    def reorder(self, seed: int) -> None:
        """The order of threads and blocks is the GPU's affair."""


@pytest.fixture(params=["emulator", pytest.param("gpu", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> Any:
    """Once the emulator, which needs no GPU, and once the real one where there is one."""
    return GPU() if request.param == "gpu" else request.getfixturevalue("emulator")
