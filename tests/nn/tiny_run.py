"""A small training run with everything in it that has a state; killed and resumed by the tests.

    python tests/nn/tiny_run.py CHECKPOINT STEPS

resumes if the checkpoint is there, saves after each step, and prints the step.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import minimono as mm
from minimono.engine import functional as F
from minimono.nn import taps
from minimono.nn.training import Record, train

IDS = np.arange(400) ** 2 % 11  # a text with a rule: it repeats after 11 characters


class Run:
    """GPT with dropout and MEmeL, AdamW with a schedule, random batches, in float32."""

    def __init__(self, steps: int) -> None:
        rng = np.random.default_rng(0)
        self.steps = steps
        self.batch_rng = np.random.default_rng(1)
        self.model = mm.models.GPT(
            vocabulary=11, context=6, channels=8, heads=2, layers=2, dropout=0.1, rng=rng
        )
        self.memel = mm.mono.MEmeL(k=2, start_after=2, forget_after=3)
        taps.insert(self.model, "block.0.mlp.act", self.memel)
        self.optimiser = mm.optim.AdamW(self.model.parameters(), weight_decay=0.1)

    def records(self, start: int = 0, steps: int | None = None) -> Iterator[Record]:
        return train(
            self.model,
            mm.data.random_batches(IDS, batch=4, context=6, rng=self.batch_rng),
            lambda model, inputs, targets: F.cross_entropy(model(inputs), targets),
            self.optimiser,
            start=start,
            steps=self.steps if steps is None else steps,
            schedule=lambda step: mm.optim.cosine_schedule(
                step, steps=self.steps, warmup=3, peak=0.01
            ),
            max_norm=1.0,
        )

    def save(self, path: Path, step: int) -> None:
        mm.checkpoint.save(
            path, self.model, optimiser=self.optimiser, rng=self.batch_rng, step=step,
            config={"steps": self.steps},
        )

    def resume(self, path: Path) -> int:
        checkpoint = mm.checkpoint.load(path)
        checkpoint.restore(self.model, self.optimiser, self.batch_rng)
        return checkpoint.step

    def bits(self) -> dict[str, bytes]:
        """All state there is: parameters, moments, dropout's generator, optimiser, batches."""
        state: dict[str, Any] = {**self.model.state_dict(), **self.optimiser.state_dict()}
        state["batches"] = mm.nn.randomness.pack_rng(self.batch_rng)
        return {name: array.tobytes() for name, array in state.items()}


if __name__ == "__main__":
    path, run = Path(sys.argv[1]), Run(int(sys.argv[2]))
    start = run.resume(path) if path.exists() else 0
    for record in run.records(start):
        run.save(path, record.step)
        print(record.step, flush=True)
