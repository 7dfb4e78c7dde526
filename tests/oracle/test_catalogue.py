"""A catalogue of wrong implementations, as people write them: every one is caught, most are named.

Each is written here on its own, apart from the oracle's list of known mistakes: mostly in loops,
one neuron or one sample at a time. `said` is what the diagnosis has to contain; None where the
oracle need not know better than that it is wrong.
"""

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

from minimono import oracle


class Wrong(NamedTuple):
    call: str
    what: str
    function: Callable[..., Any]
    said: str | None


WRONG: list[Wrong] = []


def wrong(call: str, what: str, said: str | None) -> Callable[[Any], Any]:
    def register(function: Any) -> Any:
        WRONG.append(Wrong(call, what, function, said))
        return function

    return register


# ---- the scale, statistics given -----------------------------------------------------------------


def each(z, mean, variance, formula):
    """formula(z, mean, variance) for every activation, one by one."""
    out = np.empty(z.shape)
    for index in np.ndindex(z.shape):
        out[index] = formula(float(z[index]), float(mean[index[1:]]), float(variance[index[1:]]))
    return out


def divided(a, b):
    return a / b if b != 0 else math.nan


@wrong("monosemantic_scale", "root of the variance", "standard deviation where the variance")
def _(z, mean, variance, *, compensation):
    extra = compensation * np.mean(variance)
    return each(z, mean, variance, lambda x, m, v: divided((x - m) ** 2, math.sqrt(v + extra)))


@wrong("monosemantic_scale", "missing square", "square is missing")
def _(z, mean, variance, *, compensation):
    extra = compensation * np.mean(variance)
    return each(z, mean, variance, lambda x, m, v: divided(abs(x - m), math.sqrt(v + extra)))


@wrong("monosemantic_scale", "about zero", "about zero")
def _(z, mean, variance, *, compensation):
    extra = compensation * np.mean(variance)
    return each(z, mean, variance, lambda x, m, v: divided(x * x, v + extra))


@wrong("monosemantic_scale", "compensation as an epsilon", "not times the mean variance")
def _(z, mean, variance, *, compensation):
    return each(z, mean, variance, lambda x, m, v: divided((x - m) ** 2, v + compensation))


@wrong("monosemantic_scale", "compensation forgotten", "compensation is ignored")
def _(z, mean, variance, *, compensation):
    return each(z, mean, variance, lambda x, m, v: divided((x - m) ** 2, v))


@wrong("monosemantic_scale", "an epsilon that nobody asked for", "small epsilon")
def _(z, mean, variance, *, compensation):
    extra = compensation * np.mean(variance) + 1e-8
    return each(z, mean, variance, lambda x, m, v: (x - m) ** 2 / (v + extra))


@wrong("monosemantic_scale", "0 for constant neurons", "0 instead of nan")
def _(z, mean, variance, *, compensation):
    extra = compensation * np.mean(variance)
    return each(z, mean, variance, lambda x, m, v: (x - m) ** 2 / (v + extra) if v + extra else 0.0)


@wrong("monosemantic_scale", "mean variance of one position only", "last axis only")
def _(z, mean, variance, *, compensation):
    out = np.empty(z.shape)
    for index in np.ndindex(z.shape):
        place = index[1:]
        row = variance[place[:-1]] if place else variance
        below = variance[place] + compensation * float(np.mean(row))
        out[index] = divided((z[index] - mean[place]) ** 2, below)
    return out


@wrong("monosemantic_scale", "computed in float32", "float32 inside")
def _(z, mean, variance, *, compensation):
    z, mean, variance = (a.astype(np.float32) for a in (z, mean, variance))
    below = variance + np.float32(compensation) * variance.mean(dtype=np.float32)
    with np.errstate(invalid="ignore", divide="ignore"):
        phi = (z - mean) * (z - mean) / np.where(below > 0, below, np.nan)
    return phi.astype(np.float64)


