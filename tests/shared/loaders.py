"""Everything that reads a file of somebody else's: what a good one is, and what reads it.

`tests/test_files.py` puts something else in each file's place, `tests/fuzz/` changes what is in it.
"""

import gzip
import json
import signal
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

import minimono as mm
from minimono import oracle
from minimono.files import FileError
from minimono.nn import Dropout, Linear, Module, Sequential, taps
from minimono.oracle import vectors

# ---- good files --------------------------------------------------------------------------------


def network(seed: int = 0) -> tuple[Module, Any, np.random.Generator]:
    """A network that has all kinds of state, its optimiser, the generator of its batches."""
    rng = np.random.default_rng(seed)
    model = Sequential(
        Linear(3, 4, rng=rng, dtype=np.float64), Dropout(0.5, rng=rng), mm.nn.Tap(),
        Linear(4, 2, rng=rng, dtype=np.float64),
    )
    taps.insert(model, "2", mm.mono.MEmeL())
    model(mm.tensor(rng.standard_normal((5, 3)))).sum().backward()
    optimiser = mm.optim.Adam(model.parameters(), lr=0.5 / (1 + seed))
    optimiser.step()
    return model, optimiser, np.random.Generator(np.random.MT19937(seed))


def checkpoint(folder: Path) -> None:
    model, optimiser, rng = network()
    mm.checkpoint.save(
        folder / "run.npz", model, optimiser=optimiser, rng=rng, config={"width": 4}, step=3
    )


GPT2 = {
    "model_type": "gpt2", "vocab_size": 7, "n_positions": 4, "n_embd": 2, "n_head": 1, "n_layer": 1,
    "architectures": ["GPT2LMHeadModel"], "n_inner": None, "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5, "resid_pdrop": 0.1, "transformers_version": "4.50.0",
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
}
GPT2_ARRAYS = {
    "wte.weight": (7, 2), "wpe.weight": (4, 2), "h.0.attn.c_attn.weight": (2, 6),
    "h.0.attn.c_attn.bias": (6,), "h.0.attn.c_proj.weight": (2, 2), "h.0.attn.c_proj.bias": (2,),
    "h.0.mlp.c_fc.weight": (2, 8), "h.0.mlp.c_fc.bias": (8,), "h.0.mlp.c_proj.weight": (8, 2),
    "h.0.mlp.c_proj.bias": (2,), "h.0.ln_1.weight": (2,), "h.0.ln_1.bias": (2,),
    "h.0.ln_2.weight": (2,), "h.0.ln_2.bias": (2,), "ln_f.weight": (2,), "ln_f.bias": (2,),
}


def pretrained(folder: Path) -> None:
    rng, entries, data = np.random.default_rng(1), {}, b""
    for name, shape in GPT2_ARRAYS.items():
        begin, data = len(data), data + rng.standard_normal(shape, np.float32).tobytes()
        entries[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, len(data)]}
    header = json.dumps(entries).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + data)
    (folder / "config.json").write_text(json.dumps(GPT2))


