"""Draw the pictures of the pages from L2E to the known world: `python docs/pictures_second.py`.

In the style of `pictures.py`, which says why: transparent, grey text, Okabe and Ito's colours.
"""

from statistics import NormalDist

import numpy as np
from matplotlib import pyplot as plt
from pictures import BLUE, GREEN, GREY, ORANGE, RED, STYLE, arrow, save


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
        (2 / d, BLUE, "of log d²:  2 / d", (4.2, 0.9)), (2 * d, RED, "of d²:  2 d", (3.1, 8.2)),
    ):  # fmt: skip
        ax.plot(d[d < edge], slope[d < edge], ":", color=colour)
        ax.plot(d[d >= edge], slope[d >= edge], color=colour, lw=3)
        ax.text(*at, name, color=colour)
    ax.axvspan(0, edge, color=GREY, alpha=0.15, lw=0)
    ax.text(0.1, 10.8, "below the threshold:\nleft alone", va="top")
    ax.set(xlabel="distance d from the mean, in standard deviations", ylabel="pull towards the mean",
           xlim=(0, 6), ylim=(0, 11))  # fmt: skip
    save("l2e-pull")


if __name__ == "__main__":
    with plt.rc_context(STYLE):
        l2e_threshold()
        l2e_pull()
