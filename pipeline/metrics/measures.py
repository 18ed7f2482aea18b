"""All figures of a set of logits: overall, per class, per domain and by rarity of classes.

Definitions are scikit-learn's; AUROC and accuracy those of `scores`, which are the medmnist Evaluator's too. With two
classes the second one is the positive one. A figure that the labels cannot define is NaN, and the classes that they
lack are left out of every mean and named. All of it is independent of the order of rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..datasets.columns.dataset import Task
from .calibration import reliability
from .grades import GRADE_FIGURES, measure_grades
from .scores import confusion_matrix, defined_mean, known, log_loss, one_against_rest, probabilities, score

__all__ = ["RARITY", "brier", "by_domain", "by_rarity", "class_counts", "mean_measures", "measure"]

# From the fewest images of train to the most.
RARITY = ("rare", "medium", "common")
_BY_DOMAIN = (
    "auroc",
    "accuracy",
    "auprc",
    "balanced_accuracy",
    "macro_f1",
    "brier",
    "calibration_error",
    "absent",
    "n",
)
_BY_RARITY = ("auroc", "auprc", "sensitivity", "specificity", "f1")

Array = npt.NDArray[Any]


def measure(
    logits: Array,
    labels: Array,
    task: Task,
    classes: Sequence[str],
    *,
    at_sensitivity: float = 0.95,
    ordinal: bool = False,
) -> dict[str, Any]:
    """Measure logits against labels.

    Parameters
    ----------
    logits : (N, C), before temperature
    labels : (N,) class index, -1 unknown; or (N, C) of 0/1, 255 unknown
    classes : the C class names, in the order of the logits' columns
    at_sensitivity : where on the ROC curve the specificity is read, in 0…1
    ordinal : classes are grades in their order

    Returns
    -------
    JSON without NaN, undefined figures None: what `Scores.to_dict` has, and

    auprc : average precision, mean over classes (two classes: of the second one)
    balanced_accuracy : mean sensitivity of classes; multi-label: mean over labels of (sensitivity + specificity) / 2
    macro_f1 : mean F1 of the classes that have rows
    brier : mean squared error of the probabilities, summed over classes and halved if they are two, as scikit-learn
        scales it; multi-label: mean over the known entries
    log_loss : in nats
    calibration_error : of the top label, 15 bins of equal mass
    specificity_at_sensitivity : the best specificity among thresholds with at least that sensitivity, mean over
        classes; the threshold is chosen on these very rows, which flatters a little
    classes : name → n (rows that have it), auroc, auprc, sensitivity, specificity, f1, specificity_at_sensitivity
    confusion : as `confusion_matrix` counts it
    kappa, mae : of grades, quadratic weighted kappa and mean absolute error
    """
    found = score(logits, labels, task, classes)
    counts = confusion_matrix(logits, labels, task)
    rates = _rates(counts, task)
    curves = _rank_classes(logits, labels, task, at_sensitivity)
    per_class = {
        name: {"auroc": found.per_class[name], **{what: float(values[c]) for what, values in (rates | curves).items()}}
        for c, name in enumerate(classes)
    }
    shown = slice(1, 2) if task == "multiclass" and len(classes) == 2 else slice(None)
    present = rates["n"] > 0
    balanced = rates["sensitivity"] if task == "multiclass" else (rates["sensitivity"] + rates["specificity"]) / 2
    whole = {
        "auprc": defined_mean(curves["auprc"][shown].tolist()),
        "balanced_accuracy": defined_mean(balanced.tolist()),
        "macro_f1": defined_mean(rates["f1"][present].tolist()),
        "brier": brier(logits, labels, task),
        "log_loss": log_loss(logits, labels, task),
        "calibration_error": reliability(logits, labels, task).error,
        "specificity_at_sensitivity": defined_mean(curves["specificity_at_sensitivity"][shown].tolist()),
        "at_sensitivity": at_sensitivity,
        "classes": per_class,
        "confusion": counts.tolist(),
    }
    if ordinal:
        whole |= measure_grades(logits, labels)
    defined: dict[str, Any] = found.to_dict() | _defined(whole)
    for row in defined["classes"].values():
        row["n"] = int(row["n"])
    return defined


def by_domain(
    logits: Array,
    labels: Array,
    domain: npt.NDArray[np.int16],
    names: Sequence[str],
    task: Task,
    classes: Sequence[str],
    *,
    ordinal: bool = False,
) -> dict[str, dict[str, Any]]:
    """Measure the rows of each domain that has any, without their classes; empty where no domain is known.

    Parameters
    ----------
    domain : (N,) index into `names`, -1 none
    """
    found = {}
    for code, name in enumerate(names):
        rows = domain == code
        if rows.any():
            whole = measure(logits[rows], labels[rows], task, classes, ordinal=ordinal)
            found[name] = {what: whole[what] for what in (*_BY_DOMAIN, *GRADE_FIGURES) if what in whole}
    return found


def by_rarity(classes: Mapping[str, Mapping[str, Any]], trained_on: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """Average the figures of classes by how many images of train they have: the rarest third, the middle, the rest.

    With two classes there is no middle, with one nothing to tell apart.

    Parameters
    ----------
    classes : name → figures, as `measure` gives them
    trained_on : name → images of train that have the class
    """
    order = sorted(classes, key=lambda name: (trained_on[name], name))
    if len(order) < 2:
        return {}
    tiers = RARITY if len(order) > 2 else (RARITY[0], RARITY[-1])
    parts = np.array_split(np.arange(len(order)), len(tiers))
    found = {}
    for tier, part in zip(tiers, parts, strict=True):
        names = [order[index] for index in part]
        means = {what: _mean([classes[name][what] for name in names]) for what in _BY_RARITY}
        found[tier] = {"classes": names, "train_images": sum(trained_on[name] for name in names), **means}
    return found


def class_counts(labels: Array, task: Task, classes: Sequence[str]) -> dict[str, int]:
    """Count the rows that have each class; unknown labels count for none."""
    if task == "multilabel":
        return {name: int((labels[:, c] == 1).sum()) for c, name in enumerate(classes)}
    return {name: int((labels == c).sum()) for c, name in enumerate(classes)}


def brier(logits: Array, labels: Array, task: Task) -> float:
    """Return the Brier score, scaled as scikit-learn does; NaN where no label is known.

    Multi-class: mean over rows of Σ over classes of (p - y)², halved with two classes, where it then is that of the
    second one (Brier 1950). Multi-label: mean over known entries of (p - y)².
    """
    errors, counts = squared_errors(probabilities(logits, task), labels, task)
    return float(errors[counts].mean()) if counts.any() else math.nan


def squared_errors(
    probability: npt.NDArray[np.float64], labels: Array, task: Task
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Return what the Brier score averages, and which of it counts, both (N, L); L = 1 for multi-class."""
    given = known(labels, task)
    if task == "multilabel":
        return (probability - (labels == 1)) ** 2, given
    truth = np.arange(probability.shape[1]) == labels[:, None]
    summed = ((probability - truth) ** 2).sum(1, keepdims=True)
    return summed / (2 if probability.shape[1] == 2 else 1), given[:, None]


