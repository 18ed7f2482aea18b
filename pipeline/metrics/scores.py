"""Scores of logits against labels: AUROC and accuracy as the medmnist package's `Evaluator` defines them.

Where the Evaluator is undefined (a class that the rows lack, or that all rows have; unknown labels), the macro mean
goes over what is left and the classes left out are named. All of it is independent of the order of rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import expit, log_expit, log_softmax, softmax

from ..datasets.columns.dataset import UNKNOWN_BIT, UNKNOWN_CLASS, Task

__all__ = [
    "Ranking",
    "Scores",
    "auroc",
    "confusion_matrix",
    "known",
    "log_loss",
    "one_against_rest",
    "or_none",
    "probabilities",
    "rankings",
    "score",
]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores of a set of logits; NaN where a figure is undefined.

    Attributes
    ----------
    auroc : mean over the classes for which it is defined; with two classes that of the second one's probability
    accuracy : share of arg-max hits, or the mean over labels of hits at 0.5
    per_class : class name → AUROC, one against the rest
    absent : classes left out of the mean, because no row or every row of known label is of them
    n : rows with a known label
    """

    auroc: float
    accuracy: float
    per_class: dict[str, float]
    absent: tuple[str, ...]
    n: int

    def to_dict(self) -> dict[str, Any]:
        """Return the scores for JSON, undefined ones as None."""
        return {
            "auroc": or_none(self.auroc),
            "accuracy": or_none(self.accuracy),
            "per_class": {name: or_none(value) for name, value in self.per_class.items()},
            "absent": list(self.absent),
            "n": self.n,
        }


