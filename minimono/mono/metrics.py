"""Other people's measures of monosemanticity, each a few lines.

What each looks at:

    feature_dimensionality    weights: how much of a dimension a feature has to itself
    class_selectivity         activations and labels: does one class drive the neuron?
    single_feature_purity     activations and known features: does one feature drive it?
    monosemanticity_score     activations and embeddings: are the inputs that drive it alike?
    clarity                   embeddings of the inputs that drive it most: are they alike?
    hoyer_sparsity            any vectors: is their weight on few entries?
    variance_sparsity         activations: how uneven is an input's code?

All compute in float64 and return float64, whatever comes in. nan or infinity in the input is a
ValueError; a nan that comes out means that the measure is undefined there.
"""

import math

import numpy as np

from minimono import sums
from minimono.backend import Array, array_module, as_array
from minimono.checks import activations as as_activations

_BLOCK = 512  # inputs that `monosemanticity_score` compares at a time


def feature_dimensionality(features: Array) -> Array:
    """What share of a dimension each feature has (Elhage et al., 2022, "Toy Models").

        D_i = ||W_i||² / Σ_j (Ŵ_i · W_j)²,     Ŵ_i = W_i / ||W_i||

    Published. The same as the capacity (W_i · W_i)² / Σ_j (W_i · W_j)² of Scherlis et al. (2022),
    in which form it is computed. 1 for a feature orthogonal to all others, 1/2 for an antipodal
    pair; the sum over features is at most the number of dimensions.

    features: shape (F, D), one row W_i for each feature; Elhage et al. have columns. Returns (F,).
    nan for a feature of length 0, or shorter than 1e-154 of the largest entry.

    >>> feature_dimensionality(np.array([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]))
    array([1. , 0.5, 0.5])
    """
    W = _matrix(features, "feature_dimensionality: features", "(F, D)")
    xp = array_module(W)
    W = _scaled(W)
    overlap = W @ W.T  # (F, F): W_i · W_j
    length2 = xp.diagonal(overlap)[:, None]  # (F, 1): ||W_i||²
    length2 = xp.where(length2 >= xp.finfo(xp.float64).tiny, length2, xp.nan)
    with np.errstate(over="ignore", under="ignore"):
        return 1 / ((overlap / length2) ** 2).sum(axis=1)


def class_selectivity(z: Array, labels: Array) -> Array:
    """How much more a neuron responds to one class than to the others (Morcos et al., 2018).

        (μ_max - μ_rest) / (μ_max + μ_rest)

    Published. μ_max is the highest of the class means of the neuron's activation, μ_rest the mean
    of the other class means: every class weighs the same, however many samples it has (our
    choice; the sources do not say). 0: all classes alike. 1: only one class drives it.

    z: activations, shape (B, *neurons), not negative: take them after a ReLU, else the index is
    not in 0..1 (ValueError). For a feature map, average over positions first, as the authors do.
    labels: whole numbers, shape (B,), two classes at least. Returns shape neurons; nan for a
    neuron that is 0 everywhere.

    >>> z = np.array([[3.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    >>> class_selectivity(z, np.array([0, 0, 1]))
    array([ 1.,  0., nan])
    """
    z = _values(z, "class_selectivity: z")
    _check_not_negative(z, "class_selectivity: z")
    labels = as_array(labels)
    xp = array_module(z, labels)
    if labels.dtype.kind not in "iub":
        raise TypeError(
            f"class_selectivity: labels has dtype {labels.dtype}, expected whole numbers"
        )
    if labels.shape != z.shape[:1]:
        raise ValueError(
            f"class_selectivity: labels have shape {labels.shape}, activations have "
            f"{len(z)} samples (axis 0)"
        )
    classes = xp.unique(labels).tolist()
    if len(classes) < 2:
        raise ValueError(
            f"class_selectivity: all labels are {classes[0]}; two classes are needed at least"
        )
    z = _scaled(z, axis=0)
    means = xp.stack([sums.mean(z[labels == c], axis=0) for c in classes])  # (classes, *neurons)
    highest = means.max(axis=0)
    # Sorted, because the sum of all less the highest would leave rounding behind.
    rest = xp.sort(means, axis=0)[:-1].mean(axis=0)
    with np.errstate(invalid="ignore"):
        return (highest - rest) / (highest + rest)


