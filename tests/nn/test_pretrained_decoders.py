"""Llama, Mistral, Qwen2 and GPT-NeoX folders written by hand, against networks in plain NumPy.

In `decoder` below positions turn pairs of channels as complex numbers, and heads look one by one,
so that nothing is shared with the network but the formulas of the papers. Nothing else of a folder
is taken on trust either: what is missing, too much, misshapen, in several files, unknown.
"""

import gc
import json
import math
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folders import ACTIVATIONS, Arrays, close, drawn, norm, refused, write

import minimono as mm
from minimono.nn.models import load_pretrained
from minimono.nn.models.pretrained import decoders
from minimono.nn.models.pretrained.arrays import Arrays as StoredArrays

pytest.importorskip("safetensors")

IDS = np.random.default_rng(0).integers(0, 11, (2, 5))
BEHIND = np.array([[True] * 5, [True, True, True, False, False]])
BEFORE = BEHIND[:, ::-1]
V, C, H, D, HIDDEN, LAYERS = 11, 8, 4, 6, 5, 2
LLAMA: dict[str, Any] = {
    "model_type": "llama", "vocab_size": V, "max_position_embeddings": 6, "hidden_size": C,
    "num_attention_heads": H, "num_key_value_heads": 2, "num_hidden_layers": LAYERS,
    "intermediate_size": HIDDEN, "head_dim": D, "rope_theta": 20.0,
}
MISTRAL = LLAMA | {"model_type": "mistral", "sliding_window": 2}
QWEN2 = LLAMA | {
    "model_type": "qwen2", "use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1,
}
NEOX: dict[str, Any] = {
    "model_type": "gpt_neox", "vocab_size": V, "max_position_embeddings": 6, "hidden_size": C,
    "num_attention_heads": 2, "num_hidden_layers": LAYERS, "intermediate_size": HIDDEN,
    "rotary_pct": 0.5, "rotary_emb_base": 20.0,
}


def llama_arrays(config: dict[str, Any]) -> Arrays:
    K = config["num_key_value_heads"]
    kind = config["model_type"]
    qkv = config.get("attention_bias", kind == "qwen2")
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (V, C)}
    for i in range(LAYERS):
        for name, out, inner, bias in (
            ("self_attn.q_proj", H * D, C, qkv), ("self_attn.k_proj", K * D, C, qkv),
            ("self_attn.v_proj", K * D, C, qkv),
            ("self_attn.o_proj", C, H * D, config.get("attention_bias", False)),
            ("mlp.gate_proj", HIDDEN, C, config.get("mlp_bias", False)),
            ("mlp.up_proj", HIDDEN, C, config.get("mlp_bias", False)),
            ("mlp.down_proj", C, HIDDEN, config.get("mlp_bias", False)),
        ):
            shapes[f"model.layers.{i}.{name}.weight"] = (out, inner)
            if bias:
                shapes[f"model.layers.{i}.{name}.bias"] = (out,)
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"model.layers.{i}.{name}.weight"] = (C,)
    shapes["model.norm.weight"] = (C,)
    if not config.get("tie_word_embeddings", False):
        shapes["lm_head.weight"] = (V, C)
    return drawn(shapes)


def neox_arrays(config: dict[str, Any]) -> Arrays:
    shapes: dict[str, tuple[int, ...]] = {"gpt_neox.embed_in.weight": (V, C)}
    for i in range(LAYERS):
        for name, *shape in (
            ("attention.query_key_value", 3 * C, C), ("attention.dense", C, C),
            ("mlp.dense_h_to_4h", HIDDEN, C), ("mlp.dense_4h_to_h", C, HIDDEN),
            ("input_layernorm", C), ("post_attention_layernorm", C),
        ):
            shapes[f"gpt_neox.layers.{i}.{name}.weight"] = tuple(shape)
            shapes[f"gpt_neox.layers.{i}.{name}.bias"] = (shape[0],)
    shapes["gpt_neox.final_layer_norm.weight"] = shapes["gpt_neox.final_layer_norm.bias"] = (C,)
    return drawn(shapes | {"embed_out.weight": (V, C)})


# ---- the truth ----------------------------------------------------------------------------------


