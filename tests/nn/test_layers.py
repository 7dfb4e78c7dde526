"""Layers against their formulas, written out in NumPy with loops where a loop is clearer."""

import math

import numpy as np
import pytest

import minimono as mm
from minimono.nn import (
    Activation,
    Dropout,
    Embedding,
    FeedForward,
    LayerNorm,
    Linear,
    MultiHeadAttention,
    RMSNorm,
)

RNG = np.random.default_rng


def normal(*shape: int, seed: int = 0) -> mm.Tensor:
    return mm.tensor(RNG(seed).standard_normal(shape))


def test_linear() -> None:
    layer = Linear(5, 3, rng=RNG(0), dtype=np.float64)
    x = normal(2, 4, 5)
    out = layer(x)
    for b, t in np.ndindex(2, 4):
        expected = layer.weight.data @ x.data[b, t] + layer.bias.data
        np.testing.assert_allclose(out.data[b, t], expected, rtol=1e-13)
    assert Linear(5, 3, rng=RNG(0), bias=False).bias is None


def test_linear_starts_as_in_pytorch() -> None:
    layer = Linear(25, 400, rng=RNG(0), dtype=np.float64)
    for p in layer.parameters():
        assert abs(p.data).max() <= 0.2
        # Uniform in +-0.2: the standard deviation is 0.2 / sqrt 3, give or take four of its own.
        assert p.data.std() == pytest.approx(0.2 / math.sqrt(3.0), rel=4.0 / math.sqrt(p.size))


def test_embedding_looks_rows_up_and_adds_their_gradients() -> None:
    layer = Embedding(6, 4, rng=RNG(0), dtype=np.float64)
    ids = np.array([[1, 1], [5, 0]])
    out = layer(ids)
    np.testing.assert_array_equal(out.data, layer.weight.data[ids])
    out.sum().backward()
    np.testing.assert_array_equal(layer.weight.grad[:, 0], [1.0, 2.0, 0.0, 0.0, 0.0, 1.0])
    for wrong in (-1, 6):
        with pytest.raises(ValueError, match=rf"id {wrong} is outside 0\.\.5"):
            layer(np.array([[wrong]]))
    with pytest.raises(TypeError, match="expected integers"):
        layer(np.array([[1.0]]))


@pytest.mark.parametrize("eps", [1e-5, 1e-12, 0.5])
def test_norms(eps: float) -> None:
    x = normal(3, 4, 7)
    layer, rms = LayerNorm(7, eps=eps, dtype=np.float64), RMSNorm(7, eps=eps, dtype=np.float64)
    for p in (layer.weight, layer.bias, rms.weight):
        p.data = RNG(1).standard_normal(7)
    centred = x.data - x.data.mean(axis=-1, keepdims=True)
    deviation = np.sqrt(x.data.var(axis=-1, keepdims=True) + eps)
    expected = centred / deviation * layer.weight.data + layer.bias.data
    np.testing.assert_allclose(layer(x).data, expected, rtol=1e-12, atol=1e-13)
    root = np.sqrt((x.data**2).mean(axis=-1, keepdims=True) + eps)
    np.testing.assert_allclose(rms(x).data, x.data / root * rms.weight.data, rtol=1e-12)


def test_activations() -> None:
    x = mm.tensor([-2.0, 0.0, 3.0])
    for name, expected in {
        "relu": [0.0, 0.0, 3.0],
        "tanh": np.tanh(x.data),
        "sigmoid": 1.0 / (1.0 + np.exp(-x.data)),
        "silu": x.data / (1.0 + np.exp(-x.data)),
        "gelu": [v * 0.5 * (1.0 + math.erf(v / math.sqrt(2.0))) for v in x.data],
        "gelu_tanh": 0.5 * x.data
        * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x.data + 0.044715 * x.data**3))),
    }.items():
        np.testing.assert_allclose(Activation(name)(x).data, expected, rtol=1e-13, atol=1e-15)
    with pytest.raises(ValueError, match="'swish', expected \"relu\", "):
        Activation("swish")


