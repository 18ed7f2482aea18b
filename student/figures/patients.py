"""Figures of patients beside those of images, and the sentences about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ...pipeline.datasets.columns.aggregate import PatientRule
from ...pipeline.datasets.columns.dataset import Task
from ...pipeline.metrics import Difference, Resamples, bootstrap, by_patient, mean_measures, measure, or_none, rests_on
from .verdict import name_figure

__all__ = ["measure_patients", "say_patients", "several_images"]


def several_images(units: npt.NDArray[Any], group: npt.NDArray[Any] | None) -> bool:
    """Tell whether any known patient has several images."""
    return group is not None and bool((group >= 0).any()) and len(np.unique(units)) < len(units)


def measure_patients(
    logits: Sequence[npt.NDArray[Any]],
    label: npt.NDArray[Any],
    units: npt.NDArray[Any],
    task: Task,
    classes: Sequence[str],
    rule: PatientRule,
    *,
    at_sensitivity: float = 0.95,
    seed: int = 0,
) -> tuple[dict[str, Any], Resamples]:
    """Measure the answers for patients: means over seeds, intervals over patients, undefined figures None.

    Parameters
    ----------
    logits : (N, C) of each seed
    units : (N,) patient of each row
    """
    each = [by_patient(one, label, units, task, classes, rule) for one in logits]
    truth = each[0].label
    grades = rule.ordinal
    found = mean_measures(
        [measure(one.logits, truth, task, classes, at_sensitivity=at_sensitivity, ordinal=grades) for one in each]
    )
    resamples = Resamples.mean([bootstrap(one.logits, truth, task, seed=seed, ordinal=grades) for one in each])
    found["ci95"] = {name: [or_none(end) for end in pair] for name, pair in resamples.intervals().items()}
    found["rests_on"] = rests_on(truth, task)
    return found | {"aggregate": rule.aggregate, "mixed": each[0].mixed}, resamples


def say_patients(figures: Mapping[str, Any], less: Mapping[str, Difference] | None = None) -> str:
    """Return the verdict's sentence on patients; empty if patients are not known.

    Parameters
    ----------
    figures : an arm's figures, as in metrics.json
    less : the student minus the labels alone, by patient
    """
    found = figures.get("patients")
    if found is None:
        return ""
    mixed = (
        f"; {found['mixed']} more patients have images of several classes and count as unlabelled"
        if found["mixed"]
        else ""
    )
    basis = f"{found['aggregate']} of probabilities, {found['n']} patients{mixed}"
    said = f"These figures count images. By patient ({basis})"
    if found["auroc"] is None:
        return f"{said} the AUROC is undefined{_remedy(found)}."
    low, high = found["ci95"]["auroc"]
    said += f" the student reaches AUROC {found['auroc']:.3f} (95 % {low:.3f} to {high:.3f})"
    name = next((name for name in ("auroc", "accuracy") if name in (less or {})), None)
    if name is None or less is None:
        return f"{said}."
    one = less[name]
    ahead = (
        "significantly better than"
        if one.above
        else "significantly worse than"
        if one.below
        else "not significantly different from"
    )
    return (
        f"{said}, {ahead} the labels alone ({name_figure(name)} {one.value:+.4f}, 95 % {one.interval[0]:+.4f} to "
        f"{one.interval[1]:+.4f})."
    )


def _remedy(found: Mapping[str, Any]) -> str:
    return "; with --finding CLASS a patient has that class if one image has it" if found["mixed"] else ""
