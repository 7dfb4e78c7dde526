"""Why an implementation fails: its replies are compared with those of known mistakes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minimono.backend import Array
from minimono.oracle.adapters import Reply, to_numpy
from minimono.oracle.case import Case, Expected, distance
from minimono.oracle.suite import Suite

Answers = Sequence[tuple[Case, list[Reply] | None]]

FLOAT32 = float(np.finfo(np.float32).eps)
FLOAT64 = float(np.finfo(np.float64).eps)


def diagnose(suite: Suite, call: str, answers: Answers) -> dict[str, str]:
    """For each failed case, by id, the mistake that its reply shows, if one is known.

    A mistake explains an implementation if it gives the same replies in all cases, those that
    passed included; or, if none does so, the same values (the first output), since a gradient can
    be that of the right formula or of the wrong one. If nothing explains all, what explains a
    single case is named for that case.
    """
    # At the ends of the range a mistake's own formula fails too, so nothing is told by it.
    replied = [(c, replies) for c, replies in answers if replies is not None and not c.extreme]
    failed = [(c, r) for c, r in replied if not agrees_with_truth(c, r)]
    passed = [c for c, r in replied if agrees_with_truth(c, r)]
    if not failed:
        return {}
    mistakes = {
        name: {c.id: reply_of(mistake, suite, c) for c, _ in replied}
        for name, mistake in suite.mistakes.get(call, {}).items()
    }
    several = len(suite.call(call).outputs) > 1
    explained: dict[str, dict[str, float]] = {}  # mistake: {case id: digits that agree}
    for first_only in (False, True) if several else (False,):
        found = _explain(mistakes, failed, first_only)
        whole = [
            name
            for name, cases in found.items()
            if len(cases) == len(failed)
            and all(agrees_with_truth(c, mistakes[name][c.id], first_only) for c in passed)
        ]
        explained = explained or found
        if whole:
            explained = found
            break
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


def _explain(
    mistakes: dict[str, dict[str, list[Reply] | None]],
    failed: Sequence[tuple[Case, list[Reply]]],
    first_only: bool,
) -> dict[str, dict[str, float]]:
    """Return the mistakes whose replies are those of failed cases, with the digits that agree."""
    explained: dict[str, dict[str, float]] = {}
    for name, replies in mistakes.items():
        for case, got in failed:
            if first_only and agrees_with_truth(case, got, first_only):
                continue
            shared = agreement(case, got, replies[case.id], first_only)
            if shared is not None:
                explained.setdefault(name, {})[case.id] = shared
    return explained


def precision(answers: Sequence[tuple[Case, list[Reply]]]) -> str | None:
    """Return whether the errors are those of too few digits rather than of a wrong formula."""

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


def agreement(
    case: Case, got: list[Reply], wrong: list[Reply] | None, first_only: bool = False
) -> float | None:
    """Return to how many digits a reply is that of a mistake; None if it is not."""
    truths = _truths(case, first_only)
    if first_only and wrong is not None:
        got, wrong = got[: len(truths)], wrong[: len(truths)]
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
        error = distance(reply.value, mistaken.value)
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


def reply_of(mistake: Callable[..., Any], suite: Suite, case: Case) -> list[Reply] | None:
    """Return what a mistaken implementation returns in this case; None if it cannot take it."""
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


def _truths(case: Case, first_only: bool = False) -> list[Expected]:
    """Return the expected outputs, one after the other; or those of the first output only."""
    expected = list(case.expected.values())[: 1 if first_only else None]
    return [e for item in expected for e in ([item] if isinstance(item, Expected) else item)]


def agrees_with_truth(
    case: Case, replies: list[Reply] | None, first_only: bool = False
) -> bool:
    if replies is None:
        return False
    if first_only:
        replies = replies[: len(_truths(case, first_only))]
    return _within(case, replies, lambda e, c, eps: e.allowed(eps), first_only)


def _within(
    case: Case,
    replies: list[Reply],
    allowed: Callable[[Expected, float, float], Array],
    first_only: bool = False,
) -> bool:
    """Return whether each reply is within `allowed(expected, condition, eps)` of the truth."""
    truths = _truths(case, first_only)
    if len(truths) != len(replies):
        return False
    for reply, truth in zip(replies, truths, strict=True):
        want = np.asarray(truth.value)
        if reply.value.shape != want.shape or (reply.value.dtype == bool) != (want.dtype == bool):
            return False
        if (reply.value.dtype.kind == "f") != (want.dtype.kind == "f"):
            return False
        error = truth.errors(reply.value)
        if want.dtype.kind != "f":
            if error.any():
                return False
            continue
        bound = allowed(truth, case.condition, reply.eps)
        if not (error <= bound).all():
            return False
    return True


def _equal_but_either(got: Array, want: Array, truth: Expected) -> bool:
    same = got == want
    return bool((same if truth.either is None else same | truth.either).all())
