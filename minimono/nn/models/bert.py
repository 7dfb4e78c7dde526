"""BERT: blocks that look both ways, for classifying a text or a pair of texts.

Post-norm blocks, GELU in its exact form, segment embeddings, and a tanh pooler over the first
position below the classification head (Devlin et al. 2019, arXiv 1810.04805). RoBERTa (Liu et al.
2019, arXiv 1907.11692) and DistilBERT (Sanh et al. 2019, arXiv 1910.01108) differ in settings.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minimono import checks
from minimono.backend import Array, as_array
from minimono.checks import Rng
from minimono.engine.arguments import text_mask
from minimono.engine.tensor import Tensor
from minimono.nn.layers import (
    Activation,
    ActivationName,
    Dropout,
    Embedding,
    FeedForward,
    LayerNorm,
    Linear,
    MultiHeadAttention,
    parameter,
)
from minimono.nn.module import Module, Tap


class BERT(Module):
    """Token ids (B, T) to logits of the text's class (B, classes).

    A block has `hidden` neurons, by default four for each channel; `eps` is that of all norms.
    `segments` (B, T) tells the first text of a pair (0) from the second (1); `mask` (B, T) is True
    where there is text, False on padding. Taps: `embedded`, `block.0.mlp.act`, `block.0.out`, ...,
    `pooled`.

    RoBERTa has a `padding` id, by which it counts positions: a token's is that id plus how many
    tokens up to it are no padding. DistilBERT has no `segments` (None), and "relu" as `pooling`.
    """

    def __init__(
        self, *, vocabulary: int, context: int, channels: int, heads: int, layers: int,
        classes: int, rng: Rng, segments: int | None = 2, hidden: int | None = None,
        activation: ActivationName = "gelu", eps: float = 1e-12, dropout: float = 0.0,
        padding: int | None = None, pooling: ActivationName = "tanh", dtype: Any = np.float32,
    ):
        checks.sizes(
            "BERT", vocabulary=vocabulary, context=context, channels=channels, heads=heads,
            classes=classes,
        )
        checks.sizes("BERT", least=0, layers=layers)
        if segments is not None:
            checks.sizes("BERT", segments=segments)
        if padding is not None:
            checks.sizes("BERT", least=0, padding=padding)
        rng = checks.generator(rng, "BERT: rng")
        hidden = 4 * channels if hidden is None else hidden
        self.context, self.padding = context, padding
        self.token = Embedding(vocabulary, channels, rng=rng, dtype=dtype)
        before = 0 if padding is None else padding + 1
        self.position = Embedding(before + context, channels, rng=rng, dtype=dtype)
        self.segment = None
        if segments is not None:
            self.segment = Embedding(segments, channels, rng=rng, dtype=dtype)
        self.norm = LayerNorm(channels, eps=eps, dtype=dtype)
        self.dropout = Dropout(dropout, rng=rng)
        self.embedded = Tap()
        self.block: list[Module] = [
            Block(
                channels, heads, hidden, activation=activation, eps=eps, rng=rng,
                dropout=dropout, dtype=dtype,
            )
            for _ in range(layers)
        ]
        self.pooler = Linear(channels, channels, rng=rng, dtype=dtype)
        self.pooling = Activation(pooling)
        self.pooled = Tap()
        self.classifier = Linear(channels, classes, rng=rng, dtype=dtype)
        for _, p in self.named_parameters():  # weights N(0, 0.02), as in BERT; norms as they are
            if p.ndim == 2:
                p.data = (0.02 * rng.standard_normal(p.shape)).astype(p.dtype)
        for _, module in self.named_modules():
            if isinstance(module, Linear) and module.bias is not None:
                module.bias = parameter(np.zeros(module.bias.shape), dtype)

    def encode(
        self,
        ids: Tensor | Array,
        segments: Tensor | Array | None = None,
        mask: Tensor | Array | None = None,
    ) -> Tensor:
        """Token ids (B, T) to what the last block says at each position (B, T, C)."""
        ids = checks.token_ids(ids, "BERT: ids", self.context)
        B, T = ids.shape
        mask = None if mask is None else text_mask(mask, "BERT: mask", (B, T))
        x = self.token(ids) + self.position(self._positions(ids))  # (B, T, C)
        if self.segment is not None:
            segments = np.zeros((B, T), dtype=np.int64) if segments is None else segments
            segments = segments if isinstance(segments, Tensor) else as_array(segments)
            checks.shaped(segments, "BERT: segments", (B, T), "as ids")
            x = x + self.segment(segments)
        elif segments is not None:
            raise ValueError("BERT: segments are given, but this network has no embedding of them")
        x = self.embedded(self.dropout(self.norm(x)))
        for block in self.block:
            x = block(x, mask)
        return x

    def _positions(self, ids: Tensor | Array) -> Array:
        """Return the rows of the position table, (T,) for all texts or (B, T)."""
        if self.padding is None:
            return np.arange(ids.shape[1])
        text = as_array(ids.array if isinstance(ids, Tensor) else ids) != self.padding
        positions: Array = self.padding + text.cumsum(axis=1) * text
        return positions

    def forward(
        self,
        ids: Tensor | Array,
        segments: Tensor | Array | None = None,
        mask: Tensor | Array | None = None,
    ) -> Tensor:
        first = self.encode(ids, segments, mask)[:, 0]  # (B, T, C) -> (B, C)
        pooled = self.pooled(self.pooling.after(self.pooler, first))
        return self.classifier(self.dropout(pooled))


class Block(Module):
    """norm(x + attention(x)), then norm(x + feed-forward(x))."""

    def __init__(
        self, channels: int, heads: int, hidden: int, *, activation: ActivationName, eps: float,
        rng: np.random.Generator, dropout: float, dtype: Any,
    ):
        self.attention = MultiHeadAttention(
            channels, heads, rng=rng, dropout=dropout, dtype=dtype
        )
        self.norm1 = LayerNorm(channels, eps=eps, dtype=dtype)
        self.mlp = FeedForward(
            channels, hidden, rng=rng, activation=activation, dropout=dropout, dtype=dtype
        )
        self.norm2 = LayerNorm(channels, eps=eps, dtype=dtype)
        self.out = Tap()

    def forward(self, x: Tensor, mask: Array | None = None) -> Tensor:
        x = self.norm1(x + self.attention(x, mask))
        x = self.norm2(x + self.mlp(x))
        return self.out(x)
