"""Eight-bit students: static quantisation by onnxruntime, and what it costs on images with labels."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...cache.errors import DataError
from ...cache.join import image_members
from ...pipeline.datasets.columns.dataset import SPLITS, Dataset
from ...pipeline.metrics import probabilities, score
from ..network.images import StudentImages, load_images
from .evaluation import choose_rows
from .exported import METADATA, Run, open_exported
from .trained import Trained

__all__ = ["calibration_rows", "pixels_of", "price", "quantise"]

# Of train: ranges of activations no longer move noticeably after a few hundred images.
_CALIBRATION_IMAGES = 256
_BATCH = 32

Rows = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint8]
Pixels = npt.NDArray[np.float32]


def calibration_rows(trained: Trained, dataset: Dataset, key: Keys) -> Rows:
    """Return up to 256 rows of train, spread over the order of keys: never an image that the run is measured on.

    Parameters
    ----------
    key : (N, 16) the dataset's keys

    Raises
    ------
    DataError
        There is none.
    """
    free = np.ones(len(dataset), bool)
    for part in trained.recorded.values():
        free &= ~image_members(key, part.key)
    if dataset.split is not None and (dataset.split == SPLITS.index("train")).any():
        free &= dataset.split == SPLITS.index("train")
    rows = np.flatnonzero(free)
    if not len(rows):
        raise DataError(
            f"Dataset '{dataset.name}' has no train images to calibrate int8 on; give the dataset that the student was "
            "trained on."
        )
    rows = rows[np.lexsort(key[rows].T[::-1])]
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(_CALIBRATION_IMAGES, len(rows)), dtype=np.int64))]


def pixels_of(trained: Trained, dataset: Dataset, rows: Rows) -> Iterator[Pixels]:
    """Yield batches (B, 3, S, S) float32 in 0…1 of some rows."""
    images = StudentImages(dataset.images, trained.preprocessing.image_size, trained.preprocessing.resize)
    batches = [np.arange(start, min(start + _BATCH, len(rows))) for start in range(0, len(rows), _BATCH)]
    with load_images(images, {"asked": rows}, 0) as sources:
        for pixels in sources["asked"].batches(batches):
            yield (pixels / 255).numpy()


def quantise(source: Path, target: Path, batches: Sequence[Pixels], metadata: Mapping[str, Any]) -> None:
    """Write the int8 form of an ONNX file: weights per channel, activations by their ranges on calibration images."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc,unused-ignore]
        def __init__(self) -> None:
            self._left = iter(batches)

        def get_next(self) -> dict[str, Pixels] | None:
            pixels = next(self._left, None)
            return None if pixels is None else {"pixels": pixels}

    with tempfile.TemporaryDirectory(prefix="medal-") as place:
        prepared = Path(place, "prepared.onnx")
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(target),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    model = onnx.load(str(target))
    onnx.helper.set_model_props(
        model, {METADATA: json.dumps(metadata, ensure_ascii=False), "notice": metadata["notice"]}
    )
    onnx.save(model, str(target))


def price(trained: Trained, dataset: Dataset, key: Keys, *, exact: Path, int8: Path) -> dict[str, dict[str, Any]]:
    """Return the cost of int8 on val and test, if they exist: scores of both files, and how often they agree.

    Raises
    ------
    DataError
        The dataset has neither.
    """
    runs = {"float32": open_exported(exact, "onnx"), "int8": open_exported(int8, "onnx")}
    found = {}
    for split in ("val", "test"):
        try:
            chosen = choose_rows(trained, dataset, split, key)
        except DataError:
            continue
        label = dataset.label[chosen.rows]
        logits = {name: _answer(trained, dataset, chosen.rows, run) for name, run in runs.items()}
        scores = {name: score(one, label, trained.task, trained.classes) for name, one in logits.items()}
        decided = [_decide(one, trained) for one in logits.values()]
        found[split] = {
            "images": len(chosen.rows),
            **{name: {"auroc": one.auroc, "accuracy": one.accuracy} for name, one in scores.items()},
            "same_decision": float((decided[0] == decided[1]).mean()),
        }
    if not found:
        raise DataError(
            f"Dataset '{dataset.name}' has no val or test images to measure int8 on; give the dataset that the student "
            "was trained on."
        )
    return found


def _answer(trained: Trained, dataset: Dataset, rows: Rows, run: Run) -> npt.NDArray[np.float32]:
    return np.concatenate([run(pixels) for pixels in pixels_of(trained, dataset, rows)])


def _decide(logits: npt.NDArray[np.float32], trained: Trained) -> npt.NDArray[Any]:
    probability = probabilities(logits, trained.task)
    return probability.argmax(1) if trained.task == "multiclass" else probability > 0.5
