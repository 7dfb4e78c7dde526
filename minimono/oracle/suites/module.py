"""Suite `module`: MEmeL as a whole, call after call, values and gradients."""

from __future__ import annotations

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
from minimono.oracle.suites.selection import top
from minimono.oracle.truth import exact, float32, rounded

Settings = dict[str, Any]
Trajectory = tuple[list[Array], list[Array]]

GAP = 1e-3  # how far scores at the edge of the flagged are apart, unless they are equal


# ---- the truth, in Fractions ---------------------------------------------------------------------


class Moments:
    """Running mean and variance in Fractions, by either convention."""

    def __init__(self, convention: str, forget_after: int):
        self.convention, self.forget_after = convention, forget_after
        self.seen, self.count, self.mean, self.variance = 0, 0, np.zeros(()), np.zeros(())

    def update(self, batch: Array) -> None:
        b = len(batch)
        own_mean = batch.sum(axis=0) / b
        m2 = ((batch - own_mean) ** 2).sum(axis=0)
        self.seen += 1
        if self.seen == 1:
            self.count, self.mean, self.variance = b, own_mean, m2 / (b - 1)
            return
        if self.convention == "authors":
            past = min(self.seen, self.forget_after) * b
        else:
            past = self.count if self.seen <= self.forget_after else self.forget_after * b
        m2 = m2 + (past - 1) * self.variance + (self.mean - own_mean) ** 2 * past * b / (past + b)
        self.mean = (past * self.mean + b * own_mean) / (past + b)
        self.count = past + b
        self.variance = m2 / (self.count - 1)


def scores(batch: Array, mean: Array, variance: Array, settings: Settings) -> Array:
    """phi in Fractions; None where it is undefined, or not used ("paper", constant neurons)."""
    extra = Fraction(settings["compensation"]) * variance.sum() / variance.size
    phi = np.full(batch.shape, None, dtype=object)
    for index in np.ndindex(batch.shape):
        v = variance[index[1:]]
        if v > 0 or (settings["convention"] == "authors" and extra > 0):
            phi[index] = (batch[index] - mean[index[1:]]) ** 2 / (v + extra)
    return phi


def flagged(phi: Array, k: int) -> Array:
    """The k highest of each sample, those equal to the k-th too. Raises if it is a close thing."""
    flags = np.zeros((len(phi), phi[0].size), dtype=bool)
    for row, mask in zip(phi.reshape(len(phi), -1), flags, strict=True):
        known = sorted((v for v in row if v is not None), reverse=True)
        if not known:
            continue
        kth = known[min(k, len(known)) - 1]
        below = [v for v in known if v < kth]
        if below and float(below[0]) > (1 - GAP) * float(kth):
            raise ValueError("too close to call: take other numbers")
        mask[:] = [v is not None and v >= kth for v in row]
    return flags.reshape(phi.shape)


def expected_trajectory(
    batches: list[Array], upstream: list[Array], training: list[bool], settings: Settings
) -> dict[str, list[Expected]]:
    moments = Moments(settings["convention"], settings["forget_after"])
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
                mask = flagged(scores(exact(z), mean, variance, settings), settings["k"])
                centre = rounded(mean)
                reach = BOUND * max(float(abs(b).max()) for b in batches)
                value = Expected(np.where(mask, centre, z), linear=np.where(mask, reach, 0.0))
                reversed_ = -settings["strength"] * g
                gradient = Expected(
                    np.where(mask, reversed_, g) + 0.0, linear=np.where(mask, abs(reversed_), 0.0)
                )
        values.append(value)
        gradients.append(gradient)
    return {"values": values, "gradients": gradients}


# ---- cases ---------------------------------------------------------------------------------------

DEFAULTS: Settings = {
    "k": 1, "strength": 1.0, "convention": "paper", "forget_after": 10, "start_after": 2,
    "compensation": 0.0,
}  # fmt: skip


def cases() -> Iterator[Case]:
    for convention in ("paper", "authors"):
        for number, (notes, plan) in enumerate(_plans(), start=1):
            settings = DEFAULTS | {"convention": convention} | plan.pop("settings", {})
            batches, upstream, training, expected = _trajectory_case(settings, **plan)
            yield Case(
                f"module/{convention}/{number}", "MEmeL",
                {"batches": batches, "upstream": upstream, "training": training, **settings},
                expected, notes,
            )  # fmt: skip


