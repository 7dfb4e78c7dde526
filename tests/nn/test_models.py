"""GPT, BERT and MLP: what they may depend on, their gradients, their start."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest

import minimono as mm
from minimono.engine import functional as F
from minimono.engine.tensor import Tensor
from minimono.gradcheck import check_grads
from minimono.nn import Linear, Module

RNG = np.random.default_rng
SIZES: dict[str, Any] = {"channels": 8, "heads": 2, "layers": 2}


def gpt(seed: int = 0, **changes: Any) -> mm.models.GPT:
    sizes = {"vocabulary": 11, "context": 9, **SIZES, **changes}
    return spread(mm.models.GPT(rng=RNG(seed), **sizes))


def bert(seed: int = 0, **changes: Any) -> mm.models.BERT:
    sizes = {"vocabulary": 11, "context": 9, "classes": 3, **SIZES, **changes}
    return spread(mm.models.BERT(rng=RNG(seed), **sizes))


def spread(model: Any) -> Any:
    """Weights ten times as wide as at the start, and biases: so that every part matters."""
    rng = RNG(100)
    for _, p in model.named_parameters():
        p.data = (p.data + 0.2 * rng.standard_normal(p.shape)).astype(p.dtype)
    return model


def as_function(
    model: Module, loss: Callable[[], Tensor]
) -> tuple[Callable[..., Tensor], list[Any]]:
    """The loss as a function of the model's parameters, and their values."""
    places = []
    for _, module in model.named_modules():
        places += [(module, name) for name, v in vars(module).items() if isinstance(v, Tensor)]
    values = [vars(module)[name].data for module, name in places]

    def f(*parameters: Tensor) -> Tensor:
        for (module, name), p in zip(places, parameters, strict=True):
            setattr(module, name, p)
        return loss()

    return f, values


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gpt_never_looks_ahead(dtype: Any) -> None:
    model = gpt(dtype=dtype).eval()
    rng = RNG(1)
    ids = rng.integers(0, 11, (3, 9))
    logits = model(ids).data
    assert logits.shape == (3, 9, 11)
    for t in range(1, 9):
        changed = ids.copy()
        changed[:, t:] = (ids[:, t:] + rng.integers(1, 11, (3, 9 - t))) % 11
        others = model(changed).data
        np.testing.assert_array_equal(others[:, :t], logits[:, :t])  # not one bit
        assert (others[:, t] != logits[:, t]).any()


def test_gpt_sees_all_that_came_before() -> None:
    model = gpt().eval()
    ids = RNG(1).integers(0, 11, (1, 9))
    logits = model(ids).data
    for t in range(9):
        changed = ids.copy()
        changed[0, t] = (ids[0, t] + 1) % 11
        assert (model(changed).data[0, -1] != logits[0, -1]).any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bert_never_looks_at_padding(dtype: Any) -> None:
    model = bert(dtype=dtype).eval()
    rng = RNG(1)
    ids, segments = rng.integers(0, 11, (4, 9)), rng.integers(0, 2, (4, 9))
    mask = np.arange(9) < np.array([[9], [6], [3], [1]])
    logits = model(ids, segments, mask).data
    assert logits.shape == (4, 3)
    other_ids = np.where(mask, ids, rng.integers(0, 11, (4, 9)))
    other_segments = np.where(mask, segments, 1 - segments)
    assert (other_ids != ids).any()
    np.testing.assert_array_equal(model(other_ids, other_segments, mask).data, logits)
    assert (model(ids, segments).data[1:] != logits[1:]).any(axis=1).all()


def test_bert_padding_is_as_a_shorter_text() -> None:
    model = bert(dtype=np.float64).eval()
    ids = RNG(1).integers(0, 11, (2, 9))
    mask = np.broadcast_to(np.arange(9) < 5, (2, 9))
    np.testing.assert_allclose(
        model(ids, mask=mask).data, model(ids[:, :5]).data, rtol=1e-12, atol=1e-14
    )


