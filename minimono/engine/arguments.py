"""What the functions of networks take beside tensors of floats: class numbers, ids and masks.

What comes from the host is checked on the host, so that a training step never waits for a GPU.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minimono.backend import Array, as_array, beside, to_device
from minimono.engine.tensor import Tensor


def indices(ids: Any, size: int, name: str, device: str) -> Array:
    """Whole numbers from 0 to size - 1, as int64 on `device`. (CuPy would wrap others round.)"""
    index = as_array(ids.array if isinstance(ids, Tensor) else ids)
    if index.dtype.kind not in "iu":
        raise TypeError(f"{name}s have dtype {index.dtype}, expected integers")
    if index.size and (index.min() < 0 or index.max() >= size):
        wrong = (index < 0) | (index >= size)
        raise ValueError(f"{name} {int(index[wrong][0])} is outside 0..{size - 1}")
    return to_device(index, device).astype(np.int64, copy=False)


def class_targets(targets: Any, logits: Tensor) -> Array:
    """The numbers of the right classes, one for each row of logits (..., C)."""
    if logits.ndim == 0:
        raise ValueError("cross_entropy: logits have shape (), expected (..., C)")
    index = indices(targets, logits.shape[-1], "cross_entropy: target", logits.device)
    if index.shape != logits.shape[:-1]:
        raise ValueError(
            f"cross_entropy: targets have shape {tuple(index.shape)}, expected the shape of the "
            f"logits {logits.shape} without the last axis"
        )
    if index.size == 0:
        raise ValueError(f"cross_entropy: no targets (logits have shape {logits.shape})")
    return index


def attention_mask(
    mask: Tensor | Array | None, is_causal: bool, q: Tensor, scores: tuple[int, ...]
) -> Array | None:
    """Where each query may look: booleans that broadcast to the scores (..., T, S), or None."""
    name = "scaled_dot_product_attention"
    allowed = None if mask is None else _booleans(mask, name)
    if allowed is not None:
        sizes = (1,) * (len(scores) - allowed.ndim) + allowed.shape
        if len(sizes) > len(scores) or any(
            n not in (1, m) for n, m in zip(sizes, scores, strict=True)
        ):
            raise ValueError(
                f"{name}: mask has shape {allowed.shape}, which does not broadcast to the scores "
                f"{scores} (..., T, S)"
            )
    if is_causal:
        causal = np.tri(scores[-2], scores[-1], dtype=bool)
        allowed = causal if allowed is None else allowed & beside(causal, allowed)
    if allowed is None:
        return None
    if isinstance(allowed, np.ndarray) and not allowed.any(axis=-1).all():
        raise ValueError(f"{name}: mask leaves a query nothing to look at")
    return to_device(allowed, q.device)


def packed_mask(mask: Tensor | Array | None, is_causal: bool, qkv: Tensor) -> Array | None:
    """Which positions may be looked at, booleans (B, T), for qkv (B, T, 3, H, D); or None."""
    if qkv.ndim != 5 or qkv.shape[2] != 3 or qkv.shape[4] == 0:
        raise ValueError(
            f"self_attention: qkv has shape {qkv.shape}, expected (B, T, 3, H, D), D above 0"
        )
    if mask is None:
        return None
    allowed = _booleans(mask, "self_attention")
    if allowed.shape != qkv.shape[:2]:
        raise ValueError(
            f"self_attention: mask has shape {allowed.shape}, expected (B, T) = {qkv.shape[:2]}"
        )
    seen = allowed[:, :1] if is_causal else allowed
    if isinstance(allowed, np.ndarray) and not seen.any(axis=-1).all():
        raise ValueError("self_attention: mask leaves a query nothing to look at")
    return allowed


def _booleans(mask: Tensor | Array, name: str) -> Array:
    """A mask. Numbers are refused: other libraries add them to the scores, and 0 keeps there."""
    allowed = as_array(mask.array if isinstance(mask, Tensor) else mask)
    if allowed.dtype.kind != "b":
        raise TypeError(
            f"{name}: mask has dtype {allowed.dtype}, expected booleans, True where one may look"
        )
    return allowed
