"""Running moments of the activations that pass, and the scale of each batch against them."""

from collections.abc import Callable, Mapping
from typing import Literal, TypeAlias

import numpy as np

from minimono import checks, describe
from minimono.backend import Array
from minimono.mono import saved, soundness
from minimono.mono.batch_scores import survey
from minimono.mono.moments import Moments
from minimono.mono.scale import compensated, scale
from minimono.mono.selection import Rule, TopK, as_rule

Convention: TypeAlias = Literal["paper", "authors"]


class ScaleTracker:
    """Scores batch after batch against the neurons' running mean and variance.

    convention="paper" (published, Algorithm 1): score the batch with the moments of the batches
    before it, then merge it in. Once `forget_after` batches were seen, the past weighs as
    `forget_after` batches of the current size; None never forgets.

    convention="authors" (the authors' released code): merge the batch in first, then score it with
    the moments that contain it. The past always weighs as min(n, forget_after) batches of the
    current size, where n counts the current batch too; so the first batch counts twice, and
    without compensation φ cannot exceed (M - 1)² / M, M = b (forget_after + 1). Their state is
    float32; ours is float64 in both conventions.

    The first call has nothing to score against and returns nan everywhere. `mean` and `variance`
    (ddof=1) are the current moments, shape neurons. A GPU is not waited for: there bad activations
    are not refused but make the moments nan or infinite for good, which `state_dict` refuses.

    >>> import numpy as np
    >>> tracker = ScaleTracker()
    >>> tracker.score(np.array([[1.0], [3.0]]))             # mean 2, variance 2 from now on
    array([[nan],
           [nan]])
    >>> tracker.score(np.array([[6.0]]))                    # (6 - 2)² / 2
    array([[8.]])
    >>> tracker.batches_seen, tracker.count
    (2, 3)
    """

    def __init__(
        self, *, convention: Convention = "paper", forget_after: int | None = 10,
        compensation: float = 0.0,
    ) -> None:
        checks.one_of(convention, "ScaleTracker: convention", ("paper", "authors"))
        if forget_after is None and convention == "authors":
            raise ValueError(
                "ScaleTracker: forget_after is None, which never forgets, expected a number of "
                'batches for convention "authors"; their code always forgets'
            )
        if forget_after is not None:
            forget_after = checks.whole_number(forget_after, "ScaleTracker: forget_after", least=1)
        self.convention: Convention = convention
        self.forget_after = forget_after
        self.compensation = checks.number(
            compensation, "ScaleTracker: compensation", least=0.0
        )
        # Batches seen, their moments, and those that scored the last of them: one value, so that no
        # failure can come between the three.
        self._state: tuple[int, Moments | None, Moments | None] = (0, None, None)

    # ---- the algorithm -------------------------------------------------------------------------

    def score(self, batch: Array) -> Array:
        """φ of a batch of activations, shape (B, *neurons), and the moments updated with it.

        The moments follow the batches' device. If it raises, they are as before.
        """
        z = checks.activations(batch)
        self.check(z)
        return self.follow(z)

    def flag(
        self, batch: Array, rule: Rule | Callable[[Array], Array], *, constant: bool = True
    ) -> Array:
        """Return which activations a rule flags by their φ, and update the moments with the batch.

        `TopK` and `Above` flag where φ is made, in one pass over the batch that does not store it.
        constant=False never flags a neuron that was constant so far, also where compensation gives
        it a φ.

        >>> import numpy as np
        >>> from minimono.mono import Above
        >>> tracker = ScaleTracker()
        >>> _ = tracker.score(np.array([[1.0], [3.0]]))         # mean 2, variance 2
        >>> tracker.flag(np.array([[6.0], [2.0]]), Above(8.0))
        array([[ True],
               [False]])
        """
        z, rule = checks.activations(batch), as_rule(rule, "ScaleTracker.flag: rule")
        rule.check(z, "ScaleTracker.flag")
        self.check(z)
        undo = rule.remember()
        try:
            return self.follow(z, rule, constant=constant)
        except BaseException:  # what the rule has learnt of this batch
            undo()
            raise

    def flag_top_k(self, batch: Array, k: int, *, constant: bool = True) -> Array:
        """`flag` the k highest of each sample, ties included."""
        k = checks.whole_number(k, "ScaleTracker.flag_top_k: k", least=1)
        TopK(k).check(checks.activations(batch), "ScaleTracker.flag_top_k")
        return self.flag(batch, TopK(k), constant=constant)

    def follow(self, z: Array, rule: Rule | None = None, *, constant: bool = True) -> Array:
        """`score`, or `flag` by a rule, of activations that were checked; the rule too.

        If it raises, what the rule has learnt of the batch is for the caller to undo.
        """
        asked = (rule.request() if rule is not None else {}) or {"keep_phi": True}
        past = None if self._state[1] is None else self._state[1].beside(z)
        scored_with = past
        if past is None:
            found, moments = {"phi": np.full_like(z, np.nan)}, self.taking_in(Moments.of(z), past)
        elif self.convention == "paper":  # the past scores the batch, and takes it in afterwards
            found = survey(z, past.mean, self._denominator(past, constant), **asked)
            moments = self.taking_in(Moments.of_batch(z, found["mean"], found["m2"]), past)
        else:  # the past takes the batch in, and scores it afterwards
            moments = scored_with = self.taking_in(Moments.of(z), past)
            found = {"phi": scale(z, moments.mean, self._denominator(moments, constant))}
        result: Array
        if rule is None:
            result = found["phi"]
        elif "flags" in found:
            result = found["flags"]
            rule.flagged(result)
        else:
            mask = checks.mask(rule(found["phi"]), f"{rule}: the mask", z.shape)
            result = mask.copy()  # a rule of the user's may write into its array again
        self._state = (self.batches_seen + 1, moments, scored_with)
        return result

    def taking_in(self, batch: Moments, past: Moments | None) -> Moments:
        """Return the moments of a batch together with what is not forgotten of those before."""
        most = self.forget_after
        if past is None:
            return batch
        if most is not None and self.convention == "authors":
            past = past.resized(min(self.batches_seen + 1, most) * batch.count)
        elif most is not None and self.batches_seen >= most:
            past = past.resized(most * batch.count)
        return past.merge(batch)

    def _denominator(self, moments: Moments, constant: bool) -> Array:
        denominator = compensated(moments.variance(), self.compensation)
        return denominator if constant else np.where(moments.m2 > 0.0, denominator, np.nan)

    # ---- what it knows -------------------------------------------------------------------------

    @property
    def batches_seen(self) -> int:
        """How many batches have been scored."""
        return self._state[0]

    @property
    def count(self) -> int:
        """How many samples the moments stand for; 0 before the first batch."""
        moments = self._state[1]
        return 0 if moments is None else moments.count

    @property
    def moments(self) -> Moments:
        """The running moments."""
        return self._known("moments")

    @property
    def mean(self) -> Array:
        """The running mean of each neuron, float64."""
        return self._known("mean").mean

    @property
    def variance(self) -> Array:
        """The running variance of each neuron (ddof=1), float64."""
        return self._known("variance").variance()

    @property
    def scored_with(self) -> Moments | None:
        """The moments that scored the last batch; None before the second, and after loading."""
        return self._state[2]

    def _known(self, name: str) -> Moments:
        moments = self._state[1]
        if moments is None:
            raise RuntimeError(f"ScaleTracker.{name}: no batch has been scored yet")
        return moments

    def check(self, z: Array, name: str = "ScaleTracker") -> None:
        """Raise, in the name of who asks, if a batch of activations does not follow the others."""
        moments = self._state[1]
        if moments is None:
            soundness.check_first(z, name)
        else:
            soundness.check_next(z, moments, name)

    def __repr__(self) -> str:
        return describe.line(
            self, forget_after=self.forget_after, batches_seen=self.batches_seen
        )

    # ---- its state -----------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Array]:
        """The state as NumPy arrays by name: enough to go on bit for bit, also before any batch.

        The settings are not in it; load it into a tracker made with the same ones.

        >>> ScaleTracker().state_dict()["count"]
        array(0)
        """
        return saved.packed(self.batches_seen, self._state[1])

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Take over a state from `state_dict`. If it raises, the tracker is as before."""
        name = "ScaleTracker.load_state_dict"
        checks.entries(state, f"{name}: state", self.state_dict())
        batches_seen, moments = saved.unpacked(state, name)
        self._state = (batches_seen, moments, None)

    def remember(self) -> Callable[[], None]:
        """Return a call that puts the state back as it is now; nothing is copied."""
        state = self._state
        return lambda: setattr(self, "_state", state)
