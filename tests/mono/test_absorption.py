"""Absorption against SAEBench's rules, one input at a time, and worlds whose answer is known."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from minimono.mono import absorption, main_units

few = settings(max_examples=60)
WRITE = np.array([[1, 0, 0], [0.8, 0.6, 0], [0, 1, 0], [0.5, 0, math.sqrt(3) / 2]])
D = np.array([1.0, 0.0, 0.0])
Z = np.array([
    [0, 2, 0, 0], [1, 1, 0, 0], [2, 0.5, 0, 0], [1, 0, 0, 1], [0, 0, 1, 1], [0, 0.4, 0, 0.3],
])


def test_absorption_by_hand() -> None:
    """Authors' code, run on the same."""
    found = absorption(Z, WRITE, Z @ WRITE, D, [0])
    np.testing.assert_allclose(found.fraction, [1, 4 / 9, 0, 0, 1, 1], rtol=1e-15)
    np.testing.assert_array_equal(found.full, [True, False, False, False, True, True])
    assert found.mean_fraction == pytest.approx((3 + 4 / 9) / 6)
    assert found.full_rate == 1 / 2


def by_rules(a, write, x, d, main) -> tuple[float, bool]:
    """SAEBench's rules for one input, as it writes them, with a_i w_i · d for a_i cos(w_i, d)."""
    lengths = [math.sqrt(w @ w) for w in write]
    cosines = [w @ d / n if n else 0.0 for w, n in zip(write, lengths, strict=True)]
    written = [z * n * c for z, n, c in zip(a, lengths, cosines, strict=True)]
    t, m = x @ d, sum(written[i] for i in main)
    others = [
        p for i, p in enumerate(written) if i not in main and cosines[i] >= 0.1 and p > 0
    ]
    A = sum(sorted(others, reverse=True)[:3])
    if t == 0 or m >= t or A / t < 0.4:
        fraction = 0.0
    elif m <= 0:
        fraction = 1.0
    else:
        u = min(A, t - m)
        fraction = u / (u + m)
    top = max(range(len(a)), key=lambda i: written[i])
    full = all(a[i] < 1e-8 for i in main) and cosines[top] >= 0.025 and t > 0
    return fraction, bool(full and written[top] / t >= 0.4)


@few
@given(
    arrays(np.float64, (3, 6), elements=st.sampled_from([0.0, 0.25, 0.5, 1.0, 3.0])),
    arrays(np.float64, (6, 3), elements=st.integers(-3, 3).map(float)),
    arrays(np.float64, 3, elements=st.integers(-2, 2).map(float)).filter(np.any),
    st.sets(st.integers(0, 5), min_size=1, max_size=3),
    st.sampled_from([0.0, 0.25, 1.0]),
)
def test_absorption_by_the_rules(z, write, direction, main, extra: float) -> None:
    d = direction / np.linalg.norm(direction)
    x = z @ write + extra * d
    found = absorption(z, write, x, 7 * direction, main)
    for i in range(3):
        fraction, full = by_rules(z[i], write, x[i], d, main)
        t = x[i] @ d
        near = [abs(s - 0.4 * t) for s in (z[i] * (write @ d))]
        if min(abs(t), *near) > 1e-9:  # else rounding decides
            assert bool(found.full[i]) == full
        if abs(t) > 1e-9 and abs(t - (z[i] * (write @ d))[list(main)].sum()) > 1e-9:
            assert found.fraction[i] == pytest.approx(fraction, abs=1e-9)
    assert ((found.fraction >= 0) & (found.fraction <= 1)).all()


def test_three_absorbers_count_and_only_aligned_ones() -> None:
    """Wrong: all others (A uncapped), or also those with a cosine below 0.1."""
    write = np.array([[1.0, 0.0], *[[1.0, 0.0]] * 5])
    z = np.array([[0.0, 1.0, 1.0, 1.0, 1.0, 1.0]])
    assert absorption(z, write, z @ write, D[:2], [0]).fraction == 1  # 3/5 >= 0.4
    z = np.concatenate([z, np.ones((1, 3))], axis=1)
    write = np.concatenate([write, np.ones((3, 1)) * D[:2]])
    assert absorption(z, write, z @ write, D[:2], [0]).fraction == 0  # 3/8 < 0.4
    across = np.array([[1.0, 0.0], [0.0999, math.sqrt(1 - 0.0999**2)]])
    loud = np.array([[0.0, 100.0]])
    assert absorption(loud, across, loud @ across, D[:2], [0]).fraction == 0
    assert absorption(loud, across, loud @ across, D[:2], [0]).full == [True]  # 0.025 is enough


def test_rates_are_over_the_inputs_with_the_feature() -> None:
    """Wrong: over all inputs."""
    x, present = Z @ WRITE, np.array([True, True, False, False, False, False])
    found = absorption(Z, WRITE, x, D, [0], present=present)
    assert found.mean_fraction == pytest.approx((1 + 4 / 9) / 2)
    assert found.full_rate == 1 / 2
    nobody = absorption(Z, WRITE, x, D, [0], present=np.zeros(6, bool))
    assert math.isnan(nobody.mean_fraction)
    assert math.isnan(nobody.full_rate)


