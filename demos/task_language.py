"""
Language: does inhibiting monosemantic neurons help a BERT?
===========================================================

A small BERT reads Python's help topics with words blanked out, and learns to fill them in. Then it
is fine-tuned to tell which chapter a snippet is from, in six ways: as it is, with both naive ways
of deactivating, with MEmeL, with MEmeL tuned, and with MEmeL left on at test. The paper's
comparison on GLUE (Wang, Di, Chen, Ng, KDD 2024, arXiv 2312.11560), at the scale of minutes.

Needs scikit-learn (extra `demos`). `python demos/task_language.py --quick` takes some seconds.
"""

from __future__ import annotations

import importlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from minimono import functional as F
from minimono.backend import Array
from minimono.experiments.six_ways import Measure, classified, frequencies
from minimono.experiments.six_ways_report import main
from minimono.nn import taps
from minimono.nn.models import BERT
from minimono.nn.optim import AdamW, cosine_schedule
from minimono.nn.training import Record, train

# %%
# The data
# --------
# A topic is a chapter. Some topics are parts of others; of those the longer is taken. A chapter is
# cut into snippets of as many words as the network reads. Eight neighbouring snippets go together
# into one part, so that a test snippet seldom continues a training snippet. All that is learnt, in
# pretraining too, is learnt from the training part.

FIRST, UNKNOWN, BLANK = 0, 1, 2  # tokens that are no words
PARTS = ("training",) * 3 + ("validation", "test")


class Snippets(NamedTuple):
    """Snippets as token ids (N, T), each beginning with FIRST, and their chapters (N,)."""

    ids: Array
    labels: Array


