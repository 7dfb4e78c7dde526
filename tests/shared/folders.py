"""Folders of weights written by hand, byte by byte, and what is needed to say what they compute."""

import json
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minimono as mm
from minimono.nn.models import load_pretrained

Arrays = dict[str, np.ndarray]


def drawn(shapes: dict[str, tuple[int, ...]]) -> Arrays:
    rng = np.random.default_rng(1)
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()}


TYPES = {"float64": "F64", "float32": "F32", "float16": "F16", "int8": "I8", "int64": "I64"}


def write(
    folder: Path, config: Any, arrays: Arrays, *, dtype: str = "float64", header: Any = None
) -> Path:
    """A folder in the library's layout, byte by byte (uint16 stands for bfloat16)."""
    entries, data = {}, b""
    for name, array in arrays.items():
        array = array if array.dtype.kind in "iu" else array.astype(dtype)
        kind = TYPES.get(array.dtype.name, "BF16")
        begin, data = len(data), data + array.tobytes()
        entries[name] = {
            "dtype": kind, "shape": list(array.shape), "data_offsets": [begin, len(data)],
        }
    text = json.dumps(entries if header is None else header(entries)).encode()
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def norm(a: Arrays, name: str, x: np.ndarray, eps: float) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps)
    return scaled * a[f"{name}.weight"] + a[f"{name}.bias"]


def gelu_tanh(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "gelu_new": gelu_tanh, "gelu_pytorch_tanh": gelu_tanh, "gelu_python_tanh": gelu_tanh,
    "gelu_accurate": gelu_tanh,
    "gelu": np.vectorize(lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2)))),
    "gelu_python": np.vectorize(lambda x: 0.5 * x * math.erfc(-x / math.sqrt(2))),
    "relu": lambda x: np.where(x > 0, x, 0), "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "silu": lambda x: x / (1 + np.exp(-x)), "swish": lambda x: x / (1 + np.exp(-x)),
}


def close(ours: mm.Tensor, truth: np.ndarray, *, rtol: float = 1e-12) -> None:
    np.testing.assert_allclose(ours.data, truth, rtol=rtol, atol=rtol * abs(truth).max())


def refused(folder: Path, message: str, **options: Any) -> None:
    """The one kind of error: it names the folder, what came and what was expected."""
    with pytest.raises(ValueError, match=rf"load_pretrained: .*{folder.name}: .*{message}"):
        load_pretrained(folder, **options)
