"""Deactivation and the MEmeL module: values, gradients, state, errors.

Each docstring says what is checked and its status: published (the paper), authors' code, derived
(follows by algebra), or our choice.
"""

import copy
import re

import numpy as np
import pytest

import minimono as mm
from minimono import backend
from minimono.gradcheck import GradientError, check_grads
from minimono.mono import MEmeL, TopK, deactivate, select_top_k
from minimono.nn import Linear, Sequential, taps

STRENGTHS = [1.0, 0.0, -1.0, 7.5, 100.0]


def example(rng, shape=(6, 5), dtype=np.float64, size=1.0):
    """Activations, a mask with both kinds of places, and means."""
    z = (size * rng.standard_normal(shape)).astype(dtype)
    mask = rng.random(shape) < 0.4
    mask.flat[0], mask.flat[1] = True, False
    mean = size * rng.standard_normal(shape[1:])
    return z, mask, mean


def at_flagged(mean, mask):
    """The mean of each flagged place, in the order of `z[mask]`."""
    return np.broadcast_to(mean, mask.shape)[mask]


# ------------------------------------------------------------------------------- deactivate


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("shape", [(7,), (6, 5), (3, 4, 5), (2, 3, 4, 4)])
def test_the_value_is_the_mean_to_the_last_bit(shape, strength, dtype) -> None:
    """Flagged values are the mean (rounded once to z's dtype), others pass bit for bit, at
    |z| about 1000 too. Published: the value. Our choice: that it is free of rounding."""
    z, mask, mean = example(np.random.default_rng(1), shape, dtype, size=1e3)
    out = deactivate(mm.tensor(z), mask, mean, strength=strength).data
    assert out.dtype == dtype
    assert out.shape == shape
    assert out[mask].tobytes() == at_flagged(mean, mask).astype(dtype).tobytes()
    assert out[~mask].tobytes() == z[~mask].tobytes()


@pytest.mark.parametrize(("strength", "at_least"), [(1.0, 2e-5), (100.0, 2e-3)])
def test_the_formula_as_printed_is_off_the_mean(strength, at_least) -> None:
    """-d z + sg(mean + d z) in float32 misses the mean at |z| about 1000, ours does not.
    Derived: this is why the value is not computed as published."""
    rng = np.random.default_rng(2)
    z = (1e3 * rng.standard_normal((200, 5))).astype(np.float32)
    mean = rng.standard_normal(5).astype(np.float32)
    mask = np.ones(z.shape, bool)
    d = np.float32(strength)
    x = mm.tensor(z)
    printed = (x * -d + (x * d + mm.tensor(mean)).detach()).data
    ours = deactivate(x, mask, mean, strength=strength).data
    assert printed.dtype == ours.dtype == np.float32
    assert abs(printed - mean).max() > at_least
    assert (ours == mean).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("shape", [(7,), (6, 5), (2, 3, 4, 4)])
def test_the_gradient_is_minus_strength_where_flagged_and_upstream_elsewhere(
    shape, strength, dtype
) -> None:
    """dz'/dz = -d at flagged places, 1 elsewhere, exactly: nothing leaks from one place to
    another. Published (eqs. 10-12, App. E.3): -1, 0, +1 and -d."""
    rng = np.random.default_rng(3)
    z, mask, mean = example(rng, shape, dtype)
    upstream = rng.standard_normal(shape).astype(dtype)
    x = mm.tensor(z, requires_grad=True)
    deactivate(x, mask, mean, strength=strength).backward(upstream)
    assert x.grad.dtype == dtype
    assert np.array_equal(x.grad[mask], dtype(-strength) * upstream[mask])
    assert x.grad[~mask].tobytes() == upstream[~mask].tobytes()


