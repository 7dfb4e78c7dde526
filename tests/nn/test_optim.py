"""Optimisers against their formulas and PyTorch's; clipping; the schedule; bad input."""

import math
from contextlib import nullcontext
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minimono as mm
from minimono import machine
from minimono.kernels import parallel
from minimono.nn import optim
from minimono.nn.optim import SGD, Adam, AdamW, clip_grad_norm, cosine_schedule, gradient_norm

CASES = [
    (SGD, {"lr": 0.1}),
    (SGD, {"lr": 0.1, "momentum": 0.9}),
    (SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}),
    (Adam, {"lr": 0.01}),
    (Adam, {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1}),
    (AdamW, {"lr": 0.01}),
    (AdamW, {"lr": 0.01, "betas": (0.0, 0.5), "weight_decay": 0.3}),
]
ids = [f"{kind.__name__} {settings}" for kind, settings in CASES]


def start(dtype: Any = np.float64) -> list[mm.Tensor]:
    rng = np.random.default_rng(0)
    shapes = [(4, 3), (5,), ()]
    return [mm.tensor(rng.standard_normal(s), dtype=dtype, requires_grad=True) for s in shapes]


def gradients(step: int, parameters: list[mm.Tensor]) -> list[Any]:
    """Of sizes from 1e-4 to 1e4; the second parameter has none at every third step."""
    rng = np.random.default_rng(1000 + step)
    made = [10.0 ** rng.integers(-4, 5) * rng.standard_normal(p.shape) for p in parameters]
    return [None if i == 1 and step % 3 == 0 else np.asarray(g) for i, g in enumerate(made)]


def run(optimiser: optim.Optimiser, steps: int, first: int = 0) -> None:
    for step in range(first, first + steps):
        for p, g in zip(optimiser.parameters, gradients(step, optimiser.parameters), strict=True):
            p.grad = None if g is None else g.astype(p.dtype)
        optimiser.step()


@pytest.mark.parity
@pytest.mark.parametrize("kernels", [True, False], ids=["kernel", "reading version"])
@pytest.mark.parametrize(("kind", "settings"), CASES, ids=ids)
def test_twenty_steps_as_in_pytorch(kind: Any, settings: dict[str, Any], kernels: bool) -> None:
    torch = pytest.importorskip("torch")
    ours = start()
    theirs = [torch.tensor(p.data, requires_grad=True) for p in ours]
    optimiser = kind(ours, **settings)
    torch_optimiser = getattr(torch.optim, kind.__name__)(theirs, **settings)
    for step in range(20):
        for g, p, q in zip(gradients(step, ours), ours, theirs, strict=True):
            p.grad, q.grad = (None, None) if g is None else (g, torch.tensor(g))
        with nullcontext() if kernels else mm.reference():
            optimiser.step()
        torch_optimiser.step()
    for p, q in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(p.data, q.detach().numpy(), rtol=1e-12, atol=1e-12)


@pytest.mark.parity
@pytest.mark.parametrize("max_norm", [1e-3, 1.0, 1e9])
def test_clipping_as_in_pytorch(max_norm: float) -> None:
    torch = pytest.importorskip("torch")
    ours = start()
    theirs = [torch.tensor(p.data, requires_grad=True) for p in ours]
    for g, p, q in zip(gradients(0, ours), ours, theirs, strict=True):
        p.grad, q.grad = (None, None) if g is None else (g, torch.tensor(g))
    norm = clip_grad_norm(ours, max_norm)
    torch_norm = torch.nn.utils.clip_grad_norm_(theirs, max_norm)
    assert float(norm) == pytest.approx(torch_norm.item(), rel=1e-13)
    for p, q in zip(ours, theirs, strict=True):
        if p.grad is not None:
            np.testing.assert_allclose(p.grad, q.grad.numpy(), rtol=1e-12)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(np.float32, 2e-6), (np.float64, 1e-14)], ids=["float32", "float64"]
)
@pytest.mark.parametrize(("kind", "settings"), CASES, ids=ids)
def test_kernels_agree_with_their_reading_versions(
    kind: Any, settings: dict[str, Any], dtype: Any, tolerance: float
) -> None:
    running, reading = kind(start(dtype), **settings), kind(start(dtype), **settings)
    run(running, 10)
    with mm.reference():
        run(reading, 10)
    for name, array in running.state_dict().items():
        formula = reading.state_dict()[name]
        np.testing.assert_allclose(
            array, formula, rtol=tolerance, atol=tolerance * abs(formula).max(), err_msg=name
        )
    for p, q in zip(running.parameters, reading.parameters, strict=True):
        assert p.dtype == q.dtype == dtype
        np.testing.assert_allclose(p.data, q.data, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("kind", "settings"), CASES, ids=ids)
