"""GGUF files written by hand, byte by byte: the network of the folder with the same weights.

The rows of Q and K are put in llama.cpp's order here, as its converter does it. Blocks are unpacked
as their layouts say, in plain NumPy.
"""

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folders import Arrays, close, drawn

import minimono as mm
from minimono.files import FileError
from minimono.nn.models import load_pretrained
from minimono.nn.rotary import frequencies

pytest.importorskip("gguf")
pytest.importorskip("safetensors")

IDS = np.random.default_rng(0).integers(0, 11, (2, 5))
C, H, K, D, HIDDEN = 32, 4, 2, 8, 64
FIELDS: dict[str, Any] = {
    "general.architecture": "llama", "general.name": "größer", "llama.context_length": 7,
    "llama.embedding_length": C, "llama.block_count": 2, "llama.feed_forward_length": HIDDEN,
    "llama.attention.head_count": H, "llama.attention.head_count_kv": K,
    "llama.attention.layer_norm_rms_epsilon": 0.25, "llama.rope.freq_base": 20.0,
    "llama.rope.dimension_count": D, "tokenizer.ggml.tokens": ["a", "b", "ß"],
    "tokenizer.ggml.token_type": [1, 2, 3],
}
TYPES = {"F32": 0, "F16": 1, "Q4_1": 3, "Q8_0": 8, "BF16": 30}


def arrays(tied: bool = True, bias: bool = False) -> Arrays:
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (11, C), "output_norm.weight": (C,)}
    if not tied:
        shapes["output.weight"] = (11, C)
    for i in range(2):
        for name, *shape in (
            ("attn_q", H * D, C), ("attn_k", K * D, C), ("attn_v", K * D, C),
            ("attn_output", C, H * D), ("ffn_gate", HIDDEN, C), ("ffn_up", HIDDEN, C),
            ("ffn_down", C, HIDDEN), ("attn_norm", C), ("ffn_norm", C),
        ):
            shapes[f"blk.{i}.{name}.weight"] = tuple(shape)
            if bias and name in ("attn_q", "attn_k", "attn_v"):
                shapes[f"blk.{i}.{name}.bias"] = (shape[0],)
    return {name: 0.3 * a for name, a in drawn(shapes).items()}


def text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def setting(value: Any) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + text(value)
    inner = 8 if isinstance(value[0], str) else 5
    body = b"".join(text(v) if inner == 8 else struct.pack("<i", v) for v in value)
    return struct.pack("<IIQ", 9, inner, len(value)) + body


def packed(array: np.ndarray, kind: str) -> bytes:
    """The array's bytes: for blocks of 32 a scale, a least value, and the levels."""
    if kind in ("F32", "F16"):
        return array.astype({"F32": "<f4", "F16": "<f2"}[kind]).tobytes()
    if kind == "BF16":
        return (array.astype(np.float32).view(np.uint32) >> 16).astype("<u2").tobytes()
    out = b""
    for block in array.reshape(-1, 32):
        if kind == "Q8_0":
            d = np.float16(abs(block).max() / 127)
            out += d.tobytes() + np.clip(np.rint(block / d), -127, 127).astype(np.int8).tobytes()
        else:
            low = np.float16(block.min())
            d = np.float16((block.max() - block.min()) / 15)
            levels = np.clip(np.rint((block - low) / d), 0, 15).astype(np.uint8)
            out += d.tobytes() + low.tobytes() + (levels[:16] | levels[16:] << 4).tobytes()
    return out


def unpacked(data: bytes, shape: tuple[int, ...], kind: str) -> np.ndarray:
    if kind in ("F32", "F16"):
        values = np.frombuffer(data, {"F32": "<f4", "F16": "<f2"}[kind])
    elif kind == "BF16":
        values = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        size = 34 if kind == "Q8_0" else 20
        blocks = np.frombuffer(data, np.uint8).reshape(-1, size)
        d = np.ascontiguousarray(blocks[:, :2]).view("<f2").astype(np.float32)
        if kind == "Q8_0":
            values = d * np.ascontiguousarray(blocks[:, 2:]).view(np.int8)
        else:
            low = np.ascontiguousarray(blocks[:, 2:4]).view("<f2").astype(np.float32)
            levels = np.concatenate([blocks[:, 4:] & 15, blocks[:, 4:] >> 4], axis=1)
            values = d * levels + low
    return values.reshape(shape).astype(np.float64)


