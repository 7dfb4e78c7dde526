"""The tape, and the walk back that gives a gradient.

Each tensor knows its origin, so a result knows all that it was made from: that is the tape.
`pull_back` walks it from the youngest tensor to the oldest. At each it has the operation's rules
give the shares of the arguments, and adds them up:

    y = f(x_1, x_2, ...)        cotangent of x_i  +=  (dy/dx_i)^T  cotangent of y

Rules are written in tensor operations. So the walk can itself be recorded, and a gradient has a
gradient: `grad(grad(f))`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from operator import attrgetter
from typing import Any

import numpy as np

from minimono import backend, checks
from minimono.backend import Array
from minimono.engine.ownership import check_unchanged, is_view, own_array
from minimono.engine.tensor import Operand, Tensor, tensor

# A context variable, since each thread records or not for itself.
_recording: ContextVar[bool] = ContextVar("minimono_recording", default=True)


def is_recording() -> bool:
    """Return whether operations are being written on the tape (True unless in `no_grad()`)."""
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


# ---- the walk back -----------------------------------------------------------------------------


def tape_of(output: Tensor, ends: Sequence[Tensor] = ()) -> list[Tensor]:
    """Return all tensors that `output` depends on and that require gradients, youngest first.

    It looks no further back than `ends`. Sorting by birth puts every tensor before those that it
    was made from. There is no recursion, so a chain of a million operations is no problem.
    """
    stops, found, to_visit = set(ends), {output}, [output]  # sets of tensors: by identity
    while to_visit:
        node = to_visit.pop()
        if node in stops:
            continue
        for argument in node.origin.arguments if node.origin else ():
            if isinstance(argument, Tensor) and argument.requires_grad and argument not in found:
                found.add(argument)
                if argument.origin is not None:
                    to_visit.append(argument)
    return sorted(found, key=attrgetter("birth"), reverse=True)


def pull_back(
    tape: list[Tensor], output: Tensor, cotangent: Tensor, ends: Sequence[Tensor],
    wanted: Set[int],
) -> dict[int, Tensor]:
    """Return the cotangents, by `id`, of those `ends` that `output` depends on: the reverse walk.

    `cotangent` is that of `output`. `wanted`: the ids of the tensors on the tape that get one: the
    ends and all that depends on an end. The others lead to no end.
    """
    stops = set(ends)
    cotangents = {id(output): cotangent} if id(output) in wanted else {}
    for node in tape:
        if node.origin is None or node in stops:
            continue
        # All that used the node are younger, so the walk has been there: all its shares are in.
        arriving = cotangents.pop(id(node), None)  # only those of the ends are left at the end
        # A node that gets no cotangent may still be read, by the rule of another. If it is a view,
        # it has changed with what it is a view of.
        if arriving is not None or is_view(node):
            check_unchanged(node)
        if arriving is None:
            continue
        operation = node.origin.operation
        for argument, share in operation.pull(_rounded(arriving, node), node, wanted):
            share, place = unbroadcast(share, argument, operation.name), id(argument)
            known = cotangents.get(place)
            cotangents[place] = share if known is None else known + share
    return {id(end): _rounded(cotangents[id(end)], end) for end in ends if id(end) in cotangents}


def _rounded(cotangent: Tensor, node: Tensor) -> Tensor:
    """Return the sum of all shares of a node in its dtype, rounded once."""
    dtype = node.array.dtype
    return cotangent if cotangent.array.dtype == dtype else cotangent.astype(dtype)


def unbroadcast(share: Tensor, argument: Tensor, name: str) -> Tensor:
    """Return a share in the shape of its argument, ready to be added to others.

    An element that broadcasting has repeated going forward was used several times; going back, its
    shares are added up. This is done here, so that no rule has to. float16 is added in float32.
    """
    if not isinstance(share, Tensor):
        raise TypeError(f"{name}: a rule returned {type(share).__name__}, expected a Tensor")
    if share.array.dtype.char == "e":
        share = share.astype(np.float32)
    if share.array.shape == argument.array.shape:
        return share
    extra = share.ndim - argument.ndim  # axes that broadcasting put in front
    sizes = (1,) * extra + argument.shape
    repeated = tuple(i for i, n in enumerate(sizes) if n == 1)
    total = share.sum(axis=repeated, keepdims=True) if extra >= 0 else share
    if total.shape != sizes:
        raise ValueError(
            f"{name}: a rule returned shape {share.shape} for an argument of {argument.shape}"
        )
    return total.reshape(argument.shape)


def _start(output: Tensor, cotangent: Array | None) -> Tensor:
    """Return the cotangent that the walk begins with: 1 for a scalar, else what the user gives."""
    if cotangent is None:
        if output.size != 1:
            raise ValueError(
                f"backward: tensor has shape {output.shape}, expected a scalar; "
                "sum it, or pass a cotangent of its shape"
            )
        xp = backend.array_module(output.array)
        return Tensor(xp.array(1.0, dtype=output.array.dtype, ndmin=output.array.ndim))
    cotangent = checks.real(cotangent, "backward: cotangent")
    checks.shaped(cotangent, "backward: cotangent", output.shape, "the tensor's")
    return Tensor(backend.to_device(cotangent, output.device).astype(output.dtype))


def _or_zeros(cotangent: Tensor | None, end: Tensor) -> Tensor:
    """Return the cotangent of an end; zeros if no share arrived, as when no rule gave one."""
    if cotangent is None:
        return Tensor(backend.array_module(end.array).zeros_like(end.array))
    return cotangent


# ---- the gradient of what has been computed: backward() ----------------------------------------


def backward(output: Tensor, cotangent: Array | None = None) -> None:
    """Add d(output)/d(leaf) to `.grad` of every leaf that requires it.

    For a tensor that is not a scalar, `cotangent` of its shape says which combination of its
    elements to differentiate. Gradients add up over calls, as in PyTorch.

    >>> x = tensor([1.0, 2.0], requires_grad=True)
    >>> (x * x).sum().backward()
    >>> x.grad
    array([2., 4.])
    """
    accumulate(leaf_gradients(output, cotangent))


def leaf_gradients(output: Tensor, cotangent: Array | None = None) -> list[tuple[Tensor, Array]]:
    """Return what `backward` adds to the leaves, without adding it: pairs (leaf, gradient)."""
    if not output.requires_grad:
        raise ValueError("backward: nothing that this tensor was made from has requires_grad=True")
    tape = tape_of(output)
    leaves = [node for node in tape if node.origin is None]
    wanted = {id(node) for node in tape}  # all of them, since each depends on a leaf
    recording = _recording.get()
    try:
        _recording.set(False)  # as in `no_grad`, whose block costs a small step a fiftieth
        cotangents = pull_back(tape, output, _start(output, cotangent), leaves, wanted)
    finally:
        _recording.set(recording)
    gradients = []
    for leaf in leaves:
        gradient = _or_zeros(cotangents.pop(id(leaf), None), leaf)
        gradients.append((leaf, own_array(gradient)))  # copied only if somebody else holds it
    return gradients


def accumulate(gradients: list[tuple[Tensor, Array]]) -> None:
    """Add gradients, each an array of its own, to `.grad` of their leaves."""
    for leaf, gradient in gradients:
        leaf.grad = gradient if leaf.grad is None else (Tensor(leaf.grad) + Tensor(gradient)).array


Tensor.backward = backward  # type: ignore[assignment, method-assign]


# ---- the gradient of a function: grad(f) -------------------------------------------------------


def grad(
    f: Callable[..., Tensor], argnums: int | tuple[int, ...] = 0
) -> Callable[..., Any]:
    """Return the gradient of a scalar function, as a function of the same arguments.

    It takes and returns Tensors (a tuple of them for a tuple of `argnums`), and composes.

    >>> cube = lambda x: x * x * x
    >>> grad(cube)(tensor(2.0)), grad(grad(cube))(tensor(2.0))
    (tensor(12.), tensor(12.))
    """
    places = (argnums,) if isinstance(argnums, int) else tuple(argnums)

    def gradient(*args: Any, **kwargs: Any) -> Any:
        values = list(args)
        for i in places:
            if not 0 <= i < len(values):
                raise ValueError(
                    f"grad: argnums is {argnums}, expected places of f's {len(values)} arguments"
                )
            values[i] = _variable(values[i], i)
        variables = [values[i] for i in places]
        with _recorded(True):
            output = f(*values, **kwargs)
        if not isinstance(output, Tensor) or output.size != 1:
            kind = f"shape {output.shape}" if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(f"grad: f returned {kind}, expected a Tensor with one element")

        tape = tape_of(output, ends=variables)
        ours = {id(variable) for variable in variables}
        # Can our gradient be differentiated in turn, by an outer grad or by backward()? If so, the
        # walk must be recorded. What they differentiate by is then either what a variable of ours
        # was made from, or a leaf that f uses without getting it as an argument.
        is_nested = any(v.origin is not None for v in variables) or any(
            node.origin is None and id(node) not in ours for node in tape
        )
        with _recorded(is_nested and is_recording()):
            wanted = _depending_on(variables, tape)
            cotangents = pull_back(tape, output, _start(output, None), variables, wanted)
        result = tuple(_or_zeros(cotangents.get(id(v)), v) for v in variables)
        return result[0] if isinstance(argnums, int) else result

    return gradient


def _variable(value: Operand, i: int) -> Tensor:
    """Return a new tensor to differentiate by, so that nested gradients do not share one."""
    if isinstance(value, Tensor) and value.requires_grad:
        # It is being differentiated by already. An operation that changes nothing, on the tape,
        # makes a new tensor of it, through which the outer gradient reaches it.
        with _recorded(True):
            return value.reshape(value.shape)
    if isinstance(value, Tensor):
        return Tensor(checks.floats(value.array, f"grad: argument {i}", "fc"), requires_grad=True)
    return tensor(value, requires_grad=True)


def _depending_on(ends: Sequence[Tensor], tape: list[Tensor]) -> set[int]:
    """Return the ids of `ends` and of those on the tape that were made from them."""
    found = {id(end) for end in ends}
    for node in reversed(tape):  # oldest first: what a node was made from is decided before it
        if node.origin and any(id(argument) in found for argument in node.origin.arguments):
            found.add(id(node))
    return found