def _plans() -> list[tuple[str, dict[str, Any]]]:
    alike = np.array([[-1.0, -1.0, 1.0], [1.0, 1.0, -1.0]])
    constant = np.array([[0.0, 2.0, 1.0], [1.0, 2.0, -1.0], [-1.0, 2.0, 0.0]])
    out = np.array([[0.5, 2.0, 4.0], [0.0, 3.0, 0.25], [2.0, 2.0, 0.0]])
    return [
        ("starts at the third call", {"sizes": [3] * 4}),
        ("starts at the second call, the first that has something to compare with",
         {"sizes": [3] * 3, "settings": {"start_after": 0}}),
        ("start_after=1 is the same", {"sizes": [3] * 3, "settings": {"start_after": 1}}),
        ("forgetting", {"sizes": [3] * 6, "settings": {"forget_after": 2}}),
        ("naive (a): gradient 0", {"sizes": [3] * 4, "settings": {"strength": 0.0}}),
        ("naive (b): gradient 1", {"sizes": [3] * 4, "settings": {"strength": -1.0}}),
        ("strength 5", {"sizes": [3] * 4, "settings": {"strength": 5.0}}),
        ("k=2", {"sizes": [3] * 4, "settings": {"k": 2}}),
        ("k is the whole layer", {"sizes": [3] * 4, "neurons": (2,), "settings": {"k": 2}}),
        ("compensation", {"sizes": [3] * 4, "settings": {"compensation": 0.25}}),
        ("calls in eval() pass everything and are not remembered",
         {"sizes": [3] * 6, "training": [True, False, True, True, False, True]}),
        ("a sequence (B, T, C): one of T x C per sample", {"sizes": [3] * 4, "neurons": (2, 3)}),
        ("a feature map (B, C, Y, X)", {"sizes": [2] * 4, "neurons": (2, 2, 2)}),
        ("batches of different sizes, forgetting",
         {"sizes": [5, 3, 2, 6, 1], "settings": {"forget_after": 2}}),
        ("offset 1,000 times the spread", {"sizes": [5] * 4, "offset": 1e3}),
        ("two neurons alike, so equally far out: both are flagged",
         {"batches": [alike, alike, np.array([[4.0, 4.0, 0.0], [0.0, 0.0, 2.0]])]}),
        ("a neuron that was constant: never flagged in \"paper\", though it moves at last; "
         "in \"authors\" compensation gives it a scale",
         {"batches": [constant, constant, out], "settings": {"compensation": 0.25}}),
        ("k is the whole layer, with a neuron that stays constant: \"authors\" flags it too",
         {"batches": [constant, constant, constant[::-1]],
          "settings": {"k": 3, "compensation": 0.25}}),
        ("start_after=10: eleven calls and one more",
         {"sizes": [2] * 12, "settings": {"start_after": 10, "compensation": 0.0}}),
    ]  # fmt: skip


def _trajectory_case(
    settings: Settings,
    sizes: list[int] | None = None,
    neurons: tuple[int, ...] = (3,),
    offset: float = 0.0,
    training: list[bool] | None = None,
    batches: list[Array] | None = None,
) -> tuple[list[Array], list[Array], list[bool], dict[str, list[Expected]]]:
    """Inputs and what must come out; random numbers are drawn again until nothing is close."""
    for seed in range(1000):
        rng = np.random.default_rng([314, seed])
        drawn = batches or [float32(offset + rng.normal(size=(b, *neurons))) for b in sizes or []]
        upstream = [float32(rng.normal(size=z.shape)) for z in drawn]
        modes = training or [True] * len(drawn)
        try:
            return drawn, upstream, modes, expected_trajectory(drawn, upstream, modes, settings)
        except ValueError:
            if batches is not None:
                raise
    raise AssertionError("no numbers that are far enough apart")


# ---- a module of a framework as the function that is called --------------------------------------


