"""
Physics: does inhibiting monosemantic neurons help to foresee rain?
===================================================================

A convolutional recurrent network (ConvGRU) sees some radar frames of simulated rain and continues
them, trained in six ways: as it is, with both naive ways of deactivating, with MEmeL, with MEmeL
tuned, and with MEmeL left on at test. The paper's comparison on HKO-7 (Wang, Di, Chen, Ng, KDD
2024, arXiv 2312.11560), at the scale of minutes: fewer and smaller frames, another sky.

`python demos/task_physics.py --quick` takes some seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from minimono import tensor
from minimono.backend import Array
from minimono.data import b_mae, b_mse, rain_batches, rain_loss
from minimono.experiments.six_ways import Measure
from minimono.experiments.six_ways_report import main
from minimono.nn import taps
from minimono.nn.models import ConvGRU
from minimono.nn.optim import AdamW, cosine_schedule
from minimono.nn.training import Record, train

# %%
# The task
# --------
# Wind carries cells of rain that grow or decay. The errors weigh heavy rain more, up to 30 times
# (B-MAE and B-MSE, Shi et al. 2017), and the network is trained on their sum. The baseline is
# persistence: the last frame, again and again.
#
# MEmeL goes where the paper puts it: on the candidate memory of each cell, after its leaky ReLU,
# before the gate. Its module counts calls, and each time step is one. So its moments are over
# frames, and it begins to inhibit after ten of them: here in the third update.

HKO_MAE = {
    "original": "1003.41", "naive (a)": "1003.56", "naive (b)": "1003.40", "MEmeL": "1003.25",
    "MEmeL, tuned": "998.81",
}
HKO_MSE = {
    "original": "309.96", "naive (a)": "309.83", "naive (b)": "310.13", "MEmeL": "309.94",
    "MEmeL, tuned": "298.16",
}


def loss_of_rain(model: ConvGRU, seen: Array, to_come: Array):
    return rain_loss(model(tensor(seen)), to_come)


def errors(predicted, to_come: Array) -> dict[str, float]:
    return {
        "B-MAE": b_mae(predicted, to_come).item(),
        "B-MSE": b_mse(predicted, to_come).item(),
    }


@dataclass(frozen=True)
class Rain:
    """Frames of rain in, the next ones out."""

    channels: tuple[int, ...] = (16,)
    size: int = 16
    frames: int = 4  # to see, and as many to foresee
    steps: int = 300
    batch: int = 4
    held_out: int = 96  # sequences in a test
    pretraining: int = 0

    name = "Physics: a ConvGRU foresees rain"
    measures = (
        Measure("B-MAE", "lower", 2, HKO_MAE, "HKO-7, ConvGRU"),
        Measure("B-MSE", "lower", 3, HKO_MSE, "HKO-7, ConvGRU"),
    )

    @cached_property
    def data(self) -> dict[str, tuple[Array, Array]]:
        """The sequences of the tests. Training goes on fresh rain, which does not run out."""
        parts = ("training", "validation", "test")
        return {part: next(self.rain(self.held_out, [2024, n])) for n, part in enumerate(parts)}

    def rain(self, batch: int, seed: list[int]) -> Iterator[tuple[Array, Array]]:
        return rain_batches(
            batch=batch, size=self.size, frames_in=self.frames, frames_out=self.frames,
            rng=np.random.default_rng(seed),
        )

    def description(self) -> str:
        return (
            f"Simulated rain on {self.size} x {self.size} pixels, {self.frames} frames in and "
            f"{self.frames} out; {self.held_out} sequences in a test. A ConvGRU with "
            f"{' and '.join(map(str, self.channels))} channels, "
            f"{self.network(0).number_of_parameters():,} parameters."
        )

    def network(self, seed: int) -> ConvGRU:
        return ConvGRU(
            channels=self.channels, strides=(2,) * len(self.channels), frames_out=self.frames,
            rng=np.random.default_rng([seed, 0]),
        )

    def places(self, model: ConvGRU) -> list[str]:
        return taps.names(model, "*.cell.candidate")

    def training(self, model: ConvGRU, seed: int) -> Iterator[Record]:
        peak = 1e-2
        return train(
            model, self.rain(self.batch, [seed, 1]), loss_of_rain,
            AdamW(model.parameters(), peak), steps=self.steps, max_norm=1.0,
            schedule=lambda n: cosine_schedule(
                n, steps=self.steps, warmup=self.steps // 10, peak=peak
            ),
        )

    def test(self, model: ConvGRU, part: str) -> dict[str, float]:
        seen, to_come = self.data[part]
        predicted = [
            model(tensor(seen[i : i + self.batch])).data for i in range(0, len(seen), self.batch)
        ]
        return errors(tensor(np.concatenate(predicted)), to_come)

    def baseline(self) -> tuple[str, dict[str, float]]:
        seen, to_come = self.data["test"]
        last = np.broadcast_to(seen[:, -1:], to_come.shape)  # (N, 1, Y, X) -> (N, T, Y, X)
        return "(persistence)", errors(tensor(last), to_come)


# %%
# The comparison
# --------------

if __name__ == "__main__":
    main(full=Rain(), quick=Rain(channels=(8,), frames=3, steps=50, held_out=16))
