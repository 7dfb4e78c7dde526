"""A number that remembers how it was made, and the walk back that gives its gradient.

A `Tensor` holds an array and its `Origin`: which primitive made it, from which arguments. The
origins are the tape. `pull_back` walks it from the youngest tensor to the oldest and applies to
each the rule that its primitive brings:

    y = f(x_1, x_2, ...)        cotangent of x_i  +=  (dy/dx_i)^T  cotangent of y

Rules are written in tensor operations, so a gradient can have a tape of its own: `grad(grad(f))`.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from minimono import backend
from minimono.backend import Array

Operand: TypeAlias = "Tensor | Array | float"  # what an operator takes beside a Tensor

_recording: ContextVar[bool] = ContextVar("minimono_recording", default=True)
_births = itertools.count()


def is_recording() -> bool:
    """Whether operations are being written on the tape (True unless inside `no_grad()`)."""
    return _recording.get()


@contextmanager
def _recorded(record: bool) -> Iterator[None]:
    before = _recording.get()
    try:
        _recording.set(record)  # in here: a Ctrl-C may come as soon as it is done
        yield
    finally:
        _recording.set(before)


def no_grad() -> AbstractContextManager[None]:
    """Write nothing on the tape in this `with` block.

    >>> x = tensor(3.0, requires_grad=True)
    >>> with no_grad():
    ...     (x * x).requires_grad
    False
    """
    return _recorded(False)


class Differentiable(Protocol):
    """What the tape asks of an operation: a name, and cotangents of its arguments."""

    name: str

    def pull(
        self, cotangent: Tensor, output: Tensor, wanted: Set[int]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Pairs (argument, its share of the cotangent) for the arguments whose `id` is wanted."""
        ...


