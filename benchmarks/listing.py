"""What it costs to list a folder of 100,000 images: seconds of this process, in the best of a few rounds.

    python benchmarks/listing.py [--images 100000] [--rounds 5]

Nothing is decoded, and no file whose name says what it is is opened. The files are hard links to an empty one.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

from medal.pipeline.datasets import open_dataset

CLASSES = ("benign", "malignant")


def make(folder: Path, images: int) -> None:
    """Write CLASS/scan_NUMBER.png, as many of each class."""
    for name in CLASSES:
        (folder / name).mkdir()
        first = folder / name / "scan_0.png"
        first.touch()
        for number in range(1, images // len(CLASSES)):
            os.link(first, first.with_name(f"scan_{number}.png"))


def measure(folder: Path, rounds: int) -> tuple[int, float]:
    """Return how many images were listed, and the least seconds of processor time that took."""
    best, count = float("inf"), 0
    for _ in range(rounds):
        begun = time.process_time()
        count = len(open_dataset(str(folder)))
        best = min(best, time.process_time() - begun)
    return count, best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), asked.images)
        count, seconds = measure(Path(folder), asked.rounds)
    print(json.dumps({"images": count, "seconds": round(seconds, 3)}))


if __name__ == "__main__":
    main()
