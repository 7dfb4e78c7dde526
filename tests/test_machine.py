"""What is used of the machine: threads by default, by environment, and when asked for; memory."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

import minimono as mm
from minimono import machine
from minimono.machine import Arrangement, chosen

LIMITS = ("MINIMONO_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")
HAS_OPENBLAS = machine.blas_threads() is not None


@pytest.fixture
def as_before() -> Iterator[None]:
    arrangement, blas = machine.arranged(), machine.blas_threads()
    yield
    machine._apply(arrangement)
    if blas is not None:
        machine.set_blas_threads(blas)


@pytest.mark.parametrize(
    ("environment", "blas", "kernel_threads", "blas_becomes", "why"),
    [
        ({}, 4, 4, 1, "default"),
        ({"MINIMONO_NUM_THREADS": "3"}, 4, 3, 1, "MINIMONO_NUM_THREADS"),
        ({"OPENBLAS_NUM_THREADS": "2"}, 2, 1, None, "OPENBLAS_NUM_THREADS"),
        ({"OMP_NUM_THREADS": "1"}, 1, 1, None, "OMP_NUM_THREADS"),
        ({"OMP_NUM_THREADS": ""}, 4, 4, 1, "default"),
        ({"OMP_NUM_THREADS": "8", "MINIMONO_NUM_THREADS": "2"}, 4, 2, 1, "MINIMONO"),
        ({}, 3, 1, None, "another number"),  # somebody has limited BLAS before
        ({}, None, 1, None, "not its own OpenBLAS"),
    ],
)
def test_the_table(
    environment: dict[str, str], blas: int | None, kernel_threads: int, blas_becomes: int | None,
    why: str,
) -> None:
    found = chosen(environment, 4, blas, None if blas is None else 4)
    assert found == Arrangement(kernel_threads, blas_becomes, found.why)
    assert why in found.why


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", ""])
def test_a_number_of_threads_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"MINIMONO_NUM_THREADS is .*, expected a whole number"):
        chosen({"MINIMONO_NUM_THREADS": text}, 4, 4, 4)


def test_the_command_says_so_in_a_line() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "minimono", "info"], capture_output=True, text=True, timeout=60,
        env=os.environ | {"MINIMONO_NUM_THREADS": "two"},
    )
    assert run.returncode == 2
    assert run.stderr == (
        "minimono: MINIMONO_NUM_THREADS is 'two', expected a whole number, 1 or more\n"
    )


@pytest.mark.usefixtures("as_before")
def test_set_num_threads() -> None:
    mm.set_num_threads(3)
    assert machine.threads() == 3
    assert machine.blas_threads() in (1, None)
    assert machine.described()["threads"].startswith("3 for kernels")
    for count in (0, -2, 1.5):
        with pytest.raises((ValueError, TypeError), match=f"set_num_threads: count is {count}"):
            mm.set_num_threads(count)  # type: ignore[arg-type]
    assert machine.threads() == 3


def told(script: str, **environment: str) -> list[str]:
    """What a fresh process prints of threads of kernels, of BLAS, and cores after a script."""
    printed = "print(machine.threads(), machine.blas_threads(), machine._cores())"
    run = subprocess.run(
        [sys.executable, "-c", f"{script}\nfrom minimono import machine\n{printed}"],
        capture_output=True, text=True, check=True, timeout=60,
        env={k: v for k, v in os.environ.items() if k not in LIMITS} | environment,
    )
    return run.stdout.split()


FIRST_USE = "import minimono as mm; mm.functional.relu(mm.tensor([1.0]))"


@pytest.mark.skipif(not HAS_OPENBLAS, reason="NumPy has another BLAS here")
def test_the_first_kernel_arranges_them() -> None:
    kernel_threads, blas, cores = told(FIRST_USE)
    assert (kernel_threads, blas) == (cores, "1")
    assert told(FIRST_USE, MINIMONO_NUM_THREADS="5")[:2] == ["5", "1"]
    assert told(FIRST_USE, OPENBLAS_NUM_THREADS="2")[:2] == ["1", "2"]
    other = str(int(cores) + 1)  # neither one nor the default
    assert told(f"{_limiting_blas(other)}\n{FIRST_USE}")[:2] == ["1", other]
    assert told(f"import minimono; minimono.set_num_threads(7)\n{FIRST_USE}")[:2] == ["7", "1"]
    assert told("")[:2] == [cores, "1"]  # whoever asks arranges them too


def test_importing_sets_nothing() -> None:
    script = (
        "import ctypes, minimono.machine as machine\n"
        "machine.ctypes = None  # neither BLAS nor the C library can be asked for anything\n"
        "import minimono as mm, minimono.mono, minimono.engine, minimono.kernels.cpu.softmax\n"
        "from minimono import *\n"
        "with mm.reference():\n    functional.relu(tensor([1.0]))\n"
        "assert machine._now is None\n"
        "machine.ctypes = ctypes\n"
        "functional.relu(tensor([1.0]))\n"
        "assert machine._now is not None\n"
        "assert machine.keep_freed_memory.cache_info().misses == 1"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def _limiting_blas(count: str) -> str:
    """A script that does what threadpoolctl does."""
    return (
        "import ctypes, glob, os, numpy\n"
        "folder = os.path.dirname(numpy.__file__)\n"
        "[file] = glob.glob(folder + '/../numpy.libs/libscipy_openblas64*') or glob.glob("
        "folder + '/.dylibs/libscipy_openblas64*')\n"
        f"ctypes.CDLL(file).scipy_openblas_set_num_threads64_({count})"
    )


def test_freed_memory_is_kept_unless_the_environment_decides() -> None:
    script = (
        "import sys; from minimono.machine import keep_freed_memory as keep\n"
        "print(keep())"
    )
    for settings, expected in ({}, {"True", "False"}), ({"MALLOC_TRIM_THRESHOLD_": "1"}, {"False"}):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
        result = subprocess.run(
            [sys.executable, "-c", script], env=environment | settings, capture_output=True,
            text=True, timeout=60, check=True,
        )
        assert result.stdout.strip() in expected
