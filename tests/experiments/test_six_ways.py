"""The six methods compared: the statistics, what tuning sees, what "on at test" changes."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scripts import names_of

from minimono import functional as F
from minimono import tensor
from minimono.backend import Array
from minimono.experiments import six_ways, six_ways_report
from minimono.experiments.six_ways import MEMEL, NAMES, ON_AT_TEST, ORIGINAL, TUNED, Measure, Method
from minimono.mono.inhibition import MEmeL
from minimono.nn.layers import Dropout, Linear
from minimono.nn.module import Module, Tap
from minimono.nn.optim import SGD
from minimono.nn.training import Record, TrainingError, train

ROOT = Path(__file__).resolve().parents[2]
GRID = ((1, 1.0), (2, 3.0))


class Network(Module):
    """Something with a place for MEmeL, and a dropout, whose mode must not follow MEmeL's."""

    def __init__(self, rng: np.random.Generator):
        self.lower, self.upper = Linear(2, 128, rng=rng), Linear(128, 2, rng=rng)
        self.act, self.dropout = Tap(), Dropout(0.5, rng=rng)

    def forward(self, x: Any) -> Any:
        return self.upper(self.dropout(self.act(F.tanh(self.lower(x)))))


@dataclass(frozen=True)
class Sign:
    """Is the product of two numbers positive? Notes what it is asked for."""

    steps: int = 14
    pretraining: int = 0
    spoilt: str = ""  # a part whose labels are turned round
    asked: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    modes: list[dict[str, bool]] = field(default_factory=list)

    name = "Sign: a toy"
    measures = (
        Measure("accuracy, %", "higher", 1, {"original": "7", "MEmeL": "8"}, "toys"),
        Measure("loss, nats", "lower", 3),
    )

    def network(self, seed: int) -> Network:
        self.seeds.append(seed)
        return Network(np.random.default_rng([seed, 0]))

    def places(self, model: Module) -> list[str]:
        return ["act"]

    def part(self, part: str) -> tuple[Array, Array]:
        rng = np.random.default_rng([7, ["training", "validation", "test"].index(part)])
        x = rng.standard_normal((40, 2)).astype(np.float32)
        labels = (x[:, 0] * x[:, 1] > 0).astype(np.int64)
        return x, 1 - labels if part == self.spoilt else labels

    def training(self, model: Module, seed: int) -> Iterator[Record]:
        x, labels = self.part("training")
        rng = np.random.default_rng([seed, 1])
        picks = (rng.integers(0, 40, 8) for _ in range(self.steps))
        return train(
            model, ((x[i], labels[i]) for i in picks),
            lambda model, x, labels: F.cross_entropy(model(tensor(x)), labels),
            SGD(model.parameters(), 0.3), steps=self.steps,
        )

    def test(self, model: Module, part: str) -> dict[str, float]:
        self.asked.append(part)
        self.modes.append({name: module.training for name, module in model.named_modules()})
        x, labels = self.part(part)
        return six_ways.classified(model, x, labels, batch=8)

    def description(self) -> str:
        return "Forty pairs of numbers in each part."

    def baseline(self) -> tuple[str, dict[str, float]]:
        _, labels = self.part("training")
        return "(guess)", six_ways.frequencies(labels, self.part("test")[1])


def run(task: Sign, **options: Any) -> six_ways.Comparison:
    options = {"seeds": (0, 1, 2), "tuning_seeds": (10, 11), "grid": GRID} | options
    return six_ways.compare(task, **options)


# ---- tuning ------------------------------------------------------------------------------------


def test_tuning_never_sees_the_test() -> None:
    task = Sign()
    tuning = six_ways.tune(task, seeds=(10, 11), grid=GRID)
    assert task.asked == ["validation"] * 4
    assert task.seeds == [10, 11] * 2
    # and so another test cannot change the choice, while another validation part does
    assert six_ways.tune(Sign(spoilt="test"), seeds=(10, 11), grid=GRID) == tuning
    assert six_ways.tune(Sign(spoilt="validation"), seeds=(10, 11), grid=GRID) != tuning


