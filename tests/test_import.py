"""`import minimono` stays quick: what is slow to import waits until it is used."""

import subprocess
import sys

LATE = {"numba", "matplotlib", "cupy", "torch", "tqdm"}


def test_import_is_light() -> None:
    script = "import sys, minimono; print(*{name.partition('.')[0] for name in sys.modules})"
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = set(run.stdout.split())
    assert {"minimono", "numpy"} <= loaded
    assert not LATE & loaded


def test_import_prints_nothing() -> None:
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", "import minimono"],
        capture_output=True, text=True, timeout=60,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
