"""Who has how many threads: by default, by environment, and after `set_num_threads`."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

import minimono as mm
from minimono import backend, kernels, threads
from minimono.threads import Arrangement, chosen

LIMITS = ("MINIMONO_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")
HAS_OPENBLAS = backend.blas_threads() is not None


@pytest.fixture
def as_before() -> Iterator[None]:
    arrangement, blas = threads._now, backend.blas_threads()
    assert arrangement is not None  # the engine has been imported
    yield
    threads._apply(arrangement)
    if blas is not None:
        backend.set_blas_threads(blas)


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
) -> None:  # fmt: skip
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
    )  # fmt: skip
    assert run.returncode == 2
    assert run.stderr == (
        "minimono: MINIMONO_NUM_THREADS is 'two', expected a whole number, 1 or more\n"
    )


@pytest.mark.usefixtures("as_before")
def test_set_num_threads() -> None:
    mm.set_num_threads(3)
    assert kernels.threads() == 3
    assert backend.blas_threads() in (1, None)
    assert threads.described().startswith("3 for kernels")
    for count in (0, -2, 1.5):
        with pytest.raises(ValueError, match=f"set_num_threads: count is {count}"):
            mm.set_num_threads(count)  # type: ignore[arg-type]
    assert kernels.threads() == 3


def after_import(before: str = "", **environment: str) -> list[str]:
    """Threads of kernels, of BLAS, and cores, in a fresh process: `before`, then the engine."""
    script = (
        f"{before}\nimport minimono.engine\nfrom minimono import backend, kernels, threads\n"
        "print(kernels.threads(), backend.blas_threads(), threads._cores())"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60,
        env={k: v for k, v in os.environ.items() if k not in LIMITS} | environment,
    )  # fmt: skip
    return run.stdout.split()


@pytest.mark.skipif(not HAS_OPENBLAS, reason="NumPy has another BLAS here")
def test_importing_the_engine_arranges_them() -> None:
    kernel_threads, blas, cores = after_import()
    assert (kernel_threads, blas) == (cores, "1")
    assert after_import(MINIMONO_NUM_THREADS="5")[:2] == ["5", "1"]
    assert after_import(OPENBLAS_NUM_THREADS="2")[:2] == ["1", "2"]
    other = str(int(cores) + 1)  # neither one nor the default
    assert after_import(_limiting_blas(other))[:2] == ["1", other]
    assert after_import("import minimono; minimono.set_num_threads(7)")[:2] == ["7", "1"]


def _limiting_blas(count: str) -> str:
    """A script that does what threadpoolctl does."""
    return (
        "import ctypes, glob, os, numpy\n"
        "folder = os.path.dirname(numpy.__file__)\n"
        "[file] = glob.glob(folder + '/../numpy.libs/libscipy_openblas64*') or glob.glob("
        "folder + '/.dylibs/libscipy_openblas64*')\n"
        f"ctypes.CDLL(file).scipy_openblas_set_num_threads64_({count})"
    )
