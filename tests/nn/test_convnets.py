"""ConvNet, ConvGRU, ViT and their layers: closed forms, PyTorch, seeds, taps, bad input."""

import math
from typing import Any

import numpy as np
import pytest

import minimono as mm
from minimono import functional as F
from minimono.engine.tensor import Tensor, tensor
from minimono.gradcheck import check_grads
from minimono.mono import MEmeL
from minimono.nn import AvgPool2d, Conv2d, ConvGRUCell, ConvTranspose2d, MaxPool2d, Module, taps
from minimono.nn.models import ConvGRU, ConvNet, ViT
from minimono.nn.models.vit import WindowAttention
from minimono.nn.training import train


def seeded(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def conv_net(seed: int = 0, dtype: Any = np.float32) -> ConvNet:
    return ConvNet(image=(2, 8, 8), channels=(3, 5), classes=4, rng=seeded(seed), dtype=dtype)


def conv_gru(seed: int = 0, dtype: Any = np.float32) -> ConvGRU:
    return ConvGRU(channels=(3, 4), strides=(2, 2), frames_out=2, rng=seeded(seed), dtype=dtype)


def vit(seed: int = 0, dtype: Any = np.float32) -> ViT:
    return ViT(
        image=(2, 8, 8), patch=2, window=2, channels=8, heads=2, layers=2, classes=4,
        rng=seeded(seed), dtype=dtype,
    )


MODELS: list[Any] = [conv_net, conv_gru, vit]
SHAPES = {"conv_net": (3, 2, 8, 8), "conv_gru": (3, 2, 8, 8), "vit": (3, 2, 8, 8)}


# ---- all three ---------------------------------------------------------------------------------


@pytest.mark.parametrize("make", MODELS)
def test_one_seed_gives_the_same_bits_and_another_does_not(make: Any) -> None:
    x = tensor(seeded(7).standard_normal(SHAPES[make.__name__]).astype(np.float32))

    def run(seed: int) -> list[bytes]:
        model = make(seed)
        out = model(x)
        (out * out).mean().backward()
        return [out.data.tobytes(), *(p.grad.tobytes() for p in model.parameters())]

    assert run(0) == run(0)
    assert run(0)[0] != run(1)[0]


@pytest.mark.parametrize("make", MODELS)
def test_float32_stays_float32_and_every_parameter_learns(make: Any) -> None:
    model = make()
    out = model(tensor(seeded(7).standard_normal(SHAPES[make.__name__]).astype(np.float32)))
    (out * out).mean().backward()
    assert out.dtype == np.float32
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert p.grad.dtype == np.float32, name
        assert abs(p.grad).max() > 0.0, name


@pytest.mark.parametrize("make", MODELS)
def test_gradients_of_the_whole_network(make: Any) -> None:
    # Along one direction of all parameters at once, by differences.
    model, rng = make(dtype=np.float64), seeded(3)
    x = tensor(rng.standard_normal(SHAPES[make.__name__]))
    parameters = model.parameters()
    start = [p.data for p in parameters]
    ways = [rng.standard_normal(p.shape) for p in parameters]

    def loss(step: float) -> Tensor:
        for p, at, way in zip(parameters, start, ways, strict=True):
            p.data = at + step * way
        return F.tanh(model(x)).sum()

    loss(0.0).backward()
    slope = sum((p.grad * way).sum() for p, way in zip(parameters, ways, strict=True))
    h = 1e-6
    assert (loss(h).item() - loss(-h).item()) / (2.0 * h) == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (conv_net, ["stage.0.act", "stage.0.out", "stage.1.act", "stage.1.out"]),
        (
            conv_gru,
            [
                "encoder.0.act", "encoder.0.cell.candidate",
                "encoder.1.act", "encoder.1.cell.candidate",
                "forecaster.0.cell.candidate", "forecaster.0.act",
                "forecaster.1.cell.candidate", "forecaster.1.act",
            ],
        ),
        (
            vit,
            [
                "embedded", "block.0.mlp.act", "block.0.out", "block.1.mlp.act", "block.1.out",
                "normed",
            ],
        ),
    ],
)
def test_taps_have_their_names_and_meet_an_activation(make: Any, names: list[str]) -> None:
    model = make()
    assert taps.names(model) == names
    with taps.read(model) as seen:
        model(tensor(np.ones(SHAPES[make.__name__], np.float32)))
    assert set(seen) == set(names)


