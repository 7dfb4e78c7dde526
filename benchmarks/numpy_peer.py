"""Plain NumPy: forward and backward written out by hand, without kernels, tape or `out=`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.tasks import Task, Transformer, Weights, adam_on_numpy, weights
from minimono.backend import Array


def cross_entropy(logits: Array, y: Array) -> tuple[Array, Array]:
    """The loss, and its gradient in the logits (N, C)."""
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    p = e / e.sum(axis=1, keepdims=True)
    rows = np.arange(len(y))
    loss = -np.log(p[rows, y]).mean()
    p[rows, y] -= 1.0
    return loss, p / len(y)


def mlp(W: Weights, x: Array, y: Array) -> tuple[Array, Weights]:
    """The loss and its gradients."""
    names = ["hidden.0.linear", "hidden.1.linear", "out"]
    inputs = [x]
    for name in names:
        x = inputs[-1] @ W[name + ".weight"].T + W[name + ".bias"]
        inputs.append(x if name == "out" else np.maximum(x, 0.0))
    loss, g = cross_entropy(inputs.pop(), y)
    G = {}
    for name in reversed(names):
        x = inputs.pop()
        G[name + ".weight"], G[name + ".bias"] = g.T @ x, g.sum(axis=0)
        g = g @ W[name + ".weight"] * (x > 0.0)
    return loss, G


def gpt(W: Weights, ids: Array, y: Array, layers: int, heads: int) -> tuple[Array, Weights]:
    """The loss and its gradients. The way back is a list of functions, the last of which is first.

    Each takes the gradient of what its part of the forward pass returned, and returns that of what
    it took.
    """
    (B, T), C = ids.shape, W["token.weight"].shape[1]
    D = C // heads
    causal = np.tri(T, dtype=bool)
    G: Weights = {}

    def linear(name: str, x: Array) -> tuple[Array, Callable[[Array], Array]]:
        def back(g: Array) -> Array:
            g = g.reshape(B * T, -1)
            G[name + ".weight"], G[name + ".bias"] = g.T @ x.reshape(B * T, -1), g.sum(axis=0)
            return (g @ W[name + ".weight"]).reshape(x.shape)

        out = x.reshape(B * T, -1) @ W[name + ".weight"].T + W[name + ".bias"]
        return out.reshape(B, T, -1), back

    def norm(name: str, x: Array) -> tuple[Array, Callable[[Array], Array]]:
        centred = x - x.mean(axis=-1, keepdims=True)
        scale = 1.0 / np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + 1e-5)
        h = centred * scale

        def back(g: Array) -> Array:
            G[name + ".weight"], G[name + ".bias"] = (g * h).sum(axis=(0, 1)), g.sum(axis=(0, 1))
            d = g * W[name + ".weight"]
            mean = d.mean(axis=-1, keepdims=True)
            return scale * (d - mean - h * (d * h).mean(axis=-1, keepdims=True))

        return h * W[name + ".weight"] + W[name + ".bias"], back

    def attention(qkv: Array) -> tuple[Array, Callable[[Array], Array]]:
        q, k, v = qkv.reshape(B, T, 3, heads, D).transpose(2, 0, 3, 1, 4)  # (B, H, T, D)
        scores = q @ k.swapaxes(-1, -2) * D**-0.5  # (B, H, T, T)
        e = np.where(causal, np.exp(scores - scores.max(axis=-1, keepdims=True)), 0.0)
        p = e / e.sum(axis=-1, keepdims=True)
        mixed = (p @ v).transpose(0, 2, 1, 3).reshape(B, T, C)

        def back(g: Array) -> Array:
            g = g.reshape(B, T, heads, D).transpose(0, 2, 1, 3)
            gp = g @ v.swapaxes(-1, -2)
            gscores = p * (gp - (gp * p).sum(axis=-1, keepdims=True)) * D**-0.5
            shares = [gscores @ k, gscores.swapaxes(-1, -2) @ q, p.swapaxes(-1, -2) @ g]
            # 3 times (B, H, T, D) -> (B, T, 3, H, D) -> (B, T, 3 C)
            return np.stack(shares).transpose(1, 3, 0, 2, 4).reshape(B, T, 3 * C)

        return mixed, back

    def gelu(x: Array) -> tuple[Array, Callable[[Array], Array]]:
        c = (2.0 / np.pi) ** 0.5
        tanh = np.tanh(c * (x + 0.044715 * x * x * x))

        def back(g: Array) -> Array:
            slope = c * (1.0 + 3.0 * 0.044715 * x * x)
            return g * (0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh * tanh) * slope)

        return 0.5 * x * (1.0 + tanh), back

    def chain(*parts: Any) -> Callable[[Array], tuple[Array, list[Callable[[Array], Array]]]]:
        def run(x: Array) -> tuple[Array, list[Callable[[Array], Array]]]:
            backs = []
            for function, *name in parts:
                x, back = function(*name, x)
                backs.append(back)
            return x, backs[::-1]

        return run

    branches = []  # of the residual stream
    x = W["token.weight"][ids] + W["position.weight"][:T]
    for i in range(layers):
        block = f"block.{i}."
        for branch in (
            chain(
                (norm, block + "norm1"), (linear, block + "attention.qkv"), (attention,),
                (linear, block + "attention.out"),
            ),
            chain(
                (norm, block + "norm2"), (linear, block + "mlp.up"), (gelu,),
                (linear, block + "mlp.down"),
            ),
        ):
            change, backs = branch(x)
            x = x + change
            branches.append(backs)
    normed, norm_back = norm("norm", x)
    rows = normed.reshape(B * T, C)
    loss, glogits = cross_entropy(rows @ W["token.weight"].T, y.reshape(-1))

    gtoken = glogits.T @ rows
    g = norm_back((glogits @ W["token.weight"]).reshape(B, T, C))
    for backs in reversed(branches):
        change = g
        for back in backs:
            change = back(change)
        g = g + change
    np.add.at(gtoken, ids, g)
    G["token.weight"], G["position.weight"] = gtoken, g.sum(axis=0)
    return loss, G


def steps(task: Task) -> dict[str, Callable[[], float]]:
    x, y = task.data()
    W = weights(task)
    state: dict[str, Any] = {}

    def step() -> float:
        if isinstance(task, Transformer):
            loss, gradients = gpt(W, x, y, task.layers, task.heads)
        else:
            loss, gradients = mlp(W, x, y)
        adam_on_numpy(W, state, gradients)
        return float(loss)

    return {"plain NumPy": step}
