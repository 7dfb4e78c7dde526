"""The CUDA kernels where there is no GPU: compiled as C++ with `gpu/emulator.h`, on NumPy arrays.

What it shows: the arithmetic, the indexing, the barriers, the launches. What it does not: speed,
and whatever a GPU does otherwise (its exp and log, memory that other threads see late).
"""

import ctypes
import hashlib
import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from stand_in import StandInArray, StandInCuPy

from minimono import backend
from minimono.kernels.gpu import launch

SHIM = Path(__file__).parents[1] / "gpu" / "emulator.h"
GUARD = 64  # elements before and after every array, which a kernel must not touch


def kernels_of(module: ModuleType) -> list[launch.Kernel]:
    return [k for k in vars(module).values() if isinstance(k, launch.Kernel)]


FILES = sorted(Path(str(launch.__file__)).parent.glob("[!_]*.py"))
MODULES = [import_module(f"minimono.kernels.gpu.{f.stem}") for f in FILES]


def compiled_together(code: str, name: str) -> dict[str, str]:
    """The kernels of a file, for the same dtype and constants: most of the time goes per file."""
    dtype = "f" if code.startswith("typedef float") else "d"
    constants = {k: int(v) for k, v in re.findall(r"^#define (D|TILE) (\d+)$", code, re.M)}
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
        arguments = tuple(getattr(a, "host", a) for a in arguments)  # of the engine's stand-in
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


class Device:
    """Where a test runs: arrays go there and come back."""

    def array(self, host: np.ndarray) -> Any:
        return host

    def host(self, array: Any) -> np.ndarray:
        return array

    def reorder(self, seed: int) -> None:
        """Let threads and blocks go in another order from now on."""


class Emulator(Device):
    seed = 1

    def __init__(self, compiled_here: Callable[[str, str], Emulated]) -> None:
        self.compiled_here = compiled_here

    def reorder(self, seed: int) -> None:
        self.seed = seed

    def compiled(self, code: str, name: str) -> Emulated:
        kernel = self.compiled_here(code, name)
        kernel.seed = self.seed
        return kernel


class WithGarbage:
    """NumPy, or a stand-in for CuPy, whose `empty` arrays hold nan."""

    def __init__(self, xp: ModuleType) -> None:
        self.xp = xp

    def __getattr__(self, name: str) -> Any:
        return getattr(self.xp, name)

    def empty(self, *shape_and_dtype: Any) -> Any:
        a = self.xp.empty(*shape_and_dtype)
        a.fill(np.nan if a.dtype.kind == "f" else 1)
        return a


def install(folder: Path) -> None:
    """Make this process one with a device "cuda": the stand-in for CuPy, and the emulator.

    folder: for compiled kernels; what lies there from an earlier process is used.
    """
    for name, module in stand_ins().items():
        sys.modules[name] = module
    launch.compiled = cache(lambda code, name: Emulated(code, name, folder))


def stand_ins() -> dict[str, ModuleType]:
    """The modules that stand for CuPy's, by their names."""
    special = ModuleType("cupyx.scipy.special")
    special.erfc = lambda x: StandInArray(backend.erfc(x.host))  # type: ignore[attr-defined]
    return {"cupy": StandInCuPy("cupy"), "cupyx.scipy.special": special}