def test_a_bias_that_no_unit_writes_is_taken_off() -> None:
    plain = absorption(Z, WRITE, Z @ WRITE, D, [0])
    b = np.array([5.0, -1.0, 2.0])
    moved = absorption(Z, WRITE, Z @ WRITE + b, D, [0], bias=b)
    np.testing.assert_allclose(moved.fraction, plain.fraction, atol=1e-12)
    np.testing.assert_array_equal(moved.full, plain.full)
    assert not absorption(Z, WRITE, Z @ WRITE + b, D, [0]).fraction[0]


def test_lengths_of_rows_count_for_neurons() -> None:
    """Our choice: what is written is a_i w_i · d. Half the activation, twice the row: the same."""
    for scale in (2.0, 2.0**-400):
        found = absorption(Z / scale, WRITE * scale, Z @ WRITE, D, [0])
        np.testing.assert_allclose(found.fraction, [1, 4 / 9, 0, 0, 1, 1], rtol=1e-12)
    none = absorption(Z, 0 * WRITE, Z @ WRITE, D, [0, 1])
    assert not none.fraction.any()
    assert not none.full.any()


# -------------------------------------------------------------------------------------- main units


def f1(fires, present) -> float:
    both = (fires & present).sum()
    return 2 * both / (fires.sum() + present.sum())


@few
@given(
    arrays(np.float64, (8, 4), elements=st.sampled_from([-1.0, 0.0, 0.5, 2.0])),
    arrays(np.bool, 8).filter(np.any),
)
def test_main_units_by_brute_force(z, present) -> None:
    chosen: list[int] = []
    best, fires = -1.0, np.zeros(8, bool)
    while True:
        scores = [f1(fires | (column > 0), present) for column in z.T]
        unit = int(np.argmax(scores))
        if chosen and not scores[unit] > best + 0.03:
            break
        chosen.append(unit)
        best, fires = scores[unit], fires | (z[:, unit] > 0)
    np.testing.assert_array_equal(main_units(z, present), chosen)


def test_main_units_of_a_feature_that_is_split() -> None:
    """One unit for the feature, or two halves of it; what adds little is left."""
    present = np.arange(100) < 50
    whole, half = present * 1.0, (np.arange(100) < 25) * 1.0
    other = present * 1.0 - half
    noise = np.roll(whole, 1)
    for units, want in (
        ((noise, whole, half), [1]), ((half, noise * 0, other), [0, 2]), ((noise, whole), [1]),
    ):
        np.testing.assert_array_equal(main_units(np.stack(units, axis=1), present), want)
    np.testing.assert_array_equal(main_units(np.stack([noise, half], axis=1), present), [0])
    little = np.stack([noise, (np.arange(100) == 0) * 1.0], axis=1)
    np.testing.assert_array_equal(main_units(little, present), [0])
    np.testing.assert_array_equal(main_units(little, present, gain=0.0), [0, 1])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: absorption(Z[0], WRITE, Z @ WRITE, D, [0]), ValueError, "absorption: z has sh"),
        (lambda: absorption(Z, WRITE[:3], Z @ WRITE, D, [0]), ValueError,
         r"absorption: write has shape \(3, 3\), expected \(4, 3\), a row for each unit"),
        (lambda: absorption(Z, WRITE, Z, D, [0]), ValueError,
         r"absorption: x has shape \(6, 4\), expected \(6, 3\), a row for each input"),
        (lambda: absorption(Z, WRITE, Z @ WRITE, D[:2], [0]), ValueError,
         r"absorption: direction has shape \(2,\), expected \(3,\)"),
        (lambda: absorption(Z, WRITE, Z @ WRITE, 0 * D, [0]), ValueError,
         "absorption: direction: largest entry is 0.0"),
        (lambda: absorption(Z, WRITE, Z @ WRITE, D, []), ValueError,
         "absorption: main is empty, expected one unit at least"),
        (lambda: absorption(Z, WRITE, Z @ WRITE, D, [4]), ValueError,
         "absorption: main is 4, expected at most 3, the last unit"),
        (lambda: absorption(Z, WRITE, Z @ WRITE, D, [-1]), ValueError, r"absorption: main\[0\] is"),
        (lambda: absorption(Z, WRITE, Z @ WRITE, D, 0), TypeError, "absorption: main is 0"),
        (lambda: absorption(Z, WRITE, Z @ WRITE, D, [0], present=D), TypeError,
         "absorption: present has dtype float64"),
        (lambda: absorption(Z, WRITE, Z @ WRITE, D, [0], bias=D[:1]), ValueError,
         r"absorption: bias has shape \(1,\)"),
        (lambda: main_units(Z, np.zeros(6, bool)), ValueError, "main_units: present is False"),
        (lambda: main_units(Z, np.ones(5, bool)), ValueError, "main_units: present has shape"),
        (lambda: main_units(Z, np.ones(6, bool), gain=-1), ValueError, "main_units: gain is -1"),
    ],
)
def test_errors(call, error, message: str) -> None:
    with pytest.raises(error, match="^" + message):
        call()
