"""Running versions against reading versions, and both against 50 digits of mpmath."""

import itertools
import threading
from collections.abc import Callable
from contextlib import nullcontext
from fractions import Fraction
from typing import Any

import mpmath
import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minimono as mm
from minimono import kernels, machine
from minimono.engine import functional as F
from minimono.engine import primitives as P
from minimono.engine.fused import Fused
from minimono.engine.tape import grad, tape_of
from minimono.engine.tensor import Tensor, tensor
from minimono.kernels import parallel
from minimono.kernels.cpu import attention, sums
from minimono.kernels.cpu import math as cpu_math
from minimono.kernels.cpu import normal as cpu_normal

SHAPES = [(3,), (2, 5), (2, 3, 4), (1, 1), (4, 1), (2, 0, 3)]
TARGETS = np.array([3, 0, 0, 2, 1])
VISIBLE = np.random.default_rng(5).random((3, 70)) < 0.6
VISIBLE[:, 0] = True  # so that every query sees something, looking back too


def normal(*shape: int) -> Any:
    return 2.0 * np.random.default_rng(len(shape)).standard_normal(shape)


def dropped(x: Tensor) -> Tensor:
    return F.dropout(x, 0.4, rng=np.random.default_rng(1))


def cases() -> dict[str, tuple[Callable[..., Tensor], list[Any]]]:
    table: dict[str, tuple[Callable[..., Tensor], list[Any]]] = {}
    for shape in SHAPES:
        c = shape[-1]
        table[f"gelu {shape}"] = (F.gelu, [normal(*shape)])
        table[f"gelu tanh {shape}"] = (lambda x: F.gelu(x, "tanh"), [normal(*shape)])
        for axis in range(-len(shape), len(shape)):
            if shape[axis] > 0:
                table[f"softmax {shape} axis={axis}"] = (
                    lambda x, a=axis: F.softmax(x, axis=a), [normal(*shape)])
                table[f"log_softmax {shape} axis={axis}"] = (
                    lambda x, a=axis: F.log_softmax(x, axis=a), [9.0 * normal(*shape)])
        table[f"layer_norm {shape}"] = (F.layer_norm, [normal(*shape), normal(c), normal(c) + 1.0])
        table[f"rms_norm {shape}"] = (F.rms_norm, [normal(*shape), normal(c) + 1.0])
        table[f"rms_norm eps {shape}"] = (
            lambda x, w: F.rms_norm(x, w, 0.5), [normal(*shape) + 3.0, normal(c)])
        table[f"layer_norm eps {shape}"] = (
            lambda x, w, b: F.layer_norm(x, w, b, 0.5),
            [normal(*shape) + 3.0, normal(c), normal(c) + 1.0],
        )
    for shape in [(4,), (5, 4), (2, 3, 4), (0, 4)]:
        table[f"linear {shape}"] = (F.linear, [normal(*shape), normal(3, 4), normal(3)])
        table[f"linear, no bias {shape}"] = (F.linear, [normal(*shape), normal(3, 4)])
        table[f"linear_relu {shape}"] = (F.linear_relu, [normal(*shape), normal(3, 4), normal(3)])
        table[f"linear_relu, no bias {shape}"] = (F.linear_relu, [normal(*shape), normal(3, 4)])
        table[f"relu {shape}"] = (F.relu, [normal(*shape)])
        table[f"tanh {shape}"] = (F.tanh, [3.0 * normal(*shape)])
        table[f"sigmoid {shape}"] = (F.sigmoid, [5.0 * normal(*shape)])
        table[f"silu {shape}"] = (F.silu, [5.0 * normal(*shape)])
        table[f"leaky_relu {shape}"] = (lambda x: F.leaky_relu(x, 0.2), [normal(*shape)])
        table[f"dropout {shape}"] = (dropped, [normal(*shape)])
    for ids in (2, [3, 0, 3, 3], [[1, 1, 0], [2, 3, 1]], np.zeros((0,), int)):
        table[f"embedding {ids}"] = (lambda w, i=ids: F.embedding(np.array(i), w), [normal(4, 3)])
    i, j = np.array([[3, -1, 0], [3, 3, 1]]), np.array([0, 2, -1])
    for what, index in {
        "rows": i, "two axes": (i, j), "one and a slice": (i, slice(1, 3)), "mask": i[:, :2] > 2,
        "too few to mask": (np.array([True, False, True, True]), 1), "none": j[:0],
    }.items():
        shape = (2, 2, 3) if what == "mask" else (4, 3, 2)
        table[f"x[{what}]"] = (lambda x, at=index: x[at], [normal(*shape)])
    for length, causal in itertools.product((1, 5, 64, 65, 150), (True, False)):
        table[f"self_attention {length} causal={causal}"] = (
            lambda qkv, c=causal: F.self_attention(qkv, is_causal=c),
            [normal(2, length, 3, 2, 3)],
        )
    for causal in (True, False):
        table[f"self_attention masked causal={causal}"] = (
            lambda qkv, c=causal: F.self_attention(qkv, mask=VISIBLE, is_causal=c),
            [normal(3, 70, 3, 2, 4)],
        )
    for size, stride, padding in ((2, 2, 0), ((2, 3), 2, 0), (3, 1, 1), ((1, 4), (2, 3), (0, 2))):
        table[f"avg_pool2d {size} {stride} {padding}"] = (
            lambda x, k=size, s=stride, p=padding: F.avg_pool2d(x, k, stride=s, padding=p),
            [normal(2, 3, 7, 9)],
        )
    for stride, padding in itertools.product((1, 2, 3), (0, 1)):
        table[f"conv2d of long lines, stride {stride}, padding {padding}"] = (
            lambda x, w, s=stride, p=padding: F.conv2d(x, w, stride=s, padding=p),
            [normal(2, 1, 11, 37), normal(2, 1, 3, 2)],
        )
    table["softmax of long columns"] = (lambda x: F.softmax(x, axis=1), [normal(2, 300, 3)])
    table["log_softmax of long columns"] = (lambda x: F.log_softmax(x, axis=0), [normal(300, 5)])
    table["gelu ()"] = (F.gelu, [normal()])
    table["softmax ()"] = (F.softmax, [normal()])
    table["log_softmax ()"] = (F.log_softmax, [normal()])
    table["cross_entropy"] = (lambda x: F.cross_entropy(x, TARGETS), [normal(5, 4)])
    table["cross_entropy of one class"] = (lambda x: F.cross_entropy(x, [0, 0]), [normal(2, 1)])
    return table


