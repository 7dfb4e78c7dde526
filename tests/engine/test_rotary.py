"""Rotary positions against products of complex numbers, and gates against their definition."""

import math
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minimono.engine import functional as F
from minimono.engine.tensor import tensor
from minimono.nn.decoder import grouped_query_attention, looking_back
from minimono.nn.rotary import Rotary, frequencies, linear, llama3, yarn, yarn_magnitude


def normal(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape)


def turned(x: Any, angles: Any, interleaved: bool) -> Any:
    """Each pair of channels as one complex number, times e^(i angle); one pair at a time."""
    out, half = x.copy(), angles.shape[-1]
    for place in np.ndindex(x.shape[:-1]):
        t = place[:-1] if angles.ndim > 2 else place[-2:-1]
        for i in range(half):
            a, b = (2 * i, 2 * i + 1) if interleaved else (i, i + half)
            z = complex(x[(*place, a)], x[(*place, b)]) * np.exp(1j * angles[(*t, i)])
            out[(*place, a)], out[(*place, b)] = z.real, z.imag
    return out


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("R", [0, 2, 4, 6])
def test_pairs_are_complex_numbers(R: int, interleaved: bool) -> None:
    x = normal(2, 3, 2, 7)
    for shape in ((3, R // 2), (2, 3, R // 2)):
        angles = normal(*shape, seed=1)
        out = F.rotary_embedding(tensor(x), np.cos(angles), np.sin(angles), interleaved).data
        np.testing.assert_allclose(out, turned(x, angles, interleaved), rtol=1e-13, atol=1e-14)
        np.testing.assert_array_equal(out[..., R:], x[..., R:])


def test_by_hand() -> None:
    """q = 1, 2, 3, 4 at position 1, base 10000: half and interleaved pairs, and 2 of 4 channels."""
    x = tensor([[[0.0] * 4], [[1.0, 2.0, 3.0, 4.0]]])
    for R, interleaved, expected in (
        (4, False, [-1.984110648556, 1.959900667497, 2.462377902412, 4.019799668335]),
        (4, True, [-1.142639663748, 1.922075596544, 2.959850667913, 4.029799501669]),
        (2, False, [-1.142639663748, 1.922075596544, 3.0, 4.0]),
    ):
        cos, sin = Rotary(frequencies(R)).of_positions(2)
        out = F.rotary_embedding(x, cos, sin, interleaved).data[1, 0]
        np.testing.assert_allclose(out, expected, rtol=1e-12)


@given(st.integers(0, 90), st.integers(0, 9), st.booleans())
def test_products_depend_on_the_distance_only(m: int, n: int, interleaved: bool) -> None:
    cos, sin = (part.data for part in Rotary(frequencies(6, 100.0)).of_positions(100))
    q, k = normal(1, 1, 7), normal(1, 1, 7, seed=1)

    def at(x: Any, t: int) -> Any:
        return F.rotary_embedding(x, cos[t : t + 1], sin[t : t + 1], interleaved).data.ravel()

    np.testing.assert_allclose(at(q, m + n) @ at(k, m), at(q, n) @ at(k, 0), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(at(q, m) @ at(q, m), q.ravel() @ q.ravel(), rtol=1e-13)


def test_frequencies() -> None:
    f = frequencies(64, 500000.0)
    with mpmath.workdps(40):
        exact = [float(mpmath.mpf(500000) ** (mpmath.mpf(-2 * i) / 64)) for i in range(32)]
    np.testing.assert_allclose(f, exact, rtol=1e-14)
    for bad, words in (
        (lambda: frequencies(3), "frequencies: channels is 3, expected a multiple of 2"),
        (lambda: frequencies(4, 0.0), "frequencies: base is 0"),
    ):
        with pytest.raises(ValueError, match=words):
            bad()


def test_scaled_frequencies() -> None:
    f = frequencies(8, 10000.0)
    np.testing.assert_array_equal(linear(f, 4.0), f / 4.0)
    # llama3: 1 turns 159 times in the context of 1000, .1: 15.9, .01: 1.59, .001: .159 times.
    scaled = llama3(f, 8.0, 1.0, 4.0, 1000)
    s = (1000 * 0.01 / (2 * math.pi) - 1) / 3
    np.testing.assert_allclose(
        scaled, [1.0, 0.1, (1 - s) * 0.01 / 8 + s * 0.01, 0.001 / 8], rtol=1e-14
    )
    # yarn: the pair that turns 32 times is number .69, that once 2.2: 0 to 3, rounded outwards.
    numbers = [8 * math.log(1000 / (r * 2 * math.pi)) / (2 * math.log(10000)) for r in (32, 1)]
    assert 0 < numbers[0] < 1 < 2 < numbers[1] < 3
    slower = np.arange(4) / 3
    scaled = yarn(8, 10000.0, 8.0, 1000)
    np.testing.assert_allclose(scaled, f * (1 - slower) + f / 8 * slower, rtol=1e-14)
    slower = np.clip((np.arange(4) - numbers[0]) / (numbers[1] - numbers[0]), 0, 1)
    scaled = yarn(8, 10000.0, 8.0, 1000, truncate=False)
    np.testing.assert_allclose(scaled, f * (1 - slower) + f / 8 * slower, rtol=1e-13)
    assert yarn_magnitude(8.0) == 0.1 * math.log(8.0) + 1.0
    assert yarn_magnitude(0.5) == 1.0


def test_swiglu_of_a_layer() -> None:
    """x = (1, 2), gates 10/01/1-1, ups 11/20/0-1, down 101/01-1."""
    x, G = np.array([1.0, 2.0]), np.array([[1.0, 0], [0, 1], [1, -1]])
    U, D = np.array([[1.0, 1], [2, 0], [0, -1]]), np.array([[1.0, 0, 1], [0, 1, -1]])
    out = D @ F.swiglu(tensor(G @ x), tensor(U @ x)).data
    np.testing.assert_allclose(out, [2.73105857863, 2.985305469172], rtol=1e-12)


def test_grouped_queries_by_hand() -> None:
    """Queries 1, 2, 1, 2; two heads of keys (0, ln 3), (ln 3, 0), of values (0, 4), (8, 0)."""
    q = tensor(np.array([1.0, 2.0, 1.0, 2.0]).reshape(1, 1, 4, 1))
    k = tensor(np.array([[0.0, math.log(3)], [math.log(3), 0.0]]).T.reshape(1, 2, 2, 1))
    v = tensor(np.array([[0.0, 4.0], [8.0, 0.0]]).T.reshape(1, 2, 2, 1))
    out = grouped_query_attention(q, k, v).data.ravel()
    np.testing.assert_allclose(out, [3.0, 3.6, 6.0, 7.2], rtol=1e-14)
    seen = grouped_query_attention(q, k, v, mask=np.array([[True, False]])).data.ravel()
    np.testing.assert_allclose(seen, [0.0, 0.0, 8.0, 8.0], atol=1e-14)


@pytest.mark.parametrize("key_heads", [1, 2, 4])
def test_grouped_queries_by_loops(key_heads: int) -> None:
    q, k = normal(2, 5, 4, 3), normal(2, 5, key_heads, 3, seed=1)
    v = normal(2, 5, key_heads, 3, seed=2)
    for window in (None, 1, 2, 5):
        mask = looking_back(5, window)
        out = grouped_query_attention(*map(tensor, (q, k, v)), mask=mask, is_causal=mask is None)
        for b, t, h in np.ndindex(2, 5, 4):
            places = range(0 if window is None else max(0, t - window + 1), t + 1)
            group = h // (4 // key_heads)
            weights = [math.exp(q[b, t, h] @ k[b, s, group] / math.sqrt(3)) for s in places]
            mean = sum(w * v[b, s, group] for w, s in zip(weights, places, strict=True))
            np.testing.assert_allclose(out.data[b, t, h], mean / sum(weights), rtol=1e-12)


def test_shapes_that_do_not_fit() -> None:
    q, k = tensor(normal(2, 5, 4, 3)), tensor(normal(2, 5, 3, 3))
    for wrong, words in (
        (lambda: grouped_query_attention(q[0], k, k), r"q has shape \(5, 4, 3\), expected \(B, T"),
        (lambda: grouped_query_attention(q, k[:1], k), r"k has shape .*expected \(2, S, K, 3\)"),
        (lambda: grouped_query_attention(q, k, k[:, :1]), r"v has shape .*expected .*, as k"),
        (lambda: grouped_query_attention(q, k, k), r"heads of q is 4, expected a multiple of 3"),
    ):
        with pytest.raises(ValueError, match=f"^grouped_query_attention: {words}"):
            wrong()
