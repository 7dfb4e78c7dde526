"""Layers: each makes its parameters, and calls one function of `functional` with them.

Shapes: `B` batch, `T` time (position), `C` channels, `H` heads, `D` channels of a head.
Random numbers, at initialisation and in dropout, come from the `rng` that is passed in: a NumPy
generator, or a whole number that seeds a new one. Two layers with one seed start alike; give a
network's layers one generator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from minimono import checks
from minimono.backend import Array, to_host
from minimono.checks import Rng
from minimono.engine import functional as F  # as PyTorch users know it
from minimono.engine.tensor import Tensor, tensor
from minimono.nn.at_once import all_or_nothing
from minimono.nn.data_parallel import PartOfDropout
from minimono.nn.module import Module, Tap
from minimono.nn.randomness import Stream, pack_rng, unpack_rng

ActivationName = Literal["relu", "gelu", "gelu_tanh", "silu", "tanh", "sigmoid"]


def parameter(values: Array, dtype: Any = np.float32) -> Tensor:
    """Return a tensor that training changes."""
    return tensor(values, dtype=dtype, requires_grad=True)


class Linear(Module):
    """x W^T + b; weights and bias start uniform in +-1/sqrt(in_features), as in PyTorch."""

    def __init__(
        self, in_features: int, out_features: int, *, rng: Rng, bias: bool = True,
        dtype: Any = np.float32,
    ):
        checks.sizes("Linear", in_features=in_features, out_features=out_features)
        rng, bound = checks.generator(rng, "Linear: rng"), in_features**-0.5
        self.weight = parameter(rng.uniform(-bound, bound, (out_features, in_features)), dtype)
        self.bias = parameter(rng.uniform(-bound, bound, out_features), dtype) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class Embedding(Module):
    """A vector for each of `num_embeddings` ids; starts standard normal, as in PyTorch."""

    def __init__(
        self, num_embeddings: int, embedding_dim: int, *, rng: Rng, dtype: Any = np.float32
    ):
        checks.sizes("Embedding", num_embeddings=num_embeddings, embedding_dim=embedding_dim)
        rng = checks.generator(rng, "Embedding: rng")
        self.weight = parameter(rng.standard_normal((num_embeddings, embedding_dim)), dtype)

    def forward(self, ids: Tensor | Array) -> Tensor:
        return F.embedding(ids, self.weight)


class LayerNorm(Module):
    """Mean 0 and variance 1 over each position's channels, then a learned scale and shift."""

    def __init__(self, channels: int, *, eps: float = 1e-5, dtype: Any = np.float32):
        checks.sizes("LayerNorm", channels=channels)
        self.weight = parameter(np.ones(channels), dtype)
        self.bias = parameter(np.zeros(channels), dtype)
        self.eps = checks.number(eps, "LayerNorm: eps", least=0.0)

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight, self.bias, eps=self.eps)


class RMSNorm(Module):
    """Root mean square 1 over each position's channels, then a learned scale."""

    def __init__(self, channels: int, *, eps: float = 1e-5, dtype: Any = np.float32):
        checks.sizes("RMSNorm", channels=channels)
        self.weight = parameter(np.ones(channels), dtype)
        self.eps = checks.number(eps, "RMSNorm: eps", least=0.0)

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight, eps=self.eps)


class Activation(Module):
    """A function without parameters as a layer: `Activation("relu")`, "gelu", "silu", "tanh"..."""

    def __init__(self, name: ActivationName):
        self.name = checks.one_of(name, "Activation: name", _ACTIVATIONS)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = _ACTIVATIONS[self.name](x)
        return result

    def after(self, linear: Module, x: Tensor) -> Tensor:
        """Return self(linear(x)), as one operation where there is one: for ReLU and our Linear."""
        if self.name == "relu" and type(linear) is Linear:
            return F.linear_relu(x, linear.weight, linear.bias)
        return self(linear(x))


_ACTIVATIONS: dict[str, Any] = {
    "relu": F.relu, "gelu": F.gelu, "gelu_tanh": lambda x: F.gelu(x, "tanh"),
    "silu": F.silu, "tanh": F.tanh, "sigmoid": F.sigmoid,
}