# ---- the scale of a stream -----------------------------------------------------------------------


class Neuron:
    """One neuron's moments, value after value; options are what can go wrong."""

    def __init__(self, ddof=1, dtype=float, about_zero=False):
        self.count, self.mean, self.m2 = 0, dtype(0), dtype(0)
        self.ddof, self.dtype, self.about_zero = ddof, dtype, about_zero

    def push(self, values, past=None, shift=True):
        values = [self.dtype(v) for v in values]
        b = self.dtype(len(values))
        centre = self.dtype(0) if self.about_zero else self.dtype(sum(values) / b)
        m2 = self.dtype(sum((v - centre) ** 2 for v in values))
        if self.count == 0:
            self.count, self.mean, self.m2 = len(values), centre, m2
            return
        if past is not None and past != self.count:
            factor = self.dtype((past - self.ddof) / (self.count - self.ddof))
            self.m2, self.count = self.m2 * factor, past
        n = self.dtype(self.count)
        between = (self.mean - centre) ** 2 * n * b / (n + b) if shift else self.dtype(0)
        self.m2 = self.m2 + m2 + between
        self.mean = self.dtype((n * self.mean + b * centre) / (n + b))
        self.count += len(values)

    @property
    def variance(self):
        return self.m2 / (self.count - self.ddof)


def stream(
    batches, *, convention, forget_after, compensation, neuron=Neuron, after=None,
    first_twice=False, late=0, never=False, shift=True, padding=False, history=True,
):
    """Score batches in loops; sound as it stands, wrong with an option."""
    places = list(np.ndindex(batches[0].shape[1:]))
    neurons = {p: neuron() for p in places}
    authors = convention == "authors"
    after = authors if after is None else after
    scores = []

    def phi(batch):
        v = {p: float(neurons[p].variance) for p in places}
        extra = compensation * sum(v.values()) / len(places)
        out = np.empty(batch.shape)
        for p in places:
            below = v[p] + extra
            for i in range(len(batch)):
                x = (float(batch[(i, *p)]) - float(neurons[p].mean)) ** 2
                out[(i, *p)] = divided(x, below)
        return out

    for number, batch in enumerate(batches, start=1):
        b = len(batch)
        if number > 1 and not after:
            scores.append(phi(batch))
        if not history:
            neurons = {p: neuron() for p in places}
        for p in places:
            values = [batch[(i, *p)] for i in range(b)]
            if padding:
                values.append(0.0)
            limit = forget_after + late
            past = None
            if number > 1 and authors:
                past = b * min(number, limit)
            elif number > limit and not never:
                past = b * limit
            neurons[p].push(values, past, shift)
            if number == 1 and first_twice:
                neurons[p].push(values)
        if number == 1:
            scores.append(np.full(batch.shape, np.nan))
        elif after:
            scores.append(phi(batch))
    return scores


def stream_with(**options):
    return lambda batches, **settings: stream(batches, **settings, **options)


for what, said, function in [
    ("biased variance", "n instead of n-1", stream_with(neuron=lambda: Neuron(ddof=0))),
    ("updated before it is scored", "in the moments before it is scored", stream_with(after=True)),
    ("scored before it is updated, authors", "scored before it is in", stream_with(after=False)),
    ("forgetting one batch late", "one batch late", stream_with(late=1)),
    ("first batch twice", "first batch counts twice", stream_with(first_twice=True)),
    ("distance of the means left out", "distance between the means", stream_with(shift=False)),
    ("about zero", "about zero", stream_with(neuron=lambda: Neuron(about_zero=True))),
    ("padding counted", "padding", stream_with(padding=True)),
    ("no memory", "only the last batch", stream_with(history=False)),
    ("float32 accumulators", "float32 inside",
     stream_with(neuron=lambda: Neuron(dtype=np.float32))),
]:
    wrong("score_batches", what, said)(function)


