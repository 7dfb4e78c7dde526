"""The multilayer perceptron."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from minimono import checks
from minimono.checks import Rng
from minimono.engine.tensor import Tensor
from minimono.nn.layers import Activation, Linear
from minimono.nn.module import Module, Tap


class MLP(Module):
    """Linear layers with an activation after each but the last: widths (784, 128, 10), say.

    Takes (B, widths[0]), returns (B, widths[-1]). Hidden neurons are read at the taps
    `hidden.0.act`, `hidden.1.act`, ...
    """

    def __init__(
        self, widths: Sequence[int], *, rng: Rng,
        activation: Literal["relu", "gelu", "tanh"] = "relu", dtype: Any = np.float32,
    ):
        widths = checks.whole_numbers(widths, "MLP: widths", least=1)
        if len(widths) < 2:
            raise ValueError(f"MLP: widths is {widths}, expected at least input and output")
        rng = checks.generator(rng, "MLP: rng")
        self.hidden: list[Module] = [
            _Hidden(n_in, n_out, rng, activation, dtype)
            for n_in, n_out in pairwise(widths[:-1])
        ]
        self.out = Linear(widths[-2], widths[-1], rng=rng, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.hidden:
            x = layer(x)
        return self.out(x)


class _Hidden(Module):
    def __init__(
        self, n_in: int, n_out: int, rng: np.random.Generator,
        activation: Literal["relu", "gelu", "tanh"], dtype: Any,
    ):
        self.linear = Linear(n_in, n_out, rng=rng, dtype=dtype)
        self.activation = Activation(activation)
        self.act = Tap()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.activation.after(self.linear, x))
