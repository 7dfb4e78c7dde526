"""Running moments as NumPy arrays by name, for a checkpoint, and back: to the last bit."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from minimono import checks
from minimono.backend import Array, to_host
from minimono.mono.moments import Moments


def packed(batches_seen: int, moments: Moments | None) -> dict[str, Array]:
    """The state of a tracker as arrays that nobody else holds, if its moments are sound."""
    if moments is None:
        arrays = {"mean": np.empty(0), "m2": np.empty(0)}
    else:
        moments.check()
        arrays = {"mean": to_host(moments.mean).copy(), "m2": to_host(moments.m2).copy()}
    count = 0 if moments is None else moments.count
    return {"batches_seen": _digits(batches_seen), "count": _digits(count)} | arrays


def unpacked(state: Mapping[str, Array], name: str) -> tuple[int, Moments | None]:
    """The batches seen and their moments, from a state that was packed."""
    batches_seen = _number(state["batches_seen"], f"{name}: batches_seen")
    count = _number(state["count"], f"{name}: count")
    mean, m2 = to_host(state["mean"]), to_host(state["m2"])
    if mean.dtype != np.float64 or m2.dtype != np.float64:
        raise TypeError(
            f"{name}: mean has dtype {mean.dtype} and m2 {m2.dtype}, expected float64; a state "
            "stored with fewer digits does not go on where it stopped"
        )
    if batches_seen == 0 and (count or mean.size or m2.size):
        raise ValueError(f"{name}: batches_seen is 0, expected an empty state")
    if batches_seen > 0 and count < 2:
        raise ValueError(f"{name}: count is {count} after a batch, expected 2 or more")
    return batches_seen, Moments(count, mean, m2) if batches_seen else None


def _digits(count: int) -> Array:
    """A count as an array: an int64, or from 2^63 on its bytes, the lowest first."""
    if count < 2**63:
        return np.array(count, dtype=np.int64)
    return np.frombuffer(count.to_bytes(count.bit_length() // 8 + 1, "little"), np.uint8)


def _number(digits: Array, name: str) -> int:
    """The count that was made an array."""
    digits = to_host(digits)
    if digits.dtype == np.uint8 and digits.ndim == 1 and digits.size:
        return int.from_bytes(digits.tobytes(), "little")
    return checks.whole_number(digits, name, least=0)
