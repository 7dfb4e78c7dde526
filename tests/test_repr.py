"""What things say of themselves: their settings and sizes, never a screenful of numbers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minimono as mm
from minimono import nn
from minimono.nn import Module, Sequential, Tap, taps

RNG = np.random.default_rng


def gpt(**changes: Any) -> Module:
    sizes: dict[str, Any] = {
        "vocabulary": 65, "context": 16, "channels": 32, "heads": 4, "layers": 12, "dropout": 0.1,
    }
    return mm.models.GPT(**sizes | changes, rng=0)


def test_a_network_is_a_tree_of_its_parts() -> None:
    assert repr(mm.models.MLP((3, 4, 2), rng=0, dtype=np.float64)) == """\
MLP(
  (hidden.0): _Hidden(
    (linear): Linear(weight=float64 (4, 3), bias=float64 (4,))
    (activation): Activation(name='relu')
    (act): Tap()
  )
  (out): Linear(weight=float64 (2, 4), bias=float64 (2,))
)"""


def test_equal_blocks_are_drawn_once() -> None:
    text = repr(gpt())
    assert "\n  (block.0-11): 12 x Block(\n    (norm1): LayerNorm(" in text
    assert "\n      heads=4, causal=True\n      (qkv): Linear(weight=float32 (96, 32), " in text
    assert text.startswith("GPT(\n  context=16\n  (token): Embedding(weight=float32 (65, 32))\n")
    assert len(text.splitlines()) < 30  # a screen


def test_a_block_that_differs_is_drawn_itself() -> None:
    model = gpt(layers=4)
    taps.insert(model, "block.1.out", mm.mono.MEmeL(k=3))
    text = repr(model)
    for part in ("(block.0): Block(", "(block.1): Block(", "(block.2-3): 2 x Block("):
        assert f"\n  {part}\n" in text
    inserted = "(inserted): MEmeL(k=3, strength=1.0, start_after=10, tracker=ScaleTracker("
    assert f"\n    (out): Tap(\n      {inserted}" in text


def test_runs_are_of_one_container() -> None:
    tree = Sequential(Tap(), Tap())
    tree.a, tree.b = [Tap()], {"x": Tap(), "0": Tap(), "2": Tap()}  # type: ignore[attr-defined]
    assert repr(tree) == (
        "Sequential(\n  (0-1): 2 x Tap()\n  (a.0): Tap()\n  (b.x): Tap()\n  (b.0): Tap()\n"
        "  (b.2): Tap()\n)"
    )


def test_a_shared_part_and_a_circle_are_drawn_once() -> None:
    block = Sequential(nn.Linear(2, 2, rng=0))
    model = Sequential(block, block, block)
    vars(block)["0"].home = model
    assert repr(model) == """\
