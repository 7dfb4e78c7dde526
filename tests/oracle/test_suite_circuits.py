"""Suite `circuits`: its truth by other ways."""

from fractions import Fraction

import numpy as np
import pytest

from minimono.oracle import runner
from minimono.oracle.suites.circuits import EPSILON, SUITE, attribution
from minimono.oracle.truth import exact

CASES = list(SUITE.cases())


def cases_of(call):
    return [c for c in CASES if c.call == call]


def report(call, function, dtype="float64", convert=None):
    chosen = [c for c in cases_of(call) if c.fits(dtype)]
    outcomes = [runner.run(function, c, dtype=dtype, convert=convert) for c in chosen]
    return runner.finish(runner.Report(), outcomes, dtype=dtype)


# ---- attribution ---------------------------------------------------------------------------------


def energy(x, weight, bias, channel, padding):
    """½ Σ relu(a)² for each sample, one product after the other."""
    total = []
    for sample in x:
        if sample.ndim == 1:
            sample, kernel, pad = sample[:, None, None], weight[channel][:, None, None], 0
        else:
            kernel, pad = weight[channel], padding
        (C, Y, X), (_, ky, kx) = sample.shape, kernel.shape
        value = Fraction(0)
        for top in range(-pad, Y + pad - ky + 1):
            for left in range(-pad, X + pad - kx + 1):
                a = bias[channel]
                for c, i, j in np.ndindex(C, ky, kx):
                    if 0 <= top + i < Y and 0 <= left + j < X:
                        a = a + kernel[c, i, j] * sample[c, top + i, left + j]
                value += max(a, Fraction(0)) ** 2 / 2
        total.append(value)
    return total


def test_rho_is_that_of_the_energys_derivative():
    """The energy is quadratic between bends, so central differences in Fractions are exact."""
    step = Fraction(1, 2**60)
    for case in cases_of("circuit_attribution"):
        x, weight, bias = (exact(case.arguments[name]) for name in ("x", "weight", "bias"))
        rest = weight, bias, case.arguments["channel"], case.arguments["padding"]
        relevance = np.full(x.shape[:2], Fraction(0), dtype=object)
        for index in np.ndindex(x.shape):
            moved = []
            for sign in (1, -1):
                z = x.copy()
                z[index] += sign * step
                moved.append(energy(z[index[:1]][None], *rest)[0])
            relevance[index[:2]] += x[index] * (moved[0] - moved[1]) / (2 * step)
        rho = relevance / (abs(relevance).sum(axis=1, keepdims=True) + EPSILON)
        if "at the bend" in case.notes:  # where the difference sees one side, of size step
            assert abs(rho - attribution(x, *rest)).max() < 1e-6
        else:
            assert (rho == attribution(x, *rest)).all(), case.id


def test_a_dense_units_shares_are_those_of_w_x():
    for case in cases_of("circuit_attribution"):
        x, weight, bias, channel, _ = case.arguments.values()
        if x.ndim > 2 or "1e-10" in case.notes:
            continue
        on = x @ weight[channel] + bias[channel] > 0
        products = np.where(on[:, None], x * weight[channel], 0.0)
        size = abs(products).sum(axis=1, keepdims=True)
        shares = products / np.where(size > 0, size, 1.0)
        np.testing.assert_allclose(case.expected["rho"].value, shares, rtol=1e-9, atol=0)


def test_the_first_cases_by_hand():
    dense, *_ = cases_of("circuit_attribution")
    np.testing.assert_allclose(
        dense.expected["rho"].value, [[0.75, -0.25, 0.0], [0.0, 0.0, 0.0]], rtol=1e-10
    )
    conv = next(c for c in CASES if c.id == "circuits/conv/1")
    # a = (1 + 4 + 0 + 1 - 1, 2 + 0 - 1 + 3 - 1) = (5, 3); d = 5 (1, 2, 0) + 3 (0, 1, 2) and
    # 5 (-1, 1, 0) + 3 (0, -1, 1); R = (5 + 26, 2 + 9) = (31, 11)
    np.testing.assert_allclose(conv.expected["rho"].value, [[31 / 42, 11 / 42]], rtol=1e-10)


def plain_attribution(x, weight, bias, channel, *, padding):
    """In the dtype it is given, by loops over the kernel."""
    w = weight[channel]
    if w.ndim == 1:
        x, w = x[..., None, None], w[..., None, None]
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, w.shape[1:], axis=(2, 3))
    a = np.einsum("bcyxij,cij->byx", windows, w) + bias[channel]
    start = np.maximum(a, 0)
    relevance = np.einsum("byx,bcyxij,cij->bc", start, windows, w)
    return relevance / (abs(relevance).sum(axis=1, keepdims=True) + x.dtype.type(1e-10))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_rho_in_plain_numpy(dtype):
    found = report("circuit_attribution", plain_attribution, dtype)
    assert not found.failures, str(found)


@pytest.mark.parity
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_rho_of_pytorch(dtype):
    torch = pytest.importorskip("torch")

    def rho(x, weight, bias, channel, *, padding):
        F, x = torch.nn.functional, x.requires_grad_()
        a = F.linear(x, weight, bias) if x.ndim == 2 else F.conv2d(x, weight, bias, padding=padding)
        (gradient,) = torch.autograd.grad(0.5 * F.relu(a[:, channel]).square().sum(), x)
        relevance = (x * gradient).flatten(2).sum(2) if x.ndim > 2 else x * gradient
        return relevance / (relevance.abs().sum(1, keepdim=True) + 1e-10)

    found = report("circuit_attribution", rho, dtype, convert=torch.from_numpy)
    assert not found.failures, str(found)


# ---- splitting and routing -----------------------------------------------------------------------


def test_the_parts_add_up_to_the_weights():
    for case in cases_of("split_weights"):
        first, second, overlap = (case.expected[n].value for n in ("first", "second", "overlap"))
        assert (first + second - overlap == case.arguments["weight"]).all()
        assert ((overlap == 0) | (overlap == case.arguments["weight"])).all()


def test_a_split_by_hand():
    case = next(c for c in CASES if c.id == "circuits/split/1")
    assert case.expected["first"].value.tolist() == [2.0, 0.0, 4.0, 5.0]
    assert case.expected["second"].value.tolist() == [0.0, 3.0, 4.0, 5.0]
    assert case.expected["overlap"].value.tolist() == [0.0, 0.0, 4.0, 5.0]


def test_routes_by_plain_distances():
    for case in cases_of("route"):
        rho, centroids = case.arguments.values()
        distances = np.array([[np.linalg.norm(row - c) for c in centroids] for row in rho])
        assert (distances.argmin(axis=1) == case.expected["label"].value).all()