def test_tuning_takes_the_best_and_of_equal_ones_the_first() -> None:
    tuning = {(1, 1.0): 2.0, (1, 10.0): 5.0, (10, 1.0): 5.0, (10, 10.0): math.nan}
    assert six_ways.best(tuning, "higher") == (1, 10.0)
    assert six_ways.best(tuning, "lower") == (1, 1.0)
    with pytest.raises(ValueError, match="diverged for every k"):
        six_ways.best({(1, 1.0): math.nan}, "higher")


def test_tuning_passes_over_what_diverges(monkeypatch: pytest.MonkeyPatch) -> None:
    def trained(task: Sign, method: Method, seed: int) -> Module:
        if method.k == 2:
            raise TrainingError("the loss is nan")
        return task.network(seed)

    monkeypatch.setattr(six_ways, "trained", trained)
    tuning = six_ways.tune(Sign(), seeds=(10,), grid=GRID)
    assert math.isnan(tuning[2, 3.0])
    assert six_ways.best(tuning, "higher") == (1, 1.0)


def test_seeds_of_the_tuning_are_its_own() -> None:
    with pytest.raises(ValueError, match=r"tuning_seeds: \[1\] are seeds of the comparison too"):
        six_ways.compare(Sign(), seeds=(0, 1), tuning_seeds=(1, 2))
    for seeds in ((0,), (0, 0)):
        with pytest.raises(ValueError, match="expected two or more different ones"):
            six_ways.compare(Sign(), seeds=seeds)


def test_tuned_trains_with_what_was_chosen() -> None:
    found = run(Sign(), grid=((2, 3.0),))
    assert found.chosen == (2, 3.0)
    task = Sign()
    model = six_ways.trained(task, Method("", 3.0, 2), 1)
    scores = six_ways.score(task, model, "test")
    assert found.scores[TUNED][1] == scores | six_ways.monosemanticity(task, model)


# ---- methods -----------------------------------------------------------------------------------


def test_methods_are_what_they_are_called() -> None:
    strengths = [m.strength for m in (ORIGINAL, six_ways.NAIVE_A, six_ways.NAIVE_B, MEMEL)]
    assert strengths == [None, 0.0, -1.0, 1.0]
    model = Sign().network(0)
    six_ways.insert(Sign(), model, ORIGINAL)
    assert model.act.inserted is None
    six_ways.insert(Sign(), model, Method("", 3.0, 2))
    inserted = model.act.inserted
    assert isinstance(inserted, MEmeL)
    assert (inserted.k, inserted.strength) == (2, 3.0)


def test_the_same_seed_gives_the_same_bits_and_another_does_not() -> None:
    first, again = run(Sign()), run(Sign())
    assert first.scores == again.scores
    assert first.tuning == again.tuning
    assert first.scores[MEMEL.name][0] != first.scores[MEMEL.name][1]


def test_methods_begin_alike_and_differ_once_inhibition_begins() -> None:
    # MEmeL's modules inhibit from the eleventh call on; until then all methods are the same.
    short, long = run(Sign(steps=10)), run(Sign(steps=14))
    for name in NAMES[:-1]:
        assert short.scores[name] == short.scores[ORIGINAL.name]
    for name in (*NAMES[1:4], TUNED):
        assert long.scores[name] != long.scores[ORIGINAL.name]


def test_left_on_at_test_differs_in_the_modes_of_the_modules_only() -> None:
    task = Sign()
    model = six_ways.trained(task, MEMEL, 0)
    parameters = [p.data.copy() for p in model.parameters()]
    task.modes.clear()
    off = six_ways.score(task, model, "test")
    assert six_ways.score(task, model, "test") == off  # nothing is left behind
    on = six_ways.score(task, model, "test", on_at_test=True)
    before, _, left_on = task.modes
    assert not any(before.values())
    assert [name for name, training in left_on.items() if training] == ["act.inserted"]
    assert on != off
    assert all((p.data == q).all() for p, q in zip(model.parameters(), parameters, strict=True))
    assert six_ways.score(task, model, "test") == off


def test_left_on_is_scored_on_the_networks_of_memel() -> None:
    found = run(Sign())
    phi = [m.name for m in six_ways.PHI]
    for off, on in zip(found.scores[MEMEL.name], found.scores[ON_AT_TEST.name], strict=True):
        assert [off[name] for name in phi] == [on[name] for name in phi]
        assert off["loss, nats"] != on["loss, nats"]


