"""A suite: which functions it calls and how, its cases, minimono's own answer, known mistakes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from types import MappingProxyType
from typing import Any

import numpy as np

from minimono.oracle.case import Case, Value

NONE: Mapping[str, Any] = MappingProxyType({})  # no knobs

# The suites and what they call, so that none has to be imported to find the right one.
SUITES: dict[str, tuple[str, ...]] = {
    "moments": ("moments", "merge", "forget"),
    "scale": ("monosemantic_scale", "score_batches"),
    "selection": ("select_top_k", "select_top_fraction", "select_above"),
    "deactivation": ("deactivate",),
    "module": ("MEmeL",),
    "l2e": ("log_distance_penalty", "feature_scale", "false_killing_rate"),
    "decorrelation": (
        "feature_decorrelation", "decorrelation_penalty", "l1_penalty", "superposition_proxy",
        "fold_into_linear", "dpo_loss", "simpo_loss", "decpo_loss",
    ),
    "metrics": (
        "mono_loss", "effective_features", "redundancy", "polysemanticity", "absorption",
        "feature_monosemanticity_score", "concept_separability",
    ),
    "log_probability": ("response_log_probability",),
    "circuits": ("circuit_attribution", "split_weights", "route"),
    "emergence": ("emergence", "emergence_of_masks", "active_counts"),
    "layers": (
        "gelu", "layer_norm", "softmax", "scaled_dot_product_attention", "cross_entropy",
        "conv_gru_cell",
    ),
}


@dataclass(frozen=True)
class Call:
    """A function under test: its name, its arguments, the names of what it returns.

    `arguments` are passed by position up to the "*", by name after it.
    """

    name: str
    arguments: tuple[str, ...]
    outputs: tuple[str, ...]
    text: str

    def bind(self, values: Mapping[str, Value]) -> tuple[list[Value], dict[str, Value]]:
        """Return the values as positional and keyword arguments."""
        star = self.arguments.index("*") if "*" in self.arguments else len(self.arguments)
        positional = [values[name] for name in self.arguments[:star]]
        return positional, {name: values[name] for name in self.arguments[star + 1 :]}

    def __str__(self) -> str:
        results = ", ".join(self.outputs)
        results = f"({results})" if len(self.outputs) > 1 else results
        return f"{self.name}({', '.join(self.arguments)}) -> {results}"


class Mistakes(Mapping[str, Callable[..., Any]]):
    """The known mistakes in a function: a right one that has knobs, and how each mistake sets them.

    right: a plain NumPy implementation of a call, with a keyword argument for each knob. Without
    any it is right, and a test says so.   rows: the knobs' settings, by what is then wrong.

    >>> def variance(z, *, ddof=1):
    ...     return z.var(axis=0, ddof=ddof)
    >>> mistakes = Mistakes(variance, {"divided by n": {"ddof": 0}})
    >>> import numpy as np
    >>> float(mistakes["divided by n"](np.array([1.0, 3.0])))
    1.0
    """

    def __init__(
        self, right: Callable[..., Any], rows: Mapping[str, Mapping[str, Any]]
    ) -> None:
        self.right, self.rows = right, rows
        self._mistaken = {name: partial(right, **knobs) for name, knobs in rows.items()}

    def __getitem__(self, name: str) -> Callable[..., Any]:
        return self._mistaken[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Suite:
    """cases: makes the cases anew, with their exact truth (the files in vectors/ hold the result).

    own: minimono's own functions, called as the table of calls says.
    mistakes: for each call, wrong implementations by what is wrong with them. A reply that fails is
    compared with them, so that the report can say why.
    """

    name: str
    text: str
    conventions: Mapping[str, Value]
    calls: tuple[Call, ...]
    cases: Callable[[], Iterator[Case]]
    own: Mapping[str, Callable[..., Any]]
    mistakes: Mapping[str, Mapping[str, Callable[..., Any]]] = field(default_factory=dict)

    def call(self, name: str) -> Call:
        return next(call for call in self.calls if call.name == name)


# notes, arguments by name, expected outputs in order and, if need be, what else `Case` takes.
Entries = Iterator[tuple[Any, ...]]
Group = tuple[str, str, int, Callable[[np.random.Generator], Entries]]


def grouped(suite: Suite, groups: Iterable[Group]) -> Iterator[Case]:
    """Make cases, numbered "suite/group/1", "suite/group/2" and so on.

    A group is its name, what it calls, a seed, and what makes its entries from random numbers.
    Groups of one seed share a generator, one after the other.
    """
    generators: dict[int, np.random.Generator] = {}
    for group, called, seed, entries in groups:
        rng = generators.setdefault(seed, np.random.default_rng(seed))
        call = suite.call(called)
        for number, (notes, arguments, outputs, *more) in enumerate(entries(rng), start=1):
            expected = dict(zip(call.outputs, outputs, strict=True))
            id = f"{suite.name}/{group}/{number}"
            yield Case(id, call.name, arguments, expected, notes, **dict(*more))


def get(name: str) -> Suite:
    """Return a suite by its name."""
    if name not in SUITES:
        raise ValueError(f"oracle: no suite is named {name!r}; there are {', '.join(SUITES)}")
    suite: Suite = import_module(f"minimono.oracle.suites.{name}").SUITE
    return suite


def suite_of(call: str) -> str:
    """Return the name of the suite in which a function is called."""
    for suite, calls in SUITES.items():
        if call in calls:
            return suite
    known = (call for calls in SUITES.values() for call in calls)
    raise ValueError(f"oracle: no function is named {call!r}; there are {', '.join(known)}")
