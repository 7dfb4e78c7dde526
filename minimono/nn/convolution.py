"""Layers for images, (B, C, Y, X): convolution, pooling, and the recurrent cell that convolves.

Weights and biases start uniform in +-1/sqrt(fan_in), as in PyTorch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from minimono import checks
from minimono.backend import Array, array_module
from minimono.checks import Rng
from minimono.engine import functional as F
from minimono.engine.convolution import Pair, pair
from minimono.engine.dtypes import real
from minimono.engine.fused import with_kernel
from minimono.engine.primitives import stack
from minimono.engine.tensor import Tensor
from minimono.nn.layers import parameter
from minimono.nn.module import Module, Tap


class Conv2d(Module):
    """Convolution with learned kernels (see `functional.conv2d`): (B, in, Y, X) -> (B, out, y, x).

    >>> import numpy as np, minimono as mm
    >>> layer = Conv2d(3, 8, 5, stride=2, padding=2, rng=np.random.default_rng(0))
    >>> layer(mm.tensor(np.zeros((1, 3, 16, 16), np.float32))).shape
    (1, 8, 8, 8)
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int | Pair, *,
        rng: Rng, stride: int | Pair = 1, padding: int | Pair = 0,
        bias: bool = True, dtype: Any = np.float32,
    ):  # fmt: skip
        checks.sizes("Conv2d", in_channels=in_channels, out_channels=out_channels)
        rng = checks.generator(rng, "Conv2d: rng")
        shape = (out_channels, in_channels, *pair("Conv2d: kernel_size", kernel_size, 1))
        self.stride = pair("Conv2d: stride", stride, 1)
        self.padding = pair("Conv2d: padding", padding, 0)
        self.weight, self.bias = _kernels(shape, out_channels, bias, rng, dtype)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, stride=self.stride, padding=self.padding)


