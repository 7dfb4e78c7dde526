"""What the demo measures on a network: loss, monosemantic scale, movement, what neurons see.

Shapes: `N` windows of text, `T` time (position), `C` channels. A network is measured in `eval()`,
so that an inserted MEmeL does nothing and the activations are the network's own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from minimono.backend import Array, to_host
from minimono.checks import sizes, whole_number
from minimono.engine.functional import log_softmax
from minimono.mono.moments import Moments
from minimono.mono.scale import monosemantic_scale
from minimono.nn import taps
from minimono.nn.module import Module, evaluating

AT_ONCE = 16  # windows in one call of a network: more would leave the cache


def spread_windows(ids: Array, *, windows: int, context: int) -> tuple[Array, Array]:
    """At most `windows` pieces of a text, evenly spread, side by side or apart.

    Returns where they start (N,) and their ids (N, T + 1): T inputs and, one on, T targets.

    >>> starts, pieces = spread_windows(np.arange(100), windows=3, context=4)
    >>> starts, pieces[1]
    (array([ 0, 32, 64]), array([32, 33, 34, 35, 36]))
    """
    sizes("spread_windows", windows=windows, context=context)
    fitting = (len(ids) - 1) // context
    if fitting < 1:
        raise ValueError(
            f"text: its training or validation part has {len(ids)} characters, a context of "
            f"{context} needs at least {context + 1}: take a longer text or a shorter context"
        )
    apart = max(1, fitting // windows) * context
    starts = np.arange(min(windows, fitting)) * apart  # (N,)
    return starts, ids[starts[:, None] + np.arange(context + 1)]


def window_losses(model: Module, pieces: Array) -> Array:
    """Mean -log p(next character) of each piece, in nats: pieces (N, T + 1) to float64 (N,)."""
    means = []
    with evaluating(model):
        for piece in _a_few_at_once(pieces):
            log_p = to_host(log_softmax(model(piece[:, :-1])).data)  # (n, T, vocabulary)
            chosen = np.take_along_axis(log_p, piece[:, 1:, None], axis=-1)  # (n, T, 1)
            means.append(-chosen.mean(axis=(1, 2), dtype=np.float64))
    return np.concatenate(means)


def activations(model: Module, inputs: Array, pattern: str) -> dict[str, Array]:
    """The activations (N, T, C) at every tap that matches, for inputs (N, T), on the host."""
    parts: dict[str, list[Array]] = {name: [] for name in taps.names(model, pattern)}
    with evaluating(model), taps.read(model, pattern) as seen:
        for piece in _a_few_at_once(inputs):
            model(piece)
            for name, part in parts.items():
                part.append(to_host(seen[name].data))
    return {name: np.concatenate(part) for name, part in parts.items()}


def _a_few_at_once(pieces: Array) -> Iterator[Array]:
    return (pieces[i : i + AT_ONCE] for i in range(0, len(pieces), AT_ONCE))


# ---- the scale, and what it would be by chance -------------------------------------------------


def scale_against(history: Array, z: Array) -> Array:
    """phi of every activation z (B, *neurons) against the moments of a history (m, *neurons).

    As published: z is not in the history, ddof = 1, no compensation. nan where a neuron is constant
    over the history.
    """
    moments = Moments.of(history)
    return monosemantic_scale(z, moments.mean, moments.variance())


def null_density(log10_phi: Array, m: int) -> Array:
    """How log10 phi is distributed if a neuron is Gaussian, so no value of it is special.

    phi of a new value against m earlier ones is (m + 1)/m times an F(1, m - 1) variable. With
    f = phi m/(m + 1), d = m - 1 and x = log10 phi, so that df/dx = f ln 10, its density is

        g(x) = f ln 10 F(f; 1, d) = ln 10 sqrt(f/d) (1 + f/d)^(-(d+1)/2) / B(1/2, d/2)

    B(1/2, d/2) = Gamma(1/2) Gamma(d/2) / Gamma((d+1)/2). For large m it is the density of
    log10 of a chi-square variable with one degree of freedom.
    """
    m = whole_number(m, "null_density: m", least=2)  # for a variance
    d = m - 1
    if d < 10**4:
        step = math.lgamma((d + 1) / 2) - math.lgamma(d / 2)
    else:  # their difference has lost digits: here its series, to 1 / (24 d^3)
        step = 0.5 * math.log(d / 2) - 1 / (4 * d)
    log_beta = math.lgamma(0.5) - step
    ratio = 10.0 ** np.asarray(log10_phi, dtype=np.float64) * (m / (m + 1)) / d  # f/d
    density: Array = math.log(10.0) * np.exp(
        0.5 * np.log(ratio) - (d + 1) / 2 * np.log1p(ratio) - log_beta
    )
    return density


# ---- where one update moves flagged activations ------------------------------------------------


def distance_to_mean(z: Array, flagged: Array, mean: Array) -> float:
    """How far the flagged activations are from their means, together: the sum of |z - mean|.

    z, flagged (B, *neurons), mean (*neurons). An update moves them by

        distance after / distance before - 1          below 0: towards the mean

    The ratio of sums, since the mean of ratios would hang on those that were near their mean.

    >>> z, flagged = np.array([[4.0, 1.0], [2.5, 7.0]]), np.array([[True, False], [True, False]])
    >>> distance_to_mean(z, flagged, mean=np.array([2.0, 0.0]))
    2.5
    """
    if flagged.dtype != bool or flagged.shape != z.shape or mean.shape != z.shape[1:]:
        raise ValueError(
            f"distance_to_mean: z has shape {z.shape}, flagged is {flagged.dtype} {flagged.shape}, "
            f"mean has shape {mean.shape}; expected booleans of z's shape, and a mean a neuron"
        )
    return float(np.abs(np.subtract(z, mean, dtype=np.float64))[flagged].sum())


# ---- the most monosemantic neurons -------------------------------------------------------------


class Neuron(NamedTuple):
    """A channel of a layer, seen over all characters of some pieces of text."""

    tap: str
    channel: int
    score: float  # the 99.9th percentile of its phi
    values: Array  # its activations (N, T)
    scale: Array  # their phi (N, T)


def most_monosemantic(
    history: dict[str, Array], seen: dict[str, Array], *, count: int
) -> list[Neuron]:
    """The channels whose phi reaches highest, over all layers: history and seen are (N, T, C) each.

    Here a sample is a character, whatever its position, and a neuron is a channel. phi of all
    neurons averages to about 1; the 99.9th percentile is high if a neuron is silent on nearly all
    characters and speaks on one in a thousand or so.
    """
    found = []
    for name, z in seen.items():
        C = z.shape[-1]
        phi = scale_against(history[name].reshape(-1, C), z.reshape(-1, C))  # (N T, C)
        scores = np.percentile(phi, 99.9, axis=0)  # (C,); nan for a constant channel
        ranked = np.argsort(-scores)[:count]  # nan comes last
        found += [
            Neuron(name, int(c), float(scores[c]), z[..., c], phi[:, c].reshape(z.shape[:-1]))
            for c in ranked
            if not math.isnan(scores[c])
        ]
    return sorted(found, key=lambda neuron: -neuron.score)[:count]


class Snippet(NamedTuple):
    """A character that a neuron answers to, in its surroundings."""

    before: str
    character: str
    after: str
    activation: float
    scale: float


def top_snippets(
    neuron: Neuron, text: str, starts: Array, *, count: int, before: int = 32, after: int = 16
) -> list[Snippet]:
    """Where phi of the neuron is highest, the best place of each piece, in the words around it.

    text: what the pieces were cut from, at `starts`. The network sees the characters up to the
    marked one, and back to the start of the piece; those after it are what it has to guess.
    """
    best = neuron.scale.argmax(axis=1)  # (N,)
    heights = neuron.scale.max(axis=1)
    snippets = []
    for n in np.argsort(-heights, kind="stable")[:count]:
        t = int(best[n])
        start = int(starts[n])
        place = start + t
        snippets.append(
            Snippet(
                text[max(start, place - before) : place],
                text[place],
                text[place + 1 : place + 1 + after],
                float(neuron.values[n, t]),
                float(neuron.scale[n, t]),
            )
        )
    return snippets
