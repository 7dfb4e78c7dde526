"""The tape: what it records, how it is walked, when it is freed; and what goes in."""

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import minimono as mm
from minimono.engine import functional as F
from minimono.engine import primitives as P
from minimono.engine.tape import grad, is_recording, no_grad, tape_of
from minimono.engine.tensor import Tensor, tensor

# ---- making tensors ----------------------------------------------------------------------------


def test_data_is_copied() -> None:
    array = np.ones(3)
    x = tensor(array)
    array[0] = 5.0
    assert x.data.tolist() == [1.0, 1.0, 1.0]
    y = tensor(x)
    x.data[0] = 7.0
    assert y.data.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("data", "options", "dtype"),
    [
        ([1.0, 2.0], {}, "float64"),
        ([1, 2], {}, "int64"),
        ([1, 2], {"requires_grad": True}, "float64"),
        ([True], {}, "bool"),
        ([True], {"requires_grad": True}, "float64"),
        (3, {"dtype": "float32"}, "float32"),
        (np.ones(2, np.float32), {}, "float32"),
        (np.ones(2, np.float32), {"requires_grad": True}, "float32"),
        (np.float32(1.0), {"dtype": np.float64}, "float64"),
        (np.ones(2, np.int8), {"dtype": np.float32, "requires_grad": True}, "float32"),
        ([], {}, "float64"),
    ],
)
def test_dtype_goes_in_as_it_comes_out(data: Any, options: dict[str, Any], dtype: str) -> None:
    x = tensor(data, **options)
    assert x.dtype == np.dtype(dtype)
    assert x.requires_grad == options.get("requires_grad", False)
    assert x.grad is None
    assert type(x.data) is np.ndarray


@pytest.mark.parametrize(
    "data",
    [1j, np.ones(2, np.complex64), "text", ["a"], None, [None], object(), b"bytes",
     np.array(["2020-01-01"], dtype="datetime64[D]"), {1: 2}, [1.0, None]],
)
def test_what_is_no_real_number_is_refused(data: Any) -> None:
    with pytest.raises(TypeError, match=r"tensor: data has dtype .*, expected real numbers"):
        tensor(data)


@pytest.mark.parametrize("dtype", ["complex128", object, str, "datetime64[s]"])
def test_dtypes_that_are_no_real_numbers_are_refused(dtype: Any) -> None:
    with pytest.raises(TypeError, match=r"tensor: dtype is .*, expected real numbers"):
        tensor([1.0], dtype=dtype)


def test_integers_have_no_gradient() -> None:
    with pytest.raises(TypeError, match="tensor: dtype is int64, expected a float dtype"):
        tensor([1, 2], dtype="int64", requires_grad=True)
    with pytest.raises(TypeError, match="grad: argument 0 has dtype int64, expected floats"):
        grad(lambda x: x.sum())(tensor([1, 2]))


def test_ragged_lists_are_refused() -> None:
    with pytest.raises(ValueError, match="tensor: data"):
        tensor([[1.0, 2.0], [3.0]])


def test_a_list_of_tensors_is_refused() -> None:
    with pytest.raises(TypeError, match=r"pass tensor\.data"):
        tensor([tensor(1.0), tensor(2.0)])


def test_no_silent_way_to_an_array() -> None:
    x = tensor([1.0, 2.0])
    for cut in (np.asarray, np.array, np.sin, lambda t: np.ones(2) + np.asarray(t)):
        with pytest.raises(TypeError):
            cut(x)  # type: ignore[operator]
    with pytest.raises(TypeError, match=r"pass tensor\.data"):
        np.asarray(x)


def test_numbers_out() -> None:
    assert tensor([[2.5]]).item() == 2.5
    assert float(tensor(2.5)) == 2.5
    assert bool(tensor(0.0) < 1.0) is True
    assert len(tensor([1.0, 2.0])) == 2
    assert [row.data.tolist() for row in tensor([[1.0], [2.0]])] == [[1.0], [2.0]]
    for scalar in (Tensor.item, float, bool):
        with pytest.raises(ValueError, match=r"item: tensor has shape \(2,\), expected one"):
            scalar(tensor([1.0, 2.0]))  # type: ignore[operator]
    for sized in (len, iter):
        with pytest.raises(TypeError):
            sized(tensor(1.0))  # type: ignore[operator]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_a_native_dtype_is_the_one_object_that_numpy_has(dtype: Any) -> None:
    """So that "the same dtype" is mostly one word, `is`; a foreign byte order is turned round."""
    for asked in (dtype, np.dtype(dtype).newbyteorder(), np.dtype(dtype).newbyteorder("=")):
        made = tensor(np.ones(2, asked))
        assert made.dtype == dtype
        assert made.dtype.isnative
    assert tensor([1, 2], dtype=np.dtype(dtype).name).dtype is np.dtype(dtype)


