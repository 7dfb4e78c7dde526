"""PyTorch: eager as most people write it, with its best settings, and compiled with those."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.limits import PRODUCT, SIZE
from benchmarks.measures import necessary
from benchmarks.tasks import BETA1, BETA2, EPS, RATE, Task, Transformer, weights


def mlp_loss(W: dict[str, Any], x: Any, y: Any) -> Any:
    for i in range(2):
        layer = f"hidden.{i}.linear."
        x = F.relu(F.linear(x, W[layer + "weight"], W[layer + "bias"]))
    return F.cross_entropy(F.linear(x, W["out.weight"], W["out.bias"]), y)


def gpt_loss(W: dict[str, Any], ids: Any, y: Any, layers: int, heads: int) -> Any:
    (B, T), C = ids.shape, W["token.weight"].shape[1]

    def linear(name: str, x: Any) -> Any:
        return F.linear(x, W[name + ".weight"], W[name + ".bias"])

    def norm(name: str, x: Any) -> Any:
        return F.layer_norm(x, (C,), W[name + ".weight"], W[name + ".bias"])

    x = F.embedding(ids, W["token.weight"]) + W["position.weight"][:T]
    for i in range(layers):
        block = f"block.{i}."
        qkv = linear(block + "attention.qkv", norm(block + "norm1", x))  # (B, T, 3 C)
        q, k, v = qkv.view(B, T, 3, heads, C // heads).permute(2, 0, 3, 1, 4)  # (B, H, T, D)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + linear(block + "attention.out", mixed.transpose(1, 2).reshape(B, T, C))
        h = F.gelu(linear(block + "mlp.up", norm(block + "norm2", x)), approximate="tanh")
        x = x + linear(block + "mlp.down", h)
    logits = F.linear(norm("norm", x), W["token.weight"])  # (B, T, vocabulary)
    return F.cross_entropy(logits.view(B * T, -1), y.reshape(-1))


EAGER, BEST = "PyTorch eager", ", best settings"
SMALL = 1e9  # operations of a step: below, one thread may be faster than meeting others


def steps(task: Task) -> dict[str, Callable[[], float]]:
    """As most people write it, and with both other ways to run Adam that PyTorch has."""
    return {
        EAGER: training_step(task),
        EAGER + ", foreach Adam": training_step(task, foreach=True),
        EAGER + ", fused Adam": training_step(task, fused=True),
    }


def best_steps(task: Task) -> dict[str, Callable[[], float]]:
    return _best(EAGER, task, compiled=False)


def compiled_steps(task: Task) -> dict[str, Callable[[], float]]:
    return _best("torch.compile", task, compiled=True)


def _best(name: str, task: Task, compiled: bool) -> dict[str, Callable[[], float]]:
    """Fused Adam and no denormal numbers; a small network with one thread as well.

    oneDNN is on by itself.
    """
    torch.set_flush_denormal(True)
    threads = {name + BEST: torch.get_num_threads()}
    if necessary(task)[0] < SMALL and threads[name + BEST] > 1:
        threads[name + BEST + ", one thread"] = 1
    return {
        variant: with_threads(count, training_step(task, fused=True, compiled=compiled))
        for variant, count in threads.items()
    }


def with_threads(count: int, step: Callable[[], float]) -> Callable[[], float]:
    """The step with so many threads; only its first call of a turn changes anything."""

    def run() -> float:
        if torch.get_num_threads() != count:
            torch.set_num_threads(count)
        return step()

    return run


def limits(task: Task) -> dict[str, Callable[[], float]]:
    """PyTorch's own product of the same matrices: the machine's limit is that of the faster one."""
    a, b = (torch.rand(SIZE, SIZE) for _ in range(2))
    out = torch.empty_like(a)

    def product() -> float:
        torch.mm(a, b, out=out)
        return 0.0

    return {f"{PRODUCT}, PyTorch's": product}


def training_step(
    task: Task, fused: bool = False, foreach: bool = False, compiled: bool = False,
    device: str = "cpu",
) -> Callable[[], float]:
    W = {
        name: torch.tensor(w, device=device, requires_grad=True)
        for name, w in weights(task).items()
    }
    x, y = (torch.from_numpy(array).to(device) for array in task.data())
    optimiser = torch.optim.Adam(
        W.values(), RATE, betas=(BETA1, BETA2), eps=EPS, fused=fused or None,
        foreach=foreach or None,
    )

    def loss_of(W: dict[str, Any]) -> Any:
        if isinstance(task, Transformer):
            return gpt_loss(W, x, y, task.layers, task.heads)
        return mlp_loss(W, x, y)

    function = torch.compile(loss_of) if compiled else loss_of

    def step() -> float:
        optimiser.zero_grad()
        loss = function(W)
        loss.backward()
        optimiser.step()
        return float(loss.item())

    return step
