"""The CUDA kernels of networks against the reading versions: in the emulator, and on a GPU."""

import numpy as np
import pytest

from minimono import reference
from minimono.engine import convolution
from minimono.engine import functional as F
from minimono.engine.tape import grad
from minimono.engine.tensor import Tensor
from minimono.kernels.gpu import (
    activations,
    attention,
    dropout,
    embedding,
    gru,
    linear,
    losses,
    norms,
    optim,
    pooling,
    softmax,
)
from minimono.kernels.gpu import convolution as windows
from minimono.nn.convolution import _memory_and_update, _new_state
from minimono.nn.optim import SGD, Adam, AdamW

DTYPES = [np.float32, np.float64]
SEEDS = (2, 3)  # other orders of threads and blocks


def held_to_reading(device, forward, backward, reading, arrays, *rest, rtol, atol=0.0, **options):
    """Value and gradients agree with the formula's, and not a bit depends on the order."""
    tensors = [Tensor(a, requires_grad=True) for a in arrays]
    with reference():
        expected = reading(*tensors, *rest, **options)
        g = np.random.default_rng(1).normal(size=expected.shape).astype(arrays[0].dtype)
        gradients = grad(
            lambda *a: (reading(*a, *rest, **options) * Tensor(g)).sum(), tuple(range(len(arrays)))
        )(*tensors)

    there = [device.array(a) for a in arrays]
    rest = [device.array(r) if isinstance(r, np.ndarray) else r for r in rest]
    needed = (True,) * len(there) + (False,) * len(rest)

    def run():
        out, kept = forward(*there, *rest, **options)
        gradients = backward(needed, device.array(g), out, kept, *there, *rest, **options)
        return [device.host(a) for a in (out, *gradients)]

    first = run()
    for one, other in zip(first, [expected, *gradients], strict=True):
        assert one.dtype == arrays[0].dtype
        assert one.shape == other.shape
        size = max(1.0, np.abs(other.data).max(initial=0.0))
        np.testing.assert_allclose(one, other.data, rtol=rtol, atol=max(rtol * size, atol))
    for seed in SEEDS:
        device.reorder(seed)
        for one, again in zip(first, run(), strict=True):
            assert one.tobytes() == again.tobytes()


def tolerance(dtype) -> float:
    return 40 * float(np.finfo(dtype).eps)


