"""MyGrad: another tape over NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mygrad as mg
import numpy as np
from mygrad.nnet.activations import relu, softmax
from mygrad.nnet.losses import softmax_crossentropy

from benchmarks.tasks import Task, Transformer, adam_on_numpy, weights

real = np.float32  # beside a plain number MyGrad turns float32 into float64


def mlp_loss(W: dict[str, Any], x: Any, y: Any) -> Any:
    for i in range(2):
        layer = f"hidden.{i}.linear."
        x = relu(mg.matmul(x, W[layer + "weight"].T) + W[layer + "bias"])
    return softmax_crossentropy(mg.matmul(x, W["out.weight"].T) + W["out.bias"], y)


def gpt_loss(W: dict[str, Any], ids: Any, y: Any, layers: int, heads: int) -> Any:
    (B, T), C = ids.shape, W["token.weight"].shape[1]
    hidden = ~np.tri(T, dtype=bool)

    def linear(name: str, x: Any) -> Any:
        out = mg.matmul(x.reshape(B * T, -1), W[name + ".weight"].T) + W[name + ".bias"]
        return out.reshape(B, T, -1)

    def norm(name: str, x: Any) -> Any:
        x = x - x.mean(axis=-1, keepdims=True)
        scale = mg.sqrt((x * x).mean(axis=-1, keepdims=True) + real(1e-5))
        return x / scale * W[name + ".weight"] + W[name + ".bias"]

    x = W["token.weight"][ids] + W["position.weight"][:T]
    for i in range(layers):
        block = f"block.{i}."
        qkv = linear(block + "attention.qkv", norm(block + "norm1", x))  # (B, T, 3 C)
        qkv = mg.transpose(qkv.reshape(B, T, 3, heads, C // heads), 2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]  # (B, H, T, D)
        scores = mg.matmul(q, mg.swapaxes(k, -1, -2)) * real((C // heads) ** -0.5)  # (B, H, T, T)
        mixed = mg.matmul(softmax(mg.where(hidden, real(-1e30), scores), axis=-1), v)
        mixed = mg.transpose(mixed, 0, 2, 1, 3).reshape(B, T, C)
        x = x + linear(block + "attention.out", mixed)
        h = linear(block + "mlp.up", norm(block + "norm2", x))
        u = real((2.0 / np.pi) ** 0.5) * (h + real(0.044715) * (h * h * h))
        h = real(0.5) * h * (real(1.0) + mg.tanh(u))
        x = x + linear(block + "mlp.down", h)
    logits = mg.matmul(norm("norm", x).reshape(B * T, C), W["token.weight"].T)
    return softmax_crossentropy(logits, y.reshape(-1))


def steps(task: Task) -> dict[str, Callable[[], float]]:
    x, y = task.data()
    W = {name: mg.tensor(w) for name, w in weights(task).items()}
    state: dict[str, Any] = {}

    def step() -> float:
        if isinstance(task, Transformer):
            loss = gpt_loss(W, x, y, task.layers, task.heads)
        else:
            loss = mlp_loss(W, mg.tensor(x, constant=True), y)
        loss.backward()
        gradients = {name: w.grad for name, w in W.items()}
        adam_on_numpy({name: w.data for name, w in W.items()}, state, gradients)
        return float(loss.item())

    return {"MyGrad": step}
