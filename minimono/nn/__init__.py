"""Networks: modules, layers, taps, models, optimisers, training, checkpoints."""

from minimono import lazy
from minimono.nn import checkpoint, models, optim, taps, training
from minimono.nn.convolution import AvgPool2d, Conv2d, ConvGRUCell, ConvTranspose2d, MaxPool2d
from minimono.nn.data_parallel import backward_in_parts
from minimono.nn.layers import (
    Activation,
    Dropout,
    Embedding,
    FeedForward,
    LayerNorm,
    Linear,
    MultiHeadAttention,
    RMSNorm,
)
from minimono.nn.module import Module, Sequential, Tap
from minimono.nn.training import train

__all__ = [
    "Activation", "AvgPool2d", "Conv2d", "ConvGRUCell", "ConvTranspose2d", "Dropout",
    "Embedding", "FeedForward", "LayerNorm", "Linear", "MaxPool2d", "Module",
    "MultiHeadAttention", "RMSNorm", "Sequential", "Tap", "backward_in_parts",
    "checkpoint", "models", "optim", "taps", "train", "training",
]
__dir__ = lazy.only(__name__, __all__)
