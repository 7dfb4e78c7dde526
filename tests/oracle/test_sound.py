"""No sound implementation is refused: the bound c = 16 of the tolerances, measured.

The scale of random data, computed in the ways that people compute it, against the exact truth.
`python tests/oracle/test_sound.py` prints how large c would have to be for each of them.
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest

from minimono.oracle.case import BOUND
from minimono.oracle.suites.scale import plain_scale
from minimono.oracle.truth import exact, rounded

# ---- mean and sum of squared deviations, in the dtype of the data --------------------------------


def two_pass(z: Any) -> Any:
    mean = z.mean(axis=0)
    return mean, ((z - mean) ** 2).sum(axis=0)


def welford(z: Any) -> Any:
    mean, m2 = np.zeros_like(z[0]), np.zeros_like(z[0])
    for n, row in enumerate(z, start=1):
        delta = row - mean
        mean = mean + delta / z.dtype.type(n)
        m2 = m2 + delta * (row - mean)
    return mean, m2


def merged(z: Any) -> Any:
    """In batches of seven, merged one after the other."""
    mean, m2, n = *two_pass(z[:7]), min(7, len(z))
    for start in range(7, len(z), 7):
        batch = z[start : start + 7]
        own, squares, b = *two_pass(batch), len(batch)
        delta, weight = own - mean, z.dtype.type(n * b / (n + b))
        m2 = m2 + squares + delta * delta * weight
        mean, n = mean + delta * z.dtype.type(b / (n + b)), n + b
    return mean, m2


def naive(z: Any) -> Any:
    """E[x²] - E[x]²: not sound."""
    mean = z.mean(axis=0)
    return mean, (z * z).sum(axis=0) - len(z) * mean * mean


SOUND = {"two passes": two_pass, "Welford": welford, "merged batches": merged}


# ---- data, truth, and what c the difference needs ------------------------------------------------


def datasets(runs: int, offset: float | None = None) -> Iterator[tuple[Any, Any]]:
    """History (n, 3) and new values (4, 3): tight and heavy-tailed data at all offsets."""
    for seed in range(runs):
        rng = np.random.default_rng([20261124, seed])
        n = int(rng.integers(2, 257))
        shift = 10 ** rng.uniform(-2, 5) if offset is None else offset
        if seed % 2:
            z = rng.standard_t(2, size=(n + 4, 3))
        else:
            z = rng.normal(size=(n + 4, 3))
        yield shift + z[:n], shift + z[n:]


@cache  # the algorithms are held to the same
def truth(numbers: bytes, dtype: str, samples: int) -> tuple[Any, Any]:
    """The scale of new values (4, 3), which follow so many samples, and the variance of these."""
    seen = exact(np.frombuffer(numbers, dtype).reshape(-1, 3))
    z, new = seen[:samples], seen[samples:]
    centre = z.sum(axis=0) / len(z)
    variance = ((z - centre) ** 2).sum(axis=0) / (len(z) - 1)
    return rounded(plain_scale(new, centre, variance, compensation=0)), rounded(variance)


def needed(
    moments: Callable[[Any], Any], dtype: Any, history: Any, values: Any
) -> tuple[float, float]:
    """The smallest c that allows this computation, and the condition of the data."""
    z, new = history.astype(dtype), values.astype(dtype)
    with np.errstate(all="ignore"):
        mean, m2 = moments(z)
        got = (new - mean) ** 2 / (m2 / dtype(len(z) - 1))
    assert got.dtype == dtype
    seen = np.concatenate([z, new])
    want, variance = truth(seen.tobytes(), seen.dtype.str, len(z))
    if not np.isfinite(want).all():
        return 0.0, 1.0
    u = float(np.finfo(dtype).eps)
    kappa = abs(seen.astype(float)).max(axis=0) / np.sqrt(variance)
    with np.errstate(invalid="ignore"):
        excess = np.maximum(abs(got.astype(float) - want) - 8 * u * want, 0.0)
    excess = np.where(np.isfinite(excess), excess, np.inf)
    half = np.sqrt(want) + want  # eta² + 2 half eta = excess
    with np.errstate(invalid="ignore"):
        eta = excess / (half + np.sqrt(half * half + excess))
    eta = np.where(np.isfinite(excess), eta, np.inf)
    return float((eta / (u * kappa)).max()), float(kappa.max())


# ---- tests ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("algorithm", SOUND)
def test_no_false_alarm(algorithm: str, dtype: Any) -> None:
    """With the other dtypes and algorithms: over a thousand random sound runs."""
    worst = max(needed(SOUND[algorithm], dtype, *data)[0] for data in datasets(170))
    assert worst <= BOUND


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_naive_form_is_refused_where_data_are_tight(dtype: Any) -> None:
    for data in datasets(20, offset=1e4):
        c, kappa = needed(naive, dtype, *data)
        assert c > BOUND or kappa < 1e3  # heavy tails: a large spread, so not tight


def table(runs: int = 400) -> str:
    """How large c has to be, per algorithm and dtype, over all data and for two offsets."""
    lines = [
        "| algorithm | dtype | any offset | offset 100 | offset 10,000 |",
        "|---|---|---|---|---|",
    ]
    for name, algorithm in {**SOUND, "E[x²] - E[x]² (not sound)": naive}.items():
        for dtype in (np.float32, np.float64):
            worst = [
                max(needed(algorithm, dtype, *data)[0] for data in datasets(runs, offset))
                for offset in (None, 100.0, 1e4)
            ]
            cells = " | ".join(f"{c:.1f}" if c < 1e5 else "over 100,000" for c in worst)
            lines.append(f"| {name} | {dtype.__name__} | {cells} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
