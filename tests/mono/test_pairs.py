"""Means over all pairs of inputs: kernel and formula against 60 digits, bounds, memory, errors."""

import tracemalloc
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minimono as mm
from minimono import checks
from minimono.kernels.both import pairs
from minimono.mono import clarity, feature_decorrelation, monosemanticity_score
from minimono.mono.metrics import mean_distance, weighted_cosine

EPS = 2.0**-52
few = settings(max_examples=40)


def embeddings_of(kind: str, rng: np.random.Generator, B: int, D: int) -> np.ndarray:
    e, direction = rng.normal(size=(B, D)), rng.normal(size=D)
    return {
        "any": e,
        "nearly parallel": direction + 10.0 ** -rng.integers(1, 16) * e,
        "parallel": direction * rng.exponential(size=(B, 1)),
        "opposite": direction * rng.choice([-1.0, 1.0], size=(B, 1)),
        "lengths": e * 10.0 ** rng.integers(-300, 300, (B, 1)),
        "entries": e * 10.0 ** rng.integers(-150, 150, (B, D)),
        "subnormal": np.round(4 * e + 40) * 5e-324,
    }[kind]


def neuron_of(kind: str, rng: np.random.Generator, B: int) -> np.ndarray:
    z = rng.normal(size=B)
    return {
        "any": z,
        "after ReLU": np.maximum(z, 0),
        "falling": 10.0 ** (-rng.integers(0, 300) / B * np.arange(B)),
        "one outweighs": np.where(np.arange(B) == rng.integers(B), 1, 1e-14 * rng.random(B)),
        "two outweigh": np.where(np.arange(B) < 2, 1 - np.arange(B) / 3, 1e-14 * rng.random(B)),
        "ties": rng.integers(0, 2, B).astype(float),
        "huge": 1.7e308 * np.cos(z),
        "subnormal": np.round(3 * z) * 5e-324,
        "far from 0": 1e8 + z,
        "constant": np.full(B, 0.1),
    }[kind]


KINDS = {
    "e": ("any", "nearly parallel", "parallel", "opposite", "lengths", "entries", "subnormal"),
    "z": ("any", "after ReLU", "falling", "one outweighs", "two outweigh", "ties", "huge",
          "subnormal", "far from 0", "constant"),
}


def exact_units(e: np.ndarray) -> list[mpmath.matrix]:
    rows = [mpmath.matrix([mpmath.mpf(x) for x in row]) for row in e.tolist()]
    return [row / mpmath.norm(row) for row in rows]


def exact_score(z: np.ndarray, e: np.ndarray) -> mpmath.mpf:
    a = [mpmath.mpf(x) for x in z.tolist()]
    least, most = min(a), max(a)
    if least == most:
        return mpmath.nan
    a = [(x - least) / (most - least) for x in a]
    unit, alike, weights = exact_units(e), [], []
    for m in range(len(a)):
        for n in range(m):
            weights.append(a[n] * a[m])
            alike.append(a[n] * a[m] * mpmath.fdot(unit[n], unit[m]))
    total = mpmath.fsum(weights)
    return mpmath.fsum(alike) / total if total else mpmath.nan


def exact_distance(e: np.ndarray) -> mpmath.mpf:
    unit = exact_units(e)
    cosines = [mpmath.fdot(a, b) for i, a in enumerate(unit) for b in unit[:i]]
    return 1 - mpmath.fsum(cosines) / len(cosines)


@pytest.fixture(params=["kernel", "kernel, many blocks", "formula"])
def version(request, monkeypatch):
    if request.param == "formula":
        with mm.reference():
            yield request.param
    else:
        if "many" in request.param:
            monkeypatch.setattr(pairs, "BLOCK", 20)  # of a few rows
        yield request.param


small = st.integers(2, 9), st.integers(1, 6), st.integers(0, 2**32 - 1)


@few
@given(st.sampled_from(KINDS["z"]), st.sampled_from(KINDS["e"]), *small)
def test_score_to_the_last_digits(kind, kind_of_e, B, D, seed) -> None:
    rng = np.random.default_rng(seed)
    z, e = neuron_of(kind, rng, B), embeddings_of(kind_of_e, rng, B, D)
    with mpmath.workdps(60):
        want = exact_score(z, e)
    for found in versions(lambda: monosemanticity_score(z, e)):
        if mpmath.isnan(want):
            assert np.isnan(found)
        else:
            assert abs(float(want) - found) <= 16 * EPS


@few
@given(st.sampled_from(KINDS["e"]), *small)
def test_distance_to_the_last_digits_also_where_it_is_small(kind, B, D, seed) -> None:
    """The formula, 1 less the cosine, has no digits below EPS; the kernel has."""
    e = embeddings_of(kind, np.random.default_rng(seed), B, D)
    with mpmath.workdps(60):
        exact = exact_distance(e)
        bound = float(16 * EPS * (exact + mpmath.sqrt(abs(exact))) + 256 * EPS**2)
    kernel, blocks, formula = versions(lambda: feature_decorrelation(e))
    assert abs(exact - kernel) <= bound
    assert abs(exact - blocks) <= bound
    assert abs(exact - formula) <= 16 * EPS
    for found in versions(lambda: clarity(e)):
        assert abs(1 - exact - found) <= 16 * EPS


