"""Rules of the user's own: functions and subclasses, whatever they return, wherever they fail."""

import decimal

import numpy as np
import pytest

import minimono as mm
from minimono import checks
from minimono.engine.tensor import Tensor
from minimono.mono import L2E, Above, MEmeL, MovingThreshold, Rule, ScaleTracker, TopK

BATCHES = [np.random.default_rng(seed).standard_normal((6, 5)) for seed in range(3)]


class Fixed(Rule):
    """Answers what it is told to."""

    def __init__(self, answer):
        self.answer = answer

    def __call__(self, phi):
        return self.answer


def modules(rule):
    return [MEmeL(select=rule, start_after=1), L2E(select=rule, start_after=1)]


BAD = {
    "one column": np.ones((6, 1), bool),
    "turned": np.ones((5, 6), bool),
    "no axes": np.array(True),
    "a bool": True,
    "numbers": np.ones((6, 5)),
    "integers": np.ones((6, 5), int),
    "objects": np.ones((6, 5), object),
    "indices": np.arange(6),
    "nothing": None,
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
@pytest.mark.parametrize("kind", ["function", "subclass"])
def test_a_mask_that_is_none_is_refused_and_nothing_is_changed(kind, bad) -> None:
    rule = Fixed(bad) if kind == "subclass" else lambda phi: bad
    tracker = ScaleTracker()
    tracker.score(BATCHES[0])
    for module in modules(rule):
        module(mm.tensor(BATCHES[0]))
        with pytest.raises((TypeError, ValueError), match="the mask"):
            module(mm.tensor(BATCHES[1]))
        assert module.tracker.batches_seen == 1
    with pytest.raises((TypeError, ValueError), match="the mask"):
        tracker.flag(BATCHES[1], rule)
    assert tracker.batches_seen == 1


def test_a_rule_may_write_into_one_array_again_and_again() -> None:
    array = np.zeros((6, 5), bool)

    def rule(phi):
        np.greater(phi, 1.0, out=array)
        return array

    module = MEmeL(select=rule, start_after=1)
    module(mm.tensor(BATCHES[0]))
    first, second = (mm.tensor(z, requires_grad=True) for z in BATCHES[1:])
    out = module(first)
    flagged = module.last.flagged.copy()
    (out.sum() + module(second).sum()).backward()
    np.testing.assert_array_equal(first.grad, np.where(flagged, -1.0, 1.0))


class Nothing(TopK):
    def __call__(self, phi):
        return np.zeros(phi.shape, bool)


class NothingAbove(Above):
    def __call__(self, phi):
        return np.zeros(phi.shape, bool)


class NothingMoving(MovingThreshold):
    def __call__(self, phi):
        super().__call__(phi)
        return np.zeros(phi.shape, bool)


@pytest.mark.parametrize("convention", ["paper", "authors"])
@pytest.mark.parametrize("rule", [Nothing(2), NothingAbove(0.0), NothingMoving(0.5)], ids=repr)
def test_a_subclass_is_asked_by_its_own_call(rule, convention) -> None:
    tracker = ScaleTracker(convention=convention)
    for z in BATCHES:
        assert not tracker.flag(z, rule).any()


class Fails(Rule):
    """Learns, then fails."""

    learnt = 0

    def __call__(self, phi):
        self.learnt += 1
        raise RuntimeError("no")

    def remember(self):
        learnt = self.learnt
        return lambda: setattr(self, "learnt", learnt)


def test_a_rule_that_fails_has_learnt_nothing() -> None:
    rule, tracker = Fails(), ScaleTracker()
    with pytest.raises(RuntimeError, match="no"):
        tracker.flag(BATCHES[0], rule)
    assert rule.learnt == tracker.batches_seen == 0


@pytest.mark.parametrize("rule", [TopK, Rule(), Rule], ids=["class", "base", "Rule"])
def test_what_cannot_flag_is_refused_at_once(rule) -> None:
    for make in (MEmeL, L2E):
        with pytest.raises(TypeError, match=f"{make.__name__}: select is .*, expected TopK"):
            make(select=rule)


def test_a_rule_may_not_save_under_the_trackers_names() -> None:
    class Counts(Fixed):
        def state_dict(self):
            return {"count": np.array(3)}

    module = MEmeL(select=Counts(np.ones((6, 5), bool)), start_after=1)
    module(mm.tensor(BATCHES[0]))
    with pytest.raises(ValueError, match=r"MEmeL: the state of .* has entries \['count'\]"):
        module.state_dict()


def test_k_can_be_set_later() -> None:
    module = MEmeL(1, start_after=1)
    module(mm.tensor(BATCHES[0]))
    module.k = 3
    module(mm.tensor(BATCHES[1]))
    assert (module.last.flagged.sum(axis=1) == 3).all()
    assert "k=3" in repr(module)
    with pytest.raises(ValueError, match="MEmeL: k is 0"):
        module.k = 0


def test_l2e_takes_its_own_rule_or_another() -> None:
    assert (L2E().select.fraction, L2E().select.rate) == (0.02, 0.05)
    for settings in ({"fraction": 0.1}, {"rate": 0.9}):
        with pytest.raises(ValueError, match="expected select alone, or the other two"):
            L2E(**settings, select=TopK(1))


@pytest.mark.parametrize("value", [2**1024, -(2**1024), decimal.Decimal("sNaN")], ids=repr)
def test_numbers_that_are_none_are_named(value) -> None:
    with pytest.raises(ValueError, match="f: x is"):
        checks.share(value, "f: x")
    if isinstance(value, int):
        with pytest.raises(ValueError, match="f: x is a number that float64 does not reach"):
            checks.number(value, "f: x")


def test_the_norm_of_gradients_in_the_other_order_of_bytes() -> None:
    weight = Tensor(np.zeros(3), requires_grad=True)
    weight.grad = np.array([3.0, 0.0, 4.0], dtype=">f8")
    assert float(mm.optim.clip_grad_norm([weight], 1.0)) == 5.0