def rows(shape, dtype, seed=0):
    return np.random.default_rng(seed).normal(0.5, 2.0, size=shape).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu(device, dtype, approximate: str) -> None:
    x = np.linspace(-12.0, 12.0, 773).astype(dtype)
    rtol = tolerance(dtype)
    held_to_reading(
        device, activations.gelu_forward, activations.gelu_backward, F.gelu, [x],
        approximate=approximate, rtol=rtol,
    )
    far = device.array(np.array([-1e30, 1e30, np.nan], dtype))
    out, _ = activations.gelu_forward(far, approximate)
    np.testing.assert_array_equal(device.host(out), np.array([-0.0, 1e30, np.nan], dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["sigmoid", "silu"])
def test_sigmoid_and_silu(device, dtype, name: str) -> None:
    forward, backward = (getattr(activations, f"{name}_{way}") for way in ("forward", "backward"))
    x = np.linspace(-30.0, 30.0, 773).astype(dtype)
    held_to_reading(device, forward, backward, getattr(F, name), [x], rtol=tolerance(dtype))
    far = device.array(np.array([-1e30, 1e30, np.nan], dtype))
    expected = {"sigmoid": [0.0, 1.0, np.nan], "silu": [-0.0, 1e30, np.nan]}[name]
    np.testing.assert_array_equal(device.host(forward(far)[0]), np.array(expected, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_relu(device, dtype) -> None:
    x = np.array([[-1.0, 0.0, 2.0], [np.nan, -0.0, np.inf]], dtype)
    there = device.array(x).T
    out, kept = activations.relu_forward(there)
    np.testing.assert_array_equal(device.host(out), np.maximum(x.T, 0))
    ones = device.array(np.ones((3, 2), dtype))
    (gx,) = activations.relu_backward((True,), ones, out, kept, there)
    np.testing.assert_array_equal(device.host(gx).T, [[0, 0, 1], [1, 0, 1]])


@pytest.mark.parametrize("dtype", DTYPES)
def test_leaky_relu(device, dtype) -> None:
    x = np.array([[-1.0, 0.0, 2.0], [np.nan, -0.0, np.inf]], dtype)
    there, slope = device.array(x).T, dtype(0.2)
    out, kept = activations.leaky_relu_forward(there, 0.2)
    np.testing.assert_array_equal(device.host(out), np.where(x > 0, x, slope * x).T)
    ones = device.array(np.ones((3, 2), dtype))
    (gx,) = activations.leaky_relu_backward((True,), ones, out, kept, there, 0.2)
    np.testing.assert_array_equal(device.host(gx).T, np.where(x > 0, dtype(1), slope))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "axis"), [((3, 1), -1), ((2, 3, 37), 1), ((5, 700), -1)])
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax(device, dtype, shape, axis: int, name: str) -> None:
    forward, backward = (getattr(softmax, f"{name}_{way}") for way in ("forward", "backward"))
    held_to_reading(
        device, forward, backward, getattr(F, name), [rows(shape, dtype)], axis=axis,
        rtol=tolerance(dtype),
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (7, 33), (3, 5000)])
def test_cross_entropy(device, dtype, shape) -> None:
    targets = np.random.default_rng(2).integers(0, shape[1], shape[0])
    logits = 5.0 * rows(shape, dtype)
    held_to_reading(
        device, losses.mean_cross_entropy_forward, losses.mean_cross_entropy_backward,
        F._mean_cross_entropy, [logits], targets, rtol=2 * tolerance(dtype),
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (4, 3, 31), (600, 33), (3, 1025)])
def test_layer_norm(device, dtype, shape) -> None:
    arrays = [rows(shape, dtype), rows(shape[-1:], dtype, 1), rows(shape[-1:], dtype, 2)]
    held_to_reading(
        device, norms.layer_norm_forward, norms.layer_norm_backward, F.layer_norm, arrays,
        rtol=2 * tolerance(dtype),
    )
    held_to_reading(
        device, norms.rms_norm_forward, norms.rms_norm_backward, F.rms_norm, arrays[:2],
        rtol=2 * tolerance(dtype),
    )


def test_layer_norm_names_a_wrong_shape() -> None:
    with pytest.raises(ValueError, match=r"weight has shape \(3,\), x has 4 channels"):
        norms.layer_norm_forward(np.ones((2, 4)), np.ones(3), np.ones(4))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 40, 2, 5), (1, 65, 1, 64)])
