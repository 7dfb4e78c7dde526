"""The connections of a convolution or a pooling layer, for counting paths without building a graph.

`emergence_of_masks` (in `emergence.py`) takes a `ConvMask` where it would take a matrix.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from minimono import checks
from minimono.backend import Array, to_host


@dataclass(frozen=True, eq=False)
class ConvMask:
    """The connections of a convolution, for `emergence_of_masks`.

    Its nodes are (channel, y, x), its edges those of the unrolled graph: each surviving kernel
    weight is an edge at every place it is used, and padding is no node (our choice, where the
    source is silent).

    kernel: 0/1, shape (out, in, y, x), as the weights of a convolution. Groups are a kernel with
    zeros.   stride, padding: as in the convolution, the same for y and x.

    >>> from minimono.mono import emergence_of_masks
    >>> conv = ConvMask(np.ones((1, 1, 2, 2)))                 # 2 x 2 kernel on a 2 x 3 picture
    >>> inactive, active = np.zeros((1, 2, 3), bool), np.ones((1, 1, 2), bool)
    >>> emergence_of_masks([conv], [inactive, active])         # 2 places of 4 edges
    8
    """

    kernel: Array
    stride: int = 1
    padding: int = 0

    def apply(self, counts: Array) -> Array:
        """Sum `counts` (in, H, W) along the edges into each output node (out, H', W')."""
        _, height, width = self.output_shape(counts.shape)
        p, s = self.padding, self.stride
        padded = np.pad(counts, ((0, 0), (p, p), (p, p)))
        kernel = self.kernel.astype(counts.dtype)
        out: Array = 0
        for y, x in np.ndindex(kernel.shape[2:]):
            seen = padded[:, y : y + s * height : s, x : x + s * width : s]  # (in, H', W')
            out = out + np.tensordot(kernel[:, :, y, x], seen, axes=1)  # -> (out, H', W')
        return out

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """Return (out, H', W') for a feature map of `shape` (in, H, W)."""
        out_channels, channels, *kernel_size = self.kernel.shape
        if len(shape) != 3 or shape[0] != channels:
            raise ValueError(
                f"ConvMask: nodes have shape {shape}, expected ({channels}, H, W), as the kernel "
                f"{self.kernel.shape} has {channels} input channels"
            )
        spare = [n + 2 * self.padding - k for n, k in zip(shape[1:], kernel_size, strict=True)]
        if min(spare) < 0:
            raise ValueError(
                f"ConvMask: the kernel {self.kernel.shape} does not fit into nodes of shape "
                f"{shape} with padding {self.padding}"
            )
        height, width = (n // self.stride + 1 for n in spare)
        return out_channels, height, width

    def __post_init__(self) -> None:
        kernel = zero_or_one(self.kernel, "ConvMask: kernel")
        good = kernel.ndim == 4 and kernel.size > 0
        checks.layout(kernel, "ConvMask: kernel", "(out, in, y, x), none of it 0", good)
        vars(self).update(
            kernel=kernel,
            stride=checks.whole_number(self.stride, "ConvMask: stride", least=1),
            padding=checks.whole_number(self.padding, "ConvMask: padding", least=0),
        )


def pool_mask(channels: int, size: int, *, stride: int | None = None, padding: int = 0) -> ConvMask:
    """Return the connections of a pooling layer, maximum or average: each channel by itself.

    All weights are 1. Its outputs are a layer of nodes of their own, which need their own `active`.
    The stride is the size if not given, as in PyTorch.

    >>> pool_mask(3, 2).output_shape((3, 8, 8))
    (3, 4, 4)
    """
    checks.sizes("pool_mask", channels=channels, size=size)
    kernel = np.broadcast_to(np.eye(channels)[:, :, None, None], (channels, channels, size, size))
    return ConvMask(kernel, size if stride is None else stride, padding)


def zero_or_one(mask: Array, name: str) -> Array:
    """Return a mask of numbers as booleans, in the computer's own memory."""
    mask = to_host(checks.real(mask, name))
    zeros_and_ones = "only 0 and 1; for weights write weights != 0"
    checks.everywhere(mask, (mask == 0) | (mask == 1), name, zeros_and_ones)
    return mask.astype(np.bool)
