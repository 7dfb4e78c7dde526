"""Preference losses against mpmath, closed forms, each other, and finite differences.

Each docstring says what is checked and its status: published (the papers), authors' code, derived
(follows by algebra), or our choice.
"""

import math
import re

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minimono as mm
from minimono.gradcheck import check_grads
from minimono.mono.decorrelation import decorrelation_penalty
from minimono.mono.preference import (
    decpo_loss,
    dpo_loss,
    implicit_reward,
    ipo_loss,
    log_sigmoid,
    response_log_probability,
    reward_accuracy,
    reward_margin,
    sequence_log_probability,
    simpo_loss,
)


def log_probabilities(seed: int, pairs: int = 4) -> list[np.ndarray]:
    """Chosen and rejected under the policy, then under the reference."""
    rng = np.random.default_rng(seed)
    return [-10 * rng.exponential(size=pairs) for _ in range(4)]


def exact_log_sigmoid(x: float) -> mpmath.mpf:
    return -mpmath.log1p(mpmath.exp(-mpmath.mpf(x)))


# --------------------------------------------------------------------------------- log_sigmoid

POINTS = [-1e300, -1e4, -745.0, -40.0, -1.0, -1e-12, 0.0, 1e-12, 1.0, 36.0, 40.0, 745.0, 1e300]


def test_log_sigmoid_against_mpmath() -> None:
    """Value and gradient, full precision where 1/(1 + exp(-x)) overflows or is 0 or 1."""
    x = mm.tensor(POINTS, requires_grad=True)
    out = log_sigmoid(x)
    out.sum().backward()
    with mpmath.workdps(50):
        # Beyond 1e4, exp(-x) in 50 digits is 0 or its logarithm x, to all digits.
        value = [float(exact_log_sigmoid(p)) if abs(p) < 1e5 else min(p, 0.0) for p in POINTS]
        slope = [
            float(1 / (1 + mpmath.exp(mpmath.mpf(p)))) if abs(p) < 1e5 else float(p < 0)
            for p in POINTS
        ]
    np.testing.assert_allclose(out.data, value, rtol=5e-16)
    np.testing.assert_allclose(x.grad, slope, rtol=5e-16)


def test_log_sigmoid_at_its_limits() -> None:
    out = log_sigmoid(mm.tensor([-np.inf, np.inf, np.nan])).data
    assert out[0] == -np.inf
    assert out[1] == 0.0
    assert np.isnan(out[2])
    assert log_sigmoid(mm.tensor([-200.0], dtype=np.float32)).data.dtype == np.float32
    assert log_sigmoid(mm.tensor([-200.0], dtype=np.float32)).data == -200.0


def test_log_sigmoid_gradcheck_second_order() -> None:
    """Also at 0, where training starts: |x| in the formula has no kink in the gradient rule."""
    check_grads(log_sigmoid, np.array([-30.0, -2.0, 0.0, 0.5, 30.0]), order=2)
    second = mm.grad(mm.grad(lambda x: log_sigmoid(x)))(mm.tensor(0.0))
    assert float(second) == -0.25


# -------------------------------------------------------------------- response_log_probability

# Token probabilities 1/8, 1/4, 1/2 of a response of three: prompt 1 3, response 2 0 2, padding 0.
ROWS = [(1, 1, 1, 5), (1, 2, 4, 1), (2, 1, 1, 4), (1, 1, 8, 6), (1, 1, 1, 5), (1, 1, 1, 1)]
TEXT = np.log(np.array([ROWS], float))
IDS = np.array([[1, 3, 2, 0, 2, 0]])
RESPONSE = np.array([[False, False, True, True, True, False]])


def test_a_response_by_hand() -> None:
    """Published; the DPO repository's function, run on the same, gives it too."""
    logits = mm.tensor(TEXT)
    found = response_log_probability(logits, IDS, RESPONSE).item()
    assert found == pytest.approx(math.log(1 / 16), rel=1e-15)
    average = response_log_probability(logits, IDS, RESPONSE, average=True).item()
    assert average == pytest.approx(math.log(1 / 16) / 3, rel=1e-15)
    shifted = sequence_log_probability(logits[:, :-1], IDS[:, 1:], RESPONSE[:, 1:]).item()
    assert shifted == found


