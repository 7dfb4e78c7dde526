"""GGUF files, as llama.cpp writes them: one file with settings, vocabulary and arrays in blocks.

    "GGUF", version; how many arrays, how many settings
    settings: name, type, value                    (a list has a type and a length of its own)
    arrays: name, sizes from the last axis to the first, type, place
    the arrays' bytes

The header is walked here, each length held to what is left of the file. Types that store several
weights in a block (Q4_1: sixteen levels and their scale for 32 weights) are unpacked by the library
`gguf`, some rows at a time. What a header says is given the names of a Hugging Face folder, so that
one description of a network, `decoders.py`, serves both.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minimono import files
from minimono.backend import Array
from minimono.lazy import required
from minimono.nn.models.pretrained import settings

PIECE = 2**20  # weights that are unpacked at once
LONGEST = 2**16  # bytes of a name
LONGEST_TEXT = 2**24
MOST = {"settings": 10_000, "arrays": 100_000, "elements of a list": 10_000_000}
# Types of a setting's value, by number; 8 is text, 9 a list.
SCALARS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q",
    12: "<d",
}
TEXT, LIST = 8, 9

# What their settings are called in config.json; `ARCH` is the architecture's name.
CONFIG = {
    "context_length": "max_position_embeddings", "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers", "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads", "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps", "rope.freq_base": "rope_theta",
    "vocab_size": "vocab_size",
}
SCALING = {
    "rope.scaling.type": "rope_type", "rope.scaling.factor": "factor",
    "rope.scaling.original_context_length": "original_max_position_embeddings",
}
# Read below, or of no effect on a number.
OTHER = {"attention.value_length", "rope.dimension_count", "rope.scaling.finetuned"}
NAMES = {
    "token_embd": "embed_tokens", "output_norm": "norm", "output": "lm_head",
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
ARCHITECTURES = ["llama", "qwen2"]


@dataclass(frozen=True)
class Stored:
    """An array of the file: its type, and where its bytes are."""

    shape: tuple[int, ...]
    type: Any
    begin: int
    bytes: int


class GGUF:
    """An open file: its settings by their names there, its arrays by those of a folder."""

    def __init__(self, file: files.RegularFile, name: str):
        self.library = required("gguf", by="load_pretrained", install="gguf")
        self.file, self.name = file, name
        if self._bytes(4) != b"GGUF":
            raise files.FileError(f"{name} does not begin with GGUF")
        version, arrays, count = self._one("<I"), self._one("<Q"), self._one("<Q")
        if version not in (2, 3):
            raise files.FileError(f"{name} has version {version}, expected 2 or 3")
        self.fields: dict[str, Any] = {}
        for _ in range(self._counted(count, 13, "settings")):
            key = self._text(LONGEST)
            if key in self.fields:
                raise files.FileError(f"{name} has {settings.short(key)} twice")
            self.fields[key] = self._value(self._one("<I"))
        found = [self._array() for _ in range(self._counted(arrays, 24, "arrays"))]
        step = self.fields.get("general.alignment", 32)
        if type(step) is not int or not 1 <= step <= 2**20:
            raise settings.wrong("general.alignment", step, "a whole number of at least 1")
        start = math.ceil(self.file.tell() / step) * step
        self.stored: dict[str, Stored] = {}
        for key, shape, kind, offset in found:
            size = self._size(key, shape, kind)
            if start + offset + size > file.size:
                raise files.FileError(f"{name} ends before its array {settings.short(key)} does")
            if key in self.stored:
                raise files.FileError(f"{name} has {settings.short(key)} twice")
            self.stored[key] = Stored(shape, kind, start + offset, size)
        last = max((a.begin + a.bytes for a in self.stored.values()), default=start)
        if file.size >= last + step:
            raise files.FileError(f"{name} has {file.size - last} bytes behind its last array")
        self.architecture = self.fields.get("general.architecture")
        if self.architecture not in ARCHITECTURES:
            known = f"one of {ARCHITECTURES}"
            raise settings.wrong("general.architecture", self.architecture, known)
        self.config = self._config()
        self.theirs = {self._name(key): key for key in self.stored if key != "rope_freqs.weight"}

    # ---- the header ----

    def _bytes(self, count: int) -> bytes:
        if count > self.file.size - self.file.tell():
            raise files.FileError(f"{self.name} ends in the middle")
        pieces = []
        while count > 0:
            piece = self.file.read(count)
            if not piece:
                raise files.FileError(f"{self.name} ends in the middle")
            pieces.append(piece)
            count -= len(piece)
        return b"".join(pieces)

    def _one(self, form: str) -> Any:
        return struct.unpack(form, self._bytes(struct.calcsize(form)))[0]

    def _counted(self, count: int, least: int, what: str) -> int:
        """Return a count, if so many things of at least so many bytes can be left in the file."""
        if count > MOST[what] or count * least > self.file.size - self.file.tell():
            raise files.FileError(f"{self.name} has {count} {what}, more than it has bytes for")
        return count

    def _text(self, most: int = LONGEST_TEXT) -> str:
        length = self._one("<Q")
        if length > most:
            raise files.FileError(f"{self.name} has a text of {length} bytes")
        return self._bytes(length).decode("utf-8", "replace")

    def _value(self, kind: int, depth: int = 0) -> Any:
        if kind in SCALARS:
            return self._one(SCALARS[kind])
        if kind == TEXT:
            return self._text()
        if kind != LIST or depth > 2:
            raise files.FileError(f"{self.name} has a setting of type {kind}, which is unknown")
        inner, count = self._one("<I"), self._one("<Q")
        if inner in SCALARS:
            form = np.dtype(SCALARS[inner].replace("B", "u1").replace("b", "i1"))
            self._counted(count, form.itemsize, "elements of a list")
            return np.frombuffer(self._bytes(count * form.itemsize), form).tolist()
        self._counted(count, 8, "elements of a list")
        return [self._value(inner, depth + 1) for _ in range(count)]

    def _array(self) -> tuple[str, tuple[int, ...], Any, int]:
        name, axes = self._text(LONGEST), self._one("<I")
        if axes > 8:
            raise files.FileError(f"{self.name}: {settings.short(name)} has {axes} axes")
        shape = tuple(self._one("<Q") for _ in range(axes))[::-1]
        number, offset = self._one("<I"), self._one("<Q")
        try:
            kind = self.library.GGMLQuantizationType(number)
        except ValueError:
            raise files.FileError(
                f"{self.name} has {settings.short(name)} in type {number}, which is unknown"
            ) from None
        return name, shape, kind, offset

    def _size(self, name: str, shape: tuple[int, ...], kind: Any) -> int:
        block, size = self.library.GGML_QUANT_SIZES[kind]
        if not shape or shape[-1] % block:
            raise files.FileError(
                f"{self.name}: {settings.short(name)} has shape {shape}, expected rows of whole "
                f"blocks of {block}"
            )
        return math.prod(shape) // int(block) * int(size)

    # ---- settings ----

    def _config(self) -> dict[str, Any]:
        """Return the settings as those of a folder; one that is not known here is an error."""
        config: dict[str, Any] = {"model_type": self.architecture}
        config["tie_word_embeddings"] = "output.weight" not in self.stored
        scaling: dict[str, Any] = {}
        prefix = f"{self.architecture}."
        for key, value in self.fields.items():
            name = key.removeprefix(prefix)
            if not key.startswith(prefix):
                if not key.startswith(("general.", "tokenizer.", "quantize.", "split.")):
                    raise settings.unknown(key, value)
            elif name in CONFIG:
                config[CONFIG[name]] = value
            elif name in SCALING:
                scaling[SCALING[name]] = value
            elif name == "attention.sliding_window":
                config |= {"sliding_window": value}
                if self.architecture == "llama":
                    config["model_type"] = "mistral"
            elif name not in OTHER:
                raise settings.unknown(key, value)
        if "vocab_size" not in config and "token_embd.weight" in self.stored:
            config["vocab_size"] = self.stored["token_embd.weight"].shape[0]
        if scaling.get("rope_type", "none") != "none":
            config["rope_scaling"] = scaling
        heads, channels = config.get("num_attention_heads"), config.get("hidden_size")
        if "head_dim" not in config and type(heads) is type(channels) is int and heads:
            config["head_dim"] = channels // heads
        for name in ("attention.value_length", "rope.dimension_count"):
            other = self.fields.get(prefix + name)
            if other is not None and config.get("head_dim", other) != other:
                raise settings.wrong(prefix + name, other, f"{config['head_dim']}, as heads have")
        return config

    # ---- arrays ----

    def _name(self, key: str) -> str:
        """Return the name of an array in a folder: blk.0.attn_q.weight is layers.0.self_attn..."""
        stem, _, last = key.rpartition(".")
        at = ""
        if stem.startswith("blk."):
            _, number, stem = (*stem.split(".", 2), "")[:3]
            at = f"layers.{number}."
        return f"{at}{NAMES[stem]}.{last}" if stem in NAMES else key

    def names(self) -> Iterator[str]:
        return iter(self.theirs)

    def where(self, name: str) -> str:
        return self.name

    def shape(self, name: str) -> tuple[int, ...]:
        return self.stored[self.theirs[name]].shape

    def kind(self, name: str) -> str:
        """Return what it is read as: blocks are unpacked into float32."""
        kind: str = self.stored[self.theirs[name]].type.name
        return kind if kind in ("F64", "I8", "I16", "I32", "I64") else "F32"

    def read(self, name: str) -> Array:
        array = self._unpacked(self.stored[self.theirs[name]])
        turned = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
        of = turned.get(name.split(".")[-2])
        if self.architecture == "llama" and of:  # pairs lie together there, half a head apart here
            heads = self.config.get(of, self.config["num_attention_heads"])
            pairs = array.reshape(heads, -1, 2, *array.shape[1:])  # (H D, C) -> (H, D/2, 2, C)
            array = pairs.swapaxes(1, 2).reshape(array.shape)  # (H, 2, D/2, C) -> (H D, C)
        return array

    def _unpacked(self, stored: Stored) -> Array:
        self.file.seek(stored.begin)
        kind = stored.type.name
        if kind in ("F32", "F64"):
            form = "<f4" if kind == "F32" else "<f8"
            return np.frombuffer(bytearray(self._bytes(stored.bytes)), form).reshape(stored.shape)
        block, size = self.library.GGML_QUANT_SIZES[stored.type]
        rows, columns = math.prod(stored.shape[:-1]), stored.shape[-1]
        out = np.empty((rows, columns), np.float32)
        step = max(1, PIECE // columns)
        for first in range(0, rows, step):
            count = min(step, rows - first)
            packed = np.frombuffer(self._bytes(count * columns // block * size), np.uint8)
            packed = packed.reshape(count, -1)
            try:
                out[first : first + count] = self.library.quants.dequantize(packed, stored.type)
            except NotImplementedError:
                raise files.FileError(
                    f"{self.name} has arrays of type {kind}, which the library gguf does not unpack"
                ) from None
        return out.reshape(stored.shape)

    def rope_factors(self) -> Array | None:
        """Return by how much each frequency is divided, if the file says it (Llama 3)."""
        stored = self.stored.get("rope_freqs.weight")
        if stored is None:
            return None
        factors = self._unpacked(stored).astype(np.float64)
        if factors.ndim != 1 or not (np.isfinite(factors).all() and (factors > 0.0).all()):
            raise files.FileError(f"{self.name} has rope_freqs.weight that are no factors")
        return factors


@contextmanager
def gguf_of(path: Path) -> Iterator[GGUF]:
    with files.RegularFile(path, path.name) as file:
        try:
            yield GGUF(file, path.name)
        except ValueError as error:  # the names are those of a folder, but there is none
            said = str(error).replace("config.json", "its header")
            raise files.FileError(said) from error
