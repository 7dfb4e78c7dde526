"""What the paper claims about deactivation (Wang, Di, Chen, Ng, KDD 2024), checked by numbers.

Naive (b) moves a flagged activation z away from its mean, reversed deactivation (RD) towards it,
naive (a) teaches the layers below nothing. Lemma 3.3 says when RD does so for certain. Here are
networks where this holds, with closed forms; networks where it does not; and three gaps of the
lemma's proof.

Throughout, "the underlying z" is the activation before it is replaced, computed again after one
step of gradient descent. Notation of the lemma: df = dL/dz' at z' = mean, and dg = the gradient of
z by the weights that make it, which is Lipschitz with constant L.

Each docstring says what is checked and its status: published (the paper), derived (follows by
algebra), or our choice.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

import minimono as mm
from minimono import functional as F
from minimono.gradcheck import check_grads
from minimono.mono import MEmeL, ScaleTracker, deactivate, select_top_k
from minimono.nn import Linear, Sequential, taps

REVERSED, NAIVE_A, NAIVE_B = 1.0, 0.0, -1.0
FLAGGED = np.array([[True]])


def descend(parameters, step) -> None:
    """One step of gradient descent, w <- w - step dL/dw."""
    for p in parameters:
        p.data = p.data - step * p.grad


# ------------------------------------------------------------------ one neuron, closed form


@pytest.mark.parametrize("strength", [REVERSED, NAIVE_A, NAIVE_B, 4.0])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("inputs", [1, 3])
def test_one_step_moves_z_by_the_factor_one_minus_d_delta(inputs, bias, strength) -> None:
    """z = w x + b with L = c (z' - z)^2 / 2: after one step z - mean has become (1 - d delta)
    (z - mean), delta = step c (|x|^2 + 1 with a bias). So RD goes towards by 1 - delta, naive (b)
    away by 1 + delta, naive (a) nowhere. It is nearer than before if 0 < d delta < 2: strength 4
    overshoots in some of these cases. Published in prose; delta and the condition are derived."""
    for seed in range(25):
        rng = np.random.default_rng(seed)
        layer = Linear(inputs, 1, rng=rng, bias=bias, dtype=np.float64)
        x = mm.tensor(rng.standard_normal((1, inputs)))
        c, step = rng.uniform(0.5, 2.0), rng.uniform(1e-4, 1e-1)
        z = layer(x)
        mean = z.data[0] + rng.standard_normal(1)
        out = deactivate(z, FLAGGED, mean, strength=strength)
        (0.5 * c * (out - z.detach()) ** 2.0).sum().backward()
        descend(layer.parameters(), step)

        delta = step * c * ((x.data**2).sum() + bias)
        before, after = (z.data - mean).item(), (layer(x).data - mean).item()
        rounding = 1e-15 * (abs(mean.item()) + abs(z.item()) + abs(x.data).sum())
        assert abs(after - (1 - strength * delta) * before) <= 4 * rounding
        assert delta > 1e-6  # far above the rounding
        if strength == NAIVE_A:
            assert after == before
        else:
            assert (abs(after) < abs(before)) == (0 < strength * delta < 2)


@pytest.mark.parametrize("convention", ["paper", "authors"])
@pytest.mark.parametrize("strength", [REVERSED, NAIVE_A, NAIVE_B])
def test_the_same_through_the_whole_module(strength, convention) -> None:
    """A trained layer of 6 neurons with MEmeL behind it, one sample: the flagged neuron's z - mean
    gets the factor 1 - d delta, with the mean that MEmeL used; all other neurons' weights stay as
    they were, bit for bit. Published in prose; delta is derived."""
    step = 0.05
    for seed in range(10):
        rng = np.random.default_rng(seed)
        layer = Linear(3, 6, rng=rng, dtype=np.float64)
        module = MEmeL(k=1, strength=strength, start_after=2, convention=convention)
        network = Sequential(layer, module)
        for _ in range(2):
            network(mm.tensor(rng.standard_normal((16, 3))))
        x = mm.tensor(rng.standard_normal((1, 3)))
        target = mm.tensor(layer(x).data)  # trained: what the layer says is right
        (0.5 * (network(x) - target) ** 2.0).sum().backward()
        old_weight = layer.weight.data
        descend(layer.parameters(), step)

        flagged = module.last.flagged[0]
        assert flagged.sum() == 1
        delta = step * ((x.data**2).sum() + 1)
        before = (target.data[0] - module.last.mean)[flagged]
        after = (layer(x).data[0] - module.last.mean)[flagged]
        np.testing.assert_allclose(after, (1 - strength * delta) * before, rtol=1e-12)
        assert np.array_equal(layer.weight.data[~flagged], old_weight[~flagged])
        assert np.array_equal(layer.weight.data[flagged], old_weight[flagged]) == (not strength)


def test_many_steps_meet_the_mean_or_flee_it() -> None:
    """Repeated with the target renewed, n steps give (1 - d delta)^n: RD shrinks the distance
    geometrically, naive (b) blows it up. Derived."""
    step, n, x, mean = 0.1, 30, 1.5, np.array([0.2])
    delta = step * x**2
    for strength in (REVERSED, NAIVE_A, NAIVE_B):
        w = mm.tensor([[1.0]], requires_grad=True)
        for _ in range(n):
            w.grad = None
            z = w * x
            out = deactivate(z, FLAGGED, mean, strength=strength)
            (0.5 * (out - z.detach()) ** 2.0).sum().backward()
            descend([w], step)
        expected = (1 - strength * delta) ** n * (1.0 * x - 0.2)
        np.testing.assert_allclose((w.data * x - 0.2).item(), expected, rtol=1e-12)


# ------------------------------------------------------ naive (a): nothing for those below


@pytest.mark.parametrize("activation", ["tanh", "gelu", "relu"])
def test_naive_a_leaves_the_layers_below_without_gradient(activation) -> None:
    """With the whole layer flagged every parameter below has gradient exactly 0 and every one above
    does not; RD and (b) send down gradients that are each other's negative. Published in prose."""
    rng = np.random.default_rng(1)
    net = mm.models.MLP((5, 7, 6, 4, 3), rng=rng, activation=activation, dtype=np.float64)
    x, old = (mm.tensor(rng.standard_normal((8, 5))) for _ in range(2))
    target = rng.integers(0, 3, 8)
    gradients = {}
    for strength in (REVERSED, NAIVE_A, NAIVE_B):
        net.zero_grad()
        taps.insert(net, "hidden.1.act", MEmeL(k=6, strength=strength, start_after=1,
                                               compensation=1.0))
        net(old)
        out = net(x)
        F.cross_entropy(out, target).backward()
        assert taps.remove(net, "hidden.1.act").last.flagged.all()
        gradients[strength] = {name: p.grad for name, p in net.named_parameters()}
    below = [name for name in gradients[NAIVE_A] if name.startswith(("hidden.0", "hidden.1"))]
    assert len(below) == 4
    for name, gradient in gradients[NAIVE_A].items():
        assert (not gradient.any()) == (name in below), name
        assert gradients[REVERSED][name].any(), name
        sign = -1 if name in below else 1
        np.testing.assert_array_equal(gradients[REVERSED][name], sign * gradients[NAIVE_B][name])


def test_naive_a_cuts_the_flagged_paths_and_no_other() -> None:
    """With one activation of each sample flagged, the gradient below is that of a network whose
    flagged activations are constants; the gradient of RD and (b) lies at equal distances on either
    side of it. Derived: all three are linear in the strength."""
    rng = np.random.default_rng(2)
    layer, head = (Linear(5, 5, rng=rng, dtype=np.float64) for _ in range(2))
    x = mm.tensor(rng.standard_normal((8, 5)))
    mask = select_top_k(rng.random((8, 5)), 1)
    mean = rng.standard_normal(5)

    def gradient(treat):
        layer.zero_grad()
        (head(treat(layer(x).tanh())).tanh() ** 2.0).sum().backward()
        return layer.weight.grad

    def cut(z):
        return z * mm.tensor(1.0 * ~mask) + mm.tensor(np.where(mask, mean, 0.0))

    a, b, rd = (
        gradient(lambda z, s=s: deactivate(z, mask, mean, strength=s))
        for s in (NAIVE_A, NAIVE_B, REVERSED)
    )
    np.testing.assert_allclose(a, gradient(cut), rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(rd - a, a - b, rtol=1e-11, atol=1e-14)
    assert abs(rd - a).max() > 0.01


# --------------------------------------------------------------- a random network, many seeds


def movement(seed, strength, activation, *, trained):
    """How much nearer (negative) or further the flagged z of a batch are from their means after one
    step, relative to the distance, on average, in an MLP with two hidden layers."""
    rng = np.random.default_rng(seed)
    net = mm.models.MLP((8, 16, 16, 4), rng=rng, activation=activation, dtype=np.float64)
    old, x = (mm.tensor(rng.standard_normal((b, 8))) for b in (64, 32))
    own = net(x).data
    target = mm.tensor(own if trained else own.std() * rng.standard_normal(own.shape))
    module = MEmeL(k=1, strength=strength, start_after=1)
    taps.insert(net, "hidden.1.act", module)
    net(old)
    ((net(x) - target) ** 2.0).sum(axis=1).mean().backward()
    descend(net.parameters(), 0.01)
    taps.remove(net, "hidden.1.act")
    with taps.read(net, "hidden.1.act") as seen:
        net(x)
    flagged, mean = module.last.flagged, module.last.mean
    before = abs(module.last.activations - mean)[flagged]
    return (abs(seen["hidden.1.act"].data - mean)[flagged] / before - 1).mean()


@pytest.mark.parametrize("activation", ["tanh", "gelu", "relu"])
def test_in_a_trained_random_network_rd_moves_towards_and_b_away(activation) -> None:
    """In 30 of 30 random MLPs whose outputs are right, one step of RD brings the flagged z of a
    batch nearer to their means on average, one step of naive (b) takes them further, and naive (a)
    moves them at most a sixth as much. Published in prose; the numbers are for these seeds."""
    moved = {
        s: np.array([movement(seed, s, activation, trained=True) for seed in range(30)])
        for s in (REVERSED, NAIVE_A, NAIVE_B)
    }
    assert (moved[REVERSED] < 0).all()
    assert (moved[NAIVE_B] > 0).all()
    assert abs(moved[NAIVE_A].mean()) < abs(moved[REVERSED].mean()) / 6


@pytest.mark.parametrize("activation", ["tanh", "gelu", "relu"])
def test_in_an_untrained_network_there_is_no_such_order(activation) -> None:
    """With random targets, where the loss is not minimal, the task's own gradient decides: naive
    (b) brings the flagged z nearer to their means on average, as RD does, and each of the two takes
    them further in some seeds. Derived: the lemma's assumption is needed. For these 40 seeds."""
    for strength in (REVERSED, NAIVE_B):
        moved = [movement(seed, strength, activation, trained=False) for seed in range(40)]
        assert np.mean(moved) < 0
        assert 0.5 < np.mean(np.less(moved, 0)) < 0.9


# --------------------------------------------------- Lemma 3.3: networks that meet it


@dataclass
class Member:
    """A network z = tanh(W x + b), o = f2(z), with a sample whose output o is right."""

    layer: Linear
    x: mm.Tensor  # (1, D)
    loss: Callable[[mm.Tensor], mm.Tensor]  # of the layer's activations (1, n)
    flagged: np.ndarray  # (1, n), one of them
    mean: np.ndarray  # (n,)

    def activations(self) -> mm.Tensor:
        return self.layer(self.x).tanh()

    @property
    def z(self) -> float:
        """The underlying activation that is flagged."""
        return self.activations().data[self.flagged].item()

    @property
    def centre(self) -> float:
        return self.mean[self.flagged[0]].item()

    def loss_at(self, value) -> mm.Tensor:
        """L(f2(.)) with the flagged activation set to a value, the others as they are."""
        kept = mm.tensor(np.where(self.flagged, 0.0, self.activations().data))
        return self.loss(kept + mm.tensor(1.0 * self.flagged) * value)

    def df(self) -> float:
        """dL/dz' at z' = mean."""
        return mm.grad(self.loss_at)(mm.tensor(self.centre)).item()

    def dg(self) -> np.ndarray:
        """The gradient of z by its own weights and bias, (D + 1,)."""
        self.layer.zero_grad()
        (self.activations() * mm.tensor(1.0 * self.flagged)).sum().backward()
        row = self.flagged[0]
        return np.append(self.layer.weight.grad[row], self.layer.bias.grad[row])

    def lipschitz(self) -> float:
        """Of dg: the largest |tanh''|, which is 4 / (3 sqrt 3), times |(x, 1)|^2."""
        return 4 / (3 * 3**0.5) * ((self.x.data**2).sum() + 1)

    def z_after(self, step, strength) -> float:
        """The flagged z after one step through deactivation; the network is put back."""
        self.layer.zero_grad()
        self.loss(
            deactivate(self.activations(), self.flagged, self.mean, strength=strength)
        ).backward()
        old = [p.data for p in self.layer.parameters()]
        descend(self.layer.parameters(), step)
        moved = self.z
        for p, data in zip(self.layer.parameters(), old, strict=True):
            p.data = data
        return moved


def linear_head(rng, n):
    """Squared error of a linear read-out: L = |V (z' - z)|^2 / 2."""
    readout = mm.tensor(rng.standard_normal((n, 3)))
    return lambda z: z @ readout, lambda o, right: 0.5 * ((o - right) ** 2.0).sum()


def monotone_head(rng, n):
    """Squared error of a read-out through a hidden layer with positive weights."""
    into = mm.tensor(rng.uniform(0.1, 1.0, (n, 5)) / n**0.5)
    out = mm.tensor(rng.uniform(0.1, 1.0, (5, 1)))
    shift = mm.tensor(rng.standard_normal(5))
    return (
        lambda z: (z @ into + shift).tanh() @ out,
        lambda o, right: 0.5 * ((o - right) ** 2.0).sum(),
    )


def softmax_head(rng, n):
    """Cross-entropy to the distribution that the network itself gives."""
    readout = mm.tensor(rng.standard_normal((n, 4)))
    return lambda z: z @ readout, lambda o, right: -(F.softmax(right) * F.log_softmax(o)).sum()


HEADS = [linear_head, monotone_head, softmax_head]


def member(head, seed, inputs=4, neurons=6) -> Member:
    """A random one. Means and flags come from a history of 50 samples, as in training."""
    rng = np.random.default_rng(seed)
    layer = Linear(inputs, neurons, rng=rng, dtype=np.float64)
    x = mm.tensor(rng.standard_normal((1, inputs)))
    network, loss = head(rng, neurons)
    right = network(layer(x).tanh()).detach()  # trained: the target is the output
    tracker = ScaleTracker()
    tracker.score(layer(mm.tensor(rng.standard_normal((50, inputs)))).tanh().data)
    mean = tracker.mean
    flagged = select_top_k(tracker.score(layer(x).tanh().data), 1)
    return Member(layer, x, lambda z: loss(network(z), right), flagged, mean)


SEEDS = range(60)


@pytest.mark.parametrize("head", HEADS)
def test_the_family_is_trained_relies_on_z_and_its_loss_grows_with_distance(head) -> None:
    """The lemma's assumptions on the loss hold in every member: at the true z the gradient of all
    weights is 0; the loss there is the least; it grows strictly with |z' - z| on both sides, to
    well beyond the mean. Published: the assumptions."""
    for seed in SEEDS:
        m = member(head, seed)
        z, reach = m.z, 1.5 * abs(m.centre - m.z)
        m.loss(m.activations()).backward()
        assert max(abs(p.grad).max() for p in m.layer.parameters()) < 1e-14
        at_z = m.loss_at(z).item()
        for side in (-1, 1):
            losses = [m.loss_at(z + side * t).item() for t in np.linspace(0, reach, 21)]
            assert (np.diff(losses) > 0).all()
            assert losses[0] == pytest.approx(at_z, abs=1e-15)
        assert m.loss_at(m.centre).item() > at_z + 1e-9


def test_the_family_is_smooth() -> None:
    """The lemma's assumptions on z hold: it is twice differentiable in its weights, and its
    gradient is Lipschitz with L = 4 / (3 sqrt 3) |(x, 1)|^2. Published: the assumption; L is
    derived, and attained."""
    for seed in range(3):
        m = member(linear_head, seed)

        def z_of(weight, bias, m=m):
            return (F.linear(m.x, weight, bias).tanh() * mm.tensor(1.0 * m.flagged)).sum()

        check_grads(z_of, m.layer.weight.data, m.layer.bias.data, order=2)

    m = member(linear_head, 0)
    row, direction = m.flagged[0], np.append(m.x.data, 1.0)
    ratios = []
    for t in np.linspace(-2, 2, 201):  # along (x, 1) the pre-activation passes every bend
        points = []
        for shift in (t, t + 1e-3):
            w = np.append(m.layer.weight.data[row], m.layer.bias.data[row])
            w = w - direction * (w @ direction - shift) / (direction @ direction)
            twin = member(linear_head, 0)
            twin.layer.weight.data[row], twin.layer.bias.data[row] = w[:-1], w[-1]
            points.append((w, twin.dg()))
        (w1, g1), (w2, g2) = points
        ratios.append(np.linalg.norm(g2 - g1) / np.linalg.norm(w2 - w1))
    assert 0.999 * m.lipschitz() < max(ratios) <= m.lipschitz() * (1 + 1e-9)


@pytest.mark.parametrize("head", HEADS)
def test_the_gradient_at_the_mean_points_from_z_to_the_mean(head) -> None:
    """sign dL/dz' = sign(mean - z): descending through the reversed sign raises z where the mean is
    above it and lowers it where it is below. Derived: the checkable form of Lemma 3.3."""
    sides = set()
    for seed in SEEDS:
        m = member(head, seed)
        assert np.sign(m.df()) == np.sign(m.centre - m.z) != 0
        sides.add(np.sign(m.df()))
    assert sides == {-1, 1}


@pytest.mark.parametrize("head", HEADS)
def test_below_the_corrected_bound_rd_moves_z_towards_its_mean(head) -> None:
    """For steps below 2 / (L |df|), RD moves z towards its mean, by at least step |df| |dg|^2 (1 -
    step L |df| / 2); naive (b) moves it away, (a) not at all. Published: Lemma 3.3, for a small
    enough step; the bound and the amount are derived."""
    for seed in SEEDS:
        m = member(head, seed)
        z, df, slope = m.z, m.df(), (m.dg() ** 2).sum()
        towards = np.sign(m.centre - z)
        bound = 2 / (m.lipschitz() * abs(df))
        for share in (1e-3, 0.1, 0.5, 0.9, 0.999):
            step = share * bound
            at_least = step * abs(df) * slope * (1 - share)
            assert at_least > 1e-12  # else only rounding would be seen
            assert towards * (m.z_after(step, REVERSED) - z) >= at_least - 1e-15
            assert towards * (m.z_after(step, NAIVE_B) - z) <= -at_least + 1e-15
            assert m.z_after(step, NAIVE_A) == z


def test_small_steps_move_z_by_the_first_order_term() -> None:
    """As the step shrinks the movement of z tends to step df |dg|^2, for any strength times d.
    Derived."""
    for head in HEADS:
        m = member(head, 7)
        step = 1e-4 / (m.lipschitz() * abs(m.df()))
        expected = step * m.df() * (m.dg() ** 2).sum()
        for d in (1.0, -1.0, 3.0):
            moved = m.z_after(step, d) - m.z
            np.testing.assert_allclose(moved, d * expected, rtol=1e-3)


# ------------------------------------------- Lemma 3.3: networks that do not meet it


def step_through_rd(z_of, w, mean, loss, step) -> tuple[float, float]:
    """z before and after one step of RD, for z = z_of(w) and L = loss(z', z)."""
    weight = mm.tensor([[w]], requires_grad=True)
    z = z_of(weight)
    loss(deactivate(z, FLAGGED, np.array([mean])), z.detach()).sum().backward()
    descend([weight], step)
    return z.item(), z_of(weight).item()


def scaled(w):
    return w * 1.0


STEPS = [1e-1, 1e-3, 1e-6]


@pytest.mark.parametrize("step", STEPS)
def test_without_a_growing_loss_rd_moves_z_away(step) -> None:
    """f2(z) = z^2 with L = (z'^2 - z^2)^2 / 2 is trained, smooth and relies on z = 2, but its loss
    is 0 again at -2, so it does not grow with |z' - z|. With mean -1/2, df = +15/4 while mean is
    below z: RD moves z from 2 to 2 + step 15/4, away, however small the step. Derived."""

    def loss(out, z):
        return 0.5 * (out * out - z * z) ** 2.0

    grid = [loss(mm.tensor(2.0 - t), mm.tensor(2.0)).item() for t in np.linspace(0, 4, 41)]
    assert grid[0] == 0 < max(grid)
    assert abs(grid[-1]) < 1e-12
    z, moved = step_through_rd(scaled, 2.0, -0.5, loss, step)
    np.testing.assert_allclose(moved, 2 + step * 15 / 4, rtol=1e-15)
    assert abs(moved + 0.5) > abs(z + 0.5)


@pytest.mark.parametrize("step", STEPS)
def test_without_a_minimal_loss_rd_moves_z_away(step) -> None:
    """L = z'^2 / 2, target 0, is not minimal at z = 3. With mean 1, df = 1: RD moves z from 3 to
    3 + step, away from the mean; naive (b), here plain descent with a stale gradient, moves it
    towards. Derived."""

    def loss(out, z):
        return 0.5 * out * out

    z, moved = step_through_rd(scaled, 3.0, 1.0, loss, step)
    np.testing.assert_allclose(moved, 3 + step, rtol=1e-15)
    assert abs(moved - 1) > abs(z - 1)
    weight = mm.tensor([[3.0]], requires_grad=True)
    out = deactivate(scaled(weight), FLAGGED, np.array([1.0]), strength=NAIVE_B)
    loss(out, None).sum().backward()
    descend([weight], step)
    np.testing.assert_allclose(weight.item(), 3 - step, rtol=1e-15)


def test_without_relying_on_z_nothing_moves() -> None:
    """If the output does not use z, df = 0 and RD leaves z where it is, exactly. Derived."""

    def loss(out, z):
        return 0.5 * (0.0 * (out - z)) ** 2.0

    z, moved = step_through_rd(scaled, 3.0, 1.0, loss, 0.5)
    assert moved == z == 3.0


# --------------------------------------------------------------- gaps of the lemma's proof


def bowed(w):
    """z = w - w^2 / 2: at w = 0 it is 0, with dg = 1 and dg Lipschitz with L = 1."""
    return w - 0.5 * w * w


def squared(c):
    """L = c (z' - z)^2 / 2, whose df at the mean is c (mean - z)."""
    return lambda out, z: 0.5 * c * (out - z) ** 2.0


def test_the_printed_bound_is_too_large_and_the_corrected_one_is_sharp() -> None:
    """Where z lies below its mean the proof's quadratic term lacks the factor df^2, which makes the
    bound 2 |df| / L in place of 2 / (L |df|). With z = w - w^2 / 2, mean 1, df = 4: 8 in place of
    1/2. Steps of 0.6 and 7.9 move z away; 0.49 towards; 1/2 leaves it. Derived."""
    df, lipschitz = 4.0, 1.0
    printed, corrected = 2 * df / lipschitz, 2 / (lipschitz * df)
    assert (printed, corrected) == (8.0, 0.5)
    for step in (0.1, 0.49, 0.5, 0.6, 7.9):
        z, moved = step_through_rd(bowed, 0.0, 1.0, squared(df), step)
        assert z == 0.0
        np.testing.assert_allclose(moved, df * step - (df * step) ** 2 / 2, rtol=1e-13, atol=1e-15)
        assert (moved > 0) == (step < corrected)
        assert step < printed
    assert step_through_rd(bowed, 0.0, 1.0, squared(df), 0.5)[1] == 0.0
    np.testing.assert_allclose(step_through_rd(bowed, 0.0, 1.0, squared(df), 0.49)[1], 0.0392)
    np.testing.assert_allclose(step_through_rd(bowed, 0.0, 1.0, squared(df), 0.6)[1], -0.48)


def test_with_a_small_slope_the_printed_bound_is_only_too_strict() -> None:
    """For |df| < 1 the printed bound is the smaller one: with df = 1/4 it is 1/2, yet steps up to 8
    move z towards. Derived."""
    for step in (0.4, 0.6, 7.9):
        assert step_through_rd(bowed, 0.0, 1.0, squared(0.25), step)[1] > 0
    assert step_through_rd(bowed, 0.0, 1.0, squared(0.25), 8.1)[1] < 0


def test_a_strictly_growing_loss_may_still_be_flat_at_the_mean() -> None:
    """L = u^2/2 - u^4/2 + u^6/6 with u = z' - z grows strictly with |u|, since L' = u (u^2 - 1)^2,
    but is flat at |u| = 1. If that is where the mean is, df = 0 and RD does not move z: the lemma
    needs df != 0. Derived."""

    def loss(out, z):
        u = out - z
        return u * u * 0.5 - u**4.0 * 0.5 + u**6.0 * (1 / 6)

    grid = [loss(mm.tensor(t), mm.tensor(0.0)).item() for t in np.linspace(0, 2, 81)]
    assert (np.diff(grid) > 0).all()
    slope = mm.grad(lambda out: loss(out, mm.tensor(0.0)))
    assert abs(slope(mm.tensor(1.0)).item()) < 1e-15
    z, moved = step_through_rd(scaled, 2.0, 3.0, loss, 0.5)
    assert moved == z
    z, moved = step_through_rd(scaled, 2.0, 3.1, loss, 0.5)  # a little beyond, it does
    assert moved > z


def test_where_no_weight_moves_z_nothing_does() -> None:
    """z = 1 + w^2 at w = 0 is smooth, but dg = 0: whatever the loss, z stays. So it is for an input
    x = 0 without a bias, and for a dead ReLU. The lemma needs dg != 0. Derived."""
    for z_of in (lambda w: 1.0 + w * w, lambda w: w * 0.0, lambda w: F.relu(w - 1.0)):
        z, moved = step_through_rd(z_of, 0.0, 3.0, squared(1.0), 0.5)
        assert moved == z


def test_nothing_rules_out_overshooting() -> None:
    """Towards is a direction, not an approach. A linear z has L = 0, so the lemma allows any step:
    delta = 3 puts z at twice its old distance beyond the mean. With a bend, z = w - w^2/2, mean
    0.1 and df = 0.1, a step of 5, a quarter of the bound, takes z from 0 to 0.375, further off than
    before. Derived; the proof only asserts that there is no overshoot."""
    z, moved = step_through_rd(scaled, 2.0, 1.0, squared(1.0), 3.0)
    assert (z, moved) == (2.0, -1.0)
    assert abs(moved - 1) == 2 * abs(z - 1)

    bound = 2 / (1.0 * 0.1)
    z, moved = step_through_rd(bowed, 0.0, 0.1, squared(1.0), bound / 4)
    np.testing.assert_allclose(moved, 0.375, rtol=1e-13)
    assert abs(moved - 0.1) > abs(z - 0.1)


@pytest.mark.parametrize("strength", [1.0, 2.0, 10.0])
def test_strength_multiplies_the_step_and_so_divides_the_bound(strength) -> None:
    """Strength d acts on the weights below as a step d times as large: z ends where a step of d
    times the size ends, and the bound becomes 2 / (d L |df|). Derived."""
    for head in HEADS:
        m = member(head, 11)
        step = 0.3 / (m.lipschitz() * abs(m.df()))
        np.testing.assert_allclose(
            m.z_after(step, strength), m.z_after(strength * step, REVERSED), rtol=1e-12
        )
    c = 4.0
    for share, towards in ((0.98, True), (1.2, False)):
        weight = mm.tensor([[0.0]], requires_grad=True)
        z = bowed(weight)
        out = deactivate(z, FLAGGED, np.array([1.0]), strength=strength)
        squared(c)(out, z.detach()).sum().backward()
        descend([weight], share * 2 / (strength * c))
        assert (bowed(weight).item() > 0) == towards
