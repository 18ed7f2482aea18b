"""How long a training step takes with images that lie on the device, and with images that are read by the batch.

    python benchmarks/resident.py [--student resnet18] [--image-size 112] [--rounds 6] [--quick]

Epochs of the same training take turns. Images are drawn at the student's size, so that reading one is a look into
memory: the least that a stream can cost. On a GPU, images that are held in memory, and sent there by the batch, are a
third way. The claim: a step with resident images takes no longer, and leaves the same bits in every weight.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch

from medal.pipeline.views.policies import VIEW_PARAMETERS, policy_named
from medal.student.network.images import StudentImages, load_images
from medal.student.network.model import build_model, describe_model
from medal.student.network.speed import Plan, pick_device
from medal.student.settings import StudentSettings
from medal.student.targets.load import SplitTargets, Targets
from medal.student.training.loop import Recipe, TrainingData, _train_epoch, begin

CLASSES = 5
WAYS: dict[str, dict[str, Any]] = {"resident": {}, "held": {"resident": "off"}, "streamed": {"workers": 0}}


class Drawn:
    """Grey images in memory."""

    def __init__(self, count: int, side: int) -> None:
        self.arrays = np.random.default_rng(0).integers(0, 256, (count, side, side, 1), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self.arrays)

    def read(self, row: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Return an image, (S, S, 1)."""
        return self.arrays[row]


def draw_part(count: int) -> SplitTargets:
    """Draw keys, labels and a teacher's logits."""
    random = np.random.default_rng(1)
    return SplitTargets(
        row=np.arange(count),
        key=random.integers(0, 256, (count, 16), dtype=np.uint8),
        label=random.integers(0, CLASSES, count, dtype=np.int32),
        logits=random.normal(size=(count, 1, CLASSES)).astype(np.float32),
        view=np.zeros((count, 1, len(VIEW_PARAMETERS)), np.float32),
        view_check=np.zeros((count, 1, 4), np.float32),
        group=np.full(count, -1, np.int32),
        domain=np.full(count, -1, np.int16),
    )


def wait(device: str) -> None:
    """Wait until the device has done what it was given."""
    if device != "cpu":
        torch.accelerator.synchronize()


def measure(asked: argparse.Namespace, device: str) -> dict[str, Any]:
    """Train in turns; return seconds a step by wall and processor, ratios, and whether all weights are equal."""
    side, count = asked.image_size, asked.steps * asked.batch_size
    settings = StudentSettings(student=asked.student, batch_size=asked.batch_size).settled()
    spec = describe_model(settings.student, settings.weights)
    recipe = Recipe(
        settings=settings,
        epochs=asked.rounds + 1,
        policy=policy_named("small"),
        plan=Plan(precision="bf16" if device == "cuda" else "fp32", channels_last=True),
        device=device,
    )
    targets = Targets("multiclass", tuple(map(str, range(CLASSES))), {"train": draw_part(count)}, {})
    ways = {name: more for name, more in WAYS.items() if device != "cpu" or name != "held"}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    with ExitStack() as opened:
        images, rows = StudentImages(Drawn(count, side), side, "squash"), {"train": np.arange(count)}
        data, states = {}, {}
        for name, more in ways.items():
            pixels = opened.enter_context(load_images(images, rows, device=device, **more))
            data[name] = TrainingData(targets=targets, pixels=pixels, mean=spec.mean, std=spec.std)
            torch.manual_seed(0)
            states[name] = begin(build_model(spec, settings.weights, CLASSES, side), recipe)
        dice = np.random.default_rng(0)
        opened.enter_context(torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True))
        for epoch in range(recipe.epochs):
            for name in dice.permutation(list(ways)):
                wait(device)
                wall, processor = time.perf_counter(), time.process_time()
                _train_epoch(states[name], states[name].model, data[name], recipe, epoch, lambda _: None)
                wait(device)
                times[name].append((time.perf_counter() - wall, time.process_time() - processor))
    # The first epoch is not counted: kernels are chosen, memory is got.
    seconds = {name: np.array(taken[1:]) / asked.steps for name, taken in times.items()}
    others = [name for name in ways if name != "resident"]
    equal = all(
        torch.equal(value, states[name].tensors()[key])
        for name in others
        for key, value in states["resident"].tensors().items()
    )
    found: dict[str, Any] = {
        name: {"wall": statistics.median(both[:, 0]), "cpu": statistics.median(both[:, 1])}
        for name, both in seconds.items()
    }
    for column, clock in enumerate(("wall", "cpu")):
        found[f"ratios_{clock}"] = {
            f"resident_over_{name}": float(np.median(seconds["resident"][:, column] / seconds[name][:, column]))
            for name in others
        }
    clock = "ratios_cpu" if device == "cpu" else "ratios_wall"
    return found | {"equal_bits": equal, "holds": equal and max(found[clock].values()) <= 1.0}


def main() -> None:
    """Measure, and print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--student", default="resnet18")
    parser.add_argument("--image-size", type=int, default=112)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=8, help="of an epoch")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--quick", action="store_true", help="a smoke test on small parts, figures of no worth")
    asked = parser.parse_args()
    if asked.quick:
        vars(asked).update(student="test_resnet", image_size=28, batch_size=4, steps=3, rounds=2)
    device = pick_device("auto")
    what = {"student": asked.student, "image_size": asked.image_size, "batch_size": asked.batch_size}
    what |= {"device": device, "threads": torch.get_num_threads(), "rounds": asked.rounds}
    figures = what | measure(asked, device)
    for name in figures.keys() & WAYS:
        wall, processor = (seconds * 1e3 for seconds in figures[name].values())
        print(f"{name:<10} {wall:9.2f} ms a step, {processor:9.2f} ms of processor time")
    verdict = "holds" if figures["holds"] else "DOES NOT HOLD"
    print(
        f"ratios {figures['ratios_wall']} wall, {figures['ratios_cpu']} processor; equal bits: {figures['equal_bits']}"
    )
    print(f"at most 1.0, by the {'processor' if device == 'cpu' else 'wall'}'s time, and equal bits: {verdict}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
