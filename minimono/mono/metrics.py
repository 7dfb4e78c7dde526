"""Other people's measures of monosemanticity, each a few lines.

What each looks at:

    feature_dimensionality    weights: how much of a dimension a feature has to itself
    class_selectivity         activations and labels: does one class drive the neuron?
    single_feature_purity     activations and known features: does one feature drive it?
    monosemanticity_score     activations and embeddings: are the inputs that drive it alike?
    clarity                   embeddings of the inputs that drive it most: are they alike?
    hoyer_sparsity            any vectors: is their weight on few entries?
    variance_sparsity         activations: how uneven is an input's code?
    effective_features        activations: among how many neurons is what is active divided?

All compute in float64 and return float64, whatever comes in. nan or infinity in the input is a
ValueError; a nan that comes out means that the measure is undefined there.
"""

import math
from collections.abc import Callable

import numpy as np

from minimono import checks, sums
from minimono.backend import Array, array_module
from minimono.kernels.seam import with_kernel

TOGETHER = 1 << 19  # numbers of vectors that are looked at together, in float64 (our choice)


def feature_dimensionality(features: Array) -> Array:
    """Return what share of a dimension each feature has (Elhage et al., 2022, "Toy Models").

        D_i = ||W_i||² / Σ_j (Ŵ_i · W_j)²,     Ŵ_i = W_i / ||W_i||

    It is 1 for a feature orthogonal to all others, 1/2 for an antipodal pair; the sum over features
    is at most the number of dimensions. Published. It equals the capacity
    (W_i · W_i)² / Σ_j (W_i · W_j)² of Scherlis et al. (2022), in which form it is computed.

    features: shape (F, D), one row W_i for each feature; Elhage et al. have columns. Returns (F,).
    nan for a feature of length 0, or shorter than 1e-154 of the largest entry.

    >>> feature_dimensionality(np.array([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]))
    array([1. , 0.5, 0.5])
    """
    W = sums.scaled(checks.matrix(features, "feature_dimensionality: features", "(F, D)"))
    xp = array_module(W)
    overlap = W @ W.T  # (F, F): W_i · W_j
    length2 = xp.diagonal(overlap)[:, None]  # (F, 1): ||W_i||²
    length2 = xp.where(length2 >= xp.finfo(xp.float64).tiny, length2, xp.nan)
    with np.errstate(over="ignore", under="ignore"):
        return 1 / ((overlap / length2) ** 2).sum(axis=1)


def class_selectivity(z: Array, labels: Array) -> Array:
    """Return how much more a neuron responds to one class than to others (Morcos et al., 2018).

        (μ_max - μ_rest) / (μ_max + μ_rest)

    Published. μ_max is the highest of the class means of the neuron's activation, μ_rest the mean
    of the other class means: every class weighs the same, however many samples it has (our
    choice; the sources do not say). It is 0 if all classes are alike, 1 if only one drives it.

    z: activations, shape (B, *neurons), not negative: take them after a ReLU, else the index is
    not in 0..1 (ValueError). For a feature map, average over positions first, as the authors do.
    labels: whole numbers, shape (B,), two classes at least. Returns shape neurons; nan for a
    neuron that is 0 everywhere.

    >>> z = np.array([[3.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    >>> class_selectivity(z, np.array([0, 0, 1]))
    array([ 1.,  0., nan])
    """
    z = _not_negative(z, "class_selectivity: z")
    labels = checks.labels(labels, "class_selectivity: labels", count=len(z), kinds="iub")
    xp = array_module(z, labels)
    classes = xp.unique(labels).tolist()
    if len(classes) < 2:
        raise ValueError(
            f"class_selectivity: labels is {classes[0]} everywhere, expected two classes at least"
        )
    z = sums.scaled(z, axis=0)
    means = xp.stack([sums.mean(z[labels == c], axis=0) for c in classes])  # (classes, *neurons)
    highest = means.max(axis=0)
    # Sorted, because the sum of all less the highest would leave rounding behind.
    rest = xp.sort(means, axis=0)[:-1].mean(axis=0)
    with np.errstate(invalid="ignore"):
        return (highest - rest) / (highest + rest)


def single_feature_purity(responses: Array) -> Array:
    """Return how much of a neuron's response is to a single feature (Jermyn et al., 2022).

        max_f a_f / Σ_f a_f

    It is 1 for a neuron that one feature alone activates, 1/F if all do alike. Published.

    responses: shape (F, *neurons); entry f is the activation when only feature f is present. Not
    negative: take them after a ReLU (ValueError). Returns shape neurons; nan for a neuron that no
    feature activates.

    >>> single_feature_purity(np.array([[2.0, 1.0, 0.0], [0.0, 1.0, 0.0]]))
    array([1. , 0.5, nan])
    """
    a = sums.scaled(_not_negative(responses, "single_feature_purity: responses"), axis=0)
    with np.errstate(invalid="ignore"):
        return a.max(axis=0) / sums.total(a, axis=0)


