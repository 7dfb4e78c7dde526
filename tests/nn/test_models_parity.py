"""GPT and BERT against the same networks in plain PyTorch, float64: loss and every gradient."""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest

import minimono as mm
from minimono.engine import functional as F

pytestmark = pytest.mark.parity

V, T, C, H, LAYERS, B = 13, 10, 12, 3, 2, 4


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch")


def start(model: Any) -> dict[str, Any]:
    """Spread the weights, so that no part of the network is nearly linear or nearly zero."""
    rng = np.random.default_rng(3)
    for _, p in model.named_parameters():
        p.data = p.data + 0.3 * rng.standard_normal(p.shape)
    return {name: p.data for name, p in model.named_parameters()}


def leaves(torch: Any, weights: dict[str, Any]) -> dict[str, Any]:
    return {name: torch.tensor(w, requires_grad=True) for name, w in weights.items()}


def attention(torch: Any, w: dict[str, Any], name: str, x: Any, **options: Any) -> Any:
    f = torch.nn.functional
    batch, length, _ = x.shape
    qkv = f.linear(x, w[f"{name}.qkv.weight"], w[f"{name}.qkv.bias"])
    q, k, v = (
        part.reshape(batch, length, H, C // H).transpose(1, 2) for part in qkv.chunk(3, dim=-1)
    )
    mixed = f.scaled_dot_product_attention(q, k, v, **options)
    mixed = mixed.transpose(1, 2).reshape(batch, length, C)
    return f.linear(mixed, w[f"{name}.out.weight"], w[f"{name}.out.bias"])


def feed_forward(torch: Any, w: dict[str, Any], name: str, x: Any, approximate: str) -> Any:
    f = torch.nn.functional
    hidden = f.linear(x, w[f"{name}.up.weight"], w[f"{name}.up.bias"])
    hidden = f.gelu(hidden, approximate=approximate)
    return f.linear(hidden, w[f"{name}.down.weight"], w[f"{name}.down.bias"])


def norm(torch: Any, w: dict[str, Any], name: str, x: Any, eps: float) -> Any:
    weight, bias = w[f"{name}.weight"], w[f"{name}.bias"]
    return torch.nn.functional.layer_norm(x, (C,), weight, bias, eps=eps)


def torch_gpt(torch: Any, w: dict[str, Any], ids: Any) -> Any:
    x = w["token.weight"][ids] + w["position.weight"][: ids.shape[1]]
    for i in range(LAYERS):
        b = f"block.{i}"
        x = x + attention(
            torch, w, f"{b}.attention", norm(torch, w, f"{b}.norm1", x, 1e-5), is_causal=True
        )
        x = x + feed_forward(torch, w, f"{b}.mlp", norm(torch, w, f"{b}.norm2", x, 1e-5), "tanh")
    return norm(torch, w, "norm", x, 1e-5) @ w["token.weight"].T


def torch_bert(torch: Any, w: dict[str, Any], ids: Any, segments: Any, mask: Any) -> Any:
    x = w["token.weight"][ids] + w["position.weight"][: ids.shape[1]]
    x = x + w["segment.weight"][segments]
    x = norm(torch, w, "norm", x, 1e-12)
    for i in range(LAYERS):
        b = f"block.{i}"
        mixed = attention(torch, w, f"{b}.attention", x, attn_mask=mask[:, None, None, :])
        x = norm(torch, w, f"{b}.norm1", x + mixed, 1e-12)
        x = norm(torch, w, f"{b}.norm2", x + feed_forward(torch, w, f"{b}.mlp", x, "none"), 1e-12)
    f = torch.nn.functional
    pooled = torch.tanh(f.linear(x[:, 0], w["pooler.weight"], w["pooler.bias"]))
    return f.linear(pooled, w["classifier.weight"], w["classifier.bias"])


def compare(model: Any, loss: mm.Tensor, w: dict[str, Any], torch_loss: Any) -> None:
    assert float(loss) == pytest.approx(torch_loss.item(), rel=1e-10)
    model.zero_grad()
    loss.backward()
    torch_loss.backward()
    assert {*w} == {name for name, _ in model.named_parameters()}
    for name, p in model.named_parameters():
        theirs = w[name].grad.numpy()
        np.testing.assert_allclose(
            p.grad, theirs, rtol=1e-10, atol=1e-10 * abs(theirs).max(), err_msg=name
        )


@pytest.fixture(params=[True, False], ids=["kernels", "reading versions"])
def kernels(request: pytest.FixtureRequest) -> Iterator[None]:
    with nullcontext() if request.param else mm.reference():
        yield


@pytest.mark.usefixtures("kernels")
def test_gpt(torch: Any) -> None:
    model = mm.models.GPT(
        vocabulary=V, context=T, channels=C, heads=H, layers=LAYERS,
        rng=np.random.default_rng(0), dtype=np.float64,
    )
    w = leaves(torch, start(model))
    rng = np.random.default_rng(1)
    ids, targets = rng.integers(0, V, (B, T)), rng.integers(0, V, (B, T))
    logits = torch_gpt(torch, w, torch.tensor(ids)).reshape(-1, V)
    torch_loss = torch.nn.functional.cross_entropy(logits, torch.tensor(targets).reshape(-1))
    compare(model, F.cross_entropy(model(ids), targets), w, torch_loss)


@pytest.mark.usefixtures("kernels")
def test_bert(torch: Any) -> None:
    model = mm.models.BERT(
        vocabulary=V, context=T, channels=C, heads=H, layers=LAYERS, classes=4,
        rng=np.random.default_rng(0), dtype=np.float64,
    )
    w = leaves(torch, start(model))
    rng = np.random.default_rng(1)
    ids, segments = rng.integers(0, V, (B, T)), rng.integers(0, 2, (B, T))
    mask, targets = np.arange(T) < np.array([[10], [7], [4], [1]]), rng.integers(0, 4, B)
    logits = torch_bert(torch, w, *map(torch.tensor, (ids, segments, mask)))
    torch_loss = torch.nn.functional.cross_entropy(logits, torch.tensor(targets))
    compare(model, F.cross_entropy(model(ids, segments, mask), targets), w, torch_loss)
