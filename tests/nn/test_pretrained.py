"""Folders of weights written by hand: what they compute, and that every misfit is named.

The truth is `gpt2` and `bert` below: the two networks in plain float64 NumPy, from the arrays and
settings of a folder as they lie there. `test_pretrained_parity.py` has the library that writes such
folders say the same.
"""

import json
import math
import os
import shutil
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folders import ACTIVATIONS, Arrays, close, drawn, norm, refused, write

from minimono.nn.models import load_pretrained
from minimono.nn.models.pretrained import bert as bert_folders
from minimono.nn.models.pretrained import gpt2 as gpt2_folders
from minimono.nn.models.pretrained import settings
from minimono.nn.models.pretrained.arrays import Arrays as StoredArrays

safetensors = pytest.importorskip("safetensors")

IDS = np.random.default_rng(0).integers(0, 11, (2, 5))
SEGMENTS = np.array([[0, 0, 1, 1, 1], [0, 1, 1, 1, 1]])
MASK = np.array([[True] * 5, [True, True, True, False, False]])

GPT2 = {
    "model_type": "gpt2", "vocab_size": 11, "n_positions": 6, "n_embd": 4, "n_head": 2,
    "n_layer": 2,
}
BERT = {
    "model_type": "bert", "vocab_size": 11, "max_position_embeddings": 6, "hidden_size": 4,
    "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 16,
    "id2label": {"0": "bad", "1": "fair", "2": "good"},
}


def gpt2_arrays(hidden: int = 16, vocabulary: int = 11) -> Arrays:
    shapes: dict[str, tuple[int, ...]] = {"wte.weight": (vocabulary, 4), "wpe.weight": (6, 4)}
    for i in range(2):
        for name, *shape in (
            ("attn.c_attn", 4, 12), ("attn.c_proj", 4, 4), ("mlp.c_fc", 4, hidden),
            ("mlp.c_proj", hidden, 4), ("ln_1", 4), ("ln_2", 4),
        ):
            shapes[f"h.{i}.{name}.weight"] = tuple(shape)
            shapes[f"h.{i}.{name}.bias"] = (shape[-1],)
    return drawn(shapes | {"ln_f.weight": (4,), "ln_f.bias": (4,)})


def bert_arrays(hidden: int = 16, classes: int = 3) -> Arrays:
    shapes: dict[str, tuple[int, ...]] = {
        f"bert.embeddings.{name}_embeddings.weight": (rows, 4)
        for name, rows in (("word", 11), ("position", 6), ("token_type", 2))
    }
    layers = [("bert.embeddings.LayerNorm", 4), ("bert.pooler.dense", 4, 4)]
    for i in range(2):
        layers += [
            (f"bert.encoder.layer.{i}.{name}", *shape)
            for name, *shape in (
                ("attention.self.query", 4, 4), ("attention.self.key", 4, 4),
                ("attention.self.value", 4, 4), ("attention.output.dense", 4, 4),
                ("attention.output.LayerNorm", 4), ("intermediate.dense", hidden, 4),
                ("output.dense", 4, hidden), ("output.LayerNorm", 4),
            )
        ]
    for name, *shape in [*layers, ("classifier", classes, 4)]:
        shapes |= {f"{name}.weight": tuple(shape), f"{name}.bias": (shape[0],)}
    return drawn(shapes)


# ---- the truth ----------------------------------------------------------------------------------


