"""The rows of an embedding in CUDA, and the scatter-add of their gradients without atomics.

target[row] += sum of values[i] over i with ids[i] = row, in the order of i. The ids are sorted,
`order` says where each stood. ids, order (N,), values (N, C), target (R, C); a block for each
row, which finds its ids by halving.
"""

from typing import Any

from minimono.backend import Array, array_module
from minimono.kernels import Kept, Needed
from minimono.kernels.gpu.launch import Kernel, for_rows, one_block, rows_of

scatter_add_kernel = Kernel(r"""
extern "C" __global__ void scatter_add(
    const long long *ids, const long long *order, const real *values, real *target,
    long long count, long long channels) {
    long long row = blockIdx.x, low = 0, high = count;
    while (low < high) {
        long long middle = (low + high) / 2;
        if (ids[middle] < row) low = middle + 1; else high = middle;
    }
    if (low == count || ids[low] != row) return;
    for (long long j = threadIdx.x; j < channels; j += blockDim.x) {
        // What each addition rounds off is added up apart: as exact as in pairs, also for double.
        double sum = target[row * channels + j], rest = 0.0;
        for (long long i = low; i < count && ids[i] == row; i++) {
            double value = values[order[i] * channels + j], next = sum + value;
            double added = next - sum;
            rest += (sum - (next - added)) + (value - added);
            sum = next;
        }
        target[row * channels + j] = isfinite(sum) ? sum + rest : sum;
    }
}
""")


def scatter_add_rows(target: Array, ids: Array, values: Array) -> None:
    """Add values (N, C) to target[ids], in place; ids (N,) may repeat, target is (R, C)."""
    order = ids.argsort(kind="stable")
    scatter_add_kernel(
        target.dtype, *for_rows(len(target), values.shape[1]), ids[order], order, values, target,
        len(ids), values.shape[1],
    )


def scatter_add(target: Array, index: Any, values: Array) -> None:
    """Add values to target[index], in place, for any index; places may repeat."""
    places = array_module(target).arange(target.size).reshape(target.shape)[index]
    values = array_module(values).broadcast_to(values, places.shape)
    flat = one_block(target).reshape(-1, 1)
    scatter_add_rows(flat, places.reshape(-1), one_block(values).reshape(-1, 1))
    if not target.flags.c_contiguous:  # `flat` is a copy
        target[...] = flat.reshape(target.shape)


def rows_by_number_forward(weight: Array, ids: Array) -> tuple[Array, Kept]:
    return weight[ids], None


def rows_by_number_backward(
    needed: Needed, g: Array, out: Array, kept: Kept, weight: Array, ids: Array
) -> tuple[Array, ...]:
    gweight = array_module(weight).zeros(weight.shape, weight.dtype)
    scatter_add_rows(gweight, ids.reshape(-1), rows_of(g))
    return (gweight,)
