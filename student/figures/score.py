"""Scores of students, baselines and teacher, and their differences, as in metrics.json."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ...pipeline.datasets.columns.aggregate import BY_MEAN, PatientRule
from ...pipeline.datasets.columns.dataset import Task
from ...pipeline.metrics import (
    Difference,
    McNemar,
    Resamples,
    bootstrap,
    by_domain,
    by_rarity,
    class_counts,
    compare,
    mcnemar,
    mean_measures,
    measure,
    or_none,
    rests_on,
)
from ..targets.load import Targets
from .patients import measure_patients, several_images

__all__ = ["PAIRS", "Compared", "Scored", "compare_arms", "figures", "intervals_as_json"]

# Which arms are compared, the first minus the second.
PAIRS = (("student", "baseline"), ("student", "teacher"), ("teacher", "baseline"))

Logits = Sequence[npt.NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Scored:
    """One arm on one split: the logits of each seed, the labels, mean figures as JSON, the resamples of that mean.

    Attributes
    ----------
    patients : resamples of the answers for patients, where they are known
    """

    logits: Logits
    label: npt.NDArray[Any]
    figures: Mapping[str, Any]
    resamples: Resamples
    patients: Resamples | None = None


def figures(
    logits: Logits, split: str, targets: Targets, *, at_sensitivity: float, rule: PatientRule = BY_MEAN, seed: int = 0
) -> Scored:
    """Measure an arm: means over seeds, 95 % intervals (over patients where they are known,
    copies of an image together), undefined figures None.

    Parameters
    ----------
    logits : (N, C) of each seed; the teacher has one
    rule : how images make a patient
    seed : of the resamples; arms that are compared must share it
    """
    part, task, classes = targets.splits[split], targets.task, targets.classes
    units, ordinal = part.units, rule.ordinal
    drawing: dict[str, Any] = {"seed": seed, "ordinal": ordinal}
    resamples = Resamples.mean([bootstrap(one, part.label, task, groups=units, **drawing) for one in logits])
    each = [measure(one, part.label, task, classes, at_sensitivity=at_sensitivity, ordinal=ordinal) for one in logits]
    found = mean_measures(each)
    found["ci95"] = intervals_as_json(resamples)
    found["rests_on"] = rests_on(part.label, task, units)
    if len(each) > 1:
        found["spread"] = {name: _deviation([one[name] for one in each]) for name in resamples.values}
    domains = [
        by_domain(one, part.label, part.domain, targets.domains, task, classes, ordinal=ordinal) for one in logits
    ]
    found["domains"] = mean_measures(domains)
    for code, name in enumerate(targets.domains):
        if name in found["domains"]:
            rows = part.domain == code
            drawn = [bootstrap(one[rows], part.label[rows], task, groups=units[rows], **drawing) for one in logits]
            found["domains"][name]["ci95"] = intervals_as_json(Resamples.mean(drawn))
    train = targets.splits["train"].label
    found["rarity"] = by_rarity(found["classes"], class_counts(train, task, classes))
    patients = None
    if several_images(units, part.group):
        found["patients"], patients = measure_patients(
            logits, part.label, units, task, classes, rule, at_sensitivity=at_sensitivity, seed=seed
        )
    return Scored(logits, part.label, found, resamples, patients)


@dataclass(frozen=True)
class Compared:
    """Two arms on the same rows: differences by statistic, of images and of patients, and McNemar's test."""

    differences: Mapping[str, Difference]
    mcnemar: McNemar
    patients: Mapping[str, Difference] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return them as metrics.json has them."""
        found: dict[str, Any] = {name: one.to_dict() for name, one in self.differences.items()}
        found["mcnemar"] = self.mcnemar.to_dict()
        if self.patients is not None:
            found["patients"] = {name: one.to_dict() for name, one in self.patients.items()}
        return found


def compare_arms(arms: Mapping[str, Scored], task: Task) -> dict[str, Compared]:
    """Compare every pair of existing arms: ``student_minus_baseline`` and so on."""
    return {
        f"{one}_minus_{other}": _compare(arms[one], arms[other], task)
        for one, other in PAIRS
        if one in arms and other in arms
    }


def _compare(first: Scored, second: Scored, task: Task) -> Compared:
    differences = compare(first.resamples, second.resamples, (first.figures, second.figures))
    patients = None
    if first.patients is not None and second.patients is not None:
        each = (first.figures["patients"], second.figures["patients"])
        patients = compare(first.patients, second.patients, each)
    return Compared(differences, mcnemar(first.logits, second.logits, first.label, task), patients)


def intervals_as_json(resamples: Resamples) -> dict[str, list[float | None]]:
    """Return the 95 % interval of each statistic; undefined ends are None."""
    return {name: [or_none(value) for value in pair] for name, pair in resamples.intervals().items()}


def _deviation(values: Sequence[float | None]) -> float | None:
    """Return the standard deviation over seeds."""
    given = [value for value in values if value is not None]
    return statistics.stdev(given) if len(given) > 1 else None
