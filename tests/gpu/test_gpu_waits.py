"""No kernel's launch waits for the GPU: each comes back while the GPU is still busy before it."""

from collections.abc import Callable

import numpy as np
import pytest

from minimono import backend
from minimono.kernels.gpu import (
    activations,
    attention,
    embedding,
    linear,
    losses,
    norms,
    optim,
    scale,
    softmax,
)
from minimono.kernels.gpu.launch import Kernel

pytestmark = pytest.mark.gpu

# Keeps the GPU busy for about as many nanoseconds.
spin = Kernel(r"""
extern "C" __global__ void spin(long long nanoseconds) {
    long long start, now;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(start));
    do asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now)); while (now - start < nanoseconds);
}
""")


def waits(work: Callable[[], object]) -> bool:
    work()  # compiles, and fills the memory pool
    cupy = backend.cupy()
    cupy.cuda.Device().synchronize()
    spin("f", (1,), (1,), 500_000_000)
    busy = cupy.cuda.Event()
    busy.record()
    work()
    return bool(busy.done)


def test_a_wait_is_seen() -> None:
    x = backend.to_device(np.ones(3), "cuda")
    assert waits(lambda: float(x.sum()))
    assert not waits(lambda: x + 1.0)


def test_networks() -> None:
    x, targets = (
        backend.to_device(a, "cuda")
        for a in (np.ones((64, 33), np.float32), np.arange(64) % 33)
    )
    row, needed = x[0].copy(), (True, True, True)
    qkv = backend.to_device(np.ones((2, 40, 3, 2, 16), np.float32), "cuda")

    def step() -> None:
        for forward, backward, arguments in (
            (linear.linear_forward, linear.linear_backward, (x, x, None)),
            (activations.relu_forward, activations.relu_backward, (x,)),
            (activations.gelu_forward, activations.gelu_backward, (x,)),
            (softmax.softmax_forward, softmax.softmax_backward, (x,)),
            (norms.layer_norm_forward, norms.layer_norm_backward, (x, row, row)),
            (embedding.rows_by_number_forward, embedding.rows_by_number_backward, (x, targets)),
            (
                losses.mean_cross_entropy_forward,
                losses.mean_cross_entropy_backward,
                (x, targets),
            ),
            (
                attention.packed_attention_forward,
                attention.packed_attention_backward,
                (qkv, None, True),
            ),
        ):
            out, kept = forward(*arguments)
            backward(needed, out, out, kept, *arguments)
        optim.update(optim.adam_kernel, [row, row, row, row], (0.5,) * 8)
        optim.sum_of_squares(x)
        embedding.scatter_add(x, targets[:33], x[:33])

    assert not waits(step)


def test_metrics() -> None:
    z = backend.to_device(np.random.default_rng(0).normal(size=(300, 70)), "cuda")
    mean = z[0].copy()

    def score() -> None:
        asked = {"k": 3, "threshold": 1.0, "extremes": True, "keep_phi": True, "flag": True}
        scale.survey(z, mean, mean, **asked)
        scale.scale(z, mean, mean)
        scale.merge(mean, mean, *scale.batch_moments(z), 4 / 7, 12 / 7)

    assert not waits(score)
