"""Suite `module`: MEmeL as a whole, call after call, values and gradients."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np

from minimono import mono
from minimono.backend import Array
from minimono.engine.tensor import Tensor
from minimono.nn.module import Module
from minimono.oracle.case import BOUND, Case, Expected
from minimono.oracle.suite import Call, Suite
from minimono.oracle.suites.scale import Moments
from minimono.oracle.suites.selection import top
from minimono.oracle.truth import exact, float32, rounded

Settings = dict[str, Any]
Trajectory = tuple[list[Array], list[Array]]

FLOAT32, FLOAT64 = 2.0**-23, 2.0**-52


# ---- the truth, in Fractions ---------------------------------------------------------------------


def scores(batch: Array, mean: Array, variance: Array, settings: Settings) -> tuple[Array, Array]:
    """phi in Fractions, and its denominator; None where it is undefined, or not used ("paper",
    constant neurons).
    """
    extra = Fraction(settings["compensation"]) * variance.sum() / variance.size
    below = variance + extra
    phi = np.full(batch.shape, None, dtype=object)
    for index in np.ndindex(batch.shape):
        place = index[1:]
        if variance[place] > 0 or (settings["convention"] == "authors" and below[place] > 0):
            phi[index] = (batch[index] - mean[place]) ** 2 / below[place]
    return phi, below


def uncertainty(phi: Array, below: Array, largest: Array, eps: float) -> Array:
    """How far off a sound phi can be: the tolerance of suite `scale`."""
    value = np.nan_to_num(rounded(phi))
    eta = BOUND * eps * largest / np.sqrt(np.maximum(rounded(below), np.finfo(float).tiny))
    error: Array = eta * (2 * np.sqrt(value) + 2 * value + eta) + 8 * eps * value
    return error


def flagged(phi: Array, error: Array, k: int, ties: bool) -> Array:
    """The k highest of each sample, those equal to the k-th too.

    Raises if a sound implementation could flag others: scores at the edge closer than their errors,
    or equal. Equal ones are let through with `ties`, for data in which they are equal bit by bit.
    """
    flags = np.zeros((len(phi), phi.size // len(phi)), dtype=bool)
    errors = error.reshape(len(phi), -1)
    for row, reach, mask in zip(phi.reshape(len(phi), -1), errors, flags, strict=True):
        known = sorted((v for v in row if v is not None), reverse=True)
        if not known:
            continue
        kth = known[min(k, len(known)) - 1]
        mask[:] = [v is not None and v >= kth for v in row]
        inside = [float(v) - e for v, e, m in zip(row, reach, mask, strict=True) if m]
        outside = [
            float(v) + e
            for v, e, m in zip(row, reach, mask, strict=True)
            if v is not None and not m
        ]
        if outside and max(outside) >= min(inside):
            raise ValueError("too close to call: take other numbers")
        if mask.sum() > k and not ties:
            raise ValueError("a tie: take other numbers")
    return flags.reshape(phi.shape)


def expected_trajectory(
    batches: list[Array], upstream: list[Array], training: list[bool], settings: Settings,
    ties: bool = False,
) -> dict[str, list[Expected]]:  # fmt: skip
    moments = Moments(settings["convention"], settings["forget_after"])
    largest = abs(np.concatenate(batches)).max(axis=0)
    narrow = all(np.array_equal(float32(b), b) for b in batches)
    values, gradients = [], []
    for z, g, train in zip(batches, upstream, training, strict=True):
        value, gradient = Expected(z), Expected(g)
        if train:
            before = moments.seen, moments.mean, moments.variance
            moments.update(exact(z))
            seen, mean, variance = before
            if settings["convention"] == "authors":
                mean, variance = moments.mean, moments.variance
            if seen > 0 and seen >= settings["start_after"]:
                phi, below = scores(exact(z), mean, variance, settings)
                error = uncertainty(phi, below, largest, FLOAT32 if narrow else FLOAT64)
                mask = flagged(phi, error, settings["k"], ties)
                value = Expected(
                    np.where(mask, rounded(mean), z),
                    linear=np.where(mask, BOUND * largest, 0.0),
                )
                reversed_ = -settings["strength"] * g
                gradient = Expected(
                    np.where(mask, reversed_, g) + 0.0, linear=np.where(mask, abs(reversed_), 0.0)
                )
        values.append(value)
        gradients.append(gradient)
    return {"values": values, "gradients": gradients}


# ---- cases ---------------------------------------------------------------------------------------

DEFAULTS: Settings = {
    "k": 1, "strength": 1.0, "convention": "paper", "forget_after": 10, "start_after": 1,
    "compensation": 0.0,
}  # fmt: skip


def cases() -> Iterator[Case]:
    for convention in ("paper", "authors"):
        number = 0
        for notes, plan in _plans():
            if plan.pop("only", convention) != convention:
                continue
            number += 1
            settings = DEFAULTS | {"convention": convention} | plan.pop("settings", {})
            batches, upstream, training, expected = _trajectory_case(settings, **plan)
            yield Case(
                f"module/{convention}/{number}", "MEmeL",
                {"batches": batches, "upstream": upstream, "training": training, **settings},
                expected, notes,
            )  # fmt: skip


def _plans() -> list[tuple[str, dict[str, Any]]]:
    """Notes, and the arguments of `_trajectory_case`; `only`: in this convention only."""
    alike = np.array([[-1.0, -1.0, 1.0], [1.0, 1.0, -1.0]])
    constant = np.array([[0.0, 2.0, 1.0], [1.0, 2.0, -1.0], [-1.0, 2.0, 0.0]])
    out = np.array([[0.5, 2.0, 4.0], [0.0, 3.0, 0.25], [2.0, 2.0, 0.0]])
    still = np.array([[1.0, -2.0], [1.0, -2.0]])
    uneven = [1.0, 0.25, 0.0625, 4.0]
    return [
        ("starts at the third call", {"sizes": [3] * 4, "settings": {"start_after": 2}}),
        ("starts at the second call, the first that has something to compare with",
         {"sizes": [3] * 3, "settings": {"start_after": 0}}),
        ("start_after=1 is the same", {"only": "paper", "sizes": [3] * 3}),
        ("start_after=10: inhibits from the eleventh call on",
         {"sizes": [2] * 12, "neurons": (2,), "only": "authors",
          "settings": {"start_after": 10}}),
        ("forgetting", {"sizes": [3] * 6, "settings": {"forget_after": 2}}),
        ("forget_after=1, batches of two",
         # With these numbers a variance divided by n would flag other values.
         {"sizes": [2] * 6, "neurons": (4,), "first_seed": 18, "settings": {"forget_after": 1}}),
        ("batches of different sizes, forgetting",
         {"sizes": [5, 3, 2, 6, 1], "settings": {"forget_after": 2, "start_after": 2}}),
        ("single samples after the first batch",
         {"only": "paper", "sizes": [3, 1, 1, 1, 1]}),
        ("naive (a): gradient 0",
         {"only": "paper", "sizes": [3] * 3, "settings": {"strength": 0.0}}),
        ("naive (b): gradient 1",
         {"only": "authors", "sizes": [3] * 3, "settings": {"strength": -1.0}}),
        ("strength 5", {"sizes": [3] * 3, "settings": {"strength": 5.0}}),
        ("strength 0.5", {"only": "authors", "sizes": [3] * 3, "settings": {"strength": 0.5}}),
        ("k=2", {"only": "paper", "sizes": [3] * 3, "settings": {"k": 2}}),
        ("k=3 of a sequence",
         {"only": "authors", "sizes": [3] * 3, "neurons": (2, 3), "settings": {"k": 3}}),
        ("k is the whole layer", {"sizes": [3] * 3, "neurons": (2,), "settings": {"k": 2}}),
        ("compensation 0.25, neurons of very different variance",
         {"sizes": [4] * 3, "neurons": (4,), "spread": uneven,
          "settings": {"compensation": 0.25}}),
        ("compensation 0.01, as in the authors' code",
         {"sizes": [4] * 3, "neurons": (4,), "spread": uneven,
          "settings": {"compensation": 0.01}}),
        ("neurons of very different variance, no compensation",
         {"only": "paper", "sizes": [3] * 3, "neurons": (4,), "spread": uneven}),
        ("calls in eval() pass everything and are not remembered",
         {"sizes": [3] * 6, "training": [True, False, True, True, False, True],
          "settings": {"start_after": 2}}),
        ("the first calls are in eval(): nothing is known after them",
         {"only": "paper", "sizes": [3] * 6, "training": [False, False, True, True, True, False]}),
        ("in eval() only", {"only": "paper", "sizes": [1, 3], "training": [False, False]}),
        ("calls in eval() are not among the start_after",
         {"only": "authors", "sizes": [3] * 5, "training": [True, False, False, True, True],
          "settings": {"start_after": 2}}),
        ("a sequence (B, T, C): one of T x C per sample", {"sizes": [3] * 3, "neurons": (2, 3)}),
        ("a feature map (B, C, Y, X)", {"sizes": [2] * 3, "neurons": (2, 2, 2)}),
        ("one neuron: every activation is flagged",
         {"only": "paper", "sizes": [3] * 3, "neurons": (1,)}),
        ("offset 100 times the spread", {"only": "authors", "sizes": [5] * 3, "offset": 100.0}),
        ("offset a million times the spread, in float64",
         {"sizes": [5] * 3, "offset": 1e6, "settings": {"forget_after": 2}}),
        ("two neurons alike, so equally far out: both are flagged",
         {"batches": [alike, alike, np.array([[4.0, 4.0, 0.0], [0.0, 0.0, 2.0]])],
          "settings": {"start_after": 2}}),
        ("k=2, the second and third highest alike: three are flagged",
         {"batches": [alike, alike, np.array([[4.0, 4.0, 8.0], [3.0, 3.0, 0.5]])],
          "settings": {"k": 2, "start_after": 2}}),
        ("a sample at all means: all scores are 0, all alike, all flagged",
         {"batches": [alike, alike, np.array([[0.0, 0.0, 0.0], [2.0, 1.0, -4.0],
                                              [-2.0, -1.0, 4.0]])],
          "settings": {"start_after": 2}}),
        ("a neuron that was constant: never flagged in \"paper\", though it moves at last; "
         "in \"authors\" compensation gives it a scale",
         {"batches": [constant, constant, out], "settings": {"compensation": 0.25}}),
        ("a neuron that was constant, without compensation",
         {"only": "paper", "batches": [constant, constant, out]}),
        ("k is the whole layer, with a neuron that stays constant: \"authors\" flags it too",
         {"batches": [constant, constant, constant[::-1]],
          "settings": {"k": 3, "compensation": 0.25}}),
        ("the same without compensation: neither flags the constant neuron",
         {"only": "authors", "batches": [constant, constant, constant[::-1]],
          "settings": {"k": 3}}),
        ("all neurons constant: nothing is flagged",
         {"only": "authors", "batches": [still, still, still],
          "settings": {"k": 2, "compensation": 0.25}}),
    ]  # fmt: skip


def _trajectory_case(
    settings: Settings,
    sizes: list[int] | None = None,
    neurons: tuple[int, ...] = (3,),
    offset: float = 0.0,
    first_seed: int = 0,
    spread: list[float] | None = None,
    training: list[bool] | None = None,
    batches: list[Array] | None = None,
) -> tuple[list[Array], list[Array], list[bool], dict[str, list[Expected]]]:
    """Inputs and what must come out; random numbers are drawn again until nothing is close.

    Activations are multiples of 1/64 (times their spread), upstreams whole numbers, so that they
    are easily read.
    """
    for seed in range(first_seed, 1000):
        rng = np.random.default_rng([314, seed])

        def drawn(b: int, rng: np.random.Generator = rng) -> Array:
            z = np.round(64 * rng.normal(size=(b, *neurons))) / 64
            return np.asarray(offset + z * np.array(1.0 if spread is None else spread))

        chosen = batches or [drawn(b) for b in sizes or []]
        upstream = [
            rng.choice([-1.0, 1.0], z.shape) * rng.integers(2, 10, size=z.shape) for z in chosen
        ]
        modes = training or [True] * len(chosen)
        try:
            expected = expected_trajectory(chosen, upstream, modes, settings, batches is not None)
        except ValueError:
            if batches is not None:
                raise
            continue
        return chosen, upstream, modes, expected
    raise AssertionError("no numbers that are far enough apart")


# ---- a module of a framework as the function that is called --------------------------------------


def as_trajectory(implementation: Callable[..., Any]) -> Callable[..., Trajectory]:
    """What was given for MEmeL as a function of whole trajectories.

    A class, and any callable that cannot be called with three lists and the settings, is taken to
    make modules. A module itself is refused: each case needs a new one, with its own settings.
    """
    if not isinstance(implementation, type) and all(
        callable(getattr(implementation, name, None)) for name in ("train", "eval")
    ):
        raise TypeError(
            f"MEmeL is a module, a {type(implementation).__name__}; give its class, or a "
            "function that makes one: each case makes a module with its own settings"
        )
    function = implementation
    while isinstance(function, partial):
        function = function.func
    if isinstance(function, type):
        return trajectory(implementation)
    try:
        signature = inspect.signature(implementation)
    except (TypeError, ValueError):  # not written in Python: taken as it is
        return implementation
    if "batches" in signature.parameters:
        return implementation
    try:
        signature.bind([], [], [], **DEFAULTS)
    except TypeError:
        return trajectory(implementation)
    return implementation


def trajectory(factory: Callable[..., Any]) -> Callable[..., Trajectory]:
    """Make the function that the suite calls of a factory: a class, or a function that makes a
    module, with the arguments of `minimono.mono.MEmeL`.

    Modules of minimono and PyTorch are called as they are. Others need train(), eval() and tensors
    like PyTorch's (requires_grad, backward() and grad), which `convert` has to make.
    """

    def MEmeL(batches: Any, upstream: Any, training: list[bool], **settings: Any) -> Trajectory:
        module = factory(**settings)
        differentiate = _differentiate(module)
        values, gradients = [], []
        for z, g, train in zip(batches, upstream, training, strict=True):
            module.train() if train else module.eval()
            value, gradient = differentiate(module, z, g)
            values.append(value)
            gradients.append(gradient)
        return values, gradients

    return MEmeL


def _differentiate(module: Any) -> Callable[[Any, Any, Any], tuple[Any, Any]]:
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(module, torch.nn.Module):

        def by_torch(module: Any, z: Any, g: Any) -> tuple[Any, Any]:
            variable = torch.as_tensor(z).clone().requires_grad_()
            value = module(variable)
            (gradient,) = torch.autograd.grad(value, variable, torch.as_tensor(g))
            return value, gradient

        return by_torch
    if isinstance(module, Module):

        def by_us(module: Any, z: Any, g: Any) -> tuple[Any, Any]:
            variable = Tensor(z, requires_grad=True)
            value = module(variable)
            (value * Tensor(g)).sum().backward()
            return value.data, variable.grad

        return by_us
    if all(callable(getattr(module, name, None)) for name in ("train", "eval", "__call__")):
        return _by_backward
    raise TypeError(
        f"MEmeL: the factory made a {type(module).__name__}, expected a module with train(), "
        "eval() and a call, like minimono's or PyTorch's; for others give a function of whole "
        "trajectories (see describe('module'))"
    )


def _by_backward(module: Any, z: Any, g: Any) -> tuple[Any, Any]:
    """With the tensors of any library that differentiates as PyTorch does."""
    if not callable(getattr(z, "backward", None)):
        raise TypeError(
            f"MEmeL: a {type(module).__name__} would be called on a {type(z).__name__}, which has "
            "no backward(); say how to make its tensors: check(..., convert=Tensor)"
        )
    z.requires_grad = True
    value = module(z)
    (value * g).sum().backward()
    return value, z.grad


# ---- known mistakes ------------------------------------------------------------------------------


class Running:
    """The moments in floating point, with something wrong, as the options say."""

    def __init__(
        self, convention: str, forget_after: int, *, ddof: int = 1, forget: str = "right",
        first_counts: int = 1, counted_from: int = 1, channelwise: bool = False,
        about: str = "mean",
    ):  # fmt: skip
        self.convention, self.ddof, self.first_counts = convention, ddof, first_counts
        self.counted_from, self.channelwise, self.about = counted_from, channelwise, about
        self.limit = forget_after + {"one call late": 1, "never": 10**9}.get(forget, 0)
        self.in_samples = forget == "samples"
        self.calls, self.samples, self.count = 0, 0, 0.0
        self.mean, self.variance = np.zeros(()), np.zeros(())

    def update(self, z: Array) -> None:
        axes: tuple[int, ...] = (0,)
        if self.channelwise and z.ndim > 2:
            axes = (0, 1) if z.ndim == 3 else (0, 2, 3)
        own_mean = z.mean(axes, keepdims=True)[0] if self.about == "mean" else 0 * z[0]
        m2 = ((z - own_mean) ** 2).sum(axes, keepdims=True)[0]
        b = float(z.size // own_mean.size) if self.about == "mean" else float(len(z))
        own_mean, m2 = np.broadcast_to(own_mean, z.shape[1:]), np.broadcast_to(m2, z.shape[1:])
        self.calls += 1
        self.samples += len(z)
        if self.calls == 1:
            self.count, self.mean = b * self.first_counts, own_mean
            self.variance = m2 * self.first_counts / (self.count - self.ddof)
            return
        if self.in_samples:
            past = min(self.count, float(max(self.limit, 2)))
        elif self.convention == "authors":
            past = min(self.calls - 1 + self.counted_from, self.limit) * b
        else:
            past = self.count if self.calls <= self.limit else self.limit * b
        shift = (self.mean - own_mean) ** 2 * (past * b / (past + b))
        m2 = m2 + (past - self.ddof) * self.variance + shift
        self.mean = (past * self.mean + b * own_mean) / (past + b)
        self.count = past + b
        self.variance = m2 / (self.count - self.ddof)


Select = Callable[[Array, int], Array]


def mistaken(
    batches: list[Array],
    upstream: list[Array],
    training: list[bool],
    *,
    k: int,
    strength: float,
    convention: str,
    forget_after: int,
    start_after: int,
    compensation: float,
    after: bool | None = None,
    start: int = 0,
    start_counts: str = "calls in training",
    eval_inhibits: bool = False,
    eval_updates: bool = False,
    eval_resets: bool = False,
    gradient: Callable[[Array, Array, float], Array] | None = None,
    detached: bool = True,
    value: Callable[[Array, Array, Array], Array] | None = None,
    other_mean: bool = False,
    select: Select = lambda phi, k: top(phi, k, "sample", "all"),
    distance: Callable[[Array, Array, Array], Array] = lambda z, mean, below: (
        (z - mean) ** 2 / below
    ),
    compensates: bool = True,
    constants: str = "by the convention",
    learns_from: str = "input",
    twice: bool = False,
    **moments: Any,
) -> Trajectory:
    """MEmeL in floating point, with something wrong, as the options from `after` on say.

    moments: the options of `Running`.
    """
    after = convention == "authors" if after is None else after
    running = Running(convention, forget_after, **moments)
    all_calls = 0
    values, gradients = [], []
    for z, g, train in zip(batches, upstream, training, strict=True):
        out, slope = z, g
        counts = {"calls in training": running.calls, "samples": running.samples,
                  "all calls": all_calls, "both layers' calls": 2 * running.calls}  # fmt: skip
        already = counts["both layers' calls" if twice else start_counts]
        known, before = running.calls > 0, (running.mean, running.variance)
        all_calls += 1
        if learns_from == "input" and (train or eval_updates):
            for _ in range(2 if twice and train else 1):
                running.update(z)
        if eval_resets and not train:
            running = Running(convention, forget_after, **moments)
        if (train or eval_inhibits) and known and already >= start_after + start:
            now = running.mean, running.variance
            mean, variance = now if after else before
            below = variance + (compensation * variance.mean() if compensates else 0.0)
            hidden = {"never": variance <= 0, "always": below <= 0}
            hidden["by the convention"] = hidden["never" if convention == "paper" else "always"]
            mask = select(distance(z, mean, np.where(hidden[constants], np.nan, below)), k)
            if other_mean:
                mean = before[0] if after else now[0]
            out = np.where(mask, mean if value is None else value(z, mean, mask), z)
            slope = np.where(mask, -strength * g, g)
            if gradient is not None:
                slope = gradient(g, mask, strength)
            if after and not detached:
                slope = slope + (mask * g).sum(axis=0) / running.count
        if learns_from == "output" and train:
            running.update(out)
        values.append(out)
        gradients.append(slope)
    return values, gradients


def _with(**options: Any) -> Callable[..., Trajectory]:
    return partial(mistaken, **options)


def _there(change: Callable[[Array, float], Array]) -> Callable[..., Trajectory]:
    """A gradient that is right elsewhere, and `change(upstream, strength)` where flagged."""
    return _with(gradient=lambda g, mask, d: np.where(mask, change(g, d), g))


def _last_of_ties(phi: Array, k: int) -> Array:
    axes = tuple(range(1, phi.ndim))
    return np.flip(top(np.flip(phi, axes), k, "sample", "first"), axes)


def _by_channel(phi: Array, k: int) -> Array:
    rows = phi.reshape(-1, phi.shape[-1])  # (B, ..., C) -> (B ..., C)
    return top(rows, min(k, rows.shape[1]), "sample", "all").reshape(phi.shape)


def _by_position(phi: Array, k: int) -> Array:
    """k in each of the places that the first neuron axis counts: positions, or channels."""
    if phi.ndim < 3:
        return top(phi, k, "sample", "all")
    rows = phi.reshape(phi.shape[0] * phi.shape[1], -1)  # (B, T, ...) -> (B T, ...)
    return top(rows, k, "sample", "all").reshape(phi.shape)


MISTAKES: dict[str, Callable[..., Trajectory]] = {
    # the order of things
    "the batch is in the moments before it is scored": _with(after=True),
    "the batch is scored before it is in the moments": _with(after=False),
    "inhibition starts one call early": _with(start=-1),
    "inhibition starts one call late": _with(start=1),
    "start_after counts samples, not calls": _with(start_counts="samples"),
    "start_after counts calls in eval mode too": _with(start_counts="all calls"),
    # eval mode
    "in eval mode it still inhibits": _with(eval_inhibits=True),
    "in eval mode it still updates the moments": _with(eval_updates=True),
    "in eval mode it still inhibits and updates": _with(eval_inhibits=True, eval_updates=True),
    "after a call in eval mode the moments begin anew": _with(eval_resets=True),
    # moments
    "nothing is forgotten": _with(forget="never"),
    "forgetting begins one call late": _with(forget="one call late"),
    "forget_after counts samples, not batches": _with(forget="samples"),
    "the first batch counts twice": _with(first_counts=2),
    "the first batch counts once, where the authors' code counts it twice": _with(counted_from=0),
    "variance divided by n instead of n-1": _with(ddof=0),
    "variance taken about zero instead of the mean": _with(about="zero"),
    "mean and variance by channel, over all positions": _with(channelwise=True),
    "the moments are those of the output": _with(learns_from="output"),
    "the moments are updated twice a call, as if two layers shared them": _with(twice=True),
    # the scale
    "standard deviation where the variance is meant": _with(
        distance=lambda z, mean, below: (z - mean) ** 2 / np.sqrt(below)
    ),
    "the distance is not divided by the variance": _with(
        distance=lambda z, mean, below: np.where(np.isnan(below), np.nan, (z - mean) ** 2)
    ),
    "the scale is taken about zero instead of the mean": _with(
        distance=lambda z, mean, below: z**2 / below
    ),
    "the sign is kept: only what lies above the mean is flagged": _with(
        distance=lambda z, mean, below: (z - mean) / np.sqrt(below)
    ),
    "compensation is ignored": _with(compensates=False),
    "a constant neuron is flagged": _with(constants="always"),
    'a constant neuron is never flagged, in "authors" too': _with(constants="never"),
    # which are flagged
    "k of the whole batch, not of each sample": _with(
        select=lambda phi, k: top(phi, k, "batch", "all")
    ),
    "of ties only the first is flagged": _with(
        select=lambda phi, k: top(phi, k, "sample", "first")
    ),
    "of ties only the last is flagged": _with(select=_last_of_ties),
    "k of the last axis, not of all neurons": _with(select=_by_channel),
    "k of each position, not of all neurons": _with(select=_by_position),
    "only one is flagged, whatever k is": _with(select=lambda phi, k: top(phi, 1, "sample", "all")),
    "one too many is flagged": _with(select=lambda phi, k: top(phi, k + 1, "sample", "all")),
    "a flag in one sample flags the neuron in all": _with(
        select=lambda phi, k: np.broadcast_to(top(phi, k, "sample", "all").any(axis=0), phi.shape)
    ),
    "the lowest scale is flagged": _with(select=lambda phi, k: top(-phi, k, "sample", "all")),
    "nan counts as the highest": _with(
        select=lambda phi, k: top(np.nan_to_num(phi, nan=np.inf), k, "sample", "all")
    ),
    # values
    "the value is not replaced": _with(value=lambda z, mean, mask: z),
    "the value is 0 instead of the mean": _with(value=lambda z, mean, mask: 0 * z),
    "the value is reflected at the mean": _with(value=lambda z, mean, mask: 2 * mean - z),
    "the value is the batch's mean instead of the running one": _with(
        value=lambda z, mean, mask: np.broadcast_to(z.mean(axis=0), z.shape)
    ),
    "the value is the mean of the whole layer": _with(
        value=lambda z, mean, mask: np.full(z.shape, mean.mean())
    ),
    "the value is a mean of another time than the one that scored": _with(other_mean=True),
    # gradients
    "the gradient of a flagged value is 0": _there(lambda g, d: 0 * g),
    "the gradient of a flagged value is +strength: not reversed": _there(lambda g, d: d * g),
    "the gradient of a flagged value is +1": _there(lambda g, d: g),
    "the gradient of a flagged value is doubled": _there(lambda g, d: -2 * d * g),
    "the gradient of a flagged value is 1 - strength": _there(lambda g, d: (1 - d) * g),
    "strength is ignored": _there(lambda g, d: -g),
    "the gradient leaks into values that are not flagged": _with(
        gradient=lambda g, mask, d: -d * g
    ),
    "values that are not flagged get no gradient": _with(
        gradient=lambda g, mask, d: np.where(mask, -d * g, 0.0)
    ),
    "the gradient is that of ones, not of the upstream": _with(
        gradient=lambda g, mask, d: np.where(mask, -d, 1.0)
    ),
    "the mean is not a constant: the gradient flows through it": _with(detached=False),
}

SUITE = Suite(
    name="module",
    text="MEmeL as a module: whole trajectories of calls, values and gradients",
    conventions={
        "neurons": "all axes but the first; axis 0 is the samples",
        "paper": "score by the moments of the calls before, then update; a neuron that was "
        "constant so far is never flagged",
        "authors": "update, then score; the past weighs as min(n, forget_after) batches of the "
        "current size, n the number of this call, from 1",
        "start": "a call inhibits if at least start_after training calls, and at least one, came "
        "before it",
        "ties": "all that equal the k-th highest of the sample are flagged",
        "value": "flagged activations become the mean that scored them",
        "eval": "identity; nothing is remembered",
    },
    calls=(
        Call(
            "MEmeL",
            ("batches", "upstream", "training", "*", "k", "strength", "convention", "forget_after",
             "start_after", "compensation"),
            ("values", "gradients"),
            "A class with these settings as arguments, whose instances have train() and eval()\n"
            "and are called on tensors (minimono's, PyTorch's, or like them), or a function that\n"
            "makes such a module. Or a function as above, that begins anew each time: batches,\n"
            "upstream: lists, one array (B, *neurons) a call; training: booleans, one a call.\n"
            "Returns two lists: the values, and the gradients by the batches, each for its\n"
            "upstream.",
        ),
    ),
    cases=cases,
    own={"MEmeL": trajectory(mono.MEmeL)},
    mistakes={"MEmeL": MISTAKES},
)  # fmt: skip
