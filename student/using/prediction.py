"""Predictions for images outside of a dataset: files, folders and DICOM, in any mixture."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ...cache.errors import DataError
from ...cache.machine.drafts import write_file
from ...cache.machine.processors import usable_processors
from ...cache.machine.system_files import is_nobodys
from ...cache.progress import Advance
from ...cache.text import plural
from ...pipeline.datasets.columns.dataset import Place, Task
from ...pipeline.datasets.pixels.files import FileImages, find_format
from ...pipeline.datasets.pixels.listing import Listing, list_images
from ...pipeline.metrics import probabilities
from ..network.images import StudentImages
from ..network.likeness import embedding_of, take_embeddings
from .trained import Trained

__all__ = ["Answers", "as_text", "decide", "find_images", "list_frames", "predict_images", "write_answers"]

# Images that are decoded at a time, and seen by the student at a time.
_BATCH = 64


@dataclass(frozen=True, eq=False)
class Answers:
    """A student's answers for images.

    Attributes
    ----------
    places : (N,) where each image is
    logits : (N, C) float32, before temperature
    probability : (N, C) float64, calibrated
    bad : a sentence for each image that has no answer
    distance : (N,) distance of each image from train; 1 is exceeded by one in a hundred of val; None if unknown
    """

    task: Task
    classes: tuple[str, ...]
    places: tuple[Place, ...]
    logits: npt.NDArray[np.float32]
    probability: npt.NDArray[np.float64]
    bad: tuple[str, ...]
    distance: npt.NDArray[np.float64] | None = None

    @property
    def unlike(self) -> list[bool] | None:
        """Whether each image is unlike train, so that its answer is worth little; None where it is not known."""
        return None if self.distance is None else [bool(one > 1) for one in self.distance]

    @property
    def decisions(self) -> list[str]:
        """The most likely class, or all labels above 0.5, of each image."""
        return decide(self.probability, self.task, self.classes)

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return one object an image, for JSON."""
        found: list[dict[str, Any]] = [
            {
                "file": place.file,
                "frame": place.frame,
                "prediction": decision,
                "probability": dict(zip(self.classes, probability.tolist(), strict=True)),
                "logits": dict(zip(self.classes, logits.tolist(), strict=True)),
            }
            for place, decision, probability, logits in zip(
                self.places, self.decisions, self.probability, self.logits, strict=True
            )
        ]
        if self.distance is not None and self.unlike is not None:
            for row, distance, unlike in zip(found, self.distance.tolist(), self.unlike, strict=True):
                row |= {"distance": distance, "unlike": unlike}
        return found


def decide(probability: npt.NDArray[np.float64], task: Task, classes: Sequence[str]) -> list[str]:
    """Return the most likely class, or all labels above 0.5, of each row (N, C)."""
    if task == "multiclass":
        return [classes[index] for index in probability.argmax(1)]
    return [";".join(name for name, yes in zip(classes, row, strict=True) if yes) for row in probability > 0.5]


def find_images(paths: Sequence[Path]) -> tuple[list[str], int]:
    """Return the image files that are named or lie in named folders, and how many other files lie in these.

    Folders are looked through to the bottom, in the order of names; what is hidden or a system's own is left out.

    Raises
    ------
    DataError
        There is none.
    """
    found: list[str] = []
    others = 0
    for path in paths:
        if not path.is_dir():
            found.append(str(path))
            continue
        for place, folders, files in os.walk(path):
            folders[:] = sorted(name for name in folders if not is_nobodys(name))
            for name in sorted(name for name in files if not is_nobodys(name)):
                if find_format(Path(place, name)) is None:
                    others += 1
                else:
                    found.append(str(Path(place, name)))
    if not found:
        named = ", ".join(f"'{path}'" for path in paths)
        raise DataError(
            f"There is no image in {named}; expected PNG, JPEG, TIFF, BMP, WebP, GIF, JPEG 2000, DICOM or NIfTI files."
        )
    return list(dict.fromkeys(found)), others


