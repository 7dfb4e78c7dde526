"""The benchmark: every contender trains the same network, and ratios are paired."""

from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

from minimono import bench

MLP = bench.Net("tiny MLP", 4, widths=(6, 8, 8, bench.CLASSES))
GPT = bench.Net("tiny GPT", 2, (), 2, 8, 2, 4)
CONTENDERS = {n: c for n, c in bench.CONTENDERS.items() if n != "torch.compile"}


def losses(step: Any) -> list[float]:
    return [step() for _ in range(4)]


@pytest.mark.parametrize("net", [MLP, GPT], ids=lambda net: net.name)
@pytest.mark.parametrize("name", ["minimono, reading versions", "NumPy by hand"])
def test_our_own_contenders_train_alike(name: str, net: bench.Net) -> None:
    if name == "NumPy by hand" and net is GPT:
        with pytest.raises(NotImplementedError):
            bench.numpy_step(net)
        return
    expected = losses(bench.minimono_step(net))
    assert losses(CONTENDERS[name][1](net)) == pytest.approx(expected, rel=1e-4)
    assert expected[3] < expected[0]


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")  # other libraries'
@pytest.mark.parametrize("net", [MLP, GPT], ids=lambda net: net.name)
@pytest.mark.parametrize("name", [n for n, (package, _) in CONTENDERS.items() if package])
def test_other_libraries_train_alike(name: str, net: bench.Net) -> None:
    package, make = CONTENDERS[name]
    if package is None or find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    assert losses(make(net)) == pytest.approx(losses(bench.minimono_step(net)), rel=1e-4)


def test_ratios_are_paired() -> None:
    slow_machine = np.array([1.0, 10.0, 1.0])
    times = {"us": 2 * slow_machine, "base": slow_machine}
    assert bench.ratios(times, "base")["us"].tolist() == [2.0, 2.0, 2.0]


def test_everybody_has_a_turn_in_each_round() -> None:
    calls: list[str] = []
    steps = {name: lambda name=name: calls.append(name) for name in ("a", "b")}
    times = bench.interleaved(steps, rounds=3, seconds=0.0)
    assert {name: t.shape for name, t in times.items()} == {"a": (3,), "b": (3,)}
    assert calls.count("a") == calls.count("b") == 2 + 3


def test_a_contender_that_trains_something_else_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = {
        "minimono": (None, bench.minimono_step),
        "NumPy by hand": (None, lambda net: lambda: 1.0),
    }
    monkeypatch.setattr(bench, "CONTENDERS", other)
    with pytest.raises(RuntimeError, match="NumPy by hand starts at loss 1"):
        list(bench.training(MLP, rounds=1, seconds=0.0, slow=False))


@pytest.mark.parametrize("lines", [
    lambda: bench.training(MLP, rounds=1, seconds=0.0, slow=False),
    lambda: bench.metrics(rounds=1, samples=64),
    lambda: bench.imports(),
], ids=["training", "metrics", "imports"])  # fmt: skip
def test_lines_of_tables(lines: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "CONTENDERS", {n: c for n, c in CONTENDERS.items() if c[0] is None})
    rows = list(lines())
    assert len(rows) >= 2
    assert all(row.startswith("| ") and row.endswith(" |") for row in rows)


def test_what_inhibition_costs() -> None:
    assert "MEmeL in 1 of 2 blocks (tiny GPT)" in bench.inhibition(GPT, rounds=1, seconds=0.0)
