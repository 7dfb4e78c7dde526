"""The largest of each window on the CPU, and the way back to where it was."""

import math

import numpy as np

from minimono.backend import Array
from minimono.kernels import Kept, Needed
from minimono.kernels.both.convolution import Pair
from minimono.kernels.cpu.compiling import compiled
from minimono.kernels.parallel import in_parts

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
    B, C, Y, X = x.shape
    sides = zip((Y, X), size, stride, padding, strict=True)
    rows, columns = [(n + 2 * p - k) // s + 1 for n, k, s, p in sides]
    images = np.ascontiguousarray(x).reshape(B * C, Y, X)
    out, places = (np.empty((B * C, rows, columns), d) for d in (x.dtype, np.int32))

    def run(part: slice) -> None:
        largest_kernel(images[part], size, stride, padding, out[part], places[part])

    in_parts(run, B * C, x.size)
    return out.reshape(B, C, rows, columns), places


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
