"""Modules: which parameters they have, in which order, and how their state is saved and set."""

from collections import OrderedDict, UserDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, strategies

import minimono as mm
from minimono import backend
from minimono.backend import Array
from minimono.nn import Dropout, Linear, Module, Sequential, Tap
from minimono.nn.layers import parameter
from minimono.nn.module import evaluating


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
    ]
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
        (lambda s: s.update({"0.bias": np.ones(5)}), r"0.bias has shape \(5,\), expected \(4,\)"),
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


# ---- parts in containers, parts in several places ----------------------------------------------


def linear(seed: int = 0, n: int = 2) -> Linear:
    return Linear(n, n, rng=np.random.default_rng(seed), dtype=np.float64)


class Holding(Module):
    """Has one attribute, and applies all that it is told to apply."""

    def __init__(self, held: Any, use: Callable[[Any], list[Any]] = list):
        self.held = held
        self.use = use

    def forward(self, x: Any) -> Any:
        for part in self.use(self.held):
            x = part(x) if isinstance(part, Module) else x * part
        return x


class Two(NamedTuple):
    first: Any
    second: Any


CONTAINERS: dict[str, tuple[Callable[[Any, Any], Any], Callable[[Any], list[Any]], list[str]]] = {
    "list": (lambda a, b: [a, b], list, ["0", "1"]),
    "tuple": (lambda a, b: (a, b), list, ["0", "1"]),
    "named tuple": (Two, list, ["0", "1"]),
    "dict": (lambda a, b: {"z": a, "a": b}, lambda d: [*d.values()], ["z", "a"]),
    "dict by number": (lambda a, b: {7: a, 3: b}, lambda d: [*d.values()], ["7", "3"]),
    "ordered dict": (lambda a, b: OrderedDict(z=a, a=b), lambda d: [*d.values()], ["z", "a"]),
    "mapping": (lambda a, b: UserDict(z=a, a=b), lambda d: [*d.values()], ["z", "a"]),
    "read-only": (lambda a, b: MappingProxyType({"z": a, "a": b}),
                  lambda d: [*d.values()], ["z", "a"]),
    "deque": (lambda a, b: deque([a, b]), list, ["0", "1"]),
    "list of lists": (lambda a, b: [[a], [b]], lambda h: [h[0][0], h[1][0]], ["0.0", "1.0"]),
    "dict of lists of dicts": (lambda a, b: {"x": [{"y": a}, 3, (None, b)]},
                               lambda h: [h["x"][0]["y"], h["x"][2][1]], ["x.0.y", "x.2.1"]),
    "with strangers": (lambda a, b: [None, a, "text", 1.0, b],
                       lambda h: [h[1], h[4]], ["1", "4"]),
}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_modules_in_containers_are_parts(kind: str) -> None:
    make, use, names = CONTAINERS[kind]
    first, second = linear(0), linear(1)
    model = Holding(make(first, second), use)
    assert [name for name, _ in model.named_modules()] == ["", *(f"held.{n}" for n in names)]
    assert [name for name, _ in model.named_parameters()] == [
        f"held.{n}.{p}" for n in names for p in ("weight", "bias")
    ]
    model.eval()
    assert [first.training, second.training] == [False, False]
    model(mm.tensor(np.ones((1, 2)))).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    other = Holding(make(linear(2), linear(3)), use)
    other.load_state_dict(model.state_dict())
    assert snapshot(other) == snapshot(model)
    x = mm.tensor(np.ones((1, 2)))
    assert other(x).data.tobytes() == model(x).data.tobytes()


@pytest.mark.parametrize("kind", CONTAINERS)
def test_parameters_in_containers_train_and_are_saved(kind: str) -> None:
    make, use, names = CONTAINERS[kind]
    model = Holding(make(parameter(2.0, np.float64), parameter(3.0, np.float64)), use)
    assert [name for name, _ in model.named_parameters()] == [f"held.{n}" for n in names]
    model(mm.tensor(1.0)).backward()
    mm.optim.SGD(model.parameters(), 0.1).step()  # d(ab)/da = b
    assert [float(p.item()) for p in model.parameters()] == [2.0 - 0.1 * 3.0, 3.0 - 0.1 * 2.0]
    assert [*model.state_dict()] == [f"held.{n}" for n in names]


NESTED = strategies.recursive(
    strategies.sampled_from(["module", "tensor", "nothing"]),
    lambda inner: strategies.lists(inner, max_size=3)
    | strategies.lists(inner, max_size=3).map(tuple)
    | strategies.dictionaries(strategies.sampled_from(["a", "b", 0, 1]), inner, max_size=3),
    max_leaves=12,
)


