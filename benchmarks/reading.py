"""A loop that only reads: how fast memory comes in, the limit of any pass over an array."""

from __future__ import annotations

from typing import Any

from minimono.backend import Array
from minimono.kernels.cpu.compiling import compiled


def _read(words: Array) -> Any:
    mixed = 0
    for i in range(words.shape[0]):
        for j in range(words.shape[1]):
            mixed ^= words[i, j]  # integers, so that the compiler may reorder and vectorise
    return mixed


read = compiled(_read)
