"""Taps: activations read, replaced and treated by name, with no line of the model changed."""

import copy
import pickle
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from contextvars import copy_context
from itertools import permutations
from typing import Any

import numpy as np
import pytest

import minimono as mm
from minimono.engine.tensor import Tensor
from minimono.nn import Module, Sequential, taps
from minimono.nn.module import attachments


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
    ]
    assert taps.names(gpt, "block.*.mlp.act") == ["block.0.mlp.act", "block.1.mlp.act"]


def test_reading_gives_the_activations_and_changes_nothing() -> None:
    model = mlp()
    plain = model(X)
    with taps.read(model) as seen:
        out = model(X)
    assert out.data.tobytes() == plain.data.tobytes()
    first = np.maximum(X.data @ model.hidden[0].linear.weight.data.T
                       + model.hidden[0].linear.bias.data, 0.0)
    np.testing.assert_allclose(seen["hidden.0.act"].data, first, rtol=1e-15)
    assert {name: a.shape for name, a in seen.items()} == {
        "hidden.0.act": (6, 4), "hidden.1.act": (6, 5),
    }


def test_a_record_keeps_every_call_in_order() -> None:
    """What `read` sees in each call, also of calls of a part alone; nothing after the block."""
    model, expected = mlp(), []
    other = mm.tensor(X.data[:2] + 1.0)
    with taps.read(model, "hidden.*.act") as seen, taps.record(model, "hidden.*.act") as kept:
        for x in (X, other, X):
            model(x)
            expected.append(dict(seen))
        alone = model.hidden[0](other)
    model(X)
    assert list(kept) == ["hidden.0.act", "hidden.1.act"]
    for name in kept:
        assert len(kept[name]) == 3 + (name == "hidden.0.act")
        assert all(z is one[name] for z, one in zip(kept[name], expected, strict=False))
    np.testing.assert_array_equal(kept["hidden.0.act"][3].data, alone.data)


def test_a_record_is_of_what_flows_on() -> None:
    model = mlp()
    taps.insert(model, "hidden.0.act", Doubling())
    with taps.record(model, "hidden.0.act") as kept:
        with taps.replace(model, "hidden.0.act", lambda z: z + 1.0):
            model(X)
        model(X)
    first, second = kept["hidden.0.act"]
    np.testing.assert_array_equal(first.data, second.data + 1.0)
    assert (second.data > 0.0).any()


def test_a_record_without_a_tap_is_refused() -> None:
    with pytest.raises(ValueError, match="taps: 0 taps match 'nowhere'"):
        taps.record(mlp(), "nowhere").__enter__()


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


def test_what_is_read_is_what_flows_on_in_any_order() -> None:
    """Every order in which a reading and two replacements can be entered."""
    model, tap = mlp(), "hidden.1.act"
    with taps.read(model, tap) as seen:
        model(X)
    plain = seen[tap].data

    def attach(stack: ExitStack, order: tuple[str, ...]) -> Mapping[str, Tensor]:
        for what in order:
            if what == "read":
                seen = stack.enter_context(taps.read(model, tap))
            elif what == "add":
                stack.enter_context(taps.replace(model, tap, lambda z: z + 1.0))
            else:
                stack.enter_context(taps.replace(model, tap, lambda z: z * 2.0))
        return seen

    for order in permutations(("read", "add", "double")):
        with ExitStack() as stack:
            seen = attach(stack, order)
            out = model(X)
        # The one that was entered first is applied first.
        first_adds = order.index("add") < order.index("double")
        expected = (plain + 1.0) * 2.0 if first_adds else plain * 2.0 + 1.0
        np.testing.assert_array_equal(seen[tap].data, expected, err_msg=str(order))
        np.testing.assert_allclose(
            out.data, expected @ model.out.weight.data.T + model.out.bias.data, rtol=1e-12
        )


def test_two_readings_see_the_same_and_a_replacement_ends_with_its_block() -> None:
    model, tap = mlp(), "hidden.1.act"
    with taps.read(model, tap) as outer:
        with taps.replace(model, tap, lambda z: z + 1.0), taps.read(model) as inner:
            model(X)
            assert outer[tap] is inner[tap]
            replaced = inner[tap].data
        model(X)
    np.testing.assert_array_equal(outer[tap].data + 1.0, replaced)
    assert inner[tap].data is replaced  # what an ended block saw stays as it was


def test_reading_and_replacing_inside_an_insertion() -> None:
    """Inserted first, then replaced, then read."""
    model, tap = mlp(), "hidden.1.act"
    with taps.read(model, tap) as seen:
        model(X)
        plain = seen[tap].data
        with taps.replace(model, tap, lambda z: z + 1.0):
            taps.insert(model, tap, Doubling())
            model(X)
    np.testing.assert_array_equal(seen[tap].data, plain * 2.0 + 1.0)


