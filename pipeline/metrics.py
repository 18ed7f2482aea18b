"""Metrics, the room's door: scores, calibration and intervals, for the probe and for the student alike."""

from __future__ import annotations

from .bootstrap import Resamples, bootstrap
from .calibration import Reliability, fit_temperature, reliability
from .scores import Scores, auroc, confusion_matrix, known, log_loss, probabilities, score

__all__ = [
    "Reliability",
    "Resamples",
    "Scores",
    "auroc",
    "bootstrap",
    "confusion_matrix",
    "fit_temperature",
    "known",
    "log_loss",
    "probabilities",
    "reliability",
    "score",
]