@given(NESTED)
def test_all_is_found_in_any_nesting(plan: Any) -> None:
    """Against a walk by recursion, which builds what is planned and notes where it put it."""
    modules: dict[str, Module] = {}
    tensors: dict[str, mm.Tensor] = {}

    def build(plan: Any, name: str) -> Any:
        if plan == "module":
            return modules.setdefault(name, Tap())
        if plan == "tensor":
            return tensors.setdefault(name, parameter(len(tensors), np.float64))
        if isinstance(plan, dict):
            return {key: build(part, f"{name}.{key}") for key, part in plan.items()}
        if isinstance(plan, list | tuple):
            return type(plan)(build(part, f"{name}.{i}") for i, part in enumerate(plan))
        return None

    model = Holding(build(plan, "held"))
    assert dict(model.named_modules()) == {"": model, **modules}
    found = dict(model.named_parameters())
    assert [*found] == [*tensors]
    assert all(found[name] is tensors[name] for name in tensors)
    before = [p.item() for p in model.parameters()]
    model.load_state_dict({name: value + 1.0 for name, value in model.state_dict().items()})
    assert [p.item() for p in tensors.values()] == [value + 1.0 for value in before]


def test_what_is_put_into_a_container_later_is_found() -> None:
    model = Holding([linear(0)])
    model.held.append({"more": linear(1)})
    assert [name for name, _ in model.named_modules()] == ["", "held.0", "held.1.more"]


@pytest.mark.parametrize(
    ("held", "message"),
    [
        (lambda: {linear()}, r"held is a set, expected a list"),
        (lambda: frozenset([linear()]), r"held is a frozenset"),
        (lambda: {parameter(1.0)}, r"held is a set"),
        (lambda: [{"a": {linear()}}], r"held\.0\.a is a set"),
        (lambda: {"a": linear()}.values(), r"held is a dict_values"),
        (lambda: {linear(): 1}, r"held has it as a key"),
        (lambda: {"a.b": linear()}, r"held has the key 'a\.b'"),
        (lambda: {"": linear()}, r"held has the key ''"),
        (lambda: {(0, 1): linear()}, r"held has the key \(0, 1\)"),
        (lambda: {None: [linear()]}, r"held has the key None"),
        (lambda: {True: linear()}, r"held has the key True"),
        (lambda: {"0": linear(), 0: linear()}, r"held has the keys 0 and '0'"),
        (lambda: np.array([linear(), None], dtype=object), r"held is an? .*array"),
    ],
)
def test_parts_that_cannot_be_named_are_refused(held: Callable[[], Any], message: str) -> None:
    model = Holding(held())
    for act in (model.parameters, model.state_dict, model.eval, model.number_of_parameters):
        with pytest.raises(TypeError, match=rf"^Holding: {message}"):
            act()


@pytest.mark.parametrize(
    "held",
    [
        {1, 2}, {"a.b": 1, (0, 1): 2}, {"0": 1, 0: 2}, "text", b"bytes", range(10**12), np.ones(3),
        [["a", "b"], ("c",)], {None: None}, np.random.default_rng(0), print,
    ],
)
def test_containers_of_other_things_are_left_alone(held: Any) -> None:
    assert len([*Holding(held).named_modules()]) == 1


def test_a_container_that_holds_itself_is_walked_once() -> None:
    held: list[Any] = [linear()]
    held.append(held)
    assert len([*Holding(held).named_modules()]) == 2


def test_attributes_whose_names_mislead_are_refused() -> None:
    model = Sequential()
    setattr(model, "block.0", linear())
    with pytest.raises(TypeError, match=r"^Sequential: 'block\.0' has a dot"):
        model.parameters()
    model = Sequential()
    model.train = linear()  # type: ignore[method-assign]
    with pytest.raises(TypeError, match=r"^Sequential: 'train' hides"):
        model.parameters()


def test_extra_state_does_not_take_the_name_of_a_parameter() -> None:
    class Both(Module):
        def __init__(self) -> None:
            self.weight = parameter(1.0)

        def extra_state(self) -> dict[str, Array]:
            return {"weight": np.array(1.0)}

    with pytest.raises(ValueError, match=r"0\.weight .*both"):
        Sequential(Both()).state_dict()


def test_parts_of_a_class_are_refused_when_it_is_made() -> None:
    """Every instance would share them, and none would find them."""
    with pytest.raises(TypeError, match=r"^Shared: layer is a Linear of the class.*__init__"):

        class Shared(Module):
            layer = linear()

    with pytest.raises(TypeError, match=r"^SharedList: weights"):

        class SharedList(Module):
            weights = (parameter(1.0),)


