"""
Emergence: paths from what sleeps to what is awake
==================================================

AlShinaifi et al. (2024, arXiv 2409.01568) count, in a network, the paths that lead from inactive
nodes to active ones, and call the number emergence. They report that it falls to about 0 as the
network trains, that pruned networks converge faster, and that they end slightly lower.

All of this is a reconstruction. Their text and code could not be read; the formula, in two forms A
and B, was rebuilt from descriptions of it (see `minimono.mono.emergence`), and so was the study:
networks, data, the moment of pruning and what is measured are our choice.

An MLP and a small ConvNet learn scikit-learn's digits (extra `demos`), with 0, 25, 50 and 70 % of
each layer's weights pruned by magnitude. `python demos/emergence.py --quick` takes some 15 seconds
(2 seeds). Without `--quick` there are 6 seeds and more steps: one and a half minutes on a
shared machine with two cores. The pictures go to ``runs/emergence``.
"""

import copy
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import minimono as mm
from minimono.experiments import pictures, tables
from minimono.experiments.six_ways import classified
from minimono.experiments.statistics import interval, judge
from minimono.mono import (
    ConvMask,
    active_nodes,
    emergence_of_masks,
    pool_mask,
    prune_by_magnitude,
    relative_emergence,
)

QUICK = "--quick" in sys.argv
SEEDS = 2 if QUICK else 6
STEPS = {"MLP": 150, "ConvNet": 100} if QUICK else {"MLP": 400, "ConvNet": 400}
LEVELS = 0.0, 0.25, 0.5, 0.7
COLOURS = pictures.INK, pictures.BLUE, pictures.GREEN, pictures.RED
PICTURES = Path("runs/emergence")
plt.rcParams.update(pictures.DEMO)

training, test = mm.data.shuffled_split(*mm.data.load_digits(), rng=np.random.default_rng(2024))

# %%
# Two networks, as graphs
# -----------------------
# A node is active if its mean activation over the test images is above 0.05. The layers are the
# pixels, what follows each ReLU, and the probabilities of the classes. In the ConvNet each pooling
# adds a layer too, whose connections are never pruned.


def network(kind, rng):
    if kind == "MLP":
        return mm.models.MLP((64, 32, 24, 10), rng=rng)
    return mm.models.ConvNet(image=(1, 8, 8), channels=(4, 8), classes=10, rng=rng)


def inputs_of(kind, images):
    return images.reshape(len(images), -1) if kind == "MLP" else images  # (N, 1, 8, 8) -> (N, 64)


def prunable(kind, model):
    """The weights, input side first."""
    layers = [h.linear for h in model.hidden] if kind == "MLP" else [s.conv for s in model.stage]
    return [layer.weight for layer in (*layers, model.out)]


def emergences(kind, model, masks):
    """E in forms A and B, for the test images."""
    x = inputs_of(kind, test.images)
    with mm.nn.taps.read(model) as seen, mm.no_grad():
        probabilities = mm.functional.softmax(model(mm.tensor(x)))
    active = [active_nodes(z) for z in (x, *(t.data for t in seen.values()), probabilities.data)]
    if kind == "ConvNet":
        *kernels, out = masks
        stages = [(ConvMask(k, padding=1), pool_mask(len(k), 2)) for k in kernels]
        masks = [*(mask for stage in stages for mask in stage), out]
    return [emergence_of_masks(masks, active, form=form) for form in ("A", "B")]


# %%
# Training with pruned weights
# ----------------------------
# The smallest weights are set to 0 before training and after each update. A network is pruned
# either fresh, at its first weights, or trained, after as many steps as it then trains on.


def train_pruned(kind, model, fraction, batches):
    """Records (step, accuracy in %, loss, E in form A, in form B), and how many weights stay."""
    weights = prunable(kind, model)
    masks = prune_by_magnitude([w.data for w in weights], fraction)

    def apply_masks():
        for w, mask in zip(weights, masks, strict=True):
            w.data = w.data * mask

    def loss(model, images, labels):
        logits = model(mm.tensor(inputs_of(kind, images)))
        return mm.functional.cross_entropy(logits, labels)

    def measured(step):
        with mm.no_grad():
            scores = classified(model, inputs_of(kind, test.images), test.labels, batch=360)
        return step, *scores.values(), *emergences(kind, model, masks)

    apply_masks()
    records = [measured(0)]
    optimiser = mm.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    for r in mm.nn.training.train(model, batches, loss, optimiser, steps=STEPS[kind]):
        apply_masks()
        if r.step in MEASURED[kind]:
            records.append(measured(r.step))
    return records, sum(int(mask.sum()) for mask in masks)


MEASURED = {
    kind: np.geomspace(5, steps, 10).round().astype(int).tolist() for kind, steps in STEPS.items()
}
# curves[kind, start, level]: a seed's records each, (seeds, measured, 5)
curves, left = {}, {}
for kind in STEPS:
    for seed in range(SEEDS):
        dense = None
        for start in ("fresh", "trained"):
            for level in LEVELS:
                rng = np.random.default_rng(seed)
                model = copy.deepcopy(dense) if dense else network(kind, rng)
                batches = mm.data.image_batches(
                    *training, batch=32, rng=np.random.default_rng([seed, start == "trained"])
                )
                records, left[kind, level] = train_pruned(kind, model, level, batches)
                curves.setdefault((kind, start, level), []).append(np.array(records, dtype=float))
                if (start, level) == ("fresh", 0.0):
                    after_training = model
            dense = after_training
curves = {key: np.array(value) for key, value in curves.items()}

