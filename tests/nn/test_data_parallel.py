"""Parts of a batch in threads: the same gradients as the whole batch, and clear refusals."""

import threading
from typing import Any

import numpy as np
import pytest

import minimono as mm
from minimono import kernels, machine
from minimono.engine import functional as F
from minimono.kernels import parallel
from minimono.nn import Module, backward_in_parts, taps
from minimono.nn.training import train


@pytest.fixture(params=[1, 2, 3, 5])
def threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(machine, "threads", lambda: request.param)
    monkeypatch.setattr(parallel, "LEAST", 1)  # kernels would cut up everything, if they were asked
    return int(request.param)


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
    backward_in_parts(loss, model, batch())
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
    assert len({thread for thread, _, _ in seen}) <= threads == len(seen)
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


def test_models_with_a_state_are_refused() -> None:
    model = gpt()
    taps.insert(model, "block.0.mlp.act", mm.mono.MEmeL())
    with pytest.raises(ValueError, match=r"block\.0\.mlp\.act.*\(MEmeL\) has a state .*backward"):
        backward_in_parts(loss, model, batch())
    with pytest.raises(ValueError, match=r"dropout.* \(Dropout\) has a state"):
        backward_in_parts(loss, gpt(dropout=0.1), batch())
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
