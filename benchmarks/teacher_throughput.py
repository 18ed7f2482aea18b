"""How many images a second stage one takes, beside the teacher's bare forward pass and the common way to do it.

    python benchmarks/teacher_throughput.py [--teacher PATH] [--rounds 5] [--images 512] [--quick]

Six things take turns in every round, with the real images of PneumoniaMNIST where they are at hand, else drawings:

* npz: medal's whole pipeline on an .npz of 28 px: decode, resize, forward, durable chunks; without imports, the loading
  of the teacher and the probe, which are paid once;
* jpeg: the same on a folder of JPEG files of 500 px, quality 90;
* forward: medal's forward pass alone, on pixels that lie in memory;
* bare: the forward pass of transformers' model as it is loaded, eager, its blocks in bf16 where the chip is fast at it;
* common, common jpeg: AutoImageProcessor, the fp32 model and a DataLoader, as most scripts do it.

The clock of npz and jpeg is the script's own: the time for `--images` less the time for an eighth of them, over the
difference. Each ratio is the median over the rounds of the ratio inside a round.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from medal.cache.making.work import WorkDirectory
from medal.pipeline.datasets.opening import open_dataset
from medal.pipeline.features.extract import FeatureTask, compute_chunks, compute_features
from medal.pipeline.features.precision import default_batch_size
from medal.pipeline.planning.rows import arrange_rows
from medal.pipeline.teacher.demo import tiny_teacher
from medal.pipeline.teacher.files import default_preprocessing, locate_teacher
from medal.pipeline.teacher.teacher import Teacher, pick_device, precision_for
from medal.pipeline.views.policies import Views
from medal.pipeline.views.transforms import normalise

SHARED = Path(os.environ.get("MEDAL_SHARED", Path(__file__).resolve().parents[2] / "shared"))
SIDE, JPEG_SIDE = 224, 500
LIMITS = {"npz_over_bare": 0.95, "jpeg_over_bare": 0.90, "npz_over_common": {"bf16": 3.5, "fp32": 1.2}}
VERDICTS = {True: "holds", False: "DOES NOT HOLD"}


class Pictures(Dataset[Any]):
    """Images as the common way reads them: one by one, as RGB pictures, through the image processor."""

    def __init__(self, read: Callable[[int], Image.Image], count: int, processor: Any) -> None:
        self.read, self.count, self.processor = read, count, processor

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> Tensor:
        image = self.read(row).convert("RGB")
        return self.processor(images=image, return_tensors="pt")["pixel_values"][0]


class Bench:
    """Everything that is measured, prepared in a folder."""

    def __init__(self, asked: argparse.Namespace, folder: Path) -> None:
        self.asked, self.folder = asked, folder
        self.files = locate_teacher(str(tiny_teacher(folder) if asked.quick else asked.teacher))
        self.device = pick_device("auto")
        self.precision = precision_for("auto", self.device)
        self.batch = asked.batch_size or default_batch_size(self.device)
        self.preprocessing = default_preprocessing(self.files, image_size=SIDE)
        self.teacher = Teacher.load(self.files, feature="cls+mean", precision=self.precision, device=self.device)
        self.plain = self._transformers(half=self.precision == "bf16")
        self.exact = self._transformers(half=False)
        self.pixels = torch.randint(0, 256, (self.batch, 3, SIDE, SIDE)).float()
        self._write_images()

    def _transformers(self, *, half: bool) -> Any:
        """Load the model as scripts do; its blocks in bf16, in and out in fp32."""
        from transformers import AutoModel
        from transformers.utils import logging

        logging.disable_progress_bar()

        model = AutoModel.from_pretrained(self.files.folder, local_files_only=True, attn_implementation="sdpa").eval()
        if half:
            model.encoder.bfloat16().register_forward_pre_hook(lambda _, inputs: (inputs[0].bfloat16(), *inputs[1:]))
            model.layernorm.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))
        return model.to(self.device)

    def _write_images(self) -> None:
        self.arrays = pictures(self.asked.images)
        labels = np.arange(len(self.arrays))[:, None] % 2
        parts = {
            f"{split}_{kind}": np.empty((0, *x.shape[1:]), x.dtype)
            for split in ("val", "test")
            for kind, x in (("images", self.arrays), ("labels", labels))
        }
        self.npz = self.folder / "images.npz"
        np.savez(self.npz, train_images=self.arrays, train_labels=labels, **parts)
        self.jpeg = self.folder / "jpeg"
        for row, array in enumerate(self.arrays):
            file = self.jpeg / "ab"[row % 2] / f"{row:05}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).resize((JPEG_SIDE, JPEG_SIDE), Image.Resampling.BICUBIC).save(file, quality=90)

    def pipeline(self, spec: Path) -> float:
        """Return images a second of medal's pipeline."""
        dataset = open_dataset(str(spec))
        rows = arrange_rows(dataset, dataset.keys(), np.zeros(len(dataset), np.int8))
        few = rows["train"].take(np.arange(len(dataset)) < len(dataset) // 8)
        seconds = []
        for part in (few, rows["train"]):
            task = FeatureTask(
                dataset=dataset,
                rows={"train": part},
                preprocessing=self.preprocessing,
                views=Views(),
                batch_size=self.batch,
            )
            with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
                work = WorkDirectory(Path(scratch, "work"))
                work.begin({})
                begun = time.perf_counter()
                compute_features(lambda plans, task=task: compute_chunks(task, self.teacher, plans), task.plan(), work)
                seconds.append(time.perf_counter() - begun)
        return (len(rows["train"]) - len(few)) / (seconds[1] - seconds[0])

    def resident(self, forward: Callable[[Tensor], object]) -> float:
        """Return images a second of a forward pass on pixels in memory."""
        begun = time.perf_counter()
        for _ in range(passes := max(1, self.asked.images // self.batch)):
            forward(self.pixels)
        return passes * self.batch / (time.perf_counter() - begun)

    @torch.inference_mode()
    def bare(self, pixels: Tensor) -> Tensor:
        """Say what the model says, as features."""
        inputs = normalise(pixels.to(self.device), self.preprocessing.mean, self.preprocessing.std)
        tokens = self.plain(pixel_values=inputs).last_hidden_state
        return torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], 1).cpu()

    @torch.inference_mode()
    def common(self, *, jpeg: bool) -> float:
        """Return images a second of the common way, over a quarter of the images: it is slow."""
        from transformers import AutoImageProcessor

        processor = AutoImageProcessor.from_pretrained(
            SHARED / "teachers/dinov2-small" if self.asked.quick else self.files.folder, local_files_only=True
        )
        files = sorted(self.jpeg.rglob("*.jpg"))
        read = (lambda row: Image.open(files[row])) if jpeg else (lambda row: Image.fromarray(self.arrays[row]))
        count = max(1, len(self.arrays) // 4)
        begun = time.perf_counter()
        for inputs in DataLoader(Pictures(read, count, processor), batch_size=self.batch):
            tokens = self.exact(pixel_values=inputs.to(self.device)).last_hidden_state
            torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], 1).cpu()
        return count / (time.perf_counter() - begun)


