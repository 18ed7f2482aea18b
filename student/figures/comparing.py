"""Compares runs, from their recorded predictions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...cache.errors import StudentError
from ...cache.progress import Tell
from ...pipeline.datasets.columns.aggregate import BY_MEAN, Aggregate, PatientRule
from ...pipeline.datasets.columns.dataset import Task
from ...pipeline.datasets.columns.units import find_units
from ...pipeline.metrics import (
    Difference,
    McNemar,
    Resamples,
    bootstrap,
    compare,
    mcnemar,
    mean_measures,
    measure,
    rests_on,
)
from ..run import folder
from ..run.predictions import Predictions, read_predictions
from .patients import measure_patients, several_images
from .verdict import caution, name_figure

__all__ = ["Comparison", "compare_runs"]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Runs on the same images; the others are compared with the first.

    Attributes
    ----------
    names : of the runs, as they were given
    seeds : number of members of each
    images : rows that were compared
    tied : some of them are of one patient, or copies, which McNemar's test does not know
    figures : of each run, means over its seeds, with intervals
    differences : of each run but the first: it minus the first one, by statistic
    mcnemar : likewise, between the seed ensembles; `only_first` is what the later run alone decides rightly
    patients : of each run but the first: it minus the first one, by patient; empty where patients are not known
    """

    split: str
    names: tuple[str, ...]
    seeds: tuple[int, ...]
    images: int
    tied: bool
    figures: tuple[Mapping[str, Any], ...]
    differences: tuple[Mapping[str, Difference], ...]
    mcnemar: tuple[McNemar, ...]
    patients: tuple[Mapping[str, Difference], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison for JSON."""
        runs = [
            {"run": name, "seeds": seeds, **figures}
            for name, seeds, figures in zip(self.names, self.seeds, self.figures, strict=True)
        ]
        differences = [
            {
                "run": name,
                "minus": self.names[0],
                **{statistic: one.to_dict() for statistic, one in found.items()},
                "mcnemar": test.to_dict(),
            }
            for name, found, test in zip(self.names[1:], self.differences, self.mcnemar, strict=True)
        ]
        for found, by_patient in zip(differences, self.patients, strict=False):
            found["patients"] = {statistic: one.to_dict() for statistic, one in by_patient.items()}
        return {"split": self.split, "images": self.images, "runs": runs, "differences": differences}

    def sentences(self) -> list[str]:
        """Describe each difference in a sentence."""
        first, said = self.names[0], []
        for name, found, test in zip(self.names[1:], self.differences, self.mcnemar, strict=True):
            outcome = next((one for one in ("auroc", "accuracy") if one in found), None)
            if outcome is None:
                said.append(f"'{name}' and '{first}' cannot be compared: AUROC and accuracy are undefined.")
                continue
            one = found[outcome]
            verb = "is better than" if one.above else "is worse than" if one.below else "cannot be distinguished from"
            said.append(
                f"'{name}' {verb} '{first}': {self.split} {name_figure(outcome)} {one.value:+.4f} (95 % "
                f"{one.interval[0]:+.4f} to {one.interval[1]:+.4f}), {self.images} images. Where only one of the two "
                f"is right, '{name}' is right {test.only_first} times and '{first}' {test.only_second} times (McNemar "
                f"p = {test.p:.3f}{', which treats images of one patient as independent' if self.tied else ''})."
            )
        return [*said, *self._by_patient()]

    def _by_patient(self) -> list[str]:
        said = []
        for name, found, figures in zip(self.names[1:], self.patients, self.figures[1:], strict=False):
            for outcome in [one for one in ("auroc", "accuracy") if one in found][:1]:
                one, of = found[outcome], figures["patients"]
                verb = (
                    "is better than" if one.above else "is worse than" if one.below else "cannot be distinguished from"
                )
                said.append(
                    f"By patient ({of['aggregate']} of probabilities, {of['n']} patients) '{name}' {verb} "
                    f"'{self.names[0]}': {name_figure(outcome)} {one.value:+.4f} (95 % {one.interval[0]:+.4f} to "
                    f"{one.interval[1]:+.4f})."
                )
        return said


@dataclass(frozen=True)
class _Run:
    """One run's members on one split, their rows in order of key and label; `key_check` as the run's cache has it."""

    name: str
    task: Task
    classes: tuple[str, ...]
    key: npt.NDArray[np.uint8]
    label: npt.NDArray[Any]
    group: npt.NDArray[np.int64] | None
    logits: tuple[npt.NDArray[np.float32], ...]
    key_check: str | None = None
    rule: PatientRule = BY_MEAN


def compare_runs(
    places: Sequence[Path], split: str, tell: Tell, *, aggregate: Aggregate | None = None, finding: Sequence[str] = ()
) -> Comparison:
    """Compare finished runs with the first one, by their recorded predictions on the same images.

    Parameters
    ----------
    places : run folders, or those of members inside one
    split : ``test`` or ``val``
    tell : called with warnings
    aggregate, finding : how images make a patient; None, or nothing = as the first run has it

    Raises
    ------
    StudentError
        One is no finished run, or they are not of the same images, labels and classes.
    """
    runs = [_read_compared(place, split) for place in places]
    first = runs[0]
    for other in runs[1:]:
        _check_same(first, other, split)
    if first.group is None:
        tell("these runs do not know patients: intervals treat images as independent")
    units = find_units(first.key, first.group)
    if said := caution(rests_on(first.label, first.task, units)):
        tell(said)
    grades = first.rule.ordinal
    resamples = [
        Resamples.mean([bootstrap(one, run.label, run.task, groups=units, ordinal=grades) for one in run.logits])
        for run in runs
    ]
    figures = []
    for run, drawn in zip(runs, resamples, strict=True):
        found = mean_measures([measure(one, run.label, run.task, run.classes, ordinal=grades) for one in run.logits])
        figures.append(found | {"ci95": drawn.intervals()})
    drawn_patients = []
    if several_images(units, first.group):
        rule = PatientRule(aggregate or first.rule.aggregate, tuple(finding) or first.rule.finding, grades)
        for run, found in zip(runs, figures, strict=True):
            found["patients"], drawn = measure_patients(run.logits, run.label, units, run.task, run.classes, rule)
            drawn_patients.append(drawn)
    return Comparison(
        split=split,
        names=tuple(run.name for run in runs),
        seeds=tuple(len(run.logits) for run in runs),
        images=int(figures[0]["n"]),
        tied=len(np.unique(units)) < len(units),
        figures=tuple(figures),
        differences=tuple(
            compare(drawn, resamples[0], (found, figures[0]))
            for drawn, found in zip(resamples[1:], figures[1:], strict=True)
        ),
        mcnemar=tuple(mcnemar(run.logits, first.logits, first.label, first.task) for run in runs[1:]),
        patients=tuple(
            compare(drawn, drawn_patients[0], (found["patients"], figures[0]["patients"]))
            for drawn, found in zip(drawn_patients[1:], figures[1:], strict=False)
        ),
    )


def _read_compared(place: Path, split: str) -> _Run:
    described = folder.find_description(place)
    if described is not None and not (place / folder.PREDICTIONS).is_file():
        domains = sorted(part.name for part in place.glob("domain-*"))
        if domains:
            raise StudentError(
                f"'{place}' has one student for each of {len(domains)} domains held out, and each has its own test "
                f"images; compare domain by domain, for instance '{place / domains[0]}'."
            )
    if described is None or not (place / folder.PREDICTIONS).is_file():
        raise StudentError(
            f"'{place}' is not a finished run; give a folder that `medal train-student` made, or its "
            f"'{folder.BASELINE}'."
        )
    members = [place, *sorted(path for path in place.glob("seed-*") if (path / folder.PREDICTIONS).is_file())]
    parts = [read_predictions(member).get(split) for member in members]
    try:
        record = json.loads(described.read_text(encoding="utf-8"))
        task, classes = record["task"], tuple(map(str, record["classes"]))
        key_check = record.get("cache", {}).get("key_check")
        request = record.get("request", {})
        grades = bool(request.get("ordinal", False))
        rule = PatientRule(request.get("aggregate", "mean"), tuple(request.get("finding", ())), grades)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StudentError(f"'{described}' cannot be read: {error}. Train it again.") from error
    ordered = [_in_order(part) for part in parts if part is not None]
    if len(ordered) < len(members):
        raise StudentError(f"'{place}' has no predictions on '{split}'; give --split val, or runs that have them.")
    first = ordered[0]
    if any(not np.array_equal(first.key, other.key) for other in ordered[1:]):
        raise StudentError(f"The seeds of '{place}' have predictions of different images; train it again.")
    logits = tuple(part.logits for part in ordered)
    return _Run(str(place), task, classes, first.key, first.label, first.group, logits, key_check, rule)


def _in_order(part: Predictions) -> Predictions:
    """Return predictions in ascending (key, label), the same for every run."""
    labels = part.label.reshape(len(part.label), -1)
    order = np.lexsort((*labels.T[::-1], *part.key.T[::-1]))
    group = None if part.group is None else part.group[order]
    return Predictions(part.key[order], part.label[order], part.logits[order], group)


def _check_same(first: _Run, other: _Run, split: str) -> None:
    pair = f"'{first.name}' and '{other.name}'"
    if (first.task, first.classes) != (other.task, other.classes):
        raise StudentError(
            f"{pair} cannot be compared: their classes are {', '.join(first.classes)} and {', '.join(other.classes)}; "
            "give runs of the same dataset."
        )
    if first.key_check != other.key_check:
        raise StudentError(
            f"{pair} cannot be compared: their image keys were made with different secrets, or one of them without a "
            "secret, so shared images cannot be found. Give runs of caches with one --key-secret."
        )
    one, two = ({bytes(key) for key in run.key} for run in (first, other))
    if len(first.key) != len(other.key) or not np.array_equal(first.key, other.key):
        raise StudentError(
            f"{pair} cannot be compared: they have {len(first.key)} and {len(other.key)} {split} images, and share "
            f"{len(one & two)}. Give runs with the same test set."
        )
    if not np.array_equal(first.label, other.label):
        raise StudentError(
            f"{pair} cannot be compared: {int((first.label != other.label).sum())} labels of the same images differ; "
            "give runs that were trained on one version of the dataset."
        )
