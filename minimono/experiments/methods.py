"""A way to train a network: with MEmeL, with a naive rule, or as it is."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Method:
    """A way to train (`strength` None: nothing is inserted), and whether it inhibits at test.

    >>> Method("Naive (a)", 0.0).key
    'naive-a'
    """

    name: str  # for people
    strength: float | None = None  # MEmeL's
    k: int = 1
    on_at_test: bool = False

    @property
    def key(self) -> str:
        """The name in records and in names of files."""
        return "-".join(re.findall(r"\w+", self.name.lower()))
