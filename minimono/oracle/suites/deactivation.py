"""Suite `deactivation`: flagged activations become their mean, with a reversed gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from minimono import mono
from minimono.backend import Array
from minimono.oracle.case import Case, Expected
from minimono.oracle.suite import Call, Entries, Mistakes, Suite, grouped
from minimono.oracle.suites.own import value_and_gradients
from minimono.oracle.truth import float32


def plain_deactivate(
    z: Array, mask: Array, mean: Array, strength: float, upstream: Array,
    *, value: Callable[[Array, Array, float], Array] = lambda z, mean, d: mean,
    gradient: Callable[[Array, float], Array] = lambda g, d: -d * g,
    elsewhere: Callable[[Array, float], Array] = lambda g, d: g,
    flags: Callable[[Array], Array] = lambda mask: mask,
    choose: Callable[[Array, Array, Array], Array] = np.where,  # of the values
) -> tuple[Array, Array]:
    """Return the value and the gradient; strength is d and upstream is g in the knobs."""
    mask = flags(mask)
    return (
        choose(mask, value(z, mean, strength), z),
        np.where(mask, gradient(upstream, strength), elsewhere(upstream, strength)),
    )


def cases() -> Iterator[Case]:
    return grouped(SUITE, [("all", "deactivate", 27182818, _entries)])


def _entries(rng: np.random.Generator) -> Entries:
    plans: list[tuple[str, tuple[int, ...], float, float]] = [
        ("reversed deactivation", (3, 4), 1.0, 1.0),
        ("naive (a): no gradient", (3, 4), 0.0, 1.0),
        ("naive (b): the gradient passes as if nothing had happened", (3, 4), -1.0, 1.0),
        ("strength 5", (3, 4), 5.0, 1.0),
        ("strength 0.5", (3, 4), 0.5, 1.0),
        ("strength 100", (2, 3), 100.0, 1.0),
        ("a sequence (B, T, C): a mean for each position and channel", (2, 3, 2), 1.0, 1.0),
        ("a feature map (B, C, Y, X)", (2, 2, 2, 3), 2.0, 1.0),
        ("one neuron, no neuron axis: shape (B,)", (5,), 1.0, 1.0),
        ("|z| near 1000: written as -z + (mean + z), the value is rounded", (3, 4), 1.0, 1e3),
        ("strength 100 and |z| near 1000: the rounding grows with it", (3, 4), 100.0, 1e3),
        ("the same in float64", (3, 4), 100.0, 1e9),
    ]
    entries: list[tuple[str, Array, Array, Array, float, Array]] = []
    for notes, shape, strength, size in plans:
        z = size * rng.normal(size=shape)
        z = float32(z) if size < 1e9 else z
        mask, mean = rng.random(shape) < 0.4, float32(rng.normal(size=shape[1:]))
        mask.reshape(-1)[0], mask.reshape(-1)[-1] = True, False
        entries.append((notes, z, mask, mean, strength, float32(rng.normal(size=shape))))
    z, upstream = np.array([[5.0, 2.0], [1.0, -3.0]]), np.array([[1.0, 10.0], [-2.0, 4.0]])
    mean = np.array([1.0, -1.0])
    by_hand = np.array([[True, False], [False, True]])
    entries += [
        ("small whole numbers, to try by hand", z, by_hand, mean, 1.0, upstream),
        ("nothing is flagged", z, np.zeros((2, 2), bool), mean, 1.0, upstream),
        ("everything is flagged", z, np.ones((2, 2), bool), mean, 1.0, upstream),
        ("a flagged value that equals its mean: the gradient is reversed all the same",
         np.tile(mean, (2, 1)), by_hand, mean, 1.0, upstream),
        ("a neuron whose mean is nan, as before the first statistics, and that is not flagged: "
         "times a mask of 0 the mean is still nan", z, by_hand & np.array([True, False]),
         np.array([1.0, np.nan]), 1.0, upstream),
        ("strength -2: twice the gradient, not reversed", z, by_hand, mean, -2.0, upstream),
        ("one sample", z[:1], by_hand[:1], mean, 2.0, upstream[:1]),
    ]
    for notes, *given in entries:
        arguments = dict(zip(SUITE.call("deactivate").arguments, given, strict=True))
        value, gradient = plain_deactivate(**arguments)
        rounded = np.where(arguments["mask"], abs(gradient), 0.0)
        yield notes, arguments, [Expected(value), Expected(gradient + 0.0, rounded)]


GRADIENTS: dict[str, dict[str, Any]] = {  # of suite `module` too
    "the gradient of a flagged value is 0": {"gradient": lambda g, d: 0 * g},
    "the gradient of a flagged value is +strength: not reversed": {"gradient": lambda g, d: d * g},
    "the gradient of a flagged value is +1": {"gradient": lambda g, d: g},
    "the gradient of a flagged value is doubled": {"gradient": lambda g, d: -2 * d * g},
    "the gradient of a flagged value is 1 - strength": {"gradient": lambda g, d: (1 - d) * g},
    "strength is ignored": {"gradient": lambda g, d: -g},
    "the gradient leaks into values that are not flagged": {"elsewhere": lambda g, d: -d * g},
    "values that are not flagged get no gradient": {"elsewhere": lambda g, d: np.zeros_like(g)},
    "the gradient is that of ones, not of the upstream":
        {"gradient": lambda g, d: -d * np.ones_like(g), "elsewhere": lambda g, d: np.ones_like(g)},
}

MISTAKES = Mistakes(plain_deactivate, {
    **GRADIENTS,
    "strength counts twice": {"gradient": lambda g, d: -d * abs(d) * g},
    "the value is not replaced": {"value": lambda z, mean, d: z},
    "the value is 0 instead of the mean": {"value": lambda z, mean, d: np.zeros_like(z)},
    "the value is the batch's mean instead of the given one":
        {"value": lambda z, mean, d: z.mean(axis=0)},
    "the value is reflected at the mean": {"value": lambda z, mean, d: 2 * mean - z},
    "the value is written as -d z + (mean + d z), which rounds":
        {"value": lambda z, mean, d: -d * z + (mean + d * z)},
    "the mask multiplies the mean: 0 times nan is nan":
        {"choose": lambda mask, mean, z: mask * mean + (1 - mask) * z},
    "the value is the mean over all neurons": {"value": lambda z, mean, d: mean.mean()},
    "a flag in one sample flags the neuron in all":
        {"flags": lambda mask: np.broadcast_to(mask.any(axis=0), mask.shape)},
    "a flagged value gets the upstream of all samples, summed":
        {"gradient": lambda g, d: -d * g.sum(axis=0)},
    "the gradient of a flagged value is divided by the number of samples":
        {"gradient": lambda g, d: -d * g / len(g)},
    "the mask is inverted": {"flags": np.invert},
})

SUITE = Suite(
    name="deactivation",
    text="flagged activations become their neuron's mean, with gradient -strength",
    conventions={
        "neurons": "all axes but the first; axis 0 is the samples",
        "value": "exactly the mean where flagged, exactly z elsewhere; as printed, -z + (mean + z) "
        "is off by rounding, and not accepted",
        "strength": "1 reversed, 0 naive (a), -1 naive (b), d: gradient -d",
    },
    calls=(
        Call("deactivate", ("z", "mask", "mean", "strength", "upstream"), ("value", "gradient"),
             "z (B, *neurons); mask booleans of that shape; mean (*neurons); upstream, the loss's\n"
             "gradient by the value. gradient is the loss's gradient by z: -strength * upstream\n"
             "where flagged, upstream elsewhere."),
    ),
    cases=cases,
    own={"deactivate": value_and_gradients(
        lambda z, mask, mean, d: mono.deactivate(z, mask, mean, strength=d), upstream=True
    )},
    mistakes={"deactivate": MISTAKES},
)
