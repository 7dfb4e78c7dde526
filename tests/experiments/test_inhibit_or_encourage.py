"""The demo `inhibit_or_encourage`: fair pairs, measures on a network made by hand, the words."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scripts import names_of

from minimono.data import Images

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    """The names the demo defines."""
    pytest.importorskip("sklearn")
    return names_of("demos/inhibit_or_encourage.py")


def one_pixel_images(repeats: int) -> Images:
    """Class c has pixel c lit, so there are ten different images."""
    images = np.zeros((10 * repeats, 1, 8, 8), np.float32)
    labels = np.tile(np.arange(10), repeats)
    images[np.arange(len(labels)), 0, labels // 8, labels % 8] = 1.0
    return Images(images, labels)


def one_neuron_a_class(demo: ModuleType):
    """Neuron c of both layers is pixel c, logit c ten times that; the other neurons are dead."""
    model = demo.network(0)
    for hidden in model.hidden:
        hidden.linear.weight.data[...] = 0.0
        hidden.linear.bias.data[...] = -1.0
        hidden.linear.weight.data[range(10), range(10)] = 1.0
        hidden.linear.bias.data[:10] = 0.0
    model.out.weight.data[...] = 0.0
    model.out.bias.data[...] = 0.0
    model.out.weight.data[range(10), range(10)] = 10.0
    return model


def test_the_parts_share_no_image(demo: ModuleType) -> None:
    data = demo.digits()
    assert [len(part.labels) for part in data.values()] == [1078, 360, 359]
    images = {name: {image.tobytes() for image in part.images} for name, part in data.items()}
    assert not images["training"] & images["test"]
    assert not images["training"] & images["validation"]
    assert not images["validation"] & images["test"]


@pytest.mark.parametrize("name", ["L2E", "decorrelation", "L1", "smaller (L2)"])
def test_a_treatment_of_weight_0_is_none_bit_for_bit(
    demo: ModuleType, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "STEPS", 20)
    training = demo.digits()["training"]
    none = demo.trained(demo.TREATMENTS[demo.NONE], 0.0, 3, training).state_dict()
    off = demo.trained(demo.TREATMENTS[name], 0.0, 3, training).state_dict()
    on = demo.trained(demo.TREATMENTS[name], 0.01, 3, training).state_dict()
    assert all((values == off[key]).all() for key, values in none.items())
    assert any((values != on[key]).any() for key, values in none.items())


def test_memel_is_none_until_it_starts(demo: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    training = demo.digits()["training"]
    for steps, same in ((10, True), (11, False)):
        monkeypatch.setattr(demo, "STEPS", steps)
        none = demo.trained(demo.TREATMENTS[demo.NONE], 0.0, 3, training).state_dict()
        memel = demo.trained(demo.TREATMENTS["MEmeL"], 1.0, 3, training).state_dict()
        assert all((values == memel[key]).all() for key, values in none.items()) is same


def test_measures_of_one_neuron_for_each_class(demo: ModuleType) -> None:
    N = 200
    part = one_pixel_images(N // 10)
    found = demo.measured(one_neuron_a_class(demo), part, part)
    share, n_neurons = 0.1, 10
    assert found["live neurons"] == n_neurons
    assert found["accuracy, %"] == 100.0
    assert found["loss, nats"] == pytest.approx(np.log(1 + 9 * np.exp(-10.0)), abs=1e-6)
    assert found["class selectivity"] == found["purity of class means"] == 1.0
    assert found["monosemanticity score"] == pytest.approx(1.0)
    # (1 - q)/q of a neuron that fires once in ten, less the factor of ddof=1
    phi = (1 - share) ** 2 / (share * (1 - share) * N / (N - 1))
    assert found["φ 99.9 %"] == pytest.approx(phi)
    assert found["φ_l, own class"] == pytest.approx(phi)
    alike = (N / 10 - 1) / (N - 1)  # pairs of the same class have cosine 1, all others 0
    assert found["feature decorrelation"] == pytest.approx(1 - alike)
    assert found["Hoyer sparsity"] == pytest.approx(1.0)
    assert found["variance sparsity"] == pytest.approx(share * (1 - share))
    assert found["length of z"] == 1.0


def test_a_silent_layer_has_no_scores(demo: ModuleType) -> None:
    model = one_neuron_a_class(demo)
    model.hidden[1].linear.bias.data[...] = -5.0
    part = one_pixel_images(2)
    found = demo.measured(model, part, part)
    assert found["live neurons"] == 0
    assert found["loss, nats"] == pytest.approx(np.log(10))
    assert np.isnan([found[m] for m in demo.MEASURES][2:10]).all()


def test_best_has_the_lowest_loss_and_strong_costs_at_most_a_point(demo: ModuleType) -> None:
    def grid(rows: dict[float, tuple[float, float]]):
        return {w: {"loss, nats": a, "accuracy, %": b} for w, (a, b) in rows.items()}

    rows = {0.1: (0.30, 97.0), 1.0: (0.20, 96.5), 10.0: (0.40, 96.0), 100.0: (0.9, 95.9)}
    assert demo.chosen(grid(rows), 97.0) == {"best": 1.0, "strong": 10.0}
    assert demo.chosen(grid(rows), 99.0) == {"best": 1.0, "strong": 1.0}  # none is allowed


def test_error_and_interval_belong_together(demo: ModuleType) -> None:
    none, treated = np.array([1.0, 2.0, 4.0]), np.array([2.0, 2.5, 7.0])
    results = {
        ("none", ""): [{"loss, nats": v} for v in none],
        ("L1", "best"): [{"loss, nats": v} for v in treated],
    }
    d = demo.difference(results, ("L1", "best"), "loss, nats").difference
    assert d.mean == pytest.approx(1.5)
    assert demo.standard_error(treated - none) == pytest.approx(np.sqrt(1.75 / 3))
    assert d.half == pytest.approx(4.302652730 * np.sqrt(1.75 / 3))  # t of 2 degrees of freedom


@pytest.mark.parametrize(
    ("shift", "said"), [(-1.0, "shows"), (1.0, "the opposite shows"), (0.01, "not resolved")]
)
def test_a_claim_is_told_plainly(demo: ModuleType, shift: float, said: str) -> None:
    noise = np.array([0.1, -0.1, 0.05, -0.05, 0.0])
    results = {
        ("none", ""): [{"loss, nats": 2.0} for _ in noise],
        ("L1", "best"): [{"loss, nats": 2.0 + shift + n} for n in noise],
    }
    told = demo.verdict(results, ("L1", "best"), "loss, nats", "lower", ("none", ""))
    assert told.startswith(f"loss, nats lower: {said} ({shift:+.3f} ")


def test_the_page_quotes_what_the_command_printed() -> None:
    page = (ROOT / "docs/inhibit_or_encourage.md").read_text(encoding="utf-8")
    printed = (ROOT / "docs/results/inhibit_or_encourage.md").read_text(encoding="utf-8")
    page = page.replace("\u2212", "-").replace("**", "").replace("control, ", "smaller (L2), ")
    names = {
        "$\\phi$, 99.9 %": "φ 99.9 %", "FD": "feature decorrelation",
        "length of $z$": "length of z", "live neurons of 64": "live neurons",
    }
    quoted = 0
    for line in page.splitlines():
        if not line.startswith("| "):
            continue
        name, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        measure = names.get(name, re.sub(r" \([\d.]+\)$", "", name))  # without the weight
        rows = [row for row in printed.splitlines() if row.startswith(f"{measure}  ")]
        if "±" in line:  # minus none
            assert [cell.replace(" ± ", " ±") for cell in cells] == re.findall(
                r"[+-][\d.]+ ±[\d.]+", rows[0]
            )
            quoted += 1
        elif measure and rows and len(cells) == 7:  # means, best
            assert cells == rows[0].removeprefix(measure).split()
            quoted += 1
    assert quoted == 11 + 10


@pytest.mark.slow
def test_it_runs_quickly(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    path = os.pathsep.join([str(ROOT), *sys.path])
    done = subprocess.run(
        [sys.executable, ROOT / "demos/inhibit_or_encourage.py", "--quick"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": path, "MPLBACKEND": "agg"},
        capture_output=True, text=True, timeout=120, check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "decide nothing" in done.stdout
    assert "What each camp expects" in done.stdout
    for kind in ("png", "svg"):
        picture = tmp_path / f"runs/inhibit_or_encourage/inhibit_or_encourage.{kind}"
        assert picture.stat().st_size > 10_000