@pytest.mark.parametrize(
    ("mistake", "probability"),
    [
        ("prompt included", 5 / 128), ("no shift", 1 / 1024), ("mask not shifted", 1 / 64),
        ("first token dropped", 1 / 8), ("padding included", 1 / 128), ("mask by id", 1 / 4),
    ],
)
def test_what_other_masks_give(mistake: str, probability: float) -> None:
    """The reported faults, each from our function with the wrong mask or shift: another number."""
    late = np.array([[False, False, False, True, True, False]])
    logits, ids, mask = {
        "prompt included": (TEXT, IDS, RESPONSE | (np.arange(6) == 1)),
        "no shift": (np.roll(TEXT, -1, axis=1), IDS, RESPONSE),
        "mask not shifted": (TEXT, IDS, np.roll(RESPONSE, 1, axis=1)),
        "first token dropped": (TEXT, IDS, late),
        "padding included": (TEXT, IDS, RESPONSE | (np.arange(6) == 5)),
        "mask by id": (TEXT, IDS, RESPONSE & (IDS != 0)),
    }[mistake]
    found = response_log_probability(mm.tensor(logits), ids, mask).item()
    assert found == pytest.approx(math.log(probability), rel=1e-14)


def test_a_response_ignores_the_prompt_the_padding_and_its_own_first_place() -> None:
    """Our choice: what is not of the response is taken out, not multiplied by 0."""
    logits, ids = TEXT.copy(), IDS.copy()
    want = response_log_probability(mm.tensor(logits), ids, RESPONSE).item()
    logits[0, [0, 4, 5]] = [[np.nan], [-np.inf], [np.inf]]
    ids[0, [0, 1, 5]] = -100
    x = mm.tensor(logits, requires_grad=True)
    mask = RESPONSE | (np.arange(6) == 0)  # nothing predicts the first token
    total = response_log_probability(x, ids, mask)
    total.backward()
    assert total.item() == want
    assert not x.grad[0, [0, 4, 5]].any()


# ------------------------------------------------------------------------ one pair, by every loss


def test_the_losses_of_one_pair() -> None:
    """Worked out by hand; the DPO repository gives the same. SimPO's γ is β times a ratio."""
    chosen, rejected, reference = [math.log(1 / 16)], [math.log(1 / 8)], [math.log(1 / 32)]
    pair = (chosen, rejected, reference, rejected)
    per_token = [[x[0] / n] for x, n in zip(pair, (3, 2, 3, 2), strict=True)]
    for loss, want in (
        (dpo_loss(*pair, beta=1.0), math.log(1.5)),
        (dpo_loss(*pair), 0.6590902676),
        (dpo_loss(*pair, beta=1.0, label_smoothing=0.1), 0.4747798262),
        (dpo_loss(chosen, rejected, [0.0], [0.0], beta=1.0), math.log(3)),  # no reference
        (ipo_loss(*pair), 18.5489812),
        (ipo_loss(*per_token), 22.7428931),
        (simpo_loss(*per_token[:2], beta=2.0, gamma=2.0 * 0.5), 1.1497811190),
    ):
        assert loss.item() == pytest.approx(want, rel=1e-8)


def test_ipo_and_smoothing_have_their_gradients() -> None:
    values = log_probabilities(3)
    for loss in (ipo_loss, lambda *v: dpo_loss(*v, beta=0.7, label_smoothing=0.2)):
        check_grads(lambda a, b, loss=loss: loss(a, b, *values[2:]), *values[:2], order=2)
    smooth = dpo_loss(*values, beta=0.7, label_smoothing=0.2).item()
    swapped = [values[i] for i in (1, 0, 3, 2)]
    want = 0.8 * dpo_loss(*values, beta=0.7).item() + 0.2 * dpo_loss(*swapped, beta=0.7).item()
    assert smooth == pytest.approx(want, rel=1e-13)


# -------------------------------------------------------------------- sequence_log_probability


