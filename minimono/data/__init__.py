"""Data: text, images, simulated rain, and a world whose features are known.

Random numbers come from an explicit generator.
"""

from minimono import lazy
from minimono.data.firing import (
    Hierarchy,
    low_rank_correlation,
    nearest_correlation,
    zipf_rates,
)
from minimono.data.images import Images, image_batches, load_digits, load_idx, shuffled_split
from minimono.data.matching import (
    FeatureMatches,
    match_features,
    mean_correlation_coefficient,
)
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
from minimono.data.text import Characters, random_batches, read_text, split
from minimono.data.world import (
    KINDS,
    PlantedLayer,
    Sample,
    World,
    binary_scale,
    draw_neurons,
    orthogonal_directions,
    plant,
    polygon_directions,
    roc_auc,
)

__all__ = [
    "KINDS", "Characters", "FeatureMatches", "Hierarchy", "Images", "PlantedLayer", "Rain",
    "Sample", "World", "b_mae", "b_mse", "binary_scale", "draw_neurons", "image_batches",
    "load_digits", "load_idx", "low_rank_correlation", "match_features",
    "mean_correlation_coefficient", "nearest_correlation", "orthogonal_directions",
    "pixels_to_rainfall", "plant", "polygon_directions", "rain_batches", "rain_loss",
    "rain_weights", "rainfall_to_pixels", "random_batches", "read_text", "roc_auc",
    "shuffled_split", "simulate_rain", "split", "zipf_rates",
]
__dir__ = lazy.only(__name__, __all__)