def single_feature_purity(responses: Array) -> Array:
    """How much of a neuron's response is to a single feature (Jermyn et al., 2022).

        max_f a_f / Σ_f a_f

    Published. 1 for a neuron that one feature alone activates, 1/F if all do alike.

    responses: shape (F, *neurons); entry f is the activation when only feature f is present. Not
    negative: take them after a ReLU (ValueError). Returns shape neurons; nan for a neuron that no
    feature activates.

    >>> single_feature_purity(np.array([[2.0, 1.0, 0.0], [0.0, 1.0, 0.0]]))
    array([1. , 0.5, nan])
    """
    a = _values(responses, "single_feature_purity: responses")
    _check_not_negative(a, "single_feature_purity: responses")
    a = _scaled(a, axis=0)
    with np.errstate(invalid="ignore"):
        return a.max(axis=0) / sums.total(a, axis=0)


def monosemanticity_score(z: Array, embeddings: Array) -> Array:
    """How alike the inputs are that activate a neuron (Pach et al., 2025, arXiv 2504.02821).

        Σ_{n<m} a_n a_m cos(e_n, e_m) / Σ_{n<m} a_n a_m

    Published. a is the neuron's activation, scaled to 0..1 by its minimum and maximum over the
    inputs; e_n is input n seen by an independent encoder. 1: all inputs that activate it are alike.
    Computed by blocks of inputs, with the sum Σ a_n ê_n of the blocks before; memory does not grow
    with B².

    z: activations, shape (B, *neurons).   embeddings: shape (B, D), none of them 0 (ValueError).
    Returns shape neurons; nan for a constant neuron, and for one that is above its minimum for a
    single input, so always for B < 3.

    >>> z = np.array([[0.0, 2.0], [1.0, 2.0], [1.0, 0.0]])
    >>> monosemanticity_score(z, np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 5.0]]))
    array([1., 0.])
    """
    z = _values(z, "monosemanticity_score: z")
    e = _matrix(embeddings, "monosemanticity_score: embeddings", "(B, D)")
    xp = array_module(z, e)
    if len(e) != len(z):
        raise ValueError(
            f"monosemanticity_score: embeddings have {len(e)} inputs (axis 0), activations {len(z)}"
        )
    unit = _unit(e, "monosemanticity_score: embeddings")
    flat = _scaled(z, axis=0).reshape(len(z), -1)  # (B, *neurons) -> (B, neurons)
    least, most = flat.min(axis=0), flat.max(axis=0)
    with np.errstate(invalid="ignore", under="ignore"):
        a = (flat - least) / (most - least)
        weights = sums.total(a[1:] * sums.running(a, axis=0)[:-1], axis=0)  # (neurons,)
        alike = sums.Sum()
        before = xp.zeros((unit.shape[1], len(weights)))  # (D, neurons)
        for start in range(0, len(a), _BLOCK):
            e, a_block = unit[start : start + _BLOCK], a[start : start + _BLOCK]
            earlier = xp.tril(e @ e.T, -1)  # (block, block): cos(e_m, e_n) for n < m, else 0
            alike.add(sums.total(a_block * (earlier @ a_block + e @ before), axis=0))
            before += e.T @ a_block
        score = alike.total(xp.zeros_like(weights)) / weights
    return score.reshape(z.shape[1:])


def clarity(embeddings: Array) -> Array:
    """How alike the inputs are that activate a neuron most (Dreyer et al., 2025, SemanticLens).

        n/(n-1) · (||mean_i v̂_i||² - 1/n),     v̂ = v / ||v||

    Published. The mean cosine over all pairs of different inputs: 1 if all are alike, 0 if all
    are orthogonal, -1/(n-1) at the least.

    embeddings: shape (..., n, D): for each neuron, its n >= 2 reference inputs, none of them 0
    (ValueError). Returns shape (...).

    >>> float(clarity(np.array([[2.0, 0.0], [1.0, 0.0], [0.0, 1.0]])))      # one pair of three
    0.333...
    """
    v = _values(embeddings, "clarity: embeddings")
    if v.ndim < 2 or v.shape[-2] < 2:
        raise ValueError(
            f"clarity: embeddings have shape {v.shape}, expected (..., n, D) with n of 2 or more"
        )
    n = v.shape[-2]
    mean = _unit(v, "clarity: embeddings").mean(axis=-2)  # (..., D)
    return n / (n - 1) * ((mean**2).sum(axis=-1) - 1 / n)


