"""What the blocks of today's decoders are made of: grouped attention that turns, gated neurons.

    grouped_query_attention   several heads of queries look with one head of keys and values
    RotaryAttention           causal self-attention so, with rotary positions, and with a window
    GatedFeedForward          a block's neurons, each opened or shut by a gate of its own
    Decoder                   ids to logits, through such blocks

Shapes: `B` batch, `T` time (position), `S` positions that are looked at, `C` channels, `H` heads of
queries, `K` heads of keys and values, `D` channels of a head.
"""

from __future__ import annotations

import math  # noqa: F401  (for the example)
from typing import Any

import numpy as np

from minimono import checks
from minimono.backend import Array, array_module, to_device
from minimono.checks import Rng
from minimono.engine import functional as F
from minimono.engine.arguments import text_mask
from minimono.engine.primitives import broadcast_to, stack
from minimono.engine.tensor import Tensor, tensor  # noqa: F401  (for the example)
from minimono.nn.layers import Activation, ActivationName, Embedding, Linear
from minimono.nn.module import Module, Tap
from minimono.nn.rotary import Rotary


def grouped_query_attention(
    q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | Array | None = None, is_causal: bool = False
) -> Tensor:
    """Attention of H heads of queries to K heads of keys and values, H/K of them to each.

        softmax(q_h k_g^T / sqrt D) v_g    for each head h, with its group g = floor(h K / H)

    `q` (B, T, H, D), `k` and `v` (B, S, K, D). `mask` booleans that broadcast to (B, H, T, S), True
    where a query may look; `is_causal` lets position t look at 0..t only. Returns (B, T, H, D).
    Raises what `scaled_dot_product_attention` raises, and ValueError if the heads do not divide.
    Ainslie et al. 2023, arXiv 2305.13245; PyTorch's `enable_gqa`.

    >>> q = tensor([[[[1.0], [2.0]]]])                            # two heads look with one key head
    >>> k, v = tensor([[[[0.0]], [[math.log(3.0)]]]]), tensor([[[[0.0]], [[4.0]]]])
    >>> grouped_query_attention(q, k, v).data.ravel()             # weights 1/4, 3/4; 1/10, 9/10
    array([3. , 3.6])
    """
    name = "grouped_query_attention"
    checks.layout(q, f"{name}: q", "(B, T, H, D)", q.ndim == 4)
    B, T, H, D = q.shape
    good = k.ndim == 4 and k.shape[0] == B and k.shape[3] == D
    checks.layout(k, f"{name}: k", f"({B}, S, K, {D}), as q", good)
    checks.shaped(v, f"{name}: v", k.shape, "as k")
    S, K = k.shape[1:3]
    checks.multiple(H, f"{name}: heads of q", K, "the heads of k and v")

    def for_each_query(x: Tensor) -> Tensor:  # (B, S, K, D) -> (B, S, K, H/K, D) -> (B, S, H, D)
        return broadcast_to(x[:, :, :, None], (B, S, K, H // K, D)).reshape(B, S, H, D)

    if K < H:
        k, v = for_each_query(k), for_each_query(v)
    if mask is None and S == T:
        return F.self_attention(stack([q, k, v], axis=2), is_causal=is_causal)
    q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))  # (B, T, H, D) -> (B, H, T, D)
    mixed = F.scaled_dot_product_attention(q, k, v, mask=mask, is_causal=is_causal)
    return mixed.swapaxes(1, 2)  # (B, H, T, D) -> (B, T, H, D)


class RotaryAttention(Module):
    """Causal self-attention with rotary positions: queries and keys turn, values do not.

    H heads of queries share K = `key_heads` heads of keys and values (H is a multiple of K), each
    of D = `head_channels`. A position looks at itself and back, `window` positions at most in all.
    """

    def __init__(
        self, channels: int, heads: int, key_heads: int, head_channels: int, *, rng: Rng,
        window: int | None = None, bias: bool = False, out_bias: bool = False,
        dtype: Any = np.float32,
    ):
        checks.sizes(
            "RotaryAttention", channels=channels, heads=heads, key_heads=key_heads,
            head_channels=head_channels,
        )
        checks.multiple(heads, "RotaryAttention: heads", key_heads, "key_heads")
        if window is not None:
            checks.sizes("RotaryAttention", window=window)
        rng = checks.generator(rng, "RotaryAttention: rng")
        self.heads, self.key_heads, self.head_channels = heads, key_heads, head_channels
        self.window = window
        H, K, D = heads, key_heads, head_channels
        self.q = Linear(channels, H * D, bias=bias, rng=rng, dtype=dtype)
        self.k = Linear(channels, K * D, bias=bias, rng=rng, dtype=dtype)
        self.v = Linear(channels, K * D, bias=bias, rng=rng, dtype=dtype)
        self.out = Linear(H * D, channels, bias=out_bias, rng=rng, dtype=dtype)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Array | None = None
    ) -> Tensor:
        B, T, _ = x.shape
        H, K, D = self.heads, self.key_heads, self.head_channels
        q = self.q(x).reshape(B, T, H, D)  # (B, T, H D) -> (B, T, H, D)
        k = self.k(x).reshape(B, T, K, D)
        v = self.v(x).reshape(B, T, K, D)
        q, k = F.rotary_embedding(q, cos, sin), F.rotary_embedding(k, cos, sin)
        where_to = looking_back(T, self.window, mask)
        if where_to is not None:
            where_to = to_device(where_to, x.device)
        mixed = grouped_query_attention(q, k, v, mask=where_to, is_causal=where_to is None)
        return self.out(mixed.reshape(B, T, H * D))  # (B, T, H, D) -> (B, T, H D)


