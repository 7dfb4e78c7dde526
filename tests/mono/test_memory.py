"""A measure of many inputs needs the memory of one batch at most beside them."""

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from minimono import mono
from minimono.mono.moments import Moments

INPUTS, NEURONS = 50_000, 128
HISTORY = Moments.of(np.random.default_rng(1).standard_normal((64, NEURONS)))
MEASURES: dict[str, Callable[[np.ndarray], Any]] = {
    "Moments.of": Moments.of,
    "score_batch": lambda z: mono.score_batch(z, HISTORY, top_k=1, threshold=4.0),
    "monosemanticity_score": lambda z: mono.monosemanticity_score(z, z[:, :16]),
    "feature_decorrelation": mono.feature_decorrelation,
    "clarity": mono.clarity,
    "hoyer_sparsity": mono.hoyer_sparsity,
    "hoyer_sparsity of neurons": lambda z: mono.hoyer_sparsity(z.T),
    "variance_sparsity": mono.variance_sparsity,
}


@pytest.mark.parametrize("name", MEASURES)
def test_many_inputs_in_the_memory_of_one_batch(name: str) -> None:
    z = np.random.default_rng(0).standard_normal((INPUTS, NEURONS), dtype=np.float32)
    MEASURES[name](z[:100])
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        MEASURES[name](z)
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert peak < 1.0 * z.nbytes
