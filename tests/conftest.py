"""Tests marked `gpu` run where there is one."""

import pytest

from minimono import backend


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if on_gpu and not backend.is_available():
        for item in on_gpu:
            item.add_marker(pytest.mark.skip(reason="no CUDA device, or CuPy is not installed"))
