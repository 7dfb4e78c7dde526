"""Taps: activations read, replaced and treated by name, with no line of the model changed."""

import numpy as np
import pytest

import minimono as mm
from minimono.engine.tensor import Tensor
from minimono.nn import Module, Sequential, taps


class Doubling(Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2.0


def mlp() -> mm.models.MLP:
    return mm.models.MLP((3, 4, 5, 2), rng=np.random.default_rng(0), dtype=np.float64)


X = mm.tensor(np.random.default_rng(1).standard_normal((6, 3)))


def test_names_and_patterns() -> None:
    gpt = mm.models.GPT(
        vocabulary=5, context=4, channels=4, heads=2, layers=2, rng=np.random.default_rng(0)
    )
    assert taps.names(gpt) == [
        "embedded", "block.0.mlp.act", "block.0.out", "block.1.mlp.act", "block.1.out", "normed",
    ]  # fmt: skip
    assert taps.names(gpt, "block.*.mlp.act") == ["block.0.mlp.act", "block.1.mlp.act"]


def test_reading_gives_the_activations_and_changes_nothing() -> None:
    model = mlp()
    plain = model(X)
    with taps.read(model) as seen:
        out = model(X)
    assert out.data.tobytes() == plain.data.tobytes()
    first = np.maximum(X.data @ model.hidden[0].linear.weight.data.T
                       + model.hidden[0].linear.bias.data, 0.0)  # fmt: skip
    np.testing.assert_allclose(seen["hidden.0.act"].data, first, rtol=1e-15)
    assert {name: a.shape for name, a in seen.items()} == {
        "hidden.0.act": (6, 4), "hidden.1.act": (6, 5),
    }  # fmt: skip


def test_a_read_activation_is_on_the_tape() -> None:
    model = mlp()
    with taps.read(model, "hidden.0.act") as seen:
        model(X)
    seen["hidden.0.act"].sum().backward()
    assert model.hidden[0].linear.weight.grad is not None
    assert model.hidden[1].linear.weight.grad is None


def test_replacing_lets_the_replacement_flow_on() -> None:
    model = mlp()
    with taps.replace(model, "hidden.1.act", lambda z: z * 0.0):
        out = model(X)
    np.testing.assert_array_equal(out.data, np.broadcast_to(model.out.bias.data, (6, 2)))


def test_reading_comes_after_what_was_attached_before() -> None:
    model = mlp()
    with taps.read(model, "hidden.1.act") as before:
        with taps.replace(model, "hidden.1.act", lambda z: z + 1.0):
            with taps.read(model, "hidden.1.act") as after:
                model(X)
    np.testing.assert_array_equal(after["hidden.1.act"].data, before["hidden.1.act"].data + 1.0)


def test_inserted_modules_are_part_of_the_model() -> None:
    model = mlp().eval()
    plain = model(X)
    with taps.read(model, "hidden.1.act") as seen:
        model(X)
    doubling = Doubling()
    taps.insert(model, "hidden.1.act", doubling)
    assert not doubling.training  # as the model
    with taps.read(model, "hidden.1.act") as doubled:
        out = model(X)
    np.testing.assert_array_equal(
        doubled["hidden.1.act"].data, 2.0 * seen["hidden.1.act"].data
    )  # what flows on is read
    bias = model.out.bias.data
    np.testing.assert_allclose(out.data - bias, 2.0 * (plain.data - bias), rtol=1e-12)
    assert any(module is doubling for _, module in model.named_modules())
    model.train()
    assert doubling.training
    assert taps.remove(model, "hidden.1.act") is doubling
    assert model(X).data.tobytes() == plain.data.tobytes()


def test_inserted_state_is_saved_with_the_model() -> None:
    model, other = mlp(), mlp()
    for m in (model, other):
        taps.insert(m, "hidden.0.act", mm.mono.MEmeL())
    model(X)
    assert "hidden.0.act.inserted.mean" in model.state_dict()
    other.load_state_dict(model.state_dict())
    theirs, ours = (m.hidden[0].act.inserted.tracker for m in (model, other))
    assert theirs.mean.tobytes() == ours.mean.tobytes()
    taps.remove(other, "hidden.0.act")
    with pytest.raises(ValueError, match="unexpected"):
        other.load_state_dict(model.state_dict())


def test_an_unknown_name_lists_the_names() -> None:
    model = mlp()
    for act in (
        lambda: taps.names(model, "hidden.7.act"),
        lambda: taps.read(model, "hidden.7.act").__enter__(),
        lambda: taps.replace(model, "hidden.7.act", lambda z: z).__enter__(),
        lambda: taps.insert(model, "hidden.7.act", Doubling()),
        lambda: taps.remove(model, "hidden.7.act"),
    ):
        with pytest.raises(ValueError, match=r"'hidden.7.act'.* hidden.0.act, hidden.1.act"):
            act()
    with pytest.raises(ValueError, match="the model has none"):
        taps.names(Sequential(), "x")


def test_insert_takes_one_name_and_one_module() -> None:
    model = mlp()
    with pytest.raises(ValueError, match="2 taps match"):
        taps.insert(model, "hidden.*.act", Doubling())
    taps.insert(model, "hidden.0.act", Doubling())
    with pytest.raises(ValueError, match="already has a Doubling"):
        taps.insert(model, "hidden.0.act", Doubling())
    with pytest.raises(ValueError, match="nothing was inserted"):
        taps.remove(model, "hidden.1.act")


def test_taps_are_free_again_after_an_exception() -> None:
    model = mlp()
    plain = model(X)

    def broken(z: Tensor) -> Tensor:
        raise ArithmeticError("on purpose")

    with pytest.raises(ArithmeticError, match="on purpose"):
        with taps.read(model), taps.replace(model, "hidden.0.act", broken):
            model(X)
    assert all(not m.readers for _, m in model.named_modules() if isinstance(m, mm.nn.Tap))
    assert model(X).data.tobytes() == plain.data.tobytes()


def test_the_same_function_may_be_attached_twice() -> None:
    model = mlp()

    def increase(z: Tensor) -> Tensor:
        return z + 1.0

    with taps.read(model, "hidden.1.act") as seen:
        model(X)
    plain = seen["hidden.1.act"].data
    with taps.replace(model, "hidden.1.act", increase):
        with taps.replace(model, "hidden.1.act", increase):
            pass
        with taps.read(model, "hidden.1.act") as seen:
            model(X)
    np.testing.assert_array_equal(seen["hidden.1.act"].data, plain + 1.0)
