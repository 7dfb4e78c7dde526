"""Whole libraries under test in suite `layers`: torch.nn.functional, jax.nn, minimono.functional.

`check(torch.nn.functional, "layers")` needs no adapter of the user's: here stands how the functions
of each library are called and differentiated. A library is told by the name of the module that is
handed over, and taken from `sys.modules`: nothing is imported here.

JAX computes in float32 unless told otherwise: jax.config.update("jax_enable_x64", True).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

from minimono.oracle import suite as suites

Function = Callable[..., Any]


class Adapted(NamedTuple):
    """A library's functions as the suite calls them, and why some are not there."""

    functions: Mapping[str, Function]
    missing: Mapping[str, str]  # function: reason


def functions_of(namespace: Any) -> Adapted | None:
    """Return the functions of a library that is known here; None for anything else.

    >>> import minimono as mm
    >>> sorted(functions_of(mm.functional).functions)[:2]
    ['conv_gru_cell', 'cross_entropy']
    >>> functions_of(print) is None
    True
    """
    if not isinstance(namespace, ModuleType) or sys.modules.get(namespace.__name__) != namespace:
        return None
    adapter = ADAPTERS.get(namespace.__name__)
    if adapter is None:
        return None
    found = adapter(namespace)
    reasons = {
        name: f"{namespace.__name__} has no function to call for it"
        for name in suites.SUITES["layers"]
        if name not in found
    }
    return Adapted(found, reasons)


# ---- minimono ------------------------------------------------------------------------------------


def _minimono(functional: ModuleType) -> dict[str, Function]:
    return dict(suites.get("layers").own)


# ---- PyTorch -------------------------------------------------------------------------------------


def _torch(F: ModuleType) -> dict[str, Function]:
    torch = sys.modules["torch"]

    def differentiate(function: Function, inputs: Sequence[Any], upstream: Any) -> tuple[Any, ...]:
        leaves = [torch.as_tensor(x).detach().requires_grad_() for x in inputs]
        value = function(*leaves)
        cotangent = None if upstream is None else torch.as_tensor(upstream)
        return (value.detach(), *torch.autograd.grad(value, leaves, cotangent))

    def gelu(x: Any, upstream: Any, *, approximate: str) -> Any:
        return differentiate(lambda x: F.gelu(x, approximate=approximate), [x], upstream)

    def layer_norm(x: Any, weight: Any, bias: Any, upstream: Any, *, eps: float) -> Any:
        return differentiate(
            lambda x, w, b: F.layer_norm(x, x.shape[-1:], w, b, eps), [x, weight, bias], upstream
        )

    def softmax(x: Any, upstream: Any, *, axis: int) -> Any:
        return differentiate(lambda x: F.softmax(x, dim=axis), [x], upstream)

    def attention(q: Any, k: Any, v: Any, upstream: Any, *, is_causal: bool) -> Any:
        return differentiate(
            lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=is_causal),
            [q, k, v], upstream,
        )

    def cross_entropy(logits: Any, targets: Any) -> Any:
        classes = torch.as_tensor(targets).reshape(-1)  # (...) -> (N,)

        def loss(x: Any) -> Any:
            return F.cross_entropy(x.reshape(-1, x.shape[-1]), classes)  # (..., C) -> (N, C)

        return differentiate(loss, [logits], None)

    return {
        "gelu": gelu,
        "layer_norm": layer_norm,
        "softmax": softmax,
        "scaled_dot_product_attention": attention,
        "cross_entropy": cross_entropy,
    }


# ---- JAX -----------------------------------------------------------------------------------------


def _jax(nn: ModuleType) -> dict[str, Function]:
    """jax.nn's layer norm is `standardize`, its cross-entropy `log_softmax`.

    Weight and bias of the one, and the mean over the targets of the other, are added here.
    """
    jax = sys.modules["jax"]
    jnp = jax.numpy

    def differentiate(function: Function, inputs: Sequence[Any], upstream: Any) -> tuple[Any, ...]:
        value, back = jax.vjp(function, *map(jnp.asarray, inputs))
        cotangent = jnp.ones_like(value) if upstream is None else jnp.asarray(upstream)
        return (value, *back(cotangent))

    def gelu(x: Any, upstream: Any, *, approximate: str) -> Any:
        return differentiate(lambda x: nn.gelu(x, approximate == "tanh"), [x], upstream)

    def layer_norm(x: Any, weight: Any, bias: Any, upstream: Any, *, eps: float) -> Any:
        return differentiate(
            lambda x, w, b: nn.standardize(x, axis=-1, epsilon=eps) * w + b,
            [x, weight, bias], upstream,
        )

    def softmax(x: Any, upstream: Any, *, axis: int) -> Any:
        return differentiate(lambda x: nn.softmax(x, axis=axis), [x], upstream)

    def attention(q: Any, k: Any, v: Any, upstream: Any, *, is_causal: bool) -> Any:
        def heads(x: Any) -> Any:
            return x.reshape(-1, *x.shape[-2:])[:, :, None, :]  # (..., T, D) -> (B, T, 1, D)

        def attend(q: Any, k: Any, v: Any) -> Any:
            out = nn.dot_product_attention(heads(q), heads(k), heads(v), is_causal=is_causal)
            return out.reshape(q.shape)

        return differentiate(attend, [q, k, v], upstream)

    def cross_entropy(logits: Any, targets: Any) -> Any:
        classes = jnp.asarray(targets)[..., None]

        def loss(x: Any) -> Any:
            return -jnp.take_along_axis(nn.log_softmax(x, axis=-1), classes, axis=-1).mean()

        return differentiate(loss, [logits], None)

    return {
        "gelu": gelu,
        "layer_norm": layer_norm,
        "softmax": softmax,
        "scaled_dot_product_attention": attention,
        "cross_entropy": cross_entropy,
    }


ADAPTERS: dict[str, Callable[[ModuleType], dict[str, Function]]] = {
    "minimono.engine.functional": _minimono,
    "torch.nn.functional": _torch,
    "jax.nn": _jax,
}
