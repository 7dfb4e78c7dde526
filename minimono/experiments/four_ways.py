"""The main job: one small GPT, trained four times from one seed on the same batches of a text.

    plain        the network as it is
    naive (a)    the most monosemantic activations become their mean; no gradient
    naive (b)    the same value; the gradient passes as if nothing had happened
    MEmeL        the same value; the gradient is reversed

The comparison of Wang, Di, Chen and Ng (KDD 2024), at the scale of a minute. `Experiment` trains
and measures, and hands out records (dicts that JSON can hold); it prints and draws nothing.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from minimono.backend import Array, cupy, to_host
from minimono.checks import whole_number
from minimono.data import Characters, random_batches, read_text, split
from minimono.engine.functional import cross_entropy
from minimono.engine.tensor import Tensor
from minimono.experiments import measurement
from minimono.experiments.measurement import spread_windows
from minimono.experiments.methods import Method
from minimono.mono.inhibition import MEmeL
from minimono.nn import checkpoint, taps
from minimono.nn.models import GPT
from minimono.nn.module import Module
from minimono.nn.optim import SGD, AdamW, Optimiser, cosine_schedule
from minimono.nn.training import Record, train

Json = dict[str, Any]


METHODS = (
    Method("Plain"), Method("Naive (a)", 0.0), Method("Naive (b)", -1.0), Method("MEmeL", 1.0),
)
UNTRAINED = Method("Untrained")

LOOKED_INTO = ("untrained", "plain", "memel")  # whose neurons are shown
CASE_STUDY_BATCHES, CASE_STUDY_STEP = 16, 0.01  # the step: a learning rate of plain descent
COST_ROUNDS = 24
LOG10_PHI_EDGES = np.linspace(-6.0, 4.0, 101)


def _setting(default: Any, text: str, **more: Any) -> Any:
    return field(default=default, metadata={"help": text, "choices": None, "least": None} | more)


@dataclass(frozen=True)
class Settings:
    """These are all that the numbers of a run depend on. Each is a flag of `minimono demo`."""

    text: str | None = _setting(None, "a UTF-8 text file to learn (default: Python's help topics)")
    steps: int = _setting(180, "updates of each of the four networks", least=1)
    # A single sample has no variance.
    batch: int = _setting(8, "pieces of text in a batch", least=2)
    context: int = _setting(64, "characters in a piece", least=1)
    channels: int = _setting(64, "width of the network", least=1)
    heads: int = _setting(4, "attention heads in a block", least=1)
    layers: int = _setting(4, "blocks; inhibition goes after the middle ones", least=1)
    learning_rate: float = _setting(4e-3, "the highest, after the warm-up")
    warmup: int = _setting(36, "updates until then; afterwards it falls on half a cosine", least=0)
    # k: from the paper's grid (1, 5, 10, 50, 100). With its default of 1, one of 4096 activations,
    # the rules move activations too little to see in this experiment.
    k: int = _setting(
        10, "activations that are deactivated in each piece, after each middle block", least=1
    )
    seed: int = _setting(0, "of the first weights and of the batches", least=0)
    evaluate_every: int = _setting(20, "updates between two validation losses", least=1)
    measure_every: int = _setting(8, "updates between two measurements of movement", least=1)
    windows: int = _setting(
        128, "pieces of training and of validation text for the last measures", least=2
    )
    device: str = _setting("cpu", "cpu or cuda", choices=("cpu", "cuda"))

    def __post_init__(self) -> None:
        for setting in fields(self):
            if (least := setting.metadata["least"]) is not None:
                whole_number(getattr(self, setting.name), setting.name, least=least)
        if self.warmup >= self.steps:
            raise ValueError(f"warmup is {self.warmup}, expected less than the {self.steps} steps")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0.0):
            raise ValueError(f"learning_rate is {self.learning_rate}, expected more than 0")
        if self.channels % self.heads:
            raise ValueError(f"heads: {self.channels} channels do not divide into {self.heads}")
        if self.k > self.context * self.channels:
            raise ValueError(
                f"k is {self.k}, but after a block a piece has only "
                f"{self.context} x {self.channels} activations (context x channels)"
            )

    @property
    def middle(self) -> list[str]:
        """Name the taps behind the middle blocks, all but a third at either end.

        These are the paper's four of twelve, and two of four.
        """
        end = self.layers // 3
        return [f"block.{i}.out" for i in range(end, self.layers - end)]


QUICK: dict[str, Any] = {  # for tests: enough steps that inhibition begins (after the tenth)
    "steps": 16, "batch": 4, "context": 16, "channels": 16, "heads": 2, "warmup": 2,
    "evaluate_every": 8, "measure_every": 2, "windows": 32, "k": 1,
}


class Corpus:
    """A text as numbers, of which the last tenth is for validation."""

    def __init__(self, settings: Settings):
        self.text = read_text(settings.text)
        self.characters = Characters(self.text)
        if self.characters.size < 2:
            raise ValueError("text: it has only one distinct character, so nothing to learn")
        ids = self.characters.encode(self.text)
        self.training, self.validation = split(ids)
        self.validation_text = self.text[len(self.training) :]
        size = {"windows": settings.windows, "context": settings.context}
        _, self.training_pieces = spread_windows(self.training, **size)  # (N, T + 1)
        self.validation_starts, self.validation_pieces = spread_windows(self.validation, **size)

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode("utf-8", "surrogatepass")).hexdigest()

    def description(self) -> Json:
        """Return what identifies the text, and its unigram entropy, the loss of guessing."""
        share = np.bincount(self.characters.encode(self.text)) / len(self.text)
        return {
            "characters": len(self.text),
            "distinct_characters": self.characters.size,
            "sha256": self.sha256,
            "unigram_entropy": float(-(share * np.log(share)).sum()),
        }


class Watch(MEmeL):
    """It flags what MEmeL would deactivate, and lets it pass: so the plain network is measured."""

    def forward(self, z: Tensor) -> Tensor:
        super().forward(z)
        return z


class Run:
    """A network, what is inserted in it, and its optimiser."""

    def __init__(self, method: Method, settings: Settings, vocabulary: int):
        self.method, self.settings = method, settings
        self.model = GPT(
            vocabulary=vocabulary, context=settings.context, channels=settings.channels,
            heads=settings.heads, layers=settings.layers, rng=np.random.default_rng(settings.seed),
        )
        self.inserted: dict[str, MEmeL] = {}
        for tap in settings.middle:
            k, strength = settings.k, method.strength
            self.inserted[tap] = Watch(k) if strength is None else MEmeL(k, strength)
            taps.insert(self.model, tap, self.inserted[tap])
        self.model.to(settings.device)
        self.optimiser = AdamW(self.model.parameters(), settings.learning_rate, betas=(0.9, 0.99))

    def update(self, step: int, batch: tuple[Array, Array]) -> Record:
        """Train on one batch, `step` updates having been done."""
        [record] = train(
            self.model, [batch], _loss, self.optimiser, start=step, steps=step + 1,
            schedule=self.learning_rate, max_norm=1.0,
        )
        return record

    def learning_rate(self, step: int) -> float:
        peak = self.settings.learning_rate
        return cosine_schedule(
            step, steps=max(self.settings.steps, step + 1), warmup=self.settings.warmup,
            peak=peak, floor=0.1 * peak,
        )

    def movement(self, before: dict[str, Array], inputs: Array) -> float | None:
        """Measure how much nearer to their means (below 0) the last flagged are than `before`.

        None if nothing was flagged (inhibition has not begun, or all neurons are constant).
        """
        if any(module.last is None for module in self.inserted.values()):
            return None
        after = self.underlying(inputs)
        distance, distance_after = 0.0, 0.0
        for tap, module in self.inserted.items():
            assert module.last is not None
            last = to_host(module.last.flagged), to_host(module.last.mean)
            distance += measurement.distance_to_mean(before[tap], *last)
            distance_after += measurement.distance_to_mean(after[tap], *last)
        return distance_after / distance - 1.0 if distance > 0.0 else None

    def underlying(self, inputs: Array) -> dict[str, Array]:
        """Return what the network itself has at the middle taps, nothing being inhibited."""
        seen = measurement.activations(self.model, inputs, "block.*.out")
        return {tap: seen[tap] for tap in self.inserted}


class Optimisers:
    """Several optimisers, saved and restored as one: their state's names begin with their own."""

    def __init__(self, optimisers: Mapping[str, Optimiser]):
        self.optimisers = optimisers

    def state_dict(self) -> dict[str, Array]:
        return {
            f"{name}/{key}": array
            for name, optimiser in self.optimisers.items()
            for key, array in optimiser.state_dict().items()
        }

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Take over a state; on a misfit raise, some having theirs and some not."""
        for name, optimiser in self.optimisers.items():
            optimiser.load_state_dict({
                key.removeprefix(f"{name}/"): array
                for key, array in state.items() if key.startswith(f"{name}/")
            })


def _loss(model: GPT, inputs: Array, targets: Array) -> Tensor:
    return cross_entropy(model(inputs), targets)


class Experiment:
    """The four runs: `advance()` until `step` is `settings.steps`, then `finish()`."""

    def __init__(self, settings: Settings, corpus: Corpus):
        if settings.device == "cuda":
            cupy()  # raises if there is no GPU
        self.settings, self.corpus = settings, corpus
        self.runs = [Run(method, settings, corpus.characters.size) for method in METHODS]
        self.rng = np.random.default_rng([settings.seed, 1])
        self.batches = random_batches(
            corpus.training, batch=settings.batch, context=settings.context, rng=self.rng
        )
        self.step = 0

    def compile_kernels(self) -> None:
        """Run two steps of a tiny experiment, so that no real step waits for the compiler."""
        if self.settings.device == "cpu":
            tiny = replace(self.settings, batch=2, context=2, channels=2, heads=1, layers=1, k=1)
            experiment = Experiment(tiny, self.corpus)
            for _ in range(2):
                experiment.advance()

    def advance(self) -> list[Json]:
        """Update each network once, on the same batch; now and then measure."""
        settings, batch = self.settings, next(self.batches)
        done = self.step + 1
        measured = done % settings.measure_every == 0
        evaluated = done % settings.evaluate_every == 0 or done == settings.steps
        records = []
        for run in self.runs:
            before = run.underlying(batch[0]) if measured else {}
            record = run.update(self.step, batch)
            records.append(_record("step", run.method, **asdict(record)))
            if measured:
                change = run.movement(before, batch[0])
                records.append(_record("movement", run.method, step=done, change=change))
            if evaluated:
                losses = measurement.window_losses(run.model, self.corpus.validation_pieces)
                loss = float(losses.mean())  # the last one is the loss of the table
                records.append(_record("validation", run.method, step=done, loss=loss))
        self.step = done
        return records

    def finish(self) -> Iterator[Json]:
        """Measure what is measured after training, which spoils the networks."""
        untrained = Run(UNTRAINED, self.settings, self.corpus.characters.size)
        for run in [untrained, *self.runs]:
            yield from self._looked_into(run)
        yield from self._case_study()
        yield from self._cost()

    def _looked_into(self, run: Run) -> Iterator[Json]:
        """Record validation loss, phi of the blocks, and the most monosemantic neurons."""
        training, validation = self.corpus.training_pieces, self.corpus.validation_pieces
        seen = [
            measurement.activations(run.model, pieces[:, :-1], "block.*")
            for pieces in (training, validation)
        ]
        phi = {}
        for tap in taps.names(run.model, "block.*.out"):
            phi[tap] = measurement.scale_against(seen[0][tap], seen[1][tap])  # (N, T, C)
            yield _record("phi", run.method, tap=tap, history=len(training), **_histogram(phi[tap]))
        inhibited = np.stack([phi[tap] for tap in run.inserted])  # (taps, N, T, C)
        known = inhibited[~np.isnan(inhibited)]
        losses = measurement.window_losses(run.model, validation)
        yield _record(
            "final", run.method,
            loss=float(losses.mean()), piece_losses=losses.tolist(),
            phi_mean=float(known.mean(dtype=np.float64)) if known.size else None,
            phi_999=float(np.percentile(known, 99.9)) if known.size else None,
            constant_neurons=int(np.isnan(inhibited[:, 0]).sum()),
            neurons=int(inhibited[:, 0].size),
        )
        if run.method.key in LOOKED_INTO:
            history, now = (
                {tap: z for tap, z in part.items() if tap.endswith(".mlp.act")} for part in seen
            )
            for neuron in measurement.most_monosemantic(history, now, count=3):
                yield _record("neuron", run.method, **self._described(neuron))

    def _described(self, neuron: measurement.Neuron) -> Json:
        snippets = measurement.top_snippets(
            neuron, self.corpus.validation_text, self.corpus.validation_starts, count=6
        )
        counts, edges = np.histogram(neuron.values, bins=50)
        return {
            "tap": neuron.tap, "channel": neuron.channel, "score": neuron.score,
            "counts": counts.tolist(), "edges": edges.tolist(),
            "mean": float(neuron.values.mean(dtype=np.float64)),
            "snippets": [snippet._asdict() for snippet in snippets],
        }

    def _case_study(self) -> Iterator[Json]:
        """Take one small step from one and the same network, by each rule, as the paper does.

        The plain network, the same batches, gradient descent without momentum. The rules flag and
        deactivate the same activations, so what differs is their gradient's doing alone.
        """
        state = self.runs[0].model.state_dict()
        vocabulary = self.corpus.characters.size
        probes = [Run(m, self.settings, vocabulary) for m in METHODS if m.strength is not None]
        for number in range(1, CASE_STUDY_BATCHES + 1):
            batch = next(self.batches)
            before = self.runs[0].underlying(batch[0])
            for probe in probes:
                probe.model.load_state_dict(state)
                [_] = train(
                    probe.model, [batch], _loss, SGD(probe.model.parameters(), CASE_STUDY_STEP),
                    steps=1,
                )
                change = probe.movement(before, batch[0])
                yield _record("case study", probe.method, number=number, change=change)

    def _cost(self) -> Iterator[Json]:
        """Time further updates of the four in turn, each of them first as often as the others."""
        for tap in self.settings.middle:
            taps.remove(self.runs[0].model, tap)  # the plain network without its `Watch`
        for number in range(1, COST_ROUNDS + 1):
            batch = next(self.batches)
            first = number % len(self.runs)
            for run in self.runs[first:] + self.runs[:first]:
                seconds = run.update(self.settings.steps, batch).seconds
                yield _record("cost", run.method, number=number, seconds=seconds)

    def save(self, path: Path, more: Json) -> None:
        """Write the checkpoint from which `restore` goes on: the four, and with its config `more`.

        Its arrays are named by method: "memel.block.0.norm1.weight".
        """
        checkpoint.save(
            path, self._models(), optimiser=self._optimisers(), rng=self.rng, step=self.step,
            config={"settings": self._identity(), **more},
        )

    def restore(self, found: checkpoint.Checkpoint) -> None:
        """Go on where `save` stopped, to the same numbers; ValueError if the run is another one."""
        saved = found.config.get("settings")
        if not isinstance(saved, dict):
            raise ValueError(f"resume: settings is {saved!r}, expected those of a run")
        differ = [
            f"{name} was {saved.get(name)!r} and is {value!r}"
            for name, value in self._identity().items()
            if name != "text" and saved.get(name) != value
        ]
        if differ:
            raise ValueError(f"resume: this is another run: {'; '.join(differ)}")
        found.restore(self._models(), self._optimisers(), self.rng)
        self.step = found.step

    def _models(self) -> Module:
        together = Module()
        for run in self.runs:
            setattr(together, run.method.key, run.model)
        return together

    def _optimisers(self) -> Optimisers:
        return Optimisers({run.method.key: run.optimiser for run in self.runs})

    def _identity(self) -> Json:
        """Return what must be the same for a run to be the same, and where its text was."""
        return asdict(self.settings) | {"text's sha256": self.corpus.sha256}


def _record(kind: str, method: Method, **values: Any) -> Json:
    return {"kind": kind, "method": method.key, **values}


def _histogram(phi: Array) -> Json:
    """Return the density of log10 phi over `LOG10_PHI_EDGES`."""
    with np.errstate(divide="ignore"):
        log10_phi = np.log10(phi[phi > 0.0])
    counts, edges = np.histogram(log10_phi, bins=LOG10_PHI_EDGES)
    share = counts / max(1, log10_phi.size) / np.diff(edges)
    return {"density": share.tolist(), "edges": edges.round(6).tolist()}
