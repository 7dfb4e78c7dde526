"""A small vision transformer that looks through windows.

    image -> patches -> blocks -> norm -> mean over the patches -> class

The patches of an image are its positions, a grid. A block compares the positions of one window of
the grid; every second block shifts its windows by half their size, so that neighbours across a
border meet (Liu et al. 2021, Swin, arXiv 2103.14030). As there: pre-norm blocks and exact GELU.
Our choice: learned positions instead of Swin's relative position bias, and one stage, no merging
of patches.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minimono import checks
from minimono.backend import to_device
from minimono.checks import Rng
from minimono.engine.primitives import pad
from minimono.engine.tensor import Tensor, as_tensor
from minimono.nn.convolution import Conv2d, check_image
from minimono.nn.layers import FeedForward, LayerNorm, Linear, MultiHeadAttention, parameter
from minimono.nn.module import Module, Tap

Grid = tuple[int, int]


class ViT(Module):
    """Images (B, C, Y, X) to logits of their class (B, classes).

    `image` is (C, Y, X); `patch` pixels square make a position; `window` positions square look at
    each other (no shift if one window holds the whole grid: a plain ViT).

    Taps: `embedded`, `block.0.mlp.act` (the neurons), `block.0.out`, ..., `normed`; all of shape
    (B, Y X, C) of the grid.

    >>> model = ViT(image=(1, 8, 8), patch=1, window=4, channels=16, heads=2, layers=2, classes=10,
    ...             rng=np.random.default_rng(0))
    >>> model(Tensor(np.zeros((5, 1, 8, 8), np.float32))).shape
    (5, 10)
    """

    def __init__(
        self, *, image: tuple[int, int, int], patch: int, window: int, channels: int, heads: int,
        layers: int, classes: int, rng: Rng, dtype: Any = np.float32,
    ):
        image = check_image(image, "ViT: image")
        checks.sizes(
            "ViT", patch=patch, window=window, channels=channels, heads=heads, classes=classes
        )
        checks.sizes("ViT", least=0, layers=layers)
        rng = checks.generator(rng, "ViT: rng")
        if any(n % (patch * window) for n in image[1:]):
            raise ValueError(
                f"ViT: image {image} is not made of windows of {window} x {window} patches "
                f"of {patch} x {patch} pixels"
            )
        self.image = image
        grid = (image[1] // patch, image[2] // patch)
        self.patches = Conv2d(image[0], channels, patch, stride=patch, rng=rng, dtype=dtype)
        self.position = parameter(0.02 * rng.standard_normal((grid[0] * grid[1], channels)), dtype)
        self.embedded = Tap()
        whole = grid == (window, window)
        self.block: list[Module] = [
            _Block(
                channels, heads, grid, window, shift=0 if whole or i % 2 == 0 else window // 2,
                rng=rng, dtype=dtype,
            )
            for i in range(layers)
        ]
        self.norm = LayerNorm(channels, dtype=dtype)
        self.normed = Tap()
        self.out = Linear(channels, classes, rng=rng, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        x = as_tensor(x)
        checks.layout(x, "ViT: x", f"(B, *{self.image})", x.shape[1:] == self.image)
        x = self.patches(x)  # (B, C, Y, X) of pixels -> (B, C, Y, X) of the grid
        B, C, Y, X = x.shape
        x = x.reshape(B, C, Y * X).swapaxes(1, 2)  # (B, C, Y, X) -> (B, Y X, C)
        x = self.embedded(x + self.position)
        for block in self.block:
            x = block(x)
        x = self.normed(self.norm(x))
        return self.out(x.mean(axis=1))  # (B, Y X, C) -> (B, C) -> (B, classes)


class _Block(Module):
    """x + attention(norm(x)) within windows, then x + feed-forward(norm(x))."""

    def __init__(
        self, channels: int, heads: int, grid: Grid, window: int, *, shift: int,
        rng: np.random.Generator, dtype: Any,
    ):
        self.norm1 = LayerNorm(channels, dtype=dtype)
        self.attention = WindowAttention(
            channels, heads, grid, window, shift=shift, rng=rng, dtype=dtype
        )
        self.norm2 = LayerNorm(channels, dtype=dtype)
        self.mlp = FeedForward(channels, 4 * channels, rng=rng, activation="gelu", dtype=dtype)
        self.out = Tap()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return self.out(x)


class WindowAttention(Module):
    """Self-attention among the positions of a window: (B, Y X, C) of a grid -> the same.

    Shifted windows hang over the edge of the grid. It is padded there, and the padding hidden from
    attention, which gives what Swin's turning the grid round, with a mask, gives.
    """

    def __init__(
        self, channels: int, heads: int, grid: Grid, window: int, *, shift: int,
        rng: np.random.Generator, dtype: Any = np.float32,
    ):
        self.attention = MultiHeadAttention(channels, heads, rng=rng, dtype=dtype)
        self.grid, self.window = grid, window
        self.before, self.after = (window - shift, shift) if shift else (0, 0)
        around = (self.before, self.after)
        real = np.pad(np.ones((1, *grid, 1), bool), ((0, 0), around, around, (0, 0)))
        self.real = self._cut(real)[..., 0] if shift else None  # (windows, window^2)

    def forward(self, x: Tensor) -> Tensor:
        B, _, C = x.shape
        Y, X = self.grid
        around = (self.before, self.after)
        x = pad(x.reshape(B, Y, X, C), ((0, 0), around, around, (0, 0)))  # (B, Y X, C) -> 4 axes
        size = x.shape[1:3]
        mask = None
        if self.real is not None:
            mask = to_device(np.tile(self.real, (B, 1)), x.device)  # (B windows, window^2)
        x = self._join(self.attention(self._cut(x), mask), B, size)
        inside = x[:, self.before : self.before + Y, self.before : self.before + X]
        return inside.reshape(B, Y * X, C)  # (B, Y, X, C) -> (B, Y X, C)

    def _cut(self, x: Any) -> Any:
        """The windows of a grid: (B, Y, X, C) -> (B windows, window^2, C)."""
        B, Y, X, C = x.shape
        w = self.window
        x = x.reshape(B, Y // w, w, X // w, w, C).transpose(0, 1, 3, 2, 4, 5)
        return x.reshape(B * (Y // w) * (X // w), w * w, C)

    def _join(self, x: Tensor, B: int, size: tuple[int, ...]) -> Tensor:
        """The grid of windows: (B windows, window^2, C) -> (B, Y, X, C)."""
        (Y, X), w, C = size, self.window, x.shape[-1]
        x = x.reshape(B, Y // w, X // w, w, w, C).transpose(0, 1, 3, 2, 4, 5)
        return x.reshape(B, Y, X, C)
