"""Whole networks. None of them knows what is done at its taps."""

from minimono import lazy
from minimono.nn.models.bert import BERT
from minimono.nn.models.convgru import ConvGRU
from minimono.nn.models.convnet import ConvNet
from minimono.nn.models.gpt import GPT
from minimono.nn.models.llama import Llama
from minimono.nn.models.mlp import MLP
from minimono.nn.models.neox import GPTNeoX
from minimono.nn.models.plain_vit import PlainViT
from minimono.nn.models.pretrained import load_pretrained
from minimono.nn.models.vit import ViT

__all__ = [
    "BERT", "GPT", "MLP", "ConvGRU", "ConvNet", "GPTNeoX", "Llama", "PlainViT", "ViT",
    "load_pretrained",
]
__dir__ = lazy.only(__name__, __all__)
