"""What a module consists of: its modules and tensors, found by name, in order, each once.

A part is an attribute, or is held by lists, tuples and dicts there, however nested:
`self.block = [a, {"b": c}]` has the parts "block.0" and "block.1.b". Containers are looked through
whenever parts are asked for, so what is appended later is found. Other objects are not looked into.
What has no clear name (in a set, under a key with a dot) is an error. Nothing here recurses along
the parts, so no network is too deep.
"""

from __future__ import annotations

from collections import UserDict, UserList, deque
from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from types import MappingProxyType
from typing import Any, ClassVar, TypeAlias, TypeVar

import numpy as np

from minimono import describe
from minimono.engine.tensor import Tensor


class HasParts:
    """What holds tensors, and others of its kind, and says so when it is printed."""

    reserved: ClassVar[frozenset[str]] = frozenset()  # names that no part can have

    def __init_subclass__(cls, **options: Any) -> None:
        """Parts are found in what an instance holds itself: refuse those that would be missed."""
        super().__init_subclass__(**options)
        if vars(cls).get("__slots__"):
            raise TypeError(f"{cls.__name__}: a Module cannot have __slots__: they hide its parts")
        for name, part in parts(cls):
            raise TypeError(
                f"{cls.__name__}: {name} is a {type(part).__name__} of the class, which all "
                "instances would share and none would train; assign it to self in __init__"
            )

    def __repr__(self) -> str:
        """Draw the tree of parts as PyTorch does; a run of equal ones is drawn once."""
        return _tree(self, "", {})

    def extra_repr(self) -> str:
        """Return what `repr` says of this alone: settings, its tensors' dtypes and shapes."""
        tensors = {name: part for name, part in parts(self) if isinstance(part, Tensor)}
        shown = describe.plain(vars(self)) | tensors
        return describe.named({name: v for name, v in shown.items() if name not in self.reserved})


Part: TypeAlias = HasParts | Tensor
_PART = (HasParts, Tensor)
Owner = TypeVar("Owner", bound=HasParts)

# What cannot hold a part: most attributes are passed over in one look.
_PLAIN = frozenset({type(None), bool, int, float, str, np.random.Generator})
# Only these are looked through: others may do anything when they are, read files for example.
_IN_ORDER = (list, tuple, deque, UserList)
_BY_NAME = (dict, UserDict, MappingProxyType)
_WITHOUT_ORDER = (set, frozenset, KeysView, ValuesView, ItemsView)
_CONTAINER = (*_IN_ORDER, *_BY_NAME, *_WITHOUT_ORDER, np.ndarray)


def walk(model: Owner) -> Iterator[tuple[str, Owner, list[tuple[str, Part]]]]:
    """Yield each module once: its first name, itself, its own parts."""
    seen: set[int] = set()
    waiting: list[tuple[str, Any]] = [("", model)]
    while waiting:
        prefix, module = waiting.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        own = parts(module)
        yield prefix, module, own
        for name, part in reversed(own):
            if isinstance(part, HasParts):
                waiting.append((dotted(prefix, name), part))


def located(model: Owner, name: str) -> tuple[Owner, str]:
    """Return the innermost module that a name leads to, by any of its names, and what is left."""
    here: Any = model
    while True:
        for path, part in parts(here):
            if isinstance(part, HasParts) and (name == path or name.startswith(path + ".")):
                here, name = part, name[len(path) + 1 :]
                break
        else:
            return here, name


def dotted(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix and name else prefix or name


def parts(holder: HasParts | type[HasParts]) -> list[tuple[str, Part]]:
    """Return the parts in attributes and in containers there, in order, by dotted name."""
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
        if name in holder.reserved or "." in name:
            hides = "hides what Module has under this name"
            trouble = hides if name in holder.reserved else "has a dot"
            raise TypeError(f"{_class_name(holder)}: {name!r} {trouble}; choose another name")
    return found


def _in_container(
    name: str, value: Any, holder: HasParts | type[HasParts]
) -> list[tuple[str, Part]]:
    """Return the parts in a container; what is wrong with it matters only if one is in it."""
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
            ])
    return found


def _entries(name: str, value: Any) -> Iterator[tuple[Any, Any, str]]:
    """Yield keys and values of a container, with what is wrong with the key, if anything is."""
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


def _class_name(holder: HasParts | type[HasParts]) -> str:
    return (holder if isinstance(holder, type) else type(holder)).__name__


# ---- drawing them ------------------------------------------------------------------------------


def _tree(module: HasParts, name: str, drawn: dict[int, str]) -> str:
    """Draw a module's class and settings, and below them its parts.

    drawn: the names of the modules before.
    """
    drawn[id(module)] = f'"{name}"' if name else "the whole"
    runs: list[tuple[str, str, int, str]] = []  # first name, last name, how many, what each is
    for key, part in parts(module):
        if not isinstance(part, HasParts):
            continue
        if id(part) in drawn:
            text = f"{type(part).__name__}, the same as {drawn[id(part)]}"
        else:
            text = _tree(part, dotted(name, key), drawn)
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
    """Return whether they are "block.4" and "block.3", say."""
    (stem, _, i), (other_stem, _, j) = name.rpartition("."), other.rpartition(".")
    return stem == other_stem and i.isdecimal() and j.isdecimal() and int(i) == int(j) + 1