class Origin(NamedTuple):
    """How a tensor was made."""

    operation: Differentiable
    arguments: tuple[Any, ...]  # tensors and constants, as they were passed
    options: dict[str, Any]
    saved: Any = None  # what a kernel keeps from its forward pass for its backward pass
    seen: Sequence[Any] = ()  # the arrays of the arguments and of the result, see `is_stale`


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
        self.lent: Array | None = None  # a copy from when `data` was handed out, see `is_stale`

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
                array = _plain(array)
            self.array = self.lent = array

    @property
    def shape(self) -> tuple[int, ...]:
        """The lengths of the axes."""
        return tuple(self.array.shape)

    @property
    def ndim(self) -> int:
        """How many axes there are."""
        return int(self.array.ndim)

    @property
    def size(self) -> int:
        """How many elements there are."""
        return int(self.array.size)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the elements."""
        dtype: np.dtype[Any] = self.array.dtype
        return dtype

    @property
    def device(self) -> str:
        """Where they are: "cpu" or "cuda"."""
        return backend.device_of(self.array)

    # `==` compares element by element, so equality cannot be what dicts and sets go by.
    __hash__ = object.__hash__

    def item(self) -> float:
        """The only element as a Python number. On a GPU this waits for all work before it."""
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
        """The same values without the tape: a constant (the stop-gradient `sg` of the papers).

        Of a parameter, which optimisers write into, a copy.
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

    def backward(self, cotangent: Array | None = None) -> None:
        """Add d(self)/d(leaf) to `.grad` of every leaf that requires it.

        For a tensor that is not a scalar, `cotangent` of its shape says which combination of its
        elements to differentiate. Gradients add up over calls, as in PyTorch.

        >>> x = tensor([1.0, 2.0], requires_grad=True)
        >>> (x * x).sum().backward()
        >>> x.grad
        array([2., 4.])
        """
        accumulate(self.leaf_gradients(cotangent))

    def leaf_gradients(self, cotangent: Array | None = None) -> list[tuple[Tensor, Array]]:
        """What `backward` adds to the leaves, without adding it: pairs of a leaf and its share."""
        if not self.requires_grad:
            raise ValueError(
                "backward: nothing that this tensor was made from has requires_grad=True"
            )
        tape = tape_of(self)
        leaves = [node for node in tape if node.origin is None]
        with no_grad():
            on_the_way = {id(node) for node in tape}  # each leads to a leaf
            gradients = pull_back(tape, self, _cotangent_of(self, cotangent), leaves, on_the_way)
        found = []
        for leaf in leaves:
            gradient = gradients.pop(id(leaf)) if id(leaf) in gradients else zeros_like(leaf)
            found.append((leaf, _own_array(gradient)))
        return found

    if TYPE_CHECKING:  # operators and methods: attached by primitives.py, where each rule stands
        # fmt: off
        def __add__(self, other: Operand) -> Tensor: ...
        def __radd__(self, other: Operand) -> Tensor: ...
        def __sub__(self, other: Operand) -> Tensor: ...
        def __rsub__(self, other: Operand) -> Tensor: ...
        def __mul__(self, other: Operand) -> Tensor: ...
        def __rmul__(self, other: Operand) -> Tensor: ...
        def __truediv__(self, other: Operand) -> Tensor: ...
        def __rtruediv__(self, other: Operand) -> Tensor: ...
        def __pow__(self, other: Operand) -> Tensor: ...
        def __rpow__(self, other: Operand) -> Tensor: ...
        def __matmul__(self, other: Operand) -> Tensor: ...
        def __rmatmul__(self, other: Operand) -> Tensor: ...
        def __neg__(self) -> Tensor: ...
        def __abs__(self) -> Tensor: ...
        def __lt__(self, other: Operand) -> Tensor: ...
        def __le__(self, other: Operand) -> Tensor: ...
        def __gt__(self, other: Operand) -> Tensor: ...
        def __ge__(self, other: Operand) -> Tensor: ...
        def __eq__(self, other: object) -> Tensor: ...  # type: ignore[override]
        def __ne__(self, other: object) -> Tensor: ...  # type: ignore[override]
        def __getitem__(self, index: Any) -> Tensor: ...
        def exp(self) -> Tensor: ...
        def log(self) -> Tensor: ...
        def sqrt(self) -> Tensor: ...
        def tanh(self) -> Tensor: ...
        def sum(self, axis: Axis = None, keepdims: bool = False) -> Tensor: ...
        def mean(self, axis: Axis = None, keepdims: bool = False) -> Tensor: ...
        def max(self, axis: Axis = None, keepdims: bool = False) -> Tensor: ...
        def min(self, axis: Axis = None, keepdims: bool = False) -> Tensor: ...
        def reshape(self, *shape: int | tuple[int, ...]) -> Tensor: ...
        def transpose(self, *axes: int) -> Tensor: ...
        def swapaxes(self, axis: int, other: int) -> Tensor: ...
        def astype(self, dtype: Any) -> Tensor: ...
        def to(self, device: str) -> Tensor: ...
        @property
        def T(self) -> Tensor: ...
        # fmt: on


Axis: TypeAlias = int | tuple[int, ...] | None


def _plain(data: Any) -> Array:
    """What was assigned to `data`, as an array that every kernel can read."""
    if isinstance(data, Tensor):
        raise TypeError("data is a Tensor, expected an array: assign tensor.data")
    try:
        array = backend.as_array(data)
    except (TypeError, ValueError) as error:
        raise TypeError(f"data: {error}") from error
    if array.dtype.kind not in "fiubc":
        raise TypeError(f"data has dtype {array.dtype}, expected numbers")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _again(data: Array, requires_grad: bool, grad: Array | None) -> Tensor:
    """A tensor that was copied or pickled: a new one, so that its birth is of this process."""
    tensor = Tensor(data, requires_grad)
    tensor.grad = grad
    return tensor


