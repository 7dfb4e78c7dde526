"""Draw the picture of `misunderstanding.md`: `python docs/pictures_two_signs.py`.

In the style of `pictures.py`: transparent, grey text. The networks are those of the page's first
seed.
"""

import numpy as np
from matplotlib import pyplot as plt
from pictures import GREY, SHADES, STYLE, save

import minimono as mm
from minimono.data import World, orthogonal_directions
from minimono.engine.primitives import log
from minimono.mono import select_top_fraction
from minimono.nn import taps
from minimono.nn.optim import Adam
from minimono.nn.training import train

LAYER = "hidden.0.act"


def responses(c: float) -> np.ndarray:
    """What each feature, alone, adds to each neuron of the network trained with c: (24, 12)."""
    rng = np.random.default_rng(0)
    world = World(orthogonal_directions(12, 16, rng=rng), 0.1, noise=0.1)
    model = mm.models.MLP((16, 24, 12), rng=rng, dtype=np.float64)

    def loss(model, x, features):
        with taps.read(model, LAYER) as seen:
            answer = model(mm.tensor(x))
        z = seen[LAYER]
        task = ((answer - features) ** 2).mean()
        if not c:
            return task
        distance = z - z.mean(axis=0)
        squared = distance * distance
        phi = squared / (squared.mean(axis=0) + 1e-6)
        chosen = select_top_fraction(phi.data, 0.02, per="batch")
        return task + c * log(phi[np.nonzero(chosen)]).mean()

    def batches():
        while True:
            x, features = world.sample(64, rng=rng)
            yield x, features.astype(float)

    for _ in train(model, batches(), loss, Adam(model.parameters(), 5e-3), steps=150):
        pass
    with mm.no_grad(), taps.read(model, LAYER) as seen:
        model(mm.tensor(world.directions))
    return seen[LAYER].data.T  # (F, neurons) -> (neurons, F)


def two_signs() -> None:
    """Each neuron's response to each feature alone, over its highest."""
    _, axes = plt.subplots(1, 3, figsize=(7.2, 4.4), sharey=True)
    for ax, (name, c) in zip(
        axes, {"inhibited": 0.03, "plain": 0.0, "rewarded": -0.03}.items(), strict=True
    ):
        z = responses(c)
        z = z / np.maximum(z.max(axis=1, keepdims=True), 1e-12)
        order = np.lexsort((-z.max(axis=1), z.argmax(axis=1)))
        ax.imshow(z[order], cmap=SHADES, vmin=0, vmax=1, aspect="auto")
        ax.set(title=name, xlabel="feature", xticks=(0, 5, 11), yticks=())
        ax.spines[["top", "right"]].set_visible(True)
    axes[0].set_ylabel("24 neurons, by favourite feature", color=GREY)
    plt.tight_layout()
    save("two-signs")


if __name__ == "__main__":
    with plt.rc_context(STYLE):
        two_signs()
