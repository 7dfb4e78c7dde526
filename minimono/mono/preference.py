"""Learning from pairs of a chosen and a rejected response: DPO, SimPO, and DecPO.

    sequence_log_probability     log π(y|x) of responses y, from a model's logits and targets
    response_log_probability     the same from the text itself, prompt and response in one row
    dpo_loss                     raise log π of the chosen over the rejected, against a reference
    ipo_loss                     ... by a fixed distance
    simpo_loss                   the same by length-averaged log π, without a reference
    decpo_loss                   DPO and a decorrelation penalty on a layer's activations
    implicit_reward, reward_accuracy, reward_margin        how well the pairs are told apart

Shapes: `B` pairs, `T` positions, `V` tokens. The reference model is the policy before training.
"""

from __future__ import annotations

from typing import TypeAlias

from minimono import checks
from minimono.backend import Array, array_module, to_device
from minimono.engine.dtypes import arithmetic, real
from minimono.engine.functional import log_softmax, sigmoid
from minimono.engine.primitive import primitive
from minimono.engine.primitives import scatter_add
from minimono.engine.tensor import Tensor, as_tensor
from minimono.mono.decorrelation import Convention, Over, float_tensor, orthonormality_penalty

LogP: TypeAlias = Tensor | Array  # log-probabilities, one for each pair


@real()
@primitive
def log_sigmoid(x: Array) -> Array:
    """Return log (1 / (1 + exp(-x))), element by element: nothing overflows, no digit is lost.

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
    """Return log π(y|x) of each sequence: the sum of log π(token) over its response.

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
    tokens = _response_tokens("sequence_log_probability", logits, targets=targets, mask=mask)
    return _log_probability(*tokens, average)


@arithmetic(numbers=1)
def response_log_probability(
    logits: Tensor, ids: Tensor | Array, response: Tensor | Array, *, average: bool = False
) -> Tensor:
    """Return log π(y|x) of each response y, of rows that hold prompt x, response and padding.

        Σ_{t >= 1, response_t} log softmax(logits_{t-1})[ids_t]    average: divided by their number

    This is `sequence_log_probability` of `logits[:, :-1]`, `ids[:, 1:]` and `response[:, 1:]`: the
    logits at a position predict the next token, and the mask goes with the token that is predicted.
    So the response's first token counts, given all of the prompt. A row's first token does not,
    since nothing predicts it.

    logits: (B, T, V).   ids: (B, T), the tokens that the model read.   response: booleans (B, T),
    true at the response's tokens, the end-of-text that closes it included, false at the prompt and
    at padding; do not make it of `ids != padding`, where padding may be a token like any other. One
    at least in each row, after the first position. What is at other positions does not matter:
    neither -100 as an id, nor logits of -infinity.

    Published; the sum is what DPO takes, the average SimPO.

    >>> import numpy as np, minimono as mm
    >>> logits = mm.tensor(np.zeros((1, 4, 8)))                     # every token has 1/8
    >>> ids, response = np.array([[5, 1, 2, 0]]), np.array([[False, True, True, False]])
    >>> response_log_probability(logits, ids, response)             # 2 log 1/8
    tensor([-4.15888308])
    """
    name = "response_log_probability"
    tokens = _response_tokens(name, logits, shift=1, ids=ids, response=response)
    return _log_probability(*tokens, average)


def _log_probability(
    logits: Tensor, length: Array, sequence: Array, position: Array, token: Array, average: bool
) -> Tensor:
    """Of the tokens (N,) that `_response_tokens` finds."""
    log_p = log_softmax(logits[sequence, position])  # (B, T, V) -> (N, V)
    each = array_module(token).arange(len(token))
    total: Tensor = scatter_add(log_p[each, token], sequence, logits.shape[:1])  # (N,) -> (B,)
    return total / length.astype(logits.data.real.dtype) if average else total


@arithmetic()
def implicit_reward(policy: LogP, reference: LogP, *, beta: float = 0.1) -> Tensor:
    """Return what DPO takes as the reward of a response: β log (π(y|x) / ref(y|x)).

    Published (Rafailov et al. 2023, arXiv 2305.18290), up to a constant of x. policy, reference:
    log-probabilities of one shape; the reference is a constant.

    >>> implicit_reward([-4.0, -3.0], [-5.0, -3.0])
    tensor([0.1, 0. ])
    """
    policy, reference = _log_probabilities("implicit_reward", policy=policy, reference=reference)
    beta = checks.number(beta, "implicit_reward: beta", above=0.0)
    return beta * (policy - reference.detach())


