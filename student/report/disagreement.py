"""The images of which student and teacher say the most different things: where to look first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...pipeline.metrics import probabilities
from .collecting import Recorded

__all__ = ["Disagreement", "find_disagreements"]


@dataclass(frozen=True)
class Disagreement:
    """One image.

    Attributes
    ----------
    key : content key, in hex
    label : what it is said to be, in words; of a multi-label image, of the label they disagree on
    student, teacher : what either says, in words, with its probability
    student_right, teacher_right : None where the label is unknown
    distance : total variation distance of their probabilities, of a multi-label image the largest difference; in 0…1
    """

    key: str
    label: str
    student: str
    teacher: str
    student_right: bool | None
    teacher_right: bool | None
    distance: float


def find_disagreements(run: Recorded, most: int) -> list[Disagreement]:
    """Return the images on which the students, all seeds together, and the teacher disagree most, the most first."""
    if run.teacher is None:
        return []
    logits = run.logits
    student = np.mean([probabilities(one, run.task) for one in logits["student"]], axis=0)
    teacher = probabilities(run.teacher.logits, run.task)
    apart = np.abs(student - teacher)  # (N, C)
    if run.task == "multiclass":
        distance = apart.sum(1) / 2
        rows = _worst(distance, most)
        return [_one_class(run, row, student[row], teacher[row], float(distance[row])) for row in rows]
    rows = _worst(apart.max(1), most)
    return [_label(run, row, int(apart[row].argmax()), student[row], teacher[row]) for row in rows]


def _worst(distance: npt.NDArray[np.float64], most: int) -> Sequence[int]:
    # Stable, and rounded: equal distances stand in the order of their keys on every machine.
    order: list[int] = np.argsort(-distance.round(9), kind="stable")[:most].tolist()
    return order


def _one_class(
    run: Recorded, row: int, student: npt.NDArray[np.float64], teacher: npt.NDArray[np.float64], distance: float
) -> Disagreement:
    label, said = int(run.rows.label[row]), (int(student.argmax()), int(teacher.argmax()))
    right = [None if label < 0 else one == label for one in said]
    words = [f"{run.classes[one]} ({p[one]:.2f})" for one, p in zip(said, (student, teacher), strict=True)]
    name = "unknown" if label < 0 else run.classes[label]
    return Disagreement(run.rows.key[row].tobytes().hex(), name, words[0], words[1], right[0], right[1], distance)


def _label(
    run: Recorded, row: int, column: int, student: npt.NDArray[np.float64], teacher: npt.NDArray[np.float64]
) -> Disagreement:
    label, name = int(run.rows.label[row, column]), run.classes[column]
    each = [float(one[column]) for one in (student, teacher)]
    right = [None if label > 1 else (one > 0.5) == (label == 1) for one in each]
    words = [f"{'yes' if one > 0.5 else 'no'} ({one:.2f})" for one in each]
    truth = {0: "no", 1: "yes"}.get(label, "unknown")
    key = run.rows.key[row].tobytes().hex()
    return Disagreement(key, f"{name}: {truth}", words[0], words[1], right[0], right[1], abs(each[0] - each[1]))
