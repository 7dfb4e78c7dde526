"""The training loop: what it yields, when it stops, and that it loses nothing when it fails."""

import math
from typing import Any

import numpy as np
import pytest

import minimono as mm
from minimono.engine import functional as F
from minimono.nn import Dropout, Linear, Module, Sequential
from minimono.nn.training import Record, TrainingError, train


def regression() -> tuple[Module, list[tuple[Any, Any]]]:
    rng = np.random.default_rng(0)
    batches = [(rng.standard_normal((8, 3)), rng.standard_normal((8, 1))) for _ in range(6)]
    return Linear(3, 1, rng=rng, dtype=np.float64), batches


def square_error(model: Module, x: Any, y: Any) -> mm.Tensor:
    return ((model(mm.tensor(x)) - mm.tensor(y)) ** 2.0).mean()


def test_a_run_is_the_same_as_the_steps_by_hand() -> None:
    model, batches = regression()
    by_hand, _ = regression()
    optimiser = mm.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)
    other = mm.optim.SGD(by_hand.parameters(), lr=1.0, momentum=0.9)
    records = train(
        model, batches, square_error, optimiser, steps=6, schedule=lambda n: 0.1 / (n + 1),
        max_norm=0.5,
    )
    for n, (record, batch) in enumerate(zip(records, batches, strict=True)):
        other.lr = 0.1 / (n + 1)
        other.zero_grad()
        loss = square_error(by_hand, *batch)
        loss.backward()
        norm = math.sqrt(sum((p.grad**2).sum() for p in by_hand.parameters()))
        mm.optim.clip_grad_norm(by_hand.parameters(), 0.5)
        other.step()
        assert record == Record(n + 1, loss.item(), other.lr, record.gradient_norm, record.seconds)
        assert record.gradient_norm == pytest.approx(norm, rel=1e-14)
        assert record.seconds > 0.0
        for p, q in zip(model.parameters(), by_hand.parameters(), strict=True):
            assert p.data.tobytes() == q.data.tobytes()
    assert n == 5


def test_it_prints_nothing_and_learns(capfd: pytest.CaptureFixture[str], tiny_run: Any) -> None:
    losses = [record.loss for record in tiny_run(40).records()]
    assert capfd.readouterr() == ("", "")
    assert len(losses) == 40
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.05
    assert losses[0] == pytest.approx(math.log(11.0), rel=0.05)


def test_without_a_schedule_the_optimisers_own_rate_counts() -> None:
    model, batches = regression()
    optimiser = mm.optim.SGD(model.parameters(), lr=0.25)
    [record] = train(model, batches, square_error, optimiser, steps=1)
    assert record.learning_rate == optimiser.lr == 0.25


def test_each_step_runs_in_training_mode() -> None:
    model = Sequential(Dropout(0.5, rng=np.random.default_rng(0)), regression()[0])
    batches = regression()[1]
    modes = []

    def loss(model: Module, x: Any, y: Any) -> mm.Tensor:
        modes.append(model.training)
        return square_error(model, x, y)

    optimiser = mm.optim.SGD(model.parameters(), lr=0.01)
    for _ in train(model, batches, loss, optimiser, steps=3):
        model.eval()  # the caller looks at the validation loss, and forgets to switch back
    assert modes == [True, True, True]


def test_parts_that_were_frozen_before_training_stay_so() -> None:
    model, batches = regression()
    frozen = Sequential(Dropout(0.5, rng=np.random.default_rng(0)))
    model = Sequential(frozen, model)
    modes = []

    def loss(model: Module, x: Any, y: Any) -> mm.Tensor:
        modes.append([m.training for _, m in model.named_modules()])
        return square_error(model, x, y)

    optimiser = mm.optim.SGD(model.parameters(), lr=0.01)
    frozen.eval()
    for _ in train(model, batches, loss, optimiser, steps=2):
        model.eval()
    model.eval()  # nothing is frozen by itself
    for _ in train(model, batches, loss, optimiser, steps=1):
        pass
    assert modes == [[True, False, False, True]] * 2 + [[True] * 4]


