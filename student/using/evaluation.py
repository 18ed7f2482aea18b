"""Measures a student on a dataset: another split of its own, or a test set from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...cache.errors import DataError
from ...cache.join import image_members
from ...cache.keys import match_secret
from ...cache.machine.drafts import drafted
from ...pipeline.datasets.columns.aggregate import BY_MEAN, PatientRule
from ...pipeline.datasets.columns.dataset import SPLITS, Dataset, DatasetOptions
from ...pipeline.datasets.columns.reading import as_run_read
from ...pipeline.datasets.columns.units import find_units
from ...pipeline.datasets.opening import dataset_kind, open_dataset
from ...pipeline.metrics import bootstrap, known, measure, or_none, reliability, rests_on
from ..figures.patients import measure_patients, several_images
from ..figures.temperature import describe_temperature
from ..figures.verdict import caution
from ..network.images import StudentImages, load_images
from ..run.predictions import Predictions, write_predictions
from .trained import Trained

__all__ = ["Chosen", "answer_rows", "choose_rows", "evaluate", "open_for"]

ALL = "all"


@dataclass(frozen=True, eq=False)
class Chosen:
    """Rows of a dataset that a student is measured on, in the order of a run's predictions.

    Attributes
    ----------
    split : what the rows are: a split, or ``all``
    rows : (N,) int64
    key : (N, 16) uint8
    seen : number of rows whose image the run used to choose its epoch
    """

    split: str
    rows: npt.NDArray[np.int64]
    key: npt.NDArray[np.uint8]
    seen: int


def open_for(trained: Trained, spec: str, options: DatasetOptions) -> Dataset:
    """Open a dataset with the classes of a run, its images read as in training.

    Raises
    ------
    DataError
        It cannot be read, has classes that the student does not know, or is of another task.
    CacheMismatch
        The run's keys are keyed, and the secret is missing or another one.
    """
    check = trained.description.get("cache", {}).get("key_check")
    options = replace(options, key_secret=match_secret(options.key_secret, check, f"run '{trained.run}'"))
    options = _as_trained(trained, spec, options)
    try:
        dataset = open_dataset(spec, options, trained.classes)
    except DataError as error:
        # The one sentence is the same for whoever brings the classes.
        raise DataError(str(error).replace("of the cache", "of the run")) from error
    if dataset.task != trained.task:
        raise DataError(
            f"Dataset '{spec}' is {dataset.task} and the run '{trained.run}' is {trained.task}; give the label "
            "columns that it was trained with."
        )
    return dataset


def _as_trained(trained: Trained, spec: str, options: DatasetOptions) -> DatasetOptions:
    kind = dataset_kind(spec)
    reading = trained.description.get("request", {}).get("reading", {})
    options = as_run_read(options, reading, kind, trained.task, trained.classes)
    options = replace(options, several_labels=trained.task == "multilabel")
    if options.intensity == DatasetOptions.intensity and options.window is None:
        window = trained.options.window if kind in ("table", "folder", "npz", "hdf5") else None
        options = replace(options, intensity=trained.options.intensity, window=window)
    return options


def choose_rows(
    trained: Trained, dataset: Dataset, split: str | None, key: npt.NDArray[np.uint8] | None = None
) -> Chosen:
    """Choose what to measure a student on.

    A split is the dataset's own; where it has none of that name, the images that the run recorded for it, since stage
    one drew them. Without a split asked for that is test, or all rows of a dataset that has no splits and no image of
    the run's.

    Parameters
    ----------
    split : ``train``, ``val``, ``test``, ``all``, or None
    key : (N, 16) the dataset's keys, where they are at hand; None = one pass over its bytes

    Raises
    ------
    DataError
        Images cannot be read, there are no such rows, or it cannot be told which rows the student was not trained on.
    """
    key = dataset.keys() if key is None else key
    recorded = {name: image_members(key, part.key) for name, part in trained.recorded.items()}
    own = {name: np.zeros(len(dataset), bool) for name in SPLITS}
    if dataset.split is not None:
        own = {name: dataset.split == number for number, name in enumerate(SPLITS)}
    drawn = not any(part.any() for part in own.values()) and any(part.any() for part in recorded.values())
    divided = drawn or any(part.any() for part in own.values())
    name = split or ("test" if divided else ALL)
    if name == ALL:
        chosen = np.ones(len(dataset), bool)
    else:
        chosen = own[name] if own[name].any() else recorded.get(name, np.zeros(len(dataset), bool))
    if not chosen.any():
        has = [one for one in SPLITS if own[one].any() or recorded.get(one, np.zeros(1, bool)).any()]
        raise DataError(
            f"Dataset '{dataset.name}' has no rows in '{name}'; it has {', '.join(has) or 'no splits'}: give "
            f"{' or '.join(f'--split {one}' for one in [*has, ALL])}."
        )
    rows = np.flatnonzero(chosen)
    label = dataset.label[rows].reshape(len(rows), -1)
    order = np.lexsort((*label.T[::-1], *key[rows].T[::-1]))
    val = recorded.get("val")
    return Chosen(name, rows[order], key[rows[order]], 0 if val is None else int(val[rows].sum()))


def answer_rows(
    trained: Trained, dataset: Dataset, rows: npt.NDArray[np.int64], workers: int | None = None
) -> npt.NDArray[np.float32]:
    """Return the student's logits (N, C) float32 of some rows of a dataset."""
    images = StudentImages(dataset.images, trained.preprocessing.image_size, trained.preprocessing.resize)
    with load_images(images, {"asked": rows}, workers) as sources:
        return trained.answer(sources["asked"], len(rows))


