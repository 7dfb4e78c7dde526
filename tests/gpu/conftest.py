"""Runs the CUDA kernels without a GPU: compiled as C++ with `emulator.h`, on NumPy arrays.

What it shows: the arithmetic, the indexing, the barriers, the launches. What it does not: speed,
and whatever a GPU does otherwise (its exp and log, memory that other threads see late).
"""

import ctypes
import hashlib
import re
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from minimono.kernels import gpu, gpu_attention, gpu_launch, gpu_scale

SHIM = Path(__file__).with_name("emulator.h")
GUARD = 64  # elements before and after every array, which a kernel must not touch


def kernels_of(module: ModuleType) -> list[gpu_launch.Kernel]:
    return [k for k in vars(module).values() if isinstance(k, gpu_launch.Kernel)]


MODULES = (gpu, gpu_attention, gpu_scale)


def compiled_together(code: str, name: str) -> dict[str, str]:
    """The kernels of a file, for the same dtype and constants: most of the time goes per file."""
    dtype = "f" if code.startswith("typedef float") else "d"
    constants = {key: int(value) for key, value in re.findall(r"^#define (D|TILE) (\d+)$", code, re.M)}
    for module in MODULES:
        codes = {k.name: k.code(dtype, **constants) for k in kernels_of(module)}
        if codes.get(name) == code:
            return codes
    return {name: code}


def library_of(codes: dict[str, str], folder: Path) -> ctypes.CDLL:
    parts = [f'#include "{SHIM}"']
    for name, code in codes.items():
        passed = ", ".join(f"*({kind} *)a[{i}]" for i, (_, kind) in enumerate(declared(code)))
        parts.append(f"""namespace of_{name} {{
{code}
void call(void **a) {{ {name}({passed}); }}
extern "C" const char *start_{name}(void **a, unsigned gx, unsigned gy, unsigned bx, unsigned by,
                                    unsigned long long seed) {{
    return emulator::run(call, a, gx, gy, bx, by, seed);
}}
}}""")
    source = "\n".join(parts)
    file = folder / hashlib.sha256(source.encode()).hexdigest()[:16]
    library, cpp = file.with_suffix(".so"), file.with_suffix(".cpp")
    if not library.exists():
        cpp.write_text(source)
        command = ["g++", "-std=c++17", "-O1", "-ffp-contract=off", "-shared", "-fPIC"]
        subprocess.run([*command, "-o", str(library), str(cpp)], check=True, timeout=300)
    return ctypes.CDLL(str(library))


def declared(code: str) -> list[tuple[bool, str]]:
    """Of each parameter of a kernel: whether it is const, and its type."""
    (written,) = re.findall(r'extern "C" __global__ void \w+\(([^)]*)\)', code)
    found = []
    for parameter in written.split(","):
        kind, _, name = " ".join(parameter.split()).rpartition(" ")
        found.append((kind.startswith("const "), kind + "*" * name.startswith("*")))
    return found


class Emulated:
    """Stands in for a RawKernel: called with blocks, threads, arguments."""

    def __init__(self, code: str, name: str, folder: Path) -> None:
        self.name = name
        self.seed = 1
        self.constant = [constant for constant, _ in declared(code)]
        self.start = getattr(library_of(compiled_together(code, name), folder), f"start_{name}")
        self.start.restype = ctypes.c_char_p

    def __call__(
        self, blocks: tuple[int, ...], threads: tuple[int, ...], arguments: tuple[Any, ...]
    ) -> None:
        assert all(1 <= b < 2**31 for b in blocks)
        assert all(b < 2**16 for b in blocks[1:])
        copies = [_guarded(a) if isinstance(a, np.ndarray) else np.array(a) for a in arguments]
        addresses = [  # of the first element between the edges, or of the number itself
            np.array(c.ctypes.data + GUARD * c.itemsize, np.uint64) if c.ndim else c for c in copies
        ]
        pointers = (ctypes.c_void_p * len(copies))(*[a.ctypes.data for a in addresses])
        grid, block = (*blocks, 1)[:2], (*threads, 1)[:2]
        wrong = self.start(pointers, *grid, *block, ctypes.c_ulonglong(self.seed))
        assert not wrong, f"{self.name}: {wrong.decode()}"
        for a, copy, constant in zip(arguments, copies, self.constant, strict=True):
            if not isinstance(a, np.ndarray):
                assert isinstance(a, np.generic), f"{self.name}: {a!r} has no fixed size"
            elif constant:
                assert copy.tobytes() == _guarded(a).tobytes(), f"{self.name} writes into a const"
            else:
                edges = np.concatenate([copy[:GUARD], copy[GUARD + a.size :]])
                assert edges.tobytes() == _edge(a.dtype).tobytes(), f"{self.name} writes outside"
                a[...] = copy[GUARD : GUARD + a.size].reshape(a.shape)


def _edge(dtype: np.dtype) -> np.ndarray:
    return np.full(2 * GUARD, np.nan if dtype.kind == "f" else 1, dtype)


def _guarded(a: np.ndarray) -> np.ndarray:
    """A copy of the array between two edges of nan."""
    edge = _edge(a.dtype)
    return np.concatenate([edge[:GUARD], a.reshape(-1), edge[GUARD:]])


@pytest.fixture(scope="session")
def compiled_here(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Emulated]:
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    folder = tmp_path_factory.mktemp("kernels")
    return cache(lambda code, name: Emulated(code, name, folder))


@pytest.fixture
def emulated(
    monkeypatch: pytest.MonkeyPatch, compiled_here: Callable[[str, str], Emulated]
) -> Callable[[int], None]:
    """Kernels run in the emulator, on NumPy arrays; call it to choose the order of the threads."""
    seed = 1

    def compiled(code: str, name: str) -> Emulated:
        kernel = compiled_here(code, name)
        kernel.seed = seed
        return kernel

    def choose(number: int) -> None:
        nonlocal seed
        seed = number

    monkeypatch.setattr(gpu_launch, "compiled", compiled)
    # What `empty` gives must be written before it is read.
    empty = np.empty
    monkeypatch.setattr(np, "empty", lambda *a, **o: _garbage(empty(*a, **o)))
    return choose


def _garbage(a: np.ndarray) -> np.ndarray:
    a.fill(np.nan if a.dtype.kind == "f" else 1)
    return a