def looking_back(T: int, window: int | None, mask: Array | None = None) -> Array | None:
    """Return where each position may look, (B or 1, 1, T, T); None: at itself and all before it.

    `mask` (B, T) is True where there is text. Padding behind the text needs no mask, as nothing
    looks forward. Where it stands before the text, nothing looks at it but itself, so that its own
    numbers, which mean nothing, are numbers at all.

    >>> looking_back(3, 2)[0, 0].astype(int)
    array([[1, 0, 0],
           [1, 1, 0],
           [0, 1, 1]])
    >>> looking_back(3, None, np.array([[False, True, True]]))[0, 0].astype(int)
    array([[1, 0, 0],
           [0, 1, 0],
           [0, 1, 1]])
    """
    if isinstance(mask, np.ndarray) and not (mask[:, 1:] & ~mask[:, :-1]).any():
        mask = None
    if mask is None and (window is None or window >= T):
        return None
    back = np.tri(T, dtype=bool)
    if window is not None:
        back &= ~np.tri(T, k=-window, dtype=bool)
    if mask is None:
        return back[None, None]
    xp = array_module(mask)
    text = mask[:, None, None, :] | xp.eye(T, dtype=bool)
    where_to: Array = xp.asarray(back) & text
    return where_to


class GatedFeedForward(Module):
    """A block's neurons, up(x) times an activation of gate(x), and back down to the channels.

    With silu this is SwiGLU. The neurons, the products, are read at the tap `act`.
    """

    def __init__(
        self, channels: int, hidden: int, *, rng: Rng, activation: ActivationName = "silu",
        bias: bool = False, dtype: Any = np.float32,
    ):
        checks.sizes("GatedFeedForward", channels=channels, hidden=hidden)
        rng = checks.generator(rng, "GatedFeedForward: rng")
        self.gate = Linear(channels, hidden, bias=bias, rng=rng, dtype=dtype)
        self.up = Linear(channels, hidden, bias=bias, rng=rng, dtype=dtype)
        self.activation = Activation(activation)
        self.act = Tap()
        self.down = Linear(hidden, channels, bias=bias, rng=rng, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate(x), self.up(x)
        if self.activation.name == "silu":
            return self.down(self.act(F.swiglu(gate, up)))
        return self.down(self.act(self.activation(gate) * up))


class Decoder(Module):
    """Token ids (B, T) to logits (B, T, vocabulary), through blocks that know positions by turning.

    What `Llama` and `GPTNeoX` have in common; they say what the parts are.
    """

    context: int
    rotary: Rotary
    token: Embedding
    embedded: Tap
    block: list[Module]
    norm: Module
    normed: Tap
    head: Linear | None  # None: the weights of the embedding

    def forward(self, ids: Tensor | Array, mask: Tensor | Array | None = None) -> Tensor:
        name = type(self).__name__
        ids = checks.token_ids(ids, f"{name}: ids", self.context)
        mask = None if mask is None else text_mask(mask, f"{name}: mask", ids.shape)
        x = self.embedded(self.token(ids))  # (B, T, C)
        cos, sin = self.rotary.of_positions(ids.shape[1], x.dtype, x.device)
        for block in self.block:
            x = block(x, cos, sin, mask)
        x = self.normed(self.norm(x))
        return F.linear(x, self.token.weight) if self.head is None else self.head(x)


def initialise(model: Module, rng: np.random.Generator) -> None:
    """Weights normal, of standard deviation 0.02; biases 0; norms as they are. One at a time."""
    for name, p in model.named_parameters():
        if p.ndim == 2:
            p.data = (0.02 * rng.standard_normal(p.shape)).astype(p.dtype)
        elif name.endswith("bias"):
            p.data = np.zeros_like(p.array)
