"""ConvGRU: an encoder that reads frames and a forecaster that continues them.

    encoder, for each frame                      forecaster, for each frame to come

    frame                                        state top -> cell -> enlarge
      -> shrink -> cell -> state 0                 -> cell (from state 0) -> enlarge
        -> shrink -> cell -> state top               -> 1 x 1 convolution -> frame

After the last frame the forecaster's cells take over the encoder's states, each its own level.
After the benchmark network of Shi et al. 2017 (arXiv 1706.03458, "Deep Learning for Precipitation
Nowcasting"), smaller: the sizes are our choice, and so is leaving out its last 3 x 3 convolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minimono import checks
from minimono.checks import Rng
from minimono.engine import functional as F
from minimono.engine.primitives import concatenate
from minimono.engine.tensor import Tensor, as_tensor
from minimono.nn.convolution import Conv2d, ConvGRUCell, ConvTranspose2d
from minimono.nn.module import Module, Tap


class ConvGRU(Module):
    """Frames (B, T, Y, X) to the next ones (B, frames_out, Y, X), T any number.

    `channels` and `strides` have a number for each stage, from the image up: a stage shrinks Y and
    X by its stride, with a window of stride + 2, and its cell has that many channels.

    Taps: `encoder.0.act` (after shrinking), `encoder.0.cell.candidate`, ...,
    `forecaster.0.cell.candidate`, `forecaster.0.act` (after enlarging), ... Each is passed once a
    frame, so `taps.read` has its activations in `seen.every`. What is inserted at a tap sees the
    frames as batches, one after another.

    >>> model = ConvGRU(channels=(4, 8), strides=(2, 2), rng=np.random.default_rng(0))
    >>> model(Tensor(np.zeros((3, 10, 16, 16), np.float32))).shape
    (3, 10, 16, 16)
    """

    def __init__(
        self, *, channels: Sequence[int], strides: Sequence[int], rng: Rng,
        frames_out: int = 10, kernel_size: int = 3, dtype: Any = np.float32,
    ):
        channels = checks.whole_numbers(channels, "ConvGRU: channels", least=1)
        strides = checks.whole_numbers(strides, "ConvGRU: strides", least=1)
        checks.sizes("ConvGRU", frames_out=frames_out)
        rng = checks.generator(rng, "ConvGRU: rng")
        if not channels or len(channels) != len(strides):
            raise ValueError(
                f"ConvGRU: channels {channels} and strides {strides}, expected a number of each "
                "for each stage"
            )
        self.frames_out, self.shrink = frames_out, int(np.prod(strides))
        same = {"kernel_size": kernel_size, "rng": rng, "dtype": dtype}
        below = (1, *channels[:-1])  # channels of what a stage reads in the encoder
        onto = (channels[0], *channels[:-1])  # and of what it hands down in the forecaster
        above = (*channels[1:], 0)  # whether a stage has one above it
        self.encoder = [
            _Encode(n_in, n, stride, **same)
            for n_in, n, stride in zip(below, channels, strides, strict=True)
        ]
        self.forecaster = [
            _Forecast(n if more else 0, n, n_out, stride, **same)
            for n, n_out, more, stride in zip(channels, onto, above, strides, strict=True)
        ]
        self.out = Conv2d(channels[0], 1, 1, rng=rng, dtype=dtype)

    def forward(self, frames: Tensor) -> Tensor:
        frames = as_tensor(frames)
        if frames.ndim != 4 or any(n % self.shrink for n in frames.shape[2:]):
            raise ValueError(
                f"ConvGRU: frames have shape {frames.shape}, expected (B, T, Y, X) with Y and X "
                f"multiples of {self.shrink}, the product of the strides"
            )
        if not frames.shape[1]:
            raise ValueError(f"ConvGRU: frames have shape {frames.shape}, without a frame")
        states: list[Tensor | None] = [None] * len(self.encoder)
        for t in range(frames.shape[1]):
            x = frames[:, t : t + 1]  # (B, T, Y, X) -> (B, 1, Y, X)
            for level, encode in enumerate(self.encoder):
                states[level] = x = encode(x, states[level])

        predicted = []
        for _ in range(self.frames_out):
            from_above: Tensor | None = None
            for level, forecast in reversed([*enumerate(self.forecaster)]):
                states[level] = forecast.cell(from_above, states[level])
                from_above = forecast(states[level])
            predicted.append(self.out(from_above))  # (B, C, Y, X) -> (B, 1, Y, X)
        return concatenate(*predicted, axis=1)  # -> (B, frames_out, Y, X)


class _Encode(Module):
    """Shrink the image, and remember it: (B, n_in, s Y, s X) -> the state (B, n, Y, X)."""

    def __init__(
        self, n_in: int, n: int, stride: int, *, kernel_size: int, rng: np.random.Generator,
        dtype: Any,
    ):
        self.down = Conv2d(n_in, n, stride + 2, stride=stride, padding=1, rng=rng, dtype=dtype)
        self.act = Tap()
        self.cell = ConvGRUCell(n, n, kernel_size, rng=rng, dtype=dtype)

    def forward(self, x: Tensor, state: Tensor | None) -> Tensor:
        return self.cell(self.act(F.leaky_relu(self.down(x), 0.2)), state)


class _Forecast(Module):
    """A cell, and the enlargement of its state: (B, n, Y, X) -> (B, n_out, s Y, s X)."""

    def __init__(
        self, n_in: int, n: int, n_out: int, stride: int, *, kernel_size: int,
        rng: np.random.Generator, dtype: Any,
    ):
        self.cell = ConvGRUCell(n_in, n, kernel_size, rng=rng, dtype=dtype)
        self.up = ConvTranspose2d(
            n, n_out, stride + 2, stride=stride, padding=1, rng=rng, dtype=dtype
        )
        self.act = Tap()

    def forward(self, state: Tensor) -> Tensor:
        return self.act(F.leaky_relu(self.up(state), 0.2))
