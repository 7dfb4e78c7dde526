"""Optimisers: how a gradient becomes a change of the parameters. PyTorch's formulas and defaults.

    SGD      g' = g + w p        b = momentum b + g'                  p -= lr b
    Adam     g' = g + w p        m, v = running means of g', g'^2     p -= lr m^ / (sqrt v^ + eps)
    AdamW    g' = g              the same m and v                     the same, and p -= lr w p

p is a parameter, g its gradient, w the weight decay. Each formula is a function of arrays, and its
class calls it for each parameter in `step()`:

    p, *running = formula(p, g, *running, **arguments)

`running` is what is kept of this parameter from step to step, at first 0: nothing, b, or m and v.
That line is in `nn/optimiser.py`, with what else the classes share: a step that happens whole or
not at all, float16, saving.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from minimono import checks, lazy
from minimono.backend import Array, array_module, as_array
from minimono.engine.tensor import Tensor
from minimono.kernels.seam import with_kernel
from minimono.nn.at_once import set_all
from minimono.nn.optimiser import Optimiser, with_gradients

__all__ = [
    "SGD", "Adam", "AdamW", "Optimiser", "clip_grad_norm", "cosine_schedule", "gradient_norm",
]
__dir__ = lazy.only(__name__, __all__)


# ---- gradient descent --------------------------------------------------------------------------


@with_kernel("optim")
def sgd(p: Array, g: Array, *, lr: float, weight_decay: float) -> tuple[Array]:
    """Return the new parameter, p - lr (g + weight_decay p); nothing is kept."""
    g = g + weight_decay * p
    return (p - lr * g,)


@with_kernel("optim")
def sgd_momentum(
    p: Array, g: Array, b: Array, *, lr: float, momentum: float, weight_decay: float
) -> tuple[Array, Array]:
    """Return the new parameter and b, the sum of all gradients, the older the less they count."""
    g = g + weight_decay * p
    b = momentum * b + g
    return p - lr * b, b


class SGD(Optimiser):
    """Gradient descent, with momentum and L2 weight decay as in PyTorch.

        b = momentum b + (g + weight_decay p)        p -= lr b

    >>> import minimono as mm
    >>> p = mm.tensor([1.0], requires_grad=True)
    >>> optimiser = SGD([p], lr=0.1)
    >>> (p * p).sum().backward()
    >>> optimiser.step()
    >>> p.data
    array([0.8])
    """

    def __init__(
        self, parameters: Iterable[Tensor], lr: float, *, momentum: float = 0.0,
        weight_decay: float = 0.0,
    ):
        self.momentum = self._not_negative("momentum", momentum)
        self.weight_decay = self._not_negative("weight_decay", weight_decay)
        if momentum:
            super().__init__(parameters, lr, sgd_momentum, running=("momentum",))
        else:
            super().__init__(parameters, lr, sgd, running=())

    def _arguments(self, t: int) -> dict[str, Any]:
        arguments = {"lr": self.lr, "weight_decay": self.weight_decay}
        if self._formula is sgd_momentum:
            arguments["momentum"] = self.momentum
        return arguments


# ---- Adam --------------------------------------------------------------------------------------


@with_kernel("optim")
def adam(
    p: Array, g: Array, m: Array, v: Array, *, t: int, lr: float, beta1: float, beta2: float,
    eps: float, l2: float, decay: float,
) -> tuple[Array, Array, Array]:
    """Return the new parameter and the running means m of g, v of g^2, at its t-th update.

    l2, decay: the weight decay of Adam, as part of the gradient, and of AdamW, apart from it.
    """
    g = g + l2 * p
    m = beta1 * m + (1.0 - beta1) * g
    v = beta2 * v + (1.0 - beta2) * g * g
    m_hat, v_hat = m / (1.0 - beta1**t), v / (1.0 - beta2**t)  # began at 0: too small yet
    return p - lr * (m_hat / (np.sqrt(v_hat) + eps) + decay * p), m, v


class Adam(Optimiser):
    """Steps scaled by the gradient's running mean and root mean square (Kingma & Ba 2015, alg. 1).

        m = beta1 m + (1 - beta1) g          m^ = m / (1 - beta1^t)
        v = beta2 v + (1 - beta2) g^2        v^ = v / (1 - beta2^t)
        p -= lr m^ / (sqrt v^ + eps)

    `weight_decay` adds weight_decay p to g, as in PyTorch. t counts the parameter's own updates.
    """

    decoupled = False  # whether weight decay is apart from the gradient

    def __init__(
        self, parameters: Iterable[Tensor], lr: float = 1e-3, *,
        betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.0,
    ):
        self.betas = checks.numbers(betas, f"{type(self).__name__}: betas", 2, least=0.0, below=1.0)
        self.eps = self._not_negative("eps", eps)
        self.weight_decay = self._not_negative("weight_decay", weight_decay)
        super().__init__(parameters, lr, adam, running=("mean", "square"))

    def _arguments(self, t: int) -> dict[str, Any]:
        beta1, beta2 = self.betas
        l2, decay = (0.0, self.weight_decay) if self.decoupled else (self.weight_decay, 0.0)
        return {
            "t": t, "lr": self.lr, "beta1": beta1, "beta2": beta2, "eps": self.eps, "l2": l2,
            "decay": decay,
        }


class AdamW(Adam):
    """Adam with decoupled weight decay: p -= lr weight_decay p (Loshchilov & Hutter 2019, alg. 2).

    The decay is not divided by the gradient's size. As in PyTorch, lr multiplies it.
    """

    decoupled = True

    def __init__(
        self, parameters: Iterable[Tensor], lr: float = 1e-3, *,
        betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.01,
    ):
        super().__init__(parameters, lr, betas=betas, eps=eps, weight_decay=weight_decay)


# ---- the size of a gradient --------------------------------------------------------------------


@with_kernel("optim")
def joint_norm(*gradients: Array) -> Array:
    """Return sqrt(sum g^2) in float64. The largest g is divided out first: no square overflows."""
    xp = array_module(*gradients)
    largest = xp.stack([abs(g).max() for g in gradients if g.size] or [0.0]).max()
    unit = xp.where((largest > 0.0) & xp.isfinite(largest), largest, 1.0).astype(np.float64)
    return unit * np.sqrt(sum(np.square(g / unit).sum() for g in gradients))


@with_kernel("optim")
def scaled(*gradients: Array, factor: Array) -> list[Array]:
    """Return each gradient times the same factor, rounded once."""
    return [np.multiply(g, factor, dtype=np.float64).astype(g.dtype) for g in gradients]


def gradient_norm(parameters: Iterable[Tensor]) -> Array:
    """Return sqrt(sum of all squared gradients): float64, without axes, on the gradients' device.

    Parameters without a gradient count as 0. On a GPU the squares of float64 gradients above about
    1e154 overflow, and the norm is infinite.
    """
    gradients = [p.grad for p in with_gradients(parameters, "gradient_norm: parameters")]
    return as_array(joint_norm(*gradients)) if gradients else np.array(0.0)


def clip_grad_norm(parameters: Iterable[Tensor], max_norm: float) -> Array:
    """Scale all gradients so that their joint norm is at most `max_norm`; return the norm before.

        g *= min(1, max_norm / (norm + 1e-6))        (PyTorch's clip_grad_norm_)

    All gradients have one factor, so their direction stays. If the norm is nan, all gradients
    become nan; if it is infinite, the infinite ones become nan and the others 0: look at the norm
    before a step, as `nn.train` does.

    >>> import minimono as mm
    >>> p = mm.tensor([0.0, 0.0], requires_grad=True)
    >>> p.grad = np.array([3.0, 4.0])
    >>> clip_grad_norm([p], 1.0), p.grad.round(4)
    (array(5.), array([0.6, 0.8]))
    """
    max_norm = checks.number(max_norm, "clip_grad_norm: max_norm", above=0.0, finite=False)
    tensors = with_gradients(parameters, "clip_grad_norm: parameters")
    norm = gradient_norm(tensors)
    factor = np.minimum(1.0, max_norm / (norm + 1e-6))
    clipped = scaled(*[p.grad for p in tensors], factor=factor)
    set_all([(p, "grad", as_array(g)) for p, g in zip(tensors, clipped, strict=True)])
    return norm


# ---- the learning rate over time ---------------------------------------------------------------


def cosine_schedule(
    step: int, *, steps: int, warmup: int, peak: float, floor: float = 0.0
) -> float:
    """Return a learning rate that rises in a line to `peak`, then falls to `floor` as a cosine.

        step <= warmup    peak (step + 1) / (warmup + 1)
        up to `steps`     floor + (peak - floor) (1 + cos(pi along)) / 2,
                          along = (step - warmup) / (steps - warmup)
        later             floor

    `step` counts from 0; 0 <= floor <= peak. The cosine: Loshchilov & Hutter 2017, eq. 5; starting
    above 0: our choice.

    >>> [cosine_schedule(step, steps=6, warmup=2, peak=0.3) for step in (0, 2, 4, 6)]
    [0.09999999999999999, 0.3, 0.15, 0.0]
    """
    name = "cosine_schedule"
    step = checks.whole_number(step, f"{name}: step", least=0)
    steps = checks.whole_number(steps, f"{name}: steps", least=1)
    warmup = checks.whole_number(warmup, f"{name}: warmup", least=0, most=steps - 1, of="steps - 1")
    peak = checks.number(peak, f"{name}: peak", least=0.0)
    floor = checks.number(floor, f"{name}: floor", least=0.0, most=peak)
    if step <= warmup:
        return peak * (step + 1) / (warmup + 1)
    along = min(1.0, (step - warmup) / (steps - warmup))
    return floor + (peak - floor) * (1.0 + math.cos(math.pi * along)) / 2.0