def turned(x: np.ndarray, R: int, base: float) -> np.ndarray:
    """(T, D): channels i and i + R/2 as one complex number, times e^(i t base^(-2 i / R))."""
    z = x[:, : R // 2] + 1j * x[:, R // 2 : R]
    z = z * np.exp(1j * np.arange(len(x))[:, None] * base ** (-2 * np.arange(R // 2) / R))
    return np.concatenate([z.real, z.imag, x[:, R:]], axis=1)


def looked(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, window: int | None, real: np.ndarray
) -> np.ndarray:
    """One head of one text, (T, D): a mean of values, position by position; nan at padding."""
    out = np.full(q.shape, np.nan)
    for t in np.flatnonzero(real):
        seen = [s for s in range(t + 1) if real[s] and (window is None or s > t - window)]
        weights = np.exp([q[t] @ k[s] / math.sqrt(q.shape[1]) for s in seen])
        out[t] = weights / weights.sum() @ v[seen]
    return out


def attention(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, heads: tuple[int, int], R: int, base: float,
    window: int | None, real: np.ndarray,
) -> np.ndarray:
    """q (B, T, H D), k and v (B, T, K D) -> (B, T, H D)."""
    (H, K), out = heads, np.empty(q.shape)
    d = q.shape[-1] // H
    for b in range(len(q)):
        for h in range(H):
            mine, shared = slice(h * d, h * d + d), slice(h // (H // K) * d, h // (H // K) * d + d)
            out[b, :, mine] = looked(
                turned(q[b][:, mine], R, base), turned(k[b][:, shared], R, base),
                v[b][:, shared], window, real[b],
            )
    return out


def rms(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def linear(a: Arrays, name: str, x: np.ndarray) -> np.ndarray:
    return x @ a[f"{name}.weight"].T + a.get(f"{name}.bias", 0.0)


def llama(config: dict[str, Any], a: Arrays, windows: Any, real: np.ndarray) -> np.ndarray:
    eps, act = config.get("rms_norm_eps", 1e-6), ACTIVATIONS[config.get("hidden_act", "silu")]
    x = a["model.embed_tokens.weight"][IDS]
    for i in range(LAYERS):
        at = f"model.layers.{i}."
        n = rms(x, a[at + "input_layernorm.weight"], eps)
        q, k, v = (linear(a, f"{at}self_attn.{name}_proj", n) for name in "qkv")
        heads = H, config["num_key_value_heads"]
        y = attention(q, k, v, heads, D, config.get("rope_theta", 1e4), windows[i], real)
        x = x + linear(a, at + "self_attn.o_proj", y)
        n = rms(x, a[at + "post_attention_layernorm.weight"], eps)
        y = act(linear(a, at + "mlp.gate_proj", n)) * linear(a, at + "mlp.up_proj", n)
        x = x + linear(a, at + "mlp.down_proj", y)
    x = rms(x, a["model.norm.weight"], eps)
    return x @ a.get("lm_head.weight", a["model.embed_tokens.weight"]).T


def neox(config: dict[str, Any], a: Arrays, real: np.ndarray) -> np.ndarray:
    a = {name.removeprefix("gpt_neox."): array for name, array in a.items()}
    eps, act = config.get("layer_norm_eps", 1e-5), ACTIVATIONS[config.get("hidden_act", "gelu")]
    x = a["embed_in.weight"][IDS]
    for i in range(LAYERS):
        at = f"layers.{i}."
        n = norm(a, at + "input_layernorm", x, eps)
        qkv = linear(a, at + "attention.query_key_value", n).reshape(2, 5, 2, 3, 4)
        q, k, v = (qkv[:, :, :, j].reshape(2, 5, C) for j in range(3))
        R = int(4 * config["rotary_pct"])
        y = attention(q, k, v, (2, 2), R, config["rotary_emb_base"], None, real)
        y = x + linear(a, at + "attention.dense", y)
        parallel = config.get("use_parallel_residual", True)
        n = norm(a, at + "post_attention_layernorm", x if parallel else y, eps)
        x = y + linear(a, at + "mlp.dense_4h_to_h", act(linear(a, at + "mlp.dense_h_to_4h", n)))
    return norm(a, "final_layer_norm", x, eps) @ a["embed_out.weight"].T


# ---- what is computed ---------------------------------------------------------------------------


@pytest.mark.parametrize("real", [np.ones((2, 5), bool), BEHIND, BEFORE], ids=str)
@pytest.mark.parametrize(
    ("config", "windows"),
    [
        (LLAMA, (None, None)),
        (LLAMA | {"num_key_value_heads": 4, "tie_word_embeddings": True, "rms_norm_eps": 0.3,
                  "hidden_act": "gelu"}, (None, None)),
        (LLAMA | {"num_key_value_heads": 1, "attention_bias": True, "mlp_bias": True},
         (None, None)),
        (MISTRAL, (2, 2)), (MISTRAL | {"sliding_window": None}, (None, None)),
        (QWEN2, (None, 3)), (QWEN2 | {"use_sliding_window": False}, (None, None)),
        (QWEN2 | {"layer_types": ["sliding_attention", "full_attention"]}, (3, None)),
    ],
)
def test_llama_and_its_kin(
    tmp_path: Path, config: dict[str, Any], windows: Any, real: np.ndarray
) -> None:
    arrays = llama_arrays(config)
    model = load_pretrained(write(tmp_path, config, arrays))
    assert isinstance(model, mm.models.Llama)
    assert not model.training
    truth = llama(config, arrays, windows, real)
    close(mm.tensor(model(IDS, real.astype(int)).data[real]), truth[real])
    if real.all():
        close(model(IDS), truth)


@pytest.mark.parametrize("real", [np.ones((2, 5), bool), BEHIND, BEFORE], ids=str)
@pytest.mark.parametrize(
    "extra", [{}, {"use_parallel_residual": False, "rotary_pct": 1.0, "layer_norm_eps": 0.2}]
)
def test_gpt_neox(tmp_path: Path, extra: dict[str, Any], real: np.ndarray) -> None:
    config = NEOX | extra
    arrays = neox_arrays(config)
    model = load_pretrained(write(tmp_path, config, arrays))
    assert isinstance(model, mm.models.GPTNeoX)
    truth = neox(config, arrays, real)
    close(mm.tensor(model(IDS, real).data[real]), truth[real])


def test_what_stands_behind_a_mask_changes_nothing(tmp_path: Path) -> None:
    other = np.where(BEFORE, IDS, 3)
    for config in (LLAMA, MISTRAL):
        model = load_pretrained(write(tmp_path, config, llama_arrays(config)))
        np.testing.assert_array_equal(
            model(IDS, BEFORE).data[BEFORE], model(other, BEFORE).data[BEFORE]
        )


def test_taps(tmp_path: Path) -> None:
    for config, arrays in ((LLAMA, llama_arrays(LLAMA)), (NEOX, neox_arrays(NEOX))):
        model = load_pretrained(write(tmp_path, config, arrays))
        assert mm.nn.taps.names(model) == [
            "embedded", "block.0.mlp.act", "block.0.out", "block.1.mlp.act", "block.1.out",
            "normed",
        ]
        with mm.nn.taps.read(model) as seen:
            model(IDS)
        assert seen["block.1.mlp.act"].shape == (2, 5, HIDDEN)


def test_gradients_flow_through_all_of_it(tmp_path: Path) -> None:
    for config, arrays in ((MISTRAL, llama_arrays(MISTRAL)), (NEOX, neox_arrays(NEOX))):
        model = load_pretrained(write(tmp_path, config, arrays))
        parameters = model.parameters()
        mm.functional.cross_entropy(model(IDS, BEFORE), IDS).backward()
        grads = [p.grad for p in parameters]
        for p, g in zip(parameters, grads, strict=True):
            assert g is not None
            at = np.unravel_index(int(abs(g).argmax()), g.shape)
            values, losses = p.data.copy(), []
            for step in (1e-5, -1e-5):
                p.data = values.copy()
                p.data[at] += step
                losses.append(mm.functional.cross_entropy(model(IDS, BEFORE), IDS).item())
            p.data = values
            assert (losses[0] - losses[1]) / 2e-5 == pytest.approx(g[at], rel=1e-5, abs=1e-9)


# ---- several files ------------------------------------------------------------------------------


def split(
    folder: Path, config: dict[str, Any], arrays: Arrays, files: int = 3, dtype: str = "float64"
) -> Path:
    """The folder with its arrays in several files, in turn, and their index."""
    names, places = [*arrays], {}
    for i in range(files):
        mine = {name: arrays[name] for name in names[i::files]}
        write(folder, config, mine, dtype=dtype)
        file = f"model-{i + 1:05d}-of-{files:05d}.safetensors"
        (folder / "model.safetensors").rename(folder / file)
        places |= dict.fromkeys(mine, file)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": 1}, "weight_map": places})
    )
    return folder


def test_several_files(tmp_path: Path) -> None:
    arrays = llama_arrays(LLAMA)
    truth = llama(LLAMA, arrays, (None, None), np.ones((2, 5), bool))
    for files in (1, 2, 5):
        close(load_pretrained(split(tmp_path / str(files), LLAMA, arrays, files))(IDS), truth)
    # One file beside it goes first, as in the library.
    other = {name: 1.1 * array for name, array in arrays.items()}
    folder = write(tmp_path / "2", LLAMA, other)
    close(load_pretrained(folder)(IDS), llama(LLAMA, other, (None, None), np.ones((2, 5), bool)))


def test_an_index_that_lies(tmp_path: Path) -> None:
    folder = split(tmp_path, LLAMA, llama_arrays(LLAMA))
    index = folder / "model.safetensors.index.json"
    good = json.loads(index.read_text())["weight_map"]
    first, second, third = sorted(set(good.values()))
    name = next(name for name, file in good.items() if file == first)
    for places, words in (
        (None, "weight_map = None, expected arrays"), ({}, "weight_map = {}"),
        ({**good, name: second}, f"says that '{name}' is in {second}, which lacks it"),
        ({**good, "x": first}, f"says that 'x' is in {first}, which lacks it"),
        ({**good, name: "../up.safetensors"}, "expected the name of a file"),
        ({**good, name: "a.bin"}, "expected the name of a file"),
        ({**good, name: 3}, "expected the name of a file"),
        ({k: v for k, v in good.items() if v != third}, r"has no array .* asks for"),
    ):
        index.write_text(json.dumps({"weight_map": places}))
        refused(folder, words)
    index.write_text("{")
    refused(folder, "is not JSON")
    index.write_text(json.dumps({"weight_map": good}))
    (folder / second).write_bytes((folder / first).read_bytes())
    refused(folder, f"{first} and {second} both have")
    (folder / second).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{second} does not exist"):
        load_pretrained(folder)


def test_all_misfits_at_once(tmp_path: Path) -> None:
    arrays = llama_arrays(LLAMA)
    del arrays["model.norm.weight"], arrays["model.layers.0.mlp.up_proj.weight"]
    arrays["model.layers.1.self_attn.k_proj.weight"] = np.zeros((3, 4))
    arrays["lm_head.weight"] = arrays["lm_head.weight"].astype(np.int8)
    arrays["model.layers.2.mlp.up_proj.weight"] = np.zeros((2, 2))
    refused(
        write(tmp_path, LLAMA, arrays),
        r"model\.safetensors has no array layers\.0\.mlp\.up_proj\.weight, norm\.weight, which "
        r"config\.json asks for; it has model\.layers\.1\.self_attn\.k_proj\.weight of shape "
        r"\(3, 4\), config\.json asks for \(12, 8\), lm_head\.weight in I8, expected one of .*; it "
        r"has 1 arrays without a place .*: model\.layers\.2\.mlp\.up_proj\.weight$",
    )


# ---- settings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"num_key_value_heads": 3}, "num_key_value_heads = 3, expected a divisor of .* = 4"),
        ({"head_dim": 3}, "head_dim = 3, expected an even number"),
        ({"hidden_act": "quick_gelu"}, "hidden_act = 'quick_gelu', expected one of"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings = 1, expected true or false"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5, expected 1.0"),
        ({"rope_theta": 1.0}, "rope_theta = 1.0, expected a number above 1"),
        ({"rope_scaling": 3}, "rope_scaling = 3, expected an object"),
        ({"rope_scaling": {"rope_type": "longrope"}}, "rope_type = 'longrope', expected one of"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling.factor = None, expected a number"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0, "x": 1}}, "'rope_scaling.x' = 1"),
        ({"rope_scaling": {"type": "linear", "rope_type": "yarn", "factor": 2.0}},
         "rope_scaling.type = 'linear', expected 'yarn' as in rope_type"),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0}, "max_position_embeddings": 10**400},
         "original_max_position_embeddings = .*, expected a number above 0"),
        ({"rope_scaling": {
            "type": "llama3", "factor": 2, "low_freq_factor": 4, "high_freq_factor": 1}},
         "high_freq_factor = 1, expected a number above 4"),
        ({"sliding_window": 3}, "'sliding_window' = 3, which may change"),
        ({"quantization_config": {}}, "quantization_config = {}, expected None"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "expected one of .*LlamaForCausal"),
    ],
)
def test_settings_of_llama_that_are_refused(
    tmp_path: Path, extra: dict[str, Any], words: str
) -> None:
    refused(write(tmp_path, LLAMA | extra, llama_arrays(LLAMA)), words)


def test_other_settings_that_are_refused(tmp_path: Path) -> None:
    for extra, words in (
        ({"layer_types": ["full_attention"]}, r"layer_types = .*expected 2 of \['full_attention'"),
        ({"layer_types": [3, 3]}, "layer_types"),
        ({"layer_types": ["sliding_attention"] * 2, "use_sliding_window": False}, "layer_types"),
        ({"max_window_layers": -1}, "max_window_layers = -1"),
        ({"max_window_layers": 1, "num_hidden_layers": 10**9}, "num_hidden_layers"),
    ):
        refused(write(tmp_path, QWEN2 | extra, llama_arrays(QWEN2)), words)
    refused(write(tmp_path, MISTRAL | {"sliding_window": 0}, llama_arrays(LLAMA)), "sliding_window")
    for extra, words in (
        ({"rotary_pct": 0.25}, "rotary_pct = 0.25, expected an even number of a head's 4"),
        ({"rope_theta": 3.0}, "'rope_theta' = 3.0"),
        ({"rotary_pct": 2.0}, "rotary_pct = 2.0"), ({"attention_bias": None}, "attention_bias"),
        ({"tie_word_embeddings": True}, "lm_head.weight differs from embed_in.weight"),
    ):
        refused(write(tmp_path, NEOX | extra, neox_arrays(NEOX)), words)
    for config in (LLAMA, NEOX):
        arrays = llama_arrays(config) if config is LLAMA else neox_arrays(config)
        refused(write(tmp_path, config, arrays), "classes = 2, but a .* has no classes", classes=2)


# ---- fresh weights ------------------------------------------------------------------------------


def test_untrained(tmp_path: Path) -> None:
    """The same network, of which no weight is the folder's; norms and biases as they start."""
    arrays = llama_arrays(QWEN2)
    write(tmp_path, QWEN2 | {"initializer_range": 0.5}, arrays)
    trained = load_pretrained(tmp_path)
    models = [load_pretrained(tmp_path, untrained=True, **seed) for seed in ({}, {"initialise": 1})]
    shapes = {name: p.shape for name, p in trained.named_parameters()}
    for model in models:
        assert not model.training
        assert {name: p.shape for name, p in model.named_parameters()} == shapes
    for (name, p), (_, other), (_, old) in zip(
        *(model.named_parameters() for model in (*models, trained)), strict=True
    ):
        assert p.dtype == old.dtype == np.float64
        assert not np.array_equal(p.data, old.data)
        if p.ndim == 2:
            assert not np.array_equal(p.data, other.data)
            assert 0.25 < p.data.std() < 0.75  # 0.5, of 40 to 192 numbers
        else:
            assert (p.data == (0.0 if name.endswith("bias") else 1.0)).all()
    again = load_pretrained(tmp_path, untrained=True, initialise=0)
    np.testing.assert_array_equal(again(IDS).data, models[0](IDS).data)
    del arrays["model.norm.weight"]
    with pytest.raises(ValueError, match=r"has no array norm\.weight"):
        load_pretrained(write(tmp_path, QWEN2, arrays), untrained=True)


# ---- memory -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("files", [1, 3])
def test_memory_holds_the_network_and_one_array(tmp_path: Path, dtype: str, files: int) -> None:
    """A network of 6 MB, of which the largest array is a tenth."""
    config = LLAMA | {
        "vocab_size": 1200, "hidden_size": 128, "intermediate_size": 400, "num_hidden_layers": 6,
        "head_dim": None, "num_key_value_heads": None,
    }
    size = {"lm_head.weight": (1200, 128), "model.embed_tokens.weight": (1200, 128)}
    size["model.norm.weight"] = (128,)
    for i in range(6):
        at = f"model.layers.{i}."
        size |= {f"{at}self_attn.{name}_proj.weight": (128, 128) for name in "qkvo"}
        size |= {f"{at}mlp.{name}_proj.weight": (400, 128) for name in ("gate", "up")}
        size[f"{at}mlp.down_proj.weight"] = (128, 400)
        size[f"{at}input_layernorm.weight"] = size[f"{at}post_attention_layernorm.weight"] = (128,)
    stored = {name: array.astype(dtype) for name, array in drawn(size).items()}
    if files == 1:
        write(tmp_path, config, stored, dtype=dtype)
    else:
        split(tmp_path, config, stored, files, dtype)
    load_pretrained(tmp_path)  # what is imported then is not counted
    gc.collect()
    tracemalloc.start()
    model = load_pretrained(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    weights = sum(p.array.nbytes for _, p in model.named_parameters())
    assert weights > 5_000_000
    assert peak < 1.3 * weights


@pytest.mark.parametrize("value", [7, 9, 10**6, 10**9, 2**63, 10**300])
@pytest.mark.parametrize("config", [LLAMA, MISTRAL, QWEN2, NEOX], ids=lambda c: c["model_type"])
def test_sizes_that_the_arrays_do_not_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: dict[str, Any], value: int
) -> None:
    """Compared with the files' headers, before anything of that size is made."""
    for name in ("Llama", "GPTNeoX"):
        monkeypatch.setattr(decoders, name, lambda **_: pytest.fail("a network was made"))
    monkeypatch.setattr(StoredArrays, "_read", lambda *_: pytest.fail("an array was read"))
    monkeypatch.setattr(np, "arange", lambda *_: pytest.fail("numbers were made"))
    arrays = neox_arrays(config) if config is NEOX else llama_arrays(config)
    write(tmp_path, config, arrays)
    sizes = {
        key for key, old in config.items() if type(old) is int and key != "num_attention_heads"
    } - {"max_position_embeddings", "sliding_window", "max_window_layers"}  # no array has these
    assert len(sizes) >= 4
    for key in sizes:
        (tmp_path / "config.json").write_text(json.dumps({**config, key: value}))
        refused(tmp_path, "config.json (asks for|has)")


def test_masks_and_windows_that_do_not_fit() -> None:
    sizes = {"vocabulary": 5, "context": 4, "channels": 8, "heads": 4, "layers": 2, "hidden": 3}
    ids = np.array([[1, 2, 3]])
    for name, model in (
        ("Llama", mm.models.Llama(rng=0, **sizes)),
        ("GPTNeoX", mm.models.GPTNeoX(rng=0, **sizes | {"channels": 32})),
    ):
        for mask, kind, words in (
            (np.ones((1, 3)), TypeError, "mask has dtype float64, expected booleans, or whole"),
            (np.array([[1, 2, 1]]), ValueError, r"mask has 2 at \[0, 1\], expected booleans, or 0"),
            (np.ones((1, 2), bool), ValueError, r"mask has shape \(1, 2\), expected \(1, 3\), as"),
        ):
            with pytest.raises(kind, match=f"^{name}: {words}"):
                model(ids, mask)
    for changes, words in (
        ({"window": [2]}, "Llama: window has length 1, expected 2, layers"),
        ({"window": 0}, "RotaryAttention: window is 0"),
        ({"key_heads": 3}, "Llama: heads is 4, expected a multiple of 3, key_heads"),
        ({"channels": 9}, "Llama: channels is 9, expected a multiple of 4"),
    ):
        with pytest.raises(ValueError, match=f"^{words}"):
            mm.models.Llama(rng=0, **sizes | changes)