def in_several_files(folder: Path) -> None:
    """Half of the arrays each, and their index."""
    pretrained(folder)
    whole = (folder / "model.safetensors").read_bytes()
    size = struct.unpack("<Q", whole[:8])[0]
    entries, places = json.loads(whole[8 : 8 + size]), {}
    for i in range(2):
        mine, data = {}, b""
        for name in [*entries][i::2]:
            begin, end = entries[name]["data_offsets"]
            at, data = len(data), data + whole[8 + size + begin : 8 + size + end]
            mine[name] = entries[name] | {"data_offsets": [at, len(data)]}
        header, file = json.dumps(mine).encode(), f"model-{i}.safetensors"
        (folder / file).write_bytes(struct.pack("<Q", len(header)) + header + data)
        places |= dict.fromkeys(mine, file)
    (folder / "model.safetensors").unlink()
    index = {"metadata": {"total_size": len(whole)}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def gguf(folder: Path) -> None:
    """A Llama of one block of one head, all in float32."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    fields = {
        "context_length": 4, "embedding_length": 2, "block_count": 1, "feed_forward_length": 3,
        "attention.head_count": 1, "attention.head_count_kv": 1, "vocab_size": 7,
    }
    shapes = {
        "token_embd": (7, 2), "output_norm": (2,), "blk.0.attn_norm": (2,), "blk.0.ffn_norm": (2,),
        **{f"blk.0.attn_{name}": (2, 2) for name in ("q", "k", "v", "output")},
        "blk.0.ffn_gate": (3, 2), "blk.0.ffn_up": (3, 2), "blk.0.ffn_down": (2, 3),
    }
    rng, data = np.random.default_rng(1), b""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(shapes), 3 + len(fields))
    head += text("general.architecture") + struct.pack("<I", 8) + text("llama")
    head += text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("b")
    head += text("llama.attention.layer_norm_rms_epsilon") + struct.pack("<If", 6, 1e-5)
    for name, value in fields.items():
        head += text(f"llama.{name}") + struct.pack("<II", 4, value)
    for name, shape in shapes.items():
        head += text(f"{name}.weight") + struct.pack(f"<I{len(shape)}Q", len(shape), *shape[::-1])
        head += struct.pack("<IQ", 0, len(data))
        values = rng.standard_normal(shape, np.float32).tobytes()
        data += values + bytes(-len(values) % 32)
    (folder / "model.gguf").write_bytes(head + bytes(-len(head) % 32) + data)


def idx(array: np.ndarray) -> bytes:
    sizes = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


def images(folder: Path) -> None:
    """Both kinds: the images are plain, the labels zipped."""
    for part, n in (("train", 7), ("t10k", 3)):
        pixels = np.random.default_rng(n).integers(0, 256, (n, 4, 5))
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx(pixels))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.arange(n))))


def text(folder: Path) -> None:
    (folder / "text.txt").write_text("To be, or not to be: größer\r\n", encoding="utf-8")


SUITE = "deactivation"  # the shortest files


def vector_files(folder: Path) -> None:
    for name in (f"{SUITE}.json", f"{SUITE}.catches.json", vectors.MANIFEST):
        (folder / name).write_bytes((vectors.FOLDER / name).read_bytes())


# ---- what reads them ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Loader:
    """file: what is attacked, in a folder that `make` fills and `load` reads."""

    file: str
    make: Callable[[Path], None]
    load: Callable[[Path], Any]
    errors: type[Exception] | tuple[type[Exception], ...] = FileError


LOADERS = {
    "checkpoint": Loader("run.npz", checkpoint, lambda f: mm.checkpoint.load(f / "run.npz")),
    "settings": Loader("config.json", pretrained, mm.models.load_pretrained),
    "weights": Loader("model.safetensors", pretrained, mm.models.load_pretrained),
    "index": Loader(
        "model.safetensors.index.json", in_several_files, mm.models.load_pretrained,
        (FileError, FileNotFoundError),  # of a file that it names
    ),
    "gguf": Loader("model.gguf", gguf, lambda f: mm.models.load_pretrained(f / "model.gguf")),
    "images": Loader("train-images-idx3-ubyte", images, mm.data.load_idx),
    "zipped labels": Loader("t10k-labels-idx1-ubyte.gz", images, mm.data.load_idx),
    "text": Loader("text.txt", text, lambda f: mm.data.read_text(f / "text.txt")),
    "cases": Loader(f"{SUITE}.json", vector_files, lambda f: oracle.load(SUITE, f)),
    "catches": Loader(
        f"{SUITE}.catches.json", vector_files, lambda f: vectors.load_catches(SUITE, f)
    ),
    "manifest": Loader(vectors.MANIFEST, vector_files, lambda f: oracle.load(SUITE, f)),
}


# ---- bounds ------------------------------------------------------------------------------------


class TooLong(BaseException):
    """It did not end in time; no `except Exception` holds it up."""


@contextmanager
def bounded(*, seconds: float, memory: int) -> Iterator[None]:
    """Raise if the block takes longer, where the system has alarms, or if it allocates more.

    The seconds are the processor's, since others may be at work; what waits gets twenty times that.
    """

    def stop(signum: int, frame: FrameType | None) -> None:
        raise TooLong(f"more than {seconds} s")

    alarms: list[tuple[int, int, float]] = []
    if hasattr(signal, "setitimer"):
        alarms = [
            (signal.ITIMER_PROF, signal.SIGPROF, seconds),
            (signal.ITIMER_REAL, signal.SIGALRM, 20 * seconds),
        ]
    tracing = tracemalloc.is_tracing()
    before = [signal.signal(number, stop) for _, number, _ in alarms]
    for timer, _, limit in alarms:
        signal.setitimer(timer, limit)
    if not tracing:
        tracemalloc.start()
    tracemalloc.reset_peak()
    began = tracemalloc.get_traced_memory()[0]
    try:
        yield
    finally:
        for timer, _, _ in alarms:
            signal.setitimer(timer, 0)
        for (_, number, _), handler in zip(alarms, before, strict=True):
            signal.signal(number, handler)
        peak = tracemalloc.get_traced_memory()[1] - began
        if not tracing:
            tracemalloc.stop()
    assert peak <= memory, f"{peak} bytes at once, expected at most {memory}"
