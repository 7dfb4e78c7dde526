"""Six ways to train on one task, each from several seeds.

    original          the network as it is
    naive (a)         the most monosemantic activations become their mean, with gradient 0
    naive (b)         the same value, the gradient as if nothing had happened
    MEmeL             the same value, the gradient reversed
    MEmeL, tuned      with the k and strength that do best on the validation part
    MEmeL, on at test the networks of MEmeL, tested while its modules go on inhibiting

The comparison of Wang, Di, Chen and Ng (KDD 2024) at the scale of minutes. A task is an object like
`Task`; `compare` trains and tests. The scripts `demos/task_*.py` are the three tasks;
`six_ways_report` says what came of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np

from minimono.backend import Array, to_host
from minimono.engine.functional import log_softmax
from minimono.engine.tensor import Tensor
from minimono.experiments.measurement import scale_against
from minimono.experiments.methods import Method
from minimono.experiments.records import Once, anew
from minimono.mono.inhibition import MEmeL
from minimono.nn import taps
from minimono.nn.module import Module, evaluating
from minimono.nn.training import Record, TrainingError

Scores = dict[str, float]  # by the measures' names

# ---- what is compared, and on what -------------------------------------------------------------


ORIGINAL, MEMEL = Method("original"), Method("MEmeL", 1.0)
NAIVE_A, NAIVE_B = Method("naive (a)", 0.0), Method("naive (b)", -1.0)
ON_AT_TEST = Method("MEmeL, on at test", 1.0, on_at_test=True)
TUNED = "MEmeL, tuned"
NAMES = (ORIGINAL.name, NAIVE_A.name, NAIVE_B.name, MEMEL.name, TUNED, ON_AT_TEST.name)

TUNING_SEEDS: Sequence[int] = (1000, 1001)
GRID = tuple((k, strength) for k in (1, 10, 100) for strength in (1.0, 10.0))


@dataclass(frozen=True)
class Measure:
    """A number that a test gives. `published` has what the paper reports, by method's name."""

    name: str
    better: str  # "higher", "lower", or "" where neither is
    digits: int = 2
    published: Mapping[str, str] = field(default_factory=dict)
    published_as: str = ""  # what the paper measured, on what


PHI = (Measure("phi, 99.9 %", "", 2), Measure("phi, highest", "", 1))


class Task(Protocol):
    """A task says what is learnt, and how well it was. The same seed gives the same bits.

    The parts "training", "validation" and "test" are the same data for every seed: a seed is of
    the first weights and of the order of the batches. So a part that chose k and strength cannot
    be in another seed's test.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]  # a dataclass, whose fields are the sizes
    name: ClassVar[str]
    measures: ClassVar[tuple[Measure, ...]]  # tuning goes by the first

    @property
    def steps(self) -> int:
        """How many updates a training has."""

    @property
    def pretraining(self) -> int:
        """How many updates come once before all trainings; 0 for none."""

    def description(self) -> str:
        """Describe the data and the network in a sentence or two."""

    def network(self, seed: int) -> Module:
        """Make a new network, or a pretrained one."""

    def places(self, model: Module) -> list[str]:
        """Name the taps where MEmeL's modules go."""

    def training(self, model: Module, seed: int) -> Iterator[Record]:
        """Train it by `steps` updates."""

    def test(self, model: Module, part: str) -> Scores:
        """Measure a network, as it is switched, on a part of the data or a share of it."""

    def baseline(self) -> tuple[str, Scores]:
        """Say what one gets without a network, on the test part."""


# ---- one training, one test --------------------------------------------------------------------


def trained(task: Task, method: Method, seed: int) -> Module:
    """Train a network of the task in this way."""
    model = task.network(seed)
    insert(task, model, method)
    for _ in task.training(model, seed):
        pass
    return model


