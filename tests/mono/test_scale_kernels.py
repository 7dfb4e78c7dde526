"""The running versions of the metrics against their reading versions."""

import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimono import kernels
from minimono.kernels import seam
from minimono.kernels.cpu import moments as cpu_moments
from minimono.kernels.cpu import scale as cpu_scale
from minimono.kernels.cpu import selection as cpu_selection
from minimono.mono.moments import Moments
from minimono.mono.scale import monosemantic_scale
from minimono.mono.tracker import ScaleTracker

EPS = 2.0**-52
# More samples and neurons than a tile holds, and edges that do not fit it.
SHAPES = [
    (1, 1),
    (2, 3),
    (cpu_scale.SAMPLES, cpu_scale.NEURONS),
    (2 * cpu_scale.SAMPLES + 5, cpu_scale.NEURONS + 7),
    (3, 2 * cpu_scale.NEURONS + 1),
    (7, 3, 5, 2),
    (9,),
]


def data(shape, dtype, offset: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.standard_t(3, size=shape) + offset).astype(dtype)


def assert_moments_agree(one: Moments, other: Moments, z: np.ndarray) -> None:
    """Within rounding, given the condition kappa = max|z| / s of each neuron."""
    assert one.count == other.count
    largest = np.abs(z).max(axis=0)
    assert (np.abs(one.mean - other.mean) <= 8 * EPS * largest).all()
    deviation = np.sqrt(other.m2 / len(z))
    eta = (
        8
        * EPS
        * np.divide(
            largest, deviation, out=np.zeros_like(largest, dtype=np.float64), where=deviation > 0
        )
    )
    allowed = (eta * (2 + eta) + 16 * EPS) * other.m2
    assert (np.abs(one.m2 - other.m2) <= allowed).all()


@pytest.mark.parametrize("offset", [0.0, 1e4, -1e6])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_moments(shape, dtype, offset: float) -> None:
    z = data(shape, dtype, offset)
    running = Moments.of(z)
    with kernels.reference():
        reading = Moments.of(z)
    assert running.mean.shape == z.shape[1:]
    assert_moments_agree(running, reading, z)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_phi_is_within_four_ulp(shape, dtype) -> None:
    z = data(shape, dtype)
    mean, variance = data(shape[1:], np.float64), data(shape[1:], np.float64) ** 2
    running = monosemantic_scale(z, mean, variance)
    with kernels.reference():
        reading = monosemantic_scale(z, mean, variance)
    assert running.dtype == reading.dtype == dtype
    np.testing.assert_array_max_ulp(running, reading, 4)


@given(
    st.lists(
        st.tuples(st.floats(-1e100, 1e100), st.floats(-1e100, 1e100), st.floats(0, 1e200)),
        min_size=1,
        max_size=9,
    ),
    st.sampled_from([np.float32, np.float64]),
)
def test_phi_of_any_numbers(rows, dtype) -> None:
    z, mean, variance = (np.array(column) for column in zip(*rows, strict=True))
    with np.errstate(over="ignore", under="ignore"):
        z = np.clip(z, -1e38, 1e38).astype(dtype)[None]
    running = monosemantic_scale(z, mean, variance)
    with kernels.reference():
        reading = monosemantic_scale(z, mean, variance)
    np.testing.assert_array_equal(np.isnan(running), np.isnan(reading))
    finite = np.isfinite(reading)
    np.testing.assert_array_equal(running[~finite], reading[~finite])
    np.testing.assert_array_max_ulp(running[finite], reading[finite], 4)


