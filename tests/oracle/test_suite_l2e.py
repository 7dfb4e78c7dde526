"""Suite `l2e`: its truth against plain NumPy, hand numbers and identities."""

import math

import numpy as np
import pytest

from minimono.oracle import runner
from minimono.oracle.suites.l2e import SUITE

CASES = list(SUITE.cases())


def cases_of(call):
    return [c for c in CASES if c.call == call]


def report(call, function, dtype="float64", convert=None, extreme=False):
    chosen = [c for c in cases_of(call) if c.fits(dtype) and (extreme or not c.extreme)]
    outcomes = [runner.run(function, c, dtype=dtype, convert=convert) for c in chosen]
    return runner.finish(runner.Report(), outcomes, dtype=dtype)


# ---- the penalty -------------------------------------------------------------------------------


def plain_penalty(z, mask, mean, *, reduction):
    """Sums in the order of the array, by the math module."""
    penalty, gradient, terms = 0.0, np.zeros(z.shape), max(int(mask.sum()), 1)
    for index in np.ndindex(z.shape):
        if mask[index]:
            distance = float(z[index]) - float(mean[index[1:]])
            penalty += 2 * math.log(abs(distance))
            gradient[index] = 2 / distance
    share = 1 / terms if reduction == "mean" else 1.0
    return np.array(penalty * share), gradient * share


def test_penalty_in_plain_python():
    found = report("log_distance_penalty", plain_penalty, extreme=True)
    assert not found.failures, str(found)


def test_penalty_by_hand():
    total, mean = (c for c in cases_of("log_distance_penalty") if "log 16" in c.notes or
                   c.notes == "the same, by the mean")
    assert math.isclose(total.expected["penalty"].value, math.log(16 * 1 * 4 * 4), rel_tol=1e-15)
    assert math.isclose(mean.expected["penalty"].value, math.log(256) / 4, rel_tol=1e-15)
    assert total.expected["gradient"].value.tolist() == [[0.5, -2.0, 0.0], [0.0, 1.0, -1.0]]


def test_penalty_gradient_is_its_derivative():
    """The penalty's true gradient is its derivative, so differences of its truth must show it."""
    for case in cases_of("log_distance_penalty"):
        given = {k: v for k, v in case.arguments.items() if k != "z"}
        z, gradient = case.arguments["z"], case.expected["gradient"].value
        for index in np.argwhere(case.arguments["mask"]):
            index = tuple(index)
            step = abs(z[index] - given["mean"][index[1:]]) * 2.0**-12
            up, down = z.copy(), z.copy()
            up[index] += step
            down[index] -= step
            penalties = [plain_penalty(moved, **given)[0] for moved in (up, down)]
            difference = (penalties[0] - penalties[1]) / (up[index] - down[index])
            assert difference == pytest.approx(gradient[index], rel=1e-6)


@pytest.mark.parity
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_penalty_of_pytorch_passes(dtype):
    torch = pytest.importorskip("torch")

    def penalty(z, mask, mean, *, reduction):
        z = z.requires_grad_()
        terms = torch.log((z - mean)[mask] ** 2)
        value = terms.mean() if reduction == "mean" and mask.any() else terms.sum()
        value.backward()
        return value, z.grad

    found = report("log_distance_penalty", penalty, dtype, convert=torch.from_numpy)
    assert not found.failures, str(found)


# ---- the scale by feature ------------------------------------------------------------------------


def plain_feature_scale(z, features):
    """With np.var and boolean indexing, one feature and neuron at a time, two-pass."""
    rows = z.reshape(len(z), -1).astype(np.float64)
    if features.ndim == 1:
        features = features[:, None] == np.arange(features.max() + 1)
    inside, outside = np.full((2, features.shape[1], rows.shape[1]), np.nan)
    feature = np.full(rows.shape[1], -1)
    for j, column in enumerate(rows.T):
        variance = np.var(column, ddof=1)
        if variance == 0:
            continue
        phi = (column - column.mean()) ** 2 / variance
        for number, has in enumerate(features.T):
            if has.any():
                inside[number, j] = phi[has].mean()
            if not has.all():
                outside[number, j] = phi[~has].mean()
        feature[j] = np.nanargmax(inside[:, j])
    shape = (features.shape[1], *z.shape[1:])
    return inside.reshape(shape), outside.reshape(shape), feature.reshape(z.shape[1:])


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_feature_scale_in_plain_numpy(dtype):
    found = report("feature_scale", plain_feature_scale, dtype)
    assert not found.failures, str(found)