def mixed(q: np.ndarray, k: np.ndarray, v: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Attention of two heads; `allowed` is (B or 1, 1, T or 1, T)."""
    q, k, v = (part.reshape(2, 5, 2, 2).swapaxes(1, 2) for part in (q, k, v))
    scores = np.where(allowed, q @ k.swapaxes(2, 3) / math.sqrt(2), -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return (weights / weights.sum(-1, keepdims=True) @ v).swapaxes(1, 2).reshape(2, 5, 4)


def gpt2(config: dict[str, Any], a: Arrays) -> np.ndarray:
    eps = config.get("layer_norm_epsilon", 1e-5)
    activation = ACTIVATIONS[config.get("activation_function", "gelu_new")]
    x = a["wte.weight"][IDS] + a["wpe.weight"][:5]
    for h in ("h.0.", "h.1."):
        n = norm(a, h + "ln_1", x, eps)
        qkv = n @ a[h + "attn.c_attn.weight"] + a[h + "attn.c_attn.bias"]
        y = mixed(*np.split(qkv, 3, axis=-1), np.tri(5, dtype=bool)[None, None])
        x = x + y @ a[h + "attn.c_proj.weight"] + a[h + "attn.c_proj.bias"]
        n = norm(a, h + "ln_2", x, eps)
        y = activation(n @ a[h + "mlp.c_fc.weight"] + a[h + "mlp.c_fc.bias"])
        x = x + y @ a[h + "mlp.c_proj.weight"] + a[h + "mlp.c_proj.bias"]
    return norm(a, "ln_f", x, eps) @ a["wte.weight"].T


def bert_hidden(config: dict[str, Any], a: Arrays) -> np.ndarray:
    a = {name.removeprefix("bert."): array for name, array in a.items()}
    eps = config.get("layer_norm_eps", 1e-12)
    activation = ACTIVATIONS[config.get("hidden_act", "gelu")]

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        return x @ a[f"{name}.weight"].T + a[f"{name}.bias"]

    e = "embeddings."
    x = a[e + "word_embeddings.weight"][IDS] + a[e + "position_embeddings.weight"][:5]
    x = norm(a, e + "LayerNorm", x + a[e + "token_type_embeddings.weight"][SEGMENTS], eps)
    for b in ("encoder.layer.0.", "encoder.layer.1."):
        q, k, v = (linear(f"{b}attention.self.{n}", x) for n in ("query", "key", "value"))
        y = linear(b + "attention.output.dense", mixed(q, k, v, MASK[:, None, None]))
        x = norm(a, b + "attention.output.LayerNorm", x + y, eps)
        y = linear(b + "output.dense", activation(linear(b + "intermediate.dense", x)))
        x = norm(a, b + "output.LayerNorm", x + y, eps)
    return x


def bert(config: dict[str, Any], a: Arrays, head: str = "classifier") -> np.ndarray:
    first = bert_hidden(config, a)[:, 0]
    pooled = np.tanh(first @ a["bert.pooler.dense.weight"].T + a["bert.pooler.dense.bias"])
    return pooled @ a[f"{head}.weight"].T + a[f"{head}.bias"]


# ---- what is computed ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_gpt2(tmp_path: Path, name: str) -> None:
    for config in (GPT2, {**GPT2, "n_inner": 7, "layer_norm_epsilon": 0.3, "n_head": 2}):
        config = {**config, "activation_function": name}
        arrays = gpt2_arrays(hidden=config.get("n_inner", 16))
        model = load_pretrained(write(tmp_path, config, arrays))
        assert not model.training
        close(model(IDS), gpt2(config, arrays))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_bert(tmp_path: Path, name: str) -> None:
    for config in (BERT, {**BERT, "intermediate_size": 7, "layer_norm_eps": 0.3}):
        config = {**config, "hidden_act": name}
        arrays = bert_arrays(hidden=config["intermediate_size"])
        model = load_pretrained(write(tmp_path, config, arrays))
        assert not model.training
        close(model(IDS, SEGMENTS, MASK), bert(config, arrays))


def test_every_activation_that_is_read_is_tested() -> None:
    assert {*ACTIVATIONS} == {*settings.ACTIVATIONS}


@pytest.mark.parametrize("prefix", ["", "transformer.", "model.", "model.transformer."])
def test_prefixes_of_gpt2(tmp_path: Path, prefix: str) -> None:
    arrays = gpt2_arrays()
    stored = {prefix + name: array for name, array in arrays.items()}
    close(load_pretrained(write(tmp_path, GPT2, stored))(IDS), gpt2(GPT2, arrays))


@pytest.mark.parametrize("prefix", ["", "bert.", "model.", "model.bert."])
def test_prefixes_and_old_names_of_bert(tmp_path: Path, prefix: str) -> None:
    arrays = bert_arrays()
    for old in (False, True):
        stored = {prefix + name.removeprefix("bert."): array for name, array in arrays.items()}
        if old:  # as in bert-base-uncased
            stored = {
                name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
                    "LayerNorm.bias", "LayerNorm.beta"
                ): array
                for name, array in stored.items()
            }
            assert prefix + "embeddings.LayerNorm.gamma" in stored
        model = load_pretrained(write(tmp_path, BERT, stored))
        close(model(IDS, SEGMENTS, MASK), bert(BERT, arrays))


def test_two_names_for_one_array(tmp_path: Path) -> None:
    arrays = bert_arrays()
    new, old = (f"bert.embeddings.LayerNorm.{name}" for name in ("weight", "gamma"))
    arrays[old] = arrays[new].copy()
    close(load_pretrained(write(tmp_path, BERT, arrays))(IDS, SEGMENTS, MASK), bert(BERT, arrays))
    arrays[old][2] += 1e-9
    refused(write(tmp_path, BERT, arrays), rf"both {old} and {new}, which differ")
    arrays = gpt2_arrays()
    arrays["transformer.ln_f.bias"] = arrays["ln_f.bias"][:3]
    refused(write(tmp_path, GPT2, arrays), r"both ln_f\.bias and transformer\.ln_f\.bias")


def test_other_names_of_gpt2_settings(tmp_path: Path) -> None:
    config = {
        "model_type": "gpt2", "vocab_size": 11, "max_position_embeddings": 6, "hidden_size": 4,
        "num_attention_heads": 2, "num_hidden_layers": 2,
    }
    arrays = gpt2_arrays()
    close(load_pretrained(write(tmp_path, config, arrays))(IDS), gpt2(GPT2, arrays))
    refused(
        write(tmp_path, {**config, "n_head": 1}, arrays),
        r"num_attention_heads = 2, expected 1 as in n_head",
    )
    refused(write(tmp_path, {**config, "n_layer": 2.0}, arrays), r"num_hidden_layers = 2, .*2\.0")


def test_stored_types(tmp_path: Path) -> None:
    """float64 makes a float64 model; halves become float32 without a rounding."""
    arrays = {name: array.astype(np.float16) for name, array in gpt2_arrays().items()}
    exact = {name: array.astype(np.float64) for name, array in arrays.items()}
    for dtype, result in (("float16", "float32"), ("float32", "float32"), ("float64", "float64")):
        model = load_pretrained(write(tmp_path, GPT2, arrays, dtype=dtype))
        state = model.state_dict()
        assert {p.dtype for p in state.values()} == {np.dtype(result)}
        np.testing.assert_array_equal(
            state["block.1.mlp.up.weight"], exact["h.1.mlp.c_fc.weight"].T
        )
        close(model(IDS), gpt2(GPT2, exact), rtol=1e-5 if result == "float32" else 1e-12)


def bfloat16(array: np.ndarray) -> np.ndarray:
    """The upper half of each float32, as uint16."""
    return (array.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def test_bfloat16(tmp_path: Path) -> None:
    pytest.importorskip("ml_dtypes")
    stored = {name: bfloat16(array) for name, array in gpt2_arrays().items()}
    exact = {n: (a.astype(np.uint32) << 16).view(np.float32) for n, a in stored.items()}
    state = load_pretrained(write(tmp_path, GPT2, stored)).state_dict()
    assert state["token.weight"].dtype == np.float32
    np.testing.assert_array_equal(state["token.weight"], exact["wte.weight"])


def test_libraries_that_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = {name: bfloat16(array) for name, array in gpt2_arrays().items()}
    write(tmp_path, GPT2, stored)
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(RuntimeError, match=r"wte\.weight, needs ml_dtypes.*pip install ml_dtypes$"):
        load_pretrained(tmp_path)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(RuntimeError, match=r"needs safetensors, .*: pip install safetensors$"):
        load_pretrained(tmp_path)


def test_weights_are_read_one_at_a_time_and_belong_to_the_model(tmp_path: Path) -> None:
    folder = write(tmp_path, GPT2, gpt2_arrays())
    model = load_pretrained(folder)
    before = model.state_dict()
    shutil.rmtree(folder)
    for p in model.parameters():
        assert p.data.flags.carray  # in order and writeable
        assert p.requires_grad
        p.data = p.data + 1
    for name, p in model.named_parameters():
        np.testing.assert_array_equal(p.data, before[name] + 1)


# ---- heads --------------------------------------------------------------------------------------


def bert_without(*prefixes: str) -> Arrays:
    return {k: v for k, v in bert_arrays().items() if not k.startswith(prefixes)}


def named(name: str, config: dict[str, Any] = BERT) -> dict[str, Any]:
    return {**config, "architectures": [name]}


def test_a_classifier_of_texts_is_loaded(tmp_path: Path) -> None:
    arrays = bert_arrays()
    for config in (BERT, named("BertForSequenceClassification"), {**BERT, "architectures": None}):
        write(tmp_path, config, arrays)
        for options in ({}, {"classes": 3}, {"initialise": 1}, {"classes": 3, "initialise": 1}):
            model = load_pretrained(tmp_path, **options)
            close(model(IDS, SEGMENTS, MASK), bert(BERT, arrays))
    two = {k: v for k, v in BERT.items() if k != "id2label"}  # two classes unless it is said
    for said, classes in (({}, 2), ({"num_labels": 5}, 5), ({"id2label": None}, 2)):
        arrays = bert_arrays(classes=classes)
        model = load_pretrained(write(tmp_path, {**two, **said}, arrays))
        close(model(IDS, SEGMENTS, MASK), bert(BERT, arrays))
    refused(write(tmp_path, BERT, bert_arrays(classes=4)), r"classifier\.weight of shape \(4, 4\)")
    refused(
        write(tmp_path, {**BERT, "num_labels": 4}, bert_arrays()),
        "num_labels = 4, expected 3, as there are names in id2label",
    )


def test_heads_that_judge_a_text_by_another_name(tmp_path: Path) -> None:
    arrays = bert_arrays(classes=1)
    write(tmp_path, named("BertForMultipleChoice"), arrays)
    close(load_pretrained(tmp_path)(IDS, SEGMENTS, MASK), bert(BERT, arrays))
    arrays = bert_arrays(classes=2)
    for part in ("weight", "bias"):
        arrays[f"cls.seq_relationship.{part}"] = arrays.pop(f"classifier.{part}")
    for config in (named("BertForNextSentencePrediction"), BERT):
        write(tmp_path, config, arrays)
        close(
            load_pretrained(tmp_path)(IDS, SEGMENTS, MASK),
            bert(BERT, arrays, head="cls.seq_relationship"),
        )


CLS = {
    "cls.predictions.bias": np.zeros(11), "cls.predictions.transform.dense.weight": np.eye(4),
    "cls.predictions.transform.LayerNorm.gamma": np.ones(4),
}
NEXT = {"cls.seq_relationship.weight": np.ones((2, 4)), "cls.seq_relationship.bias": np.ones(2)}
QA = {"qa_outputs.weight": np.ones((2, 4)), "qa_outputs.bias": np.ones(2)}
POOLED = bert_without("classifier")
BARE = bert_without("classifier", "bert.pooler")
TOKENS = bert_without("bert.pooler")


@pytest.mark.parametrize(
    ("name", "arrays", "lacking"),
    [
        ("BertModel", POOLED, "a classifier of texts"),
        ("BertModel", BARE, "a pooler and a classifier of texts"),
        ("BertForMaskedLM", BARE | CLS, "a pooler and a classifier of texts"),
        ("BertForMaskedLM", POOLED | CLS | NEXT, "a classifier of texts"),  # bert-base-uncased
        ("BertForPreTraining", POOLED | CLS | NEXT, "a classifier of texts"),
        ("BertForTokenClassification", TOKENS, "a pooler and a classifier of texts"),
        ("BertForTokenClassification", bert_arrays(), "a classifier of texts"),
        ("BertForQuestionAnswering", BARE | QA, "a pooler and a classifier of texts"),
        ("BertForSequenceClassification", TOKENS, "a pooler"),
        ("BertForSequenceClassification", POOLED, "a classifier of texts"),
    ],
)
def test_what_a_folder_lacks_is_drawn_when_asked(
    tmp_path: Path, name: str, arrays: Arrays, lacking: str
) -> None:
    write(tmp_path, named(name), arrays)
    refused(tmp_path, rf"a {name} lack {lacking}; .*initialise=0")
    refused(tmp_path, rf"a {name} lack {lacking}", classes=3)
    model = load_pretrained(tmp_path, initialise=0)
    close(model.encode(IDS, SEGMENTS, MASK), bert_hidden(BERT, arrays))
    state = model.state_dict()
    new = [part for part in ("pooler", "classifier") if part in lacking]
    for part in new:
        assert state[f"{part}.weight"].any()
        assert not state[f"{part}.bias"].any()
    if "pooler" not in new:
        np.testing.assert_array_equal(state["pooler.weight"], arrays["bert.pooler.dense.weight"])
    if "classifier" not in new:
        np.testing.assert_array_equal(state["classifier.weight"], arrays["classifier.weight"])
    same = load_pretrained(tmp_path, initialise=np.random.default_rng(0)).state_dict()
    other = load_pretrained(tmp_path, initialise=1).state_dict()
    for key, value in state.items():
        np.testing.assert_array_equal(value, same[key])
        assert np.array_equal(value, other[key]) != (key in {f"{part}.weight" for part in new})
    if "BertForSequenceClassification" not in name or "classifier" in new:
        assert load_pretrained(tmp_path, classes=5, initialise=0)(IDS).shape == (2, 5)
    if name not in ("BertForSequenceClassification", "BertForTokenClassification"):
        write(tmp_path, BERT, arrays)  # the arrays alone say the same
        refused(tmp_path, f"lack {lacking}")


def test_what_is_drawn_is_drawn_as_in_bert(tmp_path: Path) -> None:
    """Normal, with the folder's own spread, and bias 0; 0.02 where it names none."""
    rng, C = np.random.default_rng(2), 60
    shapes = {k: tuple(C if n == 4 else n for n in v.shape) for k, v in BARE.items()}
    arrays = {k: 0.02 * rng.standard_normal(shape) for k, shape in shapes.items()}
    for spread in ({}, {"initializer_range": 0.5}):
        config = {**BERT, "hidden_size": C, "num_attention_heads": 6, **spread}
        model = load_pretrained(write(tmp_path, config, arrays), classes=50, initialise=3)
        expected = spread.get("initializer_range", 0.02)
        for part in ("pooler", "classifier"):
            weight = model.state_dict()[f"{part}.weight"] / expected
            assert abs(weight.mean()) < 4 / math.sqrt(weight.size)
            assert abs(weight.std() - 1) < 4 / math.sqrt(2 * weight.size)
            assert not model.state_dict()[f"{part}.bias"].any()
    refused(
        write(tmp_path, {**config, "initializer_range": 0}, arrays),
        "initializer_range = 0, expected a number above 0", initialise=3,
    )


def test_another_number_of_classes_is_a_new_classifier(tmp_path: Path) -> None:
    arrays = bert_arrays()
    write(tmp_path, BERT, arrays)
    refused(tmp_path, r"lack a classifier of 5 classes \(it has one of 3\)", classes=5)
    state = load_pretrained(tmp_path, classes=5, initialise=0).state_dict()
    assert state["classifier.weight"].shape == (5, 4)
    np.testing.assert_array_equal(state["pooler.weight"], arrays["bert.pooler.dense.weight"])
    refused(write(tmp_path, GPT2, gpt2_arrays()), "classes = 5, but a GPT-2 has no", classes=5)


@pytest.mark.parametrize("value", ["3", 3.0, True, [3]])
def test_arguments_of_a_wrong_type(tmp_path: Path, value: Any) -> None:
    write(tmp_path, BERT, POOLED)
    with pytest.raises(TypeError, match=r"load_pretrained: classes is .* whole number"):
        load_pretrained(tmp_path, classes=value, initialise=0)
    with pytest.raises(TypeError, match=r"load_pretrained: initialise is .* whole number"):
        load_pretrained(tmp_path, initialise=value)
    for name, wrong in (("classes", 0), ("initialise", -1)):
        with pytest.raises(ValueError, match=rf"load_pretrained: {name} is {wrong}, expected"):
            load_pretrained(tmp_path, **{name: wrong})


@pytest.mark.parametrize(
    "name",
    ["GPT2DoubleHeadsModel", "GPT2ForSequenceClassification", "GPT2ForTokenClassification",
     "GPT2ForQuestionAnswering", "BertModel", "MyGPT2LMHeadModel"],
)
def test_classes_of_gpt2_that_are_no_language_models(tmp_path: Path, name: str) -> None:
    arrays = gpt2_arrays()
    for good in ("GPT2LMHeadModel", "GPT2Model"):
        close(load_pretrained(write(tmp_path, named(good, GPT2), arrays))(IDS), gpt2(GPT2, arrays))
    refused(write(tmp_path, named(name, GPT2), arrays), rf"architectures = \['{name}'\], expected")


@pytest.mark.parametrize("name", ["BertLMHeadModel", "BertGenerationDecoder", "GPT2LMHeadModel"])
def test_classes_of_bert_that_are_not_here(tmp_path: Path, name: str) -> None:
    write(tmp_path, named(name), bert_arrays())
    refused(tmp_path, rf"architectures = \['{name}'\], expected", initialise=0)


@pytest.mark.parametrize("names", ["BertModel", [], ["BertModel"] * 2, [1], {}, 3, [["x"]]])
def test_architectures_that_are_no_list_of_one(tmp_path: Path, names: Any) -> None:
    refused(
        write(tmp_path, {**BERT, "architectures": names}, bert_arrays()),
        "architectures = .*, expected a list of one name",
    )


@pytest.mark.parametrize(
    "name",
    ["score.weight", "classifier.weight", "qa_outputs.bias", "multiple_choice_head.summary.weight",
     "h.0.crossattention.c_attn.weight", "h.0.ln_cross_attn.weight", "h.2.ln_1.weight",
     "h.0.attn.c_attn.lora_A", "h.0.attn.c_attn.weight_scale", "h.0.mlp.c_fc.g_idx", "wte.bias"],
)
def test_arrays_without_a_place_in_gpt2(tmp_path: Path, name: str) -> None:
    write(tmp_path, GPT2, {**gpt2_arrays(), name: np.ones(3)})
    refused(tmp_path, rf"1 arrays without a place .*{name}")


@pytest.mark.parametrize(
    "name",
    ["bert.encoder.layer.0.crossattention.self.query.weight", "bert.encoder.layer.2.x",
     "bert.encoder.layer.0.attention.self.distance_embedding.weight", "cls.predictions.bias",
     "bert.embeddings.word_embeddings.bias", "qa_outputs.weight", "dropout.p"],
)
def test_arrays_without_a_place_in_bert(tmp_path: Path, name: str) -> None:
    arrays = {**bert_arrays(), name: np.ones(3)}
    write(tmp_path, named("BertForSequenceClassification"), arrays)
    refused(tmp_path, rf"1 arrays without a place .*{name.removeprefix('bert.')}")


def test_buffers_of_older_versions_are_left_alone(tmp_path: Path) -> None:
    arrays = gpt2_arrays()
    buffers = {
        "h.0.attn.bias": np.tri(6, dtype=np.int8).reshape(1, 1, 6, 6),
        "h.1.attn.masked_bias": np.array(-1e4),
    }
    close(load_pretrained(write(tmp_path, GPT2, arrays | buffers))(IDS), gpt2(GPT2, arrays))
    arrays = bert_arrays()
    buffers = {"bert.embeddings.position_ids": np.arange(6)[None]}
    close(
        load_pretrained(write(tmp_path, BERT, arrays | buffers))(IDS, SEGMENTS, MASK),
        bert(BERT, arrays),
    )


def test_a_head_of_its_own_is_refused(tmp_path: Path) -> None:
    arrays = gpt2_arrays()
    tied = {**arrays, "lm_head.weight": arrays["wte.weight"].copy()}
    close(load_pretrained(write(tmp_path, GPT2, tied))(IDS), gpt2(GPT2, arrays))
    tied["lm_head.weight"][3, 1] += 1e-9
    refused(write(tmp_path, GPT2, tied), r"lm_head\.weight differs from wte\.weight")
    tied["lm_head.weight"] = arrays["wte.weight"][:5]
    refused(write(tmp_path, GPT2, tied), r"lm_head\.weight differs from wte\.weight")


# ---- settings -----------------------------------------------------------------------------------


def both(tmp_path: Path) -> Iterator[tuple[dict[str, Any], Arrays]]:
    yield GPT2, gpt2_arrays()
    yield BERT, bert_arrays()


OTHERS = [True, False, 0, 1, 2.5, "relative_key", "mean", None, [], {"0": {"n_head": 1}}]


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_settings_with_one_value(tmp_path: Path, kind: str) -> None:
    config, arrays = (GPT2, gpt2_arrays()) if kind == "gpt2" else (BERT, bert_arrays())
    write(tmp_path, config, arrays)
    for key, only in (settings.GPT2_FIXED if kind == "gpt2" else settings.BERT_FIXED).items():
        (tmp_path / "config.json").write_text(json.dumps({**config, key: only}))
        load_pretrained(tmp_path)
        for value in OTHERS:
            if repr(value) != repr(only):
                (tmp_path / "config.json").write_text(json.dumps({**config, key: value}))
                refused(tmp_path, rf"{key} = .*, expected .*nothing else is computed here")


@pytest.mark.parametrize("key", ["n_embed", "rope_scaling", "auto_map", "head_dim", "alibi", ""])
def test_settings_that_nobody_knows(tmp_path: Path, key: str) -> None:
    for config, arrays in both(tmp_path):
        write(tmp_path, {**config, key: None}, arrays)
        refused(tmp_path, rf"'{key}' = None, which may change numbers .*take it out")


def test_settings_of_the_other_kind_are_unknown(tmp_path: Path) -> None:
    refused(write(tmp_path, {**GPT2, "hidden_act": "relu"}, gpt2_arrays()), "'hidden_act'")
    refused(write(tmp_path, {**BERT, "n_inner": 16}, bert_arrays()), "'n_inner'")


SIZES = [
    *(("gpt2", key) for key in [*settings.GPT2_SIZES, *settings.GPT2_OTHER_NAMES, "n_inner"]),
    *(("bert", key) for key in [*settings.BERT_SIZES, "num_labels"]),
]


@pytest.mark.parametrize(("kind", "key"), SIZES)
def test_sizes_that_are_none(tmp_path: Path, kind: str, key: str) -> None:
    config, arrays = (GPT2, gpt2_arrays()) if kind == "gpt2" else (BERT, bert_arrays())
    other = settings.GPT2_OTHER_NAMES.get(key) if kind == "gpt2" else "id2label"
    config = {k: v for k, v in config.items() if k != other}
    write(tmp_path, config, arrays)
    for value in ("12", 12.0, 1e999, -1, 0, True, False, None, [12], {}):
        if (key, value) == ("n_inner", None):
            continue
        (tmp_path / "config.json").write_text(json.dumps({**config, key: value}))
        name = settings.GPT2_OTHER_NAMES.get(key, key) if kind == "gpt2" else key
        refused(tmp_path, rf"{name} = .*, expected a whole number of at least 1")


@pytest.mark.parametrize(("kind", "key"), SIZES)
@pytest.mark.parametrize("value", [7, 10**6, 10**9, 2**63, 10**300])
def test_sizes_that_the_arrays_do_not_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, key: str, value: int
) -> None:
    """Compared with the file's header, before a network is made and an array is read."""
    config, arrays = (GPT2, gpt2_arrays()) if kind == "gpt2" else (BERT, bert_arrays())
    other = settings.GPT2_OTHER_NAMES.get(key) if kind == "gpt2" else "id2label"
    config = {k: v for k, v in config.items() if k != other}
    write(tmp_path, {**config, key: value}, arrays)
    for module, name in ((gpt2_folders, "GPT"), (bert_folders, "BERT")):
        monkeypatch.setattr(module, name, lambda **_: pytest.fail("a network was made"))
    monkeypatch.setattr(StoredArrays, "_read", lambda *_: pytest.fail("an array was read"))
    refused(tmp_path, "config.json (asks for|has)")


