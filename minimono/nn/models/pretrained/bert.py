"""BERT folders: which of their arrays is which parameter of `BERT`, and what heads they have."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from minimono.nn.models.bert import BERT
from minimono.nn.models.pretrained import settings
from minimono.nn.models.pretrained.arrays import Arrays, Part, Plan, Weights, layer

# Parameters of a block of ours, and the names that they have in a block of theirs.
BLOCK = {
    "attention.out": "attention.output.dense", "norm1": "attention.output.LayerNorm",
    "mlp.up": "intermediate.dense", "mlp.down": "output.dense", "norm2": "output.LayerNorm",
}
BUFFERS = r"embeddings\.(position_ids|token_type_ids)"  # hold no weights


@dataclass(frozen=True)
class Head:
    """What a class of theirs has above BERT's blocks."""

    classifier: str = ""  # the array that is our classifier; none in most
    rows: int | None = None  # its number of classes, where config.json does not say it
    left_out: str = ""  # arrays of heads for other tasks begin so


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


def plan_bert(
    config: settings.Config, weights: Weights, classes: int | None, rng: np.random.Generator | None
) -> Plan:
    """Return the `BERT` that a BERT folder describes."""
    read = {*settings.BERT_SIZES, "hidden_act", "layer_norm_eps", "id2label", "num_labels"}
    settings.check_settings(config, settings.BERT_FIXED, settings.BERT_HARMLESS | read)
    vocabulary, context, C, heads, layers, hidden, segments = (
        settings.size(config, *item) for item in settings.BERT_SIZES.items()
    )
    settings.check_heads("hidden_size", C, "num_attention_heads", heads)
    activation = settings.activation(config, "hidden_act", "gelu")
    eps = settings.positive(config, "layer_norm_eps", 1e-12)

    arrays = Arrays(weights, base="bert")
    name = settings.architecture(config) or _architecture(arrays)
    if name not in HEADS:
        raise settings.unknown_architecture(name, [*HEADS])
    head = HEADS[name]
    rows = settings.labels(config) if head.rows is None else head.rows
    pooler, classifier, left_out = "pooler.dense", head.classifier, head.left_out
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
        most = f"at most vocab_size = {vocabulary}; say classes=..."
        raise settings.wrong("num_labels", rows, most)
    rows = rows if classes is None else classes

    def parts() -> Iterator[Part]:
        for ours, theirs, length in (
            ("token", "word", vocabulary), ("position", "position", context),
            ("segment", "token_type", segments),
        ):
            yield Part(f"{ours}.weight", [f"embeddings.{theirs}_embeddings.weight"], (length, C))
        yield from layer("norm", ["embeddings.LayerNorm"], (C,))
        shapes = {"attention.out": (C, C), "mlp.up": (hidden, C), "mlp.down": (C, hidden)}
        for i in range(layers):
            block = f"encoder.layer.{i}"
            qkv = [f"{block}.attention.self.{name}" for name in ("query", "key", "value")]
            yield from layer(f"block.{i}.attention.qkv", qkv, (C, C))
            for ours, theirs in BLOCK.items():
                yield from layer(f"block.{i}.{ours}", [f"{block}.{theirs}"], shapes.get(ours, (C,)))
        yield from layer("pooler", [pooler] if pooler else [], (C, C))
        yield from layer("classifier", [classifier] if classifier else [], (rows, C))

    harmless = BUFFERS + (rf"|{re.escape(left_out)}.*" if left_out else "")
    make = partial(
        BERT, vocabulary=vocabulary, context=context, channels=C, heads=heads, layers=layers,
        hidden=hidden, activation=activation, eps=eps, classes=rows, segments=segments,
    )
    return Plan(make, arrays, parts(), harmless)


def _architecture(arrays: Arrays) -> str:
    """The class that wrote these arrays, where config.json does not say it."""
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
