"""What the functions of networks take beside tensors of floats: class numbers, ids and masks.

What comes from the host is checked on the host, so that a training step never waits for a GPU.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minimono import checks
from minimono.backend import Array, as_array, beside, to_device
from minimono.engine.tensor import Tensor


def indices(ids: Any, size: int, name: str, device: str) -> Array:
    """Whole numbers from 0 to size - 1, as int64 on `device`. (CuPy would wrap others round.)"""
    index = as_array(ids.array if isinstance(ids, Tensor) else ids)
    if index.dtype.kind not in "iu":
        raise TypeError(f"{name}s have dtype {index.dtype}, expected integers")
    whole = index.astype(np.int64, copy=False)
    if index.size and whole.view(np.uint64).max() >= size:  # without a sign, -1 is huge
        wrong = (index < 0) | (index >= size)
        raise ValueError(f"{name} {int(index[wrong][0])} is outside 0..{size - 1}")
    return to_device(whole, device)


def class_targets(targets: Any, logits: Tensor) -> Array:
    """The numbers of the right classes, one for each row of logits (..., C)."""
    shape = logits.shape
    if not shape:
        raise ValueError("cross_entropy: logits have shape (), expected (..., C)")
    index = indices(targets, shape[-1], "cross_entropy: target", logits.device)
    if index.shape != shape[:-1]:
        raise ValueError(
            f"cross_entropy: targets have shape {tuple(index.shape)}, expected the shape of the "
            f"logits {shape} without the last axis"
        )
    if index.size == 0:
        raise ValueError(f"cross_entropy: no targets (logits have shape {shape})")
    return index


def attention_mask(
    mask: Tensor | Array | None, is_causal: bool, q: Tensor, scores: tuple[int, ...]
) -> Array | None:
    """The mask, with the causal one: booleans that broadcast to the scores (..., T, S), or None.

    True is where a query may look.
    """
    name = "scaled_dot_product_attention"
    if mask is not None:
        mask = _booleans(mask, name)
        sizes = (1,) * (len(scores) - mask.ndim) + mask.shape
        if len(sizes) > len(scores) or any(
            n not in (1, m) for n, m in zip(sizes, scores, strict=True)
        ):
            raise ValueError(
                f"{name}: mask has shape {mask.shape}, which does not broadcast to the scores "
                f"{scores} (..., T, S)"
            )
    if is_causal:
        causal = np.tri(scores[-2], scores[-1], dtype=bool)
        mask = causal if mask is None else mask & beside(causal, mask)
    if mask is None:
        return None
    if isinstance(mask, np.ndarray) and not mask.any(axis=-1).all():
        raise ValueError(f"{name}: mask leaves a query nothing to look at")
    return to_device(mask, q.device)


def packed_mask(mask: Tensor | Array | None, is_causal: bool, qkv: Tensor) -> Array | None:
    """The mask for qkv (B, T, 3, H, D): booleans (B, T), True where all may look; or None."""
    if qkv.ndim != 5 or qkv.shape[2] != 3 or qkv.shape[4] == 0:
        raise ValueError(
            f"self_attention: qkv has shape {qkv.shape}, expected (B, T, 3, H, D), D above 0"
        )
    if mask is None:
        return None
    mask = _booleans(mask, "self_attention")
    if mask.shape != qkv.shape[:2]:
        raise ValueError(
            f"self_attention: mask has shape {mask.shape}, expected (B, T) = {qkv.shape[:2]}"
        )
    first: Array = mask[:, :1] if is_causal else mask  # the positions that all queries share
    if isinstance(mask, np.ndarray) and not first.any(axis=-1).all():
        raise ValueError("self_attention: mask leaves a query nothing to look at")
    return mask


def _booleans(mask: Tensor | Array, name: str) -> Array:
    """The mask's array. Numbers are refused: other libraries add them to the scores, so that a 0
    lets a query look, where False does not."""
    booleans = as_array(mask.array if isinstance(mask, Tensor) else mask)
    if booleans.dtype.kind != "b":
        raise TypeError(
            f"{name}: mask has dtype {booleans.dtype}, expected booleans, True where one may look"
        )
    return booleans


def text_mask(mask: Tensor | Array, name: str, shape: tuple[int, ...]) -> Array:
    """Booleans (B, T), True where there is text, also from the ones and zeros of tokenisers."""
    array = as_array(mask.array if isinstance(mask, Tensor) else mask)
    if array.dtype.kind not in "biu":
        raise TypeError(
            f"{name} has dtype {array.dtype}, expected booleans, or whole numbers 0 and 1: "
            "1 where there is text (a mask of real numbers is added to the scores elsewhere)"
        )
    if array.dtype.kind != "b":
        wrong = (array != 0) & (array != 1)
        if wrong.any():
            at = [int(i) for i in np.unravel_index(int(wrong.argmax()), wrong.shape)]
            raise ValueError(
                f"{name} has {int(array[*at])} at {at}, expected booleans, or 0 and 1 only"
            )
        array = array == 1
    booleans: Array = checks.shaped(array, name, shape, "as ids")
    return booleans
