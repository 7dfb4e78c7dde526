"""BERT, RoBERTa and DistilBERT folders: which array is which parameter of `BERT`; their heads."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from minimono.nn.models.bert import BERT
from minimono.nn.models.pretrained import settings
from minimono.nn.models.pretrained.arrays import Arrays, Part, Plan, Weights, layer

# Parameters of a block of ours, and the names that they have in a block of theirs; q, k and v of
# theirs are one of ours.
BLOCK = {
    "attention.out": "attention.output.dense", "norm1": "attention.output.LayerNorm",
    "mlp.up": "intermediate.dense", "mlp.down": "output.dense", "norm2": "output.LayerNorm",
}
QKV = ("attention.self.query", "attention.self.key", "attention.self.value")
DISTILBERT_BLOCK = {
    "attention.out": "attention.out_lin", "norm1": "sa_layer_norm", "mlp.up": "ffn.lin1",
    "mlp.down": "ffn.lin2", "norm2": "output_layer_norm",
}
DISTILBERT_QKV = ("attention.q_lin", "attention.k_lin", "attention.v_lin")
BUFFERS = r"embeddings\.(position_ids|token_type_ids)"  # hold no weights


@dataclass(frozen=True)
class Head:
    """What a class of theirs has above BERT's blocks."""

    classifier: str = ""  # the array that is our classifier; none in most
    rows: int | None = None  # its number of classes, where config.json does not say it
    left_out: str = ""  # arrays of heads for other tasks begin so
    pooler: str = "pooler.dense"


HEADS = {
    "BertForSequenceClassification": Head("classifier"),
    "BertForMultipleChoice": Head("classifier", rows=1),
    "BertForNextSentencePrediction": Head("cls.seq_relationship", rows=2),
    "BertModel": Head(),
    "BertForPreTraining": Head(left_out="cls."),
    "BertForMaskedLM": Head(left_out="cls."),
    "BertForTokenClassification": Head(left_out="classifier."),
    "BertForQuestionAnswering": Head(left_out="qa_outputs."),
}
ROBERTA_HEADS = {
    "RobertaForSequenceClassification": Head("classifier.out_proj", pooler="classifier.dense"),
    "RobertaForMultipleChoice": Head("classifier", rows=1),
    "RobertaModel": Head(),
    "RobertaForMaskedLM": Head(left_out="lm_head."),
    "RobertaForTokenClassification": Head(left_out="classifier."),
    "RobertaForQuestionAnswering": Head(left_out="qa_outputs."),
}
DISTILBERT_HEADS = {
    "DistilBertForSequenceClassification": Head("classifier", pooler="pre_classifier"),
    "DistilBertForMultipleChoice": Head("classifier", rows=1, pooler="pre_classifier"),
    "DistilBertModel": Head(pooler="pre_classifier"),
    "DistilBertForMaskedLM": Head(left_out="vocab_", pooler="pre_classifier"),
    "DistilBertForTokenClassification": Head(left_out="classifier.", pooler="pre_classifier"),
    "DistilBertForQuestionAnswering": Head(left_out="qa_outputs.", pooler="pre_classifier"),
}


@dataclass(frozen=True)
class Kind:
    """What tells the relatives of BERT apart."""

    base: str
    sizes: Mapping[str, int]
    known: frozenset[str]  # settings that are read or harmless, besides the sizes
    heads: Mapping[str, Head]
    layers: str = "encoder.layer"
    block: Mapping[str, str] = field(default_factory=lambda: BLOCK)
    qkv: tuple[str, ...] = QKV


_READ = {"hidden_act", "layer_norm_eps", "id2label", "num_labels"}
KINDS = {
    "bert": Kind("bert", settings.BERT_SIZES, settings.BERT_HARMLESS | _READ, HEADS),
    "roberta": Kind(
        "roberta", settings.ROBERTA_SIZES, settings.BERT_HARMLESS | _READ, ROBERTA_HEADS
    ),
    "distilbert": Kind(
        "distilbert", settings.DISTILBERT_SIZES,
        settings.DISTILBERT_HARMLESS | {"activation", "id2label", "num_labels"}, DISTILBERT_HEADS,
        "transformer.layer", DISTILBERT_BLOCK, DISTILBERT_QKV,
    ),
}