def hoyer_sparsity(x: Array) -> Array:
    """On how few entries the weight of a vector lies (Hoyer, 2004).

        (√n - ||x||_1 / ||x||_2) / (√n - 1)

    Published. 1 for a vector with one entry that is not 0, 0 if all have the same magnitude.

    x: shape (..., n), vectors along the last axis, n >= 2. z gives the sparsity of each input's
    code, z.T that of each neuron over the inputs. Returns shape (...); nan for a vector of zeros.

    >>> hoyer_sparsity(np.array([[0.0, 0.0, 0.0, -5.0], [1.0, -1.0, 1.0, 1.0], [0, 0, 0, 0]]))
    array([ 1.,  0., nan])
    """
    x = _values(x, "hoyer_sparsity: x")
    n = x.shape[-1]
    if n < 2:
        raise ValueError(
            f"hoyer_sparsity: x has shape {x.shape}, expected vectors of two entries at least "
            "(last axis)"
        )
    xp = array_module(x)
    x = abs(_scaled(x, axis=-1))
    with np.errstate(invalid="ignore", under="ignore"):
        ratio = x.sum(axis=-1) / xp.sqrt((x * x).sum(axis=-1))
    return (math.sqrt(n) - ratio) / (math.sqrt(n) - 1)


def variance_sparsity(z: Array) -> Array:
    """How uneven each input's code is: the variance of its activations across neurons.

        mean over neurons of (z - mean over neurons of z)²

    The measure that Yan et al. (EMNLP 2024, arXiv 2406.17969) call sparsity. Published; that the
    variance is the biased one (ddof=0) is our choice. Unlike `hoyer_sparsity` it grows with the
    square of the scale: compare only layers of the same scale.

    z: activations, shape (B, *neurons), two neurons at least. Returns (B,).

    >>> variance_sparsity(np.array([[0.0, 0.0, 0.0, 4.0], [1.0, 1.0, 1.0, 1.0]]))
    array([3., 0.])
    """
    z = _values(z, "variance_sparsity: z")
    z = z.reshape(len(z), -1)  # (B, *neurons) -> (B, neurons)
    if z.shape[1] < 2:
        raise ValueError("variance_sparsity: z has 1 neuron, which has no variance across neurons")
    xp = array_module(z)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        deviation = z - z.mean(axis=1, keepdims=True)
        deviation -= deviation.mean(axis=1, keepdims=True)  # what rounding left of the mean
        variance = (deviation**2).mean(axis=1)
    if not xp.isfinite(variance).all():
        raise ValueError(
            "variance_sparsity: z is too large: squares above about 1e154 overflow float64; "
            "scale the activations down"
        )
    return variance


def _values(x: Array, name: str) -> Array:
    """As float64, all of it finite."""
    x = as_activations(x, name)
    _check(x, array_module(x).isfinite(x), name, "expected finite numbers")
    return x.astype(np.float64, copy=False)


def _matrix(x: Array, name: str, axes: str) -> Array:
    x = _values(x, name)
    if x.ndim != 2:
        raise ValueError(f"{name} has shape {x.shape}, expected {axes}")
    return x


def _scaled(x: Array, axis: int | None = None) -> Array:
    """Divided by the power of two that brings the largest magnitude (along `axis`) below 1.

    It loses no digits, and squares neither overflow nor vanish.
    """
    xp = array_module(x)
    _, exponent = xp.frexp(abs(x).max(axis=axis, keepdims=True))
    with np.errstate(under="ignore"):
        return xp.ldexp(x, -exponent)


def _unit(v: Array, name: str) -> Array:
    """Vectors along the last axis, at length 1."""
    xp = array_module(v)
    v = _scaled(v, axis=-1)
    with np.errstate(under="ignore"):
        length = xp.sqrt((v * v).sum(axis=-1, keepdims=True))
    _check(length[..., 0], length[..., 0] > 0, f"{name}: lengths", "expected more than 0")
    return v / length


def _check_not_negative(x: Array, name: str) -> None:
    _check(x, x >= 0, name, "expected no negative numbers: take activations after a ReLU")


def _check(x: Array, good: Array, name: str, expected: str) -> None:
    """Raise with the first entry that is not good."""
    if not good.all():
        index = tuple(int(i) for i in np.unravel_index(int(good.argmin()), x.shape))
        raise ValueError(f"{name} is {float(x[index])} at {list(index)}, {expected}")
