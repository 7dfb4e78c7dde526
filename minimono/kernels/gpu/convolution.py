"""The loops of convolution in CUDA: cut windows out of an image, and add them up.

patches[c, i, j, b, y, x] = image[b, c, s y + i - edge, s x + j - edge], zero outside of the image.
Going back, each pixel adds up the windows that hold it, so no two threads write to one place.
How this becomes convolutions: `both/convolution.py`.
"""

from minimono.backend import Array, array_module
from minimono.kernels.both.convolution import Convolution, Pair
from minimono.kernels.gpu.launch import Kernel, for_each, one_block

GROUP = 1 << 26  # elements of windows at a time (our choice): 256 MiB of float32

windows_kernel = Kernel(r"""
extern "C" __global__ void windows(
    const real *images, real *patches, long long samples, long long channels, long long height,
    long long width, long long places_y, long long places_x, long long step_y, long long step_x,
    long long edge_y, long long edge_x, long long rows, long long columns) {
    EACH_ELEMENT(n, channels * places_y * places_x * samples * rows * columns) {
        long long x = n % columns, y = n / columns % rows, left = n / columns / rows;
        long long b = left % samples, place = left / samples;
        long long j = place % places_x, i = place / places_x % places_y;
        long long c = place / places_x / places_y;
        long long at_y = step_y * y + i - edge_y, at_x = step_x * x + j - edge_x;
        bool inside = at_y >= 0 && at_y < height && at_x >= 0 && at_x < width;
        patches[n] = inside ? images[((b * channels + c) * height + at_y) * width + at_x] : (real)0;
    }
}
""")

add_windows_kernel = Kernel(r"""
extern "C" __global__ void add_windows(
    const real *patches, real *images, long long samples, long long channels, long long height,
    long long width, long long places_y, long long places_x, long long step_y, long long step_x,
    long long edge_y, long long edge_x, long long rows, long long columns) {
    EACH_ELEMENT(n, samples * channels * height * width) {
        long long at_x = n % width + edge_x, at_y = n / width % height + edge_y;
        long long c = n / width / height % channels, b = n / width / height / channels;
        double sum = 0.0;
        for (long long i = at_y % step_y; i < places_y && i <= at_y; i += step_y)
            for (long long j = at_x % step_x; j < places_x && j <= at_x; j += step_x) {
                long long y = (at_y - i) / step_y, x = (at_x - j) / step_x;
                long long place = (c * places_y + i) * places_x + j;
                if (y < rows && x < columns)
                    sum += patches[((place * samples + b) * rows + y) * columns + x];
            }
        images[n] = sum;
    }
}
""")


def windows(x: Array, size: Pair, stride: Pair, padding: Pair, grid: Pair) -> Array:
    G, C = x.shape[:2]
    patches = array_module(x).empty((C, *size, G, *grid), x.dtype)
    windows_kernel(
        x.dtype, *for_each(patches.size), one_block(x), patches, *x.shape, *size, *stride,
        *padding, *grid,
    )
    # (C, *size, G, y, x) -> (C K, G y x)
    return patches.reshape(C * size[0] * size[1], G * grid[0] * grid[1])


def add_windows(
    patches: Array, shape: tuple[int, ...], size: Pair, stride: Pair, padding: Pair, grid: Pair
) -> Array:
    images = array_module(patches).empty(shape, patches.dtype)
    add_windows_kernel(
        patches.dtype, *for_each(images.size), one_block(patches), images, *shape, *size, *stride,
        *padding, *grid,
    )
    return images


_loops = Convolution(windows, add_windows, GROUP)
convolved_forward, convolved_backward = _loops.convolved_forward, _loops.convolved_backward
laid_down_forward, laid_down_backward = _loops.laid_down_forward, _loops.laid_down_backward
