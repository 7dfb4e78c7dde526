"""The oracle: other people's implementations, run against minimono's exact test vectors.

    check       call an implementation on the cases, in Python        -> Report
    describe    what a suite calls, and by which conventions; one case in full
    dump        the cases as files
    parametrize_with_checks    the cases as tests of pytest

For other languages: `minimono oracle check --program ./impl` (program.py).
"""

from typing import TYPE_CHECKING

from minimono import lazy

__all__ = [
    "SUITES", "Case", "Expected", "Failure", "OracleError", "Report", "check", "check_program",
    "describe", "dump", "load", "parametrize_with_checks",
]

if TYPE_CHECKING:
    from minimono.oracle.case import Case, Expected
    from minimono.oracle.description import describe
    from minimono.oracle.parametrize import parametrize_with_checks
    from minimono.oracle.program import check_program
    from minimono.oracle.runner import Failure, OracleError, Report, check
    from minimono.oracle.suite import SUITES
    from minimono.oracle.vectors import dump, load
else:  # each at its first use: pytest loads the plugin in this package in all its runs
    __getattr__, __dir__ = lazy.names(
        __name__,
        {
            "SUITES": "minimono.oracle.suite:SUITES",
            "Case": "minimono.oracle.case:Case",
            "Expected": "minimono.oracle.case:Expected",
            "Failure": "minimono.oracle.runner:Failure",
            "OracleError": "minimono.oracle.runner:OracleError",
            "Report": "minimono.oracle.runner:Report",
            "check": "minimono.oracle.runner:check",
            "check_program": "minimono.oracle.program:check_program",
            "describe": "minimono.oracle.description:describe",
            "dump": "minimono.oracle.vectors:dump",
            "load": "minimono.oracle.vectors:load",
            "parametrize_with_checks": "minimono.oracle.parametrize:parametrize_with_checks",
        },
    )
