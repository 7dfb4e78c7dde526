"""Rotary positions: pairs of channels turn by an angle that grows with the position.

Shapes: `T` time (position), `H` heads, `D` channels of a head, `R` of them that turn.
"""

from __future__ import annotations

from minimono import checks
from minimono.engine.dtypes import real
from minimono.engine.primitives import concatenate, stack
from minimono.engine.tensor import Tensor, tensor  # noqa: F401  (for the example)


@real(numbers=3)
def rotary_embedding(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False) -> Tensor:
    """Turn pairs of channels (a, b) by the angle of their position: RoPE.

        (a cos - b sin, b cos + a sin)

    `x` (..., T, H, D); `cos` and `sin` of the angles, (T, R/2) for all texts or (..., T, R/2) for
    each. The first R channels of a head turn, in pairs i and i + R/2, or, interleaved, in pairs
    2 i and 2 i + 1; the rest pass unchanged. If queries and keys are turned by angles that grow
    evenly with the position, their products depend on the distance only: turning by m + d and by m
    is turning by d. Llama, Qwen2, Mistral and GPT-NeoX folders have the first kind of pairs, GPT-J
    and Llama's own files the interleaved kind.

    Raises ValueError if the shapes do not fit. Su et al. 2021, arXiv 2104.09864, eq. 34; names as
    in ONNX's RotaryEmbedding.

    >>> x = tensor([[[1.0, 2.0, 3.0]]])                           # a position, a head of 3 channels
    >>> rotary_embedding(x, tensor([[0.0]]), tensor([[1.0]]))     # a quarter turn of the first two
    tensor([[[-2.,  1.,  3.]]])
    """
    name = "rotary_embedding"
    checks.layout(x, f"{name}: x", "(..., T, H, D)", x.ndim >= 3)
    T, D = x.shape[-3], x.shape[-1]
    half = cos.shape[-1] if cos.ndim else 0
    checks.layout(
        cos, f"{name}: cos", f"({T}, R/2) or {x.shape[:-2]} and R/2, with R up to {D}",
        cos.shape in ((T, half), (*x.shape[:-2], half)) and 2 * half <= D,
    )
    checks.shaped(sin, f"{name}: sin", cos.shape, "as cos")
    cos, sin = cos[..., None, :], sin[..., None, :]  # (T, R/2) -> (T, 1, R/2), one for all heads
    turning, rest = x[..., : 2 * half], x[..., 2 * half :]
    if interleaved:
        a, b = turning[..., 0::2], turning[..., 1::2]
    else:
        a, b = turning[..., :half], turning[..., half:]
    a, b = a * cos - b * sin, b * cos + a * sin
    if interleaved:
        turned = stack([a, b], axis=-1).reshape(turning.shape)  # (..., R/2, 2) -> (..., R)
        return concatenate(turned, rest, axis=-1)
    return concatenate(a, b, rest, axis=-1)
