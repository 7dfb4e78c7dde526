"""The four runs: they share all but the gradient of what is flagged."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from minimono.data import random_batches
from minimono.experiments.four_ways import METHODS, QUICK, Corpus, Experiment, Json, Settings, Watch
from minimono.mono import MEmeL
from minimono.nn import checkpoint, taps
from minimono.nn.models import GPT
from minimono.nn.optim import AdamW
from minimono.nn.training import train


@pytest.fixture(scope="module")
def settings() -> Settings:
    return Settings(**QUICK)


@pytest.fixture(scope="module")
def corpus(settings: Settings) -> Corpus:
    return Corpus(settings)


@pytest.fixture(scope="module")
def trained(settings: Settings, corpus: Corpus) -> tuple[Experiment, list[Json]]:
    experiment, records = Experiment(settings, corpus), []
    while experiment.step < settings.steps:
        records += experiment.advance()
    return experiment, records


def test_the_runs_begin_alike(settings: Settings, corpus: Corpus) -> None:
    experiment = Experiment(settings, corpus)
    first, *others = [dict(run.model.named_parameters()) for run in experiment.runs]
    for other in others:
        assert first.keys() == other.keys()
        assert all(np.array_equal(p.data, other[name].data) for name, p in first.items())
    assert [type(m) for m in experiment.runs[0].inserted.values()] == [Watch, Watch]
    strengths = [{m.strength for m in run.inserted.values()} for run in experiment.runs[1:]]
    assert strengths == [{0.0}, {-1.0}, {1.0}]
    assert all(type(m) is MEmeL for run in experiment.runs[1:] for m in run.inserted.values())


def test_the_plain_run_is_training_with_nothing_inserted(
    settings: Settings, corpus: Corpus, trained: tuple[Experiment, list[Json]]
) -> None:
    model = GPT(
        vocabulary=corpus.characters.size, context=settings.context, channels=settings.channels,
        heads=settings.heads, layers=settings.layers, rng=np.random.default_rng(settings.seed),
    )
    experiment, records = trained
    batches = random_batches(
        corpus.training, batch=settings.batch, context=settings.context,
        rng=np.random.default_rng([settings.seed, 1]),
    )
    plain = experiment.runs[0]
    optimiser = AdamW(model.parameters(), settings.learning_rate, betas=(0.9, 0.99))
    losses = [
        record.loss
        for record in train(
            model, batches, lambda model, x, y: _cross_entropy(model(x), y), optimiser,
            steps=settings.steps, schedule=plain.learning_rate, max_norm=1.0,
        )
    ]
    assert losses == [r["loss"] for r in records if (r["kind"], r["method"]) == ("step", "plain")]
    ours = dict(plain.model.named_parameters())
    assert all(np.array_equal(p.data, ours[name].data) for name, p in model.named_parameters())


def _cross_entropy(logits, targets):  # type: ignore[no-untyped-def]
    from minimono.engine.functional import cross_entropy

    return cross_entropy(logits, targets)


def test_runs_part_when_inhibition_begins(trained: tuple[Experiment, list[Json]]) -> None:
    experiment, records = trained
    losses = {
        m.key: [r["loss"] for r in records if (r["kind"], r["method"]) == ("step", m.key)]
        for m in METHODS
    }
    for key in ("naive-a", "naive-b", "memel"):
        assert losses[key][:10] == losses["plain"][:10]
        assert losses[key][10] != losses["plain"][10]  # the eleventh call is the first inhibited
    assert losses["naive-a"][10] == losses["naive-b"][10] == losses["memel"][10]  # same values
    weights = {next(iter(run.model.parameters())).data.tobytes() for run in experiment.runs}
    assert len(weights) == 4  # different gradients


def test_movement_is_measured_once_inhibition_has_begun(
    trained: tuple[Experiment, list[Json]],
) -> None:
    _, records = trained
    for m in METHODS:
        found = [r for r in records if (r["kind"], r["method"]) == ("movement", m.key)]
        assert [r["step"] for r in found] == [2, 4, 6, 8, 10, 12, 14, 16]
        assert [r["change"] for r in found[:5]] == [None] * 5
        assert all(math.isfinite(r["change"]) and r["change"] != 0.0 for r in found[5:])


def test_movement_is_that_of_the_flagged(settings: Settings, corpus: Corpus) -> None:
    """By hand: the network's own activations before and after an update, at what it flagged."""
    experiment = Experiment(settings, corpus)
    for _ in range(11):
        experiment.advance()
    run, batch = experiment.runs[3], next(experiment.batches)
    before = run.underlying(batch[0])
    run.update(11, batch)
    after = run.underlying(batch[0])
    far, further, flags = 0.0, 0.0, 0
    for tap, module in run.inserted.items():
        assert module.last is not None
        for place in zip(*np.nonzero(module.last.flagged), strict=True):
            mean = module.last.mean[place[1:]]
            far += abs(float(before[tap][place]) - mean)
            further += abs(float(after[tap][place]) - mean)
            flags += 1
    assert flags == 2 * settings.batch  # k = 1 in each piece, behind each of two blocks
    assert run.movement(before, batch[0]) == pytest.approx(further / far - 1.0, rel=1e-6)
    assert run.movement(after, batch[0]) == 0.0


