"""What the demo measures: closed forms, hand-made cases, planted neurons."""

import math

import mpmath
import numpy as np
import pytest

from minimono.engine.functional import cross_entropy
from minimono.experiments import measurement
from minimono.nn import taps
from minimono.nn.models import GPT


def small_gpt(seed: int = 0) -> GPT:
    return GPT(
        vocabulary=7, context=6, channels=8, heads=2, layers=2, rng=np.random.default_rng(seed)
    )


# ---- the null ----------------------------------------------------------------------------------


@pytest.mark.parametrize("m", [2, 3, 10, 200, 100_000])
def test_null_density_integrates_to_one(m: int) -> None:
    x = np.linspace(-20.0, 25.0, 450_001)
    assert np.trapezoid(measurement.null_density(x, m), x) == pytest.approx(1.0, abs=1e-8)


@pytest.mark.parametrize("m", [2, 3, 10, 200, 100_000])
def test_null_density_is_that_of_a_scaled_f_variable(m: int) -> None:
    with mpmath.workdps(30):
        for x in (-5.0, -0.3, 0.0, 0.7, 2.0):
            phi, d = mpmath.mpf(10) ** mpmath.mpf(x), mpmath.mpf(m - 1)
            f = phi * m / (m + 1)
            density_of_f = (
                mpmath.sqrt(f * d**d / (f + d) ** (1 + d)) / f / mpmath.beta("0.5", d / 2)
            )
            expected = density_of_f * mpmath.mpf(m) / (m + 1) * phi * mpmath.log(10)
            assert measurement.null_density(np.array(x), m) == pytest.approx(
                float(expected), rel=1e-10
            )


def test_null_density_is_what_gaussian_neurons_give() -> None:
    rng, m = np.random.default_rng(0), 9
    history, z = rng.standard_normal((m, 200_000)), rng.standard_normal((1, 200_000))
    log10_phi = np.log10(measurement.scale_against(history, z))
    edges = np.linspace(-3.0, 1.5, 19)
    found = np.histogram(log10_phi, edges)[0] / 200_000
    fine = np.linspace(-3.0, 1.5, 18_001)
    density = measurement.null_density(fine, m)
    for i, share in enumerate(found):
        part = slice(1000 * i, 1000 * i + 1001)
        expected = np.trapezoid(density[part], fine[part])
        assert abs(share - expected) < 5.0 * math.sqrt(expected / 200_000)


def test_null_density_needs_a_variance() -> None:
    with pytest.raises(ValueError, match=r"^null_density: m is 1, expected 2"):
        measurement.null_density(np.zeros(1), 1)


# ---- movement ----------------------------------------------------------------------------------


def test_distance_to_mean_by_hand() -> None:
    mean = np.array([1.0, 0.0, 5.0])
    z = np.array([[3.0, 2.0, 5.0], [-1.0, 4.0, 6.5]])
    flagged = np.array([[True, False, True], [True, False, True]])
    assert measurement.distance_to_mean(z, flagged, mean) == 2.0 + 0.0 + 2.0 + 1.5
    assert measurement.distance_to_mean(z, np.zeros((2, 3), dtype=bool), mean) == 0.0


def test_distance_of_float32_is_measured_in_float64() -> None:
    z = np.array([[np.float32(1.0), np.float32(2.0**-40)]])
    distance = measurement.distance_to_mean(z, np.array([[True, True]]), np.zeros(2))
    assert distance == 1.0 + 2.0**-40


# ---- losses, activations, scale ----------------------------------------------------------------


def test_window_losses_are_the_loss_of_each_piece() -> None:
    model, pieces = small_gpt(), np.random.default_rng(1).integers(0, 7, (37, 7))
    found = measurement.window_losses(model, pieces)
    for piece, loss in zip(pieces, found, strict=True):
        expected = cross_entropy(model(piece[None, :-1]), piece[None, 1:]).item()
        assert loss == pytest.approx(expected, rel=1e-5)


def test_activations_are_those_of_one_call_and_the_mode_is_left_as_found() -> None:
    model, inputs = small_gpt(), np.random.default_rng(1).integers(0, 7, (20, 6))
    found = measurement.activations(model, inputs, "block.*.mlp.act")
    assert model.training
    with taps.read(model, "block.*.mlp.act") as seen:
        model(inputs)
    assert found.keys() == seen.keys() == {"block.0.mlp.act", "block.1.mlp.act"}
    for name, z in seen.items():
        np.testing.assert_allclose(found[name], z.data, rtol=1e-5, atol=1e-7)