def write(
    path: Path, fields: dict[str, Any], stored: Arrays, kinds: dict[str, str] | None = None,
    version: int = 3,
) -> Arrays:
    """Write the file; return the arrays as they can be read."""
    head = b"GGUF" + struct.pack("<IQQ", version, len(stored), len(fields))
    head += b"".join(text(key) + setting(value) for key, value in fields.items())
    data, read = b"", {}
    for name, array in stored.items():
        kind = (kinds or {}).get(name, "F32")
        head += text(name) + struct.pack(f"<I{array.ndim}Q", array.ndim, *array.shape[::-1])
        head += struct.pack("<IQ", TYPES[kind], len(data))
        piece = packed(array, kind)
        read[name] = unpacked(piece, array.shape, kind)
        data += piece + bytes(-len(piece) % 32)
    path.write_bytes(head + bytes(-len(head) % 32) + data)
    return read


def as_llama_cpp(array: np.ndarray, heads: int) -> np.ndarray:
    """Its converter's order of the rows of a head: pairs that turn together lie together."""
    rows = []
    for head in array.reshape(heads, D, *array.shape[1:]):
        for i in range(D // 2):
            rows += [head[i], head[i + D // 2]]
    return np.stack(rows)


def expected(a: Arrays, rotary: mm.nn.rotary.Rotary | None = None, **settings: Any) -> Any:
    """Our network with these arrays, whose Q and K are in the order of a folder."""
    model = mm.models.Llama(
        vocabulary=11, context=7, channels=C, heads=H, key_heads=K, layers=2, hidden=HIDDEN, rng=0,
        rotary=rotary or mm.nn.rotary.Rotary(frequencies(D, 20.0)), eps=0.25, dtype=np.float64,
        tied="output.weight" not in a, **settings,
    )
    names = {
        "attn_q": "attention.q", "attn_k": "attention.k", "attn_v": "attention.v",
        "attn_output": "attention.out", "ffn_gate": "mlp.gate", "ffn_up": "mlp.up",
        "ffn_down": "mlp.down", "attn_norm": "norm1", "ffn_norm": "norm2",
        "token_embd": "token", "output_norm": "norm", "output": "head",
    }
    state = {}
    for key, array in a.items():
        *at, name, last = key.split(".")
        state[".".join([*(["block", at[1]] if at else []), names[name], last])] = array
    model.load_state_dict(state)
    return model(IDS)


def turned(a: Arrays) -> Arrays:
    return {
        key: as_llama_cpp(v, H if "attn_q" in key else K)
        if "attn_q" in key or "attn_k" in key else v
        for key, v in a.items()
    }


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("version", [2, 3])
def test_a_file_of_floats(tmp_path: Path, tied: bool, version: int) -> None:
    a, path = arrays(tied), tmp_path / "a.gguf"
    write(path, FIELDS, turned(a), version=version)
    model = load_pretrained(path)
    assert model.state_dict()["token.weight"].dtype == np.float32
    close(model(IDS), expected(a).data, rtol=1e-5)


@pytest.mark.parametrize("kind", TYPES)
def test_blocks_are_unpacked(tmp_path: Path, kind: str) -> None:
    a, path = arrays(), tmp_path / "a.gguf"
    kinds = {key: kind for key, v in a.items() if v.ndim == 2}
    read = write(path, FIELDS, turned(a), kinds)
    state = load_pretrained(path).state_dict()
    np.testing.assert_allclose(
        state["block.1.mlp.down.weight"], read["blk.1.ffn_down.weight"], rtol=1e-6
    )
    back = read["blk.1.attn_k.weight"].reshape(K, D // 2, 2, C).swapaxes(1, 2).reshape(K * D, C)
    np.testing.assert_allclose(state["block.1.attention.k.weight"], back, rtol=1e-6, atol=1e-8)
    worst = abs(read["token_embd.weight"] - a["token_embd.weight"]).max()
    assert worst < {"F32": 1e-7, "F16": 1e-3, "BF16": 1e-2, "Q8_0": 1e-2, "Q4_1": 0.1}[kind]


def test_types_that_are_not_unpacked(tmp_path: Path) -> None:
    a, path = arrays(), tmp_path / "a.gguf"
    write(path, FIELDS, turned(a))
    whole, at = path.read_bytes(), len(text("output_norm.weight")) + 4 + 8
    place = path.read_bytes().index(text("output_norm.weight")) + at
    for number, words in (
        (26, r"norm\.weight in I32, expected one of"),  # as large as float32
        (999, r"output_norm\.weight' in type 999, which is unknown"),
    ):
        path.write_bytes(whole[:place] + struct.pack("<I", number) + whole[place + 4 :])
        with pytest.raises(FileError, match=words):
            load_pretrained(path)


def test_a_type_that_the_library_does_not_unpack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.gguf"
    write(path, FIELDS, turned(arrays()), {"blk.0.ffn_up.weight": "Q8_0"})

    def unknown(*_: Any) -> None:
        raise NotImplementedError

    monkeypatch.setattr("gguf.quants.dequantize", unknown)
    with pytest.raises(FileError, match="of type Q8_0, which the library gguf does not unpack"):
        load_pretrained(path)


def test_qwen2_is_in_the_order_of_a_folder(tmp_path: Path) -> None:
    a, path = arrays(bias=True), tmp_path / "a.gguf"
    fields = {key.replace("llama.", "qwen2."): value for key, value in FIELDS.items()}
    write(path, fields | {"general.architecture": "qwen2"}, a)
    close(load_pretrained(path)(IDS), expected(a, qkv_bias=True).data, rtol=1e-5)


def test_factors_of_the_frequencies_and_scaling(tmp_path: Path) -> None:
    a, path = arrays(), tmp_path / "a.gguf"
    factors = np.array([1.0, 2.0, 4.0, 8.0])
    write(path, FIELDS, {**turned(a), "rope_freqs.weight": factors})
    f = frequencies(D, 20.0)
    rotary = mm.nn.rotary.Rotary(f / factors)
    close(load_pretrained(path)(IDS), expected(a, rotary).data, rtol=1e-5)
    linear = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    write(path, FIELDS | linear, turned(a))
    rotary = mm.nn.rotary.Rotary(f / 4.0)
    close(load_pretrained(path)(IDS), expected(a, rotary).data, rtol=1e-5)
    write(path, FIELDS, {**turned(a), "rope_freqs.weight": factors[:3]})
    with pytest.raises(FileError, match=r"rope_freqs\.weight has 3 factors, expected 4"):
        load_pretrained(path)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"general.architecture": "gemma"}, r"its header has general.architecture = 'gemma'"),
        ({"llama.expert_count": 8}, r"its header has 'llama.expert_count' = 8, which may change"),
        ({"llama.rope.dimension_count": 4}, r"llama.rope.dimension_count = 4, expected 8"),
        ({"llama.block_count": 3}, r"has no array layers\.2\.input_layernorm\.weight"),
        ({"llama.block_count": 1}, r"has 9 arrays without a place .*layers\.1\."),
        ({"llama.feed_forward_length": 63}, r"\(64, 32\), its header asks for \(63, 32\)"),
        ({"llama.attention.head_count": [4, 4]}, r"num_attention_heads = \[4, 4\]"),
        ({"general.alignment": 0}, r"general.alignment = 0"),
        ({"strange.key": 1}, r"'strange.key' = 1"),
    ],
)
def test_settings_that_are_refused(tmp_path: Path, extra: dict[str, Any], words: str) -> None:
    path = tmp_path / "a.gguf"
    write(path, FIELDS | extra, turned(arrays()))
    with pytest.raises(FileError, match=rf"^load_pretrained: .*a\.gguf: .*{words}"):
        load_pretrained(path)


