"""What the running versions do block by block, and φ at the edges of float32: as the formula."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minimono as mm
from minimono import checks, machine, mono
from minimono.kernels.cpu import moments as cpu_moments
from minimono.kernels.cpu import scale as cpu_scale
from minimono.mono.batch_scores import survey
from minimono.mono.moments import Moments

BLOCK = cpu_moments.BLOCK


def agree(z: np.ndarray, mean: np.ndarray, denominator: np.ndarray, **asked: Any) -> None:
    """Counts, flags, tops, extremes and φ are the formula's to the bit."""
    found = survey(z, mean, denominator, **asked)
    expected = survey.formula(z, mean, denominator, **asked)
    assert found.keys() == expected.keys()
    for name in found.keys() - {"mean", "m2"}:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    np.testing.assert_allclose(found["mean"], expected["mean"], rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(found["m2"], expected["m2"], rtol=1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("samples", [BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 77])
def test_edges_of_blocks(samples: int, dtype: Any) -> None:
    rng = np.random.default_rng(samples)
    z = (rng.standard_normal((samples, 41)) * 3 + 1).astype(dtype)
    mean, denominator = rng.standard_normal(41), rng.random(41) * 9
    denominator[3] = np.nan
    agree(z, mean, denominator, threshold=2.0, extremes=True, flag=True, keep_phi=True)
    agree(z, mean, denominator, k=2, threshold=1.0, extremes=True)


def test_neither_threads_nor_layout_change_a_digit_of_several_blocks() -> None:
    """Float16 is copied tile by tile; two threads have other blocks than one."""
    rng = np.random.default_rng(3)
    z = rng.standard_normal((2 * BLOCK + 130, 300)).astype(np.float16)
    mean, denominator = rng.standard_normal(300), rng.random(300)
    asked: dict[str, Any] = {"k": 2, "threshold": 2.0, "extremes": True}
    before, found = machine.threads(), []
    try:
        for threads in (1, 2, 3):
            machine.set_num_threads(threads)
            found += [survey(a, mean, denominator, **asked) for a in (z, z.astype(np.float64))]
    finally:
        machine.set_num_threads(before)
    for other in found[1:]:
        for name, value in found[0].items():
            np.testing.assert_array_equal(other[name], value, err_msg=name)


def test_a_mean_far_from_zero_keeps_its_digits_from_block_to_block() -> None:
    """m2 is exact where the means of blocks are 1e8 and what tells them apart is 2^-20."""
    steps = np.random.default_rng(0).integers(-8, 8, (3 * BLOCK, 2))
    z = 1e8 + steps * 2.0**-20
    exact = Moments.of(steps.astype(float))
    found = Moments.of(z)
    np.testing.assert_allclose(found.m2, exact.m2 * 2.0**-40, rtol=1e-12)
    assert not Moments.of(np.full((2 * BLOCK + 5, 3), 0.1)).m2.any()


def halfway(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """z, mean 0 and denominators for which φ lies at the middle of two float32, or a bit beside."""
    z = rng.integers(1, 2**12, size).astype(np.float32)  # z² is exact
    middle = rng.integers(2**24, 2**25, size) | 1  # of 25 bits: the middle of two float32
    return z, np.zeros(size), z.astype(np.float64) ** 2 / middle


@pytest.mark.parametrize("beside", [-2, -1, 0, 1, 2])
def test_phi_at_the_middle_of_two_float32(beside: int) -> None:
    """There a reciprocal in place of the division would round to the other one."""
    z, mean, denominator = halfway(np.random.default_rng(7), 4096)
    for _ in range(abs(beside)):
        denominator = np.nextafter(denominator, np.inf * beside)
    agree(z[None], mean, denominator, keep_phi=True)


@pytest.mark.parametrize("compensation", [0.0, 1e-60, 1.0])
def test_phi_too_small_or_large_for_all_digits_of_float32(compensation: float) -> None:
    """Subnormal φ, means that float32 has exactly, dead neurons, denominators of any size."""
    rng = np.random.default_rng(5)
    mean = np.concatenate([np.zeros(8), rng.standard_normal(8), 10.0 ** rng.integers(-40, 38, 16)])
    size = 10.0 ** rng.uniform(-25, 25, mean.size)
    z = (mean + size * rng.standard_normal((64, mean.size)) * 1e-20).astype(np.float32)
    z[:, :4] = 10.0 ** rng.uniform(-30, -15, (64, 4))  # φ down to 1e-60
    z[0] = mean
    denominator = size**2 + compensation
    denominator[:4] = 1.0
    denominator[4] = np.nan
    denominator[5:8] = 1e-300, 1e300, 2.3e-308
    agree(z, mean, denominator, keep_phi=True, extremes=True)
    found, _ = cpu_scale.scale_and_check(z, mean, denominator)
    expected = survey.formula(z, mean, denominator, keep_phi=True)["phi"]
    np.testing.assert_array_equal(found, expected)
    tiny = expected[(expected > 0) & (expected < np.finfo(np.float32).tiny)]
    assert tiny.size > 20


@pytest.mark.parametrize("layer", [mono.MEmeL(k=1, start_after=1), mono.L2E(0.25, start_after=1)])
def test_a_module_checks_its_batch_once(layer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            seen.append(name)
            return function(*arguments, **options)

        return call

    z = mm.tensor(np.random.default_rng(0).standard_normal((8, 4)))
    layer(z)
    layer(z)  # the first that flags
    monkeypatch.setattr(checks, "activations", counted("activations", checks.activations))
    check = counted("check", type(layer.tracker).check)
    monkeypatch.setattr(type(layer.tracker), "check", check)
    layer(z)
    assert sorted(seen) == ["activations", "check"]