def insert(task: Task, model: Module, method: Method) -> None:
    """Put the method's modules, if it has any, into a network of the task."""
    if method.strength is not None:
        for tap in task.places(model):
            taps.insert(model, tap, MEmeL(method.k, method.strength))


def score(task: Task, model: Module, part: str, *, on_at_test: bool = False) -> Scores:
    """Measure a network on a part of the data, nothing inhibited unless `on_at_test`.

    Left on, MEmeL's modules are in training mode, all else as at any test: they inhibit, and their
    moments go on with the test's batches. What they saw stays in them, so this test comes last.
    """
    with evaluating(model):
        if on_at_test:
            for _, module in model.named_modules():
                if isinstance(module, MEmeL):
                    module.train()
        return task.test(model, part)


def monosemanticity(task: Task, model: Module) -> Scores:
    """Measure phi at MEmeL's places, nothing inhibited, against moments of training activations.

    As published, without compensation: the 99.9th percentile of all test activations, and the
    median over samples of each one's highest. In a recurrent network each time step is a sample.
    """
    with evaluating(model):
        history = _activations(task, model, "training")
        now = _activations(task, model, "test")
    phi = {tap: scale_against(history[tap], z).reshape(len(z), -1) for tap, z in now.items()}
    highest = np.concatenate([np.nanmax(p, axis=1) for p in phi.values()])
    everything = np.concatenate([p.ravel() for p in phi.values()])
    return {
        PHI[0].name: float(np.nanpercentile(everything, 99.9)),
        PHI[1].name: float(np.nanmedian(highest)),
    }


def _activations(task: Task, model: Module, part: str) -> dict[str, Array]:
    """Collect all that flows through the task's places in a test, one call after another."""
    kept: dict[str, list[Tensor]] = {}
    with ExitStack() as stack:
        for tap in task.places(model):
            kept |= stack.enter_context(taps.record(model, tap))
        task.test(model, part)
    return {tap: np.concatenate([to_host(z.data) for z in calls]) for tap, calls in kept.items()}


def classified(model: Module, inputs: Array, labels: Array, *, batch: int) -> Scores:
    """Return the accuracy in per cent and the loss in nats of a classifier, for inputs (N, ...)."""
    parts = [inputs[i : i + batch] for i in range(0, len(inputs), batch)]
    log_p = np.concatenate([to_host(log_softmax(model(part)).data) for part in parts])  # (N, K)
    return _accuracy_and_loss(log_p, labels)


def frequencies(labels: Array, test_labels: Array) -> Scores:
    """Return the same measures of guessing by how frequent the labels are in training."""
    counts = np.bincount(labels, minlength=int(test_labels.max()) + 1)
    with np.errstate(divide="ignore"):
        log_p = np.log(counts / counts.sum())
    return _accuracy_and_loss(np.tile(log_p, (len(test_labels), 1)), test_labels)


def _accuracy_and_loss(log_p: Array, labels: Array) -> Scores:
    """Score log-probabilities (N, K) of labels (N,)."""
    right = log_p.argmax(axis=1) == labels
    chosen = log_p[np.arange(len(labels)), labels].astype(np.float64)
    return {"accuracy, %": 100.0 * float(right.mean()), "loss, nats": -float(chosen.mean())}


# ---- all of them -------------------------------------------------------------------------------


class Comparison(NamedTuple):
    """What `compare` found."""

    task: Task
    seeds: tuple[int, ...]
    tuning_seeds: tuple[int, ...]
    tuning: dict[tuple[int, float], float]  # mean of the first measure on validation; nan: diverged
    chosen: tuple[int, float]  # the k and strength of "MEmeL, tuned"
    scores: dict[str, list[Scores]]  # by method's name, one for each seed

    def values(self, method: str, measure: Measure) -> Array:
        """Return a measure's values, one for each seed."""
        return np.array([scores[measure.name] for scores in self.scores[method]])