def evaluate(
    trained: Trained,
    dataset: Dataset,
    chosen: Chosen,
    *,
    rule: PatientRule = BY_MEAN,
    out: Path | None = None,
    workers: int | None = None,
) -> dict[str, Any]:
    """Measure a student as train-student does, and by domain where there are domains.

    Parameters
    ----------
    rule : how images make a patient, where patients are known
    out : where to write the predictions, in the form of a run's

    Returns
    -------
    JSON without NaN: split, images, the student's figures, domains, temperature, warnings
    """
    logits = answer_rows(trained, dataset, chosen.rows, workers)
    label, group, domain = dataset.label[chosen.rows], dataset.group[chosen.rows], dataset.domain[chosen.rows]
    if out is not None:
        with drafted(out) as draft:
            write_predictions(draft, {chosen.split: Predictions(chosen.key, label, logits)}, trained.classes)
    units = find_units(chosen.key, group)
    domains = {}
    for number, name in enumerate(dataset.domains):
        rows = domain == number
        if rows.any():
            domains[name] = _measure_part(trained, logits[rows], label[rows], units[rows], ordinal=rule.ordinal)
    student = _measure_part(trained, logits, label, units, ordinal=rule.ordinal)
    if several_images(units, group):
        student["patients"], _ = measure_patients([logits], label, units, trained.task, trained.classes, rule)
    return {
        "split": chosen.split,
        "images": len(chosen.rows),
        "student": student,
        "domains": domains,
        "temperature": describe_temperature(trained.temperature),
        "warnings": _warnings(trained, dataset, chosen, label, units),
    }


def _measure_part(
    trained: Trained,
    logits: npt.NDArray[np.float32],
    label: npt.NDArray[Any],
    units: npt.NDArray[np.int64],
    *,
    ordinal: bool,
) -> dict[str, Any]:
    """Return scores, 95 % intervals (over patients, if known) and calibration errors; undefined ones None."""
    task = trained.task
    # As the training measured it.
    at = float(trained.description.get("request", {}).get("at_sensitivity", 0.95))
    found = measure(logits, label, task, trained.classes, at_sensitivity=at, ordinal=ordinal)
    intervals = bootstrap(logits, label, task, groups=units, ordinal=ordinal).intervals()
    found["ci95"] = {name: [or_none(value) for value in pair] for name, pair in intervals.items()}
    found["rests_on"] = rests_on(label, task, units)
    calibrated = reliability(logits, label, task, temperature=trained.temperature.value)
    found["calibration_error_calibrated"] = or_none(calibrated.error)
    return found


def _warnings(
    trained: Trained, dataset: Dataset, chosen: Chosen, label: npt.NDArray[Any], units: npt.NDArray[np.int64]
) -> list[str]:
    found = []
    if chosen.seen:
        found.append(
            f"{chosen.seen} of {len(chosen.rows)} images are in val of the run, which chose its epoch and "
            "temperature: the figures are optimistic"
        )
    trained_on: Mapping[str, Any] = trained.description.get("cache", {})
    if chosen.split in ("train", ALL) and trained_on.get("dataset") == dataset.name:
        found.append(f"the student was trained on '{dataset.name}': these figures only show how well it remembers")
    labelled = int(known(label, trained.task).reshape(len(label), -1).any(1).sum())
    if labelled < len(label):
        found.append(f"{len(label) - labelled} of {len(label)} images have no label and are not counted")
    if trained.temperature.images and trained.temperature.warning:
        found.append(trained.temperature.warning)
    if said := caution(rests_on(label, trained.task, units)):
        found.append(said)
    return found
