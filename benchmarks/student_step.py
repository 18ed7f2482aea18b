"""How long a training step of stage two takes with cached targets, without any, and with the teacher on-line.

    python benchmarks/student_step.py [--student resnet18] [--data DATASET] [--teacher PATH] [--rounds 40] [--quick]
    python benchmarks/student_step.py --student mobilenetv3_small_100 --image-size 224

Four things take turns in every round, on the same batch:

* cached: the step of `medal train-student`, soft targets looked up in memory;
* plain: the same step with cross-entropy alone;
* online: the same step with timm's `LogitDistillationTask`, whose teacher is the DINOv2 and a linear layer. It sees the
  student's own images in the student's precision; at the teacher's usual 224 px it would cost more;
* teacher: the forward pass of that teacher, which is what a cache takes out of the step.

Two claims: cached costs at most 3 % more than plain, and is faster than online by at least 95 % of what taking the
teacher out should give, (cached + teacher) / cached. Each ratio is the median over the rounds of the ratio inside a
round. Images are those of DATASET (28 px are enlarged fourfold); labels' and teacher's meaning has no part in this.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.task import LogitDistillationTask
from torch import Tensor, nn
from torch.nn import functional

from medal.pipeline.datasets.columns.dataset import typical_side
from medal.pipeline.datasets.opening import open_dataset
from medal.pipeline.teacher.demo import tiny_teacher
from medal.pipeline.teacher.files import locate_teacher
from medal.pipeline.views.transforms import apply_views, draw_views, normalise, policy_named
from medal.student.network.images import PixelSource, StudentImages, choose_image_size, load_images
from medal.student.network.model import ModelSpec, build_model, describe_model
from medal.student.network.speed import choose_plan
from medal.student.settings import StudentSettings
from medal.student.training.checkpoint import TrainingState
from medal.student.training.loop import Recipe, _average, begin
from medal.student.training.losses import Answers, Objective, parse_terms, total_loss

SHARED = Path(os.environ.get("MEDAL_SHARED", Path(__file__).resolve().parents[2] / "shared"))
BATCHES = 4  # of images that are held; they come round again
WARM = 2  # rounds that are not counted: kernels are chosen, memory is got
MOST_OVER_PLAIN, LEAST_OF_GAIN = 1.03, 0.95
VERDICTS = {True: "holds", False: "DOES NOT HOLD"}
TURNS = ("cached", "plain", "online", "teacher")

Act = Callable[[], None]


class Online(nn.Module):
    """The teacher as a classifier: CLS and mean patch token, then a linear layer."""

    def __init__(self, folder: Path, classes: int) -> None:
        from transformers import AutoModel
        from transformers.utils.logging import disable_progress_bar

        super().__init__()
        disable_progress_bar()
        self.backbone = AutoModel.from_pretrained(folder, local_files_only=True, attn_implementation="sdpa").float()
        self.first_patch = 1 + int(getattr(self.backbone.config, "num_register_tokens", 0))
        self.probe = nn.Linear(2 * self.backbone.config.hidden_size, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, C) of images (B, 3, S, S), normalised."""
        tokens = self.backbone(pixel_values=images).last_hidden_state  # (B, 1 + registers + patches, D)
        return self.probe(torch.cat([tokens[:, 0], tokens[:, self.first_patch :].mean(1)], 1))


