"""Data: text, images and simulated rain, and batches of them drawn with an explicit generator."""

from minimono.data.images import Images, image_batches, load_digits, load_idx, shuffled_split
from minimono.data.rain import (
    Rain,
    b_mae,
    b_mse,
    pixels_to_rainfall,
    rain_batches,
    rain_loss,
    rain_weights,
    rainfall_to_pixels,
    simulate_rain,
)
from minimono.data.text import (
    Characters,
    random_batches,
    read_text,
    sequential_batches,
    split,
)

__all__ = [
    "Characters", "Images", "Rain", "b_mae", "b_mse", "image_batches", "load_digits", "load_idx",
    "pixels_to_rainfall", "rain_batches", "rain_loss", "rain_weights", "rainfall_to_pixels",
    "random_batches", "read_text", "sequential_batches", "shuffled_split", "simulate_rain", "split",
]  # fmt: skip
