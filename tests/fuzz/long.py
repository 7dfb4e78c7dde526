"""The same as `test_fuzz.py`, with new files for as long as you like: `make fuzz MINUTES=60`.

Each target has a process of its own at a time, whose memory the system bounds, so that whatever a
file does to it, the others go on. Prints how many files there were, and how many were refused;
keeps each file that something else came of, in runs/fuzz. Ends with 1 if there was any.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "shared")]

from fuzzing import TARGETS, judge, prepare  # noqa: E402
from hypothesis import HealthCheck, Phase, given, seed, settings  # noqa: E402

ROUND = 60.0  # seconds of one target at a time, or less, so that each has its turn
MORE = 2**31  # bytes of address space beyond what a process has when it begins
BAD = ROOT / "runs" / "fuzz"


def one_target(name: str, seconds: float, first: int) -> Counter[str]:
    """What became of the files of one target, in this process."""
    warnings.simplefilter("error")
    outcomes, ends = Counter[str](), time.monotonic() + seconds
    with tempfile.TemporaryDirectory(prefix="fuzz") as place:
        folder = Path(place)
        good = prepare(name, folder)
        bound_memory()
        while time.monotonic() < ends:

            @seed(first + sum(outcomes.values()))
            @settings(
                max_examples=100, database=None, phases=[Phase.generate], deadline=None,
                suppress_health_check=[*HealthCheck],
            )
            @given(TARGETS[name].changed(good))
            def run(data: bytes) -> None:
                (BAD / f"{name}.at-work").write_bytes(data)  # a crash leaves it
                try:
                    outcomes[judge(name, folder, data)] += 1
                except BaseException:
                    outcomes["wrong"] += 1
                    kept = BAD / f"{name}.{time.time_ns()}"
                    kept.write_bytes(data)
                    print(f"{kept}\n{traceback.format_exc()[-3000:]}", file=sys.stderr)

            run()
    (BAD / f"{name}.at-work").unlink(missing_ok=True)
    return outcomes


def bound_memory() -> None:
    """Let this process have so much more, where the system can see to that."""
    if sys.platform == "linux":
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * os.sysconf("SC_PAGESIZE") + MORE,) * 2)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**32)
    parser.add_argument("--target", choices=TARGETS, help="only this one, in this process")
    given_here = parser.parse_args()
    BAD.mkdir(parents=True, exist_ok=True)
    if given_here.target:
        found = one_target(given_here.target, 60.0 * given_here.minutes, given_here.seed)
        print(json.dumps(found))
        return 0
    first, began = given_here.seed, time.monotonic()
    print(f"Files with something wrong in them, {given_here.minutes:g} minutes, seed {first}")
    totals = {name: Counter[str]() for name in TARGETS}
    turn = min(ROUND / 60.0, given_here.minutes / len(TARGETS))
    while time.monotonic() - began < 60.0 * given_here.minutes:
        for name in TARGETS:
            command = [
                sys.executable, __file__, "--target", name, "--seed", str(first),
                "--minutes", str(turn),
            ]
            child = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
            if child.returncode:
                totals[name]["wrong"] += 1
                print(f"{name}: ended with {child.returncode}; see {BAD}", flush=True)
            else:
                totals[name].update(json.loads(child.stdout))
            first += 1_000_003
            if time.monotonic() - began >= 60.0 * given_here.minutes:
                break
    print(f"{'':16}{'files':>10}{'refused':>10}{'loaded':>10}{'wrong':>10}")
    rows = {**totals, "all": sum(totals.values(), Counter[str]())}
    for name, found in rows.items():
        counts = [sum(found.values()), found["refused"], found["loaded"], found["wrong"]]
        print(f"{name:16}" + "".join(f"{count:>10,}" for count in counts))
    return int(rows["all"]["wrong"] > 0)


if __name__ == "__main__":
    sys.exit(main())
