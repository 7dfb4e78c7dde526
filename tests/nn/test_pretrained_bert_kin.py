"""RoBERTa and DistilBERT folders written by hand, against an encoder in plain NumPy."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folders import ACTIVATIONS, Arrays, close, drawn, norm, refused, write

import minimono as mm
from minimono.nn.models import load_pretrained
from minimono.nn.models.pretrained.bert import DISTILBERT_HEADS, ROBERTA_HEADS

pytest.importorskip("safetensors")

V, C, HIDDEN, PAD = 11, 4, 5, 2
RNG = np.random.default_rng(0)
IDS = np.where((drew := RNG.integers(0, V, (3, 5))) == PAD, 3, drew)
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 0, 1, 1, 1]], bool)
IDS = np.where(MASK, IDS, PAD)
SEGMENTS = np.array([[0, 0, 1, 1, 1]] * 3)
ROBERTA: dict[str, Any] = {
    "model_type": "roberta", "vocab_size": V, "max_position_embeddings": 9, "hidden_size": C,
    "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": HIDDEN,
    "pad_token_id": PAD, "layer_norm_eps": 0.1, "num_labels": 3,
}
DISTILBERT: dict[str, Any] = {
    "model_type": "distilbert", "vocab_size": V, "max_position_embeddings": 6, "dim": C,
    "n_heads": 2, "n_layers": 2, "hidden_dim": HIDDEN, "num_labels": 3,
}
ROBERTA_NAMES = (
    "attention.self.query", "attention.self.key", "attention.self.value",
    "attention.output.dense", "attention.output.LayerNorm", "intermediate.dense", "output.dense",
    "output.LayerNorm",
)
DISTILBERT_NAMES = (
    "attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin", "sa_layer_norm",
    "ffn.lin1", "ffn.lin2", "output_layer_norm",
)


def arrays(kind: str) -> Arrays:
    distilled = kind == "distilbert"
    base, blocks = f"{kind}.", f"{kind}.{'transformer' if distilled else 'encoder'}.layer"
    tables = [("word", V), ("position", 6 if distilled else 9)] + [("token_type", 2)] * (
        not distilled)
    shapes: dict[str, tuple[int, ...]] = {
        f"{base}embeddings.{name}_embeddings.weight": (rows, C) for name, rows in tables
    }
    layers: list[tuple[Any, ...]] = [(f"{base}embeddings.LayerNorm", C)]
    sizes = ((C, C), (C, C), (C, C), (C, C), (C,), (HIDDEN, C), (C, HIDDEN), (C,))
    for i in range(2):
        names = DISTILBERT_NAMES if distilled else ROBERTA_NAMES
        layers += [(f"{blocks}.{i}.{name}", *size) for name, size in zip(names, sizes, strict=True)]
    head = (
        [("pre_classifier", C, C), ("classifier", 3, C)] if distilled
        else [("classifier.dense", C, C), ("classifier.out_proj", 3, C)]
    )
    for name, *shape in [*layers, *head]:
        shapes |= {f"{name}.weight": tuple(shape), f"{name}.bias": (shape[0],)}
    return drawn(shapes)


def truth(
    config: dict[str, Any], a: Arrays, segments: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Hidden states, and logits of the texts' classes."""
    kind, distilled = config["model_type"], config["model_type"] == "distilbert"
    a = {name.removeprefix(f"{kind}."): array for name, array in a.items()}
    eps = config.get("layer_norm_eps", 1e-12)
    act = ACTIVATIONS[config.get("activation", config.get("hidden_act", "gelu"))]

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        return x @ a[f"{name}.weight"].T + a[f"{name}.bias"]

    places = np.tile(np.arange(5), (3, 1))
    if not distilled:  # counted by hand: 3, 4, ... for what is no padding, 2 for padding
        places = np.array([[3, 4, 5, 6, 7], [3, 4, 5, 2, 2], [2, 2, 3, 4, 5]])
    x = a["embeddings.word_embeddings.weight"][IDS]
    x = x + a["embeddings.position_embeddings.weight"][places]
    if not distilled:
        kinds = 0 * IDS if segments is None else segments
        x = x + a["embeddings.token_type_embeddings.weight"][kinds]
    x = norm(a, "embeddings.LayerNorm", x, eps)
    names = DISTILBERT_NAMES if distilled else ROBERTA_NAMES
    for i in range(2):
        q, k, v, o, norm1, up, down, norm2 = (
            f"{'transformer' if distilled else 'encoder'}.layer.{i}.{name}" for name in names
        )
        heads = [linear(name, x).reshape(3, 5, 2, 2).swapaxes(1, 2) for name in (q, k, v)]
        scores = heads[0] @ heads[1].swapaxes(2, 3) / np.sqrt(2)
        weights = np.exp(np.where(MASK[:, None, None], scores, -np.inf))
        y = weights / weights.sum(-1, keepdims=True) @ heads[2]
        x = norm(a, norm1, x + linear(o, y.swapaxes(1, 2).reshape(3, 5, C)), eps)
        x = norm(a, norm2, x + linear(down, act(linear(up, x))), eps)
    if distilled:
        pooled = np.maximum(linear("pre_classifier", x[:, 0]), 0)
        return x, linear("classifier", pooled)
    return x, linear("classifier.out_proj", np.tanh(linear("classifier.dense", x[:, 0])))


