"""The subject: how monosemantic a neuron is, and what to do about it.

`moments`, `scale`, `tracker`, `selection`, `features`, `emergence` and all measures (`metrics`,
`fms`, `semanticlens`, `separability`, `absorption`) take and return plain arrays. `inhibition`,
`l2e` and `monoloss` act on tensors while a network trains; `decorrelation`, `preference` and
`circuits` hold both kinds.
"""

from minimono import lazy
from minimono.mono.absorption import absorption, main_units
from minimono.mono.batch_scores import BatchScores, score_batch
from minimono.mono.circuits import (
    circuit_attribution,
    circuit_attribution_between,
    mean_over_positions,
    reference_samples,
    split_weights,
    virtual_activations,
)
from minimono.mono.clusters import (
    alignment,
    cluster_distances,
    cluster_purity,
    route,
    virtual_neurons,
)
from minimono.mono.convolution_mask import ConvMask, pool_mask
from minimono.mono.decorrelation import (
    decorrelation_penalty,
    feature_decorrelation,
    fold_into_linear,
    l1_penalty,
    superposition_proxy,
    superposition_scores,
)
from minimono.mono.emergence import (
    active_counts,
    active_nodes,
    emergence,
    emergence_of_graph,
    emergence_of_masks,
    relative_emergence,
)
from minimono.mono.features import (
    false_killing_rate,
    feature_scale,
    kolmogorov_smirnov,
    own_feature,
)
from minimono.mono.fms import feature_monosemanticity_score
from minimono.mono.inhibition import Inhibition, MEmeL, deactivate
from minimono.mono.l2e import L2E, MovingThreshold, l2e_penalty, log_distance_penalty
from minimono.mono.metrics import (
    clarity,
    class_selectivity,
    effective_features,
    feature_dimensionality,
    hoyer_sparsity,
    monosemanticity_score,
    single_feature_purity,
    variance_sparsity,
)
from minimono.mono.moments import Moments
from minimono.mono.monoloss import mono_loss
from minimono.mono.preference import (
    decpo_loss,
    dpo_loss,
    implicit_reward,
    ipo_loss,
    log_sigmoid,
    response_log_probability,
    reward_accuracy,
    reward_margin,
    sequence_log_probability,
    simpo_loss,
)
from minimono.mono.pruning import initialise_by_distance, prune_by_magnitude
from minimono.mono.scale import monosemantic_scale
from minimono.mono.selection import (
    Above,
    Rule,
    TopFraction,
    TopK,
    select_above,
    select_top_fraction,
    select_top_k,
)
from minimono.mono.semanticlens import concept_similarity, polysemanticity, redundancy
from minimono.mono.separability import concept_separability, jensen_shannon_distance
from minimono.mono.tracker import ScaleTracker

__all__ = [
    "L2E", "Above", "BatchScores", "ConvMask", "Inhibition", "MEmeL", "Moments", "MovingThreshold",
    "Rule", "ScaleTracker", "TopFraction", "TopK", "absorption", "active_counts", "active_nodes",
    "alignment", "circuit_attribution", "circuit_attribution_between", "clarity",
    "class_selectivity", "cluster_distances", "cluster_purity", "concept_separability",
    "concept_similarity", "deactivate", "decorrelation_penalty", "decpo_loss", "dpo_loss",
    "effective_features", "emergence", "emergence_of_graph", "emergence_of_masks",
    "false_killing_rate", "feature_decorrelation", "feature_dimensionality",
    "feature_monosemanticity_score", "feature_scale", "fold_into_linear", "hoyer_sparsity",
    "implicit_reward", "initialise_by_distance", "ipo_loss", "jensen_shannon_distance",
    "kolmogorov_smirnov", "l1_penalty", "l2e_penalty", "log_distance_penalty", "log_sigmoid",
    "main_units", "mean_over_positions", "mono_loss", "monosemantic_scale",
    "monosemanticity_score", "own_feature", "polysemanticity", "pool_mask", "prune_by_magnitude",
    "redundancy", "reference_samples", "relative_emergence", "response_log_probability",
    "reward_accuracy", "reward_margin", "route", "score_batch", "select_above",
    "select_top_fraction", "select_top_k", "sequence_log_probability", "simpo_loss",
    "single_feature_purity", "split_weights", "superposition_proxy", "superposition_scores",
    "variance_sparsity", "virtual_activations", "virtual_neurons",
]
__dir__ = lazy.only(__name__, __all__)
