"""Suite `emergence`: paths from inactive to active nodes, counted. Everything here is exact."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise, product
from typing import Any

import numpy as np

from minimono import mono
from minimono.backend import Array
from minimono.oracle.case import Case, Expected
from minimono.oracle.suite import Call, Entries, Mistakes, Suite, grouped
from minimono.oracle.truth import exact, float32, settled

Formula = Callable[..., Any]

# ---- the truth, in Python's integers; its knobs make it wrong ------------------------------------


def paths(
    widths: list[int], active: list[int], form: str, *,
    form_as: Formula = str, layers: slice = slice(None), number: type = int,
    in_one_pass: bool = False, result: Formula = lambda total, widths: total,
    start: Formula = lambda n, a: n - a, end: Formula = lambda n, a: a,
    through: Formula = lambda n, a, form: n if form == "A" else a,
    first: int = 1, last: int = 0, longest: int = 10**9, within: bool = False,
) -> Any:
    """Return the sum over pairs of layers i < j, as it is defined.

    number: the type that counts.   result: what becomes of the sum.   first, last: where the
    product over the layers between begins (i + first) and ends (before j + last).   longest: how
    far apart two layers may be.   within: whether i = j is a pair too.
    """
    form, widths, active = form_as(form), widths[layers], active[layers]
    total: Any = number(0)
    arriving = total
    for j, (n_j, a_j) in enumerate(zip(widths, active, strict=True)):
        if in_one_pass:
            total += a_j * arriving
            arriving = arriving * through(n_j, a_j, form) + start(n_j, a_j)
            continue
        for i in range(max(0, j - longest), j + within):
            product = number(start(widths[i], active[i])) * number(end(n_j, a_j))
            for k in range(i + first, j + last):
                product *= number(through(widths[k], active[k], form))
            total += product
    return result(total, widths)


def paths_of_masks(
    masks: list[Array], active: list[Array], form: str, *,
    form_as: Formula = str, number: type = object, mask_of: Formula = lambda mask: mask,
    start: Formula = lambda on: ~on, end: Formula = lambda on: on,
    blocked: Formula = lambda on, form: ~on if form == "B" else on & False,
    longer: bool = True, result: Formula = int,
) -> Any:
    """Count the paths that end in each node and start at an inactive one, layer by layer.

    number: the dtype that counts.   blocked: which nodes are not passed through.   longer: whether
    paths go on at all.
    """
    total: Any = 0
    arriving: Any = np.zeros(len(active[0]), dtype=number)
    for mask, (here, there) in zip(masks, pairwise(active), strict=True):
        arriving = mask_of(mask).astype(number) @ (arriving + start(here).astype(number))
        total = total + arriving[end(there)].sum()
        arriving = np.where(blocked(there, form_as(form)), 0, arriving) if longer else 0 * arriving
    return result(total)


def counts(
    z: Array, *, threshold: Any, per: str,
    change: Formula = lambda z: z, pool: Formula = lambda z: z.mean(axis=0),
    above: Formula = lambda z, threshold: z > threshold,
    each: Formula = lambda on: on.reshape(len(on), -1).sum(axis=1),
) -> Any:
    """Count what is above the threshold; per="batch" compares what `pool` makes of samples."""
    z = change(z)
    return int(above(pool(z), threshold).sum()) if per == "batch" else each(above(z, threshold))


# ---- cases ---------------------------------------------------------------------------------------


def _of_widths(rng: np.random.Generator) -> Entries:
    plans: list[tuple[str, list[int], list[int]]] = [
        ("A 12, B 8", [3, 2, 2], [1, 1, 2]),
        ("A 16, B 13", [4, 3, 2], [1, 2, 1]),
        ("a network for pictures of digits", [784, 128, 64, 10], [300, 60, 30, 5]),
        ("two layers: one pair, A and B are the same", [5, 4], [2, 3]),
        ("one layer: no path", [7], [3]),
        ("all active: nothing to start from", [3, 4, 5], [3, 4, 5]),
        ("all inactive: nowhere to end", [3, 4, 5], [0, 0, 0]),
        ("a layer without active nodes: B does not get past it, A does", [2, 3, 2, 4],
         [1, 0, 1, 2]),
        ("only the first layer has inactive nodes", [6, 2, 3], [2, 2, 3]),
        ("only the last layer has active nodes", [2, 3, 4], [0, 0, 3]),
        ("only neighbouring layers would miss most paths", [2, 2, 2, 2, 2], [1, 1, 1, 1, 1]),
        ("widths of 1", [1, 1, 1, 1], [0, 1, 0, 1]),
        ("ten layers", *_drawn(rng, layers=10, widest=9)),
        ("above 2^53: float64 no longer counts in steps of 1", [3**9] * 5, [7001, 6007, 5003, 401,
         307]),
        ("above 2^63: int64 wraps round", [4093] * 8, [1001, 999, 2003, 1777, 31, 4001, 2999, 1]),
        ("above 2^64, and odd: uint64 wraps round", [65537] * 6, [65535, 3, 5, 7, 11, 13]),
        ("a deep and wide network: 80 digits", [2039] * 24,
         [int(a) for a in rng.integers(1, 2039, size=24)]),
        ("above 1.8e308: float64 overflows to infinity", [2**30] * 36, [2**30 - 1] * 36),
    ]
    for (notes, widths, active), form in product(plans, "AB"):
        arguments = {"widths": widths, "active": active, "form": form}
        found = np.array(paths(widths, active, form), dtype=object)
        yield f"{notes}; form {form}", arguments, [Expected(found)]


def _drawn(rng: np.random.Generator, layers: int, widest: int) -> tuple[list[int], list[int]]:
    widths = [int(n) for n in rng.integers(1, widest + 1, size=layers)]
    return widths, [int(rng.integers(0, n + 1)) for n in widths]


def _of_masks(rng: np.random.Generator) -> Entries:

    def network(
        widths: list[int], active: float | list[int], kept: float = 1.0
    ) -> tuple[list[Array], list[Array]]:
        """Draw masks with a share of weights, and active nodes by a share or by counts."""
        masks = [rng.random((after, before)) < kept for before, after in pairwise(widths)]
        if isinstance(active, list):
            return masks, [np.arange(n) < a for n, a in zip(widths, active, strict=True)]
        return masks, [rng.random(n) < active for n in widths]

    hand = [np.array([[1, 1, 0], [0, 1, 1]], dtype=bool), np.array([[1, 0]], dtype=bool)]
    lit = [np.array([0, 1, 1], dtype=bool), np.array([1, 0], dtype=bool), np.array([True])]
    plans: list[tuple[str, tuple[list[Array], list[Array]]]] = [
        ("3, 2 and 1 nodes, to try by hand", (hand, lit)),
        ("nothing pruned: as `emergence`, A 12, B 8", network([3, 2, 2], [1, 1, 2])),
        ("nothing pruned: as `emergence`, A 16, B 13", network([4, 3, 2], [1, 2, 1])),
        ("half of the weights pruned", network([6, 5, 4, 3], 0.5, 0.5)),
        ("70 % pruned", network([12, 10, 8, 6], 0.4, 0.3)),
        ("everything pruned: no path", network([4, 3, 2], 0.5, 0.0)),
        ("as wide as high, not symmetric: a transposed mask fits, and is wrong",
         network([4, 4, 4], 0.5, 0.5)),
        ("one layer: no mask, no path", ([], [np.array([True, False])])),
        ("all active", network([3, 3, 3], 1.1)),
        ("all inactive", network([3, 3, 3], -1.0)),
        ("a layer without active nodes", network([3, 4, 3, 2], [1, 0, 2, 1], 0.8)),
        ("above 2^53: float64 no longer counts in steps of 1", network([7] * 23, 0.6, 0.95)),
        ("above 2^63: int64 wraps round", network([5] * 34, 0.6, 0.97)),
        ("narrow and deep, above 2^128", network([3] * 90, 0.7)),
    ]
    for (notes, (masks, active)), form in product(plans, "AB"):
        arguments = {"masks": masks, "active": active, "form": form}
        found = np.array(paths_of_masks(masks, active, form), dtype=object)
        yield f"{notes}; form {form}", arguments, [Expected(found)]


def _counts(rng: np.random.Generator) -> Entries:
    at = np.array([[0.25, 0.5, 0.0], [0.25, 0.0, 0.125], [0.25, 0.5, 1.0]])
    plans: list[tuple[str, Array, float]] = [
        ("the usual threshold", np.array([[0.0, 0.2, 1.0], [0.0, 0.0, 1.0]]), 0.05),
        ("values that equal the threshold are not above it", at, 0.25),
        ("a mean that equals the threshold is not above it",
         np.array([[0.5, 1.0], [0.0, 0.5], [0.25, 0.0]]), 0.25),
        ("the stored 0.05 equals the threshold 0.05 (for float64 only)",
         np.array([[0.05, 0.06, 0.04]]), 0.05),
        ("threshold 0: an activation of 0 is inactive", np.array([[0.0, 1.0], [0.0, 2.0]]), 0.0),
        ("negative ones count with their sign", np.array([[-3.0, 0.5], [-2.0, -0.75]]), 0.05),
        ("a mean below the threshold, though one sample is far above it",
         np.array([[4.0, 0.0], [-4.0, 1.0], [-1.0, 1.0]]), 0.05),
        ("a negative threshold", np.array([[-0.5, 0.0, -2.0], [0.5, 0.0, 1.0]]), -0.25),
        ("one sample: its values are the means", np.array([[0.0, 0.1, 0.5, 0.01]]), 0.05),
        ("one neuron", float32(rng.normal(size=(5, 1))), 0.05),
        ("relu of noise", float32(np.maximum(rng.normal(size=(6, 8)), 0.0)), 0.5),
        ("a sequence (B, T, C): a node is a (position, channel) pair",
         float32(np.maximum(rng.normal(size=(4, 3, 4)), 0.0)), 0.25),
        ("a feature map (B, C, Y, X): a node is a (channel, y, x) triple",
         float32(np.maximum(rng.normal(size=(3, 2, 3, 3)), 0.0)), 0.25),
        ("as many samples as neurons", float32(rng.normal(size=(4, 4))), 0.1),
    ]
    for (notes, z, threshold), per in product(plans, ("batch", "sample")):
        lifted, limit = exact(z), Fraction(threshold)
        settled(lifted.mean(axis=0) if per == "batch" else lifted, limit, abs(z).max())
        found = np.array(counts(lifted, threshold=limit, per=per), dtype=np.int64)
        arguments = {"z": z, "threshold": threshold, "per": per}
        yield f"{notes}; per {per}", arguments, [Expected(found)]


def cases() -> Iterator[Case]:
    return grouped(SUITE, [
        ("widths", "emergence", 20240901, _of_widths),
        ("masks", "emergence_of_masks", 20240902, _of_masks),
        ("counts", "active_counts", 20240903, _counts),
    ])


# ---- known mistakes ------------------------------------------------------------------------------

LARGEST = np.finfo(np.float64).max


def _in_float64(total: Any, widths: Any = None) -> int:
    """Round to float64, as a whole number; what does not fit becomes the largest float64."""
    return int(float(min(total, int(LARGEST))))


OTHER = {"A": "B", "B": "A"}.get

WIDTHS = Mistakes(paths, {
    "counted in int64, which wraps round above 2^63":
        {"result": lambda total, widths: (total + 2**63) % 2**64 - 2**63},
    "counted in uint64, which wraps round above 2^64":
        {"result": lambda total, widths: total % 2**64},
    "counted in int32, which wraps round above 2^31":
        {"result": lambda total, widths: (total + 2**31) % 2**32 - 2**31},
    "counted in float64, which rounds above 2^53 (pair by pair)":
        {"number": float, "result": _in_float64},
    "counted in float64, which rounds above 2^53 (in one pass)":
        {"number": float, "result": _in_float64, "in_one_pass": True},
    "the right number, rounded to float64 at the end": {"result": _in_float64},
    "forms A and B have changed places": {"form_as": OTHER},
    "form A, whichever was asked for": {"form_as": lambda form: "A"},
    "form B, whichever was asked for": {"form_as": lambda form: "B"},
    "the product over the layers between starts with the first layer itself": {"first": 0},
    "the product over the layers between includes the last layer itself": {"last": 1},
    "the product over the layers between leaves its first layer out": {"first": 2},
    "the product over the layers between leaves its last layer out": {"last": -1},
    "the layers between are left out: only their ends count": {"through": lambda n, a, form: 1},
    "through inactive nodes only": {"through": lambda n, a, form: n - a},
    "only neighbouring layers": {"longest": 1},
    "the paths start at active nodes": {"start": lambda n, a: a},
    "the paths start at any node": {"start": lambda n, a: n},
    "the paths end at inactive nodes": {"end": lambda n, a: n - a},
    "the paths end at any node": {"end": lambda n, a: n},
    "from active to inactive nodes, or the layers taken backwards":
        {"start": lambda n, a: a, "end": lambda n, a: n - a},
    "pairs within a layer are counted too": {"within": True},
    "the input layer is left out": {"layers": slice(1, None)},
    "the output layer is left out": {"layers": slice(-1)},
    "divided by the number of weights": {
        "result": lambda total, widths: total // max(1, sum(x * y for x, y in pairwise(widths))),
    },
})

MASKS = Mistakes(paths_of_masks, {
    "counted in int64, which wraps round above 2^63": {"number": np.int64},
    "counted in float64, which rounds above 2^53": {"number": np.float64, "result": _in_float64},
    "counted in booleans: whether there is a path, not how many": {"number": bool},
    "forms A and B have changed places": {"form_as": OTHER},
    "form A, whichever was asked for": {"form_as": lambda form: "A"},
    "form B, whichever was asked for": {"form_as": lambda form: "B"},
    "the masks are transposed (in, out)":
        {"mask_of": lambda mask: mask.T if mask.T.shape == mask.shape else mask},
    "the pruned weights are counted, not those that are left": {"mask_of": lambda mask: ~mask},
    "pruning is ignored: widths only": {"mask_of": np.ones_like},
    "the share of weights kept instead of which": {
        "mask_of": lambda mask: np.full(mask.shape, Fraction(int(mask.sum()), mask.size)),
        "result": round,
    },
    "only neighbouring layers": {"longer": False},
    "the paths start at active nodes": {"start": lambda on: on},
    "the paths start at any node": {"start": lambda on: on | True},
    "the paths end at inactive nodes": {"end": lambda on: ~on},
    "the paths end at any node": {"end": lambda on: on | True},
    "from active to inactive nodes, not from inactive to active ones":
        {"start": lambda on: on, "end": lambda on: ~on},
    "through inactive nodes only": {"blocked": lambda on, form: on},
    "the nodes of a layer in the wrong order": {"mask_of": lambda mask: mask[:, ::-1]},
})


def _channel_means(z: Array) -> Array:
    """Return the means over the positions of a sequence (B, T, C) or a map (B, C, Y, X)."""
    return z.mean(axis={2: (), 3: 1, 4: (2, 3)}[z.ndim])


COUNTS = Mistakes(counts, {
    "at least the threshold, not above it": {"above": lambda z, threshold: z >= threshold},
    "absolute values": {"change": abs},
    "the inactive are counted": {"above": lambda z, threshold: z <= threshold},
    "the threshold is ignored: above 0": {"above": lambda z, threshold: z > 0},
    "the threshold is ignored: 0.05": {"above": lambda z, threshold: z > 0.05},
    "the threshold is taken of the largest activation":
        {"above": lambda z, threshold: z > threshold * z.max()},
    "the highest sample is compared, not the mean": {"pool": lambda z: z.max(axis=0)},
    "the sum over samples is compared, not the mean": {"pool": lambda z: z.sum(axis=0)},
    "the median is compared, not the mean": {"pool": lambda z: np.median(z, axis=0)},
    "the mean of absolute values is compared": {"pool": lambda z: abs(z).mean(axis=0)},
    "the first sample is compared, not the mean": {"pool": lambda z: z[0]},
    "activations counted over the whole batch, not nodes": {"pool": lambda z: z},
    "relu before the mean": {"pool": lambda z: np.maximum(z, 0.0).mean(axis=0)},
    "the mean over the last axis, not over the samples": {"pool": lambda z: z.mean(axis=-1)},
    "one number for each neuron, not for each sample":
        {"each": lambda on: on.sum(axis=0).reshape(-1)},
    "channels are counted by their mean over positions, not nodes": {"change": _channel_means},
})


SUITE = Suite(
    name="emergence",
    text="how many paths lead from inactive to active nodes, as whole numbers of any size",
    conventions={
        "paths": "from an inactive node to a later active one, along one edge at least; layers "
        "from the input, which takes part",
        "form": '"A": through any nodes; "B": after the first only through active ones',
        "numbers": "exact whole numbers, however large: int64 and float64 are too short for some",
        "masks": "(out, in), True where a weight is left",
        "active": "strictly above the threshold, with the sign; per batch by the mean over samples",
        "node": "all axes but the first; axis 0 is the samples",
    },
    calls=(
        Call("emergence", ("widths", "active", "*", "form"), ("paths",),
             "widths, active: lists of whole numbers, one for each layer: how many nodes it has,\n"
             "how many of them are active.\n"
             "A: sum over i<j of (n_i - a_i) a_j prod of n_k, i<k<j.\n"
             "B: sum over i<j of (n_i - a_i) prod of a_k, i<k<=j."),
        Call("emergence_of_masks", ("masks", "active", "*", "form"), ("paths",),
             "active: for each layer booleans (n,). masks: for each pair of neighbours booleans\n"
             "(n of the later, n of the earlier). Masks of ones give `emergence`."),
        Call("active_counts", ("z", "*", "threshold", "per"), ("counts",),
             'z (B, *neurons). per "batch": one whole number, the nodes whose mean over the\n'
             'samples is above the threshold. per "sample": (B,), each sample by its own values.'),
    ),
    cases=cases,
    own={
        "emergence": mono.emergence,
        "emergence_of_masks": mono.emergence_of_masks,
        "active_counts": mono.active_counts,
    },
    mistakes={"emergence": WIDTHS, "emergence_of_masks": MASKS, "active_counts": COUNTS},
)
