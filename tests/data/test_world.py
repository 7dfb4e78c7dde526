"""The world's exact statistics, and that planted neurons are what they are called."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimono.data.world import (
    KINDS,
    PlantedLayer,
    World,
    binary_scale,
    draw_neurons,
    orthogonal_directions,
    plant,
    polygon_directions,
    roc_auc,
)
from minimono.engine.tensor import Tensor
from minimono.mono.decorrelation import superposition_proxy
from minimono.mono.features import feature_scale
from minimono.mono.metrics import feature_dimensionality, single_feature_purity
from minimono.mono.moments import Moments
from minimono.mono.scale import monosemantic_scale
from minimono.nn import taps
from minimono.nn.models import MLP


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def close(got, want, tolerance: float = 1e-12) -> None:
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


def a_world(kind: str, noise: float = 0.1, seed: int = 0) -> World:
    """20 features, orthogonal or in pentagons, and 4 dimensions that no feature has."""
    rng = generator(seed)
    directions = (
        orthogonal_directions(20, 24, rng=rng) if kind == "orthogonal"
        else polygon_directions(5, 4, 12, rng=rng)
    )
    return World(directions, rng.permutation(np.geomspace(0.01, 0.2, 20)), noise)


BOTH = pytest.mark.parametrize("kind", ["orthogonal", "pentagons"])


# ---- directions ---------------------------------------------------------------


def test_orthogonal_directions() -> None:
    V = orthogonal_directions(5, 7, rng=generator())
    close(V @ V.T, np.eye(5))
    assert not np.allclose(V, orthogonal_directions(5, 7, rng=generator(1)))
    np.testing.assert_array_equal(V, orthogonal_directions(5, 7, rng=generator()))


@pytest.mark.parametrize("sides", [2, 3, 4, 5, 8])
def test_polygons_are_regular_and_share_only_their_plane(sides: int) -> None:
    V = polygon_directions(sides, 3, 9, rng=generator())
    overlap = (V @ V.T).reshape(3, sides, 3, sides)
    steps = np.subtract.outer(np.arange(sides), np.arange(sides))
    for i, j in itertools.product(range(3), repeat=2):
        close(overlap[i, :, j], np.cos(2 * np.pi * steps / sides) if i == j else 0)
    close(feature_dimensionality(V), 1 / 2 if sides == 2 else 2 / sides)


# ---- world ---------------------------------------------------------------


def exact_moments(V, p) -> tuple[list[Fraction], list[list[Fraction]]]:
    """Mean and covariance of Σ s_f v_f, by adding up all 2^F worlds."""
    F, D = len(V), len(V[0])
    V, p = [[Fraction(v) for v in row] for row in V], [Fraction(q) for q in p]
    mean, second = [Fraction(0)] * D, [[Fraction(0)] * D for _ in range(D)]
    for s in itertools.product([0, 1], repeat=F):
        weight = math.prod(q if on else 1 - q for q, on in zip(p, s, strict=True))
        x = [sum(on * row[d] for on, row in zip(s, V, strict=True)) for d in range(D)]
        for i in range(D):
            mean[i] += weight * x[i]
            for j in range(D):
                second[i][j] += weight * x[i] * x[j]
    return mean, [[second[i][j] - mean[i] * mean[j] for j in range(D)] for i in range(D)]


@settings(max_examples=25)
@given(st.data(), st.integers(1, 4), st.integers(1, 3))
def test_mean_and_covariance_are_exact(data: st.DataObject, F: int, D: int) -> None:
    rows = st.lists(st.integers(-3, 3), min_size=D, max_size=D).filter(any)
    V = data.draw(st.lists(rows, min_size=F, max_size=F))
    p = data.draw(st.lists(st.sampled_from([0.125, 0.5, 0.75]), min_size=F, max_size=F))
    mean, covariance = exact_moments(V, p)
    world = World(V, p, noise=0.5)
    close(world.mean(), [float(m) for m in mean], 1e-14)
    close(world.covariance() - 0.25 * np.eye(D), [[float(c) for c in r] for r in covariance], 1e-13)


@BOTH
def test_samples_have_the_exact_moments(kind: str) -> None:
    world = a_world(kind, noise=0.3)
    B = 40_000
    x, features = world.sample(B, rng=generator(1))
    assert features.shape == (B, 20)
    assert features.dtype == bool
    p = world.probabilities
    assert (abs(features.mean(axis=0) - p) < 5 * np.sqrt(p * (1 - p) / B)).all()
    covariance = world.covariance()
    error = np.sqrt(np.diagonal(covariance) / B)
    assert (abs(x.mean(axis=0) - world.mean()) < 5 * error).all()
    assert abs(np.cov(x.T) - covariance).max() < 0.02
    assert abs(covariance).max() > 0.1


def test_an_input_is_the_sum_of_its_features_and_noise() -> None:
    quiet, loud = a_world("pentagons", noise=0.0), a_world("pentagons", noise=0.2)
    x, features = quiet.sample(100, rng=generator(1))
    for row, on in zip(x, features, strict=True):
        close(row, sum((quiet.directions[f] for f in np.flatnonzero(on)), np.zeros(12)))
    same = loud.sample(100, rng=generator(1))
    np.testing.assert_array_equal(same.features, features)
    assert np.std(same.inputs - x) == pytest.approx(0.2, rel=0.1)


def test_a_sample_is_the_generator_s() -> None:
    world = a_world("orthogonal")
    first, second = (world.sample(50, rng=generator(3)) for _ in range(2))
    np.testing.assert_array_equal(first.inputs, second.inputs)
    rng = generator(3)
    world.sample(50, rng=rng)
    assert not np.array_equal(world.sample(50, rng=rng).inputs, first.inputs)


def test_a_world_does_not_change_with_its_arguments() -> None:
    V = np.eye(3)
    world = World(V, 0.5)
    V[0] = 7
    close(world.directions, np.eye(3))
    with pytest.raises(ValueError, match="read-only"):
        world.directions[0] = 7


# ---- planted neurons ---------------------------------------------------------------


@BOTH
def test_what_each_feature_does_alone_is_what_the_kind_says(kind: str) -> None:
    world = a_world(kind)
    layer = plant(world, draw_neurons(world, 20, rng=generator(1)), rng=generator(2))
    alone = layer.activations(world.directions)  # (F, neurons)
    for z, name, named in zip(alone.T, layer.kinds, layer.features, strict=True):
        others = np.delete(z, named)
        match name:
            case "monosemantic" | "polysemantic":
                close(z[list(named)], 1)
                assert not others.any()
            case "antipodal":
                assert z[named[0]] == pytest.approx(2)
                assert z[named[1]] == pytest.approx(0, abs=1e-12)
                assert (others > 0.1).all()
            case "distributed":
                assert np.sqrt(((z - 1) ** 2).mean()) == pytest.approx(1 / 4)
                assert (z != 1).all()
            case "noisy" | "dead":
                assert not z.any()
            case "constant":
                assert (z == 1).all()


def test_every_kind_is_drawn_as_often_and_uses_all_features() -> None:
    world = a_world("pentagons")
    neurons = draw_neurons(world, 40, rng=generator())
    assert [kind for kind, _ in neurons] == [kind for kind in KINDS for _ in range(40)]
    of_kind = {kind: [named for k, named in neurons if k == kind] for kind in KINDS}
    assert sorted(of_kind["monosemantic"]) == sorted([(f,) for f in range(20)] * 2)
    assert {len(named) for named in of_kind["polysemantic"]} == {2, 3}
    assert of_kind["constant"] == of_kind["distributed"] == [()] * 40
    assert neurons != draw_neurons(world, 40, rng=generator(1))
    parallel = draw_neurons(World(np.ones((3, 1)), 0.5), 9, rng=generator())
    assert all(len(set(named)) == len(named) for _, named in parallel)


def firing_rate(world: World, layer: PlantedLayer, neuron: int) -> float:
    """P(z > 0) without noise, by adding up all sets of the features that act on the neuron."""
    reach = world.directions @ layer.weight[neuron]
    acting = np.flatnonzero(abs(reach) > 1e-9)
    p = world.probabilities[acting]
    sets = np.array([*itertools.product([0, 1], repeat=len(acting))])  # (2^acting, acting)
    fires = sets @ reach[acting] + layer.bias[neuron] > 0
    return float(np.where(sets, p, 1 - p).prod(axis=1)[fires].sum())


@BOTH
def test_how_often_neurons_fire(kind: str) -> None:
    world = a_world(kind, noise=1e-3)
    neurons = [n for n in draw_neurons(world, 20, rng=generator(1)) if n[0] != "distributed"]
    # At 0.5 two neighbours of a pentagon, one of them the neuron's, and a far corner are a tie.
    layer = plant(world, neurons, threshold=0.45, rng=generator(2))
    B = 20_000
    shares = (layer.activations(world.sample(B, rng=generator(3)).inputs) > 0).mean(axis=0)
    for i, (share, (name, named)) in enumerate(zip(shares, neurons, strict=True)):
        if name == "antipodal":  # 0 within rounding where it is silenced
            continue
        p = world.probabilities[list(named)]
        rate = p[0] if name == "noisy" else firing_rate(world, layer, i)
        assert abs(share - rate) <= 5 * np.sqrt(rate * (1 - rate) / B) + 1e-12
        if kind == "orthogonal" and name in ("monosemantic", "polysemantic"):
            assert rate == pytest.approx(1 - np.prod(1 - p))


def test_monosemantic_and_noisy_follow_and_ignore_their_feature() -> None:
    world = a_world("orthogonal")
    neurons = [("monosemantic", [4]), ("noisy", [4]), ("dead", [4]), ("constant", [])]
    layer = plant(world, neurons, rng=generator())
    x, features = world.sample(20_000, rng=generator(1))
    fires = layer.activations(x) > 0
    np.testing.assert_array_equal(fires[:, 0], features[:, 4])
    for f in range(20):
        if f != 4:
            assert abs(np.corrcoef(fires[:, 1], features[:, f])[0, 1]) < 0.035
    assert abs(np.corrcoef(fires[:, 1], features[:, 4])[0, 1]) < 0.035
    assert not fires[:, 2].any()
    assert fires[:, 3].all()


@pytest.mark.parametrize("p", [0.01, 0.2, 0.7])
def test_scale_of_a_planted_neuron_tends_to_the_closed_form(p: float) -> None:
    world = World(orthogonal_directions(3, 3, rng=generator()), p)
    layer = plant(world, [("monosemantic", [1])], rng=generator())
    z = layer.activations(world.sample(200_000, rng=generator(1)).inputs)
    moments = Moments.of(z)
    tests = layer.activations(np.stack([world.directions[1], 0 * world.directions[1]]))
    got = monosemantic_scale(tests, moments.mean, moments.variance())[:, 0]
    np.testing.assert_allclose(got, binary_scale(p), rtol=0.1)


def test_binary_scale_is_the_exact_ratio() -> None:
    for p in (Fraction(1, 3), Fraction(1, 100)):
        mean, variance = p, p * (1 - p)
        firing, at_rest = binary_scale(float(p))
        assert firing == pytest.approx(float((1 - mean) ** 2 / variance), rel=1e-14)
        assert at_rest == pytest.approx(float(mean**2 / variance), rel=1e-14)


def test_neurons_that_are_not_clipped_have_the_moments_of_a_linear_map() -> None:
    world = World(orthogonal_directions(4, 6, rng=generator()), 0.3)
    layer = plant(world, [("antipodal", [0, 1]), ("distributed", [])], rng=generator(2))
    z = layer.activations(world.sample(40_000, rng=generator(1)).inputs)
    assert (z[:, 0] >= 0).all()
    close(layer.weight @ world.mean() + layer.bias, z.mean(axis=0), 0.02)
    variance = np.diagonal(layer.weight @ world.covariance() @ layer.weight.T)
    np.testing.assert_allclose(variance, z.var(axis=0), rtol=0.05)
    assert variance[0] == pytest.approx(2 * 0.3 * 0.7)


@pytest.mark.parametrize(("n", "proxy"), [(3, 1 / 3), (5, -0.4472), (6, -1.0), (8, -2.4142)])
def test_published_superposition_proxy(n: int, proxy: float) -> None:
    """n exclusive features on a circle: the neighbour is held down to 0, the weight has length 1.

    n = 3 has a neighbour at cosine -1/2, and so a threshold below 0: the formula, not a plant.
    """
    cosine = np.cos(2 * np.pi / n)
    V = polygon_directions(n, 1, 2, rng=generator()) / (1 - cosine)
    world = World(V, 0.1)
    if cosine < 0:
        u = V[0] / (V[0] @ V[0])
        weight, bias = u / (1 - cosine), -cosine / (1 - cosine)
        layer = PlantedLayer(weight[None], np.array([bias]), np.array(["monosemantic"]), ((0,),))
    else:
        layer = plant(world, [("monosemantic", [0])], threshold=cosine, rng=generator())
    alone = layer.activations(V)[:, 0]
    close(alone, np.eye(n)[0])
    assert superposition_proxy(layer.weight.T, layer.bias)[0] == pytest.approx(proxy, abs=5e-5)
    close(single_feature_purity(alone[:, None]), 1)


def test_feature_scale_names_the_planted_feature() -> None:
    world = a_world("pentagons")
    layer = plant(world, [("monosemantic", [f]) for f in range(20)], rng=generator())
    x, features = world.sample(20_000, rng=generator(1))
    found = feature_scale(layer.activations(x), features)
    np.testing.assert_array_equal(found.feature, np.arange(20))


def test_a_planted_layer_goes_into_a_network() -> None:
    world = a_world("orthogonal")
    layer = plant(world, draw_neurons(world, 2, rng=generator(1)), rng=generator(2))
    model = MLP((24, len(layer.kinds), 3), rng=generator(), dtype=np.float64)
    model.hidden[0].linear.load_state_dict({"weight": layer.weight, "bias": layer.bias})
    x = world.sample(30, rng=generator(3)).inputs
    with taps.read(model, "hidden.0.act") as seen:
        model(Tensor(x))
    close(seen["hidden.0.act"].data, layer.activations(x))


def test_dead_and_noisy_neurons_are_general() -> None:
    """Dead with all that could lift it; noisy in the room that is left, of one dimension."""
    world = World(np.eye(4)[:3] + 0.5 * np.eye(4)[0], 0.9, noise=2.0)
    layer = plant(world, [("dead", [0]), ("noisy", [1])], rng=generator())
    z = layer.activations(world.sample(20_000, rng=generator(1)).inputs)
    assert not z[:, 0].any()
    assert (z[:, 1] > 0).mean() == pytest.approx(0.9, abs=0.02)
    assert not layer.activations(np.array([[3.0, 3.0, 3.0, 0.0]]))[:, 0].any()


# ---- roc_auc ---------------------------------------------------------------


NUMBERS = st.lists(st.integers(-3, 3) | st.just(math.inf), min_size=1, max_size=8)


@given(NUMBERS, NUMBERS)
def test_auc_is_the_share_of_pairs_in_order(positive: list[float], negative: list[float]) -> None:
    pairs = [*itertools.product(positive, negative)]
    exact = sum(Fraction(a > b) + Fraction(a == b) / 2 for a, b in pairs) / len(pairs)
    assert roc_auc(np.array(positive), np.array(negative)) == float(exact)
    reverse = roc_auc(np.array(negative), np.array(positive))
    assert reverse == pytest.approx(1 - float(exact), abs=1e-15)


# ---- bad input ---------------------------------------------------------------

EYE = np.eye(3)
WORLD = World(EYE, 0.1, noise=0.1)  # noise, but no room that no feature has


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: World(np.ones(3), 0.1), ValueError, r"directions has shape \(3,\)"),
        (lambda: World(np.ones((0, 3)), 0.1), ValueError, "not empty"),
        (lambda: World([[1.0, 0.0], [0.0, 0.0]], 0.1), ValueError, "feature 1 is 0"),
        (lambda: World([[1.0, math.nan]], 0.1), ValueError, r"is nan at \[0, 1\]"),
        (lambda: World([["a"]], 0.1), TypeError, "directions has dtype"),
        (lambda: World(EYE * 1j, 0.1), TypeError, "complex"),
        (lambda: World(EYE, [0.1, 0.2]), ValueError, r"shape \(2,\), expected \(3,\)"),
        (lambda: World(EYE, 0.0), ValueError, "both excluded"),
        (lambda: World(EYE, [0.1, 1.0, 0.5]), ValueError, "from 0.1 to 1.0"),
        (lambda: World(EYE, math.nan), ValueError, "probabilities is nan"),
        (lambda: World(EYE, 0.1, -1.0), ValueError, "noise is -1.0"),
        (lambda: World(EYE, 0.1, math.inf), ValueError, "noise is inf"),
        (lambda: WORLD.sample(0, rng=generator()), ValueError, "inputs is 0, expected 1"),
        (lambda: WORLD.sample(2.5, rng=generator()), TypeError, "expected a whole number"),
        (lambda: WORLD.sample(True, rng=generator()), TypeError, "inputs is True"),
        (lambda: orthogonal_directions(4, 3, rng=generator()), ValueError, "4 features cannot"),
        (lambda: polygon_directions(1, 1, 3, rng=generator()), ValueError, "sides is 1"),
        (lambda: polygon_directions(5, 2, 3, rng=generator()), ValueError, "4 are needed"),
        (lambda: binary_scale(1.0), ValueError, "p is 1.0"),
        (lambda: binary_scale(math.nan), ValueError, "p is nan"),
        (lambda: plant(WORLD, [], rng=generator()), ValueError, "neurons is empty"),
        (lambda: one("good", [0]), ValueError, "neuron 0 is 'good', expected \"monosemantic\""),
        (lambda: one("monosemantic", [0, 1]), ValueError, "has 2 features, expected 1$"),
        (lambda: one("polysemantic", [0]), ValueError, "has 1 features, expected 2 or more"),
        (lambda: one("constant", [0]), ValueError, "has 1 features, expected 0$"),
        (lambda: one("antipodal", [1, 1]), ValueError, "expected each of them once"),
        (lambda: one("dead", [3]), ValueError, "feature is 3, expected at most 2"),
        (lambda: one("dead", [-1]), ValueError, "feature is -1"),
        (lambda: one("dead", [0.5]), TypeError, "feature is 0.5"),
        (lambda: one("noisy", [0]), ValueError, "features in 3 of 3 dimensions"),
        (lambda: one("dead", [0], threshold=1.0), ValueError, "threshold is 1.0"),
        (lambda: one("dead", [0], threshold=math.nan), ValueError, "threshold is nan"),
        (lambda: draw_neurons(World(np.eye(2), 0.1), 1, rng=generator()), ValueError, "2 features"),
        (lambda: draw_neurons(WORLD, 0, rng=generator()), ValueError, "each is 0"),
        (lambda: one("dead", [0]).activations(np.ones((2, 4))), ValueError, r"has shape \(2, 4\)"),
        (lambda: one("dead", [0]).activations(np.ones(3)), ValueError, "inputs has shape"),
        (lambda: one("dead", [0]).activations([[1, math.inf, 0]]), ValueError, "is inf at"),
        (lambda: roc_auc(np.array([]), EYE), ValueError, "positive is empty"),
        (lambda: roc_auc(EYE, np.array([math.nan])), ValueError, "negative contains nan"),
        (lambda: roc_auc(np.array(["x"]), EYE), TypeError, "positive has dtype"),
    ],
)
def test_bad_input(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def one(kind: str, features: list[float], threshold: float = 0.5) -> PlantedLayer:
    return plant(WORLD, [(kind, features)], threshold=threshold, rng=generator())


def test_noisy_needs_noise() -> None:
    with pytest.raises(ValueError, match=r"the world has noise 0\.0"):
        plant(World(np.eye(4)[:3], 0.1), [("noisy", [0])], rng=generator())
