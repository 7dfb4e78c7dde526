"""Simulated rain: where cells go, how much water there is, pixels, balanced errors, learning."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minimono as mm
from minimono.data import (
    b_mae,
    b_mse,
    pixels_to_rainfall,
    rain_batches,
    rain_loss,
    rain_weights,
    rainfall_to_pixels,
    simulate_rain,
)
from minimono.data.rain import carried, rain_of_cells, wind_at
from minimono.engine.tensor import tensor
from minimono.gradcheck import check_grads
from minimono.nn.models import ConvGRU
from minimono.nn.training import train

MIDDLE = np.array([15.5, 15.5])


def seeded(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# ---- the wind ----------------------------------------------------------------------------------


def test_without_spin_points_move_by_drift_times_time() -> None:
    points, drift = seeded().uniform(0, 32, (5, 2)), np.array([1.25, -0.5])
    moved = carried(points, np.array(8.0), drift, np.array(0.0), MIDDLE)
    np.testing.assert_allclose(moved, points + 8.0 * drift, rtol=1e-14)


def test_without_drift_points_turn_round_the_middle() -> None:
    quarter = np.array(math.pi / 2 / 10)
    moved = carried(
        MIDDLE + np.array([[0.0, 3.0]]), np.array(10.0), np.zeros(2), quarter, MIDDLE
    )
    # J (y, x) = (x, -y): what lies at +x goes to +y.
    np.testing.assert_allclose(moved, MIDDLE + np.array([[3.0, 0.0]]), atol=1e-13)


@given(
    st.floats(-2, 2), st.floats(-2, 2), st.floats(-0.5, 0.5), st.floats(-20, 20), st.floats(-20, 20)
)
def test_the_flow_solves_the_winds_equation(
    drift_y: float, drift_x: float, spin: float, first: float, second: float
) -> None:
    drift, turn, p = np.array([drift_y, drift_x]), np.array(spin), np.array([3.0, 20.0])

    def at(time: float) -> Any:
        return carried(p, np.array(time), drift, turn, MIDDLE)

    h = 1e-4
    velocity = (at(first + h) - at(first - h)) / (2.0 * h)
    np.testing.assert_allclose(velocity, wind_at(at(first), drift, turn, MIDDLE), atol=1e-5)
    on = carried(at(first), np.array(second), drift, turn, MIDDLE)  # and it composes
    np.testing.assert_allclose(on, at(first + second), atol=1e-9)


@pytest.mark.parametrize("spin", [1e-3, 1e-8, 1e-13, 1e-300, 0.0])
def test_a_small_spin_loses_no_digits(spin: float) -> None:
    # The series of (e^z - 1) / z, in exact fractions: z = -i a, drift (1, 0), from the middle.
    a = Fraction(spin) * 7
    term, real, imaginary = Fraction(1), Fraction(0), Fraction(0)
    for n in range(12):  # (-i a)^n / (n + 1)!
        part = term / math.factorial(n + 1)
        real += part * (1, 0, -1, 0)[n % 4]
        imaginary += part * (0, -1, 0, 1)[n % 4]
        term *= a
    moved = carried(np.zeros(2), np.array(7.0), np.array([1.0, 0.0]), np.array(spin), np.zeros(2))
    np.testing.assert_allclose(moved, [float(7 * real), float(7 * imaginary)], rtol=1e-14)


# ---- the rain ----------------------------------------------------------------------------------


def test_a_cell_moves_by_the_wind_exactly() -> None:
    # A drift of whole pixels: each frame is the one before, moved.
    time = np.arange(6.0)
    centres = carried(np.array([9.3, 12.6]), time, np.array([2.0, -1.0]), np.array(0.0), MIDDLE)
    peaks, widths = np.full((6, 1), 20.0), np.full((6, 1), 2.5)
    frames = rain_of_cells(centres[:, None], peaks, widths, size=32)
    for t in range(5):
        np.testing.assert_allclose(frames[t + 1][2:, :-1], frames[t][:-2, 1:], rtol=1e-12)


def test_a_pixel_is_the_sum_of_its_cells() -> None:
    rain = simulate_rain(2, size=8, frames=3, cells=4, rng=seeded())
    n, t, y, x = 1, 2, 5, 3
    total = 0.0
    for k in range(4):
        cy, cx = rain.centres[n, t, k]
        square = (y - cy) ** 2 + (x - cx) ** 2
        total += rain.peaks[n, t, k] * math.exp(-square / (2.0 * rain.widths[n, k] ** 2))
    assert rain.rainfall[n, t, y, x] == pytest.approx(total, rel=1e-6)  # float32


def test_water_changes_by_growth_alone() -> None:
    # The sum over pixels of a bell of width 2 or more is its integral, to 30 digits.
    time, spin, drift = np.arange(10.0), np.array(0.05), np.array([0.7, -0.4])
    middle = np.array([31.5, 31.5])
    for width, growth in ((2.0, 0.08), (3.0, -0.08), (2.5, 0.0)):
        centres = carried(np.array([30.0, 35.0]), time, drift, spin, middle)
        peaks = 12.0 * np.exp(growth * time)
        frames = rain_of_cells(
            centres[:, None], peaks[:, None], np.full((10, 1), width), size=64
        )
        water = 2.0 * math.pi * width**2 * 12.0 * np.exp(growth * time)
        np.testing.assert_allclose(frames.sum(axis=(1, 2)), water, rtol=1e-12)


def test_the_truth_that_comes_with_the_rain_makes_the_rain() -> None:
    rain = simulate_rain(3, size=16, frames=7, cells=5, rng=seeded(2))
    assert rain.rainfall.shape == (3, 7, 16, 16)
    assert rain.rainfall.dtype == np.float32
    assert rain.wind.shape == (3, 16, 16, 2)
    again = rain_of_cells(rain.centres, rain.peaks, rain.widths[:, None], size=16)
    np.testing.assert_allclose(rain.rainfall, again, rtol=1e-6)
    middle = np.array([7.5, 7.5])
    for n in range(3):
        for y, x in ((0, 0), (3, 12), (15, 15)):
            expected = wind_at(np.array([y, x]), rain.drift[n], rain.spin[n], middle)
            np.testing.assert_allclose(rain.wind[n, y, x], expected, rtol=1e-13)
        onward = carried(rain.centres[n, 0], np.array(6.0), rain.drift[n], rain.spin[n], middle)
        np.testing.assert_allclose(rain.centres[n, 6], onward, atol=1e-10)
    growth = np.log(rain.peaks[:, 1:] / rain.peaks[:, :-1])
    np.testing.assert_allclose(growth - rain.growth[:, None], 0.0, atol=1e-12)


def test_the_wind_never_converges() -> None:
    wind = simulate_rain(4, size=16, rng=seeded()).wind
    divergence = np.gradient(wind[..., 0], axis=1) + np.gradient(wind[..., 1], axis=2)
    np.testing.assert_allclose(divergence, 0.0, atol=1e-12)


def test_one_seed_gives_the_same_bits_and_batches_go_on_from_the_generators_state() -> None:
    one, same, other = (simulate_rain(2, size=16, rng=seeded(s)) for s in (0, 0, 1))
    assert all(a.tobytes() == b.tobytes() for a, b in zip(one, same, strict=True))
    assert one.rainfall.tobytes() != other.rainfall.tobytes()
    rng = seeded(3)
    batches = rain_batches(batch=2, size=16, rng=rng)
    next(batches)
    state = rng.bit_generator.state
    inputs, targets = next(batches)
    rng.bit_generator.state = state
    again = next(rain_batches(batch=2, size=16, rng=rng))
    np.testing.assert_array_equal(again[0], inputs)
    np.testing.assert_array_equal(again[1], targets)


def test_batches_are_the_first_frames_and_the_next() -> None:
    inputs, targets = next(
        rain_batches(batch=2, size=16, frames_in=4, frames_out=3, rng=seeded(5))
    )
    rain = simulate_rain(2, size=16, frames=7, rng=seeded(5))
    pixels = rainfall_to_pixels(rain.rainfall)
    assert (inputs.dtype, targets.dtype) == (np.float32, np.float32)
    np.testing.assert_array_equal(np.concatenate([inputs, targets], axis=1), pixels)


# ---- pixels ------------------------------------------------------------------------------------


def test_pixels_are_hko_7s() -> None:
    # Z = 58.53 R^1.56; dBZ = 10 log10 Z; 0..70 of it, from -10 dBZ on: 1 mm/h is 17.67 dBZ.
    assert rainfall_to_pixels(np.array(1.0)) == pytest.approx((17.6738 + 10) / 70, abs=1e-6)
    ten_times = rainfall_to_pixels(np.array([0.1, 1.0, 10.0, 100.0]))
    np.testing.assert_allclose(np.diff(ten_times), 15.6 / 70, rtol=1e-12)
    beyond = rainfall_to_pixels(np.array([0.0, 1e-9, 0.016, 1e6]))
    np.testing.assert_array_equal(beyond, [0, 0, 0, 1])


@given(st.floats(0.0169, 516.0))
def test_pixels_and_rainfall_are_inverse(rainfall: float) -> None:
    back = pixels_to_rainfall(rainfall_to_pixels(np.array(rainfall)))
    assert back == pytest.approx(rainfall, rel=1e-12)


# ---- the balanced errors -----------------------------------------------------------------------


def weight_by_hand(rainfall: float) -> int:
    if rainfall < 10:
        return 1 if rainfall < 2 else 2 if rainfall < 5 else 5
    return 10 if rainfall < 30 else 30


def test_weights_step_at_2_5_10_and_30() -> None:
    rainfall = np.array([0.0, 0.4, 0.6, 1.99, 2.0, 4.99, 5.0, 9.99, 10.0, 29.9, 30.0, 200.0])
    expected = [weight_by_hand(r) for r in rainfall]
    np.testing.assert_array_equal(rain_weights(rainfall_to_pixels(rainfall)), expected)


def test_balanced_errors_are_sums_over_pixels_and_means_over_frames() -> None:
    rng = seeded(1)
    truth, guess = rng.random((2, 3, 4, 5)), rng.random((2, 3, 4, 5))
    square, absolute = [], []
    for true, guessed in zip(truth.reshape(6, 20), guess.reshape(6, 20), strict=True):
        weights = [weight_by_hand(pixels_to_rainfall(pixel)) for pixel in true]
        errors = guessed - true
        square.append(math.fsum(w * e * e for w, e in zip(weights, errors, strict=True)))
        absolute.append(math.fsum(w * abs(e) for w, e in zip(weights, errors, strict=True)))
    mse, mae = np.mean(square), np.mean(absolute)
    assert b_mse(tensor(guess), truth).item() == pytest.approx(mse, rel=1e-13)
    assert b_mae(tensor(guess), tensor(truth)).item() == pytest.approx(mae, rel=1e-13)
    assert rain_loss(tensor(guess), truth).item() == pytest.approx((mse + mae) / 20, rel=1e-13)
    assert b_mse(tensor(truth), truth).item() == b_mae(tensor(truth), truth).item() == 0.0


def test_the_loss_has_its_gradient_and_keeps_float32() -> None:
    truth, guess = seeded(1).random((1, 2, 3, 3)), seeded(2).random((1, 2, 3, 3))
    check_grads(lambda p: rain_loss(p, truth), guess, order=2)
    assert rain_loss(tensor(guess.astype(np.float32)), truth).dtype == np.float32


# ---- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: simulate_rain(0, rng=seeded()), "simulate_rain: sequences is 0, expected 1"),
        (lambda: simulate_rain(1, cells=0, rng=seeded()), "simulate_rain: cells is 0"),
        (lambda: rain_batches(batch=0, rng=seeded()), "rain_batches: batch is 0"),
        (lambda: rain_batches(batch=1, frames_out=0, rng=seeded()), "rain_batches: frames_out"),
        (lambda: rainfall_to_pixels(np.array([-1.0])), "rainfall is negative or nan"),
        (lambda: rainfall_to_pixels(np.array([math.nan])), "or nan in places, expected mm/h"),
        (lambda: b_mse(tensor(np.zeros((2, 3, 3))), np.zeros((2, 3, 4))),
         r"b_mse: prediction has shape \(2, 3, 3\), truth \(2, 3, 4\)"),
        (lambda: b_mae(tensor(np.zeros((0, 3, 3))), np.zeros((0, 3, 3))), "with some pixels"),
    ],
)
def test_bad_input_is_named(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# ---- learning ----------------------------------------------------------------------------------


def test_a_conv_gru_learns_to_carry_rain_on() -> None:
    """A short run beats "the last frame stays"; that it would know the wind is not claimed."""
    rng = seeded(0)
    model = ConvGRU(channels=(8,), strides=(2,), rng=rng)
    inputs, targets = next(rain_batches(batch=32, size=16, rng=seeded(99)))

    def loss(model: Any, inputs: Any, targets: Any) -> mm.Tensor:
        return rain_loss(model(tensor(inputs)), targets)

    steps = 100
    for _ in train(
        model, rain_batches(batch=8, size=16, rng=rng), loss,
        mm.optim.Adam(model.parameters()), steps=steps, max_norm=1.0,
        schedule=lambda n: mm.optim.cosine_schedule(n, steps=steps, warmup=5, peak=1e-2),
    ):
        pass
    with mm.no_grad():
        forecast = model.eval()(tensor(inputs))
    stays = tensor(np.repeat(inputs[:, -1:], 10, axis=1))
    assert b_mse(forecast, targets).item() < 0.9 * b_mse(stays, targets).item()