def test_every_seed_and_part_is_asked_for_as_often_as_said() -> None:
    task, calls = Sign(), []
    run(task, done=lambda: calls.append(1))
    assert len(task.seeds) == len(calls) <= six_ways.number_of_trainings(3, 2, len(GRID))
    assert set(task.seeds[:4]) == {10, 11}
    assert set(task.seeds[4:]) == {0, 1, 2}


# ---- measures ----------------------------------------------------------------------------------


def test_phi_is_that_of_the_test_against_the_training() -> None:
    task = Sign()
    model = six_ways.trained(task, ORIGINAL, 0)
    w, b = model.lower.weight.data, model.lower.bias.data
    history, now = (np.tanh(task.part(p)[0] @ w.T + b) for p in ("training", "test"))
    history, now = history.astype(np.float64), now.astype(np.float64)
    phi = (now - history.mean(axis=0)) ** 2 / history.var(axis=0, ddof=1)
    found = six_ways.monosemanticity(task, model)
    assert found["phi, 99.9 %"] == pytest.approx(np.percentile(phi, 99.9), rel=1e-4)
    assert found["phi, highest"] == pytest.approx(np.median(phi.max(axis=1)), rel=1e-4)


def test_phi_counts_the_time_steps_of_a_recurrent_network_as_samples() -> None:
    class Twice(Network):
        def forward(self, x: Any) -> Any:
            for part in (x[:, :1], x[:, 1:]):
                z = self.act(tensor(part))
            return self.upper(self.lower(x)) + 0.0 * z.sum()

    task = Sign()
    model = Twice(np.random.default_rng(0))
    seen = six_ways._activations(task, model, "test")["act"]
    x, _ = task.part("test")
    expected = np.concatenate([x[i : i + 8, [c]] for i in range(0, 40, 8) for c in (0, 1)])
    np.testing.assert_array_equal(seen, expected)


def test_classified_by_hand() -> None:
    class Logits(Module):
        def forward(self, x: Any) -> Any:
            return tensor(x)

    logits = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8], [0.2, 0.7, 0.1]]))
    found = six_ways.classified(Logits(), logits, np.array([0, 2, 0]), batch=2)
    assert found["accuracy, %"] == pytest.approx(200 / 3)
    assert found["loss, nats"] == pytest.approx(-math.log(0.5 * 0.8 * 0.2) / 3)


def test_frequencies_by_hand() -> None:
    found = six_ways.frequencies(np.array([0, 0, 0, 1]), np.array([0, 1]))
    assert found["accuracy, %"] == 50.0
    assert found["loss, nats"] == pytest.approx(-math.log(0.75 * 0.25) / 2)
    unseen = six_ways.frequencies(np.array([0, 0]), np.array([1]))
    assert unseen == {"accuracy, %": 0.0, "loss, nats": math.inf}


# ---- tables, words, picture --------------------------------------------------------------------


def invented(memel: list[float], phi: list[float]) -> six_ways.Comparison:
    """A comparison whose numbers are set by hand; all methods but MEmeL score as the original."""

    def row(accuracy: list[float], phi: list[float]) -> list[dict[str, float]]:
        return [
            {"accuracy, %": a, "loss, nats": 1.0, "phi, 99.9 %": p, "phi, highest": 2.0}
            for a, p in zip(accuracy, phi, strict=True)
        ]

    scores = {name: row([70.0, 71.0, 73.0], [20.0, 21.0, 22.0]) for name in NAMES}
    scores[MEMEL.name] = row(memel, phi)
    tuning = {(1, 1.0): 70.0, (10, 1.0): math.nan}
    return six_ways.Comparison(Sign(), (0, 1, 2), (10,), tuning, (1, 1.0), scores)


def test_table_has_every_method_and_the_published_figures() -> None:
    table = six_ways_report.tables(invented([72.0, 73.1, 74.9], [18.0, 19.1, 19.9]))
    first = table.split("\n\n")[1].splitlines()
    assert [line.split("|")[1].strip() for line in first[2:]] == [*NAMES, "(guess)"]
    assert len({len(line) for line in first}) == 1  # aligned
    original, memel = (line.split("|") for line in (first[2], first[5]))
    assert [original[i].strip() for i in (3, 6)] == ["", "7"]
    # d = 2, 2.1, 1.9: half = 4.3027 * 0.1 / sqrt(3) = 0.248, t = 34.64, p = 1 - t/sqrt(2 + t^2)
    assert [cell.strip() for cell in memel[2:7]] == [
        "73.3 ± 3.6", "+2.0 ± 0.2", "0.001", "3 of 3, p 0.250", "8",
    ]
    assert "published: toys." in table


