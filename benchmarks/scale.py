"""What a million images would take: stage one by teachers of each size, and stage two, from pieces that are measured.

    python benchmarks/scale.py [--rounds 3] [--quick]

Measured: processor seconds an image of a teacher's forward pass (S and B; random weights, fp32, 224 px, one thread),
and of a training step of resnet18 at 112 px (`resident.py`). Calculated: L and g, by their operations at the rate of B;
hours, as if two threads did twice the work of one; bytes, from the format; a GPU, by its operations at 40 % of an
A100's 312 TFLOP/s in bf16. Nothing was run over a million images.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from gpu import draw_teacher, script
from teacher_throughput import forward_flop

from medal.pipeline.teacher.files import FEATURES
from medal.pipeline.teacher.teacher import Teacher
from medal.pipeline.views.preprocessing import Preprocessing

SIZES = {"S": (384, 12), "B": (768, 12), "L": (1024, 24), "g": (1536, 40)}
MEASURED = ("S", "B")
IMAGES, THREADS, EPOCHS = 1_000_000, 2, 5
GPU_FLOPS = 0.4 * 312e12
# The default recipe keeps that many vectors of the teacher's width in float16.
VECTORS, _ = FEATURES["last4"]
# Of a row besides its features: key, label, logits of 14 classes, view and its check, domain, group, fold.
ROW_BYTES = 16 + 4 + 14 * 4 + 8 * 4 + 4 * 4 + 2 + 4 + 1


def seconds_of(folder: Path, width: int, layers: int, rounds: int) -> float:
    """Return processor seconds an image of a forward pass by one thread."""
    files = draw_teacher(folder / f"{width}-{layers}", width, layers)
    teacher = Teacher.load(files, feature="last4", precision="fp32", device="cpu")
    pixels = torch.rand(8, 3, 224, 224) * 255
    taken = []
    for _ in range(1 + rounds):
        begun = time.process_time()
        teacher.features(pixels, Preprocessing())
        taken.append(time.process_time() - begun)
    return statistics.median(taken[1:]) / len(pixels)


def measure(folder: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """Return what each size and a training take."""
    sizes = {"S": (48, 4), "B": (96, 4)} if asked.quick else SIZES
    flops = {
        name: forward_flop({"hidden_size": width, "patch_size": 14, "num_hidden_layers": layers})
        for name, (width, layers) in sizes.items()
    }
    seconds = {name: seconds_of(folder, *sizes[name], asked.rounds) for name in MEASURED}
    rate = flops["B"] / seconds["B"]
    found: dict[str, Any] = {
        name: {
            "measured": name in MEASURED,
            "seconds": seconds.get(name, flops[name] / rate),
            "hours": IMAGES * seconds.get(name, flops[name] / rate) / THREADS / 3600,
            "gpu_hours": IMAGES * flops[name] / GPU_FLOPS / 3600,
            "gigabytes": IMAGES * (2 * VECTORS * width + ROW_BYTES) / 1e9,
        }
        for name, (width, _) in sizes.items()
    }
    words = ["--quick"] if asked.quick else ["--rounds", 2, "--steps", 2]
    step = script("resident.py", *words)
    each = step["resident"]["cpu"] / step["batch_size"]
    hours = IMAGES / 10 * EPOCHS * each / THREADS / 3600
    training = {"seconds": each, "hours": hours, "epochs": EPOCHS, "images": IMAGES // 10}
    return {"images": IMAGES, "threads": THREADS, "teachers": found, "training": training}


def main() -> None:
    """Measure, and print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a smoke test on small parts, figures of no worth")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), asked)
    for name, one in figures["teachers"].items():
        told = "measured" if one["measured"] else "calculated"
        print(
            f"{name}  {one['seconds']:8.3f} s an image ({told}), {one['hours']:8.1f} h on {THREADS} threads, "
            f"{one['gpu_hours']:6.2f} h on paper on a GPU, {one['gigabytes']:5.1f} GB"
        )
    one = figures["training"]
    print(f"training of {one['images']} images, {one['epochs']} epochs: {one['hours']:.1f} h on {THREADS} threads")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