@pytest.mark.parametrize(
    ("make", "tap"),
    [
        (conv_net, "stage.0.act"),
        (conv_gru, "encoder.1.cell.candidate"),
        (vit, "block.1.mlp.act"),
    ],
)
def test_inhibition_works_in_training_and_not_in_evaluation(make: Any, tap: str) -> None:
    x = tensor(seeded(7).standard_normal(SHAPES[make.__name__]).astype(np.float32))
    plain, treated = make(), make()
    inhibit = MEmeL(k=2, start_after=1)
    taps.insert(treated, tap, inhibit)
    for _ in range(2):
        out = treated(x)
    assert inhibit.last is not None
    assert (inhibit.last.flagged.reshape(3, -1).sum(axis=1) >= 2).all()
    (out * out).mean().backward()
    assert all(np.isfinite(p.grad).all() for p in treated.parameters() if p.grad is not None)
    np.testing.assert_array_equal(treated.eval()(x).data, plain.eval()(x).data)


# ---- layers ------------------------------------------------------------------------------------


def test_layers_start_as_pytorch_starts_them() -> None:
    conv = Conv2d(4, 8, (3, 5), rng=seeded())
    assert conv.weight.shape == (8, 4, 3, 5)
    assert conv.bias is not None
    bound = (4 * 3 * 5) ** -0.5
    assert 0.9 * bound < abs(conv.weight.data).max() <= bound
    up = ConvTranspose2d(4, 8, 3, rng=seeded(), bias=False)
    assert up.weight.shape == (4, 8, 3, 3)
    assert up.bias is None
    assert 0.9 * 72**-0.5 < abs(up.weight.data).max() <= 72**-0.5


def test_pooling_layers_pool() -> None:
    x = tensor(np.arange(16.0).reshape(1, 1, 4, 4))
    np.testing.assert_array_equal(MaxPool2d(2)(x).data[0, 0], [[5, 7], [13, 15]])
    np.testing.assert_array_equal(AvgPool2d(2)(x).data[0, 0], [[2.5, 4.5], [10.5, 12.5]])
    assert MaxPool2d(3, stride=1, padding=1)(x).shape == (1, 1, 4, 4)


# ---- the ConvGRU cell --------------------------------------------------------------------------


def test_a_cell_of_one_number_is_its_formula() -> None:
    cell = ConvGRUCell(1, 1, kernel_size=1, rng=seeded(4), dtype=np.float64)
    assert cell.from_input.bias is not None
    assert cell.from_state.bias is not None
    (w_r, w_z, w_h), (u_r, u_z, u_h) = (
        [float(v) for v in conv.weight.data.ravel()] for conv in (cell.from_input, cell.from_state)
    )
    (a_r, a_z, a_h), (b_r, b_z, b_h) = (
        [float(v) for v in conv.bias.data]  # type: ignore[union-attr]
        for conv in (cell.from_input, cell.from_state)
    )
    for x, h in ((0.7, -0.3), (-2.0, 1.5), (30.0, 0.1)):
        reset = 1 / (1 + math.exp(-(w_r * x + a_r + u_r * h + b_r)))
        update = 1 / (1 + math.exp(-(w_z * x + a_z + u_z * h + b_z)))
        memory = w_h * x + a_h + reset * (u_h * h + b_h)
        candidate = memory if memory > 0 else 0.2 * memory
        out = cell(tensor([[[[x]]]]), tensor([[[[h]]]]))
        assert out.item() == pytest.approx((1 - update) * candidate + update * h, rel=1e-14)