@pytest.mark.parametrize("key", sorted({*settings.GPT2_SIZES, *settings.BERT_SIZES}))
def test_a_missing_size_is_the_library_s(tmp_path: Path, key: str) -> None:
    for config, arrays in both(tmp_path):
        if key in config:  # the library's is another, and misfits
            write(tmp_path, {k: v for k, v in config.items() if k != key}, arrays)
            refused(tmp_path, "config.json (asks for|has)")


def test_a_number_of_classes_that_nothing_bounds(tmp_path: Path) -> None:
    config = {k: v for k, v in BERT.items() if k != "id2label"} | {"num_labels": 10**9}
    write(tmp_path, config, POOLED)
    refused(tmp_path, "num_labels = 1000000000, expected at most vocab_size = 11", initialise=0)
    assert load_pretrained(tmp_path, classes=20, initialise=0)(IDS).shape == (2, 20)


@pytest.mark.parametrize("value", ["1e-5", 0, -1e-5, True, None, 1e999, 10**400, float("nan"), []])
def test_epsilons_that_are_none(tmp_path: Path, value: Any) -> None:
    for (config, arrays), key in zip(
        both(tmp_path), ("layer_norm_epsilon", "layer_norm_eps"), strict=True
    ):
        write(tmp_path, {**config, key: value}, arrays)
        refused(tmp_path, rf"{key} = .*, expected a number above 0")


