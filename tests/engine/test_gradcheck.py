"""The check itself: it passes what is right and catches what is wrong."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minimono as mm
from minimono.engine import functional as F
from minimono.engine import primitives as P
from minimono.engine.tensor import Tensor, tensor
from minimono.gradcheck import GradientError, check_grads

X = np.array([[0.3, -1.2, 0.8], [1.5, 0.1, -0.4]])
MODES: list[tuple[Any, ...]] = [("directional",), ("complex",), ("directional", "complex")]


def square_with(rule: Callable[..., Tensor]) -> Callable[[Tensor], Tensor]:
    square = mm.primitive(lambda x: x * x)
    square.vjp(rule)
    return square


WRONG: dict[str, Callable[..., Tensor]] = {
    "sign": lambda g, out, x: -2.0 * g * x,
    "factor": lambda g, out, x: g * x,
    "off by a millionth": lambda g, out, x: g * x * 2.00001,
    "one element only": lambda g, out, x: 2.0 * g * x * np.array([[1, 1, 1], [1, 1, 1.01]]),
    "forgets the cotangent": lambda g, out, x: 2.0 * x,
    "zero": lambda g, out, x: 0.0 * g,
    "nan": lambda g, out, x: np.nan * g,
    "mixes neighbours": lambda g, out, x: P.flip(2.0 * g * x, axis=1),
    "sums too much": lambda g, out, x: 2.0 * (g * x).sum(axis=0, keepdims=True) + 0.0 * x,
}


@pytest.mark.parametrize("modes", MODES, ids=str)
@pytest.mark.parametrize("what", WRONG)
def test_wrong_rules_are_caught(what: str, modes: Any) -> None:
    with pytest.raises(GradientError, match=r"gradient by argument 0, shape \(2, 3\)"):
        check_grads(square_with(WRONG[what]), X, modes=modes)


@pytest.mark.parametrize("modes", MODES, ids=str)
def test_the_right_rule_passes(modes: Any) -> None:
    check_grads(square_with(lambda g, out, x: 2.0 * g * x), X, order=2, modes=modes)


def test_second_order_finds_what_first_order_cannot() -> None:
    """A rule with the right value that forgets that it depends on x."""
    square = square_with(lambda g, out, x: 2.0 * g * x.detach())
    check_grads(square, X, order=1)
    with pytest.raises(GradientError, match=r"second derivative \(0, then\) by argument 0"):
        check_grads(square, X, order=2)


def test_the_message_has_both_numbers() -> None:
    f = square_with(WRONG["sign"])
    with pytest.raises(GradientError, match=r"the tape says .* the directional check .*difference"):
        check_grads(f, X)


def test_the_argument_that_is_wrong_is_named() -> None:
    product = mm.primitive(lambda x, y: x * y)
    product.vjp(lambda g, out, x, y: g * y, lambda g, out, x, y: -g * x)
    with pytest.raises(GradientError, match=r"argument 1, shape \(3,\)"):
        check_grads(product, X, X[0])


def test_finite_differences_disagree_with_a_reversed_rule() -> None:
    """The deliberate use of a wrong rule, as in deactivation: the check must see it."""
    reversed_gradient = mm.primitive(lambda x: x + 0.0)
    reversed_gradient.vjp(lambda g, out, x: -g)
    with pytest.raises(GradientError):
        check_grads(lambda x: (reversed_gradient(x) ** 2).sum(), X)


def test_a_kink_is_not_smooth() -> None:
    with pytest.raises(GradientError):
        check_grads(abs, np.zeros(3), modes=("directional",), order=2)
    check_grads(abs, np.array([0.1, -0.2]), order=2)


@pytest.mark.parametrize("shape", [(), (1,), (0, 2), (2, 1, 3)])
def test_outputs_of_any_shape(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).standard_normal(shape)
    check_grads(lambda x: P.sin(x) * x, x, order=2)


def test_takes_lists_numbers_and_tensors_and_changes_none() -> None:
    t = tensor([0.5, 0.7], requires_grad=True)
    check_grads(lambda x, y, z: (x * y).sum() * z, t, [1.0, 2.0], 3.0, order=2)
    assert t.grad is None
    assert t.data.tolist() == [0.5, 0.7]
    check_grads(lambda x: x * x, tensor([0.5], dtype="float32"), order=2)  # in float64


def test_directions_come_from_rng() -> None:
    """A rule that is wrong by a matrix orthogonal to one direction is found by another."""
    drawn = []

    class Recorder(np.random.Generator):
        def standard_normal(self, *args: Any, **options: Any) -> Any:
            drawn.append(super().standard_normal(*args, **options))
            return drawn[-1]

    for seed in (1, 1, 2):
        check_grads(F.softmax, X, rng=Recorder(np.random.PCG64(seed)))
    one, again, other = drawn[:2], drawn[2:4], drawn[4:]
    np.testing.assert_array_equal(one, again)
    assert (np.array(one) != np.array(other)).all()


def test_functions_without_complex_numbers_say_so() -> None:
    with pytest.raises(TypeError, match="erfc"):
        check_grads(P.erfc, X, modes=("complex",))


@pytest.mark.parametrize(
    ("arguments", "options", "error", "words"),
    [
        ([X], {"order": 3}, ValueError, "order is 3, expected 1 or 2"),
        ([X], {"order": 0}, ValueError, "order is 0"),
        ([X], {"modes": ("analytic",)}, ValueError, r"modes is \('analytic',\), expected some of"),
        ([X], {"modes": ()}, ValueError, "modes is"),
        ([], {}, ValueError, "no arguments"),
        ([1], {}, TypeError, "argument 0 has dtype int64, expected floats"),
        ([X, np.array([True])], {}, TypeError, "argument 1 has dtype bool"),
        ([1j], {}, TypeError, "complex128"),
    ],
)
def test_errors(
    arguments: list[Any], options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        check_grads(lambda *xs: xs[0] * 2.0, *arguments, **options)
