"""Parts of a batch in threads: the same gradients as the whole batch, and clear refusals."""

import threading
import time
from typing import Any

import numpy as np
import pytest

import minimono as mm
from minimono import kernels, machine
from minimono.engine import functional as F
from minimono.kernels import parallel
from minimono.nn import Module, backward_in_parts, data_parallel, taps
from minimono.nn.training import train


@pytest.fixture(params=[1, 2, 3, 5])
def threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(machine, "threads", lambda: request.param)
    monkeypatch.setattr(parallel, "LEAST", 1)  # kernels would cut up everything, if they were asked
    cut_everything(monkeypatch)
    return int(request.param)


def cut_everything(monkeypatch: pytest.MonkeyPatch, threads: int | None = None) -> None:
    """Let every batch pay that has two samples a part."""
    monkeypatch.setattr(data_parallel, "ROWS", 1)
    monkeypatch.setattr(data_parallel, "WORK", 1)
    if threads is not None:
        monkeypatch.setattr(machine, "threads", lambda: threads)


def gpt(dtype: Any = np.float64, **settings: Any) -> mm.models.GPT:
    return mm.models.GPT(
        vocabulary=11, context=6, channels=8, heads=2, layers=2, dtype=dtype,
        rng=np.random.default_rng(0), **settings,
    )


def batch(size: int = 7) -> tuple[Any, Any]:
    ids = np.random.default_rng(1).integers(0, 11, (size, 7))
    return ids[:, :-1], ids[:, 1:]


def loss(model: Module, ids: Any, targets: Any) -> mm.Tensor:
    return F.cross_entropy(model(ids), targets)


@pytest.mark.parametrize("size", [1, 2, 7])
def test_loss_and_gradients_are_those_of_the_whole_batch(size: int, threads: int) -> None:
    whole, parts = gpt(), gpt()
    expected = loss(whole, *batch(size))
    expected.backward()
    assert backward_in_parts(loss, parts, batch(size)) == pytest.approx(expected.item(), rel=1e-14)
    for p, q in zip(parts.parameters(), whole.parameters(), strict=True):
        np.testing.assert_allclose(p.grad, q.grad, rtol=1e-11, atol=1e-15)


def test_they_are_the_same_bits_each_time_and_add_up(threads: int) -> None:
    model = gpt(np.float32)
    backward_in_parts(loss, model, tuple(values.tolist() for values in batch()))
    first = [p.grad for p in model.parameters()]
    copies = [g.copy() for g in first]
    backward_in_parts(loss, model, batch())
    for p, g, copy in zip(model.parameters(), first, copies, strict=True):
        assert g.tobytes() == copy.tobytes()
        assert p.grad.tobytes() == (copy + copy).tobytes()


def test_each_part_has_a_thread_and_the_callers_settings(threads: int) -> None:
    seen: list[tuple[int, bool, int]] = []

    def spying(model: Module, ids: Any, targets: Any) -> mm.Tensor:
        seen.append((threading.get_ident(), kernels.enabled(), len(ids)))
        return loss(model, ids, targets)

    with mm.reference():
        backward_in_parts(spying, gpt(), batch())
    assert len({thread for thread, _, _ in seen}) <= min(threads, 7 // 2) == len(seen)
    assert threading.get_ident() in {thread for thread, _, _ in seen}
    assert not any(enabled for _, enabled, _ in seen)
    assert sum(samples for _, _, samples in seen) == 7


def test_training_in_parts(threads: int) -> None:
    runs = []
    for in_parts in (False, True):
        model = gpt()
        optimiser = mm.optim.AdamW(model.parameters())
        records = train(
            model, [batch()] * 3, loss, optimiser, steps=3, max_norm=0.5, in_parts=in_parts
        )
        runs.append([(record.loss, record.gradient_norm) for record in records])
    np.testing.assert_allclose(*runs, rtol=1e-11)


def test_an_error_in_a_part_comes_out_and_changes_no_gradient(threads: int) -> None:
    def failing(model: Module, ids: Any, targets: Any) -> mm.Tensor:
        if 3 in ids[:, 0]:
            raise RuntimeError("a three")
        return loss(model, ids, targets)

    ids, targets = batch()
    ids[:, 0] = 0
    ids[-1, 0] = 3
    model = gpt()
    with pytest.raises(RuntimeError, match="a three"):
        backward_in_parts(failing, model, (ids, targets))
    assert all(p.grad is None for p in model.parameters())


# ---- when it pays ------------------------------------------------------------------------------


def test_only_what_pays_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "threads", lambda: 2)
    mlp = mm.models.MLP((784, 1024, 1024, 10), rng=0)
    small = mm.models.MLP((64, 128, 128, 10), rng=0)
    writer = mm.models.GPT(vocabulary=256, context=128, channels=128, heads=4, layers=2, rng=0)

    def parts(model: Module, samples: int, *of_one: int, dtype: Any = np.float32) -> int:
        values = np.zeros((samples, *of_one), dtype)
        return data_parallel.parts_that_pay(model, (values, np.zeros(samples, np.int64)))

    assert parts(writer, 16, 128, dtype=np.int64) == 2
    assert parts(writer, 4, 128, dtype=np.int64) == 1  # 512 tokens: 256 each
    assert parts(mlp, 256, 784) == 1  # 128 rows each: its gradients would take as long
    assert parts(mlp, 1024, 784) == 2
    assert parts(small, 1024, 64) == 1  # so little work that Python's is most of it
    assert parts(writer, 1, 4096, dtype=np.int64) == 1
    monkeypatch.setattr(machine, "threads", lambda: 16)
    assert parts(writer, 64, 128, dtype=np.int64) == 16