def test_in_parts_kernels_give_the_same_bits(
    kind: Any, settings: dict[str, Any], dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = kind(start(dtype), **settings), kind(start(dtype), **settings)
    run(whole, 3)
    monkeypatch.setattr(parallel, "LEAST", 2)
    monkeypatch.setattr(machine, "threads", lambda: 3)
    run(parts, 3)
    for p, q in zip(whole.parameters, parts.parameters, strict=True):
        assert p.data.tobytes() == q.data.tobytes()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("kernels", [True, False], ids=["kernel", "reading version"])
@pytest.mark.parametrize("size", [0, 1, 63, 64, 200])
def test_the_norm_against_exact_arithmetic(size: int, kernels: bool, dtype: Any) -> None:
    p = mm.tensor(np.zeros((2, size)), dtype=dtype, requires_grad=True)
    values = np.random.default_rng(size).standard_normal((size, 2)).astype(dtype)
    p.grad = values.T  # not in one block
    exact = sum((Fraction(float(v)) ** 2 for v in values.ravel()), Fraction(0))
    with nullcontext() if kernels else mm.reference():
        norm = gradient_norm([p])
    assert norm.dtype == np.float64
    assert float(norm) == pytest.approx(math.sqrt(exact), rel=1e-15 * (1 + size))


def test_a_norm_below_the_limit_leaves_gradients_as_they_are() -> None:
    p = mm.tensor([0.0, 0.0], requires_grad=True)
    p.grad = gradient = np.array([3.0, 4.0])
    assert clip_grad_norm([p], 6.0) == 5.0
    assert p.grad is gradient
    assert gradient.tolist() == [3.0, 4.0]


def test_adam_by_hand() -> None:
    """Two steps on one number, g = 1 then 3, in plain Python."""
    p = mm.tensor(5.0, requires_grad=True)
    optimiser = Adam([p], lr=0.1, betas=(0.9, 0.99), eps=0.0)
    p.grad = np.array(1.0)
    optimiser.step()
    assert float(p) == pytest.approx(4.9, rel=1e-15)  # m^ / sqrt v^ = 1 at the first step
    p.grad = np.array(3.0)
    optimiser.step()
    m, v = (0.9 * 0.1 + 0.1 * 3.0) / (1 - 0.81), (0.99 * 0.01 + 0.01 * 9.0) / (1 - 0.9801)
    assert float(p) == pytest.approx(4.9 - 0.1 * m / math.sqrt(v), rel=1e-14)


def test_momentum_by_hand() -> None:
    p = mm.tensor(0.0, requires_grad=True)
    optimiser = SGD([p], lr=1.0, momentum=0.5)
    for expected in (-1.0, -2.5, -4.25):  # b = 1, 1.5, 1.75
        p.grad = np.array(1.0)
        optimiser.step()
        assert float(p) == expected


def test_decoupled_decay_does_not_depend_on_the_gradient() -> None:
    p = mm.tensor([2.0], requires_grad=True)
    optimiser = AdamW([p], lr=0.1, weight_decay=0.5)
    p.grad = np.array([0.0])
    optimiser.step()
    np.testing.assert_allclose(p.data, [2.0 * (1.0 - 0.1 * 0.5)], rtol=1e-15)


@pytest.mark.parametrize(("kind", "settings"), CASES, ids=ids)
def test_a_parameter_without_gradient_is_left_alone(kind: Any, settings: dict[str, Any]) -> None:
    parameters = start()
    before = [p.data.tobytes() for p in parameters]
    optimiser = kind(parameters, **settings)
    optimiser.step()
    assert [p.data.tobytes() for p in parameters] == before
    parameters[0].grad = np.ones((4, 3))
    optimiser.step()
    assert [p.data.tobytes() != b for p, b in zip(parameters, before, strict=True)] == [
        True, False, False,
    ]
    assert optimiser.updates == [1, 0, 0]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(("kind", "settings"), CASES, ids=ids)
def test_parameters_keep_their_dtype(kind: Any, settings: dict[str, Any], dtype: Any) -> None:
    optimiser = kind(start(dtype), **settings)
    optimiser.lr = np.float64(0.25)  # as a schedule written with NumPy would give
    for p in optimiser.parameters:
        p.grad = np.ones(p.shape, dtype)
    optimiser.step()
    assert all(p.dtype == dtype for p in optimiser.parameters)


@pytest.mark.parametrize("layout", ["transposed", "strided", "read-only"])
def test_adam_takes_arrays_of_any_layout(layout: str) -> None:
    values = np.arange(12.0).reshape(3, 4)
    plain = mm.tensor(values, requires_grad=True)
    strange = mm.tensor(values, requires_grad=True)
    if layout == "transposed":
        strange.data = np.asfortranarray(values)
    elif layout == "strided":
        strange.data = np.repeat(values, 2, axis=1)[:, ::2]
    else:
        strange.data.setflags(write=False)
    for p in (plain, strange):
        optimiser = Adam([p])
        for step in range(3):
            p.grad = np.asfortranarray(np.random.default_rng(step).standard_normal((3, 4)))
            optimiser.step()
    np.testing.assert_array_equal(strange.data, plain.data)
    assert (strange.data != values).all()


@pytest.mark.parametrize(("kind", "settings"), CASES, ids=ids)
def test_a_saved_state_goes_on_with_the_same_bits(kind: Any, settings: dict[str, Any]) -> None:
    straight = kind(start(np.float32), **settings)
    run(straight, 7)

    first = kind(start(np.float32), **settings)
    run(first, 3)
    resumed = kind(start(np.float32), **{**settings, "lr": 123.0})
    resumed.load_state_dict(first.state_dict())
    for p, q in zip(resumed.parameters, first.parameters, strict=True):
        p.data = q.data.copy()
    run(resumed, 4, first=3)
    for p, q in zip(resumed.parameters, straight.parameters, strict=True):
        assert p.data.tobytes() == q.data.tobytes()
    assert {k: v.tobytes() for k, v in resumed.state_dict().items()} == {
        k: v.tobytes() for k, v in straight.state_dict().items()
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("mean.1"), r"missing \['mean.1'\]"),
        (lambda s: s.update({"momentum.0": np.ones(3)}), r"unexpected \['momentum.0'\]"),
        (lambda s: s.update({"mean.1": np.ones(6)}), r"mean.1 has shape \(6,\), expected \(5,\)"),
        (lambda s: s.update({"mean.1": np.ones(5, np.float32)}), "mean.1 has dtype float32"),
        (lambda s: s.update({"updates": np.array([1, -1, 0])}), "updates is -1, expected 0"),
        (lambda s: s.update({"lr": np.array(math.nan)}), "lr is nan"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(change: Any, message: str) -> None:
    optimiser = Adam(start())
    run(optimiser, 2)
    before = {k: v.tobytes() for k, v in optimiser.state_dict().items()}
    state = {k: v + 1 for k, v in optimiser.state_dict().items()}
    change(state)
    with pytest.raises(ValueError, match=message):
        optimiser.load_state_dict(state)
    assert {k: v.tobytes() for k, v in optimiser.state_dict().items()} == before


def test_state_dict_is_a_copy_both_ways() -> None:
    optimiser = Adam(start())
    state = optimiser.state_dict()
    optimiser.load_state_dict(state)
    run(optimiser, 1)
    assert not state["mean.0"].any()


def test_zero_grad() -> None:
    optimiser = SGD(start(), 0.1)
    run(optimiser, 1)
    optimiser.zero_grad()
    assert all(p.grad is None for p in optimiser.parameters)


def test_bad_parameters() -> None:
    p, q = mm.tensor([1.0], requires_grad=True), mm.tensor([1.0], requires_grad=True)
    for parameters, error, message in [
        ([], ValueError, "empty list"),
        ([p, q, p], ValueError, "comes twice"),
        ([p, np.ones(3)], TypeError, r"parameters\[1\] is a ndarray"),
        ([p, p * 2.0], ValueError, r"parameters\[1\] was computed from other tensors"),
        ([mm.tensor([1, 2])], TypeError, r"parameters\[0\] has dtype int64, expected floats"),
    ]:
        for kind in (SGD, Adam, AdamW):
            with pytest.raises(error, match=message):
                kind(parameters, lr=0.1)
    SGD(iter([p, q]), lr=0.1).step()  # any iterable


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (SGD, {"lr": -0.1}, "lr is -0.1"),
        (SGD, {"lr": math.inf}, "lr is inf"),
        (SGD, {"lr": 0.1, "momentum": -0.5}, "momentum is -0.5"),
        (Adam, {"weight_decay": math.nan}, "weight_decay is nan"),
        (Adam, {"betas": (0.9, 1.0)}, r"betas\[1\] is 1.0"),
        (Adam, {"betas": (0.9,)}, r"betas is \(0.9,\)"),
        (AdamW, {"eps": -1e-8}, "eps is -1e-08"),
    ],
)
def test_bad_settings(kind: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(start(), **settings)


@pytest.mark.parametrize(
    ("gradient", "wrong"),
    [
        (np.ones(3), r"shape \(3,\), expected \(2,\)"),
        (np.ones(2, np.float32), "dtype float32, expected float64"),
        (np.ones((1, 2)), r"shape \(1, 2\), expected \(2,\)"),
    ],
)
def test_a_gradient_of_another_shape_or_dtype_is_refused(gradient: Any, wrong: str) -> None:
    fine = mm.tensor([3.0], requires_grad=True)
    p = mm.tensor([1.0, 2.0], requires_grad=True)
    fine.grad, p.grad = np.ones(1), gradient
    for kind in (SGD, Adam, AdamW):
        optimiser = kind([fine, p], lr=0.1)
        with pytest.raises(ValueError, match=f"the gradient of parameter 1 has {wrong}"):
            optimiser.step()
        assert optimiser.updates == [0, 0]
    assert (fine.data.tolist(), p.data.tolist()) == ([3.0], [1.0, 2.0])


@given(
    st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=6),
    st.floats(1e-6, 1e6),
)
def test_clipping_keeps_the_direction_and_bounds_the_norm(values: Any, max_norm: float) -> None:
    parameters = [mm.tensor(0.0, dtype=np.float32, requires_grad=True) for _ in values]
    for p, value in zip(parameters, values, strict=True):
        p.grad = np.array(value, dtype=np.float32)
    norm = clip_grad_norm(parameters, max_norm)
    exact = math.hypot(*values)  # squares overflow float32: the norm must not
    assert float(norm) == pytest.approx(exact, rel=1e-12)
    after = [float(p.grad) for p in parameters]
    assert math.hypot(*after) <= max_norm * (1.0 + 1e-6)
    factor = min(1.0, max_norm / (exact + 1e-6))
    np.testing.assert_allclose(after, factor * np.array(values), rtol=1e-6, atol=1e-44)
    assert all(p.grad.dtype == np.float32 for p in parameters)