CASES = cases()


def run(f: Callable[..., Tensor], arrays: list[Any], dtype: str) -> list[Any]:
    """The output and all gradients, for a cotangent without symmetry."""
    # `Tensor`, not `tensor`, which would copy into one block of memory.
    xs = [Tensor(np.asarray(a).astype(dtype, order="K"), requires_grad=True) for a in arrays]
    for x, a in zip(xs, arrays, strict=True):
        assert x.data.strides == np.asarray(a).astype(dtype, order="K").strides
    out = f(*xs)
    out.backward(np.linspace(-1.0, 2.0, out.size).reshape(out.shape))
    return [out.data, *(x.grad for x in xs)]


def agree(f: Callable[..., Tensor], arrays: list[Any], dtype: str) -> None:
    with mm.reference():
        reading = run(f, arrays, dtype)
    running = run(f, arrays, dtype)
    eps = np.finfo(dtype).eps
    for ours, truth in zip(running, reading, strict=True):
        assert ours.dtype == truth.dtype == np.dtype(dtype)
        assert ours.shape == truth.shape
        size = np.abs(truth).max(initial=1.0)  # of the terms that cancel
        np.testing.assert_allclose(ours, truth, rtol=40 * eps, atol=40 * eps * size)


def made_by_kernels(out: Tensor) -> list[str]:
    made = [n.origin.operation for n in tape_of(out) if n.origin]
    return [operation.name for operation in made if isinstance(operation, Fused)]


def test_kernels_are_used_and_switched_off() -> None:
    x = tensor(normal(2, 3), requires_grad=True)
    fused = [F.gelu(x), F.softmax(x), F.layer_norm(x, x[0], x[1]), F.cross_entropy(x, [0, 1])]
    for out in fused:
        assert len(made_by_kernels(out)) == 1
    with mm.reference():
        assert not kernels.enabled()
        assert len(tape_of(F.softmax(x))) > 3
        with mm.reference():
            pass
        assert not kernels.enabled()
    assert kernels.enabled()
    step = Tensor(x.data + 1e-20j, requires_grad=True)  # no kernels for complex numbers
    assert len(tape_of(F.softmax(step))) > 3
    nothing = tensor(np.zeros((2, 3, 0)), requires_grad=True)
    assert made_by_kernels(F.softmax(nothing, 1)) == []
    mixed = F.layer_norm(x, tensor(np.ones(3), dtype="float32"), x[0])
    assert len(tape_of(mixed)) > 3


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("what", CASES)
def test_agrees_with_the_reading_version(what: str, dtype: str) -> None:
    agree(*CASES[what], dtype)


