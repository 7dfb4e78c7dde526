"""Convolution on either device: windows by a loop of that device, matrix products by its BLAS.

With P the windows of x (`windows`), W the kernels, and `add_windows` the adjoint of `windows`:

    convolved    out = W P + bias                  gx = add_windows(W^T g)    gW = g P^T
    laid down    out = add_windows(W^T x) + bias   gx = W P                   gW = x P^T

Laying windows down is the adjoint of convolving, so there P are the windows of g. Windows take as
much memory as the image times the places in a window. So they are made for a few samples at a time,
which fit into the cache, and made again on the way back.

Shapes: `B` batch, `C` channels of the image, `O` of what the windows become, `K` places in a
window, `Y X` pixels of the image, `y x` windows of it. The samples that go together are `G`.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from minimono.backend import Array, array_module
from minimono.kernels import Kept, Needed
from minimono.sums import Sum, product, total

Pair = tuple[int, int]  # along Y, along X


@dataclass(frozen=True)
class Convolution:
    """The functions that `engine/fused.py` asks for are made from a device's two loops.

    `windows(x, size, stride, padding, grid)`: (G, C, Y, X) -> (C K, G y x), zeros outside x;
    `add_windows(patches, shape, size, stride, padding, grid)`: (C K, G y x) -> `shape`, overlaps
    add up, what falls outside is dropped. `group`: about how many elements `patches` may have.
    `width(x, X, stride)`: how many windows to cut of a line where x are needed; more may be faster.
    """

    windows: Callable[[Array, Pair, Pair, Pair, Pair], Array]
    add_windows: Callable[[Array, tuple[int, ...], Pair, Pair, Pair, Pair], Array]
    group: int
    width: Callable[[int, int, int], int] = lambda columns, X, stride: columns

    def convolved_forward(
        self, x: Array, weight: Array, bias: Array | None, stride: Pair, padding: Pair
    ) -> tuple[Array, Kept]:
        """(B, C, Y, X), `weight` (O, C, *size) -> (B, O, y, x)."""
        size, kernels = weight.shape[2:], _as_matrix(weight)
        sides = zip(x.shape[2:], size, stride, padding, strict=True)
        rows, columns = [(n + 2 * p - k) // s + 1 for n, k, s, p in sides]
        out = array_module(x).empty((len(x), len(weight), rows, columns), x.dtype)
        grid = rows, self.width(columns, x.shape[3], stride[1])
        for part in self._groups(len(x), weight, grid):
            patches = self.windows(x[part], size, stride, padding, grid)
            values = kernels @ patches  # (O, C K) @ (C K, G y x)
            out[part] = _samples_first(values, grid)[..., :columns]
        if bias is not None:
            out += bias.reshape(-1, 1, 1)
        return out, None

    def convolved_backward(
        self, needed: Needed, g: Array, out: Array, kept: Kept, x: Array, weight: Array,
        bias: Array | None, stride: Pair, padding: Pair,
    ) -> tuple[Array | None, ...]:
        size, kernels, grid = weight.shape[2:], _as_matrix(weight), g.shape[2:]
        xp = array_module(x)
        gx = xp.empty(x.shape, x.dtype) if needed[0] else None
        gkernels = Sum()
        for part in self._groups(len(x), weight, grid):
            values = _channels_first(g[part])
            if needed[1]:
                patches = self.windows(x[part], size, stride, padding, grid)
                gkernels.add(product(values, patches.T))  # (O, G y x) @ (G y x, C K)
            if gx is not None:
                gpatches = kernels.T @ values  # (C K, O) @ (O, G y x)
                shape = gx[part].shape
                gx[part] = self.add_windows(gpatches, shape, size, stride, padding, grid)
        return gx, *_of_parameters(needed, gkernels, weight, bias, g)

    def laid_down_forward(
        self, x: Array, weight: Array, bias: Array | None, stride: Pair, padding: Pair
    ) -> tuple[Array, Kept]:
        """(B, O, y, x), `weight` (O, C, *size) -> (B, C, Y, X)."""
        size, kernels, grid = weight.shape[2:], _as_matrix(weight), x.shape[2:]
        sides = zip(grid, size, stride, padding, strict=True)
        image = [(n - 1) * s + k - 2 * p for n, k, s, p in sides]
        out = array_module(x).empty((len(x), weight.shape[1], *image), x.dtype)
        for part in self._groups(len(x), weight, grid):
            patches = kernels.T @ _channels_first(x[part])  # (C K, O) @ (O, G y x)
            shape = out[part].shape
            out[part] = self.add_windows(patches, shape, size, stride, padding, grid)
        if bias is not None:
            out += bias.reshape(-1, 1, 1)
        return out, None

    def laid_down_backward(
        self, needed: Needed, g: Array, out: Array, kept: Kept, x: Array, weight: Array,
        bias: Array | None, stride: Pair, padding: Pair,
    ) -> tuple[Array | None, ...]:
        size, kernels, grid = weight.shape[2:], _as_matrix(weight), x.shape[2:]
        xp = array_module(x)
        gx = xp.empty(x.shape, x.dtype) if needed[0] else None
        gkernels = Sum()
        for part in self._groups(len(x), weight, grid):
            patches = self.windows(g[part], size, stride, padding, grid)
            if gx is not None:
                gx[part] = _samples_first(kernels @ patches, grid)  # (O, C K) @ (C K, G y x)
            if needed[1]:
                values = _channels_first(x[part])
                gkernels.add(product(values, patches.T))  # (O, G y x) @ (G y x, C K)
        return gx, *_of_parameters(needed, gkernels, weight, bias, g)

    def _groups(self, batch: int, weight: Array, grid: Pair) -> Iterator[slice]:
        """Yield the samples that go together."""
        of_one = math.prod(weight.shape[1:]) * math.prod(grid)  # elements of its windows
        step = max(1, self.group // max(1, of_one))
        for start in range(0, batch, step):
            yield slice(start, start + step)


def _as_matrix(weight: Array) -> Array:
    """(O, C, *size) -> (O, C K)."""
    return weight.reshape(len(weight), math.prod(weight.shape[1:]))


def _channels_first(values: Array) -> Array:
    """(G, O, y, x) -> (O, G y x)."""
    G, O, rows, columns = values.shape  # noqa: E741
    return values.swapaxes(0, 1).reshape(O, G * rows * columns)


def _samples_first(values: Array, grid: Pair) -> Array:
    """(O, G y x) -> (G, O, y, x)."""
    O, G = len(values), values.shape[1] // math.prod(grid)  # noqa: E741
    return values.reshape(O, G, *grid).swapaxes(0, 1)


def _of_parameters(
    needed: Needed, gkernels: Sum, weight: Array, bias: Array | None, g: Array
) -> tuple[Array | None, Array | None]:
    """Return the gradients by weight, (O, C K) -> (O, C, *size), and bias, sums of g."""
    zeros = array_module(weight).zeros_like(_as_matrix(weight))
    gweight = gkernels.total(zeros).reshape(weight.shape) if needed[1] else None
    return gweight, total(g, axis=(0, 2, 3)) if bias is not None and needed[2] else None
