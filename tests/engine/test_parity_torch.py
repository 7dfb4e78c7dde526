"""Values and gradients against PyTorch in float64, and the choices at ties and kinks."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest

import minimono as mm
from minimono.engine import functional as F
from minimono.engine import primitives as P
from minimono.engine.tape import grad
from minimono.engine.tensor import Tensor, tensor

pytestmark = pytest.mark.parity


@pytest.fixture
def torch() -> Any:
    return pytest.importorskip("torch")


@pytest.fixture(params=["running", "reading"])
def version(request: pytest.FixtureRequest) -> Iterator[str]:
    with mm.reference() if request.param == "reading" else nullcontext():
        yield request.param


def normal(*shape: int) -> Any:
    return np.random.default_rng(len(shape)).standard_normal(shape)


def compare(
    torch: Any, ours: Callable[..., Tensor], theirs: Callable[..., Any], *arrays: Any
) -> None:
    """One cotangent without symmetry goes back through both."""
    xs = [tensor(a, requires_grad=True) for a in arrays]
    ts = [torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in arrays]
    out, expected = ours(*xs), theirs(*ts)
    assert out.shape == tuple(expected.shape)
    cotangent = np.cos(np.arange(out.size)).reshape(out.shape)
    out.backward(cotangent)
    expected.backward(torch.tensor(cotangent))
    pairs = [(out.data, expected.detach())]
    pairs += [(x.grad, torch.zeros_like(t) if t.grad is None else t.grad)
              for x, t in zip(xs, ts, strict=True)]
    for value, theirs_value in pairs:
        theirs_value = theirs_value.numpy()
        size = np.abs(theirs_value[np.isfinite(theirs_value)]).max(initial=0.0)
        np.testing.assert_allclose(value, theirs_value, rtol=1e-12, atol=1e-12 * size)


WIDE = np.linspace(-9.0, 9.0, 37)


@pytest.mark.parametrize("name", ["relu", "silu", "sigmoid", "tanh", "gelu"])
def test_activations(torch: Any, version: str, name: str) -> None:
    theirs = getattr(torch.nn.functional, name)
    compare(torch, getattr(F, name), theirs, WIDE)
    compare(torch, getattr(F, name), theirs, normal(2, 3, 4))


def test_gelu_with_tanh(torch: Any, version: str) -> None:
    def theirs(t: Any) -> Any:
        return torch.nn.functional.gelu(t, approximate="tanh")

    compare(torch, lambda x: F.gelu(x, approximate="tanh"), theirs, WIDE)


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2])
def test_softmax(torch: Any, version: str, axis: int) -> None:
    x = 4.0 * normal(2, 3, 4)
    compare(torch, lambda x: F.softmax(x, axis=axis), lambda t: t.softmax(axis), x)
    compare(torch, lambda x: F.log_softmax(x, axis=axis), lambda t: t.log_softmax(axis), x)


def test_softmax_of_a_scalar(torch: Any, version: str) -> None:
    compare(torch, F.softmax, lambda t: t.softmax(-1), normal())


def test_cross_entropy(torch: Any, version: str) -> None:
    targets = np.array([[1, 0, 3], [3, 3, 2]])
    flat = torch.tensor(targets.reshape(-1))
    compare(
        torch,
        lambda x: F.cross_entropy(x, targets),
        lambda t: torch.nn.functional.cross_entropy(t.reshape(-1, 4), flat),
        3.0 * normal(2, 3, 4),
    )


def test_norms(torch: Any, version: str) -> None:
    x, w, b = normal(2, 3, 5), normal(5), normal(5) + 1.0
    for shifted in (x, x + 100.0, 1e-3 * x):
        compare(
            torch, F.layer_norm,
            lambda t, w, b: torch.nn.functional.layer_norm(t, (5,), w, b), shifted, w, b,
        )
    compare(
        torch,
        lambda x, w: F.rms_norm(x, w, eps=1e-4),
        lambda t, w: torch.nn.functional.rms_norm(t, (5,), w, eps=1e-4),
        x,
        w,
    )


def test_linear_and_embedding(torch: Any) -> None:
    x, w, b = normal(2, 3, 4), normal(5, 4), normal(5)
    compare(torch, F.linear, torch.nn.functional.linear, x, w, b)
    compare(torch, F.linear, torch.nn.functional.linear, x, w)
    ids = np.array([[0, 4, 4], [1, 0, 4]])
    compare(
        torch,
        lambda w: F.embedding(ids, w),
        lambda w: torch.nn.functional.embedding(torch.tensor(ids), w),
        w,
    )


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_attention(torch: Any, version: str, is_causal: bool, masked: bool) -> None:
    mask = (np.arange(20).reshape(4, 5) % 3 > 0) | (np.arange(5) == 0)
    seen = np.tri(4, 5, dtype=bool) & mask if is_causal else mask
    compare(
        torch,
        lambda q, k, v: F.scaled_dot_product_attention(
            q, k, v, mask=mask if masked else None, is_causal=is_causal
        ),
        lambda q, k, v: torch.nn.functional.scaled_dot_product_attention(
            # PyTorch takes one of the two.
            q, k, v, attn_mask=torch.tensor(seen) if masked else None,
            is_causal=is_causal and not masked,
        ),
        normal(2, 3, 4, 6), normal(2, 3, 5, 6) + 0.1, normal(2, 3, 5, 2),
    )


def test_dropout_scales_as_pytorchs(torch: Any) -> None:
    ours = F.dropout(tensor(np.ones(1000)), 0.2, rng=np.random.default_rng(0)).data
    theirs = torch.nn.functional.dropout(torch.ones(1000, dtype=torch.float64), 0.2)
    assert np.unique(ours).tolist() == theirs.unique().tolist() == [0.0, 1.25]


def test_primitives(torch: Any) -> None:
    x, y, p = normal(2, 3), normal(3) + 0.1, np.abs(normal(2, 3)) + 0.5
    for name in "exp sin cos erfc".split():
        compare(torch, getattr(P, name), getattr(torch, name), x)
    for name in "log log1p sqrt".split():
        compare(torch, getattr(P, name), getattr(torch, name), p)
    for name in "add subtract multiply divide maximum minimum".split():
        compare(torch, getattr(P, name), getattr(torch, name), x, y)
    compare(torch, P.power, torch.pow, p, y)
    compare(torch, lambda x: P.cumsum(x, axis=1), lambda t: t.cumsum(1), x)
    compare(torch, lambda x: x[[0, 0, 1], :, None][::2, ::-1],
            lambda t: t[[0, 0, 1], :, None][::2].flip(1), x)
    compare(torch, P.matmul, torch.matmul, normal(4, 2, 3), x.T)


def test_choices_at_ties_and_kinks(torch: Any) -> None:
    tied = np.array([[3.0, 3.0, 1.0], [2.0, 2.0, 2.0]])
    compare(torch, lambda x: x.max(axis=1), lambda t: t.amax(1), tied)
    compare(torch, lambda x: x.min(axis=0), lambda t: t.amin(0), tied)
    compare(torch, lambda x: x.max(axis=(0, 1)), lambda t: t.amax((0, 1)), tied)
    compare(torch, lambda x: x.max(axis=1, keepdims=True), lambda t: t.amax(1, keepdim=True), tied)
    compare(torch, P.maximum, torch.maximum, tied, tied[:, ::-1].copy())
    compare(torch, P.minimum, torch.minimum, tied, tied[:, ::-1].copy())
    kinks = np.array([-1.0, -0.0, 0.0, 1.0])
    compare(torch, F.relu, torch.relu, kinks)
    compare(torch, P.absolute, torch.abs, kinks)
    for power in (0, 1, 2, 3.0):
        compare(torch, lambda x, n=power: x**n, lambda t, n=power: t**n, kinks)


def test_nan_as_in_pytorch(torch: Any) -> None:
    x = np.array([np.nan, 1.0, -1.0])
    t = torch.tensor(x)
    for ours, theirs in [
        (F.relu, torch.relu), (F.gelu, torch.nn.functional.gelu), (F.sigmoid, torch.sigmoid),
        (lambda x: x.max(), torch.amax), (lambda x: P.maximum(x, 0.0), lambda t: t.clamp(min=0.0)),
        (F.softmax, lambda t: t.softmax(-1)),
    ]:  # type: ignore[var-annotated]
        np.testing.assert_allclose(ours(tensor(x)).data, theirs(t).numpy(), rtol=1e-15)


@pytest.mark.parametrize("name", ["maximum", "minimum"])
def test_slopes_of_a_choice_beside_nan_as_in_pytorch(torch: Any, name: str) -> None:
    values = [np.nan, -np.inf, 0.0, 1.0, np.inf]
    x, y = np.repeat(values, 5), np.tile(values, 5)
    compare(torch, getattr(P, name), getattr(torch, name), x, y)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_slopes_of_one_argument_at_nan_as_in_pytorch(torch: Any, version: str) -> None:
    x = np.array([np.nan, -1.0, 0.0, 1.0, np.nan])
    rows = np.array([[np.nan, 1.0, np.nan], [np.inf, np.nan, 2.0], [2.0, 1.0, 2.0]])
    functional = torch.nn.functional
    compare(torch, F.relu, functional.relu, x)
    compare(torch, F.leaky_relu, functional.leaky_relu, x)
    compare(torch, lambda x: P.where(x > 0.0, x, 2.0 * x),
            lambda t: torch.where(t > 0.0, t, 2.0 * t), x)
    for ours, theirs in ("max", "amax"), ("min", "amin"):
        compare(torch, lambda x, f=ours: getattr(x, f)(axis=1),
                lambda t, f=theirs: getattr(t, f)(1), rows)
        compare(torch, lambda x, f=ours: getattr(x, f)(), lambda t, f=theirs: getattr(t, f)(), rows)


def test_accumulation_as_in_pytorch(torch: Any) -> None:
    """Twice through the whole, once from the middle: leaves add up, inner nodes keep nothing."""
    x, t = tensor([1.0, 2.0], requires_grad=True), torch.tensor([1.0, 2.0], requires_grad=True)
    ours, theirs = x * x, t * t
    for _ in range(2):
        ours.sum().backward()
        theirs.sum().backward(retain_graph=True)
    ours[0].backward()
    theirs[0].backward(retain_graph=True)
    assert x.grad is not None
    assert x.grad.tolist() == t.grad.tolist()
    unused = tensor(1.0, requires_grad=True)
    assert unused.grad is None  # as in PyTorch, not zero
    # A condition, a detached copy and an integer have no gradient, in both.
    for made in (x < 1.0, x.detach(), x.astype(np.int64)):
        assert not made.requires_grad
    for theirs_made in (t < 1.0, t.detach(), t.long()):
        assert not theirs_made.requires_grad


def test_second_order(torch: Any, version: str) -> None:
    """A Hessian-vector product through a small network."""
    x, w, b, v = normal(3, 4), normal(4), normal(4) + 1.0, np.cos(np.arange(12.0)).reshape(3, 4)
    targets = np.array([0, 3, 1])

    def loss(x: Tensor) -> Tensor:
        return F.cross_entropy(F.gelu(F.layer_norm(x, tensor(w), tensor(b))), targets)

    ours = grad(lambda x: (grad(loss)(x) * v).sum())(x).data

    t = torch.tensor(x, requires_grad=True)
    normed = torch.nn.functional.layer_norm(t, (4,), torch.tensor(w), torch.tensor(b))
    theirs_loss = torch.nn.functional.cross_entropy(
        torch.nn.functional.gelu(normed), torch.tensor(targets)
    )
    (slope,) = torch.autograd.grad(theirs_loss, t, create_graph=True)
    (theirs,) = torch.autograd.grad((slope * torch.tensor(v)).sum(), t)
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-11, atol=1e-13)
