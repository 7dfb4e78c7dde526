"""
A world with known features: which measure sees what?
=====================================================

Whether a neuron stands for one thing cannot be looked up in a trained network. So here it is
planted: inputs are sums of known sparse features, and a layer has neurons of known kinds, from
monosemantic to dead. Every measure that scores a neuron is held against that truth. The table shows
what each sees, where they disagree, and what the monosemantic scale cannot tell.

Run as ``python demos/world.py`` (20 seeds) or
``python demos/world.py --quick`` (3 seeds, fewer inputs). The pictures go to
``runs/world``.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import minimono as mm
from minimono.data.firing import Hierarchy, low_rank_correlation, zipf_rates
from minimono.data.matching import match_features, mean_correlation_coefficient
from minimono.data.world import (
    KINDS,
    World,
    binary_scale,
    draw_neurons,
    orthogonal_directions,
    plant,
    polygon_directions,
    roc_auc,
)
from minimono.experiments import pictures, tables
from minimono.mono import (
    Moments,
    concept_separability,
    feature_monosemanticity_score,
    metrics,
    monosemantic_scale,
    polysemanticity,
    redundancy,
)
from minimono.mono.decorrelation import feature_decorrelation, superposition_proxy
from minimono.mono.features import false_killing_rate, feature_scale
from minimono.nn.optim import Adam
from minimono.nn.training import train

QUICK = "--quick" in sys.argv
SEEDS, INPUTS, EACH, STEPS = (3, 5_000, 20, 1000) if QUICK else (20, 20_000, 20, 2000)
LOOK = {  # the marker tells too
    "monosemantic": (pictures.BLUE, "o"), "polysemantic": (pictures.RED, "s"),
    "antipodal": (pictures.PINK, "D"), "distributed": (pictures.GREEN, "v"),
    "noisy": (pictures.ORANGE, "x"),
}
plt.rcParams.update(pictures.DEMO)
PICTURES = Path("runs/world")


# %%
# Two worlds
# ----------
# Both have 20 features, some rare (1 input in 100), some frequent (1 in 5), independent of one
# another, a little noise, and 4 dimensions that no feature uses. In the one, features are
# orthogonal. In the other, they are in superposition: 20 features in 8 dimensions, as four
# pentagons, which is how trained toy models lay them out (see the end).


def make_world(kind: str, rng: np.random.Generator) -> World:
    directions = (
        orthogonal_directions(20, 24, rng=rng) if kind == "orthogonal"
        else polygon_directions(5, 4, 12, rng=rng)
    )
    return World(directions, rng.permutation(np.geomspace(0.01, 0.2, 20)), noise=0.1)


# %%
# Seven kinds of neuron
# ---------------------
# What one feature, when it is alone, adds to each neuron's resting value. The feature that a noisy
# neuron is as rare as, and the one that a dead neuron would have answered to, do nothing.

rng = np.random.default_rng(0)
figure, panels = plt.subplots(1, 2, figsize=(8.4, 5.2), sharey=True)
rows = [kind * EACH + i for kind in range(len(KINDS)) for i in range(4)]  # four of each kind
for axes, kind in zip(panels, ("orthogonal", "pentagons"), strict=True):
    world = make_world(kind, rng)
    layer = plant(world, draw_neurons(world, EACH, rng=rng), rng=rng)
    rest = layer.activations(np.zeros((1, world.directions.shape[1])))
    effect = (layer.activations(world.directions) - rest).T[rows]  # (neurons, F)
    shown = axes.imshow(effect, cmap="PuOr", vmin=-1, vmax=1, aspect="auto")
    axes.hlines(np.arange(3.5, len(rows) - 1, 4), -0.5, 19.5, color="#999999", linewidth=0.6)
    axes.set(title=f"world: {kind}", xlabel="feature", xticks=range(0, 20, 5))
    axes.set_yticks(np.arange(1.5, len(rows), 4), KINDS)
figure.colorbar(shown, ax=panels, label="added by the feature alone", shrink=0.6)
pictures.keep(figure, PICTURES, "layer")

# %%
# Every measure, on every neuron
# ------------------------------
# φ takes its mean and variance from other inputs than those it scores. Measures that need labels
# get the best there could be: the true features. Purity uses each feature alone; class selectivity
# the inputs with exactly one feature; the two measures that compare inputs see their features as
# the embedding. Dimensionality and proxy look at weights only: dimensionality, made for features,
# is asked of the neurons' weights. The last row is no measure but a baseline: how rarely the neuron
# fires, q being the share of inputs with z > 0.


def neuron_scores(world: World, layer, rng: np.random.Generator) -> dict[str, np.ndarray]:
    x, features = world.sample(INPUTS, rng=rng)
    z = layer.activations(x)
    history = Moments.of(layer.activations(world.sample(INPUTS, rng=rng).inputs))
    phi = monosemantic_scale(z, history.mean, history.variance())
    some, single = features.any(axis=1), features.sum(axis=1) == 1
    by_feature = feature_scale(z, features)
    own, neurons = by_feature.feature, np.arange(z.shape[1])  # -1, where φ_l is nan throughout
    top = np.argsort(-z[some], axis=0, kind="stable")[:20].T  # (neurons, 20)
    embedding = features[some].astype(float)
    return {
        "φ mean": phi.mean(axis=0),
        "φ maximum": phi.max(axis=0),
        "φ 99.9th percentile": np.quantile(phi, 0.999, axis=0),
        "φ_l, own feature": by_feature.inside[own, neurons],
        "φ_l / φ_l⁻": by_feature.inside[own, neurons] / by_feature.outside[own, neurons],
        "single-feature purity": metrics.single_feature_purity(layer.activations(world.directions)),
        "class selectivity": metrics.class_selectivity(z[single], features[single].argmax(axis=1)),
        "Hoyer sparsity": metrics.hoyer_sparsity(z.T),
        "monosemanticity score": metrics.monosemanticity_score(z[some], embedding),
        "clarity of top 20": metrics.clarity(embedding[top]),
        "weight dimensionality": metrics.feature_dimensionality(layer.weight),
        "superposition proxy": superposition_proxy(layer.weight.T, layer.bias),
        "rarity, 1 - q": (z == 0).mean(axis=0),
    }


def defined(scores: np.ndarray) -> np.ndarray:
    return scores[~np.isnan(scores)]


def median(scores: np.ndarray) -> float:
    return float(np.median(defined(scores))) if defined(scores).size else np.nan


def over_seeds(values: list[float]) -> str:
    """Median over seeds, and half the range; a dash where all are undefined."""
    found = defined(np.array(values))
    if not found.size:
        return "–"
    spread = round((found.max() - found.min()) / 2, 9)  # what rounding left is no spread
    digits = np.format_float_positional(spread, precision=1, fractional=False, trim="-")
    return f"{np.median(found):.3g} ±{digits}"


def table(title: str, columns: list[str], body: dict[str, list[str]]) -> None:
    width = max(len(cell) for cells in [columns, *body.values()] for cell in cells) + 2
    print(f"\n{title}")
    for name, cells in ({"": columns} | body).items():
        print(tables.console(name, cells, name_width=24, width=width))


seeds: dict[str, list[tuple[np.ndarray, dict[str, np.ndarray]]]] = {}
auc: dict[str, dict[tuple[str, str], list[float]]] = {}
for kind in ("orthogonal", "pentagons"):
    seeds[kind], auc[kind] = [], {}
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        world = make_world(kind, rng)
        layer = plant(world, draw_neurons(world, EACH, rng=rng), rng=rng)
        seeds[kind].append((layer.kinds, neuron_scores(world, layer, rng)))
    names = list(seeds[kind][0][1])
    table(
        f"{kind}: median over {EACH} neurons; median over {SEEDS} seeds ± half the range",
        list(KINDS),
        {
            name: [over_seeds([median(s[name][kinds == k]) for kinds, s in seeds[kind]])
                   for k in KINDS]
            for name in names
        },
    )

# %%
# Undefined (–) is an answer too: φ has none for a neuron that never changes, and then never selects
# it.
#
# How well does each measure tell monosemantic neurons from those of another kind? As the share of
# pairs in the right order (the area under the ROC curve): 1 is perfect, 0.5 is chance, and at 0 the
# other kind always looks the more monosemantic.

OTHERS = [k for k in KINDS if k != "monosemantic"]
for kind in seeds:
    for name in names:
        for other in OTHERS:
            pairs = [
                (defined(s[name][kinds == "monosemantic"]), defined(s[name][kinds == other]))
                for kinds, s in seeds[kind]
            ]
            auc[kind][name, other] = [roc_auc(a, b) if b.size else np.nan for a, b in pairs]
    table(
        f"{kind}: AUC, monosemantic against each other kind; median over {SEEDS} seeds ± half the "
        "range",
        OTHERS, {name: [over_seeds(auc[kind][name, o]) for o in OTHERS] for name in names},
    )

figure, panels = plt.subplots(1, len(OTHERS), figsize=(11, 4.2), sharey=True)
y = np.arange(len(names))
for axes, other in zip(panels, OTHERS, strict=True):
    axes.axvline(0.5, color="#999999", linewidth=0.8)
    axes.axvspan(-0.05, 0.5, color="#f3f3f3", linewidth=0)
    for kind, shift, colour, marker in (
        ("orthogonal", -0.16, pictures.BLUE, "o"), ("pentagons", 0.16, pictures.RED, "^")
    ):
        values = [median(np.array(auc[kind][n, other])) for n in names]
        axes.plot(values, y + shift, marker, color=colour, markersize=5, label=kind)
    axes.set(title=other, xlim=(-0.05, 1.05), xticks=[0, 0.5, 1])
    axes.set_xticklabels(["0", "½", "1"])
    axes.grid(axis="y", color="#dddddd", linewidth=0.5)
panels[0].set_yticks(y, names)
panels[0].invert_yaxis()
figure.supxlabel(
    "AUC of monosemantic neurons against each kind. Below ½ the others score higher. "
    "No mark: undefined", fontsize=10,
)
figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
pictures.keep(figure, PICTURES, "auc")

# %%
# What φ sees, and what it cannot
# -------------------------------
# φ sees how rare a value is. For a neuron with two values, of which one has probability q, φ of
# that value is (1 - q)/q, whatever makes it fire: one feature, three, or none. So φ alone cannot
# tell a monosemantic neuron of a frequent feature from a polysemantic neuron of rare ones, nor from
# noise that is as rare: those even reach higher, as two features at once, or a far tail, are rarer
# than one feature (left; the noise in the inputs lifts all extremes above the curve).
#
# φ_l averages over the inputs with the neuron's own feature. Monosemantic neurons fall on the
# curve, noise far below. Polysemantic ones do not: at the same q they are as high (middle). What
# gives them away is the rest: they also leave their mean where their own feature is not, so the
# contrast with φ_l⁻ (right) drops, while it is the curve's square for a monosemantic neuron. But
# then one has to know the features.

figure, panels = plt.subplots(1, 3, figsize=(11.5, 3.9))
q = np.geomspace(0.005, 0.9, 200)
curve = np.array([binary_scale(p)[0] for p in q])
for axes, name in zip(
    panels, ("φ 99.9th percentile", "φ_l, own feature", "φ_l / φ_l⁻"), strict=True
):
    power = 2 if name == "φ_l / φ_l⁻" else 1
    axes.plot(q, curve**power, color="#999999")
    axes.annotate("((1 - q)/q)²" if power == 2 else "(1 - q)/q", (q[185], curve[185] ** power),
                  (-8, -2), textcoords="offset points", ha="right", va="top")
    for k, (colour, marker) in LOOK.items():
        points = [(1 - s["rarity, 1 - q"][kinds == k], s[name][kinds == k])
                  for kinds, s in seeds["orthogonal"][:2]]
        axes.plot(*np.concatenate(points, axis=1), marker, color=colour, alpha=0.8, ms=5, label=k)
    axes.set(xscale="log", yscale="log", title=name, xlabel="q, share of inputs with z > 0")
figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
pictures.keep(figure, PICTURES, "phi-and-rarity")

# %%
# The share of pairs of one monosemantic and one polysemantic neuron that each measure puts the
# right way round, if the polysemantic one fires the more rarely, and if it fires the more often:


def by_rarity(name: str) -> list[str]:
    shares: list[list[float]] = [[], []]
    for kinds, s in seeds["orthogonal"]:
        mono, poly = kinds == "monosemantic", kinds == "polysemantic"
        rarity = s["rarity, 1 - q"]
        more_often = rarity[mono][:, None] > rarity[poly]
        higher = np.sign(s[name][mono][:, None] - s[name][poly]) / 2 + 0.5
        for which, pairs in zip(shares, (~more_often, more_often), strict=True):
            which.append(higher[pairs].mean())
    return [over_seeds(which) for which in shares]


table("orthogonal: monosemantic above polysemantic, when the polysemantic neuron fires",
      ["more rarely", "more often"], {name: by_rarity(name) for name in names})

# %%
# Whole layers
# ------------
# Some measures score a layer. So one layer is planted of each kind: how unlike its codes of
# different inputs are (feature decorrelation), how sparse its codes are (Hoyer), and how often
# selection by φ, the top 2 % of all, hits an input that lacks the neuron's feature (false killing
# rate; the feature is the one that φ_l names). Inputs that leave the layer silent have no code.
#
# Feature decorrelation and the codes' sparsity tell dense layers from sparse ones. They hardly tell
# monosemantic neurons from noise that fires as rarely. The false killing rate does; but for a
# polysemantic neuron it counts every hit on the second feature as false.

LAYERS = KINDS[:5]
layers: dict[str, list[list[float]]] = {
    name: [[] for _ in LAYERS]
    for name in ("feature decorrelation", "Hoyer of codes", "false killing rate")
}
for seed in range(SEEDS):
    rng = np.random.default_rng(seed)
    world = make_world("orthogonal", rng)
    x, features = world.sample(INPUTS, rng=rng)
    drawn = draw_neurons(world, EACH, rng=rng)
    for column, k in enumerate(LAYERS):
        z = plant(world, [n for n in drawn if n[0] == k], rng=rng).activations(x)
        awake = z[z.any(axis=1)]
        moments = Moments.of(z)
        phi = monosemantic_scale(z, moments.mean, moments.variance())
        own = feature_scale(z, features).feature
        for name, value in (
            ("feature decorrelation", feature_decorrelation(awake)),
            ("Hoyer of codes", metrics.hoyer_sparsity(awake).mean()),
            ("false killing rate", false_killing_rate(phi, features, own, fraction=0.02)),
        ):
            layers[name][column].append(float(value))
table("orthogonal: layers of one kind", list(LAYERS),
      {name: [over_seeds(v) for v in columns] for name, columns in layers.items()})

# %%
# Where they disagree
# -------------------
# * *The average of φ* is 1 for every neuron, by its definition. Only its extremes say something.
# * *Extremes of φ* tell sparse neurons from dense ones. They rank noise above monosemantic neurons.
#   A polysemantic neuron that fires more rarely than a monosemantic one is almost always above it;
#   one that fires more often still is in about half of all pairs.
# * *Hoyer sparsity* is no better than its baseline, rarity.
# * *φ_l / φ_l⁻, class selectivity, the monosemanticity score* and *purity* find the monosemantic
#   neurons. All four were given the true features, or the true likeness of inputs. Where labels are
#   something else than the network's features, they cannot do so.
# * *Clarity* looks at the top inputs only. A polysemantic neuron's are those with all its features
#   at once, as alike as any; an antipodal neuron's show only the feature that lifts it.
# * *Weights* alone: dimensionality cannot see the bias, so a dead neuron looks like the
#   monosemantic one it would have been. The proxy sees above all the bias: what rests above 0
#   (antipodal, distributed, constant) scores higher than what a threshold holds back.
# * *Undefined* is not the same for all: φ, purity and selectivity have no score for a dead neuron,
#   clarity gives it one, of arbitrary inputs.

# %%
# A richer world
# --------------
# In trained networks features are not independent: some fire together, some only below another
# (a poodle is a dog), some never beside each other (nor a spaniel). So the same layer is planted in
# four worlds of orthogonal features, 4 roots with 4 children each, frequent and rare by Zipf's law:
# independent; correlated (two common causes); below their parents, siblings exclusive; all of it,
# with amounts that vary. Which measures still tell monosemantic neurons from polysemantic ones, and
# from noise?
#
# More measures join: how differently a neuron answers to different features (separability), how
# little its top inputs fall into two groups (1 - SemanticLens's polysemanticity), and how well it
# detects the feature nearest to its weights (F1). And for layers of one kind: whether one neuron
# holds a feature (FMS, on as many inputs with the feature as without), in what share of the neurons
# the activity lies (effective features), how alike the neurons' mean inputs are (redundancy), how
# near weights are to features (MCC).

WORLDS = ("independent", "correlated", "hierarchy", "all of it")
FEW_SEEDS = 2 if QUICK else 5
COMPARED = ("monosemantic", "polysemantic", "noisy")


def make_rich_world(kind: str, rng: np.random.Generator) -> World:
    rates = zipf_rates(20, exponent=0.5, highest=0.25, lowest=0.02)
    common = low_rank_correlation(20, 2, scale=0.5, rng=rng)
    forest = Hierarchy.of_trees(4, 4, 1, exclusive=True)
    below = kind in ("hierarchy", "all of it")
    return World(
        orthogonal_directions(20, 24, rng=rng),
        forest.compensated(rates).clip(0, 0.99) if below else rates,
        noise=0.1,
        correlation=common if kind in ("correlated", "all of it") else None,
        spread=0.15 if kind == "all of it" else 0.0,
        hierarchy=forest if below else None,
    )


def more_scores(world: World, layer, rng: np.random.Generator) -> dict[str, np.ndarray]:
    x, features = world.sample(INPUTS, rng=rng)
    z, some = layer.activations(x), features.any(axis=1)
    top = np.argsort(-z[some], axis=0, kind="stable")[:20].T  # (neurons, 20)
    groups = polysemanticity(features[some].astype(float)[top], rng=rng)
    return {
        "concept separability": concept_separability(z, features),
        "1 - polysemanticity": 1 - groups,
        "F1 of nearest feature": match_features(layer.weight, world.directions, z, features).f1,
    }


def layer_scores(world: World, layer, rng: np.random.Generator) -> dict[str, float]:
    x, features = world.sample(INPUTS, rng=rng)
    z = layer.activations(x)
    driven = z.T @ features  # (neurons, F): the mean input of each, up to its length
    fms = []
    for has in features.T:
        some = min(int(has.sum()), 100)
        rows = np.concatenate([np.flatnonzero(has)[:some], np.flatnonzero(~has)[:some]])
        fms.append(feature_monosemanticity_score(z[rows], has[rows]).score)
    return {
        "FMS": float(np.mean(fms)),
        "effective features": metrics.effective_features(z) / z.shape[1],
        "redundancy": redundancy(driven[driven.any(axis=1)]),
        "MCC": mean_correlation_coefficient(layer.weight, world.directions),
    }


rich: dict[str, dict[tuple[str, str], list[float]]] = {w: {} for w in WORLDS}
whole: dict[str, dict[tuple[str, str], list[float]]] = {w: {} for w in WORLDS}
for kind, seed in [(w, s) for w in WORLDS for s in range(FEW_SEEDS)]:
    rng = np.random.default_rng(seed)
    world = make_rich_world(kind, rng)
    drawn = [n for n in draw_neurons(world, EACH, rng=rng) if n[0] in COMPARED]
    layer = plant(world, drawn, rng=rng)
    scores = neuron_scores(world, layer, rng) | more_scores(world, layer, rng)
    for name, values in scores.items():
        for other in COMPARED[1:]:
            a, b = (defined(values[layer.kinds == k]) for k in ("monosemantic", other))
            found = roc_auc(a, b) if a.size and b.size else np.nan
            rich[kind].setdefault((name, other), []).append(found)
    for k in COMPARED:
        alone = plant(world, [n for n in drawn if n[0] == k], rng=rng)
        for name, value in layer_scores(world, alone, rng).items():
            whole[kind].setdefault((name, k), []).append(value)

for other in COMPARED[1:]:
    names = [name for name, which in rich["independent"] if which == other]
    table(f"richer worlds: AUC, monosemantic against {other}; median over {FEW_SEEDS} seeds ± half "
          "the range", list(WORLDS),
          {name: [over_seeds(rich[w][name, other]) for w in WORLDS] for name in names})
for name in ("FMS", "effective features", "redundancy", "MCC"):
    table(f"richer worlds: {name} of layers of one kind", list(WORLDS),
          {k: [over_seeds(whole[w][name, k]) for w in WORLDS]
           for k in COMPARED})

# %%
# Correlations change little here. The hierarchy does, as an input with a child always has its
# parent too:
#
# * *Class selectivity* looks at inputs with one feature, and a child is never alone: it fails.
# * *φ_l / φ_l⁻* drops, as a parent's neuron also leaves its mean on the children's inputs, and so
#   does *FMS*: several neurons hold the parent, its own and its children's.
# * *Redundancy* rises: the inputs of parent and child are alike.
# * *The monosemanticity score*, the *F1* and *purity* of features stay near 1; purity and MCC look
#   at weights, or at features alone, which no network has.
# * *Separability* ranks polysemantic neurons above monosemantic ones throughout: a neuron with
#   several features tells more pairs of them apart than one with a single feature does.
# * *Clarity* and *polysemanticity* are below ½ in most worlds: a polysemantic neuron's top inputs
#   have all its features at once, and are one group.
# * A noisy neuron is as rare as its feature is drawn, so a hierarchy, which takes features away
#   afterwards, leaves it the more frequent of the two. That alone turns the extremes of φ and
#   Hoyer's sparsity round: they see rarity.

# %%
# A toy model of superposition
# ----------------------------
# Where do the pentagons come from? Elhage et al. (2022) train x' = relu(Wᵀ W x + b) to give back 5
# sparse features through 2 dimensions. Untrained, W is random. Trained, its columns come close to
# the corners of a regular pentagon, each feature has about 2/5 of a dimension, and the bias is
# negative: it holds the neighbours down. With one feature at a time it would have to be
# cos 72° / (cos 72° - 1) = -0.447; here several may be there at once.


class ToyModel(mm.nn.Module):
    def __init__(self, features: int, dimensions: int, *, rng: np.random.Generator):
        self.W = mm.nn.layers.parameter(0.5 * rng.standard_normal((dimensions, features)))
        self.b = mm.nn.layers.parameter(np.zeros(features))

    def forward(self, x: mm.Tensor) -> mm.Tensor:
        return mm.functional.relu(x @ self.W.T @ self.W + self.b)  # (B, F) -> (B, D) -> (B, F)


rng = np.random.default_rng(1)
world = World(np.eye(5), 0.05)
model = ToyModel(5, 2, rng=rng)
stages = {"untrained": model.state_dict()}
batches = ((world.sample(512, rng=rng).inputs.astype(np.float32),) for _ in iter(int, 1))
losses = [
    record.loss
    for record in train(
        model, batches, lambda model, x: ((model(x) - x) ** 2).mean(),
        Adam(model.parameters(), 1e-2), steps=STEPS,
    )
]
stages["trained"] = model.state_dict()

figure, panels = plt.subplots(2, 2, figsize=(6.4, 5.6))
print("\nToy model, 5 features in 2 dimensions")
for row, (stage, state) in zip(panels, stages.items(), strict=True):
    W, b = state["W"].astype(float), state["b"]
    for f, tip in enumerate(W.T):
        row[0].annotate("", tip, (0, 0), arrowprops={"arrowstyle": "-|>", "color": pictures.BLUE})
        row[0].text(*(tip * (1 + 0.15 / np.linalg.norm(tip))), str(f), ha="center", va="center")
    row[0].axhline(0, color="#dddddd", linewidth=0.6, zorder=0)
    row[0].axvline(0, color="#dddddd", linewidth=0.6, zorder=0)
    row[0].set(xlim=(-1.5, 1.5), ylim=(-1.5, 1.5), aspect="equal", xticks=[-1, 1], yticks=[-1, 1])
    row[0].set_title(f"{stage}: where W puts each feature")
    shown = row[1].imshow(W.T @ W, cmap="PuOr", vmin=-1.5, vmax=1.5)
    row[1].set(xticks=range(5), yticks=range(5))
    row[1].set_title("WᵀW")
    figure.colorbar(shown, ax=row[1], shrink=0.8)
    share = metrics.feature_dimensionality(W.T)
    print(f"{stage:10} dimensionality {share.round(3)}  bias {b.round(3)}")
print(f"loss {np.mean(losses[:50]):.4f} at first, {np.mean(losses[-50:]):.4f} at last")
pictures.keep(figure, PICTURES, "toy-model")
