"""Data parallelism: each thread takes a part of the batch forward and back.

    mean loss of the batch = sum over parts of (samples of the part / samples) (its mean loss)

and so are the gradients. Threads meet once a step instead of in every product, which is the
fastest arrangement for transformers on a CPU; networks of few large products are better off with
each product cut in parts, as it is by default (docs/performance.md has both).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minimono import checks, machine
from minimono.backend import Array, array_module
from minimono.engine.tape import accumulate, leaf_gradients
from minimono.engine.tensor import Tensor
from minimono.kernels.parallel import side_by_side
from minimono.nn.module import Module, attached


def backward_in_parts(
    loss: Callable[..., Tensor], model: Module, batch: tuple[Any, ...]
) -> float:
    """Add the gradients of `loss(model, *batch)` to the parameters' `.grad`; returns the loss.

    loss: a mean over samples.   batch: arrays or tensors, axis 0 for samples.

    There are as many parts as threads (`minimono.set_num_threads`), one on a GPU; the last bits
    depend on it. Each part holds gradients of all parameters until all are done.
    Raises ValueError for a model with state that a forward pass changes (dropout, MEmeL, L2E) or
    whose taps are read or replaced: parts have no order.

    >>> import numpy as np
    >>> import minimono as mm
    >>> model = mm.nn.Linear(3, 1, rng=np.random.default_rng(0))
    >>> x, y = mm.tensor(np.ones((4, 3), np.float32)), mm.tensor(np.zeros((4, 1), np.float32))
    >>> loss = backward_in_parts(lambda model, x, y: ((model(x) - y) ** 2).mean(), model, (x, y))
    >>> model.weight.grad.shape
    (1, 3)
    """
    _check(model, batch)
    samples = len(batch[0])

    def work(part: slice) -> tuple[float, list[tuple[Tensor, Array]]]:
        output = loss(model, *(values[part] for values in batch))
        checks.instance(output, "backward_in_parts: what loss returned", Tensor)
        share = (part.stop - part.start) / samples
        gradients = leaf_gradients(
            output, array_module(output.array).asarray(share, output.dtype)
        )
        return share * output.item(), gradients

    on_gpu = any(p.device == "cuda" for p in model.parameters())
    found = side_by_side(work, samples, 1 if on_gpu else min(machine.threads(), samples))
    sums: dict[int, tuple[Tensor, Array]] = {}
    for _, gradients in found:  # in the order of the parts: the same bits each time
        for leaf, gradient in gradients:
            if id(leaf) in sums:
                sums[id(leaf)][1][...] += gradient
            else:
                sums[id(leaf)] = leaf, gradient
    accumulate([*sums.values()])
    return sum(value for value, _ in found)


def _check(model: Module, batch: tuple[Any, ...]) -> None:
    lengths = {len(values) for values in batch}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(
            f"backward_in_parts: batch has {[len(values) for values in batch]} samples (axis 0), "
            "expected one number, above 0"
        )
    for name, module in model.named_modules():
        if module.extra_state():
            raise ValueError(
                f"backward_in_parts: {name or 'model'} ({type(module).__name__}) has a state that "
                "a forward pass changes, and parts have no order: use loss.backward()"
            )
        if [*attached(module, "read"), *attached(module, "replace")]:
            raise ValueError(
                f"backward_in_parts: tap {name} is being read or replaced, and parts have no "
                "order: use loss.backward()"
            )