@pytest.mark.parametrize(("is_causal", "masked"), [(False, False), (True, False), (True, True)])
def test_attention(device, dtype, shape, is_causal: bool, masked: bool) -> None:
    B, T, H, D = shape
    visible = None
    if masked:
        visible = np.random.default_rng(3).random((B, T)) < 0.5
        visible[:, 0] = True
    held_to_reading(
        device, attention.packed_attention_forward, attention.packed_attention_backward,
        F._packed_attention,
        [rows((B, T, 3, H, D), dtype)], visible, is_causal, rtol=20 * tolerance(dtype),
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_attention_where_whole_tiles_are_hidden(device, dtype) -> None:
    """The first keys seen come late; where none is seen at all the answer is nan."""
    qkv = rows((2, 70, 3, 1, 4), dtype)
    visible = np.zeros((2, 70), bool)
    visible[0, 66:] = True
    there = device.array(qkv)
    out, _ = attention.packed_attention_forward(there, device.array(visible), False)
    with reference():
        expected = F._packed_attention(Tensor(qkv[:1]), visible[:1], False).data
    np.testing.assert_allclose(device.host(out)[:1], expected, rtol=10 * tolerance(dtype))
    assert np.isnan(device.host(out)[1]).all()
    for a in attention.packed_attention_forward(1e4 * there, None, True):
        assert np.isfinite(device.host(a)).all()  # no overflow


def test_attention_tiles_fit() -> None:
    assert attention.tile_for(64, 4) == 32
    assert attention.tile_for(128, 4) == 16
    widest = attention.SHARED // (4 * 8 * 4) - 6
    assert attention.tile_for(widest, 4) == 8
    with pytest.raises(ValueError, match=f"takes at most {widest} of 32 bits"):
        attention.tile_for(widest + 1, 4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_embedding(device, dtype) -> None:
    weight = rows((9, 70), dtype)
    ids = np.array([[3, 0, 3, 8], [3, 0, 1, 3]])
    held_to_reading(
        device, embedding.rows_by_number_forward, embedding.rows_by_number_backward,
        F._rows_by_number, [weight], ids, rtol=tolerance(dtype),
    )


def test_scatter_add_keeps_what_is_there(device) -> None:
    target = device.array(np.ones((4, 2)))
    ids, values = np.array([2, 2, 0]), np.arange(6.0).reshape(3, 2)
    embedding.scatter_add_rows(target, device.array(ids), device.array(values))
    assert device.host(target).tolist() == [[5, 6], [1, 1], [3, 5], [1, 1]]
    embedding.scatter_add_rows(target, device.array(ids[:0]), device.array(values[:0]))
    assert device.host(target).tolist() == [[5, 6], [1, 1], [3, 5], [1, 1]]


@pytest.mark.parametrize("index", [np.array([[2, 0], [2, 2]]), (slice(0, 2), [1, 1]), 3])
def test_scatter_add_of_any_index(device, index) -> None:
    expected = rows((4, 3, 2), "d")
    values = rows(expected[index].shape, "d", 1)
    targets = [device.array(expected.copy()), device.array(expected.T.copy()).T]
    np.add.at(expected, index, values)
    there = device.array(index) if isinstance(index, np.ndarray) else index
    for target in targets:
        embedding.scatter_add(target, there, device.array(values))
        np.testing.assert_allclose(device.host(target), expected, rtol=1e-14)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dropout(device, dtype) -> None:
    x = rows((3, 50), dtype)
    keep = np.random.default_rng(4).random(x.shape) < 0.7
    held_to_reading(
        device, dropout.dropped_forward, dropout.dropped_backward, F._dropped, [x], keep, 1.0 / 0.7,
        rtol=tolerance(dtype),
    )


CONVOLUTIONS = [  # x, weight, stride, padding
    ((1, 1, 1, 1), (1, 1, 1, 1), (1, 1), (0, 0)),
    ((2, 3, 7, 5), (4, 3, 3, 3), (1, 1), (1, 1)),
    ((3, 2, 9, 8), (5, 2, 4, 3), (2, 3), (1, 0)),
    ((1, 2, 5, 9), (2, 2, 1, 2), (2, 4), (0, 1)),  # pixels that no window holds
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "size", "stride", "padding"), CONVOLUTIONS)
def test_convolution(device, dtype, shape, size, stride, padding) -> None:
    arrays = [rows(shape, dtype), rows(size, dtype, 1), rows(size[:1], dtype, 2)]
    rtol = 2 * tolerance(dtype)
    held_to_reading(
        device, windows.convolved_forward, windows.convolved_backward,
        convolution._convolved, arrays, stride, padding, rtol=rtol,
    )
    small = convolution.conv2d(*map(Tensor, arrays), stride=stride, padding=padding).data
    held_to_reading(
        device, windows.laid_down_forward, windows.laid_down_backward,
        convolution._laid_down, [small, arrays[1], rows(size[1:2], dtype, 3)], stride, padding,
        rtol=rtol,
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("size", "stride", "padding"), [
    ((1, 1), (1, 1), (0, 0)), ((3, 3), (2, 2), (1, 1)), ((4, 2), (1, 3), (2, 0)),
])
def test_max_pooling(device, dtype, size, stride, padding) -> None:
    x = np.random.default_rng(0).integers(-2, 3, size=(2, 3, 6, 7)).astype(dtype)  # with ties
    reading = convolution._largest_in_windows
    held_to_reading(
        device, pooling.largest_in_windows_forward, pooling.largest_in_windows_backward, reading,
        [x], size, stride, padding, rtol=tolerance(dtype),
    )
    special = np.select([x == 1, x < 1], [np.nan, -np.inf], x).astype(dtype)
    out, _ = pooling.largest_in_windows_forward(device.array(special), size, stride, padding)
    with reference():
        expected = reading(Tensor(special), size, stride, padding).data
    np.testing.assert_array_equal(device.host(out), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (3, 6, 5, 7), (0, 3, 2, 2)])
