"""Folders of weights: the same logits as the library that wrote them, and every misfit named."""

import json
from pathlib import Path

import numpy as np
import pytest

from minimono.nn.models import load_pretrained
from minimono.nn.models.pretrained import _gpt2

IDS = np.random.default_rng(0).integers(0, 50, (2, 9))


def saved(tmp_path: Path, kind: str) -> tuple[Path, np.ndarray]:
    """A tiny random model in its own library's layout, and what it says to IDS."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    small = {"vocab_size": 50, "attn_implementation": "eager"}
    if kind == "gpt2":
        config = transformers.GPT2Config(n_positions=12, n_embd=8, n_head=2, n_layer=3, **small)
        model = transformers.GPT2LMHeadModel(config)
    else:
        config = transformers.BertConfig(
            hidden_size=8, num_attention_heads=2, num_hidden_layers=3, intermediate_size=32,
            max_position_embeddings=12, num_labels=3, **small,
        )  # fmt: skip
        model = transformers.BertForSequenceClassification(config)
    model.eval()
    for p in model.parameters():  # biases and gains too, or a swap of them would not show
        p.data += 0.1 * torch.randn_like(p)
    model.save_pretrained(tmp_path, safe_serialization=True)
    with torch.no_grad():
        return tmp_path, model(torch.tensor(IDS)).logits.numpy()


@pytest.mark.parity
@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_same_logits_as_the_library_that_wrote_it(tmp_path: Path, kind: str) -> None:
    folder, expected = saved(tmp_path, kind)
    model = load_pretrained(folder)
    assert not model.training
    np.testing.assert_allclose(model(IDS).data, expected, atol=2e-5)


def gpt2_arrays() -> tuple[dict, dict]:
    config = {"vocab_size": 50, "n_positions": 12, "n_embd": 8, "n_head": 2, "n_layer": 1}
    rng = np.random.default_rng(1)
    shapes = {"wte.weight": (50, 8), "wpe.weight": (12, 8)}
    for name, n_in, n_out in (
        ("attn.c_attn", 8, 24), ("attn.c_proj", 8, 8), ("mlp.c_fc", 8, 32), ("mlp.c_proj", 32, 8),
    ):  # fmt: skip
        shapes |= {f"h.0.{name}.weight": (n_in, n_out), f"h.0.{name}.bias": (n_out,)}
    for name in ("h.0.ln_1", "h.0.ln_2", "ln_f"):
        shapes |= {f"{name}.weight": (8,), f"{name}.bias": (8,)}
    return config, {k: rng.standard_normal(s).astype(np.float32) for k, s in shapes.items()}


def test_every_array_has_its_place_with_and_without_prefix() -> None:
    config, arrays = gpt2_arrays()
    model, state = _gpt2(config, arrays)
    model.load_state_dict(state)
    np.testing.assert_array_equal(
        model.state_dict()["block.0.mlp.up.weight"], arrays["h.0.mlp.c_fc.weight"].T
    )
    other, prefixed = _gpt2(config, {"transformer." + k: v for k, v in arrays.items()})
    other.load_state_dict(prefixed)
    np.testing.assert_array_equal(model(IDS).data, other(IDS).data)


def test_what_does_not_fit_is_named() -> None:
    config, arrays = gpt2_arrays()
    with pytest.raises(ValueError, match=r"no array 'ln_f\.bias'"):
        _gpt2(config, {k: v for k, v in arrays.items() if k != "ln_f.bias"})
    with pytest.raises(ValueError, match=r"activation_function = 'relu'.*'gelu_new'"):
        _gpt2(config | {"activation_function": "relu"}, arrays)
    with pytest.raises(ValueError, match=r"layer_norm_epsilon = 1e-06"):
        _gpt2(config | {"layer_norm_epsilon": 1e-6}, arrays)


def test_folders_that_are_not_models(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"config\.json does not exist"):
        load_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt_neox"}))
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors does not exist"):
        load_pretrained(tmp_path)
    safetensors = pytest.importorskip("safetensors.numpy")
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ValueError, match="cannot be read"):
        load_pretrained(tmp_path)
    safetensors.save_file({"x": np.ones(2)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"model_type 'gpt_neox', expected \['gpt2', 'bert'\]"):
        load_pretrained(tmp_path)