# %%
# E from the first step to the last; E for each weight left; accuracy at the end; and how long it
# took: steps until the accuracy first reached 80 %, and until it first reached 95 % of what it was
# at the end (between two measurements, a straight line). Means over the seeds; a dash
# where one did not get there.


def steps_until(records, accuracy):
    """When the accuracy first reaches a value; nan if never."""
    step, reached = records[:, 0], records[:, 1]
    above = np.flatnonzero(reached >= accuracy)
    if not above.size:
        return np.nan
    i = above[0]
    if i == 0:
        return step[0]
    return float(np.interp(accuracy, reached[i - 1 : i + 1], step[i - 1 : i + 1]))


def mean(values, digits=0):
    """The mean over seeds; a dash if one of them has no value."""
    return "–" if np.isnan(values).any() else f"{np.mean(values):,.{digits}f}"


final, speed = {}, {}  # by network, start and level, a number for each seed
for (kind, start, level), seeds in curves.items():
    final[kind, start, level] = seeds[:, -1, 1]
    speed[kind, start, level] = np.array(
        [[steps_until(s, 80.0), steps_until(s, 0.95 * s[-1, 1])] for s in seeds]
    )  # (seeds, 2)

COLUMNS = (
    "E, A: first", "last", "E, B: first", "last", "A/weight: first", "last", "accuracy %",
    "to 80 %", "to 95 % of own",
)
for kind in STEPS:
    for start in ("fresh", "trained"):
        print(f"\n{kind}, pruned when {start}; {STEPS[kind]} steps; mean of {SEEDS} seeds")
        print(tables.console("pruned   weights", COLUMNS, name_width=16, width=16))
        for level in LEVELS:
            key, seeds = (kind, start, level), curves[kind, start, level]
            weights = left[kind, level]
            cells = [mean(seeds[:, i, form]) for form in (3, 4) for i in (0, -1)]
            cells += [
                mean([relative_emergence(int(E), weights) for E in seeds[:, i, 3]], 1)
                for i in (0, -1)
            ]
            cells += [mean(final[key], 1), *(mean(column) for column in speed[key].T)]
            print(tables.console(f"{level:6.0%}  {weights:8,}", cells, name_width=16, width=16))

figure, panels = plt.subplots(3, 4, figsize=(12, 7.6), sharex="col")
columns = [(kind, start) for kind in STEPS for start in ("fresh", "trained")]
for (kind, start), column in zip(columns, panels.T, strict=True):
    for level, colour in zip(LEVELS, COLOURS, strict=True):
        average = curves[kind, start, level].mean(axis=0)
        for axes, values in zip(column, (3, 4, 1), strict=True):
            shown = average[:, values] / (left[kind, level] if values != 1 else 1)
            axes.plot(average[:, 0], shown, "o-", color=colour, ms=3, label=f"{level:.0%} pruned")
    column[0].set_title(f"{kind}, pruned when {start}")
    column[2].set(xscale="symlog", xlabel="training step", ylim=(0, 100))
    column[2].set(xlim=(0, 1.1 * STEPS[kind]))
    for axes in column[:2]:
        axes.set_ylim(bottom=0)
for axes, label in zip(
    panels[:, 0], ("E for each weight, form A", "E for each weight, form B", "accuracy, %"),
    strict=True,
):
    axes.set_ylabel(label)
figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
print()
pictures.keep(figure, PICTURES, "training")

# %%
# What shows and what does not
# ----------------------------
# Each claim against what was measured above. For each seed, the pruned networks' mean minus the
# full one's, from the same start; ± is half of the 95 % interval over seeds, and a claim shows if
# it is on its side of 0. The words take wider intervals: all together hold with 95 %. A network
# that never got to an accuracy counts as one step more than all.

CONCLUSIONS = 2 * len(STEPS) + 4 * len(STEPS) + 2 * len(STEPS)
print("\nClaims; ±: half of the 95 % interval over seeds; the words all hold together with 95 %")
for kind in STEPS:
    for form, column in (("A", 3), ("B", 4)):
        seeds = curves[kind, "fresh", 0.0][:, :, column]
        ratio = seeds[:, -1] / seeds[:, 0]
        word, _ = judge(ratio, 1.0, above="it rises", below="it falls", among=CONCLUSIONS)
        print(
            f"E falls in training to about 0? {kind}, form {form}: last / first = "
            f"{ratio.mean():.2f} ±{interval(ratio).half:.2f}: {word}"
        )


def against_full(table, kind, start):
    """Of each seed: what the pruned networks have on average, minus the full one's."""
    pruned = [table[kind, start, level] for level in LEVELS[1:]]
    return np.mean(pruned, axis=0) - table[kind, start, 0.0]


def said(difference, unit):
    word, _ = judge(difference, above="the opposite shows", below="shows", among=CONCLUSIONS)
    return f"{interval(difference).written(1)} {unit}: {word}"


for start in ("fresh", "trained"):
    for kind in STEPS:
        for measure, column in (("80 %", 0), ("95 % of its own end", 1)):
            steps = {
                key: np.nan_to_num(values[:, column], nan=STEPS[kind] + 1.0)
                for key, values in speed.items()
            }
            print(
                f"Pruned nets converge faster? {kind}, pruned when {start}, to {measure}: "
                + said(against_full(steps, kind, start), "steps")
            )
for start in ("fresh", "trained"):
    for kind in STEPS:
        print(
            f"Pruned nets end lower (reported: by 0 to 0.6 points)? {kind}, pruned when {start}: "
            + said(against_full(final, kind, start), "points")
        )