def trajectory(factory: Callable[..., Any]) -> Callable[..., Trajectory]:
    """Make the function that the suite calls of a class, minimono's or PyTorch's, with the
    arguments of `minimono.mono.MEmeL`.
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
    raise TypeError(
        f"MEmeL: the factory made a {type(module).__name__}, expected a module of minimono or "
        "PyTorch; for others give a function of whole trajectories (see describe('module'))"
    )


# ---- known mistakes ------------------------------------------------------------------------------


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
    forget: bool = True,
    first_counts: int = 1,
    eval_inhibits: bool = False,
    eval_updates: bool = False,
    gradient: Callable[[Array, Array, float], Array] | None = None,
    value: Callable[[Array, Array, Array], Array] | None = None,
    select: Callable[[Array, int], Array] | None = None,
    compensates: bool = True,
    constants: str = "by the convention",
    learns_from: str = "input",
    twice: bool = False,
) -> Trajectory:
    """MEmeL in floating point, with something wrong, as the options from `after` on say."""
    after = convention == "authors" if after is None else after
    select = select or (lambda phi, k: top(phi, k, "sample", "all"))
    seen, count, mean, variance = 0, 0.0, np.zeros(()), np.zeros(())

    def update(z: Array) -> None:
        nonlocal seen, count, mean, variance
        b, own_mean = float(len(z)), z.mean(axis=0)
        m2 = ((z - own_mean) ** 2).sum(axis=0)
        seen += 1
        if seen == 1:
            count, mean, variance = (
                b * first_counts,
                own_mean,
                m2 * first_counts / (b * first_counts - 1),
            )
            return
        limit = forget_after if forget else 10**9
        past = count if seen <= limit else limit * b
        if convention == "authors":
            past = min(seen, limit) * b
        m2 = m2 + (past - 1) * variance + (mean - own_mean) ** 2 * (past * b / (past + b))
        mean = (past * mean + b * own_mean) / (past + b)
        count = past + b
        variance = m2 / (count - 1)

    values, gradients = [], []
    for z, g, train in zip(batches, upstream, training, strict=True):
        out, slope = z, g
        before = seen, mean, variance
        if learns_from == "input" and (train or eval_updates):
            for _ in range(2 if twice and train else 1):
                update(z)
        if (
            (train or eval_inhibits)
            and before[0] > 0
            and before[0] * (1 + twice) >= start_after + start
        ):
            used_mean, used_variance = (mean, variance) if after else before[1:]
            below = used_variance + (compensation * used_variance.mean() if compensates else 0.0)
            hidden = {"never": used_variance <= 0, "always": below <= 0}
            hidden["by the convention"] = hidden["never" if convention == "paper" else "always"]
            phi = (z - used_mean) ** 2 / np.where(hidden[constants], np.nan, below)
            mask = select(phi, k)
            replaced = used_mean if value is None else value(z, used_mean, mask)
            out = np.where(mask, replaced, z)
            slope = (
                np.where(mask, -strength * g, g)
                if gradient is None
                else gradient(g, mask, strength)
            )
        if learns_from == "output" and train:
            update(out)
        values.append(out)
        gradients.append(slope)
    return values, gradients


def _there(change: Callable[[Array, float], Array]) -> Callable[..., Trajectory]:
    """A gradient that is right elsewhere, and `change(upstream, strength)` where flagged."""
    return partial(mistaken, gradient=lambda g, mask, d: np.where(mask, change(g, d), g))


def _by_channel(phi: Array, k: int) -> Array:
    rows = phi.reshape(-1, phi.shape[-1])
    return top(rows, min(k, rows.shape[1]), "sample", "all").reshape(phi.shape)


MISTAKES: dict[str, Callable[..., Trajectory]] = {
    "the batch is in the moments before it is scored": partial(mistaken, after=True),
    "the batch is scored before it is in the moments": partial(mistaken, after=False),
    "inhibition starts one call early": partial(mistaken, start=-1),
    "inhibition starts one call late": partial(mistaken, start=1),
    "nothing is forgotten": partial(mistaken, forget=False),
    "the first batch counts twice": partial(mistaken, first_counts=2),
    "in eval mode it still inhibits": partial(mistaken, eval_inhibits=True),
    "in eval mode it still updates the moments": partial(mistaken, eval_updates=True),
    "in eval mode it still inhibits and updates": partial(
        mistaken, eval_inhibits=True, eval_updates=True
    ),
    "the gradient of a flagged value is 0": _there(lambda g, d: 0 * g),
    "the gradient of a flagged value is +strength: not reversed": _there(lambda g, d: d * g),
    "the gradient of a flagged value is +1": _there(lambda g, d: g),
    "the gradient of a flagged value is doubled": _there(lambda g, d: -2 * d * g),
    "strength is ignored": _there(lambda g, d: -g),
    "the gradient leaks into values that are not flagged": partial(
        mistaken, gradient=lambda g, mask, d: -d * g
    ),
    "the value is not replaced": partial(mistaken, value=lambda z, mean, mask: z),
    "the value is 0 instead of the mean": partial(mistaken, value=lambda z, mean, mask: 0 * z),
    "the value is the batch's mean instead of the running one": partial(
        mistaken, value=lambda z, mean, mask: np.broadcast_to(z.mean(axis=0), z.shape)
    ),
    "k of the whole batch, not of each sample": partial(
        mistaken, select=lambda phi, k: top(phi, k, "batch", "all")
    ),
    "of ties only the first is flagged": partial(
        mistaken, select=lambda phi, k: top(phi, k, "sample", "first")
    ),
    "k of the last axis, not of all neurons": partial(mistaken, select=_by_channel),
    "only one is flagged, whatever k is": partial(
        mistaken, select=lambda phi, k: top(phi, 1, "sample", "all")
    ),
    "the lowest scale is flagged": partial(
        mistaken, select=lambda phi, k: top(-phi, k, "sample", "all")
    ),
    "compensation is ignored": partial(mistaken, compensates=False),
    "a constant neuron is flagged": partial(mistaken, constants="always"),
    'a constant neuron is never flagged, in "authors" too': partial(mistaken, constants="never"),
    "the moments are those of the output": partial(mistaken, learns_from="output"),
    "the moments are updated twice a call, as if two layers shared them": partial(
        mistaken, twice=True
    ),
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
            "and are called on tensors (minimono's or PyTorch's). Or a function as above, that\n"
            "begins anew each time: batches, upstream: lists, one array (B, *neurons) a call;\n"
            "training: booleans, one a call. Returns two lists: the values, and the gradients by\n"
            "the batches, each for its upstream.",
        ),
    ),
    cases=cases,
    own={"MEmeL": trajectory(mono.MEmeL)},
    mistakes={"MEmeL": MISTAKES},
)  # fmt: skip
