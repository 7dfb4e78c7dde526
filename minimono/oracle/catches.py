"""Which known mistakes each case catches: worked out by running all of them.

A case catches a mistake if the mistaken function's float64 reply is outside the case's tolerance.
Cases near the ends of float64's range are left out: there sound code fails too.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable

from minimono.oracle import suite as suites
from minimono.oracle.case import Case
from minimono.oracle.diagnosis import agrees_with_truth, reply_of

Catches = dict[str, list[str]]  # case id: names of mistakes


def find(suite: suites.Suite, cases: Iterable[Case]) -> Catches:
    """Run every known mistake on every case of its function."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a mistake may divide by 0
        return {
            case.id: [
                name
                for name, mistaken in suite.mistakes[case.call].items()
                if not agrees_with_truth(case, reply_of(mistaken, suite, case))
            ]
            for case in cases
            if not case.extreme
        }
