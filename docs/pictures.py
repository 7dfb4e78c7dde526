"""Draw the pictures of the pages: `make pictures`. They are committed; the build only shows them.

Each is computed here by the same means as on its page. Backgrounds are transparent, and greys and
colours (Okabe and Ito's, for colour-blind readers too) are chosen to read on white and on black.
"""

import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import matplotlib
import numpy as np

import minimono as mm
from minimono.experiments.measurement import null_density
from minimono.experiments.pictures import GREEN, GREY, RED, style
from minimono.mono import Moments, monosemantic_scale

matplotlib.use("svg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap

FOLDER = Path(__file__).parent / "pictures"
BLUE, ORANGE = "#2b8cc4", "#e08a00"  # for white and black; the other colours do for both
SHADES = LinearSegmentedColormap.from_list("shades", ["#ffffff", "#8cc4e4", "#00466e"])
STYLE = style(11, on_dark=True) | {"axes.titlelocation": "center", "lines.linewidth": 2}


def save(name: str) -> None:
    FOLDER.mkdir(exist_ok=True)
    plt.savefig(FOLDER / f"{name}.svg", metadata={"Date": None}, bbox_inches="tight")
    plt.close()


def arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], **style: object) -> None:
    style = {"arrowstyle": "-|>", "mutation_scale": 14, "lw": 1.4, "color": GREY} | style
    ax.annotate("", xy=end, xytext=start, arrowprops=style)


def tape() -> None:
    """y = x tanh(w x + b) as a graph, with values and gradients."""
    x, w, b = 2.0, 0.5, -0.5
    u, s = w * x, w * x + b
    t = math.tanh(s)
    by_s = x * (1 - t * t)
    nodes = {  # name: place, value, gradient
        "$x$": (0, 2, x, t + by_s * w), "$w$": (0, 1, w, by_s * x), "$b$": (0, 0, b, by_s),
        "$wx$": (1.25, 1, u, by_s), "$wx+b$": (2.5, 0.5, s, by_s), "tanh": (4.1, 0.5, t, x),
        "$y$": (5.4, 1.25, x * t, 1.0),
    }
    edges = [
        ("$x$", "$wx$", w), ("$w$", "$wx$", x), ("$wx$", "$wx+b$", 1.0), ("$b$", "$wx+b$", 1.0),
        ("$wx+b$", "tanh", 1 - t * t), ("tanh", "$y$", x), ("$x$", "$y$", t),
    ]
    _, ax = plt.subplots(figsize=(7.7, 3.2))
    for start, end, slope in edges:
        (x0, y0, *_), (x1, y1, *_) = nodes[start], nodes[end]
        length = math.hypot(x1 - x0, y1 - y0)
        dx, dy = 0.36 * (x1 - x0) / length, 0.30 * (y1 - y0) / length
        arrow(ax, (x0 + dx, y0 + dy), (x1 - dx, y1 - dy))
        # beside the middle of the arrow, farther where it is steep
        above = 0.08 + 0.12 * abs(y1 - y0) / length
        ax.text((x0 + x1) / 2 + above / 2, (y0 + y1) / 2 + above, f"{slope:.3g}", ha="center")
    for name, (px, py, value, gradient) in nodes.items():
        ax.plot(px, py, "o", ms=46, mfc="none", mec=GREY, mew=1.2)
        ax.text(px, py + 0.11, name, ha="center", va="center", fontsize=9)
        ax.text(px, py - 0.04, f"{value:.3g}".replace("-", "−"), ha="center", va="center",
                weight="bold", fontsize=10)
        ax.text(px, py - 0.18, f"{gradient:.4g}", ha="center", va="center", color=RED, fontsize=10)
    ax.set(xlim=(-0.4, 5.8), ylim=(-0.4, 2.4))
    ax.axis("off")
    save("tape")


def arrows() -> None:
    """What each way of deactivating hands on to z of the pull that its replacement feels."""
    _, axes = plt.subplots(3, 1, figsize=(6, 4.6))
    rules = (("naive (a)", 0.0, "nothing is handed on"),
             ("naive (b)", 1.0, "handed on as it is: away from the mean"),
             ("reversed", -1.0, "turned round: towards the mean"))
    for ax, (name, sign, words) in zip(axes, rules, strict=True):
        mean, z = 1.0, 3.0
        ax.plot([0, 5], [0, 0], color=GREY, lw=1)
        ax.plot([mean, mean], [-0.12, 0.12], color=GREY, lw=1.5)
        ax.text(mean, -0.42, "$z'$ = mean", ha="center")
        ax.text(z, -0.42, "$z$", ha="center")
        ax.plot(z, 0, "o", mfc="none", mec=BLUE, mew=2, ms=10)
        ax.plot(mean, 0, "o", color=BLUE, ms=10)
        arrow(ax, (mean + 0.12, 0.28), (mean + 1.1, 0.28), color=ORANGE, lw=2.5)
        ax.text(mean + 0.2, 0.45, "the loss pulls $z'$ back", color=ORANGE)
        if sign:
            arrow(ax, (z + 0.15 * sign, 0), (z + 1.1 * sign, 0), color=RED, lw=2.5, zorder=5)
        ax.text(3.35, -0.42, words, color=RED)
        ax.text(0, 0.45, name, weight="bold")
        ax.set(xlim=(-0.05, 6.1), ylim=(-0.6, 0.75))
        ax.axis("off")
    save("arrows")