def test_the_candidate_is_read_and_replaced_before_the_gate() -> None:
    cell = ConvGRUCell(1, 2, rng=seeded(), dtype=np.float64)
    x, h = tensor(seeded(1).standard_normal((2, 1, 4, 4))), tensor(np.zeros((2, 2, 4, 4)))
    with taps.read(cell, "candidate") as seen:
        plain = cell(x, h).data
    share = plain / seen["candidate"].data  # 1 - Z, since H is 0
    assert ((share > 0.0) & (share < 1.0)).all()
    with taps.replace(cell, "candidate", lambda c: c * 0.0 + 3.0):
        np.testing.assert_allclose(cell(x, h).data, 3.0 * share, rtol=1e-13)


def test_an_open_update_gate_keeps_the_state_and_no_state_is_zeros() -> None:
    cell = ConvGRUCell(1, 2, rng=seeded(), dtype=np.float64)
    x, h = tensor(np.ones((1, 1, 4, 4))), tensor(seeded(1).standard_normal((1, 2, 4, 4)))
    np.testing.assert_array_equal(cell(x).data, cell(x, tensor(np.zeros((1, 2, 4, 4)))).data)
    assert cell.from_state.bias is not None
    cell.from_state.bias.data[2:4] = 1e3
    np.testing.assert_array_equal(cell(x, h).data, h.data)


def test_a_cell_is_differentiable_twice() -> None:
    cell, blind = (
        ConvGRUCell(n, 2, rng=seeded(5), dtype=np.float64) for n in (1, 0)
    )
    x, h = seeded(1).standard_normal((1, 1, 3, 3)), seeded(2).standard_normal((1, 2, 3, 3))
    check_grads(cell, x, h, order=2)
    check_grads(lambda h: blind(None, h), h, order=2)


# ---- windows -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("window", "shift"), [(2, 0), (2, 1), (4, 2), (3, 1), (4, 0)])
def test_window_attention_is_attention_among_those_in_one_window(window: int, shift: int) -> None:
    grid = (6, 6) if window == 3 else (4, 8)
    layer = WindowAttention(4, 2, grid, window, shift=shift, rng=seeded(), dtype=np.float64)
    x = tensor(seeded(1).standard_normal((3, grid[0] * grid[1], 4)))
    # Swin turns the grid back by the shift, so windows begin at shift, shift + window, ...
    place_y, place_x = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
    window_of = [(place - shift) // window for place in (place_y, place_x)]
    together = np.logical_and(*(w[:, None] == w[None, :] for w in window_of))
    qkv = layer.attention.qkv(x).reshape(3, -1, 3, 2, 2).transpose(2, 0, 3, 1, 4)
    mixed = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], mask=together)
    expected = layer.attention.out(mixed.transpose(0, 2, 1, 3).reshape(*x.shape))
    np.testing.assert_allclose(layer(x).data, expected.data, rtol=1e-12, atol=1e-14)


def test_a_window_as_large_as_the_grid_is_a_plain_transformer() -> None:
    model = ViT(
        image=(1, 8, 8), patch=2, window=4, channels=8, heads=2, layers=2, classes=3, rng=seeded()
    )
    assert all(block.attention.real is None for block in model.block)  # type: ignore[attr-defined]


# ---- learning ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model",
    [
        ConvNet(image=(1, 8, 8), channels=(8, 8), classes=2, rng=seeded()),
        ViT(
            image=(1, 8, 8), patch=2, window=2, channels=16, heads=2, layers=2, classes=2,
            rng=seeded(),
        ),
    ],
    ids=["conv_net", "vit"],
)
def test_bars_that_lie_and_stand_are_told_apart(model: Module) -> None:
    def bars(rng: np.random.Generator) -> Any:
        while True:
            label, place = rng.integers(0, 2, 16), rng.integers(0, 8, 16)
            x = 0.1 * rng.standard_normal((16, 1, 8, 8)).astype(np.float32)
            x[np.arange(16), :, place] += 1.0
            x[label == 1] = x[label == 1].swapaxes(2, 3)
            yield x, label

    def loss(model: Module, x: Any, label: Any) -> Tensor:
        return F.cross_entropy(model(tensor(x)), label)

    optimiser = mm.optim.Adam(model.parameters(), lr=3e-3)
    records = list(train(model, bars(seeded(1)), loss, optimiser, steps=100))
    assert np.mean([r.loss for r in records[-5:]]) < 0.1
    assert records[0].loss > 0.5