# ---- modules with a state ----------------------------------------------------------------------


def with_memel(layers: int = 2, **settings: Any) -> tuple[Module, mm.mono.MEmeL]:
    model = gpt(dropout=0.0)
    memel = mm.mono.MEmeL(start_after=2, forget_after=3, **settings)
    taps.insert(model, "block.0.mlp.act", memel)
    return model, memel


RULES: dict[str, Any] = {
    "k": {"k": 2}, "fraction": {"select": mm.mono.TopFraction(0.1)},
    "above": {"select": mm.mono.Above(3.0)},
}


@pytest.mark.parametrize("rule", RULES)
def test_memel_learns_and_inhibits_as_with_the_whole_batch(threads: int, rule: str) -> None:
    (whole, its), (parts, theirs) = with_memel(**RULES[rule]), with_memel(**RULES[rule])
    rng = np.random.default_rng(5)
    for step in range(6):
        ids = rng.integers(0, 11, (7, 7))
        both = ids[:, :-1], ids[:, 1:]
        for model in (whole, parts):
            model.zero_grad()
        expected = loss(whole, *both)
        expected.backward()
        assert backward_in_parts(loss, parts, both) == pytest.approx(expected.item(), rel=1e-13)
        assert theirs.tracker.batches_seen == its.tracker.batches_seen == step + 1
        assert theirs.tracker.count == its.tracker.count
        np.testing.assert_allclose(theirs.tracker.mean, its.tracker.mean, rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(
            theirs.tracker.variance, its.tracker.variance, rtol=1e-9, atol=1e-15
        )
        assert (its.last is None) == (theirs.last is None) == (step < 2)
        if its.last is not None and theirs.last is not None:
            assert its.last.flagged.any()
            np.testing.assert_array_equal(theirs.last.flagged, its.last.flagged)
            np.testing.assert_allclose(theirs.last.activations, its.last.activations, atol=1e-12)
            np.testing.assert_allclose(theirs.last.mean, its.last.mean, rtol=1e-12, atol=1e-15)
        for p, q in zip(parts.parameters(), whole.parameters(), strict=True):
            np.testing.assert_allclose(p.grad, q.grad, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("size", [2, 7])
def test_dropout_drops_the_same_in_any_number_of_parts(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(threads: int) -> tuple[list[float], list[Any], list[Any]]:
        cut_everything(monkeypatch, threads)
        model = gpt(dropout=0.3)
        losses = [backward_in_parts(loss, model, batch(size)) for _ in range(2)]
        gradients = [p.grad for p in model.parameters()]
        return losses, gradients, [v for k, v in model.state_dict().items() if k.endswith("rng")]

    one = run(1)
    assert one[0][0] != one[0][1]  # each step drops others
    for threads in (2, 3):
        losses, gradients, states = run(threads)
        np.testing.assert_allclose(losses, one[0], rtol=1e-13)
        for found, expected in zip(gradients, one[1], strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-14)
        assert [a.tobytes() for a in states] == [a.tobytes() for a in one[2]]


def test_dropout_in_parts_drops_its_share_and_no_two_samples_or_calls_alike(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cut_everything(monkeypatch, 4)
    model = mm.nn.Dropout(0.25, rng=0)
    weight = mm.tensor(np.ones((8, 1001), np.float32), requires_grad=True)
    rows = np.arange(8)

    def twice(model: Module, rows: Any) -> mm.Tensor:
        return (model(weight[rows]) + 1000.0 * model(weight[rows])).mean()

    backward_in_parts(twice, model, (rows,))
    assert weight.grad is not None
    dropped = np.round(weight.grad * 0.75 * 8 * 1001)  # 0, 1, 1000 or 1001
    assert len(np.unique(dropped, axis=0)) == 8
    first, second = dropped % 1000 == 0, dropped < 1000
    for mask in (first, second):
        assert mask.mean() == pytest.approx(0.25, abs=0.02)
    assert (first & second).mean() == pytest.approx(0.25**2, abs=0.02)


def test_the_order_in_which_parts_are_done_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    cut_everything(monkeypatch, 3)

    def run(slow: int) -> list[bytes]:
        def loss_after_a_while(model: Module, ids: Any, targets: Any) -> mm.Tensor:
            if (ids[0] == both[0][slow]).all():
                time.sleep(0.02)
            return loss(model, ids, targets)

        both = batch(6)
        model = gpt(dropout=0.3)
        taps.insert(model, "block.0.mlp.act", mm.mono.MEmeL(start_after=1))
        for _ in range(3):
            backward_in_parts(loss_after_a_while, model, both)
        states = [value.tobytes() for value in model.state_dict().values()]
        return states + [p.grad.tobytes() for p in model.parameters() if p.grad is not None]

    first_is_slow, last_is_slow = run(0), run(4)
    assert first_is_slow == last_is_slow


def test_threads_and_states_of_modules_in_eval_are_left_alone(threads: int) -> None:
    model, memel = with_memel(k=1)
    model.block.append(mm.nn.Dropout(0.5, rng=0))  # type: ignore[attr-defined]
    model.eval()
    before = model.state_dict()
    assert backward_in_parts(loss, model, batch()) == pytest.approx(loss(model, *batch()).item())
    for name, value in model.state_dict().items():
        assert value.tobytes() == before[name].tobytes()
    assert memel.tracker.batches_seen == 0


def test_a_module_that_is_not_called_learns_nothing(threads: int) -> None:
    model = mm.nn.Sequential(mm.nn.Linear(3, 2, rng=0), mm.mono.MEmeL())
    x = np.ones((8, 3), np.float32)

    def of_the_first(model: Any, x: Any) -> mm.Tensor:
        return model.parameters()[0].sum() * mm.tensor(x).mean()

    backward_in_parts(of_the_first, model, (x,))
    assert model.state_dict()["1.batches_seen"] == 0


def test_if_a_part_fails_states_are_as_before(threads: int) -> None:
    def failing(model: Module, ids: Any, targets: Any) -> mm.Tensor:
        output = loss(model, ids, targets)
        if 3 in ids[:, 0]:
            raise RuntimeError("a three")
        return output

    ids, targets = batch()
    ids[:, 0] = 0
    model = gpt(dropout=0.1)
    memel = mm.mono.MEmeL(k=1, start_after=1)
    taps.insert(model, "block.0.mlp.act", memel)
    for _ in range(2):
        backward_in_parts(failing, model, (ids, targets))
    before, last = model.state_dict(), memel.last
    ids[-1, 0] = 3
    with pytest.raises(RuntimeError, match="a three"):
        backward_in_parts(failing, model, (ids, targets))
    for name, value in model.state_dict().items():
        assert value.tobytes() == before[name].tobytes(), name
    assert memel.last is last is not None


@pytest.mark.parametrize("threads", [1, 2], indirect=True)
def test_training_in_parts_goes_on_from_a_checkpoint_in_the_same_bits(
    threads: int, tmp_path: Any
) -> None:
    def start() -> tuple[Module, mm.optim.Optimiser]:
        model = gpt(np.float32, dropout=0.2)
        taps.insert(model, "block.1.mlp.act", mm.mono.MEmeL(k=1, start_after=1))
        return model, mm.optim.AdamW(model.parameters())

    def go(model: Module, optimiser: Any, start: int, steps: int) -> list[float]:
        records = train(
            model, [batch()] * 9, loss, optimiser, start=start, steps=steps, in_parts=True
        )
        return [record.loss for record in records]

    model, optimiser = start()
    expected = go(model, optimiser, 0, 6)
    model, optimiser = start()
    first = go(model, optimiser, 0, 3)
    mm.checkpoint.save(tmp_path / "run", model=model, optimiser=optimiser, step=3)
    model, optimiser = start()
    mm.checkpoint.load(tmp_path / "run").restore(model, optimiser)
    assert first + go(model, optimiser, 3, 6) == expected


class Counting(Module):
    """Counts its calls, and says nothing of parts."""

    calls = 0

    def forward(self, x: mm.Tensor) -> mm.Tensor:
        self.calls += 1
        return x

    def extra_state(self) -> dict[str, Any]:
        return {"calls": np.array(self.calls)}


def test_what_needs_the_whole_batch_is_refused(threads: int) -> None:
    def refused(module: Module, why: str) -> None:
        model = gpt()
        taps.insert(model, "block.0.mlp.act", module)
        before = model.state_dict()
        with pytest.raises(
            ValueError, match=rf"parts: block\.0\.mlp\.act\.inserted \({why}; use loss\.backward"
        ):
            backward_in_parts(loss, model, batch())
        for name, value in model.state_dict().items():
            assert value.tobytes() == before[name].tobytes()
        assert all(p.grad is None for p in model.parameters())

    memel = mm.mono.MEmeL
    refused(Counting(), r"Counting\) has a state that a forward pass changes, and cannot divide it")
    refused(memel(convention="authors"), r'MEmeL\) has convention "authors", which .*')
    of_batch = mm.mono.TopK(1, per="batch")
    refused(memel(select=of_batch), r"MEmeL\) flags by TopK\(.*\), which looks at the whole batch")
    refused(memel(select=lambda phi: phi > 1), r"MEmeL\) flags by .*lambda.*, which looks .*")
    refused(memel(select=mm.mono.MovingThreshold(0.1)), r"MEmeL\) flags by MovingThreshold.*")
    of_mine = memel()
    of_mine.tracker = type("Mine", (mm.mono.ScaleTracker,), {})()
    refused(of_mine, r"MEmeL\) has a Mine, of which parts are not known")
    refused(mm.mono.L2E(), r"L2E\) averages its penalty over all that is flagged in .*")


def test_a_memel_that_is_called_twice_is_refused_and_nothing_changes(threads: int) -> None:
    memel = mm.mono.MEmeL()
    model = gpt()
    for block in (0, 1):
        taps.insert(model, f"block.{block}.mlp.act", memel)
    times = r"\[2(, 2)*\] times in the parts, expected once"
    with pytest.raises(ValueError, match=rf"inserted \(MEmeL\) was called {times}"):
        backward_in_parts(loss, model, batch())
    assert memel.tracker.batches_seen == 0
    assert all(p.grad is None for p in model.parameters())


def test_taps_that_are_read_are_refused(threads: int) -> None:
    model = gpt()
    with taps.read(model), pytest.raises(ValueError, match=r"tap .* is being read or replaced"):
        backward_in_parts(loss, model, batch())
    backward_in_parts(loss, model, batch())


def test_a_batch_that_is_none_is_refused() -> None:
    ids, targets = batch()
    for a, b in ((7, 3), (0, 0)):
        with pytest.raises(ValueError, match=rf"batch has \[{a}, {b}\] samples .*expected one"):
            backward_in_parts(loss, gpt(), (ids[:a], targets[:b]))
    with pytest.raises(ValueError, match=r"batch has \[\] samples"):
        backward_in_parts(loss, gpt(), ())
    with pytest.raises(TypeError, match=r"what loss returned is \d.*, expected a Tensor"):
        backward_in_parts(lambda *a: 1.0, gpt(), (ids, targets))  # type: ignore[arg-type, return-value]