def tune(
    task: Task, *, seeds: Sequence[int], grid: Sequence[tuple[int, float]],
    done: Callable[[], object] = lambda: None, once: Once = anew,
) -> dict[tuple[int, float], float]:
    """Return the first measure's mean on the validation part for every (k, strength).

    It is nan where training diverged. The test part is not asked for.
    """
    found = {}
    for k, strength in grid:
        values = []
        for seed in seeds:
            method = Method(TUNED, strength, k)
            result = once(_name(method, seed), partial(_validated, task, method, seed))
            values.append(result.get(task.measures[0].name, math.nan))
            done()
        found[k, strength] = float(np.mean(values))
    return found


def _validated(task: Task, method: Method, seed: int) -> Scores:
    """Train and score on the validation part; nothing if training diverges."""
    try:
        return score(task, trained(task, method, seed), "validation")
    except TrainingError:
        return {}


def _tested(task: Task, method: Method, seed: int) -> dict[str, Scores]:
    """Train and score on the test part; MEmeL left on too."""
    model = trained(task, method, seed)
    phi = monosemanticity(task, model)
    scores = {method.name: score(task, model, "test") | phi}
    if method is MEMEL:
        left_on = score(task, model, "test", on_at_test=True)
        scores[ON_AT_TEST.name] = left_on | phi
    return scores


def _name(method: Method, seed: int) -> str:
    return f"{method.name}, k {method.k}, strength {method.strength}, seed {seed}"


def best(tuning: Mapping[tuple[int, float], float], better: str) -> tuple[int, float]:
    """Return the best (k, strength), of equal ones the first, the gentlest.

    ValueError if all diverged.

    >>> best({(1, 1.0): 90.0, (1, 10.0): 92.0, (10, 1.0): math.nan}, "higher")
    (1, 10.0)
    """
    sign = 1.0 if better == "higher" else -1.0
    stable = [at for at, value in tuning.items() if math.isfinite(value)]
    if not stable:
        raise ValueError("tuning: training diverged for every k and strength of the grid")
    return max(stable, key=lambda at: sign * tuning[at])


def compare(
    task: Task, *, seeds: Sequence[int] = range(5), tuning_seeds: Sequence[int] = TUNING_SEEDS,
    grid: Sequence[tuple[int, float]] = GRID, done: Callable[[], object] = lambda: None,
    once: Once = anew,
) -> Comparison:
    """Train and test the six; `done` is called after each of `number_of_trainings`, or fewer.

    `once` gives the result of each training, by a name: `records.Results` knows those that were
    made before the process was killed.

    Raises ValueError for fewer than two seeds, which have no interval, and if a seed of the tuning
    is among the others.
    """
    if len(set(seeds)) < 2 or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds is {list(seeds)}, expected two or more different ones")
    if shared := sorted(set(seeds) & set(tuning_seeds)):
        raise ValueError(f"tuning_seeds: {shared} are seeds of the comparison too")
    tuning = tune(task, seeds=tuning_seeds, grid=grid, done=done, once=once)
    k, strength = chosen = best(tuning, task.measures[0].better)
    tuned = Method(TUNED, strength, k)
    scores: dict[str, list[Scores]] = {name: [] for name in NAMES}
    for seed in seeds:
        for method in (ORIGINAL, NAIVE_A, NAIVE_B, MEMEL, tuned):
            if method is tuned and chosen == (MEMEL.k, MEMEL.strength):
                scores[TUNED].append(scores[MEMEL.name][-1])
                continue
            tested = once(_name(method, seed), partial(_tested, task, method, seed))
            for name, found in tested.items():
                scores[name].append(found)
            done()
    return Comparison(task, tuple(seeds), tuple(tuning_seeds), tuning, chosen, scores)


def number_of_trainings(seeds: int, tuning_seeds: int, grid: int) -> int:
    """Count how often `compare` trains at most: five methods a seed, of which one gives two."""
    return 5 * seeds + tuning_seeds * grid
