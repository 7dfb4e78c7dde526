"""Are the neurons of a layer used for few things each? Measures and penalties by decorrelation.

Yan, Xiang, Chen, Wang, Gui and He (EMNLP 2024, arXiv 2406.17969) ask whether monosemanticity
should be encouraged, and measure and encourage it by how little the representations of different
inputs resemble each other:

    feature_decorrelation    activations: how unlike are the representations of different inputs?
    decorrelation_penalty    the same, as a term of the loss (DecPO, in `preference.py`)
    l1_penalty               the baseline to it: few and small activations
    superposition_proxy      weights: does a neuron's bias hold back features that share its space?
    superposition_scores     the same for whole layers, comparable within a model

The paper's third activation measure, sparsity, is `metrics.variance_sparsity`. Its activations are,
one row per input at its last token, the input of the MLP's output projection in the GPT-2 family,
and the output of W_up in the Llama family.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np

from minimono import checks
from minimono.backend import Array, array_module
from minimono.engine.dtypes import arithmetic
from minimono.engine.tensor import Tensor, as_tensor
from minimono.mono.metrics import mean_distance, reference_inputs

Over: TypeAlias = Literal["samples", "features"]
Convention: TypeAlias = Literal["paper", "authors"]


def feature_decorrelation(z: Array) -> float:
    """Return how unlike the representations of different inputs are: 1 - their mean cosine.

        FD = 1 - Σ_{i≠j} cos(z_i, z_j) / (N (N - 1))

    It is 0 if all rows point the same way, 1 if they are orthogonal, N/(N - 1) at most, and equals
    1 - `clarity` with all inputs as reference inputs. The cosines are of the activations as they
    are, not centred. Published.

    z: activations, shape (N, *neurons), N >= 2; a row of zeros has no angle (ValueError).

    FD is off by at most 1e-14 √FD + 1e-28, so it keeps digits where all rows are nearly parallel.
    One pass over the inputs does for all pairs (`kernels/both/pairs.py`).

    >>> feature_decorrelation(np.array([[1.0, 0.0], [0.0, 2.0], [0.0, 3.0]]))  # one pair of three
    0.666...
    """
    name = "feature_decorrelation: z"
    z = checks.batch(z, name)
    rows = z.reshape(len(z), -1)  # (N, *neurons) -> (N, neurons)
    return float(mean_distance(reference_inputs(rows, name)))


@arithmetic()
def decorrelation_penalty(
    z: Tensor | Array, *, over: Over = "samples", convention: Convention = "paper"
) -> Tensor:
    """Return how far the activations are from orthonormal rows: DecPO's regulariser, unweighted.

        paper     ||Z Zᵀ - I||_F²                                  published
        authors   mean over all entries of |Z| |Z|ᵀ - I            authors' code

    z: activations, shape (B, *neurons), one row per input, in the tensor's dtype. Returns a Tensor
    without axes, on the tape. `decpo_loss` adds it with the weights of either.

    The paper does not say whether Z Zᵀ compares inputs (over="samples") or neurons
    (over="features", Zᵀ Z). Training is the same (derived): the two values differ by the constant
    B - neurons. The default is our choice: `feature_decorrelation` and the authors' code compare
    inputs.

    The authors' form is over="samples" only and has no optimum at orthonormal rows (derived): it
    equals (||Σ_i |z_i|||² - B) / B², so whatever shrinks activations lowers it, down to -1/B at
    Z = 0. Their code takes it per row and averages it with the losses, which is the mean here.

    >>> z = np.array([[1.0, 0.0, 1.0], [0.0, -1.0, 1.0]])
    >>> float(decorrelation_penalty(z)), float(decorrelation_penalty(z, over="features"))
    (4.0, 5.0)
    >>> float(decorrelation_penalty(z, convention="authors"))
    1.0
    """
    return orthonormality_penalty(z, over, convention, "decorrelation_penalty")


def orthonormality_penalty(
    z: Tensor | Array, over: Over, convention: Convention, name: str
) -> Tensor:
    """`decorrelation_penalty`, with errors that name the function that was called."""
    rows = _rows(z, name)
    checks.one_of(over, f"{name}: over", ("samples", "features"))
    if checks.one_of(convention, f"{name}: convention", ("paper", "authors")) == "paper":
        gram = rows @ rows.T if over == "samples" else rows.T @ rows
        excess = gram - _identity(gram)
        return (excess * excess).sum()
    checks.one_of(over, f'{name}: with convention "authors" over', ("samples",))
    size = abs(rows)
    gram = size @ size.T  # (B, neurons) @ (neurons, B) -> (B, B)
    return (gram - _identity(gram)).mean()


@arithmetic()
def l1_penalty(z: Tensor | Array) -> Tensor:
    """Return Σ_d |z_d|, averaged over inputs: the sparsity baseline to DecPO, unweighted.

    Published with weight 1e-4; the average over inputs is our choice. z: shape (B, *neurons). The
    gradient is sign(z) / B, and 0 at 0.

    >>> float(l1_penalty(np.array([[1.0, -2.0], [0.0, 1.0]])))
    2.0
    """
    return abs(_rows(z, "l1_penalty")).sum(axis=1).mean()


# ---- weights -----------------------------------------------------------------------------------


def superposition_proxy(w_in: Array, b_in: Array) -> Array:
    """Return bias times weight length of each neuron; the lower, the more features share its space.

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


