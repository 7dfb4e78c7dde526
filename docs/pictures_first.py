"""Draw the pictures of the pages from broadcasting to neurons: `python docs/pictures_first.py`.

In the style of `pictures.py`, which says why: transparent, grey text, Okabe and Ito's colours.
"""

from collections.abc import Iterator

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from pictures import BLUE, GREEN, GREY, ORANGE, RED, SHADES, STYLE, arrow, save

import minimono as mm
from minimono.backend import Array
from minimono.data import World, orthogonal_directions, plant
from minimono.nn import taps
from minimono.nn.training import train


def grid(ax: Axes, at: tuple[float, float], numbers: Array, colour: str) -> None:
    """A matrix as a grid of cells, its upper left corner `at`."""
    x, y = at
    for i, j in np.ndindex(numbers.shape):
        ax.add_patch(plt.Rectangle((x + j, y - i - 1), 1, 1, fc="none", ec=colour, lw=1.2))
        ax.text(x + j + 0.5, y - i - 0.5, f"{numbers[i, j]:g}", ha="center", va="center",
                color=colour, fontsize=12)


def broadcasting() -> None:
    """A row and a column, repeated going forward and added up going back."""
    g = np.array([[1, 0, 2], [3, 1, 0], [0, 2, 1], [1, 1, 4]])
    _, axes = plt.subplots(2, 1, figsize=(6, 6.6))
    for ax, small, axis in ((axes[0], np.array([[10, 20, 30]]), 0),
                            (axes[1], np.array([[1], [2], [3], [4]]) * 100, 1)):
        repeated, total = np.broadcast_to(small, g.shape), g.sum(axis=axis, keepdims=True)
        left = 3.0 - small.shape[1]
        grid(ax, (left, 4), small, BLUE)
        grid(ax, (5.5, 4), repeated, BLUE)
        grid(ax, (5.5, -1.2), g, ORANGE)
        grid(ax, (left, -1.2), total, ORANGE)
        arrow(ax, (3.2, 3.5), (5.3, 3.5), color=BLUE, lw=2)
        arrow(ax, (5.3, -1.7), (3.2, -1.7), color=ORANGE, lw=2)
        ax.text(4.25, 3.2, "repeated", color=BLUE, ha="center", va="top")
        ax.text(4.25, -2.0, "added up", color=ORANGE, ha="center", va="top")
        shape = ("(3,)", "(4, 1)")[axis]
        ax.text(-0.3, 4.35, f"forward: {shape} to (4, 3)", color=BLUE, weight="bold")
        ax.text(-0.3, -0.85, f"backward: (4, 3) to {shape}", color=ORANGE, weight="bold")
        ax.set(xlim=(-0.4, 9), ylim=(-5.4, 5))
        ax.axis("off")
    plt.subplots_adjust(hspace=0.1)
    save("broadcasting")


def signal_by_depth() -> None:
    """Root mean square behind each layer of ReLU neurons, by the variance of the weights."""
    depth, width = 20, 128
    lines = ((4.0, RED, "^"), (2.0, GREEN, "o"), (1.0, BLUE, "s"), (1 / 3, ORANGE, "D"))
    _, ax = plt.subplots(figsize=(5, 3.8))
    for scale, colour, marker in lines:
        rng = np.random.default_rng(1)
        h = rng.standard_normal((64, width))
        sizes = []
        for _ in range(depth):
            weights = (scale / width) ** 0.5 * rng.standard_normal((width, width))
            h = np.maximum(h @ weights.T, 0.0)
            sizes.append((h**2).mean() ** 0.5)
        ax.plot(range(1, depth + 1), sizes, color=colour, marker=marker, markevery=3)
        name = {1 / 3: "1/3"}.get(scale, f"{scale:g}")
        ax.text(depth + 0.5, sizes[-1], f"n v = {name}", color=colour, va="center")
    ax.set(yscale="log", xlabel="layer", ylabel="root mean square")
    ax.set_xticks((1, 5, 10, 15, 20))
    save("signal-by-depth")