def test_every_kernel_of_a_function_is_compared() -> None:
    ran = set[str]()
    for f, arrays in CASES.values():
        ran.update(made_by_kernels(f(*(tensor(a, requires_grad=True) for a in arrays))))
    missing = {f.name for f in vars(F).values() if isinstance(f, Fused)} - ran
    assert not missing, f"cases() in tests/engine/test_kernels.py: add {sorted(missing)}"


LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "transposed": lambda x: x.T,
    "reversed": lambda x: x[::-1, ::-1],
    "every second": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "Fortran": np.asfortranarray,
    "broadcast": lambda x: np.broadcast_to(x[:1], x.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_agrees_on_any_layout(layout: str) -> None:
    x = LAYOUTS[layout](normal(6, 4))
    c = x.shape[1]
    targets = np.array([3, 0, 0, 2, 1, 0])[: len(x)]
    for f in (F.gelu, F.silu, F.softmax, lambda x: F.softmax(x, axis=0), F.log_softmax):
        agree(f, [x], "float64")
    agree(lambda x: F.cross_entropy(x, targets), [x], "float64")
    agree(F.layer_norm, [x, np.linspace(1, 2, 2 * c)[::2], np.linspace(0, 1, c)[::-1]], "float64")
    agree(F.linear, [x, x[:2], np.linspace(0, 1, 4)[::2]], "float64")
    agree(F.relu, [x], "float64")
    agree(lambda w: F.embedding(np.array([[0, 2], [2, 2]])[:, ::-1], w), [x], "float64")


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_attention_agrees_on_any_layout(dtype: str) -> None:
    qkv = normal(4, 3, 3, 2, 5)
    for view in (qkv[::2], qkv.transpose(1, 0, 2, 3, 4), qkv[:, :, ::-1], qkv[..., ::2]):
        agree(lambda qkv: F.self_attention(qkv, is_causal=True), [view], dtype)


def test_attention_keeps_no_weights() -> None:
    qkv = tensor(normal(2, 150, 3, 2, 4), requires_grad=True)
    [made] = [n for n in tape_of(F.self_attention(qkv)) if n.origin]
    assert made.origin is not None
    assert made.origin.saved is None
    assert attention.BAND < 150  # so that the cases above have several bands


def test_self_attention_is_attention_of_each_head(rng: np.random.Generator) -> None:
    qkv = tensor(rng.standard_normal((2, 5, 3, 2, 4)))
    q, k, v = qkv.transpose(2, 0, 3, 1, 4)
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(0, 2, 1, 3)
    np.testing.assert_allclose(F.self_attention(qkv, is_causal=True).data, expected.data)


def test_errors_of_self_attention_name_the_argument() -> None:
    qkv = tensor(np.ones((2, 5, 3, 2, 4)))
    with pytest.raises(ValueError, match=r"self_attention: qkv has shape \(2, 5\)"):
        F.self_attention(qkv[:, :, 0, 0, 0])
    with pytest.raises(ValueError, match="mask has shape"):
        F.self_attention(qkv, mask=np.ones((2, 4), bool))
    with pytest.raises(TypeError, match="mask has dtype float64, expected booleans"):
        F.self_attention(qkv, mask=np.ones((2, 5)))
    blind = np.ones((2, 5), bool)
    blind[1, 0] = False
    F.self_attention(qkv, mask=blind)
    with pytest.raises(ValueError, match="nothing to look at"):
        F.self_attention(qkv, mask=blind, is_causal=True)


def test_read_only_data_is_only_read() -> None:
    x = normal(4, 3)
    x.flags.writeable = False
    for f in (F.gelu, F.softmax):
        f(Tensor(x, requires_grad=True)).sum().backward()


@given(
    st.integers(1, 4), st.integers(1, 6), st.integers(0, 2**32), st.sampled_from([0.01, 1.0, 300.0])
)
def test_agrees_at_any_scale(n: int, c: int, seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    x, w, b = scale * rng.standard_normal((n, c)), rng.standard_normal(c), rng.standard_normal(c)
    targets = rng.integers(0, c, n)
    for f in (F.gelu, lambda x: F.gelu(x, "tanh"), F.softmax, lambda x: F.softmax(x, axis=0)):
        agree(f, [x], "float64")
    agree(lambda x: F.cross_entropy(x, targets) * (1.0 / scale), [x], "float64")
    if c > 1:  # a layer of one channel is all bias: its gradient is rounding
        agree(lambda x, w, b: F.layer_norm(x, w, b, scale * scale), [x, w, b], "float64")


@pytest.mark.parametrize(
    "f",
    [F.gelu, lambda x: F.gelu(x, "tanh"), F.softmax, lambda x: F.softmax(x, axis=0),
     lambda x: F.cross_entropy(x, [3, 0, 1]),
     lambda x: F.layer_norm(x, x[0], x[1]), lambda x: F.linear(x, x[:2], x[0, :2]),
     lambda x: F.embedding([2, 0, 2], x), lambda x: F.relu(x) * x,
     lambda x: F.self_attention(x.reshape(1, 2, 3, 1, 2), is_causal=True),
     dropped],
    ids=["gelu", "gelu tanh", "softmax", "softmax axis 0", "cross_entropy", "layer_norm", "linear",
         "embedding", "relu", "self_attention", "dropout"],
)
def test_second_and_third_derivatives_agree(f: Callable[[Tensor], Tensor]) -> None:
    x = normal(3, 4)

    def first(x: Tensor) -> Tensor:
        return (grad(lambda x: (f(x) ** 3).sum())(x) ** 2).sum()

    def second(x: Tensor) -> Tensor:
        return (grad(first)(x) * np.cos(np.arange(12.0)).reshape(3, 4)).sum()

    running = [grad(first)(x).data, grad(second)(x).data]
    with mm.reference():
        reading = [grad(first)(x).data, grad(second)(x).data]
    for ours, truth in zip(running, reading, strict=True):
        np.testing.assert_allclose(ours, truth, rtol=1e-11, atol=1e-12 * abs(truth).max())


def test_backward_through_a_gradient_of_a_kernel() -> None:
    """A penalty on the slope, with parameters that the kernel's other arguments hold."""
    x, w, b = tensor(normal(3, 4)), normal(4), normal(4)
    gradients = []
    for context in (nullcontext(), mm.reference()):
        with context:
            weight = tensor(w, requires_grad=True)
            bias = tensor(b, requires_grad=True)
            slope = grad(lambda x, w=weight, b=bias: (F.layer_norm(x, w, b) ** 3).sum())(x)
            (slope * slope).sum().backward()
            assert weight.grad is not None
            assert bias.grad is not None
            gradients.append(np.concatenate([weight.grad, bias.grad]))
    np.testing.assert_allclose(*gradients, rtol=1e-12)


@pytest.mark.parametrize(
    "what", ["gelu", "gelu tanh", "relu", "leaky_relu", "layer_norm", "self_attention", "linear"]
)
def test_parts_in_threads_give_the_same(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    f, arrays = {
        "gelu": (F.gelu, [normal(7, 5)]),
        "gelu tanh": (lambda x: F.gelu(x, "tanh"), [normal(7, 5)]),
        "relu": (F.relu, [normal(7, 5)]),
        "leaky_relu": (lambda x: F.leaky_relu(x, 0.2), [normal(7, 5)]),
        "layer_norm": (F.layer_norm, [normal(7, 5), normal(5), normal(5)]),
        "self_attention": (F.self_attention, [normal(5, 6, 3, 2, 4)]),
        "linear": (F.linear, [normal(7, 5), normal(6, 5), normal(6)]),
    }[what]
    serial = run(f, arrays, "float64")
    monkeypatch.setattr(machine, "threads", lambda: 3)
    monkeypatch.setattr(parallel, "LEAST", 4)
    monkeypatch.setattr(parallel, "PRODUCTS_OF_ONE", 1)
    used: list[int] = []

    def counted(work: Any, rows: int, parts: int) -> list[Any]:
        used.append(parts)
        return side_by_side(work, rows, parts)

    side_by_side = parallel.side_by_side
    monkeypatch.setattr(parallel, "side_by_side", counted)
    in_threads = run(f, arrays, "float64")
    assert 3 in used
    for ours, theirs in zip(in_threads, serial, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize(("n", "k", "m"), [(7, 5, 3), (1, 4, 2), (2, 0, 3), (0, 2, 3), (3, 2, 0)])
def test_a_product_in_parts_is_the_product(
    n: int, k: int, m: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "threads", lambda: 3)
    monkeypatch.setattr(parallel, "LEAST", 1)
    monkeypatch.setattr(parallel, "PRODUCTS_OF_ONE", 1)
    a, b = normal(k, n).T, normal(m, k).T  # as the gradients of `linear` have them
    np.testing.assert_allclose(parallel.product(a, b), a @ b, rtol=1e-14, atol=1e-15)


def test_parts_cover_the_rows_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "threads", lambda: 3)
    for rows, elements, parts in [(7, 10**9, 3), (2, 10**9, 2), (0, 0, 1), (7, 1000, 1)]:
        results = parallel.in_parts(lambda part: [*range(100)][part], rows, elements)
        assert len(results) == parts
        assert [row for part in results for row in part] == [*range(rows)]
    with pytest.raises(ZeroDivisionError):
        parallel.in_parts(lambda part: 1 // (2 - part.start), 4, 10**9)


def test_reference_is_of_one_thread() -> None:
    inside, done = threading.Event(), threading.Event()
    seen: dict[str, bool] = {}

    def reader() -> None:
        with mm.reference():
            inside.set()
            assert done.wait(10)
            seen["reader"] = kernels.enabled()
        seen["reader, after"] = kernels.enabled()

    thread = threading.Thread(target=reader)
    thread.start()
    assert inside.wait(10)
    seen["beside"] = kernels.enabled()
    done.set()
    thread.join()
    assert seen == {"reader": False, "beside": True, "reader, after": True}


def test_kernels_run_without_numba(with_and_without_numba: Any) -> None:
    """Each is plain Python: NUMBA_DISABLE_JIT=1 lets a debugger step through it."""
    script = (
        "import minimono as mm; F = mm.functional\n"
        "x = mm.tensor([[0.5, -1.0], [2.0, 0.1]], requires_grad=True)\n"
        "hidden = F.gelu(F.gelu(F.layer_norm(F.softmax(x), x[0], x[1])), 'tanh')\n"
        "y = F.cross_entropy(hidden, [0, 1])\n"
        "y.backward()\n"
        "found = y.item(), x.grad.tolist()\n"
    )
    (loss, gradient), there = with_and_without_numba(script, "softmax.softmax_kernel")
    np.testing.assert_allclose(there[0], loss, rtol=1e-15)
    np.testing.assert_allclose(there[1], gradient, rtol=1e-13, atol=1e-16)


# ---- against mpmath ----------------------------------------------------------------------------


def points(dtype: str) -> Any:
    rng = np.random.default_rng(0)
    small = 10.0 ** rng.uniform(-12, 0, 50) * rng.choice([-1, 1], 50)
    lowest = -37.0 if dtype == "float64" else -12.0  # below, the result is subnormal
    wide = np.linspace(lowest, 8.0, 250)
    return np.concatenate([wide, rng.normal(size=100), small]).astype(dtype)


def gelu_exact(x: float, approximate: str) -> tuple[Any, Any, float, float]:
    """GELU, its slope, and what amplifies rounding: the exponent, and a factor of the slope."""
    v = mpmath.mpf(x)
    if approximate == "none":
        below = mpmath.erfc(-v / mpmath.sqrt(2)) / 2
        return v * below, below + v * mpmath.npdf(v), x * x, 0.0
    u = 2 * mpmath.sqrt(2 / mpmath.pi) * (v + mpmath.mpf("0.044715") * v**3)
    du = 2 * mpmath.sqrt(2 / mpmath.pi) * (1 + 3 * mpmath.mpf("0.044715") * v**2)
    gate = 1 / (1 + mpmath.exp(-u))
    return v * gate, gate + v * gate * (1 - gate) * du, abs(float(u)), abs(float(v * du))


# Measured, in units of eps: the relative error of the value over 1 + exponent, and the error of
# the slope over 1 + factor. The running versions use polynomials (cpu/math.py, cpu/normal.py).
GELU_BOUNDS = {
    ("float64", "none", "running"): (1.8, 1.0), ("float64", "none", "reading"): (0.9, 0.9),
    ("float64", "tanh", "running"): (1.2, 0.6), ("float64", "tanh", "reading"): (1.3, 0.9),
    ("float32", "none", "running"): (2.5, 1.4), ("float32", "none", "reading"): (0.8, 0.8),
    ("float32", "tanh", "running"): (1.3, 0.7), ("float32", "tanh", "reading"): (1.2, 1.1),
}


@pytest.mark.parametrize(("dtype", "approximate", "which"), GELU_BOUNDS)
def test_gelu_against_mpmath(dtype: str, approximate: Any, which: str) -> None:
    x = points(dtype)
    with mm.reference() if which == "reading" else nullcontext():
        t = tensor(x, requires_grad=True)
        out = F.gelu(t, approximate)
        out.backward(np.ones_like(x))
    assert t.grad is not None
    eps, tiny = np.finfo(dtype).eps, np.finfo(dtype).tiny
    of_value, of_slope = [], []
    with mpmath.workdps(50):
        for point, value, slope in zip(x, out.data, t.grad, strict=True):
            exact, exact_slope, exponent, factor = gelu_exact(float(point), approximate)
            if abs(exact) > 4 * tiny * max(1.0, abs(float(point))):
                error = abs(mpmath.mpf(float(value)) - exact) / abs(exact)
                of_value.append(float(error / eps) / (1.0 + exponent))
            error = abs(mpmath.mpf(float(slope)) - exact_slope)
            of_slope.append(float(error / eps) / (1.0 + factor))
    assert len(of_value) > 300
    bound_of_value, bound_of_slope = GELU_BOUNDS[dtype, approximate, which]
    assert max(of_value) < bound_of_value
    assert max(of_slope) < bound_of_slope


def of_points(function: Callable[[Any], Any], x: Any) -> Any:
    """What a scalar function of cpu/math.py gives inside a kernel."""

    @numba.njit
    def of_each(x: Any, out: Any) -> None:
        for i in range(x.size):
            out[i] = function(x[i])

    out = np.empty_like(x)
    of_each(x, out)
    return out


@numba.njit
def tanh_of_kernels(x: Any) -> Any:
    return cpu_math.tanh_and_small(x)[0]


EVERYWHERE, NEAR_0 = np.linspace(-60.0, 60.0, 300), np.random.default_rng(0).normal(size=300)
SMALL = NEAR_0 * 10.0 ** np.random.default_rng(1).uniform(-12, 0, 300)
POINTS = np.concatenate([EVERYWHERE, NEAR_0, SMALL])
ABOVE_0 = np.exp(np.concatenate([EVERYWHERE, SMALL]))
TURNS = np.concatenate([POINTS, np.arange(-300, 300) * np.pi / 2, 1e4 * POINTS])
FUNCTIONS: dict[str, tuple[Any, Any, Any, tuple[float, float]]] = {  # kernel's, truth, points, ulp
    "exp": (cpu_math.exp, mpmath.exp, POINTS, (1.1, 1.1)),
    "exp_nonpositive": (cpu_math.exp_nonpositive, mpmath.exp, -abs(POINTS), (1.1, 2.0)),
    "log": (cpu_math.log, mpmath.log, ABOVE_0, (1.1, 1.6)),
    "log1p": (cpu_math.log1p, mpmath.log1p, np.append(ABOVE_0, SMALL / 9.0), (1.1, 1.6)),
    "sin": (cpu_math.sin, mpmath.sin, TURNS, (1.1, 1.6)),
    "cos": (cpu_math.cos, mpmath.cos, TURNS, (1.1, 1.6)),
    "tanh": (tanh_of_kernels, mpmath.tanh, POINTS, (1.5, 1.6)),
    "erfc": (cpu_normal.erfc, mpmath.erfc, np.append(SMALL, np.linspace(-6, 8.5, 500)), (3, 3)),
    "normal_below": (
        cpu_normal.normal_below, mpmath.ncdf, np.append(SMALL, np.linspace(-12, 6, 500)), (4, 7)),
}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_polynomials_against_mpmath(name: str, dtype: str) -> None:
    """The bounds that cpu/math.py and cpu/normal.py state."""
    function, truth, points, bounds = FUNCTIONS[name]
    x = points.astype(dtype)
    found = of_points(function, x)
    worst = 0.0
    with mpmath.workdps(50):
        for point, value in zip(x, found, strict=True):
            v = mpmath.mpf(float(point))
            exact = truth(v)
            growth = 1.0
            if name == "normal_below":
                growth = 1.0 + float(point) ** 2 / (2 if dtype == "float32" else 1)
            step = float(np.spacing(abs(np.array(float(exact), dtype))))
            worst = max(worst, abs(float((mpmath.mpf(float(value)) - exact) / step)) / growth)
    bound = bounds[dtype == "float32"]
    assert 0.2 * bound < worst < bound


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", ["exp", "log", "log1p", "sin", "cos", "tanh", "erfc"])
def test_polynomials_at_the_ends(name: str, dtype: Any) -> None:
    """Infinite, missing, subnormal and huge numbers: the same as NumPy's."""
    info = np.finfo(dtype)
    x = np.array([0.0, np.inf, np.nan, 1.0, 2.0, info.max, info.tiny, info.smallest_subnormal,
                  info.tiny / 64, 88.0, 105.0, 700.0, 740.0, 8e5, 3e6], dtype)
    x = np.concatenate([x, -x])
    running = getattr(P, name)(tensor(x)).data
    with mm.reference():
        reading = getattr(P, name)(tensor(x)).data
    np.testing.assert_allclose(running, reading, rtol=3 * info.eps, atol=info.smallest_subnormal)
    assert (np.signbit(running) == np.signbit(reading))[~np.isnan(reading)].all()


def test_adam_kernel_is_the_formula(rng: np.random.Generator) -> None:
    """Kingma & Ba 2015, algorithm 1; decay of the weights as Loshchilov & Hutter 2019, or as L2."""
    from minimono.kernels.cpu.optim import adam_kernel

    rate, beta1, beta2, eps = 0.01, 0.9, 0.99, 1e-8
    for decay, l2 in ((0.0, 0.0), (0.1, 0.0), (0.0, 0.1)):
        p = rng.standard_normal(7)
        m, v = np.zeros(7), np.zeros(7)
        expected, first, second = p.copy(), np.zeros(7), np.zeros(7)
        for step in range(1, 6):
            g = rng.standard_normal(7)
            corrections = (1.0 - beta1**step, 1.0 - beta2**step)
            new = np.empty((3, 7))
            adam_kernel(p, g, m, v, *new, rate, beta1, beta2, eps, decay, l2, *corrections)
            p, m, v = new
            g = g + l2 * expected
            first = beta1 * first + (1 - beta1) * g
            second = beta2 * second + (1 - beta2) * g**2
            hats = first / corrections[0], second / corrections[1]
            step_size = hats[0] / (np.sqrt(hats[1]) + eps) + decay * expected
            expected = expected - rate * step_size
            np.testing.assert_allclose(p, expected, rtol=1e-14)


# ---- sums along a row ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1, 2, 7, 8, 31, 32, 33, 200])
def test_sums_in_any_order_against_exact_arithmetic(size: int, dtype: Any) -> None:
    rng = np.random.default_rng(size)
    a, b = (rng.standard_normal(size).astype(dtype) for _ in range(2))
    products = [Fraction(float(x)) for x in a * b]
    squares = [Fraction(float(x)) ** 2 for x in a]
    near = size * 2.0**-52  # of the sum of magnitudes
    for found, terms in (
        (sums.total(a), [Fraction(float(x)) for x in a]),
        (sums.total_of_products(a, b), products),
        (sums.total_of_squares(a), squares),
    ):
        assert abs(Fraction(found) - sum(terms)) <= near * sum(map(abs, terms))
    assert sums.largest(a) == a.max()
    a[size // 2] = -np.inf
    assert sums.largest(a) == a.max()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_nan_anywhere_in_a_row_comes_out(dtype: Any) -> None:
    for place in range(40):
        x = normal(2, 40).astype(dtype)
        x[1, place] = np.nan
        out = F.softmax(mm.tensor(x)).data
        assert np.isfinite(out[0]).all()
        assert np.isnan(out[1]).all()
