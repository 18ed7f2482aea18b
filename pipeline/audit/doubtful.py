"""Doubtful labels: confident learning on the out-of-fold logits (Northcutt, Jiang and Chuang, JAIR 70, 2021).

Their equations are followed and cleanlab, the authors' package, is not used: its licence is the AGPL.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..metrics import known, probabilities
from .findings import Advice, Finding, count_of
from .subject import Subject

__all__ = ["Confident", "confident_learning", "find_doubtful", "label_margin"]

_MOST_ADVICE = 1_000


@dataclass(frozen=True, eq=False)
class Confident:
    """Result of confident learning.

    Attributes
    ----------
    thresholds : (C,) mean probability of a class over the rows that are labelled with it (equation 2); infinite where
        there are none
    joint : (C, C) int64, rows labelled i that are confidently j: the confident joint (equation 1)
    suggested : (N,) int64 the class that a row is confidently of, -1 where none
    errors : estimated number of wrong labels: N times the off-diagonal of the calibrated joint (equation 3)
    """

    thresholds: npt.NDArray[np.float64]
    joint: npt.NDArray[np.int64]
    suggested: npt.NDArray[np.int64]
    errors: float


def confident_learning(probability: npt.NDArray[np.float64], label: npt.NDArray[Any]) -> Confident:
    """Return the confident joint of labels and predictions.

    Parameters
    ----------
    probability : (N, C) of each class, from a model that has not seen the row
    label : (N,) class index, all known
    """
    n_classes = probability.shape[1]
    counts = np.bincount(label, minlength=n_classes)
    own = probability[np.arange(len(label)), label]
    means = np.bincount(label, weights=own, minlength=n_classes)
    thresholds = np.divide(means, counts, out=np.full(n_classes, np.inf), where=counts > 0)
    # A mean is rounded: of rows that are all alike none may fall below it for that.
    confident = probability >= thresholds - 1e-12  # (N, C)
    best = np.where(confident, probability, -1.0).argmax(1)
    suggested = np.where(confident.any(1), best, -1)
    counted = suggested >= 0
    joint = np.zeros((n_classes, n_classes), np.int64)
    np.add.at(joint, (label[counted], suggested[counted]), 1)
    in_row = joint.sum(1, keepdims=True)
    share = np.divide(joint, in_row, out=np.eye(n_classes), where=in_row > 0)
    calibrated = share * counts[:, None]
    return Confident(thresholds, joint, suggested, float(calibrated.sum() - np.trace(calibrated)))


def label_margin(probability: npt.NDArray[np.float64], label: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return by how much the likeliest other class exceeds the label, (N,) in -1…1: the negated normalised margin."""
    rows = np.arange(len(label))
    own = probability[rows, label]
    others = probability.copy()
    others[rows, label] = -1.0
    return np.asarray(others.max(1) - own)


def find_doubtful(subject: Subject) -> Finding:
    """Rank rows by how strongly a probe that has not seen them contradicts their labels."""
    in_sample = (subject.split == 0) & (subject.fold < 0)
    rows = np.flatnonzero(~in_sample)
    check = "doubtful labels"
    if in_sample.all():
        return Finding(
            check=check,
            severity="left out",
            sentence="the logits are in-sample (--folds 0): the probe has memorised the labels that it would check",
        )
    probability = probabilities(subject.logits[rows], subject.task, subject.temperature)
    if subject.task == "multiclass":
        advice, errors = _of_classes(subject, rows, probability)
    else:
        advice, errors = _of_labels(subject, rows, probability)
    advice.sort(key=lambda one: (-one.score, one.row))
    labelled = int(known(subject.label[rows], subject.task).reshape(len(rows), -1).any(1).sum())
    train = ""
    if in_sample.any():
        train = "; train is left out because its logits are in-sample (--folds 0)"
    return Finding(
        check=check,
        severity="look" if advice else "fine",
        sentence=f"{count_of(len(advice), 'label')} that the probe confidently contradicts, about {errors:.0f} of "
        f"{labelled:,} estimated wrong{train}",
        figures={"doubtful": len(advice), "estimated_errors": errors, "rows": labelled},
        advice=tuple(advice[:_MOST_ADVICE]),
    )


def _of_classes(
    subject: Subject, rows: npt.NDArray[np.int64], probability: npt.NDArray[np.float64]
) -> tuple[list[Advice], float]:
    given = known(subject.label[rows], "multiclass")
    rows, probability = rows[given], probability[given]
    label = subject.label[rows]
    if not len(rows):
        return [], 0.0
    found = confident_learning(probability, label)
    margin = label_margin(probability, label)
    advice = [
        Advice(
            row=int(rows[place]),
            say=f"labelled {subject.classes[label[place]]}, looks like {subject.classes[found.suggested[place]]} "
            f"({probability[place, found.suggested[place]]:.0%})",
            score=round(float(margin[place]), 6),
        )
        for place in np.flatnonzero((found.suggested >= 0) & (found.suggested != label)).tolist()
    ]
    return advice, found.errors


def _of_labels(
    subject: Subject, rows: npt.NDArray[np.int64], probability: npt.NDArray[np.float64]
) -> tuple[list[Advice], float]:
    """Check each label by itself, as a problem of two classes."""
    advice: list[Advice] = []
    errors = 0.0
    for column, name in enumerate(subject.classes):
        given = known(subject.label[rows, column], "multilabel")
        label = subject.label[rows[given], column].astype(np.int64)
        if len(np.unique(label)) < 2:
            continue
        both = np.stack([1 - probability[given, column], probability[given, column]], 1)
        found = confident_learning(both, label)
        margin = label_margin(both, label)
        errors += found.errors
        advice += [
            Advice(
                row=int(rows[given][place]),
                say=f"{name} is {'marked' if label[place] else 'not marked'}, and looks "
                f"{'absent' if label[place] else 'present'} ({both[place, 1 - label[place]]:.0%})",
                score=round(float(margin[place]), 6),
            )
            for place in np.flatnonzero((found.suggested >= 0) & (found.suggested != label)).tolist()
        ]
    return advice, errors
