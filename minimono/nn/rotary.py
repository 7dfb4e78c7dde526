"""How fast each pair of channels turns in rotary positions, and how that is scaled for long texts.

Pair i of R/2 turns by f_i = base^(-2 i / R) radians from one position to the next: the first by one
radian, the last so slowly that no text of the training brings it round. A text longer than those of
the training would bring the slow pairs to angles that the network has never seen. So networks for
long texts have them turn more slowly (linear, llama3, yarn), by formulas of this file.

    frequencies   f_i without scaling                         a `Rotary` has frequencies, and gives
    linear        all pairs slower by one factor              cosines and sines of the angles of all
    llama3        the slow pairs only, with a slope between   positions, for `F.rotary_embedding`
    yarn          the same by another slope
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from minimono import checks
from minimono.backend import Array, to_device
from minimono.engine.tensor import Tensor


@dataclass(frozen=True, eq=False)
class Rotary:
    """Rotary positions: `frequencies` (R/2,) in radians a position; a `magnitude` scales all.

    >>> rotary = Rotary(frequencies(4))
    >>> cos, sin = rotary.of_positions(3)
    >>> cos.shape, np.arctan2(sin.data, cos.data)[2]           # position 2: angles 2 and 0.02
    ((3, 2), array([2.  , 0.02]))
    """

    frequencies: Array
    magnitude: float = 1.0

    def of_positions(
        self, T: int, dtype: Any = np.float64, device: str = "cpu"
    ) -> tuple[Tensor, Tensor]:
        """Return cosines and sines (T, R/2) of the angles of positions 0 to T - 1.

        Angles are float64, since in float32 those of far positions have lost their last digits.
        """
        angles = np.arange(T)[:, None] * self.frequencies
        cos, sin = (
            Tensor(to_device((self.magnitude * f(angles)).astype(dtype), device))
            for f in (np.cos, np.sin)
        )
        return cos, sin


def frequencies(channels: int, base: float = 10000.0) -> Array:
    """Return base^(-2 i / R) for i = 0 ... R/2 - 1, where R is the number of channels that turn.

    >>> frequencies(4)
    array([1.  , 0.01])
    """
    checks.sizes("frequencies", channels=channels)
    checks.multiple(channels, "frequencies: channels", 2, "since they turn in pairs")
    checks.number(base, "frequencies: base", above=0.0)
    return float(base) ** (-np.arange(0, channels, 2) / channels)


def linear(f: Array, factor: float) -> Array:
    """Return f / factor: position m turns as m / factor did."""
    return f / checks.number(factor, "linear: factor", above=0.0)


def llama3(f: Array, factor: float, low: float, high: float, context: float) -> Array:
    """Divide by `factor` the frequencies that turn less than `low` times in the first context.

    Those that turn more than `high` times stay; between the two s goes from 0 to 1:

        (1 - s) f / factor + s f,   s = (turns - low) / (high - low),   turns = context f / 2 pi

    As in Llama 3.1's code.
    """
    checks.number(factor, "llama3: factor", above=0.0)
    checks.number(low, "llama3: low", above=0.0)
    checks.number(high, "llama3: high", above=low)
    s = np.clip((context * f / (2.0 * math.pi) - low) / (high - low), 0.0, 1.0)
    return (1.0 - s) * f / factor + s * f


def yarn(
    channels: int, base: float, factor: float, context: float, *, fast: float = 32.0,
    slow: float = 1.0, truncate: bool = True,
) -> Array:
    """Divide by `factor` the frequencies of pairs that turn less than `slow` times in the context.

    Those that turn more than `fast` times stay; between, a line along the pair's *number* i (in
    llama3, along the frequency). A pair turns r times if its number is

        R log(context / (2 pi r)) / (2 log base)

    rounded outwards with `truncate`. Peng et al. 2023, arXiv 2309.00071, as in transformers: the
    slope ends at R - 1, not at the last pair, R/2 - 1.
    """
    checks.number(factor, "yarn: factor", above=0.0)
    f = frequencies(channels, base)

    def number_of_pair(turns: float) -> float:
        return channels * math.log(context / (turns * 2.0 * math.pi)) / (2.0 * math.log(base))

    low, high = number_of_pair(fast), number_of_pair(slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, channels - 1)
    if low == high:
        high += 0.001  # a step
    slower = np.clip((np.arange(channels // 2) - low) / (high - low), 0.0, 1.0)
    return f / factor * slower + f * (1.0 - slower)


def yarn_magnitude(factor: float, scale: float = 1.0) -> float:
    """Return 0.1 scale ln(factor) + 1, by which yarn's cosines and sines grow; 1 if not longer."""
    return 1.0 if factor <= 1.0 else 0.1 * scale * math.log(factor) + 1.0
