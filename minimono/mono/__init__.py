"""The subject: how monosemantic a neuron is, and what to do about it.

`moments`, `scale` and `selection` take and return plain arrays. `inhibition` works on tensors.
"""

from minimono.mono.inhibition import Inhibition, MEmeL, deactivate
from minimono.mono.moments import Moments
from minimono.mono.scale import ScaleTracker, monosemantic_scale
from minimono.mono.selection import select_above, select_top_fraction, select_top_k

__all__ = [
    "Inhibition", "MEmeL", "Moments", "ScaleTracker", "deactivate", "monosemantic_scale",
    "select_above", "select_top_fraction", "select_top_k",
]  # fmt: skip