def test_reading_a_treated_activation_gives_the_treated_one() -> None:
    model, tap = mlp(), "hidden.1.act"
    module = mm.mono.MEmeL(k=1, start_after=1)
    taps.insert(model, tap, module)
    model(X)
    with taps.read(model, tap) as seen:
        out = model(X)
    assert module.last is not None
    flagged = module.last.flagged
    assert flagged.sum() >= len(X.data)
    means = np.broadcast_to(module.last.mean, flagged.shape)
    np.testing.assert_array_equal(seen[tap].data[flagged], means[flagged])
    expected = seen[tap].data @ model.out.weight.data.T + model.out.bias.data
    np.testing.assert_allclose(out.data, expected, rtol=1e-12)


def test_reading_without_a_tape_holds_none() -> None:
    model = mlp()
    with mm.no_grad(), taps.read(model) as seen:
        model(X)
    assert all(z.origin is None and not z.requires_grad for z in seen.values())


def test_a_replacement_has_to_be_a_tensor() -> None:
    model = mlp()
    with taps.replace(model, "hidden.0.act", lambda z: None):
        what = "taps.replace: what function returned at 'hidden.0.act' is None, expected a Tensor"
        with pytest.raises(TypeError, match=what):
            model(X)


# ---- one tap, several activations in a call ----------------------------------------------------


class Thrice(Module):
    """One block, used three times: once by three places in a list, or again and again."""

    def __init__(self, places: int, steps: int):
        rng = np.random.default_rng(0)
        self.block = [mm.models.MLP((3, 4, 3), rng=rng, dtype=np.float64)] * places
        self.steps = steps

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.steps):
            for block in self.block:
                x = block(x)
        return x


@pytest.mark.parametrize(("places", "steps"), [(3, 1), (1, 3)], ids=["shared", "recurrent"])
def test_a_tap_passed_several_times_gives_every_activation_or_an_error(
    places: int, steps: int
) -> None:
    model, tap = Thrice(places, steps), "block.0.hidden.0.act"
    assert taps.names(model) == [tap]
    with taps.read(model) as seen:
        for _ in range(2):  # the second call forgets the first
            model(X)
    x, expected = X, []
    with taps.read(model.block[0]) as alone:
        for _ in range(3):
            x = model.block[0](x)
            expected.append(alone["hidden.0.act"].data)
    assert [z.data.tolist() for z in seen.every[tap]] == [z.tolist() for z in expected]
    message = rf"'{tap}' was passed 3 times .*seen\.every\['{tap}'\] has all"
    for use in (lambda: seen[tap], lambda: dict(seen), lambda: seen.get(tap), seen.items):
        with pytest.raises(ValueError, match=message):
            list(use())


def test_a_recurrent_model_gives_every_frames_activation() -> None:
    model = mm.models.ConvGRU(channels=(2,), strides=(2,), frames_out=3, rng=0)
    frames = np.random.default_rng(0).random((2, 4, 4, 4)).astype(np.float32)
    with taps.read(model, "encoder.0.act") as seen:
        model(mm.tensor(frames))
    activations = seen.every["encoder.0.act"]
    assert len(activations) == 4
    for t, found in enumerate(activations):  # this tap sees one frame and no state
        one = mm.functional.leaky_relu(model.encoder[0].down(mm.tensor(frames[:, t : t + 1])), 0.2)
        np.testing.assert_allclose(found.data, one.data, rtol=1e-5, atol=1e-6)


def test_a_model_that_calls_itself_is_one_call() -> None:
    class Again(Module):
        def __init__(self) -> None:
            self.tap = mm.nn.Tap()

        def forward(self, x: Tensor, times: int) -> Tensor:
            return self.tap(x if times == 0 else self(x + 1.0, times - 1))

    model = Again()
    with taps.read(model) as seen:
        model(X, 2)
    assert len(seen.every["tap"]) == 3


def test_a_call_that_fails_leaves_nothing_to_the_next() -> None:
    model = mlp()
    with taps.read(model) as seen:
        with pytest.raises(ValueError, match="linear"):
            model(mm.tensor(np.ones((2, 4))))
        out = model(X)
    assert [len(z) for z in seen.every.values()] == [1, 1]
    assert out.shape == (6, 2)


def test_what_was_not_passed_is_not_there() -> None:
    model = mlp()
    with taps.read(model, "hidden.*.act") as seen:
        assert (len(seen), dict(seen)) == (0, {})
        model.hidden[0](X)
        assert list(seen) == ["hidden.0.act"]
        with pytest.raises(KeyError, match=r"hidden.1.act"):
            seen["hidden.1.act"]


def test_another_name_of_a_shared_tap_is_explained() -> None:
    model = Thrice(3, 1)
    for act in (
        lambda: taps.names(model, "block.2.hidden.0.act"),
        lambda: taps.insert(model, "block.2.hidden.0.act", Doubling()),
    ):
        with pytest.raises(
            ValueError, match=r"'block.2.hidden.0.act' is the same tap as 'block.0.hidden.0.act'"
        ):
            act()


