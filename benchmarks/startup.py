"""How long `medal --help` takes beside `python -c "import click"`, the floor for anything built on click.

Run with the interpreter of the environment that medal is installed in: ``python benchmarks/startup.py [--runs N]``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

LIMIT = 1.5  # times the floor; a person notices a command line that hesitates


def main() -> None:
    """Measure both in turns, so that a busy moment hits both, and print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=30)
    runs = parser.parse_args().runs
    commands = {
        "medal --help": [str(Path(sys.executable).with_name("medal")), "--help"],
        'python -c "import click"': [sys.executable, "-c", "import click"],
    }
    for command in commands.values():  # once unmeasured: bytecode is written, files come into memory
        _seconds(command)
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(runs):
        for name, command in commands.items():
            taken[name].append(_seconds(command))
    medians = {name: statistics.median(values) for name, values in taken.items()}
    medal, click = medians.values()
    print(f"{'command':<26} {'median':>9} {'fastest':>9}   ({runs} runs in turns)")
    for name, values in taken.items():
        print(f"{name:<26} {medians[name] * 1e3:6.1f} ms {min(values) * 1e3:6.1f} ms")
    print(f"{'ratio of medians':<26} {medal / click:9.2f}   (at most {LIMIT})")
    print(json.dumps({"medal_ms": round(medal * 1e3, 2), "click_ms": round(click * 1e3, 2), "ratio": medal / click}))


def _seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
