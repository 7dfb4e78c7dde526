"""A call that fails changes nothing: a fault at every line, and bad input, for all that has state.

The fault comes before the n-th line that the call runs in our code, n = 1, 2, 3, ... until it gets
through (every seventh from 150 on): so it stands for whatever any function or kernel there could
raise, and for a Ctrl-C. The state has to be that of before, or, if the work was done already, that
of after: never a mixture.
"""

import itertools
import math
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import copy_context
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minimono as mm
from minimono import kernels, mono
from minimono.engine import tape
from minimono.kernels.seam import WithKernel
from minimono.mono import L2E, MEmeL, MovingThreshold, ScaleTracker
from minimono.nn import Dropout, Linear, Sequential, Tap, taps
from minimono.nn.module import attachments, evaluating
from minimono.nn.optim import adam as adam_formula
from minimono.nn.training import train

OURS = str(Path(mm.__file__).parent)


def places() -> Iterator[int]:
    return itertools.chain(range(1, 150), itertools.count(150, 7))


class Fault(BaseException):
    """What no `except Exception` catches, as KeyboardInterrupt."""


class Wrong(Exception):
    """What one does."""


@contextmanager
def failing_before(n: int, error: type[BaseException], event: str = "line") -> Iterator[None]:
    """In this block our code raises before its n-th line (or opcode)."""
    left = n

    def trace(frame: Any, what: str, _: Any) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.startswith(OURS):
            return None
        frame.f_trace_opcodes = event == "opcode"
        if what == event:
            left -= 1
            if left == 0:
                raise error
        return trace

    outside = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(outside)


def in_its_own_context(call: Callable[..., Any], *arguments: Any) -> None:
    """A fault within `no_grad` itself may leave its switch as it is."""
    copy_context().run(call, *arguments)


class Interrupted:
    """A switch, in whose first change Ctrl-C is pressed: Python raises when the call is done."""

    def __init__(self, switch: Any) -> None:
        self.switch, self.get, self.pressed = switch, switch.get, False

    def set(self, value: bool) -> Any:
        token = self.switch.set(value)
        if not self.pressed:
            self.pressed = True
            raise KeyboardInterrupt
        return token


