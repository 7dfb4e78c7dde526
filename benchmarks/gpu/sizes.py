"""How large is what is measured: on a device, and in the trial without one."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.tasks import Transformer


@dataclass(frozen=True)
class Sizes:
    turn: float  # seconds of a turn
    values: int  # float32 numbers of a copy
    product: int  # rows and columns of square matrices
    batch: tuple[int, int]  # samples, neurons of a scored batch
    gpt: Transformer
    steps: int  # of training, timed
    tokens: int  # rows of what one operation works on
    channels: int
    heads: int
    image: tuple[int, int, int, int]
    lengths: tuple[int, ...]  # of sequences in attention
    compared: int  # rows of what is computed on both devices


# A gigabyte and more where memory's speed is measured: several times what a cache holds.
DEVICE = Sizes(
    turn=0.04, values=2**29, product=8192, batch=(262_144, 1536),
    gpt=Transformer(
        "GPT 124M", layers=12, channels=768, heads=12, context=1024, batch=8, vocabulary=50_257
    ),
    steps=10, tokens=32_768, channels=768, heads=12, image=(64, 64, 56, 56),
    lengths=(256, 1024, 4096, 16_384), compared=96,
)

TINY = Sizes(
    turn=0.0, values=2**12, product=16, batch=(40, 33),
    gpt=Transformer("tiny GPT", layers=1, channels=8, heads=2, context=6, batch=2, vocabulary=11),
    steps=2, tokens=12, channels=8, heads=2, image=(2, 3, 5, 5), lengths=(4, 12), compared=3,
)