@pytest.mark.parametrize("convention", ["paper", "authors"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_whole_trajectory(convention, dtype) -> None:
    running = ScaleTracker(convention=convention, forget_after=2, compensation=0.01)
    reading = ScaleTracker(convention=convention, forget_after=2, compensation=0.01)
    rng = np.random.default_rng(1)
    for size in (70, 3, 1, 130, 5):
        z = rng.normal(3.0, 1.0, size=(size, 6, 5)).astype(dtype)
        phi = running.score(z)
        with kernels.reference():
            want = reading.score(z)
        tolerance = 1e-6 if dtype == np.float32 else 1e-12
        np.testing.assert_allclose(phi, want, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(running.mean, reading.mean, rtol=1e-14)
        np.testing.assert_allclose(running.variance, reading.variance, rtol=1e-12)


@pytest.mark.parametrize("value", [0.1, -1e-3, 1e9 / 3])
def test_a_constant_neuron_is_exactly_constant_across_tiles(value: float) -> None:
    for samples in (cpu_scale.SAMPLES - 1, cpu_scale.SAMPLES + 1, 1000):
        moments = Moments.of(np.full((samples, 2), value))
        np.testing.assert_array_equal(moments.m2, [0, 0])
        np.testing.assert_array_equal(moments.mean, [value, value])


def test_an_outlier_in_the_first_row_costs_no_digits() -> None:
    """A one-pass sum about the first sample would be off by many digits here."""
    z = np.random.default_rng(2).normal(size=(500, 3))
    z[0] = 1e7
    running = Moments.of(z)
    with kernels.reference():
        assert_moments_agree(running, Moments.of(z), z)


def test_layouts() -> None:
    """Transposed, strided, reversed, locked and byte-swapped arrays hold the same numbers."""
    z = data((6, 4, 5), np.float32)
    want = Moments.of(z)
    locked = z.copy()
    locked.setflags(write=False)
    wide = np.zeros((12, 4, 10), np.float32)
    wide[::2, :, ::2] = z
    for other in (
        np.asfortranarray(z),
        wide[::2, :, ::2],
        z[::-1].copy()[::-1],
        locked,
        z.astype(">f4"),
    ):
        moments = Moments.of(other)
        np.testing.assert_array_equal(moments.mean, want.mean)
        np.testing.assert_array_equal(moments.m2, want.m2)
        phi = monosemantic_scale(other, want.mean, want.variance())
        np.testing.assert_allclose(
            phi, monosemantic_scale(z, want.mean, want.variance()), rtol=1e-6
        )


def test_inputs_are_not_written_to() -> None:
    z, mean, variance = data((4, 3), np.float64), np.zeros(3), np.array([1.0, 0.0, 2.0])
    before = z.copy(), mean.copy(), variance.copy()
    monosemantic_scale(z, mean, variance, compensation=0.5)
    Moments.of(z)
    for array, copy in zip((z, mean, variance), before, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_reference_switches_the_kernels_off(monkeypatch: pytest.MonkeyPatch) -> None:
    used = []

    def watched(device, part, name, by=""):
        used.append(name)
        return chosen(device, part, name, by)

    chosen = seam.kernel
    monkeypatch.setattr(seam, "kernel", watched)
    tracker = ScaleTracker()
    for _ in range(2):
        tracker.score(data((4, 3), np.float32))
    assert used == ["batch_moments", "survey", "merge"]  # the first batch is scored by nothing
    with kernels.reference():
        tracker.score(data((4, 3), np.float32))
    assert len(used) == 3


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_compiled_code_is_the_python_beside_it(monkeypatch: pytest.MonkeyPatch, dtype) -> None:
    """The functions as written, run by Python: what a reader steps through is what runs."""
    z = data((cpu_scale.FIRST + 13, 9), dtype)
    mean, denominator = z[0].astype(np.float64), np.linspace(1.0, 2.0, 9)
    denominator[4] = np.nan
    asked = [{"extremes": True, "keep_phi": True, "threshold": 1.5}, {"k": 2}]
    options = [a | {"flag": True} for a in asked]
    compiled = [cpu_scale.survey(z, mean, denominator, **o) for o in options]
    for module in (cpu_moments, cpu_selection, cpu_scale):
        kernels_here = [n for n, value in vars(module).items() if hasattr(value, "py_func")]
        assert len(kernels_here) >= 3
        for name in kernels_here:
            monkeypatch.setattr(module, name, getattr(module, name).py_func)
    for option, found in zip(options, compiled, strict=True):
        by_python = cpu_scale.survey(z, mean, denominator, **option)
        assert found.keys() == by_python.keys()
        for name in found.keys() - {"mean", "m2"}:
            np.testing.assert_array_equal(found[name], by_python[name])
        for name in ("mean", "m2"):  # a b + c may be rounded once
            np.testing.assert_allclose(found[name], by_python[name], rtol=4 * EPS, atol=4 * EPS)


def test_numba_is_imported_on_first_use_only() -> None:
    code = """
import sys
import numpy as np
from minimono import kernels
from minimono.mono.moments import Moments
from minimono.mono.tracker import ScaleTracker
import minimono.mono.selection
with kernels.reference():
    Moments.of(np.ones((2, 2)))
    ScaleTracker().score(np.ones((2, 2)))
assert "numba" not in sys.modules
Moments.of(np.ones((2, 2)))
assert "numba" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("offset", [1e6, 1e8, -1e10])
def test_tiles_of_samples_keep_the_digits_of_the_reading_version(offset: float) -> None:
    """Means of tiles, rounded at a large offset, once cost a digit of the variance per decade."""
    # Multiples of 2^-10 are held exactly at these offsets: both versions see the same deviations.
    steps = np.random.default_rng(3).integers(-4096, 4096, (1000, 5))
    z = offset + steps / 1024.0
    exact = []
    for j in range(5):
        column = [Fraction(int(s), 1024) for s in steps[:, j]]
        mean = sum(column) / 1000
        exact.append(sum((c - mean) ** 2 for c in column))
    _, m2 = cpu_scale.batch_moments(z)
    np.testing.assert_allclose(m2, [float(e) for e in exact], rtol=1e-14)
