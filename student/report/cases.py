"""The images to look at first: where student and teacher say the most different things, and the surest errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...pipeline.metrics import probabilities
from .collecting import Recorded

__all__ = ["Case", "find_disagreements", "find_errors"]


@dataclass(frozen=True)
class Case:
    """One image.

    Attributes
    ----------
    key : content key, in hex
    label : what it is said to be, in words; of a multi-label image, of the label in question
    student, teacher : what either says, in words, with its probability
    student_right, teacher_right : None where the label is unknown
    distance : from 0 to 1. Of a disagreement, the total variation distance of their probabilities (of a multi-label
        image the largest difference); of an error, 1 minus the student's probability of what is right
    """

    key: str
    label: str
    student: str
    teacher: str
    student_right: bool | None
    teacher_right: bool | None
    distance: float


def find_disagreements(run: Recorded, most: int) -> list[Case]:
    """Return the images on which the students, all seeds together, and the teacher disagree most, the most first."""
    if run.teacher is None:
        return []
    student, teacher = _answers(run)
    apart = np.abs(student - teacher)  # (N, C)
    if run.task == "multiclass":
        distance = apart.sum(1) / 2
        rows = _worst(distance, most)
        return [_one_class(run, row, student[row], teacher[row], float(distance[row])) for row in rows]
    rows = _worst(apart.max(1), most)
    column = apart.argmax(1)
    return [
        _label(run, row, int(column[row]), student[row], teacher[row], float(apart[row, column[row]])) for row in rows
    ]


def find_errors(run: Recorded, of_each: int) -> list[Case]:
    """Return the errors that the students, all seeds together, are surest of: so many of each class (or label)."""
    if run.teacher is None:
        return []
    student, teacher = _answers(run)
    if run.task == "multiclass":
        known = np.flatnonzero(run.rows.label >= 0)
        off = np.zeros(len(student))
        off[known] = 1 - student[known, run.rows.label[known]]
        wrong = student.argmax(1) != run.rows.label
        return [
            _one_class(run, row, student[row], teacher[row], float(off[row]))
            for kind in range(len(run.classes))
            for row in _worst(np.where(wrong & (run.rows.label == kind), off, 0.0), of_each)
            if wrong[row] and run.rows.label[row] == kind
        ]
    off = np.where(run.rows.label <= 1, np.abs(student - run.rows.label), 0.0)
    return [
        _label(run, row, column, student[row], teacher[row], float(off[row, column]))
        for column in range(len(run.classes))
        for row in _worst(off[:, column], of_each)
        if off[row, column] > 0.5
    ]


def _answers(run: Recorded) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the probabilities (N, C) of the student, the mean over its seeds, and of the teacher."""
    if run.teacher is None:
        raise ValueError("a run without a teacher has no answers of one")
    student = np.mean([probabilities(one, run.task) for one in run.logits["student"]], axis=0)
    return student, probabilities(run.teacher.logits, run.task)


def _worst(distance: npt.NDArray[np.float64], most: int) -> Sequence[int]:
    # Stable, and rounded: equal distances stand in the order of their keys on every machine.
    order: list[int] = np.argsort(-distance.round(9), kind="stable")[:most].tolist()
    return order


def _one_class(
    run: Recorded, row: int, student: npt.NDArray[np.float64], teacher: npt.NDArray[np.float64], distance: float
) -> Case:
    label, said = int(run.rows.label[row]), (int(student.argmax()), int(teacher.argmax()))
    right = [None if label < 0 else one == label for one in said]
    words = [f"{run.classes[one]} ({p[one]:.2f})" for one, p in zip(said, (student, teacher), strict=True)]
    name = "unknown" if label < 0 else run.classes[label]
    return Case(run.rows.key[row].tobytes().hex(), name, words[0], words[1], right[0], right[1], distance)


def _label(
    run: Recorded,
    row: int,
    column: int,
    student: npt.NDArray[np.float64],
    teacher: npt.NDArray[np.float64],
    distance: float,
) -> Case:
    label, name = int(run.rows.label[row, column]), run.classes[column]
    each = [float(one[column]) for one in (student, teacher)]
    right = [None if label > 1 else (one > 0.5) == (label == 1) for one in each]
    words = [f"{'yes' if one > 0.5 else 'no'} ({one:.2f})" for one in each]
    truth = {0: "no", 1: "yes"}.get(label, "unknown")
    key = run.rows.key[row].tobytes().hex()
    return Case(key, f"{name}: {truth}", words[0], words[1], right[0], right[1], distance)