@arithmetic()
def dpo_loss(
    policy_chosen: LogP, policy_rejected: LogP, reference_chosen: LogP, reference_rejected: LogP,
    *, beta: float = 0.1, label_smoothing: float = 0.0,
) -> Tensor:
    """Return the loss of direct preference optimisation.

        -log sigmoid(β h),  averaged over pairs
        h = log π(y_w|x)/ref(y_w|x) - log π(y_l|x)/ref(y_l|x)

    Published (Rafailov et al. 2023, arXiv 2305.18290, eq. 7). All four: log-probabilities (B,) of
    the chosen y_w and rejected y_l, under the policy and the reference, which is a constant. Before
    training the two are equal: the loss is log 2, its gradient -β/2 by log π(y_w|x) and β/2 by
    log π(y_l|x), divided by B. Without a reference: give 0 for it.

    label_smoothing: the share ε of pairs, below ½, whose labels are taken to be the wrong way
    round: (1 - ε) of the above and ε of -log sigmoid(-β h). The authors' code has it.

    >>> float(dpo_loss([-4.0], [-9.0], [-4.0], [-9.0]))
    0.693...
    """
    epsilon = checks.number(label_smoothing, "dpo_loss: label_smoothing", least=0.0, below=0.5)
    h, beta = _log_ratio(
        "dpo_loss", beta, policy_chosen=policy_chosen, policy_rejected=policy_rejected,
        reference_chosen=reference_chosen, reference_rejected=reference_rejected,
    )
    loss: Tensor = -log_sigmoid(beta * h).mean()
    return (1 - epsilon) * loss - epsilon * log_sigmoid(-beta * h).mean() if epsilon else loss


@arithmetic()
def ipo_loss(
    policy_chosen: LogP, policy_rejected: LogP, reference_chosen: LogP, reference_rejected: LogP,
    *, beta: float = 0.1,
) -> Tensor:
    """Return the loss of identity preference optimisation: h is to be 1/(2β), and no more.

        (h - 1/(2β))²,  averaged over pairs,   h as in `dpo_loss`

    Published (Azar et al. 2023, arXiv 2310.12036, eq. 17, whose τ is β). All four are
    log-probabilities (B,). The code of DPO's authors takes sums over the response's tokens, TRL
    averages: give what you mean, from `response_log_probability`.

    >>> float(ipo_loss([-4.0], [-9.0], [-4.0], [-4.0], beta=0.1))
    0.0
    """
    h, beta = _log_ratio(
        "ipo_loss", beta, policy_chosen=policy_chosen, policy_rejected=policy_rejected,
        reference_chosen=reference_chosen, reference_rejected=reference_rejected,
    )
    distance = h - 1 / (2 * beta)
    return (distance * distance).mean()


def _log_ratio(name: str, beta: float, **values: LogP) -> tuple[Tensor, float]:
    """How much more the policy prefers the chosen response than the reference does; and β."""
    chosen, rejected, reference_chosen, reference_rejected = _log_probabilities(name, **values)
    beta = checks.number(beta, f"{name}: beta", above=0.0)
    return (chosen - reference_chosen.detach()) - (rejected - reference_rejected.detach()), beta


@arithmetic()
def simpo_loss(
    chosen: LogP, rejected: LogP, *, beta: float = 2.0, gamma: float = 1.0
) -> Tensor:
    """Return the loss of SimPO, which has no reference, but a margin γ.

        -log sigmoid(β/|y_w| log π(y_w|x) - β/|y_l| log π(y_l|x) - γ),  averaged over pairs

    Published (Meng, Xia and Chen 2024, arXiv 2405.14734). chosen, rejected: length-averaged
    log-probabilities (B,), from `sequence_log_probability(..., average=True)`. β and γ are tuned
    for each model; the defaults, a small β and half of it as the margin, are our choice. SimPO's
    code has their ratio as a setting: γ is β times that.

    >>> float(simpo_loss([-1.0], [-1.5], beta=2.0, gamma=1.0))      # exactly at the margin: log 2
    0.693...
    """
    chosen, rejected = _log_probabilities("simpo_loss", chosen=chosen, rejected=rejected)
    beta = checks.number(beta, "simpo_loss: beta", above=0.0)
    gamma = checks.number(gamma, "simpo_loss: gamma")
    loss: Tensor = -log_sigmoid(beta * (chosen - rejected) - gamma).mean()
    return loss


