"""A gradient is of the values that the forward pass saw, or it is an error, and nothing changes."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest

import minimono as mm
from minimono import kernels, nn, optim
from minimono.engine import functional as F
from minimono.engine.tape import grad, no_grad
from minimono.engine.tensor import Tensor, tensor
from minimono.nn.data_parallel import backward_in_parts

VERSIONS = {"running": nullcontext, "reading": mm.reference}
STALE = "was changed after it was used.*run the forward pass again"


@pytest.fixture(params=VERSIONS.values(), ids=VERSIONS)
def version(request: pytest.FixtureRequest) -> Any:
    with request.param():
        yield


def network(seed: int = 0) -> nn.Sequential:
    rng = np.random.default_rng(seed)
    return nn.Sequential(nn.Linear(3, 4, rng=rng), nn.Activation("tanh"), nn.Linear(4, 2, rng=rng))


def batch() -> Tensor:
    return tensor(np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32))


def first(model: nn.Sequential) -> Tensor:
    return model.parameters()[0]


def set_gradients(model: nn.Sequential) -> None:
    for p in model.parameters():
        p.grad = np.full(p.shape, 0.5, p.dtype)


def optimiser_step(kind: Any, **settings: Any) -> Callable[[nn.Sequential], None]:
    def write(model: nn.Sequential) -> None:
        kind(model.parameters(), lr=0.1, **settings).step()

    return write


def new_array(model: nn.Sequential) -> None:
    first(model).data = np.zeros_like(first(model).data)


def augmented(model: nn.Sequential) -> None:
    first(model).data -= 0.1


def all_elements(model: nn.Sequential) -> None:
    first(model).data[...] = 0.0


def one_element(model: nn.Sequential) -> None:
    first(model).data[1, 2] += 1e-3


def swapped(model: nn.Sequential) -> None:
    first(model).data[[0, 1]] = first(model).data[[1, 0]]


def turned_sign(model: nn.Sequential) -> None:
    np.negative(first(model).data, out=first(model).data)


def subtract_into(model: nn.Sequential) -> None:
    p = first(model)
    np.subtract(p.data, np.float32(0.1), out=p.data)


def to_nan(model: nn.Sequential) -> None:
    first(model).data[0, 0] = np.nan


def through_a_view(model: nn.Sequential) -> None:
    row = first(model).data.T[1]
    row *= 2.0


def last_bias(model: nn.Sequential) -> None:
    model.parameters()[-1].data[0] += 1.0  # its value is in no rule: an error all the same


def loaded(model: nn.Sequential) -> None:
    model.load_state_dict({k: v + 1.0 for k, v in model.state_dict().items()})


WRITES = [
    optimiser_step(optim.SGD), optimiser_step(optim.SGD, momentum=0.9), optimiser_step(optim.Adam),
    optimiser_step(optim.AdamW), new_array, augmented, all_elements, one_element, swapped,
    turned_sign, subtract_into, to_nan, through_a_view, last_bias, loaded,
]
NAMES = [w.__name__ + str(i) if w.__name__ == "write" else w.__name__ for i, w in enumerate(WRITES)]
every_write = pytest.mark.parametrize("write", WRITES, ids=NAMES)


@pytest.mark.parametrize("looked_before", [False, True])
@every_write
def test_backward_after_a_write(write: Any, looked_before: bool, version: Any) -> None:
    model = network()
    set_gradients(model)
    if looked_before:
        assert all(np.isfinite(p.data).all() for p in model.parameters())
    loss = (model(batch()) ** 2).mean()
    write(model)
    before = [p.grad.copy() for p in model.parameters()]
    with pytest.raises(RuntimeError, match=STALE):
        loss.backward()
    for p, g in zip(model.parameters(), before, strict=True):
        np.testing.assert_array_equal(p.grad, g)
    (model(batch()) ** 2).mean().backward()  # a new pass forward is all it takes


@every_write
def test_backward_again_after_a_write(write: Any, version: Any) -> None:
    model = network()
    loss = (model(batch()) ** 2).mean()
    loss.backward()
    loss.backward()  # twice without one is fine
    write(model)
    with pytest.raises(RuntimeError, match=STALE):
        loss.backward()


@pytest.mark.parametrize("looked_before", [False, True])
@every_write
def test_grad_after_a_write(write: Any, looked_before: bool, version: Any) -> None:
    def f(x: Tensor) -> Tensor:
        model = network()
        set_gradients(model)
        if looked_before:
            assert all(np.isfinite(p.data).all() for p in model.parameters())
        out = (model(x) ** 2).sum()
        write(model)
        return out

    if write is new_array and not kernels.enabled():
        # The formula keeps a view of the old array, and with it the right values.
        right = grad(lambda x: (network()(x) ** 2).sum())(batch())
        np.testing.assert_array_equal(grad(f)(batch()).data, right.data)
        return
    for slope in (grad(f), grad(lambda x: grad(f)(x).sum())):
        with pytest.raises(RuntimeError, match=STALE):
            slope(batch())


def test_a_detached_parameter_is_a_constant() -> None:
    w, v = tensor([1.0, 2.0], requires_grad=True), tensor([3.0, 4.0], requires_grad=True)
    loss = (w.detach() * v).sum()
    w.grad = np.ones(2)
    optim.SGD([w], lr=0.5).step()
    loss.backward()
    assert v.grad.tolist() == [1.0, 2.0]


def test_the_second_walk_of_a_second_derivative() -> None:
    w = tensor([1.0, 2.0], requires_grad=True)

    def f(x: Tensor) -> Tensor:
        slope = grad(lambda x: (w * x * x * x).sum())(x).sum()
        w.data[0] = 7.0
        return slope

    with pytest.raises(RuntimeError, match=STALE):
        grad(f)(tensor([1.0, 1.0]))


@every_write
def test_parts_of_a_batch(write: Any) -> None:
    model = network()
    set_gradients(model)
    before = [p.grad.copy() for p in model.parameters()]

    def loss(model: nn.Sequential, x: Tensor) -> Tensor:
        out = (model(x) ** 2).mean()
        write(model)
        return out

    with pytest.raises(RuntimeError, match=STALE):
        backward_in_parts(loss, model, (batch(),))
    for p, g in zip(model.parameters(), before, strict=True):
        np.testing.assert_array_equal(p.grad, g)


def test_constants_and_results() -> None:
    """Not only parameters: a batch, an inner result, the output itself."""
    for which in range(3):
        w, x = tensor([1.0, 2.0], requires_grad=True), tensor([3.0, 4.0])
        inner = w * x
        out = inner.exp()
        (x, inner, out)[which].data = np.zeros(2)
        with pytest.raises(RuntimeError, match=STALE):
            out.sum().backward()
        assert w.grad is None


def test_an_array_that_was_given_and_is_written_later() -> None:
    w = tensor([1.0, 2.0], requires_grad=True)
    given = np.array([5.0, 6.0])
    w.data = given
    out = (w * w).sum()
    given[0] = 0.0
    with pytest.raises(RuntimeError, match=STALE):
        out.backward()


def test_moving_to_where_it_is_changes_nothing() -> None:
    model = network()
    loss = (model(batch()) ** 2).mean()
    model.to("cpu")
    loss.backward()


def test_moving_makes_the_tape_stale(cuda: str) -> None:
    model = network()
    loss = (model(batch()) ** 2).mean()
    model.to(cuda)
    with pytest.raises(RuntimeError, match=STALE):
        loss.backward()


def test_writes_on_a_gpu_are_seen(cuda: str) -> None:
    w = tensor([1.0, 2.0], device=cuda, requires_grad=True)
    out = (w * w).sum()
    w.data[...] = w.data * 2.0
    with pytest.raises(RuntimeError, match=STALE):
        out.backward()
    out = (w * w).sum()
    out.backward()
    optim.SGD([w], lr=0.1).step()
    with pytest.raises(RuntimeError, match=STALE):
        out.backward()


def test_two_networks_trained_in_turn_in_the_wrong_order() -> None:
    maker, judge = network(0), nn.Sequential(nn.Linear(2, 1, rng=np.random.default_rng(2)))
    for_maker, for_judge = optim.SGD(maker.parameters(), 0.1), optim.SGD(judge.parameters(), 0.1)
    score = judge(maker(batch())).mean()
    score.backward()
    for_judge.step()
    with pytest.raises(RuntimeError, match=STALE):
        (-score).backward()
    for_maker.step()


# ---- what goes on working ----------------------------------------------------------------------


def test_two_networks_trained_in_turn(version: Any) -> None:
    maker, judge = network(0), nn.Sequential(nn.Linear(2, 1, rng=np.random.default_rng(2)))
    for_maker, for_judge = optim.SGD(maker.parameters(), 0.1), optim.SGD(judge.parameters(), 0.1)
    for _ in range(3):
        for_judge.zero_grad()
        judge(maker(batch()).detach()).mean().backward()
        for_judge.step()
        for_maker.zero_grad()
        (-judge(maker(batch())).mean()).backward()
        for_maker.step()


def test_steps_written_by_hand(version: Any) -> None:
    model, same = network(), network()
    optimiser = optim.SGD(same.parameters(), lr=0.1)

    def assign(p: Tensor) -> None:
        p.data = p.data - np.float32(0.1) * p.grad

    def augment(p: Tensor) -> None:
        p.data -= np.float32(0.1) * p.grad

    def fill(p: Tensor) -> None:
        p.data[...] = p.data - np.float32(0.1) * p.grad

    def subtract(p: Tensor) -> None:
        np.subtract(p.data, np.float32(0.1) * p.grad, out=p.data)

    for step in (assign, augment, fill, subtract) * 2:
        for m in (model, same):
            m.zero_grad()
            (m(batch()) ** 2).mean().backward()
        for p in model.parameters():
            step(p)
        optimiser.step()
    for p, q in zip(model.parameters(), same.parameters(), strict=True):
        np.testing.assert_allclose(p.data, q.data, rtol=1e-5, atol=1e-7)


def test_finite_differences_while_old_results_are_alive(version: Any) -> None:
    w = tensor([1.0, 2.0, 3.0], requires_grad=True)
    x = tensor([0.5, -1.0, 2.0])
    f = lambda: ((w * x).tanh() ** 2).sum()  # noqa: E731
    old = f()
    kept, slopes = [], []
    for i in range(3):
        value = w.data[i]
        w.data[i] = value + 1e-6
        up = f()
        w.data[i] = value - 1e-6
        down = f()
        w.data[i] = value  # as it was, to the last bit
        kept += [up, down]
        slopes.append((up.item() - down.item()) / 2e-6)
    old.backward()
    np.testing.assert_allclose(w.grad, slopes, rtol=1e-7, atol=1e-9)
    for result in kept:
        with pytest.raises(RuntimeError, match=STALE):
            result.backward()


def test_weights_set_before_the_forward_pass(version: Any) -> None:
    model = network()
    for p in model.parameters():
        p.data[...] = 0.25
    loss = (model(batch()) ** 2).mean()
    loss.backward()
    assert all(np.isfinite(p.grad).all() for p in model.parameters())


def test_reading_never_makes_a_tape_stale(version: Any) -> None:
    model = network()
    model.parameters()[0].data[0, 0] = np.nan  # and nan is equal to itself here
    loss = (model(batch()) ** 2).mean()
    for p in model.parameters():
        assert p.data.size
    with no_grad():
        model(batch())
    model.state_dict()
    loss.backward()


def test_micro_batches_and_two_losses(version: Any) -> None:
    model = network()
    optimiser = optim.Adam(model.parameters())
    for _ in range(2):
        optimiser.zero_grad()
        for _ in range(3):
            out = model(batch())
            (out**2).mean().backward()
            out.mean().backward()
        losses = [(model(batch()) ** k).mean() for k in (1, 2)]
        for loss in losses:
            loss.backward()
        optimiser.step()


def test_what_was_made_before_may_be_used_as_a_constant() -> None:
    """Features of an old model: the walk does not go back to what made them."""
    model = network()
    features = model(batch())
    set_gradients(model)
    optim.SGD(model.parameters(), lr=0.1).step()
    slope = grad(lambda w: (features * w).sum())(tensor(np.ones(2, np.float32)))
    np.testing.assert_allclose(slope.data, features.data.sum(axis=0), rtol=1e-6)
    with pytest.raises(RuntimeError, match=STALE):
        features.sum().backward()


def test_training_with_an_optimiser_keeps_no_copies() -> None:
    """After a look at the parameters one step does; then the optimiser has made new arrays."""
    model = network()
    optimiser = optim.SGD(model.parameters(), lr=0.1)
    x = batch()

    def copies() -> int:
        optimiser.zero_grad()
        loss = (model(x) ** 2).mean()
        copied, stack = 0, [loss]
        while stack:
            node = stack.pop()
            if node.origin is not None:
                for a, seen in zip(node.origin.arguments, node.origin.seen, strict=False):
                    if isinstance(a, Tensor):
                        copied += seen is not a.array
                        stack.append(a)
        loss.backward()
        optimiser.step()
        return copied

    assert copies() == 0
    assert all(np.isfinite(p.data).all() for p in model.parameters())
    assert copies() == 4
    assert copies() == 0


def test_a_function_of_a_tensor_that_is_nowhere_a_parameter() -> None:
    x = tensor([1.0, 2.0])
    f = grad(lambda x: F.relu(x).sum())
    first_time = f(x)
    x.data[...] = -1.0
    np.testing.assert_array_equal(first_time.data, [1.0, 1.0])
    np.testing.assert_array_equal(f(x).data, [0.0, 0.0])


# ---- constants: arrays beside tensors ----------------------------------------------------------


REUSED: dict[str, tuple[Callable[[Tensor, Any], Tensor], list[Any]]] = {
    "x * a": (lambda x, a: x * a, [np.ones((2, 3)), np.full((2, 3), 5.0)]),
    "a * x": (lambda x, a: x.__rmul__(a), [np.ones((2, 3)), np.full((2, 3), 5.0)]),
    "x / a": (lambda x, a: x / a, [np.ones((2, 3)), np.full((2, 3), 5.0)]),
    "a @ x": (lambda x, a: a @ x, [np.ones((4, 2)), np.full((4, 2), 5.0)]),
    "x @ a": (lambda x, a: x @ a, [np.ones((3, 4)), np.full((3, 4), 5.0)]),
    "where": (lambda x, a: mm.engine.primitives.where(a, x, 0.0),
              [np.ones((2, 3), bool), np.zeros((2, 3), bool)]),
    "maximum": (lambda x, a: mm.engine.primitives.maximum(x, a),
                [np.full((2, 3), -9.0), np.full((2, 3), 9.0)]),
    "x[a]": (lambda x, a: x[a], [np.array([0, 0]), np.array([1, 1])]),
    "x[:, a]": (lambda x, a: x[:, a], [np.array([0, 0]), np.array([1, 1])]),
    "x[booleans]": (lambda x, a: x[a], [np.array([True, False]), np.array([False, True])]),
    "x[list]": (lambda x, a: x[a], [[0, 0], [1, 1]]),
    "x[:, list]": (lambda x, a: x[:, a], [[0, 0], [1, 1]]),
    "embedding": (lambda x, a: F.embedding(a, x), [np.array([0, 0]), np.array([1, 1])]),
    "cross_entropy": (lambda x, a: F.cross_entropy(x, a), [np.array([0, 1]), np.array([2, 2])]),
    "linear": (lambda x, a: F.linear(a, x), [np.ones((4, 3)), np.full((4, 3), 5.0)]),
    "conv2d": (lambda x, a: F.conv2d(a, x.reshape(1, 1, 2, 3)),
               [np.ones((1, 1, 4, 4)), np.full((1, 1, 4, 4), 5.0)]),
    "layer_norm": (lambda x, a: F.layer_norm(x, a, a), [np.ones(3), np.full(3, 5.0)]),
    "self_attention": (lambda x, a: F.self_attention(x.reshape(1, 2, 3, 1, 1), mask=a),
                       [np.array([[True, True]]), np.array([[True, False]])]),
    "attention": (lambda x, a: F.scaled_dot_product_attention(x, x, x, mask=a),
                  [np.ones((2, 2), bool), np.eye(2, dtype=bool)]),
}


@pytest.mark.parametrize("name", REUSED)
def test_a_buffer_that_is_filled_again_before_the_walk_back(name: str, version: Any) -> None:
    f, contents = REUSED[name]
    start = np.random.default_rng(3).normal(size=(2, 3))

    def gradients(fresh: bool) -> Any:
        x, buffer, total = tensor(start, requires_grad=True), contents[0].copy(), tensor(0.0)
        for content in contents:
            buffer[:] = content
            out = f(x, buffer.copy() if fresh else buffer)
            total = total + (out * out).sum()
        total.backward()
        return x.grad

    np.testing.assert_array_equal(gradients(fresh=False), gradients(fresh=True))
    assert np.any(gradients(fresh=True))


def test_weights_written_in_place_and_then_frozen(version: Any) -> None:
    layer = nn.Linear(2, 2, rng=0, bias=False, dtype="float64")
    layer.weight.data[...] = [[1.0, 2.0], [3.0, 4.0]]
    layer.weight.requires_grad = False
    x = tensor([[1.0, 1.0]], requires_grad=True)
    layer(x).sum().backward()
    np.testing.assert_array_equal(x.grad, [[4.0, 6.0]])
