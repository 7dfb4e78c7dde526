"""What threads may do at once with one model: docs/reliability.md says it function by function."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

import minimono as mm
from minimono.nn import taps


def test_a_model_in_eval_is_called_by_many_threads() -> None:
    model = mm.models.GPT(
        vocabulary=11, context=8, channels=16, heads=2, layers=2, dropout=0.5, rng=0
    )
    taps.insert(model, "block.0.mlp.act", mm.mono.MEmeL())
    model.eval()
    texts = [np.random.default_rng(i).integers(0, 11, size=(3, 8)) for i in range(40)]
    alone = [model(text).data.tobytes() for text in texts]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda text: model(text).data.tobytes(), texts * 5))
    assert together == alone * 5
