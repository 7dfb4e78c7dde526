"""What networks are made of: modules that hold parameters, other modules, and taps.

A module's parameters and parts are its attributes, in the order in which they were assigned, and
what lists, tuples and dicts there hold, however nested: `self.block = [a, {"b": c}]` has the parts
"block.0" and "block.1.b". Containers are looked through whenever parts are asked for, so what is
appended later is found. That order is the order of `parameters()`, so sums over all parameters
come out the same in every run. A part in several places counts once, under its first name.
"""

from __future__ import annotations

from collections import UserDict, UserList, deque
from collections.abc import Callable, ItemsView, Iterator, KeysView, Mapping, ValuesView
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Self, TypeAlias

import numpy as np

from minimono import backend, describe
from minimono.backend import Array
from minimono.engine.tape import no_grad
from minimono.engine.tensor import Tensor
from minimono.nn.at_once import set_all

Forward: TypeAlias = Callable[..., Tensor]


class Module:
    """A function with parameters. Subclasses assign their parts and define `forward`.

    Parts are modules and tensors in attributes, and in lists, tuples and dicts there: they train
    and are saved under their dotted names, "block.0.mlp.up.weight". A part in several places, or
    one that refers to its parent, counts once, under its first name. What has no clear name (in a
    set, under a key with a dot) is an error as soon as parts are asked for; objects of other kinds
    are not looked into.
    """

    training = True
    around: tuple[Callable[[Forward], Forward], ...] = ()  # what each call goes through (`taps`)

    def __init_subclass__(cls, **options: Any) -> None:
        """Parts are found in what an instance holds itself: refuse those that would be missed."""
        super().__init_subclass__(**options)
        if vars(cls).get("__slots__"):
            raise TypeError(f"{cls.__name__}: a Module cannot have __slots__: they hide its parts")
        for name, part in _parts(cls):
            raise TypeError(
                f"{cls.__name__}: {name} is a {type(part).__name__} of the class, which all "
                "instances would share and none would train; assign it to self in __init__"
            )

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} defines no forward")

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        if not self.around:
            return self.forward(*args, **kwargs)
        call: Forward = self.forward
        for around in self.around:
            call = around(call)
        return call(*args, **kwargs)

    def __repr__(self) -> str:
        """The tree of parts, as PyTorch draws it; a run of equal ones is drawn once."""
        return _tree(self, "", {})

    def extra_repr(self) -> str:
        """What `repr` says of the module itself: settings, its parameters' dtypes and shapes."""
        tensors = {name: part for name, part in _parts(self) if isinstance(part, Tensor)}
        shown = describe.plain(vars(self)) | tensors
        return describe.named({name: v for name, v in shown.items() if name not in _TAKEN})

    def named_modules(self) -> Iterator[tuple[str, Module]]:
        """This module (named "") and all parts of its parts, each once, by dotted name, in order.

        Raises TypeError or ValueError for a part that has no place in the order or no clear name:
        in a set, under a key with a dot, under the name of a method of `Module`.
        """
        return ((name, module) for name, module, _ in _walk(self))

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter once, under its first name, in order."""
        seen = set()
        for prefix, _, parts in _walk(self):
            for name, part in parts:
                if isinstance(part, Tensor) and id(part) not in seen:
                    seen.add(id(part))
                    yield _dotted(prefix, name), part

    def parameters(self) -> list[Tensor]:
        """The parameters that training changes (those with `requires_grad`)."""
        return [p for _, p in self.named_parameters() if p.requires_grad]

    def number_of_parameters(self) -> int:
        return sum(p.size for p in self.parameters())

    def train(self, mode: bool = True) -> Self:
        """Training behaviour: dropout drops, inhibition inhibits."""
        for _, module, _ in _walk(self):
            module.training = mode
        return self

    def eval(self) -> Self:
        """Test behaviour: nothing random, nothing updated."""
        return self.train(False)

    def zero_grad(self) -> None:
        for _, p in self.named_parameters():
            p.grad = None

    def to(self, device: str) -> Self:
        """Move parameters and state to "cpu" or "cuda", in place: all of them, or none."""
        backend.to_device(np.empty(0), device)  # raises if there is no such device
        changes: list[tuple[object, str, Any]] = []
        for _, p in self.named_parameters():
            moved = backend.to_device(p.array, device)
            if moved is not p.array:
                changes += [(p, "array", moved), (p, "lent", None)]
            if p.grad is not None:
                changes.append((p, "grad", backend.to_device(p.grad, device)))
        states = []
        for _, module in self.named_modules():
            state = module.extra_state()
            states.append((module, {k: backend.to_device(v, device) for k, v in state.items()}))
        _change(changes, states)
        return self

    def extra_state(self) -> dict[str, Array]:
        """State that is no parameter but belongs to the model: running moments, generators."""
        return {}

    def load_extra_state(self, state: Mapping[str, Array]) -> None:
        """Take back what `extra_state` gave."""

    def remember(self) -> Callable[[], None]:
        """A call that puts the extra state back as it is now: what undoes a step that failed.

        `nn.train` asks at each step. Where the state is values that never change in place, a
        subclass can keep references instead of these copies.
        """
        state = {name: value.copy() for name, value in self.extra_state().items()}
        return lambda: self.load_extra_state(state)

    def state_dict(self) -> dict[str, Array]:
        """All parameters and extra state by dotted name; the arrays are copies."""
        state = {name: p.array.copy() for name, p in self.named_parameters()}
        for prefix, module in self.named_modules():
            for key, value in module.extra_state().items():
                name = _dotted(prefix, key)
                if name in state:
                    raise ValueError(
                        f"state_dict: {name} is both a parameter and extra state of a "
                        f"{type(module).__name__}; rename one"
                    )
                state[name] = value.copy()
        return state

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Set all parameters and extra state, converted to the model's dtypes.

        Raises ValueError or TypeError on a misfit, and then the model is as it was.
        """
        if not isinstance(state, Mapping):
            raise TypeError(
                f"load_state_dict: state is a {type(state).__name__}, expected arrays by name"
            )
        parameters = dict(self.named_parameters())
        modules = dict(self.named_modules())
        extra: dict[int, dict[str, Array]] = {id(module): {} for module in modules.values()}
        unexpected = []
        for name in state.keys() - parameters.keys():
            owner, key = located(self, name)
            given = extra[id(owner)]
            if key not in owner.extra_state():
                unexpected.append(name)
            elif key in given and not _same(given[key], state[name]):
                raise ValueError(
                    f"load_state_dict: {name} differs from what the state has under another name "
                    f"of the same {type(owner).__name__}"
                )
            given[key] = state[name]
        missing = sorted(parameters.keys() - state.keys())
        for prefix, module in modules.items():
            known = module.extra_state().keys()
            missing += [_dotted(prefix, key) for key in known if key not in extra[id(module)]]
        if missing or unexpected:
            raise ValueError(
                f"load_state_dict: missing {missing}, unexpected {sorted(unexpected)}; "
                "was the state saved from a model built in the same way?"
            )
        values = {}
        for name, p in parameters.items():
            value = backend.as_array(state[name])
            if value.shape != p.shape:
                raise ValueError(
                    f"load_state_dict: {name} has shape {value.shape}, the model expects {p.shape}"
                )
            if value.dtype.kind not in "fiub":
                raise TypeError(f"load_state_dict: {name} has dtype {value.dtype}, expected floats")
            try:
                with np.errstate(over="raise"):
                    here = backend.to_device(value, p.device)
                    values[name] = here.astype(p.dtype, order="C", copy=True)
            except FloatingPointError:
                raise ValueError(
                    f"load_state_dict: {name} has numbers beyond what the model's {p.dtype} holds"
                ) from None

        _change(
            [
                change for name, p in parameters.items()
                for change in ((p, "array", values[name]), (p, "lent", None))
            ],
            [(m, extra[id(m)]) for m in modules.values() if extra[id(m)]],
        )