def test_a_step_that_fails_leaves_each_part_in_its_mode() -> None:
    """Both what was so before training and what the caller switched between two steps."""
    part, batches = regression()
    model = Sequential(Dropout(0.5, rng=0), part)
    optimiser = mm.optim.SGD(model.parameters(), lr=0.01)
    batches[1][1][0] = math.nan
    records = train(model.eval(), batches, square_error, optimiser, steps=6)
    next(records)
    part.eval()
    before = [m.training for _, m in model.named_modules()]
    with pytest.raises(TrainingError, match="loss of step 2"):
        next(records)
    assert [m.training for _, m in model.named_modules()] == before == [True, True, False]
    with pytest.raises(TrainingError, match="loss of step 1"):
        next(train(model.eval(), batches[1:], square_error, optimiser, steps=1))
    assert not any(m.training for _, m in model.named_modules())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_names_the_step_and_harms_nothing(bad: float) -> None:
    model, batches = regression()
    optimiser = mm.optim.Adam(model.parameters())
    batches[2][1][0] = bad
    records = train(model, batches, square_error, optimiser, steps=6)
    assert [next(records).step, next(records).step] == [1, 2]
    before = {**model.state_dict(), **optimiser.state_dict()}
    with pytest.raises(TrainingError, match=rf"loss of step 3 is {bad}"):
        next(records)
    after = {**model.state_dict(), **optimiser.state_dict()}
    assert {k: v.tobytes() for k, v in after.items()} == {
        k: v.tobytes() for k, v in before.items()
    }


def test_a_gradient_that_is_not_finite_harms_nothing() -> None:
    """sqrt at 0: the loss is 0, its slope infinite."""
    model, batches = regression()
    optimiser = mm.optim.SGD(model.parameters(), lr=0.1)
    before = model.weight.data.tobytes()

    def loss(model: Module, x: Any, y: Any) -> mm.Tensor:
        return ((model.weight * 0.0) ** 2.0).sum().sqrt()

    for max_norm in (None, 1.0):
        with np.errstate(divide="ignore", invalid="ignore"):
            with pytest.raises(TrainingError, match="gradient norm of step 1 is nan"):
                next(train(model, batches, loss, optimiser, steps=1, max_norm=max_norm))
    assert model.weight.data.tobytes() == before


def test_batches_that_end_early_are_an_error() -> None:
    model, batches = regression()
    optimiser = mm.optim.SGD(model.parameters(), lr=0.1)
    records = train(model, batches[:2], square_error, optimiser, steps=3)
    assert [next(records).step, next(records).step] == [1, 2]
    with pytest.raises(TrainingError, match="the batches ended after 2 of 3 steps"):
        next(records)


def test_it_starts_where_it_is_told() -> None:
    model, batches = regression()
    optimiser = mm.optim.SGD(model.parameters(), lr=0.1)
    asked: list[int] = []

    def schedule(n: int) -> float:
        asked.append(n)
        return 0.1

    records = train(
        model, batches, square_error, optimiser, start=4, steps=6, schedule=schedule
    )
    assert [record.step for record in records] == [5, 6]
    assert asked == [4, 5]
    assert [*train(model, batches, square_error, optimiser, start=6, steps=6)] == []
    with pytest.raises(ValueError, match="start is 7, expected at most 6, the steps"):
        next(train(model, batches, square_error, optimiser, start=7, steps=6))


def test_a_loss_that_is_no_tensor_is_named() -> None:
    model, batches = regression()
    optimiser = mm.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(TypeError, match=r"what loss returned is 1\.0, expected a Tensor"):
        next(train(model, batches, lambda *_: 1.0, optimiser, steps=1))
    with pytest.raises(ValueError, match="expected a scalar"):
        next(train(model, batches, lambda m, x, y: m(mm.tensor(x)), optimiser, steps=1))


def test_two_runs_give_the_same_bits(tiny_run: Any) -> None:
    first, second = tiny_run(12), tiny_run(12)
    losses = [[record.loss for record in run.records()] for run in (first, second)]
    assert losses[0] == losses[1]
    assert first.bits() == second.bits()
    assert first.memel.last is not None
    assert first.memel.last.flagged.any()


def test_a_classifier_trains_on_plain_arrays() -> None:
    """BERT learns which of two tokens comes first: a task that needs attention and positions."""
    rng = np.random.default_rng(0)
    model = mm.models.BERT(
        vocabulary=3, context=6, channels=16, heads=2, layers=1, classes=2, rng=rng
    )
    ids = rng.integers(1, 3, (64, 6))
    ids[:, 0] = 0
    targets = ids[:, 1] - 1
    optimiser = mm.optim.Adam(model.parameters(), lr=0.01)
    batches = ((ids, targets) for _ in range(60))
    losses = [
        record.loss
        for record in train(
            model, batches, lambda m, x, y: F.cross_entropy(m(x), y), optimiser, steps=60
        )
    ]
    assert losses[0] == pytest.approx(math.log(2.0), rel=0.05)
    assert losses[-1] < 0.1
