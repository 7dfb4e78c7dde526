"""Run experiments in full and keep what they print, as pages in `docs/results/`.

    python docs/results.py world circuits        demos/world.py and demos/circuits.py
    python docs/results.py inhibit_or_encourage

A picture that a demo leaves as `runs/NAME/NAME.svg` goes onto its page.

The demos of the three tasks write their own page: python demos/task_images.py --write
"""

import datetime
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent


def page(name: str) -> str:
    """The page of one experiment: its title and what it is about, and what it prints."""
    source = (ROOT / "demos" / f"{name}.py").read_text(encoding="utf-8")
    title = source.split('"""')[1].strip().splitlines()[0]
    picture = ROOT / "runs" / name / f"{name}.svg"
    picture.unlink(missing_ok=True)  # so that what is there afterwards is of this run
    began = time.perf_counter()
    run = subprocess.run(
        [sys.executable, f"demos/{name}.py"],
        cwd=ROOT, env=os.environ | {"OPENBLAS_NUM_THREADS": "1"}, check=True,
        stdout=subprocess.PIPE, encoding="utf-8",
    )
    minutes = (time.perf_counter() - began) / 60.0
    lines = [
        line for line in run.stdout.splitlines()
        if "runs/" not in line  # where the pictures went
    ]
    shown = ""
    if picture.is_file():
        shutil.copy(picture, ROOT / "docs" / "results" / picture.name)
        shown = f"![Means and intervals]({picture.name})\n\n"
    return (
        "---\norphan: true\n---\n\n"
        f"# {title}\n\n"
        f"Printed by `python demos/{name}.py` on {datetime.date.today()} (Python "
        f"{platform.python_version()}, NumPy {np.__version__}, {minutes:.1f} minutes on a shared "
        f"machine, no GPU).\n\n{shown}```text\n" + "\n".join(lines).strip("\n") + "\n```\n"
    )


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit("results: name the demos to run: python docs/results.py world circuits")
    for name in sys.argv[1:]:
        if not (ROOT / "demos" / f"{name}.py").is_file():
            sys.exit(f"results: there is no demos/{name}.py")
        target = ROOT / "docs" / "results" / f"{name}.md"
        target.parent.mkdir(exist_ok=True)
        target.write_text(page(name), encoding="utf-8")
        print(f"wrote {target.relative_to(ROOT)}")