@pytest.mark.parametrize("value", ["gelu_fast", "quick_gelu", "mish", "", None, ["relu"]])
def test_activations_that_are_not_here(tmp_path: Path, value: Any) -> None:
    for (config, arrays), key in zip(
        both(tmp_path), ("activation_function", "hidden_act"), strict=True
    ):
        write(tmp_path, {**config, key: value}, arrays)
        refused(tmp_path, rf"{key} = .*, expected one of \['gelu'")


@pytest.mark.parametrize("value", [{}, [], "3", 4, [1, 2]])
def test_names_of_classes_that_are_none(tmp_path: Path, value: Any) -> None:
    refused(write(tmp_path, {**BERT, "id2label": value}, bert_arrays()), "id2label = .*, expected")


def test_heads_divide_the_channels(tmp_path: Path) -> None:
    refused(
        write(tmp_path, {**GPT2, "n_head": 3}, gpt2_arrays()),
        "n_head = 3, expected a divisor of n_embd = 4",
    )
    refused(
        write(tmp_path, {**BERT, "num_attention_heads": 8}, bert_arrays()),
        "num_attention_heads = 8, expected a divisor of hidden_size = 4",
    )


GPT2_AS_PUBLISHED = {
    "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1,
    "bos_token_id": 50256, "embd_pdrop": 0.1, "eos_token_id": 50256, "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05, "model_type": "gpt2", "n_ctx": 1024, "resid_pdrop": 0.1,
    "summary_activation": None, "summary_first_dropout": 0.1, "summary_proj_to_labels": True,
    "summary_type": "cls_index", "summary_use_proj": True, "n_special": 0,
    "predict_special_tokens": True, "output_past": True,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
}
BERT_AS_PUBLISHED = {
    "architectures": ["BertForMaskedLM"], "attention_probs_dropout_prob": 0.1,
    "gradient_checkpointing": False, "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
    "initializer_range": 0.02, "layer_norm_eps": 1e-12, "model_type": "bert", "pad_token_id": 0,
    "position_embedding_type": "absolute", "transformers_version": "4.6.0.dev0",
    "type_vocab_size": 2, "use_cache": True,
    # and what bert-base-chinese adds
    "directionality": "bidi", "pooler_fc_size": 768, "pooler_num_attention_heads": 12,
    "pooler_num_fc_layers": 3, "pooler_size_per_head": 128,
    "pooler_type": "first_token_transform",
}


