"""A convolutional network without batch normalisation, for small images."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from minimono import checks
from minimono.checks import Rng
from minimono.engine import functional as F
from minimono.engine.tensor import Tensor, as_tensor
from minimono.nn.convolution import Conv2d, MaxPool2d, check_image
from minimono.nn.layers import Linear
from minimono.nn.module import Module, Tap


class ConvNet(Module):
    """Images (B, C, Y, X) to logits of their class (B, classes).

    Each stage convolves (3 x 3, the size kept), takes the ReLU, and keeps the largest of each
    2 x 2 pixels; a linear layer reads the last stage. `image` is (C, Y, X) and `channels` has a
    number for each stage. Without normalisation a neuron depends on its own sample only, so its
    scale means the same for every batch.

    Taps: `stage.0.act`, ... (after each ReLU), `stage.0.out`, ... (after each pooling).

    >>> rng = np.random.default_rng(0)
    >>> model = ConvNet(image=(1, 8, 8), channels=(16, 32), classes=10, rng=rng)
    >>> model(Tensor(np.zeros((5, 1, 8, 8), np.float32))).shape
    (5, 10)
    """

    def __init__(
        self, *, image: tuple[int, int, int], channels: Sequence[int], classes: int,
        rng: Rng, dtype: Any = np.float32,
    ):
        image = check_image(image, "ConvNet: image")
        channels = checks.whole_numbers(channels, "ConvNet: channels", least=1)
        checks.sizes("ConvNet", classes=classes)
        rng = checks.generator(rng, "ConvNet: rng")
        shrink = 2 ** len(channels)
        if image[1] % shrink or image[2] % shrink:
            raise ValueError(
                f"ConvNet: image is {image}, expected (C, Y, X) with Y and X multiples of "
                f"{shrink}, since each of {len(channels)} stages halves them"
            )
        self.image = image
        self.stage: list[Module] = [
            _Stage(n_in, n_out, rng, dtype) for n_in, n_out in pairwise((image[0], *channels))
        ]
        features = (image[0], *channels)[-1] * (image[1] // shrink) * (image[2] // shrink)
        self.out = Linear(features, classes, rng=rng, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        x = as_tensor(x)
        checks.layout(x, "ConvNet: x", f"(B, *{self.image})", x.shape[1:] == self.image)
        for stage in self.stage:
            x = stage(x)
        return self.out(x.reshape(len(x), self.out.weight.shape[1]))  # (B, C, Y, X) -> (B, C Y X)


class _Stage(Module):
    def __init__(self, n_in: int, n_out: int, rng: np.random.Generator, dtype: Any):
        self.conv = Conv2d(n_in, n_out, 3, padding=1, rng=rng, dtype=dtype)
        self.act = Tap()
        self.pool = MaxPool2d(2)
        self.out = Tap()

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.pool(self.act(F.relu(self.conv(x)))))
