"""The run of `tiny_run.py`, for the tests of training and checkpoints."""

import runpy
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def tiny_run() -> Any:
    """The class `Run`: a small training run with everything in it that has a state."""
    return runpy.run_path(str(Path(__file__).with_name("tiny_run.py")))["Run"]
