"""
Inhibit or encourage: two camps, one network
============================================

Should a network be trained to have fewer monosemantic neurons, or more? MEmeL (Wang et al., KDD
2024, arXiv 2312.11560) and L2E (Wang et al. 2025, arXiv 2503.23298) inhibit them. DecPO (Yan et
al., EMNLP 2024, arXiv 2406.17969) encourages them, by a penalty on representations that are alike;
L1 is its baseline. Their papers share no network, no data and no measure. Here they do: a small
network reads digits, each treatment acts on the same hidden layer, from the same first weights and
on the same batches, and all are measured alike. A control only makes activations smaller (L2),
because both penalties of the encouraging camp do that as well.

Needs scikit-learn (extra `demos`). `python demos/inhibit_or_encourage.py --quick` takes some 10
seconds and decides nothing; without, there are 5 seeds, which takes 2 minutes of CPU. The picture
goes to ``runs/inhibit_or_encourage``.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np

import minimono as mm
from minimono.data import Images, image_batches, load_digits, shuffled_split
from minimono.experiments import pictures, tables
from minimono.experiments.measurement import scale_against
from minimono.experiments.statistics import judge, paired, standard_error
from minimono.mono import decorrelation, metrics
from minimono.mono.features import feature_scale
from minimono.mono.inhibition import MEmeL
from minimono.mono.l2e import L2E, l2e_penalty
from minimono.nn import taps
from minimono.nn.module import evaluating
from minimono.nn.optim import AdamW, cosine_schedule
from minimono.nn.training import train

QUICK = "--quick" in sys.argv
SEEDS, TUNING_SEEDS = ((0, 1), (1000,)) if QUICK else ((0, 1, 2, 3, 4), (1000, 1001))
STEPS, BATCH, WIDTH, PEAK = (60 if QUICK else 600), 32, 64, 5e-3
TAP = "hidden.1.act"  # the layer that all treatments act on, and all measures look at

# %%
# The treatments
# --------------
# Each has one weight. Its grid is ours: the papers' weights are for other sizes. For MEmeL it is
# the strength, with one activation of 64 flagged in each sample; L2E penalises 2 % of them.


class Treatment(NamedTuple):
    camp: str
    weights: tuple[float, ...] = (0.0,)  # from weak to strong
    module: Callable[[float], mm.nn.Module] | None = None  # of the weight; it goes behind the tap
    penalty: Callable[[mm.nn.Module, mm.Tensor], mm.Tensor] | None = None  # of model and z


NONE, L2 = "none", "smaller (L2)"
TREATMENTS = {
    NONE: Treatment("-"),
    "MEmeL": Treatment("inhibit", (0.03, 0.1, 0.3, 1, 3, 10, 30, 100),
                       lambda d: MEmeL(k=1, strength=d)),
    "L2E": Treatment("inhibit", (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3),
                     lambda _: L2E(0.02), lambda model, z: l2e_penalty(model)),
    "decorrelation": Treatment("encourage", (1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1), None,
                               lambda model, z: decorrelation.decorrelation_penalty(z)),
    "L1": Treatment("encourage", (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3), None,
                    lambda model, z: decorrelation.l1_penalty(z)),
    L2: Treatment("control", (1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.1, 1, 10), None,
                  lambda model, z: (z * z).sum(axis=1).mean()),
}
if QUICK:
    TREATMENTS = {n: t._replace(weights=t.weights[3:5] or (0.0,)) for n, t in TREATMENTS.items()}


# %%
# One training
# ------------
# A multilayer perceptron, 64 - 64 - 64 - 10, ReLU. A seed is of the first weights and of the
# batches; the three parts of the data are the same for all.


def digits() -> dict[str, Images]:
    """Three fifths for training, one each for choosing weights and for the test."""
    rng = np.random.default_rng(2024)
    rest, test = shuffled_split(*load_digits(), fraction=0.2, rng=rng)
    training, validation = shuffled_split(*rest, fraction=0.25, rng=rng)
    return {"training": training, "validation": validation, "test": test}


def answer(model: mm.nn.Module, images: np.ndarray) -> tuple[mm.Tensor, mm.Tensor]:
    """Logits (B, 10), and the layer's activations z (B, neurons)."""
    with taps.read(model, TAP) as seen:
        logits = model(mm.tensor(images.reshape(len(images), -1)))  # (B, 1, 8, 8) -> (B, 64)
    return logits, seen[TAP]


def network(seed: int) -> mm.nn.Module:
    return mm.models.MLP((64, WIDTH, WIDTH, 10), rng=np.random.default_rng([seed, 0]))