def test_repr_says_dtype_and_origin() -> None:
    x = tensor([1.0, 2.0], requires_grad=True)
    assert repr(x) == "tensor([1., 2.], requires_grad=True)"
    assert repr(x * 2.0) == "tensor([2., 4.], made by multiply)"
    assert repr(tensor(1.0, dtype="float32")) == "tensor(1., dtype=float32)"
    assert repr(x.reshape(1, 2)) == "tensor([[1., 2.]], made by reshape)"
    assert (x.shape, x.ndim, x.size, x.device) == ((2,), 1, 2, "cpu")


# ---- backward ----------------------------------------------------------------------------------


def test_backward_adds_up_on_leaves_and_only_there() -> None:
    x = tensor([1.0, 2.0], requires_grad=True)
    inner = x * x
    y = inner.sum()
    y.backward()
    first = x.grad
    assert first is not None
    assert first.tolist() == [2.0, 4.0]
    y.backward()
    inner.backward(np.array([1.0, 0.0]))  # also from the middle
    assert x.grad is not None
    assert x.grad.tolist() == [6.0, 8.0]
    assert first.tolist() == [2.0, 4.0]  # what was handed out before did not change
    assert inner.grad is None
    assert y.grad is None


def test_leaves_never_share_one_gradient_array() -> None:
    x, y = tensor([1.0], requires_grad=True), tensor([1.0], requires_grad=True)
    cotangent = np.array([3.0])
    (x + y).backward(cotangent)
    assert x.grad is not None
    assert y.grad is not None
    x.grad[0] = 7.0
    assert y.grad[0] == cotangent[0] == 3.0


def test_backward_of_a_leaf_itself() -> None:
    x = tensor(2.0, requires_grad=True)
    x.backward()
    x.backward()
    assert type(x.grad) is np.ndarray
    assert x.grad == 2.0


def test_backward_needs_something_to_differentiate() -> None:
    with pytest.raises(ValueError, match="requires_grad=True"):
        tensor(1.0).backward()
    with no_grad():
        y = tensor(1.0, requires_grad=True) * 2.0
    with pytest.raises(ValueError, match="requires_grad=True"):
        y.backward()


def test_backward_of_many_elements_needs_a_cotangent() -> None:
    y = tensor([1.0, 2.0], requires_grad=True) * 2.0
    with pytest.raises(ValueError, match=r"backward: tensor has shape \(2,\), expected a scalar"):
        y.backward()
    for wrong in (np.ones(3), np.ones((2, 1)), 1.0):
        with pytest.raises(ValueError, match=r"backward: cotangent has shape .*, expected .*2"):
            y.backward(wrong)
    with pytest.raises(TypeError, match="cotangent has dtype complex128"):
        y.backward(np.array([1j, 0.0]))
    (tensor([[3.0]], requires_grad=True) * 2.0).backward()  # one element is a scalar


def test_one_backward_walks_a_node_once() -> None:
    """Diamonds: 2^100 paths, 100 steps."""
    steps = []

    @mm.primitive
    def both(x: Any, y: Any) -> Any:
        return x + y

    def rule(g: Tensor, out: Tensor, x: Tensor, y: Tensor) -> Tensor:
        steps.append(out.birth)
        return g

    both.vjp(rule, rule)
    x = tensor(1.0, requires_grad=True)
    y = x
    for _ in range(100):
        y = both(y, y)
    y.backward()
    assert x.grad == 2.0**100
    assert len(steps) == 200
    assert steps == sorted(steps, reverse=True)


def test_a_diamond_of_unequal_sides() -> None:
    x = tensor(0.7, requires_grad=True)
    short = x * 3.0
    long = short
    for _ in range(5):
        long = long * 0.5 + short
    (long * short + x).backward()
    # long = short (1/32 + 31/16), so that the output is 9 c x^2 + x.
    c = 1 / 32 + 31 / 16
    np.testing.assert_allclose(x.grad, 18 * c * 0.7 + 1, rtol=1e-15)


