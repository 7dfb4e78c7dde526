"""On the GPU every function gives what it gives here: on a stand-in, and on a real one."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minimono as mm
from minimono import mono
from minimono.backend import device_of, to_device, to_host
from minimono.mono.batch_scores import survey
from minimono.mono.moments import Moments, batch_moments
from minimono.mono.scale import scale

RNG = np.random.default_rng(7)
Z = RNG.normal(size=(6, 2, 3)).astype(np.float32)
Z[:, 1, 1] = 2.0  # a constant neuron
LATER = RNG.normal(size=(5, 2, 3)).astype(np.float32)
ROWS = RNG.normal(size=(6, 4))
CLASSES = np.array([0, 1, 1, 2, 0, 2])
PAST = Moments.of(Z)


def tracked(batch: Any, **settings: Any) -> list[Any]:
    """What a tracker says of three batches, and its state."""
    tracker = mono.ScaleTracker(forget_after=1, **settings)
    first = tracker.score(batch(Z))
    return [
        first,
        tracker.score(batch(LATER)),
        tracker.flag_top_k(batch(LATER[::-1].copy()), 2, constant=False),
        tracker.mean,
        tracker.variance,
        *tracker.state_dict().values(),
    ]


def scores(batch: Any, **settings: Any) -> list[Any]:
    found = mono.score_batch(batch(LATER), PAST, top_k=3, threshold=0.5, **settings)
    return [*found[:-1], found.batch.mean, found.batch.m2]


def penalised(batch: Any) -> list[Any]:
    z = mm.tensor(batch(ROWS), requires_grad=True)
    loss = mono.decorrelation_penalty(z) + mono.decorrelation_penalty(z, convention="authors")
    (loss + mono.decorrelation_penalty(z, over="features") + mono.l1_penalty(z)).backward()
    return [loss.data, z.grad]


def with_mono_loss(batch: Any) -> list[Any]:
    found = []
    for convention in ("paper", "authors"):
        z = mm.tensor(batch(Z), requires_grad=True)
        loss = mono.mono_loss(z, batch(ROWS), convention=convention)  # type: ignore[arg-type]
        loss.backward()
        found += [loss.data, z.grad]
    return found


def inhibited(batch: Any) -> list[Any]:
    z = mm.tensor(batch(LATER), requires_grad=True)
    out = mono.deactivate(z, batch(LATER > 0.5), batch(PAST.mean), strength=2.0)
    out.sum().backward()
    return [out.data, z.grad]


def scale_of_last(batch: Any) -> list[Any]:
    module = mono.MEmeL(k=2, start_after=1)
    for data in (Z, LATER):
        module(mm.tensor(batch(data)))
    assert module.last is not None
    return [module.last.scale, module.last.mean, module.last.flagged]


def layers(batch: Any) -> list[tuple[Any, ...]]:
    return [tuple(batch(a) for a in (ROWS.T, ROWS[:, 0], ROWS[0], ROWS[1]))] * 2


FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "moments": lambda d: (lambda m: [m.mean, m.m2, m.variance(), m.variance(ddof=6)])(
        Moments.of(d(Z))
    ),
    "made": lambda d: (lambda m: [m.mean, m.m2])(Moments(6, d(PAST.mean), d(PAST.m2))),
    "update": lambda d: (lambda m: [m.mean, m.m2])(Moments.of(d(Z)).update(d(LATER)).resized(4)),
    "scale": lambda d: mono.monosemantic_scale(d(LATER), d(PAST.mean), d(PAST.variance())),
    "compensated": lambda d: mono.monosemantic_scale(
        d(LATER), d(PAST.mean), d(PAST.variance()), compensation=0.1
    ),
    "score_batch": scores,
    "score_batch and phi": lambda d: scores(d, keep_phi=True, compensation=0.1),
    "tracker": tracked,
    "tracker, authors": lambda d: tracked(d, convention="authors", compensation=0.1),
    "top k": lambda d: mono.select_top_k(d(LATER), 3),
    "top 1": lambda d: mono.select_top_k(d(LATER), 1),
    "first": lambda d: mono.select_top_k(d(np.round(LATER)), 3, ties="first"),
    "fraction": lambda d: mono.select_top_fraction(d(LATER), 0.5, per="batch"),
    "above": lambda d: mono.select_above(d(LATER), 0.5),
    "dimensionality": lambda d: mono.feature_dimensionality(d(ROWS)),
    "selectivity": lambda d: mono.class_selectivity(d(abs(Z)), d(CLASSES)),
    "purity": lambda d: mono.single_feature_purity(d(abs(Z))),
    "monosemanticity": lambda d: mono.monosemanticity_score(d(Z), d(ROWS)),
    "clarity": lambda d: mono.clarity(d(ROWS)),
    "hoyer": lambda d: mono.hoyer_sparsity(d(ROWS)),
    "variance_sparsity": lambda d: mono.variance_sparsity(d(Z)),
    "effective features": lambda d: np.float64(mono.effective_features(d(Z))),
    "fms": lambda d: [*mono.feature_monosemanticity_score(d(ROWS), d(CLASSES == 1))[1:]],
    "polysemanticity": lambda d: mono.polysemanticity(d(Z), rng=0),
    "similarity": lambda d: mono.concept_similarity(d(ROWS), d(ROWS[:2])),
    "redundancy": lambda d: mono.redundancy(d(ROWS), per_neuron=True),
    "jensen shannon": lambda d: mono.jensen_shannon_distance(d(abs(ROWS)), d(abs(ROWS[::-1]))),
    "separability": lambda d: mono.concept_separability(d(Z), d(CLASSES), bins=3),
    "separability of all": lambda d: mono.concept_separability(
        d(Z), d(CLASSES), bins=3, aggregate="generalised"
    ),
    "separability of one": lambda d: mono.concept_separability(
        d(Z), d(CLASSES[:, None] == np.arange(3)), bins=3, aggregate="one_vs_rest"
    ),
    "absorption": lambda d: [*mono.absorption(
        d(abs(ROWS)), d(ROWS[:4]), d(ROWS[::-1]), d(ROWS[2]), [1, 3],
        present=d(CLASSES != 1), bias=d(ROWS[3]),
    )[:2]],
    "main units": lambda d: mono.main_units(d(ROWS), d(CLASSES == 2)),
    "mono loss": with_mono_loss,
    "response": lambda d: mono.response_log_probability(
        mm.tensor(d(Z)), d(CLASSES[:, None] * [1, 1]), d(np.ones((6, 2), bool))
    ).data,
    "preferences": lambda d: [
        mono.ipo_loss(*map(d, ROWS[:4])).data,
        mono.dpo_loss(*map(d, ROWS[:4]), label_smoothing=0.2).data,
    ],
    "active": lambda d: mono.active_nodes(d(Z)),
    "active counts": lambda d: mono.active_counts(d(Z), per="sample"),
    "emergence of masks": lambda d: mono.emergence_of_masks(
        [d(ROWS > 0)], [d(ROWS[0] > 0), d(ROWS[:, 0] > 0)]
    ),
    "prune": lambda d: mono.prune_by_magnitude([d(ROWS), d(Z)], 0.4),
    "prune all": lambda d: mono.prune_by_magnitude([d(ROWS), d(Z)], 0.4, scope="global"),
    "feature scale": lambda d: [*mono.feature_scale(d(Z), d(CLASSES))],
    "memberships": lambda d: [*mono.feature_scale(d(Z), d(CLASSES[:, None] == np.arange(4)))],
    "own feature": lambda d: mono.own_feature(d(CLASSES), d(np.array([0, 5, -1]))),
    "false killing": lambda d: mono.false_killing_rate(
        d(ROWS), d(CLASSES), d(np.array([0, 1, 2, 0])), fraction=0.3, scope="per_input"
    ),
    "kolmogorov": lambda d: np.float64(mono.kolmogorov_smirnov(d(ROWS), d(Z[:2]))),
    "decorrelation": lambda d: mono.feature_decorrelation(d(ROWS)),
    "penalties": penalised,
    "proxy": lambda d: mono.superposition_proxy(d(ROWS.T), d(ROWS[:, 0])),
    "superposition": lambda d: mono.superposition_scores(layers(d)),
    "deactivate": inhibited,
    "MEmeL": scale_of_last,
}


def here(value: Any) -> list[Any]:
    """All arrays of a result, on the host."""
    return [to_host(v) for v in (value if isinstance(value, list) else [value]) if v is not None]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_as_on_the_cpu(name: str, cuda: str) -> None:
    function = FUNCTIONS[name]
    wanted = here(function(np.asarray))
    with np.errstate(under="raise"):
        found = function(lambda array: to_device(array, "cuda"))
    found = here(found)
    assert len(found) == len(wanted)
    for got, want in zip(found, wanted, strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got, want, rtol=1e-5 if want.dtype == np.float32 else 1e-12,
                                   atol=1e-14)


def test_moments_move(cuda: str) -> None:
    there = PAST.to("cuda")
    assert device_of(there.mean) == device_of(there.m2) == "cuda"
    assert there.count == PAST.count
    back = there.to("cpu")
    assert device_of(back.mean) == device_of(back.m2) == "cpu"
    np.testing.assert_array_equal(back.mean, PAST.mean)
    np.testing.assert_array_equal(back.m2, PAST.m2)
    assert PAST.to("cpu") is PAST
    assert there.to("cuda") is there


def test_the_first_batch_decides_the_device(cuda: str) -> None:
    empty = Moments.empty((2, 3))
    there = empty.update(to_device(Z, "cuda")).update(to_device(LATER, "cuda"))
    assert device_of(there.mean) == "cuda"
    np.testing.assert_allclose(to_host(there.m2), PAST.update(LATER).m2, rtol=1e-12)
    assert device_of(PAST.to("cuda").merge(empty).mean) == "cuda"


def test_a_module_goes_on_where_its_model_moved(cuda: str) -> None:
    for module in (mono.MEmeL(k=2, start_after=1), mono.L2E(0.1, start_after=1)):
        for data in (Z, LATER):
            module(mm.tensor(data))
        found = module(mm.tensor(LATER, device="cuda"))
        assert device_of(found.data) == "cuda"


def test_devices_do_not_mix(cuda: str) -> None:
    mean, m2, variance = (to_device(a, "cuda") for a in (PAST.mean, PAST.m2, PAST.variance()))
    for mixed in (
        lambda: Moments(6, PAST.mean, m2),
        lambda: Moments(6, mean, PAST.m2),
        lambda: PAST.merge(PAST.to("cuda")),
        lambda: PAST.to("cuda").merge(PAST),
        lambda: mono.monosemantic_scale(Z, mean, PAST.variance()),
        lambda: mono.monosemantic_scale(Z, PAST.mean, variance),
        lambda: mono.monosemantic_scale(to_device(Z, "cuda"), PAST.mean, PAST.variance()),
        lambda: mono.class_selectivity(abs(Z), to_device(CLASSES, "cuda")),
        lambda: mono.class_selectivity(to_device(abs(Z), "cuda"), CLASSES),
        lambda: mono.monosemanticity_score(Z, to_device(ROWS, "cuda")),
        lambda: mono.monosemanticity_score(to_device(Z, "cuda"), ROWS),
        lambda: mono.mono_loss(Z, to_device(ROWS, "cuda")),
        lambda: mono.concept_similarity(ROWS, to_device(ROWS, "cuda")),
        lambda: mono.concept_separability(Z, to_device(CLASSES, "cuda")),
        lambda: mono.feature_monosemanticity_score(ROWS, to_device(CLASSES == 1, "cuda")),
        lambda: mono.polysemanticity(ROWS, labels=to_device(CLASSES, "cuda")),
        lambda: mono.absorption(ROWS, to_device(ROWS[:4], "cuda"), ROWS, ROWS[0], [0]),
        lambda: mono.main_units(ROWS, to_device(CLASSES == 1, "cuda")),
        lambda: mono.feature_scale(Z, to_device(CLASSES, "cuda")),
        lambda: mono.log_distance_penalty(
            mm.tensor(ROWS, device="cuda"), ROWS > 0, np.full(4, 9.0)
        ),
        lambda: mono.own_feature(CLASSES, to_device(CLASSES, "cuda")),
        lambda: mono.superposition_proxy(ROWS.T, to_device(ROWS[:, 0], "cuda")),
        lambda: mono.prune_by_magnitude([ROWS, to_device(Z, "cuda")], 0.4),
    ):
        with pytest.raises(ValueError, match="arrays live on different devices"):
            mixed()


def test_moments_on_the_device_are_checked_when_asked(cuda: str) -> None:
    """Nothing waits for the device before that; here an overflow is refused at once."""
    huge = to_device(np.array([[1e200], [-1e200]]), "cuda")
    with np.errstate(over="ignore"):
        moments = Moments.of(huge)
    with pytest.raises(ValueError, match="m2 must be finite"):
        moments.check()


def test_each_device_has_its_kernels(cuda: str) -> None:
    from minimono.kernels.cpu import scale as on_cpu
    from minimono.kernels.gpu import scale as on_gpu

    there = to_device(Z, "cuda")
    for function in (batch_moments, scale, survey):
        assert function.on(Z) is getattr(on_cpu, function.name)
        assert function.on(there) is getattr(on_gpu, function.name)
        assert function.on(Z, there) is function.on(Z + 1j)  # neither has one: the formula runs
        with mm.reference():
            assert function.on(Z) is function.on(there) is function.on(Z + 1j)
