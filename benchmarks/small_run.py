"""What a training on very few images costs: where the processor time of `medal train-student` goes besides its epochs.

    python benchmarks/small_run.py [--rounds 3] [--quick]

96 drawn images, one epoch of the smallest student, plan remembered. Python's own count of imports says which packages
they are; what is left is opening, training, figures and plots.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

SHOWN = 12
LINE = re.compile(r"import time:\s+(\d+) \|\s+\d+ \|\s+([\w.]+)")


def medal(*words: object, importtime: bool = False) -> tuple[float, Counter[str]]:
    """Run a command; return its processor seconds, and those of its imports by package where they are asked for."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = [sys.executable, *(["-X", "importtime"] if importtime else []), "-m", "medal", *map(str, words)]
    done = subprocess.run(start, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    found: Counter[str] = Counter()
    for microseconds, name in LINE.findall(done.stderr):
        found[name.partition(".")[0]] += int(microseconds)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, found


def measure(folder: Path, rounds: int) -> dict[str, Any]:
    """Return the seconds of whole runs, and of the imports of one."""
    from medal.pipeline.teacher.demo import tiny_teacher

    cache = folder / "few.zarr"
    medal("cache-teacher", "phantom", cache, "--limit", 96, "--teacher", tiny_teacher(folder), "--image-size", 28)
    words = ["train-student", cache, "phantom", "--student", "test_resnet", "--image-size", 32]
    words += ["--epochs", 1, "--on-missing", "drop"]
    first, _ = medal(*words, "--out", folder / "first")  # measures the plan as well
    seconds = [medal(*words, "--out", folder / f"run{number}")[0] for number in range(rounds)]
    _, packages = medal(*words, "--out", folder / "imports", importtime=True)
    imports = {name: count / 1e6 for name, count in packages.most_common(SHOWN)}
    return {
        "first_seconds": first,
        "seconds": statistics.median(seconds),
        "import_seconds": sum(packages.values()) / 1e6,
        "packages": imports,
    }


def main() -> None:
    """Measure, and print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one round")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MEDAL_HOME"] = str(Path(folder, "home"))
        figures = measure(Path(folder), 1 if asked.quick else asked.rounds)
    for name, seconds in figures["packages"].items():
        print(f"import of {name:<20} {seconds:6.2f} s")
    whole, first = figures["seconds"], figures["first_seconds"]
    print(f"imports {figures['import_seconds']:.2f} s of {whole:.2f} s; the first run, with its plan, {first:.2f} s")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
