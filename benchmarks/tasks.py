"""What is trained in the benchmark: four networks, their first weights and one batch each.

All frameworks start from the same weights, take the same batch at every step, and use Adam with
the same settings, so they must reach the same losses. `check` asserts that they do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minimono.backend import Array
from minimono.nn.models import GPT, MLP
from minimono.nn.module import Module

RATE, BETA1, BETA2, EPS = 1e-3, 0.9, 0.999, 1e-8  # Adam's, in every framework

Weights = dict[str, Array]  # by their names in our models; matrices (out, in), as in PyTorch


@dataclass(frozen=True)
class Perceptron:
    """Linear layers with ReLU between them."""

    name: str
    widths: tuple[int, ...]
    batch: int

    def model(self) -> Module:
        return MLP(self.widths, rng=np.random.default_rng(0))

    def data(self) -> tuple[Array, Array]:
        """x (B, C) float32, classes (B,)."""
        rng = np.random.default_rng(1)
        x = rng.standard_normal((self.batch, self.widths[0]), dtype=np.float32)
        return x, rng.integers(0, self.widths[-1], self.batch)


@dataclass(frozen=True)
class Transformer:
    """GPT: pre-norm blocks, tanh-GELU, head tied to the token embedding; 256 tokens (bytes)."""

    name: str
    layers: int
    channels: int
    heads: int
    context: int
    batch: int
    vocabulary: int = 256

    def model(self) -> Module:
        return GPT(
            vocabulary=self.vocabulary, context=self.context, channels=self.channels,
            heads=self.heads, layers=self.layers, rng=np.random.default_rng(0),
        )

    def data(self) -> tuple[Array, Array]:
        """Tokens (B, T) and the tokens that follow them (B, T)."""
        rng = np.random.default_rng(1)
        tokens = rng.integers(0, self.vocabulary, (self.batch, self.context + 1))
        return np.ascontiguousarray(tokens[:, :-1]), np.ascontiguousarray(tokens[:, 1:])


Task = Perceptron | Transformer

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Perceptron("MLP small", (64, 128, 128, 10), batch=64),
        Perceptron("MLP 784", (784, 1024, 1024, 10), batch=256),
        Transformer("GPT small", layers=2, channels=128, heads=4, context=128, batch=16),
        Transformer("GPT middle", layers=4, channels=256, heads=8, context=256, batch=8),
    )
}


def weights(task: Task) -> Weights:
    return task.model().state_dict()


def adam_on_numpy(W: Mapping[str, Array], state: dict[str, Any], gradients: Weights) -> None:
    """Adam in plain NumPy, in place, for frameworks that bring no optimiser."""
    if not state:
        state |= {"t": 0, "m": {k: np.zeros_like(w) for k, w in W.items()}}
        state["v"] = {k: np.zeros_like(w) for k, w in W.items()}
    state["t"] += 1
    correction1, correction2 = 1.0 - BETA1 ** state["t"], 1.0 - BETA2 ** state["t"]
    for k, g in gradients.items():
        m, v = state["m"][k], state["v"][k]
        m[...] = BETA1 * m + (1.0 - BETA1) * g
        v[...] = BETA2 * v + (1.0 - BETA2) * g * g
        W[k][...] -= RATE * (m / correction1) / (np.sqrt(v / correction2) + EPS)


def check(task: str, losses: Mapping[str, Sequence[float]]) -> None:
    """The first losses of all frameworks are the same to float32's rounding, or AssertionError.

    The first compares the networks; the later ones the gradients and Adam, too.
    """
    (first, expected), *others = losses.items()
    for name, found in others:
        np.testing.assert_allclose(
            found, expected, rtol=2e-4, err_msg=f"{task}: losses of {name} and of {first}"
        )
