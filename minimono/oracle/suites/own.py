"""minimono's own functions, as suites call them: a value and its gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minimono.backend import Array
from minimono.engine.tensor import Tensor


def value_and_gradients(
    function: Callable[..., Tensor], by: Sequence[int] = (0,), *, upstream: bool = False
) -> Callable[..., tuple[Array, ...]]:
    """Return a function of arrays that gives the value and its gradients by some arguments.

    by: which arguments.   upstream: whether the last argument is the gradient by the value.

    >>> from minimono.engine.functional import relu
    >>> value_and_gradients(relu)(np.ones(1))
    (array([1.]), array([1.]))
    """

    def own(*arrays: Array, **options: Any) -> tuple[Array, ...]:
        given: list[Any] = list(arrays)
        start = [given.pop()] if upstream else []
        leaves = {i: Tensor(np.asarray(given[i]), requires_grad=True) for i in by}
        value = function(*(leaves.get(i, x) for i, x in enumerate(given)), **options)
        value.backward(*start)
        return (value.data, *(leaf.grad for leaf in leaves.values()))

    return own