def test_bert_tells_segments_apart_and_looks_both_ways() -> None:
    model = bert().eval()
    ids = RNG(1).integers(0, 11, (1, 9))
    logits = model(ids).data
    np.testing.assert_array_equal(model(ids, np.zeros((1, 9), dtype=int)).data, logits)
    assert (model(ids, np.ones((1, 9), dtype=int)).data != logits).any()
    changed = ids.copy()
    changed[0, -1] = (ids[0, -1] + 1) % 11
    assert (model(changed).data != logits).any()


@pytest.mark.parametrize("kernels", [True, False], ids=["kernels", "reading versions"])
def test_gradients_of_a_gpt(kernels: bool) -> None:
    model = gpt(vocabulary=5, context=3, channels=4, layers=1, dtype=np.float64)
    ids = np.array([[0, 3, 3], [1, 4, 2]])
    targets = np.array([[3, 3, 1], [4, 2, 0]])
    f, values = as_function(model, lambda: F.cross_entropy(model(ids), targets))
    with nullcontext() if kernels else mm.reference():
        check_grads(f, *values, modes=("directional",))


@pytest.mark.parametrize("kernels", [True, False], ids=["kernels", "reading versions"])
def test_gradients_of_a_bert(kernels: bool) -> None:
    model = bert(vocabulary=5, context=4, channels=4, layers=1, dtype=np.float64)
    ids, segments = np.array([[0, 3, 3, 1], [1, 4, 2, 2]]), np.array([[0, 0, 1, 1], [0, 1, 1, 0]])
    mask = np.array([[1, 1, 1, 1], [1, 1, 1, 0]], dtype=bool)
    targets = np.array([2, 0])
    f, values = as_function(model, lambda: F.cross_entropy(model(ids, segments, mask), targets))
    with nullcontext() if kernels else mm.reference():
        check_grads(f, *values, modes=("directional",))


@pytest.mark.parametrize("make", [gpt, bert])
def test_running_versions_agree_with_reading_versions(make: Any) -> None:
    model = make(dtype=np.float64)
    ids = RNG(1).integers(0, 11, (3, 9))
    results = []
    for context in (nullcontext(), mm.reference()):
        with context:
            model.zero_grad()
            out = model(ids)
            (out * out).sum().backward()
            results.append([out.data] + [p.grad for p in model.parameters()])
    for ours, formula in zip(*results, strict=True):
        np.testing.assert_allclose(ours, formula, rtol=1e-11, atol=1e-13 * abs(formula).max())


@pytest.mark.parametrize("make", [gpt, bert])
def test_the_same_seed_gives_the_same_bits(make: Any) -> None:
    ids = RNG(1).integers(0, 11, (3, 9))

    def run(seed: int) -> list[bytes]:
        model = make(seed, dropout=0.2)
        out = model(ids)
        out.sum().backward()
        return [out.data.tobytes()] + [p.grad.tobytes() for p in model.parameters()]

    assert run(0) == run(0)
    assert run(0) != run(1)


def test_every_parameter_gets_a_gradient() -> None:
    ids = RNG(1).integers(0, 11, (3, 9))
    for model in (gpt(), bert(), gpt(dropout=0.1), bert(dropout=0.1)):
        (model(ids) ** 2.0).sum().backward()
        for name, p in model.named_parameters():
            assert p.grad is not None, name
            assert p.grad.any(), name


def test_gpt_starts_as_gpt2() -> None:
    model = mm.models.GPT(
        vocabulary=64, context=64, channels=64, heads=4, layers=3, rng=RNG(0), dtype=np.float64
    )
    for name, p in model.named_parameters():
        if p.ndim == 2:
            into_stream = name.endswith(("attention.out.weight", "mlp.down.weight"))
            width = 0.02 / np.sqrt(6.0) if into_stream else 0.02
            assert p.data.std() == pytest.approx(width, rel=4.0 / np.sqrt(2 * p.size)), name
        else:
            assert (p.data == (1.0 if "norm" in name and name.endswith("weight") else 0.0)).all()
    loss = F.cross_entropy(model(RNG(1).integers(0, 64, (4, 64))), RNG(2).integers(0, 64, (4, 64)))
    assert float(loss) == pytest.approx(np.log(64.0), rel=0.02)  # it knows nothing yet


