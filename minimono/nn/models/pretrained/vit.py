"""ViT folders: which of their arrays is which parameter of `PlainViT`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial

import numpy as np

from minimono.backend import Array
from minimono.nn.models.plain_vit import PlainViT
from minimono.nn.models.pretrained import settings
from minimono.nn.models.pretrained.arrays import Arrays, Part, Plan, Weights, layer

# Parameters of a block of ours, and the names that they have in a block of theirs.
BLOCK = {
    "norm1": "layernorm_before", "attention.out": "attention.output.dense",
    "norm2": "layernorm_after", "mlp.up": "intermediate.dense", "mlp.down": "output.dense",
}
# Names of version 5, and what they were before.
NEW = {
    r"layers\.(\d+)\.attention\.([qkv])_proj\.": r"encoder.layer.\1.attention.attention.\2.",
    r"layers\.(\d+)\.attention\.o_proj\.": r"encoder.layer.\1.attention.output.dense.",
    r"layers\.(\d+)\.mlp\.fc1\.": r"encoder.layer.\1.intermediate.dense.",
    r"layers\.(\d+)\.mlp\.fc2\.": r"encoder.layer.\1.output.dense.",
    r"layers\.(\d+)\.layernorm_": r"encoder.layer.\1.layernorm_",
    r"(.*attention\.attention\.)([qkv])(uery|ey|alue)\.": r"\1\2.",
}
CLASSES = ["ViTForImageClassification", "ViTModel", "ViTForMaskedImageModeling"]
OTHER_HEADS = r"embeddings\.mask_token|pooler\.dense\.(weight|bias)|decoder\.0\.(weight|bias)"


def plan_vit(
    config: settings.Config, weights: Weights, classes: int | None, rng: np.random.Generator | None
) -> Plan:
    """Return the `PlainViT` that a ViT folder describes."""
    settings.check_settings(
        config, settings.VIT_FIXED, settings.VIT_HARMLESS | {*settings.VIT_SIZES}
    )
    C, heads, layers, hidden, side, patch, colours = (
        settings.size(config, *item) for item in settings.VIT_SIZES.items()
    )
    settings.check_heads("hidden_size", C, "num_attention_heads", heads)
    if side % patch:
        raise settings.wrong("image_size", side, f"a multiple of patch_size = {patch}")
    activation = settings.activation(config, "hidden_act", "gelu")
    eps = settings.positive(config, "layer_norm_eps", 1e-12)
    if (name := settings.architecture(config)) not in (None, *CLASSES):
        assert name is not None
        raise settings.unknown_architecture(name, CLASSES)

    arrays = Arrays(weights, base="vit", renamed=_old_name)
    rows, classifier, left_out = settings.labels(config), ["classifier"], ""
    if "classifier.weight" not in arrays or classes not in (None, rows):
        classifier, left_out = [], r"|classifier\.(weight|bias)"
        if rng is None:
            asked = "a classifier" if classes is None else f"a classifier of {classes} classes"
            raise ValueError(
                f"the weights lack {asked}; to draw it and fine-tune it: "
                "load_pretrained(folder, classes=..., initialise=0), with any seed"
            )
        if classes is None and rows > 100_000:  # no stored array bounds it
            raise settings.wrong("num_labels", rows, "at most 100000; say classes=...")
    rows = rows if classes is None else classes
    positions = 1 + (side // patch) ** 2

    def parts() -> Iterator[Part]:
        shape = (C, colours, patch, patch)
        yield from layer("patches", ["embeddings.patch_embeddings.projection"], shape)
        yield Part("first", ["embeddings.cls_token"], (1, 1, C), _without_batch)
        stored = ["embeddings.position_embeddings"]
        yield Part("position", stored, (1, positions, C), _without_batch)
        shapes = {"attention.out": (C, C), "mlp.up": (hidden, C), "mlp.down": (C, hidden)}
        for i in range(layers):
            block = f"encoder.layer.{i}"
            qkv = [f"{block}.attention.attention.{name}" for name in "qkv"]
            yield from layer(f"block.{i}.attention.qkv", qkv, (C, C))
            for ours, theirs in BLOCK.items():
                yield from layer(f"block.{i}.{ours}", [f"{block}.{theirs}"], shapes.get(ours, (C,)))
        yield from layer("norm", ["layernorm"], (C,))
        yield from layer("out", classifier, (rows, C))

    make = partial(
        PlainViT, image=(colours, side, side), patch=patch, channels=C, heads=heads, layers=layers,
        hidden=hidden, classes=rows, activation=activation, eps=eps,
    )
    return Plan(make, arrays, parts(), OTHER_HEADS + left_out)


def _old_name(name: str) -> str:
    for new, old in NEW.items():
        name = re.sub(rf"^{new}", old, name)
    return name


def _without_batch(array: Array) -> Array:
    without: Array = array[0]  # (1, positions, C) -> (positions, C)
    return without
