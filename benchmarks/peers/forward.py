"""The teacher's forward pass of medal beside that of other runtimes: processor time, agreement, and what a probe says.

    pip install openvino onnxruntime onnx onnxscript      # each as you like: a peer that is not there is left out
    python benchmarks/peers/forward.py [--teacher PATH] [--rounds 5] [--probe DATASET] [--quick]

* medal: `Teacher.features` in fp32, and in bf16 where the chip is fast at it;
* transformers: the model as it is loaded, fp32, a batch of 32 and batches of 4, as medal splits it;
* openvino: the same model converted by OpenVINO, fp32;
* onnxruntime, onnxruntime int8: its ONNX file, and the same with dynamically quantised weights, per channel.

All have one thread and the same pixels in memory, and take turns in each round. A ratio is the median over the rounds
of transformers' processor time (batch of 32) over the peer's. `--probe` gives real images: each peer's features of a
part of the set's train images teach a logistic regression, and the AUROC on its test images is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from medal.pipeline.datasets.opening import open_dataset
from medal.pipeline.features.loading import load_batch
from medal.pipeline.metrics.scores import score
from medal.pipeline.teacher.demo import tiny_teacher
from medal.pipeline.teacher.files import default_preprocessing, locate_teacher
from medal.pipeline.teacher.teacher import Teacher, precision_for
from medal.pipeline.views.preprocessing import Preprocessing
from medal.pipeline.views.transforms import normalise

SHARED = Path(os.environ.get("MEDAL_SHARED", Path(__file__).resolve().parents[3] / "shared"))
BATCH, FEW = 32, 4
LIBRARIES = ("torch", "transformers", "openvino", "onnxruntime")

Features = npt.NDArray[np.float32]
Forward = Callable[[Tensor], Features]


class Tokens(nn.Module):
    """transformers' model as one tensor in, one out."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (B, 3, S, S) to (B, T, D)."""
        return self.model(pixel_values=inputs).last_hidden_state


def join(tokens: npt.NDArray[Any]) -> Features:
    """Return the recipe cls+mean, (B, 2 D); the peers' model has no registers."""
    return np.concatenate([tokens[:, 0], tokens[:, 1:].mean(1)], 1)


def find_peers(asked: argparse.Namespace, folder: Path) -> dict[str, Forward]:
    """Return medal's forward pass and those of the peers that are installed: pixels 0…255 to features."""
    from transformers import AutoModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    files = locate_teacher(str(tiny_teacher(folder) if asked.quick else asked.teacher))
    spec = default_preprocessing(files, image_size=asked.image_size)
    plain = Tokens(AutoModel.from_pretrained(files.folder, local_files_only=True, attn_implementation="sdpa").eval())

    def normal(forward: Callable[[Tensor], npt.NDArray[Any]], at_once: int = BATCH) -> Forward:
        def run(pixels: Tensor) -> Features:
            parts = normalise(pixels, spec.mean, spec.std).split(at_once)
            return np.concatenate([join(forward(part)) for part in parts])

        return run

    @torch.inference_mode()
    def eager(inputs: Tensor) -> npt.NDArray[Any]:
        return plain(inputs).numpy()

    peers = {"transformers": normal(eager), f"transformers, {FEW} at once": normal(eager, FEW)}
    for precision in sorted({"fp32", precision_for("auto", "cpu")}, reverse=True):
        medal = Teacher.load(files, feature="cls+mean", precision=precision, device="cpu")
        peers[f"medal {precision}"] = lambda pixels, medal=medal: medal.features(pixels, spec)
    example = torch.zeros(FEW, 3, asked.image_size, asked.image_size)
    if find_spec("openvino"):
        peers["openvino"] = normal(openvino(plain, example), FEW)
    if find_spec("onnxruntime") and find_spec("onnxscript"):
        for name, forward in onnx(plain, example, folder).items():
            peers[name] = normal(forward, FEW)
    return peers


def openvino(plain: nn.Module, example: Tensor) -> Callable[[Tensor], npt.NDArray[Any]]:
    """Return OpenVINO's forward pass, in fp32 on one thread."""
    import openvino as ov

    converted = ov.convert_model(plain, example_input=example, input=[example.shape])
    settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    compiled = ov.Core().compile_model(converted, "CPU", settings)
    return lambda inputs: compiled([inputs.numpy()])[0]


