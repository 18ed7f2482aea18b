"""What `benchmarks/gpu.sh` runs: teachers, students and ranks on a GPU, and whether they say what a CPU says.

Weights and images are drawn, so nothing is downloaded. A part that fails says so in its place, and a part for which no
time is left is named; the others stand.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from resident import CLASSES, Drawn, draw_part, wait
from teacher_throughput import forward_flop, matmul_rate

from medal.pipeline.teacher.files import TeacherFiles, locate_teacher
from medal.pipeline.teacher.machine import library_versions
from medal.pipeline.teacher.teacher import Teacher, agreement, pick_device
from medal.pipeline.teacher.writing import PROCESSOR_OF_DINOV2, write_teacher
from medal.pipeline.views.policies import policy_named
from medal.pipeline.views.preprocessing import Preprocessing
from medal.pipeline.views.transforms import normalise
from medal.student.network.images import StudentImages, load_images
from medal.student.network.model import build_model, describe_model
from medal.student.network.speed import Plan
from medal.student.settings import StudentSettings
from medal.student.targets.load import Targets
from medal.student.training.loop import Recipe, TrainingData, _train_epoch, begin, predict

HERE = Path(__file__).parent
# No part begins after this: the longest takes about a minute.
SECONDS = 270.0
WIDTHS = {"ViT-S/14": 384, "ViT-B/14": 768}
STUDENTS = {"resnet18": 112, "tf_efficientnet_lite0": 224}


def draw_teacher(folder: Path, width: int, layers: int) -> TeacherFiles:
    """Write a DINOv2 of random weights."""
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(
        hidden_size=width, num_hidden_layers=layers, num_attention_heads=max(1, width // 64), image_size=518
    )
    torch.manual_seed(0)
    tensors = {name: tensor.numpy() for name, tensor in Dinov2Model(config).state_dict().items()}
    described = json.loads(config.to_json_string(use_diff=False)) | {"architectures": ["Dinov2Model"]}
    return locate_teacher(str(write_teacher(folder, tensors, described, "Random weights.\n", PROCESSOR_OF_DINOV2)))


def teachers(folder: Path, device: str, *, tiny: bool) -> dict[str, Any]:
    """Return images a second of a forward pass in bf16, eager and compiled, and its share of the matrix products'."""
    batch, rounds, layers = (2, 1, 2) if tiny else (256, 8, 12)
    peak, found = matmul_rate(device), {}
    for name, width in {"tiny": 48}.items() if tiny else WIDTHS.items():
        files = draw_teacher(folder / name.replace("/", "-"), width, layers)
        teacher = Teacher.load(files, feature="cls+mean", precision="bf16", device=device)
        pixels = torch.rand(batch, 3, 224, 224, device=device) * 255
        for way in ("eager", "compiled"):
            forward = teacher._forward if way == "eager" else torch.compile(teacher._forward)
            try:
                seconds = time_forward(forward, pixels, rounds)
            except Exception as error:  # noqa: BLE001 - a compiler that is missing says nothing of the eager one
                found[f"{name} {way}"] = {"failed": f"{type(error).__name__}: {error}"[:300]}
                continue
            rate = batch / seconds
            tflops = rate * forward_flop(files.config) / 1e12
            share = None if peak is None else tflops / peak
            found[f"{name} {way}"] = {"images_per_second": rate, "tflops": tflops, "share_of_matmul": share}
    return found | {"matmul_tflops": peak}


def time_forward(forward: Callable[[torch.Tensor], object], pixels: torch.Tensor, rounds: int) -> float:
    """Return the median seconds of a forward pass; the first two, in which kernels are made, are not counted."""
    device, seconds = pixels.device.type, []
    with torch.inference_mode():
        for _ in range(2 + rounds):
            wait(device)
            begun = time.perf_counter()
            forward(normalise(pixels, (0.5,) * 3, (0.5,) * 3))
            wait(device)
            seconds.append(time.perf_counter() - begun)
    return float(np.median(seconds[2:]))


def students(_folder: Path, _device: str, *, tiny: bool) -> dict[str, Any]:
    """Return what resident.py finds for each student."""
    if tiny:
        return {"tiny": script("resident.py", "--quick")}
    return {
        name: script("resident.py", "--student", name, "--image-size", side, "--batch-size", 128, "--steps", 24)
        for name, side in STUDENTS.items()
    }


def online(folder: Path, _device: str, *, tiny: bool) -> dict[str, Any]:
    """Return what student_step.py finds: a cached step beside timm's with the teacher in it."""
    if tiny:
        return script("student_step.py", "--quick")
    files = draw_teacher(folder / "online", WIDTHS["ViT-S/14"], 12)
    return script("student_step.py", "--teacher", files.folder, "--data", "phantom", "--rounds", 20)