def test_gates_of_a_recurrent_cell(device, dtype, shape) -> None:
    forward, backward = gru.memory_and_update_forward, gru.memory_and_update_backward
    terms = [rows(shape, dtype), rows(shape, dtype, 1)]
    rtol = tolerance(dtype)
    held_to_reading(device, forward, backward, _memory_and_update, terms, 0.2, rtol=rtol)
    held_to_reading(
        device,
        lambda h, slope: forward(None, h, slope),
        lambda needed, g, out, kept, h, slope: backward(
            (False, *needed), g, out, kept, None, h, slope
        )[1:],
        lambda h, slope: _memory_and_update(None, h, slope), terms[1:], 0.2, rtol=rtol,
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_gates_far_out(device, dtype) -> None:
    terms = np.zeros((1, 3, 1, 5), dtype)
    terms[0, 1, 0] = [-np.inf, -1e30, 1e30, np.inf, np.nan]
    out, _ = gru.memory_and_update_forward(None, device.array(terms), 0.2)
    np.testing.assert_array_equal(device.host(out)[1, 0, 0, 0], [0, 0, 1, 1, np.nan])


@pytest.mark.parametrize("dtype", DTYPES)
def test_new_state_of_a_recurrent_cell(device, dtype) -> None:
    arrays = [rows((3, 2, 5, 7), dtype, seed) for seed in range(3)]
    held_to_reading(
        device, gru.new_state_forward, gru.new_state_backward, _new_state, arrays,
        rtol=tolerance(dtype),
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", [Adam, AdamW])
def test_adam(device, dtype, kind) -> None:
    p = Tensor(rows((3, 11), dtype), requires_grad=True)
    optimiser = kind([p], lr=0.1, weight_decay=0.3)
    ours, m, v = (device.array(a) for a in (p.data.copy(), np.zeros_like(p.data), 0 * p.data))
    decay, l2 = (0.3, 0.0) if kind is AdamW else (0.0, 0.3)
    for t in range(1, 4):
        p.grad = rows(p.shape, dtype, t)
        with reference():
            optimiser.step()
        numbers = [0.1, 0.9, 0.999, 1e-8, decay, l2, 1 - 0.9**t, 1 - 0.999**t]
        arrays = [ours, device.array(p.grad), m, v]
        ours, m, v = optim.update(optim.adam_kernel, arrays, numbers)
        close(device.host(ours), p.data, tolerance(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd(device, dtype, momentum: float) -> None:
    p = Tensor(rows((3, 11), dtype), requires_grad=True)
    optimiser = SGD([p], lr=0.1, momentum=momentum, weight_decay=0.3)
    ours, b = device.array(p.data.copy()), device.array(np.zeros_like(p.data))
    for t in range(1, 4):
        p.grad = rows(p.shape, dtype, t)
        with reference():
            optimiser.step()
        g = device.array(p.grad)
        if momentum:
            arrays, numbers = [ours, g, b], [0.1, 0.3, momentum]
            ours, b = optim.update(optim.sgd_momentum_kernel, arrays, numbers)
        else:
            (ours,) = optim.update(optim.sgd_kernel, [ours, g], [0.1, 0.3])
        close(device.host(ours), p.data, tolerance(dtype))


def close(one, other, tolerance: float) -> None:
    np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [0, 1, 3000])
def test_sum_of_squares(device, monkeypatch, dtype, size: int) -> None:
    monkeypatch.setattr(optim, "MOST_SUMS", 5)
    x = rows((size, 2), dtype)
    found = []
    for seed in SEEDS:
        device.reorder(seed)
        found.append(device.host(optim.sum_of_squares(device.array(x))))
    np.testing.assert_allclose(found[0], (x.astype(float) ** 2).sum(), rtol=1e-13)
    assert found[0].tobytes() == found[1].tobytes()


def test_linear_is_the_libraries_product() -> None:
    x, weight, bias = rows((2, 3, 5), "d"), rows((4, 5), "d"), rows((4,), "d")
    out, _ = linear.linear_forward(x, weight, bias)
    np.testing.assert_allclose(out, x @ weight.T + bias, rtol=1e-12)


@pytest.mark.parametrize(
    ("dtype", "size"),
    [(np.float32, 1e20), (np.float32, 1e-30), (np.float64, 1e200), (np.float64, 1e-200)],
)
def test_layer_norm_of_rows_of_any_size(device, dtype, size: float) -> None:
    x = (np.array([[-2.0, -1.0, 1.0, 2.0], [1.0, -1.0, 3.0, 5.0]]) * size).astype(dtype)
    weight, bias = np.ones(4, dtype), np.zeros(4, dtype)
    g = (np.array([[0.3, -1.0, 0.5, 0.7]] * 2) * min(size, 1e30)).astype(dtype)
    there = [device.array(a) for a in (x, weight, bias)]
    out, kept = norms.layer_norm_forward(*there, 0.0)
    gradients = norms.layer_norm_backward((True,) * 3, device.array(g), out, kept, *there, 0.0)
    leaves = [Tensor(a, requires_grad=True) for a in (x, weight, bias)]
    with reference():
        expected = F.layer_norm(*leaves, eps=0.0)
        expected.backward(g)
    right = (expected.data, *(a.grad for a in leaves))
    for ours, other in zip((out, *gradients), right, strict=True):
        scale = np.abs(other).max()
        np.testing.assert_allclose(
            device.host(ours), other, rtol=tolerance(dtype), atol=tolerance(dtype) * scale
        )


def test_attention_keeps_what_large_scores_leave(device) -> None:
    """As test_extremes.py in tests/engine: scores near 20,000, which float32 holds exactly."""
    rng = np.random.default_rng(3)
    qkv = rng.integers(-2, 3, (1, 20, 3, 1, 4)) / 2.0
    qkv[0, :, 0, 0, 0], qkv[0, :, 1, 0, 0] = 2.0, 20_000.0
    cotangent = rng.standard_normal((1, 20, 1, 4))
    leaf = Tensor(qkv, requires_grad=True)
    with reference():
        F.self_attention(leaf).backward(cotangent)
    there = device.array(qkv.astype(np.float32))
    out, kept = attention.packed_attention_forward(there, None, False)
    g = device.array(cotangent.astype(np.float32))
    (found,) = attention.packed_attention_backward((True,), g, out, kept, there, None, False)
    found, right = device.host(found), leaf.grad
    np.testing.assert_allclose(found[:, :, 1:], right[:, :, 1:], atol=5e-6)
    np.testing.assert_allclose(found[:, :, 0, :, 1:], right[:, :, 0, :, 1:], atol=5e-6)


def test_scatter_add_of_many_to_one_place(device) -> None:
    target, n = device.array(np.zeros((1, 2))), 100_000
    ids, values = np.zeros(n, int), np.full((n, 2), 0.1)
    embedding.scatter_add_rows(target, device.array(ids), device.array(values))
    np.testing.assert_allclose(device.host(target), 0.1 * n, rtol=1e-15)
