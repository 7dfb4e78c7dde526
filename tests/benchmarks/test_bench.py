"""The benchmark measures what it says: same networks everywhere, in processes like everybody's."""

from importlib import import_module
from typing import Any

import numpy as np
import pytest

from benchmarks import limits, load, measures, rounds, run
from benchmarks.__main__ import main
from benchmarks.tasks import TASKS, Perceptron, Task, Transformer, check

TINY = [
    Perceptron("tiny MLP", (5, 7, 6, 3), batch=4),
    Transformer("tiny GPT", layers=2, channels=8, heads=2, context=6, batch=3, vocabulary=11),
]
PEERS = [
    "numpy_peer",
    *(pytest.param(f"{name}_peer", marks=pytest.mark.parity) for name in
      ("torch", "jax", "mygrad", "autograd")),
]


@pytest.mark.parametrize("task", TINY, ids=lambda t: t.name)
@pytest.mark.parametrize("peer", PEERS)
def test_every_framework_computes_the_same_losses(peer: str, task: Task) -> None:
    framework = peer.removesuffix("_peer")
    pytest.importorskip(framework)
    losses: dict[str, list[float]] = {}
    for file in ("ours", peer):
        for name, step in import_module(f"benchmarks.{file}").steps(task).items():
            losses[name] = [step() for _ in range(5)]
    assert len(losses) >= 3
    assert all(values[4] < values[0] for values in losses.values())  # they do learn
    check(task.name, losses)


@pytest.mark.parity
@pytest.mark.parametrize("task", TINY, ids=lambda t: t.name)
def test_pytorch_with_its_best_settings_computes_the_same(task: Task) -> None:
    torch = pytest.importorskip("torch")
    from benchmarks import torch_peer

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        best = torch_peer.best_steps(task)
        assert [*best] == [f"PyTorch eager, best settings{more}" for more in ("", ", one thread")]
        used = []
        for step in best.values():
            step()
            used.append(torch.get_num_threads())
        assert used == [2, 1]
        assert torch.tensor([1e-40]).mul(1.0).item() == 0.0  # a denormal number
        steps = torch_peer.steps(task) | torch_peer.best_steps(task)
        check(task.name, {name: [step() for _ in range(5)] for name, step in steps.items()})
        (product,) = torch_peer.limits(task).values()
        assert product() == 0.0
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(threads)


def test_without_a_compiler_or_a_framework_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "is_installed", lambda framework: framework in ("numpy", "torch"))
    monkeypatch.setattr(run.shutil, "which", lambda name: None)
    of_run = run.Run(quick=False, count=1, say=lambda line: None)
    found = run._installed(run.PEERS, of_run)
    assert found == [("numpy_peer", "steps"), ("torch_peer", "steps"), ("torch_peer", "best_steps")]
    assert of_run.left_out == [
        "minimono (not installed)", "torch.compile (no C++ compiler)", "jax (not installed)",
        "mygrad (not installed)", "autograd (not installed)",
    ]


def test_a_piece_begins_no_round_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "LONGEST", 0.0)  # as if its first steps had taken all of it
    of_run = run.Run(quick=False, count=9, say=lambda line: None)
    with pytest.raises(rounds.Busy, match="0 rounds were undisturbed and 0 were not"):
        of_run.interleaved({"a": lambda: (1.0, 0.0)})


def test_other_losses_are_noticed() -> None:
    check("task", {"a": [1.0, 0.9], "b": [1.00001, 0.9]})
    with pytest.raises(AssertionError, match="task: losses of b and of a"):
        check("task", {"a": [1.0, 0.9], "b": [1.0, 0.91]})


@pytest.mark.parametrize("task", [*TASKS.values(), *TINY], ids=lambda t: t.name)
def test_necessary_work_counts_the_parameters_of_the_model(task: Task) -> None:
    operations, moved = measures.necessary(task)
    assert moved == 28.0 * task.model().number_of_parameters()
    if isinstance(task, Perceptron):  # forward, both backward, without the gradient of the input
        (a, b), *rest = zip(task.widths, task.widths[1:], strict=False)
        assert operations == task.batch * (4 * a * b + 6 * sum(m * n for m, n in rest))


def test_necessary_work_of_attention_by_counting_pairs() -> None:
    task = TINY[1]
    assert isinstance(task, Transformer)
    C, T, B = task.channels, task.context, task.batch
    seen = sum(t + 1 for t in range(T))  # pairs of positions
    forward = task.layers * (B * T * 12 * C * C + B * seen * 2 * C) + B * T * task.vocabulary * C
    assert measures.necessary(task)[0] == 3 * 2 * forward


def test_slope_of_a_power() -> None:
    sizes = [2, 4, 8, 16]
    assert measures.slope((sizes, [3.0 * n**1.5 for n in sizes])) == pytest.approx(1.5)


def test_ratios_are_of_the_same_round() -> None:
    base = [1.0, 10.0, 2.0, 5.0, 4.0]
    times = [factor * b for factor, b in zip([0.1, 0.2, 0.3, 0.4, 0.5], base, strict=True)]
    assert rounds.quartiles_of_ratios(times, base) == pytest.approx((0.2, 0.3, 0.4))


def test_a_peer_trains_in_its_own_process_and_passes_errors_on() -> None:
    with rounds.peers([("numpy_peer", "steps")]) as [peer]:
        losses = peer.first_losses("MLP small")["plain NumPy"]
        assert losses[3] < losses[0]
        seconds, others = peer.turn("plain NumPy")
        assert 0.0 < seconds < 10.0
        assert (others is None) is not load.STAT.exists()
        with pytest.raises(RuntimeError, match=r"numpy_peer: KeyError\('no task'\)"):
            peer.first_losses("no task")
    assert not peer.process.is_alive()


def test_a_peer_ends_quietly_when_nobody_asks_any_more() -> None:
    here, there = rounds.get_context("spawn").Pipe()
    here.close()
    rounds._serve(there, "numpy_peer", "steps")  # returns


def test_the_reading_loop_reads_every_word() -> None:
    from benchmarks.reading import read

    words = np.random.default_rng(0).integers(0, 2**62, (37, 19))
    assert read(words) == np.bitwise_xor.reduce(words.ravel())


def test_limits_are_those_of_products_copies_and_reads() -> None:
    steps = limits.steps(TINY[0])
    assert {name.partition(",")[0] for name in steps} == {"product", "copy", "read"}
    assert all(step() == 0.0 for name, step in steps.items() if not name.startswith("product"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds", "0"], "rounds is 0, expected 1 or more"),
        (["metrik"], "piece is 'metrik', expected one of: mlp-small, mlp-784,"),
        (["--quick", "--write", "page.md"], "--quick with --write: quick figures are not for the"),
        (["--measured"], "--measured needs --write FILE.md, and no piece"),
        (["metric", "--measured", "--write", "page.md"], "--measured needs --write FILE.md, and "),
        (["--write", "page.json"], "--write is 'page.json', expected a file that ends with .md"),
    ],
)
def test_bad_arguments_are_refused(arguments: list[str], message: str, capsys: Any) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith(f"benchmarks: {message}")