@given(st.integers(0, 2**32 - 1), st.booleans())
def test_sequence_log_probability_against_mpmath(seed: int, average: bool) -> None:
    """Each response token's log softmax in 40 digits, added up. Published: the definition."""
    rng = np.random.default_rng(seed)
    B, T, V = (int(n) for n in rng.integers(1, 5, 3))
    logits = 30 * rng.standard_normal((B, T, V))
    targets = rng.integers(0, V, (B, T))
    mask = rng.random((B, T)) < 0.5
    mask[:, rng.integers(T)] = True
    want = []
    with mpmath.workdps(40):
        for b in range(B):
            total = mpmath.mpf(0)
            for t in range(T):
                if mask[b, t]:
                    row = [mpmath.mpf(float(v)) for v in logits[b, t]]
                    total += row[targets[b, t]] - mpmath.log(sum(map(mpmath.exp, row)))
            want.append(float(total / int(mask[b].sum()) if average else total))
    found = sequence_log_probability(mm.tensor(logits), targets, mask, average=average)
    np.testing.assert_allclose(found.data, want, rtol=1e-12, atol=1e-13)


def test_sequences_do_not_depend_on_what_is_masked() -> None:
    """Prompt and padding: nan logits and targets like -100 there change nothing, and get no
    gradient. Our choice."""
    rng = np.random.default_rng(0)
    logits, targets = rng.standard_normal((2, 4, 5)), rng.integers(0, 5, (2, 4))
    mask = np.array([[False, True, True, False], [False, False, True, True]])
    plain = mm.tensor(logits, requires_grad=True)
    sequence_log_probability(plain, targets, mask).sum().backward()
    logits[~mask] = np.nan
    spoilt = mm.tensor(logits, requires_grad=True)
    out = sequence_log_probability(spoilt, np.where(mask, targets, -100), mm.tensor(mask))
    out.sum().backward()
    np.testing.assert_array_equal(spoilt.grad, plain.grad)
    assert (plain.grad[~mask] == 0).all()
    probability = np.exp(logits[mask]) / np.exp(logits[mask]).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(
        plain.grad[mask], np.eye(5)[targets[mask]] - probability, rtol=1e-12, atol=1e-14
    )


def test_sequence_log_probability_gradcheck() -> None:
    rng = np.random.default_rng(1)
    targets, mask = rng.integers(0, 4, (2, 3)), np.array([[1, 0, 1], [0, 1, 0]], dtype=bool)
    for average in (False, True):
        check_grads(
            lambda x, a=average: sequence_log_probability(x, targets, mask, average=a),
            rng.standard_normal((2, 3, 4)),
            order=2,
        )


def test_it_is_minus_the_cross_entropy() -> None:
    """Averaged over equal lengths, with everything a response: -cross_entropy. Derived."""
    rng = np.random.default_rng(2)
    logits = mm.tensor(rng.standard_normal((3, 4, 5)), dtype=np.float32)
    targets = rng.integers(0, 5, (3, 4))
    averages = sequence_log_probability(logits, targets, np.ones((3, 4), bool), average=True)
    assert averages.dtype == np.float32
    assert float(averages.mean()) == pytest.approx(
        -float(mm.functional.cross_entropy(logits, targets)), rel=1e-6
    )


@pytest.mark.parametrize(
    ("logits", "targets", "mask", "error", "message"),
    [
        (np.ones((2, 3)), [[0]], [[True]], ValueError, "has shape (2, 3), expected (B, T, V)"),
        (np.ones((1, 2, 3), int), [[0, 0]], [[True] * 2], TypeError, "logits has dtype int64"),
        (np.ones((1, 2, 3)), [[0.0, 1.0]], [[True] * 2], TypeError, "targets has dtype float64"),
        (np.ones((1, 2, 3)), [[0, 1]], [[1, 1]], TypeError, "mask has dtype int64"),
        (np.ones((1, 2, 3)), [[0, 1, 2]], [[True] * 2], ValueError, "targets has shape (1, 3)"),
        (np.ones((1, 2, 3)), [[0, 1]], [[True] * 3], ValueError, "mask has shape (1, 3)"),
        (np.ones((2, 1, 3)), [[0], [1]], [[True], [False]], ValueError, "along sequence 1"),
        (np.ones((1, 2, 3)), [[0, 3]], [[True] * 2], ValueError,
         "targets is 3, expected at most 2, the last token"),
        (np.ones((1, 2, 3)), [[0, -1]], [[True] * 2], ValueError,
         "targets is -1, expected 0 or more"),
    ],
)
def test_bad_sequences(logits, targets, mask, error, message) -> None:
    with pytest.raises(error, match=re.escape(message)):
        sequence_log_probability(mm.tensor(logits), np.array(targets), np.array(mask))


