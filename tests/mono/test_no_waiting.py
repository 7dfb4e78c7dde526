"""On a GPU, training with MEmeL and L2E does not wait for the device: counted on a stand-in."""

import sys

import numpy as np
import pytest
from stand_in import StandInArray, StandInCuPy

import minimono as mm
from minimono import backend
from minimono.engine.functional import cross_entropy
from minimono.engine.tensor import Tensor
from minimono.mono import L2E, MEmeL, Moments, ScaleTracker, select_top_k
from minimono.nn.models.gpt import GPT
from minimono.nn.optim import AdamW, clip_grad_norm

WAITS = ("get", "__bool__", "__int__", "__float__", "__index__")


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch, emulator_or_formulas: None) -> list[str]:
    """The names of the calls that would have waited, so far; the engine's stand-in for CuPy."""
    seen: list[str] = []

    def watched(name: str) -> object:
        method = getattr(StandInArray, name, None)

        def call(self: object) -> object:
            seen.append(name)
            return method(self) if method else int(self.host)  # type: ignore[attr-defined]

        return call

    for name in WAITS:
        monkeypatch.setattr(StandInArray, name, watched(name), raising=False)

    class CuPy(StandInCuPy):
        def __getattr__(self, name: str) -> object:
            if name in ("nonzero", "flatnonzero", "argwhere", "unique"):
                pytest.fail(f"{name} waits for the device")
            return super().__getattr__(name)

    monkeypatch.setitem(sys.modules, "cupy", CuPy("cupy"))
    monkeypatch.setattr(backend, "_cupy", None)
    return seen


def batches(number: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal((6, 4, 3)).astype(np.float32) for _ in range(number)]


def test_the_counter_counts(waits: list[str]) -> None:
    x = backend.to_device(np.ones(3), "cuda")
    assert not waits
    bool(x.all()), int(x.sum()), float(x.sum()), x.get()
    assert waits == ["__bool__", "__int__", "__float__", "get"]


@pytest.mark.parametrize("convention", ["paper", "authors"])
def test_memel(waits: list[str], convention) -> None:
    here, there = (MEmeL(k=2, start_after=2, convention=convention) for _ in range(2))
    for batch in batches(5):
        z, moved = (mm.tensor(batch, requires_grad=True, device=d) for d in ("cpu", "cuda"))
        out = here(z)
        out.sum().backward()
        waits.clear()
        result = there(moved)
        result.sum().backward()
        assert waits == []
        np.testing.assert_array_equal(backend.to_host(result.data), out.data)
        np.testing.assert_array_equal(backend.to_host(moved.grad), z.grad)


def test_l2e(waits: list[str]) -> None:
    here, there = (L2E(0.1, start_after=1) for _ in range(2))
    for call, batch in enumerate(batches(5)):
        z, moved = (mm.tensor(batch, requires_grad=True, device=d) for d in ("cpu", "cuda"))
        for module, x in ((here, z), (there, moved)):
            waits.clear()
            loss = module(x).sum() + 0.1 * module.penalty
            loss.backward()
        if call != 1:  # where the first scores set the threshold, once
            assert waits == []
        np.testing.assert_allclose(backend.to_host(moved.grad), z.grad, rtol=1e-6)
    np.testing.assert_allclose(float(there.penalty), float(here.penalty), rtol=1e-6)


def test_a_training_step(waits: list[str]) -> None:
    """GPT, dropout, clipping, AdamW: no wait, and the same numbers but for rounding."""
    losses: dict[str, list[Tensor]] = {"cpu": [], "cuda": []}
    for device, found in losses.items():
        rng = np.random.default_rng(3)
        model = GPT(
            vocabulary=11, context=9, channels=8, heads=2, layers=1, rng=rng, dropout=0.1,
            dtype=np.float64,
        ).to(device)
        optimiser = AdamW(model.parameters(), lr=0.1)
        ids = np.random.default_rng(4).integers(0, 11, (3, 10))
        waits.clear()
        for _ in range(3):
            loss = cross_entropy(model(ids[:, :-1]), ids[:, 1:])
            optimiser.zero_grad()
            loss.backward()
            clip_grad_norm(optimiser.parameters, 0.5)
            optimiser.step()
            found.append(loss)
        assert waits == []
    here, there = ([loss.item() for loss in found] for found in losses.values())
    assert here[2] < here[0]
    np.testing.assert_allclose(there, here, rtol=1e-10)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_activations_are_told_when_the_moments_are_read(waits: list[str], bad: float) -> None:
    """Not at once, but never as a number that could be right."""
    tracker = ScaleTracker()
    first, second, third = (backend.to_device(b, "cuda") for b in batches(3))
    second[0, 1, 2] = bad
    with np.errstate(invalid="ignore"):
        for batch in (first, second, third):
            phi = tracker.score(batch)
    assert waits == []
    host = phi.host
    assert np.isnan(host[:, 1, 2]).all()
    assert np.isfinite(np.delete(host.reshape(6, -1), 5, 1)).all()
    assert not select_top_k(phi, 12).host[:, 1, 2].any()
    with pytest.raises(ValueError, match=r"Moments: mean must be finite: neuron \(1, 2\) has"):
        tracker.state_dict()
    with pytest.raises(ValueError, match="Moments: mean must be finite"):
        tracker.moments.check()


def test_moments_made_from_arrays_are_still_checked(waits: list[str]) -> None:
    with pytest.raises(ValueError, match=r"m2 must be finite and not negative .*: neuron 1 has -1"):
        Moments(2, *(backend.to_device(np.array(a), "cuda") for a in ([0.0, 0.0], [1.0, -1.0])))
