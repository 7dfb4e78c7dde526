"""Our kernels, called by hand in the right order: what a tape of no cost would do."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchmarks.tasks import BETA1, BETA2, EPS, RATE, Task, Transformer, Weights, weights
from minimono.backend import Array
from minimono.kernels.cpu import optim
from minimono.kernels.cpu.activations import (
    gelu_backward,
    gelu_forward,
    relu_backward,
    relu_forward,
)
from minimono.kernels.cpu.attention import packed_attention_backward, packed_attention_forward
from minimono.kernels.cpu.embedding import rows_by_number_backward
from minimono.kernels.cpu.linear import linear_backward, linear_forward
from minimono.kernels.cpu.losses import mean_cross_entropy_backward, mean_cross_entropy_forward
from minimono.kernels.cpu.norms import layer_norm_backward, layer_norm_forward

ALL = (True, True, True)  # every argument needs a cotangent


def mlp(W: Weights, x: Array, y: Array) -> tuple[Array, Weights]:
    G: Weights = {}
    names = ["hidden.0.linear", "hidden.1.linear", "out"]
    inputs = [x]
    for name in names:
        x, _ = linear_forward(x, W[name + ".weight"], W[name + ".bias"])
        if name != "out":
            x, _ = relu_forward(x)
        inputs.append(x)
    logits = inputs.pop()
    loss, kept = mean_cross_entropy_forward(logits, y)
    one = np.ones((), np.float32)
    (g,) = mean_cross_entropy_backward((True,), one, loss, kept, logits, y)
    for i in (2, 1, 0):
        name, x = names[i], inputs[i]
        g, G[name + ".weight"], G[name + ".bias"] = linear_backward(
            (i > 0, True, True), g, logits, None, x, W[name + ".weight"], W[name + ".bias"]
        )
        if i > 0:
            (g,) = relu_backward((True,), g, x, None, x)
    return loss, G


def gpt(W: Weights, ids: Array, y: Array, layers: int, heads: int) -> tuple[Array, Weights]:
    G: Weights = {}
    (B, T), C = ids.shape, W["token.weight"].shape[1]

    def norm(name: str, x: Array) -> tuple[Array, Callable[[Array], Array]]:
        w, b = W[name + ".weight"], W[name + ".bias"]
        out, kept = layer_norm_forward(x, w, b)

        def back(g: Array) -> Array:
            gx, G[name + ".weight"], G[name + ".bias"] = layer_norm_backward(
                ALL, g, out, kept, x, w, b
            )
            return gx

        return out, back

    def linear(name: str, x: Array) -> tuple[Array, Callable[[Array], Array]]:
        w, b = W[name + ".weight"], W[name + ".bias"]
        out, kept = linear_forward(x, w, b)

        def back(g: Array) -> Array:
            gx, G[name + ".weight"], G[name + ".bias"] = linear_backward(
                ALL, g, out, kept, x, w, b
            )
            return gx

        return out, back

    def attention(x: Array) -> tuple[Array, Callable[[Array], Array]]:
        qkv = x.reshape(B, T, 3, heads, C // heads)  # (B, T, 3 C) -> (B, T, 3, H, D)
        out, kept = packed_attention_forward(qkv, None, True)

        def back(g: Array) -> Array:
            (gqkv,) = packed_attention_backward(
                ALL, g.reshape(out.shape), out, kept, qkv, None, True
            )
            return gqkv.reshape(x.shape)

        return out.reshape(B, T, C), back

    def gelu(x: Array) -> tuple[Array, Callable[[Array], Array]]:
        out, kept = gelu_forward(x, "tanh")
        return out, lambda g: gelu_backward(ALL, g, out, kept, x, "tanh")[0]

    branches = []  # of the residual stream
    x = W["token.weight"][ids]
    x += W["position.weight"][:T]
    for i in range(layers):
        block = f"block.{i}."
        change, back1 = norm(block + "norm1", x)
        change, back2 = linear(block + "attention.qkv", change)
        change, back3 = attention(change)
        change, back4 = linear(block + "attention.out", change)
        x = x + change
        branches.append((back4, back3, back2, back1))
        change, back1 = norm(block + "norm2", x)
        change, back2 = linear(block + "mlp.up", change)
        change, back3 = gelu(change)
        change, back4 = linear(block + "mlp.down", change)
        x = x + change
        branches.append((back4, back3, back2, back1))
    normed, norm_back = norm("norm", x)
    logits, kept = linear_forward(normed, W["token.weight"])
    rows = logits.reshape(B * T, -1)
    loss, probability = mean_cross_entropy_forward(rows, y.reshape(-1))

    one = np.ones((), np.float32)
    (g,) = mean_cross_entropy_backward(
        (True,), one, loss, probability, rows, y.reshape(-1)
    )
    g, gtoken, _ = linear_backward(ALL, g, logits, kept, normed, W["token.weight"])
    assert g is not None
    g = norm_back(g)
    for backs in reversed(branches):
        change = g
        for back in backs:
            change = back(change)
        g = g + change
    (gembedded,) = rows_by_number_backward((True,), g, x, None, W["token.weight"], ids)
    G["token.weight"] = gtoken + gembedded
    G["position.weight"] = g.sum(axis=0)
    return loss, G


def training_step(task: Task) -> Callable[[], float]:
    x, y = task.data()
    W = weights(task)
    state = {name: [np.zeros_like(w), np.zeros_like(w)] for name, w in W.items()}
    updates = 0

    def step() -> float:
        nonlocal updates
        if isinstance(task, Transformer):
            loss, G = gpt(W, x, y, task.layers, task.heads)
        else:
            loss, G = mlp(W, x, y)
        updates += 1
        corrections = 1.0 - BETA1**updates, 1.0 - BETA2**updates
        numbers = (RATE, BETA1, BETA2, EPS, 0.0, 0.0, *corrections)
        for name, w in W.items():
            arrays = (w, G[name], *state[name])
            W[name], *state[name] = optim.update(optim.adam_kernel, arrays, numbers)
        return float(loss)

    return step