def test_case_study_reversing_the_gradient_reverses_the_movement(
    trained: tuple[Experiment, list[Json]],
) -> None:
    """One small step is linear in the gradient: what (b) adds to (a), MEmeL takes away."""
    experiment, _ = trained
    records = list(experiment._case_study())

    def moved(key: str) -> np.ndarray:
        return np.array([r["change"] for r in records if r["method"] == key])

    b, memel = moved("naive-b") - moved("naive-a"), moved("memel") - moved("naive-a")
    assert len(b) == 16
    assert len(moved("plain")) == 0  # no rule
    np.testing.assert_allclose(b, -memel, rtol=0.05, atol=2e-5)
    assert b.mean() > 0.0 > memel.mean()


def test_constant_neurons_are_counted_and_have_no_phi(settings: Settings, corpus: Corpus) -> None:
    run = Experiment(settings, corpus).runs[1]
    for p in run.model.parameters():
        p.data = np.zeros_like(p.data)
    experiment = Experiment(settings, corpus)
    records = list(experiment._looked_into(run))
    [final] = [r for r in records if r["kind"] == "final"]
    neurons = 2 * settings.context * settings.channels  # behind two blocks
    assert (final["constant_neurons"], final["neurons"]) == (neurons, neurons)
    assert final["phi_mean"] is final["phi_999"] is None
    assert final["loss"] == pytest.approx(math.log(corpus.characters.size), rel=1e-6)
    assert not [r for r in records if r["kind"] == "neuron"]
    assert all(not any(r["density"]) for r in records if r["kind"] == "phi")


def test_middle_blocks() -> None:
    def middle(layers: int) -> list[int]:
        return [int(tap.split(".")[1]) for tap in Settings(layers=layers).middle]

    assert middle(12) == [4, 5, 6, 7]  # the paper's BERT
    assert middle(4) == [1, 2]
    assert [middle(n) for n in (1, 2, 3)] == [[0], [0, 1], [1]]
    model = GPT(
        vocabulary=3, context=2, channels=2, heads=1, layers=4, rng=np.random.default_rng(0)
    )
    assert set(Settings().middle) <= set(taps.names(model))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "steps is 0, expected 1 or more"),
        ({"batch": 1}, "batch is 1, expected 2 or more"),
        ({"k": 0}, "k is 0, expected 1 or more"),
        ({"k": 5000}, "k is 5000, but after a block a piece has only 64 x 64"),
        ({"heads": 5}, "heads: 64 channels do not divide into 5"),
        ({"warmup": 180}, "warmup is 180, expected less than the 180 steps"),
        ({"learning_rate": math.nan}, "learning_rate is nan"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_settings_are_checked(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(**wrong)  # type: ignore[arg-type]


def test_restore_refuses_another_run_and_names_what_differs(
    settings: Settings, corpus: Corpus, tmp_path: Path
) -> None:
    path = tmp_path / "run.npz"
    Experiment(settings, corpus).save(path, {})
    found = checkpoint.load(path)
    other = Experiment(replace(settings, k=2, seed=3), corpus)
    with pytest.raises(ValueError, match="k was 1 and is 2; seed was 0 and is 3"):
        other.restore(found)
    (tmp_path / "text.txt").write_text("Another text, and long enough. " * 30)
    changed = replace(settings, text=str(tmp_path / "text.txt"))
    another = Experiment(changed, Corpus(changed))
    with pytest.raises(ValueError, match="text's sha256 was "):
        another.restore(found)


def test_a_checkpoint_holds_all_four_by_name(
    settings: Settings, corpus: Corpus, trained: tuple[Experiment, list[Json]], tmp_path: Path
) -> None:
    experiment, _ = trained
    experiment.save(tmp_path / "run.npz", {"note": 1})
    found = checkpoint.load(tmp_path / "run.npz")
    assert (found.step, found.config["note"]) == (settings.steps, 1)
    for run in experiment.runs:
        key = run.method.key
        for state, saved, separator in (
            (run.model.state_dict(), found.model, "."),
            (run.optimiser.state_dict(), found.optimiser, "/"),
        ):
            assert saved is not None
            begun = {n: a for n, a in saved.items() if n.startswith(f"{key}{separator}")}
            assert begun.keys() == {f"{key}{separator}{name}" for name in state}
            for name, array in state.items():
                np.testing.assert_array_equal(array, begun[f"{key}{separator}{name}"])
