"""Our kernels, called by hand in the right order: what a tape of no cost would do."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchmarks.tasks import BETA1, BETA2, EPS, RATE, Task, Transformer, Weights, weights
from minimono.backend import Array
from minimono.kernels import cpu, cpu_attention, cpu_optim  # all that this file knows of them

ALL = (True, True, True)  # every argument needs a cotangent


def mlp(W: Weights, x: Array, y: Array) -> tuple[Array, Weights]:
    G: Weights = {}
    names = ["hidden.0.linear", "hidden.1.linear", "out"]
    inputs = [x]
    for name in names:
        x, _ = cpu.linear_forward(x, W[name + ".weight"], W[name + ".bias"])
        if name != "out":
            x, _ = cpu.relu_forward(x)
        inputs.append(x)
    logits = inputs.pop()
    loss, kept = cpu._mean_cross_entropy_forward(logits, y)
    one = np.ones((), np.float32)
    (g,) = cpu._mean_cross_entropy_backward((True,), one, loss, kept, logits, y)
    for i in (2, 1, 0):
        name, x = names[i], inputs[i]
        g, G[name + ".weight"], G[name + ".bias"] = cpu.linear_backward(
            (i > 0, True, True), g, logits, None, x, W[name + ".weight"], W[name + ".bias"]
        )
        if i > 0:
            (g,) = cpu.relu_backward((True,), g, x, None, x)
    return loss, G


def gpt(W: Weights, ids: Array, y: Array, layers: int, heads: int) -> tuple[Array, Weights]:
    G: Weights = {}
    (B, T), C = ids.shape, W["token.weight"].shape[1]

    def norm(name: str, x: Array) -> tuple[Array, Callable[[Array], Array]]:
        w, b = W[name + ".weight"], W[name + ".bias"]
        out, kept = cpu.layer_norm_forward(x, w, b)

        def back(g: Array) -> Array:
            gx, G[name + ".weight"], G[name + ".bias"] = cpu.layer_norm_backward(
                ALL, g, out, kept, x, w, b
            )
            return gx

        return out, back

    def linear(name: str, x: Array) -> tuple[Array, Callable[[Array], Array]]:
        w, b = W[name + ".weight"], W[name + ".bias"]
        out, kept = cpu.linear_forward(x, w, b)

        def back(g: Array) -> Array:
            gx, G[name + ".weight"], G[name + ".bias"] = cpu.linear_backward(
                ALL, g, out, kept, x, w, b
            )
            return gx

        return out, back

    def attention(x: Array) -> tuple[Array, Callable[[Array], Array]]:
        qkv = x.reshape(B, T, 3, heads, C // heads)  # (B, T, 3 C) -> (B, T, 3, H, D)
        out, kept = cpu_attention._packed_attention_forward(qkv, None, True)

        def back(g: Array) -> Array:
            (gqkv,) = cpu_attention._packed_attention_backward(
                ALL, g.reshape(out.shape), out, kept, qkv, None, True
            )
            return gqkv.reshape(x.shape)

        return out.reshape(B, T, C), back

    def gelu(x: Array) -> tuple[Array, Callable[[Array], Array]]:
        out, kept = cpu.gelu_forward(x, "tanh")
        return out, lambda g: cpu.gelu_backward(ALL, g, out, kept, x, "tanh")[0]

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
    logits, kept = cpu.linear_forward(normed, W["token.weight"])
    rows = logits.reshape(B * T, -1)
    loss, probability = cpu._mean_cross_entropy_forward(rows, y.reshape(-1))

    one = np.ones((), np.float32)
    (g,) = cpu._mean_cross_entropy_backward(
        (True,), one, loss, probability, rows, y.reshape(-1)
    )
    g, gtoken, _ = cpu.linear_backward(ALL, g, logits, kept, normed, W["token.weight"])
    assert g is not None
    g = norm_back(g)
    for backs in reversed(branches):
        change = g
        for back in backs:
            change = back(change)
        g = g + change
    (gembedded,) = cpu._rows_by_number_backward((True,), g, x, None, W["token.weight"], ids)
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
            W[name], *state[name] = cpu_optim.update(cpu_optim.adam_kernel, arrays, numbers)
        return float(loss)

    return step
