"""Print pip's constraints for the lowest versions that a pyproject.toml allows: `make lowest`.

Of what minimono needs to run and to be tested; `ruff` and `mypy`, which judge the text, are left
out, since what they find differs from version to version.
"""

import re
import sys
import tomllib
from pathlib import Path


def constraints(text: str) -> list[str]:
    project = tomllib.loads(text)["project"]
    found = []
    for requirement in (*project["dependencies"], *project["optional-dependencies"]["test"]):
        match = re.fullmatch(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)(?:,<\d+)?", requirement)
        assert match, f"{requirement}: expected NAME>=LOWEST"
        if match[1] not in ("ruff", "mypy"):
            found.append(f"{match[1]}=={match[2]}")
    # Of what those bring in their turn, only what warns: Matplotlib 3.9 calls names of pyparsing
    # that are deprecated since 3.3.
    return [*found, "pyparsing<3.3"]


if __name__ == "__main__":
    print(*constraints(Path(sys.argv[1]).read_text(encoding="utf-8")), sep="\n")
