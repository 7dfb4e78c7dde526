"""Data parallelism: each thread takes a part of the batch forward and back.

    mean loss of the batch = sum over parts of (samples of the part / samples) (its mean loss)

and so are the gradients. Threads meet once a step instead of in every product, which is the
fastest arrangement for transformers on a CPU; networks of few large products are better off with
each product cut in parts, as it is by default (docs/performance.md has both).

A module with a state that a forward pass changes is not run by several threads. It gives a stand-in
for each part (`Module.divide`), which is called in its place, and takes over what they have learnt
when all are done (`Module.reunite`), in the order of the parts, whichever was done first:

* Dropout's draw their numbers from streams in which each sample has a place of its own.
* MEmeL's score their samples with the moments of the batches before, and the moments of the parts,
  merged, are those of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np

from minimono import checks, machine
from minimono.backend import Array, array_module
from minimono.engine import functional as F
from minimono.engine.tape import accumulate, leaf_gradients
from minimono.engine.tensor import Tensor
from minimono.kernels.parallel import cuts, side_by_side
from minimono.nn.module import Forward, Module, attached, attachments
from minimono.nn.randomness import Stream
from minimono.nn.taps import attaching

# What a part must have to pay for its own gradients of all parameters, and for Python's work, which
# threads cannot share: rows of the matrices that are multiplied, and rows times parameters.
ROWS, WORK = 512, 2**27


class PartOfDropout(Module):
    """`Dropout` in a part of a batch: what it drops does not depend on where the batch is cut."""

    def __init__(self, p: float, stream: Stream):
        self.p, self.stream = p, stream

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.p, rng=self.stream.generator(x.size))


def backward_in_parts(
    loss: Callable[..., Tensor], model: Module, batch: tuple[Any, ...]
) -> float:
    """Add the gradients of `loss(model, *batch)` to the parameters' `.grad`; returns the loss.

    loss: a mean over samples, so nothing of the whole batch.   batch: arrays or tensors, axis 0 for
    samples.

    A batch that is large enough for it to pay is cut into as many parts as there are threads
    (`minimono.set_num_threads`), on a GPU never. Only the last bits depend on their number. Each
    part holds gradients of all parameters until all are done. Dropout drops other elements than in
    `loss(...).backward()`, but the same ones in any number of parts. If it raises, the states of
    all modules are as before.

    Raises ValueError for a module whose state needs the whole batch: MEmeL with
    convention="authors" or a rule that is not `by_sample`, or called more than once; L2E; one of
    yours that has `extra_state` and no `divide`. And while taps are read or replaced: parts have no
    order.

    >>> import numpy as np
    >>> import minimono as mm
    >>> model = mm.nn.Linear(3, 1, rng=np.random.default_rng(0))
    >>> x, y = mm.tensor(np.ones((4, 3), np.float32)), mm.tensor(np.zeros((4, 1), np.float32))
    >>> loss = backward_in_parts(lambda model, x, y: ((model(x) - y) ** 2).mean(), model, (x, y))
    >>> model.weight.grad.shape
    (1, 3)
    """
    modules = [*model.named_modules()]
    _check(modules, batch)
    samples = len(batch[0])
    parts = cuts(samples, parts_that_pay(model, batch))

    def work(part: slice) -> tuple[float, list[tuple[Tensor, Array]]]:
        i = parts.index(part)
        calls = [(module, "call", _calling(those[i])) for _, module, those in divided]
        with attaching(calls) if calls else nullcontext():
            output = loss(model, *(values[part] for values in batch))
        checks.instance(output, "backward_in_parts: what loss returned", Tensor)
        share = (part.stop - part.start) / samples
        gradients = leaf_gradients(
            output, array_module(output.array).asarray(share, output.dtype)
        )
        return share * output.item(), gradients

    undo = [module.remember() for _, module in modules]
    try:
        divided = _divided(modules, parts)
        found = side_by_side(work, samples, len(parts))
        for name, module, stand_ins in divided:
            try:
                module.reunite(stand_ins)
            except ValueError as error:
                raise _in_the_way(name, module, error) from error
        accumulate(_summed([gradients for _, gradients in found]))
    except BaseException:  # a Ctrl-C, too
        for put_back in undo:
            put_back()
        raise
    return sum(value for value, _ in found)


def parts_that_pay(model: Module, batch: tuple[Any, ...]) -> int:
    """Return how many parts a batch is to be cut into, by the sizes of batch and model alone."""
    parameters = [*model.parameters()]
    if any(p.device == "cuda" for p in parameters):
        return 1
    rows = max(_rows(values) for values in batch)
    work = rows * sum(p.size for p in parameters)
    return max(1, min(machine.threads(), len(batch[0]) // 2, rows // ROWS, work // WORK))


def _rows(values: Any) -> int:
    """Return how many vectors there are in a batch; a token or a label is one."""
    values = values if hasattr(values, "dtype") else np.asarray(values)
    are_vectors = values.ndim > 1 and values.dtype.kind not in "iub"
    return int(values.size) // max(values.shape[-1], 1) if are_vectors else int(values.size)


def _divided(
    modules: list[tuple[str, Module]], parts: Sequence[slice]
) -> list[tuple[str, Module, Sequence[Module]]]:
    """Return the modules that are not run by several threads, each with its stand-ins."""
    found = []
    for name, module in modules:
        try:
            stand_ins = module.divide(parts)
        except ValueError as error:
            raise _in_the_way(name, module, error) from error
        if stand_ins is not None:
            found.append((name, module, stand_ins))
    return found


def _in_the_way(name: str, module: Module, error: ValueError) -> ValueError:
    return ValueError(
        f"backward_in_parts: {name or 'model'} ({type(module).__name__}) {error}; "
        "use loss.backward()"
    )


def _calling(stand_in: Module) -> Callable[[Forward], Forward]:
    return lambda _: stand_in.forward


def _summed(parts: list[list[tuple[Tensor, Array]]]) -> list[tuple[Tensor, Array]]:
    """Return the gradients of all parts, added up in their order: the same bits each time."""
    sums: dict[int, tuple[Tensor, Array]] = {}
    for gradients in parts:
        for leaf, gradient in gradients:
            if id(leaf) in sums:
                sums[id(leaf)][1][...] += gradient
            else:
                sums[id(leaf)] = leaf, gradient
    return [*sums.values()]


def _check(modules: list[tuple[str, Module]], batch: tuple[Any, ...]) -> None:
    lengths = {len(values) for values in batch}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(
            f"backward_in_parts: batch has {[len(values) for values in batch]} samples (axis 0), "
            "expected one number, above 0"
        )
    for name, module in modules if attachments.get() else ():
        if [*attached(module, "read"), *attached(module, "replace")]:
            raise ValueError(
                f"backward_in_parts: tap {name} is being read or replaced, and parts have no "
                "order; use loss.backward()"
            )
