"""Public names of the metrics: scores, calibration and intervals, for probe and student alike."""

from __future__ import annotations

from .bootstrap import FEW_OF_A_CLASS, FEW_UNITS, STATISTICS, Resamples, bootstrap, rests_on
from .calibration import Reliability, reliability
from .curves import Band, ClassCurves, class_curves, macro_curves
from .grades import GRADE_FIGURES, check_grades, measure_grades
from .measures import brier, by_domain, by_rarity, class_counts, mean_measures, measure
from .paired import Difference, McNemar, compare, mcnemar
from .patients import Patients, by_patient, pool
from .scores import Scores, auroc, confusion_matrix, known, log_loss, one_against_rest, or_none, probabilities, score
from .temperature import Temperature, fit_temperature

__all__ = [
    "FEW_OF_A_CLASS",
    "FEW_UNITS",
    "GRADE_FIGURES",
    "STATISTICS",
    "Band",
    "ClassCurves",
    "Difference",
    "McNemar",
    "Patients",
    "Reliability",
    "Resamples",
    "Scores",
    "Temperature",
    "auroc",
    "bootstrap",
    "brier",
    "by_domain",
    "by_patient",
    "by_rarity",
    "check_grades",
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
    "measure_grades",
    "one_against_rest",
    "or_none",
    "pool",
    "probabilities",
    "reliability",
    "rests_on",
    "score",
]
