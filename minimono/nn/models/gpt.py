"""GPT: from the tokens so far, a guess of the next one, at every position at once.

A token's vector starts as its embedding plus that of its position. Each block adds to it, twice:
what attention gathers from earlier positions, and what a feed-forward network makes of the vector
itself. This sum, which runs through all blocks, is the residual stream. At its end it is normed,
and its products with the embeddings of all tokens are the logits: the weights of the output head
are those of the embedding ("tied").

As in GPT-2 (Radford et al. 2019): layer norms before attention and feed-forward ("pre-norm"),
learned positions, GELU in its tanh form.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minimono import checks
from minimono.backend import Array
from minimono.checks import Rng
from minimono.engine import functional as F
from minimono.engine.tensor import Tensor
from minimono.nn.layers import (
    ActivationName,
    Dropout,
    Embedding,
    FeedForward,
    LayerNorm,
    MultiHeadAttention,
)
from minimono.nn.module import Module, Tap


class GPT(Module):
    """Token ids (B, T) to logits of the next token (B, T, vocabulary).

    A logit is a score: `softmax` makes probabilities of them. A block's feed-forward network has
    `hidden` neurons, by default four for each channel; `eps` is that of all norms. Taps:
    `embedded`, `block.0.mlp.act` (the neurons of the first block), `block.0.out` (the residual
    stream after it), ..., `normed`.
    """

    def __init__(
        self, *, vocabulary: int, context: int, channels: int, heads: int, layers: int,
        rng: Rng, hidden: int | None = None,
        activation: ActivationName = "gelu_tanh", eps: float = 1e-5, dropout: float = 0.0,
        dtype: Any = np.float32,
    ):
        checks.sizes(
            "GPT", vocabulary=vocabulary, context=context, channels=channels, heads=heads,
        )
        checks.sizes("GPT", least=0, layers=layers)
        rng = checks.generator(rng, "GPT: rng")
        hidden = 4 * channels if hidden is None else hidden
        self.context = context
        self.token = Embedding(vocabulary, channels, rng=rng, dtype=dtype)
        self.position = Embedding(context, channels, rng=rng, dtype=dtype)
        self.dropout = Dropout(dropout, rng=rng)
        self.embedded = Tap()
        self.block: list[Module] = [
            Block(
                channels, heads, hidden, activation=activation, eps=eps, rng=rng,
                dropout=dropout, dtype=dtype,
            )
            for _ in range(layers)
        ]
        self.norm = LayerNorm(channels, eps=eps, dtype=dtype)
        self.normed = Tap()
        _initialise_as_gpt2(self, layers, rng)

    def forward(self, ids: Tensor | Array) -> Tensor:
        ids = checks.token_ids(ids, "GPT: ids", self.context)
        x = self.token(ids) + self.position(np.arange(ids.shape[1]))  # (B, T, C) + (T, C)
        x = self.embedded(self.dropout(x))
        for block in self.block:
            x = block(x)
        x = self.normed(self.norm(x))
        return F.linear(x, self.token.weight)  # tied: (B, T, C) (vocabulary, C)^T


class Block(Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x)).

    Each part adds to x and replaces nothing, so what is in x, and its gradient, passes every block.
    Attention is causal: a position sees itself and earlier ones, never the token it has to guess.
    """

    def __init__(
        self, channels: int, heads: int, hidden: int, *, activation: ActivationName, eps: float,
        rng: np.random.Generator, dropout: float, dtype: Any,
    ):
        self.norm1 = LayerNorm(channels, eps=eps, dtype=dtype)
        self.attention = MultiHeadAttention(
            channels, heads, rng=rng, causal=True, dropout=dropout, dtype=dtype
        )
        self.norm2 = LayerNorm(channels, eps=eps, dtype=dtype)
        self.mlp = FeedForward(
            channels, hidden, rng=rng, activation=activation, dropout=dropout, dtype=dtype
        )
        self.out = Tap()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return self.out(x)


def _initialise_as_gpt2(model: Module, layers: int, rng: np.random.Generator) -> None:
    """Weights normal, of standard deviation 0.02; biases 0.

    The projections that add to the residual stream, two in each block, are narrower by the square
    root of their number: so all of them together add as much as one would.
    """
    for name, p in model.named_parameters():
        if p.ndim == 2:
            into_stream = name.endswith(("attention.out.weight", "mlp.down.weight"))
            scale = 0.02 * ((2 * layers) ** -0.5 if into_stream else 1.0)
            p.data = (scale * rng.standard_normal(p.shape)).astype(p.dtype)
        elif name.endswith("bias"):
            p.data = np.zeros_like(p.data)