def test_the_norm_of_no_gradients_is_zero() -> None:
    parameters = start()
    assert gradient_norm(parameters) == clip_grad_norm(parameters, 1.0) == 0.0
    assert gradient_norm(parameters).shape == ()
    for max_norm in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="expected a number above 0"):
            clip_grad_norm(parameters, max_norm)


def test_the_schedule_rises_in_a_line_and_falls_on_a_cosine() -> None:
    rates = [cosine_schedule(s, steps=100, warmup=9, peak=1.0, floor=0.1) for s in range(120)]
    np.testing.assert_allclose(rates[:10], np.arange(1, 11) / 10.0)
    along = (np.arange(9, 100) - 9) / 91.0
    np.testing.assert_allclose(rates[9:100], 0.55 + 0.45 * np.cos(np.pi * along), rtol=1e-12)
    assert all(rate == pytest.approx(0.1) for rate in rates[100:])
    assert all(later <= earlier for earlier, later in pairwise(rates[9:]))
    assert max(rates) == rates[9] == 1.0
    assert cosine_schedule(0, steps=10, warmup=0, peak=0.5) == 0.5
    with pytest.raises(ValueError, match="warmup is 10, expected at most 9, steps - 1"):
        cosine_schedule(0, steps=10, warmup=10, peak=0.5)
    with pytest.raises(ValueError, match="step is -1"):
        cosine_schedule(-1, steps=10, warmup=1, peak=0.5)


