"""Where a step's time goes: the shares are all there, and add up."""

import numpy as np
import pytest

from benchmarks import shares
from benchmarks.tasks import Perceptron, Transformer
from minimono import machine, sums

TASKS = (
    Perceptron("tiny MLP", (4, 8, 8, 3), batch=4),
    Transformer("tiny GPT", layers=1, channels=8, heads=2, context=70, batch=2, vocabulary=11),
)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_shares_add_up_to_the_step(
    task: Perceptron | Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shares, "is_installed", lambda framework: False)
    monkeypatch.setattr(machine, "set_blas_threads", lambda count: None)
    found = shares.measured(task, rounds=1, least=0.0)
    assert set(shares.BESIDE) & found.keys() == {shares.RATE}
    text = shares.page({task.name: found}, None)
    assert f"| products, at that rate | {1e3 * found['products, at that rate']:.2f} ms, " in text
    step = found.pop(shares.STEP)
    assert step > 0.0
    assert sum(time for name, time in found.items() if name != shares.RATE) == pytest.approx(step)
    assert ("attention's softmax" in found) == isinstance(task, Transformer)


def test_the_time_of_products_is_seen() -> None:
    a = np.ones((400, 400), np.float32)
    for operands in ((a, a), (a, a, np.empty_like(a))):  # by `dot`, and by `matmul` into an array
        spent = shares.profiled(lambda operands=operands: sums.product(*operands), 0.05)
        assert spent["products"] > sum(spent.values()) / 2


def test_operations_of_products_are_counted() -> None:
    a, b = np.ones((2, 3)), np.ones((3, 5))
    with shares.counted() as operations:
        sums.product(a, b)
    sums.product(a, b)
    assert operations == [2.0 * 2 * 3 * 5]


def test_attention_looks_at_bands() -> None:
    # 70 positions: 64 queries that see 64, and 6 that see all; 7 products of 2 x 4 channels.
    assert shares.attention_operations(TASKS[1]) == 7 * 2 * (64 * 64 + 6 * 70) * 8 * 2  # type: ignore[arg-type]
