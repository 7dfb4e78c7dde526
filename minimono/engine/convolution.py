"""Convolution and pooling: cut an image into windows, then multiply, average or take the largest.

    conv2d             windows, then one matrix product with the kernels
    conv_transpose2d   one matrix product, then windows added up: conv2d's adjoint
    avg_pool2d         windows, then their mean
    max_pool2d         windows, then their largest element

Shapes: `B` batch, `C` channels in, `O` channels out, `Y` rows, `X` columns. "Convolution" is
cross-correlation, as in all libraries of networks: the kernel is not turned round.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from minimono.backend import Array, array_module, to_device
from minimono.engine.dtypes import arithmetic, exact, real
from minimono.engine.fused import with_kernel
from minimono.engine.primitive import primitive
from minimono.engine.primitives import matmul, pad, where
from minimono.engine.tensor import Tensor
from minimono.kernels.both.convolution import Pair as Pair

# ---- windows -----------------------------------------------------------------------------------


@primitive
def windows(x: Array, size: Pair, stride: Pair) -> Array:
    """All windows of `x`: (B, C, Y, X) -> (B, C, K, y, x), K = size[0] size[1] places, row by row.

    There are y = (Y - size[0]) // stride[0] + 1 windows in a column of windows, and so for x.
    """
    return array_module(x).stack([x[place] for place in _places(x.shape, size, stride)], axis=2)


@arithmetic(numbers=1)
@primitive
def add_windows(values: Array, size: Pair, stride: Pair, shape: tuple[int, ...]) -> Array:
    """Windows (B, C, K, y, x) laid back on zeros of `shape`; where they overlap they add up."""
    total = array_module(values).zeros(shape, dtype=values.dtype)
    for k, place in enumerate(_places(shape, size, stride)):
        total[place] += values[:, :, k]
    return total


# Each is the other's adjoint, so each is the other's rule.
windows.vjp(lambda g, out, x, size, stride: add_windows(g, size, stride, x.shape))
add_windows.vjp(lambda g, out, values, size, stride, shape: windows(g, size, stride))


def _places(shape: tuple[int, ...], size: Pair, stride: Pair) -> list[tuple[Any, slice, slice]]:
    """For each place in a window, the index that picks it out of all windows at once."""
    along_y, along_x = (
        [slice(i, i + n - k + 1, step) for i in range(k)]
        for n, k, step in zip(shape[-2:], size, stride, strict=True)
    )
    return [(..., rows, columns) for rows in along_y for columns in along_x]


# ---- convolution -------------------------------------------------------------------------------


@real()
def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
) -> Tensor:
    """out[b, o, y, x] = bias[o] + sum over c, i, j of weight[o, c, i, j] x[b, c, s y + i, s x + j].

    `x` (B, C, Y, X), with `padding` zeros put on each side first; `weight` (O, C, *size); `bias`
    (O,). Returns (B, O, y, x) with y = (Y + 2 padding - size) // stride + 1. As in PyTorch.

    >>> import minimono as mm
    >>> conv2d(mm.tensor([[[[1.0, 2.0, 4.0]]]]), mm.tensor([[[[-1.0, 1.0]]]]))
    tensor([[[[1., 2.]]]])
    """
    _check_weight("conv2d", x, weight, bias, inputs=1, outputs=0)
    stride, padding = pair("conv2d: stride", stride, 1), pair("conv2d: padding", padding, 0)
    _check_fits("conv2d", _with_padding(x, padding), weight.shape[2:])
    return _convolved(x, weight, bias, stride, padding)


@real()
@with_kernel("convolution")
def _convolved(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair
) -> Tensor:
    O, size = weight.shape[0], weight.shape[2:]  # noqa: E741
    x = _padded(x, padding)
    patches = windows(x, size, stride)  # (B, C, Y, X) -> (B, C, K, y, x)
    B, C, K, rows, columns = patches.shape
    kernels = weight.reshape(O, C * K)  # (O, C, *size) -> (O, C K)
    patches = patches.reshape(B, C * K, rows * columns)  # (B, C, K, y, x) -> (B, C K, y x)
    out = matmul(kernels, patches)  # (O, C K) @ (B, C K, y x) -> (B, O, y x)
    out = out.reshape(B, O, rows, columns)  # (B, O, y x) -> (B, O, y, x)
    return out if bias is None else out + bias.reshape(O, 1, 1)


@real()
def conv_transpose2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
) -> Tensor:
    """The adjoint of `conv2d`: each element of `x` lays down a kernel, overlaps add up.

        out[b, o, s y + i - p, s x + j - p] = bias[o] + sum over c of x[b, c, y, x] weight[c, o, i, j]

    `x` (B, C, y, x), `weight` (C, O, *size), `bias` (O,). Returns (B, O, Y, X) with
    Y = (y - 1) stride + size - 2 padding: `padding` p is cut off each side. As in PyTorch.

    >>> import minimono as mm
    >>> conv_transpose2d(mm.tensor([[[[1.0, 5.0]]]]), mm.tensor([[[[1.0, 2.0]]]]), stride=(1, 2))
    tensor([[[[ 1.,  2.,  5., 10.]]]])
    """  # noqa: E501  (a formula)
    _check_weight("conv_transpose2d", x, weight, bias, inputs=0, outputs=1)
    stride = pair("conv_transpose2d: stride", stride, 1)
    padding = pair("conv_transpose2d: padding", padding, 0)
    full = _full_size(x, weight, stride)
    if any(n <= 2 * p for n, p in zip(full, padding, strict=True)):
        raise ValueError(f"conv_transpose2d: padding {padding} leaves nothing of {full}")
    return _laid_down(x, weight, bias, stride, padding)


@real()
@with_kernel("convolution")
def _laid_down(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair
) -> Tensor:
    B, C, rows, columns = x.shape
    O, size = weight.shape[1], weight.shape[2:]  # noqa: E741
    full, K = _full_size(x, weight, stride), math.prod(size)
    kernels = weight.reshape(C, O * K).T  # (C, O, *size) -> (O K, C)
    patches = matmul(kernels, x.reshape(B, C, rows * columns))  # -> (B, O K, y x)
    patches = patches.reshape(B, O, K, rows, columns)  # (B, O K, y x) -> (B, O, K, y, x)
    out = add_windows(patches, size, stride, (B, O, *full))  # -> (B, O, Y + 2 p, X + 2 p)
    if padding != (0, 0):
        inside = (slice(p, n - p) for n, p in zip(full, padding, strict=True))
        out = out[(..., *inside)]
    return out if bias is None else out + bias.reshape(O, 1, 1)


# ---- pooling -----------------------------------------------------------------------------------


@exact()
def max_pool2d(
    x: Tensor, kernel_size: int | Pair, *, stride: int | Pair | None = None,
    padding: int | Pair = 0,
) -> Tensor:
    """The largest element of each window: (B, C, Y, X) -> (B, C, y, x). Stride: the window's size.

    At a tie the first in the window, row by row, gets all of the gradient, as in PyTorch
    (`Tensor.max` shares it). Padding counts as -inf, and is at most half the window.

    >>> import minimono as mm
    >>> max_pool2d(mm.tensor([[[[1.0, 3.0, 2.0, 2.0]]]]), (1, 2))
    tensor([[[[3., 2.]]]])
    """
    return _largest_in_windows(x, *_pooling("max_pool2d", x, kernel_size, stride, padding))


@with_kernel("pooling")
def _largest_in_windows(x: Tensor, size: Pair, stride: Pair, padding: Pair) -> Tensor:
    patches = windows(_padded(x, padding) + _outside(x, padding), size, stride)  # (B, C, K, y, x)
    xp = array_module(patches.array)
    places = xp.arange(patches.shape[2]).reshape(-1, 1, 1)  # (K,) -> (K, 1, 1)
    first_largest = places == xp.expand_dims(patches.array.argmax(axis=2), 2)  # (B, C, K, y, x)
    largest = where(Tensor(first_largest), patches, 0).sum(axis=2)
    return largest if x.dtype.kind in "fc" else largest.astype(x.dtype)  # sums of bytes are longer


@real()
def avg_pool2d(
    x: Tensor, kernel_size: int | Pair, *, stride: int | Pair | None = None,
    padding: int | Pair = 0,
) -> Tensor:
    """The mean of each window: (B, C, Y, X) -> (B, C, y, x). Stride: the window's size.

    Padding counts as zeros that are part of the mean, as in PyTorch, and is at most half the
    window.

    >>> import minimono as mm
    >>> avg_pool2d(mm.tensor([[[[1.0, 3.0, 2.0, 2.0]]]]), (1, 2))
    tensor([[[[2., 2.]]]])
    """
    return _means_of_windows(x, *_pooling("avg_pool2d", x, kernel_size, stride, padding))


@with_kernel("pooling", on=("cpu",))
def _means_of_windows(x: Tensor, size: Pair, stride: Pair, padding: Pair) -> Tensor:
    patches = windows(_padded(x, padding), size, stride)  # (B, C, K, y, x)
    return patches.mean(axis=2)  # (B, C, K, y, x) -> (B, C, y, x)


# ---- padding, and what is checked --------------------------------------------------------------


def _padded(x: Tensor, padding: Pair) -> Tensor:
    if padding == (0, 0):
        return x
    (rows, columns) = padding
    return pad(x, ((0, 0), (0, 0), (rows, rows), (columns, columns)))


def _with_padding(x: Tensor, padding: Pair) -> Pair:
    """The size of the image with its padding."""
    return x.shape[2] + 2 * padding[0], x.shape[3] + 2 * padding[1]


def _full_size(x: Tensor, weight: Tensor, stride: Pair) -> Pair:
    """The size of the image that the windows `x` cover, padding included."""
    (rows, columns), (height, width) = x.shape[2:], weight.shape[2:]
    return (rows - 1) * stride[0] + height, (columns - 1) * stride[1] + width


def _outside(x: Tensor, padding: Pair) -> Tensor | bool:
    """The least number of its dtype on the padding, 0 inside: added to zeros of padding."""
    if padding == (0, 0):
        return False  # which, added to x, changes no dtype
    (rows, columns) = padding
    least = {"i": np.iinfo(x.dtype).min if x.dtype.kind == "i" else 0, "u": 0, "b": 0}
    edge = np.pad(
        np.zeros(x.shape[2:], x.dtype), ((rows, rows), (columns, columns)),
        constant_values=least.get(x.dtype.kind, -math.inf),
    )
    return Tensor(to_device(edge, x.device))


def _pooling(
    name: str, x: Tensor, kernel_size: Any, stride: Any, padding: Any
) -> tuple[Pair, Pair, Pair]:
    _check_images(name, x)
    size = pair(f"{name}: kernel_size", kernel_size, 1)
    step = size if stride is None else pair(f"{name}: stride", stride, 1)
    around = pair(f"{name}: padding", padding, 0)
    if any(2 * p > k for p, k in zip(around, size, strict=True)):
        raise ValueError(f"{name}: padding is {around}, expected at most half of the window {size}")
    _check_fits(name, _with_padding(x, around), size)
    return size, step, around


def pair(name: str, value: Any, least: int) -> Pair:
    """A whole number, or one for Y and one for X, as a pair."""
    if type(value) is int and value >= least:
        return value, value
    pair = tuple(value) if isinstance(value, Sequence) else (value, value)
    whole = all(isinstance(n, int | np.integer) and not isinstance(n, bool) for n in pair)
    if len(pair) != 2 or not whole or min(pair) < least:
        raise ValueError(f"{name} is {value!r}, expected a whole number >= {least}, or two")
    return int(pair[0]), int(pair[1])


def _check_images(name: str, x: Tensor) -> None:
    if x.ndim != 4:
        raise ValueError(f"{name}: x has shape {x.shape}, expected (B, C, Y, X)")


def _check_weight(
    name: str, x: Tensor, weight: Tensor, bias: Tensor | None, *, inputs: int, outputs: int
) -> None:
    """`inputs` and `outputs` are the axes of `weight` that hold the channels in and out."""
    _check_images(name, x)
    if weight.ndim != 4:
        order = "(O, C, *size)" if inputs else "(C, O, *size)"
        raise ValueError(f"{name}: weight has shape {weight.shape}, expected {order}")
    if weight.shape[inputs] != x.shape[1]:
        raise ValueError(
            f"{name}: weight has shape {weight.shape}, for {weight.shape[inputs]} channels "
            f"(axis {inputs}); x has shape {x.shape}, {x.shape[1]} channels (axis 1)"
        )
    if bias is not None and bias.shape != (weight.shape[outputs],):
        raise ValueError(
            f"{name}: bias has shape {bias.shape}, expected ({weight.shape[outputs]},), "
            "a number for each channel out"
        )


def _check_fits(name: str, image: Pair, size: Sequence[int]) -> None:
    if any(k > n for n, k in zip(image, size, strict=True)):
        raise ValueError(
            f"{name}: the window {tuple(size)} is larger than the image {image} with its padding"
        )