# ---------------------------------------------------------------------------------------- DPO


@pytest.mark.parametrize("beta", [0.1, 0.5, 3.0])
def test_dpo_against_mpmath(beta) -> None:
    """Value and all gradients, with 40 digits. Published: eq. 7."""
    values = log_probabilities(3)
    policy = [mm.tensor(v, requires_grad=True) for v in values[:2]]
    loss = dpo_loss(*policy, *values[2:], beta=beta)
    loss.backward()
    with mpmath.workdps(40):
        margins = [
            mpmath.mpf(beta) * ((mpmath.mpf(a) - mpmath.mpf(c)) - (mpmath.mpf(b) - mpmath.mpf(d)))
            for a, b, c, d in zip(*(v.tolist() for v in values), strict=True)
        ]
        want = -sum(exact_log_sigmoid(m) for m in margins) / 4
        slopes = [float(-beta / (1 + mpmath.exp(m)) / 4) for m in margins]
    assert float(loss) == pytest.approx(float(want), rel=1e-13)
    np.testing.assert_allclose(policy[0].grad, slopes, rtol=1e-12)
    np.testing.assert_allclose(policy[1].grad, np.negative(slopes), rtol=1e-12)


@pytest.mark.parametrize("pairs", [1, 5])
def test_dpo_at_the_start(pairs) -> None:
    """Policy = reference: log 2; gradient -β/2 by the chosen and β/2 by the rejected, over B. And
    exactly so, also for log-probabilities in the thousands. Derived."""
    chosen, rejected = -1234.5 * np.ones(pairs), -3210.25 * np.ones(pairs)
    policy = [mm.tensor(v, requires_grad=True) for v in (chosen, rejected)]
    loss = dpo_loss(*policy, chosen, rejected, beta=0.25)
    loss.backward()
    assert float(loss) == pytest.approx(math.log(2), rel=1e-15)
    np.testing.assert_allclose(policy[0].grad, -0.125 / pairs, rtol=1e-15)
    np.testing.assert_allclose(policy[1].grad, 0.125 / pairs, rtol=1e-15)


def test_dpo_gradcheck_second_order() -> None:
    """Also at the start, where all margins are 0."""
    a, b, c, d = log_probabilities(4)
    check_grads(lambda x, y: dpo_loss(x, y, c, d), a, b, order=2)
    check_grads(lambda x, y: dpo_loss(x, y, a, b, beta=1.0), a, b, order=2)


def test_dpo_identities() -> None:
    """Swapping the pair changes the loss by the mean margin; adding to policy and reference alike
    changes nothing; the reference gets no gradient. Derived."""
    a, b, c, d = log_probabilities(5)
    margin = 0.1 * ((a - c) - (b - d)).mean()
    assert float(dpo_loss(b, a, d, c)) - float(dpo_loss(a, b, c, d)) == pytest.approx(margin)
    assert float(dpo_loss(a - 7, b, c - 7, d)) == pytest.approx(float(dpo_loss(a, b, c, d)))
    reference = mm.tensor(c, requires_grad=True)
    policy = mm.tensor(a, requires_grad=True)
    dpo_loss(policy, b, reference, d).backward()
    assert policy.grad is not None
    assert reference.grad is None


