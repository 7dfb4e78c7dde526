"""Optimisers: how a gradient becomes a change of the parameters. PyTorch's formulas and defaults.

    SGD      g' = g + w p            b = momentum b + g'                          p -= lr b
    Adam     g' = g + w p            m, v = running means of g', g'^2             p -= lr m^ / (sqrt v^ + eps)
    AdamW    the same with g' = g, and the decay apart from the gradient:         p -= lr w p

`step` writes into the arrays `p.data`, as in PyTorch. It never waits for a GPU.
"""  # noqa: E501  (a table)

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

import numpy as np

from minimono import backend, kernels
from minimono.backend import Array
from minimono.engine.tensor import Tensor


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
            name: [backend.array_module(p.data).zeros(p.shape, p.dtype) for p in self.parameters]
            for name in slots
        }

    @property
    def lr(self) -> float:
        """The learning rate; a schedule sets it before each step."""
        return self._lr

    @lr.setter
    def lr(self, value: float) -> None:
        self._lr = _at_least_zero("lr", value)

    def step(self) -> None:
        """Change every parameter that has a gradient; if one does not fit, ValueError, and none."""
        for i, p in enumerate(self.parameters):
            g = p.grad
            if g is not None and (g.shape != p.data.shape or g.dtype != p.data.dtype):
                raise ValueError(
                    f"{type(self).__name__}: parameter {i} is {p.dtype} {p.shape}, "
                    f"its gradient {g.dtype} {tuple(g.shape)}"
                )
        for i, p in enumerate(self.parameters):
            if p.grad is None:
                continue
            for arrays in self.slots.values():
                if type(arrays[i]) is not type(p.data):  # the model has moved
                    arrays[i] = backend.to_device(arrays[i], p.device)
            self.updates[i] += 1
            self._update(p, p.grad, i)

    def _update(self, p: Tensor, g: Array, i: int) -> None:
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
            if new.shape != old.shape or new.dtype != old.dtype:
                raise ValueError(
                    f"{name}: {key} is {new.dtype} {tuple(new.shape)}, "
                    f"expected {old.dtype} {tuple(old.shape)}"
                )
        updates = [int(n) for n in backend.to_host(state["updates"])]
        if min(updates) < 0:
            raise ValueError(f"{name}: updates is {updates}, expected none below 0")
        self.lr = float(backend.to_host(state["lr"]))
        self.updates = updates
        for slot, arrays in self.slots.items():
            for i, p in enumerate(self.parameters):
                new = backend.to_device(state[f"{slot}.{i}"], p.device)
                arrays[i] = new.astype(p.dtype, order="C", copy=True)

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

    Reading version: `_update` below. Running versions: two kernels in `kernels/cpu_optim.py`.
    """

    def __init__(
        self, parameters: Iterable[Tensor], lr: float, *, momentum: float = 0.0,
        weight_decay: float = 0.0,
    ):  # fmt: skip
        self.momentum = _at_least_zero("momentum", momentum)
        self.weight_decay = _at_least_zero("weight_decay", weight_decay)
        super().__init__(parameters, lr, ("momentum",) if momentum else ())

    def _update(self, p: Tensor, g: Array, i: int) -> None:
        running = _kernels_for(p.data)
        if running is not None:
            arrays = [_in_one_block(p), g]
            if self.momentum:
                arrays.append(self.slots["momentum"][i])
                numbers = [self.lr, self.weight_decay, self.momentum]
                running.update(running.sgd_momentum_kernel, arrays, numbers)
            else:
                running.update(running.sgd_kernel, arrays, [self.lr, self.weight_decay])
            return
        if self.weight_decay:
            g = g + self.weight_decay * p.data
        if self.momentum:
            b = self.slots["momentum"][i]
            b[...] = self.momentum * b + g
            g = b
        p.data[...] = p.data - self.lr * g


class Adam(Optimiser):
    """Steps scaled by the gradient's running mean and root mean square (Kingma & Ba 2015, alg. 1).

        m = beta1 m + (1 - beta1) g          m^ = m / (1 - beta1^t)
        v = beta2 v + (1 - beta2) g^2        v^ = v / (1 - beta2^t)        p -= lr m^ / (sqrt v^ + eps)

    `weight_decay` adds weight_decay p to g, as in PyTorch. t counts the parameter's own updates.
    Reading version: `_update` below. Running version: `adam_kernel` in `kernels/cpu_optim.py`.
    """  # noqa: E501

    decoupled = False  # whether weight decay is apart from the gradient

    def __init__(
        self, parameters: Iterable[Tensor], lr: float = 1e-3, *,
        betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.0,
    ):  # fmt: skip
        if len(betas) != 2 or not all(0.0 <= beta < 1.0 for beta in betas):
            raise ValueError(f"betas: got {betas!r}, expected two numbers, each 0 <= beta < 1")
        self.betas = (float(betas[0]), float(betas[1]))
        self.eps = _at_least_zero("eps", eps)
        self.weight_decay = _at_least_zero("weight_decay", weight_decay)
        super().__init__(parameters, lr, ("mean", "square"))

    def _update(self, p: Tensor, g: Array, i: int) -> None:
        beta1, beta2 = self.betas
        correction1 = 1.0 - beta1 ** self.updates[i]
        correction2 = 1.0 - beta2 ** self.updates[i]
        l2, decay = (0.0, self.weight_decay) if self.decoupled else (self.weight_decay, 0.0)
        m, v = self.slots["mean"][i], self.slots["square"][i]
        running = _kernels_for(p.data)
        if running is not None:
            numbers = [self.lr, beta1, beta2, self.eps, decay, l2, correction1, correction2]
            running.update(running.adam_kernel, [_in_one_block(p), g, m, v], numbers)
            return
        g = g + l2 * p.data
        m[...] = beta1 * m + (1.0 - beta1) * g
        v[...] = beta2 * v + (1.0 - beta2) * g * g
        root = backend.array_module(v).sqrt(v / correction2)
        p.data[...] = p.data - self.lr * (m / correction1 / (root + self.eps) + decay * p.data)


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

    Parameters without a gradient count as 0.
    """
    squares = [_sum_of_squares(p.grad) for p in parameters if p.grad is not None]
    if not squares:
        return np.array(0.0)
    xp = backend.array_module(squares[0])
    return xp.asarray(xp.sqrt(sum(squares[1:], squares[0])))