@pytest.mark.gpu
@pytest.mark.parametrize(("kind", "settings"), CASES, ids=ids)
def test_on_a_gpu_the_same_to_rounding(kind: Any, settings: dict[str, Any]) -> None:
    results = []
    for device in ("cpu", "cuda"):
        parameters = start()
        optimiser = kind(parameters, **settings)
        for p in parameters:  # moved after the optimiser was made, which it must notice
            p.data = mm.backend.to_device(p.data, device)
        for step in range(20):
            for p, g in zip(parameters, gradients(step, parameters), strict=True):
                p.grad = None if g is None else mm.backend.to_device(g, device)
            clip_grad_norm(parameters, 10.0)
            optimiser.step()
        results.append([mm.backend.to_host(p.data) for p in parameters])
    for cpu, cuda in zip(*results, strict=True):
        np.testing.assert_allclose(cuda, cpu, rtol=1e-12, atol=1e-12)


# ---- float16, and numbers at the ends of a dtype -------------------------------------------------


def exact_steps(kind: Any, settings: dict[str, Any], p: float, gradients: Any) -> float:
    """The formulas in float64, for one float16 number: rounded to float16 after each step."""
    m = v = b = 0.0
    for t, g in enumerate(gradients, start=1):
        decay = settings.get("weight_decay", 0.01 if kind is AdamW else 0.0)
        if kind is SGD:
            b = settings.get("momentum", 0.0) * b + g + decay * p
            p = p - settings["lr"] * b
        else:
            beta1, beta2 = settings.get("betas", (0.9, 0.999))
            l2, apart = (0.0, decay) if kind is AdamW else (decay, 0.0)
            g = g + l2 * p
            m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
            root = math.sqrt(v / (1 - beta2**t)) + settings.get("eps", 1e-8)
            p = p - settings["lr"] * (m / (1 - beta1**t) / root + apart * p)
        p = float(np.float16(p))
    return p