@pytest.mark.parametrize("strength", STRENGTHS)
def test_the_gradient_is_that_of_the_published_formulas(strength) -> None:
    """-d z + sg(mean + d z), written with `detach` and differentiated by the engine, gives the
    same gradient through a network behind it. Published: the formulas."""
    rng = np.random.default_rng(4)
    z, mask, mean = example(rng)
    weight = rng.standard_normal((3, 5))

    def gradient(inhibit):
        x = mm.tensor(z, requires_grad=True)
        ((inhibit(x) @ mm.tensor(weight).T).tanh() ** 2.0).sum().backward()
        return x.grad

    ours = gradient(lambda x: deactivate(x, mask, mean, strength=strength))
    printed = gradient(
        lambda x: (
            x * mm.tensor(1.0 * ~mask)
            + (x * -strength + (x * strength + mm.tensor(mean)).detach()) * mm.tensor(1.0 * mask)
        )
    )
    np.testing.assert_allclose(ours, printed, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("strength", [1.0, -1.0, 7.5])
def test_finite_differences_disagree_where_flagged(strength) -> None:
    """The value does not depend on z at flagged places, so finite differences give 0 there, not
    -d: gradcheck must refuse. Derived; with d = 0, naive (a), the two agree."""
    z, mask, mean = example(np.random.default_rng(5))
    with pytest.raises(GradientError, match="gradient by argument 0"):
        check_grads(
            lambda x: deactivate(x, mask, mean, strength=strength), z, modes=("directional",)
        )
    check_grads(lambda x: deactivate(x, mask, mean, strength=0.0), z, modes=("directional",))

    h = 1e-3
    with mm.no_grad():
        moved = [deactivate(mm.tensor(z + s), mask, mean, strength=strength).data for s in (h, -h)]
    difference = (moved[0] - moved[1]) / (2 * h)
    assert (difference[mask] == 0.0).all()
    np.testing.assert_allclose(difference[~mask], 1.0, rtol=1e-10)


@pytest.mark.parametrize("strength", STRENGTHS)
def test_finite_differences_agree_where_nothing_is_flagged(strength) -> None:
    """With no place flagged it is the identity, first and second order. Published."""
    z, mask, mean = example(np.random.default_rng(6))
    nothing = np.zeros_like(mask)
    check_grads(
        lambda x: deactivate(x * x, nothing, mean, strength=strength).tanh(), z,
        order=2, modes=("directional",),
    )


@pytest.mark.parametrize("strength", STRENGTHS)
def test_the_second_order_goes_through_the_rule(strength) -> None:
    """For sum(z'^3) the first gradient is J 3 z'^2 and the gradient of its sum J^2 6 z', with J =
    -d where flagged and 1 elsewhere. Derived from the rule."""
    z, mask, mean = example(np.random.default_rng(7))

    def loss(x):
        out = deactivate(x, mask, mean, strength=strength)
        return (out * out * out).sum()

    jacobian = np.where(mask, -strength, 1.0)
    value = np.where(mask, mean, z)
    first = mm.grad(loss)(mm.tensor(z))
    second = mm.grad(lambda x: mm.grad(loss)(x).sum())(mm.tensor(z))
    np.testing.assert_allclose(first.data, jacobian * 3 * value**2, rtol=1e-14)
    np.testing.assert_allclose(second.data, jacobian**2 * 6 * value, rtol=1e-14)


def test_the_mean_may_be_an_array_or_a_tensor_with_or_without_the_batch_axis() -> None:
    """All four give the same; the mean is a constant, so a Tensor gets no gradient. Published: the
    stop-gradient. Our choice: the shapes."""
    z, mask, mean = example(np.random.default_rng(8), (3, 4, 5))
    out = deactivate(mm.tensor(z), mask, mean).data
    variable = mm.tensor(mean, requires_grad=True)
    for other in (mean[None], mm.tensor(mean), mm.tensor(mean[None]), variable):
        assert np.array_equal(deactivate(mm.tensor(z), mask, other).data, out)
    x = mm.tensor(z, requires_grad=True)
    deactivate(x, mm.tensor(mask), variable).sum().backward()
    assert variable.grad is None
    assert np.array_equal(deactivate(z, mask, mean).data, out)  # z an array: no tape


def test_whole_numbers_are_means_too() -> None:
    """An integer mean is taken as the float it is. Our choice."""
    out = deactivate(mm.tensor([[5.0, 2.0]]), np.array([[True, False]]), np.array([1, 1]))
    assert np.array_equal(out.data, [[1.0, 2.0]])


def test_nothing_and_everything_flagged() -> None:
    """The two ends: the identity, and every sample the mean. Published."""
    z, mask, mean = example(np.random.default_rng(9))
    assert np.array_equal(deactivate(mm.tensor(z), np.zeros_like(mask), mean).data, z)
    everything = deactivate(mm.tensor(z), np.ones_like(mask), mean).data
    assert np.array_equal(everything, np.broadcast_to(mean, z.shape))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"mask": np.zeros((6, 4), bool)}, ValueError, "mask has shape (6, 4), expected (6, 5)"),
        ({"mask": np.zeros(5, bool)}, ValueError, "mask has shape (5,), expected (6, 5)"),
        ({"mask": np.zeros((6, 5))}, TypeError, "mask has dtype float64, expected bool"),
        ({"mask": np.zeros((6, 5), int)}, TypeError, "mask has dtype int64, expected bool"),
        ({"mean": np.zeros(4)}, ValueError, "mean has shape (4,), expected (5,)"),
        ({"mean": np.zeros((6, 5))}, ValueError, "mean has shape (6, 5)"),
        ({"mean": np.float64(0.0)}, ValueError, "mean has shape ()"),
        ({"mean": np.zeros(5, complex)}, TypeError, "mean has dtype complex128"),
        ({"mean": np.array([None] * 5)}, TypeError, "mean has dtype object"),
        ({"z": np.zeros((6, 5), int)}, TypeError, "z has dtype int64, expected floats"),
        ({"z": np.array(1.0), "mask": np.array(True), "mean": np.ones(1)}, ValueError, "a single"),
        ({"strength": np.nan}, ValueError, "strength is nan, expected a finite number"),
        ({"strength": -np.inf}, ValueError, "strength is -inf, expected a finite number"),
        ({"strength": "1"}, TypeError, "strength is '1', expected a number"),
        ({"strength": True}, TypeError, "strength is True, expected a number"),
    ],
)
def test_errors_of_deactivate(change, error, message) -> None:
    """Bad input names the argument, what came and what was expected. Our choice."""
    arguments = {"z": np.zeros((6, 5)), "mask": np.zeros((6, 5), bool), "mean": np.zeros(5)}
    arguments |= change
    arguments["z"] = mm.tensor(arguments["z"])
    with pytest.raises(error, match="deactivate.*" + re.escape(message)):
        deactivate(**arguments)


