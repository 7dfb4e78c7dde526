"""Modules: which parameters they have, in which order, and how their state is saved and set."""

from collections.abc import Mapping

import numpy as np
import pytest

import minimono as mm
from minimono import backend
from minimono.backend import Array
from minimono.nn import Dropout, Linear, Module, Sequential, Tap
from minimono.nn.layers import parameter


class Pair(Module):
    """Two layers in a list, a parameter of its own between them, one layer's weight used twice."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.first = Linear(3, 2, rng=rng)
        self.scale = parameter(np.ones(2))
        self.rest = [Linear(2, 2, rng=rng, bias=False), "no module", Linear(2, 4, rng=rng)]
        self.tied = self.first.weight


class Counting(Module):
    """Has state that is no parameter, and refuses a negative one."""

    def __init__(self) -> None:
        self.count = 0

    def extra_state(self) -> dict[str, Array]:
        return {"count": np.array(self.count)}

    def load_extra_state(self, state: Mapping[str, Array]) -> None:
        if state["count"] < 0:
            raise ValueError("count is negative")
        self.count = int(state["count"])


def snapshot(model: Module) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in model.state_dict().items()}


def test_parameters_are_named_by_path_in_order_and_come_once() -> None:
    model = Pair()
    assert [name for name, _ in model.named_parameters()] == [
        "scale", "tied", "first.bias", "rest.0.weight", "rest.2.weight", "rest.2.bias",
    ]  # fmt: skip
    assert model.tied is model.first.weight
    assert model.number_of_parameters() == 2 + 6 + 2 + 4 + 8 + 4
    assert [name for name, _ in model.named_modules()] == ["", "first", "rest.0", "rest.2"]


def test_parameters_leave_out_what_needs_no_gradient() -> None:
    model = Pair()
    model.scale.requires_grad = False
    assert all(p is not model.scale for p in model.parameters())
    assert "scale" in model.state_dict()


def test_state_dict_round_trip_gives_the_same_bits() -> None:
    rng = np.random.default_rng(3)
    model, other = (
        Sequential(Linear(3, 4, rng=rng), Dropout(0.5, rng=np.random.default_rng(i)), Counting())
        for i in range(2)
    )
    vars(model)["2"].count = 7
    assert snapshot(model) != snapshot(other)
    other.load_state_dict(model.state_dict())
    assert snapshot(model) == snapshot(other)
    assert list(model.state_dict()) == ["0.weight", "0.bias", "1.rng", "2.count"]


def test_state_dict_is_a_copy_both_ways() -> None:
    layer = Linear(2, 2, rng=np.random.default_rng(0))
    state = layer.state_dict()
    state["weight"][...] = 9.0
    assert not (layer.weight.data == 9.0).any()
    layer.load_state_dict(state)
    state["weight"][...] = 5.0
    assert (layer.weight.data == 9.0).all()


def test_loading_converts_to_the_models_dtype_and_layout() -> None:
    layer = Linear(2, 3, rng=np.random.default_rng(0))
    layer.load_state_dict({"weight": np.ones((2, 3)).T, "bias": [1, 2, 3]})
    assert layer.weight.dtype == np.float32
    assert layer.weight.data.flags.c_contiguous
    assert layer.bias is not None
    assert layer.bias.data.tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("0.bias"), r"missing \['0.bias'\]"),
        (lambda s: s.pop("1.count"), r"missing \['1.count'\]"),
        (lambda s: s.update({"0.biss": np.ones(4)}), r"unexpected \['0.biss'\]"),
        (lambda s: s.update({"3.weight": np.ones(4)}), r"unexpected \['3.weight'\]"),
        (lambda s: s.update({"0.bias": np.ones(5)}), r"0.bias has shape \(5,\).*expects \(4,\)"),
        (lambda s: s.update({"0.bias": np.ones(4) * 1j}), "0.bias has dtype complex128"),
        (lambda s: s.update({"0.bias": np.array(["a"] * 4)}), "0.bias has dtype <U1"),
        (lambda s: s.update({"2.count": np.array(-1)}), "count is negative"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(change, message) -> None:
    model = Sequential(Linear(3, 4, rng=np.random.default_rng(0)), Counting(), Counting())
    before = snapshot(model)
    state = {name: array + 1 for name, array in model.state_dict().items()}
    change(state)
    with pytest.raises((ValueError, TypeError), match=message):
        model.load_state_dict(state)
    assert snapshot(model) == before


def test_train_and_eval_reach_every_part() -> None:
    model = Sequential(Tap(), Sequential(Dropout(0.5, rng=np.random.default_rng(0))))
    assert model.eval() is model
    assert not any(module.training for _, module in model.named_modules())
    assert model.train() is model
    assert all(module.training for _, module in model.named_modules())


def test_zero_grad_forgets_all_gradients() -> None:
    layer = Linear(2, 1, rng=np.random.default_rng(0))
    layer(mm.tensor(np.ones((1, 2)), dtype=np.float32)).sum().backward()
    assert all(p.grad is not None for p in layer.parameters())
    layer.zero_grad()
    assert all(p.grad is None for p in layer.parameters())


def test_to_the_same_device_keeps_every_bit() -> None:
    model = Sequential(
        Linear(2, 2, rng=np.random.default_rng(0)), Dropout(0.1, rng=np.random.default_rng(1))
    )
    before = snapshot(model)
    assert model.to("cpu") is model
    assert snapshot(model) == before


def test_to_a_gpu_that_is_not_there_is_an_error() -> None:
    if backend.is_available():
        pytest.skip("there is one")
    with pytest.raises(RuntimeError, match='device "cuda"'):
        Linear(2, 2, rng=np.random.default_rng(0)).to("cuda")


def test_a_module_without_forward_says_so() -> None:
    with pytest.raises(NotImplementedError, match="Counting defines no forward"):
        Counting()(1)