def versions(function):
    """What kernel, kernel in many blocks and formula give."""
    found = [function()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairs, "BLOCK", 20)
        found.append(function())
    with mm.reference():
        return [*found, function()]


def test_the_kernel_runs_whatever_comes_in() -> None:
    """Lists, other byte orders, files: none may take the formula, whose memory grows with B²."""
    for dtype in ("float16", "float32", "float64", "int8", "bool", ">f4", ">f8"):
        z = checks.values(np.ones((3, 2), dtype), "z", dtype=None)
        assert weighted_cosine.on(z, z).__module__ == "minimono.kernels.both.pairs"
        assert mean_distance.on(z).__module__ == "minimono.kernels.both.pairs"
        assert z.dtype == np.dtype(dtype).newbyteorder("=")


@pytest.mark.parametrize("dtype", ["float16", "float32", ">f4", "int8", "uint8", "int64", "bool"])
def test_every_dtype_and_layout_is_its_float64(version, dtype) -> None:
    rng = np.random.default_rng(5)
    z = rng.integers(0, 100, (11, 2, 3)).astype(dtype)
    e = (rng.integers(0, 100, (11, 4)) + (np.arange(4) == 1)).astype(dtype)
    want = monosemanticity_score(z.astype(np.float64), e.astype(np.float64))
    np.testing.assert_array_equal(monosemanticity_score(z, e), want)
    scattered = np.asfortranarray(z), np.repeat(e, 2, axis=1)[:, ::2]
    np.testing.assert_allclose(monosemanticity_score(*scattered), want, rtol=0, atol=16 * EPS)
    assert feature_decorrelation(e) == feature_decorrelation(e.astype(np.float64))
    groups = np.stack([e, e[::-1] % 7 + (e[::-1] == 0)])  # (2, 11, 4)
    want = clarity(groups.astype(np.float64))
    np.testing.assert_array_equal(clarity(groups), want)
    backwards = np.ascontiguousarray(groups.transpose(2, 1, 0)).transpose(2, 1, 0)
    np.testing.assert_allclose(clarity(backwards), want, rtol=0, atol=16 * EPS)


def test_a_hundred_thousand_alike_and_opposite_inputs() -> None:
    B, rng = 100_000, np.random.default_rng(4)
    direction, sign = rng.random(3), rng.choice([-1, 1], B)
    alike = np.tile(direction, (B, 1))
    z = np.stack([rng.random(B), np.arange(B) > 0, np.r_[1, 1e-9 * rng.random(B - 1)]], axis=1)
    np.testing.assert_allclose(monosemanticity_score(z, alike), 1, rtol=0, atol=1e-13)
    assert 0 <= feature_decorrelation(alike) <= 256 * EPS**2
    opposite = alike * sign[:, None]
    total, on = int(sign[1:].sum()), B - 1
    want = Fraction(total**2 - on, on**2 - on)  # of the neuron that is on but for input 0
    assert abs(Fraction(monosemanticity_score(z[:, 1], opposite).item()) - want) < 1e-13
    total = int(sign.sum())
    want = 1 - Fraction(total**2 - B, B**2 - B)
    assert abs(Fraction(feature_decorrelation(opposite)) - want) < 1e-14


def test_alike_inputs_have_no_distance(version) -> None:
    """The mean of seven tenths is not a tenth, in float64."""
    e = np.tile([0.1, 0.2, 0.7], (7, 1))
    if version == "formula":
        assert abs(feature_decorrelation(e)) <= EPS
    else:
        assert feature_decorrelation(e) <= EPS**2 * (version != "kernel")
        assert clarity(e) == 1


def test_memory_is_that_of_blocks() -> None:
    """The arrays of all inputs in float64 would be 128 MB, those of all pairs 80 GB."""
    B = 100_000
    z, e = np.ones((B, 80), np.float16), np.ones((B, 80), np.float32)
    z[::2] = e[::3, 0] = 0
    z[0, 1:] = 2
    for function in (
        lambda: monosemanticity_score(z, e),
        lambda: feature_decorrelation(e),
        lambda: clarity(e.reshape(100, 1000, 80)),
    ):
        tracemalloc.start()
        function()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 24 << 20


def test_errors_far_into_the_inputs(version, monkeypatch) -> None:
    monkeypatch.setattr(checks, "AT_A_TIME", 8)
    z, e = np.ones((50, 3), np.float32), np.ones((50, 2), np.float32)
    z[41, 2] = np.nan
    with pytest.raises(ValueError, match=r"^monosemanticity_score: z is nan at \[41, 2\], exp"):
        monosemanticity_score(z, e)
    e[33] = 0
    with pytest.raises(ValueError, match=r"embeddings: length is 0.0 at \[33\], expected more th"):
        monosemanticity_score(np.ones((50, 1)), e)
    with pytest.raises(ValueError, match=r"^clarity: embeddings: length is 0.0 at \[3, 3\], exp"):
        clarity(e.reshape(5, 10, 2))
    e[49, 1] = -np.inf
    with pytest.raises(ValueError, match=r"^feature_decorrelation: z is -inf at \[49, 1\], exp"):
        feature_decorrelation(e)
