"""The vision transformer as first published: every patch looks at all, one more vector answers.

    image -> patches, and a class vector before them -> blocks -> norm -> the class vector -> class

Pre-norm blocks, learned positions, exact GELU (Dosovitskiy et al. 2021, arXiv 2010.11929). `ViT` of
`vit.py` looks through windows and takes the mean over the patches instead.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minimono import checks
from minimono.checks import Rng
from minimono.engine.primitives import broadcast_to, concatenate
from minimono.engine.tensor import Tensor, as_tensor
from minimono.nn.convolution import Conv2d, check_image
from minimono.nn.layers import (
    ActivationName,
    FeedForward,
    LayerNorm,
    Linear,
    MultiHeadAttention,
    parameter,
)
from minimono.nn.module import Module, Tap


class PlainViT(Module):
    """Images (B, C, Y, X) to logits of their class (B, classes).

    `image` is (C, Y, X); `patch` pixels square make a position; the first position is the class
    vector's. Taps: `embedded`, `block.0.mlp.act` (the neurons), `block.0.out`, ..., `normed`, all
    of shape (B, 1 + patches, C).

    >>> model = PlainViT(image=(1, 8, 8), patch=4, channels=8, heads=2, layers=1, hidden=16,
    ...                  classes=3, rng=0)
    >>> model(np.zeros((5, 1, 8, 8), np.float32)).shape
    (5, 3)
    """

    def __init__(
        self, *, image: tuple[int, int, int], patch: int, channels: int, heads: int, layers: int,
        hidden: int, classes: int, rng: Rng, activation: ActivationName = "gelu",
        eps: float = 1e-12, dtype: Any = np.float32,
    ):
        image = check_image(image, "PlainViT: image")
        checks.sizes(
            "PlainViT", patch=patch, channels=channels, heads=heads, hidden=hidden, classes=classes
        )
        checks.sizes("PlainViT", least=0, layers=layers)
        rng = checks.generator(rng, "PlainViT: rng")
        for size in image[1:]:
            checks.multiple(size, "PlainViT: side of image", patch, "the side of a patch")
        self.image = image
        patches = (image[1] // patch) * (image[2] // patch)
        self.patches = Conv2d(image[0], channels, patch, stride=patch, rng=rng, dtype=dtype)
        self.first = parameter(0.02 * rng.standard_normal((1, channels)), dtype)
        self.position = parameter(0.02 * rng.standard_normal((1 + patches, channels)), dtype)
        self.embedded = Tap()
        self.block: list[Module] = [
            Block(
                channels, heads, hidden, activation=activation, eps=eps, rng=rng, dtype=dtype
            )
            for _ in range(layers)
        ]
        self.norm = LayerNorm(channels, eps=eps, dtype=dtype)
        self.normed = Tap()
        self.out = Linear(channels, classes, rng=rng, dtype=dtype)
        for _, module in self.named_modules():  # weights N(0, 0.02), biases 0
            if isinstance(module, Linear | Conv2d):
                weight, bias = module.weight, module.bias
                weight.data = (0.02 * rng.standard_normal(weight.shape)).astype(weight.dtype)
                if bias is not None:
                    bias.data = np.zeros_like(bias.array)

    def forward(self, x: Tensor) -> Tensor:
        x = as_tensor(x)
        checks.layout(x, "PlainViT: x", f"(B, *{self.image})", x.shape[1:] == self.image)
        x = self.patches(x)  # (B, C, Y, X) of pixels -> (B, C, Y, X) of the grid
        B, C, Y, X = x.shape
        x = x.reshape(B, C, Y * X).swapaxes(1, 2)  # (B, C, Y, X) -> (B, Y X, C)
        first = broadcast_to(self.first, (B, 1, C))
        x = self.embedded(concatenate(first, x, axis=1) + self.position)
        for block in self.block:
            x = block(x)
        x = self.normed(self.norm(x))
        return self.out(x[:, 0])


class Block(Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x))."""

    def __init__(
        self, channels: int, heads: int, hidden: int, *, activation: ActivationName, eps: float,
        rng: np.random.Generator, dtype: Any,
    ):
        self.norm1 = LayerNorm(channels, eps=eps, dtype=dtype)
        self.attention = MultiHeadAttention(channels, heads, rng=rng, dtype=dtype)
        self.norm2 = LayerNorm(channels, eps=eps, dtype=dtype)
        self.mlp = FeedForward(channels, hidden, activation=activation, rng=rng, dtype=dtype)
        self.out = Tap()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return self.out(x)