@wrong("score_batches", "E[x^2] - E[x]^2", "cancellation")
def _(batches, *, convention, forget_after, compensation):
    class Sums(Neuron):
        total = squares = 0.0

        def push(self, values, past=None, shift=True):
            if past is not None:
                factor = (past - 1) / (self.count - 1)
                mean = self.total / self.count
                m2 = (self.squares - self.total * mean) * factor
                self.count, self.total = past, mean * past
                self.squares = m2 + past * mean * mean
            self.count += len(values)
            self.total += sum(float(v) for v in values)
            self.squares += sum(float(v) * float(v) for v in values)
            self.mean = self.total / self.count
            self.m2 = self.squares - self.total * self.total / self.count

    return stream(
        batches, convention=convention, forget_after=forget_after, compensation=compensation,
        neuron=Sums,
    )


@wrong("score_batches", "statistics over the wrong axis", "wrong axis")
def _(batches, *, convention, forget_after, compensation):
    turned = [np.moveaxis(batch, -1, 0) for batch in batches]
    scores = stream(
        turned, convention=convention, forget_after=forget_after, compensation=compensation
    )
    return [np.moveaxis(phi, 0, -1) for phi in scores]


@wrong("score_batches", "each sample is scored by those before it in its batch", None)
def _(batches, *, convention, forget_after, compensation):
    singles = [batches[0]] + [batch[i : i + 1] for batch in batches[1:] for i in range(len(batch))]
    scores = stream(
        singles, convention=convention, forget_after=forget_after, compensation=compensation
    )
    out, at = [scores[0]], 1
    for batch in batches[1:]:
        out.append(np.concatenate(scores[at : at + len(batch)]))
        at += len(batch)
    return out


# ---- selection -----------------------------------------------------------------------------------


def ranked(row, k, reverse=True, ties="all", strict=False):
    """Which of a flat list are among the k highest."""
    numbers = sorted((v for v in row if not math.isnan(v)), reverse=reverse)
    if not numbers:
        return [False] * len(row)
    kth = numbers[min(k, len(numbers)) - 1]
    flags = [(v >= kth if reverse else v <= kth) and not math.isnan(v) for v in row]
    if ties == "last":
        extra = sum(flags) - k
        for i, v in enumerate(row):
            if extra > 0 and flags[i] and v == kth:
                flags[i], extra = False, extra - 1
    if ties == "first":
        extra = sum(flags) - k
        for i in reversed(range(len(row))):
            if extra > 0 and flags[i] and row[i] == kth:
                flags[i], extra = False, extra - 1
    return flags


def top(phi, k, per, **options):
    rows = phi.reshape(1, -1) if per == "batch" else phi.reshape(len(phi), -1)
    return np.array([ranked(list(row), k, **options) for row in rows]).reshape(phi.shape)


@wrong("select_top_k", "of the batch instead of each sample", "batch")
def _(phi, *, k, per, ties):
    return top(phi, k, "batch", ties=ties)


@wrong("select_top_k", "of ties only the first", "first")
def _(phi, *, k, per, ties):
    return top(phi, k, per, ties="first")


@wrong("select_top_k", "of ties the last where the first are wanted", "last")
def _(phi, *, k, per, ties):
    return top(phi, k, per, ties="last" if ties == "first" else ties)


@wrong("select_top_k", "the smallest", None)
def _(phi, *, k, per, ties):
    return top(phi, k, per, ties=ties, reverse=False)


@wrong("select_above", "strictly above", "strict")
def _(phi, *, threshold):
    return np.array([v > threshold for v in phi.reshape(-1)]).reshape(phi.shape)


@wrong("select_top_fraction", "rounded down", "floor|down")
def _(phi, *, fraction, per, ties):
    size = phi.size if per == "batch" else phi[0].size
    return top(phi, max(math.floor(fraction * size), 1), per, ties=ties)


# ---- deactivation --------------------------------------------------------------------------------