@arithmetic()
def decpo_loss(
    policy_chosen: LogP, policy_rejected: LogP, reference_chosen: LogP, reference_rejected: LogP,
    z: Tensor | Array, *, beta: float = 0.1, weight: float | None = None,
    over: Over = "samples", convention: Convention = "paper",
) -> Tensor:
    """Return the loss of decorrelated policy optimisation (DecPO): DPO and a penalty.

        paper     DPO + 1e-4 ||Z Zᵀ - I||_F²                                      published
        authors   DPO + 1e-3 mean(|Z| |Z|ᵀ - I), Z every second row of z         authors' code

    z: activations of one layer, (2 B, *neurons): the policy's at the last token of the B chosen and
    then of the B rejected responses.   over: as in `decorrelation_penalty`.   weight: replaces 1e-4
    or 1e-3. The paper (Yan et al. 2024, arXiv 2406.17969) does not say which rows are meant; there
    Z is all of z (our choice).

    The authors' code takes rows 0, 2, 4, ..., which are neither the chosen nor one of each pair,
    but every second chosen and (for even B) every second rejected one. It also averages
    log-probabilities over the response's length; the caller has to pass such, from
    `sequence_log_probability(..., average=True)`.

    >>> import numpy as np
    >>> z = np.eye(2)                                       # orthonormal: nothing to penalise
    >>> float(decpo_loss([-4.0], [-9.0], [-4.0], [-9.0], z))
    0.693...
    """
    h, beta = _log_ratio(
        "decpo_loss", beta, policy_chosen=policy_chosen, policy_rejected=policy_rejected,
        reference_chosen=reference_chosen, reference_rejected=reference_rejected,
    )
    z, rows = float_tensor(z, "decpo_loss: z"), 2 * as_tensor(policy_chosen).size
    expected = f"({rows}, *neurons): the chosen and then the rejected of each pair"
    checks.layout(z, "decpo_loss: z", expected, z.ndim >= 2 and len(z) == rows)
    if weight is None:
        weight = 1e-3 if convention == "authors" else 1e-4
    weight = checks.number(weight, "decpo_loss: weight", least=0.0)
    some = z[0::2] if convention == "authors" else z
    loss: Tensor = -log_sigmoid(beta * h).mean()
    return loss + weight * orthonormality_penalty(some, over, convention, "decpo_loss")


def reward_accuracy(chosen: Tensor | Array, rejected: Tensor | Array) -> float:
    """Return the share of pairs whose chosen response has the higher reward; a tie is not higher.

    >>> reward_accuracy([0.3, 0.1, 0.0], [0.1, 0.2, 0.0])
    0.333...
    """
    better, worse = _rewards("reward_accuracy", chosen, rejected)
    return float((better > worse).mean())


def reward_margin(chosen: Tensor | Array, rejected: Tensor | Array) -> float:
    """Return how much higher the chosen responses' rewards are, on average over pairs.

    >>> reward_margin([0.5, 0.25], [0.25, 0.0])
    0.25
    """
    better, worse = _rewards("reward_margin", chosen, rejected)
    return float((better - worse).mean())


# ---- checks ------------------------------------------------------------------------------------


def _response_tokens(
    name: str, logits: Tensor, *, shift: int = 0, **rows: Tensor | Array
) -> tuple[Tensor, Array, Array, Array, Array]:
    """Logits, each response's length (B,), and all tokens' (N,) sequence, position, number.

    rows: by their names, token numbers and the mask, whose columns are those of the logits, or with
    shift=1 the column after.
    """
    (of_tokens, numbers), (of_mask, mask) = (
        (f"{name}: {key}", x.data if isinstance(x, Tensor) else x) for key, x in rows.items()
    )
    logits = float_tensor(logits, f"{name}: logits")
    expected = "(B, T, V), T of 2 or more" if shift else "(B, T, V)"
    checks.layout(logits, f"{name}: logits", expected, logits.ndim == 3 and logits.shape[1] > shift)
    numbers = checks.labels(numbers, of_tokens, count=logits.shape[:2])[:, shift:]
    mask = checks.mask(mask, of_mask, logits.shape[:2])[:, shift:]
    length = mask.sum(axis=1)
    if (length == 0).any():
        after = " after its first" if shift else ""
        raise ValueError(
            f"{of_mask} is False all along sequence {int(length.argmin())}, expected a token of "
            f"the response at least{after}"
        )
    sequence, position = mask.nonzero()
    token = checks.labels(
        numbers[sequence, position], of_tokens, count=len(sequence), least=0,
        most=logits.shape[2] - 1, of="the last token that the logits know",
    )
    here = (to_device(x, logits.device) for x in (length, sequence, position, token))
    return logits, *here


def _log_probabilities(name: str, **values: LogP) -> list[Tensor]:
    """As tensors of floats, of one shape, not empty."""
    tensors = {key: float_tensor(value, f"{name}: {key}") for key, value in values.items()}
    (first, x), *rest = tensors.items()
    checks.layout(x, f"{name}: {first}", "a response at least", x.size > 0)
    for key, y in rest:
        checks.shaped(y, f"{name}: {key}", x.shape, f"as {first}")
    return [*tensors.values()]


def _rewards(name: str, chosen: LogP, rejected: LogP) -> tuple[Array, Array]:
    """Rewards of pairs as arrays, none of them nan, which is neither higher nor lower."""
    better, worse = _log_probabilities(name, chosen=chosen, rejected=rejected)
    xp = array_module(better.data, worse.data)
    for key, x in (("chosen", better.data), ("rejected", worse.data)):
        checks.everywhere(x, ~xp.isnan(x), f"{name}: {key}", "numbers")
    return better.data, worse.data
