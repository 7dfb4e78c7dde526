"""Weights that others have trained: GPT-2 and BERT folders in the usual layout.

A folder holds `config.json` and `model.safetensors`, as the Hugging Face libraries write them. The
tables below say which of its arrays is which parameter of ours. Needs the extra `pretrained`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from minimono.backend import Array
from minimono.lazy import required
from minimono.nn.models.bert import BERT
from minimono.nn.models.gpt import GPT
from minimono.nn.module import Module

Arrays = Mapping[str, Array]

# Parameters of a block of ours, and the names that they have in a block of theirs.
GPT2_BLOCK = {
    "norm1": "ln_1", "attention.qkv": "attn.c_attn", "attention.out": "attn.c_proj",
    "norm2": "ln_2", "mlp.up": "mlp.c_fc", "mlp.down": "mlp.c_proj",
}  # fmt: skip
BERT_BLOCK = {
    "attention.out": "attention.output.dense", "norm1": "attention.output.LayerNorm",
    "mlp.up": "intermediate.dense", "mlp.down": "output.dense", "norm2": "output.LayerNorm",
}  # fmt: skip


def load_pretrained(folder: str | Path) -> Module:
    """A `GPT` or `BERT` with the weights of a GPT-2 or BERT folder, in `eval()` mode.

    A BERT folder without a classification head (or pooler) gets a new one, all zeros, with as many
    classes as its config says. Raises FileNotFoundError for a missing file, and ValueError, naming
    it, for an array that is missing or misshapen and for a kind of model that is not known here.
    """
    config, arrays = _read(Path(folder))
    kind = config.get("model_type")
    if kind not in _KINDS:
        raise ValueError(
            f"load_pretrained: config.json says model_type {kind!r}, expected {[*_KINDS]}"
        )
    model, state = _KINDS[kind](config, arrays)
    try:
        model.load_state_dict(state)
    except ValueError as error:
        raise ValueError(f"load_pretrained: {folder}: {error}") from error
    return model.eval()


def _gpt2(config: Mapping[str, Any], arrays: Arrays) -> tuple[Module, dict[str, Array]]:
    _expect(config, "activation_function", "gelu_new", "gelu_pytorch_tanh", default="gelu_new")
    _expect(config, "n_inner", None, 4 * config["n_embd"], default=None)
    _expect(config, "layer_norm_epsilon", 1e-5, default=1e-5)
    _expect(config, "tie_word_embeddings", True, default=True)
    _expect(config, "scale_attn_by_inverse_layer_idx", False, default=False)
    model = GPT(
        vocabulary=config["vocab_size"], context=config["n_positions"], channels=config["n_embd"],
        heads=config["n_head"], layers=config["n_layer"], rng=np.random.default_rng(0),
    )  # fmt: skip
    get = _getter(arrays, "transformer.")
    state = {
        "token.weight": get("wte.weight"),
        "position.weight": get("wpe.weight"),
        "norm.weight": get("ln_f.weight"),
        "norm.bias": get("ln_f.bias"),
    }
    for i in range(config["n_layer"]):
        for ours, theirs in GPT2_BLOCK.items():
            weight = get(f"h.{i}.{theirs}.weight")
            # GPT-2 stores a layer's weights as (in, out), ours are (out, in); norms are vectors.
            state[f"block.{i}.{ours}.weight"] = weight.T
            state[f"block.{i}.{ours}.bias"] = get(f"h.{i}.{theirs}.bias")
    return model, state


def _bert(config: Mapping[str, Any], arrays: Arrays) -> tuple[Module, dict[str, Array]]:
    _expect(config, "hidden_act", "gelu", default="gelu")
    _expect(config, "intermediate_size", 4 * config["hidden_size"])
    _expect(config, "layer_norm_eps", 1e-12, default=1e-12)
    _expect(config, "position_embedding_type", "absolute", default="absolute")
    channels, classes = config["hidden_size"], len(config.get("id2label", (0, 1)))
    model = BERT(
        vocabulary=config["vocab_size"], context=config["max_position_embeddings"],
        channels=channels, heads=config["num_attention_heads"],
        layers=config["num_hidden_layers"], classes=classes, segments=config["type_vocab_size"],
        rng=np.random.default_rng(0),
    )  # fmt: skip
    get = _getter(arrays, "bert.")
    state = {
        "token.weight": get("embeddings.word_embeddings.weight"),
        "position.weight": get("embeddings.position_embeddings.weight"),
        "segment.weight": get("embeddings.token_type_embeddings.weight"),
        "norm.weight": get("embeddings.LayerNorm.weight"),
        "norm.bias": get("embeddings.LayerNorm.bias"),
    }
    for i in range(config["num_hidden_layers"]):
        block = f"encoder.layer.{i}."
        for part in ("weight", "bias"):
            state[f"block.{i}.attention.qkv.{part}"] = np.concatenate(
                [get(f"{block}attention.self.{n}.{part}") for n in ("query", "key", "value")]
            )
            for ours, theirs in BERT_BLOCK.items():
                state[f"block.{i}.{ours}.{part}"] = get(f"{block}{theirs}.{part}")
    for ours, theirs, rows in (
        ("pooler", "pooler.dense", channels),
        ("classifier", "classifier", classes),
    ):
        for part, shape in (("weight", (rows, channels)), ("bias", (rows,))):
            name = f"{theirs}.{part}"
            known = name in arrays or f"bert.{name}" in arrays
            state[f"{ours}.{part}"] = get(name) if known else np.zeros(shape, dtype=np.float32)
    return model, state


_KINDS: dict[str, Callable[..., tuple[Module, dict[str, Array]]]] = {"gpt2": _gpt2, "bert": _bert}


def _getter(arrays: Arrays, prefix: str) -> Callable[[str], Array]:
    """Arrays by name, with or without the prefix that whole models put before their base."""

    def get(name: str) -> Array:
        for key in (name, prefix + name):
            if key in arrays:
                return arrays[key].astype(np.float32)
        raise ValueError(f"load_pretrained: model.safetensors has no array {name!r}")

    return get


def _expect(config: Mapping[str, Any], key: str, *known: Any, default: Any = "missing") -> None:
    value = config.get(key, default)
    if value not in known:
        raise ValueError(
            f"load_pretrained: config.json has {key} = {value!r}; "
            f"the model here computes {' or '.join(map(repr, known))} only"
        )


def _read(folder: Path) -> tuple[dict[str, Any], Arrays]:
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"load_pretrained: {folder / name} does not exist")
    safetensors = required("safetensors.numpy", by="load_pretrained", install="safetensors")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        arrays = safetensors.load_file(folder / "model.safetensors")
    except Exception as error:  # the library raises kinds of its own
        raise ValueError(f"load_pretrained: {folder} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"load_pretrained: {folder / 'config.json'} holds no settings")
    return config, arrays
