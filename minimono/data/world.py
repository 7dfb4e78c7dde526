"""A world with known features, and a layer of neurons whose kinds are known too.

What a measure of monosemanticity sees can only be told where the truth is known. So here both are
made: inputs that are sums of known features, each there or not,

    x = Σ_f s_f v_f + noise,     s_f = 1 with probability p_f, else 0

independently of the others, or with the correlations, the hierarchy and the amounts of
SynthSAEBench (`firing.py` makes them; `matching.py` rates what was learned of such a world). And
ReLU neurons with weights chosen so that each is of a kind: it answers to one feature, to a few, to
all, to none... All of it is our choice. The directions v_f may be orthogonal, or more than there
are dimensions (superposition; Elhage et al., 2022, find polygons in trained toy models).

Shapes: `B` inputs, `F` features, `D` dimensions of an input. Arrays are NumPy's, in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from minimono.backend import Array
from minimono.checks import (
    Rng,
    everywhere,
    finite,
    generator,
    instance,
    matrix,
    number,
    one_of,
    real,
    whole_number,
)
from minimono.data.firing import Hierarchy, cholesky

# ---- the world ---------------------------------------------------------------------------------


class Sample(NamedTuple):
    """Inputs, and which features each is made of."""

    inputs: Array  # (B, D)
    features: Array  # (B, F), booleans


@dataclass(frozen=True, eq=False)
class World:
    """Features with directions and probabilities, and noise.

    directions: (F, D), one row v_f for each feature, none of them 0; a row's length is the
    feature's strength.   probabilities: (F,), or one number for all, between 0 and 1.
    noise: standard deviation of the Gaussian noise in every one of the D dimensions.

    The rest is as SynthSAEBench has it (arXiv 2602.14687; authors' code, in SAELens 6.54.12):

    correlation: (F, F), of Gaussians g, of which feature f fires if g_f > Φ⁻¹(1 - p_f). Firing
    itself correlates less: at p = ½ and ρ = ½ by 1/3. By default features are independent.
    amount, spread: how much of a feature is there where it fires, max(0, amount + spread · N(0,1)),
    each (F,) or one for all. So with a spread it may fire and not be there.
    hierarchy: what is left of that, see `Hierarchy`. `probabilities` are those before it.

    >>> world = World(np.eye(3), 0.5)
    >>> inputs, features = world.sample(4, rng=np.random.default_rng(0))
    >>> inputs.shape, bool((inputs == features).all())
    ((4, 3), True)
    """

    directions: Array
    probabilities: Array
    noise: float = 0.0
    correlation: Array | None = None
    amount: Array | float = 1.0
    spread: Array | float = 0.0
    hierarchy: Hierarchy | None = None

    def __post_init__(self) -> None:
        directions = matrix(self.directions, "World: directions", "(F, D)")
        if not directions.any(axis=1).all():
            f = int(directions.any(axis=1).argmin())
            raise ValueError(f"World: directions: feature {f} is 0, it needs a direction")
        F = len(directions)
        p = _of_each(self.probabilities, "World: probabilities", F)
        if not ((p > 0) & (p < 1)).all():
            raise ValueError(
                f"World: probabilities is from {p.min()} to {p.max()}, expected all between 0 and "
                "1, both excluded"
            )
        object.__setattr__(self, "directions", _locked(directions))
        object.__setattr__(self, "probabilities", _locked(np.broadcast_to(p, (F,))))
        object.__setattr__(self, "noise", number(self.noise, "World: noise", least=0))
        amount = _of_each(self.amount, "World: amount", F)
        everywhere(amount, amount > 0, "World: amount", "numbers above 0")
        spread = _of_each(self.spread, "World: spread", F)
        everywhere(spread, spread >= 0, "World: spread", "no negative numbers")
        object.__setattr__(self, "amount", _locked(np.broadcast_to(amount, (F,))))
        object.__setattr__(self, "spread", _locked(np.broadcast_to(spread, (F,))))
        if self.correlation is not None:
            object.__setattr__(self, "correlation", _locked(np.asarray(self.correlation)))
            self._factor  # noqa: B018  raises for correlations that there cannot be
        if self.hierarchy is not None:
            forest = instance(self.hierarchy, "World: hierarchy", Hierarchy)
            if len(forest.parents) != F:
                raise ValueError(
                    f"World: hierarchy has {len(forest.parents)} features, expected {F}, as many "
                    "as directions"
                )

    @cached_property
    def _factor(self) -> Array:
        return cholesky(self.correlation, "World: correlation", len(self.directions))

    def amounts(self, inputs: int, *, rng: Rng) -> Array:
        """Draw how much of each feature is in each of so many inputs: (B, F), 0 for none."""
        B = whole_number(inputs, "World.amounts: inputs", least=1)
        rng = generator(rng, "World.amounts: rng")
        shape = (B, len(self.probabilities))
        if self.correlation is None:
            fires = rng.random(shape) < self.probabilities
        else:
            quantiles = [NormalDist().inv_cdf(1 - p) for p in self.probabilities.tolist()]
            fires = rng.standard_normal(shape) @ self._factor.T > quantiles
        c = fires * np.asarray(self.amount)
        if np.any(self.spread):
            c = fires * np.maximum(0, c + self.spread * rng.standard_normal(shape))
        return c if self.hierarchy is None else self.hierarchy.gated(c, self.amount, rng=rng)

    def sample(self, inputs: int, *, rng: Rng) -> Sample:
        """Draw so many independent inputs, and say which features are in them."""
        B = whole_number(inputs, "World.sample: inputs", least=1)
        rng = generator(rng, "World.sample: rng")
        amounts = self.amounts(B, rng=rng)
        x = amounts @ self.directions  # (B, F) @ (F, D) -> (B, D)
        if self.noise:
            x += self.noise * rng.standard_normal(x.shape)
        return Sample(x, amounts > 0)

    def mean(self) -> Array:
        """Return the exact mean of the inputs: Σ_f p_f v_f, (D,).

        Raises ValueError, as `covariance` does, unless features are independent, of amount 1.
        """
        self._simple("World.mean")
        return self.probabilities @ self.directions

    def covariance(self) -> Array:
        """Return the inputs' exact covariance: Σ_f p_f (1 - p_f) v_f v_fᵀ + noise² I, (D, D).

        >>> World(np.array([[2.0, 0.0], [0.0, 1.0]]), 0.5, noise=1.0).covariance()
        array([[2.  , 0.  ],
               [0.  , 1.25]])
        """
        self._simple("World.covariance")
        p, V = self.probabilities, self.directions
        return (V.T * (p * (1 - p))) @ V + self.noise**2 * np.eye(V.shape[1])

    def _simple(self, name: str) -> None:
        related = self.correlation is not None or self.hierarchy is not None
        if related or np.any(self.spread) or np.any(np.asarray(self.amount) != 1):
            raise ValueError(
                f"{name}: the world has a correlation, a hierarchy or amounts, expected "
                "independent features of amount 1; take it of a sample"
            )


def orthogonal_directions(features: int, dimensions: int, *, rng: Rng) -> Array:
    """Draw orthogonal directions of length 1, in a random orientation: (F, D), F <= D."""
    name = "orthogonal_directions"
    F = whole_number(features, f"{name}: features", least=1)
    D = whole_number(dimensions, f"{name}: dimensions", least=1)
    if F > D:
        raise ValueError(f"{name}: {F} features cannot be orthogonal in {D} dimensions")
    basis, _ = np.linalg.qr(generator(rng, f"{name}: rng").standard_normal((D, F)))
    return np.ascontiguousarray(basis.T)


def polygon_directions(sides: int, planes: int, dimensions: int, *, rng: Rng) -> Array:
    """Put features into superposition: regular polygons in planes orthogonal to one another.

    sides: how many features share a plane; their directions, of length 1, are those of a regular
    polygon's corners (2: an antipodal pair, 5: a pentagon).   planes: how many such planes, in a
    random orientation, 2 planes <= D. Returns (sides · planes, D), polygon after polygon.

    Closed form: a feature's dimensionality (`feature_dimensionality`) is 2 / sides, or 1/2 for
    sides = 2.

    >>> pentagons = polygon_directions(5, 4, 12, rng=np.random.default_rng(0))
    >>> pentagons.shape, (pentagons @ pentagons.T)[0, :5].round(3)
    ((20, 12), array([ 1.   ,  0.309, -0.809, -0.809,  0.309]))
    """
    n = whole_number(sides, "polygon_directions: sides", least=2)
    m = whole_number(planes, "polygon_directions: planes", least=1)
    D = whole_number(dimensions, "polygon_directions: dimensions", least=1)
    if 2 * m > D:
        raise ValueError(
            f"polygon_directions: {m} orthogonal planes do not fit in {D} dimensions, "
            f"{2 * m} are needed"
        )
    angles = 2 * np.pi * np.arange(n) / n
    corners = np.stack([np.cos(angles), np.sin(angles)], axis=1)  # (sides, 2)
    rng = generator(rng, "polygon_directions: rng")
    axes = orthogonal_directions(2 * m, D, rng=rng).reshape(m, 2, D)  # (2 planes, D)
    return (corners @ axes).reshape(n * m, D)  # (planes, sides, D) -> (F, D)


def binary_scale(p: float) -> tuple[float, float]:
    """Return the scale of a neuron that is 1 with probability p and else 0: (firing, at rest).

        φ firing = (1 - p) / p        φ at rest = p / (1 - p)

    Exact as the history grows: mean p, variance p (1 - p). Shift and scale do not matter, so it
    holds for any neuron with two values, whatever makes it fire.

    >>> firing, at_rest = binary_scale(0.2)
    >>> round(firing, 12), round(at_rest, 12)
    (4.0, 0.25)
    """
    p = number(p, "binary_scale: p", above=0, below=1)
    return (1 - p) / p, p / (1 - p)


# ---- the neurons -------------------------------------------------------------------------------

# How many features are named for a neuron of each kind: least and most.
_NAMED: dict[str, tuple[int, int | None]] = {
    "monosemantic": (1, 1),
    "polysemantic": (2, None),
    "antipodal": (2, 2),
    "distributed": (0, 0),
    "noisy": (1, 1),
    "constant": (0, 0),
    "dead": (1, 1),
}
KINDS = tuple(_NAMED)


@dataclass(frozen=True, eq=False)
class PlantedLayer:
    """A layer relu(x Wᵀ + b) whose neurons' kinds are known.

    weight: (neurons, D).   bias: (neurons,): as in `nn.Linear`, which takes both with
    `load_state_dict({"weight": layer.weight, "bias": layer.bias})`.
    kinds: (neurons,), names from `KINDS`.   features: for each neuron, those named for it.
    """

    weight: Array
    bias: Array
    kinds: Array
    features: tuple[tuple[int, ...], ...]

    def activations(self, inputs: Array) -> Array:
        """Return relu(x Wᵀ + b): (B, D) -> (B, neurons).

        Of `world.directions` it gives what each feature does to each neuron when it is alone and
        there is no noise: (F, neurons).
        """
        x = matrix(inputs, "PlantedLayer.activations: inputs", "(B, D)")
        if x.shape[1] != self.weight.shape[1]:
            raise ValueError(
                f"PlantedLayer.activations: inputs has shape {x.shape}, expected "
                f"(B, {self.weight.shape[1]}), as many dimensions as the weights"
            )
        return np.maximum(x @ self.weight.T + self.bias, 0.0)


def draw_neurons(world: World, each: int, *, rng: Rng) -> list[tuple[str, tuple[int, ...]]]:
    """Draw `each` neurons of every kind, for `plant`, with features at random.

    Monosemantic, noisy and dead ones have a different feature each, until all features are used
    up. Polysemantic ones have two or three. Features of one neuron are as near to orthogonal as
    the world has them: a ReLU neuron that answers to two corners of a pentagon that are not
    neighbours answers to the one between them too.
    """
    F = len(world.directions)
    each = whole_number(each, "draw_neurons: each", least=1)
    rng = generator(rng, "draw_neurons: rng")
    if F < 3:
        raise ValueError(f"draw_neurons: the world has {F} features, polysemantic neurons need 3")
    unit = world.directions / np.linalg.norm(world.directions, axis=1, keepdims=True)
    overlap = abs(unit @ unit.T).round(9)  # (F, F); equal up to rounding is equal
    np.fill_diagonal(overlap, 2)  # never again the same
    neurons = []
    for kind, (least, _) in _NAMED.items():
        in_turn = np.resize(rng.permutation(F), each)
        for f in in_turn.tolist():
            size = int(rng.integers(2, 4)) if kind == "polysemantic" else least
            chosen = [f][:size]
            while len(chosen) < size:  # the farthest from those chosen; chance decides a tie
                order = rng.permutation(F)
                chosen.append(int(order[overlap[chosen][:, order].max(axis=0).argmin()]))
            neurons.append((kind, tuple(chosen)))
    return neurons


def plant(
    world: World, neurons: Sequence[tuple[str, Sequence[int]]], *, threshold: float = 0.5, rng: Rng
) -> PlantedLayer:
    """Make a layer with neurons of known kinds, each given as (kind, features).

    With u_f = v_f / |v_f|², so that u_f · v_f = 1, and t the threshold:

        monosemantic (f)       relu((u_f · x - t) / (1 - t))       1 for f alone
        polysemantic (f, g..)  relu((Σ u_f · x - t) / (1 - t))     1 for each alone
        antipodal    (f, g)    relu(1 + u_f · x - u_g · x)         rests at 1: f lifts, g silences
        distributed  ()        relu(1 + r · x)                     rests at 1, all move it a little
        noisy        (f)       relu(e · x / noise - q)             fires as often as f, without it
        constant     ()        relu(1)
        dead         (f)       as monosemantic, with a bias so low that it never fires

    r is random in the space of the directions, scaled so that the features, alone, move the neuron
    by 1/4 in root mean square. e is a random direction of length 1, orthogonal to all features; q
    is the Gaussian quantile of 1 - p_f. A noisy neuron needs noise, and room for it: ValueError.

    The threshold holds back what is not f: noise, and features whose directions are close. In
    orthogonal directions without noise the right column is exact. In superposition, a feature with
    u_f · v_g > t makes f's neuron fire as well (no other corner of a polygon of up to 5 sides does
    at t = 1/2), and several features together may do what none does alone: superposition's price.

    >>> world = World(np.eye(3), 0.1)
    >>> neurons = [("monosemantic", [1]), ("polysemantic", [0, 2]), ("antipodal", [0, 1])]
    >>> layer = plant(world, neurons, rng=np.random.default_rng(0))
    >>> layer.activations(world.directions)                  # a row for each feature
    array([[0., 1., 2.],
           [1., 0., 0.],
           [0., 1., 1.]])
    """
    threshold = number(threshold, "plant: threshold", least=0, below=1)
    if not neurons:
        raise ValueError("plant: neurons is empty, expected one at least")
    rng = generator(rng, "plant: rng")
    plan = [_checked(world, i, kind, named) for i, (kind, named) in enumerate(neurons)]
    V = world.directions
    u = V / (V * V).sum(axis=1, keepdims=True)  # (F, D)
    gain = 1 / (1 - threshold)
    empty = _empty_directions(V)  # (D - rank, D)
    weight, bias = np.zeros((len(plan), V.shape[1])), np.zeros(len(plan))
    for i, (kind, named) in enumerate(plan):
        if kind in ("monosemantic", "polysemantic"):
            weight[i], bias[i] = gain * u[list(named)].sum(axis=0), -gain * threshold
        elif kind == "antipodal":
            weight[i], bias[i] = u[named[0]] - u[named[1]], 1
        elif kind == "distributed":
            r = rng.standard_normal(len(V)) @ V
            weight[i], bias[i] = r / (4 * np.sqrt(((V @ r) ** 2).mean())), 1
        elif kind == "noisy":
            if not world.noise or not len(empty):
                raise ValueError(
                    f"plant: neuron {i}: a noisy neuron needs noise in a direction that no feature "
                    f"has; the world has noise {world.noise}, and features in "
                    f"{V.shape[1] - len(empty)} of {V.shape[1]} dimensions"
                )
            e = rng.standard_normal(len(empty)) @ empty
            weight[i] = e / (np.linalg.norm(e) * world.noise)
            bias[i] = NormalDist().inv_cdf(float(world.probabilities[named[0]]))  # -q
        elif kind == "constant":
            bias[i] = 1
        else:
            weight[i] = gain * u[named[0]]
            # All that lifts it together; Gaussian noise of 40 standard deviations does not happen.
            highest = np.maximum(V @ weight[i], 0).sum()
            bias[i] = -1 - highest - 40 * world.noise * np.linalg.norm(weight[i])
    kinds = np.array([kind for kind, _ in plan])
    return PlantedLayer(
        _locked(weight), _locked(bias), _locked(kinds), tuple(named for _, named in plan)
    )


def roc_auc(positive: Array, negative: Array) -> float:
    """Return how well scores tell two groups apart: P(positive > negative) + P(equal) / 2.

    This is the area under the ROC curve (Mann and Whitney's U, as a share). At 1 every positive is
    above every negative, at 0.5 the scores say nothing, at 0 they say the opposite.

    positive, negative: arrays of any shape, taken as flat; infinity is a number like any other.
    Raises ValueError for nan: leave undefined scores out.

    >>> roc_auc(np.array([2.0, 3.0]), np.array([1.0, 2.0]))
    0.875
    """
    groups = []
    for name, values in (("positive", positive), ("negative", negative)):
        scores = real(values, f"roc_auc: {name}").astype(np.float64).reshape(-1)
        if not scores.size or np.isnan(scores).any():
            found = "contains nan" if scores.size else "is empty"
            raise ValueError(f"roc_auc: {name} {found}, expected numbers; leave undefined ones out")
        groups.append(np.sort(scores))
    above, below = groups
    less = np.searchsorted(below, above, side="left")  # negatives below each positive
    not_more = np.searchsorted(below, above, side="right")
    return float((less + not_more).sum() / (2 * len(above) * len(below)))


def _checked(
    world: World, i: int, kind: str, named: Sequence[int]
) -> tuple[str, tuple[int, ...]]:
    """Return a neuron's kind and features, if the world has them and the kind so many."""
    name, last = f"plant: neuron {i}", len(world.directions) - 1
    least, most = _NAMED[one_of(kind, name, KINDS)]
    features = tuple(
        whole_number(f, f"{name}: feature", least=0, most=last, of="the world's last")
        for f in named
    )
    if len(features) < least or (most is not None and len(features) > most):
        expected = f"{least} or more" if most is None else f"{least}"
        raise ValueError(f"{name} is {kind} and has {len(features)} features, expected {expected}")
    if len(set(features)) < len(features):
        raise ValueError(f"{name} has features {features}, expected each of them once")
    return kind, features


def _of_each(values: Array | float, name: str, features: int) -> Array:
    """Finite numbers in float64, one for each feature, or a single one."""
    x = real(values, name).astype(np.float64)
    finite(x, name)
    if x.shape not in ((), (features,)):
        raise ValueError(
            f"{name} has shape {x.shape}, expected ({features},), one for each of the directions, "
            "or a single number"
        )
    return x


def _empty_directions(directions: Array) -> Array:
    """Return an orthonormal basis of what is orthogonal to all features: (D - rank, D)."""
    _, singular, basis = np.linalg.svd(directions)
    rank = int((singular > 1e-10 * singular[0]).sum())
    return basis[rank:]


def _locked(array: Array) -> Array:
    """Return a copy that nobody can write into."""
    copy = array.copy()
    copy.setflags(write=False)
    return copy
