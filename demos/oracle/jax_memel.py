"""MEmeL for JAX, on one screen, and how it is tested against minimono's oracle.

Test it:  python -m pytest demos/oracle/jax_memel.py         (needs jax)
Written from the documentation page "The oracle" only; take it as the beginning of your own.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from minimono import oracle

jax.config.update("jax_enable_x64", True)  # without it JAX computes in float32


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def deactivate(z, mask, mean, strength):
    """Flagged values become their neuron's mean, with gradient -strength."""
    return jnp.where(mask, mean.astype(z.dtype), z)


deactivate.defvjp(
    lambda z, mask, mean, strength: (deactivate(z, mask, mean, strength), mask),
    lambda strength, mask, upstream: (jnp.where(mask, -strength * upstream, upstream), None, None),
)


def monosemantic_scale(z, mean, variance, *, compensation):
    """(z - mean)² / (variance + compensation · mean(variance)); nan where that is 0."""
    below = variance + compensation * variance.mean()
    return (z - mean) ** 2 / jnp.where(below > 0, below, jnp.nan)


class Moments(NamedTuple):
    """What is remembered between calls. JAX functions have no state of their own."""

    batches: int
    count: int
    mean: jax.Array
    variance: jax.Array


def update(moments, values, *, convention, forget_after):
    """Merge a batch into the running moments; the past weighs forget_after batches at most."""
    b, mean = len(values), values.mean(axis=0)
    m2 = ((values - mean) ** 2).sum(axis=0)
    if moments is None:
        return Moments(1, b, mean, m2 / (b - 1))
    if convention == "authors":
        past = min(moments.batches + 1, forget_after) * b
    else:
        past = moments.count if moments.batches < forget_after else forget_after * b
    shift = mean - moments.mean
    m2 = m2 + (past - 1) * moments.variance + shift**2 * (past * b / (past + b))
    return Moments(
        moments.batches + 1,
        past + b,
        moments.mean + shift * (b / (past + b)),
        m2 / (past + b - 1),
    )


def memel(z, moments, *, k, strength, convention, forget_after, start_after, compensation):
    """One training call: the new activations and the new moments."""
    values = jax.lax.stop_gradient(z).astype(jnp.float64)
    after = update(moments, values, convention=convention, forget_after=forget_after)
    if moments is None or moments.batches < start_after:
        return z, after
    used = moments if convention == "paper" else after
    phi = monosemantic_scale(values, used.mean, used.variance, compensation=compensation)
    if convention == "paper":
        phi = jnp.where(used.variance > 0, phi, jnp.nan)  # a constant neuron is never flagged
    flat = phi.reshape(len(phi), -1)  # (B, *neurons) -> (B, neurons)
    ranked = jnp.where(jnp.isnan(flat), -jnp.inf, flat)
    kth = jax.lax.top_k(ranked, k)[0][:, -1:]  # (B, 1)
    mask = ((ranked >= kth) & ~jnp.isnan(flat)).reshape(phi.shape)
    return deactivate(z, mask, used.mean, strength), after


# ---- as the oracle calls them: with the gradient for `upstream` ----------------------------------


def MEmeL(batches, upstream, training, **settings):
    values, gradients, moments = [], [], None
    for z, g, train in zip(batches, upstream, training, strict=True):
        if train:
            value, pull, moments = jax.vjp(
                partial(memel, moments=moments, **settings), z, has_aux=True
            )
            values.append(value)
            gradients.append(pull(g)[0])
        else:
            values.append(z)
            gradients.append(g)
    return values, gradients


def deactivate_with_gradient(z, mask, mean, strength, upstream):
    value, pull = jax.vjp(lambda z: deactivate(z, mask, mean, strength), z)
    return value, *pull(upstream)


@oracle.parametrize_with_checks(
    {
        "MEmeL": MEmeL,
        "deactivate": deactivate_with_gradient,
        "monosemantic_scale": monosemantic_scale,
    },
    convert=jnp.asarray,
)
def test_against_minimono(check):
    check()