class ConvTranspose2d(Module):
    """Learned enlargement, the adjoint of a convolution (see `functional.conv_transpose2d`).

    Its fan-in is counted as PyTorch counts it: out_channels x kernel size.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int | Pair, *,
        rng: Rng, stride: int | Pair = 1, padding: int | Pair = 0,
        bias: bool = True, dtype: Any = np.float32,
    ):  # fmt: skip
        checks.sizes("ConvTranspose2d", in_channels=in_channels, out_channels=out_channels)
        rng = checks.generator(rng, "ConvTranspose2d: rng")
        shape = (in_channels, out_channels, *pair("ConvTranspose2d: kernel_size", kernel_size, 1))
        self.stride = pair("ConvTranspose2d: stride", stride, 1)
        self.padding = pair("ConvTranspose2d: padding", padding, 0)
        self.weight, self.bias = _kernels(shape, out_channels, bias, rng, dtype)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv_transpose2d(
            x, self.weight, self.bias, stride=self.stride, padding=self.padding
        )


class MaxPool2d(Module):
    """The largest element of each window (see `functional.max_pool2d`)."""

    def __init__(
        self, kernel_size: int | Pair, *, stride: int | Pair | None = None, padding: int | Pair = 0
    ):
        self.kernel_size = pair("MaxPool2d: kernel_size", kernel_size, 1)
        self.stride = self.kernel_size if stride is None else pair("MaxPool2d: stride", stride, 1)
        self.padding = pair("MaxPool2d: padding", padding, 0)

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, self.kernel_size, stride=self.stride, padding=self.padding)


class AvgPool2d(Module):
    """The mean of each window (see `functional.avg_pool2d`)."""

    def __init__(
        self, kernel_size: int | Pair, *, stride: int | Pair | None = None, padding: int | Pair = 0
    ):
        self.kernel_size = pair("AvgPool2d: kernel_size", kernel_size, 1)
        self.stride = self.kernel_size if stride is None else pair("AvgPool2d: stride", stride, 1)
        self.padding = pair("AvgPool2d: padding", padding, 0)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, self.kernel_size, stride=self.stride, padding=self.padding)


class ConvGRUCell(Module):
    """One step of a recurrent network whose state H is an image: (B, channels, Y, X).

        R  = sigmoid(W_r * X + U_r * H)                      reset gate
        Z  = sigmoid(W_z * X + U_z * H)                      update gate
        H~ = leaky_relu(W_h * X + R (U_h * H), 0.2)          candidate memory, read at `candidate`
        H' = (1 - Z) H~ + Z H                                the new state, returned

    `*` convolves, with biases, and keeps the size of the image. `from_input` holds W_r, W_z, W_h
    in this order, `from_state` the U. X is (B, in_channels, Y, X); without input (in_channels 0, X
    None) the terms in W are left out. A state of None is zeros.

    Published: Shi et al. 2017 (arXiv 1706.03458), eq. 1, there for TrajGRU; the order of the gates
    and the biases are the authors' code's.
    """

    def __init__(
        self, in_channels: int, channels: int, kernel_size: int = 3, *, rng: Rng,
        dtype: Any = np.float32,
    ):  # fmt: skip
        checks.sizes("ConvGRUCell", channels=channels, kernel_size=kernel_size)
        checks.sizes("ConvGRUCell", least=0, in_channels=in_channels)
        rng = checks.generator(rng, "ConvGRUCell: rng")
        if kernel_size % 2 == 0:
            raise ValueError(
                f"ConvGRUCell: kernel_size is {kernel_size}, expected an odd number, so that the "
                "state keeps its size"
            )
        same = {"padding": kernel_size // 2, "rng": rng, "dtype": dtype}
        self.in_channels, self.channels = in_channels, channels
        if in_channels:
            self.from_input = Conv2d(in_channels, 3 * channels, kernel_size, **same)
        self.from_state = Conv2d(channels, 3 * channels, kernel_size, **same)
        self.candidate = Tap()

    def forward(self, x: Tensor | None, state: Tensor | None = None) -> Tensor:
        state = self._checked(x, state)
        from_input = None if x is None else self.from_input(x)
        memory, update = _memory_and_update(from_input, self.from_state(state), 0.2)
        return _new_state(update, self.candidate(memory), state)

    def _checked(self, x: Tensor | None, state: Tensor | None) -> Tensor:
        if (x is None) != (self.in_channels == 0):
            got = "no input" if x is None else f"an input of shape {x.shape}"
            raise ValueError(f"ConvGRUCell: got {got}, was made for {self.in_channels} channels")
        if state is None:
            if x is None:
                raise ValueError("ConvGRUCell: neither input nor state, so the size is unknown")
            zeros = array_module(x.array).zeros((len(x), self.channels, *x.shape[2:]), x.dtype)
            state = Tensor(zeros)
        B, Y, X = (len(state), *state.shape[2:]) if x is None else (len(x), *x.shape[2:])
        if state.shape != (B, self.channels, Y, X):
            raise ValueError(
                f"ConvGRUCell: state has shape {state.shape}, expected {(B, self.channels, Y, X)}"
            )
        return state


# What of a cell is done element by element. Two functions, because the tap lies between them.


@real()
@with_kernel("gru")
def _memory_and_update(from_input: Tensor | None, from_state: Tensor, slope: float) -> Tensor:
    """H~ and Z, (2, B, C, Y, X), of the terms in W and U, each (B, 3 C, Y, X)."""
    r_x, z_x, h_x = _thirds(from_input) if from_input is not None else (0.0, 0.0, 0.0)
    r_h, z_h, h_h = _thirds(from_state)
    reset, update = F.sigmoid(r_x + r_h), F.sigmoid(z_x + z_h)
    return stack([F.leaky_relu(h_x + reset * h_h, slope), update])


@real()
@with_kernel("gru")
def _new_state(update: Tensor, memory: Tensor, state: Tensor) -> Tensor:
    return (1.0 - update) * memory + update * state


def _thirds(terms: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(B, 3 C, Y, X) -> three times (B, C, Y, X)."""
    C = terms.shape[1] // 3
    return terms[:, :C], terms[:, C : 2 * C], terms[:, 2 * C :]


def _kernels(
    shape: tuple[int, int, int, int], out_channels: int, bias: bool,
    rng: np.random.Generator, dtype: Any,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """A weight of this shape and a bias; the fan-in is what one slice weight[0] holds."""
    bound = math.prod(shape[1:]) ** -0.5
    weight = parameter(rng.uniform(-bound, bound, shape), dtype)
    values: Array = rng.uniform(-bound, bound, out_channels) if bias else None
    return weight, parameter(values, dtype) if bias else None


def check_image(image: Sequence[int], name: str) -> tuple[int, int, int]:
    """The sizes (C, Y, X) of an image."""
    sizes = checks.whole_numbers(image, name, least=1)
    if len(sizes) != 3:
        raise ValueError(f"{name} is {sizes}, expected (C, Y, X)")
    return sizes
