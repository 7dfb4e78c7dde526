"""Suite `decorrelation`: its truth against NumPy, published figures, identities and PyTorch."""

import math

import numpy as np
import pytest

from minimono.oracle import runner
from minimono.oracle.suites.decorrelation import CIRCLE, SUITE

CASES = list(SUITE.cases())


def cases_of(call):
    return [c for c in CASES if c.call == call]


def report(call, function, dtype="float64", convert=None, extreme=False):
    chosen = [c for c in cases_of(call) if c.fits(dtype) and (extreme or not c.extreme)]
    outcomes = [runner.run(function, c, dtype=dtype, convert=convert) for c in chosen]
    return runner.finish(runner.Report(), outcomes, dtype=dtype)


# ---- the measure, the proxy, L1 ------------------------------------------------------------------


def test_feature_decorrelation_by_the_sum_of_unit_vectors():
    """The sum of all cosines is the squared length of the sum of the unit vectors."""

    def decorrelation(z):
        rows = z.reshape(len(z), -1)
        total = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).sum(axis=0)
        return 1 - (total @ total - len(z)) / (len(z) * (len(z) - 1))

    for dtype in ("float64", "float32"):
        found = report("feature_decorrelation", decorrelation, dtype)
        assert not found.failures, str(found)


def test_feature_decorrelation_by_hand():
    found = {c.notes: float(c.expected["fd"].value) for c in cases_of("feature_decorrelation")}
    assert found["orthogonal: 1"] == 1
    assert found["opposite: N/(N - 1) = 2, the highest there is"] == 2
    assert found["all the same way: 0"] == 0
    by_hand = next(v for k, v in found.items() if k.startswith("whole numbers"))
    assert by_hand == pytest.approx(1 - (0.96 + 1 + 0.96) / 3, rel=1e-15)


def test_proxy_has_the_published_values():
    cases = cases_of("superposition_proxy")[: len(CIRCLE)]
    published = {3: 1 / 3, 4: 0.0, 5: -0.4472, 6: -1.0, 8: -2.4142}
    for case, (n, value) in zip(cases, published.items(), strict=True):
        assert case.arguments["w_in"].shape == (2, n)
        np.testing.assert_allclose(case.expected["proxy"].value, value, rtol=0, atol=5e-5)
        np.testing.assert_allclose(case.expected["proxy"].value, CIRCLE[n], rtol=2e-15)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_proxy_by_the_norm_of_numpy(dtype):
    def proxy(w_in, b_in):
        return b_in * np.linalg.norm(w_in, axis=0)

    found = report("superposition_proxy", proxy, dtype)
    assert not found.failures, str(found)


def test_l1_by_hand():
    case = next(c for c in cases_of("l1_penalty") if "by hand" in c.notes)
    assert case.expected["penalty"].value == 2.5
    assert case.expected["gradient"].value.tolist() == [[0.5, 0.0, 0.5], [0.0, -0.5, 0.5]]


# ---- the penalty ---------------------------------------------------------------------------------


def test_penalty_over_inputs_and_over_neurons_differ_by_a_constant():
    cases = cases_of("decorrelation_penalty")
    for samples, features in zip(cases[0::3], cases[1::3], strict=True):
        z = samples.arguments["z"]
        B, n = len(z), z[0].size
        assert samples.arguments["over"] == "samples"
        assert features.arguments["over"] == "features"
        values = [c.expected["penalty"].value for c in (samples, features)]
        assert values[0] - values[1] == pytest.approx(B - n, abs=1e-12 * values[0] + 1e-12)
        np.testing.assert_array_equal(
            samples.expected["gradient"].value, features.expected["gradient"].value
        )


def test_penalty_by_hand():
    """Z Zᵀ = [[5, 2], [2, 2]] = |Z| |Z|ᵀ; Zᵀ Z = [[1, 0, 2], [0, 1, -1], [2, -1, 5]]."""
    cases = [c for c in cases_of("decorrelation_penalty") if "by hand" in c.notes]
    assert [float(c.expected["penalty"].value) for c in cases] == [25.0, 26.0, 2.25]


def test_penalty_by_traces():
    """||Z Zᵀ - I||² = Σ (Zᵀ Z)² - 2 Σ z² + B, with the other Gram matrix than the truth's."""
    for case in cases_of("decorrelation_penalty"):
        z = case.arguments["z"].reshape(len(case.arguments["z"]), -1)
        if case.arguments["convention"] == "authors":
            value = (abs(z) @ abs(z).T).mean() - 1 / len(z)
        else:
            rows = z if case.arguments["over"] == "samples" else z.T
            value = ((rows.T @ rows) ** 2).sum() - 2 * (z**2).sum() + len(rows)
        want = case.expected["penalty"].value
        assert value == pytest.approx(want, rel=1e-12, abs=1e-14 * (1 + (z**2).sum()) ** 2)


