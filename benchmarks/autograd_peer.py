"""HIPS autograd: the tape over NumPy that JAX grew out of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import autograd.numpy as np
from autograd import value_and_grad

from benchmarks.tasks import Task, Transformer, adam_on_numpy, weights


def cross_entropy(logits: Any, y: Any) -> Any:
    shifted = logits - np.max(logits, axis=-1, keepdims=True)
    chosen = shifted[np.arange(len(y)), y]
    return np.mean(np.log(np.sum(np.exp(shifted), axis=-1)) - chosen)


def mlp_loss(W: Any, x: Any, y: Any) -> Any:
    for i in range(2):
        layer = f"hidden.{i}.linear."
        x = np.maximum(x @ W[layer + "weight"].T + W[layer + "bias"], 0.0)
    return cross_entropy(x @ W["out.weight"].T + W["out.bias"], y)


def gpt_loss(W: Any, ids: Any, y: Any, layers: int, heads: int) -> Any:
    (B, T), C = ids.shape, W["token.weight"].shape[1]
    unseen = np.where(np.tri(T, dtype=bool), np.float32(0.0), np.float32(-1e30))

    def linear(name: str, x: Any) -> Any:
        out = np.reshape(x, (B * T, -1)) @ W[name + ".weight"].T + W[name + ".bias"]
        return np.reshape(out, (B, T, -1))

    def norm(name: str, x: Any) -> Any:
        x = x - np.mean(x, axis=-1, keepdims=True)
        scale = np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + 1e-5)
        return x / scale * W[name + ".weight"] + W[name + ".bias"]

    x = W["token.weight"][ids] + W["position.weight"][:T]
    for i in range(layers):
        block = f"block.{i}."
        qkv = linear(block + "attention.qkv", norm(block + "norm1", x))  # (B, T, 3 C)
        qkv = np.transpose(np.reshape(qkv, (B, T, 3, heads, C // heads)), (2, 0, 3, 1, 4))
        q, k, v = qkv[0], qkv[1], qkv[2]  # (B, H, T, D)
        scores = q @ np.swapaxes(k, -1, -2) * (C // heads) ** -0.5 + unseen  # (B, H, T, T)
        e = np.exp(scores - np.max(scores, axis=-1, keepdims=True))
        mixed = (e / np.sum(e, axis=-1, keepdims=True)) @ v
        mixed = np.reshape(np.transpose(mixed, (0, 2, 1, 3)), (B, T, C))
        x = x + linear(block + "attention.out", mixed)
        h = linear(block + "mlp.up", norm(block + "norm2", x))
        h = 0.5 * h * (1.0 + np.tanh((2.0 / np.pi) ** 0.5 * (h + 0.044715 * (h * h * h))))
        x = x + linear(block + "mlp.down", h)
    logits = np.reshape(norm("norm", x), (B * T, C)) @ W["token.weight"].T
    return cross_entropy(logits, np.reshape(y, -1))


def steps(task: Task) -> dict[str, Callable[[], float]]:
    x, y = task.data()
    W = weights(task)
    state: dict[str, Any] = {}

    def loss_of(W: Any) -> Any:
        if isinstance(task, Transformer):
            return gpt_loss(W, x, y, task.layers, task.heads)
        return mlp_loss(W, x, y)

    gradient = value_and_grad(loss_of)

    def step() -> float:
        loss, gradients = gradient(W)
        adam_on_numpy(W, state, gradients)
        return float(loss)

    return {"HIPS autograd": step}