def monosemanticity_score(z: Array, embeddings: Array) -> Array:
    """Return how alike the inputs are that activate a neuron (Pach et al., 2025, arXiv 2504.02821).

        Σ_{n<m} a_n a_m cos(e_n, e_m) / Σ_{n<m} a_n a_m

    Published. a is the neuron's activation, scaled to 0..1 by its minimum and maximum over the
    inputs; e_n is input n seen by an independent encoder. It is 1 if all inputs that activate the
    neuron are alike.

    z: activations, shape (B, *neurons).   embeddings: shape (B, D), none of them 0 (ValueError).
    Returns shape neurons; nan for a constant neuron, and for one that is above its minimum for a
    single input, so always for B < 3.

    One pass over the inputs, and memory for a block of them, do for all pairs (`kernels/both/
    pairs.py`, which tells how). The score is off by at most 1e-13, whatever the inputs.

    >>> z = np.array([[0.0, 2.0], [1.0, 2.0], [1.0, 0.0]])
    >>> monosemanticity_score(z, np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 5.0]]))
    array([1., 0.])
    """
    z = checks.values(z, "monosemanticity_score: z", dtype=None)
    e = embeddings_of(embeddings, "monosemanticity_score: embeddings", len(z))
    array_module(z, e)  # raises for two devices
    return weighted_cosine(z, e)


def embeddings_of(embeddings: Array, name: str, inputs: int) -> Array:
    """Embeddings of so many inputs as finite numbers (B, D) of any dtype, none of them 0."""
    e = checks.matrix(embeddings, name, "(B, D)", dtype=None)
    checks.shaped(e, name, (inputs, e.shape[1]), "a row for each input of z (axis 0)")
    lengths_above_0(e, name)
    return e


@with_kernel("pairs")
def weighted_cosine(z: Array, embeddings: Array) -> Array:
    """Return the mean cosine over all pairs of inputs n < m, weighted by a_n a_m.

        a_n = (z_n - min z) / (max z - min z)

    z: (B, *neurons).   embeddings: (B, D).   Returns shape neurons.
    """
    xp = array_module(z)
    flat = sums.scaled(z.reshape(len(z), -1).astype(np.float64), axis=0)  # (B, neurons)
    least, most = flat.min(axis=0), flat.max(axis=0)
    a = (flat - least) / (most - least)
    unit = sums.unit(embeddings)
    pairs = xp.triu(xp.ones((len(z), len(z))), 1)  # (B, B): 1 for n < m
    alike = sums.total(a * ((pairs * (unit @ unit.T)) @ a), axis=0)
    return (alike / sums.total(a * (pairs @ a), axis=0)).reshape(z.shape[1:])


def clarity(embeddings: Array) -> Array:
    """Return how alike the inputs are that activate a neuron most (Dreyer et al., 2025).

        n/(n-1) · (||mean_i v̂_i||² - 1/n),     v̂ = v / ||v||

    Published, in SemanticLens. It is the mean cosine over all pairs of different inputs: 1 if all
    are alike, 0 if all are orthogonal, -1/(n-1) at the least. It is off by at most 1e-14.

    embeddings: shape (..., n, D): for each neuron, its n >= 2 reference inputs, none of them 0
    (ValueError). Returns shape (...).

    >>> float(clarity(np.array([[2.0, 0.0], [1.0, 0.0], [0.0, 1.0]])))      # one pair of three
    0.333...
    """
    name = "clarity: embeddings"
    return 1 - mean_distance(reference_inputs(embeddings, name))


def reference_inputs(v: Array, name: str) -> Array:
    """`v` as finite numbers (..., n, D) of any dtype, of two inputs or more, none of them 0."""
    v = checks.values(v, name, dtype=None)
    n = v.shape[-2] if v.ndim > 1 else 0
    checks.layout(v, name, "(..., n, D) with n of 2 or more", n >= 2)
    lengths_above_0(v, name)
    return v


@with_kernel("pairs")
def mean_distance(v: Array) -> Array:
    """Return the mean of 1 - cos(v_i, v_j) over all pairs of different rows: (..., n, D) -> (...).

    The other way to work it out, which the kernel goes, is Σ_i ||v̂_i - mean v̂||² / (n - 1).
    """
    xp, n = array_module(v), v.shape[-2]
    unit = sums.unit(v)
    cosines = unit @ xp.swapaxes(unit, -1, -2)  # (..., n, n)
    return sums.total(xp.triu(1 - cosines, 1), axis=(-2, -1)) / (n * (n - 1) / 2)


