"""A tensor is an array that remembers how it was made.

A `Tensor` holds an array and its `Origin`: which operation made it, from which arguments. The
origins are the tape, and `tape.py` walks it back. The operators of tensors are attached by
`primitives.py`, where each stands with its gradient rule.
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

_births = itertools.count()


class Differentiable(Protocol):
    """The tape asks an operation for a name, and for the cotangents of its arguments."""

    name: str

    def pull(
        self, cotangent: Tensor, output: Tensor, wanted: Set[int]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (argument, its share of the cotangent) for the arguments whose `id` is wanted."""
        ...


class Origin(NamedTuple):
    """An origin says how a tensor was made."""

    operation: Differentiable
    arguments: tuple[Any, ...]  # tensors and constants, as they were passed
    options: dict[str, Any]
    saved: Any = None  # what a kernel keeps from its forward pass for its backward pass
    seen: Sequence[Any] = ()  # the arrays of the arguments and of the result: `ownership.py`


class Tensor:
    """An array that remembers how it was made.

    `.data` is a NumPy or CuPy array; `.grad`, after `backward()`, is one too (leaves only).
    Tensors are values: no operation changes one in place. Optimisers write to the `.data` of
    parameters, and so may you; a walk back over what was made from the old values is an error.
    An array beside a tensor is copied for the walk back; `tensor` copies, `Tensor(data)` does not.
    (Of any other tensor only a new array is seen, not what is written into the old one.)
    """

    __slots__ = ("__weakref__", "array", "birth", "grad", "lent", "origin", "requires_grad")

    # NumPy must not try `array * tensor` element by element: it is ours to do.
    __array_ufunc__ = None

    def __init__(self, data: Array, requires_grad: bool = False, origin: Origin | None = None):
        # NumPy returns scalars, not arrays, for results without axes.
        # `array` is `data` for code of ours that writes nothing into it, and does not hand it on.
        self.array: Array = np.asarray(data) if isinstance(data, np.generic) else data
        self.grad: Array | None = None
        self.requires_grad = requires_grad
        self.origin = origin
        self.birth = next(_births)  # a tensor is younger than all it was made from
        self.lent: Array | None = None  # a copy from when `data` was handed out: `ownership.py`

    @property
    def data(self) -> Array:
        """The array. Whoever holds that of a parameter may write into it."""
        if self.lent is None and self.requires_grad and self.origin is None:
            self.lent = self.array.copy()
        return self.array

    @data.setter
    def data(self, array: Array) -> None:
        if array is not self.array:  # it is after `p.data -= d`, which writes in place
            if type(array) is not np.ndarray or not array.dtype.isnative:
                array = _assignable(array)
            self.array = self.lent = array

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

    # `==` compares element by element, so equality cannot be what dicts and sets go by.
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
        """Return the same values without the tape: a constant (the papers' stop-gradient `sg`).

        Of a parameter, which optimisers write into, it is a copy.
        """
        is_parameter = self.requires_grad and self.origin is None
        return Tensor(self.array.copy() if is_parameter else self.array)

    def __reduce__(self) -> tuple[Callable[..., Tensor], tuple[Any, ...]]:
        """`copy` and `pickle` take data, `requires_grad` and `grad`; refused on a tape, which a
        copy would leave without a word."""
        if self.origin is not None:
            raise TypeError(
                f"copy, pickle: this tensor was made by {self.origin.operation.name} and would "
                "lose the tape behind it: take tensor.detach()"
            )
        return _again, (self.array, self.requires_grad, self.grad)

    if TYPE_CHECKING:  # attached by `tape.py` and, each where its rule stands, by `primitives.py`
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
    """Return what was assigned to `data` as an array that every kernel can read."""
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
    """Return a tensor that was copied or pickled: a new one, whose birth is of this process."""
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
    array = array.astype(dtype.newbyteorder("="), copy=True)
    return Tensor(backend.to_device(array, device), requires_grad)


def as_tensor(value: Operand | Sequence[Any]) -> Tensor:
    """Return a Tensor as it is; anything else as `tensor` makes it."""
    return value if isinstance(value, Tensor) else tensor(value)