@pytest.mark.parametrize(
    ("memel", "phi", "said"),
    [
        # the difference 2.0 with s 0.1: t(1 - 0.025/13; 2) = 16.077, times 0.1/sqrt(3), is 0.928
        ([72.0, 73.1, 74.9], [18.0, 19.1, 19.9],
         ["Better than the original: MEmeL (+2.0 ± 0.9).", "gains: shows.", "Less monosemantic ("]),
        ([68.0, 69.1, 70.9], [22.0, 23.1, 23.9],
         ["Worse than the original: MEmeL (-2.0 ± 0.9).", "gains: the opposite shows.",
          "More monosemantic ("]),
        ([72.0, 70.0, 73.0], [20.0, 22.0, 21.5],
         ["Not resolved: naive (a) (0.0 ± 0.0), naive (b) (0.0 ± 0.0), MEmeL (+0.3 ± ",
          "gains: not resolved.", "Not resolved ("]),
    ],
)
def test_verdicts(memel: list[float], phi: list[float], said: list[str]) -> None:
    accuracy, loss, of_phi = six_ways_report.verdicts(invented(memel, phi))
    assert said[0] in accuracy
    assert said[1] in accuracy
    assert "gains: not resolved." in loss  # all equal
    assert said[2] in of_phi


def test_differences_that_are_equal_resolve_nothing() -> None:
    """Half a point more in every seed, or equal up to rounding: nothing says how it would vary."""
    original = np.array([70.0, 71.0, 73.0])
    for d in (0.5, 1e-14):
        accuracy, _, _ = six_ways_report.verdicts(invented(list(original + d), [1.0, 1.1, 0.9]))
        assert "Better" not in accuracy
        assert "gains: not resolved." in accuracy


@pytest.mark.parametrize("seeds", [3, 5])
def test_where_nothing_differs_nine_pages_of_ten_have_no_verdict(seeds: int) -> None:
    """13 conclusions from noise; at 95 % each, half of the pages would have one."""
    rng, without = np.random.default_rng(seeds), 0
    for _ in range(100):
        scores = {
            name: [
                dict(zip(
                    ("accuracy, %", "loss, nats", "phi, 99.9 %", "phi, highest"),
                    rng.normal([70.0, 0.69, 20.0, 2.0], [1.0, 0.1, 1.0, 0.1]), strict=True))
                for _ in range(seeds)
            ]
            for name in NAMES
        }
        found = six_ways.Comparison(
            Sign(), tuple(range(seeds)), (10,), {(1, 1.0): 1.0}, (1, 1.0), scores
        )
        said = " ".join(six_ways_report.verdicts(found))
        claims = ("than the original:", "shows", "More mono", "Less mono", "is worse than")
        without += not any(claim in said for claim in claims)
    assert without >= 90


def test_a_network_that_is_worse_than_the_baseline_is_called_that() -> None:
    found = invented([70.0, 71.0, 73.0], [1.0, 1.1, 0.9])  # guessing scores 55 and 0.69
    for scores in found.scores.values():
        for score, loss in zip(scores, (1.0, 1.001, 0.999), strict=True):
            score["loss, nats"] = loss
    accuracy, loss, _ = six_ways_report.verdicts(found)
    assert "(guess)" not in accuracy
    assert loss.endswith("the original is worse than (guess).")
    for score, value in zip(found.scores[ORIGINAL.name], (0.2, 0.7, 1.2), strict=True):
        score["loss, nats"] = value
    _, loss, _ = six_ways_report.verdicts(found)
    assert loss.endswith("whether the original is better than (guess) is not resolved.")


def test_where_lower_is_better_a_lower_score_is_a_gain() -> None:
    found = invented([70.0, 71.0, 73.0], [1.0, 1.1, 0.9])
    for score, value in zip(found.scores[MEMEL.name], (0.5, 0.501, 0.499), strict=True):
        score["loss, nats"] = value
    _, loss, _ = six_ways_report.verdicts(found)
    assert "Better than the original: MEmeL (-0.50" in loss


