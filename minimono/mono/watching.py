"""What MEmeL and L2E share: they watch the activations that pass, and let a rule flag some."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np

from minimono import checks
from minimono.backend import Array, array_module, as_array
from minimono.engine.tensor import Tensor
from minimono.mono.moments import Moments
from minimono.mono.selection import Rule
from minimono.mono.tracker import ScaleTracker
from minimono.nn.at_once import all_or_nothing
from minimono.nn.module import Module


class Watching(Module):
    """A module that scores activations by a `tracker` and flags them by a rule, `select`.

    Both states are saved with the model. `last` is what the last call did.
    """

    tracker: ScaleTracker
    select: Rule
    start_after: int
    last: Any = None

    def activations(self, z: Tensor) -> Array:
        """Return the activations (B, *neurons) that came in, if they can be scored and flagged."""
        name = type(self).__name__
        activations = checks.activations(z.array, f"{name}: activations")
        checks.floats(z, f"{name}: activations")
        self.select.check(activations, name)
        self.tracker.check(activations, name)
        return activations

    @property
    def only_watches(self) -> bool:
        """Whether it flags nothing yet: in the first call there is nothing to score against."""
        return self.tracker.batches_seen < max(self.start_after, 1)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, tracker={self.tracker}"

    def extra_state(self) -> dict[str, Array]:
        of_tracker, of_rule = self.tracker.state_dict(), self.select.state_dict()
        if both := sorted(of_tracker.keys() & of_rule.keys()):
            raise ValueError(
                f"{type(self).__name__}: the state of {self.select} has entries {both}, expected "
                "other names: the tracker's has the same"
            )
        return of_tracker | of_rule

    @all_or_nothing
    def load_extra_state(self, state: Mapping[str, Array]) -> None:
        if state:
            of_rule = self.select.state_dict().keys()
            self.select.load_state_dict({k: v for k, v in state.items() if k in of_rule})
            self.tracker.load_state_dict({k: v for k, v in state.items() if k not in of_rule})

    def divide(self, parts: Sequence[slice]) -> list[Module] | None:
        """One for each part of a batch, with what is past to score by: see `nn.data_parallel`."""
        if not self.training:
            return None
        if not self.select.by_sample:
            raise ValueError(f"flags by {self.select}, which looks at the whole batch")
        stand_ins: list[Module] = []
        for _ in parts:
            stand_in = copy(self)
            stand_in.tracker = TrackerOfPart(self.tracker)
            stand_ins.append(stand_in)
        return stand_ins

    def reunite(self, stand_ins: Sequence[Any]) -> None:
        """Take in their batch, as if it had come here whole, and show it as the `last`."""
        if reunite(self.tracker, [stand_in.tracker for stand_in in stand_ins]):
            first, *_ = lasts = [stand_in.last for stand_in in stand_ins]
            self.last = first and replace(
                first, activations=np.concatenate([last.activations for last in lasts]),
                flagged=np.concatenate([last.flagged for last in lasts]),
            )

    def remember(self) -> Callable[[], None]:
        undo, last = (self.tracker.remember(), self.select.remember()), self.last

        def put_back() -> None:
            for call in undo:
                call()
            self.last = last

        return put_back


class TrackerOfPart(ScaleTracker):
    """Scores a part of a batch by what came before the batch; its moments are then the part's."""

    def __init__(self, whole: ScaleTracker):
        if type(whole) is not ScaleTracker:
            raise ValueError(f"has a {type(whole).__name__}, of which parts are not known")
        if whole.convention == "authors":
            raise ValueError('has convention "authors", which scores a batch with its own moments')
        super().__init__(forget_after=whole.forget_after, compensation=whole.compensation)
        self._state = whole._state

    def taking_in(self, batch: Moments, past: Moments | None) -> Moments:
        return batch


def reunite(tracker: ScaleTracker, parts: Sequence[ScaleTracker]) -> bool:
    """Let a tracker take in the batch whose parts these have scored; return if there was one."""
    calls = [part.batches_seen - tracker.batches_seen for part in parts]
    if not any(calls):
        return False
    if set(calls) != {1}:
        raise ValueError(f"was called {calls} times in the parts, expected once in each")
    batch, *others = [part.moments for part in parts]
    for other in others:
        batch = batch.merge(other)
    seen, past, _ = tracker._state
    past = None if past is None else past.beside(batch.mean)
    moments = tracker.taking_in(batch, past)
    tracker._state = (seen + 1, moments, parts[0].scored_with)
    return True


def flags_and_mean(
    z: Tensor, mask: Tensor | Array, mean: Tensor | Array, name: str
) -> tuple[Tensor, Array]:
    """Which of z (B, *neurons) are flagged, as a constant of the tape, and the neurons' means."""
    checks.samples(z, f"{name}: z")
    flags = mask if isinstance(mask, Tensor) else Tensor(as_array(mask).copy())
    checks.mask(flags.array, f"{name}: mask", z.shape)
    centre = mean.array if isinstance(mean, Tensor) else as_array(mean)
    array_module(z.array, flags.array, centre)  # names the devices if they differ
    if centre.dtype == bool:
        raise TypeError(f"{name}: mean has dtype bool, expected real numbers")
    return flags, checks.per_neuron(centre, f"{name}: mean", z)
