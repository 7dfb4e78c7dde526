"""The loops of convolution on the CPU, in Numba: cut windows out of an image, and add them up.

Windows at a stride s are windows at stride 1 of s s thinned images, each of every s-th row and
column, from another one on (`_thinned`). There a place (i, j) in the windows sees the image moved:
out[y, x] = image[y + down, x + right], zeros outside. If out is as wide as the image, as for most
convolutions, that is one long piece of memory, but for columns that come round from the next line.

How this becomes convolutions: `both/convolution.py`.
"""

import numpy as np

from minimono.backend import Array
from minimono.kernels.both.convolution import Convolution, Pair
from minimono.kernels.cpu.compiling import compiled, inlined
from minimono.kernels.parallel import in_parts

GROUP = 1 << 17  # elements of windows at a time (our choice): 512 KiB of float32, a usual L2 cache

# ---- pieces of memory --------------------------------------------------------------------------
# Places are unsigned: a signed one may be negative and count from the end, as in Python, and a loop
# that has to ask does not become vector instructions.

place = np.uintp


@inlined
def _clear(target: Array, start: int, step: int, count: int) -> None:
    """target[start + step n] = 0."""
    at, by = place(start), place(step)
    for n in range(place(count)):
        target[at + by * n] = 0.0


@inlined
def _copy(
    source: Array, origin: int, by: int, target: Array, start: int, step: int, count: int
) -> None:
    """target[start + step n] = source[origin + by n] for n < count."""
    # Eight at a time, the last eight again: lines are short, and longer vectors would pass by them.
    n = 0
    while n + 8 < count:
        _copy_eight(source, origin + by * n, by, target, start + step * n, step)
        n += 8
    if count >= 8:
        n = count - 8
        _copy_eight(source, origin + by * n, by, target, start + step * n, step)
    else:
        for m in range(place(count)):
            target[place(start) + place(step) * m] = source[place(origin) + place(by) * m]


@inlined
def _copy_eight(
    source: Array, origin: int, by: int, target: Array, start: int, step: int
) -> None:
    for m in range(place(8)):
        target[place(start) + place(step) * m] = source[place(origin) + place(by) * m]


@inlined
def _common(size: int, by: int, count: int) -> Pair:
    """Return the n of 0..count with 0 <= n + by < size: the first, and the last + 1."""
    first = min(count, max(0, -by))
    return first, max(first, min(count, size - by))


@inlined
def _copy_moved(
    source: Array, origin: int, size: int, by: int, target: Array, start: int, count: int
) -> None:
    """target[start + n] = source[origin + n + by] for n < count, or 0 outside of 0..size."""
    first, last = _common(size, by, count)
    _clear(target, start, 1, first)
    if first < last:  # else `there` may be negative
        at, there = place(start + first), place(origin + first + by)
        for n in range(place(last - first)):
            target[at + n] = source[there + n]
    _clear(target, start + last, 1, count - last)


@inlined
def _add_moved(
    source: Array, start: int, count: int, by: int, target: Array, origin: int, size: int
) -> None:
    """target[origin + n + by] += source[start + n] for n < count, but not outside of 0..size."""
    first, last = _common(size, by, count)
    if first < last:
        at, there = place(start + first), place(origin + first + by)
        for n in range(place(last - first)):
            target[there + n] += source[at + n]


@inlined
def _add(source: Array, start: int, target: Array, origin: int, count: int) -> None:
    """target[origin + n] += source[start + n]."""
    there, at = place(origin), place(start)
    for n in range(place(count)):
        target[there + n] += source[at + n]


@inlined
def _clear_what_came_round(
    moved: Array, start: int, rows: int, columns: int, right: int
) -> None:
    for x in range(min(columns, -right)):
        _clear(moved, start + x, columns, rows)
    for x in range(max(0, columns - right), columns):
        _clear(moved, start + x, columns, rows)


# ---- all places in all windows -----------------------------------------------------------------


@compiled
def windows_kernel(
    images: Array, first: int, last: int, edge_y: int, edge_x: int, patches: Array
) -> None:
    """images (s, s, G, C, Y, X) -> patches (C, I, J, G, y, x); channels `first` to `last`."""
    _, I, J, G, rows, columns = patches.shape  # noqa: E741
    step_y, step_x, _, C, Y, X = images.shape
    source, target = images.reshape(-1), patches.reshape(-1)
    for c in range(first, last):
        for i in range(I):
            down, from_y = divmod(i - edge_y, step_y)
            for j in range(J):
                right, from_x = divmod(j - edge_x, step_x)
                for b in range(G):
                    origin = (((from_y * step_x + from_x) * G + b) * C + c) * Y * X
                    start = (((c * I + i) * J + j) * G + b) * rows * columns
                    if columns == X:
                        by = down * X + right
                        _copy_moved(source, origin, Y * X, by, target, start, rows * columns)
                        _clear_what_came_round(target, start, rows, columns, right)
                        continue
                    inside = 0 <= right and right + columns <= X
                    for y in range(rows):
                        size = X if 0 <= y + down < Y else 0
                        line, to = origin + (y + down) * X, start + y * columns
                        if inside and size:
                            _copy(source, line + right, 1, target, to, 1, columns)
                        else:
                            _copy_moved(source, line, size, right, target, to, columns)