def hoyer_sparsity(x: Array) -> Array:
    """Return on how few entries the weight of a vector lies (Hoyer, 2004).

        (√n - ||x||_1 / ||x||_2) / (√n - 1)

    It is 1 for a vector with one entry that is not 0, 0 if all have the same magnitude. Published.

    x: shape (..., n), vectors along the last axis, n >= 2. z gives the sparsity of each input's
    code, z.T that of each neuron over the inputs. Returns shape (...); nan for a vector of zeros.

    >>> hoyer_sparsity(np.array([[0.0, 0.0, 0.0, -5.0], [1.0, -1.0, 1.0, 1.0], [0, 0, 0, 0]]))
    array([ 1.,  0., nan])
    """
    x = checks.values(x, "hoyer_sparsity: x", dtype=None)
    n = x.shape[-1]
    checks.layout(x, "hoyer_sparsity: x", "vectors of two entries at least (last axis)", n >= 2)

    def sparsity(x: Array) -> Array:
        x = abs(sums.scaled(x, axis=-1))
        with np.errstate(invalid="ignore", under="ignore"):
            ratio = x.sum(axis=-1) / array_module(x).sqrt((x * x).sum(axis=-1))
        return (math.sqrt(n) - ratio) / (math.sqrt(n) - 1)

    return _of_vectors(sparsity, x)


def variance_sparsity(z: Array) -> Array:
    """Return how uneven each input's code is: the variance of its activations across neurons.

        mean over neurons of (z - mean over neurons of z)²

    The measure that Yan et al. (EMNLP 2024, arXiv 2406.17969) call sparsity. Published; that the
    variance is the biased one (ddof=0) is our choice. Unlike `hoyer_sparsity` it grows with the
    square of the scale: compare only layers of the same scale.

    z: activations, shape (B, *neurons), two neurons at least. Returns (B,).

    >>> variance_sparsity(np.array([[0.0, 0.0, 0.0, 4.0], [1.0, 1.0, 1.0, 1.0]]))
    array([3., 0.])
    """
    z = checks.values(z, "variance_sparsity: z", dtype=None)
    z = z.reshape(len(z), -1)  # (B, *neurons) -> (B, neurons)
    checks.layout(z, "variance_sparsity: z", "two neurons at least", z.shape[1] >= 2)
    xp = array_module(z)

    def variances(z: Array) -> Array:
        deviation = z - z.mean(axis=1, keepdims=True)
        deviation -= deviation.mean(axis=1, keepdims=True)  # what rounding left of the mean
        return (deviation**2).mean(axis=1)

    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        variance = _of_vectors(variances, z)
    if not xp.isfinite(variance).all():
        raise ValueError(
            "variance_sparsity: z is too large, expected squares that float64 can hold (of less "
            "than about 1e154); scale the activations down"
        )
    return variance


def effective_features(z: Array) -> float:
    """Return among how many neurons the activity is divided: exp of an entropy.

        F = exp(-Σ_i p_i ln p_i),     p_i = mean_b |z_bi| / Σ_j mean_b |z_bj|

    Published (arXiv 2512.13568), for the codes of a sparse autoencoder: F over the number of
    neurons that it reads is there how far features are in superposition. F is 1 if one neuron does
    it all, and all are counted if all do alike. It does not change with the scale of all
    activations, but does with that of one neuron. There is no ε in it (our choice): the authors'
    three scripts add 1e-10 or 1e-12 in three places, which counts neurons that are never active.

    z: activations or codes, shape (B, *neurons); sum feature maps over their positions first, as
    the authors do. Returns a number from 1 to neurons; nan if all of z is 0.

    >>> effective_features(np.array([[2.0, 0.0, 0.0], [0.0, -2.0, 0.0]]))
    2.0
    """
    z = checks.values(z, "effective_features: z")
    mass = sums.mean(abs(sums.scaled(z.reshape(-1))).reshape(len(z), -1), axis=0)  # (neurons,)
    total = float(sums.total(mass))
    if total == 0:
        return math.nan
    p = mass[mass > 0] / total
    return float(np.exp(-sums.total(p * np.log(p))))


def _not_negative(x: Array, name: str) -> Array:
    x = checks.values(x, name)
    checks.everywhere(x, x >= 0, name, "no negative numbers: take activations after a ReLU")
    return x


def _of_vectors(formula: Callable[[Array], Array], x: Array) -> Array:
    """Return the formula of the vectors (b, n) of x (..., n), in float64, a block at a time."""
    vectors = x.reshape(-1, x.shape[-1])  # (..., n) -> (N, n)
    step = max(1, TOGETHER // x.shape[-1])
    found = [
        formula(vectors[i : i + step].astype(np.float64)) for i in range(0, len(vectors), step)
    ]
    return array_module(x).concatenate(found).reshape(x.shape[:-1])


def lengths_above_0(v: Array, name: str) -> None:
    """Raise, naming the first place, if a vector of v (..., D) is 0."""
    some = v.any(axis=-1)
    checks.everywhere(some, some, f"{name}: length", "more than 0")
