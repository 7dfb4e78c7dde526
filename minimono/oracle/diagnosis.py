"""Why an implementation fails: its replies are compared with those of known mistakes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minimono.backend import Array
from minimono.oracle.adapters import Reply, to_numpy
from minimono.oracle.case import Case, Expected
from minimono.oracle.suite import Suite

Answers = Sequence[tuple[Case, list[Reply] | None]]

FLOAT32 = float(np.finfo(np.float32).eps)
FLOAT64 = float(np.finfo(np.float64).eps)


def diagnose(suite: Suite, call: str, answers: Answers) -> dict[str, str]:
    """For each failed case, by id, the mistake that its reply shows, if one is known.

    A mistake explains an implementation if it gives the same replies in all cases, those that
    passed included. If none does, one that explains a single case is named for that case.
    """
    # At the ends of the range a mistake's own formula fails too, so nothing is told by it.
    replied = [(c, replies) for c, replies in answers if replies is not None and not c.extreme]
    failed = replies_that(replied, agree=False)
    if not failed:
        return {}
    explained: dict[str, dict[str, float]] = {}  # mistake: {case id: digits that agree}
    for name, mistake in suite.mistakes.get(call, {}).items():
        for case, replies in failed:
            shared = agreement(case, replies, _reply_of(mistake, suite, case))
            if shared is not None:
                explained.setdefault(name, {})[case.id] = shared
    passed = replies_that(replied, agree=True)
    whole = [
        name
        for name, cases in explained.items()
        if len(cases) == len(failed)
        and all(
            _agrees_with_truth(case, _reply_of(suite.mistakes[call][name], suite, case))
            for case, _ in passed
        )
    ]
    if not whole:
        few_digits = precision(replied)
        if few_digits is not None:
            return {case.id: few_digits for case, _ in failed}
    named = {}
    for case, _ in failed:
        candidates = {n: c[case.id] for n, c in explained.items() if case.id in c}
        chosen = [n for n in whole if n in candidates] or sorted(
            candidates, key=lambda n: -len(explained[n])
        )
        if chosen:
            digits = f"to {candidates[chosen[0]]:.0f} digits"
            others = "".join(f', or "{n}"' for n in chosen[1:] if n in whole)
            named[case.id] = f'"{chosen[0]}"{others} {digits}'
    return named


def precision(answers: Sequence[tuple[Case, list[Reply]]]) -> str | None:
    """Whether the errors are those of too few digits rather than of a wrong formula."""

    def cancelling(expected: Expected, condition: float, eps: float) -> Array:
        lost = condition**2 * eps > 1e-3  # all digits: any number can come out
        return np.inf * np.ones(1) if lost else condition * expected.allowed(eps)

    def as_float32(expected: Expected, condition: float, eps: float) -> Array:
        return expected.allowed(FLOAT32)

    if all(_within(case, replies, cancelling) for case, replies in answers):
        return (
            '"digits lost by cancellation": the errors grow with the square of the condition, as '
            "those of E[x^2] - E[x]^2 do; subtract the mean first"
        )
    float64 = all(reply.eps <= FLOAT64 for _, replies in answers for reply in replies)
    if float64 and all(_within(case, replies, as_float32) for case, replies in answers):
        return '"float32 inside": the result is float64, but its errors are those of float32'
    return None


def replies_that(
    answers: Sequence[tuple[Case, list[Reply]]], *, agree: bool
) -> list[tuple[Case, list[Reply]]]:
    """The answers that agree with the truth, or those that do not."""
    return [(c, r) for c, r in answers if _agrees_with_truth(c, r) == agree]


def agreement(case: Case, got: list[Reply], wrong: list[Reply] | None) -> float | None:
    """To how many digits a reply is that of a mistake; None if it is not."""
    truths = _truths(case)
    if wrong is None or len(got) != len(wrong) or len(got) != len(truths):
        return None
    digits = 15.0
    for reply, mistaken, truth in zip(got, wrong, truths, strict=True):
        if reply.value.shape != mistaken.value.shape:
            return None
        if reply.value.dtype.kind != "f" or mistaken.value.dtype.kind != "f":
            if not _equal_but_either(reply.value, mistaken.value, truth):
                return None
            continue
        error = _distance(reply.value, mistaken.value)
        eps = max(reply.eps, FLOAT64)
        size = abs(np.nan_to_num(mistaken.value, posinf=1.0, neginf=1.0))
        allowed = 64 * eps * size
        if truth.linear is not None and truth.linear.shape == size.shape:
            allowed = allowed + 4 * truth.allowed(eps)
        if not (error <= allowed).all():
            return None
        relative = error[size > 0] / size[size > 0]
        if relative.size and relative.max() > 0:
            digits = min(digits, -np.log10(relative.max()))
    return digits


def _reply_of(mistake: Callable[..., Any], suite: Suite, case: Case) -> list[Reply] | None:
    """What a mistaken implementation returns in this case; None if it cannot take it."""
    call = suite.call(case.call)
    positional, named = call.bind({name: _copy(value) for name, value in case.arguments.items()})
    try:
        with np.errstate(all="ignore"):
            result = mistake(*positional, **named)
        parts = [result] if len(call.outputs) == 1 else list(result)
        flat = (i for part in parts for i in (part if isinstance(part, list | tuple) else [part]))
        return [to_numpy(item) for item in flat]
    except Exception:  # a mistake need not be able to do everything
        return None


def _copy(value: Any) -> Any:
    if isinstance(value, list):
        return [_copy(v) for v in value]
    return value.copy() if isinstance(value, np.ndarray) else value


def _truths(case: Case) -> list[Expected]:
    return [
        e for expected in case.expected.values()
        for e in ([expected] if isinstance(expected, Expected) else expected)
    ]  # fmt: skip


def _agrees_with_truth(case: Case, replies: list[Reply] | None) -> bool:
    return replies is not None and _within(case, replies, lambda e, c, eps: e.allowed(eps))


def _within(
    case: Case, replies: list[Reply], allowed: Callable[[Expected, float, float], Array]
) -> bool:
    """Whether each reply is within what `allowed(expected, condition, eps)` says of the truth."""
    truths = _truths(case)
    if len(truths) != len(replies):
        return False
    for reply, truth in zip(replies, truths, strict=True):
        want = np.asarray(truth.value)
        if reply.value.shape != want.shape:
            return False
        if want.dtype.kind != "f" or reply.value.dtype.kind != "f":
            if not _equal_but_either(reply.value, want, truth):
                return False
            continue
        bound = allowed(truth, case.condition, reply.eps)
        if not (_distance(reply.value, want) <= bound).all():
            return False
    return True


def _equal_but_either(got: Array, want: Array, truth: Expected) -> bool:
    same = got == want
    return bool((same if truth.either is None else same | truth.either).all())


def _distance(a: Array, b: Array) -> Array:
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore", over="ignore"):
        distance = np.where(same, 0.0, abs(a - b))
    return np.where(np.isnan(distance), np.inf, distance)
