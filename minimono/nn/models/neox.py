"""GPT-NeoX, of which the Pythia networks are: GPT with rotary positions and parallel blocks.

A quarter of each head's channels turn with the position, the rest do not. Attention and the
feed-forward network both read what comes into the block, each through a norm of its own, and both
are added: x + attention(norm1(x)) + mlp(norm2(x)). Black et al. 2022, arXiv 2204.06745.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minimono import checks
from minimono.backend import Array
from minimono.checks import Rng
from minimono.engine.tensor import Tensor
from minimono.nn.decoder import Decoder, RotaryAttention, initialise
from minimono.nn.layers import ActivationName, Embedding, FeedForward, LayerNorm, Linear
from minimono.nn.module import Module, Tap
from minimono.nn.rotary import Rotary, frequencies


class GPTNeoX(Decoder):
    """Token ids (B, T) to logits of the next token (B, T, vocabulary).

    `rotary` is by default that of a quarter of a head's channels. `parallel=False` has the
    feed-forward network read what attention has added, as in `GPT`. `mask` and taps are as those of
    `Llama`.

    >>> model = GPTNeoX(vocabulary=10, context=8, channels=16, heads=2, layers=2, hidden=12, rng=0)
    >>> model(np.array([[1, 2, 3]])).shape
    (1, 3, 10)
    """

    def __init__(
        self, *, vocabulary: int, context: int, channels: int, heads: int, layers: int, hidden: int,
        rng: Rng, rotary: Rotary | None = None, parallel: bool = True,
        activation: ActivationName = "gelu", eps: float = 1e-5, tied: bool = False,
        attention_bias: bool = True, dtype: Any = np.float32,
    ):
        checks.sizes(
            "GPTNeoX", vocabulary=vocabulary, context=context, channels=channels, heads=heads,
            hidden=hidden,
        )
        checks.sizes("GPTNeoX", least=0, layers=layers)
        rng = checks.generator(rng, "GPTNeoX: rng")
        checks.multiple(channels, "GPTNeoX: channels", heads, "the number of heads")
        self.context = context
        self.rotary = Rotary(frequencies(channels // heads // 4)) if rotary is None else rotary
        self.token = Embedding(vocabulary, channels, rng=rng, dtype=dtype)
        self.embedded = Tap()
        self.block: list[Module] = [
            Block(
                channels, heads, hidden, parallel=parallel, activation=activation, eps=eps,
                attention_bias=attention_bias, rng=rng, dtype=dtype,
            )
            for _ in range(layers)
        ]
        self.norm = LayerNorm(channels, eps=eps, dtype=dtype)
        self.normed = Tap()
        self.head = None if tied else Linear(channels, vocabulary, bias=False, rng=rng, dtype=dtype)
        initialise(self, rng)


class Block(Module):
    """x + attention(norm1(x)) + feed-forward(norm2(x)); in a row, if not parallel."""

    def __init__(
        self, channels: int, heads: int, hidden: int, *, parallel: bool,
        activation: ActivationName, eps: float, attention_bias: bool, rng: np.random.Generator,
        dtype: Any,
    ):
        self.parallel = parallel
        self.norm1 = LayerNorm(channels, eps=eps, dtype=dtype)
        self.attention = RotaryAttention(
            channels, heads, heads, channels // heads, bias=attention_bias,
            out_bias=attention_bias, rng=rng, dtype=dtype,
        )
        self.norm2 = LayerNorm(channels, eps=eps, dtype=dtype)
        self.mlp = FeedForward(channels, hidden, activation=activation, rng=rng, dtype=dtype)
        self.out = Tap()

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Array | None = None) -> Tensor:
        attended = x + self.attention(self.norm1(x), cos, sin, mask)
        return self.out(attended + self.mlp(self.norm2(x if self.parallel else attended)))
