"""Tiny random Llama, Mistral, Qwen2 and GPT-NeoX folders: what `transformers` says, in float64.

transformers computes norms, angles and the softmax of these in float32, whatever the model's dtype.
Here `float32` is made to mean float64 meanwhile, so that all digits can be compared; once without,
to 1e-6.
"""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minimono as mm
from minimono.nn.models import load_pretrained

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("safetensors.torch")  # before the meaning of float32 is changed

IDS = np.random.default_rng(0).integers(0, 20, (3, 9))
# Padding behind the text, before it, none.
MASK = np.array([[1, 1, 1, 1, 1, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1, 1, 1, 1], [1] * 9])
SMALL = {
    "vocab_size": 20, "max_position_embeddings": 12, "hidden_size": 24, "num_attention_heads": 4,
    "num_hidden_layers": 3, "intermediate_size": 10,
}
NEOX = {"hidden_size": 32}  # heads of 8, of which a quarter turns
CLASS = {
    "llama": ("LlamaConfig", "LlamaForCausalLM"),
    "mistral": ("MistralConfig", "MistralForCausalLM"),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM"),
    "gpt_neox": ("GPTNeoXConfig", "GPTNeoXForCausalLM"),
}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 40, "rope_theta": 30.0,
}
YARN = {
    "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 300, "rope_theta": 50.0,
}
GROUPED = {"num_key_value_heads": 2}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("llama", {}),
    ("llama", GROUPED | {"tie_word_embeddings": True, "rms_norm_eps": 0.1}),
    ("llama", GROUPED | {"head_dim": 10, "hidden_act": "gelu_pytorch_tanh"}),
    ("llama", {"num_key_value_heads": 1, "attention_bias": True, "mlp_bias": True}),
    ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}),
    ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 99.0}}),
    ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 3.0, "rope_theta": 99.0}}),
    ("llama", {"rope_parameters": LLAMA3}),
    ("llama", {"rope_parameters": YARN}),
    ("llama", {"rope_parameters": YARN | {"truncate": False, "beta_fast": 20, "beta_slow": 3}}),
    ("llama", {"rope_parameters": YARN | {"attention_factor": 0.7}}),
    ("llama", {"rope_parameters": YARN | {"mscale": 2.0, "mscale_all_dim": 0.5}}),
    ("mistral", GROUPED | {"sliding_window": 3}),
    ("mistral", GROUPED | {"sliding_window": None}),
    ("mistral", {"num_key_value_heads": 4, "sliding_window": 1, "head_dim": 4}),
    ("qwen2", GROUPED),
    ("qwen2", GROUPED | {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1}),
    ("qwen2", GROUPED | {"sliding_window": 3, "max_window_layers": 0}),
    ("qwen2", GROUPED | {
        "use_sliding_window": True, "sliding_window": 2, "tie_word_embeddings": True,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    }),
    ("gpt_neox", NEOX),
    ("gpt_neox", {"rope_parameters": {"partial_rotary_factor": 0.7, "rope_theta": 40.0}}),
    ("gpt_neox", {"use_parallel_residual": False, "rope_parameters": {"partial_rotary_factor": 1.0},
                  "hidden_act": "gelu_new", "layer_norm_eps": 0.1}),
    ("gpt_neox", NEOX | {"attention_bias": False, "tie_word_embeddings": True,
                  "rope_parameters": {"partial_rotary_factor": 0.5}}),
    ("gpt_neox", {"rope_parameters": {
        "partial_rotary_factor": 0.7, "rope_type": "linear", "factor": 2.0, "rope_theta": 9.0}}),
]


@pytest.fixture(autouse=True)
def quiet() -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


