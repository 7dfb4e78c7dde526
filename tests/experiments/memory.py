"""Train for many steps, save now and then: does the process grow, and what does a save cost?

    python tests/experiments/memory.py 10000

A small GPT with MEmeL and dropout, on random characters. Prints the resident memory as it goes, and
at the end how long a step and a save took.
"""

import argparse
import gc
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

import minimono as mm
from minimono.nn import taps
from minimono.nn.checkpoint import save

CHARACTERS, CONTEXT, BATCH, SAVES = 64, 32, 8, 100


def resident() -> float:
    """Return how many MiB of this process are in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("steps", type=int, nargs="?", default=10_000)
    steps = parser.parse_args().steps
    rng = np.random.default_rng(0)
    model = mm.models.GPT(
        vocabulary=CHARACTERS, context=CONTEXT, channels=32, heads=2, layers=2, dropout=0.1, rng=rng
    )
    taps.insert(model, "block.1.mlp.act", mm.mono.MEmeL(k=2))
    optimiser = mm.optim.Adam(model.parameters(), lr=1e-3)

    def batches():
        while True:
            text = rng.integers(0, CHARACTERS, size=(BATCH, CONTEXT + 1))
            yield text[:, :-1], text[:, 1:]

    def loss(model, inputs, targets):
        return mm.functional.cross_entropy(model(inputs), targets)

    of_steps, of_saves = [], []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "memory.npz"
        for record in mm.nn.train(model, batches(), loss, optimiser, steps=steps):
            of_steps.append(record.seconds)
            if record.step % max(steps // SAVES, 1) == 0:
                began = time.perf_counter()
                save(path, model, optimiser=optimiser, rng=rng, step=record.step)
                of_saves.append(time.perf_counter() - began)
            if record.step % max(steps // 10, 1) == 0:
                gc.collect()
                print(f"step {record.step:6}: {resident():7.1f} MiB", flush=True)
        size = path.stat().st_size / 2**20
    print(
        f"a step {1e3 * statistics.median(of_steps):.2f} ms; a save of {size:.2f} MiB "
        f"{1e3 * statistics.median(of_saves):.1f} ms (medians)"
    )


if __name__ == "__main__":
    main()