def test_feature_scale_in_float32_throughout():
    """A sound implementation that never leaves float32 is not refused."""

    def scale(z, features):
        if features.ndim == 1:
            features = features[:, None] == np.arange(features.max() + 1)
        rows = z.reshape(len(z), -1)
        distance = rows - rows.mean(axis=0)
        variance = (distance**2).sum(axis=0) / np.float32(len(z) - 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            phi = distance**2 / variance
            inside, outside = (
                np.stack([(phi * c[:, None]).sum(axis=0) / np.float32(c.sum()) for c in has.T])
                for has in (features, ~features)
            )
        known = np.where(np.isnan(inside), -np.inf, inside)
        feature = np.where(variance > 0, known.argmax(axis=0), -1)
        shape = (features.shape[1], *z.shape[1:])
        return inside.reshape(shape), outside.reshape(shape), feature.reshape(z.shape[1:])

    found = report("feature_scale", scale, "float32")
    assert not found.failures, str(found)


def test_feature_scales_add_up():
    """|C| φ_l + (B - |C|) φ_l⁻ = B - 1, for every feature and neuron."""
    for case in cases_of("feature_scale"):
        features, B = case.arguments["features"], len(case.arguments["z"])
        if features.ndim == 1:
            features = features[:, None] == np.arange(features.max() + 1)
        inside, outside = case.expected["inside"].value, case.expected["outside"].value
        size = features.sum(axis=0).reshape(-1, *(1,) * (inside.ndim - 1))
        total = np.where(size > 0, size * inside, 0) + np.where(size < B, (B - size) * outside, 0)
        known = case.expected["feature"].value >= 0
        np.testing.assert_allclose(total[:, known], B - 1, rtol=1e-14)


def test_feature_scale_by_hand():
    case = cases_of("feature_scale")[-1]
    inside = case.expected["inside"].value  # neuron 2: mean 1, variance 5
    np.testing.assert_array_equal(
        inside, [[1, np.nan, 0.2], [1, np.nan, 0.2], [0, np.nan, np.float64(16) / 5]]
    )
    assert case.expected["feature"].value.tolist() == [0, -1, 2]


def test_no_feature_is_chosen_by_rounding():
    """The best feature leads by more than any error; ties are of whole numbers, unrounded."""
    for case in cases_of("feature_scale"):
        if (case.arguments["z"] % 1 == 0).all():
            continue
        inside = case.expected["inside"]
        ranked = np.sort(np.nan_to_num(inside.value, nan=-1.0), axis=0)
        allowed = inside.allowed(float(np.finfo(np.float32).eps)).max(axis=0)
        assert (ranked[-1] - ranked[-2] > 2 * allowed).all(), case.id


# ---- the false killing rate ----------------------------------------------------------------------


def plain_rate(phi, features_of_input, feature_of_neuron, *, k, fraction, scope):
    """By sorting, where the truth counts."""
    has = features_of_input
    if has.ndim == 1:
        has = has[:, None] == np.arange(max(has.max(), feature_of_neuron.max()) + 1)
    selected = np.zeros(phi.shape, dtype=bool)
    for part in [slice(None)] if scope == "global" else range(len(phi)):
        scores = np.sort(phi[part][~np.isnan(phi[part])])[::-1]
        most = k if fraction is None else math.ceil(round(fraction * phi[part].size, 9))
        if len(scores):
            selected[part] = phi[part] >= scores[min(most, len(scores)) - 1]
    own = has[:, feature_of_neuron]
    return np.array(np.nan if not selected.any() else (~own)[selected].mean())


def test_rate_by_sorting():
    found = report("false_killing_rate", plain_rate)
    assert not found.failures, str(found)


def test_rate_by_hand():
    rates = {c.notes: float(c.expected["rate"].value) for c in cases_of("false_killing_rate")}
    # tied: the four 3s are at (0, 0), (0, 2), (1, 1), (2, 0); inputs 0, 1, 1; neurons 0, 1, 1
    assert rates["ties with the threshold are all selected: 4 scores equal 3"] == 2 / 4
    assert rates["every selected input has the neuron's feature: 0"] == 0
    assert rates["no selected input has it: 1"] == 1
    assert math.isnan(rates["nothing is selected: nan, not 0"])
    # the highest three are 5, 4 and 3: each of the input's own feature
    assert rates["a constant neuron: nan scores, no feature (-1)"] == 0
