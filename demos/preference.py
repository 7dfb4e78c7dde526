"""
Preferences: what DPO and DecPO do to a network's neurons
=========================================================

Should monosemanticity be encouraged or inhibited? Yan et al. (EMNLP 2024, arXiv 2406.17969) tune
language models on preferences and say: encouraged. DPO raises it, and a penalty that makes
representations unlike (DecPO) raises it further and helps. Here a small GPT learns the text of
Python's help topics. Then it is tuned on pairs of lines of which a program knows the better one,
by DPO, SimPO, DPO with an L1 penalty, and DecPO as published and as in the authors' code.

`python demos/preference.py --quick` takes some 15 seconds of CPU: 2 networks, each tuned five
times. They show how it is done, but two networks decide nothing. Without `--quick` there are 5,
larger ones, trained for longer; that takes about 4 minutes of CPU.
"""

import sys
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np

import minimono as mm
from minimono.data import Characters, random_batches, read_text, split
from minimono.experiments import pictures, tables
from minimono.experiments.measurement import scale_against, spread_windows, window_losses
from minimono.experiments.statistics import interval, judge
from minimono.mono import decorrelation, preference
from minimono.nn import taps
from minimono.nn.module import evaluating
from minimono.nn.optim import AdamW, cosine_schedule
from minimono.nn.training import train

QUICK = "--quick" in sys.argv
SEEDS, CHANNELS, LAYERS = (2, 32, 3) if QUICK else (5, 48, 4)
PRETRAINING, TUNING = (100, 30) if QUICK else (400, 100)  # steps
WINDOWS, BATCH, PAIRS, HELD_OUT = (8, 4, 120, 80) if QUICK else (16, 8, 480, 256)  # BATCH: pairs
BETA, LEARNING_RATE = 0.1, 1e-3
PICTURES = Path("runs/preference")
plt.rcParams.update(pictures.DEMO)

# %%
# A preference that a program can check
# -------------------------------------
# After a line of text, the next one should have the same indentation. Both responses are true lines
# of the text from somewhere else; the chosen one has the prompt's indentation, the rejected one
# another. The two indentations of a pair are as likely the one way round as the other: who ignores
# the prompt is right in half of all pairs. Lines are cut, so that a short context holds two.

WIDTH = 20
CONTEXT = 2 * WIDTH + 1