# ------------------------------------------------------------------------------------ MEmeL


def feed(module, batches, dtype=np.float64):
    """The module's outputs for one batch after another."""
    return [module(mm.tensor(b, dtype=dtype)).data for b in batches]


def batches_of(rng, number, shape=(8, 5)):
    return [rng.standard_normal(shape) for _ in range(number)]


@pytest.mark.parametrize("convention", ["paper", "authors"])
@pytest.mark.parametrize("shape", [(4, 6), (3, 5, 4), (2, 3, 4, 5), (9,)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_shape_and_the_dtype_stay(shape, dtype, convention) -> None:
    """(B, C), (B, T, C), (B, C, H, W) and (B,) come out as they went in; every element that is not
    the batch axis is a neuron with its own mean; there are no parameters. Published."""
    module = MEmeL(start_after=2, convention=convention)
    outputs = feed(module, batches_of(np.random.default_rng(10), 5, shape), dtype)
    assert {out.shape for out in outputs} == {shape}
    assert {out.dtype for out in outputs} == {np.dtype(dtype)}
    assert module.last.flagged.shape == module.last.scale.shape == shape
    assert module.last.mean.shape == module.tracker.variance.shape == shape[1:]
    assert module.parameters() == []
    assert module.number_of_parameters() == 0


def test_a_call_is_scoring_selecting_and_deactivating() -> None:
    """One training call is exactly: score with the moments so far, flag the k highest of each
    sample, deactivate with the mean that scored them. Published: Algorithms 1 and 2."""
    rng = np.random.default_rng(11)
    module = MEmeL(k=2, strength=3.0, start_after=1)
    history, current = rng.standard_normal((20, 6)), rng.standard_normal((4, 6))
    module(mm.tensor(history))
    x = mm.tensor(current, requires_grad=True)
    out = module(x)
    out.backward(upstream := rng.standard_normal(out.shape))

    variance = history.var(axis=0, ddof=1)
    phi = (current - history.mean(axis=0)) ** 2 / (variance + 0.01 * variance.mean())
    flagged = np.zeros(phi.shape, bool)
    np.put_along_axis(flagged, np.argsort(phi, axis=1)[:, -2:], True, axis=1)
    np.testing.assert_allclose(module.last.scale, phi, rtol=1e-12)
    assert np.array_equal(module.last.flagged, flagged)
    assert np.array_equal(module.last.activations, current)
    np.testing.assert_allclose(module.last.mean, history.mean(axis=0), rtol=0, atol=1e-15)
    assert np.array_equal(out.data, np.where(flagged, module.last.mean, current))
    assert np.array_equal(x.grad, np.where(flagged, -3.0, 1.0) * upstream)


@pytest.mark.parametrize("convention", ["paper", "authors"])
def test_eval_is_the_identity_and_updates_nothing(convention) -> None:
    """At test the very tensor comes back and no state changes, whatever is in it. Published:
    inactive at test. Authors' code: nothing updated."""
    rng = np.random.default_rng(12)
    module = MEmeL(start_after=1, convention=convention)
    feed(module, batches_of(rng, 3))
    before, last = module.state_dict(), module.last
    module.eval()
    for bad in (rng.standard_normal((8, 5)), np.full((1, 3), np.nan), np.zeros((0, 2))):
        x = mm.tensor(bad)
        assert module(x) is x
    after = module.state_dict()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert module.last is last
    module.train()
    batch = rng.standard_normal((8, 5))
    assert not np.array_equal(module(mm.tensor(batch)).data, batch)
    assert module.tracker.batches_seen == 4


@pytest.mark.parametrize("convention", ["paper", "authors"])
@pytest.mark.parametrize("start_after", [1, 2, 5])
def test_inhibition_starts_after_start_after_training_calls(start_after, convention) -> None:
    """Calls 1..start_after return their very input; call start_after + 1 is the first to inhibit.
    Published: only after l_s batches. Authors' code: the same count."""
    module = MEmeL(start_after=start_after, convention=convention)
    for call, batch in enumerate(batches_of(np.random.default_rng(13), 8), start=1):
        x = mm.tensor(batch)
        out = module(x)
        assert (out is x) == (call <= start_after)
        assert (module.last is None) == (call <= start_after)
        assert np.array_equal(out.data, batch) == (call <= start_after)


def test_start_after_nothing_still_needs_one_batch_to_score_against() -> None:
    """start_after=0 inhibits at the second call: the first has no history. Published: phi is
    undefined without one."""
    rng = np.random.default_rng(14)
    module = MEmeL(start_after=0)
    first, second = batches_of(rng, 2)
    assert np.array_equal(feed(module, [first])[0], first)
    assert not np.array_equal(feed(module, [second])[0], second)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_k_of_each_sample(k) -> None:
    """Without ties exactly k activations of every sample are flagged, up to the whole layer.
    Authors' code (k = 1 per sample); published: larger k in the tuning grid."""
    rng = np.random.default_rng(15)
    module = MEmeL(k=k, start_after=1)
    feed(module, batches_of(rng, 4))
    assert (module.last.flagged.sum(axis=1) == k).all()


def test_ties_are_all_flagged() -> None:
    """Activations that tie with the k-th highest scale are flagged as well, so more than k.
    Authors' code; the paper says nothing of ties."""
    module = MEmeL(k=1, start_after=1)
    feed(module, [np.array([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])])
    out = feed(module, [np.array([[4.0, 4.0, 0.5], [4.0, 0.5, -3.0]])])[0]
    assert np.array_equal(module.last.flagged, [[True, True, False], [True, False, True]])
    assert np.array_equal(out, [[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]])


@pytest.mark.parametrize("convention", ["paper", "authors"])
def test_constant_neurons_are_never_flagged_without_compensation(convention) -> None:
    """A neuron without variance has no scale: nan, and is not flagged even if k covers the layer.
    Derived: phi is 0/0. Our choice: what then happens."""
    rng = np.random.default_rng(16)
    batches = batches_of(rng, 6)
    for batch in batches:
        batch[:, 2] = 0.1  # not a number that binary fractions hold
    module = MEmeL(k=5, start_after=1, compensation=0.0, convention=convention)
    outputs = feed(module, batches)
    assert np.isnan(module.last.scale[:, 2]).all()
    assert np.array_equal(module.last.flagged, np.arange(5) != np.full((8, 1), 2))
    assert (outputs[-1][:, 2] == 0.1).all()

    everything_constant = MEmeL(k=1, start_after=1, convention=convention)
    outputs = feed(everything_constant, [np.full((4, 3), 0.1)] * 3)
    assert not everything_constant.last.flagged.any()
    assert np.array_equal(outputs[-1], np.full((4, 3), 0.1))


def test_constant_neurons_with_compensation() -> None:
    """Compensation gives a neuron without variance a scale: 0 while it stays put, finite when it
    departs. Authors' code: it can then be flagged. Our choice for "paper": it is nan and is not."""
    rng = np.random.default_rng(17)
    batches = batches_of(rng, 3)
    for batch in batches:
        batch[:, 2] = 0.1
    departed = batches[0].copy()
    departed[:, 2] = 5.0

    theirs = MEmeL(k=4, start_after=1, convention="authors")
    feed(theirs, batches)
    assert (theirs.last.scale[:, 2] == 0.0).all()
    feed(theirs, [departed])
    assert theirs.last.flagged[:, 2].all()

    ours = MEmeL(k=5, start_after=1)
    feed(ours, batches)
    out = feed(ours, [departed])[0]
    assert np.isnan(ours.last.scale[:, 2]).all()
    assert not ours.last.flagged[:, 2].any()
    assert (out[:, 2] == 5.0).all()
    feed(ours, [departed])  # by now it has varied, and is scored like the others
    assert np.isfinite(ours.last.scale[:, 2]).all()


def test_batches_of_varying_size() -> None:
    """The batch axis may change from call to call, down to one sample; until older batches fade
    the moments are those of all samples together. Published: Lemma 3.2."""
    rng = np.random.default_rng(18)
    batches = [rng.standard_normal((b, 3)) for b in (5, 2, 9, 1, 4)]
    module = MEmeL(start_after=1)
    feed(module, batches)
    everything = np.concatenate(batches)
    assert module.tracker.count == len(everything)
    np.testing.assert_allclose(module.tracker.mean, everything.mean(axis=0), atol=1e-15)
    np.testing.assert_allclose(module.tracker.variance, everything.var(axis=0, ddof=1), rtol=1e-13)


@pytest.mark.parametrize("strength", [1.0, 0.0, -1.0])
def test_under_no_grad_the_moments_still_follow(strength) -> None:
    """`no_grad` is about gradients, `eval` about behaviour. Our choice, as for batch norm."""
    batches = batches_of(np.random.default_rng(19), 4)
    with_tape, without = (MEmeL(strength=strength, start_after=2) for _ in range(2))
    expected = feed(with_tape, batches)
    with mm.no_grad():
        outputs = feed(without, batches)
    assert np.array_equal(expected, outputs)
    assert without.tracker.batches_seen == 4


@pytest.mark.parametrize("convention", ["paper", "authors"])
def test_running_and_reading_version_agree(convention) -> None:
    """With the kernels switched off the module flags the same and its values are the same to
    rounding. Our choice: every kernel is held to its formula."""
    batches = batches_of(np.random.default_rng(20), 15, (4, 3, 5))
    running, reading = (MEmeL(k=2, start_after=3, convention=convention) for _ in range(2))
    fast = feed(running, batches)
    with mm.reference():
        slow = feed(reading, batches)
    np.testing.assert_allclose(fast, slow, rtol=1e-12, atol=1e-14)
    assert np.array_equal(running.last.flagged, reading.last.flagged)


# ------------------------------------------------------------------------------------ state


def small_network(rng, **options):
    return Sequential(
        Linear(4, 6, rng=rng, dtype=np.float64), MEmeL(**options),
        Linear(6, 6, rng=rng, dtype=np.float64), MEmeL(**options),
    )


def small_gpt(rng, **options):
    model = mm.models.GPT(
        vocabulary=11, context=5, channels=8, heads=2, layers=2, rng=rng, dtype=np.float64
    )
    taps.insert(model, "block.0.mlp.act", MEmeL(**options))
    taps.insert(model, "block.1.out", MEmeL(**options))
    return model


def network_inputs(kind, rng, number):
    if kind is small_gpt:
        return [rng.integers(0, 11, (3, 5)) for _ in range(number)]
    return [mm.tensor(rng.standard_normal((3, 4))) for _ in range(number)]


@pytest.mark.parametrize("convention", ["paper", "authors"])
@pytest.mark.parametrize("kind", [small_network, small_gpt])
def test_the_moments_are_saved_with_the_model(kind, convention) -> None:
    """A fresh model that loads the state goes on bit for bit, past warm-up, and leaves the first
    one's state alone. Our choice: the authors' module loses its state."""
    options = {"k": 2, "start_after": 2, "forget_after": 3, "convention": convention}
    model = kind(np.random.default_rng(21), **options)
    inputs = network_inputs(kind, np.random.default_rng(22), 9)
    for x in inputs[:5]:
        model(x)
    state = model.state_dict()
    extra = [name for name in state if name.rpartition(".")[2] in ("mean", "m2", "batches_seen")]
    assert len(extra) == 6

    fresh = kind(np.random.default_rng(99), **options)
    fresh.load_state_dict(state)
    kept = {name: values.copy() for name, values in state.items()}
    going_on = [model(x).data for x in inputs[5:]]
    assert np.array_equal(going_on, [fresh(x).data for x in inputs[5:]])
    for name, values in model.state_dict().items():
        assert np.array_equal(values, fresh.state_dict()[name]), name
    assert all(np.array_equal(state[name], kept[name]) for name in state)  # copies, not views


def test_a_model_saved_before_its_first_batch_loads_too() -> None:
    """The empty state is a state. Our choice."""
    module, fresh = MEmeL(), MEmeL()
    fresh(mm.tensor(np.random.default_rng(23).standard_normal((4, 3))))
    fresh.load_state_dict(module.state_dict())
    assert fresh.tracker.batches_seen == 0


def test_a_warm_up_call_leaves_no_older_report_behind() -> None:
    """`last` tells of the last training call: None while it does not inhibit, also in a module that
    did so before it loaded an earlier state. Our choice."""
    module = MEmeL(start_after=1)
    feed(module, batches_of(np.random.default_rng(30), 2))
    assert module.last is not None
    module.load_state_dict(MEmeL().state_dict())
    feed(module, batches_of(np.random.default_rng(30), 1))
    assert module.last is None


def test_modules_never_share_moments() -> None:
    """Two modules, two places in a network and a deep copy each have their own. Our choice."""
    rng = np.random.default_rng(24)
    one, other = MEmeL(), MEmeL()
    one(mm.tensor(rng.standard_normal((4, 3))))
    assert other.tracker.batches_seen == 0
    twin = copy.deepcopy(one)
    one(mm.tensor(rng.standard_normal((4, 3))))
    other(mm.tensor(rng.standard_normal((4, 7))))
    assert (one.tracker.count, twin.tracker.count, other.tracker.count) == (8, 4, 4)

    model = small_network(rng)
    model(mm.tensor(rng.standard_normal((5, 4))))
    trackers = [m.tracker for _, m in model.named_modules() if isinstance(m, MEmeL)]
    assert not np.array_equal(trackers[0].mean, trackers[1].mean)


def test_inserting_and_removing_leaves_the_network_as_it_was() -> None:
    """Switched off or taken out, the network computes what it did. Published: absent at test."""
    rng = np.random.default_rng(25)
    ids = rng.integers(0, 11, (3, 5))
    plain = mm.models.GPT(vocabulary=11, context=5, channels=8, heads=2, layers=2, rng=rng)
    expected = plain(ids).data
    taps.insert(plain, "block.0.mlp.act", MEmeL(start_after=1))
    plain(ids)
    assert not np.array_equal(plain(ids).data, expected)
    assert np.array_equal(plain.eval()(ids).data, expected)
    taps.remove(plain, "block.0.mlp.act")
    assert np.array_equal(plain.train()(ids).data, expected)


def test_the_state_follows_the_activations_to_the_gpu(monkeypatch) -> None:
    """A state on the host (loaded, say) is moved to the device of z before it takes z's place. Our
    choice. The device is only recorded here, so that no GPU is needed."""
    module = MEmeL(start_after=1)
    batch = np.random.default_rng(26).standard_normal((4, 3))
    feed(module, [batch])
    moved = []

    def recorded(moments, z):
        moved.append(z)
        return moments

    monkeypatch.setattr("minimono.mono.moments.Moments.beside", recorded)
    feed(module, [batch])
    assert len(moved) == 1
    assert moved[0].tobytes() == batch.tobytes()


@pytest.mark.gpu
@pytest.mark.parametrize("convention", ["paper", "authors"])
def test_on_a_gpu(convention) -> None:
    """The same flags and, to rounding, the same values and gradients on a GPU, also for a model
    that moved there after its first calls. Our choice."""
    host, device = (MEmeL(k=2, start_after=2, convention=convention) for _ in range(2))
    for call, batch in enumerate(batches_of(np.random.default_rng(27), 6)):
        x = mm.tensor(batch, requires_grad=True)
        y = mm.tensor(batch, requires_grad=True, device="cuda" if call > 1 else "cpu")
        out, moved = host(x), device(y)
        out.sum().backward()
        moved.sum().backward()
        np.testing.assert_allclose(out.data, backend.to_host(moved.data), rtol=1e-12)
        np.testing.assert_allclose(x.grad, backend.to_host(y.grad), rtol=1e-12)


# ----------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"k": 0}, ValueError, "MEmeL: k is 0, expected 1 or more"),
        ({"k": 1.0}, TypeError, "MEmeL: k is 1.0, expected a whole number"),
        ({"k": True}, TypeError, "MEmeL: k is True, expected a whole number"),
        ({"strength": np.inf}, ValueError, "MEmeL: strength is inf, expected a finite number"),
        ({"strength": np.nan}, ValueError, "MEmeL: strength is nan, expected a finite number"),
        ({"strength": "reversed"}, TypeError, "MEmeL: strength is 'reversed'"),
        ({"start_after": -1}, ValueError, "MEmeL: start_after is -1, expected 0 or more"),
        ({"start_after": 2.5}, TypeError, "MEmeL: start_after is 2.5"),
        ({"forget_after": 0}, ValueError, "forget_after is 0, expected 1 or more"),
        ({"compensation": -0.1}, ValueError, "compensation is -0.1"),
        ({"convention": "code"}, ValueError, "convention is 'code'"),
    ],
)
def test_errors_of_the_settings(options, error, message) -> None:
    """Settings that mean nothing are refused when the module is made. Our choice."""
    with pytest.raises(error, match=re.escape(message)):
        MEmeL(**options)