def test_dpo_stays_finite_far_out() -> None:
    """A margin of ±1e6: the loss is 0 or the margin, the gradient 0 or -β."""
    good = mm.tensor([-1.0, -1e7], requires_grad=True)
    loss = dpo_loss(good, [-1e7, -1.0], [0.0, 0.0], [0.0, 0.0], beta=0.1)
    loss.backward()
    assert float(loss) == pytest.approx(1e6 / 2, rel=1e-6)
    np.testing.assert_allclose(good.grad, [0.0, -0.1 / 2], atol=1e-300)


# -------------------------------------------------------------------------------------- SimPO


def test_simpo_against_mpmath() -> None:
    """Published. At the margin β (chosen - rejected) = γ it is log 2."""
    a, b = (v / 10 for v in log_probabilities(6)[:2])
    with mpmath.workdps(40):
        want = -sum(
            exact_log_sigmoid(mpmath.mpf(2.5) * (mpmath.mpf(x) - mpmath.mpf(y)) - mpmath.mpf(0.75))
            for x, y in zip(a.tolist(), b.tolist(), strict=True)
        ) / 4
    assert float(simpo_loss(a, b, beta=2.5, gamma=0.75)) == pytest.approx(float(want), rel=1e-13)
    assert float(simpo_loss(a + 0.5, a, beta=2.0, gamma=1.0)) == pytest.approx(math.log(2))
    check_grads(lambda x, y: simpo_loss(x, y, beta=2.5, gamma=0.75), a, b, order=2)


def test_simpo_is_dpo_without_reference_and_margin() -> None:
    """γ = 0 and a reference that gives all responses the same. Derived."""
    a, b, *_ = log_probabilities(7)
    uniform = np.full(4, -3.0)
    assert float(simpo_loss(a, b, beta=0.3, gamma=0.0)) == pytest.approx(
        float(dpo_loss(a, b, uniform, uniform, beta=0.3))
    )


# -------------------------------------------------------------------------------------- DecPO


@pytest.mark.parametrize("over", ["samples", "features"])
def test_decpo_is_dpo_and_the_penalty(over) -> None:
    """Published: DPO + 1e-4 ||Z Zᵀ - I||². Gradients reach both; `over` leaves them equal."""
    values = log_probabilities(8)
    z = np.random.default_rng(9).standard_normal((8, 3))
    x, activations = mm.tensor(values[0], requires_grad=True), mm.tensor(z, requires_grad=True)
    loss = decpo_loss(x, *values[1:], activations, over=over)
    loss.backward()
    penalty = ((z @ z.T - np.eye(8)) ** 2).sum() if over == "samples" else (
        (z.T @ z - np.eye(3)) ** 2).sum()
    assert float(loss) == pytest.approx(float(dpo_loss(*values)) + 1e-4 * penalty, rel=1e-13)
    np.testing.assert_allclose(activations.grad, 4e-4 * (z @ z.T - np.eye(8)) @ z, rtol=1e-10)
    alone = mm.tensor(values[0], requires_grad=True)
    dpo_loss(alone, *values[1:]).backward()
    np.testing.assert_allclose(x.grad, alone.grad, rtol=1e-14)


@pytest.mark.parametrize("pairs", [3, 4])
def test_decpo_as_the_authors_compute_it(pairs) -> None:
    """Per row, added to each pair's loss, then averaged; rows 0, 2, 4... of chosen;rejected.
    Authors' code."""
    values = log_probabilities(10, pairs)
    z = np.random.default_rng(11).standard_normal((2 * pairs, 5))
    half = abs(z[0::2])
    per_row = (half @ half.T - np.eye(pairs)).mean(axis=0)
    losses = [
        -float(exact_log_sigmoid(0.1 * ((a - c) - (b - d))))
        for a, b, c, d in zip(*(v.tolist() for v in values), strict=True)
    ]
    want = np.mean(losses + 1e-3 * per_row)
    assert float(decpo_loss(*values, z, convention="authors")) == pytest.approx(want, rel=1e-12)
    x = mm.tensor(z, requires_grad=True)
    decpo_loss(*values, x, convention="authors").backward()
    assert (x.grad[1::2] == 0).all()
    assert (x.grad[0::2] != 0).all()