def deactivation(value, gradient):
    """value and gradient: functions of (z, mean, upstream, strength) for a flagged activation."""

    def deactivate(z, mask, mean, strength, upstream):
        out, slope = z.copy(), upstream.copy()
        for index in np.ndindex(z.shape):
            if mask[index]:
                there = (z[index], mean[index[1:]], upstream[index], strength)
                out[index], slope[index] = value(*there), gradient(*there)
        return out, slope

    return deactivate


def the_mean(z, mean, upstream, strength):
    return mean


for what, said, function in [
    ("no gradient", "0|missing", deactivation(the_mean, lambda z, m, g, d: 0.0)),
    ("not reversed", r"\+1|not reversed|sign", deactivation(the_mean, lambda z, m, g, d: d * g)),
    ("doubled", "doubled", deactivation(the_mean, lambda z, m, g, d: -2 * d * g)),
    ("strength ignored", "strength is ignored|strength ignored",
     deactivation(the_mean, lambda z, m, g, d: -g)),
    ("value stays", "value", deactivation(lambda z, m, g, d: z, lambda z, m, g, d: -d * g)),
    ("value is 0", "0|zero", deactivation(lambda z, m, g, d: 0.0, lambda z, m, g, d: -d * g)),
]:
    wrong("deactivate", what, said)(function)


@wrong("deactivate", "leaks into values that are not flagged", "leak|unflagged|not flagged")
def _(z, mask, mean, strength, upstream):
    return np.where(mask, mean, z), -strength * upstream


# ---- MEmeL, whole trajectories -------------------------------------------------------------------


class Layer:
    """A MEmeL module in loops; sound as it stands, wrong with an option."""

    def __init__(
        self, *, k, strength, convention, forget_after, start_after, compensation, early=0,
        gradient=None, value="running mean", per="sample", eval_inhibits=False, eval_updates=False,
        constants=False, feeds_on="input",
    ):
        self.k, self.strength, self.convention = k, strength, convention
        self.forget_after, self.start_after = forget_after, start_after - early
        self.compensation, self.per, self.constants = compensation, per, constants
        self.gradient = gradient or (lambda upstream, strength: -strength * upstream)
        self.value, self.feeds_on = value, feeds_on
        self.eval_inhibits, self.eval_updates = eval_inhibits, eval_updates
        self.seen = self.count = 0
        self.mean = self.variance = None

    def __call__(self, z, upstream, training):
        if not training and not (self.eval_inhibits or self.eval_updates):
            return z.copy(), upstream.copy()
        ready = self.seen >= self.start_after and self.seen > 0
        before = self.mean, self.variance
        if self.feeds_on == "input" and (training or self.eval_updates):
            self.update(z)
        mean, variance = before if self.convention == "paper" else (self.mean, self.variance)
        value, slope = z.copy(), upstream.copy()
        if ready and (training or self.eval_inhibits):
            extra = self.compensation * variance.mean()
            phi = np.full(z.shape, np.nan)
            for index in np.ndindex(z.shape):
                v = variance[index[1:]]
                if v > 0 or self.constants or self.convention == "authors":
                    phi[index] = divided((z[index] - mean[index[1:]]) ** 2, v + extra)
            flags = top(phi, self.k, self.per, ties="all")
            for index in np.ndindex(z.shape):
                if flags[index]:
                    value[index] = {
                        "running mean": mean[index[1:]],
                        "its own": z[index],
                        "batch mean": z[(slice(None), *index[1:])].mean(),
                    }[self.value]
                    slope[index] = self.gradient(upstream[index], self.strength)
        if self.feeds_on == "output" and training:
            self.update(value)
        return value, slope

    def update(self, z):
        b, own_mean = len(z), z.mean(axis=0)
        own_m2 = ((z - own_mean) ** 2).sum(axis=0)
        self.seen += 1
        if self.seen == 1:
            self.count, self.mean, self.variance = b, own_mean, own_m2 / (b - 1)
            return
        past = self.count if self.seen <= self.forget_after else self.forget_after * b
        if self.convention == "authors":
            past = min(self.seen, self.forget_after) * b
        m2 = (past - 1) * self.variance + own_m2
        m2 = m2 + (self.mean - own_mean) ** 2 * (past * b / (past + b))
        self.mean = (past * self.mean + b * own_mean) / (past + b)
        self.count = past + b
        self.variance = m2 / (self.count - 1)