def what_a_position_sees() -> None:
    """Weights of two heads, and the gradient of each output by each input."""
    rng = np.random.default_rng(0)
    T, C, H = 6, 8, 2
    causal = mm.nn.MultiHeadAttention(C, H, rng=rng, causal=True, dtype=np.float64)
    two_way = mm.nn.MultiHeadAttention(C, H, rng=rng, dtype=np.float64)
    x = 2.0 * rng.standard_normal((1, T, C))

    qkv = causal.qkv(mm.tensor(x)).data.reshape(T, 3, H, C // H).transpose(1, 2, 0, 3)
    scores = qkv[0] @ qkv[1].swapaxes(-1, -2) / (C // H) ** 0.5  # (H, T, T)
    masked = np.where(np.tri(T, dtype=bool), scores, -np.inf)
    weights = mm.functional.softmax(mm.tensor(masked)).data

    def sees(layer: mm.nn.Module) -> Array:
        table = np.zeros((T, T))
        for t in range(T):
            inputs = mm.tensor(x, requires_grad=True)
            layer(inputs)[0, t].sum().backward()
            assert inputs.grad is not None
            table[t] = np.linalg.norm(inputs.grad[0], axis=-1)
        return table

    panels = (
        ("weights, head 0", weights[0]), ("weights, head 1", weights[1]),
        ("gradient, causal", sees(causal)), ("gradient, no mask", sees(two_way)),
    )
    _, axes = plt.subplots(2, 2, figsize=(6, 6.2))
    for ax, (title, table) in zip(axes.flat, panels, strict=True):
        heat_map(ax, table, title)
        ax.set(xlabel="looked at", ylabel="looks")
    plt.tight_layout()
    save("what-a-position-sees")


def heat_map(ax: Axes, table: Array, title: str) -> None:
    """Cells by size, each with its own frame, so that white cells show in dark mode as well."""
    ax.pcolormesh(table, cmap=SHADES, vmin=0.0, vmax=table.max(), edgecolors="#b0b0b0", lw=0.6)
    ax.set_xticks(np.arange(table.shape[1]) + 0.5, [str(i) for i in range(table.shape[1])])
    ax.set_yticks(np.arange(len(table)) + 0.5, [str(i) for i in range(len(table))])
    ax.tick_params(length=0)
    ax.invert_yaxis()
    ax.set_title(title)


def spirals(samples: int, rng: np.random.Generator) -> tuple[Array, Array]:
    arm = rng.integers(0, 3, samples)
    radius = rng.uniform(0.2, 1.0, samples)
    angle = 4 * radius + 2 * np.pi / 3 * arm + 0.15 * rng.standard_normal(samples)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1), arm


def loss_curve() -> None:
    """The spirals, with four ways to step, three seeds each."""
    steps, window = 300, 20

    def curve(way: str, seed: int) -> Array:
        rng = np.random.default_rng(seed)
        model = mm.models.MLP((2, 32, 32, 3), activation="gelu", rng=rng, dtype=np.float64)
        optimiser: mm.optim.Optimiser
        if way.startswith("Adam"):
            optimiser = mm.optim.Adam(model.parameters(), lr=1e-2)
        else:
            momentum = 0.9 if "momentum" in way else 0.0
            optimiser = mm.optim.SGD(model.parameters(), lr=0.1, momentum=momentum)

        def batches() -> Iterator[tuple[Array, Array]]:
            while True:
                yield spirals(64, rng)

        def loss(model: mm.nn.Module, x: Array, arm: Array) -> mm.Tensor:
            return mm.functional.cross_entropy(model(mm.tensor(x)), arm)

        def schedule(step: int) -> float:
            return mm.optim.cosine_schedule(step, steps=steps, warmup=20, peak=1e-2)

        records = train(model, batches(), loss, optimiser, steps=steps,
                        schedule=schedule if "schedule" in way else None)
        losses = np.array([record.loss for record in records])
        return np.convolve(losses, np.ones(window) / window, "valid")

    ways = (("SGD", ORANGE, "-"), ("SGD, momentum", GREEN, "--"),
            ("Adam, schedule", RED, "-."), ("Adam", BLUE, "-"))
    _, ax = plt.subplots(figsize=(6, 4.2))
    ax.axhline(np.log(3), color=GREY, lw=1, ls=":")
    for way, colour, dashes in ways:
        for seed in range(3):
            ax.plot(range(window, steps + 1), curve(way, seed), dashes, color=colour, lw=1.4,
                    label=way if seed == 0 else None)
    ax.set(xlabel="step", ylabel="loss, nats", yscale="log")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2, labelcolor="linecolor")
    save("loss-curve")