@compiled
def add_windows_kernel(
    patches: Array, first: int, last: int, edge_y: int, edge_x: int, images: Array
) -> None:
    """images += patches, in the places of `_windows`; clears what of `patches` lies outside."""
    _, I, J, G, rows, columns = patches.shape  # noqa: E741
    step_y, step_x, _, C, Y, X = images.shape
    source, target = patches.reshape(-1), images.reshape(-1)
    for c in range(first, last):
        for i in range(I):
            down, from_y = divmod(i - edge_y, step_y)
            for j in range(J):
                right, from_x = divmod(j - edge_x, step_x)
                for b in range(G):
                    origin = (((from_y * step_x + from_x) * G + b) * C + c) * Y * X
                    start = (((c * I + i) * J + j) * G + b) * rows * columns
                    if columns == X:
                        by = down * X + right
                        _clear_what_came_round(source, start, rows, columns, right)
                        _add_moved(source, start, rows * columns, by, target, origin, Y * X)
                        continue
                    inside = 0 <= right and right + columns <= X
                    for y in range(max(0, -down), min(rows, Y - down)):
                        line, at = origin + (y + down) * X, start + y * columns
                        if inside:
                            _add(source, at, target, line + right, columns)
                        else:
                            _add_moved(source, at, columns, right, target, line, X)


def windows(x: Array, size: Pair, stride: Pair, padding: Pair, grid: Pair) -> Array:
    G, C = x.shape[:2]
    images = _thinned(x, stride)
    patches = np.empty((C, *size, G, *grid), x.dtype)

    def run(part: slice) -> None:
        windows_kernel(images, part.start, part.stop, *padding, patches)

    in_parts(run, C, patches.size)
    # (C, *size, G, y, x) -> (C K, G y x)
    return patches.reshape(C * size[0] * size[1], G * grid[0] * grid[1])


def add_windows(
    patches: Array, shape: tuple[int, ...], size: Pair, stride: Pair, padding: Pair, grid: Pair
) -> Array:
    G, C = shape[:2]
    patches = patches.reshape(C, *size, G, *grid)  # (C K, G y x) -> (C, *size, G, y, x)
    images = np.zeros(_shape_of_thinned(shape, stride), patches.dtype)

    def run(part: slice) -> None:
        add_windows_kernel(patches, part.start, part.stop, *padding, images)

    in_parts(run, C, patches.size)
    return _together(images, shape)


@compiled
def thin_kernel(x: Array, images: Array, back: bool) -> None:
    """x (G, C, Y, X) -> images (s, s, G, C, Y / s, X / s), rounded up, with zeros at the ends.

    Or back, from images to x.
    """
    (G, C, Y, X), (step_y, step_x), (thin_Y, thin_X) = x.shape, images.shape[:2], images.shape[4:]
    whole, thinned = x.reshape(-1), images.reshape(-1)
    if not back and (Y % step_y or X % step_x):
        thinned[:] = 0.0
    for i in range(step_y):
        for j in range(step_x):
            count = (X - j + step_x - 1) // step_x
            for b in range(G * C):
                thin = ((i * step_x + j) * G * C + b) * thin_Y * thin_X
                line = (b * Y + i) * X + j
                for _ in range((Y - i + step_y - 1) // step_y):
                    if back and step_x == 2:  # which the compiler makes shuffles of
                        _copy(thinned, thin, 1, whole, line, 2, count)
                    elif back:
                        _copy(thinned, thin, 1, whole, line, step_x, count)
                    elif step_x == 2:
                        _copy(whole, line, 2, thinned, thin, 1, count)
                    else:
                        _copy(whole, line, step_x, thinned, thin, 1, count)
                    thin += thin_X
                    line += step_y * X


def _thinned(x: Array, stride: Pair) -> Array:
    x = np.ascontiguousarray(x)
    if stride == (1, 1):
        return x[None, None]
    images = np.empty(_shape_of_thinned(x.shape, stride), x.dtype)
    x = x if x.flags.writeable else x.copy()  # which the way back writes to
    thin_kernel(x, images, False)
    return images


def _shape_of_thinned(shape: tuple[int, ...], stride: Pair) -> tuple[int, ...]:
    G, C, Y, X = shape
    return *stride, G, C, -(-Y // stride[0]), -(-X // stride[1])


def _together(images: Array, shape: tuple[int, ...]) -> Array:
    if images.shape[:2] == (1, 1):
        return images[0, 0]
    x = np.empty(shape, images.dtype)
    thin_kernel(x, images, True)
    return x


def width(columns: int, X: int, stride: int) -> int:
    """As many as a thinned line has, where that is an eighth more: one long piece of memory."""
    thin = -(-X // stride)
    return thin if columns < thin <= columns + columns // 8 else columns


_loops = Convolution(windows, add_windows, GROUP, width)
convolved_forward, convolved_backward = _loops.convolved_forward, _loops.convolved_backward
laid_down_forward, laid_down_backward = _loops.laid_down_forward, _loops.laid_down_backward