def memel(batches, upstream, training, layers=Layer, options=None, **settings):
    layer = layers(**settings, **(options or {}))
    results = [layer(*call) for call in zip(batches, upstream, training, strict=True)]
    return [value for value, _ in results], [slope for _, slope in results]


def memel_with(**options):
    return lambda *calls, **settings: memel(*calls, options=options, **settings)


for what, said, function in [
    ("eval mode still inhibits", "eval", memel_with(eval_inhibits=True)),
    ("eval mode still updates", "eval", memel_with(eval_updates=True)),
    ("starts one call early", "early", memel_with(early=1)),
    ("starts one call late", "late", memel_with(early=-1)),
    ("strength ignored", "strength", memel_with(gradient=lambda g, d: -g)),
    ("naive (b): not reversed", r"\+1|not reversed|sign", memel_with(gradient=lambda g, d: d * g)),
    ("no gradient", "0|missing", memel_with(gradient=lambda g, d: 0 * g)),
    ("k in the batch, not in each sample", "batch", memel_with(per="batch")),
    ("batch mean instead of the running mean", "batch", memel_with(value="batch mean")),
    ("constant neurons are flagged", "constant", memel_with(constants=True)),
    ("moments of the output", "output", memel_with(feeds_on="output")),
]:
    wrong("MEmeL", what, said)(function)


@wrong("MEmeL", "gradient -strength for all values", "leak|unflagged|not flagged")
def _(batches, upstream, training, **settings):
    values, slopes = memel(batches, upstream, training, **settings)
    changed = [(s != g).any() for s, g in zip(slopes, upstream, strict=True)]
    d = settings["strength"]
    return values, [-d * g if c else s for c, g, s in zip(changed, upstream, slopes, strict=True)]


@wrong("MEmeL", "moments shared between layers", "shared|two layers|every layer|another layer")
def _(batches, upstream, training, **settings):
    layer = Layer(**settings)  # two layers see the same activations, one after the other
    values, slopes = [], []
    for z, g, train in zip(batches, upstream, training, strict=True):
        if train:
            layer(z, g, train)
        value, slope = layer(z, g, train)
        values.append(value)
        slopes.append(slope)
    return values, slopes


# ---- L2E -----------------------------------------------------------------------------------------


def penalty(term, slope):
    def log_distance_penalty(z, mask, mean, *, reduction):
        total, gradient = 0.0, np.zeros(z.shape)
        share = 1 / max(int(mask.sum()), 1) if reduction == "mean" else 1.0
        for index in np.ndindex(z.shape):
            if mask[index]:
                d = float(z[index] - mean[index[1:]])
                total += share * term(d)
                gradient[index] = share * slope(d)
        return np.float64(total), gradient

    return log_distance_penalty


for what, said, function in [
    ("log of the distance, not of its square", "square",
     penalty(lambda d: math.log(abs(d)), lambda d: 1 / d)),
    ("log of 1 + the square", "1",
     penalty(lambda d: math.log1p(d * d), lambda d: 2 * d / (1 + d * d))),
    ("gradient of the distance's size", "sign|absolute|abs",
     penalty(lambda d: math.log(d * d), lambda d: 2 / abs(d))),
]:
    wrong("log_distance_penalty", what, said)(function)


@wrong("log_distance_penalty", "log of zero: masked by a product", "zero|nan|product")
def _(z, mask, mean, *, reduction):
    with np.errstate(all="ignore"):
        d = z - mean
        share = mask.sum() if reduction == "mean" and mask.any() else 1
        return (np.log(d * d) * mask).sum() / share, 2 / d * mask / share


