"""Peak memory of stage one on many rows, probe included, above a process that only holds the loaded teacher.

    python benchmarks/memory.py --teacher PATH [--rows 100000] [--image-size 56]

Two child processes: one loads the teacher and forwards one batch, the other runs `medal cache-teacher` on a synthetic
dataset. Printed is the difference of their peak resident memory, as a table and as one line of JSON.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

LOAD = """
import sys
from medal.pipeline.planning.plan import decide_again, prepare
from medal.pipeline.datasets.columns.dataset import DatasetOptions
from medal.pipeline.features.engine import capable_precision, load_teacher
from medal.pipeline.features.precision import default_batch_size
from medal.pipeline.planning.request import CacheSettings
import torch
settings = CacheSettings(teacher=sys.argv[2], image_size=int(sys.argv[3]))
asked = decide_again(prepare(sys.argv[1], sys.argv[4], DatasetOptions(), settings))
teacher = load_teacher(asked, capable_precision(asked))
side = settings.image_size
teacher.features(torch.zeros(default_batch_size("cpu"), 3, side, side), asked.preprocessing)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
RUN = """
import sys
from medal.cli import group
group.main(sys.argv[1:], prog_name="medal", standalone_mode=False)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def synthetic(path: Path, rows: int, side: int = 28, classes: int = 10) -> None:
    """Write noisy drawings, one pattern a class, as a MedMNIST `.npz`: 80 % train, 10 % val, 10 % test."""
    draw = np.random.default_rng(0)
    patterns = draw.integers(0, 256, (classes, side // 4, side // 4)).repeat(4, 1).repeat(4, 2)
    arrays = {}
    for split, share in (("train", 0.8), ("val", 0.1), ("test", 0.1)):
        labels = draw.integers(0, classes, round(rows * share))
        noise = draw.integers(0, 256, (len(labels), side, side), dtype=np.uint8)
        arrays[f"{split}_images"] = (noise * 0.75 + patterns[labels] * 0.25).astype(np.uint8)
        arrays[f"{split}_labels"] = labels[:, None]
    np.savez(path, **arrays)


def peak(code: str, *words: object) -> int:
    """Run a child and return its peak resident memory in bytes."""
    done = subprocess.run([sys.executable, "-c", code, *map(str, words)], stdout=subprocess.PIPE, text=True, check=True)
    # VmHWM and not ru_maxrss, which a child inherits from the parent that it was forked from. In KiB.
    return int(done.stdout.split()[-1]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", default="facebook/dinov2-small")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--image-size", type=int, default=56)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data, out = Path(folder, "rows.npz"), Path(folder, "out.zarr")
        few = Path(folder, "few.npz")
        synthetic(few, 1000)
        synthetic(data, asked.rows)
        loaded = peak(LOAD, few, asked.teacher, asked.image_size, Path(folder, "loaded.zarr"))
        whole = peak(
            RUN, "cache-teacher", data, out, "--teacher", asked.teacher, "--image-size", asked.image_size, "--json"
        )
        sealed = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    figures = {
        "rows": asked.rows,
        "image_size": asked.image_size,
        "teacher_loaded_bytes": loaded,
        "peak_bytes": whole,
        "above_teacher_bytes": whole - loaded,
        "sealed_bytes": sealed,
    }
    for name, value in figures.items():
        print(f"{name:22} {value / 1e6:10.1f} MB" if name.endswith("bytes") else f"{name:22} {value:10}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