def digits_against_offset() -> None:
    """Correct digits of the variance of 1,000 values that swing by 1 about an offset."""

    def exact_variance(z: np.ndarray) -> Fraction:
        exact = [Fraction(float(x)) for x in z]
        mean = sum(exact) / len(exact)
        return sum((x - mean) ** 2 for x in exact) / (len(exact) - 1)

    def short_formula(z: np.ndarray) -> float:
        total = squares = z.dtype.type(0)
        for x in z:
            total += x
            squares += x * x
        m = z.dtype.type(len(z))
        return float((squares - total * total / m) / (m - 1))

    def welford(z: np.ndarray) -> float:
        mean = m2 = 0.0
        for i, x in enumerate(z.tolist(), start=1):
            delta = x - mean
            mean += delta / i
            m2 += delta * (x - mean)
        return m2 / (len(z) - 1)

    def in_batches(z: np.ndarray) -> float:
        moments = Moments.empty(())
        for i in range(0, len(z), 20):
            moments = moments.update(z[i : i + 20])
        return float(moments.variance())

    def two_passes(z: np.ndarray) -> float:
        with mm.reference():
            return float(Moments.of(z).variance())

    def digits(way: Callable[[np.ndarray], float], z: np.ndarray) -> float:
        error = abs(Fraction(way(z)) / exact_variance(z) - 1)
        return 16.0 if error == 0 else min(max(-math.log10(error), 0.0), 16.0)

    swings = np.random.default_rng(0).standard_normal(1000)
    powers = np.arange(9)
    lines = {
        "two passes": (two_passes, np.float64, GREEN, "o"),
        "batches, merged": (in_batches, np.float64, BLUE, "s"),
        "Welford": (welford, np.float64, GREY, "v"),
        "short formula, float64": (short_formula, np.float64, ORANGE, "D"),
        "short formula, float32": (short_formula, np.float32, RED, "^"),
    }
    _, ax = plt.subplots(figsize=(6, 4.2))
    for label, (way, dtype, colour, marker) in lines.items():
        shown = powers if dtype == np.float64 else powers[:7]  # beyond, float32 has lost the swing
        found = [digits(way, (10.0 ** int(p) + swings).astype(dtype)) for p in shown]
        ax.plot(shown, found, color=colour, marker=marker, label=label)
    ax.set(xlabel="offset of the values", ylabel="correct digits", ylim=(-0.5, 16.8))
    ax.set_yticks(range(0, 17, 4))
    ax.set_xticks(powers, [f"$10^{p}$" for p in powers])
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2, labelcolor="linecolor")
    save("digits-against-offset")


def phi_against_null() -> None:
    """log10 phi of a Gaussian neuron and of one that fires once in a hundred inputs."""
    m, rng = 1000, np.random.default_rng(0)
    gaussian = rng.standard_normal((200_000, 1))
    firing = np.zeros((200_000, 1))
    firing[::100] = 1.0
    bins = np.arange(-4.0, 3.01, 0.1)
    centres = (bins[:-1] + bins[1:]) / 2
    # The share of values in each bin.
    null = null_density(centres, m) * (bins[1] - bins[0])
    _, axes = plt.subplots(2, 1, figsize=(6, 4.8), sharex=True, sharey=True)
    for ax, z, colour, name in (
        (axes[0], gaussian, BLUE, "a Gaussian neuron"),
        (axes[1], firing, RED, "a neuron that fires once in 100 inputs"),
    ):
        history = Moments.of(z).resized(m)
        phi = monosemantic_scale(z, history.mean, history.variance())
        share, _ = np.histogram(np.log10(phi), bins)
        ax.stairs(share / z.size, bins, fill=True, color=colour, alpha=0.55)
        ax.plot(centres, null, "--", color=GREY, label="the null, F(1, m − 1)")
        ax.set_title(name, loc="left", color=colour)
        ax.set(yscale="log", ylim=(3e-6, 3), ylabel="share of values")
    axes[0].legend(loc="upper right", labelcolor=GREY)
    axes[1].set(xlabel="$\\log_{10}\\ \\varphi$")
    axes[1].annotate("rest: 1/99", (math.log10(1 / 99) + 0.05, 0.5), (-1.4, 0.5), va="center",
                     arrowprops={"arrowstyle": "-", "color": GREY})
    axes[1].annotate("firing: 99", (math.log10(99) - 0.05, 0.008), (0.6, 0.5), va="center",
                     arrowprops={"arrowstyle": "-", "color": GREY})
    save("phi-against-null")


if __name__ == "__main__":
    with plt.rc_context(STYLE):
        tape()
        arrows()
        digits_against_offset()
        phi_against_null()