def test_decpo_gradcheck_second_order() -> None:
    a, b, c, d = log_probabilities(12, 2)
    z = np.random.default_rng(13).standard_normal((4, 3))
    z += 0.1 * np.sign(z)
    for convention in ("paper", "authors"):
        check_grads(
            lambda x, y, w, how=convention: decpo_loss(x, y, c, d, w, weight=0.3, convention=how),
            a, b, z, order=2,
        )


def test_decpo_weight() -> None:
    values = log_probabilities(14)
    z = np.random.default_rng(15).standard_normal((8, 3))
    plain = float(dpo_loss(*values))
    assert float(decpo_loss(*values, z, weight=0.0)) == plain
    assert float(decpo_loss(*values, z, weight=2.0)) == pytest.approx(
        plain + 2 * float(decorrelation_penalty(z))
    )


# ------------------------------------------------------------------------------------ rewards


def test_rewards() -> None:
    """Accuracy and margin of implicit rewards, counted by hand; dpo_loss sees the same margins.
    Published; our choice: a tie is not higher, so the start counts 0."""
    a, b, c, d = log_probabilities(16, 7)
    chosen, rejected = implicit_reward(a, c, beta=0.2), implicit_reward(b, d, beta=0.2)
    margins = [0.2 * ((p - r) - (q - s)) for p, q, r, s in zip(a, b, c, d, strict=True)]
    assert reward_accuracy(chosen, rejected) == sum(m > 0 for m in margins) / 7
    assert reward_margin(chosen, rejected) == pytest.approx(np.mean(margins), rel=1e-13)
    assert reward_accuracy(chosen, chosen) == 0.0
    want = -np.mean([float(exact_log_sigmoid(m)) for m in margins])
    assert float(dpo_loss(a, b, c, d, beta=0.2)) == pytest.approx(want, rel=1e-13)


def test_each_loss_learns_the_preference() -> None:
    """A GPT, pairs that differ by a rule (the chosen response repeats token 1, the rejected
    token 2): from reward accuracy 0 at the start, every loss tells all pairs apart."""
    rng = np.random.default_rng(17)
    prompt = rng.integers(0, 5, (4, 3))
    ids = np.concatenate([
        np.concatenate([prompt, np.full((4, 3), token)], axis=1) for token in (1, 2)
    ])  # (2 B, T): chosen, then rejected
    inputs, targets = ids[:, :-1], ids[:, 1:]
    mask = np.zeros(targets.shape, dtype=bool)
    mask[:, 2:] = True

    for loss_of in (
        lambda sums, averages, ref, z: dpo_loss(*sums, *ref[0]),
        lambda sums, averages, ref, z: simpo_loss(*averages),
        lambda sums, averages, ref, z: decpo_loss(*sums, *ref[0], z),
        lambda sums, averages, ref, z: decpo_loss(*averages, *ref[1], z, convention="authors"),
    ):
        model = mm.models.GPT(vocabulary=5, context=6, channels=8, heads=2, layers=1,
                              rng=np.random.default_rng(18))
        optimiser = mm.optim.Adam(model.parameters(), lr=0.01)

        def measured(model=model):
            with mm.nn.taps.read(model, "block.0.mlp.act") as seen:
                logits = model(inputs)
            both = [
                sequence_log_probability(logits, targets, mask, average=average)
                for average in (False, True)
            ]
            return [(p[:4], p[4:]) for p in both], seen["block.0.mlp.act"][:, -1]

        with mm.no_grad():
            reference, _ = measured()
        for _ in range(15):
            (sums, averages), z = measured()
            optimiser.zero_grad()
            loss_of(sums, averages, reference, z).backward()
            optimiser.step()
        (sums, _), _ = measured()
        rewards = [implicit_reward(p, r) for p, r in zip(sums, reference[0], strict=True)]
        assert reward_accuracy(*rewards) == 1.0
        assert reward_margin(*rewards) > 0.05


