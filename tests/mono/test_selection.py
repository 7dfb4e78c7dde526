"""Selection against brute force: sort, count, compare, one element at a time."""

import math
import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from minimono.mono.selection import select_above, select_top_fraction, select_top_k

# Few distinct values, so ties are common; nan and infinities among them.
SCORES = st.sampled_from([0.0, 1.0, 2.0, 3.5, np.inf, -np.inf, np.nan])
PHI = arrays(
    st.sampled_from([np.float32, np.float64]),
    array_shapes(min_dims=1, max_dims=4, max_side=4),
    elements=SCORES,
)


def brute_force(phi, k: int, per: str, ties: str) -> np.ndarray:
    mask = np.zeros(phi.shape, dtype=bool)
    groups = [(i,) for i in range(len(phi))] if per == "sample" else [()]
    for group in groups:
        where = [index for index in np.ndindex(phi.shape) if index[: len(group)] == group]
        where = [index for index in where if not math.isnan(phi[index])]
        where.sort(key=lambda index: -phi[index])  # stable: C order among equals
        flagged = where[:k]
        if ties == "all" and flagged:
            flagged = [index for index in where if phi[index] >= phi[flagged[-1]]]
        for index in flagged:
            mask[index] = True
    return mask


@given(PHI, st.sampled_from(["sample", "batch"]), st.sampled_from(["all", "first"]), st.data())
def test_top_k(phi, per: str, ties: str, data) -> None:
    size = phi.size if per == "batch" else phi.size // len(phi)
    k = data.draw(st.integers(1, size))
    mask = select_top_k(phi, k, per=per, ties=ties)
    assert mask.dtype == np.bool
    np.testing.assert_array_equal(mask, brute_force(phi, k, per, ties))
    assert not mask[np.isnan(phi)].any()


@given(
    PHI,
    st.sampled_from(["sample", "batch"]),
    st.sampled_from(["all", "first"]),
    st.integers(1, 100),
)
def test_top_fraction_is_top_k_rounded_up(phi, per: str, ties: str, percent: int) -> None:
    size = phi.size if per == "batch" else phi.size // len(phi)
    k = math.ceil(Fraction(percent, 100) * size)
    mask = select_top_fraction(phi, percent / 100, per=per, ties=ties)
    np.testing.assert_array_equal(mask, brute_force(phi, k, per, ties))


@pytest.mark.parametrize("size", [1, 3, 50, 100, 1000])
def test_every_percentage_gives_the_decimal_count(size: int) -> None:
    """0.07 * 100 is 7.000000000000001 in floating point, and ⌈·⌉ of it 8."""
    phi = np.arange(float(size))[None]
    for percent in range(1, 101):
        want = math.ceil(Fraction(percent * size, 100))
        assert select_top_fraction(phi, percent / 100).sum() == want
    assert select_top_fraction(phi, 1).all()
    assert select_top_fraction(phi, 1e-300).sum() == 1
    assert select_top_fraction(phi, np.float64(0.5)).sum() == math.ceil(size / 2)


@given(PHI, st.sampled_from([-np.inf, 0.0, 1.0, 3.0, 3.5, np.inf]))
def test_above(phi, threshold: float) -> None:
    mask = select_above(phi, threshold)
    assert mask.dtype == np.bool
    for index in np.ndindex(phi.shape):
        assert mask[index] == (float(phi[index]) >= threshold)


def test_above_does_not_round_the_threshold_to_float32() -> None:
    below = np.float32(0.7)  # 0.699999988
    np.testing.assert_array_equal(select_above(np.array([[below, 1]], np.float32), 0.7), [[0, 1]])
    assert not select_above(np.ones((1, 2), np.float32), 1e300).any()


def test_ties_as_the_authors_code() -> None:
    """Every element at least the k-th largest: three tied for one place are three."""
    phi = np.array([[7.0, 1.0, 7.0, 7.0], [4.0, 3.0, 3.0, 1.0]])
    np.testing.assert_array_equal(select_top_k(phi, 1), [[1, 0, 1, 1], [1, 0, 0, 0]])
    np.testing.assert_array_equal(select_top_k(phi, 2), [[1, 0, 1, 1], [1, 1, 1, 0]])
    np.testing.assert_array_equal(select_top_k(phi, 2, ties="first"), [[1, 0, 1, 0], [1, 1, 0, 0]])
    np.testing.assert_array_equal(select_top_k(phi, 4, per="batch"), [[1, 0, 1, 1], [1, 0, 0, 0]])


def test_fewer_numbers_than_k_and_no_number_at_all() -> None:
    phi = np.array([[np.nan, 2.0, np.nan], [np.nan] * 3, [-np.inf, 1.0, np.nan]])
    for ties in ("all", "first"):
        np.testing.assert_array_equal(
            select_top_k(phi, 2, ties=ties), [[0, 1, 0], [0, 0, 0], [1, 1, 0]]
        )


