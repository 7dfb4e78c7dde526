"""The pointwise part of the ConvGRU cell: running against reading version, mpmath, differences."""

import math
from contextlib import nullcontext
from typing import Any

import mpmath
import numpy as np
import pytest

import minimono as mm
from minimono import machine
from minimono.engine.fused import Fused
from minimono.engine.tape import grad, tape_of
from minimono.engine.tensor import Tensor, tensor
from minimono.gradcheck import check_grads
from minimono.kernels import parallel
from minimono.nn import ConvGRUCell, taps
from minimono.nn.convolution import _memory_and_update, _new_state

SHAPES = [(1, 1, 1, 1), (2, 3, 5, 7), (1, 16, 8, 8), (3, 2, 1, 33), (0, 2, 3, 3), (2, 2, 0, 3)]


def random(seed: int, *shape: int) -> Any:
    return 2.0 * np.random.default_rng(seed).standard_normal(shape)


def gates(*terms: Tensor) -> Tensor:
    """Of one tensor: without input."""
    from_input, from_state = terms if len(terms) == 2 else (None, *terms)
    return _memory_and_update(from_input, from_state, 0.2)


def terms_for(shape: Any, count: int) -> list[Any]:
    B, C, Y, X = shape
    return [random(seed, B, 3 * C, Y, X) for seed in range(count)]


def agree(f: Any, arrays: list[Any], dtype: str) -> None:
    found = []
    for which in (mm.reference(), nullcontext()):
        with which:
            # `Tensor`, not `tensor`, which would copy into one block of memory.
            given = [Tensor(a.astype(dtype, order="K"), requires_grad=True) for a in arrays]
            out = f(*given)
            out.backward(np.linspace(-1.0, 2.0, out.size).reshape(out.shape))
            found.append([out.data, *(t.grad for t in given)])
    made = [node.origin.operation for node in tape_of(out) if node.origin]
    if out.size:  # of nothing there are no kernels
        assert len(made) == 1
    assert any(isinstance(operation, Fused) for operation in made) == bool(out.size)
    for truth, ours in zip(*found, strict=True):
        assert ours.dtype == truth.dtype == np.dtype(dtype)
        tolerance = 8 * np.finfo(dtype).eps
        atol = tolerance * np.abs(truth).max(initial=1.0)
        np.testing.assert_allclose(ours, truth, rtol=tolerance, atol=atol)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("shape", SHAPES)
def test_kernels_agree_with_the_reading_version(shape: Any, dtype: str) -> None:
    for count in (1, 2):
        agree(gates, terms_for(shape, count), dtype)
    update = 1.0 / (1.0 + np.exp(random(0, *shape)))
    agree(_new_state, [update, random(1, *shape), random(2, *shape)], dtype)


def test_kernels_agree_on_any_layout() -> None:
    x, h = random(1, 4, 5, 6, 3).T, random(2, 3, 12, 5, 4)[:, ::2]
    assert x.shape == h.shape == (3, 6, 5, 4)
    agree(gates, [x, h], "float64")
    agree(_new_state, [x, h, h[::-1]], "float64")


def test_kernels_in_threads_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "threads", lambda: 3)
    monkeypatch.setattr(parallel, "LEAST", 4)
    agree(gates, terms_for((5, 2, 3, 3), 2), "float64")
    agree(_new_state, [random(seed, 5, 2, 3, 3) for seed in range(3)], "float64")


def test_only_what_is_needed_gets_a_gradient() -> None:
    x, h = (tensor(a) for a in terms_for((2, 2, 3, 3), 2))
    for wanted in (x, h):
        with mm.reference():
            variable = tensor(wanted, requires_grad=True)
            gates(*(variable if t is wanted else t for t in (x, h))).sum().backward()
            expected = variable.grad
        variable = tensor(wanted, requires_grad=True)
        gates(*(variable if t is wanted else t for t in (x, h))).sum().backward()
        np.testing.assert_allclose(variable.grad, expected, rtol=1e-13, atol=1e-15)