def _change(
    changes: list[tuple[object, str, Any]], states: list[tuple[Module, dict[str, Array]]]
) -> None:
    """Set attributes and extra states, or if one does not fit, raise with all as it was."""
    put_back = [module.remember() for module, _ in states]
    try:
        for module, state in states:
            module.load_extra_state(state)
        set_all(changes)
    except BaseException:
        for back in put_back:
            back()
        raise


# ---- finding parts -----------------------------------------------------------------------------

Part: TypeAlias = "Module | Tensor"


def located(model: Module, name: str) -> tuple[Module, str]:
    """The innermost module that a dotted name leads to, by any of its names, and what is left."""
    while True:
        for path, part in _parts(model):
            if isinstance(part, Module) and (name == path or name.startswith(path + ".")):
                model, name = part, name[len(path) + 1 :]
                break
        else:
            return model, name


def _same(value: Array, other: Array) -> bool:
    return np.array_equal(backend.to_host(value), backend.to_host(other))


def _dotted(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix and name else prefix or name


def _walk(model: Module) -> Iterator[tuple[str, Module, list[tuple[str, Part]]]]:
    """Each module once: its first name, itself, its parts. Without recursion: no depth too deep."""
    seen: set[int] = set()
    waiting = [("", model)]
    while waiting:
        prefix, module = waiting.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        parts = _parts(module)
        yield prefix, module, parts
        for name, part in reversed(parts):
            if isinstance(part, Module):
                waiting.append((f"{prefix}.{name}" if prefix else name, part))


def _parts(holder: Module | type[Module]) -> list[tuple[str, Part]]:
    """The modules and tensors in attributes and in containers there, in order, by dotted name."""
    found: list[tuple[str, Part]] = []
    for name, value in vars(holder).items():
        if type(value) in _PLAIN:
            continue
        if isinstance(value, _PART):
            found.append((name, value))
        elif isinstance(value, _CONTAINER):
            inside = _in_container(name, value, holder)
            if not inside:
                continue
            found += inside
        else:
            continue
        if name in _TAKEN or "." in name:
            trouble = "hides what Module has under this name" if name in _TAKEN else "has a dot"
            raise TypeError(f"{_class_name(holder)}: {name!r} {trouble}; choose another name")
    return found


_PART = (Module, Tensor)
_TAKEN = frozenset(dir(Module))
# What cannot hold a part: most attributes are passed over in one look.
_PLAIN = frozenset({type(None), bool, int, float, str, np.random.Generator})
# Only these are looked through: other kinds may do anything, read files say, when they are.
_IN_ORDER = (list, tuple, deque, UserList)
_BY_NAME = (dict, UserDict, MappingProxyType)
_WITHOUT_ORDER = (set, frozenset, KeysView, ValuesView, ItemsView)
_CONTAINER = (*_IN_ORDER, *_BY_NAME, *_WITHOUT_ORDER, np.ndarray)


def _in_container(name: str, value: Any, holder: Module | type[Module]) -> list[tuple[str, Part]]:
    """The modules and tensors in a container of this name.

    Without recursion, as `_walk`. What is wrong with a container matters only if a part is in it.
    """
    found: list[tuple[str, Part]] = []
    seen = set()  # containers, since one may hold itself
    waiting: list[tuple[str, Any, str]] = [(name, value, "")]
    while waiting:
        name, value, wrong = waiting.pop()
        if isinstance(value, _PART):
            if wrong:
                raise TypeError(
                    f"{_class_name(holder)}: {wrong}; a {type(value).__name__} there has no name"
                )
            found.append((name, value))
        elif id(value) not in seen:
            seen.add(id(value))
            waiting += reversed([
                (f"{name}.{key}", part, wrong or trouble)
                for key, part, trouble in _entries(name, value) if type(part) not in _PLAIN
            ])  # fmt: skip
    return found


def _entries(name: str, value: Any) -> Iterator[tuple[Any, Any, str]]:
    """Keys and values of a container, with what is wrong with the key, if anything is."""
    if isinstance(value, _IN_ORDER):
        for i, part in enumerate(value):
            yield i, part, ""
    elif isinstance(value, _BY_NAME):
        for key, part in value.items():
            yield key, part, _trouble_with(key, name, value)
            yield "", key, f"{name} has it as a key, expected parts as values"
    elif isinstance(value, _WITHOUT_ORDER):
        for part in value:
            yield "", part, f"{name} is a {type(value).__name__}, expected a list, tuple or dict"
    elif isinstance(value, np.ndarray) and value.dtype == object:
        for part in value.flat:
            yield "", part, f"{name} is an array of objects, expected a list, tuple or dict"


def _trouble_with(key: Any, name: str, value: Mapping[Any, Any]) -> str:
    if isinstance(key, bool) or not isinstance(key, str | int | np.integer):
        return f"{name} has the key {key!r}, expected text or a whole number"
    if isinstance(key, str):
        bad = not key or "." in key
        return f"{name} has the key {key!r}, expected a name without dots" if bad else ""
    return f"{name} has the keys {key!r} and {str(key)!r}" if str(key) in value else ""


def _tree(module: Module, name: str, drawn: dict[int, str]) -> str:
    """A module's class and settings, and below them its parts; `drawn`: names of those before."""
    drawn[id(module)] = f'"{name}"' if name else "the whole"
    runs: list[tuple[str, str, int, str]] = []  # first name, last name, how many, what each is
    for key, part in _parts(module):
        if not isinstance(part, Module):
            continue
        if id(part) in drawn:
            text = f"{type(part).__name__}, the same as {drawn[id(part)]}"
        else:
            text = _tree(part, _dotted(name, key), drawn)
        if runs and runs[-1][3] == text and _follows(key, runs[-1][1]):
            runs[-1] = (runs[-1][0], key, runs[-1][2] + 1, text)
        else:
            runs.append((key, key, 1, text))
    body = ""
    for first, last, count, text in runs:
        names = first if count == 1 else f"{first}-{last.rpartition('.')[2]}"
        times = "" if count == 1 else f"{count} x "
        body += f"\n({names}): {times}{text}"
    settings = module.extra_repr()
    if not body:
        return f"{type(module).__name__}({settings})"
    inside = f"\n{settings}{body}" if settings else body
    return f"{type(module).__name__}({inside.replace(chr(10), chr(10) + '  ')}\n)"


def _follows(name: str, other: str) -> bool:
    """Whether they are "block.4" and "block.3", say."""
    (stem, _, i), (other_stem, _, j) = name.rpartition("."), other.rpartition(".")
    return stem == other_stem and i.isdecimal() and j.isdecimal() and int(i) == int(j) + 1


def _class_name(holder: Module | type[Module]) -> str:
    return (holder if isinstance(holder, type) else type(holder)).__name__


# ---- what modules are put together with ---------------------------------------------------------


@contextmanager
def evaluating(model: Module) -> Iterator[None]:
    """In this block: no tape, and the model in `eval()`; afterwards each part has its mode."""
    modes = [(module, module.training) for _, module in model.named_modules()]
    try:
        model.eval()
        with no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


class Sequential(Module):
    """Modules one after another, named "0", "1", ...

    >>> import numpy as np
    >>> Sequential(Tap(), Tap())(Tensor(np.ones(2)))
    tensor([1., 1.])
    """

    def __init__(self, *layers: Module):
        for i, layer in enumerate(layers):
            if not isinstance(layer, Module):
                raise TypeError(f"Sequential: layer {i} is {layer!r}, expected a Module")
            setattr(self, str(i), layer)

    def forward(self, x: Tensor) -> Tensor:
        for layer in list(vars(self).values()):
            if isinstance(layer, Module):
                x = layer(x)
        return x


class Tap(Module):
    """A named place in a network where an activation can be read or replaced (see `taps`).

    On its own it returns what it gets. Its name is its path in the model: "block.3.mlp.act".
    What is inserted comes first, then what replaces, in the order in which it was attached; then
    the readers get what flows on.
    """

    inserted: Module | None = None
    replacements: tuple[Callable[[Tensor], Tensor], ...] = ()
    readers: tuple[Callable[[Tensor], None], ...] = ()

    def forward(self, x: Tensor) -> Tensor:
        if self.inserted is not None:
            x = self.inserted(x)
        for replacement in self.replacements:
            x = replacement(x)
        for reader in self.readers:
            reader(x)
        return x