@pytest.mark.parametrize("kernels", [True, False], ids=["kernel", "reading version"])
@pytest.mark.parametrize("size", [6e-8, 1e-6, 1e-4, 1e-2, 1.0, 300.0, 6e4])
@pytest.mark.parametrize(("kind", "settings"), CASES, ids=ids)
def test_float16_is_updated_in_float32_and_rounded_once(
    kind: Any, settings: dict[str, Any], size: float, kernels: bool
) -> None:
    signs = [1.0, -0.5, 0.75, 1.0, -1.0]
    gradients = [np.float16(size * sign) for sign in signs]
    p = mm.tensor([[1.5]], dtype=np.float16, requires_grad=True)
    optimiser = kind([p], **settings)
    for g in gradients:
        p.grad = np.array([[g]])
        with nullcontext() if kernels else mm.reference():
            optimiser.step()
    wanted = exact_steps(kind, settings, 1.5, map(float, gradients))
    assert p.dtype == np.float16
    assert p.data.item() == pytest.approx(wanted, rel=2e-3, abs=2e-3)  # a last digit at most
    for name, array in optimiser.state_dict().items():
        if "." in name:
            assert array.dtype == np.float32, name
            assert np.isfinite(array).all()


def test_adam_in_float16_with_small_gradients() -> None:
    """Their squares are 0 in float16, and a step was -inf."""
    p = mm.tensor([1.0], dtype=np.float16, requires_grad=True)
    for _ in range(3):
        p.grad = np.array([1e-4], np.float16)
        Adam([p], lr=0.125).step()
    np.testing.assert_allclose(p.data, [1.0 - 3 * 0.125], rtol=1e-3)