class Dropout(Module):
    """In training, each element becomes 0 with probability `p`, else x / (1 - p); else x itself.

    So the mean of each element stays x, and nothing has to be scaled in `eval()`. The generator is
    part of the model's state, so that a resumed run drops the same elements.
    """

    def __init__(self, p: float, *, rng: Rng):
        self.p = checks.drop_probability(p, "Dropout: p")
        self.rng = checks.generator(rng, "Dropout: rng")

    def forward(self, x: Tensor) -> Tensor:
        return self._dropped(x) if self.training and self.p > 0.0 else x

    @all_or_nothing  # if it fails, the generator is as before
    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.p, rng=self.rng)

    def divide(self, parts: Sequence[slice]) -> list[Module] | None:
        if not self.training or self.p == 0.0:
            return None
        seed = self.rng.integers(2**63, size=2).tolist()
        return [PartOfDropout(self.p, Stream(seed, part)) for part in parts]

    def extra_state(self) -> dict[str, Array]:
        return {"rng": pack_rng(self.rng)} if self.p > 0.0 else {}

    def load_extra_state(self, state: Mapping[str, Array]) -> None:
        if state:
            unpack_rng(to_host(state["rng"]), into=self.rng)

    def remember(self) -> Callable[[], None]:
        generator = self.rng.bit_generator
        state = generator.state  # a new dict each time
        return lambda: setattr(generator, "state", state)


class MultiHeadAttention(Module):
    """Self-attention: each position gets a mean of what the others offer, weighted by how it fits.

    A position has a query, a key and a value: `qkv` makes all three in one product. Its weight for
    another grows with the product of its query and the other's key, and it takes the mean of their
    values. Each of H heads does so in its own D = C / H channels; `out` mixes the heads. `causal`
    lets a position look at itself and back only. `mask` (B, T), True for real positions, hides
    padding.
    """

    def __init__(
        self, channels: int, heads: int, *, rng: Rng, causal: bool = False, dropout: float = 0.0,
        dtype: Any = np.float32,
    ):
        checks.sizes("MultiHeadAttention", channels=channels, heads=heads)
        rng = checks.generator(rng, "MultiHeadAttention: rng")
        checks.multiple(channels, "MultiHeadAttention: channels", heads, "the number of heads")
        self.heads, self.causal = heads, causal
        self.qkv = Linear(channels, 3 * channels, rng=rng, dtype=dtype)
        self.out = Linear(channels, channels, rng=rng, dtype=dtype)
        self.dropout = Dropout(dropout, rng=rng)

    def forward(self, x: Tensor, mask: Tensor | Array | None = None) -> Tensor:
        B, T, C = x.shape
        H, D = self.heads, C // self.heads
        qkv = self.qkv(x).reshape(B, T, 3, H, D)  # (B, T, 3 C) -> (B, T, 3, H, D)
        mixed = F.self_attention(qkv, mask=mask, is_causal=self.causal)
        mixed = mixed.reshape(B, T, C)  # (B, T, H, D) -> (B, T, C)
        return self.dropout(self.out(mixed))


class FeedForward(Module):
    """A transformer block's two-layer network: up to `hidden` channels, an activation, back down.

    It treats each position by itself. Its neurons, the hidden channels after the activation, are
    read at the tap `act`.
    """

    def __init__(
        self, channels: int, hidden: int, *, rng: Rng, activation: ActivationName,
        dropout: float = 0.0, dtype: Any = np.float32,
    ):
        checks.sizes("FeedForward", channels=channels, hidden=hidden)
        rng = checks.generator(rng, "FeedForward: rng")
        self.up = Linear(channels, hidden, rng=rng, dtype=dtype)
        self.activation = Activation(activation)
        self.act = Tap()
        self.down = Linear(hidden, channels, rng=rng, dtype=dtype)
        self.dropout = Dropout(dropout, rng=rng)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.down(self.act(self.activation.after(self.up, x))))
