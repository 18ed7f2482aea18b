"""Metrics, the room's door: scores, calibration and intervals, for the probe and for the student alike."""

from __future__ import annotations

from .bootstrap import STATISTICS, Resamples, bootstrap, rests_on
from .calibration import Reliability, fit_temperature, reliability
from .curves import Band, ClassCurves, class_curves, macro_curves
from .measures import brier, by_domain, by_rarity, class_counts, mean_measures, measure
from .paired import Difference, McNemar, compare, mcnemar
from .scores import Scores, auroc, confusion_matrix, known, log_loss, one_against_rest, or_none, probabilities, score

__all__ = [
    "STATISTICS",
    "Band",
    "ClassCurves",
    "Difference",
    "McNemar",
    "Reliability",
    "Resamples",
    "Scores",
    "auroc",
    "bootstrap",
    "brier",
    "by_domain",
    "by_rarity",
    "class_counts",
    "class_curves",
    "compare",
    "confusion_matrix",
    "fit_temperature",
    "known",
    "log_loss",
    "macro_curves",
    "mcnemar",
    "mean_measures",
    "measure",
    "one_against_rest",
    "or_none",
    "probabilities",
    "reliability",
    "rests_on",
    "score",
]