@pytest.fixture
def doubled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "float32", torch.float64)
    monkeypatch.setattr(torch, "float", torch.float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


def saved(folder: Path, kind: str, **settings: Any) -> Any:
    """Save a tiny random model of theirs, all of it random; return it."""
    torch.manual_seed(0)
    config_class, name = CLASS[kind]
    config = getattr(transformers, config_class)(attn_implementation="eager", **SMALL | settings)
    model = getattr(transformers, name)(config).double().eval()
    for p in model.parameters():
        p.data += 0.3 * torch.randn_like(p)
    model.save_pretrained(folder)
    return model


def compare(model: Any, theirs: Any, rtol: float, masks: Any = (None, MASK)) -> None:
    with torch.no_grad():
        for mask in masks:
            given = None if mask is None else torch.tensor(mask)
            expected = theirs(
                torch.tensor(IDS), attention_mask=given, output_hidden_states=True, use_cache=False
            )
            with mm.nn.taps.read(model) as seen:
                logits = model(IDS, mask)
            names = ["embedded", "block.0.out", "block.1.out", "normed"]
            there = np.ones(IDS.shape, bool) if mask is None else mask == 1
            pairs = [(logits, expected.logits)] + [
                (seen[name], state)
                for name, state in zip(names, expected.hidden_states, strict=True)
            ]
            for ours, state in pairs:
                truth = state.numpy()[there]
                np.testing.assert_allclose(
                    ours.data[there], truth, rtol=0, atol=rtol * abs(truth).max()
                )


@pytest.mark.parametrize(("kind", "settings"), CASES)
def test_logits_and_hidden_states(
    tmp_path: Path, doubled: None, kind: str, settings: dict[str, Any]
) -> None:
    theirs = saved(tmp_path, kind, **settings)
    compare(load_pretrained(tmp_path), theirs, rtol=1e-9)


# In mixed precision, theirs is nan where padding stands before the text.
BEHIND = np.where(MASK[:, :1] == 1, MASK, 1)


@pytest.mark.parametrize("kind", CLASS)
def test_as_it_computes_itself(tmp_path: Path, kind: str) -> None:
    theirs = saved(tmp_path, kind, **(NEOX if kind == "gpt_neox" else GROUPED))
    compare(load_pretrained(tmp_path), theirs, 1e-6, (None, BEHIND))


def test_old_names_of_rotary_settings(tmp_path: Path, doubled: None) -> None:
    """`rope_theta` and `rope_scaling`, `rotary_pct` and `rotary_emb_base`, as in older folders."""
    theirs = saved(tmp_path, "llama", rope_parameters=dict(LLAMA3))
    config = json.loads((tmp_path / "config.json").read_text())
    del config["rope_parameters"]
    scaling = {key: value for key, value in LLAMA3.items() if key != "rope_theta"}
    for old in (scaling, {"type": "llama3"} | scaling):
        (tmp_path / "config.json").write_text(
            json.dumps(config | {"rope_theta": 30.0, "rope_scaling": old})
        )
        compare(load_pretrained(tmp_path), theirs, rtol=1e-9)
    theirs = saved(
        tmp_path, "gpt_neox", rope_parameters={"partial_rotary_factor": 0.7, "rope_theta": 40.0}
    )
    config = json.loads((tmp_path / "config.json").read_text())
    del config["rope_parameters"]
    (tmp_path / "config.json").write_text(
        json.dumps(config | {"rotary_pct": 0.7, "rotary_emb_base": 40.0, "rope_scaling": None})
    )
    compare(load_pretrained(tmp_path), theirs, rtol=1e-9)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("kind", CLASS)
def test_several_files_and_smaller_types(tmp_path: Path, kind: str, dtype: str) -> None:
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    theirs = saved(tmp_path / "one", kind, **(NEOX if kind == "gpt_neox" else GROUPED))
    smaller = copy.deepcopy(theirs).to(getattr(torch, dtype))
    smaller.save_pretrained(tmp_path / "several", max_shard_size="2KB")
    theirs.load_state_dict(smaller.state_dict())  # its frequencies stay as they are
    assert len([*(tmp_path / "several").glob("*.safetensors")]) > 3
    model = load_pretrained(tmp_path / "several")
    assert {p.dtype for p in model.parameters()} == {np.dtype("float32")}
    compare(model, theirs, 2e-5, (None, BEHIND))