@pytest.mark.parametrize(("kind", "settings"), CASES, ids=ids)
def test_a_state_of_float16_arrays_still_loads(kind: Any, settings: dict[str, Any]) -> None:
    one, other = kind(start(np.float16), **settings), kind(start(np.float16), **settings)
    for i, p in enumerate(one.parameters):
        p.grad = np.full(p.shape, 0.1 * (i + 1), np.float16)
    one.step()
    old = {k: v.astype(np.float16) if "." in k else v for k, v in one.state_dict().items()}
    other.load_state_dict(old)
    for name, array in other.state_dict().items():
        assert array.dtype == (np.float32 if "." in name else old[name].dtype)
        np.testing.assert_array_equal(array, old[name])
    with pytest.raises(ValueError, match="expected float64"):
        Adam(start(np.float64)).load_state_dict(
            {k: v.astype(np.float16) if "." in k else v
             for k, v in Adam(start(np.float64)).state_dict().items()}
        )


@pytest.mark.parametrize("kernels", [True, False], ids=["kernel", "reading version"])
@pytest.mark.parametrize(
    ("dtype", "size"),
    [("e", 6e4), ("e", 1e-7), ("e", 1e-3), ("f", 1e30), ("f", 3e38), ("f", 1e-30), ("f", 1e-44),
     ("d", 1e200), ("d", 1e307), ("d", 1e-200), ("d", 1e-300), ("d", 1.0)],
)
@pytest.mark.parametrize("max_norm", [1.0, 1e-3, 1e-9])
def test_norm_and_clipping_at_the_ends_of_a_dtype(
    dtype: str, size: float, max_norm: float, kernels: bool
) -> None:
    values = np.array([1.0, -0.5, 0.25] * 40) * size
    p = mm.tensor(np.zeros(120), dtype=dtype, requires_grad=True)
    q = mm.tensor([0.0], dtype=dtype, requires_grad=True)
    p.grad, q.grad = values.astype(dtype), np.zeros(1, dtype)
    exact = [Fraction(float(g)) for g in p.grad]
    squares = sum(g * g for g in exact)
    norm = math.sqrt(squares / Fraction(max(exact)) ** 2) * float(max(exact))
    with nullcontext() if kernels else mm.reference():
        found = clip_grad_norm([p, q], max_norm)
    assert float(found) == pytest.approx(norm, rel=1e-13)
    wanted = np.array([float(g * Fraction(min(1.0, max_norm / (norm + 1e-6)))) for g in exact])
    assert p.grad.dtype == q.grad.dtype == dtype
    tiny = float(np.finfo(dtype).smallest_subnormal)
    np.testing.assert_allclose(p.grad, wanted, rtol=4 * np.finfo(dtype).eps, atol=tiny)


@pytest.mark.parity
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_clipping_what_is_not_finite_as_in_pytorch(bad: float) -> None:
    torch = pytest.importorskip("torch")
    for dtype in (np.float32, np.float64):
        p = mm.tensor([0.0, 0.0], dtype=dtype, requires_grad=True)
        q = torch.tensor(p.data, requires_grad=True)
        p.grad = np.array([bad, 2.0], dtype)
        q.grad = torch.tensor(p.grad)
        norm = clip_grad_norm([p], 1.0)
        torch_norm = torch.nn.utils.clip_grad_norm_([q], 1.0)
        np.testing.assert_array_equal(norm, torch_norm.numpy())
        np.testing.assert_array_equal(p.grad, q.grad.numpy())