@dataclass(kw_only=True)
class Bench:
    """What all steps share."""

    recipe: Recipe
    spec: ModelSpec
    rows: list[np.ndarray[Any, np.dtype[np.int64]]]
    pixels: PixelSource
    key: np.ndarray[Any, np.dtype[np.uint8]]
    label: Tensor  # (N,) int64
    teacher: Tensor  # (N, C) float32, the cached logits
    round: int = 0

    @property
    def batch(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Rows of this round's batch."""
        return self.rows[self.round % len(self.rows)]

    def images(self) -> Tensor:
        """Return this round's images, augmented and normalised as in training, (B, 3, S, S)."""
        recipe, rows = self.recipe, self.batch
        pixels = next(self.pixels.batches([rows]))
        views = draw_views(recipe.policy, self.key[rows], self.round, 1, recipe.settings.seed)
        moved = apply_views(pixels.to(recipe.device), torch.from_numpy(views))
        return normalise(moved, self.spec.mean, self.spec.std).contiguous(memory_format=recipe.plan.layout)

    def step(self, state: TrainingState, loss_of: Callable[[Tensor], Tensor]) -> None:
        """Take one step as `medal.student.training.loop` does."""
        loss_of(self.images()).backward()
        state.optimiser.step()
        state.optimiser.zero_grad()
        _average(state.averaged, state.model, self.round, 100.0)

    def logits(self, model: nn.Module, images: Tensor) -> Tensor:
        """Return a model's logits (B, C) float32 in the plan's precision."""
        with self.recipe.plan.autocast(self.recipe.device):
            return model(images).float()


def steps(bench: Bench, model: Callable[[], nn.Module], online: nn.Module) -> dict[str, Act]:
    """Return what takes turns, each with a student of its own."""
    recipe = bench.recipe
    device, settings = recipe.device, recipe.settings
    objective = Objective("multiclass", settings.temperature, settings.soft_weight, parse_terms(settings.loss))
    states = [begin(model().train(), recipe) for _ in range(3)]
    task = LogitDistillationTask(
        student_model=states[2].model,
        teacher_model=online.requires_grad_(False).to(device),
        criterion=nn.CrossEntropyLoss(),
        task_loss_weight=1 - settings.alpha,
        temperature=settings.temperature,
        device=torch.device(device),
        verbose=False,
    ).train()

    def cached(images: Tensor) -> Tensor:
        rows, logits = bench.batch, bench.logits(states[0].model, images)
        given = (logits, bench.label[rows].to(device), bench.teacher[rows].to(device))
        return total_loss(Answers(*given), objective)

    def plain(images: Tensor) -> Tensor:
        logits = bench.logits(states[1].model, images)
        return functional.cross_entropy(logits, bench.label[bench.batch].to(device))

    def distilled(images: Tensor) -> Tensor:
        with recipe.plan.autocast(device):
            return task(images, bench.label[bench.batch].to(device))["loss"]

    images = bench.images()

    def forward() -> None:
        with torch.no_grad():
            bench.logits(online, images)

    return {
        "cached": lambda: bench.step(states[0], cached),
        "plain": lambda: bench.step(states[1], plain),
        "online": lambda: bench.step(states[2], distilled),
        "teacher": forward,
    }


def race(bench: Bench, acts: Mapping[str, Act], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Return wall and processor seconds of each act in each round.

    The order is drawn anew each time: what runs after the teacher finds other things in the processor's caches.
    """
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in acts}
    dice = np.random.default_rng(0)
    for number in range(WARM + rounds):
        bench.round = number
        for name in dice.permutation(TURNS):
            wait(bench.recipe.device)
            wall, processor = time.perf_counter(), time.process_time()
            acts[name]()
            wait(bench.recipe.device)
            times[name].append((time.perf_counter() - wall, time.process_time() - processor))
    return {name: taken[WARM:] for name, taken in times.items()}


def wait(device: str) -> None:
    """Wait until the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def figures_of(times: Mapping[str, list[tuple[float, float]]]) -> dict[str, Any]:
    """Return medians, the ratios of the two claims by both clocks, and whether the claims hold by the wall's."""
    figures: dict[str, Any] = {
        name: {clock: statistics.median(both[i] for both in taken) for i, clock in enumerate(("wall", "cpu"))}
        for name, taken in times.items()
    }
    for i, clock in enumerate(("wall", "cpu")):
        cached, plain, online, teacher = (np.array([both[i] for both in times[name]]) for name in TURNS)
        figures[f"ratios_{clock}"] = {
            "cached_over_plain": float(np.median(cached / plain)),
            "gain": float(np.median(online / cached)),
            "possible_gain": float(np.median((cached + teacher) / cached)),
            "share_of_gain": float(np.median(online / (cached + teacher))),
        }
    ratios = figures["ratios_wall"]
    figures["holds"] = {
        "cached_over_plain": ratios["cached_over_plain"] <= MOST_OVER_PLAIN,
        "share_of_gain": ratios["share_of_gain"] >= LEAST_OF_GAIN,
    }
    return figures


@contextmanager
def prepared(asked: argparse.Namespace, folder: Path) -> Iterator[tuple[Bench, dict[str, Act], dict[str, Any]]]:
    """Open the images, build students and teacher; yield them, and what the figures are of."""
    settings = StudentSettings(student=asked.student, batch_size=asked.batch_size, precision=asked.precision)
    dataset = open_dataset(str(asked.data))
    if dataset.task != "multiclass":
        raise SystemExit("The plain step is cross-entropy; give --data with one class an image.")
    rows = np.arange(min(len(dataset), BATCHES * settings.batch_size))
    spec = describe_model(settings.student, settings.weights)
    side = choose_image_size(typical_side(dataset.images, rows), spec, asked.image_size)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    classes = len(dataset.classes)

    def model() -> nn.Module:
        torch.manual_seed(0)
        return build_model(spec, settings.weights, classes, side)

    plan, _ = choose_plan(model(), settings.student, side, device, settings.precision)
    recipe = Recipe(settings=settings, epochs=1, policy=policy_named("small"), plan=plan, device=device)
    teacher = tiny_teacher(folder) if asked.quick else locate_teacher(str(asked.teacher)).folder
    with load_images(StudentImages(dataset.images, side, "squash"), {"train": rows}) as pixels:
        bench = Bench(
            recipe=recipe,
            spec=spec,
            rows=np.array_split(rows, max(1, len(rows) // settings.batch_size)),
            pixels=pixels["train"],
            key=dataset.take(rows).keys(),
            label=torch.from_numpy(dataset.label[rows].astype(np.int64)),
            teacher=torch.randn(len(rows), classes),
        )
        what = {"student": settings.student, "image_size": side, "batch_size": len(bench.rows[0]), "device": device}
        what |= {
            "plan": str(plan),
            "threads": torch.get_num_threads(),
            "data": dataset.name,
            "teacher_name": teacher.name,
        }
        yield bench, steps(bench, model, Online(teacher, classes)), what


def show(figures: Mapping[str, Any]) -> None:
    """Print the table."""
    told = [f"{figures[name]}" for name in ("student", "plan", "device", "data", "teacher_name")]
    print(f"{', '.join(told)}; {figures['image_size']} px, batches of {figures['batch_size']}")
    print(f"{'medians of ' + str(figures['rounds']) + ' rounds':<24} {'wall':>11} {'processor':>13}")
    for name in TURNS:
        wall, processor = figures[name].values()
        print(f"{name:<24} {wall * 1e3:8.2f} ms {processor * 1e3:10.2f} ms")
    wall, processor = figures["ratios_wall"], figures["ratios_cpu"]
    limits = {"cached_over_plain": f"at most {MOST_OVER_PLAIN}", "share_of_gain": f"at least {LEAST_OF_GAIN}"}
    for name in wall:
        verdict = f"({limits[name]}: {VERDICTS[figures['holds'][name]]})" if name in limits else ""
        print(f"{name:<24} {wall[name]:11.3f} {processor[name]:13.3f}   {verdict}")


def main() -> None:
    """Measure, and print a table and one line of JSON."""
    real, teacher = SHARED / "data/pneumoniamnist/pneumoniamnist.npz", SHARED / "teachers/dinov2-small"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--student", default="resnet18")
    parser.add_argument("--image-size", type=int, default=None)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto")
    parser.add_argument("--data", default=real if real.is_file() else "phantom")
    parser.add_argument(
        "--teacher", default=os.environ.get("MEDAL_TEACHER", teacher if teacher.is_dir() else "facebook/dinov2-small")
    )
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--quick", action="store_true", help="a smoke test on small parts, figures of no worth")
    asked = parser.parse_args()
    if asked.quick:
        small = {"student": "resnet10t", "image_size": 28, "batch_size": 4, "precision": "fp32", "rounds": 2}
        vars(asked).update(small, data="phantom")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MEDAL_HOME"] = str(Path(folder, "home"))  # the plan is measured now, and remembered nowhere
        with prepared(asked, Path(folder)) as (bench, acts, what):
            times = race(bench, acts, asked.rounds)
    figures = {**what, "rounds": asked.rounds, **figures_of(times)}
    show(figures)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