def onnx(plain: nn.Module, example: Tensor, folder: Path) -> dict[str, Callable[[Tensor], npt.NDArray[Any]]]:
    """Return ONNX Runtime's forward passes, in fp32 and with int8 weights, on one thread."""
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic

    exact, quantised = folder / "teacher.onnx", folder / "teacher-int8.onnx"
    torch.onnx.export(plain, (example,), exact, dynamo=True, verbose=False)
    quantize_dynamic(exact, quantised, per_channel=True, weight_type=QuantType.QInt8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    made = {}
    for name, path in {"onnxruntime": exact, "onnxruntime int8": quantised}.items():
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        (given,) = session.get_inputs()
        made[name] = lambda inputs, session=session, given=given.name: session.run(None, {given: inputs.numpy()})[0]
    return made


def race(peers: dict[str, Forward], pixels: Tensor, rounds: int) -> dict[str, dict[str, float]]:
    """Let all take turns and return, of each, milliseconds an image and ratios to transformers' batch of 32."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in peers}
    for forward in peers.values():
        forward(pixels)
    for _ in range(rounds):
        for name, forward in peers.items():
            wall, cpu = time.perf_counter(), time.process_time()
            forward(pixels)
            seconds[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    found = {}
    for name, own in seconds.items():
        both = list(zip(seconds["transformers"], own, strict=True))
        found[name] = {
            "cpu_ms": round(statistics.median(cpu for cpu, _ in own) / len(pixels) * 1e3, 1),
            "ratio_cpu": round(statistics.median(plain[0] / peer[0] for plain, peer in both), 3),
            "ratio_wall": round(statistics.median(plain[1] / peer[1] for plain, peer in both), 3),
        }
    return found


def read_images(spec: str, side: int, count: int) -> dict[str, tuple[Tensor, npt.NDArray[np.int64]]]:
    """Return pixels and labels of the first images of train and test."""
    dataset = open_dataset(spec)
    found = {}
    for code, name in enumerate(("train", "val", "test")):
        rows = np.flatnonzero(dataset.split == code)[:count]
        if name != "val":
            with ThreadPoolExecutor(1) as reader:
                loaded = load_batch(dataset, rows, Preprocessing(image_size=side), reader)
            found[name] = loaded.pixels, np.asarray(dataset.label)[rows]
    return found


def probe(forward: Forward, images: dict[str, tuple[Tensor, npt.NDArray[np.int64]]]) -> float:
    """Return the test AUROC of a logistic regression on a peer's features."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    part = {
        split: np.concatenate([forward(batch) for batch in torch.split(pixels, BATCH)])
        for split, (pixels, _) in images.items()
    }
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    model.fit(part["train"].astype(np.float16), images["train"][1])
    logits = model.predict_log_proba(part["test"].astype(np.float16))
    return float(score(logits, images["test"][1], "multiclass", list(map(str, model.classes_))).auroc)


def cosines(one: Features, other: Features) -> dict[str, float]:
    """Return the mean and the least cosine between two peers' features of the same images."""
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    cosine = (one.astype(np.float64) * other).sum(1) / lengths
    return {"mean_cosine": round(float(cosine.mean()), 6), "min_cosine": round(float(cosine.min()), 6)}


def main() -> None:
    """Measure, and print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--teacher", default=os.environ.get("MEDAL_TEACHER", SHARED / "teachers/dinov2-small"))
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--probe", help="DATASET, as of medal cache-teacher")
    parser.add_argument("--images", type=int, default=400, help="of each split, for --probe")
    parser.add_argument("--quick", action="store_true", help="a smoke test on small parts, figures of no worth")
    asked = parser.parse_args()
    if asked.quick:
        vars(asked).update(image_size=28, rounds=1, images=32)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        peers = find_peers(asked, Path(folder))
        images = read_images(asked.probe, asked.image_size, asked.images) if asked.probe else None
        drawn = torch.rand(BATCH, 3, *[asked.image_size] * 2, generator=torch.Generator().manual_seed(0))
        pixels = images["test"][0][:BATCH] if images else 255 * drawn
        plain = peers["transformers"](pixels)
        agree = {name: cosines(forward(pixels), plain) for name, forward in peers.items()}
        raced = race(peers, pixels, asked.rounds)
        auroc = {name: probe(forward, images) for name, forward in peers.items()} if images else {}
    told = {
        name: raced[name] | agree[name] | ({"probe_auroc": round(auroc[name], 4)} if images else {}) for name in peers
    }
    chip = torch.backends.cpu.get_cpu_capability()
    for name, figures in told.items():
        print(f"{name:<26}", "  ".join(f"{key} {value}" for key, value in figures.items()))
    print(
        json.dumps(
            {
                "script": "peers/forward.py",
                "teacher": Path(asked.teacher).name,
                "image_size": asked.image_size,
                "device": f"cpu ({chip})",
                "oneDNN": os.environ.get("ONEDNN_MAX_CPU_ISA", "as the chip is"),
                "probe": None if asked.probe is None else Path(asked.probe).name,
                "versions": {name: version(name) for name in LIBRARIES if find_spec(name)},
                "peers": told,
            }
        )
    )


if __name__ == "__main__":
    main()