@wrong("log_distance_penalty", "mean over all values, not over the selected", "all")
def _(z, mask, mean, *, reduction):
    d = np.where(mask, z - mean, 1.0)
    share = z.size if reduction == "mean" else 1
    return np.log(d * d).sum() / share, np.where(mask, 2 / d, 0.0) / share


def rate(phi, features_of_input, feature_of_neuron, k, fraction, scope, share):
    own = np.empty(phi.shape, dtype=bool)
    for index in np.ndindex(phi.shape):
        feature = feature_of_neuron[index[1:]]
        has = features_of_input[index[0]]
        own[index] = has[feature] if features_of_input.ndim == 2 else has == feature
    per = "batch" if scope == "global" else "sample"
    size = phi.size if per == "batch" else phi[0].size
    if k is None:
        k = math.ceil(round(fraction * size, 9))
    return share(top(phi, k, per, ties="all"), own)


@wrong("false_killing_rate", "scopes swapped", "scope|swapped|per input")
def _(phi, features_of_input, feature_of_neuron, *, k, fraction, scope):
    other = "per_input" if scope == "global" else "global"
    return rate(phi, features_of_input, feature_of_neuron, k, fraction, other,
                lambda s, own: (s & ~own).sum() / s.sum())


@wrong("false_killing_rate", "true killing rate", "complement|right|true|opposite|hits")
def _(phi, features_of_input, feature_of_neuron, *, k, fraction, scope):
    return rate(phi, features_of_input, feature_of_neuron, k, fraction, scope,
                lambda s, own: (s & own).sum() / s.sum())


@wrong("false_killing_rate", "divided by all activations", "all")
def _(phi, features_of_input, feature_of_neuron, *, k, fraction, scope):
    return rate(phi, features_of_input, feature_of_neuron, k, fraction, scope,
                lambda s, own: (s & ~own).sum() / s.size)


# ---- decorrelation and preference ----------------------------------------------------------------


@wrong("feature_decorrelation", "the diagonal is counted", "diagonal|N\\^2|itself")
def _(z):
    rows = z.reshape(len(z), -1)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return 1 - (unit @ unit.T).mean()


@wrong("feature_decorrelation", "centred first", "centred")
def _(z):
    rows = z.reshape(len(z), -1)
    rows = rows - rows.mean(axis=0)
    with np.errstate(all="ignore"):
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    n = len(rows)
    return 1 - ((unit @ unit.T).sum() - n) / (n * (n - 1))


def by_the_authors(z):
    """Nothing is wrong with this convention here."""
    rows = abs(z.reshape(len(z), -1))
    slope = 2 / len(rows) ** 2 * np.sign(z) * rows.sum(axis=0).reshape(z.shape[1:])
    return (rows @ rows.T - np.eye(len(rows))).mean(), slope


@wrong("decorrelation_penalty", "d x d where B x B was asked", "features|d x d|swapped")
def _(z, *, over, convention):
    rows = z.reshape(len(z), -1)
    if convention == "authors":
        return by_the_authors(z)
    gram = rows.T @ rows - np.eye(rows.shape[1])
    return (gram**2).sum(), (4 * rows @ gram).reshape(z.shape)


@wrong("decorrelation_penalty", "not squared", "not squared|not its square")
def _(z, *, over, convention):
    rows = z.reshape(len(z), -1)
    if convention == "authors":
        return by_the_authors(z)
    rows = rows if over == "samples" else rows.T
    gram = rows @ rows.T - np.eye(len(rows))
    norm = np.sqrt((gram**2).sum())
    slope = 2 * gram @ rows / norm if norm else 0 * rows
    return norm, (slope if over == "samples" else slope.T).reshape(z.shape)


@wrong("superposition_proxy", "rows taken for columns", None)
def _(w_in, b_in):
    return b_in * np.sqrt((w_in**2).sum(axis=1))[: len(b_in)]


