"""The largest of each window in CUDA, and the way back to where it was.

x (N, Y, X), out, places (N, y, x). Going back, each pixel looks at the windows that hold it, so no
two threads write to one place.
"""

from minimono.backend import Array, array_module
from minimono.kernels import Kept, Needed
from minimono.kernels.both.convolution import Pair
from minimono.kernels.gpu.launch import Kernel, empty_like, for_each, one_block

largest_kernel = Kernel(r"""
extern "C" __global__ void largest_in_windows(
    const real *x, real *out, long long *places, long long images, long long height,
    long long width, long long places_y, long long places_x, long long step_y, long long step_x,
    long long edge_y, long long edge_x, long long rows, long long columns) {
    EACH_ELEMENT(n, images * rows * columns) {
        long long top = n / columns % rows * step_y - edge_y, left = n % columns * step_x - edge_x;
        long long image = n / columns / rows * height * width;
        real best = -INFINITE;
        long long place = top < 0 || left < 0 ? -1 : top * width + left;
        for (long long i = top < 0 ? 0 : top; i < top + places_y && i < height; i++)
            for (long long j = left < 0 ? 0 : left; j < left + places_x && j < width; j++) {
                real value = x[image + i * width + j];
                // nan is the largest, and the first nan the first largest
                if (value > best || (value != value && best == best))
                    best = value, place = i * width + j;
            }
        out[n] = best, places[n] = place;
    }
}
""")

largest_gradient_kernel = Kernel(r"""
extern "C" __global__ void largest_in_windows_gradient(
    const real *g, const long long *places, real *gx, long long images, long long height,
    long long width, long long places_y, long long places_x, long long step_y, long long step_x,
    long long edge_y, long long edge_x, long long rows, long long columns) {
    EACH_ELEMENT(n, images * height * width) {
        long long here = n % (height * width), image = n / (height * width);
        long long at_x = here % width + edge_x, at_y = here / width + edge_y;
        double sum = 0.0;
        for (long long i = at_y % step_y; i < places_y && i <= at_y; i += step_y)
            for (long long j = at_x % step_x; j < places_x && j <= at_x; j += step_x) {
                long long y = (at_y - i) / step_y, x = (at_x - j) / step_x;
                long long window = (image * rows + y) * columns + x;
                if (y < rows && x < columns && places[window] == here) sum += g[window];
            }
        gx[n] = sum;
    }
}
""")


def largest_in_windows_forward(
    x: Array, size: Pair, stride: Pair, padding: Pair
) -> tuple[Array, Kept]:
    B, C, Y, X = x.shape
    sides = zip((Y, X), size, stride, padding, strict=True)
    grid = [(n + 2 * p - k) // s + 1 for n, k, s, p in sides]
    xp = array_module(x)
    out, places = xp.empty((B, C, *grid), x.dtype), xp.empty((B, C, *grid), "int64")
    largest_kernel(
        x.dtype, *for_each(out.size), one_block(x), out, places, B * C, Y, X, *size, *stride,
        *padding, *grid,
    )
    return out, places


def largest_in_windows_backward(
    needed: Needed, g: Array, out: Array, places: Kept, x: Array, size: Pair, stride: Pair,
    padding: Pair,
) -> tuple[Array, ...]:
    B, C, Y, X = x.shape
    gx = empty_like(x)
    largest_gradient_kernel(
        x.dtype, *for_each(gx.size), one_block(g), places, gx, B * C, Y, X, *size, *stride,
        *padding, *g.shape[2:],
    )
    return (gx,)