def tensor(
    data: Any, *, dtype: Any = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """A Tensor from numbers, lists or arrays (copied), on "cpu" or "cuda".

    Integers stay integers, for use as indices; with `requires_grad` they become float64.
    Raises TypeError for complex numbers, longer floats, text, objects and masked arrays,
    ValueError for ragged lists.

    >>> tensor([[1.0, 2.0]], dtype="float32")
    tensor([[1., 2.]], dtype=float32)
    """
    if isinstance(data, Tensor):
        data = data.array
    try:
        array = backend.as_array(data)
    except (TypeError, ValueError) as error:
        kind = ValueError if isinstance(error, ValueError) else TypeError
        raise kind(f"tensor: data is not an array of numbers: {error}") from error
    if not backend.is_real(array.dtype):
        raise TypeError(
            f"tensor: data has dtype {array.dtype}, expected real numbers of at most 64 bits"
        )
    if dtype is None:
        dtype = np.float64 if requires_grad and array.dtype.kind != "f" else array.dtype
    if not backend.is_real(np.dtype(dtype)):
        raise TypeError(
            f"tensor: dtype is {np.dtype(dtype)}, expected real numbers of at most 64 bits"
        )
    array = array.astype(np.dtype(dtype).newbyteorder("="), copy=True)
    if requires_grad and array.dtype.kind != "f":
        raise TypeError(f"tensor: dtype {array.dtype} has no gradient, expected a float dtype")
    return Tensor(backend.to_device(array, device), requires_grad)


def as_tensor(value: Operand | Sequence[Any]) -> Tensor:
    """A Tensor as it is; anything else as `tensor` makes it."""
    return value if isinstance(value, Tensor) else tensor(value)


def accumulate(gradients: list[tuple[Tensor, Array]]) -> None:
    """Add gradients, each an array of its own, to `.grad` of their leaves."""
    for leaf, gradient in gradients:
        leaf.grad = gradient if leaf.grad is None else (Tensor(leaf.grad) + Tensor(gradient)).array


def tape_of(output: Tensor, ends: Sequence[Tensor] = ()) -> list[Tensor]:
    """All tensors that `output` depends on and that require gradients, youngest first.

    Looks no further back than `ends`. Sorting by birth puts every tensor before those it was made
    from, with no recursion: a chain of a million operations is no deeper than one of ten.
    """
    stops = {id(end) for end in ends}
    found = {id(output): output}
    to_visit = [output]
    while to_visit:
        node = to_visit.pop()
        if node.origin is None or id(node) in stops:
            continue
        for argument in node.origin.arguments:
            if isinstance(argument, Tensor) and argument.requires_grad:
                if id(argument) not in found:
                    found[id(argument)] = argument
                    to_visit.append(argument)
    return sorted(found.values(), key=attrgetter("birth"), reverse=True)


def pull_back(
    tape: list[Tensor], output: Tensor, cotangent: Tensor, ends: Sequence[Tensor],
    on_the_way: Set[int],
) -> dict[int, Tensor]:  # fmt: skip
    """Cotangents, by `id`, of those `ends` that `output` depends on: the reverse walk.

    `on_the_way`: ids of the tensors on the tape that depend on an end, the ends included. Only they
    need a cotangent. It is complete when the walk reaches the tensor: all that used it are younger.
    """
    stops = {id(end) for end in ends}
    gradients = {id(output): cotangent} if id(output) in on_the_way else {}
    for node in tape:
        arriving = gradients.get(id(node))
        if arriving is not None and arriving.array.dtype != node.array.dtype:
            # Now that all shares are in: rounded once.
            gradients[id(node)] = arriving = arriving.astype(node.array.dtype)
        if id(node) in stops or node.origin is None:
            continue
        if arriving is None and not _is_view(node):
            continue  # a view, though no cotangent comes by, may be what a rule reads
        operation = node.origin.operation
        if is_stale(node):
            raise RuntimeError(
                f"backward: a value that {operation.name} used was changed after it was used, by "
                "an optimiser's step or by writing to `data`, and the gradient would mix old and "
                "new values; run the forward pass again, or go back before the change"
            )
        if arriving is None:
            continue
        del gradients[id(node)]
        for argument, share in operation.pull(arriving, node, on_the_way):
            share = like(share, argument, operation.name)
            known = gradients.get(id(argument))
            gradients[id(argument)] = share if known is None else known + share
    return gradients


def copy_of_lent(argument: Any, array: Any) -> Any:
    """The array of an argument, as a copy if somebody outside may write into it."""
    lent = isinstance(argument, Tensor) and argument.lent is not None
    return array.copy() if lent else array


def is_stale(node: Tensor) -> bool:
    """Whether an argument, or `node` itself, holds other values now than when it was made.

    A rule would take them for those of the forward pass. A new array is known by not being the old
    one. Writing into an array goes unseen; so where that of a parameter has been handed out, the
    values are compared, with a copy from the forward pass, or from when it was handed out after it.
    """
    assert node.origin is not None
    _, arguments, _, _, arrays = node.origin
    for argument, seen in zip(arguments, arrays, strict=False):  # the last array is the result
        if isinstance(argument, Tensor):
            if argument.array is not seen:
                if not _same_values(argument.array, seen):
                    return True
            elif argument.lent is not None and not _same_values(seen, argument.lent):
                return True
    return node.array is not arrays[-1] and not _same_values(node.array, arrays[-1])


def _is_view(node: Tensor) -> bool:
    """Whether the array of `node` lies in that of an argument, and changes with it."""
    assert node.origin is not None
    base = node.array.base
    return base is not None and any(
        isinstance(a, Tensor) and (a.array is base or a.array.base is base)
        for a in node.origin.arguments
    )


def _same_values(x: Array, y: Array) -> bool:
    """Whether two arrays hold the same, nan included. On a GPU this waits."""
    if type(x) is not type(y) or x.shape != y.shape or x.dtype != y.dtype:
        return False
    return x is y or bool(((x == y) | ((x != x) & (y != y))).all())


def _depending_on(ends: Sequence[Tensor], tape: list[Tensor]) -> set[int]:
    """The ids of `ends` and of those on the tape that were made from them."""
    found = {id(end) for end in ends}
    for node in reversed(tape):
        if node.origin and any(id(argument) in found for argument in node.origin.arguments):
            found.add(id(node))
    return found


def like(share: Tensor, argument: Tensor, name: str) -> Tensor:
    """A cotangent in the shape of its argument, ready to be added to others.

    What was repeated going forward is added up going back: the shadow of broadcasting. Done here
    once, so that no rule has to. float16 is added in float32.
    """
    if not isinstance(share, Tensor):
        raise TypeError(f"{name}: a rule returned {type(share).__name__}, expected a Tensor")
    if share.array.dtype.char == "e":
        share = share.astype(np.float32)
    if share.array.shape != argument.array.shape:
        extra = share.ndim - argument.ndim
        sizes = (1,) * extra + argument.shape
        repeated = tuple(i for i, n in enumerate(sizes) if n == 1)
        total = share.sum(axis=repeated, keepdims=True) if extra >= 0 else share
        if total.shape != sizes:
            raise ValueError(
                f"{name}: a rule returned shape {share.shape} for an argument of {argument.shape}"
            )
        share = total.reshape(argument.shape)
    return share


def zeros_like(x: Tensor) -> Tensor:
    return Tensor(backend.array_module(x.array).zeros_like(x.array))


def _own_array(gradient: Tensor) -> Array:
    """The array of a gradient: itself if nothing else holds it, else a copy, in one block.

    A rule may hand one tensor, or one array, to two leaves, or hand on one that the user holds.
    """
    array = gradient.array
    if (
        type(array) is np.ndarray
        and array.base is None
        and array.flags.c_contiguous
        and _holders(gradient) == _NO_OTHER_HOLDERS
    ):
        return array
    return array.copy()


def _holders(gradient: Tensor) -> tuple[int, int]:
    """How often Python counts the tensor and its array as held."""
    return sys.getrefcount(gradient), sys.getrefcount(gradient.array)


def _holders_of_a_new_tensor() -> tuple[int, int]:
    def own_array(gradient: Tensor) -> tuple[int, int]:  # as `_own_array` does it
        array = gradient.array
        counts = _holders(gradient)
        del array
        return counts

    gradient = Tensor(np.zeros(1))
    return own_array(gradient)


_NO_OTHER_HOLDERS = _holders_of_a_new_tensor()  # the counts differ between versions of Python


def _cotangent_of(output: Tensor, cotangent: Array | None) -> Tensor:
    if cotangent is None:
        if output.size != 1:
            raise ValueError(
                f"backward: tensor has shape {output.shape}, expected a scalar; "
                "sum it, or pass a cotangent of its shape"
            )
        return Tensor(backend.array_module(output.array).ones_like(output.array))
    cotangent = backend.as_array(cotangent)
    if cotangent.dtype.kind not in "fiub":
        raise TypeError(f"backward: cotangent has dtype {cotangent.dtype}, expected real numbers")
    if cotangent.shape != output.shape:
        raise ValueError(
            f"backward: cotangent has shape {cotangent.shape}, tensor has {output.shape}"
        )
    return Tensor(backend.to_device(cotangent, output.device).astype(output.dtype))


def grad(
    f: Callable[..., Tensor], argnums: int | tuple[int, ...] = 0
) -> Callable[..., Any]:
    """The gradient of a scalar function, as a function of the same arguments.

    Takes and returns Tensors (a tuple of them for a tuple of `argnums`), and composes.

    >>> cube = lambda x: x * x * x
    >>> grad(cube)(tensor(2.0)), grad(grad(cube))(tensor(2.0))
    (tensor(12.), tensor(12.))
    """
    wanted = (argnums,) if isinstance(argnums, int) else tuple(argnums)

    def gradient(*args: Any, **kwargs: Any) -> Any:
        values = list(args)
        for i in wanted:
            if not 0 <= i < len(values):
                raise ValueError(f"grad: argnums is {argnums}, f got {len(values)} arguments")
            values[i] = _variable(values[i], f"grad: argument {i}")
        variables = [values[i] for i in wanted]
        with _recorded(True):
            output = f(*values, **kwargs)
        if not isinstance(output, Tensor) or output.size != 1:
            got = f"shape {output.shape}" if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(f"grad: f returned {got}, expected a Tensor with one element")

        tape = tape_of(output, ends=variables)
        ours = {id(variable) for variable in variables}
        # The walk needs a tape of its own only if something else is being differentiated too:
        # an outer grad's variable behind one of ours, or one that f closes over.
        others = any(v.origin is not None for v in variables) or any(
            node.origin is None and id(node) not in ours for node in tape
        )
        with _recorded(others and is_recording()):
            on_the_way = _depending_on(variables, tape)
            gradients = pull_back(
                tape, output, _cotangent_of(output, None), variables, on_the_way
            )
        result = tuple(
            gradients[id(v)] if id(v) in gradients else zeros_like(v) for v in variables
        )
        return result[0] if isinstance(argnums, int) else result

    return gradient


def _variable(value: Operand, name: str) -> Tensor:
    """A tensor to differentiate by, new, so that two nested gradients never mix theirs up."""
    if isinstance(value, Tensor) and value.requires_grad:
        with _recorded(True):
            return value.reshape(value.shape)
    data = value.array if isinstance(value, Tensor) else tensor(value).array
    if data.dtype.kind not in "fc":
        if isinstance(value, Tensor):
            raise TypeError(f"{name} has dtype {data.dtype}, which has no gradient")
        data = data.astype(np.float64)
    return Tensor(data, requires_grad=True)