def plan_bert(
    config: settings.Config, weights: Weights, classes: int | None, rng: np.random.Generator | None
) -> Plan:
    """Return the `BERT` that a folder of BERT, RoBERTa or DistilBERT describes."""
    of = KINDS[config["model_type"]]
    distilled = of.base == "distilbert"
    if distilled:
        config = settings.with_one_name_each(config, settings.DISTILBERT_OTHER_NAMES)
    settings.check_settings(config, settings.BERT_FIXED, of.known | {*of.sizes})
    sizes = [settings.size(config, *item) for item in of.sizes.items()]
    vocabulary, positions, C, heads, layers, hidden = sizes[:6]
    segments = None if distilled else sizes[6]
    channels_key, heads_key = [*of.sizes][2:4]
    settings.check_heads(channels_key, C, heads_key, heads)
    activation = settings.activation(config, "activation" if distilled else "hidden_act", "gelu")
    eps = 1e-12 if distilled else settings.positive(config, "layer_norm_eps", 1e-12)
    padding, context = None, positions
    if of.base == "roberta":
        padding = config.get("pad_token_id", 1)
        if type(padding) is not int or not 0 <= padding < min(positions - 1, vocabulary):
            below = min(positions - 1, vocabulary)
            raise settings.wrong("pad_token_id", padding, f"a whole number from 0, below {below}")
        context = positions - padding - 1

    arrays = Arrays(weights, base=of.base)
    name = settings.architecture(config) or _architecture(arrays, of)
    if name not in of.heads:
        raise settings.unknown_architecture(name, [*of.heads])
    head = of.heads[name]
    rows = settings.labels(config) if head.rows is None else head.rows
    pooler, classifier, left_out = head.pooler, head.classifier, head.left_out
    missing = []
    if f"{pooler}.weight" not in arrays:
        missing, pooler = ["a pooler"], ""
    if not classifier or f"{classifier}.weight" not in arrays:
        missing, classifier = [*missing, "a classifier of texts"], ""
    elif classes not in (None, rows):
        missing = [*missing, f"a classifier of {classes} classes (it has one of {rows})"]
        classifier, left_out = "", f"{classifier}."
    if missing and rng is None:
        raise ValueError(
            f"the weights of a {name} lack {' and '.join(missing)}; to draw what is missing and "
            "fine-tune it: load_pretrained(folder, classes=..., initialise=0), with any seed"
        )
    if not classifier and classes is None and rows > vocabulary:  # no stored array bounds it
        bound = f"at most vocab_size = {vocabulary}; say classes=..."
        raise settings.wrong("num_labels", rows, bound)
    rows = rows if classes is None else classes

    def parts() -> Iterator[Part]:
        for ours, theirs, length in (
            ("token", "word", vocabulary), ("position", "position", positions),
            ("segment", "token_type", segments),
        ):
            if length is None:
                continue
            yield Part(f"{ours}.weight", [f"embeddings.{theirs}_embeddings.weight"], (length, C))
        yield from layer("norm", ["embeddings.LayerNorm"], (C,))
        shapes = {"attention.out": (C, C), "mlp.up": (hidden, C), "mlp.down": (C, hidden)}
        for i in range(layers):
            block = f"{of.layers}.{i}"
            qkv = [f"{block}.{name}" for name in of.qkv]
            yield from layer(f"block.{i}.attention.qkv", qkv, (C, C))
            for ours, theirs in of.block.items():
                yield from layer(f"block.{i}.{ours}", [f"{block}.{theirs}"], shapes.get(ours, (C,)))
        yield from layer("pooler", [pooler] if pooler else [], (C, C))
        yield from layer("classifier", [classifier] if classifier else [], (rows, C))

    harmless = BUFFERS + (rf"|{re.escape(left_out)}.*" if left_out else "")
    make = partial(
        BERT, vocabulary=vocabulary, context=context, channels=C, heads=heads, layers=layers,
        hidden=hidden, activation=activation, eps=eps, classes=rows, segments=segments,
        padding=padding, pooling="relu" if distilled else "tanh",
    )
    return Plan(make, arrays, parts(), harmless)


def _architecture(arrays: Arrays, of: Kind) -> str:
    """The class that wrote these arrays, where config.json does not say it."""
    if of.base != "bert":
        texts = next(name for name in of.heads if name.endswith("ForSequenceClassification"))
        found = f"{of.heads[texts].pooler}.weight" in arrays
        return texts if found else next(name for name in of.heads if name.endswith("Model"))
    if "classifier.weight" in arrays:
        pooled = "pooler.dense.weight" in arrays
        return "BertForSequenceClassification" if pooled else "BertForTokenClassification"
    if "qa_outputs.weight" in arrays:
        return "BertForQuestionAnswering"
    if "cls.predictions.bias" in arrays:
        return "BertForPreTraining"
    if "cls.seq_relationship.weight" in arrays:
        return "BertForNextSentencePrediction"
    return "BertModel"