def test_a_tensor_used_many_times() -> None:
    x = tensor(np.arange(3.0), requires_grad=True)
    total = tensor(0.0)
    for i in range(1000):
        total = total + (x * float(i)).sum()
    total.backward()
    assert x.grad is not None
    assert x.grad.tolist() == [499500.0] * 3


def test_unused_parts_cost_and_get_nothing() -> None:
    x, unused = tensor(1.0, requires_grad=True), tensor(1.0, requires_grad=True)
    _ = unused * x
    (x * 2.0).backward()
    assert unused.grad is None


@pytest.mark.parametrize("length", [10_000, 100_000])
def test_long_chains(length: int) -> None:
    """No recursion: not forward, not back, not when the tape is freed."""
    x = tensor([1.0, 2.0], requires_grad=True)
    y = x
    for i in range(length):
        y = y + 1.0 if i % 2 else y * 1.0
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1.0, 1.0]
    last = weakref.ref(y)
    del y
    assert last() is None


def test_second_derivative_through_a_long_chain() -> None:
    def f(x: Tensor) -> Tensor:
        y = x
        for _ in range(3000):
            y = y * 1.0 + 0.0
        return y * y * y

    assert grad(grad(f))(tensor(2.0)).item() == 12.0


# ---- memory ------------------------------------------------------------------------------------


@contextmanager
def without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def training_step(weights: list[Tensor], x: Tensor, targets: Any) -> Tensor:
    w, scale, shift, out = weights
    hidden = F.gelu(F.layer_norm(x @ w, scale, shift))
    attended = F.scaled_dot_product_attention(hidden, hidden, hidden, is_causal=True)
    return F.cross_entropy(F.softmax(attended)[..., ::-1] @ out, targets)


@pytest.mark.parametrize("reading", [False, True], ids=["kernels", "reading versions"])
def test_no_reference_cycles(rng: np.random.Generator, reading: bool) -> None:
    """All memory of a step comes free with the last name, without the garbage collector."""

    def parameter(*shape: int) -> Tensor:
        return tensor(rng.standard_normal(shape), requires_grad=True)

    weights = [parameter(3, 4), parameter(4), parameter(4), parameter(4, 5)]
    x, targets = tensor(rng.standard_normal((2, 6, 3))), rng.integers(0, 5, (2, 6))

    def step() -> Tensor:
        if reading:
            with mm.reference():
                return training_step(weights, x, targets)
        return training_step(weights, x, targets)

    step().backward()  # compiles, imports
    with without_collector():
        loss = step()
        inner = [weakref.ref(node) for node in tape_of(loss) if node.origin is not None]
        arrays = [weakref.ref(node().data) for node in inner[1:]]  # type: ignore[union-attr]
        loss.backward()
        penalty = grad(lambda w: (grad(
            lambda v: training_step([v, *weights[1:]], x, targets))(w) ** 2).sum())(weights[0])
        penalty.sum().backward()
        assert all(ref() is not None for ref in inner)
        del loss, penalty
        assert [ref() for ref in inner] == [None] * len(inner)
        assert [ref() for ref in arrays] == [None] * len(arrays)
        for weight in weights:
            assert weight.grad is not None
            weight.data -= 0.1 * weight.grad
            weight.grad = None
        assert gc.collect() == 0


def test_detach_and_no_grad_hold_no_tape() -> None:
    x = tensor(1.0, requires_grad=True)
    inner = x * 2.0
    kept = inner.detach()
    with no_grad():
        also_kept = inner * 3.0
    gone = weakref.ref(inner)
    del inner
    assert gone() is None
    assert not kept.requires_grad
    assert not also_kept.requires_grad
    assert kept.origin is also_kept.origin is None


def test_a_gradient_of_a_plain_function_holds_no_tape() -> None:
    assert grad(lambda x: (x * x).sum())(np.ones(3)).origin is None


# ---- grad, nested ------------------------------------------------------------------------------


def cube(x: Tensor) -> Tensor:
    return x * x * x


def test_grad_takes_numbers_arrays_and_tensors() -> None:
    assert [grad(cube)(x).item() for x in (2, 2.0, np.array(2), np.float32(2), tensor(2.0))] == (
        [12.0] * 5
    )
    assert grad(cube)(tensor(2.0, dtype="float32")).dtype == np.float32


