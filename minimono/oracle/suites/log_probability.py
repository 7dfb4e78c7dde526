"""Suite `log_probability`: of a response in a row of prompt, response and padding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from minimono import mono
from minimono.backend import Array
from minimono.oracle.case import Case
from minimono.oracle.suite import Call, Entries, Mistakes, Suite, grouped
from minimono.oracle.truth import conditioned_by, float32, mpmath, precise

Formula = Callable[..., Any]


def log_softmax(logits: Array) -> Array:
    """Over the last axis, of floats."""
    logits = logits - logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def precise_log_softmax(logits: Array) -> Array:
    """The same of mpmath's numbers (N, V)."""
    mp = mpmath()
    return np.stack([row - mp.log(mp.fsum(mp.exp(x) for x in row)) for row in logits])


def count(mask: Array) -> Array:
    return mask.sum(axis=1)


def plain_log_probability(
    logits: Array, ids: Array, response: Array, average: bool,
    *, log_p: Formula = log_softmax, predicts: int = 1,
    mask: Formula = lambda response, ids: response, length: Formula = count,
    averaged: Formula = lambda average: average, product: bool = False,
    result: Formula = lambda total: total,
) -> Any:
    """Return Σ log p(token) of each response.

    predicts: how far behind its logits a token is.   mask: which tokens count.   length: by what
    an average divides.   averaged: whether it is one.   product: multiplies by the mask, where the
    others are left out.
    """
    chosen = mask(response, ids).copy()
    chosen[:, :predicts] = False
    totals: list[Any] = []
    for row, tokens, counts, n in zip(logits, ids, chosen, length(chosen), strict=True):
        if product:
            at = np.arange(predicts, len(tokens))
            every = log_p(row[at - predicts])[np.arange(len(at)), tokens[at].clip(0)]
            total = (every * counts[at]).sum()
        else:
            at = np.flatnonzero(counts)
            total = log_p(row[at - predicts])[np.arange(len(at)), tokens[at].clip(0)].sum()
        totals.append(total / int(n) if averaged(average) else total)
    return result(np.array(totals))


def before(mask: Array) -> Array:
    """The mask one place later: true where the place before was."""
    moved = np.roll(mask, 1, axis=1)
    moved[:, 0] = False
    return moved


def after(mask: Array) -> Array:
    """The mask one place earlier: true where the place after was."""
    return before(mask[:, ::-1])[:, ::-1]


def to_the_end(mask: Array) -> Array:
    """True from the first true place on."""
    return np.logical_or.accumulate(mask, axis=1)


def from_the_start(mask: Array) -> Array:
    """True up to the last true place."""
    return to_the_end(mask[:, ::-1])[:, ::-1]


BY_HAND = [(1, 1, 1, 5), (1, 2, 4, 1), (2, 1, 1, 4), (1, 1, 8, 6), (1, 1, 1, 5), (1, 1, 1, 1)]


def cases() -> Iterator[Case]:
    return grouped(SUITE, [("response", "response_log_probability", 16180339, _entries)])


def _entries(rng: np.random.Generator) -> Entries:
    def rows(*marks: str) -> Array:
        return np.array([[mark == "r" for mark in row] for row in marks])

    plans: list[tuple[str, Array, Array, Array]] = [
        ("to try by hand: token probabilities 1/8, 1/4 and 1/2, in all 1/16; the response holds "
         "token 0, which is padding's too", float32(np.log(np.array([BY_HAND]))),
         np.array([[1, 3, 2, 0, 2, 0]]), rows("..rrr.")),
    ]
    for notes, mask, tokens in [
        ("prompts and responses of different lengths", rows("..rrr.", "...rr.", ".rrrr."), 5),
        ("padding on the left", rows("...rrr", "..rrr."), 7),
        ("two turns: a response in two pieces", rows("..rr.rr", ".rrr..r"), 5),
        ("the response is the whole row: nothing predicts its first token", rows("rrrrr"), 4),
        ("a response of one token", rows("...r.", ".r..."), 6),
        ("the response ends where the row ends", rows("..rrrr", ".....r"), 3),
    ]:
        shape = mask.shape
        plans.append((notes, float32(3 * rng.normal(size=(*shape, tokens))),
                      rng.integers(0, tokens, shape), mask))
    notes, logits, ids, mask = plans[1]
    labels = np.where(mask, ids, -100)
    plans.append(("ids of -100 where the response is not", logits, labels, mask))
    ruled_out = logits.copy()
    ruled_out[0, 0, ids[0, 1]] = ruled_out[2, 5, 1] = -np.inf
    plans.append(("a logit of -infinity in a prompt and in padding: times a mask of 0 it is nan",
                  ruled_out, ids, mask))
    plans.append(("logits up to 1000: exp overflows unless the highest is subtracted",
                  float32(1000 * rng.random((2, 5, 4))), rng.integers(0, 4, (2, 5)),
                  rows("..rr.", ".rrr.")))
    for notes, logits, ids, mask in plans:
        for average in (False, True):
            def truth(logits: Array, ids: Array = ids, mask: Array = mask,
                      average: bool = average) -> list[Any]:
                return [plain_log_probability(
                    logits, ids, mask, average, log_p=precise_log_softmax
                )]

            arguments = {"logits": logits, "ids": ids, "response": mask, "average": average}
            what = "averaged over its tokens" if average else "summed"
            yield f"{notes}; {what}", arguments, conditioned_by(precise, truth, logits)


