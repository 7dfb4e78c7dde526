"""Optimisers: how a gradient becomes a change of the parameters. PyTorch's formulas and defaults.

    SGD      g' = g + w p            b = momentum b + g'                          p -= lr b
    Adam     g' = g + w p            m, v = running means of g', g'^2             p -= lr m^ / (sqrt v^ + eps)
    AdamW    the same with g' = g, and the decay apart from the gradient:         p -= lr w p

`step` gives every parameter a new array `p.data`, all at its end: it happens or it does not, also
if a Ctrl-C comes or memory runs out. Until then old and new arrays are both there. float16 parameters
have running arrays in float32 and are updated in float32, rounded once. It never waits for a GPU.
"""  # noqa: E501  (a table)

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np

from minimono import backend, describe, kernels, lazy
from minimono.backend import Array
from minimono.checks import at_least_zero, real_number, whole_number
from minimono.engine.tensor import Tensor
from minimono.nn.at_once import set_all

__all__ = [
    "SGD", "Adam", "AdamW", "Optimiser", "clip_grad_norm", "cosine_schedule", "gradient_norm",
]  # fmt: skip
__dir__ = lazy.only(__name__, __all__)


Updated: TypeAlias = Any  # a sequence: a parameter and its running arrays, all of them new


class Optimiser:
    """What optimisers share: parameters, a learning rate, running arrays for each parameter.

    A parameter without a gradient is skipped. Raises for an empty list, a parameter that comes
    twice, a tensor that was computed from others.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float, slots: tuple[str, ...]):
        self.parameters = _checked(parameters)
        self.lr = lr
        self.updates = [0] * len(self.parameters)  # of each parameter, skipped ones not counted
        self.slots: dict[str, list[Array]] = {
            name: [
                backend.array_module(p.array).zeros(p.shape, _computed_in(p.dtype))
                for p in self.parameters
            ]
            for name in slots
        }

    @property
    def lr(self) -> float:
        """The learning rate; a schedule sets it before each step."""
        return self._lr

    @lr.setter
    def lr(self, value: float) -> None:
        self._lr = at_least_zero(value, "lr")

    def __repr__(self) -> str:
        settings = {"lr": self.lr} | describe.plain(vars(self)) | {"updates": max(self.updates)}
        moves = describe.amount(self.parameters)
        return f"{type(self).__name__}({describe.named(settings)}; {moves})"

    def step(self) -> None:
        """Change every parameter that has a gradient, or if anything is wrong, raise, and none."""
        updates = self.updates.copy()
        slots = {name: arrays.copy() for name, arrays in self.slots.items()}
        changes: list[tuple[object, str, Any]]
        changes = [(self, "updates", updates), (self, "slots", slots)]
        for i, p in enumerate(self.parameters):
            old, g = p.array, p.grad
            if g is None:
                continue
            if type(g) is not type(old):
                raise TypeError(_not_an_array(f"{type(self).__name__}: parameters", i, p))
            if g.shape != old.shape or g.dtype != old.dtype:
                raise ValueError(
                    f"{type(self).__name__}: parameter {i} is {old.dtype} {tuple(old.shape)}, "
                    f"its gradient {g.dtype} {tuple(g.shape)}"
                )
            updates[i] += 1
            running = [arrays[i] for arrays in slots.values()]
            if running and type(running[0]) is not type(old):  # the model has moved
                running = [backend.to_device(array, p.device) for array in running]
            half = old.dtype.char == "e"
            if half:
                old, g = old.astype(np.float32), g.astype(np.float32)
            new, *running = self._update(old, g, updates[i], *running)
            if isinstance(new, np.generic):  # NumPy's result without axes
                new, *running = map(np.asarray, (new, *running))
            # What `p.data = new` does, but for an array that nobody else holds.
            changes += [(p, "array", new.astype(np.float16) if half else new), (p, "lent", None)]
            for arrays, array in zip(slots.values(), running, strict=True):
                arrays[i] = array
        set_all(changes)

    def _update(self, p: Array, g: Array, t: int, *running: Array) -> Updated:
        """The parameter after its t-th update, and its running arrays, in new arrays."""
        raise NotImplementedError

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for p in self.parameters:
            p.grad = None

    def state_dict(self) -> dict[str, Array]:
        """All that changes from step to step, by name, copied. The other settings are not in it."""
        return {name: array.copy() for name, array in self._state().items()}

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Take over a state, the learning rate included; on a misfit ValueError, and no change."""
        name = f"{type(self).__name__}.load_state_dict"
        expected = self._state()
        if state.keys() != expected.keys():
            raise ValueError(
                f"{name}: missing {sorted(expected.keys() - state.keys())}, "
                f"unexpected {sorted(state.keys() - expected.keys())}; "
                "was it saved from the same kind of optimiser of the same model?"
            )
        for key, old in expected.items():
            new = backend.as_array(state[key])
            # Running arrays of float16 parameters were float16 once.
            fits = new.dtype == old.dtype or (new.dtype, old.dtype) == (np.float16, np.float32)
            if new.shape != old.shape or not fits:
                raise ValueError(
                    f"{name}: {key} is {new.dtype} {tuple(new.shape)}, "
                    f"expected {old.dtype} {tuple(old.shape)}"
                )
        updates = [int(n) for n in backend.to_host(state["updates"])]
        if min(updates) < 0:
            raise ValueError(f"{name}: updates is {updates}, expected none below 0")
        lr = at_least_zero(backend.to_host(state["lr"]).item(), f"{name}: lr")
        slots = {}
        for slot in self.slots:
            slots[slot] = [
                backend.to_device(backend.as_array(state[f"{slot}.{i}"]), p.device).astype(
                    _computed_in(p.dtype), order="C", copy=True
                )
                for i, p in enumerate(self.parameters)
            ]
        set_all([(self, "_lr", lr), (self, "updates", updates), (self, "slots", slots)])

    def _state(self) -> dict[str, Array]:
        state = {"lr": np.array(self.lr), "updates": np.array(self.updates, dtype=np.int64)}
        for slot, arrays in self.slots.items():
            state |= {f"{slot}.{i}": array for i, array in enumerate(arrays)}
        return state


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

    Reading version: `_update` below. Running versions: two kernels in `kernels/cpu/optim.py`.
    """

    def __init__(
        self, parameters: Iterable[Tensor], lr: float, *, momentum: float = 0.0,
        weight_decay: float = 0.0,
    ):  # fmt: skip
        self.momentum = at_least_zero(momentum, "momentum")
        self.weight_decay = at_least_zero(weight_decay, "weight_decay")
        super().__init__(parameters, lr, ("momentum",) if momentum else ())

    def _update(self, p: Array, g: Array, t: int, *running: Array) -> Updated:
        kernels = _kernels_for(p)
        if kernels is not None:
            numbers = [self.lr, self.weight_decay]
            if not running:
                return kernels.update(kernels.sgd_kernel, [p, g], numbers)
            numbers.append(self.momentum)
            return kernels.update(kernels.sgd_momentum_kernel, [p, g, *running], numbers)
        g = g + self.weight_decay * p
        if not running:
            return (p - self.lr * g,)
        (b,) = running
        b = self.momentum * b + g
        return p - self.lr * b, b


class Adam(Optimiser):
    """Steps scaled by the gradient's running mean and root mean square (Kingma & Ba 2015, alg. 1).

        m = beta1 m + (1 - beta1) g          m^ = m / (1 - beta1^t)
        v = beta2 v + (1 - beta2) g^2        v^ = v / (1 - beta2^t)        p -= lr m^ / (sqrt v^ + eps)

    `weight_decay` adds weight_decay p to g, as in PyTorch. t counts the parameter's own updates.
    Reading version: `_update` below. Running version: `adam_kernel` in `kernels/cpu/optim.py`.
    """  # noqa: E501

    decoupled = False  # whether weight decay is apart from the gradient

    def __init__(
        self, parameters: Iterable[Tensor], lr: float = 1e-3, *,
        betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.0,
    ):  # fmt: skip
        if not isinstance(betas, tuple | list) or len(betas) != 2:
            raise ValueError(f"betas is {betas!r}, expected two numbers, each 0 <= beta < 1")
        self.betas = (real_number(betas[0], "betas"), real_number(betas[1], "betas"))
        if not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise ValueError(f"betas is {betas!r}, expected two numbers, each 0 <= beta < 1")
        self.eps = at_least_zero(eps, "eps")
        self.weight_decay = at_least_zero(weight_decay, "weight_decay")
        super().__init__(parameters, lr, ("mean", "square"))

    def _update(self, p: Array, g: Array, t: int, *running: Array) -> Updated:
        beta1, beta2 = self.betas
        correction1, correction2 = 1.0 - beta1**t, 1.0 - beta2**t
        l2, decay = (0.0, self.weight_decay) if self.decoupled else (self.weight_decay, 0.0)
        kernels = _kernels_for(p)
        if kernels is not None:
            numbers = [self.lr, beta1, beta2, self.eps, decay, l2, correction1, correction2]
            return kernels.update(kernels.adam_kernel, [p, g, *running], numbers)
        m, v = running
        g = g + l2 * p
        m = beta1 * m + (1.0 - beta1) * g
        v = beta2 * v + (1.0 - beta2) * g * g
        root = backend.array_module(v).sqrt(v / correction2)
        return p - self.lr * (m / correction1 / (root + self.eps) + decay * p), m, v


class AdamW(Adam):
    """Adam with decoupled weight decay: p -= lr weight_decay p (Loshchilov & Hutter 2019, alg. 2).

    The decay is not divided by the gradient's size. As in PyTorch, lr multiplies it.
    """

    decoupled = True

    def __init__(
        self, parameters: Iterable[Tensor], lr: float = 1e-3, *,
        betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.01,
    ):  # fmt: skip
        super().__init__(parameters, lr, betas=betas, eps=eps, weight_decay=weight_decay)


def gradient_norm(parameters: Iterable[Tensor]) -> Array:
    """sqrt(sum of all squared gradients): a float64 array without axes, on the gradients' device.

    Parameters without a gradient count as 0. On a GPU the squares of float64 gradients above about
    1e154 overflow, and the norm is infinite.
    """
    tensors = _tensors(parameters, "gradient_norm: parameters")
    gradients = [p.grad for p in tensors if p.grad is not None]
    if not gradients:
        return np.array(0.0)
    squares = [_sum_of_squares(g) for g in gradients]
    xp = backend.array_module(squares[0])
    with np.errstate(over="ignore"):
        total = sum(squares[1:], squares[0])
    if xp is np and not 1e-290 < total < math.inf:  # squares below or above what float64 can hold
        largest = max(float(abs(g).max()) if g.size else 0.0 for g in gradients)
        if 0.0 < largest < math.inf:
            parts = [_sum_of_squares(g / np.float64(largest)) for g in gradients]
            with np.errstate(over="ignore"):
                return np.asarray(largest * np.sqrt(sum(parts[1:], parts[0])))
    return xp.asarray(xp.sqrt(total))


def clip_grad_norm(parameters: Iterable[Tensor], max_norm: float) -> Array:
    """Scale all gradients so that their joint norm is at most `max_norm`; returns the norm before.

        g *= min(1, max_norm / (norm + 1e-6))        (PyTorch's clip_grad_norm_)

    So a norm of nan makes all gradients nan; an infinite one makes the infinite ones nan and the
    others 0: look at the norm, as `nn.train` does.

    >>> import minimono as mm
    >>> p = mm.tensor([0.0, 0.0], requires_grad=True)
    >>> p.grad = np.array([3.0, 4.0])
    >>> clip_grad_norm([p], 1.0), p.grad.round(4)
    (array(5.), array([0.6, 0.8]))
    """
    max_norm = real_number(max_norm, "clip_grad_norm: max_norm")
    if not max_norm > 0.0:
        raise ValueError(f"clip_grad_norm: max_norm is {max_norm}, expected a number above 0")
    tensors = _tensors(parameters, "clip_grad_norm: parameters")
    parameters = [p for p in tensors if p.grad is not None]
    norm = gradient_norm(parameters)
    factor = backend.array_module(norm).minimum(1.0, max_norm / (norm + 1e-6))
    if backend.device_of(factor) == "cpu" and factor == 1.0:
        return norm  # nothing to do; on a GPU, to look would be to wait
    set_all([(p, "grad", _scaled(p.grad, factor)) for p in parameters])
    return norm


def cosine_schedule(
    step: int, *, steps: int, warmup: int, peak: float, floor: float = 0.0
) -> float:
    """A learning rate that rises in a line to `peak`, then falls on half a cosine to `floor`.

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
    step = whole_number(step, f"{name}: step", least=0)
    steps = whole_number(steps, f"{name}: steps", least=1)
    warmup = whole_number(warmup, f"{name}: warmup", least=0)
    peak = at_least_zero(peak, f"{name}: peak")
    floor = at_least_zero(floor, f"{name}: floor")
    if warmup >= steps:
        raise ValueError(
            f"cosine_schedule: warmup is {warmup}, expected 0 <= warmup < {steps} steps"
        )
    if floor > peak:
        raise ValueError(f"cosine_schedule: floor is {floor}, expected at most peak, {peak}")
    if step <= warmup:
        return peak * (step + 1) / (warmup + 1)
    along = min(1.0, (step - warmup) / (steps - warmup))
    return floor + (peak - floor) * (1.0 + math.cos(math.pi * along)) / 2.0


def _sum_of_squares(g: Array) -> Any:
    """In float64, on the gradient's device."""
    running = _kernels_for(g)
    if running is not None:
        return running.sum_of_squares(g)
    with np.errstate(over="ignore", under="ignore"):
        return backend.array_module(g).square(g, dtype=np.float64).sum()


def _scaled(g: Array, factor: Array) -> Array:
    """g times a factor of at most 1, in float64 where that has no digits in g's own dtype."""
    fits = g.dtype == np.float64 or (
        g.dtype == np.float32 and backend.device_of(g) == "cpu" and factor > 1e-30
    )
    xp = backend.array_module(g)
    with np.errstate(invalid="ignore"):  # infinity times 0
        if fits:
            scaled = g * factor.astype(g.dtype)
        else:
            scaled = xp.multiply(g, factor, dtype=np.float64).astype(g.dtype)
    return xp.asarray(scaled)


def _kernels_for(array: Array) -> ModuleType | None:
    """The module of running versions, if it has some for this array and they are switched on."""
    device = backend.device_of(array)
    if not kernels.enabled() or array.dtype.char not in "fd":
        return None
    if device == "cpu" and type(array) is not np.ndarray:
        return None
    return kernels.of(device, "optim", by="optim")


def _computed_in(dtype: np.dtype[Any]) -> Any:
    """The dtype of the running arrays: float16 has neither the range nor the digits for them."""
    return np.float32 if dtype == np.float16 else dtype


def _tensors(parameters: Iterable[Tensor], name: str) -> list[Tensor]:
    """Several tensors as a list. One alone would be taken apart into its rows."""
    if isinstance(parameters, Tensor) or not isinstance(parameters, Iterable):
        raise TypeError(
            f"{name} is a {type(parameters).__name__}, expected several tensors: "
            "model.parameters(), or [p]"
        )
    checked = list(parameters)
    for i, p in enumerate(checked):
        if not isinstance(p, Tensor):
            raise TypeError(f"{name}: number {i} is a {type(p).__name__}, expected a Tensor")
        if p.grad is not None and type(p.grad) is not type(p.array):
            raise TypeError(_not_an_array(name, i, p))
    return checked


def _not_an_array(name: str, i: int, p: Tensor) -> str:
    return (
        f"{name}: the gradient of number {i} is a {type(p.grad).__name__}, expected "
        f"a {type(p.array).__name__}, as its data"
    )


def _checked(parameters: Iterable[Tensor]) -> list[Tensor]:
    checked = _tensors(parameters, "parameters")
    if not checked:
        raise ValueError("parameters is an empty list, expected at least one tensor")
    for i, p in enumerate(checked):
        if p.origin is not None:
            raise ValueError(
                f"parameters: number {i} was computed from other tensors; pass those instead"
            )
        if p.dtype.kind != "f":
            raise TypeError(f"parameters: number {i} has dtype {p.dtype}, expected floats")
    if len({id(p) for p in checked}) < len(checked):
        raise ValueError("parameters: a parameter comes twice, and would be updated twice a step")
    return checked
