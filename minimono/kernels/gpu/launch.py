"""How the CUDA kernels in this folder are compiled and started.

A kernel is a piece of CUDA C in which `real` stands for float or double. Its parameter list is
read from its source, and every launch is held to it: CUDA itself takes whatever comes.

No launch waits for the device. Sums are always added in the same order, so that equal inputs give
equal bits: no kernel uses atomic additions, and who adds what depends on shapes alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np

from minimono.backend import Array, array_module, cupy

WARP = 32  # threads that run in step
LARGEST_BLOCK = 1024  # threads
MOST_BLOCKS = 1 << 16  # of a grid whose threads take several elements each

# What every source begins with.
COMMON = r"""
#define INFINITE ((real)__int_as_float(0x7f800000))
#define UNDEFINED ((real)__int_as_float(0x7fc00000))
#define EACH_ELEMENT(i, n) \
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < (n); \
         i += (long long)gridDim.x * blockDim.x)

// The sum of one number of every thread, for all threads of the block (whole warps, one axis).
__device__ double block_sum(double value) {
    __shared__ double of_warp[32];
    for (int step = 16; step > 0; step /= 2) value += __shfl_down_sync(0xffffffff, value, step);
    __syncthreads();  // the last call's sums have been read
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = value;
    __syncthreads();
    double total = 0.0;
    for (int warp = 0; warp < blockDim.x / 32; warp++) total += of_warp[warp];
    return total;
}

// The largest number of the block, for all its threads; nan only if there is nothing else.
__device__ real block_max(real value) {
    __shared__ real of_warp[32];
    for (int step = 16; step > 0; step /= 2)
        value = fmax(value, __shfl_down_sync(0xffffffff, value, step));
    __syncthreads();
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = value;
    __syncthreads();
    real top = of_warp[0];
    for (int warp = 1; warp < blockDim.x / 32; warp++) top = fmax(top, of_warp[warp]);
    return top;
}
"""

REALS = {np.dtype(np.float32): "float", np.dtype(np.float64): "double"}
SCALARS: dict[str, Any] = {
    "long long": np.int64, "int": np.int32, "bool": np.bool_, "double": np.float64,
}

NULL = np.uint64(0)  # a null pointer

_HEAD = re.compile(r'extern "C" __global__ void (\w+)\(([^)]*)\) \{')


@dataclass(frozen=True)
class Kernel:
    """A CUDA kernel `extern "C" __global__ void NAME(...)`, compiled at its first launch.

    kernel(dtype, blocks, threads, *arguments, **constants): `real` is `dtype`; `constants` become
    `#define`s. None is a null pointer. Raises TypeError for arguments that the source does not
    expect: their number, dtypes, and arrays that are not one block of memory.
    """

    source: str

    @cached_property
    def _head(self) -> tuple[str, str]:
        (found,) = _HEAD.findall(self.source)
        return found  # type: ignore[no-any-return]

    @property
    def name(self) -> str:
        return self._head[0]

    @cached_property
    def parameters(self) -> tuple[str, ...]:
        """The parameters as they are declared: "const real *x", "long long size"."""
        return tuple(" ".join(p.split()) for p in self._head[1].split(","))

    @cached_property
    def _expected(self) -> tuple[tuple[str, bool, Any], ...]:
        """Of each parameter: as declared, whether it is an array, and its type, None for real."""
        found: list[tuple[str, bool, Any]] = []
        for declared in self.parameters:
            kind, is_array = declared.removeprefix("const ").rpartition(" ")[0], "*" in declared
            scalar = SCALARS.get(kind)
            found.append((declared, is_array, np.dtype(scalar) if is_array and scalar else scalar))
        return tuple(found)

    def code(self, dtype: Any, **constants: int) -> str:
        """Return the whole source that is compiled."""
        lines = [f"#define {key} {value}" for key, value in sorted(constants.items())]
        return "\n".join([f"typedef {REALS[np.dtype(dtype)]} real;", *lines, COMMON, self.source])

    def __call__(
        self, dtype: Any, blocks: tuple[int, ...], threads: tuple[int, ...], *arguments: Any,
        **constants: int,
    ) -> None:
        if len(arguments) != len(self.parameters):
            raise TypeError(
                f"{self.name}: arguments are {len(arguments)}, expected {len(self.parameters)}: "
                + ", ".join(self.parameters)
            )
        real = np.dtype(dtype)
        passed = tuple(
            self._checked(*expected, argument, real)
            for expected, argument in zip(self._expected, arguments, strict=True)
        )
        if 0 in blocks:
            return
        compiled(_code(self, real, tuple(constants.items())), self.name)(blocks, threads, passed)

    def _checked(
        self, declared: str, is_array: bool, kind: Any, argument: Any, real: np.dtype[Any]
    ) -> Any:
        """Return the argument as the parameter's type."""
        if not is_array:
            return kind(argument)
        if argument is None:
            return NULL
        expected = real if kind is None else kind
        if argument.dtype != expected or not argument.flags.c_contiguous:
            layout = "" if argument.flags.c_contiguous else " with gaps"
            raise TypeError(
                f"{self.name}: {declared} has {argument.dtype} {argument.shape}{layout}, "
                f"expected {expected} in one block of memory"
            )
        return argument


@cache
def _code(kernel: Kernel, real: np.dtype[Any], constants: tuple[tuple[str, int], ...]) -> str:
    """`Kernel.code`, put together once: a network launches thousands a second."""
    return kernel.code(real, **dict(constants))


@cache
def compiled(code: str, name: str) -> Any:
    """Have CuPy compile it, which keeps the machine code on disk too."""
    return cupy().RawKernel(code, name, options=("--std=c++14",))


def for_each(size: int) -> tuple[tuple[int], tuple[int]]:
    """Return blocks and threads for EACH_ELEMENT."""
    return (min(-(-size // 256), MOST_BLOCKS),), (256,)


def for_rows(rows: int, length: int) -> tuple[tuple[int], tuple[int]]:
    """Return a block for each row; more threads for longer rows, in whole warps."""
    threads = WARP
    while threads < LARGEST_BLOCK and threads * 4 < length:
        threads *= 2
    return (rows,), (threads,)


def each(kernel: Kernel, *arrays: Array, numbers: Sequence[float] = ()) -> None:
    """Launch a kernel over the elements of arrays of one size, which it gets last.

    What it writes to has to be in one block of memory.
    """
    size = arrays[0].size
    kernel(arrays[0].dtype, *for_each(size), *map(one_block, arrays), *numbers, size)


def each_row(kernel: Kernel, rows: Array, *arguments: Any) -> None:
    """Launch a kernel with a block for each row (N, C); it gets C last."""
    blocks = (one_block(a) if hasattr(a, "flags") else a for a in (rows, *arguments))
    kernel(rows.dtype, *for_rows(*rows.shape), *blocks, rows.shape[1])


def one_block(array: Array) -> Array:
    """Return the array itself if it is C-contiguous, else a copy that is."""
    return array if array.flags.c_contiguous else array.copy(order="C")


def rows_of(x: Array) -> Array:
    """(..., C) -> (N, C), in one block of memory."""
    return one_block(x).reshape(-1, x.shape[-1])


def empty_like(array: Array) -> Array:
    """Return an array of the same shape and dtype, in one block of memory."""
    return array_module(array).empty(array.shape, array.dtype)
