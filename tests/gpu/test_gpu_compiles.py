"""CUDA's own compiler takes every kernel, for float and double; no GPU is needed for that."""

import re
from types import ModuleType

import pytest

from minimono.kernels.gpu import (
    activations,
    attention,
    convolution,
    dropout,
    embedding,
    gru,
    losses,
    moments,
    norms,
    optim,
    scale,
    selection,
    softmax,
)
from minimono.kernels.gpu.launch import Kernel

MODULES = (
    activations, convolution, dropout, embedding, gru, losses, moments, norms, optim, scale,
    selection, softmax,
)


@pytest.fixture(scope="module")
def nvrtc() -> ModuleType:
    """CuPy's binding to NVRTC, below the part of CuPy that asks for a device."""
    binding = pytest.importorskip("cupy_backends.cuda.libs.nvrtc", exc_type=ImportError)
    try:
        binding.getVersion()
    except RuntimeError as error:
        pytest.skip(f"CuPy is here, NVRTC is not: {error}")
    return binding


def machine_code(nvrtc: ModuleType, code: str, name: str) -> tuple[bytes, str]:
    """For an H100, and what the assembler says of registers."""
    program = nvrtc.createProgram(code, f"{name}.cu", (), ())
    options = ("--gpu-architecture=sm_90", "--std=c++14", "--ptxas-options=-v")
    try:
        nvrtc.compileProgram(program, options)
    except Exception:
        pytest.fail(nvrtc.getProgramLog(program))
    return nvrtc.getCUBIN(program), nvrtc.getProgramLog(program)


def variants() -> list[tuple[Kernel, str, dict[str, int]]]:
    found: list[tuple[Kernel, str, dict[str, int]]] = []
    for module in MODULES:
        for kernel in vars(module).values():
            if isinstance(kernel, Kernel):
                found += [(kernel, "f", {}), (kernel, "d", {})]
    for kernel in vars(attention).values():
        if isinstance(kernel, Kernel):
            for dtype, size in (("f", 4), ("d", 8)):
                for D in (5, 64, 128):
                    constants = {"D": D, "TILE": attention.tile_for(D, size)}
                    found.append((kernel, dtype, constants))
    return found


def written(parameter: object) -> str:
    if isinstance(parameter, dict):
        return "-".join(f"{key}{value}" for key, value in parameter.items())
    return parameter.name if isinstance(parameter, Kernel) else str(parameter)


@pytest.mark.parametrize(("kernel", "dtype", "constants"), variants(), ids=written)
def test_compiles(nvrtc, kernel: Kernel, dtype: str, constants: dict[str, int]) -> None:
    code, log = machine_code(nvrtc, kernel.code(dtype, **constants), kernel.name)
    assert kernel.name.encode() in code
    assert "warning" not in log, log
    spilled = [int(n) for n in re.findall(r"(\d+) bytes spill", log)]
    assert not any(spilled), log  # numbers that found no register go through memory


def test_what_is_wrong_is_told(nvrtc) -> None:
    wrong = Kernel('extern "C" __global__ void wrong(real *x) { x[0] = y; }')
    with pytest.raises(pytest.fail.Exception, match='identifier "y" is undefined'):
        machine_code(nvrtc, wrong.code("f"), wrong.name)
