"""Peak memory of stage one and of a training, on few rows and on many: what a row adds, and what stays bounded.

    python benchmarks/memory.py [--teacher PATH] [--rows 20000] [--few 2000] [--image-size 56] [--quick]

Child processes: one loads the teacher and forwards one batch, others run `medal cache-teacher` on drawn images and
`medal train-student` on their cache, with images decoded when they are needed, as those are that do not fit into
memory. Printed are their peaks of resident memory, and what each further row took, as a table and as one line of JSON.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from medal.pipeline.teacher.demo import tiny_teacher

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


def measure(asked: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Return peaks in bytes, on few rows and on many."""
    teacher = tiny_teacher(folder) if asked.quick else asked.teacher
    figures: dict[str, object] = {"rows": asked.rows, "few": asked.few, "image_size": asked.image_size}
    peaks = {}
    for rows in (asked.few, asked.rows):
        data, cache = folder / f"{rows}.npz", folder / f"{rows}.zarr"
        synthetic(data, rows)
        if rows == asked.few:
            loaded = peak(LOAD, data, teacher, asked.image_size, folder / "loaded.zarr")
        words = ("--teacher", teacher, "--image-size", asked.image_size, "--json")
        first = peak(RUN, "cache-teacher", data, cache, *words)
        words = ("--student", "test_resnet", "--image-size", 32, "--epochs", 1, "--workers", 0, "--json")
        peaks[rows] = first, peak(RUN, "train-student", cache, data, "--out", folder / f"run{rows}", *words)
    few, many = peaks.values()
    more = asked.rows - asked.few
    return figures | {
        "teacher_loaded_bytes": loaded,
        "peak_bytes": many[0],
        "above_teacher_bytes": many[0] - loaded,
        "row_bytes": round((many[0] - few[0]) / more),
        "training_peak_bytes": many[1],
        "training_row_bytes": round((many[1] - few[1]) / more),
        "sealed_bytes": sum(file.stat().st_size for file in cache.rglob("*") if file.is_file()),
    }


def main() -> None:
    """Measure, and print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--teacher", default="facebook/dinov2-small")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--few", type=int, default=2_000)
    parser.add_argument("--image-size", type=int, default=56)
    parser.add_argument("--quick", action="store_true", help="a smoke test on small parts, figures of no worth")
    asked = parser.parse_args()
    if asked.quick:
        vars(asked).update(rows=200, few=100, image_size=28)
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(asked, Path(folder))
    for name, value in figures.items():
        whole = name.endswith("bytes") and "row" not in name
        print(f"{name:22} {int(str(value)) / 1e6:10.1f} MB" if whole else f"{name:22} {value:>10}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