# ---- losses of pairs -----------------------------------------------------------------------------


def test_losses_by_hand():
    dpo = {c.notes: c.expected for c in cases_of("dpo_loss")}
    start = next(e for n, e in dpo.items() if n.startswith("before training"))
    assert start["loss"].value == math.log(2)
    np.testing.assert_allclose(start["gradient_chosen"].value, -0.1 / 2 / 3, rtol=1e-15)
    np.testing.assert_allclose(start["gradient_rejected"].value, 0.1 / 2 / 3, rtol=1e-15)
    hand = next(e for n, e in dpo.items() if n.startswith("whole numbers"))
    both = math.log1p(math.exp(-1)) + math.log1p(math.exp(1))
    assert hand["loss"].value == pytest.approx(both / 2, rel=1e-15)
    far = next(e for n, e in dpo.items() if "1000" in n)
    assert far["loss"].value == 500
    assert far["gradient_chosen"].value.tolist() == [0.0, -0.5]
    simpo = {c.notes: c.expected for c in cases_of("simpo_loss")}
    assert simpo["exactly at the margin: log 2"]["loss"].value == math.log(2)


def test_decpo_is_dpo_and_a_penalty():
    """The parts' own functions, in float64, put together by the definition."""
    dpo, penalty = SUITE.own["dpo_loss"], SUITE.own["decorrelation_penalty"]

    def decpo(pc, pr, rc, rr, z, *, beta, weight, over, convention):
        loss, chosen, rejected = dpo(pc, pr, rc, rr, beta=beta)
        rows = [0, *range(2, len(z), 2)] if convention == "authors" else list(range(len(z)))
        extra, slope = penalty(z[rows], over=over, convention=convention)
        gradient = np.zeros_like(z)
        gradient[rows] = weight * slope
        return loss + weight * extra, chosen, rejected, gradient

    found = report("decpo_loss", decpo)
    assert not found.failures, str(found)


# ---- PyTorch: its autograd and its log sigmoid, in both precisions -------------------------------


def pytorch(torch):
    """The functions, each with its gradients by autograd."""

    def gradients(loss, *variables):
        loss.backward()
        return (loss, *(v.grad for v in variables))

    def penalty_value(z, over, convention):
        rows = z.flatten(1)
        if convention == "authors":
            size = rows.abs()
            return (size @ size.T - torch.eye(len(rows), dtype=z.dtype)).mean()
        rows = rows if over == "samples" else rows.T
        return ((rows @ rows.T - torch.eye(len(rows), dtype=z.dtype)) ** 2).sum()

    def dpo_value(pc, pr, rc, rr, beta):
        return -torch.nn.functional.logsigmoid(beta * ((pc - pr) - (rc - rr))).mean()

    def feature_decorrelation(z):
        rows = torch.nn.functional.normalize(z.flatten(1), eps=0.0)
        cosines = rows @ rows.T
        return 1 - (cosines.sum() - cosines.trace()) / (len(z) * (len(z) - 1))

    def decorrelation_penalty(z, *, over, convention):
        z.requires_grad_()
        return gradients(penalty_value(z, over, convention), z)

    def l1_penalty(z):
        z.requires_grad_()
        return gradients(z.abs().flatten(1).sum(1).mean(), z)

    def superposition_proxy(w_in, b_in):
        return b_in * w_in.norm(dim=0)

    def fold_into_linear(w_in, b_in, gain, shift):
        scaled = gain[:, None] * w_in
        return scaled - scaled.mean(0), b_in + shift @ w_in

    def dpo_loss(pc, pr, rc, rr, *, beta):
        return gradients(dpo_value(pc.requires_grad_(), pr.requires_grad_(), rc, rr, beta), pc, pr)

    def simpo_loss(chosen, rejected, *, beta, gamma):
        margin = beta * (chosen.requires_grad_() - rejected.requires_grad_()) - gamma
        return gradients(-torch.nn.functional.logsigmoid(margin).mean(), chosen, rejected)

    def decpo_loss(pc, pr, rc, rr, z, *, beta, weight, over, convention):
        loss = dpo_value(pc.requires_grad_(), pr.requires_grad_(), rc, rr, beta)
        rows = z.requires_grad_()[::2] if convention == "authors" else z.requires_grad_()
        return gradients(loss + weight * penalty_value(rows, over, convention), pc, pr, z)

    return locals()


@pytest.mark.parity
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("call", SUITE.own)
def test_pytorch_passes(call, dtype):
    torch = pytest.importorskip("torch")
    found = report(call, pytorch(torch)[call], dtype, convert=torch.from_numpy)
    assert found.passed
    assert not found.failures, str(found)
