"""Draw the pictures of the pages from L2E to the known world: `python docs/pictures_second.py`.

In the style of `pictures.py`, which says why: transparent, grey text, Okabe and Ito's colours.
"""

from statistics import NormalDist

import numpy as np
from matplotlib import pyplot as plt
from pictures import BLUE, GREEN, GREY, ORANGE, RED, STYLE, arrow, save

import minimono as mm
from minimono.data import World, draw_neurons, orthogonal_directions, plant, roc_auc
from minimono.mono import Moments, monosemantic_scale


def l2e_threshold() -> None:
    """A threshold that is moved by a count, for three rates, against the true top 2 %."""
    true, batches = NormalDist().inv_cdf(1 - 0.02 / 2) ** 2, 600
    size = np.where(np.arange(batches) < batches // 2, 1.0, 4.0)
    _, ax = plt.subplots(figsize=(6, 3.8))
    for rate, colour in ((0.2, GREEN), (0.05, BLUE), (0.01, ORANGE)):
        rng, tau, path = np.random.default_rng(0), true / 10, []
        for factor in size:
            path.append(tau)
            share = (factor * rng.standard_normal(512) ** 2 >= tau).mean()
            tau *= 1 + rate * (share / 0.02 - 1)
        ax.plot(path, color=colour, lw=1.4, label=f"rate {rate}")
    ax.plot(true * size, "--", color=GREY, lw=1.6, label="top 2 %")
    ax.set(yscale="log", xlabel="batch", ylabel="threshold τ")
    ax.set_yticks([0.5, 1, 2, 5, 10, 20], ["0.5", "1", "2", "5", "10", "20"])
    ax.minorticks_off()
    ax.legend(loc="lower right", labelcolor="linecolor")
    save("l2e-threshold")


def l2e_pull() -> None:
    """The slopes of log d² and of d², by the distance d from the mean."""
    edge = NormalDist().inv_cdf(1 - 0.02 / 2)  # |d| / S of the top 2 % of a Gaussian neuron
    d = np.linspace(0.25, 6, 300)
    _, ax = plt.subplots(figsize=(6, 3.6))
    for slope, colour, name, at in (
        (2 / d, BLUE, "of log d²:  2 / d", (4.2, 0.9)), (2 * d, RED, "of d²:  2 d", (2.7, 8.2)),
    ):
        ax.plot(d[d < edge], slope[d < edge], ":", color=colour)
        ax.plot(d[d >= edge], slope[d >= edge], color=colour, lw=3)
        ax.text(*at, name, color=colour)
    ax.axvspan(0, edge, color=GREY, alpha=0.15, lw=0)
    ax.text(0.1, 10.8, "below the threshold:\nleft alone", va="top")
    ax.set(xlim=(0, 6), ylim=(0, 11), ylabel="pull towards the mean",
           xlabel="distance d from the mean, in standard deviations")
    save("l2e-pull")


def superposition_pentagon() -> None:
    """Five features in a plane, and where the neuron of the first starts to fire."""
    c = np.cos(2 * np.pi / 5)
    r, b = 1 / (1 - c), c / (c - 1)
    _, ax = plt.subplots(figsize=(4.8, 4.2))
    ax.axvspan(-b, 2.3, color=BLUE, alpha=0.12, lw=0)
    ax.axvline(-b, color=BLUE, ls="--", lw=1.6)
    ax.text(-b + 0.12, 0.6, "fires:\nbeyond −b = 0.447", color=BLUE)
    ax.text(-b - 0.75, -1.72, "silent", ha="right")
    for n in range(5):
        angle = 2 * np.pi * n / 5
        tip = (r * np.cos(angle), r * np.sin(angle))
        arrow(ax, (0, 0), tip, color=ORANGE if n == 0 else GREY, lw=2, shrinkA=0, shrinkB=0)
        at = (1.13 * tip[0] - 0.25 * (n in (1, 4)), 1.13 * tip[1])
        ax.text(*at, f"{n + 1}", ha="center", va="center", color=ORANGE if n == 0 else GREY)
    arrow(ax, (0, -0.14), (1, -0.14), color=BLUE, lw=2.4)
    ax.text(0.8, -0.22, "w", color=BLUE, ha="center", va="top")
    ax.set(xlim=(-1.6, 2.3), ylim=(-1.8, 1.8), aspect="equal")
    ax.axis("off")
    save("superposition-pentagon")


def decorrelation_descent() -> None:
    """Two codes, followed downhill on the published penalty and on the authors' form."""
    start = np.array([[1.5, 0.5], [1.0, 1.0]])
    _, axes = plt.subplots(1, 2, figsize=(6.4, 3.5), sharey=True)
    for ax, convention, name in (
        (axes[0], "paper", "published"), (axes[1], "authors", "authors' code"),
    ):
        path = [start]
        for _ in range(200):
            z = mm.tensor(path[-1], requires_grad=True)
            mm.mono.decorrelation_penalty(z, convention=convention).backward()
            path.append(path[-1] - 0.02 * z.grad)
        turn = np.linspace(0, 2 * np.pi, 200)
        ax.plot(np.cos(turn), np.sin(turn), color=GREY, lw=0.8, ls=":")
        for i, colour in enumerate((BLUE, ORANGE)):
            ax.plot(*np.array(path)[:, i].T, color=colour, lw=1.4)
            arrow(ax, (0, 0), tuple(start[i]), color=GREY, lw=1.2)
            arrow(ax, (0, 0), tuple(path[-1][i]), color=colour, lw=2.6, shrinkA=0, shrinkB=0)
        ax.set_title(name)
        ax.set(xlim=(-0.35, 1.65), ylim=(-0.45, 1.25), aspect="equal")
        ax.axis("off")
    save("decorrelation-descent")


def circuits_rho() -> None:
    """Inputs with two meanings: by neurons that the unit does not read, and by its circuit."""
    rng, inputs = np.random.default_rng(0), 60  # the layer of the page, drawn in the same order
    meaning = rng.integers(2, size=inputs)
    below = np.zeros((inputs, 8))
    below[np.arange(inputs), meaning] = rng.uniform(1, 2, inputs)
    below[:, 2:] = 3 * rng.random((inputs, 6)) * (rng.random((inputs, 6)) < 0.5)
    below += 0.2 * rng.random((inputs, 8))
    rho = below[:, :2] / below[:, :2].sum(axis=1, keepdims=True)  # both weights are 1
    _, axes = plt.subplots(1, 2, figsize=(6.6, 3.4))
    for ax, points, name, labels in (
        (axes[0], below[:, 2:4], "layer below", ("neuron 2", "neuron 3")),
        (axes[1], rho, "circuit", ("share of neuron 0", "share of neuron 1")),
    ):
        for m, colour, marker in ((0, BLUE, "o"), (1, ORANGE, "^")):
            ax.plot(*points[meaning == m].T, marker, color=colour, alpha=0.75, ms=7)
        ax.set_title(name)
        ax.set(xlabel=labels[0], ylabel=labels[1])
    axes[1].set(xlim=(-0.05, 1.05), ylim=(-0.05, 1.05))
    axes[1].text(0.12, 0.96, "meaning 1", color=ORANGE)
    axes[1].text(0.4, 0.08, "meaning 0", color=BLUE)
    plt.tight_layout()
    save("circuits-rho")


def emergence_paths() -> None:
    """The six paths of a network of four nodes, and which form counts which."""
    at = {"x": (0, 0.5), "h": (1, 1), "k": (1, 0), "y": (2, 0.5)}
    edges = ("xh", "xk", "hy", "ky")
    forms = {"xh": "A and B", "xhy": "A and B", "xk": "neither", "xky": "A", "hy": "neither",
             "ky": "A and B"}
    colours = {"A and B": BLUE, "A": ORANGE, "neither": GREY}
    _, axes = plt.subplots(2, 3, figsize=(6.6, 4.4))
    for ax, (path, form) in zip(axes.flat, forms.items(), strict=True):
        on_path = {path[i : i + 2] for i in range(len(path) - 1)}
        for edge in edges:
            (x0, y0), (x1, y1) = at[edge[0]], at[edge[1]]
            dx, dy = 0.2 * (x1 - x0), 0.2 * (y1 - y0)
            bold = {"color": colours[form], "lw": 3.2} if edge in on_path else {"lw": 0.8}
            arrow(ax, (x0 + dx, y0 + dy), (x1 - dx, y1 - dy), **bold)
        for name, (x, y) in at.items():
            awake = name in "hy"
            ax.plot(x, y, "o", ms=21, mfc=GREEN if awake else "none", mec=GREEN, mew=1.6)
            ax.text(x, y, name, ha="center", va="center", color="#ffffff" if awake else GREY)
        ax.set_title(f"{' - '.join(path)}: {form}", color=colours[form])
        ax.set(xlim=(-0.3, 2.3), ylim=(-0.3, 1.3))
        ax.axis("off")
    plt.tight_layout()
    save("emergence-paths")


def world_roc() -> None:
    """Extremes of phi: monosemantic neurons against each other kind, in the world of the page."""
    rng = np.random.default_rng(0)
    rng.random((5, 3)), rng.standard_normal((5, 4))  # what the page draws before
    probabilities = rng.permutation(np.geomspace(0.01, 0.2, 20))
    world = World(orthogonal_directions(20, 24, rng=rng), probabilities, noise=0.1)
    layer = plant(world, draw_neurons(world, 20, rng=rng), rng=rng)
    z = layer.activations(world.sample(10_000, rng=rng).inputs)
    history = Moments.of(layer.activations(world.sample(10_000, rng=rng).inputs))
    phi = monosemantic_scale(z, history.mean, history.variance())
    extreme = np.quantile(phi, 0.999, axis=0)
    positive = extreme[layer.kinds == "monosemantic"]
    _, ax = plt.subplots(figsize=(4.8, 5.4))
    ax.plot([0, 1], [0, 1], ":", color=GREY, lw=1.2)
    for kind, colour, style in (
        ("distributed", GREEN, "-"), ("antipodal", BLUE, "--"), ("polysemantic", ORANGE, "-."),
        ("noisy", RED, "-"),
    ):
        negative = extreme[layer.kinds == kind]
        thresholds = np.sort(np.concatenate([positive, negative]))[::-1, None]
        found, mistakes = ((g >= thresholds).mean(axis=1) for g in (positive, negative))
        area = roc_auc(positive, negative)
        ax.plot(np.append(0, mistakes), np.append(0, found), style, color=colour,
                label=f"{kind}, {area:.2f}")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, labelcolor="linecolor")
    ax.set(xlabel="share of the others, found by mistake", ylabel="share of monosemantic, found",
           xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    save("world-roc")


if __name__ == "__main__":
    with plt.rc_context(STYLE):
        l2e_threshold()
        l2e_pull()
        superposition_pentagon()
        decorrelation_descent()
        circuits_rho()
        emergence_paths()
        world_roc()