@pytest.mark.parametrize(
    ("module", "switch", "block"),
    [(tape, "_recording", mm.no_grad), (kernels, "_enabled", mm.reference)],
)
def test_a_ctrl_c_in_a_switch_does_not_leave_it_off(
    module: Any, switch: str, block: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = getattr(module, switch).get()
    monkeypatch.setattr(module, switch, Interrupted(getattr(module, switch)))
    with pytest.raises(KeyboardInterrupt), block():
        pass
    assert getattr(module, switch).get() is before


def test_a_fault_on_the_way_into_a_block_leaves_the_model_as_it_was() -> None:
    """In `evaluating` each part has its mode again, and no tap has a reader more."""
    model = Sequential(Tap(), Dropout(0.5, rng=0), Sequential(Tap()))
    for block in (evaluating, taps.read, lambda m: taps.replace(m, "*", lambda x: x)):
        for n in itertools.count(1):
            inside = False
            try:
                with failing_before(n, Fault), block(model):
                    inside = True
                    sys.settrace(None)
            except Fault:
                pass
            for _, module in model.named_modules():
                assert module.training
            assert attachments.get() == ()
            if inside:
                break


def bits(state: Any) -> Any:
    return {name: (array.dtype.str, array.shape, array.tobytes()) for name, array in state.items()}


def state_of(thing: Any) -> Any:
    if isinstance(thing, tuple):
        return tuple(state_of(part) for part in thing)
    if isinstance(thing, np.random.Generator):
        return thing.bit_generator.state
    if isinstance(thing, mm.nn.Module):
        lasts = tuple(id(getattr(m, "last", None)) for _, m in thing.named_modules())
        return {"state": bits(thing.state_dict()), "last": lasts}
    if isinstance(thing, mm.nn.optim.Optimiser):
        return bits(thing.state_dict()), [p.data.tobytes() for p in thing.parameters]
    return bits(thing.state_dict())


def batch(seed: int, rows: int = 4, neurons: int = 3, dtype: Any = np.float32) -> Any:
    return np.random.default_rng(seed).standard_normal((rows, neurons)).astype(dtype)


def tracker(convention: Any, batches: int) -> Callable[[], ScaleTracker]:
    def make() -> ScaleTracker:
        made = ScaleTracker(convention=convention, forget_after=2, compensation=0.01)
        for seed in range(batches):
            made.score(batch(seed))
        return made

    return make


def threshold(batches: int) -> Callable[[], MovingThreshold]:
    def make() -> MovingThreshold:
        made = MovingThreshold(0.25)
        for seed in range(batches):
            made.select(abs(batch(seed)))
        return made

    return make


def module(kind: Any, batches: int, **settings: Any) -> Callable[[], Any]:
    def make() -> Any:
        made = kind(start_after=2, **settings)
        for seed in range(batches):
            made(mm.tensor(batch(seed)))
        return made

    return make


def optimiser(kind: Any, dtype: Any = np.float32, **settings: Any) -> Callable[[], Any]:
    def make() -> Any:
        parameters = [mm.tensor(batch(i), dtype=dtype, requires_grad=True) for i in range(3)]
        made = kind(parameters, lr=0.1, **settings)
        for step in range(2):
            for p in parameters:
                p.grad = batch(10 + step, dtype=dtype)
            if step == 0:
                made.step()
        return made

    return make


def network(batches: int = 3) -> Sequential:
    """With all that has a state."""
    rng = np.random.default_rng(0)
    made = Sequential(
        Linear(3, 5, rng=rng), MEmeL(start_after=2), Dropout(0.5, rng=rng), L2E(start_after=2),
        Linear(5, 3, rng=rng),
    )
    for seed in range(batches):
        made(mm.tensor(batch(seed)))
    return made


def square_error(model: Any, x: Any, y: Any) -> mm.Tensor:
    return ((model(mm.tensor(x)) - mm.tensor(y)) ** 2.0).mean() + 1e-3 * mm.mono.l2e_penalty(model)


def training() -> tuple[Any, Any]:
    model = network()
    return model, mm.optim.Adam(model.parameters(), lr=0.5)


def one_step(pair: tuple[Any, Any], x: Any = None) -> None:
    model, adam = pair
    x = batch(7) if x is None else x
    next(train(model, [(x, batch(8))], square_error, adam, steps=1, schedule=lambda n: 0.125,
               max_norm=1.0))


def loading_another(make: Callable[[], Any]) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    """What makes a thing, and the call that loads a state of the same kind, of other numbers.

    The state is made once, before any fault: none in making it could change the thing.
    """

    @cache
    def state() -> Any:
        return {k: v + np.ones((), v.dtype) if v.dtype.kind == "f" else v
                for k, v in make().state_dict().items()}

    return make, lambda thing: thing.load_state_dict(state())


CALLS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {}
for convention in ("paper", "authors"):
    for batches in (0, 1, 3):
        make, name = tracker(convention, batches), f"{convention} tracker after {batches}"
        CALLS[f"{name}: score"] = make, lambda t: t.score(batch(9))
        CALLS[f"{name}: flag_top_k"] = make, lambda t: t.flag_top_k(batch(9), 2)
        CALLS[f"{name}: flag_top_k, not constant"] = (
            make, lambda t: t.flag_top_k(batch(9), 1, constant=False))
        CALLS[f"{name}: flag above"] = make, lambda t: t.flag(batch(9), mono.Above(1.0))
    for batches in (0, 1, 3):
        CALLS[f"MEmeL {convention} after {batches}"] = (
            module(MEmeL, batches, convention=convention),
            lambda m: m(mm.tensor(batch(9))),
        )
for batches in (0, 1, 2, 3, 4):
    CALLS[f"L2E after {batches}"] = module(L2E, batches), lambda m: m(mm.tensor(batch(9)))
    if batches < 2:
        CALLS[f"threshold after {batches}"] = threshold(batches), lambda t: t.select(batch(9))
CALLS["threshold: move"] = threshold(1), lambda t: t.move(2, 5)
CALLS["Dropout"] = (
    lambda: Sequential(Dropout(0.5, rng=np.random.default_rng(0))),
    lambda m: m(mm.tensor(batch(9))),
)
for kind, dtype, settings in (
    (mm.optim.SGD, np.float32, {}), (mm.optim.SGD, np.float64, {"momentum": 0.9}),
    (mm.optim.Adam, np.float32, {}), (mm.optim.AdamW, np.float16, {}),
):
    make = optimiser(kind, dtype, **settings)
    CALLS[f"{kind.__name__} {dtype.__name__}: step"] = make, lambda o: o.step()
    CALLS[f"{kind.__name__} {dtype.__name__}: load"] = loading_another(make)
for name, make in (
    ("tracker", tracker("paper", 2)), ("threshold", threshold(1)), ("MEmeL", module(MEmeL, 3)),
    ("L2E", module(L2E, 3)), ("network", network),
):
    CALLS[f"{name}: load"] = loading_another(make)
CALLS["network: to"] = network, lambda m: m.to("cpu")
CALLS["a step of training"] = training, one_step


@pytest.mark.parametrize("version", ["kernel", "reading version"])
@pytest.mark.parametrize("name", CALLS)
def test_a_fault_at_any_line_changes_nothing(name: str, version: str) -> None:
    make, call = CALLS[name]
    with nullcontext() if version == "kernel" else mm.reference():
        done = make()
        call(done)  # and so all kernels are compiled
        done_state, too_late = state_of(done), 0
        thing = make()
        before = state_of(thing)
        for n in places():
            error = (Wrong, Fault)[n % 2]
            try:
                with failing_before(n, error):
                    in_its_own_context(call, thing)
            except (error, ValueError) as raised:
                # Whatever NumPy raises for a generator's state is made a ValueError.
                if error not in (type(raised), type(raised.__cause__)):
                    raise
                after = state_of(thing)
                if after != before:
                    too_late += 1  # the work was done: only to return was left
                    assert with_any_last(after) == with_any_last(done_state), n
                    thing = make()
                    before = state_of(thing)
            else:
                break
        assert n > 3
        assert too_late <= 6


def with_any_last(state: Any) -> Any:
    """Without the ids of `last`, which differ between two objects."""
    if isinstance(state, tuple):
        return tuple(map(with_any_last, state))
    return state["state"] if isinstance(state, dict) and "last" in state else state


@pytest.mark.parametrize("version", ["kernel", "reading version"])
@pytest.mark.parametrize("kind", [mm.optim.SGD, mm.optim.Adam])
def test_a_step_of_an_optimiser_between_any_two_instructions(kind: Any, version: str) -> None:
    make = optimiser(kind)
    with nullcontext() if version == "kernel" else mm.reference():
        done = make()
        done.step()
        thing = make()
        before, after = state_of(thing), state_of(done)
        for n in itertools.count(1):
            try:
                with failing_before(n, KeyboardInterrupt, "opcode"):
                    thing.step()
            except KeyboardInterrupt:
                if state_of(thing) != before:
                    assert state_of(thing) == after, n
                    thing = make()
            else:
                break


@pytest.mark.parametrize("error", [RuntimeError, MemoryError, KeyboardInterrupt])
@pytest.mark.parametrize("parameter", [0, 1, 2])
def test_an_update_that_fails_leaves_all_parameters(
    parameter: int, error: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    adam = optimiser(mm.optim.Adam)()
    before, calls = state_of(adam), itertools.count()
    update = adam_formula.on(adam.parameters[0].data)

    def failing(*arguments: Any, **options: Any) -> Any:
        if next(calls) == parameter:
            raise error
        return update(*arguments, **options)

    monkeypatch.setattr(type(adam_formula), "on", lambda *_: failing)
    with pytest.raises(error):
        adam.step()
    assert state_of(adam) == before


def test_a_ctrl_c_in_a_step_of_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """A real signal, at each of the optimiser's updates."""
    chosen = WithKernel.on
    for parameter in range(4):
        calls, pair = itertools.count(), training()
        before = state_of(pair)

        def on(
            self: Any, *arguments: Any, calls: Any = calls, parameter: int = parameter
        ) -> Any:
            update = chosen(self, *arguments)

            def interrupted(*arguments: Any, **options: Any) -> Any:
                if self is adam_formula and next(calls) == parameter:
                    signal.raise_signal(signal.SIGINT)
                return update(*arguments, **options)

            return interrupted

        monkeypatch.setattr(WithKernel, "on", on)
        with pytest.raises(KeyboardInterrupt):
            one_step(pair)
        assert state_of(pair) == before


def test_after_a_failed_step_of_training_the_next_is_as_if_it_had_not_been() -> None:
    straight, stumbling = training(), training()
    one_step(straight)
    bad = batch(7)
    bad[0, 0] = np.nan
    with pytest.raises(ValueError, match="neuron"):
        one_step(stumbling, bad)
    for loss, message in (
        (lambda *_: mm.tensor(math.nan, requires_grad=True) * square_error(*_), "loss of step 1"),
        (lambda *_: 1.0 + 0.0 * square_error(*_).item(), "what loss returned is 1"),
    ):
        model, adam = stumbling
        before = state_of(stumbling)
        with pytest.raises((mm.nn.training.TrainingError, TypeError), match=message):
            next(train(model, [(batch(7), batch(8))], loss, adam, steps=1,
                       schedule=lambda n: 9.0))
        assert state_of(stumbling) == before
    with pytest.raises(ZeroDivisionError):
        next(train(*stumbling[:1], [(batch(7), batch(8))], square_error, stumbling[1], steps=1,
                   schedule=lambda n: 1 / 0))
    assert stumbling[1].lr == 0.5
    one_step(stumbling)
    assert with_any_last(state_of(stumbling)) == with_any_last(state_of(straight))


# ---- bad input ---------------------------------------------------------------------------------

NAN, INF, HUGE = batch(1), batch(1), batch(1, dtype=np.float64)
NAN[1, 2], INF[1, 2], HUGE[1, 2] = np.nan, -np.inf, 1e200
BAD_BATCHES = {
    "nan": NAN, "infinity": INF, "too large": HUGE, "other neurons": batch(1, neurons=4),
    "no sample": batch(1)[:0], "a number": np.array(1.0), "text": np.array([["a"] * 3] * 4),
    "complex": batch(1) + 0j, "objects": batch(1).astype(object), "more axes": batch(1)[..., None],
    "masked": np.ma.masked_array(batch(1), batch(1) > 0),
}


@pytest.mark.parametrize("version", ["kernel", "reading version"])
@pytest.mark.parametrize("batches", [1, 3])
@pytest.mark.parametrize("convention", ["paper", "authors"])
def test_a_tracker_after_bad_input(convention: Any, batches: int, version: str) -> None:
    thing = tracker(convention, batches)()
    before = state_of(thing)
    good = batch(9)
    with nullcontext() if version == "kernel" else mm.reference():
        for z in BAD_BATCHES.values():
            for call in (
                lambda z=z: thing.score(z),
                lambda z=z: thing.flag_top_k(z, 1),
                lambda z=z: thing.flag(z, mono.Above(1.0)),
            ):
                with pytest.raises((TypeError, ValueError)):
                    call()
                assert state_of(thing) == before
        for k in (0, -1, 4, 10**10, 10**30, 1.0, "1", None, True, math.nan, np.uint8(4)):
            with pytest.raises((TypeError, ValueError), match=r"^ScaleTracker\.flag_top_k: k"):
                thing.flag_top_k(good, k)
        for tau in (math.nan, "1", None, True, 1j):
            with pytest.raises((TypeError, ValueError), match=r"^Above: thresh"):
                thing.flag(good, mono.Above(tau))
        assert state_of(thing) == before
        one, other = tracker(convention, batches)(), tracker(convention, batches)()
        for k in (np.uint8(3), np.int64(3), 3):
            np.testing.assert_array_equal(one.flag_top_k(good, k), other.flag_top_k(good, 3))


@pytest.mark.parametrize("version", ["kernel", "reading version"])
@pytest.mark.parametrize("batches", [1, 3])
@pytest.mark.parametrize("kind", [MEmeL, L2E])
def test_modules_after_bad_input(kind: Any, batches: int, version: str) -> None:
    thing = module(kind, batches)()
    before = state_of(thing)
    with nullcontext() if version == "kernel" else mm.reference():
        for name, z in BAD_BATCHES.items():
            if name not in ("text", "objects", "masked", "complex"):  # no tensors
                with pytest.raises((TypeError, ValueError)):
                    thing(mm.Tensor(z))
                assert state_of(thing) == before, name
        for z in (mm.tensor(np.ones((4, 3), int)), mm.tensor(np.ones((4, 3), bool))):
            with pytest.raises(TypeError, match=rf"^{kind.__name__}: activations has dtype"):
                thing(z)
        if kind is MEmeL:
            many = module(MEmeL, 0, k=4)()
            with pytest.raises(ValueError, match=r"^MEmeL: k is 4, expected"):
                many(mm.tensor(batch(1)))
        assert state_of(thing) == before


def test_a_threshold_after_bad_input() -> None:
    thing = threshold(1)()
    before = state_of(thing)
    for selected, scores in (
        (1, 0), (-1, 3), (4, 3), (0.5, 3), (math.nan, 3), (1, math.inf), ("1", 3), (1, None),
        (True, 3), (np.int8(4), np.int8(3)),
    ):
        with pytest.raises((TypeError, ValueError), match=r"^MovingThreshold\.move: (selec|score)"):
            thing.move(selected, scores)
    for phi in (np.array(1.0), np.array([["a"]]), np.ones((0, 3)), np.ones((2, 3)) + 1j):
        with pytest.raises((TypeError, ValueError), match=r"^MovingThreshold: phi"):
            thing.select(phi)
    assert state_of(thing) == before
    other = threshold(1)()
    thing.move(np.uint8(200), np.uint8(250))
    other.move(200, 250)
    assert state_of(thing) == state_of(other)


def test_dropout_after_bad_input() -> None:
    dropout = Sequential(Dropout(0.5, rng=np.random.default_rng(0)))
    before = state_of(dropout)
    for x in (mm.Tensor(np.array([["a"]])), None, "x"):
        with pytest.raises(Exception):  # noqa: B017, PT011  (which one, is not the point here)
            dropout(x)
        assert state_of(dropout) == before


def test_an_optimiser_after_bad_gradients() -> None:
    for bad in (
        np.ones((4, 3), np.float16), np.ones((4, 3)), np.ones((3, 4), np.float32),
        np.ones((4, 3), int), np.float32(1.0), np.array([["a"] * 3] * 4),
    ):
        adam = optimiser(mm.optim.Adam)()
        before = state_of(adam)
        adam.parameters[2].grad = bad
        wrong = TypeError if isinstance(bad, np.generic) else ValueError
        with pytest.raises(wrong, match=r"^Adam: the gradient of parameter 2 "):
            adam.step()
        assert state_of(adam) == before


def test_a_generators_state_that_breaks_off_is_undone() -> None:
    """NumPy sets it part by part, and raises at the part that is missing."""
    from minimono.nn.randomness import pack_rng, unpack_rng

    for kind in (np.random.PCG64, np.random.Philox, np.random.SFC64, np.random.MT19937):
        rng, other = np.random.Generator(kind(0)), np.random.Generator(kind(1))
        text = bytes(pack_rng(other)).decode()
        for part in ('"has_uint32"', '"uinteger"', '"inc"', '"key"', '"pos"', '"counter"'):
            if part not in text:
                continue
            before = bytes(pack_rng(rng))
            with pytest.raises(ValueError, match="generator state cannot be read"):
                unpack_rng(np.frombuffer(text.replace(part, '"x"').encode(), np.uint8), into=rng)
            assert bytes(pack_rng(rng)) == before


@pytest.mark.parametrize("error", [Wrong, Fault])
def test_restoring_a_checkpoint_that_fails(error: Any, tmp_path: Path) -> None:
    model, adam = training()
    rng = np.random.default_rng(3)
    one_step((model, adam))
    mm.checkpoint.save(tmp_path / "run.npz", model, optimiser=adam, rng=rng)
    loaded = mm.checkpoint.load(tmp_path / "run.npz")
    make = lambda: (*training(), np.random.default_rng(4))  # noqa: E731
    done, thing = make(), make()
    loaded.restore(*done)
    before, after = with_any_last(state_of(thing)), with_any_last(state_of(done))
    for n in places():
        try:
            with failing_before(n, error):
                in_its_own_context(loaded.restore, *thing)
        except (error, mm.checkpoint.CheckpointError):
            if with_any_last(state_of(thing)) != before:
                assert with_any_last(state_of(thing)) == after, n
                thing = make()
        else:
            break
