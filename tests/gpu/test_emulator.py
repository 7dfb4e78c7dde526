"""The emulator finds what it is there for: a missing barrier, a place outside, a race."""

import numpy as np
import pytest

from minimono.kernels.gpu.launch import Kernel

HEAD = 'extern "C" __global__ void tried(const real *x, real *out) {\n'


def results(emulator, body: str, threads: int = 64, blocks: int = 1, size: int = 64) -> list:
    x, found = np.arange(float(size)), []
    for seed in range(1, 6):
        emulator.reorder(seed)
        out = np.zeros(size)
        Kernel(HEAD + body + "}")(x.dtype, (blocks,), (threads,), x, out)
        found.append(out.tolist())
    return found


REVERSED = """
    __shared__ real kept[64];
    kept[threadIdx.x] = x[threadIdx.x];
    %s
    out[threadIdx.x] = kept[63 - threadIdx.x];
"""


def test_barriers(emulator) -> None:
    expected = list(map(float, range(63, -1, -1)))
    assert results(emulator, REVERSED % "__syncthreads();") == [expected] * 5
    without = results(emulator, REVERSED % "")
    assert any(found != expected for found in without)


def test_blocks_in_any_order(emulator) -> None:
    last = results(emulator, "out[0] = blockIdx.x;", blocks=9)
    assert len({found[0] for found in last}) > 1


def test_warps_show_each_other_numbers(emulator) -> None:
    body = "out[threadIdx.x] = __shfl_down_sync(0xffffffff, x[threadIdx.x], 16);"
    (found, *_) = results(emulator, body)
    assert found == [*range(16, 32), *range(16, 32), *range(48, 64), *range(48, 64)]
    body = "out[threadIdx.x] = __shfl_xor_sync(0xffffffff, x[threadIdx.x], 1);"
    (found, *_) = results(emulator, body)
    assert found[:4] == [1.0, 0.0, 3.0, 2.0]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("if (threadIdx.x == 5) return; __syncthreads();", "a thread ended before a barrier"),
        ("if (threadIdx.x < 5) __syncthreads();\nelse __syncthreads();", "different barriers"),
        ("if (threadIdx.x < 5) out[0] = __shfl_down_sync(1, x[0], 1);", "ended while its warp"),
        ("out[64 + threadIdx.x] = 1;", "writes outside"),
        ("out[-1] = 1;", "writes outside"),
        ("((real *)x)[3] = 7;", "writes into a const"),
    ],
)
def test_what_is_wrong_is_told(emulator, body: str, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        results(emulator, body)


def test_what_lies_outside_is_nan(emulator) -> None:
    assert all(np.isnan(found[0]) for found in results(emulator, "out[0] = x[64] + x[-1];"))
