"""A tensor is an array that remembers how it was made.

A `Tensor` holds an array and its `Origin`: which operation made it, from which arguments. Through
the arguments' origins one gets from a result, say a loss L, back to all that it was made from. This
record is called the tape, and `tape.py` walks it back. Two words for what is carried on the way:

    cotangent of y    dL/dy, the gradient of L by a tensor y: an array of the shape of y
    share of x        what one operation with x as an argument adds to the cotangent of x;
                      the cotangent of x is the sum of its shares, one for each use of x

What the operations are, and their gradient rules, is in `primitives.py`, which also attaches
`+`, `@`, `x.sum()` and the other operators and methods to `Tensor`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence, Set
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from minimono import backend, checks
from minimono.backend import Array

Operand: TypeAlias = "Tensor | Array | float"  # what an operator takes beside a Tensor
Axis: TypeAlias = int | tuple[int, ...] | None

_births = itertools.count()  # 0, 1, 2, ...


class Differentiable(Protocol):
    """The tape asks an operation for its name, and for the shares of its arguments."""

    name: str

    def pull(
        self, cotangent: Tensor, output: Tensor, wanted: Set[int]
    ) -> list[tuple[Tensor, Tensor]]:
        """Return (argument, its share), for the arguments whose `id` is in `wanted`.

        `cotangent` is that of `output`, which this operation has made.
        """
        ...


class Origin(NamedTuple):
    """An origin says how a tensor was made."""

    operation: Differentiable
    arguments: tuple[Any, ...]  # tensors and constants that the gradient rules will read again
    options: dict[str, Any]  # arguments by name, such as axis=0
    saved: Any = None  # what a kernel keeps from its forward pass for its backward pass
    seen: Sequence[Any] = ()  # the arrays, as they were, of the arguments and of the result


class Tensor:
    """An array that remembers how it was made.

    `.data` is a NumPy or CuPy array. `.grad` is one too, after `backward()`, for parameters: leaves
    that require a gradient. A leaf is a tensor without an origin: no operation has recorded it.

    A tensor is a value: no operation changes one. But between two passes, optimisers and you give a
    parameter new values, `p.data = new` or `p.data[0] = 1.0`. What was computed from the old ones
    can then no longer be walked back: `backward()` raises RuntimeError, because gradient rules
    would read the new values (`ownership.py` tells how it is noticed). Do not write into `.data` of
    other tensors: nothing notices that.

    `tensor(array)` copies the array, `Tensor(array)` does not. An array beside a tensor, as
    in `x * array`, is copied for the walk back.
    """

    __slots__ = ("__weakref__", "array", "birth", "grad", "lent", "origin", "requires_grad")

    # NumPy must not try `array * tensor` element by element: it is ours to do.
    __array_ufunc__ = None

    def __init__(self, data: Array, requires_grad: bool = False, origin: Origin | None = None):
        # `array` is `data`, for code of ours, which only reads it: no snapshot (below) is needed.
        # np.asarray since for a result without axes NumPy returns a scalar, not an array.
        is_scalar = type(data) is not np.ndarray and isinstance(data, np.generic)
        self.array: Array = np.asarray(data) if is_scalar else data
        self.grad: Array | None = None
        self.requires_grad = requires_grad
        self.origin = origin
        self.birth = next(_births)  # a tensor is younger than all it was made from
        # None until `data` of a parameter is handed out, to somebody who may write into it. Then a
        # snapshot: the values at that time, by which `ownership.py` sees whether they have changed.
        self.lent: Array | None = None

    @property
    def data(self) -> Array:
        """The array itself, not a copy."""
        if self.lent is None and self.requires_grad and self.origin is None:
            self.lent = self.array.copy()
        return self.array

    @data.setter
    def data(self, array: Array) -> None:
        # `p.data -= d` gets the array, writes into it, and assigns that same array: nothing to do.
        if array is not self.array:
            if type(array) is not np.ndarray or not array.dtype.isnative:
                array = _assignable(array)
            self.array = self.lent = array  # its giver may write into it: operations keep copies

    @property
    def shape(self) -> tuple[int, ...]:
        """The lengths of the axes."""
        return tuple(self.array.shape)

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return int(self.array.ndim)

    @property
    def size(self) -> int:
        """The number of elements."""
        return int(self.array.size)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the elements."""
        dtype: np.dtype[Any] = self.array.dtype
        return dtype

    @property
    def device(self) -> str:
        """The device that holds the array: "cpu" or "cuda"."""
        return backend.device_of(self.array)

    # `==` compares element by element, so dicts and sets go by the identity of the object instead.
    __hash__ = object.__hash__

    def item(self) -> float:
        """Return the only element as a Python number. On a GPU this waits for all work before."""
        if self.array.size != 1:
            raise ValueError(f"item: tensor has shape {self.shape}, expected one element")
        return self.array.item()  # type: ignore[no-any-return]

    def __float__(self) -> float:
        return float(self.item())

    def __bool__(self) -> bool:
        return bool(self.item())

    def __len__(self) -> int:
        return len(self.array)

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self.array)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        raise TypeError(
            "a Tensor is not converted to an array silently, since that would cut the tape: "
            "pass tensor.data"
        )

    def __repr__(self) -> str:
        body = np.array2string(backend.to_host(self.array), separator=", ", prefix="tensor(")
        notes = f", dtype={self.dtype}" if self.dtype not in (np.float64, np.int64, bool) else ""
        notes += f', device="{self.device}"' if self.device != "cpu" else ""
        notes += f", made by {self.origin.operation.name}" if self.origin else ""
        notes += ", requires_grad=True" if self.requires_grad and not self.origin else ""
        return f"tensor({body}{notes})"

    def detach(self) -> Tensor:
        """Return the same values without an origin: a constant (the papers' stop-gradient `sg`).

        The values are copied if this is a parameter, so that they stay when it gets new ones.
        """
        is_parameter = self.requires_grad and self.origin is None
        return Tensor(self.array.copy() if is_parameter else self.array)

    def __reduce__(self) -> tuple[Callable[..., Tensor], tuple[Any, ...]]:
        """Say how `copy` and `pickle` make this tensor again: from data, `requires_grad`, `grad`.

        A tensor with an origin is refused: its copy would have none, and no gradient, in silence.
        """
        if self.origin is not None:
            raise TypeError(
                f"copy, pickle: this tensor was made by {self.origin.operation.name} and would "
                "lose the tape behind it: take tensor.detach()"
            )
        return _again, (self.array, self.requires_grad, self.grad)

    if TYPE_CHECKING:  # for mypy. `tape.py` attaches backward, the end of `primitives.py` the rest.
        def backward(self, cotangent: Array | None = None) -> None: ...
        def __add__(self, other: Operand) -> Tensor: ...
        __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = __add__
        __pow__ = __rpow__ = __matmul__ = __rmatmul__ = __add__
        __lt__ = __le__ = __gt__ = __ge__ = __add__
        def __eq__(self, other: object) -> Tensor: ...  # type: ignore[override]
        def __ne__(self, other: object) -> Tensor: ...  # type: ignore[override]
        def __neg__(self) -> Tensor: ...
        __abs__ = exp = log = sqrt = tanh = __neg__
        def __getitem__(self, index: Any) -> Tensor: ...
        def sum(self, axis: Axis = None, keepdims: bool = False) -> Tensor: ...
        mean = max = min = sum
        def reshape(self, *shape: int | tuple[int, ...]) -> Tensor: ...
        def transpose(self, *axes: int) -> Tensor: ...
        def swapaxes(self, axis: int, other: int) -> Tensor: ...
        def astype(self, dtype: Any) -> Tensor: ...
        def to(self, device: str) -> Tensor: ...
        @property
        def T(self) -> Tensor: ...


