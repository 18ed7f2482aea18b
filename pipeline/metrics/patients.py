"""One answer per patient, computed from the answers for each of their images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..datasets.columns.aggregate import Aggregate, PatientRule
from ..datasets.columns.dataset import UNKNOWN_BIT, UNKNOWN_CLASS, Task
from .scores import known, probabilities

__all__ = ["Patients", "by_patient", "pool"]

_TOP = 3
# The logit of a probability is kept finite.
_LEAST = 1e-15

Array = npt.NDArray[Any]
_POOLS: Mapping[str, Callable[[Array], Array]] = {
    "mean": lambda p: p.mean(0),
    "max": lambda p: p.max(0),
    "noisy-or": lambda p: -np.expm1(np.log1p(-np.minimum(p, 1 - _LEAST)).sum(0)),
    "top3": lambda p: np.sort(p, 0)[-_TOP:].mean(0),
}


@dataclass(frozen=True, eq=False)
class Patients:
    """Answers and labels of patients, as logits (P, C) float64 and labels of the task's kind.

    Attributes
    ----------
    mixed : patients whose images are of several classes, so that they have no label
    """

    logits: npt.NDArray[np.float64]
    label: Array
    mixed: int


def by_patient(
    logits: Array, labels: Array, patient: Array, task: Task, classes: Sequence[str], rule: PatientRule
) -> Patients:
    """Combine the rows of each patient into one.

    Parameters
    ----------
    logits : (N, C), before temperature
    labels : (N,) class index, -1 unknown; or (N, C) of 0/1, 255 unknown. A label is a patient's if an image has it
    patient : (N,) number of each row's patient
    """
    order = np.argsort(patient, kind="stable")
    starts = np.flatnonzero(np.diff(patient[order])) + 1
    parts = np.split(order, starts)
    ranked = rule.rank(classes)
    pooled = pool(probabilities(logits, task), parts, task, rule.aggregate)
    if task == "multilabel":
        label = np.array([_any_label(labels[rows]) for rows in parts], np.uint8)
        return Patients(np.log(pooled) - np.log1p(-pooled), label, 0)
    found = [_one_class(labels[rows], task, ranked) for rows in parts]
    label = np.array([UNKNOWN_CLASS if one is None else one for one in found], np.int32)
    return Patients(np.log(pooled), label, sum(one is None for one in found))


def pool(probability: Array, parts: Sequence[Array], task: Task, how: Aggregate) -> npt.NDArray[np.float64]:
    """Return the probability (P, C) of each part of the rows (N, C)."""
    pooled = np.array([_POOLS[how](probability[rows]) for rows in parts]).reshape(len(parts), probability.shape[1])
    pooled = np.clip(pooled, _LEAST, 1 - _LEAST)
    result: npt.NDArray[np.float64] = pooled / pooled.sum(1, keepdims=True) if task == "multiclass" else pooled
    return result


def _one_class(labels: Array, task: Task, ranked: Sequence[int]) -> int | None:
    """Return the class of a patient: -1 where no image has one, None where they differ and no finding decides."""
    there = np.unique(labels[known(labels, task)])
    if len(there) > 1:
        return next((one for one in ranked if one in there), None)
    return int(there[0]) if len(there) else UNKNOWN_CLASS


def _any_label(labels: Array) -> Array:
    """Return the labels (L,) of a patient: 1 if any image has it, 255 if none does and one is unknown."""
    unsure = np.where((labels == UNKNOWN_BIT).any(0), UNKNOWN_BIT, 0)
    return np.where((labels == 1).any(0), 1, unsure)
