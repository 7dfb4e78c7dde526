"""Folders that `transformers` writes: the same logits and hidden states in float64, or a refusal.

Every setting of the library's two config classes, and every key that `load_pretrained` knows, is
given other values. What we load says what the library says; what we refuse is shown to change the
library's numbers, and what we call harmless not to.
"""

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minimono as mm
from minimono.nn.models import load_pretrained
from minimono.nn.models.pretrained import settings as known
from minimono.nn.models.pretrained.bert import HEADS

pytestmark = pytest.mark.parity

IDS = np.random.default_rng(0).integers(0, 20, (2, 9))
SMALL: dict[str, dict[str, Any]] = {
    "gpt2": {"vocab_size": 20, "n_positions": 12, "n_embd": 8, "n_head": 2, "n_layer": 2},
    "bert": {
        "vocab_size": 20, "max_position_embeddings": 12, "hidden_size": 8,
        "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 32,
        "num_labels": 3,
    },
}
CLASS = {"gpt2": "GPT2LMHeadModel", "bert": "BertForSequenceClassification"}


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def transformers() -> Any:
    library = pytest.importorskip("transformers")
    library.logging.set_verbosity_error()
    library.logging.disable_progress_bar()
    return library


def config_class(transformers: Any, kind: str) -> Any:
    return {"gpt2": transformers.GPT2Config, "bert": transformers.BertConfig}[kind]


@pytest.fixture
def save(tmp_path: Path, torch: Any, transformers: Any) -> Any:
    """Save a tiny random model of a class of theirs; return it."""

    def saved(kind: str, name: str = "", **settings: Any) -> Any:
        torch.manual_seed(0)
        config = config_class(transformers, kind)(
            attn_implementation="eager", **SMALL[kind] | settings
        )
        model = getattr(transformers, name or CLASS[kind])(config).double().eval()
        for p in model.parameters():  # biases and gains too, or a swap of them would not show
            p.data += 0.3 * torch.randn_like(p)
        model.save_pretrained(tmp_path)
        return model

    return saved


def answer(torch: Any, model: Any, **options: Any) -> Any:
    with torch.no_grad():
        return model(torch.tensor(IDS), **options)


def close(ours: Any, theirs: Any, rtol: float = 1e-11) -> None:
    theirs = theirs.numpy()
    np.testing.assert_allclose(ours.data, theirs, rtol=0, atol=rtol * abs(theirs).max())


def hidden_states(model: mm.nn.Module, names: list[str]) -> list[Any]:
    with mm.nn.taps.read(model) as seen:
        model(IDS)
    return [seen[name] for name in names]


@pytest.mark.parametrize("activation", known.ACTIVATIONS)
def test_gpt2_logits_and_hidden_states(save: Any, tmp_path: Path, torch: Any, activation: str):
    for extra in ({}, {"n_inner": 11, "layer_norm_epsilon": 0.2, "n_head": 4}):
        theirs = save("gpt2", activation_function=activation, **extra)
        expected = answer(torch, theirs, output_hidden_states=True)
        model = load_pretrained(tmp_path)
        close(model(IDS), expected.logits)
        names = ["embedded", "block.0.out", "normed"]  # their last state is behind the norm
        for ours, state in zip(hidden_states(model, names), expected.hidden_states, strict=True):
            close(ours, state)


@pytest.mark.parametrize("activation", known.ACTIVATIONS)
def test_bert_logits_and_hidden_states(save: Any, tmp_path: Path, torch: Any, activation: str):
    segments, mask = (IDS > 9).astype(np.int64), np.arange(9) < np.array([[9], [5]])
    for extra in ({}, {"intermediate_size": 11, "layer_norm_eps": 0.2, "type_vocab_size": 3}):
        theirs = save("bert", hidden_act=activation, **extra)
        model = load_pretrained(tmp_path)
        expected = answer(torch, theirs, output_hidden_states=True)
        names = ["embedded", "block.0.out", "block.1.out"]
        for ours, state in zip(hidden_states(model, names), expected.hidden_states, strict=True):
            close(ours, state)
        expected = answer(
            torch, theirs,
            token_type_ids=torch.tensor(segments), attention_mask=torch.tensor(mask),
        )
        close(model(IDS, segments, mask), expected.logits)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_smaller_types_are_read_exactly(
    save: Any, tmp_path: Path, torch: Any, kind: str, dtype: str
) -> None:
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    theirs = save(kind).to(getattr(torch, dtype))
    theirs.save_pretrained(tmp_path)
    model = load_pretrained(tmp_path)
    weights = {p.tobytes() for p in model.state_dict().values()}
    embedding = theirs.get_input_embeddings().weight.detach().float().numpy()
    assert embedding.tobytes() in weights
    close(model(IDS), answer(torch, theirs.double()).logits, rtol=1e-5)


