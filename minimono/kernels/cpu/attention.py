"""Attention on the CPU, without keeping the (T, T) weights of any head.

    S = q k^T / sqrt D        P = softmax(S)        out = P v

On the way back P is made again from q and k, by the same steps, and with delta = sum of P (g v^T)
over a row:

    gv = P^T g        dS = P (g v^T - delta) / sqrt D        gq = dS k        gk = dS^T q

Nothing is kept from the way forward, neither the log of a row's sum nor g out, which is delta too:
they are rounded otherwise than what they are subtracted from, and among scores of 20,000 the rest
would be all rounding.

(Milakov & Gimelshein 2018; Dao et al. 2022, arXiv 2205.14135, appendix B.) The matrices of one
sample's heads and a band of queries exist at a time; a causal band stops at its last query.

Shapes: `B` batch, `T` time (position), `H` heads, `D` channels of a head; a band is `R` queries
from `first` on, that look at the first `S` positions.
"""

from collections.abc import Iterator

import numpy as np

from minimono.backend import Array
from minimono.kernels import Kept, Needed
from minimono.kernels.cpu.compiling import compiled, inlined
from minimono.kernels.cpu.math import exp_nonpositive
from minimono.kernels.cpu.sums import largest, total, total_of_products
from minimono.kernels.parallel import in_parts

WHOLE = 32  # numbers: the rest of a row, one by one, would take as long as all the others
BAND = 64  # queries: the fastest of 32, 64, 128 and 256 at T = 128 and 256


@inlined
def up_to_whole(seen: int, end: int) -> int:
    """Return `seen`, rounded up to a multiple of WHOLE, but not beyond `end`."""
    return min((seen + WHOLE - 1) // WHOLE * WHOLE, end)


@inlined
def softmax_of_seen(row: Array, seen: int, scale: float, hidden: Array) -> None:
    """Turn products q k^T into weights, in place; 0 from position `seen` on and where hidden."""
    row[seen:] = -np.inf
    for j in range(min(seen, len(hidden))):
        if hidden[j]:
            row[j] = -np.inf
    for j in range(len(row)):
        row[j] *= scale
    top = largest(row)
    for j in range(len(row)):
        row[j] = exp_nonpositive(row[j] - top)
    share = row.dtype.type(1.0 / total(row))
    for j in range(len(row)):
        row[j] *= share


@compiled
def weights_kernel(scores: Array, scale: float, hidden: Array, first: int) -> None:
    """Turn products q k^T (H, R, S) into weights, in place.

    `first` < 0: not causal. `hidden` (S,) or (0,): True at positions that nobody may look at.
    """
    for h in range(scores.shape[0]):
        for i in range(scores.shape[1]):
            seen = scores.shape[2] if first < 0 else first + i + 1
            width = up_to_whole(seen, scores.shape[2])
            softmax_of_seen(scores[h, i, :width], seen, scale, hidden)
            scores[h, i, width:] = 0.0


@compiled
def weights_again_kernel(
    scores: Array, scale: float, hidden: Array, first: int, gweights: Array
) -> None:
    """Turn products q k^T and g v^T (H, R, S) into weights P and dS, both in place."""
    for h in range(scores.shape[0]):
        for i in range(scores.shape[1]):
            seen = scores.shape[2] if first < 0 else first + i + 1
            width = up_to_whole(seen, scores.shape[2])
            row, grow = scores[h, i, :width], gweights[h, i, :width]
            softmax_of_seen(row, seen, scale, hidden)
            grow[seen:] = 0.0
            delta = row.dtype.type(total_of_products(row, grow))
            for j in range(width):
                grow[j] = row[j] * (grow[j] - delta) * scale
            scores[h, i, width:] = 0.0
            gweights[h, i, width:] = 0.0


NONE_HIDDEN = np.zeros(0, np.bool_)


def packed_attention_forward(
    qkv: Array, mask: Array | None, is_causal: bool
) -> tuple[Array, Kept]:
    """`qkv` (B, T, 3, H, D), `mask` (B, T) booleans or None -> (B, T, H, D)."""
    B, T, _, H, D = qkv.shape
    scale = qkv.dtype.type(D**-0.5)
    out = np.empty((B, T, H, D), qkv.dtype)

    def sample(b: int) -> None:
        q, k, v = _heads_of(qkv[b])
        o = out[b].transpose(1, 0, 2)  # (T, H, D) -> (H, T, D)
        hidden = NONE_HIDDEN if mask is None else ~mask[b]
        for rows, seen in _bands(T, is_causal):
            weights = q[:, rows] @ k[:, :seen].transpose(0, 2, 1)  # (H, R, D) @ (H, D, S)
            first = rows.start if is_causal else -1
            weights_kernel(weights, scale, hidden[:seen], first)
            np.matmul(weights, v[:, :seen], out=o[:, rows])  # (H, R, S) @ (H, S, D)

    def run(part: slice) -> None:
        for b in range(B)[part]:
            sample(b)

    in_parts(run, B, B * H * T * T)
    return out, None


def packed_attention_backward(
    needed: Needed, g: Array, out: Array, kept: Kept, qkv: Array, mask: Array | None,
    is_causal: bool,
) -> tuple[Array, ...]:
    B, T, _, H, D = qkv.shape
    scale = qkv.dtype.type(D**-0.5)
    gqkv = np.empty(qkv.shape, qkv.dtype)

    def sample(b: int) -> None:
        q, k, v = _heads_of(qkv[b])
        gq, gk, gv = _heads_of(gqkv[b])
        gout = g[b].transpose(1, 0, 2)  # (T, H, D) -> (H, T, D)
        hidden = NONE_HIDDEN if mask is None else ~mask[b]
        bands = list(_bands(T, is_causal))
        for rows, seen in reversed(bands):  # the last band reaches all positions
            weights = q[:, rows] @ k[:, :seen].transpose(0, 2, 1)  # (H, R, D) @ (H, D, S)
            gweights = gout[:, rows] @ v[:, :seen].transpose(0, 2, 1)
            first = rows.start if is_causal else -1
            weights_again_kernel(weights, scale, hidden[:seen], first, gweights)
            np.matmul(gweights, k[:, :seen], out=gq[:, rows])  # (H, R, S) @ (H, S, D)
            back, gback = weights.transpose(0, 2, 1), gweights.transpose(0, 2, 1)  # (H, S, R)
            if rows.stop == T:
                np.matmul(back, gout[:, rows], out=gv)
                np.matmul(gback, q[:, rows], out=gk)
            else:
                gv[:, :seen] += back @ gout[:, rows]
                gk[:, :seen] += gback @ q[:, rows]

    def run(part: slice) -> None:
        for b in range(B)[part]:
            sample(b)

    in_parts(run, B, B * H * T * T)
    return (gqkv,)


def _heads_of(qkv: Array) -> Iterator[Array]:
    """(T, 3, H, D) -> three times (H, T, D), views."""
    return iter(qkv.transpose(1, 2, 0, 3))


def _bands(T: int, is_causal: bool) -> Iterator[tuple[slice, int]]:
    """Yield bands of queries, and how many positions the last query of each sees."""
    for start in range(0, T, BAND):
        stop = min(start + BAND, T)
        yield slice(start, stop), stop if is_causal else T