SCHEDULE: dict[str, Any] = {"step": 3, "steps": 10, "warmup": 2, "peak": 0.5, "floor": 0.1}


@pytest.mark.parametrize("name", ["peak", "floor"])
@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, -0.1, True, "0.1", None, 1j, np.array([0.1])]
)
def test_rates_of_the_schedule_that_are_none(name: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^cosine_schedule: {name} is"):
        cosine_schedule(**{**SCHEDULE, name: value})


@pytest.mark.parametrize("name", ["step", "steps", "warmup"])
@pytest.mark.parametrize("value", [-1, 0.5, 3.0, math.nan, True, "3", None])
def test_counts_of_the_schedule_that_are_none(name: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^cosine_schedule: {name} is"):
        cosine_schedule(**{**SCHEDULE, name: value})


def test_a_floor_above_the_peak_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^cosine_schedule: floor is 0.6, .* floor <= 0.5$"):
        cosine_schedule(**{**SCHEDULE, "floor": 0.6})


def test_numpys_numbers_give_pythons_rates() -> None:
    numbers = {k: np.int8(v) if isinstance(v, int) else np.float64(v) for k, v in SCHEDULE.items()}
    for step in (0, 1, 2, 3, 9, 10, 127):
        rate = cosine_schedule(**{**numbers, "step": np.int8(step)})
        assert type(rate) is float
        assert rate == cosine_schedule(**{**SCHEDULE, "step": step})


@pytest.mark.parametrize("value", ["0.1", True, None, 1j, np.array([0.1])])
@pytest.mark.parametrize("name", ["lr", "weight_decay", "eps", "momentum", "max_norm"])
def test_settings_that_are_no_numbers(name: str, value: Any) -> None:
    def clip(parameters: Any, lr: float, max_norm: Any) -> None:
        clip_grad_norm(parameters, max_norm)

    kinds: dict[str, Any] = {"eps": Adam, "max_norm": clip}
    with pytest.raises(TypeError, match=f"{name} is"):
        kinds.get(name, SGD)(start(), **{"lr": 0.1, name: value})


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda p: SGD(p, lr=0.1), "SGD: parameters"),
        (lambda p: Adam(p), "Adam: parameters"),
        (lambda p: clip_grad_norm(p, 1.0), "clip_grad_norm: parameters"),
        (lambda p: gradient_norm(p), "gradient_norm: parameters"),
    ],
    ids=["SGD", "Adam", "clip_grad_norm", "gradient_norm"],
)
def test_a_model_or_one_tensor_for_several(call: Any, name: str) -> None:
    layer = mm.nn.Linear(2, 2, rng=0)
    layer.weight.grad = np.full((2, 2), 9.0, np.float32)
    # A tensor's rows are tensors without a gradient: their norm was 0.
    for wrong, kind in ((layer, "Linear"), (layer.weight, "Tensor"), (None, "NoneType")):
        with pytest.raises(TypeError, match=f"^{name} is a {kind}, expected several tensors"):
            call(wrong)
    with pytest.raises(TypeError, match=rf"^{name}\[0\] is a ndarray, expected a Tensor"):
        call([layer.weight.data])


@pytest.mark.parametrize("version", [nullcontext, mm.reference], ids=["running", "reading"])
@pytest.mark.parametrize("kind", ["list", "Tensor", "MaskedArray", "matrix"])
def test_a_gradient_that_is_no_plain_array(kind: str, version: Any) -> None:
    values = np.array([[3.0, 4.0]])
    p = mm.tensor(values, requires_grad=True)
    optimiser = SGD([p], lr=0.1)
    p.grad = {
        "list": values.tolist(), "Tensor": mm.tensor(values),
        "MaskedArray": np.ma.array(values, mask=[[True, False]]), "matrix": values.view(np.matrix),
    }[kind]
    with version():
        for call in (optimiser.step, lambda: clip_grad_norm([p], 1.0), lambda: gradient_norm([p])):
            wrong = f"gradient of parameter 0 is a {kind}, expected a ndarray"
            with pytest.raises(TypeError, match=wrong):
                call()
    np.testing.assert_array_equal(p.data, values)
