"""The CUDA kernels of metrics against φ and moments as defined: in the emulator, and on a GPU."""

from fractions import Fraction

import numpy as np
import pytest

from minimono.kernels import reference
from minimono.kernels.gpu import scale
from minimono.mono import Moments, monosemantic_scale, select_top_k

SHAPES = [(1, 1), (2, 33), (65, 40), (70, 3, 5, 2), (3, 1100)]


def score(device, z, mean, denominator, **options):
    found = scale.survey(*(device.array(a) for a in (z, mean, denominator)), **options)
    return {name: None if a is None else device.host(a) for name, a in found.items()}


def a_batch(shape, dtype, seed=0):
    """A batch, and mean and variance of a history; one neuron undefined, one constant."""
    rng = np.random.default_rng(seed)
    z = rng.normal(1.0, 2.0, size=shape).astype(dtype)
    history = Moments.of(rng.normal(1.0, 2.0, size=(9, *shape[1:])))
    mean, variance = history.mean.copy(), history.variance()
    if z[0].size > 3:
        variance.reshape(-1)[1] = 0.0
        z.reshape(len(z), -1)[:, 2] = z.dtype.type(0.1)
    return z, mean, variance, np.where(variance > 0, variance, np.nan)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [*SHAPES, (300, 5)])  # the last: more rows in every part
def test_one_pass(device, monkeypatch, shape, dtype) -> None:
    if shape[0] == 300:
        monkeypatch.setattr(scale, "MOST_PARTS", 3)
    z, mean, variance, denominator = a_batch(shape, dtype)
    k = min(3, z[0].size)
    options = {"k": k, "threshold": 2.5, "extremes": True, "keep_phi": True, "flag": True}
    found = score(device, z, mean, denominator, **options)
    with reference():
        phi = monosemantic_scale(z, mean, variance)
        moments = Moments.of(z)
    np.testing.assert_array_equal(found["phi"], phi)
    assert found["phi"].dtype == dtype
    np.testing.assert_allclose(found["mean"], moments.mean, rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(found["m2"], moments.m2, rtol=1e-12)
    np.testing.assert_array_equal(found["low"], z.min(axis=0))
    np.testing.assert_array_equal(found["high"], z.max(axis=0))
    np.testing.assert_array_equal(found["counts"], (phi >= 2.5).sum(axis=0))
    flat = phi.reshape(len(z), -1)
    order = np.argsort(-flat, axis=1, kind="stable")[:, :k]  # nan last
    top = np.take_along_axis(flat, order, axis=1)
    np.testing.assert_array_equal(found["top"], top)
    np.testing.assert_array_equal(found["top_index"], np.where(np.isnan(top), -1, order))
    np.testing.assert_array_equal(found["flags"], phi >= 2.5)
    of_highest = score(device, z, mean, denominator, k=k, flag=True)["flags"]
    np.testing.assert_array_equal(of_highest, select_top_k(phi, k))
    again = scale.scale(*(device.array(a) for a in (z, mean, denominator)))
    np.testing.assert_array_equal(device.host(again), phi)
    alone = scale.batch_moments(device.array(z))
    for name, one in zip(("mean", "m2"), alone, strict=True):
        assert device.host(one).tobytes() == found[name].tobytes()  # whatever else is asked
    for seed in (2, 3):
        device.reorder(seed)
        for name, one in score(device, z, mean, denominator, **options).items():
            assert one.tobytes() == found[name].tobytes(), name


def test_moments_against_exact_arithmetic(device) -> None:
    """Large means, an outlier as the first sample, a constant neuron, one that spans magnitudes."""
    rng = np.random.default_rng(5)
    z = rng.normal(size=(150, 4))
    z[:, 0] += 1e9
    z[0, 1] = -1e6
    z[:, 2] = 0.1
    z[:, 3] *= 10.0 ** rng.integers(-8, 8, 150)
    mean, m2 = map(device.host, scale.batch_moments(device.array(z)))
    for j in range(4):
        exact = [Fraction(v) for v in z[:, j].tolist()]
        centre = sum(exact) / len(exact)
        squares = sum((v - centre) ** 2 for v in exact)
        spread = float(squares / len(exact)) ** 0.5
        assert abs(Fraction(mean[j]) - centre) <= 1e-15 * spread + 2e-16 * abs(float(centre))
        assert abs(Fraction(m2[j]) - squares) <= 1e-14 * squares
    assert m2[2] == 0.0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("k", [1, 2, 40])
def test_ties(device, dtype, k: int) -> None:
    """Few different values; every second neuron undefined, so that 40 are more than there are."""
    rng = np.random.default_rng(6)
    z = rng.integers(0, 4, (6, 70)).astype(dtype)
    mean, variance = rng.integers(0, 3, 70).astype(float), np.ones(70)
    variance[::2] = 0.0
    denominator = np.where(variance > 0, variance, np.nan)
    top = score(device, z, mean, denominator, k=k, flag=True)
    phi = monosemantic_scale(z, mean, variance)
    order = np.argsort(-phi, axis=1, kind="stable")[:, :k]
    expected = np.take_along_axis(phi, order, axis=1)
    np.testing.assert_array_equal(top["top"], expected)
    np.testing.assert_array_equal(top["top_index"], np.where(np.isnan(expected), -1, order))
    np.testing.assert_array_equal(top["flags"], select_top_k(phi, k))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scores_too_large_or_too_small_for_their_dtype(device, dtype) -> None:
    rng = np.random.default_rng(1)
    z = rng.normal(size=(4, 300)).astype(dtype)
    mean, variance = rng.normal(size=300), 10.0 ** rng.uniform(-307, 307, 300)
    with np.errstate(over="ignore"):
        phi = monosemantic_scale(z, mean, variance)
    order = np.argsort(-phi, axis=1, kind="stable")[:, :5]
    top = score(device, z, mean, variance, k=5)
    np.testing.assert_array_equal(top["top_index"], order)
    np.testing.assert_array_equal(top["top"], np.take_along_axis(phi, order, axis=1))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_activations_stay_visible(device, bad: float) -> None:
    z, mean, _, denominator = a_batch((9, 40), np.float32)
    good = score(device, z, mean, denominator, k=2, extremes=True)
    z[4, 7] = bad
    found = score(device, z, mean, denominator, k=2, extremes=True, threshold=0.0)
    assert not np.isfinite(found["m2"][7])
    assert not np.isfinite(found["high"][7])
    assert np.isnan(bad) == (found["counts"][7] == 8)
    for name in ("mean", "m2", "low", "high"):
        np.testing.assert_array_equal(np.delete(found[name], 7), np.delete(good[name], 7))


def test_merge(device) -> None:
    rng = np.random.default_rng(7)
    one, other = (Moments.of(rng.normal(size=(n, 5, 3))) for n in (4, 9))
    with reference():
        expected = one.merge(other)
    arrays = [device.array(a) for a in (one.mean, one.m2, other.mean, other.m2)]
    mean, m2 = scale.merge(*arrays, 9 / 13, 36 / 13)
    np.testing.assert_allclose(device.host(mean), expected.mean, rtol=1e-15)
    np.testing.assert_allclose(device.host(m2), expected.m2, rtol=1e-15)
