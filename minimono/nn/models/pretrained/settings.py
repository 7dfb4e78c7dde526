"""The settings of a folder that others have trained: known, and of a value computed here.

The tables say which settings change a number, and what the library takes where config.json is
silent. A setting that they do not name is an error: it might change the result. What they say was
read off transformers 5.24 and its older versions.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from reprlib import Repr
from typing import Any

from minimono import files
from minimono.nn.layers import ActivationName

Config = Mapping[str, Any]
LARGEST = 10_000_000  # bytes of a config.json

_repr = Repr()  # a hostile value may be a megabyte long
_repr.maxstring = 60
short = _repr.repr

# Sizes, with the library's values where config.json is silent.
GPT2_SIZES = {
    "vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12,
}
BERT_SIZES = {
    "vocab_size": 30522, "max_position_embeddings": 512, "hidden_size": 768,
    "num_attention_heads": 12, "num_hidden_layers": 12, "intermediate_size": 3072,
    "type_vocab_size": 2,
}
ROBERTA_SIZES = BERT_SIZES | {"vocab_size": 50265}
DISTILBERT_SIZES = {
    "vocab_size": 30522, "max_position_embeddings": 512, "dim": 768, "n_heads": 12, "n_layers": 6,
    "hidden_dim": 3072,
}
DISTILBERT_OTHER_NAMES = {
    "hidden_size": "dim", "num_attention_heads": "n_heads", "num_hidden_layers": "n_layers",
}
VIT_SIZES = {
    "hidden_size": 768, "num_attention_heads": 12, "num_hidden_layers": 12,
    "intermediate_size": 3072, "image_size": 224, "patch_size": 16, "num_channels": 3,
}
GPT2_OTHER_NAMES = {
    "max_position_embeddings": "n_positions", "hidden_size": "n_embd",
    "num_attention_heads": "n_head", "num_hidden_layers": "n_layer",
}
ACTIVATIONS: dict[str, ActivationName] = {
    "gelu": "gelu", "gelu_python": "gelu", "gelu_new": "gelu_tanh", "gelu_accurate": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh", "gelu_python_tanh": "gelu_tanh", "relu": "relu",
    "silu": "silu", "swish": "silu", "tanh": "tanh", "sigmoid": "sigmoid",
}

LLAMA_SIZES = {
    "vocab_size": 32000, "max_position_embeddings": 2048, "hidden_size": 4096,
    "num_attention_heads": 32, "num_hidden_layers": 32, "intermediate_size": 11008,
}
MISTRAL_SIZES = LLAMA_SIZES | {"max_position_embeddings": 131072, "intermediate_size": 14336}
QWEN2_SIZES = LLAMA_SIZES | {
    "vocab_size": 151936, "max_position_embeddings": 32768, "intermediate_size": 22016,
}
GPT_NEOX_SIZES = {
    "vocab_size": 50432, "max_position_embeddings": 2048, "hidden_size": 6144,
    "num_attention_heads": 64, "num_hidden_layers": 44, "intermediate_size": 24576,
}

# Settings of which the networks here compute one value only.
FIXED: dict[str, Any] = {
    "is_decoder": False, "is_encoder_decoder": False, "tie_encoder_decoder": False,
    "add_cross_attention": False, "cross_attention_hidden_size": None, "pruned_heads": {},
    "per_layer_config": None, "quantization_config": None, "use_bfloat16": False,
}
GPT2_FIXED = FIXED | {
    "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False,
    "tie_word_embeddings": True, "n_special": 0,
}
BERT_FIXED = FIXED | {
    "position_embedding_type": "absolute", "directionality": "bidi",
    "pooler_type": "first_token_transform",
}

# Settings that change no logit: where the folder came from, training, losses, what to return and
# how to go on writing.
HARMLESS = frozenset(
    """
    transformers_version _name_or_path name_or_path _commit_hash
    dtype torch_dtype torchscript tf_legacy_loss xla_device gradient_checkpointing
    chunk_size_feed_forward attn_implementation _attn_implementation
    _attn_implementation_autoset use_cache output_past output_hidden_states output_attentions
    output_scores return_dict return_dict_in_generate initializer_range
    label2id _num_labels problem_type finetuning_task task_specific_params
    tokenizer_class prefix bos_token_id eos_token_id pad_token_id sep_token_id
    decoder_start_token_id forced_bos_token_id forced_eos_token_id
    max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty
    temperature top_k top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size
    encoder_no_repeat_ngram_size bad_words_ids num_return_sequences remove_invalid_values
    exponential_decay_length_penalty suppress_tokens begin_suppress_tokens
    """.split()
)
GPT2_HARMLESS = HARMLESS | set(
    """
    resid_pdrop embd_pdrop attn_pdrop reorder_and_upcast_attn n_ctx predict_special_tokens
    id2label num_labels
    summary_type summary_use_proj summary_activation summary_proj_to_labels summary_first_dropout
    """.split()
)
BERT_HARMLESS = HARMLESS | set(
    """
    hidden_dropout_prob attention_probs_dropout_prob classifier_dropout tie_word_embeddings
    pooler_fc_size pooler_num_attention_heads pooler_num_fc_layers pooler_size_per_head
    """.split()
)


DECODER_READ = frozenset(
    """
    hidden_act tie_word_embeddings rope_theta rope_scaling rope_parameters initializer_range
    """.split()
)
LLAMA_READ = DECODER_READ | {"num_key_value_heads", "head_dim", "rms_norm_eps"}
# By kind: what it reads beyond that, settings of one value, and what changes no number.
LLAMA_KINDS: dict[str, frozenset[str]] = {
    "llama": frozenset({"attention_bias", "mlp_bias"}),
    "mistral": frozenset({"sliding_window"}),
    "qwen2": frozenset(
        {"sliding_window", "use_sliding_window", "max_window_layers", "layer_types"}
    ),
}
DECODER_FIXED = FIXED | {
    "partial_rotary_factor": 1.0, "rope_interleaved": False, "use_mrope": False,
}
LLAMA_HARMLESS = HARMLESS | set(
    """
    attention_dropout pretraining_tp is_llama_config transformers.js_config id2label num_labels
    """.split()
)
GPT_NEOX_READ = (DECODER_READ - {"rope_theta"}) | set(
    "layer_norm_eps rotary_pct rotary_emb_base use_parallel_residual attention_bias".split()
)
GPT_NEOX_HARMLESS = LLAMA_HARMLESS | {"hidden_dropout", "classifier_dropout"}

DISTILBERT_HARMLESS = HARMLESS | set(
    """
    dropout attention_dropout qa_dropout seq_classif_dropout tie_word_embeddings tie_weights_
    sinusoidal_pos_embds
    """.split()
)

VIT_FIXED = FIXED | {"qkv_bias": True}
VIT_HARMLESS = HARMLESS | set(
    """
    hidden_act layer_norm_eps id2label num_labels hidden_dropout_prob attention_probs_dropout_prob
    encoder_stride pooler_output_size pooler_act tie_word_embeddings
    """.split()
)


def read_config(path: Path) -> dict[str, Any]:
    config = files.parse_json(files.read(path, path.name, most=LARGEST), path.name)
    if not isinstance(config, dict):
        raise ValueError(f"config.json holds {short(config)}, expected an object of settings")
    return config


def wrong(key: str, value: Any, expected: str) -> ValueError:
    return ValueError(f"config.json has {key} = {short(value)}, expected {expected}")


def unknown(key: str, value: Any) -> ValueError:
    return ValueError(
        f"config.json has {short(key)} = {short(value)}, which may change numbers in a way "
        "that is not known here; if it does not, take it out"
    )


def with_one_name_each(config: Config, other_names: Mapping[str, str]) -> Config:
    renamed = {key: value for key, value in config.items() if key not in other_names}
    for other, key in other_names.items():
        if other in config:
            if key in config and repr(config[key]) != repr(config[other]):
                raise wrong(other, config[other], f"{short(config[key])} as in {key}")
            renamed[key] = config[other]
    return renamed


def check_settings(config: Config, fixed: Mapping[str, Any], known: frozenset[str]) -> None:
    for key, value in config.items():
        if key in fixed:
            if type(value) is not type(fixed[key]) or value != fixed[key]:
                raise wrong(key, value, f"{fixed[key]!r}: nothing else is computed here")
        elif key not in known | {"model_type", "architectures"}:
            raise unknown(key, value)


def size(config: Config, key: str, default: int) -> int:
    value = config.get(key, default)
    if type(value) is not int or value < 1:
        raise wrong(key, value, "a whole number of at least 1")
    return value


def positive(config: Config, key: str, default: float) -> float:
    value = config.get(key, default)
    if type(value) not in (int, float) or not 0.0 < value <= sys.float_info.max:
        raise wrong(key, value, "a number above 0")
    return float(value)


def flag(config: Config, key: str, default: bool) -> bool:
    value = config.get(key, default)
    if type(value) is not bool:
        raise wrong(key, value, "true or false")
    return value


def number(config: Config, key: str, default: float | None, *, above: float = 0.0) -> float:
    """A number above a bound; None says the default, if there is one."""
    value = config.get(key)
    value = default if value is None else value
    if value is None or type(value) not in (int, float) or not (
        above < value <= sys.float_info.max
    ):
        raise wrong(key, value, f"a number above {above:g}")
    return float(value)


def activation(config: Config, key: str, default: str) -> ActivationName:
    value = config.get(key, default)
    if not isinstance(value, str) or value not in ACTIVATIONS:
        raise wrong(key, value, f"one of {[*ACTIVATIONS]}")
    return ACTIVATIONS[value]


def check_heads(channels_key: str, channels: int, heads_key: str, heads: int) -> None:
    if channels % heads:
        raise wrong(heads_key, heads, f"a divisor of {channels_key} = {channels}")


def labels(config: Config) -> int:
    """How many classes config.json names; 2 where it names none, as in the library."""
    names = config.get("id2label")
    if names is None:
        return size(config, "num_labels", 2)
    if not isinstance(names, dict) or not names:
        raise wrong("id2label", names, "an object with a name for each class")
    if (number := config.get("num_labels")) not in (None, len(names)):
        raise wrong("num_labels", number, f"{len(names)}, as there are names in id2label")
    return len(names)


def architecture(config: Config) -> str | None:
    """The name of the class that wrote the folder, if config.json says it."""
    names = config.get("architectures")
    if names is None:
        return None
    if not (isinstance(names, list) and len(names) == 1 and isinstance(names[0], str)):
        raise wrong("architectures", names, "a list of one name")
    return names[0]


def unknown_architecture(name: str, known: list[str]) -> ValueError:
    return wrong("architectures", [name], f"one of {known}: no other is computed here")