# ----------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: dpo_loss([-1.0], [-1.0, -2.0], [-1.0], [-1.0, -2.0]), ValueError,
         "dpo_loss: policy_rejected has shape (2,), expected (1,), as policy_chosen"),
        (lambda: dpo_loss([-1.0], [-1.0], [-1.0, -2.0], [-1.0]), ValueError,
         "dpo_loss: reference_chosen has shape (2,), expected (1,), as policy_chosen"),
        (lambda: dpo_loss([-1], [-1], [-1], [-1]), TypeError,
         "dpo_loss: policy_chosen has dtype int64"),
        (lambda: dpo_loss(np.ones(0), np.ones(0), np.ones(0), np.ones(0)), ValueError,
         "a response at least"),
        (lambda: dpo_loss([-1.0], [-1.0], [-1.0], [-1.0], beta=0.0), ValueError, "beta is 0.0"),
        (lambda: dpo_loss([-1.0], [-1.0], [-1.0], [-1.0], beta="1"), TypeError, "beta"),
        (lambda: simpo_loss([-1.0], [-1.0, -2.0]), ValueError, "simpo_loss: rejected has shape"),
        (lambda: simpo_loss([-1.0], [-1.0], beta=-1), ValueError, "simpo_loss: beta is -1"),
        (lambda: simpo_loss([-1.0], [-1.0], gamma=math.inf), ValueError, "gamma is inf"),
        (lambda: decpo_loss([-1.0], [-1.0], [-1.0], [-1.0], np.ones((1, 3))), ValueError,
         "z has shape (1, 3), expected (2, *neurons)"),
        (lambda: decpo_loss([-1.0], [-1.0], [-1.0], [-1.0], np.ones((2, 3)), weight=-1.0),
         ValueError, "weight is -1.0"),
        (lambda: decpo_loss([-1.0], [-1.0], [-1.0], [-1.0], np.ones((2, 3)), convention="x"),
         ValueError, "convention is 'x'"),
        (lambda: reward_accuracy([0.1], [np.nan]), ValueError,
         "rejected is nan at [0], expected numbers"),
        (lambda: reward_margin([0.1], [0.1, 0.2]), ValueError,
         "rejected has shape (2,), expected (1,), as chosen"),
    ],
)
def test_bad_input(call, error, message) -> None:
    with pytest.raises(error, match=re.escape(message)):
        call()


# ------------------------------------------------------------------------------------- PyTorch


@pytest.mark.parity
def test_parity_with_torch() -> None:
    """The losses from logits, forward and backward, against PyTorch's logsigmoid and gather."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(19)
    logits, targets = rng.standard_normal((6, 4, 7)), rng.integers(0, 7, (6, 4))
    mask = rng.random((6, 4)) < 0.6
    mask[:, 0] = True
    reference = -rng.exponential(size=6)

    x = mm.tensor(logits, requires_grad=True)
    ours = sequence_log_probability(x, targets, mask)
    loss = dpo_loss(ours[:3], ours[3:], reference[:3], reference[3:], beta=0.4)
    loss.backward()

    t = torch.tensor(logits, requires_grad=True)
    picked = t.log_softmax(-1).gather(-1, torch.tensor(targets)[..., None])[..., 0]
    theirs = (picked * torch.tensor(mask)).sum(-1)
    margin = theirs - torch.tensor(reference)
    expected = -torch.nn.functional.logsigmoid(0.4 * (margin[:3] - margin[3:])).mean()
    expected.backward()
    assert float(loss) == pytest.approx(expected.item(), rel=1e-13)
    np.testing.assert_allclose(x.grad, t.grad.numpy(), rtol=1e-11, atol=1e-15)


# ----------------------------------------------------------------------------------------- GPU


@pytest.mark.gpu
def test_the_gpu_gives_the_same() -> None:
    rng = np.random.default_rng(20)
    logits, targets = rng.standard_normal((4, 3, 5)), rng.integers(0, 5, (4, 3))
    mask, z = np.ones((4, 3), bool), rng.standard_normal((4, 6))
    values = []
    for device in ("cpu", "cuda"):
        p = sequence_log_probability(mm.tensor(logits, device=device), targets, mask)
        loss = decpo_loss(p[:2], p[2:], p[2:], p[:2], mm.tensor(z, device=device))
        assert loss.device == device
        values.append(float(loss))
    assert values[0] == pytest.approx(values[1], rel=1e-12)
