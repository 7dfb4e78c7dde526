"""Every function with a twin in PyTorch, on PyTorch's own sample inputs (OpInfo).

OpInfo is the table by which PyTorch tests itself: for each of its functions, the inputs on which
somebody once found it wrong: empty, without axes, broadcast, transposed, of every dtype. Nobody
here chose them. Each goes through our twin, kernel and reading version, and what comes out is
compared with PyTorch in float64: value, gradient, and the gradient of the gradient.

    float64, float32   value, first and second gradients
    float16            value and first gradient, a few roundings of float16 wide
    integers, bool     the value that the same numbers have in float64

What we refuse with an error of ours is counted, and must be among the refusals named in `TWINS`.
"""

from __future__ import annotations

import inspect
import itertools
import math
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minimono as mm
from minimono.engine import functional as F
from minimono.engine import primitives as P
from minimono.engine.primitive import Primitive
from minimono.engine.tensor import Tensor
from minimono.mono.preference import log_sigmoid

pytestmark = pytest.mark.parity

MOST_SAMPLES = 50  # of one function and dtype; those of `slow` are all
MOST_ELEMENTS = 5_000  # an array this large shows nothing that a smaller one does not

FLOATS = ["float64", "float32", "float16"]
WHOLE = ["uint8", "int8", "int16", "int32", "int64", "bool"]


class Absent(Exception):
    """PyTorch's function has an option here that ours has not."""


@dataclass(frozen=True)
class Twin:
    ours: Callable[..., Any]  # takes what PyTorch's takes, with our tensors
    theirs: Callable[..., Any] | None = None  # the same in PyTorch; OpInfo's own if None
    kind: str = "sums"  # how exact: "exact", "elementwise" or "sums", see `allowed_error`
    refuses: str = ""  # what our error says on inputs that PyTorch takes
    gradient: bool = True
    order_at_zero: int = 2  # of the derivatives to compare where an argument is 0
    indices: tuple[int | str, ...] = ()  # arguments that are indices or conditions, not numbers
    dtype: str = ""  # of the result, if not that of the arguments


# ---- how arguments are passed --------------------------------------------------------------------


def only(**options: tuple[Any, Any]) -> None:
    """Each option has the one value that ours has built in, or is absent."""
    for name, (value, built_in) in options.items():
        if isinstance(value, Tensor) or value != built_in or value is True is not built_in:
            raise Absent(f"option {name}")


def dims(dim: Any) -> Any:
    return tuple(dim) if isinstance(dim, list | tuple) else dim


def add(x: Any, other: Any, *, alpha: Any = 1) -> Tensor:
    only(alpha=(alpha, 1))
    return x + other


def subtract(x: Any, other: Any, *, alpha: Any = 1) -> Tensor:
    only(alpha=(alpha, 1))
    return x - other


def subtract_swapped(x: Any, other: Any, *, alpha: Any = 1) -> Tensor:
    only(alpha=(alpha, 1))
    return other - x


def divide(x: Any, other: Any, *, rounding_mode: Any = None) -> Tensor:
    only(rounding_mode=(rounding_mode, None))
    return x / other


def where(x: Any, condition: Tensor, other: Any) -> Tensor:
    if not isinstance(x, Tensor) and not isinstance(other, Tensor):
        raise Absent("a default dtype")
    if isinstance(x, complex) or isinstance(other, complex):
        raise Absent("complex numbers")
    return P.where(condition, x, other)


