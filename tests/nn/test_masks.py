"""Every `mask=` of attention: booleans say where one may look, and nothing else is guessed at."""

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest

import minimono as mm
from minimono.engine import functional as F
from minimono.nn import MultiHeadAttention

RNG = np.random.default_rng
B, T = 3, 5
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 1, 0], [1, 0, 0, 0, 0]], dtype=bool)
Q = mm.tensor(RNG(0).standard_normal((B, T, 4)))
QKV = mm.tensor(RNG(0).standard_normal((B, T, 3, 2, 4)).astype(np.float32))
X = mm.tensor(RNG(1).standard_normal((B, T, 8)).astype(np.float32))
IDS = RNG(2).integers(0, 7, (B, T))
LAYER = MultiHeadAttention(8, 2, rng=RNG(3))
BERT = mm.models.BERT(
    vocabulary=7, context=T, channels=8, heads=2, layers=2, classes=3, rng=RNG(4)
)
USES: dict[str, Any] = {
    "scaled_dot_product_attention": lambda mask: F.scaled_dot_product_attention(
        Q, Q, Q, mask=mask if mask is None else _over_queries(mask)
    ),
    "self_attention": lambda mask: F.self_attention(QKV, mask=mask),
    "causal": lambda mask: F.self_attention(QKV, mask=mask, is_causal=True),
    "MultiHeadAttention": lambda mask: LAYER(X, mask),
    "BERT": lambda mask: BERT(IDS, mask=mask),
}


def _over_queries(mask: Any) -> Any:
    """(B, T) -> (B, 1, T), in the same kind of container."""
    if isinstance(mask, list):
        return [[row] for row in mask]
    return mask[:, None] if mask.ndim > 1 else mask


def by_hand(mask: Any) -> Any:
    """softmax(q k^T / 2) v, sample by sample, over the positions that may be looked at."""
    out = np.empty(Q.shape)
    for b in range(B):
        kept = Q.data[b][mask[b]]
        scores = np.exp(Q.data[b] @ kept.T / 2.0)
        out[b] = scores / scores.sum(axis=1, keepdims=True) @ kept
    return out


def test_true_is_where_one_may_look() -> None:
    found = USES["scaled_dot_product_attention"](MASK).data
    np.testing.assert_allclose(found, by_hand(MASK), rtol=1e-12)


@pytest.mark.parametrize("reading", [False, True], ids=["kernel", "formula"])
@pytest.mark.parametrize("use", USES)
def test_a_mask_may_be_an_array_a_tensor_or_a_list(use: str, reading: bool) -> None:
    with mm.reference() if reading else nullcontext():
        expected = USES[use](MASK).data
        assert not np.array_equal(expected, USES[use](None).data)
        for mask in (MASK.tolist(), mm.tensor(MASK), np.asfortranarray(MASK)):
            np.testing.assert_array_equal(USES[use](mask).data, expected)


ADDITIVE = np.where(MASK, 0.0, -1e9)


REFUSED: dict[str, Any] = {
    "additive": ADDITIVE,
    "additive float32": ADDITIVE.astype(np.float32),
    "additive, infinite": np.where(MASK, 0.0, -np.inf),
    "additive list": ADDITIVE.tolist(),
    "additive tensor": mm.tensor(ADDITIVE),
    "ones and zeros": MASK.astype(float),
    "float16": MASK.astype(np.float16),
    "text": np.where(MASK, "1", "0"),
    "complex": MASK.astype(complex),
    "objects": MASK.astype(object),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("kind", REFUSED)
def test_a_mask_of_real_numbers_is_refused(use: str, kind: str) -> None:
    """Others add it to the scores: 0 keeps, -1e9 hides. Read as booleans it is the opposite."""
    name = {"causal": "self_attention", "MultiHeadAttention": "self_attention"}.get(use, use)
    with pytest.raises(TypeError, match=f"^{name}: mask has dtype .*expected booleans"):
        USES[use](REFUSED[kind])


@pytest.mark.parametrize("use", [use for use in USES if use != "BERT"])
def test_attention_refuses_whole_numbers_too(use: str) -> None:
    with pytest.raises(TypeError, match=r"mask has dtype int64, expected booleans"):
        USES[use](MASK.astype(np.int64))


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.int8, np.uint8])
def test_bert_takes_ones_and_zeros_as_tokenisers_give_them(dtype: Any) -> None:
    expected = BERT(IDS, mask=MASK).data
    np.testing.assert_array_equal(BERT(IDS, mask=MASK.astype(dtype)).data, expected)
    np.testing.assert_array_equal(BERT(IDS, mask=MASK.astype(dtype).tolist()).data, expected)


@pytest.mark.parametrize("hidden", [-1, -10000, 2, -(10**9)])
def test_bert_refuses_other_whole_numbers(hidden: int) -> None:
    with pytest.raises(ValueError, match=rf"^BERT: mask has {hidden} at \[1, 2\], expected bool"):
        BERT(IDS, mask=np.where(MASK, 0, hidden))


@pytest.mark.parametrize("use", ["self_attention", "causal", "MultiHeadAttention", "BERT"])
@pytest.mark.parametrize(
    "shape", [(T, B), (1, T), (B, 1), (T,), (B, T, 1), (B, 1, T), (), (B, T + 1), (B, 0)],
    ids="shape {}".format,
)
@pytest.mark.parametrize("reading", [False, True], ids=["kernel", "formula"])
def test_a_mask_of_another_shape_is_refused(use: str, shape: Any, reading: bool) -> None:
    with mm.reference() if reading else nullcontext():
        with pytest.raises(ValueError, match=r"mask has shape .*\(3, 5\)"):
            USES[use](np.ones(shape, dtype=bool))


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("dtype", [bool, np.int64])
def test_a_row_without_a_place_to_look_is_refused(use: str, dtype: Any) -> None:
    if dtype is not bool and use != "BERT":
        return
    for hidden in (MASK & (np.arange(B)[:, None] != 1), np.zeros((B, T), dtype=bool)):
        with pytest.raises(ValueError, match="mask leaves a query nothing to look at"):
            USES[use](hidden.astype(dtype))


@pytest.mark.parametrize("reading", [False, True], ids=["kernel", "formula"])
def test_heads_without_channels_are_refused(reading: bool) -> None:
    q, qkv = mm.tensor(np.ones((2, 3, 0))), mm.tensor(np.ones((2, 3, 3, 2, 0)))
    with mm.reference() if reading else nullcontext():
        with pytest.raises(ValueError, match=r"^scaled_dot_.*: q has shape \(2, 3, 0\)"):
            F.scaled_dot_product_attention(q, q, q)
        with pytest.raises(ValueError, match=r"^self_attention: qkv has shape \(2, 3, 3, 2, 0\)"):
            F.self_attention(qkv)