def test_numpy_numbers_are_settings_too() -> None:
    """k and strength may come from an array, as in a sweep. Our choice."""
    module = MEmeL(k=np.int64(2), strength=np.float32(1.0), start_after=np.int32(1))
    assert (module.k, module.strength, module.start_after) == (2, 1.0, 1)


BAD = {
    "nan": (np.where(np.eye(4, 5) == 1, np.nan, 1.0), ValueError, "neuron 0 of sample 0 is nan"),
    "infinity": (np.where(np.eye(4, 5, 1) == 1, np.inf, 1.0), ValueError, "neuron 1 of sample 0"),
    "other neurons": (np.ones((4, 6)), ValueError, "neurons of shape (6,), earlier batches had (5"),
    "another axis": (np.ones((4, 5, 1)), ValueError, "neurons of shape (5, 1)"),
    "empty batch": (np.ones((0, 5)), ValueError, "has shape (0, 5)"),
    "no batch axis": (np.array(1.0), ValueError, "is a single number"),
    "integers": (np.ones((4, 5), int), TypeError, "activations has dtype int64, expected floats"),
    "too few neurons": (np.ones((4, 1)), ValueError, "k is 2, expected at most 1, the neurons"),
}


@pytest.mark.parametrize("convention", ["paper", "authors"])
@pytest.mark.parametrize("name", BAD)
def test_bad_input_leaves_the_state_as_it_was(name, convention) -> None:
    """After an error the module goes on as if the call had not been. Our choice."""
    bad, error, message = BAD[name]
    batches = batches_of(np.random.default_rng(28), 5)
    module, undisturbed = (MEmeL(k=2, start_after=2, convention=convention) for _ in range(2))
    feed(module, batches[:4])
    before, last = module.state_dict(), module.last
    with pytest.raises(error, match=re.escape(message)):
        module(mm.tensor(bad))
    after = module.state_dict()
    assert all(np.array_equal(before[entry], after[entry]) for entry in before)
    assert module.last is last
    assert np.array_equal(feed(module, batches[4:]), feed(undisturbed, batches)[4:])


