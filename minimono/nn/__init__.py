"""Networks: modules, layers, taps, models, optimisers, training, checkpoints."""

from minimono.nn import taps
from minimono.nn.layers import (
    Activation, Dropout, Embedding, FeedForward, LayerNorm, Linear, MultiHeadAttention, RMSNorm,
)  # fmt: skip
from minimono.nn.module import Module, Sequential, Tap

__all__ = [
    "Activation", "Dropout", "Embedding", "FeedForward", "LayerNorm", "Linear", "Module",
    "MultiHeadAttention", "RMSNorm", "Sequential", "Tap", "taps",
]  # fmt: skip