@pytest.mark.parametrize("config", [ROBERTA, ROBERTA | {"hidden_act": "relu"}])
def test_roberta(tmp_path: Path, config: dict[str, Any]) -> None:
    a = arrays("roberta")
    model = load_pretrained(write(tmp_path, config, a))
    assert model.context == 6  # of 9 positions, 3 are for padding
    for segments in (None, SEGMENTS):
        hidden, logits = truth(config, a, segments)
        close(mm.tensor(model.encode(IDS, segments, MASK).data[MASK]), hidden[MASK])
        close(model(IDS, segments, MASK), logits)


def test_distilbert(tmp_path: Path) -> None:
    a = arrays("distilbert")
    other = {key: value for key, value in DISTILBERT.items() if key not in ("dim", "n_heads")}
    for config in (
        DISTILBERT, DISTILBERT | {"activation": "relu"},
        other | {"hidden_size": C, "num_attention_heads": 2},
    ):
        model = load_pretrained(write(tmp_path, config, a))
        hidden, logits = truth(config, a)
        close(mm.tensor(model.encode(IDS, None, MASK).data[MASK]), hidden[MASK])
        close(model(IDS, None, MASK), logits)
    with pytest.raises(ValueError, match="BERT: segments are given, but"):
        model(IDS, SEGMENTS, MASK)


@pytest.mark.parametrize("kind", ["roberta", "distilbert"])
def test_heads(tmp_path: Path, kind: str) -> None:
    """What the folder has is loaded; what it lacks is drawn, if it may be."""
    config = ROBERTA if kind == "roberta" else DISTILBERT
    heads = ROBERTA_HEADS if kind == "roberta" else DISTILBERT_HEADS
    a = arrays(kind)
    hidden, logits = truth(config, a)
    body = {name: v for name, v in a.items() if name.startswith(f"{kind}.")}
    for name, head in heads.items():
        named = config | {"architectures": [name]}
        if name.endswith("ForSequenceClassification"):
            close(load_pretrained(write(tmp_path, named, a))(IDS, None, MASK), logits)
            assert load_pretrained(tmp_path, classes=7, initialise=0)(IDS).shape == (3, 7)
            continue
        stored = body | (
            {f"{head.left_out}{'' if head.left_out.endswith('.') else 'x.'}weight": np.ones((2, 2))}
            if head.left_out else {}
        )
        write(tmp_path, named, stored)
        refused(tmp_path, rf"weights of a {name} lack a pooler and a classifier of texts")
        model = load_pretrained(tmp_path, classes=4, initialise=0)
        close(mm.tensor(model.encode(IDS, None, MASK).data[MASK]), hidden[MASK])
        assert model(IDS).shape == (3, 4)
    refused(write(tmp_path, config | {"architectures": ["RobertaForCausalLM"]}, a), "architectures")
    assert load_pretrained(write(tmp_path, config, body), initialise=0)(IDS).shape == (3, 3)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (ROBERTA | {"pad_token_id": None}, "pad_token_id = None, expected a whole number from 0"),
        (ROBERTA | {"pad_token_id": 8}, "pad_token_id = 8, expected .* below 8"),
        (ROBERTA | {"is_decoder": True}, "is_decoder = True, expected False"),
        (ROBERTA | {"dim": 4}, "'dim' = 4"), (DISTILBERT | {"hidden_act": "relu"}, "'hidden_act'"),
        (DISTILBERT | {"n_heads": 3}, "n_heads = 3, expected a divisor of dim = 4"),
        (DISTILBERT | {"n_layers": 3}, r"has no array transformer\.layer\.2\.attention\.q_lin"),
        (ROBERTA | {"num_hidden_layers": 1}, "16 arrays without a place"),
    ],
)
def test_settings_that_are_refused(tmp_path: Path, config: dict[str, Any], words: str) -> None:
    refused(write(tmp_path, config, arrays(config["model_type"])), words)