def indentation(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


class Pairs(NamedTuple):
    """First the N chosen, then the N rejected, each after its prompt; padded with line ends."""

    ids: np.ndarray  # (2 N, T)
    response: np.ndarray  # booleans (2 N, T)

    def pick(self, pairs: np.ndarray) -> "Pairs":
        rows = np.concatenate([pairs, pairs + len(self.ids) // 2])
        return Pairs(self.ids[rows], self.response[rows])

    @property
    def last(self) -> np.ndarray:
        """Where each response ends, (2 N,)."""
        return CONTEXT - 1 - self.response[:, ::-1].argmax(axis=1)


def make_pairs(text: str, count: int, characters: Characters, rng: np.random.Generator):
    """Pairs of lines of a text, and five of them to read."""
    by_indentation: dict[int, list[str]] = {}
    for line in sorted({line for line in text.split("\n") if len(line.strip()) >= 6}):
        by_indentation.setdefault(indentation(line), []).append(line)
    lines = [line for alike in by_indentation.values() if len(alike) > 1 for line in alike]
    texts: tuple[list, list] = [], []
    while len(texts[0]) < count:
        prompt, other = (lines[i] for i in rng.integers(len(lines), size=2))
        if indentation(other) == indentation(prompt):
            continue
        alike, same = by_indentation[indentation(prompt)], prompt
        while same == prompt:
            same = alike[rng.integers(len(alike))]
        for part, line in zip(texts, (same, other), strict=True):
            part.append((prompt, line))
    both = [*texts[0], *texts[1]]
    ids = np.stack(
        [characters.encode(f"{prompt}\n{line}".ljust(CONTEXT, "\n")) for prompt, line in both]
    )
    start = np.array([len(prompt) + 1 for prompt, _ in both])[:, None]
    end = start + np.array([len(line) for _, line in both])[:, None]
    place = np.arange(CONTEXT)
    return Pairs(ids, (place >= start) & (place < end)), both[:3] + both[count : count + 3]


text = "\n".join(line[:WIDTH].rstrip() for line in read_text().split("\n"))
characters = Characters(text)
training_ids, test_ids = split(characters.encode(text))
training_text, test_text = text[: len(training_ids)], text[len(training_ids) :]
_, pieces = spread_windows(test_ids, windows=2 * WINDOWS, context=CONTEXT)
_, examples = make_pairs(training_text, 8, characters, np.random.default_rng(0))
for (prompt, chosen), (_, rejected) in zip(examples[:3], examples[3:], strict=True):
    print(f"prompt   |{prompt}\nchosen   |{chosen}\nrejected |{rejected}\n")

# %%
# The methods
# -----------
# One function each, of the log-probabilities log π(y|x) of chosen and rejected responses under
# policy and reference, and of z, the activations at the last token of each response in one block:
# the input of the MLP's output projection. The paper has one block too; that it is the last but one
# is our choice. Weights of the penalties are the published ones, without tuning. SimPO and the
# authors' DecPO average log π over the response's length.

BLOCK = LAYERS - 2


def dpo(policy, reference, averaged, averaged_reference, z):
    return preference.dpo_loss(*policy, *reference, beta=BETA)


def simpo(policy, reference, averaged, averaged_reference, z):
    return preference.simpo_loss(*averaged)


def dpo_l1(policy, reference, averaged, averaged_reference, z):
    return dpo(policy, reference, averaged, averaged_reference, z) + 1e-4 * (
        decorrelation.l1_penalty(z)
    )


def decpo_paper(policy, reference, averaged, averaged_reference, z):
    return preference.decpo_loss(*policy, *reference, z, beta=BETA, convention="paper")


def decpo_authors(policy, reference, averaged, averaged_reference, z):
    return preference.decpo_loss(
        *averaged, *averaged_reference, z, beta=BETA, convention="authors"
    )


METHODS = {
    "DPO": dpo, "SimPO": simpo, "DPO + L1": dpo_l1, "DecPO (paper)": decpo_paper,
    "DecPO (authors)": decpo_authors,
}
NAMES = ("before", *METHODS)


def network(seed: int) -> mm.models.GPT:
    return mm.models.GPT(
        vocabulary=characters.size, context=CONTEXT, channels=CHANNELS, heads=4, layers=LAYERS,
        rng=np.random.default_rng(seed),
    )


def pretrained(seed: int) -> mm.models.GPT:
    model, rng = network(seed), np.random.default_rng([seed, 1])
    batches = random_batches(training_ids, batch=WINDOWS, context=CONTEXT, rng=rng)
    optimiser = AdamW(model.parameters(), 4e-3, betas=(0.9, 0.99))
    for _ in train(
        model, batches, lambda model, x, y: mm.functional.cross_entropy(model(x), y), optimiser,
        steps=PRETRAINING, max_norm=1.0, schedule=lambda n: cosine_schedule(
            n, steps=PRETRAINING, warmup=20, peak=4e-3, floor=4e-4),
    ):
        pass
    return model


def log_probabilities(model, pairs: Pairs):
    """log π(y|x), then its average over y, each as (chosen, rejected); z of every block."""
    with taps.read(model, "block.*.mlp.act") as seen:
        logits = model(pairs.ids)
    targets, mask = (np.roll(values, -1, axis=1) for values in (pairs.ids, pairs.response))
    log_p = preference.sequence_log_probability(logits, targets, mask)
    averaged = log_p / mm.tensor(mask.sum(axis=1).astype(np.float32))
    N, rows = len(pairs.ids) // 2, np.arange(len(pairs.ids))
    z = [activation[rows, pairs.last] for activation in seen.values()]  # (2 N, T, F) -> (2 N, F)
    return (log_p[:N], log_p[N:]), (averaged[:N], averaged[N:]), z


def of_all(model, pairs: Pairs):
    """The same as arrays, for many pairs: (2, N), (2, N), and z (2 N, F) of every block."""
    with evaluating(model):
        parts = [
            log_probabilities(model, pairs.pick(some))
            for some in np.array_split(np.arange(len(pairs.ids) // 2), len(pairs.ids) // 16)
        ]
    log_p, averaged = (
        np.concatenate([[side.data for side in part[i]] for part in parts], axis=1) for i in (0, 1)
    )
    halves = [[np.split(z.data, 2) for z in part[2]] for part in parts]
    z = [
        np.concatenate([half[block][side] for side in (0, 1) for half in halves])
        for block in range(LAYERS)
    ]
    return log_p, averaged, z  # z: all chosen, then all rejected, as in `pairs`


def tuned(reference, constants, loss, pairs: Pairs, seed: int):
    """The reference network after preference tuning; it sees the same batches by each method."""
    model, rng = network(seed), np.random.default_rng([seed, 2])
    model.load_state_dict(reference.state_dict())
    log_p, average, _ = constants  # the reference's, of all pairs

    def batches():
        while True:
            some = rng.permutation(PAIRS)[:BATCH]
            yield pairs.pick(some), log_p[:, some], average[:, some]

    def loss_of(model, batch, constant, averaged_constant):
        policy, averaged, z = log_probabilities(model, batch)
        return loss(policy, constant, averaged, averaged_constant, z[BLOCK])

    for _ in train(
        model, batches(), loss_of, AdamW(model.parameters(), LEARNING_RATE, betas=(0.9, 0.99)),
        steps=TUNING, max_norm=1.0, schedule=lambda n: cosine_schedule(
            n, steps=TUNING, warmup=5, peak=LEARNING_RATE, floor=0.1 * LEARNING_RATE),
    ):
        pass
    return model


# %%
# What is measured
# ----------------
# *Reward* is DPO's, β log π/ref, for all methods. Before tuning it is 0 for all responses. So the
# network itself is asked too: to how many chosen responses does it give the higher log π per
# character, which is SimPO's reward? FD and φ are of the last tokens of held-out responses; φ takes
# mean and variance from the training responses. Text loss: of held-out text, in nats a character.


def measured(model, constant, pairs: Pairs, held_out: Pairs) -> dict[str, np.ndarray]:
    """constant: log π of the held-out responses under the reference, (2, N)."""
    policy, averaged, z = of_all(model, held_out)
    _, _, history = of_all(model, pairs)
    rewards = preference.implicit_reward(policy, constant, beta=BETA).data
    phi = [scale_against(past, now) for past, now in zip(history, z, strict=True)]
    layers = [
        (b.mlp.up.weight.data.T, b.mlp.up.bias.data, b.norm2.weight.data, b.norm2.bias.data)
        for b in model.block
    ]
    medians = [
        np.median(decorrelation.superposition_proxy(*decorrelation.fold_into_linear(*layer)))
        for layer in layers
    ]
    return {
        "reward accuracy": preference.reward_accuracy(*rewards),
        "reward margin": preference.reward_margin(*rewards),
        "log π accuracy": preference.reward_accuracy(*averaged),
        "text loss": window_losses(model, pieces).mean(),
        "length of z": np.linalg.norm(z[BLOCK], axis=1).mean(),
        "FD": np.array([decorrelation.feature_decorrelation(a) for a in z]),
        "proxy": np.array(medians),
        "score, folded": decorrelation.superposition_scores(layers),
        "score, not folded": decorrelation.superposition_scores(layers, fold_layer_norm=False),
        "mean φ": np.array([np.nanmean(p, dtype=np.float64) for p in phi]),
        "99.9 % φ": np.array([np.nanpercentile(p, 99.9) for p in phi]),
    }


results: dict[str, list[dict]] = {name: [] for name in NAMES}
penalties = []
for seed in range(SEEDS):
    rng = np.random.default_rng([seed, 3])
    pairs, _ = make_pairs(training_text, PAIRS, characters, rng)
    held_out, _ = make_pairs(test_text, HELD_OUT, characters, rng)
    reference = pretrained(seed)
    constants, (held_out_constant, _, _) = of_all(reference, pairs), of_all(reference, held_out)
    results["before"].append(measured(reference, held_out_constant, pairs, held_out))
    for name, loss in METHODS.items():
        model = tuned(reference, constants, loss, pairs, seed)
        results[name].append(measured(model, held_out_constant, pairs, held_out))
    z = np.concatenate([constants[2][BLOCK][:BATCH], constants[2][BLOCK][PAIRS : PAIRS + BATCH]])
    penalties.append(
        [1e-4 * decorrelation.l1_penalty(z).item(),
         1e-4 * decorrelation.decorrelation_penalty(z).item(),
         1e-3 * decorrelation.decorrelation_penalty(z[0::2], convention="authors").item()]
    )


def values(name: str, measure: str) -> np.ndarray:
    """Of each seed: (seeds,) or (seeds, layers)."""
    return np.array([seed[measure] for seed in results[name]])


def cell(x: np.ndarray) -> str:
    found = interval(x)
    return f"{found.mean:.3f} ±{found.half:.3f}"


def table(title: str, columns: dict[str, list[np.ndarray]]) -> None:
    print(f"\n{title}\n{tables.console('', columns, name_width=17, width=18)}")
    for row, name in enumerate(NAMES):
        cells = [cell(column[row]) for column in columns.values()]
        print(tables.console(name, cells, name_width=17, width=18))


print(f"Mean of {SEEDS} networks ± half of the 95 % interval (Student's t)")
overall = ("reward accuracy", "reward margin", "log π accuracy", "text loss", "length of z")
table(
    f"{HELD_OUT} held-out pairs; length of z in block {BLOCK}",
    {measure: [values(name, measure) for name in NAMES] for measure in overall},
)
for measure, title in (
    ("FD", "Feature decorrelation"), ("score, folded", "Superposition score, LayerNorm folded in"),
    ("score, not folded", "Superposition score, weights as they are"),
    ("mean φ", "Mean φ"), ("99.9 % φ", "99.9th percentile of φ"),
):
    table(title, {f"block {b}": [values(name, measure)[:, b] for name in NAMES]
                  for b in range(LAYERS)})

# %%
# The score divides by the largest layer of the model, so that layer has ±1 before and after, and
# the others move with it. So the pictures show the medians themselves.

LOOK = dict(zip(NAMES, (pictures.INK, pictures.BLUE, pictures.ORANGE, pictures.GREEN, pictures.RED,
                        pictures.PINK), strict=True))
MARKERS = dict(zip(NAMES, "osD^vX", strict=True))


def change(name: str) -> np.ndarray:
    """Of each layer's median proxy, in percent of its size before: (seeds, layers)."""
    before = values("before", "proxy")
    return 100 * (values(name, "proxy") - before) / abs(before)


def show(name: str, title: str, ylabel: str, curves: dict[str, np.ndarray]) -> None:
    figure, axes = plt.subplots(figsize=(7.4, 3.9))
    for i, (method, of_seeds) in enumerate(curves.items()):
        x = np.arange(LAYERS) + 0.1 * (i - (len(curves) - 1) / 2)
        axes.plot(np.tile(x, (SEEDS, 1)), of_seeds, MARKERS[method], color=LOOK[method],
                  alpha=0.35, markersize=4)
        axes.plot(x, of_seeds.mean(axis=0), MARKERS[method], color=LOOK[method], label=method,
                  markersize=8)
    axes.set(xlabel="block", ylabel=ylabel, xticks=range(LAYERS))
    axes.set_title(title)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    figure.legend(loc="outside right upper")
    pictures.keep(figure, PICTURES, name)


print()
show("decorrelation", f"Feature decorrelation; penalties are on block {BLOCK} (small: each seed)",
     "FD", {name: values(name, "FD") for name in NAMES})
show("proxy", "Change of the median superposition proxy (small: each seed)",
     "% of its size before", {name: change(name) for name in METHODS})

# %%
# The claims
# ----------
# A claim shows if the interval over the networks, of the difference within each, is above 0; the
# opposite shows if it is below. All claims together hold with 95 %, so each interval is wider than
# in the tables. The authors' DecPO averages log π over the response's length and so needs far
# larger log-ratios for the same loss: its margin, a difference of sums, cannot be compared with
# DPO's. Its accuracy can.

CLAIMS = 1 + LAYERS + 8  # DPO: mean and each block; each DecPO: FD twice, two rewards


def verdict(claim: str, difference: np.ndarray, unit: str = "") -> None:
    answer, found = judge(difference, above="shows", below="the opposite shows", among=CLAIMS)
    print(
        f"{claim}: {answer}; {found.mean:+.3g} ±{found.half:.2g}{unit}, "
        f"above 0 in {(difference > 0).sum()} of {SEEDS}"
    )


print(f"\nClaims; ±: half of the interval over networks that holds for all {CLAIMS} with 95 %")
print("Published: DPO raises the proxies (their released scores: by under 1 %, last layers fall)")
verdict("  mean over blocks", change("DPO").mean(axis=1), " %")
for b in range(LAYERS):
    verdict(f"  block {b}", change("DPO")[:, b], " %")
print(f"Published: DecPO raises FD over DPO (block {BLOCK}, and mean over blocks)")
for name in ("DecPO (paper)", "DecPO (authors)"):
    difference = values(name, "FD") - values("DPO", "FD")
    verdict(f"  {name}, block {BLOCK}", difference[:, BLOCK])
    verdict(f"  {name}, all blocks", difference.mean(axis=1))
print("Published: DecPO aligns better than DPO (here: reward of held-out pairs)")
for name in ("DecPO (paper)", "DecPO (authors)"):
    for measure in ("reward accuracy", "reward margin"):
        verdict(f"  {name}, {measure}", values(name, measure) - values("DPO", measure))

# %%
# Two facts need no experiment. The authors' penalty is a sum of ``|z_i| |z_j|``: its gradient pulls
# every activation towards 0, and it has no optimum where inputs are orthogonal. And whether the
# paper's ||Z Zᵀ - I||² compares samples or features makes no difference: the two differ by a
# constant. Both, seen in the activations of the last reference network:


def gradient(**how) -> np.ndarray:
    rows = mm.tensor(z.astype(np.float64), requires_grad=True)
    decorrelation.decorrelation_penalty(rows, **how).backward()
    return rows.grad


print("\nPenalties on a batch before tuning, with their weights (DPO's loss there is log 2 = 0.69)")
for name, penalty in zip([*METHODS][2:], np.transpose(penalties), strict=True):
    print(f"  {name:16} {cell(penalty)}")
toward = np.sign(gradient(convention="authors")) == np.sign(z)
samples, features = gradient(over="samples"), gradient(over="features")
print(f"Activations that a step against the authors' penalty shrinks: {toward.mean():.1%}")
print(
    "Largest difference between the gradients over samples and over features: "
    f"{abs(samples - features).max() / abs(samples).max():.1e} of the largest gradient"
)
