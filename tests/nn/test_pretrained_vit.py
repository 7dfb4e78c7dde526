"""ViT folders written by hand, with names old and new, against plain NumPy."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folders import ACTIVATIONS, Arrays, close, drawn, norm, refused, write

from minimono.nn.models import load_pretrained

pytest.importorskip("safetensors")

C, HIDDEN, SIDE, PATCH = 4, 5, 6, 2
IMAGES = np.random.default_rng(0).standard_normal((3, 2, SIDE, SIDE))
VIT: dict[str, Any] = {
    "model_type": "vit", "hidden_size": C, "num_attention_heads": 2, "num_hidden_layers": 2,
    "intermediate_size": HIDDEN, "image_size": SIDE, "patch_size": PATCH, "num_channels": 2,
    "num_labels": 3, "layer_norm_eps": 0.1,
}
OLD = (
    "attention.attention.query", "attention.attention.key", "attention.attention.value",
    "attention.output.dense", "intermediate.dense", "output.dense",
)
NEW = (
    "attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj", "mlp.fc1",
    "mlp.fc2",
)


def arrays(new: bool = False) -> Arrays:
    shapes: dict[str, tuple[int, ...]] = {
        "vit.embeddings.cls_token": (1, 1, C), "vit.embeddings.position_embeddings": (1, 10, C),
        "vit.embeddings.patch_embeddings.projection.weight": (C, 2, PATCH, PATCH),
        "vit.embeddings.patch_embeddings.projection.bias": (C,),
    }
    layers: list[tuple[Any, ...]] = [("vit.layernorm", C), ("classifier", 3, C)]
    sizes = ((C, C), (C, C), (C, C), (C, C), (HIDDEN, C), (C, HIDDEN))
    for i in range(2):
        at = f"vit.layers.{i}." if new else f"vit.encoder.layer.{i}."
        layers += [(at + "layernorm_before", C), (at + "layernorm_after", C)]
        layers += [
            (at + name, *size) for name, size in zip(NEW if new else OLD, sizes, strict=True)
        ]
    for name, *shape in layers:
        shapes |= {f"{name}.weight": tuple(shape), f"{name}.bias": (shape[0],)}
    return drawn(shapes)


def truth(config: dict[str, Any], a: Arrays, new: bool = False) -> np.ndarray:
    eps, act = config["layer_norm_eps"], ACTIVATIONS[config.get("hidden_act", "gelu")]

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        return x @ a[f"{name}.weight"].T + a[f"{name}.bias"]

    kernel = a["vit.embeddings.patch_embeddings.projection.weight"]
    x = np.empty((3, 10, C))
    x[:, 0] = a["vit.embeddings.cls_token"][0]
    for i in range(9):
        y, z = divmod(i, 3)
        piece = IMAGES[:, :, 2 * y : 2 * y + 2, 2 * z : 2 * z + 2]
        x[:, 1 + i] = np.einsum("bcyx,ocyx->bo", piece, kernel)
        x[:, 1 + i] += a["vit.embeddings.patch_embeddings.projection.bias"]
    x = x + a["vit.embeddings.position_embeddings"]
    for i in range(2):
        at = f"vit.layers.{i}." if new else f"vit.encoder.layer.{i}."
        q, k, v, out, up, down = (at + name for name in (NEW if new else OLD))
        n = norm(a, at + "layernorm_before", x, eps)
        heads = [linear(name, n).reshape(3, 10, 2, 2).swapaxes(1, 2) for name in (q, k, v)]
        weights = np.exp(heads[0] @ heads[1].swapaxes(2, 3) / np.sqrt(2))
        y = weights / weights.sum(-1, keepdims=True) @ heads[2]
        x = x + linear(out, y.swapaxes(1, 2).reshape(3, 10, C))
        x = x + linear(down, act(linear(up, norm(a, at + "layernorm_after", x, eps))))
    return linear("classifier", norm(a, "vit.layernorm", x, eps)[:, 0])


@pytest.mark.parametrize("new", [False, True])
@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_vit(tmp_path: Path, new: bool, activation: str) -> None:
    config, a = VIT | {"hidden_act": activation}, arrays(new)
    close(load_pretrained(write(tmp_path, config, a))(IMAGES), truth(config, a, new))


def test_heads(tmp_path: Path) -> None:
    a = arrays()
    body = {name: v for name, v in a.items() if not name.startswith("classifier")}
    body |= {"vit.pooler.dense.weight": np.ones((C, C)), "vit.pooler.dense.bias": np.ones(C)}
    write(tmp_path, VIT | {"architectures": ["ViTModel"]}, body)
    refused(tmp_path, "the weights lack a classifier; to draw it")
    assert load_pretrained(tmp_path, initialise=0)(IMAGES).shape == (3, 3)
    refused(write(tmp_path, VIT, a), "lack a classifier of 5 classes", classes=5)
    assert load_pretrained(tmp_path, classes=5, initialise=0)(IMAGES).shape == (3, 5)
    fresh = load_pretrained(tmp_path, untrained=True)
    assert abs(fresh.state_dict()["patches.weight"]).max() < 0.1
    assert (fresh.state_dict()["patches.bias"] == 0).all()


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"qkv_bias": False}, "qkv_bias = False, expected True"),
        ({"patch_size": 4}, "image_size = 6, expected a multiple of patch_size = 4"),
        ({"image_size": [6, 6]}, r"image_size = \[6, 6\], expected a whole number"),
        ({"image_size": 8}, r"position_embeddings of shape \(1, 10, 4\), config\.json asks for"),
        ({"num_attention_heads": 3}, "num_attention_heads = 3, expected a divisor"),
        ({"architectures": ["ViTForX"]}, "architectures"), ({"layer_types": []}, "'layer_types'"),
    ],
)
def test_settings_that_are_refused(tmp_path: Path, extra: dict[str, Any], words: str) -> None:
    refused(write(tmp_path, VIT | extra, arrays()), words)