@pytest.mark.parametrize("convention", ["paper", "authors"])
def test_what_cannot_work_is_refused_at_the_first_call(convention) -> None:
    """A k larger than the layer, integers, and a first batch of one raise at once, not after the
    warm-up, and nothing is counted. Our choice."""
    for k, first, error, message in [
        (4, np.ones((2, 3)), ValueError, "MEmeL: k is 4, expected at most 3, the neurons of"),
        (7, np.ones((2, 3, 2)), ValueError, "at most 6, the neurons of activations (2, 3, 2)"),
        (1, np.ones((2, 3), int), TypeError, "activations has dtype int64"),
        (1, np.ones((1, 3)), ValueError, "the first batch has 1 sample"),
    ]:
        module = MEmeL(k=k, convention=convention)
        with pytest.raises(error, match=re.escape(message)):
            module(mm.tensor(first))
        assert module.tracker.batches_seen == 0


def test_the_selection_is_that_of_select_top_k() -> None:
    """The module's flags are `select_top_k` of the scale it reports. Our choice: one selection."""
    module = MEmeL(k=3, start_after=1)
    feed(module, batches_of(np.random.default_rng(29), 3, (4, 2, 5)))
    assert np.array_equal(module.last.flagged, select_top_k(module.last.scale, 3))


def test_defaults_are_those_of_the_documentation() -> None:
    module = MEmeL()
    assert (module.k, module.strength, module.start_after) == (1, 1.0, 10)
    tracker = module.tracker
    assert (tracker.convention, tracker.forget_after, tracker.compensation) == ("paper", 10, 0.01)
    z = mm.tensor(np.array([[5.0, 2.0]]), requires_grad=True)
    deactivate(z, np.array([[True, False]]), np.ones(2)).sum().backward()
    np.testing.assert_array_equal(z.grad, [[-1.0, 1.0]])


def test_k_and_select_are_two_ways_to_say_one_thing() -> None:
    assert MEmeL().k == MEmeL(select=TopK(1)).k == 1
    assert MEmeL(select=TopK(3)).k == 3
    assert MEmeL(select=lambda phi: phi > 9).k is None
    with pytest.raises(ValueError, match=r"MEmeL: k is 3 and select is TopK.*, expected one of"):
        MEmeL(3, select=TopK(1))