def test_grad_by_several_arguments() -> None:
    def f(x: Tensor, y: Tensor, factor: float = 1.0) -> Tensor:
        return (x * x * y).sum() * factor

    x, y = np.array([1.0, 2.0]), np.array([3.0, 5.0])
    by_y, by_x = grad(f, (1, 0))(x, y, factor=2.0)
    assert by_y.data.tolist() == [2.0, 8.0]
    assert by_x.data.tolist() == [12.0, 40.0]
    (alone,) = grad(f, (1,))(x, y)
    assert alone.data.tolist() == [1.0, 4.0]
    assert grad(f, 1)(x, y).data.tolist() == [1.0, 4.0]
    # One tensor in two places: partial derivatives, not their sum.
    same = tensor(x, requires_grad=True)
    by_first, by_second = grad(f, (0, 1))(same, same)
    assert by_first.data.tolist() == [2.0, 8.0]
    assert by_second.data.tolist() == [1.0, 4.0]


def test_grad_of_what_does_not_depend_is_zero() -> None:
    assert grad(lambda x: tensor(1.0))(np.ones(2)).data.tolist() == [0.0, 0.0]
    assert grad(lambda x, y: y * y, 0)(1.0, tensor(2.0)).item() == 0.0
    assert grad(lambda x: x)(3.0).item() == 1.0


def test_grad_errors() -> None:
    with pytest.raises(ValueError, match=r"grad: f returned shape \(2,\), expected a Tensor with"):
        grad(lambda x: x * 2.0)(np.ones(2))
    with pytest.raises(ValueError, match="grad: f returned float"):
        grad(lambda x: x.item())(1.0)  # type: ignore[arg-type, return-value]
    with pytest.raises(ValueError, match=r"grad: argnums is 2, expected places of f's 2 arguments"):
        grad(lambda x, y: x, 2)(1.0, 2.0)
    with pytest.raises(ValueError, match=r"grad: argnums is \(0, -1\), expected places of f's 2"):
        grad(lambda x, y: x, (0, -1))(1.0, 2.0)
    with pytest.raises(TypeError, match="expected real numbers"):
        grad(cube)("text")


def test_higher_orders() -> None:
    f: Callable[[Tensor], Tensor] = lambda x: x**5  # noqa: E731
    values = []
    for _ in range(6):
        f = grad(f)
        values.append(f(tensor(2.0)).item())
    assert values == [80.0, 160.0, 240.0, 240.0, 120.0, 0.0]


def test_third_order_against_closed_forms() -> None:
    x = np.array(0.3)
    third = [grad(grad(grad(f)))(x).item() for f in (P.sin, P.exp, P.tanh)]
    t = np.tanh(0.3)
    expected = [-np.cos(0.3), np.exp(0.3), -2 * (1 - t**2) * (1 - 3 * t**2)]
    np.testing.assert_allclose(third, expected, rtol=1e-14)


PERTURBATIONS = {
    # Siskind & Pearlmutter 2008: d/dx (x d/dy (x + y)) = 1, where confusion gives 2.
    "sum": (lambda x: x * grad(lambda y: x + y)(1.0), 1.0),
    "product, at x": (lambda x: x * grad(lambda y: x * y)(x), 6.0),
    "product, at a constant": (lambda x: grad(lambda y: x * y)(1.0), 1.0),
    "product": (lambda x: x * grad(lambda y: x * y)(2.0), 6.0),
    "the same variable": (lambda x: grad(lambda y: x * y * y)(x), 12.0),  # 2 x^2
    "inner function closes over outer square": (
        lambda x: grad(lambda y: (x * x) * y * y)(x), 54.0),  # 2 x^3
    "inner constant": (lambda x: x * grad(lambda y: y.detach() * x)(x), 0.0),
    "detached outer": (lambda x: grad(lambda y: y * y * x.detach())(x), 6.0),
    "three deep": (lambda x: grad(lambda y: grad(lambda z: x * y * z)(x) * y)(x), 12.0),  # 2 x^2
    "shadowed": (lambda x: grad(lambda x: grad(lambda x: x**4)(x))(x), 72.0),  # 12 x^2
    "beside": (lambda x: grad(cube)(x) * grad(lambda y: y * y)(x), 162.0),  # 6 x^3
    "by the second argument": (lambda x: grad(lambda a, b: a * b * b, 1)(x, x), 12.0),  # 2 x^2
    "by both": (lambda x: (lambda g: g[0] * g[1])(grad(lambda a, b: a * b * b, (0, 1))(x, x)),
                216.0),  # 2 x^4
}


