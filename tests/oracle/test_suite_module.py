"""Suite `module`: its truth by the formulas as printed, and what it accepts."""

import functools
import statistics
from fractions import Fraction

import numpy as np
import pytest

import minimono as mm
from minimono.oracle import runner
from minimono.oracle.modules import as_trajectory, trajectory
from minimono.oracle.suites.module import SUITE, plain_memel

CASES = list(SUITE.cases())


def report(function, dtype="float64", convert=None):
    chosen = [c for c in CASES if c.fits(dtype)]
    outcomes = [runner.run(function, c, dtype=dtype, convert=convert) for c in chosen]
    return runner.finish(runner.Report(), outcomes, dtype=dtype)


def noted(beginning, convention="paper"):
    found = [
        c for c in CASES
        if c.notes.startswith(beginning) and c.arguments["convention"] == convention
    ]
    assert len(found) == 1, beginning
    return found[0]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_what_the_mistakes_are_made_from_is_sound(dtype):
    """MEmeL in plain NumPy, in the dtype of the data: all of float32 passes too."""
    found = report(plain_memel, dtype)
    assert not found.failures, str(found)


# ---- the truth -----------------------------------------------------------------------------------


class Printed:
    """One neuron's mean and variance in Fractions: Algorithm 1 as the paper prints it, or the
    update as the authors' code has it.
    """

    def __init__(self, convention, n_f):
        self.convention, self.n_f, self.calls, self.m = convention, n_f, 0, 0

    def update(self, values):
        b, u, w = Fraction(len(values)), statistics.mean(values), statistics.pvariance(values)
        self.calls += 1
        if self.calls == 1:
            self.m, self.mean, self.s2 = b, u, w * b / (b - 1)
            return
        mean, s2, m, n = self.mean, self.s2, self.m, Fraction(self.n_f)
        if self.convention == "authors":
            c = Fraction(min(self.calls, self.n_f))
            self.s2 = (s2 * (c - 1 / b) + w + (u - mean) ** 2 / (1 + 1 / c)) / (c + 1 - 1 / b)
            self.mean = (c * mean + u) / (c + 1)
        elif self.calls <= self.n_f:  # Lemma 3.2
            self.s2 = m * b * (mean - u) ** 2 / ((m + b - 1) * (m + b))
            self.s2 += (b * w + (m - 1) * s2) / (m + b - 1)
            self.mean, self.m = (m * mean + b * u) / (m + b), m + b
        else:
            below = n + 1 - 1 / b
            self.s2 = n * (mean - u) ** 2 / (below * (n + 1)) + (w + (n - 1 / b) * s2) / below
            self.mean, self.m = (n * mean + u) / (n + 1), (n + 1) * b


def fractions_of(z):
    """(B, *neurons) as B lists of Fractions, and the neurons one after the other."""
    return [[Fraction(float(v)) for v in row] for row in z.reshape(len(z), -1)]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
def test_truth_as_printed(case):
    a = case.arguments
    neurons = [Printed(a["convention"], a["forget_after"]) for _ in range(a["batches"][0][0].size)]
    for z, g, train, value, gradient in zip(
        a["batches"], a["upstream"], a["training"], *case.expected.values(), strict=True
    ):
        want_value, want_gradient = z.reshape(len(z), -1).copy(), g.reshape(len(z), -1).copy()
        if train:
            rows, seen = fractions_of(z), neurons[0].calls
            before = [(n.mean, n.s2) if seen else None for n in neurons]
            for number, neuron in enumerate(neurons):
                neuron.update([row[number] for row in rows])
            if seen and seen >= a["start_after"]:
                now = [(n.mean, n.s2) for n in neurons]
                known = before if a["convention"] == "paper" else now
                extra = Fraction(a["compensation"]) * statistics.mean(s2 for _, s2 in known)
                constants = 0 if a["convention"] == "authors" else extra
                for i, row in enumerate(rows):
                    phi = {
                        j: (row[j] - mean) ** 2 / (s2 + extra)
                        for j, (mean, s2) in enumerate(known)
                        if s2 + extra > constants
                    }
                    ranked = sorted(phi.values(), reverse=True)[: a["k"]]
                    for j in (j for j in phi if phi[j] >= ranked[-1]):
                        want_value[i, j] = float(known[j][0])
                        want_gradient[i, j] *= -a["strength"]
        assert (value.value.reshape(len(z), -1) == want_value).all()
        assert (gradient.value.reshape(len(z), -1) == want_gradient).all()


def test_truth_by_hand():
    case = noted("two neurons alike")
    upstream, gradient = case.arguments["upstream"][2], case.expected["gradients"][2].value
    assert case.expected["values"][2].value.tolist() == [[0, 0, 0], [0, 0, 0]]
    flags = np.array([[True, True, False], [False, False, True]])
    assert (gradient == np.where(flags, -upstream, upstream)).all()


