"""Llama: a decoder as most are built today. Llama 2 and 3, Mistral, Qwen2 and SmolLM are of it.

Beside `gpt.py`, which is the better file to read first:

    GPT                                     Llama
    a learned vector for each position      queries and keys turn with the position (rotary)
    layer norm                              its root mean square alone (RMSNorm)
    neurons: an activation of up(x)         silu(gate(x)) up(x) (SwiGLU)
    a head of keys for each of queries      one for several (grouped queries)
    biases                                  none (Qwen2: in queries, keys and values)

Touvron et al. 2023, arXiv 2307.09288; Jiang et al. 2023, arXiv 2310.06825 (the window).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minimono import checks
from minimono.backend import Array
from minimono.checks import Rng
from minimono.engine.tensor import Tensor
from minimono.nn.decoder import Decoder, GatedFeedForward, RotaryAttention, initialise
from minimono.nn.layers import ActivationName, Embedding, Linear, RMSNorm
from minimono.nn.module import Module, Tap
from minimono.nn.rotary import Rotary, frequencies


class Llama(Decoder):
    """Token ids (B, T) to logits of the next token (B, T, vocabulary).

    `key_heads` of keys and values serve the `heads` of queries, by default as many; each head has
    `head_channels`, by default C / H. `window` is how many positions a position looks at, itself
    included: one number, or one for each block, None for no bound. `tied` logits use the weights of
    the embedding. `rotary`, of `minimono.nn.rotary`, is by default that of base 10000 over whole
    heads. `qkv_bias`, `out_bias` and `mlp_bias` give those layers biases.

    `mask` (B, T) is True where there is text, False on padding, on either side of it; what the
    model says at padding means nothing. Taps: `embedded`, `block.0.mlp.act` (the neurons of the
    first block), `block.0.out` (the residual stream after it), ..., `normed`.

    >>> model = Llama(vocabulary=10, context=8, channels=8, heads=4, key_heads=2, layers=2,
    ...               hidden=12, rng=0)
    >>> model(np.array([[1, 2, 3]])).shape
    (1, 3, 10)
    """

    def __init__(
        self, *, vocabulary: int, context: int, channels: int, heads: int, layers: int, hidden: int,
        rng: Rng, key_heads: int | None = None, head_channels: int | None = None,
        rotary: Rotary | None = None, window: int | Sequence[int | None] | None = None,
        activation: ActivationName = "silu", eps: float = 1e-6, tied: bool = True,
        qkv_bias: bool = False, out_bias: bool = False, mlp_bias: bool = False,
        dtype: Any = np.float32,
    ):
        checks.sizes(
            "Llama", vocabulary=vocabulary, context=context, channels=channels, heads=heads,
            hidden=hidden,
        )
        checks.sizes("Llama", least=0, layers=layers)
        rng = checks.generator(rng, "Llama: rng")
        key_heads = heads if key_heads is None else key_heads
        checks.sizes("Llama", key_heads=key_heads)
        checks.multiple(heads, "Llama: heads", key_heads, "key_heads")
        if head_channels is None:
            checks.multiple(channels, "Llama: channels", heads, "the number of heads")
            head_channels = channels // heads
        checks.sizes("Llama", head_channels=head_channels)
        windows = [*window] if isinstance(window, Sequence) else [window] * layers
        if len(windows) != layers:
            raise ValueError(f"Llama: window has length {len(windows)}, expected {layers}, layers")
        self.context = context
        self.rotary = Rotary(frequencies(head_channels)) if rotary is None else rotary
        self.token = Embedding(vocabulary, channels, rng=rng, dtype=dtype)
        self.embedded = Tap()
        self.block: list[Module] = [
            Block(
                channels, heads, key_heads, head_channels, hidden, window=windows[i],
                activation=activation, eps=eps, qkv_bias=qkv_bias, out_bias=out_bias,
                mlp_bias=mlp_bias, rng=rng, dtype=dtype,
            )
            for i in range(layers)
        ]
        self.norm = RMSNorm(channels, eps=eps, dtype=dtype)
        self.normed = Tap()
        self.head = None if tied else Linear(channels, vocabulary, bias=False, rng=rng, dtype=dtype)
        initialise(self, rng)


class Block(Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x))."""

    def __init__(
        self, channels: int, heads: int, key_heads: int, head_channels: int, hidden: int, *,
        window: int | None, activation: ActivationName, eps: float, qkv_bias: bool, out_bias: bool,
        mlp_bias: bool, rng: np.random.Generator, dtype: Any,
    ):
        self.norm1 = RMSNorm(channels, eps=eps, dtype=dtype)
        self.attention = RotaryAttention(
            channels, heads, key_heads, head_channels, window=window, bias=qkv_bias,
            out_bias=out_bias, rng=rng, dtype=dtype,
        )
        self.norm2 = RMSNorm(channels, eps=eps, dtype=dtype)
        self.mlp = GatedFeedForward(
            channels, hidden, activation=activation, bias=mlp_bias, rng=rng, dtype=dtype
        )
        self.out = Tap()

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Array | None = None) -> Tensor:
        x = x + self.attention(self.norm1(x), cos, sin, mask)
        x = x + self.mlp(self.norm2(x))
        return self.out(x)
