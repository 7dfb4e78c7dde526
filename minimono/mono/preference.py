"""Learning from pairs of a chosen and a rejected response: DPO, SimPO, and DecPO.

    sequence_log_probability     log π(y|x) of responses y, from a model's logits
    dpo_loss                     raise log π of the chosen over the rejected, against a reference
    simpo_loss                   the same by length-averaged log π, without a reference
    decpo_loss                   DPO and a decorrelation penalty on a layer's activations
    implicit_reward, reward_accuracy, reward_margin        how well the pairs are told apart

Shapes: `B` pairs, `T` positions, `V` tokens. The reference model is the policy before training.
"""

from __future__ import annotations

import math
from typing import Literal

from minimono.backend import Array, array_module, as_array, to_device
from minimono.checks import real_number
from minimono.engine.dtypes import arithmetic, real
from minimono.engine.functional import log_softmax
from minimono.engine.primitive import primitive
from minimono.engine.primitives import scatter_add, sigmoid
from minimono.engine.tensor import Tensor, as_tensor
from minimono.mono.decorrelation import orthonormality_penalty


@real()
@primitive
def log_sigmoid(x: Array) -> Array:
    """log (1 / (1 + exp(-x))), element by element: no exponential overflows, no digit is lost.

    >>> import numpy as np
    >>> log_sigmoid(np.array([0.0, -1000.0]))
    tensor([-6.93147181e-01, -1.00000000e+03])
    """
    # min(x, 0) - log(1 + exp(-|x|)), of complex x too, for the complex step
    xp = array_module(x)
    below = x.real < 0
    return xp.where(below, x, 0.0) - xp.log1p(xp.exp(xp.where(below, x, -x)))


log_sigmoid.vjp(lambda g, out, x: g * sigmoid(-x))


@arithmetic(numbers=1)
def sequence_log_probability(
    logits: Tensor, targets: Tensor | Array, mask: Tensor | Array, *, average: bool = False
) -> Tensor:
    """log π(y|x) of each sequence: the sum of log π(token) over its response.

        Σ_{t in response} log softmax(logits_t)[target_t]          average: divided by |y|

    logits: (B, T, V).   targets: (B, T), the token that the logits at each position predict (so
    the input shifted by one).   mask: booleans (B, T), True at the response's tokens; at least one
    in each row. Targets and logits elsewhere do not matter, padding included.

    Returns a Tensor (B,), on the tape.

    >>> import numpy as np, minimono as mm
    >>> logits = mm.tensor(np.zeros((1, 3, 4)))                     # every token has 1/4
    >>> targets, mask = np.array([[1, 2, 0]]), np.array([[False, True, True]])
    >>> sequence_log_probability(logits, targets, mask)             # 2 log 1/4
    tensor([-2.77258872])
    """
    logits = as_tensor(logits)
    chosen = as_array(targets.data if isinstance(targets, Tensor) else targets)
    response = as_array(mask.data if isinstance(mask, Tensor) else mask)
    if logits.ndim != 3 or logits.dtype.kind not in "fc":
        raise ValueError(
            f"sequence_log_probability: logits are {logits.dtype} of shape {logits.shape}, "
            "expected floats (B, T, V)"
        )
    B, _, V = logits.shape
    if chosen.dtype.kind not in "iu":
        raise TypeError(
            f"sequence_log_probability: targets have dtype {chosen.dtype}, expected whole numbers"
        )
    if response.dtype != bool:
        raise TypeError(
            f"sequence_log_probability: mask has dtype {response.dtype}, expected bool"
        )
    for name, values in (("targets have", chosen), ("mask has", response)):
        if values.shape != logits.shape[:2]:
            raise ValueError(
                f"sequence_log_probability: {name} shape {values.shape}, logits {logits.shape}"
            )
    length = response.sum(axis=1)  # (B,): |y|
    if (length == 0).any():
        raise ValueError(
            f"sequence_log_probability: mask is False all along sequence {int(length.argmin())}; "
            "a response needs a token at least"
        )
    sequence, position = response.nonzero()  # (N,): the response tokens of all sequences
    token = chosen[sequence, position]
    if ((token < 0) | (token >= V)).any():
        wrong = token[(token < 0) | (token >= V)][0]
        raise ValueError(f"sequence_log_probability: target {int(wrong)} is outside 0..{V - 1}")
    sequence, position, token, length = (
        to_device(values, logits.device) for values in (sequence, position, token, length)
    )
    log_p = log_softmax(logits[sequence, position])  # (B, T, V) -> (N, V)
    each = array_module(token).arange(len(token))
    total: Tensor = scatter_add(log_p[each, token], sequence, (B,))  # (N,) -> (B,)
    return total / length.astype(logits.data.real.dtype) if average else total