def trained(treatment: Treatment, weight: float, seed: int, training: Images) -> mm.nn.Module:
    model = network(seed)
    if treatment.module is not None:
        taps.insert(model, TAP, treatment.module(weight))

    def loss(model, images, labels):
        logits, z = answer(model, images)
        task = mm.functional.cross_entropy(logits, labels)
        return task if treatment.penalty is None else task + weight * treatment.penalty(model, z)

    batches = image_batches(*training, batch=BATCH, rng=np.random.default_rng([seed, 1]))
    for _ in train(
        model, batches, loss, AdamW(model.parameters(), PEAK), steps=STEPS, max_norm=1.0,
        schedule=lambda n: cosine_schedule(n, steps=STEPS, warmup=STEPS // 10, peak=PEAK),
    ):
        pass
    return model


# %%
# What is measured
# ----------------
# The task, then the layer. φ of held-out activations takes its moments from training ones; then
# the median over neurons of four measures for which the classes stand in for features (an
# approximation: the network's own features are not known) or the pixels for likeness; then how
# unlike and how sparse the codes of inputs are. Only the last three depend on units: a layer twice
# as large has four times the variance sparsity. A neuron that is 0 on all of a part is not live and
# has no scores; that can flatter a treatment that silences neurons, so live ones are counted.

MEASURES = {  # and the decimals to show
    "accuracy, %": 2, "loss, nats": 3, "φ 99.9 %": 2, "φ_l, own class": 2, "class selectivity": 3,
    "purity of class means": 3, "monosemanticity score": 3, "feature decorrelation": 3,
    "Hoyer sparsity": 3, "variance sparsity": 3, "length of z": 2, "live neurons": 1,
}


def measured(model: mm.nn.Module, training: Images, part: Images) -> dict[str, float]:
    labels = part.labels
    with evaluating(model):
        history = answer(model, training.images)[1].data
        logits, z = answer(model, part.images)
        log_p = mm.functional.log_softmax(logits).data
    live = history.any(axis=0) & z.data.any(axis=0)
    found = dict.fromkeys(MEASURES, np.nan) | {
        "accuracy, %": 100 * (log_p.argmax(axis=1) == labels).mean(),
        "loss, nats": -log_p[np.arange(len(labels)), labels].mean(dtype=np.float64),
        "length of z": np.linalg.norm(z.data, axis=1).mean(dtype=np.float64),
        "live neurons": live.sum(),
    }
    if live.sum() < 2:  # a layer that is silent has no neurons to score
        return found
    history, z = history[:, live].astype(np.float64), z.data[:, live].astype(np.float64)
    awake = z[z.any(axis=1)]  # a silent code has no direction
    by_class = feature_scale(z, labels)
    class_means = np.stack([z[labels == c].mean(axis=0) for c in range(10)])
    pixels = part.images.reshape(len(labels), -1)
    return found | {
        "φ 99.9 %": np.nanquantile(scale_against(history, z), 0.999),
        "φ_l, own class": np.median(by_class.inside[by_class.feature, np.arange(live.sum())]),
        "class selectivity": np.median(metrics.class_selectivity(z, labels)),
        "purity of class means": np.median(metrics.single_feature_purity(class_means)),
        "monosemanticity score": np.nanmedian(metrics.monosemanticity_score(z, pixels)),
        "feature decorrelation": decorrelation.feature_decorrelation(awake),
        "Hoyer sparsity": metrics.hoyer_sparsity(awake).mean(),
        "variance sparsity": metrics.variance_sparsity(z).mean(),
    }


# %%
# Which weight?
# -------------
# Two, chosen on the validation part with seeds of their own. *Best* has the lowest loss. *Strong*
# is the strongest one that costs no more than a point of accuracy: what does a treatment do to
# neurons when it is pushed as far as the task allows?

Grid = dict[float, dict[str, float]]  # by weight: each measure, averaged over the tuning seeds


def chosen(grid: Grid, accuracy_of_none: float) -> dict[str, float]:
    """The weights of the settings "best" and "strong"."""
    best = min(grid, key=lambda weight: grid[weight]["loss, nats"])
    allowed = [w for w in grid if grid[w]["accuracy, %"] >= accuracy_of_none - 1.0]
    return {"best": best, "strong": max([best, *allowed])}


def tuned(data: dict[str, Images]) -> tuple[dict[str, Grid], dict[str, dict[str, float]]]:
    grids = {}
    for name, treatment in TREATMENTS.items():
        grids[name] = {}
        for weight in treatment.weights:
            found = [
                measured(trained(treatment, weight, seed, data["training"]),
                         data["training"], data["validation"])
                for seed in TUNING_SEEDS
            ]
            grids[name][weight] = {m: float(np.mean([f[m] for f in found])) for m in MEASURES}
    accuracy = grids[NONE][0.0]["accuracy, %"]
    return grids, {name: chosen(grid, accuracy) for name, grid in grids.items() if name != NONE}


def print_grids(grids: dict[str, Grid], weights: dict[str, dict[str, float]]) -> None:
    shown = ("loss, nats", "accuracy, %", "φ 99.9 %", "class selectivity", "feature decorrelation",
             "length of z", "live neurons")
    seeds = f"{len(TUNING_SEEDS)} seed{'s' * (len(TUNING_SEEDS) > 1)}"
    print(f"Choosing weights: validation part, mean of {seeds} of their own")
    print(f"{'':15}{'weight':>9}" + "".join(f"{m:>{len(m) + 2}}" for m in shown))
    for name, grid in grids.items():
        for weight, found in grid.items():
            settings = [s for s, w in weights.get(name, {}).items() if w == weight]
            cells = "".join(f"{found[m]:{len(m) + 2}.{MEASURES[m]}f}" for m in shown)
            print(f"{name:15}{weight:9g}{cells}  {' and '.join(settings)}".rstrip())


# %%
# Five seeds
# ----------
# Each treatment minus none, seed by seed: mean, standard error, and the 95 % interval of Student's
# t. With five seeds a sign test cannot go below p = 0.06, so the count alone decides nothing. In
# these tables each interval is its own: of 100 about five are clear of 0 by chance.

Results = dict[tuple[str, str], list[dict[str, float]]]  # by treatment and setting, one a seed


def compared(data: dict[str, Images], weights: dict[str, dict[str, float]]) -> Results:
    results: Results = {("untrained", ""): [], (NONE, ""): []}
    for seed in SEEDS:
        models = {("untrained", ""): network(seed)}
        for name, settings in ({NONE: {"": 0.0}} | weights).items():
            for setting, weight in settings.items():
                if setting == "strong" and weight == settings["best"]:
                    continue  # the same network again
                models[name, setting] = trained(TREATMENTS[name], weight, seed, data["training"])
        for key, model in models.items():
            found = measured(model, data["training"], data["test"])
            results.setdefault(key, []).append(found)
    return results


def values(results: Results, key: tuple[str, str], measure: str) -> np.ndarray:
    return np.array([found[measure] for found in results[key]], dtype=np.float64)


def difference(results: Results, key: tuple[str, str], measure: str, base=(NONE, "")):
    return paired(values(results, key, measure), values(results, base, measure))


def probability(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def print_means(results: Results, setting: str) -> None:
    columns = [("untrained", ""), (NONE, "")]
    columns += [(n, setting if (n, setting) in results else "best") for n in [*TREATMENTS][1:]]
    print(f"\nMean of {len(SEEDS)} seeds, test part; setting: {setting}")
    print(tables.console("", [name for name, _ in columns], name_width=23, width=15))
    for measure, digits in MEASURES.items():
        cells = [f"{values(results, key, measure).mean():.{digits}f}" for key in columns]
        print(tables.console(measure, cells, name_width=23, width=15))


def print_summary(results: Results) -> None:
    shown = ("loss, nats", "accuracy, %", "φ 99.9 %", "class selectivity", "feature decorrelation")
    print("\nMinus none, ± half of the 95 % interval; * where 0 is outside of it")
    print(tables.console("", shown, name_width=23, width=23))
    for name, setting in list(results)[2:]:
        cells = []
        for measure in shown:
            found = difference(results, (name, setting), measure).difference
            digits = MEASURES[measure]
            star = "*" if found.clear else " "
            cells.append(f"{found.mean:+.{digits}f} ±{found.half:.{digits}f}{star}")
        print(tables.console(f"{name}, {setting}", cells, name_width=23, width=23).rstrip())


def print_differences(results: Results, weights: dict[str, dict[str, float]]) -> None:
    for name, setting in list(results)[2:]:
        both = weights[name]["best"] == weights[name]["strong"]
        which = "best and strong" if both else setting
        print(f"\n{name}, {which} (weight {weights[name][setting]:g}), minus none")
        print(f"{'':23}{'mean':>9}{'error':>8}{'95 % interval':>20}   higher   p (t)")
        for measure, digits in MEASURES.items():
            d = difference(results, (name, setting), measure)
            error = standard_error(
                values(results, (name, setting), measure) - values(results, (NONE, ""), measure)
            )
            mean, half = d.difference
            between = f"{mean - half:+.{digits}f} to {mean + half:+.{digits}f}"
            clear = "  clear" if d.difference.clear else ""
            print(
                f"{measure:23}{mean:+9.{digits}f}{error:8.{digits}f}{between:>20}"
                f"   {d.higher} of {len(SEEDS)}  {probability(d.p_t):>6}{clear}"
            )


# %%
# The claims
# ----------
# Each camp says what its treatment does to neurons, and that it helps the task. A claim shows if
# the interval is on its side of 0; if it is on the other side, the opposite shows. Here the
# intervals are wider than above, since all of the claims together hold with 95 %.

CLAIMS = {
    "inhibit": (("φ 99.9 %", "lower"), ("class selectivity", "lower"), ("loss, nats", "lower"),
                ("accuracy, %", "higher")),
    "encourage": (("feature decorrelation", "higher"), ("class selectivity", "higher"),
                  ("monosemanticity score", "higher"), ("loss, nats", "lower"),
                  ("accuracy, %", "higher")),
}


def verdict(
    results: Results, key: tuple[str, str], measure: str, direction: str, base, among: int = 1
) -> str:
    as_claimed, opposite = "shows", "the opposite shows"
    above, below = (as_claimed, opposite) if direction == "higher" else (opposite, as_claimed)
    answer, found = judge(
        values(results, key, measure), values(results, base, measure),
        above=above, below=below, among=among,
    )
    digits = MEASURES[measure]
    return f"{measure} {direction}: {answer} ({found.mean:+.{digits}f} ±{found.half:.{digits}f})"


def print_claims(results: Results) -> None:
    none, small = (NONE, ""), (L2, "best")
    against_none = [
        (key, measure, direction, none) for key in list(results)[2:]
        for measure, direction in CLAIMS.get(TREATMENTS[key[0]].camp, ())
    ]
    against_small = [
        ((name, "best"), measure, direction, small) for name in ("decorrelation", "L1")
        for measure, direction in CLAIMS["encourage"]
    ]
    among = len(against_none) + len(against_small)
    print(f"\nClaims; ±: half of the interval over seeds that holds for all {among} with 95 %")
    for title, claims in (
        ("What each camp expects, against none", against_none),
        ("Does the encouraging camp do more than make activations small? Against L2, both best",
         against_small),
    ):
        print(title)
        for key, measure, direction, base in claims:
            answer = verdict(results, key, measure, direction, base, among)
            print(f"  {', '.join(key):23}{answer}")


# %%
# The picture
# -----------
# Dots are seeds, the mark their mean, the line the 95 % interval; filled: best, hollow: strong.

GREY = pictures.GREY
LOOK = {  # colours that read on white and on black; the marker tells too
    "MEmeL": ("#2b8cc4", "o"), "L2E": ("#009e73", "s"), "decorrelation": ("#d55e00", "^"),
    "L1": ("#e08a00", "D"), L2: (GREY, "v"),
}
SHOWN = ("accuracy, %", "loss, nats", "φ 99.9 %", "class selectivity", "feature decorrelation",
         "Hoyer sparsity")
STYLE = pictures.style(11, on_dark=True) | {"figure.constrained_layout.use": True}


def picture(results: Results) -> plt.Figure:
    figure, panels = plt.subplots(len(SHOWN) // 2, 2, figsize=(7.2, 8.4), sharey=True)
    for axes, measure in zip(panels.flat, SHOWN, strict=True):
        axes.axvline(0.0, color=GREY, linewidth=0.8)
        for y, (name, (colour, marker)) in enumerate(LOOK.items()):
            for setting, shift in (("best", -0.17), ("strong", 0.17)):
                if (name, setting) not in results:
                    continue
                d = values(results, (name, setting), measure) - values(results, (NONE, ""), measure)
                found = difference(results, (name, setting), measure).difference
                fill = colour if setting == "best" else "none"
                axes.plot(d, np.full(len(d), y + shift), ".", color=colour, alpha=0.5, ms=4)
                axes.errorbar(found.mean, y + shift, xerr=found.half, fmt=marker, color=colour,
                              markerfacecolor=fill, markersize=7, linewidth=1.5)
        axes.set_title(measure)
        axes.set_yticks(range(len(LOOK)), LOOK)
        axes.set_ylim(len(LOOK) - 0.5, -0.5)
        axes.tick_params(axis="y", left=False)
    figure.supxlabel("minus none, seed by seed; filled: best weight, hollow: strong", fontsize=11)
    return figure


if __name__ == "__main__":
    if QUICK:
        print("Quick is to see that it works: so few seeds and updates decide nothing.\n")
    data = digits()
    grids, weights = tuned(data)
    print_grids(grids, weights)
    results = compared(data, weights)
    print_means(results, "best")
    print_means(results, "strong")
    print_summary(results)
    print_differences(results, weights)
    print_claims(results)
    with plt.rc_context(STYLE):
        print()
        name = "inhibit_or_encourage"
        pictures.keep(picture(results), Path("runs") / name, name)
