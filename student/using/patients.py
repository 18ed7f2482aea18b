"""One answer per patient, from a student's answers for images."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...cache.errors import DataError
from ...cache.machine.drafts import write_file
from ...pipeline.datasets.columns.aggregate import Aggregate
from ...pipeline.datasets.columns.dataset import Place
from ...pipeline.datasets.columns.patients import group_by_pattern
from ...pipeline.datasets.pixels.listing import Listing
from ...pipeline.metrics import pool
from .prediction import Answers, as_text, decide

__all__ = ["PatientAnswers", "answer_patients", "name_patients", "write_patients"]

_CODE = 16  # digits of the code for a PatientID, which is shown nowhere; with 8, two of 10,000 patients may share one


def name_patients(listing: Listing, pattern: str | None) -> dict[Place, str]:
    """Return the patient of each image: by a pattern in its path, by DICOM's PatientID, or one per file of several
    frames.

    Raises
    ------
    DataError
        Patients cannot be determined.
    """
    images = listing.images
    if pattern is not None:
        names, _ = group_by_pattern(listing.names, pattern, "the images named")
    elif listing.patients:
        names = [code.hex()[:_CODE] for code in listing.patients]
    elif len(listing.place) > len(set(listing.place.tolist())):
        names = list(listing.names)
    else:
        raise DataError(
            "It is not known which images belong to one patient: there is no DICOM PatientID, and no file with several "
            r"frames; give --group-pattern, for instance --group-pattern '([^/]+)/[^/]+$' if each patient has a folder."
        )
    # An image of nobody stands for itself.
    each = [names[file] or listing.names[file] for file in listing.place.tolist()]
    return {images.locate(row): name for row, name in enumerate(each)}


@dataclass(frozen=True, eq=False)
class PatientAnswers:
    """A student's answers for patients.

    Attributes
    ----------
    names : (P,) of the patients, in the order of their first images
    first : (P,) file of each one's first image
    images : (P,) how many images of each were answered
    probability : (P, C) calibrated
    """

    classes: tuple[str, ...]
    names: tuple[str, ...]
    first: tuple[str, ...]
    images: tuple[int, ...]
    probability: npt.NDArray[np.float64]
    decisions: tuple[str, ...]

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return one object a patient, for JSON."""
        columns = (self.names, self.images, self.first, self.decisions, self.probability)
        return [
            {
                "group": name,
                "images": count,
                "first": first,
                "prediction": decision,
                "probability": dict(zip(self.classes, probability.tolist(), strict=True)),
            }
            for name, count, first, decision, probability in zip(*columns, strict=True)
        ]


def answer_patients(answers: Answers, patient: Mapping[Place, str], how: Aggregate) -> PatientAnswers:
    """Make one answer of the calibrated probabilities of each patient's images."""
    rows: dict[str, list[int]] = {}
    for row, place in enumerate(answers.places):
        rows.setdefault(patient[place], []).append(row)
    parts = [np.array(part) for part in rows.values()]
    probability = pool(answers.probability, parts, answers.task, how)
    return PatientAnswers(
        classes=answers.classes,
        names=tuple(rows),
        first=tuple(answers.places[part[0]].file for part in parts),
        images=tuple(map(len, parts)),
        probability=probability,
        decisions=tuple(decide(probability, answers.task, answers.classes)),
    )


def write_patients(path: Path, found: PatientAnswers) -> None:
    """Write a table: ``group``, ``images``, ``first``, ``prediction``, ``probability:CLASS`` …, in one step."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["group", "images", "first", "prediction", *(f"probability:{name}" for name in found.classes)])
    columns = (found.names, found.images, found.first, found.decisions, found.probability)
    for name, count, first, decision, probability in zip(*columns, strict=True):
        writer.writerow([as_text(name), count, as_text(first), decision, *(f"{value:.6g}" for value in probability)])
    write_file(path, text.getvalue().encode())