def test_the_grid_that_was_tried_is_printed() -> None:
    table = six_ways_report.tuning_table(invented([70.0, 71.0, 73.0], [1.0, 1.0, 1.0]))
    assert "validation part, mean of 1 seed of its own" in table
    assert "Chosen: k = 1, strength = 1." in table
    assert "diverged" in table.splitlines()[-1]


def test_the_picture_shows_each_seed_and_each_interval() -> None:
    found = invented([72.0, 73.1, 74.9], [18.0, 19.1, 19.9])
    figure = six_ways_report.picture(found)
    left, right = figure.axes[:2]
    shown = [line.get_xdata() for line in left.lines if len(line.get_xdata()) == 3]
    np.testing.assert_array_equal(shown[NAMES.index(MEMEL.name)], [72.0, 73.1, 74.9])
    differences = [line.get_xdata() for line in right.lines if len(line.get_xdata()) == 3]
    assert len(shown) == len(NAMES) == len(differences) + 1


# ---- the command -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--fast"], "unrecognized arguments: --fast"),
        (["--seeds", "1"], "--seeds is 1, expected 2 to 1000"),
        (["--seeds", "0"], "--seeds is 0, expected 2 to 1000"),
        (["--seeds", "many"], "argument --seeds: invalid int value: 'many'"),
        (["--quick", "--write"], "--write is for full results, not for those of --quick"),
        (["--write"], "--write: there is no folder docs here; run it from the project's folder"),
    ],
)
def test_bad_flags_are_one_line(
    flags: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["demos/task_toy.py"])
    with pytest.raises(SystemExit) as stop:
        six_ways_report.main(full=Sign(), quick=Sign(), argv=flags)
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"task_toy.py: {message}\n"
    assert not list(tmp_path.iterdir())


def test_quick_says_what_full_would_take_and_full_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("threadpoolctl")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["demos/task_toy.py"])
    (tmp_path / "docs").mkdir()
    full, quick = Sign(steps=20, pretraining=28), Sign(steps=12)
    six_ways_report.main(full=full, quick=quick, argv=["--quick"])
    printed = capsys.readouterr().out
    assert "Without --quick: 5 seeds, 37 trainings of 20 updates, about 0." in printed
    assert (tmp_path / "runs/task_toy/task_toy.png").stat().st_size > 10_000
    assert not (tmp_path / "docs/results").exists()

    six_ways_report.main(full=full, quick=quick, argv=["--write", "--seeds", "2"])
    printed = capsys.readouterr().out
    page = (tmp_path / "docs/results/task_toy.md").read_text(encoding="utf-8")
    assert "`python demos/task_toy.py --write --seeds 2`" in page
    table = printed.split("accuracy, % (higher is better)")[1].split("* accuracy")[0]
    assert table in page
    assert (tmp_path / "docs/results/task_toy.svg").read_text().startswith("<?xml")


def test_an_interrupted_comparison_goes_on_after_its_last_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["demos/task_toy.py"])
    trained, done = six_ways.trained, [0]

    def stopped_at(number: int) -> Any:
        def train_or_stop(*what: Any) -> Module:
            done[0] += 1
            if done[0] == number:
                os.kill(os.getpid(), signal.SIGTERM)
            return trained(*what)

        return train_or_stop

    def main(*flags: str) -> six_ways.Comparison:
        return six_ways_report.main(full=Sign(), quick=Sign(), argv=["--seeds", "2", *flags])

    def refused(*flags: str) -> str:
        with pytest.raises(SystemExit) as stop:
            main(*flags)
        assert stop.value.code == 2
        return capsys.readouterr().err

    assert "holds no interrupted run with these flags" in refused("--resume")
    for stop_at in (7, 20):  # in the tuning, and after it
        monkeypatch.setattr(six_ways, "trained", stopped_at(stop_at))
        with pytest.raises(SystemExit) as stop:
            main(*["--resume"] * (stop_at == 20))
        assert stop.value.code == 128 + signal.SIGTERM
        said = capsys.readouterr().out
        assert "To go on:\n  python demos/task_toy.py --seeds 2 --resume\n" in said
        done[0] -= 1  # the one that was lost
    path = tmp_path / "runs/task_toy/trainings.jsonl"
    assert len(path.read_text().splitlines()) == 1 + 19
    assert "holds 19 results of an interrupted run; --resume goes on" in refused()
    assert "holds no interrupted run" in refused("--resume", "--quick")
    path.write_bytes(path.read_bytes()[:-5])  # a damaged tail costs the tail
    monkeypatch.setattr(six_ways, "trained", stopped_at(21))
    with pytest.raises(SystemExit):
        main("--resume")
    assert "Going on after 18 trainings." in capsys.readouterr().out
    assert len(path.read_text().splitlines()) == 1 + 19
    monkeypatch.setattr(six_ways, "trained", stopped_at(-1))
    resumed = main("--resume")
    assert done[0] == six_ways.number_of_trainings(2, 2, 6) + 2  # two of them for a second time
    assert path.read_bytes() == b""
    straight = main()
    assert (resumed.tuning, resumed.scores) == (straight.tuning, straight.scores)