@arithmetic()
def implicit_reward(
    policy: Tensor | Array, reference: Tensor | Array, *, beta: float = 0.1
) -> Tensor:
    """What DPO takes as the reward of a response: β log (π(y|x) / ref(y|x)).

    Published (Rafailov et al. 2023, arXiv 2305.18290), up to a constant of x. policy, reference:
    log-probabilities of one shape; the reference is a constant.

    >>> implicit_reward([-4.0, -3.0], [-5.0, -3.0])
    tensor([0.1, 0. ])
    """
    policy, reference = _log_probabilities(
        "implicit_reward", policy=policy, reference=reference
    )
    beta = _positive(beta, "implicit_reward: beta")
    return beta * (policy - reference.detach())


@arithmetic()
def dpo_loss(
    policy_chosen: Tensor | Array,
    policy_rejected: Tensor | Array,
    reference_chosen: Tensor | Array,
    reference_rejected: Tensor | Array,
    *,
    beta: float = 0.1,
) -> Tensor:
    """Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290, eq. 7).

        -log sigmoid(β log π(y_w|x)/ref(y_w|x) - β log π(y_l|x)/ref(y_l|x)),  averaged over pairs

    Published. All four: log-probabilities (B,) of the chosen y_w and rejected y_l, under the
    policy and the reference, which is a constant. Before training the two are equal: the loss is
    log 2, its gradient -β/2 by log π(y_w|x) and β/2 by log π(y_l|x), divided by B.

    >>> float(dpo_loss([-4.0], [-9.0], [-4.0], [-9.0]))
    0.693...
    """
    return _dpo_loss(
        "dpo_loss", beta, policy_chosen=policy_chosen, policy_rejected=policy_rejected,
        reference_chosen=reference_chosen, reference_rejected=reference_rejected,
    )  # fmt: skip


def _dpo_loss(name: str, beta: float, **values: Tensor | Array) -> Tensor:
    chosen, rejected, reference_chosen, reference_rejected = _log_probabilities(name, **values)
    beta = _positive(beta, f"{name}: beta")
    better = beta * (chosen - reference_chosen.detach())
    worse = beta * (rejected - reference_rejected.detach())
    loss: Tensor = -log_sigmoid(better - worse).mean()
    return loss


@arithmetic()
def simpo_loss(
    chosen: Tensor | Array, rejected: Tensor | Array, *, beta: float = 2.0, gamma: float = 1.0
) -> Tensor:
    """SimPO (Meng, Xia and Chen 2024, arXiv 2405.14734): no reference, but a margin γ.

        -log sigmoid(β/|y_w| log π(y_w|x) - β/|y_l| log π(y_l|x) - γ),  averaged over pairs

    Published. chosen, rejected: length-averaged log-probabilities (B,), from
    `sequence_log_probability(..., average=True)`. β and γ are tuned for each model; the defaults,
    a small β and half of it as the margin, are our choice.

    >>> float(simpo_loss([-1.0], [-1.5], beta=2.0, gamma=1.0))      # exactly at the margin: log 2
    0.693...
    """
    chosen, rejected = _log_probabilities("simpo_loss", chosen=chosen, rejected=rejected)
    beta = _positive(beta, "simpo_loss: beta")
    gamma = real_number(gamma, "simpo_loss: gamma")
    if not math.isfinite(gamma):
        raise ValueError(f"simpo_loss: gamma is {gamma}, expected a finite number")
    loss: Tensor = -log_sigmoid(beta * (chosen - rejected) - gamma).mean()
    return loss