def longest_chapters(count: int) -> dict[str, str]:
    """The longest topics of which none contains another."""
    topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    chosen: dict[str, str] = {}
    for name in sorted(topics, key=lambda name: -len(topics[name])):
        middle = topics[name][len(topics[name]) // 2 :][:80]
        if not any(middle in text for text in chosen.values()) and len(chosen) < count:
            chosen[name] = topics[name]
    return chosen


def cut(chapters: dict[str, str], context: int, vocabulary: int) -> dict[str, Snippets]:
    """The chapters' snippets by part: three fifths are for training, one each for the others."""
    pieces: dict[str, list[tuple[int, list[str]]]] = {part: [] for part in PARTS}
    for label, text in enumerate(chapters.values()):
        text = re.sub(r"([^\w\s])\1+", r"\1", text.lower())  # ====== says no more than =
        words = re.findall(r"\w+|[^\w\s]", text)
        for n, start in enumerate(range(0, len(words) - context, context - 1)):
            part = PARTS[(n // 8) % len(PARTS)]
            pieces[part].append((label, words[start : start + context - 1]))
    frequent = Counter(word for _, piece in pieces["training"] for word in piece)
    number = {word: n for n, (word, _) in enumerate(frequent.most_common(vocabulary - 3), start=3)}
    return {
        part: Snippets(
            np.array([[FIRST, *(number.get(w, UNKNOWN) for w in piece)] for _, piece in found]),
            np.array([label for label, _ in found]),
        )
        for part, found in pieces.items()
    }


# %%
# Pretraining: fill in the blanks
# -------------------------------
# Of the words 15 % are to be guessed: most are blanked out, some replaced by others, some left as
# they are (80, 10 and 10 %, Devlin et al. 2019). The guess is read off with the token embedding's
# own weights; BERT has another small layer before that, left out here.


def blanked(ids: Array, vocabulary: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Ids with some words hidden, and where: (B, T) each."""
    hidden = (rng.random(ids.shape) < 0.15) & (ids > UNKNOWN)
    how = rng.random(ids.shape)
    shown = np.where(hidden & (how < 0.8), BLANK, ids)
    others = rng.integers(3, vocabulary, ids.shape)
    return np.where(hidden & (how >= 0.9), others, shown), hidden


def loss_of_blanks(model: BERT, ids: Array, shown: Array, hidden: Array):
    found = model.encode(shown)[np.nonzero(hidden)]  # (B, T, C) -> (blanks, C)
    return F.cross_entropy(F.linear(found, model.token.weight), ids[hidden])


def loss_of_chapters(model: BERT, ids: Array, labels: Array):
    return F.cross_entropy(model(ids), labels)


# %%
# The task
# --------
# One network is pretrained, as there is one BERT; a seed is of the classifier's first weights and
# of the batches of fine-tuning. MEmeL's modules go behind the middle third of the blocks, as in
# the paper, and only in fine-tuning.

GLUE = {
    "original": "79.6", "naive (a)": "79.6", "naive (b)": "79.8", "MEmeL": "80.2",
    "MEmeL, tuned": "80.5", "MEmeL, on at test": "79.9",
}


@dataclass(frozen=True)
class Chapters:
    """Which of ten chapters is a snippet from?"""

    channels: int = 64
    layers: int = 3
    context: int = 32
    vocabulary: int = 800
    pretraining: int = 400
    steps: int = 120
    batch: int = 16
    held_out: int = 1000  # at most so many snippets in a test

    name = "Language: a BERT tells chapters apart"
    measures = (
        Measure("accuracy, %", "higher", 2, GLUE, "average score on GLUE, BERT-base"),
        Measure("loss, nats", "lower", 3),
    )

    @cached_property
    def data(self) -> dict[str, Snippets]:
        return cut(longest_chapters(10), self.context, self.vocabulary)

    @cached_property
    def pretrained(self) -> tuple[dict[str, Array], list[float]]:
        """The network's state after pretraining, and the losses of its updates."""
        rng, ids = np.random.default_rng(2024), self.data["training"].ids
        model = self.new(rng)

        def batches() -> Iterator[tuple[Array, Array, Array]]:
            while True:
                chosen = ids[rng.integers(0, len(ids), 2 * self.batch)]
                yield chosen, *blanked(chosen, self.vocabulary, rng)

        records = self.fit(model, batches(), loss_of_blanks, self.pretraining, peak=2e-3)
        losses = [record.loss for record in records]
        return model.state_dict(), losses

    def description(self) -> str:
        _, losses = self.pretrained
        few = max(1, len(losses) // 20)
        numbers = ", ".join(f"{len(some.ids)} for {part}" for part, some in self.data.items())
        return (
            f"Snippets of {self.context - 1} words of Python's help topics: {numbers}. A BERT of "
            f"{self.layers} blocks with {self.channels} channels, pretrained in {self.pretraining} "
            f"updates: loss of the blanks from {np.mean(losses[:few]):.2f} to "
            f"{np.mean(losses[-few:]):.2f} nats. Chapters: {', '.join(longest_chapters(10))}."
        )

    def new(self, rng: np.random.Generator) -> BERT:
        return BERT(
            vocabulary=self.vocabulary, context=self.context, channels=self.channels, heads=4,
            layers=self.layers, classes=10, rng=rng,
        )

    def fit(self, model, batches, loss, steps: int, *, peak: float) -> Iterator[Record]:
        optimiser = AdamW(model.parameters(), peak)
        return train(
            model, batches, loss, optimiser, steps=steps, max_norm=1.0,
            schedule=lambda n: cosine_schedule(n, steps=steps, warmup=steps // 10, peak=peak),
        )

    def network(self, seed: int) -> BERT:
        model = self.new(np.random.default_rng([seed, 0]))
        fresh = {k: v for k, v in model.state_dict().items() if k.startswith("classifier")}
        model.load_state_dict(self.pretrained[0] | fresh)
        return model

    def places(self, model: BERT) -> list[str]:
        outside = self.layers // 3
        return taps.names(model, "block.*.out")[outside : self.layers - outside]

    def training(self, model: BERT, seed: int) -> Iterator[Record]:
        rng, (ids, labels) = np.random.default_rng([seed, 1]), self.data["training"]

        def batches() -> Iterator[tuple[Array, Array]]:
            while True:
                chosen = rng.integers(0, len(ids), self.batch)
                yield ids[chosen], labels[chosen]

        return self.fit(model, batches(), loss_of_chapters, self.steps, peak=3e-3)

    def test(self, model: BERT, part: str) -> dict[str, float]:
        ids, labels = self.data[part]
        spread = np.linspace(0, len(ids) - 1, min(len(ids), self.held_out)).astype(int)
        return classified(model, ids[spread], labels[spread], batch=self.batch)

    def baseline(self) -> tuple[str, dict[str, float]]:
        found = frequencies(self.data["training"].labels, self.data["test"].labels)
        return "(guess by frequency)", found


# %%
# The comparison
# --------------

if __name__ == "__main__":
    main(
        full=Chapters(),
        quick=Chapters(channels=32, context=24, pretraining=60, steps=24, held_out=150),
    )
