"""Six ways to train on one task, each from several seeds: means, intervals, paired tests, words.

    original          the network as it is
    naive (a)         the most monosemantic activations become their mean, with gradient 0
    naive (b)         the same value, the gradient as if nothing had happened
    MEmeL             the same value, the gradient reversed
    MEmeL, tuned      with the k and strength that do best on the validation part
    MEmeL, on at test the networks of MEmeL, tested while its modules go on inhibiting

The comparison of Wang, Di, Chen and Ng (KDD 2024) at the scale of minutes. A task is an object like
`Task`; `compare` trains and tests. Needs SciPy, which comes with the extra `demos`. The scripts
`demos/task_*.py` are the three tasks; `comparison_report` says what came of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np

from minimono.backend import Array, to_host
from minimono.engine.functional import log_softmax
from minimono.engine.tensor import Tensor
from minimono.lazy import required
from minimono.measurement import evaluating, scale_against
from minimono.mono.inhibition import MEmeL
from minimono.nn import taps
from minimono.nn.module import Module
from minimono.nn.training import Record, TrainingError
from minimono.verdict import Interval, samples

Scores = dict[str, float]  # by the measures' names

# ---- what is compared, and on what -------------------------------------------------------------


@dataclass(frozen=True)
class Method:
    """A way to train (`strength` None: nothing is inserted), and whether it inhibits at test."""

    name: str
    strength: float | None = None
    k: int = 1
    on_at_test: bool = False


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
    """What can be learnt, and how well it was. The same seed gives the same bits.

    The parts "training", "validation" and "test" are the same data for every seed: a seed is of
    the first weights and of the order of the batches. So a part that chose k and strength cannot
    be in another seed's test.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]  # a dataclass, whose fields are the sizes
    name: ClassVar[str]
    measures: ClassVar[tuple[Measure, ...]]  # tuning goes by the first

    @property
    def steps(self) -> int:
        """Updates of a training."""

    @property
    def pretraining(self) -> int:
        """Updates before all trainings, once; 0 for none."""

    def description(self) -> str:
        """The data and the network, in a sentence or two."""

    def network(self, seed: int) -> Module:
        """A new network, or a pretrained one."""

    def places(self, model: Module) -> list[str]:
        """The taps where MEmeL's modules go."""

    def training(self, model: Module, seed: int) -> Iterator[Record]:
        """Train it: `steps` updates."""

    def test(self, model: Module, part: str) -> Scores:
        """The measures of a network, as it is switched, on (a share of) a part of the data."""

    def baseline(self) -> tuple[str, Scores]:
        """What one gets without a network, on the test part."""


# ---- one training, one test --------------------------------------------------------------------


def trained(task: Task, method: Method, seed: int) -> Module:
    """A network of the task, trained in this way."""
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
    """The task's measures on a part; nothing is inhibited, unless `on_at_test`.

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
    """phi at MEmeL's places, nothing inhibited: test activations against moments of training ones.

    As published, without compensation. Over all activations the 99.9th percentile; and the highest
    of each sample, its median over samples. In a recurrent network each time step is a sample.
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
    """All that flows through the task's places in a test, one call after another."""
    found: dict[str, list[Array]] = {tap: [] for tap in task.places(model)}

    def keeper(calls: list[Array]) -> Callable[[Tensor], Tensor]:
        def keep(z: Tensor) -> Tensor:
            calls.append(to_host(z.data))
            return z

        return keep

    with ExitStack() as stack:
        for tap, calls in found.items():
            stack.enter_context(taps.replace(model, tap, keeper(calls)))
        task.test(model, part)
    return {tap: np.concatenate(calls) for tap, calls in found.items()}


def classified(model: Module, inputs: Array, labels: Array, *, batch: int) -> Scores:
    """Accuracy in per cent, and cross-entropy in nats, of a classifier of `inputs` (N, ...)."""
    parts = [inputs[i : i + batch] for i in range(0, len(inputs), batch)]
    log_p = np.concatenate([to_host(log_softmax(model(part)).data) for part in parts])  # (N, K)
    right = log_p.argmax(axis=1) == labels
    chosen = log_p[np.arange(len(labels)), labels].astype(np.float64)
    return {"accuracy, %": 100.0 * float(right.mean()), "loss, nats": -float(chosen.mean())}


def frequencies(labels: Array, test_labels: Array) -> Scores:
    """The same measures of guessing by how frequent the labels are in training."""
    counts = np.bincount(labels, minlength=int(test_labels.max()) + 1)
    with np.errstate(divide="ignore"):
        log_p = np.log(counts / counts.sum())
    right = test_labels == counts.argmax()
    return {
        "accuracy, %": 100.0 * float(right.mean()),
        "loss, nats": -float(log_p[test_labels].mean()),
    }


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
        """A measure's values, one for each seed."""
        return np.array([scores[measure.name] for scores in self.scores[method]])


def tune(
    task: Task, *, seeds: Sequence[int], grid: Sequence[tuple[int, float]],
    done: Callable[[], object] = lambda: None,
) -> dict[tuple[int, float], float]:  # fmt: skip
    """The first measure's mean on the validation part for every (k, strength); nan if it diverged.

    The test part is not asked for.
    """
    first = task.measures[0]
    found = {}
    for k, strength in grid:
        values = []
        for seed in seeds:
            try:
                model = trained(task, Method(TUNED, strength, k), seed)
                values.append(score(task, model, "validation")[first.name])
            except TrainingError:
                values.append(math.nan)
            done()
        found[k, strength] = float(np.mean(values))
    return found