def pictures(count: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return grey images of 28 px, (count, 28, 28)."""
    real = SHARED / "data/pneumoniamnist/pneumoniamnist.npz"
    if real.is_file():
        with np.load(real) as data:
            return data["train_images"][:count]
    return np.random.default_rng(0).integers(0, 256, (count, 28, 28), np.uint8)


def matmul_rate(device: str) -> float | None:
    """Return the measured rate of bf16 matrix products on a GPU, in TFLOP/s."""
    if torch.device(device).type != "cuda":
        return None
    a = torch.randn(8192, 8192, device=device, dtype=torch.bfloat16)
    for _ in range(3):
        a @ a
    torch.cuda.synchronize()
    begun = time.perf_counter()
    for _ in range(10):
        a @ a
    torch.cuda.synchronize()
    return 10 * 2 * 8192**3 / (time.perf_counter() - begun) / 1e12


def forward_flop(config: Mapping[str, Any]) -> float:
    """Return the floating-point operations of an image: the linear layers and the two products of attention."""
    width, tokens = config["hidden_size"], (SIDE // config["patch_size"]) ** 2 + 1
    ratio = config.get("mlp_ratio", 4)
    block = 2 * tokens * width * width * (4 + 2 * ratio) + 4 * tokens * tokens * width
    return float(block * config["num_hidden_layers"])


def race(bench: Bench) -> dict[str, list[float]]:
    """Let all take turns; the first round is not counted."""
    turns: dict[str, Callable[[], float]] = {
        "bare": lambda: bench.resident(bench.bare),
        "forward": lambda: bench.resident(lambda pixels: bench.teacher.features(pixels, bench.preprocessing)),
        "npz": lambda: bench.pipeline(bench.npz),
        "jpeg": lambda: bench.pipeline(bench.jpeg),
        "common": lambda: bench.common(jpeg=False),
        "common_jpeg": lambda: bench.common(jpeg=True),
    }
    rates: dict[str, list[float]] = {name: [] for name in turns}
    for act in turns.values():
        act()
    for _ in range(bench.asked.rounds):
        for name, act in turns.items():
            rates[name].append(act())
    return rates


def figures_of(bench: Bench, rates: Mapping[str, list[float]]) -> dict[str, Any]:
    """Return medians, ratios and verdicts."""

    def ratio(one: str, other: str) -> float:
        return statistics.median(a / b for a, b in zip(rates[one], rates[other], strict=True))

    pairs = [("npz", "bare"), ("jpeg", "bare"), ("forward", "bare"), ("npz", "common"), ("jpeg", "common_jpeg")]
    ratios = {f"{one}_over_{other}": ratio(one, other) for one, other in pairs}
    limits = {name: limit[bench.precision] if isinstance(limit, dict) else limit for name, limit in LIMITS.items()}
    measured = matmul_rate(bench.device)
    achieved = statistics.median(rates["forward"]) * forward_flop(bench.files.config) / 1e12
    return {
        "images_per_second": {name: statistics.median(values) for name, values in rates.items()},
        "ratios": ratios,
        "limits": limits,
        "holds": {name: ratios[name] >= limit for name, limit in limits.items()},
        "forward_tflops": achieved,
        "matmul_tflops": measured,
    }


def main() -> None:
    """Measure, and print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--teacher", default=os.environ.get("MEDAL_TEACHER", SHARED / "teachers/dinov2-small"))
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a smoke test on small parts, figures of no worth")
    asked = parser.parse_args()
    if asked.quick:
        vars(asked).update(images=16, batch_size=2, rounds=1)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(asked, Path(folder))
        rates = race(bench)
        kind = torch.cuda.get_device_name() if bench.device == "cuda" else torch.backends.cpu.get_cpu_capability()
        figures = {
            "teacher_name": bench.files.name,
            "device": f"{bench.device} ({kind})",
            "threads": torch.get_num_threads(),
            "precision": bench.precision,
            "batch_size": bench.batch,
            "images": asked.images,
            "rounds": asked.rounds,
            "torch": torch.__version__,
            **figures_of(bench, rates),
        }
    print(f"{figures['teacher_name']}, {figures['device']}, {figures['threads']} threads, {figures['precision']}")
    for name, rate in figures["images_per_second"].items():
        print(f"{name:<24} {rate:8.1f} images/s")
    for name, value in figures["ratios"].items():
        limit = figures["limits"].get(name)
        verdict = f"(at least {limit}: {VERDICTS[figures['holds'][name]]})" if limit else ""
        print(f"{name:<24} {value:8.3f}   {verdict}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