def fold_into_linear(w_in: Array, b_in: Array, gain: Array, shift: Array) -> tuple[Array, Array]:
    """Move a LayerNorm's gain and shift into the linear layer behind it, and centre its weights.

        W' = gain · W - mean over inputs of (gain · W)         b' = b + shift W

    The two layers compute the same function with W', b' and a LayerNorm of gain 1 and shift 0:
    what it normalises has mean 0 over channels, so a constant in a column of W has no effect.
    Authors' code: the released superposition scores come from weights folded so. It is not for
    RMSNorm, which does not take the mean out.

    w_in: (D, neurons), one column for each neuron.   b_in: (neurons,).   gain, shift: (D,).
    Returns W' and b' in float64.

    >>> W, b = np.array([[1.0], [3.0]]), np.array([0.5])
    >>> fold_into_linear(W, b, np.array([2.0, 2.0]), np.array([1.0, 0.0]))
    (array([[-2.],
           [ 2.]]), array([1.5]))
    """
    W, b = _input_layer(w_in, b_in, "fold_into_linear")
    each = "one for each input of w_in (axis 0)"
    gain = _vector(gain, "fold_into_linear: gain", len(W), each)
    shift = _vector(shift, "fold_into_linear: shift", len(W), each)
    folded = gain[:, None] * W
    return folded - folded.mean(axis=0), b + shift @ W


def superposition_scores(
    layers: Sequence[tuple[Array, Array, Array, Array]], *, fold_layer_norm: bool = True
) -> Array:
    """Return each layer's median superposition proxy, scaled so that a model's layers compare.

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
    proxies = [
        superposition_proxy(*(fold_into_linear(*layer) if fold_layer_norm else layer[:2]))
        for layer in checks.several(layers, "superposition_scores: layers", "a layer")
    ]
    xp = array_module(*proxies)
    medians = xp.stack([xp.median(p) for p in proxies])
    largest = xp.stack([xp.median(abs(p)) for p in proxies]).max()
    with np.errstate(invalid="ignore"):
        return medians / xp.where(largest > 0, largest, xp.nan)


# ---- checks ------------------------------------------------------------------------------------


def float_tensor(value: Tensor | Array, name: str) -> Tensor:
    """A tensor of floats, or complex, so that the complex-step check can pass through."""
    try:
        x = as_tensor(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}: {error}") from error
    return checks.floats(x, name, "fc")  # type: ignore[no-any-return]


def _rows(z: Tensor | Array, name: str) -> Tensor:
    """Activations as a matrix, one row per input."""
    z = float_tensor(z, f"{name}: z")
    checks.layout(z, f"{name}: z", "(B, *neurons), not empty", z.ndim >= 2 and z.size > 0)
    return z.reshape(len(z), -1)  # (B, *neurons) -> (B, neurons)


def _identity(gram: Tensor) -> Tensor:
    return Tensor(array_module(gram.data).eye(len(gram), dtype=gram.dtype))


def _input_layer(w_in: Array, b_in: Array, function: str) -> tuple[Array, Array]:
    """Weights (D, neurons) and biases (neurons,) in float64."""
    W = checks.matrix(w_in, f"{function}: w_in", "(D, neurons)")
    each = "one for each neuron of w_in (axis 1); the weight of a Linear has to be transposed"
    return W, _vector(b_in, f"{function}: b_in", W.shape[1], each)


def _vector(x: Array, name: str, length: int, each: str) -> Array:
    return checks.values(checks.shaped(checks.real(x, name), name, (length,), each), name)