def agreeing(folder: Path, device: str, *, tiny: bool) -> dict[str, Any]:
    """Return how far features, an epoch's loss and a student's logits are from those of the CPU, all in float32."""
    files = draw_teacher(folder / "agreeing", 48 if tiny else 384, 2 if tiny else 12)
    pixels = torch.rand(4, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 255
    said = [
        Teacher.load(files, feature="cls+mean", precision="fp32", device=one).features(pixels, Preprocessing())
        for one in ("cpu", device)
    ]
    trained = [train_briefly(one) for one in ("cpu", device)]
    return {
        "features_cosine": agreement(*said),
        "features_difference": float(np.abs(said[0] - said[1]).max() / np.abs(said[0]).max()),
        "loss_difference": abs(trained[0][0] - trained[1][0]) / trained[0][0],
        "logits_difference": float(np.abs(trained[0][1] - trained[1][1]).max()),
    }


def train_briefly(device: str) -> tuple[float, np.ndarray[Any, Any]]:
    """Train a small student for an epoch of four steps; return its loss and logits."""
    count, side = 64, 64
    settings = StudentSettings(student="resnet10t", batch_size=16, loss="kd+dist").settled()
    plan = Plan(precision="fp32", channels_last=True)
    policy = policy_named("pathology")
    recipe = Recipe(settings=settings, epochs=2, policy=policy, plan=plan, device=device)
    spec = describe_model(settings.student, settings.weights)
    targets = Targets("multiclass", tuple(map(str, range(CLASSES))), {"train": draw_part(count)}, {})
    images = StudentImages(Drawn(count, side), side, "squash")
    exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    with load_images(images, {"train": np.arange(count)}, device=device) as pixels, exact:
        data = TrainingData(targets=targets, pixels=pixels, mean=spec.mean, std=spec.std)
        torch.manual_seed(0)
        state = begin(build_model(spec, settings.weights, CLASSES, side), recipe)
        loss = _train_epoch(state, state.model, data, recipe, 0, lambda _: None)
        return loss, predict(state.model, data, "train", plan, device)


def ranks(folder: Path, device: str, *, tiny: bool) -> dict[str, Any]:
    """Train a student by one and by two processes, and return their figures on test."""
    if device == "cuda" and torch.cuda.device_count() < 2:
        return {"left_out": "two ranks take a GPU each, and there is one"}
    teacher = draw_teacher(folder / "ranks", 48, 2).folder
    cache, images = folder / "ranks.zarr", ["--epochs", 1, "--image-size", 32, "--precision", "fp32"]
    images += ["--on-missing", "drop"]
    count = 120 if tiny else 2000
    medal("cache-teacher", "phantom", cache, "--teacher", teacher, "--image-size", 28, "--limit", count)
    found = {}
    for size in (1, 2):
        words = ["train-student", cache, "phantom", "--out", folder / f"run{size}", "--student", "test_resnet", *images]
        told = medal(*words, ranks=size)
        found[f"{size}"] = {"auroc": told["test"]["auroc"], "images_per_second": told["images_per_second"]}
    return found


def medal(*words: object, ranks: int = 1) -> dict[str, Any]:
    """Run a command of medal, by several ranks if asked, and return what it prints for scripts."""
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    return run([sys.executable, *start, "-m", "medal", *map(str, words), "--json"])


def script(name: str, *words: object) -> dict[str, Any]:
    """Run another benchmark and return its figures."""
    return run([sys.executable, str(HERE / name), *map(str, words)])


def run(words: list[str]) -> dict[str, Any]:
    """Run a program and return the JSON of its last line."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Measure each part that there is time for, and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tiny", action="store_true", help="all of it on small parts, to see that it runs")
    tiny = parser.parse_args().tiny
    device = pick_device("auto")
    figures: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "versions": library_versions(),
        "tiny": tiny,
    }
    parts: list[Callable[..., dict[str, Any]]] = [teachers, students, online, agreeing, ranks]
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MEDAL_HOME"] = str(Path(folder, "home"))  # what is measured is remembered nowhere
        for part in parts:
            if time.perf_counter() - begun > SECONDS:
                figures[part.__name__] = {"left_out": "no time was left"}
                continue
            try:
                figures[part.__name__] = part(Path(folder), device, tiny=tiny)
            except Exception as error:  # noqa: BLE001 - what one part fails of says nothing of the others
                figures[part.__name__] = {"failed": f"{type(error).__name__}: {error}"[:300]}
            print(f"{part.__name__}: {time.perf_counter() - begun:.0f} s", file=sys.stderr)
    figures["seconds"] = round(time.perf_counter() - begun, 1)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
