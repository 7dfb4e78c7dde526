"""Llama, Mistral, Qwen2 and GPT-NeoX folders: which of their arrays is which parameter of ours."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from minimono.backend import Array
from minimono.nn.models.llama import Llama
from minimono.nn.models.neox import GPTNeoX
from minimono.nn.models.pretrained import settings
from minimono.nn.models.pretrained.arrays import Arrays, Part, Plan, Weights, layer
from minimono.nn.models.pretrained.rope import rotary_of
from minimono.nn.rotary import Rotary

SIZES = {
    "llama": settings.LLAMA_SIZES, "mistral": settings.MISTRAL_SIZES,
    "qwen2": settings.QWEN2_SIZES,
}
CLASSES = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "gpt_neox": "GPTNeoX"}
KEY_HEADS = {"mistral": 8, "qwen2": 32}  # where config.json does not say it
BUFFERS = r"layers\.\d+\.(self_attn|attention)\.(rotary_emb\.inv_freq|bias|masked_bias)"


def plan_llama(
    config: settings.Config, weights: Weights, classes: int | None, rng: np.random.Generator | None
) -> Plan:
    """Return the `Llama` that a folder of Llama, Mistral or Qwen2 describes."""
    kind = config["model_type"]
    _check_class(config, kind, classes)
    sizes = SIZES[kind]
    known = {*sizes} | settings.LLAMA_READ | settings.LLAMA_KINDS[kind]
    settings.check_settings(config, settings.DECODER_FIXED, settings.LLAMA_HARMLESS | known)
    vocabulary, context, C, H, layers, hidden = (settings.size(config, *s) for s in sizes.items())
    K = H
    if config.get("num_key_value_heads", KEY_HEADS.get(kind)) is not None:
        K = settings.size(config, "num_key_value_heads", KEY_HEADS.get(kind, H))
    if H % K:
        raise settings.wrong("num_key_value_heads", K, f"a divisor of num_attention_heads = {H}")
    if config.get("head_dim") is None:
        settings.check_heads("hidden_size", C, "num_attention_heads", H)
        D = C // H
    else:
        D = settings.size(config, "head_dim", 0)
    if D % 2:
        raise settings.wrong("head_dim", D, "an even number, since its channels turn in pairs")
    activation = settings.activation(config, "hidden_act", "silu")
    eps = settings.positive(config, "rms_norm_eps", 1e-6)
    tied = settings.flag(config, "tie_word_embeddings", False)
    out_bias = settings.flag(config, "attention_bias", False)
    mlp_bias = settings.flag(config, "mlp_bias", False)
    qkv_bias = out_bias or kind == "qwen2"
    window, windows = _windows(config, kind, layers)

    arrays = Arrays(weights, base="model")

    def parts() -> Iterator[Part]:
        yield Part("token.weight", ["embed_tokens.weight"], (vocabulary, C))
        for i in range(layers):
            ours, theirs = f"block.{i}", f"layers.{i}"
            for norm, name in (("norm1", "input_layernorm"), ("norm2", "post_attention_layernorm")):
                yield Part(f"{ours}.{norm}.weight", [f"{theirs}.{name}.weight"], (C,))
            for name, rows in (("q", H * D), ("k", K * D), ("v", K * D)):
                stored = [f"{theirs}.self_attn.{name}_proj"]
                yield from layer(f"{ours}.attention.{name}", stored, (rows, C), bias=qkv_bias)
            stored = [f"{theirs}.self_attn.o_proj"]
            yield from layer(f"{ours}.attention.out", stored, (C, H * D), bias=out_bias)
            for name, shape in (("gate", (hidden, C)), ("up", (hidden, C)), ("down", (C, hidden))):
                stored = [f"{theirs}.mlp.{name}_proj"]
                yield from layer(f"{ours}.mlp.{name}", stored, shape, bias=mlp_bias)
        yield Part("norm.weight", ["norm.weight"], (C,))
        if not tied:
            yield Part("head.weight", ["lm_head.weight"], (vocabulary, C))

    if tied:
        arrays.check_tied("lm_head.weight", "embed_tokens.weight")

    def make(**rest: Any) -> Llama:  # once all sizes are known to be real
        rotary = rotary_of(config, D, context)
        if (factors := weights.rope_factors()) is not None:
            if factors.shape != rotary.frequencies.shape:
                raise ValueError(f"rope_freqs.weight has {len(factors)} factors, expected {D // 2}")
            rotary = Rotary(rotary.frequencies / factors, rotary.magnitude)
        return Llama(
            vocabulary=vocabulary, context=context, channels=C, heads=H, key_heads=K,
            head_channels=D, layers=layers, hidden=hidden, rotary=rotary,
            window=window if windows is None else windows, activation=activation, eps=eps,
            tied=tied, qkv_bias=qkv_bias, out_bias=out_bias, mlp_bias=mlp_bias, **rest,
        )

    return Plan(make, arrays, parts(), BUFFERS + (r"|lm_head\.weight" if tied else ""))


def _windows(
    config: settings.Config, kind: str, layers: int
) -> tuple[int | None, list[int | None] | None]:
    """Return the window of all blocks, or those of each."""
    if kind == "llama":
        return None, None
    window = None
    if config.get("sliding_window", 4096) is not None:
        window = settings.size(config, "sliding_window", 4096)
    if kind == "mistral":
        return window, None
    if not settings.flag(config, "use_sliding_window", False):
        window = None
    types = config.get("layer_types")
    if types is None:
        first = config.get("max_window_layers", 28)
        if type(first) is not int or first < 0:
            raise settings.wrong("max_window_layers", first, "a whole number of at least 0")
        if window is None or first >= layers:
            return None, None
        if first == 0:
            return window, None
        if layers > 10_000:  # before there is a list of them
            raise settings.wrong("num_hidden_layers", layers, "at most 10000 with windows")
        return None, [None] * first + [window] * (layers - first)
    names = {"full_attention": None, "sliding_attention": window}
    good = isinstance(types, list) and all(isinstance(t, str) and t in names for t in types)
    if not good or len(types) != layers:
        raise settings.wrong("layer_types", types, f"{layers} of {[*names]}")
    if window is None and "sliding_attention" in types:
        raise settings.wrong("layer_types", types, "full_attention, as there is no sliding_window")
    return None, [names[t] for t in types]


def plan_gpt_neox(
    config: settings.Config, weights: Weights, classes: int | None, rng: np.random.Generator | None
) -> Plan:
    """Return the `GPTNeoX` that a folder of GPT-NeoX or Pythia describes."""
    _check_class(config, "gpt_neox", classes)
    sizes = settings.GPT_NEOX_SIZES
    known = settings.GPT_NEOX_HARMLESS | settings.GPT_NEOX_READ | {*sizes}
    fixed = {k: v for k, v in settings.DECODER_FIXED.items() if k != "partial_rotary_factor"}
    settings.check_settings(config, fixed, known)
    vocabulary, context, C, H, layers, hidden = (settings.size(config, *s) for s in sizes.items())
    settings.check_heads("hidden_size", C, "num_attention_heads", H)
    D = C // H
    activation = settings.activation(config, "hidden_act", "gelu")
    eps = settings.positive(config, "layer_norm_eps", 1e-5)
    parallel = settings.flag(config, "use_parallel_residual", True)
    tied = settings.flag(config, "tie_word_embeddings", False)
    bias = settings.flag(config, "attention_bias", True)
    arrays = Arrays(weights, base="gpt_neox", renamed=_new_name)

    def parts() -> Iterator[Part]:
        yield Part("token.weight", ["embed_in.weight"], (vocabulary, C))
        for i in range(layers):
            ours, theirs = f"block.{i}", f"layers.{i}"
            yield from layer(f"{ours}.norm1", [f"{theirs}.input_layernorm"], (C,))
            yield from layer(f"{ours}.norm2", [f"{theirs}.post_attention_layernorm"], (C,))
            fused = [f"{theirs}.attention.query_key_value"]
            for j, name in enumerate("qkv"):
                of_heads = partial(_third_of_each_head, heads=H, which=j)
                yield from layer(
                    f"{ours}.attention.{name}", fused, (3 * C, C), bias=bias, convert=of_heads
                )
            stored = [f"{theirs}.attention.dense"]
            yield from layer(f"{ours}.attention.out", stored, (C, C), bias=bias)
            yield from layer(f"{ours}.mlp.up", [f"{theirs}.mlp.dense_h_to_4h"], (hidden, C))
            yield from layer(f"{ours}.mlp.down", [f"{theirs}.mlp.dense_4h_to_h"], (C, hidden))
        yield from layer("norm", ["final_layer_norm"], (C,))
        if not tied:
            yield Part("head.weight", ["lm_head.weight"], (vocabulary, C))

    if tied:
        arrays.check_tied("lm_head.weight", "embed_in.weight")

    def make(**rest: Any) -> GPTNeoX:  # once all sizes are known to be real
        rotary = rotary_of(
            config, D, context, base="rotary_emb_base", share="rotary_pct", usual_share=0.25
        )
        return GPTNeoX(
            vocabulary=vocabulary, context=context, channels=C, heads=H, layers=layers,
            hidden=hidden, rotary=rotary, parallel=parallel, activation=activation, eps=eps,
            tied=tied, attention_bias=bias, **rest,
        )

    return Plan(make, arrays, parts(), BUFFERS + (r"|lm_head\.weight" if tied else ""))


def _new_name(name: str) -> str:
    return "lm_head.weight" if name == "embed_out.weight" else name


def _third_of_each_head(array: Array, heads: int, which: int) -> Array:
    """Return the rows of q, k or v of a weight that has, head by head, its q, its k and its v."""
    rows = array.reshape(heads, 3, -1, *array.shape[1:])[:, which]  # (3 C, C) -> (H, D, C)
    return rows.reshape(-1, *array.shape[1:])  # (H, D, C) -> (H D, C)


def _check_class(config: settings.Config, kind: str, classes: int | None) -> None:
    if classes is not None:
        raise ValueError(f"classes = {classes}, but a {CLASSES[kind]} has no classes")
    known = [f"{CLASSES[kind]}ForCausalLM", f"{CLASSES[kind]}Model"]
    name = settings.architecture(config)
    if name is not None and name not in known:
        raise settings.unknown_architecture(name, known)
