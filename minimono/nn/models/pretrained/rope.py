"""The rotary positions that a config.json asks for: how fast, scaled in which way."""

from __future__ import annotations

from typing import Any

from minimono.nn import rotary
from minimono.nn.models.pretrained import settings
from minimono.nn.rotary import Rotary

# Each way of scaling, and the settings that it has.
SCALING = {
    "default": set[str](),
    "linear": {"factor"},
    "dynamic": {"factor"},
    "llama3": {
        "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings",
    },
    "yarn": {
        "factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow",
        "mscale", "mscale_all_dim", "truncate",
    },
}


def rotary_of(
    config: settings.Config, channels: int, context: int, *, base: str = "rope_theta",
    share: str = "", usual_share: float = 1.0,
) -> Rotary:
    """Return the rotary positions of heads of so many channels.

    base, share: what the base, and the share of the channels that turn, are called in config.json.
    """
    given = _scaling(config)
    number_of_base = settings.number(config, base, 10000.0, above=1.0)
    number_of_base = settings.number(
        given, "rope_scaling.rope_theta", number_of_base, above=1.0
    )
    given.pop("rope_scaling.rope_theta", None)
    if share:
        part = settings.number(config, share, usual_share)
        part = number(given, "partial_rotary_factor", part)
        given.pop("rope_scaling.partial_rotary_factor", None)
        turning = int(channels * part)
        if part > 1.0 or turning % 2 or turning == 0:
            raise settings.wrong(share, part, f"an even number of a head's {channels} channels")
        channels = turning
    return _scaled(given, channels, number_of_base, context)


def _scaling(config: settings.Config) -> dict[str, Any]:
    """Return the settings of the scaling, by names for errors.

    New folders have all in `rope_parameters`, older ones some of it in `rope_scaling`.
    """
    given = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if not isinstance(given, dict):
        raise settings.wrong("rope_scaling", given, "an object of settings")
    return {f"rope_scaling.{key}": value for key, value in given.items()}


def _scaled(given: dict[str, Any], channels: int, base: float, context: int) -> Rotary:
    kind = given.pop("rope_scaling.rope_type", None)
    other = given.pop("rope_scaling.type", None)
    kind = other if kind is None else kind
    kind = "default" if kind is None else kind
    if not isinstance(kind, str) or kind not in SCALING:
        raise settings.wrong("rope_scaling.rope_type", kind, f"one of {[*SCALING]}")
    if other is not None and other != kind:
        raise settings.wrong("rope_scaling.type", other, f"{kind!r} as in rope_type")
    settings.check_settings(given, {}, frozenset(f"rope_scaling.{key}" for key in SCALING[kind]))
    f = rotary.frequencies(channels, base)
    if kind == "default":
        return Rotary(f)
    factor = number(given, "factor", None)
    if kind == "dynamic":  # it begins beyond the context, and there are no positions there
        return Rotary(f)
    if kind == "linear":
        return Rotary(rotary.linear(f, factor))
    trained = number(given, "original_max_position_embeddings", context)
    if kind == "llama3":
        low = number(given, "low_freq_factor", None)
        high = settings.number(given, "rope_scaling.high_freq_factor", None, above=low)
        return Rotary(rotary.llama3(f, factor, low, high, trained))
    truncate = settings.flag(given, "rope_scaling.truncate", True)
    f = rotary.yarn(
        channels, base, factor, trained, fast=number(given, "beta_fast", 32.0),
        slow=number(given, "beta_slow", 1.0), truncate=truncate,
    )
    magnitude = rotary.yarn_magnitude(factor)
    if given.get("rope_scaling.mscale") and given.get("rope_scaling.mscale_all_dim"):
        scales = (number(given, key, None) for key in ("mscale", "mscale_all_dim"))
        above, below = (rotary.yarn_magnitude(factor, scale) for scale in scales)
        magnitude = above / below
    return Rotary(f, number(given, "attention_factor", magnitude))


def number(given: settings.Config, key: str, default: float | None) -> float:
    return settings.number(given, f"rope_scaling.{key}", default)