@wrong("superposition_proxy", "squared length", "squared")
def _(w_in, b_in):
    return b_in * (w_in**2).sum(axis=0)


def sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def preference(margins, slope, share):
    """Loss and gradients of -log sigmoid(margin), where margin falls by slope with the rejected."""
    loss = sum(math.log1p(math.exp(-m)) if m > -700 else -m for m in margins) * share
    chosen = np.array([-slope * sigmoid(-m) * share for m in margins])
    return np.float64(loss), chosen, -chosen


@wrong("dpo_loss", "summed over pairs", "sum")
def _(policy_chosen, policy_rejected, reference_chosen, reference_rejected, *, beta):
    ratio = policy_chosen - reference_chosen - (policy_rejected - reference_rejected)
    return preference([beta * float(r) for r in ratio], beta, 1.0)


@wrong("dpo_loss", "without the reference", "reference")
def _(policy_chosen, policy_rejected, reference_chosen, reference_rejected, *, beta):
    ratio = policy_chosen - policy_rejected
    return preference([beta * float(r) for r in ratio], beta, 1 / len(ratio))


@wrong("simpo_loss", "the margin is added", "gamma|margin")
def _(chosen, rejected, *, beta, gamma):
    margins = [beta * float(r) + gamma for r in chosen - rejected]
    return preference(margins, beta, 1 / len(margins))


@wrong("simpo_loss", "the margin is multiplied by beta", "gamma|margin")
def _(chosen, rejected, *, beta, gamma):
    margins = [beta * (float(r) - gamma) for r in chosen - rejected]
    return preference(margins, beta, 1 / len(margins))


@wrong("fold_into_linear", "normalisation folded wrongly: the bias without the shift", "shift")
def _(w_in, b_in, gain, shift):
    folded = gain[:, None] * w_in
    return folded - folded.mean(axis=0), b_in.copy()


@wrong("fold_into_linear", "normalisation folded wrongly: centred over neurons", "centred")
def _(w_in, b_in, gain, shift):
    folded = gain[:, None] * w_in
    return folded - folded.mean(axis=1, keepdims=True), b_in + shift @ w_in


# ---- circuits, emergence, layers -----------------------------------------------------------------


@wrong("split_weights", "the overlap is not part of both", None)
def _(weight, relevance_1, relevance_2, *, ratio):
    first = relevance_1 * ratio > relevance_2
    second = ~first & (relevance_2 * ratio > relevance_1)
    keep = lambda channels: np.where(channels.reshape(-1, *[1] * (weight.ndim - 1)), weight, 0.0)  # noqa: E731
    return keep(first), keep(second), keep(~first & ~second)


def paths(widths, active, form, multiply):
    total = 0
    for i in range(len(widths)):
        for j in range(i + 1, len(widths)):
            product = int(widths[i]) - int(active[i])
            for node in range(i + 1, j + (form == "B")):
                product = multiply(product, int(active[node] if form == "B" else widths[node]))
            total = total + (product if form == "B" else multiply(product, int(active[j])))
    return total


def wrapped(a, b):
    return (a * b + 2**63) % 2**64 - 2**63


@wrong("emergence", "64 bits overflow", "int64|64 bits|overflow|wrap")
def _(widths, active, *, form):
    return wrapped(paths(widths, active, form, wrapped), 1)


@wrong("emergence", "counted in floating point", "float")
def _(widths, active, *, form):
    return int(paths(widths, active, form, lambda a, b: float(a) * float(b)))


@wrong("emergence", "forms A and B swapped", "changed places")
def _(widths, active, *, form):
    return paths(widths, active, "A" if form == "B" else "B", lambda a, b: a * b)


@wrong("active_counts", "at the threshold counts", "at least the threshold")
def _(z, *, threshold, per):
    means = z if per == "sample" else z.mean(axis=0)[None]
    counts = [int(sum(v >= threshold for v in row.reshape(-1))) for row in means]
    return np.array(counts) if per == "sample" else counts[0]


