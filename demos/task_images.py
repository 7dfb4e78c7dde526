"""
Images: does inhibiting monosemantic neurons help a convolutional network?
==========================================================================

A small convolutional network learns scikit-learn's handwritten digits, in six ways: as it is, with
both naive ways of deactivating, with MEmeL, with MEmeL tuned, and with MEmeL left on at test. The
paper's comparison with Swin on ImageNet (Wang, Di, Chen, Ng, KDD 2024, arXiv 2312.11560), at the
scale of minutes.

Needs scikit-learn (extra `demos`). `python demos/task_images.py --quick` takes some seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from minimono import functional as F
from minimono import tensor
from minimono.backend import Array
from minimono.data import Images, image_batches, load_digits, shuffled_split
from minimono.experiments.six_ways import Measure, classified, frequencies
from minimono.experiments.six_ways_report import main
from minimono.nn.models import ConvNet
from minimono.nn.optim import AdamW, cosine_schedule
from minimono.nn.training import Record, train

# %%
# The data
# --------
# A random fifth of the 1,797 digits is for the test and another for choosing k and strength. Every
# seed has the same three parts.


def digits() -> dict[str, Images]:
    rng = np.random.default_rng(2024)
    rest, test = shuffled_split(*load_digits(), fraction=0.2, rng=rng)
    training, validation = shuffled_split(*rest, fraction=0.25, rng=rng)
    return {"training": training, "validation": validation, "test": test}


# %%
# The task
# --------
# Three stages of convolution, ReLU and pooling. The paper puts MEmeL's modules into the middle
# stage of a Swin transformer; here one goes into the middle stage, behind the ReLU. A seed is of
# the first weights and of the batches.


def loss_of_digits(model: ConvNet, images: Array, labels: Array):
    return F.cross_entropy(model(tensor(images)), labels)


IMAGENET = {
    "original": "80.9, 83.2, 85.1", "naive (a)": "81.0, 83.4, 84.6",
    "naive (b)": "81.0, 83.4, 85.1", "MEmeL": "81.1, 83.4, 85.1",
    "MEmeL, tuned": "81.1, 83.5, 85.2",
}


@dataclass(frozen=True)
class Digits:
    """Which digit is it?"""

    channels: tuple[int, ...] = (16, 32, 32)
    steps: int = 250
    batch: int = 32
    pretraining: int = 0

    name = "Images: a convolutional network reads digits"
    measures = (
        Measure("accuracy, %", "higher", 2, IMAGENET, "top-1 on ImageNet-1k, Swin-T, -S, -B"),
        Measure("loss, nats", "lower", 3),
    )

    @cached_property
    def data(self) -> dict[str, Images]:
        return digits()

    def description(self) -> str:
        numbers = ", ".join(f"{len(some.labels)} for {part}" for part, some in self.data.items())
        return (
            f"Digits of 8 x 8 pixels: {numbers}. A convolutional network of "
            f"{len(self.channels)} stages with {', '.join(map(str, self.channels))} channels, "
            f"{self.network(0).number_of_parameters():,} parameters."
        )

    def network(self, seed: int) -> ConvNet:
        return ConvNet(
            image=(1, 8, 8), channels=self.channels, classes=10,
            rng=np.random.default_rng([seed, 0]),
        )

    def places(self, model: ConvNet) -> list[str]:
        return [f"stage.{len(self.channels) // 2}.act"]

    def training(self, model: ConvNet, seed: int) -> Iterator[Record]:
        rng, peak = np.random.default_rng([seed, 1]), 1e-2
        return train(
            model, image_batches(*self.data["training"], batch=self.batch, rng=rng),
            loss_of_digits, AdamW(model.parameters(), peak), steps=self.steps, max_norm=1.0,
            schedule=lambda n: cosine_schedule(
                n, steps=self.steps, warmup=self.steps // 10, peak=peak
            ),
        )

    def test(self, model: ConvNet, part: str) -> dict[str, float]:
        images, labels = self.data[part]
        n = len(self.data["test"].labels)  # of the training part as many, for its moments
        return classified(model, images[:n], labels[:n], batch=self.batch)

    def baseline(self) -> tuple[str, dict[str, float]]:
        found = frequencies(self.data["training"].labels, self.data["test"].labels)
        return "(guess by frequency)", found


# %%
# The comparison
# --------------

if __name__ == "__main__":
    main(full=Digits(), quick=Digits(channels=(8, 16, 16), steps=60))
