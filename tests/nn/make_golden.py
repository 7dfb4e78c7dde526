"""Make the golden trajectory: ten losses and the final gradients of a tiny GPT with MEmeL.

    python tests/nn/make_golden.py        writes tests/nn/golden/gpt_memel.json

Run it only when the trajectory is meant to change, and say in the commit why it did. Numbers are
stored as the 16 hexadecimal digits of their bits, with readable text beside.

The same bits come out only of the same code on the same kind of machine: BLAS, NumPy and the C
library choose their loops by the processor. The fingerprint says which machine it was.
"""

import json
import os
import platform
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm  # comes with Numba
import numba
import numpy as np

import minimono as mm
from minimono.engine import functional as F
from minimono.nn import taps
from minimono.nn.training import train

FILE = Path(__file__).with_name("golden") / "gpt_memel.json"
STEPS = 10
TEXT = "how vexingly quick daft zebras jump; the five boxing wizards jump quickly. " * 4


def trajectory(device: str = "cpu") -> tuple[list[float], dict[str, Any], int]:
    """Losses, the last step's gradients by name, and how many activations it inhibited."""
    rng = np.random.default_rng(20240825)
    characters = mm.data.Characters(TEXT)
    model = mm.models.GPT(
        vocabulary=characters.size, context=6, channels=4, heads=2, layers=2, rng=rng,
        dtype=np.float64,
    )
    for p in model.parameters():  # wider than GPT starts, so that every part has a say
        p.data = p.data + 0.2 * rng.standard_normal(p.shape)
    memel = mm.mono.MEmeL(k=2, start_after=3, forget_after=4)
    taps.insert(model, "block.0.mlp.act", memel)
    model.to(device)
    records = train(
        model,
        mm.data.random_batches(characters.encode(TEXT), batch=4, context=6, rng=rng),
        lambda model, inputs, targets: F.cross_entropy(model(inputs), targets),
        mm.optim.AdamW(model.parameters(), weight_decay=0.1),
        steps=STEPS,
        schedule=lambda step: mm.optim.cosine_schedule(step, steps=STEPS, warmup=2, peak=0.02),
        max_norm=1.0,
    )
    losses = [record.loss for record in records]
    gradients = {
        name: mm.backend.to_host(p.grad) for name, p in model.named_parameters()
    }
    assert memel.last is not None
    return losses, gradients, int(memel.last.flagged.sum())


def fingerprint() -> dict[str, Any]:
    """What the last bits depend on, besides the code."""
    build: dict[str, Any] = np.show_config(mode="dicts")  # type: ignore[assignment]
    blas = build["Build Dependencies"]["blas"]
    return {
        "machine": platform.machine(),
        "processor": llvm.get_host_cpu_name(),
        "processor features NumPy uses": build["SIMD Extensions"].get("found", []),
        "numpy": np.__version__,
        "numba": numba.__version__,
        "blas": f"{blas['name']} {blas['version']}",
        "blas for another processor": os.environ.get("OPENBLAS_CORETYPE", ""),
        "C library": " ".join(platform.libc_ver()),
    }


def to_bits(values: Any) -> str:
    """64 bits of each number, as 16 hexadecimal digits."""
    return " ".join(f"{word:016x}" for word in np.asarray(values, "<f8").reshape(-1).view("<u8"))


def to_text(values: Any) -> str:
    return " ".join(f"{value:.6g}" for value in np.reshape(values, -1))


def from_bits(bits: str) -> Any:
    return np.array([int(word, 16) for word in bits.split()], "<u8").view("<f8")


if __name__ == "__main__":
    losses, gradients, inhibited = trajectory()
    golden = {
        "what": f"{STEPS} losses and the last step's gradients (clipped) of make_golden.py",
        "fingerprint": fingerprint(),
        "inhibited in the last step": inhibited,
        "losses": {"text": to_text(losses), "bits": to_bits(losses)},
        "gradients": {
            name: {"shape": g.shape, "text": to_text(g), "bits": to_bits(g)}
            for name, g in gradients.items()
        },
    }
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(json.dumps(golden, indent=1) + "\n")
    print(f"{FILE}: losses {golden['losses']['text']}")
