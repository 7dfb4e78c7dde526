"""The demo's table and verdicts, made from its records and from nothing else.

Differences have a 95 % interval over what was measured again and again (batches, updates, pieces of
text, rounds). It says nothing about another seed: there is one run of each. So what another seed
may turn round, which network learns better or is less monosemantic, is never resolved here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from minimono.backend import Array
from minimono.experiments import statistics, tables
from minimono.experiments.four_ways import METHODS, Json
from minimono.experiments.methods import Method

INHIBITING = [method for method in METHODS if method.strength is not None]
UNRESOLVED = statistics.NOT_RESOLVED.capitalize()


class Row(NamedTuple):
    """A line of the table."""

    method: Method
    loss: float  # nats a character
    phi_mean: float
    phi_999: float
    movement: statistics.Interval  # per cent, by updates of the training; over those measured
    rule: statistics.Interval  # per cent, by the rule alone against naive (a); over batches
    cost: statistics.Median  # seconds of a step, over plain's of the same round; over rounds
    constant_neurons: int


def of_kind(records: Sequence[Json], kind: str, method: str | None = None) -> list[Json]:
    return [r for r in records if r["kind"] == kind and method in (None, r["method"])]


def rows(records: Sequence[Json]) -> list[Row]:
    """Return the table's numbers."""
    return [_row(records, method) for method in METHODS]


def _row(records: Sequence[Json], method: Method) -> Row:
    [final] = of_kind(records, "final", method.key)
    return Row(
        method, final["loss"],
        phi_mean=math.nan if final["phi_mean"] is None else final["phi_mean"],
        phi_999=math.nan if final["phi_999"] is None else final["phi_999"],
        movement=statistics.interval(_per_cent(records, "movement", method)[0]),
        rule=statistics.interval(_by_the_rule(records, method)),
        cost=statistics.median(_cost(records, method)),
        constant_neurons=final["constant_neurons"],
    )


def _per_cent(records: Sequence[Json], kind: str, *methods: Method) -> Array:
    """Return movements (methods, n), where all of the methods have one."""
    of_each = [[r["change"] for r in of_kind(records, kind, m.key)] for m in methods]
    known = [found for found in zip(*of_each, strict=True) if None not in found]
    return 100.0 * np.array(known, dtype=np.float64).reshape(-1, len(methods)).T


def _by_the_rule(records: Sequence[Json], method: Method) -> Array:
    """Return the case study's movements minus naive (a)'s on the same batches; plain has none."""
    if method.strength is None:
        return np.empty(0)
    own, none = _per_cent(records, "case study", method, INHIBITING[0])
    return own - none


def _cost(records: Sequence[Json], method: Method) -> Array:
    """Return the seconds of a step, over plain's of the same round."""
    own, plain = (
        [r["seconds"] for r in of_kind(records, "cost", m.key)] for m in (method, METHODS[0])
    )
    return np.divide(own, plain)


HEADINGS = (
    "Method", "Loss", "phi mean", "phi 99.9 %", "Moved in training", "Moved by the rule",
    "Time", "Constant",
)
LEGEND = """\
Loss: validation, nats per character (divide by ln 2 for bits), on the same text as the progress
  bar's and the picture's.
phi: of validation activations behind the middle blocks, against the moments of training ones;
  its mean and its 99.9th percentile.
Moved: change of the flagged activations' distance to their mean by one update, in per cent; below
  0 is towards the mean. In training: by its own updates. By the rule: by one small gradient step
  from one and the same network; the difference to naive (a), which gives no gradient.
Time: of a step, over plain's of the same round; median (95 % interval over rounds).
Constant: neurons without variance, which have no phi.
±: half of the 95 % interval of the mean (Student's t), in training over the updates that were
  measured, by the rule over batches. One network of each, from one seed: none of it is over seeds.
What shows: all verdicts together hold with 95 %, so their intervals are wider than the table's."""


_RULE_CELLS = {"plain": "none", "naive-a": "0"}  # there is no rule; it is what is subtracted


def cells(row: Row) -> list[str]:
    return [
        row.method.name, f"{row.loss:.4f}", _written(row.phi_mean, 3), _written(row.phi_999, 2),
        row.movement.written(2), _RULE_CELLS.get(row.method.key) or row.rule.written(4),
        "1" if row.method is METHODS[0] else row.cost.written(2), str(row.constant_neurons),
    ]


def _written(value: float, digits: int) -> str:
    return "n/a" if math.isnan(value) else f"{value:.{digits}f}"


def table(records: Sequence[Json]) -> str:
    """Write the table in Markdown."""
    return tables.markdown(HEADINGS, map(cells, rows(records)))


# ---- what shows and what does not --------------------------------------------------------------


VERDICTS = 6  # `verdicts` draws two on the rule, one on movement in training, three on time


def verdicts(records: Sequence[Json]) -> list[str]:
    """Say in plain words what this run shows of each claim of the paper."""
    table = {row.method.key: row for row in rows(records)}
    plain, a, b, memel = METHODS
    pieces = [of_kind(records, "final", m.key)[0]["piece_losses"] for m in (memel, plain)]
    loss = statistics.interval(np.subtract(*pieces))
    return [
        "Claim: naive (b) moves flagged activations away from their mean. "
        + _of_the_rule(records, b, above="shows", below="the opposite shows"),
        "Claim: reversing the gradient moves them towards it. "
        + _of_the_rule(records, memel, above="the opposite shows", below="shows"),
        "In training itself, the network's other reasons to move are part of it: "
        + "; ".join(f"{row.method.name} {row.movement.written(2)} %" for row in table.values())
        + ". " + _apart(records, memel, b),
        f"Claim: inhibited networks are less monosemantic. {UNRESOLVED}: one "
        "network of each has no interval. The 99.9th percentile of phi is "
        + ", ".join(f"{_written(row.phi_999, 2)} ({row.method.name})" for row in table.values())
        + ".",
        f"Claim: MEmeL learns better. {UNRESOLVED}: one network of each, and "
        "another seed may turn it round. On this run's validation text MEmeL's loss minus plain's "
        f"is {loss.written(4)} nats (95 % interval over pieces of text, not over seeds).",
        "Time of a step over plain's, median and its interval: "
        + "; ".join(f"{m.name} {_of_the_cost(records, m)}" for m in (a, b, memel))
        + ". On this machine, as busy as it was.",
    ]


def _of_the_rule(records: Sequence[Json], method: Method, *, above: str, below: str) -> str:
    changes = _by_the_rule(records, method)
    if not len(changes):
        return f"{UNRESOLVED}: inhibition had not begun."
    word, found = statistics.judge(changes, above=above, below=below, among=VERDICTS)
    return (
        f"{word.capitalize()}: {found.written(4)} % compared with naive (a), by one step of the "
        f"same network, over {len(changes)} batches."
    )


def _apart(records: Sequence[Json], memel: Method, b: Method) -> str:
    ours, theirs = _per_cent(records, "movement", memel, b)
    word, found = statistics.judge(
        ours, theirs, above="further from their means", below="nearer to their means",
        among=VERDICTS,
    )
    return (
        f"MEmeL's end up nearer than naive (b)'s, or further? {word.capitalize()}: "
        f"{found.written(2)} %, over the {len(ours)} updates that were measured."
    )


def _of_the_cost(records: Sequence[Json], method: Method) -> str:
    ratios = _cost(records, method)
    word = statistics.judge_median(ratios, 1.0, above="slower", below="faster", among=VERDICTS)
    return f"{statistics.median(ratios, among=VERDICTS).written(2)}, {word}"