def mean_measures(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the mean over seeds of measures of the same rows, figure by figure; words and names as they are."""
    return {name: _mean_of([one[name] for one in found]) for name in found[0]}


# ── Parts ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _rates(counts: npt.NDArray[np.int64], task: Task) -> dict[str, npt.NDArray[np.float64]]:
    """Return n, sensitivity, specificity and F1 of each class against the rest, (C,) float64, NaN where undefined."""
    if task == "multilabel":
        tn, fp, fn, tp = counts.reshape(len(counts), 4).T
    else:
        tp = np.diagonal(counts)
        fn, fp = counts.sum(1) - tp, counts.sum(0) - tp
        tn = counts.sum() - tp - fn - fp
    with np.errstate(invalid="ignore"):
        f1 = np.where(tp + fn > 0, 2 * tp / np.maximum(2 * tp + fp + fn, 1), np.nan)
        return {"n": (tp + fn).astype(float), "sensitivity": tp / (tp + fn), "specificity": tn / (tn + fp), "f1": f1}


def _rank_classes(
    logits: Array, labels: Array, task: Task, at_sensitivity: float
) -> dict[str, npt.NDArray[np.float64]]:
    """Return average precision, and specificity at a sensitivity, of each class against the rest, (C,) float64."""
    probability = probabilities(logits, task)
    found = np.full((2, probability.shape[1]), np.nan)
    for column, ranking in enumerate(one_against_rest(probability, labels, task)):
        if ranking.defined:
            false, true = ranking.roc()
            # Sensitivities are whole counts over one number: the shortfall allowed is far below one of them.
            reached = true >= at_sensitivity - 1e-12
            found[:, column] = ranking.average_precision(), (1 - false[reached]).max()
    return {"auprc": found[0], "specificity_at_sensitivity": found[1]}


def _defined(value: Any) -> Any:
    """Return JSON in which what is not a number is None."""
    if isinstance(value, dict):
        return {name: _defined(inner) for name, inner in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def _mean(values: Sequence[float | None]) -> float | None:
    given = [value for value in values if value is not None]
    return sum(given) / len(given) if given else None


def _mean_of(values: Sequence[Any]) -> Any:
    first = values[0]
    if isinstance(first, Mapping):
        return mean_measures(values)
    if isinstance(first, list):
        return [_mean_of(inner) for inner in zip(*values, strict=True)]
    if first is None or isinstance(first, str) or all(value == first for value in values):
        return first
    return _mean(values)