MISTAKES = Mistakes(plain_log_probability, {
    "the prompt is counted": {"mask": lambda r, ids: from_the_start(r)},
    "padding is counted": {"mask": lambda r, ids: to_the_end(r)},
    "everything is counted": {"mask": lambda r, ids: np.ones_like(r)},
    "the mask is not shifted with the tokens": {"mask": lambda r, ids: before(r)},
    "the mask is shifted twice": {"mask": lambda r, ids: after(r)},
    "the first token of the response is lost": {"mask": lambda r, ids: r & before(r)},
    "the last token of the response, its end, is lost": {"mask": lambda r, ids: r & after(r)},
    "tokens that are 0 are taken for padding": {"mask": lambda r, ids: r & (ids != 0)},
    "logits are not shifted: each is asked for its own token": {"predicts": 0},
    "the average is over all positions": {"length": lambda mask: [mask.shape[1]] * len(mask)},
    "the average is over all positions that are predicted":
        {"length": lambda mask: [mask.shape[1] - 1] * len(mask)},
    "the average counts one token too many": {"length": lambda mask: count(mask) + 1},
    "the average is over the longest response":
        {"length": lambda mask: [count(mask).max()] * len(mask)},
    "a sum where an average was asked for": {"averaged": lambda average: False},
    "an average where a sum was asked for": {"averaged": lambda average: True},
    "sum and average are exchanged": {"averaged": lambda average: not average},
    "multiplied by the mask: nan where a logit is -infinity": {"product": True},
    "logits are taken as they are, not normalised": {"log_p": lambda logits: logits},
    "probabilities, not their logarithms": {"log_p": lambda logits: np.exp(log_softmax(logits))},
    "logarithms to base 2": {"log_p": lambda logits: log_softmax(logits) / np.log(2)},
    "exp overflows: the highest logit is not subtracted":
        {"log_p": lambda x: np.log(np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True))},
    "softmax is over the positions": {"log_p": lambda logits: log_softmax(logits.T).T},
    "the sign is that of a loss": {"result": lambda total: -total},
    "one number for the batch: summed": {"result": lambda total: total.sum()},
    "one number for the batch: averaged": {"result": lambda total: total.mean()},
    "float32 inside":
        {"log_p": lambda x: log_softmax(x.astype(np.float32)).astype(np.float64)},
})

SUITE = Suite(
    name="log_probability",
    text="log pi(y|x) of the responses in rows of prompt, response and padding",
    conventions={
        "shift": "the logits at a position predict the next token; the mask goes with the token",
        "first token": "of a row: nothing predicts it, so it does not count",
        "end": "the token that ends the response is one of its tokens",
        "average": "over the response's tokens",
        "elsewhere": "ids and logits outside the response do not matter, whatever they are",
    },
    calls=(
        Call("response_log_probability", ("logits", "ids", "response", "*", "average"),
             ("log_probability",),
             "logits (B, T, V); ids (B, T), the tokens that were read; response booleans (B, T), "
             "true\nat the response's tokens. Sum over t >= 1 with response_t of\n"
             "log softmax(logits_{t-1})[ids_t]; average: divided by their number. Returns (B,)."),
    ),
    cases=cases,
    own={"response_log_probability": lambda *arrays, average: (
        mono.response_log_probability(*arrays, average=average).data
    )},
    mistakes={"response_log_probability": MISTAKES},
)