# ---- the three demos ---------------------------------------------------------------------------


def demo(name: str) -> dict[str, Any]:
    """The names a demo defines."""
    pytest.importorskip("sklearn")
    return vars(names_of(f"demos/{name}.py"))


def test_language_parts_share_no_snippet_of_the_text() -> None:
    names = demo("task_language")
    data = names["cut"](names["longest_chapters"](10), 32, 800)
    rows = {part: {row.tobytes() for row in some.ids} for part, some in data.items()}
    for a, b in (("training", "validation"), ("training", "test"), ("validation", "test")):
        assert not rows[a] & rows[b]
    assert all(set(some.labels) == set(range(10)) for some in data.values())


def test_language_chapters_do_not_contain_each_other() -> None:
    chapters = demo("task_language")["longest_chapters"](10)
    assert len(chapters) == 10
    for name, text in chapters.items():
        for other, longer in chapters.items():
            assert name == other or text[len(text) // 2 :][:80] not in longer


def test_language_blanks_are_words_and_15_per_cent_of_them() -> None:
    names = demo("task_language")
    rng = np.random.default_rng(0)
    ids = rng.integers(1, 800, (500, 32))
    ids[:, 0] = names["FIRST"]
    shown, hidden = names["blanked"](ids, 800, rng)
    words = ids > names["UNKNOWN"]
    assert not hidden[~words].any()
    assert hidden.sum() / words.sum() == pytest.approx(0.15, abs=0.01)
    assert (shown[~hidden] == ids[~hidden]).all()
    assert (shown[hidden] == names["BLANK"]).mean() == pytest.approx(0.8, abs=0.03)
    assert (shown[hidden] == ids[hidden]).mean() == pytest.approx(0.1, abs=0.02)


def test_images_parts_are_three_fifths_and_twice_a_fifth() -> None:
    data = demo("task_images")["digits"]()
    assert [len(some.labels) for some in data.values()] == [1078, 360, 359]
    images = {part: {image.tobytes() for image in some.images} for part, some in data.items()}
    assert not images["training"] & images["test"]
    assert not images["validation"] & images["test"]


def test_physics_persistence_is_the_last_frame_again() -> None:
    task = demo("task_physics")["Rain"](held_out=3)
    seen, to_come = task.data["test"]
    weight = demo("task_physics")["b_mae"].__globals__["rain_weights"](to_come)
    by_hand = (weight * abs(seen[:, -1:] - to_come)).sum(axis=(2, 3)).mean()
    name, scores = task.baseline()
    assert name == "(persistence)"
    assert scores["B-MAE"] == pytest.approx(by_hand, rel=1e-5)
    assert (task.data["training"][0] != seen).any()


@pytest.mark.parametrize("name", ["task_language", "task_images", "task_physics"])
@pytest.mark.slow
def test_demos_run_quickly(name: str, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    path = os.pathsep.join([str(ROOT), *sys.path])
    done = subprocess.run(
        [sys.executable, ROOT / f"demos/{name}.py", "--quick"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": path, "MPLBACKEND": "agg"},
        capture_output=True, text=True, timeout=120, check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "The paper's claim, that MEmeL gains" in done.stdout
    assert "Without --quick: 5 seeds" in done.stdout
    assert (tmp_path / f"runs/{name}/{name}.png").stat().st_size > 10_000