def neurons_of(model: mm.nn.Module, x: Array) -> Array:
    with mm.no_grad(), taps.read(model, "hidden.0.act") as seen:
        model(mm.tensor(x))
    return seen["hidden.0.act"].data


KINDS = [("monosemantic", (2,)), ("polysemantic", (0, 3)), ("antipodal", (1, 4)),
         ("distributed", ()), ("noisy", (5,)), ("dead", (2,))]


def neurons() -> None:
    """Histograms of planted neurons; what features do to them and to trained ones."""
    rng = np.random.default_rng(0)
    world = World(orthogonal_directions(6, 8, rng=rng), 0.1, noise=0.1)
    inputs, features = world.sample(5000, rng=rng)
    layer = plant(world, KINDS, rng=rng)
    z = layer.activations(inputs)

    bins = np.arange(0.0, 3.61, 0.1)
    _, axes = plt.subplots(4, 1, figsize=(6, 6.6), sharex=True)
    for neuron, ax in enumerate(axes):
        kind, named = KINDS[neuron]
        has = features[:, (named or (0,))[0]]
        parts = (z[~has, neuron], ORANGE, 0.45), (z[has, neuron], BLUE, 0.85)
        for values, colour, alpha in parts:
            counts, _ = np.histogram(values, bins)
            ax.stairs(counts / len(inputs), bins, fill=True, color=colour, alpha=alpha)
        ax.set(yscale="log", ylim=(1e-4, 2))
        ax.set_title(kind, loc="left")
    axes[-1].set(xlabel="activation")
    axes[0].text(3.6, 0.5, "with its first feature", color=BLUE, ha="right", weight="bold")
    axes[0].text(3.6, 0.09, "without", color=ORANGE, ha="right", weight="bold")
    axes[1].set_ylabel("share of inputs")
    plt.tight_layout()
    save("activation-histogram")

    rng = np.random.default_rng(0)
    larger = World(orthogonal_directions(8, 8, rng=rng), 0.1, noise=0.05)
    model = mm.models.MLP((8, 16, 8), rng=rng, dtype=np.float64)

    def batches() -> Iterator[tuple[Array, Array]]:
        while True:
            yield larger.sample(128, rng=rng)

    def loss(model: mm.nn.Module, x: Array, present: Array) -> mm.Tensor:
        difference = model(mm.tensor(x)) - mm.tensor(present.astype(float))
        return (difference * difference).mean()

    optimiser = mm.optim.Adam(model.parameters(), lr=1e-2)
    for _ in train(model, batches(), loss, optimiser, steps=600):
        pass
    _, axes = plt.subplots(2, 1, figsize=(6, 6.4), height_ratios=(6, 8))
    heat_map(axes[0], layer.activations(world.directions), "planted")
    axes[0].set_xticks(np.arange(6) + 0.5, ("mono", "poly", "antip.", "distr.", "noisy", "dead"))
    heat_map(axes[1], neurons_of(model, larger.directions), "trained")
    for ax in axes:
        ax.set_ylabel("feature, alone")
    axes[1].set_xlabel("neuron")
    plt.tight_layout()
    save("feature-heat-map")


if __name__ == "__main__":
    with plt.rc_context(STYLE):
        broadcasting()
        signal_by_depth()
        what_a_position_sees()
        loss_curve()
        neurons()
