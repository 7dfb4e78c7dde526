"""Memory, metrics and training: a function for each line, which gives its rows one by one."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np

from benchmarks import measures, ours
from benchmarks.gpu.sizes import Sizes
from benchmarks.gpu.timing import Row, beside, seconds
from minimono import backend
from minimono.mono.batch_scores import score_batch
from minimono.mono.moments import Moments
from minimono.mono.scale import monosemantic_scale

MINIMONO, PYTORCH = "minimono", "PyTorch eager"
COPY = "a copy"
TF32 = "CUPY_TF32"  # the variable by which CuPy rounds factors of float32 products to 11 bits
LOSSES = 3  # of the first steps, by which it is seen that all train the same network


def torch_there() -> Any:
    """PyTorch with TF32 as CuPy has it, and the device it works on: None where it is not."""
    if find_spec("torch") is None:
        return None, ""
    import torch

    allowed = os.environ.get(TF32) == "1"
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed  # convolutions, for which it is on by itself
    return torch, "cuda" if torch.cuda.is_available() else "cpu"


# ---- limits -------------------------------------------------------------------------------------


def limits(sizes: Sizes) -> Iterator[Row]:
    """How fast memory is copied and matrices are multiplied, by either library; TF32 as set."""
    xp = backend.cupy()
    torch, device = torch_there()
    source = xp.ones(sizes.values, np.float32)
    target = xp.empty_like(source)

    def rate(amount: float, work: Callable[[], object]) -> Callable[[], float]:
        return lambda: amount / seconds(work, sizes.turn)

    moved, n = 8.0 * sizes.values, sizes.product
    contestants = {"CuPy": rate(moved, lambda: np.copyto(target, source))}
    if torch:
        there = torch.ones(sizes.values, device=device)
        onto = torch.empty_like(there)
        contestants["PyTorch"] = rate(moved, lambda: onto.copy_(there))
    yield from beside(f"a copy of {moved / 2e9:.1f} GB", "bytes/s", contestants)

    a = xp.asarray(np.random.default_rng(0).random((n, n), dtype=np.float32))
    contestants = {"CuPy": rate(2.0 * n**3, lambda: a @ a)}
    if torch:
        b = torch.rand(n, n, device=device)
        contestants["PyTorch"] = rate(2.0 * n**3, lambda: b @ b)
    yield from beside(f"a product of float32 matrices, {n} x {n}", "FLOP/s", contestants)

    few = xp.ones(8, np.float32)
    contestants = {"CuPy": lambda: seconds(lambda: few + few, sizes.turn)}
    contestants["minimono's kernel"] = lambda: seconds(lambda: relu(few), sizes.turn)
    if torch:
        some = torch.ones(8, device=device)
        contestants["PyTorch"] = lambda: seconds(lambda: some + some, sizes.turn)
    yield from beside("one launch, of 8 numbers", "s", contestants)


def relu(x: Any) -> Any:
    from minimono.kernels.gpu.activations import relu_forward

    return relu_forward(x)


# ---- metrics ------------------------------------------------------------------------------------


def scoring(sizes: Sizes) -> Iterator[Row]:
    """The metrics of a batch, in bytes a second of what they must read and write, beside a copy."""
    xp, (rows, neurons) = backend.cupy(), sizes.batch
    torch, device = torch_there()
    rng = np.random.default_rng(0)
    some = rng.standard_normal((min(rows, 4096), neurons), dtype=np.float32)
    z = xp.asarray(np.resize(some, (rows, neurons)))
    history = Moments.of(rng.standard_normal((256, neurons))).to("cuda")
    mean, variance = history.mean, history.variance()
    copy, size = xp.empty_like(z), 4.0 * z.size

    def rate(arrays: int, work: Callable[[], object]) -> float:
        return float(arrays * size / seconds(work, sizes.turn))

    passes: dict[str, tuple[int, Callable[[], object]]] = {  # arrays read and written
        COPY: (2, lambda: np.copyto(copy, z)),
        "`Moments.update`": (1, lambda: history.update(z)),
        "`score_batch`: maximum, mean, moments": (1, lambda: score_batch(z, history)),
        "... and a count above a threshold": (1, lambda: score_batch(z, history, threshold=9.0)),
        "... and the top 1 of each sample": (2, lambda: score_batch(z, history, top_k=1)),
        "... and phi itself": (2, lambda: score_batch(z, history, keep_phi=True)),
        "`monosemantic_scale`: phi": (2, lambda: monosemantic_scale(z, mean, variance)),
    }
    for what, (arrays, work) in passes.items():
        yield from beside(what, "bytes/s", {MINIMONO: partial(rate, arrays, work)})
    if not torch:
        return
    theirs = torch.from_numpy(np.resize(some, (rows, neurons))).to(device)
    their_mean = torch.from_numpy(backend.to_host(mean)).to(device, torch.float32)
    their_variance = torch.from_numpy(backend.to_host(variance)).to(device, torch.float32)

    def in_torch() -> Any:
        phi = (theirs - their_mean) ** 2 / their_variance
        return phi.amax(0), theirs.mean(0), theirs.var(0)

    for name, function in ((PYTORCH, in_torch), ("torch.compile", torch.compile(in_torch))):
        yield from beside(
            "its expressions for phi, maximum, mean, variance, in float32", "bytes/s",
            {name: partial(rate, 1, function)},
        )


# ---- training -----------------------------------------------------------------------------------


def gpt(sizes: Sizes) -> Iterator[Row]:
    """minimono's training step."""
    model = sizes.gpt.model().to("cuda")
    pool = backend.cupy().get_default_memory_pool()
    yield from _training(
        MINIMONO, ours.training_step(model, sizes.gpt), sizes, lambda: float(pool.total_bytes())
    )


def gpt_in_torch(sizes: Sizes) -> Iterator[Row]:
    """PyTorch's, of the same network."""
    yield from _in_torch(PYTORCH, sizes, fused=True)


def gpt_compiled(sizes: Sizes) -> Iterator[Row]:
    """PyTorch's, compiled."""
    yield from _in_torch("torch.compile", sizes, fused=True, compiled=True)


def _in_torch(name: str, sizes: Sizes, **how: bool) -> Iterator[Row]:
    torch, device = torch_there()
    if not torch:
        raise ModuleNotFoundError("PyTorch is not installed")
    from benchmarks import torch_peer

    step = torch_peer.training_step(sizes.gpt, device=device, **how)
    held = torch.cuda.max_memory_reserved if device == "cuda" else lambda: 0.0
    yield from _training(name, step, sizes, lambda: float(held()))


def _training(
    name: str, step: Callable[[], float], sizes: Sizes, held: Callable[[], float]
) -> Iterator[Row]:
    """The first losses, and how long the steps after them take: each ends with its loss here."""
    task = sizes.gpt
    losses = [step() for _ in range(LOSSES)]
    for i, loss in enumerate(losses, 1):
        yield {"what": f"loss {i}", "unit": "", "values": {name: loss}, "errors": {}}
    times = []
    for _ in range(sizes.steps):
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    took, (operations, _) = statistics.median(times), measures.necessary(task)
    for what, unit, value in (
        (f"{task.name}: a step", "s", took),
        ("tokens", "1/s", task.batch * task.context / took),
        ("operations of its products", "FLOP/s", operations / took),
        ("memory held at most", "bytes", held()),
    ):
        yield {"what": what, "unit": unit, "values": {name: value}, "errors": {}}