def test_a_module_that_replaces_is_no_part_of_the_model() -> None:
    model = mlp()
    names = [*model.state_dict()]
    with taps.replace(model, "hidden.0.act", mm.nn.Linear(4, 4, rng=np.random.default_rng(0),
                                                          dtype=np.float64)):
        model(X)
        assert [*model.state_dict()] == names


def test_a_frozen_part_of_what_is_inserted_stays_frozen() -> None:
    model = mlp()
    part = Sequential(mm.nn.Dropout(0.5, rng=np.random.default_rng(0)), Doubling())
    vars(part)["0"].eval()
    taps.insert(model, "hidden.0.act", part)
    assert [m.training for _, m in part.named_modules()] == [True, False, True]
    taps.insert(model.eval(), "hidden.1.act", other := Sequential(Doubling()))
    assert [m.training for _, m in other.named_modules()] == [False, False]


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
    assert attachments.get() == ()
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


# ---- threads -----------------------------------------------------------------------------------


def in_another_thread(work: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def test_a_block_is_of_one_thread() -> None:
    """Another thread's calls of the model are neither changed nor seen; its insertions are."""
    model, tap = mlp(), "hidden.1.act"
    plain = model(X)
    with taps.replace(model, tap, lambda z: z * 0.0), taps.read(model) as seen:
        with taps.record(model, tap) as kept:
            theirs = in_another_thread(lambda: model(X))
            assert (len(seen), kept) == (0, {tap: []})
            ours = model(X)
    assert theirs.data.tobytes() == plain.data.tobytes() != ours.data.tobytes()
    assert len(kept[tap]) == len(seen.every[tap]) == 1
    taps.insert(model, tap, Doubling())
    inserted = in_another_thread(lambda: model(X))
    assert inserted.data.tobytes() == model(X).data.tobytes() != plain.data.tobytes()


def test_threads_replace_in_one_model_at_once() -> None:
    """Each sees its own replacement, again and again, while the others enter and leave theirs."""
    model, tap = mlp(), "hidden.1.act"
    with taps.read(model, tap) as seen:
        model(X)
    plain = seen[tap].data
    start = threading.Barrier(3)

    def work(size: float) -> int:
        start.wait(10)
        wrong = 0
        for _ in range(70):
            with taps.replace(model, tap, lambda z: z * size), taps.read(model, tap) as seen:
                model(X)
                wrong += not np.array_equal(seen[tap].data, plain * size)
        return wrong

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(work, (0.5, 2.0, 4.0))) == [0, 0, 0]


def test_a_thread_in_the_same_context_sees_a_block_until_it_ends() -> None:
    """So do the threads that kernels work in, and tasks that are started within the block."""
    model, tap = mlp(), "hidden.1.act"
    plain = model(X)
    with taps.replace(model, tap, lambda z: z * 0.0):
        context = copy_context()
        inside = in_another_thread(lambda: context.run(model, X))
        assert inside.data.tobytes() == model(X).data.tobytes()
    after = in_another_thread(lambda: context.run(model, X))
    assert after.data.tobytes() == plain.data.tobytes()


def test_blocks_may_end_in_any_order() -> None:
    model, tap = mlp(), "hidden.1.act"
    plain = model(X)
    first = taps.replace(model, tap, lambda z: z + 1.0)
    second = taps.replace(model, tap, lambda z: z * 0.0)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    np.testing.assert_array_equal(model(X).data, np.broadcast_to(model.out.bias.data, (6, 2)))
    second.__exit__(None, None, None)
    assert model(X).data.tobytes() == plain.data.tobytes()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_of_a_model_has_nothing_attached(copied: Callable[[Module], Module]) -> None:
    model = mlp()
    plain = model(X)
    with taps.replace(model, "hidden.1.act", lambda z: z * 0.0), taps.read(model) as seen:
        other = copied(model)
        assert other(X).data.tobytes() == plain.data.tobytes()
        assert len(seen) == 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda model: taps.names(3), "taps: model is 3, expected a Module"),
        (lambda model: taps.read(lambda x: x).__enter__(), "taps: model is <function"),
        (lambda model: taps.read(model, ["hidden.0.act"]).__enter__(),
         r"taps: name or pattern is \['hidden"),
        (lambda model: taps.read(model, None).__enter__(),
         "taps: name or pattern is None, expected a str"),
        (lambda model: taps.insert(model, 0, Sequential()),
         "taps: name or pattern is 0, expected a str"),
        (lambda model: taps.replace(model, "hidden.0.act", None).__enter__(),
         "taps.replace: function is None, expected one"),
        (lambda model: taps.replace(model, "hidden.0.act", 0.0).__enter__(),
         "taps.replace: function is 0.0, expected one"),
    ],
    ids=["names", "read", "list", "None", "number", "no function", "value"],
)
def test_what_is_no_model_no_name_and_no_function(wrong: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        wrong(mlp())