def test_headers_that_lie(tmp_path: Path) -> None:
    """Counts and lengths are held to what is left of the file, before anything is made of them."""
    path = tmp_path / "a.gguf"
    write(path, FIELDS, turned(arrays()))
    whole = path.read_bytes()
    huge = struct.pack("<Q", 2**60)
    key = whole.index(text("tokenizer.ggml.tokens")) + len(text("tokenizer.ggml.tokens"))
    lies = {
        b"": "ends in the middle", b"PK\x03\x04" * 9: "does not begin with GGUF",
        whole[:4] + struct.pack("<I", 9) + whole[8:]: "version 9",
        whole[:8] + huge + whole[16:]: "more than it has bytes for",
        whole[:16] + huge + whole[24:]: "more than it has bytes for",
        whole[:24] + huge + whole[32:]: "text of",
        whole[: key + 8] + huge + whole[key + 16 :]: "more than it has bytes for",
        whole[: key + 4] + struct.pack("<I", 77) + whole[key + 8 :]: "type 77",
        whole[:-40]: "ends before its array", whole[:300]: "ends in the middle",
    }
    for data, words in lies.items():
        path.write_bytes(data)
        with pytest.raises(FileError, match=words):
            load_pretrained(path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_pretrained(tmp_path / "b.gguf")
    (tmp_path / "c.gguf").mkdir()
    with pytest.raises(FileError, match="is a folder"):
        load_pretrained(tmp_path / "c.gguf")


def test_damage_gives_a_network_or_one_kind_of_error(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    write(path, FIELDS, turned(arrays()))
    whole, rng = bytearray(path.read_bytes()), np.random.default_rng(3)
    header = whole.index(b"\0" * 8, whole.index(text("blk.1.ffn_norm.weight")))
    loaded, said = 0, []
    for _ in range(300):
        data = whole.copy()
        data[int(rng.integers(header))] ^= 1 << int(rng.integers(8))
        path.write_bytes(data if rng.random() < 0.8 else data[: int(rng.integers(len(data)))])
        try:
            model = load_pretrained(path)
        except FileError as error:
            said.append(str(error))
            continue
        loaded += 1
        assert math.isfinite(float(model(IDS).data.sum()))
    assert 0 < loaded < 200
    assert max(map(len, said)) < 2000