def test_all_axes_but_the_first_are_one_layer() -> None:
    phi = np.random.default_rng(0).permutation(48.0 + np.arange(48)).reshape(2, 2, 3, 4)
    mask = select_top_k(phi, 5)
    np.testing.assert_array_equal(mask.sum(axis=(1, 2, 3)), [5, 5])
    np.testing.assert_array_equal(mask.reshape(2, 24), select_top_k(phi.reshape(2, 24), 5))
    assert select_top_k(phi, 5, per="batch").sum() == 5


def test_scores_are_left_alone_and_may_be_whole_or_lists() -> None:
    phi = np.array([[3.0, np.nan, 1.0]])
    before = phi.copy()
    select_top_k(phi, 1)
    select_top_fraction(phi, 0.5, ties="first")
    np.testing.assert_array_equal(phi, before)
    np.testing.assert_array_equal(select_top_k(np.array([[1, 3, 2]]), 2), [[0, 1, 1]])
    np.testing.assert_array_equal(select_top_k([[1.0, 3.0]], 1), [[0, 1]])


PHI_2X3 = np.arange(6.0).reshape(2, 3)


@pytest.mark.parametrize(
    ("k", "per", "error", "message"),
    [
        (0, "sample", ValueError, "k is 0, expected 1 or more"),
        (-2, "batch", ValueError, "k is -2, expected 1 or more"),
        (1.0, "sample", TypeError, "k is 1.0, expected a whole number"),
        (True, "sample", TypeError, "k is True, expected a whole"),
        (np.True_, "sample", TypeError, "k is np.True_, expected"),
        (None, "sample", TypeError, "k is None, expected a whole"),
        (4, "sample", ValueError, "k is 4, expected at most 3, the scores per sample"),
        (7, "batch", ValueError, "k is 7, expected at most 6, the scores per batch"),
        (1, "layer", ValueError, 'per is \'layer\', expected "sample" or "batch"'),
    ],
)
def test_bad_k(k, per: str, error, message: str) -> None:
    with pytest.raises(error, match=re.escape(f"select_top_k: {message}")):
        select_top_k(PHI_2X3, k, per=per)


def test_whole_numbers_of_numpy_are_fine() -> None:
    np.testing.assert_array_equal(select_top_k(PHI_2X3, np.int64(1)), [[0, 0, 1], [0, 0, 1]])


@pytest.mark.parametrize("fraction", [0, 0.0, -0.1, 1.01, np.nan, np.inf])
def test_bad_fraction(fraction: float) -> None:
    with pytest.raises(ValueError, match=r"fraction is .*, expected 0 < fraction <= 1"):
        select_top_fraction(PHI_2X3, fraction)


@pytest.mark.parametrize("value", [True, "0.5", None, 1j])
def test_fraction_and_threshold_must_be_numbers(value) -> None:
    with pytest.raises(TypeError, match=r"select_top_fraction: fraction is .*expected a number"):
        select_top_fraction(PHI_2X3, value)
    with pytest.raises(TypeError, match=r"select_above: threshold is .*expected a number"):
        select_above(PHI_2X3, value)


def test_threshold_of_nan() -> None:
    with pytest.raises(ValueError, match="select_above: threshold is nan, expected a number"):
        select_above(PHI_2X3, np.nan)


@pytest.mark.parametrize(
    "select",
    [
        lambda phi: select_top_k(phi, 1),
        lambda phi: select_top_fraction(phi, 0.1),
        lambda phi: select_above(phi, 1.0),
    ],
    ids=["top_k", "top_fraction", "above"],
)
def test_bad_scores(select) -> None:
    with pytest.raises(
        ValueError, match=r"phi has shape \(0, 3\), expected a sample and a neuron"
    ):
        select(np.zeros((0, 3)))
    with pytest.raises(ValueError, match=r"phi has shape \(2, 0\)"):
        select(np.zeros((2, 0)))
    with pytest.raises(ValueError, match="phi is a single number"):
        select(np.array(1.0))
    with pytest.raises(TypeError, match="phi has dtype complex128"):
        select(np.zeros((2, 2), complex))


@pytest.mark.parametrize(
    "select",
    [
        lambda **kw: select_top_k(PHI_2X3, 1, **kw),
        lambda **kw: select_top_fraction(PHI_2X3, 1, **kw),
    ],
    ids=["top_k", "top_fraction"],
)
def test_bad_options(select) -> None:
    with pytest.raises(ValueError, match='ties is \'last\', expected "all" or "first"'):
        select(ties="last")
    with pytest.raises(ValueError, match="per is None, expected"):
        select(per=None)


@pytest.mark.gpu
@pytest.mark.parametrize("ties", ["all", "first"])
@pytest.mark.parametrize("per", ["sample", "batch"])
def test_on_the_gpu(per: str, ties: str) -> None:
    from minimono.backend import to_device, to_host

    phi = np.random.default_rng(1).integers(0, 9, size=(6, 4, 5)).astype(np.float32)
    phi[phi == 4] = np.nan
    there = to_device(phi, "cuda")
    for k in (1, 3, 20):
        np.testing.assert_array_equal(
            to_host(select_top_k(there, k, per=per, ties=ties)), brute_force(phi, k, per, ties)
        )
    np.testing.assert_array_equal(to_host(select_above(there, 5.0)), phi >= 5)