@dataclass(frozen=True)
class Ranking:
    """One AUROC to compute: how well `value` (N,) float64 puts the rows `positive` above the rows `negative`."""

    value: npt.NDArray[np.float64]
    positive: npt.NDArray[np.bool_]
    negative: npt.NDArray[np.bool_]

    @property
    def defined(self) -> bool:
        """Whether there are rows on either side."""
        return bool(self.positive.any() and self.negative.any())

    @property
    def rows(self) -> npt.NDArray[np.bool_]:
        """Which rows are ranked, (N,) bool."""
        return self.positive | self.negative

    def roc(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return false and true positive rates at every threshold, from none to all, ties taken together."""
        false, true = (np.append(0.0, counts) for counts in self._counts())
        return false / false[-1], true / true[-1]

    def average_precision(self) -> float:
        """Return the area under the steps of precision over recall, as scikit-learn defines and sums it."""
        false, true = (counts[::-1] for counts in self._counts())
        recall = np.append(true / true[0], 0.0)
        return float(-np.sum(np.diff(recall) * (true / (false + true))))

    def _counts(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return false and true positives from the highest value down, at the last of equal ones."""
        positive, value = self.positive[self.rows], self.value[self.rows]
        order = np.argsort(-value, kind="stable")
        last = np.append(np.flatnonzero(np.diff(value[order])), len(value) - 1)
        true = np.cumsum(positive[order], dtype=np.float64)[last]
        return 1.0 + last - true, true


def probabilities(logits: npt.NDArray[Any], task: Task, temperature: float = 1.0) -> npt.NDArray[np.float64]:
    """Return softmax, or one sigmoid a label, of logits (N, C) over the temperature; float64, the same shape."""
    scaled = np.asarray(logits, np.float64) / temperature
    result: npt.NDArray[np.float64] = softmax(scaled, axis=-1) if task == "multiclass" else expit(scaled)
    return result


def known(labels: npt.NDArray[Any], task: Task) -> npt.NDArray[np.bool_]:
    """Return which labels are known, in the labels' own shape: (N,) or (N, L)."""
    return np.asarray(labels != (UNKNOWN_CLASS if task == "multiclass" else UNKNOWN_BIT))


def score(logits: npt.NDArray[Any], labels: npt.NDArray[Any], task: Task, classes: Sequence[str]) -> Scores:
    """Score logits against labels.

    Parameters
    ----------
    logits : (N, C), before temperature
    labels : (N,) class index, -1 unknown; or (N, C) of 0/1, 255 unknown
    classes : the C class names, in the order of the logits' columns
    """
    probability = probabilities(logits, task)
    values = [auroc(item.value, item.positive, item.negative) for item in rankings(probability, labels, task)]
    if len(values) < len(classes):  # two classes: one ranking says it for both
        values = [values[0]] * len(classes)
    hit, counts = hits(probability, labels, task)
    tested = counts.sum(0)
    return Scores(
        auroc=defined_mean(values),
        accuracy=defined_mean((hit[:, tested > 0].sum(0) / tested[tested > 0]).tolist()),
        per_class=dict(zip(classes, values, strict=True)),
        absent=tuple(name for name, value in zip(classes, values, strict=True) if math.isnan(value)),
        n=int(counts.any(1).sum()),
    )


def rankings(probability: npt.NDArray[np.float64], labels: npt.NDArray[Any], task: Task) -> list[Ranking]:
    """Return the rankings whose AUROCs make the macro mean: one a class, or a single one where there are two."""
    found = one_against_rest(probability, labels, task)
    return found[1:] if task == "multiclass" and len(found) == 2 else found


def one_against_rest(probability: npt.NDArray[np.float64], labels: npt.NDArray[Any], task: Task) -> list[Ranking]:
    """Return the ranking of each class."""
    given, columns = known(labels, task), range(probability.shape[1])
    if task == "multilabel":
        return [Ranking(probability[:, c], labels[:, c] == 1, given[:, c] & (labels[:, c] != 1)) for c in columns]
    return [Ranking(probability[:, c], labels == c, given & (labels != c)) for c in columns]


def hits(
    probability: npt.NDArray[np.float64], labels: npt.NDArray[Any], task: Task
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return which decisions are right and which count, both (N, L) bool, L = 1 for multi-class."""
    given = known(labels, task)
    if task == "multilabel":
        return given & ((probability > 0.5) == (labels == 1)), given
    # The Evaluator's rule for two classes: a tie at 0.5 is class 0, as it is for arg-max.
    decided = probability[:, 1] > 0.5 if probability.shape[1] == 2 else probability.argmax(1)
    return (given & (decided == labels))[:, None], given[:, None]


def auroc(value: npt.NDArray[np.float64], positive: npt.NDArray[np.bool_], negative: npt.NDArray[np.bool_]) -> float:
    """Return the chance that a positive row has a higher value than a negative one, ties counting half.

    Parameters
    ----------
    value : (N,)
    positive, negative : (N,) bool; rows in neither are left out

    Returns
    -------
    NaN where either side is empty
    """
    high, low = value[positive], np.sort(value[negative])
    if not len(high) or not len(low):
        return math.nan
    below = np.searchsorted(low, high, "left").sum() + np.searchsorted(low, high, "right").sum()
    return float(below / 2 / len(high) / len(low))


def log_loss(logits: npt.NDArray[Any], labels: npt.NDArray[Any], task: Task, temperature: float = 1.0) -> float:
    """Return the mean negative log-likelihood of the known labels, in nats (multi-label: mean over known entries).

    NaN where no label is known.
    """
    given = known(labels, task)
    if not given.any():
        return math.nan
    scaled = np.asarray(logits, np.float64) / temperature
    if task == "multilabel":
        return float(-log_expit(np.where(labels == 1, scaled, -scaled)[given]).mean())
    rows = np.flatnonzero(given)
    return float(-log_softmax(scaled[rows], axis=1)[np.arange(len(rows)), labels[rows]].mean())


def confusion_matrix(logits: npt.NDArray[Any], labels: npt.NDArray[Any], task: Task) -> npt.NDArray[np.int64]:
    """Count decisions among the known labels, truth by row and decision by column.

    Returns
    -------
    (C, C) int64 for multi-class; (L, 2, 2) int64, one matrix a label, for multi-label
    """
    probability = probabilities(logits, task)
    given = known(labels, task)
    n_classes = probability.shape[1]
    if task == "multilabel":
        codes = 2 * (labels == 1) + (probability > 0.5)
        counts = [np.bincount(codes[given[:, c], c], minlength=4) for c in range(n_classes)]
        return np.array(counts, np.int64).reshape(n_classes, 2, 2)
    codes = labels[given].astype(np.int64) * n_classes + probability[given].argmax(1)
    return np.bincount(codes, minlength=n_classes**2).astype(np.int64).reshape(n_classes, n_classes)


def defined_mean(values: Sequence[float]) -> float:
    """Return the mean of the values that are not NaN; NaN where all are."""
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan


def or_none(value: float) -> float | None:
    """Return a figure for JSON, which has no NaN: an undefined one is None."""
    return None if math.isnan(value) else value
