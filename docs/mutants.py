"""What `make mutants` found: the table of docs/mutants.md, and each mutant that was not killed."""

import json
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
MEANING = {1: "killed", 3: "killed", 0: "survived", None: "not run"}  # pytest's exit codes
COLUMNS = ("killed", "survived", "time out or no test", "not run")


def row(name: str, count: Counter[str]) -> str:
    run = count.total() - count["not run"]
    share = f"{count['killed'] / run:.1%}" if run else ""
    cells = [name, count.total(), *(count[c] for c in COLUMNS), share]
    return "| " + " | ".join(map(str, cells)) + " |"


def main() -> None:
    print("| file | mutants | " + " | ".join(COLUMNS) + " | killed of those run |")
    print("|---" * (len(COLUMNS) + 3) + "|")
    total: Counter[str] = Counter()
    alive = []
    for meta in sorted(ROOT.glob("mutants/minimono/mono/*.py.meta")):
        codes = json.loads(meta.read_text(encoding="utf-8"))["exit_code_by_key"]
        said = {mutant: MEANING.get(code, COLUMNS[2]) for mutant, code in codes.items()}
        if said:
            print(row(f"`{meta.name.removesuffix('.meta')}`", Counter(said.values())))
            total.update(said.values())
            alive += [m for m, result in said.items() if result not in ("killed", "not run")]
    print(row("all", total))
    print("\nNot killed (`mutmut show NAME` shows the change):\n")
    print("\n".join(alive))


if __name__ == "__main__":
    main()