def test_the_settings_of_published_folders(tmp_path: Path) -> None:
    """The config.json of gpt2, gpt2-medium, gpt2-xl, bert-base-uncased, bert-base-chinese."""
    arrays = gpt2_arrays()
    write(tmp_path, GPT2_AS_PUBLISHED | GPT2, arrays)
    close(load_pretrained(tmp_path)(IDS), gpt2(GPT2, arrays))
    write(tmp_path, BERT_AS_PUBLISHED | BERT, POOLED | CLS | NEXT)
    model = load_pretrained(tmp_path, classes=2, initialise=0)
    close(model.encode(IDS, SEGMENTS, MASK), bert_hidden(BERT, POOLED))


# ---- files --------------------------------------------------------------------------------------


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"config\.json does not exist$"):
        load_pretrained(tmp_path)
    write(tmp_path, GPT2, gpt2_arrays())
    weights = tmp_path / "model.safetensors"
    weights.rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"not exist, nor .* a pickle, .*save_pre"):
        load_pretrained(str(tmp_path))
    os.symlink(weights, weights)
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors does not exist"):
        load_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"config\.json does not exist"):
        load_pretrained(tmp_path / "config.json")


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"null", b"[]", b"3", b'"gpt2"', b"\xff\xfe{}", b"[" * 100_000, b"1" * 10_000,
     b'{"vocab_size": ' + b"9" * 5000 + b"}", b" " * 10_000_001, b"\xef\xbb\xbf{}"],
    ids=lambda text: repr(text[:12]),
)
def test_a_config_that_is_none(tmp_path: Path, text: bytes) -> None:
    write(tmp_path, GPT2, gpt2_arrays())
    (tmp_path / "config.json").write_bytes(text)
    refused(tmp_path, r"config\.json (is not JSON|has 10000001 bytes|holds)")