def _assignable(data: Any) -> Array:
    """Return what is assigned to `data` as an array of numbers, in this machine's byte order."""
    if isinstance(data, Tensor):
        raise TypeError("data is a Tensor, expected an array; assign tensor.data")
    try:
        array = backend.as_array(data)
    except (TypeError, ValueError) as error:
        raise TypeError(f"data: {error}") from error
    if array.dtype.kind not in "fiubc":
        raise TypeError(f"data has dtype {array.dtype}, expected numbers")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _again(data: Array, requires_grad: bool, grad: Array | None) -> Tensor:
    """Make a copied or pickled tensor: a new one, with the next birth number of this process."""
    tensor = Tensor(data, requires_grad)
    tensor.grad = grad
    return tensor


def tensor(
    data: Any, *, dtype: Any = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """Return a Tensor from numbers, lists or arrays (copied), on "cpu" or "cuda".

    Integers stay integers, for use as indices; with `requires_grad` they become float64.
    Raises TypeError for complex numbers, longer floats, text, objects and masked arrays,
    ValueError for ragged lists.

    >>> tensor([[1.0, 2.0]], dtype="float32")
    tensor([[1., 2.]], dtype=float32)
    """
    array = checks.real(data.array if isinstance(data, Tensor) else data, "tensor: data")
    if dtype is None:
        dtype = np.float64 if requires_grad and array.dtype.kind != "f" else array.dtype
    dtype = np.dtype(dtype)
    if not backend.is_real(dtype):
        raise TypeError(f"tensor: dtype is {dtype}, expected {checks.REAL}")
    if requires_grad and dtype.kind != "f":
        raise TypeError(f"tensor: dtype is {dtype}, expected a float dtype for a gradient")
    # A native dtype as it is: `newbyteorder` makes one that is equal, but not the same object.
    array = array.astype(dtype if dtype.isnative else dtype.newbyteorder("="), copy=True)
    return Tensor(backend.to_device(array, device), requires_grad)


def as_tensor(value: Operand | Sequence[Any]) -> Tensor:
    """Return a Tensor as it is; anything else as `tensor` makes it."""
    return value if isinstance(value, Tensor) else tensor(value)