def test_slots_are_refused() -> None:
    with pytest.raises(TypeError, match=r"^Slotted: .*__slots__"):

        @dataclass(slots=True)
        class Slotted(Module):
            layer: Module


def test_a_dataclass_may_be_a_module() -> None:
    @dataclass
    class Data(Module):
        layer: Module
        rate: float = 0.5

    assert [name for name, _ in Data(linear()).named_modules()] == ["", "layer"]
    assert Data(linear()).training


def test_a_module_that_refers_to_its_parent_is_walked_once() -> None:
    parent, child = Sequential(), linear()
    parent.child, child.parent = child, parent  # type: ignore[attr-defined]
    child.me = child  # type: ignore[attr-defined]
    assert [name for name, _ in parent.named_modules()] == ["", "child"]
    assert [name for name, _ in child.named_modules()] == ["", "parent"]
    assert [*parent.eval().state_dict()] == ["child.weight", "child.bias"]
    parent.load_state_dict(parent.state_dict())
    assert parent.to("cpu") is parent


def test_depth_has_no_limit() -> None:
    model = inner = linear()
    for _ in range(3000):
        model = Sequential(model)  # type: ignore[assignment]
    held: Any = [linear(1)]
    for _ in range(3000):
        held = [held]
    inner.more = held  # type: ignore[attr-defined]
    assert len([*model.named_modules()]) == 3002
    assert len(model.parameters()) == 4


class Counter(Counting):
    """Counts its calls."""

    def forward(self, x: Any) -> Any:
        self.count += 1
        return x


def test_a_module_in_several_places_counts_once() -> None:
    block = Sequential(linear(), Counter())
    model = Holding([block] * 3)
    assert [name for name, _ in model.named_modules()] == ["", "held.0", "held.0.0", "held.0.1"]
    assert [*model.state_dict()] == ["held.0.0.weight", "held.0.0.bias", "held.0.1.count"]
    assert model.number_of_parameters() == 6
    model(mm.tensor(np.ones((1, 2))))
    assert int(model.state_dict()["held.0.1.count"]) == 3


def test_a_shared_penalty_is_added_once() -> None:
    block = mm.mono.L2E(0.25, start_after=1)
    model = Holding([block] * 3)
    rng = np.random.default_rng(0)
    for _ in range(3):
        model(mm.tensor(rng.standard_normal((8, 4))))
    assert float(block.penalty) != 0.0
    assert float(mm.mono.l2e_penalty(model)) == float(block.penalty)


def test_a_state_that_names_a_shared_part_in_each_of_its_places_still_loads() -> None:
    """As it was saved before shared modules counted once."""
    model = Holding([Sequential(linear(), Counter())] * 3)
    state = model.state_dict()
    count = state.pop("held.0.1.count") + 5
    old = state | {f"held.{i}.1.count": count for i in range(3)}
    model.load_state_dict(old)
    assert model.state_dict()["held.0.1.count"] == count
    before = snapshot(model)
    with pytest.raises(ValueError, match=r"held\.[0-2]\.1\.count .* another name"):
        model.load_state_dict(old | {"held.2.1.count": count + 1})
    with pytest.raises(ValueError, match=r"unexpected \['held\.3\.1\.count'\]"):
        model.load_state_dict(old | {"held.3.1.count": count})
    assert snapshot(model) == before


@pytest.mark.parametrize("layer", [[linear()], len, None, Linear])
def test_sequential_takes_modules_only(layer: Any) -> None:
    with pytest.raises(TypeError, match=r"^Sequential: layer 1 is .*expected a Module"):
        Sequential(linear(), layer)


def test_modes_are_each_modules_own() -> None:
    model = Sequential(Sequential(Tap(), Tap()), Tap())
    inner = vars(model)["0"]
    vars(inner)["1"].eval()
    before = [m.training for _, m in model.named_modules()]
    assert before == [True, True, True, False, True]
    inside = []

    def fail() -> None:
        with evaluating(model):
            inside.extend(m.training for _, m in model.named_modules())
            raise ArithmeticError("on purpose")

    with pytest.raises(ArithmeticError):
        fail()
    assert inside == [False] * 5
    assert [m.training for _, m in model.named_modules()] == before


def test_a_state_that_is_none_and_numbers_beyond_the_dtype() -> None:
    layer = Linear(1, 1, rng=0)
    before = layer.state_dict()
    with pytest.raises(TypeError, match="load_state_dict: state is a NoneType, expected"):
        layer.load_state_dict(None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="bias has numbers beyond what the model's float32 holds"):
        layer.load_state_dict(before | {"bias": np.array([1e300])})
    assert layer.state_dict() == before
