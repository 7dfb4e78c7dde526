"""Whole networks. None of them knows what is done at its taps."""

from minimono.nn.models.bert import BERT
from minimono.nn.models.gpt import GPT
from minimono.nn.models.mlp import MLP

__all__ = ["BERT", "GPT", "MLP"]
