"""Figures of grades (ordered classes): they count how far decisions are off.

Both are scikit-learn's: `cohen_kappa_score(weights="quadratic")` and `mean_absolute_error` of the grades' numbers. Both
come from sums over rows, so that a resample costs one product.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ...cache.errors import DataError
from ..datasets.columns.dataset import Task
from .scores import known, probabilities

__all__ = ["GRADE_FIGURES", "check_grades", "grade_rates", "grade_rows", "measure_grades"]

GRADE_FIGURES = ("kappa", "mae")
_FEWEST = 3

Array = npt.NDArray[Any]


def check_grades(task: Task, classes: Sequence[str]) -> None:
    """Refuse labels that are not grades.

    Raises
    ------
    DataError
    """
    if task != "multiclass" or len(classes) < _FEWEST:
        raise DataError(
            f"--ordinal takes classes as grades in their order; expected one class an image, of {_FEWEST} classes or "
            f"more, got {'several labels' if task != 'multiclass' else ', '.join(classes)}: leave it out."
        )


def grade_rows(probability: Array, labels: Array) -> npt.NDArray[np.float64]:
    """Return the terms that the figures are sums of, (7, N); zero for rows of unknown label."""
    given = known(labels, "multiclass")
    true, said = labels.astype(np.float64), probability.argmax(1).astype(np.float64)
    rows = [np.ones(len(true)), true, said, true**2, said**2, (true - said) ** 2, np.abs(true - said)]
    return np.where(given, rows, 0.0)


def grade_rates(sums: Array) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return quadratic weighted kappa and mean absolute error, (b,) each, of sums (7, b) of `grade_rows`.

    Kappa is 1 − Σ (true − said)² / its expectation if truth and decision were independent: NaN where that is zero, as
    when all rows are of one grade and are told so.
    """
    count, true, said, true2, said2, squared, absolute = sums
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = true2 + said2 - 2 * true * said / count
        # Sums of whole numbers: what is left of zero is rounding.
        kappa = np.where(expected > 1e-9, 1 - squared / expected, np.nan)
        return kappa, np.where(count > 0, absolute / count, np.nan)


def measure_grades(logits: Array, labels: Array) -> dict[str, float]:
    """Return both figures of logits (N, C) against labels (N,), -1 unknown; NaN where undefined."""
    sums = grade_rows(probabilities(logits, "multiclass"), labels).sum(1, keepdims=True)
    return {name: float(value[0]) for name, value in zip(GRADE_FIGURES, grade_rates(sums), strict=True)}
