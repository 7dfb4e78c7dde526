"""Are the neurons of a layer used for few things each? Measures and penalties by decorrelation.

Yan, Xiang, Chen, Wang, Gui and He (EMNLP 2024, arXiv 2406.17969) ask whether monosemanticity
should be encouraged, and measure and encourage it by how little the representations of different
inputs resemble each other:

    feature_decorrelation    activations: how unlike are the representations of different inputs?
    decorrelation_penalty    the same, as a term of the loss (DecPO, in `preference.py`)
    l1_penalty               the baseline to it: few and small activations
    superposition_proxy      weights: does a neuron's bias hold back features that share its space?
    superposition_scores     the same for whole layers, comparable within a model

The paper's third activation measure, sparsity, is `metrics.variance_sparsity`. What the paper takes
as activations, one row per input at its last token: the input of the MLP's output projection in the
GPT-2 family, the output of W_up in the Llama family.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from minimono.backend import Array, array_module
from minimono.checks import activations as as_activations
from minimono.engine.dtypes import arithmetic
from minimono.engine.tensor import Tensor, as_tensor
from minimono.mono.metrics import clarity
from minimono.mono.soundness import check_finite


def feature_decorrelation(z: Array) -> float:
    """How unlike the representations of different inputs are: 1 - their mean cosine.

        FD = 1 - Σ_{i≠j} cos(z_i, z_j) / (N (N - 1))

    Published; the cosines are of the activations as they are, not centred. 0 if all rows point the
    same way, 1 if they are orthogonal, N/(N - 1) at most. It is 1 - `clarity` with all inputs as
    reference inputs.

    z: activations, shape (N, *neurons), N >= 2; a row of zeros has no angle (ValueError).

    >>> feature_decorrelation(np.array([[1.0, 0.0], [0.0, 2.0], [0.0, 3.0]]))  # one pair of three
    0.666...
    """
    z = as_activations(z, "feature_decorrelation: z")
    check_finite(z, "feature_decorrelation: z")
    rows = z.reshape(len(z), -1)  # (N, *neurons) -> (N, neurons)
    if len(rows) < 2:
        raise ValueError("feature_decorrelation: z has 1 input; cosines need two at least")
    silent = ~rows.astype(bool).any(axis=1)
    if silent.any():
        raise ValueError(
            f"feature_decorrelation: z is 0 everywhere for input {int(silent.argmax())}, which has "
            "no angle to the others; leave such inputs out"
        )
    return float(1 - clarity(rows))


@arithmetic()
def decorrelation_penalty(
    z: Tensor | Array,
    *,
    over: Literal["samples", "features"] = "samples",
    convention: Literal["paper", "authors"] = "paper",
) -> Tensor:
    """How far the activations are from orthonormal rows: the regulariser of DecPO, unweighted.

        paper     ||Z Zᵀ - I||_F²                                  published
        authors   mean over all entries of |Z| |Z|ᵀ - I            authors' code

    z: activations, shape (B, *neurons), one row per input, in the tensor's dtype. The paper does
    not say whether Z Zᵀ compares inputs (over="samples", B x B) or neurons (over="features",
    Zᵀ Z, neurons x neurons). It makes no difference to training (derived): the two values differ
    by the constant B - neurons, whatever z is, so their gradients are equal. The default is our
    choice: `feature_decorrelation` compares inputs, and so does the authors' code.

    The authors' form is not squared and has no optimum at orthonormal rows (derived): it equals
    (||Σ_i |z_i|||² - B) / B², so whatever shrinks activations lowers it, down to -1/B at Z = 0.
    Their code takes it per row and averages it with the losses, which is the mean here. It is
    over="samples" only.

    Returns a Tensor without axes, on the tape. `decpo_loss` adds it with the weights of either.

    >>> z = np.array([[1.0, 0.0, 1.0], [0.0, -1.0, 1.0]])
    >>> float(decorrelation_penalty(z)), float(decorrelation_penalty(z, over="features"))
    (4.0, 5.0)
    >>> float(decorrelation_penalty(z, convention="authors"))
    1.0
    """
    return orthonormality_penalty(z, over, convention, "decorrelation_penalty")


def orthonormality_penalty(z: Tensor | Array, over: str, convention: str, name: str) -> Tensor:
    """`decorrelation_penalty`, with errors that name the function that was called."""
    rows = _rows(z, name)
    if convention not in ("paper", "authors"):
        raise ValueError(f'{name}: convention is {convention!r}, expected "paper" or "authors"')
    if over not in ("samples", "features"):
        raise ValueError(f'{name}: over is {over!r}, expected "samples" or "features"')
    if convention == "paper":
        gram = rows @ rows.T if over == "samples" else rows.T @ rows
        excess = gram - _identity(gram)
        return (excess * excess).sum()
    if over != "samples":
        raise ValueError(
            f'{name}: convention "authors" compares samples; over="features" is not in their code'
        )
    size = abs(rows)
    gram = size @ size.T  # (B, neurons) @ (neurons, B) -> (B, B)
    return (gram - _identity(gram)).mean()


@arithmetic()
def l1_penalty(z: Tensor | Array) -> Tensor:
    """Σ_d |z_d| of each input, averaged over inputs: the sparsity baseline to DecPO, unweighted.

    Published with weight 1e-4; the average over inputs is our choice. z: shape (B, *neurons). The
    gradient is sign(z) / B, and 0 at 0.

    >>> float(l1_penalty(np.array([[1.0, -2.0], [0.0, 1.0]])))
    2.0
    """
    return abs(_rows(z, "l1_penalty")).sum(axis=1).mean()


# ---- weights -----------------------------------------------------------------------------------


def superposition_proxy(w_in: Array, b_in: Array) -> Array:
    """Bias times weight length of each neuron; the lower, the more features share its space.

        p_j = b_j ||w_j||_2

    Published. For n binary features, of which one is on at a time, spread evenly on a circle, it
    is cos(2π/n) / (cos(2π/n) - 1): 1/3, 0, -0.447, -1 for n = 3, 4, 5, 6. There the bias holds the
    neighbouring features down to 0 while the neuron's own gives 1. (Derived: the printed formula is
    exact for weights of length 1, which need features of length 1 / (1 - cos(2π/n)).)

    w_in: shape (D, neurons), one column w_j for each neuron, as the paper writes it; pass
    `layer.weight.data.T` of a `Linear`.   b_in: (neurons,). Returns float64 (neurons,).

    >>> superposition_proxy(np.array([[3.0, 0.0], [4.0, 1.0]]), np.array([-1.0, 0.5]))
    array([-5. ,  0.5])
    """
    W, b = _input_layer(w_in, b_in, "superposition_proxy")
    return b * array_module(W, b).sqrt((W * W).sum(axis=0))


def fold_into_linear(
    w_in: Array, b_in: Array, gain: Array, shift: Array
) -> tuple[Array, Array]:
    """A LayerNorm's gain and shift moved into the linear layer behind it; W then centred.

        W' = gain · W - mean over inputs of (gain · W)         b' = b + shift W

    The two layers compute the same function with W', b' and a LayerNorm of gain 1 and shift 0:
    what it normalises has mean 0 over channels, so a constant in a column of W has no effect.
    Authors' code: the released superposition scores come from weights folded so. Not for RMSNorm,
    which does not take the mean out.

    w_in: (D, neurons), one column for each neuron.   b_in: (neurons,).   gain, shift: (D,).
    Returns W' and b' in float64.

    >>> W, b = np.array([[1.0], [3.0]]), np.array([0.5])
    >>> fold_into_linear(W, b, np.array([2.0, 2.0]), np.array([1.0, 0.0]))
    (array([[-2.],
           [ 2.]]), array([1.5]))
    """
    W, b = _input_layer(w_in, b_in, "fold_into_linear")
    vectors = []
    for name, vector in (("gain", gain), ("shift", shift)):
        vector = as_activations(vector, f"fold_into_linear: {name}")
        check_finite(vector, f"fold_into_linear: {name}")
        if vector.shape != W.shape[:1]:
            raise ValueError(
                f"fold_into_linear: {name} has shape {vector.shape}, w_in has {W.shape[0]} inputs "
                "(axis 0)"
            )
        vectors.append(vector.astype(np.float64))
    g, s = vectors
    folded = g[:, None] * W
    return folded - folded.mean(axis=0), b + s @ W


def superposition_scores(
    layers: Sequence[tuple[Array, Array, Array, Array]], *, fold_layer_norm: bool = True
) -> Array:
    """The median superposition proxy of each layer, scaled so that a model's layers compare.

        s_l = median_j p_lj / max_l' median_j |p_l'j|

    Authors' code. layers: for each MLP, from the bottom up, (w_in, b_in, gain, shift): the weights
    (D, neurons) and biases (neurons,) of its input projection, and of the LayerNorm before it. For
    our GPT:

        [(b.mlp.up.weight.data.T, b.mlp.up.bias.data, b.norm2.weight.data, b.norm2.bias.data)
         for b in model.block]

    fold_layer_norm: first fold the LayerNorm in and centre the weights (`fold_into_linear`), as the
    released scores have it; False takes w_in and b_in as they are. Returns float64 (layers,), all
    within -1..1; nan if the median of |p| is 0 in every layer, as where all biases are 0.

    >>> unit = np.ones(2), np.zeros(2)
    >>> W = np.array([[3.0, 3.0], [-3.0, -3.0]])
    >>> superposition_scores([(W, np.array([1.0, 2.0]), *unit), (W, np.array([-6.0, 0.0]), *unit)])
    array([ 0.5, -1. ])
    """
    proxies = []
    for w_in, b_in, gain, shift in layers:
        weights = fold_into_linear(w_in, b_in, gain, shift) if fold_layer_norm else (w_in, b_in)
        proxies.append(superposition_proxy(*weights))
    if not proxies:
        raise ValueError("superposition_scores: no layers")
    xp = array_module(*proxies)
    medians = xp.stack([xp.median(p) for p in proxies])
    largest = xp.stack([xp.median(abs(p)) for p in proxies]).max()
    with np.errstate(invalid="ignore"):
        return medians / xp.where(largest > 0, largest, xp.nan)


# ---- checks ------------------------------------------------------------------------------------


def _rows(z: Tensor | Array, name: str) -> Tensor:
    """Activations as a matrix, one row per input."""
    try:
        z = as_tensor(z)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}: z: {error}") from error
    if z.dtype.kind not in "fc":  # complex: so that the complex-step check can pass through
        raise TypeError(f"{name}: z has dtype {z.dtype}, expected floats")
    if z.ndim < 2 or z.size == 0:
        raise ValueError(f"{name}: z has shape {z.shape}, expected (B, *neurons), not empty")
    return z.reshape(len(z), -1)  # (B, *neurons) -> (B, neurons)


def _identity(gram: Tensor) -> Tensor:
    return Tensor(array_module(gram.data).eye(len(gram), dtype=gram.dtype))


def _input_layer(w_in: Array, b_in: Array, name: str) -> tuple[Array, Array]:
    """Weights (D, neurons) and biases (neurons,) in float64."""
    W, b = as_activations(w_in, f"{name}: w_in"), as_activations(b_in, f"{name}: b_in")
    if W.ndim != 2:
        raise ValueError(f"{name}: w_in has shape {W.shape}, expected (D, neurons)")
    if b.shape != W.shape[1:]:
        raise ValueError(
            f"{name}: b_in has shape {b.shape}, w_in has {W.shape[1]} neurons (axis 1); the weight "
            "of a Linear has to be transposed"
        )
    check_finite(W, f"{name}: w_in")
    check_finite(b, f"{name}: b_in")
    return W.astype(np.float64), b.astype(np.float64)
