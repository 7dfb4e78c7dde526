"""Tiny random RoBERTa, DistilBERT and ViT folders, and every setting of all new families."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minimono as mm
from minimono.nn.models import load_pretrained
from minimono.nn.models.pretrained import bert
from minimono.nn.models.pretrained.settings import HARMLESS

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("safetensors")

IDS = np.random.default_rng(0).integers(3, 20, (3, 7))
MASK = np.array([[1, 1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 1, 1], [1] * 7])
IDS = np.where(MASK == 1, IDS, 1)  # RoBERTa's padding
IMAGES = np.random.default_rng(1).standard_normal((2, 3, 8, 8))
TINY = {
    "vocab_size": 20, "max_position_embeddings": 12, "hidden_size": 16, "num_attention_heads": 2,
    "num_hidden_layers": 2, "intermediate_size": 10,
}
SMALL: dict[str, tuple[str, str, dict[str, Any]]] = {
    "roberta": ("RobertaConfig", "RobertaForSequenceClassification", TINY | {"num_labels": 3}),
    "distilbert": ("DistilBertConfig", "DistilBertForSequenceClassification", {
        "vocab_size": 20, "max_position_embeddings": 12, "dim": 8, "n_heads": 2, "n_layers": 2,
        "hidden_dim": 10, "num_labels": 3,
    }),
    "vit": ("ViTConfig", "ViTForImageClassification", {
        "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 2,
        "intermediate_size": 10, "image_size": 8, "patch_size": 4, "num_labels": 3,
    }),
    "llama": ("LlamaConfig", "LlamaForCausalLM", TINY),
    "mistral": ("MistralConfig", "MistralForCausalLM", TINY | {"num_key_value_heads": 2}),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", TINY | {"num_key_value_heads": 2}),
    "gpt_neox": ("GPTNeoXConfig", "GPTNeoXForCausalLM", TINY),
}


@pytest.fixture(autouse=True)
def quiet() -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def saved(folder: Path, kind: str, name: str = "", **settings: Any) -> Any:
    torch.manual_seed(0)
    config_class, usual, small = SMALL[kind]
    config = getattr(transformers, config_class)(attn_implementation="eager", **small | settings)
    model = getattr(transformers, name or usual)(config).double().eval()
    for p in model.parameters():
        p.data += 0.3 * torch.randn_like(p)
    model.save_pretrained(folder)
    return model


def answer(model: Any, **options: Any) -> Any:
    given = IMAGES if model.config.model_type == "vit" else IDS
    with torch.no_grad():
        return model(torch.tensor(given), **options)


def close(ours: Any, theirs: Any, rtol: float = 1e-9) -> None:
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=rtol * abs(theirs).max())


@pytest.mark.parametrize("kind", ["roberta", "distilbert"])
def test_logits_and_hidden_states(tmp_path: Path, kind: str) -> None:
    for extra in ({}, {"hidden_act" if kind == "roberta" else "activation": "gelu_new"}):
        theirs = saved(tmp_path, kind, **extra)
        model = load_pretrained(tmp_path)
        for mask in (np.ones_like(MASK), MASK):
            expected = answer(
                theirs, attention_mask=torch.tensor(mask), output_hidden_states=True
            )
            with mm.nn.taps.read(model) as seen:
                logits = model(IDS, None, mask)
            for name, state in zip(
                ["embedded", "block.0.out", "block.1.out"], expected.hidden_states, strict=True
            ):
                close(seen[name].data[mask == 1], state.numpy()[mask == 1])
            first = mask[:, 0] == 1  # of the others, what is pooled stands on padding
            close(logits.data[first], expected.logits.numpy()[first])


@pytest.mark.parametrize("kind", ["roberta", "distilbert"])
def test_every_class_that_is_loaded(tmp_path: Path, kind: str) -> None:
    for name in bert.KINDS[kind].heads:
        asked = {"num_labels": 2} if name.endswith("QuestionAnswering") else {}
        theirs = saved(tmp_path, kind, name, **asked)
        model = load_pretrained(tmp_path, initialise=0)
        close(model.encode(IDS).data, answer(theirs.base_model).last_hidden_state.numpy())
        if name.endswith("MultipleChoice"):
            with torch.no_grad():
                close(model(IDS).data, theirs(torch.tensor(IDS[:, None])).logits.numpy())


def test_vit(tmp_path: Path) -> None:
    """To 1e-6: the library computes weights of attention in float32."""
    for extra in ({}, {"hidden_act": "gelu_new", "num_channels": 3, "layer_norm_eps": 0.1}):
        theirs = saved(tmp_path, "vit", **extra)
        expected = answer(theirs, output_hidden_states=True)
        model = load_pretrained(tmp_path)
        with mm.nn.taps.read(model) as seen:
            close(model(IMAGES).data, expected.logits.numpy(), 1e-6)
        for name, state in zip(("embedded", "block.0.out"), expected.hidden_states, strict=False):
            close(seen[name].data, state.numpy(), 1e-6)
    saved(tmp_path, "vit", "ViTModel")
    assert load_pretrained(tmp_path, initialise=0)(IMAGES).shape == (2, 3)


@pytest.mark.parametrize("kind", SMALL)
def test_a_setting_of_a_new_model(tmp_path: Path, kind: str) -> None:
    """The model is made with the setting: our logits are its logits, or we refuse by name."""
    compared, refused = 0, dict[str, str]()
    given = IMAGES if kind == "vit" else IDS
    config_class, _, small = SMALL[kind]
    defaults = getattr(transformers, config_class)(**small).to_dict()
    for key, default in defaults.items():
        others: dict[type, Any] = {bool: not default, int: 2, float: 0.3, str: "relu"}
        value = others.get(type(default), 1)
        if key in HARMLESS:  # of every kind: test_pretrained_parity.py shows that it is
            continue
        if key in ("max_position_embeddings", "hidden_size"):
            value = 32  # ours refuse a longer text, and heads of one channel, which cannot turn
        expected = None
        with suppress(Exception):  # no model of theirs has it
            expected = answer(saved(tmp_path, kind, **{key: value}), return_dict=True).logits
        if expected is None:
            continue
        try:
            model = load_pretrained(tmp_path)
        except ValueError as error:
            refused[key] = str(error)
            continue
        compared += 1
        assert json.loads((tmp_path / "config.json").read_text())["model_type"] == kind
        close(model(given).data, expected.numpy(), 1e-6)
    assert compared > 4
    assert [key for key, error in refused.items() if key not in error] == []