def test_measuring_leaves_every_part_in_its_mode() -> None:
    model, inputs = small_gpt(), np.random.default_rng(1).integers(0, 7, (20, 7))
    model.block[0].eval()
    before = [m.training for _, m in model.named_modules()]
    assert len(set(before)) == 2
    measurement.activations(model, inputs[:, :-1], "*")
    measurement.window_losses(model, inputs)
    assert [m.training for _, m in model.named_modules()] == before


def test_scale_against_a_history() -> None:
    history = np.array([[1.0, 4.0], [3.0, 4.0], [5.0, 4.0]])  # mean 3, variance 4; a constant
    phi = measurement.scale_against(history, np.array([[7.0, 4.0], [3.0, 9.0]]))
    np.testing.assert_array_equal(phi, [[4.0, np.nan], [0.0, np.nan]])


def test_pieces_of_a_text_that_is_too_short() -> None:
    with pytest.raises(ValueError, match="has 4 characters, a context of 4 needs at least 5"):
        measurement.spread_windows(np.arange(4), windows=2, context=4)


def test_pieces_do_not_overlap_and_lie_in_the_text() -> None:
    for length in (5, 9, 50, 203):
        starts, pieces = measurement.spread_windows(np.arange(length), windows=7, context=4)
        assert (np.diff(starts) >= 4).all()
        np.testing.assert_array_equal(pieces, starts[:, None] + np.arange(5))
        assert pieces.max() < length
        assert len(starts) == min(7, (length - 1) // 4)


# ---- neurons -----------------------------------------------------------------------------------


def test_a_planted_neuron_is_found_with_the_character_it_answers_to() -> None:
    rng = np.random.default_rng(0)
    text = "".join(rng.choice(list("abcdefgh"), 6000))
    for place in range(10, 6000, 600):  # ten: more than one in a thousand
        text = text[:place] + "X" + text[place + 1 :]
    ids = np.array([ord(c) for c in text])
    starts, pieces = measurement.spread_windows(ids, windows=1000, context=8)
    inputs = pieces[:, :-1]

    def layer() -> np.ndarray:
        return rng.standard_normal((*inputs.shape, 5))

    seen = {"low": layer(), "high": layer()}
    seen["high"][..., 3] = 10.0 * (inputs == ord("X")) + 0.1 * seen["high"][..., 3]
    history = {"low": layer(), "high": layer()}
    history["high"][..., 3] *= 0.1
    history["low"][..., 0] = 2.0  # constant: no phi, never chosen
    [best, *others] = measurement.most_monosemantic(history, seen, count=3)
    assert (best.tap, best.channel) == ("high", 3)
    assert len(others) == 2
    assert best.score >= others[0].score >= others[1].score
    assert ("low", 0) not in [(n.tap, n.channel) for n in others]

    snippets = measurement.top_snippets(best, text, starts, count=11)
    assert [snippet.character == "X" for snippet in snippets] == [True] * 10 + [False]
    assert snippets[9].scale > 100.0 * snippets[10].scale
    assert sorted(snippets, key=lambda snippet: -snippet.scale) == snippets
    for snippet in snippets:
        assert snippet.before + snippet.character + snippet.after in text
        assert len(snippet.before) < 8  # never from before the piece


@pytest.mark.parametrize("m", [2, 3, 1000, 9_999, 10_001, 10_002, 10**7, 10**12, 10**18])
def test_null_density_of_any_number_of_samples(m: int) -> None:
    """Against 40 digits: for 1e18 samples the logarithms of Gamma took all digits away."""
    log10_phi = np.array([-3.0, 0.0, 0.7])
    with mpmath.workdps(40):
        d, ln10 = mpmath.mpf(m - 1), mpmath.log(10)
        log_beta = mpmath.loggamma(0.5) + mpmath.loggamma(d / 2) - mpmath.loggamma((d + 1) / 2)
        right = []
        for x in log10_phi:
            r = mpmath.mpf(10) ** x * m / (m + 1) / d
            log_rest = -(d + 1) / 2 * mpmath.log1p(r) - log_beta
            right.append(float(ln10 * mpmath.sqrt(r) * mpmath.exp(log_rest)))
    np.testing.assert_allclose(measurement.null_density(log10_phi, m), right, rtol=1e-11)


@pytest.mark.parametrize("bad", [0, -1, 1.5, True])
@pytest.mark.parametrize("name", ["windows", "context"])
def test_sizes_of_windows_are_checked(name: str, bad: object) -> None:
    good: dict[str, object] = {"windows": 3, "context": 4}
    with pytest.raises((TypeError, ValueError), match=f"spread_windows: {name} is"):
        measurement.spread_windows(np.arange(100), **(good | {name: bad}))  # type: ignore[arg-type]
