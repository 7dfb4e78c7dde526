"""Is a gradient right? There are three independent checks, for any function, ours or yours.

For a function f of arrays, a random cotangent w, and a random direction v of one argument:

    analytic      w . (J v)  =  (J^T w) . v,   with J^T w from the tape
    directional   w . (f(x + h v) - f(x - h v)) / 2h, extrapolated: works for every f
    complex       w . Im f(x + i h v) / h with h = 1e-20: exact, for f that accept complex numbers

The second order checks the gradient J^T w in the same way: the check recurses on the derivative.
(The complex step: Squire & Trapp 1998, SIAM Review 40.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from minimono import backend, lazy
from minimono.backend import Array
from minimono.checks import Rng, floats, generator
from minimono.engine.tape import grad, no_grad
from minimono.engine.tensor import Tensor, tensor

__all__ = ["GradientError", "check_grads"]
__dir__ = lazy.only(__name__, __all__)

Mode = Literal["directional", "complex"]
# Agreement asked for, relative to the size of the terms: what extrapolated differences reach in
# float64, and rounding.
TOLERANCE: dict[Mode, float] = {"directional": 1e-6, "complex": 1e-11}


class GradientError(AssertionError):
    """A gradient disagrees with what the function does."""


def check_grads(
    f: Callable[..., Tensor], *args: Any, order: Literal[1, 2] = 1,
    modes: Sequence[Mode] = ("directional", "complex"), rng: Rng = 0,
) -> None:
    """Raise GradientError unless the gradients of `f` at `args` are right, up to `order`.

    `f` takes float64 Tensors and returns one Tensor, of any shape. Choose `args` away from kinks.
    `modes=("directional",)` for functions that do not accept complex numbers. Directions come
    from `rng`.

    >>> check_grads(lambda x: x.exp() * x, np.array([0.3, -1.2]), order=2)
    """
    unknown = set(modes) - set(TOLERANCE)
    if unknown or not modes:
        raise ValueError(f"check_grads: modes is {tuple(modes)}, expected some of {[*TOLERANCE]}")
    if order not in (1, 2):
        raise ValueError(f"check_grads: order is {order}, expected 1 or 2")
    points = [_point(a, i) for i, a in enumerate(args)]
    if not points:
        raise ValueError("check_grads: no arguments to differentiate by")
    _check(f, points, order, modes, generator(rng, "check_grads: rng"), "gradient")


def _check(
    f: Callable[..., Tensor], points: list[Array], order: int, modes: Sequence[Mode],
    rng: np.random.Generator, what: str,
) -> None:
    with no_grad():
        output = f(*[Tensor(p) for p in points])
    w = Tensor(backend.to_device(rng.standard_normal(output.shape), output.device))

    def weighted(*xs: Tensor) -> Tensor:
        return (f(*xs) * w).sum()

    gradients = grad(weighted, tuple(range(len(points))))(*[Tensor(p) for p in points])
    for i, (point, gradient) in enumerate(zip(points, gradients, strict=True)):
        if gradient.shape != point.shape:
            raise GradientError(
                f"{what} by argument {i} has shape {gradient.shape}, the argument {point.shape}"
            )
        v = backend.to_device(rng.standard_normal(point.shape), backend.device_of(point))
        analytic = float((gradient.array * v).sum())
        size = float(abs(gradient.array * v).sum())  # what rounding is measured against

        def along(step: complex, i: int = i, v: Array = v) -> complex:
            with no_grad():
                # Zero times the step makes all arguments complex, so that no cast to real loses it.
                moved = [p + step * (v if j == i else 0.0) for j, p in enumerate(points)]
                return complex(weighted(*map(Tensor, moved)).data.item())

        for mode in modes:
            numeric = _complex_step(along) if mode == "complex" else _difference(along)
            error = abs(analytic - numeric)
            if not error <= TOLERANCE[mode] * max(size, abs(numeric), 1e-3):
                raise GradientError(
                    f"{what} by argument {i}, shape {point.shape}: the tape says {analytic!r} "
                    f"along a random direction, the {mode} check {numeric!r} "
                    f"(difference {error:.1e})"
                )
    if order == 2:
        for i in range(len(points)):
            _check(grad(weighted, i), points, 1, modes, rng, f"second derivative ({i}, then)")


def _complex_step(along: Callable[[complex], complex]) -> float:
    h = 1e-20
    return along(1j * h).imag / h


def _difference(along: Callable[[complex], complex]) -> float:
    """Central differences with two step sizes, combined so that the h^2 error cancels."""
    h = 1e-4
    coarse = (along(h) - along(-h)).real / (2.0 * h)
    fine = (along(h / 2) - along(-h / 2)).real / h
    return (4.0 * fine - coarse) / 3.0


def _point(argument: Any, i: int) -> Array:
    array = argument.array if isinstance(argument, Tensor) else tensor(argument).array
    return floats(array, f"check_grads: argument {i}").astype(np.float64)