def test_constant_neurons_by_hand():
    """Neuron 1 was 2 in both batches before and moves to 3: left alone, or by compensation not."""
    for convention, flagged in (("paper", False), ("authors", True)):
        case = noted("k is the whole layer, with a neuron that stays", convention)
        gradient, upstream = case.expected["gradients"][2].value, case.arguments["upstream"][2]
        assert (gradient[:, 1] == (-1 if flagged else 1) * upstream[:, 1]).all()
        assert (gradient[:, [0, 2]] == -upstream[:, [0, 2]]).all()
    still = noted("all neurons constant", "authors")
    for z, g, value, gradient in zip(
        still.arguments["batches"], still.arguments["upstream"], *still.expected.values(),
        strict=True,
    ):
        assert (value.value == z).all()
        assert (gradient.value == g).all()


def test_calls_in_eval_are_exact_copies():
    seen = 0
    for case in CASES:
        for z, train, value in zip(
            case.arguments["batches"], case.arguments["training"], case.expected["values"],
            strict=True,
        ):
            if not train:
                seen += 1
                assert (value.value == z).all()
                assert value.linear is None
    assert seen >= 10


def test_every_sample_of_an_inhibiting_call_has_its_k_flagged():
    """Unless more tie, or a constant neuron cannot be flagged."""
    for case in CASES:
        k, start = case.arguments["k"], max(case.arguments["start_after"], 1)
        for number, value in enumerate(case.expected["values"]):
            seen = sum(case.arguments["training"][:number])
            if not case.arguments["training"][number] or seen < start:
                assert value.linear is None
                continue
            flagged = (value.linear > 0).reshape(len(value.value), -1).sum(axis=1)
            if "alike" not in case.notes and "constant" not in case.notes:
                assert (flagged == k).all()


# ---- what is accepted as an implementation -------------------------------------------------------


def run_as(implementation, **options):
    return report(as_trajectory(implementation), **options)


def test_a_class_is_taken_as_it_is():
    assert not run_as(mm.mono.MEmeL).failures


def test_a_function_that_makes_modules_is_taken():
    def make(k, strength, convention, forget_after, start_after, compensation):
        return mm.mono.MEmeL(
            k, strength, convention=convention, forget_after=forget_after,
            start_after=start_after, compensation=compensation,
        )

    assert not run_as(make).failures
    assert not run_as(lambda **settings: mm.mono.MEmeL(**settings)).failures
    assert not run_as(functools.partial(mm.mono.MEmeL)).failures


def test_a_function_of_trajectories_is_taken_as_it_is():
    own = SUITE.own["MEmeL"]

    def renamed(zs, gs, modes, *, k, **settings):
        return own(zs, gs, modes, k=k, **settings)

    def incomplete(batches, upstream, training, *, k):
        raise AssertionError

    for function in (own, renamed, incomplete, lambda *lists, **settings: own(*lists, **settings)):
        assert as_trajectory(function) is function


def test_a_module_in_place_of_its_class_is_refused():
    with pytest.raises(TypeError, match="is a module, a MEmeL; give its class, or a function"):
        as_trajectory(mm.mono.MEmeL())


def test_an_object_that_is_no_module_is_refused_by_name():
    found = report(trajectory(lambda **settings: object()))
    assert len(found.failures) == len(CASES)
    assert "made a object, expected a module with train(), eval()" in found.failures[0].message


class Mini:
    """A tensor of a library that nobody knows: it differentiates as PyTorch's do."""

    def __init__(self, data, back=None):
        self.data, self.back, self.grad, self.requires_grad = np.asarray(data), back, None, False

    def __array__(self, dtype=None, copy=None):
        return np.array(self.data, dtype=dtype)

    def __mul__(self, other):
        return Mini(self.data * other.data, lambda g: self.backward(g * other.data))

    def sum(self):
        return Mini(self.data.sum(), lambda g: self.backward(np.full(self.data.shape, g)))

    def backward(self, g=1.0):
        if self.back is not None:
            self.back(g)
        elif self.requires_grad:
            self.grad = Mini(g)


class MiniMEmeL:
    """minimono's module on these tensors."""

    def __init__(self, **settings):
        self.inner = mm.mono.MEmeL(**settings)

    def train(self):
        self.inner.train()

    def eval(self):
        self.inner.eval()

    def __call__(self, z):
        inner = mm.Tensor(z.data, requires_grad=True)
        value = self.inner(inner)

        def back(g):
            (value * mm.Tensor(g)).sum().backward()
            z.backward(inner.grad)

        return Mini(value.data, back)


def test_a_module_of_an_unknown_library_is_taken():
    found = run_as(MiniMEmeL, convert=Mini)
    assert not found.failures, str(found)
    assert len(found.passed) == len(CASES)


def test_a_module_of_an_unknown_library_needs_its_tensors():
    found = run_as(MiniMEmeL)
    assert "called on a ndarray, which has no backward()" in found.failures[0].message
    assert "convert=" in found.failures[0].message


@pytest.mark.parity
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_pytorch_module_of_the_demos(dtype):
    torch = pytest.importorskip("torch")
    import runpy
    from pathlib import Path

    demo = Path(__file__).parents[2] / "demos/oracle/torch_memel.py"
    MEmeL = runpy.run_path(str(demo))["MEmeL"]
    found = report(trajectory(MEmeL), dtype, convert=torch.from_numpy)
    assert not found.failures, str(found)
    assert len(found.passed) > 40