def clip_grad_norm(parameters: Iterable[Tensor], max_norm: float) -> Array:
    """Scale all gradients so that their joint norm is at most `max_norm`; returns the norm before.

        g *= min(1, max_norm / (norm + 1e-6))        (PyTorch's clip_grad_norm_)

    >>> import minimono as mm
    >>> p = mm.tensor([0.0, 0.0], requires_grad=True)
    >>> p.grad = np.array([3.0, 4.0])
    >>> clip_grad_norm([p], 1.0), p.grad.round(4)
    (array(5.), array([0.6, 0.8]))
    """
    if not max_norm > 0.0:
        raise ValueError(f"clip_grad_norm: max_norm is {max_norm}, expected a number above 0")
    parameters = [p for p in parameters if p.grad is not None]
    norm = gradient_norm(parameters)
    factor = backend.array_module(norm).minimum(1.0, float(max_norm) / (norm + 1e-6))
    if backend.device_of(factor) == "cpu" and factor == 1.0:
        return norm  # nothing to do; on a GPU, to look would be to wait
    for p in parameters:
        assert p.grad is not None
        p.grad = p.grad * factor.astype(p.dtype)
    return norm


def cosine_schedule(
    step: int, *, steps: int, warmup: int, peak: float, floor: float = 0.0
) -> float:
    """A learning rate that rises in a line to `peak`, then falls on half a cosine to `floor`.

        step <= warmup    peak (step + 1) / (warmup + 1)
        up to `steps`     floor + (peak - floor) (1 + cos(pi along)) / 2,
                          along = (step - warmup) / (steps - warmup)
        later             floor

    `step` counts from 0. The cosine: Loshchilov & Hutter 2017, eq. 5; starting above 0: our choice.

    >>> [cosine_schedule(step, steps=6, warmup=2, peak=0.3) for step in (0, 2, 4, 6)]
    [0.09999999999999999, 0.3, 0.15, 0.0]
    """
    if not 0 <= warmup < steps:
        raise ValueError(
            f"cosine_schedule: warmup is {warmup}, expected 0 <= warmup < {steps} steps"
        )
    if step < 0:
        raise ValueError(f"cosine_schedule: step is {step}, expected 0 or more")
    if step <= warmup:
        return peak * (step + 1) / (warmup + 1)
    along = min(1.0, (step - warmup) / (steps - warmup))
    return floor + (peak - floor) * (1.0 + math.cos(math.pi * along)) / 2.0


def _sum_of_squares(g: Array) -> Any:
    """In float64, on the gradient's device."""
    running = _kernels_for(g)
    if running is not None:
        return running.sum_of_squares(g)
    return backend.array_module(g).square(g, dtype=np.float64).sum()


def _kernels_for(array: Array) -> ModuleType | None:
    """The module of running versions, if it has some for this array and they are switched on."""
    device = backend.device_of(array)
    if not kernels.enabled() or array.dtype not in (np.float32, np.float64):
        return None
    if device == "cpu" and type(array) is not np.ndarray:
        return None
    return kernels.of(device, "optim", by="optim")


def _in_one_block(p: Tensor) -> Array:
    """The parameter's array as kernels want it, to be written to: itself, if it is like that."""
    if p.device == "cuda":
        p.data = backend.array_module(p.data).ascontiguousarray(p.data)
    elif not p.data.flags.carray:
        p.data = np.require(p.data, requirements=["C", "W"])
    return p.data


def _checked(parameters: Iterable[Tensor]) -> list[Tensor]:
    checked: list[Any] = list(parameters)
    if not checked:
        raise ValueError("parameters: got an empty list, expected at least one tensor")
    for i, p in enumerate(checked):
        if not isinstance(p, Tensor):
            raise TypeError(f"parameters: number {i} is a {type(p).__name__}, expected a Tensor")
        if p.origin is not None:
            raise ValueError(
                f"parameters: number {i} was computed from other tensors; pass those instead"
            )
        if p.dtype.kind != "f":
            raise TypeError(f"parameters: number {i} has dtype {p.dtype}, expected floats")
    if len({id(p) for p in checked}) < len(checked):
        raise ValueError("parameters: a parameter comes twice, and would be updated twice a step")
    return checked


def _at_least_zero(name: str, value: float) -> float:
    if not (math.isfinite(value) and value >= 0.0):
        raise ValueError(f"{name}: got {value}, expected a finite number, 0 or more")
    return float(value)  # a plain float: NumPy's would turn float32 parameters into float64
