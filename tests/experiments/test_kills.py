"""A run that is killed at random moments, and gone on with, ends in the same bits."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = Path(__file__).with_name("kills.py")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_forty_kills_change_no_bit() -> None:
    """`make kills` does it 200 times; what is compared, and what is killed when, is in kills.py."""
    run = subprocess.run(
        [sys.executable, str(KILLS), "40"], capture_output=True, text=True, timeout=300
    )
    assert (run.returncode, run.stderr) == (0, ""), run
    assert run.stdout.startswith("40 kills, "), run.stdout
    counts = {what: int(n) for n, what in re.findall(r"^ +(\d+) (.*)$", run.stdout, re.MULTILINE)}
    for happened in ("by SIGKILL", "by SIGTERM", "of first runs", "of resumed runs",
                     "killed while training", "stopped while training"):
        assert counts[happened], run.stdout