@pytest.mark.parametrize("bias", [True, False])
def test_relu_after_a_linear_layer_is_one_operation_with_the_same_bits(bias: bool) -> None:
    linear, relu = Linear(5, 130, rng=0, bias=bias), Activation("relu")
    rng = np.random.default_rng(1)
    x, g = rng.standard_normal((200, 5)), rng.standard_normal((200, 130))
    found = []
    for form in (relu.after, lambda layer, x: relu(layer(x))):
        variable = mm.tensor(x, dtype="float32", requires_grad=True)
        out = form(linear, variable)
        linear.zero_grad()
        out.backward(g)
        assert out.origin is not None
        found.append((out.origin.operation.name, out.data, variable.grad, linear.weight.grad,
                      None if linear.bias is None else linear.bias.grad))
    (one, *ours), (other, *apart) = found
    assert (one, other) == ("linear_relu", "relu")
    for a, b in zip(ours, apart, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_float64_batch_goes_through_the_kernel_of_a_float32_layer_in_float64() -> None:
    """All meet in float64, and the gradients are rounded to the parameters' dtype once."""
    layer, relu = Linear(5, 7, rng=0), Activation("relu")
    rng = np.random.default_rng(1)
    x, g = rng.standard_normal((150, 5)), rng.standard_normal((150, 7))
    for batch in (x, mm.tensor(x)):
        layer.zero_grad()
        out = relu.after(layer, batch)
        assert out.origin is not None
        assert out.origin.operation.name == "linear_relu"
        out.backward(g)
        assert layer.bias is not None
        W, b = layer.weight.data.astype(np.float64), layer.bias.data.astype(np.float64)
        before = x @ W.T + b
        through = np.where(before > 0.0, g, 0.0)
        np.testing.assert_allclose(out.data, np.maximum(before, 0.0), rtol=0.0, atol=1e-14)
        for p, expected in ((layer.weight, through.T @ x), (layer.bias, through.sum(axis=0))):
            assert p.grad is not None
            assert p.grad.dtype == np.float32
            np.testing.assert_allclose(p.grad, expected, rtol=6e-8, atol=1e-12)


def test_relu_after_another_kind_of_linear_layer_calls_it() -> None:
    class Doubled(Linear):
        def forward(self, x: mm.Tensor) -> mm.Tensor:
            return 2.0 * super().forward(x)

    layer, x = Doubled(3, 4, rng=0), mm.tensor(np.ones((2, 3)), dtype="float32")
    out = Activation("relu").after(layer, x)
    np.testing.assert_array_equal(out.data, np.maximum(layer(x).data, 0.0))


def test_dropout_drops_a_fraction_and_keeps_the_expectation() -> None:
    layer = Dropout(0.25, rng=RNG(0))
    x = mm.tensor(np.ones((400, 100)), dtype=np.float32)
    out = layer(x).data
    assert out.dtype == np.float32
    assert set(np.unique(out)) == {np.float32(0.0), np.float32(1.0 / 0.75)}
    # 40,000 coins: four standard deviations of the fraction dropped.
    assert (out == 0.0).mean() == pytest.approx(0.25, abs=4.0 * math.sqrt(0.25 * 0.75 / 40_000))
    assert layer.eval()(x) is x


def test_dropout_saves_its_generator() -> None:
    layer, other = Dropout(0.5, rng=RNG(0)), Dropout(0.5, rng=RNG(1))
    x = mm.tensor(np.ones(50))
    layer(x)
    other.load_state_dict(layer.state_dict())
    np.testing.assert_array_equal(layer(x).data, other(x).data)
    assert Dropout(0.0, rng=RNG(0)).state_dict() == {}
    with pytest.raises(ValueError, match="generator state cannot be read"):
        other.load_state_dict({"rng": np.array([1, 2, 3], dtype=np.uint8)})


@pytest.mark.parametrize("p", [-0.1, 1.0, math.nan])
def test_dropout_refuses_what_is_no_probability(p: float) -> None:
    with pytest.raises(ValueError, match="expected 0 <= p < 1"):
        Dropout(p, rng=RNG(0))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_attention_by_hand(causal: bool, padded: bool) -> None:
    B, T, C, H = 2, 5, 6, 3
    D = C // H
    layer = MultiHeadAttention(C, H, rng=RNG(0), causal=causal, dtype=np.float64)
    x = normal(B, T, C)
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 1, 0]], dtype=bool) if padded else None
    out = layer(x, mask)
    for b in range(B):
        q, k, v = np.split(x.data[b] @ layer.qkv.weight.data.T + layer.qkv.bias.data, 3, axis=1)
        mixed = np.zeros((T, C))
        for h in range(H):
            channels = slice(h * D, (h + 1) * D)
            for t in range(T):
                visible = [
                    s
                    for s in range(T)
                    if (not causal or s <= t) and (mask is None or mask[b, s])
                ]
                e = [math.exp(q[t, channels] @ k[s, channels] / math.sqrt(D)) for s in visible]
                weighted = [w / sum(e) * v[s, channels] for w, s in zip(e, visible, strict=True)]
                mixed[t, channels] = sum(weighted)
        expected = mixed @ layer.out.weight.data.T + layer.out.bias.data
        np.testing.assert_allclose(out.data[b], expected, rtol=1e-12, atol=1e-14)


def test_attention_needs_whole_heads() -> None:
    with pytest.raises(ValueError, match="channels is 6, expected a multiple of 4, the number"):
        MultiHeadAttention(6, 4, rng=RNG(0))


def test_feed_forward() -> None:
    layer = FeedForward(4, 9, rng=RNG(0), activation="relu", dtype=np.float64)
    x = normal(2, 3, 4)
    with mm.nn.taps.read(layer, "act") as seen:
        out = layer(x)
    hidden = np.maximum(x.data @ layer.up.weight.data.T + layer.up.bias.data, 0.0)
    np.testing.assert_allclose(seen["act"].data, hidden, rtol=1e-13, atol=1e-15)
    expected = hidden @ layer.down.weight.data.T + layer.down.bias.data
    np.testing.assert_allclose(out.data, expected, rtol=1e-12, atol=1e-14)


def test_float32_stays_float32_forward_and_back() -> None:
    x = mm.tensor(np.ones((2, 3, 4)), dtype=np.float32)
    for layer in (
        Linear(4, 3, rng=RNG(0)),
        LayerNorm(4),
        RMSNorm(4),
        MultiHeadAttention(4, 2, rng=RNG(0), causal=True, dropout=0.5),
        FeedForward(4, 8, rng=RNG(0), activation="gelu", dropout=0.5),
    ):
        out = layer(x)
        assert out.dtype == np.float32
        out.sum().backward()
        for name, p in layer.named_parameters():
            assert (p.dtype, p.grad.dtype) == (np.float32, np.float32), name
