"""JAX: loss, gradient and Adam as one compiled function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.tasks import BETA1, BETA2, EPS, RATE, Task, Transformer, weights


def cross_entropy(logits: Any, y: Any) -> Any:
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), y[..., None], axis=-1).mean()


def mlp_loss(W: dict[str, Any], x: Any, y: Any) -> Any:
    for i in range(2):
        layer = f"hidden.{i}.linear."
        x = jax.nn.relu(x @ W[layer + "weight"].T + W[layer + "bias"])
    return cross_entropy(x @ W["out.weight"].T + W["out.bias"], y)


def gpt_loss(W: dict[str, Any], ids: Any, y: Any, layers: int, heads: int) -> Any:
    (B, T), C = ids.shape, W["token.weight"].shape[1]

    def linear(name: str, x: Any) -> Any:
        return x @ W[name + ".weight"].T + W[name + ".bias"]

    def norm(name: str, x: Any) -> Any:
        x = x - x.mean(-1, keepdims=True)
        scale = jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-5)
        return x * scale * W[name + ".weight"] + W[name + ".bias"]

    x = W["token.weight"][ids] + W["position.weight"][:T]
    for i in range(layers):
        block = f"block.{i}."
        qkv = linear(block + "attention.qkv", norm(block + "norm1", x))  # (B, T, 3 C)
        q, k, v = (qkv.reshape(B, T, 3, heads, -1)[:, :, i] for i in range(3))  # (B, T, H, D)
        mixed = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        x = x + linear(block + "attention.out", mixed.reshape(B, T, C))
        h = jax.nn.gelu(linear(block + "mlp.up", norm(block + "norm2", x)), approximate=True)
        x = x + linear(block + "mlp.down", h)
    return cross_entropy(norm("norm", x) @ W["token.weight"].T, y)


def steps(task: Task) -> dict[str, Callable[[], float]]:
    x, y = (jnp.asarray(array) for array in task.data())

    def loss_of(W: Any) -> Any:
        if isinstance(task, Transformer):
            return gpt_loss(W, x, y, task.layers, task.heads)
        return mlp_loss(W, x, y)

    def update(W: Any, m: Any, v: Any, t: Any) -> Any:
        loss, g = jax.value_and_grad(loss_of)(W)
        t = t + 1
        m = jax.tree.map(lambda m, g: BETA1 * m + (1.0 - BETA1) * g, m, g)
        v = jax.tree.map(lambda v, g: BETA2 * v + (1.0 - BETA2) * g * g, v, g)
        W = jax.tree.map(
            lambda w, m, v: w
            - RATE * m / (1.0 - BETA1**t) / (jnp.sqrt(v / (1.0 - BETA2**t)) + EPS),
            W, m, v,
        )
        return loss, (W, m, v, t)

    compiled = jax.jit(update, donate_argnums=(0, 1, 2, 3))
    W = {name: jnp.asarray(w) for name, w in weights(task).items()}
    zeros = {name: jnp.zeros_like(w) for name, w in W.items()}
    state = [W, zeros, jax.tree.map(jnp.copy, zeros), jnp.float32(0.0)]

    def step() -> float:
        nonlocal state
        loss, state = compiled(*state)
        return float(loss)

    return {"JAX jit": step}