@pytest.mark.parametrize("what", PERTURBATIONS)
def test_nested_gradients_never_mix(what: str) -> None:
    f, expected = PERTURBATIONS[what]
    assert grad(f)(3.0).item() == expected
    assert grad(f)(tensor(3.0, requires_grad=True)).item() == expected
    x = tensor(3.0, requires_grad=True)
    f(x).backward()
    assert (0.0 if x.grad is None else x.grad) == expected


def test_grad_works_under_no_grad_and_leaves_no_tape() -> None:
    x = tensor(2.0, requires_grad=True)
    with no_grad():
        first, second = grad(cube)(x), grad(grad(cube))(x)
        assert not is_recording()
    assert (first.item(), second.item()) == (12.0, 12.0)
    assert first.origin is second.origin is None


def test_no_grad_inside_a_differentiated_function_makes_a_constant() -> None:
    def f(x: Tensor) -> Tensor:
        with no_grad():
            constant = x * x
        return constant * x

    assert grad(f)(3.0).item() == 9.0


def test_grad_closes_over_tensors_without_touching_them() -> None:
    w = tensor([2.0, 3.0], requires_grad=True)
    inner = w * w
    by_x = grad(lambda x: (x * inner).sum())(np.ones(2))
    assert by_x.data.tolist() == [4.0, 9.0]
    assert w.grad is None
    by_x.sum().backward()  # and the result depends on them
    assert w.grad is not None
    assert w.grad.tolist() == [4.0, 6.0]


def test_gradient_penalty() -> None:
    """backward() through the result of grad: d/dw |d/dx sum(w x^2)|^2 = 8 w x^2."""
    w, x = tensor([1.0, -2.0], requires_grad=True), tensor([3.0, 0.5])
    slope = grad(lambda x: (w * x * x).sum())(x)
    (slope * slope).sum().backward()
    assert w.grad is not None
    assert w.grad.tolist() == [8 * 1 * 9.0, 8 * -2 * 0.25]
    assert x.grad is None


def test_gradient_penalty_by_the_parameters_themselves() -> None:
    w = tensor([1.0, -2.0], requires_grad=True)
    g = grad(lambda w: (w**3).sum())(w)  # 3 w^2
    (g**2).sum().backward()  # 9 w^4 -> 36 w^3
    assert w.grad is not None
    assert w.grad.tolist() == [36.0, -288.0]


def test_backward_inside_a_function_that_is_differentiated() -> None:
    """backward gives numbers: what it finds is a constant to the grad around it."""
    w = tensor(5.0, requires_grad=True)

    def f(x: Tensor) -> Tensor:
        (w * w).backward()
        return x * x

    assert grad(f)(3.0).item() == 6.0
    assert w.grad == 10.0


def test_hessian_is_symmetric(rng: np.random.Generator) -> None:
    a = rng.standard_normal((4, 3))

    def f(x: Tensor) -> Tensor:
        return F.softmax(P.tanh(a @ x.reshape(3, 1)), axis=0)[0].sum() + (x[0] ** 2 * x[2]).sum()

    x = rng.standard_normal(3)
    rows = [grad(lambda x, i=i: grad(f)(x)[i])(x).data for i in range(3)]
    np.testing.assert_allclose(rows, np.transpose(rows), rtol=1e-12, atol=1e-14)


# ---- dtype -------------------------------------------------------------------------------------


def test_a_training_step_in_float32(rng: np.random.Generator, only_float32: None) -> None:
    """Forward, backward and an update: no float64 anywhere, kernels and reading versions."""

    def parameter(*shape: int) -> Tensor:
        return tensor(rng.standard_normal(shape), dtype=np.float32, requires_grad=True)

    weights = [parameter(3, 4), parameter(4), parameter(4), parameter(4, 5)]
    x = tensor(rng.standard_normal((2, 6, 3)), dtype=np.float32)
    targets = rng.integers(0, 5, (2, 6))
    for step in range(2):
        if step == 0:
            training_step(weights, x, targets).backward()
        else:
            with mm.reference():
                training_step(weights, x, targets).backward()
        for weight in weights:
            assert weight.grad is not None
            assert weight.grad.dtype == np.float32
            weight.data = weight.data - 0.1 * weight.grad
            weight.grad = None
            assert weight.dtype == np.float32


