"""How long an exported student takes for an image on the CPU, beside PyTorch eager, and whether it is the same student.

    python benchmarks/export_latency.py [--students resnet18,mobilenetv3_small_100] [--image-size 224] [--batch-size 1]

Three things take turns in every round on the same pixels, with the same number of threads: PyTorch eager in float32,
the ONNX file of `medal export` in onnxruntime, and its int8 form. A ratio is the median of those inside the rounds.
Weights are random, since no time depends on them; what int8 costs in accuracy does, and is printed by `medal export`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch

from medal.pipeline.views.preprocessing import Preprocessing
from medal.student.using.exported import Classifier, describe, open_exported, write_export
from medal.student.using.quantisation import quantise
from medal.student.using.trained import Trained

STUDENTS = "resnet18,mobilenetv3_small_100,tf_efficientnet_lite0"
WARM = 3  # rounds that are not counted: kernels are chosen, memory is got
TURNS = ("eager", "onnx", "int8")


def student(name: str, size: int) -> Trained:
    """Return a student of random weights, as a run would hold it."""
    torch.manual_seed(0)
    return Trained(
        run=Path(name),
        architecture=name,
        model=timm.create_model(name, num_classes=2).eval().requires_grad_(False),
        device="cpu",
        task="multiclass",
        classes=("no", "yes"),
        preprocessing=Preprocessing(image_size=size),
        description={},
        recorded={},
    )


def measure(acts: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Return wall and processor seconds of each act in each round; the order is drawn anew each time."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in acts}
    dice = np.random.default_rng(0)
    for _ in range(WARM + rounds):
        for name in dice.permutation(list(acts)):
            wall, processor = time.perf_counter(), time.process_time()
            acts[name]()
            times[name].append((time.perf_counter() - wall, time.process_time() - processor))
    return {name: taken[WARM:] for name, taken in times.items()}


def figures_of(name: str, asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Export one student, and race its forms."""
    trained = student(name, asked.image_size)
    exact, int8 = folder / f"{name}.onnx", folder / f"{name}-int8.onnx"
    difference = write_export(trained, exact, "onnx", None)
    shape = (asked.batch_size, 3, asked.image_size, asked.image_size)
    pixels = np.random.default_rng(1).random(shape, np.float32)
    quantise(exact, int8, [pixels], describe(trained))
    model, tensor, threads = Classifier(trained), torch.from_numpy(pixels), torch.get_num_threads()
    onnx, small = open_exported(exact, "onnx", threads), open_exported(int8, "onnx", threads)

    def eager() -> None:
        with torch.inference_mode():
            model(tensor)

    times = measure({"eager": eager, "onnx": lambda: onnx(pixels), "int8": lambda: small(pixels)}, asked.rounds)
    figures: dict[str, Any] = {"difference": difference, "bytes": {}}
    figures["bytes"] = {"onnx": exact.stat().st_size, "int8": int8.stat().st_size}
    for turn in TURNS:
        figures[turn] = {
            clock: statistics.median(both[i] for both in times[turn]) for i, clock in enumerate(("wall", "cpu"))
        }
    for i, clock in enumerate(("wall", "cpu")):
        figures[f"ratios_{clock}"] = {
            f"eager_over_{turn}": statistics.median(
                one[i] / other[i] for one, other in zip(times["eager"], times[turn], strict=True)
            )
            for turn in TURNS[1:]
        }
    return figures


def main() -> None:
    """Measure, and print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--students", default=STUDENTS, help="names of timm models, with commas between them")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--quick", action="store_true", help="a smoke test on small parts, figures of no worth")
    asked = parser.parse_args()
    if asked.quick:
        vars(asked).update(students="test_resnet", image_size=32, rounds=2)
    what = {"image_size": asked.image_size, "batch_size": asked.batch_size, "threads": torch.get_num_threads()}
    print(", ".join(f"{name} {value}" for name, value in what.items()) + f"; ms, medians of {asked.rounds} rounds")
    columns = [*TURNS, *(f"eager/{turn}" for turn in TURNS[1:])]
    print(f"{'student':<24}{'clock':<6}{''.join(f'{name:>12}' for name in columns)}{'difference':>12}")
    students = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in asked.students.split(","):
            found = students[name] = figures_of(name, asked, Path(folder))
            for clock in ("wall", "cpu"):
                shown = [found[turn][clock] * 1e3 for turn in TURNS] + list(found[f"ratios_{clock}"].values())
                told = "".join(f"{value:12.2f}" for value in shown)
                print(f"{name:<24}{clock:<6}{told}{found['difference']:12.1e}", flush=True)
    print(json.dumps({**what, "rounds": asked.rounds, "students": students}))


if __name__ == "__main__":
    main()
