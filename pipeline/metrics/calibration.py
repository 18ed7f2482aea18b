"""Calibration of probabilities: reliability diagram, expected calibration error."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..datasets.columns.dataset import Task
from .scores import hits, probabilities

__all__ = ["Reliability", "reliability"]


@dataclass(frozen=True, eq=False)
class Reliability:
    """A reliability diagram; bins without decisions are left out.

    Attributes
    ----------
    confidence : (bins,) float64 mean probability of what was decided
    accuracy : (bins,) float64 share of decisions that were right
    count : (bins,) int64
    error : expected calibration error, the mean of |accuracy − confidence| by count; NaN without decisions
    """

    confidence: npt.NDArray[np.float64]
    accuracy: npt.NDArray[np.float64]
    count: npt.NDArray[np.int64]
    error: float


def reliability(
    logits: npt.NDArray[Any], labels: npt.NDArray[Any], task: Task, *, temperature: float = 1.0, bins: int = 15
) -> Reliability:
    """Compare top-label confidence with accuracy in bins of equal mass (multi-label: every known decision counts).

    Decisions of equal confidence share a bin, so that neither their order nor a constant classifier can feign an
    error; bins may then be fewer than asked. Bins of equal mass: Nguyen & O'Connor, EMNLP 2015.
    """
    probability = probabilities(logits, task, temperature)
    hit, counts = hits(probability, labels, task)
    top = probability.max(1, keepdims=True) if task == "multiclass" else np.maximum(probability, 1 - probability)
    confidence, right = top[counts], hit[counts]
    if not len(confidence):
        empty = np.zeros(0)
        return Reliability(empty, empty, np.zeros(0, np.int64), math.nan)
    edges = np.sort(confidence)[np.arange(1, bins) * len(confidence) // bins]
    place = np.searchsorted(edges, confidence, side="right")
    count = np.bincount(place, minlength=bins)
    used = count > 0
    mean = np.bincount(place, confidence, bins)[used] / count[used]
    accuracy = np.bincount(place, right, bins)[used] / count[used]
    error = float(np.abs(accuracy - mean) @ count[used] / count.sum())
    return Reliability(mean, accuracy, count[used].astype(np.int64), error)