def classes_of(transformers: Any, kind: str) -> list[str]:
    models = getattr(transformers.models, kind)
    names = getattr(models, f"modeling_{kind}").__all__
    return [name for name in names if re.search(r"(?<!PreTrained)Model$|For[A-Z]", name)]


LOADED = {
    "GPT2LMHeadModel", "BertForSequenceClassification", "BertForNextSentencePrediction",
    "BertForMultipleChoice",
}


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_every_class_of_the_library(
    save: Any, tmp_path: Path, torch: Any, transformers: Any, kind: str
) -> None:
    """Loaded with their logits, or refused by name; drawn parts stand on their encoder."""
    names = classes_of(transformers, kind)
    assert {CLASS[kind], "BertForTokenClassification", "GPT2ForTokenClassification"} & {*names}
    for name in names:
        theirs = save(kind, name)
        options = {}
        if name == "GPT2Model":  # its folder has no head; the tied one is the language model's
            language = transformers.GPT2LMHeadModel.from_pretrained(tmp_path, dtype=torch.float64)
            close(load_pretrained(tmp_path)(IDS), answer(torch, language).logits)
        elif name == "BertForMultipleChoice":
            with torch.no_grad():
                expected = theirs(torch.tensor(IDS[:, None])).logits  # one choice
            close(load_pretrained(tmp_path)(IDS), expected)
        elif name in LOADED:
            close(load_pretrained(tmp_path)(IDS), answer(torch, theirs).logits)
        else:
            with pytest.raises(ValueError, match=rf"{name}\b"):
                load_pretrained(tmp_path)
            options = {"initialise": 0}
        if name in HEADS and options:
            base = answer(torch, theirs.base_model)
            model = load_pretrained(tmp_path, classes=4, **options)
            close(model.encode(IDS), base.last_hidden_state)
            if base.pooler_output is not None:
                close(hidden_states(model, ["pooled"])[0], base.pooler_output)
            assert model(IDS).shape == (2, 4)
        elif options:
            with pytest.raises(ValueError, match=rf"{name}\b"):
                load_pretrained(tmp_path, **options)


def loaded_with(folder: Path, config: dict[str, Any], **settings: Any) -> Any:
    """Our model of a folder with other settings, or the error."""
    (folder / "config.json").write_text(json.dumps(config | settings))
    try:
        return load_pretrained(folder)
    except ValueError as error:
        return str(error)