def test_kernels_are_differentiable_twice() -> None:
    """The first derivative is the kernel's, against differences; the second the formula's."""
    x, h = terms_for((2, 1, 2, 3), 2)
    state = random(3, 2, 1, 2, 3)

    def whole(x: Tensor, h: Tensor, state: Tensor) -> Tensor:
        memory, update = gates(x, h)
        return _new_state(update, memory, state)

    check_grads(whole, x, h, state, order=2)
    check_grads(lambda h: gates(h).tanh(), h, order=2)

    def slope(h: Tensor) -> Tensor:
        return (grad(lambda h: (whole(tensor(x), h, tensor(state)) ** 3).sum())(h) ** 2).sum()

    running = grad(slope)(tensor(h)).data
    with mm.reference():
        np.testing.assert_allclose(running, grad(slope)(tensor(h)).data, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_large_terms_neither_overflow_nor_warn(dtype: str) -> None:
    large = float(np.finfo(dtype).max)
    terms = np.array([-np.inf, -large, -1e4, -100.0, 100.0, 1e4, large, np.inf, np.nan], dtype)
    zeros = np.zeros_like(terms)
    # (9,) each -> (1, 3, 1, 9): reset, update, candidate
    of_state = np.stack([terms, terms, zeros + 1.0])[None, :, None]
    h = tensor(of_state, requires_grad=True)
    memory, update = gates(h).data[:, 0, 0, 0]
    tiny = float(np.finfo(dtype).tiny)
    for gate in (update, memory):  # the memory is the reset gate here
        assert (gate[:3] <= tiny).all()
        assert gate[3] == pytest.approx(math.exp(-100.0), rel=1e-14, abs=tiny)
        np.testing.assert_array_equal(gate[4:], [1, 1, 1, 1, np.nan])
    gates(h).sum().backward()
    assert h.grad is not None
    assert np.isfinite(h.grad[..., :8]).all()
    np.testing.assert_allclose(h.grad[0, :2, 0, :8], 0.0, atol=1e-40)


# Relative errors, in units of eps. float32 uses a polynomial: 2.5e-7, as cpu/gru.py says.
GATE_BOUNDS = {"float64": 1.6, "float32": 2.5e-7 / float(np.finfo(np.float32).eps)}


@pytest.mark.parametrize("dtype", GATE_BOUNDS)
def test_gates_against_mpmath(dtype: str) -> None:
    rng = np.random.default_rng(0)
    lowest = -87.0 if dtype == "float32" else -700.0
    u = np.concatenate([np.linspace(lowest, 40.0, 700), rng.normal(size=500)]).astype(dtype)
    terms = np.zeros((1, 3, 1, u.size), dtype)
    terms[0, 1, 0] = u
    update = gates(tensor(terms)).data[1, 0, 0, 0]
    worst = 0.0
    with mpmath.workdps(50):
        for point, value in zip(u, update, strict=True):
            exact = 1 / (1 + mpmath.exp(-mpmath.mpf(float(point))))
            worst = max(worst, float(abs(mpmath.mpf(float(value)) - exact) / exact))
    bound = GATE_BOUNDS[dtype] * float(np.finfo(dtype).eps)
    assert 0.5 * bound < worst < bound


def test_a_kink_and_the_sign_of_nothing() -> None:
    """At 0 the slope is the negative one, as of `leaky_relu`."""
    h = tensor(np.zeros((1, 3, 1, 2)), requires_grad=True)
    zeros = np.broadcast_to([0.0, -0.0], (1, 3, 1, 2))
    x = tensor(zeros, requires_grad=True)
    memory, _ = gates(x, h)
    memory.sum().backward()
    assert x.grad is not None
    np.testing.assert_array_equal(x.grad[0, 2, 0], [0.2, 0.2])


@pytest.mark.parametrize("channels", [0, 2])
def test_a_cell_is_four_entries_on_the_tape(channels: int) -> None:
    """Convolutions, the gates, and the new state; where the tap reads, the tape is picked apart."""
    cell = ConvGRUCell(channels, 3, rng=np.random.default_rng(0))
    state = tensor(random(1, 2, 3, 4, 4), dtype="float32", requires_grad=True)
    x = tensor(random(2, 2, 2, 4, 4), dtype="float32") if channels else None
    with taps.read(cell, "candidate") as seen:
        out = cell(x, state)
    names = [node.origin.operation.name for node in tape_of(out) if node.origin]
    assert sorted(names) == sorted(
        ["_convolved"] * (2 if channels else 1)
        + ["_memory_and_update", "getitem", "getitem", "_new_state"]
    )
    assert seen["candidate"].shape == state.shape
    with mm.reference():
        np.testing.assert_allclose(out.data, cell(x, state).data, rtol=1e-5, atol=1e-6)


def test_what_a_tap_returns_may_be_smaller() -> None:
    """A mean over batch and image, say; its gradient has its shape."""
    cell = ConvGRUCell(1, 2, rng=np.random.default_rng(0), dtype=np.float64)
    x, state = tensor(random(1, 3, 1, 4, 4)), tensor(random(2, 3, 2, 4, 4))
    found = []
    for which in (mm.reference(), nullcontext()):
        stand_in = tensor(random(4, 1, 2, 1, 1), requires_grad=True)
        with which, taps.replace(cell, "candidate", lambda _, s=stand_in: s):
            out = cell(x, state)
            (out * out).sum().backward()
        found.append([out.data, stand_in.grad])
    for truth, ours in zip(*found, strict=True):
        np.testing.assert_allclose(ours, truth, rtol=1e-12)
    with (
        taps.replace(cell, "candidate", lambda c: c[:2]),
        pytest.raises(ValueError, match="broadcast"),
    ):
        cell(x, state)


def test_kernels_run_without_numba(with_and_without_numba: Any) -> None:
    script = (
        "import numpy as np, minimono as mm\n"
        "from minimono.nn.convolution import _memory_and_update, _new_state\n"
        "terms = mm.tensor(np.linspace(-3.0, 2.0, 24).reshape(2, 3, 2, 2), requires_grad=True)\n"
        "memory, update = _memory_and_update(None, terms, 0.2)\n"
        "_new_state(update, memory, memory * 2.0).sum().backward()\n"
        "found = terms.grad.tolist()\n"
    )
    here, there = with_and_without_numba(script, "gru.gates_kernel")
    np.testing.assert_allclose(there, here, rtol=1e-14)