@wrong("layer_norm", "unbiased variance", "C - 1")
def _(x, weight, bias, upstream, *, eps):
    return normalised(x, weight, bias, upstream, eps, ddof=1)


@wrong("layer_norm", "eps outside the root", "eps")
def _(x, weight, bias, upstream, *, eps):
    return normalised(x, weight, bias, upstream, eps, outside=True)


def normalised(x, weight, bias, upstream, eps, ddof=0, outside=False):
    """Layer norm and its gradients, from the derivative of x / sigma."""
    n = x.shape[-1]
    d = x - x.mean(axis=-1, keepdims=True)
    variance = (d * d).sum(axis=-1, keepdims=True) / (n - ddof)
    sigma = np.sqrt(variance) + eps if outside else np.sqrt(variance + eps)
    root = np.sqrt(variance) if outside else sigma
    hat = d / sigma
    g = upstream * weight
    dx = (g - g.mean(axis=-1, keepdims=True)) / sigma
    dx = dx - d * (g * d).sum(axis=-1, keepdims=True) / ((n - ddof) * root * sigma**2)
    lead = tuple(range(x.ndim - 1))
    return hat * weight + bias, dx, (upstream * hat).sum(axis=lead), upstream.sum(axis=lead)


@wrong("softmax", "overflows without subtracting the maximum", "overflow|maximum")
def _(x, upstream, *, axis):
    with np.errstate(all="ignore"):
        e = np.exp(x)
        s = e / e.sum(axis=axis, keepdims=True)
        return s, s * (upstream - (upstream * s).sum(axis=axis, keepdims=True))


@wrong("gelu", "the tanh approximation for the exact one", "tanh")
def _(x, upstream, *, approximate):
    c = math.sqrt(2 / math.pi)
    t = np.tanh(c * (x + 0.044715 * x**3))
    slope = 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * c * (1 + 3 * 0.044715 * x**2)
    return 0.5 * x * (1 + t), upstream * slope


@wrong("cross_entropy", "summed over samples", "sum")
def _(logits, targets):
    rows = logits.reshape(-1, logits.shape[-1])
    picks = targets.reshape(-1)
    loss, slope = 0.0, np.empty(rows.shape)
    for i, row in enumerate(rows):
        e = np.exp(row - row.max())
        loss += math.log(e.sum()) - (row[picks[i]] - row.max())
        slope[i] = e / e.sum()
        slope[i, picks[i]] -= 1
    return np.float64(loss), slope.reshape(logits.shape)


# ---- the tests -----------------------------------------------------------------------------------


def report_of(wrong: Wrong) -> oracle.Report:
    return oracle.check({wrong.call: wrong.function}, on_fail="collect")


def is_named(wrong: Wrong, report: oracle.Report) -> bool:
    """Whether a diagnosis was made, and every one that was made says what is wrong."""
    made = [failure.diagnosis for failure in report.failures if failure.diagnosis]
    if wrong.said is None or not made:
        return False
    return all(re.search(wrong.said, diagnosis, re.IGNORECASE) for diagnosis in made)


@pytest.mark.usefixtures("remembered")
@pytest.mark.parametrize("wrong", WRONG, ids=lambda w: f"{w.call}: {w.what}")
def test_every_wrong_implementation_is_caught(wrong: Wrong) -> None:
    report = report_of(wrong)
    assert report.failures
    assert wrong.said is None or is_named(wrong, report), str(report)


def test_the_catalogue_is_as_large_as_promised() -> None:
    assert len(WRONG) >= 40
    assert sum(wrong.said is not None for wrong in WRONG) >= 35


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_what_the_catalogue_is_made_from_is_sound(dtype: str) -> None:
    """The loops without any mistake pass: so it is the mistakes that are caught."""
    oracle.check({"score_batches": stream, "MEmeL": memel}, dtype=dtype)
