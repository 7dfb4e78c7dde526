"""A test case: what goes in, what must come out, how exactly; and its form in JSON.

JSON keeps every digit: a float64 is written as the 16 hex digits of its bits, beside a readable
`text` that nobody has to parse. Whole numbers of any size are decimal strings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minimono.backend import Array
from minimono.describe import short

# What an argument can be: an array, a list of arrays (one per call of a trajectory), or a plain
# number, string, bool or None.
Value = Any

TINY = {2.0**-52: 2.0**-1022, 2.0**-10: 2.0**-14}  # by eps; float32's and bfloat16's is 2**-126

BOUNDS = {"linear", "quadratic", "either"}  # what an output may have beside its value
BOUND = 16  # the constant c of the tolerances; measured by tests/oracle/test_sound.py


@dataclass(frozen=True, eq=False)
class Expected:
    """One output: its true value, and how far from it a sound implementation can be.

        allowed error = eps · linear + eps² · quadratic + tiny

    eps: the rounding unit of the dtype under test (2**-52 for float64), tiny: its smallest normal
    number, since results below it may become 0. No `linear` means exact, as for masks, counts and
    values that are copied. Where `either` is True, a flag may be up or down.
    """

    value: Array  # float64, bool or int64; of dtype object for whole numbers of any size
    linear: Array | None = None
    quadratic: Array | None = None
    either: Array | None = None

    def allowed(self, eps: float) -> Array:
        """Return the allowed error of each element, for a dtype of this eps."""
        if self.linear is None:
            return np.zeros(np.shape(self.value))
        quadratic = 0.0 if self.quadratic is None else self.quadratic
        return eps * self.linear + eps * eps * quadratic + TINY.get(eps, 2.0**-126)


    def errors(self, got: Array) -> Array:
        """Return how far off each element is; infinite where a nan or a flag is wrong."""
        want = np.asarray(self.value)
        if want.dtype == np.float64:
            return distance(got, want)
        wrong = got != want
        if self.either is not None:
            wrong &= ~self.either
        return np.where(wrong, np.inf, 0.0)


def distance(a: Array, b: Array) -> Array:
    """|a - b| element by element; 0 between equal infinities and between nans, else infinite."""
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.where(same, 0.0, abs(a - b))
    return np.where(np.isnan(apart), np.inf, apart)


@dataclass(frozen=True, eq=False)
class Case:
    """One call of one function.

    id: "suite/group/number", never given twice: a mistaken case keeps its id and is superseded.
    extreme: near the ends of float64's range, where even sound code may fail; run on request.
    condition: by how much rounding of the inputs is amplified, at worst.
    """

    id: str
    call: str
    arguments: Mapping[str, Value]
    expected: Mapping[str, Expected | list[Expected]]
    notes: str
    condition: float = 1.0
    extreme: bool = False
    superseded: str | None = None
    conventions: Mapping[str, Value] = field(default_factory=dict)

    @property
    def suite(self) -> str:
        return self.id.split("/")[0]

    def fits(self, dtype: str) -> bool:
        """Return whether `dtype` holds every float array of the arguments without rounding."""
        arrays = (
            a for v in self.arguments.values() for a in (v if isinstance(v, list) else [v])
        )
        with np.errstate(over="ignore", under="ignore"):
            return all(
                np.array_equal(a.astype(dtype).astype(np.float64), a, equal_nan=True)
                for a in arrays
                if isinstance(a, np.ndarray) and a.dtype == np.float64
            )


# ---- JSON --------------------------------------------------------------------------------------


def to_json(case: Case) -> dict[str, Any]:
    """Return a case as JSON values."""
    entry: dict[str, Any] = {
        "id": case.id,
        "call": case.call,
        "notes": case.notes,
        "condition": float(f"{case.condition:.3g}"),
        "arguments": {name: encode(v) for name, v in case.arguments.items()},
        "expected": {name: _expected_to_json(e) for name, e in case.expected.items()},
    }
    if case.extreme:
        entry["extreme"] = True
    if case.superseded is not None:
        entry["superseded"] = case.superseded
    return entry


def from_json(entry: Mapping[str, Any], conventions: Mapping[str, Value]) -> Case:
    """Return the case that `to_json` wrote; ValueError or TypeError if it did not."""
    texts = [entry["id"], entry["call"], entry["notes"], entry.get("superseded", "")]
    condition, extreme = entry["condition"], entry.get("extreme", False)
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("id, call, notes and superseded are texts")
    if isinstance(condition, bool) or not condition >= 0 or not isinstance(extreme, bool):
        raise ValueError("condition is a number of at least 0, extreme is true or false")
    return Case(
        id=entry["id"],
        call=entry["call"],
        arguments={name: decode(v) for name, v in entry["arguments"].items()},
        expected={name: _expected_from_json(e) for name, e in entry["expected"].items()},
        notes=entry["notes"],
        condition=condition,
        extreme=extreme,
        superseded=entry.get("superseded"),
        conventions=dict(conventions),
    )


def encode(value: Value) -> Any:
    """Return an argument or output as JSON.

    >>> encode(np.array([0.1, np.nan]))["bits"]
    ['3fb999999999999a', '7ff8000000000000']
    >>> encode(0.5), encode("paper")
    ({'bits': '3fe0000000000000', 'text': '0.5'}, 'paper')
    """
    if isinstance(value, list):
        return [encode(v) for v in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return {"bits": f"{int(np.float64(value).view(np.uint64)):016x}", "text": repr(value)}
    array = np.asarray(value)
    entry: dict[str, Any] = {"dtype": str(array.dtype), "shape": list(array.shape)}
    flat = array.reshape(-1)
    if array.dtype == np.float64:
        entry["bits"] = [f"{int(b):016x}" for b in np.ascontiguousarray(flat).view(np.uint64)]
        entry["text"] = [repr(float(v)) for v in flat]
    elif array.dtype == bool:
        entry["values"] = [bool(v) for v in flat]
    elif array.dtype == np.int64:
        entry["values"] = [int(v) for v in flat]
    elif array.dtype == object:
        entry |= {"dtype": "integer", "text": [str(v) for v in flat]}
    else:
        raise TypeError(f"encode: array has dtype {array.dtype}, expected float64, int64 or bool")
    return entry


def decode(entry: Any) -> Value:
    """Return what `encode` encoded.

    >>> decode({"dtype": "float64", "shape": [1], "bits": ["3fe0000000000000"], "text": ["0.5"]})
    array([0.5])
    """
    if isinstance(entry, list):
        return [decode(e) for e in entry]
    if not isinstance(entry, dict):
        return entry
    if "dtype" not in entry:
        return float(_floats([entry["bits"]])[0])
    shape, dtype = entry["shape"], entry["dtype"]
    if dtype == "float64":
        array = _floats(entry["bits"])
    elif dtype == "integer":
        array = np.array([int(t) for t in entry["text"]] + [None], dtype=object)[:-1]
    elif dtype in ("bool", "int64"):
        kind = bool if dtype == "bool" else int
        if not all(type(value) is kind for value in entry["values"]):
            raise TypeError(f"values of dtype {dtype} are of another kind")
        array = np.array(entry["values"], dtype=dtype)
    else:
        raise ValueError(f"dtype is {short(dtype)}, expected float64, bool, int64 or integer")
    if not all(type(n) is int and n >= 0 for n in shape) or math.prod(shape) != array.size:
        raise ValueError(f"shape is {short(shape)} for {array.size} values")
    return array.reshape(shape)


def _floats(bits: list[str]) -> Array:
    return np.array([int(b, 16) for b in bits], dtype=np.uint64).view(np.float64)


def _expected_to_json(expected: Expected | Sequence[Expected]) -> Any:
    if not isinstance(expected, Expected):
        return [_expected_to_json(e) for e in expected]
    entry = {"value": encode(np.asarray(expected.value))}
    for name in ("linear", "quadratic", "either"):
        array = getattr(expected, name)
        if array is not None:  # flat; bounds to three digits, which need no bits
            flat = np.broadcast_to(array, np.shape(expected.value)).reshape(-1)
            entry[name] = [bool(v) if name == "either" else float(f"{v:.3g}") for v in flat]
    return entry


def _expected_from_json(entry: Any) -> Expected | list[Expected]:
    if isinstance(entry, list):
        return [_expected_from_json(e) for e in entry]  # type: ignore[misc]
    value = decode(entry["value"])
    if not isinstance(value, np.ndarray) or not entry.keys() <= {"value", *BOUNDS}:
        raise TypeError("an output is an array as its value, and linear, quadratic, either")
    bounds: dict[str, Array] = {}
    for name in BOUNDS & entry.keys():
        bound = np.array(entry[name])
        if bound.size and bound.dtype.kind not in ("b" if name == "either" else "iuf"):
            raise TypeError(f"{name} has entries of another kind")
        bounds[name] = bound.astype(bool if name == "either" else np.float64).reshape(value.shape)
    return Expected(value, **bounds)
