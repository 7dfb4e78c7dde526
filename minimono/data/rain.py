"""Simulated rain for nowcasting: cells that a wind carries while they grow or decay.

The task is HKO-7's (Shi et al. 2017, arXiv 1706.03458): ten radar frames in, the next ten out,
scored by the balanced errors B-MSE and B-MAE. The sky is ours, simple enough to know the truth:

    rainfall(p, t) = sum over cells of peak exp(growth t) exp(-|p - c(t)|^2 / (2 width^2))   mm/h

    d c / d t = wind(c),   wind(p) = drift + spin J (p - middle),   J a quarter turn

The wind drifts and turns and never converges, so a cell keeps its shape, and only growth changes
the water in it: 2 pi width^2 peak exp(growth t). Shapes: `N` sequences, `T` frames, `K` cells, `Y`
rows, `X` columns; points and vectors are (y, x), in pixels; time is in frames.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from minimono.backend import Array, array_module, to_device
from minimono.checks import Rng, generator, sizes
from minimono.engine.tensor import Tensor

# ---- the sky -----------------------------------------------------------------------------------


class Rain(NamedTuple):
    """Sequences of rainfall, and all that made them."""

    rainfall: Array  # (N, T, Y, X), mm/h, float32
    wind: Array  # (N, Y, X, 2), pixels per frame: (along y, along x) at each pixel
    drift: Array  # (N, 2), pixels per frame
    spin: Array  # (N,), radians per frame
    centres: Array  # (N, T, K, 2), where the cells are, perhaps outside the frame
    peaks: Array  # (N, T, K), mm/h
    widths: Array  # (N, K), pixels
    growth: Array  # (N, K), per frame: peaks change by exp(growth)


def simulate_rain(
    sequences: int, *, size: int = 32, frames: int = 20, cells: int = 6, rng: Rng
) -> Rain:
    """Make sequences of rain on `size` x `size` pixels, each with a wind and cells of its own.

    Our choice, in fractions of the size s where it matters: drift in any direction, up to s/24 a
    frame; spin up to 0.03; centres anywhere, also up to s/2 outside, so that rain comes and goes;
    widths s/20 to s/8; peaks at the middle of the sequence 1 to 60 mm/h, in logarithms; growth
    +-0.08 a frame.

    >>> rain = simulate_rain(2, size=16, rng=np.random.default_rng(0))
    >>> rain.rainfall.shape, rain.wind.shape
    ((2, 20, 16, 16), (2, 16, 16, 2))
    """
    sizes("simulate_rain", sequences=sequences, size=size, frames=frames, cells=cells)
    rng = generator(rng, "simulate_rain: rng")
    N, K, s = sequences, cells, size
    direction, speed = rng.uniform(0.0, 2.0 * math.pi, N), rng.uniform(0.0, s / 24.0, N)
    drift = speed[:, None] * np.stack([np.sin(direction), np.cos(direction)], axis=-1)  # (N, 2)
    spin = rng.uniform(-0.03, 0.03, N)
    at_middle = rng.uniform(-0.5 * s, 1.5 * s, (N, K, 2))
    widths = rng.uniform(s / 20.0, s / 8.0, (N, K))
    peak_at_middle = np.exp(rng.uniform(math.log(1.0), math.log(60.0), (N, K)))
    growth = rng.uniform(-0.08, 0.08, (N, K))

    middle = np.array([(s - 1) / 2.0, (s - 1) / 2.0])
    time = np.arange(frames) - (frames - 1) / 2.0  # (T,), from the middle of the sequence
    centres = carried(
        at_middle[:, None], time[:, None], drift[:, None, None], spin[:, None, None], middle
    )  # -> (N, T, K, 2)
    peaks = peak_at_middle[:, None] * np.exp(growth[:, None] * time[:, None])  # (N, T, K)
    rainfall = rain_of_cells(centres, peaks, widths[:, None], size=s)
    grid = np.stack(np.meshgrid(np.arange(s), np.arange(s), indexing="ij"), axis=-1)  # (Y, X, 2)
    wind = wind_at(grid, drift[:, None, None], spin[:, None, None], middle)
    return Rain(rainfall.astype(np.float32), wind, drift, spin, centres, peaks, widths, growth)


def wind_at(points: Array, drift: Array, spin: Array, middle: Array) -> Array:
    """Return drift + spin J (p - middle), with J (y, x) = (x, -y): points (..., 2) -> (..., 2).

    `drift` (..., 2) and `spin` (...) broadcast against the points.
    """
    away = points - middle
    return drift + spin[..., None] * np.stack([away[..., 1], -away[..., 0]], axis=-1)


def carried(points: Array, time: Array, drift: Array, spin: Array, middle: Array) -> Array:
    """Return where the wind has carried points after some time, exactly: (..., 2) -> (..., 2).

    With q = (y - y_middle) + i (x - x_middle), the wind is dq/dt = drift - i spin q, so

        q(t) = q e^(-i spin t) + drift (e^(-i spin t) - 1) / (-i spin),   or  q + drift t  at spin 0
    """
    q = (points - middle)[..., 0] + 1j * (points - middle)[..., 1]
    turn = -1j * spin * time
    # (e^z - 1) / z, which is 1 at z = 0; z is imaginary, and half angles keep its digits near 0.
    average = np.exp(0.5 * turn) * np.sinc(turn.imag / (2.0 * math.pi))
    q = q * np.exp(turn) + (drift[..., 0] + 1j * drift[..., 1]) * time * average
    return middle + np.stack([q.real, q.imag], axis=-1)


def rain_of_cells(centres: Array, peaks: Array, widths: Array, *, size: int) -> Array:
    """Return the rain at each pixel p in mm/h, (..., Y, X): a sum over cells.

        peak exp(-|p - c|^2 / (2 width^2))

    `centres` (..., K, 2), `peaks` and `widths` (..., K). A pixel's rain is the rain at its point.
    """
    pixels = np.arange(size)
    away = pixels - centres[..., None]  # (..., K, 2, size)
    bell = np.exp(-0.5 * (away / widths[..., None, None]) ** 2)
    along_y, along_x = bell[..., 0, :], bell[..., 1, :]  # (..., K, Y), (..., K, X)
    return (peaks[..., None] * along_y).swapaxes(-1, -2) @ along_x  # (..., Y, K) @ (..., K, X)


# ---- rainfall and pixels -----------------------------------------------------------------------

ZR_A, ZR_B = 58.53, 1.56  # HKO-7's Z-R relationship: Z = a R^b


def rainfall_to_pixels(rainfall: Array) -> Array:
    """Return rainfall in mm/h as radar pixels from 0 to 1, HKO-7's mapping without its 255 steps.

        dBZ = 10 log10(a) + 10 b log10(R),  a = 58.53,  b = 1.56;    pixel = (dBZ + 10) / 70

    Clipped to 0..1: rain under 0.017 mm/h is 0, rain over 516 mm/h is 1.

    >>> rainfall_to_pixels(np.array([0.0, 0.5, 30.0])).round(4)
    array([0.    , 0.3283, 0.7245])
    """
    xp = array_module(rainfall)
    if not bool((rainfall >= 0.0).all()):
        raise ValueError("rainfall_to_pixels: rainfall is negative or nan in places, expected mm/h")
    some = xp.maximum(rainfall, pixels_to_rainfall(0.0))  # log10 of 0 is -inf
    dbz = 10.0 * math.log10(ZR_A) + 10.0 * ZR_B * xp.log10(some)
    return xp.clip((dbz + 10.0) / 70.0, 0.0, 1.0)


def pixels_to_rainfall(pixels: Array | float) -> Array | float:
    """Return the rainfall in mm/h that pixels stand for: the inverse of `rainfall_to_pixels`.

    A pixel of 0 stands for 0.017 mm/h or less, and is given as that, as in HKO-7.
    """
    dbz = 70.0 * pixels - 10.0
    return 10.0 ** ((dbz - 10.0 * math.log10(ZR_A)) / (10.0 * ZR_B))


# ---- batches, and the balanced errors ----------------------------------------------------------


def rain_batches(
    *, batch: int, size: int = 32, frames_in: int = 10, frames_out: int = 10, cells: int = 6,
    rng: Rng,
) -> Iterator[tuple[Array, Array]]:
    """Yield endless batches of new rain: the first frames and the next, (B, T, Y, X), float32.

    A batch draws from `rng` when it is asked for, and not before: the generator's state between
    two batches makes the next one.
    """
    sizes("rain_batches", batch=batch, size=size, cells=cells)
    sizes("rain_batches", frames_in=frames_in, frames_out=frames_out)
    source = generator(rng, "rain_batches: rng")

    def draw() -> Iterator[tuple[Array, Array]]:
        while True:
            rain = simulate_rain(
                batch, size=size, frames=frames_in + frames_out, cells=cells, rng=source
            )
            pixels = rainfall_to_pixels(rain.rainfall)
            yield pixels[:, :frames_in], pixels[:, frames_in:]

    return draw()


def rain_weights(pixels: Array) -> Array:
    """Return HKO-7's weight of each pixel, by the true rainfall in mm/h: heavy rain matters more.

        below 2: 1      2 to 5: 2      5 to 10: 5      10 to 30: 10      30 and more: 30

    The loss has the same weights (its list also names 0.5 mm/h, with weight 1 on both sides).

    >>> rain_weights(rainfall_to_pixels(np.array([0.0, 1.9, 2.1, 7.0, 20.0, 31.0])))
    array([ 1.,  1.,  2.,  5., 10., 30.])
    """
    xp = array_module(pixels)
    weights = xp.ones_like(pixels)
    for threshold, step in ((2.0, 1.0), (5.0, 3.0), (10.0, 5.0), (30.0, 20.0)):
        at = float(rainfall_to_pixels(np.array(threshold)))
        weights = weights + xp.where(pixels >= at, step, 0.0).astype(weights.dtype)
    return weights


def b_mse(prediction: Tensor, truth: Tensor | Array) -> Tensor:
    """Return the balanced squared error: a frame's sum of weight (prediction - truth)^2, averaged.

    Both are pixels (..., Y, X) from 0 to 1; the weights are those of the truth. Published: Shi et
    al. 2017, section 4; a sum over pixels, so it grows with the frame's size.
    """
    error, weights = _errors("b_mse", prediction, truth)
    return (weights * (error * error)).sum(axis=(-2, -1)).mean()


def b_mae(prediction: Tensor, truth: Tensor | Array) -> Tensor:
    """Return the balanced absolute error: the same sum of weight |prediction - truth|."""
    error, weights = _errors("b_mae", prediction, truth)
    return (weights * abs(error)).sum(axis=(-2, -1)).mean()


def rain_loss(prediction: Tensor, truth: Tensor | Array) -> Tensor:
    """Return (B-MSE + B-MAE) / (Y X), on which HKO-7's networks are trained but for a factor.

    Published: the sum, with equal shares. Dividing by the number of pixels is our choice; the
    authors multiply by 5e-5, near it for their 480 x 480.
    """
    total = b_mse(prediction, truth) + b_mae(prediction, truth)
    return total * (1.0 / math.prod(prediction.shape[-2:]))


def _errors(name: str, prediction: Tensor, truth: Tensor | Array) -> tuple[Tensor, Tensor]:
    expected = truth.data if isinstance(truth, Tensor) else truth
    if prediction.ndim < 2 or prediction.shape != tuple(expected.shape) or not prediction.size:
        raise ValueError(
            f"{name}: prediction has shape {prediction.shape}, truth {tuple(expected.shape)}; "
            "expected the same, (..., Y, X), with some pixels"
        )
    expected = to_device(expected, prediction.device).astype(prediction.dtype)
    return prediction - expected, Tensor(rain_weights(expected))
