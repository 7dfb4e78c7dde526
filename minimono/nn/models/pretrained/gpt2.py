"""GPT-2 folders: which of their arrays is which parameter of `GPT`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from minimono.nn.models.gpt import GPT
from minimono.nn.models.pretrained import settings
from minimono.nn.models.pretrained.arrays import Arrays, Part, Plan, Weights

# Parameters of a block of ours, and the names that they have in a block of theirs.
BLOCK = {
    "norm1": "ln_1", "attention.qkv": "attn.c_attn", "attention.out": "attn.c_proj",
    "norm2": "ln_2", "mlp.up": "mlp.c_fc", "mlp.down": "mlp.c_proj",
}
BUFFERS = r"h\.\d+\.attn\.(bias|masked_bias)"  # hold no weights: older versions stored them


def plan_gpt2(
    config: settings.Config, weights: Weights, classes: int | None, rng: np.random.Generator | None
) -> Plan:
    """Return the `GPT` that a GPT-2 folder describes."""
    if classes is not None:
        raise ValueError(f"classes = {classes}, but a GPT-2 has no classes")
    config = settings.with_one_name_each(config, settings.GPT2_OTHER_NAMES)
    read = {*settings.GPT2_SIZES, "n_inner", "activation_function", "layer_norm_epsilon"}
    settings.check_settings(config, settings.GPT2_FIXED, settings.GPT2_HARMLESS | read)
    vocabulary, context, C, heads, layers = (
        settings.size(config, *item) for item in settings.GPT2_SIZES.items()
    )
    settings.check_heads("n_embd", C, "n_head", heads)
    hidden = 4 * C if config.get("n_inner") is None else settings.size(config, "n_inner", 0)
    activation = settings.activation(config, "activation_function", "gelu_new")
    eps = settings.positive(config, "layer_norm_epsilon", 1e-5)
    if (name := settings.architecture(config)) not in (None, "GPT2LMHeadModel", "GPT2Model"):
        raise settings.unknown_architecture(name, ["GPT2LMHeadModel", "GPT2Model"])

    arrays = Arrays(weights, base="transformer")
    arrays.check_tied("lm_head.weight", "wte.weight")

    def parts() -> Iterator[Part]:
        yield Part("token.weight", ["wte.weight"], (vocabulary, C))
        yield Part("position.weight", ["wpe.weight"], (context, C))
        shapes = {
            "attention.qkv": (C, 3 * C), "attention.out": (C, C),
            "mlp.up": (C, hidden), "mlp.down": (hidden, C),
        }
        for i in range(layers):
            for ours, theirs in BLOCK.items():
                # GPT-2 stores a layer's weights as (in, out), ours are (out, in).
                shape = shapes.get(ours, (C,))
                ours, theirs = f"block.{i}.{ours}", f"h.{i}.{theirs}"
                yield Part(f"{ours}.weight", [f"{theirs}.weight"], shape, np.transpose)
                yield Part(f"{ours}.bias", [f"{theirs}.bias"], shape[-1:])
        yield Part("norm.weight", ["ln_f.weight"], (C,))
        yield Part("norm.bias", ["ln_f.bias"], (C,))

    make = partial(
        GPT, vocabulary=vocabulary, context=context, channels=C, heads=heads, layers=layers,
        hidden=hidden, activation=activation, eps=eps,
    )
    return Plan(make, arrays, parts(), rf"{BUFFERS}|lm_head\.weight")