# ---- bad input ---------------------------------------------------------------------------------


def zeros(*shape: int) -> Tensor:
    return tensor(np.zeros(shape, np.float32))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ConvNet(image=(1, 6, 8), channels=(3, 5), classes=2, rng=seeded()),
         r"ConvNet: image is \(1, 6, 8\), expected .* multiples of 4"),
        (lambda: conv_net()(zeros(1, 1, 8, 8)), r"x has shape \(1, 1, 8, 8\), expected"),
        (lambda: ConvGRU(channels=(3,), strides=(2, 2), rng=seeded()), "a number of each for each"),
        (lambda: ConvGRU(channels=(), strides=(), rng=seeded()), r"channels \(\) and strides"),
        (lambda: ConvGRU(channels=(3,), strides=(2,), frames_out=0, rng=seeded()),
         "frames_out is 0"),
        (lambda: conv_gru()(zeros(1, 2, 8, 6)), r"frames have shape .* multiples of 4"),
        (lambda: conv_gru()(zeros(1, 0, 8, 8)), "without a frame"),
        (lambda: ConvGRUCell(1, 2, kernel_size=4, rng=seeded()), "is 4, expected an odd"),
        (lambda: ConvGRUCell(1, 2, rng=seeded())(None, zeros(1, 2, 4, 4)), "no input, .* for 1"),
        (lambda: ConvGRUCell(0, 2, rng=seeded())(zeros(1, 1, 4, 4)), "an input .* for 0"),
        (lambda: ConvGRUCell(0, 2, rng=seeded())(None), "neither input nor state"),
        (lambda: ConvGRUCell(1, 2, rng=seeded())(zeros(1, 1, 4, 4), zeros(1, 2, 4, 5)),
         r"state has shape \(1, 2, 4, 5\), expected \(1, 2, 4, 4\)"),
        (lambda: Conv2d(0, 2, 3, rng=seeded()), "Conv2d: in_channels is 0"),
        (lambda: ViT(image=(1, 8, 8), patch=2, window=3, channels=8, heads=2, layers=1, classes=2,
                     rng=seeded()), "not made of windows of 3 x 3 patches of 2 x 2 pixels"),
        (lambda: vit()(zeros(1, 2, 8, 6)), r"ViT: x has shape \(1, 2, 8, 6\), expected"),
    ],
)
def test_bad_input_is_named(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# ---- PyTorch -----------------------------------------------------------------------------------

CLOSE: Any = {"rtol": 1e-10, "atol": 1e-10}


def torch_parameters(torch: Any, model: Module) -> dict[str, Any]:
    return {name: torch.tensor(p.data, requires_grad=True) for name, p in model.named_parameters()}


def check_gradients(model: Module, theirs: dict[str, Any]) -> None:
    for name, p in model.named_parameters():
        np.testing.assert_allclose(p.grad, theirs[name].grad.numpy(), err_msg=name, **CLOSE)


@pytest.mark.parity
def test_conv_net_agrees_with_pytorch() -> None:
    torch = pytest.importorskip("torch")
    f, model, rng = torch.nn.functional, conv_net(dtype=np.float64), seeded(2)
    # A few grey levels, as in real images, so that the pooling meets ties.
    x, labels = np.round(rng.random((6, 2, 8, 8)) * 4.0) / 4.0, rng.integers(0, 4, 6)
    p = torch_parameters(torch, model)
    images = tensor(x, requires_grad=True)
    loss = F.cross_entropy(model(images), labels)
    loss.backward()

    h = theirs = torch.tensor(x, requires_grad=True)
    for i in range(2):
        h = f.conv2d(h, p[f"stage.{i}.conv.weight"], p[f"stage.{i}.conv.bias"], padding=1)
        h = f.max_pool2d(f.relu(h), 2)
    expected = f.cross_entropy(
        f.linear(h.flatten(1), p["out.weight"], p["out.bias"]), torch.tensor(labels)
    )
    expected.backward()
    np.testing.assert_allclose(loss.data, expected.detach().numpy(), **CLOSE)
    np.testing.assert_allclose(images.grad, theirs.grad.numpy(), **CLOSE)
    check_gradients(model, p)


def torch_cell(torch: Any, p: dict[str, Any], prefix: str, x: Any, h: Any) -> Any:
    f = torch.nn.functional
    state = f.conv2d(
        h, p[f"{prefix}from_state.weight"], p[f"{prefix}from_state.bias"], padding="same"
    )
    r_h, z_h, h_h = state.chunk(3, dim=1)
    r_x = z_x = h_x = 0.0
    if x is not None:
        weight, bias = p[f"{prefix}from_input.weight"], p[f"{prefix}from_input.bias"]
        r_x, z_x, h_x = f.conv2d(x, weight, bias, padding="same").chunk(3, dim=1)
    update = torch.sigmoid(z_x + z_h)
    candidate = f.leaky_relu(h_x + torch.sigmoid(r_x + r_h) * h_h, 0.2)
    return (1 - update) * candidate + update * h


@pytest.mark.parity
@pytest.mark.parametrize("channels", [0, 2])
def test_conv_gru_cell_agrees_with_pytorch(channels: int) -> None:
    torch = pytest.importorskip("torch")
    rng = seeded(2)
    cell = ConvGRUCell(channels, 3, kernel_size=5, rng=rng, dtype=np.float64)
    p = torch_parameters(torch, cell)
    x = rng.standard_normal((2, channels, 6, 7)) if channels else None
    h = rng.standard_normal((2, 3, 6, 7))
    state = tensor(h, requires_grad=True)
    out = cell(None if x is None else tensor(x), state)
    weights = rng.standard_normal(out.shape)
    out.backward(weights)

    theirs = torch.tensor(h, requires_grad=True)
    expected = torch_cell(torch, p, "", None if x is None else torch.tensor(x), theirs)
    expected.backward(torch.tensor(weights))
    np.testing.assert_allclose(out.data, expected.detach().numpy(), **CLOSE)
    np.testing.assert_allclose(state.grad, theirs.grad.numpy(), **CLOSE)
    check_gradients(cell, p)


@pytest.mark.parity
def test_conv_gru_agrees_with_pytorch() -> None:
    torch = pytest.importorskip("torch")
    f, model, rng = torch.nn.functional, conv_gru(dtype=np.float64), seeded(2)
    frames, target = rng.random((2, 3, 8, 8)), rng.random((2, 2, 8, 8))
    p = torch_parameters(torch, model)
    loss = mm.data.rain_loss(model(tensor(frames)), target)
    loss.backward()

    states = [torch.zeros(2, 3, 4, 4).double(), torch.zeros(2, 4, 2, 2).double()]
    for t in range(3):
        x = torch.tensor(frames[:, t : t + 1])
        for i in range(2):
            down = p[f"encoder.{i}.down.weight"], p[f"encoder.{i}.down.bias"]
            x = f.leaky_relu(f.conv2d(x, *down, stride=2, padding=1), 0.2)
            x = states[i] = torch_cell(torch, p, f"encoder.{i}.cell.", x, states[i])
    out = []
    for _ in range(2):
        x = None
        for i in (1, 0):
            states[i] = torch_cell(torch, p, f"forecaster.{i}.cell.", x, states[i])
            up = p[f"forecaster.{i}.up.weight"], p[f"forecaster.{i}.up.bias"]
            x = f.leaky_relu(f.conv_transpose2d(states[i], *up, stride=2, padding=1), 0.2)
        out.append(f.conv2d(x, p["out.weight"], p["out.bias"]))
    error = torch.cat(out, dim=1) - torch.tensor(target)
    weights = torch.tensor(mm.data.rain_weights(target))
    expected = (weights * (error**2 + error.abs())).mean()
    expected.backward()
    np.testing.assert_allclose(loss.data, expected.detach().numpy(), **CLOSE)
    check_gradients(model, p)
