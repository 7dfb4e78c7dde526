"""The largest of each window on the CPU, or the mean, and the way back."""

import math

import numpy as np

from minimono.backend import Array
from minimono.kernels import Kept, Needed
from minimono.kernels.both.convolution import Pair
from minimono.kernels.cpu.compiling import compiled, inlined
from minimono.kernels.parallel import in_parts

place = np.uintp  # `cpu/convolution.py` says why

OUTSIDE = -1  # the place of a largest element that is padding, as among elements of -inf


@compiled
def largest_kernel(
    x: Array, size: Pair, stride: Pair, padding: Pair, out: Array, places: Array
) -> None:
    """x (N, Y, X) -> out, places (N, y, x): the first of the largest, and where it is in Y X."""
    N, rows, columns = out.shape
    Y, X = x.shape[1:]
    for n in range(N):
        for r in range(rows):
            top = r * stride[0] - padding[0]
            first, last = max(top, 0), min(top + size[0], Y)
            for c in range(columns):
                left = c * stride[1] - padding[1]
                start, stop = max(left, 0), min(left + size[1], X)
                best = x.dtype.type(-math.inf)
                place = OUTSIDE if top < 0 or left < 0 else first * X + start
                for i in range(first, last):
                    for j in range(start, stop):
                        value = x[n, i, j]
                        # nan is the largest, and the first nan the first largest
                        if value > best or (math.isnan(value) and not math.isnan(best)):
                            best, place = value, i * X + j
                out[n, r, c], places[n, r, c] = best, place


@compiled
def largest_gradient_kernel(g: Array, places: Array, gx: Array) -> None:
    """g, places (N, W), gx (N, Y X) of zeros."""
    for n in range(g.shape[0]):
        for w in range(g.shape[1]):
            if places[n, w] != OUTSIDE:
                gx[n, places[n, w]] += g[n, w]


def largest_in_windows_forward(
    x: Array, size: Pair, stride: Pair, padding: Pair
) -> tuple[Array, Kept]:
    images, out = _images(x), _empty(x, size, stride, padding)
    places = np.empty(out.shape, np.int32)

    def run(part: slice) -> None:
        largest_kernel(images[part], size, stride, padding, out[part], places[part])

    in_parts(run, len(images), x.size)
    return out.reshape(x.shape[:2] + out.shape[1:]), places


def largest_in_windows_backward(
    needed: Needed, g: Array, out: Array, places: Kept, x: Array, size: Pair, stride: Pair,
    padding: Pair,
) -> tuple[Array, ...]:
    gx = np.zeros(x.shape, x.dtype)
    images, windows = len(places), (len(places), places[0].size)
    largest_gradient_kernel(
        np.ascontiguousarray(g).reshape(windows), places.reshape(windows), gx.reshape(images, -1)
    )
    return (gx,)


# ---- the mean ----------------------------------------------------------------------------------


@inlined
def _inside(j: int, stride: int, padding: int, X: int, columns: int) -> Pair:
    """Return the windows whose place j lies in 0..X: the first, and the last + 1."""
    first = max(0, -((j - padding) // stride))
    return first, max(first, min(columns, (X - 1 + padding - j) // stride + 1))


@compiled
def means_kernel(x: Array, size: Pair, stride: Pair, padding: Pair, out: Array) -> None:
    """x (N, Y, X) -> out (N, y, x): sums of sums along rows, in float64."""
    N, rows, columns = out.shape
    Y, X = x.shape[1:]
    whole, part, by = np.empty(columns), np.empty(columns), place(stride[1])
    for n in range(N):
        for r in range(rows):
            top = r * stride[0] - padding[0]
            whole[:] = 0.0
            for i in range(max(top, 0), min(top + size[0], Y)):
                line = x[n, i]
                part[:] = 0.0
                for j in range(size[1]):
                    first, last = _inside(j, stride[1], padding[1], X, columns)
                    at = place(first * stride[1] + j - padding[1])
                    for c in range(place(last - first)):
                        part[place(first) + c] += line[at + by * c]
                whole += part
            for c in range(columns):
                out[n, r, c] = whole[c] / (size[0] * size[1])


@compiled
def means_gradient_kernel(
    g: Array, size: Pair, stride: Pair, padding: Pair, gx: Array
) -> None:
    """g (N, y, x), gx (N, Y, X) of zeros."""
    N, rows, columns = g.shape
    Y, X = gx.shape[1:]
    share, by = np.empty(columns, g.dtype), place(stride[1])
    for n in range(N):
        for r in range(rows):
            top = r * stride[0] - padding[0]
            for c in range(columns):
                share[c] = g[n, r, c] / (size[0] * size[1])
            for i in range(max(top, 0), min(top + size[0], Y)):
                line = gx[n, i]
                for j in range(size[1]):
                    first, last = _inside(j, stride[1], padding[1], X, columns)
                    at = place(first * stride[1] + j - padding[1])
                    for c in range(place(last - first)):
                        line[at + by * c] += share[place(first) + c]


def means_of_windows_forward(
    x: Array, size: Pair, stride: Pair, padding: Pair
) -> tuple[Array, Kept]:
    images, out = _images(x), _empty(x, size, stride, padding)

    def run(part: slice) -> None:
        means_kernel(images[part], size, stride, padding, out[part])

    in_parts(run, len(images), x.size)
    return out.reshape(x.shape[:2] + out.shape[1:]), None


def means_of_windows_backward(
    needed: Needed, g: Array, out: Array, kept: Kept, x: Array, size: Pair, stride: Pair,
    padding: Pair,
) -> tuple[Array, ...]:
    gx = np.zeros(x.shape, x.dtype)
    g, images = _images(g), gx.reshape(-1, *x.shape[2:])

    def run(part: slice) -> None:
        means_gradient_kernel(g[part], size, stride, padding, images[part])

    in_parts(run, len(images), x.size)
    return (gx,)


# ---- shapes ------------------------------------------------------------------------------------


def _images(x: Array) -> Array:
    """(B, C, Y, X) -> (B C, Y, X), in one block of memory."""
    B, C, Y, X = x.shape
    return np.ascontiguousarray(x).reshape(B * C, Y, X)


def _empty(x: Array, size: Pair, stride: Pair, padding: Pair) -> Array:
    """(B, C, Y, X) -> (B C, y, x)."""
    B, C, *image = x.shape
    sides = zip(image, size, stride, padding, strict=True)
    return np.empty((B * C, *[(n + 2 * p - k) // s + 1 for n, k, s, p in sides]), x.dtype)