def test_gradients_have_the_dtype_of_their_argument() -> None:
    x = tensor([1.0, 2.0], dtype="float32", requires_grad=True)
    y = tensor([3.0, 4.0], dtype="float64", requires_grad=True)
    out = (x * y).sum()
    out.backward()
    assert out.dtype == np.float64
    assert x.grad is not None
    assert y.grad is not None
    assert (x.grad.dtype, y.grad.dtype) == (np.float32, np.float64)


# ---- threads -----------------------------------------------------------------------------------


def test_no_grad_is_of_one_thread() -> None:
    """A thread inside no_grad() takes no tape from a thread beside it."""
    inside, done = threading.Event(), threading.Event()
    recorded: dict[str, bool] = {}

    def without() -> None:
        x = tensor(1.0, requires_grad=True)
        with no_grad():
            inside.set()
            assert done.wait(10)
            recorded["without"] = (x * x).requires_grad
        recorded["after"] = (x * x).requires_grad

    thread = threading.Thread(target=without)
    thread.start()
    assert inside.wait(10)
    x = tensor(1.0, requires_grad=True)
    recorded["beside"] = (x * x).requires_grad
    done.set()
    thread.join()
    assert recorded == {"without": False, "beside": True, "after": True}


def test_two_threads_differentiate_at_once() -> None:
    results: dict[int, list[float]] = {}

    def work(n: int) -> None:
        f = lambda x: (x**n).sum()  # noqa: E731
        results[n] = [grad(f)(np.array([2.0])).data.item() for _ in range(300)]

    threads = [threading.Thread(target=work, args=(n,)) for n in (2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {2: [4.0] * 300, 3: [12.0] * 300}


def test_no_grad_ends_with_its_block_also_by_an_error() -> None:
    with pytest.raises(RuntimeError, match="stop"):
        with no_grad():
            raise RuntimeError("stop")
    assert is_recording()
    with no_grad():
        with no_grad():
            pass
        assert not is_recording()


def test_a_leaf_owns_its_gradient() -> None:
    """It takes over the array of the walk where nobody else holds it, and copies it otherwise."""
    a, b = tensor(np.ones(3), requires_grad=True), tensor(np.ones(3), requires_grad=True)
    (a + b).backward(np.arange(3.0))  # the rule hands one tensor to both
    assert a.grad is not None
    a.grad += 1.0
    np.testing.assert_array_equal(b.grad, [0.0, 1.0, 2.0])

    held = np.arange(3.0)

    @P.primitive
    def same(x: Any) -> Any:
        return x.copy()

    same.vjp(lambda g, out, x: Tensor(held))
    c = tensor(np.ones(3), requires_grad=True)
    same(c).backward(np.ones(3))
    assert c.grad is not held
    np.testing.assert_array_equal(c.grad, held)

    made: list[Any] = []

    @P.primitive
    def double(x: Any) -> Any:
        return 2.0 * x

    def rule(g: Tensor, out: Tensor, x: Tensor) -> Tensor:
        share = 2.0 * g
        made.append(share.data.ctypes.data)
        return share

    double.vjp(rule)
    d = tensor(np.ones(3), requires_grad=True)
    double(d).backward(np.ones(3))
    assert d.grad is not None
    assert made == [d.grad.ctypes.data]  # no copy


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (tensor([1.0, 2.0]), "data is a Tensor, expected an array; assign tensor.data"),
        (None, "data has dtype object, expected numbers"),
        (["a", "b"], "data has dtype <U1, expected numbers"),
        (np.ma.array([1.0, 2.0], mask=[True, False]), "data: a masked array"),
        ([[1.0], [1.0, 2.0]], "data: "),
    ],
    ids=["Tensor", "None", "text", "masked", "ragged"],
)
def test_data_is_an_array_of_numbers(given: Any, message: str) -> None:
    p = tensor([3.0, 4.0], requires_grad=True)
    with pytest.raises(TypeError, match=message):
        p.data = given
    assert p.data.tolist() == [3.0, 4.0]


@pytest.mark.parametrize(
    "given",
    [np.array([[1.0, 2.0]]).view(np.matrix), np.array([[1.0, 2.0]], ">f8"), [[1.0, 2.0]]],
    ids=["matrix", "byte order", "list"],
)
def test_data_of_another_kind_becomes_a_plain_array(given: Any) -> None:
    p = tensor([[3.0, 4.0]], requires_grad=True)
    p.data = given
    (p * p).sum().backward()
    mm.optim.Adam([p], lr=0.5).step()
    np.testing.assert_allclose(p.data, [[0.5, 1.5]], rtol=1e-7)