Sequential(
  (0): Sequential(
    (0): Linear(
      weight=float32 (2, 2), bias=float32 (2,)
      (home): Sequential, the same as the whole
    )
  )
  (1-2): 2 x Sequential, the same as "0"
)"""


def test_settings_are_shown_and_private_or_long_things_are_not() -> None:
    class Custom(Module):
        def __init__(self) -> None:
            self.size, self.pair, self.name, self.flag = 3, (1, 2.0), "x", True
            self.weights = [mm.tensor([1.0], requires_grad=True)]
            self.table = np.zeros((1000, 1000))
            self._hidden, self.many, self.function, self.nothing = 1, [1] * 99, len, None
            self.rng, self.dtype = RNG(0), np.float32
            self.rate = np.float64(0.5)

    assert repr(Custom()) == (
        "Custom(size=3, pair=(1, 2.0), name='x', flag=True, table=float64 (1000, 1000), "
        "rate=0.5, weights.0=float64 (1,))"
    )


TRACKER = (
    "ScaleTracker(convention='paper', forget_after=10, compensation=0.01, batches_seen={})"
)


def test_inhibition_says_settings_and_state() -> None:
    module = mm.mono.MEmeL(k=2, start_after=1)
    assert repr(module) == (
        f"MEmeL(k=2, strength=1.0, start_after=1, tracker={TRACKER.format(0)})"
    )
    z = mm.tensor(RNG(0).random((500, 40)))
    module(z)
    module(z)
    assert repr(module.tracker) == TRACKER.format(2)
    assert repr(module.tracker.moments) == (
        "Moments(count=1000, mean=float64 (40,), m2=float64 (40,))"
    )
    assert repr(module.last) == (
        "Inhibition(activations=float64 (500, 40), flagged=bool (500, 40), compensation=0.01, "
        "scores_constant=False)"
    )
    never = mm.mono.ScaleTracker(forget_after=None)
    assert "forget_after=None, " in repr(never).replace(")", ", ")


def test_l2e_says_settings_and_state() -> None:
    threshold = mm.mono.MovingThreshold(0.25, rate=0.1)
    assert repr(threshold) == "MovingThreshold(fraction=0.25, rate=0.1, value=nan)"
    threshold.select(np.array([[1.0, 4.0, 2.0, 3.0]]))
    assert repr(threshold) == "MovingThreshold(fraction=0.25, rate=0.1, value=4.0)"
    module = mm.mono.L2E(0.25, start_after=1)
    z = mm.tensor(RNG(0).random((500, 40)))
    module(z)
    module(z)
    assert repr(module).startswith(f"L2E(start_after=1, tracker={TRACKER.format(2)}, threshold=")
    assert repr(module.last).startswith("Penalised(penalty=")
    assert len(repr(module.last)) < 150


def test_an_optimiser_says_settings_and_how_much_it_moves() -> None:
    model = mm.models.MLP((30, 40, 2), rng=0)
    optimiser = mm.optim.AdamW(model.parameters(), 0.5)
    numbers = 30 * 40 + 40 + 40 * 2 + 2
    assert repr(optimiser) == (
        "AdamW(lr=0.5, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.01, updates=0; "
        f"4 arrays, {numbers:,} numbers)"
    )
    assert repr(mm.optim.SGD(model.parameters(), 0.1)).startswith("SGD(lr=0.1, momentum=0.0, ")


def test_a_checkpoint_says_what_is_in_it(tmp_path: Path) -> None:
    model = nn.Linear(300, 200, rng=0)
    optimiser = mm.optim.SGD(model.parameters(), 0.1)
    mm.checkpoint.save(tmp_path / "a", model, config={"text": "x" * 10_000}, step=7)
    mm.checkpoint.save(tmp_path / "b", model, optimiser=optimiser, rng=RNG(0), config={"n": 3})
    text = repr(mm.checkpoint.load(tmp_path / "a"))
    assert text.startswith("Checkpoint(version=1, step=7, config={'text': 'xxx")
    assert text.endswith("x...; model: 2 arrays, 60,200 numbers; optimiser: none)")
    assert len(text) < 320
    text = repr(mm.checkpoint.load(tmp_path / "b"))
    assert "config={'n': 3}; model: 2 arrays, 60,200 numbers; optimiser: 2 arrays, " in text


@pytest.mark.parametrize("thing", [gpt, mm.mono.MEmeL, mm.mono.L2E])
def test_saying_it_changes_nothing(thing: Any) -> None:
    model = thing()
    before = {name: array.tobytes() for name, array in model.state_dict().items()}
    repr(model)
    assert {name: array.tobytes() for name, array in model.state_dict().items()} == before


def test_functions_show_how_they_are_called() -> None:
    assert repr(mm.functional.softmax) == "softmax(x: 'Tensor', axis: 'int' = -1) -> 'Tensor'"
    assert repr(mm.functional.tanh) == "tanh(x: 'Array') -> 'Array'"
    with pytest.raises(TypeError, match=r"Sequential: layer 0 is relu\(x: 'Tensor'\) .*, expected"):
        Sequential(mm.functional.relu)  # type: ignore[arg-type]