@pytest.mark.parametrize("kind", ["gptj", "GPT2", None, ["gpt2"], {}, 2, "x" * 10**6])
def test_other_kinds_of_model(tmp_path: Path, kind: Any) -> None:
    write(tmp_path, {**GPT2, "model_type": kind}, gpt2_arrays())
    with pytest.raises(ValueError, match=r"model_type = .*one of \['gpt2', ") as error:
        load_pretrained(tmp_path)
    assert len(str(error.value)) < 300


def test_weights_that_cannot_be_read(tmp_path: Path) -> None:
    whole = (write(tmp_path, GPT2, gpt2_arrays()) / "model.safetensors").read_bytes()
    lies: list[bytes] = [
        b"", b"not weights", whole[:-1], whole[:100], whole + b"1", b"\xff" * 8 + whole[8:],
        struct.pack("<Q", 2**40) + whole[8:], bytes(8) + whole[8:],
    ]
    for data in lies:
        (tmp_path / "model.safetensors").write_bytes(data)
        refused(tmp_path, r"model\.safetensors cannot be read")


@pytest.mark.parametrize(
    ("field", "value"),
    [("shape", [12, 4]), ("shape", [2**62, 2**62]), ("shape", [-11, 4]), ("shape", "4"),
     ("data_offsets", [0, 8]), ("data_offsets", [8, 0]), ("dtype", "F32"), ("dtype", "float")],
)
def test_headers_that_lie(tmp_path: Path, field: str, value: Any) -> None:
    def header(entries: dict[str, Any]) -> dict[str, Any]:
        return entries | {"wte.weight": entries["wte.weight"] | {field: value}}

    write(tmp_path, GPT2, gpt2_arrays(), header=header)
    refused(tmp_path, r"model\.safetensors cannot be read")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers(tmp_path: Path, value: float) -> None:
    for config, arrays in both(tmp_path):
        for name in list(arrays)[:: len(arrays) // 3]:
            broken = arrays[name].copy()
            broken.flat[-1] = value
            write(tmp_path, config, {**arrays, name: broken})
            refused(tmp_path, rf"nan or inf in {name}")


def test_every_array_is_asked_for_and_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for config, arrays in both(tmp_path):
        if config is BERT:
            config = named("BertForSequenceClassification")
        for name, array in arrays.items():
            bare = name.removeprefix("bert.")
            write(tmp_path, config, {k: v for k, v in arrays.items() if k != name})
            refused(tmp_path, rf"(no array {bare}|lack)")
            for wrong in (array[1:], array[None], array.T):
                if wrong.shape != array.shape:
                    write(tmp_path, config, {**arrays, name: wrong})
                    refused(tmp_path, rf"{name} of shape .*config\.json asks for \({len(array)}")
            write(tmp_path, config, {**arrays, name: array.astype(np.int8)})
            with monkeypatch.context() as patch:
                patch.setattr(StoredArrays, "_read", lambda *_: pytest.fail("an array was read"))
                refused(tmp_path, rf"{name} in I8, expected one of \['F64'")


# ---- random damage ------------------------------------------------------------------------------


def mutated(rng: np.random.Generator, config: dict[str, Any], data: bytes) -> tuple[str, bytes]:
    """The two files with one thing changed at random."""
    text = json.dumps(config)
    choice = rng.integers(6)
    if choice == 0:  # another value
        values = [*OTHERS, 3, 4, 5, 6, 11, 16, -1, "gelu", "relu", 1e-5, 10**9, 10**6]
        keys = [*config, "n_inner", "is_decoder", "num_labels", "scale_attn_weights"]
        key = keys[rng.integers(len(keys))]
        text = json.dumps({**config, key: values[rng.integers(len(values))]})
    elif choice == 1:  # a key less
        text = json.dumps({k: v for k, v in config.items() if k != rng.choice([*config])})
    elif choice == 2:  # other characters
        at = int(rng.integers(len(text)))
        text = text[:at] + chr(rng.integers(32, 127)) + text[at + int(rng.integers(3)) :]
    elif choice == 3:  # a bit of the header
        size = 8 + struct.unpack("<Q", data[:8])[0]
        at = int(rng.integers(size))
        data = data[:at] + bytes([data[at] ^ 1 << rng.integers(8)]) + data[at + 1 :]
    elif choice == 4:
        data = data[: rng.integers(len(data))]
    else:  # a letter of a name: the header stays valid JSON
        names = [*json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])]
        name = str(rng.choice(names)).encode()
        at = int(rng.integers(len(name)))
        other = name[:at] + b"x" + name[at + 1 :]
        data = data.replace(b'"' + name + b'"', b'"' + other + b'"', 1)
    return text, data


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_damaged_folders_give_the_truth_or_an_error(tmp_path: Path, kind: str) -> None:
    config, arrays = (GPT2, gpt2_arrays()) if kind == "gpt2" else (BERT, bert_arrays())
    data = (write(tmp_path, config, arrays) / "model.safetensors").read_bytes()
    rng, loaded, messages = np.random.default_rng(5), 0, []
    for _ in range(int(os.environ.get("MINIMONO_FUZZ", "300"))):
        text, changed = mutated(rng, config, data)
        (tmp_path / "config.json").write_bytes(text.encode())
        (tmp_path / "model.safetensors").write_bytes(changed)
        try:
            model = load_pretrained(tmp_path)
        except ValueError as error:
            messages.append(str(error))
            continue
        loaded += 1
        read = json.loads(text)
        if kind == "gpt2":
            if read.get("n_head", 2) == 2:
                close(model(IDS), gpt2(read, arrays))
        elif read.get("num_attention_heads") == 2:
            close(model(IDS, SEGMENTS, MASK), bert(read, arrays))
    assert loaded > 5
    assert all(message.startswith("load_pretrained: ") for message in messages)
    assert max(map(len, messages)) < 2000