def test_bert_starts_as_bert() -> None:
    model = mm.models.BERT(
        vocabulary=64, context=64, channels=64, heads=4, layers=2, classes=2, rng=RNG(0),
        dtype=np.float64,
    )
    for name, p in model.named_parameters():
        if p.ndim == 2:
            assert p.data.std() == pytest.approx(0.02, rel=4.0 / np.sqrt(2 * p.size)), name
    for name, module in model.named_modules():
        if isinstance(module, Linear):
            assert module.bias is not None
            assert not module.bias.data.any(), name


def test_a_gpts_output_shares_the_token_embedding() -> None:
    model = gpt()
    names = [name for name, _ in model.named_parameters()]
    assert names[0] == "token.weight"
    assert not [name for name in names if "head" in name]
    # 2 embeddings, final norm; per block 2 norms, attention, feed-forward.
    per_block = 2 * 2 * 8 + (3 * 8 * 8 + 3 * 8) + (8 * 8 + 8) + (8 * 32 + 32) + (32 * 8 + 8)
    assert model.number_of_parameters() == (11 + 9) * 8 + 2 * 8 + 2 * per_block


def test_shapes_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match="GPT: ids has 10 positions, expected 1 to 9"):
        gpt()(np.zeros((1, 10), dtype=int))
    with pytest.raises(ValueError, match="BERT: ids has 10 positions, expected 1 to 9"):
        bert()(np.zeros((1, 10), dtype=int))
    with pytest.raises(ValueError, match=r"mask has shape \(2,\), expected \(1, 9\), as ids"):
        bert()(np.zeros((1, 9), dtype=int), mask=np.array([True, False]))
    with pytest.raises(ValueError, match=r"segments has shape \(1, 8\), expected \(1, 9\)"):
        bert()(np.zeros((1, 9), dtype=int), np.zeros((1, 8), dtype=int))
    with pytest.raises(ValueError, match="id 11 is outside"):
        gpt()(np.full((1, 4), 11))
    with pytest.raises(ValueError, match=r"MLP: widths is \(3,\)"):
        mm.models.MLP((3,), rng=RNG(0))
    with pytest.raises(ValueError, match="channels is 8, expected a multiple of 3, the number"):
        gpt(heads=3)


def test_bert_refuses_a_text_that_is_all_padding() -> None:
    mask = np.array([[True] * 9, [False] * 9])
    with pytest.raises(ValueError, match="nothing to look at"):
        bert()(np.zeros((2, 9), dtype=int), mask=mask)


def test_mlp() -> None:
    model = mm.models.MLP((3, 5, 4, 2), rng=RNG(0), activation="tanh", dtype=np.float64)
    x = RNG(1).standard_normal((6, 3))
    expected = x
    for layer in model.hidden:
        expected = np.tanh(expected @ layer.linear.weight.data.T + layer.linear.bias.data)
    expected = expected @ model.out.weight.data.T + model.out.bias.data
    np.testing.assert_allclose(model(mm.tensor(x)).data, expected, rtol=1e-12)
    f, values = as_function(model, lambda: (model(mm.tensor(x)) ** 2.0).sum())
    check_grads(f, *values)
    shallow = mm.models.MLP((3, 2), rng=RNG(0))
    assert [name for name, _ in shallow.named_parameters()] == ["out.weight", "out.bias"]


@pytest.mark.gpu
@pytest.mark.parametrize("make", [gpt, bert])
def test_on_a_gpu_the_same_to_rounding(make: Any) -> None:
    ids = RNG(1).integers(0, 11, (3, 9))
    results = []
    for device in ("cpu", "cuda"):
        model = make(dtype=np.float64, dropout=0.2).to(device)
        out = model(ids)
        (out * out).sum().backward()
        arrays = [out.data] + [p.grad for p in model.parameters()]
        results.append([mm.backend.to_host(array) for array in arrays])
    for cpu, cuda in zip(*results, strict=True):
        np.testing.assert_allclose(cuda, cpu, rtol=1e-9, atol=1e-11 * abs(cpu).max())
