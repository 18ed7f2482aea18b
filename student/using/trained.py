"""A finished run, opened for use: the student in float32, its preprocessing, and its calibration temperature."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ...cache.errors import StudentError, TeacherError
from ...pipeline.datasets.columns.aggregate import PatientRule
from ...pipeline.datasets.columns.dataset import DatasetOptions, Task
from ...pipeline.datasets.columns.reading import with_slices
from ...pipeline.metrics import Temperature, probabilities
from ...pipeline.views.preprocessing import Preprocessing
from ...pipeline.views.transforms import normalise
from ..figures.temperature import calibrate
from ..network.images import PixelSource
from ..network.likeness import Likeness, read_likeness
from ..network.model import CONFIG, WEIGHTS, build_model, describe_model
from ..network.speed import pick_device
from ..run import folder
from ..run.predictions import Predictions, read_predictions

__all__ = ["NOTICE", "Trained", "open_run", "own_rule"]

NOTICE = "Research software, not a medical device."
_BATCH = 128
_TIMED = 8


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A student, ready for predictions.

    Attributes
    ----------
    architecture : its name in timm
    model : in float32, for evaluation
    preprocessing : size, resize policy, intensity, window, mean and std that it was trained with
    description : run.json
    recorded : the run's own predictions, by split
    likeness : the distribution of train's embeddings; None in a run of an older medal
    """

    run: Path
    architecture: str
    model: nn.Module
    device: str
    task: Task
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    description: Mapping[str, Any]
    recorded: Mapping[str, Predictions]
    likeness: Likeness | None = None

    @cached_property
    def temperature(self) -> Temperature:
        """The temperature with the least log-loss on the run's val predictions."""
        return calibrate(self.recorded, self.task)

    @property
    def options(self) -> DatasetOptions:
        """How images are to be read, as in training."""
        options = DatasetOptions(intensity=self.preprocessing.intensity, window=self.preprocessing.window)
        return with_slices(options, self.description.get("request", {}).get("reading", {}))

    def answer(self, source: PixelSource, count: int) -> npt.NDArray[np.float32]:
        """Return the logits of `count` images, (N, C) float32."""
        edges = range(0, count, _BATCH)
        batches = [np.arange(start, min(start + _BATCH, count)) for start in edges]
        found = [self.logits(pixels) for pixels in source.batches(batches)]
        return np.concatenate(found) if found else np.zeros((0, len(self.classes)), np.float32)

    def seconds(self, count: int) -> float:
        """Return about how long `count` images take, from a short measurement; decoding is not in it."""
        size = self.preprocessing.image_size
        pixels = torch.zeros(min(_TIMED, max(1, count)), 3, size, size)
        self.logits(pixels)  # kernels are chosen, memory is got
        start = time.perf_counter()
        self.logits(pixels)
        return (time.perf_counter() - start) / len(pixels) * count

    def probabilities(self, pixels: torch.Tensor) -> npt.NDArray[np.float64]:
        """Return the calibrated probabilities (B, C) of pixels (B, 3, S, S) in 0…255."""
        return probabilities(self.logits(pixels), self.task, self.temperature.value)

    def logits(self, pixels: torch.Tensor) -> npt.NDArray[np.float32]:
        """Return the logits (B, C) float32 of pixels (B, 3, S, S) in 0…255."""
        with torch.inference_mode():
            images = normalise(pixels.to(self.device), self.preprocessing.mean, self.preprocessing.std)
            return np.asarray(self.model(images).float().cpu().numpy())


def open_run(run: Path, device: str = "auto") -> Trained:
    """Open a finished run, or a member of one; weights are read from safetensors and nothing there is executed.

    Parameters
    ----------
    run : RUN, or for instance RUN/baseline, RUN/seed-1 or RUN/domain-NAME

    Raises
    ------
    StudentError
        It is no finished run of medal, or its files do not fit together.
    """
    description, config = describe(run), _read_json(run / CONFIG)
    try:
        own = config["pretrained_cfg"]
        request = description["request"]
        classes, architecture = tuple(map(str, description["classes"])), str(config["architecture"])
        preprocessing = Preprocessing(
            image_size=own["input_size"][-1],
            resize=description["resize"],
            intensity=request["intensity"],
            mean=own["mean"],
            std=own["std"],
            window=request["window"],
        )
        task, outputs = description["task"], config["num_classes"]
    except (KeyError, TypeError, IndexError, TeacherError) as error:
        raise StudentError(
            f"'{run}' cannot be used: its {folder.RUN} and {CONFIG} are not as medal writes them ({error!r:.200}). "
            "Train it again, or ask for a complete copy."
        ) from error
    if task not in get_args(Task) or outputs != len(classes):
        raise StudentError(
            f"'{run}' cannot be used: {folder.RUN} says {task} with {len(classes)} classes, {CONFIG} says {outputs} "
            "outputs. Ask for a whole copy of the run."
        )
    # The size that the architecture is built for comes from timm, the size that the run is for from its own files.
    spec = replace(describe_model(architecture, "random"), mean=preprocessing.mean, std=preprocessing.std)
    device = pick_device(device)
    model = build_model(spec, str(run), len(classes), preprocessing.image_size)
    return Trained(
        run=run,
        architecture=architecture,
        model=model.eval().requires_grad_(False).to(device),
        device=device,
        task=task,
        classes=classes,
        preprocessing=preprocessing,
        description=description,
        recorded=read_predictions(run),
        likeness=read_likeness(run / folder.LIKENESS),
    )


def own_rule(trained: Trained) -> PatientRule:
    """Return how images make a patient in the run's own figures."""
    request = trained.description.get("request", {})
    return PatientRule(request.get("aggregate", "mean"), tuple(request.get("finding", ())))


def describe(run: Path) -> dict[str, Any]:
    """Return run.json as it is for a folder's own student: a member's α, T and loss are those of its member.json.

    Raises
    ------
    StudentError
        There is no finished run, or no student in this folder of it.
    """
    place = folder.find_description(run)
    if place is None:
        raise StudentError(_unfinished(run))
    description = _read_json(place)
    parts = description.get("domains")
    if place.parent == run.absolute() and isinstance(parts, dict) and parts:
        one = next((str(part["folder"]) for part in parts.values() if isinstance(part, dict) and "folder" in part), "")
        raise StudentError(
            f"'{run}' has one student for each of {len(parts)} domains held out; give one of its folders, for "
            f"instance '{run / one}'."
        )
    missing = [name for name in (CONFIG, WEIGHTS, folder.PREDICTIONS) if not (run / name).is_file()]
    if missing:
        raise StudentError(f"The run '{run}' has no {', '.join(missing)}; ask for a whole copy of it.")
    if place.parent != run.absolute() and (run / folder.MEMBER).is_file():
        own = _read_json(run / folder.MEMBER)
        description |= {name: own[name] for name in ("alpha", "temperature", "loss") if name in own}
        description["target"] = "none" if own.get("alpha") == 0 else description.get("target")
    return description


def _unfinished(run: Path) -> str:
    work = folder.work_folder(run)
    if work.is_dir():
        return f"'{run}' is not finished yet (its work is in '{work}'); finish it with the same train-student command."
    there = "is not a finished run of medal" if run.exists() else "is not there"
    return f"'{run}' {there}; expected the folder that train-student made with --out, or one of a member in it."


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StudentError(f"'{path}' cannot be read: {error}. Ask for a whole copy of the run.") from error
    if not isinstance(value, dict):
        raise StudentError(f"'{path}' is not the JSON object that medal writes. Ask for a whole copy of the run.")
    return value