def reduced(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def call(x: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
        axis = dims(dim)
        if axis == ():  # of PyTorch's reductions this means all axes, of NumPy's none
            axis = None
        return function(x, axis=axis, keepdims=keepdim)

    return call


def elementwise(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def call(x: Tensor, *, inplace: bool = False) -> Tensor:
        return function(x)

    return call


def flipped(*axes: int) -> Callable[..., Tensor]:
    return lambda x: P.flip(x, axes)


def sizes(shape: tuple[Any, ...]) -> tuple[int, ...]:
    return tuple(shape[0]) if len(shape) == 1 and not isinstance(shape[0], int) else shape


def reshape(x: Tensor, *shape: Any) -> Tensor:
    if shape and not isinstance(shape[0], int | tuple | list):
        raise Absent("view as another dtype")
    return x.reshape(sizes(shape))


def expand(x: Tensor, *shape: Any) -> Tensor:
    wanted = sizes(shape)
    old = (1,) * (len(wanted) - x.ndim) + x.shape
    return P.broadcast_to(
        x, tuple(m if n == -1 else n for n, m in zip(wanted, old, strict=True))
    )


def flatten(x: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    if x.ndim == 0:
        return x.reshape(1)
    start, end = start_dim % x.ndim, end_dim % x.ndim
    return x.reshape(*x.shape[:start], math.prod(x.shape[start : end + 1]), *x.shape[end + 1 :])


def unsqueeze(x: Tensor, dim: int) -> Tensor:
    return x[(slice(None),) * (dim % (x.ndim + 1)) + (None,)]


def squeeze(x: Tensor, dim: Any = None) -> Tensor:
    out = range(x.ndim) if dim is None else [d % max(x.ndim, 1) for d in np.atleast_1d(dims(dim))]
    return x.reshape(tuple(n for i, n in enumerate(x.shape) if n != 1 or i not in out))


def padded(x: Tensor, pad: Any, mode: str = "constant", value: Any = None) -> Tensor:
    only(mode=(mode, "constant"), value=(value or 0, 0))
    pairs = list(zip(pad[::2], pad[1::2], strict=True))[::-1]  # PyTorch counts from the last axis
    return P.pad(x, tuple([(0, 0)] * (x.ndim - len(pairs)) + pairs))


def cat(tensors: Any, dim: int = 0) -> Tensor:
    # PyTorch leaves out what has shape (0,), whatever the shapes of the others.
    if len({t.ndim for t in tensors}) > 1:
        raise Absent("shape (0,) beside others")
    return P.concatenate(*tensors, axis=dim)


def along(x: Tensor, dim: int, index: Any) -> Tensor:
    """`x[..., index, ...]` with the index at axis dim."""
    if x.ndim == 0:
        raise Absent("an axis of a number")
    return x[(slice(None),) * (dim % x.ndim) + (index,)]


def narrow(x: Tensor, dim: int, start: Any, length: int) -> Tensor:
    start = int(start.data) if isinstance(start, Tensor) else start
    start = start % x.shape[dim] if start < 0 else start
    return along(x, dim, slice(start, start + length))


def split(x: Tensor, split_size_or_sections: Any, dim: int = 0) -> list[Tensor]:
    size = split_size_or_sections
    if isinstance(size, int):
        if size == 0:
            raise Absent("split_size 0")
        size = [size] * -(-x.shape[dim] // size)
    ends = np.cumsum([0, *size])
    return [along(x, dim, slice(a, b)) for a, b in itertools.pairwise(ends.tolist())]


def chunk(x: Tensor, chunks: int, dim: int = 0) -> list[Tensor]:
    return split(x, max(-(-x.shape[dim] // chunks), 1), dim)


def unbind(x: Tensor, dim: int = 0) -> list[Tensor]:
    return [along(x, dim, i) for i in range(x.shape[dim])]


def getitem(x: Tensor, index: Any) -> Tensor:
    return x[index]


def gather(x: Tensor, dim: int, index: Tensor, *, sparse_grad: bool = False) -> Tensor:
    if x.ndim == 0:
        raise Absent("an axis of a number")
    if x.ndim != index.ndim or 0 in index.shape:
        raise Absent("an empty index")
    grid = list(np.ix_(*map(np.arange, index.shape)))
    grid[dim] = index.data
    return x[tuple(grid)]


def take(x: Tensor, index: Tensor) -> Tensor:
    return x.reshape(-1)[index]


def index_put(x: Tensor, indices: Any, values: Tensor, accumulate: bool = False) -> Tensor:
    only(accumulate=(accumulate, True))
    index = tuple(i.data for i in indices)
    return x + P.scatter_add(P.broadcast_to(values, x.data[index].shape), index, x.shape)


def index_add(x: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: Any = 1) -> Tensor:
    if x.ndim == 0:
        raise Absent("an axis of a number")
    return x + alpha * P.scatter_add(source, (slice(None),) * (dim % x.ndim) + (index,), x.shape)


def scatter_added(x: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    if x.ndim == 0 or index.ndim != x.ndim:
        raise Absent("an axis of a number")
    grid = list(np.ix_(*map(np.arange, index.shape)))
    grid[dim] = index.data
    return x + P.scatter_add(src[tuple(map(slice, index.shape))], tuple(grid), x.shape)


def cast_to(name: str) -> Callable[..., Tensor]:
    def call(x: Tensor, *, memory_format: Any = None) -> Tensor:
        return x.astype(name)

    return call


def softmax(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def call(x: Tensor, dim: int, *, dtype: Any = None) -> Tensor:
        return function(x if dtype is None else x.astype(str(dtype)[len("torch.") :]), axis=dim)

    return call


def cross_entropy(
    x: Tensor, target: Tensor, *, weight: Any = None, ignore_index: int = -100,
    reduction: str = "mean", label_smoothing: float = 0.0,
) -> Tensor:
    only(weight=(weight, None), reduction=(reduction, "mean"))
    only(label_smoothing=(label_smoothing, 0.0))
    if target.dtype.kind == "f":
        raise Absent("probabilities as targets")
    if x.ndim > 1:  # PyTorch's classes are on axis 1, ours on the last
        x = x.transpose(0, *range(2, x.ndim), 1)
    if (target.data == ignore_index).any():
        raise Absent("option ignore_index")
    return F.cross_entropy(x, target)


def norm(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def call(
        x: Tensor, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5
    ) -> Tensor:
        sizes = dims(normalized_shape)
        flat = x.reshape(*x.shape[: x.ndim - len(sizes)], math.prod(sizes))
        ones, zeros = np.ones(flat.shape[-1:], x.dtype), np.zeros(flat.shape[-1:], x.dtype)
        parameters = [mm.tensor(ones) if weight is None else weight.reshape(-1)]
        if function is F.layer_norm:
            parameters.append(mm.tensor(zeros) if bias is None else bias.reshape(-1))
        elif bias is not None:
            raise Absent("option bias")
        return function(flat, *parameters, eps).reshape(x.shape)

    return call


def rms_norm(x: Tensor, normalized_shape: Any, weight: Any = None, eps: Any = None) -> Tensor:
    if eps is None:  # which is another number for each dtype
        raise Absent("an eps that depends on the dtype")
    return norm(F.rms_norm)(x, normalized_shape, weight, None, eps)


def embedding(
    weight: Tensor, ids: Tensor, *, max_norm: Any = None, padding_idx: Any = None,
    norm_type: float = 2.0, scale_grad_by_freq: bool = False, sparse: bool = False,
) -> Tensor:
    only(max_norm=(max_norm, None), padding_idx=(padding_idx, None))
    only(scale_grad_by_freq=(scale_grad_by_freq, False), sparse=(sparse, False))
    return F.embedding(ids, weight)


def attention(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Any = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: Any = None, enable_gqa: bool = False,
) -> Tensor:
    only(dropout_p=(dropout_p, 0.0), scale=(scale, None), enable_gqa=(enable_gqa, False))
    return F.scaled_dot_product_attention(q, k, v, mask=attn_mask, is_causal=is_causal)


def conv2d(
    x: Tensor, weight: Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0,
    dilation: Any = 1, groups: int = 1,
) -> Tensor:
    only(groups=(groups, 1), dilation=(set(np.atleast_1d(dilation).tolist()), {1}))
    return F.conv2d(x, weight, bias, stride=stride, padding=padding)


def conv_transpose2d(
    x: Tensor, weight: Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0,
    output_padding: Any = 0, groups: int = 1, dilation: Any = 1,
) -> Tensor:
    only(groups=(groups, 1), dilation=(set(np.atleast_1d(dilation).tolist()), {1}))
    only(output_padding=(set(np.atleast_1d(output_padding).tolist()), {0}))
    return F.conv_transpose2d(x, weight, bias, stride=stride, padding=padding)


def max_pool2d(
    x: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> Tensor:
    only(ceil_mode=(ceil_mode, False), dilation=(set(np.atleast_1d(dilation).tolist()), {1}))
    only(return_indices=(return_indices, False))
    return F.max_pool2d(x, kernel_size, stride=stride, padding=padding)


def avg_pool2d(
    x: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: Any = None,
) -> Tensor:
    only(ceil_mode=(ceil_mode, False), divisor_override=(divisor_override, None))
    only(count_include_pad=(count_include_pad or padding in (0, (0, 0)), True))
    return F.avg_pool2d(x, kernel_size, stride=stride or None, padding=padding)


def dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    if training and p != 0.0:
        raise Absent("other random numbers")
    return F.dropout(x, min(p, 0.5), rng=np.random.default_rng(0), training=training)


# Where PyTorch's function, or its slope, loses all digits far out: the same numbers without loss.


def sigmoid_in_all_digits(x: Any) -> Any:
    small = x.where(x < 0, -x).exp()
    return small.where(x < 0, 1.0) / (1.0 + small)


def log_sigmoid_in_all_digits(x: Any) -> Any:
    return x.where(x < 0, 0.0) - x.where(x < 0, -x).exp().log1p()


def gelu_in_all_digits(x: Any, *, approximate: str = "none") -> Any:
    if approximate == "none":
        return 0.5 * x * (x * -(0.5**0.5)).erfc()
    return x * sigmoid_in_all_digits(2.0 * (2.0 / math.pi) ** 0.5 * (x + 0.044715 * x**3))


def attention_as_written(*arguments: Any, **options: Any) -> Any:
    """PyTorch's formula: of its kernels not all have a second derivative."""
    import torch

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        return torch.nn.functional.scaled_dot_product_attention(*arguments, **options)


# ---- the table -----------------------------------------------------------------------------------
# By OpInfo's name, and its variant after a bar.

POOL = "expected \\(B, C, Y, X\\)|window .* is larger|kernel_size is|stride is|padding is"

TWINS: dict[str, Twin] = {
    # operators
    "add": Twin(add, kind="exact"),
    "sub": Twin(subtract, kind="exact", refuses="boolean subtract"),
    "rsub": Twin(subtract_swapped, kind="exact", refuses="boolean subtract"),
    "mul": Twin(lambda x, other: x * other, kind="exact"),
    "div|no_rounding_mode": Twin(divide, kind="exact"),
    "true_divide": Twin(divide, kind="exact"),
    "neg": Twin(lambda x: -x, kind="exact", refuses="boolean negative"),
    "abs": Twin(abs, kind="exact"),
    "pow": Twin(lambda x, exponent: x**exponent, kind="elementwise",
                refuses="negative integer powers", order_at_zero=1),
    "reciprocal": Twin(lambda x: 1.0 / x, kind="exact"),
    "square": Twin(lambda x: x * x, kind="exact"),
    "__radd__": Twin(lambda x, other: other + x, kind="exact"),
    "__rsub__": Twin(lambda x, other: other - x, kind="exact", refuses="boolean subtract"),
    "__rmul__": Twin(lambda x, other: other * x, kind="exact"),
    "__rdiv__": Twin(lambda x, other: other / x, kind="elementwise"),
    "__rpow__": Twin(lambda x, other: other**x, kind="elementwise",
                     refuses="negative integer powers", order_at_zero=1),
    "__rmatmul__": Twin(lambda x, other: other @ x),
    "matmul": Twin(lambda x, other: x @ other),
    "mm": Twin(lambda x, mat2: x @ mat2),
    "bmm": Twin(lambda x, mat2: x @ mat2),
    "mv": Twin(lambda x, vec: x @ vec),
    "dot": Twin(lambda x, tensor: x @ tensor),
    "addmm|decomposed": Twin(lambda input, mat1, mat2, *, beta=1, alpha=1:
                             beta * input + alpha * (mat1 @ mat2)),
    # functions of one number
    **{name: Twin(elementwise(getattr(P, name)), kind="elementwise")
       for name in "exp log log1p sqrt sin cos tanh erfc".split()},
    "sigmoid": Twin(elementwise(F.sigmoid), sigmoid_in_all_digits, kind="elementwise"),
    # choices
    "where": Twin(where, kind="exact", indices=(1,)),
    "masked_fill": Twin(lambda x, mask, value: P.where(mask, value, x), kind="exact", indices=(1,)),
    "maximum": Twin(lambda x, other: P.maximum(x, other), kind="exact"),
    "minimum": Twin(lambda x, other: P.minimum(x, other), kind="exact"),
    "max|binary": Twin(lambda x, other: P.maximum(x, other), kind="exact"),
    "min|binary": Twin(lambda x, other: P.minimum(x, other), kind="exact"),
    # along axes
    "sum": Twin(reduced(P.sum)),
    "mean": Twin(reduced(P.mean)),
    "amax": Twin(reduced(P.max), kind="exact"),
    "amin": Twin(reduced(P.min), kind="exact"),
    "max|reduction_no_dim": Twin(lambda x: x.max(), kind="exact"),
    "min|reduction_no_dim": Twin(lambda x: x.min(), kind="exact"),
    "max|reduction_with_dim": Twin(reduced(P.max), kind="exact"),
    "min|reduction_with_dim": Twin(reduced(P.min), kind="exact"),
    "cumsum": Twin(lambda x, dim: P.cumsum(x, axis=dim)),
    "flip": Twin(lambda x, dims: P.flip(x, tuple(dims)), kind="exact"),
    "fliplr": Twin(flipped(1), kind="exact"),
    "flipud": Twin(flipped(0), kind="exact"),
    # shapes
    "reshape": Twin(reshape, kind="exact"),
    "view": Twin(reshape, kind="exact"),
    "reshape_as": Twin(lambda x, other: x.reshape(other.shape), kind="exact"),
    "view_as": Twin(lambda x, other: x.reshape(other.shape), kind="exact"),
    "flatten": Twin(flatten, kind="exact"),
    "ravel": Twin(lambda x: x.reshape(-1), kind="exact"),
    "unsqueeze": Twin(unsqueeze, kind="exact"),
    "squeeze": Twin(squeeze, kind="exact"),
    "squeeze|multiple": Twin(squeeze, kind="exact"),
    "permute": Twin(lambda x, *dims: x.transpose(*sizes(dims)) if x.ndim else x, kind="exact"),
    "transpose": Twin(lambda x, dim0, dim1: x.swapaxes(dim0, dim1), kind="exact",
                      refuses="out of bounds for array of dimension 0"),
    "t": Twin(lambda x: x.T, kind="exact"),
    "T": Twin(lambda x: x.T, kind="exact"),
    "mT": Twin(lambda x: x.swapaxes(-1, -2), kind="exact"),
    "broadcast_to": Twin(expand, kind="exact"),
    "expand": Twin(expand, kind="exact"),
    "expand_as": Twin(lambda x, other: expand(x, other.shape), kind="exact"),
    "nn.functional.pad|constant": Twin(padded, kind="exact", refuses="negative values"),
    "constant_pad_nd": Twin(lambda x, pad, value=0: padded(x, pad, value=value), kind="exact",
                            refuses="negative values"),
    "cat": Twin(cat, kind="exact"),
    "stack": Twin(lambda tensors, dim=0: P.stack(tensors, axis=dim), kind="exact"),
    # picking and placing
    "__getitem__": Twin(getitem, kind="exact", indices=(1,)),
    "select": Twin(along, kind="exact"),
    "narrow": Twin(narrow, kind="exact", indices=(2,)),
    "split": Twin(split, kind="exact"),
    "split|list_args": Twin(split, kind="exact"),
    "chunk": Twin(chunk, kind="exact"),
    "unbind": Twin(unbind, kind="exact"),
    "index_select": Twin(along, kind="exact", indices=(2,)),
    "gather": Twin(gather, kind="exact", indices=(2,)),
    "take": Twin(take, kind="exact", indices=(1,)),
    "index_put": Twin(index_put, indices=(1,)),
    "index_add": Twin(index_add, refuses="out of bounds for uint8", indices=(2,)),
    "scatter_add": Twin(scatter_added, indices=(2,)),
    # dtypes
    "double": Twin(cast_to("float64"), kind="exact", dtype="float64"),
    "float": Twin(cast_to("float32"), kind="exact", dtype="float32"),
    "half": Twin(cast_to("float16"), kind="exact", dtype="float16"),
    "long": Twin(cast_to("int64"), kind="exact", dtype="int64", gradient=False),
    "int": Twin(cast_to("int32"), kind="exact", dtype="int32", gradient=False),
    "short": Twin(cast_to("int16"), kind="exact", dtype="int16", gradient=False),
    "bool": Twin(cast_to("bool"), kind="exact", dtype="bool", gradient=False),
    # comparisons
    "eq": Twin(lambda x, other: x == other, kind="exact", gradient=False),
    "ne": Twin(lambda x, other: x != other, kind="exact", gradient=False),
    "lt": Twin(lambda x, other: x < other, kind="exact", gradient=False),
    "le": Twin(lambda x, other: x <= other, kind="exact", gradient=False),
    "gt": Twin(lambda x, other: x > other, kind="exact", gradient=False),
    "ge": Twin(lambda x, other: x >= other, kind="exact", gradient=False),
    # networks
    "nn.functional.relu": Twin(elementwise(F.relu), kind="exact"),
    "nn.functional.leaky_relu": Twin(
        lambda x, negative_slope=0.01, inplace=False: F.leaky_relu(x, negative_slope),
        kind="elementwise"),
    "nn.functional.silu": Twin(
        elementwise(F.silu), lambda x, inplace=False: x * sigmoid_in_all_digits(x),
        kind="elementwise"),
    "nn.functional.gelu": Twin(F.gelu, gelu_in_all_digits, kind="elementwise"),
    "nn.functional.logsigmoid": Twin(
        lambda x: log_sigmoid(x), log_sigmoid_in_all_digits, kind="elementwise"),
    "softmax": Twin(softmax(F.softmax)),
    "softmax|with_dtype": Twin(softmax(F.softmax), dtype="float64"),
    "log_softmax": Twin(softmax(F.log_softmax)),
    "log_softmax|with_dtype": Twin(softmax(F.log_softmax), dtype="float64"),
    "nn.functional.cross_entropy": Twin(cross_entropy, refuses="no targets", indices=(1,)),
    "nn.functional.layer_norm": Twin(norm(F.layer_norm), refuses="eps is -"),
    "nn.functional.rms_norm": Twin(rms_norm, refuses="eps is -"),
    "nn.functional.linear": Twin(F.linear),
    "nn.functional.embedding": Twin(embedding, kind="exact", indices=(1,)),
    "nn.functional.scaled_dot_product_attention": Twin(
        attention, attention_as_written, refuses="mask has dtype|mask leaves a query nothing",
        indices=("attn_mask",)),
    "nn.functional.conv2d": Twin(conv2d, refuses=POOL),
    "nn.functional.conv_transpose2d": Twin(conv_transpose2d, refuses=POOL),
    "nn.functional.max_pool2d": Twin(max_pool2d, kind="exact", refuses=POOL),
    "nn.functional.avg_pool2d": Twin(avg_pool2d, refuses=POOL),
    "nn.functional.dropout": Twin(dropout, kind="exact"),
}


# ---- samples -------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def torch() -> Any:
    return pytest.importorskip("torch")


@pytest.fixture(scope="session")
def opinfos(torch: Any) -> dict[str, Any]:
    pytest.importorskip("expecttest")  # which the next line needs
    torch.set_num_threads(1)  # the samples are small
    from torch.testing._internal.common_methods_invocations import op_db

    return {o.name + f"|{o.variant_test_name}" * bool(o.variant_test_name): o for o in op_db}


def samples_of(torch: Any, twin: Twin, opinfo: Any, dtype: str, everything: bool) -> list[Any]:
    """Pairs (arguments, arguments by name), as PyTorch makes them for the dtype.

    Of a dtype that PyTorch's function does not take: those for float64, made whole.
    """
    known = getattr(torch, dtype) in opinfo.dtypes
    make = (everything and opinfo.reference_inputs_func) or opinfo.sample_inputs_func
    seed = zlib.crc32(f"{opinfo.name} {opinfo.variant_test_name} {dtype}".encode())
    torch.random.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  (PyTorch's own generators draw from it)
    with torch.no_grad():
        made = list(make(opinfo, "cpu", getattr(torch, dtype if known else "float64"), False))
    if not everything and len(made) > MOST_SAMPLES:
        made = [made[i] for i in np.linspace(0, len(made) - 1, MOST_SAMPLES).astype(int)]
    found = []
    for sample in made:
        arguments, options = (sample.input, *sample.args), sample.kwargs
        if any(t.numel() > MOST_ELEMENTS for t in tensors_in(torch, arguments)):
            continue

        def leaf(value: Any, keep: bool = known) -> Any:
            if keep or not isinstance(value, torch.Tensor) or value.dtype != torch.float64:
                return value
            return as_dtype(torch, value, dtype)

        found.append((numbers(twin, arguments, leaf), numbers(twin, options, leaf)))
    return found


def numbers(twin: Twin, arguments: Any, leaf: Callable[[Any], Any]) -> Any:
    """Positional or named arguments with `leaf` of each tensor that is no index."""
    if isinstance(arguments, dict):
        return {n: a if n in twin.indices else rebuilt(a, leaf) for n, a in arguments.items()}
    return tuple(a if i in twin.indices else rebuilt(a, leaf) for i, a in enumerate(arguments))


def tensors_in(torch: Any, arguments: Any) -> list[Any]:
    found: list[Any] = []
    rebuilt(arguments, lambda v: found.append(v) if isinstance(v, torch.Tensor) else None)
    return found


def rebuilt(value: Any, leaf: Callable[[Any], Any]) -> Any:
    """Nested arguments again, with `leaf` of each that is no container."""
    if isinstance(value, dict):
        return {name: rebuilt(v, leaf) for name, v in value.items()}
    if type(value) in (tuple, list):
        return type(value)(rebuilt(v, leaf) for v in value)
    if isinstance(value, tuple):  # torch.Size
        return tuple(value)
    return leaf(value)


def as_dtype(torch: Any, t: Any, dtype: str) -> Any:
    """The numbers of a float64 sample as some of another dtype."""
    if dtype in FLOATS:
        return t.to(getattr(torch, dtype))
    if dtype == "bool":
        return t > 0
    t = (3.0 * t).nan_to_num(0.0, 0.0, 0.0).round().clamp(-100, 100)
    return (t.abs() if dtype == "uint8" else t).to(getattr(torch, dtype))


# ---- both sides ----------------------------------------------------------------------------------


class Refused(Exception):
    """By us, with an error of ours."""


NAMES = {*vars(F), *vars(P), "tensor", "getitem", "log_sigmoid"}
OURS = re.compile("(" + "|".join(sorted(NAMES)) + r")(:|\(|s? )")


def cotangents(outputs: list[Any]) -> list[Any]:
    """Fixed numbers without symmetry, for each output with a gradient."""
    return [np.cos(1.0 + 0.7 * np.arange(math.prod(o.shape))).reshape(tuple(o.shape))
            for o in outputs]


def listed(output: Any) -> list[Any]:
    if type(output).__module__ == "torch.return_types":
        return [output[0]]
    return list(output) if isinstance(output, list | tuple) else [output]


def what_torch_says(
    torch: Any, function: Callable[..., Any], arguments: Any, options: Any, order: int,
    noise: float = 0.0,
) -> list[list[Any]]:
    """Arrays: the outputs; the gradients; the gradients of the gradients.

    noise: a relative change of the cotangents.
    """
    leaves: list[Any] = []

    def leaf(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            value = value.detach()
            if value.dtype in (torch.float64, torch.float32):
                value = value.clone().requires_grad_(order > 0)
                leaves.append(value)
        return value

    def weights(output: Any, cotangent: Any) -> Any:
        shaken = torch.tensor(cotangent) * (1.0 + noise * torch.rand(output.shape))
        return shaken.to(output.dtype)

    outputs = listed(function(*rebuilt(arguments, leaf), **rebuilt(options, leaf)))
    found = [outputs]
    linear, wanted = outputs, leaves
    for _ in range(order):
        pairs = [(o, c) for o, c in zip(linear, cotangents(linear), strict=True)
                 if o.requires_grad]
        slopes: list[Any] = [None] * len(wanted)
        if pairs and wanted:
            slopes = list(torch.autograd.grad(
                sum((o * weights(o, c)).sum() for o, c in pairs), wanted,
                create_graph=True, allow_unused=True))
        linear = [torch.zeros_like(x) if s is None else s
                  for s, x in zip(slopes, wanted, strict=True)]
        found.append(linear)
    return [[o.numpy(force=True) for o in part] for part in found]


def what_we_say(
    torch: Any, twin: Twin, arguments: Any, options: Any, dtype: str, order: int
) -> list[list[Any]]:
    """The same of ours."""
    leaves: list[Tensor] = []

    def leaf(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            # Not a copy: as transposed, repeated or cut as PyTorch made it.
            array = value.resolve_neg().numpy(force=True)
            value = Tensor(array, requires_grad=order > 0 and array.dtype == dtype)
            if array.dtype == dtype:
                leaves.append(value)
        return value

    arguments, options = rebuilt(arguments, leaf), rebuilt(options, leaf)
    try:
        inspect.signature(twin.ours).bind(*arguments, **options)
    except TypeError as error:
        raise Absent(str(error)) from error

    def outputs_of(*values: Tensor) -> list[Tensor]:
        standing_in = dict(zip(map(id, leaves), values, strict=True))

        def leaf(value: Any) -> Any:
            return standing_in.get(id(value), value)

        return listed(twin.ours(*rebuilt(arguments, leaf), **rebuilt(options, leaf)))

    try:
        outputs = outputs_of(*leaves)
    except (TypeError, ValueError, IndexError, OverflowError) as error:
        if OURS.match(str(error)):
            raise Refused(str(error)) from error
        raise
    found = [[o.data for o in outputs]]
    if order == 0 or not leaves:
        return found + [[]] * order

    def combined(parts: list[Tensor]) -> Tensor:
        pairs = zip(parts, cotangents(parts), strict=True)
        terms = [(o * c.astype(o.dtype)).sum() for o, c in pairs if o.dtype.kind == "f"]
        return sum(terms[1:], start=terms[0])

    if any(o.requires_grad for o in outputs):
        if len(outputs) == 1:
            outputs[0].backward(*cotangents(outputs))
        else:
            combined(outputs).backward()
    found.append([np.zeros_like(x.data) if x.grad is None else x.grad for x in leaves])
    if order == 2:
        every = tuple(range(len(leaves)))

        def of_gradient(*values: Tensor) -> Tensor:
            first = mm.grad(lambda *v: combined(outputs_of(*v)), every)(*values)
            return combined(list(first))

        found.append([x.data for x in mm.grad(of_gradient, every)(*leaves)])
    return found


# ---- what is right -------------------------------------------------------------------------------


def mistake(ours: Any, truth: Any, kind: str, size: float | None = None) -> str | None:
    """What is wrong with ours, or None.

    exact        the very number (after rounding to the dtype)
    elementwise  a few roundings of each number
    sums         a few roundings of `size`, by itself that of the largest number
    """
    if ours.shape != truth.shape:
        return f"shape {ours.shape}, expected {truth.shape}"
    if truth.dtype == bool or ours.dtype == bool:
        same = ours.astype(np.float64) == truth.astype(np.float64)
        return None if same.all() else f"{ours}, expected {truth}"
    if ours.size == 0:
        return None
    eps = float(np.finfo(ours.dtype).eps) if ours.dtype.kind == "f" else 2.0**-52
    if ours.dtype.kind == "f":
        with np.errstate(over="ignore", invalid="ignore"):
            truth_here = truth.astype(ours.dtype).astype(np.float64)
        tiny = float(np.finfo(ours.dtype).smallest_subnormal)
    else:
        truth_here, tiny = truth.astype(np.float64), 0.0
    value = ours.astype(np.float64)
    finite = np.isfinite(truth_here)
    if not np.array_equal(np.isfinite(value), finite) or not np.array_equal(
        value[~finite], truth_here[~finite], equal_nan=True
    ):
        at = ~finite | ~np.isfinite(value)
        return f"{value[at][:8]}, expected {truth_here[at][:8]}"
    if not finite.any():
        return None
    with np.errstate(all="ignore"):
        error = np.abs(value - truth.astype(np.float64))
    scale = np.abs(truth_here[finite]).max()
    roundings = {"exact": 0.5, "elementwise": 8.0, "sums": 4.0}[kind]
    allowed = roundings * eps * np.abs(truth_here) + 2.0 * tiny
    if kind == "sums":
        # float16 is added up in float32, and rounded between the functions of a formula.
        several = 32.0 if ours.dtype != np.float16 else 1.0
        allowed = allowed + several * eps * (scale if size is None else size)
    wrong = finite & ~(error <= allowed)
    if not wrong.any():
        return None
    times = (error[wrong] / np.maximum(allowed[wrong], 1e-300)).max()
    return (
        f"{ours[wrong][:5]}, expected {truth[wrong][:5]} ({wrong.sum()} of {ours.size}, "
        f"error {times:.3g} times the allowed)"
    )


def dtypes_of(torch: Any, twin: Twin, arguments: Any) -> set[str]:
    """The dtypes of all arguments that are no indices."""
    found = set()

    def leaf(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            found.add(str(value.dtype)[6:])
        return value

    numbers(twin, arguments, leaf)
    return found


def in_float64(torch: Any, twin: Twin, arguments: Any) -> Any:
    """The same numbers for PyTorch; indices stay whole."""

    def leaf(value: Any) -> Any:
        return value.to(torch.float64) if isinstance(value, torch.Tensor) else value

    return numbers(twin, arguments, leaf)


# ---- the test ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tally(request: pytest.FixtureRequest) -> dict[str, Counter[str]]:
    """How many samples were compared, and what was refused: a few lines after the tests."""
    found: dict[str, Counter[str]] = {"compared": Counter(), "refused": Counter()}
    request.config.pluginmanager.register(Summary(found))
    return found


class Summary:
    """A plugin of pytest's that prints the tally."""

    def __init__(self, tally: dict[str, Counter[str]]):
        self.compared, self.refused = tally["compared"], tally["refused"]

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        write = terminalreporter.write_line
        write("")
        write(
            f"OpInfo: {self.compared.total()} samples of {len(self.compared)} functions agree with "
            f"PyTorch's, in both versions. {self.refused.total()} were refused:"
        )
        for reason, count in sorted(self.refused.items()):
            write(f"  {count:5d}  {reason}")


def faults(
    torch: Any, twin: Twin, opinfo: Any, sample: Any, dtype: str
) -> Iterator[str]:
    """What is wrong with one sample. Raises Absent or Refused if there is nothing to compare."""
    arguments, options = sample
    tensors = tensors_in(torch, sample)
    is_method = opinfo.name.startswith("__")
    if not tensors or (is_method and not isinstance(arguments[0], torch.Tensor)):
        raise Absent("a number with methods")
    whole = dtype in WHOLE
    order = 0 if whole or not twin.gradient else 1 if dtype == "float16" else 2
    if any(t.isnan().any() for t in tensors):
        order = 0  # the slope there is nobody's to say; `test_parity_torch.py` has those of choices
    if any((t == 0).any() for t in tensors):
        order = min(order, twin.order_at_zero)  # PyTorch loses d/dy d/dx x**y = 1 / x at y = 0
    several = dtypes_of(torch, twin, arguments) | dtypes_of(torch, twin, options)
    if dtype in FLOATS and len(several) > 1:
        order, dtype = 0, str(np.result_type(*several))
    theirs = twin.theirs or opinfo.op
    answers = []
    for version, context in ("kernel", nullcontext()), ("reading version", mm.reference()):
        with context, np.errstate(all="ignore"):
            answers.append((version, what_we_say(torch, twin, arguments, options, dtype, order)))
    doubles = in_float64(torch, twin, arguments), in_float64(torch, twin, options)
    truth = what_torch_says(torch, theirs, *doubles, order)
    for version, ours in answers:
        for part, (values, right) in enumerate(zip(ours, truth, strict=True)):
            what = ["value", "gradient", "second gradient"][part]
            if len(values) != len(right):
                yield f"{version}: {len(values)} {what}s, expected {len(right)}"
            for i, (value, expected) in enumerate(zip(values, right, strict=False)):
                kind = twin.kind if part == 0 else "sums"
                wrong = mistake(value, expected, kind)
                if wrong and kind == "sums" and value.shape == expected.shape:
                    size = size_of_terms(torch, theirs, *doubles, truth, part, i)
                    wrong = mistake(value, expected, kind, size)
                if wrong and whole and value.dtype.kind in "iub":
                    # Whole numbers may also go on as PyTorch's own whole numbers do, and wrap.
                    own = as_whole(torch, theirs, arguments, options, i)
                    if own is not None:
                        wrong = mistake(value, own, kind)
                if not wrong:
                    wrong = wrong_dtype(value, expected, dtype, twin.dtype if part == 0 else "")
                if wrong:
                    yield f"{version}, {what} {i}: {wrong}"


def as_whole(torch: Any, function: Any, arguments: Any, options: Any, i: int) -> Any:
    """What PyTorch makes of whole numbers, if that is whole numbers again."""
    try:
        own = what_torch_says(torch, function, arguments, options, 0)[0][i]
    except NotImplementedError:
        return None
    return own if own.dtype.kind in "iub" else None


def wrong_dtype(value: Any, expected: Any, dtype: str, of_result: str) -> str | None:
    """float32 stays float32; whole numbers stay whole or become float64."""
    if of_result:
        return None if value.dtype == of_result else f"dtype {value.dtype}, expected {of_result}"
    if expected.dtype == bool or dtype in WHOLE:
        good = value.dtype.kind in "iub" or value.dtype == np.float64
        return None if good else f"dtype {value.dtype}"
    return None if value.dtype == dtype else f"dtype {value.dtype}, expected {dtype}"


def size_of_terms(
    torch: Any, function: Callable[..., Any], arguments: Any, options: Any,
    truth: list[list[Any]], part: int, i: int,
) -> float:
    """How large the terms are that cancel in a result: a rounding of them is a fair error.

    How far it moves, relative to a small relative change of all that it is made from, and how far
    PyTorch itself is off in float32. At a kink neither is a measure, hence the limit.
    """
    right, order = truth[part][i], len(truth) - 1

    def answer(leaf: Callable[[Any], Any], noise: float = 0.0) -> Any:
        said = what_torch_says(
            torch, function, rebuilt(arguments, leaf), rebuilt(options, leaf), order, noise
        )
        return said[part][i]

    def off(other: Any) -> float:
        with np.errstate(invalid="ignore"):
            return float(np.nanmax(np.abs(other - right), initial=0.0))

    h, rounding = 1e-6, 2.0**-23

    def shaken(value: Any) -> Any:
        if isinstance(value, torch.Tensor) and value.dtype == torch.float64:
            return value * (1.0 + h * (2.0 * torch.rand(value.shape, dtype=torch.float64) - 1.0))
        return value

    def as_float32(value: Any) -> Any:
        is_double = isinstance(value, torch.Tensor) and value.dtype == torch.float64
        return value.float() if is_double else value

    def rounded(value: Any) -> Any:
        shorter = as_float32(value)
        return shorter if shorter is value else shorter.double()

    size = float(np.abs(right[np.isfinite(right)]).max(initial=0.0))
    moved = max(off(answer(shaken, h)) for _ in range(3)) / h
    of_float32 = answer(as_float32)
    right = answer(rounded)
    return max(size, min(moved, 1e3 * size), off(of_float32) / rounding)


def described(torch: Any, value: Any) -> str:
    def leaf(v: Any) -> Any:
        if isinstance(v, torch.Tensor):
            small = v.tolist() if v.numel() < 10 else f"{list(v.shape)} strides {v.stride()}"
            return f"{str(v.dtype)[6:]} {small}"
        return v

    return str(rebuilt(value, leaf))


def check(
    torch: Any, opinfos: Any, tally: Any, name: str, dtype: str, everything: bool = False
) -> None:
    twin, opinfo = TWINS[name], opinfos[name]
    wrong = []
    compared = 0
    samples = samples_of(torch, twin, opinfo, dtype, everything)
    for sample in samples:
        try:
            found = list(faults(torch, twin, opinfo, sample, dtype))
        except Absent as absent:
            tally["refused"][f"{name}: {absent}"] += 1
            continue
        except Refused as refusal:
            reason = re.sub(r"\d[\d.e+-]*", "N", str(refusal).split(": ", 1)[-1])[:90]
            tally["refused"][f"{name}: {reason}"] += 1
            if twin.refuses and re.search(twin.refuses, str(refusal)):
                continue
            found = [f"refused: {refusal}"]
        except Exception as error:
            found = [f"{type(error).__name__}: {error}"]
        compared += not found
        wrong += [f"{described(torch, sample)}\n      {f}" for f in found]
    tally["compared"][name] += compared
    assert compared or wrong or dtype not in ("float64", "float32"), "everything was refused"
    assert not wrong, f"{len(wrong)} faults:\n" + "\n".join(wrong[:12])


DTYPES = pytest.mark.parametrize("dtype", FLOATS + WHOLE)


@DTYPES
@pytest.mark.parametrize("name", TWINS)
def test_on_pytorchs_samples(torch: Any, opinfos: Any, tally: Any, name: str, dtype: str) -> None:
    check(torch, opinfos, tally, name, dtype)


@pytest.mark.slow
@DTYPES
@pytest.mark.parametrize("name", TWINS)
def test_on_all_of_pytorchs_samples(
    torch: Any, opinfos: Any, tally: Any, name: str, dtype: str
) -> None:
    """PyTorch's longer lists too, with nan, infinities, and operands of two dtypes."""
    check(torch, opinfos, tally, name, dtype, everything=True)


@pytest.mark.parametrize("name", [name for name, twin in TWINS.items() if twin.theirs])
def test_what_stands_in_for_pytorchs_function_is_it(torch: Any, opinfos: Any, name: str) -> None:
    twin, opinfo = TWINS[name], opinfos[name]
    for arguments, options in samples_of(torch, twin, opinfo, "float64", False):
        if not options.get("dropout_p") and options.get("attn_mask") is None:
            (ours,) = what_torch_says(torch, twin.theirs, arguments, options, 0)[0]
            (theirs,) = what_torch_says(torch, opinfo.op, arguments, options, 0)[0]
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-15)


# ---- is anything missing? ------------------------------------------------------------------------

# Each public function of the engine, and the entry above that holds it to PyTorch.
HELD_BY = {
    "add": "add", "subtract": "sub", "multiply": "mul", "divide": "true_divide",
    "negative": "neg", "absolute": "abs", "power": "pow", "matmul": "matmul",
    "where": "where", "maximum": "maximum", "minimum": "minimum",
    "max": "amax", "min": "amin", "concatenate": "cat", "getitem": "__getitem__",
    "scatter_add": "index_put", "swapaxes": "transpose", "transpose": "permute",
    "pad": "constant_pad_nd", "astype": "float",
    "less": "lt", "less_equal": "le", "greater": "gt", "greater_equal": "ge",
    "equal": "eq", "not_equal": "ne",
    "relu": "nn.functional.relu", "leaky_relu": "nn.functional.leaky_relu",
    "silu": "nn.functional.silu", "gelu": "nn.functional.gelu",
    "cross_entropy": "nn.functional.cross_entropy", "layer_norm": "nn.functional.layer_norm",
    "rms_norm": "nn.functional.rms_norm", "linear": "nn.functional.linear",
    "embedding": "nn.functional.embedding", "conv2d": "nn.functional.conv2d",
    "scaled_dot_product_attention": "nn.functional.scaled_dot_product_attention",
    "conv_transpose2d": "nn.functional.conv_transpose2d", "dropout": "nn.functional.dropout",
    "max_pool2d": "nn.functional.max_pool2d", "avg_pool2d": "nn.functional.avg_pool2d",
    **{name: name for name in (
        "exp log log1p sqrt sin cos tanh sigmoid erfc sum mean cumsum flip reshape "
        "broadcast_to stack softmax log_softmax").split()},
}

WITHOUT_TWIN = {
    "self_attention": "scaled_dot_product_attention of parts of one array, which tests hold it to",
    "linear_relu": "relu of linear, which tests hold it to",
    "swiglu": "silu of one array times another, which tests hold it to",
    "rotary_embedding": "PyTorch has none; a product of complex numbers, which tests hold it to",
    "to": "moves to a device",
    "sech_squared": "the slope of tanh, which is held by its gradients",
}


def test_every_public_function_has_a_twin_or_a_reason() -> None:
    def is_function(value: Any) -> bool:
        home = getattr(value, "__module__", P.__name__)
        if isinstance(value, Primitive):
            return True
        return inspect.isfunction(value) and home == P.__name__

    public = {n for n, v in vars(P).items() if is_function(v) and n[0] != "_"} | {*F.__all__}
    assert public == {*HELD_BY} | {*WITHOUT_TWIN}
    assert {*HELD_BY.values()} <= {*TWINS}


# ---- random programs -----------------------------------------------------------------------------


def steps(torch: Any) -> list[tuple[Callable[..., Any], Callable[..., Any]]]:
    """Ours and PyTorch's, of x and y (3, 4); what comes out is (3, 4) again."""
    of = torch.nn.functional
    return [
        (lambda x, y: x + y, lambda x, y: x + y),
        (lambda x, y: x - 0.5 * y, lambda x, y: x - 0.5 * y),
        (lambda x, y: x * y, lambda x, y: x * y),
        (lambda x, y: x / (1.5 + y * y), lambda x, y: x / (1.5 + y * y)),
        (lambda x, y: abs(x) ** (1.0 + F.sigmoid(y)), lambda x, y: x.abs() ** (1.0 + y.sigmoid())),
        (lambda x, y: x @ y.T @ y, lambda x, y: x @ y.T @ y),
        (lambda x, y: P.tanh(x), lambda x, y: x.tanh()),
        (lambda x, y: P.sin(x) + P.cos(y), lambda x, y: x.sin() + y.cos()),
        (lambda x, y: P.log1p(P.exp(-abs(x))), lambda x, y: (-x.abs()).exp().log1p()),
        (lambda x, y: P.sqrt(x * x + 0.25), lambda x, y: (x * x + 0.25).sqrt()),
        (lambda x, y: P.erfc(x) * P.exp(-y * y), lambda x, y: x.erfc() * (-y * y).exp()),
        (lambda x, y: P.maximum(x, y), lambda x, y: x.maximum(y)),
        (lambda x, y: P.where(x > y, x, -y), lambda x, y: x.where(x > y, -y)),
        (lambda x, y: x - x.mean(axis=0), lambda x, y: x - x.mean(0)),
        (lambda x, y: x * x.max(axis=1, keepdims=True), lambda x, y: x * x.amax(1, keepdim=True)),
        (lambda x, y: P.cumsum(x, axis=0) - y.min(), lambda x, y: x.cumsum(0) - y.amin()),
        (lambda x, y: P.flip(x, axis=1), lambda x, y: x.flip(1)),
        (lambda x, y: x[[2, 0, 0]] + y[:, ::-1], lambda x, y: x[[2, 0, 0]] + y.flip(1)),
        (lambda x, y: P.concatenate(x[1:], y[:1], axis=0), lambda x, y: torch.cat([x[1:], y[:1]])),
        (lambda x, y: P.stack([x, y])[1] * x, lambda x, y: torch.stack([x, y])[1] * x),
        (lambda x, y: x.reshape(4, 3).T, lambda x, y: x.reshape(4, 3).T),
        (lambda x, y: P.pad(x[1:, 1:], ((1, 0), (0, 1))),
         lambda x, y: of.pad(x[1:, 1:], (0, 1, 1, 0))),
        (lambda x, y: F.relu(x) + F.leaky_relu(y, 0.2),
         lambda x, y: x.relu() + of.leaky_relu(y, 0.2)),
        (lambda x, y: F.gelu(x) * F.silu(y), lambda x, y: gelu_in_all_digits(x) * of.silu(y)),
        (lambda x, y: F.softmax(x) - F.log_softmax(y, 0),
         lambda x, y: x.softmax(-1) - y.log_softmax(0)),
        (lambda x, y: F.layer_norm(x, y[0], y[1], 0.1),
         lambda x, y: of.layer_norm(x, (4,), y[0], y[1], 0.1)),
        (lambda x, y: F.rms_norm(x, y[0], 0.1), lambda x, y: of.rms_norm(x, (4,), y[0], 0.1)),
        (lambda x, y: F.linear(x, y.T @ y[:, ::-1], y[2]),
         lambda x, y: of.linear(x, y.T @ y.flip(1), y[2])),
        (lambda x, y: F.scaled_dot_product_attention(x, y, x, is_causal=True),
         lambda x, y: attention_as_written(x, y, x, is_causal=True)),
    ]


@given(
    plan=st.lists(st.tuples(*[st.integers(0, 10**6)] * 3), min_size=1, max_size=6),
    seed=st.integers(0, 10**6),
    reading=st.booleans(),
)
@settings(max_examples=100)
def test_random_programs(
    torch: Any, plan: list[tuple[int, int, int]], seed: int, reading: bool
) -> None:
    """What OpInfo does not have: functions of functions, and numbers that are used twice.

    Each step takes two of what was made before it.
    """
    known = steps(torch)

    def program(side: int) -> Callable[..., Any]:
        def run(x: Any, y: Any) -> Any:
            made = [x, y]
            for step, left, right in plan:
                made.append(known[step % len(known)][side](
                    made[left % len(made)], made[right % len(made)]))
            return made[-1]

        return run

    arrays = np.random.default_rng(seed).uniform(-1.5, 1.5, (2, 3, 4))
    arguments = tuple(torch.tensor(a) for a in arrays)
    with mm.reference() if reading else nullcontext():
        found = what_we_say(torch, Twin(program(0)), arguments, {}, "float64", 2)
    right = what_torch_says(torch, program(1), arguments, {}, 2)
    for part, (ours, theirs) in enumerate(zip(found, right, strict=True)):
        for i, (value, expected) in enumerate(zip(ours, theirs, strict=True)):
            wrong = mistake(value, expected, "sums")
            if wrong:
                # Terms of the size of what came in may cancel even where shaking shows none.
                size = max(1.0, size_of_terms(torch, program(1), arguments, {}, right, part, i))
                wrong = mistake(value, expected, "sums", size)
            assert not wrong, f"{'value gradient second'.split()[part]} {i}: {wrong}"