def list_frames(trained: Trained, paths: Sequence[Path]) -> tuple[Listing, list[str]]:
    """Return the images in files and folders, to be read as in training, and what to say of what is left out.

    Of DICOM and NIfTI every frame is an image, of other files the first page.

    Raises
    ------
    DataError
        There is no image.
    """
    files, others = find_images(paths)
    listing = list_images(Path(), files, replace(trained.options, window=None), "the images named")
    # Not all files need be DICOM for the run's window to be right for those that are.
    listing = listing._replace(images=replace(listing.images, window=trained.preprocessing.window))
    said = []
    if others:
        said.append(
            f"{others} {plural(others, 'file')} in these folders {plural(others, 'is', 'are')} no image: left out"
        )
    if count := len(listing.paged):
        said.append(
            f"{count} {plural(count, 'file')} {plural(count, 'holds', 'hold')} several pages or frames, "
            f"'{listing.paged[0]}' for one, and the first of each is read alone: split them into files"
        )
    return listing, said


def predict_images(trained: Trained, images: FileImages, advance: Advance) -> Answers:
    """Predict images; unreadable ones are listed, not raised.

    Parameters
    ----------
    advance : given the number of images done since the last call
    """
    reader = StudentImages(images, trained.preprocessing.image_size, trained.preprocessing.resize)
    places: list[Place] = []
    logits = [np.zeros((0, len(trained.classes)), np.float32)]
    bad: list[str] = []
    with ThreadPoolExecutor(usable_processors()) as pool, embedding_of(trained.model) as heard:
        for start in range(0, len(images), _BATCH):
            rows = range(start, min(start + _BATCH, len(images)))
            read = list(zip(rows, pool.map(reader.__getitem__, rows), strict=True))
            bad += [_named(images, row, pixels) for row, pixels in read if isinstance(pixels, str)]
            good = [(row, pixels) for row, pixels in read if not isinstance(pixels, str)]
            if good:
                batch = torch.stack([torch.from_numpy(pixels).float().expand(3, -1, -1) for _, pixels in good])
                logits.append(trained.logits(batch))
                places += [images.locate(row) for row, _ in good]
            advance(len(rows))
        known = trained.likeness if places else None
        distance = None if known is None else known.distances(take_embeddings(heard))
    answers = np.concatenate(logits)
    probability = probabilities(answers, trained.task, trained.temperature.value)
    return Answers(trained.task, trained.classes, tuple(places), answers, probability, tuple(bad), distance)


def as_text(name: str | None) -> str:
    r"""Return a file's name as valid UTF-8: invalid bytes, for example of Latin-1, become ``\xe9``."""
    return (name or "").encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def write_answers(path: Path, answers: Answers) -> int:
    """Write a table: ``file``, ``frame``, ``prediction``, ``probability:CLASS`` …, ``logit:CLASS`` …, in one step.

    Where it is known, ``distance`` from train and ``unlike``, yes or nothing, stand last.

    Returns
    -------
    How many names are no UTF-8, and stand there as `as_text` writes them
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    columns = [f"{what}:{name}" for what in ("probability", "logit") for name in answers.classes]
    apart: list[list[str]] = [[]] * len(answers.places)
    if answers.distance is not None and answers.unlike is not None:
        columns += ["distance", "unlike"]
        pairs = zip(answers.distance, answers.unlike, strict=True)
        apart = [[f"{distance:.4g}", "yes" if unlike else ""] for distance, unlike in pairs]
    writer.writerow(["file", "frame", "prediction", *columns])
    rows = zip(answers.places, answers.decisions, answers.probability, answers.logits, apart, strict=True)
    for place, decision, probability, logits, ends in rows:
        frame = "" if place.frame is None else place.frame
        writer.writerow(
            [as_text(place.file), frame, decision, *(f"{value:.6g}" for value in probability), *map(str, logits), *ends]
        )
    write_file(path, text.getvalue().encode())
    return sum(as_text(place.file) != (place.file or "") for place in answers.places)


def _named(images: FileImages, row: int, sentence: str) -> str:
    """Return what is wrong with an image, with its name if the sentence lacks it."""
    name = images.describe(row)
    return sentence if name in sentence else f"{name}: {sentence}"