# Values to try, of every type; a setting for which they are nonsense is refused, by us and them.
VALUES = [
    True, None, 2, 0.5, False, 0, 1, 4, "gelu", "relu", "relative_key", {}, [], ["x"],
    {"0": {"n_head": 1}},
]


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_a_setting_changed_in_a_folder(
    save: Any, tmp_path: Path, torch: Any, transformers: Any, kind: str
) -> None:
    """The arrays stay: what we still load says what the library says with the same settings."""
    base = save(kind)
    before, state = answer(torch, base).logits, base.state_dict()
    config = json.loads((tmp_path / "config.json").read_text())
    fixed, harmless, sizes = (
        getattr(known, f"{kind.upper()}_{part}") for part in ("FIXED", "HARMLESS", "SIZES")
    )
    of_the_class = {*config_class(transformers, kind)().to_dict(), *config}
    keys = (of_the_class | {*fixed} | harmless | {*sizes}) - {"model_type", "architectures"}
    compared = 0
    for key in sorted(keys):
        values = VALUES if key not in harmless else VALUES[:4] if key in of_the_class else [2]
        for value in values:
            model = loaded_with(tmp_path, config, **{key: value})
            if isinstance(model, str):
                assert "config.json" in model
                assert key not in harmless, model
                continue
            # Where the value is nonsense to the library, it must be harmless to the result, or a
            # whole number that stands for the real one (an epsilon of 1).
            expected = before if key in harmless else None
            with suppress(Exception):
                settings = config_class(transformers, kind).from_pretrained(tmp_path)
                settings._attn_implementation = "eager"
                library = type(base)(settings).double().eval()
                library.load_state_dict(state)
                expected = answer(torch, library, return_dict=True).logits
                compared += 1
            if expected is None:
                assert key.startswith("layer_norm_eps"), (key, value)
            else:
                close(model(IDS), expected, TOLERANCE.get(key, 1e-11))
    assert compared > 60


TOLERANCE = {"reorder_and_upcast_attn": 1e-6}  # the library's scores are then float32


# (setting, value): does it change the library's numbers? Where not, an older version's did.
REFUSED = {
    "gpt2": [
        ("scale_attn_weights", False, True), ("scale_attn_by_inverse_layer_idx", True, True),
        ("activation_function", "quick_gelu", True), ("activation_function", "mish", True),
        ("activation_function", "gelu_fast", True), ("activation_function", "linear", True),
        ("add_cross_attention", True, False),  # but its arrays have no place in ours
        ("is_decoder", True, False), ("n_special", 1, False),
    ],
    "bert": [
        ("is_decoder", True, True), ("hidden_act", "relu6", True), ("hidden_act", "mish", True),
        ("position_embedding_type", "relative_key", False), ("directionality", "uni", False),
        ("pooler_type", "mean", False),
    ],
}


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_what_is_refused_changes_numbers(
    save: Any, tmp_path: Path, torch: Any, kind: str
) -> None:
    base = save(kind)
    before, state = answer(torch, base).logits, base.state_dict()
    config = json.loads((tmp_path / "config.json").read_text())
    for key, value, changes in REFUSED[kind]:
        assert rf"{key} = {value!r}, expected" in loaded_with(tmp_path, config, **{key: value})
        theirs = save(kind, **{key: value})
        theirs.load_state_dict(state, strict=False)
        difference = (answer(torch, theirs).logits - before).abs().max()
        assert bool(difference > 1e-13) == changes, key


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_a_setting_of_a_new_model(
    save: Any, tmp_path: Path, torch: Any, transformers: Any, kind: str
) -> None:
    """The model is made with the setting: our logits are its logits, or we refuse."""
    compared = 0
    for key, default in config_class(transformers, kind)().to_dict().items():
        others: list[Any] = {
            bool: [not default], int: [2, 16], float: [0.3],
        }.get(type(default), [None, 1, "gelu_new", "relu", 24])
        for value in others:
            expected = None
            with suppress(Exception):  # no model of theirs has it
                theirs = save(kind, **{key: value})
                expected = answer(torch, theirs, return_dict=True).logits
            if expected is None:
                continue
            model = loaded_with(tmp_path, json.loads((tmp_path / "config.json").read_text()))
            if isinstance(model, str):
                assert key in model
                continue
            compared += 1
            close(model(IDS), expected, TOLERANCE.get(key, 1e-11))
    assert compared > 40


def test_a_head_that_was_trained_apart_is_refused(save: Any, tmp_path: Path, torch: Any) -> None:
    tied = answer(torch, save("gpt2")).logits
    assert (answer(torch, save("gpt2", tie_word_embeddings=False)).logits - tied).abs().max() > 1
    config = json.loads((tmp_path / "config.json").read_text())
    assert "tie_word_embeddings = False, expected True" in loaded_with(tmp_path, config)
    error = loaded_with(tmp_path, config, tie_word_embeddings=True)
    assert re.search(r"lm_head\.weight differs from wte\.weight", error)
