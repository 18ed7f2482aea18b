"""What is said of a training before it starts: what is left out or not known, how long it lasts, how often."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...cache.text import plural, quoted
from .plan import Asked

__all__ = ["describe_passes", "describe_times", "list_warnings"]


def list_warnings(asked: Asked) -> tuple[str, ...]:
    """Return what the user should know before the training starts."""
    fit = asked.targets.fit
    found = []
    if fit["missing"]:
        found.append(f"{fit['missing']} images of the dataset are not in the cache and are left out")
    if fit["skipped"]:
        found.append(f"{fit['skipped']} images are left out: the cache was made without them, as they were bad")
    if fit["extra"]:
        found.append(f"{fit['extra']} images of the cache are not in the dataset and are left out")
    if fit["moved"]:
        found.append(f"{fit['moved']} images stand in another split here than in the cache, whose splits count")
    if "labelled" in fit:
        known, rows = fit["labelled"], asked.rows["train"]
        found.append(f"student and probe know the labels of {known} of {rows} train images and of no others there")
    if asked.held_out:
        found += _not_learned(asked)
    found += _tell_unlabelled(fit)
    if fit["disagree"]:
        found.append(f"{fit['disagree']} labels disagree; those of the {asked.settings.labels} count")
    if asked.cache.manifest.dataset.get("contrast"):
        found.append(
            "the images came out nearly as one grey when the cache was made, as it says: what the teacher answers may "
            "rest on next to nothing"
        )
    if "test" not in asked.targets.splits and not asked.held_out:
        found.append("there is no test split: the figures are those on val, which also chose the epoch")
    return (*found, *(() if asked.held_out else _absent(asked)))


def _absent(asked: Asked) -> list[str]:
    """Name the classes that a split lacks."""
    found = []
    for name, part in asked.targets.splits.items():
        codes = np.arange(len(asked.targets.classes))
        has = np.isin(codes, part.label) if part.label.ndim == 1 else (part.label == 1).any(0)
        absent = [one for one, there in zip(asked.targets.classes, has, strict=True) if not there]
        if absent:
            so = "which the student cannot learn" if name == "train" else "left out of its means"
            found.append(f"{name} has no image that is known to be {quoted(absent, 5)}, {so}")
    return found


def _not_learned(asked: Asked) -> list[str]:
    """Say what is left out with a domain that is held out, or with any."""
    unknown = sum(int((asked.targets.splits[name].domain < 0).sum()) for name in ("train", "val"))
    found = [
        f"without '{one.name}', {one.tied} images of its patients, or copies of its images, are left out as well"
        for one in asked.held_out
        if one.tied
    ]
    if unknown:
        found.append(f"{unknown} images of no known domain are left out: they may be of the one that is held out")
    return found


def describe_passes(asked: Asked) -> str:
    """Say how often one student sees how many images, or one for each domain held out."""
    if not asked.held_out:
        return f"{asked.epochs} {plural(asked.epochs, 'epoch')} of {asked.rows['train']} images"
    each = [f"{one.epochs} of {one.rows['train']} images without '{one.name}'" for one in asked.held_out]
    return f"epochs: {', '.join(each)}"


def describe_times(asked: Asked) -> str:
    """Say how often that is gone through: for each of several students, for each domain, for the choice of alpha."""
    settings = asked.settings
    members = settings.seeds * (1 + settings.baseline)
    return (
        (f" each of {members} students" if members > 1 else "")
        + (f", the {len(asked.held_out)} domains held out together" if asked.held_out else "")
        + (", and once more for the choice of alpha" if settings.alpha == "auto" else "")
    )


def _tell_unlabelled(fit: Mapping[str, int]) -> list[str]:
    told = {
        "unlabelled": "unlabelled images join train, where they learn from the teacher alone",
        "unlabelled_in_val_or_test": "unlabelled images are left out, as they stand in val or test too",
        "unlabelled_in_train": "unlabelled images are left out, as they stand in train already",
    }
    return [f"{fit[name]} {text}" for name, text in told.items() if fit.get(name, 0)]
