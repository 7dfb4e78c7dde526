"""Suite `module`: MEmeL as a whole, call after call, values and gradients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np

from minimono import mono
from minimono.backend import Array
from minimono.oracle.case import BOUND, Case, Expected
from minimono.oracle.modules import trajectory
from minimono.oracle.suite import NONE, Call, Entries, Mistakes, Suite, grouped
from minimono.oracle.suites.deactivation import GRADIENTS, plain_deactivate
from minimono.oracle.suites.running_moments import NEVER, Running
from minimono.oracle.suites.scale import plain_scale
from minimono.oracle.suites.selection import TOP, plain_top_k
from minimono.oracle.truth import exact, float32, rounded

Settings = dict[str, Any]
Knobs = Mapping[str, Any]

FLOAT32, FLOAT64, TINY = 2.0**-23, 2.0**-52, np.finfo(np.float64).tiny


def flagged(phi: Array, error: Array, k: int, ties: bool) -> Array:
    """The k highest of each sample, those equal to the k-th too.

    Raises if a sound implementation could flag others: scores at the edge closer than their errors,
    or equal. Equal ones are let through with `ties`, for data in which they are equal bit by bit.
    """
    flags = np.zeros((len(phi), phi[0].size), dtype=bool)
    errors = error.reshape(flags.shape)
    for row, reach, mask in zip(phi.reshape(flags.shape), errors, flags, strict=True):
        known = sorted((v for v in row if v == v), reverse=True)[:k]  # not nan
        mask[:] = [v == v and v >= known[-1] for v in row]
        scores = list(zip(row, reach, mask, strict=True))
        lowest = min((float(v) - e for v, e, m in scores if m), default=np.inf)
        if any(v == v and float(v) + e >= lowest for v, e, m in scores if not m):
            raise ValueError("too close to call: take other numbers")
        if mask.sum() > k and not ties:
            raise ValueError("a tie: take other numbers")
    return flags.reshape(phi.shape)


def expected_trajectory(
    batches: Sequence[Array], upstream: list[Array], training: list[bool], settings: Settings,
    ties: bool,
) -> list[list[Expected]]:
    convention, compensation = settings["convention"], Fraction(settings["compensation"])
    moments = Running(convention, settings["forget_after"])
    largest = abs(np.concatenate(batches)).max(axis=0)
    narrow = all(np.array_equal(float32(b), b) for b in batches)
    eps = FLOAT32 if narrow else FLOAT64
    values, gradients = [], []
    for z, g, train in zip(batches, upstream, training, strict=True):
        value, gradient = Expected(z), Expected(g)
        if train:
            seen, mean, variance = moments.seen, moments.mean, moments.variance
            moments.update(exact(z))
            if convention == "authors":
                mean, variance = moments.mean, moments.variance
            if seen > 0 and seen >= settings["start_after"]:
                phi = plain_scale(exact(z), mean, variance, compensation=compensation)
                if convention == "paper":
                    phi = np.where(variance == 0, np.nan, phi)
                below = variance + compensation * variance.mean()
                # how far off a sound phi can be: the tolerance of suite `scale`
                size = np.nan_to_num(rounded(phi))
                eta = BOUND * eps * largest / np.sqrt(np.maximum(rounded(below), TINY))
                error = eta * (2 * np.sqrt(size) + 2 * size + eta) + 8 * eps * size
                mask = flagged(phi, error, settings["k"], ties)
                out, slope = plain_deactivate(z, mask, rounded(mean), settings["strength"], g)
                value = Expected(out, linear=np.where(mask, BOUND * largest, 0.0))
                gradient = Expected(slope + 0.0, linear=np.where(mask, abs(slope), 0.0))
        values.append(value)
        gradients.append(gradient)
    return [values, gradients]


# ---- cases ---------------------------------------------------------------------------------------

CONVENTIONS = "paper", "authors"
DEFAULTS: Settings = {
    "k": 1, "strength": 1.0, "convention": "paper", "forget_after": 10, "start_after": 1,
    "compensation": 0.0,
}


def cases() -> Iterator[Case]:
    return grouped(SUITE, [(c, "MEmeL", 0, partial(_trajectories, c)) for c in CONVENTIONS])


def _trajectories(convention: str, _: np.random.Generator) -> Entries:
    for notes, conventions, batches, options in _plans():
        if convention in conventions:
            settings = {key: options.pop(key, value) for key, value in DEFAULTS.items()}
            settings["convention"] = convention
            yield notes, *_trajectory(settings, batches, **options)


def _plans() -> list[tuple[str, tuple[str, ...], Sequence[Any], dict[str, Any]]]:
    """Notes, conventions, batches or their sizes, settings and other arguments of `_trajectory`."""
    PAPER, AUTHORS = ("paper",), ("authors",)
    BOTH = PAPER + AUTHORS
    uneven = {"neurons": (4,), "spread": [1.0, 0.25, 0.0625, 4.0]}
    alike = np.array([[-1.0, -1.0, 1.0], [1.0, 1.0, -1.0]])
    middle = np.array([[0.0, 0.0, 0.0], [2.0, 1.0, -4.0], [-2.0, -1.0, 4.0]])
    constant = np.array([[0.0, 2.0, 1.0], [1.0, 2.0, -1.0], [-1.0, 2.0, 0.0]])
    out = np.array([[0.5, 2.0, 4.0], [0.0, 3.0, 0.25], [2.0, 2.0, 0.0]])
    stays = [constant, constant, constant[::-1]]
    still = np.array([[1.0, -2.0], [1.0, -2.0]])
    return [
        ("starts at the third call", BOTH, [3] * 4, {"start_after": 2}),
        ("starts at the second call, the first that has something to compare with",
         BOTH, [3] * 3, {"start_after": 0}),
        ("start_after=1 is the same", PAPER, [3] * 3, {}),
        ("start_after=10: inhibits from the eleventh call on",
         AUTHORS, [2] * 12, {"neurons": (2,), "start_after": 10}),
        ("forgetting", BOTH, [3] * 6, {"forget_after": 2}),
        ("forget_after=1, batches of two",
         # With these numbers a variance divided by n would flag other values.
         BOTH, [2] * 6, {"neurons": (4,), "first_seed": 18, "forget_after": 1}),
        ("batches of different sizes, forgetting",
         BOTH, [5, 3, 2, 6, 1], {"forget_after": 2, "start_after": 2}),
        ("single samples after the first batch", PAPER, [3, 1, 1, 1, 1], {}),
        ("naive (a): gradient 0", PAPER, [3] * 3, {"strength": 0.0}),
        ("naive (b): gradient 1", AUTHORS, [3] * 3, {"strength": -1.0}),
        ("strength 5", BOTH, [3] * 3, {"strength": 5.0}),
        ("strength 0.5", AUTHORS, [3] * 3, {"strength": 0.5}),
        ("k=2", PAPER, [3] * 3, {"k": 2}),
        ("k=3 of a sequence", AUTHORS, [3] * 3, {"neurons": (2, 3), "k": 3}),
        ("k is the whole layer", BOTH, [3] * 3, {"neurons": (2,), "k": 2}),
        ("compensation 0.25, neurons of very different variance",
         BOTH, [4] * 3, {**uneven, "compensation": 0.25}),
        ("compensation 0.01, as in the authors' code",
         BOTH, [4] * 3, {**uneven, "compensation": 0.01}),
        ("neurons of very different variance, no compensation", PAPER, [3] * 3, {**uneven}),
        ("calls in eval() pass everything and are not remembered",
         BOTH, [3] * 6, {"training": [True, False, True, True, False, True], "start_after": 2}),
        ("the first calls are in eval(): nothing is known after them",
         PAPER, [3] * 6, {"training": [False, False, True, True, True, False]}),
        ("in eval() only", PAPER, [1, 3], {"training": [False, False]}),
        ("calls in eval() are not among the start_after",
         AUTHORS, [3] * 5, {"training": [True, False, False, True, True], "start_after": 2}),
        ("a sequence (B, T, C): one of T x C per sample", BOTH, [3] * 3, {"neurons": (2, 3)}),
        ("a feature map (B, C, Y, X)", BOTH, [2] * 3, {"neurons": (2, 2, 2)}),
        ("one neuron: every activation is flagged", PAPER, [3] * 3, {"neurons": (1,)}),
        ("offset 100 times the spread", AUTHORS, [5] * 3, {"offset": 100.0}),
        ("offset a million times the spread, in float64",
         BOTH, [5] * 3, {"offset": 1e6, "forget_after": 2}),
        ("two neurons alike, so equally far out: both are flagged",
         BOTH, [alike, alike, np.array([[4.0, 4.0, 0.0], [0.0, 0.0, 2.0]])], {"start_after": 2}),
        ("k=2, the second and third highest alike: three are flagged",
         BOTH, [alike, alike, np.array([[4.0, 4.0, 8.0], [3.0, 3.0, 0.5]])],
         {"k": 2, "start_after": 2}),
        ("a sample at all means: all scores are 0, all alike, all flagged",
         BOTH, [alike, alike, middle], {"start_after": 2}),
        ('a neuron that was constant: never flagged in "paper", though it moves at last; '
         'in "authors" compensation gives it a scale',
         BOTH, [constant, constant, out], {"compensation": 0.25}),
        ("a neuron that was constant, without compensation", PAPER, [constant, constant, out], {}),
        ('k is the whole layer, with a neuron that stays constant: "authors" flags it too',
         BOTH, stays, {"k": 3, "compensation": 0.25}),
        ("the same without compensation: neither flags the constant neuron",
         AUTHORS, stays, {"k": 3}),
        ("all neurons constant: nothing is flagged",
         AUTHORS, [still] * 3, {"k": 2, "compensation": 0.25}),
    ]


def _trajectory(
    settings: Settings, given: Sequence[Any], *, neurons: tuple[int, ...] = (3,),
    offset: float = 0.0, spread: Sequence[float] = (1.0,), first_seed: int = 0,
    training: list[bool] | None = None,
) -> tuple[dict[str, Any], list[list[Expected]]]:
    """Arguments and what must come out; random numbers are drawn again until nothing is close.

    given: batches, or their sizes. Activations are multiples of 1/64 (times their spread),
    upstreams whole numbers, so that they are easily read.
    """
    training = training or [True] * len(given)
    drawn = isinstance(given[0], int)
    for seed in range(first_seed, 1000):
        rng = np.random.default_rng([314, seed])
        batches = given if not drawn else [
            offset + np.round(64 * rng.normal(size=(b, *neurons))) / 64 * np.array(spread)
            for b in given
        ]
        upstream = [
            rng.choice([-1.0, 1.0], z.shape) * rng.integers(2, 10, size=z.shape) for z in batches
        ]
        arguments = {"batches": batches, "upstream": upstream, "training": training, **settings}
        try:
            return arguments, expected_trajectory(batches, upstream, training, settings, not drawn)
        except ValueError:
            if not drawn:
                raise
    raise AssertionError("no numbers that are far enough apart")


# ---- MEmeL in plain NumPy: right without knobs; with a knob turned, a mistake --------------------


def plain_memel(
    batches: list[Array], upstream: list[Array], training: list[bool],
    *, k: int, strength: float, convention: str, forget_after: int, start_after: int,
    compensation: float,
    after: bool | None = None,  # a batch is in the moments before it is scored, or not
    start: int = 0,  # so many calls late
    start_counts: str = "calls in training",
    eval_inhibits: bool = False, eval_updates: bool = False, eval_resets: bool = False,
    constants: bool | None = None,  # a constant neuron has a scale, or not
    other_mean: bool = False,
    detached: bool = True,
    learns_from: str = "input",  # or "output"
    updates: int = 1,  # of the moments, in a call
    moments: Knobs = NONE,  # of `Running`
    scale: Knobs = NONE,  # of `plain_scale`
    select: Knobs = NONE,  # of `plain_top_k`
    inhibit: Knobs = NONE,  # of `plain_deactivate`
) -> tuple[list[Array], list[Array]]:
    """Return what MEmeL does, in plain NumPy and in the dtype of the data."""
    after = convention == "authors" if after is None else after
    constants = convention == "authors" if constants is None else constants
    running = Running(convention, forget_after, **moments)
    values, gradients = [], []
    for number, (z, g, train) in enumerate(zip(batches, upstream, training, strict=True)):
        out, slope = z, g
        trained = [len(b) for b, mode in zip(batches[:number], training, strict=False) if mode]
        already = {
            "calls in training": running.seen, "all calls": number, "samples": sum(trained),
            "calls of two layers": 2 * running.seen,
        }[start_counts]
        known, before = running.seen > 0, (running.mean, running.variance)
        if learns_from == "input" and (train or eval_updates):
            for _ in range(updates):
                running.update(z)
        if eval_resets and not train:
            running = Running(convention, forget_after, **moments)
        if (train or eval_inhibits) and known and already >= start_after + start:
            now = running.mean, running.variance
            mean, variance = now if after else before
            phi = plain_scale(z, mean, variance, compensation=compensation, **scale)
            phi = phi if constants else np.where(variance > 0, phi, np.nan)
            mask = plain_top_k(phi, **{"k": k, "per": "sample", "ties": "all", **select})
            if other_mean:
                mean = before[0] if after else now[0]
            out, slope = plain_deactivate(z, mask, mean, strength, g, **inhibit)
            if after and not detached:
                slope = slope + (mask * g).sum(axis=0) / running.count
        if learns_from == "output" and train:
            running.update(out)
        values.append(out)
        gradients.append(slope)
    return values, gradients


MISTAKES = Mistakes(plain_memel, {
    # the order of things
    "the batch is in the moments before it is scored": {"after": True},
    "the batch is scored before it is in the moments": {"after": False},
    "inhibition starts one call early": {"start": -1},
    "inhibition starts one call late": {"start": 1},
    "start_after counts samples, not calls": {"start_counts": "samples"},
    "start_after counts calls in eval mode too": {"start_counts": "all calls"},
    # eval mode
    "in eval mode it still inhibits": {"eval_inhibits": True},
    "in eval mode it still updates the moments": {"eval_updates": True},
    "in eval mode it still inhibits and updates": {"eval_inhibits": True, "eval_updates": True},
    "after a call in eval mode the moments begin anew": {"eval_resets": True},
    # moments
    "nothing is forgotten": {"moments": {"longer": NEVER}},
    "forgetting begins one call late": {"moments": {"longer": 1}},
    "forget_after counts samples, not batches": {"moments": {"weight": "in samples"}},
    "the first batch counts twice": {"moments": {"first_counts": 2}},
    "the first batch counts once, where the authors' code counts it twice":
        {"moments": {"counted_from": 0}},
    "variance divided by n instead of n-1": {"moments": {"ddof": 0}},
    "variance taken about zero instead of the mean": {"moments": {"about": "zero"}},
    "mean and variance by channel, over all positions":
        {"moments": {"over": "samples and positions"}},
    "the moments are those of the output": {"learns_from": "output"},
    "the moments are updated twice a call, as if two layers shared them":
        {"updates": 2, "start_counts": "calls of two layers"},
    # the scale
    "standard deviation where the variance is meant": {"scale": {"denominator": np.sqrt}},
    "the distance is not divided by the variance": {"scale": {"denominator": np.sign}},
    "the scale is taken about zero instead of the mean": {"scale": {"about": 0}},
    "the sign is kept: only what lies above the mean is flagged":
        {"scale": {"numerator": lambda d: d, "denominator": np.sqrt}},
    "compensation is ignored": {"scale": {"below": lambda v, c: v}},
    "a constant neuron is flagged": {"constants": True},
    'a constant neuron is never flagged, in "authors" too': {"constants": False},
    # which are flagged
    "k of the whole batch, not of each sample": {"select": {"of": "batch"}},
    "of ties only the first is flagged": {"select": {"tied": "first"}},
    "of ties only the last is flagged": {"select": {"tied": "first", "last": True}},
    "k of the last axis, not of all neurons": {"select": {"of": "last axis"}},
    "k of each position, not of all neurons": {"select": {"of": "position"}},
    "only one is flagged, whatever k is": {"select": {"k": 1}},
    "one too many is flagged": {"select": {"more": 1}},
    "a flag in one sample flags the neuron in all": {"select": {"spreads": True}},
    "the lowest scale is flagged": {"select": {"score": np.negative}},
    "nan counts as the highest": {"select": TOP["nan counts as the highest"]},
    # values
    "the value is not replaced": {"inhibit": {"value": lambda z, mean, d: z}},
    "the value is 0 instead of the mean": {"inhibit": {"value": lambda z, mean, d: 0 * z}},
    "the value is reflected at the mean": {"inhibit": {"value": lambda z, mean, d: 2 * mean - z}},
    "the value is the batch's mean instead of the running one":
        {"inhibit": {"value": lambda z, mean, d: z.mean(axis=0)}},
    "the value is the mean of the whole layer":
        {"inhibit": {"value": lambda z, mean, d: mean.mean()}},
    "the value is a mean of another time than the one that scored": {"other_mean": True},
    # gradients
    **{name: {"inhibit": knobs} for name, knobs in GRADIENTS.items()},
    "the mean is not a constant: the gradient flows through it": {"detached": False},
})


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
        Call("MEmeL",
             ("batches", "upstream", "training", "*", "k", "strength", "convention", "forget_after",
             "start_after", "compensation"),
             ("values", "gradients"),
             "A class with these settings as arguments, whose instances have train() and eval()\n"
             "and are called on tensors (minimono's, PyTorch's, or like them), or a function that\n"
             "makes such a module. Or a function as above, that begins anew each time: batches,\n"
             "upstream: lists, one array (B, *neurons) a call; training: booleans, one a call.\n"
             "Returns two lists: the values, and the gradients by the batches, each for its\n"
             "upstream."),
    ),
    cases=cases,
    own={"MEmeL": trajectory(mono.MEmeL)},
    mistakes={"MEmeL": MISTAKES},
)