@arithmetic()
def decpo_loss(
    policy_chosen: Tensor | Array,
    policy_rejected: Tensor | Array,
    reference_chosen: Tensor | Array,
    reference_rejected: Tensor | Array,
    z: Tensor | Array,
    *,
    beta: float = 0.1,
    weight: float | None = None,
    over: Literal["samples", "features"] = "samples",
    convention: Literal["paper", "authors"] = "paper",
) -> Tensor:
    """Decorrelated policy optimisation (Yan et al. 2024, arXiv 2406.17969): DPO and a penalty.

        paper     DPO + 1e-4 ||Z Zᵀ - I||_F²                                      published
        authors   DPO + 1e-3 mean(|Z| |Z|ᵀ - I), Z every second row of z         authors' code

    z: activations of one layer, (2 B, *neurons): the policy's at the last token of the B chosen and
    then of the B rejected responses. `decorrelation_penalty` tells the two forms and what `over`
    does; `weight` replaces 1e-4 or 1e-3. In "paper" Z is all of z (our choice: the paper does not
    say which rows).

    In "authors", also as in the released code: rows 0, 2, 4, ... of z, which are neither the chosen
    nor one of each pair, but every second chosen and (for even B) every second rejected one; and
    log-probabilities that are averaged over the response's length, which the caller has to pass:
    `sequence_log_probability(..., average=True)`.

    >>> import numpy as np
    >>> z = np.eye(2)                                       # orthonormal: nothing to penalise
    >>> float(decpo_loss([-4.0], [-9.0], [-4.0], [-9.0], z))
    0.693...
    """
    loss = _dpo_loss(
        "decpo_loss", beta, policy_chosen=policy_chosen, policy_rejected=policy_rejected,
        reference_chosen=reference_chosen, reference_rejected=reference_rejected,
    )  # fmt: skip
    z = _tensor(z, "decpo_loss: z")
    pairs = as_tensor(policy_chosen).size
    if z.ndim < 2 or len(z) != 2 * pairs:
        raise ValueError(
            f"decpo_loss: z has shape {z.shape}, expected ({2 * pairs}, *neurons): the chosen and "
            f"then the rejected of {pairs} pairs"
        )
    if weight is None:
        weight = 1e-3 if convention == "authors" else 1e-4
    weight = real_number(weight, "decpo_loss: weight")
    if not (math.isfinite(weight) and weight >= 0):
        raise ValueError(f"decpo_loss: weight is {weight}, expected 0 or a positive finite number")
    rows = z[0::2] if convention == "authors" else z
    return loss + weight * orthonormality_penalty(rows, over, convention, "decpo_loss")


def reward_accuracy(chosen: Tensor | Array, rejected: Tensor | Array) -> float:
    """The share of pairs whose chosen response has the higher reward; a tie is not higher.

    >>> reward_accuracy([0.3, 0.1, 0.0], [0.1, 0.2, 0.0])
    0.333...
    """
    better, worse = _rewards("reward_accuracy", chosen, rejected)
    return float((better > worse).mean())


def reward_margin(chosen: Tensor | Array, rejected: Tensor | Array) -> float:
    """How much higher the chosen responses' rewards are, on average over pairs.

    >>> reward_margin([0.5, 0.25], [0.25, 0.0])
    0.25
    """
    better, worse = _rewards("reward_margin", chosen, rejected)
    return float((better - worse).mean())


# ---- checks ------------------------------------------------------------------------------------


def _log_probabilities(name: str, **values: Tensor | Array) -> list[Tensor]:
    """As tensors of floats, of one shape, not empty."""
    tensors = {key: _tensor(value, f"{name}: {key}") for key, value in values.items()}
    for key, x in tensors.items():
        if x.size == 0:
            raise ValueError(f"{name}: {key} has shape {x.shape}, expected a response at least")
    (first, x), *rest = tensors.items()
    for key, y in rest:
        if x.shape != y.shape:
            raise ValueError(f"{name}: {first} has shape {x.shape}, {key} has {y.shape}")
    return [*tensors.values()]


def _tensor(value: Tensor | Array, name: str) -> Tensor:
    """As a tensor of floats, or complex, so that the complex-step check can pass through."""
    try:
        x = as_tensor(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}: {error}") from error
    if x.dtype.kind not in "fc":
        raise TypeError(f"{name} has dtype {x.dtype}, expected floats")
    return x


def _rewards(name: str, chosen: Tensor | Array, rejected: Tensor | Array) -> tuple[Array, Array]:
    """Rewards of pairs as arrays, all of them numbers."""
    better, worse = _log_probabilities(name, chosen=chosen, rejected=rejected)
    xp = array_module(better.data, worse.data)
    for key, x in (("chosen", better), ("rejected", worse)):
        if xp.isnan(x.data).any():
            raise ValueError(f"{name}: {key} contains nan, which is neither higher nor lower")
    return better.data, worse.data


def _positive(value: float, name: str) -> float:
    number = real_number(value, name)
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"{name} is {value}, expected a positive finite number")
    return number