def best(tuning: Mapping[tuple[int, float], float], better: str) -> tuple[int, float]:
    """The best (k, strength); of equal ones the first, so the gentlest. ValueError if all diverged.

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
) -> Comparison:  # fmt: skip
    """Train and test the six; `done` is called after each of `number_of_trainings`, or fewer.

    Raises ValueError for fewer than two seeds, which have no interval, and if a seed of the tuning
    is among the others.
    """
    if len(set(seeds)) < 2 or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds is {list(seeds)}, expected two or more different ones")
    if shared := sorted(set(seeds) & set(tuning_seeds)):
        raise ValueError(f"tuning_seeds: {shared} are seeds of the comparison too")
    tuning = tune(task, seeds=tuning_seeds, grid=grid, done=done)
    k, strength = chosen = best(tuning, task.measures[0].better)
    tuned = Method(TUNED, strength, k)
    scores: dict[str, list[Scores]] = {name: [] for name in NAMES}
    for seed in seeds:
        for method in (ORIGINAL, NAIVE_A, NAIVE_B, MEMEL, tuned):
            if method is tuned and chosen == (MEMEL.k, MEMEL.strength):
                scores[TUNED].append(scores[MEMEL.name][-1])
                continue
            model = trained(task, method, seed)
            phi = monosemanticity(task, model)
            scores[method.name].append(score(task, model, "test") | phi)
            if method is MEMEL:
                left_on = score(task, model, "test", on_at_test=True)
                scores[ON_AT_TEST.name].append(left_on | phi)
            done()
    return Comparison(task, tuple(seeds), tuple(tuning_seeds), tuning, chosen, scores)


def number_of_trainings(seeds: int, tuning_seeds: int, grid: int) -> int:
    """How often `compare` trains at most: five methods a seed, the sixth being one of them."""
    return 5 * seeds + tuning_seeds * grid


# ---- statistics over seeds ---------------------------------------------------------------------


class Paired(NamedTuple):
    """A method against the original, seed by seed."""

    difference: Interval
    p_t: float  # paired t-test, two-sided; nan if all differences are equal, up to rounding
    higher: int  # seeds in which it is higher than the original
    lower: int
    p_sign: float  # sign test, two-sided, without the seeds that are equal


def interval(values: Array) -> Interval:
    """mean ± t s / sqrt(n), with t the 97.5 % point of Student's t with n - 1 degrees of freedom.

    It holds for values that are independent and near to normal: here one for each seed. Values that
    are equal up to rounding have a half of 0, and are not clear of zero.
    """
    values, rounding = _values(values, "interval: values")
    return _interval(values, float(rounding.max()))


def _interval(values: Array, rounding: float) -> Interval:
    """The interval of values that are known to within `rounding`."""
    n = len(values)
    t = float(scipy_stats().t.ppf(0.975, n - 1))
    spread = float(np.std(values, ddof=1)) if np.ptp(values) > rounding else 0.0
    return Interval(float(np.mean(values)), t * spread / math.sqrt(n))


def _values(values: Array, name: str) -> tuple[Array, Array]:
    """Values in float64, two or more, all finite; and of each what its rounding may hide."""
    values = np.asarray(values)
    exact = samples(values, name)
    if len(values) < 2:
        raise ValueError(f"{name} have shape {values.shape}, expected (n,), two or more")
    if not np.isfinite(exact).all():
        first = int(np.isfinite(exact).argmin())
        raise ValueError(f"{name} is {exact[first]} at {first}, expected finite numbers")
    eps = float(np.finfo(values.dtype).eps) if values.dtype.kind == "f" else 0.0
    return exact, 2.0 * eps * abs(exact)


def paired(values: Array, original: Array) -> Paired:
    """Test values against the original's of the same seeds.

    t = mean(d) / (s(d) / sqrt(n)) for the differences d. Sign test: the number of d > 0 among
    those that are not 0 is binomial with p = 1/2, if neither is better. Differences that the
    rounding of their operands could make are 0; where it could make all of their spread, there is
    none, so no t: p_t is nan, and the difference is not clear.
    """
    stats = scipy_stats()
    values, rounding = _values(values, "paired: values")
    original, its_rounding = _values(original, "paired: original")
    if values.shape != original.shape:
        raise ValueError(
            f"paired: values have shape {values.shape}, original {original.shape}; expected one of "
            "each for each seed"
        )
    d, rounding = values - original, rounding + its_rounding
    d[abs(d) <= rounding] = 0.0
    found = _interval(d, float(rounding.max()))
    error = float(np.std(d, ddof=1)) / math.sqrt(len(d)) if found.half else 0.0
    p_t = 2.0 * float(stats.t.sf(abs(found.mean) / error, len(d) - 1)) if error else math.nan
    higher, lower = int((d > 0).sum()), int((d < 0).sum())
    p_sign = float(stats.binomtest(higher, higher + lower).pvalue) if higher + lower else 1.0
    return Paired(found, p_t, higher, lower, p_sign)


def scipy_stats() -> Any:
    return required("scipy.stats", by="comparison", install="scipy")
